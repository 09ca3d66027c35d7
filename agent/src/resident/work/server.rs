//! What the server is told of orders and asked for, and which of its answers counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use akene_protocol::order::{Order, Progress};
use akene_protocol::{Envelope, Issue};
use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{CONFIRM_AGAIN, INTERVAL, INTERVALS, Work};
use crate::fetch::Server;
use crate::fetch::http::Http;
use crate::net::clock::SystemClock;
use crate::resident::book::Stage;
use crate::resident::time;
use crate::sys::clock;

/// The longest a question is kept waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What only the server can say of an order. Anything else, a wrong clock or somebody who answers in its place, says nothing: the
/// order is kept, and the word for the server too.
const THE_SERVERS: [&str; 7] = [
    "order-expired",
    "order-cancelled",
    "order-used",
    "order-unknown",
    "order-other-machine",
    "order-id",
    "request-unreadable",
];

pub(super) fn is_the_servers(issue: &Issue) -> bool {
    THE_SERVERS.contains(&&*issue.code)
}

impl Work<'_> {
    pub(super) fn http(&self) -> Result<(Arc<dyn Http>, String)> {
        let server = self.resident.config.server.as_ref().context("there is no server")?;
        Ok((Arc::new(self.resident.web(&server.tls)?), server.url.clone()))
    }

    /// Tells what is to be told, and asks what there is.
    pub(super) fn talk(&mut self) -> Result<()> {
        if self.confirm_at.is_some_and(|at| Instant::now() >= at) {
            self.confirm_at = match self.resident.confirm() {
                Ok(_) => None,
                Err(error) => {
                    eprintln!("the server does not know all of what happened: {error:#}");
                    Some(Instant::now() + CONFIRM_AGAIN)
                }
            };
        }
        let (http, url) = self.http()?;
        self.talk_to(&Server::new(&*http, &url))
    }

    /// The same to this server.
    pub(in crate::resident) fn talk_to(&mut self, server: &Server<'_>) -> Result<()> {
        while let Some((id, word)) = self.book.word() {
            match server.report(&self.resident.identity, id, &word) {
                Ok(()) => {}
                Err(issue) if !is_the_servers(&issue) => return Err(issue.into()),
                Err(issue) => eprintln!("the server does not take what it is told of an order: {issue}"),
            }
            self.book.told()?;
        }
        // With an order in hand there is more to do than to wait for another.
        let wait = self.wait.filter(|_| self.book.held().is_empty());
        let asked = server.orders(&self.resident.identity, self.tag.as_deref(), wait)?;
        if !self.reached {
            // Whatever it does not take of what it was told: it knows this system, and can reach it.
            self.resident.heard();
        }
        self.interval = asked.ask.after.unwrap_or(INTERVAL).clamp(INTERVALS.0, INTERVALS.1);
        self.wait = asked.ask.wait.map(|wait| wait.min(LONGEST_WAIT)).filter(|_| self.book.held().is_empty());
        if let Some(orders) = asked.orders {
            if !orders.is_empty() {
                let told = time::settle(&SystemClock, clock::is_synchronised(), || Ok(server.time()?));
                match told {
                    Ok(Some(mended)) => eprintln!("{mended}"),
                    Ok(None) => {}
                    Err(error) => eprintln!("comparing the clock with the server's: {error:#}"),
                }
            }
            self.take(orders)?;
        }
        self.tag = asked.tag;
        Ok(())
    }

    /// Takes in hand what is new, and puts away what was taken back.
    pub(in crate::resident) fn take(&mut self, orders: Vec<Envelope>) -> Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        let machine = self.resident.identity.machine;
        let mut seen = Vec::new();
        for envelope in orders {
            let order: Order = match envelope.open(&key) {
                Ok(order) => order,
                Err(error) => {
                    eprintln!("an order is not taken: {error}");
                    continue;
                }
            };
            seen.push(order.id);
            let known = self.book.held().iter().any(|held| held.order(&key).is_ok_and(|o| o.id == order.id));
            if known {
                continue;
            }
            let refusal = match order.check(machine, Timestamp::now()) {
                Err(issue) => Some(issue),
                Ok(()) if self.book.was_used(order.id) => Some(Issue::new(
                    "order-used",
                    format!("order {}", order.id),
                    "this computer has used this order before",
                    "give a new one: `akene-server order`",
                )),
                Ok(()) => None,
            };
            if let Some(issue) = refusal {
                eprintln!("an order is refused: {issue}");
                self.book.say(order.id, Progress::Refused { issue })?;
                continue;
            }
            eprintln!("order {}: {}", order.id, order.task.name());
            if self.book.hold(envelope)? {
                self.book.say(order.id, Progress::Received { waits: String::new() })?;
            }
        }
        for held in self.book.held().to_vec() {
            let Ok(order) = held.order(&key) else { continue };
            if held.progress == Stage::Waiting && !seen.contains(&order.id) {
                eprintln!("order {} was taken back", order.id);
                self.put_away(order.id, None)?;
            }
        }
        Ok(())
    }
}
