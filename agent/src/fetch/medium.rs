//! The profile on the medium itself, for places without a network.

use std::path::Path;

use akene_exec::{Cmd, Runner};
use akene_protocol::Issue;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};

/// Label of the medium.
const LABEL: &str = "AKENE";

/// The profile on the medium.
pub const PATH: &str = "akene/profile.json";

/// The profile's signed lock on the medium.
pub const LOCK: &str = "akene/lock.json";

/// Code of the issue that there is no profile on any medium.
pub const NO_PROFILE: &str = "no-profile-on-medium";

/// Filesystems a medium may have: the image itself, or a stick made by copying files.
const KINDS: [&str; 3] = ["iso9660", "vfat", "ext4"];

/// Finds the medium and reads the profile on it.
///
/// # Errors
/// An [`Issue`] when there is no medium, or no profile on any.
pub fn profile(runner: &dyn Runner) -> Result<Vec<u8>> {
    let (found, why) = find(runner, PATH);
    if let Some(text) = found {
        return Ok(text);
    }
    let message = match why.is_empty() {
        true => format!("no disc or stick with the label {LABEL} is plugged in"),
        false => format!("there is no profile on the medium ({})", why.join("; ")),
    };
    let next = "leave the medium plugged in, and put the signed profile on it as akene/profile.json";
    Err(Issue::new(NO_PROFILE, PATH, message, next).into())
}

/// Whether an error says that there is no profile on any medium.
pub fn is_missing(error: &anyhow::Error) -> bool {
    crate::run::issues_of(error).iter().any(|issue| issue.code == NO_PROFILE)
}

/// The signed lock on the medium, if there is one.
pub fn lock(runner: &dyn Runner) -> Option<Vec<u8>> {
    find(runner, LOCK).0
}

/// A file of the medium, and why it was not found on any device that might be one.
fn find(runner: &dyn Runner, path: &str) -> (Option<Vec<u8>>, Vec<String>) {
    // blkid ends with 2 when it finds nothing, which the list of devices then shows by itself.
    let blkid =
        Cmd::new("blkid").args(["-c", "/dev/null", "-o", "device", "-t"]).arg(format!("LABEL={LABEL}"));
    let devices = runner.run(&blkid).map(|o| o.text()).unwrap_or_default();
    let mut why = Vec::new();
    for device in devices.lines() {
        match read(Path::new(device), path) {
            Ok(text) => return (Some(text), why),
            Err(error) => why.push(format!("{device}: {error:#}")),
        }
    }
    (None, why)
}

fn read(device: &Path, path: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().context("making a mount point")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = KINDS.iter().any(|kind| {
        let data = (*kind == "ext4").then_some("noload");
        mount(Some(device), dir.path(), Some(*kind), flags, data).is_ok()
    });
    anyhow::ensure!(mounted, "it has none of the filesystems {}", KINDS.join(", "));
    let text = std::fs::read(dir.path().join(path)).with_context(|| format!("reading {path}"));
    umount(dir.path()).with_context(|| format!("unmounting {}", device.display()))?;
    text
}
