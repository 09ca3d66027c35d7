//! The files of many packages at once, with all processors.
//!
//! The result is what dpkg leaves, whatever the order the workers come in:
//! - a path belongs to one package. The second to claim it is *handed over* to dpkg, which knows `Replaces` and
//!   otherwise says what is wrong;
//! - a directory that several packages bring has the owner and mode of the first of them in the solver's order,
//!   and one that was there before stays as it is;
//! - configuration files come as `.dpkg-new`, for dpkg to put into place when it configures the package;
//! - diverted paths go where the diversion says, overridden owners and modes are obeyed, names of owners are those
//!   of the new system.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io::{Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use anyhow::{Context, Result, bail};
use md5::{Digest, Md5};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};
use tar::{Archive, Entry, EntryType};

use super::database::{Diversions, Ownership};
use super::package::Package;
use crate::extract::{finish_file, link_target, set_time, write_file, write_link, write_symlink};
use crate::root::{Root, inside};

/// What a decoder gets at first: enough for xz at the level dpkg uses, and for zstd. Each worker has one.
const DECODER_MEMORY: u64 = 16 << 20;
/// What a decoder gets that needs more, one at a time.
const LARGE_DECODER: u64 = 128 << 20;
/// More workers than this only wait for the disk.
const MOST_WORKERS: usize = 8;

/// What a package brought.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Every path of the package, in its order, without leading slashes; the root itself is `.`.
    pub paths: Vec<PathBuf>,
    /// Lines of `md5sums`, for a package that brings none.
    pub sums: Vec<u8>,
    /// Watched paths at or above what was written, with a leading slash.
    pub noticed: BTreeSet<String>,
}

/// How the unpacking of one package ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All of it is there.
    Whole(Unpacked),
    /// It needs dpkg itself.
    HandOver {
        /// For this reason.
        why: String,
        /// A path that is a directory for one package and something else for another: what it becomes depends on
        /// who comes first, so everybody who has it needs dpkg.
        torn: Option<PathBuf>,
    },
}

/// Who brought a path.
#[derive(Debug)]
enum Claim {
    /// A directory, shared by all who bring it. The place of the first in the solver's order; `None` for one that
    /// was there before.
    Directory(Option<usize>),
    /// Anything else, brought by the package of this place.
    Other(usize),
}

/// All paths that were laid into the root so far.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<PathBuf, Claim>);

impl Claims {
    /// Forgets what a package brought, because it is going to be laid again. Gives the files and links, and the
    /// directories that it was the first to bring.
    pub fn forget(&mut self, place: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        self.0.retain(|path, claim| {
            let into = match claim {
                Claim::Other(by) if *by == place => &mut files,
                Claim::Directory(Some(by)) if *by == place => &mut directories,
                _ => return true,
            };
            into.push(path.clone());
            false
        });
        (files, directories)
    }
}

/// Users and groups of the new system, by name.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Accounts {
    /// Reads them; there are none before the base is configured.
    pub fn read(root: &Root) -> Result<Self> {
        let names = |file: &str| -> Result<HashMap<String, u32>> {
            let text = String::from_utf8_lossy(&root.read(file)?.unwrap_or_default()).into_owned();
            let entry = |line: &str| {
                let mut parts = line.split(':');
                Some((parts.next()?.to_owned(), parts.nth(1)?.parse().ok()?))
            };
            Ok(text.lines().filter_map(entry).collect())
        };
        Ok(Accounts { users: names("etc/passwd")?, groups: names("etc/group")? })
    }
}

/// Conditions that are the same for all packages of one go.
pub(super) struct Ground<'a> {
    /// The new root.
    pub root: &'a Path,
    /// Diversions.
    pub diversions: &'a Diversions,
    /// Owners and modes that were chosen instead of the packages' own.
    pub ownership: &'a Ownership,
    /// Paths somebody wants to be told of.
    pub watched: &'a BTreeSet<PathBuf>,
    /// Names of owners.
    pub accounts: &'a Accounts,
}

/// Unpacks packages, each with its place in the solver's order, and tells of each that is done. The outcomes are
/// in the order of the packages.
pub(super) fn unpack(
    ground: &Ground<'_>,
    packages: &[(usize, &Package)],
    claims: &mut Claims,
    told: &mut dyn FnMut(&str),
) -> Result<Vec<Outcome>> {
    // The largest first, so that none of them is left alone at the end.
    let mut order: Vec<usize> = (0..packages.len()).collect();
    let size = |at: usize| std::fs::metadata(packages[at].1.deb.path()).map_or(0, |m| m.len());
    order.sort_by_cached_key(|at| std::cmp::Reverse(size(*at)));
    let next = AtomicUsize::new(0);
    let shared = Shared { ground, claims: Mutex::new(std::mem::take(claims)), large: Mutex::new(()) };
    let workers = thread::available_parallelism().map_or(1, |n| n.get()).min(MOST_WORKERS);
    let (sender, results) = mpsc::channel();
    let mut outcomes: Vec<Option<Outcome>> = packages.iter().map(|_| None).collect();
    let ended = thread::scope(|scope| {
        for _ in 0..workers.min(order.len()) {
            let (sender, shared, order, next) = (sender.clone(), &shared, &order, &next);
            scope.spawn(move || {
                while let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (place, package) = packages[*at];
                    let result = shared.package(place, package);
                    if result.is_err() {
                        next.store(order.len(), Ordering::Relaxed);
                    }
                    if sender.send((*at, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut failed = None;
        for (at, result) in results {
            match result {
                Ok(outcome) => {
                    told(&packages[at].1.name);
                    outcomes[at] = Some(outcome);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    });
    *claims = shared.claims.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended?;
    outcomes.into_iter().collect::<Option<_>>().context("unpacking packages: some were left out")
}

/// What the workers of one go share.
struct Shared<'a> {
    ground: &'a Ground<'a>,
    claims: Mutex<Claims>,
    /// Held by the one that decodes with much memory.
    large: Mutex<()>,
}

impl Shared<'_> {
    fn package(&self, place: usize, package: &Package) -> Result<Outcome> {
        let unpack = || -> Result<Outcome> {
            let mut data = package.deb.member_within("data.tar", DECODER_MEMORY)?;
            // A decoder that needs more memory says so before it gives anything.
            let mut first = [0; 512];
            match read_full(&mut data, &mut first) {
                Ok(n) => Worker::new(self, place, package)?.unpack(Cursor::new(&first[..n]).chain(data)),
                Err(_) => {
                    let _alone = self.large.lock().unwrap_or_else(PoisonError::into_inner);
                    let data = package.deb.member_within("data.tar", LARGE_DECODER)?;
                    Worker::new(self, place, package)?.unpack(data)
                }
            }
        };
        unpack().with_context(|| format!("unpacking {}", package.deb.path().display()))
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_full(from: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match from.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

/// One package being unpacked.
struct Worker<'a, 's> {
    shared: &'a Shared<'s>,
    root: Root,
    place: usize,
    package: &'a Package,
    conffiles: BTreeSet<&'a Path>,
    sums: Option<BTreeMap<PathBuf, String>>,
    done: Unpacked,
}

/// Where an entry goes, or why only dpkg can say.
enum Place {
    At(PathBuf),
    Unclear(Outcome),
}

impl<'a, 's> Worker<'a, 's> {
    fn new(shared: &'a Shared<'s>, place: usize, package: &'a Package) -> Result<Self> {
        let there = package.conffiles.iter().filter(|c| !c.remove_on_upgrade);
        Ok(Worker {
            shared,
            root: Root::open(shared.ground.root)?,
            place,
            package,
            conffiles: there.map(|c| Path::new(c.path.trim_start_matches('/'))).collect(),
            sums: package.member("md5sums").is_none().then(BTreeMap::new),
            done: Unpacked::default(),
        })
    }

    fn unpack(mut self, tar: impl Read) -> Result<Outcome> {
        let mut tar = Archive::new(tar);
        for entry in tar.entries().context("reading its table of contents")? {
            let mut entry = entry.context("reading its table of contents")?;
            let path = inside(&entry.path().context("reading a file name")?)?;
            if path.as_os_str().is_empty() {
                // The root itself: dpkg lists it as it comes.
                self.done.paths.push(".".into());
                continue;
            }
            if path.as_os_str().as_bytes().contains(&b'\n') {
                bail!("it holds a file with a line feed in its name, which dpkg's database cannot express");
            }
            let unclear = self.entry(&mut entry, &path);
            if let Some(unclear) = unclear.with_context(|| format!("writing {}", path.display()))? {
                return Ok(unclear);
            }
            self.done.paths.push(path);
        }
        for (path, sum) in self.sums.take().into_iter().flatten() {
            self.done.sums.extend_from_slice(format!("{sum}  ").as_bytes());
            self.done.sums.extend_from_slice(path.as_os_str().as_bytes());
            self.done.sums.push(b'\n');
        }
        Ok(Outcome::Whole(self.done))
    }

    /// Lays one entry. `Some` says why this package has to be handed over.
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path) -> Result<Option<Outcome>> {
        let header = entry.header();
        let kind = header.entry_type();
        let mut mode = header.mode().context("reading its mode")? & 0o7777;
        let seconds = i64::try_from(header.mtime().context("reading its time")?).unwrap_or(0);
        let mut owner = self.owner(header)?;
        if let Some((user, group, other)) = self.shared.ground.ownership.get(path) {
            owner = (Uid::from_raw(self.user(user)?), Gid::from_raw(self.group(group)?));
            mode = *other;
        }
        let mode = Mode::from_bits_truncate(mode);
        match kind {
            EntryType::Directory => return self.directory(path, owner, mode),
            EntryType::Regular | EntryType::Continuous | EntryType::Symlink | EntryType::Link => {}
            other => {
                let why = format!("{} is of the kind {other:?}", path.display());
                return Ok(Some(Outcome::HandOver { why, torn: None }));
            }
        }
        let at = match self.claim(path) {
            Place::At(at) => at,
            Place::Unclear(outcome) => return Ok(Some(outcome)),
        };
        let (parent, name) = self.root.parent(&at)?;
        match kind {
            EntryType::Symlink => {
                write_symlink(&parent, name, entry)?;
                own(&parent, name, owner)?;
                set_time(&parent, name, seconds)?;
            }
            EntryType::Link => {
                let target = link_target(entry)?;
                let from = self.destination(&target);
                write_link(&mut self.root, &at, &from)?;
                if let Some(sums) = &mut self.sums
                    && let Some(sum) = sums.get(&target).cloned()
                {
                    sums.insert(path.to_owned(), sum);
                }
            }
            _ => {
                let wants_sum = self.sums.is_some() && !self.conffiles.contains(path);
                let mut content = Summing { from: entry, sum: wants_sum.then(Md5::new) };
                let file = write_file(&parent, name, &mut content)?;
                own(&parent, name, owner)?;
                finish_file(&file, &parent, name, mode, seconds)?;
                if let (Some(sum), Some(sums)) = (content.sum, &mut self.sums) {
                    sums.insert(path.to_owned(), hex::encode(sum.finalize()));
                }
            }
        }
        self.notice(&self.diverted(path));
        Ok(None)
    }

    /// Makes a directory, or shares one. Under the lock: of two packages that bring it at the same time the one
    /// that comes first in the solver's order decides.
    fn directory(&mut self, path: &Path, owner: (Uid, Gid), mode: Mode) -> Result<Option<Outcome>> {
        let (parent, name) = self.root.parent(path)?;
        let key = canonical(path);
        let made = {
            let mut claims = self.shared.claims();
            let settle = || -> Result<()> {
                own(&parent, name, owner)?;
                fchmodat(&*parent, name, mode, FchmodatFlags::FollowSymlink).context("setting its mode")
            };
            match claims.0.get_mut(&key) {
                Some(Claim::Directory(first)) => {
                    if let Some(before) = first
                        && *before > self.place
                    {
                        *before = self.place;
                        settle()?;
                    }
                    false
                }
                Some(Claim::Other(_)) => {
                    return Ok(Some(torn(path)));
                }
                None => match mkdirat(&*parent, name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) => {
                        settle()?;
                        claims.0.insert(key, Claim::Directory(Some(self.place)));
                        true
                    }
                    Err(Errno::EEXIST) => {
                        // A directory or a link to one is left as it is; anything else is in the way.
                        self.root.directory(path).context("using it as a directory")?;
                        claims.0.insert(key, Claim::Directory(None));
                        false
                    }
                    Err(e) => return Err(e).context("making the directory"),
                },
            }
        };
        if made {
            self.notice(path);
        }
        Ok(None)
    }

    /// Takes possession of the place of a file or link.
    fn claim(&self, path: &Path) -> Place {
        let at = self.diverted(path);
        let key = canonical(&at);
        let mut claims = self.shared.claims();
        match claims.0.get(&key) {
            None => {
                claims.0.insert(key, Claim::Other(self.place));
            }
            Some(Claim::Other(by)) if *by == self.place => {}
            Some(Claim::Other(_)) => {
                let why = format!("another package brings {}", path.display());
                return Place::Unclear(Outcome::HandOver { why, torn: None });
            }
            Some(Claim::Directory(_)) => {
                return Place::Unclear(torn(&at));
            }
        }
        drop(claims);
        Place::At(self.destination(path))
    }

    /// Where a path of this package is written.
    fn destination(&self, path: &Path) -> PathBuf {
        let at = self.diverted(path);
        match self.conffiles.contains(path) {
            true => {
                let mut name = at.into_os_string();
                name.push(".dpkg-new");
                name.into()
            }
            false => at,
        }
    }

    /// Where the diversions lead it.
    fn diverted(&self, path: &Path) -> PathBuf {
        match self.shared.ground.diversions.get(path) {
            Some((to, by)) if *by != self.package.name => to.clone(),
            _ => path.to_owned(),
        }
    }

    /// Remembers what is watched at or above a path.
    fn notice(&mut self, path: &Path) {
        if self.shared.ground.watched.is_empty() {
            return;
        }
        let whole = Path::new("/").join(path);
        for above in whole.ancestors() {
            if self.shared.ground.watched.contains(above)
                && let Some(text) = above.to_str()
            {
                self.done.noticed.insert(text.to_owned());
            }
        }
    }

    fn owner(&self, header: &tar::Header) -> Result<(Uid, Gid)> {
        let accounts = self.shared.ground.accounts;
        let named = |names: &HashMap<String, u32>, name: Result<Option<&str>, std::str::Utf8Error>| {
            name.ok().flatten().and_then(|n| names.get(n)).copied()
        };
        let number = |of: std::io::Result<u64>, what: &'static str| -> Result<u32> {
            u32::try_from(of.context(what)?).context(what)
        };
        let uid = match named(&accounts.users, header.username()) {
            Some(uid) => uid,
            None => number(header.uid(), "reading its owner")?,
        };
        let gid = match named(&accounts.groups, header.groupname()) {
            Some(gid) => gid,
            None => number(header.gid(), "reading its group")?,
        };
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    fn user(&self, name: &str) -> Result<u32> {
        account(&self.shared.ground.accounts.users, name)
            .with_context(|| format!("looking for the user {name}"))
    }

    fn group(&self, name: &str) -> Result<u32> {
        account(&self.shared.ground.accounts.groups, name)
            .with_context(|| format!("looking for the group {name}"))
    }
}

fn torn(path: &Path) -> Outcome {
    let why = format!("{} is a directory for one package and none for another", path.display());
    Outcome::HandOver { why, torn: Some(path.to_owned()) }
}

/// A number from a name, or from `#NUMBER` as dpkg writes it where there is no name.
fn account(names: &HashMap<String, u32>, name: &str) -> Option<u32> {
    match name.strip_prefix('#') {
        Some(number) => number.parse().ok(),
        None => names.get(name).copied().or_else(|| (name == "root").then_some(0)),
    }
}

fn own(parent: &impl std::os::fd::AsFd, name: &OsStr, (uid, gid): (Uid, Gid)) -> Result<()> {
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).context("setting its owner")
}

/// The path with `/bin`, `/sbin` and `/lib*` where they really are: below `/usr`.
fn canonical(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let first = parts.next();
    let merged = matches!(first, Some(Component::Normal(name))
        if ["bin", "sbin", "lib", "lib32", "lib64", "libx32"].iter().any(|m| name == *m));
    match merged && !parts.as_path().as_os_str().is_empty() {
        true => Path::new("usr").join(path),
        false => path.to_owned(),
    }
}

/// A reader that takes the sum of what it gives.
struct Summing<'a, R> {
    from: &'a mut R,
    sum: Option<Md5>,
}

impl<R: Read> Read for Summing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        if let Some(sum) = &mut self.sum {
            sum.update(&buffer[..n]);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_of_one_place_are_one_place() {
        let same = |a: &str, b: &str| canonical(Path::new(a)) == canonical(Path::new(b));
        assert!(same("bin/ls", "usr/bin/ls"));
        assert!(same("lib64/ld.so", "usr/lib64/ld.so"));
        assert!(!same("bin", "usr/bin"), "the link itself is not what it leads to");
        assert!(!same("etc/bin/x", "usr/etc/bin/x"));
    }

    #[test]
    fn accounts_are_named_or_numbered() {
        let names = HashMap::from([("messagebus".to_owned(), 101)]);
        assert_eq!(account(&names, "messagebus"), Some(101));
        assert_eq!(account(&names, "#7"), Some(7));
        assert_eq!(account(&names, "root"), Some(0));
        assert_eq!(account(&names, "nobody-knows"), None);
    }
}
