//! Looking after filesystems that are kept.
//!
//! Before the first write each is checked without changing it; a damaged one stops the installation
//! while everything is still as it was. One whose journal must be played back, because the machine
//! was switched off, is sound: that happens later, the way every start of a system does it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_planner::{Action, PartitionPlan, Role};
use akene_protocol::issue::Issue;
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail};

use super::LockedDisk;

/// A check of two terabytes on an old disk takes this long.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Partitions that are kept and that the installed system uses.
fn ours(disk: &LockedDisk) -> Vec<PartitionPlan> {
    disk.partitions()
        .filter(|p| p.action == Action::Keep && p.purpose != Role::Foreign && p.purpose != Role::BiosBoot)
        .cloned()
        .collect()
}

/// Checks kept filesystems without writing. Gives remarks for people.
pub(super) fn check(disk: &mut LockedDisk, runner: &dyn Runner) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for partition in ours(disk) {
        let node = disk.node(partition.number);
        let found = crate::probe::content::of(runner, &node)?;
        let wanted = partition.filesystem.map(Filesystem::name);
        let kind = found.as_ref().map(|c| c.kind.as_str());
        if wanted.is_some() && kind != wanted {
            bail!(Issue::new(
                "kept-changed",
                node.to_string_lossy(),
                format!(
                    "the partition to be kept should hold {} and holds {}",
                    wanted.unwrap_or_default(),
                    kind.unwrap_or("nothing known")
                ),
                "nothing was written; start again so that a new plan is made",
            ));
        }
        let verdict = match partition.filesystem {
            Some(Filesystem::Ext4) => ext4(&node, runner)?,
            Some(Filesystem::Vfat) => vfat(&node, runner)?,
            Some(Filesystem::Xfs) => other(&node, Cmd::new("xfs_repair").arg("-n"), &[2], runner)?,
            Some(Filesystem::Btrfs) => {
                other(&node, Cmd::new("btrfs").args(["check", "--readonly"]), &[], runner)?
            }
            Some(Filesystem::Swap) | None => Verdict::Sound,
        };
        match verdict {
            Verdict::Sound => {}
            Verdict::Pending => disk.pending.push(partition.number),
            Verdict::Unchecked(why) => notes.push(format!("{} was not checked: {why}", node.display())),
            Verdict::Damaged(what) => bail!(Issue::new(
                "kept-damaged",
                node.to_string_lossy(),
                format!("the filesystem to be kept is damaged: {what}"),
                "nothing was written; save its files with the rescue shell and repair it with fsck, \
                 or give permission to wipe it",
            )),
        }
    }
    Ok(notes)
}

enum Verdict {
    Sound,
    /// Sound as soon as its journal has been played back, or its small faults mended.
    Pending,
    Unchecked(String),
    Damaged(String),
}

/// Runs a check. `Ok(None)`: all good; otherwise its exit code and what it said. `Err`: it could not run.
fn verdict_of(cmd: &Cmd, runner: &dyn Runner) -> Result<Option<(i32, String)>> {
    match runner.run(cmd) {
        Ok(_) => Ok(None),
        Err(e) => match e.downcast_ref::<ExecError>() {
            Some(ExecError { code: Some(code), tail, .. }) => {
                let last = tail.lines().rev().take(3).collect::<Vec<_>>();
                Ok(Some((*code, last.into_iter().rev().collect::<Vec<_>>().join("; "))))
            }
            _ => Err(e),
        },
    }
}

fn ext4(node: &Path, runner: &dyn Runner) -> Result<Verdict> {
    // Without -f a filesystem that was unmounted cleanly takes a moment, however large.
    let cmd = Cmd::new("e2fsck").arg("-n").arg(node).timeout(PATIENCE);
    let Some((_, said)) = verdict_of(&cmd, runner)? else { return Ok(Verdict::Sound) };
    // With its journal not played back, a check that must not write finds faults that are none.
    Ok(if journal_pending(node)? { Verdict::Pending } else { Verdict::Damaged(said) })
}

/// Whether an ext4 filesystem was in use when the machine stopped: the feature "needs recovery" of its
/// superblock, which lies at byte 1024. Read here because dumpe2fs gives up on a damaged journal.
fn journal_pending(node: &Path) -> Result<bool> {
    let mut superblock = [0; 1024];
    File::open(node)
        .and_then(|device| device.read_exact_at(&mut superblock, 1024))
        .with_context(|| format!("reading the superblock of {}", node.display()))?;
    Ok(superblock[96] & 4 != 0)
}

fn vfat(node: &Path, runner: &dyn Runner) -> Result<Verdict> {
    // A machine that was switched off leaves the dirty bit, and the two copies of the FAT may differ:
    // that is mended later. Only what fsck cannot mend is damage.
    match verdict_of(&Cmd::new("fsck.vfat").arg("-n").arg(node), runner)? {
        None => Ok(Verdict::Sound),
        Some((1, _)) => Ok(Verdict::Pending),
        Some((_, said)) => Ok(Verdict::Damaged(said)),
    }
}

/// A check whose program may be missing: the live system does not carry those of every filesystem.
fn other(node: &Path, cmd: Cmd, pending: &[i32], runner: &dyn Runner) -> Result<Verdict> {
    match verdict_of(&cmd.arg(node).timeout(PATIENCE), runner) {
        Ok(None) => Ok(Verdict::Sound),
        // Its log is played back when it is mounted.
        Ok(Some((code, _))) if pending.contains(&code) => Ok(Verdict::Sound),
        Ok(Some((_, said))) => Ok(Verdict::Damaged(said)),
        Err(e) => Ok(Verdict::Unchecked(format!("{e:#}"))),
    }
}

/// Plays back journals and mends what every start of a system mends without asking.
pub(super) fn finish(disk: &LockedDisk, runner: &dyn Runner) -> Result<()> {
    for partition in ours(disk).iter().filter(|p| disk.pending.contains(&p.number)) {
        let node = disk.node(partition.number);
        let cmd = match partition.filesystem {
            Some(Filesystem::Vfat) => Cmd::new("fsck.vfat").arg("-a").arg(&node),
            _ => Cmd::new("e2fsck").arg("-p").arg(&node).timeout(PATIENCE),
        };
        // 1: something was mended. 2 of e2fsck: mended, and a mounted system would have to restart.
        match verdict_of(&cmd, runner)? {
            None | Some((1 | 2, _)) => {}
            Some((code, said)) => bail!(Issue::new(
                "kept-damaged",
                node.to_string_lossy(),
                format!("the kept filesystem could not be mended by itself ({code}): {said}"),
                "repair it with fsck in the rescue shell, then start again",
            )),
        }
    }
    Ok(())
}
