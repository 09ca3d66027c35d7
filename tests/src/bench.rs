//! Makers of roots measured side by side: the same packages from the same archive on the loopback interface, into a
//! fresh ext4 of its own each, in turns.
//!
//! A run counts from the start of the command until its filesystem has been synced. What is not counted: making
//! the filesystem, and for `apt-get` the base it is put onto. CPU and the memory of the largest process are those
//! of all children that were waited for; bytes written are those that reached the loop device.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::lock::{Lock, LockedPackage, VERSION};
use akene_protocol::{Bytes, Sha256};
use anyhow::{Context, Result, ensure};

use crate::disks::has;
use crate::reference::{Local, Set, mmdebstrap, pool_name};

/// Longest time of one run.
const LIMIT: Duration = Duration::from_secs(3600);

/// Who makes a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// Our engine, fetching included.
    Ours,
    /// mmdebstrap.
    Mmdebstrap,
    /// debootstrap.
    Debootstrap,
    /// `fai dirinstall`, without a base file.
    Fai,
    /// `apt-get install` onto a base that was there before.
    Apt,
    /// The same with every sync left out.
    AptEatmydata,
    /// No maker: all packages decompressed and written by `dpkg-deb`, with all processors.
    Unpack,
}

impl Maker {
    /// All, in the order of a round.
    pub const ALL: [Maker; 7] = [
        Maker::Ours,
        Maker::Mmdebstrap,
        Maker::Debootstrap,
        Maker::Fai,
        Maker::Apt,
        Maker::AptEatmydata,
        Maker::Unpack,
    ];

    /// What it is called on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Maker::Ours => "akene",
            Maker::Mmdebstrap => "mmdebstrap",
            Maker::Debootstrap => "debootstrap",
            Maker::Fai => "fai",
            Maker::Apt => "apt-get",
            Maker::AptEatmydata => "apt-get+eatmydata",
            Maker::Unpack => "unpack-only",
        }
    }

    /// Whether what it takes is on this machine. Says so where not.
    pub fn is_here(self) -> bool {
        match self {
            Maker::Ours | Maker::Unpack => true,
            Maker::Mmdebstrap | Maker::Apt | Maker::AptEatmydata => has("mmdebstrap"),
            Maker::Debootstrap => has("debootstrap"),
            Maker::Fai => has("fai") && has("debootstrap"),
        }
    }
}

/// What one run took.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Seconds.
    pub wall: f64,
    /// Seconds of all processors, user and system.
    pub cpu: f64,
    /// Memory of the largest process in KiB.
    pub peak: u64,
    /// Bytes that reached the disk.
    pub written: u64,
    /// What our own program says of itself.
    pub told: Option<serde_json::Value>,
}

/// A set of packages, ready to be measured.
pub struct Bench<'a> {
    set: &'a Set,
    local: &'a Local,
    dir: PathBuf,
    program: PathBuf,
    /// Whether recommended packages are in the set.
    recommends: bool,
}

impl<'a> Bench<'a> {
    /// Prepares what all rounds share in `dir`. `program` is `akene-lay`.
    ///
    /// # Errors
    /// The base for apt cannot be made.
    pub fn new(
        set: &'a Set,
        local: &'a Local,
        dir: &Path,
        program: &Path,
        recommends: bool,
        makers: &[Maker],
    ) -> Result<Self> {
        let bench = Bench { set, local, dir: dir.to_owned(), program: program.to_owned(), recommends };
        std::fs::write(dir.join("lock.json"), serde_json::to_vec(&bench.lock()?)?)
            .context("writing the lock")?;
        bench.fai_settings().context("writing the settings of FAI")?;
        if makers.iter().any(|m| matches!(m, Maker::Apt | Maker::AptEatmydata)) {
            let base = set.base_alone();
            SystemRunner.run(&mmdebstrap(&base, local, recommends, &dir.join("base.tar")).timeout(LIMIT))?;
        }
        Ok(bench)
    }

    fn lock(&self) -> Result<Lock> {
        let package = |deb: &PathBuf, base: bool| -> Result<LockedPackage> {
            let bytes = std::fs::read(deb).with_context(|| format!("reading {}", deb.display()))?;
            let file = deb.file_name().and_then(|n| n.to_str()).context("naming a package file")?.to_owned();
            let mut parts = file.trim_end_matches(".deb").split('_').map(|p| p.replace("%3a", ":"));
            let mut part = || parts.next().unwrap_or_default();
            Ok(LockedPackage {
                name: part(),
                version: part(),
                architecture: part(),
                size: Bytes(bytes.len() as u64),
                sha256: Sha256::of(&bytes),
                urls: vec![format!("{}/pool/{}", self.local.server.url(), pool_name(&file))],
                file,
                base,
                release: None,
            })
        };
        let mut packages = Vec::new();
        for deb in &self.set.base {
            packages.push(package(deb, true)?);
        }
        for deb in &self.set.rest {
            packages.push(package(deb, false)?);
        }
        Ok(Lock { version: VERSION, architecture: "amd64".into(), packages, ..Lock::default() })
    }

    /// A configuration space whose only class installs the set, and settings that name our archive.
    fn fai_settings(&self) -> Result<()> {
        let (etc, space) = (self.dir.join("fai"), self.dir.join("space"));
        let parts = ["class", "debconf", "hooks", "package_config", "scripts"].map(|part| space.join(part));
        for dir in parts.into_iter().chain([etc.join("apt")]) {
            std::fs::create_dir_all(dir)?;
        }
        let settings = format!(
            "FAI_DEBOOTSTRAP=\"{} {}\"\nFAI_DEBOOTSTRAP_OPTS=\"--no-check-gpg\"\nFAI_CONFIGDIR={}\n",
            self.set.suite,
            self.local.server.url(),
            space.display()
        );
        std::fs::write(etc.join("nfsroot.conf"), &settings)?;
        std::fs::write(
            etc.join("fai.conf"),
            format!("LOGUSER=\nFAI_CONFIG_SRC=file://{}\n", space.display()),
        )?;
        std::fs::write(etc.join("apt/sources.list"), self.local.line() + "\n")?;
        let kind = if self.recommends { "install" } else { "install-norec" };
        let list = format!("PACKAGES {kind}\n{}\n", self.set.names().join("\n"));
        Ok(std::fs::write(space.join("package_config/DEFAULT"), list)?)
    }

    /// Lets a maker make a root on a fresh filesystem.
    ///
    /// # Errors
    /// It fails, or the filesystem cannot be made.
    pub fn run(&self, maker: Maker) -> Result<Sample> {
        let disk = Disk::fresh(&self.dir)?;
        let sample = self.measured(maker, &disk);
        let released = disk.release();
        let sample = sample.with_context(|| format!("measuring {}", maker.name()))?;
        released.map(|()| sample)
    }

    fn measured(&self, maker: Maker, disk: &Disk) -> Result<Sample> {
        // FAI unmounts what it has filled: it gets another mount of the same filesystem.
        let root = match maker {
            Maker::Fai => disk.again()?,
            _ => disk.root.clone(),
        };
        self.prepare(maker, &root)?;
        let (times, sync) = (self.dir.join("times"), Cmd::new("sync").arg("-f").arg(&disk.root));
        SystemRunner.run(&sync)?;
        let (before, started) = (disk.written()?, Instant::now());
        let cmd =
            Cmd::new("time").args(["-f", "%U %S %M", "-o"]).arg(&times).args(self.command(maker, &root));
        let output = SystemRunner.run(&cmd.env("TMPDIR", "/var/tmp").timeout(LIMIT))?.text();
        SystemRunner.run(&sync.clone())?;
        let wall = started.elapsed().as_secs_f64();
        let written = disk.written()? - before;
        let text = std::fs::read_to_string(&times).context("reading what was measured")?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [user, system, peak] = numbers.as_slice() else {
            anyhow::bail!("reading what was measured: {text}")
        };
        if maker != Maker::Unpack {
            self.check(maker, &disk.root)?;
        }
        let told = (maker == Maker::Ours).then(|| output.lines().last().map(serde_json::from_str)).flatten();
        let told = told.transpose().context("reading what our program says of itself")?;
        Ok(Sample { wall, cpu: user + system, peak: *peak as u64, written, told })
    }

    /// A maker that leaves something out would be fast.
    fn check(&self, maker: Maker, root: &Path) -> Result<()> {
        let status =
            std::fs::read_to_string(root.join("var/lib/dpkg/status")).context("reading what is installed")?;
        let installed = status.lines().filter(|l| *l == "Status: install ok installed").count();
        ensure!(
            installed >= self.set.len(),
            "{} installed {installed} packages of {}",
            maker.name(),
            self.set.len()
        );
        Ok(())
    }

    fn prepare(&self, maker: Maker, root: &Path) -> Result<()> {
        if !matches!(maker, Maker::Apt | Maker::AptEatmydata) {
            return Ok(());
        }
        SystemRunner.run(
            &Cmd::new("tar").arg("--xattrs").arg("-xf").arg(self.dir.join("base.tar")).arg("-C").arg(root),
        )?;
        let ban = root.join("usr/sbin/policy-rc.d");
        std::fs::write(&ban, "#!/bin/sh\nexit 101\n").context("banning services")?;
        SystemRunner.run(&Cmd::new("chmod").arg("755").arg(&ban))?;
        if maker == Maker::AptEatmydata {
            let find = Cmd::new("find").args(["/usr/lib", "-name", "libeatmydata.so.*", "-type", "f"]);
            let library = SystemRunner.run(&find)?.text();
            let library = library.lines().next().context("looking for libeatmydata on this machine")?;
            std::fs::copy(library, root.join("no-fsync.so")).context("copying libeatmydata")?;
        }
        for dir in ["proc", "sys", "dev"] {
            SystemRunner.run(&Cmd::new("mount").args(["--rbind", &format!("/{dir}")]).arg(root.join(dir)))?;
        }
        SystemRunner.run(&Cmd::new("chroot").arg(root).args(["apt-get", "-qq", "update"])).map(drop)
    }

    /// The command that is measured.
    fn command(&self, maker: Maker, root: &Path) -> Vec<String> {
        let root_text = root.display().to_string();
        let at = |name: &str| self.dir.join(name).display().to_string();
        let words = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
        let apt = |preload: &str| {
            let mut argv =
                words(&["chroot", &root_text, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]);
            argv.push(preload.to_owned());
            argv.extend(words(&["apt-get", "-qq", "-y", "-oDpkg::Options::=--force-confold", "install"]));
            argv.extend(self.set.names());
            argv
        };
        match maker {
            Maker::Ours => vec![self.program.display().to_string(), at("lock.json"), root_text, at("tools")],
            Maker::Mmdebstrap => mmdebstrap(self.set, self.local, self.recommends, root).argv(),
            Maker::Debootstrap => {
                let include = format!("--include={}", self.set.names().join(","));
                let url = self.local.server.url();
                words(&[
                    "debootstrap",
                    "--no-check-gpg",
                    "--variant=minbase",
                    &include,
                    &self.set.suite,
                    &root_text,
                    &url,
                ])
            }
            Maker::Fai => words(&[
                "fai",
                "-N",
                "-u",
                "bench",
                "-C",
                &at("fai"),
                "-s",
                &format!("file://{}", at("space")),
                "dirinstall",
                &root_text,
            ]),
            Maker::Apt => apt("RUNLEVEL=1"),
            Maker::AptEatmydata => apt("LD_PRELOAD=/no-fsync.so"),
            Maker::Unpack => {
                let all = format!(
                    "ls {}/*.deb | xargs -P $(nproc) -I{{}} dpkg-deb -x {{}} {root_text}",
                    self.set.pool().display()
                );
                words(&["sh", "-c", &all])
            }
        }
    }
}

/// Name of the second mount point, beside the first.
const AGAIN: &str = "unmounted-by-itself";

/// A filesystem of its own on a loop device.
struct Disk {
    image: PathBuf,
    device: String,
    root: PathBuf,
}

impl Disk {
    fn fresh(dir: &Path) -> Result<Self> {
        let (image, root) = (dir.join("disk.img"), dir.join("root"));
        std::fs::create_dir_all(&root).context("making a mount point")?;
        let file = std::fs::File::create(&image).context("making a disk image")?;
        file.set_len(12 << 30).context("making a disk image")?;
        SystemRunner.run(&Cmd::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let device = SystemRunner.run(&Cmd::new("losetup").args(["-f", "--show"]).arg(&image))?.text();
        let device = device.trim().to_owned();
        SystemRunner.run(&Cmd::new("mount").arg(&device).arg(&root))?;
        Ok(Disk { image, device, root })
    }

    /// Mounts it a second time.
    fn again(&self) -> Result<PathBuf> {
        let root = self.root.with_file_name(AGAIN);
        std::fs::create_dir_all(&root).context("making a mount point")?;
        SystemRunner.run(&Cmd::new("mount").arg(&self.device).arg(&root))?;
        Ok(root)
    }

    /// Bytes written to the device so far.
    fn written(&self) -> Result<u64> {
        let name = self.device.rsplit('/').next().unwrap_or_default();
        let text = std::fs::read_to_string(format!("/sys/block/{name}/stat"))
            .context("reading the loop device's counters")?;
        let sectors: u64 = text.split_whitespace().nth(6).context("finding a counter")?.parse()?;
        Ok(sectors * 512)
    }

    fn release(self) -> Result<()> {
        let again = self.root.with_file_name(AGAIN);
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("reading what is mounted")?;
        if mounts.contains(&format!(" {} ", again.display())) {
            SystemRunner.run(&Cmd::new("umount").args(["-R", "-l"]).arg(&again))?;
        }
        SystemRunner.run(&Cmd::new("umount").args(["-R", "-l"]).arg(&self.root))?;
        SystemRunner.run(&Cmd::new("losetup").arg("-d").arg(&self.device))?;
        std::fs::remove_file(&self.image).context("removing the disk image")
    }
}

/// The middle of some numbers, the least and the most.
pub fn median(numbers: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let half = sorted.len() / 2;
    let middle = if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
    Some((middle, first, last))
}

/// The table of all rounds: medians with their ranges, and ratios to `to` within each round.
pub fn table(rounds: &[Vec<(Maker, Sample)>], to: Maker) -> String {
    let mut text = format!(
        "| maker | n | wall s | CPU s | largest process MiB | written MiB | ratio to {} |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        to.name()
    );
    let shown = |of: Option<(f64, f64, f64)>, digits: usize| match of {
        None => "-".to_owned(),
        Some((middle, least, most)) => format!("{middle:.digits$} ({least:.digits$}-{most:.digits$})"),
    };
    for maker in Maker::ALL {
        let find = |round: &Vec<(Maker, Sample)>, maker: Maker| {
            round.iter().find(|(m, _)| *m == maker).map(|(_, s)| s.clone())
        };
        let samples: Vec<Sample> = rounds.iter().filter_map(|r| find(r, maker)).collect();
        if samples.is_empty() {
            continue;
        }
        let of = |number: fn(&Sample) -> f64| median(&samples.iter().map(number).collect::<Vec<_>>());
        let ratios: Vec<f64> =
            rounds.iter().filter_map(|r| Some(find(r, maker)?.wall / find(r, to)?.wall)).collect();
        let row = [
            maker.name().to_owned(),
            samples.len().to_string(),
            shown(of(|s| s.wall), 1),
            shown(of(|s| s.cpu), 1),
            shown(of(|s| s.peak as f64 / 1024.0), 0),
            shown(of(|s| s.written as f64 / f64::from(1 << 20)), 0),
            shown(median(&ratios), 2),
        ];
        // Writing to a string does not fail.
        writeln!(text, "| {} |", row.join(" | ")).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ranges() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(median(&[4.0, 1.0]), Some((2.5, 1.0, 4.0)));
    }

    #[test]
    fn ratios_are_those_within_a_round() {
        let sample = |wall| Sample { wall, cpu: 1.0, peak: 2048, written: 3 << 20, told: None };
        let round = |ours, theirs| vec![(Maker::Ours, sample(ours)), (Maker::Mmdebstrap, sample(theirs))];
        let text = table(&[round(1.0, 4.0), round(10.0, 20.0)], Maker::Mmdebstrap);
        let row = "| akene | 2 | 5.5 (1.0-10.0) | 1.0 (1.0-1.0) | 2 (2-2) | 3 (3-3) | 0.38 (0.25-0.50) |";
        assert!(text.lines().any(|l| l == row), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}
