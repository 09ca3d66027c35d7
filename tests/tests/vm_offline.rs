//! A computer without a network card, and a stick that brings everything.

use std::fs;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::EventKind;
use akene_protocol::api::{Consent, Identity};
use akene_protocol::lock::ProfileLock;
use akene_protocol::{Envelope, PublicKey};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::run;
use akene_tests::image::Image;
use akene_tests::journey::{self, possible};
use akene_tests::mirror::Mirror;
use akene_tests::site::{SSH_KEY, Site, USER, program, small_server};
use akene_tests::stick::{Stick, reports};
use akene_tests::vm::Firmware;

const MINUTE: Duration = Duration::from_secs(60);

/// From the prompt to the first word of the agent, on a slow emulator.
const AGENT_BEGINS: Duration = Duration::from_secs(40);

#[test]
fn a_computer_without_a_network_card_is_installed_from_a_stick() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::start().unwrap();
    let built = journey::image_of_this_run(&mirror).unwrap();
    let profile = format!("shutdown = \"poweroff\"\n{}", small_server(&mirror, "127.0.0.1"));
    let site = Site::new(dir.path(), "127.0.0.1", &profile).unwrap();
    SystemRunner.run(&Cmd::new(program("akene-server").unwrap()).arg("lock").arg(&site.dir)).unwrap();
    let ours = akene_server::site::Site::open(&site.dir).unwrap();
    let key = ours.key().unwrap();
    let signed = Envelope::sign(&ours.bundle(&ours.config().unwrap(), "default").unwrap(), &key);
    let lock = fs::read(site.dir.join("locks/default.json")).unwrap();
    let all: ProfileLock = Envelope::parse(&lock).unwrap().open(&PublicKey(key.verifying_key())).unwrap();
    let packages = dir.path().join("packages");
    Stick::fetch(&all, &packages).unwrap();
    drop(mirror);
    let stick = Stick::new(&dir.path().join("stick"), &key, &signed, &lock, &packages).unwrap();
    let image = stick.image(&dir.path().join("stick.img"), 64 << 20).unwrap();

    let initrd = dir.path().join("initrd");
    let stamp = stick.stamp(Consent::Blank).to_area().unwrap();
    fs::write(&initrd, [fs::read(built.initrd()).unwrap(), stamp].concat()).unwrap();
    let (mut machine, disk) = journey::machine_with_disk(Firmware::Bios, dir.path(), 8).unwrap();
    (machine.network, machine.stick) = (false, Some(image.clone()));
    machine.kernel = Some((built.kernel(), initrd, "console=ttyS0,115200".into()));
    let mut vm = machine.start(&dir.path().join("machine")).unwrap();
    let limit = vm.accelerator.scale(40 * MINUTE);
    vm.expect("brings everything: no network is needed", limit).unwrap();
    vm.expect("Everything is read", limit).unwrap();
    let begun = Instant::now();
    while vm.is_on() {
        assert!(begun.elapsed() < limit, "{}", vm.console.text());
        std::thread::sleep(Duration::from_secs(1));
    }
    let console = vm.console.text().to_owned();
    println!("installed and switched off after {:.0} s", vm.started.elapsed().as_secs_f64());
    assert!(console.contains("==> Installed") && !console.contains("[network]"), "{console}");

    let expected = Expected {
        user: USER.into(),
        ssh_key: SSH_KEY.into(),
        packages: ["openssh-server", "less", "grub-common"].map(String::from).into(),
        fresh: true,
        ..Expected::default()
    };
    checks::installed(&disk, &expected).unwrap();
    let at = dir.path().join("at");
    fs::create_dir(&at).unwrap();
    run("mount", &["-o", "loop,ro", image.to_str().unwrap(), at.to_str().unwrap()]);
    let brought = reports(&at.join("akene/reports"));
    run("umount", &[at.to_str().unwrap()]);
    let report = stick.open(&brought.unwrap()[0].1).unwrap();
    assert_eq!(report.events.last().map(|e| e.kind.clone()), Some(EventKind::Installed));
    let mut opened = Image::open(&disk).unwrap();
    let root = opened.mount_system().unwrap();
    let identity = fs::read(root.join("boot/akene/identity.json")).unwrap();
    assert_eq!(report.identity, serde_json::from_slice::<Identity>(&identity).unwrap());
    drop(opened);

    // It starts from its disk, with nothing plugged in, and what it has to say waits.
    (machine.kernel, machine.stick) = (None, None);
    // Nothing on the console says when the agent has come to it, and each start is as good as another.
    let mut said = String::new();
    for _ in 0..3 {
        let mut vm = machine.start(&dir.path().join("machine")).unwrap();
        vm.expect("login:", limit).unwrap();
        std::thread::sleep(AGENT_BEGINS);
        vm.switch_off(limit).unwrap();
        let mut opened = Image::open(&disk).unwrap();
        let root = opened.mount_system().unwrap();
        assert!(root.join(format!("boot/akene/reports/{}.sealed", report.run)).exists());
        let spool = root.join(format!("boot/akene/events/{}.jsonl", report.run));
        said = fs::read_to_string(&spool).unwrap();
        if said.contains("\"confirmed\"") {
            break;
        }
    }
    assert!(said.contains("\"confirmed\""), "{said}");
}
