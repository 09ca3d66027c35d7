//! The new system: packages, settings, boot loader.
//!
//! Before a disk is touched, [`choose()`] asks the archive for the exact packages. When the disks are mounted,
//! [`install`] has the package engine make those of the lock stand in the new root:
//!
//! 1. the base, after the links of the merged /usr;
//! 2. with its dpkg and debconf in place, the answers to packages' questions;
//! 3. the files of all other packages at once, then GRUB on the disk, then everything is set up by the new root's own
//!    dpkg. No archive, no index and no solver is needed for it: only the files, all of them verified.
//!
//! Scripts of packages see policy-rc.d (nothing is started), and on `/run` stand-ins for what would only cost
//! time now or look at disks that are not theirs: the initramfs is made once, beside their scripts, the boot
//! loader by [`configure`]. What writes to disk does so without waiting (the kernel answers syncs at once); one
//! `syncfs` ends it. Nothing of that is in the installed system, because it lived on `/run`.
//!
//! [`configure`] then writes what makes it this machine's system: name, users, network, sources, the profile's
//! files and scripts, the resident agent, initramfs and boot loader, and takes out what was ours.

mod bios;
mod bootloader;
mod choose;
mod esp;
pub(crate) mod firmware;
mod hooks;
pub(crate) mod host_keys;
mod loader;
mod menu;
mod network;
mod packages;
mod people;
mod resident;
mod signed;
mod sources;
mod system;
mod users;

use std::path::{Path, PathBuf};

use akene_archive::{AptRoot, Progress, Root};
use akene_exec::{ChrootMounts, Cmd, Runner};
use akene_planner::Role;
use akene_protocol::api::Identity;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::lock::Lock;
use akene_protocol::profile::Distribution;
use akene_protocol::resolve::Resolved;
use akene_protocol::{Issue, Secret};
use anyhow::{Context, Result};

use crate::run::second_root::Old;
use crate::storage::Layout;

pub use choose::{Choice, choose, request};
pub use people::People;
pub(crate) use signed::renew as renew_loaders;

/// Where packages lie that are staged on the new root, at its top.
pub const STAGE: &str = ".akene-stage";

/// Everything an installation is made from. All of it is at hand: nothing here uses the network.
pub struct Job<'a> {
    /// The disks, partitioned, formatted and mounted below [`Layout::root`].
    pub layout: &'a Layout,
    /// What the machine shall become.
    pub resolved: &'a Resolved,
    /// The packages, and which of them were asked for.
    pub choice: &'a Choice,
    /// Where the files of the lock are, all of them verified.
    pub debs: &'a Path,
    /// The indexes they were chosen from; none where a signed lock chose them.
    pub apt: Option<&'a AptRoot>,
    /// What the resident agent is told.
    pub resident: Resident<'a>,
    /// The people of the system that was there, whose accounts come back where their files are.
    pub people: &'a People,
    /// Firmware of the machine the disks will start.
    pub firmware: FirmwareKind,
    /// Whether that machine is this one. Otherwise (a disk image) nothing outside the disks is written: no
    /// entry in the firmware's boot menu.
    pub this_machine: bool,
    /// Values of `console=` the installed system shall use besides the screen: `ttyS0,115200n8`.
    pub consoles: &'a [String],
    /// A directory on a memory filesystem for what lives during the installation only.
    pub scratch: &'a Path,
    /// Runs the commands.
    pub runner: &'a dyn Runner,
}

/// What the agent on the installed system needs.
pub struct Resident<'a> {
    /// The agent's own program.
    pub program: &'a Path,
    /// Text of `/etc/akene/agent.json`: server, pins, site key.
    pub config: &'a str,
    /// Who the machine is; `None` before it has enrolled.
    pub identity: Option<&'a Identity>,
}

/// A listener of an installation.
pub trait Watch {
    /// How far it has come.
    fn progress(&mut self, progress: Progress);
    /// A line for the log.
    fn log(&mut self, line: &str);
    /// Something a person should know about that does not stop the installation.
    fn warn(&mut self, issue: Issue);
}

/// Makes the kept boot partition of an earlier system start the installer on it. That system's root is gone as
/// soon as the disks are formatted, and a download onto the new disk may take hours.
pub fn take_over(layout: &Layout, consoles: &[String]) -> Result<()> {
    bootloader::take_over(layout, consoles).context("making the disk start the installer")
}

/// GRUB's menu, on the boot partition.
pub const MENU: &str = bootloader::MENU;

/// GRUB's menu while it waits to take the place of the other one, on the boot partition.
pub const WAITING_MENU: &str = menu::WAITING;

/// Starts that a system has until it is up.
pub const STARTS: u32 = menu::STARTS;

/// Whether the menu on a boot partition starts the installer only where all its files are.
pub fn asks_for_installer(boot: &Path) -> bool {
    // A title may be in any encoding.
    std::fs::read(boot.join(MENU)).is_ok_and(|menu| menu::asks_for_installer(&String::from_utf8_lossy(&menu)))
}

/// Puts the menu that waits on the boot partition mounted at `boot` in the place of the other one.
pub fn take_waiting_menu(boot: &Path) -> Result<()> {
    menu::take_waiting(boot).context("putting GRUB's new menu in its place")
}

/// The hash of the password that a menu of ours asks for.
pub fn menu_password(menu: &str) -> Option<Secret> {
    menu::password_of(menu)
}

/// Makes the disk start the installed system, whose boot partition is mounted at `boot`, when all of it is written out.
pub fn start_system(boot: &Path) -> Result<()> {
    menu::start_system(boot).context("making the disk start the new system")
}

/// Makes the menu of the kept boot partition mounted at `boot`, whose UUID is given, start the installer on it and
/// nothing else. Everything else of the system that is still there stays as it is.
pub fn lead_to_installer(boot: &Path, uuid: &str, consoles: &[String]) -> Result<()> {
    bootloader::lead_to_installer(boot, uuid, consoles).context("making the disk start the installer")
}

/// Makes the menu of the boot partition mounted at `boot` start the system that was there before the installation.
pub fn lead_to_old(boot: &Path, uuid: &str, consoles: &[String], old: &Old) -> Result<()> {
    bootloader::lead_to_old(boot, uuid, consoles, old).context("making the disk start the old system")
}

/// Makes the disk start the installer that was just put on its boot partition.
///
/// `image_root` is the initramfs of the live system, `distribution` that of its packages.
///
/// # Errors
/// What could not be written, or is missing in the image.
pub fn start_installer(
    layout: &Layout,
    consoles: &[String],
    image_root: &Path,
    distribution: Distribution,
    scratch: &Path,
    runner: &dyn Runner,
) -> Result<()> {
    let steps = || -> Result<()> {
        // The menu, which needs the installer's files to be there.
        bootloader::take_over(layout, consoles)?;
        // What the boot loader looks for has to be where it finds it before it is there itself.
        crate::durable::sync_for_boot_loader(&layout.root.join("boot"))?;
        loader::put_on_disk(layout, image_root, distribution, scratch, runner)
    };
    steps().context("making the disk start the installer")
}

/// Puts the boot loader of an installed system of ours on its disks again, with the programs of that system, and makes
/// its menu anew. The layout is that of the system, mounted.
///
/// `this_machine`: whether the disks belong to this machine, whose firmware then gets an entry.
///
/// # Errors
/// What could not be written.
pub fn repair_loader(
    layout: &Layout,
    distribution: Distribution,
    firmware: FirmwareKind,
    this_machine: bool,
    scratch: &Path,
    runner: &dyn Runner,
    watch: &mut dyn Watch,
) -> Result<()> {
    let distribution = distribution.directory();
    let tools = bootloader::Tools { layout, distribution, firmware, this_machine, scratch, runner };
    let root = &mut Root::open(&layout.root)?;
    // The menu first: it is only replaced when it is whole, and a loader without one starts nothing.
    menu::renew(layout, root, runner).context("making the boot loader's menu anew")?;
    bootloader::put_on_disk(&tools, root, watch).context("putting the boot loader on the disk")
}

fn boot_uuid(layout: &Layout) -> Result<&str> {
    let boot =
        layout.partition(&Role::Boot).context("looking for the boot partition, which the plan lacks")?;
    boot.uuid.as_deref().context("looking for the UUID of the boot partition")
}

/// Makes the packages stand in the new root.
///
/// # Errors
/// What went wrong, with [`Issue`]s where a person can do something about it: `package-failed`.
pub fn install(job: &Job<'_>, watch: &mut dyn Watch) -> Result<()> {
    packages::install(job, watch)
}

/// Makes it this machine's own system and makes it start.
///
/// # Errors
/// What went wrong, with [`Issue`]s where a person can do something about it: `script-failed`, `user-failed`.
pub fn configure(job: &Job<'_>, watch: &mut dyn Watch) -> Result<()> {
    let mut root = Root::open(&job.layout.root)?;
    type Step = fn(&Job<'_>, &mut Root, &mut dyn Watch) -> Result<()>;
    let steps: [(&str, Step); 10] = [
        ("name, language and time", system::settle),
        ("network", network::settle),
        ("users", users::settle),
        ("files of the profile", hooks::files),
        ("keys of this computer", host_keys::settle),
        ("resident agent", resident::settle),
        ("start files", packages::initramfs),
        ("boot loader", menu::settle),
        ("scripts of the profile", hooks::scripts),
        ("cleaning up", packages::finish),
    ];
    let total = steps.len() as u64;
    for (done, (what, step)) in steps.into_iter().enumerate() {
        watch.progress(Progress { done: done as u64, total, what: what.to_owned() });
        step(job, &mut root, watch).with_context(|| format!("setting up: {what}"))?;
    }
    watch.progress(Progress { done: total, total, what: "the system is set up".to_owned() });
    Ok(())
}

/// A command inside a root.
fn inside(root: &Path, program: &str) -> Cmd {
    Cmd::new(program)
        .chroot(ChrootMounts::new(root))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
        .env("LC_ALL", "C.UTF-8")
}

impl Job<'_> {
    /// A command inside the new root.
    fn inside(&self, program: &str) -> Cmd {
        inside(&self.layout.root, program)
    }

    fn run(&self, cmd: &Cmd) -> Result<String> {
        Ok(self.runner.run(cmd)?.text())
    }

    /// Whether the lock has this package.
    fn has_package(&self, name: &str) -> bool {
        self.lock().packages.iter().any(|p| p.name == name)
    }

    fn lock(&self) -> &Lock {
        &self.choice.lock
    }

    /// Name of the distribution as it is used in paths on the EFI system partition.
    fn distribution(&self) -> &'static str {
        self.resolved.archive.distribution.directory()
    }

    /// UUID of the boot partition's filesystem.
    fn boot_uuid(&self) -> Result<&str> {
        boot_uuid(self.layout)
    }

    fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }
}
