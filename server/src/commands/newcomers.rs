//! `machine`: deciding about machines that wait.

use std::path::Path;

use akene_protocol::api::Recognised;
use akene_server::db::{Trouble, strangers::Stranger};
use akene_server::site::Site;
use akene_server::{report, view};
use anyhow::{Context as _, Result};

use super::machines::open;
use super::say;
use crate::cli::{Machine, Newcomers};

/// `machine`.
pub fn run(command: &Newcomers) -> Result<()> {
    match command {
        Newcomers::Waiting { dir, json } => waiting(dir, *json),
        Newcomers::Admit { machine } => admit(machine),
        Newcomers::Drop { machine } => {
            let dropped = open(&machine.dir)?
                .run(|db| report::drop_it(db, &machine.machine))
                .map_err(Trouble::into_error)?;
            say(&format!("{} does not join. What it reports is refused from now on.", name(&dropped)))
        }
    }
}

/// The number may be another one's; the id is its own.
fn name(stranger: &Stranger) -> String {
    format!("{} ({})", stranger.asset, stranger.machine)
}

fn waiting(dir: &Path, json: bool) -> Result<()> {
    let list = open(dir)?.run(|db| Ok(view::waiting(db)?)).map_err(Trouble::into_error)?;
    if json {
        return say(&serde_json::to_string_pretty(&list).context("encoding the list")?);
    }
    if list.is_empty() {
        return say("No machine waits.");
    }
    for w in list {
        let association = w.association.map(|name| format!("  {name}")).unwrap_or_default();
        let seen: String = w.seen.chars().take(16).collect::<String>().replace('T', " ");
        say(&format!("{:>8}  {seen}  {}  [{}]{association}", w.asset.to_string(), w.words, w.hardware))?;
        say(&format!("          id {}, from {}", w.machine, w.peer))?;
    }
    Ok(())
}

fn admit(machine: &Machine) -> Result<()> {
    let site = Site::open(&machine.dir)?;
    let most = site.config()?.limits.log_bytes_per_machine;
    let (stranger, accepted) = open(&machine.dir)?
        .run(|db| report::admit(db, &site, &machine.machine, most))
        .map_err(Trouble::into_error)?;
    let Some(accepted) = accepted else {
        return say(&format!("{} joins when it is heard of again.", name(&stranger)));
    };
    say(&format!("{} has joined, with {} events.", name(&stranger), accepted.new))?;
    if accepted.instead_of.is_some() {
        let label = if accepted.labelled { "; the label on the computer must be changed" } else { "" };
        say(&format!("Its number is {}: the other is taken{label}.", accepted.asset))?;
    }
    if accepted.recognised == Recognised::Ask {
        say(&format!("It may be another machine: `akene-server show SITE {}`.", accepted.asset))?;
    }
    Ok(())
}
