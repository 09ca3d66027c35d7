//! What lies on the medium itself, for places without a network.
//!
//! There are two forms. A medium with a manifest holds everything an installation needs, packages included: [`stick`].
//! Here is the older form, a single signed profile that was copied onto it; its packages come from mirrors.

pub mod stick;

use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner};
use akene_protocol::Issue;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};

/// Label of the live system's part of a medium.
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
    let mut why = Vec::new();
    for device in labelled(LABEL, &[], runner) {
        match read(&device, path) {
            Ok(text) => return (Some(text), why),
            Err(error) => why.push(format!("{}: {error:#}", device.display())),
        }
    }
    (None, why)
}

/// The devices whose filesystem has a label, among these or, where none are named, all there are.
fn labelled(label: &str, among: &[PathBuf], runner: &dyn Runner) -> Vec<PathBuf> {
    // blkid ends with 2 when it finds nothing, which the list of devices then shows by itself.
    let blkid = Cmd::new("blkid")
        .args(["-c", "/dev/null", "-o", "device", "-t"])
        .arg(format!("LABEL={label}"))
        .args(among);
    let found = runner.run(&blkid).map(|o| o.text()).unwrap_or_default();
    found.lines().map(PathBuf::from).collect()
}

/// Mounts a medium to be read, and gives the kind of its filesystem.
fn mount_to_read(device: &Path, place: &Path) -> Result<&'static str> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounts = |kind: &&str| {
        let data = (*kind == "ext4").then_some("noload");
        mount(Some(device), place, Some(*kind), flags, data).is_ok()
    };
    let kind = KINDS.into_iter().find(mounts);
    kind.with_context(|| format!("it has none of the filesystems {}", KINDS.join(", ")))
}

fn read(device: &Path, path: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().context("making a mount point")?;
    mount_to_read(device, dir.path())?;
    let text = std::fs::read(dir.path().join(path)).with_context(|| format!("reading {path}"));
    umount(dir.path()).with_context(|| format!("unmounting {}", device.display()))?;
    text
}
