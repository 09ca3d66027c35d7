//! What the machines of a profile can ask for.

use std::collections::BTreeSet;

use akene_protocol::Bytes;
use akene_protocol::Inventory;
use akene_protocol::inventory::{FirmwareKind, Memory};
use akene_protocol::issue::Issues;
use akene_protocol::lock::{ArchiveSettings, Planned, Request};
use akene_protocol::profile::{Bundle, Filesystem};
use akene_protocol::resolve::{Archive, Resolved, StorageWishes, resolve};
use akene_protocol::rule::outcomes;

/// Most combinations of facts that are tried for the rules of a profile.
const MOST_FACTS: usize = 200_000;

/// Most combinations of classes packages are chosen for. A profile with more is locked for the machines that are
/// known, and with all its conditional classes and none.
const MOST_OUTCOMES: usize = 24;

/// One request, and for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// The archives it is put to.
    pub archive: Archive,
    /// What is asked.
    pub request: Request,
    /// The kind of machine, for people: "uefi64, with desktop-light, xfs".
    pub what: String,
}

/// What the machines of a profile can ask for.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    /// Each different request once.
    pub list: Vec<Variant>,
    /// Kinds of machines for which the profile itself does not resolve, and why.
    pub unresolved: Vec<(String, Issues)>,
    /// Whether there were too many combinations of classes to foresee them all.
    pub incomplete: bool,
}

/// Foresees what the machines of a profile can ask for: every firmware, every set of classes that rules can choose,
/// every filesystem that has to be looked after, and every machine of the fleet as it is.
pub fn variants(bundle: &Bundle, fleet: &[Inventory]) -> Variants {
    let mut found = Variants::default();
    let rules: Vec<_> = bundle.classes.iter().filter_map(|(_, class)| class.when.as_ref()).collect();
    for firmware in [FirmwareKind::Bios, FirmwareKind::Uefi64, FirmwareKind::Uefi32] {
        let possible = outcomes(&rules, firmware, MOST_FACTS).filter(|sets| sets.len() <= MOST_OUTCOMES);
        let possible = possible.unwrap_or_else(|| {
            found.incomplete = true;
            [vec![false; rules.len()], vec![true; rules.len()]].into()
        });
        for outcome in possible {
            let machine =
                Inventory { memory: Memory { total: Bytes::gib(4) }, ..Inventory::unknown(firmware) };
            found.take(&chosen(bundle, &outcome), &machine, firmware, "");
        }
    }
    for inventory in fleet {
        found.take(bundle, inventory, inventory.firmware.kind, "a machine of the fleet: ");
    }
    found.list.sort_by(|a, b| (&a.request, key(&a.archive)).cmp(&(&b.request, key(&b.archive))));
    found
}

/// The profile with the conditional classes that count.
fn chosen(bundle: &Bundle, outcome: &[bool]) -> Bundle {
    let mut outcome = outcome.iter();
    let mut bundle = bundle.clone();
    bundle.classes.retain_mut(|(name, class)| {
        let counts = class.when.take().is_none() || outcome.next() == Some(&true);
        if !counts {
            bundle.profile.classes.retain(|listed| listed != name);
        }
        counts
    });
    bundle
}

fn key(archive: &Archive) -> String {
    serde_json::to_string(&ArchiveSettings::of(archive)).unwrap_or_default()
}

impl Variants {
    fn take(&mut self, bundle: &Bundle, machine: &Inventory, firmware: FirmwareKind, whose: &str) {
        let resolved = match resolve(bundle, machine, None) {
            Ok(resolved) => resolved,
            Err(issues) => {
                if self.unresolved.iter().all(|(_, known)| *known != issues) {
                    self.unresolved.push((format!("{whose}{}", name(firmware)), issues));
                }
                return;
            }
        };
        for planned in plans(&resolved.storage) {
            let request = Request::new(&resolved, &planned, firmware);
            let archive = resolved.archive.clone();
            let settings = ArchiveSettings::of(&archive);
            let known = |v: &Variant| v.request == request && ArchiveSettings::of(&v.archive) == settings;
            if !self.list.iter().any(known) {
                let what = format!("{whose}{}", describe(&resolved, &planned, firmware));
                self.list.push(Variant { archive, request, what });
            }
        }
    }
}

/// What plans for these wishes can need: what is kept may have any filesystem we make.
fn plans(wishes: &StorageWishes) -> Vec<Planned> {
    let root = wishes.volumes.iter().find(|v| v.name == "root").map(|v| v.filesystem);
    let may = |filesystem| wishes.keep_homes || wishes.volumes.iter().any(|v| v.filesystem == filesystem);
    let choices = |filesystem| match (root == Some(filesystem), may(filesystem)) {
        // An old root around whose people's files the new system is put keeps its filesystem.
        (true, _) if wishes.keep_homes => vec![false, true],
        (true, _) => vec![true],
        (false, true) => vec![false, true],
        (false, false) => vec![false],
    };
    let groups = wishes.keep_homes || wishes.volumes.iter().any(|v| v.span);
    let mut plans = Vec::new();
    for xfs in choices(Filesystem::Xfs) {
        for btrfs in choices(Filesystem::Btrfs) {
            for groups in [false, true].into_iter().filter(|with| !with || groups) {
                let mut filesystems = BTreeSet::from([Filesystem::Ext4, Filesystem::Vfat]);
                filesystems.extend(xfs.then_some(Filesystem::Xfs));
                filesystems.extend(btrfs.then_some(Filesystem::Btrfs));
                plans.push(Planned { filesystems, groups });
            }
        }
    }
    plans
}

fn name(firmware: FirmwareKind) -> &'static str {
    match firmware {
        FirmwareKind::Bios => "bios",
        FirmwareKind::Uefi64 => "uefi64",
        FirmwareKind::Uefi32 => "uefi32",
    }
}

fn describe(resolved: &Resolved, planned: &Planned, firmware: FirmwareKind) -> String {
    let mut words = vec![name(firmware).to_owned()];
    if !resolved.classes.is_empty() {
        words.push(format!("classes {}", resolved.classes.join(", ")));
    }
    let special = [Filesystem::Xfs, Filesystem::Btrfs];
    words.extend(special.iter().filter(|f| planned.filesystems.contains(f)).map(|f| f.name().to_owned()));
    words.extend(planned.groups.then(|| "a volume group".to_owned()));
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_protocol::profile::parse_layer;

    /// Filesystems beside ext4 and vfat that are foreseen for a root like this.
    fn foreseen(root: &str, keep_homes: bool) -> BTreeSet<Vec<&'static str>> {
        let text = format!(
            "[apt]\ndistribution = \"debian\"\nsuite = \"trixie\"\n[storage]\nkeep-homes = {keep_homes}\n\
             [storage.volumes.root]\nfilesystem = \"{root}\"\n"
        );
        let profile = parse_layer(&text, "desk.toml").unwrap();
        let bundle =
            Bundle { site: "s".into(), name: "desk".into(), revision: "0".into(), classes: vec![], profile };
        let found = variants(&bundle, &[]);
        assert!(found.unresolved.is_empty(), "{:?}", found.unresolved);
        let tools = [("xfsprogs", "xfs"), ("btrfs-progs", "btrfs")];
        let of = |v: &Variant| -> Vec<&'static str> {
            let has = |package: &str| v.request.packages.iter().any(|p| p == package);
            tools.iter().filter(|(package, _)| has(package)).map(|(_, name)| *name).collect()
        };
        found.list.iter().map(of).collect()
    }

    #[test]
    fn an_old_root_that_stays_around_its_homes_may_have_another_filesystem_than_the_profile_wishes() {
        for root in ["xfs", "btrfs"] {
            let all = BTreeSet::from([vec![], vec!["xfs"], vec!["btrfs"], vec!["xfs", "btrfs"]]);
            assert_eq!(foreseen(root, true), all, "{root}");
            assert_eq!(foreseen(root, false), BTreeSet::from([vec![root]]), "{root}");
        }
        assert_eq!(foreseen("ext4", false), BTreeSet::from([vec![]]));
    }
}
