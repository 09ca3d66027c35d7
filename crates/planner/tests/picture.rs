//! The picture of a plan: bars for terminals, SVG for browsers. That the SVG is well-formed is for xmllint to say, over
//! the golden machines.

mod common;

use akene_planner::render::{Style, svg, text};
use akene_planner::{Action, GroupPlan, Issue, Issues, Member, Plan, Role, plan};
use akene_protocol::inventory::*;
use akene_protocol::profile::Filesystem;
use akene_protocol::{Bytes, Sha256};
use common::{disk, machine, usual};

/// A disk with `n` small partitions and a large one, whose labels mean something to terminals and browsers.
fn hostile(n: u32) -> Disk {
    let content = |label: &str| Content {
        kind: "ext4".into(),
        label: Some(label.into()),
        uuid: None,
        used: None,
        looks_like: None,
    };
    let partition = |number: u32, start: Bytes, size: Bytes| Partition {
        number,
        start,
        size,
        kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        name: None,
        uuid: None,
        content: Some(content("</text><script>&\"'\x1b[2J\u{1}\n\u{ffff}")),
    };
    let mut partitions: Vec<Partition> =
        (1..=n).map(|i| partition(i, Bytes::mib(u64::from(i)), Bytes::mib(1))).collect();
    partitions.push(partition(n + 1, Bytes::gib(1), Bytes::gib(90)));
    let table = Table { kind: TableKind::Gpt, id: None, hash: Sha256::of(b""), damage: None, partitions };
    Disk { table: Some(table), model: Some("<b>\x1b[31m".into()), ..disk("sda", Bytes::gib(100)) }
}

fn bars(text: &str) -> Vec<&str> {
    text.lines().filter(|l| l.starts_with("  before ") || l.starts_with("  after ")).collect()
}

#[test]
fn bars_fill_the_width_and_show_every_partition() {
    for width in [40, 80, 200] {
        for n in [0, 1, 5, 20, 127] {
            let inventory = machine(FirmwareKind::Bios, vec![hostile(n)]);
            let plan = plan(&usual(), &inventory).unwrap();
            let plain = text(&plan, &inventory, Style { colour: false, width });
            let found = bars(&plain);
            assert_eq!(found.len(), 2, "{plain}");
            for bar in found {
                assert!(bar.chars().count() <= width && bar.chars().count() >= width - 1, "{bar}");
            }
            if width == 80 {
                for name in ["|BIOS|", "|EFI|", "|/boot|", "|swap|", " / ", " /home "] {
                    assert!(bars(&plain)[1].contains(name), "{name}: {plain}");
                }
            }
            // One cell a partition, and the free room behind them, as long as a cell has room for a number.
            let cells = bars(&plain)[0].matches('|').count() - 1;
            let drawn = n as usize + 2;
            assert!(
                cells == drawn + 1 || cells == drawn || drawn * 3 > width - 11,
                "{cells} of {drawn}: {plain}"
            );
        }
    }
}

#[test]
fn colour_changes_nothing_but_colour() {
    let inventory = machine(FirmwareKind::Bios, vec![hostile(3)]);
    let plan = plan(&usual(), &inventory).unwrap();
    let plain = text(&plan, &inventory, Style::default());
    assert!(!plain.contains('\x1b'), "nothing from a label reaches the terminal: {plain}");
    let coloured = text(&plan, &inventory, Style { colour: true, width: 80 });
    let mut bare = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, code)) = rest.split_once("\x1b[") {
        let (code, after) = code.split_once('m').expect("only colours are set");
        assert!(code.chars().all(|c| c.is_ascii_digit() || c == ';'), "{code:?}");
        bare.push_str(before);
        rest = after;
    }
    bare.push_str(rest);
    let squeezed = |text: &str| -> String { text.chars().filter(|c| !matches!(c, ' ' | '|')).collect() };
    assert_eq!(squeezed(&bare), squeezed(&plain));
}

#[test]
fn nothing_from_a_machine_becomes_markup_in_the_picture() {
    let inventory = machine(FirmwareKind::Bios, vec![hostile(127)]);
    let plan = plan(&usual(), &inventory).unwrap();
    let picture = svg(&inventory, Ok(&plan));
    assert_eq!(picture, svg(&inventory, Ok(&plan)), "the same machine, the same picture");
    assert!(!picture.contains("<script") && !picture.contains("<b>"), "{picture}");
    assert!(picture.chars().all(|c| c == '\n' || !c.is_control()) && !picture.contains('\u{ffff}'));
    assert_eq!(picture.matches("<title").count(), picture.matches("</title>").count());
    assert!(picture.contains("<desc id=\"akene-plan-desc\">sda"), "{picture}");
    // 128 partitions, six new ones, and the free room: each can be pointed at.
    assert!(picture.matches("<g><title>").count() >= 128 + 6, "{picture}");
}

#[test]
fn a_machine_that_cannot_be_installed_is_drawn_with_the_reason() {
    let inventory = machine(FirmwareKind::Bios, vec![hostile(1)]);
    let issues = Issues(vec![Issue::new("x", "sda", "sda is <too> small", "buy another")]);
    let picture = svg(&inventory, Err(&issues));
    assert!(
        picture.contains("sda is &lt;too&gt; small.") && picture.contains("To do: buy another."),
        "{picture}"
    );
    assert!(!picture.contains(">after<"));
    let nothing = svg(&machine(FirmwareKind::Bios, vec![]), Err(&issues));
    assert!(nothing.contains("This computer has no disk."));
}

/// Three disks with a `/home` over two of them.
fn spanned() -> (Inventory, Plan) {
    let disks = ["sda", "sdb", "sdc"].map(|name| disk(name, Bytes::gib(10)));
    let mut inventory = machine(FirmwareKind::Bios, disks.to_vec());
    inventory.volume_groups.push(VolumeGroup {
        name: "old<vg>".into(),
        uuid: "u".into(),
        members: vec!["sdc1".into()],
        complete: false,
        logical: vec![LogicalVolume { name: "data".into(), size: Bytes::gib(3), content: None }],
    });
    let alone = machine(FirmwareKind::Bios, vec![disk("sda", Bytes::gib(10))]);
    let mut plan = plan(&usual(), &alone).unwrap();
    let home = Role::Volume("home".into());
    plan.disks[0].partitions.retain(|p| p.purpose != home);
    for name in ["sdb", "sdc"] {
        let mut other = plan.disks[0].clone();
        other.disk.name = name.into();
        other.partitions.truncate(1);
        other.partitions[0].purpose = Role::Physical("akene-home".into());
        (other.partitions[0].size, other.partitions[0].filesystem) = (Bytes::gib(9), None);
        plan.disks.push(other);
    }
    let member = |disk: &str| Member { disk: disk.into(), partition: 1 };
    plan.groups.push(GroupPlan {
        name: "akene-home".into(),
        purpose: home,
        action: Action::Create,
        size: Bytes::gib(18),
        filesystem: Some(Filesystem::Ext4),
        label: Some("akene-home".into()),
        mount: Some("/home".into()),
        members: vec![member("sdb"), member("sdc")],
        why: "no disk alone has room for 12 GiB".into(),
    });
    (inventory, plan)
}

#[test]
fn a_group_is_shown_once_with_its_members() {
    let (inventory, plan) = spanned();
    let plain = text(&plan, &inventory, Style::default());
    assert_eq!(plain.matches("LVM group akene-home").count(), 1, "{plain}");
    assert!(plain.contains("sdb1 9 GiB") && plain.contains("sdc1 9 GiB"), "{plain}");
    assert!(plain.contains("no disk alone has room for 12 GiB"), "{plain}");
    let picture = svg(&inventory, Ok(&plan));
    assert_eq!(
        picture.matches(">/home (ext4, 18 GiB) over 2 partitions, LVM group akene-home<").count(),
        1,
        "{picture}"
    );
    // A group that is there and not in the plan is drawn too.
    assert!(picture.contains("old&lt;vg&gt; (LVM group on sdc1, a part of it is missing)"), "{picture}");
    assert!(picture.contains(">stays as it is<"), "{picture}");
    println!("{plain}\n{picture}");
}
