//! The stream as plain lines, for serial consoles, pipes and logs, and as JSON.

use std::io::Write;
use std::time::{Duration, Instant};

use akene_protocol::event::{Event, EventKind, Unit};
use akene_protocol::{Bytes, Language};
use anyhow::{Context, Result};

use super::logfile::mark;
use super::words::{self, Text};
use super::{Listener, Message, Tick};

/// At most one progress line in this time: a serial console at 9600 baud carries ten lines a second.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// One event as a sentence for a person.
pub fn sentence(kind: &EventKind) -> String {
    match kind {
        EventKind::PhaseStarted { phase } => format!("==> {} [{phase}]", phase.title()),
        EventKind::PhaseFinished { phase } => format!("    done [{phase}]"),
        EventKind::Progress { phase, done, total, unit, what } => {
            let tick = Tick { phase: *phase, done: *done, total: *total, unit: *unit, what: what.clone() };
            format!("    {}", amount(&tick, None, Language::En))
        }
        EventKind::Log { level, message } => format!("    {}{message}", mark(*level)),
        EventKind::Planned { plan } => match plan.get("destroys").and_then(|d| d.as_array()).map(Vec::len) {
            Some(n) if n > 0 => format!("    the plan destroys {n} things"),
            _ => "    the plan destroys nothing".to_owned(),
        },
        EventKind::Failed { phase, issues, disks_changed } => {
            let disks = if *disks_changed { "disks were changed" } else { "no disk was changed" };
            let mut text = format!("==> FAILED [{phase}] ({disks})");
            for issue in issues {
                text.push_str(&format!("\n    {issue}"));
            }
            text
        }
        EventKind::Installed => "==> Installed".to_owned(),
        EventKind::Confirmed { system, kernel } => format!("==> Running: {system}, Linux {kernel}"),
    }
}

/// The same in the words of somebody who stands before the computer. What only an administrator needs stays
/// English.
fn sentence_in(language: Language, kind: &EventKind) -> String {
    let text = |text: Text| text.get(language);
    match kind {
        _ if language == Language::En => sentence(kind),
        EventKind::PhaseStarted { phase } => format!("==> {} [{phase}]", words::phase(*phase, language)),
        EventKind::PhaseFinished { phase } => format!("    {} [{phase}]", text(Text::Done)),
        EventKind::Failed { phase, issues, disks_changed } => {
            let disks = if *disks_changed { Text::Changed } else { Text::Unchanged };
            let mut out = format!("==> {} [{phase}] {}", text(Text::Failed), text(disks));
            for issue in issues {
                if let Some((what, next)) = words::reason(issue, language) {
                    out.push_str(&format!("\n    {what}. {} {next}", text(Text::ToDo)));
                }
                out.push_str(&format!("\n    {issue}"));
            }
            out
        }
        EventKind::Installed => format!("==> {}", text(Text::Installed)),
        other => sentence(other),
    }
}

/// How far it is: `12% 35.1 MiB of 290 MiB, 3.2 MiB/s, 1 min 20 s left: libc6`.
pub(super) fn amount(tick: &Tick, rate: Option<f64>, language: Language) -> String {
    let words = |text: Text| text.get(language);
    let count = |n: u64| match tick.unit {
        Unit::Bytes => Bytes(n).to_string(),
        Unit::Packages | Unit::Steps => n.to_string(),
    };
    let mut text = match tick.total {
        Some(total) if total > 0 => {
            let percent = (tick.done.min(total) as f64 * 100.0 / total as f64).floor();
            format!("{percent:3.0}% {} {} {}", count(tick.done), words(Text::Of), count(total))
        }
        _ => count(tick.done),
    };
    if tick.unit == Unit::Packages {
        text.push_str(&format!(" {}", words(Text::Packages)));
    }
    if let Some(rate) = rate.filter(|r| *r > 0.0) {
        if tick.unit == Unit::Bytes {
            text.push_str(&format!(", {}/s", Bytes(rate as u64)));
        }
        if let Some(total) = tick.total.filter(|t| *t > tick.done) {
            let left = duration((total - tick.done) as f64 / rate);
            text.push_str(&format!(", {left} {}", words(Text::Left)));
        }
    }
    if !tick.what.is_empty() {
        text.push_str(&format!(": {}", tick.what));
    }
    text
}

/// `45 s`, `1 min 20 s`, `2 h 5 min`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil().min(359_999.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Speed of the current phase, smoothed so that the time left does not jump.
#[derive(Default)]
pub(super) struct Speed {
    last: Option<(Instant, Tick)>,
    rate: Option<f64>,
}

impl Speed {
    /// Units per second, once they are known.
    pub(super) fn update(&mut self, now: Instant, tick: &Tick) -> Option<f64> {
        let same = |old: &Tick| {
            old.phase == tick.phase
                && old.unit == tick.unit
                && old.total == tick.total
                && old.done <= tick.done
        };
        match &self.last {
            Some((then, old)) if same(old) => {
                let seconds = now.duration_since(*then).as_secs_f64();
                if seconds >= 0.5 {
                    let rate = (tick.done - old.done) as f64 / seconds;
                    // A quarter of the new value: settles within some seconds, survives a pause.
                    self.rate = Some(self.rate.map_or(rate, |old| old * 0.75 + rate * 0.25));
                    self.last = Some((now, tick.clone()));
                }
            }
            _ => {
                self.last = Some((now, tick.clone()));
                self.rate = None;
            }
        }
        self.rate
    }
}

/// Plain lines on a stream.
pub struct Lines<W: Write + Send> {
    out: W,
    last_progress: Option<Instant>,
    last_waiting: Option<(Instant, String)>,
    speed: Speed,
    ending: &'static str,
    language: Language,
}

impl<W: Write + Send> Lines<W> {
    /// Lines that end in a line feed: pipes, logs, terminals.
    pub fn new(out: W) -> Self {
        Lines {
            out,
            last_progress: None,
            last_waiting: None,
            speed: Speed::default(),
            ending: "\n",
            language: Language::En,
        }
    }

    /// Lines for a console that may be in raw mode, where a line feed alone makes stairs.
    pub fn for_console(out: W, language: Language) -> Self {
        Lines { ending: "\r\n", language, ..Lines::new(out) }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        // Who reads a serial line in French has maybe no accents, but always letters.
        let plain = (self.language != Language::En).then(|| words::ascii(text));
        for line in plain.as_deref().unwrap_or(text).lines() {
            write!(self.out, "{line}{}", self.ending).context("writing to the console")?;
        }
        self.out.flush().context("writing to the console")
    }

    fn progress(&mut self, tick: &Tick) -> Result<()> {
        let now = Instant::now();
        let rate = self.speed.update(now, tick);
        if self.last_progress.is_some_and(|last| now.duration_since(last) < PROGRESS_EVERY) {
            return Ok(());
        }
        self.last_progress = Some(now);
        self.write(&format!("    {}", amount(tick, rate, self.language)))
    }
}

impl<W: Write + Send> Listener for Lines<W> {
    fn message(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Event(Event {
                kind: EventKind::Progress { phase, done, total, unit, what }, ..
            }) => self.progress(&Tick {
                phase: *phase,
                done: *done,
                total: *total,
                unit: *unit,
                what: what.clone(),
            }),
            Message::Tick(tick) => self.progress(tick),
            Message::Event(event) => {
                if matches!(event.kind, EventKind::PhaseStarted { .. }) {
                    self.last_progress = None;
                }
                self.write(&sentence_in(self.language, &event.kind))
            }
            Message::Called(name) => self.write(&format!("    This computer: {name}")),
            Message::Waiting(text) => {
                // A countdown changes every second; here it is a line every ten, and none that says the
                // same again.
                let due = self
                    .last_waiting
                    .as_ref()
                    .is_none_or(|(at, last)| at.elapsed() >= Duration::from_secs(10) && last != text);
                if due && !text.is_empty() {
                    self.last_waiting = Some((Instant::now(), text.clone()));
                    self.write(&format!("    {text}"))?;
                }
                Ok(())
            }
            Message::Trouble(Some(issue)) => {
                if let Some((what, next)) = words::reason(issue, self.language) {
                    let waiting = Text::Waiting.get(self.language);
                    self.write(&format!("    {waiting} {what}. {} {next}", Text::ToDo.get(self.language)))?;
                }
                self.write(&format!("    {}{issue}", mark(akene_protocol::event::Level::Warning)))
            }
            Message::Language(language) => {
                self.language = *language;
                Ok(())
            }
            // In English the event said it.
            Message::Notice(text) if self.language != Language::En => {
                self.write(&format!("    {}", text.get(self.language)))
            }
            Message::Notice(_) | Message::Trouble(None) | Message::Detail(_) | Message::Flush(_) => Ok(()),
        }
    }
}

/// Events as JSON, a line each.
pub struct Json<W: Write + Send>(pub W);

impl<W: Write + Send> Listener for Json<W> {
    fn message(&mut self, message: &Message) -> Result<()> {
        let Message::Event(event) = message else { return Ok(()) };
        let mut text = serde_json::to_vec(event).context("writing an event as JSON")?;
        text.push(b'\n');
        self.0.write_all(&text).context("writing an event")?;
        self.0.flush().context("writing an event")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_protocol::event::Phase;

    fn tick(done: u64, total: Option<u64>) -> Tick {
        Tick { phase: Phase::Stage, done, total, unit: Unit::Bytes, what: "libc6".into() }
    }

    #[test]
    fn progress_says_how_much_how_fast_and_how_long() {
        assert_eq!(
            amount(&tick(30 << 20, Some(120 << 20)), Some(1024.0 * 1024.0), Language::En),
            " 25% 30 MiB of 120 MiB, 1 MiB/s, 1 min 30 s left: libc6"
        );
        assert_eq!(amount(&tick(30 << 20, None), None, Language::En), "30 MiB: libc6");
        assert_eq!(amount(&tick(5, Some(0)), None, Language::En), "5 B: libc6");
        assert_eq!(duration(7500.0), "2 h 5 min");
    }

    #[test]
    fn a_serial_line_speaks_french_in_ascii() {
        let mut lines = Lines::for_console(Vec::new(), Language::Fr);
        let event = |kind| {
            let at = jiff::Timestamp::UNIX_EPOCH;
            let run = akene_protocol::RunId([0; 8]);
            Message::Event(Event {
                version: akene_protocol::event::VERSION,
                run,
                seq: 1,
                at,
                uptime_ms: 0,
                kind,
            })
        };
        lines.message(&event(EventKind::PhaseStarted { phase: Phase::Network })).unwrap();
        let issue = akene_protocol::Issue::new("no-cable", "", "every card is without a cable", "plug it in");
        lines.message(&Message::Trouble(Some(issue))).unwrap();
        lines.message(&Message::Tick(tick(30 << 20, Some(120 << 20)))).unwrap();
        lines.message(&event(EventKind::Installed)).unwrap();
        let text = String::from_utf8(lines.out).unwrap();
        assert!(text.is_ascii(), "{text}");
        for part in [
            "==> Connexion au reseau [network]",
            "EN ATTENTE : aucun cable reseau n'est branche. Que faire : branchez le cable",
            "every card is without a cable",
            "25% 30 MiB sur 120 MiB",
            "Le systeme est installe.",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn speed_forgets_the_last_phase() {
        let start = Instant::now();
        let mut speed = Speed::default();
        assert_eq!(speed.update(start, &tick(0, Some(100))), None);
        assert_eq!(speed.update(start + Duration::from_secs(1), &tick(50, Some(100))), Some(50.0));
        assert_eq!(speed.update(start + Duration::from_secs(2), &tick(0, Some(200))), None);
    }

    #[test]
    fn a_flood_of_progress_is_one_line() {
        let mut lines = Lines::new(Vec::new());
        for i in 0..1000 {
            lines.message(&Message::Tick(tick(i, Some(1000)))).unwrap();
        }
        assert_eq!(String::from_utf8(lines.out).unwrap().lines().count(), 1);
    }
}
