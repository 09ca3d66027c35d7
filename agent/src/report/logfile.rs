//! The log: everything, as text, for the server and for whoever looks into the machine later.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use akene_protocol::event::{EventKind, Level};
use anyhow::{Context, Result};

use super::{Listener, Message};

/// Writes everything but ticks into a file.
pub struct LogFile(File);

impl LogFile {
    /// Appends to `path`, which is made with mode 0600.
    pub fn open(path: &Path) -> Result<LogFile> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        Ok(LogFile(file.with_context(|| format!("opening the log {}", path.display()))?))
    }
}

impl Listener for LogFile {
    fn message(&mut self, message: &Message) -> Result<()> {
        let line = match message {
            Message::Event(event) => {
                let seconds = event.uptime_ms as f64 / 1000.0;
                match &event.kind {
                    EventKind::Progress { .. } => return Ok(()),
                    EventKind::Planned { plan } => format!("{} {seconds:9.3} plan {plan}", event.at),
                    kind => format!("{} {seconds:9.3} {}", event.at, super::lines::sentence(kind)),
                }
            }
            Message::Detail(text) => format!("    {text}"),
            Message::Called(name) => format!("    this computer is called {name}"),
            Message::Trouble(Some(issue)) => format!("    waiting: {issue}"),
            Message::Trouble(None)
            | Message::Notice(_)
            | Message::Language(_)
            | Message::Tick(_)
            | Message::Waiting(_)
            | Message::Flush(_) => return Ok(()),
        };
        writeln!(self.0, "{line}").context("writing the log")
    }
}

/// How a level begins a line.
pub(super) fn mark(level: Level) -> &'static str {
    match level {
        Level::Debug | Level::Info => "",
        Level::Warning => "warning: ",
        Level::Error => "error: ",
    }
}
