//! Donated PCs, made up: the same seed always gives the same ones.
//!
//! Three generations, as refurbishers receive them: IDE (4 to 40 GB, 512 MB to 1 GB of memory), early SATA (40 to 320 GB,
//! 512 MB to 4 GB) and later ones (SSD, NVMe, eMMC, disks to 2 TB, 2 to 16 GB). Six in ten have one disk. One disk in ten
//! is failing, one in ten worn, one in four says nothing of itself. All disks are blank.

use akene_protocol::Bytes;
use akene_protocol::inventory::*;

/// A PC, and what the rules need to know of it.
pub struct Pc {
    /// Sizes of the disks in bytes.
    pub sizes: Vec<u64>,
    pub failing: Vec<bool>,
    /// Memory in bytes.
    pub ram: u64,
    pub bios: bool,
    pub inventory: Inventory,
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }

    /// True in `percent` of all cases.
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Ide,
    Hdd,
    Ssd,
    Nvme,
    Emmc,
}

/// Sizes in tenths of decimal gigabytes, as they are sold.
fn sizes(kind: Kind, late: bool) -> &'static [u64] {
    match (kind, late) {
        (Kind::Ide, _) => &[43, 64, 84, 101, 135, 204, 300, 400],
        (Kind::Hdd, false) => &[400, 800, 800, 1600, 2500, 3200],
        (Kind::Hdd, true) => &[1600, 2500, 3200, 5001, 5001, 10002, 20004],
        (Kind::Ssd, _) => &[320, 600, 1200, 1200, 2400, 2500, 5001],
        (Kind::Nvme, _) => &[160, 1280, 2560, 2560, 5121],
        (Kind::Emmc, _) => &[160, 312, 312, 625],
    }
}

fn disk(random: &mut Random, kind: Kind, late: bool, index: usize) -> Disk {
    let tenths = random.of(sizes(kind, late));
    let size = tenths * 100_000_000 / 4096 * 4096 + random.next() % 2000 * 4096;
    let (bus, rotational) = match kind {
        Kind::Ide => (Bus::Ide, true),
        Kind::Hdd => (Bus::Sata, true),
        Kind::Ssd => (Bus::Sata, false),
        Kind::Nvme => (Bus::Nvme, false),
        Kind::Emmc => (Bus::Emmc, false),
    };
    let health = match random.next() % 100 {
        0..10 => Health::Failing,
        10..20 => Health::Worn,
        20..45 => Health::Unknown,
        _ => Health::Good,
    };
    let name = match kind {
        Kind::Nvme => format!("nvme{index}n1"),
        Kind::Emmc => format!("mmcblk{index}"),
        _ => format!("sd{}", char::from(b'a' + index as u8)),
    };
    Disk {
        path: format!("/dev/{name}"),
        serial: Some(format!("{:012X}", random.next() >> 16)),
        name,
        by_id: None,
        size: Bytes(size),
        logical_sector: 512,
        physical_sector: if late { 4096 } else { 512 },
        model: None,
        wwn: None,
        bus,
        rotational: Some(rotational),
        removable: false,
        read_only: false,
        live_medium: false,
        health,
        table: None,
        content: None,
    }
}

/// A PC with `disks` disks, or as many as PCs have.
pub fn pc(random: &mut Random, disks: Option<usize>) -> Pc {
    let era = random.next() % 100;
    let count = disks.unwrap_or_else(|| match random.next() % 100 {
        0..60 => 1,
        60..85 => 2,
        85..95 => 3,
        _ => 4,
    });
    let late = era >= 55;
    let (ram, bios) = match era {
        0..20 => (random.of(&[512, 512, 768, 1024]), true),
        20..55 => (random.of(&[512, 1024, 2048, 2048, 4096]), true),
        _ => (random.of(&[2048, 4096, 4096, 8192, 8192, 16384]), random.chance(30)),
    };
    let mut found = Vec::new();
    for index in 0..count {
        let kind = match era {
            0..20 => Kind::Ide,
            20..55 if random.chance(15) => Kind::Ssd,
            20..55 => Kind::Hdd,
            _ if index == 0 => {
                random.of(&[Kind::Hdd, Kind::Hdd, Kind::Ssd, Kind::Ssd, Kind::Nvme, Kind::Emmc])
            }
            _ => random.of(&[Kind::Hdd, Kind::Hdd, Kind::Hdd, Kind::Ssd]),
        };
        found.push(disk(random, kind, late, index));
    }
    let ram = ram << 20;
    let firmware = if bios { FirmwareKind::Bios } else { FirmwareKind::Uefi64 };
    Pc {
        sizes: found.iter().map(|d| d.size.0).collect(),
        failing: found.iter().map(|d| d.health == Health::Failing).collect(),
        ram,
        bios,
        inventory: Inventory {
            version: akene_protocol::inventory::VERSION,
            agent: "bench".into(),
            cpu: Cpu::default(),
            memory: Memory { total: Bytes(ram) },
            firmware: Firmware { kind: firmware, secure_boot: None, vendor: None, version: None, date: None },
            dmi: Dmi::default(),
            disks: found,
            volume_groups: vec![],
            nics: vec![],
            displays: vec![],
            batteries: vec![],
            notes: vec![],
        },
    }
}
