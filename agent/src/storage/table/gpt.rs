//! Writing a GPT through the `gpt` crate's low-level interface.
//!
//! Its high-level one renumbers partitions across gaps, accepts overlaps and places beyond the end of
//! the disk, and writes no protective MBR. So the entries are written one by one at their own
//! places, kept ones bit for bit, into both copies of the array, and then the headers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ::gpt::disk::LogicalBlockSize;
use ::gpt::header::Header;
use ::gpt::mbr::ProtectiveMBR;
use ::gpt::partition::Partition;
use ::gpt::partition_types::{OperatingSystem, Type};
use akene_planner::{Action, DiskPlan, PartitionPlan, Role};
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail, ensure};
use uuid::{Uuid, uuid};

use super::super::ids::Ids;
use crate::probe::table::{Geometry, Layout, RawTable};

const BIOS_BOOT: Uuid = uuid!("21686148-6449-6e6f-744e-656564454649");
const ESP: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
const LINUX: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");
const SWAP: Uuid = uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f");
const LVM: Uuid = uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928");

/// As every tool makes it: 128 entries of 128 bytes.
const ENTRIES: u32 = 128;
const ENTRY_SIZE: u32 = 128;

/// Writes the table.
pub(super) fn put(mut device: &File, plan: &DiskPlan, present: Option<&RawTable>, ids: &Ids) -> Result<()> {
    let sector = u64::from(plan.logical_sector);
    let block = match plan.logical_sector {
        512 => LogicalBlockSize::Lb512,
        4096 => LogicalBlockSize::Lb4096,
        other => bail!("sectors of {other} bytes are not supported"),
    };
    let last = plan.disk.size.0 / sector - 1;
    let geometry = geometry(plan, present, ids, last)?;
    let array_sectors = (u64::from(geometry.entries) * u64::from(geometry.entry_size)).div_ceil(sector);
    let backup_array = last - array_sectors;

    let mut entries = Vec::new();
    for planned in plan.partitions.iter().filter(|p| p.action != Action::Delete) {
        let (first, end) = (planned.start.0 / sector, (planned.start + planned.size).0 / sector);
        ensure!(planned.number <= geometry.entries, "the table has no room for partition {}", planned.number);
        ensure!(
            stays(planned) || (geometry.first_usable..=geometry.last_usable + 1).contains(&end),
            "partition {} ends in the table's own place at the end of the disk",
            planned.number
        );
        ensure!(
            stays(planned) || first >= geometry.first_usable,
            "partition {} begins in the table's own place",
            planned.number
        );
        entries.push((planned, first, end - 1));
    }
    // The copy at the end first: until the main header changes, the old table is the valid one.
    for array in [backup_array, geometry.entries_at] {
        Partition::write_zero_entries_to_device(
            &mut device,
            0,
            u64::from(geometry.entries),
            array,
            block,
            geometry.entry_size,
        )
        .context("clearing the entries")?;
        for (planned, first, last) in &entries {
            let index = u64::from(planned.number) - 1;
            if planned.action == Action::Create {
                entry(planned, ids, *first, *last)
                    .write_to_device(&mut device, index, array, block, geometry.entry_size)
                    .with_context(|| format!("writing entry {}", planned.number))?;
            } else {
                let raw = kept(present, planned)?;
                let at = array * sector + index * u64::from(geometry.entry_size);
                device.write_all_at(raw, at).with_context(|| format!("keeping entry {}", planned.number))?;
            }
        }
        let main = array == geometry.entries_at;
        let mut header = header(&geometry, last, main, backup_array);
        let written = if main {
            header.write_primary(&mut device, block)
        } else {
            header.write_backup(&mut device, block)
        };
        written.context("writing a header")?;
        device.sync_all().context("writing out the table")?;
    }
    protect(device, plan, last)
}

/// Whether it is somebody else who chose its place.
fn stays(planned: &PartitionPlan) -> bool {
    matches!(planned.action, Action::Keep | Action::Refresh)
}

/// Where the table keeps what: as it does now, or the usual places.
fn geometry(plan: &DiskPlan, present: Option<&RawTable>, ids: &Ids, last: u64) -> Result<Geometry> {
    let sector = u64::from(plan.logical_sector);
    if plan.new_table {
        let array = (u64::from(ENTRIES) * u64::from(ENTRY_SIZE)).div_ceil(sector);
        return Ok(Geometry {
            disk_guid: ids.disk().to_bytes_le(),
            first_usable: 2 + array,
            last_usable: last - array - 1,
            entries_at: 2,
            entries: ENTRIES,
            entry_size: ENTRY_SIZE,
            backup_at: last,
        });
    }
    let Some(Layout::Gpt(Some(present))) = present.map(|t| &t.layout) else {
        bail!("there is no sound GPT to change on {}", Path::new(&plan.disk.path).display());
    };
    let array = (u64::from(present.entries) * u64::from(present.entry_size)).div_ceil(sector);
    // A disk that has grown gets its copy at the new end. The main array may be what was damaged; it
    // goes where the header says, which for a copy read from the end is the copy's own place.
    let entries_at = if present.entries_at > last / 2 { 2 } else { present.entries_at };
    Ok(Geometry { backup_at: last, last_usable: last - array - 1, entries_at, ..present.clone() })
}

fn kept<'a>(present: Option<&'a RawTable>, planned: &PartitionPlan) -> Result<&'a [u8]> {
    let entry = present.and_then(|t| t.partitions.iter().find(|p| p.number == planned.number));
    Ok(&entry.with_context(|| format!("looking for partition {}, which is to stay", planned.number))?.raw)
}

/// The type of a partition we make.
pub(super) fn kind(planned: &PartitionPlan) -> Uuid {
    match (&planned.purpose, planned.filesystem) {
        (Role::BiosBoot, _) => BIOS_BOOT,
        (Role::Esp, _) => ESP,
        (Role::Physical(_), _) => LVM,
        (_, Some(Filesystem::Swap)) => SWAP,
        _ => LINUX,
    }
}

fn entry(planned: &PartitionPlan, ids: &Ids, first_lba: u64, last_lba: u64) -> Partition {
    Partition {
        part_type_guid: Type { guid: kind(planned), os: OperatingSystem::None },
        part_guid: ids.partition(&planned.purpose, planned.number),
        first_lba,
        last_lba,
        flags: 0,
        name: planned.table_name().unwrap_or_default(),
    }
}

fn header(geometry: &Geometry, last: u64, main: bool, backup_array: u64) -> Header {
    let (current_lba, backup_lba, part_start) =
        if main { (1, last, geometry.entries_at) } else { (last, 1, backup_array) };
    Header {
        signature: "EFI PART".into(),
        revision: (1, 0),
        header_size_le: 92,
        crc32: 0,
        reserved: 0,
        current_lba,
        backup_lba,
        first_usable: geometry.first_usable,
        last_usable: geometry.last_usable,
        disk_guid: Uuid::from_bytes_le(geometry.disk_guid),
        part_start,
        num_parts: geometry.entries,
        part_size: geometry.entry_size,
        crc32_parts: 0,
    }
}

/// Writes the protective MBR where there is none. One that is there stays: it may hold boot code, and
/// entries of its own that some machines need.
fn protect(mut device: &File, plan: &DiskPlan, last: u64) -> Result<()> {
    let mut first = [0; 512];
    device.read_exact_at(&mut first, 0).context("reading the first sector")?;
    let there = first[510..] == [0x55, 0xaa] && (0..4).any(|i| first[446 + 16 * i + 4] == 0xee);
    if plan.new_table || !there {
        ProtectiveMBR::with_lb_size(u32::try_from(last).unwrap_or(u32::MAX))
            .overwrite_lba0(&mut device)
            .context("writing the protective MBR")?;
        device.sync_all().context("writing out the protective MBR")?;
    }
    Ok(())
}
