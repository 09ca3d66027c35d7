//! Power cuts at any moment of an installation: the disk starts the old system, the installer or the new system, each whole,
//! and an installer that is started comes to its end without the network, with people's files byte for byte.
//!
//! The short form judges a few points of the first two installations; `AKENE_FULL` and `scripts/cuts SEED N` the long one, see `docs/power-cuts.md`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_agent::durable;
use akene_agent::sys::loopdev;
use akene_tests::cuts::fuse::Recording;
use akene_tests::cuts::record::{Op, Random, Reader, apply, apply_for_now, survivors};
use akene_tests::cuts::{Campaign, Run, table};
use akene_tests::disks::{can_run, has, run};
use akene_tests::native::possible;

fn possible_here() -> bool {
    let fuse = Path::new("/dev/fuse").exists();
    if !fuse {
        eprintln!("SKIPPED: this kernel has no FUSE, with which writes are recorded");
    }
    let modules = Path::new("/usr/lib/grub/i386-pc/moddep.lst").exists();
    if !modules {
        eprintln!("SKIPPED: there are no modules of GRUB for a BIOS here (grub-pc-bin)");
    }
    fuse && modules && possible() && can_run() && has("grub-fstest") && has("grub-mkimage")
}

/// A number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |value| value.parse().unwrap())
}

#[test]
fn a_power_cut_leaves_something_that_starts_and_comes_to_its_end() {
    if !possible_here() {
        return;
    }
    let full = std::env::var_os("AKENE_FULL").is_some();
    // Other points every day, the same all day long.
    let day = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    let seed = setting("AKENE_CUTS_SEED", day);
    let points = setting("AKENE_CUTS", if full { 60 } else { 8 });
    let resumed = setting("AKENE_CUTS_RESUMED", if full { 8 } else { 1 });
    // Two more installations take more time than every test run has.
    let named = std::env::var("AKENE_CUTS_RUNS").ok();
    let named = named.as_deref().unwrap_or(if full { "all" } else { "blank disk,reinstallation" });
    let runs: Vec<Run> = Run::ALL
        .into_iter()
        .filter(|(name, _)| named == "all" || named.split(',').any(|n| n == *name))
        .map(|(_, run)| run)
        .collect();
    for name in named.split(',').filter(|name| *name != "all") {
        assert!(Run::ALL.iter().any(|(known, _)| known == &name), "there is no recording called {name}");
    }
    println!(
        "seed {seed}: AKENE_CUTS_RUNS='{named}' AKENE_CUTS_SEED={seed} AKENE_CUTS={points} AKENE_CUTS_RESUMED={resumed} repeats this"
    );
    let dir = tempfile::tempdir().unwrap();
    // Recordings are kept and judged again where somebody names a directory.
    let kept = std::env::var_os("AKENE_CUTS_DIR").map(std::path::PathBuf::from);
    let mut campaign = Campaign::new(kept.as_deref().unwrap_or(dir.path()), seed).unwrap();
    campaign.only = std::env::var("AKENE_CUTS_STEPS").ok().map(|range| {
        let (from, to) = range.split_once('-').unwrap();
        from.parse().unwrap()..=to.parse().unwrap()
    });
    let outcomes = campaign
        .run(&runs, points as usize, resumed as usize, &mut |line| println!("{line}"))
        .unwrap_or_else(|e| panic!("{e:#}"));
    println!("seed {seed}, {} points\n{}", outcomes.len(), table(&outcomes));
    for run in &runs {
        assert!(outcomes.iter().any(|o| o.run == *run), "no point of {run:?} was judged");
    }
    assert!(resumed == 0 || outcomes.iter().any(|o| o.resumed.is_some()), "no installer went on");
}

/// What the campaign stands on: a loop device on the recorder writes through, and a flush of it is a flush there.
#[test]
fn every_write_and_every_flush_is_recorded() {
    if !possible_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, record, place) =
        (dir.path().join("image"), dir.path().join("record"), dir.path().join("place"));
    std::fs::create_dir(&place).unwrap();
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let recording = Recording::start(&image, &record, &place).unwrap();
    let (_, device) = loopdev::attach_disk(&recording.disk(), 512).unwrap();
    device.write_all_at(&[1; 8192], 4096).unwrap();
    device.sync_all().unwrap();
    device.write_all_at(&[2; 4096], 1 << 20).unwrap();
    device.sync_all().unwrap();
    loopdev::detach(&device).unwrap();
    drop(device);
    recording.end().unwrap();
    let mut ops = Vec::new();
    let mut reader = Reader::open(&record).unwrap();
    while let Some(op) = reader.step().unwrap() {
        ops.push(op);
    }
    let at = |wanted: &dyn Fn(&Op) -> bool| ops.iter().position(wanted).unwrap_or_else(|| panic!("{ops:?}"));
    let first = at(&|op| matches!(op, Op::Write { offset: 4096, data } if data[0] == 1));
    let second = at(&|op| matches!(op, Op::Write { offset: 0x10_0000, data } if data[0] == 2));
    assert!(ops[first..second].contains(&Op::Flush) && ops[second..].contains(&Op::Flush), "{ops:?}");
}

/// GRUB reads the old menu or the new one, wherever the power is cut while one takes the other's place.
#[test]
fn a_boot_loader_finds_one_of_two_menus_at_every_moment() {
    if !possible_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (image, record, place, boot) = (at("image"), at("record"), at("place"), at("boot"));
    for dir in [&place, &boot] {
        std::fs::create_dir(dir).unwrap();
    }
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q", image.to_str().unwrap()]);
    let menu = |name: &str| format!("{name} {}\n", "x".repeat(9000));
    let write = |name: &str| {
        let text = menu(name);
        let fill = |out: &mut dyn std::io::Write| Ok(out.write_all(text.as_bytes())?);
        durable::replace_for_boot_loader(&boot.join("grub/grub.cfg"), 0o644, fill).unwrap();
    };
    let mounted = |disk: &Path, work: &dyn Fn()| {
        let (node, device) = loopdev::attach_disk(disk, 512).unwrap();
        run("mount", &[node.to_str().unwrap(), boot.to_str().unwrap()]);
        work();
        run("umount", &[boot.to_str().unwrap()]);
        loopdev::detach(&device).unwrap();
    };
    mounted(&image, &|| {
        std::fs::create_dir(boot.join("grub")).unwrap();
        write("first");
    });
    let before = at("before");
    std::fs::copy(&image, &before).unwrap();
    let recording = Recording::start(&image, &record, &place).unwrap();
    mounted(&recording.disk(), &|| ["second", "third", "fourth"].iter().for_each(|name| write(name)));
    recording.end().unwrap();

    let disk = File::options().read(true).write(true).open(&before).unwrap();
    let (mut reader, mut pending, mut seen) = (Reader::open(&record).unwrap(), Vec::new(), Vec::new());
    let mut step = 0;
    while let Some(op) = reader.step().unwrap() {
        step += 1;
        match op {
            Op::Flush => pending.drain(..).try_for_each(|op| apply(&disk, &op)).unwrap(),
            op => pending.push(op),
        }
        for seed in 0..6 {
            let undo =
                apply_for_now(&disk, &survivors(&pending, &mut Random::new(step * 64 + seed))).unwrap();
            let found = run("grub-fstest", &[before.to_str().unwrap(), "cat", "/grub/grub.cfg"]);
            undo.iter().try_for_each(|op| apply(&disk, op)).unwrap();
            let which = ["first", "second", "third", "fourth"].iter().find(|name| menu(name).trim() == found);
            seen.push(*which.unwrap_or_else(|| panic!("step {step}, seed {seed}: GRUB reads {found:?}")));
        }
    }
    println!("{} disks of {step} steps", seen.len());
    assert!(seen.contains(&"first") && seen.contains(&"fourth"));
}

#[test]
fn survivors_are_the_same_for_a_seed_and_can_be_taken_back() {
    let pending: Vec<Op> =
        (0..50u8).map(|n| Op::Write { offset: u64::from(n) * 9000, data: vec![n + 1; 16384] }).collect();
    let of = |seed| survivors(&pending, &mut Random::new(seed));
    assert_eq!(of(5), of(5));
    assert!((1..40).any(|seed| of(seed).is_empty()) && (1..40).any(|seed| of(seed).len() > 40));
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let undo = apply_for_now(&file, &of(3)).unwrap();
    for op in &undo {
        akene_tests::cuts::record::apply(&file, op).unwrap();
    }
    let mut bytes = vec![1; 1 << 20];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|b| *b == 0));
}
