//! GPT, by the UEFI specification, chapter 5.

use anyhow::Result;

use super::{Layout, RawPartition, RawTable, Sectors, le16, le32, le64};
use akene_protocol::ids::Sha256;

const SIGNATURE: &[u8] = b"EFI PART";

/// More than any real table has; the usual is 16 KiB.
const LARGEST_ARRAY: u64 = 1 << 20;

/// Where a GPT keeps what. All places are sector numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Unique identifier of the disk, in the byte order of the disk.
    pub disk_guid: [u8; 16],
    /// First sector a partition may use.
    pub first_usable: u64,
    /// Last sector a partition may use.
    pub last_usable: u64,
    /// Where the main array of entries begins.
    pub entries_at: u64,
    /// How many entries the array has.
    pub entries: u32,
    /// Bytes of one entry.
    pub entry_size: u32,
    /// Where the copy of the header stands.
    pub backup_at: u64,
}

/// One of the two copies of the table.
struct Copy {
    geometry: Geometry,
    array: Vec<u8>,
}

/// Reads a GPT. `first` is the sector with the protective MBR.
pub(super) fn read(sectors: &mut Sectors<'_>, first: &[u8]) -> Result<Option<RawTable>> {
    let protective = protective(first);
    // A disk that was given an MBR later: no kernel looks at the GPT that lies behind.
    if !protective && super::mbr::has_partitions(first) {
        return Ok(None);
    }
    let main = copy_at(sectors, 1)?;
    // The copy belongs at the very end. On a disk that has grown since, the main header knows where it is.
    let last = sectors.last();
    let backup = match copy_at(sectors, last)? {
        Some(copy) => Some(copy),
        None => match &main {
            Some(main) if (2..last).contains(&main.geometry.backup_at) => {
                copy_at(sectors, main.geometry.backup_at)?
            }
            _ => None,
        },
    };
    let damage = match (&main, &backup) {
        (None, None) if !protective => return Ok(None),
        (None, None) => Some(neither(sectors)?),
        (None, Some(_)) => {
            Some("the table at the beginning of the disk is damaged; its copy at the end is whole".to_owned())
        }
        (Some(_), None) => {
            Some("the copy of the table at the end of the disk is damaged or missing".to_owned())
        }
        (Some(main), Some(backup)) if main.array != backup.array => {
            Some("the table and its copy at the end of the disk differ".to_owned())
        }
        (Some(main), Some(_)) if main.geometry.backup_at != last => {
            Some("the copy of the table is not at the end of the disk, which has grown since".to_owned())
        }
        _ if !protective => Some("the protective MBR is missing".to_owned()),
        _ => None,
    };
    let copy = main.or(backup);
    let partitions = copy.as_ref().map(|c| entries(c, sectors.sector)).unwrap_or_default();
    Ok(Some(RawTable {
        id: copy.as_ref().map(|c| guid(&c.geometry.disk_guid)),
        hash: Sha256([0; 32]),
        damage,
        partitions,
        layout: Layout::Gpt(copy.map(|c| c.geometry)),
    }))
}

/// Whether the first sector says that the table is a GPT.
fn protective(first: &[u8]) -> bool {
    first[510..512] == [0x55, 0xaa] && (0..4).any(|i| first[446 + 16 * i + 4] == 0xee)
}

/// Why there is a protective MBR and no table.
fn neither(sectors: &mut Sectors<'_>) -> Result<String> {
    // Some USB cases show a disk of 512-byte sectors as one of 4096 and the other way round; the table
    // then lies where this sector size does not look.
    let other = if sectors.sector == 512 { 4096 } else { 512 };
    let at = u64::from(other / sectors.sector);
    let begins = match sectors.sector {
        512 if at <= sectors.last() => sectors.read(at, 1)?,
        512 => Vec::new(),
        _ => sectors.read(0, 1)?[512..].to_vec(),
    };
    Ok(if begins.starts_with(SIGNATURE) {
        format!("the table was written for sectors of {other} bytes, and the disk now has {}", sectors.sector)
    } else {
        "the table at the beginning of the disk and its copy at the end are both damaged".to_owned()
    })
}

/// Reads the copy whose header stands in sector `lba`, if it is whole.
fn copy_at(sectors: &mut Sectors<'_>, lba: u64) -> Result<Option<Copy>> {
    let header = sectors.read(lba, 1)?;
    let size = le32(&header, 12) as usize;
    if !header.starts_with(SIGNATURE) || !(92..=header.len()).contains(&size) || le64(&header, 24) != lba {
        return Ok(None);
    }
    let mut summed = header[..size].to_vec();
    summed[16..20].fill(0);
    if crc32(&summed) != le32(&header, 16) {
        return Ok(None);
    }
    let mut disk_guid = [0; 16];
    disk_guid.copy_from_slice(&header[56..72]);
    let geometry = Geometry {
        disk_guid,
        first_usable: le64(&header, 40),
        last_usable: le64(&header, 48),
        entries_at: le64(&header, 72),
        entries: le32(&header, 80),
        entry_size: le32(&header, 84),
        backup_at: if lba == 1 { le64(&header, 32) } else { lba },
    };
    let length = u64::from(geometry.entries) * u64::from(geometry.entry_size);
    let count = length.div_ceil(u64::from(sectors.sector));
    let fits = geometry.entries_at.checked_add(count).is_some_and(|end| end <= sectors.last() + 1);
    if geometry.entry_size < 128
        || geometry.entry_size & 7 != 0
        || !(1..=LARGEST_ARRAY).contains(&length)
        || !fits
    {
        return Ok(None);
    }
    let mut array = sectors.read(geometry.entries_at, count)?;
    array.truncate(length as usize);
    if crc32(&array) != le32(&header, 88) {
        return Ok(None);
    }
    Ok(Some(Copy { geometry, array }))
}

fn entries(copy: &Copy, sector: u32) -> Vec<RawPartition> {
    let sector = u64::from(sector);
    let used = |(_, raw): &(u32, &[u8])| raw[..16].iter().any(|b| *b != 0);
    (1..)
        .zip(copy.array.chunks_exact(copy.geometry.entry_size as usize))
        .filter(used)
        .map(|(number, raw)| {
            let (first, last) = (le64(raw, 32), le64(raw, 40));
            let units: Vec<u16> = (0..36).map(|i| le16(raw, 56 + 2 * i)).take_while(|u| *u != 0).collect();
            let name = String::from_utf16_lossy(&units);
            RawPartition {
                number,
                start: first.saturating_mul(sector),
                // An end before its start is damage that must not wrap: nothing, at a place that is reported.
                size: last.saturating_add(1).saturating_sub(first).saturating_mul(sector),
                kind: guid(&raw[..16]),
                name: Some(name).filter(|n| !n.is_empty()),
                uuid: Some(guid(&raw[16..32])),
                raw: raw.to_owned(),
                ebr: None,
            }
        })
        .collect()
}

/// A GUID as text: its first three fields are little-endian on disk.
fn guid(bytes: &[u8]) -> String {
    let mut fields = [0; 16];
    fields.copy_from_slice(&bytes[..16]);
    uuid::Uuid::from_bytes_le(fields).to_string()
}

/// CRC-32 as in Ethernet and zip.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _bit in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
        crc
    })
}
