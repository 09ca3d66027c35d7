//! Media in directories: what is refused, by which name.

use std::fs;

use akene_exec::RecordingRunner;
use akene_protocol::envelope::Document;
use akene_protocol::medium::MediumId;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jiff::Timestamp;

use super::*;

pub(crate) fn site() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(crate) fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key())
}

/// A medium in a directory.
pub(crate) struct Media {
    pub(crate) dir: tempfile::TempDir,
}

impl Media {
    /// A whole one with a profile `desk` and a package.
    pub(crate) fn new() -> Self {
        let media = Media { dir: tempfile::tempdir().unwrap() };
        for dir in ["profiles", "pool", "reports"] {
            fs::create_dir_all(media.path(dir)).unwrap();
        }
        let own = SigningKey::from_bytes(&[2; 32]);
        fs::write(media.path(medium::KEY), &**own.to_pkcs8_pem(Default::default()).unwrap()).unwrap();
        let names = ["profiles/desk.json", "profiles/desk.lock.json"];
        let files = names.map(|name| {
            fs::write(media.path(name), name).unwrap();
            MediumFile {
                path: name.into(),
                size: Bytes(name.len() as u64),
                sha256: Sha256::of(name.as_bytes()),
            }
        });
        fs::write(media.path("pool").join(Sha256::of(b"deb").to_string()), "deb").unwrap();
        media.sign(
            &Medium {
                version: medium::VERSION,
                id: MediumId([3; 8]),
                site: "s".into(),
                made: Timestamp::UNIX_EPOCH,
                key: public(&own),
                associations: vec![],
                profiles: vec![MediumProfile { name: "desk".into(), revision: "1".into(), size: Bytes(3) }],
                files: files.into(),
            },
            &site(),
        );
        media
    }

    fn sign<D: Document>(&self, document: &D, key: &SigningKey) {
        let text = serde_json::to_vec(&Envelope::sign(document, key)).unwrap();
        fs::write(self.path(medium::MANIFEST), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(medium::DIR).join(name)
    }

    pub(crate) fn find(&self) -> Result<Option<Stick>, Issue> {
        let place = Where::In(self.dir.path().to_owned());
        Stick::find(&place, &public(&site()), &RecordingRunner::default())
    }

    fn refused(&self) -> (String, String) {
        let issue = self.find().unwrap_err();
        (issue.code, issue.path)
    }
}

pub(crate) fn package(sum: &[u8], size: u64) -> LockedPackage {
    LockedPackage {
        name: "a".into(),
        version: "1".into(),
        architecture: "all".into(),
        size: Bytes(size),
        sha256: Sha256::of(sum),
        urls: vec![],
        file: "a_1_all.deb".into(),
        base: false,
        release: None,
    }
}

#[test]
fn a_whole_medium_gives_what_its_manifest_names() {
    let media = Media::new();
    let stick = media.find().unwrap().unwrap();
    assert_eq!(stick.choose(None).unwrap().name, "desk");
    assert_eq!(stick.choose(Some("other")).unwrap_err().code, "profile-not-on-medium");
    assert_eq!(stick.profile("desk").unwrap(), b"profiles/desk.json");
    assert_eq!(stick.lock("desk").unwrap(), b"profiles/desk.lock.json");
    assert_eq!(stick.profile("other").unwrap_err().code, "medium-damaged");
    let mut right = 0;
    stick.check(&[package(b"deb", 3)], &mut |_| right += 1).unwrap();
    assert_eq!(right, 1);
    assert!(!format!("{stick:?}").contains("PRIVATE"));
}

#[test]
fn what_is_damaged_is_refused_by_its_name() {
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let size = fs::read(Media::new().path(medium::MANIFEST)).unwrap().len();
    for at in (0..size).step_by(7) {
        let media = Media::new();
        flip(&media.path(medium::MANIFEST), at);
        // In the hint whose key it is: then it counts as another site's. In a name that nobody asks for: as nothing.
        let found = media.find().map(|stick| stick.map(|s| s.manifest().id)).map_err(|issue| issue.code);
        let known = ["medium-damaged", "medium-foreign", "document-wrong"];
        match found {
            Err(code) => assert!(known.contains(&code.as_str()), "{code} for byte {at}"),
            Ok(id) => assert_eq!(id, Some(MediumId([3; 8])), "byte {at}"),
        }
    }
    for name in ["profiles/desk.json", "profiles/desk.lock.json", medium::KEY, medium::MANIFEST] {
        let damaged = ("medium-damaged".to_owned(), name.to_owned());
        let media = Media::new();
        flip(&media.path(name), if name == medium::MANIFEST { 40 } else { 5 });
        let refused = media.refused();
        assert_eq!(refused, damaged);
        let media = Media::new();
        let text = fs::read(media.path(name)).unwrap();
        fs::write(media.path(name), &text[..text.len() / 2]).unwrap();
        assert_eq!(media.refused(), damaged);
        // A medium without a manifest is one of the older form; anything else that is missing is damage.
        if name != medium::MANIFEST {
            fs::remove_file(media.path(name)).unwrap();
            assert_eq!(media.refused(), damaged);
            std::os::unix::fs::symlink("/dev/zero", media.path(name)).unwrap();
            assert_eq!(media.refused(), damaged);
        }
    }
}

#[test]
fn another_sites_medium_is_foreign_and_none_is_missing() {
    let media = Media::new();
    let manifest = media.find().unwrap().unwrap().manifest;
    media.sign(&manifest, &SigningKey::from_bytes(&[9; 32]));
    assert_eq!(media.refused().0, "medium-foreign");
    media.sign(&Medium { version: 99, ..manifest }, &site());
    assert_eq!(media.refused().0, "document-unreadable");

    fs::remove_file(media.path(medium::MANIFEST)).unwrap();
    assert!(media.find().unwrap().is_none());
    let place = Where::In(media.dir.path().to_owned());
    let runner = RecordingRunner::default();
    let issue = Stick::wait_for(&place, &public(&site()), Duration::ZERO, &runner, &mut |_| {}).unwrap_err();
    assert_eq!(issue.code, MISSING);
}

#[test]
fn packages_are_read_whole_and_a_medium_that_is_gone_is_not_a_damaged_one() {
    let media = Media::new();
    let stick = media.find().unwrap().unwrap();
    let lock: Vec<LockedPackage> = (0..20).map(|n| package(&[n], 1)).collect();
    let issues = stick.check(&lock, &mut |_| {}).unwrap_err().0;
    assert_eq!(issues.len(), MOST_NAMED);
    assert_eq!(issues[0].path, format!("pool/{}", Sha256::of(&[0])));
    for (content, size) in [("dex", 3), ("de", 3), ("deb", 4)] {
        fs::write(media.path("pool").join(Sha256::of(b"deb").to_string()), content).unwrap();
        let issues = stick.check(&[package(b"deb", size)], &mut |_| {}).unwrap_err().0;
        assert_eq!(issues[0].code, "medium-damaged", "{content}");
    }
    fs::rename(media.dir.path().join(medium::DIR), media.dir.path().join("gone")).unwrap();
    assert_eq!(stick.check(&lock, &mut |_| {}).unwrap_err().0[0].code, PULLED);
    assert_eq!(stick.profile("desk").unwrap_err().code, PULLED);
    let mut stick = stick;
    let runner = RecordingRunner::default();
    assert_eq!(stick.ensure(&runner).unwrap_err().code, PULLED);
    fs::rename(media.dir.path().join("gone"), media.dir.path().join(medium::DIR)).unwrap();
    stick.ensure(&runner).unwrap();
}

#[test]
fn two_who_write_a_report_of_the_same_name_both_do() {
    let media = Media::new();
    std::thread::scope(|scope| {
        for text in ["one", "two"] {
            let mut stick = media.find().unwrap().unwrap();
            scope.spawn(move || {
                for _ in 0..100 {
                    let runner = RecordingRunner::default();
                    stick.write_report("run", None, text.as_bytes(), &runner, &mut || {}).unwrap();
                }
            });
        }
    });
    let last = fs::read_to_string(media.path("reports/run.sealed")).unwrap();
    assert!(["one", "two"].contains(&&*last), "{last}");
}

#[test]
fn a_report_replaces_the_one_before_and_nothing_else() {
    let media = Media::new();
    let mut stick = media.find().unwrap().unwrap();
    let runner = RecordingRunner::default();
    for text in ["first", "second"] {
        stick.write_report("run", None, text.as_bytes(), &runner, &mut || {}).unwrap();
    }
    let found = || {
        let names = fs::read_dir(media.path("reports")).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(found(), ["run.sealed"]);
    assert_eq!(fs::read(media.path("reports/run.sealed")).unwrap(), b"second");
    stick.write_report("stranger", None, b"nobody", &runner, &mut || {}).unwrap();
    stick.write_report("run", Some("another"), b"third", &runner, &mut || {}).unwrap();
    assert_eq!(found(), ["run.sealed", "stranger.sealed"]);
    stick.write_report("run", Some("stranger"), b"fourth", &runner, &mut || {}).unwrap();
    assert_eq!(found(), ["run.sealed"]);
    assert_eq!(fs::read(media.path("reports/run.sealed")).unwrap(), b"fourth");
}
