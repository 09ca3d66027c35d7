//! The files that start the kernel (the initramfs), made while packages are still being set up.
//!
//! Making them takes as long as setting up a small system, and dpkg leaves all processors but one idle. So they are made
//! beside it, as soon as what they are made from is settled, and only where the result is the one the end would give:
//!
//! 1. Packages that have a say in them are set up before all others ([`has_say`], [`is_input`]).
//! 2. Whoever changes what they are made from has to say so: a package by calling `update-initramfs`, which is how the
//!    distribution's own systems come to know. A call after the beginning makes them once more, at the end.
//! 3. Nor is that believed: the settings and hooks they are made from have a fingerprint ([`fingerprint`]). If it is
//!    another one at the end, whoever changed them, they are made once more.
//!
//! None of this depends on the speed of a machine. They wait in a directory of their own and get their names at the end, so
//! that no script meets them early.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner};
use akene_protocol::Sha256;
use anyhow::{Context, Result};

use super::package::Package;

/// What makes them.
pub(super) const MAKER: &str = "update-initramfs";

/// Where they wait, below the new root and as it is seen there.
const WAITING: &str = ".akene-start";

/// Settings and hooks they are made from, as the hooks of Debian and Ubuntu read them; everything below.
const INPUTS: [&str; 36] = [
    "etc/cryptsetup-initramfs",
    "etc/cryptsetup-keys.d",
    "etc/crypttab",
    "etc/console-setup",
    "etc/default/amd64-microcode",
    "etc/default/console-setup",
    "etc/default/intel-microcode",
    "etc/default/keyboard",
    "etc/default/zfs",
    "etc/dropbear",
    "etc/fonts",
    "etc/fstab",
    "etc/hostid",
    "etc/initramfs-tools",
    "etc/iscsi",
    "etc/kernel",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/lvm",
    "etc/mdadm",
    "etc/modprobe.d",
    "etc/modules",
    "etc/modules-load.d",
    "etc/multipath",
    "etc/multipath.conf",
    "etc/nvme",
    "etc/plymouth",
    "etc/systemd/network",
    "etc/udev",
    "etc/zfs",
    "usr/lib/modprobe.d",
    "usr/lib/systemd/network",
    "usr/lib/udev/rules.d",
    "usr/share/initramfs-tools",
    "usr/share/plymouth",
    "usr/lib/firmware",
];

/// Where packages put programs that are told when they were made. Those would be told of a name that does not last.
const TOLD: &str = "etc/initramfs/post-update.d";

/// Whether a path, without a leading slash, is among what they are made from.
pub(super) fn is_input(path: &Path) -> bool {
    // A font or firmware is there from the beginning; only who brings settings is set up first.
    let settles = |input: &&&str| input.starts_with("etc/") || **input == "usr/share/initramfs-tools";
    INPUTS.iter().filter(settles).any(|input| path.starts_with(input))
}

/// Whether a package's scripts, debconf's among them, change what they are made from: those that call for them or name a
/// setting, and those of kernels.
pub(super) fn has_say(package: &Package) -> bool {
    let settings = INPUTS.iter().filter(|input| input.starts_with("etc/"));
    let words: Vec<&[u8]> =
        [MAKER, "linux-run-hooks"].iter().chain(settings).map(|word| word.as_bytes()).collect();
    let triggers = package.triggers.iter().any(|trigger| trigger.name() == MAKER);
    triggers || package.scripts_name(&words)
}

/// Versions of the kernels in a root.
pub(super) fn kernels(root: &Path) -> Result<Vec<String>> {
    let mut kernels: Vec<String> = names(&root.join("boot"))?
        .into_iter()
        .filter_map(|name| name.to_str()?.strip_prefix("vmlinuz-").map(str::to_owned))
        .collect();
    kernels.sort();
    Ok(kernels)
}

/// Names in a directory; none if it is not there.
pub(super) fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>> {
    let reading = || format!("reading {}", dir.display());
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.with_context(reading)?.map(|e| Ok(e.with_context(reading)?.file_name())).collect(),
    }
}

/// What they are made from, a line for each setting and hook; `None` where they cannot be made early: there is no kernel or no maker, or somebody
/// wants to be told.
pub(super) fn fingerprint(root: &Path) -> Result<Option<Vec<u8>>> {
    let kernels = kernels(root)?;
    let maker = root.join("usr/sbin").join(MAKER);
    if kernels.is_empty() || !maker.exists() || !names(&root.join(TOLD))?.is_empty() {
        return Ok(None);
    }
    let mut text = Vec::new();
    for kernel in kernels {
        text.extend_from_slice(format!("kernel {kernel}\n").as_bytes());
        // Modules that others add have directories of their own.
        let modules = Path::new("usr/lib/modules").join(&kernel);
        let mut added = names(&root.join(&modules))?;
        added.retain(|name| {
            name != "kernel" && root.join(&modules).join(name).symlink_metadata().is_ok_and(|m| m.is_dir())
        });
        added.sort();
        for name in added {
            describe(&root.join(&modules).join(&name), &modules.join(&name), &mut text)?;
        }
    }
    for input in INPUTS {
        describe(&root.join(input), Path::new(input), &mut text)?;
    }
    Ok(Some(text))
}

/// What the first line is about that only one of two fingerprints has.
pub(super) fn difference(first: &[u8], second: &[u8]) -> Option<String> {
    let lines = |of| -> BTreeSet<&[u8]> { <[u8]>::split(of, |b| *b == b'\n').collect() };
    let (first, second) = (lines(first), lines(second));
    let line = first.symmetric_difference(&second).next()?;
    let about = line.split(|b| *b == 0).next().unwrap_or(line);
    Some(String::from_utf8_lossy(about).into_owned())
}

/// Says what is at a path: content of settings; of everything else, which no script writes into, size and time.
pub(super) fn describe(at: &Path, path: &Path, text: &mut Vec<u8>) -> Result<()> {
    // udev wants to know names of network cards, not what is done with them.
    if path.extension().is_some_and(|kind| kind == "network" || kind == "netdev") {
        return Ok(());
    }
    let reading = || format!("reading {}", at.display());
    let meta = match at.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.with_context(reading)?,
    };
    text.extend_from_slice(path.as_os_str().as_bytes());
    text.extend_from_slice(format!("\0{:o}\0", meta.mode()).as_bytes());
    if meta.is_dir() {
        text.push(b'\n');
        let mut names = names(at)?;
        names.sort();
        return names.iter().try_for_each(|name| describe(&at.join(name), &path.join(name), text));
    }
    if meta.is_symlink() {
        text.extend_from_slice(fs::read_link(at).with_context(reading)?.as_os_str().as_bytes());
    } else if meta.is_file() && path.starts_with("etc") {
        text.extend_from_slice(Sha256::of(&fs::read(at).with_context(reading)?).to_string().as_bytes());
    } else {
        text.extend_from_slice(format!("{} {}", meta.len(), meta.mtime()).as_bytes());
    }
    text.push(b'\n');
    Ok(())
}

/// Makes them, one for each kernel, where nobody sees them. `maker` is the program in the root, without arguments.
pub(super) fn make(root: &Path, runner: &dyn Runner, maker: &Cmd) -> Result<()> {
    let dir = root.join(WAITING);
    remove(&dir)?;
    let made = fs::DirBuilder::new().mode(0o700).create(&dir);
    made.with_context(|| format!("making {}", dir.display()))?;
    for kernel in kernels(root)? {
        let cmd = maker.clone().args(["-c", "-k", &kernel, "-b", &format!("/{WAITING}")]);
        runner.run(&cmd).with_context(|| format!("making the initramfs of {kernel}"))?;
    }
    Ok(())
}

/// Makes them at the end, under their names; does nothing where nothing makes any.
pub(super) fn make_last(
    root: &Path,
    runner: &dyn Runner,
    maker: Cmd,
    log: &mut dyn FnMut(&str),
) -> Result<()> {
    if !root.join("usr/sbin").join(MAKER).exists() {
        return Ok(());
    }
    runner.run_lines(&maker.args(["-c", "-k", "all"]), log).map(drop).context("making the initramfs")
}

/// Gives those that wait their names. False if one is missing.
pub(super) fn take(root: &Path) -> Result<bool> {
    let (dir, boot) = (root.join(WAITING), root.join("boot"));
    let wanted: Vec<String> = kernels(root)?.iter().map(|kernel| format!("initrd.img-{kernel}")).collect();
    if wanted.is_empty() || !wanted.iter().all(|name| dir.join(name).is_file()) {
        return Ok(false);
    }
    for name in wanted {
        let (from, to) = (dir.join(&name), boot.join(&name));
        let moving = || format!("moving {} to {}", from.display(), to.display());
        match fs::rename(&from, &to) {
            // `/boot` is a filesystem of its own.
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                let beside: PathBuf = boot.join(format!("{name}.new"));
                fs::copy(&from, &beside).with_context(moving)?;
                fs::rename(&beside, &to).with_context(moving)?;
            }
            moved => moved.with_context(moving)?,
        }
    }
    Ok(true)
}

/// Takes away what waits and is wanted no more.
pub(super) fn clear(root: &Path) -> Result<()> {
    remove(&root.join(WAITING))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    pub fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "boot/vmlinuz-6.12", "");
        put(dir.path(), "usr/sbin/update-initramfs", "");
        put(dir.path(), "etc/initramfs-tools/conf.d/resume", "RESUME=none\n");
        put(dir.path(), "usr/lib/modules/6.12/kernel/x.ko", "");
        put(dir.path(), "etc/systemd/network/10-card.link", "[Match]\n");
        dir
    }

    #[test]
    fn every_change_of_what_they_are_made_from_is_noticed() {
        let root = root();
        let now = || fingerprint(root.path()).unwrap().unwrap();
        let mut seen = vec![now()];
        for (path, text) in [
            ("etc/initramfs-tools/conf.d/resume", "RESUME=UUID=1\n"),
            ("etc/modprobe.d/mine.conf", "blacklist x\n"),
            ("etc/fstab", "/dev/x / btrfs\n"),
            ("usr/share/initramfs-tools/hooks/mine", "#!/bin/sh\n"),
            ("usr/lib/modules/6.12/updates/dkms/y.ko", ""),
            ("usr/lib/modules/6.12/updates/dkms/z.ko", ""),
            ("boot/vmlinuz-6.13", ""),
        ] {
            put(root.path(), path, text);
            assert!(!seen.contains(&now()), "{path}");
            let told = difference(seen.last().unwrap(), &now()).unwrap();
            assert!(
                path.starts_with(&*told) || path.contains(told.rsplit(' ').next().unwrap()),
                "{path}: {told}"
            );
            seen.push(now());
        }
        symlink("/dev/null", root.path().join("etc/udev")).unwrap();
        assert!(!seen.contains(&now()));
        seen.push(now());
        // What they are not made from, and the same once more.
        put(root.path(), "etc/hostname", "a\n");
        put(root.path(), "etc/systemd/network/20-wired.network", "[Match]\n");
        put(root.path(), "etc/fstab", "/dev/x / btrfs\n");
        put(root.path(), "usr/lib/modules/6.13/modules.dep", "");
        assert_eq!(seen.last(), Some(&now()));
        assert_eq!(difference(&now(), &now()), None);
    }

    #[test]
    fn nothing_is_made_early_for_somebody_who_is_told() {
        let root = root();
        put(root.path(), "etc/initramfs/post-update.d/loader", "");
        assert_eq!(fingerprint(root.path()).unwrap(), None);
        fs::remove_dir_all(root.path().join("etc/initramfs")).unwrap();
        fs::remove_file(root.path().join("boot/vmlinuz-6.12")).unwrap();
        assert_eq!(fingerprint(root.path()).unwrap(), None);
    }

    #[test]
    fn those_that_wait_get_their_names_only_together() {
        let root = root();
        put(root.path(), "boot/vmlinuz-6.13", "");
        put(root.path(), ".akene-start/initrd.img-6.12", "one");
        assert!(!take(root.path()).unwrap());
        assert!(!root.path().join("boot/initrd.img-6.12").exists());
        put(root.path(), ".akene-start/initrd.img-6.13", "two");
        assert!(take(root.path()).unwrap());
        assert_eq!(fs::read(root.path().join("boot/initrd.img-6.13")).unwrap(), b"two");
        clear(root.path()).unwrap();
        assert!(!root.path().join(".akene-start").exists());
        clear(root.path()).unwrap();
    }
}
