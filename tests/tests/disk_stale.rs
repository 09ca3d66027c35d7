//! What was on a disk before is never recognised again: members of arrays, groups, pools and caches. Judged by
//! blkid, wipefs and lvm.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_agent::storage::image::Image;
use akene_exec::{Cmd, ExecError, Runner, SystemRunner};
use akene_protocol::Bytes;
use akene_protocol::inventory::TableKind;
use akene_tests::disks::{MIB, can_run, carry_out, disk_plan, gpt_layout, has, plan_of, run, wiping};

const SIZE: u64 = 304 * MIB;

/// What blkid recognises at a place of a device. Empty: nothing.
fn recognised(device: &Path, start: u64, size: u64) -> String {
    let place =
        ["-p", "-o", "value", "-s", "TYPE", "--offset", &start.to_string(), "--size", &size.to_string()]
            .map(str::to_owned);
    match SystemRunner.run(&Cmd::new("blkid").args(place).arg(device)) {
        Ok(output) => output.text(),
        Err(e) if e.downcast_ref::<ExecError>().and_then(|e| e.code) == Some(2) => String::new(),
        Err(e) => panic!("{e:#}"),
    }
}

/// Bytes at places.
type Marks = Vec<(u64, Vec<u8>)>;

/// Writes marks at places of a stretch of a device, both counted in bytes.
fn put(device: &Path, start: u64, marks: &[(u64, Vec<u8>)]) {
    let file = OpenOptions::new().write(true).open(device).unwrap();
    for (at, bytes) in marks {
        file.write_all_at(bytes, start + at).unwrap();
    }
    file.sync_all().unwrap();
}

fn words(values: &[(usize, u32)], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (at, value) in values {
        bytes[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// md's superblock 1.x: magic, major version 1, and at 128 the sector it stands in.
fn md1(at: u64) -> (u64, Vec<u8>) {
    (at, words(&[(0, 0xa92b_4efc), (4, 1), (16, 0x1234_5678), (144, (at / 512) as u32)], 4096))
}

/// bcache's sum: CRC-64 of the ECMA polynomial over the superblock behind it.
fn crc64(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(!0u64, |crc, byte| {
        (0..8).fold(crc ^ u64::from(*byte) << 56, |crc, _| {
            crc << 1 ^ if crc >> 63 == 1 { 0x42f0_e1eb_a9ea_3693 } else { 0 }
        })
    })
}

/// Everything a stretch of this size can be a member of, with the name blkid has for it.
fn members(size: u64) -> Vec<(&'static str, Marks)> {
    let at_64k = (size & !0xffff) - 0x1_0000;
    let md09 = words(&[(0, 0xa92b_4efc), (4, 0), (8, 90), (20, 7)], 4096);
    let zfs: Vec<_> = [0, 256 << 10, (size & !0x3_ffff) - (512 << 10), (size & !0x3_ffff) - (256 << 10)]
        .iter()
        .flat_map(|label| {
            (0..32).map(move |i| (label + (128 << 10) + i * 1024, words(&[(0, 0x00ba_b10c)], 8)))
        })
        .collect();
    let mut bcache = vec![0; 4096];
    bcache[8..16].copy_from_slice(&8u64.to_le_bytes());
    bcache[16..24].copy_from_slice(&1u64.to_le_bytes());
    bcache[24..40].copy_from_slice(&[
        0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
    ]);
    let sum = crc64(&bcache[8..208]);
    bcache[..8].copy_from_slice(&sum.to_le_bytes());
    let mut intel = b"Intel Raid ISM Cfg Sig. 1.3.00".to_vec();
    intel.resize(512, 0);
    vec![
        ("linux_raid_member", vec![(at_64k, md09)]),
        ("linux_raid_member", vec![md1((size - 8192) & !4095)]),
        ("linux_raid_member", vec![md1(0)]),
        ("linux_raid_member", vec![md1(4096)]),
        ("zfs_member", zfs),
        ("bcache", vec![(4096, bcache)]),
        ("isw_raid_member", vec![(size - 1024, intel)]),
    ]
}

#[test]
fn members_of_what_is_gone_are_never_recognised_again() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The whole disk, the place of the new root, and a place in its midst.
    for (start, size) in [(0, SIZE), (138 * MIB, 100 * MIB), (150 * MIB, 80 * MIB)] {
        for (i, (name, marks)) in members(size).into_iter().enumerate() {
            let shown = format!("{name} ({i}) at {start} of {size} bytes");
            let image = Image::create(&dir.path().join("disk.img"), Bytes(SIZE), 512).unwrap();
            let path = image.path().to_owned();
            if start > 0 {
                let place = format!("--new=1:{}:+{}", start / 512, size / 512 - 1);
                run("sgdisk", &["-a", "1", &place, path.to_str().unwrap()]);
                image.show_partitions().unwrap();
            }
            put(&path, start, &marks);
            run("blockdev", &["--flushbufs", path.to_str().unwrap()]);
            assert_eq!(recognised(&path, start, size), name, "the test puts it there: {shown}");

            let plan = plan_of(vec![disk_plan(&image, TableKind::Gpt, 512, true, gpt_layout())]);
            let mounted = carry_out(wiping(plan, &image), &dir.path().join("root"));
            let nodes: Vec<_> = mounted.partitions.iter().map(|p| (p.device.clone(), p.fstype)).collect();
            mounted.unmount().unwrap();
            run("blockdev", &["--flushbufs", path.to_str().unwrap()]);
            if start > 0 {
                let left = recognised(&path, start, size);
                assert!(["", "ext4"].contains(&left.as_str()), "{shown}: {left}");
            }
            assert_eq!(recognised(&path, 0, SIZE), "", "{shown}");
            let marks = run("wipefs", &["--noheadings", "--output", "TYPE", path.to_str().unwrap()]);
            assert!(marks.split_whitespace().all(|t| ["gpt", "PMBR"].contains(&t)), "{shown}: {marks}");
            for (node, filesystem) in nodes {
                let marks = run("wipefs", &["--noheadings", "--output", "TYPE", node.to_str().unwrap()]);
                let ours = filesystem.map(|f| f.name()).unwrap_or_default();
                assert!(marks.split_whitespace().all(|t| t == ours || ours == "vfat"), "{shown}: {marks}");
            }
            image.detach().unwrap();
        }
    }
}

#[test]
fn a_volume_group_is_unknown_afterwards() {
    if !can_run() || !has("pvcreate") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Image::create(&dir.path().join("disk.img"), Bytes(SIZE), 512).unwrap();
    let path = image.path().to_str().unwrap().to_owned();
    run("sgdisk", &["--new=1:2048:+200M", "--typecode=1:8e00", &path]);
    image.show_partitions().unwrap();
    let node = format!("{path}p1");
    let lvm = |args: &[&str]| {
        let config = format!(
            "devices {{ filter=[\"a|^{node}$|\",\"r|.*|\"] scan=\"/dev\" use_devicesfile=0 }} \
             global {{ use_lvmpolld=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}"
        );
        let cmd = Cmd::new("lvm").args(args).args(["--config", &config]);
        SystemRunner.run(&cmd).map(|o| o.text())
    };
    lvm(&["pvcreate", "-ff", "-y", &node]).unwrap();
    lvm(&["vgcreate", "old", &node]).unwrap();
    assert!(lvm(&["vgs", "--noheadings", "-o", "vg_name"]).unwrap().contains("old"));

    let plan = plan_of(vec![disk_plan(&image, TableKind::Gpt, 512, true, gpt_layout())]);
    carry_out(wiping(plan, &image), &dir.path().join("root")).unmount().unwrap();
    assert_eq!(recognised(image.path(), MIB, 200 * MIB), "", "the member is gone");
    assert!(!lvm(&["vgs", "--noheadings", "-o", "vg_name"]).unwrap().contains("old"));
    image.detach().unwrap();
}

/// Both copies of a GPT, each destroyed in turn, on a disk whose partitions are kept.
#[test]
fn a_damaged_copy_of_the_table_is_mended_and_nothing_lost() {
    if !can_run() {
        return;
    }
    for sector in [512u32, 4096] {
        for (what, at, length) in [
            ("main header", u64::from(sector), 512),
            ("main entries", 2 * u64::from(sector), 4096),
            ("copied header", SIZE - u64::from(sector), 512),
            ("copied entries", SIZE - u64::from(sector) - 8192, 4096),
            ("protective MBR", 0, 512),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let image = Image::create(&dir.path().join("disk.img"), Bytes(SIZE), sector).unwrap();
            let first = plan_of(vec![disk_plan(&image, TableKind::Gpt, sector, true, gpt_layout())]);
            let mounted = carry_out(first, &dir.path().join("root"));
            std::fs::write(mounted.root.join("home/letter"), "dear all").unwrap();
            mounted.unmount().unwrap();
            put(image.path(), at, &[(0, vec![0xa5; length])]);
            let path = image.path().to_str().unwrap();
            run("blockdev", &["--flushbufs", path]);

            let mut layout = gpt_layout();
            for p in &mut layout {
                p.action = match p.purpose {
                    akene_planner::Role::Root => akene_planner::Action::Format,
                    _ => akene_planner::Action::Keep,
                };
            }
            let plan = plan_of(vec![disk_plan(&image, TableKind::Gpt, sector, false, layout)]);
            let mounted = carry_out(plan, &dir.path().join("root"));
            let letter = std::fs::read_to_string(mounted.root.join("home/letter")).unwrap();
            assert_eq!(letter, "dear all", "{what}");
            mounted.unmount().unwrap();
            let verdict = run("sgdisk", &["-v", path]);
            assert!(verdict.contains("No problems found"), "{what}: {verdict}");
            image.detach().unwrap();
        }
    }
}
