//! The signed locks of a site: `locks/NAME.json`, one for each profile that has one.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use akene_protocol::lock::ProfileLock;
use akene_protocol::{Envelope, Sha256};
use anyhow::{Context as _, Result};

use super::{Site, keys, profiles};

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

    fn kept_lock_path(&self, sum: Sha256) -> PathBuf {
        self.dir().join("state/locks").join(format!("{sum}.json"))
    }

    /// Keeps a signed lock for an order that names it: the profile's may be made anew before the order is carried out.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_lock(&self, text: &[u8]) -> Result<Sha256> {
        let sum = Sha256::of(text);
        let path = self.kept_lock_path(sum);
        if !path.exists() {
            keys::private_dir(&self.dir().join("state/locks"))?;
            keys::write(&path, text, 0o644)?;
        }
        Ok(sum)
    }

    /// The signed lock with this sum, if it was kept.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn kept_lock(&self, sum: Sha256) -> Result<Option<Vec<u8>>> {
        let path = self.kept_lock_path(sum);
        match fs::read(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Removes kept locks that no order needs any more.
    ///
    /// # Errors
    /// The directory cannot be read, or a file not be removed.
    pub fn forget_locks(&self, needed: &[Sha256]) -> Result<()> {
        let dir = self.dir().join("state/locks");
        let doing = || format!("tidying {}", dir.display());
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.with_context(doing)?,
        };
        for entry in entries {
            let entry = entry.with_context(doing)?;
            let name = entry.file_name();
            let sum = name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(|n| n.parse().ok());
            if sum.is_some_and(|sum| !needed.contains(&sum)) {
                fs::remove_file(entry.path()).with_context(doing)?;
            }
        }
        Ok(())
    }

    /// Signs a lock and keeps it. The file is whole at every moment.
    ///
    /// # Errors
    /// The key cannot be read, or the file not be written.
    pub fn write_lock(&self, lock: &ProfileLock) -> Result<PathBuf> {
        let path = self.lock_path(&lock.profile).context("keeping a lock of a profile without a name")?;
        let doing = || format!("writing {}", path.display());
        let text = serde_json::to_string(&Envelope::sign(lock, &self.key()?)).with_context(doing)?;
        keys::make_dir(&self.dir().join("locks"), 0o755)?;
        keys::write(&path, (text + "\n").as_bytes(), 0o644)?;
        Ok(path)
    }
}
