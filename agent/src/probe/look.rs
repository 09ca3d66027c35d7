//! What a filesystem looks like from inside.
//!
//! A filesystem is mounted through a read-only loop device: whatever its driver would like to write, a
//! journal to play back or a mount count, cannot reach the disk. The mount is made in a mount
//! namespace of a thread of its own and vanishes with it, and a disk that does not answer keeps nobody
//! waiting longer than [`PATIENCE`].

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use akene_protocol::Bytes;
use akene_protocol::inventory::{Content, LooksLike};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::os_release;
use super::root::text;
use crate::journal;
use crate::sys::loopdev;

const PATIENCE: Duration = Duration::from_secs(30);

/// Label of the boot partition of the disk contract.
const BOOT_LABEL: &str = akene_planner::BOOT_LABEL;

/// Label of our media.
const MEDIUM_LABEL: &str = "AKENE";

/// What the label and type alone tell.
pub(super) fn from_outside(content: &Content) -> Option<LooksLike> {
    match (content.kind.as_str(), content.label.as_deref()) {
        ("swap", _) => Some(LooksLike::Swap),
        ("iso9660", Some(MEDIUM_LABEL)) => Some(LooksLike::AkeneMedium),
        ("ext4", Some(akene_protocol::medium::LABEL)) => Some(LooksLike::AkeneMedium),
        ("ext4", Some(BOOT_LABEL)) => {
            Some(LooksLike::AkeneBoot { unfinished: false, root: None, root_goes: false })
        }
        ("hfsplus" | "hfs" | "apfs", _) => Some(LooksLike::OtherSystem { name: "macOS".into() }),
        ("ufs", _) => Some(LooksLike::OtherSystem { name: "BSD".into() }),
        _ => None,
    }
}

/// Mounts a filesystem where its kind is known to be safe, and fills in what is seen. An error means that
/// nothing could be seen, because it is damaged or the disk does not answer.
pub(super) fn from_inside(content: &mut Content, device: &Path) -> Result<()> {
    let Some((driver, options)) = driver(&content.kind) else { return Ok(()) };
    let (sender, receiver) = channel();
    let device = device.to_owned();
    let is_boot = matches!(content.looks_like, Some(LooksLike::AkeneBoot { .. }));
    let kind = content.kind.clone();
    std::thread::spawn(move || {
        let seen = look(&device, driver, options, |top| {
            let used = nix::sys::statvfs::statvfs(top)
                .map(|s| Bytes((s.blocks() - s.blocks_free()) * s.fragment_size()))
                .ok();
            let looks_like = match is_boot {
                true => {
                    let root = crate::run::second_root::to_stay(top);
                    let root_goes = crate::run::second_root::goes(top);
                    Some(LooksLike::AkeneBoot { unfinished: unfinished(top), root, root_goes })
                }
                false => recognise(top, &kind),
            };
            (used, looks_like)
        });
        // Nobody listens any more when it took too long.
        sender.send(seen).is_ok()
    });
    let seen = receiver
        .recv_timeout(PATIENCE)
        .with_context(|| format!("waiting for the disk for {} s", PATIENCE.as_secs()))?;
    match seen {
        Ok((used, looks_like)) => {
            content.used = used;
            content.looks_like = looks_like.or(content.looks_like.take());
            Ok(())
        }
        // This kernel has no driver for it.
        Err(e) if e.downcast_ref() == Some(&Errno::ENODEV) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The driver and the options to look at a kind of filesystem with. `None`: it is not looked into.
pub(crate) fn driver(kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        // The driver of ext4 takes all three.
        "ext2" | "ext3" | "ext4" => ("ext4", "noload"),
        "xfs" => ("xfs", "norecovery,nouuid"),
        "btrfs" => ("btrfs", "rescue=nologreplay"),
        "vfat" => ("vfat", ""),
        "exfat" => ("exfat", ""),
        "ntfs" => ("ntfs3", ""),
        "iso9660" => ("iso9660", ""),
        "hfsplus" => ("hfsplus", ""),
        // BSD since 2003; older ones say so by an error, and are known by their kind.
        "ufs" => ("ufs", "ufstype=ufs2"),
        _ => return None,
    })
}

/// Mounts in a namespace of this thread, and lets `see` look.
fn look<T>(device: &Path, driver: &str, options: &str, see: impl FnOnce(&Path) -> T) -> Result<T> {
    let place = Place::new()?;
    akene_exec::own_mounts()?;
    let (path, device) = loopdev::attach_read_only(device)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(&path), &place.0, Some(driver), flags, Some(options).filter(|o| !o.is_empty()))
        .with_context(|| format!("looking at what lies on {}", path.display()))?;
    drop(device);
    let seen = see(&place.0);
    match umount2(&place.0, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(seen),
        Err(e) => bail!("unmounting {}: {e}", place.0.display()),
    }
}

/// A directory to mount on. It is removed only if it is empty.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("akene-look-").tempdir().context("creating a directory")?;
        Ok(Place(dir.keep()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Left behind where something is still mounted on it: never a reason to remove what is inside.
        std::fs::remove_dir(&self.0).ok();
    }
}

/// Whether the boot partition tells of an installation that was never completed. The journal begins as soon
/// as the partition is mounted, so one without it is either just made and empty, or not to be judged.
fn unfinished(boot: &Path) -> bool {
    // Taken away before the first write that harms the system, and put there when one stands.
    if boot.join(crate::run::boot_files::INSTALLED).exists() {
        return false;
    }
    match journal::read(boot) {
        Ok(records) => match journal::is_whole(&records) {
            Some(whole) => !whole,
            None => recognise(boot, "ext4") == Some(LooksLike::Empty),
        },
        Err(_) => false,
    }
}

/// What the top of a filesystem looks like.
fn recognise(top: &Path, kind: &str) -> Option<LooksLike> {
    let has = |name: &str| find(top, name).is_some();
    let entries = super::root::names(top);
    const NOTHING: [&str; 5] =
        ["lost+found", "System Volume Information", "$RECYCLE.BIN", "RECYCLER", ".Trash-1000"];
    if entries.iter().all(|name| NOTHING.contains(&name.as_str())) {
        return Some(LooksLike::Empty);
    }
    let image = has("akene/live.squashfs") || (has("akene/vmlinuz") && has("akene/image.json"));
    if image || has("akene/medium.json") {
        return Some(LooksLike::AkeneMedium);
    }
    if has("Windows/System32") || (has("bootmgr") && has("Boot/BCD")) || has("ntldr") {
        return Some(LooksLike::Windows);
    }
    // Ubuntu on btrfs has its root in a subvolume, and the homes in another one.
    for root in [top.to_owned(), top.join("@")] {
        let release = ["etc/os-release", "usr/lib/os-release"].iter().find_map(|f| text(&root.join(f)));
        if release.is_some() || (root.join("etc/fstab").exists() && root.join("usr/bin").is_dir()) {
            let name = release.as_deref().and_then(|text| os_release::value(text, "PRETTY_NAME"));
            let homes = [root.join("home"), top.join("@home")];
            return Some(LooksLike::LinuxRoot {
                name,
                home_inside: homes.iter().any(|dir| lived_in(dir)),
                home_used: used_below(&homes),
            });
        }
    }
    if let Some(name) = other_system(top) {
        return Some(LooksLike::OtherSystem { name: name.to_owned() });
    }
    if kind == "vfat" && has("EFI") {
        return Some(LooksLike::Esp);
    }
    // A root whose system was being removed when the power went: its homes are all that tells what it was.
    let home = top.join("home");
    if lived_in(&home) && !has_people(top) {
        return Some(LooksLike::LinuxRoot { name: None, home_inside: true, home_used: used_below(&[home]) });
    }
    (has_people(top) || has_people(&top.join("@home"))).then_some(LooksLike::Home)
}

/// Whether a `/home` holds anything of anybody. What is in it is kept, so that an empty directory too many does
/// less harm than a person's only file too few.
fn lived_in(home: &Path) -> bool {
    let own = |path: &Path| path.symlink_metadata().is_ok_and(|m| m.is_dir());
    let entries = if own(home) { super::root::names(home) } else { Vec::new() };
    entries.iter().filter(|name| *name != "lost+found").any(|name| {
        let entry = home.join(name);
        !own(&entry) || !super::root::names(&entry).is_empty()
    })
}

/// Where packages are staged on a filesystem that stays.
pub const STAGED: &str = ".akene-packages";

/// How long the homes in an old root may be counted.
const COUNTING: Duration = Duration::from_secs(15);

/// Bytes used below directories. `None` where that cannot be told in time.
fn used_below(dirs: &[PathBuf]) -> Option<Bytes> {
    use std::os::unix::fs::MetadataExt;
    let deadline = std::time::Instant::now() + COUNTING;
    let mut total = 0;
    let mut open: Vec<PathBuf> = dirs.to_vec();
    while let Some(dir) = open.pop() {
        // Links are counted and not followed.
        let Ok(meta) = dir.symlink_metadata() else { continue };
        total += meta.blocks() * 512;
        if !meta.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&dir).ok()? {
            let entry = entry.ok()?;
            // Packages of an installation that broke off, not people's files.
            if entry.file_name() == STAGED {
                continue;
            }
            match entry.file_type().ok()?.is_dir() {
                true => open.push(entry.path()),
                false => total += entry.metadata().ok()?.blocks() * 512,
            }
        }
        if std::time::Instant::now() > deadline {
            return None;
        }
    }
    Some(Bytes(total))
}

/// Systems that are neither Linux nor Windows, by what lies at their top.
fn other_system(top: &Path) -> Option<&'static str> {
    const SYSTEMS: [(&str, &[&str]); 5] = [
        ("macOS", &["System/Library/CoreServices", "Library"]),
        ("FreeBSD", &["bin/freebsd-version"]),
        ("OpenBSD", &["bsd", "usr/bin"]),
        ("NetBSD", &["netbsd", "usr/bin"]),
        ("ChromeOS", &["opt/google/cros-containers"]),
    ];
    let found =
        SYSTEMS.iter().find(|(_, signs)| signs.iter().all(|s| top.join(s).symlink_metadata().is_ok()));
    found.map(|(name, _)| *name)
}

/// Whether the homes of a filesystem lie in a plain directory `/home` of it, so that they stay when all the rest
/// is removed.
pub(crate) fn has_plain_homes(device: &Path, kind: &str) -> Result<bool> {
    inside(device, kind, |top| {
        let plain = top.join("home").symlink_metadata().is_ok_and(|m| m.is_dir());
        let subvolumes = ["@", "@home"].iter().any(|name| top.join(name).symlink_metadata().is_ok());
        plain && !subvolumes
    })
}

/// Lets `see` look into a filesystem of this kind from its top. Nothing is written to it.
pub(crate) fn inside<T: Send + 'static>(
    device: &Path,
    kind: &str,
    see: impl FnOnce(&Path) -> T + Send + 'static,
) -> Result<T> {
    let (driver, options) =
        driver(kind).with_context(|| format!("looking at a filesystem of kind {kind}"))?;
    let device = device.to_owned();
    let seen = std::thread::spawn(move || look(&device, driver, options, see));
    seen.join().map_err(|_| anyhow::anyhow!("looking at a filesystem ended badly"))?
}

/// Finds a path without regard to case, as FAT and NTFS do.
fn find(top: &Path, path: &str) -> Option<PathBuf> {
    path.split('/').try_fold(top.to_owned(), |dir, part| {
        let name = super::root::names(&dir).into_iter().find(|n| n.eq_ignore_ascii_case(part))?;
        Some(dir.join(name))
    })
}

/// Whether a directory holds home directories with something in them.
fn has_people(dir: &Path) -> bool {
    const SIGNS: [&str; 8] =
        [".bashrc", ".profile", ".bash_history", ".config", ".cache", ".local", "Desktop", "Documents"];
    super::root::names(dir)
        .iter()
        .any(|person| SIGNS.iter().any(|sign| dir.join(person).join(sign).symlink_metadata().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_protocol::RunId;
    use akene_protocol::event::Phase;

    #[test]
    fn an_installation_is_unfinished_until_its_journal_says_complete() {
        let boot = tempfile::tempdir().unwrap();
        std::fs::create_dir(boot.path().join("lost+found")).unwrap();
        assert!(unfinished(boot.path()), "just made");
        let record = |what| {
            let mut journal = journal::Journal::new(RunId([1; 8]));
            journal.open(boot.path()).unwrap();
            journal.record(what).unwrap();
        };
        record(journal::What::Begun { phase: Phase::Install });
        assert!(unfinished(boot.path()));
        record(journal::What::Complete);
        assert!(!unfinished(boot.path()));
        // A reinstall that was interrupted.
        record(journal::What::Begun { phase: Phase::Commit });
        assert!(unfinished(boot.path()));
        std::fs::remove_file(boot.path().join(journal::PATH)).unwrap();
        std::fs::write(boot.path().join("akene/identity.json"), "{}").unwrap();
        assert!(!unfinished(boot.path()), "without a journal nobody knows");
    }
}
