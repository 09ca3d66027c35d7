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

/// Where the boot loaders come from and go to.
pub struct Boot<'a> {
    /// Packages to take them from.
    pub packages: &'a [Fetched],
    /// A directory for what is unpacked.
    pub work: &'a Path,
    /// The live root, whose libraries GRUB's tool runs with.
    pub live: &'a Path,
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

/// Puts boot loaders and menu into the tree, and makes the EFI partition.
pub fn build(runner: &dyn Runner, boot: &Boot<'_>, epoch: i64) -> Result<Made> {
    let unpacked = boot.work.join("boot");
    fs::create_dir_all(&unpacked).with_context(|| format!("creating {}", unpacked.display()))?;
    merged_usr_links(&unpacked)?;
    for package in boot.packages {
        package.extract(&unpacked)?;
    }
    let find =
        |what: &str, names: &[&str]| -> Result<PathBuf> {
            names.iter().map(|n| unpacked.join(n)).find(|p| p.is_file()).with_context(|| {
                format!("looking for {what}: none of {} is in the packages", names.join(", "))
            })
        };
    let tree = boot.tree;
    files::write(&tree.join(marker(boot.id)), "")?;
    files::write(&tree.join(".disk/info"), "Akene\n")?;
    files::write(&tree.join("boot/grub/grub.cfg"), MENU.replace("@ID@", &marker(boot.id)))?;

    // BIOS.
    let pc = unpacked.join("usr/lib/grub/i386-pc");
    let core = tree.join("boot/grub/bios.img");
    let mut modules = MODULES.to_vec();
    modules.extend(["biosdisk", "drivemap", "linux16", "vga_text"]);
    mkimage(runner, boot, &unpacked, "i386-pc-eltorito", &pc, &modules, &core)?;

    // UEFI.
    let efi = tree.join("EFI/BOOT");
    let shim = find(
        "shim",
        &[
            "usr/lib/shim/shimx64.efi.signed.latest",
            "usr/lib/shim/shimx64.efi.signed",
            "usr/lib/shim/shimx64.efi.dualsigned",
        ],
    )?;
    let signed = find(
        "the signed GRUB for media",
        &[
            "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
            "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        ],
    )?;
    files::copy(&shim, &efi.join("BOOTX64.EFI"))?;
    files::copy(&signed, &efi.join("grubx64.efi"))?;
    if let Ok(manager) = find("the key manager", &["usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/mmx64.efi"])
    {
        files::copy(&manager, &efi.join("mmx64.efi"))?;
    }
    let ia32 = unpacked.join("usr/lib/grub/i386-efi");
    let mut modules = MODULES.to_vec();
    modules.extend(["efi_gop", "efi_uga"]);
    mkimage(runner, boot, &unpacked, "i386-efi", &ia32, &modules, &efi.join("BOOTIA32.EFI"))?;

    for (name, ending) in [("bios", "bin"), ("x64", "efi"), ("ia32", "efi")] {
        let arch = if name == "bios" { "x64" } else { name };
        for path in [format!("boot/memtest86+{arch}.{ending}"), format!("boot/mt86+{arch}.{ending}")] {
            let path = unpacked.join(path);
            if path.is_file() {
                files::copy(&path, &tree.join(format!("boot/memtest/{name}.{ending}")))?;
            }
        }
    }
    let esp = boot.work.join("esp.img");
    esp_image(runner, boot, &efi, &esp, epoch)?;
    Ok(Made { mbr: pc.join("boot_hybrid.img"), esp })
}

/// The empty file by which the menu finds its medium.
fn marker(id: &str) -> String {
    format!("akene/medium-{id}")
}

/// Joins GRUB modules with the distribution's own tool, run by the live root's loader: tool and modules are of one
/// version, whatever the build host has.
fn mkimage(
    runner: &dyn Runner,
    boot: &Boot<'_>,
    unpacked: &Path,
    format: &str,
    directory: &Path,
    modules: &[&str],
    output: &Path,
) -> Result<()> {
    let early = boot.work.join(format!("early-{format}.cfg"));
    // Beside other sticks and disks with a GRUB of their own, only our marker is ours.
    let text = format!(
        "search --no-floppy --file --set=root --hint=$root /{}\nset prefix=($root)/boot/grub\n",
        marker(boot.id)
    );
    files::write(&early, text)?;
    if let Some(dir) = output.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let cmd = Cmd::new(boot.live.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(library_path(boot.live))
        .arg(unpacked.join("usr/bin/grub-mkimage"))
        .args(["--format", format, "--prefix", "/boot/grub", "--compression", "auto", "--directory"])
        .arg(directory)
        .arg("--config")
        .arg(&early)
        .arg("--output")
        .arg(output)
        .args(modules.iter().filter(|m| directory.join(format!("{m}.mod")).is_file()));
    runner.run(&cmd).with_context(|| format!("making the {format} boot loader"))?;
    Ok(())
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
