//! What an earlier start of the system left: orders that had begun, and packages that no order needs any more.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use akene_protocol::event::EventKind;
use akene_protocol::order::{Order, Progress, Task};
use akene_protocol::{Issue, RunId};
use anyhow::{Context, Result};

use super::Work;
use crate::report::spool::Spool;
use crate::resident::book::Stage;
use crate::resident::{installer, returned};
use crate::run::stage::ON_VOLUME;

impl Work<'_> {
    /// Looks after what an earlier start left.
    pub fn wake(&mut self) -> Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        let boot = self.boot();
        for held in self.book.held().to_vec() {
            let order = match held.order(&key) {
                Ok(order) => order,
                Err(error) => {
                    eprintln!("an order in hand is put away: {error:#}");
                    continue;
                }
            };
            match (&held.progress, &order.task) {
                (Stage::Begun { boot: then }, _) if *then == boot => {}
                (Stage::Begun { .. }, Task::Reinstall(_)) => {
                    let issue = self.not_carried_out(&order);
                    eprintln!("{issue}");
                    self.book.drop_order(order.id, &key, Some(Progress::Refused { issue }))?;
                }
                (Stage::Begun { .. }, _) => self.book.drop_order(order.id, &key, Some(Progress::Done))?,
                (Stage::Waiting, _) => {}
            }
        }
        // One that this start has begun is still on its way.
        let on_its_way = self.book.held().iter().any(|held| held.progress != Stage::Waiting);
        if !on_its_way {
            let left = installer::left(self.root(), &key);
            if !matches!(left, Ok(None)) {
                if let Ok(Some(order)) = left {
                    self.book.used(order.id)?;
                }
                installer::forget(self.root(), self.runner)?;
            }
        }
        let reinstalls = |order: &Order| matches!(order.task, Task::Reinstall(_));
        if !self.book.held().iter().any(|held| held.order(&key).is_ok_and(|order| reinstalls(&order))) {
            for dir in stale(self.root()) {
                eprintln!("removing packages of an installation that did not come to be: {}", dir.display());
                fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
        }
        Ok(())
    }

    /// Why the old system is back, as far as the installer could say.
    fn not_carried_out(&self, order: &Order) -> Issue {
        if let Some(issue) = returned::issue(self.root(), format!("order {}", order.id)) {
            return issue;
        }
        let why = match failure(&self.resident.spool_dir(), self.resident.config.run) {
            Some((phase, issue)) => format!("the installer failed while {}: {issue}", phase.to_lowercase()),
            None => match installer::is_chosen(self.root(), self.runner) {
                Ok(true) => "the boot menu did not start the installer".to_owned(),
                _ => "the installer left no word here: it did not start, or it could not write".to_owned(),
            },
        };
        Issue::new(
            "order-not-carried-out",
            format!("order {}", order.id),
            format!("the reinstallation did not happen, and the old system runs again; {why}"),
            "look at the runs of this computer (`akene-server show`), mend the cause, and order it again",
        )
    }
}

/// The newest failure among the events of runs other than `own`.
fn failure(dir: &Path, own: RunId) -> Option<(&'static str, Issue)> {
    let runs = Spool::runs(dir).unwrap_or_default();
    runs.into_iter().rev().filter(|run| *run != own).find_map(|run| {
        let events = Spool::open(dir, run).and_then(|spool| spool.pending()).ok()?;
        events.into_iter().rev().find_map(|event| match event.kind {
            EventKind::Failed { phase, mut issues, .. } if !issues.is_empty() => {
                Some((phase.title(), issues.remove(0)))
            }
            _ => None,
        })
    })
}

/// Directories of packages on volumes of this system that no order needs: root's, and no links.
fn stale(root: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string(root.join("etc/fstab")).unwrap_or_default();
    let lines = table.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mounts =
        lines.filter_map(|line| line.split_whitespace().nth(1)).filter(|place| place.starts_with('/'));
    let mut dirs: Vec<PathBuf> = mounts
        .chain(["/home"])
        .filter(|place| *place != "/")
        .map(|place| root.join(place.trim_matches('/')).join(ON_VOLUME))
        .chain([root.join(crate::target::STAGE)])
        .collect();
    dirs.sort();
    dirs.dedup();
    let ours = nix::unistd::geteuid().as_raw();
    dirs.retain(|dir| dir.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == ours));
    dirs
}
