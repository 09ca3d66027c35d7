//! Every target over its seeds and some thousand inputs made from them, the same ones each time.
//! `AKENE_FUZZ_ROUNDS` says how many.

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use akene_fuzz::mutate::{Dice, mutant};
use akene_fuzz::{TARGETS, Target};

/// Inputs per target, unless somebody wants more.
const ROUNDS: usize = 3000;

/// No input of some kilobytes takes longer, on the slowest machine that tests.
const LIMIT: Duration = Duration::from_secs(20);

fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
    let mut seeds: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("reading {}: {e}", dir.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    seeds
}

fn tried(target: &Target, what: &str, input: &[u8]) {
    let run = target.run;
    let started = Instant::now();
    let good = catch_unwind(|| run(input)).is_ok();
    let took = started.elapsed();
    if !good || took > LIMIT {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-crash", target.name));
        std::fs::write(&file, input).unwrap();
        panic!(
            "{} with {what} took {took:?}, in order: {good}; the input is {}",
            target.name,
            file.display()
        );
    }
}

fn short(target: &Target) {
    let rounds = std::env::var("AKENE_FUZZ_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |n| n.parse().expect("AKENE_FUZZ_ROUNDS is a number"));
    let seeds = seeds(target);
    let started = Instant::now();
    tried(target, "nothing", &[]);
    for (name, seed) in &seeds {
        tried(target, &format!("the seed {name}"), seed);
    }
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, seed)| seed).collect();
    let mut dice = Dice(0x00ac_e4e5);
    for round in 0..rounds {
        tried(target, &format!("input {round}"), &mutant(&seeds, &mut dice));
    }
    println!("{}: {} seeds, {rounds} inputs in {:?}", target.name, seeds.len(), started.elapsed());
}

/// A test for each, so that they run side by side and one crash does not hide another.
macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let target = TARGETS.iter().find(|t| t.name == stringify!($name));
                short(target.expect("it is in the list"));
            }
        )*

        #[test]
        fn all_targets_are_here() {
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

targets! { deb tar control database apt release answers lock signed letter documents profile inventory table probe network media }
