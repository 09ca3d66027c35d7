//! Telling everybody what happens: screen, serial console, log, server.
//!
//! There is one stream of numbered [`Event`]s, and everybody who shows it is a *listener*: the
//! [`screen`] (a volunteer looks at it), plain [`lines`](mod@lines) (serial consoles, pipes, JSON), the
//! [`logfile`], and the [`courier`] that brings it to the server. Each listener has a thread and a
//! queue of its own, so that one that hangs (a serial line with flow control, a dead server) never
//! holds up the installation, and one that dies is simply no longer told. Where somebody talks to a person on a console, its
//! listener is silent behind a [`curtain`].
//!
//! Progress is shown many times a second on the screen but numbered only once a second: between two
//! numbered events listeners get [`Message::Tick`]s that may be lost.
//!
//! Secrets that the run knows are handed to [`Reporter::hide`]; from then on they are replaced in
//! everything that passes here, so that even the output of a foreign program cannot carry them out.

pub mod courier;
pub mod curtain;
mod digits;
pub mod lines;
pub mod logfile;
pub mod screen;
pub mod spool;
pub mod terminal;
#[cfg(test)]
mod tests;
pub mod words;

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use akene_protocol::event::{Event, EventKind, Level, Phase, RunId, Unit, VERSION};
use akene_protocol::{AssetNumber, Issue, Language, Secret};
use anyhow::{Context, Result};
use jiff::Timestamp;

/// How often progress becomes a numbered event.
const NUMBERED_EVERY: Duration = Duration::from_secs(1);

/// How often progress reaches the screen.
const TICK_EVERY: Duration = Duration::from_millis(100);

/// Messages a listener may lag behind before it loses some.
const QUEUE: usize = 4096;

/// Shorter texts are not hidden: replacing `abc` everywhere would make logs unreadable, and nothing
/// that short is a secret.
const SHORTEST_SECRET: usize = 6;

/// What a listener is told.
#[derive(Clone, Debug)]
pub enum Message {
    /// Something happened.
    Event(Event),
    /// Progress between two numbered events.
    Tick(Tick),
    /// A line for the log file only.
    Detail(String),
    /// What people call this computer: its asset number, or before it has one a code made of the run.
    Called(String),
    /// A line that replaces the progress bar for a while: a countdown.
    Waiting(String),
    /// Something a person at the machine has to mend (a cable) before it goes on, or that it is mended.
    Trouble(Option<Issue>),
    /// People read this language from now on.
    Language(Language),
    /// Something whoever stands there should know from now on. It was an event, too.
    Notice(words::Text),
    /// Finish what is queued and say so.
    Flush(SyncSender<()>),
}

/// Progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// In which phase.
    pub phase: Phase,
    /// Done so far.
    pub done: u64,
    /// Of how much, if known.
    pub total: Option<u64>,
    /// Counted in what.
    pub unit: Unit,
    /// The thing in hand.
    pub what: String,
}

/// Something that shows the stream. It runs in a thread of its own.
pub trait Listener: Send {
    /// Shows one message. An error ends the listener, nothing else.
    fn message(&mut self, message: &Message) -> Result<()>;
}

/// The giving end of the stream. Cheap to clone, usable from any thread, never blocks.
#[derive(Clone)]
pub struct Reporter(Arc<Mutex<Inner>>);

struct Inner {
    run: RunId,
    next: u64,
    phase: Option<Phase>,
    listeners: Vec<SyncSender<Message>>,
    courier: Option<courier::Handle>,
    hidden: Vec<String>,
    language: Language,
    last_numbered: Option<Instant>,
    last_tick: Option<Instant>,
    failed: bool,
    sealed: bool,
}

impl Reporter {
    /// The stream of a run, with nobody listening yet. `first` is the number of its next event: 1 for
    /// a new run.
    pub fn new(run: RunId, first: u64) -> Self {
        Reporter(Arc::new(Mutex::new(Inner {
            run,
            next: first,
            phase: None,
            listeners: Vec::new(),
            courier: None,
            hidden: Vec::new(),
            language: Language::default(),
            last_numbered: None,
            last_tick: None,
            failed: false,
            sealed: false,
        })))
    }

    /// A stream with a new random run id.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub fn for_new_run() -> Result<Self> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|e| anyhow::anyhow!("drawing a run id: {e}"))?;
        Ok(Reporter::new(RunId(id), 1))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A thread that panicked while it reported leaves nothing half done that would matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `listener` hear everything from now on.
    pub fn listen(&self, name: &str, mut listener: impl Listener + 'static) -> Result<()> {
        let (sender, receiver): (_, Receiver<Message>) = sync_channel(QUEUE);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(message) = receiver.recv() {
                    match &message {
                        Message::Flush(done) => drop(done.try_send(())),
                        _ if listener.message(&message).is_err() => return,
                        _ => {}
                    }
                }
            })
            .with_context(|| format!("starting the thread that reports to the {name}"))?;
        self.lock().listeners.push(sender);
        Ok(())
    }

    /// Starts keeping events for the server, see [`courier`].
    pub fn start_courier(&self) -> Result<()> {
        let handle = courier::start()?;
        self.lock().courier = Some(handle);
        Ok(())
    }

    /// The courier, if there is one.
    pub fn courier(&self) -> Option<courier::Handle> {
        self.lock().courier.clone()
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.lock().run
    }

    /// The phase the run is in.
    pub fn current_phase(&self) -> Phase {
        self.lock().phase.unwrap_or(Phase::Boot)
    }

    /// From now on people at the machine are spoken to in this language. Listeners begin with one of their own.
    pub fn speak(&self, language: Language) {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.language, language) != language {
            inner.tell(Message::Language(language));
        }
    }

    /// The language of countdowns.
    pub fn language(&self) -> Language {
        self.lock().language
    }

    /// Replaces this secret wherever it appears from now on.
    pub fn hide(&self, secret: &Secret) {
        self.hide_text(secret.expose());
    }

    /// Replaces the password in an address like `http://NAME:PASSWORD@HOST/` wherever it appears from now on.
    pub fn hide_password_of(&self, address: &str) {
        let authority = address.split_once("://").map_or("", |(_, rest)| rest).split('/').next();
        let person = authority.and_then(|a| a.rsplit_once('@')).map(|(person, _)| person);
        if let Some((_, password)) = person.and_then(|p| p.split_once(':')) {
            self.hide_text(password);
        }
    }

    fn hide_text(&self, text: &str) {
        if text.len() >= SHORTEST_SECRET {
            self.lock().hidden.push(text.to_owned());
        }
    }

    /// From now on people can call this computer by its number.
    pub fn called(&self, asset: AssetNumber) {
        self.lock().tell(Message::Called(asset.to_string()));
    }

    /// Before it has a number: by a code made of the run, which the server knows too.
    pub fn called_by_run(&self) {
        let code = spoken_code(self.run());
        self.lock().tell(Message::Called(code));
    }

    /// A phase begins; the one before has ended well.
    pub fn phase(&self, phase: Phase) {
        let mut inner = self.lock();
        if inner.phase == Some(phase) {
            return;
        }
        inner.end_phase();
        inner.phase = Some(phase);
        inner.emit(EventKind::PhaseStarted { phase });
    }

    /// The current phase has ended well and no other begins yet.
    pub fn phase_done(&self) {
        self.lock().end_phase();
    }

    /// Work is going on in the current phase. Call it as often as you like.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: Unit, what: &str) {
        let mut inner = self.lock();
        let Some(phase) = inner.phase else { return };
        let now = Instant::now();
        let due = |last: Option<Instant>, every| last.is_none_or(|last| now.duration_since(last) >= every);
        let complete = total == Some(done);
        // A backlog means that nobody fetches events; progress that nobody saw is worth no memory.
        let wanted = inner.courier.as_ref().is_none_or(|c| !c.is_behind());
        if due(inner.last_numbered, NUMBERED_EVERY) && wanted {
            inner.last_numbered = Some(now);
            inner.last_tick = Some(now);
            inner.emit(EventKind::Progress { phase, done, total, unit, what: what.to_owned() });
        } else if complete || due(inner.last_tick, TICK_EVERY) {
            inner.last_tick = Some(now);
            let what = inner.clean(what);
            inner.tell(Message::Tick(Tick { phase, done, total, unit, what }));
        }
    }

    /// A line for the log. [`Level::Debug`] goes to the log file only.
    pub fn log(&self, level: Level, message: impl Into<String>) {
        let message = message.into();
        let mut inner = self.lock();
        if level == Level::Debug {
            let message = inner.clean(&message);
            inner.tell(Message::Detail(message));
        } else {
            inner.emit(EventKind::Log { level, message });
        }
    }

    /// A line worth reading.
    pub fn info(&self, message: impl Into<String>) {
        self.log(Level::Info, message);
    }

    /// A line about something that is not as it should be.
    pub fn warn(&self, message: impl Into<String>) {
        self.log(Level::Warning, message);
    }

    /// A line for the log file only.
    pub fn debug(&self, message: impl Into<String>) {
        self.log(Level::Debug, message);
    }

    /// The plan that will be carried out.
    pub fn planned(&self, plan: &akene_planner::Plan) -> Result<()> {
        let plan = serde_json::to_value(plan).context("writing the plan as JSON")?;
        self.lock().emit(EventKind::Planned { plan });
        Ok(())
    }

    /// Shows a countdown or another line that changes in place.
    pub fn waiting(&self, line: &str) {
        let mut inner = self.lock();
        let line = inner.clean(line);
        inner.tell(Message::Waiting(line));
    }

    /// Something whoever stands at the machine should know until the run ends, in their language.
    pub fn notice(&self, text: words::Text) {
        self.info(text.get(Language::En));
        self.lock().tell(Message::Notice(text));
    }

    /// Shows what keeps the run from going on, without ending it: there is nobody to tell yet, and what
    /// is wrong (a cable) may be mended at any moment. `None`: it goes on.
    pub fn trouble(&self, issue: Option<Issue>) {
        let mut inner = self.lock();
        let issue = issue.map(|issue| inner.clean_issue(issue));
        inner.tell(Message::Trouble(issue));
    }

    /// The run ended badly. Only the first call counts: one failure, one event.
    pub fn failed(&self, issues: Vec<Issue>, disks_changed: bool) {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.failed, true) {
            return;
        }
        let phase = inner.phase.unwrap_or(Phase::Boot);
        inner.emit(EventKind::Failed { phase, issues, disks_changed });
        // It is the last event of its run.
        inner.sealed = true;
    }

    /// The system is on the disk.
    pub fn installed(&self) {
        let mut inner = self.lock();
        inner.emit(EventKind::Installed);
    }

    /// Numbers nothing any more. The installed system goes on counting where this process stopped, so
    /// what is said here after the spool was closed must not use up numbers.
    pub fn seal(&self) {
        self.lock().sealed = true;
    }

    /// Waits until every listener has shown what was said so far, and the courier has delivered it,
    /// but no longer than `limit`. True when all of it arrived.
    pub fn drain(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, all_done) = sync_channel(16);
        let (asked, courier) = {
            let mut inner = self.lock();
            let asked = inner.tell(Message::Flush(done));
            (asked, inner.courier.clone())
        };
        let shown = (0..asked).all(|_| {
            let left = deadline.saturating_duration_since(Instant::now());
            all_done.recv_timeout(left).is_ok()
        });
        let delivered = courier.is_none_or(|c| c.drain(deadline.saturating_duration_since(Instant::now())));
        shown && delivered
    }
}

impl Inner {
    fn end_phase(&mut self) {
        if let Some(phase) = self.phase.take() {
            self.emit(EventKind::PhaseFinished { phase });
        }
    }

    /// Numbers an event and tells everybody.
    fn emit(&mut self, kind: EventKind) {
        let kind = self.clean_kind(kind);
        if self.sealed {
            if !matches!(kind, EventKind::Progress { .. }) {
                self.tell(Message::Detail(lines::sentence(&kind)));
            }
            return;
        }
        let event = Event {
            version: VERSION,
            run: self.run,
            seq: self.next,
            at: Timestamp::now(),
            uptime_ms: uptime_ms(),
            kind,
        };
        self.next += 1;
        if let Some(courier) = &self.courier {
            courier.event(event.clone());
        }
        self.tell(Message::Event(event));
    }

    /// Hands a message to every listener that still lives; gives back how many.
    fn tell(&mut self, message: Message) -> usize {
        self.listeners.retain(|listener| {
            // Full: it is stuck and loses this one. Gone: it is not asked again.
            !matches!(listener.try_send(message.clone()), Err(TrySendError::Disconnected(_)))
        });
        self.listeners.len()
    }

    fn clean(&self, text: &str) -> String {
        self.hidden.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[hidden]"))
    }

    fn clean_issue(&self, issue: Issue) -> Issue {
        Issue {
            code: issue.code,
            path: self.clean(&issue.path),
            message: self.clean(&issue.message),
            next: self.clean(&issue.next),
        }
    }

    fn clean_value(&self, value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::String(text) => Value::String(self.clean(&text)),
            Value::Array(items) => items.into_iter().map(|v| self.clean_value(v)).collect(),
            Value::Object(map) => map.into_iter().map(|(k, v)| (k, self.clean_value(v))).collect(),
            other => other,
        }
    }

    fn clean_kind(&self, kind: EventKind) -> EventKind {
        match kind {
            EventKind::Progress { phase, done, total, unit, what } => {
                EventKind::Progress { phase, done, total, unit, what: self.clean(&what) }
            }
            EventKind::Log { level, message } => EventKind::Log { level, message: self.clean(&message) },
            EventKind::Planned { plan } => EventKind::Planned { plan: self.clean_value(plan) },
            EventKind::Failed { phase, issues, disks_changed } => EventKind::Failed {
                phase,
                issues: issues.into_iter().map(|i| self.clean_issue(i)).collect(),
                disks_changed,
            },
            other => other,
        }
    }
}

/// Milliseconds since the kernel started; 0 where the kernel does not say.
pub(crate) fn uptime_ms() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(|t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
        .unwrap_or(0)
}

/// A code that can be read over the phone, made of a run: four digits.
pub fn spoken_code(run: RunId) -> String {
    format!("{:04}", u16::from_be_bytes([run.0[0], run.0[1]]) % 10_000)
}
