//! Whether a refusal is the clock's fault.
//!
//! Signed releases and keys have dates. Where an archive is refused for one, either the archive is stale or
//! this computer's clock is wrong, and what a person must do differs. What the clock ladder
//! ([`crate::net::clock`]) found decides which of the two is named first.

use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use jiff::Timestamp;

use crate::net::clock::Mended;

/// What is known of this computer's clock.
#[derive(Clone, Debug)]
pub struct ClockState {
    /// What came of looking at it.
    pub mended: Mended,
    /// When the medium was made: no right clock is earlier.
    pub floor: Timestamp,
}

/// Refusals that hang on what time it is.
const DATED: [&str; 6] =
    ["release-expired", "release-future", "archive-key-expired", "lock-expired", "lock-old", "lock-too-old"];

/// The same error, with the clock in it where it matters. `None`: the clock is not ours to mend, and nothing is known.
pub fn with_clock(error: anyhow::Error, clock: Option<&ClockState>, now: Timestamp) -> anyhow::Error {
    match error.downcast::<Issues>() {
        Ok(issues) => Issues(issues.0.into_iter().map(|issue| judged(issue, clock, now)).collect()).into(),
        Err(error) => error,
    }
}

/// The same of one issue.
pub fn judged(issue: Issue, clock: Option<&ClockState>, now: Timestamp) -> Issue {
    let Some(clock) = clock else { return issue };
    if !DATED.contains(&issue.code.as_str()) {
        return issue;
    }
    let future = issue.code == "release-future";
    if let Some(by) = clock.mended.by.filter(|_| clock.mended.confirmed()) {
        let message = format!("{} (the clock is right, says {})", issue.message, by.describe());
        let next = match issue.code.as_str() {
            "release-expired" => "the mirror is stale: use another one",
            "release-future" => "it was signed by a computer whose clock is wrong: use another mirror",
            _ => return Issue { message, ..issue },
        };
        return Issue { message, next: next.into(), ..issue };
    }
    Issue {
        // A clock that is behind is what this always means where nobody confirms it.
        code: if future { "clock-wrong".into() } else { issue.code },
        message: format!(
            "this computer's clock may be wrong: it says {now:.0}, nobody confirms it, and the medium was made at \
             {:.0}; {}",
            clock.floor, issue.message
        ),
        next: format!(
            "set date and time in the computer's BIOS set-up, or give it a time server; then: {}",
            issue.next
        ),
        ..issue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock::Source;

    fn judged_as(code: &str, by: Option<Source>) -> Issue {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let now = at("2027-03-01T10:00:00Z");
        let mended = Mended { before: now, after: now, by, chip: None };
        let clock = ClockState { mended, floor: at("2026-11-01T00:00:00Z") };
        let error =
            Issues::from(Issue::new(code, "http://a.test", "out of date since 3d", "use another mirror"));
        let error = with_clock(error.into(), Some(&clock), now);
        error.downcast::<Issues>().unwrap().0.remove(0)
    }

    #[test]
    fn a_clock_nobody_confirms_is_named_first() {
        for by in [None, Some(Source::BuildTime)] {
            let issue = judged_as("release-expired", by);
            assert_eq!(issue.code, "release-expired");
            assert!(
                issue.message.starts_with("this computer's clock may be wrong: it says 2027-03-01T10:00:00Z")
            );
            assert!(issue.message.ends_with("out of date since 3d"), "{issue}");
            assert!(issue.next.starts_with("set date and time"), "{issue}");
            assert_eq!(judged_as("release-future", by).code, "clock-wrong");
        }
    }

    #[test]
    fn a_clock_that_is_confirmed_is_not_blamed() {
        let issue = judged_as("release-expired", Some(Source::TimeServers));
        assert_eq!(issue.message, "out of date since 3d (the clock is right, says time servers)");
        assert_eq!(issue.next, "the mirror is stale: use another one");
        assert_eq!(judged_as("release-future", Some(Source::Server)).code, "release-future");
        assert_eq!(judged_as("mirror-updating", None).message, "out of date since 3d");
    }
}
