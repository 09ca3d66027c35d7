//! Who asked for what. No header, body or query string is kept: there may be secrets in them.

use akene_protocol::MachineId;
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rusqlite::{Transaction, params};

/// Requests kept. Older ones go, so that a stranger who keeps asking does not fill the disk.
const KEPT: i64 = 500_000;

/// One request and its outcome.
#[derive(Clone, Debug)]
pub struct Request {
    /// Address it came from.
    pub peer: String,
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// The machine that asked, if it proved who it is.
    pub machine: Option<MachineId>,
    /// Milliseconds until the answer.
    pub ms: u64,
}

/// Keeps a request.
pub fn keep(db: &Transaction<'_>, request: &Request) -> Result<()> {
    let doing = "keeping a request";
    db.execute(
        "INSERT INTO requests (at, peer, method, path, status, machine, ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            Timestamp::now().to_string(),
            request.peer,
            request.method,
            request.path,
            request.status,
            request.machine.map(|m| m.to_string()),
            i64::try_from(request.ms).unwrap_or(i64::MAX),
        ],
    )
    .context(doing)?;
    let newest = db.last_insert_rowid();
    if newest % 1000 == 0 {
        db.execute("DELETE FROM requests WHERE id <= ?1", [newest - KEPT]).context(doing)?;
    }
    Ok(())
}
