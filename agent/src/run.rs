//! The pipeline: facts → profile → plan → consent → stage → commit → install → configure → restart.
//!
//! [`pipeline`] is the one way from an unknown machine to an installed one, for the live system
//! ([`live`]) and for a disk image on a developer's machine ([`native`]). What it does to the world goes
//! through [`Effects`]; what it guarantees by its order is here:
//!
//! - nothing is written before [`Effects::write`], and that comes after the plan, the permission for it,
//!   signatures, the choice of packages, and the re-identification of the disks;
//! - every package is fetched and verified before that too, except where memory does not suffice and no old system is
//!   there that could still start, or its end was permitted ([`stage`]);
//! - before an old system goes, the way back is there: the machine starts this installer, which goes on ([`resume`]);
//! - whatever goes wrong ends as one `Failed` event that says in which phase, why, and whether a disk
//!   was changed.
//!
//! Everything said after the disks are mounted is spooled on the boot partition. Before it is unmounted
//! the stream is sealed: the installed system goes on with the next number.

pub mod boot_files;
pub mod cache;
pub mod door;
pub mod doubt;
mod help;
mod homeward;
pub mod kernels;
pub mod left;
pub mod letter;
pub mod live;
mod live_medium;
mod local;
mod locked;
pub mod machine;
pub mod native;
pub mod offline;
mod people;
pub mod resume;
pub mod second_root;
mod sessions;
pub mod stage;
pub mod swap;
pub mod technician;
#[cfg(test)]
mod tests;
mod way;
mod way_back;

use std::path::PathBuf;
use std::time::Duration;

use akene_planner::Plan;
use akene_protocol::api::{Consent, Identity};
use akene_protocol::event::Phase;
use akene_protocol::issue::Issues;
use akene_protocol::lock::Lock;
use akene_protocol::profile::Shutdown;
use akene_protocol::{Bytes, Inventory, Issue, MachineId, Resolved};
use anyhow::{Context, Result};

use crate::fetch::{Allowed, Orders, Patience, Permission, patiently};
use crate::journal::{Journal, What};
use crate::report::Reporter;
use stage::{Place, Shelter, where_to_stage};

/// How long to wait for the server to take the last events. What it does not take then is spooled.
const DRAIN: Duration = Duration::from_secs(20);

/// What is kept on the boot partition about this machine and this run.
pub struct Record<'a> {
    /// Who the machine is.
    pub identity: &'a Identity,
    /// What it is.
    pub inventory: &'a Inventory,
    /// What it was told, with the signed profile.
    pub orders: &'a Orders,
    /// What was done to its disks.
    pub plan: &'a Plan,
    /// Its packages.
    pub lock: &'a Lock,
    /// The profile as it is for this machine.
    pub resolved: &'a Resolved,
    /// How much was permitted to be destroyed.
    pub consent: Consent,
}

/// Where packages are to be fetched to.
#[derive(Debug)]
pub enum To<'a, M> {
    /// Beside the disks.
    Beside,
    /// Into a filesystem that the plan keeps.
    Shelter(&'a Shelter),
    /// Onto the new root.
    Target(&'a M),
}

impl<M> Clone for To<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for To<'_, M> {}

/// What a run does to the world. Each call may take long and reports its own progress.
pub trait Effects {
    /// Packages chosen, with what is needed to fetch and install them.
    type Solved;
    /// Disks found again, checked and locked; nothing written.
    type Locked;
    /// The new root, mounted.
    type Mounted;
    /// Where the packages lie.
    type Staged;

    /// Looks at the machine.
    fn probe(&mut self) -> Result<Inventory>;
    /// Makes the machine known and learns who it is.
    fn identify(&mut self, inventory: &Inventory) -> Result<Identity>;
    /// Learns what to do.
    fn orders(&mut self, identity: &Identity, inventory: &Inventory) -> Result<Orders>;
    /// The permission for this plan: what the orders hold, unless a person is to give it within that.
    ///
    /// # Errors
    /// Why there is none.
    fn permission(
        &mut self,
        _plan: &Plan,
        _inventory: &Inventory,
        _resolved: &Resolved,
        given: Result<Permission, Issue>,
    ) -> Result<Permission, Issue> {
        given
    }
    /// Verifies the archives' metadata and chooses every package.
    fn solve(&mut self, resolved: &Resolved, plan: &Plan) -> Result<Self::Solved>;
    /// The packages chosen.
    fn packages<'a>(&self, solved: &'a Self::Solved) -> &'a Lock;
    /// Whether the packages lie on a medium that is here, and stays until they lie elsewhere.
    fn has_medium(&self) -> bool {
        false
    }
    /// Reads every package on that medium and holds it against its sum. Nothing is kept.
    fn read_medium(&mut self, _solved: &Self::Solved) -> Result<()> {
        Ok(())
    }
    /// How much can be staged before the disks are written, in memory or elsewhere.
    fn room(&mut self) -> Result<Bytes>;
    /// What of the disks stays and can hold packages, or holds some. Where so much is permitted, it is mended first.
    fn shelters(
        &mut self,
        plan: &Plan,
        inventory: &Inventory,
        lock: &Lock,
        allowed: &Allowed,
    ) -> Vec<Shelter>;
    /// Learns whose accounts are to survive, where the profile wants that, while the old system is whole.
    fn people(&mut self, plan: &Plan, inventory: &Inventory, resolved: &Resolved);
    /// Fetches and verifies every package. What lies in a shelter is taken from there.
    fn fetch(
        &mut self,
        solved: &Self::Solved,
        to: To<'_, Self::Mounted>,
        shelters: &[Shelter],
    ) -> Result<Self::Staged>;
    /// Finds the disks of the plan again, checks and locks them. Writes nothing.
    fn lock(&mut self, plan: &Plan, machine: MachineId) -> Result<Self::Locked>;
    /// Mends what is kept, and where that is the boot partition of an earlier installation makes it start this installer,
    /// which then finds what it needs to go on. Whatever fails here, the system that was there starts as before.
    fn way_back(
        &mut self,
        locked: &mut Self::Locked,
        record: &Record<'_>,
        solved: &Self::Solved,
        staged: Option<&Self::Staged>,
        journal: &mut Journal,
    ) -> Result<()>;
    /// Partitions, formats and mounts.
    fn write(&mut self, locked: Self::Locked, allowed: &Allowed) -> Result<Self::Mounted>;
    /// Where the boot partition is mounted.
    fn boot_dir(&self, mounted: &Self::Mounted) -> PathBuf;
    /// Puts the installer and what is known about the machine on the boot partition.
    fn keep(&mut self, mounted: &Self::Mounted, record: &Record<'_>, solved: &Self::Solved) -> Result<()>;
    /// Unpacks and configures the packages.
    fn install(
        &mut self,
        mounted: &Self::Mounted,
        solved: &Self::Solved,
        staged: &Self::Staged,
        resolved: &Resolved,
    ) -> Result<()>;
    /// Users, files, scripts, boot loader, resident agent.
    fn configure(
        &mut self,
        mounted: &Self::Mounted,
        solved: &Self::Solved,
        staged: &Self::Staged,
        resolved: &Resolved,
        identity: &Identity,
    ) -> Result<()>;
    /// Makes sure that everything written is on the disks.
    fn sync(&mut self, mounted: &Self::Mounted) -> Result<()>;
    /// From now on the disk starts the new system, all of which is on the disks.
    fn hand_over(&mut self, mounted: &Self::Mounted) -> Result<()>;
    /// Removes the packages that nobody needs any more, as well as it can.
    fn tidy(&mut self, mounted: &Self::Mounted, solved: &Self::Solved, staged: Self::Staged);
    /// Sends the log to the server and leaves a copy in the new root, as well as it can.
    fn deliver_log(&mut self, identity: &Identity, mounted: Option<&Self::Mounted>);
    /// Leaves word of the run so far where its server learns of it later, as well as it can, where none is asked now.
    fn report(&mut self, _mounted: Option<&Self::Mounted>) {}
    /// Unmounts and lets go of the disks.
    fn release(&mut self, mounted: Self::Mounted) -> Result<()>;
}

/// How a run that did not fail ended.
#[derive(Debug)]
pub enum Done {
    /// The system is on the disks.
    Installed {
        /// Who the machine is.
        identity: Identity,
        /// What the profile wants done now.
        shutdown: Shutdown,
    },
    /// It was only to be planned.
    Planned {
        /// The plan.
        plan: Box<Plan>,
        /// The machine it is for.
        machine: MachineId,
    },
}

/// How a run failed. The event is out already.
#[derive(Debug)]
pub struct Failure {
    /// In which phase.
    pub phase: Phase,
    /// Why.
    pub issues: Vec<Issue>,
    /// Whether a disk was changed.
    pub disks_changed: bool,
}

/// What a run is to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stop when the plan is made and permitted; write nothing.
    pub plan_only: bool,
    /// How long to go on where something may pass.
    pub patience: Patience,
    /// The same once disks were changed: then there is nothing to go back to.
    pub afterwards: Patience,
}

/// Installs a machine.
///
/// # Errors
/// The reasons, which have been reported already.
pub fn pipeline<E: Effects>(effects: &mut E, reporter: &Reporter, options: Options) -> Result<Done, Failure> {
    let journal = Journal::new(reporter.run());
    let mut state = State { journal, changed: false, delivered: false, identity: None };
    match steps(effects, reporter, options, &mut state) {
        Ok(done) => Ok(done),
        Err(error) => {
            let failure = report_failure(reporter, &mut state, &error);
            // Where the disks were mounted, the log has gone out with them.
            if let (Some(identity), false) = (&state.identity, state.delivered) {
                effects.deliver_log(identity, None);
                // What only looks writes nothing, not even on the medium.
                if !options.plan_only {
                    effects.report(None);
                }
            }
            reporter.drain(DRAIN);
            Err(failure)
        }
    }
}

struct State {
    journal: Journal,
    changed: bool,
    /// Whether the log went out.
    delivered: bool,
    identity: Option<Identity>,
}

fn report_failure(reporter: &Reporter, state: &mut State, error: &anyhow::Error) -> Failure {
    let phase = reporter.current_phase();
    let issues = issues_of(error);
    reporter.debug(format!("the run fails: {error:#}"));
    let failed = What::Failed { phase, issues: issues.clone() };
    if let Err(error) = state.journal.record(failed) {
        reporter.warn(format!("the journal does not say so: {error:#}"));
    }
    reporter.failed(issues.clone(), state.changed);
    Failure { phase, issues, disks_changed: state.changed }
}

fn steps<E: Effects>(
    effects: &mut E,
    reporter: &Reporter,
    options: Options,
    state: &mut State,
) -> Result<Done> {
    reporter.phase(Phase::Probe);
    let inventory = effects.probe()?;
    for note in &inventory.notes {
        reporter.warn(note.to_string());
    }

    reporter.phase(Phase::Profile);
    let patience = options.patience;
    let identity = patiently(patience, reporter, "asking the server", || effects.identify(&inventory))?;
    state.identity = Some(identity.clone());
    let mut orders =
        patiently(patience, reporter, "asking the server", || effects.orders(&identity, &inventory))?;
    hide_secrets(&orders, reporter);
    let resolved = akene_protocol::resolve::resolve(&orders.bundle, &inventory, Some(identity.asset))?;
    reporter.info(format!(
        "profile {} ({}), host name {}",
        resolved.profile, resolved.revision, resolved.hostname
    ));

    reporter.phase(Phase::Plan);
    // Without permission the plan is still worth showing: it says what would be done.
    let allowed = orders.permission.as_ref().map_or(Consent::Wipe, |p| p.consent());
    let plan = akene_planner::plan_within(&resolved.storage, &inventory, allowed)?;
    reporter.planned(&plan)?;

    reporter.phase(Phase::Consent);
    if options.plan_only {
        return Ok(Done::Planned { plan: Box::new(plan), machine: identity.machine });
    }
    let refused = Issue::new("internal", "", "the permission was used already", "");
    let given = std::mem::replace(&mut orders.permission, Err(refused));
    let permission = effects.permission(&plan, &inventory, &resolved, given)?;
    let by = permission.by.clone();
    let allowed = permission.allows(&plan)?;
    reporter.info(format!("{by} permits it"));
    effects.report(None);

    reporter.phase(Phase::Stage);
    let solved =
        patiently(patience, reporter, "reading the package archives", || effects.solve(&resolved, &plan))?;
    let lock = effects.packages(&solved).clone();
    let size = lock.download_size();
    reporter.info(format!("{} packages, {size} to fetch", lock.packages.len()));
    for snap in lock.snaps(resolved.archive.distribution) {
        reporter.warn(snap.to_string());
    }
    effects.people(&plan, &inventory, &resolved);
    let shelters = effects.shelters(&plan, &inventory, &lock, &allowed);
    let old_system = stage::has_old_system(&plan, &inventory);
    // From a medium everything was read and found right, and it is still there: nothing hangs on a network any more.
    let at_risk = old_system && !effects.has_medium();
    let place = where_to_stage(size, effects.room()?, &shelters, at_risk, allowed.consent())?;
    let to = match place {
        Place::Beside => {
            if old_system {
                let needs = if at_risk { "the network" } else { "the medium again" };
                reporter.warn(format!(
                    "no partition that stays has room for the packages: after a power cut this computer needs {needs}"
                ));
            }
            Some(To::Beside)
        }
        Place::Shelter(shelter) => {
            let device = shelter.device.display();
            reporter.info(format!("the packages are fetched to {device}, which stays"));
            Some(To::Shelter(shelter))
        }
        Place::Target => {
            reporter.info("memory does not hold the packages: they are fetched onto the new disk");
            patiently(patience, reporter, "reading the medium", || effects.read_medium(&solved))?;
            None
        }
    };
    let mut fetch =
        |to| patiently(patience, reporter, "downloading", || effects.fetch(&solved, to, &shelters));
    let staged = to.map(&mut fetch).transpose()?;

    reporter.phase(Phase::Commit);
    let mut locked = effects.lock(&plan, identity.machine)?;
    let record = Record {
        identity: &identity,
        inventory: &inventory,
        orders: &orders,
        plan: &plan,
        lock: &lock,
        resolved: &resolved,
        consent: allowed.consent(),
    };
    state.journal.record(What::Begun { phase: Phase::Commit })?;
    effects.way_back(&mut locked, &record, &solved, staged.as_ref(), &mut state.journal)?;
    state.changed = true;
    let mounted = effects.write(locked, &allowed)?;

    let result = on_disk(effects, reporter, options, state, &mounted, solved, staged, &resolved, &record);
    if let Err(error) = &result {
        report_failure(reporter, state, error);
    }
    effects.deliver_log(&identity, Some(&mounted));
    effects.report(Some(&mounted));
    state.delivered = true;
    reporter.drain(DRAIN);
    reporter.seal();
    if let Some(courier) = reporter.courier() {
        courier.release();
    }
    state.journal.close();
    let released = effects.release(mounted);
    result?;
    released?;
    Ok(Done::Installed { identity, shutdown: resolved.shutdown })
}

#[expect(clippy::too_many_arguments, reason = "they are the state of the pipeline at this point")]
fn on_disk<E: Effects>(
    effects: &mut E,
    reporter: &Reporter,
    options: Options,
    state: &mut State,
    mounted: &E::Mounted,
    solved: E::Solved,
    staged: Option<E::Staged>,
    resolved: &Resolved,
    record: &Record<'_>,
) -> Result<()> {
    let boot = effects.boot_dir(mounted);
    state.journal.open(&boot)?;
    boot_files::set_installed(&boot, false)?;
    if let Some(courier) = reporter.courier() {
        courier.spool(&boot.join(boot_files::EVENTS))?;
    }
    effects.keep(mounted, record, &solved)?;
    state.journal.record(What::Done { phase: Phase::Commit })?;

    let staged = match staged {
        Some(staged) => staged,
        None => {
            reporter.phase(Phase::Stage);
            patiently(options.afterwards, reporter, "downloading", || {
                effects.fetch(&solved, To::Target(mounted), &[])
            })?
        }
    };

    reporter.phase(Phase::Install);
    state.journal.record(What::Begun { phase: Phase::Install })?;
    effects.install(mounted, &solved, &staged, resolved)?;
    state.journal.record(What::Done { phase: Phase::Install })?;

    reporter.phase(Phase::Configure);
    state.journal.record(What::Begun { phase: Phase::Configure })?;
    effects.configure(mounted, &solved, &staged, resolved, record.identity)?;
    state.journal.record(What::Done { phase: Phase::Configure })?;

    reporter.phase(Phase::Restart);
    effects.sync(mounted)?;
    // What starts next is the last to change: a power cut between these two leaves a system that starts.
    effects.hand_over(mounted)?;
    state.journal.record(What::Complete)?;
    resume::remove(&boot)?;
    boot_files::remove_if_there(&boot.join(crate::fetch::known::ORDER))?;
    // Until here a power cut may have needed each of them.
    effects.tidy(mounted, &solved, staged);
    reporter.installed();
    Ok(())
}

/// Registers everything secret in a profile with the reporter.
fn hide_secrets(orders: &Orders, reporter: &Reporter) {
    let classes = orders.bundle.classes.iter().map(|(_, layer)| layer);
    for layer in classes.chain([&orders.bundle.profile]) {
        let first = layer.identity.iter().filter_map(|i| i.password.as_ref());
        let more = layer.users.iter().filter_map(|u| u.password.as_ref());
        let menu = layer.boot.iter().filter_map(|b| b.password.as_ref());
        first.chain(more).chain(menu).for_each(|secret| reporter.hide(secret));
        let proxy = layer.network.iter().filter_map(|n| n.proxy.as_deref());
        let apt = layer.apt.iter().flat_map(|apt| {
            let mirrors = apt.mirrors.iter().chain(&apt.security_mirrors).map(String::as_str);
            mirrors.chain(apt.sources.values().map(|source| source.uri.as_str()))
        });
        proxy.chain(apt).for_each(|address| reporter.hide_password_of(address));
    }
}

/// The issues an error is about. An error that carries none becomes one.
pub fn issues_of(error: &anyhow::Error) -> Vec<Issue> {
    if let Some(issues) = error.downcast_ref::<Issues>() {
        return issues.0.clone();
    }
    if let Some(issue) = error.downcast_ref::<Issue>() {
        return vec![issue.clone()];
    }
    if akene_archive::is_full(error) {
        let next = "use a larger disk or more memory, ask for fewer packages, or give the volume more room under `storage`";
        return vec![Issue::new("no-space", "", format!("there is no room left: {error:#}"), next)];
    }
    vec![Issue::new(
        "unexpected",
        "",
        format!("{error:#}"),
        "try once more; if it happens again, send the log and the number on the screen to your administrator",
    )]
}

/// A document of ours as JSON for people, with a line feed at its end.
fn json<T: serde::Serialize>(value: &T, what: &str) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).with_context(|| format!("writing {what} as JSON"))?;
    text.push(b'\n');
    Ok(text)
}
