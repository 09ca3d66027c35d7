//! `akene-lay LOCK ROOT TOOLS`: fetches the packages of a lock by their sums, and makes a root of them.
//!
//! Prints, as one line of JSON, how long each part took in seconds and the most memory this program itself had
//! (`peak`, in KiB). The files lie in the root's own filesystem meanwhile, as apt has them there.

use std::path::Path;
use std::time::Instant;

use akene_archive::{Fetcher, redirect_policy};
use akene_lay::{Debs, make};
use akene_protocol::lock::Lock;
use anyhow::{Context, Result, anyhow, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [lock, root, tools] = words.as_slice() else { bail!("usage: akene-lay LOCK ROOT TOOLS") };
    let text = std::fs::read(lock).with_context(|| format!("reading {lock}"))?;
    let lock = Lock::parse(&text).map_err(|issue| anyhow!("{issue}"))?;
    let (root, tools) = (Path::new(root), Path::new(tools));
    let pool = root.join(".akene-stage");
    std::fs::create_dir_all(&pool).with_context(|| format!("making {}", pool.display()))?;
    if tools.exists() {
        std::fs::remove_dir_all(tools).with_context(|| format!("emptying {}", tools.display()))?;
    }
    std::fs::create_dir_all(tools).with_context(|| format!("making {}", tools.display()))?;

    let started = Instant::now();
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::blocking::Client::builder().redirect(redirect_policy()).no_proxy().build()?;
    Fetcher::new(client).fetch(&lock.packages, &pool, &|_| {}).context("fetching the packages")?;
    let fetched = started.elapsed();

    let files = |base: bool| {
        lock.packages.iter().filter(|p| p.base == base).map(|p| pool.join(&p.file)).collect::<Vec<_>>()
    };
    let (base, rest) = (files(true), files(false));
    let made = make(&Debs { base: &base, rest: &rest, pool: &pool }, root, tools)?;
    std::fs::remove_dir_all(&pool).context("removing the files of the packages")?;
    let status = std::fs::read_to_string("/proc/self/status").context("reading the use of memory")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next());
    let peak: u64 = peak.and_then(|p| p.parse().ok()).context("finding the peak of memory")?;
    print!("{{\"peak\":{peak},\"fetch\":{}", fetched.as_secs_f64());
    print!(",\"early initramfs\":{}", made.early);
    made.again.iter().for_each(|why| eprintln!("{why}"));
    made.laps.iter().for_each(|(what, took)| print!(",\"{what}\":{}", took.as_secs_f64()));
    println!("}}");
    Ok(())
}
