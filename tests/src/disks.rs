//! Disk images as disks: what the tests on real block devices share.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use akene_agent::probe::{ProbeRoot, disk, table};
use akene_agent::storage::image::Image;
use akene_agent::storage::{Mounted, Planned};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_planner::{Action, DiskPlan, DiskRef, PartitionPlan, Plan, Role};
use akene_protocol::Bytes;
use akene_protocol::ids::MachineId;
use akene_protocol::inventory::TableKind;
use akene_protocol::profile::Filesystem;

/// The machine the tests install.
pub const MACHINE: MachineId = MachineId([0x5a; 16]);

/// A mebibyte.
pub const MIB: u64 = 1 << 20;

/// Whether loop devices can be used. Says so where not.
pub fn has_loop_devices() -> bool {
    let root = Path::new("/proc/self").metadata().is_ok_and(|m| m.uid() == 0);
    let has = root && Path::new("/dev/loop-control").exists();
    if !has {
        eprintln!("SKIPPED: needs to be root and loop devices");
    }
    has
}

/// The same for a test that mounts what is on them.
pub fn can_run() -> bool {
    let can = has_loop_devices();
    if can {
        // Tests run side by side. A mount namespace that one of them makes for a moment would hold a copy of what
        // another has mounted, and its disk would stay in use.
        akene_exec::own_mounts().unwrap_or_else(|e| panic!("{e:#}"));
    }
    can
}

/// Whether a program is there. Says so where not.
pub fn has(program: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&dirs).any(|dir| dir.join(program).exists());
    if !there {
        eprintln!("SKIPPED: there is no {program} here");
    }
    there
}

/// Runs a program and gives what it said.
///
/// # Panics
/// When it fails.
pub fn run(program: &str, args: &[&str]) -> String {
    SystemRunner.run(&Cmd::new(program).args(args)).unwrap_or_else(|e| panic!("{e:#}")).text()
}

/// A partition to create. Places are in MiB.
pub fn partition(
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
        name: None,
        action: Action::Create,
        filesystem,
        label: Some(label.to_owned()).filter(|l| !l.is_empty()),
        mount: mount.map(str::to_owned),
        why: "because the test says so".into(),
    }
}

/// A small whole system on a GPT disk of 304 MiB.
pub fn gpt_layout() -> Vec<PartitionPlan> {
    vec![
        partition(1, 1, 1, Role::BiosBoot, None, "", None),
        partition(2, 2, 64, Role::Esp, Some(Filesystem::Vfat), "AKENE_ESP", Some("/boot/efi")),
        partition(3, 66, 40, Role::Boot, Some(Filesystem::Ext4), "AKENE_BOOT", Some("/boot")),
        partition(4, 106, 32, Role::Swap, Some(Filesystem::Swap), "swap", None),
        partition(5, 138, 100, Role::Root, Some(Filesystem::Ext4), "root", Some("/")),
        partition(6, 238, 48, Role::Volume("home".into()), Some(Filesystem::Ext4), "home", Some("/home")),
    ]
}

/// The plan of one disk, for the image as it is now.
///
/// # Panics
/// When the disk cannot be read.
pub fn disk_plan(
    image: &Image,
    kind: TableKind,
    sector: u32,
    new_table: bool,
    partitions: Vec<PartitionPlan>,
) -> DiskPlan {
    let name = image.path().file_name().unwrap().to_str().unwrap();
    let facts = disk::facts(&ProbeRoot::default(), name).unwrap();
    let device = File::open(image.path()).unwrap();
    let present = table::read(&device, facts.size.0, sector).unwrap();
    DiskPlan {
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
        new_table,
        partitions,
    }
}

/// A plan of these disks, the boot disk first.
pub fn plan_of(disks: Vec<DiskPlan>) -> Plan {
    Plan {
        version: akene_planner::VERSION,
        disks,
        groups: Vec::new(),
        rung: "full".into(),
        destroys: Vec::new(),
        needs: akene_protocol::api::Consent::Blank,
        notes: Vec::new(),
    }
}

/// Says in the plan that what is on the disk of the image is lost.
///
/// # Panics
/// When the image has no name.
pub fn wiping(mut plan: Plan, image: &Image) -> Plan {
    let name = image.path().file_name().unwrap().to_str().unwrap().to_owned();
    plan.destroys.push(akene_planner::Destroyed { name, what: "what was there".into() });
    plan
}

/// Carries a plan out and mounts it at `root`.
///
/// # Panics
/// When a step fails, or the progress of formatting does not end where it said it would.
pub fn carry_out(plan: Plan, root: &Path) -> Mounted {
    let mut seen = Vec::new();
    let done = Planned::new(plan, MACHINE)
        .and_then(|p| p.lock(&SystemRunner))
        .and_then(|l| l.partition(&SystemRunner))
        .and_then(|p| p.format(&SystemRunner, &mut |p| seen.push((p.done, p.total, p.what.clone()))))
        .and_then(|f| f.mount(root));
    let mounted = done.unwrap_or_else(|e| panic!("{e:#}"));
    let (done, total, _) = seen.last().expect("formatting tells its progress");
    assert_eq!(done, total, "{seen:?}");
    mounted
}
