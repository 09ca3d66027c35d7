//! The service on the installed system.
//!
//! The installation is over only when the system it made has started and said so. [`run`] finds who and
//! whose it is in `/etc/akene`, sends what the installer could not deliver, and then
//! [`Confirmed`](akene_protocol::EventKind::Confirmed) with the next number of the same run. The network
//! may come hours later, or with another technician's stick: it tries for ever, with growing pauses.
//! Doing it twice does no harm, the server knows events by their numbers.
//!
//! Afterwards it stays and costs nothing: it sleeps.
//!
//! Everything is below a root directory that a test can choose.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_protocol::api::{Identity, MAX_EVENTS};
use akene_protocol::event::{Event, EventKind, Phase, RunId, VERSION};
use akene_protocol::stamp::{Source, Stamp, Tls};
use akene_protocol::{Issue, PublicKey};
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fetch::http::{Http, Web};
use crate::fetch::{Server, is_transient};
use crate::net::resolver::Resolver;
use crate::report::courier::jitter;
use crate::report::spool::Spool;
use crate::run::boot_files;
use crate::sys::clock;

/// Settings of the resident agent, below the root.
pub const CONFIG: &str = "etc/akene/agent.json";

/// Who this machine is, below the root.
pub const IDENTITY: &str = "etc/akene/identity.json";

/// Run that was confirmed last, below the root.
const CONFIRMED: &str = "var/lib/akene/confirmed";

/// First pause after a failure that may pass.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Longest pause after failures that may pass.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Longest pause after refusals: somebody has to do something about it. The first ones may pass all the same:
/// with a dead battery every certificate is wrong until the clock is set, a minute after the start.
const REFUSED_PAUSE: Duration = Duration::from_secs(3600);

/// What the resident agent is told. It holds no secret: the enrolment token stays behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Name of the site.
    pub site: String,
    /// The key all documents of the site are signed with.
    pub site_key: Option<PublicKey>,
    /// The server; none where the profile came from a static host or a medium.
    #[serde(default)]
    pub server: Option<ServerAddress>,
    /// Proxy for HTTP and HTTPS.
    #[serde(default)]
    pub proxy: Option<String>,
    /// The run that installed this system.
    pub run: RunId,
}

/// A server and how its certificate is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServerAddress {
    /// `https://HOST[:PORT]`.
    pub url: String,
    /// How its certificate is judged.
    pub tls: Tls,
}

impl Config {
    /// What a machine installed with this stamp is told. `proxy` is that of the profile.
    pub fn from_stamp(stamp: &Stamp, proxy: Option<&str>, run: RunId) -> Config {
        let server = match &stamp.source {
            Source::Server { url, tls, .. } => Some(ServerAddress { url: url.clone(), tls: tls.clone() }),
            Source::Static { .. } | Source::Medium { .. } => None,
        };
        let proxy = proxy.or(stamp.proxy.as_deref()).map(str::to_owned);
        Config { site: stamp.site.clone(), site_key: Some(stamp.site_key), server, proxy, run }
    }
}

/// What the resident agent finds on its system.
#[derive(Debug)]
pub struct Resident {
    root: PathBuf,
    config: Config,
    identity: Identity,
}

impl Resident {
    /// Reads `/etc/akene` below `root`.
    pub fn open(root: &Path) -> Result<Resident> {
        let read = |name: &str| {
            let path = root.join(name);
            fs::read(&path).with_context(|| format!("reading {}", path.display()))
        };
        let config = serde_json::from_slice(&read(CONFIG)?).with_context(|| format!("reading {CONFIG}"))?;
        let identity =
            serde_json::from_slice(&read(IDENTITY)?).with_context(|| format!("reading {IDENTITY}"))?;
        Ok(Resident { root: root.to_owned(), config, identity })
    }

    /// Tells the server everything it does not know yet. True: there was a server to tell.
    ///
    /// # Errors
    /// An [`Issue`] when it could not be told; trying again is always allowed.
    pub fn confirm(&self) -> Result<bool> {
        let Some(server) = &self.config.server else { return Ok(false) };
        if self.confirmed_run() == Some(self.config.run) && self.spooled()?.is_empty() {
            return Ok(true);
        }
        let resolver = Resolver::from_resolv_conf(
            &fs::read_to_string(self.root.join("etc/resolv.conf")).unwrap_or_default(),
        );
        let confirmed = self.clock_is_confirmed(Timestamp::now(), clock::is_synchronised());
        let web = Web::new(&server.tls, self.config.proxy.as_deref(), &resolver, confirmed)?;
        self.tell(&web, &server.url)?;
        Ok(true)
    }

    /// Whether the clock may be trusted where a certificate is refused for its date. It is wrong for sure before
    /// this system was installed, and may be where no time server has set it since the start.
    fn clock_is_confirmed(&self, now: Timestamp, synchronised: bool) -> bool {
        let installed = fs::metadata(self.root.join(CONFIG)).and_then(|m| m.modified()).ok();
        let installed = installed.and_then(|time| Timestamp::try_from(time).ok());
        synchronised && installed.is_none_or(|installed| now >= installed)
    }

    fn tell(&self, http: &dyn Http, url: &str) -> Result<()> {
        let server = Server::new(http, url);
        for run in self.spooled()? {
            // Of another run only what is left is sent: an installation that failed before this one.
            let mut spool = Spool::open(&self.spool_dir(), run)?;
            if run == self.config.run && self.confirmed_run() != Some(run) {
                self.add_confirmation(&mut spool)?;
            }
            if let Err(error) = deliver(&server, &self.identity, &mut spool) {
                let refused = error.downcast_ref::<Issue>().is_some_and(|issue| !is_transient(issue));
                if run == self.config.run || !refused {
                    return Err(error);
                }
                // The disk was another machine's, or the server forgot it. That must not keep this run, which
                // may be welcome, from being told; what was refused stays for whoever comes by.
                eprintln!("the server does not take what is left of the run {run}: {error:#}");
                continue;
            }
            if run == self.config.run {
                self.remember(run)?;
            }
            spool.remove()?;
        }
        if self.confirmed_run() != Some(self.config.run) {
            // The spool of the installation is gone (another boot partition): the run still ends.
            let mut spool = Spool::open(&self.spool_dir(), self.config.run)?;
            self.add_confirmation(&mut spool)?;
            deliver(&server, &self.identity, &mut spool)?;
            self.remember(self.config.run)?;
            spool.remove()?;
        }
        Ok(())
    }

    /// Spools the confirmation, once per run whatever happens between spooling and delivering.
    fn add_confirmation(&self, spool: &mut Spool) -> Result<()> {
        if spool.holds(|e| matches!(e.kind, EventKind::Confirmed { .. }))? {
            return Ok(());
        }
        let (system, kernel) = (self.system(), kernel_release());
        let kinds =
            [EventKind::PhaseStarted { phase: Phase::Confirm }, EventKind::Confirmed { system, kernel }];
        let first = spool.last() + 1;
        let events: Vec<Event> = (first..)
            .zip(kinds)
            .map(|(seq, kind)| Event {
                version: VERSION,
                run: self.config.run,
                seq,
                at: Timestamp::now(),
                uptime_ms: crate::report::uptime_ms(),
                kind,
            })
            .collect();
        spool.append(&events)
    }

    fn system(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.root.join(name)).ok();
        let text = read("etc/os-release").or_else(|| read("usr/lib/os-release")).unwrap_or_default();
        let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
        name.map_or("an unnamed system", |n| n.trim_matches('"')).to_owned()
    }

    fn spool_dir(&self) -> PathBuf {
        self.root.join("boot").join(boot_files::EVENTS)
    }

    fn spooled(&self) -> Result<Vec<RunId>> {
        Spool::runs(&self.spool_dir())
    }

    fn confirmed_run(&self) -> Option<RunId> {
        fs::read_to_string(self.root.join(CONFIRMED)).ok()?.trim().parse().ok()
    }

    fn remember(&self, run: RunId) -> Result<()> {
        let path = self.root.join(CONFIRMED);
        let dir = path.parent().context("finding the directory of the confirmation")?;
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let new = path.with_extension("new");
        fs::write(&new, format!("{run}\n")).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("replacing {}", path.display()))
    }
}

fn deliver(server: &Server<'_>, identity: &Identity, spool: &mut Spool) -> Result<()> {
    let pending = spool.pending()?;
    for batch in pending.chunks(MAX_EVENTS) {
        server.events(identity, batch)?;
        if let Some(last) = batch.last() {
            spool.acked(last.seq)?;
        }
    }
    Ok(())
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// How long to wait the next time, after a failure that may pass or a refusal.
fn next_pause(pause: Duration, passing: bool) -> Duration {
    (pause * 2).min(if passing { LONGEST_PAUSE } else { REFUSED_PAUSE })
}

/// The service: tells the server, however long it takes, then stays. `once` returns after the first
/// success instead.
///
/// # Errors
/// When this system holds no settings for it, and with `once` when the server cannot be told.
pub fn run(root: &Path, once: bool) -> Result<()> {
    let resident = Resident::open(root)?;
    let mut pause = FIRST_PAUSE;
    loop {
        match resident.confirm() {
            Ok(told) => {
                eprintln!(
                    "{}",
                    if told {
                        "the server knows that this system runs"
                    } else {
                        "there is no server to tell"
                    }
                );
                break;
            }
            Err(error) if once => return Err(error),
            Err(error) => {
                // The journal of the system keeps it for whoever comes by.
                eprintln!("the server does not know yet that this system runs: {error:#}");
                let passing = error.downcast_ref::<Issue>().is_none_or(is_transient);
                std::thread::sleep(jitter(pause));
                pause = next_pause(pause, passing);
            }
        }
    }
    if once {
        return Ok(());
    }
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::http::{Answer, Request};
    use akene_protocol::api::EventBatch;
    use akene_protocol::{AssetNumber, MachineId, Secret};
    use std::sync::Mutex;

    const RUN: RunId = RunId([4; 8]);

    /// A server that keeps what is new and can be down.
    #[derive(Default)]
    struct Fleet {
        down: Mutex<bool>,
        refuses: Option<RunId>,
        seen: Mutex<Vec<(RunId, u64, EventKind)>>,
        batches: Mutex<usize>,
    }
    impl Http for Fleet {
        fn send(&self, request: &Request) -> Result<Answer, Issue> {
            if *self.down.lock().unwrap() {
                return Err(Issue::new("server-silent", "", "down", ""));
            }
            *self.batches.lock().unwrap() += 1;
            assert_eq!(
                request.authorization.as_ref().unwrap().expose(),
                format!("Bearer {}:secret", MachineId([1; 16]))
            );
            let batch: EventBatch = serde_json::from_slice(&request.body.as_ref().unwrap().1).unwrap();
            if batch.events.iter().any(|e| Some(e.run) == self.refuses) {
                return Err(Issue::new("run-not-yours", "", "another machine's", ""));
            }
            let mut seen = self.seen.lock().unwrap();
            let before = seen.len();
            for event in batch.events {
                if !seen.iter().any(|(run, seq, _)| (*run, *seq) == (event.run, event.seq)) {
                    seen.push((event.run, event.seq, event.kind));
                }
            }
            let body = format!("{{\"new\":{}}}", seen.len() - before).into_bytes();
            Ok(Answer { status: 200, objection: None, body })
        }
    }

    fn system() -> (tempfile::TempDir, Resident) {
        let root = tempfile::tempdir().unwrap();
        for dir in ["etc/akene", "boot/akene/events", "var/lib", "usr/lib"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("usr/lib/os-release"), "NAME=x\nPRETTY_NAME=\"Debian 13\"\n").unwrap();
        let tls = Tls::default();
        let config = Config {
            site: "s".into(),
            site_key: None,
            server: Some(ServerAddress { url: "https://s".into(), tls }),
            proxy: None,
            run: RUN,
        };
        let identity = Identity {
            machine: MachineId([1; 16]),
            asset: AssetNumber::new(7),
            credential: Secret::new("secret"),
        };
        fs::write(root.path().join(CONFIG), serde_json::to_vec(&config).unwrap()).unwrap();
        fs::write(root.path().join(IDENTITY), serde_json::to_vec(&identity).unwrap()).unwrap();
        let resident = Resident::open(root.path()).unwrap();
        (root, resident)
    }

    fn event(run: RunId, seq: u64) -> Event {
        crate::report::spool::tests::event(run, seq)
    }

    #[test]
    fn goes_on_counting_and_is_idempotent_across_power_cuts() {
        let (root, resident) = system();
        let spool_dir = root.path().join("boot/akene/events");
        let mut spool = Spool::open(&spool_dir, RUN).unwrap();
        spool.append(&(1..=5).map(|n| event(RUN, n)).collect::<Vec<_>>()).unwrap();
        spool.acked(3).unwrap();
        let fleet = Fleet::default();
        *fleet.down.lock().unwrap() = true;
        for _ in 0..3 {
            // The system starts three times without a network.
            assert!(resident.tell(&fleet, "https://s").is_err());
        }
        *fleet.down.lock().unwrap() = false;
        resident.tell(&fleet, "https://s").unwrap();
        let seen: Vec<u64> = fleet.seen.lock().unwrap().iter().map(|s| s.1).collect();
        assert_eq!(seen, [4, 5, 6, 7]);
        let last = fleet.seen.lock().unwrap().last().unwrap().2.clone();
        assert!(
            matches!(&last, EventKind::Confirmed { system, kernel } if system == "Debian 13" && !kernel.is_empty()),
            "{last:?}"
        );
        let batches = *fleet.batches.lock().unwrap();
        resident.tell(&fleet, "https://s").unwrap();
        assert_eq!(*fleet.batches.lock().unwrap(), batches, "a second start has nothing to say");
    }

    #[test]
    fn a_failed_run_before_this_one_is_delivered_too_but_not_confirmed() {
        let (root, resident) = system();
        let other = RunId([9; 8]);
        let dir = root.path().join("boot/akene/events");
        Spool::open(&dir, other).unwrap().append(&[event(other, 1), event(other, 2)]).unwrap();
        Spool::open(&dir, RUN).unwrap().append(&[event(RUN, 1)]).unwrap();
        let fleet = Fleet::default();
        resident.tell(&fleet, "https://s").unwrap();
        let of =
            |run| fleet.seen.lock().unwrap().iter().filter(|s| s.0 == run).map(|s| s.1).collect::<Vec<_>>();
        assert_eq!((of(other), of(RUN)), (vec![1, 2], vec![1, 2, 3]));
        assert!(Spool::runs(&dir).unwrap().is_empty());
    }

    #[test]
    fn a_run_the_server_does_not_take_keeps_no_other_from_being_confirmed() {
        let (root, resident) = system();
        let other = RunId([9; 8]);
        let dir = root.path().join("boot/akene/events");
        Spool::open(&dir, other).unwrap().append(&[event(other, 1)]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        Spool::open(&dir, RUN).unwrap().append(&[event(RUN, 1)]).unwrap();
        assert_eq!(Spool::runs(&dir).unwrap(), [other, RUN]);
        let fleet = Fleet { refuses: Some(other), ..Fleet::default() };
        resident.tell(&fleet, "https://s").unwrap();
        assert!(matches!(fleet.seen.lock().unwrap().last().unwrap().2, EventKind::Confirmed { .. }));
        assert_eq!(resident.confirmed_run(), Some(RUN));
        // Its own run refused is a failure as before.
        let (root, resident) = system();
        Spool::open(&root.path().join("boot/akene/events"), RUN).unwrap().append(&[event(RUN, 1)]).unwrap();
        assert!(resident.tell(&Fleet { refuses: Some(RUN), ..Fleet::default() }, "https://s").is_err());
    }

    #[test]
    fn a_clock_that_is_not_set_yet_does_not_cost_an_hour() {
        let pauses = |passing| {
            std::iter::successors(Some(FIRST_PAUSE), move |p| Some(next_pause(*p, passing))).take(20)
        };
        assert!(pauses(false).take(5).sum::<Duration>() < Duration::from_secs(180));
        assert_eq!(pauses(false).last(), Some(REFUSED_PAUSE));
        assert_eq!(pauses(true).last(), Some(LONGEST_PAUSE));
    }

    #[test]
    fn a_clock_nobody_confirmed_or_before_the_installation_is_not_trusted() {
        let (_root, resident) = system();
        let now = Timestamp::now() + jiff::SignedDuration::from_secs(5);
        assert!(resident.clock_is_confirmed(now, true));
        assert!(!resident.clock_is_confirmed(now, false));
        let dead_battery: Timestamp = "1980-01-01T00:00:00Z".parse().unwrap();
        assert!(!resident.clock_is_confirmed(dead_battery, true));
    }

    #[test]
    fn a_system_that_is_not_ours_is_said_to_be_so() {
        let root = tempfile::tempdir().unwrap();
        assert!(Resident::open(root.path()).unwrap_err().to_string().contains("etc/akene/agent.json"));
    }
}
