//! The signed locks of a site: `locks/NAME.json`, one for each profile that has one.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use akene_protocol::Envelope;
use akene_protocol::lock::ProfileLock;
use anyhow::{Context as _, Result};

use super::{Site, profiles};

impl Site {
    /// Where a profile's signed lock lies; `None` for what cannot be the name of a profile.
    pub fn lock_path(&self, profile: &str) -> Option<PathBuf> {
        profiles::is_name(profile).then(|| self.dir().join("locks").join(format!("{profile}.json")))
    }

    /// A profile's signed lock as it lies there, if there is one.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn signed_lock(&self, profile: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.lock_path(profile) else { return Ok(None) };
        match fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Signs a lock and keeps it. The file is whole at every moment.
    ///
    /// # Errors
    /// The key cannot be read, or the file not be written.
    pub fn write_lock(&self, lock: &ProfileLock) -> Result<PathBuf> {
        let path = self.lock_path(&lock.profile).context("keeping a lock of a profile without a name")?;
        let doing = || format!("writing {}", path.display());
        let text = serde_json::to_string(&Envelope::sign(lock, &self.key()?)).with_context(doing)?;
        let new = path.with_extension("json.new");
        fs::create_dir_all(self.dir().join("locks")).with_context(doing)?;
        fs::write(&new, text + "\n").with_context(doing)?;
        fs::rename(&new, &path).with_context(doing)?;
        Ok(path)
    }
}
