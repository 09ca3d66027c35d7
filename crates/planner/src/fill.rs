//! Sharing room among volumes: everybody to the minimum, then all of them fairly towards *enough*.
//!
//! Sizes are counted in grains (1 MiB). Between minimum and enough the shares are max-min fair: the
//! volume that is worst off, measured by the part of its way to *enough* it has covered, is as well off as
//! can be; then the second worst, and so on. That is exact in whole grains, not rounded from a
//! fraction: `tests/oracle.rs` compares it with every possible sharing.

use std::cmp::Ordering;

/// What one volume asks for, in grains. `min <= enough`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Not usable below.
    pub min: u64,
    /// All it needs.
    pub enough: u64,
}

impl Ask {
    fn way(self) -> u64 {
        self.enough - self.min
    }
}

/// Shares `room` grains among `asks`. What is left when everybody has enough is not given out.
/// `None`: the minimums do not fit.
pub fn share(asks: &[Ask], room: u64) -> Option<Vec<u64>> {
    let least: u64 = asks.iter().map(|a| a.min).sum();
    let mut left = room.checked_sub(least)?;
    let ways: u64 = asks.iter().map(|a| a.way()).sum();
    if left >= ways {
        return Some(asks.iter().map(|a| a.enough).collect());
    }
    // Giving grain after grain to the volume that is worst off reaches the fairest sharing. All states in
    // which everybody has covered at least the part t of the way lie on that path, so the largest t
    // that fits (as T / 2^40) skips nearly all of it.
    const SCALE: u32 = 40;
    let level = |t: u64| asks.iter().map(move |a| (u128::from(t) * u128::from(a.way())).div_ceil(1 << SCALE));
    let (mut fits, mut beyond) = (0u64, 1u64 << SCALE);
    while beyond - fits > 1 {
        let middle = fits + (beyond - fits) / 2;
        match level(middle).sum::<u128>() <= u128::from(left) {
            true => fits = middle,
            false => beyond = middle,
        }
    }
    let mut extra: Vec<u64> = level(fits).map(|k| k as u64).collect();
    left -= extra.iter().sum::<u64>();
    while left > 0 {
        // Equally bad off: first the one that gains more by a grain.
        let worst = (0..asks.len()).filter(|&i| extra[i] < asks[i].way()).min_by(|&i, &j| {
            let by_part = part(extra[i], asks[i]).cmp(&part(extra[j], asks[j]));
            by_part.then(asks[i].way().cmp(&asks[j].way()))
        });
        // While less than all the ways is given out, somebody is short of enough.
        let Some(worst) = worst else { break };
        extra[worst] += 1;
        left -= 1;
    }
    Some(asks.iter().zip(extra).map(|(a, k)| a.min + k).collect())
}

/// How much of the way from its minimum to enough a volume has covered. Exact, and ordered.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    covered: u64,
    way: u64,
}

fn part(covered: u64, ask: Ask) -> Part {
    // A volume with no way to go is at its end.
    if ask.way() == 0 { Part { covered: 1, way: 1 } } else { Part { covered, way: ask.way() } }
}

impl Ask {
    /// The part of the way that `size` grains cover, at most all of it.
    pub fn part(self, size: u64) -> Part {
        part(size.clamp(self.min, self.enough) - self.min, self)
    }
}

impl Part {
    /// All of the way.
    pub(crate) const WHOLE: Part = Part { covered: 1, way: 1 };

    /// Whole per cent, rounded down.
    pub fn percent(self) -> u64 {
        (u128::from(self.covered) * 100 / u128::from(self.way)) as u64
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Part) -> Ordering {
        let left = u128::from(self.covered) * u128::from(other.way);
        left.cmp(&(u128::from(other.covered) * u128::from(self.way)))
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Part) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Part {}

/// The parts of all volumes, the worst off first: what two sharings are compared by.
pub fn fairness(asks: &[Ask], sizes: &[u64]) -> Vec<Part> {
    let mut parts: Vec<Part> = asks.iter().zip(sizes).map(|(ask, size)| ask.part(*size)).collect();
    parts.sort();
    parts
}

/// What LVM itself takes of each physical volume, at most: 1 MiB for its description, and what is left over
/// of the last extent of 4 MiB.
pub const MEMBER_COST: u64 = 4;

/// The smallest physical volume.
pub const MEMBER_LEAST: u64 = 8;

/// Volumes on several regions. One of them may be put together from several regions.
pub struct Rooms<'a> {
    /// Grains of each region.
    pub caps: &'a [u64],
    /// What each volume asks for.
    pub asks: &'a [Ask],
    /// The most each volume may have.
    pub max: &'a [Option<u64>],
    /// Where each volume lies: a bit for each of its regions.
    pub places: &'a [u16],
    /// Volumes that take what is left, the first of them first.
    pub order: &'a [usize],
}

impl Rooms<'_> {
    /// The volume that lies on several regions.
    fn spanned(&self) -> Option<usize> {
        self.places.iter().position(|p| p.count_ones() > 1)
    }

    /// What is free in each region when everybody but the spanned volume has these sizes, and behind it what
    /// is left of what the spanned volume needs. `None`: it does not fit.
    fn free(&self, sizes: &[u64], free: &mut [u64; 16]) -> Option<u64> {
        let spanned = self.spanned();
        free[..self.caps.len()].copy_from_slice(self.caps);
        for (i, place) in self.places.iter().enumerate() {
            if Some(i) != spanned {
                let room = &mut free[place.trailing_zeros() as usize];
                *room = room.checked_sub(sizes[i])?;
            }
        }
        let Some(spanned) = spanned else { return Some(0) };
        let mut room = 0;
        for (r, free) in free.iter().enumerate().take(self.caps.len()) {
            if self.places[spanned] & (1 << r) != 0 {
                room += free.checked_sub(MEMBER_LEAST)? + (MEMBER_LEAST - MEMBER_COST);
            }
        }
        room.checked_sub(sizes[spanned])
    }

    fn fits(&self, sizes: &[u64]) -> bool {
        self.free(sizes, &mut [0; 16]).is_some()
    }

    /// Whether everybody can have its minimum.
    pub fn fits_least(&self) -> bool {
        let sizes: Vec<u64> = self.asks.iter().map(|a| a.min).collect();
        self.fits(&sizes)
    }

    /// Whether everybody can have all it needs.
    pub fn all_enough(&self) -> bool {
        let sizes: Vec<u64> = self.asks.iter().map(|a| a.enough).collect();
        self.fits(&sizes)
    }

    /// Shares the regions: everybody the minimum, then max-min fair towards enough, then the rest in order.
    /// `None`: the minimums do not fit.
    ///
    /// The sharings that fit form a polymatroid (a flow from regions to volumes), so always giving the next grain
    /// to the worst off of those that can still be given one is exact.
    pub fn share(&self) -> Option<Vec<u64>> {
        let mut sizes: Vec<u64> = self.asks.iter().map(|a| a.enough).collect();
        if !self.fits(&sizes) {
            sizes = self.asks.iter().map(|a| a.min).collect();
            if !self.fits(&sizes) {
                return None;
            }
            self.level(&mut sizes);
        }
        self.grow(&mut sizes);
        Some(sizes)
    }

    /// Raises sizes from the minimum, the worst off first.
    fn level(&self, sizes: &mut [u64]) {
        const SCALE: u32 = 40;
        let mut active: Vec<usize> = (0..self.asks.len()).filter(|i| self.asks[*i].way() > 0).collect();
        while !active.is_empty() {
            let mut tried = sizes.to_vec();
            let at = |t: u64, sizes: &[u64], tried: &mut [u64]| {
                for &i in &active {
                    let ask = self.asks[i];
                    let extra = (u128::from(t) * u128::from(ask.way())).div_ceil(1 << SCALE) as u64;
                    tried[i] = sizes[i].max(ask.min + extra);
                }
                self.fits(tried)
            };
            let (mut fits, mut beyond) = (0u64, (1u64 << SCALE) + 1);
            while beyond - fits > 1 {
                let middle = fits + (beyond - fits) / 2;
                match at(middle, sizes, &mut tried) {
                    true => fits = middle,
                    false => beyond = middle,
                }
            }
            if at(fits, sizes, &mut tried) {
                sizes.copy_from_slice(&tried);
            }
            // Now grain after grain, until somebody can get no more.
            loop {
                active.retain(|&i| sizes[i] < self.asks[i].enough);
                let worst = active.iter().copied().min_by(|&i, &j| {
                    let by_part = self.asks[i].part(sizes[i]).cmp(&self.asks[j].part(sizes[j]));
                    by_part.then(self.asks[i].way().cmp(&self.asks[j].way()))
                });
                let Some(worst) = worst else { break };
                sizes[worst] += 1;
                if !self.fits(sizes) {
                    sizes[worst] -= 1;
                    active.retain(|&i| i != worst);
                    break;
                }
            }
        }
    }

    /// Gives out what is left.
    fn grow(&self, sizes: &mut [u64]) {
        let mut free = [0; 16];
        for &i in self.order {
            let Some(slack) = self.free(sizes, &mut free) else { return };
            let spanned = self.spanned();
            let own = match spanned == Some(i) {
                true => slack,
                false => {
                    let r = self.places[i].trailing_zeros() as usize;
                    match spanned.filter(|s| self.places[*s] & (1 << r) != 0) {
                        // What must stay free for the spanned volume.
                        Some(_) => slack.min(free[r] - MEMBER_LEAST),
                        None => free[r],
                    }
                }
            };
            sizes[i] += self.max[i].map_or(own, |max| own.min(max.saturating_sub(sizes[i])));
        }
    }

    /// Splits the spanned volume over its regions, the roomiest first: grains of each physical volume.
    pub fn members(&self, sizes: &[u64]) -> Vec<(usize, u64)> {
        let mut free = [0; 16];
        let (Some(spanned), Some(_)) = (self.spanned(), self.free(sizes, &mut free)) else {
            return Vec::new();
        };
        let regions: Vec<usize> =
            (0..self.caps.len()).filter(|r| self.places[spanned] & (1 << r) != 0).collect();
        let mut left = sizes[spanned] + MEMBER_COST * regions.len() as u64;
        left = left.saturating_sub(MEMBER_LEAST * regions.len() as u64);
        let mut members = Vec::new();
        for r in regions {
            let more = left.min(free[r] - MEMBER_LEAST);
            left -= more;
            members.push((r, MEMBER_LEAST + more));
        }
        members
    }

    /// Grains nobody has.
    pub fn unused(&self, sizes: &[u64]) -> u64 {
        let mut free = [0; 16];
        let Some(slack) = self.free(sizes, &mut free) else { return 0 };
        let spanned = self.spanned().map_or(0, |s| self.places[s]);
        let outside = (0..self.caps.len()).filter(|r| spanned & (1 << r) == 0).map(|r| free[r]);
        outside.sum::<u64>() + slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(min: u64, enough: u64) -> Ask {
        Ask { min, enough }
    }

    /// Every sharing of exactly `room` grains, by brute force: the fairest one.
    fn fairest(asks: &[Ask], room: u64) -> Option<Vec<Part>> {
        fn all(asks: &[Ask], room: u64, sizes: &mut Vec<u64>, best: &mut Option<Vec<Part>>, whole: &[Ask]) {
            match asks.split_first() {
                None => {
                    let parts = fairness(whole, sizes);
                    if best.as_ref().is_none_or(|b| parts > *b) {
                        *best = Some(parts);
                    }
                }
                Some((first, rest)) => {
                    for size in first.min..=first.enough.min(room) {
                        sizes.push(size);
                        all(rest, room - size, sizes, best, whole);
                        sizes.pop();
                    }
                }
            }
        }
        let mut best = None;
        all(asks, room, &mut Vec::new(), &mut best, asks);
        best
    }

    #[test]
    fn the_smallest_way_is_covered_first_when_all_are_equally_bad_off() {
        assert_eq!(share(&[ask(0, 10), ask(0, 2)], 1), Some(vec![0, 1]));
        assert_eq!(share(&[ask(0, 1), ask(0, 1), ask(0, 10)], 4), Some(vec![1, 1, 2]));
    }

    #[test]
    fn does_not_fit_or_fits_exactly() {
        assert_eq!(share(&[ask(3, 9), ask(4, 4)], 6), None);
        assert_eq!(share(&[ask(3, 9), ask(4, 4)], 7), Some(vec![3, 4]));
        assert_eq!(share(&[ask(3, 9), ask(4, 4)], 100), Some(vec![9, 4]));
        assert_eq!(share(&[], 5), Some(vec![]));
    }

    #[test]
    fn terabytes_are_shared_at_once_and_to_the_last_grain() {
        let asks = [ask(3 << 10, 1 << 31), ask(1, (1 << 31) + 7), ask(5, 6)];
        let sizes = share(&asks, (1 << 31) + 12345).unwrap();
        assert_eq!(sizes.iter().sum::<u64>(), (1 << 31) + 12345);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn no_sharing_is_fairer(asks in prop::collection::vec((0u64..6, 0u64..8), 1..5), room in 0u64..40) {
            let asks: Vec<Ask> = asks.into_iter().map(|(min, way)| ask(min, min + way)).collect();
            let ours = share(&asks, room);
            prop_assert_eq!(ours.as_ref().map(|sizes| fairness(&asks, sizes)), fairest(&asks, room));
            if let Some(sizes) = ours {
                let enough: u64 = asks.iter().map(|a| a.enough).sum();
                prop_assert_eq!(sizes.iter().sum::<u64>(), room.min(enough), "no grain is lost");
            }
        }
    }
}
