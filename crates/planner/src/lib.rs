//! Computes the partition tables for a machine.
//!
//! [`plan`] is a pure function: storage wishes and an inventory give a [`Plan`] or *all* [`Issue`]s. No
//! I/O, no clock, no randomness, so that a plan can be computed on the server before anybody visits the
//! machine, and so that the same machine always gets the same tables.
//!
//! The way: [`candidates`] (which disks may be used, and why the others may not) → what stays: an Akène machine's own
//! tables ([`reinstall`]), people's files elsewhere ([`homes`]), or nothing → what the disks offer besides
//! ([`ground`]) → the best place for everything ([`search`], sizes by [`fill`], judged by [`objective`]) → partitions
//! ([`lay`]). [`explain()`] says why, [`render`] shows a plan to people.
//!
//! The layout follows the disk contract (`docs/architecture.md`): `AKENE_BOOT`, a BIOS boot
//! partition and an EFI system partition on the boot disk, then the profile's volumes.

mod arrangement;
mod candidates;
mod decide;
mod explain;
pub mod fill;
mod ground;
mod homes;
mod lay;
mod model;
pub mod objective;
#[cfg(test)]
mod oracle;
mod problem;
mod recognise;
mod reinstall;
pub mod render;
pub mod risk;
mod search;
mod words;

use akene_protocol::Bytes;
use akene_protocol::api::Consent;
use akene_protocol::inventory::Inventory;
use akene_protocol::resolve::StorageWishes;

pub use akene_protocol::issue::{Issue, Issues};
pub use explain::{Explanation, Reason, explain, explain_within};
pub use model::*;
pub use problem::{BootChain, EMBEDDING_AREA};
pub use recognise::whole_root;
pub use words::partition as partition_node;

/// Partitions begin and end on multiples of this: right for every sector size and flash block.
pub const GRAIN: Bytes = Bytes::mib(1);

/// Plans the disks of a machine.
///
/// # Errors
/// Every reason why nothing can be installed, with the numbers behind it.
pub fn plan(wishes: &StorageWishes, inventory: &Inventory) -> Result<Plan, Issues> {
    plan_within(wishes, inventory, Consent::Wipe)
}

/// Plans the disks of a machine where no more than `allowed` may be destroyed: with [`Consent::Blank`], only
/// disks on which nothing is lost are considered, even where another would serve better. ([`Consent::None`]
/// sets no such limit: it only asks what would be done.)
///
/// # Errors
/// Every reason why nothing can be installed, with the numbers behind it.
pub fn plan_within(wishes: &StorageWishes, inventory: &Inventory, allowed: Consent) -> Result<Plan, Issues> {
    decide::decide(wishes, inventory, allowed).map(|decided| decided.plan)
}
