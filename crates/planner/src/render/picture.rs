//! What is drawn: each disk before and after as a row of parts, and each LVM group once with its members.
//! [`super::bars`] and [`super::svg`] draw the same picture.

use akene_protocol::Bytes;
use akene_protocol::inventory::{
    Content, Disk, Health, Inventory, LooksLike, Partition, TableKind, VolumeGroup,
};

use super::clean;
use crate::{Action, DiskPlan, GroupPlan, PartitionPlan, Plan, Role, words};

/// What a part is for; each has a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Boot,
    System,
    Files,
    Swap,
    Foreign,
    Free,
}

/// A stretch of a disk.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub start: Bytes,
    pub size: Bytes,
    /// Its number, or the disk it lies on: what the table and the list call it by.
    pub short: String,
    /// The name that is written into it where there is room.
    pub label: String,
    /// All that is to be said of it. Empty for free room.
    pub detail: String,
    pub paint: Paint,
    /// Whether it is lost for good.
    pub lost: bool,
}

/// A disk or a group, before and after.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    pub title: String,
    /// What happens to it as a whole.
    pub fate: String,
    pub before: Vec<Part>,
    /// `None`: it is not touched.
    pub after: Option<Vec<Part>>,
}

/// The disk's name, model and size.
pub(super) fn title(disk: &Disk) -> String {
    let model = disk.model.as_deref().map(|m| format!("{m}, ")).unwrap_or_default();
    clean(&format!("{} ({model}{})", disk.name, disk.size))
}

/// What happens to a disk as a whole.
pub(super) fn fate(plan: &DiskPlan) -> String {
    match (plan.new_table, plan.table) {
        (true, TableKind::Gpt) => "gets a new GPT table".into(),
        (true, TableKind::Mbr) => "gets a new MBR table".into(),
        (false, _) => "keeps its table".into(),
    }
}

/// Every disk of the plan, the boot disk first, then every other disk of the machine: those stay as they are.
pub(super) fn disks(inventory: &Inventory, plan: Option<&Plan>) -> Vec<Strip> {
    let planned = plan.into_iter().flat_map(|plan| plan.disks.iter().map(move |done| (plan, done)));
    let mut strips: Vec<Strip> = planned.map(|(plan, done)| strip(plan, done, inventory)).collect();
    let touched = |name: &str| plan.is_some_and(|p| p.disks.iter().any(|d| d.disk.name == name));
    for disk in inventory.disks.iter().filter(|d| d.size > Bytes(0) && !touched(&d.name)) {
        let fate = match (disk.live_medium, disk.health) {
            (true, _) => "the medium of the installer",
            (_, Health::Failing) => "is failing; stays as it is",
            _ => "stays as it is",
        };
        strips.push(Strip { title: title(disk), fate: fate.into(), before: before(disk, plan), after: None });
    }
    strips
}

/// One disk of a plan.
pub(super) fn strip(plan: &Plan, done: &DiskPlan, inventory: &Inventory) -> Strip {
    let found = inventory.disks.iter().find(|d| d.name == done.disk.name);
    Strip {
        title: found.map_or_else(|| clean(&format!("{} ({})", done.disk.name, done.disk.size)), title),
        fate: fate(done),
        before: found.map_or_else(Vec::new, |disk| before(disk, Some(plan))),
        after: Some(after(done, found)),
    }
}

/// Every LVM group there will be or is, once, with its members.
pub(super) fn groups(inventory: &Inventory, plan: Option<&Plan>) -> Vec<Strip> {
    let mut strips: Vec<Strip> = plan.into_iter().flat_map(|plan| planned_groups(plan, inventory)).collect();
    let planned = |name: &str| plan.is_some_and(|p| p.groups.iter().any(|g| g.name == name));
    for group in inventory.volume_groups.iter().filter(|g| !planned(&g.name)) {
        let before = logical(group, plan);
        let gone = !before.is_empty() && before.iter().all(|p| p.lost);
        let incomplete = if group.complete { "" } else { ", a part of it is missing" };
        strips.push(Strip {
            title: clean(&format!(
                "{} (LVM group on {}{incomplete})",
                group.name,
                words::list(&group.members)
            )),
            fate: if gone { "is taken apart" } else { "stays as it is" }.into(),
            before,
            after: None,
        });
    }
    strips
}

/// The groups of a plan, in its order.
fn planned_groups(plan: &Plan, inventory: &Inventory) -> Vec<Strip> {
    plan.groups.iter().map(|group| planned_group(plan, group, inventory)).collect()
}

pub(super) fn planned_group(plan: &Plan, group: &GroupPlan, inventory: &Inventory) -> Strip {
    let label = group.mount.clone().unwrap_or_else(|| group.volume().to_owned());
    let paint = paint_for(&group.purpose);
    let mut at = Bytes(0);
    let members = group.members.iter().map(|member| {
        let node = words::partition(&member.disk, member.partition);
        let disk = plan.disks.iter().find(|d| d.disk.name == member.disk);
        let size = disk
            .and_then(|d| {
                d.partitions.iter().find(|p| p.number == member.partition && p.action != Action::Delete)
            })
            .map_or(Bytes(0), |p| p.size);
        let start = at;
        at = Bytes(at.0.saturating_add(size.0));
        Part {
            start,
            size,
            short: clean(&node),
            label: clean(&format!("{node} {size}")),
            detail: clean(&format!("{node}: {size} of {label}")),
            paint,
            lost: false,
        }
    });
    let after = members.collect();
    let filesystem = group.filesystem.map(|f| format!("{}, ", f.name())).unwrap_or_default();
    let over = match group.members.len() {
        1 => "1 partition".to_owned(),
        n => format!("{n} partitions"),
    };
    let present = inventory.volume_groups.iter().find(|g| g.name == group.name);
    Strip {
        title: clean(&format!("{label} ({filesystem}{}) over {over}, LVM group {}", group.size, group.name)),
        fate: clean(&format!("{}: {}", super::done(group.action), group.why)),
        before: present.map_or_else(Vec::new, |g| logical(g, Some(plan))),
        after: Some(after),
    }
}

/// The logical volumes of a group that is there, one after the other.
fn logical(group: &VolumeGroup, plan: Option<&Plan>) -> Vec<Part> {
    let lost = |name: &str| plan.is_some_and(|p| p.destroys.iter().any(|d| d.name == name));
    let gone = group.members.iter().any(|member| lost(member));
    let mut at = Bytes(0);
    let parts = group.logical.iter().map(|volume| {
        let name = format!("{}/{}", group.name, volume.name);
        let start = at;
        at = Bytes(at.0.saturating_add(volume.size.0));
        Part {
            start,
            size: volume.size,
            short: clean(&volume.name),
            label: volume.content.as_ref().map_or_else(|| clean(&volume.name), name_of),
            detail: clean(&format!("{name}: {}", words::content(volume.content.as_ref(), volume.size))),
            paint: volume.content.as_ref().map_or(Paint::Foreign, paint_of),
            lost: gone || lost(&name),
        }
    });
    parts.collect()
}

/// What lies on a disk now.
fn before(disk: &Disk, plan: Option<&Plan>) -> Vec<Part> {
    let lost = |name: &str| plan.is_some_and(|p| p.destroys.iter().any(|d| d.name == name));
    let whole = disk.content.iter().map(|content| Part {
        start: Bytes(0),
        size: disk.size,
        short: clean(&disk.name),
        label: name_of(content),
        detail: clean(&format!("{}: {}", disk.name, words::content(Some(content), disk.size))),
        paint: paint_of(content),
        lost: lost(&disk.name),
    });
    let parts = disk.table.iter().flat_map(|t| &t.partitions).map(|p| {
        let node = words::partition(&disk.name, p.number);
        let (label, paint) = found(p);
        Part {
            start: p.start,
            size: p.size,
            short: p.number.to_string(),
            label,
            detail: clean(&format!("{node}: {}", words::partition_content(p))),
            paint,
            lost: lost(&node),
        }
    });
    with_free(whole.chain(parts).collect(), disk.size)
}

/// Name and colour of a partition that is there.
fn found(partition: &Partition) -> (String, Paint) {
    match (&partition.content, partition.kind.as_str()) {
        (Some(content), _) => (name_of(content), paint_of(content)),
        (None, "21686148-6449-6e6f-744e-656564454649") => ("BIOS".into(), Paint::Boot),
        (None, "e3c9e316-0b5c-4db8-817d-f92df00215ae") => ("reserved".into(), Paint::Foreign),
        (None, _) => ("?".into(), Paint::Foreign),
    }
}

fn paint_of(content: &Content) -> Paint {
    match &content.looks_like {
        Some(LooksLike::AkeneBoot { .. } | LooksLike::Esp) => Paint::Boot,
        Some(LooksLike::Home) => Paint::Files,
        Some(LooksLike::LinuxRoot { .. }) => Paint::System,
        Some(LooksLike::Swap) => Paint::Swap,
        _ if content.kind == "swap" => Paint::Swap,
        _ => Paint::Foreign,
    }
}

fn name_of(content: &Content) -> String {
    let known = match &content.looks_like {
        Some(LooksLike::AkeneBoot { .. }) => "/boot",
        Some(LooksLike::Esp) => "EFI",
        Some(LooksLike::Home) => "files",
        Some(LooksLike::Windows) => "Windows",
        Some(LooksLike::OtherSystem { name }) => return clean(name),
        Some(LooksLike::LinuxRoot { home_inside: true, .. }) => "Linux+files",
        Some(LooksLike::LinuxRoot { .. }) => "Linux",
        Some(LooksLike::Swap) => "swap",
        Some(LooksLike::AkeneMedium) => "installer",
        Some(LooksLike::Empty) => "empty",
        None => match content.kind.as_str() {
            "LVM2_member" => "LVM",
            "crypto_LUKS" | "BitLocker" => "encrypted",
            "zfs_member" => "ZFS",
            kind if kind.ends_with("_raid_member") => "RAID",
            kind => return clean(content.label.as_deref().unwrap_or(kind)),
        },
    };
    known.into()
}

/// What lies on a disk when the plan has been carried out.
fn after(done: &DiskPlan, disk: Option<&Disk>) -> Vec<Part> {
    let parts = done.partitions.iter().filter(|p| p.action != Action::Delete).map(|p| {
        let present = disk
            .and_then(|d| d.table.as_ref())
            .and_then(|t| t.partitions.iter().find(|f| f.number == p.number && f.start == p.start));
        let (label, paint) = match (&p.purpose, present) {
            (Role::Foreign, Some(present)) => found(present),
            (Role::Foreign, None) => ("?".into(), Paint::Foreign),
            (role, _) => (wished(p, role), paint_for(role)),
        };
        let node = words::partition(&done.disk.name, p.number);
        let filesystem = p.filesystem.map(|f| format!("{}, ", f.name())).unwrap_or_default();
        let detail = format!("{node}: {label} ({filesystem}{}), {}", p.size, super::done(p.action));
        Part {
            start: p.start,
            size: p.size,
            short: p.number.to_string(),
            label: clean(&label),
            detail: clean(&detail),
            paint,
            lost: false,
        }
    });
    with_free(parts.collect(), done.disk.size)
}

/// What a partition is called in a bar: as short as it stays clear.
fn wished(partition: &PartitionPlan, role: &Role) -> String {
    match role {
        Role::BiosBoot => "BIOS".into(),
        Role::Esp => "EFI".into(),
        // The group itself is shown once, by what it is for.
        Role::Physical(group) => format!("{} (LVM)", group.strip_prefix("akene-").unwrap_or(group)),
        _ => super::name(partition),
    }
}

fn paint_for(role: &Role) -> Paint {
    match role {
        Role::BiosBoot | Role::Esp | Role::Boot => Paint::Boot,
        Role::Root | Role::Old | Role::Spare => Paint::System,
        Role::Swap => Paint::Swap,
        Role::Volume(_) | Role::Physical(_) => Paint::Files,
        Role::Foreign => Paint::Foreign,
    }
}

/// Puts parts in order and adds the free room between them where it is at least a hundredth of the whole.
fn with_free(mut parts: Vec<Part>, whole: Bytes) -> Vec<Part> {
    parts.sort_by_key(|p| (p.start, p.size));
    let mut filled = Vec::new();
    let mut at = Bytes(0);
    for part in parts {
        filled.extend(free(at, part.start, whole));
        at = at.max(Bytes(part.start.0.saturating_add(part.size.0)));
        filled.push(part);
    }
    filled.extend(free(at, whole, whole));
    filled
}

fn free(from: Bytes, to: Bytes, whole: Bytes) -> Option<Part> {
    let size = to.saturating_sub(from);
    (size.0 > whole.0 / 100).then(|| Part {
        start: from,
        size,
        short: String::new(),
        label: "free".into(),
        detail: String::new(),
        paint: Paint::Free,
        lost: false,
    })
}

/// Shares `room` columns among parts by size, but to none less than it needs. Exact: the widths add up to
/// `room`, unless the needs alone are more.
pub(super) fn widths(sizes: &[u64], needs: &[u64], room: u64) -> Vec<u64> {
    let mut widths = needs.to_vec();
    let mut open: Vec<usize> = (0..sizes.len()).collect();
    // Who needs more than its share gets what it needs; that leaves less for the others, so ask again.
    let (share, left) = loop {
        let fixed: u64 = (0..sizes.len()).filter(|i| !open.contains(i)).map(|i| needs[i]).sum();
        let left = room.saturating_sub(fixed);
        // What has no size at all counts as a little.
        let size = |i: usize| u128::from(sizes[i].max(1));
        let total: u128 = open.iter().map(|i| size(*i)).sum::<u128>().max(1);
        let share = |i: usize| (size(i) * u128::from(left) / total) as u64;
        let before = open.len();
        let still: Vec<usize> = open.iter().copied().filter(|i| share(*i) >= needs[*i]).collect();
        if still.len() == before {
            break (open.iter().map(|i| share(*i)).collect::<Vec<_>>(), left);
        }
        open = still;
    };
    for (i, share) in open.iter().zip(&share) {
        widths[*i] = *share;
    }
    // What rounding left goes to the largest.
    if let Some(largest) = open.iter().max_by_key(|i| sizes[**i]) {
        widths[*largest] += left - share.iter().sum::<u64>();
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_proportional_but_nobody_vanishes() {
        assert_eq!(widths(&[1, 1], &[1, 1], 10), [5, 5]);
        assert_eq!(widths(&[1, 1_000_000], &[3, 3], 70), [3, 67]);
        assert_eq!(widths(&[1, 2, 997], &[4, 4, 4], 40), [4, 4, 32]);
        assert_eq!(widths(&[5, 5], &[8, 8], 10), [8, 8], "needs are never cut");
        assert_eq!(widths(&[], &[], 10), Vec::<u64>::new());
        assert_eq!(widths(&[0, 0], &[2, 2], 10).iter().sum::<u64>(), 10);
    }
}
