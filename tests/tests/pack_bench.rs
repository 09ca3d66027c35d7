//! The harness of the measurements works, and refuses to measure half a job. Nothing here looks at a clock.

use akene_tests::bench::{Bench, Maker, table};
use akene_tests::disks::{can_run, has};
use akene_tests::mirror::{Mirror, cache_dir};
use akene_tests::reference::{self, Archive};
use akene_tests::site::program;

#[test]
fn a_smallest_round() {
    if !can_run() || !has("time") || !has("apt-ftparchive") {
        return;
    }
    let mirror = Mirror::start().unwrap();
    if mirror.host.distribution != "debian" {
        eprintln!("SKIPPED: needs Debian's packages, and this machine runs {}", mirror.host.distribution);
        return;
    }
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let set = reference::choose(dir.path(), &Archive::debian(&mirror, "trixie"), &[], false).unwrap();
    let local = set.serve().unwrap();
    let makers = [Maker::Ours, Maker::Unpack];
    let lay = program("akene-lay").unwrap();
    let bench = Bench::new(&set, &local, dir.path(), &lay, false, &makers).unwrap();
    let round: Vec<_> =
        makers.iter().map(|m| (*m, bench.run(*m).unwrap_or_else(|e| panic!("{e:#}")))).collect();
    for (maker, sample) in &round {
        assert!(sample.wall > 0.0 && sample.cpu > 0.0 && sample.peak > 0, "{maker:?}: {sample:?}");
        // More than a base system must have reached the disk.
        assert!(sample.written > 64 << 20, "{maker:?}: {sample:?}");
    }
    let told = round[0].1.told.as_ref().unwrap();
    let peak = told["peak"].as_u64().unwrap();
    assert!(peak < 150 << 10, "our engine had {peak} KiB at once");
    assert_eq!(table(&[round], Maker::Ours).lines().count(), 4);
    assert!(!dir.path().join("disk.img").exists());
}
