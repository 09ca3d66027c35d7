//! What happened: events and logs, and the state of a run that follows from them.

use std::collections::BTreeSet;

use akene_protocol::event::{self, Event, EventKind};
use akene_protocol::{Bytes, Issue, MachineId, RunId};
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{Trouble, from_json, machines, orders, runs};
use crate::state::{RunState, Stage};

/// Most events of one run, so that a machine gone mad does not fill the server's disk.
const MAX_EVENTS_OF_RUN: i64 = 200_000;

/// Most logs of one run.
const MAX_LOGS_OF_RUN: i64 = 64;

/// Name of the log in a report.
const REPORTED_LOG: &str = "install.log";

/// Keeps those events of a batch that are new. All or none: what is not acknowledged is sent again.
pub fn keep(db: &Transaction<'_>, machine: MachineId, events: &[Event]) -> Result<usize, Trouble> {
    let now = Timestamp::now().to_string();
    let mut touched = BTreeSet::new();
    let mut new = 0;
    for event in events {
        check(event)?;
        if touched.insert(event.run) {
            runs::open(db, machine, event.run)?;
            let count: i64 =
                db.query_row("SELECT count(*) FROM events WHERE run = ?1", [event.run.to_string()], |r| {
                    r.get(0)
                })?;
            if count >= MAX_EVENTS_OF_RUN {
                return Err(Trouble::Refused(Issue::new(
                    "run-too-long",
                    event.run.to_string(),
                    format!("this run has {count} events already"),
                    "begin a new run",
                )));
            }
        }
        let body = serde_json::to_string(event).context("encoding an event")?;
        new += db
            .prepare_cached("INSERT OR IGNORE INTO events VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![event.run.to_string(), event.seq as i64, now, type_name(&event.kind), body])?;
    }
    if new > 0 {
        for run in touched {
            settle(db, machine, run)?;
        }
    }
    Ok(new)
}

fn check(event: &Event) -> Result<(), Trouble> {
    let place = format!("event {} of run {}", event.seq, event.run);
    let refuse = |code: &str, message: String, next: &str| {
        Err(Trouble::Refused(Issue::new(code, place.clone(), message, next)))
    };
    if event.version != event::VERSION {
        let message = format!("has version {}, this server reads version {}", event.version, event::VERSION);
        return refuse("event-version", message, "update akene-server");
    }
    if event.seq == 0 || i64::try_from(event.seq).is_err() {
        return refuse("event-number", "events count from 1".into(), "report this as a fault of the agent");
    }
    Ok(())
}

fn type_name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::PhaseStarted { .. } => "phase-started",
        EventKind::PhaseFinished { .. } => "phase-finished",
        EventKind::Progress { .. } => "progress",
        EventKind::Log { .. } => "log",
        EventKind::Planned { .. } => "planned",
        EventKind::Failed { .. } => "failed",
        EventKind::Installed => "installed",
        EventKind::Confirmed { .. } => "confirmed",
    }
}

/// Derives the state of a run anew.
fn settle(db: &Transaction<'_>, machine: MachineId, run: RunId) -> Result<()> {
    let doing = || format!("deriving the state of run {run}");
    let mut query = db.prepare_cached(
        "SELECT body FROM events WHERE run = ?1 AND (type NOT IN ('log', 'progress') OR seq =
           (SELECT max(seq) FROM events WHERE run = ?1 AND type = 'progress')) ORDER BY seq",
    )?;
    let bodies = query.query_map([run.to_string()], |row| row.get::<_, String>(0)).with_context(doing)?;
    let mut events: Vec<Event> = Vec::new();
    for body in bodies {
        events.push(from_json(&body.with_context(doing)?)?);
    }
    let mut state = RunState::of(&events);
    if events.is_empty() {
        // Nothing but log lines so far.
        state.stage = Stage::Installing;
    }
    let before = runs::set_state(db, run, &state)?;
    if state.stage == Stage::Confirmed && before.stage != Stage::Confirmed {
        orders::run_confirmed(db, machine, run)?;
        // The new system has spoken. If we permitted it to replace the old one, the old one's
        // credentials are void.
        let credential: Option<String> = db
            .query_row(
                "SELECT credential FROM runs WHERE id = ?1 AND consent IS NOT NULL",
                [run.to_string()],
                |row| row.get(0),
            )
            .optional()
            .with_context(doing)?
            .flatten();
        if let Some(credential) = credential {
            machines::keep_only(db, machine, &credential)?;
        }
    }
    Ok(())
}

/// The events of a run, in order.
pub fn of_run(db: &Transaction<'_>, run: RunId) -> Result<Vec<Event>> {
    let mut query = db.prepare("SELECT body FROM events WHERE run = ?1 ORDER BY seq")?;
    let bodies = query.query_map([run.to_string()], |row| row.get::<_, String>(0))?;
    bodies.map(|body| from_json(&body.context("reading events")?)).collect()
}

/// Keeps a log. The same name again replaces it: logs are sent whole. Of one machine at most `most` bytes
/// are kept: logs of its other runs make way, the oldest first.
pub fn keep_log(
    db: &Transaction<'_>,
    machine: MachineId,
    run: RunId,
    name: &str,
    text: &str,
    most: Bytes,
) -> Result<(), Trouble> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(Trouble::Refused(Issue::new(
            "log-name",
            name.chars().take(64).collect::<String>(),
            "cannot be the name of a log",
            "use at most 64 letters, digits, dots, hyphens and underscores",
        )));
    }
    runs::open(db, machine, run)?;
    let others: i64 = db.query_row(
        "SELECT count(*) FROM logs WHERE run = ?1 AND name <> ?2",
        params![run.to_string(), name],
        |row| row.get(0),
    )?;
    if others >= MAX_LOGS_OF_RUN {
        return Err(Trouble::Refused(Issue::new(
            "too-many-logs",
            run.to_string(),
            format!("this run has {others} logs already"),
            "send them under fewer names",
        )));
    }
    make_room(db, machine, run, name, Bytes(text.len() as u64), most)?;
    db.execute(
        "INSERT OR REPLACE INTO logs VALUES (?1, ?2, ?3, ?4)",
        params![run.to_string(), name, Timestamp::now().to_string(), text],
    )?;
    Ok(())
}

/// Keeps the log of a report, or its end where it is too long; of the logs of one run that were reported, the longest. A
/// report is not refused for its log.
pub fn keep_reported_log(
    db: &Transaction<'_>,
    machine: MachineId,
    run: RunId,
    text: &str,
    most: Bytes,
) -> Result<(), Trouble> {
    let from = text.len().saturating_sub(usize::try_from(most.0).unwrap_or(usize::MAX));
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let text = &text[from..];
    let known = log(db, run, REPORTED_LOG)?;
    if text.is_empty() || known.is_some_and(|known| known.len() >= text.len()) {
        return Ok(());
    }
    match keep_log(db, machine, run, REPORTED_LOG, text, most) {
        Err(Trouble::Refused(issue)) => {
            Ok(machines::note(db, machine, &format!("the log in a report was not kept: {issue}"))?)
        }
        kept => kept,
    }
}

/// Deletes old logs of a machine until one more of this size fits.
fn make_room(
    db: &Transaction<'_>,
    machine: MachineId,
    run: RunId,
    name: &str,
    size: Bytes,
    most: Bytes,
) -> Result<(), Trouble> {
    let mut query = db.prepare(
        "SELECT l.run, l.name, length(CAST(l.text AS BLOB)) FROM logs l JOIN runs r ON r.id = l.run
         WHERE r.machine = ?1 AND NOT (l.run = ?2 AND l.name = ?3) ORDER BY l.run = ?2, l.received",
    )?;
    let rows = query.query_map(params![machine.to_string(), run.to_string(), name], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?.unsigned_abs()))
    })?;
    let kept: Vec<(String, String, u64)> = rows.collect::<Result<_, _>>()?;
    let mut total = size.0 + kept.iter().map(|(.., size)| size).sum::<u64>();
    for (other, name, size) in kept {
        if total <= most.0 {
            break;
        }
        // Of the run itself nothing is given up: it is the one somebody reads.
        if other == run.to_string() {
            break;
        }
        db.execute("DELETE FROM logs WHERE run = ?1 AND name = ?2", params![other, name])?;
        total -= size;
    }
    if total <= most.0 {
        return Ok(());
    }
    Err(Trouble::Refused(Issue::new(
        "too-much-log",
        run.to_string(),
        format!("the logs of this run would hold {}, and {most} are kept of one computer", Bytes(total)),
        "send less, or raise `limits.log-bytes-per-machine` in site.toml",
    )))
}

/// Names and sizes of the logs of a run.
pub fn logs(db: &Transaction<'_>, run: RunId) -> Result<Vec<(String, u64)>> {
    let mut query =
        db.prepare("SELECT name, length(CAST(text AS BLOB)) FROM logs WHERE run = ?1 ORDER BY name")?;
    let rows =
        query.query_map([run.to_string()], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    rows.collect::<Result<_, _>>().context("reading logs")
}

/// One log.
pub fn log(db: &Transaction<'_>, run: RunId, name: &str) -> Result<Option<String>> {
    db.query_row(
        "SELECT text FROM logs WHERE run = ?1 AND name = ?2",
        params![run.to_string(), name],
        |row| row.get(0),
    )
    .optional()
    .context("reading a log")
}
