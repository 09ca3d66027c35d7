//! What goes onto a medium: profiles, their signed locks, and the packages these name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use akene_archive::lock::variants;
use akene_protocol::issue::Issues;
use akene_protocol::lock::{LockedPackage, PinnedPackage, ProfileLock, Release};
use akene_protocol::medium::{MediumFile, MediumProfile};
use akene_protocol::profile::Keyboard;
use akene_protocol::resolve::Archive;
use akene_protocol::{Bundle, Bytes, Envelope, Issue, PublicKey, Sha256};
use akene_server::lock::{self, Order};
use akene_server::pool::Pool;
use akene_server::site::{Site, SiteConfig};
use anyhow::{Context, Result};

use super::Workshop;

/// A profile as it lies on the medium.
pub struct Carried {
    /// Name.
    pub name: String,
    /// Revision of its bundle.
    pub revision: String,
    /// The signed bundle.
    pub bundle: Vec<u8>,
    /// The signed lock.
    pub lock: Vec<u8>,
    /// The keyboard its machines get, where it names one.
    pub keyboard: Option<Keyboard>,
    /// Bytes of all packages of the lock.
    pub size: Bytes,
}

impl Carried {
    /// How the manifest names it.
    pub fn entry(&self) -> MediumProfile {
        MediumProfile { name: self.name.clone(), revision: self.revision.clone(), size: self.size }
    }

    /// Its two files, by their path below `akene/`.
    pub fn files(&self) -> [(String, &[u8]); 2] {
        [
            (format!("profiles/{}.json", self.name), self.bundle.as_slice()),
            (format!("profiles/{}.lock.json", self.name), self.lock.as_slice()),
        ]
    }
}

/// Everything of a site that goes onto a medium.
pub struct Content {
    /// The profiles, the one offered first at the beginning.
    pub profiles: Vec<Carried>,
    /// Each package once, named by its sum.
    packages: Vec<LockedPackage>,
    /// Those that no archive has, and where they lie.
    pub own: BTreeMap<Sha256, PathBuf>,
}

impl Content {
    /// Reads profiles and locks. A lock is made where there is none, where it is not this site's, and where the profile
    /// has changed in what its machines ask for.
    ///
    /// # Errors
    /// Issues of profiles and locks; `package-missing` for packages of the site's own that are nowhere.
    pub fn gather(shop: &Workshop<'_>, config: &SiteConfig, names: &[String]) -> Result<Content> {
        let key = shop.site.key()?;
        let public = PublicKey(key.verifying_key());
        let mut read = Vec::new();
        let mut outdated = Vec::new();
        for name in names {
            let bundle = shop.site.bundle(config, name)?;
            if !has_lock(shop.site, &bundle, &public)? {
                outdated.push(name.clone());
            }
            read.push(bundle);
        }
        if !outdated.is_empty() {
            (shop.say)(&format!("choosing the packages of {}", outdated.join(", ")));
            let order = Order { profiles: outdated, check: false, proxy: shop.proxy.clone() };
            lock::lock(shop.site, shop.runner, &order, &mut lock::on_stderr(), &mut |locked| {
                (shop.say)(&lock::describe(locked, false));
                Ok(())
            })?;
        }
        let mut profiles = Vec::new();
        let mut packages: BTreeMap<Sha256, LockedPackage> = BTreeMap::new();
        for bundle in read {
            let reading = || format!("reading the lock of {}", bundle.name);
            let text = shop.site.signed_lock(&bundle.name)?.with_context(reading)?;
            let lock: ProfileLock = Envelope::parse(&text)?.open(&public).with_context(reading)?;
            lock.check()?;
            let archives = archives(&bundle);
            for package in &lock.packages {
                packages
                    .entry(package.sha256)
                    .or_insert_with(|| named_by_sum(package, &lock.releases, &archives));
            }
            profiles.push(Carried {
                bundle: super::signed(&Envelope::sign(&bundle, &key))?,
                lock: text,
                size: lock.packages.iter().map(|p| p.size).sum(),
                keyboard: bundle.keyboard().cloned(),
                name: bundle.name,
                revision: bundle.revision,
            });
        }
        let packages: Vec<_> = packages.into_values().collect();
        let own = own_packages(shop.site, &packages)?;
        Ok(Content { profiles, packages, own })
    }

    /// The keyboard that all profiles name.
    pub fn keyboard(&self) -> Option<Keyboard> {
        let mut named = self.profiles.iter().map(|profile| profile.keyboard.as_ref());
        let first = named.next().flatten()?;
        named.all(|other| other == Some(first)).then(|| first.clone())
    }

    /// Each package once, the file named by its sum.
    pub fn packages(&self) -> &[LockedPackage] {
        &self.packages
    }

    /// Their bytes.
    pub fn size(&self) -> Bytes {
        self.packages.iter().map(|p| p.size).sum()
    }

    /// Profiles and locks as the manifest names them.
    pub fn files(&self) -> impl Iterator<Item = MediumFile> + '_ {
        self.profiles.iter().flat_map(Carried::files).map(|(path, bytes)| MediumFile {
            path,
            size: Bytes(bytes.len() as u64),
            sha256: Sha256::of(bytes),
        })
    }
}

/// Whether a profile's lock is this site's, and made from this revision or with an answer for all its machines.
fn has_lock(site: &Site, bundle: &Bundle, key: &PublicKey) -> Result<bool> {
    let Some(text) = site.signed_lock(&bundle.name)? else { return Ok(false) };
    let opened = Envelope::parse(&text).and_then(|envelope| envelope.open::<ProfileLock>(key));
    let Ok(lock) = opened else { return Ok(false) };
    if lock.check().is_err() || lock.site != bundle.site || lock.selections.is_empty() {
        return Ok(false);
    }
    let answers = || {
        let foreseen = variants(bundle, &[]).list;
        foreseen.iter().all(|v| lock.select(&bundle.name, &v.archive, &v.request).is_ok())
    };
    Ok(lock.revision == bundle.revision || answers())
}

/// The archives of a profile's machines, mirrors included, each once.
fn archives(bundle: &Bundle) -> Vec<Archive> {
    let mut found: Vec<Archive> = Vec::new();
    for variant in variants(bundle, &[]).list {
        if !found.contains(&variant.archive) {
            found.push(variant.archive);
        }
    }
    found
}

/// A package with every address it can have, the file named by its sum: names of two archives may be the same.
fn named_by_sum(package: &PinnedPackage, releases: &[Release], archives: &[Archive]) -> LockedPackage {
    let release = package.release.and_then(|at| releases.get(at));
    let mut seen = BTreeSet::new();
    let addresses = release.into_iter().flat_map(|release| {
        let mirrors = archives.iter().flat_map(|archive| archive.addresses(&release.repository));
        mirrors.chain([release.uri.as_str()])
    });
    let urls = addresses
        .map(|address| format!("{}/{}", address.trim_end_matches('/'), package.path))
        .filter(|url| seen.insert(url.clone()))
        .collect();
    LockedPackage {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        size: package.size,
        sha256: package.sha256,
        urls,
        file: package.sha256.to_string(),
        base: false,
        release: package.release,
    }
}

/// Where the packages lie that come from no archive: beside a class, or in the site's pool.
fn own_packages(site: &Site, packages: &[LockedPackage]) -> Result<BTreeMap<Sha256, PathBuf>> {
    let pool = Pool::of(site);
    let mut found = BTreeMap::new();
    let mut issues = Vec::new();
    for package in packages.iter().filter(|p| p.release.is_none()) {
        match pool.find(&package.sha256)? {
            Some(path) => {
                found.insert(package.sha256, path);
            }
            None => issues.push(Issue::new(
                "package-missing",
                &package.name,
                format!(
                    "{} {} comes from no archive, and no file of the site has its sum {}",
                    package.name, package.version, package.sha256
                ),
                "put the .deb back beside its class, or into the pool with `akene-server pool add`; or make the lock anew",
            )),
        }
    }
    if issues.is_empty() { Ok(found) } else { Err(Issues(issues).into()) }
}
