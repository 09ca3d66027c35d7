//! People's files on disks that are no Akène machine's: kept where they are, with a new system around them.
//!
//! A `/home` of its own, on a partition or on a volume group, becomes the new system's; one that lives inside an old
//! root stays in it, and the new system is unpacked around it ([`Action::Refresh`](crate::Action::Refresh)). Everything
//! else on these disks makes room, if the permission allows it.

use std::cmp::Reverse;

use akene_protocol::Bytes;
use akene_protocol::inventory::{Content, Disk, Inventory, LooksLike, Partition, VolumeGroup};
use akene_protocol::profile::{Filesystem, Foreign};
use akene_protocol::resolve::{StorageWishes, VolumeWish};

use crate::arrangement::Arrangement;
use crate::candidates::Excluded;
use crate::lay::{group_name, role};
use crate::recognise::{
    filesystem_found, filesystem_named, home_inside, largest, named, named_for_files, partition_at, pv_name,
};
use crate::reinstall::{kept, old_system, refresh};
use crate::{Action, GroupPlan, Member, Role, ground, words};

/// Where people's files were found.
#[derive(Clone)]
enum Found<'a> {
    Partition(usize, &'a Partition),
    Group(&'a VolumeGroup, Vec<(usize, &'a Partition)>),
    InRoot(usize, &'a Partition),
}

impl Found<'_> {
    fn parts(&self) -> Vec<(usize, u32)> {
        match self {
            Found::Partition(g, p) | Found::InRoot(g, p) => vec![(*g, p.number)],
            Found::Group(_, members) => members.iter().map(|(g, p)| (*g, p.number)).collect(),
        }
    }

    /// A home of its own first, then the largest.
    fn rank(&self) -> (u8, Reverse<Bytes>) {
        match self {
            Found::Partition(_, p) => (0, largest(p)),
            Found::Group(group, _) => (1, Reverse(home_of(group).map_or(Bytes(0), |l| l.size))),
            Found::InRoot(_, p) => (2, largest(p)),
        }
    }

    /// Whether the next run would take it for a `/home` that it made.
    fn has_our_name(&self) -> bool {
        match self {
            Found::Partition(_, p) => named(p, &Role::Volume("home".into()), Filesystem::Ext4),
            Found::Group(group, _) => group.name == "akene-home",
            Found::InRoot(..) => false,
        }
    }

    fn name(&self, disks: &[&Disk]) -> String {
        match self {
            Found::Partition(g, p) | Found::InRoot(g, p) => words::partition(&disks[*g].name, p.number),
            Found::Group(group, _) => format!("{}/home", group.name),
        }
    }
}

/// Whether people's files belong on this volume.
pub(crate) fn is_home(volume: &VolumeWish) -> bool {
    volume.name == "home" && volume.user_data
}

/// Whether people's files that are kept lie in the root, because no volume is theirs.
pub(crate) fn in_root(wishes: &StorageWishes) -> bool {
    let theirs = |v: &VolumeWish| v.user_data && v.mount.as_deref() == Some("/home");
    wishes.keep_homes && !wishes.volumes.iter().any(theirs)
}

/// The volume of a group that can be kept as `/home`: only one of this name is found again by it.
pub(crate) fn home_of(group: &VolumeGroup) -> Option<&akene_protocol::inventory::LogicalVolume> {
    group.logical.iter().find(|l| l.name == "home" && l.content.as_ref().is_some_and(is_kept_home))
}

/// Whether it is people's files, on a filesystem that can be mounted as `/home`.
pub(crate) fn is_kept_home(content: &Content) -> bool {
    content.looks_like == Some(LooksLike::Home)
        && filesystem_named(&content.kind).is_some_and(|f| f != Filesystem::Vfat)
}

/// Takes those disks out that hold people's files which cannot be kept otherwise, and says why. Disks that are
/// `spared` are not judged, nor partitions that are `ours`.
pub(crate) fn set_aside(
    disks: &mut Vec<&Disk>,
    wishes: &StorageWishes,
    groups: &[VolumeGroup],
    spared: &dyn Fn(&Disk) -> bool,
    ours: &dyn Fn(&Disk, &Partition) -> bool,
) -> Vec<Excluded> {
    let mut set_aside = Vec::new();
    loop {
        let judged = disks.iter().enumerate().filter(|(_, d)| !spared(d));
        let mut reasons =
            judged.filter_map(|(at, disk)| Some((at, untouchable(disk, disks, wishes, groups, ours)?)));
        let Some((at, reason)) = reasons.next() else { return set_aside };
        // What lies on a disk that is left alone makes others that hold a part of it untouchable, too.
        disks.remove(at);
        set_aside.push(reason);
    }
}

/// Why a disk must be left alone, because people's files on it could not be kept otherwise. `disks` are all that can be
/// used: what lies on others, too, cannot be kept.
fn untouchable(
    disk: &Disk,
    disks: &[&Disk],
    wishes: &StorageWishes,
    groups: &[VolumeGroup],
    ours: &dyn Fn(&Disk, &Partition) -> bool,
) -> Option<Excluded> {
    let no = |what: String| Some(Excluded::files(disk, what));
    if let Some(content) = &disk.content {
        if files_in(content) {
            return no(words::content(Some(content), disk.size));
        }
        if content.kind == "LVM2_member"
            && let Some(what) = stuck(&disk.name, false, disks, wishes, groups)
        {
            return no(what);
        }
    }
    for partition in disk.table.iter().flat_map(|t| &t.partitions).filter(|p| !ours(disk, p)) {
        let Some(content) = &partition.content else { continue };
        if content.kind == "LVM2_member" {
            let node = words::partition(&disk.name, partition.number);
            if let Some(what) = stuck(&node, pv_name(partition), disks, wishes, groups) {
                return no(what);
            }
            continue;
        }
        let kept = is_kept_home(content) || home_inside(partition);
        if kept || content.looks_like == Some(LooksLike::Empty) {
            continue;
        }
        let what = words::partition_content(partition);
        if content.kind == "btrfs" && files_in(content) {
            return no(format!("{what}, which cannot be told apart from the system"));
        }
        if files_in(content) {
            return no(format!("{what}, which cannot be kept as /home"));
        }
        if named_for_files(partition, wishes) {
            return no(format!("{what}, which has the name of a place for people's files"));
        }
    }
    None
}

/// Whether it is people's files, on a filesystem of Linux: what other systems use goes with them.
fn files_in(content: &Content) -> bool {
    is_kept_home(content)
        || matches!(content.looks_like, Some(LooksLike::LinuxRoot { home_inside: true, .. }))
}

/// People's files on the group of a physical volume that cannot be kept with it.
fn stuck(
    node: &str,
    ours: bool,
    disks: &[&Disk],
    wishes: &StorageWishes,
    groups: &[VolumeGroup],
) -> Option<String> {
    let group = groups.iter().find(|g| g.members.iter().any(|m| m == node));
    let Some(group) = group.filter(|g| g.complete) else {
        return ours.then(|| "a part of people's files, of which another disk holds the rest".to_owned());
    };
    let keepable = home_of(group).filter(|_| members(group, disks).is_some()).map(|l| &l.name);
    let named = wishes.volumes.iter().any(|v| v.user_data && group_name(v) == group.name);
    let files = |c: &Content| files_in(c) || named && c.looks_like != Some(LooksLike::Empty);
    let mut others = group.logical.iter().filter(|l| Some(&l.name) != keepable);
    let found = others.find(|l| l.content.as_ref().is_some_and(files))?;
    let what = words::content(found.content.as_ref(), found.size);
    Some(format!("{what} on the volume group `{}`", group.name))
}

/// The physical volumes of a group. `None`: they are not all on partitions of these disks.
fn members<'a>(group: &VolumeGroup, disks: &[&'a Disk]) -> Option<Vec<(usize, &'a Partition)>> {
    group.members.iter().map(|member| partition_at(disks, member)).collect()
}

fn found<'a>(disks: &[&'a Disk], inventory: &'a Inventory) -> Vec<Found<'a>> {
    let mut all = Vec::new();
    for (g, disk) in disks.iter().enumerate() {
        for partition in disk.table.iter().flat_map(|t| &t.partitions) {
            let content = partition.content.as_ref();
            if content.is_some_and(is_kept_home) {
                all.push(Found::Partition(g, partition));
            } else if home_inside(partition) {
                all.push(Found::InRoot(g, partition));
            }
        }
    }
    for group in inventory.volume_groups.iter().filter(|g| g.complete && home_of(g).is_some()) {
        let members = members(group, disks);
        all.extend(members.map(|members| Found::Group(group, members)));
    }
    all.sort_by_key(|f| f.rank());
    all
}

/// The arrangements that keep people's files, each with the name of where they are: one for each place at which they
/// were found, the best first. In each of them the files elsewhere are left alone.
///
/// # Errors
/// They leave no room for a system: the reason.
#[allow(clippy::type_complexity)]
pub(crate) fn around<'a>(
    disks: &[&'a Disk],
    wishes: &'a StorageWishes,
    inventory: &'a Inventory,
    never_used: &[&str],
) -> Vec<(String, Result<Arrangement<'a>, String>)> {
    if !wishes.keep_homes || wishes.foreign == Foreign::Leave {
        return Vec::new();
    }
    let all = found(disks, inventory);
    (0..all.len())
        .filter_map(|at| Some((all[at].name(disks), keep(at, &all, disks, wishes, never_used)?)))
        .collect()
}

/// The arrangement that keeps the files found `at` this place. `None`: the profile has no root.
fn keep<'a>(
    at: usize,
    all: &[Found<'a>],
    disks: &[&'a Disk],
    wishes: &'a StorageWishes,
    never_used: &[&str],
) -> Option<Result<Arrangement<'a>, String>> {
    let chosen = &all[at];
    let name = chosen.name(disks);
    let stay: Vec<(usize, u32)> = all.iter().flat_map(|f| f.parts()).collect();
    let mut arrangement = Arrangement::fresh(disks, wishes, never_used);
    for (g, disk) in disks.iter().enumerate().filter(|(g, _)| stay.iter().any(|(s, _)| s == g)) {
        if let Some(table) = &disk.table {
            let here = chosen.parts().iter().any(|(c, _)| *c == g);
            arrangement.sites[g] = ground::kept(disk, table, &|p| !here || stay.contains(&(g, p.number)));
            if !here {
                arrangement.sites[g].free.clear();
            }
        }
    }
    let home = wishes.volumes.iter().find(|v| is_home(v));
    for (i, other) in all.iter().enumerate() {
        let stranger = i != at || !matches!(other, Found::InRoot(..)) && home.is_none();
        if stranger && other.has_our_name() {
            let name = other.name(disks);
            return Some(Err(format!(
                "{name} has the name of this system's own /home, and would be taken for it"
            )));
        }
        if i == at {
            continue;
        }
        let name = other.name(disks);
        arrangement.notes.push(format!("{name} holds people's files too, and is left alone"));
    }
    let bit = chosen.parts().iter().fold(0, |all, (g, _)| all | 1 << g);
    match (chosen, home) {
        (Found::InRoot(g, partition), _) => {
            let root = wishes.volumes.iter().find(|v| role(v) == Role::Root)?;
            match refresh(partition, root) {
                Ok(plan) => arrangement.fixed.push((*g, plan)),
                Err(why) => return Some(Err(why)),
            }
            arrangement.destroys.push(old_system(disks[*g], partition));
            arrangement.volumes.retain(|v| role(v) != Role::Root && !is_home(v));
            arrangement.home_in_root = home.is_some();
            arrangement.fixed_files = bit;
            arrangement.fixed_system = bit;
            arrangement.fixed_root = bit;
        }
        (_, None) => {
            arrangement.notes.push(format!(
                "{name} holds people's files, and is left alone: no /home for people's files is wished"
            ));
        }
        (Found::Partition(g, partition), Some(wish)) => {
            let why = "people's files: kept as they are";
            let plan = kept(partition, role(wish), filesystem_found(partition), Some("/home"), why);
            arrangement.fixed.push((*g, plan));
            arrangement.volumes.retain(|v| !is_home(v));
            arrangement.fixed_files = bit;
        }
        (Found::Group(group, members), Some(wish)) => {
            let logical = home_of(group)?;
            let content = logical.content.as_ref();
            arrangement.groups.push(GroupPlan {
                name: group.name.clone(),
                purpose: role(wish),
                action: Action::Keep,
                size: logical.size,
                filesystem: content.and_then(|c| filesystem_named(&c.kind)),
                label: content.and_then(|c| c.label.clone()),
                mount: Some("/home".into()),
                members: members
                    .iter()
                    .map(|(g, p)| Member { disk: disks[*g].name.clone(), partition: p.number })
                    .collect(),
                why: "people's files: kept as they are".into(),
            });
            for (g, partition) in members {
                let purpose = Role::Physical(group.name.clone());
                let mut plan = kept(partition, purpose, None, None, "a part of people's files");
                plan.label = None;
                arrangement.fixed.push((*g, plan));
            }
            arrangement.volumes.retain(|v| !is_home(v));
            arrangement.fixed_files = bit;
        }
    }
    Some(Ok(arrangement))
}
