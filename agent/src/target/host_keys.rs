//! The keys by which SSH clients know this computer outlive its systems.
//!
//! A copy lies on the boot partition, which no reinstall formats. The resident agent makes it ([`keep`]), so that keys an
//! administrator makes anew are kept as well; the next installation puts them in the place of those the package has just made.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use akene_archive::Root;
use anyhow::{Context, Result};

use super::{Job, Watch};
use crate::durable;

/// Where OpenSSH has them, below the root.
const IN_USE: &str = "etc/ssh";

/// Where the copy lies, below the root.
const KEPT: &str = "boot/akene/ssh";

/// Larger ones are no keys.
const LARGEST: u64 = 64 << 10;

/// Gives the new system the keys of the one before, or keeps its own.
pub(super) fn settle(job: &Job<'_>, root: &mut Root, _: &mut dyn Watch) -> Result<()> {
    let top = &job.layout.root;
    let (kept, new) = (keys(&top.join(KEPT))?, keys(&top.join(IN_USE))?);
    if new.is_empty() {
        // A system without an SSH server needs none, and may have one again later.
        return Ok(());
    }
    if kept.is_empty() {
        return keep(top);
    }
    for (name, _) in &new {
        root.remove(&format!("{IN_USE}/{name}"))?;
    }
    for (name, path) in &kept {
        let key = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        root.write(&format!("{IN_USE}/{name}"), key, mode(name))?;
    }
    Ok(())
}

/// Copies the keys of the system at `root` onto its boot partition, where they differ.
///
/// # Errors
/// When they cannot be read or written.
pub fn keep(root: &Path) -> Result<()> {
    let new = keys(&root.join(IN_USE))?;
    if new.is_empty() {
        return Ok(());
    }
    let dir = root.join(KEPT);
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    for (name, path) in &new {
        let key = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let copy = dir.join(name);
        if fs::read(&copy).ok().as_ref() != Some(&key) {
            durable::replace(&copy, 0o600, |out| out.write_all(&key).context("writing"))?;
        }
    }
    for (name, path) in keys(&dir)? {
        if !new.iter().any(|(other, _)| *other == name) {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The private keys that are kept on a boot partition mounted at `boot`.
///
/// # Errors
/// When they cannot be read.
pub fn on_boot(boot: &Path) -> Result<Vec<Vec<u8>>> {
    let kept = KEPT.strip_prefix("boot/").unwrap_or(KEPT);
    let private = keys(&boot.join(kept))?.into_iter().filter(|(name, _)| !name.ends_with(".pub"));
    private.map(|(_, path)| fs::read(&path).with_context(|| format!("reading {}", path.display()))).collect()
}

/// Public halves may be read by everybody.
fn mode(name: &str) -> u32 {
    if name.ends_with(".pub") { 0o644 } else { 0o600 }
}

/// Names and paths of the host keys in a directory, in order. There is none: there are none.
fn keys(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", dir.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let meta = entry.metadata().with_context(|| format!("looking at {}", entry.path().display()))?;
        let named = name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub"));
        if named && meta.is_file() && meta.len() <= LARGEST {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    // A power cut may leave empty files. With one of those for good no SSH server would ever start again.
    let whole = |(name, path): &(String, PathBuf)| {
        let text = fs::read(path).unwrap_or_default();
        let private = text.windows(11).any(|part| part == b"PRIVATE KEY");
        !text.is_empty() && (name.ends_with(".pub") || private)
    };
    found.retain(whole);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_keys_are_kept_and_what_is_gone_goes() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        keep(root.path()).unwrap();
        assert!(!at(KEPT).exists(), "no SSH server, nothing to keep");
        fs::create_dir_all(at(IN_USE)).unwrap();
        fs::create_dir_all(at("boot")).unwrap();
        for name in ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "ssh_host_rsa_key", "sshd_config"] {
            fs::write(at(IN_USE).join(name), format!("PRIVATE KEY {name}")).unwrap();
        }
        fs::write(at(IN_USE).join("ssh_host_ecdsa_key"), "").unwrap();
        symlink("/etc/shadow", at(IN_USE).join("ssh_host_dsa_key")).unwrap();
        keep(root.path()).unwrap();
        let names = || keys(&at(KEPT)).unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(), ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "ssh_host_rsa_key"]);
        let kept = at(KEPT).join("ssh_host_ed25519_key");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
        // Made anew by an administrator, without the old kind.
        fs::remove_file(at(IN_USE).join("ssh_host_rsa_key")).unwrap();
        fs::write(at(IN_USE).join("ssh_host_ed25519_key"), "another PRIVATE KEY").unwrap();
        keep(root.path()).unwrap();
        assert_eq!(names(), ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]);
        assert_eq!(fs::read_to_string(kept).unwrap(), "another PRIVATE KEY");
    }
}
