//! Writing partition tables.
//!
//! A table is first written on a sparse file of the size of the disk, read back with our own reader, and
//! compared with the plan. Only then the disk is written, in an order in which a power cut leaves a
//! readable table, and read back again: it must be the rehearsed one to the last bit.

mod gpt;
mod mbr;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;

use akene_planner::{Action, DiskPlan};
use akene_protocol::inventory::TableKind;
use akene_protocol::issue::Issue;
use anyhow::{Context, Result, bail, ensure};

use super::ids::Ids;
use super::work::Work;
use super::{LockedDisk, stale};
use crate::probe::table::{Layout, RawTable, read};

/// What lies before the first partition and behind the last.
const EDGE: u64 = 1 << 20;

/// Writes the planned table on a sparse file and checks what came out.
pub(super) fn rehearse(disk: &mut LockedDisk) -> Result<()> {
    if !changes(disk) {
        ensure_kept(&disk.plan, disk.present.as_ref())?;
        return Ok(());
    }
    let (size, sector) = (disk.plan.disk.size.0, disk.plan.logical_sector);
    let stage = tempfile::tempfile().context("creating a file to rehearse on")?;
    stage.set_len(size).context("giving the rehearsal the size of the disk")?;
    if !disk.plan.new_table {
        copy_table(disk.device()?, &stage, disk.present.as_ref(), size, sector)?;
    }
    put(&stage, &disk.plan, disk.present.as_ref(), &disk.ids)?;
    let Some(result) = read(&stage, size, sector)? else {
        bail!(misfit("no table could be read back".into()));
    };
    compare(&disk.plan, disk.present.as_ref(), &result)?;
    disk.rehearsed = Some(result);
    Ok(())
}

/// Writes the rehearsed table on the disk.
pub(super) fn write(disk: &LockedDisk, work: &Work<'_>) -> Result<()> {
    if !changes(disk) {
        return Ok(());
    }
    let (size, sector) = (disk.plan.disk.size.0, disk.plan.logical_sector);
    if disk.plan.new_table {
        stale::clear_disk(disk, work)?;
    }
    describe(disk, work)?;
    work.act(
        || format!("write the table of {} and read it back", disk.shown()),
        || {
            put(disk.device()?, &disk.plan, disk.present.as_ref(), &disk.ids)?;
            let written = read(disk.device()?, size, sector)?;
            ensure!(
                written == disk.rehearsed,
                "what {} gives back is not what was written to it: the disk or its cable is failing, replace it",
                disk.shown()
            );
            Ok(())
        },
    )
}

/// Whether the table is written at all.
fn changes(disk: &LockedDisk) -> bool {
    let entries = disk.plan.partitions.iter().any(|p| matches!(p.action, Action::Create | Action::Delete));
    // GRUB reads no copy of a GPT: one that is damaged is mended, whatever else happens.
    let damaged =
        disk.present.as_ref().is_some_and(|t| t.damage.is_some() && matches!(t.layout, Layout::Gpt(Some(_))));
    disk.plan.new_table || entries || damaged
}

/// Says what will be in the table, entry by entry.
fn describe(disk: &LockedDisk, work: &Work<'_>) -> Result<()> {
    let (kind, id) = match disk.plan.table {
        TableKind::Gpt => ("GPT", disk.ids.disk().to_string()),
        TableKind::Mbr => ("MBR", hex::encode(disk.ids.signature())),
    };
    let shown = disk.shown();
    let said = |what: String| work.act(|| what, || Ok(()));
    match disk.plan.new_table {
        true => said(format!("{shown}: a new {kind} with the identifier {id}"))?,
        false => said(format!("{shown}: the {kind} that is there, changed"))?,
    }
    for p in &disk.plan.partitions {
        let sector = u64::from(disk.plan.logical_sector);
        let place = format!(
            "sectors {} to {}",
            p.start.0 / sector,
            ((p.start + p.size).0 / sector).saturating_sub(1)
        );
        let what = match (p.action, disk.plan.new_table) {
            (Action::Delete, true) => continue,
            (Action::Delete, false) => "is taken out".to_owned(),
            (Action::Create, _) => {
                let name = p.table_name().unwrap_or_default();
                let kind = match disk.plan.table {
                    TableKind::Gpt => {
                        format!("type {}, GUID {}", gpt::kind(p), disk.ids.partition(&p.purpose, p.number))
                    }
                    TableKind::Mbr => format!("type {:#04x}", mbr::kind(p)),
                };
                format!("is made for {name}, {kind}")
            }
            (Action::Keep | Action::Format | Action::Refresh, _) => "stays".to_owned(),
        };
        said(format!("{shown}: partition {} at {place} {what}", p.number))?;
    }
    Ok(())
}

/// Writes the table of the plan on a disk or on the rehearsal.
fn put(device: &File, plan: &DiskPlan, present: Option<&RawTable>, ids: &Ids) -> Result<()> {
    match plan.table {
        TableKind::Gpt => gpt::put(device, plan, present, ids),
        TableKind::Mbr => mbr::put(device, plan, present, ids),
    }
}

/// Copies what the present table consists of.
fn copy_table(from: &File, to: &File, present: Option<&RawTable>, size: u64, sector: u32) -> Result<()> {
    let edge = EDGE.min(size / 2);
    let links = present.iter().flat_map(|t| &t.partitions).filter_map(|p| p.ebr);
    let container = match present.map(|t| &t.layout) {
        Some(Layout::Mbr(Some(container))) => Some(container.start),
        _ => None,
    };
    let old_copy = match present.map(|t| &t.layout) {
        Some(Layout::Gpt(Some(geometry))) => Some(geometry.backup_at * u64::from(sector)),
        _ => None,
    };
    let sectors = links.chain(container).chain(old_copy).map(|at| (at, u64::from(sector)));
    for (at, length) in [(0, edge), (size - edge, edge)].into_iter().chain(sectors) {
        let mut bytes = vec![0; length as usize];
        from.read_exact_at(&mut bytes, at).context("reading the present table")?;
        to.write_all_at(&bytes, at).context("copying the present table")?;
    }
    Ok(())
}

fn misfit(problem: String) -> Issue {
    Issue::new(
        "rehearsal-failed",
        "",
        format!("the new partition table did not come out as planned: {problem}"),
        "nothing was written; please report this with the plan and the inventory",
    )
}

/// Compares a table with the plan it was made from.
fn compare(plan: &DiskPlan, present: Option<&RawTable>, result: &RawTable) -> Result<()> {
    if result.kind() != plan.table {
        bail!(misfit("it is of another kind".into()));
    }
    if let Some(damage) = &result.damage {
        bail!(misfit(damage.clone()));
    }
    let mut planned: Vec<_> = plan.partitions.iter().filter(|p| p.action != Action::Delete).collect();
    planned.sort_by_key(|p| p.number);
    let shown = |number: u32, start: u64, size: u64| format!("{number} at {start} with {size} bytes");
    let wanted: Vec<_> = planned.iter().map(|p| shown(p.number, p.start.0, p.size.0)).collect();
    let got: Vec<_> = result.partitions.iter().map(|p| shown(p.number, p.start, p.size)).collect();
    if wanted != got {
        bail!(misfit(format!("planned were {}, and there are {}", wanted.join(", "), got.join(", "))));
    }
    for (p, now) in planned.iter().zip(&result.partitions).filter(|(p, _)| p.action != Action::Create) {
        let before = present.and_then(|t| t.partitions.iter().find(|b| b.number == p.number));
        if before.map(|b| &b.raw) != Some(&now.raw) {
            bail!(misfit(format!("partition {} was to stay as it is and changed", p.number)));
        }
    }
    Ok(())
}

/// Makes sure that the plan agrees with a table that is not changed.
fn ensure_kept(plan: &DiskPlan, present: Option<&RawTable>) -> Result<()> {
    let Some(present) = present else { bail!(misfit("there is no table to keep".into())) };
    // Damage elsewhere in a table that is not written is not our business; the places must fit.
    let sound = RawTable { damage: None, ..present.clone() };
    compare(plan, Some(present), &sound)
}
