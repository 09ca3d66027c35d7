//! A computer without a network card, and a stick that brings everything: made by the command an administrator types, plugged in,
//! started from. Later the computer gets a card, and tells the site's server all that happened: once, in order, and then it is
//! a member like any other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::api::{Consent, Identity};
use akene_protocol::report::{Letter, Report};
use akene_protocol::stamp::Source;
use akene_protocol::{Envelope, EventKind, Stamp};
use akene_server::site::media;
use akene_tests::checks::{self, Expected};
use akene_tests::image::{Image, Opened};
use akene_tests::journey;
use akene_tests::site::{SSH_KEY, Site, USER, program, small_server};
use akene_tests::stick::{Stick, reports};
use akene_tests::vm::{Firmware, HOST, Machine, Medium, Vm};
use serde_json::Value;

use crate::{MINUTE, full, image};

/// From the prompt to the first word of the agent, on a slow emulator.
const AGENT_BEGINS: Duration = Duration::from_secs(40);

#[test]
fn a_computer_without_a_network_card_is_installed_from_a_stick_and_reports_when_it_has_one() {
    whole_way(Firmware::Bios);
}

#[test]
fn the_same_with_secure_boot() {
    if full("a stick and Secure Boot") {
        whole_way(Firmware::SecureBoot);
    }
}

fn whole_way(firmware: Firmware) {
    let Some((mirror, built)) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let profile = format!("shutdown = \"poweroff\"\n{}", small_server(&mirror, "127.0.0.1"));
    let mut site = Site::new(dir.path(), HOST, &profile).unwrap();
    let settings = site.dir.join("site.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{text}\n[limits]\npoll-seconds = 10\n")).unwrap();
    let stick = make_stick(&site, &built.iso(), dir.path());
    drop(mirror);

    let (mut machine, disk) = journey::machine_with_disk(firmware, dir.path(), 8).unwrap();
    (machine.network, machine.medium) = (false, Some(Medium::WritableUsb(stick.clone())));
    let console = install(&machine, dir.path());
    assert!(console.contains("Loading the installer"), "it was not started from the stick: {console}");
    assert!(console.contains("==> Installed") && !console.contains("[network]"), "{console}");
    let expected = Expected {
        user: USER.into(),
        ssh_key: SSH_KEY.into(),
        packages: ["openssh-server", "less", "grub-common"].map(String::from).into(),
        fresh: true,
        ..Expected::default()
    };
    checks::installed(&disk, &expected).unwrap();
    let brought = reports(&Opened::new(&stick, "AKENE_DATA").unwrap().path("akene/reports")).unwrap();
    let [(_, sealed)] = &brought[..] else { panic!("{} reports", brought.len()) };
    let report = opened(&site, sealed);
    assert_eq!(report.events.last().map(|e| e.kind.clone()), Some(EventKind::Installed));
    let on_disk = fs::read(Opened::new(&disk, "AKENE_BOOT").unwrap().path("akene/identity.json")).unwrap();
    assert_eq!(report.identity, serde_json::from_slice::<Identity>(&on_disk).unwrap());

    machine.medium = None;
    starts_unheard(&machine, &disk, dir.path(), &report);
    machine.network = true;
    site.start().unwrap();
    let told = joins_and_obeys(&machine, dir.path(), &site, &report);
    let boot = Opened::new(&disk, "AKENE_BOOT").unwrap();
    for waits in ["akene/reports", "akene/events"] {
        assert_eq!(fs::read_dir(boot.path(waits)).unwrap().count(), 0, "something still waits in {waits}");
    }
    drop(boot);

    // The stick comes home last.
    let sync = Cmd::new(program("akene-image").unwrap()).arg("sync").arg(&stick);
    let said = SystemRunner.run(&sync.arg("--site-dir").arg(&site.dir)).unwrap().text();
    assert!(said.contains("same  0 events"), "{said}");
    assert_eq!(shown(&site, &report)["events"], told, "the stick changed what the server knew");
}

/// The image of a stick, made as its administrator makes it.
pub(crate) fn make_stick(site: &Site, iso: &Path, dir: &Path) -> PathBuf {
    let (stick, begun) = (dir.join("stick.img"), Instant::now());
    let make =
        Cmd::new(program("akene-image").unwrap()).arg("offline").arg(&site.dir).arg("--output").arg(&stick);
    let make = make.arg("--image").arg(iso).arg("--cache").arg(dir.join("pool")).timeout(30 * MINUTE);
    SystemRunner.run(&make).unwrap_or_else(|e| panic!("{e:#}"));
    let (mebibytes, seconds) = (stick.metadata().unwrap().len() >> 20, begun.elapsed().as_secs_f64());
    println!("the stick has {mebibytes} MiB and was made in {seconds:.0} s");
    stick
}

/// Switches it on, waits until it has installed itself and is off, and gives what its console said.
fn install(machine: &Machine, dir: &Path) -> String {
    let mut vm = machine.start(&dir.join("machine")).unwrap();
    let limit = vm.accelerator.scale(40 * MINUTE);
    for word in ["Loading the installer", "brings everything: no network is needed", "Everything is read"] {
        vm.expect(word, 40 * MINUTE).unwrap();
        println!("{:>5} s {word}", vm.started.elapsed().as_secs());
    }
    let begun = Instant::now();
    while vm.is_on() {
        assert!(begun.elapsed() < limit, "{}", vm.console.text());
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("{:>5} s installed and switched off", vm.started.elapsed().as_secs());
    vm.console.text().to_owned()
}

/// Opens a report as the site's server does.
fn opened(site: &Site, sealed: &[u8]) -> Report {
    let ours = akene_server::site::Site::open(&site.dir).unwrap();
    let text = ours.seal_secret().unwrap().open(sealed).expect("it was sealed for somebody else");
    let letter: Letter = serde_json::from_slice(&text).unwrap();
    let medium = media::find(&ours, letter.medium).unwrap().expect("the site does not know its stick");
    letter.report.open(&medium.key).unwrap()
}

/// It starts from its disk, with nothing plugged in, and what it has to say waits there.
fn starts_unheard(machine: &Machine, disk: &Path, dir: &Path, report: &Report) {
    let mut said = String::new();
    // Nothing on the console says when the agent has come to it, and each start is as good as another. A busy machine is waited for longer.
    for patience in [1, 2, 4] {
        let mut vm = machine.start(&dir.join("machine")).unwrap();
        vm.expect("login:", 40 * MINUTE).unwrap();
        std::thread::sleep(AGENT_BEGINS * patience);
        vm.switch_off(10 * MINUTE).unwrap();
        let mut image = Image::open(disk).unwrap();
        let root = image.mount_system().unwrap();
        assert!(root.join(format!("boot/akene/reports/{}.sealed", report.run)).exists());
        said = fs::read_to_string(root.join(format!("boot/akene/events/{}.jsonl", report.run))).unwrap();
        if said.contains("\"confirmed\"") {
            return;
        }
    }
    panic!("it does not say that its system runs: {said}");
}

/// With a card, and its server there: it tells everything, once and in order, and does what it is ordered, over another start. Gives
/// the events that the server knows.
fn joins_and_obeys(machine: &Machine, dir: &Path, site: &Site, report: &Report) -> Value {
    let mut vm = machine.start(&dir.join("machine")).unwrap();
    let limit = vm.accelerator.scale(15 * MINUTE);
    vm.expect("login:", 15 * MINUTE).unwrap();
    let seen = site.wait_for("confirmed", limit, || vm.is_on());
    let seen = seen.unwrap_or_else(|e| panic!("{e:#}\n{}", vm.console.text()));
    println!("{:>5} s confirmed", vm.started.elapsed().as_secs());
    let told = shown(site, report);
    assert_eq!(told["asset"], report.identity.asset.to_string());
    assert_eq!(
        (&told["state"], &told["confirmed-run"]),
        (&"confirmed".into(), &report.run.to_string().into())
    );
    assert_eq!(told["runs"].as_array().unwrap().len(), 1, "{told:#}");
    let events = told["events"].as_array().unwrap();
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "each once, in order, none missing");
    let of_report = serde_json::to_value(&report.events).unwrap();
    assert_eq!(events[..report.events.len()], of_report.as_array().unwrap()[..], "what the stick says");
    let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!((kinds("planned"), kinds("installed"), kinds("confirmed")), (1, 1, 1), "{events:#?}");
    assert_eq!(told["inventory"], serde_json::to_value(&report.inventory).unwrap());
    assert!(told["plan"].is_object(), "{told:#}");
    assert!(site.install_log(&seen).unwrap().contains("brings everything"));

    // The newest inventory is that of a machine with a card.
    ordered(&mut vm, site, report, &["inventory"]);
    let inventory = &shown(site, report)["inventory"];
    assert_eq!(inventory["nics"].as_array().map(Vec::len), Some(1), "{inventory:#}");
    ordered(&mut vm, site, report, &["reboot", "--warn", "0s"]);
    vm.expect("login:", 15 * MINUTE).unwrap();
    let after = shown(site, report);
    assert_eq!(
        (&after["events"], &after["runs"]),
        (&told["events"], &told["runs"]),
        "it told something again"
    );
    vm.switch_off(10 * MINUTE).unwrap();
    after["events"].clone()
}

/// Orders something, and waits until the machine says that it is done.
fn ordered(vm: &mut Vm, site: &Site, report: &Report, order: &[&str]) {
    let asset = report.identity.asset.to_string();
    let order_cmd = Cmd::new(program("akene-server").unwrap()).arg("order");
    SystemRunner.run(&order_cmd.arg(&site.dir).arg(asset).args(order)).unwrap();
    let (begun, limit) = (Instant::now(), vm.accelerator.scale(15 * MINUTE));
    loop {
        let newest = shown(site, report)["orders"][0].clone();
        if newest["state"] == "done" {
            println!("{order:?} done after {} s", begun.elapsed().as_secs());
            return;
        }
        assert!(vm.is_on() && begun.elapsed() < limit, "{newest:#}\n{}", vm.console.text());
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// All the server knows of the machine.
fn shown(site: &Site, report: &Report) -> Value {
    let show = Cmd::new(program("akene-server").unwrap()).arg("show").arg(&site.dir);
    SystemRunner.run(&show.arg(report.identity.machine.to_string()).arg("--json")).unwrap().json().unwrap()
}

/// The places of keys are those of an American keyboard; what is typed is what stands on them in France.
#[test]
fn a_technician_who_speaks_french_has_a_french_keyboard() {
    let Some((mirror, built)) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path(), HOST, &small_server(&mirror, HOST)).unwrap();
    let ours = akene_server::site::Site::open(&site.dir).unwrap();
    let key = ours.key().unwrap();
    let profile = Envelope::sign(&ours.bundle(&ours.config().unwrap(), "default").unwrap(), &key);
    let packages = dir.path().join("packages");
    fs::create_dir(&packages).unwrap();
    // Nobody gets as far as reading the lock.
    let stick = Stick::new(&dir.path().join("stick"), &key, &profile, b"none", &packages).unwrap();
    let image = stick.image(&dir.path().join("stick.img"), 16 << 20).unwrap();
    let Stamp { source: Source::Medium { consent, home, .. }, .. } = stick.stamp(Consent::Wipe) else {
        panic!("it is not the stamp of a medium")
    };
    let stamp =
        Stamp { source: Source::Medium { consent, attended: true, home }, ..stick.stamp(Consent::Wipe) };
    let initrd = dir.path().join("initrd");
    fs::write(&initrd, [fs::read(built.initrd()).unwrap(), stamp.to_area().unwrap()].concat()).unwrap();

    let (mut machine, _) = journey::machine_with_disk(Firmware::Bios, dir.path(), 8).unwrap();
    (machine.network, machine.medium) = (false, Some(Medium::WritableUsb(image)));
    machine.kernel = Some((built.kernel(), initrd, "console=tty0 console=ttyS0,115200".into()));
    let mut vm = machine.start(&dir.path().join("machine")).unwrap();
    let expect_drawn = |vm: &mut Vm, text: &str| {
        // Whole, and not only what has changed. Blanks are passed over by moving the cursor, which leaves no trace in the text.
        // Again, because a key may arrive after it.
        let drawn = (0..20).any(|_| {
            vm.console.press("\x0c").unwrap();
            vm.expect(text, Duration::from_secs(5)).is_ok()
        });
        assert!(drawn, "{text} is not shown: {}", vm.console.text());
    };
    vm.expect("Chooseyourlanguage", 15 * MINUTE).unwrap();
    vm.console.press("\x1b[B\r").unwrap();
    expect_drawn(&mut vm, "Association:[");
    vm.press(&["a", "q", "z", "w", "semicolon", "m", "1", "shift-1"]).unwrap();
    expect_drawn(&mut vm, "Association:[qawzm,&1");
    vm.press(&["ret", "ret"]).unwrap();
    expect_drawn(&mut vm, "4/6");
    vm.press(&["shift-1", "shift-0", "shift-4", "shift-2", "minus", "9", "backspace", "shift-9"]).unwrap();
    expect_drawn(&mut vm, "[1042)9");
    println!("{:>5} s typed in French", vm.started.elapsed().as_secs());
    // Back to English: an American keyboard again.
    vm.console.press("\x1b[D\x1b[D\x1b[D\x1b[A\r").unwrap();
    expect_drawn(&mut vm, "Association:[qawzm,&1");
    vm.press(&["a", "1"]).unwrap();
    expect_drawn(&mut vm, "&1a1");
}
