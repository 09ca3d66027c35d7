//! The parts of an inventory that tell one machine from another.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use akene_protocol::Inventory;
use akene_protocol::inventory::Bus;

use super::garbage::{canonical_uuid, is_garbage_mac, is_garbage_serial};

/// What a value is. The first four are one witness, the board: a Dell UUID, for one, is made from the
/// serial number, so that they do not testify independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// UUID of the system, both byte orders as one.
    Uuid,
    /// Serial number of the system.
    System,
    /// Serial number of the main board.
    Board,
    /// Serial number of the chassis.
    Chassis,
    /// Burnt-in address of a network card that is not on USB.
    Nic,
    /// Serial number of a disk that is not on USB.
    Disk,
    /// World-wide name of such a disk.
    Wwn,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Uuid, Kind::System, Kind::Board, Kind::Chassis, Kind::Nic, Kind::Disk, Kind::Wwn];

    /// Name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Uuid => "uuid",
            Kind::System => "system",
            Kind::Board => "board",
            Kind::Chassis => "chassis",
            Kind::Nic => "nic",
            Kind::Disk => "disk",
            Kind::Wwn => "wwn",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Kind::ALL
            .into_iter()
            .find(|k| k.name() == text)
            .ok_or_else(|| format!("`{text}` is no kind of evidence"))
    }
}

/// One value that tells a machine from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Evidence {
    /// What it is.
    pub kind: Kind,
    /// The value, normalised.
    pub value: String,
}

/// Longest value kept: an inventory comes from outside.
const MAX_VALUE: usize = 128;

/// The evidence in an inventory, without garbage.
pub fn evidence(inventory: &Inventory) -> BTreeSet<Evidence> {
    let mut found = BTreeSet::new();
    let mut add = |kind, value: Option<String>| {
        if let Some(value) = value.filter(|v| v.len() <= MAX_VALUE) {
            found.insert(Evidence { kind, value });
        }
    };
    let dmi = &inventory.dmi;
    // Vendors and models turn up as serial numbers of sloppily programmed boards.
    let names: Vec<String> = [&dmi.system_vendor, &dmi.product_name, &dmi.board_vendor, &dmi.board_name]
        .into_iter()
        .flatten()
        .map(|n| normal(n))
        .collect();
    let serial = |text: &Option<String>| {
        let text = normal(text.as_deref()?);
        (!is_garbage_serial(&text) && !names.contains(&text)).then_some(text)
    };
    add(Kind::Uuid, dmi.product_uuid.as_deref().and_then(canonical_uuid));
    add(Kind::System, serial(&dmi.product_serial));
    add(Kind::Board, serial(&dmi.board_serial));
    add(Kind::Chassis, serial(&dmi.chassis_serial));
    for nic in inventory.nics.iter().filter(|n| n.bus.as_deref() != Some("usb")) {
        add(Kind::Nic, nic.mac.as_ref().map(|m| m.trim().to_lowercase()).filter(|m| !is_garbage_mac(m)));
    }
    let fixed = |bus| !matches!(bus, Bus::Usb | Bus::Firewire | Bus::Sd | Bus::Loop);
    for disk in inventory.disks.iter().filter(|d| fixed(d.bus) && !d.removable && !d.live_medium) {
        add(Kind::Disk, serial(&disk.serial));
        add(Kind::Wwn, disk.wwn.as_deref().map(normal).filter(|w| !is_garbage_serial(w)));
    }
    found
}

fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_uppercase()
}
