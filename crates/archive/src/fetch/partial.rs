//! A file in the making: how far it is, the hash of that, and who gave which part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use akene_protocol::Bytes;
use akene_protocol::ids::Sha256;
use akene_protocol::lock::LockedPackage;
use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use sha2::Digest;

/// A stretch of the file that came in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Which offer it came from; none: it was there before.
    pub offer: Option<usize>,
    pub from: u64,
    pub to: u64,
}

/// `NAME.partial`.
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    at: u64,
    sum: sha2::Sha256,
    parts: Vec<Part>,
}

impl Partial {
    /// Takes up what an earlier run left, hashing it once.
    pub fn open(path: PathBuf, size: Bytes) -> Result<Self> {
        if path.symlink_metadata().is_ok_and(|m| !m.is_file()) {
            // A link would lead elsewhere, a pipe nowhere.
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        let mut file = Self::file(&path).with_context(|| format!("writing {}", path.display()))?;
        let mut sum = sha2::Sha256::new();
        let have = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
        let fits = have <= size.0;
        let at = match if fits { io::copy(&mut file, &mut sum) } else { Ok(0) } {
            Ok(at) if fits => at,
            // Of no use, or where the disk cannot be read any more: another place on it will do.
            _ => {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
                file = Self::file(&path).with_context(|| format!("writing {}", path.display()))?;
                sum = sha2::Sha256::new();
                0
            }
        };
        let parts = if at > 0 { vec![Part { offer: None, from: 0, to: at }] } else { Vec::new() };
        Ok(Partial { file, path, at, sum, parts })
    }

    fn file(path: &Path) -> io::Result<File> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)
    }

    /// How many bytes there are.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The sum of what is there.
    pub fn sum(&self) -> Sha256 {
        Sha256(self.sum.clone().finalize().into())
    }

    /// Who gave what.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// From here on it is this offer that gives.
    pub fn begin(&mut self, offer: usize) {
        self.parts.retain(|p| p.from < p.to);
        self.parts.push(Part { offer: Some(offer), from: self.at, to: self.at });
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("writing {}", self.path.display()))?;
        self.sum.update(bytes);
        self.at += bytes.len() as u64;
        if let Some(part) = self.parts.last_mut() {
            part.to = self.at;
        }
        Ok(())
    }

    /// Begins anew.
    pub fn reset(&mut self) -> Result<()> {
        let doing = || format!("cutting {}", self.path.display());
        self.file.set_len(0).with_context(doing)?;
        self.file.seek(SeekFrom::Start(0)).with_context(doing)?;
        (self.at, self.sum) = (0, sha2::Sha256::new());
        self.parts.clear();
        Ok(())
    }

    /// The sum of each part, to find out later which of them were right.
    pub fn sums_of_parts(&mut self) -> Result<Vec<(Part, Sha256)>> {
        let parts: Vec<Part> = self.parts.iter().copied().filter(|p| p.from < p.to).collect();
        parts.into_iter().map(|part| Ok((part, self.sum_of(part)?))).collect()
    }

    /// The sum of one stretch of what is there.
    pub fn sum_of(&mut self, part: Part) -> Result<Sha256> {
        let reading = || format!("reading {}", self.path.display());
        self.file.seek(SeekFrom::Start(part.from)).with_context(reading)?;
        let sum = Sha256::of_reader((&self.file).take(part.to - part.from)).with_context(reading)?.0;
        self.file.seek(SeekFrom::Start(self.at)).with_context(reading)?;
        Ok(sum)
    }

    /// Gives the file its name.
    pub fn finish(self, goal: &Path) -> Result<()> {
        fs::rename(&self.path, goal).with_context(|| format!("naming the finished {}", goal.display()))
    }

    /// Removes it.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }
}

/// Whether a file is there whole. One that is no file, or cannot be read to its end, is not.
pub(super) fn has_sum(path: &Path, package: &LockedPackage) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() && meta.len() == package.size.0 => {}
        Ok(_) => return Ok(false),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e).with_context(|| format!("looking at {}", path.display())),
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    Ok(file.and_then(Sha256::of_reader).is_ok_and(|(sum, _)| sum == package.sha256))
}
