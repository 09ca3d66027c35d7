//! Name, filesystems, language, keyboard, time, and the last cleaning.

use std::fs;
use std::path::Path;

use akene_archive::Root;
use akene_planner::Role;
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result};

use super::choose::is_builtin_locale;
use super::{Job, Watch};
use crate::storage::MountedPartition;

/// `fstab` by UUID, before any package looks at it.
pub(super) fn write_fstab(job: &Job<'_>, root: &mut Root) -> Result<()> {
    let mut text =
        String::from("# Written by the installer. Kernel names change from start to start, UUIDs do not.\n");
    // A directory is mounted before what lies in it.
    let mut partitions: Vec<&MountedPartition> = job.layout.partitions.iter().collect();
    partitions.sort_by_key(|p| p.mount.clone().unwrap_or_else(|| "\u{10ffff}".into()));
    for partition in partitions {
        let (Some(uuid), Some(filesystem)) = (&partition.uuid, partition.fstype) else { continue };
        let mount = match (&partition.mount, filesystem) {
            (_, Filesystem::Swap) => "none",
            (Some(mount), _) => mount.as_str(),
            (None, _) => continue,
        };
        let (options, check) = match (filesystem, &partition.role) {
            (Filesystem::Swap, _) => ("sw", 0),
            // A damaged ESP must not keep a computer from starting that has already started.
            (Filesystem::Vfat, _) => ("umask=0077,nofail", 0),
            (Filesystem::Ext4, Role::Root) => ("errors=remount-ro", 1),
            // One dead disk of several must not keep the computer from starting and telling of it.
            (Filesystem::Ext4, _) if partition.number == 0 => ("defaults,nofail", 2),
            (Filesystem::Xfs | Filesystem::Btrfs, _) if partition.number == 0 => ("defaults,nofail", 0),
            (Filesystem::Ext4, _) => ("defaults", 2),
            (Filesystem::Xfs | Filesystem::Btrfs, _) => ("defaults", 0),
        };
        text += &format!("UUID={uuid} {mount} {} {options} 0 {check}\n", filesystem.name());
        if mount != "none" && mount != "/" {
            root.make_dir(mount, 0o755)?;
        }
    }
    root.write("etc/fstab", text, 0o644)
}

/// Answers for packages that ask about language, keyboard and time.
pub(super) fn debconf(job: &Job<'_>) -> Vec<String> {
    let resolved = job.resolved;
    let mut lines = Vec::new();
    if let Some((area, zone)) = resolved.timezone.split_once('/') {
        lines.push(format!("tzdata tzdata/Areas select {area}"));
        lines.push(format!("tzdata tzdata/Zones/{area} select {zone}"));
    }
    if !is_builtin_locale(&resolved.locale) {
        let charset = resolved.locale.split(['.', '@']).nth(1).unwrap_or("UTF-8");
        lines.push(format!(
            "locales locales/locales_to_be_generated multiselect {} {charset}",
            resolved.locale
        ));
        lines.push(format!("locales locales/default_environment_locale select {}", resolved.locale));
    }
    let keyboard = &resolved.keyboard;
    lines
        .push(format!("keyboard-configuration keyboard-configuration/layoutcode string {}", keyboard.layout));
    lines.push(format!(
        "keyboard-configuration keyboard-configuration/variantcode string {}",
        keyboard.variant
    ));
    lines
        .push(format!("keyboard-configuration keyboard-configuration/xkb-keymap select {}", keyboard.layout));
    lines
}

/// Writes name, language, keyboard and time zone.
pub(super) fn settle(job: &Job<'_>, root: &mut Root, _: &mut dyn Watch) -> Result<()> {
    let resolved = job.resolved;
    root.write("etc/hostname", format!("{}\n", resolved.hostname), 0o644)?;
    let hosts = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{}\n\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        resolved.hostname
    );
    root.write("etc/hosts", hosts, 0o644)?;

    let zone = format!("/usr/share/zoneinfo/{}", resolved.timezone);
    if !root.exists(&zone) {
        anyhow::bail!("setting the time zone: the installed system does not know `{}`", resolved.timezone);
    }
    root.symlink(&zone, "etc/localtime")?;
    root.write("etc/timezone", format!("{}\n", resolved.timezone), 0o644)?;

    locale(job, root)?;
    write_keyboard(job, root)
}

/// What the console's and the desktop's keyboard is. The initramfs is made from it: where no package keeps it, it is written
/// before that.
pub(super) fn write_keyboard(job: &Job<'_>, root: &mut Root) -> Result<()> {
    let keyboard = &job.resolved.keyboard;
    // Quoted as a shell reads it; the profile's check allows nothing that would end the quotes.
    let quote =
        |s: &str| s.chars().filter(|c| c.is_ascii_alphanumeric() || "_,-".contains(*c)).collect::<String>();
    let text = format!(
        "XKBMODEL=\"pc105\"\nXKBLAYOUT=\"{}\"\nXKBVARIANT=\"{}\"\nXKBOPTIONS=\"\"\nBACKSPACE=\"guess\"\n",
        quote(&keyboard.layout),
        quote(&keyboard.variant)
    );
    // The package that keeps it says the same in more words, which the initramfs was made from already.
    let there = root.read("etc/default/keyboard")?.unwrap_or_default();
    match says_all(&String::from_utf8_lossy(&there), &text) {
        true => Ok(()),
        false => root.write("etc/default/keyboard", text, 0o644),
    }
}

/// Whether each line of `wanted` is one of `text`, and no other line sets anything.
fn says_all(text: &str, wanted: &str) -> bool {
    let set = |text: &str| -> std::collections::BTreeSet<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    set(text) == set(wanted)
}

fn locale(job: &Job<'_>, root: &mut Root) -> Result<()> {
    let locale = &job.resolved.locale;
    if !is_builtin_locale(locale) {
        // Debian's locale-gen makes what /etc/locale.gen lists, Ubuntu's what it is told.
        let known = root.read("etc/locale.gen")?.unwrap_or_default();
        let mut known = String::from_utf8_lossy(&known).into_owned();
        let charset = locale.split(['.', '@']).nth(1).unwrap_or("UTF-8");
        let line = format!("{locale} {charset}");
        let listed = known.lines().any(|l| l.trim() == line);
        if !listed {
            if !known.is_empty() && !known.ends_with('\n') {
                known.push('\n');
            }
            known += &format!("{line}\n");
            root.write("etc/locale.gen", known, 0o644)?;
        }
        let made = |text: &str| {
            let plain = |s: &str| s.to_lowercase().replace("utf-8", "utf8");
            text.lines().any(|l| plain(l.trim()) == plain(locale))
        };
        if !made(&job.run(&job.inside("locale").arg("-a"))?) {
            job.run(&job.inside("locale-gen").arg(locale))?;
            if !made(&job.run(&job.inside("locale").arg("-a"))?) {
                anyhow::bail!("making the locale `{locale}`: the distribution has no such locale");
            }
        }
    }
    let text = format!("LANG={locale}\n");
    root.write("etc/locale.conf", &text, 0o644)?;
    root.write("etc/default/locale", &text, 0o644)
}

/// Leaves no trace of the installation: caches, logs of packages that were never anybody's, ids that must be
/// this machine's own.
pub(super) fn clean(job: &Job<'_>, root: &mut Root) -> Result<()> {
    // Empty, not missing: systemd makes an id at the first start, and does not take it for a first boot with
    // questions to ask.
    root.write("etc/machine-id", "", 0o444)?;
    if root.exists("var/lib/dbus") {
        root.symlink("/etc/machine-id", "var/lib/dbus/machine-id")?;
    }
    for file in [
        "etc/fstab.orig",
        "var/lib/systemd/random-seed",
        "var/lib/systemd/credential.secret",
        "root/.bash_history",
        "var/cache/debconf/passwords.dat-old",
    ] {
        root.remove(file)?;
    }
    for dir in ["var/lib/apt/lists", "var/cache/apt/archives"] {
        empty(&job.layout.root.join(dir))?;
        root.make_dir(&format!("{dir}/partial"), 0o700)?;
    }
    Ok(())
}

/// Removes the files of a directory. The two it is used for are plain directories that dpkg made.
fn empty(dir: &Path) -> Result<()> {
    let reading = || format!("emptying {}", dir.display());
    if !dir.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if entry.file_type().with_context(reading)?.is_dir() {
            fs::remove_dir_all(entry.path()).with_context(reading)?;
        } else {
            fs::remove_file(entry.path()).with_context(reading)?;
        }
    }
    Ok(())
}
