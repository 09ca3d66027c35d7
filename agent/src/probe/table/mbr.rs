//! MBR with its chain of logical partitions.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Layout, RawPartition, RawTable, Sectors, le16, le32};
use akene_protocol::ids::Sha256;

/// More links than any chain has that somebody made on purpose.
const LONGEST_CHAIN: usize = 128;

/// The extended partition, which holds the logical ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Which of the four it is.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// Type: 0x05, 0x0f or 0x85.
    pub kind: u8,
}

/// Whether a type is that of an extended partition.
pub(crate) fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// Whether the sector is an MBR with a partition in it.
pub(super) fn has_partitions(first: &[u8]) -> bool {
    is_table(first) && (0..4).any(|i| entry(first, i)[4] != 0)
}

fn entry(sector: &[u8], index: usize) -> &[u8] {
    &sector[446 + 16 * index..462 + 16 * index]
}

/// Whether these bytes can be a table. A FAT or NTFS filesystem on a whole disk ends its first sector
/// with the same two bytes, and has boot code where the table would be.
fn is_table(sector: &[u8]) -> bool {
    let flags_good = (0..4).all(|i| entry(sector, i)[0] & 0x7f == 0);
    let nothing_there = (0..4).all(|i| entry(sector, i).iter().all(|b| *b == 0));
    let filesystem = &sector[3..8] == b"NTFS " || &sector[3..8] == b"EXFAT"
        // The bytes per sector and the media byte of a FAT.
        || (matches!(sector[0], 0xeb | 0xe9)
            && matches!(le16(sector, 11), 512 | 1024 | 2048 | 4096)
            && sector[13].is_power_of_two()
            && (sector[21] >= 0xf8 || sector[21] == 0xf0)
            && nothing_there);
    sector[510..512] == [0x55, 0xaa] && flags_good && !filesystem
}

/// Reads an MBR.
pub(super) fn read(sectors: &mut Sectors<'_>, first: &[u8]) -> Result<Option<RawTable>> {
    if !is_table(first) {
        return Ok(None);
    }
    let sector = u64::from(sectors.sector);
    let mut partitions = Vec::new();
    let mut container = None;
    let mut damage = None;
    for number in 1..=4u32 {
        let raw = entry(first, number as usize - 1);
        let (kind, start, size) =
            (raw[4], u64::from(le32(raw, 8)) * sector, u64::from(le32(raw, 12)) * sector);
        if kind == 0 || size == 0 {
            continue;
        }
        if is_extended(kind) {
            if container.replace(Container { number, start, size, kind }).is_some() {
                damage = Some("there are two extended partitions".to_owned());
            }
        } else {
            partitions.push(partition(number, start, size, raw, None));
        }
    }
    if let Some(container) = &container {
        let chain = chain(sectors, container, &mut partitions)?;
        damage = damage.or(chain);
    }
    // The signature that Linux makes PARTUUIDs of. Zero is none.
    let signature = le32(first, 440);
    Ok(Some(RawTable {
        id: (signature != 0).then(|| format!("{signature:08x}")),
        hash: Sha256([0; 32]),
        damage,
        partitions,
        layout: Layout::Mbr(container),
    }))
}

fn partition(number: u32, start: u64, size: u64, raw: &[u8], ebr: Option<u64>) -> RawPartition {
    RawPartition {
        number,
        start,
        size,
        kind: format!("{:#04x}", raw[4]),
        name: None,
        uuid: None,
        raw: raw.to_owned(),
        ebr,
    }
}

/// Follows the chain of logical partitions. Gives what is wrong with it.
fn chain(
    sectors: &mut Sectors<'_>,
    container: &Container,
    partitions: &mut Vec<RawPartition>,
) -> Result<Option<String>> {
    let sector = u64::from(sectors.sector);
    let first = container.start / sector;
    let mut link = first;
    let mut visited = BTreeSet::new();
    let mut number = 5;
    loop {
        if link > sectors.last() {
            return Ok(Some("the chain of logical partitions leads beyond the end of the disk".to_owned()));
        }
        if !visited.insert(link) || visited.len() > LONGEST_CHAIN {
            return Ok(Some("the chain of logical partitions has no end".to_owned()));
        }
        let ebr = sectors.read(link, 1)?;
        if ebr[510..512] != [0x55, 0xaa] {
            // An extended partition without any logical one need not have a chain.
            let broken = link != first;
            return Ok(broken.then(|| format!("the chain of logical partitions breaks after {}", number - 1)));
        }
        let raw = entry(&ebr, 0);
        if raw[4] != 0 && le32(raw, 12) != 0 {
            let start = (link + u64::from(le32(raw, 8))) * sector;
            partitions.push(partition(
                number,
                start,
                u64::from(le32(raw, 12)) * sector,
                raw,
                Some(link * sector),
            ));
            number += 1;
        }
        let next = entry(&ebr, 1);
        if !is_extended(next[4]) || le32(next, 8) == 0 {
            return Ok(None);
        }
        link = first + u64::from(le32(next, 8));
    }
}
