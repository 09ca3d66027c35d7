//! Whether apt's download gets anywhere.
//!
//! apt gives a mirror up that is silent for a while, but one that sends a byte a second keeps it for days. What lies
//! in its directories tells how much comes; what it says on its status stream, whether it is downloading at all
//! or reading what came.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A mirror that brings less than this while patience lasts is given up.
const LEAST: u64 = 8 << 10;

/// apt speaks of a download twice a second; silent for so long, it does something else.
const QUIET: Duration = Duration::from_secs(5);

/// What is known of one download.
#[derive(Debug)]
pub(crate) struct Crawl {
    lists: PathBuf,
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When apt last spoke of a download.
    heard: Option<Instant>,
    /// When enough had come for the last time, and how much that was in all.
    since: Instant,
    had: u64,
    /// It was given up: that stays so, however long apt takes to end.
    hopeless: bool,
}

impl Crawl {
    /// Of the indexes in `lists`.
    pub fn new(lists: &Path, patience: Duration) -> Self {
        let state = State { heard: None, since: Instant::now(), had: 0, hopeless: false };
        Crawl { lists: lists.to_owned(), patience, state: Mutex::new(state) }
    }

    /// apt speaks of a download.
    pub fn heard(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).heard = Some(Instant::now());
    }

    /// Whether next to nothing has come for too long.
    pub fn is_hopeless(&self) -> bool {
        let have = size_of(&self.lists) + size_of(&self.lists.join("partial"));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = state.heard.is_none_or(|at| at.elapsed() > QUIET);
        // What was verified is moved and may be packed otherwise: less is also a sign of life.
        if quiet || have.abs_diff(state.had) >= LEAST {
            (state.since, state.had) = (Instant::now(), have);
        }
        state.hopeless |= state.since.elapsed() >= self.patience;
        state.hopeless
    }

    /// Names of what is not there whole.
    pub fn unfinished(&self) -> Vec<String> {
        let entries = fs::read_dir(self.lists.join("partial")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Bytes of the files in a directory, as far as it can be read.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_what_apt_does_decide() {
        let lists = tempfile::tempdir().unwrap();
        let partial = lists.path().join("partial");
        fs::create_dir(&partial).unwrap();
        let crawl = Crawl::new(lists.path(), Duration::from_secs(1));
        let later = || std::thread::sleep(Duration::from_millis(1100));
        later();
        assert!(!crawl.is_hopeless(), "it has not begun to download");
        crawl.heard();
        later();
        fs::write(partial.join("a.test_debian_dists_x_InRelease"), vec![0; 9000]).unwrap();
        assert!(!crawl.is_hopeless(), "enough has come");
        later();
        crawl.heard();
        assert!(crawl.is_hopeless(), "nothing has come since");
        fs::write(partial.join("more"), vec![0; 9000]).unwrap();
        assert!(crawl.is_hopeless(), "it was given up");
        fs::remove_file(partial.join("more")).unwrap();
        assert_eq!(crawl.unfinished(), ["a.test_debian_dists_x_InRelease"]);
    }
}
