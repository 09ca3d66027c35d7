//! Mounting the new system, and unmounting it again with errors that matter.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_planner::{Action, Role};
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::group::LockedGroup;
use super::work::Work;
use super::{Layout, LockedDisk, MountedDisk, MountedPartition, format};
use crate::durable;
use crate::probe::content;

/// How long a process that is just ending may keep a filesystem busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// What there is after formatting. On a dry run nobody knows the identifiers of what is kept.
pub(super) fn layout(disks: &[LockedDisk], groups: &[LockedGroup], work: &Work<'_>) -> Result<Layout> {
    let mut layout = Layout::default();
    for disk in disks {
        layout.disks.push(MountedDisk {
            path: disk.path.clone(),
            by_id: disk.plan.disk.by_id.clone(),
            table: disk.plan.table,
            logical_sector: disk.plan.logical_sector,
        });
        let table = disk.rehearsed.as_ref().or(disk.present.as_ref());
        for partition in disk.partitions().filter(|p| p.purpose != Role::Foreign || p.mount.is_some()) {
            let entry = table.and_then(|t| t.partitions.iter().find(|p| p.number == partition.number));
            let partuuid = entry.and_then(|e| e.uuid.clone()).or_else(|| {
                let signature = table.and_then(|t| t.id.as_ref())?;
                Some(format!("{signature}-{:02x}", partition.number))
            });
            let device = disk.node(partition.number);
            let kept = matches!(partition.action, Action::Keep | Action::Refresh);
            let new = (disk.filesystem_id(partition), partition.label.clone());
            let (uuid, label) = names(&device, kept, partition.filesystem, new, work)?;
            layout.partitions.push(MountedPartition {
                role: partition.purpose.clone(),
                device,
                disk: disk.path.clone(),
                number: partition.number,
                uuid,
                partuuid,
                fstype: partition.filesystem,
                label,
                mount: partition.mount.clone(),
                kept,
            });
        }
    }
    for group in groups {
        let kept = group.plan.action == Action::Keep;
        let device = group.node();
        let new = (group.id, group.plan.label.clone());
        let (uuid, label) = names(&device, kept, group.plan.filesystem, new, work)?;
        layout.partitions.push(MountedPartition {
            role: group.plan.purpose.clone(),
            disk: device.clone(),
            device,
            number: 0,
            uuid,
            partuuid: None,
            fstype: group.plan.filesystem,
            label,
            mount: group.plan.mount.clone(),
            kept,
        });
    }
    Ok(layout)
}

/// UUID and label of a filesystem: those found where it is kept, those we gave it where it is new.
fn names(
    device: &Path,
    kept: bool,
    filesystem: Option<Filesystem>,
    new: (uuid::Uuid, Option<String>),
    work: &Work<'_>,
) -> Result<(Option<String>, Option<String>)> {
    if !kept {
        return Ok((format::uuid(filesystem, new.0)?, new.1));
    }
    if filesystem.is_none() {
        return Ok((None, None));
    }
    let found = work.ask(|runner| content::of(runner, device))?.flatten();
    Ok(found.map(|c| (c.uuid, c.label)).unwrap_or_default())
}

/// Mounted places, unmounted in the reverse order when dropped.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    places: Vec<PathBuf>,
}

/// What is mounted and where, in order.
fn wanted(layout: &Layout) -> Result<Vec<(&str, &MountedPartition)>> {
    let mounted = layout.partitions.iter().filter(|p| p.is_mounted());
    let mut wanted: Vec<_> = mounted.filter_map(|p| Some((p.mount.as_deref()?, p))).collect();
    // A path sorts before what lies below it.
    wanted.sort_by(|(a, _), (b, _)| Path::new(a).cmp(Path::new(b)));
    if wanted.first().is_none_or(|(place, _)| *place != "/") {
        bail!("mounting the new system: the plan has no root filesystem that can be mounted");
    }
    Ok(wanted)
}

/// Options that only the installation uses: the background thread that would zero the inode tables only
/// disturbs it.
fn options(partition: &MountedPartition) -> Option<&'static str> {
    (partition.fstype == Some(Filesystem::Ext4) && !partition.kept).then_some("noinit_itable")
}

/// Says what would be mounted.
pub(super) fn describe(layout: &Layout, work: &Work<'_>) -> Result<()> {
    for (place, partition) in wanted(layout)? {
        let kind = partition.fstype.map(Filesystem::name).unwrap_or_default();
        let options: String = options(partition).iter().map(|o| format!(",{o}")).collect();
        let device = partition.device.display();
        work.act(
            || format!("mount -t {kind} -o noatime{options} {device} at {place} of the new system"),
            || Ok(()),
        )?;
    }
    Ok(())
}

/// Mounts what the layout mounts.
pub(super) fn mount_all(layout: &Layout) -> Result<Mounts> {
    let mut mounts = Mounts::default();
    for (place, partition) in wanted(layout)? {
        let place = layout.root.join(place.trim_start_matches('/'));
        std::fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
        let kind = partition.fstype.map(Filesystem::name);
        mount(Some(&partition.device), &place, kind, MsFlags::MS_NOATIME, options(partition))
            .with_context(|| format!("mounting {} at {}", partition.device.display(), place.display()))?;
        mounts.places.push(place);
    }
    Ok(mounts)
}

impl Mounts {
    /// Unmounts everything, in the reverse order. What could not be unmounted stays to be tried again.
    pub(super) fn unmount(&mut self) -> Result<()> {
        while let Some(place) = self.places.last() {
            unmount(place)?;
            self.places.pop();
        }
        Ok(())
    }
}

/// Unmounts one place. Everything is written out before it comes back, also where the kernel would not do it:
/// a mount namespace of somebody else may hold a copy, and keep the filesystem alive.
pub fn unmount(place: &Path) -> Result<()> {
    durable::sync(place)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match umount2(place, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            Err(e) => return Err(e).with_context(|| format!("unmounting {}", place.display())),
        }
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        // Only when something failed before: nobody is left to tell. Detached, a filesystem is unmounted
        // as soon as its last user is gone.
        for place in self.places.iter().rev() {
            let gone = umount2(place, MntFlags::UMOUNT_NOFOLLOW).is_ok();
            if !gone && umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_err() {
                continue;
            }
        }
    }
}
