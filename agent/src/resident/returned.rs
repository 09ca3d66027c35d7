//! A system to which GRUB turned because there is no new one in its place ([`second_root`]).
//!
//! Why it is back is noted before anything else, so that the server hears of it whenever it can be reached: as the word for
//! the order in hand, and as the end of the run that made, or did not make, the new system.

use std::fs;
use std::path::Path;

use akene_exec::Runner;
use akene_protocol::Issue;
use akene_protocol::event::{Event, EventKind, Phase, VERSION};
use anyhow::{Context, Result};
use jiff::Timestamp;

use super::Resident;
use crate::durable;
use crate::report::spool::Spool;
use crate::run::second_root::{self, Standing};

/// Why this system is back, until that is said, below the root.
const NOTE: &str = "var/lib/akene/came-back";

/// Stable code of the issue.
pub(super) const CODE: &str = "rolled-back";

/// Where this is the system before the one that was installed last, notes that and takes the boot partition back.
pub(super) fn take_back(root: &Path, runner: &dyn Runner) -> Result<()> {
    match second_root::standing(root) {
        Standing::Back => {}
        Standing::Guest => {
            eprintln!(
                "somebody started this system, which is not the computer's any more; nothing is changed"
            );
            return Ok(());
        }
        Standing::Alone | Standing::New => return Ok(()),
    }
    let boot = root.join("boot");
    let own = second_root::read(&boot).map(|old| old.root);
    // The menu that turned back is the new system's, or the one by which the installer gave up. The journal may miss its end.
    let why = match second_root::current(&boot) == own {
        false => {
            "the new system was installed and started several times, and did not come up or could not reach its server"
        }
        true => "the new system's installation was begun several times and did not come to its end",
    };
    let path = root.join(NOTE);
    let dir = path.parent().context("finding the directory of the note")?;
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    durable::replace(&path, 0o600, |out| out.write_all(why.as_bytes()).context("writing"))?;
    eprintln!("this system runs again: {why}");
    second_root::take_back(root, runner).map(drop)
}

/// Why this system is back, if that was not said yet. `path`: what was to be done instead.
pub(super) fn issue(root: &Path, path: String) -> Option<Issue> {
    let why = fs::read_to_string(root.join(NOTE)).ok()?;
    Some(Issue::new(
        CODE,
        path,
        format!("the system before it runs again, with everything as it was: {why}"),
        "look at the runs of this computer (`akene-server show`), mend the cause, and order the reinstallation again",
    ))
}

impl Resident {
    /// Ends the run that was to make a new system, for the server to hear.
    pub(super) fn note_return(&self) -> Result<()> {
        let Some(issue) = issue(&self.root, String::new()) else { return Ok(()) };
        let dir = self.spool_dir();
        let newest = Spool::runs(&dir)?.into_iter().rev().find(|run| *run != self.config.run);
        if let Some(run) = newest {
            let mut spool = Spool::open(&dir, run)?;
            let said = |event: &Event| matches!(&event.kind, EventKind::Failed { issues, .. } if issues.iter().any(|i| i.code == CODE));
            if spool.last() > 0 && !spool.holds(said)? {
                let kind =
                    EventKind::Failed { phase: Phase::Confirm, issues: vec![issue], disks_changed: true };
                let (seq, uptime_ms) = (spool.last() + 1, crate::report::uptime_ms());
                spool.append(&[Event {
                    version: VERSION,
                    run,
                    seq,
                    at: Timestamp::now(),
                    uptime_ms,
                    kind,
                }])?;
            }
        }
        let note = self.root.join(NOTE);
        fs::remove_file(&note).with_context(|| format!("removing {}", note.display()))
    }
}
