//! Checks on the volumes of a resolved profile.

use super::text;
use crate::issue::Issue;
use crate::profile::{Filesystem, Rung};
use crate::resolve::{SPARE, VolumeWish};
use crate::size::Bytes;

/// Directories that must be part of the root filesystem, or that the kernel fills.
const TAKEN: [&str; 12] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/lost+found",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
];

/// The smallest filesystem its `mkfs` makes.
fn least(filesystem: Filesystem) -> Bytes {
    match filesystem {
        // mkfs.xfs refuses less since xfsprogs 5.19; mkfs.btrfs since 4.x.
        Filesystem::Xfs => Bytes::mib(300),
        Filesystem::Btrfs => Bytes::mib(128),
        Filesystem::Ext4 | Filesystem::Vfat | Filesystem::Swap => Bytes::mib(1),
    }
}

/// Checks the volumes of a resolved profile.
pub(crate) fn volumes(volumes: &[VolumeWish], issues: &mut Vec<Issue>) {
    for volume in volumes {
        let mut issue = |code: &str, key: &str, message: String, next: &str| {
            issues.push(Issue::new(code, format!("storage.volumes.{}.{key}", volume.name), message, next));
        };
        if !text::volume_name(&volume.name) {
            let next = "use at most 24 lower-case letters, digits and hyphens, beginning with a letter";
            issue("volume-name", "", format!("{:?} cannot be the name of a volume", volume.name), next);
        }
        if volume.name == SPARE {
            let message = "`spare` is the place for a second root".into();
            issue("volume-name", "", message, "choose another name");
        }
        if volume.min > volume.enough || volume.max.is_some_and(|max| volume.enough > max) {
            let max = volume.max.map(|m| m.to_string()).unwrap_or_else(|| "no limit".into());
            let message = format!(
                "min ({}), enough ({}) and max ({max}) are not in ascending order",
                volume.min, volume.enough
            );
            issue("volume-sizes", "min", message, "correct the sizes");
        }
        if volume.min < least(volume.filesystem) {
            let name = volume.filesystem.name();
            let message =
                format!("{} are too small for {name}: it needs {}", volume.min, least(volume.filesystem));
            issue("volume-sizes", "min", message, "raise `min`");
        }
        // Sums of sizes must not run over.
        if volume.enough > Bytes(1 << 60) {
            issue("volume-sizes", "enough", format!("{} is larger than any disk", volume.enough), "lower it");
        }
        if let Some((code, key, message, next)) = mount(volume) {
            issue(code, key, message, next);
        }
        let twice = volume.mount.is_some() && volumes.iter().filter(|v| v.mount == volume.mount).count() > 1;
        if twice {
            issue(
                "volume-mount",
                "mount",
                "another volume has the same mount point".into(),
                "give each its own",
            );
        }
    }
    let mut issue = |code: &str, message: &str, next: &str| {
        issues.push(Issue::new(code, "storage.volumes", message, next));
    };
    if !volumes.iter().any(|v| v.mount.as_deref() == Some("/")) {
        issue("volume-root", "no volume is mounted at /", "set `mount = \"/\"` on the volume `root`");
    }
    if volumes.iter().filter(|v| v.filesystem == Filesystem::Swap).count() > 1 {
        issue("volume-swap", "there is more than one swap volume", "make one of them large enough");
    }
}

/// Checks the order of fall-backs.
pub(crate) fn ladder(ladder: &[Rung], issues: &mut Vec<Issue>) {
    let twice = ladder.iter().enumerate().any(|(i, rung)| ladder[..i].contains(rung));
    let misplaced = ladder.first() != Some(&Rung::Full)
        || ladder.iter().position(|r| *r == Rung::Minimal).is_some_and(|at| at + 1 != ladder.len());
    if twice || misplaced {
        issues.push(Issue::new(
            "storage-ladder",
            "storage.ladder",
            "the ladder does not go down step by step",
            "begin with `full`, name each rung once, and put `minimal` last if at all",
        ));
    }
}

type Complaint = (&'static str, &'static str, String, &'static str);

fn mount(volume: &VolumeWish) -> Option<Complaint> {
    let complain = |message: String, next| Some(("volume-mount", "mount", message, next));
    let swap = volume.filesystem == Filesystem::Swap;
    let Some(mount) = volume.mount.as_deref() else {
        return if swap {
            swap_wishes(volume)
        } else {
            complain("the volume has no mount point".into(), "set `mount`")
        };
    };
    if swap {
        return complain("swap is not mounted anywhere".into(), "take `mount` out, or choose a filesystem");
    }
    if !text::plain_path(mount) {
        return complain(
            format!("{mount:?} is no absolute path of plain characters"),
            "start it with /, and use letters, digits and . _ + - only",
        );
    }
    if let Some(taken) =
        TAKEN.iter().find(|t| mount == **t || mount.strip_prefix(**t).is_some_and(|r| r.starts_with('/')))
    {
        return match *taken {
            "/boot" => complain(
                format!("`{mount}` belongs to the boot chain that every machine gets"),
                "choose another place",
            ),
            _ => complain(format!("`{mount}` cannot be on a volume of its own"), "choose another place"),
        };
    }
    let root = mount == "/";
    if root && (volume.optional || volume.user_data) {
        let message =
            "the root is always there and made anew at every reinstall: neither optional nor user data";
        return Some(("volume-root", "mount", message.into(), "take `optional` and `user-data` out"));
    }
    if volume.span && volume.filesystem == Filesystem::Vfat {
        let message = "vfat cannot lie on several disks".to_owned();
        return Some(("volume-filesystem", "span", message, "choose ext4, xfs or btrfs"));
    }
    if (root || mount == "/home") && volume.filesystem == Filesystem::Vfat {
        let message = format!("vfat knows no owners and permissions, which {mount} needs");
        return Some(("volume-filesystem", "filesystem", message, "choose ext4, xfs or btrfs"));
    }
    None
}

fn swap_wishes(volume: &VolumeWish) -> Option<Complaint> {
    if volume.span {
        let message = "swap does not lie on several disks".into();
        return Some(("volume-swap", "span", message, "take `span` out"));
    }
    volume
        .user_data
        .then(|| ("volume-swap", "user-data", "nobody keeps files on swap".into(), "take `user-data` out"))
}
