//! The whole way with the archive this machine installs from: verify, choose, fetch, unpack.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use akene_archive::{AptRoot, AptSettings, Deb, Fetcher, host_archive, redirect_policy};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::ids::Sha256;
use akene_protocol::issue::Issues;
use akene_protocol::resolve::Archive;

fn archive_or_say_why() -> Option<Archive> {
    match host_archive(&SystemRunner) {
        Ok(archive) => Some(archive),
        Err(error) => {
            eprintln!("SKIPPED: this machine has no Debian or Ubuntu archive to test with: {error:#}");
            None
        }
    }
}

fn client() -> reqwest::blocking::Client {
    // A second test of this program may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::blocking::Client::builder().redirect(redirect_policy()).build().unwrap()
}

/// Everything that can be seen of a tree: kind, mode, owner, time, size, link target or content's hash, and
/// which names share an inode.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, inodes: &mut BTreeMap<u64, String>, out: &mut BTreeMap<String, String>) {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for path in names {
            let meta = path.symlink_metadata().unwrap();
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            let content = if meta.is_symlink() {
                std::fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_file() {
                let first = inodes.entry(meta.ino()).or_insert_with(|| shown.clone()).clone();
                format!("{} same as {first}", Sha256::of(&std::fs::read(&path).unwrap()))
            } else {
                "directory".into()
            };
            // GNU tar leaves a directory with today's date when a link into it comes late; we do not.
            let time = if meta.is_dir() { 0 } else { meta.mtime() };
            let facts = (meta.permissions().mode(), meta.uid(), meta.gid(), time);
            out.insert(shown, format!("{facts:?} {content}"));
            if meta.is_dir() {
                walk(root, &path, inodes, out);
            }
        }
    }
    let (mut inodes, mut out) = (BTreeMap::new(), BTreeMap::new());
    walk(root, root, &mut inodes, &mut out);
    out
}

#[test]
fn chooses_fetches_and_unpacks_what_dpkg_would() {
    let Some(archive) = archive_or_say_why() else { return };
    let dir = tempfile::tempdir().unwrap();
    let settings = AptSettings {
        archive: &archive,
        keyring: AptSettings::default_keyring(archive.distribution),
        proxy: None,
    };
    let apt = AptRoot::create(&dir.path().join("apt"), &settings).unwrap();
    let mut steps = 0;
    apt.update(&SystemRunner, &mut |_| steps += 1).unwrap();
    assert!(steps > 0, "no progress was told");

    let lock = apt.solve(&SystemRunner, &["zstd".into(), "grub-common".into()], false).unwrap();
    let find = |name: &str| lock.packages.iter().find(|p| p.name == name);
    assert!(find("dpkg").is_some_and(|p| p.base) && find("base-files").is_some_and(|p| p.base));
    assert!(find("grub-common").is_some_and(|p| !p.base));
    assert!(find("usrmerge").is_none(), "the whole of Perl comes with it");
    assert_eq!(lock.packages.iter().filter(|p| p.version.contains('%')).count(), 0);

    // setuid files, hard links, symbolic links, directories with odd modes, other owners.
    let wanted = ["base-files", "passwd", "perl-base", "login", "tzdata", "grub-common", "libc6", "mount"];
    let some: Vec<_> = lock.packages.iter().filter(|p| wanted.contains(&p.name.as_str())).cloned().collect();
    assert_eq!(some.len(), wanted.len());
    let debs = dir.path().join("debs");
    let fetcher = Fetcher::new(client());
    fetcher.fetch(&some, &debs, &|_| {}).unwrap();
    for package in &some {
        let file = debs.join(&package.file);
        let deb = Deb::new(&file);
        let control = deb.control().unwrap();
        assert_eq!((&control["Package"], &control["Version"]), (&package.name, &package.version));
        let (ours, theirs) =
            (dir.path().join("ours").join(&package.name), dir.path().join("theirs").join(&package.name));
        std::fs::create_dir_all(&ours).unwrap();
        deb.extract_into(&ours).unwrap();
        std::fs::create_dir_all(&theirs).unwrap();
        SystemRunner.run(&Cmd::new("dpkg-deb").arg("-x").arg(&file).arg(&theirs)).unwrap();
        let (ours, theirs) = (tree(&ours), tree(&theirs));
        assert!(!ours.is_empty(), "{} is empty", package.name);
        for (path, facts) in &theirs {
            assert_eq!(ours.get(path), Some(facts), "{path} of {}", package.name);
        }
        assert_eq!(ours.len(), theirs.len(), "{} has more than it should", package.name);
    }

    let missing = apt.solve(&SystemRunner, &["grub-comon".into()], false).unwrap_err();
    let issue = &missing.downcast_ref::<Issues>().unwrap().0[0];
    assert_eq!((issue.code.as_str(), issue.path.as_str()), ("package-missing", "grub-comon"));
    assert_eq!(issue.next, "did you mean `grub-common`?");
    let conflict = ["grub-pc".to_owned(), "grub-efi-amd64".to_owned()];
    let conflict = apt.solve(&SystemRunner, &conflict, false).unwrap_err().to_string();
    assert!(conflict.contains("[packages-conflict]") && conflict.contains("Conflicts: "), "{conflict}");
    assert_eq!(apt.locate(&SystemRunner, &["shim-signed".into()]).unwrap().len(), 1);
}

#[test]
fn an_archive_signed_by_another_key_is_refused() {
    let Some(archive) = archive_or_say_why() else { return };
    let dir = tempfile::tempdir().unwrap();
    let other = Path::new("/usr/share/keyrings/debian-archive-removed-keys.gpg");
    if !other.is_file() {
        eprintln!("SKIPPED: there is no {} to stand for a wrong key", other.display());
        return;
    }
    let apt =
        AptRoot::create(dir.path(), &AptSettings { archive: &archive, keyring: other, proxy: None }).unwrap();
    let error = apt.update(&SystemRunner, &mut |_| {}).unwrap_err();
    let issues = &error.downcast_ref::<Issues>().unwrap().0;
    assert!(issues.iter().all(|i| i.code == "archive-signature"), "{error}");
}
