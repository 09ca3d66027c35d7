//! The tree of the medium: boot loaders, menu, and what they load.
//!
//! Three firmwares find three beginnings, and all read the same menu:
//! - BIOS, from CD by El Torito and from a stick by the MBR: GRUB's core image, made from the distribution's modules.
//! - 64-bit UEFI: shim and the GRUB that the distribution signed for media; nothing of ours is in that chain
//!   but the menu, which is text.
//! - 32-bit UEFI: a GRUB image made from the distribution's modules.
//!
//! The EFI programs lie in a small FAT image that is both El Torito image and GPT partition.

use std::fs;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner};
use akene_protocol::image;
use anyhow::{Context, Result};

use crate::files;
use crate::kernel::merged_usr_links;
use crate::live::library_path;
use crate::packages::Fetched;

/// The menu.
const MENU: &str = include_str!("grub.cfg");

/// Modules of the boot loader images we make: whatever the menu uses, on every disk it may have to read.
const MODULES: &[&str] = &[
    "all_video",
    "boot",
    "btrfs",
    "cat",
    "chain",
    "configfile",
    "cpuid",
    "echo",
    "ext2",
    "fat",
    "file",
    "font",
    "gfxterm",
    "gzio",
    "halt",
    "help",
    "iso9660",
    "keystatus",
    "linux",
    "loadenv",
    "ls",
    "minicmd",
    "normal",
    "part_gpt",
    "part_msdos",
    "probe",
    "read",
    "reboot",
    "regexp",
    "search",
    "search_fs_file",
    "search_fs_uuid",
    "search_label",
    "serial",
    "sleep",
    "terminal",
    "test",
    "true",
    "xfs",
];

/// Modules of the loaders that start the installer from a disk: all that its menu uses.
const DISK_MODULES: &[&str] = &[
    "all_video",
    "configfile",
    "echo",
    "ext2",
    "fat",
    "gzio",
    "linux",
    "normal",
    "part_gpt",
    "part_msdos",
    "reboot",
    "search",
    "search_fs_file",
    "search_fs_uuid",
    "search_label",
    "sleep",
    "test",
    "true",
];

/// Where the boot loaders go to.
pub struct Boot<'a> {
    /// A directory for what is unpacked.
    pub work: &'a Path,
    /// The tree of the medium.
    pub tree: &'a Path,
    /// A name no other medium has: the menu finds its own medium by it.
    pub id: &'a str,
}

/// What [`build`] made.
pub struct Made {
    /// First sector of a hybrid medium.
    pub mbr: PathBuf,
    /// The EFI system partition.
    pub esp: PathBuf,
}

/// Boot loaders as the distribution's packages have them.
pub struct Loaders<'a> {
    unpacked: PathBuf,
    work: &'a Path,
    live: &'a Path,
}

const SHIM: [&str; 3] = [
    "usr/lib/shim/shimx64.efi.signed.latest",
    "usr/lib/shim/shimx64.efi.signed",
    "usr/lib/shim/shimx64.efi.dualsigned",
];
const GRUB: &str = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed";
const GRUB_FOR_MEDIA: &str = "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed";
const MANAGER: [&str; 2] = ["usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/mmx64.efi"];

impl<'a> Loaders<'a> {
    /// Unpacks them below `work`. GRUB's tool runs with the libraries of the root `live`.
    pub fn unpack(packages: &[Fetched], work: &'a Path, live: &'a Path) -> Result<Self> {
        let unpacked = work.join("boot");
        fs::create_dir_all(&unpacked).with_context(|| format!("creating {}", unpacked.display()))?;
        merged_usr_links(&unpacked)?;
        for package in packages {
            package.extract(&unpacked)?;
        }
        Ok(Loaders { unpacked, work, live })
    }

    fn find(&self, what: &str, names: &[&str]) -> Result<PathBuf> {
        names
            .iter()
            .map(|n| self.unpacked.join(n))
            .find(|p| p.is_file())
            .with_context(|| format!("looking for {what}: none of {} is in the packages", names.join(", ")))
    }

    fn modules(&self, platform: &str) -> PathBuf {
        self.unpacked.join("usr/lib/grub").join(platform)
    }

    /// Writes what a disk is made startable with, before the new system's own boot loader is there
    /// ([`image::LOADER`]). Its GRUB has all it needs built in, and finds the boot partition by the
    /// installer on it: on the disk it was started from, then on the others.
    pub fn for_disks(&self, runner: &dyn Runner, to: &Path) -> Result<()> {
        let early = format!(
            "search --no-floppy --file --set=root --hint=$root, /{}\nset prefix=($root)/grub\n",
            image::KERNEL
        );
        files::copy(&self.modules("i386-pc").join("boot.img"), &to.join(image::LOADER_BOOT))?;
        let mut modules = DISK_MODULES.to_vec();
        modules.push("biosdisk");
        self.mkimage(runner, "i386-pc", "/grub", &early, &modules, &to.join(image::LOADER_CORE))?;
        modules.extend(["efi_gop", "efi_uga"]);
        self.mkimage(runner, "i386-efi", "/grub", &early, &modules, &to.join(image::LOADER_IA32))?;
        files::copy(&self.find("shim", &SHIM)?, &to.join(image::LOADER_SHIM))?;
        files::copy(&self.find("the signed GRUB for disks", &[GRUB])?, &to.join(image::LOADER_GRUB))?;
        if let Ok(manager) = self.find("the key manager", &MANAGER) {
            files::copy(&manager, &to.join(image::LOADER_MANAGER))?;
        }
        Ok(())
    }

    /// Joins GRUB modules with the distribution's own tool, run by the live root's loader: tool and modules are of
    /// one version, whatever the build host has.
    fn mkimage(
        &self,
        runner: &dyn Runner,
        format: &str,
        prefix: &str,
        early: &str,
        modules: &[&str],
        output: &Path,
    ) -> Result<()> {
        let config = self.work.join(format!("early-{format}.cfg"));
        files::write(&config, early)?;
        if let Some(dir) = output.parent() {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        let directory = self.modules(format.trim_end_matches("-eltorito"));
        let cmd = Cmd::new(self.live.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(library_path(self.live))
            .arg(self.unpacked.join("usr/bin/grub-mkimage"))
            .args(["--format", format, "--prefix", prefix, "--compression", "auto", "--directory"])
            .arg(&directory)
            .arg("--config")
            .arg(&config)
            .arg("--output")
            .arg(output)
            .args(modules.iter().filter(|m| directory.join(format!("{m}.mod")).is_file()));
        runner.run(&cmd).with_context(|| format!("making the {format} boot loader"))?;
        Ok(())
    }
}

/// Puts boot loaders and menu into the tree, and makes the EFI partition.
pub fn build(runner: &dyn Runner, loaders: &Loaders<'_>, boot: &Boot<'_>, epoch: i64) -> Result<Made> {
    let tree = boot.tree;
    // Beside other sticks and disks with a GRUB of their own, only our marker is ours.
    let early = format!(
        "search --no-floppy --file --set=root --hint=$root /{}\nset prefix=($root)/boot/grub\n",
        marker(boot.id)
    );
    files::write(&tree.join(marker(boot.id)), "")?;
    files::write(&tree.join(".disk/info"), "Akene\n")?;
    files::write(&tree.join("boot/grub/grub.cfg"), MENU.replace("@ID@", &marker(boot.id)))?;

    // BIOS.
    let core = tree.join("boot/grub/bios.img");
    let mut modules = MODULES.to_vec();
    modules.extend(["biosdisk", "drivemap", "linux16", "vga_text"]);
    loaders.mkimage(runner, "i386-pc-eltorito", "/boot/grub", &early, &modules, &core)?;

    // UEFI.
    let efi = tree.join("EFI/BOOT");
    files::copy(&loaders.find("shim", &SHIM)?, &efi.join("BOOTX64.EFI"))?;
    let signed = loaders.find("the signed GRUB for media", &[GRUB_FOR_MEDIA, GRUB])?;
    files::copy(&signed, &efi.join("grubx64.efi"))?;
    if let Ok(manager) = loaders.find("the key manager", &MANAGER) {
        files::copy(&manager, &efi.join("mmx64.efi"))?;
    }
    let mut modules = MODULES.to_vec();
    modules.extend(["efi_gop", "efi_uga"]);
    loaders.mkimage(runner, "i386-efi", "/boot/grub", &early, &modules, &efi.join("BOOTIA32.EFI"))?;

    for (name, ending) in [("bios", "bin"), ("x64", "efi"), ("ia32", "efi")] {
        let arch = if name == "bios" { "x64" } else { name };
        for path in [format!("boot/memtest86+{arch}.{ending}"), format!("boot/mt86+{arch}.{ending}")] {
            let path = loaders.unpacked.join(path);
            if path.is_file() {
                files::copy(&path, &tree.join(format!("boot/memtest/{name}.{ending}")))?;
            }
        }
    }
    let esp = boot.work.join("esp.img");
    esp_image(runner, boot, &efi, &esp, epoch)?;
    Ok(Made { mbr: loaders.modules("i386-pc").join("boot_hybrid.img"), esp })
}

/// The empty file by which the menu finds its medium.
fn marker(id: &str) -> String {
    format!("akene/medium-{id}")
}

/// The FAT image with the EFI programs. The signed GRUB looks for its menu beside itself first, in
/// `/boot/grub`: a stub there finds the medium.
fn esp_image(runner: &dyn Runner, boot: &Boot<'_>, efi: &Path, esp: &Path, epoch: i64) -> Result<()> {
    let stub = boot.work.join("esp-grub.cfg");
    let text = format!(
        "search --no-floppy --file --set=root --hint=$root /{}\nset prefix=($root)/boot/grub\nconfigfile ($root)/boot/grub/grub.cfg\n",
        marker(boot.id)
    );
    files::write(&stub, text)?;
    let size = (files::size(efi)? + (2 << 20)).max(12 << 20).next_multiple_of(1 << 20);
    let file = fs::File::create(esp).with_context(|| format!("creating {}", esp.display()))?;
    file.set_len(size).with_context(|| format!("sizing {}", esp.display()))?;
    drop(file);
    // --invariant fixes what mkfs.vfat takes from clock and chance; mtools take times from SOURCE_DATE_EPOCH.
    let format = Cmd::new("mkfs.vfat").args(["--invariant", "-F", "16", "-s", "4", "-n", "AKENE_EFI", "-i"]);
    runner
        .run(&format.arg(boot.id.get(..8).unwrap_or("a6e7e5ed")).arg(esp))
        .context("making the EFI partition")?;
    let mtools = |program: &str| {
        Cmd::new(program)
            .env("SOURCE_DATE_EPOCH", epoch.to_string())
            .env("TZ", "UTC")
            .env("MTOOLSRC", "/dev/null")
            .arg("-i")
            .arg(esp)
    };
    runner
        .run(&mtools("mmd").args(["::/EFI", "::/EFI/BOOT", "::/boot", "::/boot/grub"]))
        .context("filling the EFI partition")?;
    for name in files::names(efi)? {
        runner
            .run(&mtools("mcopy").arg(efi.join(&name)).arg(format!("::/EFI/BOOT/{name}")))
            .context("filling the EFI partition")?;
    }
    runner
        .run(&mtools("mcopy").arg(&stub).arg("::/boot/grub/grub.cfg"))
        .context("filling the EFI partition")?;
    Ok(())
}
