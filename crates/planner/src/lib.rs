//! Computes the partition table for a machine.
//!
//! [`plan`] is a pure function: storage wishes and an inventory give a [`Plan`] or *all* [`Issue`]s. No
//! I/O, no clock, no randomness, so that a plan can be computed on the server before anybody visits the
//! machine, and so that the same machine always gets the same table.
//!
//! The way: [`candidates`] (which disks may be used, and why the others may not) → for each, its own table
//! if it is an Akène machine's ([`reinstall`]), else a new one ([`fresh`], shares by [`fill`]) → the best
//! of these proposals ([`proposal`]). [`render`] shows a plan to people.
//!
//! The layout follows the disk contract (`docs/architecture.md`): `AKENE_BOOT`, a BIOS boot
//! partition and an EFI system partition on the boot disk, then the profile's volumes.

mod candidates;
pub mod fill;
mod fresh;
mod model;
mod proposal;
mod reinstall;
pub mod render;
mod words;

use akene_protocol::api::Consent;
use akene_protocol::inventory::Inventory;
use akene_protocol::resolve::StorageWishes;

use crate::candidates::{Candidates, Excluded, candidates};
use crate::fresh::TooSmall;
use crate::proposal::Proposal;
pub use akene_protocol::issue::{Issue, Issues};
pub use fresh::{BootChain, GRAIN};
pub use model::*;

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
    let Candidates { usable, excluded } = candidates(wishes, inventory)?;
    let mut proposals: Vec<Proposal<'_>> = Vec::new();
    let mut too_small: Vec<(&str, TooSmall)> = Vec::new();
    let mut blocked: Vec<Issue> = Vec::new();
    for disk in &usable {
        match reinstall::existing(disk, wishes, &inventory.firmware) {
            Some(Ok(proposal)) => proposals.push(proposal),
            Some(Err(issue)) => blocked.push(issue),
            None => match fresh::propose(disk, wishes) {
                Ok(proposal) => proposals.push(proposal),
                Err(reason) => too_small.push((&disk.name, reason)),
            },
        }
    }
    // People's files are on a disk that cannot serve: a person decides, nobody installs beside them.
    if !blocked.is_empty() && !proposals.iter().any(|p| p.reinstall) {
        return Err(Issues(blocked));
    }
    let mut issues: Vec<Issue> = Vec::new();
    if allowed == Consent::Blank {
        let (allowed, refused): (Vec<_>, Vec<_>) = proposals.into_iter().partition(|p| p.destroys.is_empty());
        issues.extend(refused.iter().map(consent_needed));
        proposals = allowed;
    }
    proposals.sort_by(|a, b| a.rank(b));
    let mut proposals = proposals.into_iter();
    let Some(best) = proposals.next() else {
        issues.extend(largest_too_small(&too_small));
        issues.extend(excluded.iter().map(Excluded::issue));
        return Err(Issues(issues));
    };
    let mut notes = best.notes;
    notes.extend(proposals.map(|p| format!("{} is not used: {} serves better", p.disk.name, best.disk.name)));
    notes.extend(too_small.iter().map(|(disk, small)| {
        format!("{disk} is not used: it has {}, and {} are needed", small.have, small.need)
    }));
    notes.extend(blocked.iter().map(|issue| issue.message.clone()));
    notes.extend(issues.iter().map(|issue| issue.message.clone()));
    notes.extend(excluded.iter().map(|e| format!("{} is not used: it {}", e.disk, e.why)));
    Ok(Plan {
        version: VERSION,
        disks: vec![best.plan],
        groups: Vec::new(),
        rung: akene_protocol::profile::Rung::Full.name().to_owned(),
        needs: if best.destroys.is_empty() { Consent::Blank } else { Consent::Wipe },
        destroys: best.destroys,
        notes,
    })
}

fn consent_needed(proposal: &Proposal<'_>) -> Issue {
    let lost: Vec<String> = proposal.destroys.iter().map(|d| format!("{}: {}", d.name, d.what)).collect();
    Issue::new(
        "consent-needed",
        &proposal.disk.name,
        format!(
            "{} is not used: what it holds may not be destroyed: {}",
            proposal.disk.name,
            lost.join("; ")
        ),
        "save what is wanted of it, then order the installation with permission to wipe",
    )
}

/// The largest of the disks that are all too small, with what is missing.
fn largest_too_small(disks: &[(&str, TooSmall)]) -> Option<Issue> {
    let (name, small) = disks.iter().max_by_key(|(_, small)| small.have)?;
    let parts: Vec<String> = small.parts.iter().map(|(what, size)| format!("{what} {size}")).collect();
    let missing = small.need.saturating_sub(small.have);
    Some(Issue::new(
        "disk-too-small",
        *name,
        format!(
            "{} are needed at least ({}); the largest usable disk, {name}, has {}: {missing} are missing",
            small.need,
            words::list(&parts),
            small.have
        ),
        "put in a larger disk, or choose a profile that asks for less",
    ))
}
