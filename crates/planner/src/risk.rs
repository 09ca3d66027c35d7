//! How likely a disk is to die, and how quick it is: what volumes are kept away from, and drawn to.
//!
//! The probabilities are of losing a disk within a year. Published yearly failure rates of disks in
//! service are 1 to 2 %; a donated disk is older than those, and one whose state nobody can read is worse. They are
//! stated in plans, and only their order of magnitude decides anything.

use akene_protocol::inventory::{Bus, Disk, Health};

/// Certainty, in parts per million.
const ONE: u64 = 1_000_000;

/// What may be borne for people's files and for the system, per year.
pub const BEARABLE: u32 = 100_000;

/// What is chosen only when there is nothing better; beyond it there is only the hope that it holds.
const GRAVE: u32 = 250_000;

/// Probability that a disk is lost within a year, in parts per million.
pub fn yearly(health: Health) -> u32 {
    match health {
        Health::Good => 30_000,
        Health::Unknown => 50_000,
        Health::Worn => 150_000,
        Health::Failing => 500_000,
    }
}

/// Probability that at least one of several disks is lost.
pub fn any(disks: impl Iterator<Item = Health>) -> u32 {
    let survive = disks.fold(ONE, |all, health| all * (ONE - u64::from(yearly(health))) / ONE);
    (ONE - survive) as u32
}

/// Classes of risk: 0 can be borne, 1 is grave, 2 is worse.
pub fn band(loss: u32) -> u8 {
    u8::from(loss > BEARABLE) + u8::from(loss > GRAVE)
}

/// As a person reads it: `9.8 %`.
pub fn percent(loss: u32) -> String {
    format!("{}.{} %", loss / 10_000, loss / 1_000 % 10)
}

/// Class of a medium by how quickly it answers: 0 is the quickest, [`SLOWEST`] the slowest.
pub fn latency(disk: &Disk) -> u8 {
    match (disk.bus, disk.rotational) {
        (Bus::Nvme, _) => 0,
        (Bus::Usb | Bus::Sd | Bus::Firewire, _) => SLOWEST,
        (Bus::Emmc, _) => 2,
        (_, Some(false)) => 1,
        (_, None) => 3,
        (_, Some(true)) => 4,
    }
}

/// What a class of [`latency`] is called.
pub fn medium(class: u8) -> &'static str {
    match class {
        0 => "NVMe",
        1 => "flash",
        2 => "eMMC",
        3 => "a medium of unknown kind",
        4 => "a turning disk",
        _ => "USB, a card or FireWire",
    }
}

/// The last class of [`latency`].
pub const SLOWEST: u8 = 5;
