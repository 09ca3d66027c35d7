//! The one place that spawns processes.
//!
//! A command is an argument vector, never a shell line. It runs with standard input closed (or
//! fed from memory), `LC_ALL=C`, and a time limit; when it fails, the error names the whole
//! command, how it ended and the last lines it wrote. What changes the machine goes through the
//! [`Runner`] trait, so that a test or a dry run can record it instead.
//!
//! A command may run inside another root ([`Cmd::chroot`]): it then gets a private mount
//! namespace with `/proc`, `/sys`, `/dev` and `/run` in place, made between `fork` and `exec`.
//! Whatever happens to the agent, nothing is left mounted.

mod chroot;
mod no_sync;
mod run;
mod spawn;

pub use chroot::{ChrootMounts, own_mounts};
pub use run::{Cmd, ExecError, Output, RecordingRunner, Runner, SystemRunner};
pub use spawn::{Running, Streams};
