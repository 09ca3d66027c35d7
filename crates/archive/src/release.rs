//! Which signed release files stand behind the packages apt chose.

use std::fs;
use std::path::{Path, PathBuf};

use akene_exec::Runner;
use akene_protocol::Sha256;
use akene_protocol::lock::{LockedPackage, MAIN, Release, SECURITY};
use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::apt::AptRoot;
use crate::signers::signers;

/// What `apt-get indextargets` is asked for: archive, suite, index file.
const TARGET: &str = "$(REPO_URI) $(RELEASE) $(FILENAME)";

impl AptRoot {
    /// The release files apt verified, in the order of their addresses and suites.
    ///
    /// # Errors
    /// apt cannot be run, or a file it names cannot be read.
    pub fn releases(&self, runner: &dyn Runner) -> Result<Vec<Release>> {
        let cmd = self.command("apt-get").args(["indextargets", "--format", TARGET, "Created-By: Packages"]);
        let output = runner.run(&cmd)?.text();
        let files = release_files(&self.lists())?;
        let mut releases: Vec<Release> = Vec::new();
        let (main, security) = self.mirrors();
        let archive = self.archive();
        for line in output.lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(uri), Some(suite), Some(index)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let uri = &*without_login(uri.trim_end_matches('/'));
            if releases.iter().any(|r| r.uri == uri && r.suite == suite) {
                continue;
            }
            let Some((file, _)) = files.iter().find(|(_, prefix)| index.starts_with(prefix)) else {
                continue;
            };
            let is =
                |address: &str| !address.is_empty() && without_login(address.trim_end_matches('/')) == uri;
            // The security archive may be the main one's mirror: its suite tells.
            let repository = match archive.sources.iter().find(|(_, source)| is(&source.uri)) {
                Some((name, source)) if source.suites.iter().any(|s| s == suite) => name.clone(),
                _ if is(security) && (!is(main) || suite == format!("{}-security", archive.suite)) => {
                    SECURITY.to_owned()
                }
                _ => MAIN.to_owned(),
            };
            let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            let mut release = describe(&bytes, repository, uri, suite);
            // A `Release` has its signature beside it.
            let beside = PathBuf::from(format!("{}.gpg", file.display()));
            if let (true, Ok(text)) = (release.keys.is_empty(), fs::read_to_string(beside)) {
                release.keys = signers(&text);
            }
            releases.push(release);
        }
        releases.sort_by(|a, b| (&a.repository, &a.suite, &a.uri).cmp(&(&b.repository, &b.suite, &b.uri)));
        Ok(releases)
    }

    /// Says of each package which release vouches for it: the first whose index has this version at its address.
    pub(crate) fn attribute(
        &self,
        runner: &dyn Runner,
        releases: &[Release],
        packages: &mut [LockedPackage],
    ) -> Result<()> {
        if packages.is_empty() || releases.is_empty() {
            return Ok(());
        }
        let names = packages.iter().map(|p| p.name.as_str());
        let output = runner.run(&self.command("apt-cache").arg("madison").args(names))?.text();
        let mut found: std::collections::BTreeMap<(&str, &str), Vec<&str>> = Default::default();
        for line in output.lines() {
            let mut columns = line.split('|').map(str::trim);
            if let (Some(name), Some(version), Some(place)) = (columns.next(), columns.next(), columns.next())
            {
                found.entry((name, version)).or_default().push(place);
            }
        }
        for package in packages {
            let places = found.get(&(package.name.as_str(), package.version.as_str()));
            let has = |release: &Release| {
                package.urls.iter().any(|url| below(url, &release.uri).is_some())
                    && places.into_iter().flatten().any(|place| is_index_of(place, release))
            };
            package.release = releases.iter().position(has);
        }
        Ok(())
    }
}

/// What of an address follows its archive's.
pub(crate) fn below(url: &str, archive: &str) -> Option<String> {
    let (url, archive) = (without_login(url), without_login(archive));
    Some(url.strip_prefix(archive.trim_end_matches('/'))?.strip_prefix('/')?.to_owned())
}

/// An address without the name and password it may carry: apt shows it sometimes with, sometimes without.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or(host))
}

/// Whether `http://mirror/debian bookworm/main amd64 Packages` is an index of the release.
fn is_index_of(place: &str, release: &Release) -> bool {
    let Some((uri, rest)) = place.split_once(' ') else { return false };
    if without_login(uri.trim_end_matches('/')) != release.uri {
        return false;
    }
    let index = rest.split(' ').next().unwrap_or(rest);
    match release.suite.ends_with('/') {
        // A flat repository has no components.
        true => index == release.suite || index == release.suite.trim_end_matches('/'),
        false => index.strip_prefix(release.suite.as_str()).is_some_and(|rest| rest.starts_with('/')),
    }
}

/// Release files among the lists, each with what the names of its indexes begin with.
fn release_files(lists: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(lists).with_context(|| format!("reading {}", lists.display()))? {
        let path = entry.with_context(|| format!("reading {}", lists.display()))?.path();
        let Some(text) = path.to_str() else { continue };
        if let Some(prefix) = text.strip_suffix("InRelease").or_else(|| text.strip_suffix("Release")) {
            files.push((path.clone(), prefix.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

/// What a release file says of itself.
pub(crate) fn describe(bytes: &[u8], repository: String, uri: &str, suite: &str) -> Release {
    let text = String::from_utf8_lossy(bytes);
    let field = |name: &str| {
        text.lines()
            .take_while(|l| !l.starts_with("-----BEGIN PGP SIGNATURE"))
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    let date = |name: &str| field(name).and_then(|text| release_date(&text));
    Release {
        repository,
        uri: uri.to_owned(),
        suite: suite.to_owned(),
        origin: field("Origin"),
        codename: field("Codename"),
        date: date("Date"),
        valid_until: date("Valid-Until"),
        sha256: Sha256::of(bytes),
        keys: signers(&text),
    }
}

/// A date as release files write it: `Sat, 11 Oct 2025 09:59:42 UTC`.
pub fn release_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .relaxed_weekday(true)
        .parse_timestamp(text.trim().replace("UTC", "+0000").as_bytes())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_tells_what_it_is() {
        let text = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nSuite: stable\n\
                    Codename: bookworm\nDate: Sat, 17 May 2025 09:01:08 UTC\n-----BEGIN PGP SIGNATURE-----\n\
                    Valid-Until: never\n";
        let release = describe(text.as_bytes(), MAIN.into(), "http://a.test/debian", "bookworm");
        assert_eq!(release.date, Some("2025-05-17T09:01:08Z".parse().unwrap()));
        assert_eq!((release.codename.as_deref(), release.valid_until), (Some("bookworm"), None));
    }

    #[test]
    fn indexes_are_told_apart_by_archive_and_suite() {
        let release = |uri: &str, suite: &str| describe(b"", MAIN.into(), uri, suite);
        let place = "http://a.test/debian bookworm-updates/main amd64 Packages";
        assert!(is_index_of(place, &release("http://a.test/debian", "bookworm-updates")));
        assert!(!is_index_of(place, &release("http://a.test/debian", "bookworm")));
        assert!(!is_index_of(place, &release("http://b.test/debian", "bookworm-updates")));
        assert!(is_index_of("file:/srv/flat ./ Packages", &release("file:/srv/flat", "./")));
        assert_eq!(
            below("http://me:pw@a.test/debian/pool/x.deb", "http://a.test/debian").as_deref(),
            Some("pool/x.deb")
        );
        assert_eq!(below("http://a.test/debian-security/pool/x.deb", "http://a.test/debian"), None);
    }
}
