//! Choosing packages: apt's solver asked what it would install into an empty system.

use std::collections::BTreeSet;

use akene_exec::Runner;
use akene_protocol::issue::Issues;
use akene_protocol::lock::{Lock, LockedPackage, Release, Request, VERSION, file_name};
use akene_protocol::profile::nearest;
use akene_protocol::{Bytes, Issue};
use anyhow::{Context, Result};

use crate::apt::AptRoot;
use crate::error::Apt;

/// What must stand before the new root's own apt can run: what dpkg calls essential, apt itself, and
/// what the archive calls required. mmdebstrap's smallest useful variant is the first two; debootstrap's
/// minbase is the third plus apt, and d-i installs that. Packages of these priorities assume each other
/// in their scripts without a Depends, so all three are taken.
const BASE: [&str; 3] = ["?essential", "apt", "?priority(required)"];

/// Satisfies `init-system-helpers`' dependency on a merged /usr without `usrmerge`, which converts
/// old systems and draws in the whole of Perl. Not in every release.
const MERGED_USR: &str = "usr-is-merged";

/// What every request of the same indexes has the same answer to.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    /// What is asked for to get the base.
    base: Vec<String>,
    /// Names of all packages of the base.
    of_base: BTreeSet<String>,
    /// The release files.
    releases: Vec<Release>,
}

impl AptRoot {
    /// Chooses the packages of a system: the base and `packages` (names, or `name=version`) with everything
    /// they depend on, recommended packages too if asked. One solver call sees all of it, so the result is
    /// consistent; another tells which part of it is the base.
    ///
    /// # Errors
    /// [`Issues`]: `package-missing` for each package the archives do not have,
    /// `packages-conflict` with apt's explanation when they cannot be installed together.
    pub fn solve(&self, runner: &dyn Runner, packages: &[String], recommends: bool) -> Result<Lock> {
        let Common { base, of_base, releases } = self.common(runner)?;
        let mut all = base;
        all.extend(packages.iter().cloned());
        let mut chosen = self.choose(runner, "install", &all, recommends)?;
        for package in &mut chosen {
            package.base = of_base.contains(&package.name);
        }
        self.attribute(runner, &releases, &mut chosen)?;
        let requested = packages.to_vec();
        Ok(Lock { version: VERSION, architecture: "amd64".into(), releases, requested, packages: chosen })
    }

    /// Answers a machine's request: its packages, and the optional ones the archives have.
    ///
    /// # Errors
    /// Those of [`AptRoot::solve`].
    pub fn answer(&self, runner: &dyn Runner, request: &Request) -> Result<Lock> {
        let absent = self.absent(runner, request)?;
        self.solve(runner, &request.without(&absent), request.recommends)
    }

    /// What every request has the same answer to, asked once for the indexes there are.
    fn common(&self, runner: &dyn Runner) -> Result<Common> {
        if let Some(common) = &*self.common.borrow() {
            return Ok(common.clone());
        }
        let mut base: Vec<String> = BASE.map(str::to_owned).to_vec();
        base.extend(self.known(runner, &[MERGED_USR])?);
        let of_base = self.choose(runner, "install", &base, false)?.into_iter().map(|p| p.name).collect();
        let common = Common { base, of_base, releases: self.releases(runner)? };
        *self.common.borrow_mut() = Some(common.clone());
        Ok(common)
    }

    /// What of a request is optional and not in the archives.
    ///
    /// # Errors
    /// apt-cache cannot be run.
    pub fn absent(&self, runner: &dyn Runner, request: &Request) -> Result<Vec<String>> {
        let names: Vec<&str> = request.optional.iter().map(String::as_str).collect();
        let known = self.known(runner, &names)?;
        Ok(names.into_iter().filter(|n| !known.iter().any(|k| k == n)).map(str::to_owned).collect())
    }

    /// Those of the names that the archives have a package of, for what is used where a release has it.
    ///
    /// # Errors
    /// apt-cache cannot be run.
    pub fn known(&self, runner: &dyn Runner, names: &[&str]) -> Result<Vec<String>> {
        let mut known = self.known.borrow_mut();
        let mut ask: BTreeSet<&str> = names.iter().copied().filter(|n| !known.contains_key(*n)).collect();
        if !ask.is_empty() {
            // Asked in passing: reading the indexes is what takes time.
            ask.insert(MERGED_USR);
            let output = runner.run(&self.command("apt-cache").arg("madison").args(&ask))?;
            let text = output.text();
            let found: BTreeSet<&str> =
                text.lines().filter_map(|l| Some(l.split('|').next()?.trim())).collect();
            known.extend(ask.iter().map(|n| (n.to_string(), found.contains(n))));
        }
        Ok(names.iter().filter(|n| known.get(**n) == Some(&true)).map(|n| n.to_string()).collect())
    }

    /// Finds these packages alone, without what they depend on: for taking files out of them.
    ///
    /// # Errors
    /// [`Issues`]: `package-missing` for each that the archives do not have.
    pub fn locate(&self, runner: &dyn Runner, packages: &[String]) -> Result<Vec<LockedPackage>> {
        self.choose(runner, "download", packages, false)
    }

    fn choose(
        &self,
        runner: &dyn Runner,
        verb: &str,
        packages: &[String],
        recommends: bool,
    ) -> Result<Vec<LockedPackage>> {
        // An argument that begins with a hyphen or ends in one means something else to apt.
        let odd: Vec<Issue> = packages.iter().filter(|p| !is_request(p)).map(|p| not_a_name(p)).collect();
        if !odd.is_empty() {
            return Err(Issues(odd).into());
        }
        let mut cmd = self.command("apt-get").args([verb, "--print-uris"]);
        if verb == "install" {
            cmd = cmd.args([
                if recommends { "--install-recommends" } else { "--no-install-recommends" },
                "--no-remove",
            ]);
        }
        let mut said = Vec::new();
        let output = match runner.run_lines(&cmd.args(packages), &mut |line| said.push(line.to_owned())) {
            Ok(output) => output,
            Err(failure) => return Err(self.refusal(runner, Apt::from_failure(failure)?, &said, packages)),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter(|l| l.starts_with('\'')).map(|l| self.locked(l)).collect()
    }

    /// One line of `--print-uris`: `'URL' FILE SIZE SHA256:SUM`.
    fn locked(&self, line: &str) -> Result<LockedPackage> {
        let parse = || -> Option<LockedPackage> {
            let (url, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let mut words = rest.split(' ');
            let (file, size) = (words.next()?, words.next()?.parse().ok()?);
            let sha256 = words.find_map(|w| w.strip_prefix("SHA256:"))?.parse().ok()?;
            // It becomes a file in a directory of ours.
            let file = (!file.contains('/')).then_some(file)?;
            // apt names a file that lies here as it lies here.
            let own = self.archive().local.iter().find(|local| local.sha256 == sha256);
            let file =
                own.map(|p| file_name(&p.name, &p.version, &p.architecture)).unwrap_or(file.to_owned());
            let mut parts = file.strip_suffix(".deb")?.rsplitn(3, '_');
            let (architecture, version, name) = (parts.next()?, parts.next()?, parts.next()?);
            Some(LockedPackage {
                name: unquote(name),
                version: unquote(version),
                architecture: architecture.to_owned(),
                size: Bytes(size),
                sha256,
                urls: self.on_every_mirror(url),
                file: file.clone(),
                base: false,
                release: None,
            })
        };
        parse().with_context(|| {
            format!("reading apt's line `{line}` (a package without a SHA-256 cannot be trusted)")
        })
    }

    /// The address a file has on each mirror, the one in use first.
    fn on_every_mirror(&self, url: &str) -> Vec<String> {
        let mut urls = vec![url.to_owned()];
        let (main, security) = self.mirrors();
        let archive = self.archive();
        for (used, others) in [(security, &archive.security_mirrors), (main, &archive.mirrors)] {
            let used = used.trim_end_matches('/');
            let Some(path) = url.strip_prefix(used).filter(|p| !used.is_empty() && p.starts_with('/')) else {
                continue;
            };
            for other in others {
                let other = format!("{}{path}", other.trim_end_matches('/'));
                if !urls.contains(&other) {
                    urls.push(other);
                }
            }
            break;
        }
        urls
    }

    fn refusal(&self, runner: &dyn Runner, apt: Apt, said: &[String], packages: &[String]) -> anyhow::Error {
        let mut issues = Vec::new();
        let mut names: Option<Vec<String>> = None;
        for line in &apt.errors {
            let Some((package, message)) = missing(line) else { continue };
            let known = names.get_or_insert_with(|| self.package_names(runner));
            let next = match nearest(package, known.iter().map(String::as_str).filter(|n| *n != package)) {
                Some(near) if !known.iter().any(|n| n == package) => format!("did you mean `{near}`?"),
                _ => "take it out of the profile, or add the repository or component that has it".to_owned(),
            };
            let (message, next) = match message.contains("version") {
                true => match self.versions_of(runner, package).as_str() {
                    "" => (message, next),
                    versions => {
                        (format!("{message}; they have {versions}"), "name one of these, or none".to_owned())
                    }
                },
                false => (message, next),
            };
            if self.archive().never.iter().any(|never| never == package) {
                let next = "take it out of `packages` or out of `apt.never`";
                let message = format!("`{package}` is asked for, but never to be installed");
                issues.push(Issue::new("package-never", "apt.never", message, next));
                continue;
            }
            issues.push(Issue::new("package-missing", package, message, next));
        }
        if issues.is_empty() {
            // What does not fit together comes on standard output, indented, after a line of its own.
            let why: Vec<&str> = said
                .iter()
                .skip_while(|l| !l.contains("unmet dependencies"))
                .skip(1)
                .map(|l| l.trim())
                .filter(|l| !l.is_empty())
                .take(20)
                .collect();
            issues.extend(self.needs_never(&why));
            let why = if why.is_empty() { apt.words() } else { why.join("; ") };
            if issues.is_empty() {
                issues.push(Issue::new(
                    "packages-conflict",
                    "packages",
                    format!("the packages cannot be installed together: {why}"),
                    format!("take one of them out of the profile ({})", own_requests(packages)),
                ));
            }
        }
        Issues(issues).into()
    }

    /// Every package name of the archives; empty when even that fails, for it only serves a hint.
    fn package_names(&self, runner: &dyn Runner) -> Vec<String> {
        match runner.run(&self.command("apt-cache").arg("pkgnames")) {
            Ok(output) => output.text().lines().map(str::to_owned).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// The package an error is about, and what is wrong in our words.
fn missing(line: &str) -> Option<(&str, String)> {
    let quoted = |text: &'static str| -> Option<&str> { line.strip_prefix(text)?.split('\'').next() };
    if let Some(name) = line.strip_prefix("Unable to locate package ") {
        return Some((name, format!("no archive of the profile has a package called `{name}`")));
    }
    if let Some(rest) = line.strip_prefix("Version '") {
        let mut parts = rest.split('\'');
        let (version, name) = (parts.next()?, parts.nth(1)?);
        return Some((name, format!("no archive of the profile has version {version} of `{name}`")));
    }
    if let Some(name) = quoted("Package '").filter(|_| line.contains("no installation candidate")) {
        return Some((
            name,
            format!("`{name}` is only a name that others depend on; there is no such package"),
        ));
    }
    // `apt-get download` says it differently from `install`.
    if let Some(rest) = line.strip_prefix("Can't select candidate version from package ") {
        let name = rest.strip_suffix(" as it has no candidate")?;
        return Some((
            name,
            format!("`{name}` is only a name that others depend on; there is no such package"),
        ));
    }
    let name = line.strip_prefix("Can't find a source to download version ")?;
    Some((name, format!("no archive of the profile has {name}")))
}

/// Whether a word can be given to apt: one of our own patterns, or a name with an optional version.
fn is_request(word: &str) -> bool {
    if BASE.contains(&word) {
        return true;
    }
    let (name, version) = word.split_once('=').unwrap_or((word, "1"));
    let first = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let plain = |s: &str, more: &str| {
        !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    // A trailing `-` or `+` asks apt to remove or install: `libstdc++` is a name only as part of a longer one,
    // apt itself prefers the package that exists.
    first && !name.ends_with('-') && plain(name, "+-.:") && plain(version, "+-.:~")
}

fn not_a_name(word: &str) -> Issue {
    Issue::new(
        "package-missing",
        word,
        format!("`{word}` cannot be the name of a package"),
        "write the name as the archive does, or name=version",
    )
}

fn own_requests(packages: &[String]) -> String {
    let own: Vec<&str> = packages.iter().map(String::as_str).filter(|p| !BASE.contains(p)).collect();
    own.join(", ")
}

/// Undoes the `%XX` with which apt writes `_`, `:` and `%` in file names.
pub(crate) fn unquote(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
