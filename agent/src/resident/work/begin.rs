//! From waiting for the time of an order, and for people, to the restart.
//!
//! People who are logged in are told, and may postpone it. Nothing begins that the server does not know of; what fails afterwards
//! is taken back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use akene_exec::Cmd;
use akene_protocol::order::{Order, OrderId, Progress, Task, Timing, When};
use akene_protocol::{Envelope, Issue};
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};

use super::server::is_the_servers;
use super::{LOOK, Next, Work};
use crate::fetch::Server;
use crate::resident::book::Stage;
use crate::resident::installer;
use crate::resident::people::{self, Notice, What};

/// How long a system may take to go down before the restart counts as failed.
const GOING_DOWN: Duration = Duration::from_secs(600);

/// Something people were told, until it begins.
pub(super) struct Announced {
    pub(super) order: OrderId,
    begins: Instant,
    /// Who was told. `None`: everybody, since nobody knew who was there.
    told: Option<BTreeSet<u32>>,
    /// Whether it was put off once for people who came later.
    put_off: bool,
}

impl Work<'_> {
    /// Waits for the time of an order and for people, then begins.
    pub(super) fn wait_and_begin(
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
    pub(super) fn going_down(&mut self, order: &Order, envelope: &Envelope) -> Result<Next> {
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
