//! Virtual machines: what is installed from a medium starts, is ordered anew from far away, and comes back whatever happens.
//!
//! One program, so that it can be given one core, or all of them, and from one image. The machines are watched through their
//! serial console and the server; nothing waits for time to pass. Each failure shows the last words of the machine.
#![allow(missing_docs)]

mod menu;
mod offline;
mod orders;
mod rescue;
mod span;
mod way;

use std::time::Duration;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::journey::{self, Built};
use akene_tests::mirror::Mirror;
use akene_tests::vm::Accelerator;

const MINUTE: Duration = Duration::from_secs(60);

fn run(cmd: Cmd) -> String {
    SystemRunner.run(&cmd).unwrap_or_else(|e| panic!("{e:#}")).text()
}

/// Whether this is the full run; says aloud what is left out otherwise.
fn full(what: &str) -> bool {
    let full = std::env::var_os("AKENE_FULL").is_some();
    if !full {
        eprintln!("SKIPPED: {what}: part of the full run (AKENE_FULL=1)");
    }
    full
}

/// Whether a virtual machine can be tested here; says aloud why not. What this test mounts is its own from now on: a disk of
/// which another test had a copy mounted would be written to by two.
fn ready() -> bool {
    let possible = journey::possible();
    if possible {
        akene_exec::own_mounts().unwrap();
    }
    possible
}

/// The archive and the image, where a virtual machine can be tested.
fn image() -> Option<(Mirror, Built)> {
    if !ready() {
        return None;
    }
    let mirror = Mirror::start().unwrap();
    let built = journey::image_of_this_run(&mirror).unwrap();
    println!("running under {:?}", Accelerator::find(&built.kernel()));
    Some((mirror, built))
}
