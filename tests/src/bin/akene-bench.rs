//! `akene-bench small|desktop [ROUNDS [SECONDS [MAKER…]]]`: our engine beside the others.
//!
//! Runs rounds (3) in which each maker has its turn, and begins no run when SECONDS are over. Prints each run, and
//! after each round the table so far. Makers that are not on this machine are left out, which is said.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use akene_tests::bench::{Bench, Maker, table};
use akene_tests::disks::can_run;
use akene_tests::mirror::{Mirror, cache_dir};
use akene_tests::reference::{self, Archive};
use akene_tests::sets;
use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, otherwise: u64| match words.get(at) {
        None => Ok(otherwise),
        Some(word) => word.parse().with_context(|| format!("reading {word} as a number")),
    };
    let (packages, recommends, to) = match words.first().map(String::as_str) {
        Some("small") => (sets::SERVER, false, Maker::Mmdebstrap),
        Some("desktop") => (sets::DESKTOP, true, Maker::AptEatmydata),
        _ => bail!("usage: akene-bench small|desktop [ROUNDS [SECONDS [MAKER…]]]"),
    };
    let (rounds, limit) = (number(1, 3)?, Duration::from_secs(number(2, 4 * 3600)?));
    let chosen = words.get(3..).unwrap_or_default();
    let known: Vec<&str> = Maker::ALL.iter().map(|m| m.name()).collect();
    if let Some(odd) = chosen.iter().find(|c| !known.contains(&c.as_str())) {
        bail!("{odd} is none of {}", known.join(", "));
    }
    let makers: Vec<Maker> = Maker::ALL
        .into_iter()
        .filter(|m| chosen.is_empty() || chosen.iter().any(|c| c == m.name()))
        .filter(|m| m.is_here())
        .collect();
    if !can_run() {
        bail!("nothing can be measured here");
    }
    let program =
        PathBuf::from(std::env::var_os("AKENE_LAY").context("finding akene-lay: AKENE_LAY is not set")?);
    let mirror = Mirror::start()?;
    let dir = tempfile::tempdir_in(cache_dir()?).context("making a working directory")?;
    let archive = Archive::debian(&mirror, "trixie");
    let set = reference::choose(dir.path(), &archive, packages, recommends)?;
    let local = set.serve()?;
    println!("{} packages, Debian trixie", set.len());
    let bench = Bench::new(&set, &local, dir.path(), &program, recommends, &makers)?;
    let (started, mut all) = (Instant::now(), Vec::new());
    for round in 1..=rounds {
        let mut samples = Vec::new();
        for maker in &makers {
            if started.elapsed() > limit {
                break;
            }
            match bench.run(*maker) {
                Ok(sample) => {
                    println!("round {round}, {}: {sample:?}", maker.name());
                    samples.push((*maker, sample));
                }
                Err(error) => println!("round {round}, {}: FAILED: {error:#}", maker.name()),
            }
        }
        all.push(samples);
        println!("{}", table(&all, to));
    }
    Ok(())
}
