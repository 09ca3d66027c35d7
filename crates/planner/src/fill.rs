//! Sharing room among volumes: everybody to the minimum, then all of them fairly towards *enough*.
//!
//! Sizes are counted in grains (1 MiB). Between minimum and enough the shares are max-min fair: the
//! volume that is worst off, measured by the part of its way to *enough* it has covered, is as well off as
//! can be; then the second worst, and so on. That is exact in whole grains, not rounded from a
//! fraction: the crate's tests compare it with every possible sharing (`oracle`).

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

/// How much of the way from its minimum to enough a volume has covered. Exact, and ordered.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    covered: u64,
    way: u64,
}

impl Ask {
    /// The part of the way that `size` grains cover, at most all of it.
    pub fn part(self, size: u64) -> Part {
        match self.way() {
            // A volume with no way to go is at its end.
            0 => Part::WHOLE,
            way => Part { covered: size.clamp(self.min, self.enough) - self.min, way },
        }
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
        // All states in which everybody has covered at least the part t of the way lie on the path that is gone grain by
        // grain, so the largest t that fits (as T / 2^40) skips nearly all of it.
        const SCALE: u32 = 40;
        let turn = |i: usize| self.order.iter().position(|o| *o == i).unwrap_or(self.order.len());
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
                    // Equally bad off: first the one that gains more by a grain, then who takes what is left first.
                    by_part
                        .then(self.asks[i].way().cmp(&self.asks[j].way()))
                        .then_with(|| turn(i).cmp(&turn(j)))
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

    /// Splits the spanned volume over its regions, one after the other: grains of each physical volume.
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
