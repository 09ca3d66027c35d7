//! Which disks may be used at all, and why the others may not.
//!
//! A selector that treats a missing fact as a match selects every disk; here a disk that lacks the
//! fact does not fit, and a selector that names nothing is an error.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Disk, Health, Inventory, TableKind};
use akene_protocol::issue::{Issue, Issues};
use akene_protocol::profile::DiskSelector;
use akene_protocol::resolve::StorageWishes;
use akene_protocol::rule::glob;

use crate::decide::MOST_DISKS;

/// Why a disk is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excluded {
    /// Kernel name.
    pub disk: String,
    /// Stable code of the reason.
    pub code: &'static str,
    /// The reason, continuing a sentence that begins with the disk: "is failing".
    pub why: String,
    /// What would let it be used.
    pub next: String,
}

impl Excluded {
    fn new(disk: &Disk, code: &'static str, why: impl Into<String>, next: &str) -> Self {
        Excluded { disk: disk.name.clone(), code, why: why.into(), next: next.to_owned() }
    }

    /// A disk with people's files that cannot be kept in a new system.
    pub(crate) fn files(disk: &Disk, what: String) -> Self {
        let next =
            "copy the files away and clear the disk with `wipefs -a`, or set `storage.keep-homes = false`";
        Excluded::new(disk, "disk-holds-files", format!("holds {what}"), next)
    }

    /// A disk more than can be looked at.
    pub(crate) fn beyond(disk: &Disk) -> Self {
        let why = format!("is one of more than {MOST_DISKS} disks");
        Excluded::new(disk, "too-many-disks", why, "choose with `storage.disks` which ones are used")
    }

    pub(crate) fn issue(&self) -> Issue {
        Issue::new(self.code, &self.disk, format!("{} is not used: it {}", self.disk, self.why), &self.next)
    }
}

/// The disks that may be used, and the others with the reason for each.
pub(crate) struct Candidates<'a> {
    pub usable: Vec<&'a Disk>,
    pub excluded: Vec<Excluded>,
}

/// Sorts the machine's disks into usable ones and others.
///
/// # Errors
/// When no disk may be used: why, for the machine and for each disk.
pub(crate) fn candidates<'a>(
    wishes: &StorageWishes,
    inventory: &'a Inventory,
) -> Result<Candidates<'a>, Issues> {
    let mut found = Candidates { usable: Vec::new(), excluded: Vec::new() };
    for disk in &inventory.disks {
        match exclusion(disk, wishes, inventory) {
            Some(reason) => found.excluded.push(reason),
            None => found.usable.push(disk),
        }
    }
    if found.usable.is_empty() { Err(none_usable(wishes, inventory, &found.excluded)) } else { Ok(found) }
}

/// What the probe found wrong with a disk: "214 reallocated sectors".
fn findings<'a>(disk: &Disk, inventory: &'a Inventory) -> Option<&'a str> {
    let note = inventory.notes.iter().find(|n| n.code == "disk-failing" && n.path == disk.name)?;
    note.message.split_once(" is failing: ").map(|(_, why)| why)
}

fn exclusion(disk: &Disk, wishes: &StorageWishes, inventory: &Inventory) -> Option<Excluded> {
    let no = |code, why: String, next: &str| Some(Excluded::new(disk, code, why, next));
    if disk.live_medium {
        let why = "is the medium this installer was started from".into();
        return no(
            "disk-live-medium",
            why,
            "start the installer from another medium to install onto this one",
        );
    }
    if disk.size == Bytes(0) {
        return no("disk-empty-slot", "has no medium in it".into(), "put one in");
    }
    if let Some(why) = wishes.disks.as_ref().and_then(|selector| mismatch(selector, disk)) {
        return no("disk-not-selected", why, "change `storage.disks` in the profile");
    }
    let removable_wanted = wishes.disks.as_ref().and_then(|s| s.removable).unwrap_or(false);
    if disk.removable && !removable_wanted {
        let next = "install onto a fixed disk, or set `storage.disks.removable = true` in the profile";
        return no("disk-removable", "is removable".into(), next);
    }
    if disk.read_only {
        let next = "look for a write-protection switch, or replace the disk";
        return no("disk-read-only", "refuses to be written".into(), next);
    }
    if disk.health == Health::Failing {
        let why = findings(disk, inventory).map(|why| format!(": {why}")).unwrap_or_default();
        return no("disk-failing", format!("is failing{why}"), "save what is on it and replace it");
    }
    let sector = u64::from(disk.logical_sector);
    if !matches!(sector, 512 | 4096) {
        let why = format!("has sectors of {sector} bytes");
        return no("disk-sector-size", why, "only sectors of 512 and 4096 bytes can be used");
    }
    // An MBR counts sectors in 32 bits.
    let reach = Bytes(sector << 32);
    if wishes.table == TableKind::Mbr && disk.size > reach {
        let why = format!("has {}, more than the {reach} an MBR can address", disk.size);
        return no("disk-too-large-for-mbr", why, "set `storage.table = \"gpt\"`; a BIOS can start it too");
    }
    None
}

/// Why a disk does not fit a selector. `None`: it fits.
fn mismatch(selector: &DiskSelector, disk: &Disk) -> Option<String> {
    let fold = |text: &str| text.to_lowercase();
    let text = |what: &str, pattern: &Option<String>, found: &Option<String>| {
        let pattern = pattern.as_ref()?;
        match found {
            Some(found) if glob(&fold(pattern), &fold(found)) => None,
            Some(found) => Some(format!("has the {what} `{found}`, not `{pattern}`")),
            None => Some(format!("does not tell its {what}, and `{pattern}` is asked for")),
        }
    };
    let by_path = |pattern: &String| {
        let link = disk.by_id.as_deref();
        let names = [Some(disk.path.as_str()), link, link.and_then(|l| l.rsplit('/').next())];
        let fits = names.into_iter().flatten().any(|name| glob(pattern, name));
        (!fits).then(|| format!("is not `{pattern}`"))
    };
    text("serial number", &selector.serial, &disk.serial)
        .or_else(|| text("model", &selector.model, &disk.model))
        .or_else(|| selector.path.as_ref().and_then(by_path))
        .or_else(|| {
            let min = selector.min_size.filter(|min| disk.size < *min)?;
            Some(format!("has {}, and at least {min} are asked for", disk.size))
        })
        .or_else(|| {
            let max = selector.max_size.filter(|max| disk.size > *max)?;
            Some(format!("has {}, and at most {max} are asked for", disk.size))
        })
}

fn none_usable(wishes: &StorageWishes, inventory: &Inventory, excluded: &[Excluded]) -> Issues {
    // The medium we run from is no disk of the machine.
    let own: Vec<&Excluded> =
        excluded.iter().filter(|e| !matches!(e.code, "disk-live-medium" | "disk-empty-slot")).collect();
    let all = |code: &str| own.iter().all(|e| e.code == code);
    let first = if own.is_empty() {
        Issue::new(
            "no-disk",
            "",
            "this computer has no disk to install onto",
            "check the disk's cables; in the firmware's settings, switch a RAID or RST mode to AHCI",
        )
    } else if all("disk-removable") {
        Issue::new(
            "only-removable-disks",
            "",
            "this computer has only removable disks, and those are never used unasked",
            "check the cables of the fixed disk, or allow it with `storage.disks.removable = true`",
        )
    } else if wishes.disks.is_some() && own.iter().any(|e| e.code == "disk-not-selected") {
        Issue::new(
            "disk-selector",
            "storage.disks",
            match inventory.disks.len() {
                1 => "the only disk of this computer is not the one asked for".into(),
                n => format!("none of the {n} disks of this computer is the one asked for"),
            },
            "correct the selector, or leave it out so that every fixed disk may be used",
        )
    } else {
        Issue::new(
            "no-usable-disk",
            "",
            "no disk of this computer can be used",
            "see what is said about each disk",
        )
    };
    Issues(std::iter::once(first).chain(excluded.iter().map(Excluded::issue)).collect())
}
