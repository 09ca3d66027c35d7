//! What the package tests and the measurements install.

/// A small server.
pub const SERVER: &[&str] = &[
    "ca-certificates",
    "cron",
    "dbus",
    "eatmydata",
    "initramfs-tools",
    "iputils-ping",
    "kmod",
    "less",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "locales",
    "logrotate",
    "man-db",
    "nano",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "rsyslog",
    "sudo",
    "systemd-sysv",
    "systemd-timesyncd",
    "udev",
];

/// A desktop: with what is recommended, some 1,000 packages.
pub const DESKTOP: &[&str] = &[
    "?priority(important)",
    "?priority(standard)",
    "eatmydata",
    "firefox-esr",
    "grub-pc",
    "initramfs-tools",
    "libreoffice-writer",
    "linux-image-amd64",
    "openssh-server",
    "xfce4",
];

/// Ubuntu's own desktop, with what is recommended.
pub const UBUNTU_DESKTOP: &[&str] =
    &["eatmydata", "linux-generic", "openssh-server", "ubuntu-desktop-minimal", "ubuntu-standard"];

/// What the stand-in for Ubuntu has, and Ubuntu itself.
pub const STANDIN: &[&str] = &[
    "console-setup",
    "eatmydata",
    "initramfs-tools",
    "less",
    "linux-generic",
    "locales",
    "netplan.io",
    "openssh-server",
    "rsyslog",
    "ubuntu-minimal",
];
