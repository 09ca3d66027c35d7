//! Mounting a volume.
//!
//! To look, through a read-only loop device and with the options that play nothing back: the bytes of the disk stay as
//! they are, whatever the driver would like. To write, the volume itself, as any start of its system would.

use std::fs::File;
use std::path::{Path, PathBuf};

use akene_protocol::Issue;
use akene_protocol::inventory::Inventory;
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use super::volumes::{LUKS, Place, Volume};
use crate::probe::look::driver;
use crate::probe::lvm::{self, Shown};
use crate::run::left;
use crate::storage;
use crate::sys::loopdev;
use akene_exec::Runner;

/// What a mount lets the files on it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Be looked at; nothing can be written.
    Look,
    /// Be written to.
    Write,
    /// Be written to, and its programs run.
    Enter,
}

/// A mounted volume. Dropping it unmounts it as well as it can.
pub struct Opened<'r> {
    at: PathBuf,
    mounted: bool,
    device: Device<'r>,
}

enum Device<'r> {
    Node(PathBuf),
    Loop(PathBuf, #[expect(dead_code, reason = "it keeps the device")] File),
    Logical(Shown<'r>),
}

impl Device<'_> {
    fn path(&self) -> &Path {
        match self {
            Device::Node(path) | Device::Loop(path, _) => path,
            Device::Logical(shown) => shown.node(),
        }
    }
}

/// Mounts a volume of this machine at a directory, which is made if it is missing. `more` are further options of the
/// driver.
///
/// # Errors
/// [`Issue`]s where it cannot be opened: `volume-encrypted`, `volume-unknown`, `volume-damaged`.
pub fn open<'r>(
    runner: &'r dyn Runner,
    machine: &Inventory,
    volume: &Volume,
    at: &Path,
    purpose: Purpose,
    more: &str,
) -> Result<Opened<'r>> {
    let Some((kind, careful)) = driver(volume.kind()) else { bail!(not_known(volume)) };
    let read_only = purpose == Purpose::Look;
    let device = match &volume.place {
        Place::Logical(group, name) => {
            Device::Logical(lvm::show(runner, &machine.disks, group, name, read_only)?)
        }
        place => {
            let node = volume.node().filter(|node| node.exists());
            match (node, place) {
                (Some(node), _) if !read_only => Device::Node(node),
                (Some(node), _) => {
                    let (path, device) = loopdev::attach_read_only(&node)?;
                    Device::Loop(path, device)
                }
                // The kernel does not know the partition, but we know where it lies.
                (None, Place::Partition(disk, _, start)) => {
                    let attach =
                        if read_only { loopdev::attach_part_read_only } else { loopdev::attach_part };
                    let (path, device) = attach(disk, start.0, volume.size.0)?;
                    Device::Loop(path, device)
                }
                (None, _) => bail!("opening {}: its device is gone", volume.name),
            }
        }
    };
    std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if purpose != Purpose::Enter {
        flags |= MsFlags::MS_NOEXEC;
    }
    let mut options: Vec<&str> = Some(more).filter(|m| !m.is_empty()).into_iter().collect();
    if read_only {
        flags |= MsFlags::MS_RDONLY;
        options.extend(Some(careful).filter(|o| !o.is_empty()));
    }
    let options = options.join(",");
    let options = Some(options.as_str()).filter(|o| !o.is_empty());
    if let Err(error) = mount(Some(device.path()), at, Some(kind), flags, options) {
        bail!(Issue::new(
            "volume-damaged",
            &volume.name,
            format!("its {} cannot be opened: {error}", volume.kind()),
            "if it is Windows's: start Windows once and shut it down fully; otherwise it is damaged, see the disk's health",
        ));
    }
    Ok(Opened { at: at.to_owned(), mounted: true, device })
}

fn not_known(volume: &Volume) -> Issue {
    match volume.kind() {
        LUKS => Issue::new(
            "volume-encrypted",
            &volume.name,
            "it is encrypted (LUKS): without its password nobody can read it",
            "start the computer's own system and type the password there",
        ),
        kind => Issue::new(
            "volume-unknown",
            &volume.name,
            match kind {
                "" => "nothing that is known lies on it".to_owned(),
                kind => format!("it holds {kind}, which is no filesystem that can be opened here"),
            },
            "choose another one",
        ),
    }
}

impl Opened<'_> {
    /// Where it is mounted.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Whether what was written last may be only in a journal, which nobody plays back while looking: ext4 tells, others
    /// do not.
    pub fn has_pending_journal(&self, volume: &Volume) -> bool {
        matches!(volume.kind(), "ext3" | "ext4")
            && left::is_clean(self.device.path()).is_ok_and(|clean| !clean)
    }

    /// The root of the Linux system on it: its top, or the subvolume in which Ubuntu has it on btrfs.
    pub fn system(&self) -> PathBuf {
        let sub = self.at.join("@");
        if sub.join("etc").is_dir() && !self.at.join("etc").is_dir() { sub } else { self.at.clone() }
    }

    /// Writes everything out and unmounts it.
    ///
    /// # Errors
    /// What was written may not all be on the disk.
    pub fn close(mut self) -> Result<()> {
        self.mounted = false;
        storage::unmount(&self.at)
    }

    /// Leaves it mounted after this program.
    pub fn stay(mut self) {
        self.mounted = false;
        if let Device::Logical(_) = &self.device {
            let gone = std::mem::replace(&mut self.device, Device::Node(PathBuf::new()));
            if let Device::Logical(shown) = gone {
                shown.stay();
            }
        }
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if self.mounted {
            // Only when something failed before, and that is told.
            storage::unmount(&self.at).ok();
        }
    }
}
