//! An attempt of the live system on a medium that brings everything: [`super::live`] without the network.
//!
//! Nothing waits for a network, and none is set up. The medium is waited for: a stick may need seconds to show itself, and
//! somebody may have pulled it out because the installer runs from memory.
//!
//! An installation that broke off is gone on with before anybody is asked anything: what it was to become was decided when
//! it began. The medium helps with packages where it is there. Where that does not work and the disks are as they were, the next
//! attempt begins anew.

use std::time::Duration;

use akene_exec::Runner;
use akene_protocol::Issue;
use akene_protocol::api::Identity;
use akene_protocol::stamp::{Source, Stamp};
use jiff::Timestamp;

use super::doubt::ClockState;
use super::live::{begin, ended, prepare};
use super::offline::Offline;
use super::resume::Begun;
use super::technician::{DECLINED, LEFT, Next as Wish, Technician};
use super::{Done, Options, issues_of, pipeline};
use crate::boot::{LiveSystem, Mode};
use crate::fetch::medium::stick::{Stick, Where};
use crate::fetch::{Patience, is_transient};
use crate::net::Online;
use crate::net::clock::{Mended, Source as TimeSource};
use crate::net::resolver::Resolver;
use crate::report::Reporter;
use crate::report::words::Text;
use crate::sys::clock;
use crate::technician;

/// How long the medium may take to show itself.
const MEDIUM_WITHIN: Duration = Duration::from_secs(20);

/// What outlives an attempt.
pub(super) struct OnMedium {
    technician: Option<Box<dyn Technician>>,
    minted: Option<Identity>,
    /// An installation that broke off cannot be gone on with.
    anew: bool,
}

/// What follows an attempt that failed, where it is not what follows any.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// The next one, soon.
    Again,
    /// The next one, at once: a person has read why.
    Asked,
    /// A restart: the technician wants no more of it.
    Left,
}

impl OnMedium {
    /// `None`: the stamp is not that of such a medium.
    pub fn new(live: &LiveSystem, runner: &'static dyn Runner) -> Option<Self> {
        let stamp = live.stamp.as_ref().ok().filter(|stamp| brings_everything(stamp))?;
        let at_consoles = || {
            let keyboard = live.keyboard(runner);
            Box::new(technician::open(&live.consoles, keyboard, live.language())) as Box<dyn Technician>
        };
        let technician = is_attended(stamp).then(at_consoles);
        Some(OnMedium { technician, minted: None, anew: false })
    }

    /// Whether a person stands at the machine and is asked.
    pub fn is_attended(&self) -> bool {
        self.technician.is_some()
    }

    /// One attempt. `begun` is an installation that broke off, `alone` whether all it needs lies on the disks.
    pub fn attempt(
        &mut self,
        live: &LiveSystem,
        runner: &dyn Runner,
        reporter: &Reporter,
        begun: Option<Begun>,
        alone: bool,
    ) -> Result<Done, Vec<Issue>> {
        let stamp = begin(live, reporter)?;
        let fail = |issues| ended(reporter, issues);
        // Begun too often: a person who is there decides.
        let tired = begun.as_ref().is_some_and(Begun::is_tired) && self.is_attended();
        let resume = begun.and_then(|begun| begun.resume).filter(|_| !self.anew && !tired).map(Box::new);
        let alone = alone && resume.is_some();
        let stick = self.medium(stamp, runner, reporter, alone).map_err(|issue| fail(vec![issue]))?;

        let online = Online::asking(Resolver::from_resolv_conf(""), None);
        let resumed = resume.is_some();
        let of_record = resume.clone();
        let prepared = prepare(live, stamp, &online, runner, reporter, resume, resumed);
        let mut machine = prepared.map_err(|error| fail(issues_of(&error)))?;
        machine.clock = stick.as_ref().map(|stick| clock_of(stick, reporter));
        let technician = self.technician.as_deref_mut().map(|technician| technician as &mut dyn Technician);
        let mut offline = Offline::new(stamp, stick, of_record.as_deref(), technician);
        offline.minted = self.minted.take();
        machine.offline = Some(offline);
        let options = Options {
            plan_only: live.cmdline.mode == Mode::Probe,
            patience: Patience::default(),
            afterwards: Patience::endless(),
        };
        let result = pipeline(&mut machine, reporter, options);
        self.minted = machine.offline.take().and_then(|offline| offline.minted);
        result.map_err(|failure| {
            let passes = failure.issues.iter().all(is_transient);
            self.anew |= resumed && !failure.disks_changed && !passes;
            failure.issues
        })
    }

    /// The medium. `None`: it is not needed, and not there.
    fn medium(
        &self,
        stamp: &Stamp,
        runner: &dyn Runner,
        reporter: &Reporter,
        alone: bool,
    ) -> Result<Option<Stick>, Issue> {
        let limit = if alone { Duration::ZERO } else { MEDIUM_WITHIN };
        let wanted = Text::StickWanted.get(reporter.language());
        let found = Stick::wait_for(&Where::Anywhere, &stamp.site_key, limit, runner, &mut |left| {
            reporter.waiting(&format!("{wanted} {left} s"));
        });
        reporter.waiting("");
        match found {
            Ok(stick) => {
                let manifest = stick.manifest();
                reporter.info(format!(
                    "the medium {} of {:.0} brings everything: no network is needed",
                    manifest.id, manifest.made
                ));
                Ok(Some(stick))
            }
            Err(issue) if alone => {
                reporter.info(format!("{issue}; what is needed lies on this computer"));
                Ok(None)
            }
            Err(issue) => Err(issue),
        }
    }

    /// What follows an attempt that failed. `None`: what follows any.
    pub fn follows(&mut self, issues: &[Issue], resumed: bool) -> Option<Follows> {
        if issues.iter().any(|issue| issue.code == LEFT) {
            return Some(Follows::Left);
        }
        if issues.iter().all(is_transient) {
            return None;
        }
        if let Some(technician) = &mut self.technician {
            // Who went back to the questions knows why.
            let declined = issues.iter().any(|issue| issue.code == DECLINED);
            return Some(match if declined { Wish::Anew } else { technician.show(issues) } {
                Wish::Anew => Follows::Asked,
                Wish::Restart => Follows::Left,
            });
        }
        (resumed && self.anew).then_some(Follows::Again)
    }

    /// Whether an installation that broke off is gone on with.
    pub fn resumes(&self) -> bool {
        !self.anew
    }
}

/// Whether a stamp is that of a medium with a manifest.
fn brings_everything(stamp: &Stamp) -> bool {
    matches!(&stamp.source, Source::Medium { attended, home, .. } if *attended || home.is_some())
}

fn is_attended(stamp: &Stamp) -> bool {
    matches!(stamp.source, Source::Medium { attended: true, .. })
}

/// Raises the clock to the time the medium was made, if it is behind that. Nobody else can be asked for the time.
fn clock_of(stick: &Stick, reporter: &Reporter) -> ClockState {
    let (before, floor) = (Timestamp::now(), stick.manifest().made);
    if before < floor
        && let Err(error) = clock::set_system_clock(floor)
    {
        reporter.warn(format!("raising the clock to {floor:.0}, when the medium was made: {error:#}"));
    }
    let mended = Mended { before, after: Timestamp::now(), by: Some(TimeSource::BuildTime), chip: None };
    ClockState { mended, floor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_planner::Plan;
    use akene_protocol::api::Consent;
    use akene_protocol::{Inventory, Resolved};
    use anyhow::Result;
    use std::cell::RefCell;
    use std::rc::Rc;

    use crate::fetch::Permission;
    use crate::run::technician::{Choice, Offer};

    struct Shown(Rc<RefCell<Vec<String>>>);
    impl Technician for Shown {
        fn choose(&mut self, _: &Offer<'_>) -> Result<Choice> {
            anyhow::bail!("not asked")
        }
        fn confirm(
            &mut self,
            _: &Plan,
            _: &Inventory,
            _: &Resolved,
            _: Consent,
        ) -> Result<Permission, Issue> {
            Err(Issue::new("not-asked", "", "", ""))
        }
        fn pulled(&mut self) {}
        fn show(&mut self, issues: &[Issue]) -> Wish {
            self.0.borrow_mut().extend(issues.iter().map(|i| i.code.clone()));
            if issues[0].code == "no-console" { Wish::Restart } else { Wish::Anew }
        }
    }

    #[test]
    fn a_person_reads_a_refusal_and_a_stick_that_is_missing_is_waited_for() {
        let shown = Rc::default();
        let mut attended =
            OnMedium { technician: Some(Box::new(Shown(Rc::clone(&shown)))), minted: None, anew: false };
        let issues = |code: &str| [Issue::new(code, "", "", "")];
        assert_eq!(attended.follows(&issues("disk-too-small"), false), Some(Follows::Asked));
        assert_eq!(attended.follows(&issues("medium-missing"), false), None);
        assert_eq!(attended.follows(&issues(LEFT), false), Some(Follows::Left));
        assert_eq!(attended.follows(&issues(DECLINED), false), Some(Follows::Asked));
        assert_eq!(attended.follows(&issues("no-console"), false), Some(Follows::Left));
        assert_eq!(*shown.borrow(), ["disk-too-small", "no-console"]);

        let mut alone = OnMedium { technician: None, minted: None, anew: true };
        assert_eq!(alone.follows(&issues("other-disks"), true), Some(Follows::Again));
        assert_eq!(alone.follows(&issues("disk-too-small"), false), None);
    }
}
