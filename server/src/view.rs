//! The fleet as the administrator sees it: one shape for the API, the pages and the commands.

use akene_protocol::api::Consent;
use akene_protocol::event::{EventKind, Phase};
use akene_protocol::medium::MediumId;
use akene_protocol::order::{OrderId, Task};
use akene_protocol::{AssetNumber, Event, Inventory, Issue, MachineId, RunId};
use anyhow::Result;
use jiff::Timestamp;
use rusqlite::Transaction;
use serde::Serialize;

use crate::db::strangers::{self, Decision};
use crate::db::{events, machines, orders, runs};
use crate::order::in_words;
use crate::state::{Progress, Stage};

/// A machine in a list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Its id.
    pub machine: MachineId,
    /// Its number for people.
    pub asset: AssetNumber,
    /// State of its newest run.
    pub state: Stage,
    /// The same in words.
    pub words: String,
    /// The phase of its newest run.
    pub phase: Option<Phase>,
    /// How far that is.
    pub progress: Option<Progress>,
    /// Its newest run.
    pub run: Option<RunId>,
    /// Profile of the newest run.
    pub profile: Option<String>,
    /// Revision of that profile.
    pub revision: Option<String>,
    /// What the newest run was granted.
    pub consent: Option<Consent>,
    /// Why the newest run was granted nothing.
    pub refusal: Option<Issue>,
    /// Why the newest run failed.
    pub issues: Vec<Issue>,
    /// Whether the newest run changed disks before it failed.
    pub disks_changed: bool,
    /// The system it runs, as of its last confirmed run.
    pub system: Option<String>,
    /// Its kernel.
    pub kernel: Option<String>,
    /// The last confirmed run.
    pub confirmed_run: Option<RunId>,
    /// When it was first seen.
    pub created: String,
    /// When it last asked for anything.
    pub seen: String,
    /// From where.
    pub peer: String,
    /// `new` or `ask`.
    pub recognised: String,
    /// The machine it may be.
    pub maybe: Option<MachineId>,
    /// Consent a person gave for its next run.
    pub allowed: Option<Consent>,
    /// Vendor, product, memory and disks in one line.
    pub hardware: String,
    /// The association it was installed for, where a technician chose one.
    pub association: Option<String>,
    /// The medium it joined by, without a network.
    pub medium: Option<MediumId>,
    /// Its newest order.
    pub order: Option<OrderView>,
}

/// A machine that waits for a person's word before it joins.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Waiting {
    /// Who it says it is.
    pub machine: MachineId,
    /// The number it calls itself. Members may have the same.
    pub asset: AssetNumber,
    /// The medium it was installed from.
    pub medium: MediumId,
    /// The association in its report.
    pub association: Option<String>,
    /// Vendor, product, memory and disks in one line.
    pub hardware: String,
    /// Why it waits, why nothing was installed on it, or what was decided.
    pub words: String,
    /// Whether somebody has to decide yet.
    pub undecided: bool,
    /// When it was first heard of.
    pub created: String,
    /// When it was heard of last.
    pub seen: String,
    /// From where.
    pub peer: String,
}

/// The machines that wait, those on which nothing was installed, and those a person has decided about and that were not heard of since.
pub fn waiting(db: &Transaction<'_>) -> Result<Vec<Waiting>> {
    let words = |stranger: &strangers::Stranger| match stranger.decision {
        None if stranger.tried => format!("nothing was installed: {}", stranger.why),
        None => format!("waits: {}", stranger.why),
        Some(Decision::Drop) => "dropped: what it sends is refused".to_owned(),
        Some(Decision::Admit) => "joins when it is heard of again".to_owned(),
    };
    let view = |stranger: strangers::Stranger| Waiting {
        words: words(&stranger),
        machine: stranger.machine,
        asset: stranger.asset,
        medium: stranger.medium,
        association: stranger.association,
        hardware: stranger.hardware,
        undecided: stranger.decision.is_none() && !stranger.tried,
        created: stranger.created,
        seen: stranger.seen,
        peer: stranger.peer,
    };
    Ok(strangers::all(db)?.into_iter().map(view).collect())
}

/// An order.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OrderView {
    /// Its id.
    pub order: OrderId,
    /// For this machine.
    pub machine: MachineId,
    /// The machine's number.
    pub asset: AssetNumber,
    /// What it asks for.
    pub task: Task,
    /// The same in words.
    pub asks: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: orders::State,
    /// The same in words.
    pub words: String,
    /// When it was given.
    pub issued: Timestamp,
    /// Until when it may be begun.
    pub expires: Timestamp,
    /// When its state changed last.
    pub changed: String,
    /// The run that used it.
    pub run: Option<RunId>,
}

impl OrderView {
    /// A stored order, of the machine with this number.
    pub fn of(stored: &orders::Stored, asset: AssetNumber) -> OrderView {
        let order = &stored.order;
        OrderView {
            order: order.id,
            machine: order.machine,
            asset,
            task: order.task.clone(),
            asks: in_words(order),
            state: stored.state.clone(),
            words: stored.state.words(),
            issued: order.issued,
            expires: order.expires,
            changed: stored.changed.clone(),
            run: stored.run,
        }
    }
}

/// All orders, newest first.
pub fn orders(db: &Transaction<'_>) -> Result<Vec<OrderView>> {
    orders::all(db)?
        .iter()
        .map(|stored| Ok(OrderView::of(stored, machines::get(db, stored.order.machine)?.asset)))
        .collect()
}

/// A machine with all that is known of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Detail {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: Summary,
    /// Notes, oldest first.
    pub notes: Vec<Note>,
    /// Its inventory.
    pub inventory: Inventory,
    /// The plan of its newest run.
    pub plan: Option<serde_json::Value>,
    /// Its runs, newest first.
    pub runs: Vec<RunView>,
    /// The events of its newest run.
    pub events: Vec<Event>,
    /// Its orders, newest first.
    pub orders: Vec<OrderView>,
}

/// A note.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct Note {
    pub at: String,
    pub text: String,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunView {
    /// Its id.
    pub run: RunId,
    /// When it was first heard of.
    pub created: Timestamp,
    /// Where it stands.
    pub state: Stage,
    /// The same in words.
    pub words: String,
    /// Profile.
    pub profile: Option<String>,
    /// Its revision.
    pub revision: Option<String>,
    /// Why this profile.
    pub why: Option<String>,
    /// What was granted.
    pub consent: Option<Consent>,
    /// Why nothing was granted.
    pub refusal: Option<Issue>,
    /// Why it failed.
    pub issues: Vec<Issue>,
    /// Its logs and their sizes in bytes.
    pub logs: Vec<(String, u64)>,
}

/// All machines, newest visit first.
pub fn list(db: &Transaction<'_>) -> Result<Vec<Summary>> {
    machines::all(db)?
        .into_iter()
        .map(|machine| {
            let order = orders::newest(db, machine.id)?;
            Ok(summary(&machine, &runs::of_machine(db, machine.id)?, order.as_ref()))
        })
        .collect()
}

fn summary(machine: &machines::Machine, runs: &[runs::Run], order: Option<&orders::Stored>) -> Summary {
    let newest = runs.first();
    let state = newest.map(|run| run.state.clone()).unwrap_or_default();
    let confirmed = runs.iter().find(|run| run.state.stage == Stage::Confirmed);
    let words = match newest.and_then(|run| run.refusal.as_ref()) {
        Some(refusal) if state.stage != Stage::Failed => format!("waits: {}", refusal.message),
        _ => state.words(newest.map(|run| run.id)),
    };
    Summary {
        machine: machine.id,
        asset: machine.asset,
        state: state.stage,
        words,
        phase: state.phase,
        progress: state.progress,
        run: newest.map(|run| run.id),
        profile: newest.and_then(|run| run.profile.clone()),
        revision: newest.and_then(|run| run.revision.clone()),
        consent: newest.and_then(|run| run.consent),
        refusal: newest.and_then(|run| run.refusal.clone()),
        issues: state.issues,
        disks_changed: state.disks_changed,
        system: confirmed.and_then(|run| run.state.system.clone()),
        kernel: confirmed.and_then(|run| run.state.kernel.clone()),
        confirmed_run: confirmed.map(|run| run.id),
        created: machine.created.clone(),
        seen: machine.seen.clone(),
        peer: machine.peer.clone(),
        recognised: machine.recognised.clone(),
        maybe: machine.maybe,
        allowed: machine.allowed,
        hardware: hardware(&machine.inventory),
        association: runs.iter().find_map(|run| run.association.clone()),
        medium: machine.medium,
        order: order.map(|stored| OrderView::of(stored, machine.asset)),
    }
}

/// One line that tells a person which computer it is.
pub(crate) fn hardware(inventory: &Inventory) -> String {
    let dmi = &inventory.dmi;
    let name: Vec<&str> =
        [&dmi.system_vendor, &dmi.product_name].into_iter().flatten().map(String::as_str).collect();
    let name = if name.is_empty() { "unnamed computer".to_owned() } else { name.join(" ") };
    let disks: Vec<String> = inventory
        .disks
        .iter()
        .filter(|d| !d.removable && !d.live_medium)
        .map(|d| d.size.to_string())
        .collect();
    let disks = if disks.is_empty() { "no disk".to_owned() } else { disks.join(" + ") };
    format!("{name}, {} of memory, {disks}", inventory.memory.total)
}

/// One machine.
pub fn detail(db: &Transaction<'_>, machine: &machines::Machine) -> Result<Detail> {
    let runs = runs::of_machine(db, machine.id)?;
    let orders = orders::of_machine(db, machine.id)?;
    let events = match runs.first() {
        Some(run) => events::of_run(db, run.id)?,
        None => Vec::new(),
    };
    let plan = events.iter().rev().find_map(|event| match &event.kind {
        EventKind::Planned { plan } => Some(plan.clone()),
        _ => None,
    });
    let mut views = Vec::new();
    for run in &runs {
        views.push(RunView {
            run: run.id,
            created: run.created,
            state: run.state.stage,
            words: run.state.words(Some(run.id)),
            profile: run.profile.clone(),
            revision: run.revision.clone(),
            why: run.why.clone(),
            consent: run.consent,
            refusal: run.refusal.clone(),
            issues: run.state.issues.clone(),
            logs: events::logs(db, run.id)?,
        });
    }
    let notes = machines::notes(db, machine.id)?.into_iter().map(|(at, text)| Note { at, text }).collect();
    Ok(Detail {
        summary: summary(machine, &runs, orders.first()),
        notes,
        inventory: machine.inventory.clone(),
        plan,
        runs: views,
        events,
        orders: orders.iter().map(|stored| OrderView::of(stored, machine.asset)).collect(),
    })
}
