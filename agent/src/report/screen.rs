//! What the volunteer sees.
//!
//! The whole screen is one page that fits 80 by 25 characters: what this computer is called, in
//! digits that can be read from across the room, the phases with the present one marked, a bar with
//! bytes, speed and time left. A failure replaces the list with what happened, what to do, and what to
//! read out on the phone. The page is drawn anew when something changes but the bar, which
//! [`indicatif`] draws below it.
//!
//! Only characters that every console font has are used.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use akene_protocol::event::{Event, EventKind, Level, Phase};
use akene_protocol::{Issue, Language};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::lines::{Speed, amount};
use super::words::{self, Text};
use super::{Listener, Message, Tick, digits};

/// Widest line we write.
const WIDTH: usize = 78;

/// How often the bar may be drawn, per second. A VGA text console over a remote-control card is slow.
const DRAWS_PER_SECOND: u8 = 5;

/// A terminal device as [`indicatif`] wants it, drawn with the control sequences every Linux console
/// and terminal emulator knows.
#[derive(Clone)]
struct Console(Arc<Mutex<File>>);

impl Console {
    fn put(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes())
    }

    fn fd(&self) -> RawFd {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_raw_fd()
    }

    fn by(&self, n: usize, direction: char) -> io::Result<()> {
        if n == 0 { Ok(()) } else { self.put(&format!("\x1b[{n}{direction}")) }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Console({})", self.fd())
    }
}

impl TermLike for Console {
    fn width(&self) -> u16 {
        WIDTH as u16
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.by(n, 'A')
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.by(n, 'B')
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.by(n, 'C')
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.by(n, 'D')
    }
    fn write_line(&self, s: &str) -> io::Result<()> {
        self.put(&format!("{s}\r\n"))
    }
    fn write_str(&self, s: &str) -> io::Result<()> {
        self.put(s)
    }
    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K")
    }
    fn flush(&self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// The page of a screen.
pub struct Screen {
    console: Console,
    page: Page,
    bar: Option<ProgressBar>,
    speed: Speed,
}

/// What the page shows; drawn by [`Page::text`].
#[derive(Clone, Debug, Default, PartialEq)]
struct Page {
    site: String,
    name: String,
    done: Vec<Phase>,
    current: Option<Phase>,
    remark: String,
    /// In place of remarks.
    notice: Option<Text>,
    waiting: String,
    failure: Option<(Phase, Vec<Issue>, bool)>,
    trouble: Option<Issue>,
    ended: Option<String>,
    language: Language,
}

impl Screen {
    /// Draws on a console device. `site` is the name in the stamp, which also says in which language.
    pub fn new(console: File, site: &str, language: Language) -> Screen {
        Screen {
            console: Console(Arc::new(Mutex::new(console))),
            page: Page { site: site.to_owned(), language, ..Page::default() },
            bar: None,
            speed: Speed::default(),
        }
    }

    fn redraw(&mut self) -> Result<()> {
        if let Some(bar) = self.bar.take() {
            // What it drew is cleared with the page.
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let text = self.page.text().replace('\n', "\r\n");
        // Home, page, clear what is below: no flicker, as nothing is blanked first.
        let text = text.replace("\r\n", "\x1b[K\r\n");
        self.console.put(&format!("\x1b[?25l\x1b[H{text}\x1b[J")).context("drawing the screen")
    }

    fn tick(&mut self, tick: &Tick) -> Result<()> {
        if self.page.failure.is_some() {
            return Ok(());
        }
        if !self.page.waiting.is_empty() {
            self.page.waiting.clear();
            self.redraw()?;
        }
        let rate = self.speed.update(Instant::now(), tick);
        let console = &self.console;
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::term_like_with_hz(Box::new(console.clone()), DRAWS_PER_SECOND);
            ProgressBar::with_draw_target(None, target)
        });
        let style = match tick.total {
            Some(_) => "  [{bar:74}]\n  {msg}",
            None => "  {spinner} {msg}",
        };
        // Both templates are ours and valid; the default style is the answer of the type system.
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("#>-").tick_chars("|/-\\|"));
        bar.set_length(tick.total.unwrap_or(0));
        bar.set_message(shorten(&amount(tick, rate, self.page.language), WIDTH - 4));
        bar.set_position(tick.done);
        bar.tick();
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        match &event.kind {
            EventKind::Progress { phase, done, total, unit, what } => {
                let tick =
                    Tick { phase: *phase, done: *done, total: *total, unit: *unit, what: what.clone() };
                return self.tick(&tick);
            }
            EventKind::PhaseStarted { phase } => {
                self.page.current = Some(*phase);
                self.page.waiting.clear();
                self.page.remark.clear();
                // A new attempt after a failure begins with a phase.
                self.page.failure = None;
                self.page.trouble = None;
                self.page.done.retain(|p| p < phase);
            }
            EventKind::PhaseFinished { phase } => {
                self.page.done.push(*phase);
                self.page.current = None;
            }
            EventKind::Log { level: Level::Debug, .. } | EventKind::Planned { .. } => return Ok(()),
            // What the rooms remark is English. It is in the log, and of no use to who does not read that.
            EventKind::Log { .. } if self.page.language != Language::En => return Ok(()),
            EventKind::Log { message, .. } => {
                self.page.remark = message.lines().next().unwrap_or_default().to_owned();
            }
            EventKind::Failed { phase, issues, disks_changed } => {
                self.page.failure = Some((*phase, issues.clone(), *disks_changed));
            }
            EventKind::Installed => {
                self.page.ended = Some(self.page.say(Text::Installed).into());
            }
            EventKind::Confirmed { system, .. } => {
                self.page.ended = Some(format!("{system} {}", self.page.say(Text::Runs)));
            }
        }
        self.redraw()
    }
}

impl Listener for Screen {
    fn message(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Event(event) => self.event(event),
            Message::Tick(tick) => self.tick(tick),
            Message::Called(name) => {
                self.page.name.clone_from(name);
                self.redraw()
            }
            Message::Waiting(line) => {
                self.page.waiting.clone_from(line);
                self.redraw()
            }
            Message::Notice(text) => {
                self.page.notice = Some(*text);
                self.redraw()
            }
            Message::Trouble(issue) => {
                self.page.trouble.clone_from(issue);
                self.redraw()
            }
            Message::Language(language) => {
                self.page.language = *language;
                self.redraw()
            }
            Message::Detail(_) | Message::Flush(_) => Ok(()),
        }
    }
}

impl Page {
    fn say(&self, text: Text) -> &'static str {
        text.get(self.language)
    }

    fn text(&self) -> String {
        let mut lines = vec![format!(" Akène  {}", self.site)];
        if !self.name.is_empty() {
            lines.push(String::new());
            lines.extend(digits::large(&self.name).iter().map(|l| format!("   {l}")));
            lines.push(format!("   {} {}", self.say(Text::Number), self.name));
        }
        lines.push(String::new());
        match (&self.failure, &self.trouble) {
            (Some((phase, issues, disks_changed)), _) => {
                self.failure(&mut lines, *phase, issues, *disks_changed);
            }
            (None, Some(issue)) => {
                let phase = self.current.unwrap_or(Phase::Network);
                lines.push(format!("  {} {}", self.say(Text::Waiting), words::phase(phase, self.language)));
                self.explain(&mut lines, std::slice::from_ref(issue));
            }
            (None, None) => {
                for phase in Phase::ALL.into_iter().filter(|p| *p != Phase::Confirm) {
                    let mark = match phase {
                        _ if self.current == Some(phase) => '>',
                        _ if self.done.contains(&phase) => '*',
                        _ => ' ',
                    };
                    lines.push(format!("  [{mark}] {}", words::phase(phase, self.language)));
                }
            }
        }
        let remark = self.notice.map_or(self.remark.as_str(), |notice| self.say(notice));
        for line in [remark, self.ended.as_deref().unwrap_or_default(), &self.waiting] {
            if !line.is_empty() {
                lines.push(format!("  {line}"));
            }
        }
        lines.iter().map(|l| shorten(l, WIDTH) + "\n").collect()
    }

    fn failure(&self, lines: &mut Vec<String>, phase: Phase, issues: &[Issue], disks_changed: bool) {
        lines.push(format!("  {} {}", self.say(Text::Stopped), words::phase(phase, self.language)));
        let disks = if disks_changed { Text::Changed } else { Text::Unchanged };
        lines.push(format!("  {}", self.say(disks)));
        self.explain(lines, issues);
    }

    fn explain(&self, lines: &mut Vec<String>, issues: &[Issue]) {
        // Three issues fit; the log and the server have all of them.
        for issue in issues.iter().take(3) {
            lines.push(String::new());
            let about = if issue.path.is_empty() { String::new() } else { format!("{}: ", issue.path) };
            let (happened, to_do) = (self.say(Text::Happened), self.say(Text::ToDo));
            if let Some((what, next)) = words::reason(issue, self.language) {
                wrap(&format!("{happened} {what}"), lines, 2);
                wrap(&format!("{to_do} {next}"), lines, 3);
                // The numbers are for the phone; where several reasons have to fit, they are in the fleet.
                if issues.len() == 1 {
                    wrap(&format!("{} {about}{}", self.say(Text::Detail), issue.message), lines, 3);
                }
                continue;
            }
            wrap(&format!("{happened} {about}{}", issue.message), lines, 4);
            if !issue.next.is_empty() {
                wrap(&format!("{to_do} {}", issue.next), lines, 4);
            }
        }
        if issues.len() > 3 {
            lines.push(format!("  {} {}", self.say(Text::More), issues.len() - 3));
        }
        let codes: Vec<&str> = issues.iter().take(3).map(|i| i.code.as_str()).collect();
        lines.push(String::new());
        lines.push(format!("  {} {}, {}", self.say(Text::Phone), self.name, codes.join(", ")));
    }
}

/// Breaks a text into lines of at most [`WIDTH`], at most `most` of them.
fn wrap(text: &str, lines: &mut Vec<String>, most: usize) {
    let mut made: Vec<String> = vec!["  ".into()];
    for word in text.split_whitespace() {
        let line = made.last_mut().expect("it begins with one and only grows");
        if line.chars().count() + word.chars().count() + 1 > WIDTH && line.trim() != "" {
            made.push(format!("    {word}"));
        } else {
            if !line.ends_with(' ') {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    if made.len() > most {
        made.truncate(most);
        if let Some(last) = made.last_mut() {
            last.push_str(" ...");
        }
    }
    lines.append(&mut made);
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_protocol::event::{RunId, Unit, VERSION};

    fn event(kind: EventKind) -> Message {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Message::Event(Event { version: VERSION, run: RunId([0; 8]), seq: 1, at, uptime_ms: 0, kind })
    }

    fn drawn(messages: &[Message]) -> (Screen, String) {
        let mut file = tempfile::tempfile().unwrap();
        let mut screen = Screen::new(file.try_clone().unwrap(), "Lannion", Language::En);
        for message in messages {
            screen.message(message).unwrap();
        }
        use std::io::{Read, Seek};
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        (screen, text)
    }

    #[test]
    fn the_page_fits_a_vga_text_screen_in_every_state() {
        let long = "a very long explanation with many words in it ".repeat(20);
        let issue = Issue::new("disk-too-small", "sda", long.clone(), long);
        let mut page = Page {
            site: "Lannion".into(),
            name: "123456-7".into(),
            remark: "x".repeat(200),
            ..Page::default()
        };
        page.ended = Some("ended".into());
        assert!(page.text().contains("xxxx"));
        page.notice = Some(Text::MayBePulled);
        assert!(page.text().contains(Text::MayBePulled.get(Language::En)) && !page.text().contains("xxxx"));
        page.waiting = "trying again in 5 s".into();
        // The bar adds two lines.
        assert!(page.text().lines().count() <= 23, "{}", page.text());
        page.failure = Some((Phase::Plan, vec![issue; 1], false));
        assert!(page.text().lines().count() <= 25, "{}", page.text());
        assert!(page.text().lines().all(|l| l.chars().count() <= 80));
        assert!(page.text().contains("On the phone, say: number 123456-7, disk-too-small"));
        assert!(page.text().contains("Nothing on the disks"));
    }

    #[test]
    fn the_page_speaks_french_and_keeps_the_words_for_the_phone() {
        let issue = Issue::new("no-cable", "", "every card is without a cable", "plug it in");
        let mut page = Page {
            name: "1042-9".into(),
            language: Language::Fr,
            current: Some(Phase::Network),
            ..Page::default()
        };
        assert!(page.text().contains("[>] Connexion au réseau"), "{}", page.text());
        page.trouble = Some(issue.clone());
        for part in ["EN ATTENTE : Connexion au réseau", "aucun câble réseau", "numéro 1042-9, no-cable"]
        {
            assert!(page.text().contains(part), "{part} is not in {}", page.text());
        }
        page.failure = Some((Phase::Plan, vec![issue; 3], false));
        assert!(page.text().contains("Rien n'a été modifié"), "{}", page.text());
        assert!(page.text().lines().count() <= 25, "{}", page.text());
        assert!(page.text().lines().all(|l| l.chars().count() <= 80));
    }

    #[test]
    fn a_stick_that_is_read_while_the_disks_change_is_said_to_stay_and_asked_back() {
        let pulled = crate::fetch::medium::stick::pulled();
        for (language, parts) in [
            (Language::En, ["DO NOT PULL THE STICK OUT", "was pulled out before", "put it back"]),
            (Language::Fr, ["NE RETIREZ PAS LA CLÉ", "a été retiré trop tôt", "remettez la clé"]),
        ] {
            let mut page = Page { language, current: Some(Phase::Stage), ..Page::default() };
            page.notice = Some(Text::LeaveIn);
            let whole = page.text();
            assert!(whole.contains(Text::LeaveIn.get(language)) && whole.contains(parts[0]), "{whole}");
            page.trouble = Some(pulled.clone());
            for part in parts {
                assert!(page.text().contains(part), "{part} is not in {}", page.text());
            }
            page.trouble = None;
            assert_eq!(page.text(), whole, "it goes on");
            page.notice = Some(Text::MayBePulled);
            assert!(!page.text().contains(parts[0]), "{}", page.text());
        }
    }

    #[test]
    fn a_person_who_reads_another_language_is_heard() {
        let started = || event(EventKind::PhaseStarted { phase: Phase::Stage });
        let (_, text) = drawn(&[started(), Message::Language(Language::Fr)]);
        let (before, after) = text.split_at(text.rfind("Lannion").unwrap());
        assert!(before.contains("[>] Downloading") && after.contains("[>] Téléchargement"), "{text}");
    }

    #[test]
    fn phases_are_ticked_off_and_the_bar_shows_amounts() {
        let tick = |done| {
            let (total, unit) = (Some(100 << 20), Unit::Bytes);
            Message::Tick(Tick { phase: Phase::Stage, done, total, unit, what: "libc6".into() })
        };
        let (screen, text) = drawn(&[
            Message::Called("1042-9".into()),
            event(EventKind::PhaseStarted { phase: Phase::Probe }),
            event(EventKind::PhaseFinished { phase: Phase::Probe }),
            event(EventKind::PhaseStarted { phase: Phase::Stage }),
            tick(50 << 20),
        ]);
        assert!(text.contains("[*] Looking at this computer"), "{text}");
        assert!(text.contains("[>] Downloading"), "{text}");
        assert!(text.contains("50% 50 MiB of 100 MiB"), "{text}");
        assert_eq!(screen.page.current, Some(Phase::Stage));
    }
}
