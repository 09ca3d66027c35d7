//! One system on several disks, some of them with other sectors and other tables: from blank to mounted, and a
//! reinstall that keeps the disk with the homes. Judged by `sgdisk -v`, `sfdisk --verify`, `e2fsck -fn`.

use std::path::Path;

use akene_agent::storage::image::Image;
use akene_agent::storage::{Planned, steps};
use akene_exec::SystemRunner;
use akene_planner::{Action, DiskPlan, GroupPlan, Member, Plan, Role};
use akene_protocol::Bytes;
use akene_protocol::inventory::TableKind;
use akene_protocol::issue::Issue;
use akene_protocol::profile::Filesystem;
use akene_tests::disks::{MACHINE, MIB, can_run, carry_out, disk_plan, partition, plan_of, run};

const SIZE: u64 = 304 * MIB;

fn first(image: &Image, new: bool) -> DiskPlan {
    let layout = vec![
        partition(1, 1, 1, Role::BiosBoot, None, "", None),
        partition(2, 2, 64, Role::Esp, Some(Filesystem::Vfat), "AKENE_ESP", Some("/boot/efi")),
        partition(3, 66, 40, Role::Boot, Some(Filesystem::Ext4), "AKENE_BOOT", Some("/boot")),
        partition(4, 106, 160, Role::Root, Some(Filesystem::Ext4), "akene-root", Some("/")),
    ];
    disk_plan(image, TableKind::Gpt, 512, new, layout)
}

fn second(image: &Image) -> DiskPlan {
    let home = Role::Volume("home".into());
    let layout = vec![
        partition(1, 1, 1, Role::BiosBoot, None, "", None),
        partition(2, 2, 32, Role::Swap, Some(Filesystem::Swap), "akene-swap", None),
        partition(3, 34, 200, home, Some(Filesystem::Ext4), "akene-home", Some("/home")),
    ];
    disk_plan(image, TableKind::Gpt, 4096, true, layout)
}

fn third(image: &Image) -> DiskPlan {
    let content = Role::Volume("content".into());
    let layout = vec![partition(1, 1, 200, content, Some(Filesystem::Ext4), "content", Some("/srv/content"))];
    disk_plan(image, TableKind::Mbr, 512, true, layout)
}

fn sum(node: &Path) -> String {
    run("blockdev", &["--flushbufs", node.to_str().unwrap()]);
    run("cksum", &[node.to_str().unwrap()])
}

#[test]
fn a_system_over_three_disks_and_its_reinstall() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str, sector| Image::create(&dir.path().join(name), Bytes(SIZE), sector).unwrap();
    let (a, b, c) = (image("a", 512), image("b", 4096), image("c", 512));
    let plan = plan_of(vec![first(&a, true), second(&b), third(&c)]);
    let mounted = carry_out(plan, &dir.path().join("root"));
    for (place, image) in [("boot", &a), ("home", &b), ("srv/content", &c)] {
        std::fs::write(mounted.root.join(place).join("here"), place).unwrap();
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let at = mounted.root.join(place);
        let line = mounts.lines().find(|l| l.split(' ').nth(4) == at.to_str()).unwrap();
        assert!(line.contains(image.path().to_str().unwrap()), "{line}");
    }
    let ids: Vec<_> = mounted.partitions.iter().filter_map(|p| p.uuid.clone()).collect();
    let mut distinct = ids.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(ids.len(), distinct.len(), "no two filesystems have the same identifier");
    assert_eq!(mounted.disks.len(), 3);
    assert_eq!(mounted.boot_disk().unwrap().path, a.path());
    mounted.unmount().unwrap();
    for image in [&a, &b] {
        let verdict = run("sgdisk", &["-v", image.path().to_str().unwrap()]);
        assert!(verdict.contains("No problems found"), "{verdict}");
    }
    run("sfdisk", &["--verify", "-q", c.path().to_str().unwrap()]);
    for node in [format!("{}p4", a.path().display()), format!("{}p3", b.path().display())] {
        run("e2fsck", &["-fn", &node]);
    }

    // Again: the root made anew, the other disks kept as they are.
    let again = |mut disk: DiskPlan| {
        disk.new_table = false;
        for p in &mut disk.partitions {
            p.action = if p.purpose == Role::Root { Action::Format } else { Action::Keep };
        }
        disk
    };
    let plan = plan_of(vec![again(first(&a, false)), again(second(&b)), again(third(&c))]);
    // One of them was changed since: none is touched.
    run("sgdisk", &["--change-name=3:other", b.path().to_str().unwrap()]);
    let before: Vec<_> = [&a, &b, &c].iter().map(|i| sum(i.path())).collect();
    let error = Planned::new(plan.clone(), MACHINE).and_then(|p| p.lock(&SystemRunner)).unwrap_err();
    assert_eq!(error.downcast_ref::<Issue>().unwrap().code, "disk-changed");
    assert_eq!([&a, &b, &c].iter().map(|i| sum(i.path())).collect::<Vec<_>>(), before);

    let plan = plan_of(vec![again(first(&a, false)), again(second(&b)), again(third(&c))]);
    let mounted = carry_out(plan, &dir.path().join("again"));
    for place in ["boot", "home", "srv/content"] {
        assert_eq!(std::fs::read_to_string(mounted.root.join(place).join("here")).unwrap(), place);
    }
    mounted.unmount().unwrap();
    for image in [a, b, c] {
        image.detach().unwrap();
    }
}

fn spanned(a: &Image, b: &Image) -> Plan {
    let physical = |number, start, size| {
        partition(number, start, size, Role::Physical("akene-home".into()), None, "", None)
    };
    let mut one = first(a, true);
    one.partitions.push(physical(5, 266, 37));
    let two = disk_plan(b, TableKind::Gpt, 512, true, vec![physical(1, 1, 300)]);
    let members = [(&one, 5), (&two, 1)]
        .map(|(disk, partition)| Member { disk: disk.disk.name.clone(), partition })
        .to_vec();
    let group = GroupPlan {
        name: "akene-home".into(),
        purpose: Role::Volume("home".into()),
        action: Action::Create,
        size: Bytes((9 + 74) * 4 * MIB),
        filesystem: Some(Filesystem::Ext4),
        label: Some("akene-home".into()),
        mount: Some("/home".into()),
        members,
        why: "because the test says so".into(),
    };
    Plan { groups: vec![group], ..plan_of(vec![one, two]) }
}

/// Without device-mapper: a refusal before anything is written. With it: the whole way.
#[test]
fn a_home_over_two_disks() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str| Image::create(&dir.path().join(name), Bytes(SIZE), 512).unwrap();
    let (a, b) = (image("a"), image("b"));
    let plan = spanned(&a, &b);
    if !std::fs::read_to_string("/proc/misc").unwrap().contains("device-mapper") {
        let before = [sum(a.path()), sum(b.path())];
        let error = Planned::new(plan, MACHINE).and_then(|p| p.lock(&SystemRunner)).unwrap_err();
        let issue = error.downcast_ref::<Issue>().unwrap_or_else(|| panic!("{error:#}"));
        assert_eq!(issue.code, "no-device-mapper");
        assert_eq!([sum(a.path()), sum(b.path())], before);
        return;
    }
    let mounted = carry_out(plan.clone(), &dir.path().join("root"));
    std::fs::write(mounted.root.join("home/letter"), "dear all").unwrap();
    mounted.unmount().unwrap();
    let mut kept = plan;
    for (disk, image) in kept.disks.iter_mut().zip([&a, &b]) {
        *disk = disk_plan(image, TableKind::Gpt, 512, false, disk.partitions.clone());
        for p in &mut disk.partitions {
            p.action = if p.purpose == Role::Root { Action::Format } else { Action::Keep };
        }
    }
    kept.groups[0].action = Action::Keep;
    let mounted = carry_out(kept, &dir.path().join("again"));
    assert_eq!(std::fs::read_to_string(mounted.root.join("home/letter")).unwrap(), "dear all");
    mounted.unmount().unwrap();
}

#[test]
fn the_steps_name_every_command_in_order_and_touch_nothing() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str| Image::create(&dir.path().join(name), Bytes(SIZE), 512).unwrap();
    let (a, b) = (image("a"), image("b"));
    let before = [sum(a.path()), sum(b.path())];
    let told = steps(&spanned(&a, &b), MACHINE).unwrap();
    assert_eq!([sum(a.path()), sum(b.path())], before);
    let (a, b) = (a.path().display(), b.path().display());
    let wanted = [
        format!("wipefs --all --force --quiet {a}"),
        format!("{a}: a new GPT with the identifier "),
        format!("{a}: partition 3 at sectors 135168 to 217087 is made for AKENE_BOOT, type 0fc63daf"),
        format!("{a}: partition 5 at sectors 544768 to 620543 is made for akene-home-pv, type e6d6d379"),
        format!("write the table of {a} and read it back"),
        format!("tell the kernel of the partitions of {a}"),
        format!("wipefs --all --force --quiet {a}p5"),
        format!("write the table of {b} and read it back"),
        "lvm pvcreate".into(),
        "lvm vgcreate".into(),
        "lvm lvcreate".into(),
        "lvm lvchange".into(),
        "mkfs.vfat -i".into(),
        "mkfs.ext4 -F".into(),
        "/dev/mapper/akene--home-home".into(),
        format!("mount -t ext4 -o noatime,noinit_itable {a}p4 at / of the new system"),
        format!("{a}p3 at /boot of the new system"),
        "/dev/mapper/akene--home-home at /home of the new system".into(),
    ];
    let mut rest = told.iter();
    for want in wanted {
        assert!(rest.any(|step| step.contains(&want)), "{want} is missing, or comes too early in {told:#?}");
    }
    // What is told is what is run.
    let said = told.iter().filter(|s| s.starts_with("mkfs.ext4")).count();
    assert_eq!(said, 3, "{told:#?}");
}
