//! Writing into a root without ever leaving it.
//!
//! Every path is resolved by the kernel with `openat2(RESOLVE_IN_ROOT)`: `..` stops at the root and absolute
//! symbolic links begin there. The last component is then made with an `*at` call on the directory
//! found, which follows no link. No check in user space can be outrun that way.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

/// How many directories are kept open: files usually come directory by directory.
const OPEN_DIRECTORIES: usize = 64;

/// A root that is being filled. Paths are those its own system will see; a leading slash may be left out.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
    parents: HashMap<PathBuf, Rc<OwnedFd>>,
}

impl Root {
    /// The root at `path`.
    ///
    /// # Errors
    /// It is not a directory that can be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let dir = nix::fcntl::open(path, flags, Mode::empty())
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Root { path: path.to_owned(), dir, parents: HashMap::new() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of root's with this mode, in place of whatever file or link is there. Missing directories
    /// are made.
    ///
    /// # Errors
    /// It cannot be written, or there is a directory of that name.
    pub fn write(&mut self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let mut write = || -> Result<()> {
            let path = inside(Path::new(path))?;
            let (parent, name) = self.parent(&path)?;
            make_room(&parent, name)?;
            let mut file = create(&parent, name)?;
            file.write_all(content.as_ref()).context("writing its content")?;
            nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode & 0o7777)).context("setting its mode")
        };
        write().with_context(|| format!("writing {path} into {}", self.path.display()))
    }

    /// Adds to the end of a file, which is made with this mode if it is missing.
    ///
    /// # Errors
    /// It cannot be written, or is a link.
    pub fn append(&mut self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let mut append = || -> Result<()> {
            let path = inside(Path::new(path))?;
            let (parent, name) = self.parent(&path)?;
            let flags =
                OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            let fd = openat(&*parent, name, flags, Mode::from_bits_truncate(mode & 0o7777))?;
            File::from(fd).write_all(content.as_ref()).context("writing its content")
        };
        append().with_context(|| format!("adding to {path} in {}", self.path.display()))
    }

    /// Dates a file or link: seconds since 1970.
    ///
    /// # Errors
    /// It is not there.
    pub fn set_time(&mut self, path: &str, seconds: i64) -> Result<()> {
        let mut date = || -> Result<()> {
            let path = inside(Path::new(path))?;
            let (parent, name) = self.parent(&path)?;
            crate::extract::set_time(&parent, name, seconds)
        };
        date().with_context(|| format!("dating {path} in {}", self.path.display()))
    }

    /// Makes a directory with this mode, and those above it. One that is there stays as it is.
    ///
    /// # Errors
    /// It cannot be made, or something else is in the way.
    pub fn make_dir(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut make = || -> Result<()> {
            let path = inside(Path::new(path))?;
            let (parent, name) = self.parent(&path)?;
            match mkdirat(&*parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => {
                    let mode = Mode::from_bits_truncate(mode & 0o7777);
                    fchmodat(&*parent, name, mode, FchmodatFlags::FollowSymlink).context("setting its mode")
                }
                Err(Errno::EEXIST) => self.directory(&path).map(drop).context("using it as a directory"),
                Err(e) => Err(e.into()),
            }
        };
        make().with_context(|| format!("making the directory {path} in {}", self.path.display()))
    }

    /// Makes a symbolic link, in place of whatever file or link is there.
    ///
    /// # Errors
    /// It cannot be made, or there is a directory of that name.
    pub fn symlink(&mut self, target: &str, path: &str) -> Result<()> {
        let mut link = || -> Result<()> {
            let path = inside(Path::new(path))?;
            let (parent, name) = self.parent(&path)?;
            make_room(&parent, name)?;
            Ok(symlinkat(target, &*parent, name)?)
        };
        link().with_context(|| format!("making the link {path} to {target} in {}", self.path.display()))
    }

    /// Removes a file or link if it is there.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        self.remove_path(Path::new(path))
    }

    pub(crate) fn remove_path(&mut self, path: &Path) -> Result<()> {
        let remove = || -> Result<()> {
            let clean = inside(path)?;
            let name = clean.file_name().context("using an empty path")?;
            match self.directory(clean.parent().unwrap_or(Path::new(""))) {
                Err(Errno::ENOENT) => Ok(()),
                Err(e) => Err(e.into()),
                Ok(parent) => make_room(&parent, name),
            }
        };
        remove().with_context(|| format!("removing {} from {}", path.display(), self.path.display()))
    }

    /// Removes an empty directory if it is there.
    ///
    /// # Errors
    /// It is there and cannot be removed: something is in it, or it is no directory.
    pub fn remove_dir(&mut self, path: &str) -> Result<()> {
        self.rmdir(Path::new(path), false)
    }

    /// Removes a directory if it is there and nothing is in it.
    pub(crate) fn remove_if_empty(&mut self, path: &Path) -> Result<()> {
        self.rmdir(path, true)
    }

    fn rmdir(&mut self, path: &Path, filled_may_stay: bool) -> Result<()> {
        let mut remove = || -> Result<()> {
            let clean = inside(path)?;
            let name = clean.file_name().context("using an empty path")?;
            // A directory that is gone must not be remembered.
            self.parents.retain(|known, _| !known.starts_with(&clean));
            match self.directory(clean.parent().unwrap_or(Path::new(""))) {
                Err(Errno::ENOENT) => Ok(()),
                Err(e) => Err(e.into()),
                Ok(parent) => match unlinkat(&parent, name, UnlinkatFlags::RemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => Ok(()),
                    Err(Errno::ENOTEMPTY) if filled_may_stay => Ok(()),
                    Err(e) => Err(e.into()),
                },
            }
        };
        let removed = remove();
        removed.with_context(|| {
            format!("removing the directory {} from {}", path.display(), self.path.display())
        })
    }

    /// The content of a file, or `None` if there is no such file. Links are followed inside the root.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(mut file) = self.open_file(path)? else { return Ok(None) };
        let mut content = Vec::new();
        let read = file.read_to_end(&mut content);
        read.with_context(|| format!("reading {path} in {}", self.path.display()))?;
        Ok(Some(content))
    }

    /// Opens a file for reading, or `None` if there is no such file. Links are followed inside the root.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn open_file(&self, path: &str) -> Result<Option<File>> {
        let clean = inside(Path::new(path))?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(self.dir.as_fd(), clean.as_path(), how) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("opening {path} in {}", self.path.display())),
        }
    }

    /// Whether a path leads to something.
    pub fn exists(&self, path: &str) -> bool {
        let Ok(clean) = inside(Path::new(path)) else { return false };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.dir.as_fd(), clean.as_path(), how).is_ok()
    }

    /// Whether there is a directory, and not a link to one.
    pub(crate) fn is_directory(&self, path: &Path) -> Result<bool> {
        let name = path.file_name().context("using an empty path")?;
        let parent = self.directory(path.parent().unwrap_or(Path::new("")));
        match parent.and_then(|parent| fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)) {
            Err(Errno::ENOENT) => Ok(false),
            stat => stat.map(|s| is_dir(&s)).with_context(|| format!("looking at {}", path.display())),
        }
    }

    /// The directory that holds `path`, made if it is missing, and the last component.
    pub(crate) fn parent<'p>(&mut self, path: &'p Path) -> Result<(Rc<OwnedFd>, &'p OsStr)> {
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
    pub(crate) fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.dir.as_fd(), path, how)
    }
}

/// A path as a relative one without `.`; one with `..` is refused.
pub(crate) fn inside(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("{}: a path with `..` in it could lead anywhere", path.display())
            }
        }
    }
    Ok(clean)
}

fn is_dir(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

/// Takes away what is at a name where a file or link has to come. A directory is never taken away.
pub(crate) fn make_room(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e).context("looking at what is there"),
        Ok(stat) if is_dir(&stat) => {
            bail!("there is a directory of that name")
        }
        Ok(_) => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).context("replacing what is there"),
    }
}

/// Makes a file that was not there.
pub(crate) fn create(parent: &OwnedFd, name: &OsStr) -> Result<File> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let fd = openat(parent, name, flags, Mode::from_bits_truncate(0o600)).context("making the file")?;
    Ok(File::from(fd))
}
