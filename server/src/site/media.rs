//! Media that install with no network: `media/ID.toml`, one for each that was made, in git.
//!
//! Nothing in them is secret. The server believes a report because the key of a medium in this list signed it, as
//! long as the medium counts: until it expires or is declared lost, and for as many machines as it was made for.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use akene_protocol::medium::MediumId;
use akene_protocol::seal::SealSecret;
use akene_protocol::{Issue, PublicKey, profile};
use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Site, keys};

/// How many machines may join by one medium, unless somebody says otherwise when making it.
pub const MACHINES: u32 = 100;

/// For how many days a medium counts, unless somebody says otherwise when making it.
pub const DAYS: u32 = 400;

/// A medium this site made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Registered {
    /// Which one. The name of the file.
    pub id: MediumId,
    /// What people call it: "Marie's stick".
    #[serde(default)]
    pub label: String,
    /// The public half of its signing key.
    pub key: PublicKey,
    /// When it was made.
    pub made: Timestamp,
    /// It counts until then.
    pub expires: Timestamp,
    /// How many machines may join by it.
    pub machines: u32,
    /// Whether it was declared lost.
    #[serde(default)]
    pub lost: bool,
}

/// Why a medium does not count (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody declared it lost.
    Lost,
    /// Its days are over.
    Expired,
}

impl Registered {
    /// A medium that counts from `made` for this many days.
    ///
    /// # Errors
    /// More days than a calendar has.
    pub fn new(
        id: MediumId,
        label: &str,
        key: PublicKey,
        made: Timestamp,
        machines: u32,
        days: u32,
    ) -> Result<Registered> {
        let expires = made
            .checked_add(SignedDuration::from_hours(i64::from(days) * 24))
            .with_context(|| format!("counting {days} days from {made}"))?;
        Ok(Registered { id, label: label.to_owned(), key, made, expires, machines, lost: false })
    }

    /// Whether it counts now; for how many machines is for the caller to count.
    pub fn counts(&self, now: Timestamp) -> Result<(), Refused> {
        match (self.lost, now < self.expires) {
            (true, _) => Err(Refused::Lost),
            (false, false) => Err(Refused::Expired),
            (false, true) => Ok(()),
        }
    }
}

/// Makes a medium known, or changes what is known of it. The file is whole at every moment.
///
/// # Errors
/// It cannot be written.
pub fn register(site: &Site, medium: &Registered) -> Result<()> {
    let path = path(site, medium.id);
    let doing = || format!("writing {}", path.display());
    let text = toml::to_string(medium).with_context(doing)?;
    keys::make_dir(&site.dir().join("media"), 0o755)?;
    keys::write(&path, text.as_bytes(), 0o644)
}

/// All media of the site, the oldest first.
///
/// # Errors
/// The directory or one of its files cannot be read.
pub fn list(site: &Site) -> Result<Vec<Registered>> {
    let dir = site.dir().join("media");
    let reading = || format!("reading {}", dir.display());
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.with_context(reading)?,
    };
    let mut media = Vec::new();
    for entry in entries {
        let name = entry.with_context(reading)?.file_name();
        let id = name.to_str().and_then(|n| n.strip_suffix(".toml")).and_then(|n| n.parse().ok());
        if let Some(id) = id {
            media.extend(find(site, id)?);
        }
    }
    media.sort_by_key(|medium| (medium.made, medium.id));
    Ok(media)
}

/// The medium with this id, if the site made it.
///
/// # Errors
/// It is there and cannot be read.
pub fn find(site: &Site, id: MediumId) -> Result<Option<Registered>> {
    let path = path(site, id);
    let shown = path.display().to_string();
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {shown}"))?,
    };
    let medium: Registered = profile::parse_toml(&text, &shown)?;
    ensure!(
        medium.id == id,
        "reading {shown}: it is about the medium {}; give the file its name back",
        medium.id
    );
    Ok(Some(medium))
}

/// Declares a medium lost, or found again.
///
/// # Errors
/// `medium-unknown`; or its file cannot be read or written.
pub fn set_lost(site: &Site, id: MediumId, lost: bool) -> Result<Registered> {
    let mut medium = find(site, id)?.ok_or_else(|| {
        let known: Vec<String> = list(site).unwrap_or_default().iter().map(|m| m.id.to_string()).collect();
        let next = profile::nearest(&id.to_string(), known.iter().map(String::as_str))
            .map(|near| format!("did you mean {near}?"))
            .unwrap_or_else(|| {
                "the directory media/ of the site holds one file for each that was made".into()
            });
        Issue::new("medium-unknown", id.to_string(), "this site made no such medium", next)
    })?;
    medium.lost = lost;
    register(site, &medium)?;
    Ok(medium)
}

fn path(site: &Site, id: MediumId) -> PathBuf {
    site.dir().join("media").join(format!("{id}.toml"))
}

impl Site {
    /// The key that opens reports sealed for this site. Sites made by an earlier `init` get theirs when it is first
    /// asked for; who comes second at that moment finds the one of who came first.
    ///
    /// # Errors
    /// It can be neither read nor made.
    pub fn seal_secret(&self) -> Result<SealSecret> {
        let path = self.secret("seal.key");
        if !path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
            keys::write_private_once(&path, keys::new_seal_key()?.expose().as_bytes())?;
        }
        SealSecret::from_text(&keys::read_secret(&path)?)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("reading {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::init::{Options, init};
    use super::*;

    fn site() -> (tempfile::TempDir, Site) {
        let dir = tempfile::tempdir().unwrap();
        let site = init(&dir.path().join("site"), &Options::new("https://127.0.0.1:8443")).unwrap();
        (dir, site)
    }

    fn medium(site: &Site, id: u8, made: i64) -> Registered {
        let made = Timestamp::from_second(made).unwrap();
        let key = PublicKey(site.key().unwrap().verifying_key());
        Registered::new(MediumId([id; 8]), "Marie's \"stick\"", key, made, 3, 2).unwrap()
    }

    #[test]
    fn media_are_kept_found_and_listed_by_age() {
        let (_dir, site) = site();
        assert_eq!(list(&site).unwrap(), vec![]);
        let (old, new) = (medium(&site, 9, 1_000), medium(&site, 1, 2_000));
        register(&site, &new).unwrap();
        register(&site, &old).unwrap();
        fs::write(site.dir().join("media/README"), "not a medium").unwrap();
        assert_eq!(list(&site).unwrap(), [old.clone(), new.clone()]);
        assert_eq!(find(&site, old.id).unwrap(), Some(old.clone()));
        assert_eq!(find(&site, MediumId([7; 8])).unwrap(), None);
        fs::copy(path(&site, old.id), path(&site, MediumId([7; 8]))).unwrap();
        assert!(format!("{:#}", list(&site).unwrap_err()).contains("0707070707070707.toml"));
    }

    #[test]
    fn a_medium_counts_until_it_expires_or_is_lost() {
        let (_dir, site) = site();
        let stick = medium(&site, 1, 0);
        register(&site, &stick).unwrap();
        let at = |hours: i64| Timestamp::from_second(hours * 3600).unwrap();
        assert_eq!(stick.counts(at(47)), Ok(()));
        assert_eq!(stick.counts(at(48)), Err(Refused::Expired));
        assert_eq!(set_lost(&site, stick.id, true).unwrap().counts(at(1)), Err(Refused::Lost));
        assert_eq!(find(&site, stick.id).unwrap().unwrap().counts(at(1)), Err(Refused::Lost));
        assert_eq!(set_lost(&site, stick.id, false).unwrap(), stick);
        let error = set_lost(&site, MediumId([2; 8]), true).unwrap_err().to_string();
        assert!(error.contains("medium-unknown"), "{error}");
    }

    #[test]
    fn what_root_makes_in_a_site_belongs_to_whom_the_site_belongs() {
        use std::os::unix::fs::{MetadataExt as _, chown};
        let (_dir, site) = site();
        if fs::metadata(site.dir()).unwrap().uid() != 0 {
            eprintln!("SKIPPED: needs to be root");
            return;
        }
        fs::remove_file(site.secret("seal.key")).unwrap();
        fs::remove_dir_all(site.dir().join("locks")).ok();
        for dir in [site.dir().to_owned(), site.dir().join("secrets"), site.dir().join("state")] {
            chown(dir, Some(4711), Some(4712)).unwrap();
        }
        let stick = medium(&site, 1, 0);
        register(&site, &stick).unwrap();
        set_lost(&site, stick.id, true).unwrap();
        site.seal_secret().unwrap();
        let kept = site.keep_lock(b"a lock").unwrap();
        for path in [
            "media".into(),
            format!("media/{}.toml", stick.id),
            "secrets/seal.key".into(),
            "state/locks".into(),
            format!("state/locks/{kept}.json"),
        ] {
            let found = fs::metadata(site.dir().join(&path)).unwrap();
            assert_eq!((found.uid(), found.gid()), (4711, 4712), "{path}");
        }
        assert_eq!(fs::metadata(path(&site, stick.id)).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_site_of_an_earlier_version_gets_its_seal_key_once() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, site) = site();
        let path = site.secret("seal.key");
        let first = site.seal_secret().unwrap().public();
        fs::remove_file(&path).unwrap();
        let all: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> =
                (0..8).map(|_| scope.spawn(|| site.seal_secret().unwrap().public())).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|key| *key == all[0] && *key != first));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(site.dir().join("secrets")).unwrap().count(), 8, "nothing half-made is left");
    }
}
