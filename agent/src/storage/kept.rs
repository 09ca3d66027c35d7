//! Looking after filesystems that are kept.
//!
//! Before the first write each is checked without changing it; a damaged one stops the installation
//! while everything is still as it was. One whose journal must be played back, because the machine
//! was switched off, is sound: that happens later, the way every start of a system does it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_planner::{Action, Role};
use akene_protocol::issue::Issue;
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail};

use super::LockedDisk;
use super::group::LockedGroup;
use super::work::Work;
use crate::probe::look;

/// A check of two terabytes on an old disk takes this long.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// A filesystem that is kept and that the installed system uses.
#[derive(Debug)]
pub(super) struct Kept {
    /// Number of the partition; 0 for a volume group.
    number: u32,
    node: PathBuf,
    filesystem: Option<Filesystem>,
    /// Whether everything but the homes on it is removed later.
    refreshed: bool,
}

/// Those on a disk. The root of the system so far is not among them: nobody looks into it but that system itself.
pub(super) fn on_disk(disk: &LockedDisk) -> Vec<Kept> {
    let used = |role: &Role| {
        !matches!(role, Role::Foreign | Role::BiosBoot | Role::Physical(_) | Role::Old | Role::Spare)
    };
    disk.partitions()
        .filter(|p| matches!(p.action, Action::Keep | Action::Refresh) && used(&p.purpose))
        .map(|p| Kept {
            number: p.number,
            node: disk.node(p.number),
            filesystem: p.filesystem,
            refreshed: p.action == Action::Refresh,
        })
        .collect()
}

/// That on a volume group.
fn on_group(group: &LockedGroup) -> Option<Kept> {
    let kept = group.plan.action == Action::Keep;
    kept.then(|| Kept { number: 0, node: group.node(), filesystem: group.plan.filesystem, refreshed: false })
}

/// The command that looks without writing.
fn checker(filesystem: Filesystem, node: &Path) -> Option<Cmd> {
    let cmd = match filesystem {
        // Without -f a filesystem that was unmounted cleanly takes a moment, however large.
        Filesystem::Ext4 => Cmd::new("e2fsck").arg("-n"),
        Filesystem::Vfat => Cmd::new("fsck.vfat").arg("-n"),
        Filesystem::Xfs => Cmd::new("xfs_repair").arg("-n"),
        Filesystem::Btrfs => Cmd::new("btrfs").args(["check", "--readonly"]),
        Filesystem::Swap => return None,
    };
    Some(cmd.arg(node).timeout(PATIENCE))
}

/// Says how the kept filesystems would be checked.
pub(super) fn describe(disks: &[LockedDisk], groups: &[LockedGroup], work: &Work<'_>) -> Result<()> {
    for kept in disks.iter().flat_map(on_disk).chain(groups.iter().filter_map(on_group)) {
        if let Some(cmd) = kept.filesystem.and_then(|f| checker(f, &kept.node)) {
            work.run(&cmd)?;
        }
    }
    Ok(())
}

/// Checks the kept filesystems of a disk without writing.
pub(super) fn check_disk(disk: &mut LockedDisk, runner: &dyn Runner) -> Result<()> {
    for kept in on_disk(disk) {
        if check(&kept, runner)? {
            disk.pending.push(kept.number);
        }
    }
    Ok(())
}

/// Checks the kept filesystem of a group without writing.
pub(super) fn check_group(group: &mut LockedGroup, runner: &dyn Runner) -> Result<()> {
    if let Some(kept) = on_group(group) {
        group.pending = check(&kept, runner)?;
    }
    Ok(())
}

/// Whether it is sound only once its journal has been played back.
fn check(kept: &Kept, runner: &dyn Runner) -> Result<bool> {
    let node = &kept.node;
    let found = crate::probe::content::of(runner, node)?;
    let kind = found.as_ref().map(|c| c.kind.as_str());
    let as_planned = match kept.filesystem {
        // Its driver and its tools take all three.
        Some(Filesystem::Ext4) => matches!(kind, Some("ext2" | "ext3" | "ext4")),
        Some(filesystem) => kind == Some(filesystem.name()),
        None => true,
    };
    if !as_planned {
        bail!(Issue::new(
            "kept-changed",
            node.to_string_lossy(),
            format!(
                "what is to be kept should hold {} and holds {}",
                kept.filesystem.map(Filesystem::name).unwrap_or_default(),
                kind.unwrap_or("nothing known")
            ),
            "nothing was written; start again so that a new plan is made",
        ));
    }
    let refuse = |code: &str, what: String| {
        Issue::new(
            code,
            node.to_string_lossy(),
            what,
            "nothing was written; save its files with the rescue shell and repair it with fsck, \
             or give permission to wipe it",
        )
    };
    let Some(cmd) = kept.filesystem.and_then(|f| checker(f, node)) else { return Ok(false) };
    let verdict = match (kept.filesystem, verdict_of(&cmd, runner)) {
        (_, Ok(None)) => Verdict::Sound,
        (Some(Filesystem::Ext4), Ok(Some((_, said)))) => ext4(node, said)?,
        // A machine that was switched off leaves the dirty bit, and the two copies of the FAT may differ:
        // that is mended later. Only what fsck cannot mend is damage.
        (Some(Filesystem::Vfat), Ok(Some((1, _)))) => Verdict::Pending,
        // With its log not played back, a check that must not write finds faults that are none.
        (Some(Filesystem::Xfs), Ok(Some((_, said)))) if said.contains("changes in a log") => Verdict::Pending,
        (_, Ok(Some((_, said)))) => Verdict::Damaged(last_lines(&said)),
        (_, Err(e)) => {
            bail!(refuse("kept-unchecked", format!("the filesystem to be kept cannot be checked: {e:#}")))
        }
    };
    if let Verdict::Damaged(what) = verdict {
        bail!(refuse("kept-damaged", format!("the filesystem to be kept is damaged: {what}")));
    }
    if kept.refreshed && !look::has_plain_homes(node, kind.unwrap_or_default())? {
        bail!(refuse(
            "homes-elsewhere",
            "the old system is to be replaced around its /home, and /home is no plain directory of it (a link, or a \
             subvolume of its own)"
                .into()
        ));
    }
    Ok(matches!(verdict, Verdict::Pending))
}

enum Verdict {
    Sound,
    /// Sound as soon as its journal has been played back, or its small faults mended.
    Pending,
    Damaged(String),
}

/// Runs a check. `Ok(None)`: all good; otherwise its exit code and what it said. `Err`: it could not run.
fn verdict_of(cmd: &Cmd, runner: &dyn Runner) -> Result<Option<(i32, String)>> {
    match runner.run(cmd) {
        Ok(_) => Ok(None),
        Err(e) => match e.downcast_ref::<ExecError>() {
            Some(ExecError { code: Some(code), output, .. }) => {
                let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy);
                Ok(Some((*code, said.join("\n"))))
            }
            _ => Err(e),
        },
    }
}

fn last_lines(said: &str) -> String {
    let last: Vec<&str> = said.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
    last.into_iter().rev().collect::<Vec<_>>().join("; ")
}

fn ext4(node: &Path, said: String) -> Result<Verdict> {
    // With its journal not played back, a check that must not write finds faults that are none.
    Ok(if journal_pending(node)? { Verdict::Pending } else { Verdict::Damaged(last_lines(&said)) })
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

/// Plays back journals and mends what every start of a system mends without asking.
pub(super) fn finish(disk: &LockedDisk, work: &Work<'_>) -> Result<()> {
    let pending = |kept: &Kept| disk.pending.contains(&kept.number);
    on_disk(disk).iter().filter(|k| pending(k)).try_for_each(|kept| mend(kept, work))
}

/// The same for a group.
pub(super) fn finish_group(group: &LockedGroup, work: &Work<'_>) -> Result<()> {
    on_group(group).iter().filter(|_| group.pending).try_for_each(|kept| mend(kept, work))
}

fn mend(kept: &Kept, work: &Work<'_>) -> Result<()> {
    let node = &kept.node;
    let cmd = match kept.filesystem {
        Some(Filesystem::Vfat) => Cmd::new("fsck.vfat").arg("-a").arg(node),
        Some(Filesystem::Ext4) => Cmd::new("e2fsck").arg("-p").arg(node).timeout(PATIENCE),
        // Their drivers do it when they are mounted.
        _ => return Ok(()),
    };
    // 1: something was mended. 2 of e2fsck: mended, and a mounted system would have to restart.
    match work.ask(|runner| verdict_of(&cmd, runner))?.flatten() {
        None | Some((1 | 2, _)) => Ok(()),
        Some((code, said)) => bail!(Issue::new(
            "kept-damaged",
            node.to_string_lossy(),
            format!("the kept filesystem could not be mended by itself ({code}): {}", last_lines(&said)),
            "repair it with fsck in the rescue shell, then start again",
        )),
    }
}
