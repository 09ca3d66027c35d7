//! Permission to install: who gets it, how much it permits, how long it counts.
//!
//! | machine | grant |
//! |---|---|
//! | a person said `akene-server allow` | what they said, once |
//! | failed three times in a row with its disks changed | none: it would fail and download for ever |
//! | its last installation broke off after it began to change the disks | to go on with those disks |
//! | installed before | none |
//! | may be another machine (*ask*) | blank disks at most |
//! | new | what `site.toml` says of new machines |
//!
//! The second line is what lets a volunteer simply start the computer again after a power cut or a
//! failed download: the disks are not blank any more, but what is on them is ours. See [`to_go_on`].
//!
//! A grant belongs to one run of one machine and lapses after six hours; a machine that asks again
//! for a run that has not ended (after a power cut, say) is told the same again.

use akene_protocol::api::{Consent, Grant, RunResponse};
use akene_protocol::event::Phase;
use akene_protocol::same_disks::to_go_on;
use akene_protocol::{Envelope, Issue, MachineId, RunId};
use anyhow::Result;
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Transaction;

use crate::db::{machines, runs};
use crate::site::SiteConfig;
use crate::state::Stage;

/// How long a grant counts.
pub const LIFE: SignedDuration = SignedDuration::from_hours(6);

/// How long after its beginning a run that has not ended may have its lapsed grant renewed: a power
/// cut on Friday evening is mended on Monday.
const RENEWABLE: SignedDuration = SignedDuration::from_hours(7 * 24);

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
