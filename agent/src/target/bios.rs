//! GRUB where a BIOS finds it.
//!
//! `grub-install` does this on a running system, but asks its host's `/sys` and refuses what it does not know
//! (loop devices, a disk seen from elsewhere). What it writes is fixed by GRUB's own boot code, so it is
//! written here, the same way onto a disk and into a disk image:
//!
//! - `boot.img` into the first sector, keeping the partition table that shares it. At 0x5c it holds the
//!   sector of the core image (`boot.S`, `kernel_sector`), at 0x66 a jump that trusts the BIOS about
//!   the drive; two NOPs there work around those that lie (`boot_drive_check`).
//! - the core image into the BIOS boot partition (GPT) or into the gap before the first partition (MBR). Its
//!   first sector, `diskboot.img`, ends with a block list (`firstlist`): where the rest is, how many
//!   sectors, and the segment it is loaded to.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// GRUB counts in these, whatever the disk does.
const SECTOR: usize = 512;
/// `kernel_sector` in `boot.img`: eight bytes.
const KERNEL_SECTOR: usize = 0x5c;
/// `boot_drive_check` in `boot.img`: two bytes.
const DRIVE_CHECK: usize = 0x66;
/// Where the disk's own signature and the partition table begin in the first sector.
const TABLE: usize = 0x1b8;
const TABLE_END: usize = 0x1fe;
/// The last block list entry of `diskboot.img`: start (8), length (2), segment (2).
const FIRST_LIST: usize = SECTOR - 12;
/// Segment to which the second sector of the core image goes (`GRUB_BOOT_I386_PC_KERNEL_SEG`).
const KERNEL_SEGMENT: u16 = 0x820;

/// Where the core image goes, in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub start: u64,
    pub length: u64,
}

impl Room {
    /// Whether a core image fits.
    pub fn holds(&self, core: &[u8]) -> bool {
        core.len().div_ceil(SECTOR) as u64 <= self.length
    }
}

/// The room a BIOS boot partition gives.
pub(super) fn partition_room(device: &Path) -> Result<Room> {
    Ok(Room { start: sysfs_number(device, "start")?, length: sysfs_number(device, "size")? })
}

/// The room before the first partition of an MBR disk, whosever it is.
pub(super) fn gap_room(disk: &Path) -> Result<Room> {
    let known = crate::probe::disk::known_partitions(&crate::probe::ProbeRoot::default(), disk);
    let first = known.iter().map(|p| p.start / SECTOR as u64).min();
    let first = first.with_context(|| format!("looking for the first partition of {}", disk.display()))?;
    Ok(Room { start: 1, length: first.saturating_sub(1) })
}

fn sysfs_number(device: &Path, what: &str) -> Result<u64> {
    let real = fs::canonicalize(device).with_context(|| format!("finding {}", device.display()))?;
    let name = real.file_name().context("using a device without a name")?;
    let path = Path::new("/sys/class/block").join(name).join(what);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("reading {}", path.display()))
}

/// Writes both images to a disk and reads them back.
pub(super) fn embed(disk: &Path, boot: &[u8], core: &[u8], room: Room) -> Result<()> {
    let write = || -> Result<()> {
        let mut device = OpenOptions::new().read(true).write(true).open(disk).context("opening it")?;
        let mut first = [0; SECTOR];
        device.read_exact(&mut first).context("reading its first sector")?;
        let room = beside(&first, core, room);
        let (first, core) = fit(&first, boot, core, room)?;
        // The core first: until the first sector points to it, the disk starts as it did.
        for (at, bytes) in [(room.start * SECTOR as u64, &core[..]), (0, &first[..])] {
            put(&mut device, at, bytes)?;
        }
        Ok(())
    };
    write().with_context(|| format!("writing GRUB for a BIOS to {}", disk.display()))
}

/// The half of the room in which the core image does not lie that the first sector points to: a power cut while the new
/// one is written leaves a disk that starts as it did. Where a half is too small there is no such choice.
fn beside(first: &[u8; SECTOR], core: &[u8], room: Room) -> Room {
    let mut now = [0; 8];
    now.copy_from_slice(&first[KERNEL_SECTOR..KERNEL_SECTOR + 8]);
    let now = u64::from_le_bytes(now);
    let half = room.length / 2;
    let middle = room.start + half;
    if core.len().div_ceil(SECTOR) as u64 > half || !(room.start..room.start + room.length).contains(&now) {
        return room;
    }
    match now < middle {
        true => Room { start: middle, length: room.length - half },
        false => Room { start: room.start, length: half },
    }
}

fn put(device: &mut File, at: u64, bytes: &[u8]) -> Result<()> {
    device.seek(SeekFrom::Start(at)).and_then(|_| device.write_all(bytes)).context("writing it")?;
    device.sync_data().context("writing it out")?;
    let mut back = vec![0; bytes.len()];
    device.seek(SeekFrom::Start(at)).and_then(|_| device.read_exact(&mut back)).context("reading it back")?;
    if back != bytes {
        bail!("what was written at byte {at} does not come back: the disk is failing");
    }
    Ok(())
}

/// The first sector and the core image with their links set.
fn fit(first: &[u8; SECTOR], boot: &[u8], core: &[u8], room: Room) -> Result<([u8; SECTOR], Vec<u8>)> {
    let Ok(mut boot) = <[u8; SECTOR]>::try_from(boot) else {
        bail!("boot.img has {} bytes instead of {SECTOR}", boot.len());
    };
    let sectors = core.len().div_ceil(SECTOR) as u64;
    if core.len() <= SECTOR || !room.holds(core) {
        bail!("the core image takes {sectors} sectors, and there is room for {}", room.length);
    }
    let mut core = core.to_vec();
    core.resize(sectors as usize * SECTOR, 0);
    let rest = u16::try_from(sectors - 1).context("the core image is larger than a BIOS can load")?;
    core[FIRST_LIST..FIRST_LIST + 8].copy_from_slice(&(room.start + 1).to_le_bytes());
    core[FIRST_LIST + 8..FIRST_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    core[FIRST_LIST + 10..SECTOR].copy_from_slice(&KERNEL_SEGMENT.to_le_bytes());

    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&room.start.to_le_bytes());
    boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    boot[TABLE..TABLE_END].copy_from_slice(&first[TABLE..TABLE_END]);
    Ok((boot, core))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { start: 2048, length: 2048 };

    #[test]
    fn keeps_the_table_and_sets_the_links() {
        let mut first = [0; SECTOR];
        first[TABLE..TABLE_END].fill(7);
        let mut boot = [1; SECTOR];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        let (sector, core) = fit(&first, &boot, &[2; 1300], ROOM).unwrap();
        assert!(sector[TABLE..TABLE_END].iter().all(|b| *b == 7));
        assert_eq!(sector[510..], [0x55, 0xaa]);
        assert_eq!(sector[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(core.len(), 3 * SECTOR);
        assert_eq!(core[500..508], 2049u64.to_le_bytes());
        assert_eq!(core[508..512], [2, 0, 0x20, 0x08]);
        assert_eq!(core[1300..], [0; 236]);
    }

    #[test]
    fn a_core_that_does_not_fit_is_refused() {
        let error = fit(&[0; SECTOR], &[0; SECTOR], &[0; 5000], Room { start: 1, length: 9 }).unwrap_err();
        assert_eq!(error.to_string(), "the core image takes 10 sectors, and there is room for 9");
        assert!(fit(&[0; SECTOR], &[0; 100], &[0; 5000], ROOM).is_err());
        assert!(fit(&[0; SECTOR], &[0; SECTOR], &[0; 512], ROOM).is_err());
    }

    #[test]
    fn the_core_that_is_started_is_not_written_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192 * SECTOR as u64).unwrap();
        let started = || {
            let disk = fs::read(file.path()).unwrap();
            let at = u64::from_le_bytes(disk[KERNEL_SECTOR..KERNEL_SECTOR + 8].try_into().unwrap());
            (at, disk[(at as usize + 1) * SECTOR])
        };
        for (round, place) in [(1, 2048), (2, 3072), (3, 2048)] {
            embed(file.path(), &[9; SECTOR], &[round; 5000], ROOM).unwrap();
            assert_eq!(started(), (place, round));
        }
        // One that needs more than half has no choice.
        embed(file.path(), &[9; SECTOR], &vec![4; 1100 * SECTOR], ROOM).unwrap();
        assert_eq!(started(), (2048, 4));
    }

    /// The same sectors as grub-bios-setup writes, which is looked at with a disk image and its own tool.
    #[test]
    fn reads_back_what_it_wrote() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096 * SECTOR as u64).unwrap();
        embed(file.path(), &[9; SECTOR], &[2; 5000], ROOM).unwrap();
        let disk = fs::read(file.path()).unwrap();
        assert_eq!(disk[0], 9);
        assert_eq!(disk[2048 * SECTOR], 2);
        let error = embed(file.path(), &[9; SECTOR], &[2; 5000], Room { start: 1, length: 2 }).unwrap_err();
        assert!(format!("{error:#}").contains("there is room for 2"));
    }
}
