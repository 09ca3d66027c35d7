//! Random plans, judged by `sgdisk -v` and `sfdisk`.

use std::collections::BTreeSet;
use std::path::Path;

use akene_exec::{Cmd, ExecError, Runner, SystemRunner};
use akene_planner::{DiskRef, PartitionPlan, Role};
use akene_protocol::Bytes;
use akene_protocol::ids::MachineId;
use akene_protocol::profile::Filesystem;
use proptest::prelude::*;

use super::*;
use crate::storage::image::Image;
use crate::sys::block;
use crate::sys::test_disk::has_loop_devices;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 512 * MIB;

fn run(program: &str, args: &[&str]) -> String {
    match SystemRunner.run(&Cmd::new(program).args(args)) {
        Ok(output) => output.text(),
        Err(e) => match e.downcast_ref::<ExecError>() {
            Some(e) => panic!("{e}"),
            None => panic!("{e:#}"),
        },
    }
}

fn ids(path: &Path) -> Ids {
    Ids::new(MachineId([7; 16]), &disk_ref(path), 0)
}

fn disk_ref(path: &Path) -> DiskRef {
    DiskRef {
        name: "loop".into(),
        path: path.to_string_lossy().into_owned(),
        by_id: None,
        serial: None,
        wwn: None,
        size: Bytes(SIZE),
        table_hash: None,
    }
}

fn part(number: u32, start: u64, size: u64, action: Action) -> PartitionPlan {
    PartitionPlan {
        number,
        start: Bytes(start),
        size: Bytes(size),
        purpose: Role::Volume(format!("v{number}")),
        name: None,
        action,
        filesystem: Some(Filesystem::Ext4),
        label: None,
        mount: None,
        why: String::new(),
    }
}

/// Gaps and lengths in MiB, and a number for each partition.
fn layout() -> impl Strategy<Value = Vec<(u64, u64, u32)>> {
    prop::collection::vec((0u64..6, 1u64..40, 1u32..=128), 1..9)
}

/// Places the partitions one behind the other. Numbers are made to fit the kind of table.
fn planned(kind: TableKind, sector: u32, layout: &[(u64, u64, u32)]) -> DiskPlan {
    let mut at = MIB;
    let mut used = BTreeSet::new();
    let mut partitions = Vec::new();
    for (i, (gap, length, number)) in layout.iter().enumerate() {
        let number = match kind {
            TableKind::Gpt => (*number..=128).chain(1..*number).find(|n| used.insert(*n)).unwrap(),
            // Three primary ones, and the rest logical ones with room for their links.
            TableKind::Mbr => [1, 2, 3].get(i).copied().unwrap_or(i as u32 + 2),
        };
        at += gap * MIB + if kind == TableKind::Mbr && number > 4 { MIB } else { 0 };
        partitions.push(part(number, at, length * MIB, Action::Create));
        at += length * MIB;
    }
    DiskPlan {
        disk: disk_ref(Path::new("/dev/loop")),
        logical_sector: sector,
        table: kind,
        new_table: true,
        partitions,
    }
}

/// Rehearses and writes a plan on a device as [`rehearse`] and [`write`] do, and lets others judge it.
fn carry_out(image: &Image, device: &File, plan: &DiskPlan) -> RawTable {
    let sector = plan.logical_sector;
    let present = read(device, SIZE, sector).unwrap();
    if plan.new_table {
        device.write_all_at(&vec![0; EDGE as usize], 0).unwrap();
        device.write_all_at(&vec![0; EDGE as usize], SIZE - EDGE).unwrap();
    }
    put(device, plan, present.as_ref(), &ids(image.path())).unwrap_or_else(|e| panic!("{e:#}"));
    let result = read(device, SIZE, sector).unwrap().unwrap();
    compare(plan, present.as_ref(), &result).unwrap_or_else(|e| panic!("{e:#}"));

    let path = image.path().to_str().unwrap();
    if plan.table == TableKind::Gpt {
        let verdict = run("sgdisk", &["-v", path]);
        assert!(verdict.contains("No problems found"), "{verdict}\n{plan:#?}");
    } else {
        run("sfdisk", &["--verify", "-q", path]);
    }
    let seen: serde_json::Value = serde_json::from_str(&run("sfdisk", &["-J", path])).unwrap();
    let seen = &seen["partitiontable"];
    assert_eq!(seen["label"], if plan.table == TableKind::Gpt { "gpt" } else { "dos" });
    let entries = seen["partitions"].as_array().unwrap();
    let unit = u64::from(sector);
    let others: BTreeSet<_> = entries
        .iter()
        .filter(|e| e["type"] != "f" && e["type"] != "5")
        .map(|e| {
            let node = e["node"].as_str().unwrap();
            let number: u32 = node.rsplit('p').next().unwrap().parse().unwrap();
            (number, e["start"].as_u64().unwrap() * unit, e["size"].as_u64().unwrap() * unit)
        })
        .collect();
    let ours: BTreeSet<_> = result.partitions.iter().map(|p| (p.number, p.start, p.size)).collect();
    assert_eq!(ours, others);
    if let (Some(ours), Some(others)) = (&result.id, seen["id"].as_str()) {
        assert_eq!(others.trim_start_matches("0x").to_lowercase(), *ours);
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_plan_is_a_sound_table_and_so_is_any_change_to_it(
        mbr: bool,
        large_sectors: bool,
        layout in layout(),
        // What happens to each partition in a second plan.
        fates in prop::collection::vec(0u8..3, 9),
    ) {
        if !has_loop_devices() {
            return Ok(());
        }
        let (kind, sector) = (
            if mbr { TableKind::Mbr } else { TableKind::Gpt },
            if large_sectors { 4096 } else { 512 },
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let image = Image::create(file.path(), Bytes(SIZE), sector).unwrap();
        let device = block::open_rw(image.path()).unwrap();
        let mut plan = planned(kind, sector, &layout);
        let first = carry_out(&image, &device, &plan);

        // The second plan keeps, formats, or makes anew at half the size. A logical partition is never made
        // anew out of its order, which the numbers do not allow.
        plan.new_table = false;
        for (p, fate) in plan.partitions.iter_mut().zip(&fates) {
            p.action = [Action::Keep, Action::Format, Action::Create][usize::from(*fate)];
            if p.action == Action::Create {
                p.size = Bytes((p.size.0 / 2).max(MIB));
            }
        }
        // And the last one goes.
        if let Some(last) = plan.partitions.last_mut() {
            last.action = Action::Delete;
        }
        if plan.partitions.len() > 1 {
            let second = carry_out(&image, &device, &plan);
            prop_assert_eq!(second.id, first.id);
        }
        drop(device);
        image.detach().unwrap();
    }
}

#[test]
fn links_beyond_4_gib_are_written_where_they_belong() {
    let size = 9 << 30;
    let stage = tempfile::tempfile().unwrap();
    stage.set_len(size).unwrap();
    let mut plan = planned(TableKind::Mbr, 512, &[(0, 1, 0), (0, 1, 0), (0, 1, 0)]);
    plan.disk.size = Bytes(size);
    plan.partitions.push(part(5, 5 << 30, 1 << 30, Action::Create));
    plan.partitions.push(part(6, 7 << 30, 1 << 30, Action::Create));
    put(&stage, &plan, None, &ids(Path::new("x"))).unwrap();
    let result = read(&stage, size, 512).unwrap().unwrap();
    compare(&plan, None, &result).unwrap();
    assert_eq!(result.partitions[4].ebr, Some((7 << 30) - MIB));
}

#[test]
fn what_would_not_come_out_as_planned_is_refused() {
    let stage = tempfile::tempfile().unwrap();
    stage.set_len(SIZE).unwrap();
    let ids = ids(Path::new("x"));
    let sound = planned(TableKind::Gpt, 512, &[(0, 10, 1), (0, 10, 2)]);
    put(&stage, &sound, None, &ids).unwrap();
    let result = read(&stage, SIZE, 512).unwrap().unwrap();
    compare(&sound, None, &result).unwrap();

    // The plan says something else than what was written.
    let mut other = sound.clone();
    other.partitions[1].size = Bytes(11 * MIB);
    let error = compare(&other, None, &result).unwrap_err();
    assert_eq!(error.downcast_ref::<Issue>().unwrap().code, "rehearsal-failed");
    // A kept partition whose entry changed, if only in its name.
    let mut keeps = sound.clone();
    keeps.partitions[0].action = Action::Keep;
    let mut before = result.clone();
    before.partitions[0].raw[60] ^= 1;
    let error = compare(&keeps, Some(&before), &result).unwrap_err().to_string();
    assert!(error.contains("partition 1 was to stay as it is and changed"), "{error}");

    // Into the copy of the table at the end.
    let mut late = sound.clone();
    late.partitions[1] = part(2, SIZE - 2 * MIB, 2 * MIB, Action::Create);
    let error = put(&stage, &late, None, &ids).unwrap_err().to_string();
    assert!(error.contains("partition 2 ends in the table's own place"), "{error}");
    // A logical partition without room for its link.
    let mut tight = planned(TableKind::Mbr, 512, &[(0, 10, 0), (0, 10, 0), (0, 10, 0)]);
    tight.partitions.push(part(5, 31 * MIB, MIB, Action::Create));
    let error = put(&stage, &tight, None, &ids).unwrap_err().to_string();
    assert!(error.contains("has no room for its link"), "{error}");
    // A gap in the numbers of logical partitions.
    tight.partitions[3] = part(6, 40 * MIB, MIB, Action::Create);
    let error = put(&stage, &tight, None, &ids).unwrap_err().to_string();
    assert!(error.contains("6 would become 5"), "{error}");
}
