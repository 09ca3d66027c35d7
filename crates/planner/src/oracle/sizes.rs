//! Who gets how much in a given place: once by trying every sharing there is, once grain by grain.

use std::cmp::Reverse;

/// Grains that LVM takes of each physical volume.
const LVM_TAKES: u64 = 4;

/// Grains of the smallest physical volume.
const LEAST_PHYSICAL: u64 = 8;

/// A part of a way. A way of nothing is covered.
#[derive(Clone, Copy, Debug)]
pub struct Fraction {
    pub covered: u64,
    pub way: u64,
}

impl Ord for Fraction {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (u128::from(self.covered) * u128::from(other.way))
            .cmp(&(u128::from(other.covered) * u128::from(self.way)))
    }
}

impl PartialOrd for Fraction {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Fraction {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Fraction {}

/// What somebody who has a place wants.
#[derive(Clone, Debug)]
pub struct Guest {
    pub regions: Vec<usize>,
    pub min: u64,
    pub enough: u64,
    /// Never more.
    pub most: u64,
    /// Its turn when what is left is given out.
    pub turn: Option<usize>,
}

impl Guest {
    /// The part of its way that is covered.
    pub fn covered(&self, size: u64) -> Fraction {
        match self.enough - self.min {
            0 => Fraction { covered: 1, way: 1 },
            way => Fraction { covered: size.clamp(self.min, self.enough) - self.min, way },
        }
    }
}

/// Everybody in a place of their own, and how large the regions are.
#[derive(Clone, Debug)]
pub struct House {
    pub regions: Vec<u64>,
    pub guests: Vec<Guest>,
}

impl House {
    /// Whether these sizes fit: everybody has the minimum and no more than the most, no region holds more than it
    /// can, and each physical volume is large enough.
    pub fn fits(&self, sizes: &[u64]) -> bool {
        let mut free = self.regions.clone();
        for (guest, size) in self.guests.iter().zip(sizes) {
            if *size < guest.min || *size > guest.most {
                return false;
            }
            if let [only] = guest.regions[..] {
                match free[only].checked_sub(*size) {
                    Some(left) => free[only] = left,
                    None => return false,
                }
            }
        }
        // One volume at most is spread: a physical volume may be anything from the least to what is free in its region.
        self.guests.iter().zip(sizes).filter(|(guest, _)| guest.regions.len() > 1).all(|(guest, size)| {
            let count = guest.regions.len() as u64;
            let all = size + LVM_TAKES * count;
            guest.regions.iter().all(|r| free[*r] >= LEAST_PHYSICAL)
                && all <= guest.regions.iter().map(|r| free[*r]).sum()
        })
    }

    /// The parts of their ways, the worst off first.
    pub fn fairness(&self, sizes: &[u64]) -> Vec<Fraction> {
        let mut parts: Vec<_> = self.guests.iter().zip(sizes).map(|(g, s)| g.covered(*s)).collect();
        parts.sort();
        parts
    }

    /// Sizes of those who take what is left, in their turn.
    pub fn rest(&self, sizes: &[u64]) -> Vec<u64> {
        let mut turns: Vec<(usize, u64)> =
            self.guests.iter().zip(sizes).filter_map(|(g, s)| Some((g.turn?, *s))).collect();
        turns.sort();
        turns.into_iter().map(|(_, size)| size).collect()
    }

    /// Grains nobody has.
    pub fn unused(&self, sizes: &[u64]) -> u64 {
        let physical: u64 = self.guests.iter().map(|g| g.regions.len() as u64).filter(|n| *n > 1).sum();
        self.regions.iter().sum::<u64>() - sizes.iter().sum::<u64>() - LVM_TAKES * physical
    }

    /// The best sharing of all there are.
    pub fn by_trying_all(&self) -> Option<Vec<u64>> {
        let all: u64 = self.regions.iter().sum();
        let mut sizes = Vec::new();
        let mut best: Option<(Vec<Fraction>, Vec<u64>, Vec<u64>)> = None;
        self.try_all(all, &mut sizes, &mut best);
        best.map(|(_, _, sizes)| sizes)
    }

    fn try_all(
        &self,
        all: u64,
        sizes: &mut Vec<u64>,
        best: &mut Option<(Vec<Fraction>, Vec<u64>, Vec<u64>)>,
    ) {
        let Some(guest) = self.guests.get(sizes.len()) else {
            if self.fits(sizes) {
                let found = (self.fairness(sizes), self.rest(sizes), sizes.clone());
                if best.as_ref().is_none_or(|b| (&found.0, &found.1) > (&b.0, &b.1)) {
                    *best = Some(found);
                }
            }
            return;
        };
        for size in guest.min..=guest.most.min(all) {
            sizes.push(size);
            self.try_all(all, sizes, best);
            sizes.pop();
        }
    }

    /// The best sharing: each next grain to the worst off of those who can take one, and what is left in turn.
    pub fn grain_by_grain(&self) -> Option<Vec<u64>> {
        let mut sizes: Vec<u64> = self.guests.iter().map(|g| g.min).collect();
        if !self.fits(&sizes) {
            return None;
        }
        let more = |sizes: &mut Vec<u64>, i: usize, grains: u64| {
            sizes[i] += grains;
            let fits = self.fits(sizes);
            if !fits {
                sizes[i] -= grains;
            }
            fits
        };
        let mut hungry: Vec<usize> = (0..sizes.len()).collect();
        loop {
            hungry.retain(|i| sizes[*i] < self.guests[*i].enough);
            let Some(worst) = hungry.iter().copied().min_by_key(|i| {
                let guest = &self.guests[*i];
                (guest.covered(sizes[*i]), guest.enough - guest.min, guest.turn.unwrap_or(usize::MAX), *i)
            }) else {
                break;
            };
            // Who cannot have one more grain never can: the others only grow.
            if !more(&mut sizes, worst, 1) {
                hungry.retain(|i| *i != worst);
            }
        }
        let mut turns: Vec<usize> = (0..sizes.len()).filter(|i| self.guests[*i].turn.is_some()).collect();
        turns.sort_by_key(|i| self.guests[*i].turn);
        for i in turns {
            for step in (0..40).rev() {
                while more(&mut sizes, i, 1 << step) {}
            }
        }
        Some(sizes)
    }

    /// Every way to want it: the larger is the better.
    pub fn worth(&self, sizes: &[u64]) -> (Vec<Fraction>, Vec<u64>, Reverse<u64>) {
        (self.fairness(sizes), self.rest(sizes), Reverse(self.unused(sizes)))
    }
}
