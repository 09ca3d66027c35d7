use super::*;
use crate::fetch::http::{Answer, Http, Request};
use crate::report::spool::Spool;
use akene_exec::Runner;
use akene_protocol::Issue;
use akene_protocol::api::EventBatch;
use akene_protocol::event::{Event, EventKind};
use akene_protocol::{AssetNumber, MachineId, Secret};
use jiff::Timestamp;
use std::fs::File;
use std::sync::Mutex;

const RUN: RunId = RunId([4; 8]);

/// A server that keeps what is new and can be down.
#[derive(Default)]
struct Fleet {
    down: Mutex<bool>,
    refuses: Option<RunId>,
    seen: Mutex<Vec<(RunId, u64, EventKind)>>,
    batches: Mutex<usize>,
}
impl Http for Fleet {
    fn send(&self, request: &Request) -> Result<Answer, Issue> {
        if *self.down.lock().unwrap() {
            return Err(Issue::new("server-silent", "", "down", ""));
        }
        *self.batches.lock().unwrap() += 1;
        assert_eq!(
            request.authorization.as_ref().unwrap().expose(),
            format!("Bearer {}:secret", MachineId([1; 16]))
        );
        let batch: EventBatch = serde_json::from_slice(&request.body.as_ref().unwrap().1).unwrap();
        if batch.events.iter().any(|e| Some(e.run) == self.refuses) {
            return Err(Issue::new("run-not-yours", "", "another machine's", ""));
        }
        let mut seen = self.seen.lock().unwrap();
        let before = seen.len();
        for event in batch.events {
            if !seen.iter().any(|(run, seq, _)| (*run, *seq) == (event.run, event.seq)) {
                seen.push((event.run, event.seq, event.kind));
            }
        }
        let body = format!("{{\"new\":{}}}", seen.len() - before).into_bytes();
        Ok(Answer { status: 200, objection: None, body, tag: None, ask: Default::default() })
    }
}

fn system() -> (tempfile::TempDir, Resident) {
    let root = tempfile::tempdir().unwrap();
    for dir in ["etc/akene", "boot/akene/events", "var/lib", "usr/lib"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    fs::write(root.path().join("usr/lib/os-release"), "NAME=x\nPRETTY_NAME=\"Debian 13\"\n").unwrap();
    let tls = Tls::default();
    let config = Config {
        site: "s".into(),
        site_key: None,
        server: Some(ServerAddress { url: "https://s".into(), tls }),
        proxy: None,
        run: RUN,
        offline: false,
    };
    let identity = Identity {
        machine: MachineId([1; 16]),
        asset: AssetNumber::new(7),
        credential: Secret::new("secret"),
    };
    fs::write(root.path().join(CONFIG), serde_json::to_vec(&config).unwrap()).unwrap();
    fs::write(root.path().join(IDENTITY), serde_json::to_vec(&identity).unwrap()).unwrap();
    let resident = Resident::open(root.path()).unwrap();
    (root, resident)
}

fn event(run: RunId, seq: u64) -> Event {
    crate::report::spool::tests::event(run, seq)
}

#[test]
fn goes_on_counting_and_is_idempotent_across_power_cuts() {
    let (root, resident) = system();
    let spool_dir = root.path().join("boot/akene/events");
    let mut spool = Spool::open(&spool_dir, RUN).unwrap();
    spool.append(&(1..=5).map(|n| event(RUN, n)).collect::<Vec<_>>()).unwrap();
    spool.acked(3).unwrap();
    let fleet = Fleet::default();
    *fleet.down.lock().unwrap() = true;
    for _ in 0..3 {
        // The system starts three times without a network.
        assert!(resident.tell(&fleet, "https://s").is_err());
    }
    *fleet.down.lock().unwrap() = false;
    resident.tell(&fleet, "https://s").unwrap();
    let seen: Vec<u64> = fleet.seen.lock().unwrap().iter().map(|s| s.1).collect();
    assert_eq!(seen, [4, 5, 6, 7]);
    let last = fleet.seen.lock().unwrap().last().unwrap().2.clone();
    assert!(
        matches!(&last, EventKind::Confirmed { system, kernel } if system == "Debian 13" && !kernel.is_empty()),
        "{last:?}"
    );
    let batches = *fleet.batches.lock().unwrap();
    resident.tell(&fleet, "https://s").unwrap();
    assert_eq!(*fleet.batches.lock().unwrap(), batches, "a second start has nothing to say");
}

#[test]
fn that_the_system_started_is_noted_though_nobody_can_be_told() {
    let (_root, resident) = system();
    let mut spool = Spool::open(&resident.spool_dir(), RUN).unwrap();
    spool.append(&[event(RUN, 1)]).unwrap();
    for _ in 0..2 {
        assert!(resident.confirm().is_err(), "there is no such server");
        let waits = Spool::open(&resident.spool_dir(), RUN).unwrap().pending().unwrap();
        let numbers: Vec<u64> = waits.iter().map(|e| e.seq).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(matches!(waits[2].kind, EventKind::Confirmed { .. }));
    }
}

#[test]
fn a_failed_run_before_this_one_is_delivered_too_but_not_confirmed() {
    let (root, resident) = system();
    let other = RunId([9; 8]);
    let dir = root.path().join("boot/akene/events");
    Spool::open(&dir, other).unwrap().append(&[event(other, 1), event(other, 2)]).unwrap();
    Spool::open(&dir, RUN).unwrap().append(&[event(RUN, 1)]).unwrap();
    let fleet = Fleet::default();
    resident.tell(&fleet, "https://s").unwrap();
    let of = |run| fleet.seen.lock().unwrap().iter().filter(|s| s.0 == run).map(|s| s.1).collect::<Vec<_>>();
    assert_eq!((of(other), of(RUN)), (vec![1, 2], vec![1, 2, 3]));
    assert!(Spool::runs(&dir).unwrap().is_empty());
}

#[test]
fn a_run_the_server_does_not_take_keeps_no_other_from_being_confirmed() {
    let (root, resident) = system();
    let other = RunId([9; 8]);
    let dir = root.path().join("boot/akene/events");
    Spool::open(&dir, other).unwrap().append(&[event(other, 1)]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    Spool::open(&dir, RUN).unwrap().append(&[event(RUN, 1)]).unwrap();
    assert_eq!(Spool::runs(&dir).unwrap(), [other, RUN]);
    let fleet = Fleet { refuses: Some(other), ..Fleet::default() };
    resident.tell(&fleet, "https://s").unwrap();
    assert!(matches!(fleet.seen.lock().unwrap().last().unwrap().2, EventKind::Confirmed { .. }));
    assert_eq!(resident.confirmed_run(), Some(RUN));
    // Its own run refused is a failure as before.
    let (root, resident) = system();
    Spool::open(&root.path().join("boot/akene/events"), RUN).unwrap().append(&[event(RUN, 1)]).unwrap();
    assert!(resident.tell(&Fleet { refuses: Some(RUN), ..Fleet::default() }, "https://s").is_err());
}

/// A server that answers each report as told, by its content.
struct Receiver(Mutex<Vec<String>>);

impl Http for Receiver {
    fn send(&self, request: &Request) -> Result<Answer, Issue> {
        assert_eq!((request.url.as_str(), &request.authorization), ("https://s/v1/reports", &None));
        let body = String::from_utf8(request.body.clone().unwrap().1).unwrap();
        self.0.lock().unwrap().push(body.clone());
        let accepted_of = |machine: u8, asset: &str, admitted: bool| {
            let (machine, recognised) = (MachineId([machine; 16]), if admitted { "new" } else { "ask" });
            serde_json::json!({
                "machine": machine, "asset": asset, "recognised": recognised, "admitted": admitted, "new": 3
            })
        };
        let accepted = |asset: &str, admitted: bool| accepted_of(1, asset, admitted);
        let (status, body) = match body.as_str() {
            "admitted" => (200, accepted("7-9", true)),
            "renamed" => (200, accepted("1001-6", true)),
            "earlier" => (200, accepted_of(9, &AssetNumber::new(2002).to_string(), true)),
            "earlier waits" => (200, accepted_of(9, &AssetNumber::new(2002).to_string(), false)),
            "waits" => (200, accepted("7-9", false)),
            "refused" => {
                (401, serde_json::json!({ "code": "report-seal", "path": "", "message": "no", "next": "" }))
            }
            "busy" => {
                (429, serde_json::json!({ "code": "too-often", "path": "", "message": "wait", "next": "" }))
            }
            other => panic!("{other}"),
        };
        let body = body.to_string().into_bytes();
        Ok(Answer { status, objection: None, body, tag: None, ask: Default::default() })
    }
}

#[test]
fn reports_stay_until_the_server_admits_this_machine() {
    let (root, resident) = system();
    let dir = root.path().join("boot/akene/reports");
    assert!(resident.letters().unwrap().is_empty(), "there is no directory");
    fs::create_dir_all(&dir).unwrap();
    let receiver = Receiver(Mutex::default());
    // What is delivered how, what stays, and with which code it ends.
    for (letters, left, code) in [
        (&["admitted", "refused", "admitted"][..], &["refused"][..], None),
        (&["waits", "refused", "admitted"], &["refused", "waits"], Some(letters::WAITS)),
        (&["admitted", "busy", "admitted"], &["admitted", "busy"], Some("server-busy")),
    ] {
        for (n, letter) in letters.iter().enumerate() {
            fs::write(dir.join(format!("{n}.sealed")), letter).unwrap();
        }
        fs::write(dir.join("9.new"), "not whole").unwrap();
        let error = resident.deliver(&receiver, "https://s/", &resident.letters().unwrap()).err();
        let found = error.as_ref().map(|error| error.downcast_ref::<Issue>().unwrap().code.as_str());
        assert_eq!(found, code, "{letters:?}");
        let letters = resident.letters().unwrap();
        let mut stayed: Vec<String> = letters.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        stayed.sort();
        assert_eq!(stayed, left);
        letters.iter().for_each(|path| fs::remove_file(path).unwrap());
    }
    // One that is too large is none.
    File::create(dir.join("0.sealed")).unwrap().set_len(akene_protocol::report::LARGEST as u64 + 1).unwrap();
    let asked = receiver.0.lock().unwrap().len();
    resident.deliver(&receiver, "https://s", &resident.letters().unwrap()).unwrap();
    assert_eq!(receiver.0.lock().unwrap().len(), asked);
}

#[test]
fn the_number_the_server_gives_is_taken_over_everywhere_and_of_no_other_machine() {
    use std::os::unix::fs::PermissionsExt;
    let (root, resident) = system();
    let boot = root.path().join("boot/akene/identity.json");
    let letter = root.path().join("boot/akene/reports/0.sealed");
    fs::create_dir_all(letter.parent().unwrap()).unwrap();
    let receiver = Receiver(Mutex::default());
    let known = |path: &Path| serde_json::from_slice::<Identity>(&fs::read(path).unwrap()).unwrap();
    // Of a disk that came from another machine.
    let other = Identity { machine: MachineId([9; 16]), ..resident.identity.clone() };
    for (there, expected) in
        [(None, None), (Some(&other), Some("7-9")), (Some(&resident.identity), Some("1001-6"))]
    {
        if let Some(there) = there {
            fs::write(&boot, serde_json::to_vec(there).unwrap()).unwrap();
        }
        fs::write(root.path().join(IDENTITY), serde_json::to_vec(&resident.identity).unwrap()).unwrap();
        fs::write(&letter, "renamed").unwrap();
        resident.deliver(&receiver, "https://s", &resident.letters().unwrap()).unwrap();
        assert_eq!(boot.exists().then(|| known(&boot).asset.to_string()).as_deref(), expected);
        let found = known(&root.path().join(IDENTITY));
        assert_eq!((found.asset.to_string(), found.machine), ("1001-6".into(), resident.identity.machine));
        assert_eq!(found.credential, resident.identity.credential);
    }
    assert_eq!(fs::metadata(&boot).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!letter.exists());

    // What was reported before the computer was given another identity is delivered, and renames nobody.
    fs::write(&boot, serde_json::to_vec(&other).unwrap()).unwrap();
    fs::write(&letter, "earlier").unwrap();
    resident.deliver(&receiver, "https://s", &resident.letters().unwrap()).unwrap();
    assert!(!letter.exists());
    assert_eq!(known(&root.path().join(IDENTITY)).asset.to_string(), "1001-6");
    assert_eq!(known(&boot).asset.to_string(), "7-9");
    // Nor does this computer wait for what a person decides about that one.
    fs::write(&letter, "earlier waits").unwrap();
    resident.deliver(&receiver, "https://s", &resident.letters().unwrap()).unwrap();
    assert!(letter.exists());
}

#[test]
fn a_clock_that_is_not_set_yet_does_not_cost_an_hour() {
    let pauses =
        |passing| std::iter::successors(Some(FIRST_PAUSE), move |p| Some(next_pause(*p, passing))).take(20);
    assert!(pauses(false).take(5).sum::<Duration>() < Duration::from_secs(180));
    assert_eq!(pauses(false).last(), Some(REFUSED_PAUSE));
    assert_eq!(pauses(true).last(), Some(LONGEST_PAUSE));
}

#[test]
fn a_clock_nobody_confirmed_or_before_the_installation_is_not_trusted() {
    let (_root, resident) = system();
    let now = Timestamp::now() + jiff::SignedDuration::from_secs(5);
    assert!(resident.clock_is_confirmed(now, true));
    assert!(!resident.clock_is_confirmed(now, false));
    let dead_battery: Timestamp = "1980-01-01T00:00:00Z".parse().unwrap();
    assert!(!resident.clock_is_confirmed(dead_battery, true));
}

#[test]
fn a_system_that_is_not_ours_is_said_to_be_so() {
    let root = tempfile::tempdir().unwrap();
    assert!(Resident::open(root.path()).unwrap_err().to_string().contains("etc/akene/agent.json"));
}

/// An order signed by the key with this seed.
fn order(seed: u8, id: u8, machine: MachineId, seconds: i64) -> akene_protocol::Envelope {
    use akene_protocol::order::{self, Order, OrderId, Plain, Task};
    let now = Timestamp::now();
    let order = Order {
        version: order::VERSION,
        id: OrderId([id; 16]),
        machine,
        task: Task::Logs(Plain {}),
        issued: now - jiff::SignedDuration::from_hours(1),
        expires: now + jiff::SignedDuration::from_secs(seconds),
    };
    akene_protocol::Envelope::sign(&order, &ed25519_dalek::SigningKey::from_bytes(&[seed; 32]))
}

#[test]
fn only_an_order_of_the_site_for_this_machine_is_taken_and_only_once() {
    use akene_protocol::order::{OrderId, Progress};
    let (root, mut resident) = system();
    let key = PublicKey(ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key());
    resident.config.site_key = Some(key);
    let me = MachineId([1; 16]);
    let good = order(7, 1, me, 60);
    let mut changed = order(7, 2, me, 60);
    changed.payload = order(7, 2, me, 600).payload;
    let mut work = Work::open(&resident, &SystemRunner, None).unwrap();
    let all = vec![
        good.clone(),
        changed,
        order(8, 3, me, 60),
        order(7, 4, MachineId([2; 16]), 60),
        order(7, 5, me, -60),
    ];
    work.take(all.clone()).unwrap();
    assert_eq!(work.book.held().len(), 1);
    // The server is told of each what it is, but of what nobody can be known to have written.
    let words = |work: &mut Work<'_>| {
        let mut words = Vec::new();
        while let Some((id, word)) = work.book.word() {
            work.book.told().unwrap();
            words.push((id.0[0], word));
        }
        words
    };
    let code = |word: &Progress| match word {
        Progress::Refused { issue } => issue.code.clone(),
        other => format!("{other:?}"),
    };
    let said: Vec<_> = words(&mut work).iter().map(|(id, word)| (*id, code(word))).collect();
    let expected = [(1, "Received { waits: \"\" }"), (4, "order-other-machine"), (5, "order-expired")];
    assert_eq!(said, expected.map(|(id, code)| (id, code.to_owned())));

    // The same again is in hand already; taken back, and shown again, it was used.
    work.take(vec![good.clone()]).unwrap();
    assert!(work.book.word().is_none());
    work.take(vec![]).unwrap();
    assert!(work.book.held().is_empty());
    work.take(vec![good.clone()]).unwrap();
    assert_eq!(code(&words(&mut work)[0].1), "order-used");
    // Also after a restart, and to a new system whose boot partition stayed.
    work.book.used(OrderId([1; 16])).unwrap();
    drop(work);
    fs::remove_file(root.path().join("var/lib/akene/orders.json")).unwrap();
    let mut work = Work::open(&resident, &SystemRunner, None).unwrap();
    work.take(vec![good]).unwrap();
    assert!(work.book.held().is_empty());
    assert_eq!(code(&words(&mut work)[0].1), "order-used");
}

#[test]
fn a_book_that_is_garbage_is_begun_anew() {
    let (root, resident) = system();
    fs::create_dir_all(root.path().join("var/lib/akene")).unwrap();
    fs::write(root.path().join("var/lib/akene/orders.json"), "{\"held\":[7").unwrap();
    let work = Work::open(&resident, &SystemRunner, None).unwrap();
    assert!(work.book.held().is_empty());
}

#[test]
fn what_cannot_be_noted_does_not_count_in_memory() {
    let (root, mut resident) = system();
    let key = PublicKey(ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key());
    resident.config.site_key = Some(key);
    let mut work = Work::open(&resident, &SystemRunner, None).unwrap();
    // A file where the directory should be: as good as a disk that is full.
    fs::create_dir_all(root.path().join("var/lib")).unwrap();
    fs::write(root.path().join("var/lib/akene"), "").unwrap();
    work.take(vec![order(7, 1, MachineId([1; 16]), 60)]).unwrap_err();
    assert!(work.book.held().is_empty(), "it would be carried out, and again after each start");
    // That it was used is noted where it can be, for the system after this one, too.
    fs::create_dir_all(root.path().join("boot/akene")).unwrap();
    work.book.used(akene_protocol::order::OrderId([1; 16])).unwrap_err();
    let kept = fs::read_to_string(root.path().join("boot/akene/used-orders.json")).unwrap();
    assert!(kept.contains(&"01".repeat(16)), "{kept}");
}

#[test]
fn a_boot_menu_that_lost_its_variables_can_be_told_again() {
    if SystemRunner.run(&akene_exec::Cmd::new("grub-editenv").arg("--version")).is_err() {
        eprintln!("SKIPPED: there is no grub-editenv here");
        return;
    }
    let (root, _) = system();
    let path = root.path().join("boot/grub/grubenv");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::create_dir_all(root.path().join("boot/akene")).unwrap();
    assert!(!installer::is_chosen(root.path(), &SystemRunner).unwrap());
    installer::choose(root.path(), &SystemRunner, &order(7, 1, MachineId([1; 16]), 60)).unwrap();
    assert!(installer::is_chosen(root.path(), &SystemRunner).unwrap(), "it was missing");
    for damage in ["", "# GRUB Environment Block\nshort", &"x".repeat(1024)] {
        fs::write(&path, damage).unwrap();
        assert!(!installer::is_chosen(root.path(), &SystemRunner).unwrap());
        installer::choose(root.path(), &SystemRunner, &order(7, 1, MachineId([1; 16]), 60)).unwrap();
        assert!(installer::is_chosen(root.path(), &SystemRunner).unwrap());
        installer::forget(root.path(), &SystemRunner).unwrap();
        assert!(!installer::is_chosen(root.path(), &SystemRunner).unwrap());
    }
}

/// A new system with a server, beside an old one.
#[test]
fn a_system_beside_an_older_one_has_shown_itself_when_its_server_heard_and_others_when_they_are_up() {
    if SystemRunner.run(&akene_exec::Cmd::new("grub-editenv").arg("--version")).is_err() {
        eprintln!("SKIPPED: there is no grub-editenv here");
        return;
    }
    let (root, resident) = system();
    let boot = root.path().join("boot");
    for dir in ["boot/grub", "proc", "boot/akene/reports"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    for (file, text) in [
        ("boot/grub/grub.cfg", "linux /vmlinuz-6.1 root=UUID=aa-1 ro\ninitrd /initrd.img-6.1\n"),
        ("boot/vmlinuz-6.1", "kernel"),
        ("boot/initrd.img-6.1", "initrd"),
        ("proc/cmdline", "root=UUID=bb-2 ro\n"),
    ] {
        fs::write(root.path().join(file), text).unwrap();
    }
    let counted = || {
        let text = fs::read_to_string(boot.join("grub/grubenv")).unwrap();
        text.contains("akene_tries") || text.contains("akene_back")
    };
    let count = || {
        let block = crate::run::boot_files::environment(&[("akene_tries", "3"), ("akene_back", "2")]);
        fs::write(boot.join("grub/grubenv"), block).unwrap();
    };
    count();
    settle(root.path(), &SystemRunner).unwrap();
    assert!(!counted(), "nothing else could be started");
    let proven = || crate::run::second_root::proven(&boot);
    assert_eq!(proven(), None, "it is not what the menu starts");

    let menu = fs::read_to_string(boot.join("grub/grub.cfg")).unwrap();
    assert!(crate::run::second_root::keep(&boot, "aa-1").unwrap());
    fs::write(boot.join("grub/grub.cfg"), menu.replace("aa-1", "bb-2")).unwrap();
    count();
    settle(root.path(), &SystemRunner).unwrap();
    assert!(counted(), "its server has not heard from it");
    assert!(boot.join("akene/old").exists());
    // Nobody expects to hear from one that was installed with no network: it is the one that stays, although it could tell
    // nobody yet and its report may not have been written.
    let (told, config) = (root.path().join(CONFIG), resident.config.clone());
    fs::write(&told, serde_json::to_vec(&Config { offline: true, ..config.clone() }).unwrap()).unwrap();
    settle(root.path(), &SystemRunner).unwrap();
    assert!(!counted() && !boot.join("akene/old").exists());
    assert_eq!(proven().as_deref(), Some("bb-2"));
    fs::write(&told, serde_json::to_vec(&config).unwrap()).unwrap();

    fs::write(boot.join("grub/grub.cfg"), &menu).unwrap();
    assert!(crate::run::second_root::keep(&boot, "aa-1").unwrap());
    fs::write(boot.join("grub/grub.cfg"), menu.replace("aa-1", "bb-2")).unwrap();
    count();
    resident.tell(&Fleet::default(), "https://s").unwrap();
    assert!(resident.stay().unwrap(), "there was a choice");
    assert!(!counted() && !resident.stay().unwrap());
    assert_eq!(proven().as_deref(), Some("bb-2"));

    // One that was not kept, of which only the name is left.
    crate::run::second_root::set_mark(&boot, Some("aa-1 for-now")).unwrap();
    settle(root.path(), &SystemRunner).unwrap();
    assert!(crate::run::second_root::knows_the_way(&boot, "bb-2"));
}

/// A server that takes nothing it is told of a run, and has no orders.
struct OrdersAlone;

impl Http for OrdersAlone {
    fn send(&self, request: &Request) -> Result<Answer, Issue> {
        match request.url.ends_with("/v1/orders") {
            true => Ok(Answer {
                status: 200,
                objection: None,
                body: b"{\"orders\":[]}".to_vec(),
                tag: None,
                ask: Default::default(),
            }),
            false => Err(Issue::new("run-not-yours", "", "another machine's", "")),
        }
    }
}

#[test]
fn whatever_the_server_answers_it_has_heard_of_this_system() {
    if SystemRunner.run(&akene_exec::Cmd::new("grub-editenv").arg("--version")).is_err() {
        eprintln!("SKIPPED: there is no grub-editenv here");
        return;
    }
    let (root, resident) = system();
    let boot = root.path().join("boot");
    for dir in ["boot/grub", "proc"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    let menu = "linux /vmlinuz-6.1 root=UUID=aa-1 ro\ninitrd /initrd.img-6.1\n";
    for (file, text) in [
        ("boot/grub/grub.cfg", menu),
        ("boot/vmlinuz-6.1", "kernel"),
        ("boot/initrd.img-6.1", "initrd"),
        ("proc/cmdline", "root=UUID=bb-2 ro\n"),
    ] {
        fs::write(root.path().join(file), text).unwrap();
    }
    assert!(crate::run::second_root::keep(&boot, "aa-1").unwrap());
    fs::write(boot.join("grub/grub.cfg"), menu.replace("aa-1", "bb-2")).unwrap();
    assert!(resident.tell(&OrdersAlone, "https://s").is_err());
    assert!(boot.join("akene/old").exists());
    let mut work = Work::open(&resident, &SystemRunner, None).unwrap();
    work.talk_to(&crate::fetch::Server::new(&OrdersAlone, "https://s")).unwrap();
    assert!(!boot.join("akene/old").exists());
    assert!(crate::run::second_root::knows_the_way(&boot, "bb-2"));
}

/// The one before the one that was installed last.
#[test]
fn a_system_that_was_started_again_takes_its_place_back_and_says_why() {
    let (root, resident) = system();
    let (boot, new) = (root.path().join("boot"), RunId([9; 8]));
    let menu = "linux /vmlinuz-6.1 root=UUID=aa-1 ro\ninitrd /initrd.img-6.1\n";
    for dir in ["boot/grub", "proc", "lib/modules/6.1"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    for (file, text) in [
        ("boot/grub/grub.cfg", menu),
        ("boot/vmlinuz-6.1", "kernel"),
        ("boot/initrd.img-6.1", "initrd"),
        // What grub-mkconfig would write.
        ("boot/grub/akene-system.cfg", menu),
        ("proc/cmdline", "BOOT_IMAGE=x root=UUID=aa-1 ro akene.back\n"),
        ("lib/modules/6.1/modules.dep", ""),
    ] {
        fs::write(root.path().join(file), text).unwrap();
    }
    let runner = akene_exec::RecordingRunner::default();
    returned::take_back(root.path(), &runner).unwrap();
    assert!(returned::issue(root.path(), String::new()).is_none(), "it was never away");
    assert!(crate::run::second_root::keep(&boot, "aa-1").unwrap());
    fs::write(boot.join("grub/grub.cfg"), menu.replace("aa-1", "bb-2")).unwrap();
    // Power was cut before the last record of its installation.
    let mut journal = crate::journal::Journal::new(new);
    journal.open(&boot).unwrap();
    journal.record(crate::journal::What::Begun { phase: akene_protocol::event::Phase::Commit }).unwrap();
    Spool::open(&resident.spool_dir(), new).unwrap().append(&[event(new, 1), event(new, 2)]).unwrap();

    // Somebody at the keyboard started it: the new one is still the computer's.
    let cmdline = root.path().join("proc/cmdline");
    let chosen = fs::read_to_string(&cmdline).unwrap();
    fs::write(&cmdline, chosen.replace(" akene.back", "")).unwrap();
    returned::take_back(root.path(), &runner).unwrap();
    settle(root.path(), &runner).unwrap();
    assert!(
        runner.calls().is_empty() && !boot.join("grub/grubenv").exists() && boot.join("akene/old").exists()
    );
    assert!(returned::issue(root.path(), String::new()).is_none());
    fs::write(&cmdline, chosen).unwrap();

    returned::take_back(root.path(), &runner).unwrap();
    assert_eq!(runner.calls().len(), 1, "the menu is written anew");
    let issue = returned::issue(root.path(), "order 1".into()).unwrap();
    assert_eq!((issue.code.as_str(), issue.path.as_str()), ("rolled-back", "order 1"));
    assert!(issue.message.contains("did not come up"), "{issue}");
    resident.note_return().unwrap();
    assert!(returned::issue(root.path(), String::new()).is_none(), "it is said once");
    resident.note_return().unwrap();
    let fleet = Fleet::default();
    resident.tell(&fleet, "https://s").unwrap();
    let seen = fleet.seen.lock().unwrap();
    let of_new: Vec<_> = seen.iter().filter(|(run, ..)| *run == new).collect();
    assert_eq!(of_new.len(), 3);
    assert!(
        matches!(&of_new[2], (_, 3, EventKind::Failed { issues, disks_changed: true, .. }) if issues[0].code == "rolled-back")
    );
}
