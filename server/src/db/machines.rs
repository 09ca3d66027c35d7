//! Machines: enrolling them, recognising them, listing them.

use std::collections::{BTreeMap, BTreeSet};

use akene_protocol::api::{Consent, Identity, Recognised};
use akene_protocol::medium::MediumId;
use akene_protocol::{AssetNumber, Inventory, Issue, MachineId, Secret, Sha256};
use anyhow::{Context as _, Result, anyhow};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension as _, Row, ToSql, Transaction, params};

use super::{Trouble, from_json};
use crate::identity::{Evidence, Verdict, decide, evidence};
use crate::site::keys::random_hex;

/// The first asset number: four digits, so that all of a site look alike.
const FIRST_SERIAL: u32 = 1001;

/// From here on machines without a network draw numbers of their own (`fetch/mint.rs` of the agent).
const DRAWN_SERIAL: u32 = 100_000;

/// Most credentials a machine has at a time: each enrolment by hardware alone adds one.
const MAX_CREDENTIALS: u32 = 8;

/// A machine as stored.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its id.
    pub id: MachineId,
    /// Its number for people.
    pub asset: AssetNumber,
    /// When it was first seen.
    pub created: String,
    /// When it last asked for anything.
    pub seen: String,
    /// From where.
    pub peer: String,
    /// What it is.
    pub inventory: Inventory,
    /// How its first enrolment was judged: `new` or `ask`.
    pub recognised: String,
    /// Another machine it may be.
    pub maybe: Option<MachineId>,
    /// Consent a person gave for its next run.
    pub allowed: Option<Consent>,
    /// The medium it joined by, without a network.
    pub medium: Option<MediumId>,
}

/// What an enrolment is made of.
pub struct Enrolment<'a> {
    /// What the machine showed from its disks.
    pub known: Option<&'a Identity>,
    /// What it is.
    pub inventory: &'a Inventory,
    /// From where it asks.
    pub peer: &'a str,
    /// Id of the token it shows.
    pub token: &'a str,
    /// New machines a token may make known within an hour.
    pub most_new: u32,
}

/// Makes a machine known.
pub fn enrol(db: &Transaction<'_>, enrolment: &Enrolment<'_>) -> Result<(Identity, Recognised), Trouble> {
    let now = Timestamp::now().to_string();
    let found = evidence(enrolment.inventory);
    let inventory = serde_json::to_string(enrolment.inventory).context("encoding an inventory")?;
    // Who shows the credential is the machine, whatever its hardware says.
    if let Some(known) = enrolment.known
        && authenticate(db, known.machine, &known.credential)?
    {
        let machine = get(db, known.machine)?;
        learn(db, &machine, &found, &now)?;
        keep_facts(db, known.machine, enrolment.peer, &inventory, &found, &now)?;
        return Ok((Identity { asset: machine.asset, ..known.clone() }, Recognised::Same));
    }
    let verdict = decide(&found, &candidates(db, &found)?);
    let (id, recognised) = match &verdict {
        Verdict::Same(id) => (*id, Recognised::Same),
        Verdict::New => (new_id()?, Recognised::New),
        Verdict::Ask(..) => (new_id()?, Recognised::Ask),
    };
    if recognised != Recognised::Same {
        check_new(db, enrolment)?;
        let maybe = match &verdict {
            Verdict::Ask(other, _) => Some(other.to_string()),
            _ => None,
        };
        let name = if maybe.is_some() { "ask" } else { "new" };
        db.execute(
            "INSERT INTO machines (id, serial, created, seen, peer, inventory, recognised, maybe, token)
             VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                id.to_string(),
                free_serial(db)?,
                now,
                enrolment.peer,
                inventory,
                name,
                maybe,
                enrolment.token
            ],
        )?;
    }
    let asset = get(db, id)?.asset;
    match &verdict {
        Verdict::Same(_) => note(
            db,
            id,
            "enrolled again without its credential and was recognised by its hardware; it has a new credential \
             beside the old one, which counts until an installation has confirmed itself",
        )?,
        Verdict::Ask(other, why) => {
            let other = get(db, *other)?.asset;
            note(db, id, &format!("may be the machine {other}: {why}"))?;
        }
        Verdict::New => {}
    }
    keep_facts(db, id, enrolment.peer, &inventory, &found, &now)?;
    let credential = Secret::new(random_hex(32)?);
    db.execute(
        "INSERT INTO credentials (sum, machine, created) VALUES (?1, ?2, ?3)",
        params![sum(&credential), id.to_string(), now],
    )?;
    // The oldest stays: it is the one the installed system has.
    db.execute(
        "DELETE FROM credentials WHERE machine = ?1
           AND rowid <> (SELECT min(rowid) FROM credentials WHERE machine = ?1)
           AND rowid NOT IN (SELECT rowid FROM credentials WHERE machine = ?1 ORDER BY rowid DESC LIMIT ?2)",
        params![id.to_string(), MAX_CREDENTIALS - 1],
    )?;
    Ok((Identity { machine: id, asset, credential }, recognised))
}

/// Whether the token may make another machine known. One that was recognised is not asked this: it adds
/// nothing to the fleet.
fn check_new(db: &Transaction<'_>, enrolment: &Enrolment<'_>) -> Result<(), Trouble> {
    let since = Timestamp::now() - SignedDuration::from_hours(1);
    let new: u32 = db.query_row(
        "SELECT count(*) FROM machines WHERE token = ?1 AND created >= ?2",
        params![enrolment.token, since.to_string()],
        |row| row.get(0),
    )?;
    if new < enrolment.most_new {
        return Ok(());
    }
    Err(Trouble::Refused(Issue::new(
        "too-many-new-machines",
        format!("token {}", enrolment.token),
        format!("the token of this medium has made {new} new computers known within an hour"),
        "wait for an hour, or raise `limits.new-machines-per-hour` in site.toml; if the computers are not \
         yours, `akene-server token revoke` ends it",
    )))
}

/// The next asset number that no machine has.
pub(super) fn free_serial(db: &Transaction<'_>) -> Result<u32> {
    let doing = "finding an asset number";
    let newest: Option<u32> = db
        .query_row("SELECT max(serial) FROM machines WHERE serial < ?1", [DRAWN_SERIAL], |row| row.get(0))
        .context(doing)?;
    let mut serial = newest.map_or(FIRST_SERIAL, |newest| newest + 1).max(FIRST_SERIAL);
    while with_serial(db, serial)?.is_some() {
        serial = serial.checked_add(1).context(doing)?;
    }
    Ok(serial)
}

fn new_id() -> Result<MachineId> {
    random_hex(16)?.parse().map_err(|e: String| anyhow!(e))
}

/// What is stored of a credential: it is 256 random bits, which a slow hash would not protect better.
pub fn sum(credential: &Secret) -> String {
    Sha256::of(credential.expose().as_bytes()).to_string()
}

/// Whether this is a credential of that machine. The look-up is by a sum nobody can steer, so its time
/// tells nothing about the credentials there are.
pub fn authenticate(db: &rusqlite::Connection, machine: MachineId, credential: &Secret) -> Result<bool> {
    Ok(owner(db, credential)? == Some(machine))
}

/// Whose credential this is.
pub fn owner(db: &rusqlite::Connection, credential: &Secret) -> Result<Option<MachineId>> {
    let owner: Option<String> = db
        .prepare_cached("SELECT machine FROM credentials WHERE sum = ?1")
        .context("looking up a credential")?
        .query_row([sum(credential)], |row| row.get(0))
        .optional()
        .context("looking up a credential")?;
    owner.as_deref().map(parsed).transpose()
}

/// Retires every credential of a machine but one: called when the installation it asked for confirms.
pub fn keep_only(db: &Transaction<'_>, machine: MachineId, credential: &str) -> Result<()> {
    db.execute(
        "DELETE FROM credentials WHERE machine = ?1 AND sum <> ?2",
        params![machine.to_string(), credential],
    )
    .context("retiring old credentials")?;
    Ok(())
}

/// Notes that a machine was heard of.
pub fn seen(db: &Transaction<'_>, machine: MachineId, peer: &str) -> Result<()> {
    db.execute(
        "UPDATE machines SET seen = ?2, peer = ?3 WHERE id = ?1",
        params![machine.to_string(), Timestamp::now().to_string(), peer],
    )
    .context("noting a visit")?;
    Ok(())
}

/// Notes many visits at once: machine, when and from where.
pub fn all_seen(db: &Transaction<'_>, visits: &[(MachineId, Timestamp, String)]) -> Result<()> {
    let mut update =
        db.prepare_cached("UPDATE machines SET seen = ?2, peer = ?3 WHERE id = ?1 AND seen < ?2")?;
    for (machine, at, peer) in visits {
        update.execute(params![machine.to_string(), at.to_string(), peer]).context("noting visits")?;
    }
    Ok(())
}

/// Keeps what a machine says that it is now. Evidence is added to: a part that comes back is known.
fn keep_facts(
    db: &Transaction<'_>,
    id: MachineId,
    peer: &str,
    inventory: &str,
    found: &BTreeSet<Evidence>,
    now: &str,
) -> Result<()> {
    db.execute(
        "UPDATE machines SET seen = ?2, peer = ?3, inventory = ?4, told = ?5, told_seq = ?6 WHERE id = ?1",
        params![id.to_string(), now, peer, inventory, Timestamp::now().as_millisecond(), i64::MAX],
    )
    .context("keeping an inventory")?;
    keep_evidence(db, id, found)
}

/// Adds to what tells a machine from others.
pub(super) fn keep_evidence(db: &Transaction<'_>, id: MachineId, found: &BTreeSet<Evidence>) -> Result<()> {
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO evidence VALUES (?1, ?2, ?3)")?;
    for item in found {
        insert.execute(params![id.to_string(), item.kind.name(), item.value]).context("keeping evidence")?;
    }
    Ok(())
}

/// Keeps the inventory of a machine that has proved who it is.
pub fn update(db: &Transaction<'_>, id: MachineId, peer: &str, inventory: &Inventory) -> Result<()> {
    let text = serde_json::to_string(inventory).context("encoding an inventory")?;
    keep_facts(db, id, peer, &text, &evidence(inventory), &Timestamp::now().to_string())
}

/// The machines that share a value of weight with this evidence, with all their evidence of weight.
pub(super) fn candidates(
    db: &Transaction<'_>,
    found: &BTreeSet<Evidence>,
) -> Result<BTreeMap<MachineId, BTreeSet<Evidence>>> {
    let doing = "weighing evidence";
    let mut known: BTreeMap<MachineId, BTreeSet<Evidence>> = BTreeMap::new();
    let mut sharing = db
        .prepare_cached(
            "SELECT machine FROM evidence e WHERE kind = ?1 AND value = ?2
               AND NOT EXISTS (SELECT * FROM worthless w WHERE w.kind = e.kind AND w.value = e.value)",
        )
        .context(doing)?;
    for item in found {
        let ids = sharing
            .query_map(params![item.kind.name(), item.value], |row| row.get::<_, String>(0))
            .context(doing)?;
        for id in ids {
            known.entry(parsed(&id.context(doing)?)?).or_default();
        }
    }
    let mut all = db
        .prepare_cached(
            "SELECT kind, value FROM evidence e WHERE machine = ?1
               AND NOT EXISTS (SELECT * FROM worthless w WHERE w.kind = e.kind AND w.value = e.value)",
        )
        .context(doing)?;
    for (id, set) in &mut known {
        let rows = all
            .query_map([id.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .context(doing)?;
        for row in rows {
            let (kind, value) = row.context(doing)?;
            set.insert(Evidence { kind: parsed(&kind)?, value });
        }
    }
    Ok(known)
}

/// A machine that proved who it is has values that are also another's, and the two are not one
/// machine waiting for a decision: then those values tell nothing, here and for ever.
fn learn(db: &Transaction<'_>, machine: &Machine, found: &BTreeSet<Evidence>, now: &str) -> Result<()> {
    for other in candidates(db, found)?.into_keys().filter(|other| *other != machine.id) {
        if machine.maybe == Some(other) || get(db, other)?.maybe == Some(machine.id) {
            continue;
        }
        burn(db, machine.id, other, found, now)?;
    }
    Ok(())
}

/// Takes the weight from all values in `found` that `other` has too.
fn burn(
    db: &Transaction<'_>,
    machine: MachineId,
    other: MachineId,
    found: &BTreeSet<Evidence>,
    now: &str,
) -> Result<()> {
    let mut insert = db.prepare_cached(
        "INSERT OR IGNORE INTO worthless SELECT kind, value, ?4 FROM evidence
         WHERE machine = ?1 AND kind = ?2 AND value = ?3",
    )?;
    for item in found {
        let lost = insert
            .execute(params![other.to_string(), item.kind.name(), item.value, now])
            .context("taking the weight from a value")?;
        if lost > 0 {
            note(
                db,
                machine,
                &format!("shares its {} number with another machine; it counts no more", item.kind),
            )?;
        }
    }
    Ok(())
}

/// A person says that `machine` is not the one it was taken for.
pub fn is_different(db: &Transaction<'_>, machine: &Machine) -> Result<(), Trouble> {
    let Some(other) = machine.maybe else {
        return Err(Trouble::Refused(Issue::new(
            "nothing-to-decide",
            machine.asset.to_string(),
            "nobody doubts who this machine is",
            "`akene-server show` tells when there is a doubt",
        )));
    };
    burn(db, machine.id, other, &evidence(&machine.inventory), &Timestamp::now().to_string())?;
    db.execute("UPDATE machines SET maybe = NULL WHERE id = ?1", [machine.id.to_string()])?;
    note(db, machine.id, "a person decided that it is a machine of its own")?;
    Ok(())
}

/// Adds a note to a machine.
pub fn note(db: &Transaction<'_>, machine: MachineId, text: &str) -> Result<()> {
    // A machine that starts every day would fill the list with one sentence.
    db.execute(
        "INSERT INTO notes (machine, at, text) SELECT ?1, ?2, ?3
         WHERE ?3 IS NOT (SELECT text FROM notes WHERE machine = ?1 ORDER BY id DESC LIMIT 1)",
        params![machine.to_string(), Timestamp::now().to_string(), text],
    )
    .context("noting something about a machine")?;
    Ok(())
}

/// The notes about a machine, oldest first.
pub fn notes(db: &Transaction<'_>, machine: MachineId) -> Result<Vec<(String, String)>> {
    let mut query = db.prepare("SELECT at, text FROM notes WHERE machine = ?1 ORDER BY id")?;
    let rows = query.query_map([machine.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect::<Result<_, _>>().context("reading notes")
}

/// Gives consent for the next run of a machine.
pub fn allow(db: &Transaction<'_>, machine: MachineId, consent: Consent) -> Result<(), Trouble> {
    let text = serde_json::to_string(&consent)?;
    db.execute("UPDATE machines SET allowed = ?2 WHERE id = ?1", params![machine.to_string(), text])?;
    note(db, machine, &format!("a person allowed one installation (consent {})", text.trim_matches('"')))?;
    Ok(())
}

/// Uses up the consent a person gave.
pub fn take_allowed(db: &Transaction<'_>, machine: MachineId) -> Result<()> {
    db.execute("UPDATE machines SET allowed = NULL WHERE id = ?1", [machine.to_string()])
        .context("using up a permission")?;
    Ok(())
}

const COLUMNS: &str = "id, serial, created, seen, peer, inventory, recognised, maybe, allowed, medium";

struct Raw(
    String,
    u32,
    String,
    String,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw(
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
        row.get(8)?,
        row.get(9)?,
    ))
}

impl Raw {
    fn read(self) -> Result<Machine> {
        Ok(Machine {
            id: parsed(&self.0)?,
            asset: AssetNumber::new(self.1),
            created: self.2,
            seen: self.3,
            peer: self.4,
            inventory: from_json(&self.5)?,
            recognised: self.6,
            maybe: self.7.as_deref().map(parsed).transpose()?,
            allowed: self.8.as_deref().map(from_json).transpose()?,
            medium: self.9.as_deref().map(parsed).transpose()?,
        })
    }
}

pub(super) fn parsed<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T> {
    text.parse().map_err(|e: String| anyhow!(e)).context("reading the database")
}

/// The machine with this id, which must exist.
pub fn get(db: &Transaction<'_>, id: MachineId) -> Result<Machine> {
    with_id(db, id)?.with_context(|| format!("reading the machine {id}"))
}

/// The machine with this id, if there is one.
pub fn with_id(db: &Transaction<'_>, id: MachineId) -> Result<Option<Machine>> {
    one(db, "id", &id.to_string())
}

/// The machine with this serial number, if there is one.
pub(super) fn with_serial(db: &Transaction<'_>, serial: u32) -> Result<Option<Machine>> {
    one(db, "serial", &serial)
}

fn one(db: &Transaction<'_>, column: &str, value: &dyn ToSql) -> Result<Option<Machine>> {
    let query = format!("SELECT {COLUMNS} FROM machines WHERE {column} = ?1");
    db.query_row(&query, [value], raw).optional().context("reading a machine")?.map(Raw::read).transpose()
}

/// How many machines have joined by this medium, ever or since then.
pub fn joined_by(db: &Transaction<'_>, medium: MediumId, since: Option<Timestamp>) -> Result<u32> {
    db.query_row(
        "SELECT count(*) FROM machines WHERE medium = ?1 AND (created >= ?2 OR ?2 IS NULL)",
        params![medium.to_string(), since.map(|since| since.to_string())],
        |row| row.get(0),
    )
    .context("counting the machines of a medium")
}

/// All machines, newest visit first.
pub fn all(db: &Transaction<'_>) -> Result<Vec<Machine>> {
    let mut query = db.prepare(&format!("SELECT {COLUMNS} FROM machines ORDER BY seen DESC, serial"))?;
    let rows = query.query_map([], raw)?;
    rows.map(|row| row.context("reading the machines")?.read()).collect()
}

/// The machine somebody means by an id or an asset number.
pub fn find(db: &Transaction<'_>, name: &str) -> Result<Machine, Trouble> {
    let unknown =
        |next: &str| Trouble::Refused(Issue::new("machine-unknown", name, "there is no such machine", next));
    let found = match (name.parse::<MachineId>(), name.parse::<AssetNumber>()) {
        (Ok(id), _) => with_id(db, id)?,
        (_, Ok(asset)) => with_serial(db, asset.serial())?,
        (_, Err(why)) => return Err(unknown(&why)),
    };
    found.ok_or_else(|| unknown("`akene-server machines` lists them all"))
}
