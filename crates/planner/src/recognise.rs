//! What a partition is: by the name or label we gave it, by its type, by what its content looks like.

use std::cmp::Reverse;

use akene_protocol::Bytes;
use akene_protocol::inventory::{Content, Disk, Inventory, LooksLike, Partition, Table, TableKind};
use akene_protocol::profile::Filesystem;
use akene_protocol::resolve::StorageWishes;

use crate::lay::role;
use crate::{BOOT_LABEL, ESP_LABEL, Role, words};

const BIOS_BOOT_TYPE: &str = "21686148-6449-6e6f-744e-656564454649";
const ESP_TYPES: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// Whether it is a boot partition of ours, by name, label or content.
pub(crate) fn is_boot(partition: &Partition) -> bool {
    let content = partition.content.as_ref();
    partition.name == Role::Boot.partition_name()
        || content.is_some_and(|c| {
            c.label.as_deref() == Some(BOOT_LABEL) && filesystem_named(&c.kind) == Some(Filesystem::Ext4)
                || matches!(c.looks_like, Some(LooksLike::AkeneBoot { .. }))
        })
}

/// The disks on which an installation had made its tables, and perhaps filesystems, when it ended: nothing was ever
/// written into these, so that it begins anew as if the disks were blank. There is none without such a boot disk.
pub(crate) fn never_used<'a>(disks: &[&'a Disk], inventory: &Inventory) -> Vec<&'a str> {
    let all: Vec<&Disk> = disks.iter().copied().filter(|d| untouched(d, inventory)).collect();
    match all.iter().any(|d| d.table.iter().flat_map(|t| &t.partitions).any(is_boot)) {
        true => all.iter().map(|d| d.name.as_str()).collect(),
        false => Vec::new(),
    }
}

fn untouched(disk: &Disk, inventory: &Inventory) -> bool {
    let Some(table) = disk.table.as_ref().filter(|t| t.kind == TableKind::Gpt && t.damage.is_none()) else {
        return false;
    };
    // What could not be looked at may hold anything.
    let unknown = inventory.notes.iter().any(|n| {
        n.code.ends_with("not-looked-at")
            && (n.path.is_empty() || n.path.starts_with(&disk.name) || n.path.contains(&disk.path))
    });
    let nothing = |content: Option<&Content>| {
        content.is_none_or(|c| match c.looks_like {
            Some(LooksLike::Empty | LooksLike::Swap) => true,
            // Made, and the installer is not on it yet.
            Some(LooksLike::AkeneBoot { unfinished: true, .. }) => {
                c.used.is_some_and(|used| used < Bytes::mib(16))
            }
            _ => false,
        })
    };
    let empty = |p: &Partition| {
        let esp = p.name.as_deref() == Some(ESP_LABEL);
        let node = words::partition(&disk.name, p.number);
        our_name(p)
            && match &p.content {
                Some(c) if c.kind == "LVM2_member" => inventory
                    .volume_groups
                    .iter()
                    .filter(|g| g.members.contains(&node))
                    .all(|g| g.complete && g.logical.iter().all(|l| nothing(l.content.as_ref()))),
                Some(c) if esp => c.kind == "vfat",
                content => nothing(content.as_ref()),
            }
    };
    !unknown && !table.partitions.is_empty() && table.partitions.iter().all(empty)
}

/// Whether people's files are on a partition of an Akène machine's boot disk.
pub(crate) fn holds_files(partition: &Partition, wishes: &StorageWishes) -> bool {
    looks_like_files(partition) || named_for_files(partition, wishes)
}

/// Whether its content is people's files.
pub(crate) fn looks_like_files(partition: &Partition) -> bool {
    let looks = partition.content.as_ref().and_then(|c| c.looks_like.as_ref());
    matches!(looks, Some(LooksLike::Home | LooksLike::LinuxRoot { home_inside: true, .. }))
}

/// Whether it has a name that we give to a place for people's files.
pub(crate) fn named_for_files(partition: &Partition, wishes: &StorageWishes) -> bool {
    named_pv(partition)
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

/// Whether its content has this UUID.
pub(crate) fn has_uuid(partition: &Partition, uuid: &str) -> bool {
    partition.content.as_ref().is_some_and(|c| c.uuid.as_deref() == Some(uuid))
}

/// Whether the table gives it one of our names.
fn our_name(partition: &Partition) -> bool {
    partition.name.as_deref().is_some_and(|n| n.starts_with("akene-") || n.starts_with("AKENE_"))
}

/// Whether the table gives it the name of one of the two places for a root.
pub(crate) fn root_name(partition: &Partition) -> bool {
    let name = &partition.name;
    name.is_some() && [Role::Root.partition_name(), Role::Spare.partition_name()].contains(name)
}

/// UUID of the root of the system that has proven itself, as a boot partition says.
pub(crate) fn proven(table: &Table) -> Option<&str> {
    table.partitions.iter().find_map(|p| match p.content.as_ref()?.looks_like.as_ref()? {
        LooksLike::AkeneBoot { root, .. } => root.as_deref(),
        _ => None,
    })
}

/// UUID of the root that holds a whole system whatever else broke off on the machine: a boot partition names it, and no
/// installation was begun that makes its system there.
pub fn whole_root(table: &Table) -> Option<&str> {
    let mut looks = table.partitions.iter().filter_map(|p| p.content.as_ref()?.looks_like.as_ref());
    let goes = looks.any(|looks| matches!(looks, LooksLike::AkeneBoot { root_goes: true, .. }));
    proven(table).filter(|_| !goes)
}

/// Whether it has the name of a physical volume of ours.
pub(crate) fn pv_name(partition: &Partition) -> bool {
    partition.name.as_deref().is_some_and(|n| n.starts_with("akene-") && n.ends_with("-pv"))
}

/// The partition with this node (`sda3`), and the index of its disk.
pub(crate) fn partition_at<'a>(disks: &[&'a Disk], node: &str) -> Option<(usize, &'a Partition)> {
    disks.iter().enumerate().find_map(|(g, disk)| {
        let mut partitions = disk.table.iter().flat_map(|t| &t.partitions);
        partitions.find(|p| words::partition(&disk.name, p.number) == node).map(|p| (g, p))
    })
}

/// Whether it is a physical volume of one of our groups.
fn named_pv(partition: &Partition) -> bool {
    pv_name(partition) && partition.content.as_ref().is_some_and(|c| c.kind == "LVM2_member")
}

/// Whether it has the name or label we give to this role.
pub(crate) fn named(partition: &Partition, role: &Role, filesystem: Filesystem) -> bool {
    // Where the table has our names, they count alone: labels can be copied with a filesystem.
    if our_name(partition) {
        return partition.name == role.partition_name();
    }
    let labelled = |c: &Content| c.label.is_some() && c.label == role.label(filesystem);
    partition.content.as_ref().is_some_and(|c| labelled(c) && !contradicts(c, role))
}

/// Whether what lies there is known to be for something else.
fn contradicts(content: &Content, role: &Role) -> bool {
    let home = *role == Role::Volume("home".into());
    match content.looks_like.as_ref() {
        // Made, and nothing in it yet.
        None | Some(LooksLike::Empty) => false,
        Some(LooksLike::LinuxRoot { .. }) => *role != Role::Root,
        Some(LooksLike::AkeneBoot { .. }) => *role != Role::Boot,
        Some(LooksLike::Home) => !home,
        Some(LooksLike::Esp) => *role != Role::Esp,
        Some(LooksLike::Swap) => *role != Role::Swap,
        Some(LooksLike::Windows | LooksLike::OtherSystem { .. } | LooksLike::AkeneMedium) => true,
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
    match find_named(table, role, filesystem, free)? {
        None => find_alike(table, role, free),
        found => Ok(found),
    }
}

/// Finds the one partition with the name or label of a role.
pub(crate) fn find_named<'t>(
    table: &'t Table,
    role: &Role,
    filesystem: Filesystem,
    free: &dyn Fn(&Partition) -> bool,
) -> Result<Option<&'t Partition>, String> {
    one(table, &|p| free(p) && named(p, role, filesystem))
}

/// Finds the one partition whose content looks like a role.
pub(crate) fn find_alike<'t>(
    table: &'t Table,
    role: &Role,
    free: &dyn Fn(&Partition) -> bool,
) -> Result<Option<&'t Partition>, String> {
    let by_type = |types: &[&str]| one(table, &|p| free(p) && types.contains(&p.kind.as_str()));
    let looks = |p: &Partition, wanted: &dyn Fn(&LooksLike) -> bool| {
        free(p) && p.content.as_ref().and_then(|c| c.looks_like.as_ref()).is_some_and(wanted)
    };
    match role {
        Role::Boot => one(table, &|p| free(p) && is_boot(p)),
        Role::BiosBoot => by_type(&[BIOS_BOOT_TYPE]),
        Role::Esp => by_type(&ESP_TYPES),
        Role::Root => one(table, &|p| looks(p, &|l| matches!(l, LooksLike::LinuxRoot { .. }))),
        Role::Swap => one(table, &|p| free(p) && p.content.as_ref().is_some_and(|c| c.kind == "swap")),
        // Of several, as when they were found first: none of them is lost, whichever is taken.
        Role::Volume(name) if name == "home" => {
            let homes = table.partitions.iter().filter(|p| looks(p, &|l| *l == LooksLike::Home));
            Ok(homes.min_by_key(|p| largest(p)))
        }
        Role::Volume(_) | Role::Physical(_) | Role::Old | Role::Spare | Role::Foreign => Ok(None),
    }
}

/// The only partition that fits.
fn one<'t>(table: &'t Table, fits: &dyn Fn(&Partition) -> bool) -> Result<Option<&'t Partition>, String> {
    let mut all = table.partitions.iter().filter(|p| fits(p));
    match (all.next(), all.next()) {
        (Some(a), Some(b)) => Err(format!("partitions {} and {} both look like it", a.number, b.number)),
        (found, _) => Ok(found),
    }
}

/// The order in which places with people's files are taken: the largest first. How full they are changes, and with it
/// the next run would take another one.
pub(crate) fn largest(partition: &Partition) -> Reverse<Bytes> {
    Reverse(partition.size)
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
