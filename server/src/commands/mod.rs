//! What each command does.

mod machines;
mod profiles;
mod site;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command};

/// Carries out a command.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Init(options) => site::init(&options).map(done),
        Command::Serve { dir, listen } => site::serve(dir, listen).map(done),
        Command::Certificate(command) => site::certificate(&command).map(done),
        Command::Token(command) => site::token(command).map(done),
        Command::Profile(command) => profiles::run(command),
        Command::Machines { dir, json } => machines::list(&dir, json).map(done),
        Command::Show { machine, json } => machines::show(&machine, json).map(done),
        Command::Events { machine } => machines::events(&machine).map(done),
        Command::Allow { machine, wipe } => machines::allow(&machine, wipe).map(done),
        Command::Different { machine } => machines::different(&machine).map(done),
    }
}

/// Prints a line; a reader that went away (`| head`) ends the program quietly, as every filter does.
fn say(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write as _};
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}
