//! What agent and server say to each other, over HTTPS with JSON bodies.
//!
//! | call | body | answer | authorised by |
//! |---|---|---|---|
//! | `POST /v1/enrol` | [`EnrolRequest`] | [`EnrolResponse`] | enrolment token in the body |
//! | `POST /v1/runs` | [`RunRequest`] | [`RunResponse`] | credential |
//! | `POST /v1/events` | [`EventBatch`] | [`EventsAccepted`] | credential |
//! | `GET /v1/orders?wait=SECONDS` | – | [`OpenOrders`], or 304 | credential |
//! | `GET /v1/orders/ID/profile` | – | the signed [`Bundle`](crate::profile::Bundle) a reinstallation would use | credential |
//! | `POST /v1/orders/ID` | [`Progress`](crate::order::Progress) | – | credential |
//! | `POST /v1/inventory` | [`Inventory`] | – | credential |
//! | `GET /v1/profiles/NAME/lock` | – | a signed [`ProfileLock`](crate::lock::ProfileLock), or 404 | credential |
//! | `POST /v1/logs/RUN/NAME` | text | – | credential |
//! | `GET /v1/pool/sha256/HASH` | – | the file, ranges too | credential |
//! | `POST /v1/reports` | a sealed [`Letter`](crate::report::Letter) | [`ReportAccepted`](crate::report::ReportAccepted) | the signature of a medium, inside |
//! | `GET /v1/time` | – | [`Time`] | nobody: it mends the clock before anything else |
//!
//! "Credential" is `Authorization: Bearer MACHINE:SECRET`. Every refusal has an [`Issue`] as its body,
//! with the HTTP status 400 (bad request), 401 (token or credential refused), 403 (not allowed), 404,
//! 413 (too large) or 429 (too often, with `Retry-After`). Events and confirmation are idempotent:
//! what was already received is accepted again.
//!
//! An answer to `GET /v1/orders` has an `ETag`, also when it is 304, and says in [`POLL_HEADER`] after how many
//! seconds to ask again. While somebody watches the fleet it also has [`WAIT_HEADER`]: then the machine asks again at once
//! with `?wait=` and at most that many seconds, and is answered when an order comes.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::{Document, Envelope};
use crate::event::{Event, RunId};
use crate::ids::{AssetNumber, MachineId};
use crate::inventory::Inventory;
use crate::issue::Issue;
use crate::order::OrderId;
use crate::secret::Secret;

/// `POST /v1/enrol`: a machine makes itself known.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EnrolRequest {
    /// The token from the stamp.
    pub token: Secret,
    /// The identity found on the machine's disks, if any. It counts only with its credential.
    #[serde(default)]
    pub known: Option<Identity>,
    /// What the machine is.
    pub inventory: Inventory,
}

/// Who a machine is: what the agent keeps on `AKENE_BOOT` and on the installed system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Identity {
    /// Minted by the server at enrolment (or by the agent, offline).
    pub machine: MachineId,
    /// The short number for people.
    pub asset: AssetNumber,
    /// What the machine proves itself with.
    pub credential: Secret,
}

impl Identity {
    /// The value of the `Authorization` header.
    pub fn bearer(&self) -> Secret {
        Secret::new(format!("Bearer {}:{}", self.machine, self.credential.expose()))
    }
}

/// How sure the server is about who the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recognised {
    /// Never seen.
    New,
    /// Seen before.
    Same,
    /// A person has to decide; the machine is new until then.
    Ask,
}

/// Answer to an enrolment.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EnrolResponse {
    /// Who the machine is from now on.
    pub identity: Identity,
    /// How that was decided.
    pub recognised: Recognised,
}

/// `POST /v1/runs`: a live system asks what to do.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunRequest {
    /// The run, chosen by the agent. Asking twice with one id is the same run.
    pub run: RunId,
    /// What the machine is now.
    pub inventory: Inventory,
    /// Profile asked for by the stamp or the kernel command line.
    #[serde(default)]
    pub profile: Option<String>,
    /// The order that made the machine start its installer, found on its boot partition. It is used up by the grant
    /// it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderId>,
    /// How many attempts have broken off, from a machine that makes no more by itself: only a person's word counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// What a live system is told to do.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunResponse {
    /// The signed [`Bundle`](crate::profile::Bundle).
    pub profile: Envelope,
    /// The signed [`Grant`], if this machine may be installed now.
    #[serde(default)]
    pub grant: Option<Envelope>,
    /// Why there is no grant: "already installed on 2026-11-22; order a reinstall to do it again".
    #[serde(default)]
    pub refusal: Option<Issue>,
}

/// How much an installation may destroy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Consent {
    /// Nothing: plan and report only.
    None,
    /// Only disks on which nothing was recognised may be changed, or nothing but what an installation that was
    /// never completed left there.
    #[default]
    Blank,
    /// What is on the disks the plan uses may be destroyed. Kept partitions stay kept.
    Wipe,
    /// The same, and where the packages fit nowhere else they may be fetched after the old system is gone.
    Streamed,
}

/// Permission for one run on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grant {
    /// For this machine only.
    pub machine: MachineId,
    /// For this run only: used up by it.
    pub run: RunId,
    /// How much may be destroyed.
    pub consent: Consent,
    /// Not to be used later than this.
    pub expires: Timestamp,
}

impl Document for Grant {
    const PAYLOAD_TYPE: &'static str = "application/vnd.akene.grant+json; version=1";
}

/// `POST /v1/events`: what happened, in order. Events may be sent again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EventBatch {
    /// At most [`MAX_EVENTS`].
    pub events: Vec<Event>,
}

/// Most events in one batch.
pub const MAX_EVENTS: usize = 500;

/// Largest request body the server reads, in bytes.
pub const MAX_BODY: usize = 4 << 20;

/// Answer to a batch of events.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EventsAccepted {
    /// How many of them were new.
    pub new: usize,
}

/// `GET /v1/orders`: what the machine is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OpenOrders {
    /// Signed [`Order`](crate::order::Order)s, the oldest first.
    pub orders: Vec<Envelope>,
}

/// Header of answers to `GET /v1/orders`: seconds until the machine should ask again.
pub const POLL_HEADER: &str = "akene-poll";

/// Header of answers to `GET /v1/orders` while somebody watches: the most seconds a question may be kept waiting.
pub const WAIT_HEADER: &str = "akene-wait";

/// `GET /v1/time`: the server's clock.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Time {
    /// Now.
    pub now: Timestamp,
}
