//! Reading a medium for places without a network, without root and without mounting anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use akene_protocol::lock::ProfileLock;
use akene_protocol::medium::{DIR, KEY, MANIFEST, Medium, POOL, REPORTS};
use akene_protocol::{Bytes, Envelope, Issue, PublicKey, Sha256};
use akene_server::site::keys;
use anyhow::{Context, Result};
use ext4_view::{Ext4, Ext4Error, Ext4Read};

use super::stick;
use super::table::{self, Span};
use crate::inspect;
use crate::iso9660::{Extent, Iso};

/// Largest of the small files.
const SMALL: u64 = 64 << 20;

/// A stick or disc with everything an installation needs.
pub struct Offline {
    image: File,
    data: Data,
}

enum Data {
    /// A stick's partition.
    Partition(Span, Ext4),
    /// Part of the ISO.
    Disc,
}

/// The bytes of a partition.
struct Part(File, Span);

impl Ext4Read for Part {
    fn read(
        &mut self,
        start: u64,
        to: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let Part(file, span) = self;
        match start.checked_add(to.len() as u64) {
            Some(end) if end <= span.length => Ok(file.read_exact_at(to, span.start + start)?),
            _ => Err("this lies beyond the end of the partition".into()),
        }
    }
}

impl Offline {
    /// Opens a device, an image of a stick, or an ISO. `None`: it carries no such content.
    ///
    /// # Errors
    /// It cannot be read, or there is a data partition with a damaged filesystem.
    pub fn open(path: &Path) -> Result<Option<Offline>> {
        let opening = || format!("opening {}", path.display());
        let image = File::open(path).with_context(opening)?;
        if let Some(span) = table::data(&image).with_context(opening)? {
            let part = Part(image.try_clone().with_context(opening)?, span);
            let ext4 = Ext4::load(Box::new(part)).with_context(|| {
                let what = format!("reading the data partition of {}", path.display());
                format!("{what} (if it was pulled out while it was written to, mounting it once mends it)")
            })?;
            return Ok(Some(Offline { image, data: Data::Partition(span, ext4) }));
        }
        let disc = Offline { image, data: Data::Disc };
        Ok(disc.extent(MANIFEST).with_context(opening)?.is_some().then_some(disc))
    }

    /// The data partition, where it is a stick.
    pub fn partition(&self) -> Option<Span> {
        match self.data {
            Data::Partition(span, _) => Some(span),
            Data::Disc => None,
        }
    }

    /// The manifest, if this key signed it.
    ///
    /// # Errors
    /// `medium-foreign`; it is missing or cannot be read.
    pub fn manifest(&self, key: &PublicKey) -> Result<Medium> {
        let text = self.read(MANIFEST)?.with_context(|| format!("looking for {MANIFEST}"))?;
        let opened = Envelope::parse(&text).and_then(|envelope| envelope.open::<Medium>(key));
        opened.map_err(|error| {
            let next = "take a medium of this site, or make one";
            Issue::new("medium-foreign", MANIFEST, error.to_string(), next).into()
        })
    }

    /// A small file, by its path below `akene/`; `None`: it is not there.
    ///
    /// # Errors
    /// It cannot be read, or is not small.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let reading = || format!("reading {path}");
        let Some(length) = self.length(path).with_context(reading)? else { return Ok(None) };
        anyhow::ensure!(length <= SMALL, "reading {path}: it has {}", Bytes(length));
        match &self.data {
            Data::Partition(_, ext4) => ext4.read(place(path).as_str()).map(Some).with_context(reading),
            Data::Disc => {
                let Some(extent) = self.extent(path)? else { return Ok(None) };
                Iso::open(&self.image)?.read(extent, SMALL).map(Some).with_context(reading)
            }
        }
    }

    /// Sum and size of a file.
    ///
    /// # Errors
    /// It is not there or cannot be read to its end.
    pub fn sum(&self, path: &str) -> Result<(Sha256, u64)> {
        let reading = || format!("reading {path}");
        match &self.data {
            Data::Partition(_, ext4) => {
                let file = ext4.open(place(path).as_str()).with_context(reading)?;
                let buffered = std::io::BufReader::with_capacity(1 << 20, file);
                Sha256::of_reader(buffered).with_context(reading)
            }
            Data::Disc => {
                let extent = self.extent(path)?.with_context(|| format!("looking for {path}"))?;
                Ok((
                    inspect::hash(&self.image, extent.offset, extent.length).with_context(reading)?,
                    extent.length,
                ))
            }
        }
    }

    /// The files of a directory with their sizes. One that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let reading = || format!("reading {dir}");
        let mut found = BTreeMap::new();
        match &self.data {
            Data::Partition(_, ext4) => {
                let Some(entries) = there(ext4.read_dir(place(dir).as_str())).with_context(reading)? else {
                    return Ok(found);
                };
                for entry in entries {
                    let entry = entry.with_context(reading)?;
                    let about = entry.metadata().with_context(reading)?;
                    if !about.is_dir() {
                        let name = entry.file_name().as_str().with_context(reading)?.to_owned();
                        found.insert(name, about.len());
                    }
                }
            }
            Data::Disc => {
                let Some(extent) = self.extent(dir)? else { return Ok(found) };
                let entries = Iso::open(&self.image)?.list(extent).with_context(reading)?;
                found.extend(entries.into_iter().map(|(name, extent)| (name, extent.length)));
            }
        }
        Ok(found)
    }

    fn length(&self, path: &str) -> Result<Option<u64>> {
        Ok(match &self.data {
            Data::Partition(_, ext4) => there(ext4.metadata(place(path).as_str()))?.map(|about| about.len()),
            Data::Disc => self.extent(path)?.map(|extent| extent.length),
        })
    }

    fn extent(&self, path: &str) -> Result<Option<Extent>> {
        Iso::open(&self.image)?.find(&format!("{DIR}/{path}"))
    }

    /// What it holds, a line each.
    ///
    /// # Errors
    /// Those of [`Offline::manifest`] and [`Offline::list`].
    pub fn describe(&self, key: &PublicKey) -> Result<Vec<(&'static str, String)>> {
        let medium = self.manifest(key)?;
        let mut lines = vec![
            ("medium", format!("{}, made {}", medium.id, medium.made)),
            ("of site", medium.site.clone()),
        ];
        if !medium.associations.is_empty() {
            lines.push(("associations", medium.associations.join(", ")));
        }
        for profile in &medium.profiles {
            let text =
                format!("{} (revision {}), {} of packages", profile.name, profile.revision, profile.size);
            lines.push(("profile", text));
        }
        let pool = self.list(POOL)?;
        lines.push(("packages", format!("{} files, {}", pool.len(), Bytes(pool.values().sum()))));
        let waiting = self.list(REPORTS)?.keys().filter(|name| name.ends_with(".sealed")).count();
        let text = match self.data {
            Data::Disc => "none can be written to a disc".to_owned(),
            Data::Partition(..) => format!("{waiting} waiting"),
        };
        lines.push(("reports", text));
        Ok(lines)
    }

    /// Reads everything and compares it with manifest and locks. Gives back how many files that were.
    ///
    /// # Errors
    /// `medium-damaged` for each file that is not what it should be, `medium-incomplete` for each that is missing.
    pub fn verify(&self, key: &PublicKey) -> Result<usize> {
        let medium = self.manifest(key)?;
        let mut wrong = Vec::new();
        let mut count = 0;
        let live = stick::files(&self.image).context("reading the live system")?;
        for file in &medium.files {
            count += 1;
            let ours = live.iter().find(|f| f.path == file.path);
            let found = match ours {
                Some(found) => Some((found.sha256, found.size.0)),
                None => self.length(&file.path)?.map(|_| self.sum(&file.path)).transpose()?,
            };
            judge(&mut wrong, &file.path, file.sha256, file.size, found);
        }
        let text = self.read(KEY)?.unwrap_or_default();
        let fits = keys::signing_key(&String::from_utf8_lossy(&text))
            .is_ok_and(|key| PublicKey(key.verifying_key()) == medium.key);
        if !fits {
            wrong.push(damaged(KEY, "it is not the key the manifest names"));
        }
        count += self.verify_pool(key, &medium, &mut wrong)?;
        if wrong.is_empty() { Ok(count) } else { Err(akene_protocol::issue::Issues(wrong).into()) }
    }

    fn verify_pool(&self, key: &PublicKey, medium: &Medium, wrong: &mut Vec<Issue>) -> Result<usize> {
        let there = self.list(POOL)?;
        let mut seen = BTreeSet::new();
        for profile in &medium.profiles {
            let path = format!("profiles/{}.lock.json", profile.name);
            let text = self.read(&path)?.unwrap_or_default();
            let lock = match Envelope::parse(&text).and_then(|envelope| envelope.open::<ProfileLock>(key)) {
                Ok(lock) => lock,
                Err(error) => {
                    wrong.push(damaged(&path, &error.to_string()));
                    continue;
                }
            };
            for package in lock.packages.iter().filter(|p| seen.insert(p.sha256)) {
                let name = package.sha256.to_string();
                let path = format!("{POOL}/{name}");
                let found = there.get(&name).map(|_| self.sum(&path));
                let what = format!("{path} ({} {})", package.name, package.version);
                match found {
                    Some(Err(error)) => wrong.push(damaged(&what, &format!("{error:#}"))),
                    Some(Ok(found)) => judge(wrong, &what, package.sha256, package.size, Some(found)),
                    None => judge(wrong, &what, package.sha256, package.size, None),
                }
            }
        }
        Ok(seen.len())
    }
}

fn judge(wrong: &mut Vec<Issue>, what: &str, sum: Sha256, size: Bytes, found: Option<(Sha256, u64)>) {
    match found {
        Some((found, length)) if found == sum && length == size.0 => {}
        Some((_, length)) if length != size.0 => {
            wrong.push(damaged(what, &format!("it has {length} bytes instead of {}", size.0)));
        }
        Some((found, _)) => wrong.push(damaged(what, &format!("its SHA-256 is {found}, not {sum}"))),
        None => wrong.push(Issue::new("medium-incomplete", what, "it is not there", MEND)),
    }
}

const MEND: &str =
    "bring the medium up to date with `akene-image offline --update`, which mends it; or make a new one";

fn damaged(what: &str, why: &str) -> Issue {
    Issue::new("medium-damaged", what, why, MEND)
}

fn place(path: &str) -> String {
    format!("/{DIR}/{path}")
}

/// `None` where it is only not there.
fn there<T>(result: Result<T, Ext4Error>) -> Result<Option<T>, Ext4Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Ext4Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
