//! An oracle for the search: every place of every item, with the sizes that follow, judged by its own reckoning.
//!
//! It was written from `docs/planner.md` and shares no code with what it judges, only the types that say what
//! the problem is. It leaves nothing out and knows of no symmetry, so that it takes only small machines.

mod cases;
mod levels;
mod random;
mod sizes;

use proptest::prelude::*;

use crate::problem::{Kind, Layout, Problem};
use levels::{Levels, Place, house, levels};
use random::{large_machine, machine};
use sizes::House;

/// Places that are tried of one machine, at most.
const MOST: u64 = 2000;

/// Every place of every item.
fn places(problem: &Problem<'_>) -> Vec<Place> {
    let count = problem.regions.len();
    let mut all: Vec<Place> = vec![Vec::new()];
    for item in &problem.items {
        let spread = matches!(item.kind, Kind::Volume(wish) if wish.span);
        let ways: Vec<Vec<usize>> = (1u32..1 << count)
            .filter(|set| spread || set.count_ones() == 1)
            .map(|set| (0..count).filter(|r| set & 1 << r != 0).collect())
            .collect();
        all = all
            .iter()
            .flat_map(|place| ways.iter().map(move |way| [&place[..], std::slice::from_ref(way)].concat()))
            .filter(|place| place.iter().filter(|at| at.len() > 1).count() <= 1)
            .collect();
    }
    all
}

/// How many places there are, about.
fn effort(problem: &Problem<'_>) -> u64 {
    let count = problem.regions.len() as u32;
    let spread = problem.items.iter().filter(|i| matches!(i.kind, Kind::Volume(wish) if wish.span)).count();
    let single = u64::from(count).pow(problem.items.len() as u32);
    single + spread as u64 * (1 << count) * single / u64::from(count)
}

/// The best of all layouts.
fn best(problem: &Problem<'_>) -> Option<(Levels, Place)> {
    best_of(problem, &|_| true).map(|(levels, place, _)| (levels, place))
}

/// The best of those layouts whose place is `admitted`, with its sizes.
fn best_of(problem: &Problem<'_>, admitted: &dyn Fn(&Place) -> bool) -> Option<(Levels, Place, Vec<u64>)> {
    let judged = places(problem).into_iter().filter(admitted).filter_map(|place| {
        let house = house(problem, &place)?;
        let sizes = house.grain_by_grain()?;
        Some((levels(problem, &place, &house, &sizes), place, sizes))
    });
    judged.min()
}

/// The layout that is taken: nothing is spread but as the last resort.
fn taken(problem: &Problem<'_>) -> Option<(Levels, Place)> {
    let (levels, place, sizes) = best_of(problem, &|_| true)?;
    let whole = best_of(problem, &|place| place.iter().all(|at| at.len() == 1));
    let spread = place.iter().position(|at| at.len() > 1);
    match (spread, whole) {
        (Some(volume), Some((without, there, alone))) => {
            let keeps_off = levels.risk < without.risk;
            let twice =
                sizes[volume] / 2 >= alone[volume] && alone[volume] < problem.items[volume].ask.enough;
            Some(if keeps_off || twice { (levels, place) } else { (without, there) })
        }
        _ => Some((levels, place)),
    }
}

/// The rooms of a place and the least sizes, if these fit.
fn least(problem: &Problem<'_>, place: &Place) -> Option<House> {
    let house = house(problem, place)?;
    let least: Vec<u64> = house.guests.iter().map(|g| g.min).collect();
    house.fits(&least).then_some(house)
}

/// What is wrong with a layout of the planner: with its sizes, and with what it says of itself.
fn wrong(problem: &Problem<'_>, layout: &Layout) -> Option<String> {
    let place: Place =
        layout.places.iter().map(|at| (0..16).filter(|r| at & 1 << r != 0).collect()).collect();
    let Some(house) = house(problem, &place) else { return Some(format!("{place:?} is no place")) };
    if !house.fits(&layout.sizes) {
        return Some(format!("{:?} do not fit into {house:?}", layout.sizes));
    }
    // Physical volumes: in the regions of the volume that is spread, large enough, and together what it needs.
    let spread: Vec<usize> = (0..place.len()).filter(|i| place[*i].len() > 1).collect();
    let regions: Vec<usize> = layout.members.iter().map(|(r, _)| *r).collect();
    match spread[..] {
        [] if !regions.is_empty() => return Some(format!("{:?} of nobody", layout.members)),
        [volume] => {
            let mut sorted = regions.clone();
            sorted.sort_unstable();
            let sum: u64 = layout.members.iter().map(|(_, grains)| grains).sum();
            let room = |r: usize| {
                let others = (0..place.len()).filter(|i| *i != volume && place[*i] == [r]);
                house.regions[r] - others.map(|i| layout.sizes[i]).sum::<u64>()
            };
            if sorted != place[volume]
                || layout.members.iter().any(|(r, grains)| *grains < 8 || *grains > room(*r))
                || sum != (layout.sizes[volume] + 4 * regions.len() as u64).max(8 * regions.len() as u64)
            {
                return Some(format!("{:?} for {} in {house:?}", layout.members, layout.sizes[volume]));
            }
        }
        _ => {}
    }
    levels(problem, &place, &house, &layout.sizes)
        .differs(&layout.objective)
        .map(|what| format!("of its own layout, {what}: {place:?}, sizes {:?}", layout.sizes))
}

/// So many machines; more with `AKENE_ORACLE=100000`.
fn config() -> ProptestConfig {
    let cases = std::env::var("AKENE_ORACLE").map_or(3000, |n| n.parse().expect("AKENE_ORACLE is a number"));
    // What is found gets a name in `cases`.
    ProptestConfig {
        max_global_rejects: u32::MAX,
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config())]

    /// The search finds the best layout there is, and none where there is none.
    #[test]
    fn no_layout_is_better(machine in machine()) {
        let problem = machine.problem();
        prop_assume!(effort(&problem) <= MOST);
        let found = problem.solve(&|_| true);
        let best = best(&problem);
        prop_assert_eq!(problem.feasible(), best.is_some(), "feasible, {:?}", best);
        match (found, best) {
            (None, None) => {}
            (Some(found), Some((levels, place))) => {
                prop_assert_eq!(wrong(&problem, &found), None, "{:?}", problem.regions);
                let differs = levels.differs(&found.objective);
                prop_assert_eq!(differs, None, "{:?} is the best, {:?} was found, {:?}",
                    place, found.places, problem.regions);
            }
            (found, best) => prop_assert!(false, "found {:?}, the best is {:?}", found, best),
        }
    }

    /// A volume is spread as the last resort only.
    #[test]
    fn nothing_is_spread_for_little(machine in machine()) {
        let mut problem = machine.problem();
        prop_assume!(effort(&problem) <= MOST && problem.items.iter().any(|i| i.wish().is_some_and(|w| w.span)));
        let taken = taken(&problem);
        let settled = problem.settle();
        prop_assert_eq!(settled.is_some(), taken.is_some());
        if let (Some((layout, other)), Some((levels, place))) = (settled, taken) {
            prop_assert_eq!(levels.differs(&layout.objective), None, "{:?}, not {:?}", place, layout.places);
            prop_assert_eq!(wrong(&problem, &layout), None);
            // What was not done would have been better.
            prop_assert!(other.is_none_or(|other| other.objective < layout.objective && !problem.spread));
        }
    }

    /// The sizes of a place are what grain by grain comes to, however many grains there are.
    #[test]
    fn sizes_are_exact_to_the_last_grain(machine in large_machine(), at in any::<prop::sample::Index>()) {
        let problem = machine.problem();
        prop_assume!(effort(&problem) <= MOST);
        let all: Vec<Place> =
            places(&problem).into_iter().filter(|p| least(&problem, p).is_some()).collect();
        prop_assume!(!all.is_empty());
        let place = at.get(&all);
        let masks: Vec<u16> = place.iter().map(|at| at.iter().map(|r| 1 << r).sum()).collect();
        let house = least(&problem, place).unwrap();
        let sizes = house.grain_by_grain().unwrap();
        let found = problem.judge(&masks, None);
        prop_assert_eq!(found.as_ref().map(|l| house.worth(&l.sizes)), Some(house.worth(&sizes)), "{:?}", house);
        prop_assert_eq!(found.and_then(|l| wrong(&problem, &l)), None);
    }

    /// Grain by grain comes to what all sharings come to.
    #[test]
    fn grain_by_grain_is_the_best_sharing(machine in machine(), at in any::<prop::sample::Index>()) {
        let problem = machine.problem();
        let wide: u64 = problem.items.iter().map(|i| i.max.unwrap_or(i.ask.enough + 12) - i.ask.min + 1).product();
        prop_assume!(effort(&problem) <= MOST && wide < 20_000);
        let all: Vec<House> = places(&problem).iter().filter_map(|p| least(&problem, p)).collect();
        prop_assume!(!all.is_empty());
        let house = at.get(&all);
        let (tried, grown) = (house.by_trying_all(), house.grain_by_grain());
        prop_assert_eq!(tried.map(|s| house.worth(&s)), grown.map(|s| house.worth(&s)), "{:?}", house);
    }
}
