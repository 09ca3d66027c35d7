//! Doing things, or saying what would be done: the same code for both.
//!
//! Everything that changes a disk goes through [`Work`]. For real it is done; on a dry run only its
//! description is kept, in the order in which it would happen.

use std::sync::{Mutex, PoisonError};

use akene_exec::{Cmd, Runner};
use anyhow::Result;

/// How the steps of a plan are taken.
pub(super) enum Work<'a> {
    /// They are taken.
    Real(&'a dyn Runner),
    /// They are written down.
    Dry(Mutex<Vec<String>>),
}

impl<'a> Work<'a> {
    /// One that writes down.
    pub(super) fn dry() -> Self {
        Work::Dry(Mutex::default())
    }

    /// Runs a command that changes something.
    pub(super) fn run(&self, cmd: &Cmd) -> Result<()> {
        match self {
            Work::Real(runner) => runner.run(cmd).map(drop),
            Work::Dry(_) => {
                self.say(cmd.to_string());
                Ok(())
            }
        }
    }

    /// Does what no command does. The description says what to which device.
    pub(super) fn act(
        &self,
        what: impl FnOnce() -> String,
        action: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        match self {
            Work::Real(_) => action(),
            Work::Dry(_) => {
                self.say(what());
                Ok(())
            }
        }
    }

    /// Asks something about what was done: on a dry run there is no answer yet.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&dyn Runner) -> Result<T>) -> Result<Option<T>> {
        match self {
            Work::Real(runner) => question(*runner).map(Some),
            Work::Dry(_) => Ok(None),
        }
    }

    /// What was written down.
    pub(super) fn said(self) -> Vec<String> {
        match self {
            Work::Real(_) => Vec::new(),
            Work::Dry(said) => said.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn say(&self, what: String) {
        if let Work::Dry(said) = self {
            said.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
    }
}
