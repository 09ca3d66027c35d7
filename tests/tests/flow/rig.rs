//! What the tests of the whole way share: a site with a server, machines, and what is on their disks.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use akene_agent::fetch::Patience;
use akene_agent::fetch::http::Web;
use akene_agent::net::Online;
use akene_agent::probe::{self, ProbeRoot};
use akene_agent::report::Reporter;
use akene_agent::report::logfile::LogFile;
use akene_agent::run::machine::{Authority, Machine, Room};
use akene_agent::run::native::{self, Onto, Outcome, Request, Says};
use akene_agent::run::{self, Failure};
use akene_agent::storage::image::Image;
use akene_archive::{AptRoot, AptSettings};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::api::Consent;
use akene_protocol::inventory::{FirmwareKind, LooksLike};
use akene_protocol::resolve::resolve;
use akene_protocol::stamp::{Source, Tls};
use akene_protocol::{Bytes, Inventory, Issue, Stamp};
use akene_server::site::init::{Options, init};
use akene_server::{Config, Running, Server};
use akene_tests::http::unescape;
use akene_tests::image::digest;
use akene_tests::mirror::cache_dir;
use akene_tests::port::own_port;

/// A site with a server on loopback, and a disk image.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub server: Option<Running>,
    address: SocketAddr,
}

impl Rig {
    pub fn new(profile: &str) -> Rig {
        let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
        init(&dir.path().join("site"), &Options::new("https://127.0.0.1:8443")).unwrap();
        fs::write(dir.path().join("site/profiles/default.toml"), profile).unwrap();
        let address = (Ipv4Addr::LOCALHOST, own_port().unwrap()).into();
        let mut rig = Rig { dir, server: None, address };
        rig.start();
        rig
    }

    pub fn start(&mut self) {
        let config = Config { dir: self.dir.path().join("site"), listen: Some(self.address) };
        self.server = Some(Server::start(config).unwrap());
    }

    pub fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    pub fn image(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("install.log")).unwrap_or_default()
    }

    pub fn request(&self) -> Request {
        Request {
            onto: Onto::Image { file: self.image(), size: Some(Bytes::gib(6)), sector: 512 },
            says: Says::Site(Box::new(self.server().stamp().unwrap())),
            profile: None,
            consent: Consent::Blank,
            yes: true,
            json: false,
            inventory: None,
            firmware: None,
            proxy: None,
            installer: None,
            medium: None,
            packages: None,
            log: Some(self.dir.path().join("install.log")),
            consoles: vec![],
            patience: Patience {
                attempts: 2,
                first: Duration::from_millis(50),
                longest: Duration::from_millis(50),
                ..Patience::default()
            },
        }
    }

    /// The file of a package, as the mirror is asked for it.
    pub fn file_of(&self, package: &str) -> String {
        let site = self.server().site();
        let bundle = site.bundle(&site.config().unwrap(), "default").unwrap();
        let archive = resolve(&bundle, &Inventory::unknown(FirmwareKind::Bios), None).unwrap().archive;
        let keyring = AptSettings::default_keyring(archive.distribution);
        let settings = AptSettings { archive: &archive, keyring, proxy: None };
        let apt = AptRoot::create(&self.dir.path().join("apt"), &settings).unwrap();
        apt.update(&SystemRunner, &mut |_| {}).unwrap();
        let lock = apt.solve(&SystemRunner, &[package.to_owned()], false).unwrap();
        let chosen = lock.packages.iter().find(|p| p.name == package).unwrap();
        unescape(chosen.urls[0].rsplit('/').next().unwrap())
    }

    /// The only machine at the server, with its events.
    pub fn machine(&self) -> serde_json::Value {
        // The second test of this program finds it installed already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::blocking::Client::builder()
            .tls_certs_only([
                reqwest::Certificate::from_pem(self.server().ca.as_ref().unwrap().as_bytes()).unwrap()
            ])
            .no_proxy()
            .build()
            .unwrap();
        let ask = |path: &str| -> serde_json::Value {
            let url = format!("{}{path}", self.server().url().unwrap());
            let answer = client.get(url).bearer_auth(self.server().admin_token.expose()).send().unwrap();
            answer.json().unwrap()
        };
        let list = ask("/v1/admin/machines");
        let id = list["machines"][0]["machine"].as_str().unwrap_or_else(|| panic!("{list:#}")).to_owned();
        ask(&format!("/v1/admin/machines/{id}"))
    }
}

/// Runs and expects a refusal that leaves the image as it was.
pub fn refused(rig: &Rig, request: &Request, code: &str) -> Issue {
    if let (Onto::Image { file, size: Some(size), .. }, false) = (&request.onto, rig.image().exists()) {
        File::create(file).unwrap().set_len(size.0).unwrap();
    }
    let before = digest(&rig.image()).unwrap();
    let outcome = native::run(request, &SystemRunner).unwrap();
    let Outcome::Failed(failure) = outcome else { panic!("it was not refused: {outcome:?}") };
    assert!(!failure.disks_changed);
    assert_eq!(failure.issues[0].code, code, "{:#?}", failure.issues);
    assert_eq!(digest(&rig.image()).unwrap(), before, "a refusal changed the disk");
    assert!(rig.log().contains("==> FAILED"), "{}", rig.log());
    failure.issues[0].clone()
}

/// A profile that never gets as far as a mirror.
pub const IDLE: &str = "[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n";

pub fn with_stamp(rig: &Rig, change: impl FnOnce(&mut Stamp)) -> Request {
    let mut stamp = rig.server().stamp().unwrap();
    change(&mut stamp);
    Request { says: Says::Site(Box::new(stamp)), ..rig.request() }
}

pub fn tls_of(stamp: &mut Stamp) -> &mut Tls {
    match &mut stamp.source {
        Source::Server { tls, .. } => tls,
        other => panic!("{other:?}"),
    }
}

/// Adds a USB disk to a recorded machine: what the kernel says of it, and a file for its bytes.
pub fn plug_in(tree: &Path, name: &str, bytes: &Path) {
    let block = tree.join("sys/devices/pci0000:00/usb1/1-1/host0/target0:0:0/0:0:0:0/block").join(name);
    let size = bytes.metadata().unwrap().len() / 512;
    for (file, text) in [("size", size.to_string()), ("removable", "1".into()), ("ro", "0".into())] {
        fs::create_dir_all(block.join("queue")).unwrap();
        fs::write(block.join(file), text).unwrap();
    }
    fs::write(block.join("queue/logical_block_size"), "512").unwrap();
    fs::create_dir_all(tree.join("sys/block")).unwrap();
    fs::create_dir_all(tree.join("dev")).unwrap();
    std::os::unix::fs::symlink(&block, tree.join("sys/block").join(name)).unwrap();
    fs::rename(bytes, tree.join("dev").join(name)).unwrap();
}

/// The whole pipeline on a recorded machine, with a permission to wipe whatever is found.
pub fn run_on(rig: &Rig, tree: &Path) -> Failure {
    let stamp = rig.server().stamp().unwrap();
    let reporter = Reporter::for_new_run().unwrap();
    let log = rig.dir.path().join("install.log");
    reporter.listen("log", LogFile::open(&log).unwrap()).unwrap();
    reporter.start_courier().unwrap();
    let online = Online::on_host(None);
    let web = Web::new(tls_of(&mut stamp.clone()), None, &online.resolver, true).unwrap();
    let scratch = rig.dir.path().join("scratch");
    fs::create_dir_all(&scratch).unwrap();
    let mut machine = Machine {
        runner: &SystemRunner,
        reporter: &reporter,
        probe: ProbeRoot::recorded(tree),
        only_disk: None,
        inventory: None,
        authority: Authority::Site { stamp: &stamp, http: Arc::new(web), profile: None, begun: None },
        resolver: online.resolver.clone(),
        proxy: None,
        mount: scratch.join("target"),
        scratch,
        packages: None,
        room: Room::Disk,
        installer: None,
        program: std::env::current_exe().unwrap(),
        this_machine: false,
        consoles: vec![],
        log,
        firmware: FirmwareKind::Bios,
        other_firmware: None,
        sent: vec![],
        clock: None,
        swap: Default::default(),
        identity: None,
        boots: vec![],
        signed: None,
        offline: None,
        people: Default::default(),
    };
    let patience = rig.request().patience;
    let options = run::Options { plan_only: false, patience, afterwards: patience };
    let failure = run::pipeline(&mut machine, &reporter, options).unwrap_err();
    assert!(!failure.disks_changed);
    assert_eq!(failure.phase, akene_protocol::Phase::Plan, "{failure:#?}");
    assert!(rig.log().contains("==> FAILED"), "{}", rig.log());
    failure
}

pub fn may_wipe(rig: &Rig) {
    let config = rig.dir.path().join("site/site.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text: String =
        text.lines().filter(|l| !l.starts_with("new-machines")).map(|l| l.to_owned() + "\n").collect();
    fs::write(&config, format!("new-machines = \"wipe\"\n{text}")).unwrap();
}

/// Calls `inside` with the node of the only partition of a disk image, and what the probe says of the disk.
pub fn with_partition<T>(file: &Path, inside: impl FnOnce(&Path, &akene_protocol::Inventory) -> T) -> T {
    let image = Image::attach(file, 512).unwrap();
    let node = probe::disk::partition_path(image.path(), 1);
    let facts = ProbeRoot { also: vec![image.path().to_owned()], ..ProbeRoot::default() };
    let mut found = probe::inventory(&SystemRunner, &facts);
    found.disks.retain(|d| Path::new(&d.path) == image.path());
    let result = inside(&node, &found);
    image.detach().unwrap();
    result
}

/// Where the partitions of an installed image are mounted.
pub struct Opened {
    image: Option<Image>,
    pub root: PathBuf,
}

impl Opened {
    pub fn new(file: &Path, root: &Path) -> Opened {
        // Installations running beside this would take copies of what is mounted here.
        akene_exec::own_mounts().unwrap();
        let image = Image::attach(file, 512).unwrap();
        let facts = ProbeRoot { also: vec![image.path().to_owned()], ..ProbeRoot::default() };
        let found = probe::inventory(&SystemRunner, &facts);
        let disk = found.disks.iter().find(|d| Path::new(&d.path) == image.path()).unwrap();
        let table = disk.table.as_ref().unwrap();
        let node = |is: &dyn Fn(&LooksLike) -> bool| {
            let fits = |p: &&akene_protocol::inventory::Partition| {
                p.content.as_ref().and_then(|c| c.looks_like.as_ref()).is_some_and(is)
            };
            let number = table.partitions.iter().find(fits).unwrap_or_else(|| panic!("{table:#?}")).number;
            probe::disk::partition_path(image.path(), number)
        };
        fs::create_dir_all(root).unwrap();
        let mount = |node: PathBuf, at: &Path| {
            SystemRunner.run(&Cmd::new("mount").arg(node).arg(at)).unwrap();
        };
        mount(node(&|l| matches!(l, LooksLike::LinuxRoot { .. })), root);
        mount(node(&|l| matches!(l, LooksLike::AkeneBoot { .. })), &root.join("boot"));
        Opened { image: Some(image), root: root.to_owned() }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        SystemRunner.run(&Cmd::new("umount").arg("-R").arg(&self.root)).unwrap();
        self.image.take().unwrap().detach().unwrap();
    }
}
