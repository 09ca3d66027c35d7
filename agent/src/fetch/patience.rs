//! Trying again what may pass.

use std::time::{Duration, Instant};

use akene_protocol::{Issue, Language};
use anyhow::Result;

use super::medium::stick;
use crate::report::Reporter;
use crate::report::courier::jitter;
use crate::report::words::Text;

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// Pause after the first failure; it doubles.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// So long nothing counts as an attempt while the medium is pulled out: it is waited for, and nothing is asked anew.
    pub pulled: Duration,
}

/// How long a medium that was pulled out too early is waited for where the machine may have something to go back to.
const PULLED: Duration = Duration::from_secs(30 * 60);

impl Patience {
    /// As long as it takes: a machine that has no system any more has nothing better to do.
    pub fn endless() -> Self {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        Patience { attempts: u32::MAX, first, longest, pulled: Duration::MAX }
    }
}

impl Default for Patience {
    fn default() -> Self {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(15));
        Patience { attempts: 6, first, longest, pulled: PULLED }
    }
}

/// Codes of issues that may pass without anybody doing anything at the site: a server that restarts, a
/// line that comes back, a stick that is put back. A certificate, a token or a signature does not mend itself while we wait.
const TRANSIENT: [&str; 11] = [
    "no-cable",
    "no-address",
    "portal",
    "name-not-found",
    "server-silent",
    "server-busy",
    "server-error",
    "archive-unreachable",
    "package-unreachable",
    stick::MISSING,
    stick::PULLED,
];

/// Of these, what whoever stands at the machine can mend: it is shown as long as it lasts.
const ON_SITE: [&str; 3] = ["portal", stick::MISSING, stick::PULLED];

/// Whether trying again may help.
pub fn is_transient(issue: &Issue) -> bool {
    TRANSIENT.contains(&issue.code.as_str())
}

/// Codes of issues that heal within minutes where a mirror is just being updated, its index newer than its
/// packages or the other way round, and never where it is damaged or lies. They are tried again a few times.
const SETTLING: [&str; 2] = ["mirror-updating", "package-hash"];

/// How often in a row what may be a mirror in the middle of an update is asked again by one run.
const SETTLING_ATTEMPTS: u32 = 3;

/// Whether these issues may be those of a mirror in the middle of an update, besides what may pass anyway.
pub fn is_settling(issues: &[Issue]) -> bool {
    let settles = |issue: &Issue| SETTLING.contains(&issue.code.as_str());
    issues.iter().any(settles) && issues.iter().all(|issue| settles(issue) || is_transient(issue))
}

/// Does `attempt` until it works, fails for good, or patience ends. `what` is for the screen: `asking the
/// server`.
pub fn patiently<T>(
    patience: Patience,
    reporter: &Reporter,
    what: &str,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut pause = patience.first;
    let mut left = patience.attempts;
    let mut settling = SETTLING_ATTEMPTS;
    let mut troubled = false;
    let mut pulled_since: Option<Instant> = None;
    loop {
        let error = match attempt() {
            Ok(done) => {
                if troubled {
                    reporter.trouble(None);
                }
                return Ok(done);
            }
            Err(error) => error,
        };
        let issues = crate::run::issues_of(&error);
        pulled_since = match issues.iter().all(|issue| issue.code == stick::PULLED) {
            true => pulled_since.or_else(|| Some(Instant::now())),
            false => None,
        };
        let put_back_in_time = pulled_since.is_some_and(|since| since.elapsed() < patience.pulled);
        if left != u32::MAX && !put_back_in_time {
            left = left.saturating_sub(1);
        }
        // In a row: what passes in between may take as long as it likes.
        settling = if is_settling(&issues) { settling - 1 } else { SETTLING_ATTEMPTS };
        let may_pass = issues.iter().all(is_transient) || is_settling(&issues);
        if left == 0 || settling == 0 || !may_pass {
            return Err(error);
        }
        reporter.debug(format!("{what}: {error:#}"));
        let trouble = issues.iter().find(|issue| ON_SITE.contains(&issue.code.as_str())).cloned();
        if let Some(issue) = trouble.as_ref().filter(|_| !troubled) {
            // The server may well be reached meanwhile, and its administrator know better.
            reporter.warn(issue.to_string());
        }
        if trouble.is_some() || troubled {
            troubled = trouble.is_some();
            reporter.trouble(trouble);
        }
        let left = if is_settling(&issues) { left.min(settling) } else { left };
        let again = Text::TryingAgain.get(reporter.language());
        reporter.waiting(&match reporter.language() {
            _ if patience.attempts == u32::MAX || put_back_in_time => again.to_owned(),
            Language::En => format!("{what}: {again} ({left} attempts left)"),
            _ => format!("{again} ({left})"),
        });
        std::thread::sleep(jitter(pause));
        reporter.waiting("");
        pause = (pause * 2).min(patience.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_protocol::RunId;
    use akene_protocol::issue::Issues;

    fn at_once() -> Patience {
        Patience { first: Duration::ZERO, longest: Duration::ZERO, ..Patience::default() }
    }

    fn attempts(codes: &[&str]) -> u32 {
        let reporter = Reporter::new(RunId([1; 8]), 1);
        let patience = Patience { pulled: Duration::ZERO, ..at_once() };
        let mut count = 0;
        let result: Result<()> = patiently(patience, &reporter, "trying", || {
            count += 1;
            Err(Issues(codes.iter().map(|c| Issue::new(c, "", "no", "")).collect()).into())
        });
        assert!(result.is_err());
        count
    }

    #[test]
    fn a_medium_that_was_pulled_out_costs_no_attempt_until_its_time_is_over() {
        assert_eq!(attempts(&["medium-pulled"]), 6);
        let reporter = Reporter::new(RunId([1; 8]), 1);
        let tries = |codes: &[&[&str]], patience| {
            let mut left = codes.iter();
            patiently(patience, &reporter, "trying", || match left.next() {
                Some(codes) => {
                    Err(Issues(codes.iter().map(|c| Issue::new(c, "", "no", "")).collect()).into())
                }
                None => Ok(()),
            })
        };
        let pulled: &[&str] = &["medium-pulled"];
        let both: &[&str] = &["medium-pulled", "medium-missing"];
        tries(&[pulled; 40], at_once()).unwrap();
        // Nor does it give attempts back, and with anything else beside it, it is no more than that.
        let silent: &[&str] = &["server-silent"];
        let mixed = [&[silent; 5][..], &[pulled; 40]].concat();
        tries(&mixed, at_once()).unwrap();
        assert!(tries(&[mixed, vec![silent]].concat(), at_once()).is_err());
        assert!(tries(&[both; 6], at_once()).is_err());
    }

    /// Notes each time whether something is shown.
    struct Shown(std::sync::mpsc::Sender<Option<String>>);
    impl crate::report::Listener for Shown {
        fn message(&mut self, message: &crate::report::Message) -> Result<()> {
            if let crate::report::Message::Trouble(issue) = message {
                self.0.send(issue.as_ref().map(|issue| issue.code.clone()))?;
            }
            Ok(())
        }
    }

    #[test]
    fn a_portal_is_waited_for_as_long_as_a_network_that_is_away_and_shown_while_it_lasts() {
        assert_eq!(attempts(&["portal", "package-unreachable"]), 6);
        let reporter = Reporter::new(RunId([1; 8]), 1);
        let (sender, shown) = std::sync::mpsc::channel();
        reporter.listen("shown", Shown(sender)).unwrap();
        let mut count = 0;
        let endless = Patience { first: Duration::ZERO, longest: Duration::ZERO, ..Patience::endless() };
        patiently(endless, &reporter, "downloading", || {
            count += 1;
            let code = if count < 40 { "portal" } else { "package-unreachable" };
            if count > 41 { Ok(()) } else { Err(Issue::new(code, "", "no", "").into()) }
        })
        .unwrap();
        drop(reporter);
        let shown: Vec<_> = shown.iter().collect();
        assert_eq!(shown.iter().filter(|shown| shown.as_deref() == Some("portal")).count(), 39);
        assert_eq!(shown.last(), Some(&None), "what is over is still shown");
    }

    #[test]
    fn a_mirror_that_changes_once_in_between_ends_no_patience() {
        let reporter = Reporter::new(RunId([1; 8]), 1);
        let endless = Patience { first: Duration::ZERO, longest: Duration::ZERO, ..Patience::endless() };
        let mut codes =
            [&["mirror-updating"; 2][..], &["portal"; 20], &["mirror-updating"; 2]].concat().into_iter();
        patiently(endless, &reporter, "downloading", || match codes.next() {
            Some(code) => Err(Issue::new(code, "", "no", "").into()),
            None => Ok(()),
        })
        .unwrap();
    }

    #[test]
    fn what_may_pass_is_tried_again_and_a_refusal_is_not() {
        assert_eq!(attempts(&["server-silent"]), 6);
        assert_eq!(attempts(&["token-refused"]), 1);
        // A mirror in the middle of an update, bounded; with anything final beside it, not at all.
        assert_eq!(attempts(&["package-hash"]), SETTLING_ATTEMPTS);
        assert_eq!(attempts(&["mirror-updating", "archive-unreachable"]), SETTLING_ATTEMPTS);
        assert_eq!(attempts(&["mirror-updating", "archive-signature"]), 1);
        assert!(!is_settling(&[Issue::new("server-silent", "", "", "")]));
        assert!(!is_settling(&[]));
    }
}
