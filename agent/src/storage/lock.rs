//! Finding a disk of the plan again, making sure it is the same, and taking hold of it.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use akene_exec::Runner;
use akene_planner::{DiskPlan, DiskRef};
use akene_protocol::inventory::Disk;
use akene_protocol::issue::Issue;
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_EXCL;

use super::{LockedDisk, ids::Ids};
use crate::probe::{ProbeRoot, content, disk, table};
use crate::sys::block;

/// Finds and locks one disk. `blank`: the plan takes it for a disk with nothing on it.
pub(super) fn lock(
    root: &ProbeRoot,
    plan: &DiskPlan,
    ids: Ids,
    blank: bool,
    runner: &dyn Runner,
) -> Result<LockedDisk> {
    let found = find(root, &plan.disk)?;
    let path = Path::new(&found.path).to_owned();
    if found.read_only {
        bail!(Issue::new(
            "disk-read-only",
            &found.name,
            format!("{} refuses to be written", found.path),
            "look for a write-protect switch, or use another disk",
        ));
    }
    if found.logical_sector != plan.logical_sector {
        bail!(changed(
            &found.name,
            format!("its sectors have {} bytes, not {}", found.logical_sector, plan.logical_sector)
        ));
    }
    refuse_if_in_use(root, &found)?;
    // The kernel lets nobody open a disk exclusively of which anything is in use, for reasons we may not
    // know of. Opened for reading only: closing a file open for writing makes udev look at the disk again.
    OpenOptions::new().read(true).custom_flags(O_EXCL).open(&path).map_err(|e| match e.raw_os_error() {
        Some(nix::libc::EBUSY) => anyhow::Error::new(in_use(&found.name, "by the kernel".into())),
        _ => anyhow::Error::new(e).context(format!("opening {}", path.display())),
    })?;
    let device = block::open_rw(&path)?;
    let size = block::size(&device)?;
    if size != plan.disk.size.0 {
        bail!(changed(&found.name, format!("it has {size} bytes, not {}", plan.disk.size.0)));
    }
    let device = Flock::lock(device, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        nix::errno::Errno::EWOULDBLOCK => {
            anyhow::Error::new(in_use(&found.name, "by another program that holds its lock".into()))
        }
        e => anyhow::Error::new(e).context(format!("locking {}", path.display())),
    })?;
    // Under the lock: from here on nobody who respects it changes anything.
    let present = table::read(&device, size, plan.logical_sector)
        .with_context(|| format!("reading the table of {}", path.display()))?;
    match (&plan.disk.table_hash, &present) {
        (Some(planned), Some(now)) if *planned == now.hash => {}
        (None, None) => {
            if let (true, Some(now)) = (blank, content::of(runner, &path)?) {
                bail!(changed(&found.name, format!("it was blank and now holds {}", now.kind)));
            }
        }
        (Some(_), None) => bail!(changed(&found.name, "its partition table is gone".into())),
        (None, Some(_)) => bail!(changed(&found.name, "it has a partition table now".into())),
        (Some(_), Some(_)) => bail!(changed(&found.name, "its partition table is another one now".into())),
    }
    Ok(LockedDisk {
        plan: plan.clone(),
        path,
        ids,
        device: Some(device),
        present,
        rehearsed: None,
        pending: Vec::new(),
        swap: Default::default(),
    })
}

/// Finds the disk by who it is. The kernel name is only where to look first: it may have changed.
fn find(root: &ProbeRoot, wanted: &DiskRef) -> Result<Disk> {
    let first = Path::new(&wanted.path).file_name().map(|n| n.to_string_lossy().into_owned());
    let first = first.filter(|name| root.sys.join("block").join(name).exists());
    if let Some(name) = first {
        let disk = disk::facts(root, &name)?;
        if is_same(wanted, &disk) {
            return Ok(disk);
        }
    }
    // Without anything that tells it from others, a disk at another place is another disk.
    if wanted.serial.is_some() || wanted.wwn.is_some() || wanted.by_id.is_some() {
        let mut same = disk::list(root)
            .iter()
            .map(|name| disk::facts(root, name))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .filter(|disk| is_same(wanted, disk));
        match (same.next(), same.next()) {
            (Some(disk), None) => return Ok(disk),
            (Some(a), Some(b)) => bail!(Issue::new(
                "disk-ambiguous",
                &wanted.name,
                format!("{} and {} both answer to the description of the planned disk", a.path, b.path),
                "take one of them out and start again",
            )),
            _ => {}
        }
    }
    bail!(Issue::new(
        "disk-gone",
        &wanted.name,
        format!(
            "the disk {} (serial number {}, {}) that was planned with cannot be found again",
            wanted.path,
            wanted.serial.as_deref().unwrap_or("unknown"),
            wanted.size
        ),
        "check its cables and start again",
    ))
}

/// Whether nothing speaks against it and something speaks for it. A fact that the disk does not tell now
/// although it told it before speaks against it.
fn is_same(wanted: &DiskRef, disk: &Disk) -> bool {
    let agrees = |wanted: &Option<String>, now: &Option<String>| wanted.is_none() || wanted == now;
    // Links are made of the other two where there are any, and udev may have made better ones since.
    let link_counts = wanted.serial.is_none() && wanted.wwn.is_none();
    wanted.size == disk.size
        && agrees(&wanted.serial, &disk.serial)
        && agrees(&wanted.wwn, &disk.wwn)
        && (!link_counts || agrees(&wanted.by_id, &disk.by_id))
}

fn changed(name: &str, how: String) -> Issue {
    Issue::new(
        "disk-changed",
        name,
        format!("the disk is no longer what the plan was made for: {how}"),
        "nothing was written; start again so that a new plan is made",
    )
}

fn in_use(name: &str, how: String) -> Issue {
    Issue::new(
        "disk-in-use",
        name,
        format!("the disk is in use: {how}"),
        "nothing was written; unmount what is mounted from it, or use another disk",
    )
}

/// Refuses a disk of which anything is mounted, swapped on, or part of something else.
fn refuse_if_in_use(root: &ProbeRoot, found: &Disk) -> Result<()> {
    let dir = root.sys.join("block").join(&found.name);
    let partitions = disk::known_partitions(root, Path::new(&found.path));
    let own = std::fs::read_to_string(dir.join("dev")).context("reading the number of a disk")?;
    let devices: BTreeSet<&str> = partitions.iter().map(|p| p.dev.as_str()).chain([own.trim()]).collect();

    let mounts = std::fs::read_to_string(root.proc.join("thread-self/mountinfo"))
        .context("reading what is mounted")?;
    // Field 3 is the device, field 5 the place, with \040 for a space.
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?;
        devices.contains(device).then(|| fields.nth(1).unwrap_or_default().replace("\\040", " "))
    });
    if let Some(place) = mounted {
        bail!(in_use(&found.name, format!("it is mounted at {place}")));
    }
    let swaps = std::fs::read_to_string(root.proc.join("swaps")).unwrap_or_default();
    if let Some(line) = swaps.lines().find(|l| {
        let node = l.split_whitespace().next().unwrap_or_default();
        node == found.path
            || partitions
                .iter()
                .any(|p| Path::new(node) == disk::partition_path(Path::new(&found.path), p.number))
    }) {
        bail!(in_use(
            &found.name,
            format!("{} is swap space", line.split_whitespace().next().unwrap_or("it"))
        ));
    }
    let holders = |dir: &Path| {
        std::fs::read_dir(dir.join("holders")).ok()?.find_map(|e| e.ok()?.file_name().into_string().ok())
    };
    let held = std::iter::once(dir.clone())
        .chain(partitions.iter().filter_map(|p| {
            let node = disk::partition_path(Path::new(&found.path), p.number);
            Some(dir.join(node.file_name()?))
        }))
        .find_map(|d| holders(&d));
    if let Some(holder) = held {
        bail!(in_use(&found.name, format!("it is part of {holder} (RAID, LVM or encryption)")));
    }
    Ok(())
}
