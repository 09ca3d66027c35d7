//! Which packages a machine gets.

use akene_archive::AptRoot;
use akene_exec::Runner;
use akene_planner::Plan;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::lock::{Lock, Planned, Request};
use akene_protocol::resolve::Resolved;
use anyhow::Result;
use serde::{Deserialize, Serialize};

pub(super) use akene_protocol::lock::is_builtin_locale;

/// The exact packages, and what was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Choice {
    /// Every package, pinned.
    pub lock: Lock,
    /// Names asked for by the profile or by us; apt marks all others as installed automatically.
    pub requested: Vec<String>,
}

impl From<Lock> for Choice {
    fn from(lock: Lock) -> Self {
        Choice { requested: lock.requested.clone(), lock }
    }
}

/// What a machine asks an archive, or a signed lock, for.
pub fn request(resolved: &Resolved, plan: &Plan, firmware: FirmwareKind) -> Request {
    let planned = plan.disks.iter().flat_map(|d| &d.partitions).filter_map(|p| p.filesystem);
    let planned = Planned {
        filesystems: planned.chain(plan.groups.iter().filter_map(|g| g.filesystem)).collect(),
        groups: !plan.groups.is_empty(),
    };
    Request::new(resolved, &planned, firmware)
}

/// Chooses the packages of a machine by the archives' indexes. Writes nothing but `apt`'s own tree.
///
/// # Errors
/// Those of [`AptRoot::solve`].
pub fn choose(
    apt: &AptRoot,
    runner: &dyn Runner,
    resolved: &Resolved,
    plan: &Plan,
    firmware: FirmwareKind,
) -> Result<Choice> {
    let lock = apt.answer(runner, &request(resolved, plan, firmware))?;
    apt.forget_cache()?;
    Ok(lock.into())
}
