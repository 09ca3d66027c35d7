//! What a machine asks an archive for.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::FirmwareKind;
use crate::profile::{Distribution, Filesystem};
use crate::resolve::Resolved;

/// What a machine asks an archive for. Lists are sorted, so that equal wishes are equal requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Request {
    /// Packages it must have: `name` or `name=version`.
    pub packages: Vec<String>,
    /// Packages it takes where the archive has them.
    pub optional: Vec<String>,
    /// Whether recommended packages come too.
    pub recommends: bool,
}

/// What of a plan decides which packages are needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planned {
    /// Filesystems, those that are kept among them.
    pub filesystems: BTreeSet<Filesystem>,
    /// Whether there are volume groups.
    pub groups: bool,
}

impl Request {
    /// What the machine asks for: the packages of the profile, kernel, boot loader, and what the settings
    /// themselves need.
    pub fn new(resolved: &Resolved, planned: &Planned, firmware: FirmwareKind) -> Self {
        let mut packages = resolved.packages.clone();
        let named = |packages: &[String], name: &str| packages.iter().any(|p| bare(p) == name);
        for name in needed(resolved, planned, firmware) {
            if !named(&packages, name) {
                packages.push(name.to_owned());
            }
        }
        let mut optional: Vec<String> = optional(resolved, firmware)
            .into_iter()
            .filter(|name| {
                !named(&packages, name) && !resolved.archive.never.iter().any(|never| never == name)
            })
            .map(str::to_owned)
            .collect();
        for list in [&mut packages, &mut optional] {
            list.sort();
            list.dedup();
        }
        let recommends = resolved.archive.install_recommends;
        Request { packages, optional, recommends }
    }

    /// The names that are asked for where `absent` is what the archives do not have.
    pub fn without(&self, absent: &[String]) -> Vec<String> {
        let mut names = self.packages.clone();
        names.extend(self.optional.iter().filter(|name| !absent.contains(name)).cloned());
        names.sort();
        names
    }
}

/// The name in `name=version`.
fn bare(package: &str) -> &str {
    package.split('=').next().unwrap_or(package)
}

/// Packages without which the system would not be what the profile says.
fn needed<'r>(resolved: &'r Resolved, planned: &Planned, firmware: FirmwareKind) -> Vec<&'r str> {
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
    for filesystem in &planned.filesystems {
        names.extend(match filesystem {
            Filesystem::Xfs => Some("xfsprogs"),
            Filesystem::Btrfs => Some("btrfs-progs"),
            Filesystem::Ext4 | Filesystem::Vfat | Filesystem::Swap => None,
        });
    }
    if planned.groups {
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
    if !resolved.packages.iter().any(|p| own_clock.contains(&bare(p))) {
        names.push("systemd-timesyncd");
    }
    if firmware != FirmwareKind::Bios {
        names.push("efibootmgr");
    }
    names
}

/// Whether the C library has the locale built in.
pub fn is_builtin_locale(locale: &str) -> bool {
    matches!(locale, "C" | "POSIX" | "C.UTF-8" | "C.utf8")
}

/// Whether the profile asks for NetworkManager by name. A desktop that brings it as a dependency is seen in
/// the lock later; then the two managers share nothing, since ours is only configured when it is alone.
fn wants_network_manager(resolved: &Resolved) -> bool {
    resolved.packages.iter().any(|p| bare(p) == "network-manager")
}
