//! Reports: what a run that had no network has to tell the server later ([`akene_protocol::report`]).
//!
//! A [`Desk`] gathers who the machine is and what it becomes as the run learns it. From it, the events and the log a
//! report is made anew each time, always whole: signed with the medium's key, sealed for the server. Where it is put is
//! decided in [`super::offline`].

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use akene_protocol::api::Identity;
use akene_protocol::event::{Event, RunId};
use akene_protocol::inventory::Bus;
use akene_protocol::medium::MediumId;
use akene_protocol::report::{LARGEST, Letter, Report, VERSION};
use akene_protocol::seal::SealKey;
use akene_protocol::{Bundle, Envelope, Inventory, Secret, Sha256};
use anyhow::{Context, Result, anyhow, ensure};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// So much of the log's end is in a report, in bytes.
const LOG: usize = 2 << 20;

/// Whose signature a report bears, and what a technician said. It lies in the record of an unfinished installation, too:
/// whoever goes on with that can report although the medium is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sender {
    /// The medium.
    pub medium: MediumId,
    /// Its own key, PKCS#8 PEM.
    pub key: Secret,
    /// The association that was chosen.
    #[serde(default)]
    pub association: Option<String>,
    /// Whether the machine's number was typed or scanned.
    #[serde(default)]
    pub labelled: bool,
}

/// What reports of a run are made of.
#[derive(Debug)]
pub struct Desk {
    /// Whose they are.
    pub sender: Sender,
    seal: SealKey,
    inventory: Option<Inventory>,
    profile: Option<(String, String)>,
}

impl Desk {
    /// An empty one.
    pub fn new(sender: Sender, seal: SealKey) -> Self {
        Desk { sender, seal, inventory: None, profile: None }
    }

    /// What the machine is.
    pub fn inventory(&mut self, inventory: &Inventory) {
        self.inventory = Some(inventory.clone());
    }

    /// What it is told to become.
    pub fn profile(&mut self, bundle: &Bundle) {
        self.profile = Some((bundle.name.clone(), bundle.revision.clone()));
    }

    /// A name for the reports of runs that changed nothing on a machine which no disk knows: the same whenever it is started,
    /// so that a medium that is forgotten in it does not fill up. `None`: nothing tells it from others of its kind.
    pub fn name_of_stranger(&self) -> Option<String> {
        let Inventory { dmi, nics, disks, .. } = self.inventory.as_ref()?;
        let cards = nics.iter().filter(|nic| nic.bus.as_deref() != Some("usb"));
        let inside = disks.iter().filter(|disk| !disk.removable && !disk.live_medium && disk.bus != Bus::Usb);
        let mut marks: Vec<&str> = cards.filter_map(|nic| nic.mac.as_deref()).collect();
        marks.extend(inside.filter_map(|disk| disk.serial.as_deref()));
        if marks.is_empty() {
            return None;
        }
        let board = [&dmi.product_uuid, &dmi.product_serial, &dmi.board_serial];
        marks.extend(board.into_iter().filter_map(|mark| mark.as_deref()));
        marks.sort_unstable();
        marks.dedup();
        Some(hex::encode(&Sha256::of(marks.join("\n").as_bytes()).0[..8]))
    }

    /// The report as it is now, sealed. One that would be too large comes without its log.
    pub fn report(
        &self,
        identity: &Identity,
        run: RunId,
        events: Vec<Event>,
        log: Option<String>,
    ) -> Result<Vec<u8>> {
        let inventory = self.inventory.clone().context("reporting a machine that nobody has looked at")?;
        let mut report = Report {
            version: VERSION,
            run,
            at: Timestamp::now(),
            identity: identity.clone(),
            labelled: self.sender.labelled,
            association: self.sender.association.clone(),
            profile: self.profile.clone(),
            inventory,
            events,
            log,
        };
        let mut sealed = self.seal(&report)?;
        if sealed.len() > LARGEST {
            report.log = None;
            sealed = self.seal(&report)?;
        }
        ensure!(sealed.len() <= LARGEST, "the report has {} bytes, and no server reads it", sealed.len());
        Ok(sealed)
    }

    fn seal(&self, report: &Report) -> Result<Vec<u8>> {
        let key = SigningKey::from_pkcs8_pem(self.sender.key.expose())
            .map_err(|e| anyhow!("reading the medium's key: {e}"))?;
        let letter = Letter { medium: self.sender.medium, report: Envelope::sign(report, &key) };
        let text = serde_json::to_vec(&letter).context("writing the report as JSON")?;
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| anyhow!("drawing a key to seal with: {e}"))?;
        Ok(self.seal.seal(&text, random))
    }
}

/// The end of a log, from the beginning of a line; none where there is no log.
pub fn end_of_log(path: &Path) -> Result<Option<String>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let end = &text[text.len().saturating_sub(LOG)..];
    let from = match end.len() < text.len() {
        true => end.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1),
        false => 0,
    };
    Ok(Some(String::from_utf8_lossy(&end[from..]).into_owned()))
}

#[cfg(test)]
mod tests {
    use akene_protocol::event::{EventKind, Level};
    use akene_protocol::inventory::FirmwareKind;
    use akene_protocol::seal::SealSecret;
    use akene_protocol::{AssetNumber, MachineId, PublicKey};
    use ed25519_dalek::pkcs8::EncodePrivateKey;

    use super::*;

    const RUN: RunId = RunId([7; 8]);

    fn desk() -> (Desk, PublicKey, SealSecret) {
        let key = SigningKey::from_bytes(&[5; 32]);
        let pem = key.to_pkcs8_pem(Default::default()).unwrap();
        let secret = SealSecret::from_bytes([6; 32]);
        let sender = Sender {
            medium: MediumId([1; 8]),
            key: Secret::new(&**pem),
            association: Some("Lannion".into()),
            labelled: true,
        };
        (Desk::new(sender, secret.public()), PublicKey(key.verifying_key()), secret)
    }

    fn identity() -> Identity {
        Identity {
            machine: MachineId([2; 16]),
            asset: AssetNumber::new(1042),
            credential: Secret::new("the-credential"),
        }
    }

    fn events(n: u64, text: &str) -> Vec<Event> {
        let kind = |_| EventKind::Log { level: Level::Info, message: text.to_owned() };
        let at = Timestamp::UNIX_EPOCH;
        let event = |seq| Event {
            version: akene_protocol::event::VERSION,
            run: RUN,
            seq,
            at,
            uptime_ms: 0,
            kind: kind(seq),
        };
        (1..=n).map(event).collect()
    }

    #[test]
    fn only_the_server_reads_what_the_medium_signed() {
        let (mut desk, key, secret) = desk();
        assert!(desk.report(&identity(), RUN, vec![], None).is_err(), "of a machine nobody looked at");
        desk.inventory(&Inventory::unknown(FirmwareKind::Bios));
        let sealed = desk.report(&identity(), RUN, events(3, "x"), Some("log".into())).unwrap();
        let letter: Letter = serde_json::from_slice(&secret.open(&sealed).unwrap()).unwrap();
        assert_eq!(letter.medium, MediumId([1; 8]));
        let report: Report = letter.report.open(&key).unwrap();
        assert_eq!((report.identity, report.run, report.labelled), (identity(), RUN, true));
        assert_eq!((report.association.as_deref(), report.log.as_deref()), (Some("Lannion"), Some("log")));
        assert_eq!(report.events, events(3, "x"));
        assert!(!format!("{desk:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_no_server_would_read_is_made_smaller() {
        let (mut desk, key, secret) = desk();
        desk.inventory(&Inventory::unknown(FirmwareKind::Bios));
        let sealed = desk.report(&identity(), RUN, events(2, "x"), Some("l".repeat(LARGEST))).unwrap();
        let letter: Letter = serde_json::from_slice(&secret.open(&sealed).unwrap()).unwrap();
        let report: Report = letter.report.open(&key).unwrap();
        assert_eq!((report.log, report.events.len()), (None, 2));
        assert!(desk.report(&identity(), RUN, events(2, &"x".repeat(LARGEST)), None).is_err());
    }

    #[test]
    fn a_strange_machine_has_one_name_however_its_devices_show_themselves() {
        let (mut desk, ..) = desk();
        let mut name = |inventory: &Inventory| {
            desk.inventory(inventory);
            desk.name_of_stranger()
        };
        let golden = include_str!("../../../tests/golden/20gb-bios/inventory.json");
        let machine = Inventory::parse(golden.as_bytes()).unwrap();
        let stranger = name(&machine).unwrap();
        assert!(stranger.parse::<RunId>().is_ok(), "{stranger}");
        let mut again = machine.clone();
        again.disks.reverse();
        again.nics.reverse();
        again.disks.iter_mut().for_each(|disk| (disk.name, disk.table) = ("sdx".into(), None));
        again.memory.total.0 /= 2;
        let mut stick = machine.disks[0].clone();
        (stick.removable, stick.serial) = (true, Some("a stick".into()));
        again.disks.push(stick);
        assert_eq!(name(&again), Some(stranger.clone()));
        let mut other = machine.clone();
        other.disks[0].serial = Some("another".into());
        assert_ne!(name(&other).unwrap(), stranger);
        assert_eq!(name(&Inventory::unknown(FirmwareKind::Bios)), None);
    }

    #[test]
    fn the_end_of_a_log_begins_with_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(end_of_log(&path).unwrap(), None);
        fs::write(&path, "a\nb\n").unwrap();
        assert_eq!(end_of_log(&path).unwrap().as_deref(), Some("a\nb\n"));
        fs::write(&path, format!("{}\nlast\n", "x".repeat(LOG))).unwrap();
        assert_eq!(end_of_log(&path).unwrap().as_deref(), Some("last\n"));
    }
}
