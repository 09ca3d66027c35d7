//! A medium with a manifest: everything an installation needs, on a stick or a disc ([`akene_protocol::medium`]).
//!
//! It is found by its label, on whatever bus, and is the site's if the site's key signed its manifest. From there every
//! byte follows: the manifest has the sums of profiles and locks, the locks have those of the packages. What a damaged
//! medium gives is refused by the name of the file.
//!
//! It is mounted read-only while it is read ([`Stick::release`] ends that, and the medium can be pulled out). Where a
//! report is put on it ([`Stick::write_report`]), it is looked for anew, mounted to be written, and unmounted at once.
//! One that was pulled out too early is found again under whatever name it then has ([`Stick::ensure`]).
//!
//! | code | what it says |
//! |---|---|
//! | `medium-missing` | none is there |
//! | `medium-foreign` | there is one, of another site |
//! | `medium-damaged` | a file has not the size or sum it should have, or cannot be read |
//! | `medium-pulled` | it is not there any more |

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::Runner;
use akene_protocol::envelope::{Envelope, EnvelopeError, PublicKey};
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;
use akene_protocol::medium::{self, Medium, MediumFile, MediumProfile};
use akene_protocol::{Bytes, Issue, Secret, Sha256};
use anyhow::{Context, Result, bail};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{LABEL, labelled, mount_to_read};
use crate::durable;
use crate::fetch::{LARGEST_PROFILE, refused};
use crate::storage::unmount;

/// Code of the issue that no medium with a manifest is there. A stick may need seconds to show itself, or a person.
pub const MISSING: &str = "medium-missing";

/// Code of the issue that the medium was pulled out too early.
pub const PULLED: &str = "medium-pulled";

/// Largest manifest that is read: it names two files for each profile.
const LARGEST_MANIFEST: u64 = 4 << 20;

/// So many damaged packages are named; what has more is worth no more reading.
const MOST_NAMED: usize = 5;

/// How often a medium that is not there is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a medium is looked for.
#[derive(Clone, Debug)]
pub enum Where {
    /// Among all devices of this machine.
    Anywhere,
    /// Among these devices, of which there is at least one.
    On(Vec<PathBuf>),
    /// In a directory that somebody mounted.
    In(PathBuf),
}

/// A medium of the site's.
#[derive(Debug)]
pub struct Stick {
    place: Where,
    site_key: PublicKey,
    manifest: Medium,
    /// The medium's own key, PKCS#8 PEM.
    key: Secret,
    mount: Option<Mount>,
    disc: bool,
}

impl Stick {
    /// Looks for the medium whose manifest this key signed. `None`: no medium with a manifest is there.
    ///
    /// # Errors
    /// `medium-damaged`, or where each there is belongs to another site `medium-foreign`.
    pub fn find(place: &Where, key: &PublicKey, runner: &dyn Runner) -> Result<Option<Stick>, Issue> {
        let Some(Found { manifest, top, mount }) = search(place, key, runner, &|_| true)? else {
            return Ok(None);
        };
        for file in manifest.files.iter().filter(|f| f.path.starts_with("profiles/")) {
            read_listed(&top, file)?;
        }
        let pem = signing_key(&top, &manifest)?;
        let disc = mount.as_ref().is_some_and(|m| m.kind != "ext4");
        Ok(Some(Stick { place: place.clone(), site_key: *key, manifest, key: pem, mount, disc }))
    }

    /// The same, for so long. `waits` is told the seconds that are left.
    ///
    /// # Errors
    /// Also `medium-missing`.
    pub fn wait_for(
        place: &Where,
        key: &PublicKey,
        limit: Duration,
        runner: &dyn Runner,
        waits: &mut dyn FnMut(u64),
    ) -> Result<Stick, Issue> {
        let begun = Instant::now();
        loop {
            let issue = match Stick::find(place, key, runner) {
                Ok(Some(stick)) => return Ok(stick),
                Ok(None) => missing(),
                // The right one may still come.
                Err(issue) if issue.code == FOREIGN => issue,
                Err(issue) => return Err(issue),
            };
            let Some(left) = limit.checked_sub(begun.elapsed()) else { return Err(issue) };
            waits(left.as_secs());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What it holds.
    pub fn manifest(&self) -> &Medium {
        &self.manifest
    }

    /// The key it signs reports with, PKCS#8 PEM.
    pub fn key(&self) -> &Secret {
        &self.key
    }

    /// A profile by name, or the first.
    ///
    /// # Errors
    /// `profile-not-on-medium`.
    pub fn choose(&self, wanted: Option<&str>) -> Result<&MediumProfile, Issue> {
        let profiles = &self.manifest.profiles;
        let found = match wanted {
            Some(name) => profiles.iter().find(|p| p.name == name),
            None => profiles.first(),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = profiles.iter().map(|p| p.name.as_str()).collect();
            let message = format!(
                "the profile {} is not on the medium, which has {}",
                wanted.unwrap_or("that is to be installed"),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            );
            let next = "ask for one it has (`akene.profile=` in the boot menu), or make the medium anew";
            Issue::new("profile-not-on-medium", wanted.unwrap_or_default(), message, next)
        })
    }

    /// A signed profile, as it lies there.
    pub fn profile(&self, name: &str) -> Result<Vec<u8>, Issue> {
        self.listed(&profile_path(name))
    }

    /// The signed lock of a profile, as it lies there.
    pub fn lock(&self, name: &str) -> Result<Vec<u8>, Issue> {
        self.listed(&lock_path(name))
    }

    fn listed(&self, path: &str) -> Result<Vec<u8>, Issue> {
        let Some(file) = self.manifest.files.iter().find(|f| f.path == path) else {
            return Err(damaged(path, "the manifest does not name it"));
        };
        let read = self.top().ok_or_else(pulled).and_then(|top| read_listed(top, file));
        read.map_err(|issue| if self.is_gone() { pulled() } else { issue })
    }

    /// Where the package files lie, named by their sums. `None`: it was let go of.
    pub fn pool(&self) -> Option<PathBuf> {
        self.top().map(|top| top.join(medium::DIR).join(medium::POOL))
    }

    /// Reads packages and holds them against their sums. `progress` is told of each that is right.
    ///
    /// # Errors
    /// `medium-damaged` for each that is not, up to a few; `medium-pulled`.
    pub fn check(
        &self,
        packages: &[LockedPackage],
        progress: &mut dyn FnMut(&LockedPackage),
    ) -> Result<(), Issues> {
        let pool = self.pool().ok_or_else(|| Issues::from(pulled()))?;
        let mut issues = Vec::new();
        for package in packages {
            match check_package(&pool, package) {
                Ok(()) => progress(package),
                Err(_) if self.is_gone() => return Err(pulled().into()),
                Err(issue) => issues.push(issue),
            }
            if issues.len() == MOST_NAMED {
                break;
            }
        }
        if issues.is_empty() { Ok(()) } else { Err(Issues(issues)) }
    }

    /// Lets go of it: it can be pulled out.
    pub fn release(&mut self) {
        self.mount = None;
    }

    /// Makes sure that it can be read, and looks for it again where it was pulled out or let go of.
    ///
    /// # Errors
    /// `medium-pulled`.
    pub fn ensure(&mut self, runner: &dyn Runner) -> Result<(), Issue> {
        if self.top().is_some() && !self.is_gone() {
            return Ok(());
        }
        self.mount = None;
        match search(&self.place, &self.site_key, runner, &|other| other.id == self.manifest.id) {
            Ok(Some(found)) => {
                self.mount = found.mount;
                Ok(())
            }
            Ok(None) | Err(_) => Err(pulled()),
        }
    }

    /// Puts a sealed report on it, in place of an earlier one of this name, and of the one that is called `earlier`. It is
    /// there as a whole or not at all. `begins` is called when it was found and is written to from then on.
    pub fn write_report(
        &mut self,
        name: &str,
        earlier: Option<&str>,
        sealed: &[u8],
        runner: &dyn Runner,
        begins: &mut dyn FnMut(),
    ) -> Result<()> {
        let put = |top: &Path| put(top, name, earlier, sealed);
        if let Where::In(dir) = &self.place {
            if !self.is_gone() {
                begins();
            }
            return put(dir);
        }
        if self.disc {
            bail!("nothing can be written to this medium");
        }
        // What is mounted read-only cannot be mounted to be written.
        let read = self.mount.take().is_some();
        let written = self.find_device(runner).and_then(|device| {
            begins();
            put_on(&device, put)
        });
        if read {
            // One that is gone is noticed by whoever reads it next.
            self.ensure(runner).ok();
        }
        written
    }

    fn find_device(&self, runner: &dyn Runner) -> Result<PathBuf> {
        let found = search(&self.place, &self.site_key, runner, &|other| other.id == self.manifest.id)?;
        let mount = found.and_then(|found| found.mount).context("it is not plugged in")?;
        Ok(mount.device.clone())
    }

    fn top(&self) -> Option<&Path> {
        match (&self.place, &self.mount) {
            (Where::In(dir), _) => Some(dir),
            (_, mount) => mount.as_ref().map(|m| m.place.path()),
        }
    }

    /// Whether it is there no more. The kernel takes the node of a device away with the device.
    fn is_gone(&self) -> bool {
        match (&self.place, &self.mount) {
            (Where::In(dir), _) => !dir.join(medium::DIR).exists(),
            (_, mount) => mount.as_ref().is_none_or(|m| !m.device.exists()),
        }
    }
}

/// Code of the issue that the medium belongs to another site.
const FOREIGN: &str = "medium-foreign";

/// Where a profile lies, below the directory of a medium.
fn profile_path(name: &str) -> String {
    format!("profiles/{name}.json")
}

/// Where its signed lock lies.
fn lock_path(name: &str) -> String {
    format!("profiles/{name}.lock.json")
}

/// A medium mounted to be read, until this is dropped.
#[derive(Debug)]
struct Mount {
    place: tempfile::TempDir,
    device: PathBuf,
    kind: &'static str,
}

impl Mount {
    fn new(device: &Path) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("akene-medium-").tempdir();
        let place = place.context("making a mount point")?;
        let kind = mount_to_read(device, place.path())?;
        Ok(Mount { place, device: device.to_owned(), kind })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // One that was pulled out is unmounted all the same. Whatever fails, nothing was to be written.
        umount2(self.place.path(), MntFlags::MNT_DETACH).ok();
    }
}

struct Found {
    manifest: Medium,
    top: PathBuf,
    mount: Option<Mount>,
}

/// The first medium with a manifest by this key that is `wanted`.
fn search(
    place: &Where,
    key: &PublicKey,
    runner: &dyn Runner,
    wanted: &dyn Fn(&Medium) -> bool,
) -> Result<Option<Found>, Issue> {
    let among: &[PathBuf] = match place {
        Where::Anywhere => &[],
        Where::On(devices) => devices,
        Where::In(dir) => {
            let manifest = read_manifest(dir, key, &dir.display().to_string())?;
            let found = manifest.filter(|m| wanted(m));
            return Ok(found.map(|manifest| Found { manifest, top: dir.clone(), mount: None }));
        }
    };
    let mut refusal: Option<Issue> = None;
    for (label, own) in [(medium::LABEL, true), (LABEL, false)] {
        for device in labelled(label, among, runner) {
            let shown = device.display().to_string();
            let issue = match Mount::new(&device) {
                Ok(mount) => match read_manifest(mount.place.path(), key, &shown) {
                    Ok(Some(manifest)) if wanted(&manifest) => {
                        let top = mount.place.path().to_owned();
                        return Ok(Some(Found { manifest, top, mount: Some(mount) }));
                    }
                    Ok(_) => continue,
                    Err(issue) => issue,
                },
                // The live system's part need not be readable.
                Err(_) if !own => continue,
                Err(error) => damaged(&shown, format!("{error:#}")),
            };
            // One of ours that is damaged tells more than one of somebody else's.
            if refusal.as_ref().is_none_or(|known| known.code == FOREIGN) {
                refusal = Some(issue);
            }
        }
    }
    refusal.map_or(Ok(None), Err)
}

/// The manifest of the medium mounted at `top`, verified. `None`: it has none.
fn read_manifest(top: &Path, key: &PublicKey, shown: &str) -> Result<Option<Medium>, Issue> {
    let text = match read_file(&top.join(medium::DIR).join(medium::MANIFEST), LARGEST_MANIFEST) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| damaged(medium::MANIFEST, e))?,
    };
    let envelope = Envelope::parse(&text).map_err(|e| damaged(medium::MANIFEST, e))?;
    let manifest: Medium = envelope.open(key).map_err(|error| match error {
        EnvelopeError::WrongSignature { .. } => {
            // A hint, which nothing but the words of the refusal hangs on.
            let ours = envelope.signatures.iter().any(|s| s.keyid == key.to_string());
            if ours { damaged(medium::MANIFEST, "its signature does not fit it") } else { foreign(shown) }
        }
        EnvelopeError::Malformed(why) => damaged(medium::MANIFEST, why),
        EnvelopeError::WrongType { .. } | EnvelopeError::Unreadable(_) => {
            refused(&error, "manifest of the medium", shown)
        }
    })?;
    if manifest.version != medium::VERSION {
        let message = format!(
            "the manifest of the medium has version {}, this installer knows {}",
            manifest.version,
            medium::VERSION
        );
        let next = "make the medium anew with the `akene-image` that made the image";
        return Err(Issue::new("document-unreadable", shown, message, next));
    }
    Ok(Some(manifest))
}

/// A file that the manifest names, whole.
fn read_listed(top: &Path, file: &MediumFile) -> Result<Vec<u8>, Issue> {
    let path = top.join(medium::DIR).join(&file.path);
    let text = read_file(&path, LARGEST_PROFILE as u64).map_err(|e| damaged(&file.path, e))?;
    if text.len() as u64 != file.size.0 {
        let message = format!("it has {} bytes, not {}", text.len(), file.size.0);
        return Err(damaged(&file.path, message));
    }
    let sum = Sha256::of(&text);
    if sum != file.sha256 {
        return Err(damaged(&file.path, format!("its SHA-256 is {sum}, not {}", file.sha256)));
    }
    Ok(text)
}

/// The medium's own key, if it is the one the manifest names.
fn signing_key(top: &Path, manifest: &Medium) -> Result<Secret, Issue> {
    let text = read_file(&top.join(medium::DIR).join(medium::KEY), 64 << 10);
    let text = text.map_err(|e| damaged(medium::KEY, e))?;
    let pem = String::from_utf8(text).map_err(|_| damaged(medium::KEY, "it is not text"))?;
    let key = SigningKey::from_pkcs8_pem(&pem).map_err(|e| damaged(medium::KEY, e))?;
    if PublicKey(key.verifying_key()) != manifest.key {
        return Err(damaged(medium::KEY, "it is not the key the manifest names"));
    }
    Ok(Secret::new(pem))
}

fn check_package(pool: &Path, package: &LockedPackage) -> Result<(), Issue> {
    let path = format!("{}/{}", medium::POOL, package.sha256);
    let named = format!("{} {}", package.name, package.version);
    let damaged = |why: String| damaged(&path, format!("{named}: {why}"));
    let file = open(&pool.join(package.sha256.to_string())).map_err(|e| damaged(e.to_string()))?;
    let (sum, size) = Sha256::of_reader(file).map_err(|e| damaged(e.to_string()))?;
    if size != package.size.0 {
        return Err(damaged(format!("it has {}, not {}", Bytes(size), package.size)));
    }
    if sum != package.sha256 {
        return Err(damaged(format!("its SHA-256 is {sum}")));
    }
    Ok(())
}

/// Opens a file and no link, and waits for nobody to write into it.
fn open(path: &Path) -> io::Result<std::fs::File> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it has more than {}", Bytes(most))));
    }
    Ok(text)
}

/// Mounts a stick, puts a report on it and unmounts it.
fn put_on(device: &Path, put: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let place = tempfile::Builder::new().prefix("akene-medium-").tempdir().context("making a mount point")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(Some(device), place.path(), Some("ext4"), flags, Some("errors=remount-ro"))
        .with_context(|| format!("mounting {} to be written", device.display()))?;
    let written = put(place.path());
    // Unmounting writes out what there is. One that was pulled out meanwhile must not stay mounted.
    let unmounted = unmount(place.path()).inspect_err(|_| {
        umount2(place.path(), MntFlags::MNT_DETACH).ok();
    });
    written.and(unmounted)
}

fn put(top: &Path, name: &str, earlier: Option<&str>, sealed: &[u8]) -> Result<()> {
    let dir = top.join(medium::DIR).join(medium::REPORTS);
    // Only that: what is pulled out must not come into being as an empty directory.
    match std::fs::create_dir(&dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("making {}", medium::REPORTS));
        }
        _ => {}
    }
    // Installers that run side by side on one computer, into images, have one name for it until it has a number.
    let open = File::open(&dir).with_context(|| format!("opening {}", medium::REPORTS))?;
    let _alone = Flock::lock(open, FlockArg::LockExclusive)
        .map_err(|(_, why)| why)
        .with_context(|| format!("waiting for {}", medium::REPORTS))?;
    let path = dir.join(format!("{name}.sealed"));
    let written = durable::replace(&path, 0o600, |out| out.write_all(sealed).context("writing"));
    written.inspect_err(|_| {
        // Half a report on a full stick is of no use to anybody.
        std::fs::remove_file(path.with_extension("new")).ok();
    })?;
    // One that stays says nothing wrong.
    if let Some(earlier) = earlier {
        std::fs::remove_file(dir.join(format!("{earlier}.sealed"))).ok();
    }
    Ok(())
}

/// No medium with a manifest is there.
pub fn missing() -> Issue {
    Issue::new(
        MISSING,
        "",
        format!("no stick or disc with the label {} is plugged in", medium::LABEL),
        "plug the stick in that this computer was started from, or try another socket; the installation then goes on by itself",
    )
}

/// It was pulled out too early.
pub(crate) fn pulled() -> Issue {
    Issue::new(
        PULLED,
        "",
        "the stick or disc was pulled out before everything that is needed was read from it",
        "put it back; the installation then goes on by itself",
    )
}

fn foreign(shown: &str) -> Issue {
    Issue::new(
        FOREIGN,
        shown,
        "the stick or disc belongs to another site: this site's key did not sign its manifest",
        "use the stick this computer was started from, or make a new one (`akene-image offline`)",
    )
}

fn damaged(path: &str, why: impl std::fmt::Display) -> Issue {
    Issue::new(
        "medium-damaged",
        path,
        format!("the stick or disc is damaged, {path}: {why}"),
        "try another copy of it; `akene-image inspect --verify` tells what is wrong with this one",
    )
}

#[cfg(test)]
pub(crate) mod tests;
