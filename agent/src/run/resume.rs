//! Going on with an installation that broke off, from what lies on the machine alone.
//!
//! From the moment disks are changed until the system stands, [`PATH`] on the boot partition holds everything that was
//! decided: who the machine is, the signed profile, the permission, the exact packages. With the packages on the disks too (see
//! [`super::stage`]) the installer needs neither the server nor an archive to end what it began. It asks them first; only when
//! nobody answers for a while does it go on by itself ([`super::live`]).
//!
//! What is permitted is what was permitted: the record counts only on a machine with exactly the disks it was made on
//! ([`akene_protocol::same_disks`]), with a profile that the key of this medium's stamp signed.
//!
//! What the packages rest on: where they were taken from a signed lock, that lock is in the record, and they must be exactly
//! what it selects for this machine ([`Resume::choice`]). Without one their hashes are as trustworthy as the boot partition:
//! whoever can write there can name others, as they can replace the installer that lies beside them. A site that cannot accept
//! that of a computer that was in strange hands has `apt.lock` say that a signed lock is required; then a record
//! without one is refused.

use std::fs;
use std::path::{Path, PathBuf};

use akene_planner::Plan;
use akene_protocol::api::{Consent, Identity};
use akene_protocol::inventory::{FirmwareKind, Inventory, LooksLike};
use akene_protocol::lock::{Lock, LockedPackage, Request};
use akene_protocol::profile::LockUse;
use akene_protocol::{Bundle, Envelope, Issue, PublicKey, Resolved, RunId, same_disks};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::letter::Sender;
use super::{Record, boot_files, json, stage};
use crate::fetch::{Orders, Permission, SignedLock, known, read_lock};
use crate::journal;
use crate::probe::disk::partition_path;
use crate::target::{self, Choice, People};

/// The record, below the boot partition.
pub const PATH: &str = "akene/resume.json";

/// Version of the record.
const VERSION: u32 = 1;

/// A larger record is none of ours: a profile may carry files, a lock names a few thousand packages.
const LARGEST: u64 = 64 << 20;

/// How often an installation may be begun before a person has to look; once they permitted another attempt, after that one.
pub const MOST_ATTEMPTS: usize = 5;

/// What an installation that was begun is to become.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Resume {
    version: u32,
    /// The run that wrote it.
    pub run: RunId,
    /// Who the machine is.
    pub identity: Identity,
    profile: Envelope,
    consent: Consent,
    inventory: Inventory,
    request: Request,
    firmware: FirmwareKind,
    choice: Choice,
    signed_lock: Option<Envelope>,
    /// Whose reports tell of it, where no server is asked.
    #[serde(default)]
    pub sender: Option<Sender>,
    /// The people of the system that goes, whose accounts are to come back.
    #[serde(default)]
    pub people: People,
}

/// What a run goes on with, besides what it was told.
pub struct Means<'a> {
    /// Firmware of the machine.
    pub firmware: FirmwareKind,
    /// The packages.
    pub choice: &'a Choice,
    /// The signed lock they were taken from.
    pub signed_lock: Option<&'a Envelope>,
    /// Whose reports tell of it.
    pub sender: Option<&'a Sender>,
    /// The people whose accounts are to come back.
    pub people: &'a People,
}

/// Writes the record of a run, before it changes a disk. A profile that nobody signed cannot be trusted later: then there
/// is no record, and none of an earlier run either.
pub fn save(boot: &Path, record: &Record<'_>, run: RunId, means: &Means<'_>) -> Result<()> {
    let Some(profile) = &record.orders.envelope else { return remove(boot) };
    let resume = Resume {
        version: VERSION,
        run,
        identity: record.identity.clone(),
        profile: profile.clone(),
        consent: record.consent,
        inventory: record.inventory.clone(),
        request: target::request(record.resolved, record.plan, means.firmware),
        firmware: means.firmware,
        choice: means.choice.clone(),
        signed_lock: means.signed_lock.cloned(),
        sender: means.sender.cloned(),
        people: means.people.clone(),
    };
    let text = json(&resume, "what is needed to go on")?;
    boot_files::replace_private(&boot.join(PATH), |out| out.write_all(&text).context("writing"))
}

/// Removes the record: there is nothing to go on with.
pub fn remove(boot: &Path) -> Result<()> {
    boot_files::remove_if_there(&boot.join(PATH))
}

/// Reads the record on a boot partition.
pub fn read(boot: &Path) -> Result<Resume> {
    let path = boot.join(PATH);
    let reading = || format!("reading {PATH}");
    let size = fs::metadata(&path).with_context(reading)?.len();
    anyhow::ensure!(size <= LARGEST, "reading {PATH}: it has {size} bytes");
    let resume: Resume =
        serde_json::from_slice(&fs::read(&path).with_context(reading)?).with_context(reading)?;
    anyhow::ensure!(resume.version == VERSION, "reading {PATH}: its version is {}", resume.version);
    Ok(resume)
}

/// An installation that was begun on a machine and never completed.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The nodes of the boot partitions that say so.
    pub devices: Vec<PathBuf>,
    /// How often it was begun, since a person last looked.
    pub attempts: usize,
    /// How often a person permitted another attempt.
    pub permitted: usize,
    /// What is needed to go on, if it is all written there. Where several boot partitions say that an installation is
    /// unfinished, nobody knows which is meant, and it is none.
    pub resume: Option<Resume>,
}

/// Looks for an installation that was begun and never completed. Nothing is written.
pub fn find(inventory: &Inventory) -> Option<Begun> {
    let disks = inventory.disks.iter().filter(|d| !d.removable && !d.live_medium);
    let devices: Vec<PathBuf> = disks
        .flat_map(|disk| {
            let partitions = disk.table.iter().flat_map(|t| &t.partitions);
            let unfinished = |p: &&akene_protocol::inventory::Partition| {
                let looks = p.content.as_ref().and_then(|c| c.looks_like.as_ref());
                matches!(looks, Some(LooksLike::AkeneBoot { unfinished: true, .. }))
            };
            partitions.filter(unfinished).map(|p| partition_path(Path::new(&disk.path), p.number))
        })
        .collect();
    let look = |device: &PathBuf| {
        let seen = known::look(device, |top| Ok((journal::read(top)?, read(top).ok())));
        seen.ok()
    };
    let seen = devices.iter().filter_map(look).collect();
    Begun::of(devices, seen)
}

impl Begun {
    /// What several boot partitions say together, of which some could be read.
    fn of(devices: Vec<PathBuf>, mut seen: Vec<(Vec<journal::Record>, Option<Resume>)>) -> Option<Self> {
        let attempts = seen.iter().map(|(records, _)| journal::attempts(records)).max()?;
        let permitted = seen.iter().map(|(records, _)| journal::permitted(records)).max()?;
        let resume = if devices.len() == 1 { seen.pop().and_then(|(_, resume)| resume) } else { None };
        Some(Begun { devices, attempts, permitted, resume })
    }

    /// Whether a person has to look before it is begun again.
    pub fn is_tired(&self) -> bool {
        self.attempts >= if self.permitted == 0 { MOST_ATTEMPTS } else { 1 }
    }

    /// What is needed to go on without asking anybody, if it is all here: the same disks, a profile of this site, each package.
    pub fn alone(&self, inventory: &Inventory, key: &PublicKey) -> Option<&Resume> {
        let resume = self.resume.as_ref()?;
        let permitted = resume.orders(key, inventory).is_ok_and(|orders| orders.permission.is_ok());
        (permitted && all_there(inventory, resume.lock())).then_some(resume)
    }
}

/// Whether the packages of a lock lie on the disks. Whether they are right is seen when they are used.
fn all_there(inventory: &Inventory, lock: &Lock) -> bool {
    let mut missing: Vec<&LockedPackage> = lock.packages.iter().collect();
    for disk in inventory.disks.iter().filter(|d| !d.removable && !d.live_medium) {
        let partitions = disk.table.iter().flat_map(|t| &t.partitions);
        let ext4 = partitions.filter(|p| p.content.as_ref().is_some_and(|c| c.kind == "ext4"));
        for node in ext4.map(|p| partition_path(Path::new(&disk.path), p.number)) {
            if missing.is_empty() {
                break;
            }
            let look = known::look(&node, |top| {
                for dir in [stage::ON_BOOT, stage::ON_VOLUME, stage::IN_HOME] {
                    missing.retain(|package| !stage::is_there(&top.join(dir), package));
                }
                Ok(())
            });
            if look.is_err() {
                // What cannot be looked into holds nothing that could be used.
                continue;
            }
        }
    }
    missing.is_empty()
}

impl Resume {
    /// What the run is told to do on this machine.
    ///
    /// # Errors
    /// The profile is not signed by this key. That the permission does not count here is in the orders.
    pub fn orders(&self, key: &PublicKey, now: &Inventory) -> Result<Orders> {
        let bundle: Bundle =
            self.profile.open(key).context("opening the profile of the installation that broke off")?;
        let permission = match same_disks::to_go_on(&self.inventory, self.consent, now) {
            true => Ok(self.permission()),
            false => Err(Issue::new(
                "other-disks",
                "",
                "the disks of this computer are not those the installation was begun on",
                "put the disks back that were there, or connect this computer to the network so that its server can be asked",
            )),
        };
        Ok(Orders { bundle, envelope: Some(self.profile.clone()), permission })
    }

    /// The permission that the installation was begun with. It changed the disks by that already: what lies there now is
    /// what it left.
    pub fn permission(&self) -> Permission {
        Permission::given(self.consent.max(Consent::Wipe), "the permission this installation was begun with")
    }

    /// The packages, if they are those that this plan needs, with the signed lock they were taken from.
    ///
    /// # Errors
    /// They are not, or not those of the signed lock.
    pub fn choice(
        &self,
        key: &PublicKey,
        resolved: &Resolved,
        plan: &Plan,
        firmware: FirmwareKind,
    ) -> Result<(Choice, Option<SignedLock>)> {
        let again = "connect this computer to the network, so that they can be chosen again";
        let request = target::request(resolved, plan, firmware);
        if request != self.request {
            let message = "the disks or the firmware of this computer now need other packages than those that were chosen";
            return Err(Issue::new("other-packages", "", message, again).into());
        }
        let signed = self.signed_lock(key)?;
        let vouched = match &signed {
            Some(signed) => {
                let of_site = signed.lock.of_site(&resolved.site);
                let lock =
                    of_site.and_then(|()| signed.lock.select(&resolved.profile, &resolved.archive, &request));
                lock.is_ok_and(|lock| self.choice == lock.into())
            }
            None => resolved.lock != LockUse::Required,
        };
        if !vouched {
            let message = "the packages that were noted for going on are not those of the signed lock of this computer's profile";
            return Err(Issue::new("record-altered", PATH, message, again).into());
        }
        Ok((self.choice.clone(), signed))
    }

    /// The packages that were chosen.
    pub fn lock(&self) -> &Lock {
        &self.choice.lock
    }

    /// The signed profile.
    pub fn into_profile(self) -> Envelope {
        self.profile
    }

    /// The name of the profile.
    pub fn profile(&self, key: &PublicKey) -> Option<String> {
        self.profile.open::<Bundle>(key).ok().map(|bundle| bundle.name)
    }

    /// The signed lock they were taken from.
    ///
    /// # Errors
    /// It was not signed by this key, or is odd.
    pub fn signed_lock(&self, key: &PublicKey) -> Result<Option<SignedLock>> {
        let read = |envelope| -> Result<_> {
            let text = serde_json::to_vec(envelope).context("copying the signed lock")?;
            read_lock(&text, key, PATH)
        };
        self.signed_lock.as_ref().map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use akene_protocol::event::Phase;
    use akene_protocol::lock::{ArchiveSettings, PinnedPackage, ProfileLock, Selection};
    use akene_protocol::profile::Distribution;
    use akene_protocol::profile::{Apt, Layer};
    use akene_protocol::{AssetNumber, Bytes, MachineId, Secret, Sha256};
    use ed25519_dalek::SigningKey;

    use super::*;

    fn machine(serial: Option<&str>) -> Inventory {
        let text = include_str!("../../../tests/golden/akene-power-cut-while-installing/inventory.json");
        let mut found: Inventory = serde_json::from_str(text).unwrap();
        found.disks.truncate(1);
        found.disks[0].wwn = None;
        found.disks[0].serial = serial.map(str::to_owned);
        found
    }

    fn resume(key: &SigningKey, consent: Consent) -> Resume {
        let profile = Layer { apt: Some(Apt::default()), ..Layer::default() };
        let bundle =
            Bundle { site: "s".into(), name: "p".into(), revision: "1".into(), classes: vec![], profile };
        Resume {
            version: VERSION,
            run: RunId([1; 8]),
            identity: Identity {
                machine: MachineId([1; 16]),
                asset: AssetNumber::new(7),
                credential: Secret::new("credential"),
            },
            profile: Envelope::sign(&bundle, key),
            consent,
            inventory: machine(Some("S1")),
            request: Request { packages: vec![], optional: vec![], recommends: false },
            firmware: FirmwareKind::Bios,
            choice: Choice { lock: Lock::default(), requested: vec![] },
            signed_lock: None,
            sender: None,
            people: People::default(),
        }
    }

    #[test]
    fn what_was_permitted_counts_on_the_same_disks_and_with_the_sites_key_alone() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = PublicKey(key.verifying_key());
        let resume = resume(&key, Consent::Wipe);
        let orders = resume.orders(&public, &machine(Some("S1"))).unwrap();
        assert_eq!(orders.permission.unwrap().consent(), Consent::Wipe);
        for other in [Some("S2"), None] {
            let refused = resume.orders(&public, &machine(other)).unwrap().permission.unwrap_err();
            assert_eq!(refused.code, "other-disks");
        }
        let mut one_more = machine(Some("S1"));
        one_more.disks.extend(machine(Some("S2")).disks);
        assert!(resume.orders(&public, &one_more).unwrap().permission.is_err());
        let stranger = PublicKey(SigningKey::from_bytes(&[8; 32]).verifying_key());
        assert!(resume.orders(&stranger, &machine(Some("S1"))).is_err());
    }

    #[test]
    fn packages_are_those_of_the_signed_lock_where_there_is_one() {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let key = PublicKey(signing.verifying_key());
        let mut resume = resume(&signing, Consent::Wipe);
        let resolved = |lock| {
            let (distribution, suite) = (Some(Distribution::Debian), Some("trixie".into()));
            let apt = Apt { distribution, suite, lock: Some(lock), ..Apt::default() };
            let profile = Layer { apt: Some(apt), ..Layer::default() };
            let (site, name, revision) = ("s".into(), "p".into(), "1".into());
            let bundle = Bundle { site, name, revision, classes: vec![], profile };
            akene_protocol::resolve::resolve(&bundle, &machine(Some("S1")), None).unwrap()
        };
        let wanted = resolved(LockUse::Preferred);
        let plan = akene_planner::plan_within(&wanted.storage, &machine(Some("S1")), Consent::Wipe).unwrap();
        resume.request = target::request(&wanted, &plan, FirmwareKind::Bios);
        let package = PinnedPackage {
            name: "a".into(),
            version: "1".into(),
            architecture: "all".into(),
            size: Bytes(1),
            sha256: Sha256::of(b"a"),
            release: None,
            path: String::new(),
        };
        let lock = ProfileLock {
            version: akene_protocol::lock::SIGNED_VERSION,
            site: "s".into(),
            profile: "p".into(),
            revision: "1".into(),
            architecture: "amd64".into(),
            releases: vec![],
            archives: vec![ArchiveSettings::of(&wanted.archive)],
            packages: vec![package],
            selections: vec![Selection {
                request: resume.request.clone(),
                archive: 0,
                absent: vec![],
                packages: vec![(0, 1)],
                base: vec![(0, 1)],
            }],
        };
        let right: Choice = lock.select("p", &wanted.archive, &resume.request).unwrap().into();
        let choice = |resume: &Resume, resolved: &Resolved| {
            let chosen = resume.choice(&key, resolved, &plan, FirmwareKind::Bios);
            chosen.map(|(choice, signed)| (choice, signed.is_some())).map_err(|e| super::super::issues_of(&e))
        };
        let code =
            |resume: &Resume, resolved: &Resolved| choice(resume, resolved).unwrap_err()[0].code.clone();
        resume.choice = right.clone();
        resume.signed_lock = Some(Envelope::sign(&lock, &signing));
        assert_eq!(choice(&resume, &wanted).unwrap(), (right.clone(), true));
        // Somebody had the disk in their hands.
        resume.choice.lock.packages[0].sha256 = Sha256::of(b"evil");
        assert_eq!(code(&resume, &wanted), "record-altered");
        resume.choice.lock.packages.clear();
        assert_eq!(code(&resume, &wanted), "record-altered");
        resume.choice = right.clone();
        resume.signed_lock = Some(Envelope::sign(&lock, &SigningKey::from_bytes(&[8; 32])));
        assert_eq!(code(&resume, &wanted), "signature-wrong");
        // A record without a lock is as good as the boot partition, which is not good enough for every site.
        resume.signed_lock = None;
        assert_eq!(choice(&resume, &wanted).unwrap(), (right, false));
        assert_eq!(code(&resume, &resolved(LockUse::Required)), "record-altered");
    }

    #[test]
    fn several_unfinished_installations_count_together_and_none_is_gone_on_with() {
        let record =
            |run, what| journal::Record { run: RunId([run; 8]), at: jiff::Timestamp::UNIX_EPOCH, what };
        let begun = |run| record(run, journal::What::Begun { phase: Phase::Commit });
        let resume = || Some(resume(&SigningKey::from_bytes(&[7; 32]), Consent::Wipe));
        let of = |nodes: &[&str], seen| Begun::of(nodes.iter().map(PathBuf::from).collect(), seen);
        let five: Vec<_> = (1..=5).map(begun).collect();
        let one = of(&["/dev/sda3"], vec![(five[..4].to_vec(), resume())]).unwrap();
        assert_eq!((one.attempts, one.is_tired(), one.resume.is_some()), (4, false, true));
        let both = [(five.clone(), resume()), (vec![begun(6)], resume())].to_vec();
        let both = of(&["/dev/sda3", "/dev/sdb3"], both).unwrap();
        assert_eq!((both.attempts, both.is_tired(), both.resume.is_some()), (5, true, false));
        // Of two, one cannot be read: which is meant is still not known.
        let half = of(&["/dev/sda3", "/dev/sdb3"], vec![(vec![begun(6)], resume())]).unwrap();
        assert_eq!((half.is_tired(), half.resume.is_some()), (false, false));
        assert!(of(&[], vec![]).is_none() && of(&["/dev/sda3"], vec![]).is_none());
        // What a person permitted is one attempt.
        let again = [five, vec![record(7, journal::What::Permitted), begun(7)]].concat();
        assert!(!of(&["/dev/sda3"], vec![(again[..6].to_vec(), None)]).unwrap().is_tired());
        assert!(of(&["/dev/sda3"], vec![(again, None)]).unwrap().is_tired());
    }

    #[test]
    fn a_record_is_read_back_whole_or_not_at_all() {
        let boot = tempfile::tempdir().unwrap();
        fs::create_dir(boot.path().join("akene")).unwrap();
        assert!(read(boot.path()).is_err());
        let resume = resume(&SigningKey::from_bytes(&[7; 32]), Consent::Streamed);
        let text = serde_json::to_vec(&resume).unwrap();
        fs::write(boot.path().join(PATH), &text).unwrap();
        let back = read(boot.path()).unwrap();
        assert_eq!((back.run, back.permission().consent()), (resume.run, Consent::Streamed));
        fs::write(boot.path().join(PATH), &text[..text.len() - 1]).unwrap();
        assert!(read(boot.path()).is_err());
        remove(boot.path()).unwrap();
        remove(boot.path()).unwrap();
    }
}
