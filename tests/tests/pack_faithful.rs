//! Roots made by our engine against roots made by mmdebstrap, apt and dpkg from the same packages.

use std::time::{Instant, SystemTime};

use akene_tests::crafted;
use akene_tests::disks::{can_run, has};
use akene_tests::mirror::{Mirror, cache_dir};
use akene_tests::reference::{self, Archive};
use akene_tests::roots::compare;

fn debian(mirror: &Mirror, suite: &str) -> Archive {
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let sources = format!(
        "deb [signed-by={key}] {} {suite} main\ndeb [signed-by={key}] {} {suite}-security main\n",
        mirror.main(),
        mirror.security()
    );
    Archive { suite: suite.into(), sources }
}

/// The mirror, where all of this can be tested. Says so where not.
fn mirror() -> Option<Mirror> {
    if !can_run() || !has("mmdebstrap") || !has("apt-ftparchive") {
        return None;
    }
    let mirror = Mirror::start().unwrap();
    if mirror.host.distribution != "debian" {
        eprintln!("SKIPPED: needs Debian's packages, and this machine runs {}", mirror.host.distribution);
        return None;
    }
    Some(mirror)
}

/// Whether the long campaign was asked for. Says so where not.
fn full() -> bool {
    let full = std::env::var_os("AKENE_FULL").is_some();
    if !full {
        eprintln!("SKIPPED: takes minutes and says nothing of our own code; scripts/test --full has it");
    }
    full
}

/// Otherwise a difference would say nothing.
#[test]
fn the_reference_is_the_same_twice() {
    let Some(mirror) = mirror().filter(|_| full()) else { return };
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let archive = debian(&mirror, "trixie");
    let mut set = reference::choose(dir.path(), &archive, &["adduser", "libcap2-bin"], false).unwrap();
    let crafted_dir = dir.path().join("crafted");
    std::fs::create_dir(&crafted_dir).unwrap();
    set.add(crafted::build(&crafted_dir).unwrap(), crafted::ALL);
    let local = set.serve().unwrap();
    let since = SystemTime::now();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for root in [&one, &two] {
        let started = Instant::now();
        reference::make(&set, &local, false, crafted::BEFORE, root).unwrap();
        eprintln!("mmdebstrap: {} packages, {:.1} s", set.debs.len(), started.elapsed().as_secs_f64());
    }
    let comparison = compare(&one, &two, since).unwrap();
    assert_eq!(comparison.differences, [], "{comparison}");
}
