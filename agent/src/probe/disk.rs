//! Disks: which there are, and who they are.
//!
//! Everything comes from sysfs, and what udev found out on top of it. A machine without udev loses the
//! stable links and, on some buses, the serial number.

use std::path::{Path, PathBuf};

use akene_protocol::Bytes;
use akene_protocol::garbage;
use akene_protocol::inventory::{Bus, Disk, Health};
use anyhow::{Context, Result};

use super::root::{ProbeRoot, fold, names, number, text};
use super::udev::Record;

/// Kernel names of the disks, without those that are no disks to install on: optical and floppy
/// drives, RAM disks, loop devices, what device-mapper and RAID put together, the boot areas of
/// eMMC chips, empty card readers.
pub fn list(root: &ProbeRoot) -> Vec<String> {
    let asked = |name: &String| root.also.iter().any(|p| p.file_name().is_some_and(|f| f == name.as_str()));
    names(&root.sys.join("block"))
        .into_iter()
        .filter(|name| asked(name) || is_disk(name))
        .filter(|name| {
            let dir = root.sys.join("block").join(name);
            let there = number::<u64>(&dir.join("size")).is_some_and(|sectors| sectors > 0);
            // The paths of a multipath NVMe disk are listed beside the disk, and hidden.
            there && number::<u8>(&dir.join("hidden")) != Some(1)
        })
        .collect()
}

fn is_disk(name: &str) -> bool {
    const OTHERS: [&str; 9] = ["ram", "zram", "sr", "fd", "loop", "dm-", "md", "nbd", "mtdblock"];
    let is = |prefix: &&str| {
        name.strip_prefix(*prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    // mmcblk0boot0, mmcblk0rpmb, mmcblk0gp1: areas of the chip, not the disk.
    let area = name.strip_prefix("mmcblk").is_some_and(|rest| !rest.chars().all(|c| c.is_ascii_digit()));
    !OTHERS.iter().any(is) && !area
}

/// Who a disk is, by its kernel name. What lies on it is not looked at.
pub fn facts(root: &ProbeRoot, name: &str) -> Result<Disk> {
    let dir = root.sys.join("block").join(name);
    // sysfs counts in units of 512 bytes whatever the sector size is.
    let sectors: u64 = number(&dir.join("size")).with_context(|| format!("reading the size of {name}"))?;
    let udev = text(&dir.join("dev")).map(|dev| Record::of_block(root, &dev)).unwrap_or_default();
    let bus = bus(root, &dir, name, &udev);
    let logical = number(&dir.join("queue/logical_block_size")).unwrap_or(512);
    let clean = |value: String| Some(fold(&value)).filter(|v| garbage::keep(v));
    let from_udev = |keys: &[&str]| keys.iter().find_map(|k| udev.get(k).map(str::to_owned));
    let first = |files: &[&str]| files.iter().find_map(|f| text(&dir.join(f)));

    let model = first(&["device/model", "device/name"]).or_else(|| from_udev(&["ID_MODEL"]));
    let serial = from_udev(&["ID_SCSI_SERIAL", "ID_SERIAL_SHORT"])
        .or_else(|| first(&["device/serial", "serial"]))
        .or_else(|| unit_serial(&dir));
    // A disk image is who its file says, and that is not a fact about the machine.
    let (model, serial) = if bus == Bus::Loop { (None, None) } else { (model, serial) };
    let wwn = from_udev(&["ID_WWN_WITH_EXTENSION", "ID_WWN"]).or_else(|| first(&["wwid", "device/wwid"]));
    let marked_removable = number::<u8>(&dir.join("removable")) == Some(1);

    Ok(Disk {
        name: name.to_owned(),
        path: root.dev.join(name).to_string_lossy().into_owned(),
        by_id: udev.by_id(),
        size: Bytes(sectors * 512),
        logical_sector: logical,
        physical_sector: number(&dir.join("queue/physical_block_size")).unwrap_or(logical),
        model: model.and_then(clean),
        serial: serial.and_then(|s| Some(fold(&s)).filter(|s| garbage::keep_serial(s))),
        wwn: wwn.map(|w| fold(&w)),
        bus,
        rotational: number::<u8>(&dir.join("queue/rotational")).map(|r| r == 1).filter(|_| bus != Bus::Loop),
        removable: marked_removable || matches!(bus, Bus::Usb | Bus::Firewire | Bus::Sd),
        read_only: number::<u8>(&dir.join("ro")) == Some(1),
        live_medium: false,
        health: Health::Unknown,
        table: None,
        content: None,
    })
}

/// The serial number as the disk itself gives it (vital product data page 0x80): four bytes of header,
/// the last two of which are the length.
fn unit_serial(dir: &Path) -> Option<String> {
    let page = std::fs::read(dir.join("device/vpd_pg80")).ok()?;
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let bytes = page.get(4..4 + length)?;
    Some(String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned()).filter(|s| !s.is_empty())
}

/// How a disk is attached, from the path of its device through the buses of the machine.
fn bus(root: &ProbeRoot, dir: &Path, name: &str, udev: &Record) -> Bus {
    let path = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let path = path.strip_prefix(&root.sys).unwrap_or(&path).to_string_lossy().into_owned();
    let part = |prefix: &str| {
        path.split('/').find(|p| {
            p.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    if name.starts_with("loop") {
        Bus::Loop
    } else if part("usb").is_some() {
        Bus::Usb
    } else if path.contains("/nvme") {
        Bus::Nvme
    } else if name.starts_with("mmcblk") {
        match text(&dir.join("device/type")).as_deref() {
            Some("MMC") => Bus::Emmc,
            _ => Bus::Sd,
        }
    } else if part("fw").is_some() {
        Bus::Firewire
    } else if name.starts_with("vd") || (part("virtio").is_some() && part("host").is_none()) {
        Bus::Virtio
    } else if part("ata").is_some() {
        // The driver of old Intel chips serves both kinds of cable; udev asks the disk.
        let driver = part("host")
            .and_then(|host| text(&root.sys.join("class/scsi_host").join(host).join("proc_name")))
            .unwrap_or_default();
        let old_cable = match udev.get("ID_ATA") {
            Some(_) => udev.get("ID_ATA_SATA") != Some("1"),
            None => driver.starts_with("pata"),
        };
        if old_cable { Bus::Ide } else { Bus::Sata }
    } else if part("ide").is_some() {
        Bus::Ide
    } else if path.contains("/end_device-") {
        Bus::Sas
    } else if part("host").is_some() {
        Bus::Scsi
    } else {
        Bus::Unknown
    }
}

/// The node of a partition of a disk: `sda1`, `nvme0n1p1`.
pub fn partition_path(disk: &Path, number: u32) -> PathBuf {
    let name = disk.to_string_lossy();
    let between = if name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    PathBuf::from(format!("{name}{between}{number}"))
}

/// A partition as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPartition {
    /// Number in the table.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// `MAJ:MIN`.
    pub dev: String,
}

/// The partitions of a disk that the kernel knows.
pub fn known_partitions(root: &ProbeRoot, disk: &Path) -> Vec<KnownPartition> {
    let Some(name) = disk.file_name().and_then(|n| n.to_str()) else { return Vec::new() };
    let dir = root.sys.join("block").join(name);
    let part = |entry: String| {
        let dir = dir.join(entry);
        Some(KnownPartition {
            number: number(&dir.join("partition"))?,
            start: number::<u64>(&dir.join("start"))? * 512,
            size: number::<u64>(&dir.join("size"))? * 512,
            dev: text(&dir.join("dev"))?,
        })
    };
    names(&dir).into_iter().filter(|n| n.starts_with(name)).filter_map(part).collect()
}
