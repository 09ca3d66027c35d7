//! The clock ladder: what time it is on a machine whose battery may be dead.
//!
//! Certificates, signed archives and reports need the right time, so it is found before the first of them:
//!
//! 1. the image's build time is the floor: no right clock is earlier;
//! 2. time servers (SNTP): the medium's, the network's, the distribution's;
//! 3. the site's server, asked over TLS with a pinned key and certificate dates ignored. A pinned key proves
//!    who speaks whatever the date is, so this outweighs time servers, which anybody on the network can
//!    impersonate;
//! 4. the `Date` header of any web server, where nothing else answers (networks that block NTP);
//! 5. nothing: the clock stays if it is believable, else the floor is taken, and a certificate that is then
//!    refused for its date is reported as `clock-wrong`.
//!
//! What is found is also written to the clock chip. The decision is a pure function, [`decide`].

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::resolver::Resolver;
use crate::sys;

/// How long time servers may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Clocks this close agree.
const AGREE: SignedDuration = SignedDuration::from_secs(120);

/// An image is not used for longer than this after it was built.
const LIFE_OF_AN_IMAGE: SignedDuration = SignedDuration::from_hours(24 * 365 * 15);

/// Who told the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Time servers.
    TimeServers,
    /// The site's server, with a pinned key.
    Server,
    /// A `Date` header that nobody vouches for.
    Header,
    /// Nobody: the image's own build time.
    BuildTime,
}

impl Source {
    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Source::TimeServers => "time servers",
            Source::Server => "the site's server",
            Source::Header => "a web server",
            Source::BuildTime => "the date this image was made on",
        }
    }
}

/// What was heard, all for the same moment.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// One per time server.
    pub time_servers: Vec<Timestamp>,
    /// From the site's server, with a pinned key.
    pub server: Option<Timestamp>,
    /// From a `Date` header.
    pub header: Option<Timestamp>,
}

/// What to do with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right, says the source; or nobody says anything, but it is believable.
    Keep {
        /// Who confirms it.
        confirmed: Option<Source>,
    },
    /// It is wrong.
    Set {
        /// The time it really is.
        to: Timestamp,
        /// Who says so.
        by: Source,
    },
}

/// Decides about a clock that says `now` on an image built at `floor`.
pub fn decide(now: Timestamp, floor: Timestamp, heard: &Heard) -> Verdict {
    let believable = |t: &Timestamp| {
        let age = t.duration_since(floor);
        // Build machines' clocks are not perfect either.
        age >= SignedDuration::from_hours(-24) && age <= LIFE_OF_AN_IMAGE
    };
    let time_servers = majority(heard.time_servers.iter().copied().filter(believable).collect());
    let server = heard.server.filter(believable);
    let header = heard.header.filter(believable);
    let found = match (time_servers, server) {
        // Time servers tell fractions of seconds; the server vouches for them.
        (Some(precise), Some(server)) if precise.duration_since(server).abs() <= AGREE => {
            Some((precise, Source::TimeServers))
        }
        (_, Some(server)) => Some((server, Source::Server)),
        (Some(precise), None) => Some((precise, Source::TimeServers)),
        (None, None) => header.map(|t| (t, Source::Header)),
    };
    match found {
        Some((to, by)) => {
            let tolerance = if by == Source::TimeServers { 1 } else { 5 };
            if to.duration_since(now).abs() <= SignedDuration::from_secs(tolerance) {
                Verdict::Keep { confirmed: Some(by) }
            } else {
                Verdict::Set { to, by }
            }
        }
        None if believable(&now) && now >= floor => Verdict::Keep { confirmed: None },
        None => Verdict::Set { to: floor, by: Source::BuildTime },
    }
}

/// The time most servers agree on: the middle of the largest group of answers, if that is more than half
/// of all.
fn majority(mut answers: Vec<Timestamp>) -> Option<Timestamp> {
    answers.sort();
    let groups = (0..answers.len()).map(|from| {
        let members = answers[from..].iter().take_while(|t| t.duration_since(answers[from]) <= AGREE).count();
        (members, from)
    });
    let (members, from) = groups.max_by_key(|(members, _)| *members)?;
    (members * 2 > answers.len()).then(|| answers[from + members / 2])
}

/// A clock that can be read and set: the machine's, or a test's.
pub trait Clock {
    /// What it says.
    fn now(&self) -> Timestamp;
    /// Sets it.
    fn set(&self, to: Timestamp) -> Result<()>;
    /// Makes the machine remember it while it is switched off.
    fn remember(&self) -> Result<()>;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn set(&self, to: Timestamp) -> Result<()> {
        sys::clock::set_system_clock(to)
    }

    fn remember(&self) -> Result<()> {
        let chip = ["/dev/rtc", "/dev/rtc0"].map(Path::new).into_iter().find(|p| p.exists());
        sys::clock::set_clock_chip(chip.context("this machine has no clock chip")?, Timestamp::now())
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// What the clock said before.
    pub before: Timestamp,
    /// What it says now.
    pub after: Timestamp,
    /// Who confirmed the time. `None` or [`Source::BuildTime`]: nobody did.
    pub by: Option<Source>,
    /// Why the clock chip could not be written, if it could not: the machine will start with a wrong clock
    /// again.
    pub chip: Option<String>,
}

impl Mended {
    /// Whether somebody confirmed the time.
    pub fn confirmed(&self) -> bool {
        self.by.is_some_and(|by| by != Source::BuildTime)
    }

    /// For the log.
    pub fn describe(&self) -> String {
        let moved = self.after.duration_since(self.before).abs() > SignedDuration::from_secs(5);
        match (self.by, moved) {
            (None, _) => format!("the clock says {:.0}; nobody confirms it", self.after),
            (Some(by), false) => format!("the clock is right, says {}", by.describe()),
            (Some(by), true) => {
                format!("the clock said {:.0}; set to {:.0} by {}", self.before, self.after, by.describe())
            }
        }
    }
}

/// Carries the decision out.
pub fn mend(clock: &dyn Clock, floor: Timestamp, heard: &Heard) -> Result<Mended> {
    let before = clock.now();
    let (by, set) = match decide(before, floor, heard) {
        Verdict::Keep { confirmed } => (confirmed, false),
        Verdict::Set { to, by } => {
            clock.set(to)?;
            (Some(by), true)
        }
    };
    // The chip may be wrong by hours of local time even where the kernel's clock is right; but an unconfirmed
    // time must not replace what the chip has.
    let confirmed = by.is_some_and(|by| by != Source::BuildTime);
    let chip = if set && confirmed { clock.remember().err().map(|e| format!("{e:#}")) } else { None };
    Ok(Mended { before, after: clock.now(), by, chip })
}

/// Asks time servers, all at once, for a few seconds. The answers count for the moment of the return.
pub fn ask_time_servers(names: &[String], resolver: &Resolver) -> Vec<Timestamp> {
    let started = Instant::now();
    let (sender, receiver) = channel();
    let mut expected = 0;
    for name in names {
        let (sender, name, resolver) = (sender.clone(), name.clone(), resolver.clone());
        expected += 1;
        std::thread::spawn(move || {
            let answer = resolver
                .lookup(&name)
                .and_then(|ips| {
                    let first = ips.first().context("the time server has no address")?;
                    sntp(SocketAddr::new(*first, 123), PATIENCE)
                })
                .map(|time| (time, Instant::now()));
            // Nobody may be listening any more.
            sender.send(answer.ok()).ok();
        });
    }
    let mut answers = Vec::new();
    // Three that answer are enough: a fourth that hangs does not delay everything.
    while expected > 0 && answers.len() < 3 {
        let left = (PATIENCE + Duration::from_secs(1)).saturating_sub(started.elapsed());
        let Ok(answer) = receiver.recv_timeout(left) else { break };
        expected -= 1;
        answers.extend(answer);
    }
    answers.into_iter().filter_map(|(time, at)| time.checked_add(at.elapsed()).ok()).collect()
}

/// Asks one time server (RFC 4330).
pub fn sntp(server: SocketAddr, patience: Duration) -> Result<Timestamp> {
    let local: IpAddr = if server.is_ipv4() { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
    let socket = UdpSocket::bind((local, 0)).context("opening a socket for a time server")?;
    socket.connect(server).with_context(|| format!("asking the time server {server}"))?;
    socket.set_read_timeout(Some(patience)).context("limiting the wait for a time server")?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|e| anyhow::anyhow!("{e}")).context("making a question unique")?;
    let asked = Instant::now();
    socket.send(&question(nonce)).with_context(|| format!("asking the time server {server}"))?;
    let mut answer = [0; 128];
    let n = socket.recv(&mut answer).with_context(|| format!("waiting for the time server {server}"))?;
    let told =
        parse_answer(&answer[..n], nonce).with_context(|| format!("reading the answer of {server}"))?;
    Ok(told.checked_add(asked.elapsed() / 2)?)
}

fn question(nonce: [u8; 8]) -> [u8; 48] {
    let mut packet = [0; 48];
    // Version 4, client.
    packet[0] = 0x23;
    packet[40..].copy_from_slice(&nonce);
    packet
}

pub(crate) fn parse_answer(packet: &[u8], nonce: [u8; 8]) -> Result<Timestamp> {
    let Some(packet) = packet.first_chunk::<48>() else { bail!("it is too short") };
    let (leap, mode, stratum) = (packet[0] >> 6, packet[0] & 7, packet[1]);
    if mode != 4 || packet[24..32] != nonce {
        bail!("it is not an answer to our question");
    }
    if leap == 3 || stratum == 0 || stratum > 15 {
        bail!("the time server does not know the time itself");
    }
    let field = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let (seconds, fraction) = (field(40), field(44));
    // Seconds since 1900, which start again at 0 in 2036. No time before 1968 is meant.
    let era = if seconds < 0x8000_0000 { 1i64 << 32 } else { 0 };
    let seconds = i64::from(seconds) + era - 2_208_988_800;
    let nanoseconds = (u64::from(fraction) * 1_000_000_000) >> 32;
    Ok(Timestamp::new(seconds, nanoseconds as i32)?)
}

/// Reads a `Date` header.
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

/// A clock that is nobody's but a test's.
#[cfg(test)]
pub(crate) struct TestClock {
    pub(crate) now: std::cell::Cell<Timestamp>,
    /// How often its chip was told.
    pub(crate) remembered: std::cell::Cell<u32>,
    /// Whether the chip can be told.
    pub(crate) battery: bool,
}

#[cfg(test)]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.now.get()
    }
    fn set(&self, to: Timestamp) -> Result<()> {
        self.now.set(to);
        Ok(())
    }
    fn remember(&self) -> Result<()> {
        self.remembered.set(self.remembered.get() + 1);
        anyhow::ensure!(self.battery, "no battery");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn t(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const FLOOR: &str = "2026-11-01T00:00:00Z";
    const TRUE: &str = "2026-11-22T05:00:00Z";

    fn heard(time_servers: &[&str], server: Option<&str>, header: Option<&str>) -> Heard {
        Heard {
            time_servers: time_servers.iter().map(|s| t(s)).collect(),
            server: server.map(t),
            header: header.map(t),
        }
    }

    #[test]
    fn clocks_at_1980_and_2050_are_set_by_whoever_answers() {
        for wrong in ["1980-01-01T00:00:12Z", "2050-06-01T00:00:00Z", "2026-11-22T07:00:00Z", FLOOR] {
            for (heard, by) in [
                (heard(&[TRUE], None, None), Source::TimeServers),
                (heard(&[], Some(TRUE), None), Source::Server),
                (heard(&[], None, Some(TRUE)), Source::Header),
                (heard(&[TRUE], Some("2026-11-22T05:00:01Z"), Some(wrong)), Source::TimeServers),
            ] {
                assert_eq!(
                    decide(t(wrong), t(FLOOR), &heard),
                    Verdict::Set { to: t(TRUE), by },
                    "{wrong} {heard:?}"
                );
            }
        }
    }

    #[test]
    fn a_right_clock_is_left_alone() {
        let verdict = decide(t(TRUE), t(FLOOR), &heard(&["2026-11-22T05:00:00.4Z"], None, None));
        assert_eq!(verdict, Verdict::Keep { confirmed: Some(Source::TimeServers) });
    }

    #[test]
    fn with_nobody_to_ask_only_the_impossible_is_corrected() {
        let nothing = Heard::default();
        assert_eq!(decide(t(TRUE), t(FLOOR), &nothing), Verdict::Keep { confirmed: None });
        let floor = Verdict::Set { to: t(FLOOR), by: Source::BuildTime };
        assert_eq!(decide(t("1980-01-01T00:00:00Z"), t(FLOOR), &nothing), floor);
        assert_eq!(decide(t("2050-01-01T00:00:00Z"), t(FLOOR), &nothing), floor);
    }

    #[test]
    fn liars_are_not_believed() {
        // Times before the image was made, or long after.
        for lie in ["1999-01-01T00:00:00Z", "2099-01-01T00:00:00Z"] {
            let verdict = decide(t(TRUE), t(FLOOR), &heard(&[lie], Some(lie), Some(lie)));
            assert_eq!(verdict, Verdict::Keep { confirmed: None }, "{lie}");
        }
        // Time servers against the pinned server: the latter is right.
        let verdict = decide(t(FLOOR), t(FLOOR), &heard(&["2030-01-01T00:00:00Z"; 3], Some(TRUE), None));
        assert_eq!(verdict, Verdict::Set { to: t(TRUE), by: Source::Server });
        // One time server against two others; one against one decides nothing.
        let two_to_one = heard(&[TRUE, "2027-06-01T00:00:00Z", "2026-11-22T05:00:01Z"], None, None);
        assert!(
            matches!(decide(t(FLOOR), t(FLOOR), &two_to_one), Verdict::Set { to, .. } if to.duration_since(t(TRUE)).abs() < AGREE)
        );
        let tie = heard(&[TRUE, "2027-06-01T00:00:00Z"], None, None);
        assert_eq!(decide(t(TRUE), t(FLOOR), &tie), Verdict::Keep { confirmed: None });
    }

    #[test]
    fn the_chip_learns_only_what_is_confirmed() {
        let clock =
            TestClock { now: Cell::new(t("1980-01-01T00:00:00Z")), remembered: Cell::new(0), battery: false };
        let mended = mend(&clock, t(FLOOR), &Heard::default()).unwrap();
        assert_eq!((mended.after, mended.confirmed(), clock.remembered.get()), (t(FLOOR), false, 0));
        let mended = mend(&clock, t(FLOOR), &heard(&[TRUE], None, None)).unwrap();
        assert_eq!((mended.after, mended.confirmed(), clock.remembered.get()), (t(TRUE), true, 1));
        assert_eq!(mended.chip.as_deref(), Some("no battery"));
        assert_eq!(
            mended.describe(),
            "the clock said 2026-11-01T00:00:00Z; set to 2026-11-22T05:00:00Z by time servers"
        );
    }

    fn answer(nonce: [u8; 8], seconds: u32) -> [u8; 48] {
        let mut packet = [0; 48];
        packet[0] = 0x24;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&nonce);
        packet[40..44].copy_from_slice(&seconds.to_be_bytes());
        packet[44] = 0x80;
        packet
    }

    #[test]
    fn sntp_answers_are_checked() {
        let nonce = *b"question";
        // 3 997 000 000 s after 1900 is in 2026; 5 s after the roll-over is in 2036.
        let good = answer(nonce, 3_997_000_000);
        assert_eq!(parse_answer(&good, nonce).unwrap(), t("2026-08-29T13:46:40.5Z"));
        assert_eq!(parse_answer(&answer(nonce, 5), nonce).unwrap(), t("2036-02-07T06:28:21.5Z"));
        assert!(parse_answer(&good, *b"another!").is_err());
        assert!(parse_answer(&good[..47], nonce).is_err());
        for (at, value) in [(0, 0xe4), (0, 0x23), (1, 0), (1, 16)] {
            let mut bad = good;
            bad[at] = value;
            assert!(parse_answer(&bad, nonce).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn a_time_server_is_asked_over_udp() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut question = [0; 48];
            let (_, from) = server.recv_from(&mut question).unwrap();
            let nonce = question[40..48].try_into().unwrap();
            server.send_to(&answer(nonce, 3_997_000_000), from).unwrap();
        });
        let told = sntp(address, Duration::from_secs(5)).unwrap();
        thread.join().unwrap();
        assert!(told.duration_since(t("2026-08-29T13:46:40.5Z")) < SignedDuration::from_secs(2));
    }

    #[test]
    fn date_headers() {
        assert_eq!(parse_http_date("Sun, 22 Nov 2026 05:00:00 GMT"), Some(t(TRUE)));
        assert_eq!(parse_http_date("yesterday"), None);
    }
}
