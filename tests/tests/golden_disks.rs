//! The plans of the golden machines carried out on disk images of the same sizes, with the same tables and
//! filesystems on them as the machines have. Judged by `sgdisk -v`, `sfdisk -J`, blkid and each filesystem's own
//! checker; what is kept has the same sums afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use akene_agent::probe::table;
use akene_agent::storage::image::Image;
use akene_agent::storage::{Planned, empty_root, steps};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_planner::{Action, Plan, Role};
use akene_protocol::Bytes;
use akene_protocol::inventory::{Content, Disk, Inventory, Partition, TableKind};
use akene_protocol::issue::Issue;
use akene_protocol::profile::{Bundle, Filesystem, parse_layer};
use akene_protocol::resolve::resolve;
use akene_tests::disks::{MACHINE, MIB, can_run, carry_out, run};

fn planned(case: &Path) -> Option<(Inventory, Plan)> {
    let text = fs::read_to_string(case.join("inventory.json")).unwrap();
    let inventory: Inventory = serde_json::from_str(&text).unwrap();
    let text = fs::read_to_string(case.join("profile.toml")).unwrap();
    let bundle = Bundle {
        site: "golden".into(),
        name: "golden".into(),
        revision: "0".into(),
        classes: vec![],
        profile: parse_layer(&text, "profiles/golden.toml").ok()?,
    };
    let wishes = resolve(&bundle, &inventory, None).ok()?.storage;
    let plan = akene_planner::plan(&wishes, &inventory).ok()?;
    Some((inventory, plan))
}

/// Writes the table of the golden machine on the image, with `sfdisk`.
fn make_table(disk: &Disk, image: &Image) -> Result<(), String> {
    let Some(table) = &disk.table else { return Ok(()) };
    let sector = u64::from(disk.logical_sector);
    let mut script = match table.kind {
        TableKind::Gpt => "label: gpt\n".to_owned(),
        TableKind::Mbr => "label: dos\n".to_owned(),
    };
    let line = |p: &Partition, kind: &str| {
        format!("{} : start={}, size={}, type={kind}", p.number, p.start.0 / sector, p.size.0 / sector)
    };
    let logical: Vec<&Partition> =
        table.partitions.iter().filter(|p| table.kind == TableKind::Mbr && p.number > 4).collect();
    if let (Some(first), Some(last)) =
        (logical.iter().map(|p| p.start.0).min(), logical.iter().map(|p| (p.start + p.size).0).max())
    {
        let free =
            (1..=4).find(|n| table.partitions.iter().all(|p| p.number != *n)).ok_or("no free entry")?;
        let start = first - MIB;
        script += &format!("{free} : start={}, size={}, type=f\n", start / sector, (last - start) / sector);
    }
    for p in &table.partitions {
        script += &line(p, p.kind.trim_start_matches("0x"));
        if table.kind == TableKind::Gpt {
            script += &p.uuid.iter().map(|u| format!(", uuid={u}")).collect::<String>();
            script += &p.name.iter().map(|n| format!(", name=\"{n}\"")).collect::<String>();
        }
        script += "\n";
    }
    let cmd =
        Cmd::new("sfdisk").args(["--no-reread", "--no-tell-kernel", "-q", "-w", "always"]).arg(image.path());
    SystemRunner.run(&cmd.stdin(script)).map_err(|e| format!("{e:#}"))?;
    image.show_partitions().map_err(|e| format!("{e:#}"))
}

/// Makes what lies on a device of the golden machine, as far as this host has programs for it.
fn make_content(content: &Content, node: &Path) {
    let label = content.label.clone().unwrap_or_default();
    let node = node.to_str().unwrap();
    let lazy = "lazy_itable_init=1,lazy_journal_init=1";
    match content.kind.as_str() {
        "ext4" | "ext3" | "ext2" => {
            drop(run(&format!("mkfs.{}", content.kind), &["-q", "-F", "-E", lazy, "-L", &label, node]))
        }
        "xfs" => drop(run("mkfs.xfs", &["-q", "-f", "-L", &label, node])),
        "btrfs" => drop(run("mkfs.btrfs", &["-q", "-f", "-L", &label, node])),
        "vfat" => drop(run("mkfs.vfat", &["-n", &label.to_uppercase(), node])),
        "swap" => drop(run("mkswap", &["-q", "-L", &label, node])),
        // What this host cannot make is not there.
        _ => {}
    }
}

fn sums(top: &Path) -> BTreeMap<PathBuf, String> {
    let dir = Cmd::new("find").arg(top).args(["-type", "f", "-printf", "%P %U:%G %m\\n"]);
    let listed = SystemRunner.run(&dir).unwrap().text();
    let sum = |name: &str| run("sha256sum", &["-b", top.join(name).to_str().unwrap()]);
    let cut = |line: &str| {
        let name = line.rsplitn(3, ' ').last().unwrap().to_owned();
        let sum = sum(&name);
        (PathBuf::from(name), format!("{line} {}", &sum[..64]))
    };
    listed.lines().map(cut).collect()
}

/// Puts people's files on a kept filesystem, or into an old root, and gives their sums.
fn live_in(node: &Path, place: &Path, homes: &str) -> BTreeMap<PathBuf, String> {
    fs::create_dir_all(place).unwrap();
    run("mount", &[node.to_str().unwrap(), place.to_str().unwrap()]);
    let dir = place.join(homes);
    fs::create_dir_all(dir.join("ana/Documents")).unwrap();
    fs::create_dir_all(place.join("etc")).unwrap();
    fs::write(place.join("etc/os-release"), "PRETTY_NAME=\"Old\"\n").unwrap();
    for i in 0..30u32 {
        let bytes: Vec<u8> =
            (0..i * 997).flat_map(|n| (n.wrapping_mul(2_654_435_761) ^ i).to_le_bytes()).collect();
        let path = dir.join(format!("ana/Documents/{i}"));
        fs::write(&path, bytes).unwrap();
        std::os::unix::fs::chown(&path, Some(1000 + i), Some(1000)).unwrap();
    }
    let sums = sums(&dir);
    run("umount", &[place.to_str().unwrap()]);
    sums
}

/// Lets the plan of the golden machine mean the images.
fn meant_for(mut plan: Plan, images: &BTreeMap<String, Image>) -> Plan {
    let name_of = |image: &Image| image.path().file_name().unwrap().to_str().unwrap().to_owned();
    for disk in &mut plan.disks {
        let image = &images[&disk.disk.name];
        let device = fs::File::open(image.path()).unwrap();
        let present = table::read(&device, disk.disk.size.0, disk.logical_sector).unwrap();
        disk.disk.name = name_of(image);
        disk.disk.path = image.path().to_str().unwrap().to_owned();
        (disk.disk.by_id, disk.disk.serial, disk.disk.wwn) = (None, None, None);
        disk.disk.table_hash = present.map(|t| t.hash);
    }
    for member in plan.groups.iter_mut().flat_map(|g| &mut g.members) {
        member.disk = name_of(&images[&member.disk]);
    }
    for lost in &mut plan.destroys {
        let Some((name, image)) = images.iter().rfind(|(name, _)| lost.name.starts_with(name.as_str()))
        else {
            continue;
        };
        let number = lost.name[name.len()..].trim_start_matches('p');
        let between = if number.is_empty() { "" } else { "p" };
        lost.name = format!("{}{between}{number}", name_of(image));
    }
    plan
}

fn judge(plan: &Plan) {
    for disk in &plan.disks {
        let path = &disk.disk.path;
        let seen: serde_json::Value = serde_json::from_str(&run("sfdisk", &["-J", path])).unwrap();
        let table = &seen["partitiontable"];
        match disk.table {
            TableKind::Gpt => {
                let verdict = run("sgdisk", &["-v", path]);
                assert!(verdict.contains("No problems found"), "{verdict}");
                assert_eq!(table["label"], "gpt");
            }
            TableKind::Mbr => {
                run("sfdisk", &["--verify", "-q", path]);
                assert_eq!(table["label"], "dos");
            }
        }
        let sector = u64::from(disk.logical_sector);
        let wanted: Vec<_> = disk.partitions.iter().filter(|p| p.action != Action::Delete).collect();
        for p in wanted {
            let node = format!("{path}p{}", p.number);
            let entries = table["partitions"].as_array().unwrap();
            let entry = entries.iter().find(|e| e["node"] == node.as_str());
            let entry = entry.unwrap_or_else(|| panic!("{node} is not in the table: {seen}"));
            assert_eq!(entry["start"].as_u64().unwrap() * sector, p.start.0, "{node}");
            assert_eq!(entry["size"].as_u64().unwrap() * sector, p.size.0, "{node}");
            let made = matches!(p.action, Action::Create | Action::Format);
            let Some(filesystem) = p.filesystem.filter(|_| made || p.mount.is_some()) else { continue };
            let blkid = |tag: &str| run("blkid", &["-p", "-o", "value", "-s", tag, &node]);
            assert_eq!(blkid("TYPE"), filesystem.name(), "{node}");
            if made {
                assert_eq!(blkid("LABEL"), p.label.clone().unwrap_or_default(), "{node}");
            }
            match filesystem {
                Filesystem::Ext4 => drop(run("e2fsck", &["-fn", &node])),
                Filesystem::Vfat => drop(run("fsck.vfat", &["-n", &node])),
                Filesystem::Xfs => drop(run("xfs_repair", &["-n", &node])),
                Filesystem::Btrfs => drop(run("btrfs", &["check", "--readonly", &node])),
                Filesystem::Swap => {}
            }
        }
    }
}

fn has_device_mapper() -> bool {
    fs::read_to_string("/proc/misc").unwrap().contains("device-mapper")
}

/// More than these images together would take too much of the host's time for what they show.
const LARGEST: u64 = 700_000_000_000;

fn carry_out_case(name: &str, inventory: &Inventory, plan: Plan) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut images = BTreeMap::new();
    let total: u64 = plan.disks.iter().map(|d| d.disk.size.0).sum();
    if total > LARGEST {
        return format!("left out: {} of disks", Bytes(total));
    }
    for planned in &plan.disks {
        let disk = inventory.disks.iter().find(|d| d.name == planned.disk.name).unwrap();
        let image = Image::create(&dir.path().join(&disk.name), disk.size, disk.logical_sector).unwrap();
        if let Err(e) = make_table(disk, &image) {
            return format!("left out: sfdisk does not make its table: {e}");
        }
        images.insert(disk.name.clone(), image);
    }
    let mut homes = Vec::new();
    for planned in &plan.disks {
        let disk = inventory.disks.iter().find(|d| d.name == planned.disk.name).unwrap();
        let image = &images[&disk.name];
        for p in disk.table.iter().flat_map(|t| &t.partitions) {
            let node = PathBuf::from(format!("{}p{}", image.path().display(), p.number));
            if let Some(content) = &p.content {
                make_content(content, &node);
            }
            let kept = planned.partitions.iter().find(|k| k.number == p.number);
            let Some(kept) = kept.filter(|k| matches!(k.action, Action::Keep | Action::Refresh)) else {
                continue;
            };
            let below = match (&kept.purpose, kept.action) {
                (Role::Root, Action::Refresh) => "home",
                (Role::Volume(_), Action::Keep) => "",
                _ => continue,
            };
            let mount = kept.mount.clone().unwrap_or_default();
            let place = if below.is_empty() { mount } else { "/home".into() };
            homes.push((place, live_in(&node, &dir.path().join("old"), below)));
        }
        if disk.table.is_none()
            && let Some(content) = &disk.content
        {
            make_content(content, image.path());
        }
    }
    let foreign: Vec<_> = plan
        .disks
        .iter()
        .flat_map(|d| d.partitions.iter().map(move |p| (&d.disk.name, p)))
        .filter(|(_, p)| p.purpose == Role::Foreign && p.action == Action::Keep)
        .map(|(disk, p)| PathBuf::from(format!("{}p{}", images[disk].path().display(), p.number)))
        .collect();
    let edge = |node: &PathBuf| {
        let mut bytes = vec![0; 1 << 20];
        fs::File::open(node).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    for node in &foreign {
        // Something of somebody's.
        let device = fs::OpenOptions::new().write(true).open(node).unwrap();
        device.write_all_at(&[0x77; 4096], 512 << 10).unwrap();
        device.sync_all().unwrap();
    }
    let before: Vec<_> = foreign.iter().map(edge).collect();
    let plan = meant_for(plan, &images);

    let told = steps(&plan, MACHINE).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    let making = told.iter().filter(|s| s.starts_with("mk")).count();
    let made = |p: &&akene_planner::PartitionPlan| matches!(p.action, Action::Create | Action::Format);
    let partitions = plan.disks.iter().flat_map(|d| &d.partitions).filter(made);
    let wanted = partitions.filter(|p| p.filesystem.is_some()).count();
    let groups = plan.groups.iter().filter(|g| g.action != Action::Keep).count();
    assert_eq!(making, wanted + groups, "{name}: {told:#?}");

    if !plan.groups.is_empty() && !has_device_mapper() {
        let error = Planned::new(plan, MACHINE).and_then(|p| p.lock(&SystemRunner)).unwrap_err();
        let code = error.downcast_ref::<Issue>().map(|i| i.code.clone());
        assert!(matches!(code.as_deref(), Some("no-device-mapper" | "group-changed")), "{name}: {error:#}");
        return "refused: this kernel has no device-mapper".into();
    }
    // A logical partition that stays behind one that goes would get another number: refused before anything
    // is written.
    let locked = Planned::new(plan.clone(), MACHINE).and_then(|p| p.lock(&SystemRunner));
    match locked.map(drop) {
        Err(e) if format!("{e:#}").contains("logical partitions are numbered") => {
            return format!("refused: {e:#}");
        }
        other => other.unwrap_or_else(|e| panic!("{name}: {e:#}")),
    }
    let mounted = carry_out(plan.clone(), &dir.path().join("root"));
    empty_root(&mounted, &[], &SystemRunner).unwrap_or_else(|e| panic!("{name}: {e:#}"));
    for (place, sums_before) in &homes {
        let now = sums(&mounted.root.join(place.trim_start_matches('/')));
        let now: BTreeMap<_, _> = now.into_iter().filter(|(p, _)| sums_before.contains_key(p)).collect();
        assert_eq!(now, *sums_before, "{name}: the files at {place}");
    }
    mounted.unmount().unwrap_or_else(|e| panic!("{name}: {e:#}"));
    judge(&plan);
    assert!(foreign.iter().map(edge).eq(before), "{name}: what is not ours was changed");
    for image in images.into_values() {
        image.detach().unwrap();
    }
    format!("carried out on {} disks, {} homes the same", plan.disks.len(), homes.len())
}

#[test]
fn every_golden_plan_stands_on_disks_like_those_of_its_machine() {
    if !can_run() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    let only = std::env::var("AKENE_GOLDEN").ok();
    let mut carried = 0;
    for case in cases {
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let Some((inventory, plan)) = planned(&case) else { continue };
        let started = std::time::Instant::now();
        let verdict = carry_out_case(&name, &inventory, plan);
        println!("{name}: {verdict} ({:.1} s)", started.elapsed().as_secs_f32());
        carried += usize::from(verdict.starts_with("carried out"));
    }
    assert!(only.is_some() || carried >= 30, "only {carried} plans were carried out");
}
