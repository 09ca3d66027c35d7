//! The agent against a real server, into a disk image: what is refused leaves every byte as it was, and
//! what a dead server missed arrives later, once and in order.
#![allow(missing_docs)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use akene_agent::fetch::Patience;
use akene_agent::fetch::http::Web;
use akene_agent::net::Online;
use akene_agent::probe::{self, ProbeRoot};
use akene_agent::report::Reporter;
use akene_agent::report::logfile::LogFile;
use akene_agent::resident::Resident;
use akene_agent::run::machine::{Authority, Machine, Room};
use akene_agent::run::native::{self, Onto, Outcome, Request, Says};
use akene_agent::run::{self, Done, Failure};
use akene_agent::storage::image::Image;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::api::Consent;
use akene_protocol::inventory::{FirmwareKind, LooksLike};
use akene_protocol::stamp::{Source, Tls};
use akene_protocol::{Bytes, Issue, Stamp};
use akene_server::site::init::{Options, init};
use akene_server::{Config, Running, Server};
use akene_tests::http::Fault;
use akene_tests::image::digest;
use akene_tests::mirror::{Mirror, cache_dir};
use akene_tests::site::small_server;

fn can_run() -> bool {
    let can = nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !can {
        eprintln!("SKIPPED: needs to be root and loop devices");
    }
    can
}

/// A site with a server on loopback, and a disk image.
struct Rig {
    dir: tempfile::TempDir,
    server: Option<Running>,
    address: SocketAddr,
}

impl Rig {
    fn new(profile: &str) -> Rig {
        let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
        init(&dir.path().join("site"), &Options::new("https://127.0.0.1:8443")).unwrap();
        fs::write(dir.path().join("site/profiles/default.toml"), profile).unwrap();
        let mut rig = Rig { dir, server: None, address: "127.0.0.1:0".parse().unwrap() };
        rig.start();
        rig
    }

    fn start(&mut self) {
        let config = Config { dir: self.dir.path().join("site"), listen: Some(self.address) };
        let server = Server::start(config).unwrap();
        self.address = server.addr;
        self.server = Some(server);
    }

    fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("install.log")).unwrap_or_default()
    }

    fn request(&self) -> Request {
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
            packages: None,
            log: Some(self.dir.path().join("install.log")),
            consoles: vec![],
            patience: Patience {
                attempts: 2,
                first: Duration::from_millis(50),
                longest: Duration::from_millis(50),
            },
        }
    }

    /// The only machine at the server, with its events.
    fn machine(&self) -> serde_json::Value {
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
fn refused(rig: &Rig, request: &Request, code: &str) -> Issue {
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
const IDLE: &str = "[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n";

fn with_stamp(rig: &Rig, change: impl FnOnce(&mut Stamp)) -> Request {
    let mut stamp = rig.server().stamp().unwrap();
    change(&mut stamp);
    Request { says: Says::Site(Box::new(stamp)), ..rig.request() }
}

fn tls_of(stamp: &mut Stamp) -> &mut Tls {
    match &mut stamp.source {
        Source::Server { tls, .. } => tls,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_not_the_server_gets_nothing() {
    if !can_run() {
        return;
    }
    let (rig, other) = (Rig::new(IDLE), Rig::new(IDLE));
    let foreign = other.server().stamp().unwrap();
    let request = with_stamp(&rig, |stamp| *tls_of(stamp) = tls_of(&mut foreign.clone()).clone());
    refused(&rig, &request, "certificate-wrong");

    // Right server, wrong key: the profile is not what the site signed.
    let request = with_stamp(&rig, |stamp| stamp.site_key = foreign.site_key);
    refused(&rig, &request, "signature-wrong");

    let request = with_stamp(&rig, |stamp| {
        if let Source::Server { token, .. } = &mut stamp.source {
            *token = akene_protocol::Secret::new("not-the-token-of-this-site");
        }
    });
    let issue = refused(&rig, &request, "token-refused");
    assert!(!issue.next.is_empty());
    assert!(!rig.log().contains("not-the-token-of-this-site"));
}

#[test]
fn an_expired_certificate_is_called_expired() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::new(IDLE);
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let server_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let certificate = params.signed_by(&server_key, &issuer).unwrap();
    rig.server.take().unwrap().stop().unwrap();
    let secrets = rig.dir.path().join("site/secrets");
    fs::write(secrets.join("server.pem"), certificate.pem()).unwrap();
    fs::write(secrets.join("server.key"), server_key.serialize_pem()).unwrap();
    rig.start();
    let request = with_stamp(&rig, |stamp| *tls_of(stamp) = Tls { ca: Some(ca.pem()), pins: vec![] });
    refused(&rig, &request, "certificate-expired");
}

#[test]
fn a_profile_with_a_mistake_is_refused_with_its_place() {
    if !can_run() {
        return;
    }
    let rig = Rig::new(IDLE);
    let profile = rig.dir.path().join("site/profiles/default.toml");
    fs::write(profile, format!("pakages = [\"less\"]\n{IDLE}")).unwrap();
    let request = rig.request();
    File::create(rig.image()).unwrap().set_len(6 << 30).unwrap();
    let before = digest(&rig.image()).unwrap();
    let Outcome::Failed(failure) = native::run(&request, &SystemRunner).unwrap() else { panic!() };
    let said = format!("{:?}", failure.issues);
    assert!(said.contains("pakages") && said.contains("packages"), "{said}");
    assert_eq!(digest(&rig.image()).unwrap(), before);
}

#[test]
fn without_a_grant_nothing_happens_and_the_reason_is_told() {
    if !can_run() {
        return;
    }
    let rig = Rig::new(IDLE);
    let config = rig.dir.path().join("site/site.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text: String =
        text.lines().filter(|l| !l.starts_with("new-machines")).map(|l| l.to_owned() + "\n").collect();
    fs::write(&config, format!("new-machines = \"none\"\n{text}")).unwrap();
    let outcome = native::run(&rig.request(), &SystemRunner).unwrap();
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.phase, akene_protocol::Phase::Consent);
    assert!(!failure.issues[0].next.is_empty(), "{:?}", failure.issues);
    assert!(digest(&rig.image()).unwrap().is_blank(), "the new image is not empty");
    // The server knows the machine, its plan, and why nothing happened.
    let machine = rig.machine();
    let kinds: Vec<&str> =
        machine["events"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"planned") && kinds.last() == Some(&"failed"), "{kinds:?}");
}

#[test]
fn disks_that_do_not_do_are_refused_with_the_numbers() {
    if !can_run() {
        return;
    }
    let rig = Rig::new(IDLE);
    let mut request = rig.request();
    request.onto = Onto::Image { file: rig.image(), size: Some(Bytes::gib(1)), sector: 512 };
    let issue = refused(&rig, &request, "disk-too-small");
    assert!(issue.message.contains("1 GiB") && issue.message.contains("missing"), "{issue}");

    // Somebody's data, and a permission for blank disks only.
    fs::remove_file(rig.image()).unwrap();
    File::create(rig.image()).unwrap().set_len(8 << 30).unwrap();
    SystemRunner.run(&Cmd::new("mkfs.ext4").args(["-q", "-F", "-L", "Holidays"]).arg(rig.image())).unwrap();
    let issue = refused(&rig, &rig.request(), "consent-needed");
    assert!(issue.message.contains("Holidays"), "{issue}");

    // A selector that fits no disk.
    let profile = rig.dir.path().join("site/profiles/default.toml");
    fs::write(profile, format!("{IDLE}\n[storage.disks]\nserial = \"NOPE\"\n")).unwrap();
    let Outcome::Failed(failure) = native::run(&rig.request(), &SystemRunner).unwrap() else { panic!() };
    assert_eq!(failure.phase, akene_protocol::Phase::Plan, "{failure:?}");
}

#[test]
fn packages_that_are_not_what_was_signed_are_refused_before_the_disk_changes() {
    if !can_run() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    let profile = small_server(&mirror, "127.0.0.1");
    let rig = Rig::new(&profile);
    let write = |text: &str| fs::write(rig.dir.path().join("site/profiles/default.toml"), text).unwrap();

    write(&profile.replace("\"less\"", "\"no-such-package-anywhere\""));
    let issue = refused(&rig, &rig.request(), "package-missing");
    assert!(issue.to_string().contains("no-such-package-anywhere"), "{issue}");

    // A key nobody signed with.
    let key = include_str!("data/other-key.asc");
    write(&profile.replace("[apt]\n", &format!("[apt]\nkey = '''\n{key}'''\n")));
    refused(&rig, &rig.request(), "archive-signature");

    write(&profile);
    let show = Cmd::new("apt-get").args(["download", "--print-uris", "less"]);
    let shown = SystemRunner.run(&show).map(|o| o.text()).unwrap_or_default();
    let file = shown.split_whitespace().find(|w| w.starts_with("less_")).unwrap_or_default().to_owned();
    assert!(file.ends_with(".deb"), "{shown}");
    mirror.server.fault(&file, Fault::Flipped);
    let issue = refused(&rig, &rig.request(), "package-hash");
    assert!(mirror.server.take_served().iter().any(|path| path.ends_with(&file)));
    assert!(issue.to_string().contains("less"), "{issue}");
}

/// Adds a USB disk to a recorded machine: what the kernel says of it, and a file for its bytes.
fn plug_in(tree: &Path, name: &str, bytes: &Path) {
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
fn run_on(rig: &Rig, tree: &Path) -> Failure {
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
        authority: Authority::Site { stamp: &stamp, http: Arc::new(web), profile: None },
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
        swap: Default::default(),
    };
    let options = run::Options { plan_only: false, patience: rig.request().patience };
    let failure = run::pipeline(&mut machine, &reporter, options).unwrap_err();
    assert!(!failure.disks_changed);
    assert_eq!(failure.phase, akene_protocol::Phase::Plan, "{failure:#?}");
    assert!(rig.log().contains("==> FAILED"), "{}", rig.log());
    failure
}

fn may_wipe(rig: &Rig) {
    let config = rig.dir.path().join("site/site.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text: String =
        text.lines().filter(|l| !l.starts_with("new-machines")).map(|l| l.to_owned() + "\n").collect();
    fs::write(&config, format!("new-machines = \"wipe\"\n{text}")).unwrap();
}

#[test]
fn a_machine_without_a_disk_is_told_so() {
    let rig = Rig::new(IDLE);
    may_wipe(&rig);
    let tree = tempfile::tempdir().unwrap();
    let failure = run_on(&rig, tree.path());
    assert_eq!(failure.issues.len(), 1, "{failure:#?}");
    let issue = &failure.issues[0];
    assert_eq!(issue.code, "no-disk");
    assert_eq!(issue.message, "this computer has no disk to install onto");
    assert!(issue.next.contains("cables") && issue.next.contains("AHCI"), "{issue}");
    // The administrator reads the same.
    let machine = rig.machine();
    assert_eq!(machine["state"], "failed", "{machine:#}");
    let failed = machine["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&failed["type"], &failed["issues"][0]["code"]), (&"failed".into(), &"no-disk".into()));
    assert_eq!(failed["disks-changed"], false);
}

#[test]
fn removable_disks_and_the_install_medium_are_never_taken_even_where_everything_may_be_wiped() {
    let have = |tool: &str| SystemRunner.run(&Cmd::new("which").arg(tool)).is_ok();
    if !have("xorriso") || !have("blkid") {
        eprintln!("SKIPPED: needs xorriso and blkid");
        return;
    }
    let rig = Rig::new(IDLE);
    may_wipe(&rig);
    let tree = tempfile::tempdir().unwrap();
    let file = |name: &str| tree.path().join(name);

    // The medium alone: no disk of the machine at all.
    fs::create_dir(file("content")).unwrap();
    fs::write(file("content/some-file"), "of the medium").unwrap();
    let make = Cmd::new("xorriso").args(["-as", "mkisofs", "-quiet", "-V", "AKENE", "-o"]);
    SystemRunner.run(&make.arg(file("medium")).arg(file("content"))).unwrap();
    plug_in(tree.path(), "sda", &file("medium"));
    let medium = digest(&file("dev/sda")).unwrap();
    let failure = run_on(&rig, tree.path());
    let codes: Vec<&str> = failure.issues.iter().map(|i| i.code.as_str()).collect();
    assert_eq!(codes, ["no-disk", "disk-live-medium"], "{failure:#?}");
    assert!(failure.issues[1].message.contains("sda"), "{failure:#?}");
    assert_eq!(digest(&file("dev/sda")).unwrap(), medium, "the medium was written");

    // With an empty stick and one with photographs beside it.
    File::create(file("blank")).unwrap().set_len(16 << 30).unwrap();
    plug_in(tree.path(), "sdb", &file("blank"));
    File::create(file("photos")).unwrap().set_len(16 << 30).unwrap();
    SystemRunner.run(&Cmd::new("mkfs.ext4").args(["-q", "-F", "-L", "photos"]).arg(file("photos"))).unwrap();
    plug_in(tree.path(), "sdc", &file("photos"));
    let before: Vec<_> = ["sda", "sdb", "sdc"].map(|d| digest(&file("dev").join(d)).unwrap()).into();
    let failure = run_on(&rig, tree.path());
    let issue = &failure.issues[0];
    assert_eq!(issue.code, "only-removable-disks", "{failure:#?}");
    assert!(issue.message.contains("only removable disks"), "{issue}");
    assert!(issue.next.contains("storage.disks.removable = true"), "{issue}");
    let after: Vec<_> = ["sda", "sdb", "sdc"].map(|d| digest(&file("dev").join(d)).unwrap()).into();
    assert_eq!(after, before, "a removable disk was written");
}

/// Calls `inside` with the node of the only partition of a disk image, and what the probe says of the disk.
fn with_partition<T>(file: &Path, inside: impl FnOnce(&Path, &akene_protocol::Inventory) -> T) -> T {
    let image = Image::attach(file, 512).unwrap();
    let node = probe::disk::partition_path(image.path(), 1);
    let facts = ProbeRoot { also: vec![image.path().to_owned()], ..ProbeRoot::default() };
    let mut found = probe::inventory(&SystemRunner, &facts);
    found.disks.retain(|d| Path::new(&d.path) == image.path());
    let result = inside(&node, &found);
    image.detach().unwrap();
    result
}

/// What nobody could be told is kept on the boot partition of an earlier installation, if that is beyond
/// doubt the right place, and the next run that is online tells it without writing to the disk.
#[test]
fn a_run_without_a_network_is_told_by_the_next_one() {
    if !can_run() {
        return;
    }
    let rig = Rig::new(&format!("{IDLE}\n[storage.disks]\nserial = \"NOPE\"\n"));
    let stamp = rig.server().stamp().unwrap();
    let file = rig.image();
    File::create(&file).unwrap().set_len(6 << 30).unwrap();
    SystemRunner.run(&Cmd::new("sfdisk").arg("--quiet").arg(&file).stdin("label: gpt\n,600MiB,L\n")).unwrap();

    // An installed machine, as far as its boot partition tells.
    let online = Online::on_host(None);
    let web = Web::new(tls_of(&mut stamp.clone()), None, &online.resolver, true).unwrap();
    let quiet = Reporter::for_new_run().unwrap();
    let site = akene_agent::fetch::Site { stamp: &stamp, http: &web };
    let nothing = tempfile::tempdir().unwrap();
    let machine = probe::inventory(&SystemRunner, &ProbeRoot::recorded(nothing.path()));
    let identity = site.identify(None, &machine, &quiet).unwrap();
    with_partition(&file, |node, _| {
        SystemRunner.run(&Cmd::new("mkfs.ext4").args(["-q", "-F", "-L", "AKENE_BOOT"]).arg(node)).unwrap();
        let top = rig.dir.path().join("boot");
        fs::create_dir_all(&top).unwrap();
        SystemRunner.run(&Cmd::new("mount").arg(node).arg(&top)).unwrap();
        fs::create_dir(top.join("akene")).unwrap();
        fs::write(top.join("akene/identity.json"), serde_json::to_vec(&identity).unwrap()).unwrap();
        fs::write(top.join("akene/stamp.img"), stamp.to_area().unwrap()).unwrap();
        SystemRunner.run(&Cmd::new("umount").arg(&top)).unwrap();
    });

    // A run that never had a network.
    let lonely = Reporter::for_new_run().unwrap();
    lonely.start_courier().unwrap();
    lonely.phase(akene_protocol::Phase::Network);
    lonely
        .failed(vec![Issue::new("no-address", "", "nobody hands out an address", "restart the box")], false);
    let keep =
        |stamp: &Stamp| with_partition(&file, |_, found| run::left::keep(found, stamp, &lonely).unwrap());
    let before = digest(&file).unwrap();
    let mut foreign = stamp.clone();
    foreign.site_key = Rig::new(IDLE).server().stamp().unwrap().site_key;
    assert!(!keep(&foreign), "it is another site's disk");
    assert_eq!(digest(&file).unwrap(), before);
    let set_state = |state: &str| {
        let set = format!("set_super_value state {state}");
        with_partition(&file, |node, _| {
            SystemRunner.run(&Cmd::new("debugfs").args(["-w", "-R", &set]).arg(node)).unwrap();
        });
    };
    set_state("0");
    let dirty = digest(&file).unwrap();
    assert!(!keep(&stamp), "it was not unmounted in order");
    assert_eq!(digest(&file).unwrap(), dirty);
    set_state("1");
    assert!(keep(&stamp));
    with_partition(&file, |node, _| {
        SystemRunner.run(&Cmd::new("e2fsck").args(["-f", "-n"]).arg(node)).unwrap();
    });

    // The next one is online. It is refused for another reason, and the disk stays as it is.
    let kept = digest(&file).unwrap();
    let Outcome::Failed(failure) = native::run(&rig.request(), &SystemRunner).unwrap() else { panic!() };
    assert_eq!(failure.phase, akene_protocol::Phase::Plan, "{failure:?}");
    assert_eq!(digest(&file).unwrap(), kept, "reading wrote");
    let known = rig.machine().to_string();
    let run = lonely.run().to_string();
    assert!(known.contains(&run), "the server does not know the run {run}: {known}");
    assert!(known.contains("nobody hands out an address"), "{known}");
}

/// Where the partitions of an installed image are mounted.
struct Opened {
    image: Option<Image>,
    root: PathBuf,
}

impl Opened {
    fn new(file: &Path, root: &Path) -> Opened {
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

/// The whole way; the server is dead from the middle of it until the installed system has started.
#[test]
fn a_server_that_dies_in_the_middle_neither_stops_nor_falsifies_an_installation() {
    if !can_run() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    let mut rig = Rig::new(&small_server(&mirror, "127.0.0.1"));
    let request = rig.request();
    let token = match &rig.server().stamp().unwrap().source {
        Source::Server { token, .. } => token.expose().to_owned(),
        other => panic!("{other:?}"),
    };
    let started = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| native::run(&request, &SystemRunner).unwrap());
        while !rig.log().contains("[install]") && !running.is_finished() {
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(rig.server.take());
        running.join().unwrap()
    });
    eprintln!("the installation took {:.1} s", started.elapsed().as_secs_f64());
    let Outcome::Done(Done::Installed { identity, .. }) = outcome else {
        panic!("{outcome:?}\n{}", rig.log())
    };
    for secret in [&token, identity.credential.expose()] {
        assert!(!rig.log().contains(secret), "the log holds a secret");
    }

    rig.start();
    assert_ne!(rig.machine()["state"], "installed", "nobody has told it yet");
    let opened = Opened::new(&rig.image(), &rig.dir.path().join("root"));
    assert!(opened.root.join("boot/akene/journal.jsonl").exists());
    let search = Cmd::new("grep").args(["-rlF", &token]).arg(&opened.root);
    let holding = SystemRunner.run(&search).map(|o| o.text()).unwrap_or_default();
    assert_eq!(holding, "", "the enrolment token is on the installed system");
    let resident = Resident::open(&opened.root).unwrap();
    assert!(resident.confirm().unwrap());
    let machine = rig.machine();
    assert_eq!(machine["state"], "confirmed", "{machine:#}");
    let numbers: Vec<u64> =
        machine["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "each once, in order, none missing");
    assert!(resident.confirm().unwrap(), "a second start of the system");
    assert_eq!(rig.machine()["events"].as_array().unwrap().len(), numbers.len());
}
