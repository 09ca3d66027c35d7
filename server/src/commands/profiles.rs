//! `profile`.

use std::fs;
use std::process::ExitCode;

use akene_protocol::Envelope;
use akene_server::site::Site;
use anyhow::{Context as _, Result};

use super::say;
use crate::cli::Profile;

/// `profile`.
pub fn run(command: Profile) -> Result<ExitCode> {
    match command {
        Profile::Check { dir, name } => {
            let checked = Site::open(&dir)?.check(name.as_deref())?;
            for issue in &checked.issues {
                eprintln!("{issue}");
            }
            Ok(match checked.issues.len() {
                0 => {
                    say(&format!("No fault found; profiles: {}", checked.profiles.join(", ")))?;
                    ExitCode::SUCCESS
                }
                n => {
                    eprintln!("{n} fault{}", if n == 1 { "" } else { "s" });
                    ExitCode::FAILURE
                }
            })
        }
        Profile::Export { dir, name, output } => {
            let site = Site::open(&dir)?;
            let checked = site.check(Some(&name))?;
            if !checked.issues.is_empty() {
                return Err(akene_protocol::issue::Issues(checked.issues))
                    .with_context(|| format!("exporting the profile {name}"));
            }
            let bundle = site.bundle(&site.config()?, &name)?;
            let text = serde_json::to_string_pretty(&Envelope::sign(&bundle, &site.key()?))
                .context("encoding the signed profile")?;
            match output {
                Some(path) => {
                    fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
                    eprintln!("{name}, revision {}, is in {}", bundle.revision, path.display());
                }
                None => say(&text)?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
