//! What a plan must fulfil before a disk is even looked at.
//!
//! The planner gives no other plans. This is the second look by somebody who does not trust it, or
//! who was handed a plan from a file: a mistake here costs somebody's data.

use akene_planner::{Action, DiskPlan, Plan, Role};
use akene_protocol::inventory::TableKind;
use akene_protocol::issue::Issue;
use anyhow::{Result, bail};

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
        let count = all().filter(|p| p.purpose == wanted).count();
        if count != 1 {
            bail!(wrong("", format!("it has {count} partitions for {wanted:?}, not one")));
        }
    }
    Ok(())
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
        if ours && p.purpose != Role::BiosBoot && p.filesystem.is_none() {
            return Some(format!("partition {number} has no filesystem"));
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
