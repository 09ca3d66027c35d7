//! Whose accounts are to survive: read from the system that is about to go, while it is whole.
//!
//! After a power cut that system may be gone: then what the run before noted counts ([`super::resume`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use akene_planner::{Action, Plan, Role};
use akene_protocol::inventory::{Inventory, LooksLike};
use akene_protocol::{Issue, MachineId};
use anyhow::Result;

use super::{resume, second_root};
use crate::fetch::known;
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
    let starts = starts(plan, inventory);
    let Some((device, kind)) = old_root(plan, inventory, starts.as_deref()).map_err(unknown)? else {
        return Ok(People::default());
    };
    let read = || -> Result<People> { look::inside(&device, &kind, People::read)? };
    read().map_err(|error| {
        unknown(format!("the accounts of the system on {} cannot be read: {error:#}", device.display()))
    })
}

/// UUID of the root that the menu on these disks starts: people changed their passwords there, whatever else is noted. Where two
/// computers' disks are in one, nobody knows which menu is meant.
fn starts(plan: &Plan, inventory: &Inventory) -> Option<String> {
    let of_plan =
        known::boot_partitions(inventory).filter(|(d, _)| plan.disks.iter().any(|p| p.disk.name == d.name));
    // What cannot be looked into says nothing.
    let roots: BTreeSet<String> = of_plan
        .filter_map(|(_, node)| known::look(&node, |boot| Ok(second_root::current(boot))).ok()?)
        .collect();
    if roots.len() == 1 { roots.into_iter().next() } else { None }
}

/// The node and the kind of filesystem of the system so far: the one that `starts`; where nobody knows that, the one that stays beside
/// the new one; else the one that goes, ours where it is one of ours, or the only one.
fn old_root(
    plan: &Plan,
    inventory: &Inventory,
    starts: Option<&str>,
) -> Result<Option<(PathBuf, String)>, String> {
    let mut found = Vec::new();
    let (mut stays, mut started) = (None, None);
    for disk in &plan.disks {
        let Some(known) = inventory.disks.iter().find(|d| d.name == disk.disk.name) else { continue };
        for partition in known.table.iter().flat_map(|t| &t.partitions) {
            let Some(content) = &partition.content else { continue };
            let device = partition_path(Path::new(&disk.disk.path), partition.number);
            let is_root = matches!(content.looks_like, Some(LooksLike::LinuxRoot { .. }));
            if is_root && starts.is_some() && content.uuid.as_deref() == starts {
                started = Some((device.clone(), content.kind.clone()));
            }
            if disk.partitions.iter().any(|p| p.number == partition.number && p.purpose == Role::Old) {
                stays = Some((device, content.kind.clone()));
                continue;
            }
            let goes = disk
                .partitions
                .iter()
                .find(|p| p.number == partition.number && !matches!(p.action, Action::Keep | Action::Create));
            if let (Some(goes), true) = (goes, is_root) {
                let ours = goes.purpose == Role::Root || content.label == Role::Root.partition_name();
                found.push((ours, device, content.kind.clone()));
            }
        }
    }
    // What lies in another place is an older one, and nobody's any more.
    if let Some(known) = started.or(stays) {
        return Ok(Some(known));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_those_of_the_system_that_starts() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/akene-two-roots-power-cut");
        let read = |name: &str| std::fs::read(golden.join(name)).unwrap();
        let plan: Plan = serde_json::from_slice(&read("plan.json")).unwrap();
        let mut inventory: Inventory = serde_json::from_slice(&read("inventory.json")).unwrap();
        let of = |role: &Role| {
            let disk = &plan.disks[0];
            let number = disk.partitions.iter().find(|p| p.purpose == *role).unwrap().number;
            (number, partition_path(Path::new(&disk.disk.path), number))
        };
        let ((old, old_node), (new, new_node)) = (of(&Role::Old), of(&Role::Root));
        let partitions = &mut inventory.disks[0].table.as_mut().unwrap().partitions;
        let system = partitions.iter().find(|p| p.number == old).unwrap().content.clone().unwrap();
        for (number, uuid) in [(old, "aa-1"), (new, "bb-2")] {
            let partition = partitions.iter_mut().find(|p| p.number == number).unwrap();
            partition.content =
                Some(akene_protocol::inventory::Content { uuid: Some(uuid.into()), ..system.clone() });
        }
        for (starts, node) in [
            (None, &old_node),
            (Some("aa-1"), &old_node),
            (Some("bb-2"), &new_node),
            (Some("cc-3"), &old_node),
        ] {
            let found = old_root(&plan, &inventory, starts).unwrap().unwrap();
            assert_eq!(found.0, *node, "{starts:?}");
        }
    }
}
