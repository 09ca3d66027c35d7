//! The agent against a real server, into a disk image: what is refused leaves every byte as it was, and
//! what a dead server missed arrives later, once and in order.
#![allow(missing_docs)]

mod ordered;
mod rig;

use std::fs::{self, File};
use std::time::{Duration, Instant};

use akene_agent::fetch::http::Web;
use akene_agent::net::Online;
use akene_agent::probe::{self, ProbeRoot};
use akene_agent::report::Reporter;
use akene_agent::resident::Resident;
use akene_agent::run::native::{self, Onto, Outcome};
use akene_agent::run::{self, Done};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::stamp::{Source, Tls};
use akene_protocol::{Bytes, Issue, Stamp};
use akene_tests::disks::{can_run, has_loop_devices};
use akene_tests::faults::{Tiny, profile};
use akene_tests::http::Fault;
use akene_tests::image::digest;
use akene_tests::mirror::Mirror;
use akene_tests::site::small_server;
use rig::{IDLE, Opened, Rig, may_wipe, plug_in, refused, run_on, tls_of, with_partition, with_stamp};

#[test]
fn who_is_not_the_server_gets_nothing() {
    if !has_loop_devices() {
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
            *token = Some(akene_protocol::Secret::new("not-the-token-of-this-site"));
        }
    });
    let issue = refused(&rig, &request, "token-refused");
    assert!(!issue.next.is_empty());
    assert!(!rig.log().contains("not-the-token-of-this-site"));
}

#[test]
fn an_expired_certificate_is_called_expired() {
    if !has_loop_devices() {
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
    if !has_loop_devices() {
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
    if !has_loop_devices() {
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
    if !has_loop_devices() {
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
    if !has_loop_devices() {
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
    let key = include_str!("../data/other-key.asc");
    write(&profile.replace("[apt]\n", &format!("[apt]\nkey = '''\n{key}'''\n")));
    refused(&rig, &rig.request(), "archive-signature");

    write(&profile);
    let file = rig.file_of("less");
    mirror.server.fault(&file, Fault::Flipped);
    let issue = refused(&rig, &rig.request(), "package-hash");
    assert!(mirror.server.take_served().iter().any(|path| path.ends_with(&file)));
    assert!(issue.to_string().contains("less"), "{issue}");
}

/// The administrator reads of a mirror that lies, although nothing came of the installation.
#[test]
fn the_server_is_told_of_a_mirror_that_lies() {
    if !has_loop_devices() {
        return;
    }
    let Some(tiny) = Tiny::new(100_000) else { return };
    let mirrors = [tiny.mirror().unwrap(), tiny.mirror().unwrap()];
    mirrors[0].fault("_all.deb", Fault::Flipped);
    mirrors[1].fault("big_1_all.deb", Fault::Missing);
    let rig = Rig::new(&profile(&tiny.key.armoured(), mirrors.iter()));
    let issue = refused(&rig, &rig.request(), "package-hash");
    assert!(issue.message.contains("big"), "{issue}");
    let machine = rig.machine();
    let events = machine["events"].as_array().unwrap();
    let said: Vec<&str> = events
        .iter()
        .filter(|event| event["type"] == "log" && event["level"] == "warning")
        .filter_map(|event| event["message"].as_str())
        .filter(|message| message.contains("[source-wrong]"))
        .collect();
    // Once for each attempt.
    assert!(!said.is_empty(), "{machine:#}");
    let [lies, honest] = [&mirrors[0], &mirrors[1]].map(|mirror| mirror.url());
    assert!(said.iter().all(|said| said.contains(&lies) && !said.contains(&honest)), "{said:?}");
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

/// The whole way; the server is dead from the middle of it until the installed system has started.
#[test]
fn a_server_that_dies_in_the_middle_neither_stops_nor_falsifies_an_installation() {
    if !has_loop_devices() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    let mut rig = Rig::new(&small_server(&mirror, "127.0.0.1"));
    let request = rig.request();
    let token = match &rig.server().stamp().unwrap().source {
        Source::Server { token: Some(token), .. } => token.expose().to_owned(),
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

#[test]
fn packages_beside_a_class_come_from_the_server_and_are_checked() {
    if !has_loop_devices() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    let profile = small_server(&mirror, "127.0.0.1");
    let rig = Rig::new(&format!("classes = [\"own\"]\n{profile}"));
    let class = rig.dir.path().join("site/classes/own");
    fs::create_dir_all(class.join("packages")).unwrap();
    fs::write(class.join("class.toml"), "description = \"Ours\"\n").unwrap();
    // Nobody has what it needs: apt can only say so when it has seen the package.
    let control = "Package: our-own\nVersion: 1\nArchitecture: amd64\nDepends: less, nobody-has-this\n";
    let deb = akene_tests::deb::make(&class.join("packages"), control, &[]).unwrap();
    let issue = refused(&rig, &rig.request(), "packages-conflict");
    assert!(issue.message.contains("our-own") && issue.message.contains("nobody-has-this"), "{issue}");

    // Other bytes under its sum.
    let sum = akene_protocol::Sha256::of(&fs::read(&deb).unwrap());
    let pool = rig.dir.path().join("site/state/pool");
    fs::create_dir_all(&pool).unwrap();
    let mut bytes = fs::read(&deb).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(pool.join(sum.to_string()), bytes).unwrap();
    let issue = refused(&rig, &rig.request(), "package-hash");
    assert!(issue.to_string().contains("our-own"), "{issue}");
}
