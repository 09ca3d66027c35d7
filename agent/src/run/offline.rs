//! A run from a medium that brings everything: no network, no server, maybe a technician.
//!
//! It is the same pipeline. What differs is here: who the machine is and what it becomes is the technician's choice or the
//! medium's first profile; the packages come from the medium; reports are left where somebody will find them, on the medium
//! and on the machine's boot partition.
//!
//! The medium may be pulled out as soon as every package lies elsewhere, verified: in memory, in a shelter, on the new disk. That
//! is said, and it is let go of. Pulled out earlier, the run waits for it.

use std::path::Path;

use akene_archive::{Fetcher, Source as Packages};
use akene_exec::Runner;
use akene_protocol::api::Identity;
use akene_protocol::event::Unit;
use akene_protocol::issue::Issues;
use akene_protocol::lock::{Lock, LockedPackage};
use akene_protocol::stamp::{Home, Source, Stamp};
use akene_protocol::{Bundle, EventKind, Inventory, Issue, MachineId, PublicKey, RunId, Sha256};
use anyhow::{Context, Result};

use super::boot_files;
use super::letter::{Desk, Sender, end_of_log};
use super::machine::Machine;
use super::resume::Resume;
use super::stage;
use super::technician::{Choice, Offer, Offered, Technician};
use crate::fetch::medium::stick::{self, Stick, Where};
use crate::fetch::mint;
use crate::report::Reporter;
use crate::report::words::Text;
use crate::storage::Mounted;

/// The medium as a source of packages, for people.
const MEDIUM: &str = "the medium";

/// What a run from such a medium has besides.
pub struct Offline<'a> {
    /// The medium. None: an installation that broke off goes on without it, until something is missing.
    pub stick: Option<Stick>,
    /// Whose media count.
    site_key: PublicKey,
    /// Who is asked, where somebody is.
    pub technician: Option<&'a mut dyn Technician>,
    /// Who the machine was found to be before in this start, if no disk says so. One machine that is tried three times is
    /// one machine.
    pub minted: Option<Identity>,
    /// Whether no disk says who the machine is.
    stranger: bool,
    /// Whether people were told that the medium can be taken out.
    released: bool,
    /// What was chosen.
    chosen: Option<Choice>,
    /// What reports are made of. None: the medium's stamp names nobody they would be for.
    desk: Option<Desk>,
}

impl<'a> Offline<'a> {
    /// A run from `stick`, or one that goes on with what `resume` says.
    pub fn new(
        stamp: &Stamp,
        stick: Option<Stick>,
        resume: Option<&Resume>,
        technician: Option<&'a mut dyn Technician>,
    ) -> Self {
        let of_stick = |stick: &Stick| Sender {
            medium: stick.manifest().id,
            key: stick.key().clone(),
            association: None,
            labelled: false,
        };
        let sender = resume.and_then(|r| r.sender.clone()).or_else(|| stick.as_ref().map(of_stick));
        let desk = sender.zip(home(stamp)).map(|(sender, home)| Desk::new(sender, home.seal.clone()));
        Offline {
            stick,
            site_key: stamp.site_key,
            technician,
            minted: None,
            stranger: false,
            released: false,
            chosen: None,
            desk,
        }
    }

    /// Who this machine is: who its disks say, with the number the technician types; a new one otherwise.
    pub(super) fn identify(
        &mut self,
        known: Option<Identity>,
        inventory: &Inventory,
        stamp: &Stamp,
        reporter: &Reporter,
    ) -> Result<Identity> {
        // Once: what failed afterwards and is tried again is not the technician's choice.
        if let (Some(technician), None, Some(stick)) = (&mut self.technician, &self.chosen, &self.stick) {
            let profiles = offered(stick, stamp)?;
            let offer = Offer {
                site: &stamp.site,
                associations: &stick.manifest().associations,
                profiles: &profiles,
                known: known.as_ref().map(|identity| identity.asset),
                inventory,
            };
            let choice = technician.choose(&offer)?;
            reporter.speak(technician.language().unwrap_or(stamp.language));
            if let Some(error) = technician.complaint() {
                reporter.warn(format!("the keyboard is not read as it should be: {error:#}"));
            }
            let association = choice.association.as_deref().unwrap_or("none");
            reporter.info(format!(
                "chosen at the machine: profile {}, association {association}",
                choice.profile
            ));
            self.chosen = Some(choice);
        }
        self.stranger = known.is_none();
        let mut identity = match known.or_else(|| self.minted.take()) {
            Some(known) => known,
            None => mint::identity()?,
        };
        self.minted = Some(identity.clone());
        if let Some(choice) = &self.chosen {
            identity.asset = choice.asset.unwrap_or(identity.asset);
            if let Some(desk) = &mut self.desk {
                desk.sender.association.clone_from(&choice.association);
                desk.sender.labelled = choice.asset.is_some();
            }
        }
        reporter.hide(&identity.credential);
        reporter.called(identity.asset);
        Ok(identity)
    }

    /// Makes sure that the medium can be read. Where none was there, one may have been plugged in since; none is needed where
    /// everything lies on the computer.
    fn ready(&mut self, place: &Where, runner: &dyn Runner, reporter: &Reporter) -> Result<(), Issue> {
        match &mut self.stick {
            Some(stick) => {
                stick.ensure(runner)?;
                self.released = false;
                Ok(())
            }
            None => {
                self.stick = Stick::find(place, &self.site_key, runner).unwrap_or_else(|issue| {
                    reporter.warn(issue.to_string());
                    None
                });
                Ok(())
            }
        }
    }

    /// Puts a report on the medium, if there is one. `on_disk`: whether the machine's identity lies on a disk now. Where people
    /// were told that they can take the medium out, and did not, they are told to wait.
    fn put(
        &mut self,
        reporter: &Reporter,
        on_disk: bool,
        written: &Written,
        runner: &dyn Runner,
    ) -> Option<Result<()>> {
        let released = self.released;
        let stranger = self.desk.as_ref().filter(|_| self.stranger).and_then(Desk::name_of_stranger);
        let stick = self.stick.as_mut()?;
        let (name, earlier) = written.names(reporter.run(), stranger, on_disk);
        let mut begun = false;
        let mut begins = || {
            begun = released;
            if released {
                reporter.notice(Text::ReportBegins);
            }
        };
        let put = stick.write_report(&name, earlier.as_deref(), &written.sealed, runner, &mut begins);
        if begun {
            reporter.notice(if put.is_ok() { Text::ReportWritten } else { Text::MayBePulled });
        }
        Some(put)
    }

    /// Name of the profile: the technician's choice, what the boot menu or the stamp asks for, the medium's first.
    fn profile_name(&self, wanted: Option<&str>) -> Result<Option<String>, Issue> {
        let Some(stick) = &self.stick else { return Ok(None) };
        let wanted = self.chosen.as_ref().map(|choice| choice.profile.as_str()).or(wanted);
        stick.choose(wanted).map(|profile| Some(profile.name.clone()))
    }
}

/// A report as it is at one moment.
struct Written {
    sealed: Vec<u8>,
    machine: MachineId,
    /// Whether it tells of a system that was installed.
    installed: bool,
}

impl Written {
    /// What it is called, and which one it takes the place of. Of a machine there is one for each system it got, and the last that
    /// tells of none: whoever starts it again and again fills nothing up. `stranger` is the name of a machine that no disk knew when
    /// the run began; as long as none does it comes as somebody else with each start.
    fn names(&self, run: RunId, stranger: Option<String>, on_disk: bool) -> (String, Option<String>) {
        let unfinished = hex::encode(&Sha256::of(self.machine.to_string().as_bytes()).0[..8]);
        match (stranger, on_disk) {
            (Some(stranger), false) => (stranger, None),
            (stranger, _) if self.installed => (run.to_string(), Some(stranger.unwrap_or(unfinished))),
            (stranger, _) => (unfinished, stranger),
        }
    }
}

/// The server that machines installed by this stamp belong to, where none is asked.
fn home(stamp: &Stamp) -> Option<&Home> {
    match &stamp.source {
        Source::Medium { home, .. } => home.as_ref(),
        Source::Server { .. } | Source::Static { .. } => None,
    }
}

/// The profiles of a medium with what their administrator says of them.
fn offered(stick: &Stick, stamp: &Stamp) -> Result<Vec<Offered>> {
    let offer = |profile: &akene_protocol::medium::MediumProfile| -> Result<Offered> {
        let text = stick.profile(&profile.name)?;
        let place = format!("the profile {} on the medium", profile.name);
        let bundle: Bundle = crate::fetch::read_signed(&text, &stamp.site_key, "profile", &place)?;
        Ok(Offered { name: profile.name.clone(), size: profile.size, title: bundle.profile.description })
    };
    stick.manifest().profiles.iter().map(offer).collect()
}

/// Why packages could not be had: the medium is damaged, or gone, or there was none.
fn why_not(
    stick: Option<&Stick>,
    error: anyhow::Error,
    packages: &[LockedPackage],
    dir: &Path,
) -> anyhow::Error {
    // A full disk is not the medium's fault.
    if !error.is::<Issues>() {
        return error;
    }
    let Some(stick) = stick else { return stick::missing().into() };
    let missing: Vec<LockedPackage> = packages.iter().filter(|p| !stage::is_there(dir, p)).cloned().collect();
    match stick.check(&missing, &mut |_| {}) {
        Ok(()) => error,
        Err(issues) => issues.into(),
    }
}

impl Machine<'_> {
    /// The profile on the medium with its place; `None` where the run is not from one with a manifest.
    pub(super) fn profile_offline(&self, wanted: Option<&str>) -> Result<Option<(Vec<u8>, String)>> {
        let Some(offline) = &self.offline else { return Ok(None) };
        let (Some(stick), Some(name)) = (&offline.stick, offline.profile_name(wanted)?) else {
            return Ok(None);
        };
        let text = stick.profile(&name)?;
        Ok(Some((text, format!("the profile {name} on the medium"))))
    }

    /// The medium with everything, where the run is from one that is there.
    pub(super) fn stick(&self) -> Option<&Stick> {
        self.offline.as_ref().and_then(|offline| offline.stick.as_ref())
    }

    /// Keeps what reports are made of.
    pub(super) fn note(&mut self, take: impl FnOnce(&mut Desk)) {
        if let Some(desk) = self.offline.as_mut().and_then(|offline| offline.desk.as_mut()) {
            take(desk);
        }
    }

    /// Whose reports these are, for the record of an unfinished installation.
    pub(super) fn sender(&self) -> Option<&Sender> {
        Some(&self.offline.as_ref()?.desk.as_ref()?.sender)
    }

    /// Whether the installer that runs, and will lie on the disk, is whole. Over a network that is seen when it is written; here
    /// nobody could send another.
    pub(super) fn check_installer(&self) -> Result<()> {
        match (&self.offline, &self.installer) {
            (Some(_), Some((root, _, manifest))) => boot_files::check_installer(root, manifest),
            _ => Ok(()),
        }
    }

    /// Makes sure that the medium can be read.
    pub(super) fn ready_medium(&mut self) -> Result<()> {
        match &mut self.offline {
            Some(offline) => Ok(offline.ready(&Where::Anywhere, self.runner, self.reporter)?),
            None => Ok(()),
        }
    }

    /// Reads each package on the medium and holds it against its sum.
    pub(super) fn check_medium(&self, lock: &Lock) -> Result<()> {
        let Some(stick) = self.stick() else { return Ok(()) };
        let total = lock.download_size().0;
        let mut done = 0;
        stick.check(&lock.packages, &mut |package| {
            done += package.size.0;
            self.reporter.progress(done, Some(total), Unit::Bytes, &package.name);
        })?;
        Ok(())
    }

    /// Fetches from the medium and what lies on the computer, and asks nobody else.
    pub(super) fn download_offline(&self, fetcher: Fetcher, lock: &Lock, dir: &Path) -> Result<()> {
        // One file after the other: a disc's head has to move, and an old stick is fastest that way.
        let mut fetcher = fetcher.streams(1);
        if let Some(pool) = self.stick().and_then(Stick::pool) {
            fetcher = fetcher.first(Packages::directory(MEDIUM, pool));
        }
        let nowhere = |package: &LockedPackage| LockedPackage { urls: vec![], ..package.clone() };
        let packages: Vec<LockedPackage> = lock.packages.iter().map(nowhere).collect();
        self.bring(&fetcher, &packages, dir).map_err(|e| why_not(self.stick(), e, &packages, dir))
    }

    /// Says that the medium is read when the disks have changed, until it is needed no more.
    pub(super) fn medium_stays(&self) {
        if self.stick().is_some() {
            self.reporter.notice(Text::LeaveIn);
        }
    }

    /// The medium is needed no more.
    pub(super) fn release_medium(&mut self) {
        let Some(offline) = &mut self.offline else { return };
        let Some(stick) = &mut offline.stick else { return };
        stick.release();
        offline.released = true;
        self.reporter.notice(Text::MayBePulled);
        if let Some(technician) = &mut offline.technician {
            technician.pulled();
        }
    }

    /// Puts the report of this run, as it is now, on the medium and on the machine's boot partition if that is mounted. That it
    /// cannot be put on the medium is said; it keeps nothing from going on.
    pub(super) fn put_reports(&mut self, mounted: Option<&Mounted>) {
        let Some(written) = self.report() else { return };
        let (runner, reporter) = (self.runner, self.reporter);
        let put = |offline: &mut Offline<'_>| offline.put(reporter, mounted.is_some(), &written, runner);
        let on_medium = match self.offline.as_mut().and_then(put) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                self.reporter.warn(format!("the report is not on the medium: {error:#}"));
                false
            }
            None => false,
        };
        if let Some(mounted) = mounted {
            if !on_medium {
                self.reporter.notice(Text::ReportStays);
            }
            self.keep_report(&mounted.root.join("boot"));
        }
    }

    /// Puts the report on a boot partition.
    pub(super) fn keep_report(&self, boot: &Path) {
        let Some(written) = self.report() else { return };
        let path = |name: &str| boot.join(boot_files::REPORTS).join(format!("{name}.sealed"));
        let (name, earlier) = written.names(self.reporter.run(), None, true);
        let kept = boot_files::write_private(&path(&name), &written.sealed)
            .and_then(|()| earlier.map_or(Ok(()), |earlier| boot_files::remove_if_there(&path(&earlier))));
        if let Err(error) = kept {
            self.reporter.warn(format!("keeping the report on this computer: {error:#}"));
        }
    }

    /// The report as it is now. None: nobody is to be told, or there is nobody yet to tell about.
    fn report(&self) -> Option<Written> {
        let desk = self.offline.as_ref()?.desk.as_ref()?;
        let identity = self.identity.as_ref()?;
        let report = || -> Result<Written> {
            // The listener that writes the log has its own thread.
            self.reporter.drain(std::time::Duration::from_secs(2));
            let courier = self.reporter.courier().context("reading the events: nobody keeps them")?;
            let events = courier.pending()?;
            let installed = events.iter().any(|event| event.kind == EventKind::Installed);
            let sealed = desk.report(identity, self.reporter.run(), events, end_of_log(&self.log)?)?;
            Ok(Written { sealed, machine: identity.machine, installed })
        };
        report().inspect_err(|error| self.reporter.warn(format!("writing the report: {error:#}"))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::medium::stick::tests::{Media, package, public, site};
    use akene_exec::RecordingRunner;
    use akene_protocol::seal::SealSecret;
    use akene_protocol::stamp::Tls;
    use std::fs;

    fn stamp() -> Stamp {
        let seal = SealSecret::from_bytes([6; 32]).public();
        let home = Some(Home { url: "https://s".into(), tls: Tls::default(), seal });
        let source = Source::Medium { consent: Default::default(), attended: false, home };
        Stamp::new("s", source, public(&site()))
    }

    fn machine() -> Inventory {
        Inventory::parse(include_bytes!("../../../tests/golden/20gb-bios/inventory.json")).unwrap()
    }

    fn reports(media: &Media) -> Vec<String> {
        let found = fs::read_dir(media.path("reports")).unwrap();
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn written(machine: MachineId, text: &str) -> Written {
        Written { sealed: text.into(), machine, installed: text == "installed" }
    }

    #[test]
    fn a_medium_has_one_report_for_each_system_of_a_machine_and_one_of_what_failed_since() {
        let (media, stamp, runner) = (Media::new(), stamp(), RecordingRunner::default());
        let reporter = Reporter::new(RunId([9; 8]), 1);
        // A start of its own each.
        let start = |known: Option<Identity>| {
            let mut offline = Offline::new(&stamp, media.find().unwrap(), None, None);
            let desk = offline.desk.as_mut().unwrap();
            desk.inventory(&machine());
            let who = offline.identify(known, &machine(), &stamp, &reporter).unwrap();
            (offline, who)
        };
        let mut seen = vec![];
        for n in 1..=3 {
            let (mut offline, who) = start(None);
            let report = written(who.machine, "refused");
            offline.put(&Reporter::new(RunId([n; 8]), 1), false, &report, &runner).unwrap().unwrap();
            seen.push(who.machine);
            assert_eq!(reports(&media).len(), 1, "{n}");
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2]);
        // Once the disk says who it is, what failed is kept in that name.
        let (mut offline, who) = start(None);
        let put = |offline: &mut Offline<'_>, run: u8, on_disk, text| {
            let report = written(who.machine, text);
            offline.put(&Reporter::new(RunId([run; 8]), 1), on_disk, &report, &runner).unwrap().unwrap();
        };
        put(&mut offline, 4, false, "permitted");
        put(&mut offline, 4, true, "failed while it installed");
        for run in 5..=9 {
            let (mut offline, _) = start(Some(who.clone()));
            put(&mut offline, run, false, "permitted");
            put(&mut offline, run, run % 2 == 0, "failed again");
            let [name] = &reports(&media)[..] else { panic!("run {run}: {:?}", reports(&media)) };
            assert!(name.strip_suffix(".sealed").is_some_and(|name| name.parse::<RunId>().is_ok()), "{name}");
            assert_eq!(fs::read(media.path("reports").join(name)).unwrap(), b"failed again");
        }
        // What it became is kept run by run.
        for run in [0x21, 0x22] {
            let (mut offline, _) = start(Some(who.clone()));
            put(&mut offline, run, false, "permitted");
            put(&mut offline, run, true, "installed");
        }
        let (mut offline, _) = start(Some(who.clone()));
        put(&mut offline, 0x23, false, "refused");
        let (mut offline, _) = start(Some(who.clone()));
        put(&mut offline, 0x24, false, "refused");
        let names = reports(&media);
        let has = |run: &str| names.contains(&format!("{}.sealed", run.repeat(8)));
        assert!(names.len() == 3 && has("21") && has("22"), "{names:?}");
        // Another machine's go beside them.
        put(&mut offline, 0x25, true, "failed");
        assert_eq!(reports(&media).len(), 3);
        let other = written(MachineId([9; 16]), "failed");
        offline.put(&Reporter::new(RunId([0x26; 8]), 1), true, &other, &runner).unwrap().unwrap();
        assert_eq!(reports(&media).len(), 4);
    }

    #[test]
    fn what_goes_on_alone_wants_a_medium_when_something_is_missing_and_takes_the_one_that_comes() {
        let (media, stamp, runner) = (Media::new(), stamp(), RecordingRunner::default());
        let reporter = Reporter::new(RunId([9; 8]), 1);
        let place = Where::In(media.dir.path().to_owned());
        let away = media.dir.path().join("away");
        fs::rename(media.path(""), &away).unwrap();
        let mut offline = Offline::new(&stamp, None, None, None);
        offline.ready(&place, &runner, &reporter).unwrap();
        // What nobody was asked for over a network.
        let nowhere = || Issues::from(Issue::new("package-unreachable", "", "", "")).into();
        let nothing = tempfile::tempdir().unwrap();
        let why = |offline: &Offline<'_>, error| {
            let error = why_not(offline.stick.as_ref(), error, &[package(b"deb", 3)], nothing.path());
            crate::run::issues_of(&error).remove(0).code
        };
        assert_eq!(why(&offline, nowhere()), stick::MISSING);
        assert_eq!(why(&offline, anyhow::anyhow!("the disk is full")), "unexpected");
        fs::rename(&away, media.path("")).unwrap();
        offline.ready(&place, &runner, &reporter).unwrap();
        assert!(offline.stick.is_some());
        assert_eq!(why(&offline, nowhere()), "package-unreachable", "the medium has it");
        fs::remove_dir_all(media.path("pool")).unwrap();
        assert_eq!(why(&offline, nowhere()), "medium-damaged");
    }

    struct Notices(std::sync::mpsc::Sender<Text>);
    impl crate::report::Listener for Notices {
        fn message(&mut self, message: &crate::report::Message) -> Result<()> {
            if let crate::report::Message::Notice(text) = message {
                self.0.send(*text)?;
            }
            Ok(())
        }
    }

    #[test]
    fn who_may_take_the_medium_out_is_told_to_wait_while_it_is_written() {
        let (media, stamp, runner) = (Media::new(), stamp(), RecordingRunner::default());
        let mut offline = Offline::new(&stamp, media.find().unwrap(), None, None);
        let told = |offline: &mut Offline<'_>| {
            let reporter = Reporter::new(RunId([9; 8]), 1);
            let (sender, notices) = std::sync::mpsc::channel();
            reporter.listen("tape", Notices(sender)).unwrap();
            let report = written(MachineId([1; 16]), "report");
            let put = offline.put(&reporter, true, &report, &runner).unwrap().is_ok();
            reporter.drain(std::time::Duration::from_secs(60));
            (put, notices.try_iter().collect::<Vec<_>>())
        };
        assert_eq!(told(&mut offline), (true, vec![]), "it is needed, and nobody was told otherwise");
        offline.released = true;
        assert_eq!(told(&mut offline), (true, vec![Text::ReportBegins, Text::ReportWritten]));
        fs::rename(media.path(""), media.dir.path().join("away")).unwrap();
        assert_eq!(told(&mut offline), (false, vec![]), "it was taken out");
    }
}
