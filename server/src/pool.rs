//! Package files by hash.
//!
//! Two places, one address: `state/pool/`, which [`Pool::add`] fills and whose files are named by their SHA-256, and the
//! packages that lie beside the site's classes, `classes/NAME/packages/FILE.deb`. These are hashed when they are first
//! asked for and again when they change.
//!
//! A file that is no longer what its name says does no harm: whoever fetches it checks the sum.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use akene_protocol::Sha256;
use anyhow::{Context as _, Result, ensure};
use sha2::Digest as _;

use crate::site::Site;

/// The sums of files that are not named by them, with what tells that a file has changed.
type Known = BTreeMap<PathBuf, (u64, SystemTime, Sha256)>;

/// The package files of a site.
#[derive(Debug)]
pub struct Pool {
    dir: PathBuf,
    classes: PathBuf,
    known: Mutex<Known>,
}

impl Pool {
    /// The pool of a site.
    pub fn of(site: &Site) -> Pool {
        Pool {
            dir: site.dir().join("state/pool"),
            classes: site.dir().join("classes"),
            known: Mutex::default(),
        }
    }

    /// Where the file with this sum lies.
    pub fn find(&self, sum: &Sha256) -> Result<Option<PathBuf>> {
        let path = self.dir.join(sum.to_string());
        if path.is_file() {
            return Ok(Some(path));
        }
        // One at a time: whoever comes second finds the sums of the first.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        let mut there = Known::new();
        for class in entries(&self.classes)? {
            for path in entries(&class.join("packages"))? {
                if path.extension().is_none_or(|e| e != "deb") {
                    continue;
                }
                let meta = fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
                let changed = meta.modified().with_context(|| format!("looking at {}", path.display()))?;
                let theirs = match known.get(&path) {
                    Some((size, time, sum)) if (*size, *time) == (meta.len(), changed) => *sum,
                    _ => {
                        let file =
                            File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                        Sha256::of_reader(file).with_context(|| format!("reading {}", path.display()))?.0
                    }
                };
                if theirs == *sum {
                    found = Some(path.clone());
                }
                there.insert(path, (meta.len(), changed, theirs));
            }
        }
        *known = there;
        Ok(found)
    }

    /// Takes a file in. True: it was not there before.
    pub fn add(&self, file: &Path) -> Result<(Sha256, bool)> {
        let reading = || format!("reading {}", file.display());
        let mut from = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        crate::site::keys::private_dir(&self.dir)?;
        let part = self.dir.join(format!(".{}.new", crate::site::keys::random_hex(8)?));
        let taken = self.copy(&mut from, &part).with_context(reading);
        let outcome = taken.and_then(|sum| {
            let path = self.dir.join(sum.to_string());
            let new = !path.exists();
            fs::rename(&part, &path).with_context(|| format!("naming {}", path.display()))?;
            Ok((sum, new))
        });
        if outcome.is_err()
            && let Err(error) = fs::remove_file(&part)
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("removing {}: {error}", part.display());
        }
        outcome
    }

    fn copy(&self, from: &mut File, to: &Path) -> Result<Sha256> {
        let mut out = File::create_new(to).with_context(|| format!("making {}", to.display()))?;
        let mut sum = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0;
        loop {
            let n = from.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            if size == 0 {
                ensure!(buffer[..n].starts_with(b"!<arch>\n"), "it is no Debian package");
            }
            size += n;
            sum.update(&buffer[..n]);
            out.write_all(&buffer[..n]).with_context(|| format!("writing {}", to.display()))?;
        }
        ensure!(size > 0, "it is empty");
        out.sync_all().with_context(|| format!("writing {}", to.display()))?;
        Ok(Sha256(sum.finalize().into()))
    }
}

/// What lies in a directory, sorted. One that is not there is empty.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(vec![]),
        Err(e) => return Err(e).with_context(|| format!("listing {}", dir.display())),
    };
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry.with_context(|| format!("listing {}", dir.display()))?.path());
    }
    paths.sort();
    Ok(paths)
}
