//! The main job: from the medium to the installed system that has confirmed itself.

use std::path::Path;
use std::time::Duration;

use akene_tests::checks::{self, Expected};
use akene_tests::image::{Image, Opened, digest};
use akene_tests::journey::{self, Journey, Put};
use akene_tests::mirror::Mirror;
use akene_tests::secrets::Secrets;
use akene_tests::site::{Site, small_server};
use akene_tests::vm::{Firmware, HOST, Machine};

use crate::{MINUTE, image};

fn expected(secrets: &Secrets) -> Expected {
    Expected { secrets: secrets.texts(), fresh: false, ..Expected::of_small_server() }
}

fn whole_way(firmware: Firmware, put: Put, memory: u32, clock: Option<&str>) {
    let Some((mirror, built)) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let site = journey::site_for_machines(&mirror, dir.path()).unwrap();
    let (mut machine, disk) = journey::machine_with_disk(firmware, dir.path(), 8).unwrap();
    (machine.memory, machine.clock) = (memory, clock.map(String::from));
    let stays = format!("Value: /dev/disk/by-id/virtio-{}-0\n", machine.serial);
    let installed = Machine { clock: None, ..machine.clone() };
    let mut journey = Journey::begin(site, &built.iso(), put, machine, dir.path()).unwrap();
    // The packages of the new system are being unpacked: only the image's own boot loader is on the disk.
    let there = [
        "GNU GRUB",
        "Loading the installer",
        "Starting",
        "Planning the disks",
        "putting the installer on the disk",
        "Installing",
    ];
    let seconds = journey.cut_power_after(&there, 30 * MINUTE).unwrap();
    for (second, word) in seconds.iter().zip(there) {
        println!("{second:>5} s {word}");
    }
    let figures = journey.complete(40 * MINUTE).unwrap();
    println!("{firmware:?} from a {put:?}, {memory} MiB of memory: {figures:?}");
    let console = journey.vm.console.text().to_owned();
    // Where there is UEFI, its boot menu has our entry: the installer has read it back.
    assert!(!console.contains("did not take an entry"), "{console}");
    let site = journey.shut_down().unwrap();
    let secrets = Secrets::of(&site, &disk).unwrap();
    secrets.not_in("the serial console", &console).unwrap();
    secrets.not_shown_by(&site).unwrap();
    secrets.not_told_to_the_kernel(&disk).unwrap();
    checks::installed(&disk, &expected(&secrets)).unwrap();
    // Who installs the boot loader again finds where, and kernel names change from start to start.
    let root = Opened::new(&disk, "akene-root").unwrap();
    let answers = std::fs::read_to_string(root.path("var/cache/debconf/config.dat")).unwrap();
    let asked = answers.split("\n\n").find(|a| a.starts_with("Name: grub-pc/install_devices\n"));
    assert!(asked.is_some_and(|a| a.contains(&stays)), "{asked:?}");
    drop(root);
    if firmware == Firmware::SecureBoot {
        renews_loaders(&installed, &disk, &dir.path().join("machine"), &mirror.host.distribution);
    }
}

/// What packages bring for the EFI system partition comes there, whatever their own scripts do. (That of keys starts nothing:
/// any other would have to be an older one that is signed.)
fn renews_loaders(machine: &Machine, disk: &Path, dir: &Path, distribution: &str) {
    let places = ["BOOT", distribution].map(|place| format!("/EFI/{place}/mmx64.efi"));
    let there = || places.each_ref().map(|path| Image::open(disk).unwrap().esp_file(path).unwrap());
    let packaged = there();
    assert!(packaged[0].starts_with(b"MZ"));
    places
        .iter()
        .for_each(|path| Image::open(disk).unwrap().put_esp_file(path, b"before the upgrade").unwrap());
    assert_ne!(there(), packaged);
    // Nothing on the console says when the agent has come to it.
    for patience in [1, 2, 4] {
        let mut vm = machine.start(dir).unwrap();
        vm.expect("login:", 40 * MINUTE).unwrap();
        std::thread::sleep(Duration::from_secs(30) * patience);
        vm.switch_off(10 * MINUTE).unwrap();
        if there() == packaged {
            return;
        }
    }
    panic!("the loaders on the partition are not those of the packages");
}

/// The least memory an installation has to do with. The oldest of the machines have it; a BIOS is what they have, too, and a battery
/// that has been empty for years.
const LEAST: u32 = 512;
const EMPTY_BATTERY: &str = "1980-01-01T00:00:00";

#[test]
fn bios_from_cd_with_an_empty_battery() {
    whole_way(Firmware::Bios, Put::Disc, LEAST, Some(EMPTY_BATTERY));
}

#[test]
fn uefi_with_secure_boot_from_usb() {
    whole_way(Firmware::SecureBoot, Put::Stick, 1024, None);
}

/// An image, and a site that permits nothing: machines get as far as telling it what they are.
struct Refusing {
    dir: tempfile::TempDir,
    built: journey::Built,
    site: Site,
    /// Ends with this.
    _mirror: Mirror,
}

fn refusing() -> Option<Refusing> {
    let (mirror, built) = image()?;
    let dir = tempfile::tempdir().unwrap();
    let mut site = Site::with_consent(dir.path(), HOST, &small_server(&mirror, HOST), "none").unwrap();
    site.start().unwrap();
    Some(Refusing { dir, built, site, _mirror: mirror })
}

#[test]
fn a_32_bit_uefi_starts_the_agent() {
    let Some(Refusing { dir, built, site, _mirror }) = refusing() else { return };
    let mut journey =
        Journey::begin(site, &built.iso(), Put::Stick, Machine::new(Firmware::Uefi32), dir.path()).unwrap();
    // It has no disk: the agent gets as far as telling the server what it is.
    journey.wait_for("failed", 15 * MINUTE).unwrap();
}

/// A machine whose clock is years ahead mends it, gets its profile, and is refused for want of a permission: with every byte of its
/// disk as it was.
#[test]
fn a_clock_at_2050_is_mended() {
    let Some(Refusing { dir, built, site, _mirror }) = refusing() else { return };
    let (mut machine, disk) = journey::machine_with_disk(Firmware::Bios, dir.path(), 8).unwrap();
    let before = digest(&disk).unwrap();
    machine.clock = Some("2050-01-01T00:00:00".into());
    machine.kernel = Some((built.kernel(), pair(&built, &site, dir.path()), "console=ttyS0,115200".into()));
    let mut vm = machine.start(&dir.path().join("machine")).unwrap();
    let limit = vm.accelerator.scale(15 * MINUTE);
    let seen = site.wait_for("failed", limit, || vm.is_on());
    let seen = seen.unwrap_or_else(|e| panic!("{e:#}\n{}", vm.console.text()));
    assert!(seen.to_string().contains("consent") || seen.to_string().contains("permi"), "{seen:#}");
    vm.pull_the_plug();
    assert_eq!(digest(&disk).unwrap(), before, "the disk was changed");
}

/// Initrd and stamp as one file, which is what a boot loader that loads two makes of them.
fn pair(built: &journey::Built, site: &Site, dir: &Path) -> std::path::PathBuf {
    let netboot = dir.join("netboot");
    std::fs::create_dir(&netboot).unwrap();
    for file in built.kernel().parent().unwrap().read_dir().unwrap().flatten() {
        std::fs::copy(file.path(), netboot.join(file.file_name())).unwrap();
    }
    let stamp = akene_exec::Cmd::new(akene_tests::site::program("akene-image").unwrap());
    let stamp = stamp.arg("stamp").arg(&netboot).arg("--stamp").arg(site.stamp());
    akene_exec::Runner::run(&akene_exec::SystemRunner, &stamp).unwrap();
    let mut both = std::fs::read(netboot.join("initrd.img")).unwrap();
    both.extend(std::fs::read(netboot.join("stamp.img")).unwrap());
    let path = dir.join("both.img");
    std::fs::write(&path, both).unwrap();
    path
}
