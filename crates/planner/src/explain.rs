//! Why a plan is as it is: for each volume where and why, and what the next best layout lost by.

use akene_protocol::api::Consent;
use akene_protocol::inventory::Inventory;
use akene_protocol::resolve::StorageWishes;

use crate::decide::{Decided, decide};
use crate::objective::Objective;
use crate::{Issues, Plan, lay};

/// Why a plan is as it is.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The plan.
    pub plan: Plan,
    /// What it was judged by. `None`: everything had its place already.
    pub objective: Option<Objective>,
    /// The volumes that had to be placed, each with where and why.
    pub volumes: Vec<Reason>,
    /// The next best layout: where it puts everything, and the first level at which it lost.
    pub runner_up: Option<Reason>,
}

/// Where something lies, and why not elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What: `/home`.
    pub what: String,
    /// Where: `sdb`.
    pub place: String,
    /// Why.
    pub why: String,
}

/// Plans a machine and says why.
///
/// # Errors
/// Those of [`plan`](crate::plan()).
pub fn explain(wishes: &StorageWishes, inventory: &Inventory) -> Result<Explanation, Issues> {
    explain_within(wishes, inventory, Consent::Wipe)
}

/// Like [`explain`], where no more than `allowed` may be destroyed.
///
/// # Errors
/// Those of [`plan_within`](crate::plan_within).
pub fn explain_within(
    wishes: &StorageWishes,
    inventory: &Inventory,
    allowed: Consent,
) -> Result<Explanation, Issues> {
    let Decided { plan, solved } = decide(wishes, inventory, allowed)?;
    let (problem, best) = (&solved.problem, &solved.layout);
    let on = |places: &[u16]| -> Vec<u16> { places.iter().map(|p| problem.disks_of(*p)).collect() };
    let best_on = on(&best.places);
    let mut volumes: Vec<Reason> = Vec::new();
    for (_, partition) in &solved.arrangement.fixed {
        let Some(what) = partition.mount.clone() else { continue };
        let place = plan
            .disks
            .iter()
            .find(|d| d.partitions.contains(partition))
            .map(|d| d.disk.name.clone())
            .unwrap_or_default();
        volumes.push(Reason { what, place, why: partition.why.clone() });
    }
    for group in &solved.arrangement.groups {
        let place = format!("the group {}", group.name);
        volumes.push(Reason { what: group.mount.clone().unwrap_or_default(), place, why: group.why.clone() });
    }
    let lost = |theirs: &Objective, place: &str| match best.objective.lost_at(theirs) {
        Some((level, ours, theirs)) => {
            format!("on {place} it would lose at \"{level}\": {theirs} instead of {ours}")
        }
        None => format!("{place} would be as good"),
    };
    for (i, item) in problem.items.iter().enumerate() {
        let other = problem.solve(&|places| problem.disks_of(places[i]) != best_on[i]);
        let why = match &other {
            Some(other) => lost(&other.objective, &lay::place_name(problem, other.places[i])),
            None => "every other place is the same, or has no room for it".to_owned(),
        };
        let spread = solved.not_spread.as_ref().filter(|layout| layout.spread() == Some(i));
        let why = match spread {
            Some(layout) => format!("{why}; {}", lay::not_spread(&solved, layout, i)),
            None => why,
        };
        let place = lay::place_name(problem, best.places[i]);
        volumes.push(Reason { what: lay::item_name(&item.kind), place, why });
    }
    let runner_up = problem.solve(&|places| on(places) != best_on).map(|other| {
        let places: Vec<String> = problem
            .items
            .iter()
            .zip(&other.places)
            .map(|(item, p)| format!("{} on {}", lay::item_name(&item.kind), lay::place_name(problem, *p)))
            .collect();
        let why = match best.objective.lost_at(&other.objective) {
            Some((level, ours, theirs)) => format!("it lost at \"{level}\": {theirs} instead of {ours}"),
            None => "it is as good".to_owned(),
        };
        Reason { what: "the next best".into(), place: places.join(", "), why }
    });
    let objective = (!problem.items.is_empty()).then(|| best.objective.clone());
    Ok(Explanation { objective, volumes, runner_up, plan })
}

impl Explanation {
    /// For a terminal or a log.
    pub fn text(&self) -> String {
        let mut out = String::from("Why:\n");
        for reason in &self.volumes {
            out.push_str(&format!("  {} lies on {}: {}\n", reason.what, reason.place, reason.why));
        }
        let Some(objective) = &self.objective else {
            out.push_str("Everything had its place already.\n");
            return out;
        };
        out.push_str("Judged by, the most important first:\n");
        for (level, value) in objective.levels() {
            out.push_str(&format!("  {level}: {value}\n"));
        }
        match &self.runner_up {
            Some(other) => out.push_str(&format!("{} has {}; {}\n", other.what, other.place, other.why)),
            None => out.push_str("There is no other layout.\n"),
        }
        out
    }
}
