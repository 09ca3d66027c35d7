//! Writing an MBR and its chain of logical partitions.
//!
//! The main sector through `mbrman`. Its own code for logical partitions multiplies a place in
//! sectors by the sector size in 32 bits (0.6.1, `write_into`), so that a link beyond 4 GiB is written
//! into the midst of other data. A link has the very shape of a main sector; so each is built as one and
//! written at its place by us.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

use akene_planner::{Action, DiskPlan, PartitionPlan, Role};
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail, ensure};
use mbrman::{BOOT_ACTIVE, BOOT_INACTIVE, CHS, MBRHeader, MBRPartitionEntry};

use super::super::ids::Ids;
use crate::probe::table::{Container, Layout, RawTable};

const LINUX: u8 = 0x83;
const SWAP: u8 = 0x82;
const ESP: u8 = 0xef;
const LVM: u8 = 0x8e;
const EXTENDED_LBA: u8 = 0x0f;

/// The usual distance between the link of a logical partition and its first sector.
const LINK_GAP: u64 = 1 << 20;

/// A logical partition to be.
struct Logical<'a> {
    planned: &'a PartitionPlan,
    /// First byte of its link.
    link: u64,
}

/// Writes the table.
pub(super) fn put(device: &File, plan: &DiskPlan, present: Option<&RawTable>, ids: &Ids) -> Result<()> {
    let sector = u64::from(plan.logical_sector);
    let there: Vec<_> = plan.partitions.iter().filter(|p| p.action != Action::Delete).collect();
    let logicals = logicals(&there, present, sector)?;
    let container = container(&there, &logicals, present, plan.new_table)?;

    let mut first = [0; 512];
    device.read_exact_at(&mut first, 0).context("reading the first sector")?;
    let mut header = match plan.new_table {
        true => MBRHeader::new(ids.signature()),
        false => MBRHeader::read_from(&mut Cursor::new(&first[..])).context("reading the present table")?,
    };
    let kept_active = there.iter().any(|p| p.number <= 4 && p.action != Action::Create && active(present, p));
    let mut overlays = Vec::new();
    for number in 1..=4u32 {
        let slot = header.get_mut(number as usize).with_context(|| format!("finding entry {number}"))?;
        let planned = there.iter().find(|p| p.number == number);
        *slot = match (planned, &container) {
            (Some(_), Some(c)) if c.number == number => {
                bail!("partition {number} and the extended partition claim the same entry")
            }
            (None, Some(c)) if c.number == number => span(c.kind, false, c.start / sector, c.size / sector)?,
            (Some(p), _) if p.action != Action::Create => {
                overlays.push((446 + 16 * (number as usize - 1), kept(present, p)?));
                MBRPartitionEntry::empty()
            }
            (Some(p), _) => {
                let active = p.purpose == Role::Boot && !kept_active;
                span(kind(p), active, p.start.0 / sector, p.size.0 / sector)?
            }
            (None, _) => MBRPartitionEntry::empty(),
        };
    }
    if let Some(container) = &container {
        chain(device, container, &logicals, present, sector)?;
        device.sync_all().context("writing out the chain of logical partitions")?;
    }
    // Last: until here the old table is the valid one.
    let mut main = sector_of(&header)?;
    for (at, raw) in overlays {
        main[at..at + 16].copy_from_slice(raw);
    }
    device.write_all_at(&main, 0).context("writing the first sector")?;
    device.sync_all().context("writing out the table")
}

fn sector_of(header: &MBRHeader) -> Result<Vec<u8>> {
    let mut sector = Cursor::new(Vec::with_capacity(512));
    header.write_into(&mut sector).context("composing a sector of the table")?;
    let sector = sector.into_inner();
    ensure!(sector.len() == 512, "composing a sector of the table gave {} bytes", sector.len());
    Ok(sector)
}

/// The type of a partition we make.
pub(super) fn kind(planned: &PartitionPlan) -> u8 {
    match (&planned.purpose, planned.filesystem) {
        (Role::Esp, _) => ESP,
        (Role::Physical(_), _) => LVM,
        (_, Some(Filesystem::Swap)) => SWAP,
        _ => LINUX,
    }
}

/// An entry. Cylinders, heads and sectors say "too far away for them", which every firmware that still
/// reads them understands.
fn span(sys: u8, active: bool, start: u64, length: u64) -> Result<MBRPartitionEntry> {
    let far = CHS::new(1023, 254, 63);
    Ok(MBRPartitionEntry {
        boot: if active { BOOT_ACTIVE } else { BOOT_INACTIVE },
        first_chs: far,
        sys,
        last_chs: far,
        starting_lba: u32::try_from(start).context("placing a partition in an MBR")?,
        sectors: u32::try_from(length).context("sizing a partition in an MBR")?,
    })
}

fn entry<'a>(
    present: Option<&'a RawTable>,
    planned: &PartitionPlan,
) -> Option<&'a crate::probe::table::RawPartition> {
    present?.partitions.iter().find(|p| p.number == planned.number)
}

fn active(present: Option<&RawTable>, planned: &PartitionPlan) -> bool {
    entry(present, planned).is_some_and(|e| e.raw[0] == BOOT_ACTIVE)
}

fn kept<'a>(present: Option<&'a RawTable>, planned: &PartitionPlan) -> Result<&'a [u8]> {
    let entry = entry(present, planned);
    Ok(&entry.with_context(|| format!("looking for partition {}, which is to stay", planned.number))?.raw)
}

/// The logical partitions in the order of their numbers, with the places of their links: where they are
/// for those that stay, in the gap before a new one.
fn logicals<'a>(
    there: &[&'a PartitionPlan],
    present: Option<&RawTable>,
    sector: u64,
) -> Result<Vec<Logical<'a>>> {
    let mut logicals = Vec::new();
    for planned in there.iter().copied().filter(|p| p.number > 4) {
        let link = match entry(present, planned).filter(|_| planned.action != Action::Create) {
            Some(old) => {
                old.ebr.with_context(|| format!("partition {} is not a logical one", planned.number))?
            }
            None => {
                let start = planned.start.0;
                let before = there.iter().map(|p| (p.start + p.size).0).filter(|end| *end <= start).max();
                let free = before.unwrap_or(sector);
                ensure!(
                    free + sector <= start,
                    "logical partition {} has no room for its link before it: plan a gap of 1 MiB",
                    planned.number
                );
                start.saturating_sub(LINK_GAP).max(free)
            }
        };
        logicals.push(Logical { planned, link });
    }
    logicals.sort_by_key(|l| l.planned.number);
    for (i, logical) in logicals.iter().enumerate() {
        let expected = 5 + i as u32;
        ensure!(
            logical.planned.number == expected,
            "logical partitions are numbered by their order: {} would become {expected}",
            logical.planned.number
        );
    }
    Ok(logicals)
}

/// The extended partition that holds the logical ones: the present one, made larger if need be, or a new one.
fn container(
    there: &[&PartitionPlan],
    logicals: &[Logical<'_>],
    present: Option<&RawTable>,
    new_table: bool,
) -> Result<Option<Container>> {
    let (Some(start), Some(end)) = (
        logicals.iter().map(|l| l.link).min(),
        logicals.iter().map(|l| (l.planned.start + l.planned.size).0).max(),
    ) else {
        return Ok(None);
    };
    let container = match present.map(|t| &t.layout) {
        Some(Layout::Mbr(Some(old))) if !new_table => {
            let (start, end) = (old.start.min(start), (old.start + old.size).max(end));
            Container { start, size: end - start, ..old.clone() }
        }
        _ => {
            let taken = |n: &u32| there.iter().any(|p| p.number == *n);
            let number = (1..=4).find(|n| !taken(n)).context(
                "all four entries of the table are taken, and none is left for logical partitions",
            )?;
            Container { number, start, size: end - start, kind: EXTENDED_LBA }
        }
    };
    let foreign = there.iter().find(|p| {
        p.number <= 4
            && p.start.0 < container.start + container.size
            && (p.start + p.size).0 > container.start
    });
    match foreign {
        Some(p) => bail!("partition {} lies between the logical partitions", p.number),
        None => Ok(Some(container)),
    }
}

/// Writes the links. The first stands at the very beginning of the container; where the first logical
/// partition has its own elsewhere, an empty one leads there.
fn chain(
    device: &File,
    container: &Container,
    logicals: &[Logical<'_>],
    present: Option<&RawTable>,
    sector: u64,
) -> Result<()> {
    let empty_first = logicals.first().is_some_and(|l| l.link != container.start);
    let links = empty_first.then_some((container.start, None)).into_iter();
    let links: Vec<_> = links.chain(logicals.iter().map(|l| (l.link, Some(l.planned)))).collect();
    for (i, (at, planned)) in links.iter().enumerate() {
        let mut link = MBRHeader::new([0; 4]);
        let mut overlay = None;
        match planned {
            Some(p) if p.action != Action::Create => overlay = Some(kept(present, p)?),
            Some(p) => link.partition_1 = span(kind(p), false, (p.start.0 - at) / sector, p.size.0 / sector)?,
            None => {}
        }
        if let Some((next, planned)) = links.get(i + 1) {
            // From the link to the end of its partition, counted from the container.
            let end = planned.map_or(next + sector, |p| (p.start + p.size).0);
            link.partition_2 = span(0x05, false, (next - container.start) / sector, (end - next) / sector)?;
        }
        let mut bytes = sector_of(&link)?;
        if let Some(raw) = overlay {
            bytes[446..462].copy_from_slice(raw);
        }
        device.write_all_at(&bytes, *at).with_context(|| format!("writing link {}", i + 1))?;
    }
    Ok(())
}
