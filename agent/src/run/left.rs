//! Events that wait on a boot partition of ours.
//!
//! A run that fails before its disks are mounted has nowhere of its own to keep what happened. Where the
//! machine already has a boot partition of this site, its events are put there ([`keep`]), and whoever is
//! online next, this installer ([`send`]) or the resident agent, sends them.
//!
//! That is the only thing written to a disk before the stage is complete, and it touches nobody's data: the
//! partition is ours by contract, holds the stamp of the same site, and is the only one of its kind in the
//! machine; its filesystem is clean, so that mounting it plays nothing back; and only `akene/events/` grows.
//! Any doubt, and nothing is written.
//!
//! Sending reads through a read-only mount. What was sent is struck off ([`strike_off`]) when an installation
//! mounts the partition anyway; until then it may be sent again, which does no harm: the server knows events
//! by their numbers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_protocol::api::{Identity, MAX_EVENTS};
use akene_protocol::inventory::{Disk, Health, Inventory};
use akene_protocol::{RunId, Stamp};
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount, umount};

use super::boot_files;
use crate::fetch::{Server, known};
use crate::report::Reporter;
use crate::report::spool::Spool;

/// A spool that is larger is not one of ours.
const LARGEST: u64 = 32 << 20;

/// Runs that may wait on a partition. A machine that fails every day for a month has said enough.
const MOST_RUNS: usize = 32;

/// A run and the number of its last event that the server has.
pub type Sent = (RunId, u64);

/// Sends what waits on the machine's boot partitions. What goes wrong is only logged: it must not keep an
/// installation from going on.
pub fn send(
    inventory: &Inventory,
    identity: &Identity,
    server: &Server<'_>,
    reporter: &Reporter,
) -> Vec<Sent> {
    let mut sent = Vec::new();
    for (_, node) in known::boot_partitions(inventory) {
        if let Err(error) = send_from(&node, identity, server, &mut sent) {
            reporter.debug(format!("sending what waits on {}: {error:#}", node.display()));
        }
    }
    if !sent.is_empty() {
        reporter.debug(format!("the server was told of {} earlier runs", sent.len()));
    }
    sent
}

fn send_from(node: &Path, identity: &Identity, server: &Server<'_>, sent: &mut Vec<Sent>) -> Result<()> {
    let copy = tempfile::tempdir().context("making a directory for old events")?;
    let theirs = known::look(node, |dir| {
        copy_spool(&dir.join(boot_files::EVENTS), copy.path())?;
        known::read(dir)
    })?;
    // A disk that came from another machine speaks for that one.
    let identity = if theirs.machine == identity.machine { identity } else { &theirs };
    for run in Spool::runs(copy.path())? {
        let spool = Spool::open(copy.path(), run)?;
        for batch in spool.pending()?.chunks(MAX_EVENTS) {
            server.events(identity, batch)?;
        }
        sent.push((run, spool.last()));
    }
    Ok(())
}

fn copy_spool(from: &Path, to: &Path) -> Result<()> {
    let reading = || format!("reading {}", boot_files::EVENTS);
    let entries = match fs::read_dir(from) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(reading)?,
    };
    let mut room = LARGEST;
    for entry in entries {
        let entry = entry.with_context(reading)?;
        let meta = entry.metadata().with_context(reading)?;
        if !meta.is_file() {
            continue;
        }
        let Some(left) = room.checked_sub(meta.len()) else { bail!("it holds more than {LARGEST} bytes") };
        room = left;
        fs::copy(entry.path(), to.join(entry.file_name())).with_context(reading)?;
    }
    Ok(())
}

/// Forgets what was sent, on a boot partition that is mounted by right: its events lie in `dir`.
pub fn strike_off(dir: &Path, sent: &[Sent]) -> Result<()> {
    for run in Spool::runs(dir)? {
        let Some((_, last)) = sent.iter().find(|(other, _)| *other == run) else { continue };
        let mut spool = Spool::open(dir, run)?;
        spool.acked(*last)?;
        if spool.pending()?.is_empty() {
            spool.remove()?;
        }
    }
    Ok(())
}

/// Keeps the events of this run that nobody could be told on the boot partition of an earlier installation.
/// False: there is nothing to keep, or no partition that is beyond doubt the right one.
pub fn keep(inventory: &Inventory, stamp: &Stamp, reporter: &Reporter) -> Result<bool> {
    let Some(courier) = reporter.courier().filter(|courier| courier.undelivered() > 0) else {
        return Ok(false);
    };
    let fit = |disk: &Disk| !disk.removable && !disk.read_only && disk.health != Health::Failing;
    let all: Vec<_> = known::boot_partitions(inventory).collect();
    let [(disk, node)] = all.as_slice() else { return Ok(false) };
    if !fit(disk) || !known::look(node, |dir| is_ours(dir, stamp))? || !is_clean(node)? {
        return Ok(false);
    }
    let dir = tempfile::tempdir().context("making a mount point")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(Some(node), dir.path(), Some("ext4"), flags, Some("errors=remount-ro"))
        .with_context(|| format!("mounting {}", node.display()))?;
    let events = dir.path().join(boot_files::EVENTS);
    let kept = Spool::runs(&events).and_then(|runs| {
        let room = runs.len() < MOST_RUNS || runs.contains(&reporter.run());
        if room {
            courier.spool(&events)?;
            courier.release();
        }
        Ok(room)
    });
    umount(dir.path()).with_context(|| format!("unmounting {}", node.display()))?;
    kept
}

/// Whether a boot partition belongs to the site of this medium, and to a machine.
fn is_ours(dir: &Path, stamp: &Stamp) -> Result<bool> {
    let path = dir.join(boot_files::STAMP);
    let area = fs::read(&path).with_context(|| format!("reading {}", boot_files::STAMP))?;
    let same = matches!(Stamp::parse_area(&area), Some(Ok(theirs)) if theirs.site_key == stamp.site_key);
    Ok(same && known::read(dir).is_ok())
}

/// Whether an ext4 filesystem was unmounted in order: mounting it then plays back no journal.
pub(crate) fn is_clean(node: &Path) -> Result<bool> {
    const VALID: u16 = 1;
    const NEEDS_RECOVERY: u32 = 4;
    let block = superblock(node)?;
    let magic = u16::from_le_bytes([block[0x38], block[0x39]]);
    let state = u16::from_le_bytes([block[0x3a], block[0x3b]]);
    let incompat = u32::from_le_bytes([block[0x60], block[0x61], block[0x62], block[0x63]]);
    Ok(magic == 0xef53 && state == VALID && incompat & NEEDS_RECOVERY == 0)
}

/// The UUID of the ext4 filesystem that is at a node now, as blkid writes it.
pub(super) fn uuid_at(node: &Path) -> Result<String> {
    let block = superblock(node)?;
    let hex: String = block[0x68..0x78].iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-"))
}

/// The beginning of the superblock of ext4, see `struct ext4_super_block`.
fn superblock(node: &Path) -> Result<[u8; 0x78]> {
    let mut block = [0; 0x78];
    let file = File::open(node).with_context(|| format!("opening {}", node.display()))?;
    file.read_exact_at(&mut block, 1024).with_context(|| format!("reading {}", node.display()))?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::spool::tests::event;

    #[test]
    fn what_the_server_has_is_struck_off_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [whole, part, other] = [RunId([1; 8]), RunId([2; 8]), RunId([3; 8])];
        for run in [whole, part, other] {
            Spool::open(dir.path(), run).unwrap().append(&[event(run, 1), event(run, 2)]).unwrap();
        }
        strike_off(dir.path(), &[(whole, 2), (part, 1), (RunId([9; 8]), 7)]).unwrap();
        let mut left = Spool::runs(dir.path()).unwrap();
        left.sort();
        assert_eq!(left, [part, other]);
        let pending = |run| Spool::open(dir.path(), run).unwrap().pending().unwrap().len();
        assert_eq!((pending(part), pending(other)), (1, 2));
    }

    #[test]
    fn a_spool_is_copied_and_one_that_cannot_be_ours_is_not() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy_spool(&from.path().join("missing"), to.path()).unwrap();
        let run = RunId([1; 8]);
        Spool::open(from.path(), run).unwrap().append(&[event(run, 1)]).unwrap();
        fs::create_dir(from.path().join("directory")).unwrap();
        copy_spool(from.path(), to.path()).unwrap();
        assert_eq!(Spool::runs(to.path()).unwrap(), [run]);
        File::create(from.path().join("large.jsonl")).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(copy_spool(from.path(), to.path()).is_err());
    }
}
