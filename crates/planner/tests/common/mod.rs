//! Machines made up for tests, and what a disk looks like when a plan was carried out on it.

// Each test program takes what it needs.
#![allow(dead_code)]

use akene_planner::{Action, DiskPlan, Plan, Role};
use akene_protocol::inventory::*;
use akene_protocol::profile::{Filesystem, Foreign, Medium, Rung};
use akene_protocol::resolve::{StorageWishes, VolumeWish};
use akene_protocol::{Bytes, Sha256};

/// A blank fixed disk.
pub fn disk(name: &str, size: Bytes) -> Disk {
    Disk {
        name: name.into(),
        path: format!("/dev/{name}"),
        by_id: None,
        size,
        logical_sector: 512,
        physical_sector: 512,
        model: None,
        serial: Some(format!("SN-{name}")),
        wwn: None,
        bus: Bus::Sata,
        rotational: Some(true),
        removable: false,
        read_only: false,
        live_medium: false,
        health: Health::Unknown,
        table: None,
        content: None,
    }
}

/// A machine with these disks.
pub fn machine(firmware: FirmwareKind, disks: Vec<Disk>) -> Inventory {
    Inventory {
        version: akene_protocol::inventory::VERSION,
        agent: "test".into(),
        cpu: Cpu::default(),
        memory: Memory { total: Bytes::gib(2) },
        firmware: Firmware { kind: firmware, secure_boot: None, vendor: None, version: None, date: None },
        dmi: Dmi::default(),
        disks,
        volume_groups: vec![],
        nics: vec![],
        displays: vec![],
        batteries: vec![],
        notes: vec![],
    }
}

/// A volume with these sizes.
pub fn volume(name: &str, mount: Option<&str>, min: Bytes, enough: Bytes, max: Option<Bytes>) -> VolumeWish {
    VolumeWish {
        name: name.into(),
        mount: mount.map(str::to_owned),
        filesystem: if mount.is_none() { Filesystem::Swap } else { Filesystem::Ext4 },
        min,
        enough,
        max,
        user_data: false,
        optional: false,
        priority: 50,
        medium: Medium::Any,
        span: false,
    }
}

/// The volumes of a profile that says nothing.
pub fn usual() -> StorageWishes {
    let home = volume("home", Some("/home"), Bytes::gib(1), Bytes::gib(20), None);
    let swap = volume("swap", None, Bytes::mib(256), Bytes::gib(2), Some(Bytes::gib(2)));
    StorageWishes {
        table: TableKind::Gpt,
        disks: None,
        foreign: Foreign::Replace,
        keep_homes: true,
        ladder: Rung::ALL.to_vec(),
        volumes: vec![
            VolumeWish {
                medium: Medium::Fast,
                ..volume("root", Some("/"), Bytes::gib(3), Bytes::gib(20), Some(Bytes::gib(64)))
            },
            VolumeWish { user_data: true, optional: true, span: true, ..home },
            VolumeWish { optional: true, medium: Medium::Fast, ..swap },
        ],
        spare: None,
    }
}

/// The same with a place for a second root, as large as is enough for one.
pub fn with_spare(wishes: StorageWishes) -> StorageWishes {
    let root = &wishes.volumes[0];
    let (min, max) = (root.enough, Some(root.enough));
    let spare = VolumeWish { name: "spare".into(), mount: None, min, max, span: false, ..root.clone() };
    StorageWishes { spare: Some(spare), ..wishes }
}

/// UUID of the root that a plan makes at this place.
fn root_uuid(disk: &str, number: u32) -> String {
    format!("root-{disk}-{number}")
}

/// The table a plan leaves behind, as a probe would see it.
pub fn applied(plan: &DiskPlan) -> Table {
    let kind = |role: &Role| match (plan.table, role) {
        (TableKind::Gpt, Role::BiosBoot) => "21686148-6449-6e6f-744e-656564454649",
        (TableKind::Gpt, Role::Esp) => "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        (TableKind::Gpt, Role::Swap) => "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
        (TableKind::Gpt, Role::Physical(_)) => "e6d6d379-f507-44c2-a23c-238f2a3df928",
        (TableKind::Mbr, Role::Physical(_)) => "0x8e",
        (TableKind::Gpt, _) => "0fc63daf-8483-4772-8e79-3d69d8477de4",
        (TableKind::Mbr, Role::Esp) => "0xef",
        (TableKind::Mbr, Role::Swap) => "0x82",
        (TableKind::Mbr, _) => "0x83",
    };
    let mut partitions: Vec<Partition> = plan
        .partitions
        .iter()
        .filter(|p| p.action != Action::Delete)
        .map(|p| Partition {
            number: p.number,
            start: p.start,
            size: p.size,
            kind: kind(&p.purpose).into(),
            name: if plan.table == TableKind::Gpt { p.table_name() } else { None },
            uuid: None,
            content: matches!(p.purpose, Role::Physical(_)).then(member).or(p.filesystem.map(|f| Content {
                kind: f.name().into(),
                label: p.label.clone(),
                uuid: (p.purpose == Role::Root).then(|| root_uuid(&plan.disk.name, p.number)),
                used: None,
                looks_like: match &p.purpose {
                    Role::Boot => {
                        Some(LooksLike::AkeneBoot { unfinished: false, root: None, root_goes: false })
                    }
                    Role::Esp => Some(LooksLike::Esp),
                    Role::Swap => Some(LooksLike::Swap),
                    Role::Root => Some(LooksLike::LinuxRoot {
                        name: Some("Debian GNU/Linux 12 (bookworm)".into()),
                        home_inside: p.action == Action::Refresh,
                        home_used: None,
                    }),
                    Role::Volume(name) if name == "home" => Some(LooksLike::Home),
                    _ => None,
                },
            })),
        })
        .collect();
    partitions.sort_by_key(|p| p.number);
    Table { kind: plan.table, id: None, hash: Sha256::of(b"after"), damage: None, partitions }
}

fn member() -> Content {
    Content { kind: "LVM2_member".into(), label: None, uuid: None, used: None, looks_like: None }
}

/// Name of a partition's node.
pub fn node(disk: &str, number: u32) -> String {
    match disk.ends_with(|c: char| c.is_ascii_digit()) {
        true => format!("{disk}p{number}"),
        false => format!("{disk}{number}"),
    }
}

/// The machine after the plan was carried out, and the new system has confirmed itself.
pub fn after(plan: &Plan, before: &Inventory) -> Inventory {
    let mut inventory = before.clone();
    for done in &plan.disks {
        for disk in inventory.disks.iter_mut().filter(|d| d.name == done.disk.name) {
            let mut table = applied(done);
            // What is not ours stays what it is, and so does the system so far. A place keeps its name.
            let before: Vec<Partition> = disk.table.iter().flat_map(|t| t.partitions.clone()).collect();
            let stays = |n: u32| {
                done.partitions.iter().any(|p| {
                    p.number == n
                        && matches!(p.purpose, Role::Foreign | Role::Old | Role::Spare)
                        && p.action == Action::Keep
                })
            };
            for p in table
                .partitions
                .iter_mut()
                .filter(|p| !done.new_table && p.name.as_deref() == Some("akene-root"))
            {
                if let Some(old) = before.iter().find(|q| q.number == p.number) {
                    p.name.clone_from(&old.name);
                }
            }
            for p in table.partitions.iter_mut().filter(|p| stays(p.number)) {
                if let Some(old) = before.iter().find(|q| q.number == p.number) {
                    *p = old.clone();
                }
            }
            disk.table = Some(table);
            disk.content = None;
        }
    }
    let made = plan.disks.iter().flat_map(|d| d.partitions.iter().map(move |p| (&d.disk.name, p)));
    let mut made = made.filter(|(_, p)| p.purpose == Role::Root && p.action != Action::Delete);
    let uuid = made.next().map(|(disk, p)| root_uuid(disk, p.number));
    let contents =
        inventory.disks.iter_mut().flat_map(|d| d.table.iter_mut().flat_map(|t| &mut t.partitions));
    for content in contents.filter_map(|p| p.content.as_mut()) {
        if let Some(LooksLike::AkeneBoot { root, unfinished: false, .. }) = &mut content.looks_like {
            root.clone_from(&uuid);
        }
    }
    for group in &plan.groups {
        inventory.volume_groups.retain(|g| g.name != group.name);
        let looks_like = (group.volume() == "home").then_some(LooksLike::Home);
        inventory.volume_groups.push(VolumeGroup {
            name: group.name.clone(),
            uuid: "uuid".into(),
            members: group.members.iter().map(|m| node(&m.disk, m.partition)).collect(),
            complete: true,
            logical: vec![LogicalVolume {
                name: group.volume().into(),
                size: group.size,
                content: group.filesystem.map(|f| Content {
                    kind: f.name().into(),
                    label: group.label.clone(),
                    uuid: None,
                    used: None,
                    looks_like,
                }),
            }],
        });
    }
    inventory
}
