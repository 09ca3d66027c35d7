//! Running a command inside another root.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Gives the calling thread, and every thread and command it starts from now on, mounts of their own: nobody
/// else sees what is mounted here.
///
/// It also works the other way round, which is why a program that mounts, unmounts and then counts on the
/// device being free wants it: a mount namespace made by somebody else in the meantime (a service of the
/// host, a [`ChrootMounts`] command of another thread) holds a copy of every mount there is, and a
/// filesystem is let go only when the last copy is gone.
///
/// # Errors
/// Where the system refuses: it takes root.
pub fn own_mounts() -> Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("making the mount namespace private")
}

/// What a command finds mounted inside another root.
///
/// All of it is made in a private mount namespace between `fork` and `exec` (bootc's way), so it
/// vanishes with the command, however that ends.
#[derive(Clone, Debug)]
pub struct ChrootMounts {
    root: PathBuf,
    binds: Vec<(PathBuf, PathBuf)>,
}

impl ChrootMounts {
    /// The root's own directories, plus `/proc`, `/sys`, `/dev` (with `pts`) of the running system and a
    /// fresh `/run`.
    pub fn new(root: impl AsRef<Path>) -> Self {
        ChrootMounts { root: root.as_ref().to_owned(), binds: Vec::new() }
    }

    /// Also shows `source` at `target` (a path inside the root that exists there). Binds are made after
    /// the fresh `/run`; a target below `/run` is created.
    pub fn bind(mut self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.binds.push((source.as_ref().to_owned(), target.as_ref().to_owned()));
        self
    }

    /// The other root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Arranges for `command` to start inside the root.
    #[expect(unsafe_code, reason = "pre_exec has no safe form")]
    pub(crate) fn enter_before_exec(&self, command: &mut Command, dir: Option<&Path>) -> Result<()> {
        let path = |p: &Path| {
            CString::new(p.as_os_str().as_bytes()).with_context(|| format!("using the path {}", p.display()))
        };
        // Everything is allocated here: between fork and exec only system calls are allowed.
        let root = path(&self.root)?;
        let dir = path(dir.unwrap_or(Path::new("/")))?;
        let inside = |target: &Path| self.root.join(target.strip_prefix("/").unwrap_or(target));
        let run = path(&inside(Path::new("/run")))?;
        let shared = ["/proc", "/sys", "/dev"]
            .iter()
            .map(|d| Ok((path(Path::new(d))?, path(&inside(Path::new(d)))?)))
            .collect::<Result<Vec<_>>>()?;
        let binds = self
            .binds
            .iter()
            .map(|(source, target)| {
                Ok((path(source)?, path(&inside(target))?, target.starts_with("/run"), source.is_dir()))
            })
            .collect::<Result<Vec<_>>>()?;
        let (tmpfs, mode, lock) = (
            path(Path::new("tmpfs"))?,
            path(Path::new("mode=0755"))?,
            path(&inside(Path::new("/run/lock")))?,
        );
        let none: Option<&std::ffi::CStr> = None;

        let enter = move || -> std::io::Result<()> {
            let slash = c"/";
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, slash, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            for (source, target) in &shared {
                mount(
                    Some(source.as_c_str()),
                    target.as_c_str(),
                    none,
                    MsFlags::MS_BIND | MsFlags::MS_REC,
                    none,
                )?;
            }
            mount(
                Some(tmpfs.as_c_str()),
                run.as_c_str(),
                Some(tmpfs.as_c_str()),
                MsFlags::empty(),
                Some(mode.as_c_str()),
            )?;
            nix::unistd::mkdir(lock.as_c_str(), nix::sys::stat::Mode::from_bits_truncate(0o1777))?;
            for (source, target, in_run, is_dir) in &binds {
                if *in_run && *is_dir {
                    nix::unistd::mkdir(target.as_c_str(), nix::sys::stat::Mode::from_bits_truncate(0o755))?;
                }
                mount(
                    Some(source.as_c_str()),
                    target.as_c_str(),
                    none,
                    MsFlags::MS_BIND | MsFlags::MS_REC,
                    none,
                )?;
            }
            nix::unistd::chroot(root.as_c_str())?;
            nix::unistd::chdir(dir.as_c_str())?;
            Ok(())
        };
        // SAFETY: the closure makes system calls on strings allocated beforehand and allocates nothing
        // itself, which is what is allowed between fork and exec of a threaded program.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}
