//! One way to treat the disks: what stays, what has its place already, and what is still to be placed where.

use std::collections::BTreeSet;

use akene_protocol::inventory::{Disk, FirmwareKind, TableKind};
use akene_protocol::profile::{Filesystem, Rung};
use akene_protocol::resolve::{StorageWishes, VolumeWish};

use crate::fill::Ask;
use crate::ground::{self, Site};
use crate::homes::{in_root, is_home};
use crate::problem::{Item, Kind, Layout, Problem, bits};
use crate::{Destroyed, GRAIN, GroupPlan, PartitionPlan, Role, risk};

/// One way to treat the disks.
pub(crate) struct Arrangement<'a> {
    /// An Akène machine's own table stays.
    pub reinstall: bool,
    pub sites: Vec<Site<'a>>,
    /// Partitions that have their place, by the index of their site.
    pub fixed: Vec<(usize, PartitionPlan)>,
    pub groups: Vec<GroupPlan>,
    /// What is lost on partitions that are formatted where they lie.
    pub destroys: Vec<Destroyed>,
    pub notes: Vec<String>,
    /// Whether the boot chain is still to be placed.
    pub chain: bool,
    /// Volumes still to be placed.
    pub volumes: Vec<&'a VolumeWish>,
    /// Optional volumes that are known to be left out.
    pub without: Vec<&'a VolumeWish>,
    /// People's files lie on the root, although the profile wishes them a volume of their own.
    pub home_in_root: bool,
    /// Name in a GPT of a root that is still to be placed, where another one has the usual name.
    pub root_name: Option<String>,
    /// Disks people's files and the system need already: a bit for each site.
    pub fixed_files: u16,
    pub fixed_system: u16,
    /// The disk of a root that has its place already.
    pub fixed_root: u16,
}

/// An arrangement with the best layout in it.
pub(crate) struct Solved<'a> {
    pub arrangement: Arrangement<'a>,
    pub problem: Problem<'a>,
    pub layout: Layout,
    /// The layout with a spread volume that would be better but for the risk.
    pub not_spread: Option<Layout>,
    /// Optional volumes for which there was no room.
    pub left_out: Vec<&'a VolumeWish>,
    pub rung: Rung,
}

impl Solved<'_> {
    /// Names of the disks on which something of ours lies.
    pub fn disks(&self) -> BTreeSet<&str> {
        let name = |g: usize| self.problem.grounds[g].disk.name.as_str();
        let fixed = self.arrangement.fixed.iter().filter(|(_, p)| p.purpose != Role::Foreign);
        let placed = self.layout.places.iter().flat_map(|place| bits(self.problem.disks_of(*place)));
        fixed.map(|(g, _)| *g).chain(placed).map(name).collect()
    }
}

impl<'a> Arrangement<'a> {
    /// Every disk with a new table.
    pub fn fresh(disks: &[&'a Disk], wishes: &'a StorageWishes, never_used: &[&str]) -> Self {
        let site = |disk: &&'a Disk| {
            let site = ground::fresh(disk, wishes);
            if never_used.contains(&disk.name.as_str()) { site.nothing_lost() } else { site }
        };
        Arrangement {
            reinstall: false,
            sites: disks.iter().map(site).collect(),
            fixed: Vec::new(),
            groups: Vec::new(),
            destroys: Vec::new(),
            notes: Vec::new(),
            chain: true,
            volumes: wishes.volumes.iter().collect(),
            without: Vec::new(),
            home_in_root: false,
            root_name: None,
            fixed_files: 0,
            fixed_system: 0,
            fixed_root: 0,
        }
    }

    fn problem(&mut self, firmware: FirmwareKind) -> Problem<'a> {
        let regions = ground::regions(&self.sites);
        let grounds = self.sites.iter().map(|s| s.ground.clone()).collect();
        Problem {
            grounds,
            regions,
            items: Vec::new(),
            firmware,
            small_boot: false,
            spread: true,
            fixed_files: self.fixed_files,
            fixed_system: self.fixed_system,
            fixed_root: self.fixed_root,
            given_up: Vec::new(),
        }
    }

    /// The best layout: as much of what is optional as fits, the most important first.
    ///
    /// # Errors
    /// Not even the least fits: the problem with the items that must have a place.
    pub fn solve(
        mut self,
        wishes: &'a StorageWishes,
        firmware: FirmwareKind,
    ) -> Result<Solved<'a>, Problem<'a>> {
        let mut problem = self.problem(firmware);
        let rung_of = |v: &VolumeWish| wishes.ladder.iter().position(|r| *r == rung(v));
        let may_go = |v: &VolumeWish| v.optional && rung_of(v).is_some();
        let (mut optional, mandatory): (Vec<_>, Vec<_>) =
            self.volumes.iter().copied().partition(|v| may_go(v));
        // Whom the ladder gives up last, and among equals who has the highest priority, is the most important.
        optional.sort_by_key(|v| std::cmp::Reverse((rung_of(v), v.priority)));
        let chain =
            self.chain.then_some(Item { kind: Kind::Chain, ask: Ask { min: 0, enough: 0 }, max: None });
        let base: Vec<Item<'a>> = chain.into_iter().chain(mandatory.into_iter().map(Item::volume)).collect();
        problem.items = ordered(base.clone());
        if !problem.feasible() {
            if !wishes.ladder.contains(&Rung::Minimal) || !self.chain {
                return Err(problem);
            }
            problem.small_boot = true;
            if !problem.feasible() {
                return Err(problem);
            }
        }
        let mut left_out = std::mem::take(&mut self.without);
        let mut without = Vec::new();
        let mut chosen = base;
        for volume in optional {
            if !problem.small_boot {
                chosen.push(Item::volume(volume));
                problem.items = ordered(chosen.clone());
                if problem.feasible() {
                    problem.given_up.push(false);
                    continue;
                }
                chosen.pop();
            }
            problem.given_up.push(true);
            without.push(volume);
        }
        // As the ladder goes down.
        left_out.extend(without.into_iter().rev());
        problem.items = ordered(chosen);
        let gone = left_out.iter().map(|v| rung(v)).chain(self.home_in_root.then_some(Rung::NoHome));
        let lowest = match problem.small_boot {
            true => Rung::Minimal,
            false => gone.max_by_key(|r| wishes.ladder.iter().position(|l| l == r)).unwrap_or(Rung::Full),
        };
        let Some((mut layout, not_spread)) = problem.settle() else { return Err(problem) };
        // With people's files in it a root stays where it is.
        let files_in_root = self.home_in_root || in_root(wishes) || left_out.iter().any(|v| is_home(v));
        if let Some(spare) = wishes.spare.as_ref().filter(|_| self.chain && !files_in_root)
            && let Some(more) = problem.with_spare(spare, &layout)
        {
            (problem, layout) = more;
        }
        Ok(Solved { arrangement: self, problem, layout, not_spread, left_out, rung: lowest })
    }
}

impl<'a> Problem<'a> {
    /// The same with a place for a second root, put to the best layout without one: nothing else lies on other disks because of
    /// it, everybody still has enough, and people's files plenty.
    fn with_spare(&self, spare: &'a VolumeWish, without: &Layout) -> Option<(Problem<'a>, Layout)> {
        // A root that has its place already holds people's files; one on a volume group is made where it is.
        let root = without.places[self.items.iter().position(Item::is_root)?];
        // Both are known by their names, which an MBR does not have.
        let named = |place: u16| {
            let mut disks = bits(self.disks_of(place));
            place.count_ones() == 1 && disks.all(|g| self.grounds[g].table == TableKind::Gpt)
        };
        let used = without.places.iter().fold(0, |all, place| all | self.disks_of(*place));
        // The next system will lie there.
        let slowest =
            |place: u16| bits(self.disks_of(place)).map(|g| risk::latency(self.grounds[g].disk)).max();
        let mut problem = self.clone();
        problem.items.push(Item::volume(spare));
        let layouts = (0..self.regions.len()).map(|r| 1 << r).filter_map(|place: u16| {
            let there = self.disks_of(place) & !used == 0 && slowest(place) <= slowest(root);
            let fits = there && named(place) && self.admits(&Item::volume(spare), place);
            let places: Vec<u16> = without.places.iter().copied().chain([place]).collect();
            problem.judge(&places, None).filter(|_| fits)
        });
        // People will want that room before anybody wants the other root.
        let plenty = |layout: &Layout, at: usize, wish: &VolumeWish| {
            let size = layout.sizes[at] * GRAIN.0;
            let disks = bits(self.disks_of(layout.places[at])).map(|g| self.grounds[g].disk.size.0);
            size >= 2 * wish.enough.0 || size * 2 >= disks.sum::<u64>()
        };
        let costs_nothing = |layout: &Layout| {
            let mut files = self.items.iter().enumerate().filter(|(_, item)| item.files());
            let have_plenty = files.all(|(at, item)| item.wish().is_none_or(|wish| plenty(layout, at, wish)));
            have_plenty && !layout.objective.short && layout.objective.risk <= without.objective.risk
        };
        let best = layouts.filter(costs_nothing).min_by(|a, b| a.objective.cmp(&b.objective))?;
        named(root).then_some((problem, best))
    }
}

/// The rung of the ladder at which a volume is given up.
pub(crate) fn rung(volume: &VolumeWish) -> Rung {
    match volume.filesystem {
        Filesystem::Swap => Rung::NoSwap,
        _ if volume.user_data => Rung::NoHome,
        _ => Rung::NoExtras,
    }
}

/// In the order in which they are placed: those that decide most first, and what may be spanned last.
fn ordered(mut items: Vec<Item<'_>>) -> Vec<Item<'_>> {
    items.sort_by_key(|item| {
        let place = match item.wish() {
            None => 0,
            Some(_) if item.is_root() => 1,
            Some(w) if w.span => 5,
            Some(w) if w.filesystem == Filesystem::Swap => 3,
            Some(w) if w.user_data => 2,
            Some(_) => 4,
        };
        (place, item.wish().map(|w| w.name.clone()))
    });
    items
}
