//! An old system with people's files in its `/home`, on one partition of a donated PC: a new system is installed around
//! them, by the whole pipeline, into an image on this host. Where the profile says so, they keep their accounts too.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::run;
use akene_tests::image::{Image, inside};
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install, possible};
use akene_tests::people::{live_in, sums};
use akene_tests::site::{Site, USER, small_server};

/// The old partition.
const START: u64 = 1 << 20;
const SIZE: u64 = 6 << 30;

/// A disk of 8 GiB with an MBR, as an old installer left it.
fn donated(disk: &Path, place: &Path) {
    std::fs::File::create(disk).unwrap().set_len(8 << 30).unwrap();
    let table = format!("label: dos\nstart=1MiB, size={}, type=83, bootable\n", SIZE / 512);
    SystemRunner.run(&Cmd::new("sfdisk").arg("--quiet").arg(disk).stdin(table.into_bytes())).unwrap();
    let offset = format!("offset={START}");
    run("mkfs.ext4", &["-q", "-F", "-E", &offset, disk.to_str().unwrap(), &format!("{}k", SIZE >> 10)]);
    std::fs::create_dir(place).unwrap();
    let options = format!("loop,offset={START},sizelimit={SIZE}");
    run("mount", &["-o", &options, disk.to_str().unwrap(), place.to_str().unwrap()]);
    for below in ["etc", "usr/bin", "usr/lib/old", "boot/grub", "var/lib/dpkg/info"] {
        std::fs::create_dir_all(place.join(below)).unwrap();
    }
    std::fs::write(place.join("etc/os-release"), "PRETTY_NAME=\"Old 8\"\n").unwrap();
    std::fs::write(place.join("etc/fstab"), "/dev/hda1 / ext4 defaults 0 1\n").unwrap();
    for old in ["usr/bin/old", "usr/lib/old/file", "boot/vmlinuz-3", "var/lib/dpkg/status", "swap.img"] {
        std::fs::write(place.join(old), "of the old system").unwrap();
    }
    live_in(&place.join("home"));
    let cys = place.join("home/cy");
    std::fs::create_dir(&cys).unwrap();
    std::os::unix::fs::chown(&cys, Some(1002), Some(1002)).unwrap();
    for (name, text) in [("passwd", PASSWD.into()), ("group", GROUP.into()), ("shadow", shadow())] {
        std::fs::write(place.join("etc").join(name), text).unwrap();
    }
}

/// What opens the accounts of the old system.
const HASH: &str = "$6$saltsaltsalt$OldSystemsHashOfAnaWhichIsLongEnoughToBeOne";

/// `ana` and `bo` have their files, `far` has none; `cy` is the profile's, too.
const PASSWD: &str = "root:x:0:0::/root:/bin/bash\nold:x:998:998::/home/ana:/bin/sh\n\
    ana:x:1000:1000:Ana,,,:/home/ana:/usr/bin/old\nbo:x:1001:1001::/home/bo:/bin/bash\n\
    far:x:1004:1004::/home/far:/bin/bash\ncy:x:1002:1002::/home/cy:/bin/bash\n";
const GROUP: &str = "root:x:0:\nsudo:x:27:bo\naudio:x:29:ana\nana:x:1000:\nbo:x:1001:\nfar:x:1004:\ncy:x:1002:\nfamily:x:1500:ana,bo\n";

fn shadow() -> String {
    format!("root:*:1::::::\nana:{HASH}:1:0:99999:7:::\nbo:!:1:0:99999:7::19000:\ncy:{HASH}:1:0:99999:7:::\n")
}

#[test]
fn a_system_is_installed_around_the_files_of_an_old_one() {
    if !possible() || !akene_tests::disks::can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (disk, place) = (dir.path().join("disk.img"), dir.path().join("old"));
    donated(&disk, &place);
    let before = sums(&place.join("home"));
    run("umount", &[place.to_str().unwrap()]);

    let mirror = Mirror::start().unwrap();
    let profile = format!("keep-accounts = true\n{}", small_server(&mirror, "127.0.0.1"))
        + "\n[[users]]\nname = \"cy\"\n";
    let mut site = Site::with_consent(dir.path(), "127.0.0.1", &profile, "wipe").unwrap();
    site.start().unwrap();
    let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
    let more = ["--packages", packages.to_str().unwrap()];
    let outcome = install(&disk, &Orders::Stamp(site.stamp()), dir.path(), &more).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    let said = outcome.events.iter().map(ToString::to_string).collect::<String>() + &outcome.log;
    assert!(said.contains("all but its /home, which stays"), "{said}");
    assert!(said.contains("the account `cy` is the profile's"), "{said}");
    assert!(!(said + &outcome.text).contains(HASH), "a password's hash is shown");

    checks::installed(&disk, &Expected::of_small_server()).unwrap();

    let mut image = Image::open(&disk).unwrap();
    let root = image.mount_system().unwrap();
    let mut now = sums(&root.join("home"));
    // The one who is new has got a directory of their own, and is nobody of those who were there.
    let new = root.join("home").join(USER).metadata().unwrap();
    assert!(![1000, 1001, 1002].contains(&new.uid()), "{USER} owns the files of somebody else");
    people_have_their_accounts(&root);
    now.retain(|path, _| Path::new(path).components().next().is_none_or(|c| c.as_os_str() != USER));
    assert_eq!(now, before);
    for old in ["usr/bin/old", "usr/lib/old", "boot/vmlinuz-3", "swap.img"] {
        assert!(!root.join(old).exists(), "/{old} of the old system is left");
    }
    let system = std::fs::read_to_string(root.join("etc/os-release")).unwrap();
    assert!(!system.contains("Old 8"), "{system}");
}

fn people_have_their_accounts(root: &Path) {
    let account = |name: &str| inside(root, &["getent", "passwd", name]).unwrap_or_default();
    // Whose shell is gone gets one that is there.
    assert_eq!(account("ana"), "ana:x:1000:1000:Ana:/home/ana:/bin/bash");
    assert_eq!(account("bo"), "bo:x:1001:1001::/home/bo:/bin/bash");
    assert!(account("cy").starts_with("cy:x:1002:1002:"), "{}", account("cy"));
    for gone in ["far", "old"] {
        assert_eq!(account(gone), "", "{gone} has no files here");
    }
    let groups = |name: &str| inside(root, &["id", "-nG", name]).unwrap();
    assert_eq!(groups("ana"), "ana audio family");
    assert_eq!(groups("bo"), "bo family", "what gives power is the profile's to give");
    assert!(inside(root, &["getent", "group", "family"]).unwrap().starts_with("family:x:1500:"));
    let shadow = std::fs::read_to_string(root.join("etc/shadow")).unwrap();
    let field = |name: &str, n: usize| {
        let line = shadow.lines().find(|line| line.split(':').next() == Some(name)).unwrap();
        line.split(':').nth(n).unwrap().to_owned()
    };
    assert_eq!((field("ana", 1).as_str(), field("ana", 7).as_str()), (HASH, ""));
    assert_eq!((field("bo", 1).as_str(), field("bo", 7).as_str()), ("!", "19000"));
    assert_ne!(field("cy", 1), HASH, "the profile decides what opens its users' accounts");
    let kept = root.join("boot/akene/resume.json");
    assert!(!kept.exists(), "the hashes are needed no more");
}
