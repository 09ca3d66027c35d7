//! Roots made by our engine against roots made by mmdebstrap, apt and dpkg from the same packages.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use akene_exec::{ChrootMounts, Cmd, Runner, SystemRunner};
use akene_tests::disks::{can_run, has};
use akene_tests::mirror::{Mirror, Ubuntu, cache_dir};
use akene_tests::reference::{self, Archive, Set};
use akene_tests::roots::{Comparison, compare};
use akene_tests::standin::{self, Standin};
use akene_tests::{crafted, sets};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

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
        eprintln!("SKIPPED: takes minutes; scripts/test --full has it");
    }
    full
}

fn put_before(root: &Path, before: &[(&str, &str)]) {
    for (path, text) in before {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Both roots of a set, compared.
fn both(set: &Set, dir: &Path, recommends: bool, before: &[(&str, &str)]) -> Comparison {
    let local = set.serve().unwrap();
    // The clock of files is a tick behind.
    let since = SystemTime::now() - Duration::from_secs(2);
    let (theirs, mine, tools) = (dir.join("theirs"), dir.join("mine"), dir.join("tools"));
    let (started, pool) = (Instant::now(), set.pool());
    put_before(&mine, before);
    std::fs::create_dir_all(&mine).unwrap();
    std::fs::create_dir(&tools).unwrap();
    let made = akene_lay::make(&set.debs(&pool), &mine, &tools).unwrap_or_else(|e| panic!("{e:#}"));
    let kernels = mine.join("boot").read_dir().unwrap().count() > 0;
    assert_eq!(made.early, kernels, "the initramfs was not made early: {:?}", made.again);
    eprintln!("our engine: {} packages, {:.1} s", set.len(), started.elapsed().as_secs_f64());
    made.left.iter().for_each(|line| eprintln!("{line}"));
    // The links of a merged /usr, diverted or not, are nothing that only dpkg knows.
    let torn = made.left.iter().filter(|line| line.contains("is a directory for one package"));
    let torn: Vec<&str> = torn.filter_map(|line| line.split(' ').next()).collect();
    assert!(torn.iter().all(|name| ["crafted-alias", "crafted-through"].contains(name)), "{torn:?}");
    assert_eq!(repeated(&mine), [""; 0], "what others leave to a package is done once");
    let started = Instant::now();
    reference::make(set, &local, recommends, before, &theirs).unwrap_or_else(|e| panic!("{e:#}"));
    eprintln!("mmdebstrap: {} packages, {:.1} s", set.len(), started.elapsed().as_secs_f64());
    let comparison = compare(&theirs, &mine, since).unwrap();
    eprintln!("{comparison}");
    let (first, second) = (initramfs(&theirs), initramfs(&mine));
    let differ = first.lines().zip(second.lines()).find(|(one, other)| one != other);
    assert!(first == second, "the initramfs holds other things: {differ:?}");
    for (program, args) in [("dpkg", ["--audit"].as_slice()), ("apt-get", &["check", "-qq"])] {
        assert_eq!(inside(&mine, program, args), "", "{program} {args:?}");
    }
    // It complains of what an administrator has put there, and of a link for a conffile.
    assert_eq!(inside(&mine, "dpkg", &["-V"]), inside(&theirs, "dpkg", &["-V"]));
    comparison
}

/// Packages that did more than once what others had left for them: the manual's index, the linker's cache, menus, icons.
fn repeated(root: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(root.join("var/log/dpkg.log")).unwrap();
    let mut did: Vec<&str> =
        log.lines().filter_map(|l| l.split_once(" trigproc ")?.1.split(' ').next()).collect();
    assert!(!did.is_empty(), "nothing was left to anybody");
    did.sort();
    // The linker's cache is made for the base, too: what its scripts run is found by it.
    let most = |name: &str| if name.starts_with("libc-bin") { 2 } else { 1 };
    let twice = did.chunk_by(|a, b| a == b).filter(|same| same.len() > most(same[0]));
    twice.map(|same| format!("{} {} times", same[0], same.len())).collect()
}

fn inside(root: &Path, program: &str, args: &[&str]) -> String {
    let cmd = Cmd::new(program).args(args).chroot(ChrootMounts::new(root));
    // `dpkg -V` fails where it finds something, and then has said what.
    match SystemRunner.run(&cmd) {
        Ok(output) => output.text(),
        Err(error) => match error.downcast::<akene_exec::ExecError>() {
            Ok(failed) if program == "dpkg" => failed.output.text(),
            Ok(failed) => panic!("{failed:?}"),
            Err(error) => panic!("{error:#}"),
        },
    }
}

/// What is in each initramfs: names, modes, owners, links, and the sums of files. The caches of fonts have the times of
/// directories in them, and numbers of users follow from the order in which packages make them.
fn initramfs(root: &Path) -> String {
    let list = "for i in /boot/initrd.img-*; do test -e $i || continue; echo $i; \
                unmkinitramfs $i /run/${i##*/}; cd /run/${i##*/}; find . -printf '%p %y %m %U %G %l\\n' | sort; \
                find . -type f ! -path '*/var/cache/fontconfig/*' ! -path '*/etc/passwd' ! -path '*/etc/group' -exec sha256sum {} + | sort -k2; done";
    inside(root, "sh", &["-e", "-c", list])
}

fn debian(suite: &str, requested: &[&str], recommends: bool) {
    let Some(mirror) = mirror() else { return };
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let archive = Archive::debian(&mirror, suite);
    let set = reference::choose(dir.path(), &archive, requested, recommends).unwrap();
    let comparison = both(&set, dir.path(), recommends, &[]);
    assert_eq!(comparison.differences, [], "{comparison}");
}

#[test]
fn bookworm() {
    debian("bookworm", sets::SERVER, false);
}

#[test]
fn trixie() {
    debian("trixie", sets::SERVER, false);
}

#[test]
fn trixie_with_a_desktop() {
    if full() {
        debian("trixie", sets::DESKTOP, true);
    }
}

#[test]
fn the_ubuntu_stand_in() {
    let Some(mirror) = mirror() else { return };
    let standin = Standin::start(&mirror).unwrap();
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let key = dir.path().join("archive.asc");
    std::fs::write(&key, &standin.key).unwrap();
    let archive = Archive::ubuntu(&standin.url(), &key, standin::SUITE);
    let set = reference::choose(dir.path(), &archive, sets::STANDIN, false).unwrap();
    let comparison = both(&set, dir.path(), false, &[]);
    assert_eq!(comparison.differences, [], "{comparison}");
}

/// Ubuntu itself, where its archive can be reached.
fn ubuntu_itself(requested: &[&str], recommends: bool) {
    if !full() || mirror().is_none() {
        return;
    }
    let Some(ubuntu) = Ubuntu::start().unwrap() else { return };
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let archive = Archive::ubuntu(&ubuntu.url(), &ubuntu.keyring, "noble");
    let set = reference::choose(dir.path(), &archive, requested, recommends).unwrap();
    let comparison = both(&set, dir.path(), recommends, &[]);
    assert_eq!(comparison.differences, [], "{comparison}");
}

#[test]
fn ubuntu() {
    ubuntu_itself(sets::STANDIN, false);
}

#[test]
fn ubuntu_with_a_desktop() {
    ubuntu_itself(sets::UBUNTU_DESKTOP, true);
}

#[test]
fn packages_that_hand_made_installers_get_wrong() {
    let Some(mirror) = mirror() else { return };
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let archive = Archive::debian(&mirror, "trixie");
    let mut set = reference::choose(dir.path(), &archive, crafted::NEEDS, false).unwrap();
    let made = dir.path().join("crafted");
    std::fs::create_dir(&made).unwrap();
    set.add(crafted::build(&made).unwrap());
    let comparison = both(&set, dir.path(), false, crafted::BEFORE);
    assert_eq!(comparison.differences, [], "{comparison}");
}

/// The same lock is the same system, also in what no other maker's root could tell: numbers of users.
#[test]
fn one_processor_makes_what_several_make() {
    let Some(mirror) = mirror() else { return };
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let archive = Archive::debian(&mirror, "trixie");
    let more: &[&str] = if full() { sets::SERVER } else { &[] };
    let requested = [crafted::NEEDS, more].concat();
    let mut set = reference::choose(dir.path(), &archive, &requested, false).unwrap();
    let made = dir.path().join("crafted");
    std::fs::create_dir(&made).unwrap();
    set.add(crafted::build(&made).unwrap());
    let _local = set.serve().unwrap();
    let since = SystemTime::now() - Duration::from_secs(2);
    let pool = set.pool();
    let make = |name: &str| {
        let (root, tools) = (dir.path().join(name), dir.path().join(format!("{name}-tools")));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&tools).unwrap();
        akene_lay::make(&set.debs(&pool), &root, &tools).unwrap_or_else(|e| panic!("{e:#}"));
        root
    };
    let alone = std::thread::scope(|scope| {
        let alone = scope.spawn(|| {
            let (this, mut first) = (Pid::from_raw(0), CpuSet::new());
            let ours = sched_getaffinity(this).unwrap();
            first.set((0..CpuSet::count()).find(|cpu| ours.is_set(*cpu).unwrap()).unwrap()).unwrap();
            sched_setaffinity(this, &first).unwrap();
            assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            make("alone")
        });
        alone.join().unwrap()
    });
    assert!(std::thread::available_parallelism().unwrap().get() > 1, "this machine has one processor");
    let several = make("several");
    let comparison = compare(&alone, &several, since).unwrap();
    assert_eq!(comparison.differences, [], "{comparison}");
    for file in ["etc/passwd", "etc/group", "var/lib/dpkg/status", "var/lib/dpkg/triggers/File"] {
        let read = |root: &Path| std::fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(read(&alone), read(&several), "{file}");
    }
}

/// Otherwise a difference would say nothing.
#[test]
fn the_reference_is_the_same_twice() {
    let Some(mirror) = mirror().filter(|_| full()) else { return };
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let archive = Archive::debian(&mirror, "trixie");
    let set = reference::choose(dir.path(), &archive, sets::SERVER, false).unwrap();
    let local = set.serve().unwrap();
    // The clock of files is a tick behind.
    let since = SystemTime::now() - Duration::from_secs(2);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for root in [&one, &two] {
        reference::make(&set, &local, false, &[], root).unwrap_or_else(|e| panic!("{e:#}"));
    }
    let comparison = compare(&one, &two, since).unwrap();
    assert_eq!(comparison.differences, [], "{comparison}");
}
