//! `media`: sticks and discs that install without a network.

use std::path::Path;

use akene_protocol::medium::MediumId;
use akene_server::db::{Trouble, machines};
use akene_server::site::Site;
use akene_server::site::media::{self, Refused};
use anyhow::Result;
use jiff::Timestamp;

use super::say;
use crate::cli::Media;

/// `media`.
pub fn run(command: &Media) -> Result<()> {
    match command {
        Media::List { dir } => list(dir),
        Media::Lost { dir, id } => lost(dir, *id, true),
        Media::Found { dir, id } => lost(dir, *id, false),
    }
}

fn joined(dir: &Path, id: MediumId) -> Result<u32> {
    super::machines::open(dir)?.run(|db| Ok(machines::joined_by(db, id, None)?)).map_err(Trouble::into_error)
}

fn list(dir: &Path) -> Result<()> {
    let all = media::list(&Site::open(dir)?)?;
    if all.is_empty() {
        return say(
            "No medium that installs without a network was made yet: `akene-image offline` makes one.",
        );
    }
    for medium in all {
        let joined = joined(dir, medium.id)?;
        let state = match medium.counts(Timestamp::now()) {
            Err(Refused::Lost) => "lost".to_owned(),
            Err(Refused::Expired) => format!("expired {:.0}", medium.expires),
            Ok(()) if joined >= medium.machines => "used up".to_owned(),
            Ok(()) => format!("counts until {:.0}", medium.expires),
        };
        say(&format!(
            "{}  made {:.0}  {state}  {joined} of {} computers joined  {}",
            medium.id, medium.made, medium.machines, medium.label
        ))?;
    }
    Ok(())
}

fn lost(dir: &Path, id: MediumId, lost: bool) -> Result<()> {
    media::set_lost(&Site::open(dir)?, id, lost)?;
    let joined = joined(dir, id)?;
    say(&match lost {
        true => format!(
            "Computers that report from the medium {id} wait for your word from now on. {joined} have joined by it \
             before and stay members: `akene-server show` tells of each by which medium it came."
        ),
        false => format!(
            "The medium {id} counts again. Computers that wait because of it join when they are heard of, or at once by \
             `akene-server machine admit`."
        ),
    })
}
