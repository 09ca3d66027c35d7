//! Volume groups: one filesystem that lies on several disks.
//!
//! LVM is told everything on its command line and sees nothing but the group's own partitions (see
//! [`lvm::command`]). The metadata is written before anything is activated, so that it can be made and judged
//! on a machine without device-mapper; only a node to put a filesystem on needs that.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Runner, SystemRunner};
use akene_planner::{Action, GroupPlan, Plan};
use akene_protocol::issue::Issue;
use anyhow::{Context, Result, bail};
use uuid::Uuid;

use super::LockedDisk;
use super::work::Work;
use crate::probe::lvm;

/// How long the node of a volume may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);

/// Size of an extent.
pub(super) const EXTENT: u64 = 4 << 20;

/// Where the first extent of a physical volume begins.
pub(super) const HEAD: u64 = 1 << 20;

/// A group of the plan, on disks that are locked.
#[derive(Debug)]
pub(super) struct LockedGroup {
    pub plan: GroupPlan,
    /// Its partitions, in the order in which they are filled.
    pub members: Vec<PathBuf>,
    /// UUID of the filesystem we make on it.
    pub id: Uuid,
    /// Logical sector size of its disks.
    pub sector: u32,
    /// Whether the journal of its kept filesystem must be played back before use.
    pub pending: bool,
    active: Option<Active>,
}

/// The groups of a plan.
pub(super) fn of(plan: &Plan, disks: &[LockedDisk]) -> Result<Vec<LockedGroup>> {
    plan.groups
        .iter()
        .map(|group| {
            let mut members = Vec::new();
            let mut sector = 512;
            for member in &group.members {
                let disk = disks.iter().find(|d| d.plan.disk.name == member.disk);
                let disk = disk.with_context(|| format!("looking for {} of {}", member.disk, group.name))?;
                members.push(disk.node(member.partition));
                sector = sector.max(disk.plan.logical_sector);
            }
            let first = disks.first().context("looking for the boot disk")?;
            Ok(LockedGroup {
                plan: group.clone(),
                members,
                id: first.ids.filesystem(&group.purpose, 0),
                sector,
                pending: false,
                active: None,
            })
        })
        .collect()
}

impl LockedGroup {
    /// The node of its volume. device-mapper doubles the hyphens of both names.
    pub(super) fn node(&self) -> PathBuf {
        let plain = |name: &str| name.replace('-', "--");
        Path::new("/dev/mapper").join(format!("{}-{}", plain(&self.plan.name), plain(self.plan.volume())))
    }

    fn volume(&self) -> String {
        format!("{}/{}", self.plan.name, self.plan.volume())
    }

    /// Refuses where logical volumes cannot be used at all.
    pub(super) fn ensure_possible(&self, runner: &dyn Runner) -> Result<()> {
        if lvm::has_device_mapper(runner) {
            return Ok(());
        }
        bail!(Issue::new(
            "no-device-mapper",
            &self.plan.name,
            format!(
                "{} lies on {} disks, and this system's kernel has no device-mapper to put them together with",
                self.plan.volume(),
                self.members.len()
            ),
            "nothing was written; install with the live medium, or take `span` from the volume in the profile",
        ))
    }

    /// Makes sure that a kept group is whole and what the plan takes it for, and activates it, which writes
    /// nothing to its disks.
    pub(super) fn find(&mut self, runner: &dyn Runner) -> Result<()> {
        if self.plan.action == Action::Create {
            return Ok(());
        }
        let report = lvm::Report::of(&self.members, runner)?;
        let changed = |how: String| {
            Issue::new(
                "group-changed",
                &self.plan.name,
                format!("the volume group to be kept is not what the plan was made for: {how}"),
                "nothing was written; start again so that a new plan is made",
            )
        };
        let Some(group) = report.groups.iter().find(|g| g.name == self.plan.name) else {
            bail!(changed("its disks do not know it".into()));
        };
        if !report.is_complete(group) {
            bail!(changed("a disk of it is missing".into()));
        }
        let (mut found, mut wanted) = (report.members(group), self.members.clone());
        found.sort();
        wanted.sort();
        if found != wanted {
            bail!(changed(format!("it lies on {found:?}, not on {wanted:?}")));
        }
        match report.volumes(group).get(self.plan.volume()) {
            None => bail!(changed(format!("it has no volume {}", self.plan.volume()))),
            Some(size) if *size != self.plan.size.0 => {
                bail!(changed(format!("its volume has {size} bytes, not {}", self.plan.size.0)))
            }
            Some(_) => self.activate(&Work::Real(runner)),
        }
    }

    /// Makes the group and its volume on partitions that are new.
    pub(super) fn make(&mut self, work: &Work<'_>) -> Result<()> {
        if self.plan.action != Action::Create {
            return Ok(());
        }
        self.write_metadata(work)?;
        self.activate(work)
    }

    /// Writes what makes the partitions a group. Needs no device-mapper.
    pub(super) fn write_metadata(&self, work: &Work<'_>) -> Result<()> {
        let lvm = |verb: &str| lvm::command(verb, &self.members);
        let name = &self.plan.name;
        let physical = lvm("pvcreate").args(["--yes", "--force", "--force", "--dataalignment", "1m"]);
        work.run(&physical.args(&self.members)).with_context(|| format!("making the disks of {name}"))?;
        let extent = format!("{}m", EXTENT >> 20);
        let group = lvm("vgcreate").args(["--yes", "--physicalextentsize", &extent]).arg(name);
        work.run(&group.args(&self.members)).with_context(|| format!("making the volume group {name}"))?;
        // The volume is not touched while it is made: its signatures are wiped when it has a node.
        let volume = lvm("lvcreate")
            .args(["--yes", "--driverloaded", "n", "--activate", "n", "--zero", "n", "--wipesignatures", "n"])
            .args(["--type", "linear", "--extents", &(self.plan.size.0 / EXTENT).to_string()])
            .args(["--name", self.plan.volume()])
            .arg(name);
        work.run(&volume.args(&self.members)).with_context(|| format!("making the volume {}", self.volume()))
    }

    fn activate(&mut self, work: &Work<'_>) -> Result<()> {
        let activate = lvm::command("lvchange", &self.members).args(["--activate", "y"]).arg(self.volume());
        work.run(&activate).with_context(|| format!("activating {}", self.volume()))?;
        if let Work::Real(_) = work {
            self.active = Some(Active { name: self.plan.name.clone(), members: self.members.clone() });
            wait_for(&self.node())?;
        }
        Ok(())
    }

    /// Hands over the duty to deactivate it.
    pub(super) fn take_active(&mut self) -> Option<Active> {
        self.active.take()
    }
}

fn wait_for(node: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !node.exists() {
        if Instant::now() > deadline {
            bail!("waiting for {} for {} s: it does not appear", node.display(), PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A group whose volume is active. Dropping it deactivates it as well as it can.
#[derive(Debug)]
pub(super) struct Active {
    name: String,
    members: Vec<PathBuf>,
}

impl Active {
    /// Deactivates it: its disks are free afterwards.
    pub(super) fn deactivate(self) -> Result<()> {
        self.end().with_context(|| format!("deactivating the volume group {}", self.name))?;
        std::mem::forget(self);
        Ok(())
    }

    fn end(&self) -> Result<()> {
        let end = lvm::command("vgchange", &self.members).args(["--activate", "n"]).arg(&self.name);
        SystemRunner.run(&end).map(drop)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        // Only when something failed before: nobody is left to tell.
        self.end().ok();
    }
}

#[cfg(test)]
mod tests;
