//! Small file helpers whose errors name the file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file and the directories above it.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    parents(path)?;
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Copies a file's content, links followed, and makes the directories above the copy.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    parents(to)?;
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Makes a symbolic link and the directories above it; one that is there is replaced.
pub fn symlink(target: &str, link: &Path) -> Result<()> {
    parents(link)?;
    if fs::symlink_metadata(link).is_ok_and(|m| m.is_symlink()) {
        fs::remove_file(link).with_context(|| format!("replacing {}", link.display()))?;
    }
    std::os::unix::fs::symlink(target, link).with_context(|| format!("linking {}", link.display()))
}

/// Takes a file or a whole directory away; that it was not there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    result.with_context(|| format!("removing {}", path.display()))
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading {}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(reading)? {
        let name = entry.with_context(reading)?.file_name();
        names.push(
            name.into_string().ok().context("reading a file name that is not text").with_context(reading)?,
        );
    }
    names.sort();
    Ok(names)
}

/// All files and links below a directory, by relative path; a link to a directory counts as a link.
pub fn walk(dir: &Path) -> Result<BTreeSet<String>> {
    fn below(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) -> Result<()> {
        for name in names(dir)? {
            let (path, relative) = (dir.join(&name), format!("{prefix}{name}"));
            let kind =
                fs::symlink_metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
            if kind.is_dir() {
                below(&path, &format!("{relative}/"), found)?;
            } else {
                found.insert(relative);
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    below(dir, "", &mut found)?;
    Ok(found)
}

/// Bytes of all files below a directory.
pub fn size(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for path in walk(dir)? {
        let path = dir.join(path);
        sum += fs::symlink_metadata(&path).with_context(|| format!("looking at {}", path.display()))?.len();
    }
    Ok(sum)
}

fn parents(path: &Path) -> Result<()> {
    match path.parent() {
        Some(dir) => fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display())),
        None => Ok(()),
    }
}
