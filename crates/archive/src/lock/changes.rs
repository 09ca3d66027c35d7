//! What is different in a new lock.

use std::collections::{BTreeMap, BTreeSet};

use akene_protocol::lock::ProfileLock;

/// The differences of two locks, by package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Packages with their versions that only the new one has.
    pub added: Vec<(String, String)>,
    /// Packages with their versions that only the old one has.
    pub removed: Vec<(String, String)>,
    /// Packages with their old and new versions.
    pub changed: Vec<(String, String, String)>,
    /// Packages of the same version whose files differ: built anew, or not by whom they were.
    pub replaced: Vec<(String, String)>,
    /// Requests only the new one answers, and only the old one.
    pub requests: (usize, usize),
}

impl Changes {
    /// What `new` has that `old` had not, and the other way round.
    pub fn between(old: &ProfileLock, new: &ProfileLock) -> Changes {
        let (before, after) = (by_name(old), by_name(new));
        let mut changes = Changes::default();
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let name_and = |versions: &String| (name.clone(), versions.clone());
            match (before.get(name), after.get(name)) {
                (Some((versions, sums)), Some((newer, new_sums))) => {
                    if versions != newer {
                        changes.changed.push((name.clone(), versions.clone(), newer.clone()));
                    } else if sums != new_sums {
                        changes.replaced.push(name_and(newer));
                    }
                }
                (Some((versions, _)), None) => changes.removed.push(name_and(versions)),
                (None, Some((versions, _))) => changes.added.push(name_and(versions)),
                (None, None) => {}
            }
        }
        let only = |a: &ProfileLock, b: &ProfileLock| {
            a.selections
                .iter()
                .filter(|s| b.selections.iter().all(|other| other.request != s.request))
                .count()
        };
        changes.requests = (only(new, old), only(old, new));
        changes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

/// Versions and sums by name. A pool may have a package in two versions, for two selections.
fn by_name(lock: &ProfileLock) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (BTreeSet<&str>, BTreeSet<String>)> = BTreeMap::new();
    for package in &lock.packages {
        let name = match package.architecture.as_str() {
            "all" => package.name.clone(),
            architecture if architecture == lock.architecture => package.name.clone(),
            architecture => format!("{}:{architecture}", package.name),
        };
        let entry = found.entry(name).or_default();
        entry.0.insert(&package.version);
        entry.1.insert(package.sha256.to_string());
    }
    let words = |versions: BTreeSet<&str>| versions.into_iter().collect::<Vec<_>>().join(", ");
    found.into_iter().map(|(name, (versions, sums))| (name, (words(versions), sums))).collect()
}
