use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use jiff::Timestamp;

use super::*;
use crate::envelope::{Envelope, EnvelopeError, PublicKey};
use crate::inventory::{FirmwareKind, Inventory};
use crate::profile::{Bundle, Filesystem, parse_layer};
use crate::resolve::{Resolved, resolve};

fn resolved(profile: &str) -> Resolved {
    let text = format!("{profile}\n[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n");
    let bundle = Bundle {
        site: "site".into(),
        name: "desk".into(),
        revision: "0".into(),
        classes: vec![],
        profile: parse_layer(&text, "desk.toml").unwrap(),
    };
    resolve(&bundle, &Inventory::unknown(FirmwareKind::Bios), None).unwrap()
}

fn release(repository: &str, suite: &str) -> Release {
    Release {
        repository: repository.into(),
        uri: "http://where.it/was".into(),
        suite: suite.into(),
        origin: Some("Debian".into()),
        codename: None,
        date: None,
        valid_until: None,
        sha256: Sha256::of(suite.as_bytes()),
        keys: vec![],
    }
}

fn pinned(name: &str, release: usize) -> PinnedPackage {
    PinnedPackage {
        name: name.into(),
        version: "1:2.0_x".replace("_x", ""),
        architecture: "amd64".into(),
        size: Bytes(10),
        sha256: Sha256::of(name.as_bytes()),
        release: Some(release),
        path: format!("pool/{name}.deb"),
    }
}

/// A lock with an answer for a machine with a BIOS and one for the same with XFS.
fn lock(resolved: &Resolved) -> ProfileLock {
    let request = |filesystem| {
        let planned = Planned { filesystems: BTreeSet::from([filesystem]), groups: false };
        Request::new(resolved, &planned, FirmwareKind::Bios)
    };
    let selection = |filesystem, packages: Vec<(usize, usize)>| Selection {
        request: request(filesystem),
        archive: 0,
        absent: vec!["apparmor".into()],
        packages,
        base: vec![(1, 1)],
    };
    ProfileLock {
        version: SIGNED_VERSION,
        site: "site".into(),
        profile: "desk".into(),
        revision: "0".into(),
        architecture: "amd64".into(),
        releases: vec![release(MAIN, "bookworm"), release(SECURITY, "bookworm-security")],
        archives: vec![ArchiveSettings::of(&resolved.archive)],
        packages: vec![pinned("own", 0), pinned("libc6", 1), pinned("less", 0), pinned("xfsprogs", 0)],
        selections: vec![
            selection(Filesystem::Ext4, vec![(1, 2), (0, 1)]),
            selection(Filesystem::Xfs, vec![(1, 3), (0, 1)]),
        ],
    }
}

fn ask(resolved: &Resolved, filesystem: Filesystem, firmware: FirmwareKind) -> Request {
    Request::new(resolved, &Planned { filesystems: BTreeSet::from([filesystem]), groups: false }, firmware)
}

#[test]
fn a_machine_gets_the_selection_of_its_request_from_its_own_mirrors() {
    let resolved = resolved("packages = [\"less\"]");
    let lock = lock(&resolved);
    lock.check().unwrap();
    let mut archive = resolved.archive.clone();
    archive.mirrors = vec!["http://a.test/debian/".into(), "http://b.test/debian".into()];
    let ext4 = lock.select("desk", &archive, &ask(&resolved, Filesystem::Ext4, FirmwareKind::Bios)).unwrap();
    let names: Vec<_> = ext4.packages.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["libc6", "less", "own"]);
    assert_eq!(
        ext4.packages[1].urls,
        ["http://a.test/debian/pool/less.deb", "http://b.test/debian/pool/less.deb"]
    );
    assert!(ext4.packages[0].urls.iter().all(|u| u.starts_with(&*archive.security_mirrors[0])));
    assert_eq!(ext4.packages[1].file, "less_1%3a2.0_amd64.deb");
    assert!(ext4.packages[0].base && !ext4.packages[1].base && !ext4.packages[2].base);
    assert!(ext4.requested.contains(&"less".to_owned()) && !ext4.requested.contains(&"apparmor".to_owned()));
    assert!(ext4.requested.contains(&"zstd".to_owned()), "an optional package that is there was asked for");
    let xfs = lock.select("desk", &archive, &ask(&resolved, Filesystem::Xfs, FirmwareKind::Bios)).unwrap();
    assert_eq!(xfs.packages.len(), 4);
    // What is kept of it on a machine reads back.
    assert_eq!(Lock::parse(&serde_json::to_vec(&xfs).unwrap()).unwrap(), xfs);
}

#[test]
fn another_machine_other_archives_and_another_profile_are_refused_with_what_differs() {
    let resolved = resolved("packages = [\"less\"]");
    let lock = lock(&resolved);
    let bios = ask(&resolved, Filesystem::Ext4, FirmwareKind::Bios);
    let refusal = |profile: &str, archive: &Archive, request: &Request| {
        lock.select(profile, archive, request).unwrap_err()
    };
    let uefi = ask(&resolved, Filesystem::Ext4, FirmwareKind::Uefi64);
    let issue = refusal("desk", &resolved.archive, &uefi);
    assert_eq!(issue.code, "lock-without-selection");
    assert!(issue.message.contains("lacks efibootmgr, grub-efi-amd64, grub-pc-bin"), "{issue}");
    assert!(issue.message.contains("has grub-efi-amd64-bin, grub-pc besides"), "{issue}");

    let mut other = resolved.archive.clone();
    other.components.push("contrib".into());
    other.preferences.insert("pin".into(), "Package: *\n".into());
    let issue = refusal("desk", &other, &bios);
    assert_eq!(issue.code, "lock-of-other-archives");
    assert!(issue.message.contains("`apt.components`, `apt.preferences` have changed"), "{issue}");

    assert_eq!(refusal("kiosk", &resolved.archive, &bios).code, "lock-of-another-profile");
}

#[test]
fn only_the_sites_own_lock_opens() {
    let lock = lock(&resolved(""));
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey(key.verifying_key());
    let signed = Envelope::sign(&lock, &key);
    assert_eq!(signed.open::<ProfileLock>(&public).unwrap(), lock);
    let other = PublicKey(SigningKey::from_bytes(&[8; 32]).verifying_key());
    assert!(matches!(signed.open::<ProfileLock>(&other), Err(EnvelopeError::WrongSignature { .. })));
    assert!(matches!(signed.open::<Bundle>(&public), Err(EnvelopeError::WrongType { .. })));
    // Every single byte of the payload counts.
    for at in (0..signed.payload.len()).step_by(101) {
        let mut bytes = signed.payload.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = Envelope { payload: String::from_utf8(bytes).unwrap(), ..signed.clone() };
        assert!(changed.open::<ProfileLock>(&public).is_err(), "byte {at}");
    }
    // Without a hash there is no package.
    let mut json = serde_json::to_value(&lock).unwrap();
    json["packages"][0].as_object_mut().unwrap().remove("sha256");
    assert!(serde_json::from_value::<ProfileLock>(json).unwrap_err().to_string().contains("sha256"));
}

#[test]
fn a_signed_lock_that_is_odd_is_refused() {
    let good = lock(&resolved(""));
    let odd = |change: &dyn Fn(&mut ProfileLock)| {
        let mut lock = good.clone();
        change(&mut lock);
        lock.check().unwrap_err().code
    };
    assert_eq!(odd(&|l| l.version = 9), "document-version");
    for change in [
        (|l| l.packages[0].path = "../../etc/passwd".into()) as fn(&mut ProfileLock),
        |l| l.packages[0].path = "/etc/passwd".into(),
        |l| l.packages[0].name = "-o".into(),
        |l| l.packages[0].version = "1/../2".into(),
        |l| l.packages[0].size = Bytes(0),
        |l| l.packages[0].release = Some(2),
        |l| l.packages[0].release = None,
        |l| l.packages[0].path = String::new(),
        |l| l.selections[0].archive = 1,
        |l| l.selections[0].packages = vec![(3, 2)],
        |l| l.selections[0].packages = vec![(usize::MAX, usize::MAX)],
        |l| l.selections[0].packages = vec![(0, usize::MAX)],
        |l| l.selections[0].packages.push((2, 1)),
        |l| l.selections[0].base = vec![],
        |l| l.selections[0].base = vec![(3, 1)],
        |l| l.selections[0].base = vec![(0, usize::MAX)],
    ] {
        assert_eq!(odd(&change), "lock-odd");
    }
}

#[test]
fn runs_keep_the_order() {
    let places = [4, 5, 6, 1, 9, 8, 2, 3];
    let runs = Selection::runs(places);
    assert_eq!(runs, [(4, 3), (1, 1), (9, 1), (8, 1), (2, 2)]);
    assert_eq!(Selection::places(&runs).collect::<Vec<_>>(), places);
}

#[test]
fn equal_wishes_are_equal_requests_and_versions_are_kept() {
    let one = ask(&resolved("packages = [\"less\", \"zstd=1.5\"]"), Filesystem::Ext4, FirmwareKind::Bios);
    let two = ask(&resolved("packages = [\"zstd=1.5\", \"less\"]"), Filesystem::Ext4, FirmwareKind::Bios);
    assert_eq!(one, two);
    assert!(one.packages.contains(&"zstd=1.5".to_owned()) && !one.optional.contains(&"zstd".to_owned()));
    let uefi = |kind| ask(&resolved(""), Filesystem::Ext4, kind);
    assert_eq!(uefi(FirmwareKind::Uefi32), uefi(FirmwareKind::Uefi64));
}

/// The packages of `lock` for a machine with a BIOS and XFS: they are of both its releases.
fn taken(lock: &ProfileLock, resolved: &Resolved) -> Lock {
    lock.select("desk", &resolved.archive, &ask(resolved, Filesystem::Xfs, FirmwareKind::Bios)).unwrap()
}

#[test]
fn an_old_lock_is_told_from_one_that_counts_no_more_and_from_one_the_profile_forbids() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let resolved = resolved("packages = [\"less\"]");
    let mut lock = lock(&resolved);
    lock.releases[0].date = Some(at("2026-05-01T00:00:00Z"));
    lock.releases[1].date = Some(at("2026-06-01T00:00:00Z"));
    let judged = |lock: &ProfileLock, now: &str, days: Option<u32>| {
        let issue = match lock.age(&taken(lock, &resolved), at(now), days) {
            Age::Good => return "good".to_owned(),
            Age::Old(issue) => issue,
            Age::TooOld(issue) => {
                assert!(issue.message.contains("`apt.lock-days`"), "{issue}");
                issue
            }
        };
        assert!(issue.next.contains("akene-server lock"), "{issue}");
        issue.code
    };
    // The newest of its releases counts, and a clock that is behind says nothing of it.
    assert_eq!(judged(&lock, "2026-08-29T00:00:00Z", None), "good");
    assert_eq!(judged(&lock, "2026-08-31T00:00:00Z", None), "lock-old");
    assert_eq!(judged(&lock, "1980-01-01T00:00:00Z", Some(1)), "good");
    // What the archive says of itself, where packages are of it.
    lock.releases[1].valid_until = Some(at("2026-06-08T00:00:00Z"));
    assert_eq!(judged(&lock, "2026-06-07T00:00:00Z", None), "good");
    assert_eq!(judged(&lock, "2026-06-09T00:00:00Z", None), "lock-expired");
    let mut other = lock.clone();
    other.packages[1].release = Some(0);
    assert_eq!(judged(&other, "2026-06-09T00:00:00Z", None), "good");
    // The profile's word: to the day.
    assert_eq!(judged(&lock, "2026-06-30T23:00:00Z", Some(30)), "lock-expired");
    assert_eq!(judged(&lock, "2026-07-01T00:00:01Z", Some(30)), "lock-too-old");
    let undated = super::tests::lock(&resolved);
    assert_eq!(judged(&undated, "2026-07-01T00:00:01Z", Some(30)), "lock-too-old");
    assert_eq!(judged(&undated, "2026-07-01T00:00:01Z", None), "good");
}

#[test]
fn a_step_back_is_known_by_the_releases_both_have() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let dated = |main: &str, security: &str| {
        let mut lock = lock(&resolved(""));
        (lock.releases[0].date, lock.releases[1].date) = (Some(at(main)), Some(at(security)));
        lock
    };
    let (may, june) = ("2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z");
    let former = dated(may, june);
    assert_eq!(former.behind(&former), None);
    assert_eq!(dated(june, june).behind(&former), None);
    let issue = dated(may, may).behind(&former).unwrap();
    assert_eq!(issue.code, "lock-downgrade");
    assert!(issue.message.contains("2026-05-01") && issue.message.contains("2026-06-01"), "{issue}");
    assert!(issue.next.contains("`apt.lock-older = true`"), "{issue}");
    // Another release of the distribution, another profile: made at other times for good reasons.
    let mut older = dated(may, may);
    older.releases[1].suite = "trixie-security".into();
    assert_eq!(older.behind(&former), None);
    assert_eq!(ProfileLock { profile: "kiosk".into(), ..dated(may, may) }.behind(&former), None);
    assert_eq!(former.behind(&lock(&resolved(""))), None, "nothing is known of its age");

    assert_eq!(former.of_site("site"), Ok(()));
    assert_eq!(former.of_site(""), Ok(()), "a profile given by hand is of no site");
    assert_eq!(former.of_site("elsewhere").unwrap_err().code, "lock-of-another-site");
}
