//! `akene-roots REFERENCE OTHER [SECONDS]`: what is different in two installed roots.
//!
//! SECONDS since 1970 is when the older of the two was begun: files younger than that in both were made by
//! the installations, and their times are not compared. Without it that is an hour ago. Exits with 1 where
//! there are differences that are not permitted.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use akene_tests::roots::compare;
use anyhow::{Context, Result, bail};

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (reference, other, since) = match words.as_slice() {
        [reference, other] => (reference, other, SystemTime::now() - Duration::from_secs(3600)),
        [reference, other, seconds] => {
            let seconds = seconds.parse().with_context(|| format!("reading {seconds} as seconds"))?;
            (reference, other, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        }
        _ => bail!("usage: akene-roots REFERENCE OTHER [SECONDS]"),
    };
    let comparison = compare(Path::new(reference), Path::new(other), since)?;
    print!("{comparison}");
    Ok(ExitCode::from(u8::from(!comparison.differences.is_empty())))
}
