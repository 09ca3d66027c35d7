//! What apt says.
//!
//! apt has no machine-readable errors; its messages under `LC_ALL=C` have been stable for ten years and are
//! matched by their fixed parts (`refusal.rs`). What is not recognised is passed on in apt's own words.

use akene_exec::ExecError;
use anyhow::Result;

/// The complaints of an apt run.
#[derive(Default)]
pub(crate) struct Apt {
    /// Lines that began with `E:`.
    pub errors: Vec<String>,
    /// Lines that began with `W:`.
    pub warnings: Vec<String>,
}

impl Apt {
    /// Takes the complaints out of a failure. A failure in which apt did not speak (it is not installed, it
    /// ran out of time) is handed back as it is.
    pub fn from_failure(failure: anyhow::Error) -> Result<Self> {
        let tail = match failure.downcast_ref::<ExecError>() {
            Some(error) if error.code.is_some() => &error.tail,
            _ => return Err(failure),
        };
        let apt = Self::from_text(tail);
        if apt.errors.is_empty() && apt.warnings.is_empty() {
            return Err(failure);
        }
        Ok(apt)
    }

    /// Takes the complaints out of what apt said on standard error.
    pub fn from_text(text: &str) -> Self {
        let said = |mark: &str| -> Vec<String> {
            text.lines().filter_map(|l| l.strip_prefix(mark)).map(|l| l.trim().to_owned()).collect()
        };
        Apt { errors: said("E:"), warnings: said("W:") }
    }

    /// Everything in one line, for what is not recognised.
    pub fn words(&self) -> String {
        let lines = if self.errors.is_empty() { &self.warnings } else { &self.errors };
        lines.join("; ")
    }
}
