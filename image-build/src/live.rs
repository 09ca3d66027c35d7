//! The live root: packages unpacked into a directory, and the few files their scripts would have made.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result, bail};

use crate::files;
use crate::kernel::merged_usr_links;
use crate::packages::Fetched;
use crate::recipe;

/// Programs an image is useless without.
const INDISPENSABLE: &[&str] = &[
    "usr/bin/bash",
    "usr/bin/sh",
    "usr/bin/mount",
    "usr/bin/udevadm",
    "usr/lib/systemd/systemd-udevd",
    "usr/bin/kmod",
    "usr/bin/apt-get",
    "usr/bin/dpkg",
    "usr/lib/apt/methods/http",
    "usr/sbin/mke2fs",
    "usr/sbin/mkfs.fat",
    "usr/bin/mtools",
    "usr/sbin/blkid",
    "usr/bin/tar",
    "usr/bin/ip",
];

/// Unpacks the live root.
pub fn unpack(packages: &[Fetched], root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    merged_usr_links(root)?;
    for package in packages {
        package.extract(root)?;
    }
    for dir in ["dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/lib/dpkg", "var/tmp"] {
        let path = root.join(dir);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    }
    Ok(())
}

/// Makes what maintainer scripts would have made, and takes away what is of no use. Gives back the programs that
/// were taken away because a library of theirs was left out.
pub fn finish(runner: &dyn Runner, root: &Path) -> Result<Vec<String>> {
    alternatives(root)?;
    certificates(root)?;
    for path in recipe::PRUNED {
        files::remove(&root.join(path))?;
    }
    accounts(root)?;
    settings(root)?;
    let dropped = drop_unusable(runner, root)?;
    for program in INDISPENSABLE {
        // Not followed: udevd is an absolute link, which would lead to the build host's.
        if fs::symlink_metadata(root.join(program)).is_err() {
            bail!("the live root has no /{program}: the recipe leaves out something it must not");
        }
    }
    Ok(dropped)
}

/// Names that packages settle by update-alternatives or in scripts.
fn alternatives(root: &Path) -> Result<()> {
    for (link, target) in [
        ("usr/bin/sh", "dash"),
        ("usr/bin/awk", "mawk"),
        ("usr/bin/pager", "less"),
        ("usr/bin/editor", "nano"),
        ("usr/sbin/udhcpc", "../bin/busybox"),
        ("usr/lib/firmware/regulatory.db", "regulatory.db-debian"),
        ("usr/lib/firmware/regulatory.db.p7s", "regulatory.db.p7s-debian"),
        ("etc/mtab", "../proc/self/mounts"),
        ("etc/os-release", "../usr/lib/os-release"),
        ("var/run", "../run"),
        ("var/lock", "../run/lock"),
    ] {
        let path = root.join(link);
        let aim = path.parent().unwrap_or(root).join(target);
        let there = fs::symlink_metadata(&path).is_ok();
        if !there && (fs::symlink_metadata(&aim).is_ok() || !link.starts_with("usr/")) {
            files::symlink(target, &path)?;
        }
    }
    Ok(())
}

/// Joins the certificates as update-ca-certificates does.
fn certificates(root: &Path) -> Result<()> {
    let source = root.join("usr/share/ca-certificates");
    let mut bundle = Vec::new();
    for path in files::walk(&source)?.iter().filter(|p| p.ends_with(".crt")) {
        let path = source.join(path);
        bundle.extend(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    files::write(&root.join("etc/ssl/certs/ca-certificates.crt"), bundle)?;
    files::remove(&source)
}

/// Users and groups: the distribution's fixed ones, and those that device rules name.
fn accounts(root: &Path) -> Result<()> {
    let master = |name: &str| {
        let path = root.join("usr/share/base-passwd").join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    files::write(&root.join("etc/passwd"), master("passwd.master")?)?;
    let groups = master("group.master")?;
    let known: BTreeSet<&str> = groups.lines().filter_map(|l| l.split(':').next()).collect();
    let mut wanted = BTreeSet::new();
    let rules = root.join("usr/lib/udev/rules.d");
    for name in files::names(&rules)? {
        let path = rules.join(&name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        wanted.extend(groups_named(&text).map(str::to_owned));
    }
    let mut text = groups.clone();
    for (number, group) in wanted.iter().filter(|g| !known.contains(g.as_str())).enumerate() {
        text.push_str(&format!("{group}:x:{}:\n", 900 + number));
    }
    files::write(&root.join("etc/group"), text)
}

/// The groups a udev rules file gives devices to.
fn groups_named(rules: &str) -> impl Iterator<Item = &str> {
    rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split("GROUP=\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .filter(|group| {
            group.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
        })
}

fn settings(root: &Path) -> Result<()> {
    for (path, text) in [
        ("etc/hostname", "akene\n"),
        ("etc/hosts", "127.0.0.1\tlocalhost akene\n::1\tlocalhost akene\n"),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n",
        ),
        ("etc/fstab", ""),
        ("etc/shells", "/bin/sh\n/bin/bash\n"),
        // Looking at a disk must not start anything that is on it.
        ("etc/mdadm/mdadm.conf", "AUTO -all\n"),
        ("var/lib/dpkg/status", ""),
        ("root/.bashrc", "PS1='rescue:\\w# '\n"),
    ] {
        files::write(&root.join(path), text)?;
    }
    Ok(())
}

/// Removes programs whose libraries are not there. The live root's own loader says which, so a build host
/// of another distribution gives the same answer.
fn drop_unusable(runner: &dyn Runner, root: &Path) -> Result<Vec<String>> {
    // Not by way of /lib64, whose link is absolute and leads to the build host's.
    let loader = root.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    let mut dropped = Vec::new();
    for dir in ["usr/bin", "usr/sbin", "usr/lib/udev", "usr/lib/systemd", "usr/lib/apt/methods"] {
        if !root.join(dir).is_dir() {
            continue;
        }
        for name in files::names(&root.join(dir))? {
            let path = root.join(dir).join(&name);
            let kind =
                fs::symlink_metadata(&path).with_context(|| format!("looking at {}", path.display()))?;
            if !kind.is_file() || !is_dynamic(&path)? {
                continue;
            }
            let cmd =
                Cmd::new(&loader).arg("--library-path").arg(library_path(root)).arg("--list").arg(&path);
            let output =
                runner.run(&cmd).with_context(|| format!("finding the libraries of /{dir}/{name}"))?;
            if !all_inside(&output.text(), root) {
                dropped.push(format!("{dir}/{name}"));
                files::remove(&path)?;
            }
        }
    }
    Ok(dropped)
}

/// Whether the loader found every library in the root. What it lacks there it may find on the build host, which
/// does not help the live system.
fn all_inside(listed: &str, root: &Path) -> bool {
    listed
        .lines()
        .filter_map(|line| line.split_once(" => "))
        .all(|(_, found)| Path::new(found).starts_with(root))
}

/// Where the live root's libraries are, for its own loader.
pub fn library_path(root: &Path) -> String {
    format!("{0}/usr/lib/x86_64-linux-gnu:{0}/usr/lib:{0}/usr/lib/x86_64-linux-gnu/systemd", root.display())
}

/// Whether a file is an ELF program that names a loader.
fn is_dynamic(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(4096).read_to_end(&mut head).with_context(|| format!("reading {}", path.display()))?;
    Ok(head.starts_with(b"\x7fELF") && head.windows(20).any(|w| w == b"ld-linux-x86-64.so.2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_the_build_host_is_not_there() {
        let here = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /build/live/usr/lib/libc.so.6 (0x0)\n";
        let host = format!("{here}\tlibpam.so.0 => /lib/x86_64-linux-gnu/libpam.so.0 (0x0)\n");
        let none = format!("{here}\tlibpam.so.0 => not found\n");
        let root = Path::new("/build/live");
        assert!(all_inside(here, root) && !all_inside(&host, root) && !all_inside(&none, root));
    }

    #[test]
    fn links_are_made_where_they_lead_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib/firmware")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("usr/lib/firmware/regulatory.db-debian"), "rules").unwrap();
        alternatives(root).unwrap();
        // Debian's rules of wireless, under the name the kernel asks for; without them nothing of it.
        assert_eq!(fs::read(root.join("usr/lib/firmware/regulatory.db")).unwrap(), b"rules");
        assert!(fs::symlink_metadata(root.join("usr/lib/firmware/regulatory.db.p7s")).is_err());
        assert!(fs::symlink_metadata(root.join("usr/bin/editor")).is_err());
    }

    #[test]
    fn groups_of_device_rules_are_found() {
        let rules = "# GROUP=\"no\"\nKERNEL==\"tty\", GROUP=\"tty\", MODE=\"0666\"\nA, GROUP=\"$env{X}\"\nGROUP=\"kvm\"\n";
        assert_eq!(groups_named(rules).collect::<Vec<_>>(), ["tty", "kvm"]);
    }
}
