//! An Akène machine's own disk: the table stays, the boot partition and people's files are kept, the rest
//! is formatted where it lies. Nothing kept is moved or shrunk, because nothing is moved at all.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Disk, Firmware, FirmwareKind, LooksLike, Partition, Table, TableKind};
use akene_protocol::issue::Issue;
use akene_protocol::profile::Filesystem;
use akene_protocol::resolve::StorageWishes;

use crate::fresh::role;
use crate::proposal::{Proposal, disk_ref};
use crate::{Action, BOOT_LABEL, Destroyed, DiskPlan, PartitionPlan, Role, words};

const BIOS_BOOT_TYPE: &str = "21686148-6449-6e6f-744e-656564454649";
const ESP_TYPES: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// Looks at a disk with the profile in mind. `None`: it is not an Akène machine's, or there is nothing on it
/// that would have to be kept.
///
/// # Errors
/// It holds people's files, but its table does not serve the profile.
pub(crate) fn existing<'a>(
    disk: &'a Disk,
    wishes: &StorageWishes,
    firmware: &Firmware,
) -> Option<Result<Proposal<'a>, Issue>> {
    let table = disk.table.as_ref().filter(|t| t.partitions.iter().any(is_boot))?;
    let reasons = match serve(disk, table, wishes, firmware) {
        Ok(proposal) => return Some(Ok(proposal)),
        Err(reasons) => reasons,
    };
    let files = table.partitions.iter().find(|p| holds_files(p, wishes))?;
    Some(Err(Issue::new(
        "kept-data-in-the-way",
        words::partition(&disk.name, files.number),
        format!(
            "{} holds {}, which is always kept, but this profile does not fit the table around it: {}",
            disk.name,
            words::partition_content(files),
            reasons.join("; ")
        ),
        "ask less in the profile's `storage`, or copy the files away and clear the disk with `wipefs -a`",
    )))
}

fn is_boot(partition: &Partition) -> bool {
    let content = partition.content.as_ref();
    partition.name == Role::Boot.partition_name()
        || content.is_some_and(|c| {
            c.label.as_deref() == Some(BOOT_LABEL)
                || matches!(c.looks_like, Some(LooksLike::AkeneBoot { .. }))
        })
}

/// Whether people's files are on a partition of our own.
fn holds_files(partition: &Partition, wishes: &StorageWishes) -> bool {
    let looks = partition.content.as_ref().and_then(|c| c.looks_like.as_ref());
    looks == Some(&LooksLike::Home)
        || wishes.volumes.iter().filter(|v| v.user_data).any(|v| named(partition, &role(v), v.filesystem))
        || named(partition, &Role::Volume("home".into()), Filesystem::Ext4)
}

fn named(partition: &Partition, role: &Role, filesystem: Filesystem) -> bool {
    let label = partition.content.as_ref().and_then(|c| c.label.clone());
    match &partition.name {
        // Where the table has our names, they count alone: labels can be copied with a filesystem.
        Some(name) if name.starts_with("akene-") || name.starts_with("AKENE_") => {
            Some(name) == role.partition_name().as_ref()
        }
        _ => label.is_some() && label == role.label(filesystem),
    }
}

/// Finds the one partition with a role; by name or label, else by what its content looks like.
fn find<'t>(table: &'t Table, role: &Role, filesystem: Filesystem) -> Result<Option<&'t Partition>, String> {
    let one = |fits: &dyn Fn(&Partition) -> bool| {
        let mut all = table.partitions.iter().filter(|p| fits(p));
        match (all.next(), all.next()) {
            (Some(a), Some(b)) => Err(format!("partitions {} and {} both look like it", a.number, b.number)),
            (found, _) => Ok(found),
        }
    };
    if let Some(found) = one(&|p| named(p, role, filesystem))? {
        return Ok(Some(found));
    }
    let by_type = |types: &[&str]| one(&|p| types.contains(&p.kind.as_str()));
    let looks = |wanted: fn(&LooksLike) -> bool| {
        one(&|p| p.content.as_ref().and_then(|c| c.looks_like.as_ref()).is_some_and(wanted))
    };
    match role {
        Role::Boot => one(&is_boot),
        Role::BiosBoot => by_type(&[BIOS_BOOT_TYPE]),
        Role::Esp => by_type(&ESP_TYPES),
        Role::Root => looks(|l| matches!(l, LooksLike::LinuxRoot { .. })),
        Role::Swap => one(&|p| p.content.as_ref().is_some_and(|c| c.kind == "swap")),
        Role::Volume(name) if name == "home" => looks(|l| *l == LooksLike::Home),
        Role::Volume(_) | Role::Physical(_) | Role::Foreign => Ok(None),
    }
}

/// The filesystem found, as `fstab` names it.
fn filesystem_found(partition: &Partition) -> Option<Filesystem> {
    match partition.content.as_ref()?.kind.as_str() {
        // The ext4 driver serves all three.
        "ext2" | "ext3" | "ext4" => Some(Filesystem::Ext4),
        "xfs" => Some(Filesystem::Xfs),
        "btrfs" => Some(Filesystem::Btrfs),
        "vfat" => Some(Filesystem::Vfat),
        _ => None,
    }
}

/// What is gathered while the roles are looked for.
struct Work<'a> {
    disk: &'a Disk,
    partitions: Vec<PartitionPlan>,
    destroys: Vec<Destroyed>,
    notes: Vec<String>,
    reasons: Vec<String>,
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
        let boot = table.partitions.iter().find(|p| is_boot(p)).and_then(|p| p.content.as_ref());
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
    disk: &'a Disk,
    table: &'a Table,
    wishes: &StorageWishes,
    firmware: &Firmware,
) -> Result<Proposal<'a>, Vec<String>> {
    let before = Before::of(table);
    let mut work =
        Work { disk, partitions: vec![], destroys: vec![], notes: vec![], reasons: vec![], before };
    work.boot_chain(table, firmware);
    for volume in &wishes.volumes {
        work.volume(table, volume);
    }
    let Work { mut partitions, mut destroys, mut notes, reasons, .. } = work;
    if !reasons.is_empty() {
        return Err(reasons);
    }
    let ours: Vec<u32> = partitions.iter().map(|p| p.number).collect();
    partitions.extend(table.partitions.iter().filter(|p| !ours.contains(&p.number)).map(|other| {
        let what = words::partition_content(other);
        kept(
            other,
            Role::Foreign,
            None,
            None,
            &format!("{what} is not part of the profile and is left alone"),
        )
    }));
    if let Some(damage) = &table.damage {
        notes.push(format!("the partition table of {} is damaged ({damage}) but can be read", disk.name));
    }
    partitions.sort_by_key(|p| (p.start, p.number));
    destroys.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Proposal {
        disk,
        reinstall: true,
        dropped: Vec::new(),
        all_enough: true,
        fairness: Vec::new(),
        destroys,
        notes,
        plan: DiskPlan {
            disk: disk_ref(disk),
            logical_sector: disk.logical_sector,
            table: table.kind,
            new_table: false,
            partitions,
        },
    })
}

impl Work<'_> {
    fn boot_chain(&mut self, table: &Table, firmware: &Firmware) {
        let bios = firmware.kind == FirmwareKind::Bios;
        if table.kind == TableKind::Gpt {
            match find(table, &Role::BiosBoot, Filesystem::Ext4) {
                Ok(Some(found)) => {
                    self.partitions.push(kept(
                        found,
                        Role::BiosBoot,
                        None,
                        None,
                        "GRUB's core, for starting by a BIOS",
                    ));
                }
                Ok(None) if bios => self.reasons.push("there is no BIOS boot partition".into()),
                Ok(None) => {
                    self.notes.push("there is no BIOS boot partition: only a UEFI can start this disk".into())
                }
                Err(why) => self.reasons.push(format!("BIOS boot partition: {why}")),
            }
        }
        match find(table, &Role::Esp, Filesystem::Vfat) {
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
        match find(table, &Role::Boot, Filesystem::Ext4) {
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
            self.partitions.push(kept(found, role, Some(filesystem), Some(mount), why));
        } else {
            self.format(found, role, filesystem, Some(mount), format!("{why}; its filesystem is missing"));
        }
    }

    fn volume(&mut self, table: &Table, volume: &akene_protocol::resolve::VolumeWish) {
        let role = role(volume);
        let name = volume.mount.as_deref().unwrap_or(&volume.name);
        let found = match find(table, &role, volume.filesystem) {
            Ok(found) => found,
            Err(why) => return self.reasons.push(format!("{name}: {why}")),
        };
        let Some(found) = found.filter(|p| self.partitions.iter().all(|q| q.number != p.number)) else {
            return match volume.optional {
                true => self.notes.push(format!(
                    "`{}` is left out: {} has no partition for it, and its table is kept",
                    volume.name, self.disk.name
                )),
                false => self.reasons.push(format!("{name} has no partition")),
            };
        };
        let mount = volume.mount.as_deref();
        if volume.user_data && found.content.is_some() {
            return match filesystem_found(found) {
                Some(filesystem) => {
                    self.partitions.push(kept(
                        found,
                        role,
                        Some(filesystem),
                        mount,
                        "people's files: kept as they are",
                    ));
                }
                None => self.reasons.push(format!(
                    "{name} holds {}, which cannot be mounted there",
                    words::partition_content(found)
                )),
            };
        }
        if found.size < volume.min {
            return match volume.optional {
                true => self.notes.push(format!(
                    "`{}` is left out: its partition has {}, and it needs {}",
                    volume.name, found.size, volume.min
                )),
                false => {
                    let missing = volume.min - found.size;
                    self.reasons.push(format!(
                        "{name} needs {}, its partition has {}: {missing} are missing",
                        volume.min, found.size
                    ));
                }
            };
        }
        self.format(found, role, volume.filesystem, mount, fitting(found.size, volume.enough));
    }

    fn format(
        &mut self,
        found: &Partition,
        role: Role,
        filesystem: Filesystem,
        mount: Option<&str>,
        why: String,
    ) {
        if !self.before.loses_nothing(found, &role) {
            self.destroys.push(Destroyed {
                name: words::partition(&self.disk.name, found.number),
                what: words::partition_content(found),
            });
        }
        self.partitions.push(PartitionPlan {
            number: found.number,
            start: found.start,
            size: found.size,
            label: role.label(filesystem),
            purpose: role,
            action: Action::Format,
            filesystem: Some(filesystem),
            mount: mount.map(str::to_owned),
            why,
        });
    }
}

fn fitting(size: Bytes, enough: Bytes) -> String {
    match size >= enough {
        true => format!("made anew where it is; all it needs ({enough})"),
        false => format!("made anew where it is; {enough} would be enough"),
    }
}

fn kept(
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
