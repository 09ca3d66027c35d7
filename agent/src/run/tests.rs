//! The order of things, with a world that records instead of changing.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::channel;

use super::*;
use crate::fetch::Permission;
use crate::report::{Listener, Message};
use akene_protocol::event::{Event, EventKind, RunId};
use akene_protocol::inventory::{Bus, Disk, FirmwareKind, Health, Memory};
use akene_protocol::lock::LockedPackage;
use akene_protocol::profile::{Apt, Distribution, Layer};
use akene_protocol::{AssetNumber, Bundle, Envelope, Secret, Sha256};

fn inventory(disks: usize) -> Inventory {
    let disk = |n: usize| Disk {
        name: format!("sd{}", (b'a' + n as u8) as char),
        path: format!("/dev/sd{}", (b'a' + n as u8) as char),
        by_id: None,
        size: Bytes::gib(40),
        logical_sector: 512,
        physical_sector: 512,
        model: None,
        serial: Some("S1".into()),
        wwn: None,
        bus: Bus::Sata,
        rotational: Some(false),
        removable: false,
        read_only: false,
        live_medium: false,
        health: Health::Good,
        table: None,
        content: None,
    };
    Inventory {
        memory: Memory { total: Bytes::gib(4) },
        disks: (0..disks).map(disk).collect(),
        ..Inventory::unknown(FirmwareKind::Bios)
    }
}

/// A world in which one step can be made to fail.
struct World {
    calls: Rc<RefCell<Vec<String>>>,
    boot: tempfile::TempDir,
    disks: usize,
    room: Bytes,
    permission: Option<Consent>,
    fails: Option<(&'static str, Issue)>,
    medium: bool,
    /// Of which distribution, and the version of its one package.
    of: (Distribution, &'static str),
    /// At which step, and whether with the disks mounted.
    reports: Vec<(String, bool)>,
}

impl World {
    fn new() -> Self {
        World {
            calls: Rc::default(),
            boot: tempfile::tempdir().unwrap(),
            disks: 1,
            room: Bytes::gib(2),
            permission: Some(Consent::Blank),
            fails: None,
            medium: false,
            of: (Distribution::Debian, "1"),
            reports: vec![],
        }
    }

    fn step(&self, name: &str) -> Result<()> {
        self.calls.borrow_mut().push(name.to_owned());
        match &self.fails {
            Some((step, issue)) if *step == name => Err(issue.clone().into()),
            _ => Ok(()),
        }
    }
}

impl Effects for World {
    type Solved = Lock;
    type Locked = ();
    type Mounted = ();
    type Staged = ();

    fn probe(&mut self) -> Result<Inventory> {
        self.step("probe").map(|_| inventory(self.disks))
    }
    fn identify(&mut self, _: &Inventory) -> Result<Identity> {
        self.step("identify")?;
        let credential = Secret::new("planted-credential");
        Ok(Identity { machine: MachineId([1; 16]), asset: AssetNumber::new(7), credential })
    }
    fn orders(&mut self, _: &Identity, _: &Inventory) -> Result<Orders> {
        self.step("orders")?;
        let apt = Apt { distribution: Some(self.of.0), suite: Some("any".into()), ..Apt::default() };
        let profile = Layer { apt: Some(apt), ..Layer::default() };
        let bundle =
            Bundle { site: "s".into(), name: "p".into(), revision: "1".into(), classes: vec![], profile };
        let envelope = Envelope::sign(&bundle, &ed25519_dalek::SigningKey::from_bytes(&[7; 32]));
        let permission = match self.permission {
            Some(consent) => Ok(Permission::given(consent, "the test")),
            None => Err(Issue::new("already-installed", "", "no", "order it")),
        };
        Ok(Orders { bundle, envelope: Some(envelope), permission })
    }
    fn solve(&mut self, _: &Resolved, _: &Plan) -> Result<Lock> {
        self.step("solve")?;
        let package = LockedPackage {
            name: "a".into(),
            version: self.of.1.into(),
            architecture: "all".into(),
            size: Bytes::mib(500),
            sha256: Sha256::of(b""),
            urls: vec![],
            file: "a.deb".into(),
            base: false,
            release: None,
        };
        Ok(Lock { version: 2, architecture: "amd64".into(), packages: vec![package], ..Lock::default() })
    }
    fn packages<'a>(&self, solved: &'a Lock) -> &'a Lock {
        solved
    }
    fn room(&mut self) -> Result<Bytes> {
        Ok(self.room)
    }
    fn shelters(&mut self, _: &Plan, _: &Inventory, _: &Lock, _: &Allowed) -> Vec<Shelter> {
        vec![]
    }
    fn people(&mut self, _: &Plan, _: &Inventory, _: &Resolved) {
        self.calls.borrow_mut().push("people".into());
    }
    fn has_medium(&self) -> bool {
        self.medium
    }
    fn read_medium(&mut self, _: &Lock) -> Result<()> {
        if self.medium { self.step("read medium") } else { Ok(()) }
    }
    fn report(&mut self, mounted: Option<&()>) {
        let last = self.calls.borrow().last().cloned().unwrap_or_default();
        self.reports.push((last, mounted.is_some()));
    }
    fn fetch(&mut self, _: &Lock, to: To<'_, ()>, _: &[Shelter]) -> Result<()> {
        self.step(if matches!(to, To::Target(())) { "fetch onto" } else { "fetch" })
    }
    fn lock(&mut self, _: &Plan, _: MachineId) -> Result<()> {
        self.step("lock")
    }
    fn way_back(
        &mut self,
        _: &mut (),
        _: &Record<'_>,
        _: &Lock,
        _: Option<&()>,
        _: &mut Journal,
    ) -> Result<()> {
        self.step("way back")
    }
    fn write(&mut self, _: (), _: &Allowed) -> Result<()> {
        self.step("write")
    }
    fn boot_dir(&self, _: &()) -> PathBuf {
        self.boot.path().to_owned()
    }
    fn keep(&mut self, _: &(), _: &Record<'_>, _: &Lock) -> Result<()> {
        self.step("keep")
    }
    fn install(&mut self, _: &(), _: &Lock, _: &(), _: &Resolved) -> Result<()> {
        self.step("install")
    }
    fn configure(&mut self, _: &(), _: &Lock, _: &(), _: &Resolved, _: &Identity) -> Result<()> {
        self.step("configure")
    }
    fn sync(&mut self, _: &()) -> Result<()> {
        self.step("sync")
    }
    fn hand_over(&mut self, _: &()) -> Result<()> {
        self.step("hand over")?;
        boot_files::set_installed(self.boot.path(), true)
    }
    fn tidy(&mut self, _: &(), _: &Lock, _: ()) {
        self.calls.borrow_mut().push("tidy".into());
    }
    fn deliver_log(&mut self, _: &Identity, _: Option<&()>) {
        self.calls.borrow_mut().push("log".into());
    }
    fn release(&mut self, _: ()) -> Result<()> {
        self.step("release")
    }
}

struct Tape(std::sync::mpsc::Sender<Event>);
impl Listener for Tape {
    fn message(&mut self, message: &Message) -> Result<()> {
        if let Message::Event(event) = message {
            self.0.send(event.clone())?;
        }
        Ok(())
    }
}

fn run(world: &mut World) -> (Result<Done, Failure>, Vec<String>, Vec<Event>) {
    run_or_plan(world, false)
}

fn run_or_plan(world: &mut World, plan_only: bool) -> (Result<Done, Failure>, Vec<String>, Vec<Event>) {
    let reporter = Reporter::new(RunId([1; 8]), 1);
    let (sender, events) = channel();
    reporter.listen("tape", Tape(sender)).unwrap();
    reporter.start_courier().unwrap();
    let pause = Duration::from_millis(1);
    let patience = Patience { attempts: 2, first: pause, longest: pause, ..Patience::default() };
    let result = pipeline(world, &reporter, Options { plan_only, patience, afterwards: patience });
    let calls = world.calls.borrow().clone();
    (result, calls, events.try_iter().collect())
}

const ALL: [&str; 18] = [
    "probe",
    "identify",
    "orders",
    "solve",
    "people",
    "fetch",
    "lock",
    "way back",
    "write",
    "keep",
    "install",
    "configure",
    "sync",
    "hand over",
    "tidy",
    "log",
    "release",
    "",
];

#[test]
fn everything_in_order_and_the_journal_says_so() {
    let mut world = World::new();
    let (result, calls, events) = run(&mut world);
    assert!(matches!(result, Ok(Done::Installed { .. })), "{result:?}");
    assert_eq!(calls, ALL[..17]);
    assert_eq!(events.last().map(|e| e.kind.clone()), Some(EventKind::Installed));
    let records: Vec<What> =
        crate::journal::read(world.boot.path()).unwrap().into_iter().map(|r| r.what).collect();
    assert_eq!(records.first(), Some(&What::Begun { phase: Phase::Commit }));
    assert_eq!(records.last(), Some(&What::Complete));
    // What the medium's menu looks for, so that a forgotten disc does not start the installer again.
    let menu = include_str!("../../../image-build/src/grub.cfg");
    assert!(menu.contains(&format!("($disk)/{}", boot_files::INSTALLED)));
    assert!(world.boot.path().join(boot_files::INSTALLED).exists());
    // The installed system continues the count where the installer stopped.
    let spool = crate::report::spool::Spool::open(&world.boot.path().join(boot_files::EVENTS), RunId([1; 8]))
        .unwrap();
    assert_eq!(spool.last(), events.last().unwrap().seq);
}

#[test]
fn a_failure_anywhere_is_one_event_and_before_the_write_nothing_is_written() {
    // Accounts that cannot be read are a warning.
    for step in ALL[..14].iter().filter(|step| **step != "people") {
        let mut world = World::new();
        world.fails = Some((step, Issue::new("broken", "", "it is broken", "mend it")));
        // An earlier installation is no longer whole once a new one has begun to replace it.
        let mark = world.boot.path().join("akene/state/installed");
        std::fs::create_dir_all(mark.parent().unwrap()).unwrap();
        std::fs::write(&mark, "").unwrap();
        let (result, calls, events) = run(&mut world);
        assert_eq!(mark.exists(), !calls.contains(&"keep".to_owned()), "{step}");
        let failure = result.unwrap_err();
        let before = ALL.iter().position(|s| s == step).unwrap() < 8;
        assert_eq!(failure.disks_changed, !before, "{step}");
        // The next attempt may have nothing but what this one fetched.
        assert!(!calls.contains(&"tidy".to_owned()), "{step}");
        assert_eq!(calls.contains(&"write".to_owned()), !before, "{step}");
        let failed: Vec<_> = events
            .iter()
            .filter_map(|e| match &e.kind {
                EventKind::Failed { issues, disks_changed, phase } => Some((issues, *disks_changed, *phase)),
                _ => None,
            })
            .collect();
        assert_eq!(failed.len(), 1, "{step}");
        assert_eq!(failed[0].0[0].code, "broken", "{step}");
        assert_eq!((failed[0].1, failed[0].2), (!before, failure.phase), "{step}");
        // Whatever happened to a machine that has a name, its log went out once.
        let known = ALL.iter().position(|s| s == step).unwrap() > 1;
        assert_eq!(calls.iter().filter(|c| *c == "log").count(), usize::from(known), "{step}");
        // Mounted means released, whatever happened.
        let mounted = ["keep", "install", "configure", "sync", "hand over"].contains(step);
        assert_eq!(calls.contains(&"release".to_owned()), mounted, "{step}");
    }
}

#[test]
fn what_may_pass_is_tried_again_before_the_disks_change() {
    let mut world = World::new();
    world.fails = Some(("orders", Issue::new("server-silent", "", "no answer", "")));
    let (result, calls, _) = run(&mut world);
    assert_eq!(result.unwrap_err().issues[0].code, "server-silent");
    assert_eq!(calls.iter().filter(|c| *c == "orders").count(), 2);
}

#[test]
fn whoever_watches_is_told_of_a_package_that_only_fetches_a_snap() {
    let warned = |of| {
        let mut world = World { of, ..World::new() };
        let (result, _, events) = run(&mut world);
        assert!(result.is_ok(), "{result:?}");
        let about = |e: &&Event| matches!(&e.kind, EventKind::Log { message, .. } if message.contains("[package-is-a-snap]"));
        events.iter().filter(about).count()
    };
    assert_eq!(warned((Distribution::Ubuntu, "1:1snap1-0ubuntu5")), 1);
    assert_eq!(warned((Distribution::Ubuntu, "1.0-0ubuntu5")), 0);
    assert_eq!(warned((Distribution::Debian, "1:1snap1-0ubuntu5")), 0);
}

#[test]
fn without_permission_the_plan_is_shown_and_nothing_else_happens() {
    let mut world = World::new();
    world.permission = None;
    let (result, calls, events) = run(&mut world);
    let failure = result.unwrap_err();
    assert_eq!((failure.phase, failure.issues[0].code.as_str()), (Phase::Consent, "already-installed"));
    assert_eq!(calls, ["probe", "identify", "orders", "log"]);
    assert!(events.iter().any(|e| matches!(e.kind, EventKind::Planned { .. })));
}

#[test]
fn no_disk_is_a_refusal_with_a_name() {
    let mut world = World::new();
    world.disks = 0;
    let (result, calls, _) = run(&mut world);
    let failure = result.unwrap_err();
    assert_eq!(failure.phase, Phase::Plan);
    assert!(failure.issues[0].code.contains("disk"), "{:?}", failure.issues);
    assert!(!calls.contains(&"solve".to_owned()));
}

#[test]
fn little_memory_stages_on_a_blank_disk_after_choosing_packages() {
    let mut world = World::new();
    world.room = Bytes::mib(300);
    let (result, calls, _) = run(&mut world);
    assert!(result.is_ok());
    let at = |name: &str| calls.iter().position(|c| c == name).unwrap();
    assert!(at("solve") < at("write") && at("write") < at("fetch onto") && at("fetch onto") < at("install"));
    assert!(!calls.contains(&"fetch".to_owned()));
}

#[test]
fn a_medium_is_read_whole_before_the_disk_changes_where_memory_does_not_hold_it() {
    let mut world = World::new();
    (world.room, world.medium) = (Bytes::mib(300), true);
    let (result, calls, _) = run(&mut world);
    assert!(result.is_ok());
    let at = |name: &str| calls.iter().position(|c| c == name).unwrap();
    assert!(
        at("solve") < at("read medium") && at("read medium") < at("lock") && at("write") < at("fetch onto")
    );

    let mut world = World::new();
    (world.room, world.medium) = (Bytes::mib(300), true);
    world.fails = Some(("read medium", Issue::new("medium-damaged", "pool/x", "", "")));
    let (result, calls, _) = run(&mut world);
    assert!(!result.unwrap_err().disks_changed && !calls.contains(&"lock".to_owned()));
}

#[test]
fn word_is_left_at_consent_and_at_every_end() {
    let mut world = World::new();
    let (result, ..) = run(&mut world);
    assert!(result.is_ok());
    let said = |world: &World| {
        world.reports.iter().map(|(step, mounted)| format!("{step} {mounted}")).collect::<Vec<_>>()
    };
    assert_eq!(said(&world), ["orders false", "log true"]);
    for (step, expected) in [
        ("orders", &["log false"][..]),
        ("lock", &["orders false", "log false"]),
        ("write", &["orders false", "log false"]),
        ("install", &["orders false", "log true"]),
    ] {
        let mut world = World::new();
        world.fails = Some((step, Issue::new("broken", "", "it is broken", "mend it")));
        run(&mut world).0.unwrap_err();
        assert_eq!(said(&world), expected, "{step}");
    }
    // What only looks writes nothing.
    for (disks, planned) in [(1, true), (0, false)] {
        let mut world = World { disks, ..World::new() };
        assert_eq!(run_or_plan(&mut world, true).0.is_ok(), planned);
        assert!(world.reports.is_empty(), "{disks} disks");
    }
}

#[test]
fn packages_lie_where_they_fit_and_no_old_system_goes_unasked() {
    let size = Bytes::mib(200);
    let enough = size + stage::MEMORY_MARGIN;
    let little = enough - Bytes(1);
    let shelter = |free, there| Shelter {
        device: "/dev/sda3".into(),
        uuid: String::new(),
        dir: stage::ON_BOOT,
        later: "boot/akene/packages".into(),
        free: Bytes::mib(free),
        there: Bytes::mib(there),
        stale: Bytes(0),
    };
    let decide =
        |room, shelters: &[Shelter], old, consent| match where_to_stage(size, room, shelters, old, consent) {
            Ok(Place::Beside) => "beside".to_owned(),
            Ok(Place::Shelter(s)) => format!("shelter {}", s.free),
            Ok(Place::Target) => "target".to_owned(),
            Err(issue) => format!("{} {}", issue.code, issue.message),
        };
    assert_eq!(decide(enough, &[], true, Consent::Wipe), "beside");
    // Memory forgets.
    assert_eq!(decide(enough, &[shelter(200, 0)], true, Consent::Wipe), "shelter 200 MiB");
    assert_eq!(decide(little, &[shelter(0, 200)], false, Consent::Wipe), "shelter 0 B");
    assert_eq!(decide(little, &[], false, Consent::Blank), "target");
    assert_eq!(decide(little, &[shelter(199, 0), shelter(200, 0)], true, Consent::Wipe), "shelter 200 MiB");
    assert_eq!(decide(little, &[shelter(50, 150)], true, Consent::Streamed), "shelter 50 MiB");
    assert_eq!(decide(little, &[shelter(50, 100)], true, Consent::Streamed), "target");
    let refused = decide(little, &[shelter(50, 100)], true, Consent::Wipe);
    for part in ["no-room-to-stage", "200 MiB", "/dev/sda3 for 150 MiB"] {
        assert!(refused.contains(part), "{part} is missing in {refused}");
    }
}

#[test]
fn an_error_keeps_its_issues_through_context() {
    let issue = Issue::new("x", "", "m", "");
    let error = anyhow::Error::from(issue.clone()).context("preparing sda").context("committing");
    assert_eq!(issues_of(&error), std::slice::from_ref(&issue));
    let error = anyhow::Error::from(Issues(vec![issue.clone(), issue.clone()])).context("planning");
    assert_eq!(issues_of(&error).len(), 2);
    let issues = issues_of(&anyhow::anyhow!("no space").context("writing"));
    assert_eq!((issues[0].code.as_str(), issues[0].message.as_str()), ("unexpected", "writing: no space"));
}
