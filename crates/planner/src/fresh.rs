//! A new table on one disk.
//!
//! By position: BIOS boot partition (GPT only), EFI system partition, `AKENE_BOOT`, swap, root, the other
//! volumes, home. The boot partition lies at the beginning so that every BIOS reaches it, far below the
//! 2 TiB where 32-bit sector numbers end.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Disk, TableKind};
use akene_protocol::profile::Filesystem;
use akene_protocol::resolve::{StorageWishes, VolumeWish};

use crate::fill::{Ask, fairness, share};
use crate::proposal::{Proposal, disk_ref};
use crate::{Action, Destroyed, DiskPlan, PartitionPlan, Role, words};

/// Partitions begin and end on multiples of this: right for every sector size and flash block.
pub const GRAIN: Bytes = Bytes::mib(1);

/// Most primary partitions of an MBR.
const PRIMARIES: usize = 4;

/// Sizes of the boot chain's partitions on a disk, in grains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootChain {
    /// EFI system partition.
    pub esp: u64,
    /// `AKENE_BOOT`, least and enough.
    pub boot: (u64, u64),
}

impl BootChain {
    /// What suits a disk.
    ///
    /// FAT32 needs 65525 clusters of at least a sector: `mkfs.vfat` (dosfstools 4.2) warns below 257 MiB
    /// on 4096-byte sectors, while 64 MiB hold 129022 clusters of 512 bytes. `AKENE_BOOT` holds two or three
    /// kernels with their initrds (100 MiB each) and the installer (150 MiB, twice while it is renewed).
    pub fn on(disk: &Disk) -> BootChain {
        let esp = match (disk.logical_sector, disk.size) {
            (4096, _) => 260,
            (_, size) if size < Bytes::gib(16) => 64,
            _ => 256,
        };
        let boot = match disk.size {
            size if size < Bytes::gib(8) => (512, 1024),
            size if size < Bytes::gib(29) => (768, 1024),
            size if size < Bytes::gib(100) => (1024, 1024),
            _ => (1024, 2048),
        };
        BootChain { esp, boot }
    }
}

/// A partition to make, before its size is known. Sizes are in grains.
struct Slot<'a> {
    role: Role,
    filesystem: Option<Filesystem>,
    mount: Option<String>,
    ask: Ask,
    max: Option<u64>,
    /// The volume it comes from; `None` for the boot chain.
    wish: Option<&'a VolumeWish>,
}

/// Why a disk cannot hold what is wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooSmall {
    pub need: Bytes,
    pub have: Bytes,
    /// What is needed, part by part.
    pub parts: Vec<(String, Bytes)>,
}

/// Lays out a new table on a disk: as many of the optional volumes as fit, the most important first.
pub(crate) fn propose<'a>(disk: &'a Disk, wishes: &StorageWishes) -> Result<Proposal<'a>, TooSmall> {
    let (mandatory, mut optional): (Vec<_>, Vec<_>) = wishes.volumes.iter().partition(|v| !v.optional);
    // Leaving out swap costs speed (compressed memory takes its place), leaving out people's files makes
    // the next reinstall lose them, and anything else is an extra.
    optional.sort_by_key(|v| (!v.user_data, v.filesystem != Filesystem::Swap));
    let area = usable(disk);
    let fits = |volumes: &[&VolumeWish]| {
        let slots = slots(disk, wishes.table, volumes);
        slots.iter().map(|s| s.ask.min).sum::<u64>()
            <= area.grains.saturating_sub(records(&slots, wishes.table))
    };
    let mut volumes = mandatory;
    if !fits(&volumes) {
        return Err(too_small(&slots(disk, wishes.table, &volumes), area, wishes.table));
    }
    let mut dropped = Vec::new();
    let mut notes = Vec::new();
    for volume in optional {
        volumes.push(volume);
        let fit = fits(&volumes);
        dropped.push(!fit);
        if !fit {
            volumes.pop();
            let name = &volume.name;
            notes.push(format!("`{name}` is left out: {} has no room for its {}", disk.name, volume.min));
        }
    }
    let slots = slots(disk, wishes.table, &volumes);
    let asks: Vec<Ask> = slots.iter().map(|s| s.ask).collect();
    let room = area.grains - records(&slots, wishes.table);
    let Some(mut sizes) = share(&asks, room) else {
        return Err(too_small(&slots, area, wishes.table));
    };
    let parts = fairness(&asks, &sizes);
    let grown = grow(&slots, &mut sizes, room);
    let partitions = place(&slots, &sizes, &grown, area, wishes.table);
    let deleted: Vec<PartitionPlan> = found_partitions(disk);
    Ok(Proposal {
        disk,
        reinstall: false,
        dropped,
        all_enough: slots.iter().zip(&sizes).all(|(slot, size)| *size >= slot.ask.enough),
        fairness: parts,
        destroys: destroyed(disk),
        notes,
        plan: DiskPlan {
            disk: disk_ref(disk),
            logical_sector: disk.logical_sector,
            table: wishes.table,
            new_table: true,
            partitions: deleted.into_iter().chain(partitions).collect(),
        },
    })
}

/// The part of a disk where partitions may lie.
#[derive(Clone, Copy)]
struct Area {
    start: Bytes,
    grains: u64,
}

/// From the first MiB to the last whole MiB before the backup of a GPT: 16 KiB of entries and the header.
/// An MBR gives it up too, so that the disk can be converted.
fn usable(disk: &Disk) -> Area {
    let backup = Bytes((16 << 10) + u64::from(disk.logical_sector));
    let end = disk.size.saturating_sub(backup).align_down(GRAIN);
    Area { start: GRAIN, grains: end.saturating_sub(GRAIN).0 / GRAIN.0 }
}

/// Grains that the boot records of logical partitions take.
fn records(slots: &[Slot<'_>], table: TableKind) -> u64 {
    match table {
        TableKind::Mbr if slots.len() > PRIMARIES => (slots.len() - (PRIMARIES - 1)) as u64,
        _ => 0,
    }
}

fn slots<'a>(disk: &Disk, table: TableKind, volumes: &[&'a VolumeWish]) -> Vec<Slot<'a>> {
    let chain = BootChain::on(disk);
    let fixed = |role, filesystem, mount: Option<&str>, (min, enough): (u64, u64)| Slot {
        role,
        filesystem,
        mount: mount.map(str::to_owned),
        ask: Ask { min, enough },
        max: Some(enough),
        wish: None,
    };
    let mut slots = Vec::new();
    if table == TableKind::Gpt {
        slots.push(fixed(Role::BiosBoot, None, None, (1, 1)));
    }
    let boot = fixed(Role::Boot, Some(Filesystem::Ext4), Some("/boot"), chain.boot);
    let esp = fixed(Role::Esp, Some(Filesystem::Vfat), Some("/boot/efi"), (chain.esp, chain.esp));
    match table {
        TableKind::Gpt => slots.extend([esp, boot]),
        // An old BIOS starts what is marked active, and some only look at the first entry.
        TableKind::Mbr => slots.extend([boot, esp]),
    }
    let mut volumes = volumes.to_vec();
    volumes.sort_by_key(|v| match role(v) {
        Role::Swap => (0, ""),
        Role::Root => (1, ""),
        _ if v.name == "home" => (3, ""),
        _ => (2, v.name.as_str()),
    });
    for volume in volumes {
        let up = |size: Bytes| size.align_up(GRAIN).0 / GRAIN.0;
        let min = up(volume.min).max(1);
        let max = volume.max.map(|m| (m.0 / GRAIN.0).max(min));
        let enough = up(volume.enough).max(min).min(max.unwrap_or(u64::MAX));
        slots.push(Slot {
            role: role(volume),
            filesystem: Some(volume.filesystem),
            mount: volume.mount.clone(),
            ask: Ask { min, enough },
            max,
            wish: Some(volume),
        });
    }
    slots
}

/// What a volume of the profile is for.
pub(crate) fn role(volume: &VolumeWish) -> Role {
    match (volume.filesystem, volume.mount.as_deref()) {
        (Filesystem::Swap, _) => Role::Swap,
        (_, Some("/")) => Role::Root,
        _ => Role::Volume(volume.name.clone()),
    }
}

/// Gives what nobody needs to home, where people's files grow; beyond its limit to root, then to the
/// others. Tells which slots got some.
fn grow(slots: &[Slot<'_>], sizes: &mut [u64], room: u64) -> Vec<bool> {
    let mut left = room - sizes.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..slots.len()).filter(|i| slots[*i].wish.is_some()).collect();
    order.sort_by_key(|i| match &slots[*i] {
        slot if slot.mount.as_deref() == Some("/home") => 0,
        slot if slot.wish.is_some_and(|w| w.user_data) => 1,
        slot if slot.role == Role::Root => 2,
        _ => 3,
    });
    let mut grown = vec![false; slots.len()];
    for i in order {
        let more = slots[i].max.map_or(left, |max| left.min(max.saturating_sub(sizes[i])));
        // Swap without a limit would swallow a whole disk.
        if slots[i].role == Role::Swap || more == 0 {
            continue;
        }
        sizes[i] += more;
        left -= more;
        grown[i] = true;
    }
    grown
}

fn place(
    slots: &[Slot<'_>],
    sizes: &[u64],
    grown: &[bool],
    area: Area,
    table: TableKind,
) -> Vec<PartitionPlan> {
    let logical_from = match table {
        TableKind::Mbr if slots.len() > PRIMARIES => PRIMARIES - 1,
        _ => slots.len(),
    };
    let mut at = area.start;
    let mut partitions = Vec::new();
    for (i, slot) in slots.iter().enumerate() {
        let number = if i < logical_from { i + 1 } else { i - logical_from + PRIMARIES + 1 };
        if i >= logical_from {
            at += GRAIN;
        }
        let size = Bytes(sizes[i] * GRAIN.0);
        partitions.push(PartitionPlan {
            number: number as u32,
            start: at,
            size,
            purpose: slot.role.clone(),
            action: Action::Create,
            filesystem: slot.filesystem,
            label: slot.filesystem.and_then(|fs| slot.role.label(fs)),
            mount: slot.mount.clone(),
            why: why(slot, sizes[i], grown[i]),
        });
        at += size;
    }
    partitions
}

fn why(slot: &Slot<'_>, size: u64, grown: bool) -> String {
    let bytes = |grains: u64| Bytes(grains * GRAIN.0);
    match slot.role {
        Role::BiosBoot => return "GRUB's core, for starting by a BIOS".into(),
        Role::Esp => return "the loader where every UEFI looks for it".into(),
        Role::Boot => return "kernels, GRUB and the installer; every reinstall keeps it".into(),
        _ => {}
    }
    let Ask { min, enough } = slot.ask;
    if grown && slot.max == Some(size) {
        format!("all it may have ({})", bytes(size))
    } else if grown {
        "all it needs, and the rest of the disk".into()
    } else if size >= enough {
        format!("all it needs ({})", bytes(enough))
    } else if slot.ask.part(size).percent() == 0 {
        format!("little more than its minimum ({}); {} would be enough", bytes(min), bytes(enough))
    } else {
        let percent = slot.ask.part(size).percent();
        format!("{percent} % of the way from its minimum ({}) to enough ({})", bytes(min), bytes(enough))
    }
}

fn too_small(slots: &[Slot<'_>], area: Area, table: TableKind) -> TooSmall {
    let name = |slot: &Slot<'_>| match (&slot.role, &slot.mount) {
        (Role::BiosBoot, _) => "BIOS boot partition".to_owned(),
        (Role::Esp, _) => "EFI system partition".to_owned(),
        (Role::Boot, _) => "boot partition".to_owned(),
        (Role::Swap, _) => "swap".to_owned(),
        (_, Some(mount)) => mount.clone(),
        (_, None) => slot.wish.map(|w| w.name.clone()).unwrap_or_default(),
    };
    let mut parts: Vec<(String, Bytes)> =
        slots.iter().map(|s| (name(s), Bytes(s.ask.min * GRAIN.0))).collect();
    parts.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let overhead = Bytes(GRAIN.0 * (2 + records(slots, table)));
    parts.push(("the table".into(), overhead));
    TooSmall {
        need: parts.iter().map(|(_, size)| *size).sum(),
        // One grain before the first partition, one for what follows the last.
        have: Bytes((area.grains + 2) * GRAIN.0),
        parts,
    }
}

/// The partitions on the disk, all to be deleted.
fn found_partitions(disk: &Disk) -> Vec<PartitionPlan> {
    let table = disk.table.iter();
    let mut found: Vec<PartitionPlan> = table
        .flat_map(|t| &t.partitions)
        .map(|p| PartitionPlan {
            number: p.number,
            start: p.start,
            size: p.size,
            purpose: Role::Foreign,
            action: Action::Delete,
            filesystem: None,
            label: None,
            mount: None,
            why: format!("{} makes room for the new table", words::partition_content(p)),
        })
        .collect();
    found.sort_by_key(|p| (p.start, p.number));
    found
}

/// Everything a new table on this disk destroys.
fn destroyed(disk: &Disk) -> Vec<Destroyed> {
    let whole = disk.content.iter().map(|c| (disk.name.clone(), words::content(Some(c), disk.size)));
    let damaged = disk
        .table
        .iter()
        .filter_map(|t| t.damage.as_ref())
        .map(|damage| (disk.name.clone(), format!("a partition table that is damaged: {damage}")));
    let partitions = disk
        .table
        .iter()
        .flat_map(|t| &t.partitions)
        .map(|p| (words::partition(&disk.name, p.number), words::partition_content(p)));
    whole.chain(damaged).chain(partitions).map(|(name, what)| Destroyed { name, what }).collect()
}
