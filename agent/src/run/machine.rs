//! [`Effects`](super::Effects) for real: a machine, and the rooms of the agent, one after the other.
//!
//! | part | what it does |
//! |---|---|
//! | [`authority`] | who has the say: identity, orders, what the installed system is told |
//! | [`packages`] | where packages come from |
//! | [`effects`] | the steps of the pipeline |

use std::path::{Path, PathBuf};

use akene_archive::AptRoot;
use akene_exec::Runner;
use akene_protocol::Inventory;
use akene_protocol::api::Identity;
use akene_protocol::image::ImageManifest;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::stamp::Stamp;

use super::doubt::ClockState;
use super::left;
use super::offline::Offline;
use super::swap::TargetSwap;
use crate::fetch::SignedLock;
use crate::net::resolver::Resolver;
use crate::probe::ProbeRoot;
use crate::report::Reporter;
use crate::target::{self, Choice};

mod authority;
mod effects;
mod packages;

pub use authority::Authority;

/// What can be staged before the disks change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The scratch directory is in memory.
    Memory,
    /// The scratch directory is on a disk of its own.
    Disk,
}

/// A machine that is installed from here.
pub struct Machine<'a> {
    /// Runs commands.
    pub runner: &'a dyn Runner,
    /// Hears everything.
    pub reporter: &'a Reporter,
    /// Where facts come from.
    pub probe: ProbeRoot,
    /// The only disk that exists for this run.
    pub only_disk: Option<PathBuf>,
    /// An inventory given instead of probing; its disks are replaced by those found.
    pub inventory: Option<Inventory>,
    /// Who says what to install.
    pub authority: Authority<'a>,
    /// Asks name servers.
    pub resolver: Resolver,
    /// Proxy for everything.
    pub proxy: Option<String>,
    /// An empty directory of ours.
    pub scratch: PathBuf,
    /// Where packages are kept from one run to the next, so that they are fetched once.
    pub packages: Option<PathBuf>,
    /// Where the scratch directory is.
    pub room: Room,
    /// Where the new root is mounted.
    pub mount: PathBuf,
    /// The installer to put on the disk: its initramfs, stamp and manifest.
    pub installer: Option<(PathBuf, Stamp, ImageManifest)>,
    /// The agent's own program.
    pub program: PathBuf,
    /// Whether the machine that is installed is this one.
    pub this_machine: bool,
    /// `console=` values for the installed system.
    pub consoles: Vec<String>,
    /// The log so far.
    pub log: PathBuf,
    /// Firmware of the machine, known after probing.
    pub firmware: FirmwareKind,
    /// Firmware of the machine the disk is meant for, if that is another one.
    pub other_firmware: Option<FirmwareKind>,
    /// Events of earlier runs that the server was sent by this one.
    pub sent: Vec<left::Sent>,
    /// What is known of the clock, where it is ours to mend.
    pub clock: Option<ClockState>,
    /// What of the new disk is swapped to.
    pub swap: TargetSwap,
    /// The boot partitions of earlier installations, known after probing.
    pub boots: Vec<PathBuf>,
    /// Who the machine is, known after asking.
    pub identity: Option<Identity>,
    /// The signed lock the packages were taken from.
    pub signed: Option<Box<SignedLock>>,
    /// Where everything comes from a medium and nobody is asked over a network.
    pub offline: Option<Offline<'a>>,
    /// The people whose accounts survive, known after staging began.
    pub people: target::People,
}

/// Packages chosen.
pub struct Solved {
    /// The indexes; none were needed with a signed lock.
    apt: Option<AptRoot>,
    choice: Choice,
}

/// Packages fetched.
pub struct Staged {
    dir: PathBuf,
    /// Whether the directory outlives the run, or goes with what it lies in.
    keep: bool,
}

impl Machine<'_> {
    /// What is known of a machine, with only the disk that counts.
    fn look(&self) -> Inventory {
        let mut found = crate::probe::inventory(self.runner, &self.probe);
        if let Some(only) = &self.only_disk {
            found.disks.retain(|d| Path::new(&d.path) == only);
            // What is wrong with this machine's own disks is nobody's business here.
            let ours = |path: &str| path.is_empty() || found.disks.iter().any(|d| d.name == path);
            found.notes.retain(|note| ours(&note.path));
        }
        match &self.inventory {
            Some(given) => Inventory { disks: found.disks, ..given.clone() },
            None => found,
        }
    }
}
