//! The ranking of YaST's storage-ng, for our own volumes: all assignments of partitions to disks, the best by smaller gaps,
//! fewer gaps, closeness to the weights, fewer disks, order. Each disk alone first, the largest first, all together
//! last; with the desired sizes, then the minimums; then without swap, then without `/home`.

use super::{GIB, Layout, MIB, Volume, What};
use crate::machines::Pc;

/// A planned partition.
#[derive(Clone, Copy)]
struct Planned {
    what: What,
    min: u64,
    desired: u64,
    max: u64,
    weight: u64,
}

fn planned(pc: &Pc, swap: bool, home: bool) -> Vec<Planned> {
    let boot = if pc.bios { 513 * MIB } else { 768 * MIB };
    let fixed = |what, size| Planned { what, min: size, desired: size, max: size, weight: 0 };
    let mut all = vec![fixed(What::Boot, boot)];
    let root = Planned { what: What::Root, min: 6 * GIB, desired: 20 * GIB, max: 64 * GIB, weight: 40 };
    all.push(if home { root } else { Planned { max: u64::MAX, ..root } });
    if swap {
        let most = pc.ram.clamp(512 * MIB, 4 * GIB);
        all.push(Planned { what: What::Swap, min: 256 * MIB, desired: most, max: most, weight: 10 });
    }
    if home {
        all.push(Planned { what: What::Home, min: GIB, desired: 20 * GIB, max: u64::MAX, weight: 60 });
    }
    all
}

/// `distribute_extra_space!`: by weight, capped, again.
fn distribute(parts: &[Planned], base: &[u64], room: u64) -> Option<Vec<u64>> {
    let mut sizes = base.to_vec();
    let mut extra = room.checked_sub(sizes.iter().sum())?;
    loop {
        let open: Vec<usize> =
            (0..parts.len()).filter(|i| parts[*i].weight > 0 && sizes[*i] < parts[*i].max).collect();
        let weight: u64 = open.iter().map(|i| parts[*i].weight).sum();
        if extra < MIB || open.is_empty() {
            return Some(sizes);
        }
        let pool = extra;
        for i in open {
            let share = (u128::from(pool) * u128::from(parts[i].weight) / u128::from(weight)) as u64;
            let more = share.div_ceil(MIB).saturating_mul(MIB).min(parts[i].max - sizes[i]).min(extra);
            sizes[i] += more;
            extra -= more;
        }
    }
}

/// What a distribution is judged by, least first.
type Score = (u64, usize, u64, usize, Vec<usize>);

fn best(parts: &[Planned], base: &[u64], free: &[(usize, u64)]) -> Option<(Score, Vec<Volume>)> {
    let mut best: Option<(Score, Vec<Volume>)> = None;
    let cases = free.len().checked_pow(parts.len() as u32)?;
    for case in 0..cases {
        let at: Vec<usize> = (0..parts.len()).map(|i| case / free.len().pow(i as u32) % free.len()).collect();
        // The boot chain lies on the root's disk.
        if at[0] != at[1] {
            continue;
        }
        let Some(found) = judge(parts, base, free, &at) else { continue };
        if best.as_ref().is_none_or(|(score, _)| found.0 < *score) {
            best = Some(found);
        }
    }
    best
}

fn judge(
    parts: &[Planned],
    base: &[u64],
    free: &[(usize, u64)],
    at: &[usize],
) -> Option<(Score, Vec<Volume>)> {
    let (mut gap, mut gaps, mut used) = (0, 0, 0);
    let mut sizes = vec![0; parts.len()];
    for (space, (_, room)) in free.iter().enumerate() {
        let here: Vec<usize> = (0..parts.len()).filter(|i| at[*i] == space).collect();
        if here.is_empty() {
            continue;
        }
        used += 1;
        let of = |all: &[u64]| here.iter().map(|i| all[*i]).collect::<Vec<_>>();
        let mine: Vec<Planned> = here.iter().map(|i| parts[*i]).collect();
        let grown = distribute(&mine, &of(base), *room)?;
        let left = room - grown.iter().sum::<u64>();
        gap += left;
        gaps += usize::from(left >= MIB);
        for (i, size) in here.iter().zip(grown) {
            sizes[*i] = size;
        }
    }
    let weights: u64 = parts.iter().map(|p| p.weight).sum();
    let extra: u64 = (0..parts.len()).map(|i| sizes[i] - base[i]).sum();
    let deviation = (0..parts.len()).map(|i| {
        let got = (u128::from(sizes[i] - base[i]) * 1_000_000 / u128::from(extra.max(1))) as u64;
        got.abs_diff(parts[i].weight * 1_000_000 / weights.max(1))
    });
    let score = (gap, gaps, deviation.sum(), used, at.to_vec());
    let volumes = (0..parts.len()).map(|i| Volume::new(parts[i].what, sizes[i], free[at[i]].0)).collect();
    Some((score, volumes))
}

pub fn layout(pc: &Pc) -> Layout {
    let mut free: Vec<(usize, u64)> =
        pc.sizes.iter().map(|s| s.saturating_sub(2 * MIB)).enumerate().collect();
    free.sort_by_key(|(i, size)| (std::cmp::Reverse(*size), *i));
    let mut groups: Vec<Vec<(usize, u64)>> = free.iter().map(|one| vec![*one]).collect();
    if free.len() > 1 {
        groups.push(free);
    }
    for (swap, home) in [(true, true), (false, true), (false, false)] {
        let parts = planned(pc, swap, home);
        for group in &groups {
            for least in [false, true] {
                let base: Vec<u64> = parts.iter().map(|p| if least { p.min } else { p.desired }).collect();
                if let Some((_, volumes)) = best(&parts, &base, group) {
                    return Some(volumes);
                }
            }
        }
    }
    None
}
