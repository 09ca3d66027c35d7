//! The host's own Debian mirror, seen through a cache on loopback.
//!
//! Tests install real systems over and over; the packages come over the network once. Where they come
//! from is read from the machine's apt sources at run time, and apt itself fetches them, so that a
//! proxy or an odd transport the machine is set up for just works.
//!
//! Packages and indexes named by their hash never change and are kept for good. Anything else
//! (`InRelease`) is asked for again when the copy is older than half a day, so that one run sees one
//! state of the archive, and a machine that lost its network can still test with what it has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::profile::Distribution;
use anyhow::{Context, Result, ensure};

use crate::http::{Answer, Server};

/// How long an index that is not named by its hash, and what was made from it, is used without asking again.
const FRESH: Duration = Duration::from_secs(12 * 3600);

/// Whether a file is used without asking again: for all of a run of tests, which says by `AKENE_TESTS_BEGAN` when it began
/// (seconds since 1970), it is the same.
pub fn is_fresh(file: &Path) -> bool {
    let began = std::env::var("AKENE_TESTS_BEGAN").ok().and_then(|text| text.parse().ok());
    let began = began.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let changed = file.metadata().and_then(|about| about.modified());
    changed.is_ok_and(|changed| began.duration_since(changed).map_or(true, |age| age < FRESH))
}

/// Where everything worth keeping between runs is kept.
pub fn cache_dir() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("finding the home directory: HOME is not set")?;
    let dir =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or(Path::new(&home).join(".cache"));
    let dir = dir.join("akene");
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// The distribution this machine runs and where its packages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `debian` or `ubuntu`.
    pub distribution: String,
    /// Code name: `bookworm`.
    pub suite: String,
    /// The main archive.
    pub main: String,
    /// The security archive.
    pub security: String,
}

impl Host {
    /// Reads `/etc/os-release` and the apt sources of this machine.
    pub fn detect() -> Result<Self> {
        let release = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let value = |key: &str| {
            let line = release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
            Some(line.trim_matches('"').to_owned())
        };
        let distribution = value("ID").context("reading ID from /etc/os-release")?;
        let suite = value("VERSION_CODENAME").context("reading VERSION_CODENAME from /etc/os-release")?;
        let mut texts = Vec::new();
        let dir = Path::new("/etc/apt/sources.list.d");
        let listed =
            dir.read_dir().map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_else(|_| Vec::new());
        for path in listed.into_iter().chain([PathBuf::from("/etc/apt/sources.list")]) {
            if let Ok(text) = std::fs::read_to_string(&path) {
                texts.push((path.extension().is_some_and(|e| e == "sources"), text));
            }
        }
        let sources: Vec<_> = texts
            .iter()
            .flat_map(|(deb822, t)| if *deb822 { parse_deb822(t) } else { parse_lines(t) })
            .collect();
        Self::from_sources(&distribution, &suite, &sources)
    }

    fn from_sources(distribution: &str, suite: &str, sources: &[(String, String)]) -> Result<Self> {
        let find = |wanted: &str| sources.iter().find(|(_, s)| s == wanted).map(|(uri, _)| uri.clone());
        let main = find(suite).with_context(|| {
            format!("finding where the packages of {suite} come from: no line in the apt sources names it")
        })?;
        // Ubuntu's security suite lives in the main archive of a mirror, too.
        let security = find(&format!("{suite}-security")).unwrap_or_else(|| main.clone());
        Ok(Host { distribution: distribution.into(), suite: suite.into(), main, security })
    }

    /// The name of the main archive in addresses: `debian` or `ubuntu`.
    pub fn archive(&self) -> &str {
        &self.distribution
    }
}

/// (address, suite) pairs of a `.sources` file.
fn parse_deb822(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for stanza in text.split("\n\n") {
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut last = String::new();
        for line in stanza.lines().filter(|l| !l.starts_with('#')) {
            match line.split_once(':') {
                Some((name, value)) if !line.starts_with([' ', '\t']) => {
                    last = name.to_ascii_lowercase();
                    fields.insert(last.clone(), value.trim().to_owned());
                }
                _ => {
                    let value = fields.entry(last.clone()).or_default();
                    value.push(' ');
                    value.push_str(line.trim());
                }
            }
        }
        let words = |name: &str| {
            fields.get(name).map(|v| v.split_whitespace().collect::<Vec<_>>()).unwrap_or_default()
        };
        if !words("types").contains(&"deb") || words("enabled").contains(&"no") {
            continue;
        }
        for uri in words("uris") {
            pairs.extend(
                words("suites").iter().map(|s| (uri.trim_end_matches('/').to_owned(), s.to_string())),
            );
        }
    }
    pairs
}

/// (address, suite) pairs of a `sources.list`.
fn parse_lines(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        Some((words.next()?.trim_end_matches('/').to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// The cache: files by archive and path.
struct Cache {
    dir: PathBuf,
    archives: BTreeMap<String, String>,
    /// Paths being fetched right now.
    busy: Mutex<Vec<String>>,
    done: Condvar,
}

impl Cache {
    fn get(&self, path: &str) -> Answer {
        match self.file(path) {
            Ok(Some(file)) => Answer::File(file),
            Ok(None) => Answer::Missing,
            Err(error) => Answer::Broken(format!("{error:#}\n")),
        }
    }

    fn file(&self, path: &str) -> Result<Option<PathBuf>> {
        let Some((archive, rest)) = path.trim_start_matches('/').split_once('/') else { return Ok(None) };
        let Some(upstream) = self.archives.get(archive) else { return Ok(None) };
        ensure!(!rest.split('/').any(|part| part == ".." || part.is_empty()), "refusing the path {path}");
        let file = self.dir.join(archive).join(rest);
        self.claim(path);
        let result = self.bring(&file, &format!("{upstream}/{rest}"));
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).retain(|p| p != path);
        self.done.notify_all();
        result
    }

    /// Waits until nobody else fetches this path, then is the one who does.
    fn claim(&self, path: &str) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while busy.iter().any(|p| p == path) {
            busy = self.done.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        busy.push(path.to_owned());
    }

    fn bring(&self, file: &Path, url: &str) -> Result<Option<PathBuf>> {
        let known = file.exists();
        let for_good = file.extension().is_some_and(|e| e == "deb") || url.contains("/by-hash/");
        if known && for_good || is_fresh(file) {
            return Ok(Some(file.to_owned()));
        }
        let dir = file.parent().context("a cached file has a directory")?;
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let part = dir.join(format!(
            ".{}.{}",
            file.file_name().unwrap_or_default().to_string_lossy(),
            std::process::id()
        ));
        let fetch = Cmd::new("/usr/lib/apt/apt-helper")
            .args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3", "download-file"])
            .args([url, &part.to_string_lossy()]);
        if let Err(error) = SystemRunner.run(&fetch) {
            let text = format!("{error:#}");
            std::fs::remove_file(&part).ok();
            return match known {
                true => Ok(Some(file.to_owned())),
                false if text.contains("404") => Ok(None),
                false => Err(error.context(format!("fetching {url}"))),
            };
        }
        // The server's own time stamp comes with it; ours is what tells how fresh the copy is.
        std::fs::File::open(&part)?.set_modified(std::time::SystemTime::now()).context("dating the copy")?;
        std::fs::rename(&part, file).with_context(|| format!("keeping {}", file.display()))?;
        Ok(Some(file.to_owned()))
    }
}

/// A server on loopback that keeps what it fetches from these archives, by name.
fn keeping(archives: BTreeMap<String, String>) -> Result<Server> {
    let dir = cache_dir()?.join("mirror");
    let cache = Arc::new(Cache { dir, archives, busy: Mutex::default(), done: Condvar::new() });
    Server::start(move |path| cache.get(path))
}

/// Ubuntu's own archive, on loopback, where it can be reached.
pub struct Ubuntu {
    /// The server. The archive lies below `/ubuntu`.
    pub server: Server,
    /// The keys it is signed with.
    pub keyring: PathBuf,
}

/// Ubuntu 24.04's package of keys, which its archive has as long as it has the release.
const UBUNTU_KEYS: &str = "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb";

/// Fingerprint of the key by which Ubuntu's archive has been signed since 2018.
const UBUNTU_KEY: &str = "F6ECB3762474EDA9D21B7022871920D1991BC93C";

impl Ubuntu {
    /// Starts it. `None`, and says so, where the archive cannot be reached.
    pub fn start() -> Result<Option<Self>> {
        let upstream = Distribution::Ubuntu.default_mirror();
        let server = keeping(BTreeMap::from([("ubuntu".into(), upstream.into())]))?;
        let keys = cache_dir()?.join("ubuntu-keys");
        let keyring = keys.join("usr/share/keyrings/ubuntu-archive-keyring.gpg");
        let scratch = tempfile::tempdir().context("making a directory")?;
        let deb = scratch.path().join("keys.deb");
        let get =
            Cmd::new("/usr/lib/apt/apt-helper").args(["-o", "APT::Sandbox::User=root", "download-file"]);
        let get = get.arg(format!("{}/ubuntu/{UBUNTU_KEYS}", server.url())).arg(&deb);
        if let Err(error) = SystemRunner.run(&get.timeout(Duration::from_secs(60))) {
            eprintln!("SKIPPED: {upstream} cannot be reached from here: {error:#}");
            return Ok(None);
        }
        SystemRunner.run(&Cmd::new("dpkg-deb").arg("-x").arg(&deb).arg(&keys)).context("unpacking keys")?;
        let show = Cmd::new("gpg").args(["--show-keys", "--with-colons"]).arg(&keyring);
        let shown = SystemRunner.run(&show).context("reading Ubuntu's keys")?.text();
        ensure!(
            shown.contains(&format!(":{UBUNTU_KEY}:")),
            "the keyring of {upstream} lacks the archive's key"
        );
        Ok(Some(Ubuntu { server, keyring }))
    }

    /// Its address on loopback.
    pub fn url(&self) -> String {
        format!("{}/ubuntu", self.server.url())
    }
}

/// The host's mirror on loopback.
pub struct Mirror {
    /// The server, for faults and the record of what was asked for.
    pub server: Server,
    /// What it mirrors.
    pub host: Host,
}

impl Mirror {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let host = Host::detect()?;
        let archives = BTreeMap::from([
            (host.archive().to_owned(), host.main.clone()),
            (format!("{}-security", host.archive()), host.security.clone()),
        ]);
        Ok(Mirror { server: keeping(archives)?, host })
    }

    /// Address of the main archive as the host sees it.
    pub fn main(&self) -> String {
        format!("{}/{}", self.server.url(), self.host.archive())
    }

    /// Address of the security archive as the host sees it.
    pub fn security(&self) -> String {
        format!("{}-security", self.main())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_sources() {
        let deb822 = "Types: deb\n# comment\nURIs: http://a.test/debian/\nSuites: stable\n stable-updates\n\n\
                      Types: deb-src\nURIs: http://b.test\nSuites: stable\n\nTypes: deb\nEnabled: no\nURIs: http://c.test\nSuites: stable\n";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            parse_deb822(deb822),
            [pair("http://a.test/debian", "stable"), pair("http://a.test/debian", "stable-updates")]
        );
        let lines = "# deb http://x.test a main\ndeb [arch=amd64 signed-by=/k] http://s.test/sec/ stable-security main\ndeb-src http://y.test a main\n";
        assert_eq!(parse_lines(lines), [pair("http://s.test/sec", "stable-security")]);
    }

    #[test]
    fn a_host_without_a_security_line_uses_its_main_archive() {
        let sources = [("http://a.test/ubuntu".to_owned(), "noble".to_owned())];
        let host = Host::from_sources("ubuntu", "noble", &sources).unwrap();
        assert_eq!(
            (host.main.as_str(), host.security.as_str()),
            ("http://a.test/ubuntu", "http://a.test/ubuntu")
        );
        let error = Host::from_sources("debian", "trixie", &sources).unwrap_err().to_string();
        assert!(error.contains("no line in the apt sources names it"), "{error}");
    }
}
