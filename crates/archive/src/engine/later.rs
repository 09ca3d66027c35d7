//! Work that packages ask for while they are set up, and that is done at the end instead: once, and beside
//! other work.
//!
//! Programs are only put off if what they make depends on nothing but the files that are there when they run, and
//! if no package's script reads it during the installation. A stand-in, found earlier on `PATH` than the program,
//! writes down how it was called.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result};

/// fontconfig's postinst and its trigger scan all fonts (4 s each); every postinst of a Python package starts the
/// compiler for its own files. Not `update-ca-certificates`: Java's packages read what it makes in their scripts.
const PUT_OFF: [&str; 2] = ["fc-cache", "py3compile"];

/// Where the stand-ins write.
const NOTES: &str = "later";

/// Programs that are put off.
#[derive(Debug)]
pub struct Later {
    dir: PathBuf,
}

impl Later {
    /// Keeps what it needs in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Later { dir: dir.into() }
    }

    /// Makes the stand-ins in `bin` of the directory, which has to be first on the `PATH` of scripts; they see the
    /// directory as `seen`.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn prepare(&self, seen: &str) -> Result<()> {
        let dir = &self.dir;
        let making = || format!("making the stand-ins in {}", dir.display());
        fs::create_dir_all(dir.join("bin")).with_context(making)?;
        for program in PUT_OFF {
            let path = dir.join("bin").join(program);
            // A tab cannot be in any of the arguments these programs get; one call is one line.
            let text = format!(
                "#!/bin/sh\n# Done once, at the end of the installation.\n\
                 {{ printf %s {program}; for a; do printf '\\t%s' \"$a\"; done; echo; }} >> {seen}/{NOTES}\n"
            );
            fs::write(&path, text).with_context(making)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(making)?;
        }
        Ok(())
    }

    /// Does what was put off, each call once and those of one program in their order, while `beside` goes on.
    /// `inside` makes a command in the new root that finds the programs themselves. As in a script, one that
    /// fails is told and stops nothing.
    ///
    /// # Errors
    /// Those of `beside`, or the notes cannot be read.
    pub fn run<T>(
        &self,
        runner: &dyn Runner,
        inside: &dyn Fn(&str) -> Cmd,
        log: &mut dyn FnMut(&str),
        beside: impl FnOnce(&mut dyn FnMut(&str)) -> Result<T>,
    ) -> Result<T> {
        let noted = self.noted()?;
        let command = |program: &String, call: &Vec<String>| inside(program).args(call);
        let programs: Vec<Vec<Cmd>> = noted
            .iter()
            .map(|(program, calls)| calls.iter().map(|c| command(program, c)).collect())
            .collect();
        let trouble = Mutex::new(Vec::new());
        let result = thread::scope(|scope| {
            for calls in &programs {
                let trouble = &trouble;
                scope.spawn(move || {
                    for call in calls {
                        if let Err(error) = runner.run(call) {
                            let mut trouble = trouble.lock().unwrap_or_else(|e| e.into_inner());
                            trouble.push(format!("{error:#}"));
                        }
                    }
                });
            }
            beside(log)
        });
        let trouble = trouble.into_inner().unwrap_or_else(|e| e.into_inner());
        trouble.iter().for_each(|line| log(line));
        result
    }

    /// Program → its calls, each once: where a call is repeated only the last counts.
    fn noted(&self) -> Result<BTreeMap<String, Vec<Vec<String>>>> {
        let path = self.dir.join(NOTES);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        let mut programs: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.split('\t').map(str::to_owned);
            let Some(program) = words.next().filter(|p| PUT_OFF.contains(&p.as_str())) else { continue };
            let call: Vec<String> = words.collect();
            let calls = programs.entry(program).or_default();
            calls.retain(|earlier| *earlier != call);
            calls.push(call);
        }
        Ok(programs)
    }
}

#[cfg(test)]
mod tests {
    use akene_exec::{RecordingRunner, SystemRunner};

    use super::*;

    #[test]
    fn calls_are_noted_and_made_once_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().to_str().unwrap();
        let later = Later::new(dir.path());
        later.prepare(seen).unwrap();
        let call = |program: &str, args: &[&str]| {
            let path = dir.path().join("bin").join(program);
            SystemRunner.run(&Cmd::new(path).args(args)).unwrap();
        };
        call("fc-cache", &["-s", "-v"]);
        call("py3compile", &["-p", ""]);
        call("fc-cache", &["-s", "-f", "-v"]);
        call("py3compile", &[]);
        call("fc-cache", &["-s", "-v"]);
        let runner = RecordingRunner::default();
        let inside = |program: &str| Cmd::new(program);
        let done = later.run(&runner, &inside, &mut |_| {}, |_| Ok("beside")).unwrap();
        assert_eq!(done, "beside");
        let mut calls = runner.calls();
        calls.sort_by_key(|c| c[0].clone());
        let expected: [&[&str]; 4] = [
            &["fc-cache", "-s", "-f", "-v"],
            &["fc-cache", "-s", "-v"],
            &["py3compile", "-p", ""],
            &["py3compile"],
        ];
        assert_eq!(calls, expected);
    }

    #[test]
    fn nothing_was_put_off_where_nothing_called() {
        let dir = tempfile::tempdir().unwrap();
        let later = Later::new(dir.path());
        later.prepare("/run/x").unwrap();
        let runner = RecordingRunner::default();
        later.run(&runner, &|program: &str| Cmd::new(program), &mut |_| {}, |_| Ok(())).unwrap();
        assert!(runner.calls().is_empty());
    }
}
