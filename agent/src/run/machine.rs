//! [`Effects`] for real: the rooms of the agent, one after the other.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use akene_archive::{AptRoot, AptSettings, Fetcher, Progress, Source as Packages, redirect_policy};
use akene_exec::Runner;
use akene_planner::{Plan, Role};
use akene_protocol::api::Identity;
use akene_protocol::event::{Level, Unit};
use akene_protocol::image::ImageManifest;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::lock::Lock;
use akene_protocol::stamp::{Source, Stamp, Tls};
use akene_protocol::{Bytes, Inventory, Issue, MachineId, PublicKey, Resolved};
use anyhow::{Context, Result};
use jiff::Timestamp;

use super::doubt::{ClockState, with_clock};
use super::offline::Offline;
use super::resume::Resume;
use super::stage::{self, Shelter, Visit};
use super::swap::TargetSwap;
use super::way_back::WayBack;
use super::{Effects, Record, To, boot_files, cache, left, people, resume, second_root};
use crate::durable;
use crate::fetch::http::Http;
use crate::fetch::{Allowed, EventRoute, Orders, Permission, Server, SignedLock, Site, known, medium};
use crate::journal::Journal;
use crate::net::http::Access;
use crate::net::resolver::Resolver;
use crate::net::tls::Dates;
use crate::probe::ProbeRoot;
use crate::report::Reporter;
use crate::resident::Config;
use crate::storage::{Locked, Mounted, Planned};
use crate::target::{self, Choice, Job, Resident, Watch};

/// Where packages lie that are staged on the new root.
const ON_TARGET: &str = target::STAGE;

/// Packages of an earlier installation, or of one that broke off, for people.
const CACHE: &str = "an earlier installation";

/// The log of the installation, in the installed system.
const LOG: &str = "var/log/akene/install.log";

/// Who says what to install.
pub enum Authority<'a> {
    /// The site of a stamp.
    Site {
        /// The stamp.
        stamp: &'a Stamp,
        /// HTTP with the stamp's trust.
        http: Arc<dyn Http>,
        /// Profile to ask for.
        profile: Option<String>,
        /// What an installation that broke off left. It counts where the profile came from a medium that is no longer there,
        /// and is forgotten where orders came from the site.
        begun: Option<Box<Resume>>,
    },
    /// The person who typed the command.
    Person {
        /// Gives the orders once.
        orders: Option<Box<Orders>>,
        /// Who the machine is.
        identity: Identity,
        /// A signed lock they gave.
        lock: Option<Box<SignedLock>>,
    },
    /// An installation that was begun and never completed: nobody else is asked.
    Begun {
        /// What it left.
        resume: Box<Resume>,
        /// The key its profile must be signed with.
        key: PublicKey,
        /// Whether a person said that these are its disks. Otherwise they are compared.
        vouched: bool,
        /// The stamp, where there is one, for the resident agent.
        stamp: Option<&'a Stamp>,
        /// A way by which the server hears of it, should it answer again.
        http: Option<Arc<dyn Http>>,
    },
}

/// What can be staged before the disks change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The scratch directory is in memory.
    Memory,
    /// The scratch directory is on a disk of its own.
    Disk,
}

/// A machine that is installed from here.
pub struct Machine<'a> {
    /// Runs commands.
    pub runner: &'a dyn Runner,
    /// Hears everything.
    pub reporter: &'a Reporter,
    /// Where facts come from.
    pub probe: ProbeRoot,
    /// The only disk that exists for this run.
    pub only_disk: Option<PathBuf>,
    /// An inventory given instead of probing; its disks are replaced by those found.
    pub inventory: Option<Inventory>,
    /// Who says what to install.
    pub authority: Authority<'a>,
    /// Asks name servers.
    pub resolver: Resolver,
    /// Proxy for everything.
    pub proxy: Option<String>,
    /// An empty directory of ours.
    pub scratch: PathBuf,
    /// Where packages are kept from one run to the next, so that they are fetched once.
    pub packages: Option<PathBuf>,
    /// Where the scratch directory is.
    pub room: Room,
    /// Where the new root is mounted.
    pub mount: PathBuf,
    /// The installer to put on the disk: its initramfs, stamp and manifest.
    pub installer: Option<(PathBuf, Stamp, ImageManifest)>,
    /// The agent's own program.
    pub program: PathBuf,
    /// Whether the machine that is installed is this one.
    pub this_machine: bool,
    /// `console=` values for the installed system.
    pub consoles: Vec<String>,
    /// The log so far.
    pub log: PathBuf,
    /// Firmware of the machine, known after probing.
    pub firmware: FirmwareKind,
    /// Firmware of the machine the disk is meant for, if that is another one.
    pub other_firmware: Option<FirmwareKind>,
    /// Events of earlier runs that the server was sent by this one.
    pub sent: Vec<left::Sent>,
    /// What is known of the clock, where it is ours to mend.
    pub clock: Option<ClockState>,
    /// What of the new disk is swapped to.
    pub swap: TargetSwap,
    /// The boot partitions of earlier installations, known after probing.
    pub boots: Vec<PathBuf>,
    /// Who the machine is, known after asking.
    pub identity: Option<Identity>,
    /// The signed lock the packages were taken from.
    pub signed: Option<Box<SignedLock>>,
    /// Where everything comes from a medium and nobody is asked over a network.
    pub offline: Option<Offline<'a>>,
    /// The people whose accounts survive, known after staging began.
    pub people: target::People,
}

/// Packages chosen.
pub struct Solved {
    /// The indexes; none were needed with a signed lock.
    apt: Option<AptRoot>,
    choice: Choice,
}

/// Packages fetched.
pub struct Staged {
    dir: PathBuf,
    /// Whether the directory outlives the run, or goes with what it lies in.
    keep: bool,
}

struct Listener<'a>(&'a Reporter, Unit);

impl Watch for Listener<'_> {
    fn progress(&mut self, p: Progress) {
        self.0.progress(p.done, Some(p.total), self.1, &p.what);
    }
    fn log(&mut self, line: &str) {
        self.0.debug(line);
    }
    fn warn(&mut self, issue: Issue) {
        self.0.warn(issue.to_string());
    }
}

impl Machine<'_> {
    fn job<'j>(
        &'j self,
        mounted: &'j Mounted,
        solved: &'j Solved,
        staged: &'j Staged,
        resolved: &'j Resolved,
        config: &'j str,
        identity: Option<&'j Identity>,
    ) -> Job<'j> {
        Job {
            layout: mounted,
            resolved,
            choice: &solved.choice,
            debs: &staged.dir,
            apt: solved.apt.as_ref(),
            resident: Resident { program: &self.program, config, identity },
            people: &self.people,
            firmware: self.firmware,
            this_machine: self.this_machine,
            consoles: &self.consoles,
            scratch: &self.scratch,
            runner: self.runner,
        }
    }

    /// Settings of the resident agent; with a person as the only authority there is nobody to tell.
    fn resident_config(&self, resolved: &Resolved) -> Result<String> {
        let run = self.reporter.run();
        let proxy = resolved.network.proxy.as_deref();
        let config = match &self.authority {
            Authority::Site { stamp, .. } | Authority::Begun { stamp: Some(stamp), .. } => {
                Config { offline: self.sender().is_some(), ..Config::from_stamp(stamp, proxy, run) }
            }
            Authority::Person { .. } | Authority::Begun { stamp: None, .. } => Config {
                site: String::new(),
                site_key: None,
                server: None,
                proxy: proxy.map(str::to_owned),
                run,
                offline: false,
            },
        };
        let text = super::json(&config, "the settings of the resident agent")?;
        String::from_utf8(text).context("writing the settings of the resident agent")
    }

    /// What is known of a machine, with only the disk that counts.
    fn look(&self) -> Inventory {
        let mut found = crate::probe::inventory(self.runner, &self.probe);
        if let Some(only) = &self.only_disk {
            found.disks.retain(|d| Path::new(&d.path) == only);
            // What is wrong with this machine's own disks is nobody's business here.
            let ours = |path: &str| path.is_empty() || found.disks.iter().any(|d| d.name == path);
            found.notes.retain(|note| ours(&note.path));
        }
        match &self.inventory {
            Some(given) => Inventory { disks: found.disks, ..given.clone() },
            None => found,
        }
    }
}

impl Effects for Machine<'_> {
    type Solved = Solved;
    type Locked = Locked;
    type Mounted = Mounted;
    type Staged = Staged;

    fn probe(&mut self) -> Result<Inventory> {
        let mut inventory = self.look();
        if let Some(kind) = self.other_firmware {
            inventory.firmware.kind = kind;
        }
        self.firmware = inventory.firmware.kind;
        self.boots = known::boot_partitions(&inventory).map(|(_, node)| node).collect();
        self.note(|desk| desk.inventory(&inventory));
        Ok(inventory)
    }

    fn identify(&mut self, inventory: &Inventory) -> Result<Identity> {
        if let Authority::Site { stamp, .. } = &self.authority {
            let stamp = *stamp;
            let known = known::identity(inventory, self.reporter);
            if let Some(identity) = self.identify_offline(known, inventory, stamp)? {
                self.identity = Some(identity.clone());
                return Ok(identity);
            }
        }
        let identity = match &self.authority {
            Authority::Site { stamp, http, .. } => {
                let known = known::identity(inventory, self.reporter);
                let site = Site { stamp, http: &**http };
                let identity = site.identify(known, inventory, self.reporter)?;
                if let (Source::Server { url, .. }, Some(courier)) = (&stamp.source, self.reporter.courier())
                {
                    let route =
                        EventRoute { http: http.clone(), url: url.clone(), identity: identity.clone() };
                    courier.route(route);
                    self.sent = left::send(inventory, &identity, &Server::new(&**http, url), self.reporter);
                }
                identity
            }
            Authority::Person { identity, .. } => {
                self.reporter.hide(&identity.credential);
                self.reporter.called(identity.asset);
                identity.clone()
            }
            Authority::Begun { resume, stamp, http, .. } => {
                let identity = resume.identity.clone();
                self.reporter.hide(&identity.credential);
                self.reporter.called(identity.asset);
                if let (Some(stamp), Some(http), Some(courier)) = (stamp, http, self.reporter.courier())
                    && let Source::Server { url, .. } = &stamp.source
                {
                    let (http, url) = (http.clone(), url.clone());
                    courier.route(EventRoute { http, url, identity: identity.clone() });
                }
                identity
            }
        };
        self.identity = Some(identity.clone());
        Ok(identity)
    }

    fn orders(&mut self, identity: &Identity, inventory: &Inventory) -> Result<Orders> {
        let orders = self.ask_orders(identity, inventory)?;
        self.note(|desk| desk.profile(&orders.bundle));
        Ok(orders)
    }

    fn permission(
        &mut self,
        plan: &Plan,
        inventory: &Inventory,
        resolved: &Resolved,
        given: Result<Permission, Issue>,
    ) -> Result<Permission, Issue> {
        self.permitted(plan, inventory, resolved, given)
    }

    fn solve(&mut self, resolved: &Resolved, plan: &Plan) -> Result<Solved> {
        self.check_installer()?;
        if let Authority::Begun { resume, key, .. } = &self.authority {
            let (choice, signed) = resume.choice(key, resolved, plan, self.firmware)?;
            self.signed = signed.map(Box::new);
            return Ok(Solved { apt: None, choice });
        }
        if let Some(lock) = self.locked(resolved, plan)? {
            return Ok(Solved { apt: None, choice: lock.into() });
        }
        let dir = self.scratch.join("apt");
        if dir.exists() {
            // A first attempt met a mirror that did not answer.
            fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display()))?;
        }
        let settings = AptSettings {
            archive: &resolved.archive,
            keyring: AptSettings::default_keyring(resolved.archive.distribution),
            proxy: self.proxy.as_deref(),
        };
        let apt = AptRoot::create(&dir, &settings)?;
        self.use_local_packages(&apt)?;
        let reporter = self.reporter;
        let updated = apt.update(self.runner, &mut |p| {
            reporter.progress(p.done, Some(p.total), Unit::Steps, &p.what);
        });
        let noted = updated.map_err(|e| with_clock(e, self.clock.as_ref(), Timestamp::now()))?;
        noted.iter().for_each(|note| reporter.warn(note.to_string()));
        let choice = target::choose(&apt, self.runner, resolved, plan, self.firmware)?;
        Ok(Solved { apt: Some(apt), choice })
    }

    fn packages<'a>(&self, solved: &'a Solved) -> &'a Lock {
        &solved.choice.lock
    }

    fn room(&mut self) -> Result<Bytes> {
        match self.room {
            Room::Memory => available_memory(),
            Room::Disk => {
                let stat = nix::sys::statvfs::statvfs(&self.scratch)
                    .with_context(|| format!("asking for the free space of {}", self.scratch.display()))?;
                Ok(Bytes(stat.blocks_available() * stat.fragment_size()))
            }
        }
    }

    fn has_medium(&self) -> bool {
        self.stick().is_some()
    }

    fn read_medium(&mut self, solved: &Solved) -> Result<()> {
        self.ready_medium()?;
        self.check_medium(&solved.choice.lock)?;
        self.medium_stays();
        Ok(())
    }

    fn shelters(
        &mut self,
        plan: &Plan,
        inventory: &Inventory,
        lock: &Lock,
        allowed: &Allowed,
    ) -> Vec<Shelter> {
        let mut found = stage::shelters(plan, inventory, lock, allowed.consent(), self.runner);
        // The installer has to fit there too, beside the packages.
        if let Some((root, ..)) = &self.installer {
            for shelter in found.iter_mut().filter(|s| s.dir == stage::ON_BOOT) {
                match known::look(&shelter.device, |boot| boot_files::installer_size(boot, root)) {
                    Ok(needed) => shelter.free.0 = shelter.free.0.saturating_sub(needed),
                    Err(error) => self.reporter.debug(format!("comparing the installer: {error:#}")),
                }
            }
        }
        found
    }

    fn people(&mut self, plan: &Plan, inventory: &Inventory, resolved: &Resolved) {
        let Some(identity) = self.identity.as_ref().filter(|_| resolved.keep_accounts) else { return };
        match people::find(plan, inventory, identity.machine) {
            Ok(found) => {
                found.secrets().for_each(|secret| self.reporter.hide(secret));
                if !found.is_empty() {
                    self.reporter
                        .info(format!("the accounts of {} people who are here are noted", found.len()));
                }
                self.people = found;
            }
            Err(issue) => self.reporter.warn(issue.to_string()),
        }
    }

    fn fetch(&mut self, solved: &Solved, to: To<'_, Mounted>, shelters: &[Shelter]) -> Result<Staged> {
        self.ready_medium()?;
        let mut fetcher = self.fetcher()?;
        if let Some(kept) = self.packages.as_ref().filter(|_| !matches!(to, To::Beside)) {
            fetcher = fetcher.first(Packages::directory(CACHE, kept));
        }
        let lock = &solved.choice.lock;
        let mut visits = Vec::new();
        let own = match to {
            To::Shelter(shelter) => Some(shelter),
            _ => None,
        };
        for shelter in shelters.iter().filter(|s| own != Some(*s)) {
            match shelter.visit(false) {
                Ok(visit) => {
                    fetcher = fetcher.first(Packages::directory(CACHE, visit.top().join(shelter.dir)));
                    visits.push(visit);
                }
                Err(error) => self.reporter.debug(format!("looking for packages: {error:#}")),
            }
        }
        let (dir, keep) = match (to, &self.packages) {
            (To::Shelter(shelter), _) => {
                let visit = shelter.visit(true)?;
                let dir = visit.top().join(shelter.dir);
                cache::private_dir(&dir)?;
                self.download(fetcher.durable(true), lock, &dir)?;
                visit.end()?;
                (self.mount.join(&shelter.later), true)
            }
            (To::Target(mounted), _) => {
                let place = stage::place_on(mounted, lock)?;
                for dir in cache::of_mounted(mounted).into_iter().filter(|dir| Some(dir) != place.as_ref()) {
                    fetcher = fetcher.first(Packages::directory(CACHE, dir));
                }
                // What outlives another beginning is better than what is formatted by it.
                let keep = place.is_some();
                let dir = place.unwrap_or_else(|| mounted.root.join(ON_TARGET));
                cache::private_dir(&dir)?;
                self.download(fetcher.durable(keep), lock, &dir)?;
                (dir, keep)
            }
            (To::Beside, Some(kept)) => {
                self.download(fetcher, lock, kept)?;
                (kept.clone(), true)
            }
            (To::Beside, None) => {
                let dir = self.scratch.join("debs");
                self.download(fetcher, lock, &dir)?;
                (dir, false)
            }
        };
        visits.into_iter().try_for_each(Visit::end)?;
        self.release_medium();
        Ok(Staged { dir, keep })
    }

    fn lock(&mut self, plan: &Plan, machine: MachineId) -> Result<Locked> {
        let locked = Planned::new(plan.clone(), machine)?.lock(self.runner)?;
        locked.notes().iter().for_each(|note| self.reporter.info(note));
        Ok(locked)
    }

    fn way_back(
        &mut self,
        locked: &mut Locked,
        record: &Record<'_>,
        solved: &Solved,
        staged: Option<&Staged>,
        journal: &mut Journal,
    ) -> Result<()> {
        locked.mend(self.runner)?;
        let Some((device, uuid)) = locked.kept_boot(self.runner)? else { return Ok(()) };
        let old_root = locked.old_root(self.runner)?;
        // While the installation goes on the loaders are the image's.
        let image = self.installer.as_ref().map(|(_, _, manifest)| manifest.distribution);
        let loaders: Vec<_> = image.into_iter().chain([record.resolved.archive.distribution]).collect();
        let secure_boot = record.inventory.firmware.secure_boot;
        let unverified = old_root
            .as_ref()
            .and_then(|root| second_root::unverified(secure_boot, record.inventory, root, &loaders));
        let cache = self.mount.join("boot").join(stage::ON_BOOT);
        let lock = &solved.choice.lock;
        let way = WayBack {
            device: &device,
            uuid: &uuid,
            old_root: old_root.as_deref(),
            unverified,
            warn: &|issue| self.reporter.warn(issue.to_string()),
            installer: self.installer.as_ref().map(|(root, stamp, manifest)| (&**root, stamp, manifest)),
            consoles: &self.consoles,
            needed: &|name| lock.packages.iter().any(|p| p.file == name),
            staged_there: staged.is_some_and(|staged| staged.dir == cache),
        };
        way.lay(journal, &|boot| self.save_resume(boot, record, solved))
            .context("making sure that this computer finds back after a power cut")?;
        self.reporter.debug(format!("{} starts the installer from here on", device.display()));
        Ok(())
    }

    fn write(&mut self, locked: Locked, _: &Allowed) -> Result<Mounted> {
        let reporter = self.reporter;
        let formatted = locked.partition(self.runner)?.format(self.runner, &mut |p| {
            reporter.progress(p.done as u64, Some(p.total as u64), Unit::Steps, &p.what);
        })?;
        let mounted = formatted.mount(&self.mount)?;
        if self.room == Room::Memory && crate::boot::devices::little_memory() {
            self.swap.on(&mounted, self.runner, reporter);
        }
        Ok(mounted)
    }

    fn boot_dir(&self, mounted: &Mounted) -> PathBuf {
        mounted.root.join("boot")
    }

    fn keep(&mut self, mounted: &Mounted, record: &Record<'_>, solved: &Solved) -> Result<()> {
        let boot = self.boot_dir(mounted);
        target::take_over(mounted, &self.consoles)?;
        second_root::is_made_on(&boot, root_uuid(mounted)?)?;
        boot_files::write_record(&boot, record)?;
        self.save_resume(&boot, record, solved)?;
        boot_files::write_signed_lock(&boot, self.signed.as_ref().map(|signed| &signed.envelope))?;
        self.keep_report(&boot);
        if let Err(error) = left::strike_off(&boot.join(boot_files::EVENTS), &self.sent) {
            self.reporter.debug(format!("striking off what the server has: {error:#}"));
        }
        if let Some((root, stamp, manifest)) = &self.installer {
            self.reporter.info("putting the installer on the disk");
            boot_files::write_installer(&boot, root, stamp, manifest)?;
            let scratch = self.scratch.join("loader");
            let of = manifest.distribution;
            target::start_installer(mounted, &self.consoles, root, of, &scratch, self.runner)?;
        }
        durable::sync_for_boot_loader(&boot)
    }

    fn install(
        &mut self,
        mounted: &Mounted,
        solved: &Solved,
        staged: &Staged,
        resolved: &Resolved,
    ) -> Result<()> {
        let config = self.resident_config(resolved)?;
        let job = self.job(mounted, solved, staged, resolved, &config, None);
        target::install(&job, &mut Listener(self.reporter, Unit::Steps))
    }

    fn configure(
        &mut self,
        mounted: &Mounted,
        solved: &Solved,
        staged: &Staged,
        resolved: &Resolved,
        identity: &Identity,
    ) -> Result<()> {
        let config = self.resident_config(resolved)?;
        let job = self.job(mounted, solved, staged, resolved, &config, Some(identity));
        target::configure(&job, &mut Listener(self.reporter, Unit::Steps))
    }

    fn tidy(&mut self, mounted: &Mounted, solved: &Solved, staged: Staged) {
        // The system stands. That its next installation may have to fetch more than it had to is no failure.
        match cache::keep(mounted, &solved.choice.lock, &staged.dir) {
            Ok(kept) => self.reporter.debug(format!(
                "{} of packages are kept on this computer, {} found no room, {} were of no more use",
                kept.kept, kept.left_out, kept.removed
            )),
            Err(error) => self.reporter.warn(format!("keeping the packages for the next time: {error:#}")),
        }
        let removed = cache::tidy(mounted).and_then(|()| match staged.keep {
            true => Ok(()),
            false => {
                fs::remove_dir_all(&staged.dir).with_context(|| format!("removing {}", staged.dir.display()))
            }
        });
        if let Err(error) = removed {
            self.reporter.warn(format!("removing packages that are needed no more: {error:#}"));
        }
    }

    fn sync(&mut self, mounted: &Mounted) -> Result<()> {
        let places = mounted.partitions.iter().filter(|p| p.is_mounted()).filter_map(|p| p.mount.as_deref());
        for place in places {
            durable::sync(&mounted.root.join(place.trim_start_matches('/')))?;
        }
        Ok(())
    }

    fn hand_over(&mut self, mounted: &Mounted) -> Result<()> {
        let boot = self.boot_dir(mounted);
        target::start_system(&boot)?;
        boot_files::set_installed(&boot, true)?;
        durable::sync_for_boot_loader(&boot)?;
        // Not before: a run that goes on would take this half a system for one that is to stay.
        second_root::name_first(&boot, root_uuid(mounted)?)?;
        durable::sync(&boot)
    }

    fn deliver_log(&mut self, identity: &Identity, mounted: Option<&Mounted>) {
        if let Err(error) = self.try_deliver_log(identity, mounted) {
            self.reporter.debug(format!("delivering the log: {error:#}"));
        }
    }

    fn report(&mut self, mounted: Option<&Mounted>) {
        self.put_reports(mounted);
    }

    fn release(&mut self, mounted: Mounted) -> Result<()> {
        self.swap.off(self.runner, self.reporter);
        mounted.unmount()
    }
}

impl Machine<'_> {
    /// What to do, from whoever has the say.
    fn ask_orders(&mut self, identity: &Identity, inventory: &Inventory) -> Result<Orders> {
        let wanted = match &self.authority {
            Authority::Site { stamp, profile, .. } => profile.clone().or_else(|| stamp.profile.clone()),
            _ => None,
        };
        let on_stick = match &self.authority {
            Authority::Site { .. } => self.profile_offline(wanted.as_deref())?,
            _ => None,
        };
        match &mut self.authority {
            Authority::Site { stamp, http, begun, .. } => {
                let site = Site { stamp, http: &**http };
                let runner = self.runner;
                let order = known::order(inventory, identity.machine, &stamp.site_key, self.reporter);
                let medium = || match &on_stick {
                    Some(found) => Ok(found.clone()),
                    None => Ok((medium::profile(runner)?, "akene/profile.json on the medium".to_owned())),
                };
                let orders =
                    site.orders(identity, inventory, wanted.as_deref(), order, self.reporter, &medium);
                match (orders, &begun) {
                    (Err(error), Some(resume)) if medium::is_missing(&error) => {
                        self.reporter.info(format!(
                            "{error:#}; the installation that broke off had one, which counts"
                        ));
                        resume.orders(&stamp.site_key, inventory)
                    }
                    (orders, _) => {
                        *begun = begun.take().filter(|_| orders.is_err());
                        orders
                    }
                }
            }
            Authority::Person { orders, .. } => {
                orders.take().map(|orders| *orders).context("taking orders a second time")
            }
            Authority::Begun { resume, key, vouched, .. } => {
                self.reporter
                    .info("going on with the installation that broke off, with what lies on this computer");
                let mut orders = resume.orders(key, inventory)?;
                if *vouched {
                    orders.permission = Ok(resume.permission());
                }
                Ok(orders)
            }
        }
    }

    /// A fetcher with the sources there are besides the lock's own. The server of the site is the last to be asked: one
    /// small server on the Internet is not to give everything to everybody.
    pub(super) fn fetcher(&self) -> Result<Fetcher> {
        let client = |tls: &Tls| -> Result<reqwest::blocking::Client> {
            let (proxy, resolver) = (self.proxy.as_deref(), &self.resolver);
            let access = Access { tls, proxy, resolver, dates: Dates::Checked };
            access.builder()?.redirect(redirect_policy()).build().context("preparing HTTP")
        };
        let fetcher = Fetcher::new(client(&Tls::default())?);
        let Authority::Site { stamp, .. } = &self.authority else { return Ok(fetcher) };
        let (Source::Server { url, tls, .. }, Some(who)) = (&stamp.source, &self.identity) else {
            return Ok(fetcher);
        };
        let base = format!("{}/v1/pool/sha256", url.trim_end_matches('/'));
        Ok(fetcher.last(Packages::pool("the server", base, client(tls)?, Some(who.bearer()))))
    }

    fn save_resume(&self, boot: &Path, record: &Record<'_>, solved: &Solved) -> Result<()> {
        let signed = self.signed.as_ref().map(|signed| &signed.envelope);
        let means = resume::Means {
            firmware: self.firmware,
            choice: &solved.choice,
            signed_lock: signed,
            sender: self.sender(),
            people: &self.people,
        };
        resume::save(boot, record, self.reporter.run(), &means)
    }

    fn download(&self, fetcher: Fetcher, lock: &Lock, dir: &Path) -> Result<()> {
        if self.offline.is_some() {
            return self.download_offline(fetcher, lock, dir);
        }
        let reporter = Mutex::new(self.reporter.clone());
        let report = fetcher.fetch(&lock.packages, dir, &|p| {
            let reporter = reporter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            reporter.progress(p.done, Some(p.total), Unit::Bytes, &p.what);
        })?;
        report.warnings.iter().for_each(|issue| self.reporter.warn(issue.to_string()));
        for source in &report.sources {
            self.reporter.debug(format!("{} came from {}", Bytes(source.bytes), source.name));
        }
        self.reporter.debug(format!("{} bytes of packages came over the network", report.network));
        Ok(())
    }

    fn try_deliver_log(&self, identity: &Identity, mounted: Option<&Mounted>) -> Result<()> {
        // The listener that writes the log has its own thread.
        self.reporter.drain(std::time::Duration::from_secs(2));
        let text = fs::read(&self.log).with_context(|| format!("reading {}", self.log.display()))?;
        if let Some(mounted) = mounted {
            let path = mounted.root.join(LOG);
            let dir = path.parent().context("finding the directory of the log")?;
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
            std::io::Write::write_all(
                &mut file.with_context(|| format!("writing {}", path.display()))?,
                &text,
            )
            .with_context(|| format!("writing {}", path.display()))?;
        }
        if let Authority::Site { stamp, http, .. } = &self.authority
            && let Source::Server { url, .. } = &stamp.source
        {
            Server::new(&**http, url).log(identity, self.reporter.run(), "install.log", &text)?;
        }
        self.reporter.log(Level::Debug, "the log is delivered");
        Ok(())
    }
}

/// UUID of the new root.
fn root_uuid(mounted: &Mounted) -> Result<&str> {
    let root = mounted.partition(&Role::Root).and_then(|root| root.uuid.as_deref());
    root.context("looking for the UUID of the new root")
}

/// Memory the kernel would give without pushing anything out.
fn available_memory() -> Result<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .context("finding MemAvailable in /proc/meminfo")?;
    Ok(Bytes(kib * 1024))
}
