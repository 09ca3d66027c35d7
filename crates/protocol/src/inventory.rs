//! What a machine is: the facts that probing found.
//!
//! A missing fact is `None`, never a placeholder: known garbage ("To Be Filled By O.E.M.") has been
//! dropped by the probe. An inventory can be saved and replayed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Sha256;
use crate::size::Bytes;

/// The version of [`Inventory`] this crate writes and reads.
pub const VERSION: u32 = 1;

/// Everything known about one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Inventory {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// Version of the agent that probed.
    pub agent: String,
    /// Processor.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Firmware.
    pub firmware: Firmware,
    /// The strings of SMBIOS/DMI, without the known garbage.
    #[serde(default)]
    pub dmi: Dmi,
    /// Disks, in kernel name order. Optical drives and the RAM disks of the live system are not listed.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Volume groups of LVM whose members lie on these disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_groups: Vec<VolumeGroup>,
    /// Network cards, without loopback and virtual interfaces.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Connected displays.
    #[serde(default)]
    pub displays: Vec<Display>,
    /// Batteries.
    #[serde(default)]
    pub batteries: Vec<Battery>,
    /// Things worth telling a person that are no fact of their own: "a RAID controller hides its
    /// disks", with what to do.
    #[serde(default)]
    pub notes: Vec<crate::issue::Issue>,
}

impl Inventory {
    /// A machine of which nothing is known but the kind of its firmware.
    pub fn unknown(firmware: FirmwareKind) -> Self {
        Inventory {
            version: VERSION,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            cpu: Cpu::default(),
            memory: Memory::default(),
            firmware: Firmware { kind: firmware, secure_boot: None, vendor: None, version: None, date: None },
            dmi: Dmi::default(),
            disks: Vec::new(),
            volume_groups: Vec::new(),
            nics: Vec::new(),
            displays: Vec::new(),
            batteries: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Reads the document; refuses a version this program does not know.
    ///
    /// # Errors
    /// See [`crate::versioned::parse`].
    pub fn parse(text: &[u8]) -> Result<Self, crate::issue::Issue> {
        crate::versioned::parse(text, "inventory", VERSION)
    }
}

/// The processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cpu {
    /// Marketing name, white space folded.
    pub model: Option<String>,
    /// `GenuineIntel`, `AuthenticAMD`…
    pub vendor: Option<String>,
    /// Architecture as the kernel names it: `x86_64`.
    pub arch: String,
    /// Physical cores.
    pub cores: Option<u32>,
    /// Logical processors.
    pub threads: Option<u32>,
    /// x86-64 microarchitecture level, 1 to 4.
    pub level: Option<u8>,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Memory {
    /// What the kernel can use.
    pub total: Bytes,
}

/// How the firmware starts systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FirmwareKind {
    /// PC BIOS, or UEFI in its compatibility mode.
    Bios,
    /// 64-bit UEFI.
    Uefi64,
    /// 32-bit UEFI (Bay Trail tablets, early Macs), whatever the processor is.
    Uefi32,
}

/// The firmware.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Firmware {
    /// Which kind it is.
    pub kind: FirmwareKind,
    /// Whether Secure Boot is enforced. `None`: the firmware has no such thing or does not say.
    pub secure_boot: Option<bool>,
    /// Vendor of the firmware.
    pub vendor: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Its date as written in DMI.
    pub date: Option<String>,
}

/// DMI strings. Every field is evidence for who the machine is, none is a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[allow(missing_docs)] // the names are those of /sys/class/dmi/id
pub struct Dmi {
    pub system_vendor: Option<String>,
    pub product_name: Option<String>,
    pub product_version: Option<String>,
    pub product_sku: Option<String>,
    pub product_family: Option<String>,
    pub product_serial: Option<String>,
    pub product_uuid: Option<String>,
    pub board_vendor: Option<String>,
    pub board_name: Option<String>,
    pub board_serial: Option<String>,
    pub chassis_type: Option<String>,
    pub chassis_serial: Option<String>,
    pub chassis_asset_tag: Option<String>,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Bus {
    Sata,
    Ide,
    Scsi,
    Sas,
    Usb,
    Firewire,
    Nvme,
    /// Soldered eMMC.
    Emmc,
    /// An SD card.
    Sd,
    Virtio,
    /// A disk image on this machine.
    Loop,
    Unknown,
}

/// What is known of a disk's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Health {
    Good,
    #[default]
    Unknown,
    Worn,
    Failing,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Disk {
    /// Kernel name in this boot: `sda`. Never an identity.
    pub name: String,
    /// Device node in this boot: `/dev/sda`.
    pub path: String,
    /// The most stable `/dev/disk/by-id/…` link, if udev made one.
    pub by_id: Option<String>,
    /// Size.
    pub size: Bytes,
    /// Logical sector size in bytes: 512 or 4096.
    pub logical_sector: u32,
    /// Physical sector size in bytes.
    pub physical_sector: u32,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name.
    pub wwn: Option<String>,
    /// How it is attached.
    pub bus: Bus,
    /// Whether it has spinning platters. USB bridges lie about it.
    pub rotational: Option<bool>,
    /// Whether its medium or the disk itself is meant to be taken out: SD cards, USB sticks and
    /// USB disks.
    pub removable: bool,
    /// Whether it refuses writing.
    pub read_only: bool,
    /// Whether the running live system was started from it.
    pub live_medium: bool,
    /// What is known of its state.
    #[serde(default)]
    pub health: Health,
    /// Its partition table. `None`: there is none.
    pub table: Option<Table>,
    /// What lies on the disk as a whole when it has no table.
    pub content: Option<Content>,
}

impl Disk {
    /// Whether nothing at all was recognised on it: no table, no filesystem, no signature.
    pub fn is_blank(&self) -> bool {
        self.content.is_none()
            && self.table.as_ref().is_none_or(|t| t.partitions.is_empty() && t.damage.is_none())
    }
}

/// Kind of partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum TableKind {
    Gpt,
    Mbr,
}

/// A partition table as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Table {
    /// GPT or MBR.
    pub kind: TableKind,
    /// Disk GUID (lower case, hyphens) or MBR signature (8 hexadecimal digits).
    pub id: Option<String>,
    /// SHA-256 over every sector that holds the table. The disk is refused at commit when it changed.
    pub hash: Sha256,
    /// What is wrong with it: "the backup header is damaged".
    pub damage: Option<String>,
    /// Partitions, by number. Extended containers of an MBR are not listed.
    pub partitions: Vec<Partition>,
}

/// A partition as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Partition {
    /// Number in the table, from 1. MBR logical partitions start at 5.
    pub number: u32,
    /// First byte.
    pub start: Bytes,
    /// Length.
    pub size: Bytes,
    /// GPT type GUID (lower case) or MBR type as `0x83`.
    pub kind: String,
    /// GPT partition name.
    pub name: Option<String>,
    /// GPT unique GUID (lower case).
    pub uuid: Option<String>,
    /// What lies on it. `None`: nothing was recognised.
    pub content: Option<Content>,
}

/// A volume group of LVM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Its UUID, as LVM writes it.
    pub uuid: String,
    /// Kernel names of the partitions or disks it lies on: `sda3`.
    pub members: Vec<String>,
    /// Whether all its members were found.
    pub complete: bool,
    /// Its logical volumes.
    pub logical: Vec<LogicalVolume>,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LogicalVolume {
    /// Its name.
    pub name: String,
    /// Size.
    pub size: Bytes,
    /// What lies on it. `None`: nothing was recognised, or the group is not complete.
    pub content: Option<Content>,
}

/// What lies on a disk or partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Content {
    /// Type as blkid names it: `ext4`, `ntfs`, `swap`, `LVM2_member`, `crypto_LUKS`…
    pub kind: String,
    /// Label.
    pub label: Option<String>,
    /// UUID.
    pub uuid: Option<String>,
    /// Bytes in use, where a read-only look could tell.
    pub used: Option<Bytes>,
    /// What it looks like.
    pub looks_like: Option<LooksLike>,
}

/// What the content of a partition looks like, from its label and a read-only look at its top directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "what", deny_unknown_fields)]
pub enum LooksLike {
    /// The boot partition of an Akène machine.
    AkeneBoot {
        /// Whether the last installation was begun and never completed: what it made new holds nothing yet.
        #[serde(default)]
        unfinished: bool,
        /// UUID of the root of the system that has proven itself, or is to stay for now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        root: Option<String>,
        /// Whether the installation that was begun makes its system on that root: there is none to go back to.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        root_goes: bool,
    },
    /// Home directories of people.
    Home,
    /// The root of a Linux system.
    LinuxRoot {
        /// `PRETTY_NAME` of its os-release.
        name: Option<String>,
        /// Whether home directories with content lie in it.
        home_inside: bool,
        /// Bytes used below its `/home`, where a read-only look could tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        home_used: Option<Bytes>,
    },
    /// A Windows system.
    Windows,
    /// Another system: macOS, a BSD.
    OtherSystem {
        /// What people call it.
        name: String,
    },
    /// An EFI system partition.
    Esp,
    /// Swap space.
    Swap,
    /// A medium of this installer.
    AkeneMedium,
    /// A filesystem with nothing in it.
    Empty,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Nic {
    /// Kernel name in this boot.
    pub name: String,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Burnt-in address, lower case with colons; the current one where the card does not say.
    pub mac: Option<String>,
    /// `pci`, `usb`, `virtio`… A card on USB never identifies a machine.
    pub bus: Option<String>,
    /// PCI or USB vendor and device, `10ec:8168`.
    pub device: Option<String>,
    /// Whether it is a radio.
    pub wireless: bool,
    /// Whether a cable with a live other end is plugged in. `None`: the card was down.
    pub link: Option<bool>,
    /// Link speed in Mbit/s.
    pub speed: Option<u32>,
}

/// A connected display.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Display {
    /// Connector: `VGA-1`, `LVDS-1`.
    pub connector: String,
    /// Three-letter manufacturer from the EDID.
    pub manufacturer: Option<String>,
    /// Model name from the EDID.
    pub model: Option<String>,
    /// Serial from the EDID.
    pub serial: Option<String>,
    /// Preferred mode, `1366x768`.
    pub preferred: Option<String>,
}

/// A battery.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Battery {
    /// Kernel name: `BAT0`.
    pub name: String,
    /// Full charge now, as per cent of the design.
    pub health_percent: Option<u32>,
    /// Charge now, per cent.
    pub charge_percent: Option<u32>,
    /// Charge cycles.
    pub cycles: Option<u32>,
    /// Serial.
    pub serial: Option<String>,
}
