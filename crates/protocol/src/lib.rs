//! The documents that Akène's programs exchange, and nothing else.
//!
//! No I/O happens here: parsers take text, checks are pure functions, and the clock is an
//! argument. Every document that leaves a program carries a version; readers refuse a version
//! they do not know. Rules for changing a document: adding an optional field keeps the version,
//! anything else raises it.
//!
//! | document | type | made by | read by |
//! |---|---|---|---|
//! | what a machine is | [`inventory::Inventory`] | agent | planner, server, rules |
//! | what a machine shall become | [`profile::Bundle`] | administrator | agent |
//! | the bundle for one machine | [`resolve::Resolved`] | agent | planner, agent |
//! | permission to install | [`api::Grant`] | server or medium | agent |
//! | what the server asks of an installed machine | [`order::Order`] | server | agent |
//! | what happens | [`event::Event`] | agent | console, server, log |
//! | how to reach the site | [`stamp::Stamp`] | operator | agent |
//! | what a live image is made of | [`image::ImageManifest`] | image builder | agent |
//! | what a medium for places without a network holds | [`medium::Medium`] | image builder | agent |
//! | what such a place's machine tells its server later | [`report::Report`] | agent | server |
//! | exact packages | [`lock::Lock`] | agent, server | agent |
//!
//! Documents that must be trusted travel in a signed [`envelope::Envelope`].

pub mod api;
pub mod check;
pub mod envelope;
pub mod event;
pub mod garbage;
pub mod ids;
pub mod image;
pub mod inventory;
pub mod issue;
pub mod language;
pub mod lock;
pub mod medium;
pub mod openpgp;
pub mod order;
pub mod profile;
pub mod report;
pub mod resolve;
pub mod rule;
pub mod same_disks;
pub mod seal;
pub mod secret;
pub mod size;
pub mod stamp;
pub mod versioned;

pub use envelope::{Envelope, PublicKey};
pub use event::{Event, EventKind, Phase, RunId};
pub use ids::{AssetNumber, MachineId, Sha256};
pub use image::ImageManifest;
pub use inventory::Inventory;
pub use issue::Issue;
pub use language::Language;
pub use order::{Order, OrderId};
pub use profile::Bundle;
pub use resolve::Resolved;
pub use secret::Secret;
pub use size::Bytes;
pub use stamp::Stamp;
