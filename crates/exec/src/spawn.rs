//! Commands that keep running beside us: daemons of the live system, virtual machines, servers.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::run::{Cmd, end_group};

/// Where a running command's output goes.
#[derive(Debug)]
pub enum Streams {
    /// Standard input and output are pipes in [`Running`]; standard error goes to the file.
    Piped {
        /// Where standard error goes.
        errors: File,
    },
    /// Both outputs go to the file; standard input is closed.
    Log(File),
    /// Both outputs are ours; standard input is closed.
    Inherited,
}

/// A command that keeps running. Dropping it ends the command and its whole process group.
///
/// The kernel ends it too when the *thread* that started it ends, however that happens: nothing
/// outlives us, and whoever starts a command here keeps it on the same thread or a longer-lived one.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: std::process::Child,
}

impl Cmd {
    /// Starts the command and returns at once. The time limit does not count here.
    pub fn spawn(&self, streams: Streams) -> Result<Running> {
        let mut command = self.command()?;
        match streams {
            Streams::Piped { errors } => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
            }
            Streams::Log(file) => {
                let again = file.try_clone().context("sharing the log between both outputs")?;
                command.stdin(Stdio::null()).stdout(file).stderr(again);
            }
            Streams::Inherited => {
                command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
            }
        }
        die_with_us(&mut command);
        let child = crate::run::spawn(&mut command).with_context(|| format!("starting `{self}`"))?;
        Ok(Running { command: self.to_string(), child })
    }
}

#[expect(unsafe_code, reason = "pre_exec has no safe form")]
fn die_with_us(command: &mut std::process::Command) {
    let ask = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipes, once.
    pub fn pipes(&mut self) -> Result<(ChildStdin, ChildStdout)> {
        let stdin = self.child.stdin.take().context("the command has no pipe for its input")?;
        let stdout = self.child.stdout.take().context("the command has no pipe for its output")?;
        Ok((stdin, stdout))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking for the state of `{}`", self.command))
    }

    /// Waits until it ends by itself; `None` when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            match self.ended()? {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                state => return Ok(state),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end_group(&mut self.child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn speaks_through_pipes_and_is_ended_by_drop() {
        let errors = File::create("/dev/null").unwrap();
        let mut running = Cmd::new("cat").spawn(Streams::Piped { errors }).unwrap();
        let (mut input, mut output) = running.pipes().unwrap();
        input.write_all(b"hello\n").unwrap();
        let mut seen = [0; 6];
        output.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"hello\n");
        assert!(running.ended().unwrap().is_none());
        let id = running.id();
        drop(running);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }
}
