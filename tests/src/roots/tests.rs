use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Aspect, Comparison, Difference, compare};

const STATUS: &str = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nConffiles:\n \
    /etc/a.conf 0cc175b9c0f1b6a831c399e269772661\n\nPackage: b\nStatus: install ok installed\n\
    Architecture: all\nVersion: 2\n";
const ALTERNATIVE: &str = "auto\n/usr/bin/editor\neditor.1\n/usr/share/man/editor.1\n\n/usr/bin/a\n10\n/usr/share/man/a.1\n/usr/bin/b\n5\n/usr/share/man/b.1\n\n";

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)
}

fn date(path: &Path, time: SystemTime) {
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Bytes of `cap_net_raw=ep`.
const RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A little of everything. The dynamic accounts have the numbers given.
fn build(root: &Path, dynamic: u32) {
    let accounts = format!("root:x:0:0::/root:/bin/sh\ngames:x:5:60::/:/bin/sh\nd:x:{dynamic}:{dynamic}::/:");
    put(root, "etc/passwd", &accounts);
    put(root, "etc/group", &format!("root:x:0:\ngames:x:60:\nd:x:{dynamic}:x,y\n"));
    put(root, "etc/shadow", "root:*:20000:0:99999:7:::\n");
    put(root, "etc/a.conf", "a");
    put(root, "usr/bin/a", "program");
    put(root, "usr/bin/of d", "program");
    fs::hard_link(root.join("usr/bin/a"), root.join("usr/bin/b")).unwrap();
    fs::copy(root.join("usr/bin/a"), root.join("usr/bin/c")).unwrap();
    symlink("a", root.join("usr/bin/link")).unwrap();
    put(root, "var/lib/dpkg/status", STATUS);
    put(root, "var/lib/dpkg/info/a.list", "/.\n/usr\n/usr/bin/a\n");
    put(root, "var/lib/dpkg/info/a.md5sums", "0cc175b9c0f1b6a831c399e269772661  usr/bin/a\n");
    put(root, "var/lib/dpkg/diversions", "/usr/bin/x\n/usr/bin/x.real\na\n/usr/bin/y\n/usr/bin/y.real\nb\n");
    put(root, "var/lib/dpkg/statoverride", "root d 2755 /usr/bin/a\n");
    put(root, "var/lib/dpkg/alternatives/editor", ALTERNATIVE);
    symlink("/usr/bin/a", root.join("etc/editor")).unwrap();
    put(root, "var/lib/dpkg/triggers/File", "/usr/share/man man-db/noawait\n/etc/x y\n");
    put(root, "var/lib/apt/extended_states", "Package: b\nArchitecture: amd64\nAuto-Installed: 1\n\n");
    put(root, "var/lib/systemd/deb-systemd-helper-enabled/a.service.dsh-also", "/etc/systemd/a\n/etc/b\n");
    put(
        root,
        "var/cache/debconf/config.dat",
        "Name: q\nTemplate: q\nValue: yes\nOwners: a, b\nFlags: seen\n\n",
    );
    put(root, "var/log/apt/history.log", "once");
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("usr/bin/a", 0o4755);
    chown(root.join("usr/bin/of d"), Some(dynamic), Some(dynamic)).unwrap();
    let raw = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("usr/bin/c"), "security.capability", &RAW, raw).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("usr/null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    date(&root.join("usr/bin/a"), long_ago());
}

/// Two equal roots, one changed, compared. Nothing where not root.
fn after(change: impl FnOnce(&Path)) -> Option<Comparison> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs to be root, to change owners");
        return None;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let since = SystemTime::now() - Duration::from_secs(60);
    let (reference, other) = (dir.path().join("reference"), dir.path().join("other"));
    build(&reference, 101);
    build(&other, 102);
    change(&other);
    Some(compare(&reference, &other, since).unwrap())
}

/// Asserts that a change is found, as exactly these aspects of these paths.
fn finds(expected: &[(&str, Aspect)], change: impl FnOnce(&Path)) {
    let Some(comparison) = after(change) else { return };
    let found: Vec<_> = comparison
        .differences
        .iter()
        .map(|Difference { path, aspect, .. }| (path.to_str().unwrap(), aspect.clone()))
        .collect();
    let expected: Vec<_> = expected.iter().map(|(p, a)| (*p, a.clone())).collect();
    assert_eq!(found, expected, "{comparison}");
}

fn replace(root: &Path, path: &str, from: &str, to: &str) {
    let text = fs::read_to_string(root.join(path)).unwrap();
    assert!(text.contains(from), "{path} does not hold {from:?}");
    fs::write(root.join(path), text.replace(from, to)).unwrap();
}

fn part(text: &str) -> Aspect {
    Aspect::Part(text.into())
}

#[test]
fn numbers_that_are_handed_out_are_no_difference() {
    finds(&[], |_| {});
}

#[test]
fn what_is_said_in_another_order_is_no_difference() {
    finds(&[], |root| {
        put(root, "var/lib/dpkg/triggers/File", "/etc/x y\n/usr/share/man man-db/noawait\n");
        put(
            root,
            "var/lib/dpkg/diversions",
            "/usr/bin/y\n/usr/bin/y.real\nb\n/usr/bin/x\n/usr/bin/x.real\na\n",
        );
        let (a, b) = STATUS.split_once("\n\n").unwrap();
        put(root, "var/lib/dpkg/status", &format!("{b}\n{a}\n"));
        replace(root, "var/cache/debconf/config.dat", "a, b", "b, a");
        replace(root, "etc/group", "x,y", "y,x");
        replace(root, "etc/shadow", "20000", "20001");
        let head = "auto\n/usr/bin/editor\neditor.1\n/usr/share/man/editor.1\n\n";
        let choices = "/usr/bin/b\n5\n/usr/share/man/b.1\n/usr/bin/a\n10\n/usr/share/man/a.1\n\n";
        put(root, "var/lib/dpkg/alternatives/editor", &format!("{head}{choices}"));
    });
}

#[test]
fn a_log_may_differ_and_is_told() {
    let Some(comparison) = after(|root| put(root, "var/log/apt/history.log", "twice")) else { return };
    assert_eq!(comparison.differences, []);
    assert!(comparison.to_string().contains("permitted 1 times: a log"), "{comparison}");
}

#[test]
fn a_mode() {
    finds(&[("usr/bin/c", Aspect::Mode)], |root| {
        fs::set_permissions(root.join("usr/bin/c"), fs::Permissions::from_mode(0o600)).unwrap();
    });
}

#[test]
fn set_user_id() {
    finds(&[("usr/bin/a", Aspect::Mode), ("usr/bin/b", Aspect::Mode)], |root| {
        fs::set_permissions(root.join("usr/bin/a"), fs::Permissions::from_mode(0o755)).unwrap();
    });
}

#[test]
fn owners_by_name_and_by_number() {
    // 101 is nobody in the other root, and games is games everywhere.
    finds(&[("usr/bin/of d", Aspect::User)], |root| {
        chown(root.join("usr/bin/of d"), Some(101), None).unwrap();
    });
    finds(&[("usr/bin/link", Aspect::Group)], |root| {
        lchown(root.join("usr/bin/link"), None, Some(60)).unwrap();
    });
}

#[test]
fn an_account() {
    finds(&[("etc/passwd", part("games"))], |root| replace(root, "etc/passwd", "games:x:5:", "games:x:6:"));
    finds(&[("etc/group", part("d"))], |root| replace(root, "etc/group", "x,y", "x"));
    finds(&[("etc/shadow", part("root"))], |root| replace(root, "etc/shadow", "root:*", "root:"));
}

#[test]
fn a_lost_capability() {
    finds(&[("usr/bin/c", Aspect::Attribute("security.capability".into()))], |root| {
        rustix::fs::removexattr(root.join("usr/bin/c"), "security.capability").unwrap();
    });
}

#[test]
fn a_lost_hard_link() {
    let both = [("usr/bin/a", Aspect::HardLinks), ("usr/bin/b", Aspect::HardLinks)];
    finds(&both, |root| {
        let (a, b) = (root.join("usr/bin/a"), root.join("usr/bin/b"));
        fs::remove_file(&b).unwrap();
        fs::copy(&a, &b).unwrap();
        date(&b, long_ago());
    });
}

#[test]
fn a_link_a_device_and_a_kind() {
    finds(&[("usr/bin/link", Aspect::Target)], |root| {
        fs::remove_file(root.join("usr/bin/link")).unwrap();
        symlink("b", root.join("usr/bin/link")).unwrap();
    });
    finds(&[("usr/bin/link", Aspect::Kind)], |root| {
        fs::remove_file(root.join("usr/bin/link")).unwrap();
        fs::create_dir(root.join("usr/bin/link")).unwrap();
    });
    finds(&[("usr/null", Aspect::Device)], |root| {
        fs::remove_file(root.join("usr/null")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("usr/null"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::from_raw_mode(0o666),
            rustix::fs::makedev(1, 5),
        )
        .unwrap();
    });
}

#[test]
fn bytes_and_names() {
    finds(&[("etc/a.conf", Aspect::Content)], |root| put(root, "etc/a.conf", "b"));
    finds(&[("etc/a.conf", Aspect::Missing)], |root| fs::remove_file(root.join("etc/a.conf")).unwrap());
    finds(&[("etc/a.conf.dpkg-new", Aspect::Extra)], |root| put(root, "etc/a.conf.dpkg-new", "a"));
    finds(&[("var/lib/dpkg/info/a.md5sums", Aspect::Content)], |root| {
        put(root, "var/lib/dpkg/info/a.md5sums", "");
    });
}

#[test]
fn the_time_of_a_packaged_file() {
    let both = [("usr/bin/a", Aspect::Time), ("usr/bin/b", Aspect::Time)];
    finds(&both, |root| date(&root.join("usr/bin/a"), SystemTime::now()));
}

#[test]
fn the_state_of_packages() {
    let status = "var/lib/dpkg/status";
    let field = |of: &str| [(status, part(of))];
    finds(&field("a:amd64 Status"), |root| {
        replace(root, status, "ok installed\nArchitecture: amd64", "ok unpacked\nArchitecture: amd64")
    });
    finds(&field("a:amd64 Conffiles"), |root| {
        replace(root, status, "0cc175b9c0f1b6a831c399e269772661", "newconffile")
    });
    finds(&field("b:all Triggers-Pending"), |root| {
        replace(root, status, "Version: 2\n", "Version: 2\nTriggers-Pending: ldconfig\n")
    });
    finds(&field("b:all Version"), |root| replace(root, status, "Version: 2", "Version: 3"));
    let lost =
        ["Architecture", "Package", "Status", "Version"].map(|f| (status, part(&format!("b:all {f}"))));
    finds(&lost, |root| {
        let (a, _) = STATUS.split_once("\n\n").unwrap();
        put(root, status, &format!("{a}\n"));
    });
}

#[test]
fn the_rest_of_the_database() {
    for (path, from, to, statement) in [
        ("var/lib/dpkg/info/a.list", "/usr/bin/a\n", "", "/usr/bin/a"),
        ("var/lib/dpkg/statoverride", "root d 2755 /usr/bin/a\n", "", "root d 2755 /usr/bin/a"),
        ("var/lib/dpkg/alternatives/editor", "auto", "manual", "mode"),
        ("var/lib/dpkg/alternatives/editor", "\n5\n", "\n50\n", "choice /usr/bin/b"),
        ("var/lib/dpkg/alternatives/editor", "man/b.1", "man/c.1", "choice /usr/bin/b, slave editor.1"),
        ("var/lib/dpkg/triggers/File", "/etc/x y\n", "", "/etc/x y"),
        ("var/lib/systemd/deb-systemd-helper-enabled/a.service.dsh-also", "/etc/b\n", "", "/etc/b"),
        ("var/cache/debconf/config.dat", "Value: yes", "Value: no", "q Value"),
        ("var/cache/debconf/config.dat", "a, b", "a", "q Owners"),
    ] {
        finds(&[(path, part(statement))], |root| replace(root, path, from, to));
    }
    let lost = "/usr/bin/x /usr/bin/x.real a";
    finds(&[("var/lib/dpkg/diversions", part(lost))], |root| {
        replace(root, "var/lib/dpkg/diversions", "/usr/bin/x\n/usr/bin/x.real\na\n", "");
    });
}
