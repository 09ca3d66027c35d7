//! Fetching the packages of an ordered reinstallation beforehand, while people work.
//!
//! Only where a signed lock says which packages this machine will get: the answer is taken from it as the installer will
//! (`run::locked`). They go where the installer looks for them ([`stage`]): to the boot partition, and what
//! finds no room there to kept volumes such as `/home`, the largest first. The disk of people at work is never filled: a
//! twentieth of it, and at least a gigabyte, stays free. What is fetched is checked by its hash, here and again by the
//! installer.
//!
//! It runs at the lowest priority for processor and disk, with two connections. While somebody uses the machine it takes
//! at most [`FASTEST`], and gives way to whatever else comes over the network ([`Pace`]).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use akene_archive::{Fetcher, Source, redirect_policy};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_planner::{Action, Plan, Role};
use akene_protocol::api::{Consent, Identity};
use akene_protocol::lock::{Lock, LockedPackage};
use akene_protocol::order::{OrderId, Reinstall};
use akene_protocol::profile::{Filesystem, LockUse};
use akene_protocol::stamp::Tls;
use akene_protocol::{Bundle, Bytes, Inventory, PublicKey, Sha256};
use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::statvfs;

use crate::fetch::{Server, open, read_lock};
use crate::net::http::Access;
use crate::net::resolver::Resolver;
use crate::net::tls::Dates;
use crate::run::stage::{ON_BOOT, ON_VOLUME, boot_margin};
use crate::target;

/// Most bytes a second while somebody uses the machine.
const FASTEST: u64 = 1 << 20;

/// Fewest bytes a second: below this a source would be taken for dead.
const SLOWEST: u64 = 32 << 10;

/// Other traffic above this many bytes a second is somebody's.
const OTHERS: u64 = 64 << 10;

/// What stays free on a volume of people at work, at least.
const VOLUME_MARGIN: u64 = 1 << 30;

/// Packages fetched before it is looked whether the order still stands.
const BATCH: usize = 8;

/// How often a batch is tried before the rest is left to the installer.
const TRIES: u32 = 5;

/// What the worker needs; it has a thread of its own.
pub struct Job {
    /// Root of the installed system.
    pub root: PathBuf,
    /// Who we are.
    pub identity: Identity,
    /// The server and how its certificate is judged.
    pub server: (String, Tls),
    /// Name servers.
    pub resolver: Resolver,
    /// Proxy.
    pub proxy: Option<String>,
    /// The site's key.
    pub key: PublicKey,
    /// The order.
    pub order: OrderId,
    /// What it asks for.
    pub reinstall: Reinstall,
    /// What this machine is.
    pub inventory: Inventory,
}

/// A prefetch under way.
pub struct Prefetch {
    /// For this order.
    pub order: OrderId,
    shared: Arc<Shared>,
    thread: std::thread::JoinHandle<Result<String>>,
    begun: Instant,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    busy: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl Prefetch {
    /// Begins.
    pub fn start(job: Job, http: Arc<dyn crate::fetch::http::Http>) -> Result<Prefetch> {
        let shared = Arc::new(Shared::default());
        let (order, ours) = (job.order, shared.clone());
        let thread = std::thread::Builder::new().name("prefetch".into());
        let thread = thread
            .spawn(move || {
                step_back();
                run(&job, &*http, &ours)
            })
            .context("starting to fetch packages")?;
        Ok(Prefetch { order, shared, thread, begun: Instant::now() })
    }

    /// Tells it whether somebody uses the machine.
    pub fn busy(&self, busy: bool) {
        self.shared.busy.store(busy, Ordering::Relaxed);
    }

    /// How long it has been at work.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How far it is, for people.
    pub fn words(&self) -> String {
        let (done, total) =
            (self.shared.done.load(Ordering::Relaxed), self.shared.total.load(Ordering::Relaxed));
        match total {
            0 => "fetching packages".into(),
            total => {
                // Each word is work for the server.
                format!("fetching packages: {} %", u128::from(done.min(total)) * 10 / u128::from(total) * 10)
            }
        }
    }

    /// Tells it to end after the files in hand.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// What came of it, if it has ended.
    pub fn ended(self) -> Result<Result<String>, Prefetch> {
        match self.thread.is_finished() {
            false => Err(self),
            true => {
                Ok(self.thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("fetching packages panicked"))))
            }
        }
    }
}

/// Puts this thread, and those it starts, behind everything else.
fn step_back() {
    let thread = nix::unistd::gettid().to_string();
    for cmd in [
        Cmd::new("renice").args(["-n", "19", "-p", &thread]),
        Cmd::new("ionice").args(["-c", "3", "-p", &thread]),
    ] {
        if let Err(error) = SystemRunner.run(&cmd.timeout(Duration::from_secs(10))) {
            eprintln!("fetching packages at a low priority: {error:#}");
        }
    }
}

fn run(job: &Job, http: &dyn crate::fetch::http::Http, shared: &Shared) -> Result<String> {
    let server = Server::new(http, &job.server.0);
    let envelope = server.profile_of(&job.identity, job.order)?;
    let bundle: Bundle = open(&envelope, &job.key, "profile", &job.server.0)?;
    let resolved = akene_protocol::resolve::resolve(&bundle, &job.inventory, Some(job.identity.asset))?;
    if resolved.lock == LockUse::Ignored {
        return Ok("the profile wants no signed lock: the installer fetches the packages".into());
    }
    let Some(text) = server.lock(&job.identity, &resolved.profile)? else {
        return Ok("the profile has no signed lock: the installer fetches the packages".into());
    };
    if let Some(pinned) = job.reinstall.lock {
        ensure!(Sha256::of(&text) == pinned, "the signed lock is not the one that was ordered");
    }
    let signed = read_lock(&text, &job.key, &job.server.0)?;
    let consent = if job.reinstall.streamed { Consent::Streamed } else { Consent::Wipe };
    let plan = akene_planner::plan_within(&resolved.storage, &job.inventory, consent)?;
    let request = target::request(&resolved, &plan, job.inventory.firmware.kind);
    let lock = signed.lock.select(&resolved.profile, &resolved.archive, &request)?;
    fetch(job, &lock, &plan, shared)
}

/// A directory for packages, and how many bytes more may be put there.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    free: u64,
    /// Bytes that must stay free.
    margin: u64,
}

fn fetch(job: &Job, lock: &Lock, plan: &Plan, shared: &Shared) -> Result<String> {
    let mut places = places(&job.root, plan)?;
    let wanted: BTreeSet<&str> = lock.packages.iter().map(|p| p.file.as_str()).collect();
    places.retain(|place| is_private(&place.dir));
    for place in &mut places {
        place.free += tidy(&place.dir, &wanted)?;
    }
    let parts = share(&lock.packages, &mut places);
    let total: u64 = parts.iter().flat_map(|(_, packages)| packages).map(|p| p.size.0).sum();
    shared.total.store(total, Ordering::Relaxed);
    let client = |tls: &Tls| -> Result<reqwest::blocking::Client> {
        let access =
            Access { tls, proxy: job.proxy.as_deref(), resolver: &job.resolver, dates: Dates::Checked };
        access.builder()?.redirect(redirect_policy()).build().context("preparing HTTP")
    };
    let base = format!("{}/v1/pool/sha256", job.server.0.trim_end_matches('/'));
    let pool = Source::pool("the server", base, client(&job.server.1)?, Some(job.identity.bearer()));
    let fetcher = Fetcher::new(client(&Tls::default())?).last(pool).streams(2);
    let brought = bring(&fetcher, lock, &parts, &places, shared);
    for warning in fetcher.report().warnings {
        eprintln!("fetching packages beforehand: {warning}");
    }
    brought
}

/// Brings packages to their places, a few at a time. All of it with one fetcher, which learns whom to ask.
fn bring(
    fetcher: &Fetcher,
    lock: &Lock,
    parts: &[(PathBuf, Vec<LockedPackage>)],
    places: &[Place],
    shared: &Shared,
) -> Result<String> {
    let pace = Mutex::new(Pace::new());
    let (mut before, total) = (0, shared.total.load(Ordering::Relaxed));
    for (dir, packages) in parts {
        private_dir(dir)?;
        let margin = places.iter().find(|place| place.dir == *dir).map_or(0, |place| place.margin);
        for batch in packages.chunks(BATCH) {
            // It may take days, and people work meanwhile.
            let size: u64 = batch.iter().map(|p| p.size.0).sum();
            let stat = statvfs(dir).with_context(|| format!("asking for the room of {}", dir.display()))?;
            if stat.blocks_available() * stat.fragment_size() < margin + size {
                return Ok("there is no room for more packages; the installer fetches the rest".into());
            }
            let mut tries = 0;
            while let Err(error) = fetcher.fetch(batch, dir, &|progress| {
                shared.done.store(before + progress.done, Ordering::Relaxed);
                let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
                std::thread::sleep(pace.rest(progress.done, shared.busy.load(Ordering::Relaxed), received()));
            }) {
                tries += 1;
                if tries >= TRIES || shared.stop.load(Ordering::Relaxed) {
                    return Err(error)
                        .context("fetching packages beforehand; the installer fetches the rest");
                }
                std::thread::sleep(Duration::from_secs(30 << tries));
            }
            before += size;
            if shared.stop.load(Ordering::Relaxed) {
                return Ok("stopped".into());
            }
        }
        crate::durable::sync(dir)?;
    }
    let all = lock.download_size();
    Ok(match total == all.0 {
        true => format!("all {} packages ({all}) are on this computer", lock.packages.len()),
        false => {
            format!("{} of {all} of packages are on this computer; there is no room for more", Bytes(total))
        }
    })
}

/// Where packages may lie, as the installer looks for them: on what the plan keeps.
fn places(root: &Path, plan: &Plan) -> Result<Vec<Place>> {
    let partitions = plan.disks.iter().filter(|d| !d.new_table).flat_map(|d| &d.partitions);
    let on_boot = boot_margin(plan.disks.iter().flat_map(|d| &d.partitions).map(|p| &p.purpose));
    let mut found = Vec::new();
    for partition in partitions.filter(|p| p.filesystem == Some(Filesystem::Ext4)) {
        let (top, dir, boot) = match (&partition.purpose, partition.action, partition.mount.as_deref()) {
            (Role::Boot, Action::Keep, _) => ("boot".to_owned(), ON_BOOT, true),
            (Role::Volume(_), Action::Keep, Some(mount)) => {
                (mount.trim_matches('/').to_owned(), ON_VOLUME, false)
            }
            (Role::Root, Action::Refresh, _) => ("home".to_owned(), ON_VOLUME, false),
            _ => continue,
        };
        let top = root.join(top);
        let Ok(stat) = statvfs(&top) else { continue };
        let (size, free) =
            (stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size());
        let margin = match boot {
            true => on_boot,
            false => VOLUME_MARGIN.max(size / 20),
        };
        found.push((!boot, Place { dir: top.join(dir), free: free.saturating_sub(margin), margin }));
    }
    found.sort_by_key(|(later, _)| *later);
    Ok(found.into_iter().map(|(_, place)| place).collect())
}

/// Whether nobody else can have made a directory, or what lies in it. It may not be there.
fn is_private(dir: &Path) -> bool {
    match dir.symlink_metadata() {
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        Ok(meta) => {
            meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0
        }
    }
}

/// Removes what is of no use any more from a directory, and says how many bytes of use are there.
fn tidy(dir: &Path, wanted: &BTreeSet<&str>) -> Result<u64> {
    let doing = || format!("tidying {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(doing)?,
    };
    let (mut kept, mut removed) = (0, 0);
    for entry in entries {
        let entry = entry.with_context(doing)?;
        let meta = entry.metadata().with_context(doing)?;
        if !meta.is_file() {
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if wanted.contains(name.strip_suffix(".partial").unwrap_or(&name)) {
            kept += meta.len();
        } else {
            fs::remove_file(entry.path()).with_context(doing)?;
            removed += meta.len();
        }
    }
    Ok(kept + removed)
}

/// Which packages go where: the largest first, where there is room.
fn share(packages: &[LockedPackage], places: &mut [Place]) -> Vec<(PathBuf, Vec<LockedPackage>)> {
    let mut order: Vec<&LockedPackage> = packages.iter().collect();
    order.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.file.cmp(&b.file)));
    let mut parts: Vec<(PathBuf, Vec<LockedPackage>)> =
        places.iter().map(|place| (place.dir.clone(), Vec::new())).collect();
    for package in order {
        // What lies somewhere already stays there.
        let there = |place: &Place| {
            place.dir.join(&package.file).symlink_metadata().is_ok_and(|m| m.len() == package.size.0)
        };
        let at = places.iter().position(there);
        let at = at.or_else(|| places.iter().position(|place| place.free >= package.size.0));
        if let Some(at) = at {
            places[at].free = places[at].free.saturating_sub(package.size.0);
            parts[at].1.push(package.clone());
        }
    }
    parts.retain(|(_, packages)| !packages.is_empty());
    parts
}

/// Makes a directory that is nobody else's business; one that is there must be ours.
fn private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making {}", dir.display()))?;
    let meta = dir.symlink_metadata().with_context(|| format!("looking at {}", dir.display()))?;
    let ours = meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0 && meta.is_dir();
    ensure!(ours, "{} is not ours alone", dir.display());
    Ok(())
}

/// Bytes this machine has received over all its network cards.
fn received() -> u64 {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let count = |line: &str| -> Option<u64> {
        let (name, counts) = line.split_once(':')?;
        (name.trim() != "lo").then(|| counts.split_whitespace().next()?.parse().ok())?
    };
    text.lines().filter_map(count).sum()
}

/// How fast packages may come. While somebody uses the machine it starts slowly, and goes faster as long as nothing else
/// comes over the network; when something does, it takes half. When nobody does, there is no limit.
struct Pace {
    rate: u64,
    at: Instant,
    done: u64,
    received: u64,
}

impl Pace {
    fn new() -> Pace {
        Pace { rate: FASTEST / 4, at: Instant::now(), done: 0, received: received() }
    }

    /// `done` bytes of a batch are there and the machine has `received` that much: how long to rest.
    fn rest(&mut self, done: u64, busy: bool, received: u64) -> Duration {
        let now = Instant::now();
        let time = now.duration_since(self.at);
        // A new batch begins at nought.
        let ours = if done < self.done { done } else { done - self.done };
        let all = received.saturating_sub(self.received);
        let rest = match busy {
            false => Duration::ZERO,
            true => self.pause(ours, all, time),
        };
        (self.at, self.done, self.received) = (now, done, received);
        rest
    }

    fn pause(&mut self, ours: u64, all: u64, time: Duration) -> Duration {
        let seconds = time.as_secs_f64().max(0.001);
        // Headers, and what TCP sends again, are a part of ours.
        let others = all.saturating_sub(ours + ours / 8);
        self.rate = match others as f64 / seconds > OTHERS as f64 {
            true => (self.rate / 2).max(SLOWEST),
            false => (self.rate + FASTEST / 16).min(FASTEST),
        };
        let wanted = Duration::from_secs_f64(ours as f64 / self.rate as f64);
        wanted.saturating_sub(time).min(Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, size: u64) -> LockedPackage {
        serde_json::from_value(serde_json::json!({
            "name": name, "version": "1", "architecture": "all", "size": size, "sha256": "00".repeat(32),
            "urls": [], "file": format!("{name}_1_all.deb"),
        }))
        .unwrap()
    }

    fn place(dir: &str, free: u64) -> Place {
        Place { dir: dir.into(), free, margin: 0 }
    }

    #[test]
    fn a_directory_that_others_can_have_made_is_left_alone() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs, link) =
            (dir.path().join("ours"), dir.path().join("theirs"), dir.path().join("link"));
        assert!(is_private(&ours), "it is not there yet");
        for path in [&ours, &theirs] {
            fs::create_dir(path).unwrap();
        }
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
        symlink(&ours, &link).unwrap();
        assert_eq!([&ours, &theirs, &link].map(|path| is_private(path)), [true, false, false]);
    }

    #[test]
    fn the_largest_goes_first_and_no_place_is_overfull() {
        let mut places = [place("/boot", 100), place("/home", 50)];
        let packages = [package("a", 60), package("b", 45), package("c", 50), package("d", 30)];
        let parts = share(&packages, &mut places);
        let names = |at: usize| parts[at].1.iter().map(|p| p.name.as_str()).collect::<Vec<_>>();
        assert_eq!((names(0), names(1)), (vec!["a", "d"], vec!["c"]));
        assert_eq!((places[0].free, places[1].free), (10, 0));
    }

    /// Two wrong files in the first batch, and more in the next: what the first taught is not forgotten.
    #[test]
    fn a_source_that_lies_in_every_batch_is_dropped_and_said() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let (lies, good, to) = (dir.path().join("lies"), dir.path().join("good"), dir.path().join("to"));
        fs::create_dir_all(&lies).unwrap();
        fs::create_dir_all(&good).unwrap();
        let packages: Vec<LockedPackage> = (0..2 * BATCH)
            .map(|n| {
                let package = LockedPackage {
                    sha256: Sha256::of(format!("good {n:02}").as_bytes()),
                    ..package(&format!("p{n}"), 7)
                };
                fs::write(good.join(&package.file), format!("good {n:02}")).unwrap();
                if n % BATCH < 2 {
                    fs::write(lies.join(&package.file), format!("evil {n:02}")).unwrap();
                }
                package
            })
            .collect();
        let fetcher = Fetcher::new(reqwest::blocking::Client::new())
            .first(Source::directory("the liar", &lies))
            .first(Source::directory("the honest", &good));
        let lock = Lock { packages: packages.clone(), ..Lock::default() };
        let shared = Shared::default();
        bring(&fetcher, &lock, &[(to.clone(), packages.clone())], &[place(to.to_str().unwrap(), 0)], &shared)
            .unwrap();
        assert!(packages.iter().all(|p| to.join(&p.file).exists()));
        let [warning] = &fetcher.report().warnings[..] else { panic!("{:?}", fetcher.report()) };
        assert_eq!(warning.code, "source-wrong");
        assert!(warning.message.starts_with("the liar") && warning.message.contains("dropped"), "{warning}");
    }

    #[test]
    fn a_system_that_stays_leaves_less_room_beside_its_kernel() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/akene-two-roots-power-cut");
        let mut plan: Plan = serde_json::from_slice(&fs::read(golden.join("plan.json")).unwrap()).unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        let on_boot = |plan: &Plan| {
            let places = places(root.path(), plan).unwrap();
            places.into_iter().find(|place| place.dir.ends_with(ON_BOOT)).unwrap().margin
        };
        let beside = on_boot(&plan);
        for disk in &mut plan.disks {
            disk.partitions.retain(|p| p.purpose != Role::Old);
        }
        assert_eq!(beside - on_boot(&plan), crate::run::stage::KERNEL_ROOM);
    }

    #[test]
    fn it_gives_way_and_comes_back() {
        let mut pace = Pace::new();
        let second = Duration::from_secs(1);
        for _ in 0..30 {
            pace.pause(FASTEST, FASTEST, second);
        }
        assert_eq!(pace.rate, FASTEST);
        // Twice what it may in a second: it rests for one.
        assert_eq!(pace.pause(2 * FASTEST, 2 * FASTEST, second), second);
        for _ in 0..10 {
            pace.pause(FASTEST, 4 * FASTEST, second);
        }
        assert_eq!(pace.rate, SLOWEST);
        assert_eq!(pace.rest(1 << 30, false, received()), Duration::ZERO);
    }
}
