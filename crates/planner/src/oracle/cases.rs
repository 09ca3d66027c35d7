//! What the oracle has found, each as small as it became.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Bus, Disk, FirmwareKind, Health, TableKind};
use akene_protocol::profile::{Filesystem, Medium};
use akene_protocol::resolve::VolumeWish;

use super::{best, wrong};
use crate::fill::Ask;
use crate::problem::{BootChain, Ground, Item, Kind, Problem, Region};

/// Where the boot chain may begin at the latest.
const LAST: Bytes = Bytes((2 << 40) - (8 << 30));

fn disk(name: &str) -> Disk {
    Disk {
        name: name.into(),
        path: format!("/dev/{name}"),
        by_id: None,
        size: Bytes(4 << 40),
        logical_sector: 512,
        physical_sector: 512,
        model: None,
        serial: Some(name.into()),
        wwn: None,
        bus: Bus::Sata,
        rotational: Some(true),
        removable: false,
        read_only: false,
        live_medium: false,
        health: Health::Good,
        table: None,
        content: None,
    }
}

/// A table that stays, with room for a few partitions.
fn ground(disk: &Disk) -> Ground<'_> {
    Ground {
        disk,
        table: TableKind::Gpt,
        new_table: false,
        entries: 10,
        taken: vec![],
        removes: 0,
        destroys: false,
        chain: BootChain { esp: 1, boot: (2, 4), smallest: 2 },
        bios: true,
    }
}

fn volume(name: &str, mount: Option<&str>, min: u64, enough: u64) -> VolumeWish {
    VolumeWish {
        name: name.into(),
        mount: mount.map(str::to_owned),
        filesystem: if mount.is_none() { Filesystem::Swap } else { Filesystem::Ext4 },
        min: Bytes::mib(min),
        enough: Bytes::mib(enough),
        max: None,
        user_data: name == "home",
        optional: false,
        priority: 0,
        medium: Medium::Any,
        span: false,
    }
}

fn chain<'a>() -> Item<'a> {
    Item { kind: Kind::Chain, ask: Ask { min: 0, enough: 0 }, max: None }
}

/// One region for each disk.
fn problem<'a>(disks: &'a [Disk], regions: &[(Bytes, u64)], items: Vec<Item<'a>>) -> Problem<'a> {
    let regions = regions.iter().enumerate();
    Problem {
        grounds: disks.iter().map(ground).collect(),
        regions: regions
            .map(|(ground, (start, grains))| Region { ground, start: *start, grains: *grains })
            .collect(),
        items,
        firmware: FirmwareKind::Uefi64,
        small_boot: false,
        spread: true,
        fixed_files: 0,
        fixed_system: 0,
        fixed_root: 0,
        given_up: vec![],
    }
}

/// The planner's places, which are those of the oracle.
fn solved(problem: &Problem<'_>) -> Option<(Vec<u16>, Vec<u64>)> {
    let (found, best) = (problem.solve(&|_| true), best(problem));
    assert_eq!(found.is_some(), best.is_some(), "{best:?}");
    let (found, (levels, _)) = (found?, best?);
    assert_eq!(wrong(problem, &found), None);
    assert_eq!(levels.differs(&found.objective), None);
    Some((found.places, found.sizes))
}

#[test]
fn of_those_equally_badly_off_who_takes_the_rest_first_gets_the_odd_grain() {
    let (disks, swap, root) = ([disk("a")], volume("swap", None, 3, 13), volume("root", Some("/"), 6, 16));
    let problem = problem(&disks, &[(Bytes::mib(1), 18)], vec![Item::volume(&swap), Item::volume(&root)]);
    assert_eq!(solved(&problem), Some((vec![1, 1], vec![7, 11])));
}

#[test]
fn the_boot_chain_begins_where_it_may_at_the_latest_and_no_later() {
    let (disks, root) = ([disk("a")], volume("root", Some("/"), 2, 2));
    let at =
        |start: Bytes| solved(&problem(&disks, &[(start, 10)], vec![chain(), Item::volume(&root)])).is_some();
    assert!(at(LAST));
    assert!(!at(LAST + Bytes(512)));
}

#[test]
fn disks_are_not_alike_when_the_boot_chain_may_lie_on_one_of_them_only() {
    let (disks, root) = ([disk("a"), disk("b")], volume("root", Some("/"), 2, 2));
    let regions = [(LAST + Bytes::mib(1), 10), (Bytes::mib(1), 10)];
    let problem = problem(&disks, &regions, vec![chain(), Item::volume(&root)]);
    assert_eq!(solved(&problem), Some((vec![2, 1], vec![4, 10])));
}

#[test]
fn people_s_files_lie_on_a_root_that_stays_only_where_no_volume_is_for_them() {
    let (disks, home, srv) =
        ([disk("a"), disk("b")], volume("home", Some("/home"), 5, 9), volume("srv", Some("/srv"), 5, 9));
    let regions = [(Bytes::mib(1), 8), (Bytes::mib(1), 10)];
    for (wish, files) in [(&home, 0b10), (&srv, 0b01)] {
        let mut problem = problem(&disks, &regions, vec![Item::volume(wish)]);
        (problem.fixed_root, problem.fixed_system) = (0b01, 0b01);
        assert_eq!(solved(&problem), Some((vec![0b10], vec![10])));
        assert_eq!(problem.traits(&[0b10]).2.0, problem.loss(files), "{}", wish.name);
        assert_eq!(problem.traits(&[0b10]).0.0, 1, "{}", wish.name);
    }
}
