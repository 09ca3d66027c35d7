//! Putting requests to the archives of one moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use akene_exec::Runner;
use akene_protocol::issue::Issues;
use akene_protocol::lock::{
    ArchiveSettings, LockedPackage, PinnedPackage, ProfileLock, Release, SIGNED_VERSION, Selection,
};
use akene_protocol::profile::Bundle;
use akene_protocol::resolve::Archive;
use akene_protocol::{Issue, Sha256};
use anyhow::{Context, Result, bail};

use super::Variants;
use crate::apt::{AptRoot, AptSettings};
use crate::fetch::Progress;
use crate::release::below;

/// The indexes of one moment, one set for each different list of archives. Profiles that share archives share
/// what was read of them.
pub struct Snapshots<'a> {
    dir: PathBuf,
    proxy: Option<String>,
    /// Where the site's own package with a sum lies.
    own: &'a dyn Fn(&Sha256) -> Result<Option<PathBuf>>,
    /// What was noted while they were read.
    notes: Vec<Issue>,
    taken: Vec<(Archive, AptRoot)>,
}

impl<'a> Snapshots<'a> {
    /// Keeps indexes below `dir`, which may hold those of an earlier time: what has not changed is not
    /// fetched again. `own` finds the packages that lie beside the site's classes.
    pub fn new(dir: &Path, proxy: Option<&str>, own: &'a dyn Fn(&Sha256) -> Result<Option<PathBuf>>) -> Self {
        let (dir, proxy) = (dir.to_owned(), proxy.map(str::to_owned));
        Snapshots { dir, proxy, own, notes: vec![], taken: vec![] }
    }

    fn of(
        &mut self,
        runner: &dyn Runner,
        archive: &Archive,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<&AptRoot> {
        let at = match self.taken.iter().position(|(known, _)| known == archive) {
            Some(at) => at,
            None => {
                let json = serde_json::to_vec(archive).context("naming the archives")?;
                let dir = self.dir.join(&Sha256::of(&json).to_string()[..16]);
                fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
                let settings = AptSettings {
                    archive,
                    keyring: AptSettings::default_keyring(archive.distribution),
                    proxy: self.proxy.as_deref(),
                };
                let apt = AptRoot::create(&dir, &settings)?;
                self.bring_own(&apt)?;
                self.notes.extend(apt.update(runner, progress).context("reading the package archives")?);
                self.taken.push((archive.clone(), apt));
                self.taken.len() - 1
            }
        };
        Ok(&self.taken[at].1)
    }

    /// Puts the site's own packages where apt is shown them.
    fn bring_own(&self, apt: &AptRoot) -> Result<()> {
        let mut missing = Vec::new();
        for package in apt.local_files() {
            let Some(from) = (self.own)(&package.sha256)? else {
                missing.push(Issue::new(
                    "package-missing",
                    &package.name,
                    format!(
                        "no file of the site has the sum {} of {} {}",
                        package.sha256, package.name, package.version
                    ),
                    "put the .deb back beside its class",
                ));
                continue;
            };
            let to = apt.local_dir().join(&package.file);
            let doing = || format!("copying {} to {}", from.display(), to.display());
            fs::create_dir_all(apt.local_dir()).and_then(|()| fs::copy(&from, &to)).with_context(doing)?;
        }
        if missing.is_empty() { apt.use_local() } else { Err(Issues(missing).into()) }
    }
}

/// A lock that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The lock, not signed yet.
    pub lock: ProfileLock,
    /// Kinds of machines that have no answer in it, and why.
    pub left_out: Vec<(String, Issues)>,
    /// What was noted while the indexes were read for it, and what of its packages is none.
    pub notes: Vec<Issue>,
}

/// Makes the lock of a profile: each variant is put to apt once.
///
/// # Errors
/// An archive that cannot be read or trusted. Packages that do not fit together for one kind of machine leave
/// that kind out; [`Issues`] when nothing is left.
pub fn make(
    runner: &dyn Runner,
    bundle: &Bundle,
    variants: &Variants,
    snapshots: &mut Snapshots<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Made> {
    let mut left_out = variants.unresolved.clone();
    let mut pool = Pool::default();
    let mut archives: Vec<ArchiveSettings> = Vec::new();
    let mut selections = Vec::new();
    let mut snaps: Vec<Issue> = Vec::new();
    for (done, variant) in variants.list.iter().enumerate() {
        let apt = snapshots.of(runner, &variant.archive, progress)?;
        let total = variants.list.len() as u64;
        progress(Progress { done: done as u64, total, what: variant.what.clone() });
        let settings = ArchiveSettings::of(&variant.archive);
        let lock = match apt.answer(runner, &variant.request) {
            Ok(lock) => lock,
            Err(error) => match error.downcast::<Issues>() {
                Ok(issues) => {
                    left_out.push((variant.what.clone(), issues));
                    continue;
                }
                Err(error) => return Err(error.context(format!("choosing packages for {}", variant.what))),
            },
        };
        snaps.extend(lock.snaps(variant.archive.distribution));
        let is_own =
            |package: &LockedPackage| variant.archive.local.iter().any(|p| p.sha256 == package.sha256);
        let places: Vec<usize> = lock
            .packages
            .iter()
            .map(|package| pool.place(package, &lock.releases, is_own(package)))
            .collect::<Result<_>>()
            .with_context(|| format!("choosing packages for {}", variant.what))?;
        let those = |which: &dyn Fn(&LockedPackage) -> bool| {
            let chosen = lock.packages.iter().zip(&places).filter(|(package, _)| which(package));
            Selection::runs(chosen.map(|(_, place)| *place))
        };
        let archive = archives.iter().position(|known| *known == settings).unwrap_or_else(|| {
            archives.push(settings);
            archives.len() - 1
        });
        selections.push(Selection {
            request: variant.request.clone(),
            archive,
            absent: apt.absent(runner, &variant.request)?,
            packages: Selection::runs(places.iter().copied()),
            base: those(&|p| p.base),
        });
    }
    if selections.is_empty() {
        let all: Vec<Issue> = left_out.into_iter().flat_map(|(_, issues)| issues.0).collect();
        return Err(Issues(all).into());
    }
    let lock = ProfileLock {
        version: SIGNED_VERSION,
        site: bundle.site.clone(),
        profile: bundle.name.clone(),
        revision: bundle.revision.clone(),
        architecture: "amd64".into(),
        releases: pool.releases,
        archives,
        packages: pool.packages,
        selections,
    };
    lock.check()?;
    snaps.sort_by(|a, b| (&a.path, &a.message).cmp(&(&b.path, &b.message)));
    snaps.dedup();
    let notes = std::mem::take(&mut snapshots.notes).into_iter().chain(snaps).collect();
    Ok(Made { lock, left_out, notes })
}

/// Packages and releases, each once, in the order they were first met.
#[derive(Default)]
struct Pool {
    releases: Vec<Release>,
    packages: Vec<PinnedPackage>,
    /// Places by name, version, architecture and sum.
    known: BTreeMap<(String, String, String, String), usize>,
}

impl Pool {
    fn place(&mut self, package: &LockedPackage, releases: &[Release], own: bool) -> Result<usize> {
        let key = (
            package.name.clone(),
            package.version.clone(),
            package.architecture.clone(),
            package.sha256.to_string(),
        );
        if let Some(place) = self.known.get(&key) {
            return Ok(*place);
        }
        let release = package.release.and_then(|at| releases.get(at));
        let path = match release {
            Some(release) => package
                .urls
                .iter()
                .find_map(|url| below(url, &release.uri))
                .with_context(|| format!("finding {} below {}", package.name, release.uri))?,
            // No archive has it: the profile that this lock is of says what it is.
            None if own => String::new(),
            None => bail!("{} {} is in no release that apt verified", package.name, package.version),
        };
        let release = release.map(|release| {
            self.releases.iter().position(|known| known == release).unwrap_or_else(|| {
                self.releases.push(release.clone());
                self.releases.len() - 1
            })
        });
        self.packages.push(PinnedPackage {
            name: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
            size: package.size,
            sha256: package.sha256,
            release,
            path,
        });
        self.known.insert(key, self.packages.len() - 1);
        Ok(self.packages.len() - 1)
    }
}
