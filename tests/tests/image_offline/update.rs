//! Bringing a stick up to date, and devices.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, Streams, SystemRunner};
use akene_image::offline::look::Offline;
use akene_image::offline::store::Store;
use akene_image::offline::update::{Updated, update};
use akene_image::offline::{Goal, Wishes, Workshop, table};
use akene_image::stamp;
use akene_protocol::Sha256;
use akene_server::site::init::{Options, init};
use akene_server::site::media;
use akene_tests::site::program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::*;

/// Plays the journal back. e2fsck cannot do that in the middle of an image.
fn play_back(stick: &Path) {
    let (start, length) = data(stick);
    let attach = Cmd::new("losetup").args(["--find", "--show", "--offset", &start.to_string()]);
    let device = run(attach.args(["--sizelimit", &length.to_string()]).arg(stick));
    // It says with 1 that it played something back.
    SystemRunner.run(&Cmd::new("e2fsck").args(["-p", &device])).ok();
    run(Cmd::new("losetup").args(["-d", &device]));
}

/// Starts a command and kills it after this time. Gives back what was on the stick just before, as a power cut would have left it:
/// nothing of what the kernel still held back; and whether it had ended by itself. Waits until nothing holds the stick any more.
fn cut(cmd: &Cmd, after: Duration, stick: &Path) -> (PathBuf, bool) {
    let log = File::options().write(true).open("/dev/null").unwrap();
    let mut running = cmd.spawn(Streams::Log(log)).unwrap();
    let ended = running.wait(after).unwrap().is_some();
    if !ended {
        kill(Pid::from_raw(running.id().try_into().unwrap()), Signal::SIGSTOP).unwrap();
    }
    // A thread may still be in the middle of writing, and so may a program it has started. What was read twice alike was all
    // there at one moment, the one between the two readings.
    let still = Instant::now() + Duration::from_secs(60);
    let mut content = fs::read(stick).unwrap();
    loop {
        let again = fs::read(stick).unwrap();
        if again == content {
            break;
        }
        assert!(Instant::now() < still, "the stick is written to without end");
        content = again;
    }
    let left = stick.with_extension("left");
    fs::write(&left, content).unwrap();
    drop(running);
    let patience = Instant::now() + Duration::from_secs(120);
    while !run(Cmd::new("losetup").arg("-j").arg(stick)).is_empty() {
        assert!(Instant::now() < patience, "the stick is still held");
        std::thread::sleep(Duration::from_millis(20));
    }
    (left, ended)
}

#[test]
fn an_update_writes_only_what_changed_and_keeps_identity_and_reports() {
    let Some(rig) = Rig::new() else { return };
    if !mounting() {
        return;
    }
    let stick = rig.stick("stick.img");
    let (old, old_lock) = (rig.manifest(&stick), rig.lock("default"));
    let report = rig.path("report");
    fs::write(&report, noise(5000)).unwrap();
    let write = format!("write {} /akene/reports/0123.sealed", report.display());
    run(Cmd::new("debugfs").args(["-w", "-R", &write]).arg(ext4(&stick)));
    let kept = old_lock.packages.iter().find(|p| p.name == "lvm2").unwrap().sha256;
    let before = inode(&stick, &format!("/akene/pool/{kept}"));
    let key = debugfs(&stick, "cat /akene/medium.key");

    // Nothing has changed: not a byte.
    let bytes = fs::read(&stick).unwrap();
    assert_eq!(rig.update(&stick, None).unwrap(), Updated::default());
    assert!(fs::read(&stick).unwrap() == bytes);

    rig.publish("big", 2, 400_000);
    akene_server::lock::lock(&rig.site, &SystemRunner, &Default::default(), &mut |_, _| {}, &mut |_| Ok(()))
        .unwrap();
    rig.fetched();
    let done = rig.update(&stick, None).unwrap_or_else(|e| panic!("{e:#}"));
    let lock = rig.lock("default");
    let new = lock.packages.iter().find(|p| p.name == "big").unwrap();
    let length = |path: &str| debugfs(&stick, &format!("cat /akene/{path}")).len() as u64;
    let expected = new.size.0 + length("medium.json") + length("profiles/default.lock.json");
    assert_eq!(done, Updated { added: 1, removed: 1, written: expected });
    assert_eq!(rig.fetched().len(), 1);
    is_sound(&stick);
    rig.verify(&stick).unwrap();
    let medium = rig.manifest(&stick);
    assert_eq!((medium.id, medium.key), (old.id, old.key));
    assert_eq!(debugfs(&stick, "cat /akene/medium.key"), key);
    assert_eq!(debugfs(&stick, "cat /akene/reports/0123.sealed"), fs::read(&report).unwrap());
    assert_eq!(
        inode(&stick, &format!("/akene/pool/{kept}")),
        before,
        "a package that stays was written anew"
    );
    let listed = String::from_utf8(debugfs(&stick, "ls -p /")).unwrap();
    assert!(!listed.contains("akene.next"), "{listed}");
    let pool = String::from_utf8(debugfs(&stick, "ls -p /akene/pool")).unwrap();
    assert_eq!(pool.matches("/100644/").count(), lock.packages.len(), "{pool}");

    // A new live system: its blocks alone, and it carries the same stamp.
    let mut initrd = noise(2_000_000);
    let file = File::open(&rig.iso).unwrap();
    let at = akene_image::iso9660::Iso::open(&file).unwrap().find("akene/initrd.img").unwrap().unwrap();
    file.read_exact_at(&mut initrd, at.offset).unwrap();
    initrd[1_000_000] ^= 1;
    let newer = live_system(&rig.path(""), "newer.iso", &initrd);
    let stamp_before = stamp::read(&stick).unwrap().stamp;
    let done = rig.update(&stick, Some(&newer)).unwrap_or_else(|e| panic!("{e:#}"));
    // The noise of its boot records is another, so is a block of its initrd.
    assert!(done.written < 600_000 && (done.added, done.removed) == (0, 0), "{done:?}");
    assert_eq!(stamp::read(&stick).unwrap().stamp, stamp_before);
    is_sound(&stick);
    rig.verify(&stick).unwrap();
    assert_eq!(&fs::read(&stick).unwrap()[..440], &fs::read(&newer).unwrap()[..440]);

    // One of another site, one that was lost, and what is no stick at all.
    let refusal = |stick: &Path| format!("{:#}", rig.update(stick, None).unwrap_err());
    media::set_lost(&rig.site, medium.id, true).unwrap();
    assert!(refusal(&stick).contains("medium-lost"));
    assert!(refusal(&rig.iso).contains("medium-missing"));
    let other = init(&rig.path("other"), &Options::new("https://other.example")).unwrap();
    let shop = Workshop {
        site: &other,
        runner: &SystemRunner,
        store: Store::open(&rig.path("cache")).unwrap(),
        proxy: None,
        say: &|_| {},
    };
    let error = update(&shop, &Wishes::default(), &stick, None).unwrap_err();
    assert!(format!("{error:#}").contains("medium-foreign"), "{error:#}");
}

#[test]
fn an_update_that_is_killed_leaves_the_old_content_or_the_new_one_whole() {
    let Some(rig) = Rig::new() else { return };
    if !mounting() {
        return;
    }
    let Ok(akene_image) = program("akene-image") else {
        eprintln!("SKIPPED: akene-image is not built");
        return;
    };
    let old_stick = rig.stick("old.img");
    let old = rig.manifest(&old_stick);
    rig.publish("big", 2, 30_000_000);
    rig.publish("lvm2", 2, 5_000_000);
    akene_server::lock::lock(&rig.site, &SystemRunner, &Default::default(), &mut |_, _| {}, &mut |_| Ok(()))
        .unwrap();
    let stick = rig.path("stick.img");
    let command = || {
        let cmd = Cmd::new(&akene_image).arg("offline").arg(rig.site.dir()).arg("--update").arg(&stick);
        cmd.arg("--cache").arg(rig.path("cache"))
    };
    // Once to its end: how long it takes, and everything is fetched.
    fs::copy(&old_stick, &stick).unwrap();
    run(command());
    fs::copy(&old_stick, &stick).unwrap();
    let started = Instant::now();
    run(command());
    let mut whole = started.elapsed();
    // All over its time, and beyond; how long that is changes with what else the machine does.
    let (mut olds, mut news, mut middle) = (0, 0, 0);
    for round in 0..60u32 {
        fs::copy(&old_stick, &stick).unwrap();
        let after = whole * (round % 20 * 5 + 15) / 100;
        let (left, ended) = cut(&command(), after, &stick);
        if ended {
            whole = after;
        } else if round % 20 == 19 {
            whole *= 2;
        }
        is_sound(&stick);
        // Whole, whichever it is; also before anybody has played the journal back, and after.
        rig.verify(&stick).unwrap_or_else(|e| panic!("round {round}: {e:#}"));
        match Offline::open(&left) {
            Ok(medium) => {
                let whole = medium.unwrap().verify(&rig.key());
                whole.unwrap_or_else(|e| panic!("round {round}, power cut: {e:#}"));
            }
            Err(error) => assert!(
                format!("{error:#}").contains("mounting it once mends it"),
                "round {round}: {error:#}"
            ),
        }
        play_back(&left);
        is_sound(&left);
        rig.verify(&left).unwrap_or_else(|e| panic!("round {round}, power cut, journal played back: {e:#}"));
        if rig.manifest(&stick).files == old.files {
            olds += 1
        } else {
            news += 1
        }
        let top = String::from_utf8(debugfs(&stick, "ls -p /")).unwrap();
        middle += usize::from(top.contains("/akene.next/"));
        if middle >= 5 && news >= 3 {
            break;
        }
    }
    eprintln!(
        "{whole:?}: {olds} times the old content, {news} times the new one, {middle} times in the middle"
    );
    assert!(olds > 0 && news > 0 && middle > 0, "the cuts were all before it or all after it");
    // What was cut is simply done again.
    fs::copy(&old_stick, &stick).unwrap();
    let (left, _) = cut(&command(), whole / 2, &stick);
    fs::rename(left, &stick).unwrap();
    run(command());
    rig.verify(&stick).unwrap();
    assert_ne!(rig.manifest(&stick).files, old.files);
    let listed = String::from_utf8(debugfs(&stick, "ls -p /")).unwrap();
    assert!(!listed.contains("akene.next"), "{listed}");
}

#[test]
fn a_device_is_erased_only_when_it_is_named_twice_and_not_in_use() {
    let Some(rig) = Rig::new() else { return };
    if !mounting() {
        return;
    }
    let backing = rig.path("backing");
    File::create(&backing).unwrap().set_len(300_000_256 / 512 * 512).unwrap();
    let attach = Cmd::new("losetup").args(["--find", "--show"]).arg(&backing);
    let device = PathBuf::from(run(attach));
    struct Detach<'a>(&'a Path);
    impl Drop for Detach<'_> {
        fn drop(&mut self) {
            SystemRunner.run(&Cmd::new("losetup").arg("-d").arg(self.0)).ok();
        }
    }
    let _detach = Detach(&device);
    let sum = || Sha256::of_reader(File::open(&backing).unwrap()).unwrap().0;
    let untouched = sum();
    let refused = |goal: &Goal, code: &str| {
        let error = format!("{:#}", rig.make(&Wishes::default(), goal).unwrap_err());
        assert!(error.contains(code), "{error}");
        assert_eq!(sum(), untouched, "{code}");
    };
    refused(&Goal::StickImage(device.clone(), None), "device-not-erased");
    refused(&Goal::Device(device.clone(), None), "device-is-fixed");
    refused(&Goal::Device(device.clone(), Some("/dev/null".into())), "device-is-fixed");
    let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
    let held = OpenOptions::new().read(true).custom_flags(exclusive).open(&device).unwrap();
    refused(&Goal::Device(device.clone(), Some(device.clone())), "device-in-use");
    drop(held);
    let goal = Goal::Device(device.clone(), Some(device.clone()));
    rig.make(&Wishes::default(), &goal).unwrap_or_else(|e| panic!("{e:#}"));
    is_sound(&device);
    rig.verify(&device).unwrap();
    // All of the device is used.
    let file = File::open(&device).unwrap();
    assert_eq!(table::end(&file).unwrap(), fs::metadata(&backing).unwrap().len());
    rig.publish("big", 2, 100_000);
    akene_server::lock::lock(&rig.site, &SystemRunner, &Default::default(), &mut |_, _| {}, &mut |_| Ok(()))
        .unwrap();
    assert_eq!(rig.update(&device, None).unwrap().added, 1);
    is_sound(&device);
    rig.verify(&device).unwrap();
}
