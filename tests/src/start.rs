//! What a computer starts from, on a disk of ours: to be compared, and to be destroyed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_exec::{Cmd, Runner, SystemRunner};

use crate::image::{Image, Opened};

/// What a computer starts: code of the first sector, core image, menu, files of the EFI system partition.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    first: Vec<u8>,
    core: Vec<u8>,
    menu: Vec<String>,
    efi: Vec<Vec<u8>>,
}

const LOADERS: [&str; 4] =
    ["/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi", "/EFI/BOOT/grub.cfg", "/EFI/debian/grub.cfg"];

impl Start {
    /// That of a disk image. The core image may lie in two places: a new one is written beside the one that is in use.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn of(disk: &Path) -> Self {
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
        let menu = menu_of_disk(&fs::read_to_string(menu.path("grub/grub.cfg")).unwrap());
        Start { first, core: read((at + 1) * 512, usize::from(sectors) * 512), menu, efi }
    }

    /// What is not the same, for people.
    pub fn differing(&self, other: &Start) -> Vec<String> {
        let mut found = Vec::new();
        let parts =
            [("the first sector", self.first != other.first), ("the core image", self.core != other.core)];
        found.extend(parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()));
        let loaders = LOADERS.iter().zip(self.efi.iter().zip(&other.efi));
        found.extend(loaders.filter(|(_, (one, other))| one != other).map(|(name, _)| (*name).to_owned()));
        let missing = |from: &[String], of: &[String], sign: &str| -> Vec<String> {
            of.iter().filter(|line| !from.contains(line)).map(|line| format!("{sign} {line}")).collect()
        };
        found.extend(missing(&other.menu, &self.menu, "-"));
        found.extend(missing(&self.menu, &other.menu, "+"));
        found
    }
}

/// The lines of a menu without the entry for the firmware's settings, which is there where it was made on a computer with UEFI.
fn menu_of_disk(text: &str) -> Vec<String> {
    let mut of_computer = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.contains("30_uefi-firmware") {
            of_computer = line.contains("BEGIN");
        } else if !of_computer {
            lines.push(line.to_owned());
        }
    }
    lines
}

fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").unwrap_or_default().contains("ID=debian")
}

/// Destroys all of it: the first sector's code, the core image, GRUB's directory, the loaders; and leaves what
/// somebody else has on the EFI system partition.
///
/// # Panics
/// When it cannot be written.
pub fn destroy(disk: &Path) {
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
