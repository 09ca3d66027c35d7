//! The technician's text interface, where a stick is used in front of the machine and nobody else can be asked.
//!
//! ```text
//! consoles --bytes--> keys::Decoder --Key--> dialog::Dialog::press --> Answer --> run::technician
//!    ^                                            |
//!    +---- terminal::Vt <-- Frame <-- draw::draw <+
//! ```
//!
//! - [`dialog`] is the state machine, [`draw`] makes frames of it, [`outlook`] says what a plan means, [`number`] reads what is typed
//!   or scanned, [`words`] has all texts: pure, tested without a terminal.
//! - [`crate::boot::keyboard`] has the kernel read the keys of the language that is spoken.
//! - [`keys`] and [`terminal`] are the edge: ratatui over device files. crossterm is left out: it wants the process's own terminal,
//!   and a live system has several consoles and owns none.
//!
//! All consoles show the same dialog, each in its own size and look; a key from any counts. While it lasts the listeners of the
//! consoles are behind their [curtains](crate::report::curtain); before and after, the usual screen shows what the run does.
//! [`rehearsal`] runs the dialog without a run, for people who want to see it and for tests.

pub mod dialog;
pub mod draw;
pub mod keys;
pub mod number;
pub mod outlook;
pub mod rehearsal;
pub mod terminal;
pub mod words;

use std::os::fd::AsFd;

use akene_planner::Plan;
use akene_protocol::api::Consent;
use akene_protocol::{Inventory, Issue, Language, Resolved};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::boot::keyboard::Keyboard;
use crate::boot::{Console, Consoles};
use crate::fetch::Permission;
use crate::run::technician::{Choice, DECLINED, LEFT, Next, Offer, Offered, Technician};
use dialog::{Answer, Answers, Dialog};
use keys::Key;
use outlook::Outlook;
use terminal::Tty;

/// What follows Escape within this time belongs to it (milliseconds): a key on a serial line at 1200 baud takes 25.
const ESCAPE: u16 = 60;

/// How often a terminal is asked for its size (milliseconds).
const LOOK: u16 = 500;

/// The technician at the consoles.
pub struct Attended {
    consoles: Vec<Console>,
    keyboard: Keyboard,
    language: Language,
    site: String,
    profiles: Vec<Offered>,
    answers: Answers,
}

/// A technician who is asked at these consoles, with this keyboard, at first in this language.
pub fn open(consoles: &Consoles, keyboard: Keyboard, language: Language) -> Attended {
    Attended {
        consoles: consoles.0.clone(),
        keyboard,
        language,
        site: String::new(),
        profiles: Vec::new(),
        answers: Answers::default(),
    }
}

impl Attended {
    /// Leads a dialog to its end. What was answered is kept, however it ends.
    fn talk(&mut self, mut dialog: Dialog) -> Result<Answer> {
        let mut session = Session::begin(&self.consoles)?;
        let answer = session.lead(&mut dialog, &mut self.keyboard);
        self.answers = dialog.answers().clone();
        answer
    }
}

impl Technician for Attended {
    fn choose(&mut self, offer: &Offer<'_>) -> Result<Choice> {
        offer.site.clone_into(&mut self.site);
        self.profiles = offer.profiles.to_vec();
        let (answers, lists) = (self.answers.clone(), (offer.associations, offer.profiles));
        let dialog = Dialog::choose(&self.site, self.language, answers, lists, offer.known, offer.inventory);
        match self.talk(dialog)? {
            Answer::Chosen(choice) => Ok(choice),
            _ => Err(left().into()),
        }
    }

    fn confirm(
        &mut self,
        plan: &Plan,
        inventory: &Inventory,
        resolved: &Resolved,
        most: Consent,
    ) -> Result<Permission, Issue> {
        let permission = Permission::given(most, "the technician");
        if plan.needs > most {
            // Nobody is asked for what the medium does not allow: the permission refuses, with the reasons.
            return Ok(permission);
        }
        let title = self.profiles.iter().find(|p| p.name == resolved.profile).and_then(|p| p.title.clone());
        let profile = title.unwrap_or_else(|| resolved.profile.clone());
        let outlook = Outlook { plan: plan.clone(), inventory: inventory.clone(), profile };
        let dialog = Dialog::confirm(&self.site, self.language, self.answers.clone(), outlook);
        match self.talk(dialog) {
            Ok(Answer::Confirmed) => Ok(permission),
            Ok(Answer::Declined) => Err(Issue::new(
                DECLINED,
                "",
                "the technician read the plan and went back to the questions",
                "answer them again",
            )),
            Ok(_) => Err(left()),
            Err(error) => Err(Issue::new(
                "no-console",
                "",
                format!("nobody can be asked: {error:#}"),
                "connect a screen and a keyboard, or a serial line, and start again",
            )),
        }
    }

    fn language(&self) -> Option<Language> {
        self.answers.language
    }

    fn complaint(&mut self) -> Option<anyhow::Error> {
        self.keyboard.complaint()
    }

    /// Rings on every console: whoever walked away comes back and reads that the stick is needed no more.
    fn pulled(&mut self) {
        for console in &self.consoles {
            if let Ok(mut device) = console.open() {
                // A line that takes nothing rings nothing.
                std::io::Write::write(&mut device, b"\x07").ok();
            }
        }
    }

    fn show(&mut self, issues: &[Issue]) -> Next {
        let dialog = Dialog::tell(&self.site, self.language, self.answers.clone(), issues);
        match self.talk(dialog) {
            Ok(Answer::Anew) => Next::Anew,
            // Without a console there is nobody who could answer differently.
            _ => Next::Restart,
        }
    }
}

fn left() -> Issue {
    Issue::new(LEFT, "", "the technician left without installing", "start from the stick or disc again")
}

/// The consoles while somebody talks there. What they were before comes back when it is dropped.
struct Session<'a> {
    /// Each with whether what it shows is out of date.
    ttys: Vec<(Tty, bool)>,
    consoles: &'a [Console],
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.ttys.clear();
        self.consoles.iter().for_each(|console| console.curtain.raise());
    }
}

impl Session<'_> {
    fn begin(consoles: &[Console]) -> Result<Session<'_>> {
        consoles.iter().for_each(|console| console.curtain.lower());
        let mut session = Session { ttys: Vec::new(), consoles };
        let mut why = anyhow::anyhow!("there is no console");
        for console in consoles {
            match Tty::open(console) {
                Ok(tty) => session.ttys.push((tty, true)),
                Err(error) => why = error,
            }
        }
        if session.ttys.is_empty() { Err(why.context("looking for a console")) } else { Ok(session) }
    }

    /// Until there is an answer.
    fn lead(&mut self, dialog: &mut Dialog, keyboard: &mut Keyboard) -> Result<Answer> {
        loop {
            keyboard.speak(dialog.language());
            self.draw(dialog);
            for key in self.keys()? {
                if key == Key::Ctrl('l') {
                    self.ttys.iter_mut().for_each(|(tty, _)| tty.forget());
                } else if let Some(answer) = dialog.press(key) {
                    return Ok(answer);
                }
                self.ttys.iter_mut().for_each(|(_, stale)| *stale = true);
            }
        }
    }

    fn draw(&mut self, dialog: &mut Dialog) {
        let mut most = None;
        for (tty, stale) in &mut self.ttys {
            if (*stale || tty.is_resized())
                && let Some(scroll) = tty.draw(dialog)
            {
                most = most.max(Some(scroll));
                *stale = false;
            }
        }
        if let Some(most) = most {
            dialog.limit_scroll(most);
        }
    }

    /// Waits for something to happen: keys, or that a console has another size or takes more. A console that is gone is left out.
    fn keys(&mut self) -> Result<Vec<Key>> {
        let mut gone = None;
        self.ttys.retain_mut(|(tty, _)| tty.write().map_err(|error| gone = Some(error)).is_ok());
        let waits = self.ttys.iter().any(|(tty, _)| tty.waits());
        let timeout = PollTimeout::from(if waits { ESCAPE } else { LOOK });
        let mut polled: Vec<PollFd<'_>> =
            self.ttys.iter().map(|(tty, _)| PollFd::new(tty.as_fd(), wanted(tty))).collect();
        let quiet = match poll(&mut polled, timeout) {
            Ok(ready) => ready == 0,
            Err(Errno::EINTR) => false,
            Err(errno) => return Err(errno).context("waiting for a key"),
        };
        let readable: Vec<bool> = polled
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT)))
            .collect();
        let (mut keys, mut readable) = (Vec::new(), readable.into_iter());
        self.ttys.retain_mut(|(tty, _)| {
            if readable.next() != Some(true) {
                keys.extend(quiet.then(|| tty.pause()).flatten());
                return true;
            }
            match tty.read() {
                Ok(read) => keys.extend(read),
                Err(error) => {
                    gone = Some(error);
                    return false;
                }
            }
            true
        });
        match gone {
            Some(error) if self.ttys.is_empty() => Err(error),
            _ => Ok(keys),
        }
    }
}

fn wanted(tty: &Tty) -> PollFlags {
    if tty.has_output() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN }
}
