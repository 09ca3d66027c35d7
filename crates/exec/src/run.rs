//! Running one command.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::chroot::ChrootMounts;

/// How much of a stream's end an error shows.
const TAIL_BYTES: usize = 2048;

/// How long a stream may stay silent after its command has ended. A daemon that a package's script leaves behind
/// holds it open for ever.
const GRACE: Duration = Duration::from_secs(1);

/// How long a killed command is waited for.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// How often a command's watch is asked.
const ASK: Duration = Duration::from_secs(1);

/// The time limit of a command that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// A command: an argument vector and the conditions it runs under.
#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    unset: Vec<OsString>,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
    chroot: Option<ChrootMounts>,
    dir: Option<PathBuf>,
    clear_env: bool,
    without_syncs: bool,
    watch: Option<Watch>,
}

/// Asked now and then whether a command is worth waiting for.
#[derive(Clone)]
struct Watch(Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Cmd {
    /// A command without arguments. `program` is looked up on `PATH` unless it holds a slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Cmd {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            unset: Vec::new(),
            stdin: None,
            timeout: DEFAULT_TIMEOUT,
            chroot: None,
            dir: None,
            clear_env: false,
            without_syncs: false,
            watch: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Takes a variable out of the environment it would inherit.
    pub fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.unset.push(name.as_ref().to_owned());
        self
    }

    /// Feeds standard input from memory. Without it, standard input is closed.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Changes the time limit; the default is ten minutes.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Ends the command when this says so, before its time limit: a program that goes on for hours without getting
    /// anywhere. It is asked about every second.
    pub fn end_when(mut self, hopeless: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.watch = Some(Watch(Arc::new(hopeless)));
        self
    }

    /// Runs in this directory (inside the other root, if there is one).
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Runs inside another root, with a clean environment.
    pub fn chroot(mut self, mounts: ChrootMounts) -> Self {
        self.chroot = Some(mounts);
        self.clear_env = true;
        self
    }

    /// Lets every sync, of it and of all it starts, be done at once: nothing is waited for, and nothing is on the disk
    /// before somebody else writes it out.
    pub fn without_syncs(mut self) -> Self {
        self.without_syncs = true;
        self
    }

    /// The program and its arguments, as the recording runner and errors show them.
    pub fn argv(&self) -> Vec<String> {
        std::iter::once(&self.program).chain(&self.args).map(|s| s.to_string_lossy().into_owned()).collect()
    }

    /// What standard input will be fed with.
    pub fn input(&self) -> Option<&[u8]> {
        self.stdin.as_deref()
    }

    /// The root it will run in, if not ours.
    pub fn root(&self) -> Option<&Path> {
        self.chroot.as_ref().map(|c| c.root())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        if self.clear_env {
            command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
            command.env("HOME", "/root").env("TERM", "dumb");
        }
        for name in &self.unset {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").env_remove("LANGUAGE").envs(self.env.iter().map(|(n, v)| (n, v)));
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its own process group: a time-out ends the whole of it.
        command.process_group(0);
        match &self.chroot {
            Some(mounts) => mounts.enter_before_exec(&mut command, self.dir.as_deref())?,
            None => {
                if let Some(dir) = &self.dir {
                    command.current_dir(dir);
                }
            }
        }
        if self.without_syncs {
            crate::no_sync::before_exec(&mut command);
        }
        Ok(command)
    }
}

impl fmt::Display for Cmd {
    /// Quoted so that it can be pasted into a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(root) = self.root() {
            write!(f, "(in {}) ", root.display())?;
        }
        for (i, word) in self.argv().iter().enumerate() {
            let plain = !word.is_empty()
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c));
            let gap = if i == 0 { "" } else { " " };
            if plain {
                write!(f, "{gap}{word}")?;
            } else {
                write!(f, "{gap}'{}'", word.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

/// What a command that ended well wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without white space at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard output read as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.stdout).context("reading the JSON a command printed")
    }
}

/// A command that could not run or ended badly.
#[derive(Debug)]
pub struct ExecError {
    /// The command, as it can be pasted.
    pub command: String,
    /// Exit code, if it exited by itself.
    pub code: Option<i32>,
    /// How it ended: `exit status: 1`, `signal: 9`, `still running after 600 s`, `not found`.
    pub how: String,
    /// The last lines of what it wrote.
    pub tail: String,
    /// All it wrote: some programs report in full and exit with a verdict.
    pub output: Output,
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.command, self.how)?;
        if !self.tail.is_empty() {
            write!(f, "; it said:\n{}", self.tail)?;
        }
        Ok(())
    }
}

impl std::error::Error for ExecError {}

/// Something that runs commands: the system, or a recorder in a test.
pub trait Runner: Send + Sync {
    /// Runs a command to its end. Each line it writes on standard output is also given to `line`
    /// as it comes, for progress. An exit status other than zero is an error
    /// ([`ExecError`] underneath).
    fn run_lines(&self, cmd: &Cmd, line: &mut dyn FnMut(&str)) -> Result<Output>;

    /// Runs a command to its end.
    fn run(&self, cmd: &Cmd) -> Result<Output> {
        self.run_lines(cmd, &mut |_| {})
    }
}

/// Runs commands for real.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRunner;

impl Runner for SystemRunner {
    fn run_lines(&self, cmd: &Cmd, line: &mut dyn FnMut(&str)) -> Result<Output> {
        let fail = |how: String, code: Option<i32>, output: &Output| ExecError {
            command: cmd.to_string(),
            code,
            how,
            tail: tail(output),
            output: output.clone(),
        };
        let mut child = spawn(&mut cmd.command()?)
            .map_err(|e| fail(format!("cannot be started ({e})"), None, &Output::default()))?;
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), cmd.stdin.clone()) {
            // A command that does not read all its input is not an error here: its status tells.
            thread::spawn(move || pipe.write_all(&input).is_ok());
        }
        let mut streams = Streams {
            stdout: Some(child.stdout.take().context("no pipe for standard output")?),
            stderr: Some(child.stderr.take().context("no pipe for standard error")?),
            output: Output::default(),
            shown: 0,
            line,
        };
        let deadline = Instant::now() + cmd.timeout;
        let mut limit = Limit { deadline, watch: cmd.watch.as_ref(), asked: Instant::now(), hopeless: false };
        let in_time = streams.read(&mut limit, &mut child).with_context(|| format!("reading from `{cmd}`"));
        let status = match in_time {
            Ok(true) => wait_until(&mut child, deadline),
            Ok(false) => None,
            Err(error) => {
                end_group(&mut child);
                return Err(error);
            }
        };
        let Some(status) = status else {
            end_group(&mut child);
            let how = match limit.hopeless {
                true => "was ended, because it got nowhere".to_owned(),
                false => format!("still running after {} s", cmd.timeout.as_secs()),
            };
            return Err(fail(how, None, &streams.output).into());
        };
        let output = streams.output;
        if !status.success() {
            return Err(fail(status.to_string(), status.code(), &output).into());
        }
        Ok(output)
    }
}

/// One command is started at a time.
///
/// The child of a command holds what is open here, for writing too, until it has become that command, mounts and all.
/// That long a program that was just written cannot be started by anybody ("Text file busy"). Whoever is started
/// afterwards, and starts it in turn, meets no such child any more.
static STARTING: Mutex<()> = Mutex::new(());

/// How often a program that is still open for writing is tried again, a millisecond later each time.
const BUSY: u32 = 1000;

/// Starts a command; it has become that when this returns.
pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..BUSY {
        match command.spawn() {
            // A child that has become its command is told from one that has not by a file the kernel closes then; the others
            // it may close a moment later.
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(1));
            }
            went => return went,
        }
    }
    command.spawn()
}

/// How long a command is waited for.
struct Limit<'a> {
    deadline: Instant,
    watch: Option<&'a Watch>,
    asked: Instant,
    hopeless: bool,
}

impl Limit<'_> {
    /// Whether its watch gives it up.
    fn is_hopeless(&mut self) -> bool {
        if let Some(Watch(hopeless)) = self.watch.filter(|_| self.asked.elapsed() >= ASK) {
            self.asked = Instant::now();
            self.hopeless = hopeless();
        }
        self.hopeless
    }
}

/// What a command writes. Both streams are read as they come, so that neither can fill its pipe while we wait for the other, and
/// in the thread that waits: what was written before the command ended is never taken for silence, however slow this machine is.
struct Streams<'a> {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Output,
    /// So many bytes of standard output were handed on as lines.
    shown: usize,
    line: &'a mut dyn FnMut(&str),
}

impl Streams<'_> {
    /// Reads until both end or nothing comes any more of a command that has ended (true), or time is up (false).
    fn read(&mut self, limit: &mut Limit<'_>, child: &mut Child) -> Result<bool> {
        let mut ended = false;
        while self.stdout.is_some() || self.stderr.is_some() {
            if limit.is_hopeless() {
                return Ok(false);
            }
            let left = limit.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                ended = matches!(child.try_wait(), Ok(Some(_)));
                // Whatever it left behind may talk for ever.
                match ended {
                    false => return Ok(false),
                    true if limit.deadline.elapsed() > GRACE => break,
                    true => {}
                }
            }
            if self.wait(left.min(GRACE))? {
                continue;
            }
            match ended {
                true => break,
                false => ended = matches!(child.try_wait(), Ok(Some(_))),
            }
        }
        self.show(true);
        Ok(true)
    }

    /// Waits until something comes or ends, and takes it; false when nothing does for so long.
    fn wait(&mut self, patience: Duration) -> Result<bool> {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let fds = [self.stdout.as_ref().map(AsFd::as_fd), self.stderr.as_ref().map(AsFd::as_fd)];
        let mut asked: Vec<PollFd<'_>> =
            fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut asked, patience) {
            Ok(0) => return Ok(false),
            Err(Errno::EINTR) => return Ok(true),
            Err(error) => return Err(error).context("waiting for its output"),
            Ok(_) => {}
        }
        let mut came = asked.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = |fd: &Option<BorrowedFd<'_>>| fd.is_some() && came.next().unwrap_or(false);
        let came = fds.each_ref().map(&mut next);
        if came[0] && !take(&mut self.stdout, &mut self.output.stdout)? {
            self.stdout = None;
        }
        if came[1] && !take(&mut self.stderr, &mut self.output.stderr)? {
            self.stderr = None;
        }
        self.show(false);
        Ok(true)
    }

    /// Hands on the lines that are whole, or all there is.
    fn show(&mut self, all: bool) {
        let new = &self.output.stdout[self.shown..];
        let whole = match all {
            true => new.len(),
            false => new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        };
        for bytes in new[..whole].split_inclusive(|byte| *byte == b'\n') {
            (self.line)(String::from_utf8_lossy(bytes).trim_end_matches(['\n', '\r']));
        }
        self.shown += whole;
    }
}

/// Adds what a stream has to give now; false at its end.
fn take(stream: &mut Option<impl Read>, to: &mut Vec<u8>) -> std::io::Result<bool> {
    let Some(stream) = stream else { return Ok(false) };
    let mut buffer = [0; 64 << 10];
    let n = loop {
        match stream.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    to.extend_from_slice(&buffer[..n]);
    Ok(n > 0)
}

fn wait_until(child: &mut Child, deadline: Instant) -> Option<std::process::ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

pub(crate) fn end_group(child: &mut Child) {
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    // The group may be gone already.
    if nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).is_ok() {
        // A process that waits for a disk which does not answer cannot be killed until the kernel gives up.
        // It is not waited for: it harms nobody, and is gone with us at the latest.
        wait_until(child, Instant::now() + LAST_WAIT);
    }
}

/// The end of standard error, or of standard output where that is empty.
fn tail(output: &Output) -> String {
    let bytes = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}

/// Records commands instead of running them, and answers what it was told to.
#[derive(Default)]
pub struct RecordingRunner {
    calls: Mutex<Vec<Vec<String>>>,
    answers: Mutex<Vec<(String, Output)>>,
}

impl RecordingRunner {
    /// Answers every command whose pasted form contains `part` with this standard output.
    pub fn answer(self, part: &str, stdout: &str) -> Self {
        let output = Output { stdout: stdout.into(), stderr: Vec::new() };
        self.answers.lock().expect("no test panics while holding it").push((part.to_owned(), output));
        self
    }

    /// The argument vectors seen so far.
    pub fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().expect("no test panics while holding it").clone()
    }
}

impl Runner for RecordingRunner {
    fn run_lines(&self, cmd: &Cmd, line: &mut dyn FnMut(&str)) -> Result<Output> {
        self.calls.lock().expect("no test panics while holding it").push(cmd.argv());
        let shown = cmd.to_string();
        let answers = self.answers.lock().expect("no test panics while holding it");
        let output =
            answers.iter().find(|(part, _)| shown.contains(part)).map(|(_, o)| o.clone()).unwrap_or_default();
        String::from_utf8_lossy(&output.stdout).lines().for_each(line);
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("sh").args(["-c", script])
    }

    #[test]
    fn gives_back_both_streams_and_lines_as_they_come() {
        let mut seen = Vec::new();
        let output = SystemRunner
            .run_lines(&sh("echo one; echo two; echo oops >&2"), &mut |l| seen.push(l.to_owned()))
            .unwrap();
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(output.text(), "one\ntwo");
        assert_eq!(output.stderr, b"oops\n");
    }

    #[test]
    fn a_failure_names_command_status_and_last_words() {
        let error = SystemRunner.run(&sh("echo 'no space' >&2; exit 3")).unwrap_err();
        assert_eq!(error.downcast_ref::<ExecError>().unwrap().code, Some(3));
        assert_eq!(
            error.to_string(),
            "`sh -c 'echo '\\''no space'\\'' >&2; exit 3'` failed: exit status: 3; it said:\nno space"
        );
    }

    #[test]
    fn a_program_that_is_open_for_writing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"#!/bin/sh\necho done\n").unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let closing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(file);
        });
        assert_eq!(SystemRunner.run(&Cmd::new(&path)).unwrap().text(), "done");
        closing.join().unwrap();
    }

    #[test]
    fn a_program_that_was_just_written_can_be_started_whatever_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    // Slow to become something else, as one with mounts of its own.
                    let mut slow = Cmd::new("true").command().unwrap();
                    slow_to_start(&mut slow);
                    spawn(&mut slow).unwrap().wait().unwrap();
                }
            });
            for number in 0..30 {
                let path = dir.path().join(format!("script-{number}"));
                let mut file = std::fs::File::create(&path).unwrap();
                file.write_all(b"#!/bin/sh\necho done\n").unwrap();
                file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
                thread::sleep(Duration::from_millis(5));
                drop(file);
                let went = SystemRunner.run(&Cmd::new(&path));
                if number == 29 || went.is_err() {
                    ended.store(true, Ordering::Relaxed);
                }
                assert_eq!(went.unwrap().text(), "done");
            }
        });
    }

    #[expect(unsafe_code, reason = "pre_exec has no safe form")]
    fn slow_to_start(command: &mut Command) {
        let wait = || {
            thread::sleep(Duration::from_millis(5));
            Ok(())
        };
        // SAFETY: the closure only sleeps.
        unsafe { command.pre_exec(wait) };
    }

    #[test]
    fn a_hanging_command_and_its_children_are_ended() {
        let started = Instant::now();
        let cmd = sh("echo waiting >&2; sleep 60 & sleep 60").timeout(Duration::from_secs(3));
        let error = SystemRunner.run(&cmd).unwrap_err().to_string();
        assert!(error.contains("still running after 3 s") && error.contains("waiting"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_command_that_gets_nowhere_is_ended_though_it_talks() {
        let started = Instant::now();
        let cmd = sh("while :; do echo still here; sleep 0.1; done").end_when(|| true);
        let error = SystemRunner.run(&cmd).unwrap_err();
        assert!(error.to_string().contains("was ended, because it got nowhere"), "{error}");
        assert_eq!(error.downcast_ref::<ExecError>().unwrap().code, None);
        assert!(started.elapsed() < Duration::from_secs(20));
        let cmd = sh("while :; do echo still here; done").timeout(Duration::from_secs(3));
        let error = SystemRunner.run(&cmd).unwrap_err().to_string();
        assert!(error.contains("still running after 3 s") && error.contains("still here"), "{error}");
        // It goes on until it has been asked about twice.
        let dir = tempfile::tempdir().unwrap();
        let twice = dir.path().join("twice");
        let until = format!("until [ -e {} ]; do sleep 0.05; done", twice.display());
        let asked = Arc::new(AtomicU64::new(0));
        let ours = asked.clone();
        let started = Instant::now();
        let cmd = sh(&until).end_when(move || {
            if ours.fetch_add(1, Ordering::SeqCst) == 1 {
                std::fs::write(&twice, "").unwrap();
            }
            false
        });
        SystemRunner.run(&cmd).unwrap();
        let (asked, took) = (asked.load(Ordering::SeqCst), started.elapsed());
        assert!(asked >= 2 && asked <= took.as_secs() + 1, "asked {asked} times in {took:?}");
    }

    #[test]
    fn a_daemon_that_is_left_behind_is_not_waited_for() {
        let started = Instant::now();
        let output = SystemRunner.run(&sh("sleep 60 & echo set up")).unwrap();
        assert_eq!(output.text(), "set up");
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    }

    #[test]
    fn lines_come_whole_however_they_were_written() {
        let script = "printf 'a b'; sleep 0.2; printf ' c\\n'; seq 20000 | tee /dev/stderr; printf 'no end'";
        let mut lines = Vec::new();
        let output = SystemRunner.run_lines(&sh(script), &mut |line| lines.push(line.to_owned())).unwrap();
        let numbers: Vec<String> = (1..=20_000).map(|n| n.to_string()).collect();
        assert_eq!(lines[0], "a b c");
        assert_eq!(lines[1..=20_000], numbers);
        assert_eq!(lines[20_001..], ["no end"]);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), numbers.join("\n") + "\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = SystemRunner.run(&Cmd::new("no-such-program")).unwrap_err().to_string();
        assert!(error.contains("`no-such-program` failed: cannot be started"), "{error}");
    }

    #[test]
    fn input_arrives_and_large_output_does_not_block() {
        let output = SystemRunner.run(&Cmd::new("cat").stdin(vec![b'x'; 1 << 20])).unwrap();
        assert_eq!(output.stdout.len(), 1 << 20);
        let output = SystemRunner.run(&sh("head -c 300000 /dev/zero >&2; echo done")).unwrap();
        assert_eq!((output.stderr.len(), output.text().as_str()), (300_000, "done"));
    }

    #[test]
    fn the_recorder_answers_and_records() {
        let runner = RecordingRunner::default().answer("blkid", "TYPE=ext4\n");
        assert_eq!(runner.run(&Cmd::new("blkid").arg("-p")).unwrap().text(), "TYPE=ext4");
        assert_eq!(runner.run(&Cmd::new("mkfs.ext4")).unwrap(), Output::default());
        assert_eq!(runner.calls(), [vec!["blkid".to_owned(), "-p".into()], vec!["mkfs.ext4".into()]]);
    }
}
