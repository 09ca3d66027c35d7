//! Where a volume lies on a machine that has had a system of ours: by the names we gave, else by what it looks like.

use std::cmp::Reverse;

use akene_protocol::inventory::{Disk, Partition, VolumeGroup};
use akene_protocol::profile::Foreign;
use akene_protocol::resolve::{StorageWishes, VolumeWish};

use super::is_boot_disk;
use super::work::Work;
use crate::homes::{home_of, is_home, is_kept_home, set_aside};
use crate::lay::{group_name, role};
use crate::recognise::{find_alike, find_named, home_inside, largest, named, partition_at, pv_name};
use crate::{Role, words};

/// Where a volume lies: on a partition of a disk, or on a group with its members.
pub(super) enum Found<'a> {
    Partition(usize, &'a Partition),
    Group(&'a VolumeGroup, Vec<(usize, &'a Partition)>),
}

/// The disks beside an Akène machine's boot disk `at` that hold people's files which cannot be kept. Its first
/// installation left them alone, with whatever else lies there: nothing on them is this system's but what has its names.
pub(super) fn left_alone<'a>(
    at: usize,
    disks: &[&'a Disk],
    wishes: &StorageWishes,
    groups: &[VolumeGroup],
) -> Vec<&'a str> {
    let own = |d: &Disk| d.name == disks[at].name;
    let mut used: Vec<&Disk> = disks.iter().copied().filter(|d| own(d) || !is_boot_disk(d)).collect();
    let volumes = &wishes.volumes;
    // An MBR has no names: there a physical volume is this system's by the name of its group.
    let member = |node: &String| {
        let group = groups.iter().find(|g| g.complete && g.members.contains(node));
        group.is_some_and(|g| volumes.iter().any(|v| group_name(v) == g.name))
    };
    let ours = |d: &Disk, p: &Partition| {
        pv_name(p)
            || member(&words::partition(&d.name, p.number))
            || volumes.iter().any(|v| named(p, &role(v), v.filesystem))
    };
    set_aside(&mut used, wishes, groups, &own, &ours);
    let left = disks.iter().filter(|d| !is_boot_disk(d) && !used.iter().any(|u| u.name == d.name));
    left.map(|d| d.name.as_str()).collect()
}

impl<'a> Work<'_, 'a> {
    /// Where a volume lies: what has our name, on the boot disk, on others and among the groups; else what looks like
    /// it. A `/home` that is to be made anew each time never is somebody's because of its look.
    pub(super) fn find(&self, volume: &VolumeWish) -> Result<Option<Found<'a>>, String> {
        let role = role(volume);
        if let Some((g, p)) = self.proven_root().filter(|_| role == Role::Root) {
            return Ok(Some(Found::Partition(g, p)));
        }
        let free = |p: &Partition| self.fixed.iter().all(|(g, q)| *g != self.at || q.number != p.number);
        let boot = self.disks[self.at].table.as_ref();
        let here = |p: &'a Partition| Found::Partition(self.at, p);
        let named_here = boot.map(|t| find_named(t, &role, volume.filesystem, &free)).transpose()?.flatten();
        if let Some(found) = named_here {
            return Ok(Some(here(found)));
        }
        let mut elsewhere = self.others().filter(|(_, p)| named(p, &role, volume.filesystem));
        match (elsewhere.next(), elsewhere.next()) {
            (Some((g, p)), Some((h, q))) => {
                return Err(format!(
                    "{} and {} both look like it",
                    words::partition(&self.disks[g].name, p.number),
                    words::partition(&self.disks[h].name, q.number)
                ));
            }
            (Some((g, p)), None) => {
                // One of them may be another computer's.
                if self.groups_named(&group_name(volume)).next().is_some() {
                    return Err(format!(
                        "{} and the volume group `{}` both look like it",
                        words::partition(&self.disks[g].name, p.number),
                        group_name(volume)
                    ));
                }
                return Ok(Some(Found::Partition(g, p)));
            }
            (None, _) => {}
        }
        if let Some(group) = self.group(&group_name(volume))? {
            return Ok(Some(group));
        }
        if role == Role::Volume("home".into()) && !is_home(volume) {
            return Ok(None);
        }
        // Another system that is left is never taken for this one, which has our names or labels.
        if self.wishes.foreign == Foreign::Leave && matches!(role, Role::Root | Role::Swap) {
            return Ok(None);
        }
        let alike = boot.map(|t| find_alike(t, &role, &free)).transpose()?.flatten().map(here);
        let alike = alike.or_else(|| self.adopted(&role).map(|(g, p)| Found::Partition(g, p)));
        // The same as when they were found first.
        let homes = self.groups_found.iter().filter(|g| g.complete && !self.is_left_alone(g));
        let homes = homes.filter_map(|g| Some((home_of(g)?.size, g)));
        match homes.min_by_key(|(size, _)| Reverse(*size)).map(|(_, group)| group) {
            // One of another system, whose files were kept.
            Some(group) if alike.is_none() && is_home(volume) && self.wishes.keep_homes => {
                self.group(&group.name)
            }
            _ => Ok(alike),
        }
    }

    /// The partitions on disks that are no Akène machine's boot disk.
    pub(super) fn others(&self) -> impl Iterator<Item = (usize, &'a Partition)> {
        let others = self.disks.iter().enumerate().filter(|(g, d)| *g != self.at && !is_boot_disk(d));
        others.flat_map(|(g, d)| d.table.iter().flat_map(|t| &t.partitions).map(move |p| (g, p)))
    }

    /// Whether a part of a group lies on a disk that was left alone.
    fn is_left_alone(&self, group: &VolumeGroup) -> bool {
        let mut parts = group.members.iter().filter_map(|m| partition_at(self.disks, m));
        parts.any(|(g, _)| self.left_alone.contains(&self.disks[g].name.as_str()))
    }

    /// People's files that were found on another disk when this machine was installed, and kept there: they have no
    /// name of ours. A root is only taken for the files in it, never to be formatted.
    fn adopted(&self, role: &Role) -> Option<(usize, &'a Partition)> {
        let fits = |p: &Partition| match role {
            Role::Volume(name) if name == "home" => p.content.as_ref().is_some_and(is_kept_home),
            Role::Root => home_inside(p),
            _ => false,
        };
        let wanted =
            self.wishes.keep_homes && (*role == Role::Root || self.wishes.volumes.iter().any(is_home));
        let taken = |g: usize| !self.left_alone.contains(&self.disks[g].name.as_str());
        self.others().filter(|(g, p)| wanted && taken(*g) && fits(p)).min_by_key(|(_, p)| largest(p))
    }

    /// The groups with this name, but for those of other Akène machines, of which a part lies on their boot disks.
    fn groups_named(&self, name: &str) -> impl Iterator<Item = &'a VolumeGroup> {
        let others = self.disks.iter().enumerate().filter(|(g, d)| *g != self.at && is_boot_disk(d));
        let parts = others.flat_map(|(_, d)| {
            let table = d.table.iter().flat_map(|t| &t.partitions);
            table.map(|p| words::partition(&d.name, p.number))
        });
        let strange: Vec<String> = parts.collect();
        let all = self.groups_found.iter().filter(move |g| g.name == name);
        all.filter(move |g| !g.members.iter().any(|m| strange.contains(m)))
    }

    /// The group with this name.
    fn group(&self, name: &str) -> Result<Option<Found<'a>>, String> {
        let mut all = self.groups_named(name);
        let group = match (all.next(), all.next()) {
            (None, _) => return Ok(None),
            (Some(_), Some(_)) => return Err(format!("there are two volume groups `{name}`")),
            (Some(group), None) => group,
        };
        if !group.complete {
            return Err(format!(
                "its volume group `{name}` misses a disk: put back the one that was taken out"
            ));
        }
        let members = group.members.iter().map(|member| {
            partition_at(self.disks, member).ok_or_else(|| {
                format!("its volume group `{name}` lies on {member} too, which cannot be used")
            })
        });
        Ok(Some(Found::Group(group, members.collect::<Result<_, _>>()?)))
    }

    /// Whether people's files lie in the root, and nowhere else that counts: a root of ours with files in it was
    /// chosen for them once, and whatever else looks like a `/home` was left alone then.
    pub(super) fn root_holds_home(&self) -> bool {
        let Some(wish) = self.wishes.volumes.iter().find(|v| role(v) == Role::Root) else { return false };
        let Ok(Some(Found::Partition(_, root))) = self.find(wish) else { return false };
        if !self.wishes.keep_homes || !home_inside(root) {
            return false;
        }
        let ours = named(root, &Role::Root, wish.filesystem);
        !self.wishes.volumes.iter().filter(|v| is_home(v)).any(|v| match self.find(v) {
            Ok(Some(Found::Partition(_, found))) => !ours || named(found, &role(v), v.filesystem),
            Ok(Some(Found::Group(group, _))) => !ours || group.name == group_name(v),
            Ok(None) => false,
            Err(_) => true,
        })
    }
}
