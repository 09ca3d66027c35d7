//! A computer with a system on it is installed again with little memory: the old system is whole until everything the new one
//! needs is there, whatever happens meanwhile, and only what changed comes over the network.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, Streams, SystemRunner};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::{can_run, run};
use akene_tests::faults::fill;
use akene_tests::image::{Image, Opened, let_go};
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, Outcome, install, install_by, possible};
use akene_tests::site::{SSH_KEY, USER, program, small_server};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};

/// What the second profile has and the first has not.
const MORE: &str = "hello";

/// The sum of each partition but the boot partition, and of the table before them.
fn sums(disk: &Path) -> Vec<(String, String)> {
    let table = SystemRunner.run(&Cmd::new("sfdisk").arg("-J").arg(disk)).unwrap().text();
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let mut file = fs::File::open(disk).unwrap();
    let mut sum = |from: u64, size: u64| {
        file.seek(SeekFrom::Start(from)).unwrap();
        let mut hash = Sha256::new();
        std::io::copy(&mut (&mut file).take(size), &mut hash).unwrap();
        format!("{:x}", hash.finalize())
    };
    let mut sums = vec![("table".to_owned(), sum(0, 1 << 20))];
    for partition in table["partitiontable"]["partitions"].as_array().unwrap() {
        let name = partition["name"].as_str().unwrap();
        if name != "AKENE_BOOT" {
            let number = |key: &str| partition[key].as_u64().unwrap() * 512;
            sums.push((name.to_owned(), sum(number("start"), number("size"))));
        }
    }
    sums
}

/// The packages of the boot partition.
fn cached(disk: &Path) -> Vec<String> {
    let mut image = Image::open(disk).unwrap();
    let root = image.mount_system().unwrap();
    let mut names: Vec<String> = fs::read_dir(root.join("boot/akene/packages"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The packages asked for since the last call. One that is asked for again where the line broke counts once.
fn debs(mirror: &Mirror) -> Vec<String> {
    let mut served: Vec<String> = mirror.server.take_served();
    served.retain(|path| path.ends_with(".deb"));
    served.sort();
    served.dedup();
    served
}

/// Leaves a package of an earlier lock on the boot partition, and beside it no room for any other.
fn leave_a_stale_one(disk: &Path) {
    let boot = Opened::new(disk, "AKENE_BOOT").unwrap();
    let stat = statvfs(&boot.path("akene")).unwrap();
    let free = stat.blocks_available() * stat.fragment_size();
    let stale = fs::File::create(boot.path("akene/packages/stale_1_all.deb")).unwrap();
    let size = i64::try_from(free - (200 << 20)).unwrap();
    nix::fcntl::fallocate(&stale, nix::fcntl::FallocateFlags::empty(), 0, size).unwrap();
}

#[test]
fn a_reinstall_keeps_the_old_system_until_all_is_there_and_fetches_what_changed() {
    if !possible() || !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    let mirror = Mirror::start().unwrap();
    let profile = small_server(&mirror, "127.0.0.1");
    let outcome = install(&disk, &Orders::Profile(&profile), dir.path(), &["--size", "8GiB"]).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    let fetched = debs(&mirror);
    let kept = cached(&disk);
    assert_eq!(kept.len(), fetched.len(), "not everything is kept");

    // From here on there is no room beside the disk.
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=250m", "small", small.to_str().unwrap()]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        with_little_room(&disk, &small, &mirror, &profile, kept.len());
    }));
    run("umount", &["--lazy", small.to_str().unwrap()]);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn with_little_room(disk: &Path, small: &Path, mirror: &Mirror, profile: &str, before: usize) {
    let more = profile.replace("packages = [\"dbus\", ", &format!("packages = [\"{MORE}\", \"dbus\", "));
    let again =
        || -> Outcome { install(disk, &Orders::Profile(&more), small, &["--consent", "wipe"]).unwrap() };
    let whole = sums(disk);
    leave_a_stale_one(disk);

    // The one package that is new is not to be had.
    mirror.server.fault(".deb", akene_tests::http::Fault::Missing);
    let outcome = again();
    assert!(!outcome.good);
    assert_eq!(outcome.issues()[0]["code"], "package-unreachable", "{}", outcome.story());
    assert_eq!(outcome.events_of("failed")[0]["disks-changed"], false);
    assert_eq!(sums(disk), whole, "the old system was changed");
    assert!(outcome.log.contains("which stays"), "{}", outcome.log);
    assert!(!cached(disk).contains(&"stale_1_all.deb".to_owned()), "{:?}", cached(disk));
    mirror.server.take_served();

    // The partition that stays is full before it is there.
    mirror.server.fault(".deb", akene_tests::http::Fault::Late(Duration::from_secs(25)));
    let mut full = false;
    let more_words = ["--consent", "wipe"];
    let outcome = install_by(&[], disk, &Orders::Profile(&more), small, &more_words, |process| {
        if !full && !debs(mirror).is_empty() {
            let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
            let words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            // Where it looks for packages, it only reads.
            let mut written = words.filter(|w| w[4].contains("akene-visit-") && w[5].starts_with("rw"));
            fill(process, written.next().expect("what is fetched to is mounted")[4]);
            full = true;
            mirror.server.mend();
        }
        Ok(false)
    })
    .unwrap();
    assert!(full && !outcome.good, "{}", outcome.story());
    assert_eq!(outcome.issues()[0]["code"], "no-space", "{}", outcome.story());
    assert_eq!(outcome.events_of("failed")[0]["disks-changed"], false);
    assert_eq!(sums(disk), whole, "the old system was changed");
    let start = Image::open(disk).unwrap().labelled("AKENE_BOOT").unwrap().start;
    for file in ["filler", "rest"] {
        run("debugfs", &["-w", "-R", &format!("rm {file}"), &format!("{}?offset={start}", disk.display())]);
    }
    mirror.server.take_served();

    // The power goes while it comes.
    mirror.server.fault(".deb", akene_tests::http::Fault::Stalls);
    let agent = Cmd::new(program("akene-agent").unwrap())
        .args(["install", "--yes", "--json", "--consent", "wipe", "--target-image"])
        .arg(disk)
        .arg("--profile")
        .arg(small.join("profile.toml"))
        .env("TMPDIR", small)
        .spawn(Streams::Log(fs::File::create(small.join("output")).unwrap()))
        .unwrap();
    let start = Instant::now();
    while debs(mirror).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(300), "it never began to download");
        std::thread::sleep(Duration::from_millis(100));
    }
    // It is killed at once.
    drop(agent);
    // What a machine would forget by itself.
    let_go(disk).unwrap();
    for entry in fs::read_dir(small).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        }
    }
    assert_eq!(sums(disk), whole, "the old system was changed");
    mirror.server.mend();
    mirror.server.take_served();

    // Now it comes, and nothing else does.
    let outcome = again();
    assert!(outcome.good, "{}", outcome.story());
    let fetched = debs(mirror);
    assert_eq!(fetched.len(), 1, "{fetched:?}");
    assert!(fetched[0].contains(&format!("/{MORE}_")), "{fetched:?}");
    println!("installed again in {:.0} s with one package fetched", outcome.took.as_secs_f64());
    let kept = cached(disk);
    assert_eq!(kept.len(), before + 1, "{kept:?}");
    let expected = Expected {
        user: USER.into(),
        ssh_key: SSH_KEY.into(),
        packages: ["openssh-server", "less", MORE].map(String::from).into(),
        fresh: true,
        ..Expected::default()
    };
    checks::installed(disk, &expected).unwrap();
    without_room(disk, small, &more, &expected);
}

/// Leaves so much room on the partitions that stay, and no packages.
fn crowd(disk: &Path, dir: &Path, left: u64) {
    let at = dir.join("crowded");
    fs::create_dir(&at).unwrap();
    let parts = Image::open(disk).unwrap().parts.clone();
    let stays = |name: &str| ["AKENE_BOOT", "akene-home"].contains(&name);
    let mut crowded = 0;
    for part in parts.iter().filter(|p| stays(&p.name)) {
        let options = format!("loop,offset={},sizelimit={}", part.start, part.size);
        run("mount", &["-o", &options, disk.to_str().unwrap(), at.to_str().unwrap()]);
        for packages in ["akene/packages", ".akene-packages"] {
            let there = at.join(packages);
            if there.exists() {
                fs::remove_dir_all(there).unwrap();
            }
        }
        let stat = nix::sys::statvfs::statvfs(&at).unwrap();
        let free = stat.blocks_available() * stat.fragment_size();
        run(
            "fallocate",
            &["-l", &free.saturating_sub(left).to_string(), at.join("filler").to_str().unwrap()],
        );
        run("umount", &[at.to_str().unwrap()]);
        crowded += 1;
    }
    assert_eq!(crowded, 2, "{parts:#?}");
    fs::remove_dir(at).unwrap();
}

/// Nothing holds the packages: that is said before anything is changed, and with the permission for it they are fetched when the
/// old system is gone.
fn without_room(disk: &Path, small: &Path, profile: &str, expected: &Expected) {
    crowd(disk, small, 230 << 20);
    let whole = sums(disk);
    let go =
        |consent: &str| install(disk, &Orders::Profile(profile), small, &["--consent", consent]).unwrap();
    let outcome = go("wipe");
    assert!(!outcome.good);
    assert_eq!(outcome.issues()[0]["code"], "no-room-to-stage", "{}", outcome.story());
    assert_eq!(outcome.events_of("failed")[0]["disks-changed"], false);
    assert_eq!(sums(disk), whole, "the old system was changed");
    let outcome = go("streamed");
    assert!(outcome.good, "{}", outcome.story());
    assert!(outcome.log.contains("they are fetched onto the new disk"), "{}", outcome.log);
    checks::installed(disk, expected).unwrap();
}
