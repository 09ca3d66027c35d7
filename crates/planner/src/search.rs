//! The best layout: every volume on every region it may lie on, by branch and bound.
//!
//! For a fixed assignment of volumes to regions the sizes follow exactly ([`Rooms`]), so only assignments are
//! searched. A branch is left when the levels of the [`Objective`] that are already certain are worse than those of
//! the best layout known. Disks that are alike in everything but their serial number are tried in the order of
//! these numbers only.

use std::cmp::{Ordering, Reverse};

use crate::fill::{Part, Rooms};
use crate::problem::{Kind, Layout, Problem, bits, tenths};

impl Problem<'_> {
    /// The best layout, of those that `allowed` admits. It is asked for complete layouts only, and of those that are the
    /// same but for an exchange of disks that are alike, for the first.
    pub fn solve(&self, allowed: &dyn Fn(&[u16]) -> bool) -> Option<Layout> {
        let mut search = Search::new(self, allowed, false);
        search.go(0);
        search.best
    }

    /// The layout that is taken, and the one with a spread volume that would be better but for the risk. Whether
    /// volumes may be spread in this problem is settled with it.
    pub fn settle(&mut self) -> Option<(Layout, Option<Layout>)> {
        let best = self.solve(&|_| true)?;
        let Some(item) = best.spread() else { return Some((best, None)) };
        self.spread = false;
        match self.solve(&|_| true) {
            Some(whole) if !self.worth_spreading(item, &best, &whole) => Some((whole, Some(best))),
            _ => {
                self.spread = true;
                Some((best, None))
            }
        }
    }

    /// Whether a layout in which this item is spread is to be taken, where the best one without is this. What is spread
    /// is lost with any of its disks: that is borne to keep off a risk, or for at least twice the room where it lacks
    /// what it needs.
    fn worth_spreading(&self, item: usize, spread: &Layout, whole: &Layout) -> bool {
        let lacks = whole.sizes[item] < self.items[item].ask.enough;
        spread.objective.risk < whole.objective.risk || lacks && spread.sizes[item] >= 2 * whole.sizes[item]
    }

    /// Whether there is a layout at all.
    pub fn feasible(&self) -> bool {
        let mut search = Search::new(self, &|_| true, true);
        search.go(0);
        search.best.is_some()
    }
}

struct Search<'s, 'a> {
    problem: &'s Problem<'a>,
    alike: Vec<usize>,
    allowed: &'s dyn Fn(&[u16]) -> bool,
    best: Option<Layout>,
    places: Vec<u16>,
    /// The first layout will do.
    any: bool,
    /// Places in the order they are tried: single regions, the largest first, then ever more together.
    tries: Vec<u16>,
}

impl<'s, 'a> Search<'s, 'a> {
    fn new(problem: &'s Problem<'a>, allowed: &'s dyn Fn(&[u16]) -> bool, any: bool) -> Self {
        let count = problem.regions.len();
        let mut tries: Vec<u16> = (1..1u32 << count).map(|m| m as u16).collect();
        let spans = problem.spread && problem.items.iter().any(|i| i.wish().is_some_and(|w| w.span));
        tries.retain(|m| spans || m.count_ones() == 1);
        let room = |m: u16| bits(m).map(|r| problem.regions[r].grains).sum::<u64>();
        tries.sort_by_key(|m| (m.count_ones(), Reverse(room(*m)), *m));
        Search { problem, alike: problem.alike(), allowed, best: None, places: Vec::new(), any, tries }
    }

    fn go(&mut self, at: usize) {
        if self.any && self.best.is_some() {
            return;
        }
        let problem = self.problem;
        let Some(item) = problem.items.get(at) else { return self.leaf() };
        let count = problem.regions.len();
        let spanned = self.places.iter().any(|p| p.count_ones() > 1);
        let used = self.places.iter().fold(0, |all, p| all | p);
        let may_span = problem.spread && !spanned && item.wish().is_some_and(|w| w.span);
        // One region alone first, then ever more.
        let alone = if may_span { self.tries.len() } else { count };
        for at_try in 0..alone {
            let place = self.tries[at_try];
            // Of untouched regions that are alike, the first ones.
            let skips = bits(place).any(|r| {
                used & (1 << r) == 0
                    && (0..r).any(|o| {
                        self.alike[o] == self.alike[r] && used & (1 << o) == 0 && place & (1 << o) == 0
                    })
            });
            if skips || !problem.admits(item, place) {
                continue;
            }
            self.places.push(place);
            if self.promising() {
                self.go(at + 1);
            }
            self.places.pop();
        }
    }

    /// Whether the layout so far fits, and can still become better than the best.
    fn promising(&self) -> bool {
        let problem = self.problem;
        let places = &self.places;
        let mut caps = [0; 16];
        if problem.caps(places, &mut caps).is_none() {
            return false;
        }
        let (asks, max) = problem.asks(places);
        let rooms =
            Rooms { caps: &caps[..problem.regions.len()], asks: &asks, max: &max, places, order: &[] };
        if !rooms.fits_least() {
            return false;
        }
        let Some(best) = self.best.as_ref().filter(|_| !self.any).map(|b| &b.objective) else { return true };
        let (risk, touched) = problem.before_sizes(places);
        let destroys = bits(touched).any(|g| problem.grounds[g].destroys);
        let short = !rooms.all_enough();
        match (risk, short, destroys).cmp(&(best.risk, best.short, best.destroys)) {
            Ordering::Greater => return false,
            Ordering::Less => return true,
            Ordering::Equal => {}
        }
        let mut fairness = Vec::new();
        if best.short {
            // Whoever is still to be placed has everything at best, and takes nothing away.
            let Some(sizes) = rooms.share() else { return false };
            fairness = asks.iter().zip(&sizes).map(|(a, s)| a.part(*s)).collect();
            fairness.resize(problem.items.len(), Part::WHOLE);
            fairness.sort();
        }
        let spread: u32 = places.iter().map(|p| p.count_ones().saturating_sub(1)).sum();
        let (disks, latency, loss) = problem.traits(places);
        match (Reverse(tenths(&fairness)), spread).cmp(&(best.tenths.clone(), best.spread)) {
            Ordering::Greater => return false,
            Ordering::Less => return true,
            Ordering::Equal => {}
        }
        (self.least_wasted(&caps, &max), Reverse(fairness), disks, latency, loss)
            <= (best.wasted, best.fairness.clone(), best.disks, best.latency, best.loss)
    }

    /// The fewest quarters of the room that stay unused, however the rest is placed, each in one region: to spread one
    /// more would be worse already.
    fn least_wasted(&self, caps: &[u64; 16], max: &[Option<u64>]) -> u8 {
        let problem = self.problem;
        let most = |i: usize, max: Option<u64>| match (problem.items[i].kind, max) {
            (Kind::Chain, None) => problem.grounds.iter().map(|g| g.chain.esp + 1 + g.chain.boot.1).max(),
            (_, None) if problem.takes_rest(i) => None,
            (_, max) => Some(max.unwrap_or(problem.items[i].ask.enough)),
        };
        let mut free: Vec<u64> = caps[..problem.regions.len()].to_vec();
        for (i, place) in self.places.iter().enumerate() {
            for r in bits(*place) {
                free[r] = most(i, max[i]).map_or(0, |most| free[r].saturating_sub(most));
            }
        }
        // Each logical partition takes a grain for itself.
        let mut taken = problem.items.len() as u64 + 2;
        let mut filled = 0;
        for (i, item) in problem.items.iter().enumerate().skip(self.places.len()) {
            match most(i, item.max) {
                Some(most) => taken += most,
                None => filled += 1,
            }
        }
        free.sort_by_key(|f| Reverse(*f));
        let unused = free.iter().skip(filled).sum::<u64>().saturating_sub(taken);
        problem.quarters(unused)
    }

    fn leaf(&mut self) {
        if !(self.allowed)(&self.places) {
            return;
        }
        let best = self.best.as_ref().map(|b| &b.objective);
        if let Some(layout) = self.problem.judge(&self.places, best)
            && best.is_none_or(|b| layout.objective < *b)
        {
            self.best = Some(layout);
        }
    }
}
