//! Who is trusted, and whether each thing that can stand between a machine and its server is called by its
//! own name. Servers, certificates and a name server are real and run on loopback.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use akene_agent::net::clock::{Clock, Source};
use akene_agent::net::http::Access;
use akene_agent::net::resolver::Resolver;
use akene_agent::net::tls::Dates;
use akene_agent::net::{Online, Site};
use akene_protocol::Sha256;
use akene_protocol::stamp::Tls;
use akene_tests::port::own_port;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const NAME: &str = "akene.example";

/// A small authority of our own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn pin(&self) -> Sha256 {
        Sha256::of(&self.0.key().subject_public_key_info())
    }

    /// A certificate for a name, between two years.
    fn issue(&self, name: &str, years: (i32, i32)) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            pin: Sha256::of(&key.subject_public_key_info()),
            key: key.serialize_der(),
        }
    }
}

/// What a server shows.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    pin: Sha256,
}

/// Serves one answer to everybody over TLS; returns the port.
fn serve_tls(identity: &Identity, answer: &'static str) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(identity.key.clone()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            thread::spawn(move || answer_one(rustls::StreamOwned::new(connection, stream), answer));
        }
    });
    port
}

/// Serves one answer to everybody in the clear.
fn serve_plain(address: (Ipv4Addr, u16), answer: &'static str) -> std::io::Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_one(stream, answer));
        }
    });
    Ok(port)
}

/// Reads one request and answers it. A client that refuses the certificate goes away: no error here.
fn answer_one(mut stream: impl Read + Write, answer: &str) {
    let mut request = [0; 4096];
    if matches!(stream.read(&mut request), Ok(n) if n > 0) {
        stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).ok();
    }
}

/// A name server that knows these names and no others.
fn name_server(names: HashMap<&'static str, Ipv4Addr>) -> Resolver {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut packet) {
            socket.send_to(&dns_answer(&packet[..n], &names), from).unwrap();
        }
    });
    Resolver::with_ports([address])
}

fn dns_answer(question: &[u8], names: &HashMap<&'static str, Ipv4Addr>) -> Vec<u8> {
    let mut at = 12;
    let mut labels = Vec::new();
    while question[at] != 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..at + 1 + length]).into_owned());
        at += 1 + length;
    }
    let end = at + 5;
    let is_a = question[at + 2] == 1;
    let found = names.get(labels.join(".").as_str());
    let mut answer = question[..end].to_vec();
    let code = if found.is_some() { 0x80 } else { 0x83 };
    answer[2..12].copy_from_slice(&[0x81, code, 0, 1, 0, u8::from(found.is_some() && is_a), 0, 0, 0, 0]);
    if let (Some(ip), true) = (found, is_a) {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ip.octets());
    }
    answer
}

const TIME: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 30\r\nconnection: close\r\n\r\n{\"now\":\"2026-11-22T05:00:00Z\"}";

fn online(resolver: Resolver) -> Online {
    Online::asking(resolver, None)
}

fn loopback() -> Resolver {
    name_server(HashMap::from([(NAME, Ipv4Addr::LOCALHOST)]))
}

fn site(port: u16, tls: Tls) -> Site {
    Site { url: format!("https://{NAME}:{port}"), is_server: true, tls }
}

/// The code of what `reach` says, or `ok`.
fn outcome(online: &Online, site: &Site) -> String {
    online.reach(site).map_or_else(
        |issue| {
            assert!(!issue.message.is_empty() && !issue.next.is_empty(), "{issue:?}");
            issue.code
        },
        |()| "ok".into(),
    )
}

#[test]
fn authorities_and_pins() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let good = ours.issue(NAME, (2020, 2090));
    let port = serve_tls(&good, TIME);
    let online = online(loopback());
    let tls = |ca: &Authority, pins: &[Sha256]| Tls { ca: Some(ca.pem()), pins: pins.to_vec() };
    let stranger = Sha256::of(b"stranger");
    for (what, tls, expected) in [
        ("the right authority", tls(&ours, &[]), "ok"),
        ("another authority", tls(&other, &[]), "certificate-wrong"),
        ("public authorities only", Tls::default(), "certificate-wrong"),
        ("the server's key pinned", tls(&ours, &[good.pin]), "ok"),
        ("the authority's key pinned, which is not sent along", tls(&ours, &[stranger, ours.pin()]), "ok"),
        ("another key pinned", tls(&ours, &[stranger]), "certificate-wrong"),
        ("a pin does not replace the authority", tls(&other, &[good.pin]), "certificate-wrong"),
    ] {
        assert_eq!(outcome(&online, &site(port, tls)), expected, "{what}");
    }
}

#[test]
fn a_pinned_certificate_that_is_only_sent_along_proves_nothing() {
    // Both authorities are trusted, only the second is pinned. The server's certificate is by the first; it
    // sends the second's as well.
    let (first, pinned) = (Authority::new("first"), Authority::new("pinned"));
    let mut identity = first.issue(NAME, (2020, 2090));
    identity.chain.push(pinned.0.der().clone());
    let port = serve_tls(&identity, TIME);
    let ca = format!("{}{}", first.pem(), pinned.pem());
    let tls = Tls { ca: Some(ca), pins: vec![pinned.pin()] };
    assert_eq!(outcome(&online(loopback()), &site(port, tls.clone())), "certificate-wrong");
    // The same trust accepts a server that the pinned authority vouches for.
    let port = serve_tls(&pinned.issue(NAME, (2020, 2090)), TIME);
    assert_eq!(outcome(&online(loopback()), &site(port, tls)), "ok");
}

#[test]
fn names_and_dates() {
    let ours = Authority::new("ours");
    let tls = || Tls { ca: Some(ours.pem()), pins: vec![ours.pin()] };
    let port = |name, years| serve_tls(&ours.issue(name, years), TIME);
    let mut online = online(loopback());
    assert_eq!(outcome(&online, &site(port("other.example", (2020, 2090)), tls())), "certificate-wrong");
    // Our clock is not ours to mend here, so it counts as right.
    assert_eq!(outcome(&online, &site(port(NAME, (2001, 2002)), tls())), "certificate-expired");
    assert_eq!(outcome(&online, &site(port(NAME, (2088, 2090)), tls())), "certificate-expired");
    // Nobody confirms it: then the clock is to blame.
    let clock = TestClock(Mutex::new("2026-11-22T05:00:00Z".parse().unwrap()));
    online.mend_clock(&clock, "2026-11-01T00:00:00Z".parse().unwrap(), &[], None).unwrap();
    assert!(!online.clock.as_ref().unwrap().confirmed(), "no name resolves to a web server here");
    let issue = online.reach(&site(port(NAME, (2001, 2002)), tls())).unwrap_err();
    assert_eq!(issue.code, "clock-wrong");
    assert!(issue.next.contains("BIOS"), "{issue}");
}

struct TestClock(Mutex<jiff::Timestamp>);

impl Clock for TestClock {
    fn now(&self) -> jiff::Timestamp {
        *self.0.lock().unwrap()
    }
    fn set(&self, to: jiff::Timestamp) -> anyhow::Result<()> {
        *self.0.lock().unwrap() = to;
        Ok(())
    }
    fn remember(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn a_pinned_server_mends_the_clock_whatever_its_certificates_dates() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let floor = "2026-11-01T00:00:00Z".parse().unwrap();
    let told: jiff::Timestamp = "2026-11-22T05:00:00Z".parse().unwrap();
    for years in [(2001, 2002), (2088, 2090), (2020, 2090)] {
        let port = serve_tls(&ours.issue(NAME, years), TIME);
        for start in ["1980-01-01T00:00:00Z", "2050-01-01T00:00:00Z"] {
            let clock = TestClock(Mutex::new(start.parse().unwrap()));
            let mut online = online(loopback());
            let site = site(port, Tls { ca: Some(ours.pem()), pins: vec![ours.pin()] });
            online.mend_clock(&clock, floor, &[], Some(&site)).unwrap();
            let mended = online.clock.unwrap();
            assert_eq!(mended.by, Some(Source::Server), "{years:?} {start}");
            assert!(clock.now().duration_since(told).abs() < jiff::SignedDuration::from_secs(5));
        }
    }
    // Somebody else's key is not believed, whatever it says.
    let port = serve_tls(&other.issue(NAME, (2001, 2090)), TIME);
    let clock = TestClock(Mutex::new("1980-01-01T00:00:00Z".parse().unwrap()));
    let mut online = online(loopback());
    let site = site(port, Tls { ca: Some(ours.pem()), pins: vec![ours.pin()] });
    online.mend_clock(&clock, floor, &[], Some(&site)).unwrap();
    assert_ne!(online.clock.unwrap().by, Some(Source::Server));
}

#[test]
fn names_that_are_not_found_and_name_servers_that_say_nothing() {
    let tls = Tls::default;
    assert_eq!(outcome(&online(name_server(HashMap::new())), &site(1, tls())), "name-not-found");
    assert_eq!(outcome(&online(Resolver::default()), &site(1, tls())), "name-not-found");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let issue =
        online(Resolver::with_ports([silent.local_addr().unwrap()])).reach(&site(1, tls())).unwrap_err();
    assert_eq!(issue.code, "name-not-found");
    assert!(issue.message.contains("127.0.0.1"), "names who was asked: {issue}");
}

#[test]
fn servers_that_do_not_answer() {
    let ours = Authority::new("ours");
    let tls = || Tls { ca: Some(ours.pem()), pins: vec![] };
    let online = online(loopback());
    // Refused: nobody listens.
    assert_eq!(outcome(&online, &site(own_port().unwrap(), tls())), "server-silent");
    // Accepted, then nothing. Our own patience is half a minute; the test's is not.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{NAME}:{}/v1/time", silent.local_addr().unwrap().port());
    let trust = tls();
    let access = Access { tls: &trust, proxy: None, resolver: &online.resolver, dates: Dates::Checked };
    let client = access.builder().unwrap().timeout(Duration::from_millis(300)).build().unwrap();
    let error = client.get(&url).send().unwrap_err();
    let issue = online.explain(&url, &error);
    assert_eq!(issue.code, "server-silent");
    assert!(issue.message.contains("it says nothing"), "{issue}");
    // Something that does not speak TLS.
    let plain = serve_plain((Ipv4Addr::LOCALHOST, 0), "SSH-2.0-hello\r\n").unwrap();
    assert_eq!(outcome(&online, &site(plain, tls())), "server-silent");
}

#[test]
fn answers_that_are_not_the_servers() {
    let ours = Authority::new("ours");
    let identity = ours.issue(NAME, (2020, 2090));
    let online = online(loopback());
    for (answer, expected) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhtml",
            "portal",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://login.example/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "portal",
        ),
        (
            "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
            "token-refused",
        ),
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", "server-silent"),
    ] {
        let site = site(serve_tls(&identity, answer), Tls { ca: Some(ours.pem()), pins: vec![] });
        assert_eq!(outcome(&online, &site), expected, "{answer}");
    }
}

#[test]
fn a_portal_with_a_certificate_of_its_own_is_a_portal() {
    // Port 80 of an address nobody else uses, because that is where portals answer.
    let address = Ipv4Addr::new(127, 83, 7, 1);
    let page = "HTTP/1.1 302 Found\r\nlocation: http://login.hotel.example/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    match serve_plain((address, 80), page) {
        Ok(_) => {}
        Err(e) => {
            eprintln!("SKIPPED: listening on port 80 of {address} is not allowed here: {e}");
            return;
        }
    }
    let (ours, hotel) = (Authority::new("ours"), Authority::new("hotel"));
    let identity = hotel.issue("login.hotel.example", (2020, 2090));
    let tls_port = serve_tls(&identity, TIME);
    // The portal catches every port of that address; here one is enough.
    let relay = TcpListener::bind((address, 0)).unwrap();
    let port = relay.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut from in relay.incoming().flatten() {
            let mut to =
                std::net::TcpStream::connect(SocketAddr::new(IpAddr::from(Ipv4Addr::LOCALHOST), tls_port))
                    .unwrap();
            let (mut from2, mut to2) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            thread::spawn(move || std::io::copy(&mut to2, &mut from2));
        }
    });
    let online = online(name_server(HashMap::from([(NAME, address)])));
    let issue = online.reach(&site(port, Tls { ca: Some(ours.pem()), pins: vec![] })).unwrap_err();
    assert_eq!(issue.code, "portal", "{issue}");
    assert!(issue.message.contains("login.hotel.example"), "{issue}");
}

#[test]
fn redirections_do_not_leave_the_server() {
    let ours = Authority::new("ours");
    let identity = ours.issue(NAME, (2020, 2090));
    let online = online(loopback());
    let trust = Tls { ca: Some(ours.pem()), pins: vec![] };
    let away = "HTTP/1.1 307 Away\r\nlocation: https://elsewhere.example/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let port = serve_tls(&identity, away);
    let answer = online.client(&trust).unwrap().get(format!("https://{NAME}:{port}/")).send().unwrap();
    assert_eq!(answer.status(), 307);
}
