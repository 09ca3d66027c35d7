//! How disks and what lies on them are called in front of people.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Content, LooksLike, Partition};

/// Name of a partition's node: `sda2`, `nvme0n1p2`.
pub fn partition(disk: &str, number: u32) -> String {
    match disk.ends_with(|c: char| c.is_ascii_digit()) {
        true => format!("{disk}p{number}"),
        false => format!("{disk}{number}"),
    }
}

/// What a partition holds. Some that hold no filesystem are known by their type.
pub fn partition_content(partition: &Partition) -> String {
    let known = match partition.kind.as_str() {
        "e3c9e316-0b5c-4db8-817d-f92df00215ae" => "Microsoft's reserved partition",
        "21686148-6449-6e6f-744e-656564454649" => "BIOS boot partition",
        _ => return content(partition.content.as_ref(), partition.size),
    };
    match &partition.content {
        None => format!("{known} ({})", partition.size),
        some => content(some.as_ref(), partition.size),
    }
}

/// What lies there, as a person calls it: `Windows (ntfs "OS", 40 GiB)`.
pub fn content(content: Option<&Content>, size: Bytes) -> String {
    let Some(content) = content else {
        return format!("something that was not recognised ({size})");
    };
    let name = match &content.looks_like {
        Some(LooksLike::AkeneBoot { .. }) => "boot partition of an Akène machine".to_owned(),
        Some(LooksLike::Home) => "people's files".to_owned(),
        Some(LooksLike::LinuxRoot { name, home_inside, .. }) => {
            let system = name.as_deref().unwrap_or("a Linux system");
            match home_inside {
                true => format!("{system} with people's files in it"),
                false => system.to_owned(),
            }
        }
        Some(LooksLike::Windows) => "Windows".to_owned(),
        Some(LooksLike::OtherSystem { name }) => name.clone(),
        Some(LooksLike::Esp) => "EFI system partition".to_owned(),
        Some(LooksLike::Swap) => "swap space".to_owned(),
        Some(LooksLike::AkeneMedium) => "a medium of this installer".to_owned(),
        Some(LooksLike::Empty) => "an empty filesystem".to_owned(),
        None => match content.kind.as_str() {
            "swap" => "swap space",
            "LVM2_member" => "a physical volume of LVM",
            "linux_raid_member" => "a member of a RAID",
            "isw_raid_member"
            | "ddf_raid_member"
            | "nvidia_raid_member"
            | "promise_fasttrack_raid_member" => "a member of a firmware RAID",
            "crypto_LUKS" => "an encrypted volume",
            "BitLocker" => "an encrypted Windows volume",
            "zfs_member" => "a member of a ZFS pool",
            "bcache" => "a bcache device",
            _ => "a filesystem",
        }
        .to_owned(),
    };
    let label = content.label.as_ref().map(|l| format!(" \"{l}\"")).unwrap_or_default();
    let used = content.used.map(|u| format!(", {u} used")).unwrap_or_default();
    format!("{name} ({}{label}, {size}{used})", content.kind)
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
