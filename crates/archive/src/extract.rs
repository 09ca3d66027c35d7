//! Unpacking a tar into a [`Root`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchownat, geteuid, linkat, symlinkat};
use tar::{Archive, Entry, EntryType};

use crate::root::{Root, create, inside, make_room};

/// A root and what has to be done to it at the end.
pub(crate) struct Unpacker {
    root: Root,
    /// Only root can give files away; an unprivileged image build lets the image tool set owners.
    owners: bool,
    /// Times of directories, set last because writing into them changes them.
    times: Vec<(PathBuf, i64)>,
}

impl Unpacker {
    pub fn new(root: Root) -> Self {
        Unpacker { root, owners: geteuid().is_root(), times: Vec::new() }
    }

    pub fn unpack(&mut self, tar: impl Read, keep: &mut dyn FnMut(&Path) -> bool) -> Result<()> {
        let mut tar = Archive::new(tar);
        for entry in tar.entries().context("reading its table of contents")? {
            let mut entry = entry.context("reading its table of contents")?;
            let path = inside(&entry.path().context("reading a file name")?)?;
            if path.as_os_str().is_empty() || !keep(&path) {
                continue;
            }
            self.entry(&mut entry, &path).with_context(|| format!("writing {}", path.display()))?;
        }
        // The deepest first: setting a child's time does not touch its parent's.
        for (path, seconds) in std::mem::take(&mut self.times).into_iter().rev() {
            let (parent, name) = self.root.parent(&path)?;
            set_time(&parent, name, seconds).with_context(|| format!("dating {}", path.display()))?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path) -> Result<()> {
        let header = entry.header();
        let mode = Mode::from_bits_truncate(header.mode().context("reading its mode")? & 0o7777);
        let seconds = i64::try_from(header.mtime().context("reading its time")?).unwrap_or(0);
        let owner = (
            Uid::from_raw(
                u32::try_from(header.uid().context("reading its owner")?).context("reading its owner")?,
            ),
            Gid::from_raw(
                u32::try_from(header.gid().context("reading its group")?).context("reading its group")?,
            ),
        );
        let kind = header.entry_type();
        let (parent, name) = self.root.parent(path)?;
        match kind {
            EntryType::Directory => {
                match mkdirat(&*parent, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) => {
                        self.own(&parent, name, owner)?;
                        fchmodat(&*parent, name, mode, FchmodatFlags::FollowSymlink)
                            .context("setting its mode")?;
                        self.times.push((path.to_owned(), seconds));
                    }
                    Err(Errno::EEXIST) => {
                        // A directory or a link to one is left as it is; anything else is in the way.
                        self.root.directory(path).context("using it as a directory")?;
                    }
                    Err(e) => return Err(e).context("making the directory"),
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                let file = write_file(&parent, name, entry)?;
                self.own(&parent, name, owner)?;
                finish_file(&file, &parent, name, mode, seconds)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name().context("reading the link")?.context("reading the link")?;
                write_symlink(&parent, name, &target)?;
                self.own(&parent, name, owner)?;
                set_time(&parent, name, seconds)?;
            }
            EntryType::Link => {
                let target = link_target(entry)?;
                write_link(&mut self.root, path, &target)?;
            }
            other => bail!("a package must not hold an entry of the kind {other:?}"),
        }
        Ok(())
    }

    fn own(&self, parent: &OwnedFd, name: &OsStr, (uid, gid): (Uid, Gid)) -> Result<()> {
        if self.owners {
            fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .context("setting its owner")?;
        }
        Ok(())
    }
}

/// Writes a file's content under a name, in place of whatever file or link is there. Its mode keeps everybody
/// out until [`finish_file`].
pub(crate) fn write_file(parent: &OwnedFd, name: &OsStr, content: &mut impl Read) -> Result<File> {
    make_room(parent, name)?;
    let mut file = create(parent, name)?;
    io::copy(content, &mut file).context("writing its content")?;
    Ok(file)
}

/// Gives a file its mode, after its owner: changing that clears the setuid bit.
pub(crate) fn finish_file(
    file: &File,
    parent: &OwnedFd,
    name: &OsStr,
    mode: Mode,
    seconds: i64,
) -> Result<()> {
    nix::sys::stat::fchmod(file, mode).context("setting its mode")?;
    set_time(parent, name, seconds)
}

/// Makes a symbolic link, in place of whatever file or link is there. One that is there
/// already stays: paths that others are following at this moment may lead through it.
pub(crate) fn write_symlink(parent: &OwnedFd, name: &OsStr, target: &Path) -> Result<()> {
    if nix::fcntl::readlinkat(parent, name).is_ok_and(|there| there == target.as_os_str()) {
        return Ok(());
    }
    make_room(parent, name)?;
    symlinkat(target, parent, name).context("making the link")
}

/// Where a hard link leads.
pub(crate) fn link_target<R: Read>(entry: &Entry<'_, R>) -> Result<PathBuf> {
    inside(&entry.link_name().context("reading the link")?.context("reading the link")?)
}

/// Makes a hard link, in place of whatever file or link is there.
pub(crate) fn write_link(root: &mut Root, path: &Path, target: &Path) -> Result<()> {
    let (target_parent, target_name) = root.parent(target)?;
    let (parent, name) = root.parent(path)?;
    make_room(&parent, name)?;
    linkat(&*target_parent, target_name, &*parent, name, LinkatFlags::empty())
        .with_context(|| format!("linking it to {}", target.display()))
}

pub(crate) fn set_time(parent: &OwnedFd, name: &OsStr, seconds: i64) -> Result<()> {
    let time = TimeSpec::new(seconds, 0);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).context("setting its time")
}
