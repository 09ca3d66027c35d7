//! What a boot partition of ours says of this machine: the identity it was given before.
//!
//! Nothing is written there: the filesystem is mounted read-only and its journal left alone.

use std::path::{Path, PathBuf};

use akene_protocol::api::Identity;
use akene_protocol::inventory::{Disk, Inventory, LooksLike};
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};

use crate::report::Reporter;

/// Where the identity lies on a boot partition.
pub const PATH: &str = "akene/identity.json";

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

/// Reads the identity on a boot partition mounted at `dir`.
pub fn read(dir: &Path) -> Result<Identity> {
    let text = std::fs::read(dir.join(PATH)).with_context(|| format!("reading {PATH}"))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {PATH}"))
}
