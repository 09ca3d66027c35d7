//! What happens to each partition and group that has its place already.

use akene_protocol::inventory::{
    Disk, Firmware, FirmwareKind, LooksLike, Partition, Table, TableKind, VolumeGroup,
};
use akene_protocol::profile::Filesystem;
use akene_protocol::resolve::{StorageWishes, VolumeWish};

use super::find::Found;
use super::{fitting, kept, old_system, refresh};
use crate::lay::role;
use crate::recognise::{filesystem_found, filesystem_named, find, is_boot, looks_like_files, named};
use crate::{Action, Destroyed, GroupPlan, Member, PartitionPlan, Role, words};

/// What is gathered while the roles are looked for.
pub(super) struct Work<'w, 'a> {
    pub disks: &'w [&'a Disk],
    /// The boot disk, by its index.
    pub at: usize,
    pub wishes: &'a StorageWishes,
    pub groups_found: &'a [VolumeGroup],
    pub fixed: Vec<(usize, PartitionPlan)>,
    pub groups: Vec<GroupPlan>,
    pub destroys: Vec<Destroyed>,
    pub notes: Vec<String>,
    pub reasons: Vec<String>,
    pub volumes: Vec<&'a VolumeWish>,
    pub without: Vec<&'a VolumeWish>,
    pub home_in_root: bool,
    /// Name of a root that is still to be placed beside one with the usual name.
    pub root_name: Option<String>,
    pub before: Before,
    /// Names of other disks, of which nothing was taken when this machine was installed.
    pub left_alone: Vec<&'a str>,
}

/// What an earlier run left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// A system, or nobody knows.
    System,
    /// An installation that was never completed: what it formats holds nothing of worth.
    Unfinished,
    /// A table and not even a boot partition's filesystem.
    TableOnly,
}

impl Before {
    pub fn of(table: &Table) -> Before {
        let found = find(table, &Role::Boot, Filesystem::Ext4, &|_| true).ok().flatten();
        let boot =
            found.or_else(|| table.partitions.iter().find(|p| is_boot(p))).and_then(|p| p.content.as_ref());
        match boot.map(|c| &c.looks_like) {
            None => Before::TableOnly,
            Some(Some(LooksLike::AkeneBoot { unfinished: true, .. })) => Before::Unfinished,
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
                // Another system.
                Some(LooksLike::LinuxRoot { .. }) => named(found, role, Filesystem::Ext4),
                _ => found.content.is_some() || !matches!(role, Role::Volume(_)),
            },
        }
    }
}

impl<'a> Work<'_, 'a> {
    pub fn boot_chain(&mut self, table: &Table, firmware: &Firmware) {
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

    pub fn volume(&mut self, volume: &'a VolumeWish) {
        let role = role(volume);
        let name = volume.mount.as_deref().unwrap_or(&volume.name);
        let (g, found) = match self.find(volume) {
            Ok(Some(Found::Partition(g, found))) => (g, found),
            Ok(Some(Found::Group(group, members))) => return self.grouped(volume, group, members),
            Ok(None) => return self.volumes.push(volume),
            Err(why) => return self.reasons.push(format!("{name}: {why}")),
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
        // What was once finished had a filesystem there: it is damaged, and a person may still save what is in it.
        if volume.user_data && self.wishes.keep_homes && self.before == Before::System {
            return self.reasons.push(format!(
                "{name} is {}, on which nothing can be recognised",
                words::partition(&self.disks[g].name, found.number)
            ));
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
                    // Without a name, its system was being removed already.
                    let look = found.content.as_ref().and_then(|c| c.looks_like.as_ref());
                    let whole = matches!(look, Some(LooksLike::LinuxRoot { name: Some(_), .. }));
                    let another = whole && !named(found, &Role::Root, volume.filesystem);
                    if another || self.before_on(Some(found)) != Before::Unfinished {
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
            // As with a partition: what was once finished had a filesystem there.
            (Some(_), None)
                if volume.user_data && self.wishes.keep_homes && self.before == Before::System =>
            {
                return self
                    .reasons
                    .push(format!("{name} is {}/{wanted}, on which nothing can be recognised", group.name));
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
                if self.before_on(None) == Before::System {
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
        let content = found.content.as_ref().and_then(|c| c.looks_like.as_ref());
        // What has our name, and is nobody's as the profile says, may look like it.
        let nobodys = matches!((&role, content), (Role::Volume(_), Some(LooksLike::Home)))
            && named(found, &role, filesystem);
        if self.wishes.keep_homes && looks_like_files(found) && !nobodys {
            let what = words::partition_content(found);
            let node = words::partition(&self.disks[g].name, found.number);
            let place = mount.unwrap_or("swap");
            return self.reasons.push(format!("{place} would be made on {node}, which holds {what}"));
        }
        if !self.before_on(Some(found)).loses_nothing(found, &role) {
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
            name: None,
            action: Action::Format,
            filesystem: Some(filesystem),
            mount: mount.map(str::to_owned),
            why,
        };
        self.fixed.push((g, partition));
    }
}
