//! The fetcher against servers that behave badly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use akene_archive::{Fetcher, redirect_policy};
use akene_protocol::Bytes;
use akene_protocol::ids::Sha256;
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;

/// What a path answers: it gets the stream, the byte asked to start at, and the number of this request.
type Handler = Box<dyn Fn(&mut TcpStream, Option<usize>, usize) + Send + Sync>;

/// A server of a few paths. Its thread ends with the test program.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

fn serve(handlers: Vec<(&'static str, Handler)>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let handlers: Arc<BTreeMap<&str, Handler>> = Arc::new(handlers.into_iter().collect());
    let log = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, handlers, log) = (stream.unwrap(), handlers.clone(), log.clone());
            thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                let path = first.split(' ').nth(1).unwrap().to_owned();
                let mut from = None;
                for line in lines {
                    let line = line.unwrap().to_lowercase();
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        from = range.trim_end_matches('-').parse().ok();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let number = {
                    let mut log = log.lock().unwrap();
                    log.push(format!("{path} {from:?}"));
                    log.iter().filter(|l| l.starts_with(&format!("{path} "))).count()
                };
                match handlers.get(path.as_str()) {
                    Some(handler) => handler(&mut stream, from, number),
                    None => reply(&mut stream, "404 Not Found", "", b""),
                }
            });
        }
    });
    Server { url, seen }
}

/// The client may have hung up: that is its right.
fn reply(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
}

fn content() -> Vec<u8> {
    (0..200_000u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn package(urls: &[String]) -> LockedPackage {
    let content = content();
    LockedPackage {
        name: "thing".into(),
        version: "1.0".into(),
        architecture: "all".into(),
        size: Bytes(content.len() as u64),
        sha256: Sha256::of(&content),
        urls: urls.to_vec(),
        file: "thing_1.0_all.deb".into(),
        base: false,
        release: None,
    }
}

fn fetch(package: LockedPackage, dir: &Path) -> Result<(), Issues> {
    fetch_with(package, dir, |fetcher| fetcher)
}

fn fetch_with(
    package: LockedPackage,
    dir: &Path,
    setting: impl FnOnce(Fetcher) -> Fetcher,
) -> Result<(), Issues> {
    // A second test of this program may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::blocking::Client::builder().redirect(redirect_policy()).build().unwrap();
    let fetcher = setting(Fetcher::new(client));
    let last = Mutex::new(0);
    let result = fetcher.fetch(&[package], dir, &|p| {
        assert!(p.done <= p.total);
        *last.lock().unwrap() = p.done;
    });
    if result.is_ok() {
        assert_eq!(*last.lock().unwrap(), content().len() as u64, "progress does not end at the whole");
        assert_eq!(std::fs::read(dir.join("thing_1.0_all.deb")).unwrap(), content());
        assert!(!dir.join("thing_1.0_all.deb.partial").exists());
    } else {
        assert!(!dir.join("thing_1.0_all.deb").exists(), "a file that was refused has its name");
    }
    result.map_err(|e| e.downcast::<Issues>().unwrap())
}

fn good(stream: &mut TcpStream, from: Option<usize>, _: usize) {
    let content = content();
    match from {
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
            reply(stream, "206 Partial Content", &range, &content[from..]);
        }
        None => reply(stream, "200 OK", &format!("Content-Length: {}\r\n", content.len()), &content),
    }
}

#[test]
fn a_broken_connection_is_continued_where_it_broke() {
    let server = serve(vec![(
        "/p",
        Box::new(|s, from, number| match number {
            1 => reply(s, "200 OK", "Content-Length: 800000\r\n", &content()[..300_000]),
            _ => good(s, from, number),
        }),
    )]);
    let dir = tempfile::tempdir().unwrap();
    fetch(package(&[format!("{}/p", server.url)]), dir.path()).unwrap();
    assert_eq!(*server.seen.lock().unwrap(), ["/p None", "/p Some(300000)"]);
    // Once there, nobody is asked again.
    fetch(package(&[format!("{}/p", server.url)]), dir.path()).unwrap();
    assert_eq!(server.seen.lock().unwrap().len(), 2);
}

#[test]
fn a_wrong_file_names_package_address_and_both_sums() {
    let mut wrong = content();
    wrong[5] ^= 1;
    let sum = Sha256::of(&wrong);
    let server = serve(vec![
        ("/p", Box::new(move |s, _, _| reply(s, "200 OK", "", &wrong))),
        ("/good", Box::new(good)),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}/p", server.url);
    let issues = fetch(package(std::slice::from_ref(&url)), dir.path()).unwrap_err();
    let [issue] = &issues.0[..] else { panic!("{issues}") };
    assert_eq!((issue.code.as_str(), &issue.path), ("package-hash", &url));
    for part in ["thing 1.0", &sum.to_string(), &Sha256::of(&content()).to_string()] {
        assert!(issue.message.contains(part), "{part} is missing in {issue}");
    }
    // The next source is as good as any.
    fetch(package(&[url, format!("{}/good", server.url)]), dir.path()).unwrap();
}

#[test]
fn a_partial_file_from_elsewhere_is_given_up() {
    let server = serve(vec![("/p", Box::new(good))]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thing_1.0_all.deb.partial"), [9; 1000]).unwrap();
    fetch(package(&[format!("{}/p", server.url)]), dir.path()).unwrap();
    assert_eq!(*server.seen.lock().unwrap(), ["/p Some(1000)", "/p None"]);
}

#[test]
fn a_server_that_knows_no_ranges_starts_again() {
    let server = serve(vec![("/p", Box::new(|s, _, n| good(s, None, n)))]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thing_1.0_all.deb.partial"), &content()[..1000]).unwrap();
    fetch(package(&[format!("{}/p", server.url)]), dir.path()).unwrap();
}

#[test]
fn lengths_that_lie_fill_no_disk() {
    let server = serve(vec![
        (
            "/endless",
            Box::new(|s, _, _| {
                reply(s, "200 OK", "", b"");
                while s.write_all(&[7; 65536]).is_ok() {}
            }),
        ),
        ("/short", Box::new(|s, _, _| reply(s, "200 OK", "Content-Length: 3\r\n", b"abc"))),
        ("/empty", Box::new(|s, _, _| reply(s, "200 OK", "Content-Length: 0\r\n", b""))),
    ]);
    for (path, words) in
        [("/endless", "longer than the 800000 bytes"), ("/short", "3 of 800000"), ("/empty", "0 of 800000")]
    {
        let dir = tempfile::tempdir().unwrap();
        let issues = fetch(package(&[format!("{}{path}", server.url)]), dir.path()).unwrap_err();
        assert!(issues.0[0].message.contains(words), "{path}: {issues}");
    }
}

#[test]
fn a_server_that_stalls_is_left() {
    let server = serve(vec![(
        "/p",
        Box::new(|s, _, _| {
            reply(s, "200 OK", "Content-Length: 800000\r\n", b"");
            while s.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        }),
    )]);
    let dir = tempfile::tempdir().unwrap();
    let impatient = |fetcher: Fetcher| fetcher.patience(Duration::from_secs(2));
    let issues = fetch_with(package(&[format!("{}/p", server.url)]), dir.path(), impatient).unwrap_err();
    assert_eq!(issues.0[0].code, "package-unreachable", "{issues}");
    assert!(issues.0[0].message.contains("next to nothing came"), "{issues}");
}

/// Somewhere else, where somebody is to sign in.
fn portal() -> Server {
    let page = |s: &mut TcpStream, _, _| {
        let headers = "Content-Type: Text/HTML; charset=utf-8\r\nContent-Length: 5000\r\n";
        reply(s, "200 OK", headers, &[b'x'; 5000]);
    };
    serve(vec![("/login?token=from-a-guest", Box::new(page))])
}

fn send_to(stream: &mut TcpStream, portal: &str) {
    let headers = format!("Location: {portal}/login?token=from-a-guest\r\nContent-Length: 0\r\n");
    reply(stream, "302 Found", &headers, b"");
}

#[test]
fn a_portal_that_stays_is_called_one_and_what_had_come_is_kept() {
    let portal = portal();
    let login = format!("{}/login", portal.url);
    let page = "Content-Type: text/html\r\n";
    let ways: [(&str, Handler, &[&str]); 4] = [
        (
            "/redirect",
            Box::new(move |s, _, _| send_to(s, &portal.url)),
            &["/redirect sends us to http", &login, "shows a page"],
        ),
        (
            "/direct",
            Box::new(move |s, _, _| reply(s, "200 OK", &format!("{page}Content-Length: 3\r\n"), b"<p>")),
            &["/direct shows a page"],
        ),
        // Without a length, and longer than the package.
        (
            "/endless",
            Box::new(move |s, _, _| {
                reply(s, "200 OK", page, b"");
                while s.write_all(&[b'x'; 65536]).is_ok() {}
            }),
            &["/endless shows a page"],
        ),
        (
            "/511",
            Box::new(move |s, _, _| reply(s, "511 Network Authentication Required", page, b"<p>")),
            &["/511 answers 511 Network Authentication Required"],
        ),
    ];
    for (path, handler, words) in ways {
        let signed_in = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let open = signed_in.clone();
        let answer: Handler = Box::new(move |s, from, number| match number {
            1 => reply(s, "200 OK", "Content-Length: 800000\r\n", &content()[..300_000]),
            _ if open.load(std::sync::atomic::Ordering::SeqCst) => good(s, from, number),
            _ => handler(s, from, number),
        });
        let server = serve(vec![(path, answer)]);
        let dir = tempfile::tempdir().unwrap();
        let url = format!("{}{path}", server.url);
        let soon = |fetcher: Fetcher| fetcher.patience(Duration::from_secs(3));
        let issues = fetch_with(package(std::slice::from_ref(&url)), dir.path(), soon).unwrap_err();
        let [issue] = &issues.0[..] else { panic!("{issues}") };
        assert_eq!((issue.code.as_str(), &issue.path), ("portal", &url), "{issue}");
        for part in [&["thing 1.0"], words].concat() {
            assert!(issue.message.contains(part), "{path}: {part} is missing in {issue}");
        }
        assert!(!issue.to_string().contains("token"), "{issue}");
        assert!(server.seen.lock().unwrap().len() > 2, "it was not tried again");
        // When somebody has signed in, the rest comes.
        signed_in.store(true, std::sync::atomic::Ordering::SeqCst);
        fetch_with(package(&[url]), dir.path(), soon).unwrap();
        let last = server.seen.lock().unwrap().last().cloned();
        assert_eq!(last, Some(format!("{path} Some(300000)")));
    }
}

#[test]
fn a_portal_that_goes_away_again_costs_no_source_its_good_name() {
    let portal = portal();
    let names = ["/a", "/b", "/c", "/d"];
    let handlers = names.map(|name| {
        let portal = portal.url.clone();
        let handler: Handler = Box::new(move |s, from, number| match number {
            1 => send_to(s, &portal),
            _ => good(s, from, number),
        });
        (name, handler)
    });
    let server = serve(handlers.into_iter().collect());
    let packages = names.map(|name| LockedPackage {
        name: name[1..].into(),
        file: format!("{}.deb", &name[1..]),
        ..package(&[format!("{}{name}", server.url)])
    });
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::blocking::Client::builder().redirect(redirect_policy()).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let fetcher = Fetcher::new(client);
    fetcher.fetch(&packages, dir.path(), &|_| {}).unwrap();
    let report = fetcher.report();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert!(report.sources.iter().all(|source| source.wrong == 0 && !source.dropped), "{:?}", report.sources);
}

#[test]
fn nothing_is_gone_because_somebody_on_the_way_says_so() {
    let answers = [
        ("/page", "200 OK"),
        ("/portal", "511 Network Authentication Required"),
        ("/proxy", "407 Proxy Authentication Required"),
        ("/forbidden", "403 Forbidden"),
        ("/gone", "404 Not Found"),
    ];
    let handlers = answers.map(|(path, status)| {
        let answer: Handler = Box::new(move |s, _, _| reply(s, status, "Content-Type: text/html\r\n", b""));
        (path, answer)
    });
    let server = serve(handlers.into_iter().collect());
    let packages =
        answers.map(|(path, _)| LockedPackage { name: path.into(), ..package(&[server.url.clone() + path]) });
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::blocking::Client::builder().redirect(redirect_policy()).build().unwrap();
    let fetcher = Fetcher::new(client);
    let gone: Vec<&str> = fetcher.gone(&packages).into_iter().map(|package| package.name.as_str()).collect();
    assert_eq!(gone, ["/gone"]);
}

#[test]
fn a_server_that_calls_everything_a_page_still_has_the_file() {
    let server = serve(vec![(
        "/p",
        Box::new(|s, _, _| {
            let content = content();
            let headers = format!("Content-Type: text/html\r\nContent-Length: {}\r\n", content.len());
            reply(s, "200 OK", &headers, &content);
        }),
    )]);
    let dir = tempfile::tempdir().unwrap();
    fetch(package(&[format!("{}/p", server.url)]), dir.path()).unwrap();
}

#[test]
fn redirects_are_followed_but_not_for_ever_and_not_anywhere() {
    let server = serve(vec![
        ("/p", Box::new(good)),
        ("/to", Box::new(|s, _, _| reply(s, "302 Found", "Location: /p\r\n", b""))),
        ("/loop", Box::new(|s, _, _| reply(s, "301 Moved", "Location: /loop\r\n", b""))),
        ("/file", Box::new(|s, _, _| reply(s, "302 Found", "Location: file:///etc/passwd\r\n", b""))),
        ("/dark", Box::new(|s, _, _| reply(s, "302 Found", "", b""))),
    ]);
    let dir = tempfile::tempdir().unwrap();
    for (path, words) in
        [("/loop", "more than 5 redirects"), ("/file", "neither http nor https"), ("/dark", "where to")]
    {
        let issues = fetch(package(&[format!("{}{path}", server.url)]), dir.path()).unwrap_err();
        assert!(issues.0[0].message.contains(words), "{issues}");
    }
    fetch(package(&[format!("{}/to", server.url)]), dir.path()).unwrap();
}

#[test]
fn files_on_a_medium_and_missing_ones() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("medium.deb");
    std::fs::write(&file, content()).unwrap();
    let nothing = format!("file://{}/nothing.deb", dir.path().display());
    let issues = fetch(package(std::slice::from_ref(&nothing)), dir.path()).unwrap_err();
    assert!(issues.0[0].message.contains("No such file"), "{issues}");
    fetch(package(&[nothing, format!("file://{}", file.display())]), dir.path()).unwrap();
}

/// What lies beside a class and on a medium has no address anywhere.
#[test]
fn a_medium_has_files_by_their_sums_and_needs_no_address() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let dir = tempfile::tempdir().unwrap();
    let (pool, to) = (dir.path().join("pool"), dir.path().join("to"));
    std::fs::create_dir(&pool).unwrap();
    let package = package(&[]);
    let fetcher = || Fetcher::new(reqwest::blocking::Client::new());
    assert!(!fetcher().has_sources());
    let issues = fetcher().fetch(std::slice::from_ref(&package), &to, &|_| {}).unwrap_err();
    assert!(format!("{issues:#}").contains("package-unreachable"), "{issues:#}");
    std::fs::write(pool.join(package.sha256.to_string()), content()).unwrap();
    let medium = fetcher().first(akene_archive::Source::directory("the medium", &pool));
    assert!(medium.has_sources());
    assert!(medium.gone(std::slice::from_ref(&package)).is_empty());
    medium.fetch(std::slice::from_ref(&package), &to, &|_| {}).unwrap();
    assert_eq!(std::fs::read(to.join(&package.file)).unwrap(), content());
}
