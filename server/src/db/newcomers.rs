//! Machines that were installed with no network: they bring their identity along, and a report instead of an enrolment.

use akene_protocol::api::{Identity, Recognised};
use akene_protocol::medium::MediumId;
use akene_protocol::{AssetNumber, Inventory, MachineId};
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rusqlite::{Transaction, params};

use super::machines::{self, Machine};
use crate::identity::{Verdict, decide, evidence};

/// A machine that no server has seen.
pub struct Newcomer<'a> {
    /// Who it is since it was installed.
    pub identity: &'a Identity,
    /// Whether its number stands on it.
    pub labelled: bool,
    /// What it is.
    pub inventory: &'a Inventory,
    /// The medium it was installed from.
    pub medium: MediumId,
    /// Who brought the report.
    pub peer: &'a str,
}

/// Takes a machine in under its own id and credential, neither of which may be known. It is never taken for another
/// machine, however much alike: that other one has an identity of its own. Where the hardware, or the number, is another's,
/// a person is asked.
pub fn join(db: &Transaction<'_>, newcomer: &Newcomer<'_>) -> Result<()> {
    let Identity { machine: id, asset, credential } = newcomer.identity;
    let now = Timestamp::now().to_string();
    let found = evidence(newcomer.inventory);
    let verdict = decide(&found, &machines::candidates(db, &found)?);
    let holder = machines::with_serial(db, asset.serial())?;
    let serial = match &holder {
        Some(_) => machines::free_serial(db)?,
        None => asset.serial(),
    };
    let (maybe, why) = match verdict {
        Verdict::Same(other) => (Some(other), "board, cards or disks of both are the same".to_owned()),
        Verdict::Ask(other, why) => (Some(other), why),
        Verdict::New => (holder.as_ref().map(|holder| holder.id), "both had the same number".to_owned()),
    };
    let recognised = if maybe.is_some() { "ask" } else { "new" };
    db.execute(
        "INSERT INTO machines (id, serial, created, seen, peer, inventory, recognised, maybe, medium)
         VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            id.to_string(),
            serial,
            now,
            newcomer.peer,
            serde_json::to_string(newcomer.inventory).context("encoding an inventory")?,
            recognised,
            maybe.map(|other| other.to_string()),
            newcomer.medium.to_string(),
        ],
    )
    .context("taking a machine in")?;
    db.execute(
        "INSERT INTO credentials (sum, machine, created) VALUES (?1, ?2, ?3)",
        params![machines::sum(credential), id.to_string(), now],
    )
    .context("keeping a credential")?;
    machines::keep_evidence(db, *id, &found)?;
    let number = AssetNumber::new(serial);
    if let Some(other) = maybe {
        let asset = machines::get(db, other)?.asset;
        machines::note(db, *id, &format!("may be the machine {asset}: {why}"))?;
        machines::note(db, other, &format!("the machine {number} may be this one: {why}"))?;
    }
    if let Some(holder) = holder {
        let label = match newcomer.labelled {
            true => format!("; the label on this computer must be changed to {number}"),
            false => String::new(),
        };
        machines::note(
            db,
            *id,
            &format!("came with the number {asset}, which another machine has ({}){label}", holder.id),
        )?;
        machines::note(
            db,
            holder.id,
            &format!(
                "another computer was installed with the number {asset}, without a network: it is {number} now"
            ),
        )?;
    }
    Ok(())
}

/// How sure the server is about a machine that is a member.
pub fn recognised(machine: &Machine) -> Recognised {
    if machine.maybe.is_some() { Recognised::Ask } else { Recognised::Same }
}

/// Keeps the inventory of a report, unless a newer one is known. `told` is when it was made, `seq` the newest event then.
pub fn keep_inventory(
    db: &Transaction<'_>,
    id: MachineId,
    inventory: &Inventory,
    told: Timestamp,
    seq: u64,
) -> Result<()> {
    let text = serde_json::to_string(inventory).context("encoding an inventory")?;
    db.execute(
        "UPDATE machines SET inventory = ?2, told = ?3, told_seq = ?4
         WHERE id = ?1 AND (told < ?3 OR told = ?3 AND told_seq < ?4)",
        params![id.to_string(), text, told.as_millisecond(), i64::try_from(seq).unwrap_or(i64::MAX)],
    )
    .context("keeping an inventory")?;
    // Nothing loses its weight by a report: two of them may come in any order.
    machines::keep_evidence(db, id, &evidence(inventory))
}
