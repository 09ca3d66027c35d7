//! The power-cut campaign: what every moment of an installation leaves on the disk, and what becomes of it.
//!
//! An installation, a reinstallation over it, and one beside an old system that stays run natively, onto a disk whose every write
//! and every flush is written down ([`fuse`], [`record`]). A *point* is a step of that record. The disk of a point has everything that was flushed before it, and
//! of the rest a random part, some of it torn. Each such disk is judged ([`judge`]): what would a computer with a BIOS start from
//! it? Of some, the installer it starts is let go on, without a network, to its end.
//!
//! Everything random comes from a seed, so that a point can be looked at again.

pub mod fuse;
pub mod judge;
mod kept;
pub mod record;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_agent::run::native::read_profile;
use akene_exec::{Cmd, Runner, Streams, SystemRunner};
use akene_protocol::api::Consent;
use akene_protocol::image::{self, ImageFile, ImageManifest};
use akene_protocol::profile::Distribution;
use akene_protocol::stamp::{Source, Stamp};
use akene_protocol::{Bytes, Envelope, PublicKey, Sha256};
use anyhow::{Context, Result, bail, ensure};
use ed25519_dalek::SigningKey;

use crate::http::{Answer, Server};
use crate::mirror::Mirror;
use crate::site::{TWO_ROOTS, program, small_server};
use fuse::Recording;
use judge::{Judge, Starts};
use kept::{account_in, has_account, people_in, people_of};
use record::{Op, Random, Reader, apply, apply_for_now, survivors};

/// Which installation a point is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Run {
    /// Onto a blank disk.
    First,
    /// Over an installation, with people's files.
    Again,
    /// Beside one, with people's files: the old system's root is not written to, and it can come back.
    Beside,
}

impl Run {
    /// What people call it, and whoever chooses what is recorded.
    pub const ALL: [(&str, Run); 3] =
        [("blank disk", Run::First), ("reinstallation", Run::Again), ("beside", Run::Beside)];

    /// Size of its disk. Two roots do not fit on the small one.
    fn size(self) -> &'static str {
        if self == Run::Beside { "12GiB" } else { "8GiB" }
    }

    /// The name of the place where it makes the new system's root.
    fn makes(self) -> &'static str {
        if self == Run::Beside { "akene-spare" } else { "akene-root" }
    }

    /// The stamp it goes by, and where the server has its profile.
    fn stamp(self) -> [&'static str; 2] {
        if self == Run::Beside { ["stamp-two.json", "/two.json"] } else { ["stamp.json", "/desk.json"] }
    }
}

/// What came of a point.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of which installation.
    pub run: Run,
    /// Where the step wrote.
    pub place: &'static str,
    /// What the disk starts.
    pub starts: Starts,
    /// How long the installer took to go on, where it was let.
    pub resumed: Option<Duration>,
}

/// A campaign in a directory of its own.
pub struct Campaign {
    dir: PathBuf,
    seed: u64,
    /// Every one of these steps is a point, and no other, where a stretch of a record is looked at closely.
    pub only: Option<RangeInclusive<u64>>,
    site: Option<(Server, Mirror)>,
    packages: PathBuf,
}

/// An installer that is as whole as the agent needs it to be, and small. `version` makes two of them different.
fn installer(dir: &Path, version: u8) -> Result<()> {
    let loader = dir.join(image::LOADER);
    std::fs::create_dir_all(&loader).context("making the installer's directory")?;
    let write = |name: &str, bytes: Vec<u8>| -> Result<()> {
        std::fs::write(dir.join(name), bytes).with_context(|| format!("writing {name}"))
    };
    let mut random = Random::new(u64::from(version));
    let mut noise = |length: usize| -> Vec<u8> { (0..length).map(|_| random.below(256) as u8).collect() };
    write("init", noise(1 << 20))?;
    write(image::KERNEL, noise(2 << 20))?;
    let core = loader.join(image::LOADER_CORE);
    let make = Cmd::new("grub-mkimage").args(["-O", "i386-pc", "-p", "(,gpt3)/grub", "-o"]).arg(&core);
    SystemRunner.run(&make.args(["biosdisk", "part_gpt", "ext2", "normal", "search", "search_fs_uuid"]))?;
    std::fs::copy("/usr/lib/grub/i386-pc/boot.img", loader.join(image::LOADER_BOOT))
        .context("copying boot.img")?;
    for name in [image::LOADER_SHIM, image::LOADER_GRUB, image::LOADER_IA32] {
        let mut program = b"MZ".to_vec();
        program.extend(noise(300_000));
        write(&format!("{}/{name}", image::LOADER), program)?;
    }
    let mut files = Vec::new();
    for path in ["init", image::KERNEL] {
        let bytes = std::fs::read(dir.join(path)).with_context(|| format!("reading {path}"))?;
        files.push(ImageFile {
            path: path.into(),
            size: Bytes(bytes.len() as u64),
            sha256: Sha256::of(&bytes),
        });
    }
    let manifest = ImageManifest {
        version: image::VERSION,
        akene: version.to_string(),
        distribution: Distribution::Debian,
        suite: "test".into(),
        architecture: "amd64".into(),
        kernel: "1".into(),
        built: jiff::Timestamp::UNIX_EPOCH,
        wireless: false,
        packages: vec![],
        files,
    };
    write(image::MANIFEST, serde_json::to_vec(&manifest).context("writing a manifest")?)
}

impl Campaign {
    /// Makes a site and its two installers.
    pub fn new(dir: &Path, seed: u64) -> Result<Self> {
        for version in [1, 2] {
            installer(&dir.join(format!("installer-{version}")), version)?;
        }
        let mirror = Mirror::start()?;
        let profile = small_server(&mirror, "127.0.0.1")
            .replace("packages = [\"dbus\", \"less\", \"libpam-systemd\"]", "packages = [\"less\"]")
            .replace("install-server = true", "install-server = false");
        let profile = format!("keep-accounts = true\n{profile}");
        let file = dir.join("site/profiles/default.toml");
        std::fs::create_dir_all(file.parent().context("finding the profiles")?).context("making a site")?;
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut profiles = BTreeMap::new();
        for (run, more) in [(Run::First, ""), (Run::Beside, TWO_ROOTS)] {
            std::fs::write(&file, format!("{profile}{more}")).context("writing the profile")?;
            let envelope = Envelope::sign(&read_profile(&file, None)?.0, &key);
            profiles.insert(run.stamp()[1], serde_json::to_vec(&envelope).context("writing the profile")?);
        }
        let server = Server::start(move |path| match profiles.get(path) {
            Some(text) => Answer::Bytes(text.clone()),
            None => Answer::Missing,
        })?;
        for run in [Run::First, Run::Beside] {
            let [name, path] = run.stamp();
            let source = Source::Static {
                url: format!("http://127.0.0.1:{}{path}", server.port()),
                tls: Default::default(),
                consent: Consent::Wipe,
            };
            let stamp = Stamp::new("campaign", source, PublicKey(key.verifying_key()));
            std::fs::write(dir.join(name), serde_json::to_vec(&stamp).context("writing the stamp")?)
                .context("writing the stamp")?;
        }
        let packages = crate::mirror::cache_dir()?.join("packages");
        Ok(Campaign { dir: dir.to_owned(), seed, only: None, site: Some((server, mirror)), packages })
    }

    /// Runs the agent on a disk and gives what it said.
    fn agent(&self, run: Run, disk: &Path, version: u8, more: &[&str]) -> Result<(bool, String)> {
        let output = self.dir.join("agent.output");
        let cmd = Cmd::new(program("akene-agent")?)
            .args(["install", "--yes", "--json", "--stamp"])
            .arg(self.dir.join(run.stamp()[0]))
            .arg("--installer")
            .arg(self.dir.join(format!("installer-{version}")))
            .arg("--log")
            .arg(self.dir.join("agent.log"))
            .arg("--target-image")
            .arg(disk)
            .args(more)
            .env("TMPDIR", &self.dir);
        let file = File::create(&output).context("making the agent's output")?;
        let mut running = cmd.spawn(Streams::Log(file))?;
        let Some(status) = running.wait(Duration::from_secs(1800))? else { bail!("the agent does not end") };
        let said = std::fs::read_to_string(&output).context("reading the agent's output")?;
        let log = std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        Ok((status.success(), format!("{said}\n{log}")))
    }

    /// Runs an installation on a disk and records it.
    fn record(&self, run: Run, disk: &Path, record: &Path, version: u8, more: &[&str]) -> Result<()> {
        let place = self.dir.join("recorded");
        std::fs::create_dir_all(&place).context("making a mount point")?;
        let recording = Recording::start(disk, record, &place)?;
        let (good, said) = self.agent(run, &recording.disk(), version, more)?;
        recording.end()?;
        ensure!(good, "the installation failed: {said}");
        Ok(())
    }

    /// Records these installations, then judges `points` of each and lets `resumed` of those that start the installer go on.
    pub fn run(
        &mut self,
        runs: &[Run],
        points: usize,
        resumed: usize,
        say: &mut dyn FnMut(&str),
    ) -> Result<Vec<Outcome>> {
        if runs.iter().any(|run| *run != Run::Beside) {
            self.record_both(Run::Again, say)?;
        }
        if runs.contains(&Run::Beside) {
            self.record_both(Run::Beside, say)?;
        }
        // From here on there is no network.
        self.site = None;
        let mut outcomes = Vec::new();
        for run in runs {
            self.cut(*run, (points, resumed), &mut outcomes, say)?;
        }
        Ok(outcomes)
    }

    /// The disk before an installation, after it, and what was done in between.
    fn files(&self, run: Run) -> [PathBuf; 3] {
        let names = match run {
            Run::First => ["blank.img", "base.img", "first.record"],
            Run::Again => ["base.img", "last.img", "again.record"],
            Run::Beside => ["base-two.img", "last-two.img", "beside.record"],
        };
        names.map(|name| self.dir.join(name))
    }

    /// Records a reinstallation, and the installation before it where that is judged, too. A recording can be judged again, with
    /// another seed.
    fn record_both(&self, second: Run, say: &mut dyn FnMut(&str)) -> Result<()> {
        let [base, last, record_2] = self.files(second);
        let done = record_2.with_extension("done");
        if done.exists() {
            return Ok(());
        }
        let size: Bytes = second.size().parse().map_err(anyhow::Error::msg)?;
        let blank = |file: &Path| File::create(file).and_then(|f| f.set_len(size.0)).context("making a disk");
        let packages = ["--packages", &self.packages.display().to_string()];
        let started = Instant::now();
        blank(&base)?;
        if second == Run::Again {
            let [first, _, record_1] = self.files(Run::First);
            blank(&first)?;
            self.record(Run::First, &base, &record_1, 1, &packages)?;
        } else {
            let (good, said) = self.agent(second, &base, 1, &packages)?;
            ensure!(good, "the installation failed: {said}");
        }
        say(&format!("installed in {:.0} s", started.elapsed().as_secs_f64()));
        // The first one's packages are not wanted on the boot partition: the second shall have to put them somewhere.
        let files = people_in(&base)?;
        account_in(&base)?;
        copy(&base, &last)?;
        let started = Instant::now();
        self.record(second, &last, &record_2, 2, &[])?;
        say(&format!("installed again in {:.0} s", started.elapsed().as_secs_f64()));
        ensure!(people_of(&last)? == files, "a reinstallation that nothing disturbed changed people's files");
        has_account(&last, second.makes()).context("a reinstallation that nothing disturbed")?;
        std::fs::write(&done, "").context("noting that all is recorded")
    }

    fn cut(
        &self,
        run: Run,
        (points, resumed): (usize, usize),
        outcomes: &mut Vec<Outcome>,
        say: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let [disk, last, record] = self.files(run);
        let installers = [1, 2].map(|v| self.dir.join(format!("installer-{v}")));
        let judge = Judge::new(run, &disk, &last, &installers, &self.dir)?;
        let chosen = choose(&record, &judge, points, self.only.as_ref(), &mut Random::new(self.seed))?;
        let now = self.dir.join("now.img");
        copy(&disk, &now)?;
        let file = File::options().read(true).write(true).open(&now).context("opening the disk")?;
        let mut reader = Reader::open(&record)?;
        let (mut pending, mut at, mut left, mut touched) = (Vec::new(), 0u64, resumed, false);
        let mut since = points;
        while let Some(op) = reader.step()? {
            at += 1;
            touched |= judge.harms(&op);
            // A disk of the record is made of its steps, so that at every point that root is what it was.
            ensure!(
                !judge.is_forbidden(&op),
                "{run:?}, step {at} writes to the root of the system that stays"
            );
            match op {
                Op::Flush => pending.drain(..).try_for_each(|op| apply(&file, &op))?,
                op => pending.push(op),
            }
            let Some(place) = chosen.get(&at) else { continue };
            let mut random = Random::new(self.seed ^ at.rotate_left(17));
            let undo = apply_for_now(&file, &survivors(&pending, &mut random))?;
            let starts = judge.what_starts(&now, touched).and_then(|starts| {
                if starts != Starts::Medium {
                    judge.names_a_whole_system(&now)?;
                }
                Ok(starts)
            });
            let starts =
                starts.with_context(|| format!("{run:?}, step {at} ({place}), seed {}", self.seed))?;
            let mut outcome = Outcome { run, place, starts, resumed: None };
            // Spread over the points that start an installer.
            since += 1;
            if starts == Starts::Installer && left > 0 && since * resumed >= points / 2 {
                (left, since) = (left - 1, 0);
                let took = self.go_on(run, &judge, &now).with_context(|| {
                    format!("going on from step {at} ({place}) of {run:?}, seed {}", self.seed)
                })?;
                outcome.resumed = took;
            }
            say(&format!(
                "{run:?}, step {at}, {place}: {starts:?} {}",
                match outcome.resumed {
                    Some(took) => format!("and went on to the end in {:.0} s", took.as_secs_f64()),
                    None => String::new(),
                }
            ));
            outcomes.push(outcome);
            undo.iter().try_for_each(|op| apply(&file, op))?;
        }
        Ok(())
    }

    /// Lets the installer of a disk go on, with nothing but what lies there. `None`: it needs the network, and says so.
    fn go_on(&self, run: Run, judge: &Judge, disk: &Path) -> Result<Option<Duration>> {
        let copied = self.dir.join("resumed.img");
        copy(disk, &copied)?;
        let started = Instant::now();
        let version = if run == Run::First { 1 } else { 2 };
        let (good, said) = self.agent(run, &copied, version, &["--resume"])?;
        let took = started.elapsed();
        if run == Run::First && !good && said.contains("package-unreachable") {
            // A blank disk keeps no packages from one beginning to the next: the medium or the network has them.
            return Ok(None);
        }
        ensure!(good, "the installer did not come to its end: {said}");
        judge.is_whole(&copied)?;
        judge.names_a_whole_system(&copied)?;
        let [before, ..] = self.files(run);
        if run != Run::First {
            ensure!(people_of(&copied)? == people_of(&before)?, "people's files are not what they were");
            has_account(&copied, run.makes())?;
        }
        if run == Run::Beside {
            judge.old_stays(&before, &copied)?;
        }
        Ok(Some(took))
    }
}

/// Points of a record, by the number of the step: spread evenly over the places it writes to, and over time in each; or all
/// `only` these.
fn choose(
    record: &Path,
    judge: &Judge,
    points: usize,
    only: Option<&RangeInclusive<u64>>,
    random: &mut Random,
) -> Result<BTreeMap<u64, &'static str>> {
    let mut steps: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let (mut reader, mut at) = (Reader::open(record)?, 0);
    while let Some(op) = reader.step()? {
        at += 1;
        if only.is_none_or(|only| only.contains(&at)) {
            steps.entry(judge.place(&op)).or_default().push(at);
        }
    }
    let mut chosen = BTreeMap::new();
    if only.is_some() {
        chosen.extend(steps.iter().flat_map(|(place, steps)| steps.iter().map(|at| (*at, *place))));
        return Ok(chosen);
    }
    let each = points.div_ceil(steps.len());
    for (place, steps) in steps {
        let each = each.min(steps.len());
        for n in 0..each {
            let (from, to) = (steps.len() * n / each, steps.len() * (n + 1) / each);
            chosen.insert(steps[from + random.below((to - from) as u64) as usize], place);
        }
    }
    Ok(chosen)
}

/// Copies a disk, holes as holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    SystemRunner.run(&Cmd::new("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}

/// The table for people: how many points ended how.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows: BTreeMap<(Run, &str), [usize; 5]> = BTreeMap::new();
    for outcome in outcomes {
        let row = rows.entry((outcome.run, outcome.place)).or_default();
        row[match outcome.starts {
            Starts::Medium => 0,
            Starts::Old => 1,
            Starts::Installer => 2,
            Starts::New => 3,
        }] += 1;
        row[4] += usize::from(outcome.resumed.is_some());
    }
    let mut text = String::from(
        "| installation | the step wrote to | points | medium | old system | installer | new system | went on to the end |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for ((run, place), [medium, old, installer, new, resumed]) in rows {
        let run = Run::ALL.iter().find(|(_, r)| *r == run).map_or("", |(name, _)| name);
        let sum = medium + old + installer + new;
        text +=
            &format!("| {run} | {place} | {sum} | {medium} | {old} | {installer} | {new} | {resumed} |\n");
    }
    text
}

/// Reads a piece of a disk.
fn piece(disk: &Path, at: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let file = File::open(disk).with_context(|| format!("opening {}", disk.display()))?;
    file.read_exact_at(&mut bytes, at).with_context(|| format!("reading {}", disk.display()))?;
    Ok(bytes)
}
