//! The table of a stick: that of the ISO with one partition more, and its copy at the end of the stick.
//!
//! The first sector is the ISO's, byte for byte but for the size its protective entry gives: it holds the code a BIOS
//! starts, and the entry some of them want to see marked active. xorriso gives the table room for 248 entries, so that the
//! first 64 sectors are taken; the system area of an ISO has exactly these.

use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt as _;

use akene_protocol::medium::LABEL;
use anyhow::{Context, Result, bail, ensure};
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::partition::{Partition, file_read_partitions};
use gpt::partition_types::{OperatingSystem, Type};
use uuid::{Uuid, uuid};

/// Sectors of sticks, and of the tables xorriso writes.
pub const SECTOR: u64 = 512;

/// Partitions begin and end on multiples of this.
pub const GRAIN: u64 = 1 << 20;

/// The part of an ISO that belongs to partition tables.
pub const SYSTEM_AREA: u64 = 64 * SECTOR;

const BLOCK: LogicalBlockSize = LogicalBlockSize::Lb512;
const ENTRY: usize = 128;
const LINUX: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");

/// A part of a stick, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

/// The data partition of a stick; `None`: there is none, or no table.
///
/// # Errors
/// The table cannot be read.
pub fn data(mut stick: &File) -> Result<Option<Span>> {
    let Ok(header) = read_header_from_arbitrary_device(&mut stick, BLOCK) else { return Ok(None) };
    let all = file_read_partitions(&mut stick, &header, BLOCK).context("reading the partition table")?;
    let Some(found) = all.values().find(|p| p.is_used() && p.name == LABEL) else { return Ok(None) };
    let sectors = found.last_lba.checked_sub(found.first_lba).context("reading the partition table")? + 1;
    let bytes = |sectors: u64| sectors.checked_mul(SECTOR).context("reading the partition table");
    Ok(Some(Span { start: bytes(found.first_lba)?, length: bytes(sectors)? }))
}

/// Where an image with a table ends: after the copy of the table.
///
/// # Errors
/// There is no table.
pub fn end(mut image: &File) -> Result<u64> {
    let header =
        read_header_from_arbitrary_device(&mut image, BLOCK).context("reading the partition table")?;
    Ok((header.backup_lba + 1) * SECTOR)
}

/// The table of a stick to be.
pub struct Table {
    first: [u8; SECTOR as usize],
    header: Header,
    entries: Vec<u8>,
    last: u64,
}

impl Table {
    /// The table of an ISO on a stick of this size. The partition with the data goes from `start` as far as it can.
    ///
    /// # Errors
    /// The ISO has no table as `akene-image build` gives it, or the stick is too small.
    pub fn new(mut iso: &File, size: u64, start: u64, id: Uuid) -> Result<(Table, Span)> {
        let reading = "reading the partition table of the ISO; is it one of `akene-image build`?";
        let mut first = [0; SECTOR as usize];
        iso.read_exact_at(&mut first, 0).context(reading)?;
        let header = read_header_from_arbitrary_device(&mut iso, BLOCK).context(reading)?;
        let length = header.num_parts as usize * ENTRY;
        ensure!(
            header.part_size as usize == ENTRY
                && header.part_start * SECTOR + length as u64 <= SYSTEM_AREA
                && first[510..] == [0x55, 0xaa],
            reading
        );
        let mut entries = vec![0; length];
        iso.read_exact_at(&mut entries, header.part_start * SECTOR).context(reading)?;
        let used = file_read_partitions(&mut iso, &header, BLOCK).context(reading)?;
        ensure!(
            used.values().all(|p| !p.is_used() || p.last_lba < start / SECTOR),
            "making room for the data: {reading}"
        );
        let free = entries.chunks(ENTRY).position(|entry| entry.iter().all(|b| *b == 0));
        let Some(free) = free else { bail!("{reading}: there is no entry free") };

        let last = size / SECTOR - 1;
        let copy = last - (length as u64).div_ceil(SECTOR);
        let end = (copy * SECTOR) / GRAIN * GRAIN;
        ensure!(end > start, "there is no room for data on a stick of {size} bytes");
        let data = Partition {
            part_type_guid: Type { guid: LINUX, os: OperatingSystem::None },
            part_guid: id,
            first_lba: start / SECTOR,
            last_lba: end / SECTOR - 1,
            flags: 0,
            name: LABEL.into(),
        };
        let mut array = Cursor::new(entries);
        data.write_to_device(&mut array, free as u64, 0, BLOCK, ENTRY as u32)
            .context("making the entry of the data")?;
        protect(&mut first, last)?;
        let header = Header { backup_lba: last, last_usable: copy - 1, ..header };
        let table = Table { first, header, entries: array.into_inner(), last };
        Ok((table, Span { start, length: end - start }))
    }

    /// Writes it, the copy at the end first, unless it is there already. Gives back how many bytes were written.
    ///
    /// # Errors
    /// The stick does not take it.
    pub fn write(&self, mut stick: &File) -> Result<u64> {
        if self.is_on(stick) {
            return Ok(0);
        }
        let writing = "writing the partition table";
        let length = self.entries.len() as u64;
        let copy = self.last - length.div_ceil(SECTOR);
        for (main, array) in [(false, copy), (true, self.header.part_start)] {
            stick.write_all_at(&self.entries, array * SECTOR).context(writing)?;
            let mut header = self.header.clone();
            if main {
                header.write_primary(&mut stick, BLOCK).context(writing)?;
            } else {
                (header.current_lba, header.backup_lba, header.part_start) = (self.last, 1, copy);
                header.write_backup(&mut stick, BLOCK).context(writing)?;
            }
            stick.sync_all().context(writing)?;
        }
        stick.write_all_at(&self.first, 0).context(writing)?;
        stick.sync_all().context(writing)?;
        Ok(2 * (length + SECTOR) + SECTOR)
    }

    fn is_on(&self, mut stick: &File) -> bool {
        let Ok(there) = read_header_from_arbitrary_device(&mut stick, BLOCK) else { return false };
        let (mut first, mut entries) = (self.first, self.entries.clone());
        let read = stick
            .read_exact_at(&mut first, 0)
            .and_then(|()| stick.read_exact_at(&mut entries, self.header.part_start * SECTOR));
        // Sums follow from the rest, and were right, or the header would not have been read.
        let ours = Header { crc32: there.crc32, crc32_parts: there.crc32_parts, ..self.header.clone() };
        read.is_ok() && first == self.first && entries == self.entries && ours == there
    }
}

/// Lets the protective entry cover the whole stick; all else in the first sector stays.
fn protect(first: &mut [u8; SECTOR as usize], last: u64) -> Result<()> {
    let entry = (0..4).map(|n| 446 + 16 * n).find(|at| first[at + 4] == 0xee);
    let at =
        entry.context("looking for the protective entry in the first sector of the ISO: there is none")?;
    let start = u64::from(u32::from_le_bytes([first[at + 8], first[at + 9], first[at + 10], first[at + 11]]));
    let sectors = u32::try_from(last + 1 - start).unwrap_or(u32::MAX);
    first[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    Ok(())
}
