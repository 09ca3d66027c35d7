//! The files of packages, decompressed and written ahead of their turn, where nobody sees them.
//!
//! Decompressing and writing takes all processors for most of an installation, and scripts take one: so the first
//! goes on behind the second, from the first moment on. What is written here lies in a directory of its own in the
//! new root's filesystem, under numbers; [`Layer`](super::unpack::Layer) gives it its names when its turn comes,
//! which costs next to nothing. A script therefore never meets half of a package, and what it sees depends on the
//! lock alone, not on how fast this machine is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::thread::{self, JoinHandle};

use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use anyhow::{Context, Result, bail};
use md5::{Digest, Md5};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tar::{Archive, Entry, EntryType};

use crate::deb::{Deb, to_its_end};
use crate::extract::{finish_file, link_target};
use crate::fetch::is_full;
use crate::root::{create, inside};

/// Where files wait, below the new root.
const WAITING: &str = ".akene-unpacking";

/// What a decoder gets at first: enough for xz at the level dpkg uses (9 MiB), and for zstd (a window of 8 MiB). Each worker has
/// one, so that all of them take no more than [`LARGE_DECODER`].
const DECODER_MEMORY: u64 = 12 << 20;
/// What a decoder gets that needs more, which then is the only one.
const LARGE_DECODER: u64 = 128 << 20;
/// Scripts wait for nobody but themselves, and these threads go on where processors are left.
const NICE: i32 = 10;
/// What is written at a time: as many bytes as a file has, if that is less.
const PIECE: u64 = 128 << 10;
/// More workers than this only wait for the disk.
const MOST_WORKERS: usize = 8;

/// A package that is going to be needed.
#[derive(Debug)]
pub(super) struct Job {
    /// Its place in the solver's order.
    pub place: usize,
    /// Its file.
    pub deb: Deb,
    /// Whether the sums of its files have to be taken, because it brings none.
    pub sums: bool,
}

/// What came of a package.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it waits.
    Waiting(Vec<Item>),
    /// Only dpkg can read it, for this reason.
    Foreign(String),
}

/// An entry of a package, as the package has it.
#[derive(Debug)]
pub(super) struct Item {
    /// Without a leading slash; empty for the root itself.
    pub path: PathBuf,
    pub what: What,
    pub uid: u32,
    pub gid: u32,
    pub user: Option<Box<str>>,
    pub group: Option<Box<str>>,
    pub mode: u32,
    /// Seconds since 1970.
    pub seconds: i64,
}

/// What kind of entry it is.
#[derive(Debug)]
pub(super) enum What {
    Directory,
    /// It waits under the number of its entry, with its mode and time, and with its sum where that was wanted.
    File {
        sum: Option<String>,
    },
    Symlink(PathBuf),
    /// Another name of the file at this path.
    Link(PathBuf),
    /// Something only dpkg makes.
    Odd(EntryType),
}

/// Keeps the workers.
#[derive(Debug)]
pub(super) struct Stage {
    shared: Arc<Shared>,
    results: mpsc::Receiver<(usize, Result<Content>)>,
    /// What came before it was asked for.
    early: BTreeMap<usize, Result<Content>>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    jobs: Vec<Job>,
    next: AtomicUsize,
    /// Held by all that decode, alone by one that needs much memory for it.
    memory: RwLock<()>,
}

impl Stage {
    /// Begins with these packages, in this order.
    pub fn start(root: &Path, jobs: Vec<Job>) -> Result<Self> {
        let dir = root.join(WAITING);
        let making = || format!("making {}", dir.display());
        // An attempt before this one may have left it.
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).with_context(making),
            _ => fs::DirBuilder::new().mode(0o700).create(&dir).with_context(making)?,
        }
        let processors = thread::available_parallelism().map_or(1, |n| n.get());
        let count = processors.min(MOST_WORKERS).min(jobs.len());
        let shared = Arc::new(Shared { dir, jobs, next: AtomicUsize::new(0), memory: RwLock::new(()) });
        let (sender, results) = mpsc::channel();
        let work = |_| {
            let (sender, shared) = (sender.clone(), shared.clone());
            thread::spawn(move || {
                // Of this thread alone. One that may not be nicer than it is goes on as it is.
                rustix::process::nice(NICE).ok();
                while let Some(job) = shared.jobs.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send((job.place, shared.package(job))).is_err() {
                        break;
                    }
                }
            })
        };
        let workers = (0..count).map(work).collect();
        Ok(Stage { shared, results, early: BTreeMap::new(), workers })
    }

    /// Packages in the order in which they come.
    pub fn in_turn(&self, places: &[usize]) -> Vec<usize> {
        self.shared.jobs.iter().map(|job| job.place).filter(|place| places.contains(place)).collect()
    }

    /// Waits for a package. Each can be had once.
    pub fn take(&mut self, place: usize) -> Result<Content> {
        loop {
            if let Some(content) = self.early.remove(&place) {
                return content;
            }
            let (place, content) =
                self.results.recv().context("waiting for the files of a package: nobody works on it")?;
            self.early.insert(place, content);
        }
    }

    /// Decompresses a package once more.
    pub fn again(&mut self, place: usize) -> Result<()> {
        let job = self.shared.jobs.iter().find(|job| job.place == place);
        let content = self.shared.package(job.context("laying a package again that never came")?);
        self.early.insert(place, content);
        Ok(())
    }

    /// Where the files of a package wait, under the numbers of their entries.
    pub fn waiting(&self, place: usize) -> Result<OwnedFd> {
        open(&self.shared.of(place))
    }

    /// Takes away what is left of a package.
    pub fn clear(&self, place: usize) -> Result<()> {
        let dir = self.shared.of(place);
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
    }

    /// Ends the workers, and takes away what is left.
    pub fn end(self) -> Result<()> {
        let dir = self.shared.dir.clone();
        drop(self);
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shared.next.store(self.shared.jobs.len(), Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // One that panicked has said so itself; whoever waits for its packages is told by `take`.
            worker.join().unwrap_or_default();
        }
    }
}

fn open(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_PATH | OFlag::O_NOFOLLOW;
    nix::fcntl::open(dir, flags, Mode::empty()).with_context(|| format!("opening {}", dir.display()))
}

impl Shared {
    fn of(&self, place: usize) -> PathBuf {
        self.dir.join(place.to_string())
    }

    fn package(&self, job: &Job) -> Result<Content> {
        let read = || -> Result<Content> {
            let dir = self.of(job.place);
            match fs::create_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.with_context(|| format!("making {}", dir.display()))?,
            }
            let dir = open(&dir)?;
            let beside = self.memory.read().unwrap_or_else(PoisonError::into_inner);
            let mut data = job.deb.member_within("data.tar", DECODER_MEMORY)?;
            // A decoder that needs more memory says so before it gives anything.
            let mut first = [0; 512];
            let items = match read_full(&mut data, &mut first) {
                Ok(n) => items(&dir, Cursor::new(&first[..n]).chain(data), job.sums)?,
                Err(_) => {
                    drop((data, beside));
                    let _alone = self.memory.write().unwrap_or_else(PoisonError::into_inner);
                    let mut data = job.deb.member_within("data.tar", LARGE_DECODER)?;
                    match read_full(&mut data, &mut first) {
                        Ok(n) => items(&dir, Cursor::new(&first[..n]).chain(data), job.sums)?,
                        // dpkg sets no limit.
                        Err(error) if error.to_string().contains("memory") => {
                            return Ok(Content::Foreign(format!("decompressing it: {error}")));
                        }
                        Err(error) => return Err(error).context("decompressing it"),
                    }
                }
            };
            Ok(Content::Waiting(items))
        };
        read().map_err(|error| {
            // Whoever has no room to write needs not read it once more.
            let damage = if is_full(&error) { None } else { job.deb.check().err() };
            match damage {
                Some(why) => damaged(job.deb.path(), &why),
                None => error.context(format!("unpacking {}", job.deb.path().display())),
            }
        })
    }
}

fn read_full(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match from.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

/// A package was verified when it was fetched, and cannot be read any more.
fn damaged(deb: &Path, why: &anyhow::Error) -> anyhow::Error {
    let name = deb.file_name().unwrap_or_default().to_string_lossy();
    Issues::from(Issue::new(
        "package-damaged",
        &*name,
        format!(
            "{name} was whole when it was fetched and is not any more: the memory of this computer, or the disk it lay \
             on, gives back something else ({why:#})"
        ),
        "test the memory from the medium's menu, look at the disk's health, and install again",
    ))
    .into()
}

fn items(dir: &OwnedFd, tar: impl Read, sums: bool) -> Result<Vec<Item>> {
    let (mut items, mut tar) = (Vec::new(), Archive::new(tar));
    for entry in tar.entries().context("reading its table of contents")? {
        let mut entry = entry.context("reading its table of contents")?;
        let path = inside(&entry.path().context("reading a file name")?)?;
        if path.as_os_str().as_bytes().contains(&b'\n') {
            bail!("it holds a file with a line feed in its name, which dpkg's database cannot express");
        }
        let item = item(dir, items.len(), &mut entry, path.clone(), sums);
        items.push(item.with_context(|| format!("writing {}", path.display()))?);
    }
    to_its_end(tar)?;
    Ok(items)
}

fn item<R: Read>(
    dir: &OwnedFd,
    number: usize,
    entry: &mut Entry<'_, R>,
    path: PathBuf,
    sums: bool,
) -> Result<Item> {
    let header = entry.header();
    let id = |of: io::Result<u64>, what: &'static str| u32::try_from(of.context(what)?).context(what);
    let (uid, gid) = (id(header.uid(), "reading its owner")?, id(header.gid(), "reading its group")?);
    // Nearly everything is root's, which has the same number everywhere.
    let name = |name: Result<Option<&str>, std::str::Utf8Error>, number: u32| -> Option<Box<str>> {
        name.unwrap_or(None).filter(|n| !n.is_empty() && (number, *n) != (0, "root")).map(Into::into)
    };
    let (user, group) = (name(header.username(), uid), name(header.groupname(), gid));
    let mode = header.mode().context("reading its mode")? & 0o7777;
    let seconds = i64::try_from(header.mtime().context("reading its time")?).unwrap_or(0);
    let what = match header.entry_type() {
        EntryType::Directory => What::Directory,
        EntryType::Symlink => {
            let target = entry.link_name().context("reading the link")?.context("reading the link")?;
            What::Symlink(target.into_owned())
        }
        EntryType::Link => What::Link(link_target(entry)?),
        EntryType::Regular | EntryType::Continuous => {
            let (name, size) = (number.to_string(), entry.size());
            let mut file = create(dir, name.as_ref())?;
            let sum = write(entry, size, &mut file, sums)?;
            finish_file(&file, dir, name.as_ref(), Mode::from_bits_truncate(mode), seconds)?;
            What::File { sum }
        }
        other => What::Odd(other),
    };
    Ok(Item { path, what, uid, gid, user, group, mode, seconds })
}

/// Writes a file's content of so many bytes, and gives its sum where that is wanted.
fn write(from: &mut impl Read, size: u64, to: &mut File, sum: bool) -> Result<Option<String>> {
    let mut from = Summing { from, sum: sum.then(Md5::new) };
    let mut to = BufWriter::with_capacity(size.min(PIECE) as usize, to);
    io::copy(&mut from, &mut to).and_then(|_| to.flush()).context("writing its content")?;
    Ok(from.sum.map(|sum| hex::encode(sum.finalize())))
}

/// A reader that takes the sum of what it gives.
struct Summing<'a, R> {
    from: &'a mut R,
    sum: Option<Md5>,
}

impl<R: Read> Read for Summing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        if let Some(sum) = &mut self.sum {
            sum.update(&buffer[..n]);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use akene_exec::{Cmd, Runner, SystemRunner};

    use super::*;

    /// Reads a package with one file, and gives what it holds.
    fn read(dir: &Path, deb: &Path) -> Result<Vec<u8>> {
        let job = Job { place: 0, deb: Deb::new(deb), sums: false };
        let mut stage = Stage::start(dir, vec![job])?;
        let Content::Waiting(items) = stage.take(0)? else { panic!("left to dpkg") };
        let file =
            items.iter().position(|item| item.path == Path::new("file")).context("its file is gone")?;
        let content = fs::read(dir.join(WAITING).join("0").join(file.to_string()))?;
        stage.end()?;
        Ok(content)
    }

    /// A directory with the tree of a package that has one file, and where the package goes. `None` where there is no dpkg, which
    /// is said.
    fn package() -> Option<(tempfile::TempDir, PathBuf)> {
        if !Path::new("/usr/bin/dpkg-deb").exists() {
            eprintln!("SKIPPED: there is no dpkg-deb");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let control =
            "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: a\n";
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        // What does not become smaller lies in the archive as it is.
        let content: Vec<u8> = (0..600u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(tree.join("file"), content).unwrap();
        let deb = dir.path().join("a_1_all.deb");
        Some((dir, deb))
    }

    fn build(dir: &Path, deb: &Path, how: &str) {
        let cmd = Cmd::new("dpkg-deb").args(["--root-owner-group", how, "-b"]).arg(dir.join("tree")).arg(deb);
        SystemRunner.run(&cmd).unwrap();
    }

    /// Where the bytes of a package's files are in its own.
    fn data_of(deb: &[u8]) -> std::ops::Range<usize> {
        let header = deb.windows(8).rposition(|w| w == b"data.tar").unwrap();
        let size: usize =
            std::str::from_utf8(&deb[header + 48..header + 58]).unwrap().trim().parse().unwrap();
        header + 60..header + 60 + size
    }

    /// What a disk or memory gave back otherwise than it was verified is found, wherever in the package it is.
    #[test]
    fn what_was_damaged_since_it_was_verified_is_found() {
        let Some((dir, deb)) = package() else { return };
        let content = fs::read(dir.path().join("tree/file")).unwrap();
        for how in ["-Zxz", "-Zgzip", "-Zzstd"] {
            build(dir.path(), &deb, how);
            assert_eq!(read(dir.path(), &deb).unwrap(), content);
            let whole = fs::read(&deb).unwrap();
            let data = data_of(&whole);
            let damaged = |at: usize| {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                fs::write(&deb, bytes).unwrap();
                read(dir.path(), &deb)
            };
            let mut found = 0;
            for at in data.clone() {
                match damaged(at) {
                    Ok(read) => assert!(read == content, "{how}: byte {at} of {data:?}"),
                    Err(_) => found += 1,
                }
            }
            assert!(found * 10 > data.len() * 9, "{how}: {found} of {}", data.len());
            // What says how it is compressed, and the middle of it.
            for at in [data.start, (data.start + data.end) / 2] {
                let error = damaged(at).unwrap_err();
                assert_eq!(error.downcast::<Issues>().unwrap().0[0].code, "package-damaged", "{how}: {at}");
            }
        }
    }

    #[test]
    fn what_asks_for_more_memory_than_we_give_is_left_to_dpkg() {
        let Some((dir, deb)) = package() else { return };
        build(dir.path(), &deb, "-Zxz");
        let mut bytes = fs::read(&deb).unwrap();
        // The header of the first block (xz-file-format 3.1): its size, flags that say which of two sizes follow, the number of a
        // filter, the size of its properties, and these: a dictionary, here of 4 GiB. A sum ends it.
        let block = data_of(&bytes).start + 12;
        let end = block + (usize::from(bytes[block]) + 1) * 4;
        let mut at = block + 2;
        for _ in 0..(bytes[block + 1] & 0xc0).count_ones() {
            at += bytes[at..].iter().position(|b| *b < 0x80).unwrap() + 1;
        }
        assert_eq!(bytes[at..at + 2], [0x21, 1]);
        bytes[at + 2] = 40;
        let mut sum = flate2::Crc::new();
        sum.update(&bytes[block..end - 4]);
        bytes[end - 4..end].copy_from_slice(&sum.sum().to_le_bytes());
        fs::write(&deb, bytes).unwrap();
        let job = Job { place: 0, deb: Deb::new(&deb), sums: false };
        let mut stage = Stage::start(dir.path(), vec![job]).unwrap();
        assert!(matches!(stage.take(0).unwrap(), Content::Foreign(why) if why.contains("memory")));
    }
}
