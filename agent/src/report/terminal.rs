//! A developer's terminal: plain lines, and below them a bar that stays in its place.

use std::io::{self, Write};
use std::time::Instant;

use akene_protocol::event::EventKind;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::lines::{Speed, amount, sentence};
use super::{Listener, Message, Tick};

/// Draws on standard error.
pub struct Terminal {
    bar: ProgressBar,
    speed: Speed,
}

impl Default for Terminal {
    fn default() -> Self {
        Terminal {
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)),
            speed: Speed::default(),
        }
    }
}

impl Terminal {
    fn line(&self, text: &str) -> Result<()> {
        self.bar.suspend(|| writeln!(io::stderr(), "{text}"))?;
        Ok(())
    }

    fn tick(&mut self, tick: &Tick) {
        let rate = self.speed.update(Instant::now(), tick);
        let style = match tick.total {
            Some(_) => "    [{bar:30}] {wide_msg}",
            None => "    {spinner} {wide_msg}",
        };
        // Both templates are ours and valid; the default style is the answer of the type system.
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("#>-"));
        self.bar.set_length(tick.total.unwrap_or(0));
        self.bar.set_message(amount(tick, rate, akene_protocol::Language::En));
        self.bar.set_position(tick.done);
    }
}

impl Listener for Terminal {
    fn message(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Event(event) => match &event.kind {
                EventKind::Progress { phase, done, total, unit, what } => self.tick(&Tick {
                    phase: *phase,
                    done: *done,
                    total: *total,
                    unit: *unit,
                    what: what.clone(),
                }),
                EventKind::PhaseFinished { .. } => {
                    self.bar.set_draw_target(ProgressDrawTarget::hidden());
                    *self = Terminal::default();
                }
                kind => self.line(&sentence(kind))?,
            },
            Message::Tick(tick) => self.tick(tick),
            Message::Called(name) => self.line(&format!("    This computer: {name}"))?,
            Message::Trouble(Some(issue)) => self.line(&format!("    {issue}"))?,
            Message::Waiting(text) => self.bar.set_message(text.clone()),
            Message::Detail(_)
            | Message::Language(_)
            | Message::Notice(_)
            | Message::Trouble(None)
            | Message::Flush(_) => {}
        }
        Ok(())
    }
}
