//! The image itself: the same bytes from the same packages, nothing missing that a module needs, and a menu that
//! does not install twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::journey;
use akene_tests::mirror::Mirror;
use akene_tests::site::{Site, program, small_server};
use akene_tests::vm::{self, Accelerator, Firmware, HOST, Machine, Medium};

fn run(cmd: Cmd) -> String {
    SystemRunner.run(&cmd).unwrap().text()
}

fn build(mirror: &Mirror, dir: &Path) -> Cmd {
    let host = &mirror.host;
    Cmd::new(program("akene-image").unwrap())
        .args(["build", "--compression", "1", "--distribution", &host.distribution, "--suite", &host.suite])
        .args(["--mirror", &mirror.main(), "--security-mirror", &mirror.security(), "--agent"])
        .arg(journey::shipped_agent().unwrap())
        .arg("--output")
        .arg(dir)
        .timeout(Duration::from_secs(1800))
}

/// The live root of an image, unpacked by the ordinary tools.
fn unpacked(initrd: &Path, dir: &Path) -> PathBuf {
    let staging = dir.join("staging");
    fs::create_dir(&staging).unwrap();
    let archive = fs::canonicalize(initrd).unwrap();
    run(Cmd::new("cpio").args(["-idm", "--quiet", "-F"]).arg(&archive).dir(&staging));
    let root = dir.join("root");
    let squashfs = staging.join("akene/live.squashfs");
    run(Cmd::new("unsquashfs").args(["-quiet", "-no-progress", "-d"]).arg(&root).arg(squashfs));
    root
}

#[test]
fn the_same_packages_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::start().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("in another place/b"));
    run(build(&mirror, &a));
    // Another time, place, time zone and umask.
    let other = build(&mirror, &b).env("TZ", "Pacific/Auckland");
    let line = other.argv();
    run(Cmd::new("sh").args(["-c", "umask 077; exec \"$@\"", "sh"]).args(line).env("TZ", "Pacific/Auckland"));
    for name in ["akene.iso", "netboot/initrd.img", "netboot/vmlinuz", "netboot/stamp.img", "manifest.json"] {
        assert!(fs::read(a.join(name)).unwrap() == fs::read(b.join(name)).unwrap(), "{name} differs");
    }

    // Small enough, even with the weakest compression.
    let size = |path: &Path| fs::metadata(path).unwrap().len() >> 20;
    assert!(size(&a.join("akene.iso")) < 250, "{} MiB", size(&a.join("akene.iso")));

    let root = unpacked(&a.join("netboot/initrd.img"), dir.path());
    let squashfs = dir.path().join("staging/akene/live.squashfs");
    assert!(size(&squashfs) < 110, "{} MiB", size(&squashfs));
    modules_are_complete(&root);
    programs_are_complete(&root);
    loaders_are_complete(&dir.path().join("staging/akene/loader"));
}

/// What makes a disk start the installer is for the right processors, signed where it has to be, and fits.
fn loaders_are_complete(dir: &Path) {
    let read = |name: &str| fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    // Machine, and size of the signatures, as the PE header tells them.
    let program = |name: &str| {
        let bytes = read(name);
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let header = number(0x3c);
        assert_eq!(&bytes[header..header + 4], b"PE\0\0", "{name}");
        let machine = number(header + 4) & 0xffff;
        // The fifth directory entry; 64-bit headers are 16 bytes longer before it.
        let signatures = header + 24 + if machine == 0x8664 { 112 } else { 96 } + 4 * 8 + 4;
        (machine, number(signatures) > 0)
    };
    assert_eq!(program("shimx64.efi"), (0x8664, true));
    assert_eq!(program("grubx64.efi"), (0x8664, true));
    assert_eq!(program("bootia32.efi"), (0x014c, false));
    let boot = read("boot.img");
    assert_eq!((boot.len(), &boot[510..]), (512, &[0x55, 0xaa][..]));
    // Before the first partition of an MBR disk is the smallest room there is.
    let most = akene_planner::EMBEDDING_AREA.0 as usize - 512;
    assert!((32 << 10..most).contains(&read("core.img").len()));
}

/// kmod finds everything each module needs, and the drivers nobody may miss are there.
fn modules_are_complete(root: &Path) {
    let modules = root.join("usr/lib/modules");
    let release = fs::read_dir(&modules).unwrap().next().unwrap().unwrap().file_name();
    let release = release.to_str().unwrap().to_owned();
    let listed = fs::read_to_string(modules.join(&release).join("modules.dep")).unwrap();
    let names: BTreeSet<String> = listed
        .lines()
        .filter_map(|l| l.split_once(".ko")?.0.rsplit('/').next().map(|n| n.replace('-', "_")))
        .collect();
    let ask = Cmd::new("modprobe").arg("-d").arg(root).args(["-S", &release, "--show-depends", "-a"]);
    let said = run(ask.args(&names));
    assert!(said.lines().count() >= names.len(), "modprobe spoke of {} modules only", said.lines().count());
    for line in said.lines().filter_map(|l| l.strip_prefix("insmod ")) {
        assert!(Path::new(line.split(' ').next().unwrap()).is_file(), "{line}");
    }
    let builtin = fs::read_to_string(modules.join(&release).join("modules.builtin")).unwrap();
    let there = |name: &str| {
        names.contains(name)
            || builtin.lines().any(|l| l.ends_with(&format!("/{}.ko", name.replace('_', "-"))))
            || builtin.lines().any(|l| l.ends_with(&format!("/{name}.ko")))
    };
    for name in [
        "e100",
        "e1000",
        "e1000e",
        "igb",
        "r8169",
        "8139too",
        "8139cp",
        "tg3",
        "sky2",
        "forcedeth",
        "via_rhine",
        "sis900",
        "tulip",
        "3c59x",
        "pcnet32",
        "atl1c",
        "alx",
        "b44",
        "virtio_net",
        "vmxnet3",
        "hv_netvsc",
        "asix",
        "ax88179_178a",
        "r8152",
        "cdc_ether",
        "smsc95xx",
        "ahci",
        "ata_piix",
        "pata_via",
        "pata_amd",
        "sata_nv",
        "sata_sil",
        "nvme",
        "sdhci_pci",
        "sdhci_acpi",
        "mmc_block",
        "usb_storage",
        "uas",
        "ehci_pci",
        "uhci_hcd",
        "ohci_pci",
        "xhci_pci",
        "mpt3sas",
        "megaraid_sas",
        "aic7xxx",
        "sym53c8xx",
        "virtio_blk",
        "virtio_scsi",
        "vmw_pvscsi",
        "hv_storvsc",
        "firewire_sbp2",
        "sr_mod",
        "sd_mod",
        "usbhid",
        "hid_generic",
        "psmouse",
        "ext4",
        "xfs",
        "btrfs",
        "vfat",
        "exfat",
        "f2fs",
        "isofs",
        "udf",
        "squashfs",
        "overlay",
        "loop",
        "zram",
        "dm_mod",
        "raid1",
        "vmd",
        "efivarfs",
        "af_packet",
    ] {
        assert!(there(name), "the module {name} is missing");
    }
    // A few drivers are no use without their firmware.
    for name in
        ["rtl_nic/rtl8168g-2.fw", "tigon/tg3.bin", "bnx2/bnx2-mips-09-6.2.1b.fw", "e100/d101m_ucode.bin"]
    {
        assert!(root.join("usr/lib/firmware").join(name).is_file(), "the firmware {name} is missing");
    }
}

/// What the keys give by a keymap, as the live root's own program reads it: (table, key). In the binary form there is a name of 7 bytes,
/// a mark for each of 256 tables, and those that are marked, with 128 keys of two bytes. The lower one is the character.
fn keys_of(root: &Path, keymap: &str) -> impl Fn(usize, usize) -> char {
    let load = Cmd::new("chroot").arg(root).args(["loadkeys", "--bkeymap", "--unicode", keymap]);
    let keys = SystemRunner.run(&load.env("PATH", "/usr/sbin:/usr/bin")).unwrap().stdout;
    assert!(keys.starts_with(b"bkeymap\x01\x01"), "{keymap}");
    move |table, key| keys[263 + table * 256 + key * 2].into()
}

/// Every program finds its libraries with nothing but the live root to look in.
fn programs_are_complete(root: &Path) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can run the programs of another root");
        return;
    }
    for program in [
        "apt-get --version",
        "dpkg --version",
        "udevadm --version",
        "modprobe --version",
        "mkfs.ext4 -V",
        "mkfs.vfat --help",
        "mkfs.xfs -V",
        "mkfs.btrfs --version",
        "mcopy --version",
        "sgdisk --version",
        "lvm version",
        "smartctl --version",
        "ip -V",
        "busybox true",
        "efibootmgr --version",
        "nano --version",
    ] {
        let mut cmd = Cmd::new("chroot").arg(root).args(program.split(' '));
        cmd = cmd.env("PATH", "/usr/sbin:/usr/bin");
        if let Err(error) = SystemRunner.run(&cmd) {
            let error = format!("{error:#}");
            assert!(!error.contains("127") && !error.contains("shared libraries"), "{error}");
        }
    }
    for (keymap, q, one, shifted) in [("us", 'q', '1', '!'), ("fr-latin9", 'a', '&', '1')] {
        let keys = keys_of(root, keymap);
        assert_eq!((keys(0, 16), keys(0, 2), keys(1, 2)), (q, one, shifted), "{keymap}");
    }
    for (layout, keymap) in akene_agent::boot::keyboard::LAYOUTS {
        let y = if ["ch", "de", "at"].contains(&layout) { 'z' } else { 'y' };
        assert_eq!(keys_of(root, keymap)(0, 21), y, "{keymap}");
    }
    assert_eq!(keys_of(root, akene_agent::boot::keyboard::SWISS_FRENCH)(0, 21), 'z');
    // What looks at disks must not start what is on them.
    for rule in ["64-md-raid-assembly.rules", "69-lvm.rules"] {
        assert!(!root.join("usr/lib/udev/rules.d").join(rule).exists(), "{rule}");
    }
}

/// A disk whose boot sector says so on the serial line, with a boot partition as an installation leaves it.
fn installed_disk(dir: &Path) -> PathBuf {
    let content = dir.join("boot");
    fs::create_dir_all(content.join("akene/state")).unwrap();
    fs::write(content.join("akene/state/installed"), "finished\n").unwrap();
    let (part, disk) = (dir.join("part"), dir.join("disk"));
    fs::File::create(&part).unwrap().set_len(31 << 20).unwrap();
    run(Cmd::new("mkfs.ext4").args(["-q", "-L", "AKENE_BOOT", "-d"]).arg(&content).arg(&part));
    let mut bytes = vec![0; 1 << 20];
    bytes.extend(fs::read(&part).unwrap());
    fs::write(&disk, &bytes).unwrap();
    let table = "label: dos\nstart=2048, type=83, bootable\n";
    run(Cmd::new("sfdisk").arg("--quiet").arg(&disk).stdin(table));
    // mov si, text; next: lodsb; test al, al; jz halt; mov dx, 0x3f8; out dx, al; jmp next; halt: hlt; jmp halt
    let code = [
        0xbe, 0x11, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, 0xf4, 0xeb, 0xfd,
    ];
    let mut sector = code.to_vec();
    sector.extend(b"\r\nTHE DISK HAS STARTED\r\n\0");
    let mut bytes = fs::read(&disk).unwrap();
    bytes[..sector.len()].copy_from_slice(&sector);
    fs::write(&disk, bytes).unwrap();
    disk
}

#[test]
fn a_disc_forgotten_in_an_installed_computer_starts_its_disk() {
    if let Some(why) = vm::missing() {
        eprintln!("SKIPPED: no virtual machine can be tested here: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::start().unwrap();
    let built = journey::image_of_this_run(&mirror).unwrap();
    Accelerator::find(&built.kernel());
    let site = Site::with_consent(dir.path(), HOST, &small_server(&mirror, HOST), "none").unwrap();
    let iso = journey::stamped(&site, &built.iso(), &dir.path().join("stamped.iso")).unwrap();
    for medium in [Medium::Cd(iso.clone()), Medium::Usb(iso)] {
        let mut machine = Machine::new(Firmware::Bios);
        machine.disks = vec![installed_disk(dir.path())];
        machine.medium = Some(medium);
        let mut vm = machine.start(&dir.path().join("machine")).unwrap();
        let limit = vm.accelerator.scale(Duration::from_secs(300));
        let seen = vm.expect_any(&["THE DISK HAS STARTED", "Loading the installer"], limit).unwrap();
        assert_eq!(seen, 0, "{}", vm.console.text());
        vm.pull_the_plug();
        fs::remove_dir_all(dir.path().join("boot")).unwrap();
    }
}
