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
pub(crate) mod display;
pub(crate) mod health;
pub(crate) mod look;
pub(crate) mod lvm;
mod nic;
mod notes;
pub(crate) mod os_release;
mod root;
mod system;
pub mod table;
pub(crate) mod udev;

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use akene_exec::{ExecError, Runner};
use akene_protocol::inventory::{self, Content, Disk, Health, Inventory, LooksLike};
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
                let grade = health::of(runner, root, &disk);
                disk.health = grade.health;
                problems.extend(grade.note(&disk));
                problems.extend(look_at(&mut disk, runner, root));
                disks.push(disk);
            }
            Err(e) => problems.push(trouble(&name, &e)),
        }
    }
    let volume_groups = lvm::groups(runner, root, &disks, &mut problems);
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
        volume_groups,
        notes,
    }
}

/// What to tell of a disk or partition that cannot be looked at.
fn trouble(name: &str, error: &anyhow::Error) -> Issue {
    let message = format!("it cannot be read: {error:#}");
    if io_error(error) == Some(ErrorKind::PermissionDenied) {
        return Issue::new("disk-not-permitted", name, message, "run the program as root");
    }
    let next = "check its cables; if it stays like that, the disk is failing and should be replaced";
    Issue::new("disk-unreadable", name, message, next)
}

fn io_error(error: &anyhow::Error) -> Option<ErrorKind> {
    error.chain().find_map(|e| e.downcast_ref::<std::io::Error>()).map(std::io::Error::kind)
}

/// Stands for what could not be looked at. It must never be taken for nothing: a disk of which nothing is
/// recognised is one that may be written to without asking.
fn unreadable() -> Content {
    Content { kind: "unreadable".into(), label: None, uuid: None, used: None, looks_like: None }
}

/// Reads the table of a disk and finds out what lies on its partitions. Gives what went wrong.
fn look_at(disk: &mut Disk, runner: &dyn Runner, root: &ProbeRoot) -> Vec<Issue> {
    let mut problems = Vec::new();
    let path = Path::new(&disk.path).to_owned();
    let table = read_table(&path, disk.size.0, disk.logical_sector);
    let whole =
        table.and_then(|table| Ok((table, content_of(runner, root, &path, &disk.path, &mut problems)?)));
    let (table, whole) = match whole {
        Ok(found) => found,
        Err(e) => {
            problems.push(trouble(&disk.name, &e));
            let broken = io_error(&e).is_some_and(|kind| kind != ErrorKind::PermissionDenied);
            if broken || is_silence(&e) {
                disk.health = Health::Failing;
            }
            disk.content = Some(unreadable());
            return problems;
        }
    };
    disk.live_medium = whole.as_ref().is_some_and(is_medium);
    let Some(mut table) = table.map(|t| t.to_inventory()) else {
        disk.content = whole;
        return problems;
    };
    let known = disk::known_partitions(root, &path);
    let mut silent = false;
    for partition in &mut table.partitions {
        if silent {
            // A disk that did not answer once is not asked for every partition again.
            partition.content = Some(unreadable());
            continue;
        }
        let same = |k: &&disk::KnownPartition| {
            (k.number, k.start, k.size) == (partition.number, partition.start.0, partition.size.0)
        };
        let node = disk::partition_path(&path, partition.number);
        let found = match known.iter().find(same) {
            Some(_) => content_of(runner, root, &node, &node.to_string_lossy(), &mut problems),
            // The kernel has no parser for the table, or refuses it. blkid can look at a place of the disk.
            None => content::at(runner, &path, partition.start.0, partition.size.0)
                .map(|found| found.map(|c| Content { looks_like: look::from_outside(&c), ..c })),
        };
        partition.content = found.unwrap_or_else(|e| {
            silent = is_silence(&e);
            problems.push(trouble(&node.to_string_lossy(), &e));
            Some(unreadable())
        });
        disk.live_medium |= partition.content.as_ref().is_some_and(is_medium);
    }
    if silent {
        disk.health = Health::Failing;
    }
    disk.table = Some(table);
    problems
}

/// How long reading a table may take. The kernel tries a sector that cannot be read for half a minute and more.
const TABLE_PATIENCE: Duration = Duration::from_secs(60);

/// Something did not answer in time.
#[derive(Debug)]
struct Silence;

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it does not answer within {} s", TABLE_PATIENCE.as_secs())
    }
}

impl std::error::Error for Silence {}

/// Whether the disk did not answer us or a program.
fn is_silence(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Silence>().is_some()
        || error.downcast_ref::<ExecError>().is_some_and(|e| e.code.is_none() && e.how.starts_with("still"))
}

/// Reads a table in a thread of its own: a read from a disk that does not answer cannot be called back.
fn read_table(path: &Path, size: u64, sector: u32) -> Result<Option<table::RawTable>> {
    let (sender, receiver) = channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let table = File::open(&path)
            .with_context(|| format!("opening {}", path.display()))
            .and_then(|device| table::read(&device, size, sector));
        // Nobody listens any more when it took too long.
        sender.send(table).is_ok()
    });
    match receiver.recv_timeout(TABLE_PATIENCE) {
        Ok(table) => table,
        Err(_) => Err(Silence.into()),
    }
}

fn is_medium(content: &Content) -> bool {
    content.looks_like == Some(LooksLike::AkeneMedium)
}

fn content_of(
    runner: &dyn Runner,
    root: &ProbeRoot,
    device: &Path,
    shown: &str,
    problems: &mut Vec<Issue>,
) -> Result<Option<Content>> {
    let mut content = content::of(runner, device)?;
    if let Some(content) = &mut content {
        content.looks_like = look::from_outside(content);
        let seen = if root.look_inside { look::from_inside(content, device) } else { Ok(()) };
        if let Err(e) = seen {
            problems.push(Issue::new(
                "not-looked-at",
                shown,
                format!("its {} cannot be looked at: {e:#}", content.kind),
                "nothing, if it is not needed: it is left alone unless wiping is permitted",
            ));
        }
    }
    Ok(content)
}
