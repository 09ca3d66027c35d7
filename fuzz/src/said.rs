//! Programs that say what the fuzzer wants.

use akene_exec::{Cmd, ExecError, Output, Runner};
use anyhow::Result;

/// Whatever is run says this.
#[derive(Clone, Debug)]
pub struct Said {
    /// All it writes.
    pub text: Vec<u8>,
    /// Its exit code.
    pub code: i32,
}

impl Runner for Said {
    fn run_lines(&self, cmd: &Cmd, line: &mut dyn FnMut(&str)) -> Result<Output> {
        let text = String::from_utf8_lossy(&self.text);
        text.lines().for_each(line);
        let output = Output { stdout: self.text.clone(), stderr: self.text.clone() };
        if self.code == 0 {
            return Ok(output);
        }
        let (command, how) = (cmd.to_string(), format!("exit status: {}", self.code));
        Err(ExecError { command, code: Some(self.code), how, tail: text.into_owned(), output }.into())
    }
}
