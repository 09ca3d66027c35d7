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
