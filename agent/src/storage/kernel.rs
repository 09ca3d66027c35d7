//! Telling the kernel of partitions, and waiting until it and udev have taken them in.
//!
//! Partition by partition (BLKPG) and not "read the table again" (BLKRRPART): that works while a
//! kept partition of the same disk is in use, and on kernels without a parser for the table; and
//! it touches only what changes.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use akene_planner::Action;
use anyhow::{Context, Result, bail};

use super::LockedDisk;
use crate::probe::ProbeRoot;
use crate::probe::disk::{known_partitions, partition_path};
use crate::probe::table::{Layout, RawPartition};
use crate::sys::block;

/// How long a node may take to appear. udev on an old PC with a slow disk needs seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the kernel's view of a disk agree with its new table.
pub(super) fn announce(disk: &LockedDisk, root: &ProbeRoot) -> Result<()> {
    let Some(table) = disk.rehearsed.as_ref().or(disk.present.as_ref()) else { return Ok(()) };
    // What is made anew at the place of an old partition must not inherit what the kernel cached of it.
    let stays = |number: u32| disk.partitions().any(|p| p.number == number && p.action != Action::Create);
    let container = match &table.layout {
        Layout::Mbr(Some(container)) => Some((container.number, container.start)),
        _ => None,
    };
    for known in known_partitions(root, &disk.path) {
        if !stays(known.number) && container != Some((known.number, known.start)) {
            block::delete_partition(disk.device()?, known.number)?;
        }
    }
    synchronise(disk.device()?, &disk.path, &table.partitions)
}

/// Adds, and where they differ first removes, partitions until the kernel knows exactly `wanted`, then waits
/// for their nodes.
pub(super) fn synchronise(device: &File, path: &Path, wanted: &[RawPartition]) -> Result<()> {
    let root = ProbeRoot::default();
    let known = known_partitions(&root, path);
    let same = |k: &crate::probe::disk::KnownPartition, w: &RawPartition| {
        k.number == w.number && k.start == w.start && k.size == w.size
    };
    for old in &known {
        // The kernel shows an extended partition as a stump of two sectors; it does no harm.
        let stump = old.number <= 4 && old.size <= 8192 && !wanted.iter().any(|w| w.number == old.number);
        if !stump && !wanted.iter().any(|w| same(old, w)) {
            block::delete_partition(device, old.number)
                .with_context(|| format!("changing {} (is something on it in use?)", path.display()))?;
        }
    }
    for new in wanted {
        if !known.iter().any(|k| same(k, new)) {
            block::add_partition(device, new.number, new.start, new.size)?;
        }
    }
    wanted.iter().try_for_each(|p| wait_for(&root, path, p))
}

/// Waits until the node of a partition is there and is the right one.
fn wait_for(root: &ProbeRoot, disk: &Path, wanted: &RawPartition) -> Result<()> {
    let node = partition_path(disk, wanted.number);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = state(root, disk, &node, wanted);
        match state {
            Ok(()) => return Ok(()),
            Err(what) if Instant::now() > deadline => {
                bail!("waiting for {} for {} s: {what}", node.display(), PATIENCE.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What is still missing.
fn state(root: &ProbeRoot, disk: &Path, node: &Path, wanted: &RawPartition) -> Result<(), String> {
    let known = known_partitions(root, disk);
    let known = known.iter().find(|k| k.number == wanted.number).ok_or("the kernel does not know it")?;
    if (known.start, known.size) != (wanted.start, wanted.size) {
        return Err("the kernel has it at another place".into());
    }
    let meta = node.metadata().map_err(|e| format!("its node cannot be seen ({e})"))?;
    let dev = format!("{}:{}", nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    if !meta.file_type().is_block_device() || dev != known.dev {
        return Err("its node belongs to another device".into());
    }
    let size = File::open(node)
        .map_err(|e| format!("it cannot be opened ({e})"))
        .and_then(|f| block::size(&f).map_err(|e| format!("{e:#}")))?;
    if size == wanted.size { Ok(()) } else { Err(format!("it has {size} bytes, not {}", wanted.size)) }
}
