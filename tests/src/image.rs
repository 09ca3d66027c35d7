//! Looking into a disk image, with the ordinary tools as judges of what our own code wrote.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{ChrootMounts, Cmd, Output, Runner, SystemRunner};
use anyhow::{Context, Result, ensure};
use nix::unistd::{Whence, lseek};

/// Files are compared in pieces of this size.
const BLOCK: u64 = 1 << 20;

/// A partition as `sfdisk` and `blkid` see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number in the table.
    pub number: usize,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Type in the table.
    pub kind: String,
    /// Name in the table (GPT).
    pub name: String,
    /// Filesystem found in it, or nothing.
    pub filesystem: String,
    /// Label of the filesystem.
    pub label: String,
    /// UUID of the filesystem.
    pub uuid: String,
    /// Where its bytes are.
    pub file: PathBuf,
}

impl Part {
    /// What `blkid` finds there.
    fn found(file: &Path, start: u64, size: u64) -> Part {
        let probe = Cmd::new("blkid")
            .args(["-p", "-o", "export", "-O", &start.to_string(), "-S", &size.to_string()])
            .arg(file);
        // blkid fails where there is nothing it knows.
        let found = SystemRunner.run(&probe).map(|o| o.text()).unwrap_or_default();
        let tag = |key: &str| {
            let value = found.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
            value.unwrap_or_default().replace('\\', "")
        };
        Part {
            number: 0,
            start,
            size,
            kind: String::new(),
            name: String::new(),
            filesystem: tag("TYPE"),
            label: tag("LABEL"),
            uuid: tag("UUID"),
            file: file.to_owned(),
        }
    }
}

/// A disk image whose partitions can be looked at. What it attached is detached when it is dropped.
pub struct Image {
    file: PathBuf,
    /// Partitions in the order of their numbers.
    pub parts: Vec<Part>,
    loops: Vec<String>,
    mounts: Vec<PathBuf>,
    dir: tempfile::TempDir,
}

impl Image {
    /// Reads the table.
    pub fn open(file: &Path) -> Result<Self> {
        let table: serde_json::Value = run(Cmd::new("sfdisk").arg("--json").arg(file))?.json()?;
        let table = &table["partitiontable"];
        let sector = table["sectorsize"].as_u64().unwrap_or(512);
        let mut parts = Vec::new();
        for (index, entry) in
            table["partitions"].as_array().context("the table has no partitions")?.iter().enumerate()
        {
            let number = |key: &str| entry[key].as_u64().with_context(|| format!("sfdisk tells no {key}"));
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let (start, size) = (number("start")? * sector, number("size")? * sector);
            // sfdisk names them FILE1, FILE2 …
            let number = text("node").trim_start_matches(&*file.to_string_lossy()).parse();
            parts.push(Part {
                number: number.unwrap_or(index + 1),
                kind: text("type"),
                name: text("name"),
                ..Part::found(file, start, size)
            });
        }
        let dir = tempfile::tempdir().context("making a mount point")?;
        Ok(Image { file: file.to_owned(), parts, loops: Vec::new(), mounts: Vec::new(), dir })
    }

    /// Counts a filesystem in, which lies over several disks and was copied into this file.
    pub fn add(&mut self, file: &Path) -> Result<()> {
        let size = file.metadata().with_context(|| format!("looking at {}", file.display()))?.len();
        self.parts.push(Part::found(file, 0, size));
        Ok(())
    }

    /// The partition whose filesystem has this label.
    pub fn labelled(&self, label: &str) -> Result<&Part> {
        self.parts
            .iter()
            .find(|p| p.label == label)
            .with_context(|| format!("no partition is labelled {label}: {:#?}", self.parts))
    }

    /// Attaches a partition, read-only, and gives its device.
    fn attach(&mut self, part: &Part) -> Result<String> {
        let attach = Cmd::new("losetup")
            .args(["--find", "--show", "--read-only"])
            .args(["--offset", &part.start.to_string(), "--sizelimit", &part.size.to_string()])
            .arg(&part.file);
        let device = run(attach)?.text();
        self.loops.push(device.clone());
        Ok(device)
    }

    /// Mounts a partition read-only at `at` below a private root and gives that root.
    fn mount(&mut self, part: &Part, at: &str) -> Result<PathBuf> {
        let device = self.attach(part)?;
        let to = self.dir.path().join(at.trim_start_matches('/'));
        std::fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
        let options = if part.filesystem == "ext4" { "ro,noload" } else { "ro" };
        run(Cmd::new("mount").args(["-o", options, &device]).arg(&to))?;
        self.mounts.push(to);
        Ok(self.dir.path().to_owned())
    }

    /// Mounts what `fstab` of the installed system names, except swap and the ESP (no driver for it is
    /// needed anywhere in this project). Gives the root.
    pub fn mount_system(&mut self) -> Result<PathBuf> {
        let candidates: Vec<_> = self
            .parts
            .iter()
            .filter(|p| ["ext4", "xfs", "btrfs"].contains(&p.filesystem.as_str()))
            .cloned()
            .collect();
        for part in candidates {
            let root = self.mount(&part, "/")?;
            if root.join("etc/fstab").exists() {
                let fstab = std::fs::read_to_string(root.join("etc/fstab")).context("reading fstab")?;
                for line in fstab.lines().filter(|l| !l.trim_start().starts_with('#')) {
                    let words: Vec<_> = line.split_whitespace().collect();
                    let [source, at, kind, ..] = words[..] else { continue };
                    if at == "/" || kind == "swap" || kind == "vfat" {
                        continue;
                    }
                    let uuid =
                        source.strip_prefix("UUID=").with_context(|| format!("fstab names {source}"))?;
                    let part = self.parts.iter().find(|p| p.uuid == uuid).cloned();
                    self.mount(&part.with_context(|| format!("no partition has the UUID of {at}"))?, at)?;
                }
                return Ok(root);
            }
            self.unmount_all();
        }
        anyhow::bail!("no partition of {} holds a system: {:#?}", self.file.display(), self.parts)
    }

    /// `sgdisk --verify` (GPT) and each filesystem's own check, none of which may find anything.
    pub fn check_disk(&mut self) -> Result<()> {
        let said = run(Cmd::new("sgdisk").arg("--verify").arg(&self.file))?.text();
        ensure!(said.contains("No problems found"), "sgdisk --verify: {said}");
        for part in self.parts.clone() {
            let device = self.attach(&part)?;
            let check = match part.filesystem.as_str() {
                "ext4" => Cmd::new("e2fsck").args(["-f", "-n"]),
                "vfat" => Cmd::new("fsck.vfat").arg("-n"),
                "xfs" => Cmd::new("xfs_repair").arg("-n"),
                "btrfs" => Cmd::new("btrfs").args(["check", "--readonly"]),
                _ => continue,
            };
            run(check.arg(&device))
                .with_context(|| format!("checking partition {} ({})", part.number, part.label))?;
        }
        self.unmount_all();
        Ok(())
    }

    /// The partition that is called so in the table.
    pub fn named(&self, name: &str) -> Result<&Part> {
        self.parts.iter().find(|p| p.name == name).with_context(|| format!("no partition is called {name}"))
    }

    /// Content of a file on the ESP, through mtools.
    pub fn esp_file(&self, path: &str) -> Result<Vec<u8>> {
        let read = Cmd::new("mtype").args(["-i", &self.esp()?, &format!("::{path}")]);
        Ok(run(read)?.stdout)
    }

    /// Replaces a file there.
    pub fn put_esp_file(&self, path: &str, content: &[u8]) -> Result<()> {
        let copy = tempfile::NamedTempFile::new().context("making a file to copy")?;
        std::fs::write(copy.path(), content).context("writing a file to copy")?;
        let put = Cmd::new("mcopy").args(["-o", "-i", &self.esp()?]).arg(copy.path());
        run(put.arg(format!("::{path}"))).map(drop)
    }

    /// The ESP as mtools name it.
    fn esp(&self) -> Result<String> {
        let esp = self.parts.iter().find(|p| p.filesystem == "vfat").context("there is no ESP")?;
        Ok(format!("{}@@{}", self.file.display(), esp.start))
    }

    fn unmount_all(&mut self) {
        for mount in self.mounts.drain(..).rev() {
            if let Err(error) = run(Cmd::new("umount").arg(&mount)) {
                eprintln!("{error:#}");
            }
        }
        for device in self.loops.drain(..).rev() {
            if let Err(error) = run(Cmd::new("losetup").args(["--detach", &device])) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.unmount_all();
    }
}

/// A partition of a disk image, mounted to be changed. Unmounted at the end.
pub struct Opened {
    device: String,
    at: tempfile::TempDir,
}

impl Opened {
    /// Mounts the partition whose filesystem has this label.
    pub fn new(disk: &Path, label: &str) -> Result<Self> {
        Opened::of(disk, Image::open(disk)?.labelled(label)?)
    }

    /// Mounts this partition.
    pub fn of(disk: &Path, part: &Part) -> Result<Self> {
        let place = ["--offset", &part.start.to_string(), "--sizelimit", &part.size.to_string()];
        let device = run(Cmd::new("losetup").args(["--find", "--show"]).args(place).arg(disk))?.text();
        let opened = Opened { device, at: tempfile::tempdir().context("making a mount point")? };
        run(Cmd::new("mount").arg(&opened.device).arg(opened.at.path()))?;
        Ok(opened)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for cmd in [Cmd::new("umount").arg(self.at.path()), Cmd::new("losetup").args(["-d", &self.device])] {
            if let Err(error) = run(cmd) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn run(cmd: Cmd) -> Result<Output> {
    SystemRunner.run(&cmd)
}

/// Runs a command inside the mounted system; it sees no disk of ours as writable.
pub fn inside(root: &Path, command: &[&str]) -> Result<String> {
    let cmd = Cmd::new(command[0]).args(&command[1..]).chroot(ChrootMounts::new(root));
    Ok(run(cmd)?.text())
}

/// The version of a package in the system installed on a disk.
pub fn version_of(package: &str, disk: &Path) -> Result<String> {
    let mut image = Image::open(disk)?;
    let root = image.mount_system()?;
    inside(&root, &["dpkg-query", "-W", "-f", "${Version}", package])
}

/// What a disk image holds, for telling whether anything changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    size: u64,
    /// Where there is something else than zeros, and its sum.
    blocks: Vec<(u64, akene_protocol::Sha256)>,
}

impl Digest {
    /// Whether there is nothing but zeros.
    pub fn is_blank(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// Detaches every loop device of a file, as a machine forgets them with its power.
///
/// # Errors
/// Somebody still holds one after a minute.
pub fn let_go(file: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        let held = run(Cmd::new("losetup").arg("-j").arg(file))?.text();
        if held.is_empty() {
            return Ok(());
        }
        for device in held.lines().filter_map(|line| line.split(':').next()) {
            // What dies late may have let go of it just now: only that none is left counts.
            run(Cmd::new("losetup").args(["-d", device])).ok();
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "somebody still holds {held}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sums up a disk image. Holes and zeros are the same to a disk, and the holes of an empty disk need not be
/// read.
pub fn digest(file: &Path) -> Result<Digest> {
    let doing = || format!("reading {}", file.display());
    let open = std::fs::File::open(file).with_context(doing)?;
    let size = open.metadata().with_context(doing)?.len();
    let (mut blocks, mut at, mut block) = (Vec::new(), 0, vec![0; BLOCK as usize]);
    while at < size {
        let start = match lseek(&open, i64::try_from(at)?, Whence::SeekData) {
            Ok(start) => start,
            // Only a hole is left.
            Err(nix::errno::Errno::ENXIO) => break,
            Err(error) => return Err(error).with_context(doing),
        };
        let end = lseek(&open, start, Whence::SeekHole).with_context(doing)? as u64;
        // Blocks at fixed places: what else is allocated around a byte does not count.
        at = start as u64 / BLOCK * BLOCK;
        while at < end {
            let piece = &mut block[..usize::try_from((size - at).min(BLOCK))?];
            open.read_exact_at(piece, at).with_context(doing)?;
            if piece.iter().any(|b| *b != 0) {
                blocks.push((at, akene_protocol::Sha256::of(piece)));
            }
            at += piece.len() as u64;
        }
    }
    Ok(Digest { size, blocks })
}

/// Why images cannot be attached here; nothing if they can.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root may attach disk images".into());
    }
    (!Path::new("/dev/loop-control").exists()).then(|| "this kernel has no loop devices".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_sees_every_byte_but_not_where_holes_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(64 << 30).unwrap();
        let empty = digest(&path).unwrap();
        file.write_all_at(&[0; 70_000], 5_000_000_000).unwrap();
        assert_eq!(digest(&path).unwrap(), empty, "zeros are what a hole is");
        let mut sums = vec![empty];
        for at in [0, 5_000_000_001, (64 << 30) - 1] {
            file.write_all_at(&[1], at).unwrap();
            let sum = digest(&path).unwrap();
            assert!(!sums.contains(&sum), "the byte at {at} was not seen");
            sums.push(sum);
        }
        file.set_len((64 << 30) + 1).unwrap();
        assert!(!sums.contains(&digest(&path).unwrap()), "the size was not seen");
    }
}
