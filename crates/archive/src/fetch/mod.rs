//! Fetching the files of a lock, from whatever has them: in parallel, resuming, verified.
//!
//! A package is offered by *sources*, asked in this order: those given with [`Fetcher::first`] (a stick, the cache of an
//! earlier installation), the addresses in the lock (mirrors), those given with [`Fetcher::last`] (the server's
//! pool). No source is believed: a file is written as `NAME.partial` and hashed on the way, and only when size and SHA-256
//! are those of the lock does it get its name.
//!
//! - A connection that breaks is continued from the byte reached, at the same source or at another. The hash goes on
//!   where it was, so that no byte is read twice, neither from the network nor from the disk. A partial file
//!   of an earlier run is hashed once and continued.
//! - A source that falls far below another, or brings next to nothing, is left, and the rest fetched from the other.
//! - When a file turns out wrong, whoever gave all of it is to blame. Where several had a part in it, one alone gives it
//!   again, and the parts are compared with what was right. A source that was wrong about several files is
//!   dropped and reported.
//! - A page for people where a file should be is no lie of the source: somebody on the way answers, a network that wants
//!   a person to sign in. It is asked again as when nothing comes, and if that goes on, it is called by its name.
//! - A source at which nobody answers any more is asked after all others, and by one stream now and then whether it is
//!   back. Where it is the only one left, it is asked again as ever: the line may be what is gone.
//! - Every wait has a limit: for an answer, for each piece of it, for a source that rests, for tries without progress.
//!
//! [`source`] knows who offers what and how each source fares, [`stream`] opens addresses, [`partial`] is a file in the
//! making, [`job`] brings one file.

mod job;
mod meter;
mod partial;
mod source;
mod stream;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;
use anyhow::{Context, Result};
use nix::errno::Errno;
use reqwest::blocking::Client;

pub use meter::Progress;
pub use source::{Source, SourceReport};

use job::Outcome;
use meter::Meter;
use source::Book;

pub(crate) use source::Address;
pub(crate) use stream::{Opened, open};

/// How often what was fetched is written out, where it must outlive a power cut.
const SYNC: Duration = Duration::from_secs(10);

/// For how many times its patience a fetcher asks who still has what.
const LONGEST_LOOK: u32 = 6;

/// The redirect policy for a client given to a [`Fetcher`]: none. The fetcher follows redirects itself, to
/// http or https, never from https to plain http. Where to does not matter, because every byte is checked
/// against the lock.
pub fn redirect_policy() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::none()
}

/// How the sources of a fetcher fared so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Bytes that came over the network, those included that were of no use.
    pub network: u64,
    /// Each source that gave anything or was dropped.
    pub sources: Vec<SourceReport>,
    /// What somebody should look after although everything is there: a source that gave wrong files.
    pub warnings: Vec<Issue>,
}

/// Fetches the files of a lock.
///
/// What it learns of its sources it keeps: who lies, who is slow, who does not answer. Who asks for packages in several
/// parts does so with one fetcher; who tries again after a while, when everything may have changed, makes a new one.
pub struct Fetcher {
    client: Client,
    book: Book,
    streams: usize,
    patience: Duration,
    durable: bool,
}

impl Fetcher {
    /// A fetcher on this client, which brings the resolver, the proxy and the longest waits with it: for a connection,
    /// for an answer, for each piece of it.
    pub fn new(client: Client) -> Self {
        Fetcher {
            client,
            book: Book::default(),
            streams: 6,
            patience: Duration::from_secs(30),
            durable: false,
        }
    }

    /// A source to be asked before the addresses in the lock, after those given before.
    pub fn first(mut self, source: Source) -> Self {
        self.book.first(source);
        self
    }

    /// A source to be asked when the addresses in the lock do not have a file.
    pub fn last(mut self, source: Source) -> Self {
        self.book.last(source);
        self
    }

    /// Whether there is a source besides the addresses in the lock.
    pub fn has_sources(&self) -> bool {
        self.book.has_given()
    }

    /// How many files at once; the default is six.
    pub fn streams(mut self, streams: usize) -> Self {
        self.streams = streams.max(1);
        self
    }

    /// How long a connection may bring next to nothing before it is given up; the default is 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether what was fetched must outlive a power cut: it is then written out every few seconds and at the end.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// For how long a source at which nobody answers is left alone at first.
    fn away(&self) -> Duration {
        self.patience * 2
    }

    /// Which packages no source has any more: each of them was asked, and says so. Nothing is fetched. A source that
    /// does not answer may still have them, and what is not known after a few minutes is not: it is seen when it is
    /// fetched.
    pub fn gone<'p>(&self, packages: &'p [LockedPackage]) -> Vec<&'p LockedPackage> {
        let until = Instant::now() + self.patience * LONGEST_LOOK;
        let next = AtomicUsize::new(0);
        let gone = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.streams.min(packages.len()) {
                scope.spawn(|| {
                    while Instant::now() < until
                        && let Some(package) = packages.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if self.is_gone(package) {
                            gone.lock().unwrap_or_else(|e| e.into_inner()).push(package);
                        }
                    }
                });
            }
        });
        let mut gone = gone.into_inner().unwrap_or_else(|e| e.into_inner());
        gone.sort_by(|a, b| a.name.cmp(&b.name));
        gone
    }

    fn is_gone(&self, package: &LockedPackage) -> bool {
        let offers = self.book.offers(package);
        // Where one says nothing, it does not matter what the others say.
        if offers.is_empty() || offers.iter().any(|offer| self.book.is_away(offer.source)) {
            return false;
        }
        offers.iter().all(|offer| match stream::look(&offer.address, &self.client) {
            Opened::Silent(_) => {
                self.book.silent(offer.source, self.away());
                false
            }
            Opened::Between(_) => false,
            answer => {
                self.book.answered(offer.source);
                matches!(answer, Opened::Absent(_))
            }
        })
    }

    /// How the sources fared, whether what they were asked for came or not.
    pub fn report(&self) -> Report {
        self.book.report()
    }

    /// Brings all packages into `dir`, under the names apt looks for. What is there already and has the right
    /// sum is not fetched again. Progress comes from several threads, in bytes.
    ///
    /// # Errors
    /// [`Issues`], one for each package that could not be had: `package-hash` (what every source gave
    /// differs from the lock), `package-unreachable`, `portal` (somebody on the way answers); or the one that the disk is full, `no-space`. A full disk, and a
    /// network that brings nothing any more, end everything at once. The files that were good stay, and so do the parts
    /// of the others.
    pub fn fetch(
        &self,
        packages: &[LockedPackage],
        dir: &Path,
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        // The biggest first, so that none of them is left alone at the end.
        let mut order: Vec<&LockedPackage> = packages.iter().collect();
        order.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.file.cmp(&b.file)));
        let mut names = BTreeSet::new();
        order.retain(|p| names.insert(&p.file));
        let meter = Meter::new(order.iter().map(|p| p.size.0).sum(), progress);
        let synced = Mutex::new(Instant::now());
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failed: Mutex<Vec<(usize, anyhow::Error)>> = Mutex::default();
        thread::scope(|scope| {
            for _ in 0..self.streams.min(order.len()) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(package) = order.get(at) else { break };
                        let outcome = job::bring(self, package, dir, &meter, &stop);
                        let outcome = match outcome {
                            Ok(Outcome::There) => self.sync_sometimes(dir, &synced),
                            Ok(Outcome::Stopped) => Ok(()),
                            Ok(Outcome::Wrong(issue)) => Err(Issues::from(issue).into()),
                            Ok(Outcome::Unreachable { issue, silent }) => {
                                // A dead network is the same for each of them.
                                if silent {
                                    stop.store(true, Ordering::Relaxed);
                                }
                                Err(Issues::from(issue).into())
                            }
                            // So is a full disk.
                            Err(error) => {
                                stop.store(true, Ordering::Relaxed);
                                Err(error)
                            }
                        };
                        if let Err(error) = outcome {
                            failed.lock().unwrap_or_else(|e| e.into_inner()).push((at, error));
                        }
                    }
                });
            }
        });
        let mut failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
        if self.durable
            && let Err(error) = sync(dir)
        {
            failed.push((order.len(), error));
        }
        if failed.is_empty() {
            meter.show("", true);
            return Ok(());
        }
        failed.sort_by_key(|(at, _)| *at);
        if failed.iter().any(|(_, error)| is_full(error)) {
            // Which of the files was the last to have room says nothing.
            let (left, total) = meter.left();
            let left = if left.0 > 0 {
                format!(": {left} of {total} were still to be fetched")
            } else {
                String::new()
            };
            return Err(Issues::from(Issue::new(
                "no-space",
                dir.display().to_string(),
                format!("there is no room for the packages{left}"),
                "use a larger disk or more memory, or ask for fewer packages",
            ))
            .into());
        }
        let mut issues = Vec::new();
        for (_, error) in failed {
            match error.downcast::<Issues>() {
                Ok(more) => issues.extend(more.0),
                Err(error) => return Err(error),
            }
        }
        Err(Issues(issues).into())
    }

    fn sync_sometimes(&self, dir: &Path, last: &Mutex<Instant>) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        // Whoever finds it due does it; the others go on.
        let Ok(mut last) = last.try_lock() else { return Ok(()) };
        if last.elapsed() < SYNC {
            return Ok(());
        }
        let done = sync(dir);
        *last = Instant::now();
        done
    }
}

/// Whether an error comes from a filesystem that is full, or from a quota that is used up.
pub fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let full = |e: &io::Error| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let errno = |e: &Errno| matches!(e, Errno::ENOSPC | Errno::EDQUOT);
        cause.downcast_ref().is_some_and(full) || cause.downcast_ref().is_some_and(errno)
    })
}

fn sync(dir: &Path) -> Result<()> {
    let doing = || format!("writing out {}", dir.display());
    let file = File::open(dir).with_context(doing)?;
    nix::unistd::syncfs(file).with_context(doing)
}
