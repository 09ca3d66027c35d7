//! What happens during a run, as a versioned stream.
//!
//! The bar on the screen, the plain lines of a serial console, the server and the log are all
//! renderers of it. A listener that dies never fails the install: events are spooled and sent again,
//! and the server drops what it has already seen, by ([`Event::run`], [`Event::seq`]).

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{as_text, from_hex};
use crate::issue::Issue;

/// The version of [`Event`] this crate writes.
pub const VERSION: u32 = 1;

/// One attempt at installing one machine: 64 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub [u8; 8]);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for RunId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text, "a run id").map(RunId)
    }
}

as_text!(RunId, "RunId", "^[0-9a-f]{16}$", "64 random bits, 16 hexadecimal digits.");

/// The phases of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Devices, console, live medium.
    Boot,
    /// Cards, cable, address, clock.
    Network,
    /// Collecting the inventory.
    Probe,
    /// Enrolling, fetching and verifying the profile.
    Profile,
    /// Computing the plan.
    Plan,
    /// Having the permission to change the disks.
    Consent,
    /// Fetching and verifying packages.
    Stage,
    /// Partitioning, formatting and mounting.
    Commit,
    /// Unpacking and configuring the system.
    Install,
    /// Users, files, boot loader.
    Configure,
    /// Restarting into the installed system.
    Restart,
    /// The installed system tells the server that it runs.
    Confirm,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; 12] = [
        Phase::Boot,
        Phase::Network,
        Phase::Probe,
        Phase::Profile,
        Phase::Plan,
        Phase::Consent,
        Phase::Stage,
        Phase::Commit,
        Phase::Install,
        Phase::Configure,
        Phase::Restart,
        Phase::Confirm,
    ];

    /// What a person in front of the screen reads.
    pub fn title(self) -> &'static str {
        match self {
            Phase::Boot => "Starting",
            Phase::Network => "Connecting to the network",
            Phase::Probe => "Looking at this computer",
            Phase::Profile => "Asking the server what to install",
            Phase::Plan => "Planning the disks",
            Phase::Consent => "Checking the permission to install",
            Phase::Stage => "Downloading",
            Phase::Commit => "Preparing the disks",
            Phase::Install => "Installing",
            Phase::Configure => "Setting up",
            Phase::Restart => "Restarting",
            Phase::Confirm => "Telling the server",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The serialised form, without quotes.
        f.write_str(match self {
            Phase::Boot => "boot",
            Phase::Network => "network",
            Phase::Probe => "probe",
            Phase::Profile => "profile",
            Phase::Plan => "plan",
            Phase::Consent => "consent",
            Phase::Stage => "stage",
            Phase::Commit => "commit",
            Phase::Install => "install",
            Phase::Configure => "configure",
            Phase::Restart => "restart",
            Phase::Confirm => "confirm",
        })
    }
}

/// Unit of a progress figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Unit {
    Bytes,
    Packages,
    Steps,
}

/// Weight of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Event {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// The run it belongs to.
    pub run: RunId,
    /// Counts from 1 within the run, without gaps, across restarts.
    pub seq: u64,
    /// The machine's clock. It may be wrong before the network phase has ended.
    pub at: Timestamp,
    /// Milliseconds since the kernel started, which no clock change disturbs.
    pub uptime_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "type")]
pub enum EventKind {
    /// A phase began.
    PhaseStarted {
        /// Which.
        phase: Phase,
    },
    /// A phase ended well.
    PhaseFinished {
        /// Which.
        phase: Phase,
    },
    /// Work is going on. Renderers may drop all but the newest.
    Progress {
        /// In which phase.
        phase: Phase,
        /// Done so far.
        done: u64,
        /// Of how much, if known.
        total: Option<u64>,
        /// Counted in what.
        unit: Unit,
        /// The thing in hand: a package, a file.
        what: String,
    },
    /// A line for the log.
    Log {
        /// How much it matters.
        level: Level,
        /// The text. Never holds a secret.
        message: String,
    },
    /// The plan that will be carried out, as `akene-agent plan --json` prints it.
    Planned {
        /// The plan document.
        plan: serde_json::Value,
    },
    /// The run ended badly. The last event of a run that fails.
    Failed {
        /// In which phase.
        phase: Phase,
        /// Why: all issues that are known.
        issues: Vec<Issue>,
        /// Whether any disk was changed.
        disks_changed: bool,
    },
    /// The installer has done its work and restarts the machine. Not the end: see `Confirmed`.
    Installed,
    /// The installed system runs. The last event of a run that succeeds.
    Confirmed {
        /// `PRETTY_NAME` of the running system.
        system: String,
        /// Kernel release.
        kernel: String,
    },
}
