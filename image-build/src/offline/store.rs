//! Packages on this computer, each file named by its SHA-256: what one medium needed, the next need not fetch again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use akene_archive::{Fetcher, Source};
use akene_protocol::lock::LockedPackage;
use akene_protocol::stamp::Tls;
use akene_protocol::{Bytes, Issue, Sha256};
use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use super::content::Content;
use super::size::Place;
use super::{Goal, Workshop};
use crate::web::client;

/// How often it is said how far the download has come.
const SAY: Duration = Duration::from_secs(10);

/// Free space that is left on a disk.
const SPARE: u64 = 64 << 20;

/// A directory of packages.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in this directory, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path) -> Result<Store> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Store { dir: dir.to_owned() })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the package with this sum lies, or will.
    pub fn path(&self, sum: &Sha256) -> PathBuf {
        self.dir.join(sum.to_string())
    }

    /// Those that are not here, by their sizes alone; their sums are checked by [`Store::bring`].
    pub fn missing<'p>(&self, packages: &'p [LockedPackage]) -> Vec<&'p LockedPackage> {
        let here = |p: &LockedPackage| self.path(&p.sha256).metadata().is_ok_and(|m| m.len() == p.size.0);
        packages.iter().filter(|p| !here(p)).collect()
    }

    /// Whether the disks of this computer have room for the packages that are missing and for what is made of them.
    ///
    /// # Errors
    /// `no-space`, for each disk that has too little.
    pub fn check_space(&self, content: &Content, goal: &Goal, place: &Place) -> Result<()> {
        let fetched: u64 = self.missing(content.packages()).iter().map(|p| p.size.0).sum();
        let made = match goal {
            Goal::Device(..) => 0,
            Goal::StickImage(..) | Goal::Disc(..) => place.needed.0,
        };
        let output = match goal.path().parent() {
            Some(dir) if dir != Path::new("") => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let disk = |dir: &Path| -> Result<u64> {
            Ok(fs::metadata(dir).with_context(|| format!("looking at {}", dir.display()))?.dev())
        };
        if made > 0 && disk(&self.dir)? == disk(&output)? {
            return enough(&output, fetched + made, "the packages to be fetched and the image");
        }
        enough(&self.dir, fetched, "the packages to be fetched")?;
        enough(&output, made, "the image")
    }

    /// Brings those of these packages that are missing: the site's own from where they lie, all others from the site's pool or
    /// their archives.
    ///
    /// # Errors
    /// Those of [`Fetcher::fetch`].
    pub fn bring(&self, shop: &Workshop<'_>, content: &Content, packages: &[LockedPackage]) -> Result<()> {
        for (sum, from) in content.own.iter().filter(|(sum, _)| packages.iter().any(|p| p.sha256 == **sum)) {
            let to = self.path(sum);
            let doing = || format!("copying {} to {}", from.display(), to.display());
            let part = to.with_extension("part");
            fs::copy(from, &part).and_then(|_| fs::rename(&part, &to)).with_context(doing)?;
        }
        let said = Mutex::new(Instant::now());
        let progress = |p: &akene_archive::Progress| {
            let Ok(mut last) = said.try_lock() else { return };
            if last.elapsed() >= SAY {
                *last = Instant::now();
                (shop.say)(&format!("{} of {} are here", Bytes(p.done), Bytes(p.total)));
            }
        };
        let fetcher = Fetcher::new(client(&Tls::default(), shop.proxy.as_deref())?)
            .first(Source::directory("the site's pool", shop.site.dir().join("state/pool")));
        let fetched = fetcher.fetch(packages, &self.dir, &progress);
        let report = fetcher.report();
        report.warnings.iter().for_each(|warning| (shop.say)(&format!("attention: {warning}")));
        fetched?;
        (shop.say)(&format!("fetched {}", Bytes(report.network)));
        Ok(())
    }

    /// Copies a package somewhere and checks on the way that it is the right one. Gives back its size.
    ///
    /// # Errors
    /// It cannot be read or written, or is not what its name says.
    pub fn copy(&self, sum: &Sha256, to: &Path) -> Result<u64> {
        use sha2::Digest as _;
        struct Hashing<R>(R, sha2::Sha256);
        impl<R: io::Read> io::Read for Hashing<R> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = self.0.read(buffer)?;
                self.1.update(&buffer[..n]);
                Ok(n)
            }
        }
        let from = self.path(sum);
        let doing = || format!("copying {} to {}", from.display(), to.display());
        let mut reader = Hashing(File::open(&from).with_context(doing)?, sha2::Sha256::new());
        let mut writer = File::create_new(to).with_context(doing)?;
        let size = io::copy(&mut reader, &mut writer).with_context(doing)?;
        if Sha256(reader.1.finalize().into()) != *sum {
            anyhow::bail!("{} is damaged; remove it and try again", from.display());
        }
        Ok(size)
    }
}

/// Whether the disk below `dir` has room.
fn enough(dir: &Path, needed: u64, what: &str) -> Result<()> {
    if needed == 0 {
        return Ok(());
    }
    let disk = statvfs(dir).with_context(|| format!("asking how much is free in {}", dir.display()))?;
    let free = disk.blocks_available() * disk.fragment_size();
    if needed + SPARE <= free {
        return Ok(());
    }
    let (short, needed, free) = (Bytes(needed + SPARE - free), Bytes(needed), Bytes(free));
    let message = format!("{what} need {needed}, and {free} are free there: {short} too little");
    let next = "make room, or name another place with --cache or --output";
    Err(Issue::new("no-space", dir.display().to_string(), message, next).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_small_is_told_with_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        enough(dir.path(), 1000, "the image").unwrap();
        let error = enough(dir.path(), 1 << 60, "the image").unwrap_err().to_string();
        assert!(error.contains("no-space") && error.contains("the image need"), "{error}");
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_package_that_is_not_what_its_name_says_is_not_copied_silently() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let (good, bad) = (Sha256::of(b"good"), Sha256::of(b"bad"));
        fs::write(store.path(&good), "good").unwrap();
        fs::write(store.path(&bad), "dab").unwrap();
        assert_eq!(store.copy(&good, &dir.path().join("a")).unwrap(), 4);
        let error = store.copy(&bad, &dir.path().join("b")).unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
    }
}
