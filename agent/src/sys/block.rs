//! What the kernel is asked and told about block devices.
//!
//! Sizes are in bytes throughout. The numbers of the requests are those of `linux/fs.h` and
//! `linux/blkpg.h`, which never change.
#![expect(unsafe_code, reason = "ioctl has no safe form")]

use std::ffi::{c_char, c_int};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;

mod raw {
    use super::BlkpgArg;
    use nix::{
        ioctl_none, ioctl_none_bad, ioctl_read, ioctl_read_bad, ioctl_write_int_bad, ioctl_write_ptr_bad,
        request_code_none,
    };
    use std::ffi::c_int;

    ioctl_none!(blkrrpart, 0x12, 95);
    ioctl_none!(blkflsbuf, 0x12, 97);
    // linux/cdrom.h
    ioctl_none_bad!(cdromeject, 0x5309);
    ioctl_write_int_bad!(cdrom_lockdoor, 0x5329);
    ioctl_read!(blkgetsize64, 0x12, 114, usize);
    ioctl_read_bad!(blksszget, request_code_none!(0x12, 104), c_int);
    // linux/fs.h: FS_IOC_GETFLAGS and FS_IOC_SETFLAGS, which say "long" and mean int.
    ioctl_read!(getflags, b'f', 1, std::ffi::c_long);
    nix::ioctl_write_ptr!(setflags, b'f', 2, std::ffi::c_long);
    ioctl_write_ptr_bad!(blkpg, request_code_none!(0x12, 105), BlkpgArg);
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArg {
    op: c_int,
    flags: c_int,
    datalen: c_int,
    data: *const BlkpgPartition,
}

/// `struct blkpg_partition`. The two names are ignored by the kernel.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: c_int,
    names: [c_char; 128],
}

const BLKPG_ADD: c_int = 1;
const BLKPG_DELETE: c_int = 2;

/// Opens the tray of a disc drive. The device must have been opened with `O_NONBLOCK`, or there has to be a
/// disc in it.
pub fn open_tray(drive: &File) -> Result<()> {
    // A drive that cannot be locked refuses this; whether it opens is what counts.
    // SAFETY: the request takes a number and touches no memory of ours.
    unsafe { raw::cdrom_lockdoor(drive.as_raw_fd(), 0) }.ok();
    // SAFETY: the request has no argument.
    unsafe { raw::cdromeject(drive.as_raw_fd()) }.map(drop).context("opening the tray")
}

/// Size of the device.
pub fn size(device: &File) -> Result<u64> {
    let mut bytes = 0usize;
    // SAFETY: the kernel writes one size_t at the pointer, which outlives the call.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &mut bytes) }
        .context("asking for the size of a device")?;
    Ok(bytes as u64)
}

/// Logical sector size of the device.
pub fn logical_sector(device: &File) -> Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes one int at the pointer, which outlives the call.
    unsafe { raw::blksszget(device.as_raw_fd(), &mut bytes) }
        .context("asking for the sector size of a device")?;
    u32::try_from(bytes).context("reading the sector size of a device")
}

/// Forgets what the kernel has cached of the device, after writing it out.
pub fn flush(device: &File) -> Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { raw::blkflsbuf(device.as_raw_fd()) }.context("flushing the buffers of a device")?;
    Ok(())
}

/// Asks the kernel to read the partition table again. `Ok(false)`: it did not because a partition is in
/// use, or because this kernel or device has no support for tables.
pub fn reread_table(device: &File) -> Result<bool> {
    // SAFETY: the request takes no argument.
    match unsafe { raw::blkrrpart(device.as_raw_fd()) } {
        Ok(_) => Ok(true),
        Err(Errno::EBUSY | Errno::EINVAL | Errno::ENOTTY) => Ok(false),
        Err(e) => Err(e).context("asking the kernel to read the partition table again"),
    }
}

fn blkpg(device: &File, op: c_int, number: u32, start: u64, size: u64) -> nix::Result<()> {
    let part = BlkpgPartition {
        start: i64::try_from(start).map_err(|_| Errno::EOVERFLOW)?,
        length: i64::try_from(size).map_err(|_| Errno::EOVERFLOW)?,
        number: c_int::try_from(number).map_err(|_| Errno::EOVERFLOW)?,
        names: [0; 128],
    };
    let arg = BlkpgArg { op, flags: 0, datalen: size_of::<BlkpgPartition>() as c_int, data: &part };
    // SAFETY: the kernel reads the two structures, which have its layout and outlive the call.
    unsafe { raw::blkpg(device.as_raw_fd(), &arg) }.map(drop)
}

/// Tells the kernel of a partition. The table on disk is not looked at.
pub fn add_partition(device: &File, number: u32, start: u64, size: u64) -> Result<()> {
    blkpg(device, BLKPG_ADD, number, start, size)
        .with_context(|| format!("telling the kernel of partition {number} at byte {start}"))
}

/// Makes the kernel forget a partition. One that it does not know is no error; one in use is.
pub fn delete_partition(device: &File, number: u32) -> Result<()> {
    match blkpg(device, BLKPG_DELETE, number, 0, 0) {
        Ok(()) | Err(Errno::ENXIO) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("making the kernel forget partition {number}")),
    }
}

/// Opens a device, or the file behind one, for reading and writing.
pub fn open_rw(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("opening {} for writing", path.display()))
}

/// Takes the attributes "immutable" and "append only" from a file or directory. A filesystem without attributes
/// has none to take.
pub fn make_changeable(file: &impl AsRawFd) -> Result<()> {
    const IMMUTABLE: std::ffi::c_long = 0x10;
    const APPEND: std::ffi::c_long = 0x20;
    let mut flags = 0;
    // SAFETY: the kernel writes at most one long at the pointer, which outlives the call.
    if unsafe { raw::getflags(file.as_raw_fd(), &mut flags) }.is_err() || flags & (IMMUTABLE | APPEND) == 0 {
        return Ok(());
    }
    flags &= !(IMMUTABLE | APPEND);
    // SAFETY: the kernel reads at most one long at the pointer, which outlives the call.
    unsafe { raw::setflags(file.as_raw_fd(), &flags) }.map(drop).context("making a file changeable")
}
