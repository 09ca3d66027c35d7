//! From a layout to partitions: order, numbers, places, and why each is as it is.

use akene_protocol::Bytes;
use akene_protocol::inventory::TableKind;
use akene_protocol::profile::Filesystem;
use akene_protocol::resolve::VolumeWish;

use crate::arrangement::Solved;
use crate::fill::Ask;
use crate::problem::{Kind, Layout, PRIMARIES, Problem, ask, bits};
use crate::{Action, DiskPlan, DiskRef, GRAIN, GroupPlan, Member, PartitionPlan, Role, risk, words};

/// What a volume of the profile is for.
pub(crate) fn role(volume: &VolumeWish) -> Role {
    match (volume.filesystem, volume.mount.as_deref()) {
        (Filesystem::Swap, _) => Role::Swap,
        (_, None) => Role::Spare,
        (_, Some("/")) => Role::Root,
        _ => Role::Volume(volume.name.clone()),
    }
}

/// Name of the group a volume lies on when it is put together from several disks.
pub(crate) fn group_name(volume: &VolumeWish) -> String {
    format!("akene-{}", volume.name)
}

/// What a disk is found again by.
fn disk_ref(disk: &akene_protocol::inventory::Disk) -> DiskRef {
    DiskRef {
        name: disk.name.clone(),
        path: disk.path.clone(),
        by_id: disk.by_id.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        size: disk.size,
        table_hash: disk.table.as_ref().map(|t| t.hash),
    }
}

/// A partition to make, before it has its place.
struct Slot {
    /// By position on the disk.
    rank: (u8, String),
    role: Role,
    /// Its name in the table, where that is not its role's.
    name: Option<String>,
    grains: u64,
    filesystem: Option<Filesystem>,
    mount: Option<String>,
    why: String,
}

/// The plans of the disks that are touched, the boot disk first, with the volume groups.
pub(crate) fn disks(solved: &Solved<'_>) -> (Vec<DiskPlan>, Vec<GroupPlan>) {
    let (arrangement, problem) = (&solved.arrangement, &solved.problem);
    let mut plans: Vec<DiskPlan> = Vec::new();
    let mut boot = Vec::new();
    let mut made: Vec<(usize, u32)> = Vec::new();
    for (g, site) in arrangement.sites.iter().enumerate() {
        let ground = &site.ground;
        let fixed: Vec<&PartitionPlan> =
            arrangement.fixed.iter().filter(|(at, _)| *at == g).map(|(_, p)| p).collect();
        let mut new: Vec<PartitionPlan> = Vec::new();
        let mut taken = ground.taken.clone();
        for (r, region) in problem.regions.iter().enumerate().filter(|(_, r)| r.ground == g) {
            let slots = slots(solved, r, ground.table);
            place(slots, region.start, ground.table, ground.new_table, &mut taken, &mut new);
        }
        made.extend(new.iter().filter(|p| matches!(p.purpose, Role::Physical(_))).map(|p| (g, p.number)));
        let ours = fixed.iter().any(|p| p.purpose != Role::Foreign);
        if new.is_empty() && !ours {
            continue;
        }
        let removed = if new.is_empty() { Vec::new() } else { site.removed.clone() };
        let mut there: Vec<PartitionPlan> = new;
        there.extend(fixed.into_iter().cloned());
        if !ground.new_table {
            let table = ground.disk.table.iter().flat_map(|t| &t.partitions);
            let others = table.filter(|p| {
                there.iter().all(|q| q.number != p.number || q.start != p.start)
                    && removed.iter().all(|q| q.number != p.number)
            });
            let others: Vec<PartitionPlan> = others.map(foreign).collect();
            there.extend(others);
        }
        there.sort_by_key(|p| (p.start, p.number));
        boot.push(there.iter().any(|p| p.purpose == Role::Boot));
        plans.push(DiskPlan {
            disk: disk_ref(ground.disk),
            logical_sector: ground.disk.logical_sector,
            table: ground.table,
            new_table: ground.new_table,
            partitions: removed.into_iter().chain(there).collect(),
        });
    }
    if let Some(at) = boot.iter().position(|b| *b) {
        let first = plans.remove(at);
        plans.insert(0, first);
    }
    let mut groups = arrangement.groups.clone();
    groups.extend(group(solved, &made));
    (plans, groups)
}

/// A partition that is not ours.
pub(crate) fn foreign(other: &akene_protocol::inventory::Partition) -> PartitionPlan {
    let what = words::partition_content(other);
    PartitionPlan {
        number: other.number,
        start: other.start,
        size: other.size,
        purpose: Role::Foreign,
        name: None,
        action: Action::Keep,
        filesystem: None,
        label: other.content.as_ref().and_then(|c| c.label.clone()),
        mount: None,
        why: format!("{what} is not part of the profile and is left alone"),
    }
}

/// What is made in a region, by position.
fn slots(solved: &Solved<'_>, region: usize, table: TableKind) -> Vec<Slot> {
    let (problem, layout) = (&solved.problem, &solved.layout);
    let ground = &problem.grounds[problem.regions[region].ground];
    let mut slots = Vec::new();
    for (i, item) in problem.items.iter().enumerate().filter(|(i, _)| layout.places[*i] & (1 << region) != 0)
    {
        let mut slot = |rank: u8, role, grains, filesystem, mount: Option<&str>, why: String| {
            slots.push(Slot {
                rank: (rank, item.wish().map(|w| w.name.clone()).unwrap_or_default()),
                name: solved.arrangement.root_name.clone().filter(|_| role == Role::Root),
                role,
                grains,
                filesystem,
                mount: mount.map(str::to_owned),
                why,
            })
        };
        let Some(wish) = item.wish() else {
            let esp = ground.chain.esp;
            // An old BIOS starts what is marked active, and some only look at the first entry.
            let (first, second) = if table == TableKind::Mbr { (2, 1) } else { (1, 2) };
            if table == TableKind::Gpt {
                slot(0, Role::BiosBoot, 1, None, None, "GRUB's core, for starting by a BIOS".into());
            }
            let why = "the loader where every UEFI looks for it".to_owned();
            slot(first, Role::Esp, esp, Some(Filesystem::Vfat), Some("/boot/efi"), why);
            let why = match problem.small_boot {
                true => "kernels, GRUB and the installer; as small as it can be".to_owned(),
                false => "kernels, GRUB and the installer; every reinstall keeps it".to_owned(),
            };
            slot(second, Role::Boot, layout.sizes[i], Some(Filesystem::Ext4), Some("/boot"), why);
            continue;
        };
        if let Some((_, grains)) =
            layout.members.iter().find(|(r, _)| *r == region).filter(|_| layout.spread() == Some(i))
        {
            let why = format!("a part of `{}`, which no single place holds", wish.name);
            slot(7, Role::Physical(group_name(wish)), *grains, None, None, why);
            continue;
        }
        let role = role(wish);
        let rank = match &role {
            Role::Swap => 3,
            Role::Root | Role::Spare => 4,
            Role::Volume(name) if name == "home" => 6,
            _ => 5,
        };
        if role == Role::Spare {
            let why = "room for the next system, so that this one can come back if that does not come up"
                .to_owned();
            slot(rank, role, layout.sizes[i], None, None, why);
            continue;
        }
        let why = why(solved, i, wish);
        slot(rank, role, layout.sizes[i], Some(wish.filesystem), wish.mount.as_deref(), why);
    }
    slots.sort_by(|a, b| a.rank.cmp(&b.rank));
    slots
}

fn place(
    slots: Vec<Slot>,
    start: Bytes,
    table: TableKind,
    new_table: bool,
    taken: &mut Vec<u32>,
    made: &mut Vec<PartitionPlan>,
) {
    let logical_from = match table {
        TableKind::Mbr if new_table && slots.len() > PRIMARIES => PRIMARIES - 1,
        _ => slots.len(),
    };
    let mut at = start;
    for (i, slot) in slots.into_iter().enumerate() {
        let least = if i < logical_from { 1 } else { PRIMARIES as u32 + 1 };
        let number = (least..).find(|n| !taken.contains(n)).unwrap_or(least);
        taken.push(number);
        if i >= logical_from {
            at += GRAIN;
        }
        let size = Bytes(slot.grains * GRAIN.0);
        made.push(PartitionPlan {
            number,
            start: at,
            size,
            action: Action::Create,
            filesystem: slot.filesystem,
            label: slot.filesystem.and_then(|fs| slot.role.label(fs)),
            purpose: slot.role,
            name: slot.name,
            mount: slot.mount,
            why: slot.why,
        });
        at += size;
    }
}

/// Why a volume has its size.
fn why(solved: &Solved<'_>, item: usize, wish: &VolumeWish) -> String {
    let (Ask { min, enough }, max) = ask(wish);
    let size = solved.layout.sizes[item];
    let bytes = |grains: u64| Bytes(grains * GRAIN.0);
    if size > enough && max == Some(size) {
        format!("all it may have ({})", bytes(size))
    } else if size > enough {
        match solved.layout.spread() == Some(item) {
            true => "all it needs, and the rest of its disks".into(),
            false => "all it needs, and the rest of the disk".into(),
        }
    } else if size >= enough {
        format!("all it needs ({})", bytes(enough))
    } else {
        let percent = Ask { min, enough }.part(size).percent();
        match percent {
            0 => format!("little more than its minimum ({}); {} would be enough", bytes(min), bytes(enough)),
            _ => format!(
                "{percent} % of the way from its minimum ({}) to enough ({})",
                bytes(min),
                bytes(enough)
            ),
        }
    }
}

/// The group that is made, if a volume is spanned.
fn group(solved: &Solved<'_>, made: &[(usize, u32)]) -> Option<GroupPlan> {
    let (problem, layout) = (&solved.problem, &solved.layout);
    let i = layout.spread()?;
    let wish = problem.items[i].wish()?;
    // What LVM takes of each: its description, and what is left over of the last extent.
    let extents: u64 = layout.members.iter().map(|(_, grains)| (grains - 1) / 4).sum();
    let disks = problem.disks_of(layout.places[i]);
    let loss = risk::any(bits(disks).map(|g| problem.grounds[g].disk.health));
    let alone = bits(disks).map(|g| risk::yearly(problem.grounds[g].disk.health)).min().unwrap_or(0);
    let role = role(wish);
    Some(GroupPlan {
        name: group_name(wish),
        action: Action::Create,
        size: Bytes(extents * 4 * GRAIN.0),
        filesystem: Some(wish.filesystem),
        label: role.label(wish.filesystem),
        purpose: role,
        mount: wish.mount.clone(),
        members: made
            .iter()
            .map(|(g, partition)| Member {
                disk: problem.grounds[*g].disk.name.clone(),
                partition: *partition,
            })
            .collect(),
        why: match disks.count_ones() {
            1 => format!("{}; put together from several places on one disk", why(solved, i, wish)),
            n => format!(
                "{}; put together from {n} disks: it is lost when one of them is, about {} a year (one disk: {})",
                why(solved, i, wish),
                risk::percent(loss),
                risk::percent(alone),
            ),
        },
    })
}

/// Where a layout puts an item, for a person: `sda`, `sdb and sdc`.
pub(crate) fn place_name(problem: &Problem<'_>, place: u16) -> String {
    let names: Vec<String> =
        bits(problem.disks_of(place)).map(|g| problem.grounds[g].disk.name.clone()).collect();
    words::list(&names)
}

/// Why a volume is not spread, though it would have more.
pub(crate) fn not_spread(solved: &Solved<'_>, layout: &Layout, item: usize) -> String {
    let bytes = |grains: u64| Bytes(grains * GRAIN.0);
    format!(
        "{} over {} would have {} instead of {}, and be lost with any of them",
        item_name(&solved.problem.items[item].kind),
        place_name(&solved.problem, layout.places[item]),
        bytes(layout.sizes[item]),
        bytes(solved.layout.sizes[item]),
    )
}

/// What an item is called.
pub(crate) fn item_name(kind: &Kind<'_>) -> String {
    match kind {
        Kind::Chain => "/boot".into(),
        Kind::Volume(w) => w.mount.clone().unwrap_or_else(|| w.name.clone()),
    }
}
