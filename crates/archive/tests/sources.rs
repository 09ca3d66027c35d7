//! Several sources: slow ones, lying ones, those that are cut, those that know no ranges; and that no byte is fetched
//! twice that need not be.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use akene_archive::{Fetcher, Report, Source, redirect_policy};
use akene_protocol::Secret;
use akene_protocol::ids::Sha256;
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;

/// How a server treats what it has.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Flips a bit in the last byte of what it sends.
    Lies,
    /// One byte a second.
    Drips,
    /// Closes after so many bytes of body.
    Cuts(usize),
    /// Sends everything whatever range is asked for, as if it were the whole.
    IgnoresRanges,
    /// Says it sends the range and sends the beginning.
    WrongRanges,
    /// 206 with another place than asked for.
    OtherRanges,
    NoLength,
    LengthTooLarge,
    LengthTooSmall,
    Busy,
    /// Takes what it is asked, and says nothing.
    Silent,
    /// Says that it has everything, and sends nothing of it.
    OnlyHeads,
    /// A proxy answers that nobody does.
    BadGateway,
    /// Answers after a while.
    Late(Duration),
}

struct Server {
    url: String,
    /// Body bytes sent.
    sent: Arc<AtomicU64>,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

fn serve(files: &[(String, Vec<u8>)], manner: Manner) -> Server {
    serve_from(files, manner, 0)
}

/// One that takes its first connections and says nothing over them.
fn serve_from(files: &[(String, Vec<u8>)], manner: Manner, silent: usize) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let files: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(files.iter().cloned().collect());
    let sent: Arc<AtomicU64> = Arc::default();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let connections: Arc<AtomicUsize> = Arc::default();
    let server = Server { url, sent: sent.clone(), asked: asked.clone(), connections: connections.clone() };
    thread::spawn(move || {
        for stream in listener.incoming() {
            let number = connections.fetch_add(1, Ordering::SeqCst);
            let manner = if number < silent { Manner::Silent } else { manner };
            let (files, sent, asked) = (files.clone(), sent.clone(), asked.clone());
            let stream = stream.unwrap();
            thread::spawn(move || while one(&stream, &files, manner, &sent, &asked).is_some() {});
        }
    });
    server
}

/// One request of a connection. None: it ends.
fn one(
    mut stream: &TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    manner: Manner,
    sent: &AtomicU64,
    asked: &Mutex<Vec<String>>,
) -> Option<()> {
    // A client never sends a second request before it has read the answer to the first.
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut from, mut secret) = (None, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let lower = line.to_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse::<usize>().ok();
        }
        if lower.starts_with("authorization:") {
            secret = line.trim()[14..].trim().to_owned();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    asked.lock().unwrap().push(format!("{path} {from:?} {secret}").trim_end().to_owned());
    match manner {
        Manner::Silent => {
            // Until the other side has had enough.
            BufReader::new(stream).read_line(&mut String::new()).ok();
            return None;
        }
        Manner::BadGateway => {
            stream.write_all(b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n").ok()?;
            return Some(());
        }
        Manner::Late(time) => thread::sleep(time),
        _ => {}
    }
    let Some(content) = files.get(&path) else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
        return Some(());
    };
    if manner == Manner::Busy {
        stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n").ok()?;
        return Some(());
    }
    let start = match manner {
        Manner::IgnoresRanges => None,
        _ => from.filter(|from| *from < content.len()),
    };
    let mut body = content[start.unwrap_or(0)..].to_vec();
    if manner == Manner::Lies {
        *body.last_mut()? ^= 1;
    }
    if manner == Manner::WrongRanges && start.is_some() {
        body = content[..body.len()].to_vec();
    }
    let length = match manner {
        Manner::NoLength => None,
        Manner::LengthTooLarge => Some(body.len() + 5000),
        Manner::LengthTooSmall => Some(body.len() / 2),
        _ => Some(body.len()),
    };
    let mut head = match start {
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
        Some(start) => {
            let shown = if manner == Manner::OtherRanges { start - 1 } else { start };
            format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {shown}-{}/{}\r\n",
                content.len() - 1,
                content.len()
            )
        }
    };
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if line.starts_with("HEAD ") {
        return Some(());
    }
    if manner == Manner::OnlyHeads {
        BufReader::new(stream).read_line(&mut String::new()).ok();
        return None;
    }
    if manner == Manner::Drips {
        for byte in body {
            stream.write_all(&[byte]).ok()?;
            sent.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_secs(1));
        }
        return Some(());
    }
    let most = match manner {
        Manner::Cuts(most) => most.min(body.len()),
        _ => body.len(),
    };
    stream.write_all(&body[..most]).ok()?;
    sent.fetch_add(most as u64, Ordering::SeqCst);
    let whole = most == body.len() && length == Some(body.len());
    if !whole {
        stream.shutdown(std::net::Shutdown::Both).ok();
    }
    whole.then_some(())
}

fn content(n: u32, size: usize) -> Vec<u8> {
    (0u32..).flat_map(|i| i.wrapping_mul(2_654_435_761).wrapping_add(n).to_le_bytes()).take(size).collect()
}

/// A package at these addresses. What a lock says beside name, size and sum does not matter here.
fn package(n: u32, size: usize, roots: &[&Server]) -> LockedPackage {
    let content = content(n, size);
    let urls: Vec<String> = roots.iter().map(|s| format!("{}/d/pool/p{n}.deb", s.url)).collect();
    serde_json::from_value(serde_json::json!({
        "name": format!("p{n}"), "version": "1", "architecture": "all", "size": content.len(),
        "sha256": Sha256::of(&content).to_string(), "urls": urls, "file": format!("p{n}_1_all.deb"),
    }))
    .unwrap()
}

fn files(sizes: &[usize]) -> Vec<(String, Vec<u8>)> {
    (0..).zip(sizes).map(|(n, size)| (format!("/d/pool/p{n}.deb"), content(n, *size))).collect()
}

fn client() -> reqwest::blocking::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::blocking::Client::builder().redirect(redirect_policy()).no_proxy().build().unwrap()
}

fn fetcher() -> Fetcher {
    Fetcher::new(client())
}

fn run(fetcher: &Fetcher, packages: &[LockedPackage], dir: &Path) -> Result<Report, Issues> {
    let last = Mutex::new(0);
    let result = fetcher.fetch(packages, dir, &|p| {
        assert!(p.done <= p.total);
        *last.lock().unwrap() = p.done;
    });
    for package in packages {
        if let Ok(bytes) = fs::read(dir.join(&package.file)) {
            assert_eq!(Sha256::of(&bytes), package.sha256, "{} has its name and is wrong", package.file);
        } else {
            assert!(result.is_err(), "{} is missing", package.file);
        }
    }
    if result.is_ok() {
        assert_eq!(*last.lock().unwrap(), packages.iter().map(|p| p.size.0).sum::<u64>());
        let partial = fs::read_dir(dir)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().unwrap() == "partial");
        assert_eq!(partial.count(), 0);
    }
    result.map(|()| fetcher.report()).map_err(|e| e.downcast::<Issues>().unwrap_or_else(|e| panic!("{e:#}")))
}

const MIB: usize = 1 << 20;

/// Where nobody listens, and no program is given the port by chance.
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn a_line_that_is_cut_brings_each_byte_once() {
    let server = serve(&files(&[3 * MIB, 1000]), Manner::Cuts(200_000));
    let packages = [package(0, 3 * MIB, &[&server]), package(1, 1000, &[&server])];
    let dir = tempfile::tempdir().unwrap();
    let report = run(&fetcher(), &packages, dir.path()).unwrap();
    let total = (3 * MIB + 1000) as u64;
    assert_eq!((report.network, server.sent.load(Ordering::SeqCst)), (total, total));
    assert_eq!(server.asked.lock().unwrap().len(), 1 + 16);
    assert_eq!(report.warnings, vec![]);
}

#[test]
fn a_source_that_drips_is_left_for_one_that_flows_from_the_byte_reached() {
    let drips = serve(&files(&[MIB]), Manner::Drips);
    let flows = serve(&files(&[MIB]), Manner::Honest);
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let fetcher = fetcher().patience(Duration::from_secs(5));
    let report = run(&fetcher, &[package(0, MIB, &[&drips, &flows])], dir.path()).unwrap();
    // All of it would take it days.
    assert!(start.elapsed() < Duration::from_secs(120));
    assert_eq!(report.network, MIB as u64, "something was fetched twice");
    let asked = flows.asked.lock().unwrap().clone();
    assert!(asked[0].contains("Some("), "{asked:?}");
}

#[test]
fn a_lying_source_among_honest_ones_is_dropped_and_reported() {
    let sizes = [50_000; 12];
    let (lies, honest) = (serve(&files(&sizes), Manner::Lies), serve(&files(&sizes), Manner::Honest));
    let packages: Vec<_> = (0..12).map(|n| package(n, 50_000, &[&lies, &honest])).collect();
    let dir = tempfile::tempdir().unwrap();
    let report = run(&fetcher().streams(2), &packages, dir.path()).unwrap();
    let [warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
    assert!(warning.message.contains(&lies.url), "{warning}");
    assert!(lies.asked.lock().unwrap().len() <= 4, "{:?}", lies.asked.lock().unwrap());
    assert!(
        report.sources.iter().all(|s| s.name.contains(&lies.url) == (s.wrong > 0)),
        "{:?}",
        report.sources
    );
}

#[test]
fn who_gave_the_wrong_part_is_to_blame_and_nobody_else() {
    // The first half from an honest one that is cut and then gone, the second from one that lies, then from a third.
    let cut = serve(&files(&[400_000]), Manner::Cuts(200_000));
    let lies = serve(&files(&[400_000]), Manner::Lies);
    let honest = serve(&files(&[400_000]), Manner::Honest);
    let dir = tempfile::tempdir().unwrap();
    let whole = content(0, 400_000);
    fs::write(dir.path().join("p0_1_all.deb.partial"), &whole[..100_000]).unwrap();
    let report = run(&fetcher(), &[package(0, 400_000, &[&lies, &honest, &cut])], dir.path()).unwrap();
    let [warning] = &report.warnings[..] else { panic!("{:?}", report.warnings) };
    assert!(warning.message.contains(&lies.url), "{warning}");
    assert!(report.network <= 300_000 + 400_000 + 400_000, "{}", report.network);
}

#[test]
fn odd_lengths_and_ranges_end_well_where_the_bytes_are_right() {
    for manner in [
        Manner::IgnoresRanges,
        Manner::OtherRanges,
        Manner::WrongRanges,
        Manner::NoLength,
        Manner::LengthTooLarge,
    ] {
        let server = serve(&files(&[300_000]), manner);
        let dir = tempfile::tempdir().unwrap();
        let whole = content(0, 300_000);
        fs::write(dir.path().join("p0_1_all.deb.partial"), &whole[..100_000]).unwrap();
        let report = run(&fetcher(), &[package(0, 300_000, &[&server])], dir.path()).unwrap();
        assert_eq!(report.warnings, vec![], "an honest one is blamed");
    }
    let server = serve(&files(&[300_000]), Manner::LengthTooSmall);
    let dir = tempfile::tempdir().unwrap();
    let issues = run(&fetcher(), &[package(0, 300_000, &[&server])], dir.path()).unwrap_err();
    assert!(issues.0[0].message.contains("150000 of 300000"), "{issues}");
}

#[test]
fn directories_first_mirrors_then_the_pool_and_its_secret_stays_there() {
    let sizes = [60_000, 60_001, 60_002];
    let mirror = serve(&files(&sizes[..2]), Manner::Honest);
    let third = content(2, 60_002);
    let pool = serve(&[(format!("/v1/pool/sha256/{}", Sha256::of(&third)), third.clone())], Manner::Honest);
    let cache = tempfile::tempdir().unwrap();
    // One by name, and one of the right size with wrong bytes: a damaged stick.
    fs::write(cache.path().join("p0_1_all.deb"), content(0, 60_000)).unwrap();
    fs::write(cache.path().join("p1_1_all.deb"), content(7, 60_001)).unwrap();
    let packages =
        [package(0, 60_000, &[&mirror]), package(1, 60_001, &[&mirror]), package(2, 60_002, &[&mirror])];
    let base = format!("{}/v1/pool/sha256", pool.url);
    let fetcher = fetcher().first(Source::directory("the cache", cache.path())).last(Source::pool(
        "the server",
        base,
        client(),
        Some(Secret::new("Bearer planted")),
    ));
    let dir = tempfile::tempdir().unwrap();
    let report = run(&fetcher, &packages, dir.path()).unwrap();
    assert_eq!(report.network, 60_001 + 60_002);
    let mut asked = mirror.asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked, ["/d/pool/p1.deb None", "/d/pool/p2.deb None"]);
    let asked = pool.asked.lock().unwrap().clone();
    assert_eq!(asked, [format!("/v1/pool/sha256/{} None Bearer planted", Sha256::of(&third))]);
    assert!(report.warnings[0].message.starts_with("the cache gave wrong files"), "{:?}", report.warnings);
}

#[test]
fn a_busy_pool_is_left_alone_for_as_long_as_it_says() {
    let server = serve(&files(&[60_000]), Manner::Busy);
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let issues = run(&fetcher(), &[package(0, 60_000, &[&server])], dir.path()).unwrap_err();
    assert_eq!(issues.0[0].code, "package-unreachable");
    assert!(start.elapsed() > Duration::from_secs(2), "it was asked again at once");
    assert!(server.asked.lock().unwrap().len() <= 4);
}

#[test]
fn small_files_share_connections() {
    let sizes = [3000; 200];
    let server = serve(&files(&sizes), Manner::Honest);
    let packages: Vec<_> = (0..200).map(|n| package(n, 3000, &[&server])).collect();
    let dir = tempfile::tempdir().unwrap();
    run(&fetcher().streams(4), &packages, dir.path()).unwrap();
    let connections = server.connections.load(Ordering::SeqCst);
    assert!(connections <= 8, "{connections} connections for 200 files");
}

#[test]
fn everything_that_is_missing_is_said_at_once_and_a_dead_network_ends_it_at_once() {
    let server = serve(&files(&[100]), Manner::Honest);
    let packages: Vec<_> = (0..5).map(|n| package(n, 100, &[&server])).collect();
    let dir = tempfile::tempdir().unwrap();
    let issues = run(&fetcher(), &packages, dir.path()).unwrap_err();
    assert_eq!(issues.0.len(), 4, "{issues}");
    let packages: Vec<_> = (0..500)
        .map(|n| LockedPackage { urls: vec![format!("{NOBODY}/pool/p{n}.deb")], ..package(n, 100, &[]) })
        .collect();
    let start = Instant::now();
    // Nothing is waited for but the rests between two attempts.
    let fetcher = fetcher().patience(Duration::from_secs(1));
    let issues = run(&fetcher, &packages, tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(120));
    assert!(issues.0.len() <= 6 && issues.0[0].code == "package-unreachable", "{issues}");
}

/// One that waits no longer than this for an answer, and otherwise as long as ever.
fn impatient() -> Fetcher {
    client();
    let client = reqwest::blocking::Client::builder().redirect(redirect_policy()).no_proxy();
    Fetcher::new(client.timeout(Duration::from_secs(3)).build().unwrap())
}

/// The most that a source is asked at which nobody answers: by each of six streams once, by two more until three have seen
/// that, and once more whether it is back.
const MOST_ASKED: usize = 6 + 2 + 1;

#[test]
fn a_source_that_does_not_answer_is_left_by_all_packages() {
    let sizes = [2000; 150];
    let good = serve(&files(&sizes), Manner::Honest);
    for manner in [Manner::Silent, Manner::OnlyHeads, Manner::BadGateway] {
        let dead = serve(&files(&sizes), manner);
        let packages: Vec<_> = (0..150).map(|n| package(n, 2000, &[&dead, &good])).collect();
        let dir = tempfile::tempdir().unwrap();
        let report = run(&impatient(), &packages, dir.path()).unwrap();
        assert_eq!(report.warnings, vec![], "who is silent does not lie");
        let asked = dead.asked.lock().unwrap().len();
        assert!((1..=MOST_ASKED).contains(&asked), "it was asked {asked} times");
    }
}

/// What there is only at a source that was silent is asked for there, and one that is back is taken again.
#[test]
fn a_source_that_was_silent_is_asked_where_nobody_else_has_a_package_and_when_it_is_back() {
    let sizes = [20_000; 40];
    let all = files(&sizes);
    let first = serve_from(&all, Manner::Honest, 5);
    let second = serve(&all[..30], Manner::Honest);
    let packages: Vec<_> = (0..40).map(|n| package(n, 20_000, &[&first, &second])).collect();
    let dir = tempfile::tempdir().unwrap();
    let report =
        run(&impatient().streams(2).patience(Duration::from_secs(2)), &packages, dir.path()).unwrap();
    let from =
        |server: &Server| report.sources.iter().find(|s| s.name.contains(&server.url)).map_or(0, |s| s.bytes);
    assert!(from(&first) > 10 * 20_000 && from(&second) > 0, "{:?}", report.sources);
}

#[test]
fn what_a_source_that_does_not_answer_has_is_not_asked_for_package_by_package() {
    let sizes = [1000; 200];
    let (silent, none) = (serve(&files(&sizes), Manner::Silent), serve(&[], Manner::Honest));
    let packages: Vec<_> = (0..200).map(|n| package(n, 1000, &[&silent, &none])).collect();
    let fetcher = impatient();
    assert!(fetcher.gone(&packages).is_empty());
    let asked = silent.asked.lock().unwrap().len();
    assert!((1..=MOST_ASKED).contains(&asked), "it was asked {asked} times");
    // What one question taught, the next knows.
    assert!(fetcher.gone(&packages).is_empty());
    assert_eq!(silent.asked.lock().unwrap().len(), asked);

    // One that takes its time is not asked for hours either.
    let late = serve(&[], Manner::Late(Duration::from_millis(100)));
    let packages: Vec<_> = (0..200).map(|n| package(n, 1000, &[&late])).collect();
    let gone = Fetcher::new(client()).patience(Duration::from_millis(50)).gone(&packages).len();
    let asked = late.asked.lock().unwrap().len();
    assert!(0 < asked && gone <= asked && asked < 200, "{gone} of {asked}");
}

#[test]
fn a_source_that_lies_is_told_of_also_where_nothing_came_of_it() {
    let lies = serve(&files(&[50_000; 4]), Manner::Lies);
    let packages: Vec<_> = (0..4).map(|n| package(n, 50_000, &[&lies])).collect();
    let fetcher = fetcher();
    run(&fetcher, &packages, tempfile::tempdir().unwrap().path()).unwrap_err();
    let [warning] = &fetcher.report().warnings[..] else { panic!("{:?}", fetcher.report()) };
    assert!(warning.code == "source-wrong" && warning.message.contains(&lies.url), "{warning}");
}

/// A source that does not answer, or answers that it is busy, may still have a package.
#[test]
fn packages_are_gone_when_every_source_denies_them() {
    let both = files(&[1000, 1000]);
    let (old, new, busy) =
        (serve(&both[..1], Manner::Honest), serve(&both[1..], Manner::Honest), serve(&both, Manner::Busy));
    let named = |packages: &[&LockedPackage]| packages.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    let packages =
        [package(0, 1000, &[&new]), package(1, 1000, &[&old, &new]), package(2, 1000, &[&old, &new])];
    assert_eq!(named(&fetcher().gone(&packages)), ["p0", "p2"]);
    assert_eq!(old.sent.load(Ordering::SeqCst) + new.sent.load(Ordering::SeqCst), 0, "nothing is fetched");

    let mut maybe = package(0, 1000, &[&new, &busy]);
    assert!(fetcher().gone(std::slice::from_ref(&maybe)).is_empty());
    maybe.urls = vec![format!("{NOBODY}/d/pool/p0.deb")];
    assert!(fetcher().gone(std::slice::from_ref(&maybe)).is_empty());

    // One that lies on this computer is not gone.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(&packages[0].file), content(0, 1000)).unwrap();
    let fetcher = fetcher().first(Source::directory("here", dir.path()));
    assert_eq!(named(&fetcher.gone(&packages)), ["p2"]);
}
