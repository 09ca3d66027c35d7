//! The choices that weigh most, one machine each. Whole plans are in the golden directory.

mod common;

use akene_planner::{Action, DiskPlan, plan, plan_within};
use akene_protocol::Bytes;
use akene_protocol::api::Consent;
use akene_protocol::inventory::*;
use common::{after, disk, machine, usual};

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

#[test]
fn files_that_were_left_alone_are_not_taken_by_the_next_installation() {
    let partition = |number, kind: &str, looks_like| Partition {
        number,
        start: Bytes::gib(u64::from(number) * 100),
        size: Bytes::gib(100),
        kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        name: None,
        uuid: None,
        content: Some(Content {
            kind: kind.into(),
            label: None,
            uuid: None,
            used: None,
            looks_like: Some(looks_like),
        }),
    };
    // On btrfs they cannot be told apart from their system, so that the whole disk is left alone.
    let within = LooksLike::LinuxRoot { name: None, home_inside: true, home_used: None };
    let table = Table {
        kind: TableKind::Gpt,
        id: None,
        hash: akene_protocol::Sha256::of(b"theirs"),
        damage: None,
        partitions: vec![partition(1, "btrfs", within), partition(2, "xfs", LooksLike::Home)],
    };
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
