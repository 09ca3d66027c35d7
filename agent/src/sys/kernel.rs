//! Modules, mounts, processes, the end of the machine.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::MsFlags;
use nix::sys::reboot::RebootMode;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Loads one module from a file. A module that is there already, or built in, is no error.
pub fn load_module(file: &Path, parameters: &CStr) -> Result<()> {
    let module = File::open(file).with_context(|| format!("opening the module {}", file.display()))?;
    match finit_module(module.as_fd(), parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("loading the module {}", file.display())),
    }
}

/// Mounts a filesystem on a directory, which is created if it is missing.
pub fn mount(source: &str, target: &Path, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("creating {}", target.display()))?;
    nix::mount::mount(Some(source), target, Some(kind), flags, Some(options))
        .with_context(|| format!("mounting {source} ({kind}) on {}", target.display()))
}

mod raw {
    nix::ioctl_readwrite!(fifreeze, b'X', 119, nix::libc::c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, nix::libc::c_int);
    nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, nix::libc::c_int);
}

/// Stops writing to the filesystem this directory is on, and goes on at once. In between a filesystem with a
/// journal has everything where it belongs, and nothing in its journal. A filesystem that cannot be
/// stopped (vfat, tmpfs) has no journal.
#[expect(unsafe_code, reason = "two ioctls")]
pub fn freeze_and_thaw(dir: &File) -> Result<()> {
    let mut unused = 0;
    let mut tries = 100;
    loop {
        // SAFETY: the descriptor is open, and the kernel ignores the argument.
        match unsafe { raw::fifreeze(dir.as_raw_fd(), &mut unused) } {
            Ok(_) => break,
            Err(Errno::EOPNOTSUPP) => return Ok(()),
            // Somebody else stops it at this moment.
            Err(Errno::EBUSY) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e).context("stopping writes to a filesystem"),
        }
    }
    // SAFETY: as above.
    unsafe { raw::fithaw(dir.as_raw_fd(), &mut unused) }.context("going on with writes to a filesystem")?;
    Ok(())
}

/// Says after how long without being fed a watchdog restarts the machine. The driver may round it.
#[expect(unsafe_code, reason = "an ioctl")]
pub fn set_watchdog_timeout(device: &File, timeout: Duration) -> Result<()> {
    let mut seconds = timeout.as_secs().try_into().context("counting seconds")?;
    // SAFETY: the descriptor is open, and the kernel reads and writes one int.
    unsafe { raw::wdioc_settimeout(device.as_raw_fd(), &mut seconds) }.context("setting the watchdog")?;
    Ok(())
}

/// Shows a directory at a second place.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("creating {}", target.display()))?;
    nix::mount::mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("showing {} at {}", source.display(), target.display()))
}

/// Moves a mount to another directory.
pub fn move_mount(source: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("creating {}", target.display()))?;
    nix::mount::mount(Some(source), target, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .with_context(|| format!("moving the mount {} to {}", source.display(), target.display()))
}

/// Makes the mounted directory `new_root` the root of this process and, where this is the first
/// process, of everything it starts.
///
/// `pivot_root` refuses to work on an initramfs; moving over `/` is the documented way
/// (Documentation/filesystems/ramfs-rootfs-initramfs.rst).
pub fn switch_root(new_root: &Path) -> Result<()> {
    std::env::set_current_dir(new_root).with_context(|| format!("entering {}", new_root.display()))?;
    nix::mount::mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("moving the new root over the old one")?;
    nix::unistd::chroot(".").context("entering the new root")?;
    std::env::set_current_dir("/").context("entering the new root's top directory")
}

/// Splits the process in two. Must be called while the process has one thread.
///
/// Returns the child's id in the parent and `None` in the child.
#[expect(unsafe_code, reason = "fork has no safe form")]
pub fn fork() -> Result<Option<Pid>> {
    let threads = std::fs::read_dir("/proc/self/task").context("counting threads before fork")?.count();
    if threads != 1 {
        bail!("fork with {threads} threads running would leave locks held for ever in the child");
    }
    // SAFETY: there is one thread, as was just checked, so the child's memory is in a consistent state and
    // it may do whatever the parent may.
    match unsafe { nix::unistd::fork() }.context("starting a process")? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Gives this process and what it starts the usual search path: the kernel starts the first process with
/// almost nothing. Must be called while the process has one thread.
#[expect(unsafe_code, reason = "the environment is shared between threads")]
pub fn set_search_path() {
    // SAFETY: called right after `fork`, which has checked that there is one thread.
    unsafe { std::env::set_var("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") };
}

/// How a process ended, in words.
pub fn ending(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("ended with status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("was ended by {signal}"),
        other => format!("{other:?}"),
    }
}

/// The signals the first process waits for.
fn awaited() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM].into_iter().collect()
}

/// Keeps the signals [`reap_until`] waits for from any thread that is started from now on.
pub fn block_signals() -> Result<()> {
    awaited().thread_block().context("blocking signals")
}

/// The first process's whole work: waits for processes that lost their parents, until `child` has ended.
/// `on_signal` is called when the kernel asks for a restart (Ctrl-Alt-Del arrives as SIGINT).
pub fn reap_until(child: Pid, mut on_signal: impl FnMut(Signal)) -> Result<WaitStatus> {
    let signals = awaited();
    block_signals()?;
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(status) if status.pid() == Some(child) => return Ok(status),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e).context("waiting for processes"),
            }
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
            Ok(signal) => on_signal(signal),
            Err(e) => return Err(e).context("waiting for a signal"),
        }
    }
}

/// Makes Ctrl-Alt-Del a signal to the first process (false) or an immediate restart (true).
pub fn ctrl_alt_del_restarts(immediately: bool) -> Result<()> {
    nix::sys::reboot::set_cad_enabled(immediately).context("configuring Ctrl-Alt-Del")
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEnd {
    /// Starts again.
    Restart,
    /// Switches itself off.
    PowerOff,
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// Ends the machine. Writes everything to the disks before, but does not wait for ever for a disk that
/// hangs.
pub fn end_machine(how: MachineEnd) -> ! {
    if !ENDING.swap(true, Ordering::SeqCst) {
        let (done, written) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            nix::unistd::sync();
            done.send(()).ok();
        });
        if written.recv_timeout(Duration::from_secs(60)).is_err() {
            eprintln!("akene: a disk does not finish writing; restarting anyway");
        }
    }
    let mode = match how {
        MachineEnd::Restart => RebootMode::RB_AUTOBOOT,
        MachineEnd::PowerOff => RebootMode::RB_POWER_OFF,
    };
    loop {
        match nix::sys::reboot::reboot(mode) {
            Ok(never) => match never {},
            Err(e) => eprintln!("akene: the kernel refuses to restart the machine: {e}"),
        }
        std::thread::sleep(Duration::from_secs(10));
    }
}
