//! A site with a running server, a stick of it, and the roots of machines that were installed from the stick.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_agent::resident::{Config, ServerAddress};
use akene_exec::{Cmd, Runner, Running, Streams, SystemRunner};
use akene_image::stamp;
use akene_protocol::api::{Consent, Identity};
use akene_protocol::event::{EventKind, Phase};
use akene_protocol::medium::{LABEL, MediumId};
use akene_protocol::report::{Letter, Report};
use akene_protocol::stamp::{Home, Source};
use akene_protocol::{
    AssetNumber, Envelope, Event, Inventory, MachineId, PublicKey, RunId, Secret, Sha256, Stamp,
};
use akene_server::site::Site;
use akene_server::site::init::{Options, init};
use akene_server::site::media::{self, Registered};
use akene_server::{Config as ServerConfig, Server};
use akene_tests::port::own_port;
use akene_tests::site::program;
use akene_tests::small_image::SmallImage;
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub const ASSOCIATION: &str = "Foyer de Lannion";

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub site: Site,
    server: Option<akene_server::Running>,
    pub home: Home,
    pub medium: MediumId,
    key: SigningKey,
}

impl Rig {
    pub fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("https://127.0.0.1:{}", own_port().unwrap());
        let site = init(&dir.path().join("site"), &Options::new(&url)).unwrap();
        let config = fs::read_to_string(site.dir().join("site.toml")).unwrap();
        fs::write(site.dir().join("site.toml"), format!("{config}\n[limits]\npoll-seconds = 1\n")).unwrap();
        let Source::Server { tls, .. } = site.stamp().unwrap().source else {
            panic!("no server in the stamp")
        };
        let home = Home { url, tls, seal: site.seal_secret().unwrap().public() };
        let key = SigningKey::from_bytes(&[5; 32]);
        let made = Timestamp::now() - SignedDuration::from_hours(48);
        let medium =
            Registered::new(MediumId([5; 8]), "the stick", PublicKey(key.verifying_key()), made, 100, 400);
        let medium = medium.unwrap();
        media::register(&site, &medium).unwrap();
        let mut rig = Rig { dir, site, server: None, home, medium: medium.id, key };
        rig.server_starts();
        rig
    }

    pub fn server_starts(&mut self) {
        self.server =
            Some(Server::start(ServerConfig { dir: self.site.dir().to_owned(), listen: None }).unwrap());
    }

    pub fn server_stops(&mut self) {
        self.server.take().unwrap().stop().unwrap();
    }

    /// What a finished installation reports.
    pub fn report(&self, who: &Identity, run: u8) -> Report {
        let run = RunId([run; 8]);
        let began = Timestamp::now() - SignedDuration::from_hours(5);
        let kinds = [
            EventKind::PhaseStarted { phase: Phase::Commit },
            EventKind::PhaseStarted { phase: Phase::Restart },
            EventKind::Installed,
        ];
        let event = |(seq, kind)| Event { version: 1, run, seq, at: began, uptime_ms: seq, kind };
        Report {
            version: akene_protocol::report::VERSION,
            run,
            at: began,
            identity: who.clone(),
            labelled: true,
            association: Some(ASSOCIATION.into()),
            profile: Some(("default".into(), "r1".into())),
            inventory: inventory(who),
            events: (1..).zip(kinds).map(event).collect(),
            log: Some("it was installed\n".into()),
        }
    }

    pub fn sealed(&self, report: &Report) -> Vec<u8> {
        let letter = Letter { medium: self.medium, report: Envelope::sign(report, &self.key) };
        let text = serde_json::to_vec(&letter).unwrap();
        self.home.seal.seal(&text, Sha256::of(&text).0)
    }

    pub fn stamp(&self) -> Stamp {
        let source =
            Source::Medium { consent: Consent::Blank, attended: true, home: Some(self.home.clone()) };
        Stamp { source, ..self.site.stamp().unwrap() }
    }

    /// A disc's tree, copied: stamp and reports.
    pub fn directory(&self, name: &str, reports: &[&Report]) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(dir.join("akene/reports")).unwrap();
        fs::write(dir.join(stamp::AREA), self.stamp().to_area().unwrap()).unwrap();
        for report in reports {
            fs::write(dir.join(format!("akene/reports/{}.sealed", report.run)), self.sealed(report)).unwrap();
        }
        dir
    }

    /// A whole stick: an ISO with the stamp, and the data partition after it.
    pub fn stick(&self, reports: &[&Report]) -> PathBuf {
        let stick = SmallImage::default().write(self.dir.path(), "stick.img");
        stamp::write(&stick, &self.stamp(), None).unwrap();
        File::options().write(true).open(&stick).unwrap().set_len(64 << 20).unwrap();
        let table = |args: &[&str]| SystemRunner.run(&Cmd::new("sgdisk").args(args).arg(&stick)).unwrap();
        table(&["--move-second-header"]);
        table(&["--new=0:32M:+16M", &format!("--change-name=0:{LABEL}")]);
        let data = self.directory("data", reports);
        fs::remove_file(data.join(stamp::AREA)).unwrap();
        let mkfs = Cmd::new("mke2fs").args(["-q", "-t", "ext4", "-L", LABEL, "-E", "offset=33554432", "-d"]);
        SystemRunner.run(&mkfs.arg(&data).arg(&stick).arg("16M")).unwrap();
        stick
    }

    /// `akene-image sync`: what it prints, and what it complains about.
    pub fn sync(&self, stick: &Path, more: &[&str]) -> Result<String, String> {
        let cmd = Cmd::new(program("akene-image").unwrap()).arg("sync").arg(stick).args(more);
        SystemRunner.run(&cmd).map(|out| out.text()).map_err(|error| format!("{error:#}"))
    }

    pub fn server_command(&self, command: &[&str], more: &[&str]) -> String {
        let cmd = Cmd::new(program("akene-server").unwrap()).args(command).arg(self.site.dir()).args(more);
        SystemRunner.run(&cmd).unwrap().text()
    }

    /// What the server knows of a machine.
    pub fn shown(&self, who: &Identity) -> Option<Value> {
        let cmd = Cmd::new(program("akene-server").unwrap()).arg("show").arg(self.site.dir());
        let out = SystemRunner.run(&cmd.arg(who.machine.to_string()).arg("--json")).ok()?;
        Some(out.json().unwrap())
    }

    pub fn state(&self, who: &Identity) -> String {
        let shown = self.shown(who).unwrap_or_default();
        shown["state"].as_str().unwrap_or("unknown").to_owned()
    }
}

pub fn minted(n: u8, serial: u32) -> Identity {
    Identity {
        machine: MachineId([n; 16]),
        asset: AssetNumber::new(serial),
        credential: Secret::new(format!("{n:02x}").repeat(32)),
    }
}

/// Each machine has a board and a disk of its own.
fn inventory(who: &Identity) -> Inventory {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/20gb-bios/inventory.json");
    let mut inventory = Inventory::parse(&fs::read(golden).unwrap()).unwrap();
    inventory.dmi.product_serial = Some(format!("5XK{:04}J", who.machine.0[0]));
    inventory.disks[0].serial = Some(format!("3HT0ZK{:02}", who.machine.0[0]));
    inventory
}

/// The system that an installation with no network left.
pub struct Installed {
    pub root: PathBuf,
    agent: Option<Running>,
}

impl Installed {
    pub fn new(rig: &Rig, report: &Report) -> Installed {
        let root = rig.dir.path().join(format!("root-{}", report.identity.machine));
        for dir in [
            "etc/akene",
            "boot/akene/events",
            "boot/akene/reports",
            "var/lib",
            "usr/lib",
            "proc/sys/kernel/random",
        ] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let write = |path: &str, bytes: &[u8]| fs::write(root.join(path), bytes).unwrap();
        let server = ServerAddress { url: rig.home.url.clone(), tls: rig.home.tls.clone() };
        let config = Config {
            site: "test".into(),
            site_key: Some(rig.stamp().site_key),
            server: Some(server),
            proxy: None,
            run: report.run,
            offline: true,
        };
        write("etc/akene/agent.json", &serde_json::to_vec(&config).unwrap());
        let identity = serde_json::to_vec(&report.identity).unwrap();
        write("etc/akene/identity.json", &identity);
        write("boot/akene/identity.json", &identity);
        write("usr/lib/os-release", b"PRETTY_NAME=\"Debian 13\"\n");
        write("inventory.json", &serde_json::to_vec(&report.inventory).unwrap());
        write(&format!("boot/akene/reports/{}.sealed", report.run), &rig.sealed(report));
        let lines: Vec<String> =
            report.events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
        write(&format!("boot/akene/events/{}.jsonl", report.run), lines.concat().as_bytes());
        Installed { root, agent: None }
    }

    pub fn starts(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let cmd = Cmd::new(program("akene-agent").unwrap()).arg("resident").arg("--root").arg(&self.root);
        let cmd = cmd.arg("--inventory").arg(self.root.join("inventory.json"));
        self.agent = Some(cmd.spawn(Streams::Log(log)).unwrap());
    }

    fn log_path(&self) -> PathBuf {
        self.root.with_extension("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn reports(&self) -> usize {
        fs::read_dir(self.root.join("boot/akene/reports")).unwrap().count()
    }

    pub fn wait(&self, what: &str, until: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(180);
        while !until() {
            assert!(Instant::now() < deadline, "waiting until {what}\nthe agent:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
