//! apt-get on a private directory tree.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::profile::Distribution;
use akene_protocol::resolve::Archive;
use anyhow::{Context, Result, bail};

use crate::crawl::Crawl;
use crate::error::Apt;
use crate::fetch::Progress;
use crate::refusal::Known;
use crate::solve::Common;
use crate::sources::source_files;

/// Longest time for all indexes of a profile; a slow line brings the 20 MB of a release in that time.
const UPDATE_LIMIT: Duration = Duration::from_secs(3600);

/// How long a mirror may bring next to nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a mirror that does not fit together is left alone before it is asked once more.
const SETTLE: Duration = Duration::from_secs(3);

/// What an [`AptRoot`] is made from.
#[derive(Clone, Debug)]
pub struct AptSettings<'a> {
    /// The archives.
    pub archive: &'a Archive,
    /// The distribution's keyring on the running system; used unless the profile brings its own key.
    pub keyring: &'a Path,
    /// Proxy for http and https.
    pub proxy: Option<&'a str>,
}

impl AptSettings<'_> {
    /// Where Debian's and Ubuntu's own packages put the keyring.
    pub fn default_keyring(distribution: Distribution) -> &'static Path {
        Path::new(match distribution {
            Distribution::Debian => "/usr/share/keyrings/debian-archive-keyring.gpg",
            Distribution::Ubuntu => "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        })
    }
}

/// A directory in which apt finds its configuration, sources, keys, indexes and an empty package
/// database. Nothing of the running system's apt is read but its programs.
#[derive(Debug)]
pub struct AptRoot {
    dir: PathBuf,
    archive: Archive,
    keyring: PathBuf,
    patience: Duration,
    /// Index of the mirror in use: main archive, security archive.
    mirrors: RefCell<(usize, usize)>,
    /// Which names are known to be those of packages.
    pub(crate) known: RefCell<BTreeMap<String, bool>>,
    /// What every request of these indexes has the same answer to.
    pub(crate) common: RefCell<Option<Common>>,
}

impl AptRoot {
    /// Makes the tree in `dir`, which is created, and may hold the indexes of an earlier run.
    ///
    /// # Errors
    /// The directory cannot be written, the keyring is missing, or a source cannot be expressed.
    pub fn create(dir: &Path, settings: &AptSettings<'_>) -> Result<Self> {
        let dir = std::path::absolute(dir).with_context(|| format!("using {}", dir.display()))?;
        let shown = dir.to_str().filter(|d| !d.contains(['"', '\n', ';']));
        let Some(shown) = shown else {
            bail!("using {}: apt cannot work in a directory of that name", dir.display())
        };
        if settings.archive.key.is_none() && !settings.keyring.is_file() {
            return Err(Issues::from(Issue::new(
                "archive-keyring-missing",
                settings.keyring.display().to_string(),
                "the keys the distribution signs its archive with are not on this system",
                "install the distribution's keyring package, or set `apt.key` in the profile",
            ))
            .into());
        }
        for sub in
            ["etc/parts", "etc/sources.d", "etc/prefs", "etc/keys", "state/lists/partial", "cache", "log"]
        {
            let path = dir.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        let mut conf = format!(
            r#"Dir "{shown}/";
Dir::Etc "etc/";
Dir::Etc::main "none";
Dir::Etc::parts "parts";
Dir::Etc::sourcelist "none";
Dir::Etc::sourceparts "sources.d";
Dir::Etc::preferences "none";
Dir::Etc::preferencesparts "prefs";
Dir::Etc::trusted "none";
Dir::Etc::trustedparts "none.d";
Dir::Etc::netrc "none";
Dir::Etc::netrcparts "none.d";
Dir::State "state/";
Dir::State::status "{shown}/state/status";
Dir::State::extended_states "{shown}/state/extended_states";
Dir::Cache "cache/";
// One cache of 40 MB is enough for a machine that keeps it in memory.
Dir::Cache::srcpkgcache "";
Dir::Log "log";
Dir::Bin::Methods "/usr/lib/apt/methods";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
// The tree belongs to whoever runs this; there is no _apt user in the live system's business.
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
// Indexes stay compressed: they live in memory on a machine that has 512 MiB of it.
Acquire::GzipIndexes "true";
Acquire::Check-Valid-Until "true";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::ForceHash "SHA256";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"#
        );
        if let Some(proxy) = settings.proxy {
            if proxy.contains(['"', '\n', ';']) {
                bail!("using the proxy `{proxy}`: it holds characters no address has");
            }
            for scheme in ["http", "https"] {
                conf += &format!("Acquire::{scheme}::Proxy \"{proxy}\";\n");
            }
        }
        write(&dir.join("etc/apt.conf"), &conf)?;
        write(&dir.join("state/status"), "")?;
        let mut archive = settings.archive.clone();
        for mirror in archive.mirrors.iter_mut().chain(&mut archive.security_mirrors) {
            // As apt writes them in what it says, so that a complaint finds its mirror.
            *mirror = mirror.trim_end_matches('/').replacen("file:///", "file:/", 1);
        }
        let root = AptRoot {
            dir,
            archive,
            keyring: settings.keyring.to_owned(),
            patience: PATIENCE,
            mirrors: RefCell::new((0, 0)),
            known: RefCell::default(),
            common: RefCell::default(),
        };
        root.write_sources()?;
        Ok(root)
    }

    /// How long a mirror may bring next to nothing before it is given up; the default is a minute.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The tree's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the indexes lie, in the form apt expects at `/var/lib/apt/lists`.
    pub fn lists(&self) -> PathBuf {
        self.dir.join("state/lists")
    }

    /// The mirror of the main archive in use, and that of the security archive.
    pub fn mirrors(&self) -> (&str, &str) {
        let (main, security) = *self.mirrors.borrow();
        let pick = |list: &'_ [String], at: usize| -> usize { at.min(list.len().saturating_sub(1)) };
        let main = self.archive.mirrors.get(pick(&self.archive.mirrors, main));
        let security = self.archive.security_mirrors.get(pick(&self.archive.security_mirrors, security));
        (main.map_or("", |m| m), security.map_or("", |m| m))
    }

    /// The archives this tree was made from.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Frees what makes the next question faster: some 40 MB, in memory on a live system.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn forget_cache(&self) -> Result<()> {
        let cache = self.dir.join("cache/pkgcache.bin");
        match fs::remove_file(&cache) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", cache.display()))
            }
            _ => Ok(()),
        }
    }

    /// A command of the apt family that works on this tree.
    pub(crate) fn command(&self, program: &str) -> Cmd {
        Cmd::new(program).env("APT_CONFIG", self.dir.join("etc/apt.conf"))
    }

    fn write_sources(&self) -> Result<()> {
        let (main, security) = self.mirrors();
        let keys = self.dir.join("etc/keys");
        let files = source_files(&self.archive, main, security, &keys, &self.keyring)?;
        for (name, text) in &files.keys {
            write(&keys.join(name), text)?;
        }
        for (name, text) in &files.sources {
            write(&self.dir.join("etc/sources.d").join(name), text)?;
        }
        for (name, text) in &files.preferences {
            write(&self.dir.join("etc/prefs").join(file_name(name)?), text)?;
        }
        Ok(())
    }

    /// Fetches and verifies the indexes of all archives. Where a profile lists several mirrors, the next one
    /// is tried when something is wrong with one; one that seems to be in the middle of an update is asked once
    /// more before that, which also tells it from a portal that came up between two files. Gives what is odd but no reason to refuse.
    ///
    /// # Errors
    /// [`Issues`] with the codes of `refusal.rs`: `archive-signature`, `release-expired`, `mirror-updating`…
    /// Nothing is used unless everything could be verified.
    pub fn update(&self, runner: &dyn Runner, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Issue>> {
        let mut seen: Vec<Issue> = Vec::new();
        let mut patience = true;
        self.known.borrow_mut().clear();
        *self.common.borrow_mut() = None;
        loop {
            let issues = match self.update_once(runner, progress)? {
                Ok(noted) => return Ok(noted),
                Err(issues) => issues,
            };
            let is_portal = |issue: &Issue| issue.code == "portal";
            let settles = issues.iter().any(unsettled) && issues.iter().all(|i| unsettled(i) || is_portal(i));
            if std::mem::take(&mut patience) && settles {
                std::thread::sleep(SETTLE.min(self.patience));
                continue;
            }
            patience = true;
            let (main, security) = self.mirrors();
            let names =
                |mirror: &str| issues.iter().any(|i| !mirror.is_empty() && i.path.starts_with(mirror));
            let (main_bad, security_bad) = (names(main), names(security));
            let other_bad = issues.iter().any(|i| !i.path.starts_with(main) && !i.path.starts_with(security));
            let mut at = self.mirrors.borrow_mut();
            let mut moved = false;
            if main_bad && at.0 + 1 < self.archive.mirrors.len() {
                at.0 += 1;
                moved = true;
            }
            if security_bad && at.1 + 1 < self.archive.security_mirrors.len() {
                at.1 += 1;
                moved = true;
            }
            drop(at);
            // Where pages take the place of some files, others that are not as they should be are pages, too.
            let portal = issues.iter().any(is_portal);
            for issue in issues.into_iter().filter(|issue| !(portal && unsettled(issue))) {
                if !seen.contains(&issue) {
                    seen.push(issue);
                }
            }
            if !moved || other_bad {
                return Err(Issues(seen).into());
            }
            self.write_sources()?;
        }
    }

    fn update_once(
        &self,
        runner: &dyn Runner,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Result<Vec<Issue>, Vec<Issue>>> {
        let crawl = Arc::new(Crawl::new(&self.lists(), self.patience));
        let watch = crawl.clone();
        let cmd = self
            .command("apt-get")
            .end_when(move || watch.is_hopeless())
            // Without this a release that cannot be fetched is only a warning, and old indexes are used.
            .args(["update", "--error-on=any", "-o", "APT::Status-Fd=1"])
            .timeout(UPDATE_LIMIT);
        let ran = runner.run_lines(&cmd, &mut |line| {
            if let Some(done) = download_status(line) {
                crawl.heard();
                progress(Progress { done, total: 10_000, what: "package lists".to_owned() });
            }
        });
        let known = Known {
            archive: &self.archive,
            mirrors: self.mirrors(),
            keyring: &self.keyring,
            partial: self.lists().join("partial"),
        };
        match ran {
            Ok(output) => {
                let said = Apt::from_text(&String::from_utf8_lossy(&output.stderr));
                let (refused, noted) = known.wrong_names(&said);
                Ok(if refused.is_empty() { Ok(noted) } else { Err(refused) })
            }
            Err(_) if crawl.is_hopeless() => Ok(Err(known.crawling(&crawl.unfinished(), self.patience))),
            Err(failure) => Ok(Err(known.issues(&Apt::from_failure(failure)?))),
        }
    }
}

/// Whether an index was another than the release says: in a minute it may not be, or the release be no release either.
fn unsettled(issue: &Issue) -> bool {
    ["mirror-updating", "index-oversized"].contains(&issue.code.as_str())
}

/// `dlstatus:ITEM:PERCENT:TEXT` in hundredths of a percent.
fn download_status(line: &str) -> Option<u64> {
    let percent: f64 = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()?;
    Some((percent.clamp(0.0, 100.0) * 100.0) as u64)
}

/// A name that stays in its directory.
fn file_name(name: &str) -> Result<&str> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    if !plain {
        bail!("writing a preferences file called `{name}`: that is not a file name");
    }
    Ok(name)
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
