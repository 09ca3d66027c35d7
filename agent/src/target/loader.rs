//! The boot loader a disk has before the new system's own: it starts the installer.
//!
//! Its programs come with the image ([`image::LOADER`]), so that nothing has to be downloaded for it. From this
//! step on the medium can be taken out, and a power cut leads back into the installer on the boot
//! partition. The new system's own boot loader takes the same places as soon as its packages are there.

use std::fs;
use std::path::Path;

use akene_exec::Runner;
use akene_planner::Role;
use akene_protocol::image;
use akene_protocol::profile::Distribution;
use anyhow::{Context, Result};

use super::esp::EspFiles;
use super::{bios, bootloader, signed};
use crate::storage::Layout;

/// Makes the disk start the installer that lies on its boot partition.
pub(super) fn put_on_disk(
    layout: &Layout,
    image_root: &Path,
    distribution: Distribution,
    scratch: &Path,
    runner: &dyn Runner,
) -> Result<()> {
    let dir = image_root.join(image::LOADER);
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).with_context(|| format!("reading {}", path.display()))
    };
    let boot = layout.partition(&Role::Boot).context("looking for the boot partition")?;
    let (first, core) = (read(image::LOADER_BOOT)?, read(image::LOADER_CORE)?);
    for (disk, room) in bootloader::started_disks(layout)? {
        let written = bios::embed(&disk.path, &first, &core, room);
        // The others only help where a BIOS tries them first.
        if disk.path == boot.disk {
            written?;
        }
    }
    let Some(esp) = layout.partition(&Role::Esp) else { return Ok(()) };
    let mut files = EspFiles::default();
    let menu = bootloader::menu_of(super::boot_uuid(layout)?);
    files.add("EFI/BOOT/grubx64.efi", read(image::LOADER_GRUB)?);
    if dir.join(image::LOADER_MANAGER).exists() {
        files.add("EFI/BOOT/mmx64.efi", read(image::LOADER_MANAGER)?);
    }
    files.add("EFI/BOOT/BOOTIA32.EFI", read(image::LOADER_IA32)?);
    // The signed GRUB looks into its distribution's directory, whatever will be installed.
    for dir in [distribution.directory(), "BOOT"] {
        files.add(&format!("EFI/{dir}/grub.cfg"), menu.clone());
    }
    files.remove(signed::FALLBACK);
    // Last: until it is there, the firmware starts what it started before.
    files.add("EFI/BOOT/BOOTX64.EFI", read(image::LOADER_SHIM)?);
    fs::create_dir_all(scratch).with_context(|| format!("making {}", scratch.display()))?;
    files.write(&esp.device, scratch, runner)
}
