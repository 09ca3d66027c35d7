//! Small machines at random, just large enough or just too small, and often with disks that are alike.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Bus, Disk, FirmwareKind, Health, TableKind};
use akene_protocol::profile::{Filesystem, Medium};
use akene_protocol::resolve::VolumeWish;
use proptest::prelude::*;

use crate::problem::{BootChain, Ground, Item, Kind, Problem, Region};

/// A disk as it is made up.
#[derive(Clone, Debug)]
pub struct MadeDisk {
    table: TableKind,
    new_table: bool,
    entries: usize,
    removes: u32,
    destroys: bool,
    sector: u32,
    health: Health,
    bus: Bus,
    rotational: Option<bool>,
    chain: BootChain,
    bios: bool,
    /// The parts of all the room that its regions have.
    weights: Vec<u64>,
    /// Where its first region begins, in grains before the place where the boot chain may not begin any more.
    reach: Option<i64>,
    /// Disks with the same chain have the same size.
    size: u64,
    /// The same as the disk before, but for what has this number ([`MadeDisk::again`]).
    again: Option<u8>,
}

impl MadeDisk {
    /// The same disk again, but for one thing that it has from `other`, or for nothing.
    fn again(&self, other: &MadeDisk, but: u8, size: u64) -> MadeDisk {
        let (same, other) = (self.clone(), other.clone());
        match but {
            0 => MadeDisk { health: other.health, ..same },
            1 => MadeDisk { bus: other.bus, ..same },
            2 => MadeDisk { rotational: other.rotational, ..same },
            3 => MadeDisk { sector: other.sector, ..same },
            4 => MadeDisk { chain: other.chain, size, ..same },
            5 if !self.new_table => MadeDisk { entries: other.entries.min(4), ..same },
            6 if !self.new_table => MadeDisk { table: other.table, entries: self.entries.min(4), ..same },
            7 if self.weights.len() == 1 => {
                MadeDisk { table: other.table, new_table: other.new_table, entries: other.entries, ..same }
            }
            8 => MadeDisk { removes: other.removes, ..same },
            9 => MadeDisk { destroys: other.destroys, ..same },
            10 if !self.new_table => MadeDisk { weights: other.weights, ..same },
            11 => MadeDisk { reach: other.reach, ..same },
            12 => MadeDisk { weights: vec![self.weights[0] + 1], ..same },
            // As slow, but a BIOS does not know it.
            13 | 14 if self.bus == Bus::Usb => MadeDisk { bus: Bus::Firewire, ..same },
            13 | 14 if self.bus == Bus::Firewire => MadeDisk { bus: Bus::Usb, ..same },
            17 => MadeDisk { bios: !self.bios, ..same },
            15 | 16 => MadeDisk { reach: if self.reach.is_none() { Some(-1) } else { None }, ..same },
            _ => same,
        }
    }
}

/// Everything of a problem, owned.
#[derive(Clone, Debug)]
pub struct Machine {
    firmware: FirmwareKind,
    made: Vec<MadeDisk>,
    disks: Vec<Disk>,
    wishes: Vec<VolumeWish>,
    /// Before which volume the boot chain stands.
    chain: Option<usize>,
    small_boot: bool,
    fixed: (u16, u16),
    /// Where a root lies that is not to be placed.
    fixed_root: u16,
    /// Room for all, in hundredths of what they need to have enough.
    room: u64,
}

fn disk() -> impl Strategy<Value = MadeDisk> {
    let bus = prop_oneof![
        4 => Just(Bus::Sata),
        2 => Just(Bus::Nvme),
        2 => Just(Bus::Usb),
        1 => Just(Bus::Sd),
        1 => Just(Bus::Emmc),
        2 => Just(Bus::Firewire),
        1 => Just(Bus::Virtio),
    ];
    let health = prop_oneof![
        4 => Just(Health::Good),
        4 => Just(Health::Unknown),
        1 => Just(Health::Worn),
        1 => Just(Health::Failing),
    ];
    let table = prop_oneof![Just(TableKind::Gpt), Just(TableKind::Mbr)];
    let chain = (0u64..4, 1u64..6, 0u64..5, 0u64..4).prop_map(|(esp, least, way, less)| BootChain {
        esp,
        boot: (least, least + way),
        smallest: least.saturating_sub(less).max(1),
    });
    let reach = prop_oneof![6 => Just(None), 1 => (-1i64..2).prop_map(Some)];
    (
        (table, any::<bool>(), 0usize..7, 0u32..3, any::<bool>()),
        (prop_oneof![4 => Just(512u32), 1 => Just(4096u32)], health, bus, any::<Option<bool>>()),
        (chain, prop::collection::vec(1u64..7, 1..3), reach, prop::option::weighted(0.6, 0u8..20)),
        prop::bool::weighted(0.85),
    )
        .prop_map(
            |(
                (table, new_table, entries, removes, destroys),
                (sector, health, bus, rotational),
                (chain, weights, reach, again),
                bios,
            )| MadeDisk {
                table,
                new_table,
                entries: match (new_table, table) {
                    (true, TableKind::Gpt) => 128,
                    (true, TableKind::Mbr) => 59,
                    (false, TableKind::Gpt) => entries,
                    (false, TableKind::Mbr) => entries.min(4),
                },
                removes,
                destroys: destroys && removes > 0,
                sector,
                health,
                bus,
                rotational,
                chain,
                bios,
                // A new table leaves one free stretch.
                weights: if new_table { weights[..1].to_vec() } else { weights },
                reach,
                size: 0,
                again,
            },
        )
}

fn volume() -> impl Strategy<Value = VolumeWish> {
    let more = prop_oneof![2 => Just(None), 3 => (-3i64..12).prop_map(Some)];
    let medium = prop_oneof![2 => Just(Medium::Any), 1 => Just(Medium::Fast), 1 => Just(Medium::Large)];
    (
        (0usize..6, 0u8..3),
        (1u64..14, prop_oneof![2 => Just(0u64), 5 => 0u64..16, 1 => 16u64..50], more),
        (any::<bool>(), any::<bool>(), 0u32..3, medium, prop::bool::weighted(0.4)),
    )
        .prop_map(|((kind, letter), (min, way, more), (user_data, optional, priority, medium, span))| {
            let (name, mount, filesystem) = match kind {
                0 | 1 => ("root", Some("/"), Filesystem::Ext4),
                2 => ("home", Some("/home"), Filesystem::Ext4),
                3 => ("swap", None, Filesystem::Swap),
                _ => (["a", "m", "z"][usize::from(letter)], Some("/srv"), Filesystem::Xfs),
            };
            VolumeWish {
                name: name.into(),
                mount: mount.map(str::to_owned),
                filesystem,
                min: Bytes::mib(min),
                enough: Bytes::mib(min + way),
                max: more.map(|more| Bytes::mib((min + way).saturating_add_signed(more))),
                user_data: user_data && filesystem != Filesystem::Swap,
                optional: optional && name != "root",
                priority,
                medium,
                span,
            }
        })
}

/// Machines of which everything can be tried.
pub fn machine() -> impl Strategy<Value = Machine> {
    (
        any::<bool>(),
        prop::collection::vec(disk(), 1..5),
        prop::collection::vec(volume(), 1..6),
        prop::option::weighted(0.7, 0usize..6),
        prop::bool::weighted(0.15),
        prop_oneof![3 => Just((0u16, 0u16)), 1 => (0u16..16, 0u16..16)],
        prop_oneof![5 => 50u64..130, 1 => 30u64..50, 1 => 130u64..300],
    )
        .prop_map(|(bios, mut made, mut wishes, chain, small_boot, fixed, room)| {
            for i in 1..made.len() {
                made[i] = match made[i].again {
                    Some(but) => made[i - 1].again(&made[i], but, i as u64),
                    None => MadeDisk { size: i as u64, ..made[i].clone() },
                };
            }
            // Names are unique.
            let mut names = Vec::new();
            wishes.retain(|w| {
                !names.contains(&w.name) && {
                    names.push(w.name.clone());
                    true
                }
            });
            let mask = |m: u16| m & ((1 << made.len()) - 1);
            let stays = if names.iter().any(|n| n == "root") { 0 } else { 1 << (room as usize % made.len()) };
            let fixed = (mask(fixed.0), mask(fixed.1) | stays);
            let disks = made.iter().enumerate().map(|(i, d)| inventory_disk(i, d)).collect();
            let firmware = if bios { FirmwareKind::Bios } else { FirmwareKind::Uefi64 };
            let chain = chain.map(|at| at.min(wishes.len()));
            Machine { firmware, made, disks, wishes, chain, small_boot, fixed, fixed_root: stays, room }
        })
}

/// The same with larger volumes.
pub fn large_machine() -> impl Strategy<Value = Machine> {
    (machine(), 1u64..40).prop_map(|(mut machine, scale)| {
        for (i, wish) in machine.wishes.iter_mut().enumerate() {
            let more = |size: Bytes| Bytes(size.0 * scale) + Bytes::mib(i as u64);
            (wish.min, wish.enough, wish.max) = (more(wish.min), more(wish.enough), wish.max.map(more));
        }
        machine
    })
}

/// The disk with this number.
fn inventory_disk(i: usize, made: &MadeDisk) -> Disk {
    Disk {
        name: format!("sd{i}"),
        path: format!("/dev/sd{i}"),
        by_id: None,
        // The same as the chain's sizes, which follow from it.
        size: Bytes::gib(8 + made.size),
        logical_sector: made.sector,
        physical_sector: made.sector,
        model: None,
        serial: Some(format!("SN-{i}")),
        wwn: None,
        bus: made.bus,
        rotational: made.rotational,
        removable: false,
        read_only: false,
        live_medium: false,
        health: made.health,
        table: None,
        content: None,
    }
}

impl Machine {
    /// The problem of placing everything.
    pub fn problem(&self) -> Problem<'_> {
        let mut items: Vec<Item<'_>> = self.wishes.iter().map(Item::volume).collect();
        let mut need: u64 = items.iter().map(|i| i.ask.enough).sum();
        if let Some(at) = self.chain {
            let ask = crate::fill::Ask { min: 0, enough: 0 };
            items.insert(at, Item { kind: Kind::Chain, ask, max: None });
            need += self.made[0].chain.esp + self.made[0].chain.boot.1 + 1;
        }
        let weights: u64 = self.made.iter().flat_map(|d| &d.weights).sum();
        let room = need * self.room / 100 + 8;
        let mut regions = Vec::new();
        for (ground, made) in self.made.iter().enumerate() {
            let limit = (2i64 << 20) - (8 << 10);
            let mut start = made.reach.map_or(1, |before| (limit - before) as u64);
            for weight in &made.weights {
                let grains = (room * weight).div_ceil(weights);
                regions.push(Region { ground, start: Bytes::mib(start), grains });
                start += grains + 1;
            }
        }
        let grounds = self
            .made
            .iter()
            .zip(&self.disks)
            .map(|(made, disk)| Ground {
                disk,
                table: made.table,
                new_table: made.new_table,
                entries: made.entries,
                taken: vec![],
                removes: made.removes,
                destroys: made.destroys,
                chain: made.chain,
                bios: made.bios,
            })
            .collect();
        Problem {
            grounds,
            regions,
            items,
            firmware: self.firmware,
            small_boot: self.small_boot,
            spread: true,
            fixed_files: self.fixed.0,
            fixed_system: self.fixed.1,
            fixed_root: self.fixed_root,
            given_up: vec![],
        }
    }
}
