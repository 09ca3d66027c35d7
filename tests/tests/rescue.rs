//! Rescue from the medium, on real filesystems in loop devices. What ordinary tools see is the judge.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_agent::probe::ProbeRoot;
use akene_agent::rescue::copy::{self, Done, Manner, Wish};
use akene_agent::rescue::open::{Purpose, open};
use akene_agent::rescue::person::Person;
use akene_agent::rescue::volumes::{self, Volume};
use akene_agent::rescue::{Rescue, boot, find, menu, parts, password};
use akene_agent::storage::image::Image;
use akene_exec::{Cmd, Runner, Streams, SystemRunner};
use akene_protocol::inventory::{FirmwareKind, Inventory};
use akene_protocol::{Bytes, Issue, Language, Secret};
use akene_tests::console::Console;
use akene_tests::disks::{MIB, can_run, has, run};
use akene_tests::site::program;

/// A disk image of this size with a table of these partitions (sfdisk lines).
fn disk(file: &Path, mib: u64, label: &str, partitions: &str) -> Image {
    let image = Image::create(file, Bytes(mib * MIB), 512).unwrap();
    let script = format!("label: {label}\n{partitions}");
    let sfdisk = Cmd::new("sfdisk").args(["-q", "--no-reread", "--no-tell-kernel"]).arg(image.path());
    SystemRunner.run(&sfdisk.stdin(script)).unwrap();
    image.show_partitions().unwrap();
    image
}

fn node(image: &Image, number: u32) -> String {
    format!("{}p{number}", image.path().display())
}

fn name(image: &Image, number: u32) -> String {
    node(image, number).trim_start_matches("/dev/").to_owned()
}

/// A machine with these disks and no others: the menu is answered by numbers.
fn rescue(dir: &Path, images: &[&Image]) -> Rescue<'static> {
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

fn machine(rescue: &Rescue<'_>) -> (Inventory, Vec<Volume>) {
    let machine = rescue.machine();
    let volumes = volumes::list(&machine);
    (machine, volumes)
}

fn sum(device: &Path) -> String {
    let device = device.to_str().unwrap();
    run("sync", &[]);
    run("blockdev", &["--flushbufs", device]);
    run("sha256sum", &[device])
}

fn code(error: &anyhow::Error) -> &str {
    error.downcast_ref::<Issue>().map_or("none", |i| &i.code)
}

/// A directory for `mkfs -d` with what a home can hold.
fn tree(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
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
fn everything(dir: &Path) -> BTreeMap<String, String> {
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
fn seen<T>(
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

#[test]
fn looking_changes_no_byte_and_names_what_cannot_be_opened() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = disk(
        &dir.path().join("disk.img"),
        760,
        "gpt",
        "start=1MiB,size=40MiB\nstart=41MiB,size=320MiB\nstart=361MiB,size=130MiB\nstart=491MiB,size=20MiB\n\
         start=511MiB,size=80MiB,type=lvm\nstart=591MiB,size=20MiB\n",
    );
    let home = tree(dir.path(), &[("ana/.profile", "hers"), ("ana/letter", "dear all")]);
    run("mkfs.ext4", &["-q", "-L", "people", "-d", home.to_str().unwrap(), &node(&image, 1)]);
    // Copied while it is mounted: the note is only in the journal, which must stay as it is.
    let place = dir.path().join("mnt");
    fs::create_dir(&place).unwrap();
    run("mount", &[&node(&image, 1), place.to_str().unwrap()]);
    fs::write(place.join("note"), "in the journal").unwrap();
    run("sync", &["-f", place.join("note").to_str().unwrap()]);
    let copy = fs::read(node(&image, 1)).unwrap();
    run("umount", &[place.to_str().unwrap()]);
    fs::write(node(&image, 1), &copy).unwrap();
    run("sync", &[]);
    assert!(run("dumpe2fs", &["-h", &node(&image, 1)]).contains("needs_recovery"));
    run("mkfs.xfs", &["-q", "-f", &node(&image, 2)]);
    run("mkfs.btrfs", &["-q", "-r", home.to_str().unwrap(), &node(&image, 3)]);
    // What begins an encrypted volume (LUKS1), as cryptsetup writes it.
    let mut luks = b"LUKS\xba\xbe\x00\x01aes".to_vec();
    luks.resize(168, 0);
    luks.extend_from_slice(b"5a0c1f6e-9d9c-4e5b-8a0b-0d8f6a7f1c22\0\0\0\0");
    let device = fs::File::options().write(true).open(node(&image, 4)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&device, &luks, 0).unwrap();
    drop(device);
    let group = volume_group(dir.path(), &image, 5, &home);

    let rescue = rescue(dir.path(), &[&image]);
    let before = sum(image.path());
    let (machine, volumes) = machine(&rescue);
    let page = volumes::page(&machine, Language::En);
    for part in [&*name(&image, 1), "people's files", "encrypted (LUKS)", "btrfs", "xfs", "\"people\""] {
        assert!(page.contains(part), "`{part}` is missing:\n{page}");
    }
    let below = dir.path().join("below");
    let mut names = vec![name(&image, 1), name(&image, 2), name(&image, 3)];
    names.extend(group.clone());
    for one in &names {
        let at = menu::look(&rescue, &machine, find(&volumes, one).unwrap(), &below).unwrap();
        // The same again is what is open already.
        assert_eq!(menu::look(&rescue, &machine, find(&volumes, one).unwrap(), &below).unwrap(), at);
        if *one != name(&image, 2) {
            assert_eq!(fs::read_to_string(at.join("ana/letter")).unwrap(), "dear all", "{one}");
        }
        let error = fs::write(at.join("mine"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{one}");
        run("umount", &[at.to_str().unwrap()]);
    }
    let look = |number| {
        let volume = find(&volumes, &name(&image, number)).unwrap();
        code(&menu::look(&rescue, &machine, volume, &below).unwrap_err()).to_owned()
    };
    assert_eq!(look(4), "volume-encrypted");
    assert_eq!(look(6), "volume-unknown");
    if group.is_some() {
        assert!(page.contains("volume group (LVM)") && look(5) == "volume-unknown", "{page}");
    }
    assert_eq!(sum(image.path()), before, "looking changed something");
    image.detach().unwrap();
}

/// A volume group on a partition, with people's files on its volume. Its name; `None` where there is no LVM.
fn volume_group(dir: &Path, image: &Image, number: u32, home: &Path) -> Option<String> {
    if !has("pvcreate") {
        return None;
    }
    let node = node(image, number);
    let group = format!("rescue{}", std::process::id());
    let lvm = |args: &[&str]| {
        let config = format!(
            "devices {{ filter=[\"a|^{node}$|\",\"r|.*|\"] scan=\"/dev\" use_devicesfile=0 }} \
             global {{ use_lvmpolld=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
             backup {{ backup=0 archive=0 }}"
        );
        SystemRunner.run(&Cmd::new("lvm").args(args).args(["--config", &config])).unwrap().text()
    };
    lvm(&["pvcreate", "-ff", "-y", &node]);
    lvm(&["vgcreate", &group, &node]);
    // Made and not activated: the kernel need not have the device-mapper.
    lvm(&["lvcreate", "--driverloaded", "n", "-an", "-Zn", "-Wn", "-L", "40M", "-n", "files", &group]);
    let begins = lvm(&["pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", &node]);
    let file = dir.join("volume.img");
    fs::File::create(&file).unwrap().set_len(40 * MIB).unwrap();
    run("mkfs.ext4", &["-q", "-d", home.to_str().unwrap(), file.to_str().unwrap()]);
    let device = fs::File::options().write(true).open(&node).unwrap();
    let begins = begins.trim().parse().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&device, &fs::read(&file).unwrap(), begins).unwrap();
    device.sync_all().unwrap();
    Some(format!("{group}/files"))
}

/// A home with all that makes copying hard.
fn hard_home(home: &Path) {
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
struct TwoDisks {
    dir: tempfile::TempDir,
    old: Image,
    stick: Image,
}

impl TwoDisks {
    fn new(stick_mib: u64) -> Self {
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

    fn rescue(&self) -> Rescue<'static> {
        rescue(self.dir.path(), &[&self.old, &self.stick])
    }

    fn wish(&self, rescue: &Rescue<'_>) -> (Inventory, Wish) {
        let (machine, volumes) = machine(rescue);
        let source = find(&volumes, &name(&self.old, 1)).unwrap().clone();
        let (people, closed) = copy::whose(rescue, &machine, &[&source]).unwrap();
        assert!(closed.is_empty(), "{closed:?}");
        let target = find(&volumes, &name(&self.stick, 1)).unwrap().clone();
        (machine, Wish { sources: vec![source], people, target, archive: false, part: copy::PART })
    }

    fn save(&self, rescue: &Rescue<'_>) -> Done {
        let (machine, wish) = self.wish(rescue);
        copy::carry_out(rescue, &machine, &wish, &mut |_| {}).unwrap()
    }

    /// Looks at what is saved and at the source.
    fn both<T>(&self, rescue: &Rescue<'_>, see: impl FnOnce(&Path, &Path) -> T) -> T {
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

#[test]
fn files_of_people_arrive_with_all_that_belongs_to_them() {
    if !can_run() || !has("rsync") {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    let before = sum(disks.old.path());
    let (machine, wish) = disks.wish(&rescue);
    let names: Vec<&str> = wish.people.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["ana", "ben"]);
    let survey = copy::survey(&rescue, &machine, &wish).unwrap();
    assert_eq!(survey.manner, Manner::Files);
    assert!(survey.needed.0 > 24 * MIB && survey.needed < survey.free, "{survey:?}");

    let mut steps = Vec::new();
    let done = copy::carry_out(&rescue, &machine, &wish, &mut |s| steps.push(s.clone())).unwrap();
    assert_eq!(done, Done { verified: vec!["ana".into(), "ben".into()], missing: vec![] });
    assert!(steps.contains(&copy::Progress::Copying("ana".into(), 100)), "{steps:?}");
    let at_first = disks.both(&rescue, |saved, home| {
        let (saved_all, all) = (everything(saved), everything(home));
        assert!(all.len() > 12 && all.values().any(|v| v.contains("user.comment")), "{all:#?}");
        assert!(all.values().any(|v| v.contains("trusted.note")));
        assert_eq!(saved_all, all);
        saved_all
    });
    assert_eq!(sum(disks.old.path()), before, "the old disk was changed");

    // Again: nothing is left to do, and nothing becomes another.
    let less = copy::survey(&rescue, &machine, &wish).unwrap().needed;
    assert!(less < survey.needed, "what is there already takes no room: {less}");
    assert!(disks.save(&rescue).missing.is_empty());
    assert_eq!(disks.both(&rescue, |saved, _| everything(saved)), at_first);
}

#[test]
fn a_copy_that_broke_off_goes_on_and_nothing_on_the_target_is_lost() {
    if !can_run() || !has("rsync") {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    let done = disks.save(&rescue);
    assert!(done.missing.is_empty(), "{done:?}");
    // As an interruption leaves it: a file missing, half of one under the name of what is under way. And somebody
    // has written into a saved letter, and put a file of their own beside it.
    let place = disks.dir.path().join("fill");
    let (_, wish) = disks.wish(&rescue);
    let folder = disks.both(&rescue, |saved, _| saved.file_name().unwrap().to_owned());
    run("mount", &[&node(&disks.stick, 1), place.to_str().unwrap()]);
    let ana = place.join(copy::SAVED).join(&folder).join("ana");
    fs::remove_file(ana.join("Documents/été 2024/plage.jpg")).unwrap();
    fs::create_dir(ana.join("Documents/été 2024/.akene-part")).unwrap();
    fs::write(ana.join("Documents/été 2024/.akene-part/plage.jpg"), [7; 100_000]).unwrap();
    fs::remove_file(ana.join("the same letter")).unwrap();
    fs::write(ana.join("Documents/letter.odt"), "written later").unwrap();
    fs::write(ana.join("own"), "own").unwrap();
    fs::write(place.join("other"), "other").unwrap();
    run("umount", &[place.to_str().unwrap()]);
    drop(wish);

    let done = disks.save(&rescue);
    assert!(done.missing.is_empty(), "{done:?}");
    disks.both(&rescue, |saved, home| {
        let (saved_all, all) = (everything(saved), everything(home));
        for (path, what) in &all {
            // A directory that got a file more has another time, and is set right by the copy.
            assert_eq!(saved_all.get(path), Some(what), "{path}");
        }
        let more: Vec<_> = saved_all.keys().filter(|k| !all.contains_key(*k)).collect();
        // Their own file, and the letter as it was, with the directories above it.
        assert_eq!(more.len(), 4, "{more:?}");
        assert_eq!(fs::read_to_string(saved.join("ana/own")).unwrap(), "own");
        let aside = |k: &&&String| k.starts_with("ana.before-") && k.ends_with("/Documents/letter.odt");
        let kept = more.iter().find(aside).unwrap();
        assert_eq!(fs::read_to_string(saved.join(kept)).unwrap(), "written later");
        assert_eq!(fs::read_to_string(saved.join("../../other")).unwrap(), "other");
    });
}

#[test]
fn the_source_and_a_full_disk_are_no_targets() {
    if !can_run() || !has("rsync") {
        return;
    }
    let disks = TwoDisks::new(16);
    let rescue = disks.rescue();
    let before = sum(disks.stick.path());
    let (machine, mut wish) = disks.wish(&rescue);
    assert!(wish.people.iter().all(|p| !p.unclean));
    let error = copy::carry_out(&rescue, &machine, &wish, &mut |_| {}).unwrap_err();
    assert_eq!(code(&error), "no-room-for-files");
    let message = error.to_string();
    assert!(message.contains("MiB") && message.contains("free"), "{message}");
    assert_eq!(sum(disks.stick.path()), before, "something was written although there is no room");

    let volumes = volumes::list(&machine);
    let targets = copy::targets(&machine, &volumes, &wish.sources);
    assert!(targets.iter().all(|t| t.name != name(&disks.old, 1)), "{targets:?}");
    wish.target = wish.sources[0].clone();
    assert_eq!(code(&copy::survey(&rescue, &machine, &wish).unwrap_err()), "same-disk");
    let mut medium = machine.clone();
    medium.disks.iter_mut().for_each(|d| d.live_medium = true);
    wish.target = find(&volumes, &name(&disks.stick, 1)).unwrap().clone();
    assert_eq!(code(&copy::survey(&rescue, &medium, &wish).unwrap_err()), "is-the-medium");
    wish.target.content.as_mut().unwrap().kind = "swap".into();
    assert_eq!(code(&copy::survey(&rescue, &machine, &wish).unwrap_err()), "target-unsuitable");

    // A computer that was switched off: its journal is not played back, and that is said.
    run("debugfs", &["-w", "-R", "feature needs_recovery", &node(&disks.old, 1)]);
    run("sync", &[]);
    let (_, wish) = disks.wish(&rescue);
    assert!(wish.people.iter().all(|p| p.unclean));
    assert!(menu::unclean_words(&wish.people, &rescue)[0].contains(&name(&disks.old, 1)));
}

#[test]
fn what_cannot_be_read_is_told_and_all_else_is_saved() {
    if !can_run() || !has("rsync") || !has("debugfs") {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    // Where the file lies on the disk is not to be read any more.
    let broken = ["-w", "-R", "set_inode_field /home/ben/.profile block[0] 0"];
    run("debugfs", &[&broken[..], &[&node(&disks.old, 1)]].concat());
    run("sync", &[]);
    run("blockdev", &["--flushbufs", disks.old.path().to_str().unwrap()]);
    for archive in [false, true] {
        let (machine, mut wish) = disks.wish(&rescue);
        wish.archive = archive;
        let done = copy::carry_out(&rescue, &machine, &wish, &mut |_| {}).unwrap();
        assert_eq!(done.verified, ["ana"], "{done:?}");
        assert!(done.missing.iter().any(|line| line.contains(".profile")), "{done:?}");
        assert!(menu::done_page(&done, &rescue).contains("NOT everything"));
    }
}

/// The whole way of an archive: written in parts, unmounted, mounted again, read back, and gone on with.
#[test]
fn archives_are_saved_and_read_back() {
    if !can_run() {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    let (machine, mut wish) = disks.wish(&rescue);
    (wish.archive, wish.part) = (true, 5 * MIB);
    let survey = copy::survey(&rescue, &machine, &wish).unwrap();
    assert_eq!(survey.manner, Manner::Archive);
    let good = Done { verified: vec!["ana".into(), "ben".into()], missing: vec![] };
    let save = || copy::carry_out(&rescue, &machine, &wish, &mut |_| {}).unwrap();
    assert_eq!(save(), good);
    let back = disks.dir.path().join("back");
    fs::create_dir(&back).unwrap();
    let first = disks.both(&rescue, |saved, home| {
        for person in ["ana", "ben"] {
            let unpack =
                "cat \"$1\".tar.[0-9]* | tar -x --xattrs --xattrs-include='*' --numeric-owner -p -C \"$2\"";
            let set = saved.join(person);
            run("sh", &["-c", unpack, "sh", set.to_str().unwrap(), back.to_str().unwrap()]);
        }
        let only = |all: BTreeMap<String, String>| -> BTreeMap<_, _> {
            all.into_iter().filter(|(k, _)| k.starts_with("ana/") || k.starts_with("ben/")).collect()
        };
        assert_eq!(only(everything(&back)), only(everything(home)));
        everything(saved)
    });
    assert_eq!(save(), good);
    assert_eq!(disks.both(&rescue, |saved, _| everything(saved)), first, "written twice");
    assert!(copy::survey(&rescue, &machine, &wish).unwrap().needed < survey.needed);
}

/// What FAT gets, unpacked by tar itself.
#[test]
fn an_archive_in_parts_unpacks_to_what_was_packed() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (home, to, back) = (dir.path().join("home/ana"), dir.path().join("to"), dir.path().join("back"));
    hard_home(&home);
    fs::create_dir(&to).unwrap();
    fs::create_dir(&back).unwrap();
    let part = 5 * MIB;
    let mut told = Vec::new();
    let write =
        |told: &mut Vec<u8>| parts::write(&home, &to, "ana", 25 * MIB, part, &mut |p| told.push(p)).unwrap();
    let written = write(&mut told);
    assert_eq!((written.set.as_str(), &written.missing), ("ana", &vec![]));
    assert!(written.sums.len() >= 5, "{:?}", written.sums);
    assert!(told.windows(2).all(|w| w[0] <= w[1]) && told.iter().any(|p| *p > 50), "{told:?}");
    assert!(parts::check(&to, &written.set, &written.sums).unwrap().is_empty());
    run("sh", &["-c", &format!("cd '{}' && sha256sum -c ana.tar.sha256", to.display())]);
    let unpack =
        "cat \"$1\"/ana.tar.[0-9]* | tar -x --xattrs --xattrs-include='*' --numeric-owner -p -C \"$2\"";
    run("sh", &["-c", unpack, "sh", to.to_str().unwrap(), back.to_str().unwrap()]);
    assert_eq!(everything(&back.join("ana")), everything(&home));

    // A part is missing, as when the stick was pulled: only that one is written.
    let first = to.join("ana.tar.001");
    let before = first.metadata().unwrap().modified().unwrap();
    fs::remove_file(to.join("ana.tar.003")).unwrap();
    assert_eq!(write(&mut told).sums, written.sums);
    assert_eq!(first.metadata().unwrap().modified().unwrap(), before);
    // Files that have changed since make another set; the first one stays.
    fs::write(home.join("Documents/letter.odt"), "dear ben").unwrap();
    let again = write(&mut told);
    assert_eq!(again.set, "ana-2");
    assert!(parts::check(&to, "ana", &written.sums).unwrap().is_empty());
    assert!(parts::check(&to, "ana-2", &again.sums).unwrap().is_empty());
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    ana:x:1000:1000:Ana Silva,,,:/home/ana:/bin/bash\nben:x:1001:1001::/home/ben:/bin/sh\n";
const SHADOW: &str = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n\
    ana:$y$j9T$old$old:19000:0:99999:7:::\nben:!:19000:0:99999:7:::\n";

/// A disk with a Linux system, in whose root people have accounts.
fn system(dir: &Path, kind: &str) -> Image {
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

#[test]
fn a_new_password_changes_one_field_of_one_file() {
    if !can_run() {
        return;
    }
    for kind in ["ext4", "xfs"] {
        let dir = tempfile::tempdir().unwrap();
        let image = system(dir.path(), kind);
        let rescue = rescue(dir.path(), &[&image]);
        let (machine, volumes) = machine(&rescue);
        let root = find(&volumes, &name(&image, 1)).unwrap();
        let all = || seen(&rescue, &machine, root, &dir.path().join("s"), everything);
        let before = all();
        let password::People { found, doubt } = password::people(&rescue, &machine, &volumes, root).unwrap();
        assert_eq!(doubt, None);
        let who: Vec<_> = found.iter().map(|f| (f.account.name.as_str(), f.encrypted.is_some())).collect();
        assert_eq!(who, [("ana", false), ("ben", true), ("root", false)]);

        let new = Secret::new("un nouveau: été");
        password::set(&rescue, &machine, root, "ana", &new).unwrap();
        let after = all();
        let changed: Vec<_> =
            after.iter().filter(|(k, v)| before.get(*k) != Some(*v)).map(|(k, _)| k.as_str()).collect();
        // The directory has another time.
        assert_eq!(changed, ["etc", "etc/shadow"]);
        assert_eq!(before.len(), after.len());
        let plain = |what: &str| what.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(plain(&after["etc/shadow"]), plain(&before["etc/shadow"]));
        assert!(after["etc/shadow"].contains("trusted.label"), "{}", after["etc/shadow"]);
        let text = seen(&rescue, &machine, root, &dir.path().join("s"), |top| {
            fs::read_to_string(top.join("etc/shadow")).unwrap()
        });
        let lines: Vec<(&str, &str)> = SHADOW.lines().zip(text.lines()).filter(|(a, b)| a != b).collect();
        let [(_, line)] = lines[..] else { panic!("{lines:?}") };
        let fields: Vec<&str> = line.split(':').collect();
        assert_eq!((fields[0], fields[2], fields.len()), ("ana", "19000", 9));
        // The C library's own judgement.
        let crypt =
            ["-e", "print crypt($ARGV[0], $ARGV[1]) eq $ARGV[1] ? 'same' : 'other'", new.expose(), fields[1]];
        assert_eq!(run("perl", &crypt), "same");

        let refused = |name: &str, new: &str| {
            code(&password::set(&rescue, &machine, root, name, &Secret::new(new)).unwrap_err()).to_owned()
        };
        assert_eq!(refused("carla", "x"), "account-not-there");
        assert_eq!(refused("ana", ""), "password-odd");
        assert_eq!(all(), after, "a refusal changed something");
    }
}

/// At a terminal of its own, by somebody who types as soon as a question is there.
#[test]
fn a_password_is_typed_unseen_and_nothing_of_it_is_lost() {
    if !can_run() || !has("script") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let ask = [
        "rescue",
        "--also",
        image.path().to_str().unwrap(),
        "password",
        "--person",
        "ana",
        "--yes",
        "--system",
    ];
    let command =
        format!("{} {} {}", program("akene-agent").unwrap().display(), ask.join(" "), name(&image, 1));
    let errors = fs::File::create(dir.path().join("errors")).unwrap();
    let script = Cmd::new("script").args(["-q", "-e", "-c", &command, "/dev/null"]);
    let mut running = script.spawn(Streams::Piped { errors }).unwrap();
    let (input, output) = running.pipes().unwrap();
    let mut terminal = Console::new(input, output, &dir.path().join("seen"), false).unwrap();
    let patience = Duration::from_secs(120);
    for question in ["New password (not shown):", "Once more:"] {
        terminal.expect(question, patience).unwrap();
        terminal.press("bonjour\n").unwrap();
    }
    terminal.expect("ana can log in", patience).unwrap();
    assert!(!terminal.text().contains("bonjour"), "{}", terminal.text());
    assert!(running.wait(patience).unwrap().is_some_and(|status| status.success()));

    let rescue = rescue(dir.path(), &[&image]);
    let (machine, volumes) = machine(&rescue);
    let root = find(&volumes, &name(&image, 1)).unwrap();
    let shadow = seen(&rescue, &machine, root, &dir.path().join("s"), |top| {
        fs::read_to_string(top.join("etc/shadow")).unwrap()
    });
    let hash = shadow.lines().find_map(|line| line.strip_prefix("ana:")?.split(':').next()).unwrap();
    assert_eq!(run("perl", &["-e", "print crypt('bonjour', $ARGV[0])", hash]), hash);
    image.detach().unwrap();
}

/// Which system starts is not known then; whose files are wanted, is.
#[test]
fn a_start_partition_that_cannot_be_read_is_told_and_keeps_nobody_out() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let boot = disk(&dir.path().join("boot.img"), 42, "dos", "start=1MiB,size=40MiB,type=83\n");
    let uuid = "3b0a9c1e-5d1f-4c57-9c0e-8a44a7f6f001";
    run("mkfs.ext4", &["-q", "-b", "1024", "-L", "AKENE_BOOT", "-U", uuid, &node(&boot, 1)]);
    // What follows the superblock.
    let at = format!("of={}", node(&boot, 1));
    run("dd", &["if=/dev/zero", &at, "bs=1024", "seek=2", "count=1", "conv=notrunc", "status=none"]);
    let place = dir.path().join("fill");
    run("mount", &[&node(&image, 1), place.to_str().unwrap()]);
    fs::write(place.join("etc/fstab"), format!("UUID={uuid} /boot ext4 defaults 0 2\n")).unwrap();
    run("umount", &[place.to_str().unwrap()]);
    let rescue = rescue(dir.path(), &[&image, &boot]);
    let (machine, volumes) = machine(&rescue);
    let root = find(&volumes, &name(&image, 1)).unwrap();
    let password::People { found, doubt } = password::people(&rescue, &machine, &volumes, root).unwrap();
    assert!(found.iter().any(|f| f.account.name == "ana"));
    assert!(doubt.unwrap().contains(&name(&boot, 1)));
    let who = format!("Whether the computer starts the system on {}", root.name);
    let (_, seen) = answer(&rescue, &["5", "1"]);
    assert!(seen.contains(&who), "{seen}");
}

/// Somebody who answers what they were told to, by what is asked.
struct Scripted {
    answers: VecDeque<String>,
    seen: String,
}

impl Person for Scripted {
    fn say(&mut self, text: &str) {
        self.seen += &format!("{text}\n");
    }
    fn ask(&mut self, question: &str) -> anyhow::Result<Option<String>> {
        self.seen += &format!("{question}\n");
        Ok(self.answers.pop_front())
    }
    fn secret(&mut self, question: &str) -> anyhow::Result<Option<Secret>> {
        Ok(self.ask(question)?.map(Secret::new))
    }
}

/// Answers the menu; the number of a choice is found by a part of its line.
fn answer(rescue: &Rescue<'_>, answers: &[&str]) -> (menu::End, String) {
    let mut person =
        Scripted { answers: answers.iter().map(|a| (*a).to_owned()).collect(), seen: String::new() };
    let end = menu::run(rescue, &mut person, &String::new).unwrap();
    assert!(person.answers.is_empty(), "not all was asked: {:?}\n{}", person.answers, person.seen);
    (end, person.seen)
}

#[test]
fn the_menu_asks_before_it_writes_and_says_to_what() {
    if !can_run() || !has("rsync") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let one = rescue(dir.path(), &[&image]);
    let before = sum(image.path());
    // The only system, ana, twice the same, but no consent; then twice not the same.
    let (_, seen) = answer(&one, &["5", "1", "1", "secret", "secret", "no", "5", "1", "1", "a", "b", ""]);
    assert!(seen.contains(image.path().to_str().unwrap()) && seen.contains("322 MiB"), "{seen}");
    assert!(seen.contains("Nothing was changed.") && !seen.contains("secret"), "{seen}");
    // ben's files are encrypted, which is said before.
    let (_, seen) = answer(&one, &["5", "1", "2", "x", "x", ""]);
    assert!(seen.contains("NOT the files"), "{seen}");
    assert_eq!(sum(image.path()), before, "written without consent");
    let (_, seen) = answer(&one, &["5", "1", "1", "secret", "secret", "yes", ""]);
    assert!(seen.contains("ana can log in"), "{seen}");
    assert_ne!(sum(image.path()), before);
    image.detach().unwrap();

    let disks = TwoDisks::new(128);
    let two = disks.rescue();
    let (old, stick) = (sum(disks.old.path()), sum(disks.stick.path()));
    let (_, seen) = answer(&two, &["2", "1", "1", "no"]);
    assert!(seen.contains(&name(&disks.stick, 1)) && seen.contains("130 MiB"), "{seen}");
    assert_eq!(sum(disks.stick.path()), stick, "written without consent");
    let (_, seen) = answer(&two, &["2", "1", "1", "yes", ""]);
    assert!(seen.contains("without a difference: ana, ben"), "{seen}");
    assert_eq!(sum(disks.old.path()), old);

    let french = Rescue { language: Language::Fr, ..disks.rescue() };
    let (_, seen) = answer(&french, &["2", "1", "1", "yes"]);
    assert!(seen.contains("Rien n'a été modifié."), "{seen}");
}

#[test]
fn another_language_is_spoken_at_once_or_left_to_the_live_system() {
    let agent = program("akene-agent").unwrap();
    let said = |cmd: Cmd| SystemRunner.run(&cmd).unwrap().text();
    let there_and_back = said(Cmd::new(&agent).arg("rescue").stdin("10\n10\n"));
    let heads = there_and_back.lines().filter_map(|line| line.split('.').next());
    let heads: Vec<&str> = heads.filter(|line| line.contains("AKENE")).collect();
    assert_eq!(heads, ["AKENE RESCUE", "SECOURS AKENE", "AKENE RESCUE"], "{there_and_back}");
    let dir = tempfile::tempdir().unwrap();
    let chosen = dir.path().join("language");
    let ended = said(Cmd::new(&agent).arg("rescue").arg("--language-at").arg(&chosen).stdin("10\n10\n"));
    assert_eq!((fs::read_to_string(chosen).unwrap().as_str(), ended.contains("SECOURS")), ("fr", false));
}

#[test]
fn a_system_whose_start_is_unknown_is_left_alone() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let rescue = rescue(dir.path(), &[&image]);
    let before = sum(image.path());
    let (machine, volumes) = machine(&rescue);
    let root = find(&volumes, &name(&image, 1)).unwrap();
    let error = boot::plan(&rescue, &machine, &volumes, root, FirmwareKind::Bios).unwrap_err();
    assert_eq!(code(&error), "boot-unusual", "{error:#}");
    assert_eq!(sum(image.path()), before);
}
