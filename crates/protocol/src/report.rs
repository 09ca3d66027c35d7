//! What a machine that was installed with no network tells its server, later and by whatever way there is.
//!
//! A report holds all that the server would have heard during the run. It is signed with the key of the medium the
//! machine was installed from, then sealed for the server ([`crate::seal`]), and lies on that medium
//! (`akene/reports/RUN.sealed`) and on the machine's boot partition. Whoever is online first delivers it: `akene-image sync`,
//! or the machine itself. `POST /v1/reports` takes the sealed bytes, asks for no other proof, and may be sent the same
//! report, or a longer one of the same run, again and again.
//!
//! A medium can be declared lost at the server. What comes from it afterwards, and what comes after more machines than
//! it was made for, waits for a person's word and gives its machine nothing until then.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Identity, Recognised};
use crate::envelope::{Document, Envelope};
use crate::event::{Event, RunId};
use crate::ids::AssetNumber;
use crate::inventory::Inventory;
use crate::medium::MediumId;

/// The version of [`Report`] this crate writes and reads.
pub const VERSION: u32 = 1;

/// Largest sealed report that is read, in bytes.
pub const LARGEST: usize = 16 << 20;

/// One run on one machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Report {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// When this was written, by the machine's clock, which nobody has confirmed.
    pub at: Timestamp,
    /// Who the machine is: minted where it stands, or found on its disks.
    pub identity: Identity,
    /// Whether a person typed or scanned the asset number. Then it stands on the machine.
    #[serde(default)]
    pub labelled: bool,
    /// The association the technician chose.
    #[serde(default)]
    pub association: Option<String>,
    /// Name and revision of the profile; none where the run ended before it was chosen.
    #[serde(default)]
    pub profile: Option<(String, String)>,
    /// What the machine is.
    pub inventory: Inventory,
    /// What was done to its disks: a `Plan` of the planner.
    #[serde(default)]
    pub plan: Option<serde_json::Value>,
    /// Everything that happened so far, from the first event.
    pub events: Vec<Event>,
    /// The log so far.
    #[serde(default)]
    pub log: Option<String>,
}

impl Document for Report {
    const PAYLOAD_TYPE: &'static str = "application/vnd.akene.report+json; version=1";
}

/// What is sealed: a signed [`Report`], and whose signature it bears.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Letter {
    /// The medium whose key signed.
    pub medium: MediumId,
    /// The signed [`Report`].
    pub report: Envelope,
}

/// Answer to `POST /v1/reports`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReportAccepted {
    /// The machine's number at the server. Another one than in the report where that was taken.
    pub asset: AssetNumber,
    /// Who the server thinks it is.
    pub recognised: Recognised,
    /// Whether the machine is a member. Otherwise a person has to decide first.
    pub admitted: bool,
    /// How many events were new.
    pub new: usize,
}
