//! Packages into a root: what `dpkg --unpack` does, natively and in parallel; what `dpkg --configure` does, by the
//! new root's own dpkg.
//!
//! Behind all that follows, and from the first moment on, the files of packages are decompressed and written to where
//! nobody sees them, with all processors ([`stage`]).
//!
//! 1. [`Engine::base`] fills an empty root. Nothing can run there yet, so the files come first, then the `preinst`
//!    scripts, then dpkg configures.
//! 2. [`Engine::unpack`] lays further packages. A `preinst` runs before the package's files, when what it
//!    pre-depends on is configured ([`order`]); diversions it makes are obeyed. Then the files of all packages
//!    are given their names ([`unpack`]), and dpkg's database says of each of them *unpacked* ([`database`]).
//! 3. [`Engine::configure`] has dpkg configure everything: conffiles, `postinst`, triggers. What the initramfs is made
//!    from may come before ([`Engine::configure_for_start`]), so that it is made meanwhile ([`start`]).
//!
//! Between these calls the root is in a state dpkg knows, so that anything can be done in it. A package that dpkg
//! would treat in a way of its own (two packages with the same path, a device node) is handed over to
//! `dpkg --unpack` after the others. Nothing is synced; whoever has the disk does that once, at the end.

mod database;
mod known;
mod later;
mod order;
mod package;
mod stage;
mod start;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use akene_exec::{Cmd, ExecError, Runner};
use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use anyhow::{Context, Result, bail};

use crate::root::Root;
use database::{Database, Diversions, Ownership};
pub use later::Later;
use order::{Needs, State, Step};
use package::{Package, Trigger};
use stage::{Content, Job, Stage};
use unpack::{Accounts, Claims, Ground, Layer, Outcome, Unpacked};

/// Where dpkg finds the packages that are handed over to it, in the new root.
const HANDED_OVER: &str = "/var/cache/apt/archives";

/// What dpkg is told every time: what is there wins over a package's version of it, and nothing is synced.
const OPTIONS: [&str; 3] = ["--force-confold", "--force-confdef", "--force-unsafe-io"];

/// What an installation says while it goes on.
#[derive(Debug)]
pub enum Said<'a> {
    /// The files of this package are there.
    Unpacked(&'a str),
    /// A line of dpkg's or of a script.
    Line(&'a str),
}

/// Lays packages into one root.
pub struct Engine<'a> {
    root: PathBuf,
    runner: &'a dyn Runner,
    inside: Box<dyn Fn(&str) -> Cmd + 'a>,
    later: &'a Later,
    database: Database,
    claims: Claims,
    packages: Vec<Package>,
    states: Vec<State>,
    /// How many of them are the base.
    base: usize,
    /// Where their files come from; gone when all are laid.
    stage: Option<Stage>,
    /// Version of the new root's dpkg, which scripts are told.
    dpkg: String,
    /// Writes their files to the disk meanwhile.
    writing: Option<Writing>,
}

/// Writing out what is there, while scripts run and the disk has nothing to do: the last sync has the less to wait for.
#[derive(Debug)]
struct Writing(Option<thread::JoinHandle<()>>);

impl Writing {
    fn start(root: &Path) -> Result<Self> {
        let top = std::fs::File::open(root).with_context(|| format!("opening {}", root.display()))?;
        // Whoever ends the installation syncs, and is told what went wrong.
        Ok(Writing(Some(thread::spawn(move || nix::unistd::syncfs(&top).unwrap_or_default()))))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Afterwards the filesystem is not held any more.
        self.0.take().map(thread::JoinHandle::join);
    }
}

impl<'a> Engine<'a> {
    /// For the root at `root`, whose `/usr` is merged. `inside` makes a command that runs in it with everything
    /// around it that scripts need; the `.deb`s must be seen there as `/var/cache/apt/archives`, and programs that
    /// `later` has prepared come before others.
    ///
    /// `base` are the packages without which nothing runs, `rest` all others. They have been verified; they come in
    /// the solver's order. Their files are being written from now on.
    ///
    /// # Errors
    /// The database cannot be made, a package cannot be read, a program of `later` not be left to scripts.
    pub fn new(
        root: &Path,
        runner: &'a dyn Runner,
        inside: impl Fn(&str) -> Cmd + 'a,
        later: &'a Later,
        base: &[PathBuf],
        rest: &[PathBuf],
    ) -> Result<Self> {
        let database = Database::open(root)?;
        let packages = read(&[base, rest].concat())?;
        if !later::can_collect_later(&packages) {
            later.leave(later::CERTIFICATES)?;
        }
        let stage = Stage::start(root, jobs(&packages, base.len()))?;
        Ok(Engine {
            root: root.to_owned(),
            runner,
            inside: Box::new(inside),
            later,
            database,
            claims: Claims::default(),
            states: vec![State::Waiting; packages.len()],
            packages,
            base: base.len(),
            stage: Some(stage),
            dpkg: String::new(),
            writing: None,
        })
    }

    /// Lays and configures the packages without which nothing runs, into an empty root.
    ///
    /// # Errors
    /// A package that cannot be read or written; [`Issues`] `package-failed` with what dpkg says.
    pub fn base(&mut self, said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        let mut places: Vec<usize> = (0..self.base).collect();
        // It knows modes of directories that others bring too, and the links of a merged /usr: first, and alone.
        places.sort_by_key(|p| self.packages[*p].name != "base-files");
        let mut laid = BTreeMap::new();
        let (first, rest) = places.split_at(1.min(places.len()));
        for these in [first, rest] {
            laid.extend(self.lay(these, &Ownership::new(), said)?);
        }
        let version = self.packages.iter().find(|p| p.name == "dpkg").and_then(Package::version);
        self.dpkg = version.context("looking for dpkg in the base")?;
        for place in &places {
            self.preinst(*place, said)?;
        }
        // Now it is known what a script diverted: packages with such a path are laid once more.
        let diversions = self.database.diversions()?;
        let moved = |unpacked: &Unpacked| {
            let at = |p: &PathBuf| diversions.iter().any(|(from, (to, _))| p == from || p == to);
            unpacked.paths.iter().any(at)
        };
        let again: Vec<usize> = laid.iter().filter(|(_, u)| moved(u)).map(|(p, _)| *p).collect();
        for place in &again {
            self.claims.forget(*place);
            self.stage.as_mut().context("laying the base twice")?.again(*place)?;
        }
        laid.extend(self.lay(&again, &Ownership::new(), &mut |_| {})?);
        self.register(&places, &laid)?;
        if laid.len() != places.len() {
            bail!("laying the base: some of its packages need dpkg, which does not run before it is there");
        }
        // It makes directories that others count on without a word, such as /usr/local/share; with apt it is set up long before them.
        let needs: Vec<Needs> = self.packages.iter().map(needs_of).collect();
        let is_files = |p: &usize| self.packages[*p].name == "base-files";
        let files: Vec<usize> = places.iter().copied().filter(is_files).collect();
        let mut first = order::closure(&needs, &self.states, &files);
        first.retain(|p| places.contains(p));
        places.retain(|p| !first.contains(p));
        for these in [first, places].iter().filter(|these| !these.is_empty()) {
            self.dpkg_configure(these, &["--force-depends"], said)?;
        }
        Ok(())
    }

    /// Lays all others.
    ///
    /// # Errors
    /// As for [`base`](Self::base).
    pub fn unpack(&mut self, said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        let needs: Vec<Needs> = self.packages.iter().map(needs_of).collect();
        loop {
            match order::next(&needs, &self.states) {
                Step::Done => {
                    self.stage.take().map_or(Ok(()), Stage::end)?;
                    self.writing = Some(Writing::start(&self.root)?);
                    return Ok(());
                }
                Step::Lay(places) => {
                    // As they are before the scripts run; diversions count as they are after. dpkg does it so.
                    let ownership = self.database.ownership()?;
                    for place in &places {
                        self.preinst(*place, said)?;
                    }
                    let laid = self.lay(&places, &ownership, said)?;
                    self.register(&places, &laid)?;
                    let left: Vec<usize> = places.into_iter().filter(|p| !laid.contains_key(p)).collect();
                    self.hand_over(&left, said)?;
                    self.later.files_are_there()?;
                }
                Step::Configure(places) => {
                    self.dpkg_configure(&places, &["--no-triggers", "--force-depends"], said)?;
                }
            }
        }
    }

    /// Configures those of the unpacked packages that have a say in the initramfs, and what they depend on, so that it
    /// can be made behind all others ([`Later::start_early`]).
    ///
    /// # Errors
    /// [`Issues`] `package-failed` with what dpkg says.
    pub fn configure_for_start(&mut self, said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        let mut having_say = self.claims.bringers(start::is_input);
        let has_say = |p: &usize| start::has_say(&self.packages[*p]);
        having_say.extend((0..self.packages.len()).filter(has_say));
        let unpacked = having_say.iter().copied().filter(|p| self.states[*p] == State::Unpacked);
        let needs: Vec<Needs> = self.packages.iter().map(needs_of).collect();
        let places = order::closure(&needs, &self.states, &Vec::from_iter(unpacked));
        if !places.is_empty() {
            self.dpkg_configure(&places, &["--no-triggers", "--force-depends"], said)?;
        }
        self.carry_out(&having_say, said)
    }

    /// Has these packages do what others have left for them so far. What is left may be to make the initramfs: dpkg's last
    /// run would ask for it when it is being made already.
    fn carry_out(&self, places: &BTreeSet<usize>, said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        let format = "${binary:Package}\t${Triggers-Pending}\n";
        let listed = self.runner.run(&self.command("dpkg-query").args(["-W", "-f", format]))?.text();
        let left: BTreeSet<&str> = listed
            .lines()
            .filter_map(|l| l.split_once('\t'))
            .filter(|(_, t)| !t.is_empty())
            .map(|(p, _)| p)
            .collect();
        let mut these: Vec<String> = places.iter().map(|p| self.packages[*p].label()).collect();
        these.retain(|label| left.contains(&**label));
        if these.is_empty() {
            return Ok(());
        }
        let how = ["--force-depends", "--triggers-only"];
        self.run(self.command("dpkg").args(OPTIONS).args(how).args(these), said)
    }

    /// Configures all that is unpacked, and carries out what packages left for each other to do.
    ///
    /// # Errors
    /// [`Issues`] `package-failed` with what dpkg says.
    pub fn configure(&mut self, said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        let places: Vec<usize> =
            (0..self.packages.len()).filter(|p| self.states[*p] == State::Unpacked).collect();
        if !places.is_empty() {
            self.dpkg_configure(&places, &[], said)?;
        }
        // What was asked of packages that were configured long before.
        self.run(self.command("dpkg").args(OPTIONS).args(["--configure", "--pending"]), said)
    }

    /// Lays the files of packages. Those that need dpkg are missing in the result.
    fn lay(
        &mut self,
        places: &[usize],
        ownership: &Ownership,
        said: &mut dyn FnMut(Said<'_>),
    ) -> Result<BTreeMap<usize, Unpacked>> {
        let root = Root::open(&self.root)?;
        let (diversions, accounts) = (self.database.diversions()?, Accounts::read(&root)?);
        let watched: BTreeSet<PathBuf> =
            self.interests().filter(|name| name.starts_with('/')).map(PathBuf::from).collect();
        let ground = Ground {
            diversions: &diversions,
            ownership,
            watched: &watched,
            accounts: &accounts,
            these: &places.iter().copied().collect(),
        };
        let mut layer = Layer::new(&ground, &mut self.claims, root);
        let stage = self.stage.as_mut().context("laying packages after the last")?;
        let (mut laid, mut left, mut all_torn) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for place in places {
            let package = &self.packages[*place];
            if let Some(why) = &package.foreign {
                said(Said::Line(&format!("{} is left to dpkg: {why}", package.name)));
            }
        }
        for place in stage.in_turn(places) {
            let package = &self.packages[place];
            let outcome = match stage.take(place)? {
                Content::Waiting(items) => layer.package(place, package, &items, &stage.waiting(place)?)?,
                Content::Foreign(why) => Outcome::HandOver { why, torn: None },
            };
            stage.clear(place)?;
            said(Said::Unpacked(&package.name));
            match outcome {
                Outcome::Whole(unpacked) => {
                    laid.insert(place, unpacked);
                }
                Outcome::HandOver { why, torn } => {
                    said(Said::Line(&format!("{} is left to dpkg: {why}", package.name)));
                    left.push(place);
                    all_torn.extend(torn);
                }
            }
        }
        if !all_torn.is_empty() {
            let concerned = |unpacked: &Unpacked| {
                unpacked.paths.iter().any(|p| all_torn.iter().any(|torn| p.starts_with(torn)))
            };
            left.extend(laid.iter().filter(|(_, u)| concerned(u)).map(|(place, _)| *place));
            left.iter().for_each(|place| drop(laid.remove(place)));
        }
        // Also what was laid of one before it was seen that dpkg has to: as after an unpacking that did not succeed.
        self.take_back(&left, &diversions)?;
        Ok(laid)
    }

    /// Removes what was laid of packages, and the directories they alone brought.
    fn take_back(&mut self, places: &[usize], diversions: &Diversions) -> Result<()> {
        let mut root = Root::open(&self.root)?;
        let mut emptied = BTreeSet::new();
        for place in places {
            let (files, directories) = self.claims.forget(*place);
            let waiting = unpack::conffiles(&self.packages[*place], diversions);
            for file in files {
                // What has the name of a configuration file is somebody else's.
                let waits = waiting.contains(&file);
                let mut name = file.into_os_string();
                if waits {
                    name.push(".dpkg-new");
                }
                root.remove_path(Path::new(&name))?;
            }
            emptied.extend(directories);
        }
        // The deepest first. One that another package has filled meanwhile stays.
        emptied.iter().rev().try_for_each(|directory| root.remove_if_empty(directory))
    }

    /// What configured packages want to be told of. Those that are not are told nothing, by dpkg neither:
    /// setting them up does the same work.
    fn interests(&self) -> impl Iterator<Item = &String> {
        let configured = self.packages.iter().zip(&self.states).filter(|(_, s)| **s == State::Configured);
        configured.flat_map(|(package, _)| &package.triggers).filter_map(|trigger| match trigger {
            Trigger::Interest { name, .. } => Some(name),
            Trigger::Activate { .. } => None,
        })
    }

    /// Tells dpkg's database of what was laid, in the solver's order.
    fn register(&mut self, places: &[usize], laid: &BTreeMap<usize, Unpacked>) -> Result<()> {
        let mut these = Vec::new();
        let interests: BTreeSet<String> = self.interests().cloned().collect();
        let mut activated: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for place in places {
            let Some(unpacked) = laid.get(place) else { continue };
            let package = &self.packages[*place];
            self.database.write_info(package, unpacked)?;
            let explicit = package.triggers.iter().filter_map(|trigger| match trigger {
                Trigger::Activate { name, wait } if interests.contains(name) => Some((name, *wait)),
                _ => None,
            });
            for (name, wait) in explicit.chain(unpacked.noticed.iter().map(|name| (name, true))) {
                let who = if wait { package.label() } else { "-".into() };
                activated.entry(name.clone()).or_default().insert(who);
            }
            these.push(package);
            self.states[*place] = State::Unpacked;
        }
        self.database.add_interests(&these)?;
        self.database.add(&these)?;
        self.database.activate(&activated)
    }

    /// Runs the script a package has for before its files come, unless dpkg is going to.
    fn preinst(&mut self, place: usize, said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        match self.packages[place].foreign {
            Some(_) => Ok(()),
            None => self.script(place, "preinst", "install", said),
        }
    }

    /// Runs a script of a package that is not there yet, if it has it.
    fn script(
        &mut self,
        place: usize,
        script: &str,
        action: &str,
        said: &mut dyn FnMut(Said<'_>),
    ) -> Result<()> {
        let package = &self.packages[place];
        if package.member(script).is_none() {
            return Ok(());
        }
        let path = self.database.begin_work(package, script)?;
        let cmd = (self.inside)(&path)
            .arg(action)
            .env("DPKG_MAINTSCRIPT_PACKAGE", &package.name)
            .env("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1")
            .env("DPKG_MAINTSCRIPT_ARCH", &package.architecture)
            .env("DPKG_MAINTSCRIPT_NAME", script)
            .env("DPKG_MAINTSCRIPT_DEBUG", "0")
            .env("DPKG_RUNNING_VERSION", &self.dpkg)
            .env("DPKG_ADMINDIR", "/var/lib/dpkg")
            .env("DPKG_FORCE", "")
            .env("DPKG_ROOT", "");
        let ran = self.runner.run_lines(&cmd, &mut |line| said(Said::Line(line)));
        // Also where it failed: the next script finds its own there.
        self.database.end_work(package)?;
        ran.map(drop).map_err(|error| {
            let Some(failure) = error.downcast_ref::<ExecError>() else { return error };
            failed(&package.name, &format!("its {script} script {}: {}", failure.how, failure.tail))
        })
    }

    /// dpkg unpacks what it alone can.
    fn hand_over(&mut self, places: &[usize], said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let mut files = Vec::new();
        for place in places {
            // dpkg begins at the beginning, as after an unpacking that did not succeed: what the first script did is undone.
            let package = &self.packages[*place];
            if package.foreign.is_none()
                && package.member("preinst").is_some()
                && let Err(error) = self.script(*place, "postrm", "abort-install", said)
            {
                // What that means dpkg sees.
                said(Said::Line(&format!("{error:#}")));
            }
            let deb = self.packages[*place].deb.path();
            let name = deb.file_name().and_then(|n| n.to_str()).context("naming a package file for dpkg")?;
            files.push(format!("{HANDED_OVER}/{name}"));
            self.states[*place] = State::Unpacked;
        }
        // What they pre-depend on is there, though perhaps not configured.
        let how = ["--no-triggers", "--force-depends", "--unpack"];
        let cmd = self.command("dpkg").args(OPTIONS).args(how).args(files);
        self.run(cmd, said)?;
        // Whoever comes later must not take their files, nor miss what they want to be told of.
        let root = Root::open(&self.root)?;
        let diversions = self.database.diversions()?;
        for place in places {
            let package = &mut self.packages[*place];
            let (paths, triggers) = self.database.unpacked(package)?;
            package.learn(&triggers);
            self.claims.learn(*place, &package.name, &paths, &diversions, &root)?;
        }
        Ok(())
    }

    fn dpkg_configure(
        &mut self,
        places: &[usize],
        more: &[&str],
        said: &mut dyn FnMut(Said<'_>),
    ) -> Result<()> {
        let labels = places.iter().map(|p| self.packages[*p].label());
        let cmd = self.command("dpkg").args(OPTIONS).args(more).arg("--configure").args(labels);
        self.run(cmd, said)?;
        places.iter().for_each(|p| self.states[*p] = State::Configured);
        Ok(())
    }

    fn command(&self, program: &str) -> Cmd {
        (self.inside)(program)
    }

    fn run(&self, cmd: Cmd, said: &mut dyn FnMut(Said<'_>)) -> Result<()> {
        self.runner.run_lines(&cmd, &mut |line| said(Said::Line(line))).map(drop).map_err(blame)
    }
}

/// Reads control parts with all processors.
fn read(debs: &[PathBuf]) -> Result<Vec<Package>> {
    let next = AtomicUsize::new(0);
    let read: Mutex<Vec<(usize, Result<Package>)>> = Mutex::new(Vec::with_capacity(debs.len()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |n| n.get()).min(debs.len()) {
            scope.spawn(|| {
                while let Some((at, deb)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, debs.get(at)?)))
                {
                    let package = Package::read(deb);
                    read.lock().unwrap_or_else(PoisonError::into_inner).push((at, package));
                }
            });
        }
    });
    let mut read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    read.sort_by_key(|(at, _)| *at);
    let mut packages: Vec<Package> = Vec::with_capacity(read.len());
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (_, package) in read {
        let package = package?;
        let path = package.deb.path().to_owned();
        if let Some(same) = names.insert(package.name.clone(), path) {
            bail!(
                "laying {}: there is {} already, and several versions or architectures of a package are not laid together",
                package.deb.path().display(),
                same.display()
            );
        }
        packages.push(package);
    }
    Ok(packages)
}

/// In which order files are written: the base first, because nothing goes on without it; then the largest
/// packages, so that none of them is left alone at the end. A matter of the lock alone.
fn jobs(packages: &[Package], base: usize) -> Vec<Job> {
    let size = |place: usize| std::fs::metadata(packages[place].deb.path()).map_or(0, |m| m.len());
    let mut order: Vec<usize> = (0..packages.len()).collect();
    order.sort_by_cached_key(|place| (*place >= base, std::cmp::Reverse(size(*place)), *place));
    let job = |place: usize| {
        let package = &packages[place];
        Job { place, deb: package.deb.clone(), sums: package.member("md5sums").is_none() }
    };
    order.into_iter().filter(|place| packages[*place].foreign.is_none()).map(job).collect()
}

fn needs_of(package: &Package) -> Needs {
    let of_script = |names: &BTreeSet<String>| match package.member("preinst") {
        Some(_) => names.clone(),
        None => BTreeSet::new(),
    };
    Needs {
        provides: package.provides.clone(),
        before: of_script(&package.pre_depends),
        after: of_script(&package.depends),
        depends: package.depends.union(&package.pre_depends).cloned().collect(),
    }
}

/// Names the packages dpkg complained about.
fn blame(error: anyhow::Error) -> anyhow::Error {
    let Some(failure) = error.downcast_ref::<ExecError>() else { return error };
    let complaints = failure.tail.lines().filter_map(|l| l.strip_prefix("dpkg: error processing "));
    let packages: BTreeSet<&str> =
        complaints.filter_map(|l| l.split(' ').find(|w| !matches!(*w, "package" | "archive"))).collect();
    if packages.is_empty() {
        return error;
    }
    failed(&packages.into_iter().collect::<Vec<_>>().join(", "), &failure.tail)
}

fn failed(names: &str, why: &str) -> anyhow::Error {
    let message = format!("installing {names} failed: {why}");
    let next = "take the package out of the profile, or send the log to whoever maintains it";
    Issues::from(Issue::new("package-failed", names, message, next)).into()
}
