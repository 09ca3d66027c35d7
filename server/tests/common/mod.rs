//! A site with a running server on a loopback port, and a client that trusts only its authority.
#![allow(dead_code, missing_docs)] // each test program uses its own part of this

use std::path::PathBuf;
use std::time::{Duration, Instant};

use akene_protocol::api::{EnrolRequest, EnrolResponse, EventBatch, Identity, RunRequest, RunResponse};
use akene_protocol::event::{EventKind, Phase};
use akene_protocol::inventory::{Disk, Nic};
use akene_protocol::lock::{ProfileLock, SIGNED_VERSION};
use akene_protocol::medium::MediumId;
use akene_protocol::report::{Letter, Report};
use akene_protocol::seal::SealKey;
use akene_protocol::stamp::Source;
use akene_protocol::{AssetNumber, Envelope, Event, Inventory, Issue, MachineId, PublicKey, RunId, Secret};
use akene_server::site::Site;
use akene_server::site::init::{Options, init};
use akene_server::site::media::{self, Registered};
use akene_server::{Config, Running, Server};
use ed25519_dalek::SigningKey;
use jiff::Timestamp;
use reqwest::blocking::{Client, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub server: Option<Running>,
    pub client: Client,
    pub token: Secret,
}

pub fn provider() {
    // The second test of a program finds it installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
}

pub fn client(ca: &str) -> Client {
    client_at(ca, None)
}

/// Looks again and again until there is something, at most a minute.
pub fn soon<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One that asks from this address.
pub fn client_at(ca: &str, from: Option<std::net::IpAddr>) -> Client {
    provider();
    Client::builder()
        .local_address(from)
        .tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).unwrap()])
        .timeout(Duration::from_secs(60))
        .no_proxy()
        .build()
        .unwrap()
}

impl Rig {
    /// A connection on which anything can be said, and for as long as one likes.
    pub fn wire(&self) -> rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = self.server().ca.clone().unwrap();
        let certificate: rustls::pki_types::CertificateDer<'_> =
            rustls::pki_types::pem::PemObject::from_pem_slice(ca.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = "127.0.0.1".try_into().unwrap();
        let tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let tcp = std::net::TcpStream::connect(self.server().addr).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
        rustls::StreamOwned::new(tls, tcp)
    }

    pub fn new() -> Rig {
        Rig::with(Options::new("https://127.0.0.1:8443"))
    }

    pub fn with(options: Options) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let site = init(&dir.path().join("site"), &options).unwrap();
        let Source::Server { token: Some(token), .. } = site.stamp().unwrap().source else {
            panic!("no server in the stamp")
        };
        let server = start(dir.path().join("site"));
        let client = client(server.ca.as_deref().unwrap());
        Rig { dir, server: Some(server), client, token }
    }

    pub fn site_dir(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    pub fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    pub fn restart(&mut self) {
        self.server.take().unwrap().stop().unwrap();
        self.server = Some(start(self.site_dir()));
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server().url().unwrap())
    }

    pub fn post(&self, path: &str, body: &impl Serialize) -> Response {
        self.client.post(self.url(path)).json(body).send().unwrap()
    }

    pub fn post_as(&self, who: &Identity, path: &str, body: &impl Serialize) -> Response {
        let request = self.client.post(self.url(path)).header("authorization", who.bearer().expose());
        request.json(body).send().unwrap()
    }

    pub fn admin(&self, path: &str) -> serde_json::Value {
        let request = self.client.get(self.url(path)).bearer_auth(self.server().admin_token.expose());
        ok(request.send().unwrap())
    }

    pub fn enrol(&self, inventory: &Inventory) -> EnrolResponse {
        self.enrol_known(inventory, None)
    }

    pub fn enrol_known(&self, inventory: &Inventory, known: Option<Identity>) -> EnrolResponse {
        let request = EnrolRequest { token: self.token.clone(), known, inventory: inventory.clone() };
        ok(self.post("/v1/enrol", &request))
    }

    pub fn run(&self, who: &Identity, run: RunId, inventory: &Inventory) -> RunResponse {
        ok(self.post_as(who, "/v1/runs", &request(run, inventory)))
    }

    pub fn events(&self, who: &Identity, events: &[Event]) -> usize {
        let accepted: serde_json::Value =
            ok(self.post_as(who, "/v1/events", &EventBatch { events: events.to_vec() }));
        accepted["new"].as_u64().unwrap() as usize
    }

    pub fn machine(&self, who: &Identity) -> serde_json::Value {
        self.admin(&format!("/v1/admin/machines/{}", who.machine))
    }

    pub fn allow(&self, who: &Identity, consent: &str) {
        let url = self.url(&format!("/v1/admin/machines/{}/allow", who.asset));
        let request = self.client.post(url).bearer_auth(self.server().admin_token.expose());
        let answer = request.json(&serde_json::json!({ "consent": consent })).send().unwrap();
        assert_eq!(answer.status(), 204);
    }
}

pub fn start(dir: PathBuf) -> Running {
    Server::start(Config { dir, listen: Some("127.0.0.1:0".parse().unwrap()) }).unwrap()
}

pub fn ok<T: DeserializeOwned>(response: Response) -> T {
    let status = response.status();
    let text = response.text().unwrap();
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap()
}

pub fn refused(response: Response, status: u16, code: &str) -> Issue {
    let found = response.status();
    let text = response.text().unwrap();
    let issue: Issue = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{found}: {text}: {e}"));
    assert_eq!((found.as_u16(), issue.code.as_str()), (status, code), "{text}");
    issue
}

pub fn request(run: RunId, inventory: &Inventory) -> RunRequest {
    RunRequest { run, inventory: inventory.clone(), profile: None, order: None, attempts: None }
}

pub fn run_id(n: u8) -> RunId {
    RunId([n; 8])
}

/// A lock that pins nothing.
pub fn lock(profile: &str, revision: &str) -> ProfileLock {
    ProfileLock {
        version: SIGNED_VERSION,
        site: "test".into(),
        profile: profile.into(),
        revision: revision.into(),
        architecture: "amd64".into(),
        releases: vec![],
        archives: vec![],
        packages: vec![],
        selections: vec![],
    }
}

/// A machine like no other number `n`.
pub fn inventory(n: u32) -> Inventory {
    let text = format!(
        r#"{{"version":1,"agent":"test","cpu":{{"model":null,"vendor":null,"arch":"x86_64","cores":2,"threads":2,
        "level":2}},"memory":{{"total":4294967296}},"firmware":{{"kind":"bios","secure-boot":null,"vendor":null,
        "version":null,"date":null}},"dmi":{{"system-vendor":"Dell Inc.","product-serial":"5XK{n:04}J"}}}}"#
    );
    let mut inventory: Inventory = serde_json::from_str(&text).unwrap();
    inventory.nics.push(Nic {
        name: "eth0".into(),
        driver: Some("e1000e".into()),
        mac: Some(format!("00:1e:c9:3a:{:02x}:{:02x}", n / 256, n % 256)),
        bus: Some("pci".into()),
        device: None,
        wireless: false,
        link: Some(true),
        speed: None,
    });
    inventory
}

/// A disk; `label` is that of the filesystem on its only partition.
pub fn disk(serial: Option<&str>, label: Option<&str>) -> Disk {
    let content = |label: &str| serde_json::json!({ "kind": "ext4", "label": label, "uuid": null, "used": null, "looks-like": null });
    let table = label.map(|label| {
        serde_json::json!({
            "kind": "gpt", "id": null, "hash": "00".repeat(32), "damage": null, "partitions": [{
                "number": 1, "start": 1048576, "size": 1048576, "kind": "x", "name": null, "uuid": null,
                "content": content(label),
            }],
        })
    });
    serde_json::from_value(serde_json::json!({
        "name": "sda", "path": "/dev/sda", "by-id": null, "size": 80_026_361_856_u64, "logical-sector": 512,
        "physical-sector": 512, "model": null, "serial": serial, "wwn": null, "bus": "sata", "rotational": true,
        "removable": false, "read-only": false, "live-medium": false, "table": table, "content": null,
    }))
    .unwrap()
}

pub fn event(run: RunId, seq: u64, kind: EventKind) -> Event {
    Event { version: 1, run, seq, at: Timestamp::now(), uptime_ms: seq * 10, kind }
}

/// The events of a good run, the confirmation last.
pub fn good_run(run: RunId) -> Vec<Event> {
    let mut kinds: Vec<EventKind> =
        Phase::ALL[..11].iter().map(|phase| EventKind::PhaseStarted { phase: *phase }).collect();
    kinds.push(EventKind::Planned { plan: serde_json::json!({ "disks": ["sda"] }) });
    kinds.push(EventKind::Installed);
    kinds.push(EventKind::Confirmed { system: "Debian GNU/Linux 12".into(), kernel: "6.1.0".into() });
    kinds.into_iter().enumerate().map(|(i, kind)| event(run, i as u64 + 1, kind)).collect()
}

/// A medium of the site, and what an installer does with it.
pub struct Stick {
    pub id: MediumId,
    pub key: SigningKey,
    pub seal: SealKey,
}

impl Stick {
    /// Made a day ago, for so many machines.
    pub fn of(site: &Site, n: u8, machines: u32) -> Stick {
        let key = SigningKey::from_bytes(&[n; 32]);
        let made = Timestamp::now() - jiff::SignedDuration::from_hours(24);
        let public = PublicKey(key.verifying_key());
        let medium = Registered::new(MediumId([n; 8]), "a stick", public, made, machines, 400).unwrap();
        media::register(site, &medium).unwrap();
        Stick { id: medium.id, key, seal: site.seal_secret().unwrap().public() }
    }

    pub fn letter(&self, report: &Report) -> Letter {
        Letter { medium: self.id, report: Envelope::sign(report, &self.key) }
    }

    /// The report as it lies on the medium.
    pub fn sealed(&self, report: &Report) -> Vec<u8> {
        self.seal(&serde_json::to_vec(&self.letter(report)).unwrap())
    }

    pub fn seal(&self, text: &[u8]) -> Vec<u8> {
        let random = akene_protocol::Sha256::of(text);
        self.seal.seal(text, random.0)
    }
}

/// An identity as an installer mints it.
pub fn minted(n: u8, serial: u32) -> Identity {
    Identity {
        machine: MachineId([n; 16]),
        asset: AssetNumber::new(serial),
        credential: Secret::new(format!("{n:02x}").repeat(32)),
    }
}

/// What a machine reports after a good run with no network; `hours` ago it began.
pub fn report(who: &Identity, run: RunId, machine: &Inventory, hours: i64) -> Report {
    let began = Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    let mut events = good_run(run);
    // The installed system says the last one itself.
    events.pop();
    for event in &mut events {
        event.at = began + jiff::SignedDuration::from_millis(event.seq as i64);
    }
    Report {
        version: akene_protocol::report::VERSION,
        run,
        at: began + jiff::SignedDuration::from_mins(20),
        identity: who.clone(),
        labelled: false,
        association: Some("Foyer <de> Lannion".into()),
        profile: Some(("default".into(), "r1".into())),
        inventory: machine.clone(),
        events,
        log: Some(format!("the log of {run}\n")),
    }
}

/// The report as it was when only so many events had happened.
pub fn shorter(report: &Report, events: usize) -> Report {
    let mut short = report.clone();
    short.events.truncate(events);
    short.at = short.events.last().unwrap().at;
    short.log = short.log.map(|log| log[..8].to_owned());
    short
}
