//! Delivering what this machine could not tell when it was installed, with no network: sealed reports on its boot partition.
//!
//! A report makes the machine a member of its site ([`akene_protocol::report`]), so it comes before everything else. It
//! stays until the server says *admitted*; until then nothing that the machine says counts. Somebody may have delivered it
//! before, from the medium: doing it twice does no harm. One of an earlier identity of this computer is delivered all the
//! same; only what is said of the present one changes its number.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use akene_protocol::api::Identity;
use akene_protocol::medium;
use akene_protocol::report::LARGEST;
use akene_protocol::{AssetNumber, Issue};
use anyhow::{Context, Result};

use super::{IDENTITY, Resident};
use crate::durable;
use crate::fetch::http::Http;
use crate::fetch::{Server, is_transient, known};

/// Code of the issue that a person has to decide first whether this machine is one of the site's.
pub(super) const WAITS: &str = "machine-waits";

impl Resident {
    /// The reports that wait here, by name.
    pub(super) fn letters(&self) -> Result<Vec<PathBuf>> {
        let dir = self.root.join("boot").join(medium::DIR).join(medium::REPORTS);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("listing {}", dir.display()))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
            if path.extension().is_some_and(|e| e == "sealed") && path.is_file() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Delivers these reports. One that the server does not take stays for whoever comes by, and is in the way of nothing
    /// else: whether this machine is a member shows in what it says next.
    ///
    /// # Errors
    /// [`WAITS`], or the server cannot be reached.
    pub(super) fn deliver(&self, http: &dyn Http, url: &str, letters: &[PathBuf]) -> Result<()> {
        let server = Server::new(http, url);
        let mut waits = false;
        for path in letters {
            let name = path.display();
            let length = fs::metadata(path).with_context(|| format!("looking at {name}"))?.len();
            if length > LARGEST as u64 {
                eprintln!("{name} is no report: it has {length} bytes");
                continue;
            }
            let sealed = fs::read(path).with_context(|| format!("reading {name}"))?;
            match server.deliver(sealed) {
                Ok(accepted) if accepted.admitted => {
                    // What was reported under an earlier identity is true, and nothing to be called by.
                    if accepted.machine == self.identity.machine {
                        self.is_called(accepted.asset)?;
                    }
                    remove(path)?;
                    eprintln!("the server knows how {} was installed", accepted.machine);
                }
                Ok(accepted) => waits |= accepted.machine == self.identity.machine,
                Err(issue) if is_transient(&issue) => return Err(issue.into()),
                Err(issue) => eprintln!("the server does not take the report {name}: {issue}"),
            }
        }
        match waits {
            false => Ok(()),
            true => Err(Issue::new(
                WAITS,
                "",
                "the server keeps the report of this computer until a person decides whether it is one of the site's",
                "decide at the server: `akene-server machine waiting`, then `machine admit` or `machine drop`",
            )
            .into()),
        }
    }

    /// Takes over the number that the server has for this machine, where another machine had the one it came with.
    fn is_called(&self, asset: AssetNumber) -> Result<()> {
        let boot = self.root.join("boot").join(known::PATH);
        // That of the system last: by it the next start sees whether there is anything left to do.
        for path in [boot, self.root.join(IDENTITY)] {
            let doing = || format!("taking over the number {asset} in {}", path.display());
            let text = match fs::read(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                text => text.with_context(doing)?,
            };
            let found: Identity = match serde_json::from_slice(&text) {
                Ok(found) => found,
                Err(_) if path != self.root.join(IDENTITY) => continue,
                Err(error) => return Err(error).with_context(doing),
            };
            if found.machine != self.identity.machine || found.asset == asset {
                continue;
            }
            let new = Identity { asset, ..found };
            let text = serde_json::to_vec_pretty(&new).with_context(doing)?;
            durable::replace(&path, 0o600, |out| out.write_all(&text).context("writing"))?;
        }
        if self.identity.asset != asset {
            eprintln!(
                "the number of this computer is {asset}: another one has {} already; change the label",
                self.identity.asset
            );
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    let doing = || format!("removing {}, which is delivered", path.display());
    fs::remove_file(path).with_context(doing)?;
    let dir = path.parent().with_context(doing)?;
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(doing)
}
