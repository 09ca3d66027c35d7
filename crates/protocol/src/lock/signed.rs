//! The signed lock of a profile.
//!
//! One profile means different packages on different machines: the firmware decides the boot loader, rules decide
//! which classes count, the disks decide which filesystems have to be looked after. The lock therefore holds one
//! pool of packages and, for each [`Request`] that was foreseen, a [`Selection`] of them. A machine takes the
//! selection of its own request or none; it never adapts one.
//!
//! The same indexes give the same bytes: nothing in the document depends on when or where it was made.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Lock, LockedPackage, Release, Request, VERSION, file_name};
use crate::envelope::Document;
use crate::ids::Sha256;
use crate::issue::Issue;
use crate::resolve::Archive;
use crate::size::Bytes;

/// The version of [`ProfileLock`] this crate writes and reads.
pub const SIGNED_VERSION: u32 = 2;

/// A profile's packages for every kind of machine that was foreseen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ProfileLock {
    /// Document version, [`SIGNED_VERSION`].
    pub version: u32,
    /// Name of the site.
    pub site: String,
    /// Name of the profile.
    pub profile: String,
    /// Revision of the bundle it was made from. For people: what counts is whether archives and request are
    /// those of the machine.
    pub revision: String,
    /// Debian architecture: `amd64`.
    pub architecture: String,
    /// The signed release files, each once.
    pub releases: Vec<Release>,
    /// The settings packages were chosen with, each once: a class that counts by a rule may add an archive.
    pub archives: Vec<ArchiveSettings>,
    /// Every package of any selection, each once.
    pub packages: Vec<PinnedPackage>,
    /// Answers to the requests.
    pub selections: Vec<Selection>,
}

impl Document for ProfileLock {
    const PAYLOAD_TYPE: &'static str = "application/vnd.akene.lock+json; version=2";
}

/// The settings that decide what an archive answers. Where the files lie is not among them: `mirrors` and
/// `security-mirrors` are empty, so that a mirror can be changed without a new lock. Hashes tell what is true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ArchiveSettings(pub Archive);

impl ArchiveSettings {
    /// Those of an archive.
    pub fn of(archive: &Archive) -> Self {
        ArchiveSettings(Archive { mirrors: vec![], security_mirrors: vec![], ..archive.clone() })
    }
}

/// One package file, wherever it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PinnedPackage {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Size of the `.deb`.
    pub size: Bytes,
    /// SHA-256 of the `.deb`.
    pub sha256: Sha256,
    /// The release that vouches for it, by its place in [`ProfileLock::releases`]; none for a package of the
    /// site's own, which is fetched by its hash.
    #[serde(default)]
    pub release: Option<usize>,
    /// Where it lies below the address of that release's archive.
    #[serde(default)]
    pub path: String,
}

/// The packages for one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Selection {
    /// What was asked for.
    pub request: Request,
    /// Of which archives, by the place in [`ProfileLock::archives`].
    pub archive: usize,
    /// Optional packages of the request that these archives do not have.
    pub absent: Vec<String>,
    /// The packages in the order apt means to unpack them, as runs of places in [`ProfileLock::packages`]: the
    /// first place and how many.
    pub packages: Vec<(usize, usize)>,
    /// Those of them that are the base.
    pub base: Vec<(usize, usize)>,
}

impl Selection {
    /// Turns places into runs, in their order.
    pub fn runs(places: impl IntoIterator<Item = usize>) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for place in places {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == place => *count += 1,
                _ => runs.push((place, 1)),
            }
        }
        runs
    }

    /// Turns runs into places.
    pub fn places(runs: &[(usize, usize)]) -> impl Iterator<Item = usize> + '_ {
        runs.iter().flat_map(|(first, count)| *first..first.saturating_add(*count))
    }
}

pub(super) const MAKE_ANEW: &str = "make it anew with `akene-server lock`";

impl ProfileLock {
    /// Whether the document is in order: its version, and that everything it names is there and has a plain
    /// name. A signature says who wrote it, not that they wrote it well.
    ///
    /// # Errors
    /// `document-version` or `lock-odd`.
    pub fn check(&self) -> Result<(), Issue> {
        if self.version != SIGNED_VERSION {
            let message = format!(
                "the signed lock has version {}, this program reads version {SIGNED_VERSION}",
                self.version
            );
            return Err(Issue::new("document-version", &*self.profile, message, MAKE_ANEW));
        }
        let odd = |what: String| Err(Issue::new("lock-odd", &*self.profile, what, MAKE_ANEW));
        for package in &self.packages {
            if !is_plain(&package.name) || !is_plain(&package.version) || !is_plain(&package.architecture) {
                return odd(format!(
                    "{:?} {:?} ({:?}) cannot be a package",
                    package.name, package.version, package.architecture
                ));
            }
            if package.size.0 == 0 || package.release.is_some_and(|at| at >= self.releases.len()) {
                return odd(format!(
                    "the lock does not say who vouches for {} or how large it is",
                    package.name
                ));
            }
            // One that lies beside a class comes from no archive.
            let stays = match package.release {
                None => package.path.is_empty(),
                Some(_) => {
                    package.path.split('/').all(|part| !part.is_empty() && part != ".." && part != ".")
                }
            };
            if !stays || package.path.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return odd(format!("{:?} cannot be the place of {}", package.path, package.name));
            }
        }
        for selection in &self.selections {
            let mut names = BTreeSet::new();
            let counted: usize =
                selection.packages.iter().map(|(_, count)| *count).fold(0, usize::saturating_add);
            if counted > self.packages.len() || selection.archive >= self.archives.len() {
                return odd("a selection of the lock names more than there is".into());
            }
            for place in Selection::places(&selection.packages) {
                let Some(package) = self.packages.get(place) else {
                    return odd(format!("a selection of the lock names package {place}, which is not there"));
                };
                if !names.insert((&package.name, &package.architecture)) {
                    return odd(format!("a selection of the lock has {} twice", package.name));
                }
            }
            let within = |runs: &[(usize, usize)]| {
                // Bounded before anything is counted out: a run may claim any length.
                runs.iter().all(|(_, count)| *count <= counted)
                    && Selection::places(runs).all(|place| {
                        selection
                            .packages
                            .iter()
                            .any(|(first, count)| place >= *first && place - *first < *count)
                    })
            };
            if selection.base.is_empty() || !within(&selection.base) {
                return odd("a selection of the lock has no base, or one that is not part of it".into());
            }
        }
        Ok(())
    }

    /// When the newest of its releases was made.
    pub fn date(&self) -> Option<Timestamp> {
        self.releases.iter().filter_map(|release| release.date).max()
    }

    /// The packages for this request from these archives, with the addresses of the archives' mirrors.
    ///
    /// # Errors
    /// `lock-of-another-profile`, `lock-of-other-archives` or `lock-without-selection`, each saying what differs.
    pub fn select(&self, profile: &str, archive: &Archive, request: &Request) -> Result<Lock, Issue> {
        let refuse = |code: &str, message: String| Err(Issue::new(code, &*self.profile, message, MAKE_ANEW));
        if self.profile != profile {
            let message =
                format!("the signed lock is of the profile {}, this computer has {profile}", self.profile);
            return refuse("lock-of-another-profile", message);
        }
        let settings = ArchiveSettings::of(archive);
        let of_archive: Vec<&Selection> =
            self.selections.iter().filter(|s| self.archives.get(s.archive) == Some(&settings)).collect();
        if of_archive.is_empty() {
            let nearest = self.archives.iter().map(|other| other.differing(&settings)).min_by_key(Vec::len);
            let message = match nearest {
                Some(keys) => format!(
                    "the signed lock was made for other archives: {} {} changed since",
                    keys.join(", "),
                    if keys.len() == 1 { "has" } else { "have" }
                ),
                None => "the signed lock holds no archives".to_owned(),
            };
            return refuse("lock-of-other-archives", message);
        }
        let Some(selection) = of_archive.iter().find(|s| s.request == *request) else {
            let nearest = of_archive
                .iter()
                .map(|s| differences(&s.request, request))
                .min_by_key(|(more, less)| more.len() + less.len());
            let message = match nearest {
                Some((more, less)) => format!(
                    "the signed lock has no answer for a computer like this one; the nearest {}{}{}",
                    if more.is_empty() { String::new() } else { format!("lacks {}", more.join(", ")) },
                    if more.is_empty() || less.is_empty() { "" } else { " and " },
                    if less.is_empty() { String::new() } else { format!("has {} besides", less.join(", ")) },
                ),
                None => "the signed lock is empty".to_owned(),
            };
            return refuse("lock-without-selection", message);
        };
        Ok(self.flatten(selection, archive))
    }

    /// A selection as the packages of a machine.
    fn flatten(&self, selection: &Selection, archive: &Archive) -> Lock {
        let base: BTreeSet<usize> = Selection::places(&selection.base).collect();
        let package = |place: usize| {
            let pinned = self.packages.get(place)?;
            let release = pinned.release.and_then(|at| self.releases.get(at));
            let addresses =
                release.map_or(vec![], |release| archive.addresses(&release.repository)).into_iter();
            Some(LockedPackage {
                name: pinned.name.clone(),
                version: pinned.version.clone(),
                architecture: pinned.architecture.clone(),
                size: pinned.size,
                sha256: pinned.sha256,
                urls: addresses
                    .map(|address| format!("{}/{}", address.trim_end_matches('/'), pinned.path))
                    .collect(),
                file: file_name(&pinned.name, &pinned.version, &pinned.architecture),
                base: base.contains(&place),
                release: pinned.release,
            })
        };
        Lock {
            version: VERSION,
            architecture: self.architecture.clone(),
            releases: self.releases.clone(),
            requested: selection.request.without(&selection.absent),
            packages: Selection::places(&selection.packages).filter_map(package).collect(),
        }
    }
}

impl ArchiveSettings {
    /// The keys in which two differ.
    fn differing(&self, other: &ArchiveSettings) -> Vec<String> {
        let keys = |settings: &ArchiveSettings| match serde_json::to_value(settings) {
            Ok(serde_json::Value::Object(map)) => map,
            _ => serde_json::Map::new(),
        };
        let (ours, theirs) = (keys(self), keys(other));
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        names.into_iter().filter(|k| ours.get(*k) != theirs.get(*k)).map(|k| format!("`apt.{k}`")).collect()
    }
}

/// What the second request asks for and the first does not, and the other way round.
pub fn differences(first: &Request, second: &Request) -> (Vec<String>, Vec<String>) {
    let all = |r: &Request| -> BTreeSet<String> {
        let lists = r.packages.iter().chain(&r.optional).cloned();
        lists.chain(r.recommends.then(|| "the recommended packages".to_owned())).collect()
    };
    let (a, b) = (all(first), all(second));
    (b.difference(&a).cloned().collect(), a.difference(&b).cloned().collect())
}

/// Whether a word is what names, versions and architectures are made of.
fn is_plain(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:~".contains(c))
}
