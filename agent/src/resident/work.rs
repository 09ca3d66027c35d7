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

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner};
use akene_protocol::event::EventKind;
use akene_protocol::order::{Files, Order, OrderId, Progress, Reinstall, Task, Timing, When};
use akene_protocol::{Envelope, Inventory, Issue, PublicKey, RunId};
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};

use super::book::{Book, Stage};
use super::desk::Desk;
use super::people::{self, Notice, What};
use super::prefetch::{Job, Prefetch};
use super::{FIRST_PAUSE, Resident, installer, logs, next_pause, time};
use crate::fetch::http::Http;
use crate::fetch::{Server, is_transient};
use crate::net::clock::SystemClock;
use crate::report::courier::jitter;
use crate::report::spool::Spool;
use crate::run::stage::ON_VOLUME;
use crate::sys::clock;

/// How often orders are asked for where the server says nothing.
const INTERVAL: Duration = Duration::from_secs(300);

/// The shortest and the longest interval a server may ask for.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// The longest a question is kept waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Longest rest while an order is in hand: people come and go.
const LOOK: Duration = Duration::from_secs(30);

/// How long an order that is to be carried out now waits for its packages: the installer can fetch them, too.
const LONGEST_PREFETCH: Duration = Duration::from_secs(2 * 3600);

/// How long a system may take to go down before the restart counts as failed.
const GOING_DOWN: Duration = Duration::from_secs(600);

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

/// What is wrong with the way to the server, not with what it was told.
const THE_WAYS: [&str; 5] =
    ["clock-wrong", "certificate-wrong", "certificate-expired", "answer-unreadable", "portal"];

fn is_the_servers(issue: &Issue) -> bool {
    THE_SERVERS.contains(&&*issue.code)
}

/// How often a run that the server does not take is told again.
const CONFIRM_AGAIN: Duration = Duration::from_secs(600);

/// Something people were told, until it begins.
struct Announced {
    order: OrderId,
    begins: Instant,
    /// Who was told. `None`: everybody, since nobody knew who was there.
    told: Option<BTreeSet<u32>>,
    /// Whether it was put off once for people who came later.
    put_off: bool,
}

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

    /// Looks after what an earlier start left.
    pub fn wake(&mut self) -> Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        let boot = self.boot();
        for held in self.book.held().to_vec() {
            let order = match held.order(&key) {
                Ok(order) => order,
                Err(error) => {
                    eprintln!("an order in hand is put away: {error:#}");
                    continue;
                }
            };
            match (&held.progress, &order.task) {
                (Stage::Begun { boot: then }, _) if *then == boot => {}
                (Stage::Begun { .. }, Task::Reinstall(_)) => {
                    let issue = self.not_carried_out(&order);
                    eprintln!("{issue}");
                    self.book.drop_order(order.id, &key, Some(Progress::Refused { issue }))?;
                }
                (Stage::Begun { .. }, _) => self.book.drop_order(order.id, &key, Some(Progress::Done))?,
                (Stage::Waiting, _) => {}
            }
        }
        // One that this start has begun is still on its way.
        let on_its_way = self.book.held().iter().any(|held| held.progress != Stage::Waiting);
        if !on_its_way {
            let left = installer::left(self.root(), &key);
            if !matches!(left, Ok(None)) {
                if let Ok(Some(order)) = left {
                    self.book.used(order.id)?;
                }
                installer::forget(self.root(), self.runner)?;
            }
        }
        let reinstalls = |order: &Order| matches!(order.task, Task::Reinstall(_));
        if !self.book.held().iter().any(|held| held.order(&key).is_ok_and(|order| reinstalls(&order))) {
            for dir in stale(self.root()) {
                eprintln!("removing packages of an installation that did not come to be: {}", dir.display());
                fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
        }
        Ok(())
    }

    /// Why the old system is back, as far as the installer could say.
    fn not_carried_out(&self, order: &Order) -> Issue {
        if let Some(issue) = super::returned::issue(self.root(), format!("order {}", order.id)) {
            return issue;
        }
        let why = match failure(&self.resident.spool_dir(), self.resident.config.run) {
            Some((phase, issue)) => format!("the installer failed while {}: {issue}", phase.to_lowercase()),
            None => match installer::is_chosen(self.root(), self.runner) {
                Ok(true) => "the boot menu did not start the installer".to_owned(),
                _ => "the installer left no word here: it did not start, or it could not write".to_owned(),
            },
        };
        Issue::new(
            "order-not-carried-out",
            format!("order {}", order.id),
            format!("the reinstallation did not happen, and the old system runs again; {why}"),
            "look at the runs of this computer (`akene-server show`), mend the cause, and order it again",
        )
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

    fn http(&self) -> Result<(Arc<dyn Http>, String)> {
        let server = self.resident.config.server.as_ref().context("there is no server")?;
        Ok((Arc::new(self.resident.web(&server.tls)?), server.url.clone()))
    }

    /// Tells what is to be told, and asks what there is.
    fn talk(&mut self) -> Result<()> {
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
    pub(super) fn talk_to(&mut self, server: &Server<'_>) -> Result<()> {
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
    pub(super) fn take(&mut self, orders: Vec<Envelope>) -> Result<()> {
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

    fn at_once(&mut self, order: &Order, act: fn(&Self) -> Result<()>) -> Result<Next> {
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

    fn send_inventory(&self) -> Result<()> {
        let inventory = self.look()?;
        let (http, url) = self.http()?;
        Server::new(&*http, &url).inventory(&self.resident.identity, &inventory)?;
        Ok(())
    }

    fn send_logs(&self) -> Result<()> {
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
    fn prefetch(&mut self, order: &Order, reinstall: &Reinstall, key: &PublicKey) -> Result<Option<Next>> {
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

    /// Waits for the time of an order and for people, then begins.
    fn wait_and_begin(
        &mut self,
        order: &Order,
        envelope: &Envelope,
        timing: &Timing,
        what: What,
    ) -> Result<Next> {
        let Some(key) = self.key else { return Ok(Next::Over) };
        let held = self.book.held().iter().find(|h| h.order(&key).is_ok_and(|o| o.id == order.id));
        let (postponed, not_before) = held.map_or((0, None), |h| (h.postponed, h.not_before));
        let now = Timestamp::now();
        let until = |at: Timestamp| now.duration_until(at).unsigned_abs().min(LOOK);
        let sessions = people::sessions(self.runner);
        if self.announced.as_ref().is_some_and(|announced| announced.order == order.id) {
            if let Some(user) = self.desk.postponed(order.id) {
                self.announced = None;
                let until = now + SignedDuration::from_secs(timing.pause.into());
                let times = postponed + 1;
                eprintln!("order {} was postponed for the {times}. time, by user {user}", order.id);
                self.book.change(order.id, &key, |held| {
                    held.postponed = times;
                    held.not_before = Some(until);
                })?;
                self.book.say(order.id, Progress::Postponed { times, until })?;
                people::tell(self.runner, self.root(), sessions.as_deref(), Notice::Postponed(timing.pause));
                return Ok(Next::After(Duration::from_secs(1)));
            }
            if timing.when == When::Idle && !people::is_idle(sessions.as_deref(), now) {
                self.announced = None;
                self.desk.close();
                people::tell(self.runner, self.root(), sessions.as_deref(), Notice::Cancelled);
                return Ok(Next::After(LOOK));
            }
            self.tell_who_came(order.id, timing, what, postponed, sessions.as_deref());
            let begins = self.announced.as_ref().map_or_else(Instant::now, |announced| announced.begins);
            let left = begins.saturating_duration_since(Instant::now());
            if !left.is_zero() || !self.reached {
                return Ok(Next::After(if left.is_zero() { LOOK } else { left.min(LOOK) }));
            }
            self.announced = None;
            self.desk.close();
            return self.begin(order, envelope, what, sessions.as_deref());
        }
        if self.announced.is_some() || self.begun.is_some() {
            // One after the other.
            return Ok(Next::After(LOOK));
        }
        if let Some(at) = not_before.filter(|at| *at > now) {
            return Ok(Next::After(until(at)));
        }
        match timing.when {
            When::At(at) if at > now => {
                self.waits_once(order, &format!("until {at}"))?;
                return Ok(Next::After(until(at)));
            }
            When::Idle if !people::is_idle(sessions.as_deref(), now) => {
                self.waits_once(order, "until nobody uses it")?;
                return Ok(Next::After(LOOK));
            }
            _ => {}
        }
        // Nothing begins without the server: then nobody is alarmed, either.
        if !self.reached {
            return Ok(Next::After(LOOK));
        }
        let somebody = sessions.as_ref().is_none_or(|sessions| !sessions.is_empty());
        if somebody && timing.warning > 0 {
            let left = timing.postponements.saturating_sub(postponed);
            people::tell(
                self.runner,
                self.root(),
                sessions.as_deref(),
                Notice::Begins(what, timing.warning, left),
            );
            self.desk.announce(order.id, left, timing.pause);
            let warning = Duration::from_secs(timing.warning.into());
            let told = sessions.as_ref().map(|sessions| sessions.iter().map(|s| s.user).collect());
            let begins = Instant::now() + warning;
            self.announced = Some(Announced { order: order.id, begins, told, put_off: false });
            return Ok(Next::After(warning.min(LOOK)));
        }
        self.begin(order, envelope, what, sessions.as_deref())
    }

    /// Tells people who logged in after the announcement, and gives them the same time, once.
    fn tell_who_came(
        &mut self,
        order: OrderId,
        timing: &Timing,
        what: What,
        postponed: u32,
        sessions: Option<&[people::Session]>,
    ) {
        let Some(announced) = self.announced.as_mut().filter(|announced| announced.order == order) else {
            return;
        };
        let (Some(told), Some(sessions)) = (&mut announced.told, sessions) else { return };
        let came: Vec<people::Session> =
            sessions.iter().filter(|s| !told.contains(&s.user)).cloned().collect();
        if came.is_empty() {
            return;
        }
        told.extend(came.iter().map(|session| session.user));
        if !std::mem::replace(&mut announced.put_off, true) {
            announced.begins = Instant::now() + Duration::from_secs(timing.warning.into());
        }
        let left = announced.begins.saturating_duration_since(Instant::now()).as_secs();
        let warning = u32::try_from(left).unwrap_or(timing.warning);
        let more = timing.postponements.saturating_sub(postponed);
        people::tell(self.runner, self.root(), Some(&came), Notice::Begins(what, warning, more));
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

    fn begin(
        &mut self,
        order: &Order,
        envelope: &Envelope,
        what: What,
        sessions: Option<&[people::Session]>,
    ) -> Result<Next> {
        let Some(key) = self.key else { return Ok(Next::Over) };
        let reinstall = matches!(order.task, Task::Reinstall(_));
        if reinstall && let Err(issue) = installer::check(self.root(), &key) {
            self.put_away(order.id, Some(Progress::Refused { issue }))?;
            return Ok(Next::Over);
        }
        // What cannot be remembered would be done again after each start.
        if let Err(error) = self.book.used(order.id) {
            return self.give_up(
                order,
                "cannot-remember",
                &format!("what is begun cannot be noted: {error:#}"),
            );
        }
        let (http, url) = self.http()?;
        match Server::new(&*http, &url).report(&self.resident.identity, order.id, &Progress::Begun) {
            Ok(()) => {}
            Err(issue) if !is_the_servers(&issue) => {
                // People may have been told already; they are told again when there is a server.
                self.reached = false;
                return Err(issue).context("telling the server that an order begins; nothing was changed");
            }
            Err(issue) => {
                eprintln!("order {} does not count any more: {issue}", order.id);
                self.put_away(order.id, None)?;
                return Ok(Next::Over);
            }
        }
        let boot = self.boot();
        if let Err(error) = self.book.change(order.id, &key, |held| held.progress = Stage::Begun { boot }) {
            return self.give_up(
                order,
                "cannot-remember",
                &format!("what is begun cannot be noted: {error:#}"),
            );
        }
        if reinstall && let Err(error) = installer::choose(self.root(), self.runner, envelope) {
            return self.give_up(
                order,
                "boot-menu-refuses",
                &format!("the boot menu cannot be told: {error:#}"),
            );
        }
        people::tell(self.runner, self.root(), sessions, Notice::Now(what));
        eprintln!("order {}: this computer restarts", order.id);
        self.restart(order)
    }

    fn restart(&mut self, order: &Order) -> Result<Next> {
        self.begun = Some(Instant::now());
        let ctl = || Cmd::new("systemctl").timeout(Duration::from_secs(60));
        // Anybody's program may hold up the first; people were told, and could postpone.
        let target = ["start", "--no-block", "--job-mode=replace-irreversibly", "reboot.target"];
        match self.runner.run(&ctl().arg("reboot")).or_else(|_| self.runner.run(&ctl().args(target))) {
            Ok(_) => Ok(Next::After(GOING_DOWN)),
            Err(error) => {
                self.give_up(order, "restart-failed", &format!("the system does not restart: {error:#}"))
            }
        }
    }

    /// An order that this start of the system has begun.
    fn going_down(&mut self, order: &Order, envelope: &Envelope) -> Result<Next> {
        match self.begun {
            Some(at) if at.elapsed() < GOING_DOWN => Ok(Next::After(GOING_DOWN)),
            Some(_) => {
                self.give_up(order, "restart-failed", "the system was told to restart, and goes on running")
            }
            // This service was restarted in between.
            None => {
                if matches!(order.task, Task::Reinstall(_))
                    && let Err(error) = installer::choose(self.root(), self.runner, envelope)
                {
                    return self.give_up(
                        order,
                        "boot-menu-refuses",
                        &format!("the boot menu cannot be told: {error:#}"),
                    );
                }
                self.restart(order)
            }
        }
    }

    /// Takes back what was begun.
    fn give_up(&mut self, order: &Order, code: &str, why: &str) -> Result<Next> {
        self.begun = None;
        if matches!(order.task, Task::Reinstall(_))
            && let Err(error) = installer::forget(self.root(), self.runner)
        {
            eprintln!("taking back what the boot menu was told: {error:#}");
        }
        let issue = Issue::new(
            code,
            format!("order {}", order.id),
            why,
            "mend the cause on this computer, then give the order again",
        );
        self.put_away(order.id, Some(Progress::Refused { issue }))?;
        Ok(Next::Over)
    }
}

/// The newest failure among the events of runs other than `own`.
fn failure(dir: &Path, own: RunId) -> Option<(&'static str, Issue)> {
    let runs = Spool::runs(dir).unwrap_or_default();
    runs.into_iter().rev().filter(|run| *run != own).find_map(|run| {
        let events = Spool::open(dir, run).and_then(|spool| spool.pending()).ok()?;
        events.into_iter().rev().find_map(|event| match event.kind {
            EventKind::Failed { phase, mut issues, .. } if !issues.is_empty() => {
                Some((phase.title(), issues.remove(0)))
            }
            _ => None,
        })
    })
}

/// Directories of packages on volumes of this system that no order needs: root's, and no links.
fn stale(root: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string(root.join("etc/fstab")).unwrap_or_default();
    let lines = table.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mounts =
        lines.filter_map(|line| line.split_whitespace().nth(1)).filter(|place| place.starts_with('/'));
    let mut dirs: Vec<PathBuf> = mounts
        .chain(["/home"])
        .filter(|place| *place != "/")
        .map(|place| root.join(place.trim_matches('/')).join(ON_VOLUME))
        .chain([root.join(crate::target::STAGE)])
        .collect();
    dirs.sort();
    dirs.dedup();
    let ours = nix::unistd::geteuid().as_raw();
    dirs.retain(|dir| dir.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == ours));
    dirs
}
