//! What holds for every plan, over machines and profiles nobody thought of.

mod common;

use akene_planner::{
    Action, DiskPlan, EMBEDDING_AREA, GRAIN, Issues, PartitionPlan, Plan, Role, plan, plan_within, render,
};
use akene_protocol::Bytes;
use akene_protocol::api::Consent;
use akene_protocol::inventory::*;
use akene_protocol::profile::{DiskSelector, Filesystem, Foreign, Rung};
use akene_protocol::resolve::{StorageWishes, VolumeWish};
use common::{after, disk, machine, volume, with_spare};
use proptest::prelude::*;

fn size(max_gib: u64) -> impl Strategy<Value = Bytes> {
    // Small disks are where things go wrong, so every order of magnitude is as likely as any other.
    (0..max_gib.ilog2() + 11, 0u64..1 << 20).prop_map(|(shift, rest)| Bytes((1 << (20 + shift)) + rest * 513))
}

/// Whether parts of other Akène machines, in any state, lie about on the disks.
#[derive(Clone, Copy, PartialEq)]
enum Strays {
    None,
    Any,
}

fn content(strays: Strays) -> impl Strategy<Value = Option<Content>> {
    let ours = u32::from(strays == Strays::Any);
    let looks = prop_oneof![
        2 => Just(None),
        2 => Just(Some(LooksLike::Home)),
        2 => Just(Some(LooksLike::Windows)),
        2 => Just(Some(LooksLike::LinuxRoot { name: None, home_inside: true, home_used: None })),
        1 + ours => Just(Some(LooksLike::LinuxRoot { name: None, home_inside: false, home_used: None })),
        ours => Just(Some(LooksLike::AkeneBoot { unfinished: false, root: None, root_goes: false })),
        ours => Just(Some(LooksLike::AkeneBoot { unfinished: true, root: None, root_goes: false })),
    ];
    let label = prop_oneof![
        2 => Just(None),
        2 => Just(Some("data".to_owned())),
        ours => Just(Some("AKENE_BOOT".to_owned())),
        ours => Just(Some("akene-home".to_owned()))
    ];
    let kind = prop_oneof![Just("ext4"), Just("ntfs"), Just("swap"), Just("vfat"), Just("xfs")];
    let content = (kind, label, looks).prop_map(|(kind, label, looks_like)| Content {
        kind: kind.into(),
        label,
        uuid: None,
        used: None,
        looks_like,
    });
    prop_oneof![2 => Just(None), 1 => content.prop_map(Some)]
}

/// A table of any partitions, one after the other.
fn table(whole: Bytes, strays: Strays) -> impl Strategy<Value = Option<Table>> {
    let ours = u32::from(strays == Strays::Any);
    let name =
        prop_oneof![1 => Just(None), ours => Just(Some("AKENE_BOOT")), ours => Just(Some("akene-home"))];
    let part = (1u64..50, content(strays), name);
    let table = (prop::collection::vec(part, 0..6), any::<bool>()).prop_map(move |(parts, gpt)| {
        // Before 2008 they began at sector 63.
        let early = !gpt && parts.first().is_some_and(|(share, ..)| share % 4 == 0);
        let mut at = if early { Bytes(63 * 512) } else { Bytes::mib(1) };
        let mut partitions = Vec::new();
        for (i, (share, content, name)) in parts.into_iter().enumerate() {
            let size = Bytes(whole.0 / 400 * share).align_down(Bytes(4096));
            // An MBR has no names.
            let name = name.filter(|_| gpt).map(str::to_owned);
            let kind = "0fc63daf-8483-4772-8e79-3d69d8477de4".into();
            partitions.push(Partition {
                number: i as u32 + 1,
                start: at,
                size,
                kind,
                name,
                uuid: None,
                content,
            });
            at += size;
        }
        let kind = if gpt { TableKind::Gpt } else { TableKind::Mbr };
        Table { kind, id: None, hash: akene_protocol::Sha256::of(b"before"), damage: None, partitions }
    });
    prop_oneof![1 => Just(None), 1 => table.prop_map(Some)]
}

fn any_disk(name: &'static str, strays: Strays) -> impl Strategy<Value = Disk> {
    let flags =
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1), any::<bool>());
    let health =
        prop_oneof![Just(Health::Good), Just(Health::Unknown), Just(Health::Worn), Just(Health::Failing)];
    let rotational = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
    size(4096).prop_flat_map(move |size| {
        (table(size, strays), flags, health.clone(), rotational.clone()).prop_map(
            move |(table, (removable, read_only, live_medium, big_sectors), health, rotational)| Disk {
                size: size.align_down(Bytes(4096)),
                logical_sector: if big_sectors { 4096 } else { 512 },
                table,
                removable,
                read_only,
                live_medium,
                health,
                rotational,
                ..disk(name, size)
            },
        )
    })
}

fn any_machine(strays: Strays) -> impl Strategy<Value = Inventory> {
    let firmware =
        prop_oneof![Just(FirmwareKind::Bios), Just(FirmwareKind::Uefi64), Just(FirmwareKind::Uefi32)];
    (firmware, any_disk("sda", strays), any_disk("sdb", strays), any_disk("nvme0n1", strays), 0usize..4)
        .prop_map(|(firmware, a, b, c, n)| machine(firmware, [a, b, c].into_iter().take(n).collect()))
}

fn any_wishes() -> impl Strategy<Value = StorageWishes> {
    let sizes = || (size(16), size(32), prop::option::of(size(64)));
    let wish = move |name: &'static str, mount: Option<&'static str>| {
        (sizes(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            move |((a, b, c), user_data, optional, span)| {
                let (min, enough) = (a.min(b), a.max(b));
                let wish = volume(name, mount, min, enough, c.map(|c| c.max(enough)));
                let root = name == "root";
                let user_data = user_data && !root && mount.is_some();
                VolumeWish { user_data, optional: optional && !root, span: span && mount.is_some(), ..wish }
            },
        )
    };
    let all = (
        wish("root", Some("/")),
        wish("data", Some("/srv")),
        wish("home", Some("/home")),
        wish("swap", None),
    );
    let selector = prop_oneof![
        3 => Just(None),
        1 => Just(Some(DiskSelector { removable: Some(true), ..DiskSelector::default() })),
        1 => size(64).prop_map(|min| Some(DiskSelector { min_size: Some(min), ..DiskSelector::default() })),
    ];
    (all, any::<[bool; 3]>(), any::<bool>(), selector).prop_map(
        |((root, data, home, swap), take, gpt, disks)| {
            let others = [data, home, swap].into_iter().zip(take).filter(|(_, take)| *take).map(|(v, _)| v);
            StorageWishes {
                table: if gpt { TableKind::Gpt } else { TableKind::Mbr },
                disks,
                foreign: Foreign::Replace,
                keep_homes: true,
                ladder: Rung::ALL.to_vec(),
                volumes: std::iter::once(root).chain(others).collect(),
                spare: None,
            }
        },
    )
}

fn found<'a>(inventory: &'a Inventory, plan: &DiskPlan) -> &'a Disk {
    inventory.disks.iter().find(|d| d.name == plan.disk.name).expect("the disk exists")
}

/// What holds for a new table.
fn check_new(plan: &DiskPlan, disk: &Disk) {
    let parts: Vec<_> = plan.partitions.iter().filter(|p| p.action != Action::Delete).collect();
    assert!(parts.iter().all(|p| p.action == Action::Create));
    let mut at = Bytes::mib(1);
    for (i, p) in parts.iter().enumerate() {
        assert_eq!(p.start.0 % GRAIN.0, 0, "aligned");
        assert_eq!(p.size.0 % GRAIN.0, 0, "whole grains");
        assert!(p.size > Bytes(0));
        // What is left free before a logical partition is for its boot record.
        let gap = if p.number >= 5 && plan.table == TableKind::Mbr { GRAIN } else { Bytes(0) };
        assert_eq!(p.start, at + gap, "no overlap and no room lost in between");
        at = p.start + p.size;
        match plan.table {
            TableKind::Gpt => assert_eq!(p.number as usize, i + 1),
            TableKind::Mbr if parts.len() <= 4 => assert_eq!(p.number as usize, i + 1),
            TableKind::Mbr => assert_eq!(p.number as usize, if i < 3 { i + 1 } else { i + 2 }),
        }
    }
    assert!(at <= end(disk), "the backup of a GPT fits behind");
}

fn end(disk: &Disk) -> Bytes {
    let sector = u64::from(disk.logical_sector);
    let entries = (128u64 * 128).div_ceil(sector) * sector;
    disk.size.saturating_sub(Bytes(entries + sector))
}

/// What holds for a table that stays.
fn check_kept(plan: &DiskPlan, disk: &Disk) {
    let table = disk.table.as_ref().expect("there is a table to keep");
    let mut there: Vec<_> = plan.partitions.iter().filter(|p| p.action != Action::Delete).collect();
    there.sort_by_key(|p| p.start);
    for p in &there {
        match table.partitions.iter().find(|q| q.number == p.number) {
            Some(before) if p.action != Action::Create => {
                assert_eq!((p.start, p.size), (before.start, before.size), "nothing moves");
            }
            _ => {
                assert_eq!(p.action, Action::Create);
                assert_eq!((p.start.0 % GRAIN.0, p.size.0 % GRAIN.0), (0, 0));
                assert!(p.start >= GRAIN && p.start + p.size <= end(disk));
                if plan.table == TableKind::Mbr {
                    assert!(p.number <= 4, "an extended partition that stays is not touched");
                }
                let over = |q: &&&PartitionPlan| q.start < p.start + p.size && p.start < q.start + q.size;
                assert_eq!(there.iter().filter(over).count(), 1, "nothing made overlaps anything");
            }
        }
        assert_eq!(there.iter().filter(|q| q.number == p.number).count(), 1);
    }
    for before in &table.partitions {
        assert!(
            plan.partitions.iter().any(|p| p.number == before.number),
            "every partition is accounted for"
        );
    }
}

/// What holds for a plan that makes everything anew.
fn check_wishes(plan: &Plan, wishes: &StorageWishes, inventory: &Inventory) {
    let parts: Vec<_> =
        plan.disks.iter().flat_map(|d| &d.partitions).filter(|p| p.action != Action::Delete).collect();
    let one = |role: Role| {
        let mut all = parts.iter().filter(|p| p.purpose == role);
        let first = all.next();
        assert!(all.next().is_none(), "{role:?} is there once");
        first
    };
    let first = &plan.disks[0];
    let disk = found(inventory, first);
    let kept = first.partitions.iter().any(|p| p.purpose == Role::Boot && p.action != Action::Create);
    assert!(kept || one(Role::BiosBoot).is_some() == (first.table == TableKind::Gpt));
    let boot = one(Role::Boot).expect("a boot partition");
    assert!(first.partitions.contains(boot), "the boot disk is the first");
    assert!(
        kept || boot.size >= Bytes::mib(512) && boot.start + boot.size <= Bytes(2 << 40),
        "in reach of a BIOS"
    );
    assert_eq!(boot.filesystem, Some(Filesystem::Ext4));
    if !kept && inventory.firmware.kind == FirmwareKind::Bios {
        let staying = first.partitions.iter().filter(|p| p.action != Action::Delete);
        let begins = staying.map(|p| p.start).min().expect("a boot partition");
        assert!(first.table == TableKind::Gpt || begins >= EMBEDDING_AREA, "room for GRUB");
        assert_eq!(disk.logical_sector, 512, "what a BIOS reads");
    }
    assert!(kept || boot.label.as_deref() == Some("AKENE_BOOT"));
    let Some(esp) = one(Role::Esp) else {
        assert!(!first.new_table && inventory.firmware.kind == FirmwareKind::Bios, "an EFI system partition");
        return check_sizes(plan, &parts, wishes, inventory);
    };
    assert!(first.partitions.contains(esp));
    let made = esp.action == Action::Create;
    assert!(!made || esp.size >= if disk.logical_sector == 4096 { Bytes::mib(257) } else { Bytes::mib(64) });
    check_sizes(plan, &parts, wishes, inventory);
}

fn check_sizes(plan: &Plan, parts: &[&PartitionPlan], wishes: &StorageWishes, inventory: &Inventory) {
    for wish in &wishes.volumes {
        let p = parts
            .iter()
            .find(|p| p.mount == wish.mount && (p.mount.is_some() || p.purpose == Role::Swap))
            .map(|p| (p.size, p.action));
        let group = plan
            .groups
            .iter()
            .find(|g| g.mount == wish.mount && g.mount.is_some())
            .map(|g| (g.size, g.action));
        assert!(p.is_none() || group.is_none());
        let Some((size, action)) = p.or(group) else {
            let in_root = wish.name == "home" && plan.rung != "full";
            assert!(wish.optional || in_root, "{} is mandatory", wish.name);
            continue;
        };
        if matches!(action, Action::Keep | Action::Refresh) {
            continue;
        }
        assert!(size >= wish.min, "{} has its minimum", wish.name);
        // The last extents of a group may be rounded up.
        let most = wish.max.map(|max| max.max(wish.min.align_up(GRAIN)).max(GRAIN));
        let slack = if group.is_some() { Bytes::mib(64) } else { Bytes(0) };
        let made = action == Action::Create;
        assert!(!made || most.is_none_or(|max| size <= max + slack), "{}", wish.name);
    }
    for group in &plan.groups {
        // One that is there serves whatever was laid on it, by a profile that allows none, too.
        assert_eq!(
            group.action == Action::Create,
            inventory.volume_groups.iter().all(|g| g.name != group.name),
            "{} is made where there is none",
            group.name
        );
        assert!(group.action != Action::Create || wishes.volumes.iter().any(|v| v.span));
        let members: Bytes = group
            .members
            .iter()
            .map(|m| {
                let disk =
                    plan.disks.iter().find(|d| d.disk.name == m.disk).expect("its disk is in the plan");
                let p =
                    disk.partitions.iter().find(|p| p.number == m.partition && p.action != Action::Delete);
                let p = p.expect("its partition is in the plan");
                assert_eq!(p.purpose, Role::Physical(group.name.clone()));
                (p.size - Bytes::mib(1)).align_down(Bytes::mib(4))
            })
            .sum();
        assert!(group.size <= members && group.size.0 % Bytes::mib(4).0 == 0);
        assert!(group.members.len() > 1);
    }
}

/// Whether a disk's own boot partition says that it never held a whole system.
fn unfinished(disk: &Disk) -> bool {
    let parts = disk.table.iter().flat_map(|t| &t.partitions);
    let boot = |p: &&Partition| {
        let label = p.content.as_ref().and_then(|c| c.label.as_deref());
        let looks = p.content.as_ref().and_then(|c| c.looks_like.as_ref());
        [p.name.as_deref(), label].contains(&Some("AKENE_BOOT"))
            || matches!(looks, Some(LooksLike::AkeneBoot { .. }))
    };
    parts.filter(boot).any(|p| {
        p.content
            .as_ref()
            .is_none_or(|c| matches!(c.looks_like, Some(LooksLike::AkeneBoot { unfinished: true, .. })))
    })
}

/// UUIDs of the roots that a disk's boot partitions name, but for those on which an installation was begun.
fn whole(disk: &Disk) -> Vec<&str> {
    let parts = disk.table.iter().flat_map(|t| &t.partitions);
    let looks = parts.filter_map(|p| p.content.as_ref()?.looks_like.as_ref());
    looks
        .filter_map(|l| match l {
            LooksLike::AkeneBoot { root, root_goes: false, .. } => root.as_deref(),
            _ => None,
        })
        .collect()
}

/// Whether an installation only got as far as the table.
fn never_used(disk: &Disk) -> bool {
    let mut parts = disk.table.iter().flat_map(|t| &t.partitions);
    let ours =
        |p: &Partition| p.name.as_deref().is_some_and(|n| n.starts_with("akene-") || n == "AKENE_BOOT");
    parts.all(|p| ours(p) && p.content.is_none())
}

fn check(wishes: &StorageWishes, inventory: &Inventory) -> Option<Plan> {
    let plan: Plan = match plan(wishes, inventory) {
        Ok(plan) => plan,
        Err(Issues(issues)) => {
            assert!(!issues.is_empty());
            assert!(issues.iter().all(|i| !i.code.is_empty() && !i.message.is_empty() && !i.next.is_empty()));
            return None;
        }
    };
    assert_eq!(plan.destroys.is_empty(), plan.needs == Consent::Blank);
    check_wishes(&plan, wishes, inventory);
    let boot = found(inventory, &plan.disks[0]);
    for done in &plan.disks {
        let disk = found(inventory, done);
        assert!(!disk.live_medium && !disk.read_only && disk.health != Health::Failing);
        assert!(!disk.removable || wishes.disks.as_ref().is_some_and(|s| s.removable == Some(true)));
        match done.new_table {
            true => check_new(done, disk),
            false => check_kept(done, disk),
        }
        // Everything recognised that is not kept is named.
        let kept = |n| done.partitions.iter().any(|p| p.number == n && p.action == Action::Keep);
        for p in disk.table.iter().flat_map(|t| &t.partitions).filter(|p| !kept(p.number)) {
            let node = common::node(&disk.name, p.number);
            let listed = plan.destroys.iter().any(|d| d.name == node);
            let looks = p.content.as_ref().and_then(|c| c.looks_like.as_ref());
            let files =
                matches!(looks, Some(LooksLike::Home | LooksLike::LinuxRoot { home_inside: true, .. }));
            // What an installation that was never completed left is nobody's.
            let before = inventory.disks.iter().any(unfinished);
            let rest = !done.new_table && !files && before;
            let refreshed =
                done.partitions.iter().any(|q| q.number == p.number && q.action == Action::Refresh);
            let begun = done.new_table && never_used(disk);
            // A place for a root in which nothing was made yet.
            let place = matches!(p.name.as_deref(), Some("akene-root" | "akene-spare"));
            let room = !done.new_table && place && p.content.is_none();
            let uuid = p.content.as_ref().and_then(|c| c.uuid.as_deref());
            let system = uuid.is_some_and(|uuid| whole(boot).contains(&uuid));
            assert!(
                listed || !system && (rest || begun || room || refreshed && before),
                "partition {} is lost and not named",
                p.number
            );
            // People's files are never lost while a profile wants them kept.
            let linux =
                p.content.as_ref().is_some_and(|c| matches!(c.kind.as_str(), "ext4" | "xfs" | "btrfs"));
            let ours = done.partitions.iter().any(|q| q.number == p.number && q.action == Action::Format);
            assert!(!wishes.keep_homes || !files || !linux || refreshed || ours, "{p:?}");
        }
    }
    assert!(!render::text(&plan, inventory, render::Style::default()).is_empty());
    Some(plan)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_plan_is_sound(wishes in any_wishes(), inventory in any_machine(Strays::Any)) {
        let Some(first) = check(&wishes, &inventory) else { return Ok(()) };
        // The order in which the kernel found the disks changes nothing.
        let mut turned = inventory.clone();
        turned.disks.reverse();
        let again = plan(&wishes, &turned).unwrap();
        prop_assert_eq!((&first.disks, &first.destroys, &first.groups), (&again.disks, &again.destroys, &again.groups));
    }

    #[test]
    fn a_machine_that_has_the_plan_keeps_it(wishes in any_wishes(), inventory in any_machine(Strays::None)) {
        let Some(first) = check(&wishes, &inventory) else { return Ok(()) };
        let installed = after(&first, &inventory);
        let second = plan(&wishes, &installed).unwrap();
        check(&wishes, &installed);
        let places = |plan: &Plan| -> Vec<(String, u32, Bytes, Bytes, Role)> {
            let there = |d: &DiskPlan| {
                let there = d.partitions.iter().filter(|p| p.action != Action::Delete);
                there.map(|p| (d.disk.name.clone(), p.number, p.start, p.size, p.purpose.clone())).collect::<Vec<_>>()
            };
            plan.disks.iter().flat_map(there).collect()
        };
        let shown = |plan: &Plan, before: &Inventory| render::text(plan, before, render::Style::default());
        prop_assert_eq!(
            places(&first), places(&second),
            "first\n{}\nthen\n{}", shown(&first, &inventory), shown(&second, &installed)
        );
        prop_assert!(second.disks.iter().all(|d| !d.new_table));
        for p in second.disks.iter().flat_map(|d| &d.partitions) {
            let role = &p.purpose;
            let user_data = |name: &str| wishes.volumes.iter().any(|v| v.name == name && v.user_data);
            let expected = match role {
                Role::BiosBoot | Role::Esp | Role::Boot | Role::Foreign | Role::Physical(_) => Action::Keep,
                Role::Root if p.action == Action::Refresh => Action::Refresh,
                Role::Volume(name) if user_data(name) => Action::Keep,
                _ => Action::Format,
            };
            prop_assert_eq!(p.action, expected, "{:?}", role);
        }
        // And so for ever after.
        let third = plan(&wishes, &after(&second, &installed)).unwrap();
        prop_assert_eq!((&second.disks, &second.groups), (&third.disks, &third.groups));
    }

    /// Where there are two places for a root, the system so far stays, and the places take turns.
    #[test]
    fn two_places_for_a_root_take_turns(wishes in any_wishes(), inventory in any_machine(Strays::None)) {
        let wishes = with_spare(wishes);
        let (Some(first), Ok(alone)) =
            (check(&wishes, &inventory), plan(&StorageWishes { spare: None, ..wishes.clone() }, &inventory))
        else { return Ok(()) };
        // A place for a second root takes nothing from anybody.
        let names = |plan: &Plan| -> Vec<String> { plan.disks.iter().map(|d| d.disk.name.clone()).collect() };
        prop_assert_eq!((&first.rung, &first.destroys, first.needs), (&alone.rung, &alone.destroys, alone.needs));
        prop_assert!(names(&first).iter().all(|name| names(&alone).contains(name)));
        let root = |plan: &Plan, role: Role| {
            let parts = plan.disks.iter().flat_map(|d| d.partitions.iter().map(|p| (d.disk.name.clone(), p)));
            parts.filter(|(_, p)| p.purpose == role && p.action != Action::Delete)
                .map(|(disk, p)| (disk, p.number, p.start, p.size, p.action)).collect::<Vec<_>>()
        };
        let mut machine = after(&first, &inventory);
        let (mut before, mut plans) = (first, Vec::new());
        for _ in 0..3 {
            let next = plan(&wishes, &machine).unwrap();
            check(&wishes, &machine);
            if next.groups.iter().any(|group| group.purpose == Role::Root) {
                prop_assert!(root(&next, Role::Old).is_empty());
                return Ok(());
            }
            // An installation that broke off is begun again in the same way: what counts is what has proven itself.
            let [made] = root(&next, Role::Root)[..].to_vec().try_into().unwrap_or_else(|all| panic!("{all:?}"));
            let (old, was) = (root(&next, Role::Old), &root(&before, Role::Root)[0]);
            let spares = [old.clone(), root(&next, Role::Spare)].concat();
            prop_assert!(spares.len() <= 1 && spares.iter().all(|s| s.4 == Action::Keep));
            match &old[..] {
                [] => prop_assert_eq!((&made.0, made.1), (&was.0, was.1), "it is made where it was"),
                [old, ..] => {
                    prop_assert_eq!((&old.0, old.1), (&was.0, was.1), "it stays");
                    prop_assert!(made.4 != Action::Refresh);
                }
            }
            if !old.is_empty() {
                let named = next.destroys.iter().any(|d| d.name == common::node(&was.0, was.1));
                prop_assert!(named, "that {was:?} goes in the end is not said");
            }
            machine = after(&next, &machine);
            before = next.clone();
            plans.push(next);
        }
        // From the second reinstallation on they are the same places, and the third is as the first.
        let places = |plan: &Plan| {
            let mut all = [Role::Root, Role::Old, Role::Spare].map(|role| root(plan, role)).concat();
            all.iter_mut().for_each(|p| p.4 = Action::Keep);
            all.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
            all
        };
        prop_assert_eq!(places(&plans[0]), places(&plans[1]));
        prop_assert_eq!(
            root(&plans[0], Role::Root).iter().map(|p| (p.0.clone(), p.1)).collect::<Vec<_>>(),
            root(&plans[2], Role::Root).iter().map(|p| (p.0.clone(), p.1)).collect::<Vec<_>>()
        );
    }

    /// Where an installation beside a system broke off, and the next one has another profile, that system is lost only with
    /// permission.
    #[test]
    fn a_system_beside_half_of_another_is_never_lost_unsaid(
        wishes in any_wishes(), others in any_wishes(), inventory in any_machine(Strays::None), spare in any::<bool>()
    ) {
        let wishes = with_spare(wishes);
        let Ok(first) = plan(&wishes, &inventory) else { return Ok(()) };
        let installed = after(&first, &inventory);
        let mut broken = after(&plan(&wishes, &installed).unwrap(), &installed);
        let named = whole(found(&installed, &first.disks[0])).first().map(|uuid| (*uuid).to_owned());
        let parts = broken.disks.iter_mut().flat_map(|d| d.table.iter_mut().flat_map(|t| &mut t.partitions));
        for content in parts.filter_map(|p| p.content.as_mut()) {
            if let Some(LooksLike::AkeneBoot { unfinished, root, .. }) = &mut content.looks_like {
                (*unfinished, *root) = (true, named.clone());
            }
        }
        check(&if spare { with_spare(others) } else { others }, &broken);
        if let Ok(careful) = plan_within(&wishes, &broken, Consent::Blank) {
            prop_assert!(careful.destroys.is_empty());
        }
    }

    /// With parts of other machines about, nobody may be able to tell what is whose. Then nothing is touched.
    #[test]
    fn a_machine_among_strays_keeps_its_plan_or_is_refused(
        wishes in any_wishes(), inventory in any_machine(Strays::Any)
    ) {
        let Some(first) = check(&wishes, &inventory) else { return Ok(()) };
        let installed = after(&first, &inventory);
        match plan(&wishes, &installed) {
            Ok(second) => {
                check(&wishes, &installed);
                prop_assert!(second.disks.iter().all(|d| !d.new_table));
            }
            Err(Issues(issues)) => prop_assert!(issues.iter().all(|i| i.code == "kept-data-in-the-way"), "{issues:?}"),
        }
    }

    #[test]
    fn without_permission_to_wipe_nothing_is_lost(wishes in any_wishes(), inventory in any_machine(Strays::Any)) {
        if let Ok(careful) = plan_within(&wishes, &inventory, Consent::Blank) {
            prop_assert!(careful.destroys.is_empty());
            prop_assert_eq!(careful.needs, Consent::Blank);
        }
    }
}
