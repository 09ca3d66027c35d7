//! Plans carried out on loop devices, judged by other people's programs: `sgdisk -v`, `sfdisk -J`,
//! `e2fsck -fn`, `fsck.vfat -n`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_agent::storage::Planned;
use akene_agent::storage::image::Image;
use akene_exec::SystemRunner;
use akene_planner::{Action, PartitionPlan, Plan, Role};
use akene_protocol::Bytes;
use akene_protocol::ids::MachineId;
use akene_protocol::inventory::TableKind;
use akene_protocol::issue::Issue;
use akene_protocol::profile::Filesystem;
use akene_tests::disks::{
    MACHINE, MIB, can_run, carry_out, disk_plan, gpt_layout, partition, plan_of, run, wiping,
};

const SIZE: Bytes = Bytes(304 * MIB);

/// A plan for the disk behind `image`, as it is now.
fn plan_for(image: &Image, kind: TableKind, sector: u32, partitions: Vec<PartitionPlan>) -> Plan {
    let new_table = partitions.iter().all(|p| p.action == Action::Create);
    plan_of(vec![disk_plan(image, kind, sector, new_table, partitions)])
}

#[test]
fn a_gpt_disk_from_blank_to_mounted_and_back() {
    if !can_run() {
        return;
    }
    for sector in [512, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.img");
        let image = Image::create(&file, SIZE, sector).unwrap();
        let root = dir.path().join("root");
        let mounted = carry_out(plan_for(&image, TableKind::Gpt, sector, gpt_layout()), &root);
        std::fs::write(root.join("home/hello"), "hello").unwrap();
        assert!(root.join("boot/lost+found").is_dir(), "AKENE_BOOT is mounted below the root");
        let blkid = |device: &Path, tag: &str| {
            run("blkid", &["-p", "-o", "value", "-s", tag, device.to_str().unwrap()])
        };
        for p in &mounted.partitions {
            assert_eq!(p.uuid.clone().unwrap_or_default(), blkid(&p.device, "UUID"), "{p:?}");
            assert_eq!(p.label.clone().unwrap_or_default(), blkid(&p.device, "LABEL"), "{p:?}");
        }
        let esp = mounted.esp_device().unwrap().to_owned();
        run("mmd", &["-i", esp.to_str().unwrap(), "::EFI"]);
        let layout = (*mounted).clone();
        mounted.unmount().unwrap();

        for p in &layout.partitions {
            let device = p.device.to_str().unwrap();
            match p.fstype {
                Some(Filesystem::Ext4) => drop(run("e2fsck", &["-fn", device])),
                Some(Filesystem::Vfat) => drop(run("fsck.vfat", &["-n", device])),
                _ => {}
            }
        }
        let path = image.path().to_str().unwrap().to_owned();
        let verdict = run("sgdisk", &["-v", &path]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        let seen: serde_json::Value = serde_json::from_str(&run("sfdisk", &["-J", &path])).unwrap();
        let entries = seen["partitiontable"]["partitions"].as_array().unwrap();
        assert_eq!(seen["partitiontable"]["label"], "gpt");
        assert_eq!(seen["partitiontable"]["sectorsize"], sector);
        for (entry, planned) in entries.iter().zip(gpt_layout()) {
            assert_eq!(entry["start"].as_u64().unwrap() * u64::from(sector), planned.start.0);
            assert_eq!(entry["size"].as_u64().unwrap() * u64::from(sector), planned.size.0);
            let ours = layout.partitions.iter().find(|p| p.number == planned.number).unwrap();
            assert_eq!(entry["uuid"].as_str().unwrap().to_lowercase(), ours.partuuid.clone().unwrap());
        }
        image.detach().unwrap();
    }
}

#[test]
fn an_mbr_disk_with_logical_partitions_from_blank_to_mounted() {
    if !can_run() {
        return;
    }
    for sector in [512, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::create(&dir.path().join("disk.img"), SIZE, sector).unwrap();
        let home = Role::Volume("home".into());
        let layout = vec![
            partition(1, 1, 40, Role::Boot, Some(Filesystem::Ext4), "AKENE_BOOT", Some("/boot")),
            partition(2, 41, 64, Role::Esp, Some(Filesystem::Vfat), "AKENE_ESP", Some("/boot/efi")),
            partition(3, 105, 100, Role::Root, Some(Filesystem::Ext4), "root", Some("/")),
            partition(5, 206, 48, home, Some(Filesystem::Ext4), "home", Some("/home")),
            partition(6, 255, 32, Role::Swap, Some(Filesystem::Swap), "swap", None),
        ];
        let mounted = carry_out(plan_for(&image, TableKind::Mbr, sector, layout), &dir.path().join("root"));
        assert!(mounted.root.join("home/lost+found").is_dir());
        let partuuid = mounted.partition(&Role::Swap).unwrap().partuuid.clone().unwrap();
        mounted.unmount().unwrap();
        let path = image.path().to_str().unwrap();
        run("sfdisk", &["--verify", "-q", path]);
        let seen: serde_json::Value = serde_json::from_str(&run("sfdisk", &["-J", path])).unwrap();
        let seen = &seen["partitiontable"];
        let types: Vec<_> =
            seen["partitions"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["83", "ef", "83", "f", "83", "82"]);
        assert_eq!(seen["partitions"][0]["bootable"], true);
        assert_eq!(format!("0x{}", &partuuid[..8]), seen["id"].as_str().unwrap());
        assert_eq!(&partuuid[8..], "-06");
        image.detach().unwrap();
    }
}

fn sum(node: &Path) -> String {
    run("blockdev", &["--flushbufs", node.to_str().unwrap()]);
    // Fast, and enough to notice a change: the tests read whole disks many times.
    run("cksum", &[node.to_str().unwrap()])
}

/// The plan of a reinstall on the disk of [`gpt_layout`]: boot, ESP and home stay, a foreign partition
/// stays, the root is formatted, swap is made anew at another size.
fn reinstall_layout() -> Vec<PartitionPlan> {
    let mut layout = gpt_layout();
    for p in &mut layout {
        p.action = match p.purpose {
            Role::Root => Action::Format,
            Role::Swap => Action::Create,
            _ => Action::Keep,
        };
    }
    layout[3].size = Bytes(16 * MIB);
    let mut foreign = partition(9, 290, 8, Role::Foreign, None, "", None);
    foreign.action = Action::Keep;
    layout.push(foreign);
    layout
}

/// A disk installed once by us, with files in `/home` and a partition of somebody else.
fn installed(dir: &Path, sector: u32) -> Image {
    let image = Image::create(&dir.join("disk.img"), SIZE, sector).unwrap();
    let mut layout = gpt_layout();
    // Made by us only so that the table is ours; what is on it is not.
    layout.push(partition(9, 290, 8, Role::Volume("x".into()), Some(Filesystem::Ext4), "x", Some("/x")));
    let mounted = carry_out(plan_for(&image, TableKind::Gpt, sector, layout), &dir.join("root"));
    std::fs::write(mounted.root.join("home/letter"), "dear all").unwrap();
    std::fs::write(mounted.root.join("old-root-file"), "old").unwrap();
    mounted.unmount().unwrap();
    let foreign = format!("{}p9", image.path().display());
    let noise: Vec<u8> = (0..8 * MIB).map(|i| ((i * 2654435761) >> 13) as u8).collect();
    std::fs::write(&foreign, &noise).unwrap();
    run("sync", &[]);
    image
}

#[test]
fn a_reinstall_keeps_what_is_kept_byte_for_byte() {
    if !can_run() {
        return;
    }
    for sector in [512, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let image = installed(dir.path(), sector);
        let node = |n: u32| Path::new(&format!("{}p{n}", image.path().display())).to_owned();
        let kept = [1, 2, 3, 6, 9];
        let before: Vec<_> = kept.iter().map(|n| sum(&node(*n))).collect();
        let entries = |image: &Image| {
            let seen: serde_json::Value =
                serde_json::from_str(&run("sfdisk", &["-J", image.path().to_str().unwrap()])).unwrap();
            let all = seen["partitiontable"]["partitions"].as_array().unwrap().clone();
            all.into_iter().filter(|e| !e["node"].as_str().unwrap().ends_with("p4")).collect::<Vec<_>>()
        };
        let table_before = entries(&image);

        let plan = plan_for(&image, TableKind::Gpt, sector, reinstall_layout());
        let locked = Planned::new(plan, MACHINE).unwrap().lock(&SystemRunner).unwrap();
        let partitioned = locked.partition(&SystemRunner).unwrap();
        let formatted = partitioned.format(&SystemRunner, &mut |_| {}).unwrap();
        let after: Vec<_> = kept.iter().map(|n| sum(&node(*n))).collect();
        assert_eq!(before, after);
        assert_eq!(table_before, entries(&image), "the other entries of the table");

        let mounted = formatted.mount(&dir.path().join("new")).unwrap();
        assert_eq!(std::fs::read_to_string(mounted.root.join("home/letter")).unwrap(), "dear all");
        assert!(!mounted.root.join("old-root-file").exists(), "the root was formatted");
        let home = mounted.partition(&Role::Volume("home".into())).unwrap();
        assert!(home.kept && home.uuid.is_some());
        mounted.unmount().unwrap();
        let verdict = run("sgdisk", &["-v", image.path().to_str().unwrap()]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        assert_eq!(sum(&node(9)), before[4]);
        image.detach().unwrap();
    }
}

/// Tries to lock and gives the code of the refusal. The disk must be as it was.
fn refusal(image: &Image, plan: Plan) -> String {
    let before = sum(image.path());
    let error = Planned::new(plan, MACHINE).and_then(|p| p.lock(&SystemRunner)).unwrap_err();
    assert_eq!(before, sum(image.path()), "a refusal changed the disk");
    let issue = error.downcast_ref::<Issue>().unwrap_or_else(|| panic!("{error:#}"));
    assert!(!issue.next.is_empty());
    issue.code.clone()
}

#[test]
fn a_disk_that_is_not_as_planned_is_refused_untouched() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = installed(dir.path(), 512);
    let path = image.path().to_str().unwrap().to_owned();
    let node = |n: u32| format!("{path}p{n}");
    let plan = || plan_for(&image, TableKind::Gpt, 512, reinstall_layout());

    // Mounted, used by another program, of another size, with another serial number, another table.
    let place = dir.path().join("mnt");
    std::fs::create_dir(&place).unwrap();
    run("mount", &["-o", "ro", &node(6), place.to_str().unwrap()]);
    assert_eq!(refusal(&image, plan()), "disk-in-use");
    run("umount", &[place.to_str().unwrap()]);

    let lock = File::open(image.path()).unwrap();
    lock.lock().unwrap();
    assert_eq!(refusal(&image, plan()), "disk-in-use");
    drop(lock);

    let mut other = plan();
    other.disks[0].disk.size = Bytes(303 * MIB);
    assert_eq!(refusal(&image, other), "disk-gone");
    let mut other = plan();
    other.disks[0].disk.serial = Some("WD-1234".into());
    assert_eq!(refusal(&image, other), "disk-gone");
    let mut other = plan();
    other.disks[0].disk.table_hash = None;
    assert_eq!(refusal(&image, other), "disk-changed");
    let stale = plan();
    run("sgdisk", &["--change-name=9:other", &path]);
    assert_eq!(refusal(&image, stale), "disk-changed");

    // A kept partition that is not where the plan has it.
    let mut wrong = plan();
    wrong.disks[0].partitions[5].start = Bytes(239 * MIB);
    wrong.disks[0].partitions[5].size = Bytes(40 * MIB);
    assert_eq!(refusal(&image, wrong), "rehearsal-failed");
    // Kept and no longer what it was; kept and damaged.
    let mut wrong = plan();
    wrong.disks[0].partitions[5].filesystem = Some(Filesystem::Xfs);
    assert_eq!(refusal(&image, wrong), "kept-changed");
    let home = OpenOptions::new().write(true).open(node(6)).unwrap();
    // Everything behind the superblock and the group descriptors: bitmaps and inode tables.
    home.write_all_at(&vec![0xa5; 400 << 10], 64 << 10).unwrap();
    drop(home);
    run("tune2fs", &["-E", "force_fsck", "-f", &node(6)]);
    assert_eq!(refusal(&image, plan()), "kept-damaged");
    image.detach().unwrap();
}

#[test]
fn a_disk_that_was_blank_and_is_not_any_more_is_refused() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Image::create(&dir.path().join("disk.img"), SIZE, 512).unwrap();
    let plan = plan_for(&image, TableKind::Gpt, 512, gpt_layout());
    run("mkfs.ext4", &["-q", "-F", image.path().to_str().unwrap()]);
    assert_eq!(refusal(&image, plan.clone()), "disk-changed");
    // With the loss counted and named, it may go.
    carry_out(wiping(plan, &image), &dir.path().join("root")).unmount().unwrap();
    image.detach().unwrap();
}

#[test]
fn a_machine_that_was_switched_off_keeps_its_files() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = installed(dir.path(), 512);
    let home = format!("{}p6", image.path().display());
    // What a power cut leaves: the partition as it was while mounted.
    let place = dir.path().join("mnt");
    std::fs::create_dir(&place).unwrap();
    run("mount", &[&home, place.to_str().unwrap()]);
    std::fs::write(place.join("last"), "written just before the power went").unwrap();
    run("sync", &["-f", place.join("last").to_str().unwrap()]);
    let cut = std::fs::read(&home).unwrap();
    run("umount", &[place.to_str().unwrap()]);
    std::fs::write(&home, &cut).unwrap();
    run("sync", &[]);

    let mounted =
        carry_out(plan_for(&image, TableKind::Gpt, 512, reinstall_layout()), &dir.path().join("new"));
    let last = std::fs::read_to_string(mounted.root.join("home/last")).unwrap();
    assert_eq!(last, "written just before the power went");
    mounted.unmount().unwrap();
    run("e2fsck", &["-fn", &home]);
    image.detach().unwrap();
}

#[test]
fn the_same_machine_gets_the_same_identifiers_again() {
    if !can_run() {
        return;
    }
    let mut seen = Vec::new();
    for machine in [MACHINE, MACHINE, MachineId([1; 16])] {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::create(&dir.path().join("disk.img"), SIZE, 512).unwrap();
        let plan = plan_for(&image, TableKind::Gpt, 512, gpt_layout());
        let locked = Planned::new(plan, machine).unwrap().lock(&SystemRunner).unwrap();
        let formatted = locked.partition(&SystemRunner).unwrap().format(&SystemRunner, &mut |_| {}).unwrap();
        let ids: Vec<_> =
            formatted.layout().partitions.iter().map(|p| (p.uuid.clone(), p.partuuid.clone())).collect();
        seen.push(ids);
        drop(formatted);
        image.detach().unwrap();
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].iter().zip(&seen[2]).all(|(a, b)| a.1 != b.1));
}

#[test]
fn a_busy_target_is_told_and_a_dropped_one_is_unmounted() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Image::create(&dir.path().join("disk.img"), SIZE, 512).unwrap();
    let root = dir.path().join("root");
    let mounted = carry_out(plan_for(&image, TableKind::Gpt, 512, gpt_layout()), &root);
    let open = File::create(root.join("home/open")).unwrap();
    let error = mounted.unmount().unwrap_err();
    assert!(format!("{error:#}").contains("home"), "{error:#}");
    drop(open);
    // The failed unmount was dropped: nothing is mounted any more.
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()), "{mounts}");
    image.detach().unwrap();
}
