//! The service on the installed system.
//!
//! The installation is over only when the system it made has started and said so. [`run`] finds who and
//! whose it is in `/etc/akene`, sends what the installer could not deliver (after an installation with no network that is
//! who this machine is, too), and then
//! [`Confirmed`](akene_protocol::EventKind::Confirmed) with the next number of the same run. The network
//! may come hours later, or with another technician's stick: it tries for ever, with growing pauses.
//! Doing it twice does no harm, the server knows events by their numbers.
//!
//! Afterwards it stays, and asks the server every few minutes for orders ([`akene_protocol::order`]):
//!
//! | part | what it does |
//! |---|---|
//! | [`letters`] | delivers the reports of installations with no network |
//! | [`confirm`] | tells the server that the system runs, and what the installer could not tell |
//! | [`work`] | asks for orders, verifies them, carries them out, one step at a time |
//! | [`book`] | what must outlive a power cut: the orders in hand, those used, words the server has not heard |
//! | [`people`] | who is logged in, whether anybody uses the machine, telling them |
//! | [`desk`] | where people postpone |
//! | [`prefetch`] | fetches the packages of a signed lock beforehand, slowly |
//! | [`installer`] | whether the installer on the boot partition is whole; GRUB's environment |
//! | [`loader`] | whether the computer starts by the loaders that its packages have now |
//! | [`returned`] | what follows where this system was started again because there is no new one |
//! | [`logs`] | the logs, without secrets |
//! | [`time`] | the clock, before orders are judged by it |
//!
//! It speaks first, always: nothing listens on the network. What it needs of the system is what every installed system
//! has: systemd, util-linux, GRUB.
//!
//! Everything is below a root directory that a test can choose.

mod book;
mod confirm;
mod desk;
mod installer;
mod letters;
mod loader;
mod logs;
mod people;
mod prefetch;
mod returned;
#[cfg(test)]
mod tests;
mod time;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Runner, SystemRunner};
use akene_protocol::api::Identity;
use akene_protocol::event::RunId;
use akene_protocol::stamp::{Source, Stamp, Tls};
use akene_protocol::{Issue, PublicKey};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::fetch::is_transient;
use crate::report::courier::jitter;
use crate::run::second_root::{self, Standing};
use work::Work;

pub use desk::postpone;

/// Settings of the resident agent, below the root.
pub const CONFIG: &str = "etc/akene/agent.json";

/// Who this machine is, below the root.
pub const IDENTITY: &str = "etc/akene/identity.json";

/// First pause after a failure that may pass.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// How often what happened is refused, or cannot be read, before orders are asked for all the same.
const MOST_REFUSALS: u32 = 3;

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
    /// The server; none where the profile came from a static host, or from a medium that names none.
    #[serde(default)]
    pub server: Option<ServerAddress>,
    /// Proxy for HTTP and HTTPS.
    #[serde(default)]
    pub proxy: Option<String>,
    /// The run that installed this system.
    pub run: RunId,
    /// Whether the installer's word goes home with a medium: the server has not heard of the run, and nobody knows when it will.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline: bool,
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
    /// What a machine installed online with this stamp is told. `proxy` is that of the profile.
    pub fn from_stamp(stamp: &Stamp, proxy: Option<&str>, run: RunId) -> Config {
        let server = match &stamp.source {
            Source::Server { url, tls, .. } => Some(ServerAddress { url: url.clone(), tls: tls.clone() }),
            Source::Medium { home: Some(home), .. } => {
                Some(ServerAddress { url: home.url.clone(), tls: home.tls.clone() })
            }
            Source::Static { .. } | Source::Medium { home: None, .. } => None,
        };
        let proxy = proxy.or(stamp.proxy.as_deref()).map(str::to_owned);
        Config {
            site: stamp.site.clone(),
            site_key: Some(stamp.site_key),
            server,
            proxy,
            run,
            offline: false,
        }
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
}

/// How long to wait the next time, after a failure that may pass or a refusal.
fn next_pause(pause: Duration, passing: bool) -> Duration {
    (pause * 2).min(if passing { LONGEST_PAUSE } else { REFUSED_PAUSE })
}

/// How the service is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Return after the server was told once, with an error when it cannot be.
    pub once: bool,
    /// A saved inventory instead of probing this machine.
    pub inventory: Option<PathBuf>,
}

/// The service: tells the server, however long it takes, then carries out its orders.
///
/// # Errors
/// When this system holds no settings for it, and with `once` when the server cannot be told.
pub fn run(root: &Path, options: Options) -> Result<()> {
    let runner = &SystemRunner;
    if !options.once {
        // Until the boot partition is its own, only the count of its starts brings it here.
        if let Err(error) = returned::take_back(root, runner).and_then(|()| settle(root, runner)) {
            eprintln!("telling the boot menu that the system has started: {error:#}");
        }
        loader::keep(root, runner);
        loader::watch(root, runner);
    }
    let resident = Resident::open(root)?;
    if options.once {
        said(resident.confirm()?);
        return Ok(());
    }
    if let Err(error) = crate::target::host_keys::keep(root) {
        eprintln!("keeping this computer's SSH keys for its next system: {error:#}");
    }
    // Before anything is delivered: what an installer left is read here, too.
    if let Err(error) = Work::open(&resident, runner, options.inventory.clone())?.wake() {
        eprintln!("looking after what an earlier start left: {error:#}");
    }
    if let Err(error) = resident.note_return() {
        eprintln!("noting why this system is back: {error:#}");
    }
    let (mut pause, mut refused) = (FIRST_PAUSE, 0);
    let confirmed = loop {
        match resident.confirm() {
            Ok(told) => {
                said(told);
                break true;
            }
            // What it does not take today it may take another day. Orders are not to wait for that.
            Err(error) if refused == MOST_REFUSALS => {
                eprintln!("the server does not take what it is told, and is told again later: {error:#}");
                break false;
            }
            Err(error) => {
                // The journal of the system keeps it for whoever comes by.
                eprintln!("the server does not know yet that this system runs: {error:#}");
                let issue = error.downcast_ref::<Issue>();
                let passing = issue.is_none_or(is_transient);
                // As long as a person has to decide, orders cannot be heard, either.
                let waits = issue.is_some_and(|issue| issue.code == letters::WAITS);
                refused += u32::from(!waits && issue.is_none_or(|issue| !is_transient(issue)));
                std::thread::sleep(jitter(pause));
                pause = next_pause(pause, passing);
            }
        }
    };
    if resident.config.server.is_none() || resident.config.site_key.is_none() {
        loop {
            std::thread::park();
        }
    }
    // The server may have given this machine another number.
    let resident = Resident::open(root)?;
    Work::open(&resident, runner, options.inventory)?.go_on(confirmed)
}

/// Tells the boot menu that this system has come up, which is all that most have to show, whatever else is wrong: it is the
/// one that stays. One beside an older one has more: where there is a server, it must hear from it, or the older one comes back.
///
/// # Errors
/// What is to be written to the boot partition could not be.
pub fn settle(root: &Path, runner: &dyn Runner) -> Result<()> {
    if !is_the_one(root) {
        return Ok(());
    }
    installer::settle(root, runner)?;
    second_root::release(root).map(note_release)
}

/// Whether this system is the computer's, and has shown that it stays.
fn is_the_one(root: &Path) -> bool {
    match second_root::standing(root) {
        Standing::Alone => true,
        Standing::New => Resident::open(root).is_ok_and(|resident| !resident.is_awaited()),
        Standing::Back | Standing::Guest => false,
    }
}

fn note_release(released: bool) {
    if released {
        eprintln!("the system before this one is not needed any more");
    }
}

fn said(told: bool) {
    eprintln!(
        "{}",
        if told { "the server knows that this system runs" } else { "there is no server to tell" }
    );
}
