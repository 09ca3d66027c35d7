//! Finding out what the machine is.
//!
//! [`inventory`] collects facts from sysfs, the database of udev, DMI, the disks themselves and blkid. It
//! never fails as a whole: what cannot be found out is `None`, and what a person should know of
//! that is among the notes. Nothing is written anywhere; filesystems are looked at through
//! read-only devices.

mod battery;
pub mod cmd;
pub mod content;
pub mod disk;
mod display;
mod garbage;
mod health;
mod look;
mod nic;
mod notes;
mod root;
mod system;
pub mod table;
mod udev;

use std::fs::File;
use std::path::Path;

use akene_exec::Runner;
use akene_protocol::inventory::{self, Content, Disk, Inventory, LooksLike};
use akene_protocol::issue::Issue;
use anyhow::{Context, Result};

pub use root::ProbeRoot;

/// Everything that can be found out about the machine.
pub fn inventory(runner: &dyn Runner, root: &ProbeRoot) -> Inventory {
    let (cpu, memory) = system::cpu_and_memory(root);
    let mut problems = Vec::new();
    let mut disks = Vec::new();
    for name in disk::list(root) {
        match disk::facts(root, &name) {
            Ok(mut disk) => {
                disk.health = health::of(runner, &disk);
                if let Err(e) = look_at(&mut disk, runner, root) {
                    problems.push(unreadable(&name, &e));
                }
                disks.push(disk);
            }
            Err(e) => problems.push(unreadable(&name, &e)),
        }
    }
    let mut notes = notes::list(root, &disks);
    notes.append(&mut problems);
    Inventory {
        version: inventory::VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        cpu,
        memory,
        firmware: system::firmware(root),
        dmi: system::dmi(root),
        nics: nic::list(root, runner),
        displays: display::list(root),
        batteries: battery::list(root),
        disks,
        notes,
    }
}

fn unreadable(name: &str, error: &anyhow::Error) -> Issue {
    Issue::new(
        "disk-unreadable",
        name,
        format!("the disk cannot be read: {error:#}"),
        "check its cables; if it stays like that, the disk is failing and should be replaced",
    )
}

/// Reads the table of a disk and finds out what lies on its partitions.
fn look_at(disk: &mut Disk, runner: &dyn Runner, root: &ProbeRoot) -> Result<()> {
    let path = Path::new(&disk.path).to_owned();
    let device = File::open(&path).with_context(|| format!("opening {}", disk.path))?;
    let raw = table::read(&device, disk.size.0, disk.logical_sector)
        .with_context(|| format!("reading the table of {}", disk.path))?;
    disk.table = raw.map(|t| t.to_inventory());
    let whole = content_of(runner, root, &path)?;
    disk.live_medium = whole.as_ref().is_some_and(is_medium);
    let Some(table) = &mut disk.table else {
        disk.content = whole;
        return Ok(());
    };
    let known = disk::known_partitions(root, &path);
    for partition in &mut table.partitions {
        let same = |k: &&disk::KnownPartition| {
            (k.number, k.start, k.size) == (partition.number, partition.start.0, partition.size.0)
        };
        partition.content = match known.iter().find(same) {
            Some(_) => content_of(runner, root, &disk::partition_path(&path, partition.number))?,
            // The kernel has no parser for the table, or refuses it. blkid can look at a place of the disk.
            None => content::at(runner, &path, partition.start.0, partition.size.0)?.map(|mut c| {
                c.looks_like = look::from_outside(&c);
                c
            }),
        };
        disk.live_medium |= partition.content.as_ref().is_some_and(is_medium);
    }
    Ok(())
}

fn is_medium(content: &Content) -> bool {
    content.looks_like == Some(LooksLike::AkeneMedium)
}

fn content_of(runner: &dyn Runner, root: &ProbeRoot, device: &Path) -> Result<Option<Content>> {
    let mut content = content::of(runner, device)?;
    if let Some(content) = &mut content {
        content.looks_like = look::from_outside(content);
        if root.look_inside {
            look::from_inside(content, device);
        }
    }
    Ok(content)
}
