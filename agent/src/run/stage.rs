//! Where packages are fetched to, so that an old system is whole until everything is there.
//!
//! In this order: beside the disks (memory, or another disk), where it fits; in a *shelter*, a filesystem the plan keeps;
//! on the new disk. The last is right where nothing is kept that could still start: blank disks, an installation that was
//! begun and never completed, disks that are wiped whole with permission. Where an old system would make room for the new
//! one before the new one is there, it needs a permission that says so ([`Consent::Streamed`]).
//!
//! A shelter is the boot partition of an earlier installation, a kept volume such as `/home`, or an old root around whose
//! `/home` the new system is put. What a run that broke off left there, the next one goes on with. See also [`super::cache`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use akene_planner::{Action, Plan, Role};
use akene_protocol::api::Consent;
use akene_protocol::inventory::{Health, Inventory, LooksLike};
use akene_protocol::lock::Lock;
use akene_protocol::profile::Filesystem;
use akene_protocol::{Bytes, Issue};
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statvfs::statvfs;

use super::left;
use crate::fetch::known;
use crate::probe::disk::partition_path;

/// Memory that must stay free while packages lie in memory: unpacking, dpkg, the page cache.
pub const MEMORY_MARGIN: Bytes = Bytes(192 << 20);

/// What must stay free on the boot partition: a kernel with its initrd, and the installer while it is replaced.
pub const BOOT_MARGIN: Bytes = Bytes(256 << 20);

/// What must stay free on a kept volume: people go on working there if the installation does not come to be.
const VOLUME_MARGIN: Bytes = Bytes(256 << 20);

/// Where packages lie on the boot partition.
pub const ON_BOOT: &str = "akene/packages";

/// Where packages lie on a volume.
pub const ON_VOLUME: &str = crate::probe::look::STAGED;

/// A filesystem that the plan keeps and that can hold packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelter {
    /// Its device.
    pub device: PathBuf,
    /// The directory in it.
    pub dir: &'static str,
    /// Where that is in the new system, without a slash at its beginning: `boot/akene/packages`.
    pub later: String,
    /// How many bytes more may be put there.
    pub free: Bytes,
    /// How many bytes of the lock lie there already.
    pub there: Bytes,
}

/// Where packages are fetched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// Beside the disks, before they change.
    Beside,
    /// Into what the plan keeps, before anything else changes.
    Shelter(&'a Shelter),
    /// Onto the new disk, after it was partitioned.
    Target,
}

/// Whether an old system would be gone, or at least start no more, when packages are fetched onto the new disk.
///
/// A plan that keeps nothing was made for disks that are blank or may be wiped whole: what it destroys is permitted with all
/// that follows. A plan that keeps something replaces a system that could still start, but where that system is
/// known to be half an installation already.
pub fn has_old_system(plan: &Plan, inventory: &Inventory) -> bool {
    if plan.destroys.is_empty() {
        return false;
    }
    let ours = |p: &akene_planner::PartitionPlan| p.purpose != Role::Foreign && p.purpose != Role::BiosBoot;
    let stays = |action| matches!(action, Action::Keep | Action::Refresh | Action::Format);
    let partitions = plan.disks.iter().filter(|d| !d.new_table).flat_map(|d| &d.partitions);
    // What is removed from a table that stays may be a system beside what stays.
    let kept = partitions.clone().any(|p| p.action == Action::Delete)
        || partitions.filter(|p| ours(p)).any(|p| stays(p.action))
        || plan.groups.iter().any(|g| stays(g.action));
    kept && !is_unfinished(plan, inventory)
}

/// Whether the boot partition of the plan's disks says that its last installation never came to its end.
fn is_unfinished(plan: &Plan, inventory: &Inventory) -> bool {
    let disks = inventory.disks.iter().filter(|disk| plan.disks.iter().any(|d| d.disk.name == disk.name));
    let contents =
        disks.flat_map(|d| d.table.iter().flat_map(|t| &t.partitions)).filter_map(|p| p.content.as_ref());
    let mut boots = contents.filter_map(|c| match c.looks_like {
        Some(LooksLike::AkeneBoot { unfinished }) => Some(unfinished),
        _ => None,
    });
    let first = boots.next();
    first == Some(true) && boots.all(|unfinished| unfinished)
}

/// Decides where to stage `size` bytes, with `room` beside the disks.
///
/// # Errors
/// `no-room-to-stage`: an old system would have to go first, and nobody permitted that.
pub fn where_to_stage<'a>(
    size: Bytes,
    room: Bytes,
    shelters: &'a [Shelter],
    old_system: bool,
    consent: Consent,
) -> Result<Place<'a>, Issue> {
    if size + MEMORY_MARGIN <= room {
        return Ok(Place::Beside);
    }
    if !old_system {
        return Ok(Place::Target);
    }
    if let Some(shelter) = shelters.iter().find(|s| size.0.saturating_sub(s.there.0) <= s.free.0) {
        return Ok(Place::Shelter(shelter));
    }
    if consent >= Consent::Streamed {
        return Ok(Place::Target);
    }
    let mut message = format!(
        "the {size} of packages must lie somewhere before the system on this computer is replaced; memory has room for {}",
        Bytes(room.0.saturating_sub(MEMORY_MARGIN.0))
    );
    for shelter in shelters {
        // Writing to a text cannot fail.
        let _: std::fmt::Result = write!(
            message,
            ", {} on {} for {}",
            shelter.later,
            shelter.device.display(),
            Bytes(shelter.there.0 + shelter.free.0)
        );
    }
    if shelters.is_empty() {
        message += ", and no partition that stays can hold them";
    }
    Err(Issue::new(
        "no-room-to-stage",
        "",
        message,
        "nothing was changed. Put more memory in, ask for fewer packages, or permit this installation to remove the old \
         system first: `akene-server allow SITE NUMBER --wipe --streamed`. If its download then breaks off, the computer \
         has no system until the installer on its disk has finished",
    ))
}

/// The filesystems the plan keeps that hold packages or may: those of the boot partition first.
pub fn shelters(plan: &Plan, inventory: &Inventory, lock: &Lock) -> Vec<Shelter> {
    let mut found = Vec::new();
    for disk in plan.disks.iter().filter(|d| !d.new_table) {
        let known = inventory.disks.iter().find(|d| d.name == disk.disk.name);
        if known.is_none_or(|d| d.read_only || d.removable || d.health == Health::Failing) {
            continue;
        }
        for partition in disk.partitions.iter().filter(|p| p.filesystem == Some(Filesystem::Ext4)) {
            let (dir, later) = match (&partition.purpose, partition.action, partition.mount.as_deref()) {
                (Role::Boot, Action::Keep, _) => (ON_BOOT, format!("boot/{ON_BOOT}")),
                (Role::Volume(_), Action::Keep, Some(mount)) => {
                    (ON_VOLUME, format!("{}/{ON_VOLUME}", mount.trim_matches('/')))
                }
                (Role::Root, Action::Refresh, _) => ("home/.akene-packages", format!("home/{ON_VOLUME}")),
                _ => continue,
            };
            let device = partition_path(Path::new(&disk.disk.path), partition.number);
            // A filesystem that cannot be looked into, or was not unmounted in order, is no shelter.
            let Ok((free, there)) = known::look(&device, |top| Ok(room_in(top, dir, lock)?)) else {
                continue;
            };
            if !left::is_clean(&device).unwrap_or(false) {
                continue;
            }
            let margin = if dir == ON_BOOT { BOOT_MARGIN } else { VOLUME_MARGIN };
            let free = Bytes(free.0.saturating_sub(margin.0));
            found.push(Shelter { device, dir, later, free, there });
        }
    }
    found.sort_by_key(|s| s.dir != ON_BOOT);
    found
}

fn room_in(top: &Path, dir: &str, lock: &Lock) -> nix::Result<(Bytes, Bytes)> {
    let stat = statvfs(top)?;
    // A link would lead out of the filesystem.
    let mut below = top.to_owned();
    for part in dir.split('/') {
        below.push(part);
        match below.symlink_metadata() {
            Ok(meta) if !meta.is_dir() => return Err(nix::errno::Errno::ENOTDIR),
            _ => {}
        }
    }
    let dir = below;
    let whole = |p: &&akene_protocol::lock::LockedPackage| {
        dir.join(&p.file).symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == p.size.0)
    };
    let there = lock.packages.iter().filter(whole).map(|p| p.size).sum();
    Ok((Bytes(stat.blocks_available() * stat.fragment_size()), there))
}

/// A filesystem that is mounted somewhere until this is dropped.
#[derive(Debug)]
pub struct Visit {
    place: tempfile::TempDir,
    device: PathBuf,
    mounted: bool,
}

impl Visit {
    /// Mounts an ext4 filesystem; read-only, without playing back its journal, unless it is `written` to.
    pub fn new(device: &Path, written: bool) -> Result<Self> {
        let place =
            tempfile::Builder::new().prefix("akene-visit-").tempdir().context("making a mount point")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        let (flags, options) = match written {
            true => (flags, "errors=remount-ro"),
            false => (flags | MsFlags::MS_RDONLY, "noload"),
        };
        mount(Some(device), place.path(), Some("ext4"), flags, Some(options))
            .with_context(|| format!("mounting {}", device.display()))?;
        Ok(Visit { place, device: device.to_owned(), mounted: true })
    }

    /// Where it is mounted.
    pub fn top(&self) -> &Path {
        self.place.path()
    }

    /// Unmounts it.
    pub fn end(mut self) -> Result<()> {
        self.mounted = false;
        umount(self.place.path()).with_context(|| format!("unmounting {}", self.device.display()))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // After a failure that is reported; what stays mounted is found by the check of the kept filesystems.
        if self.mounted {
            umount(self.place.path()).ok();
        }
    }
}
