//! Signed locks: made by the programs, refused where they are not the site's own, and enough to install from when
//! no index is to be had.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::lock::{Lock, ProfileLock};
use akene_protocol::{Envelope, PublicKey, Sha256};
use akene_tests::http::Fault;
use akene_tests::image::{Image, version_of};
use akene_tests::mirror::{Mirror, cache_dir};
use akene_tests::native::{Orders, Outcome, install, possible};
use akene_tests::repository::{self, Key, Says};
use akene_tests::site::{Site, program, small_server};

/// `akene-server lock` or `akene-image lock`: how it ended, and all it said.
fn lock(by: &str, site: &Site, more: &[&str]) -> Result<String, String> {
    let cmd = Cmd::new(program(by).unwrap()).arg("lock").arg(&site.dir).args(more);
    SystemRunner.run(&cmd).map(|output| output.text()).map_err(|error| format!("{error:#}"))
}

/// A disk image that is there already, so that a refusal can be seen not to have touched it.
fn blank(dir: &Path) -> std::path::PathBuf {
    akene_tests::vm::blank_disk(&dir.join("refused.img"), 8 << 30).unwrap()
}

/// The same packages, by releases that were made and ran out earlier.
fn made_earlier(lock: &ProfileLock, days: i64) -> ProfileLock {
    let mut lock = lock.clone();
    let by = jiff::SignedDuration::from_hours(days * 24);
    for release in &mut lock.releases {
        release.date = release.date.map(|date| date - by);
        release.valid_until = release.date.map(|date| date + jiff::SignedDuration::from_hours(1));
    }
    lock
}

/// A vendor's archive with one package in its first version, and the key it is signed with.
fn vendor() -> Option<(repository::Site, Key)> {
    let (site, key) = (repository::Site::new()?, Key::new("rsa2048"));
    publish(&site, &key, "1.0");
    Some((site, key))
}

/// Adds a version of the package. Earlier ones stay where they are.
fn publish(site: &repository::Site, key: &Key, version: &str) {
    let control = format!("Package: greeting\nVersion: {version}\nArchitecture: all\n");
    site.packages("vendor", &[&control]);
    site.sign("vendor", key, &Says::default(), &[]);
}

fn tells(outcome: &Outcome, code: &str) {
    let codes: Vec<_> = outcome.issues().iter().map(|i| i["code"].as_str().unwrap().to_owned()).collect();
    assert!(!outcome.good && codes == [code], "expected {code}, found {codes:?}: {}", outcome.story());
    assert_eq!(outcome.events_of("failed")[0]["disks-changed"], false);
}

#[test]
fn a_machine_is_installed_from_the_signed_lock_when_no_index_is_to_be_had() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::start().unwrap();
    let Some((vendor, key)) = vendor() else { return };
    let source = format!(
        "[apt.sources.vendor]\nuri = \"{}\"\nsuites = [\"stable\"]\ncomponents = [\"main\"]\nkey = \"\"\"\n{}\"\"\"\n",
        vendor.url("vendor"),
        key.armoured()
    );
    let server = small_server(&mirror, "127.0.0.1");
    let asked = server.replace("\"less\"", "\"less\", \"greeting\"");
    let profile = format!("classes = [\"own\"]\n{asked}\n{source}\n[storage]\nkeep-homes = false\n");
    let mut site = Site::new(dir.path(), "127.0.0.1", &server).unwrap();
    // A package that no archive has, beside a class.
    let beside = site.dir.join("classes/own/packages");
    std::fs::create_dir_all(&beside).unwrap();
    std::fs::write(site.dir.join("classes/own/class.toml"), "description = \"Ours\"\n").unwrap();
    let control = "Package: site-own\nVersion: 1:2.0~x\nArchitecture: all\nDepends: less\n";
    let own = akene_tests::deb::make(&beside, control, &[("usr/share/site-own/mark", vec![7; 999])]).unwrap();
    site.write_profile(&profile).unwrap();

    // Made by one program, found right by the other, and the same to the byte when made again from nothing.
    let failed = lock("akene-server", &site, &["--check"]).unwrap_err();
    assert!(failed.contains("status: 1"), "a missing lock is found to be right: {failed}");
    let file = site.dir.join("locks/default.json");
    assert!(!file.exists(), "--check wrote a lock");
    mirror.server.take_served();
    let began = Instant::now();
    let said = lock("akene-server", &site, &["default"]).unwrap();
    println!("locked in {:.1} s: {said}", began.elapsed().as_secs_f64());
    assert!(said.contains("default: 4 kinds of machines") && said.contains("the first lock"), "{said}");
    let first = std::fs::read(&file).unwrap();
    publish(&vendor, &key, "2.0");
    let said = lock("akene-server", &site, &[]).unwrap();
    assert!(said.contains("greeting"), "{said}");
    let text = std::fs::read(&file).unwrap();
    std::fs::remove_dir_all(site.dir.join("state/apt")).unwrap();
    let again = lock("akene-server", &site, &[]).unwrap();
    assert!(again.contains("nothing has changed"), "{again}");
    assert_eq!(std::fs::read(&file).unwrap(), text);
    lock("akene-image", &site, &["--check"]).unwrap();
    let envelope = Envelope::parse(&text).unwrap();
    let stamp: akene_protocol::Stamp = serde_json::from_slice(&std::fs::read(site.stamp()).unwrap()).unwrap();
    let key: PublicKey = stamp.site_key;
    let signed: ProfileLock = envelope.open(&key).unwrap();
    let first: ProfileLock = Envelope::parse(&first).unwrap().open(&key).unwrap();
    let version =
        |lock: &ProfileLock| lock.packages.iter().find(|p| p.name == "greeting").unwrap().version.clone();
    assert_eq!((version(&first).as_str(), version(&signed).as_str()), ("1.0", "2.0"));
    println!("{} bytes of signed lock, {} packages", text.len(), signed.packages.len());

    // From now on the mirror has packages and no indexes.
    let indexes: Vec<String> =
        mirror.server.take_served().into_iter().filter(|path| path.contains("/dists/")).collect();
    assert!(!indexes.is_empty());
    let size = |path: &String| {
        let file = cache_dir().unwrap().join("mirror").join(path.trim_start_matches('/'));
        file.metadata().map_or(0, |m| m.len())
    };
    let each: BTreeSet<&String> = indexes.iter().collect();
    println!("{} bytes of indexes are not fetched", each.iter().map(|p| size(p)).sum::<u64>());
    let without_indexes = || {
        mirror.server.mend();
        indexes.iter().for_each(|path| mirror.server.fault(path, Fault::Missing));
    };
    without_indexes();
    site.start().unwrap();

    // What is not the site's own lock of this profile is refused, and nothing is written.
    let refused = blank(dir.path());
    let packages = cache_dir().unwrap().join("packages");
    let kept = ["--packages", packages.to_str().unwrap()];
    let run = |image: &Path, more: &[&str]| {
        let more = [&kept, more].concat();
        install(image, &Orders::Stamp(site.stamp()), dir.path(), &more).unwrap()
    };
    let required = profile.replace("[apt]\n", "[apt]\nlock = \"required\"\n");
    site.write_profile(&required).unwrap();
    let mut changed = envelope.clone();
    let at = changed.payload.len() / 2;
    let other = if &changed.payload[at..=at] == "A" { "B" } else { "A" };
    changed.payload.replace_range(at..=at, other);
    std::fs::write(&file, serde_json::to_vec(&changed).unwrap()).unwrap();
    tells(&run(&refused, &[]), "signature-wrong");
    std::fs::create_dir(dir.path().join("stranger")).unwrap();
    let strangers = Site::new(&dir.path().join("stranger"), "127.0.0.1", &server).unwrap();
    let theirs = akene_server::site::Site::open(&strangers.dir).unwrap();
    std::fs::copy(theirs.write_lock(&signed).unwrap(), &file).unwrap();
    tells(&run(&refused, &[]), "signature-wrong");
    let export = Cmd::new(program("akene-server").unwrap()).args(["profile", "export"]).arg(&site.dir);
    SystemRunner.run(&export.args(["default", "--output"]).arg(&file)).unwrap();
    tells(&run(&refused, &[]), "document-wrong");
    let ours = akene_server::site::Site::open(&site.dir).unwrap();
    let of_kiosk = ours.write_lock(&ProfileLock { profile: "kiosk".into(), ..signed.clone() }).unwrap();
    std::fs::rename(of_kiosk, &file).unwrap();
    tells(&run(&refused, &[]), "lock-of-another-profile");
    let of_elsewhere = ours.write_lock(&ProfileLock { site: "elsewhere".into(), ..signed.clone() }).unwrap();
    assert_eq!(of_elsewhere, file);
    tells(&run(&refused, &[]), "lock-of-another-site");
    // An old one is used, and it is said; one older than the profile permits is not.
    ours.write_lock(&made_earlier(&signed, 100)).unwrap();
    site.write_profile(&required.replace("[apt]\n", "[apt]\nlock-days = 99\n")).unwrap();
    tells(&run(&refused, &[]), "lock-too-old");
    std::fs::remove_file(&file).unwrap();
    site.write_profile(&required).unwrap();
    tells(&run(&refused, &[]), "lock-missing");
    std::fs::write(&file, &text).unwrap();
    site.write_profile(&required.replace("[\"main\"]", "[\"main\", \"contrib\"]")).unwrap();
    tells(&run(&refused, &[]), "lock-of-other-archives");
    // A newer one beside the class was not locked.
    site.write_profile(&required).unwrap();
    let locked_file = std::fs::read(&own).unwrap();
    std::fs::remove_file(&own).unwrap();
    let newer = akene_tests::deb::make(&beside, &control.replace("2.0", "2.1"), &[]).unwrap();
    let outcome = run(&refused, &[]);
    tells(&outcome, "lock-of-other-archives");
    assert!(outcome.story().contains("`apt.local` has changed"), "{}", outcome.story());
    std::fs::remove_file(newer).unwrap();
    std::fs::write(&own, locked_file).unwrap();
    site.write_profile(&required.replace("\"less\"", "\"less\", \"nano\"")).unwrap();
    tells(&run(&refused, &[]), "lock-without-selection");
    // The archive has deleted what newer versions replaced: known before a disk changes. Who may choose for
    // themselves then do, as far as there are indexes.
    let less = signed.packages.iter().find(|p| p.name == "less").unwrap();
    mirror.server.fault(&less.path.rsplit('/').next().unwrap().replace("%7e", "~"), Fault::Missing);
    site.write_profile(&required).unwrap();
    tells(&run(&refused, &[]), "lock-outdated");
    site.write_profile(&profile).unwrap();
    let chooses = run(&refused, &[]);
    assert!(!chooses.good && chooses.log.contains("less"), "{}", chooses.story());
    assert!(chooses.log.contains("the packages are chosen here"), "{}", chooses.log);
    without_indexes();
    mirror.server.take_served();
    let empty = SystemRunner.run(&Cmd::new("blkid").args(["-p"]).arg(&refused));
    assert!(empty.is_err(), "a refused installation wrote to the disk");
    // A setting that changes no package needs no new lock.
    site.write_profile(&format!("shutdown = \"poweroff\"\n{required}")).unwrap();

    let image = dir.path().join("disk.img");
    let outcome = run(&image, &["--size", "8GiB"]);
    assert!(outcome.good, "{}", outcome.story());
    println!("installed from the lock in {:.1} s", outcome.took.as_secs_f64());
    assert!(outcome.log.contains("packages by the signed lock"), "{}", outcome.log);
    let asked: Vec<String> = mirror.server.take_served();
    assert!(!asked.iter().any(|path| path.contains("/dists/")), "an index was asked for: {asked:?}");

    assert_eq!(version_of("greeting", &image).unwrap(), "2.0");

    // Somebody gives out the lock of last week: the computer knows of the newer one it was installed from.
    let before = akene_tests::image::digest(&image).unwrap();
    let older = made_earlier(&first, 7);
    ours.write_lock(&older).unwrap();
    let allow = || site.machines().unwrap().iter().for_each(|machine| site.allow_wipe(machine).unwrap());
    allow();
    tells(&run(&image, &[]), "lock-downgrade");
    assert_eq!(akene_tests::image::digest(&image).unwrap(), before, "the disk was changed");
    // On purpose. One of its packages is in no archive any more, but on this computer.
    mirror.server.fault(&less.path.rsplit('/').next().unwrap().replace("%7e", "~"), Fault::Missing);
    site.write_profile(&required.replace("[apt]\n", "[apt]\nlock-older = true\n")).unwrap();
    allow();
    let outcome = run(&image, &[]);
    assert!(outcome.good, "{}", outcome.story());
    assert!(outcome.log.contains("the profile permits it"), "{}", outcome.log);
    assert!(outcome.log.contains("[lock-expired]") || outcome.log.contains("[lock-old]"), "{}", outcome.log);
    let envelope = Envelope::parse(&std::fs::read(&file).unwrap()).unwrap();

    // Exactly the locked packages, as dpkg of this host reads them: the versions of that lock, not the archive's newest.
    assert_eq!(version_of("greeting", &image).unwrap(), "1.0");
    let mut image = Image::open(&image).unwrap();
    let root = image.mount_system().unwrap();
    let read = |name: &str| std::fs::read(root.join("boot/akene").join(name)).unwrap();
    let kept: Lock = Lock::parse(&read("lock.json")).unwrap();
    assert_eq!(Envelope::parse(&read("signed-lock.json")).unwrap(), envelope);
    let query = Cmd::new("dpkg-query").arg("--admindir").arg(root.join("var/lib/dpkg"));
    let query = query.args(["-W", "-f", "${Package} ${Version} ${Architecture}\\n"]);
    let installed: BTreeSet<String> =
        SystemRunner.run(&query).unwrap().text().lines().map(str::to_owned).collect();
    let locked: BTreeSet<String> =
        kept.packages.iter().map(|p| format!("{} {} {}", p.name, p.version, p.architecture)).collect();
    assert_eq!(installed, locked);
    let sums: BTreeSet<Sha256> = first.packages.iter().map(|p| p.sha256).collect();
    assert!(kept.packages.iter().all(|p| sums.contains(&p.sha256)));
    let of_no_archive: Vec<&str> =
        kept.packages.iter().filter(|p| p.release.is_none()).map(|p| p.name.as_str()).collect();
    assert_eq!(of_no_archive, ["site-own"]);
    assert!(installed.contains("site-own 1:2.0~x all"), "{installed:?}");
    assert_eq!(std::fs::read(root.join("usr/share/site-own/mark")).unwrap(), vec![7; 999]);
    assert!(kept.requested.contains(&"less".to_owned()) && !kept.releases.is_empty());
}
