//! An Akène machine's own disks: the table stays, the boot partition and people's files are kept, the rest
//! is formatted where it lies. Nothing kept is moved or shrunk, because nothing is moved at all. What has no
//! partition yet is placed in free room beside it or on blank disks.

use akene_protocol::Bytes;
use akene_protocol::inventory::{
    Disk, Firmware, FirmwareKind, Inventory, LooksLike, Partition, Table, TableKind, VolumeGroup,
};
use akene_protocol::issue::Issue;
use akene_protocol::profile::{Filesystem, Foreign};
use akene_protocol::resolve::{StorageWishes, VolumeWish};

use crate::arrangement::Arrangement;
use crate::ground::{self, Site};
use crate::homes::{home_of, is_home};
use crate::lay::{group_name, role};
use crate::recognise::{filesystem_found, filesystem_named, find, holds_files, home_inside, is_boot, named};
use crate::{Action, Destroyed, GroupPlan, Member, PartitionPlan, Role, words};

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
    match serve(at, table, disks, wishes, inventory) {
        Ok(arrangement) => Some(Ok(arrangement)),
        Err(reasons) => {
            let reasons = reasons.join("; ");
            blocked(disk, wishes, &reasons).or_else(|| group_blocked(wishes, inventory, &reasons)).map(Err)
        }
    }
}

/// The refusal to install beside people's files on a volume group of ours that cannot be used.
fn group_blocked(wishes: &StorageWishes, inventory: &Inventory, reasons: &str) -> Option<Issue> {
    let files = |v: &&VolumeWish| v.user_data && wishes.keep_homes;
    let names: Vec<String> = wishes.volumes.iter().filter(files).map(group_name).collect();
    let group = inventory.volume_groups.iter().find(|g| names.contains(&g.name))?;
    Some(Issue::new(
        "kept-data-in-the-way",
        &group.name,
        format!(
            "the volume group {} holds people's files, which are always kept, but: {reasons}",
            group.name
        ),
        "put the disk back that is missing; if it is lost, so are the files: set `storage.keep-homes = false`",
    ))
}

/// The refusal to install around people's files that are on this disk. `None`: there are none.
pub(crate) fn blocked(disk: &Disk, wishes: &StorageWishes, reasons: &str) -> Option<Issue> {
    let table = disk.table.as_ref().filter(|_| wishes.keep_homes)?;
    let files = table.partitions.iter().find(|p| holds_files(p, wishes))?;
    Some(Issue::new(
        "kept-data-in-the-way",
        words::partition(&disk.name, files.number),
        format!(
            "{} holds {}, which is always kept, but this profile does not fit the table around it: {reasons}",
            disk.name,
            words::partition_content(files),
        ),
        "ask less in the profile's `storage`, or copy the files away and clear the disk with `wipefs -a`",
    ))
}

/// What is gathered while the roles are looked for.
struct Work<'w, 'a> {
    disks: &'w [&'a Disk],
    /// The boot disk, by its index.
    at: usize,
    wishes: &'a StorageWishes,
    groups_found: &'a [VolumeGroup],
    fixed: Vec<(usize, PartitionPlan)>,
    groups: Vec<GroupPlan>,
    destroys: Vec<Destroyed>,
    notes: Vec<String>,
    reasons: Vec<String>,
    volumes: Vec<&'a VolumeWish>,
    without: Vec<&'a VolumeWish>,
    home_in_root: bool,
    before: Before,
}

/// What an earlier run left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A system, or nobody knows.
    System,
    /// An installation that was never completed: what it formats holds nothing of worth.
    Unfinished,
    /// A table and not even a boot partition's filesystem.
    TableOnly,
}

impl Before {
    fn of(table: &Table) -> Before {
        let found = find(table, &Role::Boot, Filesystem::Ext4, &|_| true).ok().flatten();
        let boot =
            found.or_else(|| table.partitions.iter().find(|p| is_boot(p))).and_then(|p| p.content.as_ref());
        match boot.map(|c| &c.looks_like) {
            None => Before::TableOnly,
            Some(Some(LooksLike::AkeneBoot { unfinished: true })) => Before::Unfinished,
            Some(_) => Before::System,
        }
    }

    /// Whether formatting loses nothing. What cannot be recognised may be people's files on a damaged
    /// filesystem, unless it is certain that there never was one.
    fn loses_nothing(self, found: &Partition, role: &Role) -> bool {
        let looks = found.content.as_ref().and_then(|c| c.looks_like.as_ref());
        match self {
            Before::System => false,
            Before::TableOnly => found.content.is_none(),
            Before::Unfinished => match looks {
                Some(LooksLike::LinuxRoot { home_inside: true, .. } | LooksLike::Home) => false,
                _ => found.content.is_some() || !matches!(role, Role::Volume(_)),
            },
        }
    }
}

fn serve<'a>(
    at: usize,
    table: &'a Table,
    disks: &[&'a Disk],
    wishes: &'a StorageWishes,
    inventory: &'a Inventory,
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
        before: Before::of(table),
    };
    work.boot_chain(table, &inventory.firmware);
    work.home_in_root = work.root_holds_home();
    for volume in &wishes.volumes {
        match is_home(volume) && work.home_in_root {
            true => continue,
            false => work.volume(volume),
        }
    }
    let Work { fixed, groups, mut destroys, mut notes, reasons, volumes, without, home_in_root, .. } = work;
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
    if home_in_root || files == 0 {
        files |= fixed.iter().filter(|(_, p)| p.purpose == Role::Root).fold(0, |all, (g, _)| all | 1 << g);
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
        fixed_files: files,
        fixed_system: system,
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

impl<'a> Work<'_, 'a> {
    fn boot_chain(&mut self, table: &Table, firmware: &Firmware) {
        let bios = firmware.kind == FirmwareKind::Bios;
        if table.kind == TableKind::Gpt {
            match find(table, &Role::BiosBoot, Filesystem::Ext4, &|_| true) {
                Ok(Some(found)) => {
                    let why = "GRUB's core, for starting by a BIOS";
                    self.fixed.push((self.at, kept(found, Role::BiosBoot, None, None, why)));
                }
                Ok(None) if bios => self.reasons.push("there is no BIOS boot partition".into()),
                Ok(None) => {
                    self.notes.push("there is no BIOS boot partition: only a UEFI can start this disk".into())
                }
                Err(why) => self.reasons.push(format!("BIOS boot partition: {why}")),
            }
        }
        match find(table, &Role::Esp, Filesystem::Vfat, &|_| true) {
            Ok(Some(found)) => self.system(
                found,
                Role::Esp,
                Filesystem::Vfat,
                "/boot/efi",
                "the loader where every UEFI looks for it",
            ),
            Ok(None) if bios => {
                self.notes.push("there is no EFI system partition: only a BIOS can start this disk".into())
            }
            Ok(None) => self.reasons.push("there is no EFI system partition".into()),
            Err(why) => self.reasons.push(format!("EFI system partition: {why}")),
        }
        match find(table, &Role::Boot, Filesystem::Ext4, &|_| true) {
            Ok(Some(found)) => self.system(
                found,
                Role::Boot,
                Filesystem::Ext4,
                "/boot",
                "kernels, GRUB and the installer; every reinstall keeps it",
            ),
            Ok(None) => self.reasons.push("there is no boot partition".into()),
            Err(why) => self.reasons.push(format!("boot partition: {why}")),
        }
    }

    /// A partition of the boot chain: kept, but made anew when a power cut or damage left no filesystem.
    fn system(&mut self, found: &Partition, role: Role, filesystem: Filesystem, mount: &str, why: &str) {
        if filesystem_found(found) == Some(filesystem) {
            self.fixed.push((self.at, kept(found, role, Some(filesystem), Some(mount), why)));
        } else {
            let why = format!("{why}; its filesystem is missing");
            self.format(self.at, found, role, filesystem, Some(mount), why);
        }
    }

    /// The one partition with a role: on the boot disk, else on a disk that is no other machine's boot disk.
    fn find(&self, role: &Role, filesystem: Filesystem) -> Result<Option<(usize, &'a Partition)>, String> {
        let disk = self.disks[self.at];
        if let Some(table) = &disk.table {
            let free = |p: &Partition| self.fixed.iter().all(|(g, q)| *g != self.at || q.number != p.number);
            if let Some(found) = find(table, role, filesystem, &free)? {
                return Ok(Some((self.at, found)));
            }
        }
        let others = self.disks.iter().enumerate().filter(|(g, d)| *g != self.at && !is_boot_disk(d));
        let mut found = others.flat_map(|(g, d)| {
            let partitions = d.table.iter().flat_map(|t| &t.partitions);
            partitions.filter(|p| named(p, role, filesystem)).map(move |p| (g, p))
        });
        match (found.next(), found.next()) {
            (Some((g, p)), Some((h, q))) => Err(format!(
                "{} and {} both look like it",
                words::partition(&self.disks[g].name, p.number),
                words::partition(&self.disks[h].name, q.number)
            )),
            (Some(found), None) => Ok(Some(found)),
            (None, _) => Ok(self.adopted(role)),
        }
    }

    /// People's files that were found on another disk when this machine was installed, and kept there: they have no
    /// name of ours. A root is only taken for the files in it, never to be formatted.
    fn adopted(&self, role: &Role) -> Option<(usize, &'a Partition)> {
        let fits = |p: &Partition| match role {
            Role::Volume(name) if name == "home" => {
                let content = p.content.as_ref();
                content.is_some_and(|c| c.looks_like == Some(LooksLike::Home))
                    && filesystem_found(p).is_some_and(|f| f != Filesystem::Vfat)
            }
            Role::Root => home_inside(p),
            _ => false,
        };
        let others = self.disks.iter().enumerate().filter(|(g, d)| *g != self.at && !is_boot_disk(d));
        let all = others.flat_map(|(g, d)| d.table.iter().flat_map(|t| &t.partitions).map(move |p| (g, p)));
        let used = |p: &Partition| p.content.as_ref().and_then(|c| c.used).unwrap_or(Bytes(0));
        let wanted =
            self.wishes.keep_homes && (*role == Role::Root || self.wishes.volumes.iter().any(is_home));
        all.filter(|(_, p)| wanted && fits(p)).min_by_key(|(_, p)| std::cmp::Reverse(used(p)))
    }

    /// The group a volume lies on, with its members: the disk, and the partition on it.
    #[allow(clippy::type_complexity)]
    fn group(
        &self,
        volume: &VolumeWish,
    ) -> Result<Option<(&'a VolumeGroup, Vec<(usize, &'a Partition)>)>, String> {
        let name = group_name(volume);
        let mut all = self.groups_found.iter().filter(|g| g.name == name);
        let group = match (all.next(), all.next()) {
            // One of another system, whose files were kept.
            (None, _) => {
                let mut adopted = self.groups_found.iter().filter(|g| g.complete && home_of(g).is_some());
                match adopted.next().filter(|_| is_home(volume) && self.wishes.keep_homes) {
                    Some(group) => group,
                    None => return Ok(None),
                }
            }
            (Some(_), Some(_)) => return Err(format!("there are two volume groups `{name}`")),
            (Some(group), None) => group,
        };
        if !group.complete {
            return Err(format!(
                "its volume group `{name}` misses a disk: put back the one that was taken out"
            ));
        }
        let members = group.members.iter().map(|member| {
            let on = |(g, d): (usize, &&'a Disk)| {
                let partitions = d.table.iter().flat_map(|t| &t.partitions);
                let mut fits = partitions.filter(|p| words::partition(&d.name, p.number) == *member);
                fits.next().map(|p| (g, p))
            };
            self.disks.iter().enumerate().find_map(on).ok_or_else(|| {
                format!("its volume group `{name}` lies on {member} too, which cannot be used")
            })
        });
        Ok(Some((group, members.collect::<Result<_, _>>()?)))
    }

    /// Whether people's files lie in the root, and nowhere else.
    fn root_holds_home(&self) -> bool {
        let Some(root) = self.wishes.volumes.iter().find(|v| role(v) == Role::Root) else { return false };
        let elsewhere = self.wishes.volumes.iter().filter(|v| is_home(v)).any(|v| {
            !matches!(self.find(&role(v), v.filesystem), Ok(None)) || !matches!(self.group(v), Ok(None))
        });
        self.wishes.keep_homes
            && !elsewhere
            && matches!(self.find(&Role::Root, root.filesystem), Ok(Some((_, p))) if home_inside(p))
    }

    fn volume(&mut self, volume: &'a VolumeWish) {
        let role = role(volume);
        let name = volume.mount.as_deref().unwrap_or(&volume.name);
        let found = match self.find(&role, volume.filesystem) {
            Ok(found) => found,
            Err(why) => return self.reasons.push(format!("{name}: {why}")),
        };
        let group = match self.group(volume) {
            Ok(group) => group,
            Err(why) => return self.reasons.push(format!("{name}: {why}")),
        };
        let Some((g, found)) = found else {
            return match group {
                Some((group, members)) => self.grouped(volume, group, members),
                None => self.volumes.push(volume),
            };
        };
        let mount = volume.mount.as_deref();
        if volume.user_data && found.content.is_some() && self.wishes.keep_homes {
            return match filesystem_found(found) {
                Some(filesystem) => {
                    let why = "people's files: kept as they are";
                    self.fixed.push((g, kept(found, role, Some(filesystem), mount, why)));
                }
                None => self.reasons.push(format!(
                    "{name} holds {}, which cannot be mounted there",
                    words::partition_content(found)
                )),
            };
        }
        if found.size < volume.min {
            if volume.optional {
                self.notes.push(format!(
                    "`{}` is left out: its partition has {}, and it needs {}",
                    volume.name, found.size, volume.min
                ));
                return self.without.push(volume);
            }
            let missing = volume.min - found.size;
            return self.reasons.push(format!(
                "{name} needs {}, its partition has {}: {missing} are missing",
                volume.min, found.size
            ));
        }
        if role == Role::Root && self.home_in_root {
            return match refresh(found, volume) {
                Ok(partition) => {
                    if !matches!(self.before, Before::Unfinished) {
                        self.destroys.push(old_system(self.disks[g], found));
                    }
                    self.fixed.push((g, partition));
                }
                Err(why) => self.reasons.push(why),
            };
        }
        let why = fitting(found.size, volume.enough);
        self.format(g, found, role, volume.filesystem, mount, why);
    }

    /// A volume on a group that was made for it.
    fn grouped(&mut self, volume: &'a VolumeWish, group: &VolumeGroup, members: Vec<(usize, &'a Partition)>) {
        let name = volume.mount.as_deref().unwrap_or(&volume.name);
        let role = role(volume);
        let mut plan = GroupPlan {
            name: group.name.clone(),
            purpose: role.clone(),
            action: Action::Keep,
            size: group.logical.iter().map(|l| l.size).sum(),
            filesystem: Some(volume.filesystem),
            label: role.label(volume.filesystem),
            mount: volume.mount.clone(),
            members: Vec::new(),
            why: "people's files: kept as they are".into(),
        };
        let wanted = plan.volume().to_owned();
        let logical = group.logical.iter().find(|l| l.name == wanted);
        let content = logical.and_then(|l| l.content.as_ref());
        let keep = volume.user_data && self.wishes.keep_homes && content.is_some();
        if let Some(logical) = logical {
            plan.size = logical.size;
        }
        match (logical, content.map(|c| filesystem_named(&c.kind))) {
            (None, _) => {
                return self.reasons.push(format!("{name}: its volume group has no volume `{wanted}`"));
            }
            (_, Some(None)) if keep => {
                let what = words::content(content, plan.size);
                return self.reasons.push(format!("{name} holds {what}, which cannot be mounted there"));
            }
            (_, Some(Some(filesystem))) if keep => {
                plan.filesystem = Some(filesystem);
                plan.label = content.and_then(|c| c.label.clone());
            }
            _ if plan.size < volume.min => {
                let missing = volume.min - plan.size;
                return self.reasons.push(format!(
                    "{name} needs {}, its group has {}: {missing} are missing",
                    volume.min, plan.size
                ));
            }
            _ => {
                plan.action = Action::Format;
                plan.why = fitting(plan.size, volume.enough);
                if self.before == Before::System {
                    let what = words::content(content, plan.size);
                    self.destroys.push(Destroyed { name: format!("{}/{wanted}", group.name), what });
                }
            }
        }
        for (g, member) in members {
            plan.members.push(Member { disk: self.disks[g].name.clone(), partition: member.number });
            let purpose = Role::Physical(group.name.clone());
            let mut partition = kept(member, purpose, None, None, &format!("a part of `{}`", volume.name));
            partition.label = None;
            self.fixed.push((g, partition));
        }
        self.groups.push(plan);
    }

    fn format(
        &mut self,
        g: usize,
        found: &Partition,
        role: Role,
        filesystem: Filesystem,
        mount: Option<&str>,
        why: String,
    ) {
        if !self.before.loses_nothing(found, &role) {
            self.destroys.push(Destroyed {
                name: words::partition(&self.disks[g].name, found.number),
                what: words::partition_content(found),
            });
        }
        let partition = PartitionPlan {
            number: found.number,
            start: found.start,
            size: found.size,
            label: role.label(filesystem),
            purpose: role,
            action: Action::Format,
            filesystem: Some(filesystem),
            mount: mount.map(str::to_owned),
            why,
        };
        self.fixed.push((g, partition));
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
        action: Action::Keep,
        filesystem,
        label: found.content.as_ref().and_then(|c| c.label.clone()),
        mount: mount.map(str::to_owned),
        why: why.to_owned(),
    }
}
