//! What the disks offer: free stretches, and what would have to go for them.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Disk, Partition, Table, TableKind};
use akene_protocol::resolve::StorageWishes;

use crate::problem::{Ground, PRIMARIES, REGIONS, Region, starts_by_bios};
use crate::{Action, BootChain, Destroyed, GRAIN, PartitionPlan, Role, words};

/// A disk with its free stretches and what using it takes away.
pub(crate) struct Site<'a> {
    pub ground: Ground<'a>,
    /// Start and grains.
    pub free: Vec<(Bytes, u64)>,
    /// Partitions that go when the disk is used.
    pub removed: Vec<PartitionPlan>,
    /// What is lost with them.
    pub lost: Vec<Destroyed>,
}

impl Site<'_> {
    /// Nothing that is there counts.
    pub fn nothing_lost(mut self) -> Self {
        self.ground.destroys = false;
        self.lost.clear();
        self
    }
}

/// Where partitions end at the latest: before the backup of a GPT, 16 KiB of entries and the header. An MBR
/// gives it up too, so that the disk can be converted.
fn end_of(disk: &Disk) -> Bytes {
    let backup = Bytes((16 << 10) + u64::from(disk.logical_sector));
    disk.size.saturating_sub(backup).align_down(GRAIN)
}

fn entries(table: TableKind, new_table: bool, staying: &[&Partition]) -> usize {
    match (table, new_table) {
        (TableKind::Gpt, _) => 128 - staying.len().min(128),
        // The numbers an MBR's logical partitions may have.
        (TableKind::Mbr, true) => 59,
        (TableKind::Mbr, false) => {
            let extended = usize::from(staying.iter().any(|p| p.number > 4));
            PRIMARIES.saturating_sub(staying.iter().filter(|p| p.number <= 4).count() + extended)
        }
    }
}

/// A disk that gets a new table.
pub(crate) fn fresh<'a>(disk: &'a Disk, wishes: &StorageWishes) -> Site<'a> {
    let lost = destroyed(disk);
    let removed = found_partitions(disk, "makes room for the new table");
    let grains = end_of(disk).saturating_sub(GRAIN).0 / GRAIN.0;
    Site {
        ground: Ground {
            disk,
            table: wishes.table,
            new_table: true,
            entries: entries(wishes.table, true, &[]),
            taken: Vec::new(),
            removes: removed.len() as u32 + u32::from(disk.content.is_some()),
            destroys: !lost.is_empty(),
            chain: BootChain::on(disk),
            bios: starts_by_bios(disk, wishes.table, None),
        },
        free: vec![(GRAIN, grains)],
        removed,
        lost,
    }
}

/// A disk whose table stays, with those partitions that `stays` holds for.
pub(crate) fn kept<'a>(disk: &'a Disk, table: &'a Table, stays: &dyn Fn(&Partition) -> bool) -> Site<'a> {
    let (staying, going): (Vec<_>, Vec<_>) = table.partitions.iter().partition(|p| stays(p));
    let gone = |p: &PartitionPlan| going.iter().any(|g| g.number == p.number);
    let removed: Vec<_> =
        found_partitions(disk, "makes room for the new system").into_iter().filter(gone).collect();
    let lost: Vec<_> = going.iter().map(|p| lost(disk, p)).collect();
    Site {
        ground: Ground {
            disk,
            table: table.kind,
            new_table: false,
            entries: entries(table.kind, false, &staying),
            taken: staying.iter().map(|p| p.number).collect(),
            removes: removed.len() as u32,
            destroys: !lost.is_empty(),
            chain: BootChain::on(disk),
            bios: starts_by_bios(disk, table.kind, staying.iter().map(|p| p.start).min()),
        },
        // Into a table that is damaged nothing is added.
        free: if table.damage.is_some() { Vec::new() } else { gaps(disk, table, &staying) },
        removed,
        lost,
    }
}

/// The stretches between what stays.
fn gaps(disk: &Disk, table: &Table, staying: &[&Partition]) -> Vec<(Bytes, u64)> {
    let mut walls: Vec<(Bytes, Bytes)> = staying.iter().map(|p| (p.start, p.start + p.size)).collect();
    let mut end = end_of(disk);
    if table.kind == TableKind::Mbr {
        end = end.min(Bytes(u64::from(disk.logical_sector) << 32).align_down(GRAIN));
        if staying.iter().any(|p| p.number > 4) {
            walls.push(extended(disk, table));
        }
    }
    walls.push((end, disk.size));
    walls.sort();
    let mut gaps = Vec::new();
    let mut at = GRAIN;
    for (start, stop) in walls {
        let from = at.align_up(GRAIN);
        let to = start.align_down(GRAIN).min(end);
        if to > from {
            gaps.push((from, (to - from).0 / GRAIN.0));
        }
        at = at.max(stop);
    }
    gaps
}

/// How far the extended partition can reach at most: it is not listed, but no primary partition lies in it.
fn extended(disk: &Disk, table: &Table) -> (Bytes, Bytes) {
    let (logical, primary): (Vec<_>, Vec<_>) = table.partitions.iter().partition(|p| p.number > 4);
    let first = logical.iter().map(|p| p.start).min().unwrap_or(disk.size);
    let last = logical.iter().map(|p| p.start + p.size).max().unwrap_or(disk.size);
    let from = primary.iter().map(|p| p.start + p.size).filter(|end| *end <= first).max();
    let to = primary.iter().map(|p| p.start).filter(|start| *start >= last).min();
    (from.unwrap_or(Bytes(0)), to.unwrap_or(disk.size))
}

/// The regions of all sites, the largest if there are too many.
pub(crate) fn regions(sites: &[Site<'_>]) -> Vec<Region> {
    let mut all: Vec<Region> = sites
        .iter()
        .enumerate()
        .flat_map(|(ground, site)| {
            site.free.iter().map(move |(start, grains)| Region { ground, start: *start, grains: *grains })
        })
        .filter(|region| region.grains > 0)
        .collect();
    if all.len() > REGIONS {
        all.sort_by_key(|r| (std::cmp::Reverse(r.grains), r.ground, r.start));
        all.truncate(REGIONS);
        all.sort_by_key(|r| (r.ground, r.start));
    }
    all
}

/// The partitions on the disk, all to be deleted.
fn found_partitions(disk: &Disk, why: &str) -> Vec<PartitionPlan> {
    let table = disk.table.iter();
    let mut found: Vec<PartitionPlan> = table
        .flat_map(|t| &t.partitions)
        .map(|p| PartitionPlan {
            number: p.number,
            start: p.start,
            size: p.size,
            purpose: Role::Foreign,
            name: None,
            action: Action::Delete,
            filesystem: None,
            label: None,
            mount: None,
            why: format!("{} {why}", words::partition_content(p)),
        })
        .collect();
    found.sort_by_key(|p| (p.start, p.number));
    found
}

fn lost(disk: &Disk, partition: &Partition) -> Destroyed {
    Destroyed {
        name: words::partition(&disk.name, partition.number),
        what: words::partition_content(partition),
    }
}

/// Everything a new table on this disk destroys.
fn destroyed(disk: &Disk) -> Vec<Destroyed> {
    let whole = disk.content.iter().map(|c| words::content(Some(c), disk.size));
    let table = disk.table.iter();
    let damaged = table
        .clone()
        .filter_map(|t| t.damage.as_ref())
        .map(|damage| format!("a partition table that is damaged: {damage}"));
    let whole = whole.chain(damaged).map(|what| Destroyed { name: disk.name.clone(), what });
    whole.chain(table.flat_map(|t| &t.partitions).map(|p| lost(disk, p))).collect()
}
