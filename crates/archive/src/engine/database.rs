//! dpkg's database below `var/lib/dpkg`, as dpkg itself leaves it between unpacking and configuring.
//!
//! Formats: deb-triggers(5), `doc/triggers.txt` and `lib/dpkg/{trigdeferred,infodb-format,db-fsys-divert}.c` of
//! dpkg 1.21 and 1.22. dpkg reads what is written here the next time it runs and writes it anew in its own way.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::package::{CONTROL, Package, Trigger};
use super::unpack::Unpacked;
use crate::root::Root;

const STATUS: &str = "var/lib/dpkg/status";
const INFO: &str = "var/lib/dpkg/info";
const TRIGGERS: &str = "var/lib/dpkg/triggers";
/// Where dpkg has the control part while `preinst` runs; debconf looks for templates beside the script there.
const IN_WORK: &str = "var/lib/dpkg/tmp.ci";

/// Bytes of a line of activated triggers.
const MAX_LINE: usize = 1000;

/// The database of a root.
#[derive(Debug)]
pub(super) struct Database {
    root: Root,
}

/// Path without a leading slash → where it goes instead, and the package that keeps the old place.
pub(super) type Diversions = BTreeMap<PathBuf, (PathBuf, String)>;

/// Path without a leading slash → user, group, mode.
pub(super) type Ownership = BTreeMap<PathBuf, (String, String, u32)>;

impl Database {
    /// Opens the database of `root`, and makes an empty one where there is none.
    pub fn open(root: &Path) -> Result<Self> {
        let mut root = Root::open(root)?;
        for dir in [INFO, TRIGGERS, "var/lib/dpkg/updates", "var/lib/dpkg/alternatives"] {
            root.make_dir(dir, 0o755)?;
        }
        if !root.exists(STATUS) {
            root.write(STATUS, "", 0o644)?;
        }
        if !root.exists("var/lib/dpkg/info/format") {
            // The one with architectures in file names.
            root.write("var/lib/dpkg/info/format", "1\n", 0o644)?;
        }
        Ok(Database { root })
    }

    /// Diversions as scripts have made them so far.
    pub fn diversions(&self) -> Result<Diversions> {
        diversions(&self.text("var/lib/dpkg/diversions")?)
    }

    /// Owners and modes that were chosen instead of the packages' own, so far.
    pub fn ownership(&self) -> Result<Ownership> {
        ownership(&self.text("var/lib/dpkg/statoverride")?)
    }

    fn text(&self, path: &str) -> Result<String> {
        let content = self.root.read(path)?.unwrap_or_default();
        String::from_utf8(content).with_context(|| format!("reading {path}"))
    }

    /// Puts the control part where dpkg has it while a script of it runs before the package is there: debconf finds questions
    /// and the package's name beside the script. Gives the path of the script.
    pub fn begin_work(&mut self, package: &Package, script: &str) -> Result<String> {
        self.end_work(package)?;
        self.root.make_dir(IN_WORK, 0o755)?;
        for member in &package.members {
            // dpkg makes a script that it runs executable.
            let mode = if member.name == script { 0o755 } else { member.mode };
            self.root.write(&format!("{IN_WORK}/{}", member.name), &member.content, mode)?;
        }
        Ok(format!("/{IN_WORK}/{script}"))
    }

    /// Takes it away again.
    pub fn end_work(&mut self, package: &Package) -> Result<()> {
        package.members.iter().try_for_each(|m| self.root.remove(&format!("{IN_WORK}/{}", m.name)))?;
        self.root.remove_dir(IN_WORK)
    }

    /// Files of a package's control part, and the list of what it brought.
    pub fn write_info(&mut self, package: &Package, unpacked: &Unpacked) -> Result<()> {
        let label = package.label();
        for member in package.members.iter().filter(|m| m.name != CONTROL) {
            let path = format!("{INFO}/{label}.{}", member.name);
            let mode = if member.name == "preinst" { member.mode | 0o555 } else { member.mode };
            self.root.write(&path, &member.content, mode)?;
            self.root.set_time(&path, member.time)?;
        }
        let mut list = Vec::new();
        for path in &unpacked.paths {
            list.push(b'/');
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(b'\n');
        }
        self.root.write(&format!("{INFO}/{label}.list"), list, 0o644)?;
        if package.member("md5sums").is_none() {
            self.root.write(&format!("{INFO}/{label}.md5sums"), &unpacked.sums, 0o644)?;
        }
        Ok(())
    }

    /// What dpkg says of a package that it has unpacked itself: the paths it brought, without leading slashes, and its
    /// `triggers`.
    pub fn unpacked(&self, package: &Package) -> Result<(Vec<PathBuf>, String)> {
        let (name, architecture) = (&package.name, &package.architecture);
        let of = |label: &str| self.root.read(&format!("{INFO}/{label}.list"));
        // Of one that could not be read it is not known how dpkg calls it.
        let (label, list) = match of(name)? {
            Some(list) => (name.clone(), list),
            None => {
                let label = format!("{name}:{architecture}");
                let list =
                    of(&label)?.with_context(|| format!("looking for what dpkg has unpacked of {name}"))?;
                (label, list)
            }
        };
        let paths = list.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"/"));
        let paths =
            paths.filter(|path| !matches!(path, [] | [b'.'])).map(|path| OsStr::from_bytes(path).into());
        let triggers = self.root.read(&format!("{INFO}/{label}.triggers"))?.unwrap_or_default();
        Ok((paths.collect(), String::from_utf8_lossy(&triggers).into_owned()))
    }

    /// Adds packages to the list, unpacked and not configured.
    pub fn add(&mut self, packages: &[&Package]) -> Result<()> {
        let text: String = packages.iter().map(|p| p.status()).collect();
        self.root.append(STATUS, text, 0o644)
    }

    /// Registers what the packages want to be told of.
    pub fn add_interests(&mut self, packages: &[&Package]) -> Result<()> {
        let mut by_file = Vec::new();
        let mut by_name: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for package in packages {
            for trigger in &package.triggers {
                let Trigger::Interest { name, wait } = trigger else { continue };
                let who = format!("{}{}\n", package.label(), if *wait { "" } else { "/noawait" });
                if name.starts_with('/') {
                    by_file.extend_from_slice(format!("{name} {who}").as_bytes());
                } else {
                    by_name.entry(name).or_default().extend_from_slice(who.as_bytes());
                }
            }
        }
        for (name, who) in by_name {
            self.root.append(&format!("{TRIGGERS}/{name}"), &who, 0o644)?;
        }
        match by_file.is_empty() {
            true => Ok(()),
            false => self.root.append(&format!("{TRIGGERS}/File"), &by_file, 0o644),
        }
    }

    /// Tells those interested, the next time dpkg runs: trigger → packages that wait for it.
    pub fn activate(&mut self, activated: &BTreeMap<String, BTreeSet<String>>) -> Result<()> {
        if activated.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for (trigger, waiting) in activated {
            // dpkg reads lines of up to 1023 bytes; what does not fit comes as the same trigger once more.
            let mut line = trigger.clone();
            for package in waiting {
                if line.len() + package.len() > MAX_LINE && line.len() > trigger.len() {
                    text += &format!("{line}\n");
                    line.clone_from(trigger);
                }
                line += &format!(" {package}");
            }
            text += &format!("{line}\n");
        }
        self.root.append(&format!("{TRIGGERS}/Unincorp"), text, 0o644)
    }
}

/// Groups of three lines: from, to, by whom (`:` is the administrator).
fn diversions(text: &str) -> Result<Diversions> {
    let lines: Vec<&str> = text.lines().collect();
    let groups = lines.chunks_exact(3);
    if !groups.remainder().is_empty() {
        anyhow::bail!("reading dpkg's diversions: the last one is not whole");
    }
    let path = |line: &str| PathBuf::from(line.trim_start_matches('/'));
    Ok(groups.map(|g| (path(g[0]), (path(g[1]), g[2].to_owned()))).collect())
}

/// `USER GROUP MODE PATH` on each line.
fn ownership(text: &str) -> Result<Ownership> {
    let one = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let (user, group) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        Some((PathBuf::from(words.next()?.trim_start_matches('/')), (user, group, mode)))
    };
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    lines.map(|l| one(l).with_context(|| format!("reading dpkg's override `{l}`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diversions_and_overrides_are_read() {
        let text = "/bin/sh\n/bin/sh.distrib\ndash\n/usr/bin/x y\n/usr/bin/x y.old\n:\n";
        let found = diversions(text).unwrap();
        assert_eq!(found[Path::new("bin/sh")], ("bin/sh.distrib".into(), "dash".into()));
        assert_eq!(found[Path::new("usr/bin/x y")], ("usr/bin/x y.old".into(), ":".into()));
        assert!(diversions("/a\n/b\n").is_err());
        let found = ownership("root messagebus 4754 /usr/lib/dbus helper\n#0 #7 755 /x\n").unwrap();
        assert_eq!(found[Path::new("usr/lib/dbus helper")], ("root".into(), "messagebus".into(), 0o4754));
        assert_eq!(found[Path::new("x")], ("#0".into(), "#7".into(), 0o755));
        assert!(ownership("root root\n").is_err());
    }
}
