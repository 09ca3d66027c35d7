//! What a plan must fulfil before a disk is even looked at.
//!
//! The planner gives no other plans. This is the second look by somebody who does not trust it, or
//! who was handed a plan from a file: a mistake here costs somebody's data.

use akene_planner::{Action, DiskPlan, GroupPlan, Plan, Role};
use akene_protocol::inventory::TableKind;
use akene_protocol::issue::Issue;
use anyhow::{Result, bail};

use super::group;

/// Refuses a plan that cannot be carried out.
pub(super) fn plan(plan: &Plan) -> Result<()> {
    if plan.version != akene_planner::VERSION {
        bail!(wrong("", format!("it is of version {}, known is {}", plan.version, akene_planner::VERSION)));
    }
    if plan.disks.is_empty() {
        bail!(wrong("", "it uses no disk".into()));
    }
    for (i, disk) in plan.disks.iter().enumerate() {
        if plan.disks[..i].iter().any(|d| d.disk.path == disk.disk.path) {
            bail!(wrong(&disk.disk.name, "the disk is in it twice".into()));
        }
        if let Some(problem) = problem_of(disk) {
            bail!(wrong(&disk.disk.name, problem));
        }
    }
    let all = || plan.disks.iter().flat_map(|d| &d.partitions).filter(|p| p.action != Action::Delete);
    for wanted in [Role::Root, Role::Boot] {
        let count = all().filter(|p| p.purpose == wanted).count()
            + plan.groups.iter().filter(|g| g.purpose == wanted).count();
        if count != 1 {
            bail!(wrong("", format!("it has {count} partitions for {wanted:?}, not one")));
        }
    }
    if !plan.disks[0].partitions.iter().any(|p| p.purpose == Role::Boot && p.action != Action::Delete) {
        bail!(wrong(
            &plan.disks[0].disk.name,
            "its first disk is not the one with the boot partition".into()
        ));
    }
    for (i, group) in plan.groups.iter().enumerate() {
        let twice = plan.groups[..i].iter().any(|g| g.name == group.name);
        let problem = twice.then(|| "it is in it twice".to_owned()).or_else(|| problem_of_group(plan, group));
        if let Some(problem) = problem {
            bail!(wrong(&group.name, problem));
        }
    }
    let stray = all().find_map(|p| match &p.purpose {
        Role::Physical(name) if !plan.groups.iter().any(|g| g.name == *name) => Some(name),
        _ => None,
    });
    match stray {
        Some(name) => {
            bail!(wrong(name, "a partition belongs to this volume group, which is not planned".into()))
        }
        None => Ok(()),
    }
}

/// What is wrong with a volume group.
fn problem_of_group(plan: &Plan, group: &GroupPlan) -> Option<String> {
    let plain = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || "_.+-".contains(c))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !plain(&group.name) || !plain(group.volume()) {
        return Some("LVM knows no such names".into());
    }
    let new = match group.action {
        Action::Create => true,
        Action::Keep | Action::Format => false,
        Action::Delete | Action::Refresh => return Some("a volume group cannot be treated like this".into()),
    };
    let mut room = 0;
    let mut sectors = Vec::new();
    for member in &group.members {
        let disk = plan.disks.iter().find(|d| d.disk.name == member.disk);
        let found = disk.and_then(|d| {
            let mut there = d.partitions.iter().filter(|p| p.action != Action::Delete);
            Some((d, there.find(|p| p.number == member.partition)?))
        });
        let shown = format!("partition {} of {}", member.partition, member.disk);
        let Some((disk, partition)) = found else { return Some(format!("{shown} is not planned")) };
        if partition.purpose != Role::Physical(group.name.clone()) {
            return Some(format!("{shown} is for something else"));
        }
        let wanted = if new { Action::Create } else { Action::Keep };
        if partition.action != wanted {
            return Some(format!("{shown} is not treated as the group is"));
        }
        room += partition.size.0.saturating_sub(group::HEAD) / group::EXTENT * group::EXTENT;
        sectors.push(disk.logical_sector);
    }
    let listed = plan.disks.iter().flat_map(|d| &d.partitions).filter(|p| p.action != Action::Delete);
    let listed = listed.filter(|p| p.purpose == Role::Physical(group.name.clone())).count();
    if group.members.is_empty() || listed != group.members.len() {
        return Some(format!("it has {} members, and {listed} partitions are for it", group.members.len()));
    }
    if new && sectors.windows(2).any(|pair| pair[0] != pair[1]) {
        return Some("LVM joins no disks with sectors of different sizes".into());
    }
    if new && (group.size.0 == 0 || !group.size.0.is_multiple_of(group::EXTENT) || group.size.0 > room) {
        return Some(format!(
            "its volume of {} bytes does not fit into {room} bytes of extents",
            group.size.0
        ));
    }
    if !matches!(group.purpose, Role::Root | Role::Volume(_)) || group.filesystem.is_none() {
        return Some("it has no use, or no filesystem".into());
    }
    None
}

fn wrong(disk: &str, problem: String) -> Issue {
    Issue::new(
        "plan-invalid",
        disk,
        format!("the plan cannot be carried out: {problem}"),
        "this is a mistake in the program or in a plan that was changed by hand; please report it with the plan",
    )
}

fn problem_of(disk: &DiskPlan) -> Option<String> {
    let sector = u64::from(disk.logical_sector);
    if !matches!(sector, 512 | 4096) {
        return Some(format!("sectors of {sector} bytes are not supported"));
    }
    let mut there: Vec<_> = disk.partitions.iter().filter(|p| p.action != Action::Delete).collect();
    there.sort_by_key(|p| p.start);
    for (i, p) in there.iter().enumerate() {
        let number = p.number;
        let Some(end) = p.start.0.checked_add(p.size.0).filter(|end| *end <= disk.disk.size.0) else {
            return Some(format!("partition {number} reaches beyond the end of the disk"));
        };
        let ours = matches!(p.action, Action::Create | Action::Format);
        if ours && (p.size.0 == 0 || p.start.0 % sector != 0 || p.size.0 % sector != 0) {
            return Some(format!("partition {number} does not consist of whole sectors"));
        }
        if ours && p.purpose == Role::Foreign {
            return Some(format!("partition {number} is not ours and would be overwritten"));
        }
        let bare = matches!(p.purpose, Role::BiosBoot | Role::Physical(_) | Role::Spare);
        if ours && bare == p.filesystem.is_some() {
            return Some(format!(
                "partition {number} has a filesystem and should have none, or the other way round"
            ));
        }
        if matches!(p.purpose, Role::Old | Role::Spare)
            && !matches!(p.action, Action::Keep | Action::Create | Action::Delete)
        {
            return Some(format!(
                "partition {number} is a place for another root, and nothing is to be made in it"
            ));
        }
        if p.action == Action::Refresh && p.purpose != Role::Root {
            return Some(format!("partition {number} is not the root and cannot be refreshed"));
        }
        if let Some(next) = there.get(i + 1).filter(|next| next.start.0 < end) {
            return Some(format!("partitions {number} and {} overlap", next.number));
        }
        if there.iter().filter(|other| other.number == number).count() > 1 {
            return Some(format!("two partitions have the number {number}"));
        }
        if disk.new_table && p.action != Action::Create {
            return Some(format!("partition {number} cannot stay, because the table is made anew"));
        }
        let limit = if disk.table == TableKind::Gpt { 128 } else { 60 };
        if p.action == Action::Create && !(1..=limit).contains(&number) {
            return Some(format!("there can be no partition {number}"));
        }
    }
    if disk.table == TableKind::Mbr {
        if disk.disk.size.0 / sector > u64::from(u32::MAX)
            && there.iter().any(|p| (p.start + p.size).0 / sector > u64::from(u32::MAX))
        {
            return Some("an MBR table cannot describe what lies beyond 2³² sectors".into());
        }
        if there.iter().any(|p| p.purpose == Role::BiosBoot) {
            return Some("a BIOS boot partition belongs into a GPT".into());
        }
    }
    None
}
