//! Which way an attempt goes, and what follows one that failed.
//!
//! What is decided here is what keeps a machine 700 km away from restarting for ever:
//!
//! - an installation that broke off, all of which lies on the disks, goes on whatever is the matter with network, clock, server
//!   or medium: only what the site itself refuses is a refusal;
//! - where no whole system is left to restart into, a refusal of the server's leads to [`super::help`];
//! - what a person permitted is not given up because a mirror is silent for a minute.

use akene_protocol::Issue;

use crate::fetch::{is_settling, is_transient, medium};

/// How often a mirror is asked again that may be in the middle of an update.
const MOST_SETTLING: u32 = 4;

/// Besides what may pass: nobody could be asked. It is no reason to wait where nobody has to be.
const UNHEARD: [&str; 6] = [
    "no-network-card",
    "clock-wrong",
    "certificate-wrong",
    "certificate-expired",
    "stamp-wrong",
    medium::NO_PROFILE,
];

/// The server was asked and does not permit the installation.
const REFUSED: [&str; 8] = [
    "failed-too-often",
    "already-installed",
    "not-allowed",
    "no-grant",
    "order-used",
    "order-expired",
    "order-cancelled",
    "order-unknown",
];

/// What lies on the disks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    /// An installation that was never completed.
    pub unfinished: bool,
    /// It was begun so often that a person has to look.
    pub tired: bool,
    /// All that is needed to go on with it.
    pub can_go_on: bool,
    /// The system that was there before, whole, and how it is started.
    pub old: bool,
}

/// Which way an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// First a person permits it.
    Help,
    /// There is none: the system that was there before is started again.
    Back,
    /// The site is asked, as long as it takes.
    Asking,
    /// The site is asked for a while.
    Either,
    /// Nobody is asked.
    Alone,
}

/// What follows an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next attempt, soon.
    Again,
    /// The next attempt, when the mirror has been updated.
    Settled,
    /// A person is asked.
    Help,
    /// A restart.
    Restart,
}

/// What became of the attempts of this start.
#[derive(Debug)]
pub(super) struct Course {
    /// GRUB started the installer because the system does not come up.
    called: bool,
    /// Whether there is a server that a person can tell to permit an attempt.
    server: bool,
    /// What the server said last, if it refused.
    pub refused: Option<Issue>,
    /// Whether a person was waited for, and permitted it.
    pub helped: bool,
    /// Nobody could be asked the last time.
    unheard: bool,
    settling: u32,
}

impl Course {
    /// At the start.
    pub fn new(called: bool, server: bool) -> Self {
        Course { called, server, refused: None, helped: false, unheard: false, settling: MOST_SETTLING }
    }

    /// Which way the next attempt goes.
    pub fn way(&self, left: Left) -> Way {
        match left {
            _ if left.old && left.unfinished && (left.tired || self.refused.is_some()) => Way::Back,
            _ if self.called || left.tired || self.refused.is_some() => Way::Help,
            _ => self.permitted_way(left),
        }
    }

    /// Which way it goes once a person has permitted it.
    pub fn permitted_way(&self, left: Left) -> Way {
        match (left.can_go_on, self.unheard) {
            (true, true) => Way::Alone,
            (true, false) => Way::Either,
            (false, _) => Way::Asking,
        }
    }

    /// A person permits it.
    pub fn permitted(&mut self) {
        (self.called, self.refused, self.helped) = (false, None, true);
    }

    /// What follows an attempt that failed so.
    pub fn failed(&mut self, left: Left, issues: &[Issue]) -> Next {
        let is_of = |codes: &[&str], issue: &Issue| codes.contains(&issue.code.as_str());
        if issues.iter().all(is_transient) {
            self.unheard = left.can_go_on && !self.unheard;
            return Next::Again;
        }
        if left.can_go_on && !self.unheard && issues.iter().all(|i| is_transient(i) || is_of(&UNHEARD, i)) {
            self.unheard = true;
            return Next::Again;
        }
        if self.settling > 0 && is_settling(issues) {
            self.settling -= 1;
            return Next::Settled;
        }
        let refused = issues.iter().find(|issue| is_of(&REFUSED, issue));
        match refused.filter(|_| self.server && (left.unfinished || self.helped)) {
            Some(issue) => {
                self.refused = Some(issue.clone());
                Next::Help
            }
            None => Next::Restart,
        }
    }
}

/// Whether a failure of the network phase ends the wait for it where the installation can go on alone.
pub(super) fn is_unheard(issue: &Issue) -> bool {
    UNHEARD.contains(&issue.code.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Left = Left { unfinished: false, tired: false, can_go_on: false, old: false };
    const HALF: Left = Left { unfinished: true, ..NOTHING };
    const ALL_HERE: Left = Left { can_go_on: true, ..HALF };

    fn issues(code: &str) -> [Issue; 1] {
        [Issue::new(code, "", "", "")]
    }

    #[test]
    fn an_attempt_goes_the_way_that_what_is_there_allows() {
        let ways = |course: &Course| {
            [NOTHING, HALF, ALL_HERE, Left { tired: true, ..ALL_HERE }].map(|left| course.way(left))
        };
        let mut course = Course::new(false, true);
        assert_eq!(ways(&course), [Way::Asking, Way::Asking, Way::Either, Way::Help]);
        assert_eq!(ways(&Course::new(true, true)), [Way::Help; 4]);
        // Where nobody answered it goes on alone, and asks the next time.
        for (failed, way) in [(1, Way::Alone), (2, Way::Either), (3, Way::Alone)] {
            assert_eq!(course.failed(ALL_HERE, &issues("server-silent")), Next::Again);
            assert_eq!(course.way(ALL_HERE), way, "{failed}");
            assert_eq!(course.way(HALF), Way::Asking);
        }
    }

    #[test]
    fn what_keeps_anybody_from_being_asked_keeps_no_installation_from_going_on() {
        for code in UNHEARD {
            let mut course = Course::new(false, true);
            assert_eq!(course.failed(ALL_HERE, &issues(code)), Next::Again, "{code}");
            assert_eq!(course.way(ALL_HERE), Way::Alone, "{code}");
            // It is no reason any more when nobody was asked, and none where somebody must be.
            assert_eq!(course.failed(ALL_HERE, &issues(code)), Next::Restart, "{code}");
            for left in [NOTHING, HALF] {
                assert_eq!(Course::new(false, true).failed(left, &issues(code)), Next::Restart, "{code}");
            }
        }
        let refused = Course::new(false, true).failed(ALL_HERE, &issues("token-refused"));
        assert_eq!(refused, Next::Restart);
    }

    #[test]
    fn what_the_server_refuses_needs_a_person_where_nothing_else_can_start() {
        for code in REFUSED {
            let mut course = Course::new(false, true);
            assert_eq!(course.failed(NOTHING, &issues(code)), Next::Restart, "{code}");
            assert_eq!(course.failed(HALF, &issues(code)), Next::Help, "{code}");
            assert_eq!((course.way(HALF), course.permitted_way(HALF)), (Way::Help, Way::Asking), "{code}");
            course.permitted();
            assert_eq!(course.way(HALF), Way::Asking, "{code}");
            // The system that is there is one that does not come up.
            assert_eq!(course.failed(NOTHING, &issues(code)), Next::Help, "{code}");
            assert_eq!(Course::new(false, false).failed(HALF, &issues(code)), Next::Restart, "{code}");
        }
    }

    #[test]
    fn an_installation_that_comes_to_no_end_gives_way_to_the_system_before_it() {
        let old = |left| Left { old: true, ..left };
        let mut course = Course::new(false, true);
        assert_eq!(course.way(old(ALL_HERE)), Way::Either);
        assert_eq!(course.way(Left { tired: true, ..old(HALF) }), Way::Back);
        assert_eq!(course.failed(old(HALF), &issues("order-used")), Next::Help);
        assert_eq!((course.way(old(HALF)), course.way(HALF)), (Way::Back, Way::Help));
        // GRUB has turned to the old system before it calls for help.
        assert_eq!(Course::new(true, true).way(old(NOTHING)), Way::Help);
    }

    #[test]
    fn a_mirror_is_not_waited_for_for_ever() {
        let mut course = Course::new(false, true);
        for _ in 0..MOST_SETTLING {
            assert_eq!(course.failed(HALF, &issues("mirror-updating")), Next::Settled);
        }
        assert_eq!(course.failed(HALF, &issues("mirror-updating")), Next::Restart);
    }
}
