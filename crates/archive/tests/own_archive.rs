//! Archives made for the purpose: out of date, from the future, damaged, signed by a stranger.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use akene_archive::{AptRoot, AptSettings};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::ids::Sha256;
use akene_protocol::issue::Issues;
use akene_protocol::profile::Distribution;
use akene_protocol::resolve::Archive;

/// A directory with a key and archives signed by it.
struct Site {
    dir: tempfile::TempDir,
    key: String,
}

impl Site {
    /// `None`, said aloud, where the tools are missing.
    fn new() -> Option<Self> {
        for tool in ["gpg", "apt-get", "date"] {
            if SystemRunner.run(&Cmd::new(tool).arg("--version")).is_err() {
                eprintln!("SKIPPED: this test needs {tool}");
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site { dir, key: String::new() };
        fs::create_dir(site.path("gpg")).unwrap();
        site.gpg(
            &["--quick-gen-key", "--passphrase", "", "test@example.org", "ed25519", "sign", "never"],
            &[],
        );
        site.key = site.gpg(&["--armor", "--export"], &[]);
        Some(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn gpg(&self, args: &[&str], input: &[u8]) -> String {
        let cmd = Cmd::new("gpg").arg("--homedir").arg(self.path("gpg")).args([
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
        ]);
        SystemRunner.run(&cmd.args(args).stdin(input)).unwrap_or_else(|e| panic!("{e:#}")).text() + "\n"
    }

    /// An archive with one package, dated and valid as told in the words of `date -d`. Gives its address.
    fn archive(&self, name: &str, date: &str, until: &str) -> String {
        let dists = self.path(name).join("dists/stable");
        fs::create_dir_all(dists.join("main/binary-amd64")).unwrap();
        let packages = format!(
            "Package: hello\nVersion: 1:2.0-1\nArchitecture: amd64\nEssential: yes\nMaintainer: x\nDescription: x\n\
             Filename: pool/hello.deb\nSize: 5\nSHA256: {}\n\n",
            Sha256::of(b"hello")
        );
        fs::write(dists.join("main/binary-amd64/Packages"), &packages).unwrap();
        let when = |words: &str| {
            SystemRunner
                .run(&Cmd::new("date").args(["-u", "-R", "-d", words]))
                .unwrap()
                .text()
                .replace("+0000", "UTC")
        };
        let release = format!(
            "Origin: x\nSuite: stable\nCodename: stable\nDate: {}\nValid-Until: {}\nArchitectures: amd64\nComponents: main\n\
             SHA256:\n {} {} main/binary-amd64/Packages\n",
            when(date),
            when(until),
            Sha256::of(packages.as_bytes()),
            packages.len()
        );
        fs::write(dists.join("InRelease"), self.gpg(&["--clearsign"], release.as_bytes())).unwrap();
        format!("file://{}", self.path(name).display())
    }

    fn root(&self, mirrors: &[String], key: &str) -> AptRoot {
        let archive = Archive {
            distribution: Distribution::Debian,
            suite: "stable".into(),
            mirrors: mirrors.to_vec(),
            security_mirrors: Vec::new(),
            components: vec!["main".into()],
            pockets: Vec::new(),
            key: Some(key.to_owned()),
            sources: BTreeMap::new(),
            install_recommends: true,
            preferences: BTreeMap::new(),
            never: Vec::new(),
            hold: Vec::new(),
            local: Vec::new(),
        };
        let dir = self.path("apt").join(mirrors.join("").replace(['/', ':', '.'], ""));
        AptRoot::create(&dir, &AptSettings { archive: &archive, keyring: Path::new("/none"), proxy: None })
            .unwrap()
    }

    fn refusal(&self, mirrors: &[String], key: &str) -> Vec<(String, String)> {
        let error = self.root(mirrors, key).update(&SystemRunner, &mut |_| {}).unwrap_err();
        let issues = error.downcast::<Issues>().unwrap_or_else(|e| panic!("not an issue: {e:#}"));
        for issue in &issues.0 {
            eprintln!("{issue}");
        }
        issues.0.into_iter().map(|i| (i.code, i.message)).collect()
    }
}

#[test]
fn each_thing_that_can_be_wrong_has_its_own_name() {
    let Some(site) = Site::new() else { return };
    let good = site.archive("good", "1 hour ago", "next week");
    let old = site.archive("old", "2 months ago", "3 days ago");
    let future = site.archive("future", "2 days", "next month");
    let damaged = site.archive("damaged", "1 hour ago", "next week");
    let index = site.path("damaged/dists/stable/main/binary-amd64/Packages");
    fs::write(&index, fs::read_to_string(&index).unwrap().replace("2.0-1", "2.0-2")).unwrap();
    let nowhere = format!("file://{}/nowhere", site.dir.path().display());
    let forged = site.archive("forged", "1 hour ago", "next week");
    let release = site.path("forged/dists/stable/InRelease");
    fs::write(&release, fs::read_to_string(&release).unwrap().replace("Origin: x", "Origin: y")).unwrap();
    let stranger = Site::new().unwrap().key;

    let apt = site.root(std::slice::from_ref(&good), &site.key);
    apt.update(&SystemRunner, &mut |_| {}).unwrap();
    for (mirror, key, code, words) in [
        (&old, &site.key, "release-expired", "out of date since 3d"),
        (&future, &site.key, "release-future", "ahead of this computer's clock"),
        (&damaged, &site.key, "mirror-updating", "is not the file the signed release names"),
        (&nowhere, &site.key, "archive-unreachable", "no release `stable`"),
        (&forged, &site.key, "archive-signature", "the signature does not fit"),
        (&good, &stranger, "archive-signature", "expected was"),
    ] {
        let said = site.refusal(std::slice::from_ref(mirror), key);
        assert_eq!(said[0].0, code, "{mirror}: {said:?}");
        assert!(said[0].1.contains(words), "{mirror}: {said:?}");
    }
}

#[test]
fn the_next_mirror_is_tried_and_the_others_are_kept_for_fetching() {
    let Some(site) = Site::new() else { return };
    let old = site.archive("old", "2 months ago", "3 days ago");
    let good = site.archive("good", "1 hour ago", "next week");
    let apt = site.root(&[old.clone(), good.clone()], &site.key);
    apt.update(&SystemRunner, &mut |_| {}).unwrap();
    assert_eq!(apt.mirrors().0, good.replace("file://", "file:"));
    let [package] = &apt.locate(&SystemRunner, &["hello".into()]).unwrap()[..] else {
        panic!("not one package")
    };
    assert_eq!((package.version.as_str(), package.file.as_str()), ("1:2.0-1", "hello_1%3a2.0-1_amd64.deb"));
    assert_eq!(package.sha256, Sha256::of(b"hello"));
    let urls: Vec<String> =
        [&good, &old].iter().map(|m| format!("{}/pool/hello.deb", m.replace("file://", "file:"))).collect();
    assert_eq!(package.urls.iter().map(|u| u.replace("file://", "file:")).collect::<Vec<_>>(), urls);
    // Two that are both wrong: both are named.
    assert_eq!(site.refusal(&[old.clone(), format!("{old}-not")], &site.key).len(), 2);
}

#[test]
fn what_cannot_be_written_into_a_source_file_is_refused() {
    let Some(site) = Site::new() else { return };
    let bad = "http://a.test/debian\nTrusted: yes".to_owned();
    let archive = Archive {
        distribution: Distribution::Debian,
        suite: "stable".into(),
        mirrors: vec![bad],
        security_mirrors: Vec::new(),
        components: vec!["main".into()],
        pockets: Vec::new(),
        key: Some(site.key.clone()),
        sources: BTreeMap::new(),
        install_recommends: true,
        preferences: BTreeMap::new(),
        never: Vec::new(),
        hold: Vec::new(),
        local: Vec::new(),
    };
    let settings = AptSettings { archive: &archive, keyring: Path::new("/none"), proxy: None };
    let error = AptRoot::create(&site.path("x"), &settings).unwrap_err();
    assert_eq!(error.downcast_ref::<Issues>().unwrap().0[0].code, "source-unusable");
    let none = Archive { key: None, mirrors: vec!["http://a.test".into()], ..archive };
    let settings = AptSettings { archive: &none, keyring: Path::new("/none"), proxy: None };
    let error = AptRoot::create(&site.path("x"), &settings).unwrap_err();
    assert_eq!(error.downcast_ref::<Issues>().unwrap().0[0].code, "archive-keyring-missing");
}
