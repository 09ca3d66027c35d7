//! What a partition is: by the name or label we gave it, by its type, by what its content looks like.

use akene_protocol::inventory::{LooksLike, Partition, Table};
use akene_protocol::profile::Filesystem;
use akene_protocol::resolve::StorageWishes;

use crate::lay::role;
use crate::{BOOT_LABEL, Role};

const BIOS_BOOT_TYPE: &str = "21686148-6449-6e6f-744e-656564454649";
const ESP_TYPES: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// Whether it is a boot partition of ours, by name, label or content.
pub(crate) fn is_boot(partition: &Partition) -> bool {
    let content = partition.content.as_ref();
    partition.name == Role::Boot.partition_name()
        || content.is_some_and(|c| {
            c.label.as_deref() == Some(BOOT_LABEL)
                || matches!(c.looks_like, Some(LooksLike::AkeneBoot { .. }))
        })
}

/// Whether people's files are on a partition of our own.
pub(crate) fn holds_files(partition: &Partition, wishes: &StorageWishes) -> bool {
    let looks = partition.content.as_ref().and_then(|c| c.looks_like.as_ref());
    looks == Some(&LooksLike::Home)
        || home_inside(partition)
        || named_pv(partition)
        || wishes.volumes.iter().filter(|v| v.user_data).any(|v| named(partition, &role(v), v.filesystem))
        || named(partition, &Role::Volume("home".into()), Filesystem::Ext4)
}

/// Whether people's files lie in an old root, on a filesystem that a system can be installed around them.
pub(crate) fn home_inside(partition: &Partition) -> bool {
    let content = partition.content.as_ref();
    content.is_some_and(|c| {
        matches!(c.looks_like, Some(LooksLike::LinuxRoot { home_inside: true, .. }))
            && matches!(c.kind.as_str(), "ext2" | "ext3" | "ext4" | "xfs")
    })
}

/// Whether it is a physical volume of one of our groups.
fn named_pv(partition: &Partition) -> bool {
    let name = partition.name.as_deref();
    name.is_some_and(|n| n.starts_with("akene-") && n.ends_with("-pv"))
        && partition.content.as_ref().is_some_and(|c| c.kind == "LVM2_member")
}

/// Whether it has the name or label we give to this role.
pub(crate) fn named(partition: &Partition, role: &Role, filesystem: Filesystem) -> bool {
    let label = partition.content.as_ref().and_then(|c| c.label.clone());
    match &partition.name {
        // Where the table has our names, they count alone: labels can be copied with a filesystem.
        Some(name) if name.starts_with("akene-") || name.starts_with("AKENE_") => {
            Some(name) == role.partition_name().as_ref()
        }
        _ => label.is_some() && label == role.label(filesystem),
    }
}

/// Finds the one partition with a role among those that are `free`; by name or label, else by what its content looks
/// like.
pub(crate) fn find<'t>(
    table: &'t Table,
    role: &Role,
    filesystem: Filesystem,
    free: &dyn Fn(&Partition) -> bool,
) -> Result<Option<&'t Partition>, String> {
    let one = |fits: &dyn Fn(&Partition) -> bool| {
        let mut all = table.partitions.iter().filter(|p| free(p) && fits(p));
        match (all.next(), all.next()) {
            (Some(a), Some(b)) => Err(format!("partitions {} and {} both look like it", a.number, b.number)),
            (found, _) => Ok(found),
        }
    };
    if let Some(found) = one(&|p| named(p, role, filesystem))? {
        return Ok(Some(found));
    }
    let by_type = |types: &[&str]| one(&|p| types.contains(&p.kind.as_str()));
    let looks = |wanted: fn(&LooksLike) -> bool| {
        one(&|p| p.content.as_ref().and_then(|c| c.looks_like.as_ref()).is_some_and(wanted))
    };
    match role {
        Role::Boot => one(&is_boot),
        Role::BiosBoot => by_type(&[BIOS_BOOT_TYPE]),
        Role::Esp => by_type(&ESP_TYPES),
        Role::Root => looks(|l| matches!(l, LooksLike::LinuxRoot { .. })),
        Role::Swap => one(&|p| p.content.as_ref().is_some_and(|c| c.kind == "swap")),
        Role::Volume(name) if name == "home" => looks(|l| *l == LooksLike::Home),
        Role::Volume(_) | Role::Physical(_) | Role::Foreign => Ok(None),
    }
}

/// The filesystem found, as `fstab` names it.
pub(crate) fn filesystem_found(partition: &Partition) -> Option<Filesystem> {
    filesystem_named(&partition.content.as_ref()?.kind)
}

/// A filesystem as blkid names it, as `fstab` does.
pub(crate) fn filesystem_named(kind: &str) -> Option<Filesystem> {
    match kind {
        // The ext4 driver serves all three.
        "ext2" | "ext3" | "ext4" => Some(Filesystem::Ext4),
        "xfs" => Some(Filesystem::Xfs),
        "btrfs" => Some(Filesystem::Btrfs),
        "vfat" => Some(Filesystem::Vfat),
        _ => None,
    }
}
