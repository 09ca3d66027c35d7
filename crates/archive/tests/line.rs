//! A bad line: slow, losing packets, cut every few seconds. By default scaled so that it lasts seconds; with `AKENE_FULL=1` it
//! is 1 Mbit/s with 5 % loss and a cut every 30 seconds, and lasts minutes.
//!
//! The line is a relay in this process: a token bucket that all connections share, a delay before the first byte, a lost
//! packet as the pause until it is sent again, and cuts by RST of everything there is.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use akene_archive::{Fetcher, redirect_policy};
use akene_protocol::ids::Sha256;
use akene_protocol::lock::LockedPackage;
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

/// Payload of a packet.
const PACKET: usize = 1448;

/// What a line is like.
#[derive(Clone, Copy)]
struct Line {
    bytes_a_second: u64,
    delay: Duration,
    /// One packet in so many is lost.
    lost: u64,
    /// Until a lost packet is sent again.
    again: Duration,
    cut: Duration,
}

struct Relay {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    cuts: Arc<AtomicUsize>,
}

fn relay(to: SocketAddr, line: Line) -> Relay {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sent, cuts): (Arc<AtomicU64>, Arc<AtomicUsize>) = Default::default();
    let bucket = Arc::new(Mutex::new(Instant::now()));
    let relay = Relay { address, sent: sent.clone(), cuts: cuts.clone() };
    let cutter = cuts.clone();
    thread::spawn(move || {
        loop {
            thread::sleep(line.cut);
            cutter.fetch_add(1, Ordering::SeqCst);
        }
    });
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            let (mut up, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                std::io::copy(&mut up, &mut to_server).ok();
                to_server.shutdown(Shutdown::Both).ok();
            });
            let (sent, cuts, bucket) = (sent.clone(), cuts.clone(), bucket.clone());
            thread::spawn(move || carry(server, client, line, number as u64, &sent, &cuts, &bucket));
        }
    });
    relay
}

/// From the server to the client, until the line is cut.
fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    line: Line,
    seed: u64,
    sent: &AtomicU64,
    cuts: &AtomicUsize,
    bucket: &Mutex<Instant>,
) {
    let generation = cuts.load(Ordering::SeqCst);
    let mut random = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    to.set_nodelay(true).unwrap();
    thread::sleep(line.delay);
    let mut packet = [0; PACKET];
    loop {
        if cuts.load(Ordering::SeqCst) != generation {
            // Nothing of what is under way arrives any more.
            setsockopt(&to, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
            // The other direction lets go of its copy, and the last to close resets.
            to.shutdown(Shutdown::Read).ok();
            from.shutdown(Shutdown::Both).ok();
            return;
        }
        let n = match from.read(&mut packet) {
            Ok(0) => return drop(to.shutdown(Shutdown::Both)),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => return,
        };
        let until = {
            let mut free = bucket.lock().unwrap();
            *free =
                (*free).max(Instant::now()) + Duration::from_secs_f64(n as f64 / line.bytes_a_second as f64);
            *free
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (random >> 33).is_multiple_of(line.lost) {
            thread::sleep(line.again);
        }
        if to.write_all(&packet[..n]).is_err() {
            return;
        }
        sent.fetch_add(n as u64, Ordering::SeqCst);
    }
}

fn content(n: usize, size: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).wrapping_add(n as u32).to_le_bytes())
        .take(size)
        .collect()
}

/// An honest mirror of `/pool/N`.
fn mirror(files: Arc<Vec<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, files) = (stream.unwrap(), files.clone());
            thread::spawn(move || while answer(&stream, &files).is_some() {});
        }
    });
    address
}

fn answer(mut stream: &TcpStream, files: &[Vec<u8>]) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut from) = (String::new(), 0);
    reader.read_line(&mut first).ok().filter(|n| *n > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let number: usize = first.split(' ').nth(1)?.rsplit('/').next()?.parse().ok()?;
    let body = &files[number];
    let head = match from {
        0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()),
        from => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
            body.len() - 1,
            body.len(),
            body.len() - from
        ),
    };
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body[from..]).ok()
}

#[test]
fn a_bad_line_brings_everything_and_no_byte_twice() {
    let full = std::env::var_os("AKENE_FULL").is_some();
    let line = match full {
        true => Line {
            bytes_a_second: 125_000,
            delay: Duration::from_millis(100),
            lost: 20,
            again: Duration::from_millis(200),
            cut: Duration::from_secs(30),
        },
        // A hundredth of the time.
        false => Line {
            bytes_a_second: 2_500_000,
            delay: Duration::from_millis(5),
            lost: 20,
            again: Duration::from_millis(4),
            cut: Duration::from_millis(700),
        },
    };
    // One that outlasts many cuts, some in between, many small ones.
    let sizes: Vec<usize> =
        [8_000_000, 700_000, 400_000].into_iter().chain((0..60).map(|n| 2000 + n * 317)).collect();
    let total: u64 = sizes.iter().map(|s| *s as u64).sum();
    let files: Arc<Vec<Vec<u8>>> =
        Arc::new(sizes.iter().enumerate().map(|(n, size)| content(n, *size)).collect());
    let relay = relay(mirror(files.clone()), line);
    let packages: Vec<LockedPackage> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| {
            serde_json::from_value(serde_json::json!({
                "name": format!("p{n}"), "version": "1", "architecture": "all", "size": size,
                "sha256": Sha256::of(&files[n]).to_string(),
                "urls": [format!("http://{}/pool/{n}", relay.address)], "file": format!("p{n}.deb"),
            }))
            .unwrap()
        })
        .collect();
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::blocking::Client::builder().redirect(redirect_policy()).no_proxy().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let fetcher = Fetcher::new(client);
    fetcher.fetch(&packages, dir.path(), &|_| {}).unwrap();
    let report = fetcher.report();
    let took = start.elapsed().as_secs_f64();
    for (n, package) in packages.iter().enumerate() {
        assert_eq!(fs::read(dir.path().join(&package.file)).unwrap(), files[n]);
    }
    let (sent, cuts) = (relay.sent.load(Ordering::SeqCst), relay.cuts.load(Ordering::SeqCst));
    println!(
        "{total} bytes in {took:.1} s over {cuts} cuts: {} received, {sent} sent with heads and what the cuts ate; the line alone takes {:.1} s",
        report.network,
        total as f64 / line.bytes_a_second as f64
    );
    assert!(cuts >= 3, "the line was never cut");
    assert_eq!(report.network, total, "something was fetched twice");
    // A stream may lose what is under way at each cut, and no more.
    let heads = 300 * (packages.len() + 6 * cuts) as u64;
    assert!(sent <= total + heads + (6 * cuts * (256 << 10)) as u64, "{sent} bytes sent for {total}");
}
