//! A site with a server, and the root of an installed system with its agent.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_agent::fetch::Server;
use akene_agent::fetch::http::{Http, Method, Request, Web};
use akene_agent::net::resolver::Resolver;
use akene_agent::resident::Config;
use akene_agent::run::boot_files;
use akene_agent::target;
use akene_exec::{Cmd, Runner, Running, Streams, SystemRunner};
use akene_protocol::api::{Consent, Grant, Identity};
use akene_protocol::event::{Event, EventKind};
use akene_protocol::image::{self, ImageFile, ImageManifest};
use akene_protocol::lock::{ArchiveSettings, PinnedPackage, ProfileLock, Release, SIGNED_VERSION, Selection};
use akene_protocol::profile::Distribution;
use akene_protocol::stamp::{Source, Tls};
use akene_protocol::{Bytes, Inventory, Issue, OrderId, PublicKey, RunId, Sha256, Stamp};
use akene_tests::http::{Answer, Server as Files};
use akene_tests::port::own_port;
use akene_tests::site::program;

/// What the mirror has: as the fetcher names it, and its content.
pub const PACKAGES: [(&str, &str); 2] =
    [("one_1_all.deb", "the first package"), ("two_2_all.deb", "the second")];

/// What people are told who would postpone something at any other time.
pub const NOTHING: &str = "nothing is announced";

/// The run that installed the system.
const RUN: RunId = RunId([1; 8]);

/// Whether it can be tested here. Says so where not.
pub fn possible() -> bool {
    let there = SystemRunner.run(&Cmd::new("grub-editenv").arg("--version")).is_ok();
    if !there {
        eprintln!("SKIPPED: needs grub-editenv (grub-common)");
    }
    there
}

pub struct Rig {
    _dir: tempfile::TempDir,
    site: PathBuf,
    address: String,
    server: Option<Running>,
    agent: Option<Running>,
    _files: Files,
    pub root: PathBuf,
    fakes: PathBuf,
    inventory_file: PathBuf,
    inventory: Inventory,
    pub identity: Identity,
    pub key: PublicKey,
    url: String,
    tls: Tls,
}

fn script(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Rig {
    pub fn new() -> Rig {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let files = Files::start(|path: &str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            match PACKAGES.iter().find(|(file, _)| *file == name) {
                Some((_, content)) => Answer::Bytes(content.as_bytes().to_vec()),
                None => Answer::Missing,
            }
        })
        .unwrap();
        let site = dir.path().join("site");
        let address = format!("127.0.0.1:{}", own_port().unwrap());
        let url = format!("https://{address}");
        let init = Cmd::new(program("akene-server").unwrap()).arg("init").arg(&site).args(["--url", &url]);
        SystemRunner.run(&init).unwrap();
        let config = fs::read_to_string(site.join("site.toml")).unwrap();
        fs::write(site.join("site.toml"), format!("{config}\n[limits]\npoll-seconds = 1\n")).unwrap();
        let profile = format!(
            "[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\nmirrors = [\"{}/debian\"]\n",
            files.url()
        );
        fs::write(site.join("profiles/default.toml"), profile).unwrap();

        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/akene-reinstall/inventory.json");
        let inventory = Inventory::parse(&fs::read(&golden).unwrap()).unwrap();
        let stamp: Stamp = serde_json::from_slice(&fs::read(site.join("stamp.json")).unwrap()).unwrap();
        let Source::Server { tls, token: Some(token), .. } = &stamp.source else {
            panic!("no server in the stamp")
        };
        let root = dir.path().join("root");
        let mut rig = Rig {
            site,
            address,
            server: None,
            agent: None,
            _files: files,
            fakes: dir.path().join("fakes"),
            inventory_file: golden,
            identity: serde_json::from_value(serde_json::json!({
                "machine": "00".repeat(16), "asset": "1001-6", "credential": "none"
            }))
            .unwrap(),
            inventory,
            key: stamp.site_key,
            url,
            tls: tls.clone(),
            root,
            _dir: dir,
        };
        rig.server_starts();
        // As it was installed.
        rig.identity =
            rig.server_call(|server, rig| server.enrol(token, None, &rig.inventory)).unwrap().identity;
        rig.install(RUN, None).unwrap();
        rig.confirmed(RUN);
        rig.make_root(&stamp);
        rig.make_lock();
        rig
    }

    fn make_root(&self, stamp: &Stamp) {
        let boot = self.root.join("boot");
        for dir in [
            "etc/akene",
            "etc/default",
            "boot/grub",
            "boot/akene/events",
            "home/.akene-packages",
            "var/lib",
            "var/log/akene",
            "usr/lib",
            "run/user/1000",
            "proc/sys/kernel/random",
        ] {
            fs::create_dir_all(self.root.join(dir)).unwrap();
        }
        let write = |path: &str, text: &str| fs::write(self.root.join(path), text).unwrap();
        write("etc/default/locale", "LANG=fr_FR.UTF-8\n");
        write("usr/lib/os-release", "PRETTY_NAME=\"Debian 12\"\n");
        write("etc/fstab", "UUID=x / ext4 defaults 0 1\nUUID=y /home ext4 defaults 0 2\n");
        write("home/.akene-packages/old_1_all.deb", "old");
        write("run/user/1000/bus", "");
        write("var/log/akene/install.log", "it was installed\n");
        let config = Config::from_stamp(stamp, None, RUN);
        write("etc/akene/agent.json", &serde_json::to_string(&config).unwrap());
        write("etc/akene/identity.json", &serde_json::to_string(&self.identity).unwrap());
        self.boots("first");
        self.grub(&["create"]);
        self.grub(&["set", "akene_tries=3"]);
        // The installer, as it puts itself there.
        let live = self.root.with_file_name("live");
        fs::create_dir_all(live.join("akene")).unwrap();
        fs::write(live.join("init"), "the agent").unwrap();
        fs::write(live.join(image::KERNEL), "the kernel").unwrap();
        fs::write(live.join(image::ROOT), vec![7; 100_001]).unwrap();
        let sum = |path: &str| {
            let bytes = fs::read(live.join(path)).unwrap();
            ImageFile { path: path.into(), size: Bytes(bytes.len() as u64), sha256: Sha256::of(&bytes) }
        };
        let manifest = ImageManifest {
            version: image::VERSION,
            akene: "0".into(),
            distribution: Distribution::Debian,
            suite: "trixie".into(),
            architecture: "amd64".into(),
            kernel: "6.12".into(),
            built: jiff::Timestamp::UNIX_EPOCH,
            wireless: false,
            packages: vec![],
            files: vec![sum("init"), sum(image::ROOT), sum(image::KERNEL)],
        };
        fs::write(live.join(image::MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        boot_files::write_installer(&boot, &live, stamp, &manifest).unwrap();

        fs::create_dir_all(&self.fakes).unwrap();
        let seen =
            |name: &str| format!("echo \"$@\" >> {}", self.fakes.join(format!("{name}.log")).display());
        script(&self.fakes, "systemctl", &seen("systemctl"));
        script(&self.fakes, "runuser", &seen("runuser"));
        script(&self.fakes, "wall", &format!("cat >> {}", self.fakes.join("wall.log").display()));
        let secret = self.identity.credential.expose();
        let journal = format!("echo 'something happened'; echo 'password=hunter2'; echo 'it is {secret}'");
        script(&self.fakes, "journalctl", &journal);
        self.somebody_is_logged_in(false);
    }

    /// A signed lock with an answer for this very machine.
    fn make_lock(&self) {
        let site = akene_server::site::Site::open(&self.site).unwrap();
        let asset = Some(self.identity.asset);
        let chosen = site.choose(&site.config().unwrap(), &self.inventory, asset, None).unwrap();
        let plan =
            akene_planner::plan_within(&chosen.resolved.storage, &self.inventory, Consent::Wipe).unwrap();
        let request = target::request(&chosen.resolved, &plan, self.inventory.firmware.kind);
        let package = |(file, content): &(&str, &str)| {
            let mut parts = file.split('_');
            PinnedPackage {
                name: parts.next().unwrap().into(),
                version: parts.next().unwrap().into(),
                architecture: "all".into(),
                size: Bytes(content.len() as u64),
                sha256: Sha256::of(content.as_bytes()),
                release: Some(0),
                path: format!("pool/{file}"),
            }
        };
        let release: Release = serde_json::from_value(serde_json::json!({
            "repository": "main", "uri": "http://example.org", "suite": "bookworm", "sha256": "00".repeat(32),
        }))
        .unwrap();
        let lock = ProfileLock {
            version: SIGNED_VERSION,
            site: chosen.bundle.site.clone(),
            profile: chosen.bundle.name.clone(),
            revision: chosen.bundle.revision.clone(),
            architecture: "amd64".into(),
            releases: vec![release],
            archives: vec![ArchiveSettings::of(&chosen.resolved.archive)],
            packages: PACKAGES.iter().map(package).collect(),
            selections: vec![Selection {
                request,
                archive: 0,
                absent: vec![],
                packages: vec![(0, 2)],
                base: vec![(0, 1)],
            }],
        };
        lock.check().unwrap();
        site.write_lock(&lock).unwrap();
    }

    fn web(&self) -> Web {
        Web::new(&self.tls, None, &Resolver::default(), true).unwrap()
    }

    fn server_call<T>(&self, call: impl FnOnce(&Server<'_>, &Rig) -> T) -> T {
        let web = self.web();
        call(&Server::new(&web, &self.url), self)
    }

    /// What an installer does that names this order.
    pub fn install(&self, run: RunId, order: Option<OrderId>) -> Result<Grant, Issue> {
        let answer = self
            .server_call(|server, rig| server.run(&rig.identity, run, &rig.inventory, None, order))
            .unwrap();
        match answer.grant {
            Some(grant) => Ok(grant.open(&self.key).unwrap()),
            None => Err(answer.refusal.unwrap()),
        }
    }

    /// What an installed system says.
    pub fn confirmed(&self, run: RunId) {
        let event =
            |seq, kind| Event { version: 1, run, seq, at: jiff::Timestamp::now(), uptime_ms: seq, kind };
        let confirmed = EventKind::Confirmed { system: "Debian 12".into(), kernel: "6.1".into() };
        let events = [event(1, EventKind::Installed), event(2, confirmed)];
        self.server_call(|server, rig| server.events(&rig.identity, &events)).unwrap();
    }

    pub fn somebody_is_logged_in(&self, somebody: bool) {
        let marie =
            "Name=marie\\nUser=1000\\nClass=user\\nState=active\\nType=x11\\nIdleHint=no\\nLockedHint=no\\n";
        let text = match somebody {
            true => format!(
                "case \"$*\" in *list-sessions*) echo '2 1000 marie seat0 tty7';; *) printf '{marie}';; esac"
            ),
            false => "true".to_owned(),
        };
        // A script that runs is not written to: it gets another file.
        let new = self.fakes.join("new");
        fs::create_dir_all(&new).unwrap();
        script(&new, "loginctl", &text);
        fs::rename(new.join("loginctl"), self.fakes.join("loginctl")).unwrap();
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let path = format!("{}:{}", self.fakes.display(), std::env::var("PATH").unwrap());
        let cmd = Cmd::new(program("akene-agent").unwrap()).arg("resident").arg("--root").arg(&self.root);
        let cmd = cmd.arg("--inventory").arg(&self.inventory_file).env("PATH", path);
        self.agent = Some(cmd.spawn(Streams::Log(log)).unwrap());
    }

    pub fn stop(&mut self) {
        self.agent = None;
    }

    pub fn server_starts(&mut self) {
        let log = File::options().create(true).append(true).open(self.site.with_extension("log")).unwrap();
        let serve = Cmd::new(program("akene-server").unwrap()).arg("serve").arg(&self.site);
        self.server = Some(serve.args(["--listen", &self.address]).spawn(Streams::Log(log)).unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < deadline, "the server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn server_stops(&mut self) {
        self.server = None;
    }

    /// Puts another certificate with another key in its place, or the right one back.
    pub fn server_has_another_key(&self, another: bool) {
        let other = self.site.with_file_name("other");
        if !other.exists() {
            let init = Cmd::new(program("akene-server").unwrap()).arg("init").arg(&other);
            SystemRunner.run(&init.args(["--url", &self.url])).unwrap();
        }
        for name in ["server.pem", "server.key"] {
            let path = self.site.join("secrets").join(name);
            let right = path.with_extension("right");
            if another {
                fs::rename(&path, &right).unwrap();
                fs::copy(other.join("secrets").join(name), &path).unwrap();
                fs::rename(&right, self.site.join("secrets").join(format!("{name}.right"))).unwrap();
            } else {
                fs::rename(self.site.join("secrets").join(format!("{name}.right")), &path).unwrap();
            }
        }
    }

    fn server_command(&self, command: &[&str], more: &[&str]) -> Result<String, String> {
        let cmd = Cmd::new(program("akene-server").unwrap()).args(command).arg(&self.site).args(more);
        SystemRunner.run(&cmd).map(|out| out.text()).map_err(|error| format!("{error:#}"))
    }

    pub fn try_order(&self, what: &[&str]) -> Result<String, String> {
        let asset = self.identity.asset.to_string();
        self.server_command(&["order"], &[&[asset.as_str()], what].concat())
    }

    pub fn order(&self, what: &[&str]) -> String {
        self.try_order(what).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn orders(&self) -> String {
        self.server_command(&["orders", "list"], &[]).unwrap()
    }

    /// Takes the newest order back.
    pub fn cancel(&self) {
        let list = self.orders();
        let id = list.lines().next().unwrap().rsplit_once('[').unwrap().1.trim_end_matches(']');
        self.server_command(&["orders", "cancel"], &[id]).unwrap();
    }

    /// The journal the machine has sent, as the administrator reads it.
    pub fn journal(&self) -> String {
        let token = fs::read_to_string(self.site.join("secrets/admin-token")).unwrap();
        let url = format!("{}/v1/admin/machines/{}/logs/{RUN}/journal.log", self.url, self.identity.machine);
        let mut request = Request::new(Method::Get, &url, 1 << 20);
        request.authorization = Some(akene_protocol::Secret::new(format!("Bearer {}", token.trim())));
        let answer = self.web().send(&request).unwrap().success(&url).unwrap();
        String::from_utf8(answer.body).unwrap()
    }

    pub fn postpone(&self) -> Result<String, String> {
        let cmd = Cmd::new(program("akene-agent").unwrap()).arg("postpone").arg("--root").arg(&self.root);
        SystemRunner.run(&cmd).map(|out| out.text()).map_err(|error| format!("{error:#}"))
    }

    /// The same as soon as there is something to postpone: people are told a moment before.
    pub fn postpone_announced(&self) -> Result<String, String> {
        self.wait_for("something is announced", |rig| {
            Some(rig.postpone()).filter(|said| !said.as_ref().is_err_and(|error| error.contains(NOTHING)))
        })
    }

    /// Waits until the agent has taken everything in hand one step further: what it was ordered last is the last in its turn.
    pub fn takes_its_turn(&self) {
        let done = |rig: &Rig| rig.orders().matches("inventory: done").count();
        let before = done(self);
        self.order(&["inventory"]);
        self.wait("an inventory is taken", |rig| done(rig) > before);
    }

    pub fn grub(&self, args: &[&str]) -> String {
        let cmd = Cmd::new("grub-editenv").arg(self.root.join("boot/grub/grubenv")).args(args);
        SystemRunner.run(&cmd).unwrap().text()
    }

    pub fn environment(&self) -> String {
        self.grub(&["list"])
    }

    /// The kernel starts anew.
    pub fn boots(&self, id: &str) {
        fs::write(self.root.join("proc/sys/kernel/random/boot_id"), id).unwrap();
    }

    /// What an installer left on the boot partition.
    pub fn spool(&self, event: Event) {
        let path = self.root.join(format!("boot/akene/events/{}.jsonl", event.run));
        fs::write(path, serde_json::to_string(&event).unwrap() + "\n").unwrap();
    }

    /// With which arguments a stand-in was called.
    pub fn done(&self, name: &str) -> String {
        fs::read_to_string(self.fakes.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// What people on terminals were told.
    pub fn told(&self) -> String {
        self.done("wall")
    }

    fn log_path(&self) -> PathBuf {
        self.root.with_extension("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn wait(&self, what: &str, until: impl Fn(&Rig) -> bool) {
        self.wait_for(what, |rig| until(rig).then_some(()));
    }

    /// Waits until there is something, and gives it.
    fn wait_for<T>(&self, what: &str, get: impl Fn(&Rig) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(found) = get(self) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "waiting until {what}\nthe agent:\n{}\norders:\n{}\ntold:\n{}",
                self.log(),
                self.orders(),
                self.told()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
