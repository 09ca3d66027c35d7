//! Packages made by somebody who means harm, or by a broken disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use akene_archive::{Deb, Root};
use proptest::prelude::*;

/// One member of an `ar`.
fn member(out: &mut Vec<u8>, name: &str, content: &[u8]) {
    out.extend(
        format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).into_bytes(),
    );
    out.extend(content);
    if content.len() % 2 == 1 {
        out.push(b'\n');
    }
}

/// A package whose data archive is this tar.
fn deb(dir: &Path, tar: &[u8]) -> Deb {
    let mut file = b"!<arch>\n".to_vec();
    member(&mut file, "debian-binary", b"2.0\n");
    member(&mut file, "control.tar", &[0; 1024]);
    member(&mut file, "data.tar", tar);
    let path = dir.join("p.deb");
    fs::write(&path, file).unwrap();
    Deb::new(path)
}

enum Is<'a> {
    File(&'a str),
    Dir,
    Link(&'a str),
    Hard(&'a str),
    Device,
}

/// A tar with names as they are: the builder of the crate would refuse some of them.
fn tar(entries: &[(&str, Is<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, is) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let (kind, link, content) = match is {
            Is::File(content) => (tar::EntryType::Regular, "", *content),
            Is::Dir => (tar::EntryType::Directory, "", ""),
            Is::Link(to) => (tar::EntryType::Symlink, *to, ""),
            Is::Hard(to) => (tar::EntryType::Link, *to, ""),
            Is::Device => (tar::EntryType::Block, "", ""),
        };
        header.set_entry_type(kind);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(content.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// A place with a root in it and something beside it that must not change.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::create_dir(dir.path().join("beside")).unwrap();
    fs::write(dir.path().join("beside/file"), "untouched").unwrap();
    dir
}

fn assert_untouched(dir: &Path) {
    assert_eq!(fs::read_to_string(dir.join("beside/file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(dir.join("beside")).unwrap().count(), 1);
}

#[test]
fn no_link_leads_out_of_the_root() {
    let dir = place();
    let outside = dir.path().join("beside");
    let outside = outside.to_str().unwrap();
    let attempts: [&[(&str, Is<'_>)]; 6] = [
        &[("a", Is::Link(outside)), ("a/file", Is::File("gotcha"))],
        &[("b", Is::Link("../beside")), ("b/file", Is::File("gotcha"))],
        &[("c", Is::Link("../../../../../../../../")), ("c/etc/akene-was-here", Is::File("gotcha"))],
        &[("../beside/file", Is::File("gotcha"))],
        &[("d/../../beside/file", Is::File("gotcha"))],
        &[("e", Is::Hard("../beside/file"))],
    ];
    for entries in attempts {
        // Refused, or done inside the root: both are right, as long as nothing beside it changes.
        Deb::extract_into(&deb(dir.path(), &tar(entries)), &dir.path().join("root")).ok();
        assert_untouched(dir.path());
    }
    assert!(!Path::new("/etc/akene-was-here").exists());
    // An absolute link is a path of the root's own.
    assert_eq!(
        fs::read_to_string(dir.path().join("root").join(&outside[1..]).join("file")).unwrap_or_default(),
        ""
    );
}

#[test]
fn absolute_links_begin_at_the_root() {
    let dir = place();
    let entries = [
        ("real/", Is::Dir),
        ("link", Is::Link("/real")),
        ("link/file", Is::File("here")),
        ("hard", Is::Hard("link/file")),
    ];
    let root = dir.path().join("root");
    deb(dir.path(), &tar(&entries)).extract_into(&root).unwrap();
    assert_eq!(fs::read_to_string(root.join("real/file")).unwrap(), "here");
    assert_eq!(fs::metadata(root.join("hard")).unwrap().nlink(), 2);
}

#[test]
fn merged_usr_stays_and_directories_keep_their_mode() {
    let dir = place();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    let entries = [("./bin/", Is::Dir), ("./bin/tool", Is::File("x")), ("./tmp/", Is::Dir)];
    deb(dir.path(), &tar(&entries)).extract_into(&root).unwrap();
    assert!(root.join("bin").is_symlink() && root.join("usr/bin/tool").is_file());
    assert_eq!(fs::metadata(root.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    // Again, over what is there.
    deb(dir.path(), &tar(&entries)).extract_into(&root).unwrap();
}

#[test]
fn devices_and_things_in_the_way_are_refused() {
    let dir = place();
    let root = dir.path().join("root");
    let error = deb(dir.path(), &tar(&[("sda", Is::Device)])).extract_into(&root).unwrap_err();
    assert!(format!("{error:#}").contains("must not hold an entry of the kind Block"), "{error:#}");
    fs::create_dir(root.join("etc")).unwrap();
    let error = deb(dir.path(), &tar(&[("etc", Is::File("x"))])).extract_into(&root).unwrap_err();
    assert!(format!("{error:#}").contains("there is a directory of that name"), "{error:#}");
    fs::write(root.join("file"), "x").unwrap();
    assert!(deb(dir.path(), &tar(&[("file/", Is::Dir)])).extract_into(&root).is_err());
}

#[test]
fn the_root_itself_cannot_be_left_either() {
    let dir = place();
    let path = dir.path().join("root");
    symlink(dir.path().join("beside"), path.join("etc")).unwrap();
    let mut root = Root::open(&path).unwrap();
    assert!(root.write("etc/file", "gotcha", 0o644).is_err() || !path.join("etc/file").exists());
    assert!(root.write("../beside/file", "gotcha", 0o644).is_err());
    assert_untouched(dir.path());
    assert!(root.read("etc/file").unwrap().is_none() && !root.exists("etc/file"));
    root.remove("etc").unwrap();
    root.write("/etc/deep/er/file", "text", 0o600).unwrap();
    root.write("etc/deep/er/file", "other", 0o640).unwrap();
    assert_eq!(root.read("etc/deep/er/file").unwrap().unwrap(), b"other");
    assert_eq!(fs::metadata(path.join("etc/deep/er/file")).unwrap().permissions().mode() & 0o777, 0o640);
    root.remove("etc/nothing/here").unwrap();
    assert_untouched(dir.path());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn garbage_is_an_error_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let dir = place();
        let path = dir.path().join("p.deb");
        for start in [&b""[..], b"!<arch>\n"] {
            fs::write(&path, [start, &bytes].concat()).unwrap();
            prop_assert!(Deb::new(&path).control().is_err());
            prop_assert!(Deb::new(&path).extract_into(&dir.path().join("root")).is_err());
        }
        // Garbage as a tar, in every compression.
        for name in ["data.tar", "data.tar.gz", "data.tar.xz", "data.tar.zst"] {
            let mut file = b"!<arch>\n".to_vec();
            member(&mut file, name, &bytes);
            fs::write(&path, file).unwrap();
            Deb::new(&path).extract_into(&dir.path().join("root")).ok();
        }
        assert_untouched(dir.path());
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_harmless(at in 0usize..10_000, bit in 0u8..8) {
        let dir = place();
        let mut tar = tar(&[("usr/", Is::Dir), ("usr/a", Is::File("text")), ("b", Is::Link("usr/a")), ("c", Is::Hard("usr/a"))]);
        let at = at % tar.len();
        tar[at] ^= 1 << bit;
        deb(dir.path(), &tar).extract_into(&dir.path().join("root")).ok();
        assert_untouched(dir.path());
    }
}
