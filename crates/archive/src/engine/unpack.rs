//! Files that wait are given their names.
//!
//! The result is what dpkg leaves, whatever machine it is done on:
//! - a path belongs to one package. The second to claim it is *handed over* to dpkg, which knows `Replaces` and
//!   otherwise says what is wrong;
//! - a directory that several packages bring has the owner and mode of the first of them in the solver's order,
//!   and one that was there before stays as it is;
//! - configuration files come as `.dpkg-new`, for dpkg to put into place when it configures the package;
//! - diverted paths go where the diversion says, overridden owners and modes are obeyed, names of owners are those
//!   of the new system.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::database::{Diversions, Ownership};
use super::package::Package;
use super::stage::{Item, What};
use crate::extract::{finish_file, set_time, write_file, write_link, write_symlink};
use crate::root::Root;

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

    /// Takes over what dpkg has laid of a package, as it says itself.
    pub fn learn(
        &mut self,
        place: usize,
        name: &str,
        paths: &[PathBuf],
        diversions: &Diversions,
        root: &Root,
    ) -> Result<()> {
        for path in paths {
            let at = diverted(diversions, name, path);
            let claim = match root.is_directory(&at)? {
                true => Claim::Directory(None),
                // Also what another has brought, and this one replaces.
                false => Claim::Other(place),
            };
            match self.0.entry(canonical(&at)) {
                Entry::Occupied(there) if matches!(there.get(), Claim::Directory(_)) => {}
                entry => drop(entry.insert_entry(claim)),
            }
        }
        Ok(())
    }

    /// Places of the packages that brought a path of which `wanted` is true.
    pub fn bringers(&self, wanted: impl Fn(&Path) -> bool) -> BTreeSet<usize> {
        let bringer = |(path, claim): (&PathBuf, &Claim)| match claim {
            Claim::Other(by) => wanted(path).then_some(*by),
            Claim::Directory(_) => None,
        };
        self.0.iter().filter_map(bringer).collect()
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
    /// Diversions.
    pub diversions: &'a Diversions,
    /// Owners and modes that were chosen instead of the packages' own.
    pub ownership: &'a Ownership,
    /// Paths somebody wants to be told of.
    pub watched: &'a BTreeSet<PathBuf>,
    /// Names of owners.
    pub accounts: &'a Accounts,
    /// The places of the packages of this go.
    pub these: &'a BTreeSet<usize>,
}

/// Gives the files of packages their names, one package after the other.
pub(super) struct Layer<'a> {
    ground: &'a Ground<'a>,
    claims: &'a mut Claims,
    root: Root,
}

/// One package being laid.
struct Turn<'p> {
    place: usize,
    package: &'p Package,
    conffiles: BTreeSet<&'p Path>,
    sums: Option<BTreeMap<PathBuf, String>>,
    done: Unpacked,
}

/// Where an entry goes, or why only dpkg can say.
enum Place {
    At(PathBuf),
    Unclear(Outcome),
}

impl<'a> Layer<'a> {
    pub fn new(ground: &'a Ground<'a>, claims: &'a mut Claims, root: Root) -> Self {
        Layer { ground, claims, root }
    }

    /// Lays a package, whose files wait in a directory under the numbers of their entries.
    pub fn package(
        &mut self,
        place: usize,
        package: &Package,
        items: &[Item],
        waiting: &OwnedFd,
    ) -> Result<Outcome> {
        let there = package.conffiles.iter().filter(|c| !c.remove_on_upgrade);
        let mut turn = Turn {
            place,
            package,
            conffiles: there.map(|c| Path::new(c.path.trim_start_matches('/'))).collect(),
            sums: package.member("md5sums").is_none().then(BTreeMap::new),
            done: Unpacked::default(),
        };
        for (number, item) in items.iter().enumerate() {
            if item.path.as_os_str().is_empty() {
                // The root itself: dpkg lists it as it comes.
                turn.done.paths.push(".".into());
                continue;
            }
            let unclear = self.item(&mut turn, item, waiting, number);
            let writing = || format!("writing {} of {}", item.path.display(), package.name);
            if let Some(unclear) = unclear.with_context(writing)? {
                return Ok(unclear);
            }
            turn.done.paths.push(item.path.clone());
        }
        for (path, sum) in turn.sums.take().into_iter().flatten() {
            turn.done.sums.extend_from_slice(format!("{sum}  ").as_bytes());
            turn.done.sums.extend_from_slice(path.as_os_str().as_bytes());
            turn.done.sums.push(b'\n');
        }
        Ok(Outcome::Whole(turn.done))
    }

    /// Lays one entry. `Some` says why this package has to be handed over.
    fn item(
        &mut self,
        turn: &mut Turn<'_>,
        item: &Item,
        waiting: &OwnedFd,
        number: usize,
    ) -> Result<Option<Outcome>> {
        let path = &item.path;
        let mut owner = self.owner(item);
        let mut mode = item.mode;
        let overridden = self.ground.ownership.get(path);
        if let Some((user, group, other)) = overridden {
            owner = (Uid::from_raw(self.user(user)?), Gid::from_raw(self.group(group)?));
            mode = *other;
        }
        let mode = Mode::from_bits_truncate(mode);
        match &item.what {
            What::Directory => return self.directory(turn, path, owner, mode),
            What::File { .. } | What::Symlink(_) | What::Link(_) => {}
            What::Odd(kind) => {
                let why = format!("{} is of the kind {kind:?}", path.display());
                return Ok(Some(Outcome::HandOver { why, torn: None }));
            }
        }
        let at = match self.claim(turn, path) {
            Place::At(at) => at,
            Place::Unclear(outcome) => return Ok(Some(outcome)),
        };
        let (parent, name) = self.root.parent(&at)?;
        match &item.what {
            What::Symlink(target) => {
                write_symlink(&parent, name, target)?;
                own(&parent, name, owner)?;
                set_time(&parent, name, item.seconds)?;
            }
            What::Link(target) => {
                let from = self.destination(turn, target);
                write_link(&mut self.root, &at, &from)?;
                if let Some(sums) = &mut turn.sums
                    && let Some(sum) = sums.get(target).cloned()
                {
                    sums.insert(path.to_owned(), sum);
                }
            }
            What::File { sum } => {
                let from = number.to_string();
                let waits: &OsStr = from.as_ref();
                // It was made root's own, with its mode.
                if overridden.is_some() || owner != (Uid::from_raw(0), Gid::from_raw(0)) {
                    own(waiting, waits, owner)?;
                    // Changing the owner has cleared the setuid bit.
                    fchmodat(waiting, waits, mode, FchmodatFlags::FollowSymlink)
                        .context("setting its mode")?;
                }
                match renameat(waiting, waits, &*parent, name) {
                    // A part of the new root that has a filesystem of its own, such as `/boot`.
                    Err(Errno::EXDEV) => {
                        let fd = openat(waiting, waits, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                            .context("opening what waits")?;
                        let file = write_file(&parent, name, &mut File::from(fd))?;
                        own(&parent, name, owner)?;
                        finish_file(&file, &parent, name, mode, item.seconds)?;
                        unlinkat(waiting, waits, UnlinkatFlags::NoRemoveDir)
                            .context("removing what waited")?;
                    }
                    renamed => renamed.context("putting it in its place")?,
                }
                if let (Some(sum), Some(sums)) = (sum, &mut turn.sums)
                    && !turn.conffiles.contains(path.as_path())
                {
                    sums.insert(path.to_owned(), sum.clone());
                }
            }
            What::Directory | What::Odd(_) => {}
        }
        let diverted = self.diverted(turn, path);
        self.notice(turn, &diverted);
        Ok(None)
    }

    /// Makes a directory, or shares one: of the packages that bring it the first in the solver's order decides.
    fn directory(
        &mut self,
        turn: &mut Turn<'_>,
        path: &Path,
        owner: (Uid, Gid),
        mode: Mode,
    ) -> Result<Option<Outcome>> {
        // Debian and Ubuntu keep the links of a merged /usr by diverting these names, for directories too.
        let at = self.diverted(turn, path);
        let (parent, name) = self.root.parent(&at)?;
        let key = canonical(&at);
        let settle = || -> Result<()> {
            own(&parent, name, owner)?;
            fchmodat(&*parent, name, mode, FchmodatFlags::FollowSymlink).context("setting its mode")
        };
        match self.claims.0.get_mut(&key) {
            Some(Claim::Directory(first)) => {
                // One of an earlier go was there before: a script may have changed it meanwhile.
                if let Some(before) = first
                    && *before > turn.place
                    && self.ground.these.contains(before)
                {
                    *before = turn.place;
                    settle()?;
                }
            }
            // One that was there before is left, as a directory is, if it leads to one.
            Some(Claim::Other(by)) if !self.ground.these.contains(by) && self.root.directory(&at).is_ok() => {
            }
            Some(Claim::Other(_)) => return Ok(Some(torn(&at))),
            None => match mkdirat(&*parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => {
                    settle()?;
                    self.claims.0.insert(key, Claim::Directory(Some(turn.place)));
                    self.notice(turn, &at);
                }
                Err(Errno::EEXIST) => {
                    // A directory or a link to one is left as it is; anything else is in the way.
                    self.root.directory(&at).context("using it as a directory")?;
                    self.claims.0.insert(key, Claim::Directory(None));
                }
                Err(e) => return Err(e).context("making the directory"),
            },
        }
        Ok(None)
    }

    /// Takes possession of the place of a file or link.
    fn claim(&mut self, turn: &Turn<'_>, path: &Path) -> Place {
        let at = self.diverted(turn, path);
        let key = canonical(&at);
        match self.claims.0.get(&key) {
            None => {
                self.claims.0.insert(key, Claim::Other(turn.place));
            }
            Some(Claim::Other(by)) if *by == turn.place => {}
            Some(Claim::Other(_)) => {
                let why = format!("another package brings {}", path.display());
                return Place::Unclear(Outcome::HandOver { why, torn: None });
            }
            Some(Claim::Directory(_)) => {
                return Place::Unclear(torn(&at));
            }
        }
        Place::At(self.destination(turn, path))
    }

    /// Where a path of this package is written.
    fn destination(&self, turn: &Turn<'_>, path: &Path) -> PathBuf {
        let at = self.diverted(turn, path);
        match turn.conffiles.contains(path) {
            true => {
                let mut name = at.into_os_string();
                name.push(".dpkg-new");
                name.into()
            }
            false => at,
        }
    }

    fn diverted(&self, turn: &Turn<'_>, path: &Path) -> PathBuf {
        diverted(self.ground.diversions, &turn.package.name, path)
    }

    /// Remembers what is watched at or above a path.
    fn notice(&self, turn: &mut Turn<'_>, path: &Path) {
        if self.ground.watched.is_empty() {
            return;
        }
        let whole = Path::new("/").join(path);
        for above in whole.ancestors() {
            if self.ground.watched.contains(above)
                && let Some(text) = above.to_str()
            {
                turn.done.noticed.insert(text.to_owned());
            }
        }
    }

    fn owner(&self, item: &Item) -> (Uid, Gid) {
        let accounts = self.ground.accounts;
        let named = |names: &HashMap<String, u32>, name: &Option<Box<str>>, number: u32| {
            name.as_ref().and_then(|name| names.get(&**name)).copied().unwrap_or(number)
        };
        let uid = named(&accounts.users, &item.user, item.uid);
        let gid = named(&accounts.groups, &item.group, item.gid);
        (Uid::from_raw(uid), Gid::from_raw(gid))
    }

    fn user(&self, name: &str) -> Result<u32> {
        account(&self.ground.accounts.users, name).with_context(|| format!("looking for the user {name}"))
    }

    fn group(&self, name: &str) -> Result<u32> {
        account(&self.ground.accounts.groups, name).with_context(|| format!("looking for the group {name}"))
    }
}

/// Where the diversions lead a path of this package.
fn diverted(diversions: &Diversions, name: &str, path: &Path) -> PathBuf {
    match diversions.get(path) {
        Some((to, by)) if by != name => to.clone(),
        _ => path.to_owned(),
    }
}

/// Where the configuration files of a package would be claimed.
pub(super) fn conffiles(package: &Package, diversions: &Diversions) -> BTreeSet<PathBuf> {
    let paths = package.conffiles.iter().map(|c| Path::new(c.path.trim_start_matches('/')));
    paths.map(|path| canonical(&diverted(diversions, &package.name, path))).collect()
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
