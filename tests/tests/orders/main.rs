//! Orders from the administrator's command line to an installed system, with the real programs, without a virtual
//! machine: the server, the resident agent on a root of its own, GRUB's own `grub-editenv`, and stand-ins for what would
//! really restart this computer.

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use akene_protocol::event::{Event, EventKind, Phase};
use akene_protocol::order::Order;
use akene_protocol::{Envelope, Issue, RunId};
use rig::{NOTHING, Rig, possible};

#[test]
fn a_reinstallation_is_prefetched_announced_postponed_and_begun() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.somebody_is_logged_in(true);
    rig.start();
    rig.wait("the agent is there", |rig| rig.postpone().is_err_and(|error| error.contains(NOTHING)));
    // Long enough for a busy computer; the first time it is cut short.
    let said = rig.order(&["reinstall", "--postpone", "1", "--postpone-for", "3s", "--warn", "30s"]);
    assert!(said.contains("reinstall with the profile default, keeping people's files, at once"), "{said}");

    rig.wait("people are told", |rig| rig.told().contains("Cela commence dans 30 secondes"));
    // The packages were fetched before anybody was bothered.
    let cache = rig.root.join("boot/akene/packages");
    for (file, content) in rig::PACKAGES {
        assert_eq!(fs::read_to_string(cache.join(file)).unwrap(), content);
    }
    let text = rig.told();
    assert!(text.contains("Vos fichiers sont conservés") && text.contains("encore 1 fois"), "{text}");
    assert!(rig.postpone_announced().unwrap().contains("postponed by 1 minutes"));
    // One notification for the desktop, by its session bus.
    assert!(rig.done("runuser").contains("org.freedesktop.Notifications"), "{}", rig.done("runuser"));
    rig.wait("the server knows", |rig| rig.orders().contains("people postponed it 1 times"));
    rig.postpone().unwrap_err();

    assert!(rig.postpone_announced().unwrap_err().contains("cannot be postponed any more"));
    assert_eq!(rig.told().matches("Cela commence dans").count(), 2, "{}", rig.told());
    rig.wait("the restart", |rig| rig.done("systemctl") == "reboot\n");
    assert!(rig.environment().contains("next_entry=akene-reinstall"));
    let path = rig.root.join("boot/akene/order.json");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let order: Order = Envelope::parse(&fs::read(&path).unwrap()).unwrap().open(&rig.key).unwrap();
    assert_eq!(order.machine, rig.identity.machine);
    assert!(rig.orders().contains("begun"), "{}", rig.orders());
    let log = rig.log();
    assert!(!log.contains(rig.identity.credential.expose()), "a secret in the log");

    // The installer names it and is permitted once; the new system confirms itself.
    rig.stop();
    let run = RunId([7; 8]);
    assert!(rig.install(run, Some(order.id)).is_ok());
    assert_eq!(rig.install(RunId([8; 8]), Some(order.id)).unwrap_err().code, "order-used");
    rig.confirmed(run);
    assert!(rig.orders().contains("done"), "{}", rig.orders());
}

#[test]
fn what_did_not_happen_is_reported_and_not_tried_again() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.start();
    // Packages of an installation that broke off, which no order needs, are gone at the start.
    rig.wait("the old packages are removed", |rig| !rig.root.join("home/.akene-packages").exists());
    rig.wait("the starts are not counted any more", |rig| !rig.environment().contains("akene_tries"));
    rig.order(&["reinstall"]);
    rig.wait("the restart", |rig| rig.done("systemctl") == "reboot\n");
    rig.stop();

    // GRUB started the installer, which failed, and then the old system.
    rig.grub(&["unset", "next_entry"]);
    rig.boots("second");
    let issues = vec![Issue::new("package-unreachable", "", "no mirror answers", "look at the network")];
    let failed = EventKind::Failed { phase: Phase::Stage, issues, disks_changed: false };
    rig.spool(Event {
        version: 1,
        run: RunId([9; 8]),
        seq: 1,
        at: jiff::Timestamp::now(),
        uptime_ms: 1,
        kind: failed,
    });
    rig.start();
    rig.wait("the server knows", |rig| rig.orders().contains("order-not-carried-out"));
    let orders = rig.orders();
    assert!(orders.contains("failed while downloading: no mirror answers"), "{orders}");
    assert!(!rig.root.join("boot/akene/order.json").exists());
    rig.takes_its_turn();
    assert_eq!(rig.done("systemctl"), "reboot\n", "tried again by itself");

    // GRUB did not start it at all.
    rig.order(&["reinstall"]);
    rig.wait("the second restart", |rig| rig.done("systemctl") == "reboot\nreboot\n");
    rig.stop();
    rig.boots("third");
    rig.start();
    rig.wait("the server knows", |rig| rig.orders().contains("the boot menu did not start the installer"));
    assert!(!rig.environment().contains("next_entry=akene-reinstall"), "{}", rig.environment());
}

#[test]
fn two_kinds_of_orders_begin_one_after_the_other() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.somebody_is_logged_in(true);
    rig.order(&["reinstall", "--warn", "3s"]);
    rig.order(&["reboot", "--warn", "3s"]);
    rig.start();
    rig.wait("the restart", |rig| rig.done("systemctl") == "reboot\n");
    // People were told once, of one of them; the other has what it needs and waits, also when its turn has come again.
    rig.wait("the packages are there", |rig| rig.log().contains("are on this computer"));
    rig.takes_its_turn();
    assert_eq!(rig.told().matches("Cela commence dans").count(), 1, "{}", rig.told());
    assert_eq!(rig.done("systemctl"), "reboot\n");
}

#[test]
fn without_the_server_nothing_begins() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.somebody_is_logged_in(true);
    rig.start();
    rig.order(&["reinstall", "--warn", "30s"]);
    rig.wait("people are told", |rig| rig.told().contains("Cela commence"));
    let missed = |rig: &Rig| rig.log().matches("asking the server for orders").count();
    let before = missed(&rig);
    rig.server_stops();
    // The pauses between five attempts are 56 seconds at least: the moment to begin is over by then.
    rig.wait("it misses the server", |rig| missed(rig) >= before + 5);
    assert!(rig.done("systemctl").is_empty() && !rig.root.join("boot/akene/order.json").exists());

    // Somebody else answers in its place.
    rig.server_has_another_key(true);
    rig.server_starts();
    rig.wait("it is noticed", |rig| rig.log().contains("certificate-wrong"));
    assert!(rig.done("systemctl").is_empty());
    rig.server_stops();
    rig.server_has_another_key(false);
    rig.server_starts();
    // It may have backed off: whoever starts it anew gets there at once. Nobody is left who would have to be warned.
    rig.somebody_is_logged_in(false);
    rig.stop();
    rig.start();
    rig.wait("the restart", |rig| rig.done("systemctl") == "reboot\n");
}

#[test]
fn an_order_waits_for_its_time_and_can_be_taken_back() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.somebody_is_logged_in(true);
    rig.start();
    rig.order(&["reinstall", "--when-idle"]);
    rig.wait("it waits", |rig| rig.orders().contains("until nobody uses it"));
    let refused = rig.try_order(&["reinstall"]).unwrap_err();
    assert!(refused.contains("order-open") && refused.contains("--replace"), "{refused}");
    let said = rig.order(&["reinstall", "--at", "2099-01-01T00:00:00Z", "--replace"]);
    assert!(said.contains("was cancelled for it"), "{said}");
    rig.wait("it waits", |rig| rig.orders().contains("until 2099-01-01T00:00:00Z"));
    rig.cancel();
    rig.wait("it is put away", |rig| rig.log().matches("was taken back").count() == 2);
    // A boot partition with a damaged installer is found before anything is changed.
    let initrd = rig.root.join("boot/akene/initrd.img");
    let whole = fs::read(&initrd).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&initrd, damaged).unwrap();
    rig.somebody_is_logged_in(false);
    rig.order(&["reinstall"]);
    rig.wait("the server knows", |rig| rig.orders().contains("installer-damaged"));
    assert!(rig.done("systemctl").is_empty() && !rig.environment().contains("next_entry"));
    fs::write(&initrd, whole).unwrap();
    rig.order(&["reinstall", "--when-idle"]);
    rig.wait("the restart", |rig| rig.done("systemctl") == "reboot\n");
}

#[test]
fn a_machine_restarts_and_tells_what_it_is_and_its_logs() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.start();
    rig.order(&["inventory"]);
    rig.order(&["logs"]);
    rig.wait("both are done", |rig| rig.orders().matches(": done").count() == 2);
    let journal = rig.journal();
    assert!(journal.contains("something happened") && journal.contains("[hidden]"), "{journal}");
    assert!(!journal.contains("hunter2") && !journal.contains(rig.identity.credential.expose()), "{journal}");
    rig.order(&["reboot"]);
    rig.wait("the restart", |rig| rig.done("systemctl") == "reboot\n");
    rig.stop();
    assert!(!rig.environment().contains("next_entry"));
    rig.boots("second");
    rig.start();
    rig.wait("it is done", |rig| rig.orders().matches(": done").count() == 3);
}
