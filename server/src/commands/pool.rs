//! `pool`.

use akene_server::pool::Pool;
use akene_server::site::Site;
use anyhow::{Result, ensure};

use super::say;
use crate::cli;

/// `pool`.
pub fn run(command: &cli::Pool) -> Result<()> {
    let cli::Pool::Add { dir, files } = command;
    let pool = Pool::of(&Site::open(dir)?);
    let mut failed = 0;
    for file in files {
        match pool.add(file) {
            Ok((sum, new)) => {
                let note = if new { "" } else { "  (was there)" };
                say(&format!("{sum}  {}{note}", file.display()))?;
            }
            Err(error) => {
                failed += 1;
                eprintln!("{}: {error:#}", file.display());
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} files were not taken in", files.len());
    Ok(())
}
