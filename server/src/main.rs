//! `akene-server`: the server of a site, and the administrator's commands.

mod cli;
mod commands;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("akene-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
