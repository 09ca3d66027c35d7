//! Trying again what may pass.

use std::time::Duration;

use akene_protocol::Issue;
use anyhow::Result;

use crate::report::Reporter;
use crate::report::courier::jitter;

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// Pause after the first failure; it doubles.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { attempts: 6, first: Duration::from_secs(1), longest: Duration::from_secs(15) }
    }
}

/// Codes of issues that may pass without anybody doing anything at the site: a server that restarts, a
/// line that comes back. A certificate, a token or a signature does not mend itself while we wait.
const TRANSIENT: [&str; 9] = [
    "no-cable",
    "no-address",
    "portal",
    "name-not-found",
    "server-silent",
    "server-busy",
    "server-error",
    "archive-unreachable",
    "package-unreachable",
];

/// Whether trying again may help.
pub fn is_transient(issue: &Issue) -> bool {
    TRANSIENT.contains(&issue.code.as_str())
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
    loop {
        let error = match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        left = left.saturating_sub(1);
        let may_pass = crate::run::issues_of(&error).iter().all(is_transient);
        if left == 0 || !may_pass {
            return Err(error);
        }
        reporter.debug(format!("{what}: {error:#}"));
        reporter.waiting(&format!("{what}: no success yet, trying again ({left} attempts left)"));
        std::thread::sleep(jitter(pause));
        reporter.waiting("");
        pause = (pause * 2).min(patience.longest);
    }
}
