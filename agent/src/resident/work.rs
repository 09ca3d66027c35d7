//! Asking for orders, and carrying them out.
//!
//! One thread does it all, in turns: tell what is to be told, ask what there is, take each order in hand one step further,
//! sleep. An order goes through these, and each may take days:
//!
//! 1. *verified*: signed by the site's key, for this machine, not expired, never used;
//! 2. *prefetched* (a reinstallation with a signed lock);
//! 3. its *time*: a moment, or nobody using the machine, or the end of a pause people asked for;
//! 4. *announced* to people who are logged in, who may postpone it;
//! 5. *begun*: the server is told, and says whether the order still counts. Only then is anything changed: the order is left
//!    for the installer, GRUB is told to start that once, and the machine restarts. Without the server nothing begins:
//!    the installer would not get its permission either.
//!
//! When a system comes up and finds that it had begun a reinstallation itself, that was not carried out: it says so with
//! what the installer left, and never tries the same order again.
//!
//! | part | what it does |
//! |---|---|
//! | [`wake`] | looks after what an earlier start left |
//! | [`server`] | tells the server and asks it, and verifies what it orders |
//! | [`errands`] | what needs nobody at the machine: inventory, logs, packages beforehand |
//! | [`begin`] | waits for time and people, announces, begins, restarts |

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::Runner;
use akene_protocol::order::{Files, Order, OrderId, Progress, Task};
use akene_protocol::{Issue, PublicKey};
use anyhow::Result;
use jiff::Timestamp;

use super::book::{Book, Stage};
use super::desk::Desk;
use super::people::{self, Notice, What};
use super::prefetch::Prefetch;
use super::{FIRST_PAUSE, Resident, next_pause};
use crate::fetch::is_transient;
use crate::report::courier::jitter;
use begin::Announced;

mod begin;
mod errands;
mod server;
mod wake;

/// How often orders are asked for where the server says nothing.
const INTERVAL: Duration = Duration::from_secs(300);

/// The shortest and the longest interval a server may ask for.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// Longest rest while an order is in hand: people come and go.
const LOOK: Duration = Duration::from_secs(30);

/// How often a run that the server does not take is told again.
const CONFIRM_AGAIN: Duration = Duration::from_secs(600);

/// The worker.
pub struct Work<'a> {
    resident: &'a Resident,
    runner: &'a dyn Runner,
    inventory: Option<PathBuf>,
    pub(super) book: Book,
    desk: Desk,
    key: Option<PublicKey>,
    prefetch: Option<Prefetch>,
    announced: Option<Announced>,
    begun: Option<Instant>,
    tag: Option<String>,
    interval: Duration,
    wait: Option<Duration>,
    /// Whether the server answered when it was asked last.
    reached: bool,
    /// When it is told once more that this system runs, where it did not take that.
    confirm_at: Option<Instant>,
}

/// What is to be done with an order next.
enum Next {
    /// Look again after this time.
    After(Duration),
    /// It is out of hand.
    Over,
}

impl<'a> Work<'a> {
    /// Reads the book.
    pub fn open(
        resident: &'a Resident,
        runner: &'a dyn Runner,
        inventory: Option<PathBuf>,
    ) -> Result<Work<'a>> {
        Ok(Work {
            resident,
            runner,
            inventory,
            book: Book::open(&resident.root)?,
            desk: Desk::default(),
            key: resident.config.site_key,
            prefetch: None,
            announced: None,
            begun: None,
            tag: None,
            interval: INTERVAL,
            wait: None,
            reached: false,
            confirm_at: None,
        })
    }

    fn root(&self) -> &'a Path {
        &self.resident.root
    }

    /// This start of the kernel.
    fn boot(&self) -> String {
        let path = self.root().join("proc/sys/kernel/random/boot_id");
        fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    /// Goes on for ever. Where not everything was `confirmed`, that is tried again from time to time.
    pub fn go_on(mut self, confirmed: bool) -> Result<()> {
        self.confirm_at = (!confirmed).then(|| Instant::now() + CONFIRM_AGAIN);
        if let Err(error) = self.desk.open(self.root()) {
            // Nobody can postpone then, and is not told that they could.
            eprintln!("people cannot postpone anything: {error:#}");
        }
        let mut pause = FIRST_PAUSE;
        let mut ask_at = Instant::now();
        let mut quiet_until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let due = now >= ask_at || self.book.word().is_some();
            if due && quiet_until.is_none_or(|until| now >= until) {
                match self.talk() {
                    Ok(()) => {
                        // A server that keeps no question waiting although it says so is not asked without end.
                        let rest = if self.wait.is_some() { INTERVALS.0 } else { jitter(self.interval()) };
                        ask_at = (now + rest).max(Instant::now());
                        (quiet_until, pause, self.reached) = (None, FIRST_PAUSE, true);
                    }
                    Err(error) => {
                        eprintln!("asking the server for orders: {error:#}");
                        let passing = error.downcast_ref::<Issue>().is_none_or(is_transient);
                        quiet_until = Some(Instant::now() + jitter(pause));
                        pause = next_pause(pause, passing);
                        (self.wait, self.reached) = (None, false);
                    }
                }
            }
            let next = self.steps();
            let now = Instant::now();
            let ask_at = if self.book.word().is_some() { now } else { ask_at };
            let rest = quiet_until.unwrap_or(ask_at).saturating_duration_since(now);
            let rest = next.map_or(rest, |next| next.min(rest));
            if !rest.is_zero() {
                self.desk.sleep(rest);
            }
        }
    }

    /// How often orders are asked for: more often while one is in hand, which may be taken back.
    fn interval(&self) -> Duration {
        if self.book.held().is_empty() { self.interval } else { self.interval.min(LOOK) }
    }

    /// Ends with an order that was not begun.
    fn put_away(&mut self, id: OrderId, word: Option<Progress>) -> Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        if self.announced.as_ref().is_some_and(|announced| announced.order == id) {
            self.announced = None;
            self.desk.close();
            let sessions = people::sessions(self.runner);
            people::tell(self.runner, self.root(), sessions.as_deref(), Notice::Cancelled);
        }
        if let Some(prefetch) = self.prefetch.take_if(|prefetch| prefetch.order == id) {
            prefetch.stop();
        }
        self.book.drop_order(id, &key, word)
    }

    /// Takes each order in hand one step further. When to look again; `None` where none is in hand.
    fn steps(&mut self) -> Option<Duration> {
        let key = self.key?;
        let mut soonest: Option<Duration> = None;
        for held in self.book.held().to_vec() {
            let Ok(order) = held.order(&key) else { continue };
            let next = match self.step(&order, &key) {
                Ok(Next::Over) => Duration::ZERO,
                Ok(Next::After(time)) => time,
                Err(error) => {
                    eprintln!("carrying out order {}: {error:#}", order.id);
                    LOOK
                }
            };
            soonest = Some(soonest.map_or(next, |soonest| soonest.min(next)));
        }
        soonest
    }

    fn step(&mut self, order: &Order, key: &PublicKey) -> Result<Next> {
        let held = self.book.held().iter().find(|h| h.order(key).is_ok_and(|o| o.id == order.id)).cloned();
        let Some(held) = held else { return Ok(Next::Over) };
        if held.progress != Stage::Waiting {
            return self.going_down(order, &held.envelope);
        }
        if order.expires < Timestamp::now() {
            let Err(issue) = order.check(self.resident.identity.machine, Timestamp::now()) else {
                return Ok(Next::After(LOOK));
            };
            self.put_away(order.id, Some(Progress::Refused { issue }))?;
            return Ok(Next::Over);
        }
        match &order.task {
            Task::Inventory(_) => self.at_once(order, Self::send_inventory),
            Task::Logs(_) => self.at_once(order, Self::send_logs),
            Task::Reboot(timing) => self.wait_and_begin(order, &held.envelope, timing, What::Reboot),
            Task::Reinstall(reinstall) => {
                if !held.prefetched
                    && let Some(next) = self.prefetch(order, reinstall, key)?
                {
                    return Ok(next);
                }
                let what = if reinstall.files == Files::Wipe { What::Wipe } else { What::Reinstall };
                self.wait_and_begin(order, &held.envelope, &reinstall.timing, what)
            }
        }
    }

    /// Tells the server how far an order is, where that is news.
    fn waits(&mut self, order: &Order, waits: &str) -> Result<()> {
        let word = Progress::Received { waits: waits.to_owned() };
        match self.book.word() {
            // The server has not heard the word before this one.
            Some(_) => Ok(()),
            None => self.book.say(order.id, word),
        }
    }

    /// The same, for what is told once and stays true.
    fn waits_once(&mut self, order: &Order, waits: &str) -> Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        let mut news = false;
        self.book.change(order.id, &key, |held| {
            news = held.waits.as_deref() != Some(waits);
            held.waits = Some(waits.to_owned());
        })?;
        if news { self.waits(order, waits) } else { Ok(()) }
    }
}
