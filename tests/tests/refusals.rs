//! What an archive can do wrong. Each is refused with its own words, before any byte of the disk changes.

use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::http::Fault;
use akene_tests::image::digest;
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install, possible};
use akene_tests::standin::Standin;

/// A disk somebody used before, as a file.
fn used_disk(dir: &Path) -> PathBuf {
    let disk = akene_tests::vm::blank_disk(&dir.join("disk.img"), 5 << 30).unwrap();
    let script = "label: gpt\n,1GiB,L\n,,L\n";
    SystemRunner.run(&Cmd::new("sfdisk").arg("--quiet").arg(&disk).stdin(script)).unwrap();
    SystemRunner
        .run(
            &Cmd::new("mkfs.ext4")
                .args(["-q", "-F", "-E", "offset=1048576", "-L", "photos"])
                .arg(&disk)
                .arg("1000m"),
        )
        .unwrap();
    disk
}

/// Installs from an archive that `spoil` has done something to, and expects a refusal whose text holds
/// all of `words`.
fn refused(profile: impl Fn(&Standin) -> String, spoil: impl Fn(&Standin), words: &[&str]) {
    if !possible() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    if mirror.host.distribution != "debian" {
        eprintln!("SKIPPED: the archive to spoil is made of Debian's packages");
        return;
    }
    let standin = Standin::start(&mirror).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = used_disk(dir.path());
    let before = digest(&disk).unwrap();
    spoil(&standin);
    let profile = profile(&standin);
    let outcome = install(&disk, &Orders::Profile(&profile), dir.path(), &["--consent", "wipe"]).unwrap();
    assert!(!outcome.good, "it was installed all the same: {}", outcome.story());
    assert_eq!(digest(&disk).unwrap(), before, "the disk was changed: {}", outcome.story());
    let failed = outcome.events_of("failed");
    assert_eq!(failed.len(), 1, "there is one failure: {}", outcome.story());
    assert_eq!(failed[0]["disks-changed"], false);
    let issues = outcome.issues();
    assert!(!issues.is_empty(), "{}", outcome.story());
    for issue in &issues {
        assert!(
            !issue["next"].as_str().unwrap_or_default().is_empty(),
            "what to do next is missing: {issue}"
        );
    }
    let text = issues.iter().map(|i| i.to_string()).collect::<String>().to_lowercase();
    for word in words {
        assert!(text.contains(&word.to_lowercase()), "{word} is not in {text}\n{}", outcome.story());
    }
}

fn package_file(standin: &Standin, name: &str) -> String {
    let path = standin.package(name).unwrap();
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_package_with_other_bytes() {
    let spoil = |s: &Standin| s.server.fault(&package_file(s, "sudo"), Fault::Flipped);
    refused(Standin::profile, spoil, &["sudo"]);
}

#[test]
fn a_package_that_is_gone_from_the_archive() {
    let spoil = |s: &Standin| s.server.fault(&package_file(s, "sudo"), Fault::Missing);
    refused(Standin::profile, spoil, &["sudo"]);
}

#[test]
fn a_package_nobody_has() {
    let profile = |s: &Standin| s.profile().replace("packages = [", "packages = [\"no-such-package\", ");
    refused(profile, |_| {}, &["no-such-package"]);
}

#[test]
fn an_archive_signed_by_another_key() {
    let spoil = |s: &Standin| {
        let bytes = s.signed_by_a_stranger("noble").unwrap();
        s.server.fault("dists/noble/InRelease", Fault::Bytes(bytes));
        s.server.fault("dists/noble/Release.gpg", Fault::Missing);
    };
    refused(Standin::profile, spoil, &["sign"]);
}

#[test]
fn an_index_with_other_bytes() {
    let spoil = |s: &Standin| {
        for index in s.indexes("noble/main").unwrap() {
            s.server.fault(&index, Fault::Flipped);
        }
    };
    refused(Standin::profile, spoil, &["noble"]);
}

#[test]
fn an_archive_without_a_signature() {
    let spoil = |s: &Standin| s.server.fault("InRelease", Fault::Missing);
    refused(Standin::profile, spoil, &["not signed"]);
}

#[test]
fn a_release_the_archive_does_not_have() {
    // `Release` and `InRelease`.
    let spoil = |s: &Standin| s.server.fault("Release", Fault::Missing);
    refused(Standin::profile, spoil, &["noble"]);
}
