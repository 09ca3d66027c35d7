//! What can go wrong between an archive and a disk, a row each: the whole installer in a network of its own. It gets
//! everything and goes on to write the disk, or it refuses, names the cause, and the disk is as it was, byte by byte.
//!
//! What only concerns the fetcher is in `crates/archive/tests` (sources, fetching, line), what only concerns apt in
//! `pack_archives`, signatures and sums on the whole way in `refusals`, shelters in `native_stage`. The archive here is
//! tiny and its packages are empty: an installation that has everything ends at the base, when its disk is written
//! to. With `AKENE_FULL` also the rows that take minutes by their nature.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use akene_exec::Cmd;
use akene_tests::disks::{can_run, run};
use akene_tests::faults::{Line, Tiny, fill, used_disk};
use akene_tests::http::Fault;
use akene_tests::image::{digest, let_go};
use akene_tests::native::{Orders, Outcome, install_by, possible};
use akene_tests::repository::Says;

/// Size of the package that takes a while.
const BIG: usize = 2 << 20;

/// How many rows go on at once: most of them wait.
const AT_ONCE: usize = 6;

/// How a row ends.
enum Ends {
    /// Everything is there, and the disk is written to; the big package came over the network so often at most.
    Staged,
    /// Refused, with one of these codes; each issue names this.
    Refused(&'static [&'static str], &'static str),
}

use Ends::{Refused, Staged};

struct Row {
    what: &'static str,
    /// How many of the two mirrors the profile names.
    mirrors: usize,
    /// Prepares the network. False: this kernel cannot.
    spoil: fn(&Line, &Tiny) -> bool,
    /// What happens while the installer runs, asked all the time.
    meanwhile: fn(&Line, &State),
    ends: Ends,
    /// It takes minutes.
    long: bool,
}

/// What a row remembers while it runs.
#[derive(Default)]
struct State {
    done: AtomicBool,
    since: Mutex<Option<Instant>>,
}

impl State {
    /// For how long the big package has been asked for.
    fn downloading(&self, line: &Line) -> Duration {
        let mut since = self.since.lock().unwrap();
        if since.is_none() && line.mirrors[0].take_served().iter().any(|path| path.ends_with("big_1_all.deb"))
        {
            *since = Some(Instant::now());
        }
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

const ROW: Row = Row {
    what: "nothing is wrong",
    mirrors: 1,
    spoil: |_, _| true,
    meanwhile: |_, _| {},
    ends: Staged,
    long: false,
};

fn first(line: &Line, suffix: &str, fault: Fault) -> bool {
    line.mirrors[0].fault(suffix, fault);
    true
}

fn both(line: &Line, suffix: &str, fault: Fault) -> bool {
    line.mirrors.iter().for_each(|mirror| mirror.fault(suffix, fault.clone()));
    true
}

const DEB: &str = "big_1_all.deb";
const INDEX: &str = "binary-amd64/Packages";

fn rows() -> Vec<Row> {
    vec![
        Row { ..ROW },
        Row {
            what: "a line of 8 Mbit/s loses one packet in 20, and the mirror cuts each connection after 300 kB",
            spoil: |line, _| first(line, DEB, Fault::Cuts(300_000)) && line.lose(20) && line.slow(8000),
            ..ROW
        },
        Row {
            what: "the cable is pulled out for two seconds in the middle of the download",
            spoil: |line, _| line.slow(4000),
            meanwhile: |line, state| {
                let since = state.downloading(line);
                if since > Duration::from_millis(500) && !state.done.load(Ordering::SeqCst) {
                    line.plug(since > Duration::from_millis(2500));
                    state.done.store(since > Duration::from_millis(2500), Ordering::SeqCst);
                }
            },
            ..ROW
        },
        Row {
            what: "a portal comes up in the middle of the download, and somebody signs in after seven seconds",
            spoil: |line, _| first(line, DEB, Fault::Cuts(300_000)) && line.slow(4000),
            meanwhile: |line, state| {
                let since = state.downloading(line);
                if since > Duration::from_millis(7500) && !state.done.swap(true, Ordering::SeqCst) {
                    line.mirrors[0].mend();
                } else if since > Duration::from_millis(500) && !state.done.load(Ordering::SeqCst) {
                    first(line, "", Fault::Portal);
                }
            },
            ..ROW
        },
        Row {
            what: "a portal comes up in the middle of the download, and nobody signs in",
            spoil: |line, _| first(line, DEB, Fault::Cuts(300_000)) && line.slow(4000),
            meanwhile: |line, state| {
                if state.downloading(line) > Duration::from_millis(500) {
                    first(line, "", Fault::Portal);
                }
            },
            ends: Refused(&["portal"], "/login.html"),
            ..ROW
        },
        Row {
            what: "the first mirror sends one byte a second of a package",
            mirrors: 2,
            spoil: |line, _| first(line, DEB, Fault::Drips),
            ..ROW
        },
        Row {
            what: "the first mirror has been updated: the package of the index is gone there",
            mirrors: 2,
            spoil: |line, _| first(line, DEB, Fault::Missing),
            ..ROW
        },
        Row {
            what: "the first mirror redirects to itself without end",
            mirrors: 2,
            spoil: |line, _| first(line, DEB, Fault::Loops),
            ..ROW
        },
        Row {
            what: "the mirror promises more bytes of a package than there are, and all of them are right",
            spoil: |line, _| first(line, DEB, Fault::Claims(5000)),
            ..ROW
        },
        Row {
            what: "the mirror promises fewer bytes of a package than it has",
            spoil: |line, _| first(line, DEB, Fault::Claims(-5000)),
            ends: Refused(&["package-hash", "package-unreachable"], "big"),
            long: true,
            ..ROW
        },
        Row {
            what: "the mirror has half of a package",
            spoil: |line, _| first(line, DEB, Fault::Truncated),
            ends: Refused(&["package-hash"], "big"),
            ..ROW
        },
        Row {
            what: "the first mirror has half of a package, the second a damaged one",
            mirrors: 2,
            spoil: |line, _| {
                line.mirrors[1].fault(DEB, Fault::Flipped);
                first(line, DEB, Fault::Truncated)
            },
            ends: Refused(&["package-hash"], "big"),
            ..ROW
        },
        Row {
            what: "something sends a page instead of a package",
            spoil: |line, _| first(line, DEB, Fault::Bytes(b"<html>Please log in</html>".to_vec())),
            ends: Refused(&["package-hash"], "big"),
            ..ROW
        },
        Row {
            what: "half of an index",
            spoil: |line, _| first(line, INDEX, Fault::Truncated),
            ends: Refused(&["mirror-updating"], "10.199.0.1"),
            ..ROW
        },
        Row {
            what: "the mirror promises more bytes of an index than there are",
            spoil: |line, _| first(line, INDEX, Fault::Claims(5000)),
            ends: Refused(&["mirror-updating", "index-oversized", "archive-unreachable"], "10.199.0.1"),
            long: true,
            ..ROW
        },
        Row {
            what: "a mirror in the middle of an update: a new release, the old index",
            spoil: |line, tiny| {
                let text = String::from_utf8(tiny.site.release("main", &Says::default()).into()).unwrap();
                // The sum of an index that has not arrived yet.
                let text = text.lines().map(|l| match l.strip_suffix(" main/binary-amd64/Packages") {
                    Some(_) => format!(" {} 17 main/binary-amd64/Packages\n", "0".repeat(64)),
                    None => format!("{l}\n"),
                });
                let signed = tiny.key.clearsigned(&text.collect::<String>(), &[]);
                first(line, "InRelease", Fault::Bytes(signed))
            },
            ends: Refused(&["mirror-updating"], "10.199.0.1"),
            ..ROW
        },
        Row {
            what: "a stale release",
            spoil: |line, tiny| {
                let says = Says { date: "3 weeks ago", until: "3 days ago", ..Says::default() };
                first(line, "InRelease", Fault::Bytes(tiny.release(&says)))
            },
            ends: Refused(&["release-expired"], "out of date since 3d"),
            ..ROW
        },
        Row {
            what: "the first mirror is stale, the second is not",
            mirrors: 2,
            spoil: |line, tiny| {
                let says = Says { date: "3 weeks ago", until: "3 days ago", ..Says::default() };
                first(line, "InRelease", Fault::Bytes(tiny.release(&says)))
            },
            ..ROW
        },
        Row {
            what: "a release that redirects to itself, on both mirrors",
            mirrors: 2,
            spoil: |line, _| both(line, "Release", Fault::Loops),
            ends: Refused(&["archive-unreachable"], "10.199.0.1"),
            long: true,
            ..ROW
        },
        Row {
            what: "redirects without end on both mirrors",
            mirrors: 2,
            spoil: |line, _| both(line, DEB, Fault::Loops),
            ends: Refused(&["package-unreachable"], "redirects"),
            long: true,
            ..ROW
        },
        Row {
            what: "the first mirror sends one byte a second of everything",
            mirrors: 2,
            spoil: |line, _| first(line, "", Fault::Drips),
            long: true,
            ..ROW
        },
        Row {
            what: "the only mirror sends one byte a second of a package",
            spoil: |line, _| first(line, DEB, Fault::Drips),
            ends: Refused(&["package-unreachable"], "big"),
            long: true,
            ..ROW
        },
        Row {
            what: "the cable is pulled out in the middle of the download",
            spoil: |line, _| line.slow(4000),
            meanwhile: |line, state| {
                if state.downloading(line) > Duration::from_millis(500)
                    && !state.done.swap(true, Ordering::SeqCst)
                {
                    line.plug(false);
                }
            },
            ends: Refused(&["package-unreachable"], "big"),
            long: true,
            ..ROW
        },
    ]
}

fn phases(outcome: &Outcome) -> Vec<&str> {
    outcome.events_of("phase-started").iter().filter_map(|e| e["phase"].as_str()).collect()
}

/// Everything was fetched, and the disk was written to. That the tiny archive's base is none is the end of it.
fn is_staged(outcome: &Outcome) {
    assert!(phases(outcome).contains(&"commit"), "it did not come so far: {}", outcome.story());
    let failed = outcome.events_of("failed");
    assert_eq!(failed.len(), 1, "{}", outcome.story());
    assert_eq!((&failed[0]["phase"], &failed[0]["disks-changed"]), (&"install".into(), &true.into()));
    assert!(!outcome.log.contains("gave wrong files"), "somebody honest is blamed: {}", outcome.story());
}

fn is_refused(outcome: &Outcome, codes: &[&str], names: &str) {
    assert!(!outcome.good && !phases(outcome).contains(&"commit"), "{}", outcome.story());
    let failed = outcome.events_of("failed");
    assert_eq!(failed.len(), 1, "{}", outcome.story());
    assert_eq!(failed[0]["disks-changed"], false);
    let issues = outcome.issues();
    assert!(!issues.is_empty(), "{}", outcome.story());
    for issue in issues {
        let code = issue["code"].as_str().unwrap();
        assert!(codes.contains(&code), "{code} is none of {codes:?}: {}", outcome.story());
        assert!(issue.to_string().contains(names), "{names}: {issue}");
        assert!(!issue["next"].as_str().unwrap_or_default().is_empty(), "{issue}");
    }
}

fn try_row(number: usize, row: &Row, tiny: &Tiny, dir: &Path) {
    let Some(line) = Line::new(&number.to_string(), tiny) else { return };
    if !(row.spoil)(&line, tiny) {
        return;
    }
    let disk = match row.ends {
        Staged => dir.join("new.img"),
        Refused(..) => used_disk(dir),
    };
    let before = matches!(row.ends, Refused(..)).then(|| digest(&disk).unwrap());
    let state = State::default();
    let profile = line.profile(row.mirrors);
    let more = ["--consent", "wipe", "--size", "5GiB"];
    let started = Instant::now();
    let outcome = install_by(&line.on_machine(), &disk, &Orders::Profile(&profile), dir, &more, |_| {
        (row.meanwhile)(&line, &state);
        Ok(false)
    });
    let outcome = outcome.unwrap();
    println!("{:6.1} s  {}", started.elapsed().as_secs_f64(), row.what);
    match &row.ends {
        Staged => is_staged(&outcome),
        Refused(codes, names) => is_refused(&outcome, codes, names),
    }
    if let Some(before) = before {
        assert_eq!(digest(&disk).unwrap(), before, "the disk was changed: {}", outcome.story());
    }
}

fn is_full() -> bool {
    std::env::var_os("AKENE_FULL").is_some()
}

#[test]
fn each_fault_ends_well_or_is_refused_by_name_with_the_disk_as_it_was() {
    if !possible() || !can_run() {
        return;
    }
    let Some(tiny) = Tiny::new(BIG) else { return };
    let rows: Vec<Row> = rows().into_iter().filter(|row| !row.long || is_full()).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((number, row)) =
                    Some(next.fetch_add(1, Ordering::SeqCst)).and_then(|n| Some((n, rows.get(n)?)))
                {
                    let dir = tempfile::tempdir().unwrap();
                    let tried = std::panic::AssertUnwindSafe(|| try_row(number, row, &tiny, dir.path()));
                    if std::panic::catch_unwind(tried).is_err() {
                        failed.lock().unwrap().push(row.what);
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner().unwrap(), Vec::<&str>::new(), "these rows failed, for reasons above");
}

#[test]
fn killed_at_random_moments_before_it_may_write_it_has_written_nothing() {
    if !possible() || !can_run() {
        return;
    }
    let Some(tiny) = Tiny::new(BIG) else { return };
    let Some(line) = Line::new("k", &tiny) else { return };
    if !line.slow(8000) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = used_disk(dir.path());
    let mut whole = digest(&disk).unwrap();
    let profile = line.profile(1);
    let kills = if is_full() { 60 } else { 6 };
    // An ordinary run draws the same moments each time.
    let seed = if is_full() { std::process::id().wrapping_mul(2_654_435_761) } else { 1 };
    println!("seed {seed}");
    let mut random = u64::from(seed);
    let mut seen = Vec::new();
    for _ in 0..kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = Duration::from_millis(50 + (random >> 33) % 4000);
        let started = Instant::now();
        let output = dir.path().join("agent.output");
        // Not beyond the moment from which on the disk is its own.
        let commits =
            || std::fs::read_to_string(&output).is_ok_and(|text| text.contains("\"phase\":\"commit\""));
        let outcome = install_by(
            &line.on_machine(),
            &disk,
            &Orders::Profile(&profile),
            dir.path(),
            &["--consent", "wipe"],
            |_| Ok(started.elapsed() >= at || commits()),
        )
        .unwrap();
        let_go(&disk).unwrap();
        if phases(&outcome).contains(&"commit") {
            println!("killed as late as in commit; the next one begins with a used disk");
            std::fs::remove_file(&disk).unwrap();
            whole = digest(&used_disk(dir.path())).unwrap();
        } else {
            assert_eq!(digest(&disk).unwrap(), whole, "killed after {at:?}: {}", outcome.story());
        }
        seen.push(phases(&outcome).last().copied().unwrap_or("-").to_owned());
    }
    println!("killed in {seen:?}");
    // As if nothing had been.
    line.mend();
    let more = ["--consent", "wipe"];
    let outcome =
        install_by(&line.on_machine(), &disk, &Orders::Profile(&profile), dir.path(), &more, |_| Ok(false));
    is_staged(&outcome.unwrap());
}

#[test]
fn a_disk_that_is_full_before_everything_is_there() {
    if !possible() || !can_run() {
        return;
    }
    let Some(tiny) = Tiny::new(BIG) else { return };
    let Some(line) = Line::new("f", &tiny) else { return };
    if !line.slow(4000) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let profile = line.profile(1);
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let place = small.to_str().unwrap();
    let with = |megabytes: u32, disk: &Path, full: &dyn Fn(u32)| {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "small", place]);
        // What it says has room elsewhere.
        let said = tempfile::tempdir_in(dir.path()).unwrap();
        for name in ["agent.output", "agent.log"] {
            std::os::unix::fs::symlink(said.path().join(name), small.join(name)).unwrap();
        }
        let (state, orders) = (State::default(), Orders::Profile(&profile));
        line.mirrors[0].take_served();
        let more = ["--consent", "wipe", "--size", "5GiB"];
        let outcome = install_by(&line.on_machine(), disk, &orders, &small, &more, |process| {
            if state.downloading(&line) > Duration::from_millis(300)
                && !state.done.swap(true, Ordering::SeqCst)
            {
                // Nothing comes while the room goes.
                line.plug(false);
                full(process);
                line.plug(true);
            }
            Ok(false)
        });
        run("umount", &["--lazy", place]);
        outcome.unwrap()
    };
    // Beside the disks, by somebody else's files.
    let disk = used_disk(dir.path());
    let whole = digest(&disk).unwrap();
    let outcome = with(260, &disk, &|process| fill(process, place));
    is_refused(&outcome, &["no-space"], "were still to be fetched");
    assert_eq!(outcome.issues().len(), 1, "a full disk is one thing: {}", outcome.story());
    assert_eq!(digest(&disk).unwrap(), whole, "{}", outcome.story());

    // On the new disk, where nothing was before. The next one goes on, maybe with all that had come.
    let disk = dir.path().join("new.img");
    let outcome = with(100, &disk, &|process| {
        let scratch = std::fs::read_dir(format!("/proc/{process}/root{place}")).unwrap().flatten();
        let target = scratch.map(|e| e.path().join("target")).find(|path| path.is_dir()).unwrap();
        let target = target.to_str().unwrap().split_once("/root/").unwrap().1.to_owned();
        fill(process, &format!("/{target}"));
    });
    let issues = outcome.issues();
    assert_eq!(issues[0]["code"], "no-space", "{}", outcome.story());
    assert_eq!(outcome.events_of("failed")[0]["disks-changed"], true);
    // Where packages are fetched to has more room: it may be setting them up that has none.
    let phase = &outcome.events_of("failed")[0]["phase"];
    assert!(phase == "stage" || phase == "install", "{}", outcome.story());
    let outcome = with(100, &disk, &|_| {});
    is_staged(&outcome);
}

#[test]
fn a_disk_that_is_full_while_packages_are_unpacked_is_named() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=20m", "root", root.to_str().unwrap()]);
    let control = "Package: large\nVersion: 1\nArchitecture: all\n";
    let deb = akene_tests::deb::make(dir.path(), control, &[("usr/share/large", vec![0; 40 << 20])]).unwrap();
    let nothing = akene_exec::RecordingRunner::default();
    let later = akene_archive::Later::new(dir.path().join("tools"), &root);
    later.prepare("/tools").unwrap();
    let unpacked =
        akene_archive::Engine::new(&root, &nothing, |program| Cmd::new(program), &later, &[], &[deb])
            .and_then(|mut engine| engine.unpack(&mut |_| {}));
    run("umount", &["--lazy", root.to_str().unwrap()]);
    let issues = akene_agent::run::issues_of(&unpacked.unwrap_err());
    assert_eq!((issues.len(), issues[0].code.as_str()), (1, "no-space"), "{issues:?}");
    assert!(issues[0].message.contains("large") && !issues[0].next.is_empty(), "{}", issues[0]);
}
