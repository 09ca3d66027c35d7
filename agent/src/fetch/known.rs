//! The identity this machine was given before, from its boot partition.

use std::path::Path;

use akene_protocol::api::Identity;
use akene_protocol::inventory::{Inventory, LooksLike};
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};

use crate::report::Reporter;

/// Where the identity lies on a boot partition.
pub const PATH: &str = "akene/identity.json";

/// The identity found on the disks. Nothing is written there: the filesystem is mounted read-only and its
/// journal left alone. A damaged or unreadable one is reported and counts as none; two machines' disks in
/// one case give the first.
pub fn identity(inventory: &Inventory, reporter: &Reporter) -> Option<Identity> {
    let mut found = inventory.disks.iter().flat_map(|disk| {
        let partitions = disk.table.iter().flat_map(|t| &t.partitions);
        partitions
            .filter(|p| {
                p.content.as_ref().is_some_and(|c| matches!(c.looks_like, Some(LooksLike::AkeneBoot { .. })))
            })
            .map(|p| crate::probe::disk::partition_path(Path::new(&disk.path), p.number))
    });
    found.find_map(|node| match read(&node) {
        Ok(identity) => Some(identity),
        Err(error) => {
            reporter.warn(format!("there is no usable identity on {}: {error:#}", node.display()));
            None
        }
    })
}

fn read(node: &Path) -> Result<Identity> {
    let dir = tempfile::tempdir().context("making a mount point")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(node), dir.path(), Some("ext4"), flags, Some("noload"))
        .with_context(|| format!("mounting {}", node.display()))?;
    let path = dir.path().join(PATH);
    let text = std::fs::read(&path).with_context(|| format!("reading {PATH}"));
    umount(dir.path()).with_context(|| format!("unmounting {}", node.display()))?;
    serde_json::from_slice(&text?).with_context(|| format!("reading {PATH}"))
}
