//! Packages of the site itself, from beside its classes: a private repository of them.
//!
//! A profile says name, size and SHA-256 of each, and is signed by the site key; that is what makes them trusted.
//! They come by hash from wherever they are, are looked at here, and then stand beside the archives while apt chooses,
//! so that what they depend on comes from there. The installed system knows nothing of this repository.

use std::fs;
use std::path::PathBuf;

use akene_protocol::Issue;
use akene_protocol::Sha256;
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;
use akene_protocol::profile::LocalPackage;
use anyhow::{Context, Result};

use crate::apt::{AptRoot, write};
use crate::deb::{Deb, to_its_end};

/// A name no repository of a profile can have.
const SOURCE: &str = "akene.local.sources";

/// A name no preference of a profile can have.
const PREFERENCE: &str = "akene-local";

impl AptRoot {
    /// Where the files of [`Archive::local`](akene_protocol::resolve::Archive::local) are to be put, each named by its
    /// SHA-256, before [`Self::use_local`].
    pub fn local_dir(&self) -> PathBuf {
        self.dir().join("local")
    }

    /// What has to be fetched into [`Self::local_dir`].
    pub fn local_files(&self) -> Vec<LockedPackage> {
        let file = |package: &LocalPackage| LockedPackage {
            name: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
            size: package.size,
            sha256: package.sha256,
            urls: Vec::new(),
            file: package.sha256.to_string(),
            base: false,
            release: None,
        };
        self.archive().local.iter().map(file).collect()
    }

    /// Makes the site's own packages known to apt. They are preferred to packages of the same name elsewhere, whatever
    /// the version. Counts from the next [`Self::update`] on.
    ///
    /// # Errors
    /// [`Issues`]: `local-package-changed` for each file that is not what the signed profile says.
    pub fn use_local(&self) -> Result<()> {
        if self.archive().local.is_empty() {
            return Ok(());
        }
        let (mut index, mut names, mut issues) = (String::new(), Vec::new(), Vec::new());
        for package in &self.archive().local {
            match self.stanza(package)? {
                Ok(stanza) => index += &stanza,
                Err(issue) => issues.push(issue),
            }
            names.push(package.name.as_str());
        }
        if !issues.is_empty() {
            return Err(Issues(issues).into());
        }
        let dir = self.local_dir();
        write(&dir.join("Packages"), &index)?;
        let source = format!("Types: deb\nURIs: file:{}\nSuites: ./\nTrusted: yes\n", dir.display());
        write(&self.dir().join("etc/sources.d").join(SOURCE), &source)?;
        let names = names.join(" ");
        let pin = format!("Package: {names}\nPin: origin \"\"\nPin-Priority: 995\n");
        write(&self.dir().join("etc/prefs").join(PREFERENCE), &pin)
    }

    /// What the index says of one, if the file is the right one.
    fn stanza(&self, package: &LocalPackage) -> Result<Result<String, Issue>> {
        let name = package.sha256.to_string();
        let path = self.local_dir().join(&name);
        let bytes = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let (sum, size) = Sha256::of_reader(bytes).with_context(|| format!("reading {}", path.display()))?;
        let changed = |what: String| {
            let next = "make the profile anew on the server, from the package that is meant";
            Ok(Err(Issue::new("local-package-changed", package.name.clone(), what, next)))
        };
        if sum != package.sha256 || size != package.size.0 {
            return changed(format!(
                "the package `{}` beside the class is not the one the profile was signed with",
                package.name
            ));
        }
        let control = Deb::new(&path).control()?;
        let says = |key: &str, value: &str| control.get(key).is_some_and(|v| v == value);
        if !says("Package", &package.name)
            || !says("Version", &package.version)
            || !says("Architecture", &package.architecture)
        {
            return changed(format!(
                "the file of `{}` is another package than the profile says",
                package.name
            ));
        }
        let mut stanza = String::new();
        // A field the index has itself must not be there twice.
        for (key, value) in
            control.iter().filter(|(key, _)| !matches!(key.as_str(), "Filename" | "Size" | "SHA256"))
        {
            stanza += &format!("{key}: {}\n", value.replace('\n', "\n "));
        }
        stanza += &format!("Filename: ./{name}\nSize: {size}\nSHA256: {name}\n\n");
        Ok(Ok(stanza))
    }
}

impl Deb {
    /// Reads all of the package and throws it away: what is damaged is found before anybody relies on it.
    ///
    /// # Errors
    /// It cannot be read to its end.
    pub fn check(&self) -> Result<()> {
        let read = || -> Result<()> {
            let mut tar = tar::Archive::new(self.member("data.tar")?);
            for entry in tar.entries().context("reading its files")? {
                let mut entry = entry.context("reading its files")?;
                std::io::copy(&mut entry, &mut std::io::sink()).context("reading its files")?;
            }
            to_its_end(tar)
        };
        read().with_context(|| format!("checking the package {}", self.path().display()))
    }
}
