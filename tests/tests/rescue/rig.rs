//! What the tests of rescue share: disks with old systems and homes, a machine that has these alone, and other eyes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use akene_agent::probe::ProbeRoot;
use akene_agent::rescue::copy::{self, Done, Wish};
use akene_agent::rescue::open::{Purpose, open};
use akene_agent::rescue::volumes::{self, Volume};
use akene_agent::rescue::{Rescue, find};
use akene_agent::storage::image::Image;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::inventory::Inventory;
use akene_protocol::{Bytes, Issue, Language};
use akene_tests::disks::{MIB, run};

/// A disk image of this size with a table of these partitions (sfdisk lines).
pub fn disk(file: &Path, mib: u64, label: &str, partitions: &str) -> Image {
    let image = Image::create(file, Bytes(mib * MIB), 512).unwrap();
    let script = format!("label: {label}\n{partitions}");
    let sfdisk = Cmd::new("sfdisk").args(["-q", "--no-reread", "--no-tell-kernel"]).arg(image.path());
    SystemRunner.run(&sfdisk.stdin(script)).unwrap();
    image.show_partitions().unwrap();
    image
}

pub fn node(image: &Image, number: u32) -> String {
    format!("{}p{number}", image.path().display())
}

pub fn name(image: &Image, number: u32) -> String {
    node(image, number).trim_start_matches("/dev/").to_owned()
}

/// A machine with these disks and no others: the menu is answered by numbers.
pub fn rescue(dir: &Path, images: &[&Image]) -> Rescue<'static> {
    let sys = dir.join("sys");
    fs::create_dir_all(sys.join("block")).unwrap();
    for image in images {
        let name = image.path().file_name().unwrap();
        let link = sys.join("block").join(name);
        if !link.exists() {
            symlink(Path::new("/sys/block").join(name), link).unwrap();
        }
    }
    let also = images.iter().map(|i| i.path().to_owned()).collect();
    Rescue {
        runner: &SystemRunner,
        probe: ProbeRoot { sys, also, ..ProbeRoot::default() },
        language: Language::En,
    }
}

pub fn machine(rescue: &Rescue<'_>) -> (Inventory, Vec<Volume>) {
    let machine = rescue.machine();
    let volumes = volumes::list(&machine);
    (machine, volumes)
}

pub fn sum(device: &Path) -> String {
    let device = device.to_str().unwrap();
    run("sync", &[]);
    run("blockdev", &["--flushbufs", device]);
    run("sha256sum", &[device])
}

pub fn code(error: &anyhow::Error) -> &str {
    error.downcast_ref::<Issue>().map_or("none", |i| &i.code)
}

/// A directory for `mkfs -d` with what a home can hold.
pub fn tree(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
    let tree = dir.join("tree");
    fs::remove_dir_all(&tree).ok();
    for (path, content) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    tree
}

/// Everything of a directory: content, kind, owner, mode, time, number of names, attributes.
pub fn everything(dir: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            open.extend(Some(entry.path()).filter(|_| entry.file_type().unwrap().is_dir()));
            found.push(entry.path());
        }
    }
    for path in &found {
        let meta = path.symlink_metadata().unwrap();
        let content = match (meta.is_file(), meta.is_symlink()) {
            (true, _) => format!("{:?}", akene_protocol::Sha256::of(&fs::read(path).unwrap())),
            (_, true) => format!("-> {}", fs::read_link(path).unwrap().display()),
            _ => String::new(),
        };
        let mut buffer = vec![0_u8; 4096];
        let size = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap();
        let names: Vec<String> = buffer[..size]
            .split(|b| *b == 0)
            .filter(|n| !n.is_empty())
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .collect();
        let mut attributes = String::new();
        for attribute in names {
            let mut value = vec![0_u8; 4096];
            let size = rustix::fs::lgetxattr(path, &*attribute, &mut value[..]).unwrap();
            attributes += &format!("{attribute}={:?} ", &value[..size]);
        }
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let size = if meta.is_dir() { 0 } else { meta.len() };
        all.insert(
            path.strip_prefix(dir).unwrap().display().to_string(),
            format!(
                "{:o} {}:{} {}.{} {size} links {links} {attributes}{content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
            ),
        );
    }
    all
}

/// Mounts a volume to be looked at, and unmounts it.
pub fn seen<T>(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    volume: &Volume,
    at: &Path,
    see: impl FnOnce(&Path) -> T,
) -> T {
    let opened = open(rescue.runner, machine, volume, at, Purpose::Look, "").unwrap();
    let seen = see(opened.at());
    opened.close().unwrap();
    seen
}

/// A home with all that makes copying hard.
pub fn hard_home(home: &Path) {
    fs::create_dir_all(home.join("Documents/été 2024")).unwrap();
    let file = |path: &str, content: &[u8], mode: u32, owner: u32| {
        let path = home.join(path);
        fs::write(&path, content).unwrap();
        chown(&path, Some(owner), Some(owner + 1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    file("Documents/letter.odt", b"dear all", 0o640, 1000);
    file("Documents/été 2024/plage.jpg", &[7; 300_000], 0o600, 1000);
    file("Documents/ new\nline* 'quoted'", b"odd", 0o644, 4242);
    file(".bashrc", b"", 0o644, 1000);
    file("program", b"#!/bin/sh\n", 0o4755, 1000);
    fs::hard_link(home.join("Documents/letter.odt"), home.join("the same letter")).unwrap();
    symlink("Documents/letter.odt", home.join("link")).unwrap();
    symlink("/nowhere/at/all", home.join("broken link")).unwrap();
    let big = fs::File::create(home.join("disk.vdi")).unwrap();
    big.set_len(24 * MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&big, b"end", 24 * MIB - 3).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(home.join(".bashrc"), "user.comment", b"from \xff Ana", flags).unwrap();
    rustix::fs::setxattr(home.join("program"), "trusted.note", b"t", flags).unwrap();
    run("touch", &["-h", "-d", "2019-03-04 05:06:07.123456789", home.join("link").to_str().unwrap()]);
    run("touch", &["-d", "2001-02-03 04:05:06.789", home.join("Documents/letter.odt").to_str().unwrap()]);
    run("touch", &["-d", "2002-02-03", home.join("Documents").to_str().unwrap()]);
    chown(home, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o750)).unwrap();
}

/// A disk with an old system in whose root lie homes, and one with a filesystem to save them on.
pub struct TwoDisks {
    pub dir: tempfile::TempDir,
    pub old: Image,
    pub stick: Image,
}

impl TwoDisks {
    pub fn new(stick_mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let old = disk(&dir.path().join("old.img"), 130, "dos", "start=1MiB,size=128MiB,type=83\n");
        let root = tree(dir.path(), &[("etc/os-release", "PRETTY_NAME=\"Old Linux\"\n"), ("usr/bin/x", "")]);
        hard_home(&root.join("home/ana"));
        fs::create_dir_all(root.join("home/ben")).unwrap();
        fs::write(root.join("home/ben/.profile"), "his").unwrap();
        // mkfs would lose attributes and times.
        run("mkfs.ext4", &["-q", "-L", "system", &node(&old, 1)]);
        let place = dir.path().join("fill");
        fs::create_dir(&place).unwrap();
        run("mount", &[&node(&old, 1), place.to_str().unwrap()]);
        run("cp", &["-a", &format!("{}/.", root.display()), place.to_str().unwrap()]);
        run("umount", &[place.to_str().unwrap()]);
        let stick = disk(
            &dir.path().join("stick.img"),
            stick_mib + 2,
            "dos",
            &format!("start=1MiB,size={stick_mib}MiB,type=83\n"),
        );
        run("mkfs.ext4", &["-q", "-L", "stick", &node(&stick, 1)]);
        TwoDisks { dir, old, stick }
    }

    pub fn rescue(&self) -> Rescue<'static> {
        rescue(self.dir.path(), &[&self.old, &self.stick])
    }

    pub fn wish(&self, rescue: &Rescue<'_>) -> (Inventory, Wish) {
        let (machine, volumes) = machine(rescue);
        let source = find(&volumes, &name(&self.old, 1)).unwrap().clone();
        let (people, closed) = copy::whose(rescue, &machine, &[&source]).unwrap();
        assert!(closed.is_empty(), "{closed:?}");
        let target = find(&volumes, &name(&self.stick, 1)).unwrap().clone();
        (machine, Wish { sources: vec![source], people, target, archive: false, part: copy::PART })
    }

    pub fn save(&self, rescue: &Rescue<'_>) -> Done {
        let (machine, wish) = self.wish(rescue);
        copy::carry_out(rescue, &machine, &wish, &mut |_| {}).unwrap()
    }

    /// Looks at what is saved and at the source.
    pub fn both<T>(&self, rescue: &Rescue<'_>, see: impl FnOnce(&Path, &Path) -> T) -> T {
        let (machine, wish) = self.wish(rescue);
        let at = |n: &str| self.dir.path().join(n);
        seen(rescue, &machine, &wish.target, &at("t"), |saved| {
            let saved = saved.join(copy::SAVED);
            let only: Vec<_> = fs::read_dir(&saved).unwrap().map(|e| e.unwrap().path()).collect();
            assert_eq!(only.len(), 1, "{only:?}");
            seen(rescue, &machine, &wish.sources[0], &at("s"), |old| see(&only[0], &old.join("home")))
        })
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    ana:x:1000:1000:Ana Silva,,,:/home/ana:/bin/bash\nben:x:1001:1001::/home/ben:/bin/sh\n";
pub const SHADOW: &str = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n\
    ana:$y$j9T$old$old:19000:0:99999:7:::\nben:!:19000:0:99999:7:::\n";

/// A disk with a Linux system, in whose root people have accounts.
pub fn system(dir: &Path, kind: &str) -> Image {
    let image = disk(&dir.join("system.img"), 322, "dos", "start=1MiB,size=320MiB,type=83\n");
    let root = tree(
        dir,
        &[
            ("etc/os-release", "PRETTY_NAME=\"Old Linux\"\nID=old\n"),
            ("etc/passwd", PASSWD),
            ("etc/shadow", SHADOW),
            ("etc/fstab", "UUID=gone / ext4 defaults 0 1\n"),
            ("home/ana/letter", "dear all"),
            ("home/.ecryptfs/ben/.ecryptfs/wrapped-passphrase", "x"),
            ("usr/bin/x", ""),
        ],
    );
    let shadow = root.join("etc/shadow");
    chown(&shadow, Some(0), Some(42)).unwrap();
    fs::set_permissions(&shadow, fs::Permissions::from_mode(0o640)).unwrap();
    run(&format!("mkfs.{kind}"), &["-q", &node(&image, 1)]);
    let place = dir.join("fill");
    fs::create_dir_all(&place).unwrap();
    run("mount", &[&node(&image, 1), place.to_str().unwrap()]);
    run("cp", &["-a", &format!("{}/.", root.display()), place.to_str().unwrap()]);
    // Without its label a system with SELinux lets nobody in.
    let label = ("trusted.label", b"shadow_t");
    rustix::fs::setxattr(place.join("etc/shadow"), label.0, label.1, rustix::fs::XattrFlags::empty())
        .unwrap();
    run("umount", &[place.to_str().unwrap()]);
    image
}
