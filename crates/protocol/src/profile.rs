//! What a machine shall become, as the administrator writes it.
//!
//! A *layer* is one TOML file: a profile (`profiles/NAME.toml`) or a class
//! (`classes/NAME/class.toml`); both have the same keys, so that anything can be moved between them.
//! A profile also lists its classes. Layers are laid over each other in that order, the profile last:
//! single values are replaced, lists are appended. Key names follow Ubuntu's autoinstall where it has
//! one. Unknown keys are errors that name the line and the nearest known key.
//!
//! A [`Bundle`] is one profile with its classes, ready to be signed; [`crate::resolve`] lays the layers
//! over each other for one machine.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::Engine as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::Document;
use crate::ids::Sha256;
use crate::inventory::TableKind;
use crate::issue::{Issue, Issues};
use crate::rule::Rule;
use crate::secret::Secret;
use crate::size::Bytes;

/// A profile with its classes, as signed and sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bundle {
    /// Name of the site.
    pub site: String,
    /// Name of the profile.
    pub name: String,
    /// Changes whenever the content does: the first 16 hexadecimal digits of its SHA-256.
    pub revision: String,
    /// Classes in the order the profile lists them, with their names.
    pub classes: Vec<(String, Layer)>,
    /// The profile itself.
    pub profile: Layer,
}

impl Bundle {
    /// The keyboard that each of its machines gets. `None`: it names none, or which one depends on the machine.
    pub fn keyboard(&self) -> Option<&Keyboard> {
        let own = self.profile.keyboard.iter().map(|keyboard| (keyboard, true));
        let classes = self.classes.iter().rev();
        let named = classes.filter_map(|(_, class)| Some((class.keyboard.as_ref()?, class.when.is_none())));
        // The last layer counts. One with a rule may count, and then so may those below it.
        let (mut found, mut certain) = (None, false);
        for (keyboard, always) in own.chain(named) {
            if *found.get_or_insert(keyboard) != keyboard {
                return None;
            }
            certain = always;
            if certain {
                break;
            }
        }
        found.filter(|_| certain)
    }
}

impl Document for Bundle {
    const PAYLOAD_TYPE: &'static str = "application/vnd.akene.profile+json; version=1";
}

/// One file of settings: a profile or a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Layer {
    /// What this profile or class is for, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Classes of a profile, in the order they are laid over each other. Not allowed in a class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// The class counts only on machines for which this rule holds. Not allowed in a profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Rule>,
    /// Values for `${NAME}` in `identity.hostname`, file contents and scripts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,

    /// System locale: `fr_FR.UTF-8`. Default: `C.UTF-8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Console and desktop keyboard. Default: layout `us`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyboard: Option<Keyboard>,
    /// Time zone: `Europe/Paris`. Default: `Etc/UTC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Name of the machine and its first user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityWish>,
    /// More users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Whether the people whose files are kept in `/home` keep their accounts too, with password, group and number. What they
    /// may do beyond that, `sudo` for one, only `users` says. Default: `false`, since who had an account on a computer
    /// that was given away shall not have one on the next person's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_accounts: Option<bool>,
    /// Remote login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Ssh>,
    /// Network of the installed system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The distribution and its archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apt: Option<Apt>,
    /// Packages to install. `name` or `name=version`; `-name` takes one out that another layer added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// The packages that lie beside a class as `packages/*.deb`. Put here by the server, never by hand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local_packages: Vec<LocalPackage>,
    /// The kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// The boot menu.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// Answers for debconf, in the form of `debconf-set-selections`: `OWNER QUESTION TYPE VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub debconf_selections: Vec<String>,
    /// Disks and volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Files to write into the installed system.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
    /// Scripts run inside the new system, in order, when all packages are configured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub late_commands: Vec<Script>,
    /// What to do when the installer has finished. Default: `reboot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Shutdown>,
}

/// Keyboard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Keyboard {
    /// XKB layout: `fr`.
    pub layout: String,
    /// XKB variant: `oss`.
    #[serde(default)]
    pub variant: String,
}

/// Name of the machine and its first user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct IdentityWish {
    /// Host name; `${asset}` is the machine's asset number without the hyphen. Default: `akene-${asset}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Login name of the first user, who may use sudo. Where they have no `password`, sudo asks for none
    /// (`NOPASSWD`): nobody could answer, and whoever holds their SSH key is root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Full name of the first user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realname: Option<String>,
    /// Password hash as `mkpasswd` prints it (`$y$…`, `$6$…`). Without one, no password opens the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Full name.
    #[serde(default)]
    pub realname: Option<String>,
    /// Password hash as `mkpasswd` prints it. Without one, no password opens the account.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Groups besides the user's own; those that do not exist are skipped with a warning.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether they may use sudo. Where they have no `password`, sudo asks for none (`NOPASSWD`). Default: `false`.
    #[serde(default)]
    pub sudo: bool,
    /// Login shell. Default: `/bin/bash`.
    #[serde(default)]
    pub shell: Option<String>,
    /// Numeric id. Default: the next free one.
    #[serde(default)]
    pub uid: Option<u32>,
    /// SSH public keys that open the account.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
}

/// Remote login.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Ssh {
    /// Whether to install the SSH server. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_server: Option<bool>,
    /// Keys that open the first user's account, or root's where there is no such user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authorized_keys: Vec<String>,
    /// Whether passwords are accepted. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_pw: Option<bool>,
}

/// Network of the installed system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Network {
    /// A fixed address for the wired card instead of DHCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<crate::stamp::StaticNetwork>,
    /// Time servers. Default: the distribution's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<String>,
    /// Proxy for apt and the resident agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
}

/// The two families of distributions we install.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Distribution {
    Debian,
    Ubuntu,
}

/// The distribution and its archives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Apt {
    /// The family of the distribution. Some layer must set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    /// Code name of the release: `noble`, `bookworm`. Some layer must set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// Mirror of the main archive. Default: the distribution's own. Several are tried in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Mirror of the security archive. Default: the distribution's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_mirrors: Vec<String>,
    /// Components. Default: `main` (Debian, with `non-free-firmware`), `main restricted universe
    /// multiverse` (Ubuntu).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Suites besides the release itself. Default: `updates` and `security`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pockets: Option<Vec<Pocket>>,
    /// OpenPGP keys the archive is signed with, armoured, or binary in base64. Default: the distribution's
    /// keyring, which the medium carries. Set it for a mirror that signs with a key of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Repositories beyond the distribution's, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Repository>,
    /// Whether recommended packages are installed too. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_recommends: Option<bool>,
    /// Texts for `/etc/apt/preferences.d`, by file name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub preferences: BTreeMap<String, String>,
    /// What a signed lock of the profile (`akene-server lock`) is to the machines: `preferred`, they take their
    /// packages from it and choose by themselves where it has no answer; `required`, they are installed from
    /// it or not at all; `ignored`, they choose by themselves. Default: `preferred`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockUse>,
    /// How many days old a signed lock may be at most, by the newest of its archives' releases. An older one is
    /// not used, or with `lock = "required"` refused. Default: any age; machines say so when it is old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_days: Option<u32>,
    /// Whether a machine may be installed from an older signed lock than the one it was installed from before: set
    /// it to go back to an earlier state on purpose. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_older: Option<bool>,
    /// Packages that are never installed, now or later, whatever recommends them: `snapd`. `-name` takes one out
    /// that another layer added. What cannot do without one of them is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub never: Vec<String>,
    /// Packages that stay at the version they are installed in (`apt-mark hold`), with `packages` saying which
    /// where it matters. `-name` takes one out that another layer added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hold: Vec<String>,
}

/// What a signed lock is to the machines of a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum LockUse {
    #[default]
    Preferred,
    Required,
    Ignored,
}

/// A companion suite of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Pocket {
    Updates,
    Security,
    Backports,
}

/// A repository beyond the distribution's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Repository {
    /// Address of the archive.
    pub uri: String,
    /// Suites; a suite that ends in `/` is a flat repository and has no components.
    pub suites: Vec<String>,
    /// Components.
    #[serde(default)]
    pub components: Vec<String>,
    /// OpenPGP keys it is signed with, armoured, or binary in base64. A class may leave it out and carry the key
    /// as `keys/NAME.asc` or `keys/NAME.gpg`. These keys count for this repository alone; there is no unsigned one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// A package that lies beside a class. That its sum stands in the signed profile is what makes it trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LocalPackage {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Size of the `.deb`.
    pub size: Bytes,
    /// SHA-256 of the `.deb`.
    pub sha256: Sha256,
}

/// The kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Kernel {
    /// Package. Default: `linux-image-amd64` (Debian), `linux-generic` (Ubuntu).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Arguments for the installed system's kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
}

/// The boot menu.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Boot {
    /// Password hash as `grub-mkpasswd-pbkdf2` prints it (`grub.pbkdf2.sha512.…`). With it the installed system still starts
    /// unasked, but to start the installer from the menu, to change an entry or to get at GRUB's command line takes
    /// the user `admin` and this password; the entries for recovery are left out. Default: everybody may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// Disks and volumes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Storage {
    /// Kind of partition table to make. Default: `gpt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<TableKind>,
    /// Which disks may be used at all. Without it, every fixed disk; with it, exactly those it names,
    /// and it is an error when it names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<DiskSelector>,
    /// What happens to other systems on the disks: `replace` them (with permission to wipe), or `leave` them
    /// and use only the room beside them. Default: `replace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Foreign>,
    /// Whether people's files that are found are kept: a `/home` of its own, on a volume group, or inside an old
    /// system. With `false`, a permission to wipe includes them. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_homes: Option<bool>,
    /// Whether there is a second root, so that the old system is kept until the new one has confirmed itself, and comes
    /// back by itself if it does not: `if-room`, where that takes nothing away from anybody, or `never`. Needs a GPT.
    /// Default: `if-room`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// What may be given up where the disks cannot hold everything, in this order; each rung gives up what the
    /// ones before it do, too. What is not listed is never given up. Default: `full`, `no-extras`, `no-home`,
    /// `no-swap`, `minimal`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ladder: Vec<Rung>,
    /// Volumes by name. Default: `root`, `home` and `swap` as listed below. A volume
    /// with one of these names changes the default one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Volume>,
}

/// Which disks may be used. All given keys must fit; a disk that lacks the fact does not fit. The medium the
/// installer runs from, disks that refuse writing and failing disks are never used, whatever is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DiskSelector {
    /// Serial number, `*` and `?` allowed, case ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model, `*` and `?` allowed, case ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Link below `/dev/disk/by-id` or device path, `*` and `?` allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Least size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Bytes>,
    /// Largest size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Bytes>,
    /// Whether removable disks may be chosen too. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
}

/// What happens to other systems on the disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Foreign {
    /// They make room, if the permission allows it.
    #[default]
    Replace,
    /// They stay; only free room is used.
    Leave,
}

/// Whether there is a second root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rollback {
    /// Where every volume has enough beside it.
    #[default]
    IfRoom,
    /// Never: the new system takes the place of the old one.
    Never,
}

/// A rung of the ladder of fall-backs. From [`Rung::NoExtras`] to [`Rung::NoSwap`] only volumes that are
/// optional are given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Everything that is wished.
    #[default]
    Full,
    /// Without optional volumes other than the next two, those with the lowest `priority` first.
    NoExtras,
    /// Without a volume of its own for people's files: they lie on the root.
    NoHome,
    /// Without a swap volume; compressed memory takes its place.
    NoSwap,
    /// And with the smallest boot partition that works.
    Minimal,
}

impl Rung {
    /// All rungs, in the usual order.
    pub const ALL: [Rung; 5] = [Rung::Full, Rung::NoExtras, Rung::NoHome, Rung::NoSwap, Rung::Minimal];

    /// Its name in a profile.
    pub fn name(self) -> &'static str {
        match self {
            Rung::Full => "full",
            Rung::NoExtras => "no-extras",
            Rung::NoHome => "no-home",
            Rung::NoSwap => "no-swap",
            Rung::Minimal => "minimal",
        }
    }
}

/// Which medium suits a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// The quickest there is, once everything else is settled.
    Fast,
    /// One that is large and slow, so that the quick one is left to others.
    Large,
    /// No matter.
    #[default]
    Any,
}

/// Filesystems we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
    Vfat,
    Swap,
}

impl Filesystem {
    /// Type as `mount` and `fstab` name it.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
            Filesystem::Vfat => "vfat",
            Filesystem::Swap => "swap",
        }
    }
}

/// What a volume wants. Fields that are not given keep the default volume's value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Volume {
    /// Mount point. Not for swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// Filesystem. Default: `ext4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<Filesystem>,
    /// The installation is refused below this size, or an optional volume left out. Default: 1 GiB, or
    /// less where `enough` or `max` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Bytes>,
    /// Every volume gets this much before any gets more. Default: `min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enough: Option<Bytes>,
    /// Never more than this. Default: no limit, but 64 GiB for `root`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Bytes>,
    /// Whether people keep their files here: such a volume is never formatted when it is found again,
    /// and never lies on a failing disk. Default: `false`, but `true` for `home`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<bool>,
    /// Whether the system works without it: it is left out when there is no room. Default: `false`, but `true`
    /// for `home` and `swap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Which of several optional volumes is left out first: the one with the lowest number. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The medium that suits it. Default: `any`, but `fast` for `root` and `swap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// Whether it may be put together from several disks (by LVM) where one disk has too little room for
    /// it. When one of them fails, all of it is lost. Default: `false`, but `true` for `home`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<bool>,
    /// `false` leaves the volume out on every machine: no `/home` of its own, no swap. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<bool>,
}

/// A file to write into the installed system. Parent directories are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Content. `${NAME}` is replaced unless `verbatim` is set.
    #[serde(default)]
    pub content: Option<String>,
    /// Content in base64, for files that are not text. Never replaced in.
    #[serde(default)]
    pub base64: Option<String>,
    /// Permissions, four octal digits. Default: `0644`.
    #[serde(default)]
    pub mode: Option<String>,
    /// `USER:GROUP`, known to the installed system. Default: `root:root`.
    #[serde(default)]
    pub owner: Option<String>,
    /// Write the content as it is. Default: `false`.
    #[serde(default)]
    pub verbatim: bool,
}

/// A script.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "either a command line or a table with `name` and `script`")]
pub enum Script {
    /// A line for `sh -c`.
    Line(String),
    /// A whole script with its `#!` line.
    Named {
        /// Shown in progress, logs and errors.
        name: String,
        /// The text.
        script: String,
    },
}

/// What to do when the installer has finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Shutdown {
    #[default]
    Reboot,
    Poweroff,
}

/// Reads a layer from TOML. `path` names the file in errors.
///
/// # Errors
/// One issue that names file, line and column, and for an unknown key the nearest known one.
pub fn parse_layer(text: &str, path: &str) -> Result<Layer, Issues> {
    parse_toml(text, path)
}

/// Reads any of our TOML documents with the errors of [`parse_layer`].
pub fn parse_toml<T: serde::de::DeserializeOwned>(text: &str, path: &str) -> Result<T, Issues> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map(|span| {
            let before = &text[..span.start.min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("{path}:{line}:{column}")
        });
        let message = error.message().trim().to_owned();
        let next = unknown_key_hint(&message)
            .unwrap_or_else(|| "correct the file; docs/profile-reference.md lists every key".into());
        Issue::new("profile-unreadable", place.unwrap_or_else(|| path.to_owned()), message, next).into()
    })
}

/// The bytes of a base64 text, which may be broken into lines as `base64` prints it.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let joined: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(joined).ok()
}

/// For serde's "unknown field `x`, expected one of `a`, `b`" (and "unknown variant"): the nearest known word.
fn unknown_key_hint(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field ").or_else(|| message.strip_prefix("unknown variant "))?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let near = nearest(unknown, quoted)?;
    Some(format!("did you mean `{near}`?"))
}

/// The candidate with the smallest edit distance to `word`, if any is near enough to be a typing error.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, best) = candidates.into_iter().map(|c| (edit_distance(word, c), c)).min()?;
    (distance <= 2.max(word.chars().count() / 3)).then_some(best)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other: what fingers
/// do wrong.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            best = best.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
