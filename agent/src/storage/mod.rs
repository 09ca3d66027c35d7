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
mod group;
mod ids;
pub mod image;
mod kept;
mod kernel;
mod lock;
mod mount;
mod refresh;
mod stale;
mod table;
mod work;

use std::collections::BTreeMap;
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
use uuid::Uuid;

use crate::probe::disk::partition_path;
use crate::probe::{ProbeRoot, content};
use group::{Active, LockedGroup};
use work::Work;

pub(crate) use mount::unmount;
pub use refresh::empty_root;

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

    /// Finds, checks and locks the disks. Writes nothing to them; volume groups that are kept are activated.
    pub fn lock(self, runner: &dyn Runner) -> Result<Locked> {
        let mut disks = Vec::new();
        for (index, plan) in self.plan.disks.iter().enumerate() {
            let ids = ids::Ids::new(self.machine, &plan.disk, index);
            let blank = !self.plan.destroys.iter().any(|d| is_on(&d.name, &plan.disk.name));
            let disk = lock::lock(&self.root, plan, ids, blank, runner)
                .with_context(|| format!("preparing {}", plan.disk.name))?;
            disks.push(disk);
        }
        for disk in &mut disks {
            table::rehearse(disk).with_context(|| format!("rehearsing the table of {}", disk.shown()))?;
            // The nodes of kept partitions must be what the table says before anybody looks at them.
            let present = disk.present.iter().flat_map(|t| t.partitions.clone()).collect::<Vec<_>>();
            if disk.partitions().any(|p| matches!(p.action, Action::Keep | Action::Refresh)) {
                kernel::synchronise(disk.device()?, &disk.path, &present)?;
            }
            kept::check_disk(disk, runner)?;
            disk.swap = format::swap_ids(disk, runner);
        }
        let mut groups = group::of(&self.plan, &disks)?;
        for group in &mut groups {
            group.ensure_possible(runner)?;
            group.find(runner)?;
            kept::check_group(group, runner)?;
        }
        Ok(Locked { disks, groups, notes: Vec::new(), root: self.root })
    }
}

/// All that would be done to carry a plan out, in order, by the same code that does it: each entry of each table,
/// each command, each mount. Nothing is looked at or changed, so the plan may be that of another machine.
/// Where a program is run on a real disk, what the disk holds decides whether its journal is played back.
pub fn steps(plan: &Plan, machine: MachineId) -> Result<Vec<String>> {
    check::plan(plan)?;
    let disks: Vec<_> = plan
        .disks
        .iter()
        .enumerate()
        .map(|(index, disk)| LockedDisk {
            plan: disk.clone(),
            path: PathBuf::from(&disk.disk.path),
            ids: ids::Ids::new(machine, &disk.disk, index),
            device: None,
            present: None,
            rehearsed: None,
            pending: Vec::new(),
            swap: Default::default(),
        })
        .collect();
    let groups = group::of(plan, &disks)?;
    let work = Work::dry();
    kept::describe(&disks, &groups, &work)?;
    let locked = Locked { disks, groups, notes: Vec::new(), root: ProbeRoot::default() };
    let formatted = locked.partition_by(&work)?.format_by(&work, &mut |_| {})?;
    mount::describe(&formatted.layout, &work)?;
    if let Some(root) = formatted.layout.refreshed_root() {
        refresh::describe(root, &work)?;
    }
    Ok(work.said())
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
    /// The whole disk, with an exclusive lock: udev leaves the disk alone while somebody holds one. `None` on a
    /// dry run.
    device: Option<Flock<File>>,
    /// The table it has now.
    present: Option<crate::probe::table::RawTable>,
    /// The table it is to have, read back from the rehearsal. `None`: the table is not changed.
    rehearsed: Option<crate::probe::table::RawTable>,
    /// Numbers of kept partitions whose journal must be played back before use.
    pending: Vec<u32>,
    /// What swap space that is made anew was called, by the number of its partition: a system that stays looks for it.
    swap: BTreeMap<u32, Uuid>,
}

impl LockedDisk {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The whole disk.
    fn device(&self) -> Result<&File> {
        self.device.as_deref().with_context(|| format!("using {}, which is not open", self.shown()))
    }

    /// The node of a partition.
    fn node(&self, number: u32) -> PathBuf {
        partition_path(&self.path, number)
    }

    /// UUID of the filesystem that is made in a partition.
    fn filesystem_id(&self, partition: &PartitionPlan) -> Uuid {
        let made = || self.ids.filesystem(&partition.purpose, partition.number);
        self.swap.get(&partition.number).copied().unwrap_or_else(made)
    }

    /// Partitions that are there afterwards.
    fn partitions(&self) -> impl Iterator<Item = &PartitionPlan> {
        self.plan.partitions.iter().filter(|p| p.action != Action::Delete)
    }
}

/// Disks found, checked and locked. Nothing has been written.
#[derive(Debug)]
pub struct Locked {
    // Before the disks: a group is deactivated before its disks are given up.
    groups: Vec<LockedGroup>,
    disks: Vec<LockedDisk>,
    notes: Vec<String>,
    root: ProbeRoot,
}

impl Locked {
    /// Remarks from the checks, for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Repairs what is kept, the way every start of a system does, where its last use ended without unmounting. That is
    /// done while everything else is still whole: where it fails, nothing is lost yet.
    pub fn mend(&mut self, runner: &dyn Runner) -> Result<()> {
        self.mend_by(&Work::Real(runner))
    }

    fn mend_by(&mut self, work: &Work<'_>) -> Result<()> {
        for disk in &mut self.disks {
            kept::finish(disk, work)?;
            disk.pending.clear();
        }
        for group in &mut self.groups {
            kept::finish_group(group, work)?;
            group.pending = false;
        }
        Ok(())
    }

    /// The boot partition of an earlier installation, where the plan keeps one: its node and its filesystem's UUID.
    pub fn kept_boot(&self, runner: &dyn Runner) -> Result<Option<(PathBuf, String)>> {
        let kept = |p: &&PartitionPlan| p.purpose == Role::Boot && p.action == Action::Keep;
        let mut found = self.disks.iter().filter_map(|d| Some(d.node(d.partitions().find(kept)?.number)));
        let Some(node) = found.next() else { return Ok(None) };
        let content = content::of(runner, &node)?;
        let uuid = content.and_then(|c| c.uuid).context("looking for the UUID of the boot partition")?;
        Ok(Some((node, uuid)))
    }

    /// UUID of the root of the system so far, where the plan leaves it beside the new one.
    pub fn old_root(&self, runner: &dyn Runner) -> Result<Option<String>> {
        let mut found = self
            .disks
            .iter()
            .filter_map(|disk| Some(disk.node(disk.partitions().find(|p| p.purpose == Role::Old)?.number)));
        let Some(node) = found.next() else { return Ok(None) };
        let content = content::of(runner, &node)?;
        content.and_then(|c| c.uuid).context("looking for the UUID of the old root").map(Some)
    }

    /// Mends what is still to be mended, writes the tables and the metadata of volume groups, and wipes old signatures
    /// from what the plan makes new. **From here on the disks change.**
    pub fn partition(self, runner: &dyn Runner) -> Result<Partitioned> {
        self.partition_by(&Work::Real(runner))
    }

    fn partition_by(mut self, work: &Work<'_>) -> Result<Partitioned> {
        self.mend_by(work)?;
        for disk in &self.disks {
            table::write(disk, work).with_context(|| format!("writing the table of {}", disk.shown()))?;
            work.act(
                || format!("tell the kernel of the partitions of {}", disk.shown()),
                || kernel::announce(disk, &self.root),
            )
            .with_context(|| format!("telling the kernel of the partitions of {}", disk.shown()))?;
            stale::clear_partitions(disk, work)
                .with_context(|| format!("clearing the new partitions of {}", disk.shown()))?;
        }
        for group in &mut self.groups {
            group.make(work)?;
            if group.plan.action != Action::Keep {
                stale::clear(&group.node(), group.plan.size.0, work)?;
            }
        }
        Ok(Partitioned { disks: self.disks, groups: self.groups })
    }
}

/// Disks with their new tables.
#[derive(Debug)]
pub struct Partitioned {
    groups: Vec<LockedGroup>,
    disks: Vec<LockedDisk>,
}

impl Partitioned {
    /// Makes the filesystems the plan asks for.
    pub fn format(self, runner: &dyn Runner, progress: &mut dyn FnMut(&Progress)) -> Result<Formatted> {
        self.format_by(&Work::Real(runner), progress)
    }

    fn format_by(self, work: &Work<'_>, progress: &mut dyn FnMut(&Progress)) -> Result<Formatted> {
        let mut new: Vec<_> = self.disks.iter().flat_map(format::on_disk).collect();
        new.extend(self.groups.iter().filter_map(format::on_group));
        let total = new.len();
        for (done, new) in new.iter().enumerate() {
            let what = format::describe(new);
            progress(&Progress { done, total, what: what.clone() });
            format::make(new, work).context(what)?;
        }
        progress(&Progress { done: total, total, what: "the filesystems are ready".into() });
        let layout = mount::layout(&self.disks, &self.groups, work)?;
        Ok(Formatted { disks: self.disks, groups: self.groups, layout })
    }
}

/// Disks with their filesystems.
#[derive(Debug)]
pub struct Formatted {
    // Before the disks: a group is deactivated before its disks are given up.
    groups: Vec<LockedGroup>,
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
        let groups = self.groups.into_iter().filter_map(|mut group| group.take_active()).collect();
        // A mounted partition keeps the kernel from dropping the nodes of its disk. The lock is given up so
        // that udev learns of the new filesystems, which tools in the target ask it for.
        let in_use = |p: &MountedPartition| p.is_mounted() || matches!(p.role, Role::Physical(_));
        let locks = self
            .disks
            .into_iter()
            .zip(&layout.disks)
            .filter(|(_, disk)| !layout.partitions.iter().any(|p| p.disk == disk.path && in_use(p)))
            .filter_map(|(locked, _)| locked.device)
            .collect();
        Ok(Mounted { layout, mounts, groups, _locks: locks })
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

/// One partition, or the volume of a volume group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MountedPartition {
    /// What it is for.
    pub role: Role,
    /// Its node in this boot: `/dev/sda3`.
    pub device: PathBuf,
    /// The node of its disk. A volume of a group is its own disk.
    pub disk: PathBuf,
    /// Number in the table. 0 for a volume of a group.
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

    /// The root, where an earlier system lies on it that has to make room around its `/home`.
    pub fn refreshed_root(&self) -> Option<&MountedPartition> {
        self.partition(&Role::Root).filter(|root| root.kept)
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
    // Dropped in this order: first unmounted, then deactivated, then given up.
    mounts: mount::Mounts,
    groups: Vec<Active>,
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
        self.mounts.unmount()?;
        std::mem::take(&mut self.groups).into_iter().try_for_each(Active::deactivate)
    }
}
