//! Bringing one file, whatever its sources do.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use akene_protocol::ids::Sha256;
use akene_protocol::lock::LockedPackage;
use akene_protocol::{Bytes, Issue};
use anyhow::{Result, bail};
use sha2::Digest;

use super::Fetcher;
use super::meter::Meter;
use super::partial::{Part, Partial, has_sum};
use super::source::{Address, Book, Next, Offer};
use super::stream::{Opened, open};

/// How often a source is tried again that brings next to nothing.
const TRIES: u32 = 4;

/// A connection that brings less than this while patience lasts is given up; one that brought it was worth having.
const LEAST_BYTES: u64 = 16 << 10;

/// How often a file is begun anew because of parts that do not fit together.
const MOST_BEGUN: usize = 6;

/// How it ended.
pub(super) enum Outcome {
    /// It is there and right.
    There,
    /// What the sources gave was wrong.
    Wrong(Issue),
    /// No source gave it. Silent: meanwhile nobody gave anything to anybody.
    Unreachable { issue: Issue, silent: bool },
    /// Something else ended everything.
    Stopped,
}

/// How one connection ended.
enum Attempt {
    /// As many bytes as there should be; `longer`: there would have been more.
    Full {
        longer: bool,
    },
    /// What it gives cannot be right: another size.
    Wrong(String),
    Absent(String),
    Broken(String, Duration),
    /// Nobody answers, or next to nothing comes of the answer.
    Silent(String),
    /// Somebody on the way answers in its place: no fault of the source.
    Between(String),
    /// Another source promises far more.
    Overtaken,
    /// A server that knows no ranges began anew, and its beginning is not what is there.
    Differs,
    NoSuchRange(String),
}

struct Job<'a> {
    fetcher: &'a Fetcher,
    package: &'a LockedPackage,
    book: &'a Book,
    meter: &'a Meter<'a>,
    stop: &'a AtomicBool,
    offers: Vec<Offer>,
    /// The only one to be asked, since what came from several was wrong.
    alone: Option<usize>,
    /// The parts of what was wrong.
    suspects: Vec<(Part, Sha256)>,
    /// What somebody on the way did the last time, and to which offer, since bytes came.
    between: Option<(usize, String)>,
    /// How often a source was left for another.
    left: usize,
    /// How often it was begun anew, and how far it came since.
    begun: usize,
    reached: u64,
    /// Bytes this package counts for on the meter.
    counted: u64,
}

/// Brings a package into `dir`.
pub(super) fn bring(
    fetcher: &Fetcher,
    package: &LockedPackage,
    dir: &Path,
    meter: &Meter<'_>,
    stop: &AtomicBool,
) -> Result<Outcome> {
    if package.file.contains('/') || package.file.starts_with('.') || package.file.is_empty() {
        bail!("fetching {}: `{}` is not a file name", package.name, package.file);
    }
    let goal = dir.join(&package.file);
    if has_sum(&goal, package)? {
        meter.add(package.size.0, &package.name);
        return Ok(Outcome::There);
    }
    let book = &fetcher.book;
    let offers = book.offers(package);
    let mut job = Job {
        fetcher,
        package,
        book,
        meter,
        stop,
        offers,
        alone: None,
        suspects: vec![],
        between: None,
        left: 0,
        begun: 0,
        reached: 0,
        counted: 0,
    };
    let mut partial = Partial::open(dir.join(format!("{}.partial", package.file)), package.size)?;
    let outcome = job.work(&mut partial)?;
    match outcome {
        Outcome::There => partial.finish(&goal)?,
        _ if partial.at() == 0 => partial.remove()?,
        // The next attempt goes on where this one ended.
        _ => {}
    }
    Ok(outcome)
}

impl Job<'_> {
    fn work(&mut self, partial: &mut Partial) -> Result<Outcome> {
        self.count(partial.at());
        self.reached = partial.at();
        let mut heard = self.book.network();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Stopped);
            }
            if partial.at() == self.package.size.0 && self.is_right(partial)? {
                return Ok(Outcome::There);
            }
            let offer = match self.book.next(&self.offers, self.alone) {
                Next::Ask(offer) => offer,
                Next::Wait(pause) => {
                    // In pieces, so that the end of everything is noticed.
                    thread::sleep(pause.min(Duration::from_millis(200)));
                    continue;
                }
                Next::Nobody if self.alone.take().is_some() && self.any_left() => continue,
                Next::Nobody => return Ok(self.give_up(heard)),
            };
            let attempt = self.attempt(offer, partial)?;
            // What was there once already and had to be thrown away is no progress.
            if partial.at() >= self.reached + LEAST_BYTES {
                (self.reached, heard) = (partial.at(), self.book.network());
                self.offers[offer].tries = 0;
                self.between = None;
                self.book.well(self.offers[offer].source);
            }
            self.judge(offer, attempt, partial)?;
        }
    }

    fn any_left(&self) -> bool {
        self.offers.iter().any(|o| o.out.is_none() && !self.book.is_dropped(o.source))
    }

    /// What to think of a source after it was asked.
    fn judge(&mut self, offer: usize, attempt: Attempt, partial: &mut Partial) -> Result<()> {
        let source = self.offers[offer].source;
        match attempt {
            Attempt::Full { longer } => {
                self.book.well(source);
                if !self.is_right(partial)? {
                    let message = match longer {
                        true => format!("it is longer than the {} bytes it should have", self.package.size.0),
                        false => format!("its SHA-256 is {}, not {}", partial.sum(), self.package.sha256),
                    };
                    self.blame(offer, message, partial)?;
                }
            }
            Attempt::Wrong(message) => self.lie(offer, message),
            Attempt::Absent(message) => self.offers[offer].out = Some((message, false)),
            Attempt::Overtaken => self.left += 1,
            Attempt::Broken(message, rest) => self.failed(offer, message, rest),
            Attempt::Silent(message) => {
                self.book.silent(source, self.fetcher.away());
                self.failed(offer, message, Duration::ZERO);
            }
            Attempt::Between(message) => {
                self.between = Some((offer, message.clone()));
                self.failed(offer, message, Duration::ZERO);
            }
            Attempt::NoSuchRange(message) => {
                // Asked for all of it, it gives what is there again, and that is compared.
                self.book.no_ranges(source);
                let this = &mut self.offers[offer];
                this.tries += 1;
                if this.tries >= TRIES {
                    this.out = Some((message, false));
                }
            }
            Attempt::Differs => {
                self.book.no_ranges(source);
                self.suspect(offer, partial)?;
            }
        }
        Ok(())
    }

    /// It brought nothing, and may do so later: it rests `rest`, and longer each time.
    fn failed(&mut self, offer: usize, message: String, rest: Duration) {
        let this = &mut self.offers[offer];
        this.troubled = true;
        this.tries += 1;
        // A file that cannot be read does not get better.
        if this.tries >= TRIES || matches!(this.address, Address::File(_)) {
            this.out = Some((message, false));
        }
        match this.tries {
            0 | 1 if rest.is_zero() => {}
            _ => self.book.failed(this.source, self.fetcher.patience / 60, rest),
        }
    }

    /// A file of the right size is wrong. One who gave all of it is to blame; of several, one gives it again.
    fn blame(&mut self, offer: usize, message: String, partial: &mut Partial) -> Result<()> {
        let source = self.offers[offer].source;
        let by_one = partial.parts().iter().all(|p| p.offer == Some(offer));
        let in_one_go = partial.parts().len() == 1;
        if by_one && (in_one_go || !self.book.knows_ranges(source)) {
            self.uncount(partial)?;
            self.lie(offer, message);
            return Ok(());
        }
        if by_one {
            // It may only be bad at ranges.
            self.book.no_ranges(source);
        }
        self.suspect(offer, partial)
    }

    /// What is there cannot be trusted: it is taken down who gave what, and the file begun anew by one alone.
    fn suspect(&mut self, offer: usize, partial: &mut Partial) -> Result<()> {
        self.suspects = partial.sums_of_parts()?;
        self.alone = Some(offer);
        self.begun += 1;
        self.reached = 0;
        if self.begun > MOST_BEGUN {
            self.lie(offer, "it gives other bytes each time".into());
        }
        self.uncount(partial)
    }

    fn lie(&mut self, offer: usize, message: String) {
        let Offer { source, address, .. } = &self.offers[offer];
        self.book.lied(*source, format!("{} {}: {message}", self.package.name, self.package.version));
        let message = format!("{address}: {message}");
        self.offers[offer].out = Some((message, true));
    }

    /// Whether the file is right. If it is, those who gave wrong parts of it before are known.
    fn is_right(&mut self, partial: &mut Partial) -> Result<bool> {
        if partial.at() != self.package.size.0 || partial.sum() != self.package.sha256 {
            // A whole file that lay there is of no use to anybody.
            if partial.parts().iter().all(|p| p.offer.is_none()) {
                self.uncount(partial)?;
            }
            return Ok(false);
        }
        let right = partial.parts().first().and_then(|p| p.offer);
        for (part, sum) in std::mem::take(&mut self.suspects) {
            let Some(offer) = part.offer.filter(|offer| Some(*offer) != right) else { continue };
            if self.offers[offer].out.is_none() && partial.sum_of(part)? != sum {
                self.lie(offer, format!("bytes {} to {} were wrong", part.from, part.to));
            }
        }
        Ok(true)
    }

    fn count(&mut self, bytes: u64) {
        self.counted += bytes;
        self.meter.add(bytes, &self.package.name);
    }

    fn uncount(&mut self, partial: &mut Partial) -> Result<()> {
        partial.reset()?;
        self.meter.take_back(std::mem::take(&mut self.counted));
        Ok(())
    }

    fn give_up(&self, heard: u64) -> Outcome {
        let Self { package, .. } = self;
        let named = format!("{} {}", package.name, package.version);
        let wrong = self.offers.iter().rev().find_map(|o| match &o.out {
            Some((message, true)) => Some((o.address.to_string(), message)),
            _ => None,
        });
        let dropped = || self.offers.iter().find(|o| self.book.is_dropped(o.source));
        let issue = match (wrong, self.offers.iter().rev().find(|o| o.out.is_some())) {
            (Some((address, message)), _) => {
                let message = message.strip_prefix(&format!("{address}: ")).unwrap_or(message);
                return Outcome::Wrong(Issue::new(
                    "package-hash",
                    address,
                    format!("{named}: {message}"),
                    "the source is damaged or was changed since the packages were chosen: try again, or use another mirror",
                ));
            }
            (None, _) if let Some(offer) = dropped() => {
                return Outcome::Wrong(Issue::new(
                    "package-hash",
                    offer.address.to_string(),
                    format!(
                        "{named} was not fetched: {} gave too many wrong files",
                        self.book.name(offer.source)
                    ),
                    "the source is damaged or was changed since the packages were chosen: try again, or use another mirror",
                ));
            }
            (None, Some(_)) if let Some((offer, seen)) = &self.between => Issue::new(
                "portal",
                self.offers[*offer].address.to_string(),
                format!("{named} cannot be fetched: this network wants somebody to sign in first: {seen}"),
                "sign this computer's network connection in (ask who runs the network), or use another connection; if \
                 that page is the mirror's own, use another mirror",
            ),
            (None, Some(offer)) => {
                let why = offer.out.as_ref().map_or("", |(message, _)| message);
                Issue::new(
                    "package-unreachable",
                    offer.address.to_string(),
                    format!("{named} cannot be fetched: {why}"),
                    "check the network and the mirror; the next attempt goes on where this one ended",
                )
            }
            (None, None) => {
                let message = format!("{named} has no address");
                Issue::new("package-unreachable", &package.file, message, "choose the packages again")
            }
        };
        // Somebody who answers that a file is not there is not dead.
        let broken = self.offers.iter().any(|o| o.troubled);
        let next_to_nothing = LEAST_BYTES * u64::from(TRIES) * self.fetcher.streams as u64;
        Outcome::Unreachable { issue, silent: broken && self.book.network() - heard < next_to_nothing }
    }

    /// One connection: continues what is there.
    fn attempt(&mut self, offer: usize, partial: &mut Partial) -> Result<Attempt> {
        let Offer { source, address, .. } = &self.offers[offer];
        let (source, size) = (*source, self.package.size.0);
        let network = matches!(address, Address::Http { .. });
        if partial.at() == size
            || (partial.at() > 0 && !self.book.knows_ranges(source) && self.alone.is_some())
        {
            self.uncount(partial)?;
        }
        let have = if self.book.knows_ranges(source) { partial.at() } else { 0 };
        let opened = open(&self.offers[offer].address, &self.fetcher.client, have);
        if !matches!(opened, Opened::Stream { .. } | Opened::Between(_) | Opened::Silent(_)) {
            self.book.answered(source);
        }
        let (mut reader, from, length, whole) = match opened {
            // One of the right size is looked at all the same: there are servers that call everything a page.
            Opened::Stream { page: Some(seen), whole, .. } if whole != Some(size) => {
                return Ok(Attempt::Between(seen));
            }
            Opened::Stream { reader, from, length, whole, .. } => (reader, from, length, whole),
            Opened::Between(seen) => return Ok(Attempt::Between(seen)),
            Opened::Absent(message) | Opened::Refused(message) => return Ok(Attempt::Absent(message)),
            Opened::Broken(message, rest) => return Ok(Attempt::Broken(message, rest)),
            Opened::Silent(message) => return Ok(Attempt::Silent(message)),
            Opened::NoSuchRange(message) => return Ok(Attempt::NoSuchRange(message)),
        };
        if let Some(whole) = whole.filter(|whole| *whole < size) {
            return Ok(Attempt::Wrong(format!("it ended after {whole} of {size} bytes")));
        }
        partial.begin(offer);
        // What comes again because the source knows no ranges is only compared.
        let mut again = (from, sha2::Sha256::new());
        let window = self.fetcher.patience / 6;
        let (mut since, mut seen) = (Instant::now(), 0u64);
        let (mut patient_since, mut patient_seen) = (since, 0u64);
        // A head alone is no answer: it is what comes after it that counts.
        let mut brought = 0u64;
        let mut buffer = vec![0; 64 << 10];
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Attempt::Broken("everything is given up".into(), Duration::ZERO));
            }
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    let message = format!("the connection broke after {} ({e})", Bytes(partial.at()));
                    return Ok(match network && brought == 0 {
                        true => Attempt::Silent(message),
                        false => Attempt::Broken(message, Duration::ZERO),
                    });
                }
            };
            self.book.came(source, n as u64, network);
            (seen, patient_seen) = (seen + n as u64, patient_seen + n as u64);
            if brought < LEAST_BYTES && brought + n as u64 >= LEAST_BYTES {
                self.book.answered(source);
            }
            brought += n as u64;
            let mut bytes = &buffer[..n];
            if again.0 < partial.at() {
                let (old, new) = bytes.split_at(bytes.len().min((partial.at() - again.0) as usize));
                again.1.update(old);
                again.0 += old.len() as u64;
                bytes = new;
                if again.0 == partial.at() && Sha256(again.1.clone().finalize().into()) != partial.sum() {
                    return Ok(Attempt::Differs);
                }
            }
            let rest = (size - partial.at()).min(bytes.len() as u64) as usize;
            if rest > 0 {
                partial.write(&bytes[..rest])?;
                again.0 = partial.at();
                self.count(rest as u64);
            }
            if partial.at() == size {
                // Read to its end, a connection can be used again.
                let exact = length.is_some_and(|length| from + length == size);
                let longer = bytes.len() > rest || (exact && reader.read(&mut buffer).is_ok_and(|n| n > 0));
                return Ok(Attempt::Full { longer });
            }
            if since.elapsed() >= window {
                let rate = seen as f64 / since.elapsed().as_secs_f64();
                self.book.speed(source, rate);
                let hops = 2 * self.offers.len();
                if self.alone.is_none()
                    && self.left < hops
                    && self.book.is_overtaken(&self.offers, offer, rate)
                {
                    return Ok(Attempt::Overtaken);
                }
                (since, seen) = (Instant::now(), 0);
            }
            if patient_since.elapsed() >= self.fetcher.patience {
                if patient_seen < LEAST_BYTES {
                    let message = format!("next to nothing came for {} s", self.fetcher.patience.as_secs());
                    return Ok(match network && brought < LEAST_BYTES {
                        true => Attempt::Silent(message),
                        false => Attempt::Broken(message, Duration::ZERO),
                    });
                }
                (patient_since, patient_seen) = (Instant::now(), 0);
            }
        }
        // The line was cut, or the server takes this for the end. Going on from here settles it.
        let message = format!("it ended after {} of {size} bytes", partial.at().max(again.0));
        Ok(match length.is_none_or(|length| length > 0) {
            true => Attempt::Broken(message, Duration::ZERO),
            false => Attempt::Wrong(message),
        })
    }
}
