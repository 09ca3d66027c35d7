//! Media for places without a network. The judges are sgdisk, sfdisk, e2fsck, debugfs, blkid and xorriso.

mod rig;
mod update;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::Path;

use akene_exec::Cmd;
use akene_image::offline::look::Offline;
use akene_image::offline::{Goal, Wishes};
use akene_image::stamp;
use akene_protocol::api::Consent;
use akene_protocol::lock::ProfileLock;
use akene_protocol::stamp::Source;
use akene_protocol::{Bytes, Sha256, Stamp};
use akene_server::site::media;
use akene_tests::deb;
use rig::*;

#[test]
fn a_stick_starts_as_the_iso_does_and_holds_everything_of_its_profile() {
    let Some(rig) = Rig::new() else { return };
    let stick = rig.stick("stick.img");
    is_sound(&stick);

    // The first sector is the ISO's but for the length of the protective entry; what a stamp changes lies in three files.
    let (before, after) = (fs::read(&rig.iso).unwrap(), fs::read(&stick).unwrap());
    let places: Vec<_> = {
        let file = File::open(&rig.iso).unwrap();
        let iso = akene_image::iso9660::Iso::open(&file).unwrap();
        let area = |name: &str| iso.find(name).unwrap().unwrap();
        [stamp::AREA, stamp::ENVIRONMENT, stamp::PROFILE].map(area).into()
    };
    let inside = |at: u64| places.iter().any(|p| (p.offset..p.offset + p.length).contains(&at));
    let differs = |at: &usize| before[*at] != after[*at] && !inside(*at as u64);
    let changed: Vec<usize> = (0..before.len()).filter(differs).collect();
    assert!(changed.iter().all(|at| (458..462).contains(at) || (512..64 * 512).contains(at)), "{changed:?}");
    let entries = Cmd::new("sfdisk").args(["--dump"]);
    let of_iso = run(entries.clone().arg(&rig.iso));
    let of_stick = run(entries.arg(&stick));
    for line in of_iso.lines().filter(|l| l.contains("start=")) {
        let line = line.split_once(" : ").unwrap().1;
        assert!(of_stick.contains(line), "{line} is missing in\n{of_stick}");
    }

    // What lies on it is what the manifest says, read by other eyes.
    let medium = rig.manifest(&stick);
    assert_eq!(medium.associations, ["Foyer", "Ty an Holl"]);
    for file in medium.files.iter().filter(|f| f.path.starts_with("profiles/")) {
        assert_eq!(Sha256::of(&debugfs(&stick, &format!("cat /akene/{}", file.path))), file.sha256);
    }
    assert!(medium.files.iter().any(|f| f.path == "initrd.img" && f.size == Bytes(2_000_000)));
    let lock = rig.lock("default");
    assert!(lock.packages.len() > 10);
    for package in &lock.packages {
        let bytes = debugfs(&stick, &format!("cat /akene/pool/{}", package.sha256));
        assert_eq!(
            (Sha256::of(&bytes), bytes.len() as u64),
            (package.sha256, package.size.0),
            "{}",
            package.name
        );
    }
    assert_eq!(rig.verify(&stick).unwrap(), lock.packages.len() + medium.files.len());

    // The site knows it, and the stamp lets nobody in.
    let known = media::find(&rig.site, medium.id).unwrap().unwrap();
    assert_eq!((known.key, known.machines, known.lost), (medium.key, media::MACHINES, false));
    let stamp = stamp::read(&stick).unwrap().stamp.unwrap();
    let Source::Medium { consent: Consent::Blank, attended: false, home: Some(home) } = stamp.source else {
        panic!("{stamp:?}")
    };
    assert_eq!(home.seal, rig.site.seal_secret().unwrap().public());
    assert_eq!((home.url.as_str(), home.tls.pins.len()), ("https://akene.example", 1));
}

#[test]
fn a_disc_holds_the_same_and_keeps_its_boot_records() {
    let Some(rig) = Rig::new() else { return };
    rig.profile("other", "lvm2");
    let wishes = Wishes { attended: Some(true), ..Wishes::default() };
    let disc = rig.path("disc.iso");
    rig.make(&wishes, &Goal::Disc(disc.clone(), None)).unwrap_or_else(|e| panic!("{e:#}"));
    let said = run(Cmd::new("sgdisk").arg("-v").arg(&disc));
    assert!(said.contains("No problems found"), "{said}");
    let records = |iso: &Path| {
        let cmd = Cmd::new("xorriso").args(["-no_rc", "-report_about", "SORRY", "-indev"]).arg(iso);
        let said = run(cmd.args(["-report_el_torito", "plain", "-report_system_area", "plain"]));
        let counts =
            |l: &&str| l.contains("boot img") || l.contains("img opts") || l.contains("area summary");
        // Without where they lie.
        let plain = |l: &str| l.rsplit_once(' ').map(|(l, _)| l.trim_end().to_owned());
        said.lines().filter(counts).filter_map(plain).collect::<Vec<_>>()
    };
    assert_eq!(records(&disc), records(&rig.iso));
    assert!(records(&disc).len() >= 4, "{:?}", records(&disc));

    let medium = rig.manifest(&disc);
    let names: Vec<_> = medium.profiles.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["default", "other"]);
    let to = rig.path("extracted");
    let cmd = Cmd::new("xorriso").args(["-no_rc", "-report_about", "SORRY", "-osirrox", "on", "-indev"]);
    run(cmd.arg(&disc).args(["-extract", "/akene"]).arg(&to));
    for file in &medium.files {
        assert_eq!(Sha256::of(&fs::read(to.join(&file.path)).unwrap()), file.sha256, "{}", file.path);
    }
    let mut sums = BTreeSet::new();
    for package in rig.lock("default").packages.iter().chain(&rig.lock("other").packages) {
        let bytes = fs::read(to.join("pool").join(package.sha256.to_string())).unwrap();
        assert_eq!(Sha256::of(&bytes), package.sha256);
        sums.insert(package.sha256);
    }
    assert_eq!(fs::read_dir(to.join("pool")).unwrap().count(), sums.len());
    assert_eq!(rig.verify(&disc).unwrap(), sums.len() + medium.files.len());
    let refused = rig.update(&disc, None).unwrap_err();
    assert!(format!("{refused:#}").contains("medium-missing"), "{refused:#}");

    // A byte that is not what it was.
    let package = &rig.lock("other").packages[0];
    let bytes = fs::read(to.join("pool").join(package.sha256.to_string())).unwrap();
    flip(&disc, start_of(&disc, &bytes) + 200);
    let error = format!("{:#}", rig.verify(&disc).unwrap_err());
    assert!(error.contains("medium-damaged") && error.contains(&package.sha256.to_string()), "{error}");
}

#[test]
fn a_medium_knows_the_keyboard_that_its_profiles_agree_on() {
    let Some(rig) = Rig::new() else { return };
    rig.profile("other", "lvm2");
    for needed in ["keyboard-configuration", "console-setup"] {
        rig.publish(needed, 1, 1000);
    }
    let names = |profile: &str, layout: &str| {
        let file = rig.site.dir().join(format!("profiles/{profile}.toml"));
        let text = fs::read_to_string(&file).unwrap();
        let text = text.lines().filter(|line| !line.starts_with("keyboard")).collect::<Vec<_>>().join("\n");
        fs::write(&file, format!("keyboard = {{ layout = \"{layout}\" }}\n{text}\n")).unwrap();
    };
    let made = |attended: bool| {
        let disc = rig.path("disc.iso");
        fs::remove_file(&disc).ok();
        let wishes = Wishes { attended: Some(attended), ..Wishes::default() };
        rig.make(&wishes, &Goal::Disc(disc.clone(), None)).unwrap_or_else(|e| panic!("{e:#}"));
        stamp::read(&disc).unwrap().stamp.unwrap().keyboard.map(|keyboard| keyboard.layout)
    };
    names("default", "fr");
    assert_eq!(made(false).as_deref(), Some("fr"), "the only one");
    assert_eq!(made(true), None, "the other profile names none");
    names("other", "be");
    assert_eq!(made(true), None, "two that differ");
    names("other", "fr");
    assert_eq!(made(true).as_deref(), Some("fr"));
    if !mounting() {
        return;
    }
    let stick = rig.stick("stick.img");
    names("default", "be");
    rig.update(&stick, None).unwrap_or_else(|e| panic!("{e:#}"));
    let stamped = || stamp::read(&stick).unwrap().stamp.unwrap();
    assert_eq!(stamped().keyboard.unwrap().layout, "be");
    // A live system that may be older than this setting refuses a stamp that has it.
    stamp::write(&stick, &Stamp { keyboard: None, ..stamped() }, None).unwrap();
    rig.update(&stick, None).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(stamped().keyboard, None);
}

#[test]
fn who_finds_a_medium_learns_no_secret_of_the_site() {
    let Some(rig) = Rig::new() else { return };
    let stick = rig.stick("stick.img");
    let disc = rig.path("disc.iso");
    rig.make(&Wishes::default(), &Goal::Disc(disc.clone(), None)).unwrap();
    let mut secrets: Vec<(String, Vec<u8>)> = Vec::new();
    let Source::Server { token: Some(token), .. } = rig.site.stamp().unwrap().source else {
        panic!("no token")
    };
    secrets.push(("the token".into(), token.expose().as_bytes().to_vec()));
    secrets.push(("the site key, raw".into(), rig.site.key().unwrap().to_bytes().to_vec()));
    for entry in fs::read_dir(rig.site.dir().join("secrets")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Certificates are for everybody, and sums of tokens let nobody in.
        if name.ends_with(".pem") || name.ends_with(".toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|l| l.len() > 20 && !l.starts_with("---")).unwrap();
        secrets.push((name, line.as_bytes().to_vec()));
    }
    let sealing = rig.site.seal_secret().unwrap().to_text();
    let raw = akene_protocol::profile::decode_base64(sealing.expose()).unwrap();
    secrets.push(("the seal secret, raw".into(), raw));
    assert_eq!(secrets.len(), 8, "{:?}", secrets.iter().map(|(name, _)| name).collect::<Vec<_>>());
    for medium in [&stick, &disc] {
        // The search finds what is there.
        assert!(find(medium, rig.key().to_string().as_bytes()).is_some(), "the public half of the site key");
        for (name, secret) in &secrets {
            assert_eq!(find(medium, secret), None, "{name} is on {}", medium.display());
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_numbers_before_anything_is_fetched() {
    let Some(rig) = Rig::new() else { return };
    let refused = |goal: &Goal| {
        let error = format!("{:#}", rig.make(&Wishes::default(), goal).unwrap_err());
        assert!(error.contains("medium-too-small"), "{error}");
        assert!(error.contains("too little") && error.contains("the largest are big "), "{error}");
        assert_eq!(rig.fetched(), [""; 0]);
        assert!(!goal.path().exists() && fs::read_dir(rig.path("cache")).unwrap().count() == 0);
        assert_eq!(media::list(&rig.site).unwrap(), []);
    };
    refused(&Goal::StickImage(rig.path("stick.img"), Some(Bytes(100_000_000))));
    refused(&Goal::Disc(rig.path("disc.iso"), Some(Bytes(5_000_000))));
    // The same with room for it.
    let goal = Goal::StickImage(rig.path("stick.img"), Some(Bytes(200_000_000)));
    rig.make(&Wishes::default(), &goal).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(fs::metadata(rig.path("stick.img")).unwrap().len(), 186_000_000 >> 20 << 20);
    assert_eq!(rig.fetched().len(), rig.lock("default").packages.len());
    // Nothing is fetched twice.
    rig.stick("second.img");
    assert_eq!(rig.fetched(), [""; 0]);

    let many = Wishes { profiles: vec!["default".into(), "other".into()], ..Wishes::default() };
    let error = rig.make(&many, &goal).unwrap_err();
    assert!(format!("{error:#}").contains("medium-ambiguous"), "{error:#}");
}

#[test]
fn packages_of_the_sites_own_come_along_or_are_asked_for() {
    let Some(rig) = Rig::new() else { return };
    let packages = rig.site.dir().join("classes/local/packages");
    fs::create_dir_all(&packages).unwrap();
    fs::write(rig.site.dir().join("classes/local/class.toml"), "packages = [\"ours\"]\n").unwrap();
    let control = "Package: ours\nVersion: 1\nArchitecture: all\n";
    let file = deb::make(&packages, control, &[("usr/share/ours", noise(50_000))]).unwrap();
    let profile = rig.site.dir().join("profiles/default.toml");
    let text = fs::read_to_string(&profile).unwrap();
    fs::write(&profile, format!("classes = [\"local\"]\n{text}")).unwrap();
    let stick = rig.stick("stick.img");
    let sum = Sha256::of(&fs::read(&file).unwrap());
    assert_eq!(Sha256::of(&debugfs(&stick, &format!("cat /akene/pool/{sum}"))), sum);
    rig.fetched();

    // The lock stays, the file is gone.
    fs::remove_file(&file).unwrap();
    let lock = rig.lock("default");
    let written = ProfileLock {
        revision: rig.site.bundle(&rig.site.config().unwrap(), "default").unwrap().revision,
        ..lock
    };
    rig.site.write_lock(&written).unwrap();
    fs::remove_dir_all(rig.path("cache")).unwrap();
    let error = rig.make(&Wishes::default(), &Goal::StickImage(rig.path("b.img"), None)).unwrap_err();
    assert!(
        format!("{error:#}").contains("package-missing") && format!("{error:#}").contains("ours"),
        "{error:#}"
    );
    assert_eq!(rig.fetched(), [""; 0]);
}

#[test]
fn damage_is_found_and_named_and_an_update_mends_it() {
    let Some(rig) = Rig::new() else { return };
    let good = rig.stick("stick.img");
    let place = |path: &str| {
        let bytes = debugfs(&good, &format!("cat /akene/{path}"));
        start_of(&good, &bytes) as usize
    };
    let package = rig.lock("default").packages.iter().max_by_key(|p| p.size).unwrap().sha256.to_string();
    let initrd = {
        let file = File::open(&good).unwrap();
        akene_image::iso9660::Iso::open(&file).unwrap().find("akene/initrd.img").unwrap().unwrap().offset
            as usize
    };
    for (path, at, code) in [
        (format!("pool/{package}"), place(&format!("pool/{package}")) + 1000, "medium-damaged"),
        ("profiles/default.lock.json".into(), place("profiles/default.lock.json") + 200, "medium-damaged"),
        ("profiles/default.json".into(), place("profiles/default.json") + 300, "medium-damaged"),
        ("medium.json".into(), place("medium.json") + 100, "medium-foreign"),
        ("medium.key".into(), place("medium.key") + 50, "medium-damaged"),
        ("initrd.img".into(), initrd + 12_345, "medium-damaged"),
    ] {
        let bad = rig.path("bad.img");
        fs::copy(&good, &bad).unwrap();
        flip(&bad, at as u64);
        let error = format!("{:#}", rig.verify(&bad).expect_err(&path));
        assert!(error.contains(code) && error.contains(&path), "{path}: {error}");
    }
    // Cut short, as by a copy that ended early.
    let cut = rig.path("cut.img");
    fs::copy(&good, &cut).unwrap();
    OpenOptions::new().write(true).open(&cut).unwrap().set_len(data(&good).0 + (3 << 20)).unwrap();
    let error = match Offline::open(&cut) {
        Ok(medium) => medium.expect("a table").verify(&rig.key()).map(drop).unwrap_err(),
        Err(error) => error,
    };
    eprintln!("{error:#}");

    if !mounting() {
        return;
    }
    let bad = rig.path("bad.img");
    fs::copy(&good, &bad).unwrap();
    flip(&bad, place(&format!("pool/{package}")) as u64 + 1000);
    let done = rig.update(&bad, None).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(done.added, 1, "{done:?}");
    rig.verify(&bad).unwrap();
    is_sound(&bad);
}
