//! The picture of a machine's disks before and after its installation.

use akene_planner::{Plan, plan, render};
use akene_protocol::Inventory;
use akene_protocol::issue::Issues;

use crate::db::machines::Machine;
use crate::site::Site;

/// The plan of the newest run if there is one; else what an installation would do now, from the stored
/// inventory and the profile the site has for the machine; else the disks as they are, and why nothing can be done.
pub fn of(site: &Site, machine: &Machine, newest: Option<&serde_json::Value>) -> anyhow::Result<String> {
    // A plan of another version is not understood here; then it is made anew.
    let told = newest
        .and_then(|value| serde_json::from_value::<Plan>(value.clone()).ok())
        .filter(|plan| plan.version == akene_planner::VERSION && fits(plan, &machine.inventory));
    let plan = match told {
        Some(plan) => Ok(plan),
        None => computed(site, machine)?,
    };
    Ok(render::svg(&machine.inventory, plan.as_ref()))
}

/// Whether the disks a plan speaks of are those of the inventory.
fn fits(plan: &Plan, inventory: &Inventory) -> bool {
    plan.disks.iter().all(|planned| {
        let same = |d: &&akene_protocol::inventory::Disk| d.name == planned.disk.name;
        inventory.disks.iter().find(same).is_some_and(|d| d.size == planned.disk.size)
    })
}

fn computed(site: &Site, machine: &Machine) -> anyhow::Result<Result<Plan, Issues>> {
    let config = site.config()?;
    Ok(site
        .choose(&config, &machine.inventory, Some(machine.asset), None)
        .and_then(|chosen| plan(&chosen.resolved.storage, &machine.inventory)))
}
