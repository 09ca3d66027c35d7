//! A stand-in for Ubuntu's archive, made of the host's Debian packages.
//!
//! Ubuntu's own archive cannot be reached from everywhere, and a test must not depend on what it holds
//! today. What distinguishes it for the installer is kept: suites `noble`, `noble-updates` and
//! `noble-security`, four components, `.deb`s compressed with zstd, the names `ubuntu-minimal`,
//! `linux-generic` and `ubuntu-keyring`, and a key of its own. It installs through exactly the code that
//! installs Ubuntu.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use akene_exec::{Cmd, Runner, SystemRunner};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::deb;
use crate::http::{Answer, Server};
use crate::mirror::{Mirror, cache_dir};

/// Changes whenever what is built here does.
const RECIPE: &str = "4";

/// The stand-in's release.
pub const SUITE: &str = "noble";

/// What an installation may ask for besides the essential packages.
const PACKAGES: &[&str] = &[
    "apt",
    "apt-utils",
    "base-passwd",
    "bash-completion",
    "ca-certificates",
    "console-setup",
    "cron",
    "dbus",
    "dbus-user-session",
    "debconf",
    "debconf-i18n",
    "dmidecode",
    "dosfstools",
    "e2fsprogs",
    "eatmydata",
    "efibootmgr",
    "eject",
    "ethtool",
    "fdisk",
    "gpgv",
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-efi-amd64-signed",
    "grub-efi-ia32-bin",
    "grub-pc",
    "grub-pc-bin",
    "grub2-common",
    "ifupdown",
    "init",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "keyboard-configuration",
    "kbd",
    "kmod",
    "less",
    "libnss-systemd",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "locales",
    "login",
    "logrotate",
    "lsb-release",
    "mtools",
    "nano",
    "netbase",
    "netcat-openbsd",
    "netplan.io",
    "nvme-cli",
    "openssh-client",
    "openssh-server",
    "passwd",
    "pciutils",
    "procps",
    "python3",
    "rsyslog",
    "shim-signed",
    "smartmontools",
    "sudo",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "tzdata",
    "ucf",
    "udev",
    "usbutils",
    "vim-tiny",
    "whiptail",
    "xkb-data",
    "zstd",
];

/// Packages that live in `universe`; the rest is in `main`.
const UNIVERSE: &[&str] = &["eatmydata", "libeatmydata1", "smartmontools", "nvme-cli", "bash-completion"];

/// The built archive and its keys.
pub struct Standin {
    /// Serves `/ubuntu`.
    pub server: Server,
    /// Armoured key it is signed with.
    pub key: String,
    dir: PathBuf,
}

impl Standin {
    /// Builds it, unless this state of the host's archive was built before, and serves it.
    pub fn start(mirror: &Mirror) -> Result<Self> {
        if mirror.host.distribution != "debian" {
            bail!(
                "the stand-in archive is made of Debian's packages; this machine runs {}",
                mirror.host.distribution
            );
        }
        let dir = build(mirror).context("building the stand-in archive")?;
        let key =
            std::fs::read_to_string(dir.join("keys/archive.asc")).context("reading the archive's key")?;
        let root = dir.join("ubuntu");
        let server = Server::start(move |path| match path.strip_prefix("/ubuntu/") {
            Some(rest) if !rest.split('/').any(|p| p == "..") && root.join(rest).is_file() => {
                Answer::File(root.join(rest))
            }
            _ => Answer::Missing,
        })?;
        Ok(Standin { server, key, dir })
    }

    /// Address of the archive.
    pub fn url(&self) -> String {
        format!("{}/ubuntu", self.server.url())
    }

    /// The profile of a small Ubuntu, with every default that Ubuntu has.
    pub fn profile(&self) -> String {
        format!(
            r#"description = "A small Ubuntu for tests"
locale = "C.UTF-8"
packages = ["ubuntu-minimal", "less"]

[identity]
hostname = "ubuntu-test"
username = "{}"

[ssh]
install-server = true
authorized-keys = ["{}"]

[apt]
distribution = "ubuntu"
suite = "{SUITE}"
mirrors = ["{url}"]
security-mirrors = ["{url}"]
install-recommends = false
key = """
{}"""
"#,
            crate::site::USER,
            crate::site::SSH_KEY,
            self.key,
            url = self.url()
        )
    }

    /// The file of a package in the main pool.
    pub fn package(&self, name: &str) -> Result<PathBuf> {
        let pool = self.dir.join("ubuntu/pool/main");
        let found = pool.read_dir().context("listing the pool")?.flatten().map(|e| e.path());
        found
            .into_iter()
            .find(|p| package_of(p) == name)
            .with_context(|| format!("finding {name} in the pool"))
    }

    /// Paths of all forms of the index of `SUITE/COMPONENT`, below `dists`.
    pub fn indexes(&self, of: &str) -> Result<Vec<String>> {
        let dir = self.dir.join("ubuntu/dists").join(of).join("binary-amd64");
        let find = Cmd::new("find").arg(".").args(["-type", "f"]).dir(&dir);
        let found = SystemRunner.run(&find)?.text();
        Ok(found.lines().map(|l| format!("{of}/binary-amd64/{}", l.trim_start_matches("./"))).collect())
    }

    /// `InRelease` of a suite signed by somebody else's key.
    pub fn signed_by_a_stranger(&self, suite: &str) -> Result<Vec<u8>> {
        let release = self.dir.join("ubuntu/dists").join(suite).join("Release");
        let home = tempfile::tempdir().context("making a directory for keys")?;
        let keys = Keys::new(home.path(), "stranger")?;
        let out = home.path().join("InRelease");
        keys.sign(&release, &out)?;
        std::fs::read(&out).with_context(|| format!("reading {}", out.display()))
    }
}

fn build(mirror: &Mirror) -> Result<PathBuf> {
    let base = cache_dir()?;
    // Tests of several programs may come here at once; the first builds.
    let gate = std::fs::File::create(base.join("standin.lock")).context("making the lock of the stand-in")?;
    let _held = nix::fcntl::Flock::lock(gate, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .context("waiting for the stand-in to be built")?;

    let tree = Tree::new(mirror)?;
    let dir = base.join(format!("standin-{}", tree.state()?));
    if dir.join("keys/archive.asc").exists() {
        return Ok(dir);
    }
    // Older states are of no use to anybody.
    for entry in base.read_dir().context("listing the cache")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("standin-") {
            std::fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    let root = dir.join("ubuntu");
    for component in ["main", "universe", "restricted", "multiverse"] {
        std::fs::create_dir_all(root.join("pool").join(component)).context("making the pool")?;
    }
    repack_all(&tree.download()?, &root.join("pool"))?;
    let keys = Keys::new(&dir.join("gnupg"), "archive")?;
    let keyring = keys.export(false)?;
    own_packages(&root.join("pool"), &keyring)?;
    for (suite, pool) in
        [(SUITE, "pool"), ("noble-updates", "pool-updates"), ("noble-security", "pool-security")]
    {
        publish(&root, suite, pool)?;
        let at = root.join("dists").join(suite);
        keys.sign(&at.join("Release"), &at.join("InRelease"))?;
    }
    std::fs::create_dir_all(dir.join("keys")).context("making the directory of keys")?;
    std::fs::write(dir.join("keys/archive.asc"), keys.export(true)?).context("writing the archive's key")?;
    Ok(dir)
}

/// A private apt that knows the mirror and nothing of this machine.
struct Tree {
    dir: tempfile::TempDir,
    mirror: String,
    suite: String,
}

impl Tree {
    fn new(mirror: &Mirror) -> Result<Self> {
        let dir = tempfile::tempdir().context("making a directory for apt")?;
        for part in
            ["lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.d"]
        {
            std::fs::create_dir_all(dir.path().join(part)).context("making apt's directories")?;
        }
        std::fs::write(dir.path().join("status"), "").context("writing an empty status file")?;
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let source = |uri: &str, suite: &str| format!("deb [signed-by={key}] {uri} {suite} main\n");
        let suite = &mirror.host.suite;
        let lines = source(&mirror.main(), suite) + &source(&mirror.security(), &format!("{suite}-security"));
        std::fs::write(dir.path().join("etc/sources.list"), lines).context("writing the sources")?;
        Ok(Tree { dir, mirror: mirror.main(), suite: suite.clone() })
    }

    /// What the archive holds right now, in a few characters.
    fn state(&self) -> Result<String> {
        let url = format!("{}/dists/{}/InRelease", self.mirror, self.suite);
        let to = self.dir.path().join("InRelease");
        let helper = Cmd::new("/usr/lib/apt/apt-helper").args([
            "-o",
            "APT::Sandbox::User=root",
            "download-file",
            &url,
        ]);
        SystemRunner.run(&helper.arg(&to))?;
        let release = std::fs::read(&to).context("reading the archive's release file")?;
        Ok(format!("{RECIPE}-{}", &hex::encode(Sha256::digest(&release))[..12]))
    }

    fn apt(&self) -> Cmd {
        let at = |part: &str| self.dir.path().join(part).display().to_string();
        Cmd::new("apt-get").env("APT_CONFIG", "/dev/null").args([
            "-qq".to_owned(),
            "--yes".to_owned(),
            format!("-oDir::Etc={}", at("etc")),
            format!("-oDir::Etc::SourceList={}", at("etc/sources.list")),
            format!("-oDir::Etc::SourceParts={}", at("etc/sources.d")),
            format!("-oDir::State={}", at("")),
            format!("-oDir::State::Lists={}", at("lists")),
            format!("-oDir::State::Status={}", at("status")),
            format!("-oDir::Cache={}", at("")),
            format!("-oDir::Cache::Archives={}", at("archives")),
            "-oAPT::Architecture=amd64".to_owned(),
            "-oAPT::Architectures::=amd64".to_owned(),
            "-oAPT::Install-Recommends=false".to_owned(),
            "-oAPT::Sandbox::User=root".to_owned(),
            "-oAcquire::Check-Valid-Until=false".to_owned(),
            "-oAcquire::Languages=none".to_owned(),
        ])
    }

    /// All packages an installation may need, downloaded and verified by apt.
    fn download(&self) -> Result<Vec<PathBuf>> {
        SystemRunner.run(&self.apt().arg("update"))?;
        SystemRunner.run(&self.apt().args(["--download-only", "install", "?essential"]).args(PACKAGES))?;
        let archives = self.dir.path().join("archives");
        let mut debs: Vec<_> =
            archives.read_dir().context("listing what apt fetched")?.flatten().map(|e| e.path()).collect();
        debs.retain(|p| p.extension().is_some_and(|e| e == "deb"));
        debs.sort();
        // The downloads outlive this function's caller only as repacked files.
        Ok(debs)
    }
}

/// The name of a package file up to its first underscore.
fn package_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('_').next().unwrap_or_default().to_owned()
}

fn repack_all(debs: &[PathBuf], pool: &Path) -> Result<()> {
    let queue = Mutex::new(debs.iter());
    let worker = || -> Result<()> {
        loop {
            let next = queue.lock().ok().and_then(|mut queue| queue.next());
            let Some(from) = next else { return Ok(()) };
            let component = if UNIVERSE.contains(&package_of(from).as_str()) { "universe" } else { "main" };
            let to = pool.join(component).join(from.file_name().context("a package file has a name")?);
            if package_of(from) == "base-files" {
                deb::edit(from, &to, "usr/lib/os-release", |_| OS_RELEASE.to_owned())?;
            } else {
                deb::repack_with_zstd(from, &to)?;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|w| w.join().unwrap_or_else(|_| bail!("repacking a package panicked")))
    })
}

const OS_RELEASE: &str = "PRETTY_NAME=\"Ubuntu 24.04 LTS (stand-in)\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\n\
    VERSION=\"24.04 LTS (Noble Numbat)\"\nVERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=noble\n";

/// The packages Debian does not have.
fn own_packages(pool: &Path, keyring: &[u8]) -> Result<()> {
    let package = |name: &str, version: &str, depends: &str| {
        format!("Package: {name}\nVersion: {version}\nArchitecture: all\nDepends: {depends}\n")
    };
    let main = pool.join("main");
    let minimal = "apt, init, systemd-sysv, udev, kmod, netbase, sudo, ubuntu-keyring, whiptail, vim-tiny";
    deb::make(&main, &package("ubuntu-minimal", "1.539", minimal), &[])?;
    deb::make(&main, &package("linux-generic", "6.8.0.31.31", "linux-image-generic"), &[])?;
    deb::make(&main, &package("linux-image-generic", "6.8.0.31.31", "linux-image-cloud-amd64"), &[])?;
    let file = ("usr/share/keyrings/ubuntu-archive-keyring.gpg", keyring.to_vec());
    deb::make(&main, &package("ubuntu-keyring", "2023.11.28.1", "gpgv"), &[file])?;
    deb::make(&pool.join("restricted"), &package("standin-restricted", "1", "apt"), &[])?;
    // A newer version in each companion suite: an installation must pick these up.
    for (suite, name, version) in
        [("updates", "ubuntu-minimal", "1.539.1"), ("security", "linux-generic", "6.8.0.45.45")]
    {
        let pool = pool.with_file_name(format!("pool-{suite}"));
        for component in ["main", "universe", "restricted", "multiverse"] {
            std::fs::create_dir_all(pool.join(component)).context("making the pool")?;
        }
        let depends = if name == "linux-generic" { "linux-image-generic" } else { minimal };
        deb::make(&pool.join("main"), &package(name, version, depends), &[])?;
    }
    Ok(())
}

/// Writes the indexes and the release file of a suite.
fn publish(root: &Path, suite: &str, pool: &str) -> Result<()> {
    let mut components = BTreeSet::new();
    for entry in root.join(pool).read_dir().context("listing the pool")?.flatten() {
        let component = entry.file_name().to_string_lossy().into_owned();
        let at = root.join("dists").join(suite).join(&component).join("binary-amd64");
        std::fs::create_dir_all(&at).context("making the directory of an index")?;
        let scan = Cmd::new("apt-ftparchive").args(["packages", &format!("{pool}/{component}")]).dir(root);
        let index = at.join("Packages");
        std::fs::write(&index, SystemRunner.run(&scan)?.stdout).context("writing an index")?;
        SystemRunner.run(&Cmd::new("xz").args(["-k", "-1"]).arg(&index))?;
        SystemRunner.run(&Cmd::new("gzip").args(["-k", "-n"]).arg(&index))?;
        components.insert(component);
    }
    let field = |name: &str, value: &str| format!("-oAPT::FTPArchive::Release::{name}={value}");
    let components = components.into_iter().collect::<Vec<_>>().join(" ");
    let release = Cmd::new("apt-ftparchive")
        .args([
            field("Origin", "Ubuntu"),
            field("Label", "Ubuntu"),
            field("Suite", suite),
            field("Version", "24.04"),
            field("Codename", SUITE),
            field("Architectures", "amd64"),
            field("Components", &components),
            "-oAPT::FTPArchive::DoByHash=true".into(),
        ])
        .args(["release", &format!("dists/{suite}")])
        .dir(root);
    // Older than any clock a test sets, and the same each time.
    let dated = |line: &str| match line.starts_with("Date: ") {
        true => "Date: Wed, 24 Apr 2024 12:00:00 UTC\n".to_owned(),
        false => format!("{line}\n"),
    };
    let text: String = SystemRunner.run(&release)?.text().lines().map(dated).collect();
    std::fs::write(root.join("dists").join(suite).join("Release"), text).context("writing a release file")
}

/// An OpenPGP key in a directory of its own.
struct Keys {
    home: PathBuf,
}

impl Keys {
    fn new(home: &Path, name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        if !home.exists() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(home)
                .context("making a key directory")?;
        }
        let keys = Keys { home: home.to_owned() };
        let user = format!("Akene test {name} <{name}@example.org>");
        SystemRunner.run(&keys.gpg().args(["--quick-generate-key", &user, "rsa2048", "sign", "never"]))?;
        Ok(keys)
    }

    fn gpg(&self) -> Cmd {
        // The date is long past, so that a machine with a slow clock does not call the key a future one.
        Cmd::new("gpg").arg("--homedir").arg(&self.home).args([
            "--batch",
            "--yes",
            "--quiet",
            "--pinentry-mode=loopback",
            "--passphrase=",
            "--faked-system-time=20240424T000000",
        ])
    }

    fn sign(&self, release: &Path, to: &Path) -> Result<()> {
        SystemRunner
            .run(&self.gpg().args(["--digest-algo=SHA512", "--clearsign", "-o"]).arg(to).arg(release))?;
        Ok(())
    }

    fn export(&self, armour: bool) -> Result<Vec<u8>> {
        let gpg = if armour { self.gpg().arg("--armor") } else { self.gpg() };
        Ok(SystemRunner.run(&gpg.arg("--export"))?.stdout)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // gpg leaves its agent running; nothing hangs on whether it was there.
        SystemRunner
            .run(&Cmd::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "gpg-agent"]))
            .ok();
    }
}
