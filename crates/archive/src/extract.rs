//! Writing a tar into a root without ever leaving it.
//!
//! Every path is resolved by the kernel with `openat2(RESOLVE_IN_ROOT)`: `..` stops at the root and absolute
//! symbolic links begin there. The last component is then made with an `*at` call on the directory
//! found, which follows no link. No check in user space can be outrun that way.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, geteuid, linkat, symlinkat, unlinkat};
use tar::{Archive, Entry, EntryType};

/// How many directories are kept open: a package's files come directory by directory.
const OPEN_DIRECTORIES: usize = 64;

/// A root that is being filled.
pub(crate) struct Root {
    dir: OwnedFd,
    parents: HashMap<PathBuf, Rc<OwnedFd>>,
    /// Only root can give files away; an unprivileged image build lets the image tool set owners.
    owners: bool,
    /// Times of directories, set last because writing into them changes them.
    times: Vec<(PathBuf, i64)>,
}

impl Root {
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let dir = nix::fcntl::open(path, flags, Mode::empty())
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Root { dir, parents: HashMap::new(), owners: geteuid().is_root(), times: Vec::new() })
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
            let (parent, name) = self.parent(&path)?;
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
        let (parent, name) = self.parent(path)?;
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
                        self.directory(path).context("using it as a directory")?;
                    }
                    Err(e) => return Err(e).context("making the directory"),
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                make_room(&parent, name)?;
                let flags =
                    OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
                let fd = openat(&*parent, name, flags, Mode::from_bits_truncate(0o600))
                    .context("making the file")?;
                let mut file = File::from(fd);
                io::copy(entry, &mut file).context("writing its content")?;
                file.flush().context("writing its content")?;
                self.own(&parent, name, owner)?;
                // After the owner: changing that clears the setuid bit.
                nix::sys::stat::fchmod(&file, mode).context("setting its mode")?;
                set_time(&parent, name, seconds)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name().context("reading the link")?.context("reading the link")?;
                make_room(&parent, name)?;
                symlinkat(target.as_os_str(), &*parent, name).context("making the link")?;
                self.own(&parent, name, owner)?;
                set_time(&parent, name, seconds)?;
            }
            EntryType::Link => {
                let target =
                    inside(&entry.link_name().context("reading the link")?.context("reading the link")?)?;
                let (target_parent, target_name) = self.parent(&target)?;
                make_room(&parent, name)?;
                linkat(&*target_parent, target_name, &*parent, name, LinkatFlags::empty())
                    .with_context(|| format!("linking it to {}", target.display()))?;
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

    /// The directory that holds `path`, made if it is missing, and the last component.
    fn parent<'p>(&mut self, path: &'p Path) -> Result<(Rc<OwnedFd>, &'p OsStr)> {
        let name = path.file_name().context("using an empty path")?;
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some(fd) = self.parents.get(parent) {
            return Ok((fd.clone(), name));
        }
        let fd = match self.directory(parent) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => {
                let (above, last) = self.parent(parent)?;
                match mkdirat(&*above, last, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(e) => return Err(e).with_context(|| format!("making {}", parent.display())),
                }
                self.directory(parent).with_context(|| format!("opening {}", parent.display()))?
            }
            Err(e) => return Err(e).with_context(|| format!("opening {}", parent.display())),
        };
        if self.parents.len() >= OPEN_DIRECTORIES {
            self.parents.clear();
        }
        let fd = Rc::new(fd);
        self.parents.insert(parent.to_owned(), fd.clone());
        Ok((fd, name))
    }

    /// Opens a directory, links and all, as if our root were `/`.
    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.dir.as_fd(), path, how)
    }
}

/// A tar path as a relative path without `.`; one with `..` is refused.
fn inside(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("a package must not hold the path {}", path.display())
            }
        }
    }
    Ok(clean)
}

/// Takes away what is at a name where a file or link has to come. A directory is never taken away.
fn make_room(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e).context("looking at what is there"),
        Ok(stat) if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR => {
            bail!("there is a directory of that name")
        }
        Ok(_) => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).context("replacing what is there"),
    }
}

fn set_time(parent: &OwnedFd, name: &OsStr, seconds: i64) -> Result<()> {
    let time = TimeSpec::new(seconds, 0);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink).context("setting its time")
}
