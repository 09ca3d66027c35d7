//! What machines tell that were installed with no network: opened, believed or not, imported.
//!
//! A report comes by any way, any number of times, in any order ([`akene_protocol::report`]). [`open`] says whether a
//! medium of this site signed it; [`take`] what becomes of it, in one transaction:
//!
//! | the machine in it | becomes |
//! |---|---|
//! | known, with a credential of its own | imported, whatever became of the medium: only that machine can have written it |
//! | known, with another credential | refused: `report-other-credential` |
//! | unknown, and nothing was installed on it | a note for the administrator, see [`strangers`](crate::db::strangers): no member, and none of those the medium was made for |
//! | unknown, the medium counts | a member with the identity it brings, see [`newcomers::join`](crate::db::newcomers::join) |
//! | unknown, the medium is lost, expired or used up, or has brought too many within an hour | waits, see [`strangers`](crate::db::strangers), until [`admit`] or [`drop_it`] |
//!
//! What is imported adds up to the same whatever came first: events are known by run and number, runs are ordered by when
//! they began, and of inventories and logs the newest stays. A clock that says what cannot be (before the medium was made, or
//! later than now) orders nothing: then the order of arrival does.

use akene_protocol::api::Recognised;
use akene_protocol::envelope::EnvelopeError;
use akene_protocol::event::EventKind;
use akene_protocol::report::{LARGEST, Letter, Report, ReportAccepted};
use akene_protocol::seal::OVERHEAD;
use akene_protocol::{Bytes, Issue, MachineId};
use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Transaction;

use crate::db::strangers::{Decision, Stranger};
use crate::db::{Trouble, events, machines, newcomers, runs, strangers};
use crate::site::Site;
use crate::site::media::{self, Refused, Registered};
use crate::view;

/// A report that a medium of this site signed.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The medium.
    pub medium: Registered,
    /// The report.
    pub report: Report,
    sealed: Vec<u8>,
}

impl Opened {
    /// Whether the machine says that its system runs: that may end orders.
    pub fn confirms(&self) -> bool {
        self.report.events.iter().any(|event| matches!(event.kind, EventKind::Confirmed { .. }))
    }
}

fn refuse<T>(code: &str, message: impl Into<String>, next: &str) -> Result<T, Trouble> {
    Err(Trouble::Refused(Issue::new(code, "", message, next)))
}

/// Opens a sealed report and verifies its signature.
///
/// # Errors
/// `report-too-large`, `report-unreadable`, `report-seal`, `medium-unknown`, `report-signature`, or one of
/// [`Report::check`].
pub fn open(site: &Site, sealed: &[u8]) -> Result<Opened, Trouble> {
    const OTHER: &str = "bring it to the server of the site that made the medium";
    const WHOLE: &str = "the file is damaged, or none of a medium's reports; the machine has another copy";
    if sealed.len() > LARGEST {
        return refuse("report-too-large", format!("no report has more than {LARGEST} bytes"), WHOLE);
    }
    if sealed.len() <= OVERHEAD {
        return refuse("report-unreadable", "this is no report", WHOLE);
    }
    let Some(text) = site.seal_secret()?.open(sealed) else {
        return refuse("report-seal", "this report was sealed for another server, or is damaged", OTHER);
    };
    let letter: Letter = match serde_json::from_slice(&text) {
        Ok(letter) => letter,
        // The reason could repeat what is inside.
        Err(_) => return refuse("report-unreadable", "what was sealed is no report", WHOLE),
    };
    let Some(medium) = media::find(site, letter.medium)? else {
        return refuse(
            "medium-unknown",
            format!("this site made no medium {}", letter.medium),
            "where the medium was made in another copy of the site directory: bring its media/ID.toml here; else it is another site's",
        );
    };
    let report: Report = match letter.report.open(&medium.key) {
        Ok(report) => report,
        Err(EnvelopeError::WrongType { .. }) => {
            return refuse(
                "report-version",
                "this report has a version that this server does not read",
                "update the older one of medium and server",
            );
        }
        Err(EnvelopeError::WrongSignature { .. }) => {
            return refuse(
                "report-signature",
                format!("the medium {} did not sign this report", medium.id),
                "find out who wrote it: it is not from an installer",
            );
        }
        Err(EnvelopeError::Malformed(_) | EnvelopeError::Unreadable(_)) => {
            return refuse("report-unreadable", "what was signed is no report", WHOLE);
        }
    };
    report.check().map_err(Trouble::Refused)?;
    Ok(Opened { medium, report, sealed: sealed.to_vec() })
}

/// Imports a report, or keeps it until a person decides. Of a machine's logs at most `most` is kept.
///
/// # Errors
/// `report-other-credential`, `machine-dropped`, `too-many-waiting`; `run-of-another` and what else events are refused for.
/// Then nothing is kept.
pub fn take(
    db: &Transaction<'_>,
    site: &Site,
    opened: &Opened,
    peer: &str,
    most: Bytes,
) -> Result<ReportAccepted, Trouble> {
    let identity = &opened.report.identity;
    let owner = machines::owner(db, &identity.credential)?;
    let known = machines::with_id(db, identity.machine)?.is_some();
    match (known, owner) {
        (true, Some(owner)) if owner == identity.machine => {}
        (false, None) => {
            match fate(db, site, opened)? {
                Fate::Joins => {}
                Fate::Waits(why) => return keep(db, opened, peer, why, false),
                Fate::Noted(why) => return keep(db, opened, peer, why, true),
            }
            let new = join(db, site, opened, peer, most)? + import(db, opened, most)?;
            let accepted = accepted(db, opened, new)?;
            let recognised = match accepted.recognised {
                Recognised::Same => Recognised::New,
                other => other,
            };
            return Ok(ReportAccepted { recognised, ..accepted });
        }
        _ => return other_credential(identity.machine),
    }
    let new = import(db, opened, most)?;
    accepted(db, opened, new)
}

fn other_credential<T>(machine: MachineId) -> Result<T, Trouble> {
    Err(Trouble::Refused(Issue::new(
        "report-other-credential",
        machine.to_string(),
        "this report brings a credential that is not this machine's",
        "the machine was installed again since, and tells by itself how it is; a machine that should be new must be installed again",
    )))
}

/// What becomes of a machine that is no member.
enum Fate {
    Joins,
    /// It cannot join without a person's word, and why.
    Waits(String),
    /// Nothing was installed on it, and why. With every start of a stick that was forgotten in a computer comes another.
    Noted(String),
}

fn fate(db: &Transaction<'_>, site: &Site, opened: &Opened) -> Result<Fate, Trouble> {
    let identity = &opened.report.identity;
    let stranger = strangers::get(db, identity.machine)?;
    if let Some(stranger) = &stranger {
        if stranger.credential != machines::sum(&identity.credential) {
            return other_credential(identity.machine);
        }
        match stranger.decision {
            Some(Decision::Admit) => return Ok(Fate::Joins),
            Some(Decision::Drop) => {
                return refuse(
                    "machine-dropped",
                    "a person decided that this computer does not join",
                    "`akene-server machine admit` changes that; or install the computer again",
                );
            }
            None => {}
        }
    }
    // What waits for its other reports goes on waiting.
    if stranger.is_none_or(|stranger| stranger.tried)
        && let Some(why) = came_to_nothing(&opened.report)
    {
        return Ok(Fate::Noted(why));
    }
    let medium = &opened.medium;
    let now = Timestamp::now();
    let why = match medium.counts(now) {
        Err(Refused::Lost) => Some(format!("the medium {} was declared lost", medium.id)),
        Err(Refused::Expired) => {
            Some(format!("the medium {} counted until {:.0}", medium.id, medium.expires))
        }
        Ok(()) => {
            let joined = machines::joined_by(db, medium.id, None)?;
            let lately = machines::joined_by(db, medium.id, Some(now - SignedDuration::from_hours(1)))?;
            let by = format!("computers have joined by the medium {}", medium.id);
            if joined >= medium.machines {
                Some(format!("{joined} {by} already"))
            } else if lately >= site.config()?.limits.new_machines_per_hour {
                Some(format!(
                    "{lately} {by} within an hour (`limits.new-machines-per-hour`); later it joins by itself"
                ))
            } else {
                None
            }
        }
    };
    Ok(why.map_or(Fate::Joins, Fate::Waits))
}

/// Longest reason that is kept of a run that came to nothing, in characters.
const LONGEST_REASON: usize = 300;

/// Why nothing was installed, where a run ended before it changed a disk.
fn came_to_nothing(report: &Report) -> Option<String> {
    // It is the last event of such a run.
    let EventKind::Failed { issues, disks_changed: false, .. } = &report.events.last()?.kind else {
        return None;
    };
    let why = issues.first().map(|issue| format!("[{}] {}", issue.code, issue.message));
    let shown = why.unwrap_or_else(|| "it did not say why".to_owned());
    Some(shown.chars().filter(|c| !c.is_control()).take(LONGEST_REASON).collect())
}

fn keep(
    db: &Transaction<'_>,
    opened: &Opened,
    peer: &str,
    why: String,
    tried: bool,
) -> Result<ReportAccepted, Trouble> {
    let report = &opened.report;
    let now = Timestamp::now().to_string();
    let stranger = Stranger {
        machine: report.identity.machine,
        credential: machines::sum(&report.identity.credential),
        medium: opened.medium.id,
        asset: report.identity.asset,
        association: report.association(),
        hardware: view::hardware(&report.inventory),
        why,
        tried,
        created: now.clone(),
        seen: now,
        peer: peer.to_owned(),
        decision: None,
    };
    strangers::keep(db, &stranger, report.run, report.events.len(), &opened.sealed)?;
    Ok(ReportAccepted {
        machine: report.identity.machine,
        asset: report.identity.asset,
        instead_of: None,
        labelled: report.labelled,
        association: report.association(),
        recognised: if tried { Recognised::New } else { Recognised::Ask },
        admitted: false,
        new: 0,
    })
}

/// Makes the machine a member, and imports what waited for that.
fn join(
    db: &Transaction<'_>,
    site: &Site,
    opened: &Opened,
    peer: &str,
    most: Bytes,
) -> Result<usize, Trouble> {
    let report = &opened.report;
    let newcomer = newcomers::Newcomer {
        identity: &report.identity,
        labelled: report.labelled,
        inventory: &report.inventory,
        medium: opened.medium.id,
        peer,
    };
    newcomers::join(db, &newcomer)?;
    let mut new = 0;
    for sealed in strangers::letters(db, report.identity.machine)? {
        match open(site, &sealed) {
            Ok(opened) => new += import(db, &opened, most)?,
            // One that has become unreadable (an update, another key) keeps nobody out.
            Err(Trouble::Refused(issue)) => {
                let text = format!("a report that waited is lost: [{}] {}", issue.code, issue.message);
                machines::note(db, report.identity.machine, &text)?;
            }
            Err(broken) => return Err(broken),
        }
    }
    strangers::forget(db, report.identity.machine)?;
    Ok(new)
}

/// Adds what a member's report says to what is known. How many events were new.
fn import(db: &Transaction<'_>, opened: &Opened, most: Bytes) -> Result<usize, Trouble> {
    let Opened { medium, report, .. } = opened;
    let (machine, run) = (report.identity.machine, report.run);
    let now = Timestamp::now();
    let possible = |at: Timestamp| at >= medium.made && at <= now;
    // The first events may be older than the machine's clock.
    let mut times = report.events.iter().map(|event| event.at).chain([report.at]);
    let began = times.find(|at| possible(*at)).unwrap_or(now);
    runs::open_since(db, machine, run, began)?;
    let new = events::keep(db, machine, &report.events)?;
    let inventory = serde_json::to_string(&report.inventory).context("encoding an inventory")?;
    let association = report.association();
    let reported = runs::Reported {
        inventory: &inventory,
        profile: report.profile.as_ref().map(|(name, revision)| (name.as_str(), revision.as_str())),
        why: &format!("from the medium {}, without a network", medium.id),
        association: association.as_deref(),
    };
    runs::keep_reported(db, run, &reported)?;
    let told = match possible(report.at) {
        true => report.at,
        false => runs::get(db, run)?.context("reading the run of a report")?.created,
    };
    let last = report.events.last().map_or(0, |event| event.seq);
    newcomers::keep_inventory(db, machine, &report.inventory, told, last)?;
    if let Some(log) = &report.log {
        events::keep_reported_log(db, machine, run, log, most)?;
    }
    Ok(new)
}

fn accepted(db: &Transaction<'_>, opened: &Opened, new: usize) -> Result<ReportAccepted, Trouble> {
    let report = &opened.report;
    let machine = machines::get(db, report.identity.machine)?;
    Ok(ReportAccepted {
        machine: machine.id,
        asset: machine.asset,
        instead_of: Some(report.identity.asset).filter(|asset| *asset != machine.asset),
        labelled: report.labelled,
        association: report.association(),
        recognised: newcomers::recognised(&machine),
        admitted: true,
        new,
    })
}

/// A person says that a machine that waits joins, whatever became of its medium. Its reports are imported; where there are
/// none (it was dropped before), it joins as soon as it is heard of.
///
/// # Errors
/// `machine-unknown`, `machine-ambiguous`, and those of [`open`] where none of its reports can be opened.
pub fn admit(
    db: &Transaction<'_>,
    site: &Site,
    name: &str,
    most: Bytes,
) -> Result<(Stranger, Option<ReportAccepted>), Trouble> {
    let stranger = strangers::find(db, name)?;
    // The longest that can be opened says who it is.
    let mut opened = None;
    for sealed in strangers::letters(db, stranger.machine)?.iter().rev() {
        opened = match open(site, sealed) {
            Ok(letter) => Some(Ok(letter)),
            Err(Trouble::Refused(issue)) => opened.or(Some(Err(issue))),
            Err(broken) => return Err(broken),
        };
        if matches!(opened, Some(Ok(_))) {
            break;
        }
    }
    let Some(opened) = opened else {
        strangers::decide(db, stranger.machine, Decision::Admit)?;
        return Ok((stranger, None));
    };
    let opened = opened.map_err(Trouble::Refused)?;
    let new = join(db, site, &opened, &stranger.peer, most)?;
    let accepted = accepted(db, &opened, new)?;
    Ok((stranger, Some(accepted)))
}

/// A person says that a machine that waits does not join.
///
/// # Errors
/// `machine-unknown`, `machine-ambiguous`.
pub fn drop_it(db: &Transaction<'_>, name: &str) -> Result<Stranger, Trouble> {
    let stranger = strangers::find(db, name)?;
    strangers::decide(db, stranger.machine, Decision::Drop)?;
    Ok(stranger)
}
