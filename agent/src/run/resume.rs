//! Going on with an installation that broke off, from what lies on the machine alone.
//!
//! From the moment disks are changed until the system stands, [`PATH`] on the boot partition holds everything that was
//! decided: who the machine is, the signed profile, the permission, the exact packages. With the packages on the disks too (see
//! [`super::stage`]) the installer needs neither the server nor an archive to end what it began. It asks them first; only when
//! nobody answers for a while does it go on by itself ([`super::live`]).
//!
//! What is permitted is what was permitted: the record counts only on a machine with exactly the disks it was made on
//! ([`akene_protocol::same_disks`]), with a profile that the key of this medium's stamp signed.

use std::fs;
use std::path::{Path, PathBuf};

use akene_planner::Plan;
use akene_protocol::api::{Consent, Identity};
use akene_protocol::inventory::{FirmwareKind, Inventory, LooksLike};
use akene_protocol::lock::{Lock, LockedPackage, Request};
use akene_protocol::{Bundle, Envelope, Issue, PublicKey, Resolved, RunId, same_disks};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Record, boot_files, json, stage};
use crate::fetch::{Orders, Permission, known};
use crate::journal;
use crate::probe::disk::partition_path;
use crate::target::{self, Choice};

/// The record, below the boot partition.
pub const PATH: &str = "akene/resume.json";

/// Version of the record.
const VERSION: u32 = 1;

/// A larger record is none of ours: a profile may carry files, a lock names a few thousand packages.
const LARGEST: u64 = 64 << 20;

/// How often an installation may be begun before a person has to look.
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
}

/// Writes the record of a run, before it changes a disk. A profile that nobody signed cannot be trusted later: then there
/// is no record, and none of an earlier run either.
pub fn save(
    boot: &Path,
    record: &Record<'_>,
    run: RunId,
    firmware: FirmwareKind,
    choice: &Choice,
    signed_lock: Option<&Envelope>,
) -> Result<()> {
    let Some(profile) = &record.orders.envelope else { return remove(boot) };
    let resume = Resume {
        version: VERSION,
        run,
        identity: record.identity.clone(),
        profile: profile.clone(),
        consent: record.consent,
        inventory: record.inventory.clone(),
        request: target::request(record.resolved, record.plan, firmware),
        firmware,
        choice: choice.clone(),
        signed_lock: signed_lock.cloned(),
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
    /// The node of the boot partition.
    pub device: PathBuf,
    /// How often it was begun.
    pub attempts: usize,
    /// What is needed to go on, if it is all written there.
    pub resume: Option<Resume>,
}

/// Looks for an installation that was begun and never completed. Nothing is written. Where several boot partitions say
/// so, nobody knows which is meant, and it is none.
pub fn find(inventory: &Inventory) -> Option<Begun> {
    let disks = inventory.disks.iter().filter(|d| !d.removable && !d.live_medium);
    let mut found = disks.flat_map(|disk| {
        let partitions = disk.table.iter().flat_map(|t| &t.partitions);
        let unfinished = |p: &&akene_protocol::inventory::Partition| {
            let looks = p.content.as_ref().and_then(|c| c.looks_like.as_ref());
            looks == Some(&LooksLike::AkeneBoot { unfinished: true })
        };
        partitions.filter(unfinished).map(|p| partition_path(Path::new(&disk.path), p.number))
    });
    let (device, None) = (found.next()?, found.next()) else { return None };
    let look = known::look(&device, |top| {
        let attempts = journal::attempts(&journal::read(top)?);
        Ok((attempts, read(top).ok()))
    });
    let (attempts, resume) = look.ok()?;
    Some(Begun { device, attempts, resume })
}

impl Begun {
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

    /// The packages, if they are those that this plan needs.
    ///
    /// # Errors
    /// An issue: they are not.
    pub fn choice(&self, resolved: &Resolved, plan: &Plan, firmware: FirmwareKind) -> Result<Choice, Issue> {
        match target::request(resolved, plan, firmware) == self.request {
            true => Ok(self.choice.clone()),
            false => Err(Issue::new(
                "other-packages",
                "",
                "the disks or the firmware of this computer now need other packages than those that were chosen",
                "connect this computer to the network, so that they can be chosen again",
            )),
        }
    }

    /// The packages that were chosen.
    pub fn lock(&self) -> &Lock {
        &self.choice.lock
    }

    /// The signed lock they were taken from.
    pub fn signed_lock(&self) -> Option<&Envelope> {
        self.signed_lock.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use akene_protocol::profile::{Apt, Layer};
    use akene_protocol::{AssetNumber, MachineId, Secret};
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
            request: Request { packages: vec![], optional: vec![], helpers: vec![], recommends: false },
            firmware: FirmwareKind::Bios,
            choice: Choice { lock: Lock::default(), requested: vec![] },
            signed_lock: None,
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
