//! What must be true of every installed system, whoever installed it and wherever.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, ExecError, Runner, SystemRunner};
use anyhow::{Context, Result, ensure};

use crate::image::{Image, inside};
use crate::site::{SSH_KEY, USER};

/// What the system was asked to be.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// First user, who may use sudo.
    pub user: String,
    /// A key that opens their account.
    pub ssh_key: String,
    /// Packages that must be installed.
    pub packages: Vec<String>,
    /// Texts that may be nowhere on the disk but in files only root reads.
    pub secrets: Vec<String>,
    /// Filesystems of it that lie over several disks, copied into files.
    pub volumes: Vec<PathBuf>,
    /// The system has not been started since it was installed.
    pub fresh: bool,
    /// UUID of the root of another system on the same disk, which is not looked at.
    pub beside: Option<String>,
}

impl Expected {
    /// The system of [`small_server`](crate::site::small_server), not started yet.
    pub fn of_small_server() -> Self {
        Expected {
            user: USER.into(),
            ssh_key: SSH_KEY.into(),
            packages: ["openssh-server", "sudo", "less", "grub-common"].map(String::from).into(),
            fresh: true,
            ..Expected::default()
        }
    }
}

/// Checks disk, filesystems, packages and configuration of the image.
pub fn installed(file: &Path, expected: &Expected) -> Result<()> {
    let mut image = Image::open(file)?;
    for volume in &expected.volumes {
        image.add(volume)?;
    }
    image.check_disk()?;
    let boot = image.labelled("AKENE_BOOT")?;
    ensure!(boot.filesystem == "ext4", "AKENE_BOOT is {}, not ext4", boot.filesystem);
    for loader in ["/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi"] {
        let head = image.esp_file(loader)?;
        ensure!(head.starts_with(b"MZ"), "{loader} on the ESP is no EFI program");
    }
    image.parts.retain(|part| expected.beside.as_ref() != Some(&part.uuid));
    let root = image.mount_system()?;
    packages(&root, expected)?;
    people(&root, expected)?;
    filesystems(&root, &image)?;
    if expected.fresh {
        untouched(&root)?;
    }
    secrets(&root, &expected.secrets)
}

fn packages(root: &Path, expected: &Expected) -> Result<()> {
    let audit = inside(root, &["dpkg", "--audit"])?;
    ensure!(audit.is_empty(), "dpkg --audit says: {audit}");
    inside(root, &["apt-get", "check", "-qq", "-oDebug::NoLocking=1", "-oDir::Cache=/run"])?;
    let changed = match inside(root, &["dpkg", "--verify"]) {
        Ok(said) => said,
        // It ends with 1 when it found something, which may be only configuration files.
        Err(error) => error.downcast_ref::<ExecError>().map(|e| e.tail.clone()).unwrap_or_default(),
    };
    // "??5?????? c /etc/…": a changed configuration file, which is what configuring means.
    let wrong: Vec<_> = changed.lines().filter(|l| l.get(10..12) != Some("c ")).collect();
    ensure!(wrong.is_empty(), "dpkg --verify says: {wrong:#?}");
    for package in &expected.packages {
        let state = inside(root, &["dpkg-query", "-W", "-f", "${db:Status-Status}", package])?;
        ensure!(state == "installed", "{package} is {state}");
    }
    Ok(())
}

fn people(root: &Path, expected: &Expected) -> Result<()> {
    if expected.user.is_empty() {
        return Ok(());
    }
    let groups = inside(root, &["id", "-nG", &expected.user])?;
    ensure!(groups.split(' ').any(|g| g == "sudo"), "{} may not use sudo: {groups}", expected.user);
    let home = root.join("home").join(&expected.user);
    let keys = home.join(".ssh/authorized_keys");
    let text = std::fs::read_to_string(&keys).with_context(|| format!("reading {}", keys.display()))?;
    ensure!(text.contains(&expected.ssh_key), "the key is not in {}", keys.display());
    let owner = home.metadata().context("looking at the home directory")?.uid();
    for path in [keys.clone(), home.join(".ssh")] {
        let meta = path.metadata().with_context(|| format!("looking at {}", path.display()))?;
        ensure!(meta.uid() == owner && owner >= 1000, "{} belongs to {}", path.display(), meta.uid());
        ensure!(meta.permissions().mode() & 0o077 == 0, "others may read {}", path.display());
    }
    Ok(())
}

fn filesystems(root: &Path, image: &Image) -> Result<()> {
    let fstab = std::fs::read_to_string(root.join("etc/fstab")).context("reading fstab")?;
    let mut mounted = Vec::new();
    for line in fstab.lines().filter(|l| !l.trim_start().starts_with('#') && !l.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        ensure!(words.len() == 6, "this line of fstab has not six fields: {line}");
        let uuid = words[0].strip_prefix("UUID=").with_context(|| format!("fstab names {}", words[0]))?;
        ensure!(image.parts.iter().any(|p| p.uuid == uuid), "fstab names an unknown filesystem: {line}");
        mounted.push(words[1].to_owned());
    }
    for wanted in ["/", "/boot", "/boot/efi"] {
        ensure!(mounted.iter().any(|m| m == wanted), "fstab does not mount {wanted}:\n{fstab}");
    }
    Ok(())
}

/// Nothing of the installer is left, and nothing is there that two machines must not share.
fn untouched(root: &Path) -> Result<()> {
    let id = std::fs::read_to_string(root.join("etc/machine-id")).context("reading machine-id")?;
    ensure!(id.trim().is_empty() || id.trim() == "uninitialized", "machine-id is already {id}");
    for leftover in ["usr/sbin/policy-rc.d", "etc/apt/apt.conf.d/99akene", "var/lib/systemd/random-seed"] {
        ensure!(!root.join(leftover).exists(), "/{leftover} was left over");
    }
    for dir in ["run", "tmp", "var/tmp", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial"] {
        let left: Vec<_> = match root.join(dir).read_dir() {
            Ok(entries) => entries.flatten().map(|e| e.file_name()).collect(),
            Err(_) => continue,
        };
        ensure!(left.is_empty(), "/{dir} holds {left:?}");
    }
    let debs =
        SystemRunner.run(&Cmd::new("find").arg(root.join("var/cache/apt")).args(["-name", "*.deb"]))?.text();
    ensure!(debs.is_empty(), "packages were left over: {debs}");
    Ok(())
}

/// Secrets may be in files that only root reads, and nowhere else.
fn secrets(root: &Path, secrets: &[String]) -> Result<()> {
    for secret in secrets {
        let search = Cmd::new("grep").args(["-rlIF", "--devices=skip", "-e", secret]).arg(root);
        let found = match SystemRunner.run(&search) {
            Ok(output) => output.text(),
            // 1: nothing found.
            Err(e) if e.downcast_ref::<ExecError>().is_some_and(|e| e.code == Some(1)) => continue,
            Err(e) => return Err(e),
        };
        for file in found.lines() {
            let mode = Path::new(file)
                .metadata()
                .with_context(|| format!("looking at {file}"))?
                .permissions()
                .mode();
            // Programs of the group `shadow` check passwords, and may do nothing else.
            let closed = if file.contains("/etc/shadow") { 0o037 } else { 0o077 };
            ensure!(mode & closed == 0, "a secret lies open in {file} (mode {:o})", mode & 0o7777);
            ensure!(!file.contains("/var/log/"), "a secret is in the log {file}");
        }
    }
    Ok(())
}
