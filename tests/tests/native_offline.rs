//! Installations from a medium that brings everything: with no network at all, the same system as over the network,
//! and nothing where the medium is not whole.
//!
//! What the medium is made from is kept and used again where `AKENE_OFFLINE_DIR` names a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::api::{Consent, Identity};
use akene_protocol::lock::ProfileLock;
use akene_protocol::{Envelope, PublicKey, Sha256};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::{can_run, run};
use akene_tests::image::{Image, digest, let_go};
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, Outcome, install, install_by, possible};
use akene_tests::roots;
use akene_tests::site::{SSH_KEY, Site, USER, program, small_server};
use akene_tests::stick::{HOME, Stick, replace, reports, sign, sums};
use ed25519_dalek::SigningKey;

/// What two machines with one profile never have in common, below the root: who they are, and what is made from chance.
const OWN: [&str; 19] = [
    "boot/akene",
    "boot/grub",
    "boot/initrd.img-",
    "etc/akene",
    "etc/fstab",
    // They name filesystems by their UUIDs, as fstab does.
    "etc/grub.d/01_akene",
    "etc/grub.d/42_akene",
    "etc/initramfs-tools/conf.d/resume",
    "etc/hostname",
    "etc/hosts",
    "etc/machine-id",
    "etc/ssh/ssh_host_",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/log/akene",
    // What is said during the installation, with the time.
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/cache",
    "var/lib/akene",
];

struct Place {
    dir: PathBuf,
    stick: Stick,
    stamp: PathBuf,
}

impl Place {
    /// A medium with the profile, lock and packages that a machine was installed from over the network.
    fn new(dir: &Path, from: &Path) -> Self {
        let key = akene_server::site::Site::open(&from.join("site")).unwrap().key().unwrap();
        let profile = Envelope::parse(&fs::read(from.join("default.json")).unwrap()).unwrap();
        let lock = fs::read(from.join("site/locks/default.json")).unwrap();
        let stick = Stick::new(&dir.join("stick"), &key, &profile, &lock, &from.join("packages")).unwrap();
        let stamp = dir.join("medium.stamp");
        fs::write(&stamp, serde_json::to_vec(&stick.stamp(Consent::Blank)).unwrap()).unwrap();
        Place { dir: dir.to_owned(), stick, stamp }
    }

    /// Installs with no network interface that is up, not even the loopback.
    fn install(&self, image: &Path, medium: &Path, scratch: &Path, more: &[&str]) -> Outcome {
        self.install_until(image, medium, scratch, more, |_| Ok(false))
    }

    fn install_until(
        &self,
        image: &Path,
        medium: &Path,
        scratch: &Path,
        more: &[&str],
        killed: impl FnMut(u32) -> anyhow::Result<bool>,
    ) -> Outcome {
        let alone = ["unshare".to_owned(), "--net".to_owned()];
        let more = [&["--medium", medium.to_str().unwrap()], more].concat();
        let orders = Orders::Stamp(self.stamp.clone());
        install_by(&alone, image, &orders, scratch, &more, killed).unwrap()
    }

    fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// With a scratch directory that does not hold the packages.
    fn in_little_room<T>(&self, name: &str, install: impl FnOnce(&Path) -> T) -> T {
        let scratch = self.scratch(name);
        run("mount", &["-t", "tmpfs", "-o", "size=250m", "small", scratch.to_str().unwrap()]);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| install(&scratch)));
        run("umount", &["--lazy", scratch.to_str().unwrap()]);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[test]
fn a_medium_brings_everything() {
    if !possible() || !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("AKENE_OFFLINE_DIR").map(PathBuf::from);
    let from = kept.as_deref().unwrap_or(dir.path());
    over_the_network(from);
    let place = Place::new(dir.path(), from);
    // Written before either was installed.
    let began = from.join("default.json").metadata().unwrap().modified().unwrap();
    let online = from.join("online.img");
    // Each is tried, whatever became of those before.
    let parts: [(&str, &dyn Fn()); 5] = [
        ("little room", &|| a_stick_that_cannot_be_written_and_little_room(&place)),
        ("pulled out and cut off", &|| pulled_out_and_cut_off(&place)),
        ("a full stick", &|| a_full_stick(&place)),
        ("a damaged medium", &|| nothing_from_a_damaged_medium(&place)),
        ("the same without a network", &|| the_same_without_a_network(&place, &online, began)),
    ];
    let fails = |(name, part): &(&'static str, &dyn Fn())| {
        println!("--- {name}");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(part)).is_err().then_some(*name)
    };
    let failed: Vec<&str> = parts.iter().filter_map(fails).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// A machine installed over the network from a signed lock.
fn over_the_network(dir: &Path) {
    // The agent is on the disk, too.
    let agent = Sha256::of(&fs::read(program("akene-agent").unwrap()).unwrap()).to_string();
    if fs::read_to_string(dir.join("done")).is_ok_and(|by| by == agent) {
        return;
    }
    for old in ["site", "online.img", "online"] {
        run("rm", &["-rf", dir.join(old).to_str().unwrap()]);
    }
    let mirror = Mirror::start().unwrap();
    let site = Site::new(dir, "127.0.0.1", &small_server(&mirror, "127.0.0.1")).unwrap();
    SystemRunner.run(&Cmd::new(program("akene-server").unwrap()).arg("lock").arg(&site.dir)).unwrap();
    let ours = akene_server::site::Site::open(&site.dir).unwrap();
    let key = ours.key().unwrap();
    let public = PublicKey(key.verifying_key());
    let bundle = ours.bundle(&ours.config().unwrap(), "default").unwrap();
    let signed = Envelope::sign(&bundle, &key);
    let (profile, lock) = (dir.join("default.json"), site.dir.join("locks/default.json"));
    fs::write(&profile, serde_json::to_vec(&signed).unwrap()).unwrap();

    let (online, scratch, packages) = (dir.join("online.img"), dir.join("online"), dir.join("packages"));
    fs::create_dir(&scratch).unwrap();
    let orders = Orders::Signed { profile, lock: lock.clone(), key: public.to_string() };
    let more = ["--size", "8GiB", "--packages", packages.to_str().unwrap()];
    let outcome = install(&online, &orders, &scratch, &more).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    println!("over the network in {:.1} s", outcome.took.as_secs_f64());

    fs::write(dir.join("done"), agent).unwrap();
}

fn the_same_without_a_network(place: &Place, online: &Path, began: SystemTime) {
    let (image, scratch) = (place.dir.join("offline.img"), place.scratch("offline"));
    let (beside, beside_scratch) = (place.dir.join("beside.img"), place.scratch("beside"));
    let before = sums(&place.stick.dir).unwrap();
    // Two computers at the same time.
    let install = |image, scratch| place.install(image, &place.stick.dir, scratch, &["--size", "8GiB"]);
    let (outcome, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| install(&beside, &beside_scratch));
        (install(&image, &scratch), other.join().unwrap())
    });
    for outcome in [&outcome, &other] {
        assert!(outcome.good, "{}", outcome.story());
        println!("from the medium in {:.1} s", outcome.took.as_secs_f64());
    }
    assert_eq!(sums(&place.stick.dir).unwrap(), before, "the medium was changed");
    let says =
        |text: &str| outcome.events_of("log").iter().any(|e| e["message"].as_str().unwrap().contains(text));
    assert!(says("no index is read") && says("Everything is read"), "{}", outcome.story());
    assert!(!says("the report is not on the medium"), "{}", outcome.story());
    assert!(!outcome.log.contains(place.stick.key().unwrap().expose().lines().nth(1).unwrap()));
    checks::installed(&image, &expected()).unwrap();

    // The report is everything that happened, and whose it is is who is on the disk.
    let found = reports(&place.stick.dir.join("akene/reports")).unwrap();
    assert_eq!(found.len(), 2);
    let run_of = |outcome: &Outcome| outcome.events[0]["run"].as_str().unwrap().to_owned();
    let of = |outcome: &Outcome| {
        let name = format!("{}.sealed", run_of(outcome));
        let (_, sealed) = found.iter().find(|(found, _)| *found == name).unwrap();
        (name, place.stick.open(sealed).unwrap())
    };
    let ((name, report), (_, beside_report)) = (of(&outcome), of(&other));
    assert_eq!([report.run.to_string(), beside_report.run.to_string()], [&outcome, &other].map(run_of));
    let told: Vec<serde_json::Value> =
        report.events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    // After it comes what is said of writing it.
    let (in_report, later) = outcome.events.split_at(told.len());
    assert_eq!(told, in_report, "not every event is in the report");
    let of_report = |e: &serde_json::Value| e["message"].as_str().is_some_and(|m| m.contains("eport"));
    assert!(later.len() == 2 && later.iter().all(of_report), "{later:#?}");
    assert_eq!(told.last().unwrap()["type"], "installed");
    assert_eq!((report.association, report.labelled), (None, false));
    assert!(told.iter().any(|event| event["type"] == "planned"));
    assert!(report.log.unwrap().contains("permits it"));
    let mut disk = Image::open(&image).unwrap();
    let root = disk.mount_system().unwrap();
    let on_disk: Identity =
        serde_json::from_slice(&fs::read(root.join("boot/akene/identity.json")).unwrap()).unwrap();
    assert_eq!(report.identity, on_disk);
    let kept = fs::read(root.join(format!("boot/akene/reports/{name}"))).unwrap();
    let kept = place.stick.open(&kept).unwrap();
    assert_eq!((&kept.events[..told.len()], kept.identity), (&report.events[..], on_disk));
    // The other one is another computer, and its own.
    checks::installed(&beside, &expected()).unwrap();
    let mut disk_beside = Image::open(&beside).unwrap();
    let root_beside = disk_beside.mount_system().unwrap();
    let who: Identity =
        serde_json::from_slice(&fs::read(root_beside.join("boot/akene/identity.json")).unwrap()).unwrap();
    assert_eq!(beside_report.identity, who);
    assert!(who.machine != report.identity.machine && who.asset != report.identity.asset);
    // It knows whom to tell.
    let config = fs::read_to_string(root.join("etc/akene/agent.json")).unwrap();
    assert!(config.contains(HOME), "{config}");

    let mut other = Image::open(online).unwrap();
    let reference = other.mount_system().unwrap();
    let comparison = roots::compare(&reference, &root, began).unwrap();
    let own = |path: &Path| OWN.iter().any(|own| path.to_str().unwrap().starts_with(own));
    let differences: Vec<String> =
        comparison.differences.iter().filter(|d| !own(&d.path)).map(ToString::to_string).collect();
    println!("{} names compared, {} own to each", comparison.names, comparison.differences.len());
    assert!(comparison.names > 3000 && differences.is_empty(), "{differences:#?}");
}

fn expected() -> Expected {
    Expected {
        user: USER.into(),
        ssh_key: SSH_KEY.into(),
        packages: ["openssh-server", "less", "grub-common"].map(String::from).into(),
        fresh: true,
        ..Expected::default()
    }
}

/// The package that a computer gets first, by its sum.
fn a_package(place: &Place) -> Sha256 {
    let text = fs::read(place.stick.dir.join("akene/profiles/default.lock.json")).unwrap();
    let key = place.stick.stamp(Consent::Blank).site_key;
    let lock: ProfileLock = Envelope::parse(&text).unwrap().open(&key).unwrap();
    lock.packages.iter().find(|p| p.name == "libc6").unwrap().sha256
}

fn nothing_from_a_damaged_medium(place: &Place) {
    let image = akene_tests::vm::blank_disk(&place.dir.join("refused.img"), 8 << 30).unwrap();
    let blank = digest(&image).unwrap();
    let scratch = place.scratch("refused");
    let package = format!("pool/{}", a_package(place));
    let stranger = SigningKey::from_bytes(&[99; 32]);
    let flip = |text: &mut Vec<u8>| {
        let at = text.len() / 2;
        text[at] ^= 4;
    };
    let cut = |text: &mut Vec<u8>| text.truncate(text.len() / 2);
    type Harm<'a> = Box<dyn Fn(&Path) + 'a>;
    let change = |name: &str, how: &dyn Fn(&mut Vec<u8>)| -> Harm<'_> {
        let name = name.to_owned();
        let mut text = fs::read(place.stick.dir.join("akene").join(&name)).unwrap();
        how(&mut text);
        Box::new(move |dir| replace(&dir.join("akene").join(&name), &text).unwrap())
    };
    let remove = |name: &str| -> Harm<'_> {
        let name = name.to_owned();
        Box::new(move |dir| fs::remove_file(dir.join("akene").join(&name)).unwrap())
    };
    let (lock, profile) = ("profiles/default.lock.json", "profiles/default.json");
    let cases: Vec<(&str, Harm<'_>, &str, &str)> = vec![
        ("a bit of the manifest", change("medium.json", &flip), "medium-damaged", "medium.json"),
        ("half a manifest", change("medium.json", &cut), "medium-damaged", "medium.json"),
        ("no manifest", remove("medium.json"), "medium-missing", ""),
        (
            "another site's manifest",
            Box::new(|dir| sign(dir, &place.stick.manifest, &stranger).unwrap()),
            "medium-foreign",
            "",
        ),
        ("a bit of the lock", change(lock, &flip), "medium-damaged", lock),
        ("half a lock", change(lock, &cut), "medium-damaged", lock),
        ("no lock", remove(lock), "medium-damaged", lock),
        ("a bit of the profile", change(profile, &flip), "medium-damaged", profile),
        ("a bit of the key", change("medium.key", &flip), "medium-damaged", "medium.key"),
        ("a bit of a package", change(&package, &flip), "medium-damaged", &package),
        ("half a package", change(&package, &cut), "medium-damaged", &package),
        ("no package", remove(&package), "medium-damaged", &package),
    ];
    for (n, (what, harm, code, path)) in cases.iter().enumerate() {
        let medium = place.stick.copy(&place.dir.join(format!("damaged-{n}"))).unwrap();
        harm(&medium);
        let outcome = place.install(&image, &medium, &scratch, &[]);
        refused(&outcome, what, code, path);
        assert_eq!(digest(&image).unwrap(), blank, "{what}: the disk was changed");
        fs::remove_dir_all(&medium).unwrap();
    }

    // The end of a stick is missing.
    let stick = place.stick.image(&place.dir.join("cut.img"), 0).unwrap();
    let file = fs::File::options().write(true).open(&stick).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    refused(&place.install(&image, &stick, &scratch, &[]), "half a stick", "medium-damaged", "/dev/loop");
    assert_eq!(digest(&image).unwrap(), blank, "the disk was changed");
    fs::remove_file(stick).unwrap();
}

fn refused(outcome: &Outcome, what: &str, code: &str, path: &str) {
    assert!(!outcome.good, "{what}: {}", outcome.story());
    let failed = outcome.events_of("failed");
    assert_eq!(failed.len(), 1, "{what}: {}", outcome.story());
    assert_eq!(failed[0]["disks-changed"], false, "{what}");
    let issues = outcome.issues();
    let first = |key: &str| issues[0][key].as_str().unwrap_or_default().to_owned();
    assert_eq!((issues.len(), first("code")), (1, code.to_owned()), "{what}: {}", outcome.story());
    assert!(first("path").starts_with(path), "{what}: it names {}", first("path"));
}

/// The stick is written nowhere, and packages fit only onto the new disk: all of them are read before it is made.
fn a_stick_that_cannot_be_written_and_little_room(place: &Place) {
    let stick = place.stick.image(&place.dir.join("read-only.img"), 16 << 20).unwrap();
    run("tune2fs", &["-O", "read-only", stick.to_str().unwrap()]);
    let before = digest(&stick).unwrap();
    let image = place.dir.join("small.img");
    let outcome =
        place.in_little_room("small", |scratch| place.install(&image, &stick, scratch, &["--size", "8GiB"]));
    assert!(outcome.good, "{}", outcome.story());
    let at = |what: &dyn Fn(&serde_json::Value) -> bool| {
        outcome.events.iter().position(what).unwrap_or_else(|| panic!("{}", outcome.story()))
    };
    let says = |text: &'static str| at(&|e| e["message"].as_str().is_some_and(|m| m.contains(text)));
    let begins = |phase: &'static str| at(&|e| e["type"] == "phase-started" && e["phase"] == phase);
    assert!(says("onto the new disk") < says("DO NOT PULL THE STICK OUT"));
    assert!(says("DO NOT PULL THE STICK OUT") < begins("commit"));
    assert!(begins("commit") < says("Everything is read") && says("Everything is read") < begins("install"));
    assert!(says("the report is not on the medium") < says("The report is not on the stick"));
    assert_eq!(digest(&stick).unwrap(), before, "the stick was changed");
    let mut disk = Image::open(&image).unwrap();
    let root = disk.mount_system().unwrap();
    let kept = reports(&root.join("boot/akene/reports")).unwrap();
    let report = place.stick.open(&kept[0].1).unwrap();
    // What it says of the stick is in it, too.
    let told = serde_json::to_string(&report.events).unwrap();
    assert!(told.contains("the report is not on the medium") && told.contains("\"installed\""));
    drop(disk);
    fs::remove_file(image).unwrap();
    fs::remove_file(stick).unwrap();
}

fn a_full_stick(place: &Place) {
    let stick = place.stick.image(&place.dir.join("full.img"), 0).unwrap();
    let at = place.scratch("full-stick");
    run("mount", &["-o", "loop", stick.to_str().unwrap(), at.to_str().unwrap()]);
    let free = run("df", &["--output=avail", "-B1", at.to_str().unwrap()]);
    let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
    // The directory of reports has a block already.
    fs::write(at.join("filler"), vec![7; free as usize]).unwrap();
    run("umount", &[at.to_str().unwrap()]);
    let (image, scratch) = (place.dir.join("beside-full.img"), place.scratch("full"));
    let outcome = place.install(&image, &stick, &scratch, &["--size", "8GiB"]);
    assert!(outcome.good, "{}", outcome.story());
    let says =
        |text: &str| outcome.events_of("log").iter().any(|e| e["message"].as_str().unwrap().contains(text));
    assert!(says("the report is not on the medium") && says("No space left"), "{}", outcome.story());
    run("e2fsck", &["-f", "-n", stick.to_str().unwrap()]);
    run("mount", &["-o", "loop,ro", stick.to_str().unwrap(), at.to_str().unwrap()]);
    let left = reports(&at.join("akene/reports"));
    run("umount", &[at.to_str().unwrap()]);
    assert!(left.unwrap().is_empty(), "half a report is left");
    fs::remove_file(image).unwrap();
    fs::remove_file(stick).unwrap();
}

/// The medium is pulled out while it is read, before the disks change and, although the screen says not to, afterwards; each time it
/// is waited for and put back. Then the power goes; then it goes on, as the same machine.
fn pulled_out_and_cut_off(place: &Place) {
    let medium = place.stick.copy(&place.dir.join("pulled")).unwrap();
    for (name, _) in reports(&medium.join("akene/reports")).unwrap() {
        fs::remove_file(medium.join("akene/reports").join(name)).unwrap();
    }
    let image = place.dir.join("cut-off.img");
    let (plugged, away) = (medium.join("akene"), medium.join("away"));
    let mut moments = ["\"planned\"", "\"phase\":\"commit\""].into_iter().peekable();
    // How long the log was when it was pulled out.
    let mut pulled = None;
    let outcome = place.in_little_room("cut-off", |scratch| {
        let read = |name: &str| fs::read_to_string(scratch.join(name)).unwrap_or_default();
        place.install_until(&image, &medium, scratch, &["--size", "8GiB"], |_| {
            let (log, output) = (read("agent.log"), read("agent.output"));
            if let Some(at) = pulled {
                if log.get(at..).is_some_and(|since| since.contains("medium-pulled")) {
                    fs::rename(&away, &plugged).unwrap();
                    pulled = None;
                }
            } else if moments.next_if(|moment| output.contains(moment)).is_some() {
                fs::rename(&plugged, &away).unwrap();
                pulled = Some(log.len());
            }
            Ok(output.contains("\"phase\":\"configure\""))
        })
    });
    assert!(moments.next().is_none() && pulled.is_none() && !outcome.good, "{}", outcome.story());
    let_go(&image).unwrap();

    let again = place.scratch("again");
    let outcome = place.install(&image, &medium, &again, &["--resume"]);
    assert!(outcome.good, "{}", outcome.story());
    checks::installed(&image, &Expected { fresh: false, ..expected() }).unwrap();
    let mut disk = Image::open(&image).unwrap();
    let root = disk.mount_system().unwrap();
    let on_disk: Identity =
        serde_json::from_slice(&fs::read(root.join("boot/akene/identity.json")).unwrap()).unwrap();
    let (kept, brought) = (root.join("boot/akene/reports"), medium.join("akene/reports"));
    for dir in [kept, brought] {
        let told: Vec<_> =
            reports(&dir).unwrap().iter().map(|(_, sealed)| place.stick.open(sealed).unwrap()).collect();
        assert!(told.iter().all(|report| report.identity == on_disk), "{}", dir.display());
        let ended = |report: &akene_protocol::report::Report| {
            report.events.iter().any(|e| e.kind == akene_protocol::EventKind::Installed)
        };
        assert_eq!(told.iter().filter(|report| ended(report)).count(), 1, "{}", dir.display());
    }
}
