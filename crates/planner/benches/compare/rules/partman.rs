//! partman-auto 177 (the Debian installer): its recipe `home` for amd64, and where that does not fit, `small_disk`;
//! on the largest disk, by `expand_scheme` of `lib/recipes.sh`. Sizes are decimal megabytes.

use super::{Layout, MB, Volume, What, largest_disk};
use crate::machines::Pc;

/// A line of a recipe. `max`: `None` for -1.
struct Line {
    what: What,
    min: u64,
    priority: u64,
    max: Option<u64>,
}

fn line(what: What, min: u64, priority: u64, max: Option<u64>) -> Line {
    // decode_recipe: neither may be below the minimum.
    Line { what, min, priority: priority.max(min), max: max.map(|m| m.max(min)) }
}

pub fn layout(pc: &Pc) -> Layout {
    let disk = largest_disk(pc)?;
    let ram = pc.ram / MB;
    let free = pc.sizes[disk] / MB - 2;
    let sizes = home(pc.bios, ram, free).or_else(|| small_disk(pc.bios, ram, free))?;
    Some(sizes.into_iter().map(|(what, size)| Volume::new(what, size * MB, disk)).collect())
}

/// The recipe `home`.
pub fn home(bios: bool, ram: u64, free: u64) -> Option<Vec<(What, u64)>> {
    let mut lines = match bios {
        true => vec![line(What::Boot, 1, 1, Some(1))],
        false => vec![line(What::Boot, 768, 788, Some(1024))],
    };
    lines.push(line(What::Root, 7500, 7550, Some(100_000)));
    lines.push(line(What::Swap, 500, 550, Some(ram)));
    lines.push(line(What::Home, 1000, 1800, None));
    expand(&lines, free)
}

/// The recipe `small_disk`: everything in one filesystem.
fn small_disk(bios: bool, ram: u64, free: u64) -> Option<Vec<(What, u64)>> {
    let mut lines = match bios {
        true => vec![line(What::Boot, 1, 1, Some(1))],
        false => vec![line(What::Boot, 512, 542, Some(1024))],
    };
    lines.push(line(What::Root, 2000, 2840, None));
    lines.push(line(What::Swap, 500, 560, Some(ram)));
    expand(&lines, free)
}

/// `expand_scheme`: weights in whole per cent; every round hands out what is left anew, on top of the sizes reached.
fn expand(lines: &[Line], free: u64) -> Option<Vec<(What, u64)>> {
    let mut sizes: Vec<u64> = lines.iter().map(|l| l.min).collect();
    // A recipe is only offered when its minimums fit.
    if sizes.iter().sum::<u64>() > free {
        return None;
    }
    let sum: u64 = lines.iter().map(|l| l.priority - l.min).sum();
    let sum = if sum == 0 { 100 } else { sum };
    let mut factors: Vec<u64> = lines.iter().map(|l| (l.priority - l.min) * 100 / sum).collect();
    loop {
        let before = sizes.clone();
        let all: u64 = factors.iter().sum();
        let left = free.saturating_sub(sizes.iter().sum());
        for (i, line) in lines.iter().enumerate() {
            let size = sizes[i] + (left * factors[i]).checked_div(all).unwrap_or(0);
            match line.max {
                Some(max) if size > max => (sizes[i], factors[i]) = (max, 0),
                _ => sizes[i] = size,
            }
        }
        if sizes == before {
            break;
        }
    }
    // The last partition of `home` is made with all that is left.
    let used: u64 = sizes.iter().sum();
    if let Some(last) = sizes.last_mut() {
        *last += free.saturating_sub(used);
    }
    Some(lines.iter().map(|l| l.what).zip(sizes).collect())
}
