//! Loop devices: a file as a block device.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use super::block::open_rw;

/// `struct loop_info64` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of the kernel (since 5.8).
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_PARTSCAN: u32 = 8;

/// The bare requests.
mod raw {
    nix::ioctl_none_bad!(loop_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, super::LoopConfig);
    nix::ioctl_write_int_bad!(loop_clear, 0x4C01);
}

/// Attaches a file, read-only, to a free loop device. The device lets go of the file by itself when it is
/// no longer used, which begins with the end of the returned `File`: mount it before dropping that.
pub fn attach_read_only(file: &Path) -> Result<(PathBuf, File)> {
    let backing = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    // 0 leaves the sector size to the kernel.
    attach(file, &backing, 0, LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR, (0, 0))
}

/// The same with a part of a file or device.
pub fn attach_part_read_only(file: &Path, offset: u64, size: u64) -> Result<(PathBuf, File)> {
    let backing = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    attach(file, &backing, 0, LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR, (offset, size))
}

/// The same with a part that can be written.
pub fn attach_part(file: &Path, offset: u64, size: u64) -> Result<(PathBuf, File)> {
    attach(file, &open_rw(file)?, 0, LO_FLAGS_AUTOCLEAR, (offset, size))
}

/// Attaches a file as a disk that can be written and have partitions, with logical sectors of this size.
/// It too is let go by itself.
pub fn attach_disk(file: &Path, sector: u32) -> Result<(PathBuf, File)> {
    attach(file, &open_rw(file)?, sector, LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN, (0, 0))
}

/// Detaches the file of a loop device, as soon as nobody uses it any more.
#[expect(unsafe_code, reason = "an ioctl")]
pub fn detach(device: &File) -> Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { raw::loop_clear(device.as_raw_fd(), 0) }.context("detaching a loop device")?;
    Ok(())
}

/// The file a loop device shows, as sysfs names it. `None`: it shows none.
pub fn backing_file(device: &Path) -> Result<Option<String>> {
    let name = device.file_name().context("using a loop device without a name")?;
    let path = Path::new("/sys/class/block").join(name).join("loop/backing_file");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        // The attribute goes with the file: before it is opened, or between that and reading it.
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(Errno::ENODEV as i32) => {
            Ok(None)
        }
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

/// `part` is offset and size; a size of 0 is all of it.
fn attach(file: &Path, backing: &File, sector: u32, flags: u32, part: (u64, u64)) -> Result<(PathBuf, File)> {
    let control = open_rw(Path::new("/dev/loop-control")).context("is the module `loop` loaded?")?;
    // Somebody else may take the free device between asking for it and taking it.
    for _ in 0..16 {
        let number = free_number(control.as_raw_fd())?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open_when_there(&path)?;
        match configure(device.as_raw_fd(), backing.as_raw_fd(), sector, flags, part) {
            Ok(()) => return Ok((path, device)),
            Err(Errno::EBUSY) => {}
            Err(e) => {
                return Err(e).with_context(|| format!("attaching {} to {}", file.display(), path.display()));
            }
        }
    }
    bail!("no free loop device for {}: others take them faster", file.display())
}

/// devtmpfs makes the node of a new device a moment after the device exists.
fn open_when_there(path: &Path) -> Result<File> {
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        match open_rw(path) {
            Ok(device) => return Ok(device),
            Err(e) if Instant::now() > patience => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[expect(unsafe_code, reason = "an ioctl")]
fn free_number(control: RawFd) -> Result<i32> {
    // SAFETY: the request takes no argument; the descriptor is that of /dev/loop-control.
    unsafe { raw::loop_get_free(control) }.context("asking for a free loop device")
}

#[expect(unsafe_code, reason = "an ioctl")]
fn configure(
    device: RawFd,
    backing: RawFd,
    sector: u32,
    flags: u32,
    (offset, size_limit): (u64, u64),
) -> nix::Result<()> {
    let config = LoopConfig {
        fd: backing as u32,
        block_size: sector,
        info: LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset,
            size_limit,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the structure has the kernel's layout and outlives the call; both descriptors are open.
    unsafe { raw::loop_configure(device, &config) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::test_disk::has_loop_devices;
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn a_file_becomes_a_device_and_lets_go_of_it() {
        if !has_loop_devices() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        let content: Vec<u8> = (0..64u32 << 10).flat_map(|i| i.to_le_bytes()).collect();
        std::fs::write(&file, &content).unwrap();
        let (path, device) = attach_read_only(&file).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert!(
            File::options()
                .write(true)
                .open(&path)
                .and_then(|mut d| std::io::Write::write(&mut d, b"x"))
                .is_err()
        );
        let backing = PathBuf::from("/sys/block").join(path.file_name().unwrap()).join("loop/backing_file");
        assert_eq!(std::fs::read_to_string(&backing).unwrap().trim(), file.to_str().unwrap());
        drop(device);
        let patience = Instant::now() + Duration::from_secs(60);
        while std::fs::read_to_string(&backing).is_ok_and(|f| f.trim() == file.to_str().unwrap()) {
            assert!(Instant::now() < patience, "the loop device keeps its file");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
