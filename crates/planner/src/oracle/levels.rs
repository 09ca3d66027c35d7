//! What a layout is worth, level after level, as the table in `docs/planner.md` says.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use akene_protocol::inventory::{Bus, Disk, FirmwareKind, Health, TableKind};
use akene_protocol::profile::{Filesystem, Medium};
use akene_protocol::resolve::VolumeWish;

use super::sizes::{Fraction, Guest, House};
use crate::fill::{Ask, Part};
use crate::objective::Objective;
use crate::problem::{Kind, Problem};

/// The levels, the most important first; the least is the best.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Levels {
    pub risk: (u8, u8, bool),
    pub short: bool,
    pub destroys: bool,
    pub tenths: Reverse<Vec<u64>>,
    pub spread: usize,
    pub wasted: u64,
    pub fairness: Reverse<Vec<Fraction>>,
    pub disks: (usize, usize),
    pub latency: (u8, u32, u32),
    pub loss: (u32, u32),
    pub changes: u32,
    pub rest: Reverse<Vec<u64>>,
    pub unused: u64,
    pub partitions: usize,
    pub order: Vec<u64>,
}

impl Levels {
    /// The first level in which the planner's objective says something else.
    pub fn differs(&self, theirs: &Objective) -> Option<String> {
        let parts: Vec<Part> =
            self.fairness.0.iter().map(|f| Ask { min: 0, enough: f.way }.part(f.covered)).collect();
        let tenths: Vec<u64> = theirs.tenths.0.iter().map(|t| u64::from(*t)).collect();
        let levels = [
            ("risk", self.risk == theirs.risk, format!("{:?}, {:?}", self.risk, theirs.risk)),
            ("short", self.short == theirs.short, format!("{}, {}", self.short, theirs.short)),
            ("destroys", self.destroys == theirs.destroys, format!("{}, {}", self.destroys, theirs.destroys)),
            ("tenths", self.tenths.0 == tenths, format!("{:?}, {tenths:?}", self.tenths.0)),
            ("spread", self.spread == theirs.spread as usize, format!("{}, {}", self.spread, theirs.spread)),
            (
                "wasted",
                self.wasted == u64::from(theirs.wasted),
                format!("{}, {}", self.wasted, theirs.wasted),
            ),
            (
                "fairness",
                parts == theirs.fairness.0,
                format!("{:?}, {:?}", self.fairness.0, theirs.fairness.0),
            ),
            (
                "disks",
                self.disks == (theirs.disks.0 as usize, theirs.disks.1 as usize),
                format!("{:?}, {:?}", self.disks, theirs.disks),
            ),
            ("latency", self.latency == theirs.latency, format!("{:?}, {:?}", self.latency, theirs.latency)),
            ("loss", self.loss == theirs.loss, format!("{:?}, {:?}", self.loss, theirs.loss)),
            ("changes", self.changes == theirs.changes, format!("{}, {}", self.changes, theirs.changes)),
            ("rest", self.rest == theirs.rest, format!("{:?}, {:?}", self.rest.0, theirs.rest.0)),
            ("unused", self.unused == theirs.unused, format!("{}, {}", self.unused, theirs.unused)),
            (
                "partitions",
                self.partitions == theirs.partitions as usize,
                format!("{}, {}", self.partitions, theirs.partitions),
            ),
            (
                "order",
                self.order.iter().copied().eq(theirs.order.iter().map(|o| u64::from(*o))),
                format!("{:?}, {:?}", self.order, theirs.order),
            ),
        ];
        let (name, _, both) = levels.into_iter().find(|(_, same, _)| !same)?;
        Some(format!("{name}: the oracle and the planner say {both}"))
    }
}

/// A place for everybody, in regions.
pub type Place = Vec<Vec<usize>>;

fn is_swap(wish: &VolumeWish) -> bool {
    wish.filesystem == Filesystem::Swap
}

fn is_root(wish: &VolumeWish) -> bool {
    wish.mount.as_deref() == Some("/")
}

/// Who takes what is left, the first first: `home`, people's files, the root, the others.
fn turns(problem: &Problem<'_>) -> Vec<usize> {
    let mut takers: Vec<_> = problem
        .items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| match item.kind {
            Kind::Volume(wish) if !is_swap(wish) => {
                let class = match wish {
                    w if w.name == "home" => 0,
                    w if w.user_data => 1,
                    w if is_root(w) => 2,
                    _ => 3,
                };
                Some((class, Reverse(wish.priority), wish.name.clone(), i))
            }
            _ => None,
        })
        .collect();
    takers.sort();
    takers.into_iter().map(|(_, _, _, i)| i).collect()
}

/// The disks somebody lies on.
fn disks(problem: &Problem<'_>, regions: &[usize]) -> BTreeSet<usize> {
    regions.iter().map(|r| problem.regions[*r].ground).collect()
}

/// The rooms and those who want them, if the place is allowed at all.
pub fn house(problem: &Problem<'_>, place: &Place) -> Option<House> {
    let mut regions: Vec<u64> = problem.regions.iter().map(|r| r.grains).collect();
    // A spread volume's disks have equal sectors, and one volume is spread at most.
    for at in place {
        let sectors: BTreeSet<u32> =
            disks(problem, at).iter().map(|g| problem.grounds[*g].disk.logical_sector).collect();
        if sectors.len() > 1 {
            return None;
        }
    }
    if place.iter().filter(|at| at.len() > 1).count() > 1 {
        return None;
    }
    // The tables have entries enough.
    for (g, ground) in problem.grounds.iter().enumerate() {
        let mut partitions = 0;
        for (item, at) in problem.items.iter().zip(place) {
            let here = at.iter().filter(|r| problem.regions[**r].ground == g).count();
            partitions += match (item.kind, ground.table) {
                (Kind::Chain, TableKind::Gpt) => 3 * here,
                (Kind::Chain, TableKind::Mbr) => 2 * here,
                (Kind::Volume(_), _) => here,
            };
        }
        if partitions > ground.entries {
            return None;
        }
        if ground.table == TableKind::Mbr && ground.new_table && partitions > 4 {
            let first = place.iter().flatten().copied().filter(|r| problem.regions[*r].ground == g).min()?;
            regions[first] = regions[first].checked_sub(partitions as u64 - 3)?;
        }
    }
    let turns = turns(problem);
    let mut guests = Vec::new();
    for (i, (item, at)) in problem.items.iter().zip(place).enumerate() {
        let turn = turns.iter().position(|t| *t == i);
        let (min, enough, most) = match item.kind {
            Kind::Chain => {
                let region = &problem.regions[at[0]];
                if region.start.0 > (2 << 40) - (8 << 30) {
                    return None;
                }
                let ground = &problem.grounds[region.ground];
                if problem.firmware == FirmwareKind::Bios && !ground.bios {
                    return None;
                }
                let before = ground.chain.esp + u64::from(ground.table == TableKind::Gpt);
                regions[at[0]] = regions[at[0]].checked_sub(before)?;
                let (least, enough) = ground.chain.boot;
                let least = if problem.small_boot { ground.chain.smallest } else { least };
                (least, enough, enough)
            }
            Kind::Volume(wish) if is_swap(wish) => (item.ask.min, item.ask.enough, item.ask.enough),
            Kind::Volume(_) => (item.ask.min, item.ask.enough, item.max.unwrap_or(u64::MAX)),
        };
        guests.push(Guest { regions: at.clone(), min, enough, most, turn });
    }
    Some(House { regions, guests })
}

/// What is lost within a year with these disks, in parts per million, rounded up.
fn loss(problem: &Problem<'_>, disks: &BTreeSet<usize>) -> u32 {
    let (mut survive, mut all) = (1u128, 1u128);
    for g in disks {
        survive *= match problem.grounds[*g].disk.health {
            Health::Good => 97,
            Health::Unknown => 95,
            Health::Worn => 85,
            Health::Failing => 50,
        };
        all *= 100;
    }
    1_000_000 - (survive * 1_000_000 / all) as u32
}

fn class(loss: u32) -> u8 {
    match loss {
        0..=100_000 => 0,
        100_001..=250_000 => 1,
        _ => 2,
    }
}

fn slowness(disk: &Disk) -> u8 {
    match (disk.bus, disk.rotational) {
        (Bus::Nvme, _) => 0,
        (Bus::Usb | Bus::Sd | Bus::Firewire, _) => 5,
        (Bus::Emmc, _) => 2,
        (_, Some(true)) => 4,
        (_, None) => 3,
        (_, Some(false)) => 1,
    }
}

/// Every level of a layout.
pub fn levels(problem: &Problem<'_>, place: &Place, house: &House, sizes: &[u64]) -> Levels {
    let fixed = |mask: u16| (0..16).filter(move |g| mask & 1 << g != 0);
    let (mut files, mut system): (BTreeSet<usize>, BTreeSet<usize>) =
        (fixed(problem.fixed_files).collect(), fixed(problem.fixed_system).collect());
    let mut used = BTreeSet::<usize>::new();
    let mut root: BTreeSet<usize> = fixed(problem.fixed_root).collect();
    let (mut doubtful, mut latency, mut spread) = (false, (0, 0, 0), 0);
    for (item, at) in problem.items.iter().zip(place) {
        let here = disks(problem, at);
        used.extend(&here);
        let Kind::Volume(wish) = item.kind else {
            system.extend(&here);
            doubtful = problem.firmware == FirmwareKind::Bios
                && here.iter().any(|g| matches!(problem.grounds[*g].disk.bus, Bus::Nvme | Bus::Firewire));
            continue;
        };
        let slowest = here.iter().map(|g| slowness(problem.grounds[*g].disk)).max().unwrap_or(0);
        spread += at.len() - 1;
        if wish.user_data {
            files.extend(&here);
        }
        if !wish.user_data && (!wish.optional || is_swap(wish)) {
            system.extend(&here);
        }
        if is_root(wish) {
            latency.0 = slowest;
            root = here;
        } else if wish.medium == Medium::Fast {
            latency.1 += u32::from(slowest);
        } else if wish.medium == Medium::Large {
            latency.2 += u32::from(5 - slowest);
        }
    }
    if files.is_empty() {
        files = root;
    }
    let mut fairness = house.fairness(sizes);
    let short = fairness.iter().any(|f| f.covered < f.way);
    if !short {
        fairness.clear();
    }
    let tenths = fairness.iter().map(|f| f.covered * 10 / f.way).collect();
    let all: u64 = problem.regions.iter().map(|r| r.grains).sum();
    let unused = house.unused(sizes);
    let loss = (loss(problem, &files), loss(problem, &system));
    Levels {
        risk: (class(loss.0), class(loss.1), doubtful),
        short,
        destroys: used.iter().any(|g| problem.grounds[*g].destroys),
        tenths: Reverse(tenths),
        spread,
        // The most whole quarters of all that it comes to.
        wasted: (1..=4).rev().find(|quarters| unused * 4 >= all * quarters).unwrap_or(0),
        fairness: Reverse(fairness),
        disks: (files.len(), system.len()),
        latency,
        loss,
        changes: used.iter().map(|g| 1 + problem.grounds[*g].removes).sum(),
        rest: Reverse(house.rest(sizes)),
        unused,
        partitions: place.iter().map(Vec::len).sum(),
        order: place.iter().map(|at| at.iter().map(|r| 1 << r).sum()).collect(),
    }
}
