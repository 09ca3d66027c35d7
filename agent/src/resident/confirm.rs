//! Telling the server that the installed system runs, and what the installer could not tell.

use std::fs;
use std::path::PathBuf;

use akene_exec::SystemRunner;
use akene_protocol::Issue;
use akene_protocol::api::{Identity, MAX_EVENTS};
use akene_protocol::event::{Event, EventKind, Phase, RunId, VERSION};
use akene_protocol::stamp::Tls;
use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{CONFIG, Config, Resident, installer};
use crate::fetch::http::{Http, Web};
use crate::fetch::{Server, is_transient};
use crate::net::resolver::Resolver;
use crate::report::spool::Spool;
use crate::run::boot_files;
use crate::run::second_root::{self, Standing};
use crate::sys::clock;

/// Run that was confirmed last, below the root.
const CONFIRMED: &str = "var/lib/akene/confirmed";

impl Resident {
    /// Tells the server everything it does not know yet. True: there was a server to tell. Then, or where there is none, this
    /// system is the one that stays: its starts are counted no more, and the system before it is let go.
    ///
    /// # Errors
    /// An [`Issue`] when it could not be told; trying again is always allowed.
    pub fn confirm(&self) -> Result<bool> {
        let told = self.tell_all()?;
        self.heard();
        Ok(told)
    }

    /// The server has answered this system, whatever it was asked, or there is none.
    pub(super) fn heard(&self) {
        match self.stay() {
            Ok(released) => super::note_release(released),
            Err(error) => eprintln!("letting the system before this one go: {error:#}"),
        }
    }

    /// Ends the choice between this system and the one before it. True: there was one.
    pub(super) fn stay(&self) -> Result<bool> {
        if second_root::standing(&self.root) == Standing::New {
            installer::settle(&self.root, &SystemRunner)?;
        }
        second_root::release(&self.root)
    }

    /// Whether a server expects to hear from this system.
    pub(super) fn is_awaited(&self) -> bool {
        let Config { server, offline, run, .. } = &self.config;
        server.is_some() && !offline && self.confirmed_run() != Some(*run)
    }

    fn tell_all(&self) -> Result<bool> {
        let Some(server) = &self.config.server else { return Ok(false) };
        let letters = self.letters()?;
        let told = self.confirmed_run() == Some(self.config.run) && self.spooled()?.is_empty();
        if told && letters.is_empty() {
            return Ok(true);
        }
        // A disk that is full keeps the server from nothing.
        if let Err(error) = self.note() {
            eprintln!("noting that this system has started: {error:#}");
        }
        let web = self.web(&server.tls)?;
        self.deliver(&web, &server.url, &letters)?;
        if !told {
            self.tell(&web, &server.url)?;
        }
        Ok(true)
    }

    /// HTTP as this system has it now: its name servers may have changed.
    pub(super) fn web(&self, tls: &Tls) -> Result<Web> {
        let confirmed = self.clock_is_confirmed(Timestamp::now(), clock::is_synchronised());
        Web::new(tls, self.config.proxy.as_deref(), &self.resolver(), confirmed)
    }

    /// The name servers of this system.
    pub(super) fn resolver(&self) -> Resolver {
        Resolver::from_resolv_conf(&fs::read_to_string(self.root.join("etc/resolv.conf")).unwrap_or_default())
    }

    /// Whether the clock may be trusted where a certificate is refused for its date. It is wrong for sure before
    /// this system was installed, and may be where no time server has set it since the start.
    pub(super) fn clock_is_confirmed(&self, now: Timestamp, synchronised: bool) -> bool {
        let installed = fs::metadata(self.root.join(CONFIG)).and_then(|m| m.modified()).ok();
        let installed = installed.and_then(|time| Timestamp::try_from(time).ok());
        synchronised && installed.is_none_or(|installed| now >= installed)
    }

    pub(super) fn tell(&self, http: &dyn Http, url: &str) -> Result<()> {
        let server = Server::new(http, url);
        for run in self.spooled()? {
            // Of another run only what is left is sent: an installation that failed before this one.
            let mut spool = match Spool::open(&self.spool_dir(), run) {
                Err(error) if run != self.config.run => {
                    eprintln!("what is left of the run {run} cannot be told: {error:#}");
                    continue;
                }
                spool => spool?,
            };
            if run == self.config.run && self.confirmed_run() != Some(run) {
                self.add_confirmation(&mut spool)?;
            }
            if let Err(error) = send(&server, &self.identity, &mut spool) {
                // A disk that is full keeps the server from nothing, either.
                let refused = error.downcast_ref::<Issue>().is_none_or(|issue| !is_transient(issue));
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
            match spool.remove() {
                Err(error) if run != self.config.run => eprintln!("what was told of {run} stays: {error:#}"),
                removed => removed?,
            }
        }
        if self.confirmed_run() != Some(self.config.run) {
            // The spool of the installation is gone (another boot partition): the run still ends.
            let mut spool = Spool::open(&self.spool_dir(), self.config.run)?;
            self.add_confirmation(&mut spool)?;
            send(&server, &self.identity, &mut spool)?;
            self.remember(self.config.run)?;
            spool.remove()?;
        }
        Ok(())
    }

    /// Notes that this system has started, and when, whoever can be told of it: a network may come weeks later.
    fn note(&self) -> Result<()> {
        if self.confirmed_run() == Some(self.config.run) {
            return Ok(());
        }
        self.add_confirmation(&mut Spool::open(&self.spool_dir(), self.config.run)?)
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

    pub(super) fn spool_dir(&self) -> PathBuf {
        self.root.join("boot").join(boot_files::EVENTS)
    }

    fn spooled(&self) -> Result<Vec<RunId>> {
        Spool::runs(&self.spool_dir())
    }

    pub(super) fn confirmed_run(&self) -> Option<RunId> {
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

fn send(server: &Server<'_>, identity: &Identity, spool: &mut Spool) -> Result<()> {
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
