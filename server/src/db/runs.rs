//! Runs: attempts at installing a machine.

use akene_protocol::api::{Consent, RunResponse};
use akene_protocol::{Inventory, Issue, MachineId, RunId};
use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{Trouble, from_json};
use crate::state::{RunState, Stage};

/// Most runs of one machine that were permitted, so that one gone mad does not fill the server's disk. A new one that is
/// tried every day has years.
const MAX_RUNS: i64 = 2000;

/// Of those that never were, the newest so many are kept, with their events. A machine that waits for a permission
/// restarts a hundred times a day, and has to be heard for as long as it takes.
const MAX_REFUSED: i64 = 200;

/// A run as stored.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// When it was first heard of; without a network, when it began.
    pub created: Timestamp,
    /// What the machine was told.
    pub answer: Option<RunResponse>,
    /// Profile.
    pub profile: Option<String>,
    /// Its revision.
    pub revision: Option<String>,
    /// Why this profile.
    pub why: Option<String>,
    /// What was granted.
    pub consent: Option<Consent>,
    /// Why nothing was granted.
    pub refusal: Option<Issue>,
    /// The association it was for, where a technician chose one.
    pub association: Option<String>,
    /// Where it stands.
    pub state: RunState,
}

/// What a machine was told about a run.
pub struct Answer<'a> {
    /// Sum of the credential that asked.
    pub credential: &'a str,
    /// The inventory it came with, JSON.
    pub inventory: &'a str,
    /// The answer.
    pub response: &'a RunResponse,
    /// Profile.
    pub profile: &'a str,
    /// Its revision.
    pub revision: &'a str,
    /// Why this profile.
    pub why: &'a str,
    /// What was granted.
    pub consent: Option<Consent>,
}

/// Makes sure that the run exists and belongs to the machine.
pub fn open(db: &Transaction<'_>, machine: MachineId, run: RunId) -> Result<(), Trouble> {
    let new = db
        .prepare_cached("INSERT OR IGNORE INTO runs (id, machine, created, state) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            run.to_string(),
            machine.to_string(),
            Timestamp::now().to_string(),
            serde_json::to_string(&RunState::default())?
        ])?;
    if new > 0 {
        let forget = "DELETE FROM runs WHERE machine = ?1 AND consent IS NULL AND refusal IS NOT NULL AND n NOT IN
             (SELECT n FROM runs WHERE machine = ?1 AND consent IS NULL AND refusal IS NOT NULL ORDER BY n DESC LIMIT ?2)";
        db.prepare_cached(forget)?.execute(params![machine.to_string(), MAX_REFUSED])?;
        let count: i64 = db
            .prepare_cached("SELECT count(*) FROM runs WHERE machine = ?1")?
            .query_row([machine.to_string()], |row| row.get(0))?;
        if count > MAX_RUNS {
            return Err(Trouble::Refused(Issue::new(
                "too-many-runs",
                machine.to_string(),
                format!("this machine has begun {MAX_RUNS} runs already"),
                "tell the administrator: something starts it over and over",
            )));
        }
    }
    let owner: String =
        db.query_row("SELECT machine FROM runs WHERE id = ?1", [run.to_string()], |row| row.get(0))?;
    match owner == machine.to_string() {
        true => Ok(()),
        false => Err(Trouble::Refused(Issue::new(
            "run-of-another",
            run.to_string(),
            "this run belongs to another machine",
            "begin a new run",
        ))),
    }
}

/// The same, for a run that began earlier than it was heard of.
pub fn open_since(
    db: &Transaction<'_>,
    machine: MachineId,
    run: RunId,
    began: Timestamp,
) -> Result<(), Trouble> {
    open(db, machine, run)?;
    if get(db, run)?.is_some_and(|known| began < known.created) {
        db.execute(
            "UPDATE runs SET created = ?2 WHERE id = ?1",
            params![run.to_string(), began.to_string()],
        )?;
    }
    Ok(())
}

/// Keeps what a machine was told.
pub fn keep_answer(db: &Transaction<'_>, run: RunId, answer: &Answer<'_>) -> Result<()> {
    let json = |value: serde_json::Result<String>| value.context("encoding the answer to a run");
    let consent = answer.consent.map(|c| json(serde_json::to_string(&c))).transpose()?;
    let refusal = answer.response.refusal.as_ref().map(|r| json(serde_json::to_string(r))).transpose()?;
    db.execute(
        "UPDATE runs SET credential = ?2, inventory = ?3, answer = ?4, profile = ?5, revision = ?6, why = ?7,
           consent = ?8, refusal = ?9 WHERE id = ?1",
        params![
            run.to_string(),
            answer.credential,
            answer.inventory,
            json(serde_json::to_string(answer.response))?,
            answer.profile,
            answer.revision,
            answer.why,
            consent,
            refusal,
        ],
    )
    .context("keeping the answer to a run")?;
    Ok(())
}

/// What a report says of a run that no server was asked about.
pub struct Reported<'a> {
    /// The inventory, JSON.
    pub inventory: &'a str,
    /// Name and revision of the profile.
    pub profile: Option<(&'a str, &'a str)>,
    /// Why this profile.
    pub why: &'a str,
    /// The association.
    pub association: Option<&'a str>,
}

/// Keeps what a report says of a run. What is known stays: a report of the same run may come again, shorter or longer.
pub fn keep_reported(db: &Transaction<'_>, run: RunId, reported: &Reported<'_>) -> Result<()> {
    let (profile, revision) = reported.profile.unzip();
    db.execute(
        "UPDATE runs SET inventory = coalesce(inventory, ?2), association = coalesce(association, ?3),
           why = CASE WHEN profile IS NULL AND ?4 IS NOT NULL THEN ?6 ELSE why END,
           revision = coalesce(revision, ?5), profile = coalesce(profile, ?4) WHERE id = ?1",
        params![run.to_string(), reported.inventory, reported.association, profile, revision, reported.why],
    )
    .context("keeping what a report says")?;
    Ok(())
}

/// Keeps why a machine was told nothing at all.
pub fn keep_refusal(db: &Transaction<'_>, run: RunId, refusal: &Issue) -> Result<()> {
    let text = serde_json::to_string(refusal).context("encoding a refusal")?;
    db.execute("UPDATE runs SET refusal = ?2 WHERE id = ?1", params![run.to_string(), text])
        .context("keeping a refusal")?;
    Ok(())
}

/// Sets the state of a run and returns the one before.
pub fn set_state(db: &Transaction<'_>, run: RunId, state: &RunState) -> Result<RunState> {
    let before: String = db
        .query_row("SELECT state FROM runs WHERE id = ?1", [run.to_string()], |row| row.get(0))
        .context("reading the state of a run")?;
    let text = serde_json::to_string(state).context("encoding the state of a run")?;
    db.execute("UPDATE runs SET state = ?2 WHERE id = ?1", params![run.to_string(), text])
        .context("keeping the state of a run")?;
    from_json(&before)
}

const COLUMNS: &str = "id, created, answer, profile, revision, why, consent, refusal, state, association";

type Raw = (
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    String,
    Option<String>,
);

fn read(raw: Raw) -> Result<Run> {
    let (id, created, answer, profile, revision, why, consent, refusal, state, association) = raw;
    Ok(Run {
        id: id.parse().map_err(|e: String| anyhow!(e))?,
        created: created.parse().context("reading the date of a run")?,
        answer: answer.as_deref().map(from_json).transpose()?,
        profile,
        revision,
        why,
        consent: consent.as_deref().map(from_json).transpose()?,
        refusal: refusal.as_deref().map(from_json).transpose()?,
        association,
        state: from_json(&state)?,
    })
}

/// The run with this id.
pub fn get(db: &Transaction<'_>, run: RunId) -> Result<Option<Run>> {
    db.query_row(&format!("SELECT {COLUMNS} FROM runs WHERE id = ?1"), [run.to_string()], |row| {
        Raw::try_from(row)
    })
    .optional()
    .context("reading a run")?
    .map(read)
    .transpose()
}

/// The inventory a run was asked for with.
pub fn inventory(db: &Transaction<'_>, run: RunId) -> Result<Option<Inventory>> {
    let text: Option<String> = db
        .query_row("SELECT inventory FROM runs WHERE id = ?1", [run.to_string()], |row| row.get(0))
        .optional()
        .context("reading the inventory of a run")?
        .flatten();
    text.as_deref().map(from_json).transpose()
}

/// All runs of a machine, newest first, without the answers: lists do not need those, and they are large.
pub fn of_machine(db: &Transaction<'_>, machine: MachineId) -> Result<Vec<Run>> {
    let columns = COLUMNS.replace("answer", "NULL");
    let mut query =
        db.prepare_cached(&format!("SELECT {columns} FROM runs WHERE machine = ?1 ORDER BY n DESC"))?;
    let rows = query.query_map([machine.to_string()], |row| Raw::try_from(row))?;
    let mut runs: Vec<Run> = rows.map(|row| read(row.context("reading the runs")?)).collect::<Result<_>>()?;
    // A report of an earlier run may come after one of a later.
    runs.sort_by_key(|run| std::cmp::Reverse(run.created));
    Ok(runs)
}

/// The newest run of a machine that was installed, if any.
pub fn installed(runs: &[Run]) -> Option<&Run> {
    runs.iter().find(|r| matches!(r.state.stage, Stage::Installed | Stage::Confirmed))
}
