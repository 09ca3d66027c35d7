//! blivet, the partitioner of Anaconda (Fedora, RHEL), with the sizes of `anaconda.conf`: `/` from 1 to 70 GiB, `/home`
//! from 500 MiB, made only where there are 50 GiB; all disks are selected.

use super::{GIB, Layout, MIB, Volume, What};
use crate::machines::Pc;

/// A request that grows.
struct Request {
    what: What,
    base: u64,
    max: u64,
}

/// Swap as Anaconda suggests it: by memory, and at most a tenth of the room.
fn swap(pc: &Pc, room: u64) -> u64 {
    let ram = pc.ram;
    let wish = match ram / GIB {
        0..2 => 2 * ram,
        2..8 => ram,
        _ => ram / 2,
    };
    wish.min(room / 10) / MIB * MIB
}

/// Boot chain: a BIOS boot partition or an ESP of 600 MiB, and `/boot` of 1 GiB.
fn boot(pc: &Pc) -> u64 {
    GIB + if pc.bios { MIB } else { 600 * MIB }
}

/// What grows.
fn requests(room: u64) -> Vec<Request> {
    let mut requests = vec![Request { what: What::Root, base: GIB, max: 70 * GIB }];
    if room >= 50 * GIB {
        requests.push(Request { what: What::Home, base: 500 * MIB, max: u64::MAX });
    }
    requests
}

/// Room on each disk, behind the first MiB and before the backup of the table.
fn free(pc: &Pc) -> Vec<u64> {
    pc.sizes.iter().map(|s| s.saturating_sub(2 * MIB)).collect()
}

/// Fixed requests go where the smallest room fits them.
fn smallest_that_fits(free: &[u64], size: u64) -> Option<usize> {
    (0..free.len()).filter(|i| free[*i] >= size).min_by_key(|i| (free[*i], *i))
}

/// Shares room in proportion to the base sizes; who reaches its maximum gives back, and it is shared again.
fn grow(requests: &[&Request], room: u64) -> Option<Vec<u64>> {
    let mut sizes: Vec<u64> = requests.iter().map(|r| r.base).collect();
    let mut left = room.checked_sub(sizes.iter().sum())?;
    let mut open: Vec<usize> = (0..requests.len()).collect();
    while left > 0 && !open.is_empty() {
        let base: u128 = open.iter().map(|i| u128::from(requests[*i].base)).sum();
        let pool = left;
        for i in &open {
            let share = (u128::from(pool) * u128::from(requests[*i].base) / base) as u64;
            let more = share.min(requests[*i].max - sizes[*i]);
            sizes[*i] += more;
            left -= more;
        }
        let still: Vec<usize> = open.iter().copied().filter(|i| sizes[*i] < requests[*i].max).collect();
        if still.len() == open.len() {
            // Nobody is full: what is left is rounding, and the first takes it.
            sizes[open[0]] += left;
            break;
        }
        open = still;
    }
    Some(sizes)
}

/// The default: one volume group over all disks.
pub fn lvm(pc: &Pc) -> Layout {
    let mut free = free(pc);
    let size = boot(pc);
    let at = smallest_that_fits(&free, size)?;
    free[at] -= size;
    // Too little room for a physical volume is left alone; each loses its first MiB and the rest of an extent.
    let members: Vec<usize> = (0..free.len()).filter(|i| free[*i] >= 500 * MIB).collect();
    let room: u64 = members.iter().map(|i| (free[*i] - MIB) / (4 * MIB) * (4 * MIB)).sum();
    let swap = swap(pc, room);
    let requests = requests(room);
    let sizes = grow(&requests.iter().collect::<Vec<_>>(), room.checked_sub(swap)?)?;
    // Linear volumes fill one disk after the other, in the order of their creation.
    let mut volumes = vec![Volume::new(What::Boot, size, at)];
    let mut spare: Vec<(usize, u64)> = members.iter().map(|i| (*i, free[*i] - MIB)).collect();
    let all = requests.iter().map(|r| r.what).zip(sizes).chain([(What::Swap, swap)]);
    for (what, bytes) in all {
        let mut left = bytes;
        let mut disks = Vec::new();
        for (disk, spare) in spare.iter_mut().filter(|(_, spare)| *spare > 0) {
            if left == 0 {
                break;
            }
            let take = left.min(*spare);
            *spare -= take;
            left -= take;
            disks.push(*disk);
        }
        volumes.push(Volume { what, bytes, disks });
    }
    Some(volumes)
}

/// `autopart --type=plain`: partitions; each growing one goes where all together grow most.
pub fn plain(pc: &Pc) -> Layout {
    let mut free = free(pc);
    let room: u64 = free.iter().sum();
    let mut volumes = Vec::new();
    for (what, size) in [(What::Swap, swap(pc, room)), (What::Boot, boot(pc))] {
        let at = smallest_that_fits(&free, size)?;
        free[at] -= size;
        volumes.push(Volume::new(what, size, at));
    }
    let requests = requests(room);
    let mut placed: Vec<(usize, &Request)> = Vec::new();
    // Bigger base sizes first.
    for request in &requests {
        let mut best: Option<(u64, usize)> = None;
        for at in 0..free.len() {
            let mut tried = placed.clone();
            tried.push((at, request));
            let Some(growth) = growth(&tried, &free) else { continue };
            if best.is_none_or(|(most, _)| growth > most) {
                best = Some((growth, at));
            }
        }
        placed.push((best?.1, request));
    }
    for (disk, room) in free.iter().enumerate() {
        let here: Vec<&Request> = placed.iter().filter(|(at, _)| *at == disk).map(|(_, r)| *r).collect();
        for (request, size) in here.iter().zip(grow(&here, *room)?) {
            volumes.push(Volume::new(request.what, size, disk));
        }
    }
    Some(volumes)
}

/// How much all grow together. `None`: they do not fit.
fn growth(placed: &[(usize, &Request)], free: &[u64]) -> Option<u64> {
    let mut total = 0;
    for (disk, room) in free.iter().enumerate() {
        let here: Vec<&Request> = placed.iter().filter(|(at, _)| *at == disk).map(|(_, r)| *r).collect();
        let base: u64 = here.iter().map(|r| r.base).sum();
        total += grow(&here, *room)?.iter().sum::<u64>() - base;
    }
    Some(total)
}
