//! Archives made for the purpose, signed by real keys and served over HTTP.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use akene_archive::{AptRoot, AptSettings};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::issue::Issues;
use akene_protocol::openpgp::Keys;
use akene_protocol::profile::{Apt, Distribution, Pocket, Repository};
use akene_protocol::resolve::Archive;
use akene_protocol::{Issue, Sha256};

use crate::deb;
use crate::http::{Answer, Server};

/// A key of somebody's.
pub struct Key {
    home: tempfile::TempDir,
}

impl Key {
    /// One of this kind (`ed25519`, `rsa2048`), which counts for ever.
    pub fn new(kind: &str) -> Self {
        Self::made(kind, "never", &[])
    }

    /// One that counts until this date, with more options for gpg.
    pub fn made(kind: &str, until: &str, more: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::DirBuilder::new().mode(0o700).create(home.path().join("gpg")).unwrap();
        let key = Key { home };
        key.gpg(more, &["--passphrase", "", "--quick-gen-key", "test@example.org", kind, "sign", until], b"");
        key
    }

    fn gpg(&self, more: &[&str], args: &[&str], input: &[u8]) -> Vec<u8> {
        let cmd = Cmd::new("gpg").arg("--homedir").arg(self.home.path().join("gpg")).args([
            "--batch",
            "--yes",
            "--quiet",
            "--pinentry-mode=loopback",
        ]);
        SystemRunner.run(&cmd.args(more).args(args).stdin(input)).unwrap_or_else(|e| panic!("{e:#}")).stdout
    }

    /// The public key as text.
    pub fn armoured(&self) -> String {
        String::from_utf8(self.gpg(&[], &["--armor", "--export"], b"")).unwrap()
    }

    /// The public key.
    pub fn binary(&self) -> Vec<u8> {
        self.gpg(&[], &["--export"], b"")
    }

    /// The binary key, in base64.
    pub fn base64(&self) -> String {
        self.armoured().lines().filter(|l| !l.starts_with(['-', '='])).collect::<Vec<_>>().join("\n")
    }

    /// As gpg itself says it.
    pub fn fingerprint(&self) -> String {
        let list = String::from_utf8(self.gpg(&[], &["--with-colons", "--list-keys"], b"")).unwrap();
        let line = list.lines().find(|l| l.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// A text with a signature around it.
    pub fn clearsigned(&self, text: &str, more: &[&str]) -> Vec<u8> {
        self.gpg(more, &["--clearsign"], text.as_bytes())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // gpg leaves its agent running; nothing hangs on whether it was there.
        let home = self.home.path().join("gpg");
        SystemRunner.run(&Cmd::new("gpgconf").arg("--homedir").arg(home).args(["--kill", "gpg-agent"])).ok();
    }
}

/// What a release file says.
pub struct Says {
    /// `Suite`.
    pub suite: &'static str,
    /// `Codename`.
    pub codename: &'static str,
    /// `Date`, in words of date(1).
    pub date: &'static str,
    /// `Valid-Until`, in the same.
    pub until: &'static str,
    /// Which sums of its indexes it gives.
    pub sums: &'static str,
    /// Whether its indexes lie under their sums too.
    pub by_hash: bool,
}

impl Default for Says {
    fn default() -> Self {
        Says {
            suite: "stable",
            codename: "stable",
            date: "1 hour ago",
            until: "1 week",
            sums: "SHA256",
            by_hash: false,
        }
    }
}

/// A directory of archives behind a web server.
pub struct Site {
    /// Where the archives lie.
    pub dir: tempfile::TempDir,
    /// What serves them.
    pub server: Server,
}

impl Site {
    /// `None`, said aloud, where the tools are missing.
    pub fn new() -> Option<Self> {
        for tool in ["gpg", "apt-get", "apt-ftparchive", "dpkg-deb"] {
            if SystemRunner.run(&Cmd::new(tool).arg("--version")).is_err() {
                eprintln!("SKIPPED: this test needs {tool}");
                return None;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let server = Server::start(move |path| {
            let file = root.join(path.trim_start_matches('/'));
            if file.is_file() { Answer::File(file) } else { Answer::Missing }
        })
        .unwrap();
        Some(Site { dir, server })
    }

    /// A file of theirs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The address of one of them.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.server.url())
    }

    /// Puts packages, given as control texts, into an archive, and what apt itself needs to solve anything.
    pub fn packages(&self, name: &str, controls: &[&str]) {
        let pool = self.path(name).join("pool");
        fs::create_dir_all(&pool).unwrap();
        for control in controls {
            deb::make(&pool, control, &[]).unwrap();
        }
        let scan = Cmd::new("apt-ftparchive").args(["packages", "pool"]).dir(self.path(name));
        let packages = SystemRunner.run(&scan).unwrap().stdout;
        let at = self.path(name).join("dists/stable/main/binary-amd64");
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("Packages"), &packages).unwrap();
        fs::write(self.path(name).join("Packages"), packages).unwrap();
    }

    /// The release file of an archive with packages, unsigned.
    pub fn release(&self, name: &str, says: &Says) -> String {
        let packages = fs::read(self.path(name).join("dists/stable/main/binary-amd64/Packages")).unwrap();
        let sum = match says.sums {
            "SHA256" => Sha256::of(&packages).to_string(),
            tool => {
                let cmd = Cmd::new(format!("{}sum", tool.to_lowercase())).stdin(packages.clone());
                SystemRunner.run(&cmd).unwrap().text().split(' ').next().unwrap().to_owned()
            }
        };
        if says.by_hash {
            let at = self.path(name).join("dists/stable/main/binary-amd64/by-hash/SHA256");
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join(&sum), &packages).unwrap();
        }
        format!(
            "Origin: Test\nSuite: {}\nCodename: {}\nDate: {}\nValid-Until: {}\nAcquire-By-Hash: {}\n\
             Architectures: amd64\nComponents: main\n{}:\n {sum} {size} main/binary-amd64/Packages\n {sum} {size} Packages\n",
            says.suite,
            says.codename,
            date(says.date),
            date(says.until),
            if says.by_hash { "yes" } else { "no" },
            says.sums,
            size = packages.len(),
        )
    }

    /// Signs an archive: in `dists/stable`, and flat.
    pub fn sign(&self, name: &str, key: &Key, says: &Says, more: &[&str]) {
        let signed = key.clearsigned(&self.release(name, says), more);
        fs::write(self.path(name).join("dists/stable/InRelease"), &signed).unwrap();
        fs::write(self.path(name).join("InRelease"), signed).unwrap();
    }

    /// The directory of apt for an archive; each call makes one that has seen nothing.
    pub fn apt(&self, archive: &Archive) -> AptRoot {
        let dir = self.path(&format!("apt-{}", Sha256::of(format!("{archive:?}").as_bytes())));
        fs::remove_dir_all(&dir).ok();
        let settings = AptSettings { archive, keyring: Path::new("/none"), proxy: None };
        AptRoot::create(&dir, &settings).unwrap()
    }

    /// Why this archive is refused.
    pub fn refusal(&self, archive: &Archive) -> Vec<Issue> {
        let error = self.apt(archive).update(&SystemRunner, &mut |_| {}).unwrap_err();
        let issues = error.downcast::<Issues>().unwrap_or_else(|e| panic!("not an issue: {e:#}")).0;
        issues.iter().for_each(|issue| eprintln!("{issue}"));
        issues
    }
}

fn date(words: &str) -> String {
    let cmd = Cmd::new("date").args(["-u", "-R", "-d", words]);
    SystemRunner.run(&cmd).unwrap().text().replace("+0000", "UTC")
}

/// A distribution of one suite, through the same defaults and key handling as a profile's.
pub fn archive(mirrors: &[String], key: &str) -> Archive {
    Archive::new(Apt {
        distribution: Some(Distribution::Debian),
        suite: Some("stable".into()),
        mirrors: mirrors.to_vec(),
        components: vec!["main".into()],
        pockets: Some(Vec::<Pocket>::new()),
        key: Some(key.to_owned()),
        ..Apt::default()
    })
    .unwrap()
}

/// A repository of the profile.
pub fn repository(uri: String, suite: &str, key: &str) -> Repository {
    let components = if suite.ends_with('/') { vec![] } else { vec!["main".into()] };
    let key = Keys::parse(key).unwrap().armoured();
    Repository { uri, suites: vec![suite.into()], components, key }
}

/// What every system of these tests needs.
pub const BASE: [&str; 3] = [
    "Package: base\nVersion: 1\nArchitecture: amd64\nEssential: yes\n",
    "Package: apt\nVersion: 2\nArchitecture: amd64\n",
    "Package: usr-is-merged\nVersion: 1\nArchitecture: all\n",
];
