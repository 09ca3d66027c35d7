//! Machines whose medium does not count (any more): they wait for a person's word, and their reports with them.
//!
//! Beside them are those on which nothing was installed: notes, of which the oldest make way.
//!
//! Reports are kept as they came, sealed. Nothing of a stranger counts before somebody admits it: no credential, no number.

use akene_protocol::medium::MediumId;
use akene_protocol::{AssetNumber, Bytes, Issue, MachineId, RunId};
use anyhow::{Context as _, Result};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{Trouble, machines};

/// Most reports that wait, and their bytes: of one medium, and of all. A lost one is in the way of no other.
const OF_ONE: Room = Room { letters: 100, bytes: Bytes::mib(64) };
const OF_ALL: Room = Room { letters: 1000, bytes: Bytes::mib(256) };

/// The same of machines on which nothing was installed.
const TRIED_OF_ONE: Room = Room { letters: 20, bytes: Bytes::mib(16) };
const TRIED_OF_ALL: Room = Room { letters: 200, bytes: Bytes::mib(64) };

struct Room {
    letters: u64,
    bytes: Bytes,
}

impl Room {
    /// Whether the reports of a medium, or of all, are no more than this.
    fn holds(&self, db: &Transaction<'_>, medium: Option<MediumId>, tried: bool) -> Result<bool> {
        let (letters, bytes): (i64, i64) = db
            .query_row(
                "SELECT count(*), coalesce(sum(length(sealed)), 0) FROM letters JOIN strangers USING (machine)
                 WHERE (medium = ?1 OR ?1 IS NULL) AND tried = ?2",
                params![medium.map(|medium| medium.to_string()), tried],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .context("counting the reports that wait")?;
        Ok(letters.unsigned_abs() <= self.letters && bytes.unsigned_abs() <= self.bytes.0)
    }
}

/// A machine that waits, or on which nothing was installed.
#[derive(Clone, Debug)]
pub struct Stranger {
    /// Who it says it is.
    pub machine: MachineId,
    /// Sum of its credential.
    pub credential: String,
    /// The medium it was installed from.
    pub medium: MediumId,
    /// The number it calls itself.
    pub asset: AssetNumber,
    /// The association in its report.
    pub association: Option<String>,
    /// What it is, for people.
    pub hardware: String,
    /// Why it waits, or why nothing was installed on it.
    pub why: String,
    /// Whether nothing was installed on it: it does not wait.
    pub tried: bool,
    /// When it was first heard of.
    pub created: String,
    /// When it was heard of last.
    pub seen: String,
    /// From where.
    pub peer: String,
    /// What a person said.
    pub decision: Option<Decision>,
}

/// What a person said of a machine that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It joins as soon as it is heard of again: there is no report of it here.
    Admit,
    /// It does not join. What it sends is refused.
    Drop,
}

impl Decision {
    fn name(self) -> &'static str {
        match self {
            Decision::Admit => "admit",
            Decision::Drop => "drop",
        }
    }

    fn of(name: &str) -> Option<Decision> {
        [Decision::Admit, Decision::Drop].into_iter().find(|decision| decision.name() == name)
    }
}

const COLUMNS: &str =
    "machine, credential, medium, serial, association, hardware, why, created, seen, peer, decision, tried";

fn read(row: &Row<'_>) -> rusqlite::Result<Result<Stranger>> {
    let text = |n| row.get::<_, String>(n);
    let (machine, credential, medium) = (text(0)?, text(1)?, text(2)?);
    let (serial, association): (u32, Option<String>) = (row.get(3)?, row.get(4)?);
    let (hardware, why, created, seen, peer) = (text(5)?, text(6)?, text(7)?, text(8)?, text(9)?);
    let (decision, tried): (Option<String>, bool) = (row.get(10)?, row.get(11)?);
    let stranger = || {
        Ok(Stranger {
            machine: machines::parsed(&machine)?,
            credential,
            medium: machines::parsed(&medium)?,
            asset: AssetNumber::new(serial),
            association,
            hardware,
            why,
            tried,
            created,
            seen,
            peer,
            decision: decision.as_deref().and_then(Decision::of),
        })
    };
    Ok(stranger())
}

/// Those that wait, those on which nothing was installed, and those a person has decided about, the newest visit first.
pub fn all(db: &Transaction<'_>) -> Result<Vec<Stranger>> {
    let mut query = db.prepare(&format!(
        "SELECT {COLUMNS} FROM strangers ORDER BY decision IS NOT NULL, tried, seen DESC"
    ))?;
    let rows = query.query_map([], read)?;
    rows.map(|row| row.context("reading who waits")?).collect()
}

/// The one with this id, if it waits.
pub fn get(db: &Transaction<'_>, machine: MachineId) -> Result<Option<Stranger>> {
    db.query_row(&format!("SELECT {COLUMNS} FROM strangers WHERE machine = ?1"), [machine.to_string()], read)
        .optional()
        .context("reading who waits")?
        .transpose()
}

/// The one that somebody means by an id or an asset number.
pub fn find(db: &Transaction<'_>, name: &str) -> Result<Stranger, Trouble> {
    let id = name.parse::<MachineId>().ok();
    let asset = name.parse::<AssetNumber>().ok();
    let mut found: Vec<Stranger> =
        all(db)?.into_iter().filter(|s| Some(s.machine) == id || Some(s.asset) == asset).collect();
    let refuse = |code: &str, message: String, next: &str| {
        Err(Trouble::Refused(Issue::new(code, name, message, next)))
    };
    match (found.pop(), found.len()) {
        (Some(stranger), 0) => Ok(stranger),
        (None, _) => refuse(
            "machine-unknown",
            "no machine waits under this name".into(),
            "`akene-server machine waiting` lists those that do",
        ),
        (Some(_), others) => refuse(
            "machine-ambiguous",
            format!("{} machines that wait call themselves so", others + 1),
            "name it by its id, as `akene-server machine waiting` shows it",
        ),
    }
}

/// Keeps a machine and its report: until a person decides, or until newer ones take its place. Of the reports of one run the longest stays.
pub fn keep(
    db: &Transaction<'_>,
    stranger: &Stranger,
    run: RunId,
    events: usize,
    sealed: &[u8],
) -> Result<(), Trouble> {
    let machine = stranger.machine.to_string();
    db.execute(
        "INSERT INTO strangers (machine, credential, medium, serial, association, hardware, why, created, seen, peer, tried)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10)
         ON CONFLICT (machine) DO UPDATE SET seen = ?8, peer = ?9, why = ?7, tried = ?10,
             association = coalesce(?5, association)",
        params![
            machine,
            stranger.credential,
            stranger.medium.to_string(),
            stranger.asset.serial(),
            stranger.association,
            stranger.hardware,
            stranger.why,
            stranger.seen,
            stranger.peer,
            stranger.tried,
        ],
    )?;
    let changed = db.execute(
        "INSERT INTO letters (machine, run, events, sealed) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (machine, run) DO UPDATE SET events = ?3, sealed = ?4 WHERE events < ?3",
        params![machine, run.to_string(), i64::try_from(events)?, sealed],
    )?;
    if changed == 0 {
        return Ok(());
    }
    let rooms = |one, all| [(Some(stranger.medium), one), (None, all)];
    if stranger.tried {
        return Ok(forget_oldest(db, rooms(&TRIED_OF_ONE, &TRIED_OF_ALL))?);
    }
    for (medium, most) in rooms(&OF_ONE, &OF_ALL) {
        if most.holds(db, medium, false)? {
            continue;
        }
        let whose =
            medium.map_or_else(|| "of all media".to_owned(), |medium| format!("of the medium {medium}"));
        return Err(Trouble::Refused(Issue::new(
            "too-many-waiting",
            "",
            format!("as many reports {whose} wait for a decision as this server keeps"),
            "decide about those that wait: `akene-server machine waiting`, then `machine admit` or `machine drop`",
        )));
    }
    Ok(())
}

/// Of machines on which nothing was installed the reports that came first make way, and the machine with its last one.
fn forget_oldest(db: &Transaction<'_>, rooms: [(Option<MediumId>, &Room); 2]) -> Result<()> {
    let doing = "forgetting machines on which nothing was installed";
    for (medium, most) in rooms {
        while !most.holds(db, medium, true)? {
            db.execute(
                "DELETE FROM letters WHERE rowid = (
                     SELECT min(letters.rowid) FROM letters JOIN strangers USING (machine)
                     WHERE (medium = ?1 OR ?1 IS NULL) AND tried)",
                [medium.map(|medium| medium.to_string())],
            )
            .context(doing)?;
        }
    }
    db.execute(
        "DELETE FROM strangers WHERE tried AND decision IS NULL AND machine NOT IN (SELECT machine FROM letters)",
        [],
    )
    .context(doing)?;
    Ok(())
}

/// The reports of a machine that waits, sealed as they came, the shortest first.
pub fn letters(db: &Transaction<'_>, machine: MachineId) -> Result<Vec<Vec<u8>>> {
    let mut query = db.prepare("SELECT sealed FROM letters WHERE machine = ?1 ORDER BY events, run")?;
    let rows = query.query_map([machine.to_string()], |row| row.get(0))?;
    rows.collect::<Result<_, _>>().context("reading the reports that wait")
}

/// It waits no more: it has joined.
pub fn forget(db: &Transaction<'_>, machine: MachineId) -> Result<()> {
    db.execute("DELETE FROM strangers WHERE machine = ?1", [machine.to_string()])
        .context("striking a machine off those that wait")?;
    Ok(())
}

/// Keeps what a person said. The reports of one that is dropped go.
pub fn decide(db: &Transaction<'_>, machine: MachineId, decision: Decision) -> Result<()> {
    let doing = "keeping a decision about a machine that waits";
    if decision == Decision::Drop {
        db.execute("DELETE FROM letters WHERE machine = ?1", [machine.to_string()]).context(doing)?;
    }
    db.execute(
        "UPDATE strangers SET decision = ?2 WHERE machine = ?1",
        params![machine.to_string(), decision.name()],
    )
    .context(doing)?;
    Ok(())
}
