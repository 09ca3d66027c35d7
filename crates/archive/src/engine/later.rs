//! Work that packages ask for while they are set up, and that is done beside it or at the end instead.
//!
//! Programs are only put off if what they make depends on nothing but the files that are there when they run, and
//! if no package's script reads it during the installation. A stand-in, found earlier on `PATH` than the program,
//! writes down how it was called.
//!
//! dpkg sets packages up one after the other and so leaves all processors but one idle: what needs no more than the
//! files of packages is done there ([`Later::beside`]). The rest is done once ([`Later::run`]).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result};

/// When a program's turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// As soon as it was asked for; and done when packages are set up.
    Soon,
    /// As soon as it was asked for, or at the end.
    SoonOrLast,
    /// Once, at the end.
    Last,
}

/// fontconfig's postinst and its trigger scan all fonts (4 s each); every postinst of a Python package starts the
/// compiler for its own files; that of a kernel lists its modules, that of udev translates its hardware database,
/// and both are first read by the initramfs. Not `update-ca-certificates`: Java's packages read what it makes in
/// their scripts.
const PUT_OFF: [(&str, When); 4] = [
    ("depmod", When::Soon),
    ("systemd-hwdb", When::Soon),
    ("py3compile", When::SoonOrLast),
    ("fc-cache", When::Last),
];

/// How often it is looked whether something was asked for.
const LOOK: Duration = Duration::from_millis(100);

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
        for (program, _) in PUT_OFF {
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

    /// Sets packages up by `beside`, and meanwhile does what it puts off and what needs not wait. `inside` makes a
    /// command in the new root that finds the programs themselves. A call that fails is made once more when the
    /// packages are set up.
    ///
    /// # Errors
    /// Those of `beside`; a call that fails twice and that others count on; the notes cannot be used.
    pub fn beside<T>(
        &self,
        runner: &dyn Runner,
        inside: &dyn Fn(&str) -> Cmd,
        beside: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let programs: BTreeMap<&str, Cmd> =
            PUT_OFF.iter().filter(|(_, when)| *when != When::Last).map(|(p, _)| (*p, inside(p))).collect();
        let make =
            |call: &Call| programs.get(&*call.program).map(|cmd| runner.run(&cmd.clone().args(&call.args)));
        let (result, done) = thread::scope(|scope| {
            let (goes_on, ended) = mpsc::channel::<()>();
            let make = &make;
            let follower = scope.spawn(move || -> Result<Vec<(Call, bool)>> {
                let (mut done, mut pause) = (Vec::new(), LOOK);
                while ended.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let calls = self.calls()?;
                    pause = LOOK;
                    if let Some(call) = calls.get(done.len()) {
                        let went = make(call).is_some_and(|went| went.is_ok());
                        done.push((call.clone(), went));
                        pause = Duration::ZERO;
                    }
                }
                Ok(done)
            });
            let result = beside();
            drop(goes_on);
            (result, follower.join())
        });
        let result = result?;
        let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        // What is left: what came at the last moment, what failed, what is done at the end.
        let calls = self.calls()?;
        let fresh = calls.iter().skip(done.len());
        let left = done.iter().filter(|(_, went)| !went).map(|(call, _)| call).chain(fresh);
        let (soon, last): (Vec<&Call>, Vec<&Call>) = left.partition(|call| call.when() == Some(When::Soon));
        for call in soon {
            let made = make(call).transpose();
            // A script may have let it fail, as `depmod -a` does where another kernel runs than is installed. One for a kernel
            // that is named is needed for its start.
            if call.args.iter().any(|arg| arg.starts_with(|c: char| c.is_ascii_digit())) {
                made.with_context(|| format!("running {} for a package", call.program))?;
            }
        }
        let text: String = last.into_iter().map(Call::line).collect();
        let path = self.dir.join(NOTES);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(result)
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
        // Where a call is repeated only the last counts.
        let mut programs: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        for call in self.calls()? {
            let calls = programs.entry(call.program.clone()).or_default();
            calls.retain(|earlier| *earlier != call);
            calls.push(call);
        }
        let command = |call: &Call| inside(&call.program).args(&call.args);
        let programs: Vec<Vec<Cmd>> =
            programs.values().map(|calls| calls.iter().map(command).collect()).collect();
        let trouble = Mutex::new(Vec::new());
        let result = thread::scope(|scope| {
            for calls in &programs {
                let trouble = &trouble;
                scope.spawn(move || {
                    for call in calls {
                        if let Err(error) = runner.run(call) {
                            let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
                            trouble.push(format!("{error:#}"));
                        }
                    }
                });
            }
            beside(log)
        });
        let trouble = trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
        trouble.iter().for_each(|line| log(line));
        result
    }

    /// All that was noted so far, in its order. A line that is not whole is not there yet.
    fn calls(&self) -> Result<Vec<Call>> {
        let path = self.dir.join(NOTES);
        let text = match fs::read(&path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole.lines().filter_map(Call::read).collect())
    }
}

/// A call of a program that was put off.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    program: String,
    args: Vec<String>,
}

impl Call {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split('\t').map(str::to_owned);
        let call = Call { program: words.next()?, args: words.collect() };
        call.when().map(|_| call)
    }

    fn line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(String::as_str).collect::<Vec<_>>().join("\t") + "\n"
    }

    fn when(&self) -> Option<When> {
        PUT_OFF.iter().find(|(program, _)| *program == self.program).map(|(_, when)| *when)
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
    fn what_needs_not_wait_is_done_beside() {
        let dir = tempfile::tempdir().unwrap();
        let later = Later::new(dir.path());
        later.prepare(dir.path().to_str().unwrap()).unwrap();
        let call = |program: &str, args: &[&str]| {
            SystemRunner.run(&Cmd::new(dir.path().join("bin").join(program)).args(args)).unwrap();
        };
        let runner = RecordingRunner::default();
        let inside = |program: &str| Cmd::new(program);
        let set_up = || {
            call("fc-cache", &["-s"]);
            call("depmod", &["6.12"]);
            // The script goes on when it has been done.
            for _ in 0..100 {
                if runner.calls().len() == 1 {
                    break;
                }
                thread::sleep(LOOK);
            }
            assert_eq!(runner.calls(), [["depmod", "6.12"]]);
            // At the last moment: these are never left out, whoever makes them.
            call("depmod", &["6.13"]);
            call("py3compile", &["-p", "x"]);
            Ok(7)
        };
        assert_eq!(later.beside(&runner, &inside, set_up).unwrap(), 7);
        assert!(runner.calls().contains(&vec!["depmod".to_owned(), "6.13".into()]));
        assert!(!runner.calls().iter().any(|c| c[0] == "fc-cache"));
        later.run(&runner, &inside, &mut |_| {}, |_| Ok(())).unwrap();
        let mut calls: Vec<String> = runner.calls().iter().map(|c| c.join(" ")).collect();
        calls.sort();
        assert_eq!(calls, ["depmod 6.12", "depmod 6.13", "fc-cache -s", "py3compile -p x"]);
    }

    #[test]
    fn what_others_count_on_must_not_fail() {
        let dir = tempfile::tempdir().unwrap();
        let later = Later::new(dir.path());
        let fails = |_: &str| Cmd::new("false");
        let note = |line: &str| fs::write(dir.path().join(NOTES), line).unwrap();
        note("depmod\t6.12\n");
        assert!(later.beside(&SystemRunner, &fails, || Ok(())).is_err());
        // A script would not have stopped for these; they are tried again, and told.
        note("py3compile\t-p\tx\n");
        later.beside(&SystemRunner, &fails, || Ok(())).unwrap();
        let mut told = Vec::new();
        later.run(&SystemRunner, &fails, &mut |line| told.push(line.to_owned()), |_| Ok(())).unwrap();
        assert_eq!(told.len(), 1);
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
