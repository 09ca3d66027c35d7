//! What each command does.

mod lock;
mod machines;
mod media;
mod newcomers;
mod orders;
mod pool;
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
        Command::Pool(command) => pool::run(&command).map(done),
        Command::Lock(args) => lock::run(args),
        Command::Profile(command) => profiles::run(command),
        Command::Machines { dir, json } => machines::list(&dir, json).map(done),
        Command::Show { machine, json } => machines::show(&machine, json).map(done),
        Command::Events { machine } => machines::events(&machine).map(done),
        Command::Allow { machine, wipe, streamed } => machines::allow(&machine, wipe, streamed).map(done),
        Command::Order(order) => orders::give(&order).map(done),
        Command::Orders(command) => orders::run(command).map(done),
        Command::Machine(command) => newcomers::run(&command).map(done),
        Command::Media(command) => media::run(&command).map(done),
        Command::Different { machine } => machines::different(&machine).map(done),
    }
}

/// Prints a line; a reader that went away (`| head`) ends the program quietly, as every filter does.
fn say(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write as _};
    match writeln!(std::io::stdout(), "{}", harmless(text)) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Much of what is shown comes from machines: none of it may give orders to the administrator's terminal.
fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !"\n\t".contains(c), "\u{fffd}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_gives_no_orders_to_the_terminal() {
        assert_eq!(
            super::harmless("a\tb\n\u{1b}]0;x\u{7}\u{9b}2J\ré"),
            "a\tb\n\u{fffd}]0;x\u{fffd}\u{fffd}2J\u{fffd}é"
        );
    }
}
