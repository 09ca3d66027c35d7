//! Fetching the files of a lock: in parallel, resuming, verified.
//!
//! A file is written as `NAME.partial` and hashed on the way; only when size and SHA-256 are those of the
//! lock does it get its name. What a server says about lengths is never believed, and no source is
//! better than another: any that gives the right bytes will do, so each package may have several addresses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use akene_protocol::ids::Sha256;
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;
use akene_protocol::{Bytes, Issue};
use anyhow::{Context, Result};
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_RANGE, LOCATION, RANGE};
use sha2::Digest;

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

/// Most redirects followed for one file.
const MAX_REDIRECTS: usize = 5;

/// How often an address is tried again after a broken connection.
const TRIES: usize = 3;

/// A connection that brings less than this in [`Fetcher::patience`] is given up.
const LEAST_BYTES: u64 = 16 << 10;

/// The redirect policy for a client given to a [`Fetcher`]: none. The fetcher follows redirects itself, to
/// http or https, never from https to plain http. Where to does not matter, because every byte is checked
/// against the lock.
pub fn redirect_policy() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::none()
}

/// Fetches the files of a lock.
pub struct Fetcher {
    client: Client,
    streams: usize,
    patience: Duration,
}

impl Fetcher {
    /// A fetcher on this client, which brings the resolver, proxy and connect time-out with it.
    pub fn new(client: Client) -> Self {
        Fetcher { client, streams: 6, patience: Duration::from_secs(30) }
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

    /// Brings all packages into `dir`, under the names apt looks for. What is there already and has the right
    /// sum is not fetched again. Progress comes from several threads, in bytes.
    ///
    /// # Errors
    /// [`Issues`], one for each package that could not be had: `package-hash` (what every source gave
    /// differs from the lock), `package-unreachable`, `no-space`. The files that were good stay.
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
        order.dedup_by(|a, b| a.file == b.file);
        let total = order.iter().map(|p| p.size.0).sum();
        let meter = Meter { done: AtomicU64::new(0), total, shown: Mutex::new(None), progress };
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failed: Mutex<Vec<(usize, anyhow::Error)>> = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.streams.min(order.len()) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(package) = order.get(at) else { break };
                        if let Err(error) = self.fetch_one(package, dir, &meter) {
                            // A wrong file is reported with all others that are wrong; a full disk or a
                            // dead network is the same for each of them.
                            if !is_only_about_one(&error) {
                                stop.store(true, Ordering::Relaxed);
                            }
                            failed.lock().unwrap_or_else(|e| e.into_inner()).push((at, error));
                        }
                    }
                });
            }
        });
        let mut failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
        if failed.is_empty() {
            meter.show("", true);
            return Ok(());
        }
        failed.sort_by_key(|(at, _)| *at);
        let mut issues = Vec::new();
        for (_, error) in failed {
            match error.downcast::<Issues>() {
                Ok(more) => issues.extend(more.0),
                Err(error) => return Err(error),
            }
        }
        Err(Issues(issues).into())
    }

    fn fetch_one(&self, package: &LockedPackage, dir: &Path, meter: &Meter<'_>) -> Result<()> {
        if package.file.contains('/') || package.file.starts_with('.') || package.file.is_empty() {
            anyhow::bail!("fetching {}: `{}` is not a file name", package.name, package.file);
        }
        let goal = dir.join(&package.file);
        if has_sum(&goal, package)? {
            meter.add(package.size.0, &package.name);
            return Ok(());
        }
        let partial = dir.join(format!("{}.partial", package.file));
        let mut wrong: Option<Issue> = None;
        let mut trouble: Option<Issue> = None;
        for url in &package.urls {
            let mut counted = 0;
            let mut tries = 0;
            loop {
                tries += 1;
                let resumed = fs::metadata(&partial).map_or(0, |m| m.len());
                match self.attempt(url, package, &partial, meter, &mut counted)? {
                    Attempt::Good => {
                        fs::rename(&partial, &goal)
                            .with_context(|| format!("naming the finished {}", goal.display()))?;
                        return Ok(());
                    }
                    Attempt::Wrong(message) => {
                        remove(&partial)?;
                        meter.take_back(&mut counted);
                        // The beginning may have come from elsewhere: this source gets a clean start.
                        if resumed > 0 && tries < TRIES {
                            continue;
                        }
                        wrong = Some(Issue::new(
                            "package-hash",
                            url.clone(),
                            format!("{} {}: {message}", package.name, package.version),
                            "the source is damaged or was changed since the packages were chosen: try again, or use another mirror",
                        ));
                    }
                    Attempt::Broken { message, again } => {
                        meter.take_back(&mut counted);
                        trouble = Some(Issue::new(
                            "package-unreachable",
                            url.clone(),
                            format!("{} {} cannot be fetched: {message}", package.name, package.version),
                            "check the network and the mirror; the next attempt goes on where this one ended",
                        ));
                        if again && tries < TRIES {
                            thread::sleep(Duration::from_millis(500 * tries as u64));
                            continue;
                        }
                    }
                }
                break;
            }
        }
        let none = || {
            let message = format!("{} {} has no address", package.name, package.version);
            Issue::new("package-unreachable", &package.file, message, "choose the packages again")
        };
        Err(Issues::from(wrong.or(trouble).unwrap_or_else(none)).into())
    }

    /// One connection: continues the partial file if there is one.
    fn attempt(
        &self,
        url: &str,
        package: &LockedPackage,
        partial: &Path,
        meter: &Meter<'_>,
        counted: &mut u64,
    ) -> Result<Attempt> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(partial)
            .with_context(|| format!("opening {}", partial.display()))?;
        let mut have = file.metadata().with_context(|| format!("looking at {}", partial.display()))?.len();
        if have >= package.size.0 {
            have = 0;
        }
        let (mut source, from) = match self.open(url, have) {
            Ok(opened) => opened,
            Err((message, again)) => return Ok(Attempt::Broken { message, again }),
        };
        file.set_len(from).with_context(|| format!("cutting {}", partial.display()))?;
        let mut sum = sha2::Sha256::new();
        file.seek(SeekFrom::Start(0)).context("reading the part that is there")?;
        io::copy(&mut (&mut file).take(from), &mut sum).context("reading the part that is there")?;
        meter.count(counted, from, &package.name);

        let mut at = from;
        let mut window = (Instant::now(), at);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Ok(Attempt::Broken {
                        message: format!("the connection broke after {} ({e})", Bytes(at)),
                        again: true,
                    });
                }
            };
            at += n as u64;
            if at > package.size.0 {
                return Ok(Attempt::Wrong(format!(
                    "it is longer than the {} bytes it should have",
                    package.size.0
                )));
            }
            sum.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(|e| no_space(e, partial, package.size))?;
            meter.count(counted, n as u64, &package.name);
            if window.0.elapsed() >= self.patience {
                if at - window.1 < LEAST_BYTES {
                    let message = format!("next to nothing came for {} s", self.patience.as_secs());
                    return Ok(Attempt::Broken { message, again: true });
                }
                window = (Instant::now(), at);
            }
        }
        if at < package.size.0 {
            // A server may promise less than the file has; that is a wrong file, not a broken line. Both look
            // alike here, and going on from this point settles it: the next answer brings more, or nothing.
            let message = format!("it ended after {at} of {} bytes", package.size.0);
            return Ok(if at == from {
                Attempt::Wrong(message)
            } else {
                Attempt::Broken { message, again: true }
            });
        }
        let sum = Sha256(sum.finalize().into());
        if sum != package.sha256 {
            return Ok(Attempt::Wrong(format!("its SHA-256 is {sum}, not {}", package.sha256)));
        }
        file.flush().map_err(|e| no_space(e, partial, package.size))?;
        Ok(Attempt::Good)
    }

    /// Opens an address, from byte `have` on if the source can. Gives the stream and where it begins, or a
    /// message and whether trying again makes sense.
    fn open(&self, url: &str, have: u64) -> Result<(Box<dyn Read>, u64), (String, bool)> {
        let mut url = Url::parse(url).map_err(|e| (format!("`{url}` is not an address ({e})"), false))?;
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| (format!("`{url}` names no file"), false))?;
            let file = File::open(&path).map_err(|e| (format!("opening {}: {e}", path.display()), false))?;
            return Ok((Box::new(file), 0));
        }
        for _ in 0..=MAX_REDIRECTS {
            if !matches!(url.scheme(), "http" | "https") {
                return Err((format!("`{url}` is neither http nor https"), false));
            }
            let mut request = self.client.get(url.clone());
            if have > 0 {
                request = request.header(RANGE, format!("bytes={have}-"));
            }
            let response = request.send().map_err(|e| (causes(&e), true))?;
            let status = response.status();
            match status {
                StatusCode::OK => return Ok((Box::new(response), 0)),
                StatusCode::PARTIAL_CONTENT if begins_at(&response) == Some(have) => {
                    return Ok((Box::new(response), have));
                }
                // What we have does not fit what is there: from the beginning.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                    return self.open(url.as_str(), 0);
                }
                _ if status.is_redirection() => {
                    let target = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
                    let target = target.and_then(|l| url.join(l).ok());
                    let Some(target) = target else {
                        return Err((format!("{url} answers {status} without saying where to"), false));
                    };
                    if url.scheme() == "https" && target.scheme() != "https" {
                        return Err((format!("{url} leads from https to {target}"), false));
                    }
                    url = target;
                }
                _ => return Err((format!("{url} answers {status}"), status.is_server_error())),
            }
        }
        Err((format!("more than {MAX_REDIRECTS} redirects, the last to {url}"), false))
    }
}

/// How one connection ended.
enum Attempt {
    Good,
    Wrong(String),
    Broken { message: String, again: bool },
}

/// Adds up what all streams bring, and tells at most ten times a second.
struct Meter<'a> {
    done: AtomicU64,
    total: u64,
    shown: Mutex<Option<Instant>>,
    progress: &'a (dyn Fn(&Progress) + Sync),
}

impl Meter<'_> {
    fn add(&self, bytes: u64, what: &str) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.show(what, false);
    }

    fn count(&self, counted: &mut u64, bytes: u64, what: &str) {
        *counted += bytes;
        self.add(bytes, what);
    }

    fn take_back(&self, counted: &mut u64) {
        self.done.fetch_sub(*counted, Ordering::Relaxed);
        *counted = 0;
    }

    fn show(&self, what: &str, always: bool) {
        let mut shown = self.shown.lock().unwrap_or_else(|e| e.into_inner());
        if always || shown.is_none_or(|at| at.elapsed() >= Duration::from_millis(100)) {
            *shown = Some(Instant::now());
            let done = self.done.load(Ordering::Relaxed).min(self.total);
            (self.progress)(&Progress { done, total: self.total, what: what.to_owned() });
        }
    }
}

fn is_only_about_one(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Issues>().is_some_and(|issues| issues.0.iter().all(|i| i.code == "package-hash"))
}

/// Whether a file is there whole.
fn has_sum(path: &Path, package: &LockedPackage) -> Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
    };
    let reading = || format!("reading {}", path.display());
    if file.metadata().with_context(reading)?.len() != package.size.0 {
        return Ok(false);
    }
    let mut sum = sha2::Sha256::new();
    io::copy(&mut file, &mut sum).with_context(reading)?;
    Ok(Sha256(sum.finalize().into()) == package.sha256)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn no_space(error: io::Error, path: &Path, size: Bytes) -> anyhow::Error {
    if error.kind() != ErrorKind::StorageFull {
        return anyhow::Error::new(error).context(format!("writing {}", path.display()));
    }
    Issues::from(Issue::new(
        "no-space",
        path.display().to_string(),
        format!("there is no room for a package of {size}"),
        "use a larger disk or more memory, or fewer packages",
    ))
    .into()
}

/// First byte of `Content-Range: bytes 100-199/200`.
fn begins_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// An error with everything beneath it: reqwest itself says only "error sending request".
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    text
}
