//! Reports of machines without a network find their way home: on the stick by `akene-image sync`, and with the machine
//! itself by its resident agent. With the real programs, a real server, and without a virtual machine.

mod rig;
mod twenty;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use akene_protocol::api::Identity;
use akene_protocol::stamp::Home;
use akene_protocol::{Sha256, Stamp};
use akene_server::site::media;
use rig::{ASSOCIATION, Installed, Rig, minted};

#[test]
fn the_machine_tells_how_it_was_installed_and_is_a_full_member() {
    let rig = Rig::new();
    // Somebody else has its number already.
    let other = minted(1, 123_456);
    let first = rig.report(&other, 1);
    rig.sync(&rig.directory("first", &[&first]), &[]).unwrap();
    let who = minted(2, 123_456);
    let mut machine = Installed::new(&rig, &rig.report(&who, 2));
    machine.starts();
    machine.wait("its system has confirmed itself", || rig.state(&who) == "confirmed");
    assert_eq!(machine.reports(), 0, "{}", machine.log());
    let shown = rig.shown(&who).unwrap();
    assert_eq!((shown["asset"].as_str(), shown["system"].as_str()), (Some("1001-6"), Some("Debian 13")));
    assert_eq!(shown["association"], ASSOCIATION);
    assert_eq!(shown["maybe"], other.machine.to_string());
    let seqs: Vec<u64> =
        shown["events"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5], "each once, in order");
    // It has taken over the number it was given, and nothing else.
    for path in ["etc/akene/identity.json", "boot/akene/identity.json"] {
        let path = machine.root.join(path);
        let found: Identity = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((found.asset.to_string(), found.machine), ("1001-6".into(), who.machine));
        assert_eq!(found.credential, who.credential);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // An order is given and heard.
    rig.server_command(&["order"], &["1001-6", "inventory"]);
    machine
        .wait("the order is carried out", || rig.server_command(&["orders", "list"], &[]).contains("done"));
    let log = machine.log();
    assert!(log.contains("the number of this computer is 1001-6"), "{log}");
    assert!(!log.contains(who.credential.expose()), "a secret in the log");
    // The stick comes home later: nothing changes.
    let late = rig.directory("late", &[&rig.report(&who, 2)]);
    let said = rig.sync(&late, &[]).unwrap();
    assert!(said.contains("1001-6") && said.contains("ask  0 events"), "{said}");
    assert_eq!(rig.state(&who), "confirmed");
}

#[test]
fn a_machine_of_a_lost_stick_asks_again_until_somebody_decides() {
    let rig = Rig::new();
    media::set_lost(&rig.site, rig.medium, true).unwrap();
    let who = minted(2, 123_456);
    let mut machine = Installed::new(&rig, &rig.report(&who, 2));
    machine.starts();
    machine.wait("it says that it waits", || machine.log().contains("until a person decides"));
    assert_eq!((machine.reports(), rig.shown(&who)), (1, None));
    let list = rig.server_command(&["machine", "waiting"], &[]);
    assert!(
        list.contains("123456-5") && list.contains("was declared lost") && list.contains(ASSOCIATION),
        "{list}"
    );
    assert!(rig.server_command(&["machines"], &[]).contains("1 more wait for your word"));
    let said = rig.server_command(&["machine", "admit"], &["123456-5"]);
    assert!(said.contains("has joined, with 3 events"), "{said}");
    machine.wait("it hears of that and confirms itself", || rig.state(&who) == "confirmed");
    assert_eq!(machine.reports(), 0);
    assert!(!machine.log().contains(who.credential.expose()), "a secret in the log");
    let list = rig.server_command(&["media", "list"], &[]);
    assert!(list.contains("lost") && list.contains("1 of 100 computers joined"), "{list}");
}

#[test]
fn a_stick_is_brought_home_and_again_after_whatever_broke_off() {
    let mut rig = Rig::new();
    let (a, b) = (minted(1, 111_111), minted(2, 222_222));
    let reports = [rig.report(&a, 1), rig.report(&a, 2), rig.report(&b, 3)];
    let stick = rig.directory("stick", &reports.iter().collect::<Vec<_>>());
    let left = || fs::read_dir(stick.join("akene/reports")).unwrap().count();
    // What another installer is just writing, and what is no report.
    fs::write(stick.join("akene/reports/0909090909090909.new"), "half").unwrap();
    fs::write(stick.join("akene/reports/0808080808080808.sealed"), "x".repeat(1000)).unwrap();

    rig.server_stops();
    let error = rig.sync(&stick, &[]).unwrap_err();
    assert!(error.contains("still on the stick: try again"), "{error}");
    assert_eq!(left(), 5);
    rig.server_starts();
    let error = rig.sync(&stick, &[]).unwrap_err();
    assert!(
        error.contains("0808080808080808.sealed stays on the stick") && error.contains("[report-seal]"),
        "{error}"
    );
    assert_eq!(left(), 2, "what was taken is gone");
    assert_eq!((rig.state(&a), rig.state(&b)), ("installed".into(), "installed".into()));

    // The stick was pulled out before the files were gone.
    fs::remove_file(stick.join("akene/reports/0808080808080808.sealed")).unwrap();
    rig.directory("stick", &reports.iter().collect::<Vec<_>>());
    let said = rig.sync(&stick, &[]).unwrap();
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        ["111111-8  Foyer de Lannion  same  0 events", "222222-6  Foyer de Lannion  same  0 events"]
    );
    assert!(rig.sync(&stick, &[]).unwrap().contains("No report waits"));
    for secret in [a.credential.expose(), b.credential.expose()] {
        assert!(!said.contains(secret) && !error.contains(secret));
    }
}

#[test]
fn the_pins_of_the_stick_decide_whom_it_tells() {
    let rig = Rig::new();
    let stick = rig.directory("stick", &[&rig.report(&minted(1, 111_111), 1)]);
    let area = stick.join(akene_image::stamp::AREA);
    let mut home: Home = rig.home.clone();
    home.tls.pins = vec![Sha256::of(b"another key")];
    let source = akene_protocol::stamp::Source::Medium {
        consent: Default::default(),
        attended: true,
        home: Some(home),
    };
    fs::write(&area, Stamp { source, ..rig.stamp() }.to_area().unwrap()).unwrap();
    let error = rig.sync(&stick, &[]).unwrap_err();
    assert!(error.contains("not one that this medium trusts"), "{error}");
    assert!(stick.join("akene/reports/0101010101010101.sealed").exists());
    // A stick that names no server, or none at all.
    fs::write(&area, rig.site.stamp().unwrap().to_area().unwrap()).unwrap();
    assert!(rig.sync(&stick, &[]).unwrap_err().contains("[no-home]"));
    fs::remove_file(&area).unwrap();
    assert!(rig.sync(&stick, &[]).unwrap_err().contains("--site-dir"));
    // On the server itself nobody has to be asked.
    let site = rig.site.dir().to_str().unwrap().to_owned();
    let said = rig.sync(&stick, &["--site-dir", &site]).unwrap();
    assert!(said.contains("111111-8  Foyer de Lannion  joined  3 events"), "{said}");
}

#[test]
fn a_whole_stick_is_mounted_read_and_emptied() {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED: needs to be root and loop devices");
        return;
    }
    let rig = Rig::new();
    let (a, b) = (minted(1, 111_111), minted(2, 111_111));
    let stick = rig.stick(&[&rig.report(&a, 1), &rig.report(&b, 2)]);
    let said = rig.sync(&stick, &[]).unwrap();
    assert!(said.contains("111111-8  Foyer de Lannion  joined  3 events"), "{said}");
    let moved = "1001-6  Foyer de Lannion  ask  3 events  (came as 111111-8, which another computer has; change its label)";
    assert!(said.contains(moved), "{said}");
    assert!(rig.sync(&stick, &[]).unwrap().contains("No report waits"));
    let offset = format!("{}?offset=33554432", stick.display());
    let check = akene_exec::Cmd::new("fsck.ext4").args(["-fn", &offset]);
    akene_exec::Runner::run(&akene_exec::SystemRunner, &check).unwrap();
    // One without a data partition is said to have none.
    let other = rig.dir.path().join("other.img");
    fs::copy(&stick, &other).unwrap();
    let rename = akene_exec::Cmd::new("sgdisk").arg("--change-name=4:other").arg(&other);
    akene_exec::Runner::run(&akene_exec::SystemRunner, &rename).unwrap();
    assert!(rig.sync(&other, &[]).unwrap_err().contains("no partition AKENE_DATA"));
}
