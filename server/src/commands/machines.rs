//! `machines`, `show`, `events`, `allow`, `different`: straight on the database, with or without a
//! running server.

use std::path::Path;

use akene_protocol::api::Consent;
use akene_server::db::{Db, Trouble, machines};
use akene_server::site::Site;
use akene_server::view;
use anyhow::{Context as _, Result};

use super::say;
use crate::cli::Machine;

pub(super) fn open(dir: &Path) -> Result<Db> {
    Db::open(&Site::open(dir)?.database())
}

/// Does something with the machine the arguments name.
pub(super) fn with<T>(
    args: &Machine,
    work: impl FnOnce(&rusqlite::Transaction<'_>, &machines::Machine) -> Result<T, Trouble>,
) -> Result<T> {
    open(&args.dir)?
        .run(|db| {
            let machine = machines::find(db, &args.machine)?;
            work(db, &machine)
        })
        .map_err(Trouble::into_error)
}

/// `machines`.
pub fn list(dir: &Path, json: bool) -> Result<()> {
    let (list, waiting) =
        open(dir)?.run(|db| Ok((view::list(db)?, view::waiting(db)?))).map_err(Trouble::into_error)?;
    if json {
        return say(&serde_json::to_string_pretty(&list).context("encoding the list")?);
    }
    if list.is_empty() {
        say("No machine has enrolled yet.")?;
    }
    for m in list {
        let seen: String = m.seen.chars().take(16).collect::<String>().replace('T', " ");
        let association = m.association.map(|name| format!("  {name}")).unwrap_or_default();
        say(&format!("{:>8}  {seen}  {}  [{}]{association}", m.asset.to_string(), m.words, m.hardware))?;
        if let Some(order) = m.order.filter(|order| order.state.is_pending()) {
            say(&format!("          {}: {}", order.asks, order.words))?;
        }
    }
    match waiting.iter().filter(|machine| machine.undecided).count() {
        0 => Ok(()),
        n => say(&format!("{n} more wait for your word: `akene-server machine waiting` lists them.")),
    }
}

/// `show`.
pub fn show(args: &Machine, json: bool) -> Result<()> {
    let detail = with(args, |db, machine| Ok(view::detail(db, machine)?))?;
    if json {
        return say(&serde_json::to_string_pretty(&detail).context("encoding the machine")?);
    }
    let m = &detail.summary;
    say(&format!("{}  {}\n{}\nid {}", m.asset, m.words, m.hardware, m.machine))?;
    say(&format!("first seen {}, last seen {} from {}", m.created, m.seen, m.peer))?;
    if let Some(association) = &m.association {
        say(&format!("for {association}"))?;
    }
    if let Some(medium) = m.medium {
        say(&format!("joined without a network, by the medium {medium}"))?;
    }
    if let Some(consent) = m.allowed {
        say(&format!("its next run may install ({consent:?})"))?;
    }
    for issue in m.issues.iter().chain(&m.refusal) {
        say(&format!("  {issue}"))?;
    }
    for note in &detail.notes {
        say(&format!("note {}: {}", note.at, note.text))?;
    }
    for order in &detail.orders {
        say(&format!("order {} of {}: {}: {}", order.order, order.issued, order.asks, order.words))?;
    }
    for run in &detail.runs {
        let profile = run.profile.as_deref().unwrap_or("no profile yet");
        say(&format!("run {} of {}: {} ({profile})", run.run, run.created, run.words))?;
        for (name, size) in &run.logs {
            say(&format!("  log {name}, {size} bytes"))?;
        }
    }
    Ok(())
}

/// `events`.
pub fn events(args: &Machine) -> Result<()> {
    for event in with(args, |db, machine| Ok(view::detail(db, machine)?))?.events {
        say(&serde_json::to_string(&event).context("encoding an event")?)?;
    }
    Ok(())
}

/// `allow`.
pub fn allow(args: &Machine, wipe: bool, streamed: bool) -> Result<()> {
    let consent = match (wipe, streamed) {
        (_, true) => Consent::Streamed,
        (true, false) => Consent::Wipe,
        (false, false) => Consent::Blank,
    };
    let asset = with(args, |db, machine| machines::allow(db, machine.id, consent).map(|()| machine.asset))?;
    let what = match wipe {
        true => "what is on its disks may be destroyed, except on kept partitions",
        false => "only disks on which nothing is recognised may be changed",
    };
    say(&format!(
        "The next run of {asset} may install: {what}. Start it from the medium, or wait for it to ask."
    ))
}

/// `different`.
pub fn different(args: &Machine) -> Result<()> {
    let asset = with(args, |db, machine| machines::is_different(db, machine).map(|()| machine.asset))?;
    say(&format!(
        "{asset} is a machine of its own. What it shares with the other identifies neither any more."
    ))
}
