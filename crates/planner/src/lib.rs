//! Computes the partition table for a machine.
//!
//! [`plan`] is a pure function: storage wishes and an inventory give a [`Plan`] or *all* [`Issue`]s. No
//! I/O, no clock, no randomness, so that a plan can be computed on the server before anybody visits the
//! machine, and so that the same machine always gets the same table.
//!
//! The layout follows the disk contract (`docs/architecture.md`): `AKENE_BOOT`, a BIOS boot
//! partition and an EFI system partition on the boot disk, then the profile's volumes.

mod model;

pub use akene_protocol::issue::{Issue, Issues};
pub use model::*;
