//! The initrd of the live image: what is in it, in which order.
//!
//! The image builder writes it from a staging directory; the running live system writes it again
//! from its own root when it puts itself on the disk. Both call [`write`], so both get the same bytes:
//! `init`, then `akene/` with its files in the order of their names. The stamp is left out: it belongs
//! to a site, not to the image, and is an archive of its own that the boot loader loads after this one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use akene_protocol::{Bytes, Sha256, image, stamp};
use anyhow::{Context, Result};

use crate::cpio::Writer;

/// The first program, in the root of the initrd.
pub const INIT: &str = "init";

/// Writes the initrd with `init` and `akene/` of the directory `root`. Gives back its size and hash.
///
/// # Errors
/// A missing `init`, anything below `akene/` that is neither file nor directory, a failing read or write.
pub fn write(root: &Path, out: impl Write) -> Result<(Bytes, Sha256)> {
    let mut cpio = Writer::new(out);
    add_file(&mut cpio, root, INIT, 0o755)?;
    add_directory(&mut cpio, root, image::DIR)?;
    let (_, size, sum) = cpio.finish().context("ending the initrd")?;
    Ok((Bytes(size), Sha256(sum)))
}

fn add_directory<W: Write>(cpio: &mut Writer<W>, root: &Path, path: &str) -> Result<()> {
    cpio.directory(path, 0o755).with_context(|| format!("writing {path} to the initrd"))?;
    let directory = root.join(path);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
        let name = entry.with_context(|| format!("reading {}", directory.display()))?.file_name();
        let name = name.into_string().ok().with_context(|| format!("reading names in {path}"))?;
        names.insert(format!("{path}/{name}"));
    }
    for path in names.iter().filter(|p| p.as_str() != stamp::PATH) {
        let kind = fs::symlink_metadata(root.join(path))
            .with_context(|| format!("looking at {}", root.join(path).display()))?
            .file_type();
        if kind.is_dir() {
            add_directory(cpio, root, path)?;
        } else if kind.is_file() {
            add_file(cpio, root, path, 0o644)?;
        } else {
            anyhow::bail!("{} is neither a file nor a directory", root.join(path).display());
        }
    }
    Ok(())
}

fn add_file<W: Write>(cpio: &mut Writer<W>, root: &Path, path: &str, permissions: u32) -> Result<()> {
    let source = root.join(path);
    let file = File::open(&source).with_context(|| format!("opening {}", source.display()))?;
    let size = file.metadata().with_context(|| format!("looking at {}", source.display()))?.len();
    cpio.file_from(path, permissions, size, file).with_context(|| format!("writing {path} to the initrd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("akene/modules")).unwrap();
        for name in names {
            fs::write(dir.path().join(name), format!("this is {name}")).unwrap();
        }
        dir
    }

    fn bytes(root: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        write(root, &mut out).unwrap();
        out
    }

    #[test]
    fn order_of_creation_and_the_stamp_do_not_count() {
        let a = root(&["init", "akene/vmlinuz", "akene/image.json", "akene/modules/01-a.ko"]);
        let b = root(&["akene/modules/01-a.ko", "akene/stamp", "akene/image.json", "akene/vmlinuz", "init"]);
        assert_eq!(bytes(a.path()), bytes(b.path()));
        let text = String::from_utf8_lossy(&bytes(a.path())).into_owned();
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("init") < at("akene"));
        assert!(at("akene/image.json") < at("akene/modules"));
        assert!(at("akene/modules/01-a.ko") < at("akene/vmlinuz"));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let dir = root(&["init"]);
        std::os::unix::fs::symlink("init", dir.path().join("akene/link")).unwrap();
        let error = write(dir.path(), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.ends_with("akene/link is neither a file nor a directory"), "{error}");
        assert!(write(root(&[]).path(), &mut Vec::new()).unwrap_err().to_string().contains("init"));
    }
}
