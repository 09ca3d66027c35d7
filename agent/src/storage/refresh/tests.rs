use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use akene_exec::SystemRunner;

use super::*;

/// Every path below a directory with what it holds.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let held = match (meta.is_dir(), meta.is_symlink()) {
                (true, _) => format!("directory of {}", meta.uid()),
                (_, true) => format!("link to {}", path.read_link().unwrap().display()),
                _ => format!("{} of {}", std::fs::read_to_string(&path).unwrap(), meta.uid()),
            };
            found.insert(path.strip_prefix(dir).unwrap().display().to_string(), held);
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

#[test]
fn everything_but_the_homes_goes_and_no_link_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("precious"), "precious").unwrap();
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    for dir in ["etc", "usr/bin", "home/ana/Documents", "lost+found", ".akene-stage", "boot"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    std::fs::write(at("home/ana/Documents/letter"), "dear all").unwrap();
    std::fs::write(at("etc/passwd"), "old").unwrap();
    std::fs::write(at(".akene-stage/x.deb"), "new").unwrap();
    symlink(outside.path(), at("out")).unwrap();
    symlink(outside.path(), at("etc/out")).unwrap();
    symlink("../home", at("usr/home")).unwrap();
    // Deeper than descriptors reach.
    let mut deep = at("deep");
    for _ in 0..350 {
        deep.push("d");
    }
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "deep").unwrap();

    let homes = tree(&at("home"));
    empty(top.path(), &[".akene-stage"]).unwrap_or_else(|e| panic!("{e:#}"));
    let mut left: Vec<_> = std::fs::read_dir(top.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".akene-stage", "home", "lost+found"]);
    assert_eq!(tree(&at("home")), homes);
    assert!(at(".akene-stage/x.deb").exists());
    assert_eq!(std::fs::read_to_string(outside.path().join("precious")).unwrap(), "precious");
    // Again, as after a power cut.
    empty(top.path(), &[]).unwrap();
    assert_eq!(tree(&at("home")), homes);
}

#[test]
fn what_is_marked_as_unchangeable_goes_too() {
    let top = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = top.path().join("etc/resolv.conf");
    std::fs::create_dir_all(top.path().join("home")).unwrap();
    std::fs::create_dir_all(top.path().join("etc")).unwrap();
    std::fs::write(&file, "nameserver 127.0.0.1").unwrap();
    let mark = |path: &Path| SystemRunner.run(&Cmd::new("chattr").arg("+i").arg(path)).is_ok();
    if !mark(&file) || !mark(&top.path().join("etc")) {
        eprintln!("SKIPPED: files cannot be marked here");
        return;
    }
    empty(top.path(), &[]).unwrap_or_else(|e| panic!("{e:#}"));
    assert!(!top.path().join("etc").exists());
}

#[test]
fn homes_that_are_elsewhere_stop_it_before_anything_is_removed() {
    let (top, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(top.path().join("vmlinuz"), "old").unwrap();
    assert!(empty(top.path(), &[]).is_err());
    symlink(other.path(), top.path().join("home")).unwrap();
    assert!(empty(top.path(), &[]).is_err());
    assert!(top.path().join("vmlinuz").exists());
}

#[test]
fn what_is_mounted_below_is_not_touched_and_what_it_hides_is_removed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: mounting needs root");
        return;
    }
    std::thread::spawn(|| {
        akene_exec::own_mounts().unwrap();
        let top = tempfile::tempdir().unwrap();
        for dir in ["home/ana", "boot", "proc"] {
            std::fs::create_dir_all(top.path().join(dir)).unwrap();
        }
        std::fs::write(top.path().join("boot/vmlinuz-old"), "hidden").unwrap();
        std::fs::write(top.path().join("home/ana/letter"), "dear all").unwrap();
        let boot = top.path().join("boot");
        mount(Some("tmpfs"), &boot, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        std::fs::write(boot.join("installer"), "ours").unwrap();
        let root = MountedPartition {
            role: akene_planner::Role::Root,
            device: "/dev/null".into(),
            disk: "/dev/null".into(),
            number: 2,
            uuid: None,
            partuuid: None,
            fstype: None,
            label: None,
            mount: Some("/".into()),
            kept: true,
        };
        let layout = Layout { root: top.path().into(), partitions: vec![root], disks: vec![] };
        empty_root(&layout, &[], &SystemRunner).unwrap_or_else(|e| panic!("{e:#}"));
        assert_eq!(std::fs::read_to_string(boot.join("installer")).unwrap(), "ours");
        umount2(&boot, MntFlags::empty()).unwrap();
        assert!(!boot.join("vmlinuz-old").exists(), "what the mount hid is gone");
        assert!(top.path().join("home/ana/letter").exists());
        assert!(!top.path().join("proc").exists());
    })
    .join()
    .unwrap();
}
