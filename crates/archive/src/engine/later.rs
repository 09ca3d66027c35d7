//! Work that packages ask for while they are set up, and that is done beside it or at the end instead.
//!
//! Programs are only put off if what they make depends on nothing but the files that are there when they run, and
//! if no package's script reads it during the installation. A stand-in, found earlier on `PATH` than the program,
//! writes down how it was called.
//!
//! dpkg sets packages up one after the other and so leaves all processors but one idle: what needs no more than the
//! files of packages is done there ([`Later::beside`]). The rest is done once ([`Later::run`]). The initramfs is made there
//! too, as soon as what it is made from is settled ([`start`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result};

use super::known::{self, Known};
use super::package::Package;
use super::start;

/// When a program's turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// As soon as it was asked for; and done when packages are set up.
    Soon,
    /// As soon as it was asked for, or at the end.
    SoonOrLast,
    /// Once, at the end.
    Last,
    /// Whoever asks, the initramfs is made.
    Start,
    /// Not a program: from here on the initramfs can be made.
    Early,
    /// Not a program: the rest of the line is going to be asked for, and its files are there.
    Ahead,
}

/// What stands for [`When::Early`] among the notes, and the file with what the initramfs is made from.
const EARLY: &str = "early";
/// What stands for [`When::Ahead`].
const AHEAD: &str = "ahead";

/// fontconfig's postinst and its trigger scan all fonts (4 s each); every postinst of a Python package starts the
/// compiler for its own files; that of a kernel lists its modules, that of udev translates its hardware database,
/// and both are first read by the initramfs. What `update-ca-certificates` makes is read by scripts of Java's packages,
/// for one: it is only put off where no package relies on it ([`Later::leave`]).
const PUT_OFF: [(&str, When); 6] = [
    (DEPMOD, When::Soon),
    (HWDB, When::Soon),
    (CERTIFICATES, When::Soon),
    ("py3compile", When::SoonOrLast),
    ("fc-cache", When::Last),
    (start::MAKER, When::Start),
];

/// Lists the modules of a kernel.
pub(super) const DEPMOD: &str = "depmod";
/// Translates the hardware database.
pub(super) const HWDB: &str = "systemd-hwdb";
/// Collects the certificates of authorities: some processes for each of them.
pub(super) const CERTIFICATES: &str = "update-ca-certificates";

/// How often it is looked whether something was asked for.
const LOOK: Duration = Duration::from_millis(25);

/// Where the stand-ins write.
const NOTES: &str = "later";

/// Programs that are put off.
#[derive(Debug)]
pub struct Later {
    dir: PathBuf,
    root: PathBuf,
}

impl Later {
    /// For the root at `root`; keeps what it needs in `dir`.
    pub fn new(dir: impl Into<PathBuf>, root: impl Into<PathBuf>) -> Self {
        Later { dir: dir.into(), root: root.into() }
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

    /// Has scripts call a program themselves, because some rely on what it makes.
    ///
    /// # Errors
    /// Its stand-in cannot be removed.
    pub(super) fn leave(&self, program: &str) -> Result<()> {
        let path = self.dir.join("bin").join(program);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Says that more packages are there, whole: what scripts are going to ask for of them can be made.
    ///
    /// # Errors
    /// Kernels cannot be looked for; the notes cannot be written.
    pub(super) fn files_are_there(&self) -> Result<()> {
        let ahead = known::ahead(&self.root)?;
        ahead.iter().try_for_each(|call| self.note(&Call::new(AHEAD, &call.words())))
    }

    /// To be called while packages are set up ([`Self::beside`]), after those that have a say in the initramfs
    /// ([`Engine::configure_for_start`](super::Engine::configure_for_start)): from now on it is made behind the rest.
    ///
    /// # Errors
    /// What it is made from cannot be read, or the cache of libraries not be made.
    pub fn start_early(&self, runner: &dyn Runner, inside: &dyn Fn(&str) -> Cmd) -> Result<()> {
        let Some(fingerprint) = start::fingerprint(&self.root)? else { return Ok(()) };
        // Its programs are copied with the libraries this knows.
        runner.run(&inside("ldconfig")).context("making the cache of libraries")?;
        let path = self.dir.join(EARLY);
        fs::write(&path, fingerprint).with_context(|| format!("writing {}", path.display()))?;
        self.note(&Call::new(EARLY, &[]))
    }

    fn note(&self, call: &Call) -> Result<()> {
        let path = self.dir.join(NOTES);
        let notes = fs::File::options().append(true).create(true).open(&path);
        notes
            .and_then(|mut notes| notes.write_all(call.line().as_bytes()))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Lays packages and sets them up by `beside`, and meanwhile does what it puts off and what needs not wait. `inside` makes a
    /// command in the new root that finds the programs themselves. A call that fails is made once more when the
    /// packages are set up; where the initramfs would lack what it makes, that is made only then, too.
    ///
    /// # Errors
    /// Those of `beside`; a call that fails twice and that others count on; [`Issues`](akene_protocol::issue::Issues)
    /// `package-failed` for one that its package cannot be without and that cannot be repeated; the notes cannot be used.
    pub fn beside<T>(
        &self,
        runner: &dyn Runner,
        inside: &dyn Fn(&str) -> Cmd,
        beside: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let soon = |when: When| matches!(when, When::Soon | When::SoonOrLast);
        let programs: BTreeMap<&str, Cmd> =
            PUT_OFF.iter().filter(|(_, when)| soon(*when)).map(|(p, _)| (*p, inside(p))).collect();
        let maker = inside(start::MAKER);
        let make =
            |call: &Call| programs.get(&*call.program).map(|cmd| runner.run(&cmd.clone().args(&call.args)));
        let (result, followed) = thread::scope(|scope| {
            let (goes_on, ended) = mpsc::channel::<()>();
            let (make, maker, root) = (&make, &maker, &self.root);
            let follower = scope.spawn(move || -> Result<(Known<'_>, Vec<(Call, bool)>)> {
                let (mut known, mut done, mut pause) = (Known::new(root), Vec::new(), LOOK);
                while ended.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let calls = self.calls()?;
                    pause = LOOK;
                    if let Some(call) = calls.get(done.len()) {
                        let lacking = |(call, went): &(Call, bool)| !went && call.is_for_start();
                        let went = match call.when() {
                            Some(When::Ahead) => {
                                known.make_ahead(&call.inner(), make);
                                true
                            }
                            Some(When::Early) if !done.iter().any(lacking) => {
                                // One that fails leaves none, and fails again where it is told.
                                scope.spawn(move || start::make(root, runner, maker).is_ok());
                                // The note stays, for the end.
                                false
                            }
                            _ => match known.make(call, make) {
                                Some(Err(error)) if !call.can_be_repeated() => return Err(of_package(error)),
                                went => went.is_some_and(|went| went.is_ok()),
                            },
                        };
                        done.push((call.clone(), went));
                        pause = Duration::ZERO;
                    }
                }
                Ok((known, done))
            });
            let result = beside();
            drop(goes_on);
            (result, follower.join())
        });
        // Where both have failed the second may only have lacked what the first did not make.
        let (mut known, done) = followed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let result = result?;
        // What is left: what came at the last moment, what failed, what is done at the end.
        let calls = self.calls()?;
        let fresh = calls.iter().skip(done.len()).filter(|call| call.when() != Some(When::Ahead));
        let left = done.iter().filter(|(_, went)| !went).map(|(call, _)| call).chain(fresh);
        let (soon, last): (Vec<&Call>, Vec<&Call>) = left.partition(|call| call.when() == Some(When::Soon));
        for call in soon {
            let made = known.make(call, make).transpose();
            if !call.can_be_repeated() {
                made.map_err(of_package)?;
            } else if call.names_kernel() {
                // It is needed for its start.
                made.with_context(|| format!("running {} for a package", call.program))?;
            }
        }
        let text: String = last.into_iter().map(Call::line).collect();
        let path = self.dir.join(NOTES);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(result)
    }

    /// Does what was put off, each call once and those of one program in their order, and beside it makes the initramfs,
    /// if it has not been made early or is to be made of something else by now. `inside` makes a command in the new root
    /// that finds the programs themselves. As in a script, one that fails is told and stops nothing.
    ///
    /// Gives whether the initramfs that was made early is the one.
    ///
    /// # Errors
    /// The initramfs cannot be made, or the notes not be read.
    pub fn run(
        &self,
        runner: &dyn Runner,
        inside: &dyn Fn(&str) -> Cmd,
        log: &mut dyn FnMut(&str),
    ) -> Result<bool> {
        let calls = self.calls()?;
        let early = self.early_counts(&calls, log)?;
        // Where a call is repeated only the last counts.
        let mut programs: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        for call in
            calls.into_iter().filter(|c| !matches!(c.when(), Some(When::Start | When::Early | When::Ahead)))
        {
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
            match early {
                true => Ok(()),
                false => start::make_last(&self.root, runner, inside(start::MAKER), log),
            }
        });
        let trouble = trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
        trouble.iter().for_each(|line| log(line));
        start::clear(&self.root)?;
        result.map(|()| early)
    }

    /// Puts the initramfs that was made early into its place, if it is what would be made now.
    fn early_counts(&self, calls: &[Call], log: &mut dyn FnMut(&str)) -> Result<bool> {
        let Some(at) = calls.iter().rposition(|call| call.when() == Some(When::Early)) else {
            return Ok(false);
        };
        let mut again = |why: &str| log(&format!("the initramfs is made once more: {why}"));
        // Some only ask which version it is.
        let asks = |call: &&Call| call.when() == Some(When::Start) && call.args != ["--version"];
        if let Some(call) = calls[at..].iter().find(asks) {
            again(&format!("a package asked for it ({} {})", call.program, call.args.join(" ")));
            return Ok(false);
        }
        let path = self.dir.join(EARLY);
        let then = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let now = start::fingerprint(&self.root)?.unwrap_or_default();
        if let Some(what) = start::difference(&then, &now) {
            again(&format!("{what} has changed"));
            return Ok(false);
        }
        let taken = start::take(&self.root)?;
        if !taken {
            again("it could not be made early");
        }
        Ok(taken)
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

/// The package of [`CERTIFICATES`] failed, as it would have done if its script had waited.
fn of_package(error: anyhow::Error) -> anyhow::Error {
    super::failed(COLLECTOR, &format!("{error:#}"))
}

/// The package that brings [`CERTIFICATES`].
const COLLECTOR: &str = "ca-certificates";

/// Whether nobody but that package could miss what it makes before all packages are set up: none depends on it, is told of
/// it, or may use the network.
pub(super) fn can_collect_later(packages: &[Package]) -> bool {
    let others = || packages.iter().filter(|package| package.name != COLLECTOR);
    let brings = packages.iter().filter(|package| package.name == COLLECTOR);
    let mut names: BTreeSet<&str> = brings.flat_map(|p| &p.provides).map(String::as_str).collect();
    names.extend(["aria2", "curl", "git", "wget"]);
    let words: [&[u8]; 5] = [b"ca-certificates", b"curl", b"make-ssl-cert", b"ssl/certs", b"wget"];
    let relies = |package: &Package| {
        // Of one that only dpkg can read nothing is known.
        package.foreign.is_some()
            || package.depends.union(&package.pre_depends).any(|name| names.contains(&**name))
            || package.triggers.iter().any(|trigger| trigger.name().starts_with(CERTIFICATES))
            || package.scripts_name(&words)
    };
    !others().any(relies)
}

/// A call of a program that was put off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub program: String,
    pub args: Vec<String>,
}

impl Call {
    pub fn new(program: &str, args: &[String]) -> Self {
        Call { program: program.to_owned(), args: args.to_vec() }
    }

    fn words(&self) -> Vec<String> {
        std::iter::once(&self.program).chain(&self.args).cloned().collect()
    }

    /// The call that is to be made [ahead](When::Ahead).
    fn inner(&self) -> Call {
        match self.args.split_first() {
            Some((program, args)) => Call::new(program, args),
            None => self.clone(),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split('\t').map(str::to_owned);
        let call = Call { program: words.next()?, args: words.collect() };
        call.when().map(|_| call)
    }

    fn line(&self) -> String {
        self.words().join("\t") + "\n"
    }

    fn names_kernel(&self) -> bool {
        self.args.iter().any(|arg| arg.starts_with(|c: char| c.is_ascii_digit()))
    }

    /// Whether another attempt makes what the first has not. Where certificates were linked and the rest was not done, the
    /// collector finds nothing new and is content; its package is not, if it fails.
    fn can_be_repeated(&self) -> bool {
        self.program != CERTIFICATES
    }

    /// Whether the initramfs lacks something where this has failed. A script may let it fail, as `depmod -a` does where
    /// another kernel runs than is installed.
    fn is_for_start(&self) -> bool {
        self.program == HWDB || self.program == DEPMOD && self.names_kernel()
    }

    fn when(&self) -> Option<When> {
        let known = PUT_OFF.iter().chain(&[(EARLY, When::Early), (AHEAD, When::Ahead)]);
        known.into_iter().find(|(program, _)| *program == self.program).map(|(_, when)| *when)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use akene_exec::{RecordingRunner, SystemRunner};

    use super::*;

    #[test]
    fn calls_are_noted_and_made_once_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().to_str().unwrap();
        let later = Later::new(dir.path(), dir.path().join("root"));
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
        later.run(&runner, &inside, &mut |_| {}).unwrap();
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
        let later = Later::new(dir.path(), dir.path().join("root"));
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
            for _ in 0..4000 {
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
        later.run(&runner, &inside, &mut |_| {}).unwrap();
        let mut calls: Vec<String> = runner.calls().iter().map(|c| c.join(" ")).collect();
        calls.sort();
        assert_eq!(calls, ["depmod 6.12", "depmod 6.13", "fc-cache -s", "py3compile -p x"]);
    }

    #[test]
    fn what_scripts_will_ask_for_is_made_when_its_files_are_there_and_again_if_that_was_too_early() {
        let dir = tempfile::tempdir().unwrap();
        let root = with_kernel(dir.path());
        let put = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let later = Later::new(dir.path(), &root);
        later.prepare(dir.path().to_str().unwrap()).unwrap();
        let runner = RecordingRunner::default();
        let inside = |program: &str| Cmd::new(program);
        let depmod = vec!["depmod".to_owned(), "6.12".into()];
        let hwdb: Vec<String> = ["systemd-hwdb", "--usr", "update"].map(String::from).to_vec();
        let wait = |expected: &[&Vec<String>]| {
            for _ in 0..4000 {
                if runner.calls().len() >= expected.len() {
                    break;
                }
                thread::sleep(LOOK);
            }
            assert_eq!(runner.calls().iter().collect::<Vec<_>>(), expected);
        };
        let ask = |call: &[String]| {
            SystemRunner.run(&Cmd::new(dir.path().join("bin").join(&call[0])).args(&call[1..])).unwrap();
        };
        let lay = || {
            // The kernel is there, its modules are not.
            later.files_are_there()?;
            put("usr/lib/udev/hwdb.d/a.hwdb");
            put("usr/bin/systemd-hwdb");
            later.files_are_there()?;
            wait(&[&hwdb]);
            put("usr/lib/modules/6.12/kernel/a.ko");
            later.files_are_there()?;
            wait(&[&hwdb, &depmod]);
            // More modules come, as with a kernel of several packages: a list without them is none.
            put("usr/lib/modules/6.12/kernel/b.ko");
            ask(&depmod);
            wait(&[&hwdb, &depmod, &depmod]);
            // Made already, whoever asks for it.
            ask(&depmod);
            later.files_are_there()?;
            ask(&hwdb);
            // At the last moment, and asked of it in another way.
            put("etc/udev/hwdb.d/b.hwdb");
            ask(&hwdb);
            Ok(())
        };
        later.beside(&runner, &inside, lay).unwrap();
        assert_eq!(runner.calls().iter().collect::<Vec<_>>(), [&hwdb, &depmod, &depmod, &hwdb]);
        assert!(later.calls().unwrap().is_empty());
    }

    #[test]
    fn what_others_count_on_must_not_fail() {
        let dir = tempfile::tempdir().unwrap();
        let later = Later::new(dir.path(), dir.path().join("root"));
        let fails = |_: &str| Cmd::new("false");
        let note = |line: &str| fs::write(dir.path().join(NOTES), line).unwrap();
        note("depmod\t6.12\n");
        assert!(later.beside(&SystemRunner, &fails, || Ok(())).is_err());
        // A script would not have stopped for these; they are tried again, and told.
        note("py3compile\t-p\tx\n");
        later.beside(&SystemRunner, &fails, || Ok(())).unwrap();
        let mut told = Vec::new();
        later.run(&SystemRunner, &fails, &mut |line| told.push(line.to_owned())).unwrap();
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn nothing_was_put_off_where_nothing_called() {
        let dir = tempfile::tempdir().unwrap();
        let later = Later::new(dir.path(), dir.path().join("root"));
        later.prepare("/run/x").unwrap();
        let runner = RecordingRunner::default();
        later.run(&runner, &|program: &str| Cmd::new(program), &mut |_| {}).unwrap();
        assert!(runner.calls().is_empty());
    }

    /// A root whose maker of the initramfs writes what it is made from into it.
    fn with_kernel(dir: &Path) -> PathBuf {
        let root = dir.join("root");
        for part in ["boot", "usr/sbin", "etc/modprobe.d"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        fs::write(root.join("boot/vmlinuz-6.12"), "").unwrap();
        fs::write(root.join("etc/modprobe.d/a.conf"), "a\n").unwrap();
        let maker = "#!/bin/sh\ncd ${0%/*}/../..\ndir=boot\n[ \"$4\" = -b ] && dir=.$5\n\
                     cat etc/modprobe.d/* > $dir/initrd.img-6.12\n";
        let program = root.join("usr/sbin/update-initramfs");
        fs::write(&program, maker).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        root
    }

    /// Sets up by `rest`, after the initramfs could be made; gives whether that one counts, and what is in it.
    fn early(rest: impl FnOnce(&Later, &Path)) -> (bool, String) {
        let dir = tempfile::tempdir().unwrap();
        let root = with_kernel(dir.path());
        let later = Later::new(dir.path().join("tools"), &root);
        later.prepare(dir.path().join("tools").to_str().unwrap()).unwrap();
        let inside = |program: &str| match program {
            start::MAKER => Cmd::new(root.join("usr/sbin/update-initramfs")),
            _ => Cmd::new("true"),
        };
        let set_up = || {
            later.start_early(&SystemRunner, &inside)?;
            for _ in 0..4000 {
                if root.join(".akene-start/initrd.img-6.12").exists() {
                    break;
                }
                thread::sleep(LOOK);
            }
            rest(&later, &root);
            Ok(())
        };
        later.beside(&SystemRunner, &inside, set_up).unwrap();
        assert!(!root.join("boot/initrd.img-6.12").exists(), "no script may meet it");
        let early = later.run(&SystemRunner, &inside, &mut |_| {}).unwrap();
        assert!(!root.join(".akene-start").exists());
        (early, fs::read_to_string(root.join("boot/initrd.img-6.12")).unwrap())
    }

    #[test]
    fn the_initramfs_is_made_early_and_counts_if_nothing_speaks_against_it() {
        assert_eq!(early(|_, _| ()), (true, "a\n".into()));
        // A setting, whoever has changed it.
        let changed = early(|_, root| fs::write(root.join("etc/modprobe.d/a.conf"), "b\n").unwrap());
        assert_eq!(changed, (false, "b\n".into()));
        // A package that says it has to be made anew.
        let asked = early(|later, root| {
            fs::write(root.join("etc/elsewhere"), "").unwrap();
            SystemRunner.run(&Cmd::new(later.dir.join("bin/update-initramfs")).arg("-u")).unwrap();
        });
        assert_eq!(asked, (false, "a\n".into()));
    }
}
