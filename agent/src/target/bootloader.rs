//! The boot loader, for the firmware found and for the other one.
//!
//! GRUB never depends on the root filesystem: its directory, modules and configuration lie on the boot
//! partition. The core image for a BIOS finds it by number on its own disk, by UUID from any other disk, the one
//! on the ESP by UUID. The signed GRUB cannot be told anything at build time; it reads
//! `EFI/DISTRIBUTION/grub.cfg` beside it, which only says where the real configuration is.

use std::fs;
use std::path::Path;

use akene_archive::Root;
use akene_exec::Runner;
use akene_planner::Role;
use akene_protocol::Issue;
use akene_protocol::inventory::{FirmwareKind, TableKind};
use anyhow::{Context, Result, bail};

use super::bios::{self, Room};
use super::esp::EspFiles;
use super::firmware::{self, Entry};
use super::menu;
use super::signed;
use super::{Job, Watch};
use crate::durable;
use crate::probe::disk;
use crate::run::boot_files::INSTALLER;
use crate::run::kernels;
use crate::run::second_root::Old;
use crate::storage::{Layout, MountedDisk};

/// GRUB's menu, on the boot partition.
pub(super) const MENU: &str = "grub/grub.cfg";

/// Modules with which a core image reaches the boot partition and starts what is there; all others, which only make it look better,
/// are loaded from there. Another GRUB's modules take the place of its own a moment before another core image does, and a power
/// cut between the two must leave one that has no use for them.
pub(super) const CORE_MODULES: [&str; 13] = [
    "part_gpt",
    "part_msdos",
    "ext2",
    "fat",
    "normal",
    "search",
    "search_fs_uuid",
    "search_label",
    "configfile",
    "test",
    "echo",
    "linux",
    "loadenv",
];

/// Takes what an earlier system left on the boot partition, which is never formatted: its kernels have no
/// modules any more. Until there is a new menu, the disk starts the installer; nothing, if that is not
/// there.
pub(super) fn take_over(layout: &Layout, consoles: &[String]) -> Result<()> {
    let root = &mut Root::open(&layout.root)?;
    let boot = layout.root.join("boot");
    // The menu first: it must never name a kernel that is gone.
    // Settings of the old menu that would choose another entry.
    root.remove("boot/grub/grubenv")?;
    if !INSTALLER.iter().all(|file| root.exists(&format!("boot/{file}"))) {
        root.remove(&format!("boot/{MENU}"))?;
    } else {
        root.make_dir("boot/grub", 0o755)?;
        lead_to_installer(&boot, super::boot_uuid(layout)?, consoles)?;
    }
    for entry in fs::read_dir(&boot).with_context(|| format!("reading {}", boot.display()))? {
        let name = entry.with_context(|| format!("reading {}", boot.display()))?.file_name();
        let Some(name) = name.to_str() else { continue };
        // Links to them have no version.
        let is_link = kernels::KINDS[..2].iter().any(|kind| name.starts_with(kind));
        if is_link || kernels::version_of(name).is_some() {
            root.remove(&format!("boot/{name}"))?;
        }
    }
    Ok(())
}

/// Writes the menu that starts nothing but the installer on this boot partition.
pub(super) fn lead_to_installer(boot: &Path, uuid: &str, consoles: &[String]) -> Result<()> {
    let text = menu::unfinished(uuid, consoles);
    let write = |out: &mut dyn std::io::Write| out.write_all(text.as_bytes()).context("writing");
    durable::replace_for_boot_loader(&boot.join(MENU), 0o644, write)
}

/// What it takes to put the boot loader of a system on its disks.
pub(super) struct Tools<'a> {
    /// The disks, mounted below its root.
    pub layout: &'a Layout,
    /// Name of the distribution on the EFI system partition.
    pub distribution: &'static str,
    /// Firmware of the machine the disks will start.
    pub firmware: FirmwareKind,
    /// Whether that machine is this one.
    pub this_machine: bool,
    /// A directory on a memory filesystem.
    pub scratch: &'a Path,
    /// Runs the commands.
    pub runner: &'a dyn Runner,
}

impl<'a> Tools<'a> {
    pub(super) fn of(job: &Job<'a>) -> Self {
        Tools {
            layout: job.layout,
            distribution: job.distribution(),
            firmware: job.firmware,
            this_machine: job.this_machine,
            scratch: job.scratch,
            runner: job.runner,
        }
    }
}

/// Writes the menu that starts the system that was there before, and the installer where somebody chooses it.
pub(super) fn lead_to_old(boot: &Path, uuid: &str, consoles: &[String], old: &Old) -> Result<()> {
    let text = menu::returned(uuid, consoles, old);
    let write = |out: &mut dyn std::io::Write| out.write_all(text.as_bytes()).context("writing");
    let mode = if old.password.is_some() { 0o600 } else { 0o644 };
    durable::replace_for_boot_loader(&boot.join(MENU), mode, write)
}

/// Puts GRUB on the disk, as soon as its packages are there: from now on a power cut leads back into the
/// installer on the boot partition, and the medium can be taken out.
pub(super) fn put_on_disk(with: &Tools<'_>, root: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    modules(with, root)?;
    // What the core images load has to be there before they are.
    durable::sync_for_boot_loader(&with.layout.root.join("boot"))?;
    for_bios(with, watch)?;
    for_efi(with, root, watch)
}

/// Puts the modules of every platform there is where the core images look for them.
fn modules(with: &Tools<'_>, root: &mut Root) -> Result<()> {
    for platform in ["i386-pc", "x86_64-efi", "i386-efi"] {
        let source = with.layout.root.join("usr/lib/grub").join(platform);
        if !source.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&source).with_context(|| format!("reading {}", source.display()))? {
            let path = entry.with_context(|| format!("reading {}", source.display()))?.path();
            let wanted = path.extension().is_some_and(|e| e == "mod" || e == "lst" || e == "img");
            if let (true, Some(name)) = (wanted, path.file_name().and_then(|n| n.to_str())) {
                let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                root.write(&format!("boot/grub/{platform}/{name}"), content, 0o644)?;
            }
        }
    }
    if let Some(font) = root.read("usr/share/grub/unicode.pf2")? {
        root.write("boot/grub/fonts/unicode.pf2", font, 0o644)?;
    }
    Ok(())
}

/// The disks that have room for a core image, with the room: the boot disk first.
pub(super) fn started_disks(layout: &Layout) -> Result<Vec<(&MountedDisk, Room)>> {
    let mut disks = Vec::new();
    // A BIOS starts from no disk with larger sectors.
    for disk in layout.disks.iter().filter(|d| d.logical_sector == 512) {
        let room = match disk.table {
            TableKind::Gpt => {
                let on_disk = layout.partitions.iter().filter(|p| p.disk == disk.path);
                let ours = on_disk.into_iter().find(|p| p.role == Role::BiosBoot);
                ours.map(|p| bios::partition_room(&p.device)).transpose()?
            }
            // The first sector of a disk that somebody else starts from is theirs.
            TableKind::Mbr if Some(disk) != layout.boot_disk() && has_others(layout, disk) => None,
            TableKind::Mbr => Some(bios::gap_room(&disk.path)?),
        };
        disks.extend(room.map(|room| (disk, room)));
    }
    Ok(disks)
}

/// Whether somebody else has partitions on a disk.
fn has_others(layout: &Layout, disk: &MountedDisk) -> bool {
    let known = disk::known_partitions(&crate::probe::ProbeRoot::default(), &disk.path);
    let ours = |number: u32| layout.partitions.iter().any(|p| p.disk == disk.path && p.number == number);
    // The kernel shows an extended partition as a stump of two sectors.
    known.iter().any(|k| k.size > 8192 && !ours(k.number))
}

/// Each disk of ours gets a core image where it has room for one: a disk that is started first for whatever
/// reason finds its way. Only the boot disk must have one.
fn for_bios(with: &Tools<'_>, watch: &mut dyn Watch) -> Result<()> {
    let Some(first) = with.layout.boot_disk() else { bail!("installing GRUB: the plan has no disk") };
    let partition = with.layout.partition(&Role::Boot).context("looking for the boot partition")?;
    let disks = started_disks(with.layout)?;
    if !disks.iter().any(|(disk, _)| disk.path == first.path) || partition.disk != first.path {
        let message = if first.logical_sector == 512 {
            "the disk has no BIOS boot partition, so a computer with a BIOS will not start from it"
        } else {
            "the disk has sectors of 4096 bytes, from which no BIOS starts"
        };
        if with.firmware == FirmwareKind::Bios {
            bail!("installing GRUB for this computer's BIOS: {message}");
        }
        watch.warn(Issue::new("not-startable-by-bios", first.path.display().to_string(), message, ""));
        return Ok(());
    }
    let image = with.layout.root.join("usr/lib/grub/i386-pc/boot.img");
    let boot = fs::read(&image).with_context(|| format!("reading {}", image.display()))?;
    for (disk, room) in disks {
        let own = partition.disk == disk.path;
        let core = if own {
            let kind = match disk.table {
                TableKind::Gpt => "gpt",
                TableKind::Mbr => "msdos",
            };
            let prefix = format!("(,{kind}{})/grub", partition.number);
            mkimage(with, "i386-pc", &prefix, None, &["biosdisk"])?
        } else {
            let where_it_is = prefix_of(super::boot_uuid(with.layout)?);
            mkimage(with, "i386-pc", "/grub", Some(&where_it_is), &["biosdisk"])?
        };
        if own && with.firmware != FirmwareKind::Bios && !room.holds(&core) {
            // A table that stays may leave no room; a BIOS was refused such a disk by the planner.
            watch.warn(Issue::new(
                "not-startable-by-bios",
                disk.path.display().to_string(),
                "a computer with a BIOS will not start from it: GRUB has no room before its first partition",
                "nothing, while this computer starts by UEFI",
            ));
            continue;
        }
        match bios::embed(&disk.path, &boot, &core, room) {
            Err(error) if !own => watch.warn(Issue::new(
                "not-startable-first",
                disk.path.display().to_string(),
                format!("the computer will not start if its BIOS tries this disk first: {error:#}"),
                "nothing, while the BIOS starts from the other disk",
            )),
            written => written?,
        }
    }
    Ok(())
}

/// Commands that make GRUB's directory on the boot partition its prefix.
fn prefix_of(uuid: &str) -> String {
    format!("search --no-floppy --fs-uuid --set=root {uuid}\nset prefix=($root)/grub\n")
}

/// The `grub.cfg` on an ESP: it only says where the real one is.
pub(super) fn menu_of(uuid: &str) -> String {
    format!("{}configfile $prefix/grub.cfg\n", prefix_of(uuid))
}

/// Fills the ESP, and where this computer has UEFI tells its firmware.
fn for_efi(with: &Tools<'_>, root: &Root, watch: &mut dyn Watch) -> Result<()> {
    let Some(esp) = with.layout.partition(&Role::Esp) else {
        if with.firmware != FirmwareKind::Bios {
            bail!("installing GRUB for this computer's UEFI: the plan has no EFI system partition");
        }
        return Ok(());
    };
    let uuid = super::boot_uuid(with.layout)?;
    let ours = with.distribution;
    // A core image of ours goes on with `normal`, which reads the lists of commands and the menu from the
    // prefix; a configfile in it would run before there are any commands.
    let prefix_is = prefix_of(uuid);
    let where_it_is = menu_of(uuid);
    let mut files = EspFiles::default();
    files.remove(signed::FALLBACK);
    let loader = match signed::loaders(root)? {
        Some(loaders) => {
            for loader in loaders {
                loader.places(ours).iter().for_each(|place| files.add(place, loader.content.clone()));
            }
            "shimx64.efi"
        }
        None => {
            watch.warn(Issue::new(
                "not-signed",
                "packages",
                "the archive has no signed boot loader, so the system does not start while Secure Boot is on",
                "switch Secure Boot off, or use an archive with shim-signed and grub-efi-amd64-signed",
            ));
            let image = mkimage(with, "x86_64-efi", "/grub", Some(&prefix_is), &[])?;
            files.add(&format!("EFI/{ours}/grubx64.efi"), image.clone());
            files.add("EFI/BOOT/BOOTX64.EFI", image);
            "grubx64.efi"
        }
    };
    // The signed GRUB knows its distribution's directory; one made by somebody else may look beside itself.
    files.add(&format!("EFI/{ours}/grub.cfg"), where_it_is.clone());
    files.add("EFI/BOOT/grub.cfg", where_it_is.clone());
    if with.layout.root.join("usr/lib/grub/i386-efi").is_dir() {
        files.add("EFI/BOOT/BOOTIA32.EFI", mkimage(with, "i386-efi", "/grub", Some(&prefix_is), &[])?);
    } else if with.firmware == FirmwareKind::Uefi32 {
        bail!("installing GRUB for this computer's 32-bit UEFI: the archive has no grub-efi-ia32-bin");
    }
    files.write(&esp.device, with.scratch, with.runner)?;
    if with.this_machine && with.firmware == FirmwareKind::Uefi64 {
        let loader = format!("\\EFI\\{ours}\\{loader}");
        let entry = Entry {
            label: &format!("{} (akene)", with.distribution),
            disk: &esp.disk,
            partition: esp.number,
            partuuid: esp.partuuid.as_deref(),
            loader: &loader,
        };
        if let Err(error) = firmware::enter(with.runner, &entry) {
            // Old firmwares refuse, or forget: the removable path starts the system all the same.
            watch.warn(Issue::new(
                "firmware-entry",
                "",
                format!("this computer's firmware did not take an entry for the new system: {error:#}"),
                "nothing to do: the system starts from the disk's default loader",
            ));
        }
    }
    Ok(())
}

/// A GRUB image, made by the new system's own tool from its own modules.
fn mkimage(
    with: &Tools<'_>,
    format: &str,
    prefix: &str,
    early: Option<&str>,
    more: &[&str],
) -> Result<Vec<u8>> {
    let dir = with.scratch.join("grub");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let seen = "/run/akene-grub";
    let mounts = akene_exec::ChrootMounts::new(&with.layout.root).bind(&dir, seen);
    let mut cmd =
        super::inside(&with.layout.root, "grub-mkimage").chroot(mounts).args(["-O", format, "-p", prefix]);
    cmd = cmd.args(["-d", &format!("/usr/lib/grub/{format}"), "-o", &format!("{seen}/{format}.img")]);
    if let Some(early) = early {
        let path = dir.join("early.cfg");
        fs::write(&path, early).with_context(|| format!("writing {}", path.display()))?;
        cmd = cmd.args(["-c", &format!("{seen}/early.cfg")]);
    }
    with.runner
        .run(&cmd.args(CORE_MODULES).args(more))
        .with_context(|| format!("making GRUB's image for {format}"))?;
    let image = dir.join(format!("{format}.img"));
    fs::read(&image).with_context(|| format!("reading {}", image.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_system_is_not_started_any_more_once_its_root_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join("boot").join(name);
        fs::create_dir_all(file("grub")).unwrap();
        fs::create_dir_all(file("akene")).unwrap();
        for name in ["vmlinuz-6.1", "initrd.img-6.1", "grub/grub.cfg", "grub/grubenv", "akene/journal.jsonl"]
        {
            fs::write(file(name), "old").unwrap();
        }
        let boot = crate::storage::MountedPartition {
            role: Role::Boot,
            device: "/dev/sda3".into(),
            disk: "/dev/sda".into(),
            number: 3,
            uuid: Some("1234-abcd".into()),
            partuuid: None,
            fstype: None,
            label: None,
            mount: None,
            kept: true,
        };
        let layout = Layout { root: dir.path().into(), partitions: vec![boot], disks: vec![] };
        INSTALLER.iter().for_each(|name| fs::write(file(name), "installer").unwrap());
        take_over(&layout, &["ttyS0".into()]).unwrap();
        let menu = fs::read_to_string(file("grub/grub.cfg")).unwrap();
        assert!(menu.contains("--set=root 1234-abcd\n\tlinux /akene/vmlinuz akene.mode=install panic=30"));
        assert!(!file("vmlinuz-6.1").exists() && !file("grub/grubenv").exists());
        assert!(file("akene/journal.jsonl").exists());
        // Without an installer the old menu goes with what it names: it must not be taken for one of the new system's.
        fs::write(file("vmlinuz-6.1"), "old").unwrap();
        fs::write(file("grub/grub.cfg"), "linux /vmlinuz-6.1").unwrap();
        fs::remove_file(file(INSTALLER[0])).unwrap();
        take_over(&layout, &[]).unwrap();
        assert!(!file("vmlinuz-6.1").exists() && !file("grub/grub.cfg").exists());
    }
}
