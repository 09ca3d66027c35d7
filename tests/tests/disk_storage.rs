//! Plans carried out on loop devices, judged by other people's programs: `sgdisk -v`, `sfdisk -J`,
//! `e2fsck -fn`, `fsck.vfat -n`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_agent::probe::{ProbeRoot, disk, table};
use akene_agent::storage::image::Image;
use akene_agent::storage::{Mounted, Planned};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_planner::{Action, DiskPlan, DiskRef, PartitionPlan, Plan, Role};
use akene_protocol::Bytes;
use akene_protocol::api::Consent;
use akene_protocol::ids::{MachineId, Sha256};
use akene_protocol::inventory::TableKind;
use akene_protocol::issue::Issue;
use akene_protocol::profile::Filesystem;

const MACHINE: MachineId = MachineId([0x5a; 16]);
const MIB: u64 = 1 << 20;

/// Whether loop devices can be used. Says so where not.
fn can_run() -> bool {
    let can = nix_is_root() && Path::new("/dev/loop-control").exists();
    if !can {
        eprintln!("SKIPPED: needs to be root and loop devices");
    }
    can
}

fn nix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self").metadata().is_ok_and(|m| m.uid() == 0)
}

fn run(program: &str, args: &[&str]) -> String {
    SystemRunner.run(&Cmd::new(program).args(args)).unwrap_or_else(|e| panic!("{e:#}")).text()
}

fn partition(
    number: u32,
    start: u64,
    size: u64,
    purpose: Role,
    filesystem: Option<Filesystem>,
    label: &str,
    mount: Option<&str>,
) -> PartitionPlan {
    PartitionPlan {
        number,
        start: Bytes(start * MIB),
        size: Bytes(size * MIB),
        purpose,
        action: Action::Create,
        filesystem,
        label: Some(label.to_owned()).filter(|l| !l.is_empty()),
        mount: mount.map(str::to_owned),
        why: "because the test says so".into(),
    }
}

/// A plan for the disk behind `image`, as it is now.
fn plan_for(image: &Image, kind: TableKind, sector: u32, partitions: Vec<PartitionPlan>) -> Plan {
    let name = image.path().file_name().unwrap().to_str().unwrap();
    let facts = disk::facts(&ProbeRoot::default(), name).unwrap();
    let device = File::open(image.path()).unwrap();
    let present = table::read(&device, facts.size.0, sector).unwrap();
    Plan {
        version: akene_planner::VERSION,
        disks: vec![DiskPlan {
            disk: DiskRef {
                name: facts.name,
                path: facts.path,
                by_id: facts.by_id,
                serial: facts.serial,
                wwn: facts.wwn,
                size: facts.size,
                table_hash: present.map(|t| t.hash),
            },
            logical_sector: sector,
            table: kind,
            new_table: partitions.iter().all(|p| p.action == Action::Create),
            partitions,
        }],
        destroys: Vec::new(),
        needs: Consent::Blank,
        notes: Vec::new(),
    }
}

fn gpt_layout() -> Vec<PartitionPlan> {
    vec![
        partition(1, 1, 1, Role::BiosBoot, None, "", None),
        partition(2, 2, 64, Role::Esp, Some(Filesystem::Vfat), "AKENE_ESP", Some("/boot/efi")),
        partition(3, 66, 128, Role::Boot, Some(Filesystem::Ext4), "AKENE_BOOT", Some("/boot")),
        partition(4, 194, 32, Role::Swap, Some(Filesystem::Swap), "swap", None),
        partition(5, 226, 300, Role::Root, Some(Filesystem::Ext4), "root", Some("/")),
        partition(6, 526, 200, Role::Volume("home".into()), Some(Filesystem::Ext4), "home", Some("/home")),
    ]
}

fn carry_out(plan: Plan, root: &Path) -> Mounted {
    let mut seen = Vec::new();
    let locked = Planned::new(plan, MACHINE).unwrap().lock(&SystemRunner).unwrap_or_else(|e| panic!("{e:#}"));
    let partitioned = locked.partition(&SystemRunner).unwrap_or_else(|e| panic!("{e:#}"));
    let formatted = partitioned
        .format(&SystemRunner, &mut |p| seen.push((p.done, p.total, p.what.clone())))
        .unwrap_or_else(|e| panic!("{e:#}"));
    let (done, total, _) = seen.last().unwrap();
    assert_eq!(done, total, "{seen:?}");
    formatted.mount(root).unwrap_or_else(|e| panic!("{e:#}"))
}

#[test]
fn a_gpt_disk_from_blank_to_mounted_and_back() {
    if !can_run() {
        return;
    }
    for sector in [512, 4096] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.img");
        let image = Image::create(&file, Bytes(1024 * MIB), sector).unwrap();
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
