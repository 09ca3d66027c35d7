//! Stamping a finished ISO. The judges are xorriso, cpio and GRUB's own editor of environment blocks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_image::{inspect, stamp};
use akene_protocol::api::Consent;
use akene_protocol::stamp::{Source, StampError, Tls};
use akene_protocol::{Bundle, Envelope, PublicKey, Secret, Sha256, Stamp};
use akene_tests::site::program;
use akene_tests::small_image::SmallImage;
use ed25519_dalek::SigningKey;

/// What can change, and nothing else may.
const STAMPED: [&str; 3] = [stamp::AREA, stamp::ENVIRONMENT, stamp::PROFILE];

fn run(cmd: Cmd) -> String {
    SystemRunner.run(&cmd).unwrap().text()
}

fn iso(dir: &Path, name: &str) -> PathBuf {
    let kernel = vec![7; 300_000];
    let sums = format!("{}  akene/vmlinuz\n", Sha256::of(&kernel));
    let files = vec![
        ("akene/vmlinuz", kernel),
        ("akene/initrd.img", vec![9; 5_000_000]),
        (stamp::SUMS, sums.into_bytes()),
        ("boot/grub/grub.cfg", b"# menu".to_vec()),
    ];
    SmallImage { wireless: name.contains("wireless"), files, ..SmallImage::default() }.write(dir, name)
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn site(name: &str, source: Source) -> Stamp {
    Stamp::new(name, source, PublicKey(key().verifying_key()))
}

fn server() -> Source {
    let tls = Tls { ca: None, pins: vec![Sha256::of(b"key")] };
    Source::Server { url: "https://akene.example".into(), tls, token: Some(Secret::new("s3cret-t0ken")) }
}

/// A file of the ISO as xorriso extracts it.
fn extracted(iso: &Path, path: &str, dir: &Path) -> Vec<u8> {
    let to = dir.join("extracted");
    if to.exists() {
        fs::remove_file(&to).unwrap();
    }
    let cmd = Cmd::new("xorriso").args(["-no_rc", "-report_about", "SORRY", "-osirrox", "on", "-indev"]);
    run(cmd.arg(iso).args(["-extract", &format!("/{path}")]).arg(&to));
    fs::read(&to).unwrap()
}

/// First byte and length of each file, as xorriso tells them.
fn places(iso: &Path) -> BTreeMap<String, (usize, usize)> {
    let cmd = Cmd::new("xorriso").args(["-no_rc", "-report_about", "SORRY", "-indev"]).arg(iso);
    // `File data lba:  0 , START , BLOCKS , BYTES , '/path'`
    run(cmd.args(["-find", "/", "-type", "f", "-exec", "report_lba", "--"]))
        .lines()
        .filter_map(|line| {
            let mut fields = line.strip_prefix("File data lba:")?.split(',').map(str::trim);
            let start: usize = fields.nth(1)?.parse().ok()?;
            let bytes: usize = fields.nth(1)?.parse().ok()?;
            Some((fields.next()?.trim_matches('\'').trim_matches('/').to_owned(), (start * 2048, bytes)))
        })
        .collect()
}

#[test]
fn only_the_three_places_change_and_the_ordinary_tools_read_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = iso(dir.path(), "a.iso");
    let before = fs::read(&path).unwrap();
    assert!(matches!(stamp::read(&path).unwrap().stamp, Err(StampError::Unstamped)));

    let wanted = site("Lannion", server());
    stamp::write(&path, &wanted, None).unwrap();
    let after = fs::read(&path).unwrap();
    let places = places(&path);
    let inside = |at: usize| {
        STAMPED.iter().any(|name| {
            let (start, length) = places[*name];
            (start..start + length).contains(&at)
        })
    };
    assert_eq!(before.len(), after.len());
    let changed: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
    assert!(!changed.is_empty() && changed.iter().all(|at| inside(*at)), "{places:?}");

    // The stamp area is an initramfs segment.
    let unpacked = dir.path().join("cpio");
    fs::create_dir(&unpacked).unwrap();
    let area = extracted(&path, stamp::AREA, dir.path());
    run(Cmd::new("cpio").args(["-idm", "--quiet"]).dir(&unpacked).stdin(area));
    assert_eq!(Stamp::parse_file(&fs::read(unpacked.join("akene/stamp")).unwrap()), Ok(wanted));
    // The menu's block is one of GRUB's.
    extracted(&path, stamp::ENVIRONMENT, dir.path());
    let editor = Cmd::new("grub-editenv").arg(dir.path().join("extracted")).arg("list");
    assert_eq!(run(editor), "stamped=1\nsite=Lannion");
    assert_eq!(inspect::verify(&path).unwrap(), 1);
}

#[test]
fn a_second_stamp_leaves_nothing_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (once, twice) = (iso(dir.path(), "once.iso"), iso(dir.path(), "twice.iso"));
    let bundle: Bundle = serde_json::from_value(serde_json::json!({
        "site": "Lannion", "name": "default", "revision": "1", "classes": [], "profile": {}
    }))
    .unwrap();
    let profile = serde_json::to_vec(&Envelope::sign(&bundle, &key())).unwrap();
    let medium = site(
        "A very much longer name",
        Source::Medium { consent: Consent::Wipe, attended: false, home: None },
    );
    stamp::write(&twice, &medium, Some(&profile)).unwrap();
    assert!(extracted(&twice, stamp::PROFILE, dir.path()).starts_with(&profile));
    stamp::write(&twice, &site("Lannion", server()), None).unwrap();
    stamp::write(&once, &site("Lannion", server()), None).unwrap();
    // Which also shows that the same tree gives the same ISO, whenever it is written.
    assert!(fs::read(&once).unwrap() == fs::read(&twice).unwrap());
}

#[test]
fn what_must_not_be_stamped_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let good = iso(dir.path(), "good.iso");

    let foreign = dir.path().join("foreign.iso");
    let foreign_tree = dir.path().join("foreign");
    fs::create_dir(&foreign_tree).unwrap();
    fs::write(foreign_tree.join("readme"), "not ours").unwrap();
    let make = Cmd::new("xorriso").args(["-no_rc", "-as", "mkisofs", "-quiet", "-V", "OTHER", "-o"]);
    run(make.arg(&foreign).arg(&foreign_tree));
    let namesake = dir.path().join("namesake.iso");
    let make = Cmd::new("xorriso").args(["-no_rc", "-as", "mkisofs", "-quiet", "-V", "AKENE", "-o"]);
    run(make.arg(&namesake).arg(&foreign_tree));

    let cut = dir.path().join("cut.iso");
    fs::copy(&good, &cut).unwrap();
    fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(2 << 20).unwrap();

    let overwritten = dir.path().join("overwritten.iso");
    fs::copy(&good, &overwritten).unwrap();
    let at = places(&good)[stamp::AREA].0 as u64;
    let file = fs::OpenOptions::new().write(true).open(&overwritten).unwrap();
    file.write_all_at(&[0; 512], at).unwrap();

    let (empty, noise) = (dir.path().join("empty"), dir.path().join("noise"));
    fs::write(&empty, "").unwrap();
    fs::write(&noise, [7; 100_000]).unwrap();

    for (path, words) in [
        (&empty, "too small to be an ISO image"),
        (&noise, "it is not an ISO image"),
        (&foreign, "its label is `OTHER`"),
        (&namesake, "it has no akene/"),
        (&cut, "beyond the end of the image, which is not complete"),
        (&overwritten, "what should be its stamp area is something else"),
    ] {
        let before = fs::read(path).unwrap();
        let error = format!("{:#}", stamp::write(path, &site("Lannion", server()), None).unwrap_err());
        assert!(error.contains(words), "{}: {error}", path.display());
        assert!(fs::read(path).unwrap() == before);
    }

    // A profile somebody else signed does not go onto a medium that would refuse it.
    let before = fs::read(&good).unwrap();
    let bundle: Bundle = serde_json::from_value(serde_json::json!({
        "site": "Lannion", "name": "default", "revision": "1", "classes": [], "profile": {}
    }))
    .unwrap();
    let profile = serde_json::to_vec(&Envelope::sign(&bundle, &SigningKey::from_bytes(&[8; 32]))).unwrap();
    let medium = site("Lannion", Source::Medium { consent: Consent::Blank, attended: false, home: None });
    let error = format!("{:#}", stamp::write(&good, &medium, Some(&profile)).unwrap_err());
    assert!(error.contains("checking that the site's key signed the profile"), "{error}");
    let mut long = site("Lannion", server());
    long.site = "x".repeat(100_000);
    assert!(stamp::write(&good, &long, None).is_err());
    assert!(fs::read(&good).unwrap() == before);
}

#[test]
fn what_an_image_is_for_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let shown = |name: &str| inspect::describe(&stamp::read(&iso(dir.path(), name)).unwrap(), false);
    let wired = shown("a.iso");
    assert!(wired.contains("6.1.0-1-amd64") && wired.contains("Debian bookworm"), "{wired}");
    assert!(wired.lines().any(|l| l.starts_with("wireless") && l.ends_with("not in it")), "{wired}");
    let wireless = shown("wireless.iso");
    assert!(wireless.lines().any(|l| l.starts_with("wireless") && l.ends_with("are in it")), "{wireless}");
}

/// By the command that an administrator types.
#[test]
fn the_keyboard_is_the_one_of_the_bundle_unless_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = iso(dir.path(), "a.iso");
    let bundle: Bundle = serde_json::from_value(serde_json::json!({
        "site": "Lannion", "name": "default", "revision": "1", "classes": [],
        "profile": { "keyboard": { "layout": "be" } }
    }))
    .unwrap();
    let profile = dir.path().join("profile.json");
    fs::write(&profile, serde_json::to_vec(&Envelope::sign(&bundle, &key())).unwrap()).unwrap();
    let stamped = |more: &[&str]| {
        let cmd =
            Cmd::new(program("akene-image").unwrap()).arg("stamp").arg(&path).arg("--bundle").arg(&profile);
        run(cmd.arg("--site-key").arg(PublicKey(key().verifying_key()).to_string()).args(more));
        let contents = stamp::read(&path).unwrap();
        let shown = inspect::describe(&contents, false);
        let line = shown.lines().find(|line| line.starts_with("keyboard")).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(stamped(&[]), "be");
    assert_eq!(stamped(&["--keyboard", "fr"]), "fr");
}

#[test]
fn secrets_are_shown_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = iso(dir.path(), "a.iso");
    let mut stamp = site("Lannion", server());
    stamp.proxy = Some("http://user:hush@proxy:3128".into());
    stamp::write(&path, &stamp, None).unwrap();
    let contents = stamp::read(&path).unwrap();
    let shown = inspect::describe(&contents, false);
    assert!(shown.contains("https://akene.example") && shown.contains("proxy:3128"), "{shown}");
    assert!(!shown.contains("s3cret") && !shown.contains("hush"), "{shown}");
    let shown = inspect::describe(&contents, true);
    assert!(shown.contains("s3cret-t0ken") && shown.contains("hush"), "{shown}");
}

#[test]
fn damage_on_the_medium_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = iso(dir.path(), "a.iso");
    assert_eq!(inspect::verify(&path).unwrap(), 1);
    let at = places(&path)["akene/vmlinuz"].0 as u64 + 1000;
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"!", at).unwrap();
    let error = format!("{:#}", inspect::verify(&path).unwrap_err());
    assert!(error.contains("akene/vmlinuz") && error.contains("is damaged"), "{error}");
}
