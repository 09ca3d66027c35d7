//! What a power cut must find: which steps of an installation were begun and which are done.
//!
//! The journal is a file on `AKENE_BOOT`, a line of JSON for each record, each ended by the first 16
//! digits of its SHA-256. A record is on the disk when [`Journal::record`] returns. Reading stops at the
//! first line that is torn or damaged: what was written before a power cut counts, what was being
//! written does not.
//!
//! Records from before the boot partition exists are kept in memory and written first.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use akene_protocol::event::{Phase, RunId};
use akene_protocol::{Issue, Sha256};
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The journal, below the boot partition.
pub const PATH: &str = "akene/journal.jsonl";

/// Digits of the sum that ends a line.
const SUM_DIGITS: usize = 16;

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Record {
    /// The run.
    pub run: RunId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "record")]
pub enum What {
    /// A step was begun.
    Begun {
        /// Which.
        phase: Phase,
    },
    /// A step was done; all it wrote is on the disk.
    Done {
        /// Which.
        phase: Phase,
    },
    /// The run ended badly.
    Failed {
        /// In which step.
        phase: Phase,
        /// Why.
        issues: Vec<Issue>,
    },
    /// The run gave up before it had changed anything: the system that was there is whole.
    Withdrawn,
    /// The installation was given up, and the system beside it is the one that starts: attempts count from here.
    Returned,
    /// A person permitted another attempt after many had failed: they count from here.
    Permitted,
    /// The installation is complete.
    Complete,
}

/// Whether what was done last to the disks left a whole system; `None`: nothing is written there.
pub fn is_whole(records: &[Record]) -> Option<bool> {
    let last = records.iter().rev().find(|r| r.what != What::Permitted)?;
    Some(matches!(last.what, What::Complete | What::Withdrawn | What::Returned))
}

/// How many runs began to change the disks and came to no end since the last that did, or since a person last looked.
pub fn attempts(records: &[Record]) -> usize {
    let end = |what: &What| matches!(what, What::Complete | What::Returned | What::Permitted);
    let since = records.iter().rev().take_while(|r| !end(&r.what));
    let begun = What::Begun { phase: Phase::Commit };
    let withdrawn: Vec<RunId> = records.iter().filter(|r| r.what == What::Withdrawn).map(|r| r.run).collect();
    let mut runs: Vec<RunId> =
        since.filter(|r| r.what == begun && !withdrawn.contains(&r.run)).map(|r| r.run).collect();
    runs.sort();
    runs.dedup();
    runs.len()
}

/// How often a person permitted another attempt since the last that succeeded.
pub fn permitted(records: &[Record]) -> usize {
    let since = records.iter().rev().take_while(|r| !matches!(r.what, What::Complete | What::Returned));
    since.filter(|r| r.what == What::Permitted).count()
}

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    run: RunId,
    waiting: Vec<Record>,
    file: Option<File>,
}

impl Journal {
    /// A journal that is in memory only.
    pub fn new(run: RunId) -> Self {
        Journal { run, waiting: Vec::new(), file: None }
    }

    /// From now on the journal is on the boot partition mounted at `boot`, with all records so far. What
    /// an earlier run left there stays; its torn end is cut off.
    pub fn open(&mut self, boot: &Path) -> Result<()> {
        let path = boot.join(PATH);
        let dir = boot.join("akene");
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let text = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let (_, intact) = parse(&text);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        file.set_len(intact as u64).with_context(|| format!("mending {}", path.display()))?;
        // The name of a new file is only safe when its directory is.
        File::open(&dir).and_then(|d| d.sync_all()).with_context(|| format!("writing {}", dir.display()))?;
        self.file = Some(file);
        self.flush()
    }

    /// Adds a record.
    pub fn record(&mut self, what: What) -> Result<()> {
        self.waiting.push(Record { run: self.run, at: Timestamp::now(), what });
        self.flush()
    }

    /// Whether records reach a disk.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Closes the file, so that the boot partition can be unmounted.
    pub fn close(&mut self) {
        self.file = None;
    }

    fn flush(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut text = String::new();
        for record in &self.waiting {
            let json = serde_json::to_string(record).context("writing a journal record as JSON")?;
            text.push_str(&format!("{json} {}\n", sum(&json)));
        }
        file.write_all(text.as_bytes()).context("writing the journal")?;
        file.sync_data().context("writing the journal")?;
        self.waiting.clear();
        Ok(())
    }
}

/// Reads the journal on the boot partition mounted at `boot`. There is none: no records.
pub fn read(boot: &Path) -> Result<Vec<Record>> {
    let path = boot.join(PATH);
    match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        text => Ok(parse(&text.with_context(|| format!("reading {}", path.display()))?).0),
    }
}

pub(crate) fn sum(json: &str) -> String {
    let mut sum = Sha256::of(json.as_bytes()).to_string();
    sum.truncate(SUM_DIGITS);
    sum
}

/// The intact records at the beginning, and how many bytes they take.
pub(crate) fn parse(text: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut intact) = (Vec::new(), 0);
    for line in text.split_inclusive(|b| *b == b'\n') {
        let record = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.strip_suffix('\n'))
            .and_then(|line| line.rsplit_once(' '))
            .filter(|(json, written)| sum(json) == *written)
            .and_then(|(json, _)| serde_json::from_str(json).ok());
        let Some(record) = record else { break };
        records.push(record);
        intact += line.len();
    }
    (records, intact)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = RunId([1; 8]);

    fn whats(boot: &Path) -> Vec<What> {
        read(boot).unwrap().into_iter().map(|r| r.what).collect()
    }

    #[test]
    fn records_from_before_the_partition_existed_come_first() {
        let boot = tempfile::tempdir().unwrap();
        assert_eq!(whats(boot.path()), []);
        let mut journal = Journal::new(RUN);
        let (begun, done) = (What::Begun { phase: Phase::Commit }, What::Done { phase: Phase::Commit });
        journal.record(begun.clone()).unwrap();
        journal.open(boot.path()).unwrap();
        journal.record(done.clone()).unwrap();
        assert_eq!(whats(boot.path()), [begun.clone(), done.clone()]);
        let mut second = Journal::new(RunId([2; 8]));
        second.open(boot.path()).unwrap();
        second.record(What::Complete).unwrap();
        assert_eq!(whats(boot.path()), [begun, done, What::Complete]);
    }

    #[test]
    fn attempts_are_counted_since_the_last_that_succeeded_or_was_permitted() {
        let begun = What::Begun { phase: Phase::Commit };
        let failed = What::Failed { phase: Phase::Install, issues: vec![] };
        let of = |whats: &[(u8, &What)]| -> Vec<Record> {
            let at = Timestamp::UNIX_EPOCH;
            let record =
                |(run, what): &(u8, &What)| Record { run: RunId([*run; 8]), at, what: (*what).clone() };
            whats.iter().map(record).collect()
        };
        assert_eq!((attempts(&[]), is_whole(&[])), (0, None));
        // A run whose power was cut says no more than that it began.
        let two = of(&[(1, &begun), (1, &failed), (2, &begun)]);
        assert_eq!((attempts(&two), is_whole(&two)), (2, Some(false)));
        let one = of(&[(1, &begun), (1, &What::Complete), (2, &begun), (2, &failed)]);
        assert_eq!((attempts(&one), is_whole(&one)), (1, Some(false)));
        let whole = of(&[(1, &begun), (1, &What::Complete), (2, &begun), (2, &What::Withdrawn)]);
        assert_eq!((attempts(&whole), is_whole(&whole)), (0, Some(true)));
        let returned = of(&[(1, &begun), (2, &begun), (3, &What::Returned)]);
        assert_eq!((attempts(&returned), is_whole(&returned)), (0, Some(true)));
        let permitted = of(&[(1, &begun), (2, &begun), (3, &What::Permitted)]);
        assert_eq!((attempts(&permitted), is_whole(&permitted)), (0, Some(false)));
        let counts = |records: &[Record]| (attempts(records), super::permitted(records));
        let again = of(&[(1, &What::Permitted), (2, &begun), (3, &What::Permitted), (4, &begun)]);
        assert_eq!(counts(&again), (1, 2));
        assert_eq!(counts(&of(&[(1, &What::Permitted), (1, &What::Complete)])), (0, 0));
    }

    #[test]
    fn whatever_is_torn_or_damaged_ends_the_journal_there() {
        let boot = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(RUN);
        journal.open(boot.path()).unwrap();
        for _ in 0..3 {
            journal.record(What::Complete).unwrap();
        }
        let path = boot.path().join(PATH);
        let whole = fs::read(&path).unwrap();
        // A time whose digits end in zeros is shorter: lines differ.
        let ends: Vec<usize> =
            whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        for cut in 0..whole.len() {
            let intact = ends.iter().filter(|end| **end <= cut).count();
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(whats(boot.path()).len(), intact, "cut at {cut}");
            let mut damaged = whole.clone();
            damaged[cut] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(whats(boot.path()).len(), intact, "changed at {cut}");
        }
        fs::write(&path, &whole[..ends[0] + 5]).unwrap();
        let mut journal = Journal::new(RUN);
        journal.open(boot.path()).unwrap();
        journal.record(What::Complete).unwrap();
        assert_eq!(whats(boot.path()).len(), 2);
    }
}
