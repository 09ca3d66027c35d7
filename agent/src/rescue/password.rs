//! A new password for a person of a system on the disks, of ours or of another Linux.
//!
//! One field of one line of `/etc/shadow` changes: the file is written beside the old one with the same owner, mode and
//! attributes (a system with SELinux lets nobody in without its label) and put in its place. No program of that system
//! is run. The hash is `$6$` (SHA-512), which every Linux of the last fifteen years reads.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use akene_exec::Cmd;
use akene_protocol::inventory::{Inventory, LooksLike};
use akene_protocol::{Issue, Secret};
use anyhow::{Context, Result, anyhow, bail};

use super::open::{Purpose, open};
use super::people::{self, Account, Encrypted};
use super::volumes::Volume;
use super::{Rescue, apart, current};

/// Where the system is mounted.
const AT: &str = "/run/akene/rescue/system";

/// Times the hash is made: twelve times glibc's own number, and still well below a second on an old computer.
const ROUNDS: usize = 60_000;

/// The letters of a salt.
const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An account found on a system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub account: Account,
    /// Whether a new password opens only the account, not the files.
    pub encrypted: Option<Encrypted>,
}

/// The people of a system.
#[derive(Clone, Debug)]
pub struct People {
    /// Root last.
    pub found: Vec<Found>,
    /// Why nobody knows whether this is the system that starts.
    pub doubt: Option<String>,
}

/// The people of a system.
///
/// # Errors
/// The system cannot be opened, has no accounts of its own (`no-accounts`), or is not the one that starts
/// (`system-not-current`).
pub fn people(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    volumes: &[Volume],
    system: &Volume,
) -> Result<People> {
    apart(|| {
        let opened = open(rescue.runner, machine, system, Path::new(AT), Purpose::Look, "")?;
        let passwd = fs::read(opened.system().join("etc/passwd")).unwrap_or_default();
        let fstab = fs::read_to_string(opened.system().join("etc/fstab")).unwrap_or_default();
        // A boot partition that cannot be read starts nothing: what is to be mended first is not for this to say.
        let doubt = match current::ensure(rescue, machine, volumes, system, &fstab) {
            Ok(()) => None,
            Err(error) if error.downcast_ref::<Issue>().is_some_and(|i| i.code == current::CODE) => {
                return Err(error);
            }
            Err(error) => Some(format!("{error:#}")),
        };
        let mut accounts = people::accounts(&String::from_utf8_lossy(&passwd));
        if accounts.is_empty() {
            bail!(Issue::new(
                "no-accounts",
                &system.name,
                "no people were found in its /etc/passwd",
                "choose another system",
            ));
        }
        accounts.sort_by_key(|a| (a.uid == 0, a.uid));
        let mut found: Vec<Found> =
            accounts.into_iter().map(|account| Found { account, encrypted: None }).collect();
        locked(&mut found, opened.at(), system.looks());
        opened.close()?;
        // Homes may have a filesystem of their own.
        for volume in volumes.iter().filter(|v| v.looks() == Some(&LooksLike::Home)) {
            let at = Path::new(AT).with_file_name("home");
            let opened = open(rescue.runner, machine, volume, &at, Purpose::Look, "")?;
            locked(&mut found, opened.at(), volume.looks());
            opened.close()?;
        }
        Ok(People { found, doubt })
    })
}

/// Notes whose home is encrypted in what is mounted at `top`.
fn locked(found: &mut [Found], top: &Path, looks: Option<&LooksLike>) {
    let dirs = people::home_dirs(top, looks);
    for one in found.iter_mut().filter(|f| f.encrypted.is_none() && f.account.uid != 0) {
        let name = Path::new(&one.account.home).file_name().map(|n| n.to_string_lossy().into_owned());
        let name = name.unwrap_or_else(|| one.account.name.clone());
        one.encrypted = dirs.iter().find_map(|dir| people::encrypted(top, dir, &name));
    }
}

/// Sets the password of one account of a system whose [`people`] are known. Nothing else of the system changes.
///
/// # Errors
/// `password-odd`, `account-not-there`, or it cannot be written.
pub fn set(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    system: &Volume,
    name: &str,
    password: &Secret,
) -> Result<()> {
    if let Some(why) = odd(password) {
        bail!(Issue::new("password-odd", name, why, "choose another password"));
    }
    let hash = hash(password)?;
    apart(|| {
        let opened = open(rescue.runner, machine, system, Path::new(AT), Purpose::Write, "")?;
        let written = replace(rescue, &opened.system(), name, &hash);
        // The error that came first says more.
        let closed = opened.close();
        written.and(closed)
    })
}

/// Why a password cannot be one.
fn odd(password: &Secret) -> Option<&'static str> {
    match password.expose() {
        "" => Some("an empty password opens an account for everybody"),
        text if text.chars().any(char::is_control) => {
            Some("it holds a character that no keyboard types at a login")
        }
        text if text.len() > 255 => Some("it is longer than a login takes"),
        _ => None,
    }
}

/// Whether a password holds characters that lie on other keys on other keyboards: the live system can only guess which one is
/// there, the installed system knows.
pub fn depends_on_keyboard(password: &Secret) -> bool {
    // The keys that QWERTY, QWERTZ and AZERTY have in common.
    password.expose().chars().any(|c| !"bcdefghijklnoprstuvx".contains(c.to_ascii_lowercase()))
}

/// The hash of a password with a new salt, as `/etc/shadow` has it.
fn hash(password: &Secret) -> Result<Secret> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|e| anyhow!("making a salt: {e}"))?;
    hash_with(password, &salt.map(|b| LETTERS[usize::from(b & 63)]))
}

fn hash_with(password: &Secret, salt: &[u8; 16]) -> Result<Secret> {
    let params = sha_crypt::Sha512Params::new(ROUNDS).map_err(|e| anyhow!("hashing: {e:?}"))?;
    let hash = sha_crypt::sha512_crypt_b64(password.expose().as_bytes(), salt, &params);
    let hash = hash.map_err(|e| anyhow!("hashing: {e:?}"))?;
    Ok(Secret::new(format!("$6$rounds={ROUNDS}${}${hash}", String::from_utf8_lossy(salt))))
}

/// The text of a shadow file with another hash for one account. `None`: it has no such account.
fn with_hash(shadow: &[u8], name: &str, hash: &str) -> Option<Vec<u8>> {
    let mut found = false;
    let mut text = Vec::with_capacity(shadow.len() + hash.len());
    for line in shadow.split_inclusive(|b| *b == b'\n') {
        let mut fields = line.splitn(3, |b| *b == b':');
        match (fields.next(), fields.next(), fields.next()) {
            (Some(account), Some(_), Some(rest)) if account == name.as_bytes() && !found => {
                found = true;
                text.extend_from_slice(account);
                text.push(b':');
                text.extend_from_slice(hash.as_bytes());
                text.push(b':');
                text.extend_from_slice(rest);
            }
            _ => text.extend_from_slice(line),
        }
    }
    found.then_some(text)
}

/// Puts the hash into the system's shadow file.
fn replace(rescue: &Rescue<'_>, root: &Path, name: &str, hash: &Secret) -> Result<()> {
    let not_there =
        |why: &str| Issue::new("account-not-there", name, why, "choose another account, or another system");
    let shadow = root.join("etc/shadow");
    // Links could lead out of that system, into the running one.
    for path in [root.join("etc"), shadow.clone()] {
        let plain = path.symlink_metadata().is_ok_and(|m| !m.is_symlink());
        if !plain {
            bail!(not_there("the system keeps its passwords somewhere else than in /etc/shadow"));
        }
    }
    let old = fs::read(&shadow).context("reading the system's /etc/shadow")?;
    let Some(new) = with_hash(&old, name, hash.expose()) else {
        bail!(not_there("the system's /etc/shadow has no line for it: its password is somewhere else"));
    };
    let beside = root.join("etc/.shadow.akene");
    let written = write_beside(rescue, &shadow, &beside, &new);
    if written.is_err() {
        // Nothing of the attempt stays. Where it cannot be removed, the error that is told says why.
        fs::remove_file(&beside).ok();
    }
    written
}

fn write_beside(rescue: &Rescue<'_>, shadow: &Path, beside: &PathBuf, text: &[u8]) -> Result<()> {
    let copy = Cmd::new("cp").args(["--archive", "--no-target-directory"]).arg(shadow).arg(beside);
    rescue.runner.run(&copy).context("copying /etc/shadow with all its attributes")?;
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).truncate(true).open(beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(beside, shadow)?;
        File::open(shadow.parent().unwrap_or(shadow))?.sync_all()
    };
    write().context("writing the system's /etc/shadow")
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::{Runner, SystemRunner};

    #[test]
    fn one_field_of_one_line_changes() {
        let shadow = b"root:*:19000:0:99999:7:::\nana:$y$old:19000:0:99999:7:::\nana-maria:!:1::::::\nbroken\nana:x:2:";
        let text = with_hash(shadow, "ana", "$6$new").unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "root:*:19000:0:99999:7:::\nana:$6$new:19000:0:99999:7:::\nana-maria:!:1::::::\nbroken\nana:x:2:"
        );
        assert_eq!(with_hash(shadow, "ben", "h"), None);
        assert_eq!(with_hash(shadow, "broken", "h"), None);
        assert_eq!(with_hash(b"", "", "h"), None);
    }

    proptest::proptest! {
        #[test]
        fn all_other_bytes_stay(shadow in "([a-c]{0,2}:[a-z!*]{0,3}:[0-9:]{0,5}\n){0,6}", name in "[a-c]{1,2}") {
            let changed = with_hash(shadow.as_bytes(), &name, "HASH");
            let named = |line: &&str| line.split(':').next() == Some(name.as_str());
            proptest::prop_assert_eq!(changed.is_some(), shadow.lines().any(|l| named(&l)));
            if let Some(changed) = changed {
                let changed = String::from_utf8(changed).unwrap();
                let differing: Vec<_> =
                    shadow.lines().zip(changed.lines()).filter(|(a, b)| a != b).collect();
                proptest::prop_assert_eq!(differing.len(), 1);
                let start = format!("{name}:HASH:");
                proptest::prop_assert!(differing[0].1.starts_with(&start));
            }
        }
    }

    /// The C library's own crypt, by way of Perl.
    #[test]
    fn the_c_library_reads_the_hash() {
        let (password, salt) = (Secret::new("un été à l'école"), *b"abcdefghijklmn./");
        let ours = hash_with(&password, &salt).unwrap();
        let perl = Cmd::new("perl")
            .args(["-e", "print crypt($ARGV[0], $ARGV[1])", password.expose()])
            .arg(format!("$6$rounds={ROUNDS}$abcdefghijklmn./"));
        match SystemRunner.run(&perl) {
            Ok(theirs) => assert_eq!(theirs.text(), ours.expose()),
            Err(error) if format!("{error:#}").contains("No such file") => eprintln!("SKIPPED: no perl here"),
            Err(error) => panic!("{error:#}"),
        }
        assert_ne!(hash(&password).unwrap(), hash(&password).unwrap(), "each has a salt of its own");
    }

    #[test]
    fn what_lies_on_other_keys_elsewhere_is_known() {
        for (password, depends) in
            [("Bonjour", false), ("azerty", true), ("soleil1", true), ("\u{e9}t\u{e9}", true)]
        {
            assert_eq!(depends_on_keyboard(&Secret::new(password)), depends, "{password}");
        }
    }

    #[test]
    fn a_password_that_cannot_be_typed_is_refused() {
        for bad in ["", "a\nb", "a\tb", &"x".repeat(256)] {
            assert!(odd(&Secret::new(bad)).is_some());
        }
        assert_eq!(odd(&Secret::new("été 2024:")), None);
    }
}
