//! People in what is mounted: accounts of a system, home directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use akene_protocol::inventory::LooksLike;

use crate::probe::look::STAGED;

/// Numbers of people's accounts. Above them are `nobody` and what systemd makes up.
const PEOPLE: std::ops::Range<u32> = 1000..60000;

/// An account that a password can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name to log in with.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Real name; may be empty.
    pub realname: String,
    /// Home directory.
    pub home: String,
}

/// The accounts in an `/etc/passwd` that are people's, and root's.
pub fn accounts(passwd: &str) -> Vec<Account> {
    let read = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty() && !n.starts_with(['#', '+', '-']))?;
        let (_, uid, _) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
        let realname = fields.next()?.split(',').next().unwrap_or_default();
        let home = fields.next()?;
        (uid == 0 || PEOPLE.contains(&uid)).then(|| Account {
            name: name.into(),
            uid,
            realname: realname.into(),
            home: home.into(),
        })
    };
    passwd.lines().filter_map(read).collect()
}

/// Why a person's files stay locked although the password is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encrypted {
    /// eCryptfs, as Ubuntu offered it until 18.04: its key is wrapped with the old password.
    Ecryptfs,
    /// A home of systemd-homed, whose password is not in `/etc/shadow` at all.
    Homed,
    /// fscrypt: some directories of this filesystem are encrypted.
    Fscrypt,
}

/// Whether a person's home is encrypted, as far as the directory shows that holds the homes. `top` is the top of its
/// filesystem.
pub fn encrypted(top: &Path, homes: &Path, name: &str) -> Option<Encrypted> {
    let there = |path: PathBuf| path.symlink_metadata().is_ok();
    if there(homes.join(name).join(".ecryptfs")) || there(homes.join(".ecryptfs").join(name)) {
        Some(Encrypted::Ecryptfs)
    } else if there(homes.join(format!("{name}.homedir"))) || there(homes.join(format!("{name}.home"))) {
        Some(Encrypted::Homed)
    } else if top.join(".fscrypt/policies").read_dir().is_ok_and(|mut d| d.next().is_some()) {
        Some(Encrypted::Fscrypt)
    } else {
        None
    }
}

/// Directories of homes in a filesystem that looks like this, without links.
pub fn home_dirs(top: &Path, looks: Option<&LooksLike>) -> Vec<PathBuf> {
    let names: &[&str] = match looks {
        Some(LooksLike::LinuxRoot { .. }) => &["home", "@/home", "@home"],
        Some(LooksLike::Home) => &["", "@home"],
        Some(LooksLike::Windows) => &["Users", "Documents and Settings"],
        _ => &[],
    };
    names
        .iter()
        .map(|n| if n.is_empty() { top.to_owned() } else { top.join(n) })
        .filter(|d| is_dir(d))
        .collect()
}

/// The homes with anything in them: path and name, sorted.
pub fn homes(top: &Path, looks: Option<&LooksLike>) -> Vec<(PathBuf, String)> {
    // `@home` at the top of a filesystem of homes is a home of nobody.
    const OTHERS: [&str; 9] = [
        "lost+found",
        STAGED,
        "@home",
        "All Users",
        "Default",
        "Default User",
        "System Volume Information",
        "$RECYCLE.BIN",
        ".snapshots",
    ];
    let mut found = Vec::new();
    for dir in home_dirs(top, looks) {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = entry.path();
            let filled = is_dir(&path) && fs::read_dir(&path).is_ok_and(|mut d| d.next().is_some());
            if filled && !OTHERS.contains(&name.as_str()) {
                found.push((path, name));
            }
        }
    }
    found.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    found
}

fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_dir())
}

/// How much lies below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Files, directories and all else.
    pub entries: u64,
    /// Bytes of files, each counted once, rounded up to what a filesystem gives it.
    pub bytes: u64,
    /// Directories that could not be read.
    pub unreadable: u64,
}

/// Counts what lies below a directory. Links are not followed.
pub fn amount(dir: &Path) -> Amount {
    let mut amount = Amount::default();
    let mut seen = std::collections::HashSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            amount.unreadable += 1;
            continue;
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else {
                amount.unreadable += 1;
                continue;
            };
            amount.entries += 1;
            if meta.is_dir() {
                amount.bytes += 4096;
                open.push(entry.path());
            } else if meta.nlink() < 2 || seen.insert(meta.ino()) {
                amount.bytes += if meta.is_file() { meta.len().next_multiple_of(4096) } else { 256 };
            }
        }
    }
    amount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_those_with_numbers_of_people() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
                      ana:x:1000:1000:Ana Silva,,,:/home/ana:/bin/bash\nnobody:x:65534:65534::/nonexistent:/bin/false\n\
                      +::::::\nbroken\nben:x:one:1:b:/home/ben:\n\n";
        let names: Vec<_> = accounts(passwd).into_iter().map(|a| (a.name, a.realname)).collect();
        assert_eq!(names, [("root".into(), "root".into()), ("ana".into(), "Ana Silva".to_owned())]);
        assert!(accounts("").is_empty());
    }

    #[test]
    fn homes_are_found_in_a_root_in_a_subvolume_and_in_a_filesystem_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        put("home/ana/letter");
        put("@home/ben/letter");
        put("home/.akene-packages/x.deb");
        fs::create_dir_all(dir.path().join("home/empty")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("home/everything")).unwrap();
        let names = |looks: &LooksLike| -> Vec<String> {
            homes(dir.path(), Some(looks)).into_iter().map(|(_, name)| name).collect()
        };
        let root = LooksLike::LinuxRoot { name: None, home_inside: true, home_used: None };
        assert_eq!(names(&root), ["ana", "ben"]);
        assert_eq!(names(&LooksLike::Home), ["ben", "home"]);
        assert_eq!(homes(dir.path(), None), []);
    }

    #[test]
    fn what_is_encrypted_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(home.join("ana")).unwrap();
        assert_eq!(encrypted(dir.path(), &home, "ana"), None);
        fs::create_dir_all(home.join(".ecryptfs/ana")).unwrap();
        assert_eq!(encrypted(dir.path(), &home, "ana"), Some(Encrypted::Ecryptfs));
        fs::create_dir_all(home.join("ben.homedir")).unwrap();
        assert_eq!(encrypted(dir.path(), &home, "ben"), Some(Encrypted::Homed));
    }
}
