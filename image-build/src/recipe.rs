//! What goes into the image, and why: the one place to change it.
//!
//! Packages are only unpacked, never configured, so a package here is a set of files. The solver adds
//! what they depend on; [`LEFT_OUT`] takes away what serves only maintainer scripts or a feature nobody
//! in the live system uses.

use akene_protocol::profile::Distribution;

/// A package, or several for one purpose, and the reason they are there.
pub struct Wanted {
    /// Names.
    pub packages: &'static [&'static str],
    /// What for.
    pub why: &'static str,
}

const fn wanted(packages: &'static [&'static str], why: &'static str) -> Wanted {
    Wanted { packages, why }
}

/// The live root.
pub const LIVE: &[Wanted] = &[
    wanted(&["base-files", "base-passwd"], "os-release, the directory skeleton, users and groups"),
    wanted(
        &["bash", "dash", "coreutils", "findutils", "grep", "sed", "mawk", "less"],
        "the rescue shell, scripts",
    ),
    wanted(&["nano", "ncurses-base"], "editing in the rescue shell, on any terminal"),
    wanted(&["procps", "diffutils", "hostname"], "looking around in the rescue shell"),
    wanted(&["libc-bin"], "nsswitch.conf and what a C library needs around it"),
    wanted(&["udev", "kmod"], "devices: udevd, modprobe"),
    wanted(&["util-linux", "mount", "fdisk", "gdisk"], "mount, blkid, wipefs, mkswap, partx, sfdisk, sgdisk"),
    wanted(
        &["e2fsprogs", "dosfstools", "mtools", "xfsprogs", "btrfs-progs"],
        "making and checking filesystems",
    ),
    wanted(&["lvm2", "dmsetup", "mdadm"], "seeing and taking down what was on a disk"),
    wanted(&["smartmontools", "hdparm", "nvme-cli"], "health of disks, locked disks"),
    wanted(&["iproute2", "udhcpc", "busybox", "ethtool"], "network"),
    wanted(&["dmidecode", "pciutils", "usbutils"], "looking at hardware from the rescue shell"),
    wanted(
        &["dropbear-bin"],
        "logging in from outside while a machine waits for help: 1.7 MB with its libraries; OpenSSH has 4, and 6 more of its client",
    ),
    wanted(&["efibootmgr"], "the firmware's boot entries"),
    wanted(&["apt", "dpkg", "tar", "gzip", "xz-utils", "zstd"], "resolving and unpacking packages"),
    wanted(&["ca-certificates"], "mirrors over https"),
    wanted(&["rsync"], "saving people's files from the rescue menu"),
];

/// Taken if the archive has it: not every release has each of these under this name.
pub const LIVE_IF_THERE: &[Wanted] = &[
    wanted(&["debian-archive-keyring"], "keys of Debian's archive"),
    wanted(&["ubuntu-keyring", "ubuntu-archive-keyring"], "keys of Ubuntu's archive"),
    wanted(&["usr-is-merged"], "stands in for usrmerge, which draws in Perl"),
    wanted(
        &["kbd", "console-data"],
        "questions with the keyboard that is there: loadkeys and its keymaps, 0.5 MB",
    ),
    wanted(&["memtester"], "testing memory from the rescue menu, where Secure Boot refuses memtest86+"),
];

/// Packages the solver brings that the live root works without. A name ending in `*` is a prefix.
pub const LEFT_OUT: &[Wanted] = &[
    wanted(
        &["perl*", "libperl*", "libgdbm*", "libfile-*", "libtext-*", "libnumber-*"],
        "only for maintainer scripts",
    ),
    wanted(&["debconf*", "adduser", "ucf", "init-system-helpers", "usrmerge"], "only for maintainer scripts"),
    wanted(&["python3*", "libpython3*", "media-types"], "only for lsusb's Python helper"),
    wanted(&["libicu*"], "only for xfs_scrub: 36 MB"),
    wanted(
        &["login*", "passwd", "libpam-*", "sysvinit-utils", "logsave"],
        "nobody logs in to the live system",
    ),
    wanted(
        &["libsemanage*", "libsepol*", "libdb5*", "libcap2-bin", "libnsl2", "libtirpc*"],
        "only for the former",
    ),
    wanted(&["libgssapi*", "libk5*", "libkrb5*"], "only for the former"),
    wanted(&["openssl", "tzdata", "lsb-base"], "certificates are joined by us; the clock is UTC"),
    wanted(&["dmeventd", "uuid-runtime", "util-linux-extra", "ncurses-bin"], "not used"),
    wanted(&["initramfs-tools*", "klibc*", "linux-*", "libklibc*", "dracut*"], "the initrd is ours"),
    wanted(&["systemd", "systemd-sysv", "dbus*", "libnss-*"], "the agent is the first program"),
];

/// Paths in the live root that are not kept. A path is taken with everything below it.
pub const PRUNED: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/bash-completion",
    "usr/share/zsh",
    "usr/share/fish",
    "usr/share/menu",
    "usr/share/pixmaps",
    "usr/share/applications",
    "usr/share/gdb",
    "usr/share/gcc",
    "usr/share/perl5",
    "usr/share/nano",
    // Of kbd and console-data the live system needs `loadkeys` and keymaps for a PC's keyboard.
    "usr/share/console",
    "usr/share/consolefonts",
    "usr/share/consoletrans",
    "usr/share/keymaps/amiga",
    "usr/share/keymaps/atari",
    "usr/share/keymaps/mac",
    "usr/share/keymaps/sun",
    "usr/share/keymaps/i386/dvorak",
    "usr/share/keymaps/i386/fgGIod",
    "usr/share/keymaps/i386/olpc",
    "usr/share/initramfs-tools",
    "usr/lib/python3",
    "usr/lib/systemd/system",
    "usr/lib/systemd/system-generators",
    "usr/lib/systemd/system-sleep",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/audit",
    "usr/lib/x86_64-linux-gnu/perl-base",
    // Without systemd-hwdb having run there is no hwdb.bin, and its sources alone are no use.
    "usr/lib/udev/hwdb.d",
    // These would assemble arrays and activate volume groups of whatever disks are found, which writes
    // to them before anybody consented.
    "usr/lib/udev/rules.d/64-md-raid-assembly.rules",
    "usr/lib/udev/rules.d/69-lvm.rules",
    "usr/lib/udev/rules.d/69-lvm-metad.rules",
    "usr/share/doc-base",
    "usr/share/common-licenses",
    "usr/lib/x86_64-linux-gnu/libmvec.so.1",
    "usr/sbin/xfs_scrub",
    "usr/sbin/xfs_scrub_all",
    "usr/bin/usbhid-dump",
    "usr/bin/lsusb.py",
    "etc/cron.d",
    "etc/cron.daily",
    "etc/init.d",
    "etc/logrotate.d",
    "etc/pam.d",
    "etc/kernel",
    "var/cache",
    "var/log",
    "boot",
];

/// Which kernel modules go in: a directory (with everything below it) or one module, relative to
/// `kernel/`. What they depend on comes with them.
pub const MODULES: &[(&str, &str)] = &[
    ("drivers/net/ethernet", "PCI and PCMCIA network cards"),
    ("drivers/net/usb", "USB network cards"),
    ("drivers/net/phy", "transceivers, asked for by name at run time"),
    ("drivers/net/mdio", "the bus they sit on"),
    ("drivers/net/pcs", "the same"),
    ("drivers/net/fddi", "cards of the last century"),
    ("drivers/net/virtio_net", "virtual machines"),
    ("drivers/net/vmxnet3", "virtual machines"),
    ("drivers/net/hyperv", "virtual machines"),
    ("drivers/net/xen-netfront", "virtual machines"),
    ("drivers/net/bonding", "networks that ask for it"),
    ("drivers/net/thunderbolt", "docks"),
    ("net/packet", "DHCP"),
    ("net/8021q", "networks that ask for it"),
    ("net/ipv6", "where it is not built in"),
    ("drivers/ata", "SATA and IDE"),
    ("drivers/scsi", "SCSI and RAID cards, disks, optical drives"),
    ("drivers/message", "older SCSI cards"),
    ("drivers/block", "loop, zram, virtual and very old disks"),
    ("drivers/nvme/host", "NVMe"),
    ("drivers/mmc", "eMMC and card readers"),
    ("drivers/memstick", "card readers"),
    ("drivers/misc/cardreader", "card readers"),
    ("drivers/ufs", "flash storage of tablets"),
    ("drivers/cdrom", "optical drives"),
    ("drivers/firewire", "FireWire disks"),
    ("drivers/usb/host", "USB controllers"),
    ("drivers/usb/dwc3", "USB controllers"),
    ("drivers/usb/storage", "USB disks"),
    ("drivers/usb/common", "USB"),
    ("drivers/usb/core", "USB"),
    ("drivers/usb/roles", "USB-C"),
    ("drivers/usb/typec", "USB-C"),
    ("drivers/thunderbolt", "docks"),
    ("drivers/pcmcia", "cards in old laptops"),
    ("drivers/hid", "keyboards and mice"),
    ("drivers/input/keyboard", "keyboards"),
    ("drivers/input/mouse", "mice"),
    ("drivers/input/serio", "PS/2"),
    ("drivers/input/misc/pcspkr", "a beep that says which PC it is"),
    ("drivers/input/evdev", "keys"),
    ("drivers/i2c/busses", "keyboards and touchpads of newer laptops"),
    ("drivers/pinctrl", "the interrupt lines of those"),
    ("drivers/mfd/intel-lpss", "the bus of those"),
    ("drivers/mfd/intel-lpss-acpi", "the bus of those"),
    ("drivers/mfd/intel-lpss-pci", "the bus of those"),
    ("drivers/md", "looking at RAID and LVM"),
    ("drivers/virtio", "virtual machines"),
    ("drivers/hv", "virtual machines"),
    ("drivers/xen", "virtual machines"),
    ("drivers/pci", "VMD and Hyper-V, which hide disks"),
    ("drivers/acpi", "batteries, lids, buttons, fans"),
    ("drivers/char/hw_random", "entropy on machines that start with none"),
    ("drivers/firmware", "the DMI tables"),
    ("drivers/watchdog", "restarting a machine that hangs"),
    ("drivers/mfd/lpc_ich", "the chip Intel's watchdog is in"),
    ("fs/ext4", "filesystems"),
    ("fs/xfs", "filesystems"),
    ("fs/btrfs", "filesystems"),
    ("fs/f2fs", "filesystems"),
    ("fs/fat", "filesystems"),
    ("fs/exfat", "filesystems"),
    ("fs/ntfs3", "filesystems"),
    ("fs/isofs", "filesystems"),
    ("fs/udf", "filesystems"),
    ("fs/hfsplus", "filesystems"),
    ("fs/jfs", "filesystems"),
    ("fs/reiserfs", "filesystems"),
    ("fs/squashfs", "the live root"),
    ("fs/overlayfs", "the live root"),
    ("fs/efivarfs", "the firmware's variables"),
    ("fs/nls", "file names"),
    ("crypto", "sums that filesystems ask for by name at run time"),
    ("arch/x86/crypto", "the same, faster"),
];

/// Left out of the above.
pub const MODULES_LEFT_OUT: &[(&str, &str)] = &[
    ("drivers/scsi/lpfc", "Fibre Channel: no PC has it, 2.5 MB"),
    ("drivers/scsi/qla2xxx", "Fibre Channel"),
    ("drivers/scsi/bfa", "Fibre Channel"),
    ("drivers/scsi/fnic", "Fibre Channel"),
    ("drivers/scsi/snic", "Fibre Channel"),
    ("drivers/scsi/csiostor", "Fibre Channel"),
    ("drivers/scsi/elx", "Fibre Channel"),
    ("drivers/scsi/bnx2fc", "Fibre Channel over Ethernet"),
    ("drivers/scsi/qedf", "Fibre Channel over Ethernet"),
    ("drivers/scsi/fcoe", "Fibre Channel over Ethernet"),
    ("drivers/scsi/libfc", "Fibre Channel over Ethernet"),
    ("drivers/scsi/qedi", "disks over the network"),
    ("drivers/scsi/qla4xxx", "disks over the network"),
    ("drivers/scsi/be2iscsi", "disks over the network"),
    ("drivers/scsi/bnx2i", "disks over the network"),
    ("drivers/scsi/cxgbi", "disks over the network"),
    ("drivers/scsi/iscsi_tcp", "disks over the network"),
    ("drivers/nvme/host/nvme-rdma", "disks over the network"),
    ("drivers/nvme/host/nvme-fc", "disks over the network"),
    ("drivers/nvme/host/nvme-tcp", "disks over the network"),
    ("drivers/nvme/host/nvme-fabrics", "disks over the network"),
    ("drivers/xen/xen-scsiback", "for the host of virtual machines"),
    ("drivers/xen/xen-pciback", "for the host of virtual machines"),
    ("drivers/block/xen-blkback", "for the host of virtual machines"),
    ("drivers/usb/typec/altmodes", "displays, and the graphics stack with them"),
    ("drivers/net/ethernet/netronome", "40 Gb/s cards of data centres, with 23 MB of firmware"),
    ("drivers/net/ethernet/cavium/liquidio", "25 Gb/s cards of data centres, with 5 MB of firmware"),
    ("drivers/block/drbd", "disks over the network"),
    ("drivers/block/rbd", "disks over the network"),
    ("drivers/block/nbd", "disks over the network"),
    ("drivers/block/aoe", "disks over the network"),
    ("drivers/block/rnbd", "disks over the network"),
    ("drivers/md/dm-vdo", "no PC has it"),
    ("crypto/tcrypt", "tests"),
];

/// The switch `--wireless` adds these.
pub const WIRELESS_MODULES: &[(&str, &str)] = &[
    ("drivers/net/wireless", "wireless cards"),
    ("net/mac80211", "their common part"),
    ("net/wireless", "their common part"),
    ("net/rfkill", "the switch on the case"),
    ("drivers/ssb", "the bus of Broadcom cards"),
    ("drivers/bcma", "the bus of Broadcom cards"),
];

/// And these packages to the live root.
pub const WIRELESS_LIVE: &[Wanted] =
    &[wanted(&["wpasupplicant", "iw", "wireless-regdb"], "wireless networks")];

/// Modules that must be there before the live root can be mounted.
pub const EARLY_MODULES: &[&str] = &["loop", "squashfs", "overlay"];

/// Packages whose files make the medium start, taken apart without what they depend on.
pub const BOOT: &[Wanted] = &[
    wanted(&["shim-signed"], "the first program of UEFI with Secure Boot"),
    wanted(&["grub-efi-amd64-signed"], "the boot loader it starts"),
    wanted(&["grub-efi-ia32-bin"], "32-bit UEFI"),
    wanted(&["grub-pc-bin"], "BIOS"),
    wanted(&["grub-common"], "the tool that joins boot loader modules, run with the live root's libraries"),
];

/// The same, where the archive has them.
pub const BOOT_IF_THERE: &[Wanted] =
    &[wanted(&["shim-helpers-amd64-signed"], "enrolling keys"), wanted(&["memtest86+"], "memory test")];

/// Packages of firmware that wired cards and storage name; searched only for the files the chosen modules name.
pub fn firmware(distribution: Distribution, wireless: bool) -> Vec<&'static str> {
    let mut names = match distribution {
        // All of it was one package, until the updates of 24.04 divided it.
        Distribution::Ubuntu => vec![
            "linux-firmware",
            "linux-firmware-amd-misc",
            "linux-firmware-intel-misc",
            "linux-firmware-mediatek",
            "linux-firmware-misc",
            "linux-firmware-qlogic",
            "linux-firmware-realtek",
        ],
        Distribution::Debian => vec![
            "firmware-linux-free",
            "firmware-realtek",
            "firmware-bnx2",
            "firmware-bnx2x",
            "firmware-misc-nonfree",
            "firmware-netxen",
            "firmware-qlogic",
            "firmware-myricom",
            "firmware-mediatek",
            "firmware-intel-misc",
        ],
    };
    let of_wireless: &[&str] = match distribution {
        Distribution::Ubuntu => &[
            "linux-firmware-broadcom-wireless",
            "linux-firmware-intel-wireless",
            "linux-firmware-marvell-wireless",
            "linux-firmware-qualcomm-wireless",
        ],
        Distribution::Debian => &[
            "firmware-iwlwifi",
            "firmware-atheros",
            "firmware-ath9k-htc",
            "firmware-brcm80211",
            "firmware-ipw2x00",
            "firmware-libertas",
            "firmware-ti-connectivity",
            "firmware-zd1211",
        ],
    };
    if wireless {
        names.extend(of_wireless);
    }
    names
}

/// Whether `path` is `listed` or lies below it. `listed` may name a module without its ending.
pub fn covers(listed: &str, path: &str) -> bool {
    match path.strip_prefix(listed) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || rest.starts_with(".ko"),
        None => false,
    }
}

/// Whether a package is one of [`LEFT_OUT`].
pub fn is_left_out(name: &str) -> bool {
    LEFT_OUT.iter().flat_map(|w| w.packages).any(|p| match p.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *p,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_directory_covers_what_is_in_it_and_nothing_beside() {
        assert!(covers("drivers/ata", "drivers/ata/ahci.ko"));
        assert!(covers("drivers/net/virtio_net", "drivers/net/virtio_net.ko.zst"));
        assert!(!covers("drivers/ata", "drivers/atari/x.ko"));
        assert!(!covers("crypto", "drivers/crypto/x.ko"));
    }

    #[test]
    fn nothing_is_wanted_and_left_out_at_once() {
        let all = LIVE.iter().chain(LIVE_IF_THERE).chain(WIRELESS_LIVE);
        for package in all.flat_map(|w| w.packages) {
            assert!(!is_left_out(package), "{package}");
        }
        assert!(is_left_out("perl-base") && is_left_out("passwd") && !is_left_out("procps"));
    }
}
