//! Roots made by others: a set of packages that apt chose, and mmdebstrap, which lets dpkg and apt do all the rest.
//!
//! Nothing here uses the code that is judged by it: apt itself chooses and fetches, `apt-ftparchive` makes an
//! archive of exactly the files that were fetched, and mmdebstrap installs from that.

use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use anyhow::{Context, Result};

use crate::http::{Answer, Server};
use crate::mirror::Mirror;

/// Where packages come from: lines of `sources.list`.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The suite's code name.
    pub suite: String,
    /// The lines.
    pub sources: String,
}

impl Archive {
    /// Debian's, with its security updates.
    pub fn debian(mirror: &Mirror, suite: &str) -> Self {
        let line = |uri: &str, suite: &str| {
            format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite} main\n")
        };
        let security = line(&mirror.security(), &format!("{suite}-security"));
        Archive { suite: suite.into(), sources: line(&mirror.main(), suite) + &security }
    }

    /// One of Ubuntu's, or one that looks like it, with its updates.
    pub fn ubuntu(url: &str, keyring: &Path, suite: &str) -> Self {
        let components = "main restricted universe multiverse";
        let line = |pocket: &str| {
            format!("deb [signed-by={}] {url} {suite}{pocket} {components}\n", keyring.display())
        };
        Archive { suite: suite.into(), sources: ["", "-updates", "-security"].map(line).concat() }
    }
}

/// Packages and what they were chosen for.
#[derive(Clone, Debug)]
pub struct Set {
    /// The files without which nothing runs, in the order of apt's solver.
    pub base: Vec<PathBuf>,
    /// All others, in that order.
    pub rest: Vec<PathBuf>,
    /// Their suite.
    pub suite: String,
    dir: PathBuf,
}

/// What every root begins with.
pub const BASE: &[&str] = &["?essential", "?priority(required)", "apt"];

/// The link farm of /usr for old systems is a package that draws in Perl; this one says it is not needed.
const MERGED: &str = "usr-is-merged";

/// Lets apt choose and fetch what a system with these packages consists of.
///
/// # Errors
/// apt cannot be asked, or refuses.
pub fn choose(dir: &Path, archive: &Archive, requested: &[&str], recommends: bool) -> Result<Set> {
    let at = |part: &str| dir.join(part).display().to_string();
    for sub in ["apt/etc/sources.d", "apt/etc/trusted.d", "apt/lists/partial", "archives/partial"] {
        std::fs::create_dir_all(dir.join(sub)).with_context(|| format!("making {}", at(sub)))?;
    }
    std::fs::write(dir.join("apt/status"), "").context("writing an empty database")?;
    std::fs::write(dir.join("apt/etc/sources.list"), &archive.sources).context("writing the sources")?;
    let apt = |words: &[&str]| {
        let options = [
            format!("-oDir::Etc={}", at("apt/etc")),
            format!("-oDir::Etc::SourceList={}", at("apt/etc/sources.list")),
            format!("-oDir::Etc::SourceParts={}", at("apt/etc/sources.d")),
            format!("-oDir::State={}", at("apt")),
            format!("-oDir::State::Lists={}", at("apt/lists")),
            format!("-oDir::State::Status={}", at("apt/status")),
            format!("-oDir::Cache={}", at("apt")),
            format!("-oDir::Cache::Archives={}", at("archives")),
            "-oAPT::Architecture=amd64".into(),
            "-oAPT::Architectures::=amd64".into(),
            format!("-oAPT::Install-Recommends={recommends}"),
            "-oAPT::Sandbox::User=root".into(),
            "-oAcquire::Check-Valid-Until=false".into(),
            "-oAcquire::Languages=none".into(),
        ];
        let cmd = Cmd::new("apt-get").env("APT_CONFIG", "/dev/null").args(["-qq", "--yes"]);
        SystemRunner.run(&cmd.args(options).args(words))
    };
    apt(&["update", "--error-on=any"]).context("reading the archive")?;
    let mut wanted = BASE.to_vec();
    let knows = apt(&["download", "--print-uris", MERGED]).is_ok();
    let names: Vec<&str> = requested.iter().copied().chain(knows.then_some(MERGED)).collect();
    wanted.extend(&names);
    // Files that are in the cache already are not printed.
    let none = format!("-oDir::Cache::Archives={}", at("apt/none"));
    std::fs::create_dir_all(dir.join("apt/none/partial")).context("making an empty cache")?;
    let order = |of: &[&str]| -> Result<Vec<PathBuf>> {
        let lines = apt(&[&[none.as_str(), "--print-uris", "install"], of].concat())?.text();
        let names = lines.lines().filter_map(|line| line.split_whitespace().nth(1));
        Ok(names.map(|name| dir.join("archives").join(name)).collect())
    };
    let base_names: Vec<&str> = BASE.iter().copied().chain(knows.then_some(MERGED)).collect();
    let base = order(&base_names).context("asking which packages are the base")?;
    let mut rest = order(&wanted).context("asking for the order of the packages")?;
    rest.retain(|deb| !base.contains(deb));
    apt(&[&["--download-only", "install"], wanted.as_slice()].concat()).context("choosing and fetching")?;
    Ok(Set { base, rest, suite: archive.suite.clone(), dir: dir.to_owned() })
}

impl Set {
    /// The base of it alone.
    pub fn base_alone(&self) -> Set {
        Set { rest: Vec::new(), ..self.clone() }
    }

    /// How many packages it has.
    pub fn len(&self) -> usize {
        self.base.len() + self.rest.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of all of them.
    pub fn names(&self) -> Vec<String> {
        let files = self.base.iter().chain(&self.rest).filter_map(|deb| deb.file_name()?.to_str());
        files.filter_map(|file| Some(file.split_once('_')?.0.to_owned())).collect()
    }

    /// For our engine. `pool` is [`Set::pool`].
    pub fn debs<'a>(&'a self, pool: &'a Path) -> akene_lay::Debs<'a> {
        akene_lay::Debs { base: &self.base, rest: &self.rest, pool }
    }

    /// All files in one directory, with the names that apt gives them, once they are [served](Self::serve).
    pub fn pool(&self) -> PathBuf {
        self.dir.join("debs")
    }

    /// Adds package files that no archive has.
    pub fn add(&mut self, debs: Vec<PathBuf>) {
        self.rest.extend(debs);
    }

    /// An archive of exactly these packages on the loopback interface.
    ///
    /// # Errors
    /// Its index cannot be made.
    pub fn serve(&self) -> Result<Local> {
        let root = self.dir.join("local");
        let (pool, all) = (root.join("pool"), self.pool());
        for dir in [&pool, &all] {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        for deb in self.base.iter().chain(&self.rest) {
            let name = deb.file_name().and_then(|n| n.to_str()).context("a package file has a name")?;
            for to in [pool.join(pool_name(name)), all.join(name)] {
                if !to.exists() {
                    std::fs::hard_link(deb, &to).or_else(|_| std::fs::copy(deb, &to).map(drop))?;
                }
            }
        }
        let binary = root.join("dists").join(&self.suite).join("main/binary-amd64");
        std::fs::create_dir_all(&binary).context("making the directory of the index")?;
        let scan = Cmd::new("apt-ftparchive").args(["packages", "pool"]).dir(&root);
        let index = SystemRunner.run(&scan.timeout(std::time::Duration::from_secs(1800)))?.stdout;
        std::fs::write(binary.join("Packages"), &index).context("writing the index")?;
        SystemRunner.run(&Cmd::new("gzip").args(["-kfn"]).arg(binary.join("Packages")))?;
        SystemRunner.run(&Cmd::new("xz").args(["-kf0"]).arg(binary.join("Packages")))?;
        let field = |name: &str, value: &str| format!("-oAPT::FTPArchive::Release::{name}={value}");
        let release = Cmd::new("apt-ftparchive")
            .args([
                field("Suite", &self.suite),
                field("Codename", &self.suite),
                field("Architectures", "amd64"),
                field("Components", "main"),
            ])
            .args(["release".to_owned(), format!("dists/{}", self.suite)])
            .dir(&root);
        let text = SystemRunner.run(&release)?.stdout;
        std::fs::write(root.join("dists").join(&self.suite).join("Release"), text)
            .context("writing the release file")?;
        let at = root.clone();
        let server = Server::start(move |path| {
            let file = at.join(path.trim_start_matches('/'));
            match !path.split('/').any(|p| p == "..") && file.is_file() {
                true => Answer::File(file),
                false => Answer::Missing,
            }
        })?;
        Ok(Local { server, suite: self.suite.clone() })
    }
}

/// The name of a package file in an archive's pool, from that in apt's cache: versions have no epoch there, and not
/// every client of an archive would ask for one with the right escapes.
pub fn pool_name(cached: &str) -> String {
    let mut parts: Vec<&str> = cached.split('_').collect();
    if let Some(version) = parts.get_mut(1) {
        *version = version.split_once("%3a").map_or(*version, |(_, rest)| rest);
    }
    parts.join("_")
}

/// The archive of one set.
pub struct Local {
    /// Serves it.
    pub server: Server,
    suite: String,
}

impl Local {
    /// Its line of `sources.list`. It has no signature: everything in it was verified on its way here.
    pub fn line(&self) -> String {
        format!("deb [trusted=yes] {} {} main", self.server.url(), self.suite)
    }
}

/// How mmdebstrap makes a root of a set: the command alone.
pub fn mmdebstrap(set: &Set, local: &Local, recommends: bool, root: &Path) -> Cmd {
    let links = "for d in bin sbin lib lib64; do mkdir -p \"$1/usr/$d\"; ln -s usr/$d \"$1/$d\"; done";
    // All of them by name: what a package's own control file says of its priority is not what the archive said.
    let names = set.names();
    Cmd::new("mmdebstrap")
        .args(["--mode=root", "--variant=apt", "--architectures=amd64"])
        .arg(format!("--setup-hook={links}"))
        .args(names.iter().map(|name| format!("--include={name}")))
        .arg(format!("--aptopt=APT::Install-Recommends \"{recommends}\""))
        .args(["--dpkgopt=force-confold", "--dpkgopt=force-confdef"])
        .env("TMPDIR", "/var/tmp")
        .arg(&set.suite)
        .arg(root)
        .arg(local.line())
        .timeout(std::time::Duration::from_secs(3600))
}

/// A root of a set, made by mmdebstrap, apt and dpkg. `before` is put into it first: path and content.
///
/// # Errors
/// One of them fails.
pub fn make(set: &Set, local: &Local, recommends: bool, before: &[(&str, &str)], root: &Path) -> Result<()> {
    let mut cmd = mmdebstrap(set, local, recommends, root);
    for (path, text) in before {
        let (dir, _) = path.rsplit_once('/').unwrap_or(("", path));
        let text = text.trim_end();
        cmd = cmd.arg(format!("--setup-hook=mkdir -p \"$1/{dir}\"; echo '{text}' > \"$1/{path}\""));
    }
    SystemRunner.run(&cmd).context("making the reference with mmdebstrap")?;
    // mmdebstrap writes this file in any case; dpkg does not where there is but one architecture.
    let arch = root.join("var/lib/dpkg/arch");
    if std::fs::read_to_string(&arch).is_ok_and(|text| text == "amd64\n") {
        std::fs::remove_file(&arch).with_context(|| format!("removing {}", arch.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_no_epochs() {
        assert_eq!(pool_name("zlib1g_1%3a1.3-1_amd64.deb"), "zlib1g_1.3-1_amd64.deb");
        assert_eq!(pool_name("apt_3.0.4_amd64.deb"), "apt_3.0.4_amd64.deb");
    }
}
