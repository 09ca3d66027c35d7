//! What a machine that was installed with no network tells its server, later and by whatever way there is.
//!
//! A report holds all that the server would have heard during the run. It is signed with the key of the medium the
//! machine was installed from, then sealed for the server ([`crate::seal`]), and lies on that medium
//! (`akene/reports/NAME.sealed`) and, once that is mounted, on the machine's boot partition (the same path below `/boot`). NAME is
//! the run where a system was installed. A run that led to none has the name of its machine, 16 hexadecimal digits, or as long as no
//! disk knows that machine, of its hardware; the next run of the machine takes its place. Only the ending says what the file is.
//!
//! Whoever is online first delivers it: `akene-image sync`,
//! or the machine itself. `POST /v1/reports` takes the sealed bytes, asks for no other proof, and may be sent the same
//! report, or a longer one of the same run, again and again.
//!
//! A machine keeps the identity in its report unless the number is another machine's already ([`ReportAccepted`]).
//!
//! A medium can be declared lost at the server. What comes from it afterwards, and what comes after more machines than
//! it was made for, waits for a person's word and gives its machine nothing until then. A machine that was only tried, and on
//! which nothing was installed, becomes no member and counts as none.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Identity, Recognised};
use crate::envelope::{Document, Envelope};
use crate::event::{Event, RunId};
use crate::ids::{AssetNumber, MachineId};
use crate::inventory::{self, Inventory};
use crate::issue::Issue;
use crate::medium::MediumId;

/// The version of [`Report`] this crate writes and reads.
pub const VERSION: u32 = 1;

/// Largest sealed report that is read, in bytes.
pub const LARGEST: usize = 16 << 20;

/// One run on one machine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Report {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// When this was written, by the machine's clock, which nobody has confirmed.
    pub at: Timestamp,
    /// Who the machine is: minted where it stands, or found on its disks.
    pub identity: Identity,
    /// Whether a person typed or scanned the asset number. Then it stands on the machine.
    #[serde(default)]
    pub labelled: bool,
    /// The association the technician chose.
    #[serde(default)]
    pub association: Option<String>,
    /// Name and revision of the profile; none where the run ended before it was chosen.
    #[serde(default)]
    pub profile: Option<(String, String)>,
    /// What the machine is.
    pub inventory: Inventory,
    /// Everything that happened so far, from the first event. What was done to its disks is one of them.
    pub events: Vec<Event>,
    /// The log so far.
    #[serde(default)]
    pub log: Option<String>,
}

impl Document for Report {
    const PAYLOAD_TYPE: &'static str = "application/vnd.akene.report+json; version=1";
}

/// What is sealed: a signed [`Report`], and whose signature it bears.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Letter {
    /// The medium whose key signed.
    pub medium: MediumId,
    /// The signed [`Report`].
    pub report: Envelope,
}

/// Answer to `POST /v1/reports`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReportAccepted {
    /// The machine in the report.
    pub machine: MachineId,
    /// The machine's number at the server.
    pub asset: AssetNumber,
    /// The number in the report, where that was another machine's already.
    #[serde(default)]
    pub instead_of: Option<AssetNumber>,
    /// Whether the number in the report stands on the machine.
    #[serde(default)]
    pub labelled: bool,
    /// The association in the report.
    #[serde(default)]
    pub association: Option<String>,
    /// Who the server thinks it is.
    pub recognised: Recognised,
    /// Whether the machine is a member. Otherwise a person has to decide first (`recognised` is `ask`), or there is nothing
    /// to decide: nothing was installed on it, and its report is kept as a note (`recognised` is `new`).
    pub admitted: bool,
    /// How many events were new.
    pub new: usize,
}

/// Shortest and longest credential a machine may bring along, in characters: 128 random bits, and no novel.
const CREDENTIAL: std::ops::RangeInclusive<usize> = 32..=256;

/// Longest name of an association that is kept, in characters.
const LONGEST_NAME: usize = 120;

impl Report {
    /// Whether it can be a machine's: versions this crate reads, events of this run alone, each with a higher number
    /// than the one before, and a credential nobody guesses.
    ///
    /// # Errors
    /// `report-version`, `inventory-version` or `report-odd`.
    pub fn check(&self) -> Result<(), Issue> {
        let refuse = |code: &str, message: String, next: &str| {
            Err(Issue::new(code, format!("run {}", self.run), message, next))
        };
        if self.version != VERSION {
            return refuse("report-version", other_version(self.version, VERSION), UPDATE);
        }
        if self.inventory.version != inventory::VERSION {
            let message =
                format!("its inventory: {}", other_version(self.inventory.version, inventory::VERSION));
            return refuse("inventory-version", message, UPDATE);
        }
        let credential = self.identity.credential.expose();
        if !CREDENTIAL.contains(&credential.len()) || !credential.chars().all(|c| c.is_ascii_graphic()) {
            return refuse("report-odd", "its credential is none that an installer makes".into(), FAULT);
        }
        let mut last = 0;
        for event in &self.events {
            if event.run != self.run || event.seq <= last {
                let message = format!("event {} of run {} is out of place", event.seq, event.run);
                return refuse("report-odd", message, FAULT);
            }
            last = event.seq;
        }
        Ok(())
    }

    /// The association as it can be shown: somebody may have typed it.
    pub fn association(&self) -> Option<String> {
        let typed = self.association.as_deref().unwrap_or_default();
        let name: String = typed.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }
}

const UPDATE: &str = "update the older one of medium and server";
const FAULT: &str = "report this as a fault of the installer";

fn other_version(found: u32, read: u32) -> String {
    format!("it has version {found}, this server reads version {read}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::inventory::FirmwareKind;
    use crate::secret::Secret;

    fn report() -> Report {
        let run = RunId([1; 8]);
        let event = |seq| Event {
            version: crate::event::VERSION,
            run,
            seq,
            at: Timestamp::UNIX_EPOCH,
            uptime_ms: seq,
            kind: EventKind::Installed,
        };
        Report {
            version: VERSION,
            run,
            at: Timestamp::UNIX_EPOCH,
            identity: Identity {
                machine: MachineId([1; 16]),
                asset: AssetNumber::new(1042),
                credential: Secret::new("c".repeat(64)),
            },
            labelled: false,
            association: Some(" Foyer\u{1b}[2J de Lannion ".into()),
            profile: None,
            inventory: Inventory::unknown(FirmwareKind::Bios),
            events: vec![event(1), event(2), event(7)],
            log: None,
        }
    }

    #[test]
    fn only_what_an_installer_can_have_written_is_taken() {
        assert_eq!(report().check(), Ok(()));
        let code = |change: fn(&mut Report)| {
            let mut report = report();
            change(&mut report);
            report.check().unwrap_err().code
        };
        assert_eq!(code(|r| r.version = 2), "report-version");
        assert_eq!(code(|r| r.inventory.version = 99), "inventory-version");
        assert_eq!(code(|r| r.identity.credential = Secret::new("short")), "report-odd");
        assert_eq!(code(|r| r.identity.credential = Secret::new("é".repeat(40))), "report-odd");
        assert_eq!(code(|r| r.events[1].run = RunId([2; 8])), "report-odd");
        assert_eq!(code(|r| r.events[1].seq = 1), "report-odd");
        assert_eq!(code(|r| r.events[0].seq = 0), "report-odd");
    }

    #[test]
    fn a_typed_association_can_be_shown_and_a_credential_is_not() {
        assert_eq!(report().association().as_deref(), Some("Foyer[2J de Lannion"));
        let text = serde_json::to_value(report()).unwrap();
        assert!(text.get("plan").is_none(), "the plan is in the events, and nowhere twice");
        let empty = Report { association: Some(" \n".into()), ..report() };
        assert_eq!(empty.association(), None);
        assert!(!format!("{:?}", report()).contains("ccc"));
    }
}
