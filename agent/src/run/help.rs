//! A machine that cannot help itself any more: reachable, and doing nothing to its disks until a person permits it.
//!
//! It ends here when an installation was begun [`MOST_ATTEMPTS`] times and never completed, when one
//! is unfinished and the server refuses to go on with it, or when GRUB starts it with
//! `akene.mode=help`, because a new system did not confirm that it runs. What is wrong is on the screen, with the code to read
//! over the phone, and at the server. Where the profile lets administrators in, an SSH server does
//! so here, too ([`super::door`]). The server is asked every few minutes whether a person permits another attempt; then it
//! goes on with the same run. Where the site has no server, nobody can be asked: then an unfinished installation is tried again
//! after a while, by the standing permission of the stamp, each time after twice as long, slowly enough to wear nothing
//! out; a system that is complete is only started again, since no person said that it may go.

use std::path::Path;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner};
use akene_protocol::event::Phase;
use akene_protocol::stamp::{Source, Stamp};
use akene_protocol::{Inventory, Issue};
use anyhow::Result;

use super::door::{self, Door};
use super::left;
use super::live::{connect, wait, web};
use super::resume::{Begun, MOST_ATTEMPTS};
use super::stage::Visit;
use crate::boot::{self, LiveSystem};
use crate::fetch::{EventRoute, Server, Site, known};
use crate::journal::{Journal, What};
use crate::net::Online;
use crate::probe::{self, ProbeRoot};
use crate::report::Reporter;
use crate::report::words::Text;

/// How often a person's permission is asked for.
const ASKED_EVERY: Duration = Duration::from_secs(3 * 60);

/// How long the network is waited for where it only lets administrators in.
const NETWORK: Duration = Duration::from_secs(150);

/// Where there is nobody to ask: until the next attempt, and at most.
const UNASKED: Duration = Duration::from_secs(60 * 60);
const MOST_UNASKED: Duration = Duration::from_secs(24 * 60 * 60);

/// Stays until a person permits another attempt. The disks are not touched; only the journal says in the end that a
/// person looked. `refused` is what the server said of the last.
pub fn until_permitted(
    live: &LiveSystem,
    runner: &dyn Runner,
    reporter: &Reporter,
    begun: Option<&Begun>,
    refused: Option<&Issue>,
) {
    reporter.phase(Phase::Network);
    reporter.called_by_run();
    let mut waits = Waits { why: reason(begun, refused), door: None };
    reporter.warn(waits.why.to_string());
    reporter.trouble(Some(waits.why.clone()));
    match &live.stamp {
        Ok(stamp) if matches!(stamp.source, Source::Server { .. }) => {
            while let Err(error) = ask(live, stamp, runner, reporter, begun, &mut waits) {
                reporter.debug(format!("asking for help: {error:#}"));
                reporter.trouble(Some(waits.why.clone()));
                wait(reporter, ASKED_EVERY, Text::AsksAgain);
            }
        }
        stamp => {
            // The network is there as long as this is kept.
            let online = connect(live, runner, reporter, None, Some(NETWORK)).ok().flatten();
            if let (Ok(stamp), Some(online)) = (stamp, &online) {
                let inventory = probe::inventory(runner, &ProbeRoot::default());
                waits.let_in(stamp, &inventory, online, runner, reporter);
            }
            reporter.trouble(Some(waits.why.clone()));
            match unasked(begun) {
                Some(pause) => wait(reporter, pause, Text::NextAttempt),
                None => {
                    wait(reporter, UNASKED, Text::RestartsUnchanged);
                    boot::restart();
                }
            }
        }
    }
    // Nobody else's hands are on the disks from here on.
    if let Some(Err(error)) = waits.door.take().map(Door::close) {
        reporter.warn(format!("something stays of somebody who logged in: {error:#}"));
    }
    reporter.trouble(None);
    for device in begun.iter().flat_map(|begun| &begun.devices) {
        if let Err(error) = note(device, runner, reporter) {
            reporter.warn(format!("the journal does not say that another attempt was permitted: {error:#}"));
        }
    }
}

/// A machine that waits for a person.
struct Waits {
    /// What for, for whoever stands before it.
    why: Issue,
    /// Where an administrator gets in.
    door: Option<Door>,
}

impl Waits {
    /// Lets administrators in where the machine's profile does, once.
    fn let_in(
        &mut self,
        stamp: &Stamp,
        inventory: &Inventory,
        online: &Online,
        runner: &dyn Runner,
        reporter: &Reporter,
    ) {
        if self.door.is_some() {
            return;
        }
        let Some(wanted) = door::wanted(inventory, &stamp.site_key, reporter) else { return };
        match door::open(&wanted, online, runner, reporter) {
            Ok((door, at)) => {
                self.why.message += &format!("; administrators can log in: {at}");
                reporter.trouble(Some(self.why.clone()));
                self.door = Some(door);
            }
            Err(error) => reporter.warn(format!("nobody can log in from outside: {error:#}")),
        }
    }
}

/// How long an unfinished installation waits where nobody can be asked. `None`: none is unfinished.
fn unasked(begun: Option<&Begun>) -> Option<Duration> {
    let doublings = u32::try_from(begun?.permitted).unwrap_or(u32::MAX);
    Some(UNASKED.saturating_mul(2u32.saturating_pow(doublings)).min(MOST_UNASKED))
}

/// Why a machine needs help.
pub(super) fn reason(begun: Option<&Begun>, refused: Option<&Issue>) -> Issue {
    match (begun, refused) {
        (_, Some(refused)) => refused.clone(),
        (Some(begun), None) if begun.is_tired() => Issue::new(
            "failed-too-often",
            "",
            match begun.permitted {
                0 => format!(
                    "the installation of this computer was begun {} times and never came to its end",
                    begun.attempts
                ),
                _ => "the installation of this computer did not come to its end, when it was permitted again either"
                    .to_owned(),
            },
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
    waits: &mut Waits,
) -> Result<()> {
    let Source::Server { url, token, .. } = &stamp.source else { return Ok(()) };
    // Where a machine was installed with no network there may never be one.
    let limit = (token.is_none() && begun.is_none()).then_some(UNASKED);
    let since = Instant::now();
    // Our address is ours as long as this is kept.
    let Some(online) = connect(live, runner, reporter, None, limit)? else {
        let pause = UNASKED.saturating_sub(since.elapsed()).max(NETWORK);
        wait(reporter, pause, Text::RestartsUnchanged);
        boot::restart();
    };
    let http = web(stamp, &online)?;
    let inventory = probe::inventory(runner, &ProbeRoot::default());
    waits.let_in(stamp, &inventory, &online, runner, reporter);
    let site = Site { stamp, http: &*http };
    let identity = site.identify(known::identity(&inventory, reporter), &inventory, reporter)?;
    if let Some(courier) = reporter.courier() {
        courier.route(EventRoute { http: http.clone(), url: url.clone(), identity: identity.clone() });
    }
    let server = Server::new(&*http, url);
    left::send(&inventory, &identity, &server, reporter);
    let attempts = u32::try_from(begun.map_or(MOST_ATTEMPTS, |b| b.attempts)).unwrap_or(u32::MAX);
    // What the run is told now counts for all of it. An order has a profile, a lock and more of its own.
    let order = known::order(&inventory, identity.machine, &stamp.site_key, reporter);
    let begun_with =
        begun.and_then(|b| b.resume.as_ref()?.profile(&stamp.site_key)).filter(|_| order.is_some());
    let wanted = begun_with.or_else(|| live.cmdline.profile.clone()).or_else(|| stamp.profile.clone());
    loop {
        let profile = wanted.as_deref();
        match server.may_try_again(&identity, reporter.run(), &inventory, profile, order, attempts) {
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
        reporter.trouble(Some(waits.why.clone()));
    }
}

/// Attempts count from here. The partition is that of our own half installation.
fn note(device: &Path, runner: &dyn Runner, reporter: &Reporter) -> Result<()> {
    if !left::is_clean(device)? {
        // Its outcome is seen by the mount.
        let check = Cmd::new("e2fsck").arg("-p").arg(device).timeout(Duration::from_secs(600));
        if let Err(error) = runner.run(&check) {
            reporter.debug(format!("{}: {error:#}", device.display()));
        }
    }
    let visit = Visit::new(device, true)?;
    let mut journal = Journal::new(reporter.run());
    let noted = journal.open(visit.top()).and_then(|()| journal.record(What::Permitted));
    journal.close();
    visit.end()?;
    noted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_can_be_asked_only_what_is_unfinished_is_tried_again_and_ever_more_rarely() {
        let begun = |permitted| Begun { devices: vec![], attempts: 1, permitted, resume: None };
        let hours = |begun: &Begun| unasked(Some(begun)).map(|pause| pause.as_secs() / 3600);
        assert_eq!([0, 1, 2, 4, 5, 99].map(|n| hours(&begun(n))), [1, 2, 4, 16, 24, 24].map(Some));
        assert_eq!(unasked(None), None);
        let code = |begun: &Begun, refused| reason(Some(begun), refused).code;
        assert_eq!(code(&begun(0), None), "needs-help");
        assert_eq!(code(&begun(1), None), "failed-too-often");
        assert_eq!(code(&begun(1), Some(&Issue::new("order-used", "", "", ""))), "order-used");
    }
}
