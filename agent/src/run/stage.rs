//! Where packages are fetched to, so that an old system is whole until everything is there.
//!
//! In this order: in a *shelter*, a filesystem the plan keeps; beside the disks (memory, or another disk), where it fits;
//! on the new disk. A shelter comes first because a power cut does not empty it: an installation that broke off goes on with
//! what lies there, and without the network ([`super::resume`]). The new disk is right where nothing is kept that could still
//! start: blank disks, an installation that was begun beside nothing whole and never completed, disks that are wiped whole with
//! permission. Where an old system would make room for the new one before the new one is there, it needs a permission that
//! says so ([`Consent::Streamed`]).
//!
//! A shelter is the boot partition of an earlier installation, a kept volume such as `/home`, or an old root around whose
//! `/home` the new system is put. What a run that broke off left there, the next one goes on with. See also [`super::cache`].
//!
//! What lies in a shelter's own directory and the lock does not name gives way where its room is needed, once that shelter was
//! chosen: the packages of an earlier lock. No system needs them to start, and nothing is installed from a complete system's
//! cache alone; an installation refused or broken off afterwards costs the next one that wants them a download. Where an
//! installation was begun and not completed they stay: it may go on with them without the network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_planner::{Action, PartitionPlan, Plan, Role};
use akene_protocol::api::Consent;
use akene_protocol::inventory::{Health, Inventory, LooksLike};
use akene_protocol::lock::{Lock, LockedPackage};
use akene_protocol::profile::Filesystem;
use akene_protocol::{Bytes, Issue};
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statvfs::statvfs;

use super::boot_files;
use super::cache::private_dir;
use super::left;
use crate::fetch::known;
use crate::probe::disk::partition_path;
use crate::storage::{Layout, unmount};

/// Memory that must stay free while packages lie in memory: unpacking, dpkg, the page cache.
pub const MEMORY_MARGIN: Bytes = Bytes(192 << 20);

/// What must stay free on the boot partition: a kernel with its initrd, and the installer while it is replaced.
pub const BOOT_MARGIN: Bytes = Bytes(256 << 20);

/// A kernel with its initrd, beside those of an old system that stays.
pub const KERNEL_ROOM: u64 = 160 << 20;

/// What must stay free on a kept volume, or a twentieth of it: people go on working there if the installation does not
/// come to be.
const VOLUME_MARGIN: u64 = 512 << 20;

/// Playing back the journal of an old disk.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Where packages lie on the boot partition.
pub const ON_BOOT: &str = "akene/packages";

/// Where packages lie on a volume.
pub const ON_VOLUME: &str = crate::probe::look::STAGED;

/// Where they lie on a root around whose homes the system is made anew.
pub const IN_HOME: &str = "home/.akene-packages";

/// A filesystem that the plan keeps and that can hold packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelter {
    /// Its device when it was probed.
    pub device: PathBuf,
    /// Its UUID, by which it is known again: a disk that went away for a moment may come back under another's name.
    pub uuid: String,
    /// The directory in it.
    pub dir: &'static str,
    /// Where that is in the new system, without a slash at its beginning: `boot/akene/packages`.
    pub later: String,
    /// How many bytes more may be put there, when what gives way is gone.
    pub free: Bytes,
    /// How many bytes of the lock lie there already.
    pub there: Bytes,
    /// How many bytes that the lock does not name give way.
    pub stale: Bytes,
}

impl Shelter {
    /// Mounts it, see [`Visit::new`].
    ///
    /// # Errors
    /// It cannot be mounted, or something else is at its place now.
    pub fn visit(&self, written: bool) -> Result<Visit> {
        let now = left::uuid_at(&self.device)?;
        ensure!(
            now == self.uuid,
            "{} is another filesystem than it was ({now}, not {}): a disk has come or gone",
            self.device.display(),
            self.uuid
        );
        Visit::new(&self.device, written)
    }

    /// Mounts it to put the packages of a lock there, and says where. What gives way is removed if they need its room.
    ///
    /// # Errors
    /// Those of [`Shelter::visit`], and what cannot be written there.
    pub fn open(&self, lock: &Lock) -> Result<(Visit, PathBuf)> {
        let visit = self.visit(true)?;
        let dir = visit.top().join(self.dir);
        private_dir(&dir)?;
        let needed = lock.download_size().0.saturating_sub(self.there.0);
        if needed > self.free.0.saturating_sub(self.stale.0) {
            for path in stale_in(&dir, lock)?.into_keys() {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok((visit, dir))
    }
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
/// known to be half an installation already, or stays while another attempt is made beside it.
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

/// Whether the boot partitions of the plan's disks say that their last installation never came to its end, and the plan
/// replaces no whole system beside which that was to be made.
fn is_unfinished(plan: &Plan, inventory: &Inventory) -> bool {
    let disks = inventory.disks.iter().filter(|disk| plan.disks.iter().any(|d| d.disk.name == disk.name));
    let tables: Vec<_> = disks.filter_map(|d| d.table.as_ref()).collect();
    let looks =
        tables.iter().flat_map(|t| &t.partitions).filter_map(|p| p.content.as_ref()?.looks_like.as_ref());
    let mut boots = looks.filter_map(|looks| match looks {
        LooksLike::AkeneBoot { unfinished, .. } => Some(*unfinished),
        _ => None,
    });
    let first = boots.next();
    let whole = tables.iter().filter_map(|table| akene_planner::whole_root(table));
    first == Some(true)
        && boots.all(|unfinished| unfinished)
        && !whole.into_iter().any(|root| goes(plan, inventory, root))
}

/// Whether a plan leaves nothing of the system on the filesystem with this UUID.
fn goes(plan: &Plan, inventory: &Inventory, uuid: &str) -> bool {
    let found = |disk: &str, number| {
        let mut tables = inventory.disks.iter().filter(|d| d.name == disk).filter_map(|d| d.table.as_ref());
        tables
            .find_map(|t| t.partitions.iter().find(|p| p.number == number)?.content.as_ref()?.uuid.as_deref())
    };
    let partitions = plan.disks.iter().flat_map(|d| d.partitions.iter().map(|p| (&*d.disk.name, p)));
    let mut changed =
        partitions.filter(|(_, p)| matches!(p.action, Action::Format | Action::Refresh | Action::Delete));
    changed.any(|(disk, p)| found(disk, p.number) == Some(uuid))
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
    if let Some(shelter) = shelters.iter().find(|s| size.0.saturating_sub(s.there.0) <= s.free.0) {
        return Ok(Place::Shelter(shelter));
    }
    if size + MEMORY_MARGIN <= room {
        return Ok(Place::Beside);
    }
    if !old_system {
        return Ok(Place::Target);
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

/// The filesystems the plan keeps that hold packages or may: those of the boot partition first. One that was in use when the
/// power went is mended first where the plan is permitted to replace a system, the way every start of a system does it.
pub fn shelters(
    plan: &Plan,
    inventory: &Inventory,
    lock: &Lock,
    consent: Consent,
    runner: &dyn Runner,
) -> Vec<Shelter> {
    let (mut found, mut stands) = (Vec::new(), Vec::new());
    let on_boot = boot_margin(plan.disks.iter().flat_map(|d| &d.partitions).map(|p| &p.purpose));
    for disk in plan.disks.iter().filter(|d| !d.new_table) {
        let known = inventory.disks.iter().find(|d| d.name == disk.disk.name);
        if known.is_none_or(|d| d.read_only || d.removable || d.health == Health::Failing) {
            continue;
        }
        let probed = |number| {
            let mut partitions = known.iter().filter_map(|d| d.table.as_ref()).flat_map(|t| &t.partitions);
            partitions.find(|p| p.number == number)?.content.as_ref()?.uuid.clone()
        };
        for partition in disk.partitions.iter().filter(|p| p.filesystem == Some(Filesystem::Ext4)) {
            let (Some((dir, later)), Some(uuid)) = (place_in(partition), probed(partition.number)) else {
                continue;
            };
            let device = partition_path(Path::new(&disk.disk.path), partition.number);
            if left::uuid_at(&device).ok().as_ref() != Some(&uuid) {
                continue;
            }
            // A filesystem that cannot be looked into, or was not unmounted in order, is no shelter.
            let clean = || left::is_clean(&device).unwrap_or(false);
            let may = consent >= Consent::Wipe;
            let sound = clean() || (may && is_mended(&device, runner) && clean());
            if !sound {
                continue;
            }
            let look = |top: &Path| {
                // It looks first whether the directory is ours.
                let room = room_in(top, dir, lock)?;
                let stale = stale_in(&top.join(dir), lock)?.into_values().sum();
                Ok((room, stale, top.join(boot_files::INSTALLED).exists()))
            };
            let Ok((room, stale, installed)) = known::look(&device, look) else { continue };
            if dir == ON_BOOT {
                stands.push(installed);
            }
            let margin = margin(dir, &room, on_boot);
            let shelter = Shelter { device, uuid, dir, later, free: Bytes(0), there: room.there, stale };
            found.push((shelter, room.free, margin));
        }
    }
    // An installation that was begun and not completed may need them to go on.
    let give_way = !stands.is_empty() && stands.iter().all(|stands| *stands);
    let mut found: Vec<Shelter> = found
        .into_iter()
        .map(|(shelter, free, margin)| {
            let stale = if give_way { shelter.stale } else { Bytes(0) };
            Shelter { free: Bytes((free + stale.0).saturating_sub(margin)), stale, ..shelter }
        })
        .collect();
    found.sort_by_key(|s| s.dir != ON_BOOT);
    found
}

/// What must stay free on the boot partition of a disk with these places: more where an old system's kernel stays.
pub fn boot_margin<'r>(mut roles: impl Iterator<Item = &'r Role>) -> u64 {
    BOOT_MARGIN.0 + if roles.any(|role| *role == Role::Old) { KERNEL_ROOM } else { 0 }
}

/// What must stay free where packages are put into this directory.
fn margin(dir: &str, room: &Room, on_boot: u64) -> u64 {
    if dir == ON_BOOT { on_boot } else { VOLUME_MARGIN.max(room.size / 20) }
}

/// Where packages lie in a partition that stays, from its own top and from that of the new system.
fn place_in(partition: &PartitionPlan) -> Option<(&'static str, String)> {
    match (&partition.purpose, partition.action, partition.mount.as_deref()) {
        (Role::Boot, Action::Keep, _) => Some((ON_BOOT, format!("boot/{ON_BOOT}"))),
        (Role::Volume(_), Action::Keep, Some(mount)) => {
            Some((ON_VOLUME, format!("{}/{ON_VOLUME}", mount.trim_matches('/'))))
        }
        (Role::Root, Action::Refresh, _) => Some((IN_HOME, IN_HOME.to_owned())),
        _ => None,
    }
}

/// The packages of a lock that no directory of an earlier installation holds on what the plan keeps, by their sizes.
pub fn missing(plan: &Plan, lock: &Lock) -> Vec<LockedPackage> {
    let mut missing = lock.packages.clone();
    for disk in plan.disks.iter().filter(|d| !d.new_table) {
        for partition in &disk.partitions {
            let Some((dir, _)) = place_in(partition) else { continue };
            let device = partition_path(Path::new(&disk.disk.path), partition.number);
            let absent = |top: &Path| -> Result<Vec<LockedPackage>> {
                let dir = top.join(dir);
                Ok(missing.iter().filter(|p| !is_there(&dir, p)).cloned().collect())
            };
            // What cannot be looked into holds nothing.
            if let Ok(fewer) = known::look(&device, absent) {
                missing = fewer;
            }
        }
    }
    missing
}

/// Plays back the journal of an ext4 filesystem, and mends what is mended without asking.
fn is_mended(device: &Path, runner: &dyn Runner) -> bool {
    match runner.run(&Cmd::new("e2fsck").arg("-p").arg(device).timeout(PATIENCE)) {
        Ok(_) => true,
        // 1: something was mended. 2: and a mounted system would have to restart.
        Err(error) => error.downcast_ref::<ExecError>().is_some_and(|e| matches!(e.code, Some(1 | 2))),
    }
}

/// The room of a filesystem, in bytes.
#[derive(Default)]
struct Room {
    size: u64,
    free: u64,
    /// What lies there of a lock.
    there: Bytes,
}

fn room_in(top: &Path, dir: &str, lock: &Lock) -> io::Result<Room> {
    let stat = statvfs(top)?;
    // A link would lead out of the filesystem, and what others may write is not trusted.
    let mut below = top.to_owned();
    let mut parts = dir.split('/').peekable();
    while let Some(part) = parts.next() {
        below.push(part);
        match below.symlink_metadata() {
            Ok(meta) if !meta.is_dir() => return Err(nix::errno::Errno::ENOTDIR.into()),
            Ok(meta) if parts.peek().is_none() && (meta.uid() != 0 || meta.mode() & 0o022 != 0) => {
                return Err(nix::errno::Errno::EPERM.into());
            }
            _ => {}
        }
    }
    Ok(Room {
        size: stat.blocks() * stat.fragment_size(),
        free: stat.blocks_available() * stat.fragment_size(),
        there: whole_in(&below, lock),
    })
}

/// The files of a directory for packages that are none of a lock's, whole or in parts, and how much room each takes.
fn stale_in(dir: &Path, lock: &Lock) -> io::Result<BTreeMap<PathBuf, Bytes>> {
    let wanted: BTreeSet<&str> = lock.packages.iter().map(|p| p.file.as_str()).collect();
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut stale = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let (meta, name) = (entry.metadata()?, entry.file_name());
        let name = name.to_string_lossy();
        if meta.is_file() && !wanted.contains(name.strip_suffix(".partial").unwrap_or(&name)) {
            stale.insert(entry.path(), Bytes(meta.blocks() * 512));
        }
    }
    Ok(stale)
}

/// How many bytes of a lock's packages lie in a directory. Whether they are right is seen when they are used.
fn whole_in(dir: &Path, lock: &Lock) -> Bytes {
    let packages = lock.packages.iter();
    packages.filter(|p| is_there(dir, p)).map(|p| p.size).sum()
}

/// Whether a file of a package's size lies in a directory.
pub fn is_there(dir: &Path, package: &LockedPackage) -> bool {
    dir.join(&package.file).symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == package.size.0)
}

/// Where packages are fetched to once the disks are mounted: what outlives another beginning, and has room. `None`: nothing
/// but the new root has.
pub fn place_on(layout: &Layout, lock: &Lock) -> Result<Option<PathBuf>> {
    let on_boot = boot_margin(layout.partitions.iter().map(|p| &p.role));
    let kept = layout.partitions.iter().filter(|p| p.kept && p.fstype == Some(Filesystem::Ext4));
    let volumes = kept.filter(|p| matches!(p.role, Role::Volume(_))).filter_map(|p| p.mount.as_deref());
    let volumes = volumes.map(|mount| (layout.root.join(mount.trim_matches('/')), ON_VOLUME));
    for (top, dir) in std::iter::once((layout.root.join("boot"), ON_BOOT)).chain(volumes) {
        let room = room_in(&top, dir, lock)
            .with_context(|| format!("asking for the free space of {}", top.display()))?;
        let margin = margin(dir, &room, on_boot);
        if lock.download_size().0.saturating_sub(room.there.0) <= room.free.saturating_sub(margin) {
            return Ok(Some(top.join(dir)));
        }
    }
    Ok(None)
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

    /// Unmounts it. A program that is just being started may hold a copy of an open file for a moment.
    pub fn end(mut self) -> Result<()> {
        self.mounted = false;
        unmount(self.place.path()).with_context(|| format!("unmounting {}", self.device.display()))
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

#[cfg(test)]
mod tests {
    use akene_exec::SystemRunner;

    use super::*;
    use crate::sys::test_disk::TestDisk;

    #[test]
    fn a_system_that_stays_leaves_packages_less_room_beside_its_kernel() {
        let room = Room { size: 100 << 30, ..Room::default() };
        let [one, two] = [vec![Role::Boot, Role::Root], vec![Role::Boot, Role::Old, Role::Root]];
        let [one, two] = [one, two].map(|roles| boot_margin(roles.iter()));
        assert_eq!((one, two - one), (BOOT_MARGIN.0, KERNEL_ROOM));
        assert_eq!((margin(ON_BOOT, &room, two), margin(ON_VOLUME, &room, two)), (two, 5 << 30));
    }

    /// What broke off beside a whole system is made again beside it, or, as another profile says, in its place.
    #[test]
    fn a_whole_system_is_at_risk_although_one_beside_it_broke_off() {
        macro_rules! golden {
            ($name:literal) => {
                serde_json::from_str(include_str!(concat!("../../../tests/golden/", $name))).unwrap()
            };
        }
        let inventory: Inventory = golden!("akene-two-roots-power-cut/inventory.json");
        let beside: Plan = golden!("akene-two-roots-power-cut/plan.json");
        let instead: Plan = golden!("akene-two-roots-power-cut-never/plan.json");
        assert_eq!(inventory, golden!("akene-two-roots-power-cut-never/inventory.json"));
        assert!(!has_old_system(&beside, &inventory));
        assert!(has_old_system(&instead, &inventory));
        let around = |action| {
            let mut plan = instead.clone();
            let root = plan.disks[0].partitions.iter_mut().find(|p| p.purpose == Role::Root).unwrap();
            root.action = action;
            plan
        };
        assert!(has_old_system(&around(Action::Refresh), &inventory));
        // Its place is the one where the new system was begun.
        let mut begun = inventory;
        let partitions = &mut begun.disks[0].table.as_mut().unwrap().partitions;
        for content in partitions.iter_mut().filter_map(|p| p.content.as_mut()) {
            if let Some(LooksLike::AkeneBoot { root_goes, .. }) = &mut content.looks_like {
                *root_goes = true;
            }
        }
        assert!(!has_old_system(&instead, &begun));
    }

    #[test]
    fn a_shelter_that_is_another_filesystem_now_is_not_written_to() {
        let (first, other) = ("11112222-3333-4444-5555-666677778888", "aaaabbbb-cccc-dddd-eeee-ffff00001111");
        let Some(disk) = TestDisk::new(16, &["-U", first]) else { return };
        let shelter = Shelter {
            device: disk.node.clone(),
            uuid: first.into(),
            dir: ON_VOLUME,
            later: "home".into(),
            free: Bytes(0),
            there: Bytes(0),
            stale: Bytes(0),
        };
        shelter.visit(true).unwrap().end().unwrap();
        let again = Cmd::new("mkfs.ext4").args(["-q", "-F", "-U", other]).arg(&disk.node);
        SystemRunner.run(&again).unwrap();
        let error = shelter.visit(true).unwrap_err().to_string();
        assert!(error.contains(first) && error.contains(other), "{error}");
    }

    /// Files of so many MiB in a directory for packages.
    fn fill(dir: &Path, files: &[(&str, i64)]) {
        private_dir(dir).unwrap();
        for (name, mib) in files {
            let file = fs::File::create(dir.join(name)).unwrap();
            nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, mib << 20).unwrap();
        }
    }

    fn lock(packages: &[(&str, u64)]) -> Lock {
        let package = |(name, mib): &(&str, u64)| -> LockedPackage {
            serde_json::from_value(serde_json::json!({
                "name": name, "version": "1", "architecture": "all", "size": mib << 20, "sha256": "00".repeat(32),
                "urls": [], "file": format!("{name}.deb"),
            }))
            .unwrap()
        };
        Lock { packages: packages.iter().map(package).collect(), ..Lock::default() }
    }

    #[test]
    fn the_packages_of_an_earlier_lock_give_way_where_those_of_the_new_one_need_their_room() {
        let uuid = "11112222-3333-4444-5555-666677778888";
        let Some(disk) = TestDisk::new(400, &["-m", "0", "-U", uuid]) else { return };
        let visit = Visit::new(&disk.node, true).unwrap();
        let files = [("old.deb", 60), ("older.deb.partial", 10), ("same.deb", 5), ("new.deb.partial", 1)];
        fill(&visit.top().join(ON_BOOT), &files);
        boot_files::set_installed(visit.top(), true).unwrap();
        visit.end().unwrap();
        // A computer whose boot partition that is.
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/akene-reinstall");
        let read = |name: &str| fs::read(golden.join(name)).unwrap();
        let mut plan: Plan = serde_json::from_slice(&read("plan.json")).unwrap();
        let mut inventory: Inventory = serde_json::from_slice(&read("inventory.json")).unwrap();
        let links = tempfile::tempdir().unwrap();
        let boot = plan.disks[0].partitions.iter().find(|p| p.purpose == Role::Boot).unwrap().number;
        plan.disks[0].disk.path = links.path().join("disk").to_str().unwrap().to_owned();
        let node = partition_path(Path::new(&plan.disks[0].disk.path), boot);
        std::os::unix::fs::symlink(&disk.node, &node).unwrap();
        let name = plan.disks[0].disk.name.clone();
        let known = inventory.disks.iter_mut().find(|d| d.name == name).unwrap();
        let mut partitions = known.table.as_mut().unwrap().partitions.iter_mut();
        partitions.find(|p| p.number == boot).unwrap().content.as_mut().unwrap().uuid = Some(uuid.into());
        let names = || {
            let listed =
                |top: &Path| Ok(fs::read_dir(top.join(ON_BOOT))?.map(|e| e.unwrap().file_name()).collect());
            let mut names: Vec<std::ffi::OsString> = known::look(&disk.node, listed).unwrap();
            names.sort();
            names.into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        let before = names();
        let place = |lock: &Lock, inventory: &Inventory| {
            let found = shelters(&plan, inventory, lock, Consent::Wipe, &SystemRunner);
            match where_to_stage(lock.download_size(), Bytes(0), &found, true, Consent::Wipe)? {
                Place::Shelter(shelter) => Ok::<_, Issue>(shelter.clone()),
                other => panic!("{other:?}"),
            }
        };
        // Where there is room beside them, they stay.
        let few = lock(&[("same", 5), ("little", 10)]);
        place(&few, &inventory).unwrap().open(&few).unwrap().0.end().unwrap();
        assert_eq!(names(), before);
        // Where an installation was begun, it may be that one which needs them.
        let many = lock(&[("same", 5), ("new", 90)]);
        let stands = |stands| {
            let visit = Visit::new(&disk.node, true).unwrap();
            boot_files::set_installed(visit.top(), stands).unwrap();
            visit.end().unwrap();
        };
        stands(false);
        assert_eq!(place(&many, &inventory).unwrap_err().code, "no-room-to-stage");
        stands(true);
        // Chosen is not opened.
        let shelter = place(&many, &inventory).unwrap();
        assert_eq!(names(), before);
        let (visit, dir) = shelter.open(&many).unwrap();
        fill(&dir, &[("new.deb", 90)]);
        let stat = statvfs(visit.top()).unwrap();
        let free = stat.blocks_available() * stat.fragment_size();
        assert!(free + (1 << 20) >= BOOT_MARGIN.0, "{free} bytes are left");
        visit.end().unwrap();
        assert_eq!(names(), ["new.deb", "new.deb.partial", "same.deb"]);
        // What has no room however much gives way is refused, and nothing gives way for it.
        let refused = place(&lock(&[("other", 400)]), &inventory).unwrap_err();
        assert_eq!((refused.code.as_str(), names().len()), ("no-room-to-stage", 3));
    }
}
