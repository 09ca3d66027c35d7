//! Taking away what was on a disk, so that nothing of it is ever recognised again.
//!
//! Members of RAID arrays, volume groups, pools and caches have their marks at the beginning (LVM, md 1.1 and
//! 1.2, bcache), at the end (md 0.90 and 1.0, the RAID of mainboards) or at both (ZFS, GPT), of a disk or
//! of a partition. A new partition at the place of an old one would inherit them, and an array that a
//! later start puts together from them writes into the new system. So each old partition, the disk and
//! each new partition is wiped by wipefs, which knows the marks in between, and then loses its first and
//! last MiB. Afterwards blkid must recognise nothing.
//!
//! A volume group or an array that loses a member this way is unknown from then on: what other disks still
//! hold of it says that it is incomplete.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_exec::Cmd;
use akene_planner::Action;
use akene_protocol::issue::Issue;
use anyhow::{Context, Result, bail};

use super::LockedDisk;
use super::work::Work;
use crate::probe::ProbeRoot;
use crate::probe::content;
use crate::probe::disk::{known_partitions, partition_path};
use crate::sys::block;

/// What is cleared at the beginning and at the end.
const EDGE: u64 = 1 << 20;

/// Clears a disk that gets a new table.
pub(super) fn clear_disk(disk: &LockedDisk, work: &Work<'_>) -> Result<()> {
    let known = match work {
        Work::Real(_) => known_partitions(&ProbeRoot::default(), &disk.path),
        Work::Dry(_) => Vec::new(),
    };
    for old in &known {
        wipefs(&partition_path(&disk.path, old.number), work)?;
    }
    for old in &known {
        block::delete_partition(disk.device()?, old.number)?;
    }
    let listed = disk.present.iter().flat_map(|t| &t.partitions).map(|p| (p.start, p.size));
    for (start, size) in listed.chain(known.iter().map(|k| (k.start, k.size))) {
        zero_edges(disk.device()?, disk.plan.disk.size.0, start, size)?;
    }
    for old in disk.plan.partitions.iter().filter(|p| p.action == Action::Delete) {
        work.act(|| edges_of(&disk.node(old.number)), || Ok(()))?;
    }
    wipefs(&disk.path, work)?;
    work.act(
        || edges_of(&disk.path),
        || {
            zero_edges(disk.device()?, disk.plan.disk.size.0, 0, disk.plan.disk.size.0)?;
            disk.device()?.sync_all().context("writing out")
        },
    )?;
    nothing_left(&disk.path, work)
}

fn edges_of(node: &Path) -> String {
    format!("zero the first and the last MiB of {}", node.display())
}

/// Clears the places of partitions that are deleted from a table that stays, and all that is made anew.
pub(super) fn clear_partitions(disk: &LockedDisk, work: &Work<'_>) -> Result<()> {
    let deleted = disk.plan.partitions.iter().filter(|p| p.action == Action::Delete && !disk.plan.new_table);
    for old in deleted {
        let overlaps =
            |p: &akene_planner::PartitionPlan| p.start < old.start + old.size && old.start < p.start + p.size;
        // Whatever lies there now is dealt with by itself.
        if !disk.partitions().any(overlaps) {
            work.act(
                || format!("zero the edges of the place of {}", disk.node(old.number).display()),
                || zero_edges(disk.device()?, disk.plan.disk.size.0, old.start.0, old.size.0),
            )
            .with_context(|| format!("clearing the place of partition {}", old.number))?;
        }
    }
    for new in disk.partitions().filter(|p| matches!(p.action, Action::Create | Action::Format)) {
        clear(&disk.node(new.number), new.size.0, work)?;
    }
    Ok(())
}

/// Clears a device that gets something new.
pub(super) fn clear(node: &Path, size: u64, work: &Work<'_>) -> Result<()> {
    wipefs(node, work)?;
    work.act(
        || edges_of(node),
        || {
            let device = block::open_rw(node)?;
            zero_edges(&device, size, 0, size)?;
            device.sync_all().with_context(|| format!("writing out {}", node.display()))
        },
    )?;
    nothing_left(node, work)
}

fn wipefs(node: &Path, work: &Work<'_>) -> Result<()> {
    work.run(&Cmd::new("wipefs").args(["--all", "--force", "--quiet"]).arg(node))
        .with_context(|| format!("wiping old signatures from {}", node.display()))
}

/// Zeroes the first and the last MiB of a place on a device of `limit` bytes.
fn zero_edges(device: &File, limit: u64, start: u64, size: u64) -> Result<()> {
    let end = start.saturating_add(size).min(limit);
    let length = EDGE.min(end.saturating_sub(start));
    let zeroes = vec![0; length as usize];
    for at in [start, end.saturating_sub(length)] {
        if length > 0 {
            device.write_all_at(&zeroes, at).with_context(|| format!("clearing {length} bytes at {at}"))?;
        }
    }
    Ok(())
}

fn nothing_left(node: &Path, work: &Work<'_>) -> Result<()> {
    if let Some(left) = work.ask(|runner| content::of(runner, node))?.flatten() {
        bail!(Issue::new(
            "not-cleared",
            node.to_string_lossy(),
            format!("it was wiped, and is still recognised as {}", left.kind),
            "the disk may be failing or write-protected; replace it, or clear it with the rescue shell",
        ));
    }
    Ok(())
}
