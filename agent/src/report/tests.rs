//! The stream and its listeners.

use super::*;
use std::sync::mpsc::{Sender, channel};

struct Tape(Sender<Message>);
impl Listener for Tape {
    fn message(&mut self, message: &Message) -> Result<()> {
        self.0.send(message.clone()).context("the test went away")
    }
}

fn taped() -> (Reporter, Receiver<Message>) {
    let reporter = Reporter::new(RunId([1; 8]), 1);
    let (sender, receiver) = channel();
    reporter.listen("tape", Tape(sender)).unwrap();
    (reporter, receiver)
}

fn events(reporter: &Reporter, tape: &Receiver<Message>) -> Vec<Event> {
    assert!(reporter.drain(Duration::from_secs(60)));
    tape.try_iter()
        .filter_map(|m| match m {
            Message::Event(e) => Some(e),
            _ => None,
        })
        .collect()
}

#[test]
fn numbers_have_no_gaps_whatever_is_reported_from_wherever() {
    let (reporter, tape) = taped();
    reporter.phase(Phase::Stage);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..50 {
                    reporter.progress(i, Some(50), Unit::Packages, "a package");
                    reporter.info("a line");
                    reporter.debug("a detail");
                }
            });
        }
    });
    reporter.phase(Phase::Commit);
    let events = events(&reporter, &tape);
    let numbers: Vec<u64> = events.iter().map(|e| e.seq).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    assert!(events.len() >= 203, "{}", events.len());
}

#[test]
fn a_phase_ends_when_the_next_begins_and_a_failure_is_told_once() {
    let (reporter, tape) = taped();
    reporter.phase(Phase::Plan);
    reporter.phase(Phase::Plan);
    reporter.phase(Phase::Consent);
    reporter.failed(vec![Issue::new("no-grant", "", "no", "")], false);
    reporter.failed(vec![Issue::new("other", "", "no", "")], true);
    reporter.warn("said afterwards");
    reporter.phase_done();
    let kinds: Vec<EventKind> = events(&reporter, &tape).into_iter().map(|e| e.kind).collect();
    assert_eq!(
        kinds,
        [
            EventKind::PhaseStarted { phase: Phase::Plan },
            EventKind::PhaseFinished { phase: Phase::Plan },
            EventKind::PhaseStarted { phase: Phase::Consent },
            EventKind::Failed {
                phase: Phase::Consent,
                issues: vec![Issue::new("no-grant", "", "no", "")],
                disks_changed: false
            },
        ]
    );
}

#[test]
fn a_planted_secret_passes_nowhere() {
    let (reporter, tape) = taped();
    reporter.hide(&Secret::new("hunter2hunter2"));
    reporter.phase(Phase::Stage);
    reporter.progress(1, None, Unit::Bytes, "http://me:hunter2hunter2@mirror/x.deb");
    reporter.progress(2, None, Unit::Bytes, "http://me:hunter2hunter2@mirror/y.deb");
    reporter.info("fetching http://me:hunter2hunter2@mirror/");
    reporter.debug("hunter2hunter2");
    reporter.waiting("hunter2hunter2");
    reporter.failed(vec![Issue::new("x", "hunter2hunter2", "hunter2hunter2", "hunter2hunter2")], false);
    assert!(reporter.drain(Duration::from_secs(60)));
    let all: Vec<String> = tape.try_iter().map(|m| format!("{m:?}")).collect();
    assert!(all.len() >= 6, "{all:?}");
    assert!(all.iter().all(|m| !m.contains("hunter2")), "{all:?}");
    assert!(all.iter().any(|m| m.contains("[hidden]")));
}

/// The same for everybody who really listens: screen, serial line, log and JSON.
#[test]
fn a_planted_secret_is_on_no_screen_and_in_no_log() {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let [screen, log] = ["screen", "log"].map(|name| dir.path().join(name));
    let (serial, json) = (Shared::default(), Shared::default());
    for language in Language::ALL {
        let reporter = Reporter::new(RunId([1; 8]), 1);
        let device = std::fs::OpenOptions::new().create(true).append(true).open(&screen).unwrap();
        reporter.listen("screen", screen::Screen::new(device, "Lannion", language)).unwrap();
        reporter.listen("serial", lines::Lines::for_console(serial.clone(), language)).unwrap();
        reporter.listen("json", lines::Json(json.clone())).unwrap();
        reporter.listen("log", logfile::LogFile::open(&log).unwrap()).unwrap();
        let secrets = ["token-of-the-medium", "credential-of-the-machine", "$6$salt$hash-of-a-password"];
        secrets.iter().for_each(|secret| reporter.hide(&Secret::new(*secret)));
        let said = secrets.join(" and ");
        reporter.phase(Phase::Stage);
        reporter.progress(1, Some(2), Unit::Bytes, &said);
        reporter.info(&said);
        reporter.warn(&said);
        reporter.debug(&said);
        reporter.waiting(&said);
        reporter.trouble(Some(Issue::new("no-cable", &said, &said, &said)));
        reporter.failed(vec![Issue::new("no-cable", &said, &said, &said)], false);
        assert!(reporter.drain(Duration::from_secs(60)));
    }
    let file = |path| std::fs::read_to_string(path).unwrap();
    let shared = |of: &Shared| String::from_utf8(of.0.lock().unwrap().clone()).unwrap();
    for (place, text) in
        [("screen", file(&screen)), ("log", file(&log)), ("serial", shared(&serial)), ("json", shared(&json))]
    {
        assert!(text.contains("[hidden]"), "nothing was said on the {place}: {text}");
        for part in ["token-of", "credential-of", "hash-of"] {
            assert!(!text.contains(part), "{part} is on the {place}");
        }
    }
}

#[test]
fn a_password_in_an_address_passes_nowhere() {
    let (reporter, tape) = taped();
    for address in
        ["http://me:pass@word-1@proxy:3128", "http://proxy:3128/a:b@c", "https://me@proxy", "no:thing@at", ""]
    {
        reporter.hide_password_of(address);
    }
    reporter.info("the proxy http://me:pass@word-1@proxy:3128 does not let us through; 3128/a:b@c");
    let told = format!("{:?}", events(&reporter, &tape));
    assert!(told.contains("me:[hidden]@proxy:3128") && told.contains("3128/a:b@c"), "{told}");
}

#[test]
fn a_listener_that_hangs_or_dies_holds_nobody_up() {
    struct Hangs;
    impl Listener for Hangs {
        fn message(&mut self, _: &Message) -> Result<()> {
            thread::sleep(Duration::from_secs(3600));
            Ok(())
        }
    }
    struct Dies;
    impl Listener for Dies {
        fn message(&mut self, _: &Message) -> Result<()> {
            anyhow::bail!("no more paper")
        }
    }
    let (reporter, tape) = taped();
    reporter.listen("hanging", Hangs).unwrap();
    reporter.listen("dying", Dies).unwrap();
    let started = Instant::now();
    for _ in 0..QUEUE * 2 {
        reporter.info("a line");
        // The tape must not lag itself.
        if tape.try_iter().count() == 0 {
            thread::yield_now();
        }
    }
    assert!(!reporter.drain(Duration::from_millis(200)), "the hanging one cannot have shown it all");
    assert!(started.elapsed() < Duration::from_secs(30));
}
