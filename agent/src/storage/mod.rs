//! Carrying out a plan: tables, filesystems, mounts.
//!
//! [`Planned`] → [`Locked`] → [`Partitioned`] → [`Formatted`] → [`Mounted`]: each step takes the one before
//! and can neither be left out nor done twice.
//!
//! Up to and including [`Planned::lock`] nothing is written. It finds each disk of the plan again by who
//! it is, refuses one that changed since it was probed or that is in use, checks the filesystems that
//! are kept, rehearses every table on a sparse file, and takes a lock on each disk that udev respects.
//! Everything after that writes. A failure leaves the disks as they are at that moment: what is kept
//! was not touched, and the installer on the boot partition or the medium starts again.
//!
//! A refusal that a person can do something about is an [`Issue`](akene_protocol::issue::Issue) and can be downcast to.

mod check;
mod format;
mod ids;
pub mod image;
mod kept;
mod kernel;
mod lock;
mod mount;
mod stale;
mod table;

use std::fs::File;
use std::path::{Path, PathBuf};

use akene_exec::Runner;
use akene_planner::{Action, DiskPlan, PartitionPlan, Plan, Role};
use akene_protocol::ids::MachineId;
use akene_protocol::inventory::TableKind;
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result};
use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use crate::probe::ProbeRoot;
use crate::probe::disk::partition_path;

/// How far a step has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Parts done.
    pub done: usize,
    /// Parts in all.
    pub total: usize,
    /// What is being done now, for a person: `formatting /dev/sda3 as ext4 (AKENE_BOOT)`.
    pub what: String,
}

/// A plan that makes sense by itself.
#[derive(Debug)]
pub struct Planned {
    plan: Plan,
    machine: MachineId,
    root: ProbeRoot,
}

impl Planned {
    /// Checks what can be checked without looking at a disk: that no two partitions overlap, that
    /// everything lies on its disk, that nothing kept is to be formatted.
    pub fn new(plan: Plan, machine: MachineId) -> Result<Self> {
        check::plan(&plan)?;
        Ok(Planned { plan, machine, root: ProbeRoot::default() })
    }

    /// Finds, checks and locks the disks. Writes nothing.
    pub fn lock(self, runner: &dyn Runner) -> Result<Locked> {
        let mut disks = Vec::new();
        for (index, plan) in self.plan.disks.iter().enumerate() {
            let ids = ids::Ids::new(self.machine, &plan.disk, index);
            let blank = !self.plan.destroys.iter().any(|d| is_on(&d.name, &plan.disk.name));
            let disk = lock::lock(&self.root, plan, ids, blank, runner)
                .with_context(|| format!("preparing {}", plan.disk.name))?;
            disks.push(disk);
        }
        let mut notes = Vec::new();
        for disk in &mut disks {
            table::rehearse(disk).with_context(|| format!("rehearsing the table of {}", disk.shown()))?;
            // The nodes of kept partitions must be what the table says before anybody looks at them.
            let present = disk.present.iter().flat_map(|t| t.partitions.clone()).collect::<Vec<_>>();
            if disk.partitions().any(|p| p.action == Action::Keep) {
                kernel::synchronise(&disk.device, &disk.path, &present)?;
            }
            notes.extend(kept::check(disk, runner)?);
        }
        Ok(Locked { disks, notes, root: self.root })
    }
}

/// Whether a name is that of a disk or of one of its partitions: `sda2` is on `sda`, `sdaa` is not.
fn is_on(name: &str, disk: &str) -> bool {
    let rest = name.strip_prefix(disk).map(|rest| match disk.ends_with(|c: char| c.is_ascii_digit()) {
        true => rest.strip_prefix('p').unwrap_or(if rest.is_empty() { "" } else { "-" }),
        false => rest,
    });
    rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
}

/// A disk that is ours until it is dropped.
#[derive(Debug)]
struct LockedDisk {
    plan: DiskPlan,
    path: PathBuf,
    ids: ids::Ids,
    /// The whole disk, with an exclusive lock: udev leaves the disk alone while somebody holds one.
    device: Flock<File>,
    /// The table it has now.
    present: Option<crate::probe::table::RawTable>,
    /// The table it is to have, read back from the rehearsal. `None`: the table is not changed.
    rehearsed: Option<crate::probe::table::RawTable>,
    /// Numbers of kept partitions whose journal must be played back before use.
    pending: Vec<u32>,
}

impl LockedDisk {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The node of a partition.
    fn node(&self, number: u32) -> PathBuf {
        partition_path(&self.path, number)
    }

    /// Partitions that are there afterwards.
    fn partitions(&self) -> impl Iterator<Item = &PartitionPlan> {
        self.plan.partitions.iter().filter(|p| p.action != Action::Delete)
    }
}

/// Disks found, checked and locked. Nothing has been written.
#[derive(Debug)]
pub struct Locked {
    disks: Vec<LockedDisk>,
    notes: Vec<String>,
    root: ProbeRoot,
}

impl Locked {
    /// Remarks from the checks, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the tables, and wipes old signatures from what the plan makes new. **From here on the
    /// disks change.**
    pub fn partition(mut self, runner: &dyn Runner) -> Result<Partitioned> {
        for disk in &mut self.disks {
            table::write(disk, runner).with_context(|| format!("writing the table of {}", disk.shown()))?;
            kernel::announce(disk, &self.root)
                .with_context(|| format!("telling the kernel of the partitions of {}", disk.shown()))?;
            stale::clear_partitions(disk, runner)
                .with_context(|| format!("clearing the new partitions of {}", disk.shown()))?;
        }
        Ok(Partitioned { disks: self.disks })
    }
}

/// Disks with their new tables.
#[derive(Debug)]
pub struct Partitioned {
    disks: Vec<LockedDisk>,
}

impl Partitioned {
    /// Makes the filesystems the plan asks for. What is kept is only repaired, the way every start of a
    /// system does, where its last use ended without unmounting.
    pub fn format(self, runner: &dyn Runner, progress: &mut dyn FnMut(&Progress)) -> Result<Formatted> {
        let total = self.disks.iter().map(|d| format::steps(d).count()).sum();
        let mut done = 0;
        for disk in &self.disks {
            kept::finish(disk, runner)?;
            for partition in format::steps(disk) {
                let what = format::describe(disk, partition);
                progress(&Progress { done, total, what: what.clone() });
                format::make(disk, partition, runner).context(what)?;
                done += 1;
            }
        }
        progress(&Progress { done, total, what: "the filesystems are ready".into() });
        let layout = mount::layout(&self.disks, runner)?;
        Ok(Formatted { disks: self.disks, layout })
    }
}

/// Disks with their filesystems.
#[derive(Debug)]
pub struct Formatted {
    disks: Vec<LockedDisk>,
    layout: Layout,
}

impl Formatted {
    /// What there is now.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Mounts what the plan mounts below `root`, which is created if it is missing: the root filesystem,
    /// then the others by path. EFI system partitions and swap are not mounted.
    pub fn mount(self, root: &Path) -> Result<Mounted> {
        let mut layout = self.layout;
        layout.root = root.to_owned();
        let mounts = mount::mount_all(&layout)?;
        // A mounted partition keeps the kernel from dropping the nodes of its disk. The lock is given up so
        // that udev learns of the new filesystems, which tools in the target ask it for.
        let locks = self
            .disks
            .into_iter()
            .zip(&layout.disks)
            .filter(|(_, disk)| !layout.partitions.iter().any(|p| p.disk == disk.path && p.is_mounted()))
            .map(|(locked, _)| locked.device)
            .collect();
        Ok(Mounted { layout, mounts, _locks: locks })
    }
}

/// What the installed system will find on the disks: all that `fstab` and the boot loader need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Layout {
    /// Where the new root is mounted now.
    pub root: PathBuf,
    /// Every partition that is ours, by disk and position.
    pub partitions: Vec<MountedPartition>,
    /// The disks, the boot disk first.
    pub disks: Vec<MountedDisk>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MountedPartition {
    /// What it is for.
    pub role: Role,
    /// Its node in this boot: `/dev/sda3`.
    pub device: PathBuf,
    /// The node of its disk.
    pub disk: PathBuf,
    /// Number in the table.
    pub number: u32,
    /// Filesystem UUID, as `fstab` writes it. `None`: there is no filesystem (BIOS boot partition).
    pub uuid: Option<String>,
    /// UUID of the partition itself.
    pub partuuid: Option<String>,
    /// Filesystem.
    pub fstype: Option<Filesystem>,
    /// Filesystem label.
    pub label: Option<String>,
    /// Mount point in the installed system.
    pub mount: Option<String>,
    /// Whether its content was kept.
    pub kept: bool,
}

impl MountedPartition {
    /// Whether [`Formatted::mount`] mounts it.
    pub fn is_mounted(&self) -> bool {
        let ours = !matches!(self.fstype, None | Some(Filesystem::Vfat | Filesystem::Swap));
        ours && self.mount.is_some()
    }
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MountedDisk {
    /// Its node in this boot.
    pub path: PathBuf,
    /// Its stable link, if there is one.
    pub by_id: Option<String>,
    /// Kind of table.
    pub table: TableKind,
    /// Logical sector size.
    pub logical_sector: u32,
}

impl Layout {
    /// The first partition with this role; the boot disk's, where each disk has one.
    pub fn partition(&self, role: &Role) -> Option<&MountedPartition> {
        self.partitions.iter().find(|p| p.role == *role)
    }

    /// The node of the EFI system partition, for mtools.
    pub fn esp_device(&self) -> Option<&Path> {
        self.partition(&Role::Esp).map(|p| p.device.as_path())
    }

    /// The disk the machine is started from.
    pub fn boot_disk(&self) -> Option<&MountedDisk> {
        self.disks.first()
    }
}

/// Everything is mounted. Dropping it unmounts as well as it can; [`Mounted::unmount`] says whether it went well.
#[derive(Debug)]
pub struct Mounted {
    layout: Layout,
    mounts: mount::Mounts,
    _locks: Vec<Flock<File>>,
}

impl std::ops::Deref for Mounted {
    type Target = Layout;
    fn deref(&self) -> &Layout {
        &self.layout
    }
}

impl Mounted {
    /// Writes everything out and unmounts it, in the reverse order. An error means that something is still
    /// in use below the root: the installation is not complete on disk.
    pub fn unmount(mut self) -> Result<()> {
        self.mounts.unmount()
    }
}
