//! Rescue from the same medium: looking at disks, saving people's files, health, memory, passwords, the boot loader.
//!
//! `akene.mode=rescue` shows [`menu`] on every console; the same is there as `akene-agent rescue …` ([`cmd`]) for the
//! shell that is one choice of it.
//!
//! | file | what |
//! |---|---|
//! | [`volumes`] | every place with a filesystem, from the inventory; pure |
//! | [`open`] | mounting one of them, read-only without playing anything back, or to be written |
//! | [`people`] | accounts and home directories in what is mounted |
//! | [`copy`], [`parts`] | people's files onto another disk: as files, or as archives in parts |
//! | [`health`], [`memory`], [`password`], [`boot`] | one thing each |
//! | [`current`] | which of two systems of one machine is the one that starts |
//! | [`person`] | asking somebody at a terminal, line by line |
//!
//! What is only looked at is mounted through read-only loop devices, so that no driver can write. Whatever writes says
//! before to which disk, and is asked for once. Work is done in mounts of its own thread ([`apart`]): nothing stays
//! mounted, however it ends.

pub mod boot;
pub mod cmd;
pub mod copy;
mod current;
pub mod health;
pub mod memory;
pub mod menu;
pub mod open;
pub mod parts;
pub mod password;
pub mod people;
pub mod person;
pub mod volumes;
pub mod words;

use akene_exec::Runner;
use akene_protocol::inventory::Inventory;
use akene_protocol::{Issue, Language};
use anyhow::{Context, Result, bail};

use crate::probe::{self, ProbeRoot};
use volumes::Volume;

/// What a rescue works with.
pub struct Rescue<'a> {
    /// Runs commands.
    pub runner: &'a dyn Runner,
    /// Where the machine's facts are; loop devices only where they are named.
    pub probe: ProbeRoot,
    /// The language of the person.
    pub language: Language,
}

impl Rescue<'_> {
    /// The machine as it is now: disks are plugged in and out while somebody rescues.
    pub fn machine(&self) -> Inventory {
        probe::inventory(self.runner, &self.probe)
    }

    /// Lets devices that were just plugged in show up.
    pub fn settle(&self) {
        let settle = akene_exec::Cmd::new("udevadm").args(["settle", "--timeout=10"]);
        // A machine without udev has nothing to wait for.
        self.runner.run(&settle).ok();
    }
}

/// The volume of this name (`sda3`, `/dev/sda3`, `group/home`).
///
/// # Errors
/// An [`Issue`] where there is none, with those there are.
pub fn find<'v>(volumes: &'v [Volume], name: &str) -> Result<&'v Volume> {
    let plain = name.strip_prefix("/dev/").unwrap_or(name);
    match volumes.iter().find(|v| v.name == plain) {
        Some(volume) => Ok(volume),
        None => bail!(Issue::new(
            "no-such-volume",
            name,
            format!("there is no filesystem called {name} on the disks"),
            format!(
                "one of these: {}",
                volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ")
            ),
        )),
    }
}

/// Works in a thread with mounts of its own, which vanish with it.
///
/// # Errors
/// Those of the work, or where the system gives no such mounts.
pub fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            akene_exec::own_mounts()?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a defect ended the work")).context("rescuing")?
    })
}
