//! How far it has come.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use akene_protocol::Bytes;

/// How far something has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Done so far.
    pub done: u64,
    /// Of how much, in the same unit.
    pub total: u64,
    /// The thing in hand.
    pub what: String,
}

/// Adds up what all streams bring, and tells at most ten times a second.
pub(super) struct Meter<'a> {
    done: AtomicU64,
    total: u64,
    shown: Mutex<Option<Instant>>,
    progress: &'a (dyn Fn(&Progress) + Sync),
}

impl<'a> Meter<'a> {
    pub fn new(total: u64, progress: &'a (dyn Fn(&Progress) + Sync)) -> Self {
        Meter { done: AtomicU64::new(0), total, shown: Mutex::new(None), progress }
    }

    pub fn add(&self, bytes: u64, what: &str) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.show(what, false);
    }

    pub fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What is still to come, and of how much.
    pub fn left(&self) -> (Bytes, Bytes) {
        (Bytes(self.total.saturating_sub(self.done.load(Ordering::Relaxed))), Bytes(self.total))
    }

    pub fn show(&self, what: &str, always: bool) {
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        if always || shown.is_none_or(|at| at.elapsed() >= Duration::from_millis(100)) {
            *shown = Some(Instant::now());
            let done = self.done.load(Ordering::Relaxed).min(self.total);
            (self.progress)(&Progress { done, total: self.total, what: what.to_owned() });
        }
    }
}
