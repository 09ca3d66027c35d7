//! Which packages a machine gets.

use akene_archive::AptRoot;
use akene_exec::Runner;
use akene_planner::Plan;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::lock::Lock;
use akene_protocol::profile::{Distribution, Filesystem};
use akene_protocol::resolve::Resolved;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Turns the many `fsync`s of an installation into one at the end. Taken from its package to `/run`, never
/// installed.
pub(super) const NO_FSYNC: &str = "libeatmydata1";

/// The exact packages, and what was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Choice {
    /// Every package, pinned.
    pub lock: Lock,
    /// Names asked for by the profile or by us; apt marks all others as installed automatically.
    pub requested: Vec<String>,
}

/// Chooses the packages of a machine: those of the profile, kernel, boot loader, and what the settings
/// themselves need. Writes nothing but `apt`'s own tree.
///
/// # Errors
/// Those of [`AptRoot::solve`].
pub fn choose(
    apt: &AptRoot,
    runner: &dyn Runner,
    resolved: &Resolved,
    plan: &Plan,
    firmware: FirmwareKind,
) -> Result<Choice> {
    let mut requested = resolved.packages.clone();
    for name in needed(resolved, plan, firmware) {
        if !requested.iter().any(|r| r.split('=').next() == Some(name)) {
            requested.push(name.to_owned());
        }
    }
    let mut names = optional(resolved, firmware);
    names.push(NO_FSYNC);
    for name in apt.known(runner, &names)? {
        if name != NO_FSYNC && !requested.contains(&name) {
            requested.push(name);
        }
    }
    let mut lock = apt.solve(runner, &requested, resolved.archive.install_recommends)?;
    for helper in apt.known(runner, &[NO_FSYNC])? {
        if !lock.packages.iter().any(|p| p.name == helper) {
            let mut found = apt.locate(runner, &[helper])?;
            found.iter_mut().for_each(|p| p.helper = true);
            lock.packages.append(&mut found);
        }
    }
    apt.forget_cache()?;
    Ok(Choice { lock, requested })
}

/// Packages without which the system would not be what the profile says.
fn needed<'r>(resolved: &'r Resolved, plan: &Plan, firmware: FirmwareKind) -> Vec<&'r str> {
    let mut names = vec![
        "systemd-sysv",
        "udev",
        "kmod",
        "iproute2",
        "initramfs-tools",
        "dbus",
        "ca-certificates",
        "tzdata",
        "e2fsprogs",
        "dosfstools",
    ];
    names.extend(resolved.kernel.package.as_deref());
    // The package of the firmware found keeps itself up to date; the other kind's files lie beside it, so
    // that the disk starts in another computer too. The two packages exclude each other.
    names.extend(match firmware {
        FirmwareKind::Bios => ["grub-pc", "grub-efi-amd64-bin"],
        FirmwareKind::Uefi64 | FirmwareKind::Uefi32 => ["grub-efi-amd64", "grub-pc-bin"],
    });
    if resolved.ssh_server {
        names.push("openssh-server");
    }
    if resolved.users.iter().any(|u| u.sudo) {
        names.push("sudo");
    }
    if !is_builtin_locale(&resolved.locale) {
        names.push("locales");
    }
    if resolved.keyboard.layout != "us" || !resolved.keyboard.variant.is_empty() {
        names.extend(["keyboard-configuration", "console-setup"]);
    }
    // What is kept may have another filesystem than the profile wishes.
    let planned = plan.disks.iter().flat_map(|d| &d.partitions).filter_map(|p| p.filesystem);
    for filesystem in planned.chain(plan.groups.iter().filter_map(|g| g.filesystem)) {
        names.extend(match filesystem {
            Filesystem::Xfs => Some("xfsprogs"),
            Filesystem::Btrfs => Some("btrfs-progs"),
            Filesystem::Ext4 | Filesystem::Vfat | Filesystem::Swap => None,
        });
    }
    if !plan.groups.is_empty() {
        names.push("lvm2");
    }
    if resolved.archive.distribution == Distribution::Ubuntu && !wants_network_manager(resolved) {
        names.push("netplan.io");
    }
    names
}

/// Packages taken where the release has them: some are parts of another package in other releases, some
/// are not made for every distribution.
fn optional(resolved: &Resolved, firmware: FirmwareKind) -> Vec<&'static str> {
    let mut names = vec![
        "shim-signed",
        "grub-efi-amd64-signed",
        // The loader for 32-bit firmware in front of a 64-bit processor.
        "grub-efi-ia32-bin",
        "zstd",
        "apparmor",
    ];
    if !wants_network_manager(resolved) {
        names.push("systemd-resolved");
    }
    // Any time client of the profile takes its place: they all conflict with it.
    let own_clock = ["chrony", "ntp", "ntpsec", "openntpd", "systemd-timesyncd"];
    if !resolved.packages.iter().any(|p| own_clock.contains(&p.as_str())) {
        names.push("systemd-timesyncd");
    }
    if firmware != FirmwareKind::Bios {
        names.push("efibootmgr");
    }
    names
}

/// Whether the C library has the locale built in.
pub(super) fn is_builtin_locale(locale: &str) -> bool {
    matches!(locale, "C" | "POSIX" | "C.UTF-8" | "C.utf8")
}

/// Whether the profile asks for NetworkManager by name. A desktop that brings it as a dependency is seen in
/// the lock later; then the two managers share nothing, since ours is only configured when it is alone.
fn wants_network_manager(resolved: &Resolved) -> bool {
    resolved.packages.iter().any(|p| p.split('=').next() == Some("network-manager"))
}
