//! All that those run who log in, so that all of it can be ended.
//!
//! A login makes a session of its own, and what it leaves in the background outlives it: neither process groups nor who
//! started whom tell what came in through the door. A control group does, since nobody leaves one by starting others. When they
//! are gone, what was mounted meanwhile is unmounted: a disk that is in use cannot be installed on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// How long a killed program may take: one that waits for a disk ends when that answers.
const LIMIT: Duration = Duration::from_secs(60);

/// A program and whatever it starts, directly or not.
#[derive(Debug)]
pub struct Sessions {
    /// The control groups of the system, mounted nowhere.
    _groups: File,
    /// This one, below them.
    group: PathBuf,
    /// What was mounted when they began.
    mounts: BTreeSet<Mounted>,
    ended: bool,
}

/// Number and place of a mount, the place as `mountinfo` writes it.
type Mounted = (u64, String);

impl Sessions {
    /// An empty control group.
    ///
    /// # Errors
    /// The kernel has none (version 2).
    pub fn new() -> Result<Self> {
        let place = tempfile::tempdir().context("making a mount point")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let none: Option<&str> = None;
        mount(Some("cgroup2"), place.path(), Some("cgroup2"), flags, none)
            .context("mounting the control groups")?;
        let groups = File::open(place.path());
        umount2(place.path(), MntFlags::MNT_DETACH).context("unmounting the control groups")?;
        let groups = groups.context("opening the control groups")?;
        let at = format!("/proc/self/fd/{}", groups.as_raw_fd());
        let group = tempfile::Builder::new().prefix("akene-ssh-").tempdir_in(at);
        let group = group.context("making a control group")?.keep();
        Ok(Sessions { _groups: groups, group, mounts: mounts()?.into_iter().collect(), ended: false })
    }

    /// Takes in a program that has just been started: what it starts from now on is in here, too.
    ///
    /// # Errors
    /// It is there no more.
    pub fn take_in(&self, pid: u32) -> Result<()> {
        fs::write(self.group.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("putting process {pid} into a control group"))
    }

    /// Ends all of them and unmounts what was mounted since they began.
    ///
    /// # Errors
    /// Some do not end, or something stays mounted.
    pub fn end(mut self) -> Result<()> {
        self.end_now()
    }

    fn end_now(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        fs::write(self.group.join("cgroup.kill"), "1").context("ending those who logged in")?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let events = fs::read_to_string(self.group.join("cgroup.events"))
                .context("asking whether those who logged in are gone")?;
            if events.lines().any(|line| line == "populated 0") {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "a program of somebody who logged in does not end; a disk may not answer it"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::remove_dir(&self.group).context("removing the control group of those who logged in")?;
        // The last first: it may lie on another one.
        let new = mounts()?.into_iter().filter(|mount| !self.mounts.contains(mount)).rev();
        let stays: Vec<String> = new
            .filter_map(|(_, place)| {
                let path = unescaped(&place);
                let error = umount2(path.as_str(), MntFlags::UMOUNT_NOFOLLOW).err()?;
                Some(format!("{path} ({error})"))
            })
            .collect();
        ensure!(stays.is_empty(), "what somebody mounted who logged in stays mounted: {}", stays.join(", "));
        Ok(())
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        // Whoever wants to know what does not work calls `end`.
        let _ = self.end_now();
    }
}

/// What is mounted, in the kernel's order.
fn mounts() -> Result<Vec<Mounted>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").context("reading what is mounted")?;
    Ok(text.lines().filter_map(mounted).collect())
}

/// A line of `mountinfo`, see `proc_pid_mountinfo(5)`.
fn mounted(line: &str) -> Option<Mounted> {
    let mut words = line.split(' ');
    Some((words.next()?.parse().ok()?, words.nth(3)?.to_owned()))
}

/// The kernel writes what would break its line in three octal digits.
fn unescaped(place: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(place.to_owned(), |text, (code, char)| text.replace(code, char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line =
            r"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let (id, place) = mounted(line).unwrap();
        assert_eq!((id, unescaped(&place).as_str()), (36, r"/mnt/a b\c"));
        assert!(["", "36", "x 35 98:0 / / rw", "36 35 98:0 /"].into_iter().all(|odd| mounted(odd).is_none()));
    }
}
