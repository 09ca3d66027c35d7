//! The choices that weigh most, one machine each. Whole plans are in the golden directory.

mod common;

use akene_planner::{Action, DiskPlan, Plan, Role, plan, plan_within};
use akene_protocol::Bytes;
use akene_protocol::api::Consent;
use akene_protocol::inventory::*;
use akene_protocol::profile::Foreign;
use akene_protocol::resolve::{StorageWishes, VolumeWish};
use common::{after, disk, machine, usual, with_spare};

fn windows(name: &str, size: Bytes) -> Disk {
    let content = Content {
        kind: "ntfs".into(),
        label: Some("OS".into()),
        uuid: None,
        used: None,
        looks_like: Some(LooksLike::Windows),
    };
    Disk { content: Some(content), ..disk(name, size) }
}

#[test]
fn without_permission_to_wipe_a_worse_disk_is_used_or_none() {
    let good = Disk { rotational: Some(false), ..windows("sda", Bytes::gib(200)) };
    let both = machine(FirmwareKind::Uefi64, vec![good.clone(), disk("sdb", Bytes::gib(8))]);
    assert_eq!(plan(&usual(), &both).unwrap().disks[0].disk.name, "sda");
    let careful = plan_within(&usual(), &both, Consent::Blank).unwrap();
    assert_eq!(careful.disks[0].disk.name, "sdb");
    assert!(careful.notes.iter().any(|n| n.contains("Windows")), "{:?}", careful.notes);

    let alone = machine(FirmwareKind::Uefi64, vec![good]);
    let issues = plan_within(&usual(), &alone, Consent::Blank).unwrap_err();
    assert_eq!(issues.0[0].code, "consent-needed");
    assert!(issues.0[0].message.contains("Windows (ntfs \"OS\", 200 GiB)"), "{issues}");
}

#[test]
fn where_all_have_enough_a_blank_disk_is_taken_before_one_that_holds_something() {
    let quick = Disk { rotational: Some(false), ..windows("sda", Bytes::gib(200)) };
    let both = machine(FirmwareKind::Bios, vec![quick, disk("sdb", Bytes::gib(100))]);
    let plan = plan(&usual(), &both).unwrap();
    assert_eq!((plan.disks[0].disk.name.as_str(), plan.needs), ("sdb", Consent::Blank));
}

#[test]
fn a_reinstall_stays_on_its_disk_and_keeps_peoples_files() {
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(40))]);
    let mut now = after(&plan(&usual(), &before).unwrap(), &before);
    now.disks.push(Disk { rotational: Some(false), ..disk("sdb", Bytes::gib(400)) });
    let again = plan(&usual(), &now).unwrap();
    assert_eq!((again.disks[0].disk.name.as_str(), again.disks[0].new_table), ("sda", false));
    let home = again.disks[0].partitions.iter().find(|p| p.mount.as_deref() == Some("/home")).unwrap();
    assert_eq!(home.action, Action::Keep);
    assert_eq!(again.needs, Consent::Wipe, "the old system is lost");
}

#[test]
fn peoples_files_stop_the_installation_when_they_cannot_stay() {
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(40))]);
    let mut now = after(&plan(&usual(), &before).unwrap(), &before);
    now.disks.push(disk("sdb", Bytes::gib(400)));
    let mut greedy = usual();
    greedy.volumes[0].min = Bytes::gib(19);
    let issues = plan(&greedy, &now).unwrap_err();
    assert_eq!((issues.0[0].code.as_str(), issues.0[0].path.as_str()), ("kept-data-in-the-way", "sda6"));
}

/// One of another system: 100 GiB, behind as many.
fn partition(number: u32, kind: &str, looks_like: LooksLike) -> Partition {
    let looks_like = Some(looks_like);
    Partition {
        number,
        start: Bytes::gib(u64::from(number) * 100),
        size: Bytes::gib(100),
        kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        name: None,
        uuid: None,
        content: Some(Content { kind: kind.into(), label: None, uuid: None, used: None, looks_like }),
    }
}

fn strange(kind: TableKind, partitions: Vec<Partition>) -> Table {
    let hash = akene_protocol::Sha256::of(b"theirs");
    Table { kind, id: None, hash, damage: None, partitions }
}

#[test]
fn files_that_were_left_alone_are_not_taken_by_the_next_installation() {
    // On btrfs they cannot be told apart from their system, so that the whole disk is left alone.
    let within = LooksLike::LinuxRoot { name: None, home_inside: true, home_used: None };
    let table =
        strange(TableKind::Gpt, vec![partition(1, "btrfs", within), partition(2, "xfs", LooksLike::Home)]);
    let theirs = Disk { table: Some(table), ..disk("sdb", Bytes::gib(400)) };
    let mut wishes = usual();
    wishes.volumes[1].min = Bytes::gib(6);
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(8)), theirs]);
    let first = plan(&wishes, &before).unwrap();
    let names = |disks: &[DiskPlan]| disks.iter().map(|d| d.disk.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&first.disks), first.rung.as_str()), (vec!["sda".to_owned()], "no-home"));
    let second = plan(&wishes, &after(&first, &before)).unwrap();
    assert_eq!((names(&second.disks), second.rung.as_str()), (vec!["sda".to_owned()], "no-home"));
}

#[test]
fn a_home_that_was_adopted_between_the_parts_of_a_group_is_found_again() {
    for kind in [TableKind::Mbr, TableKind::Gpt] {
        let theirs = strange(kind, vec![partition(2, "ext4", LooksLike::Home)]);
        let theirs = Disk { table: Some(theirs), ..disk("sdb", Bytes::gib(500)) };
        let mut wishes = StorageWishes { table: kind, ..usual() };
        // No single place holds it.
        let srv = common::volume("data", Some("/srv"), Bytes::gib(350), Bytes::gib(350), None);
        wishes.volumes.push(VolumeWish { user_data: true, span: true, ..srv });
        let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(20)), theirs]);
        let first = plan(&wishes, &before).unwrap();
        let homes = |plan: &Plan| {
            let sdb = plan.disks.iter().find(|d| d.disk.name == "sdb").unwrap();
            sdb.partitions.iter().map(|p| (p.number, p.size, p.purpose.clone())).collect::<Vec<_>>()
        };
        assert_eq!(first.groups[0].members.len(), 2, "{first:?}");
        assert!(homes(&first).contains(&(2, Bytes::gib(100), Role::Volume("home".into()))));
        let second = plan(&wishes, &after(&first, &before)).unwrap();
        assert_eq!(homes(&second), homes(&first));
        assert_eq!(second.groups[0].action, Action::Keep);
    }
}

/// Until 2008 partitions began at sector 63: with one that stays there, GRUB has no place before it.
#[test]
fn a_bios_starts_no_disk_whose_first_partition_leaves_grub_no_room() {
    let beginning = |start, looks_like, kind: &str| {
        let first = Partition { start, ..partition(1, kind, looks_like) };
        Disk { table: Some(strange(TableKind::Mbr, vec![first])), ..disk("sda", Bytes::gib(300)) }
    };
    let home = |start| beginning(start, LooksLike::Home, "ext4");
    let (early, late) = (Bytes(63 * 512), Bytes::mib(1));
    let boot = |firmware, disks: Vec<Disk>| {
        plan(&usual(), &machine(firmware, disks)).map(|plan| plan.disks[0].disk.name.clone())
    };
    assert_eq!(boot(FirmwareKind::Bios, vec![home(late)]).unwrap(), "sda");
    assert_eq!(boot(FirmwareKind::Uefi64, vec![home(early)]).unwrap(), "sda");
    assert_eq!(boot(FirmwareKind::Bios, vec![home(early), disk("sdb", Bytes::gib(20))]).unwrap(), "sdb");
    let refused = boot(FirmwareKind::Bios, vec![home(early)]).unwrap_err().0;
    assert_eq!(refused[0].code, "kept-data-in-the-way");
    assert!(refused[0].message.contains("begins before 256 KiB"), "{}", refused[0].message);
    // Beside what is left of others just the same.
    let leave = StorageWishes { foreign: Foreign::Leave, ..usual() };
    let theirs = |start| machine(FirmwareKind::Bios, vec![beginning(start, LooksLike::Windows, "ntfs")]);
    assert!(plan(&leave, &theirs(late)).is_ok());
    let codes: Vec<String> =
        plan(&leave, &theirs(early)).unwrap_err().0.into_iter().map(|i| i.code).collect();
    assert_eq!(codes, ["not-startable-by-bios"]);
    let large = Disk { logical_sector: 4096, ..disk("sda", Bytes::gib(300)) };
    let codes: Vec<String> = plan(&usual(), &machine(FirmwareKind::Bios, vec![large]))
        .unwrap_err()
        .0
        .into_iter()
        .map(|i| i.code)
        .collect();
    assert_eq!(codes, ["not-startable-by-bios"]);
}

/// The number of the root of a plan and of what stays beside it.
fn roots(plan: &Plan) -> (u32, Option<(u32, Role)>) {
    let all = || plan.disks.iter().flat_map(|d| &d.partitions);
    let root = all().find(|p| p.purpose == Role::Root).unwrap();
    let beside = all().find(|p| matches!(p.purpose, Role::Old | Role::Spare));
    assert!(beside.is_none_or(|p| p.action == Action::Keep || plan.disks[0].new_table));
    (root.number, beside.map(|p| (p.number, p.purpose.clone())))
}

#[test]
fn a_second_root_is_reserved_where_people_have_plenty_with_it() {
    for (gib, reserved) in [(40, false), (80, false), (90, true), (400, true)] {
        let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(gib))]);
        let first = plan(&with_spare(usual()), &before).unwrap();
        assert_eq!(roots(&first).1.is_some(), reserved, "{gib}");
        assert_eq!(first.rung, "full");
    }
}

#[test]
fn the_system_that_has_proven_itself_stays_and_an_installation_that_broke_off_changes_nothing_in_that() {
    let wishes = with_spare(usual());
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(100))]);
    let first = plan(&wishes, &before).unwrap();
    assert_eq!(roots(&first), (5, Some((6, Role::Spare))));
    let mut now = after(&first, &before);
    let second = plan(&wishes, &now).unwrap();
    assert_eq!(roots(&second), (6, Some((5, Role::Old))));
    assert!(
        second.destroys.iter().any(|d| d.name == "sda5" && d.what.contains("until then it stays")),
        "{second:?}"
    );
    assert_eq!(second.needs, Consent::Wipe);
    // The power was cut: half of the new system lies in its place.
    let parts = |machine: &mut Inventory| machine.disks[0].table.as_mut().unwrap().partitions.clone();
    let looks = |machine: &mut Inventory, number: u32, looks_like| {
        let partitions = &mut machine.disks[0].table.as_mut().unwrap().partitions;
        let partition = partitions.iter_mut().find(|p| p.number == number).unwrap();
        partition
            .content
            .get_or_insert(Content {
                kind: "ext4".into(),
                label: None,
                uuid: None,
                used: None,
                looks_like: None,
            })
            .looks_like = Some(looks_like);
    };
    let whole = parts(&mut now).iter().find(|p| p.number == 5).unwrap().content.clone().unwrap();
    let boot = |unfinished, root| LooksLike::AkeneBoot { unfinished, root, root_goes: false };
    looks(&mut now, 6, whole.looks_like.clone().unwrap());
    looks(&mut now, 3, boot(true, whole.uuid.clone()));
    assert_eq!(roots(&plan(&wishes, &now).unwrap()), (6, Some((5, Role::Old))));
    // Nothing says that there is a whole system: the first installation broke off.
    looks(&mut now, 3, boot(true, None));
    assert_eq!(roots(&plan(&wishes, &now).unwrap()), (5, Some((6, Role::Spare))));
    // The new one was handed over and has not confirmed itself: the old one is still the one that stays.
    looks(&mut now, 3, boot(false, whole.uuid));
    assert_eq!(roots(&plan(&wishes, &now).unwrap()), (6, Some((5, Role::Old))));
    // Where nobody wants a second one, the root is made where it is.
    assert_eq!(roots(&plan(&usual(), &now).unwrap()), (5, Some((6, Role::Spare))));
    // Half of it lies there then, wherever that is and however whole it looks: what goes on does not change places.
    for number in [5, 6] {
        let there = parts(&mut now).iter().find(|p| p.number == number).unwrap().content.clone().unwrap();
        let root = Some(there.uuid.unwrap_or_else(|| "6".into()));
        let partitions = &mut now.disks[0].table.as_mut().unwrap().partitions;
        partitions.iter_mut().find(|p| p.number == number).unwrap().content.as_mut().unwrap().uuid =
            root.clone();
        looks(&mut now, 3, LooksLike::AkeneBoot { unfinished: true, root, root_goes: true });
        for wishes in [&wishes, &usual()] {
            assert_eq!(roots(&plan(wishes, &now).unwrap()), (number, Some((11 - number, Role::Spare))));
        }
    }
}

/// The content of a partition of the first disk.
fn content(machine: &mut Inventory, number: u32) -> &mut Content {
    let partitions = &mut machine.disks[0].table.as_mut().unwrap().partitions;
    let partition = partitions.iter_mut().find(|p| p.number == number).unwrap();
    partition.content.get_or_insert(Content {
        kind: "ext4".into(),
        label: None,
        uuid: Some("half".into()),
        used: None,
        looks_like: None,
    })
}

/// An installation beside a whole system on partition 5 broke off.
fn broken_off(machine: &mut Inventory, other: u32) {
    let whole = content(machine, 5).clone();
    content(machine, other).looks_like = whole.looks_like;
    content(machine, 3).looks_like =
        Some(LooksLike::AkeneBoot { unfinished: true, root: whole.uuid, root_goes: false });
}

#[test]
fn a_whole_system_beside_one_that_broke_off_is_lost_with_permission_only() {
    let var = common::volume("var", Some("/var"), Bytes::gib(1), Bytes::gib(2), Some(Bytes::gib(2)));
    let mut wishes = with_spare(usual());
    wishes.volumes.push(var);
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(100))]);
    let mut now = after(&plan(&wishes, &before).unwrap(), &before);
    broken_off(&mut now, 6);
    let (mut never, mut larger) = (wishes.clone(), wishes.clone());
    never.spare = None;
    // The other place would be a step back.
    larger.volumes[0].enough = Bytes::gib(24);
    for (lost, place) in [("akene-spare", "akene-root"), ("akene-root", "akene-spare")] {
        for p in &mut now.disks[0].table.as_mut().unwrap().partitions {
            match p.number {
                5 => p.name = Some(lost.into()),
                6 => p.name = Some(place.into()),
                _ => {}
            }
        }
        for wishes in [&never, &larger] {
            let plan = plan(wishes, &now).unwrap();
            assert_eq!(roots(&plan), (5, Some((6, Role::Spare))));
            let var = plan.disks[0].partitions.iter().find(|p| p.mount.as_deref() == Some("/var")).unwrap();
            let lost: Vec<&str> = plan.destroys.iter().map(|d| d.name.as_str()).collect();
            assert!(lost.contains(&"sda5") && lost.contains(&&*format!("sda{}", var.number)), "{lost:?}");
            assert!(!lost.contains(&"sda6") && plan.needs == Consent::Wipe, "{plan:?}");
            let refused = plan_within(wishes, &now, Consent::Blank).unwrap_err();
            assert_eq!(refused.0[0].code, "consent-needed");
        }
    }
    // On a volume group just the same.
    let mut grouped = now.clone();
    let var = grouped.disks[0].table.as_mut().unwrap().partitions.iter_mut();
    let var = var.filter(|p| p.name.as_deref() == Some("akene-var")).map(|p| {
        p.name = Some("akene-var-pv".into());
        let member = Content {
            kind: "LVM2_member".into(),
            label: None,
            looks_like: None,
            ..p.content.clone().unwrap()
        };
        let logical =
            LogicalVolume { name: "var".into(), size: Bytes::gib(2), content: p.content.replace(member) };
        VolumeGroup {
            name: "akene-var".into(),
            uuid: "uuid".into(),
            members: vec![common::node("sda", p.number)],
            complete: true,
            logical: vec![logical],
        }
    });
    grouped.volume_groups = var.collect();
    let plan_of_group = plan(&never, &grouped).unwrap();
    assert_eq!(plan_of_group.groups[0].action, Action::Format);
    assert!(plan_of_group.destroys.iter().any(|d| d.name == "akene-var/var"), "{plan_of_group:?}");
    // And around people's files in it.
    let root = content(&mut now, 5);
    root.looks_like = match root.looks_like.take() {
        Some(LooksLike::LinuxRoot { name, home_used, .. }) => {
            Some(LooksLike::LinuxRoot { name, home_inside: true, home_used })
        }
        other => panic!("{other:?}"),
    };
    never.volumes.retain(|v| v.name != "home");
    let refreshed = plan(&never, &now).unwrap();
    let root = refreshed.disks[0].partitions.iter().find(|p| p.number == 5).unwrap();
    assert_eq!(root.action, Action::Refresh);
    assert!(refreshed.destroys.iter().any(|d| d.name == "sda5"), "{refreshed:?}");
}

#[test]
fn a_system_that_would_miss_something_is_not_kept() {
    let mut wishes = with_spare(usual());
    let var = common::volume("var", Some("/var"), Bytes::gib(1), Bytes::gib(2), Some(Bytes::gib(2)));
    wishes.volumes.push(var);
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(100))]);
    let second = plan(&wishes, &after(&plan(&wishes, &before).unwrap(), &before)).unwrap();
    assert_eq!(roots(&second), (5, Some((6, Role::Spare))));
}

#[test]
fn where_people_s_files_lie_in_the_root_no_second_one_is_reserved() {
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(400))]);
    let mut wishes = with_spare(usual());
    wishes.volumes.retain(|v| v.name != "home");
    let first = plan(&wishes, &before).unwrap();
    assert_eq!(roots(&first).1, None);
    // Nor is one made in free room.
    let second = plan(&wishes, &after(&first, &before)).unwrap();
    assert_eq!(roots(&second), (roots(&first).0, None));
    // Files that nobody keeps are in nobody's way.
    wishes.keep_homes = false;
    assert!(roots(&plan(&wishes, &before).unwrap()).1.is_some());
}

#[test]
fn what_does_not_fit_in_the_place_of_the_old_root_is_made_in_the_other() {
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(100))]);
    let mut wishes = with_spare(usual());
    let mut now = after(&plan(&wishes, &before).unwrap(), &before);
    now = after(&plan(&wishes, &now).unwrap(), &now);
    let blank = disk("sdb", Bytes::gib(400));
    now.disks.push(blank);
    // The system lies in the second place, which is smaller.
    let partitions = &mut now.disks[0].table.as_mut().unwrap().partitions;
    let place = partitions.iter_mut().find(|p| p.number == 6).unwrap();
    place.size = place.size - Bytes::gib(4);
    wishes.volumes[0].min = Bytes::gib(18);
    let next = plan(&wishes, &now).unwrap();
    assert_eq!((roots(&next), next.disks.len()), ((5, Some((6, Role::Old))), 1));
    let home = next.disks[0].partitions.iter().find(|p| p.mount.as_deref() == Some("/home")).unwrap();
    assert_eq!(home.action, Action::Keep);
    // Where neither serves, nothing is done.
    wishes.volumes[0].min = Bytes::gib(30);
    wishes.volumes[0].enough = Bytes::gib(30);
    assert_eq!(plan(&wishes, &now).unwrap_err().0[0].code, "kept-data-in-the-way");
    wishes = StorageWishes { spare: None, ..usual() };
    wishes.volumes[0].min = Bytes::gib(18);
    assert_eq!(plan(&wishes, &now).unwrap_err().0[0].code, "kept-data-in-the-way");
}

#[test]
fn half_of_a_disk_is_plenty() {
    let mut wishes = with_spare(usual());
    wishes.volumes[1].enough = Bytes::gib(40);
    for (gib, reserved) in [(80, false), (95, true)] {
        let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(gib))]);
        assert_eq!(roots(&plan(&wishes, &before).unwrap()).1.is_some(), reserved, "{gib}");
    }
}

#[test]
fn a_blank_disk_is_not_taken_for_a_second_root() {
    let mut before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(60))]);
    let mut now = after(&plan(&usual(), &before).unwrap(), &before);
    before = machine(FirmwareKind::Bios, vec![disk("sdb", Bytes::gib(200))]);
    now.disks.append(&mut before.disks);
    let again = plan(&with_spare(usual()), &now).unwrap();
    assert_eq!(roots(&again), (5, None));
    assert_eq!(again.disks.len(), 1, "{again:?}");
}

#[test]
fn free_room_holds_a_second_root_that_was_not_reserved() {
    let before = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(100))]);
    let mut now = after(&plan(&usual(), &before).unwrap(), &before);
    let wishes = with_spare(usual());
    assert_eq!(roots(&plan(&wishes, &now).unwrap()), (5, None), "there is no room");
    let home = now.disks[0].table.as_mut().unwrap().partitions.iter_mut().find(|p| p.number == 6).unwrap();
    home.size = home.size - Bytes::gib(12);
    assert_eq!(
        roots(&plan(&wishes, &now).unwrap()),
        (5, None),
        "it would be smaller than the one that is there"
    );
    let home = now.disks[0].table.as_mut().unwrap().partitions.iter_mut().find(|p| p.number == 6).unwrap();
    home.size = home.size - Bytes::gib(13);
    let second = plan(&wishes, &now).unwrap();
    assert_eq!(roots(&second), (7, Some((5, Role::Old))));
    let made = second.disks[0].partitions.iter().find(|p| p.number == 7).unwrap();
    assert_eq!((made.action, made.table_name().as_deref()), (Action::Create, Some("akene-spare")));
    // And then they take turns.
    let after = after(&second, &now);
    assert_eq!(roots(&plan(&wishes, &after).unwrap()), (5, Some((7, Role::Old))));
}
