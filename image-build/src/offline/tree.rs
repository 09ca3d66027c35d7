//! The directory `akene/` of a medium, as files.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use akene_protocol::medium::{DIR, KEY, MANIFEST, Medium, POOL, REPORTS};
use akene_protocol::{Envelope, Secret};
use akene_server::site::Site;
use anyhow::{Context, Result};
use tempfile::TempDir;

use super::content::Content;
use super::signed;
use super::store::Store;

/// One of the small files.
pub struct Document {
    /// Where it lies, below `akene/`.
    pub path: String,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Who may read it, where somebody mounts the medium.
    pub mode: u32,
}

/// The small files of a medium: manifest, key, profiles and locks.
///
/// # Errors
/// The site's key cannot be read.
pub fn documents(medium: &Medium, key: &Secret, content: &Content, site: &Site) -> Result<Vec<Document>> {
    let manifest = signed(&Envelope::sign(medium, &site.key()?))?;
    let mut documents = vec![
        Document { path: MANIFEST.into(), bytes: manifest, mode: 0o644 },
        Document { path: KEY.into(), bytes: key.expose().as_bytes().to_vec(), mode: 0o600 },
    ];
    for (path, bytes) in content.profiles.iter().flat_map(super::content::Carried::files) {
        documents.push(Document { path, bytes: bytes.to_vec(), mode: 0o644 });
    }
    Ok(documents)
}

impl Document {
    /// Writes it below `akene`, whose directories are there.
    ///
    /// # Errors
    /// It cannot be written, or is there.
    pub fn write(&self, akene: &Path) -> Result<()> {
        let path = akene.join(&self.path);
        let doing = || format!("writing {}", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(self.mode)
            .open(&path)
            .with_context(doing)?;
        file.write_all(&self.bytes).with_context(doing)
    }
}

/// Makes the directories of an empty tree.
///
/// # Errors
/// One cannot be made, or is there.
pub fn directories(akene: &Path) -> Result<()> {
    for dir in [akene.to_owned(), akene.join("profiles"), akene.join(POOL), akene.join(REPORTS)] {
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    Ok(())
}

/// A whole tree, beside the store: packages are links to the files there.
pub struct Staged {
    dir: TempDir,
}

impl Staged {
    /// Puts it together.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn make(store: &Store, documents: &[Document], content: &Content) -> Result<Staged> {
        let dir = tempfile::Builder::new()
            .prefix(".medium-")
            .tempdir_in(store.dir())
            .with_context(|| format!("making a directory in {}", store.dir().display()))?;
        let akene = dir.path().join(DIR);
        directories(&akene)?;
        for document in documents {
            document.write(&akene)?;
        }
        for package in content.packages() {
            let (from, to) = (store.path(&package.sha256), akene.join(POOL).join(package.sha256.to_string()));
            // Not every filesystem links.
            fs::hard_link(&from, &to)
                .or_else(|_| fs::copy(&from, &to).map(drop))
                .with_context(|| format!("putting {} to the medium's files", package.name))?;
        }
        Ok(Staged { dir })
    }

    /// The directory that holds `akene/`.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Writes everything of the filesystem below `dir` out to the medium.
///
/// # Errors
/// The medium does not take it.
pub fn sync(dir: &Path) -> Result<()> {
    let doing = || format!("writing out {}", dir.display());
    nix::unistd::syncfs(File::open(dir).with_context(doing)?).with_context(doing)
}
