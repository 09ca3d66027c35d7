//! The packages that stay on the machine, so that its next installation fetches only what changed.
//!
//! They lie where no reinstall formats anything, in `akene/packages` on the boot partition, as far as there is room beside
//! the installer and kernels; the largest come first, being worth most. On a kept `/home` nothing stays: that is people's
//! room. What the lock does not name is removed. The next run finds them through a read-only mount, and believes none of
//! them: each is checked against its lock like a file from anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use akene_planner::Role;
use akene_protocol::Bytes;
use akene_protocol::lock::{Lock, LockedPackage};
use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use super::stage::{BOOT_MARGIN, ON_BOOT, ON_VOLUME};
use crate::storage::Layout;

/// What is kept where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bytes of the lock that lie on the machine now.
    pub kept: Bytes,
    /// Bytes for which there was no room.
    pub left_out: Bytes,
    /// Bytes of other packages that were removed.
    pub removed: Bytes,
}

/// The directory of the mounted system for packages, with the bytes that may be put there in all.
fn store(layout: &Layout) -> Result<(PathBuf, u64)> {
    let top = layout.root.join("boot");
    let dir = top.join(ON_BOOT);
    let stat = statvfs(&top).with_context(|| format!("asking for the free space of {}", top.display()))?;
    let have: u64 = files(&dir)?.values().sum();
    let free = stat.blocks_available() * stat.fragment_size();
    let margin = BOOT_MARGIN.0.max(room_for_kernels(&top)?);
    Ok((dir, (free + have).saturating_sub(margin)))
}

/// What upgrades of the system need beside the kernel that is there: a new one, one more while the oldest is not yet
/// removed, and an initrd that is written anew beside the old.
fn room_for_kernels(boot: &Path) -> Result<u64> {
    let there = files(boot)?;
    let largest = |kind: &str| {
        there.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, size)| *size).max().unwrap_or(0)
    };
    Ok(2 * (largest("vmlinuz-") + largest("initrd.img-")) + largest("initrd.img-") + (64 << 20))
}

/// Directories below a mounted system in which a run may have staged and then broken off.
fn shelters(layout: &Layout) -> Vec<PathBuf> {
    let volumes = layout.partitions.iter().filter(|p| matches!(p.role, Role::Volume(_)));
    let mounts = volumes.filter_map(|p| p.mount.as_deref()).chain(["home"]);
    let mut dirs: Vec<PathBuf> =
        mounts.map(|mount| layout.root.join(mount.trim_start_matches('/')).join(ON_VOLUME)).collect();
    dirs.sort();
    dirs.dedup();
    dirs.retain(|dir| dir.symlink_metadata().is_ok_and(|m| m.is_dir()));
    dirs
}

/// Directories below the mounted system in which earlier runs left packages.
pub fn of_mounted(layout: &Layout) -> Vec<PathBuf> {
    let mut dirs = vec![layout.root.join("boot").join(ON_BOOT)];
    dirs.extend(shelters(layout));
    dirs
}

/// Keeps the packages of the lock that lie in `staged`, as far as there is room, and nothing else.
pub fn keep(layout: &Layout, lock: &Lock, staged: &Path) -> Result<Kept> {
    let mut wanted: Vec<&LockedPackage> = lock.packages.iter().collect();
    wanted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.file.cmp(&b.file)));
    let mut names = BTreeSet::new();
    wanted.retain(|p| names.insert(&p.file));
    let mut result = Kept::default();
    let (dir, budget) = store(layout)?;
    let mut there = files(&dir)?;
    let mut left = budget;
    let (here, rest): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|package| {
        let fits = package.size.0 <= left;
        left -= if fits { package.size.0 } else { 0 };
        fits
    });
    let stay: BTreeSet<&str> = here.iter().map(|p| p.file.as_str()).collect();
    // Before anything is added: there may be no room for both.
    let gone: Vec<String> = there.keys().filter(|name| !stay.contains(name.as_str())).cloned().collect();
    for name in gone {
        result.removed.0 += there.remove(&name).unwrap_or_default();
        remove(&dir.join(&name))?;
    }
    for package in &here {
        if there.get(&package.file) != Some(&package.size.0) {
            copy(&staged.join(&package.file), &dir, &package.file)?;
        }
        result.kept.0 += package.size.0;
    }
    result.left_out = rest.iter().map(|p| p.size).sum();
    Ok(result)
}

/// Removes what this run or one that broke off staged in the mounted system, beside the cache.
pub fn tidy(layout: &Layout) -> Result<()> {
    for dir in shelters(layout) {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

/// The files of a directory with their sizes; none where there is no directory. A link is nothing of ours.
fn files(dir: &Path) -> Result<BTreeMap<String, u64>> {
    let listing = || format!("listing {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.with_context(listing)?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry.with_context(listing)?;
        let meta = entry.metadata().with_context(listing)?;
        if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
            files.insert(name, meta.len());
        }
    }
    Ok(files)
}

/// Makes a directory that is nobody else's business.
pub fn private_dir(dir: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).with_context(|| format!("making {}", dir.display()))
}

fn copy(from: &Path, dir: &Path, name: &str) -> Result<()> {
    private_dir(dir)?;
    let (part, to) = (dir.join(format!("{name}.partial")), dir.join(name));
    fs::copy(from, &part).with_context(|| format!("keeping {}", from.display()))?;
    fs::rename(&part, &to).with_context(|| format!("naming {}", to.display()))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
}
