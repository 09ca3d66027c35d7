//! What could be done with one disk, and which of several proposals is best.

use std::cmp::Ordering;

use akene_protocol::inventory::{Bus, Disk, Health};

use crate::fill::Part;
use crate::{Destroyed, DiskPlan, DiskRef};

/// A plan for one disk, with what it is judged by.
#[derive(Clone, Debug)]
pub(crate) struct Proposal<'a> {
    pub disk: &'a Disk,
    pub plan: DiskPlan,
    /// An Akène machine's disk whose people's files stay.
    pub reinstall: bool,
    /// For each optional volume, the most important first, whether it is left out.
    pub dropped: Vec<bool>,
    pub all_enough: bool,
    /// How far the volumes are on their way to enough, the worst off first.
    pub fairness: Vec<Part>,
    pub destroys: Vec<Destroyed>,
    pub notes: Vec<String>,
}

impl Proposal<'_> {
    /// Orders by what matters most first; the best is the least.
    ///
    /// 1. A disk whose people's files are kept.
    /// 2. The fewest and least important volumes left out.
    /// 3. Not on a worn disk: the risk of losing files weighs more than room.
    /// 4. Everybody has enough.
    /// 5. Nothing is destroyed.
    /// 6. The fairest shares.
    /// 7. The quickest medium, the best known health, the larger disk.
    /// 8. Serial number, then name, so that the same machine always gets the same table.
    pub(crate) fn rank(&self, other: &Proposal<'_>) -> Ordering {
        let first = |p: &Proposal<'_>| {
            (
                !p.reinstall,
                p.dropped.clone(),
                p.disk.health >= Health::Worn,
                !p.all_enough,
                !p.destroys.is_empty(),
            )
        };
        let last = |p: &Proposal<'_>| {
            let size = std::cmp::Reverse(p.disk.size);
            (latency(p.disk), p.disk.health, size, p.disk.serial.clone(), p.disk.name.clone())
        };
        first(self)
            .cmp(&first(other))
            .then_with(|| other.fairness.cmp(&self.fairness))
            .then_with(|| last(self).cmp(&last(other)))
    }
}

/// Class of a medium by how quickly it answers: 0 is the quickest.
fn latency(disk: &Disk) -> u8 {
    match (disk.bus, disk.rotational) {
        (Bus::Nvme, _) => 0,
        (Bus::Usb | Bus::Sd | Bus::Firewire, _) => 5,
        (Bus::Emmc, _) => 2,
        (_, Some(false)) => 1,
        (_, None) => 3,
        (_, Some(true)) => 4,
    }
}

/// What a disk is found again by.
pub(crate) fn disk_ref(disk: &Disk) -> DiskRef {
    DiskRef {
        name: disk.name.clone(),
        path: disk.path.clone(),
        by_id: disk.by_id.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        size: disk.size,
        table_hash: disk.table.as_ref().map(|t| t.hash),
    }
}
