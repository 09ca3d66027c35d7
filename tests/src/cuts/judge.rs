//! What a computer with a BIOS starts from a disk: by the first sector, the core image it points to, and the menu and files on
//! `AKENE_BOOT`, read by GRUB's own driver, which plays back no journal.

use std::path::{Path, PathBuf};

use akene_archive::initrd;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::{Sha256, image};
use anyhow::{Context, Result, bail, ensure};

use super::record::Op;
use super::{Run, piece};
use crate::checks::{self, Expected};
use crate::image::{Image, Part};
use crate::site::{SSH_KEY, USER};

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// Nothing on the disk yet: what the computer was started from before.
    Medium,
    /// The system that was there, whole.
    Old,
    /// The installer.
    Installer,
    /// The new system, whole.
    New,
}

/// Everything a disk may be made of.
pub struct Judge {
    run: Run,
    parts: Vec<Part>,
    size: u64,
    cores: Vec<Sha256>,
    installers: Vec<[Sha256; 2]>,
    old: Option<System>,
    new: Option<System>,
    dir: PathBuf,
}

/// A kernel and its initrd, by path, sum, and the root they start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct System {
    files: [(String, Sha256); 2],
}

impl Judge {
    /// For the installation that made `last` of `first`.
    pub fn new(run: Run, first: &Path, last: &Path, installers: &[PathBuf], dir: &Path) -> Result<Self> {
        let mut judge = Judge {
            run,
            parts: Image::open(last)?.parts.clone(),
            size: last.metadata().context("looking at the disk")?.len(),
            cores: Vec::new(),
            installers: Vec::new(),
            old: None,
            new: None,
            dir: dir.to_owned(),
        };
        for root in installers {
            let kernel = std::fs::read(root.join(image::KERNEL)).context("reading an installer")?;
            judge.installers.push([Sha256::of(&kernel), initrd::write(root, std::io::sink())?.1]);
            let mut core = std::fs::read(root.join(image::LOADER).join(image::LOADER_CORE))
                .context("reading a core image")?;
            core.resize(core.len().div_ceil(512) * 512, 0);
            judge.cores.push(Sha256::of(&core[512..]));
        }
        let systems = if run == Run::First { vec![last] } else { vec![first, last] };
        for disk in systems {
            judge.cores.push(core_of(disk)?.context("the disk of an installed system has no boot sector")?);
            let menu = judge.grub(disk, "/grub/grub.cfg")?;
            let files = started_by(&String::from_utf8_lossy(&menu))?;
            let system = System { files: judge.sums(disk, files)? };
            judge.old = (disk == first).then(|| system.clone()).or(judge.old.take());
            judge.new = Some(system);
        }
        Ok(judge)
    }

    /// Where a step writes, for people.
    pub fn place(&self, op: &Op) -> &'static str {
        let Some((start, end)) = op.range() else { return "a flush" };
        if start < 1 << 20 || end > self.size - (1 << 20) {
            return "the table or the first sector";
        }
        let part = self.parts.iter().find(|p| p.start <= start && start < p.start + p.size);
        match part.map(|p| (p.name.as_str(), p.label.as_str())) {
            Some(("AKENE_BIOS", _)) => "GRUB's core image",
            Some((_, "AKENE_ESP")) => "the EFI system partition",
            Some((_, "AKENE_BOOT")) => "AKENE_BOOT",
            Some((_, "akene-root")) => "the root",
            Some((_, "akene-home")) => "people's files' volume",
            _ => "swap and others",
        }
    }

    /// Whether after this step the old system may not be whole any more.
    pub fn harms(&self, op: &Op) -> bool {
        matches!(self.place(op), "the root" | "swap and others")
    }

    /// What a disk starts. `touched`: the old root was written to.
    ///
    /// # Errors
    /// It starts nothing, or something that is not whole.
    pub fn what_starts(&self, disk: &Path, touched: bool) -> Result<Starts> {
        let Some(core) = core_of(disk)? else {
            ensure!(self.run == Run::First, "the first sector starts nothing");
            return Ok(Starts::Medium);
        };
        ensure!(self.cores.contains(&core), "the core image that the first sector points to is none of ours");
        let menu = self.grub(disk, "/grub/grub.cfg").context("reading the menu as GRUB does")?;
        let menu = String::from_utf8_lossy(&menu).into_owned();
        // The installed system's menu starts it only where a mark says that it is complete.
        let guarded = menu.contains("/akene/state/installed");
        let files = match guarded && self.grub(disk, "/akene/state/installed").is_err() {
            true => ["/akene/vmlinuz", "/akene/initrd.img"].map(String::from),
            false => started_by(&menu)?,
        };
        let sums = self.sums(disk, files.clone())?;
        if files[0] == "/akene/vmlinuz" {
            ensure!(
                menu.contains("akene.mode=install"),
                "the menu starts an installer that does not install: {menu}"
            );
            let whole = self.installers.iter().any(|i| [sums[0].1, sums[1].1] == *i);
            ensure!(whole, "the menu starts an installer that is not whole");
            return Ok(Starts::Installer);
        }
        let system = System { files: sums };
        if !touched {
            ensure!(
                Some(&system) == self.old.as_ref(),
                "the old system's start files are not what they were"
            );
            return Ok(Starts::Old);
        }
        ensure!(
            Some(&system) == self.new.as_ref(),
            "the menu starts a system whose start files are not whole"
        );
        self.is_whole(disk).context("the menu starts the new system")?;
        Ok(Starts::New)
    }

    /// Whether the new system is complete, after its journals are played back as its start does it.
    fn is_whole(&self, disk: &Path) -> Result<()> {
        let copied = self.dir.join("judged.img");
        super::copy(disk, &copied)?;
        for part in self.parts.iter().filter(|p| p.filesystem == "ext4") {
            let attach = Cmd::new("losetup").args(["--find", "--show", "--offset", &part.start.to_string()]);
            let attach = attach.args(["--sizelimit", &part.size.to_string()]).arg(&copied);
            let node = SystemRunner.run(&attach)?.text();
            let checked = SystemRunner.run(&Cmd::new("e2fsck").args(["-p", &node]));
            SystemRunner.run(&Cmd::new("losetup").args(["--detach", &node]))?;
            // 1: the journal was played back.
            if let Err(error) = checked {
                let code = error.downcast_ref::<akene_exec::ExecError>().and_then(|e| e.code);
                ensure!(matches!(code, Some(1 | 2)), "{error:#}");
            }
        }
        let expected = Expected {
            user: USER.into(),
            ssh_key: SSH_KEY.into(),
            packages: ["less", "grub-common"].map(String::from).into(),
            fresh: true,
            ..Expected::default()
        };
        checks::installed(&copied, &expected)
    }

    fn sums(&self, disk: &Path, files: [String; 2]) -> Result<[(String, Sha256); 2]> {
        let [kernel, initrd] = files.map(|file| -> Result<(String, Sha256)> {
            let bytes = self.grub(disk, &file).with_context(|| format!("reading {file} as GRUB does"))?;
            Ok((file, Sha256::of(&bytes)))
        });
        Ok([kernel?, initrd?])
    }

    /// A file of the boot partition.
    fn grub(&self, disk: &Path, file: &str) -> Result<Vec<u8>> {
        let boot =
            self.parts.iter().find(|p| p.label == "AKENE_BOOT").context("there is no boot partition")?;
        let root = format!("loop0,gpt{}", boot.number);
        let cat = Cmd::new("grub-fstest").args(["-r", &root]).arg(disk).args(["cat", file]);
        Ok(SystemRunner.run(&cat)?.stdout)
    }
}

/// Kernel and initrd of the entry that is started when nobody chooses: the first one.
fn started_by(menu: &str) -> Result<[String; 2]> {
    let word = |kind: &str| {
        let line = menu.lines().map(str::trim).find(|l| l.split_whitespace().next() == Some(kind))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    };
    match (word("linux"), word("initrd")) {
        (Some(kernel), Some(initrd)) => Ok([kernel, initrd]),
        _ => bail!("the menu starts nothing: {menu}"),
    }
}

/// The sum of the core image that the first sector points to, but for its first sector, which says where it lies. `None`: the
/// first sector starts nothing.
fn core_of(disk: &Path) -> Result<Option<Sha256>> {
    let first = piece(disk, 0, 512)?;
    if first[..0x1b8].iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let start = number(&first[0x5c..0x64]);
    let head = piece(disk, start * 512, 512)?;
    let (rest, sectors) = (number(&head[500..508]), u16::from_le_bytes(head[508..510].try_into().unwrap()));
    ensure!(rest == start + 1, "the core image's list points to sector {rest}");
    Ok(Some(Sha256::of(&piece(disk, rest * 512, usize::from(sectors) * 512)?)))
}
