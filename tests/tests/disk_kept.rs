//! People's files on what is kept: the same after as before, on every filesystem and kind of table, beside a
//! root that is made anew and in one that is refreshed. Judged by sums, `sgdisk -v`, `sfdisk --verify` and each
//! filesystem's own checker.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use akene_agent::probe::{ProbeRoot, inventory};
use akene_agent::storage::image::Image;
use akene_agent::storage::{Planned, empty_root};
use akene_exec::SystemRunner;
use akene_planner::{Action, PartitionPlan, Plan, Role};
use akene_protocol::Bytes;
use akene_protocol::inventory::{LooksLike, TableKind};
use akene_protocol::issue::Issue;
use akene_protocol::profile::Filesystem;
use akene_tests::disks::{MACHINE, MIB, can_run, carry_out, disk_plan, partition, plan_of, run};
use akene_tests::people::{live_in, sums};

const SIZE: u64 = 704 * MIB;

/// Filesystems homes are found on, with how they are made and looked at.
const FOUND: [(&str, Filesystem, &[&str], &[&str]); 4] = [
    ("ext4", Filesystem::Ext4, &["mkfs.ext4", "-q", "-F"], &["e2fsck", "-fn"]),
    ("ext3", Filesystem::Ext4, &["mkfs.ext3", "-q", "-F"], &["e2fsck", "-fn"]),
    ("xfs", Filesystem::Xfs, &["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"]),
    ("btrfs", Filesystem::Btrfs, &["mkfs.btrfs", "-q", "-f"], &["btrfs", "check", "--readonly"]),
];

fn on(command: &[&str], node: &Path) -> String {
    let args: Vec<&str> = command[1..].iter().copied().chain([node.to_str().unwrap()]).collect();
    run(command[0], &args)
}

fn gpt(home: Filesystem) -> Vec<PartitionPlan> {
    vec![
        partition(1, 1, 1, Role::BiosBoot, None, "", None),
        partition(2, 2, 64, Role::Boot, Some(Filesystem::Ext4), "AKENE_BOOT", Some("/boot")),
        partition(3, 66, 200, Role::Root, Some(Filesystem::Ext4), "root", Some("/")),
        partition(4, 266, 400, Role::Volume("home".into()), Some(home), "home", Some("/home")),
    ]
}

fn logical(home: Filesystem) -> Vec<PartitionPlan> {
    vec![
        partition(1, 1, 64, Role::Boot, Some(Filesystem::Ext4), "AKENE_BOOT", Some("/boot")),
        partition(2, 65, 16, Role::Swap, Some(Filesystem::Swap), "swap", None),
        partition(3, 81, 200, Role::Root, Some(Filesystem::Ext4), "root", Some("/")),
        partition(5, 282, 400, Role::Volume("home".into()), Some(home), "home", Some("/home")),
    ]
}

fn judge(image: &Image, kind: TableKind) {
    let path = image.path().to_str().unwrap();
    match kind {
        TableKind::Gpt => assert!(run("sgdisk", &["-v", path]).contains("No problems found")),
        TableKind::Mbr => drop(run("sfdisk", &["--verify", "-q", path])),
    }
}

/// The same partitions with the root formatted and all else kept.
fn again(mut layout: Vec<PartitionPlan>) -> Vec<PartitionPlan> {
    for p in &mut layout {
        p.action = if p.purpose == Role::Root { Action::Format } else { Action::Keep };
    }
    layout
}

/// A system that stays beside the new one waits for its swap space by the name that had.
#[test]
fn swap_that_is_made_anew_is_called_as_before() {
    if !can_run() {
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::create(&dir.path().join("disk.img"), Bytes(SIZE), 512).unwrap();
    let layout = || logical(Filesystem::Ext4);
    let first = plan_of(vec![disk_plan(&image, TableKind::Mbr, 512, true, layout())]);
    let mounted = carry_out(first, &dir.path().join("first"));
    let swap = mounted.partition(&Role::Swap).unwrap().device.clone();
    mounted.unmount().unwrap();
    // As it was when this machine was called otherwise.
    let uuid = "3b0a9c1e-5d1f-4c57-9c0e-8a44a7f6f001";
    run("mkswap", &["-q", "-U", uuid, swap.to_str().unwrap()]);
    let mut layout = again(layout());
    layout.iter_mut().filter(|p| p.purpose == Role::Swap).for_each(|p| p.action = Action::Format);
    let plan = plan_of(vec![disk_plan(&image, TableKind::Mbr, 512, false, layout)]);
    let mounted = carry_out(plan, &dir.path().join("second"));
    assert_eq!(mounted.partition(&Role::Swap).unwrap().uuid.as_deref(), Some(uuid));
    mounted.unmount().unwrap();
    let said = run("blkid", &["-p", "-s", "UUID", "-o", "value", swap.to_str().unwrap()]);
    assert_eq!(said.trim(), uuid);
    image.detach().unwrap();
}

/// The filesystems of these tests have the same identifiers, and `mkfs.btrfs` makes none that is there already.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn homes_are_the_same_on_every_filesystem_and_kind_of_table() {
    if !can_run() {
        return;
    }
    let _turn = turn();
    for (kind, sector) in [(TableKind::Gpt, 512), (TableKind::Gpt, 4096), (TableKind::Mbr, 512)] {
        for (name, filesystem, make, check) in FOUND {
            let shown = format!("{name} on {kind:?} with sectors of {sector}");
            let dir = tempfile::tempdir().unwrap();
            let image = Image::create(&dir.path().join("disk.img"), Bytes(SIZE), sector).unwrap();
            let layout = || if kind == TableKind::Gpt { gpt(filesystem) } else { logical(filesystem) };
            let first = plan_of(vec![disk_plan(&image, kind, sector, true, layout())]);
            let mounted = carry_out(first, &dir.path().join("first"));
            let home = mounted.partition(&Role::Volume("home".into())).unwrap().device.clone();
            mounted.unmount().unwrap();
            on(make, &home);
            let place = dir.path().join("home");
            std::fs::create_dir(&place).unwrap();
            run("mount", &[home.to_str().unwrap(), place.to_str().unwrap()]);
            live_in(&place);
            let before = sums(&place);
            run("umount", &[place.to_str().unwrap()]);

            let plan = plan_of(vec![disk_plan(&image, kind, sector, false, again(layout()))]);
            let mounted = carry_out(plan, &dir.path().join("second"));
            assert_eq!(sums(&mounted.root.join("home")), before, "{shown}");
            assert!(mounted.partition(&Role::Volume("home".into())).unwrap().uuid.is_some());
            mounted.unmount().unwrap();
            on(check, &home);
            judge(&image, kind);
            image.detach().unwrap();
        }
    }
}

/// An old system with people in it, on one partition.
fn old_system(dir: &Path, make: &[&str]) -> Image {
    let image = Image::create(&dir.join("disk.img"), Bytes(SIZE), 512).unwrap();
    let first = plan_of(vec![disk_plan(&image, TableKind::Gpt, 512, true, beside(Filesystem::Ext4))]);
    let mounted = carry_out(first, &dir.join("first"));
    let root = mounted.partition(&Role::Root).unwrap().device.clone();
    mounted.unmount().unwrap();
    on(make, &root);
    image
}

fn beside(root: Filesystem) -> Vec<PartitionPlan> {
    vec![
        partition(1, 1, 1, Role::BiosBoot, None, "", None),
        partition(2, 2, 64, Role::Boot, Some(Filesystem::Ext4), "AKENE_BOOT", Some("/boot")),
        partition(3, 66, 600, Role::Root, Some(root), "akene-root", Some("/")),
    ]
}

fn refreshing(image: &Image, root: Filesystem) -> Plan {
    let mut layout = beside(root);
    for p in &mut layout {
        p.action = if p.purpose == Role::Root { Action::Refresh } else { Action::Keep };
    }
    plan_of(vec![disk_plan(image, TableKind::Gpt, 512, false, layout)])
}

/// What the probe takes the root for.
fn seen(image: &Image) -> Option<LooksLike> {
    let found =
        inventory(&SystemRunner, &ProbeRoot { also: vec![image.path().to_owned()], ..ProbeRoot::default() });
    let disk = found.disks.iter().find(|d| Path::new(&d.path) == image.path()).unwrap();
    let table = disk.table.as_ref().unwrap();
    table.partitions.iter().find(|p| p.number == 3).unwrap().content.clone().unwrap().looks_like
}

#[test]
fn a_refreshed_root_keeps_its_homes_and_nothing_else() {
    if !can_run() {
        return;
    }
    let _turn = turn();
    for (name, filesystem, make, check) in FOUND {
        let dir = tempfile::tempdir().unwrap();
        let image = old_system(dir.path(), make);
        let node = format!("{}p3", image.path().display());
        let place = dir.path().join("old");
        std::fs::create_dir(&place).unwrap();
        let place_text = place.to_str().unwrap().to_owned();
        run("mount", &[&node, &place_text]);
        for below in ["etc", "usr/bin", "boot", "var/lib/old"] {
            std::fs::create_dir_all(place.join(below)).unwrap();
        }
        std::fs::write(place.join("etc/os-release"), "PRETTY_NAME=\"Old 8\"\n").unwrap();
        std::fs::write(place.join("boot/vmlinuz-3"), "old kernel").unwrap();
        live_in(&place.join("home"));
        if name == "btrfs" {
            run("btrfs", &["subvolume", "create", place.join("var/lib/machines").to_str().unwrap()]);
        }
        let before = sums(&place.join("home"));
        run("umount", &[&place_text]);

        let Some(LooksLike::LinuxRoot { name: system, home_inside, home_used }) = seen(&image) else {
            panic!("{name}: {:?}", seen(&image))
        };
        assert_eq!((system.as_deref(), home_inside), (Some("Old 8"), true), "{name}");
        assert!(home_used.is_some_and(|used| used.0 > 4 * MIB), "{name}: {home_used:?}");

        let mounted = carry_out(refreshing(&image, filesystem), &dir.path().join("new"));
        assert!(mounted.root.join("etc/os-release").exists(), "{name}: nothing is removed before its time");
        // The power is cut in the midst of it: what is left is still known for what it is.
        std::fs::remove_dir_all(mounted.root.join("etc")).unwrap();
        std::fs::remove_dir_all(mounted.root.join("usr")).unwrap();
        mounted.unmount().unwrap();
        assert!(
            matches!(seen(&image), Some(LooksLike::LinuxRoot { home_inside: true, .. })),
            "{name}: {:?}",
            seen(&image)
        );

        let mounted = carry_out(refreshing(&image, filesystem), &dir.path().join("new"));
        empty_root(&mounted, &[], &SystemRunner).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(sums(&mounted.root.join("home")), before, "{name}");
        let mut left: Vec<_> = mounted.root.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        left.retain(|entry| entry != "lost+found");
        left.sort();
        assert_eq!(left, ["boot", "home"], "{name}: /boot is mounted there");
        mounted.unmount().unwrap();
        run("mount", &[&node, &place_text]);
        assert_eq!(place.join("boot").read_dir().unwrap().count(), 0, "{name}: what /boot hid is gone");
        run("umount", &[&place_text]);
        let label = run("blkid", &["-p", "-o", "value", "-s", "LABEL", &node]);
        assert_eq!(label, "akene-root", "{name}");
        on(check, Path::new(&node));
        image.detach().unwrap();
    }
}

fn refusal(plan: Plan) -> String {
    let error = Planned::new(plan, MACHINE).and_then(|p| p.lock(&SystemRunner)).unwrap_err();
    let issue = error.downcast_ref::<Issue>().unwrap_or_else(|| panic!("{error:#}"));
    assert!(issue.next.contains("nothing was written"), "{issue}");
    issue.code.clone()
}

#[test]
fn homes_that_would_be_lost_by_refreshing_are_refused() {
    if !can_run() {
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("old");
    std::fs::create_dir(&place).unwrap();
    let place_text = place.to_str().unwrap().to_owned();
    // Ubuntu on btrfs: the homes are a subvolume beside the root.
    let image = old_system(dir.path(), &["mkfs.btrfs", "-q", "-f"]);
    let node = format!("{}p3", image.path().display());
    run("mount", &[&node, &place_text]);
    for volume in ["@", "@home"] {
        run("btrfs", &["subvolume", "create", place.join(volume).to_str().unwrap()]);
    }
    std::fs::create_dir_all(place.join("@/etc")).unwrap();
    std::fs::write(place.join("@/etc/os-release"), "PRETTY_NAME=\"Ubuntu 20.04\"\n").unwrap();
    live_in(&place.join("@home"));
    run("umount", &[&place_text]);
    assert!(
        matches!(seen(&image), Some(LooksLike::LinuxRoot { home_inside: true, .. })),
        "{:?}",
        seen(&image)
    );
    assert_eq!(refusal(refreshing(&image, Filesystem::Btrfs)), "homes-elsewhere");
    image.detach().unwrap();

    // A link.
    let image = old_system(dir.path(), &["mkfs.ext4", "-q", "-F"]);
    let node = format!("{}p3", image.path().display());
    run("mount", &[&node, &place_text]);
    std::fs::create_dir_all(place.join("srv/people")).unwrap();
    symlink("srv/people", place.join("home")).unwrap();
    run("umount", &[&place_text]);
    assert_eq!(refusal(refreshing(&image, Filesystem::Ext4)), "homes-elsewhere");
    image.detach().unwrap();
}

/// What a power cut would leave of a partition now: the bytes in the image. The node would answer from memory.
fn reached_the_disk(image: &Path, node: &Path) -> Vec<u8> {
    let dir = Path::new("/sys/class/block").join(node.file_name().unwrap());
    let sectors = |what: &str| {
        let text = std::fs::read_to_string(dir.join(what)).unwrap();
        text.trim().parse::<u64>().unwrap() * 512
    };
    let mut bytes = vec![0; sectors("size") as usize];
    let file = std::fs::File::open(image).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, sectors("start")).unwrap();
    bytes
}

#[test]
fn a_damaged_home_is_refused_and_one_of_a_machine_switched_off_is_not() {
    if !can_run() {
        return;
    }
    let _turn = turn();
    for (name, filesystem, make, check) in FOUND {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::create(&dir.path().join("disk.img"), Bytes(SIZE), 512).unwrap();
        let first = plan_of(vec![disk_plan(&image, TableKind::Gpt, 512, true, gpt(filesystem))]);
        carry_out(first, &dir.path().join("first")).unmount().unwrap();
        let node = format!("{}p4", image.path().display());
        on(make, Path::new(&node));
        let place = dir.path().join("home");
        std::fs::create_dir(&place).unwrap();
        run("mount", &[&node, place.to_str().unwrap()]);
        live_in(&place);
        run("sync", &["-f", place.to_str().unwrap()]);
        std::fs::remove_file(place.join("ana/same")).unwrap();
        let last = place.join("ana/last");
        std::fs::write(&last, "written just before the power went").unwrap();
        std::fs::File::open(&last).unwrap().sync_all().unwrap();
        let cut = reached_the_disk(&dir.path().join("disk.img"), Path::new(&node));
        run("umount", &[place.to_str().unwrap()]);
        std::fs::write(&node, &cut).unwrap();
        drop(cut);
        run("blockdev", &["--flushbufs", &node]);

        let plan = || plan_of(vec![disk_plan(&image, TableKind::Gpt, 512, false, again(gpt(filesystem)))]);
        let mounted = carry_out(plan(), &dir.path().join("second"));
        let last = std::fs::read_to_string(mounted.root.join("home/ana/last")).unwrap();
        assert_eq!(last, "written just before the power went", "{name}");
        mounted.unmount().unwrap();
        on(check, Path::new(&node));

        // Everything behind the first superblock, as far as the metadata reaches.
        let (at, length) = match name {
            "btrfs" => (1 << 20, 60 << 20),
            "xfs" => (512, 64 << 10),
            _ => (64 << 10, 2 << 20),
        };
        let device = std::fs::OpenOptions::new().write(true).open(&node).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&device, &vec![0xa5; length], at).unwrap();
        drop(device);
        if name.starts_with("ext") {
            run("tune2fs", &["-E", "force_fsck", "-f", &node]);
        }
        assert_eq!(refusal(plan()), "kept-damaged", "{name}");
        image.detach().unwrap();
    }
}
