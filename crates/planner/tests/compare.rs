//! The rules of others that the bench compares with do what was measured of the originals.
#![allow(dead_code, missing_docs)]

#[path = "../benches/compare/machines.rs"]
mod machines;
#[path = "../benches/compare/rules/mod.rs"]
mod rules;

use machines::{Pc, Random, pc};
use rules::{GIB, What, blivet, largest, partman, yast};

/// partman-auto 177, recipe `home` for amd64 with UEFI, 2 GB of memory: disk, `/`, swap, `/home` in tenths of a GB.
const MEASURED: [(u64, [u64; 3]); 4] =
    [(16, [78, 8, 65]), (40, [91, 20, 279]), (120, [135, 20, 1035]), (500, [343, 20, 4626])];

#[test]
fn partman_gives_what_was_measured() {
    assert_eq!(partman::home(false, 2000, 8000), None, "an 8 GB disk is too small for the recipe");
    for (disk, expected) in MEASURED {
        let found = partman::home(false, 2000, disk * 1000).unwrap();
        assert_eq!(found.iter().map(|(_, size)| size).sum::<u64>(), disk * 1000, "{found:?}");
        for (what, expected) in [What::Root, What::Swap, What::Home].into_iter().zip(expected) {
            let size = found.iter().find(|(w, _)| *w == what).unwrap().1;
            assert!(
                size.abs_diff(expected * 100) <= 100,
                "{disk} GB: {what:?} {size}, measured {expected}00"
            );
        }
    }
}

fn of(sizes: &[u64]) -> Pc {
    let mut pc = pc(&mut Random(1), Some(sizes.len()));
    pc.sizes = sizes.iter().map(|s| s * 1_000_000_000).collect();
    (pc.ram, pc.bios) = (2 * GIB, false);
    pc
}

fn disks_of(layout: &[rules::Volume], what: What) -> Vec<usize> {
    layout.iter().find(|v| v.what == what).unwrap().disks.clone()
}

#[test]
fn one_disk_rules_take_the_largest() {
    let pc = of(&[29, 465]);
    for layout in [partman::layout(&pc), largest::layout(&pc)] {
        assert!(layout.unwrap().iter().all(|v| v.disks == [1]));
    }
}

#[test]
fn blivet_pools_by_base_size_and_grows_where_most_grows() {
    // A group over both disks: `/` stops at 70 GiB, the rest is `/home`.
    let both = blivet::lvm(&of(&[200, 300])).unwrap();
    assert_eq!(both.iter().find(|v| v.what == What::Root).unwrap().bytes, 70 * GIB);
    assert_eq!(disks_of(&both, What::Home), [0, 1]);
    // Partitions: `/` and `/home` grow most on different disks.
    let plain = blivet::plain(&of(&[80, 300])).unwrap();
    assert_ne!(disks_of(&plain, What::Root), disks_of(&plain, What::Home));
    // Below 50 GiB there is no `/home`.
    assert!(blivet::plain(&of(&[40])).unwrap().iter().all(|v| v.what != What::Home));
}

#[test]
fn yast_takes_one_disk_if_one_is_enough() {
    let one = yast::layout(&of(&[120, 232])).unwrap();
    assert!(one.iter().all(|v| v.disks == [1]), "{one:?}");
    // Desired sizes need more than either: all disks together come last, with the minimums on one disk before them.
    let small = yast::layout(&of(&[20, 20])).unwrap();
    assert!(small.iter().all(|v| v.disks.len() == 1), "{small:?}");
}
