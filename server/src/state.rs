//! What state a run is in, told from its events alone.
//!
//! Events may arrive twice, late and in any order; the state follows from those that are there, by
//! their sequence numbers. A machine counts as installed only when the installed system has said so.

use akene_protocol::event::{Event, EventKind, Phase, Unit};
use akene_protocol::{Issue, RunId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a run, or a machine, stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Known, and nothing has happened yet.
    #[default]
    Enrolled,
    /// The live system is at work.
    Installing,
    /// The installer has finished; the installed system has not spoken yet.
    Installed,
    /// The installed system runs.
    Confirmed,
    /// It ended badly.
    Failed,
}

impl Stage {
    /// The serialised form, without quotes.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Enrolled => "enrolled",
            Stage::Installing => "installing",
            Stage::Installed => "installed",
            Stage::Confirmed => "confirmed",
            Stage::Failed => "failed",
        }
    }

    /// Whether nothing more will happen in a run.
    pub fn is_end(self) -> bool {
        matches!(self, Stage::Confirmed | Stage::Failed)
    }
}

/// How far the work in hand is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Progress {
    /// Done so far.
    pub done: u64,
    /// Of how much, if known.
    pub total: Option<u64>,
    /// Counted in what.
    pub unit: Unit,
    /// The thing in hand.
    pub what: String,
}

/// The state of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunState {
    /// Where it stands.
    pub stage: Stage,
    /// The phase it is in, or ended in.
    pub phase: Option<Phase>,
    /// How far that phase is.
    pub progress: Option<Progress>,
    /// Why it failed.
    #[serde(default)]
    pub issues: Vec<Issue>,
    /// Whether any disk was changed before it failed.
    #[serde(default)]
    pub disks_changed: bool,
    /// The installed system.
    pub system: Option<String>,
    /// Its kernel.
    pub kernel: Option<String>,
    /// The machine's clock at the newest event.
    pub at: Option<Timestamp>,
}

impl RunState {
    /// The state after these events, which must be sorted by sequence number. Log lines may be left out,
    /// and all progress but the newest.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> RunState {
        let mut state = RunState::default();
        for event in events {
            state.take(event);
        }
        state
    }

    fn take(&mut self, event: &Event) {
        self.at = Some(event.at);
        let begin = |state: &mut RunState| {
            if state.stage == Stage::Enrolled {
                state.stage = Stage::Installing;
            }
        };
        match &event.kind {
            EventKind::PhaseStarted { phase } => {
                begin(self);
                self.phase = Some(*phase);
                self.progress = None;
            }
            EventKind::PhaseFinished { phase } => {
                begin(self);
                if self.phase == Some(*phase) {
                    self.progress = None;
                }
            }
            EventKind::Progress { phase, done, total, unit, what } => {
                begin(self);
                if self.phase.is_none_or(|current| *phase >= current) {
                    self.phase = Some(*phase);
                    self.progress =
                        Some(Progress { done: *done, total: *total, unit: *unit, what: what.clone() });
                }
            }
            EventKind::Log { .. } | EventKind::Planned { .. } => begin(self),
            EventKind::Failed { phase, issues, disks_changed } => {
                self.stage = Stage::Failed;
                self.phase = Some(*phase);
                self.progress = None;
                self.issues.clone_from(issues);
                self.disks_changed = *disks_changed;
            }
            EventKind::Installed => {
                // After a failure that a restart mended, the run goes on.
                self.stage = Stage::Installed;
                self.progress = None;
                self.issues.clear();
            }
            EventKind::Confirmed { system, kernel } => {
                self.stage = Stage::Confirmed;
                self.phase = Some(Phase::Confirm);
                self.progress = None;
                self.issues.clear();
                self.system = Some(system.clone());
                self.kernel = Some(kernel.clone());
            }
        }
    }

    /// Per cent of the phase in hand, where that can be told.
    pub fn percent(&self) -> Option<u64> {
        let progress = self.progress.as_ref()?;
        let total = progress.total.filter(|total| *total > 0)?;
        Some((u128::from(progress.done.min(total)) * 100 / u128::from(total)) as u64)
    }

    /// The newest state of a machine in words: "installing: Downloading 40 %".
    pub fn words(&self, run: Option<RunId>) -> String {
        let phase = self.phase.map(Phase::title).unwrap_or_default();
        match self.stage {
            Stage::Enrolled if run.is_none() => "enrolled, nothing installed yet".into(),
            Stage::Enrolled => "has asked for its profile".into(),
            Stage::Installing => match self.percent() {
                Some(percent) => format!("installing: {phase} {percent} %"),
                None => format!("installing: {phase}"),
            },
            Stage::Installed => "installed, waiting for its first start".into(),
            Stage::Confirmed => {
                format!("installed and running {}", self.system.as_deref().unwrap_or("its new system"))
            }
            Stage::Failed => {
                let why = self.issues.first().map(|i| i.message.as_str()).unwrap_or("no reason was given");
                format!("failed while {}: {why}", phase.to_lowercase())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(seq: u64, kind: EventKind) -> Event {
        Event { version: 1, run: RunId([1; 8]), seq, at: Timestamp::UNIX_EPOCH, uptime_ms: seq, kind }
    }

    fn good_run() -> Vec<Event> {
        let mut kinds = Vec::new();
        for phase in Phase::ALL {
            if phase == Phase::Confirm {
                kinds.push(EventKind::Installed);
            }
            kinds.push(EventKind::PhaseStarted { phase });
            kinds.push(EventKind::Progress {
                phase,
                done: 1,
                total: Some(2),
                unit: Unit::Steps,
                what: "x".into(),
            });
            kinds.push(EventKind::PhaseFinished { phase });
        }
        kinds.push(EventKind::Confirmed { system: "Debian 12".into(), kernel: "6.1".into() });
        kinds.into_iter().enumerate().map(|(i, kind)| event(i as u64 + 1, kind)).collect()
    }

    #[test]
    fn installed_is_not_confirmed() {
        let run = good_run();
        let stages: Vec<Stage> = (0..=run.len()).map(|n| RunState::of(&run[..n]).stage).collect();
        assert_eq!(stages[0], Stage::Enrolled);
        assert_eq!(stages[1], Stage::Installing);
        assert_eq!(stages[run.len() - 1], Stage::Installed);
        assert_eq!(stages[run.len()], Stage::Confirmed);
    }

    #[test]
    fn progress_is_that_of_the_newest_phase() {
        let progress = |phase, done| EventKind::Progress {
            phase,
            done,
            total: Some(10),
            unit: Unit::Bytes,
            what: "a".into(),
        };
        let events = [
            event(1, EventKind::PhaseStarted { phase: Phase::Stage }),
            event(2, progress(Phase::Stage, 4)),
            event(3, EventKind::PhaseStarted { phase: Phase::Commit }),
        ];
        assert_eq!(RunState::of(&events[..2]).percent(), Some(40));
        assert_eq!(RunState::of(&events[..2]).words(Some(RunId([1; 8]))), "installing: Downloading 40 %");
        assert_eq!(RunState::of(&events).percent(), None);
    }

    proptest! {
        /// Whatever subset of a run has arrived, only its last event makes it confirmed.
        #[test]
        fn confirmed_only_by_the_confirmation(mask in proptest::collection::vec(any::<bool>(), 38)) {
            let run = good_run();
            let there: Vec<Event> = run.iter().zip(mask.iter().chain(std::iter::repeat(&false)))
                .filter(|(_, keep)| **keep).map(|(e, _)| e.clone()).collect();
            let confirmed = there.iter().any(|e| matches!(e.kind, EventKind::Confirmed { .. }));
            prop_assert_eq!(RunState::of(&there).stage == Stage::Confirmed, confirmed);
        }
    }
}
