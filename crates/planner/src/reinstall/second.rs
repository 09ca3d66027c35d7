//! Two places for a root on one machine: the new system is made in one, the system so far stays in the other until the
//! new one has confirmed itself.
//!
//! The places are known by their names in a GPT. Which of them holds the system that is to stay is decided in one place:
//! the boot partition names the root of the system that has proven itself, and where it names none, that is the one with the
//! usual name.

use akene_protocol::Bytes;
use akene_protocol::inventory::{LooksLike, Partition, TableKind};
use akene_protocol::resolve::VolumeWish;

use super::find::Found;
use super::work::{Before, Work};
use super::{fitting, kept};
use crate::homes::in_root;
use crate::recognise::{filesystem_found, has_uuid, home_inside, proven, root_name, whole_root};
use crate::{Action, Destroyed, PartitionPlan, Role, words};

/// Whether a root of this size is no step back: it is enough, or as much as the old one has.
pub(crate) fn serves(size: Bytes, old: Bytes, root: &VolumeWish) -> bool {
    size >= root.min && size >= root.enough.min(old)
}

impl<'a> Work<'_, 'a> {
    /// The places for a root.
    fn roots(&self) -> impl Iterator<Item = (usize, &'a Partition)> {
        let here = self.disks[self.at].table.iter().flat_map(|t| &t.partitions).map(|p| (self.at, p));
        let gpt = |g: usize| self.disks[g].table.as_ref().is_some_and(|t| t.kind == TableKind::Gpt);
        here.chain(self.others()).filter(move |(g, p)| gpt(*g) && root_name(p))
    }

    /// UUID of the root that has proven itself.
    fn proven(&self) -> Option<&'a str> {
        self.disks[self.at].table.as_ref().and_then(proven)
    }

    /// The root that has proven itself.
    pub fn proven_root(&self) -> Option<(usize, &'a Partition)> {
        let uuid = self.proven()?;
        self.roots().find(|(_, p)| has_uuid(p, uuid))
    }

    /// UUID of the root of a whole system that is there, whatever broke off beside it.
    fn whole(&self) -> Option<&'a str> {
        let table = self.disks[self.at].table.as_ref()?;
        let uuid = whole_root(table)?;
        let here = table.partitions.iter();
        here.chain(self.others().map(|(_, p)| p)).any(|p| has_uuid(p, uuid)).then_some(uuid)
    }

    /// What an earlier run left on a partition; of no partition, what it left elsewhere. An installation beside a whole system
    /// leaves half of one in the other place alone: everything else is that system's.
    pub fn before_on(&self, found: Option<&Partition>) -> Before {
        let half = |uuid| found.is_some_and(|p| root_name(p) && !has_uuid(p, uuid));
        match (self.before, self.whole()) {
            (Before::Unfinished, Some(uuid)) if !half(uuid) => Before::System,
            (before, _) => before,
        }
    }

    /// Keeps the root that is there, and makes the new one in the other place, or where there is room.
    pub fn beside(&mut self, volume: &'a VolumeWish) {
        let old = match self.find(volume) {
            Ok(Some(Found::Partition(g, old)))
                if self.roots().any(|(h, p)| (h, p.number) == (g, old.number)) =>
            {
                (g, old)
            }
            _ => return self.reasons.push("there is no root of ours".into()),
        };
        let content = old.1.content.as_ref();
        let system = matches!(
            content.and_then(|c| c.looks_like.as_ref()),
            Some(LooksLike::LinuxRoot { name: Some(_), .. })
        );
        let whole = self.before_on(Some(old.1)) == Before::System;
        if !system || !whole || self.home_in_root || in_root(self.wishes) {
            return self.reasons.push("there is no system that could come back".into());
        }
        let others: Vec<_> = self.roots().filter(|(g, p)| (*g, p.number) != (old.0, old.1.number)).collect();
        match others[..] {
            [] => {
                let used = old.1.name.clone();
                let names = [Role::Root.partition_name(), Role::Spare.partition_name()];
                self.root_name = names.into_iter().find(|name| *name != used).flatten();
                self.volumes.push(volume);
            }
            [(g, place)] if serves(place.size, old.1.size, volume) && !home_inside(place) => {
                self.take(g, place, volume)
            }
            _ => return self.reasons.push("the other place for a root does not serve".into()),
        }
        let why = "the system so far: it stays until the new one has confirmed itself, and comes back if it does not";
        self.fixed.push((old.0, kept(old.1, Role::Old, filesystem_found(old.1), None, why)));
        self.destroys.push(Destroyed {
            name: words::partition(&self.disks[old.0].name, old.1.number),
            what: format!(
                "{}, as soon as the new system has confirmed itself; until then it stays",
                words::partition_content(old.1)
            ),
        });
    }

    /// Makes the new root in the other place.
    fn take(&mut self, g: usize, place: &Partition, volume: &VolumeWish) {
        let nothing = place.content.as_ref().is_none_or(|c| c.looks_like == Some(LooksLike::Empty));
        if self.before == Before::System && !nothing {
            self.destroys.push(Destroyed {
                name: words::partition(&self.disks[g].name, place.number),
                what: words::partition_content(place),
            });
        }
        self.fixed.push((
            g,
            PartitionPlan {
                action: Action::Format,
                filesystem: Some(volume.filesystem),
                label: Role::Root.label(volume.filesystem),
                why: fitting(place.size, volume.enough),
                ..kept(place, Role::Root, None, Some("/"), "")
            },
        ));
    }

    /// Leaves the place alone that nobody uses.
    pub fn spare(&mut self) {
        let used = |g: usize, p: &Partition| self.fixed.iter().any(|(h, q)| (*h, q.number) == (g, p.number));
        let free: Vec<_> = self.roots().filter(|(g, p)| !used(*g, p)).collect();
        let why = "a place for another root, which stays as it is";
        self.fixed
            .extend(free.into_iter().map(|(g, p)| (g, kept(p, Role::Spare, filesystem_found(p), None, why))));
    }

    /// The system so far must find everything else as it was. Swap is nobody's, and has the same name when it is made anew.
    pub fn ensure_old_is_whole(&mut self) {
        let formatted = |action: Action| action == Action::Format;
        let partitions = self.fixed.iter().map(|(_, p)| (&p.purpose, p.action));
        let mut all = partitions.chain(self.groups.iter().map(|g| (&g.purpose, g.action)));
        if all.any(|(role, action)| formatted(action) && !matches!(role, Role::Root | Role::Swap)) {
            self.reasons.push("the old system would miss what is made anew".into());
        }
    }
}
