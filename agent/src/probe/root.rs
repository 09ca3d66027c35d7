//! Where facts are read from.

use std::path::{Path, PathBuf};

/// The directories in which the kernel and udev publish facts. A test points them at a recorded tree.
#[derive(Clone, Debug)]
pub struct ProbeRoot {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/run/udev`.
    pub run_udev: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
    /// Devices that are listed although their kind is not: the loop device of a disk image.
    pub also: Vec<PathBuf>,
    /// Whether filesystems are mounted, read-only, to see what lies on them.
    pub look_inside: bool,
}

impl Default for ProbeRoot {
    /// The running machine.
    fn default() -> Self {
        ProbeRoot {
            sys: "/sys".into(),
            proc: "/proc".into(),
            run_udev: "/run/udev".into(),
            dev: "/dev".into(),
            also: Vec::new(),
            look_inside: true,
        }
    }
}

impl ProbeRoot {
    /// A recorded tree with `sys`, `proc`, `run/udev` and `dev` in it. Nothing is mounted.
    pub fn recorded(tree: &Path) -> Self {
        ProbeRoot {
            sys: tree.join("sys"),
            proc: tree.join("proc"),
            run_udev: tree.join("run/udev"),
            dev: tree.join("dev"),
            also: Vec::new(),
            look_inside: false,
        }
    }
}

/// The text of a small file, without white space around it. `None` where there is no such file, it cannot
/// be read (sysfs answers EIO or EINVAL for what a device does not know), or it is empty.
pub(super) fn text(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A number in a small file.
pub(super) fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

/// The names in a directory, sorted with numbers in their natural order (`eth2` before `eth10`). Empty
/// where there is no such directory.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort_by_key(|name| natural(name));
    names
}

/// Folds runs of white space.
pub(super) fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        parts.push((word.to_owned(), tail[..end].parse().unwrap_or(0)));
        rest = &tail[end..];
    }
    parts
}
