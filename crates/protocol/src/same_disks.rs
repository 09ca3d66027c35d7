//! Whether an installation that broke off may go on: the machine must have exactly the disks it was begun on.
//!
//! Server and agent ask the same: the server when the machine asks again, the agent when nobody can be asked.

use crate::api::Consent;
use crate::inventory::{Disk, Inventory};

/// Whether the machine has exactly disks that the broken-off run had, was permitted to destroy, and that
/// can be told from others. One disk too many, or one without a number of its own, and it is no: then
/// a person has to look.
pub fn to_go_on(then: &Inventory, consent: Consent, now: &Inventory) -> bool {
    let usable = |disk: &&Disk| !disk.removable && !disk.read_only && !disk.live_medium;
    let mut disks = now.disks.iter().filter(usable).peekable();
    let known = |disk: &Disk| {
        then.disks.iter().filter(usable).any(|old| {
            let marked = disk.wwn.is_some() || disk.serial.is_some();
            let same = (&old.wwn, &old.serial, old.size) == (&disk.wwn, &disk.serial, disk.size);
            marked && same && (consent >= Consent::Wipe || (consent == Consent::Blank && old.is_blank()))
        })
    };
    disks.peek().is_some() && disks.all(known)
}
