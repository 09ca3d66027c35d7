//! Events on a disk, for when nobody could be told.
//!
//! A directory holds, for each run, `RUN.jsonl` with every event from its first, a line each, and
//! `RUN.acked` with the number of the last one the server has. The file is only ever appended to; a
//! line torn by a power cut is cut off when it is opened again. Events stay after they were
//! delivered until the run is over, because the next number follows from the last one.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use akene_protocol::event::{Event, RunId};
use anyhow::{Context, Result};

/// The events of one run.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    run: RunId,
    file: File,
    last: u64,
    acked: u64,
}

impl Spool {
    /// Opens the events of `run` below `dir`, which is made if it is missing. Nothing has to be there.
    pub fn open(dir: &Path, run: RunId) -> Result<Spool> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let path = dir.join(format!("{run}.jsonl"));
        let (events, intact) = read(&path)?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let length = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
        if length > intact {
            file.set_len(intact)
                .with_context(|| format!("cutting off the torn end of {}", path.display()))?;
        }
        let acked = fs::read_to_string(dir.join(format!("{run}.acked")))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        Ok(Spool { dir: dir.to_owned(), run, file, last: events.last().map_or(0, |e| e.seq), acked })
    }

    /// The runs that have events below `dir`, the one written last at the end.
    pub fn runs(dir: &Path) -> Result<Vec<RunId>> {
        let mut runs = Vec::new();
        let entries = match fs::read_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("listing {}", dir.display()))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", dir.display()))?;
            let name = entry.file_name();
            let run = name.to_str().and_then(|n| n.strip_suffix(".jsonl")).and_then(|n| n.parse().ok());
            if let Some(run) = run {
                let changed = entry.metadata().and_then(|m| m.modified()).ok();
                runs.push((changed, run));
            }
        }
        runs.sort();
        Ok(runs.into_iter().map(|(_, run)| run).collect())
    }

    /// Adds events; those that are here already are left out. On the disk when this returns.
    pub fn append(&mut self, events: &[Event]) -> Result<()> {
        let mut text = Vec::new();
        for event in events.iter().filter(|e| e.seq > self.last) {
            serde_json::to_writer(&mut text, event).context("writing an event as JSON")?;
            text.push(b'\n');
        }
        if let Some(event) = events.last() {
            self.last = self.last.max(event.seq);
        }
        let context = || format!("spooling events in {}", self.dir.display());
        self.file.write_all(&text).with_context(context)?;
        self.file.sync_data().with_context(context)
    }

    /// The server has everything up to this number.
    pub fn acked(&mut self, seq: u64) -> Result<()> {
        self.acked = self.acked.max(seq);
        let path = self.dir.join(format!("{}.acked", self.run));
        let new = path.with_extension("acked.new");
        fs::write(&new, format!("{}\n", self.acked)).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("replacing {}", path.display()))
    }

    /// What the server does not have, in order.
    pub fn pending(&self) -> Result<Vec<Event>> {
        let (events, _) = read(&self.dir.join(format!("{}.jsonl", self.run)))?;
        Ok(events.into_iter().filter(|e| e.seq > self.acked).collect())
    }

    /// The number of the newest event; 0 when there is none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether an event for which `wanted` holds is among all there are, delivered or not.
    pub fn holds(&self, wanted: impl Fn(&Event) -> bool) -> Result<bool> {
        let (events, _) = read(&self.dir.join(format!("{}.jsonl", self.run)))?;
        Ok(events.iter().any(wanted))
    }

    /// The run is over and everything delivered: forget it.
    pub fn remove(self) -> Result<()> {
        for suffix in ["jsonl", "acked"] {
            let path = self.dir.join(format!("{}.{suffix}", self.run));
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("removing {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The intact events at the beginning of a file, and how many bytes they take.
pub(crate) fn read(path: &Path) -> Result<(Vec<Event>, u64)> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        file => file.with_context(|| format!("opening {}", path.display()))?,
    };
    let (mut events, mut intact) = (Vec::new(), 0);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line).with_context(|| format!("reading {}", path.display()))?;
        match serde_json::from_slice::<Event>(&line) {
            Ok(event) if line.ends_with(b"\n") => events.push(event),
            _ => return Ok((events, intact)),
        }
        intact += n as u64;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use akene_protocol::event::{EventKind, VERSION};

    pub(crate) fn event(run: RunId, seq: u64) -> Event {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Event { version: VERSION, run, seq, at, uptime_ms: 0, kind: EventKind::Installed }
    }

    fn numbers(spool: &Spool) -> Vec<u64> {
        spool.pending().unwrap().iter().map(|e| e.seq).collect()
    }

    #[test]
    fn keeps_what_was_not_delivered_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId([7; 8]);
        let mut spool = Spool::open(dir.path(), run).unwrap();
        spool.append(&[event(run, 1), event(run, 2)]).unwrap();
        spool.append(&[event(run, 2), event(run, 3)]).unwrap();
        spool.acked(1).unwrap();
        drop(spool);
        let spool = Spool::open(dir.path(), run).unwrap();
        assert_eq!((numbers(&spool), spool.last()), (vec![2, 3], 3));
        assert_eq!(Spool::runs(dir.path()).unwrap(), [run]);
        spool.remove().unwrap();
        assert_eq!(Spool::runs(dir.path()).unwrap(), []);
    }

    #[test]
    fn a_torn_line_is_cut_off_wherever_it_is_torn() {
        let run = RunId([7; 8]);
        let whole = {
            let dir = tempfile::tempdir().unwrap();
            Spool::open(dir.path(), run).unwrap().append(&[event(run, 1), event(run, 2)]).unwrap();
            fs::read(dir.path().join(format!("{run}.jsonl"))).unwrap()
        };
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in 0..=whole.len() {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(format!("{run}.jsonl")), &whole[..cut]).unwrap();
            let mut spool = Spool::open(dir.path(), run).unwrap();
            let kept = u64::from(cut >= first) + u64::from(cut == whole.len());
            assert_eq!(spool.last(), kept, "cut at {cut}");
            spool.append(&[event(run, kept + 1)]).unwrap();
            assert_eq!(numbers(&spool), (1..=kept + 1).collect::<Vec<_>>(), "cut at {cut}");
        }
    }
}
