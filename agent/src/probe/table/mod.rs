//! Reading partition tables from raw devices.
//!
//! Ours and not the kernel's view: a kernel may lack a parser, may have an old state, and tells neither
//! damage nor what is needed to change a table. [`read`] never changes anything, survives any
//! bytes, and is used three times: by the probe, at commit to see that nothing changed, and to read
//! back what was written.

mod gpt;
mod mbr;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use akene_protocol::Bytes;
use akene_protocol::ids::Sha256;
use akene_protocol::inventory::{Partition, Table, TableKind};
use anyhow::{Context, Result, ensure};
use sha2::Digest;

pub use gpt::Geometry;
pub use mbr::Container;

/// A partition table, with all that is needed to change it.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTable {
    /// Disk GUID or MBR signature, as in the inventory.
    pub id: Option<String>,
    /// Over every sector that holds the table.
    pub hash: Sha256,
    /// What is wrong with it.
    pub damage: Option<String>,
    /// By number.
    pub partitions: Vec<RawPartition>,
    /// What only one kind has.
    pub layout: Layout,
}

/// What only one kind of table has.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// GPT. `None`: both headers are damaged.
    Gpt(Option<Geometry>),
    /// MBR, with its extended partition if there is one.
    Mbr(Option<Container>),
}

/// A partition as it stands in the table.
#[derive(Clone, Debug, PartialEq)]
pub struct RawPartition {
    /// Number in the table, from 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// GPT type GUID or MBR type, as in the inventory.
    pub kind: String,
    /// GPT name.
    pub name: Option<String>,
    /// GPT unique GUID.
    pub uuid: Option<String>,
    /// The entry itself, bit for bit: a kept partition is written back as it was.
    pub raw: Vec<u8>,
    /// Byte at which the sector stands that describes an MBR logical partition.
    pub ebr: Option<u64>,
}

impl RawPartition {
    /// The byte after the last.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }
}

impl RawTable {
    /// GPT or MBR.
    pub fn kind(&self) -> TableKind {
        match self.layout {
            Layout::Gpt(_) => TableKind::Gpt,
            Layout::Mbr(_) => TableKind::Mbr,
        }
    }

    /// As the inventory has it. What lies on the partitions is not known here.
    pub fn to_inventory(&self) -> Table {
        let partition = |p: &RawPartition| Partition {
            number: p.number,
            start: Bytes(p.start),
            size: Bytes(p.size),
            kind: p.kind.clone(),
            name: p.name.clone(),
            uuid: p.uuid.clone(),
            content: None,
        };
        Table {
            kind: self.kind(),
            id: self.id.clone(),
            hash: self.hash,
            damage: self.damage.clone(),
            partitions: self.partitions.iter().map(partition).collect(),
        }
    }
}

/// Reads the partition table of a disk of `size` bytes with logical sectors of `sector` bytes.
/// `None`: there is none.
pub fn read(device: &File, size: u64, sector: u32) -> Result<Option<RawTable>> {
    ensure!(
        sector.is_power_of_two() && (512..=4096).contains(&sector),
        "sectors of {sector} bytes are not supported"
    );
    // Smaller than any table: three sectors are the least a GPT header pair needs.
    if size < u64::from(sector) * 3 {
        return Ok(None);
    }
    let mut sectors = Sectors { device, size, sector, seen: BTreeMap::new() };
    let first = sectors.read(0, 1)?;
    let table = match gpt::read(&mut sectors, &first)? {
        Some(table) => Some(table),
        None => mbr::read(&mut sectors, &first)?,
    };
    let hash = sectors.hash();
    Ok(table.map(|mut table| {
        table.hash = hash;
        table.partitions.sort_by_key(|p| p.number);
        if table.damage.is_none() {
            table.damage = misplaced(&table.partitions, size);
        }
        table
    }))
}

/// What is wrong with the places of the partitions.
fn misplaced(partitions: &[RawPartition], size: u64) -> Option<String> {
    let mut by_place: Vec<_> = partitions.iter().collect();
    by_place.sort_by_key(|p| p.start);
    let overlap = by_place
        .windows(2)
        .find(|pair| pair[0].end() > pair[1].start)
        .map(|pair| format!("partitions {} and {} overlap", pair[0].number, pair[1].number));
    let beyond = || {
        let p = partitions.iter().find(|p| p.end() > size)?;
        Some(format!("partition {} reaches beyond the end of the disk", p.number))
    };
    overlap.or_else(beyond)
}

/// A disk read by sectors, remembering which ones the table was read from.
struct Sectors<'a> {
    device: &'a File,
    size: u64,
    sector: u32,
    seen: BTreeMap<u64, Vec<u8>>,
}

impl Sectors<'_> {
    /// The number of the last whole sector.
    fn last(&self) -> u64 {
        self.size / u64::from(self.sector) - 1
    }

    /// Reads `count` sectors from sector number `lba`, which must lie on the disk.
    fn read(&mut self, lba: u64, count: u64) -> Result<Vec<u8>> {
        ensure!(
            count <= self.last() + 1 && lba <= self.last() + 1 - count,
            "sector {lba} is not on the disk"
        );
        let sector = self.sector as usize;
        let mut bytes = vec![0; sector * usize::try_from(count).context("reading a table")?];
        let offset = lba * u64::from(self.sector);
        self.device.read_exact_at(&mut bytes, offset).with_context(|| format!("reading byte {offset}"))?;
        for (i, part) in bytes.chunks(sector).enumerate() {
            self.seen.insert(lba + i as u64, part.to_owned());
        }
        Ok(bytes)
    }

    /// Over all sectors read so far, in the order in which they lie on the disk.
    fn hash(&self) -> Sha256 {
        let mut sum = sha2::Sha256::new();
        for part in self.seen.values() {
            sum.update(part);
        }
        Sha256(sum.finalize().into())
    }
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at + 2)) << 16
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}
