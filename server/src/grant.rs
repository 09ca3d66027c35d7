//! Permission to install: who gets it, how much it permits, how long it counts.
//!
//! | machine | grant |
//! |---|---|
//! | its installer names an order that counts ([`by_order`]) | what the order says, once |
//! | a person said `akene-server allow` | what they said, once |
//! | failed three times in a row with its disks changed | none: it would fail and download for ever |
//! | its last installation broke off after it began to change the disks | to go on with those disks |
//! | installed before | none |
//! | may be another machine (*ask*) | blank disks at most |
//! | new | what `site.toml` says of new machines |
//!
//! The line of what broke off is what lets a volunteer simply start the computer again after a power cut or a
//! failed download: the disks are not blank any more, but what is on them is ours. See [`to_go_on`].
//!
//! A grant belongs to one run of one machine and lapses after six hours; a machine that asks again
//! for a run that has not ended (after a power cut, say) is told the same again.

use akene_protocol::api::{Consent, Grant, RunResponse};
use akene_protocol::event::Phase;
use akene_protocol::order::{Files, OrderId, Reinstall};
use akene_protocol::same_disks::to_go_on;
use akene_protocol::{Bundle, Envelope, Issue, MachineId, RunId};
use anyhow::Result;
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Transaction;

use crate::db::orders::{self, State};
use crate::db::{Trouble, machines, runs};
use crate::site::SiteConfig;
use crate::state::Stage;

/// How long a grant counts.
pub const LIFE: SignedDuration = SignedDuration::from_hours(6);

/// How long after its beginning a run that has not ended may have its lapsed grant renewed: a power
/// cut on Friday evening is mended on Monday.
pub(crate) const RENEWABLE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How many installations may fail in a row after they changed the disks. What still fails then, a script of
/// the profile or a dying disk, does not mend itself, and each try wears the disk and the line.
const MOST_FAILURES: usize = 3;

/// A signed grant.
pub fn sign(key: &SigningKey, machine: MachineId, run: RunId, consent: Consent) -> Envelope {
    Envelope::sign(&Grant { machine, run, consent, expires: Timestamp::now() + LIFE }, key)
}

/// The answer a run that has not ended was given before.
pub fn again(
    db: &Transaction<'_>,
    key: &SigningKey,
    machine: MachineId,
    run: RunId,
) -> Result<Option<RunResponse>> {
    let Some(run) = runs::get(db, run)? else { return Ok(None) };
    let Some(mut answer) = run.answer else { return Ok(None) };
    let Some(consent) = run.consent else {
        // It was refused. A person may have allowed it in the meantime: decide anew.
        return Ok(None);
    };
    if run.state.stage.is_end() {
        answer.grant = None;
        answer.refusal = Some(Issue::new(
            "run-over",
            run.id.to_string(),
            "this run has ended, and its permission with it",
            "start the computer from the medium again",
        ));
        return Ok(Some(answer));
    }
    if Timestamp::now() < run.created + RENEWABLE {
        answer.grant = Some(sign(key, machine, run.id, consent));
    }
    Ok(Some(answer))
}

/// Whether a machine may be installed now, and what that may destroy.
pub fn decide(
    db: &Transaction<'_>,
    config: &SiteConfig,
    machine: &machines::Machine,
) -> Result<Result<Consent, Issue>> {
    if let Some(consent) = machine.allowed {
        return Ok(Ok(consent));
    }
    let asset = machine.asset;
    let refuse = |code: &str, message: String| {
        Ok(Err(Issue::new(
            code,
            "",
            message,
            format!(
                "to permit it once: `akene-server allow SITE {asset}`, with --wipe where its disks hold a system"
            ),
        )))
    };
    let runs = runs::of_machine(db, machine.id)?;
    let failures = failures(&runs);
    if failures >= MOST_FAILURES {
        return refuse(
            "failed-too-often",
            format!("the installation of this computer has failed {failures} times in a row"),
        );
    }
    if let Some(run) = broken_off(&runs)
        && let Some(inventory) = runs::inventory(db, run.id)?
        && to_go_on(&inventory, run.consent.unwrap_or(Consent::None), &machine.inventory)
    {
        return Ok(Ok(Consent::Wipe));
    }
    if let Some(run) = runs::installed(&runs) {
        let date = run.created.to_string();
        let day = date.split('T').next().unwrap_or(&date);
        return refuse("already-installed", format!("this computer was already installed on {day}"));
    }
    match (config.new_machines, machine.maybe) {
        (Consent::None, _) => refuse("not-allowed", "this site installs no computer unasked".into()),
        (consent, Some(_)) => Ok(Ok(consent.min(Consent::Blank))),
        (consent, None) => Ok(Ok(consent)),
    }
}

/// Whether an installer that names this order may install. An order is used once: by one run, and by those
/// that go on with what it began. That is a run after one that failed with nothing changed (the installer waits half a
/// minute and tries again), as long as the machine has not said that its old system is back; and one after a run that broke
/// off when it had begun to change the disks. Any other after a person permitted another attempt, as long as the
/// order's installation has neither ended nor been given up: that one gets what is ordered, and may what the person said.
///
/// # Errors
/// Inside: why not. `order-unknown`, `order-other-machine`, `order-expired`, `order-cancelled`, `order-used`,
/// `order-of-another-kind`.
pub fn by_order(
    db: &Transaction<'_>,
    machine: &machines::Machine,
    id: OrderId,
    run: RunId,
) -> Result<Result<Ordered, Issue>, Trouble> {
    let order = match orders::own(db, machine.id, id) {
        Ok(order) => order,
        Err(Trouble::Refused(issue)) => return Ok(Err(issue)),
        Err(broken) => return Err(broken),
    };
    let Some(reinstall) = order.reinstall().cloned() else {
        return Ok(Err(Issue::new(
            "order-of-another-kind",
            format!("order {id}"),
            format!("this order asks for something else: {}", order.order.task.name()),
            format!("order it at the server: `akene-server order SITE {} reinstall`", machine.asset),
        )));
    };
    if order.state.is_open() {
        return Ok(Ok(Ordered { reinstall, may: May::Order }));
    }
    let before = match (&order.state, order.run) {
        (State::Used, Some(before)) => runs::get(db, before)?,
        _ => None,
    };
    let goes_on = match before {
        None => false,
        Some(before) if before.id == run => true,
        Some(before) if before.state.stage == Stage::Failed && !before.state.disks_changed => {
            Timestamp::now() < before.created + LIFE
        }
        Some(before) => match broken_off(&runs::of_machine(db, machine.id)?) {
            Some(broken) if broken.id == before.id => match runs::inventory(db, before.id)? {
                Some(inventory) => {
                    to_go_on(&inventory, before.consent.unwrap_or(Consent::None), &machine.inventory)
                }
                None => false,
            },
            _ => false,
        },
    };
    Ok(match machine.allowed {
        _ if goes_on => Ok(Ordered { reinstall, may: May::Order }),
        Some(consent) if order.state == State::Used => Ok(Ordered { reinstall, may: May::Person(consent) }),
        _ => Err(orders::over(&order)),
    })
}

/// An order that counts for a run.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// What is installed.
    pub reinstall: Reinstall,
    /// How much that may destroy.
    pub may: May,
}

/// Who says how much the installation of an order may destroy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// The order itself ([`of_reinstall`]).
    Order,
    /// A person who permitted another attempt. The order's own permission is over, also the one to wipe people's files.
    Person(Consent),
}

/// How much an order's installation may destroy. Where people's files go, too, the profile it is sent with says so: then
/// nothing but the boot partition is kept.
pub fn of_reinstall(reinstall: &Reinstall, bundle: &mut Bundle) -> Consent {
    if reinstall.files == Files::Wipe {
        bundle.profile.storage.get_or_insert_default().keep_homes = Some(false);
    }
    if reinstall.streamed { Consent::Streamed } else { Consent::Wipe }
}

/// Why a machine that has given up trying by itself may not go on, however much it was permitted before.
pub fn tired(attempts: Option<u32>, machine: &machines::Machine) -> Option<Issue> {
    let attempts = attempts.filter(|_| machine.allowed.is_none())?;
    let message = format!("the installation of this computer was begun {attempts} times and never completed");
    let next = format!(
        "find out why, then permit another attempt: `akene-server allow SITE {} --wipe`",
        machine.asset
    );
    Some(Issue::new("failed-too-often", "", message, next))
}

fn ended(run: &runs::Run) -> bool {
    matches!(run.state.stage, Stage::Installed | Stage::Confirmed)
}

/// How many permitted runs failed with the disks changed since one came to its end. A power cut is no
/// failure, and a run that was refused is none either.
fn failures(runs: &[runs::Run]) -> usize {
    let failed = |run: &&runs::Run| {
        run.consent.is_some() && run.state.stage == Stage::Failed && run.state.disks_changed
    };
    runs.iter().take_while(|run| !ended(run)).filter(failed).count()
}

/// The newest permitted run, if it broke off lately after it had begun to change disks, and no
/// installation came to its end since.
fn broken_off(runs: &[runs::Run]) -> Option<&runs::Run> {
    let begun = |run: &runs::Run| match run.state.stage {
        Stage::Installing => run.state.phase >= Some(Phase::Commit),
        Stage::Failed => run.state.disks_changed,
        _ => false,
    };
    let run = runs.iter().find(|run| ended(run) || (run.consent.is_some() && begun(run)))?;
    (begun(run) && Timestamp::now() < run.created + RENEWABLE).then_some(run)
}
