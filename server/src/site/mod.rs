//! The site directory: what one administrator decides, kept in git.
//!
//! ```text
//! site.toml              name, address, which profile for which machine, what new machines may lose
//! profiles/NAME.toml     what a machine becomes
//! classes/NAME/          class.toml, and optionally files/, scripts/ and debconf beside it
//! locks/NAME.json        which packages its machines get, signed; in git
//! media/ID.toml          media that install with no network, one for each that was made; in git
//! secrets/               keys and tokens, mode 0700, not in git
//! state/                 the database, not in git
//! stamp.json             what `akene-image stamp` writes into an image, mode 0600, not in git
//! ```
//!
//! Everything but `secrets/` and `state/` is read anew for each question, so that an edit counts at once
//! and a half-made edit harms only the machine that asks in that moment.

mod builtin;
mod config;
pub mod init;
pub mod keys;
mod locate;
mod locks;
pub mod media;
mod profiles;
pub mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use akene_protocol::Stamp;
use anyhow::{Context as _, Result, ensure};
use ed25519_dalek::SigningKey;

pub use config::{Limits, ProfileRule, SiteConfig, split_url};
pub use profiles::{Checked, Chosen};

use tokens::Tokens;

/// A site directory.
#[derive(Clone, Debug)]
pub struct Site {
    dir: PathBuf,
}

impl Site {
    /// Opens a site directory.
    ///
    /// # Errors
    /// When there is no `site.toml` in it.
    pub fn open(dir: &Path) -> Result<Site> {
        let file = dir.join("site.toml");
        ensure!(
            file.is_file(),
            "opening the site directory {}: there is no site.toml in it; make one with `akene-server init`",
            dir.display()
        );
        let dir = fs::canonicalize(dir).with_context(|| format!("opening {}", dir.display()))?;
        Ok(Site { dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `site.toml`.
    pub fn config(&self) -> Result<SiteConfig> {
        SiteConfig::read(&self.dir.join("site.toml"))
    }

    /// A file in `secrets/`.
    pub fn secret(&self, name: &str) -> PathBuf {
        self.dir.join("secrets").join(name)
    }

    /// Where the server keeps what it learns.
    pub fn database(&self) -> PathBuf {
        self.dir.join("state/akene.db")
    }

    /// The key that signs documents.
    pub fn key(&self) -> Result<SigningKey> {
        keys::read_signing_key(&self.secret("site.key"))
    }

    /// The enrolment tokens.
    pub fn tokens(&self) -> Result<Tokens> {
        Tokens::read(&self.secret("enrol-tokens.toml"))
    }

    /// Keeps the enrolment tokens.
    pub fn write_tokens(&self, tokens: &Tokens) -> Result<()> {
        tokens.write(&self.secret("enrol-tokens.toml"))
    }

    /// The stamp made by `init`.
    pub fn stamp(&self) -> Result<Stamp> {
        let path = self.dir.join("stamp.json");
        let text = keys::read_secret(&path)?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Keeps a stamp in a file only its owner can read.
    pub fn write_stamp(path: &Path, stamp: &Stamp) -> Result<()> {
        let mut text = serde_json::to_string_pretty(stamp).context("encoding the stamp")?;
        text.push('\n');
        keys::write_private(path, text.as_bytes())
    }
}
