//! Tables made by sfdisk and sgdisk, whole and damaged.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::Bytes;
use proptest::prelude::*;

use super::*;
use crate::storage::image::Image;
use crate::sys::block;
use crate::sys::test_disk::has_loop_devices;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

fn sfdisk(path: &Path, script: &str) {
    let args = ["-q", "--no-reread", "--no-tell-kernel", "--wipe", "always"];
    SystemRunner.run(&Cmd::new("sfdisk").args(args).arg(path).stdin(script)).unwrap();
}

/// What sfdisk sees: number, first byte, length, type, name.
fn others(path: &Path, sector: u64) -> Vec<(u32, u64, u64, String, Option<String>)> {
    let seen: serde_json::Value =
        SystemRunner.run(&Cmd::new("sfdisk").arg("-J").arg(path)).unwrap().json().unwrap();
    let entries = seen["partitiontable"]["partitions"].as_array().unwrap().iter();
    let mut rows: Vec<_> = entries
        .filter(|e| e["type"] != "5" && e["type"] != "f")
        .map(|e| {
            let number = e["node"].as_str().unwrap().rsplit('p').next().unwrap().parse().unwrap();
            let kind = e["type"].as_str().unwrap().to_lowercase();
            let kind = if kind.len() < 3 { format!("0x{kind:0>2}") } else { kind };
            let unit = |key: &str| e[key].as_u64().unwrap() * sector;
            (number, unit("start"), unit("size"), kind, e["name"].as_str().map(str::to_owned))
        })
        .collect();
    rows.sort();
    rows
}

fn ours(table: &RawTable) -> Vec<(u32, u64, u64, String, Option<String>)> {
    let row = |p: &RawPartition| (p.number, p.start, p.size, p.kind.clone(), p.name.clone());
    table.partitions.iter().map(row).collect()
}

#[test]
fn reads_what_sfdisk_wrote() {
    if !has_loop_devices() {
        return;
    }
    let scripts = [
        "label: gpt\nstart=1MiB,size=8MiB,type=uefi,name=\"système\"\n3: start=20MiB,size=4MiB,type=swap\n\
         128: start=9MiB,size=4MiB,name=last\n",
        "label: dos\nstart=1MiB,size=8MiB,type=7,bootable\nstart=9MiB,size=4MiB,type=82\n\
         4: start=16MiB,size=40MiB,type=f\n5: start=17MiB,size=8MiB\n6: start=26MiB,size=8MiB,type=b\n\
         7: start=35MiB,size=2MiB\n",
    ];
    for sector in [512, 4096] {
        for script in scripts {
            let file = tempfile::NamedTempFile::new().unwrap();
            let image = Image::create(file.path(), Bytes(SIZE), sector).unwrap();
            sfdisk(image.path(), script);
            let device = block::open_rw(image.path()).unwrap();
            let table = read(&device, SIZE, sector).unwrap().unwrap();
            assert_eq!(table.damage, None);
            assert_eq!(ours(&table), others(image.path(), sector.into()), "{script}");
            drop(device);
            image.detach().unwrap();
        }
    }
}

/// A plain file with two partitions, made by sfdisk, of which some bytes are then overwritten.
fn damaged(places: &[u64]) -> (tempfile::NamedTempFile, Option<RawTable>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    sfdisk(file.path(), "label: gpt\nstart=1MiB,size=8MiB\nstart=9MiB,size=8MiB\n");
    let open = OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
    for place in places {
        open.write_all_at(b"XX", *place).unwrap();
    }
    let table = read(&open, SIZE, 512).unwrap();
    (file, table)
}

#[test]
fn damage_is_told_and_the_whole_copy_is_used() {
    const MAIN: u64 = 512 + 40;
    const MAIN_ARRAY: u64 = 1024 + 8;
    const COPY: u64 = SIZE - 512 + 40;
    const COPY_ARRAY: u64 = SIZE - 33 * 512 + 8;
    for (places, words, partitions) in [
        (&[][..], None, 2),
        (&[MAIN], Some("beginning of the disk is damaged; its copy"), 2),
        (&[MAIN_ARRAY], Some("beginning of the disk is damaged; its copy"), 2),
        (&[COPY], Some("the copy of the table at the end"), 2),
        (&[COPY_ARRAY], Some("the copy of the table at the end"), 2),
        (&[MAIN, COPY], Some("both damaged"), 0),
        (&[MAIN_ARRAY, COPY_ARRAY], Some("both damaged"), 0),
        (&[510], Some("the protective MBR is missing"), 2),
    ] {
        let (_file, table) = damaged(places);
        let table = table.unwrap();
        assert_eq!(table.kind(), TableKind::Gpt);
        assert_eq!(table.partitions.len(), partitions, "{places:?}");
        match (&table.damage, words) {
            (None, None) => {}
            (Some(damage), Some(words)) => assert!(damage.contains(words), "{damage}"),
            other => panic!("{places:?}: {other:?}"),
        }
    }
}

#[test]
fn every_change_of_the_table_changes_its_hash_and_no_change_of_data_does() {
    let (_file, whole) = damaged(&[]);
    let whole = whole.unwrap();
    // The boot code, a header, an entry, the copy of an entry.
    for place in [0, 512 + 60, 1024 + 56, SIZE - 33 * 512 + 56] {
        let (_file, changed) = damaged(&[place]);
        assert_ne!(changed.unwrap().hash, whole.hash, "{place}");
    }
    // GUIDs are random, so the same file is read twice here.
    let (file, before) = damaged(&[]);
    let open = OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
    open.write_all_at(b"data", 2 * MIB).unwrap();
    assert_eq!(read(&open, SIZE, 512).unwrap().unwrap().hash, before.unwrap().hash);
}

#[test]
fn a_disk_that_has_grown_or_shows_other_sectors_is_told() {
    let (file, _) = damaged(&[]);
    let open = OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
    open.set_len(SIZE + 16 * MIB).unwrap();
    let grown = read(&open, SIZE + 16 * MIB, 512).unwrap().unwrap();
    assert!(grown.damage.as_ref().unwrap().contains("has grown"), "{:?}", grown.damage);
    assert_eq!(grown.partitions.len(), 2);
    let other = read(&open, SIZE, 4096).unwrap().unwrap();
    assert!(other.damage.as_ref().unwrap().contains("sectors of 512 bytes"), "{:?}", other.damage);
}

#[test]
fn a_filesystem_on_the_whole_disk_is_no_table() {
    for (program, args) in
        [("mkfs.vfat", &["-F", "32"][..]), ("mkfs.vfat", &["-F", "16"]), ("mkfs.ext4", &["-q"])]
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE).unwrap();
        SystemRunner.run(&Cmd::new(program).args(args).arg(file.path())).unwrap();
        assert_eq!(read(file.as_file(), SIZE, 512).unwrap(), None, "{program} {args:?}");
    }
}

#[test]
fn a_chain_of_logical_partitions_that_runs_in_a_circle_ends() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    sfdisk(
        file.path(),
        "label: dos\n1: start=2MiB,size=60MiB,type=f\n5: start=3MiB,size=4MiB\n6: start=8MiB,size=4MiB\n",
    );
    let open = OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
    let table = read(&open, SIZE, 512).unwrap().unwrap();
    let last = table.partitions.last().unwrap().ebr.unwrap();
    // Its second entry: type 5, one sector into the container, which leads to the first link's neighbour.
    let mut next = [0u8; 16];
    next[4] = 5;
    next[8..12].copy_from_slice(&(((last - 2 * MIB) / 512) as u32).to_le_bytes());
    next[12] = 1;
    open.write_all_at(&next, last + 462).unwrap();
    let damage = read(&open, SIZE, 512).unwrap().unwrap().damage.unwrap();
    assert!(damage.contains("has no end"), "{damage}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Random bytes thrown at a sound table, at the places that matter, and pure noise.
    #[test]
    fn no_bytes_make_the_reader_panic(
        hits in prop::collection::vec((0u64..20480, any::<[u8; 8]>()), 1..40),
        at_end: bool,
        gpt: bool,
        large: bool,
    ) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        let mut first = [0u8; 512];
        first[510..].copy_from_slice(&[0x55, 0xaa]);
        first[450] = if gpt { 0xee } else { 0x05 };
        first[454] = 1;
        first[458] = 200;
        file.write_all_at(&first, 0).unwrap();
        file.write_all_at(b"EFI PART\0\0\x01\0\x5c\0\0\0", 512).unwrap();
        for (at, bytes) in hits {
            file.write_all_at(&bytes, if at_end { SIZE - 20488 + at } else { at }).unwrap();
        }
        let sector = if large { 4096 } else { 512 };
        if let Some(table) = read(&file, SIZE, sector).unwrap() {
            prop_assert!(table.partitions.len() <= 8192);
        }
    }
}
