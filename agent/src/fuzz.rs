//! Doors for the fuzz targets (`fuzz/`): readers of bytes from outside that only their own rooms call.
//!
//! Each takes what comes from outside and gives back something a target can check, or nothing.

use std::net::IpAddr;
use std::path::Path;

use akene_exec::Runner;
use akene_protocol::inventory::{Content, Display, Health};
use anyhow::Result;
use jiff::Timestamp;

use crate::net::card::Card;
use crate::net::{advert, bring_up, clock, dhcp};
use crate::probe::{content, display, health, lvm, udev};
use crate::report::spool;
use crate::target::firmware;
use crate::{journal, net};

/// What the DHCP client was told, and what of it is kept.
pub fn lease(env: &dyn Fn(&str) -> Option<String>) -> Result<net::dhcp::Lease> {
    dhcp::Lease::from_env("eth0", env)
}

/// Name servers in router advertisements, as the kernel passes them on.
pub fn advertised(messages: &[u8]) -> Vec<IpAddr> {
    advert::name_servers(messages).into_iter().map(IpAddr::from).collect()
}

/// Addresses in what `ip -j addr` prints.
pub fn addresses(json: &[u8]) -> Vec<(String, IpAddr)> {
    let card = Card { name: "eth0".into(), mac: "52:54:00:12:34:56".into(), wireless: false };
    bring_up::parse_addresses(json, &[card])
}

/// A time server's answer.
pub fn time_answer(packet: &[u8], nonce: [u8; 8]) -> Result<Timestamp> {
    clock::parse_answer(packet, nonce)
}

/// What smartctl prints.
pub fn smart(json: &[u8]) -> Health {
    health::read(json).health
}

/// What a screen says of itself.
pub fn edid(block: &[u8]) -> Option<Display> {
    display::parse(block)
}

/// What udev keeps about a device: its serial number and its name in `/dev/disk/by-id`.
pub fn udev(text: &str) -> (Option<String>, Option<String>) {
    let record = udev::Record::parse(text);
    (record.get("ID_SERIAL").map(str::to_owned), record.by_id())
}

/// What blkid exports.
pub fn blkid(text: &str) -> Option<Content> {
    content::parse(text)
}

/// What LVM reports: names of groups, with their volumes and how many pieces of them can be found.
pub fn lvm(runner: &dyn Runner) -> Result<Vec<(String, usize)>> {
    let report = lvm::Report::of(&["/dev/sda1".into()], runner)?;
    let mut seen = Vec::new();
    for group in &report.groups {
        report.members(group);
        for volume in report.volumes(group).into_keys() {
            let pieces = report.places(group, &volume).map_or(0, |places| places.len());
            seen.push((format!("{}/{volume}", group.name), pieces));
        }
    }
    Ok(seen)
}

/// What efibootmgr lists.
pub fn boot_entries(list: &str) -> Result<()> {
    let entry = firmware::Entry {
        label: "debian (akene)",
        disk: Path::new("/dev/sda"),
        partition: 2,
        partuuid: Some("5a0c1f6e-9d9c-5e5b-8a0b-0d8f6a7f1c22"),
        loader: "\\EFI\\debian\\shimx64.efi",
    };
    firmware::check(list, &entry)
}

/// A journal: how many records are intact, and in how many bytes.
pub fn journal(text: &[u8]) -> (usize, usize) {
    let (records, bytes) = journal::parse(text);
    (records.len(), bytes)
}

/// A line of a journal with its right sum.
pub fn journal_line(json: &str) -> String {
    format!("{json} {}\n", journal::sum(json))
}

/// A spool of events: how many are intact, and in how many bytes.
pub fn spool(path: &Path) -> Result<(usize, u64)> {
    spool::read(path).map(|(events, bytes)| (events.len(), bytes))
}
