//! An Akène machine's own disks: the table stays, the boot partition and people's files are kept, the rest
//! is formatted where it lies. Nothing kept is moved or shrunk, because nothing is moved at all. What has no
//! partition yet is placed in free room beside it or on blank disks.

mod find;
pub(crate) mod second;
mod work;

use akene_protocol::Bytes;
use akene_protocol::inventory::{Disk, Inventory, LooksLike, Partition, Table, VolumeGroup};
use akene_protocol::issue::Issue;
use akene_protocol::profile::{Filesystem, Foreign};
use akene_protocol::resolve::{StorageWishes, VolumeWish};

use self::work::{Before, Work};
use crate::arrangement::Arrangement;
use crate::ground::{self, Site};
use crate::homes::is_home;
use crate::lay::{group_name, role};
use crate::recognise::{filesystem_found, holds_files, is_boot, named_for_files};
use crate::{Action, Destroyed, PartitionPlan, Role, words};

/// Whether a disk is an Akène machine's boot disk.
pub(crate) fn is_boot_disk(disk: &Disk) -> bool {
    disk.table.as_ref().is_some_and(|t| t.partitions.iter().any(is_boot))
}

/// The arrangement in which the disk `at` of `disks` keeps its table. `None`: it is not an Akène machine's boot
/// disk, or it does not serve and nothing on it would have to be kept.
///
/// # Errors
/// It holds people's files, but its table does not serve the profile.
pub(crate) fn existing<'a>(
    at: usize,
    disks: &[&'a Disk],
    wishes: &'a StorageWishes,
    inventory: &'a Inventory,
) -> Option<Result<Arrangement<'a>, Issue>> {
    let disk = disks[at];
    let table = disk.table.as_ref().filter(|t| t.partitions.iter().any(is_boot))?;
    match serve(at, table, disks, wishes, inventory, false) {
        Ok(arrangement) => Some(Ok(arrangement)),
        Err(reasons) => blocked(at, disks, wishes, inventory, &reasons.join("; ")).map(Err),
    }
}

/// The same with the new root beside the one that is there, which stays. `None`: it is not wanted, or there is no system
/// that could come back, whole as it was.
pub(crate) fn beside<'a>(
    at: usize,
    disks: &[&'a Disk],
    wishes: &'a StorageWishes,
    inventory: &'a Inventory,
) -> Option<Arrangement<'a>> {
    let table = disks[at].table.as_ref().filter(|_| wishes.spare.is_some())?;
    serve(at, table, disks, wishes, inventory, true).ok()
}

/// The refusal to install around people's files that an Akène machine has on its boot disk `at`, or under our names on
/// others. `None`: there are none.
pub(crate) fn blocked(
    at: usize,
    disks: &[&Disk],
    wishes: &StorageWishes,
    inventory: &Inventory,
    reasons: &str,
) -> Option<Issue> {
    if !wishes.keep_homes {
        return None;
    }
    let on = |g: usize, fits: &dyn Fn(&Partition) -> bool| {
        let table = disks[g].table.iter();
        table.flat_map(|t| &t.partitions).find(|p| fits(p)).map(|p| (disks[g], p.clone()))
    };
    let names: Vec<String> = wishes.volumes.iter().filter(|v| v.user_data).map(group_name).collect();
    let groups = || inventory.volume_groups.iter().filter(|g| names.contains(&g.name));
    let on_group = |group: &VolumeGroup| {
        Issue::new(
            "kept-data-in-the-way",
            &group.name,
            format!(
                "the volume group {} holds people's files, which are always kept, but: {reasons}",
                group.name
            ),
            "put the disk back that is missing; if it is lost for good, so are these files: then clear the other disks of \
             the group with `wipefs -a`",
        )
    };
    if let Some(group) = groups().find(|g| !g.complete) {
        return Some(on_group(group));
    }
    // What has no name of ours elsewhere is kept without this machine's table, too.
    let others = (0..disks.len()).filter(|g| *g != at && !is_boot_disk(disks[*g]));
    let found = on(at, &|p| holds_files(p, wishes))
        .or_else(|| others.filter_map(|g| on(g, &|p| named_for_files(p, wishes))).next());
    let Some((disk, files)) = found else { return groups().next().map(on_group) };
    Some(Issue::new(
        "kept-data-in-the-way",
        words::partition(&disk.name, files.number),
        format!(
            "{} holds {}, which is always kept, but this profile does not fit the table around it: {reasons}",
            disk.name,
            words::partition_content(&files),
        ),
        "ask less in the profile's `storage`, or copy the files away and delete the partition",
    ))
}

fn serve<'a>(
    at: usize,
    table: &'a Table,
    disks: &[&'a Disk],
    wishes: &'a StorageWishes,
    inventory: &'a Inventory,
    beside: bool,
) -> Result<Arrangement<'a>, Vec<String>> {
    let mut work = Work {
        disks,
        at,
        wishes,
        groups_found: &inventory.volume_groups,
        fixed: vec![],
        groups: vec![],
        destroys: vec![],
        notes: vec![],
        reasons: vec![],
        volumes: vec![],
        without: vec![],
        home_in_root: false,
        root_name: None,
        before: Before::of(table),
        left_alone: find::left_alone(at, disks, wishes, &inventory.volume_groups),
    };
    work.boot_chain(table, &inventory.firmware);
    work.home_in_root = work.root_holds_home();
    for volume in &wishes.volumes {
        match is_home(volume) && work.home_in_root {
            true => continue,
            false if beside && role(volume) == Role::Root => work.beside(volume),
            false => work.volume(volume),
        }
    }
    work.spare();
    if beside {
        work.ensure_old_is_whole();
    }
    let Work {
        root_name,
        fixed,
        groups,
        mut destroys,
        mut notes,
        reasons,
        volumes,
        without,
        home_in_root,
        ..
    } = work;
    if !reasons.is_empty() {
        return Err(reasons);
    }
    if let Some(damage) = &table.damage {
        notes
            .push(format!("the partition table of {} is damaged ({damage}) but can be read", disks[at].name));
    }
    destroys.sort_by(|a, b| a.name.cmp(&b.name));
    let sites = disks
        .iter()
        .enumerate()
        .map(|(g, disk)| {
            let ours = g == at || fixed.iter().any(|(f, _)| *f == g);
            match (&disk.table, ours) {
                (Some(table), true) => ground::kept(disk, table, &|_| true),
                _ => unused_or_blank(disk, wishes),
            }
        })
        .collect();
    let (mut files, mut system) = (0, 1 << at);
    for (g, partition) in &fixed {
        match &partition.purpose {
            Role::Root | Role::Swap => system |= 1 << g,
            Role::Volume(name) | Role::Physical(name) => {
                let wish = wishes.volumes.iter().find(|v| v.name == *name || group_name(v) == *name);
                match wish.is_some_and(|w| w.user_data) {
                    true => files |= 1 << g,
                    false => system |= 1 << g,
                }
            }
            _ => {}
        }
    }
    let root = fixed.iter().filter(|(_, p)| p.purpose == Role::Root).fold(0, |all, (g, _)| all | 1 << g);
    if home_in_root {
        files |= root;
    }
    Ok(Arrangement {
        reinstall: true,
        sites,
        fixed,
        groups,
        destroys,
        notes,
        chain: false,
        volumes,
        without,
        home_in_root,
        root_name,
        fixed_files: files,
        fixed_system: system,
        fixed_root: root,
    })
}

/// Beside a system that is kept, other disks are only used when nothing is lost on them.
pub(crate) fn unused_or_blank<'a>(disk: &'a Disk, wishes: &StorageWishes) -> Site<'a> {
    let site = ground::fresh(disk, wishes);
    match (site.ground.destroys, &disk.table) {
        (false, _) => site,
        (true, Some(table)) if wishes.foreign == Foreign::Leave => ground::kept(disk, table, &|_| true),
        (true, _) => Site { free: Vec::new(), ..site },
    }
}

/// The system that goes when people's files stay in its root.
pub(crate) fn old_system(disk: &Disk, found: &Partition) -> Destroyed {
    Destroyed {
        name: words::partition(&disk.name, found.number),
        what: format!("{}: all but its /home, which stays", words::partition_content(found)),
    }
}

/// A root that is made anew around people's files in its `/home`.
///
/// # Errors
/// There is no room for a system beside them.
pub(crate) fn refresh(found: &Partition, root: &VolumeWish) -> Result<PartitionPlan, String> {
    let content = found.content.as_ref();
    let home = match content.and_then(|c| c.looks_like.as_ref()) {
        Some(LooksLike::LinuxRoot { home_used, .. }) => *home_used,
        _ => None,
    };
    let files = home.unwrap_or(Bytes(0));
    if found.size < root.min + files {
        let missing = root.min + files - found.size;
        return Err(format!(
            "/ needs {} beside {files} of people's files, and its partition has {}: {missing} are missing",
            root.min, found.size
        ));
    }
    let how_much = home.map(|h| format!(" ({h})")).unwrap_or_default();
    Ok(PartitionPlan {
        action: Action::Refresh,
        // It is given our label, by which it is found again among other systems.
        label: filesystem_found(found).and_then(|f| Role::Root.label(f)),
        ..kept(
            found,
            Role::Root,
            filesystem_found(found),
            Some("/"),
            &format!("people's files in /home{how_much} stay; everything else is made anew around them"),
        )
    })
}

fn fitting(size: Bytes, enough: Bytes) -> String {
    match size >= enough {
        true => format!("made anew where it is; all it needs ({enough})"),
        false => format!("made anew where it is; {enough} would be enough"),
    }
}

pub(crate) fn kept(
    found: &Partition,
    purpose: Role,
    filesystem: Option<Filesystem>,
    mount: Option<&str>,
    why: &str,
) -> PartitionPlan {
    PartitionPlan {
        number: found.number,
        start: found.start,
        size: found.size,
        purpose,
        name: None,
        action: Action::Keep,
        filesystem,
        label: found.content.as_ref().and_then(|c| c.label.clone()),
        mount: mount.map(str::to_owned),
        why: why.to_owned(),
    }
}
