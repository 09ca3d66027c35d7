//! Compares the planner with the published rules of other installers over made-up donated PCs, and measures how long it
//! takes for one to eight disks.
//!
//! `cargo bench -p akene-planner --bench compare`, with `-- N` for N machines. Prints a table for the README.
//!
//! A PC is *usable* when all of this is true:
//!
//! - `/` has at least 6 GiB (a desktop as it is installed, with room for its updates), and 1 GiB more where people's
//!   files lie in it too; a `/home` of its own has at least 1 GiB;
//! - no part of `/`, `/home` or what starts the system lies on a failing disk.
//!
//! Room counts as reached when it is in `/` or `/home` and on no failing disk; a volume that spans a failing disk is not
//! reached at all, because it is lost with it. The whole is the room of all disks that are not failing.
#![allow(missing_docs)]

mod machines;
mod rules;

use std::time::{Duration, Instant};

use akene_planner::{Action, Plan, Role, plan};
use akene_protocol::profile::{Bundle, parse_layer};
use akene_protocol::resolve::{StorageWishes, resolve};
use machines::{Pc, Random, pc};
use rules::{GIB, Layout, MIB, Volume, What, blivet, largest, partman, yast};

const MACHINES: usize = 2000;
const SEED: u64 = 2007;

/// What a desktop wishes; both may span disks as a last resort.
const PROFILE: &str = "[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n[storage]\nrollback = \"never\"\n\
    [storage.volumes.root]\nmin = \"6 GiB\"\nspan = true\n[storage.volumes.home]\nspan = true\n";

fn main() {
    let number = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(MACHINES);
    let mut random = Random(SEED);
    let pcs: Vec<Pc> = (0..number).map(|_| pc(&mut random, None)).collect();
    println!(
        "{number} PCs, of which {} have several disks and {} a failing one\n",
        count(&pcs, |p| p.sizes.len() > 1),
        count(&pcs, |p| p.failing.contains(&true))
    );
    println!(
        "| rule | makes a table | usable | `/` of 20 GiB | room reached | something on a failing disk | `/` or `/home` over several disks |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    row("Akène", &pcs, ours);
    row("partman-auto, recipe `home` (Debian)", &pcs, partman::layout);
    row("blivet, volume group (Fedora's default)", &pcs, blivet::lvm);
    row("blivet, partitions", &pcs, blivet::plain);
    row("YaST's ranking, our volumes", &pcs, yast::layout);
    row("largest disk, whole (autoinstall)", &pcs, largest::layout);
    let best = count(&pcs, possible);
    println!("\nDisks that are not failing have the room at all on {}", percent(best, pcs.len()));
    times(&mut random);
}

fn count(pcs: &[Pc], what: impl Fn(&Pc) -> bool) -> usize {
    pcs.iter().filter(|pc| what(pc)).count()
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

/// Whether there is any way: 7 GiB and the smallest boot chain on disks that are not failing.
fn possible(pc: &Pc) -> bool {
    let good = pc.sizes.iter().zip(&pc.failing).filter(|(_, failing)| !**failing);
    good.map(|(size, _)| *size).sum::<u64>() >= 7 * GIB + 577 * MIB
}

fn row(name: &str, pcs: &[Pc], rule: impl Fn(&Pc) -> Layout) {
    let (mut tables, mut usable, mut enough, mut risky, mut spanned) = (0, 0, 0, 0, 0);
    let (mut reached, mut whole) = (0u64, 0u64);
    for pc in pcs {
        whole += pc.sizes.iter().zip(&pc.failing).filter(|(_, f)| !**f).map(|(s, _)| *s).sum::<u64>();
        let Some(volumes) = rule(pc) else { continue };
        let volumes: Vec<Volume> = volumes.into_iter().filter(|v| v.bytes > 0).collect();
        check(name, pc, &volumes);
        let on_failing = |v: &Volume| v.disks.iter().any(|d| pc.failing[*d]);
        let matters = |v: &&Volume| v.what != What::Swap;
        let files = |v: &&Volume| matches!(v.what, What::Root | What::Home);
        tables += 1;
        usable += usize::from(is_usable(pc, &volumes));
        enough += usize::from(size(&volumes, What::Root) >= 20 * GIB && is_usable(pc, &volumes));
        risky += usize::from(volumes.iter().any(on_failing));
        spanned += usize::from(volumes.iter().filter(files).any(|v| v.disks.len() > 1));
        // A system that does not start with a failing disk reaches nothing.
        if !volumes.iter().filter(matters).any(|v| v.what != What::Home && on_failing(v)) {
            reached += volumes.iter().filter(files).filter(|v| !on_failing(v)).map(|v| v.bytes).sum::<u64>();
        }
    }
    let of = |n: usize| percent(n, pcs.len());
    let share = format!("{:.1} %", reached as f64 * 100.0 / whole.max(1) as f64);
    println!(
        "| {name} | {} | {} | {} | {share} | {} | {} |",
        of(tables),
        of(usable),
        of(enough),
        of(risky),
        of(spanned)
    );
}

fn size(volumes: &[Volume], what: What) -> u64 {
    volumes.iter().filter(|v| v.what == what).map(|v| v.bytes).sum()
}

fn is_usable(pc: &Pc, volumes: &[Volume]) -> bool {
    let (root, home) = (size(volumes, What::Root), size(volumes, What::Home));
    let room = if home == 0 { root >= 7 * GIB } else { root >= 6 * GIB && home >= GIB };
    let sound = |v: &Volume| v.what == What::Swap || v.disks.iter().all(|d| !pc.failing[*d]);
    room && volumes.iter().all(sound)
}

/// No rule gives out more than there is: that would be our mistake.
fn check(name: &str, pc: &Pc, volumes: &[Volume]) {
    let all: u64 = volumes.iter().map(|v| v.bytes).sum();
    assert!(all <= pc.sizes.iter().sum(), "{name}: {volumes:?} on {:?}", pc.sizes);
    for (disk, size) in pc.sizes.iter().enumerate() {
        let alone: u64 = volumes.iter().filter(|v| v.disks == [disk]).map(|v| v.bytes).sum();
        assert!(alone <= *size, "{name}: {volumes:?} on {:?}", pc.sizes);
    }
}

fn wishes(pc: &Pc) -> StorageWishes {
    let profile = parse_layer(PROFILE, "profiles/bench.toml").expect("the profile is right");
    let bundle =
        Bundle { site: "bench".into(), name: "bench".into(), revision: "0".into(), classes: vec![], profile };
    resolve(&bundle, &pc.inventory, None).expect("the profile is complete").storage
}

fn ours(pc: &Pc) -> Layout {
    let plan: Plan = plan(&wishes(pc), &pc.inventory).ok()?;
    let number = |name: &str| pc.inventory.disks.iter().position(|d| d.name == name);
    let what = |role: &Role| match role {
        Role::BiosBoot | Role::Esp | Role::Boot => Some(What::Boot),
        Role::Root => Some(What::Root),
        Role::Swap => Some(What::Swap),
        Role::Volume(_) => Some(What::Home),
        Role::Physical(_) | Role::Old | Role::Spare | Role::Foreign => None,
    };
    let mut volumes = Vec::new();
    for disk in &plan.disks {
        for p in disk.partitions.iter().filter(|p| p.action != Action::Delete) {
            let Some(what) = what(&p.purpose) else { continue };
            volumes.push(Volume::new(what, p.size.0, number(&disk.disk.name)?));
        }
    }
    for group in &plan.groups {
        let disks = group.members.iter().map(|m| number(&m.disk)).collect::<Option<Vec<_>>>()?;
        volumes.push(Volume { what: what(&group.purpose)?, bytes: group.size.0, disks });
    }
    Some(volumes)
}

fn times(random: &mut Random) {
    println!("\n| disks | PCs | half take at most | the slowest |");
    println!("|---:|---:|---:|---:|");
    for disks in 1..=8 {
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let pc = pc(random, Some(disks));
                let wishes = wishes(&pc);
                let start = Instant::now();
                drop(std::hint::black_box(plan(&wishes, &pc.inventory)));
                start.elapsed()
            })
            .collect();
        times.sort();
        let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
        println!(
            "| {disks} | {} | {} | {} |",
            times.len(),
            ms(times[times.len() / 2]),
            ms(times[times.len() - 1])
        );
    }
}
