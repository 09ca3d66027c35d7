//! `lock`.

use std::process::ExitCode;

use akene_exec::SystemRunner;
use akene_server::lock::{Order, describe, lock, on_stderr};
use akene_server::site::Site;
use anyhow::Result;

use super::say;
use crate::cli::Lock;

/// `lock`. With `--check` it fails when a lock is not what the archives would give now.
pub fn run(args: Lock) -> Result<ExitCode> {
    let site = Site::open(&args.dir)?;
    let order = Order { profiles: args.profiles, check: args.check, proxy: args.proxy };
    let mut differs = false;
    lock(&site, &SystemRunner, &order, &mut on_stderr(), &mut |locked| {
        differs |= locked.different;
        say(&describe(locked, order.check))
    })?;
    Ok(if order.check && differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
