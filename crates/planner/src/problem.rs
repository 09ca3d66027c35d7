//! What is to be placed and where it could lie, and what a layout is worth.

use std::cmp::Reverse;

use akene_protocol::Bytes;
use akene_protocol::inventory::{Bus, Disk, FirmwareKind, TableKind};
use akene_protocol::profile::{Filesystem, Medium};
use akene_protocol::resolve::VolumeWish;

use crate::fill::{Ask, MEMBER_LEAST, Part, Rooms};
use crate::objective::Objective;
use crate::risk;

/// Most regions that are searched: the largest ones.
pub(crate) const REGIONS: usize = 12;

/// What a disk offers.
#[derive(Clone, Debug)]
pub(crate) struct Ground<'a> {
    pub disk: &'a Disk,
    pub table: TableKind,
    /// A new table replaces what is there.
    pub new_table: bool,
    /// How many more partitions the table can take.
    pub entries: usize,
    /// Numbers of partitions that stay.
    pub taken: Vec<u32>,
    /// How many things are taken off the disk when it is used.
    pub removes: u32,
    /// Whether that destroys something.
    pub destroys: bool,
    /// What the boot chain would need here.
    pub chain: BootChain,
    /// Whether a BIOS can start from it: [`starts_by_bios`].
    pub bios: bool,
}

/// What there must be before the first partition of an MBR disk that a BIOS starts: room for a core image of GRUB (146 KiB with
/// what our menus need). Where two fit, as before all partitions made today, one starts while the other is written. Partitions made
/// before 2008 begin at sector 63.
pub const EMBEDDING_AREA: Bytes = Bytes(256 << 10);

/// Whether a BIOS can start from a disk whose first partition begins there, if there is one. It reads sectors of 512 bytes only;
/// a GPT has a partition for GRUB's core image, an MBR the room before the first partition.
pub(crate) fn starts_by_bios(disk: &Disk, table: TableKind, first: Option<Bytes>) -> bool {
    disk.logical_sector == 512 && (table == TableKind::Gpt || first.is_none_or(|at| at >= EMBEDDING_AREA))
}

/// A free stretch of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Index of its ground.
    pub ground: usize,
    pub start: Bytes,
    pub grains: u64,
}

/// What an item is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    /// `AKENE_BOOT` with the partitions the firmware starts from.
    Chain,
    Volume(&'a VolumeWish),
}

/// Something to be placed. Sizes are in grains.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a> {
    pub kind: Kind<'a>,
    pub ask: Ask,
    pub max: Option<u64>,
}

impl<'a> Item<'a> {
    pub fn volume(wish: &'a VolumeWish) -> Item<'a> {
        let (ask, max) = ask(wish);
        Item { kind: Kind::Volume(wish), ask, max }
    }

    pub fn wish(&self) -> Option<&'a VolumeWish> {
        match self.kind {
            Kind::Chain => None,
            Kind::Volume(wish) => Some(wish),
        }
    }

    pub(crate) fn files(&self) -> bool {
        self.wish().is_some_and(|w| w.user_data)
    }

    fn system(&self) -> bool {
        self.wish().is_none_or(|w| !w.user_data && (!w.optional || w.filesystem == Filesystem::Swap))
    }

    fn medium(&self) -> Medium {
        self.wish().map_or(Medium::Any, |w| w.medium)
    }

    pub fn is_root(&self) -> bool {
        self.wish().is_some_and(|w| w.mount.as_deref() == Some("/"))
    }

    /// Who takes what is left first.
    fn greed(&self) -> (u8, Reverse<u32>, &str) {
        match self.wish() {
            Some(w) if w.name == "home" => (0, Reverse(0), ""),
            Some(w) if w.user_data => (1, Reverse(w.priority), &w.name),
            Some(w) if w.mount.as_deref() == Some("/") => (2, Reverse(0), ""),
            Some(w) => (3, Reverse(w.priority), &w.name),
            None => (4, Reverse(0), ""),
        }
    }
}

/// What a volume asks for, in whole grains, and the most it may have.
pub(crate) fn ask(wish: &VolumeWish) -> (Ask, Option<u64>) {
    let up = |size: Bytes| size.align_up(crate::GRAIN).0 / crate::GRAIN.0;
    let min = up(wish.min).max(1);
    let max = wish.max.map(|m| (m.0 / crate::GRAIN.0).max(min));
    let enough = up(wish.enough).max(min).min(max.unwrap_or(u64::MAX));
    (Ask { min, enough }, max)
}

/// Sizes of the boot chain's partitions on a disk, in grains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootChain {
    /// EFI system partition.
    pub esp: u64,
    /// `AKENE_BOOT`, least and enough.
    pub boot: (u64, u64),
    /// The smallest `AKENE_BOOT` that works at all, without room for a distribution's upgrades.
    pub smallest: u64,
}

impl BootChain {
    /// What suits a disk.
    ///
    /// FAT32 needs 65525 clusters of at least a sector: `mkfs.vfat` (dosfstools 4.2) warns below 257 MiB
    /// on 4096-byte sectors, while 64 MiB hold 129022 clusters of 512 bytes. `AKENE_BOOT` holds two or three
    /// kernels with their initrds (100 MiB each) and the installer (150 MiB, twice while it is renewed).
    pub fn on(disk: &Disk) -> BootChain {
        let esp = match (disk.logical_sector, disk.size) {
            (4096, _) => 260,
            (_, size) if size < Bytes::gib(16) => 64,
            _ => 256,
        };
        let boot = match disk.size {
            size if size < Bytes::gib(8) => (512, 1024),
            size if size < Bytes::gib(29) => (768, 1024),
            size if size < Bytes::gib(100) => (1024, 1024),
            _ => (1024, 2048),
        };
        BootChain { esp, boot, smallest: 512 }
    }
}

/// Everything the search knows.
#[derive(Clone)]
pub(crate) struct Problem<'a> {
    pub grounds: Vec<Ground<'a>>,
    pub regions: Vec<Region>,
    pub items: Vec<Item<'a>>,
    pub firmware: FirmwareKind,
    /// With the smallest boot partition that works.
    pub small_boot: bool,
    /// Whether a volume may be spread over several regions, if its wish allows it.
    pub spread: bool,
    /// Disks, by index of their ground, that people's files and the system need already.
    pub fixed_files: u16,
    pub fixed_system: u16,
    /// The disk of a root that stays where it is.
    pub fixed_root: u16,
    /// Optional volumes left out, the most important first.
    pub given_up: Vec<bool>,
}

/// A layout: for each item its regions and its size.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// A bit for each region.
    pub places: Vec<u16>,
    pub sizes: Vec<u64>,
    /// Grains of each physical volume of the spanned item, by region.
    pub members: Vec<(usize, u64)>,
    pub objective: Objective,
}

impl Layout {
    /// The item that is spread.
    pub fn spread(&self) -> Option<usize> {
        self.places.iter().position(|p| p.count_ones() > 1)
    }
}

impl<'a> Problem<'a> {
    /// Where an item lies as disks: a bit for each ground.
    pub fn disks_of(&self, place: u16) -> u16 {
        bits(place).fold(0, |mask, r| mask | 1 << self.regions[r].ground)
    }

    /// Grains of a region once the boot chain's fixed parts and the boot records of logical partitions are
    /// taken off. `None`: the table cannot take that many partitions.
    pub(crate) fn caps(&self, places: &[u16], caps: &mut [u64; 16]) -> Option<()> {
        for (r, region) in self.regions.iter().enumerate() {
            caps[r] = region.grains;
        }
        for (g, ground) in self.grounds.iter().enumerate() {
            let mut count = 0;
            // A new table leaves one region.
            let mut region = None;
            for (place, item) in places.iter().zip(&self.items) {
                for r in bits(*place).filter(|r| self.regions[*r].ground == g) {
                    region = Some(r);
                    count += match item.kind {
                        Kind::Chain => {
                            let bios = u64::from(ground.table == TableKind::Gpt);
                            caps[r] = caps[r].checked_sub(ground.chain.esp + bios)?;
                            2 + bios as usize
                        }
                        Kind::Volume(_) => 1,
                    };
                }
            }
            if count > ground.entries {
                return None;
            }
            if let (true, TableKind::Mbr, Some(r)) = (ground.new_table, ground.table, region)
                && count > PRIMARIES
            {
                caps[r] = caps[r].checked_sub((count - (PRIMARIES - 1)) as u64)?;
            }
        }
        Some(())
    }

    /// The least `AKENE_BOOT` on a disk, in grains.
    pub(crate) fn least_boot(&self, ground: usize) -> u64 {
        let chain = self.grounds[ground].chain;
        if self.small_boot { chain.smallest.min(chain.boot.0) } else { chain.boot.0 }
    }

    /// The least room for the boot chain on a disk, in grains.
    pub(crate) fn least_chain(&self, ground: usize) -> u64 {
        let Ground { table, chain, .. } = &self.grounds[ground];
        chain.esp + u64::from(*table == TableKind::Gpt) + self.least_boot(ground)
    }

    pub(crate) fn asks(&self, places: &[u16]) -> (Vec<Ask>, Vec<Option<u64>>) {
        let mut asks = Vec::with_capacity(self.items.len());
        let mut max = Vec::with_capacity(self.items.len());
        for (item, place) in self.items.iter().zip(places) {
            match item.kind {
                Kind::Chain => {
                    let ground = self.regions[place.trailing_zeros() as usize].ground;
                    let enough = self.grounds[ground].chain.boot.1;
                    asks.push(Ask { min: self.least_boot(ground), enough });
                    max.push(Some(enough));
                }
                Kind::Volume(_) => {
                    asks.push(item.ask);
                    max.push(item.max);
                }
            }
        }
        (asks, max)
    }

    /// Who takes what is left, in order.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.items.len()).filter(|i| self.takes_rest(*i)).collect();
        order.sort_by_key(|i| self.items[*i].greed());
        order
    }

    /// The levels before the sizes, of a layout that may be incomplete: they can only become worse.
    pub(crate) fn before_sizes(&self, places: &[u16]) -> ((u8, u8, bool), u16) {
        let (files, system) = self.needed(places);
        let mut doubtful = false;
        let mut touched = 0;
        for (item, place) in self.items.iter().zip(places) {
            let disks = self.disks_of(*place);
            touched |= disks;
            if matches!(item.kind, Kind::Chain) {
                doubtful |= bits(disks).any(|g| self.doubtful(self.grounds[g].disk));
            }
        }
        let band = |mask: u16| risk::band(self.loss(mask));
        ((band(files), band(system), doubtful), touched)
    }

    /// The disks that people's files need, and those that the system needs: a bit for each.
    fn needed(&self, places: &[u16]) -> (u16, u16) {
        let (mut files, mut system, mut root) = (self.fixed_files, self.fixed_system, self.fixed_root);
        for (item, place) in self.items.iter().zip(places) {
            let disks = self.disks_of(*place);
            files |= if item.files() { disks } else { 0 };
            system |= if item.system() { disks } else { 0 };
            root |= if item.is_root() { disks } else { 0 };
        }
        // Without a volume of their own, people's files lie on the root.
        if files == 0 && !self.items.iter().any(|i| i.files()) {
            files = root;
        }
        (files, system)
    }

    pub(crate) fn loss(&self, mask: u16) -> u32 {
        risk::any(bits(mask).map(|g| self.grounds[g].disk.health))
    }

    /// A BIOS knows no NVMe and no FireWire.
    fn doubtful(&self, disk: &Disk) -> bool {
        self.firmware == FirmwareKind::Bios && matches!(disk.bus, Bus::Nvme | Bus::Firewire)
    }

    /// Judges a complete layout. `best`: give up as soon as it is certain that it is not better.
    pub fn judge(&self, places: &[u16], best: Option<&Objective>) -> Option<Layout> {
        let mut caps = [0; 16];
        self.caps(places, &mut caps)?;
        let (asks, max) = self.asks(places);
        let order = self.order();
        let caps = &caps[..self.regions.len()];
        let rooms = Rooms { caps, asks: &asks, max: &max, places, order: &order };
        let (risk, touched) = self.before_sizes(places);
        let short = !rooms.all_enough();
        let destroys = bits(touched).any(|g| self.grounds[g].destroys);
        if let Some(best) = best
            && (risk, short, destroys) > (best.risk, best.short, best.destroys)
        {
            return None;
        }
        let sizes = rooms.share()?;
        let fairness: Vec<_> = match short {
            true => {
                let mut parts: Vec<_> = asks.iter().zip(&sizes).map(|(a, s)| a.part(*s)).collect();
                parts.sort();
                parts
            }
            false => Vec::new(),
        };
        let unused = rooms.unused(&sizes);
        let (disks, latency, loss) = self.traits(places);
        let partitions = places.iter().map(|p| p.count_ones()).sum();
        let objective = Objective {
            given_up: self.given_up.clone(),
            small_boot: self.small_boot,
            risk,
            short,
            destroys,
            tenths: Reverse(tenths(&fairness)),
            spread: places.iter().map(|p| p.count_ones().saturating_sub(1)).sum(),
            wasted: self.quarters(unused),
            fairness: Reverse(fairness),
            disks,
            latency,
            loss,
            changes: bits(touched).map(|g| 1 + self.grounds[g].removes).sum(),
            rest: Reverse(order.iter().map(|i| sizes[*i]).collect()),
            unused,
            partitions,
            order: places.to_vec(),
        };
        let members = rooms.members(&sizes);
        Some(Layout { places: places.to_vec(), sizes, members, objective })
    }

    /// The levels that depend on the disks alone, of a layout that may be incomplete: they can only become worse.
    #[allow(clippy::type_complexity)]
    pub(crate) fn traits(&self, places: &[u16]) -> ((u32, u32), (u8, u32, u32), (u32, u32)) {
        let (files, system) = self.needed(places);
        let mut latency = (0, 0, 0);
        for (item, place) in self.items.iter().zip(places) {
            let class =
                bits(self.disks_of(*place)).map(|g| risk::latency(self.grounds[g].disk)).max().unwrap_or(0);
            match item.medium() {
                _ if item.is_root() => latency.0 = class,
                Medium::Fast => latency.1 += u32::from(class),
                Medium::Large => latency.2 += u32::from(risk::SLOWEST - class),
                Medium::Any => {}
            }
        }
        // Wherever they are still to be placed, it is at least one disk.
        ((files.count_ones().max(1), system.count_ones()), latency, (self.loss(files), self.loss(system)))
    }

    /// Whole quarters of all the room.
    pub(crate) fn quarters(&self, grains: u64) -> u8 {
        let all: u64 = self.regions.iter().map(|r| r.grains).sum();
        (grains * 4 / all.max(1)) as u8
    }

    /// Whether an item takes what is left.
    pub(crate) fn takes_rest(&self, item: usize) -> bool {
        self.items[item].wish().is_some_and(|w| w.filesystem != Filesystem::Swap)
    }

    /// For each region, the first one that is like it: everything that the objective or the room depends on is
    /// the same.
    pub(crate) fn alike(&self) -> Vec<usize> {
        let key = |r: usize| {
            let region = &self.regions[r];
            let ground = &self.grounds[region.ground];
            let disk = ground.disk;
            let alone = self.regions.iter().filter(|o| o.ground == region.ground).count() == 1;
            let fixed = self.fixed_files | self.fixed_system | self.fixed_root;
            (alone && fixed & (1 << region.ground) == 0).then_some((
                (region.grains, disk.size, disk.logical_sector, disk.health, risk::latency(disk)),
                (
                    self.doubtful(disk),
                    ground.bios,
                    ground.table == TableKind::Gpt,
                    ground.new_table,
                    ground.entries,
                ),
                (ground.removes, ground.destroys, reached(region)),
            ))
        };
        (0..self.regions.len())
            .map(|r| match key(r) {
                None => r,
                some => (0..r).find(|o| key(*o) == some).unwrap_or(r),
            })
            .collect()
    }

    /// Whether the boot chain may lie there: where 32-bit sector numbers reach, on a disk that the firmware can start.
    pub(crate) fn boots(&self, region: &Region) -> bool {
        reached(region) && (self.firmware != FirmwareKind::Bios || self.grounds[region.ground].bios)
    }

    /// Whether an item may lie there.
    pub(crate) fn admits(&self, item: &Item<'_>, place: u16) -> bool {
        let regions = || bits(place).map(|r| &self.regions[r]);
        if place.count_ones() > 1 {
            let span = item.wish().is_some_and(|w| w.span);
            // LVM takes no group whose disks have different sectors.
            let mut sectors = regions().map(|r| self.grounds[r.ground].disk.logical_sector);
            let first = sectors.next();
            return span && sectors.all(|s| Some(s) == first) && regions().all(|r| r.grains >= MEMBER_LEAST);
        }
        match item.kind {
            Kind::Chain => regions().all(|r| self.boots(r)),
            Kind::Volume(_) => regions().all(|r| r.grains >= item.ask.min),
        }
    }
}

/// Whole tenths of the parts.
pub(crate) fn tenths(fairness: &[Part]) -> Vec<u8> {
    fairness.iter().map(|p| (p.percent() / 10) as u8).collect()
}

/// Most primary partitions of an MBR.
pub(crate) const PRIMARIES: usize = 4;

/// Where the boot chain may begin at the latest: so far below the end of 32-bit sector numbers of 512 bytes that all of
/// it lies before it.
const REACH: Bytes = Bytes((2 << 40) - (8 << 30));

/// Whether the boot chain may begin where a region does.
fn reached(region: &Region) -> bool {
    region.start <= REACH
}

/// The bits that are set.
pub(crate) fn bits(mask: u16) -> impl Iterator<Item = usize> {
    (0..16).filter(move |b| mask & (1 << b) != 0)
}
