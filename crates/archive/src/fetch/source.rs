//! Who has package files, and how each of them fares.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use akene_protocol::lock::LockedPackage;
use akene_protocol::{Issue, Secret};
use reqwest::Url;
use reqwest::blocking::Client;

/// A source that was wrong about so many files is dropped.
const MOST_LIES: usize = 3;

/// Bytes a second below which a source is slow whatever the others do, so that one is tried that nobody knows yet.
const SLOW: f64 = 4096.0;

/// How much faster another source must be for this one to be left.
const FASTER: f64 = 4.0;

/// After so many connections in a row over which nobody answered, a source is *away*: all others are asked before it.
const MOST_SILENT: u32 = 3;

/// How often the time doubles for which a source is away.
const MOST_DOUBLED: u32 = 3;

/// Somebody who has package files, beside the addresses in the lock.
#[derive(Clone)]
pub struct Source {
    name: String,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Directory(PathBuf),
    Pool { client: Client, base: String, authorization: Option<Secret> },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.name)
    }
}

impl Source {
    /// A directory: files under the names apt gives them, or named by their SHA-256. `name` is for people: `the stick`.
    pub fn directory(name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Source { name: name.into(), way: Way::Directory(dir.into()) }
    }

    /// Files by hash over HTTP: `{base}/{SHA-256}`. The authorization goes to that address only and to nobody it
    /// redirects to.
    pub fn pool(
        name: impl Into<String>,
        base: impl Into<String>,
        client: Client,
        authorization: Option<Secret>,
    ) -> Self {
        let base = base.into().trim_end_matches('/').to_owned();
        Source { name: name.into(), way: Way::Pool { client, base, authorization } }
    }
}

/// Where one package can be had.
pub(super) struct Offer {
    /// Whose it is.
    pub source: usize,
    /// Where.
    pub address: Address,
    /// Why it is not asked (any more) for this package, and whether it gave something wrong.
    pub out: Option<(String, bool)>,
    /// Tries in a row that brought next to nothing.
    pub tries: u32,
    /// Whether anything went wrong with it that may pass.
    pub troubled: bool,
}

pub(crate) enum Address {
    File(PathBuf),
    /// The client is the fetcher's own where none is named.
    Http {
        url: String,
        client: Option<Client>,
        authorization: Option<Secret>,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::File(path) => write!(f, "{}", path.display()),
            Address::Http { url, .. } => f.write_str(url),
        }
    }
}

/// What a source brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Its name, or the address of the archive.
    pub name: String,
    /// Bytes it gave.
    pub bytes: u64,
    /// Files it was wrong about.
    pub wrong: usize,
    /// Whether it was dropped.
    pub dropped: bool,
}

#[derive(Default)]
struct Health {
    name: String,
    bytes: u64,
    /// Bytes a second and stream, lately.
    rate: Option<f64>,
    /// Failures in a row.
    failures: u32,
    resting: Option<Instant>,
    /// Connections in a row over which nobody answered.
    silent: u32,
    away: Option<Away>,
    lies: Vec<String>,
    no_ranges: bool,
}

/// Since when nobody answers at a source, it is only asked where nobody else is left, and by one stream at a time whether
/// it is back.
struct Away {
    until: Instant,
    unit: Duration,
    doubled: u32,
}

impl Health {
    fn dropped(&self) -> bool {
        self.lies.len() >= MOST_LIES
    }

    fn is_away(&self, now: Instant) -> bool {
        self.away.as_ref().is_some_and(|away| away.until > now)
    }

    fn rests(&self, now: Instant) -> bool {
        self.resting.is_some_and(|until| until > now)
    }
}

#[derive(Default)]
struct Inside {
    sources: Vec<Health>,
    /// Mirrors by the address of their archive.
    mirrors: BTreeMap<String, usize>,
    network: u64,
}

impl Inside {
    fn add(&mut self, name: &str) -> usize {
        self.sources.push(Health { name: name.to_owned(), ..Health::default() });
        self.sources.len() - 1
    }

    /// Somebody answered. Where one comes back, the line may be what had gone, and all others may be back too.
    fn answered(&mut self, source: usize) {
        self.sources[source].silent = 0;
        if self.sources[source].away.take().is_some() {
            let now = Instant::now();
            self.sources.iter_mut().filter_map(|s| s.away.as_mut()).for_each(|away| away.until = now);
        }
    }
}

/// Whom to ask next.
pub(super) enum Next {
    /// This offer.
    Ask(usize),
    /// Nobody right now.
    Wait(Duration),
    /// Nobody any more.
    Nobody,
}

/// Who is asked, and how they fare. Shared by all streams of a fetcher, and by all that it is asked to do.
#[derive(Default)]
pub(super) struct Book {
    first: Vec<(usize, Source)>,
    last: Vec<(usize, Source)>,
    inside: Mutex<Inside>,
}

impl Book {
    /// A source to be asked before the addresses in the lock.
    pub fn first(&mut self, source: Source) {
        let at = self.inside().add(&source.name);
        self.first.push((at, source));
    }

    /// A source to be asked after them.
    pub fn last(&mut self, source: Source) {
        let at = self.inside().add(&source.name);
        self.last.push((at, source));
    }

    /// Whether there is a source besides the addresses in the lock.
    pub fn has_given(&self) -> bool {
        !self.first.is_empty() || !self.last.is_empty()
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Where a package can be had, in the order in which to ask.
    pub fn offers(&self, package: &LockedPackage) -> Vec<Offer> {
        let offer = |source, address| Offer { source, address, out: None, tries: 0, troubled: false };
        let given = |(at, source): &(usize, Source)| {
            let address = match &source.way {
                Way::Directory(dir) => Address::File(in_directory(dir, package)?),
                Way::Pool { client, base, authorization } => Address::Http {
                    url: format!("{base}/{}", package.sha256),
                    client: Some(client.clone()),
                    authorization: authorization.clone(),
                },
            };
            Some(offer(*at, address))
        };
        let mut offers: Vec<Offer> = self.first.iter().filter_map(given).collect();
        for url in &package.urls {
            let path =
                Url::parse(url).ok().filter(|u| u.scheme() == "file").and_then(|u| u.to_file_path().ok());
            let address = match path {
                Some(path) => Address::File(path),
                None => Address::Http { url: url.clone(), client: None, authorization: None },
            };
            offers.push(offer(self.mirror(url), address));
        }
        offers.extend(self.last.iter().filter_map(given));
        offers
    }

    /// The source behind an address: the archive it belongs to.
    fn mirror(&self, url: &str) -> usize {
        let root = match url.split_once("/pool/") {
            Some((root, _)) => root,
            None => url.rsplit_once('/').map_or(url, |(root, _)| root),
        };
        let mut inside = self.inside();
        if let Some(at) = inside.mirrors.get(root) {
            return *at;
        }
        let at = inside.add(&without_password(root));
        inside.mirrors.insert(root.to_owned(), at);
        at
    }

    /// Whom to ask. The order of the offers counts, but those who gave wrong files come last, those who fall far
    /// behind are passed over, those who rest are not woken, and where nobody answers nobody is asked as long as there
    /// is another.
    pub fn next(&self, offers: &[Offer], alone: Option<usize>) -> Next {
        let mut inside = self.inside();
        let health = |at: usize| &inside.sources[offers[at].source];
        let now = Instant::now();
        let mut open: Vec<usize> = (0..offers.len())
            .filter(|at| offers[*at].out.is_none() && !health(*at).dropped())
            .filter(|at| alone.is_none_or(|only| only == *at))
            .collect();
        let present: Vec<usize> = open.iter().copied().filter(|at| !health(*at).is_away(now)).collect();
        if !present.is_empty() {
            open = present;
        }
        let awake: Vec<usize> = open.iter().copied().filter(|at| !health(*at).rests(now)).collect();
        if awake.is_empty() {
            let first = open.iter().filter_map(|at| health(*at).resting).min();
            return first.map_or(Next::Nobody, |until| Next::Wait(until.saturating_duration_since(now)));
        }
        let best = awake.iter().filter_map(|at| health(*at).rate).fold(0.0, f64::max);
        let unknown = |at: &usize| health(*at).rate.is_none();
        let behind = |at: usize| match health(at).rate {
            Some(rate) => rate * FASTER < best || (rate < SLOW && awake.iter().any(unknown)),
            None => false,
        };
        // To try what lies here once more costs nothing.
        let distrust = |at: usize| match offers[at].address {
            Address::File(_) => 0,
            Address::Http { .. } => health(at).lies.len(),
        };
        let choice = awake.iter().copied().min_by_key(|at| (distrust(*at), behind(*at), *at));
        let Some(choice) = choice else { return Next::Nobody };
        // Nobody else asks whether it is back until that is known, or forgotten.
        if let Some(away) = inside.sources[offers[choice].source].away.as_mut().filter(|a| a.until <= now) {
            away.doubled = (away.doubled + 1).min(MOST_DOUBLED);
            away.until = now + away.unit * (1 << away.doubled);
        }
        Next::Ask(choice)
    }

    /// Whether another offer than this, which brings `rate` bytes a second, promises far more.
    pub fn is_overtaken(&self, offers: &[Offer], current: usize, rate: f64) -> bool {
        let inside = self.inside();
        let now = Instant::now();
        offers.iter().enumerate().any(|(at, offer)| {
            let other = &inside.sources[offer.source];
            at != current
                && offer.source != offers[current].source
                && offer.out.is_none()
                && !other.dropped()
                && other.lies.is_empty()
                && !other.rests(now)
                && !other.is_away(now)
                && other.rate.map_or(rate < SLOW, |theirs| rate * FASTER < theirs)
        })
    }

    /// Bytes came.
    pub fn came(&self, source: usize, bytes: u64, network: bool) {
        let mut inside = self.inside();
        inside.sources[source].bytes += bytes;
        if network {
            inside.network += bytes;
        }
    }

    /// All bytes that came over the network so far.
    pub fn network(&self) -> u64 {
        self.inside().network
    }

    /// One stream of a source was that fast for a while.
    pub fn speed(&self, source: usize, rate: f64) {
        let health = &mut self.inside().sources[source];
        health.rate = Some(health.rate.map_or(rate, |old| (old + rate) / 2.0));
    }

    /// A source did what it should.
    pub fn well(&self, source: usize) {
        let mut inside = self.inside();
        inside.answered(source);
        let health = &mut inside.sources[source];
        (health.failures, health.resting) = (0, None);
    }

    /// A source answered, whatever it said.
    pub fn answered(&self, source: usize) {
        self.inside().answered(source);
    }

    /// Nobody answered at a source. After a few times in a row it is away, for `unit` and longer each time.
    pub fn silent(&self, source: usize, unit: Duration) {
        let health = &mut self.inside().sources[source];
        health.silent += 1;
        if health.silent >= MOST_SILENT && health.away.is_none() {
            health.away = Some(Away { until: Instant::now() + unit, unit, doubled: 0 });
        }
    }

    /// Whether nobody answers at a source.
    pub fn is_away(&self, source: usize) -> bool {
        self.inside().sources[source].is_away(Instant::now())
    }

    /// A source failed: it rests for a moment, longer each time.
    pub fn failed(&self, source: usize, unit: Duration, at_least: Duration) {
        let health = &mut self.inside().sources[source];
        health.failures += 1;
        let pause = unit * (1 << (health.failures - 1).min(4));
        health.resting = Some(Instant::now() + pause.max(at_least));
    }

    /// A source gave something wrong.
    pub fn lied(&self, source: usize, message: String) {
        self.inside().sources[source].lies.push(message);
    }

    /// A source is not to be asked for parts of files.
    pub fn no_ranges(&self, source: usize) {
        self.inside().sources[source].no_ranges = true;
    }

    /// Whether a source may be asked for parts of files.
    pub fn knows_ranges(&self, source: usize) -> bool {
        !self.inside().sources[source].no_ranges
    }

    /// Whether a source was dropped.
    pub fn is_dropped(&self, source: usize) -> bool {
        self.inside().sources[source].dropped()
    }

    /// The name of a source.
    pub fn name(&self, source: usize) -> String {
        self.inside().sources[source].name.clone()
    }

    /// How it went.
    pub fn report(&self) -> super::Report {
        let inside = self.inside();
        let seen = inside.sources.iter().filter(|s| s.bytes > 0 || !s.lies.is_empty());
        let report = |s: &Health| SourceReport {
            name: s.name.clone(),
            bytes: s.bytes,
            wrong: s.lies.len(),
            dropped: s.dropped(),
        };
        let sources = seen.map(report).collect();
        let warnings = inside.sources.iter().filter(|s| !s.lies.is_empty()).map(|s| {
            let dropped = if s.dropped() { "it was dropped" } else { "the files came from elsewhere" };
            let message = format!("{} gave wrong files ({}); {dropped}", s.name, s.lies.join("; "));
            Issue::new(
                "source-wrong",
                &s.name,
                message,
                "look after it: it is damaged, or somebody changes what it sends",
            )
        });
        super::Report { network: inside.network, sources, warnings: warnings.collect() }
    }
}

/// The file of a package in a directory: one that may be it, by its size.
fn in_directory(dir: &Path, package: &LockedPackage) -> Option<PathBuf> {
    let names = [package.file.clone(), package.sha256.to_string()];
    let fits = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.len() == package.size.0);
    names.iter().map(|name| dir.join(name)).find(fits)
}

/// An address without the name and password it may hold.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').map_or((rest, String::new()), |(h, p)| (h, format!("/{p}")));
    format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_no_password() {
        assert_eq!(without_password("https://me:secret@host/a@b"), "https://host/a@b");
        assert_eq!(without_password("http://host"), "http://host");
    }
}
