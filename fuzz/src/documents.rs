//! The documents programs exchange.

use std::fmt::Debug;

use akene_planner::Plan;
use akene_protocol::api::{
    EnrolRequest, EnrolResponse, EventBatch, EventsAccepted, Grant, Identity, OpenOrders, RunRequest,
    RunResponse, Time,
};
use akene_protocol::envelope::Envelope;
use akene_protocol::lock::{Lock, ProfileLock};
use akene_protocol::medium::{Medium, MediumId};
use akene_protocol::order::Progress;
use akene_protocol::report::{Letter, Report, ReportAccepted};
use akene_protocol::seal::SealSecret;
use akene_protocol::{Bundle, Event, ImageManifest, Inventory, MachineId, Order, PublicKey, Stamp};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What was read and is written reads the same again, and is written the same.
pub(crate) fn same_again<T: Serialize>(value: &T, read: impl Fn(&[u8]) -> Option<T>) {
    let text = serde_json::to_string(value).unwrap();
    let again = read(text.as_bytes()).unwrap_or_else(|| panic!("what was written cannot be read: {text}"));
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
}

fn document<T: Serialize + DeserializeOwned + Debug>(data: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(data).ok()?;
    // Also what a log would show.
    assert!(!format!("{value:?}").is_empty());
    same_again(&value, |text| serde_json::from_slice(text).ok());
    Some(value)
}

/// A lock.
pub fn lock(data: &[u8]) {
    if let Ok(lock) = Lock::parse(data) {
        lock.download_size();
        same_again(&lock, |text| Lock::parse(text).ok());
    }
}

/// A profile's signed lock: what is in the envelope, and the envelope.
pub fn signed(data: &[u8]) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey(key.verifying_key());
    if let Ok(envelope) = Envelope::parse(data) {
        assert!(envelope.open::<ProfileLock>(&public).is_err(), "nobody signed this");
    }
    let Ok(lock) = serde_json::from_slice::<ProfileLock>(data) else { return };
    same_again(&lock, |text| serde_json::from_slice(text).ok());
    let envelope = Envelope::sign(&lock, &key);
    assert_eq!(envelope.open::<ProfileLock>(&public).ok().as_ref(), Some(&lock));
    if lock.check().is_err() {
        return;
    }
    for selection in &lock.selections {
        let archive = &lock.archives[selection.archive].0;
        let Ok(chosen) = lock.select(&lock.profile, archive, &selection.request) else {
            // Where mirrors count, nobody's archives are these.
            assert!(
                !archive.mirrors.is_empty() || !archive.security_mirrors.is_empty(),
                "no answer: {selection:?}"
            );
            continue;
        };
        for package in &chosen.packages {
            assert!(!package.file.contains('/') && package.size.0 > 0, "{package:?}");
        }
        let now = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24 * 365 * 60);
        for days in [None, Some(0), Some(u32::MAX)] {
            assert!(!format!("{:?}", lock.age(&chosen, now, days)).is_empty());
        }
    }
    assert_eq!(lock.behind(&lock), None);
    assert!(lock.of_site(&lock.site).is_ok());
}

/// What comes home from places without a network: as sealed bytes, as what was sealed, as what was signed.
pub fn letter(data: &[u8]) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey(key.verifying_key());
    let seal = SealSecret::from_bytes([7; 32]);
    assert_eq!(seal.open(data), None, "nobody sealed this");
    assert_eq!(seal.open(&seal.public().seal(data, [7; 32])).as_deref(), Some(data));
    if let Some(letter) = document::<Letter>(data) {
        assert!(letter.report.open::<Report>(&public).is_err(), "nobody signed this");
    }
    document::<ReportAccepted>(data);
    if let Some(medium) = document::<Medium>(data) {
        let envelope = Envelope::sign(&medium, &key);
        assert_eq!(envelope.open::<Medium>(&public).ok(), Some(medium));
        assert!(envelope.open::<Report>(&public).is_err(), "one kind passes as another");
    }
    let Some(report) = document::<Report>(data) else { return };
    assert!(report.association().is_none_or(|name| !name.is_empty() && !name.chars().any(char::is_control)));
    let sealed = {
        let letter = Letter { medium: MediumId([7; 8]), report: Envelope::sign(&report, &key) };
        seal.public().seal(&serde_json::to_vec(&letter).unwrap(), [7; 32])
    };
    let letter: Letter = serde_json::from_slice(&seal.open(&sealed).unwrap()).unwrap();
    let again: Report = letter.report.open(&public).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), serde_json::to_string(&report).unwrap());
    // What the server takes is one run, in order.
    if report.check().is_ok() {
        assert!(report.events.is_sorted_by(|a, b| a.seq < b.seq && a.run == b.run));
        events(&report.events);
    }
}

/// Every other one: an input is tried as each.
pub fn documents(data: &[u8]) {
    envelope(data);
    document::<Bundle>(data);
    document::<Grant>(data);
    document::<Identity>(data);
    document::<EnrolRequest>(data);
    document::<EnrolResponse>(data);
    document::<RunRequest>(data);
    document::<RunResponse>(data);
    document::<EventsAccepted>(data);
    document::<Time>(data);
    document::<OpenOrders>(data);
    document::<Progress>(data);
    if let Some(order) = document::<Order>(data) {
        // One that is taken is for this machine, and begins before it ends.
        if order.check(MachineId([1; 16]), jiff::Timestamp::UNIX_EPOCH).is_ok() {
            assert!(order.machine == MachineId([1; 16]) && order.issued < order.expires);
        }
    }
    document::<Plan>(data);
    document::<Stamp>(data);
    if let Some(batch) = document::<EventBatch>(data) {
        events(&batch.events);
    }
    if let Some(event) = document::<Event>(data) {
        events(&[event]);
    }
    if let Ok(manifest) = ImageManifest::parse(data) {
        same_again(&manifest, |text| ImageManifest::parse(text).ok());
    }
    if let Ok(inventory) = Inventory::parse(data) {
        same_again(&inventory, |text| Inventory::parse(text).ok());
    }
}

/// The server derives a machine's state from its events alone.
fn events(events: &[Event]) {
    let state = akene_server::state::RunState::of(events);
    assert!(state.percent().is_none_or(|p| p <= 100), "{state:?}");
    assert!(!state.words(None).is_empty());
}

/// Nothing that the site's key did not sign is taken.
fn envelope(data: &[u8]) {
    let Ok(envelope) = Envelope::parse(data) else { return };
    let key = PublicKey(ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key());
    assert!(envelope.open::<Bundle>(&key).is_err());
    assert!(envelope.open::<Grant>(&key).is_err());
    assert!(envelope.open::<Order>(&key).is_err());
    same_again(&envelope, |text| Envelope::parse(text).ok());
}
