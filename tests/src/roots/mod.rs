//! Two installed roots compared, by somebody who does not know how either was made.
//!
//! Both trees are walked and each name is held against its counterpart: kind, mode, owner, content, time,
//! hard links, device numbers, extended attributes (capabilities are one). Files whose bytes may differ while
//! they say the same, first of all dpkg's database, are read for what they say ([`forms`]): each field of each
//! paragraph is a part of its own.
//!
//! What may differ is a list ([`PERMITTED`]), and every line of it has a reason. Whatever is not on it is a
//! [`Difference`].

mod forms;
mod permitted;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use forms::Form;
pub use permitted::{Allowed, PERMITTED, Permitted};
use walk::{Entry, Kind, Tree};

/// What about a name is not the same in both roots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Only the reference has it.
    Missing,
    /// The reference does not have it.
    Extra,
    /// A file here, a directory there.
    Kind,
    /// Permissions, with set-user-ID and its like.
    Mode,
    /// The owning user.
    User,
    /// The owning group.
    Group,
    /// Bytes of a file.
    Content,
    /// One statement of a file that is read for what it says.
    Part(String),
    /// Where a symbolic link points.
    Target,
    /// Under which other names the same file lies.
    HardLinks,
    /// Numbers of a device.
    Device,
    /// An extended attribute.
    Attribute(String),
    /// When it was last changed, according to its package.
    Time,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Path below the root.
    pub path: PathBuf,
    /// What about it.
    pub aspect: Aspect,
    /// How it is in the reference.
    pub reference: String,
    /// How it is in the other root.
    pub other: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { path, aspect, reference, other } = self;
        let path = path.display();
        match aspect {
            Aspect::Missing => write!(f, "{path}: missing ({reference} in the reference)"),
            Aspect::Extra => write!(f, "{path}: not in the reference ({other})"),
            Aspect::Part(part) => write!(f, "{path}, {part}: {other:?} instead of {reference:?}"),
            Aspect::Attribute(name) => write!(f, "{path}, attribute {name}: {other} instead of {reference}"),
            aspect => write!(f, "{path}, {aspect:?}: {other} instead of {reference}"),
        }
    }
}

/// What came of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What must not be.
    pub differences: Vec<Difference>,
    /// What may be: how often each line of [`PERMITTED`] was needed, and one example.
    pub permitted: BTreeMap<&'static str, (usize, Option<Difference>)>,
    /// How many names were looked at.
    pub names: usize,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} names compared, {} differences", self.names, self.differences.len())?;
        for difference in &self.differences {
            writeln!(f, "  {difference}")?;
        }
        for (why, (count, example)) in &self.permitted {
            let example = example.as_ref().map_or_else(String::new, |d| format!(", such as {d}"));
            writeln!(f, "  permitted {count} times: {why}{example}")?;
        }
        Ok(())
    }
}

/// Compares `other` with `reference`. Nothing in either was made by an installation before `since`: of two
/// files that are both younger, the times are not compared.
///
/// # Errors
/// A root cannot be read.
pub fn compare(reference: &Path, other: &Path, since: SystemTime) -> Result<Comparison> {
    let (left, right) = (Tree::walk(reference)?, Tree::walk(other)?);
    let mut found = Collector { comparison: Comparison::default() };
    let paths: BTreeSet<&PathBuf> = left.entries.keys().chain(right.entries.keys()).collect();
    found.comparison.names = paths.len();
    for path in paths {
        match (left.entries.get(path), right.entries.get(path)) {
            (Some(a), None) => found.add(path, Aspect::Missing, a.kind.name(), ""),
            (None, Some(b)) => found.add(path, Aspect::Extra, "", b.kind.name()),
            (Some(a), Some(b)) => {
                let pair = Pair { path, a, b, left: &left, right: &right };
                pair.compare(since, &mut found).with_context(|| format!("comparing {}", path.display()))?;
            }
            (None, None) => {}
        }
    }
    Ok(found.comparison)
}

/// Sorts differences into those that are permitted and those that are not.
struct Collector {
    comparison: Comparison,
}

impl Collector {
    fn add(&mut self, path: &Path, aspect: Aspect, reference: impl ToString, other: impl ToString) {
        let (reference, other) = (reference.to_string(), other.to_string());
        let difference = Difference { path: path.to_owned(), aspect, reference, other };
        match PERMITTED.iter().find(|p| p.covers(&difference)) {
            Some(permitted) => {
                let seen = self.comparison.permitted.entry(permitted.why).or_default();
                seen.0 += 1;
                seen.1.get_or_insert(difference);
            }
            None => self.comparison.differences.push(difference),
        }
    }
}

/// A name both roots have.
struct Pair<'a> {
    path: &'a Path,
    a: &'a Entry,
    b: &'a Entry,
    left: &'a Tree,
    right: &'a Tree,
}

impl Pair<'_> {
    fn compare(&self, since: SystemTime, found: &mut Collector) -> Result<()> {
        let Pair { path, a, b, .. } = self;
        let mut differ = |aspect, one: &dyn ToString, two: &dyn ToString| {
            let (one, two) = (one.to_string(), two.to_string());
            if one != two {
                found.add(path, aspect, one, two);
            }
        };
        differ(Aspect::User, &self.left.names.user(a.uid), &self.right.names.user(b.uid));
        differ(Aspect::Group, &self.left.names.group(a.gid), &self.right.names.group(b.gid));
        if a.kind.name() != b.kind.name() {
            differ(Aspect::Kind, &a.kind.name(), &b.kind.name());
            return Ok(());
        }
        differ(Aspect::Mode, &format!("{:04o}", a.mode), &format!("{:04o}", b.mode));
        differ(Aspect::HardLinks, &self.left.same_file(path), &self.right.same_file(path));
        for name in a.attributes.keys().chain(b.attributes.keys().filter(|n| !a.attributes.contains_key(*n)))
        {
            let value = |of: &Entry| of.attributes.get(name).map_or_else(|| "none".into(), hex::encode);
            differ(Aspect::Attribute(name.clone()), &value(a), &value(b));
        }
        let packaged = |kind: &Kind| matches!(kind, Kind::File { .. } | Kind::Link(_));
        if packaged(&a.kind) && (a.modified < since || b.modified < since) {
            differ(Aspect::Time, &seconds(a.modified), &seconds(b.modified));
        }
        match (&a.kind, &b.kind) {
            (Kind::Link(one), Kind::Link(two)) => differ(Aspect::Target, &one.display(), &two.display()),
            (Kind::Device(one), Kind::Device(two)) => differ(Aspect::Device, &one, &two),
            (Kind::File { size: one }, Kind::File { size: two }) => self.contents(*one, *two, found)?,
            _ => {}
        }
        Ok(())
    }

    fn contents(&self, one: u64, two: u64, found: &mut Collector) -> Result<()> {
        let (left, right) = (self.left.at(self.path), self.right.at(self.path));
        if one == two && same_bytes(&left, &right)? {
            return Ok(());
        }
        let Some(form) = Form::of(self.path) else {
            found.add(self.path, Aspect::Content, format!("{one} bytes"), format!("{two} bytes"));
            return Ok(());
        };
        let read = |path: &Path, tree: &Tree| -> Result<BTreeMap<String, String>> {
            let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            Ok(form.parts(&String::from_utf8_lossy(&bytes), &tree.names))
        };
        let (a, b) = (read(&left, self.left)?, read(&right, self.right)?);
        for part in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
            let value = |of: &BTreeMap<String, String>| of.get(part).cloned().unwrap_or_else(|| "-".into());
            if a.get(part) != b.get(part) {
                found.add(self.path, Aspect::Part(part.clone()), value(&a), value(&b));
            }
        }
        Ok(())
    }
}

fn seconds(time: SystemTime) -> String {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs().to_string(),
        Err(before) => format!("-{}", before.duration().as_secs()),
    }
}

fn same_bytes(one: &Path, two: &Path) -> Result<bool> {
    let open = |path: &Path| std::fs::File::open(path).with_context(|| format!("opening {}", path.display()));
    let (mut one, mut two) = (open(one)?, open(two)?);
    let (mut a, mut b) = (vec![0; 1 << 17], vec![0; 1 << 17]);
    loop {
        let (n, m) = (fill(&mut one, &mut a)?, fill(&mut two, &mut b)?);
        if a[..n] != b[..m] {
            return Ok(false);
        }
        if n < a.len() {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut had = 0;
    while had < buffer.len() {
        match from.read(&mut buffer[had..]).context("reading")? {
            0 => break,
            n => had += n,
        }
    }
    Ok(had)
}
