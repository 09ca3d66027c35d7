//! Looking at what is on the disks.

use std::fs;
use std::path::Path;

use akene_agent::rescue::{find, menu, volumes};
use akene_agent::storage::image::Image;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::Language;
use akene_tests::disks::{MIB, can_run, has, run};

use crate::rig::*;

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
