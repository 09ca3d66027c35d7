//! What archives and packages are made of.
//!
//! Indexes are read and signatures judged by apt itself; ours are its answers, what a release says of itself, and the packages.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_archive::fuzz::described;
use akene_archive::{AptRoot, AptSettings, Deb, Engine, Later};
use akene_exec::Cmd;
use akene_protocol::lock::Release;
use akene_protocol::profile::{Apt, Distribution};
use akene_protocol::resolve::Archive;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::{Said, scratch};

/// Where seeds try to write. Nobody else has business there.
pub const BESIDE: &str = "/dev/shm/akene-beside";

/// What lies there.
const GUARD: &str = "untouched";

thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

/// A place with a root in it and something beside it that must not change.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: scratch() };
        for dir in [place.dir.path().join("beside"), BESIDE.into()] {
            fs::create_dir_all(&dir).unwrap();
            let file = dir.join("file");
            if !file.exists() {
                // In one step: another thread may look.
                let mut fresh = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
                std::io::Write::write_all(&mut fresh, GUARD.as_bytes()).unwrap();
                fs::set_permissions(fresh.path(), fs::Permissions::from_mode(0o640)).unwrap();
                fresh.persist(&file).unwrap();
            }
        }
        place
    }

    fn with(act: impl FnOnce(&Path)) {
        PLACE.with_borrow_mut(|place| {
            let place = place.get_or_insert_with(Place::new);
            let root = place.dir.path().join("root");
            fs::create_dir(&root).unwrap();
            act(place.dir.path());
            fs::remove_dir_all(&root).unwrap();
            place.untouched();
        });
    }

    fn untouched(&self) {
        let names = |dir: &Path| -> Vec<PathBuf> {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
            names.sort();
            names
        };
        let here = self.dir.path();
        assert_eq!(names(here), [here.join("beside"), here.join("p.deb")], "something new beside the root");
        for dir in [&here.join("beside"), Path::new(BESIDE)] {
            let file = dir.join("file");
            assert_eq!(names(dir), std::slice::from_ref(&file), "something new beside the root");
            assert_eq!(fs::read_to_string(&file).unwrap(), GUARD, "{} was changed", file.display());
            let meta = file.symlink_metadata().unwrap();
            assert_eq!((meta.mode(), meta.nlink()), (0o100_640, 1), "{} was changed", file.display());
        }
    }
}

/// A member of an `ar`.
pub fn member(out: &mut Vec<u8>, name: &str, content: &[u8]) {
    let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len());
    out.extend(header.into_bytes());
    out.extend(content);
    if content.len() % 2 == 1 {
        out.push(b'\n');
    }
}

/// A package with these members.
pub fn package(control: (&str, &[u8]), data: (&str, &[u8])) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    member(&mut out, "debian-binary", b"2.0\n");
    member(&mut out, control.0, control.1);
    member(&mut out, data.0, data.1);
    out
}

/// A header of a tar.
pub fn tar_header(name: &str, kind: u8, link: &str, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "14000000000\0");
    put(157, link);
    put(257, "ustar\x0000");
    header[156] = kind;
    sum(&mut header);
    header
}

/// Puts the right sum into a tar's header.
fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A package as it is: looked at, unpacked as for an image, laid into a root as by the installer.
pub fn deb(data: &[u8]) {
    Place::with(|place| {
        let file = place.join("p.deb");
        fs::write(&file, data).unwrap();
        let deb = Deb::new(&file);
        deb.control().ok();
        deb.extract_into(&place.join("root")).ok();
    });
    laid(data, |_| {});
}

/// A control part that is in order.
fn good_control() -> Vec<u8> {
    let text = "Package: seed\nVersion: 1\nArchitecture: all\n";
    control_part(&[("control", text.as_bytes()), ("conffiles", b"/etc/a\n")])
}

/// The tar of a control part.
fn control_part(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, content) in files {
        tar.extend(tar_header(&format!("./{name}"), b'0', "", content.len()));
        tar.extend(*content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// Lays a package into a root that `prepare` has had, with programs that do nothing and say so.
fn laid(package: &[u8], prepare: impl FnOnce(&Path)) {
    Place::with(|place| {
        let (file, root) = (place.join("p.deb"), place.join("root"));
        fs::write(&file, package).unwrap();
        prepare(&root);
        let runner = Said { text: Vec::new(), code: 0 };
        // Where it is noted what can be made ahead; nothing runs here that would ask for more.
        let tools = place.join("tools");
        fs::create_dir(&tools).unwrap();
        let later = Later::new(&tools, &root);
        let result = Engine::new(&root, &runner, |program| Cmd::new(program), &later, &[], &[file])
            .and_then(|mut engine| engine.unpack(&mut |_| {}));
        fs::remove_dir_all(&tools).unwrap();
        let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap_or_default();
        one_package(&status, result.is_ok());
    });
}

/// dpkg's database has one package at most, and none that says more of itself than it may.
fn one_package(status: &str, good: bool) {
    let paragraphs: Vec<&str> = status.split("\n\n").filter(|p| !p.trim().is_empty()).collect();
    assert!(paragraphs.len() <= 1, "{status:?}");
    let [paragraph] = paragraphs[..] else { return };
    assert!(good, "it is in the database, although it was refused: {status:?}");
    let is = |line: &str, name: &str| {
        // dpkg takes blanks before the colon, and does not care for case.
        line.split_once(':').is_some_and(|(field, _)| field.trim_end().eq_ignore_ascii_case(name))
    };
    let count = |name: &str| paragraph.split('\n').filter(|line| is(line, name)).count();
    assert_eq!((count("Package"), count("Status")), (1, 1), "{status:?}");
    assert!(count("Conffiles") <= 1 && count("Triggers-Pending") == 0, "{status:?}");
    let state = paragraph.split('\n').find(|line| is(line, "Status"));
    assert_eq!(state, Some("Status: install ok unpacked"), "{status:?}");
}

/// A tar: its headers get their right sums, or hardly an input would be read beyond the first.
pub fn tar(data: &[u8]) {
    let mut tar = data.to_vec();
    tar.truncate(256 << 10);
    tar.resize(tar.len().next_multiple_of(512), 0);
    let mut at = 0;
    while at < tar.len() {
        let header = &mut tar[at..at + 512];
        if header.iter().all(|b| *b == 0) {
            break;
        }
        sum(header);
        let digits = String::from_utf8_lossy(&header[124..135]).into_owned();
        let size = usize::from_str_radix(digits.trim_matches([' ', '\0']), 8).unwrap_or(0);
        at += 512 + size.min(tar.len()).next_multiple_of(512);
    }
    deb(&package(("control.tar", &good_control()), ("data.tar", &tar)));
}

/// The text of `control`, in a package around it.
pub fn control(data: &[u8]) {
    let package = package(("control.tar", &control_part(&[("control", data)])), ("data.tar", &[0; 1024]));
    Place::with(|place| {
        let file = place.join("p.deb");
        fs::write(&file, &package).unwrap();
        let read = Deb::new(&file).control();
        // Text is read, whatever it says; a mebibyte is more than a control file has.
        assert_eq!(read.is_ok(), std::str::from_utf8(data).is_ok() || data.len() > 1 << 20, "{read:?}");
    });
    laid(&package, |_| {});
}

/// Between the files in an input of [`database`].
const CUT: &[u8] = b"\n#####\n";

/// The small files dpkg and packages tell each other things in: `control`, `conffiles`, `triggers`, `md5sums` of a
/// package; `diversions`, `statoverride`, file triggers and accounts of the root.
pub fn database(data: &[u8]) {
    let mut rest = data;
    let mut next = || {
        let end = rest.windows(CUT.len()).position(|w| w == CUT);
        let (part, more) = rest.split_at(end.unwrap_or(rest.len()));
        rest = more.get(CUT.len()..).unwrap_or_default();
        part
    };
    let control = control_part(&["control", "conffiles", "triggers", "md5sums"].map(|name| (name, next())));
    let root_files = [
        "var/lib/dpkg/diversions",
        "var/lib/dpkg/statoverride",
        "var/lib/dpkg/triggers/File",
        "etc/passwd",
        "etc/group",
    ]
    .map(|path| (path, next()));
    let mut tar = Vec::new();
    for (name, kind) in [("./etc/", b'5'), ("./etc/a", b'0'), ("./usr/", b'5'), ("./usr/b", b'0')] {
        tar.extend(tar_header(name, kind, "", 0));
    }
    tar.resize(tar.len() + 1024, 0);
    laid(&package(("control.tar", &control), ("data.tar", &tar)), |root| {
        for (path, content) in root_files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    });
}

thread_local! {
    static APT: (tempfile::TempDir, AptRoot) = apt_root();
}

fn apt_root() -> (tempfile::TempDir, AptRoot) {
    let dir = scratch();
    let mirrors = |path: &str| ["a", "b"].map(|host| format!("http://{host}.example.org/{path}")).into();
    let archive = Archive::new(Apt {
        distribution: Some(Distribution::Debian),
        suite: Some("bookworm".into()),
        mirrors: mirrors("debian"),
        security_mirrors: mirrors("debian-security"),
        ..Apt::default()
    });
    let keyring = dir.path().join("keyring.gpg");
    fs::write(&keyring, "").unwrap();
    let settings = AptSettings { archive: &archive.unwrap(), keyring: &keyring, proxy: None };
    let root = AptRoot::create(&dir.path().join("apt"), &settings).unwrap();
    // A mirror in the middle of an update is not waited for.
    (dir, root.patience(Duration::from_millis(1)))
}

/// A release file with its signatures, and packets in the armour of one.
pub fn release(data: &[u8]) {
    let body = BASE64.encode(data);
    let armoured =
        format!("Origin: a\n-----BEGIN PGP SIGNATURE-----\n\n{body}\n-----END PGP SIGNATURE-----\n");
    for bytes in [data, armoured.as_bytes()] {
        let release = described(bytes);
        let hex =
            |key: &String| !key.is_empty() && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        // An empty fingerprint is none.
        assert!(release.keys.iter().all(hex), "{:?}", release.keys);
        let text = serde_json::to_string(&release).unwrap();
        assert_eq!(serde_json::from_str::<Release>(&text).unwrap(), release);
    }
}

/// What apt prints, when it ends well and when it does not.
pub fn apt(data: &[u8]) {
    APT.with(|(_, root)| {
        let good = Said { text: data.to_vec(), code: 0 };
        let bad = Said { text: data.to_vec(), code: 100 };
        let names = ["less".to_owned()];
        if let Ok(packages) = root.locate(&good, &names) {
            for package in packages {
                // The name of a file in a directory of ours.
                assert!(!package.urls.is_empty(), "{package:?}");
                assert!(!package.file.contains('/'), "{package:?}");
            }
        }
        root.update(&good, &mut |_| {}).ok();
        root.known(&good, &["less", "more"]).ok();
        root.locate(&bad, &names).unwrap_err();
        root.update(&bad, &mut |_| {}).unwrap_err();
    });
}
