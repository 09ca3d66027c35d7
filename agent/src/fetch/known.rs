//! What a boot partition of ours says of this machine: the identity it was given before, the signed lock it was
//! installed from.
//!
//! Nothing is written there: the filesystem is mounted read-only and its journal left alone.
//!
//! Beside the identity may lie the order for which the installed system restarted the machine: [`order`].

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use akene_protocol::api::Identity;
use akene_protocol::inventory::{Disk, Inventory, LooksLike};
use akene_protocol::lock::ProfileLock;
use akene_protocol::{Envelope, MachineId, Order, OrderId, PublicKey};
use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount, umount};

use super::lock::{LARGEST_LOCK, read_lock};
use crate::report::Reporter;

/// Where the identity lies on a boot partition.
pub const PATH: &str = "akene/identity.json";

/// Where the signed lock lies that the machine was installed from, if it was.
pub const SIGNED_LOCK: &str = "akene/signed-lock.json";

/// The identity found on the disks. A damaged or unreadable one is reported and counts as none; two machines'
/// disks in one case give the first.
pub fn identity(inventory: &Inventory, reporter: &Reporter) -> Option<Identity> {
    boot_partitions(inventory).find_map(|(_, node)| match look(&node, read) {
        Ok(identity) => Some(identity),
        Err(error) => {
            reporter.warn(format!("there is no usable identity on {}: {error:#}", node.display()));
            None
        }
    })
}

/// Where the installed system leaves the order it restarts the machine for, on a boot partition.
pub const ORDER: &str = "akene/order.json";

/// The order the machine was restarted for, if one of the site's and of this machine lies on a boot partition. The server
/// decides whether it still counts.
pub fn order(
    inventory: &Inventory,
    machine: MachineId,
    key: &PublicKey,
    reporter: &Reporter,
) -> Option<OrderId> {
    boot_partitions(inventory).find_map(|(_, node)| match look(&node, |dir| read_order(dir, key)) {
        Ok(order) => order.filter(|order| order.machine == machine).map(|order| order.id),
        Err(error) => {
            reporter.warn(format!("there is no usable order on {}: {error:#}", node.display()));
            None
        }
    })
}

/// Reads the order on a boot partition mounted at `dir`.
pub fn read_order(dir: &Path, key: &PublicKey) -> Result<Option<Order>> {
    let text = match std::fs::read(dir.join(ORDER)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {ORDER}"))?,
    };
    let order = Envelope::parse(&text).and_then(|envelope| envelope.open(key));
    order.map(Some).with_context(|| format!("reading {ORDER}"))
}

/// The boot partitions of ours, each with its disk.
pub fn boot_partitions(inventory: &Inventory) -> impl Iterator<Item = (&Disk, PathBuf)> {
    inventory.disks.iter().flat_map(|disk| {
        let partitions = disk.table.iter().flat_map(|t| &t.partitions);
        partitions
            .filter(|p| {
                p.content.as_ref().is_some_and(|c| matches!(c.looks_like, Some(LooksLike::AkeneBoot { .. })))
            })
            .map(move |p| (disk, crate::probe::disk::partition_path(Path::new(&disk.path), p.number)))
    })
}

/// Those on disks of the computer itself, not on what anybody can plug in.
pub fn own_boot_partitions(inventory: &Inventory) -> impl Iterator<Item = PathBuf> {
    let own = boot_partitions(inventory).filter(|(disk, _)| !disk.removable && !disk.live_medium);
    own.map(|(_, node)| node)
}

/// Looks at a boot partition from inside.
pub fn look<T>(node: &Path, see: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir = tempfile::tempdir().context("making a mount point")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(node), dir.path(), Some("ext4"), flags, Some("noload"))
        .with_context(|| format!("mounting {}", node.display()))?;
    let seen = see(dir.path());
    umount(dir.path()).with_context(|| format!("unmounting {}", node.display()))?;
    seen
}

/// The signed lock on a boot partition, as it was installed from; `None` where it was installed without one.
///
/// # Errors
/// It cannot be read, or was not signed with this key.
pub fn signed_lock(node: &Path, key: &PublicKey) -> Result<Option<ProfileLock>> {
    look(node, |dir| {
        let reading = || format!("reading {SIGNED_LOCK}");
        let mut text = Vec::new();
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        match OpenOptions::new().read(true).custom_flags(flags).open(dir.join(SIGNED_LOCK)) {
            // It was written with indentation, and is somewhat larger than it was sent.
            Ok(file) => file.take(2 * LARGEST_LOCK as u64).read_to_end(&mut text).with_context(reading)?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(reading),
        };
        Ok(Some(read_lock(&text, key, SIGNED_LOCK)?.lock))
    })
}

/// Reads the identity on a boot partition mounted at `dir`.
pub fn read(dir: &Path) -> Result<Identity> {
    let text = std::fs::read(dir.join(PATH)).with_context(|| format!("reading {PATH}"))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {PATH}"))
}
