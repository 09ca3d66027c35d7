//! What a profile gets when it says nothing.

use super::{Archive, StorageWishes, VolumeWish};
use crate::inventory::{Inventory, TableKind};
use crate::issue::{Issue, Issues};
use crate::openpgp::Keys;
use crate::profile::{Distribution, Filesystem, Medium, Pocket, Repository, Rollback, Rung};
use crate::size::Bytes;

/// Name of the place for a second root. No volume of a profile has it.
pub(crate) const SPARE: &str = "spare";

impl Distribution {
    /// The directory its signed boot loader looks into on an EFI system partition, below `EFI`.
    pub fn directory(self) -> &'static str {
        match self {
            Distribution::Debian => "debian",
            Distribution::Ubuntu => "ubuntu",
        }
    }

    /// Mirror of the main archive every user can reach.
    pub fn default_mirror(self) -> &'static str {
        match self {
            Distribution::Debian => "http://deb.debian.org/debian",
            Distribution::Ubuntu => "http://archive.ubuntu.com/ubuntu",
        }
    }

    /// Mirror of the security archive every user can reach.
    fn default_security_mirror(self) -> &'static str {
        match self {
            Distribution::Debian => "http://security.debian.org/debian-security",
            Distribution::Ubuntu => "http://security.ubuntu.com/ubuntu",
        }
    }

    fn default_components(self) -> &'static [&'static str] {
        match self {
            Distribution::Debian => &["main", "non-free-firmware"],
            Distribution::Ubuntu => &["main", "restricted", "universe", "multiverse"],
        }
    }

    /// Package of the usual kernel: it always depends on the newest.
    pub fn default_kernel(self) -> &'static str {
        match self {
            Distribution::Debian => "linux-image-amd64",
            Distribution::Ubuntu => "linux-generic",
        }
    }
}

impl Archive {
    /// The archives that these settings mean, with every default filled in.
    ///
    /// # Errors
    /// Distribution or suite is not said.
    pub fn new(apt: crate::profile::Apt) -> Result<Archive, Issues> {
        let mut issues = Vec::new();
        let archive = archive(apt, &mut issues);
        if issues.is_empty() { Ok(archive) } else { Err(Issues(issues)) }
    }
}

/// The archives: what the profile says, else the distribution's own.
pub(super) fn archive(apt: crate::profile::Apt, issues: &mut Vec<Issue>) -> Archive {
    let mut missing = |key: &str, example: &str| {
        let message = "no profile or class says which release to install";
        issues.push(Issue::new(
            "setting-missing",
            key,
            message,
            format!("set `{key}`, for example to `{example}`"),
        ));
    };
    if apt.distribution.is_none() {
        missing("apt.distribution", "ubuntu");
    }
    if apt.suite.is_none() {
        missing("apt.suite", "noble");
    }
    let distribution = apt.distribution.unwrap_or(Distribution::Ubuntu);
    let or_default = |list: Vec<String>, default: &[&str]| match list.is_empty() {
        true => default.iter().map(|s| s.to_string()).collect(),
        false => list,
    };
    // One mirror of everything is the usual set-up of an association: it then serves security too.
    let security_default = match (distribution, apt.mirrors.as_slice()) {
        (Distribution::Ubuntu, [_, ..]) => apt.mirrors.clone(),
        _ => vec![distribution.default_security_mirror().to_owned()],
    };
    Archive {
        distribution,
        suite: apt.suite.unwrap_or_default(),
        mirrors: or_default(apt.mirrors, &[distribution.default_mirror()]),
        security_mirrors: if apt.security_mirrors.is_empty() {
            security_default
        } else {
            apt.security_mirrors
        },
        components: or_default(apt.components, distribution.default_components()),
        pockets: apt.pockets.unwrap_or_else(|| vec![Pocket::Updates, Pocket::Security]),
        key: apt.key.map(|key| one_form(&key)),
        sources: apt
            .sources
            .into_iter()
            .map(|(name, repository)| (name, Repository { key: one_form(&repository.key), ..repository }))
            .collect(),
        install_recommends: apt.install_recommends.unwrap_or(true),
        preferences: apt.preferences,
        never: apt.never,
        hold: apt.hold,
        local: Vec::new(),
    }
}

/// A key as apt wants it. What is none was refused when its layer was checked.
fn one_form(key: &str) -> String {
    Keys::parse(key).map_or_else(|_| key.to_owned(), |keys| keys.armoured())
}

/// Priority of an optional volume when nothing is said.
const PRIORITY: u32 = 50;

/// The volumes a profile has when it says nothing. `enough` of swap follows the memory: as much as there
/// is, between 512 MiB and 4 GiB.
fn default_volumes(inventory: &Inventory) -> [VolumeWish; 3] {
    let swap = inventory.memory.total.align_up(Bytes::mib(256)).clamp(Bytes::mib(512), Bytes::gib(4));
    let volume = |name: &str, mount: &str, min, enough, max| VolumeWish {
        name: name.into(),
        mount: Some(mount.into()),
        filesystem: Filesystem::Ext4,
        min,
        enough,
        max,
        user_data: false,
        optional: false,
        priority: PRIORITY,
        medium: Medium::Any,
        span: false,
    };
    [
        VolumeWish {
            medium: Medium::Fast,
            ..volume("root", "/", Bytes::gib(3), Bytes::gib(20), Some(Bytes::gib(64)))
        },
        VolumeWish {
            user_data: true,
            optional: true,
            span: true,
            ..volume("home", "/home", Bytes::gib(1), Bytes::gib(20), None)
        },
        VolumeWish {
            name: "swap".into(),
            mount: None,
            filesystem: Filesystem::Swap,
            min: Bytes::mib(256),
            enough: swap,
            max: Some(swap),
            user_data: false,
            optional: true,
            priority: PRIORITY,
            medium: Medium::Fast,
            span: false,
        },
    ]
}

/// Disks and volumes: the default volumes changed and the profile's own added.
pub(super) fn storage(
    wish: crate::profile::Storage,
    inventory: &Inventory,
    issues: &mut Vec<Issue>,
) -> StorageWishes {
    let mut own = wish.volumes;
    let mut volumes = Vec::new();
    for default in default_volumes(inventory) {
        let upper = own.remove(&default.name).unwrap_or_default();
        volumes.extend(volume(default, upper));
    }
    for (name, upper) in own {
        // What the administrator makes up has one size that matters: the one given.
        let given = upper.min.or(upper.enough).or(upper.max).unwrap_or(Bytes::gib(1));
        let default = VolumeWish {
            name,
            mount: None,
            filesystem: Filesystem::Ext4,
            min: given.min(Bytes::gib(1)),
            enough: given,
            max: None,
            user_data: false,
            optional: false,
            priority: PRIORITY,
            medium: Medium::Any,
            span: false,
        };
        volumes.extend(volume(default, upper));
    }
    // Root first, swap last, the others by name.
    volumes.sort_by_key(|v| match v.name.as_str() {
        "root" => (0, String::new()),
        "swap" => (2, String::new()),
        name => (1, name.to_owned()),
    });
    crate::check::volumes(&volumes, issues);
    let ladder = match wish.ladder.is_empty() {
        true => Rung::ALL.to_vec(),
        false => wish.ladder,
    };
    crate::check::ladder(&ladder, issues);
    let table = wish.table.unwrap_or(TableKind::Gpt);
    // Its place is known by its name, and an MBR has none.
    let wanted = table == TableKind::Gpt && wish.rollback.unwrap_or_default() == Rollback::IfRoom;
    let root = volumes.iter().find(|v| wanted && v.mount.as_deref() == Some("/"));
    let spare = root.map(|root| VolumeWish {
        name: SPARE.into(),
        mount: None,
        filesystem: Filesystem::Ext4,
        min: root.enough,
        max: Some(root.enough),
        user_data: false,
        optional: false,
        span: false,
        ..root.clone()
    });
    StorageWishes {
        table,
        disks: wish.disks,
        foreign: wish.foreign.unwrap_or_default(),
        keep_homes: wish.keep_homes.unwrap_or(true),
        ladder,
        volumes,
        spare,
    }
}

/// A default volume changed by what a profile says. A size that is given moves the default ones that would
/// contradict it. `None`: the profile does not want it.
fn volume(default: VolumeWish, upper: crate::profile::Volume) -> Option<VolumeWish> {
    if upper.wanted == Some(false) {
        return None;
    }
    let nothing = Bytes(0);
    let endless = Bytes(u64::MAX);
    let enough = upper.enough.unwrap_or_else(|| {
        default.enough.max(upper.min.unwrap_or(nothing)).min(upper.max.unwrap_or(endless))
    });
    let least = default.min.min(upper.enough.unwrap_or(endless)).min(upper.max.unwrap_or(endless));
    Some(VolumeWish {
        mount: upper.mount.or(default.mount),
        filesystem: upper.filesystem.unwrap_or(default.filesystem),
        min: upper.min.unwrap_or(least),
        enough,
        max: upper.max.or(default.max.filter(|max| *max >= enough)),
        user_data: upper.user_data.unwrap_or(default.user_data),
        optional: upper.optional.unwrap_or(default.optional),
        priority: upper.priority.unwrap_or(default.priority),
        medium: upper.medium.unwrap_or(default.medium),
        span: upper.span.unwrap_or(default.span),
        name: default.name,
    })
}
