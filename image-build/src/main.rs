//! `akene-image`: builds, stamps and inspects the bootable image.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("akene-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}
