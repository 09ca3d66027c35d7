//! What may be written to: sticks, and nothing a computer lives on.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use akene_protocol::Issue;
use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};

use super::table::SECTOR;

/// Bytes of a file or device.
///
/// # Errors
/// It cannot be opened.
pub fn size(path: &Path) -> Result<u64> {
    File::open(path)
        .and_then(|mut file| file.seek(SeekFrom::End(0)))
        .with_context(|| format!("looking at {}", path.display()))
}

/// Whether this is a device.
///
/// # Errors
/// It is there and cannot be looked at.
pub fn is_device(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        found => {
            Ok(found.with_context(|| format!("looking at {}", path.display()))?.file_type().is_block_device())
        }
    }
}

/// Takes a device, so that nobody mounts it meanwhile.
///
/// # Errors
/// `device-in-use`, `device-is-a-partition`, `device-sectors`.
pub fn take(path: &Path) -> Result<File> {
    let refuse = |code: &str, message: &str, next: &str| {
        Err(Issue::new(code, path.display().to_string(), message, next).into())
    };
    let about = Sysfs::of(path)?;
    if about.is_partition() {
        return refuse(
            "device-is-a-partition",
            "it is a partition, not a whole stick",
            "name the stick: /dev/sdb, not /dev/sdb1",
        );
    }
    if about.read("queue/logical_block_size").is_some_and(|size| size != SECTOR.to_string()) {
        return refuse("device-sectors", "it does not have sectors of 512 bytes", "take another stick");
    }
    let opened = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_EXCL.bits()).open(path);
    match opened {
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => refuse(
            "device-in-use",
            "something of it is mounted or otherwise in use",
            "unmount it (`lsblk` shows where), then try again",
        ),
        opened => opened.with_context(|| format!("opening {}", path.display())),
    }
}

/// Takes a device to erase it. One that is not made to be taken out has to be named a second time.
///
/// # Errors
/// Those of [`take`]; `device-is-fixed`.
pub fn take_for_erasing(path: &Path, named_again: Option<&Path>) -> Result<File> {
    let file = take(path)?;
    if !Sysfs::of(path)?.is_removable() && named_again != Some(path) {
        let message = "it is no removable device: a disk of this computer, perhaps";
        let next = format!("if everything on it is to be lost, name it twice: --erase={}", path.display());
        return Err(Issue::new("device-is-fixed", path.display().to_string(), message, next).into());
    }
    Ok(file)
}

/// What the kernel tells of a device.
struct Sysfs(PathBuf);

impl Sysfs {
    fn of(path: &Path) -> Result<Sysfs> {
        let looking = || format!("looking at {}", path.display());
        let number = fs::metadata(path).with_context(looking)?.rdev();
        let link = format!("/sys/dev/block/{}:{}", major(number), minor(number));
        fs::canonicalize(link).map(Sysfs).with_context(looking)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok().map(|text| text.trim().to_owned())
    }

    fn is_partition(&self) -> bool {
        self.0.join("partition").exists()
    }

    /// Large sticks and disks in USB housings call themselves fixed; the bus they are on tells.
    fn is_removable(&self) -> bool {
        let bus =
            |part: std::path::Component<'_>| part.as_os_str().to_str().is_some_and(|p| p.starts_with("usb"));
        self.read("removable").as_deref() == Some("1") || self.0.components().any(bus)
    }
}
