//! The plan document.

use akene_protocol::Bytes;
use akene_protocol::api::Consent;
use akene_protocol::ids::Sha256;
use akene_protocol::inventory::TableKind;
use akene_protocol::profile::Filesystem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of [`Plan`] this crate writes and reads.
pub const VERSION: u32 = 2;

/// Label of the boot partition of the disk contract.
pub const BOOT_LABEL: &str = "AKENE_BOOT";

/// Label of the EFI system partition.
pub const ESP_LABEL: &str = "AKENE_ESP";

/// What will be done to the disks of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plan {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// Disks the plan touches or mounts something from, the boot disk first.
    pub disks: Vec<DiskPlan>,
    /// Volume groups that lie on the plan's partitions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupPlan>,
    /// How far down the profile's ladder of fall-backs the plan had to go: `full` is nothing given up.
    pub rung: String,
    /// What is lost when the plan is carried out: every filesystem, table or signature found on what will
    /// be formatted, deleted or overwritten. Empty on blank disks.
    pub destroys: Vec<Destroyed>,
    /// The least consent that allows the plan.
    pub needs: Consent,
    /// Remarks for people: an optional volume left out, a disk not used and why.
    pub notes: Vec<String>,
}

/// A volume group of LVM with one linear logical volume, named as what it is for (`home`). Extents have 4 MiB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GroupPlan {
    /// Name of the group: `akene-home`.
    pub name: String,
    /// What its volume is for.
    pub purpose: Role,
    /// What happens to it: [`Action::Keep`], [`Action::Create`] or [`Action::Format`].
    pub action: Action,
    /// Size of the logical volume.
    pub size: Bytes,
    /// Filesystem it has afterwards.
    pub filesystem: Option<Filesystem>,
    /// Filesystem label afterwards.
    pub label: Option<String>,
    /// Mount point in the installed system.
    pub mount: Option<String>,
    /// Its physical volumes, in the order in which they are filled.
    pub members: Vec<Member>,
    /// Why it is here, with the risk it carries.
    pub why: String,
}

impl GroupPlan {
    /// Name of the logical volume: `home`.
    pub fn volume(&self) -> &str {
        match &self.purpose {
            Role::Volume(name) => name,
            Role::Swap => "swap",
            _ => "root",
        }
    }
}

/// A physical volume: a partition whose purpose is [`Role::Physical`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Member {
    /// Kernel name of the disk when probed.
    pub disk: String,
    /// Number of the partition on it.
    pub partition: u32,
}

/// One thing that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Destroyed {
    /// Disk (kernel name in this boot) and partition number, `sda2`; the disk alone for a whole-disk content.
    pub name: String,
    /// What a person calls it: `Windows (ntfs "OS", 40 GiB)`.
    pub what: String,
}

/// How a disk is found again at commit. The kernel name is only where to look first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskRef {
    /// Kernel name when probed.
    pub name: String,
    /// Device node when probed.
    pub path: String,
    /// Stable link, if udev made one.
    pub by_id: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name.
    pub wwn: Option<String>,
    /// Size.
    pub size: Bytes,
    /// Hash of the table found, if there was one.
    pub table_hash: Option<Sha256>,
}

/// One disk of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiskPlan {
    /// Which disk.
    pub disk: DiskRef,
    /// Logical sector size in bytes.
    pub logical_sector: u32,
    /// Kind of table it has afterwards.
    pub table: TableKind,
    /// Whether a new table replaces what is there. Then every partition to make is listed with `create`,
    /// and those that vanish with the old table with `delete`. Otherwise the present table stays.
    pub new_table: bool,
    /// Partitions afterwards, by position, and before them those that are deleted.
    pub partitions: Vec<PartitionPlan>,
}

/// What happens to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Left alone, byte for byte; mounted where it has a mount point.
    Keep,
    /// Made anew and formatted.
    Create,
    /// Stays where it is and is formatted.
    Format,
    /// Taken out of the table.
    Delete,
    /// Only of the root, when people's files lie in its `/home`: neither formatted nor moved. When everything the
    /// installation needs is there, all of it except `/home` and `lost+found` is removed.
    Refresh,
}

/// What a partition is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "role", content = "name")]
pub enum Role {
    /// GRUB's core image on GPT disks started by a BIOS.
    BiosBoot,
    /// EFI system partition.
    Esp,
    /// `AKENE_BOOT`, mounted at `/boot`.
    Boot,
    /// `/`.
    Root,
    /// The root of the system so far, beside the new one: it stays until that has confirmed itself, and comes back if it
    /// does not. Nobody looks into it.
    Old,
    /// A place for another root, of which nobody needs anything.
    Spare,
    /// Swap.
    Swap,
    /// Another volume of the profile, by its name there: `home`.
    Volume(String),
    /// A physical volume of the group with this name: `akene-home`.
    Physical(String),
    /// Not ours.
    Foreign,
}

impl Role {
    /// Name of the partition in a GPT, by which a later run recognises it: `akene-home`.
    pub fn partition_name(&self) -> Option<String> {
        Some(match self {
            Role::BiosBoot => "AKENE_BIOS".into(),
            Role::Esp => ESP_LABEL.into(),
            Role::Boot => BOOT_LABEL.into(),
            Role::Root => "akene-root".into(),
            Role::Spare => "akene-spare".into(),
            Role::Swap => "akene-swap".into(),
            // 36 UTF-16 units are all a GPT entry holds.
            Role::Volume(name) => format!("akene-{name}").chars().take(36).collect(),
            Role::Physical(group) => format!("{group}-pv").chars().take(36).collect(),
            // It has the name of its place.
            Role::Old | Role::Foreign => return None,
        })
    }

    /// Label of its filesystem, cut to what the filesystem can hold.
    pub fn label(&self, filesystem: Filesystem) -> Option<String> {
        let longest = match filesystem {
            Filesystem::Vfat => 11,
            Filesystem::Xfs => 12,
            Filesystem::Swap => 15,
            Filesystem::Ext4 | Filesystem::Btrfs => 16,
        };
        let label = match self {
            Role::Boot => BOOT_LABEL.into(),
            Role::Esp => ESP_LABEL.into(),
            Role::BiosBoot | Role::Foreign | Role::Physical(_) | Role::Old | Role::Spare => return None,
            _ => self.partition_name()?,
        };
        let label: String = label.chars().take(longest).collect();
        // mkfs.vfat warns about lower case, and Windows shows such a label mangled.
        Some(if filesystem == Filesystem::Vfat { label.to_uppercase() } else { label })
    }
}

/// One partition of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PartitionPlan {
    /// Number in the table. Logical partitions of an MBR count from 5; the extended partition that holds
    /// them is not listed: it begins 1 MiB before the first of them and ends with the last, and each has
    /// 1 MiB of its own before it for its boot record.
    pub number: u32,
    /// First byte.
    pub start: Bytes,
    /// Length.
    pub size: Bytes,
    /// What it is for.
    pub purpose: Role,
    /// Name in a GPT when it is made, where that is not the one of its purpose: that of the other place for a root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happens to it.
    pub action: Action,
    /// Filesystem it has afterwards. `None` for a BIOS boot partition and for what is not ours.
    pub filesystem: Option<Filesystem>,
    /// Filesystem label afterwards: at most 16 bytes for ext4, 11 for vfat.
    pub label: Option<String>,
    /// Mount point in the installed system.
    pub mount: Option<String>,
    /// Why it is here and this large, for a person.
    pub why: String,
}

impl PartitionPlan {
    /// Name in a GPT when it is made.
    pub fn table_name(&self) -> Option<String> {
        self.name.clone().or_else(|| self.purpose.partition_name())
    }
}
