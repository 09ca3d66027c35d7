//! Making a system start again: its boot loader, put on its disk once more.
//!
//! For a system of ours that is what its installation did ([`crate::target::repair_loader`]): the same code, the programs of
//! the system itself. Another Linux with GRUB gets its own `grub-install` and its own menu maker, run inside it; the
//! commands are shown before. What starts Windows is never written over: not its first sector, not its files on an EFI
//! system partition.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use akene_archive::Progress;
use akene_exec::{ChrootMounts, Cmd};
use akene_planner::{BOOT_LABEL, ESP_LABEL, Role};
use akene_protocol::Issue;
use akene_protocol::inventory::{Bus, Disk, FirmwareKind, Inventory, LooksLike, TableKind};
use akene_protocol::profile::{Distribution, Filesystem};
use anyhow::{Context, Result, bail};

use super::open::{Opened, Purpose, open};
use super::volumes::{Place, Volume};
use super::{Rescue, apart, current};
use crate::probe::os_release;
use crate::storage::{Layout, MountedDisk, MountedPartition};
use crate::target::{self, Watch};

/// Where the system is mounted.
const AT: &str = "/run/akene/rescue/system";

/// GPT type of a partition for GRUB's core image.
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";

/// Mount points that programs of the system need besides `/` and `/boot`.
const NEEDED: [&str; 2] = ["/usr", "/var"];

/// What a repair does.
#[derive(Clone, Debug)]
pub struct Repair {
    /// The disk whose start is written.
    pub disk: String,
    /// What is done, line by line.
    pub steps: Vec<String>,
    /// What is mounted where, the root first.
    mounts: Vec<(Volume, String)>,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Ours { layout: Box<Layout>, distribution: Distribution, firmware: FirmwareKind, this_machine: bool },
    Other { commands: Vec<Vec<String>> },
}

/// What is found in a system's root.
struct Inside {
    fstab: String,
    release: String,
    /// Paths below the root that are there, of those asked for.
    there: Vec<&'static str>,
}

/// What a repair may use of another system.
const PROGRAMS: [&str; 8] = [
    "usr/sbin/grub-install",
    "usr/bin/grub-install",
    "usr/sbin/grub2-install",
    "usr/sbin/update-grub",
    "boot/grub2",
    "usr/lib/grub/i386-pc",
    "usr/lib/grub/x86_64-efi",
    "usr/lib/grub/i386-efi",
];

/// Finds out what would be done for a system, whose root this is. Nothing is written.
///
/// # Errors
/// [`Issue`]s: `system-unfinished`, `system-not-current`, `boot-unusual`, `windows-starts-here`.
pub fn plan(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    volumes: &[Volume],
    system: &Volume,
    firmware: FirmwareKind,
) -> Result<Repair> {
    let inside = apart(|| {
        let opened = open(rescue.runner, machine, system, Path::new(AT), Purpose::Look, "")?;
        let root = opened.system();
        let read = |name: &str| fs::read_to_string(root.join(name)).ok();
        let inside = Inside {
            fstab: read("etc/fstab").unwrap_or_default(),
            // A link out of the mounted root: its target is read where it lies.
            release: read("usr/lib/os-release").or_else(|| read("etc/os-release")).unwrap_or_default(),
            there: PROGRAMS.into_iter().filter(|p| root.join(p).exists()).collect(),
        };
        opened.close()?;
        current::ensure(rescue, machine, volumes, system, &inside.fstab)?;
        Ok(inside)
    })?;
    let mounts = mounts(&inside.fstab, volumes, system);
    let at = |place: &str| mounts.iter().find(|(_, p)| p == place).map(|(v, _)| v);
    let repair = match at("/boot").filter(|v| matches!(v.looks(), Some(LooksLike::AkeneBoot { .. }))) {
        Some(boot) => ours(machine, &mounts, boot, system, &inside, firmware)?,
        None => other(machine, &mounts, system, &inside, firmware)?,
    };
    let disk = machine.disks.iter().find(|d| d.path == repair.disk).context("looking for the boot disk")?;
    if firmware == FirmwareKind::Bios {
        leave_windows(disk, volumes)?;
    }
    Ok(repair)
}

/// What `fstab` mounts of these volumes, by path. The root is the system's own.
pub(super) fn mounts(fstab: &str, volumes: &[Volume], system: &Volume) -> Vec<(Volume, String)> {
    let mut mounts = vec![(system.clone(), "/".to_owned())];
    for line in fstab.lines().filter(|l| !l.trim_start().starts_with('#')) {
        let mut fields = line.split_whitespace();
        let (Some(source), Some(place)) = (fields.next(), fields.next()) else { continue };
        let is = |v: &&Volume| match source.split_once('=') {
            Some(("UUID", uuid)) => v.uuid().is_some_and(|u| u.eq_ignore_ascii_case(uuid.trim_matches('"'))),
            Some(("LABEL", label)) => {
                v.content.as_ref().and_then(|c| c.label.as_deref()) == Some(label.trim_matches('"'))
            }
            _ => false,
        };
        let found: Vec<&Volume> = volumes.iter().filter(is).collect();
        // Two with one UUID: a copied disk. Which of them is meant nobody knows.
        if let ([found], true) = (&found[..], place.starts_with('/') && place != "/") {
            mounts.push(((*found).clone(), place.to_owned()));
        }
    }
    mounts.sort_by(|a, b| Path::new(&a.1).cmp(Path::new(&b.1)));
    mounts
}

fn unusual(system: &Volume, why: impl Into<String>) -> Issue {
    Issue::new(
        "boot-unusual",
        &system.name,
        why,
        "its start cannot be repaired from here; ask somebody who knows this system",
    )
}

/// What was done when a system of ours was installed.
fn ours(
    machine: &Inventory,
    mounts: &[(Volume, String)],
    boot: &Volume,
    system: &Volume,
    inside: &Inside,
    firmware: FirmwareKind,
) -> Result<Repair> {
    if matches!(boot.looks(), Some(LooksLike::AkeneBoot { unfinished: true, .. })) {
        bail!(Issue::new(
            "system-unfinished",
            &boot.name,
            "its installation was begun and never completed",
            "start the computer from its disk, or from this medium with *Install this computer*: the installation goes on",
        ));
    }
    let Some(distribution) = os_release::distribution(&inside.release) else {
        let name = os_release::value(&inside.release, "ID").unwrap_or_default();
        bail!(unusual(system, format!("it calls itself `{name}`")));
    };
    let (boot_disk, _) = on_partition(machine, boot, system)?;
    let mut layout = Layout { root: AT.into(), ..Layout::default() };
    let mut used = Vec::new();
    for (volume, place) in mounts {
        let role = match place.as_str() {
            "/" => Role::Root,
            "/boot" => Role::Boot,
            "/boot/efi" => Role::Esp,
            place if NEEDED.contains(&place) => Role::Volume(place.trim_start_matches('/').into()),
            _ => continue,
        };
        if role == Role::Esp && label(volume) != Some(ESP_LABEL) {
            bail!(unusual(system, format!("its EFI system partition {} is shared with others", volume.name)));
        }
        layout.partitions.push(partition(machine, volume, system, role.clone(), Some(place))?);
        if role != Role::Esp {
            used.push((volume.clone(), place.clone()));
        }
    }
    // The boot disk first, then the others of ours, which lead to it.
    let name = Role::BiosBoot.partition_name();
    let mut disks = vec![boot_disk];
    disks.extend(
        machine.disks.iter().filter(|d| d.name != boot_disk.name && core_room(d, name.as_deref()).is_some()),
    );
    for disk in disks {
        let kind = disk.table.as_ref().map_or(TableKind::Mbr, |t| t.kind);
        layout.disks.push(MountedDisk {
            path: disk.path.clone().into(),
            by_id: disk.by_id.clone(),
            table: kind,
            logical_sector: disk.logical_sector,
        });
        if let Some(number) = core_room(disk, None).filter(|_| kind == TableKind::Gpt) {
            layout.partitions.push(MountedPartition {
                role: Role::BiosBoot,
                device: crate::probe::disk::partition_path(Path::new(&disk.path), number),
                disk: disk.path.clone().into(),
                number,
                uuid: None,
                partuuid: None,
                fstype: None,
                label: None,
                mount: None,
                kept: true,
            });
        }
    }
    let mut steps = vec![format!(
        "write GRUB's menu on {} ({BOOT_LABEL}) anew, from the system's own settings",
        boot.name
    )];
    steps.extend(layout.disks.iter().map(|d| format!("write GRUB for a BIOS to {}", d.path.display())));
    steps.extend(
        layout
            .partition(&Role::Esp)
            .map(|p| format!("write the UEFI loaders to {} ({ESP_LABEL})", p.device.display())),
    );
    let this_machine = boot_disk.bus != Bus::Loop;
    if this_machine && firmware == FirmwareKind::Uefi64 {
        steps.push("enter the system in this computer's firmware".into());
    }
    let how = How::Ours { layout: Box::new(layout), distribution, firmware, this_machine };
    Ok(Repair { disk: boot_disk.path.clone(), steps, mounts: used, how })
}

/// The partition for GRUB's core image; with a name, only one that is called so.
fn core_room(disk: &Disk, name: Option<&str>) -> Option<u32> {
    let table = disk.table.as_ref()?;
    let fits = |p: &&akene_protocol::inventory::Partition| {
        p.kind.eq_ignore_ascii_case(BIOS_BOOT) && name.is_none_or(|n| p.name.as_deref() == Some(n))
    };
    table.partitions.iter().find(fits).map(|p| p.number)
}

fn label(volume: &Volume) -> Option<&str> {
    volume.content.as_ref()?.label.as_deref()
}

/// The disk and the number of a volume that is a partition.
fn on_partition<'m>(machine: &'m Inventory, volume: &Volume, system: &Volume) -> Result<(&'m Disk, u32)> {
    let Place::Partition(path, number, _) = &volume.place else {
        bail!(unusual(system, format!("{} is no partition", volume.name)));
    };
    let disk = machine.disks.iter().find(|d| Path::new(&d.path) == path);
    Ok((disk.with_context(|| format!("looking for the disk {}", path.display()))?, *number))
}

fn partition(
    machine: &Inventory,
    volume: &Volume,
    system: &Volume,
    role: Role,
    mount: Option<&str>,
) -> Result<MountedPartition> {
    let (disk, number) = on_partition(machine, volume, system)?;
    let known = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs, Filesystem::Vfat];
    let table = disk.table.as_ref();
    let entry = table.and_then(|t| t.partitions.iter().find(|p| p.number == number));
    Ok(MountedPartition {
        role,
        device: volume.node().context("finding the node of a partition")?,
        disk: disk.path.clone().into(),
        number,
        uuid: volume.uuid().map(str::to_owned),
        partuuid: entry.and_then(|e| e.uuid.clone()),
        fstype: known.into_iter().find(|f| f.name() == volume.kind()),
        label: label(volume).map(str::to_owned),
        mount: mount.map(str::to_owned),
        kept: true,
    })
}

/// What another Linux's own tools would do.
fn other(
    machine: &Inventory,
    mounts: &[(Volume, String)],
    system: &Volume,
    inside: &Inside,
    firmware: FirmwareKind,
) -> Result<Repair> {
    let has = |path: &str| inside.there.contains(&path);
    let at = |place: &str| mounts.iter().find(|(_, p)| p == place).map(|(v, _)| v);
    let (disk, _) = on_partition(machine, at("/boot").unwrap_or(system), system)?;
    on_partition(machine, system, system)?;
    let Some(install) = PROGRAMS[..3].iter().find(|p| has(p)) else {
        bail!(unusual(system, "it has no GRUB that could be installed again"));
    };
    let (platform, efi) = match firmware {
        FirmwareKind::Bios => ("i386-pc", None),
        FirmwareKind::Uefi64 => ("x86_64-efi", Some("/boot/efi")),
        FirmwareKind::Uefi32 => ("i386-efi", Some("/boot/efi")),
    };
    if !has(&format!("usr/lib/grub/{platform}")) {
        bail!(unusual(system, format!("it has no GRUB for the way this computer starts ({platform})")));
    }
    let mut command = vec![format!("/{install}"), format!("--target={platform}")];
    match efi {
        None => command.push(disk.path.clone()),
        Some(dir) if at(dir).is_some() => command.push(format!("--efi-directory={dir}")),
        Some(_) => bail!(unusual(system, "its fstab mounts no EFI system partition at /boot/efi")),
    }
    let menu: Vec<String> = match (has("usr/sbin/update-grub"), has("boot/grub2")) {
        (true, _) => vec!["/usr/sbin/update-grub".into()],
        (false, two) => {
            let (program, dir) = if two { ("grub2-mkconfig", "grub2") } else { ("grub-mkconfig", "grub") };
            vec![program.into(), "-o".into(), format!("/boot/{dir}/grub.cfg")]
        }
    };
    let commands = vec![command, menu];
    let used = mounts.iter().filter(|(_, place)| {
        let needed = ["/", "/boot"].contains(&place.as_str()) || NEEDED.contains(&place.as_str());
        needed || (efi == Some(place.as_str()))
    });
    let name = os_release::value(&inside.release, "PRETTY_NAME").unwrap_or_else(|| "Linux".into());
    let steps =
        commands.iter().map(|c| format!("run inside {name} on {}: {}", system.name, c.join(" "))).collect();
    Ok(Repair {
        disk: disk.path.clone(),
        steps,
        mounts: used.cloned().collect(),
        how: How::Other { commands },
    })
}

/// Refuses a disk whose first sector starts Windows, or may.
fn leave_windows(disk: &Disk, volumes: &[Volume]) -> Result<()> {
    let windows =
        volumes.iter().any(|v| v.disks.contains(&disk.name) && v.looks() == Some(&LooksLike::Windows));
    // On a GPT disk Windows starts from files.
    if !windows || disk.table.as_ref().is_none_or(|t| t.kind == TableKind::Gpt) {
        return Ok(());
    }
    let mut first = [0; 512];
    let mut device = fs::File::open(&disk.path).with_context(|| format!("opening {}", disk.path))?;
    device.read_exact(&mut first).with_context(|| format!("reading {}", disk.path))?;
    // GRUB's own first sector says its name.
    if first.windows(4).any(|w| w == b"GRUB") {
        return Ok(());
    }
    bail!(Issue::new(
        "windows-starts-here",
        &disk.name,
        "its first sector is Windows's, and that is never written over",
        "ask the administrator; the system's files can be saved with *Copy people's files*",
    ));
}

/// Hears what happens.
struct Told<'a> {
    line: &'a mut (dyn FnMut(&str) + Send),
}

impl Watch for Told<'_> {
    fn progress(&mut self, _: Progress) {}
    fn log(&mut self, line: &str) {
        (self.line)(line);
    }
    fn warn(&mut self, issue: Issue) {
        (self.line)(&issue.to_string());
    }
}

/// Mounted volumes, unmounted last first.
struct Stack<'r>(Vec<Opened<'r>>);

impl Stack<'_> {
    fn close(mut self) -> Result<()> {
        while let Some(opened) = self.0.pop() {
            opened.close()?;
        }
        Ok(())
    }
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        while let Some(opened) = self.0.pop() {
            drop(opened);
        }
    }
}

/// Carries a repair out. What a person should know of is given to `line`.
///
/// # Errors
/// What could not be written, or what the system's own tools said.
pub fn carry_out(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    repair: &Repair,
    line: &mut (dyn FnMut(&str) + Send),
) -> Result<()> {
    apart(|| {
        let mut stack = Stack(Vec::new());
        for (volume, place) in &repair.mounts {
            let at = PathBuf::from(AT).join(place.trim_start_matches('/'));
            let mut opened = open(rescue.runner, machine, volume, &at, Purpose::Enter, "")?;
            if place == "/" && opened.system() != opened.at() {
                // Programs inside ask the kernel where their root is: it must be mounted as such.
                opened.close()?;
                opened = open(rescue.runner, machine, volume, &at, Purpose::Enter, "subvol=@")?;
            }
            stack.0.push(opened);
        }
        match &repair.how {
            How::Ours { layout, distribution, firmware, this_machine } => {
                let scratch = tempfile::tempdir().context("making a directory to work in")?;
                let mut told = Told { line };
                let (runner, own) = (rescue.runner, *this_machine);
                target::repair_loader(
                    layout,
                    *distribution,
                    *firmware,
                    own,
                    scratch.path(),
                    runner,
                    &mut told,
                )?;
            }
            How::Other { commands } => {
                for command in commands {
                    let (program, args) = command.split_first().context("running an empty command")?;
                    let cmd = Cmd::new(program).args(args).chroot(ChrootMounts::new(AT));
                    rescue.runner.run_lines(&cmd, line)?;
                }
            }
        }
        stack.close()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ProbeRoot;
    use crate::rescue::volumes::list;
    use akene_exec::RecordingRunner;
    use akene_protocol::Language;

    fn recorded(name: &str) -> Inventory {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name).join("inventory.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    fn fstab(boot: &Volume) -> String {
        format!(
            "# /\nUUID=x / ext4 defaults 0 1\nUUID={} /boot ext4 defaults 0 2\nnone\n",
            boot.uuid().unwrap()
        )
    }

    #[test]
    fn a_system_of_ours_gets_what_its_installation_made() {
        let mut machine = recorded("akene-reinstall");
        let mut next = 0;
        for partition in machine.disks.iter_mut().flat_map(|d| &mut d.table).flat_map(|t| &mut t.partitions) {
            let Some(content) = &mut partition.content else { continue };
            next += 1;
            content.uuid = Some(format!("u{next}"));
        }
        let volumes = list(&machine);
        let boot = volumes.iter().find(|v| label(v) == Some(BOOT_LABEL)).unwrap();
        let root = volumes.iter().find(|v| v.is_root()).unwrap();
        let esp = volumes.iter().find(|v| label(v) == Some(ESP_LABEL));
        let mut text = fstab(boot);
        text.extend(esp.map(|e| format!("UUID={} /boot/efi vfat umask=0077 0 0\n", e.uuid().unwrap())));
        let inside = |id: &str| Inside { fstab: String::new(), release: format!("ID={id}\n"), there: vec![] };
        let mounts = mounts(&text, &volumes, root);
        let repair = ours(&machine, &mounts, boot, root, &inside("debian"), FirmwareKind::Bios).unwrap();
        let How::Ours { layout, distribution, .. } = &repair.how else { panic!() };
        assert_eq!(*distribution, Distribution::Debian);
        assert_eq!(layout.partition(&Role::Boot).unwrap().uuid.as_deref(), boot.uuid());
        assert_eq!(layout.partition(&Role::Root).unwrap().mount.as_deref(), Some("/"));
        assert_eq!(layout.partition(&Role::Esp).is_some(), esp.is_some());
        assert!(repair.mounts.iter().all(|(_, place)| place != "/boot/efi"), "mtools write it");
        let error = ours(&machine, &mounts, boot, root, &inside("gentoo"), FirmwareKind::Bios).unwrap_err();
        assert!(error.downcast_ref::<Issue>().is_some_and(|i| i.code == "boot-unusual"), "{error:#}");
        let mut half = boot.clone();
        half.content.as_mut().unwrap().looks_like =
            Some(LooksLike::AkeneBoot { unfinished: true, root: None, root_goes: false });
        let error = ours(&machine, &mounts, &half, root, &inside("debian"), FirmwareKind::Bios).unwrap_err();
        assert!(error.downcast_ref::<Issue>().is_some_and(|i| i.code == "system-unfinished"), "{error:#}");
    }

    #[test]
    fn another_linux_runs_its_own_tools_and_only_where_it_has_them() {
        let machine = recorded("foreign-linux-home-inside");
        let volumes = list(&machine);
        let root = volumes.iter().find(|v| v.is_root()).unwrap();
        let mounts = mounts("", &volumes, root);
        let inside = |there: &[&'static str]| Inside {
            fstab: String::new(),
            release: "ID=ubuntu\nPRETTY_NAME=\"Ubuntu 18.04\"\n".into(),
            there: there.to_vec(),
        };
        let grub = ["usr/sbin/grub-install", "usr/sbin/update-grub", "usr/lib/grub/i386-pc"];
        let repair = other(&machine, &mounts, root, &inside(&grub), FirmwareKind::Bios).unwrap();
        let How::Other { commands } = &repair.how else { panic!() };
        let disk = &machine.disks[0].path;
        assert_eq!(commands[0], ["/usr/sbin/grub-install", "--target=i386-pc", disk.as_str()]);
        assert_eq!(commands[1], ["/usr/sbin/update-grub"]);
        assert!(repair.steps[0].contains("Ubuntu 18.04") && repair.steps[0].contains("grub-install"));
        let refused = |there: &[&'static str], firmware| {
            let error = other(&machine, &mounts, root, &inside(there), firmware).unwrap_err();
            error.downcast_ref::<Issue>().unwrap().message.clone()
        };
        assert!(refused(&grub[2..], FirmwareKind::Bios).contains("no GRUB"));
        assert!(refused(&grub, FirmwareKind::Uefi64).contains("x86_64-efi"));
        let efi = [grub[0], "usr/lib/grub/x86_64-efi"];
        assert!(refused(&efi, FirmwareKind::Uefi64).contains("/boot/efi"));
    }

    #[test]
    fn the_first_sector_of_windows_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut machine = recorded("foreign-linux-home-inside");
        let mut volumes = list(&machine);
        let disk = &mut machine.disks[0];
        disk.path = path.to_string_lossy().into_owned();
        disk.table.as_mut().unwrap().kind = TableKind::Mbr;
        fs::write(&path, [0x33; 512]).unwrap();
        leave_windows(disk, &volumes).unwrap();
        volumes[0].content = Some(akene_protocol::inventory::Content {
            kind: "ntfs".into(),
            label: None,
            uuid: None,
            used: None,
            looks_like: Some(LooksLike::Windows),
        });
        let error = leave_windows(disk, &volumes).unwrap_err();
        assert!(error.downcast_ref::<Issue>().is_some_and(|i| i.code == "windows-starts-here"), "{error:#}");
        let mut grub = [0x33; 512];
        grub[0x180..0x184].copy_from_slice(b"GRUB");
        fs::write(&path, grub).unwrap();
        leave_windows(disk, &volumes).unwrap();
    }

    #[test]
    fn a_copied_disk_leaves_nothing_to_guess() {
        let machine = recorded("akene-reinstall");
        let mut volumes = list(&machine);
        for volume in &mut volumes {
            if let Some(content) = &mut volume.content {
                content.uuid = Some("same".into());
            }
        }
        let root = volumes[0].clone();
        assert_eq!(mounts("UUID=same /boot ext4 defaults 0 2\n", &volumes, &root).len(), 1);
    }

    #[test]
    fn a_device_that_is_gone_is_told() {
        let machine = recorded("foreign-linux-home-inside");
        let volumes = list(&machine);
        let runner = RecordingRunner::default();
        let probe = ProbeRoot::recorded(Path::new("/nonexistent"));
        let rescue = Rescue { runner: &runner, probe, language: Language::En };
        let root = volumes.iter().find(|v| v.is_root()).unwrap();
        let mut gone = root.clone();
        gone.place = Place::Partition("/nonexistent/disk".into(), 1, akene_protocol::Bytes(0));
        plan(&rescue, &machine, &volumes, &gone, FirmwareKind::Bios).unwrap_err();
        assert!(runner.calls().is_empty());
    }
}
