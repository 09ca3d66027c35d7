//! What the age of a signed lock means.
//!
//! Hashes do not age: a lock of last year installs what it says, wherever the files come from. But whoever can put
//! an old one in the place of a newer one, or has forgotten to make it anew, leaves machines without what was
//! mended since. The archives say of themselves until when they count (`Valid-Until`); that and the dates of their
//! releases are all that is judged here, so that nothing in a lock has to say when it was made.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::signed::{MAKE_ANEW, ProfileLock};
use super::{Lock, Release};
use crate::issue::Issue;

/// From this age on a lock is old whatever its releases say of themselves.
const OLD: SignedDuration = SignedDuration::from_hours(90 * 24);

/// What is to be done about the age of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Age {
    /// Nothing.
    Good,
    /// It is to be said, and the lock used.
    Old(Issue),
    /// The profile does not want one this old.
    TooOld(Issue),
}

impl ProfileLock {
    /// What its age means for a machine that takes the packages of `lock` from it. `days` is how old its newest
    /// release may be at most, where the profile says so.
    pub fn age(&self, lock: &Lock, now: Timestamp, days: Option<u32>) -> Age {
        let issue = |code: &str, message: String| Issue::new(code, &*self.profile, message, MAKE_ANEW);
        let date = newest(&self.releases);
        let since = date.map(|date| now.duration_since(date));
        if let Some(days) = days {
            let most = SignedDuration::from_hours(i64::from(days) * 24);
            match since {
                Some(since) if since <= most => {}
                Some(since) => {
                    let message = format!(
                        "the signed lock is {} days old; the profile wants none older than {days} (`apt.lock-days`)",
                        since.as_hours() / 24
                    );
                    return Age::TooOld(issue("lock-too-old", message));
                }
                None => {
                    let message = format!(
                        "the signed lock does not say how old it is; the profile wants none older than {days} days \
                         (`apt.lock-days`)"
                    );
                    return Age::TooOld(issue("lock-too-old", message));
                }
            }
        }
        let used: BTreeSet<usize> = lock.packages.iter().filter_map(|p| p.release).collect();
        let used = used.into_iter().filter_map(|at| lock.releases.get(at));
        let passed: Vec<(&str, Timestamp)> = used
            .filter_map(|release| Some((release.suite.as_str(), release.valid_until?)))
            .filter(|(_, until)| *until < now)
            .collect();
        if let Some(first) = passed.iter().map(|(_, until)| *until).min() {
            let suites: BTreeSet<&str> = passed.iter().map(|(suite, _)| *suite).collect();
            let suites = suites.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!(
                "the signed lock is of releases that count no more ({suites}: since {first:.0}); what was mended since \
                 is missing in it"
            );
            return Age::Old(issue("lock-expired", message));
        }
        match since {
            Some(since) if since > OLD => {
                let days = since.as_hours() / 24;
                let message =
                    format!("the signed lock is {days} days old; what was mended since is missing in it");
                Age::Old(issue("lock-old", message))
            }
            _ => Age::Good,
        }
    }

    /// Why it is a step back behind the lock a machine was installed from; nothing if it is none. Only releases both
    /// have are compared, and only locks of one profile: others were made at other times for good reasons.
    pub fn behind(&self, former: &ProfileLock) -> Option<Issue> {
        if self.profile != former.profile {
            return None;
        }
        let both = |release: &&Release, other: &ProfileLock| {
            other.releases.iter().any(|o| (&o.repository, &o.suite) == (&release.repository, &release.suite))
        };
        let ours = newest(self.releases.iter().filter(|r| both(r, former)))?;
        let theirs = newest(former.releases.iter().filter(|r| both(r, self)))?;
        let message = format!(
            "the signed lock is of {ours:.0}, older than the one this computer was installed from ({theirs:.0}): somebody \
             gives an old one out, or it was put back"
        );
        let next = "find out why the old one is given out, and make it anew with `akene-server lock`; if it was put \
                    back on purpose, say so in the profile: `apt.lock-older = true`";
        (ours < theirs).then(|| Issue::new("lock-downgrade", &*self.profile, message, next))
    }

    /// Refuses the lock of another site, where it is known whose the machine is.
    ///
    /// # Errors
    /// `lock-of-another-site`.
    pub fn of_site(&self, site: &str) -> Result<(), Issue> {
        if site.is_empty() || self.site == site {
            return Ok(());
        }
        let message =
            format!("the signed lock is of the site {}, this computer belongs to {site}", self.site);
        Err(Issue::new("lock-of-another-site", &*self.profile, message, MAKE_ANEW))
    }
}

/// When the newest of these releases was made.
fn newest<'r>(releases: impl IntoIterator<Item = &'r Release>) -> Option<Timestamp> {
    releases.into_iter().filter_map(|release| release.date).max()
}
