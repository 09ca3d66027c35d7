//! A machine that cannot help itself any more: reachable, and doing nothing to its disks until a person permits it.
//!
//! It ends here when an installation was begun [`MOST_ATTEMPTS`] times and never completed, or when GRUB starts it with
//! `akene.mode=help`, because a new system did not confirm that it runs. What is wrong is on the screen, with the code to read
//! over the phone, and at the server. The server is asked every few minutes whether a person permits another attempt; then it
//! goes on with the same run. Where the site has no server, nobody can be asked: then there is another attempt after a
//! while, by the standing permission of the stamp, slowly enough to wear nothing out.

use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner};
use akene_protocol::Issue;
use akene_protocol::event::Phase;
use akene_protocol::stamp::{Source, Stamp};
use anyhow::{Context, Result};

use super::left;
use super::live::{connect, wait, web};
use super::resume::{Begun, MOST_ATTEMPTS};
use super::stage::Visit;
use crate::boot::LiveSystem;
use crate::fetch::{EventRoute, Server, Site, known};
use crate::journal::{Journal, What};
use crate::probe::{self, ProbeRoot};
use crate::report::Reporter;
use crate::report::words::Text;

/// How often a person's permission is asked for.
const ASKED_EVERY: Duration = Duration::from_secs(3 * 60);

/// Where there is nobody to ask: until the next attempt.
const UNASKED: Duration = Duration::from_secs(60 * 60);

/// Stays until a person permits another attempt. The disks are not touched; only the journal says in the end that a
/// person looked.
pub fn until_permitted(
    live: &LiveSystem,
    runner: &dyn Runner,
    reporter: &Reporter,
    begun: Option<&Begun>,
    started: Instant,
) {
    reporter.phase(Phase::Network);
    reporter.called_by_run();
    let why = reason(begun);
    reporter.warn(why.to_string());
    reporter.trouble(Some(why));
    match &live.stamp {
        Ok(stamp) if matches!(stamp.source, Source::Server { .. }) => {
            while let Err(error) = ask(live, stamp, runner, reporter, begun, started) {
                reporter.debug(format!("asking for help: {error:#}"));
                reporter.trouble(Some(reason(begun)));
                wait(reporter, ASKED_EVERY, Text::AsksAgain);
            }
        }
        _ => wait(reporter, UNASKED, Text::NextAttempt),
    }
    reporter.trouble(None);
    if let Some(begun) = begun
        && let Err(error) = note(begun, runner, reporter)
    {
        reporter.warn(format!("the journal does not say that another attempt was permitted: {error:#}"));
    }
}

/// Why a machine needs help.
fn reason(begun: Option<&Begun>) -> Issue {
    match begun {
        Some(begun) if begun.attempts >= MOST_ATTEMPTS => Issue::new(
            "failed-too-often",
            "",
            format!(
                "the installation of this computer was begun {} times and never came to its end",
                begun.attempts
            ),
            "call your administrator, who sees why and can permit another attempt: `akene-server allow`",
        ),
        _ => Issue::new(
            "needs-help",
            "",
            "the system on this computer does not start, or does not say that it runs",
            "call your administrator, who can permit another installation: `akene-server allow`",
        ),
    }
}

/// Asks until it is permitted.
fn ask(
    live: &LiveSystem,
    stamp: &Stamp,
    runner: &dyn Runner,
    reporter: &Reporter,
    begun: Option<&Begun>,
    started: Instant,
) -> Result<()> {
    let Source::Server { url, .. } = &stamp.source else { return Ok(()) };
    // Our address is ours as long as this is kept.
    let online = connect(live, runner, reporter, started, None)?.context("waiting for the network")?;
    let http = web(stamp, &online)?;
    let inventory = probe::inventory(runner, &ProbeRoot::default());
    let site = Site { stamp, http: &*http };
    let identity = site.identify(known::identity(&inventory, reporter), &inventory, reporter)?;
    if let Some(courier) = reporter.courier() {
        courier.route(EventRoute { http: http.clone(), url: url.clone(), identity: identity.clone() });
    }
    let server = Server::new(&*http, url);
    left::send(&inventory, &identity, &server, reporter);
    let attempts = begun.map_or(MOST_ATTEMPTS, |b| b.attempts.max(MOST_ATTEMPTS));
    loop {
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        match server.may_try_again(&identity, reporter.run(), &inventory, attempts) {
            Ok(None) => {
                reporter.info("a person permits another attempt");
                return Ok(());
            }
            Ok(Some(refusal)) => reporter.debug(format!("not yet: {refusal}")),
            Err(error) => return Err(error.into()),
        }
        reporter.drain(Duration::from_secs(5));
        wait(reporter, ASKED_EVERY, Text::AsksAgain);
        // Whoever is here must see it, and not only what it waits for.
        reporter.trouble(Some(reason(begun)));
    }
}

/// Attempts count from here. The partition is that of our own half installation.
fn note(begun: &Begun, runner: &dyn Runner, reporter: &Reporter) -> Result<()> {
    if !left::is_clean(&begun.device)? {
        // Its outcome is seen by the mount.
        let check = Cmd::new("e2fsck").arg("-p").arg(&begun.device).timeout(Duration::from_secs(600));
        if let Err(error) = runner.run(&check) {
            reporter.debug(format!("{}: {error:#}", begun.device.display()));
        }
    }
    let visit = Visit::new(&begun.device, true)?;
    let mut journal = Journal::new(reporter.run());
    let noted = journal.open(visit.top()).and_then(|()| journal.record(What::Permitted));
    journal.close();
    visit.end()?;
    noted
}
