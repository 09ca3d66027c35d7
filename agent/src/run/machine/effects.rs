//! The steps of the pipeline, each through the room that does it.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use akene_archive::{AptRoot, AptSettings, Progress, Source as Packages};
use akene_planner::{Plan, Role};
use akene_protocol::api::Identity;
use akene_protocol::event::{Level, Unit};
use akene_protocol::lock::Lock;
use akene_protocol::stamp::Source;
use akene_protocol::{Bytes, Inventory, Issue, MachineId, Resolved};
use anyhow::{Context, Result};
use jiff::Timestamp;

use super::packages::available_memory;
use super::{Authority, Machine, Room, Solved, Staged};
use crate::durable;
use crate::fetch::{Allowed, Orders, Permission, Server, known};
use crate::journal::Journal;
use crate::report::Reporter;
use crate::run::doubt::with_clock;
use crate::run::stage::{self, Shelter};
use crate::run::way_back::WayBack;
use crate::run::{Effects, Record, To, boot_files, cache, left, people, resume, second_root};
use crate::storage::{Locked, Mounted, Planned};
use crate::target::{self, Job, Resident, Watch};

/// Where packages lie that are staged on the new root.
const ON_TARGET: &str = target::STAGE;

/// Packages of an earlier installation, or of one that broke off, for people.
const CACHE: &str = "an earlier installation";

/// The log of the installation, in the installed system.
const LOG: &str = "var/log/akene/install.log";

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
        let identity = self.ask_identity(inventory)?;
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
        // An installation that is gone on with was confirmed when it began.
        let begun = matches!(self.authority, Authority::Begun { .. });
        let technician = self.offline.as_mut().and_then(|offline| offline.technician.as_deref_mut());
        let Some(technician) = technician.filter(|_| !begun) else { return given };
        // At most what the medium allows.
        let most = given?.consent();
        let permission = technician.confirm(plan, inventory, resolved, most)?;
        Ok(Permission::given(permission.consent().min(most), permission.by))
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
        let own = match to {
            To::Shelter(shelter) => Some(shelter),
            _ => None,
        };
        let visits = self.visit(shelters.iter().filter(|s| own != Some(*s)));
        for (visit, dir) in &visits {
            fetcher = fetcher.first(Packages::directory(CACHE, visit.top().join(dir)));
        }
        let (dir, keep) = match (to, &self.packages) {
            (To::Shelter(shelter), _) => {
                let (visit, dir) = shelter.open(lock)?;
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
        visits.into_iter().try_for_each(|(visit, _)| visit.end())?;
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
