//! Bringing a stick up to date, writing only what changed.
//!
//! The new content is put together beside the old one on the stick: what stays is linked, what is new is written. When
//! all of it is durable the two directories change their names in one step, and the old one goes. Whenever that is
//! cut, `akene/` is the old content or the new one, whole. The live system in front of the data has no such second
//! place: where it changes, only the blocks that differ are written, before the content changes; after a cut there, the stick must
//! be brought up to date once more.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, own_mounts};
use akene_protocol::medium::{DIR, KEY, Medium, MediumId, POOL, REPORTS};
use akene_protocol::{Bytes, Issue, PublicKey, Secret, Sha256, Stamp};
use akene_server::site::keys;
use akene_server::site::media;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::umount;

use super::content::{Carried, Content};
use super::look::Offline;
use super::size::{self, Load};
use super::stick::{self, LiveSystem};
use super::store::Store;
use super::table::{self, SYSTEM_AREA, Span, Table};
use super::tree::{self, Document};
use super::{Wishes, Workshop, device};
use crate::{files, stamp};

/// The new content while it is being put together.
const NEXT: &str = "akene.next";

/// Pieces in which the live system is compared.
const PIECE: usize = 64 << 10;

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// Packages that came.
    pub added: usize,
    /// Packages that went.
    pub removed: usize,
    /// Bytes of packages, documents and live system that were written; what the filesystem needs for itself is not
    /// counted.
    pub written: u64,
}

/// A stick of this site.
struct Stick {
    path: PathBuf,
    offline: Offline,
    span: Span,
    stamp: Stamp,
    medium: Medium,
    key: Secret,
}

/// Brings a stick up to date: its content, its stamp, and with `image` its live system. Needs root, for the stick is
/// mounted.
///
/// # Errors
/// `needs-root`, `medium-missing`, `medium-foreign`, `medium-lost`; those of [`super::make`]. Nothing was
/// written then, unless the message says so.
pub fn update(shop: &Workshop<'_>, wishes: &Wishes, path: &Path, image: Option<&Path>) -> Result<Updated> {
    if !nix::unistd::geteuid().is_root() {
        let next = "run it as root; a new image needs no root";
        bail!(Issue::new(
            "needs-root",
            path.display().to_string(),
            "a stick is mounted to be brought up to date",
            next
        ));
    }
    // Held to the end, so that no desktop mounts it meanwhile.
    let _held = if device::is_device(path)? { Some(device::take(path)?) } else { None };
    let config = shop.site.config()?;
    play_back(shop, path)?;
    let stick = Stick::open(shop, path)?;
    let known = media::find(shop.site, stick.medium.id)?;
    if known.as_ref().is_some_and(|known| known.lost) {
        let next = format!("`akene-server media found {}` takes that back", stick.medium.id);
        bail!(Issue::new("medium-lost", stick.medium.id.to_string(), "this stick was declared lost", next));
    }
    let mut new_stamp = super::stamp_for(shop, &config, wishes, Some(&stick.stamp))?;
    let names = match wishes.profiles.is_empty() {
        true => stick.medium.profiles.iter().map(|p| p.name.clone()).collect(),
        false => wishes.profiles.clone(),
    };
    let attended = matches!(new_stamp.source, akene_protocol::stamp::Source::Medium { attended: true, .. });
    super::check_profiles(&names, attended)?;
    let content = Content::gather(shop, &config, &names)?;
    let live = image.map(LiveSystem::open).transpose()?;
    // A live system that is older than this setting refuses a stamp that has it: it comes with a new one.
    if live.is_some() || stick.stamp.keyboard.is_some() {
        new_stamp.keyboard = content.keyboard();
    }
    if let Some(live) = &live {
        let message =
            format!("the live system has {}, this stick has {} for it", live.size, Bytes(stick.span.start));
        let next = "make the stick anew";
        ensure!(
            live.size.0 <= stick.span.start,
            Issue::new("medium-too-small", live.path.display().to_string(), message, next)
        );
    }

    (shop.say)("checking what is on the stick");
    let kept = stick.kept(&content)?;
    let fresh: Vec<_> = content.packages().iter().filter(|p| !kept.contains(&p.sha256)).cloned().collect();
    let incoming: Bytes = fresh.iter().map(|p| p.size).sum();
    let missing: Bytes = shop.store.missing(&fresh).iter().map(|p| p.size).sum();
    (shop.say)(&format!(
        "{} of {} packages stay; {} are new ({incoming}), {missing} of them to be fetched",
        kept.len(),
        content.packages().len(),
        fresh.len()
    ));
    stick.check_room(&content, &fresh.iter().map(|p| p.size.0).collect::<Vec<_>>())?;
    shop.store.bring(shop, &content, &fresh)?;

    let mut medium = stick.medium.clone();
    medium.site = config.name.clone();
    medium.associations = config.associations.clone();
    medium.profiles = content.profiles.iter().map(Carried::entry).collect();
    let live_files = match &live {
        Some(live) => live.files()?,
        None => stick::files(&open(path)?)?,
    };
    medium.files = content.files().chain(live_files).collect();
    let pool = stick.offline.list(POOL)?;
    let gone = pool.keys().filter(|name| content.packages().iter().all(|p| p.file != **name)).count();
    let new_content = medium != stick.medium || !fresh.is_empty() || gone > 0;
    let known = super::registered(wishes, &Medium { made: super::now(shop)?, ..medium.clone() }, known)?;
    if new_content {
        medium.made = super::now(shop)?;
    }
    media::register(shop.site, &known)?;

    let documents = tree::documents(&medium, &stick.key, &content, shop.site)?;
    let mut done = Updated { added: fresh.len(), removed: gone, written: 0 };
    let stamped = live.as_ref().map(|live| Stamped::make(&shop.store, live, &new_stamp)).transpose()?;
    let (span, id, other_stamp) = (stick.span, medium.id, new_stamp != stick.stamp);
    let before = |written: &mut u64| -> Result<()> {
        match &stamped {
            Some(stamped) => *written += stamped.write(path, span, id)?,
            None if other_stamp => *written += stamp::write(path, &new_stamp, None)?,
            None => {}
        }
        Ok(())
    };
    if !new_content {
        before(&mut done.written)?;
        return Ok(done);
    }
    (shop.say)("writing to the stick");
    mounted(shop, path, span, |root| {
        let next = Next::prepare(root, &shop.store, &documents, &content, &kept)?;
        done.written += next.written;
        before(&mut done.written)?;
        next.switch()
    })?;
    Ok(done)
}

impl Stick {
    fn open(shop: &Workshop<'_>, path: &Path) -> Result<Stick> {
        let shown = path.display().to_string();
        let refuse = |code: &str, message: &str| {
            Issue::new(
                code,
                shown.clone(),
                message,
                "name a stick that `akene-image offline` made for this site",
            )
        };
        let offline = Offline::open(path)?
            .ok_or_else(|| refuse("medium-missing", "there is no stick of `akene-image offline` here"))?;
        let Some(span) = offline.partition() else {
            bail!(refuse("medium-missing", "this is a disc, to which nothing can be written"));
        };
        let site_key = PublicKey(shop.site.key()?.verifying_key());
        let stamp = match stamp::read(path)?.stamp {
            Ok(stamp) if stamp.site_key == site_key => stamp,
            Ok(stamp) => bail!(refuse("medium-foreign", &format!("this stick belongs to {}", stamp.site))),
            Err(error) => bail!(refuse("medium-foreign", &error.to_string())),
        };
        let medium = offline.manifest(&site_key)?;
        let text = offline.read(KEY)?.unwrap_or_default();
        let key = Secret::new(String::from_utf8_lossy(&text));
        let fits = keys::signing_key(key.expose()).is_ok_and(|k| PublicKey(k.verifying_key()) == medium.key);
        ensure!(
            fits,
            "the key of the stick {shown} is damaged: keep its reports with `akene-image sync`, then make it anew"
        );
        Ok(Stick { path: path.to_owned(), offline, span, stamp, medium, key })
    }

    /// Packages that stay: each is read, so that an update also mends what the stick has lost.
    fn kept(&self, content: &Content) -> Result<BTreeSet<Sha256>> {
        let pool = self.offline.list(POOL)?;
        let stays = |p: &&akene_protocol::lock::LockedPackage| {
            pool.get(&p.file) == Some(&p.size.0)
                && self.offline.sum(&format!("{POOL}/{}", p.file)).is_ok_and(|(sum, _)| sum == p.sha256)
        };
        Ok(content.packages().iter().filter(stays).map(|p| p.sha256).collect())
    }

    /// Whether the partition holds the old content and what is new beside each other.
    fn check_room(&self, content: &Content, fresh: &[u64]) -> Result<(), anyhow::Error> {
        let old = self.offline.list(POOL)?.into_values().chain(self.offline.list(REPORTS)?.into_values());
        let documents = self.medium.files.iter().map(|f| f.size.0).chain(content.files().map(|f| f.size.0));
        let both = Load::of(old.chain(documents).chain(fresh.iter().copied()).chain([65_536; 2]));
        let (needed, whole) = (Bytes(both.partition()), Bytes(self.span.length));
        if needed > whole {
            let why =
                format!("on the data partition of {}, for old and new content together", self.path.display());
            bail!(size::too_small(needed, whole, &why, content));
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

/// A new live system with the stamp in it.
struct Stamped {
    file: tempfile::NamedTempFile,
}

impl Stamped {
    fn make(store: &Store, live: &LiveSystem, stamp: &Stamp) -> Result<Stamped> {
        let doing = || format!("copying {}", live.path.display());
        let mut file = tempfile::NamedTempFile::new_in(store.dir()).with_context(doing)?;
        std::io::copy(&mut open(&live.path)?, &mut file).with_context(doing)?;
        stamp::write(file.path(), stamp, None)?;
        Ok(Stamped { file })
    }

    /// Writes what differs to the stick, the table last. Gives back how many bytes that were.
    fn write(&self, path: &Path, span: Span, id: MediumId) -> Result<u64> {
        let writing = || format!("writing the live system to {}", path.display());
        let to = OpenOptions::new().read(true).write(true).open(path).with_context(writing)?;
        let from = self.file.as_file();
        let length = from.metadata().with_context(writing)?.len();
        let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
        let (mut at, mut written) = (SYSTEM_AREA, 0);
        while at < length {
            let piece = PIECE.min((length - at) as usize);
            from.read_exact_at(&mut ours[..piece], at).with_context(writing)?;
            to.read_exact_at(&mut theirs[..piece], at).with_context(writing)?;
            if ours[..piece] != theirs[..piece] {
                to.write_all_at(&ours[..piece], at).with_context(writing)?;
                written += piece as u64;
            }
            at += piece as u64;
        }
        to.sync_all().with_context(writing)?;
        let (table, there) = Table::new(from, table::end(&to)?, span.start, stick::uuid(id))?;
        ensure!(there == span, "the data partition of {} is not where it was made", path.display());
        Ok(written + table.write(&to)?)
    }
}

/// Lets the kernel play back the journal of a stick that was pulled out while it was written to, where it cannot be
/// read before.
fn play_back(shop: &Workshop<'_>, path: &Path) -> Result<()> {
    match table::data(&open(path)?)? {
        Some(span) if Offline::open(path).is_err() => mounted(shop, path, span, |_| Ok(())),
        _ => Ok(()),
    }
}

/// Does something with the data partition mounted, where nobody else sees it. It is let go however this ends.
fn mounted<T: Send>(
    shop: &Workshop<'_>,
    stick: &Path,
    span: Span,
    work: impl FnOnce(&Path) -> Result<T> + Send,
) -> Result<T> {
    let runner = shop.runner;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            own_mounts()?;
            let dir = tempfile::tempdir().context("making a mount point")?;
            let options =
                format!("loop,offset={},sizelimit={},noatime,nodev,nosuid,noexec", span.start, span.length);
            let mount = Cmd::new("mount").args(["-t", "ext4", "-o", &options]).arg(stick).arg(dir.path());
            runner.run(&mount).context("mounting the data partition")?;
            let outcome = work(dir.path());
            let unmounted = umount(dir.path()).context("unmounting the data partition");
            outcome.and_then(|done| unmounted.map(|()| done))
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The new content beside the old one, durable.
pub struct Next<'a> {
    root: &'a Path,
    /// Bytes that had to be written for it.
    pub written: u64,
}

impl<'a> Next<'a> {
    /// Puts it together below `root`. `kept` are the packages that are right where they lie.
    ///
    /// # Errors
    /// It cannot be written; the old content is untouched, and nothing is left beside it.
    pub fn prepare(
        root: &'a Path,
        store: &Store,
        documents: &[Document],
        content: &Content,
        kept: &BTreeSet<Sha256>,
    ) -> Result<Next<'a>> {
        // Of an update that was cut.
        files::remove(&root.join(NEXT))?;
        let mut next = Next { root, written: 0 };
        let filled = next.fill(store, documents, content, kept).and_then(|()| tree::sync(root));
        match filled {
            Ok(()) => Ok(next),
            Err(error) => {
                files::remove(&root.join(NEXT))?;
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        store: &Store,
        documents: &[Document],
        content: &Content,
        kept: &BTreeSet<Sha256>,
    ) -> Result<()> {
        let (now, next) = (self.root.join(DIR), self.root.join(NEXT));
        let link = |name: &str| {
            fs::hard_link(now.join(name), next.join(name)).with_context(|| format!("keeping {name}"))
        };
        tree::directories(&next)?;
        for document in documents {
            if fs::read(now.join(&document.path)).is_ok_and(|bytes| bytes == document.bytes) {
                link(&document.path)?;
            } else {
                document.write(&next)?;
                self.written += document.bytes.len() as u64;
            }
        }
        for package in content.packages() {
            let name = format!("{POOL}/{}", package.file);
            if kept.contains(&package.sha256) {
                link(&name)?;
            } else {
                self.written += store.copy(&package.sha256, &next.join(&name))?;
            }
        }
        if now.join(REPORTS).is_dir() {
            for name in files::names(&now.join(REPORTS))? {
                link(&format!("{REPORTS}/{name}"))?;
            }
        }
        Ok(())
    }

    /// Makes it the content, in one step, and removes the old one.
    ///
    /// # Errors
    /// The names cannot be changed, or the old content not be removed.
    pub fn switch(self) -> Result<()> {
        let (now, next) = (self.root.join(DIR), self.root.join(NEXT));
        renameat2(AT_FDCWD, &next, AT_FDCWD, &now, RenameFlags::RENAME_EXCHANGE)
            .context("putting the new content into the place of the old one")?;
        tree::sync(self.root)?;
        files::remove(&next).context("removing the old content; the new one is in place")?;
        tree::sync(self.root)
    }
}
