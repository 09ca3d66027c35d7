//! What needs nobody at the machine: telling the server what it is and what it wrote down, fetching packages beforehand.

use std::time::Duration;

use akene_protocol::order::{Order, Progress, Reinstall, When};
use akene_protocol::{Inventory, Issue, PublicKey};
use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{Next, Work};
use crate::fetch::{Server, is_transient};
use crate::resident::prefetch::{Job, Prefetch};
use crate::resident::{logs, people};

/// How long an order that is to be carried out now waits for its packages: the installer can fetch them, too.
const LONGEST_PREFETCH: Duration = Duration::from_secs(2 * 3600);

/// What is wrong with the way to the server, not with what it was told.
const THE_WAYS: [&str; 5] =
    ["clock-wrong", "certificate-wrong", "certificate-expired", "answer-unreadable", "portal"];

impl Work<'_> {
    /// Does what an order asks for, and says how that ended. Where it was the way to the server, it is tried again.
    pub(super) fn at_once(&mut self, order: &Order, act: fn(&Self) -> Result<()>) -> Result<Next> {
        let word = match act(self) {
            Ok(()) => Progress::Done,
            Err(error) => match error.downcast_ref::<Issue>() {
                Some(issue) if is_transient(issue) || THE_WAYS.contains(&&*issue.code) => return Err(error),
                Some(issue) => Progress::Refused { issue: issue.clone() },
                None => Progress::Refused {
                    issue: Issue::new(
                        "order-failed",
                        format!("order {}", order.id),
                        format!("{error:#}"),
                        "mend the cause on this computer, then give the order again",
                    ),
                },
            },
        };
        self.put_away(order.id, Some(word))?;
        Ok(Next::Over)
    }

    fn look(&self) -> Result<Inventory> {
        match &self.inventory {
            None => Ok(crate::probe::inventory(self.runner, &crate::probe::ProbeRoot::default())),
            Some(path) => crate::run::native::read_inventory(path),
        }
    }

    pub(super) fn send_inventory(&self) -> Result<()> {
        let inventory = self.look()?;
        let (http, url) = self.http()?;
        Server::new(&*http, &url).inventory(&self.resident.identity, &inventory)?;
        Ok(())
    }

    pub(super) fn send_logs(&self) -> Result<()> {
        let identity = &self.resident.identity;
        let logs = logs::all(self.root(), self.runner, identity)?;
        let (http, url) = self.http()?;
        let server = Server::new(&*http, &url);
        for (name, text) in logs {
            server.log(identity, self.resident.config.run, name, text.as_bytes())?;
        }
        Ok(())
    }

    /// Fetches packages. `Some`: it is not at its end.
    pub(super) fn prefetch(
        &mut self,
        order: &Order,
        reinstall: &Reinstall,
        key: &PublicKey,
    ) -> Result<Option<Next>> {
        let Some(prefetch) = self.prefetch.take() else {
            if reinstall.lock.is_none() {
                self.book.change(order.id, key, |held| held.prefetched = true)?;
                return Ok(None);
            }
            let (http, _) = self.http()?;
            let server = self.resident.config.server.as_ref().context("there is no server")?;
            let job = Job {
                root: self.root().to_owned(),
                identity: self.resident.identity.clone(),
                server: (server.url.clone(), server.tls.clone()),
                resolver: self.resident.resolver(),
                proxy: self.resident.config.proxy.clone(),
                key: *key,
                order: order.id,
                reinstall: reinstall.clone(),
                inventory: self.look()?,
            };
            self.prefetch = Some(Prefetch::start(job, http)?);
            self.waits(order, "fetching packages")?;
            return Ok(Some(Next::After(Duration::from_secs(1))));
        };
        let overdue = reinstall.timing.when == When::Now && prefetch.age() > LONGEST_PREFETCH;
        let outcome = match prefetch.ended() {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => format!("fetching packages beforehand: {error:#}"),
            Err(prefetch) if overdue => {
                prefetch.stop();
                "the packages take too long to fetch beforehand: the installer fetches the rest".to_owned()
            }
            Err(prefetch) => {
                let sessions = people::sessions(self.runner);
                prefetch.busy(!people::is_idle(sessions.as_deref(), Timestamp::now()));
                let words = prefetch.words();
                let short = prefetch.age() < Duration::from_secs(30);
                self.prefetch = Some(prefetch);
                if !short {
                    self.waits_once(order, &words)?;
                }
                return Ok(Some(Next::After(Duration::from_secs(if short { 1 } else { 30 }))));
            }
        };
        eprintln!("order {}: {outcome}", order.id);
        self.book.change(order.id, key, |held| held.prefetched = true)?;
        Ok(None)
    }
}
