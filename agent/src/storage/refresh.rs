//! An old system that makes room around its `/home`.
//!
//! Where people's files lie in the root of an old system, that filesystem is neither formatted nor moved:
//! when everything the installation needs is at hand, all of it is removed except `/home`. The walk goes from
//! directory to directory by descriptors and follows no link, so that whatever lies on the filesystem, it
//! cannot lead out of it; nothing that is mounted in it is seen. It can be interrupted anywhere: what is
//! left is removed the next time, and as long as `/home` is there the probe knows what it is looking at.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use akene_exec::{Cmd, Runner};
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::work::Work;
use super::{Layout, MountedPartition};
use crate::sys::block;

/// What stays.
const KEPT: [&str; 2] = ["home", "lost+found"];

/// Directories below directories are taken out to the top from here on: one descriptor is open for each.
const DEEPEST: usize = 100;

/// Says what [`empty_root`] would do.
pub(super) fn describe(root: &MountedPartition, work: &Work<'_>) -> Result<()> {
    if let Some(cmd) = relabel(root, Path::new("/")) {
        work.run(&cmd)?;
    }
    let device = root.device.display();
    work.act(|| format!("when every package is there: remove everything on {device} except /home"), || Ok(()))
}

/// Gives the root that is mounted its new label, by which it is found again if the power is cut now, and removes the old
/// system from it, except `/home` and what `also` names at its top. Nothing happens where the root is new.
pub fn empty_root(layout: &Layout, also: &[&str], runner: &dyn Runner) -> Result<()> {
    let Some(partition) = layout.refreshed_root() else { return Ok(()) };
    if let Some(cmd) = relabel(partition, &layout.root) {
        runner.run(&cmd).context("labelling the root")?;
    }
    // A second view of the filesystem alone: what is mounted in it is not there, and what such a mount hides is.
    // The directory is never removed with what is in it: that would be the homes.
    let view = tempfile::Builder::new().prefix("akene-refresh-").tempdir().context("creating a directory")?;
    let view = view.keep();
    let nothing: Option<&str> = None;
    mount(Some(&layout.root), &view, nothing, MsFlags::MS_BIND, nothing)
        .with_context(|| format!("showing {} once more", layout.root.display()))?;
    let emptied = empty(&view, also).with_context(|| format!("emptying {}", partition.device.display()));
    // Detached: a program being started elsewhere holds a copy of every descriptor until it runs.
    let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH;
    let gone = umount2(&view, flags).map_err(anyhow::Error::from);
    let gone = gone.and_then(|()| Ok(std::fs::remove_dir(&view)?));
    emptied?;
    gone.with_context(|| format!("unmounting {}", view.display()))
}

/// The command that labels a mounted filesystem as the root.
fn relabel(partition: &MountedPartition, place: &Path) -> Option<Cmd> {
    let label = partition.role.label(partition.fstype?)?;
    Some(match partition.fstype? {
        Filesystem::Ext4 => Cmd::new("tune2fs").args(["-L", &label]).arg(&partition.device),
        Filesystem::Xfs => Cmd::new("xfs_io").args(["-c", &format!("label -s {label}")]).arg(place),
        Filesystem::Btrfs => Cmd::new("btrfs").args(["filesystem", "label"]).arg(place).arg(&label),
        Filesystem::Vfat | Filesystem::Swap => return None,
    })
}

/// Removes everything in a directory but what is kept.
fn empty(top: &Path, also: &[&str]) -> Result<()> {
    let home = top.join(KEPT[0]).symlink_metadata().context("looking for the homes that are to stay")?;
    if !home.is_dir() {
        bail!("the homes that are to stay are no directory");
    }
    let dir = File::open(top).with_context(|| format!("opening {}", top.display()))?;
    let stays = |name: &CStr| KEPT.iter().chain(also).any(|kept| kept.as_bytes() == name.to_bytes());
    let mut walk = Walk { top: dir.as_fd(), moved: 0 };
    loop {
        let before = walk.moved;
        for name in names(dir.as_fd())?.into_iter().filter(|name| !stays(name)) {
            walk.remove(dir.as_fd(), &name, 0)
                .with_context(|| format!("removing /{}", name.to_string_lossy()))?;
        }
        // What lay too deep was moved to the top, and is removed from there.
        if walk.moved == before {
            break;
        }
    }
    if dir.metadata().context("looking at the root")?.uid() != 0 {
        nix::unistd::fchown(&dir, Some(0.into()), Some(0.into())).context("making the root root's")?;
    }
    dir.set_permissions(std::fs::Permissions::from_mode(0o755)).context("setting the root's mode")?;
    nix::unistd::syncfs(&dir).context("writing out")
}

struct Walk<'t> {
    top: BorrowedFd<'t>,
    moved: u32,
}

impl Walk<'_> {
    /// Removes one entry of a directory with all that is in it.
    fn remove(&mut self, dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            // What cannot be changed by its own attribute; btrfs and others also say so of directories.
            Err(Errno::EPERM) => {
                if release(dir, name)? {
                    return Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?);
                }
            }
            Err(e) => return Err(e.into()),
        }
        if depth >= DEEPEST {
            return self.take_out(dir, name);
        }
        let inner = open(dir, name, OFlag::O_DIRECTORY)?;
        block::make_changeable(&inner)?;
        for entry in names(inner.as_fd())? {
            self.remove(inner.as_fd(), &entry, depth + 1)
                .with_context(|| format!("removing {}", entry.to_string_lossy()))?;
        }
        match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
            // Something is mounted on it in the new system: an empty directory is what it needs there. Or
            // something in it was too deep and has just been moved.
            Ok(()) | Err(Errno::ENOENT | Errno::EBUSY) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl Walk<'_> {
    /// Moves a directory to the top.
    fn take_out(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        loop {
            self.moved += 1;
            let place = CString::new(format!(".akene-deep-{}", self.moved)).context("naming a directory")?;
            match renameat(dir, name, self.top, place.as_c_str()) {
                // One that an interrupted run left.
                Err(Errno::EEXIST | Errno::ENOTEMPTY) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Makes a file changeable that is marked as not to be. `false`: it is a directory.
fn release(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
    match open(dir, name, OFlag::O_DIRECTORY) {
        Ok(_) => return Ok(false),
        Err(e) if e.downcast_ref() == Some(&Errno::ENOTDIR) => {}
        Err(e) => return Err(e),
    }
    let file = open(dir, name, OFlag::O_NONBLOCK)?;
    block::make_changeable(&file)?;
    Ok(true)
}

/// Opens an entry of a directory: no link is followed, no mount is entered.
fn open(dir: BorrowedFd<'_>, name: &CStr, kind: OFlag) -> Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | kind).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    Ok(openat2(dir, name, how)?)
}

/// The names in a directory.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let again = open(dir, c".", OFlag::O_DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again).context("reading a directory")?.iter() {
        let entry = entry.context("reading a directory")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
