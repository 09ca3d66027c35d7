//! `akene-test-mirror`: the host's own mirror, cached, on a port of the loopback interface.
//!
//! Prints the addresses of the main and the security archive and serves until its input ends.

use std::io::Read;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let mirror = akene_tests::mirror::Mirror::start()?;
    println!("{}\n{}", mirror.main(), mirror.security());
    std::io::stdin().read_to_end(&mut Vec::new()).context("waiting for the end of the input")?;
    Ok(())
}
