//! Whose accounts are to survive: read from the system that is about to go, while it is whole.
//!
//! After a power cut that system may be gone: then what the run before noted counts ([`super::resume`]).

use std::path::{Path, PathBuf};

use akene_planner::{Action, Plan, Role};
use akene_protocol::inventory::{Inventory, LooksLike};
use akene_protocol::{Issue, MachineId};
use anyhow::Result;

use super::resume;
use crate::probe::disk::partition_path;
use crate::probe::look;
use crate::target::People;

/// The people of the system that this plan replaces.
///
/// # Errors
/// Why nobody is known: nothing can be read, or several systems could be meant.
pub fn find(plan: &Plan, inventory: &Inventory, machine: MachineId) -> Result<People, Issue> {
    let noted = resume::find(inventory).and_then(|begun| begun.resume);
    if let Some(noted) = noted.filter(|noted| noted.identity.machine == machine)
        && !noted.people.is_empty()
    {
        return Ok(noted.people);
    }
    let unknown = |message: String| {
        Issue::new(
            "accounts-unreadable",
            "keep-accounts",
            message,
            "people's files stay as they are; make the accounts anew that are missing afterwards, with the numbers their files \
             belong to",
        )
    };
    let Some((device, kind)) = old_root(plan, inventory).map_err(unknown)? else {
        return Ok(People::default());
    };
    let read = || -> Result<People> { look::inside(&device, &kind, People::read)? };
    read().map_err(|error| {
        unknown(format!("the accounts of the system on {} cannot be read: {error:#}", device.display()))
    })
}

/// The node and the kind of filesystem of the system so far: where it stays beside the new one, that; else the one that goes,
/// ours where it is one of ours, or the only one.
fn old_root(plan: &Plan, inventory: &Inventory) -> Result<Option<(PathBuf, String)>, String> {
    let mut found = Vec::new();
    let mut stays = None;
    for disk in &plan.disks {
        let Some(known) = inventory.disks.iter().find(|d| d.name == disk.disk.name) else { continue };
        for partition in known.table.iter().flat_map(|t| &t.partitions) {
            let Some(content) = &partition.content else { continue };
            let device = partition_path(Path::new(&disk.disk.path), partition.number);
            if disk.partitions.iter().any(|p| p.number == partition.number && p.purpose == Role::Old) {
                stays = Some((device, content.kind.clone()));
                continue;
            }
            let goes = disk
                .partitions
                .iter()
                .find(|p| p.number == partition.number && !matches!(p.action, Action::Keep | Action::Create));
            if let (Some(goes), Some(LooksLike::LinuxRoot { .. })) = (goes, &content.looks_like) {
                let ours = goes.purpose == Role::Root || content.label == Role::Root.partition_name();
                found.push((ours, device, content.kind.clone()));
            }
        }
    }
    // What lies in the other place is an older one, and nobody's any more.
    if stays.is_some() {
        return Ok(stays);
    }
    found.sort_by_key(|(ours, ..)| !ours);
    match &found[..] {
        [(true, ..), (true, ..), ..] | [(false, ..), _, ..] => {
            let systems = found
                .iter()
                .map(|(_, device, _)| device.display().to_string())
                .collect::<Vec<_>>()
                .join(", ");
            Err(format!("nobody knows whose accounts are meant: there are systems on {systems}"))
        }
        _ => Ok(found.into_iter().next().map(|(_, device, kind)| (device, kind))),
    }
}
