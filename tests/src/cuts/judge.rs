//! What a computer with a BIOS starts from a disk: by the first sector, the core image it points to, and the menu and files on
//! `AKENE_BOOT`, read by GRUB's own driver, which plays back no journal. Where the old system stays beside the new one, also what
//! that menu, or the installer, would turn back to.

use std::path::{Path, PathBuf};

use akene_agent::run::boot_files::INSTALLER;
use akene_agent::run::second_root::{self, CHOSEN, Old, START};
use akene_archive::initrd;
use akene_exec::{Cmd, ExecError, Output, Runner, SystemRunner};
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

/// A kernel and its initrd, by path and sum, and the UUID of the root they start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct System {
    files: [(String, Sha256); 2],
    root: Option<String>,
}

impl System {
    fn sums(&self) -> [Sha256; 2] {
        [self.files[0].1, self.files[1].1]
    }
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
            let (files, root) = started_by(&String::from_utf8_lossy(&menu))?;
            let system = System { files: judge.sums(disk, files)?, root };
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
            Some(("akene-root", _)) if self.run == Run::Beside => "the old root",
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
        self.run != Run::Beside && matches!(self.place(op), "the root" | "swap and others")
    }

    /// Whether a step writes to a root that is to stay, byte for byte.
    pub fn is_forbidden(&self, op: &Op) -> bool {
        let stays = self.parts.iter().find(|p| self.run == Run::Beside && p.name == "akene-root");
        let (Some(stays), Some((start, end))) = (stays, op.range()) else { return false };
        start < stays.start + stays.size && stays.start < end
    }

    /// UUID of the root of the system that stays.
    pub fn stays(&self) -> Option<&str> {
        self.old.as_ref().filter(|_| self.run == Run::Beside)?.root.as_deref()
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
        let (files, root) = match guarded && self.grub(disk, "/akene/state/installed").is_err() {
            true => (["/akene/vmlinuz", "/akene/initrd.img"].map(String::from), None),
            false => started_by(&menu)?,
        };
        let sums = self.sums(disk, files.clone())?;
        if files[0] == "/akene/vmlinuz" {
            ensure!(
                menu.contains("akene.mode=install"),
                "the menu starts an installer that does not install: {menu}"
            );
            ensure!(self.is_an_installer(&sums), "the menu starts an installer that is not whole");
            if self.run == Run::Beside {
                self.can_be_given_back(disk).context("the menu starts the installer")?;
            }
            return Ok(Starts::Installer);
        }
        self.falls_back(disk, &menu)?;
        let system = System { files: sums, root };
        let is_old = match self.stays() {
            Some(root) => system.root.as_deref() == Some(root),
            None => !touched,
        };
        if is_old {
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
        if self.run == Run::Beside {
            self.turns_back(disk, &menu).context("the menu starts the new system")?;
        }
        Ok(Starts::New)
    }

    fn is_an_installer(&self, files: &[(String, Sha256); 2]) -> bool {
        self.installers.iter().any(|sums| [files[0].1, files[1].1] == *sums)
    }

    /// Whether the installer is whole that the menu of a system offers, and falls back to where it cannot load that system. It
    /// offers none where one of the files is not there.
    fn falls_back(&self, disk: &Path, menu: &str) -> Result<()> {
        let there = INSTALLER.iter().all(|file| self.grub(disk, &format!("/{file}")).is_ok());
        if there && menu.contains("--id akene-reinstall") {
            let [kernel, initrd, _] = INSTALLER.map(|file| format!("/{file}"));
            let whole = self.is_an_installer(&self.sums(disk, [kernel, initrd])?);
            ensure!(whole, "the menu of a system falls back to an installer that is not whole");
        }
        Ok(())
    }

    /// Whether the menu of a new system turns to the old one, whole, when that one's turn has come.
    fn turns_back(&self, disk: &Path, menu: &str) -> Result<()> {
        let entry = menu.find("--id akene-old").context("it names no system before it")?;
        let (files, root) = started_by(&menu[entry..])?;
        ensure!(
            files == START.map(|file| format!("/{file}")),
            "the system before it is started by {files:?}"
        );
        ensure!(root.as_deref() == self.stays(), "the system before it has the root {root:?}");
        ensure!(menu[entry..].contains(CHOSEN), "the system before it would not know why it runs");
        // GRUB writes no environment that is not there, and could not count.
        let environment = self.grub(disk, "/grub/grubenv")?;
        let counts = String::from_utf8_lossy(&environment).contains("\nakene_tries=5\n");
        ensure!(counts && environment.len() == 1024, "its starts are not counted");
        self.can_be_given_back(disk)
    }

    /// Whether all is there, whole, that starts the old system when the installer gives up or GRUB turns to it.
    fn can_be_given_back(&self, disk: &Path) -> Result<()> {
        let (stays, old) = (self.stays().context("no system stays")?, self.old.as_ref());
        let kept = self.sums(disk, START.map(|file| format!("/{file}"))).context("the way back")?;
        let kept = kept.map(|(_, sum)| sum);
        ensure!(old.is_some_and(|old| old.sums() == kept), "the way back is not what started the old system");
        self.grub(disk, &format!("/{}", second_root::of_root(stays))).context("whose way back it is")?;
        let how: Old = serde_json::from_slice(&self.grub(disk, "/akene/old/system.json")?)
            .context("reading how the old system is started")?;
        ensure!(how.root == stays, "the way back leads to {}", how.root);
        Ok(())
    }

    /// Whether the root that the boot partition names as the one to stay, as who mounts it reads that, holds a whole system.
    ///
    /// # Errors
    /// It is half a system, or not the one that stays.
    pub fn names_a_whole_system(&self, disk: &Path) -> Result<()> {
        let part = self.boot()?;
        let boot = self.dir.join("boot.img");
        let place = [format!("skip={}", part.start), format!("count={}", part.size)];
        let how = ["bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none"];
        let [from, to] = [("if", disk), ("of", &boot)].map(|(key, file)| format!("{key}={}", file.display()));
        SystemRunner.run(&Cmd::new("dd").args([from, to]).args(place).args(how))?;
        played_back(SystemRunner.run(&Cmd::new("e2fsck").arg("-p").arg(&boot)))?;
        let read = |file: &str| -> Result<String> {
            Ok(SystemRunner.run(&Cmd::new("debugfs").args(["-R", &format!("cat {file}")]).arg(&boot))?.text())
        };
        let (mark, installed) = (read("/akene/state/root")?, read("/akene/state/installed")?);
        let (root, state) = mark.trim().split_once(' ').unwrap_or((mark.trim(), ""));
        if let Some(stays) = self.stays() {
            ensure!(
                root == stays && state.is_empty(),
                "the system that stays is called `{mark}`, not {stays}"
            );
        } else if !root.is_empty() && state.is_empty() {
            ensure!(!installed.is_empty(), "half a system is called the one to stay: {root}");
        }
        Ok(())
    }

    /// Whether the new system is complete, after its journals are played back as its start does it.
    pub fn is_whole(&self, disk: &Path) -> Result<()> {
        let copied = self.dir.join("judged.img");
        super::copy(disk, &copied)?;
        for part in self.parts.iter().filter(|p| p.filesystem == "ext4") {
            let attach = Cmd::new("losetup").args(["--find", "--show", "--offset", &part.start.to_string()]);
            let attach = attach.args(["--sizelimit", &part.size.to_string()]).arg(&copied);
            let node = SystemRunner.run(&attach)?.text();
            let checked = SystemRunner.run(&Cmd::new("e2fsck").args(["-p", &node]));
            SystemRunner.run(&Cmd::new("losetup").args(["--detach", &node]))?;
            played_back(checked)?;
        }
        let expected = Expected {
            user: USER.into(),
            ssh_key: SSH_KEY.into(),
            packages: ["less", "grub-common"].map(String::from).into(),
            fresh: true,
            beside: self.stays().map(str::to_owned),
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

    /// Whether a disk starts a new system, turns back from it, and the root of the system that stays is byte for byte the one on
    /// the disk before.
    pub fn old_stays(&self, before: &Path, disk: &Path) -> Result<()> {
        let menu = self.grub(disk, "/grub/grub.cfg")?;
        let menu = String::from_utf8_lossy(&menu);
        let (_, root) = started_by(&menu)?;
        ensure!(root.as_deref() != self.stays(), "the menu starts the old system");
        self.turns_back(disk, &menu)?;
        let part = self.parts.iter().find(|p| p.name == "akene-root").context("there is no old root")?;
        let range = ["-i", &part.start.to_string(), "-n", &part.size.to_string()].map(str::to_owned);
        let compare = Cmd::new("cmp").args(range).arg(before).arg(disk);
        SystemRunner.run(&compare).context("comparing the root of the system that stays").map(drop)
    }

    fn boot(&self) -> Result<&Part> {
        self.parts.iter().find(|p| p.label == "AKENE_BOOT").context("there is no boot partition")
    }

    /// A file of the boot partition.
    fn grub(&self, disk: &Path, file: &str) -> Result<Vec<u8>> {
        let root = format!("loop0,gpt{}", self.boot()?.number);
        let cat = Cmd::new("grub-fstest").args(["-r", &root]).arg(disk).args(["cat", file]);
        Ok(SystemRunner.run(&cat)?.stdout)
    }
}

/// That a filesystem is sound, or was once its journal was played back.
fn played_back(checked: Result<Output>) -> Result<()> {
    if let Err(error) = checked {
        let code = error.downcast_ref::<ExecError>().and_then(|e| e.code);
        ensure!(matches!(code, Some(1 | 2)), "{error:#}");
    }
    Ok(())
}

/// Kernel and initrd of the entry that is started when nobody chooses, the first one, and the UUID of their root.
fn started_by(menu: &str) -> Result<([String; 2], Option<String>)> {
    let words = |kind: &str| {
        let mut lines = menu.lines().map(|line| line.split_whitespace().map(str::to_owned));
        lines.find_map(|mut words| (words.next()? == kind).then(|| words.collect::<Vec<_>>()))
    };
    let (kernel, initrd) = (words("linux").unwrap_or_default(), words("initrd").unwrap_or_default());
    let root = kernel.iter().find_map(|word| word.strip_prefix("root=UUID=")).map(str::to_owned);
    match (kernel.first(), initrd.first()) {
        (Some(kernel), Some(initrd)) => Ok(([kernel.clone(), initrd.clone()], root)),
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
