//! A system of ours whose start was destroyed starts as it did before, by its own programs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_agent::storage::image::Image as Attached;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::can_run;
use akene_tests::image::{Image, Opened};
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install, possible};
use akene_tests::site::{SSH_KEY, USER, program, small_server};

/// What a computer starts: code of the first sector, core image, menu, files of the EFI system partition.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    first: Vec<u8>,
    core: Vec<u8>,
    menu: Vec<u8>,
    efi: Vec<Vec<u8>>,
}

const LOADERS: [&str; 4] =
    ["/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi", "/EFI/BOOT/grub.cfg", "/EFI/debian/grub.cfg"];

/// Where the core image may lie: a new one is written beside the one that is in use, and both count.
fn start(disk: &Path) -> Start {
    let file = fs::File::open(disk).unwrap();
    let read = |at: u64, size: usize| {
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    let mut first = read(0, 0x1b8);
    let at = u64::from_le_bytes(first[0x5c..0x64].try_into().unwrap());
    first[0x5c..0x64].fill(0);
    let head = read(at * 512, 512);
    let sectors = u16::from_le_bytes(head[508..510].try_into().unwrap());
    let image = Image::open(disk).unwrap();
    let loader = |path: &&str| image.esp_file(path).unwrap();
    let efi = LOADERS.iter().filter(|p| !p.contains("debian") || is_debian()).map(loader).collect();
    let menu = Opened::new(disk, "AKENE_BOOT").unwrap();
    let menu = fs::read(menu.path("grub/grub.cfg")).unwrap();
    Start { first, core: read((at + 1) * 512, usize::from(sectors) * 512), menu, efi }
}

fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").unwrap_or_default().contains("ID=debian")
}

/// Destroys all of it: the first sector's code, the core image, GRUB's directory, the loaders; and leaves what
/// somebody else has on the EFI system partition.
fn destroy(disk: &Path) {
    let image = Image::open(disk).unwrap();
    let core = image.parts.iter().find(|p| p.name == "AKENE_BIOS").unwrap();
    let file = fs::File::options().write(true).open(disk).unwrap();
    file.write_all_at(&[0; 0x1b8], 0).unwrap();
    file.write_all_at(&vec![0; core.size as usize], core.start).unwrap();
    file.sync_all().unwrap();
    let esp = image.parts.iter().find(|p| p.filesystem == "vfat").unwrap();
    let at = format!("{}@@{}", disk.display(), esp.start);
    let mtools = |program: &str, args: &[&str]| {
        SystemRunner.run(&Cmd::new(program).args(["-i", &at]).args(args)).unwrap();
    };
    mtools("mdeltree", &["::EFI"]);
    for dir in ["::EFI", "::EFI/Microsoft", "::EFI/Microsoft/Boot"] {
        mtools("mmd", &[dir]);
    }
    let theirs = tempfile::NamedTempFile::new().unwrap();
    fs::write(theirs.path(), "MZ Windows").unwrap();
    mtools("mcopy", &[theirs.path().to_str().unwrap(), "::EFI/Microsoft/Boot/bootmgfw.efi"]);
    let boot = Opened::new(disk, "AKENE_BOOT").unwrap();
    fs::remove_dir_all(boot.path("grub")).unwrap();
    fs::create_dir(boot.path("grub")).unwrap();
}

#[test]
fn a_destroyed_start_is_made_as_it_was() {
    if !possible() || !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    let mirror = Mirror::start().unwrap();
    let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
    let more = ["--size", "8GiB", "--packages", packages.to_str().unwrap()];
    let profile = small_server(&mirror, "127.0.0.1");
    let outcome = install(&disk, &Orders::Profile(&profile), dir.path(), &more).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    let before = start(&disk);
    destroy(&disk);

    let attached = Attached::attach(&disk, 512).unwrap();
    let node = attached.path().to_str().unwrap().to_owned();
    let agent = program("akene-agent").unwrap();
    let rescue = |args: &[&str]| {
        let cmd = Cmd::new(&agent).args(["rescue", "--also", &node]).args(args);
        SystemRunner.run(&cmd).unwrap_or_else(|e| panic!("{e:#}")).text()
    };
    let page = rescue(&["disks"]);
    let root = page.lines().find(|l| l.contains("akene-root") && l.contains("GNU/Linux"));
    let root = root.unwrap_or_else(|| panic!("{page}")).split_whitespace().next().unwrap().to_owned();
    // Without --yes it only says what it would do.
    let first = || {
        let mut bytes = [0; 0x1b8];
        fs::File::open(&node).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let said = rescue(&["boot", "--system", &root]);
    assert!(said.contains(&node) && said.contains("AKENE_BOOT"), "{said}");
    assert_eq!(first(), [0; 0x1b8], "it wrote without being told to");
    let said = rescue(&["boot", "--system", &root, "--yes"]);
    println!("{said}");
    attached.detach().unwrap();

    assert_eq!(start(&disk), before);
    let image = Image::open(&disk).unwrap();
    assert_eq!(image.esp_file("/EFI/Microsoft/Boot/bootmgfw.efi").unwrap(), b"MZ Windows");
    drop(image);
    let expected =
        Expected { user: USER.into(), ssh_key: SSH_KEY.into(), fresh: true, ..Expected::default() };
    checks::installed(&disk, &expected).unwrap();
}
