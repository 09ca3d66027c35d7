//! Kernels on a boot partition: what of them lies there, and which of them its menu starts.
//!
//! A menu is read as grub-mkconfig and [`crate::target`] write it, line by line. What GRUB's conditions would make of it does
//! not count: the first kernel is the one that is started when nobody chooses.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What of a kernel lies on a boot partition, in front of its version. The first two start it.
pub const KINDS: [&str; 4] = ["vmlinuz", "initrd.img", "System.map", "config"];

/// The version of the kernel that a file on a boot partition belongs to. `None`: to no kernel.
pub fn version_of(name: &str) -> Option<&str> {
    KINDS.iter().find_map(|kind| name.strip_prefix(kind)?.strip_prefix('-'))
}

/// What of kernels lies on a boot partition: names and versions.
pub fn list(boot: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(boot).with_context(|| format!("listing {}", boot.display()))? {
        let name = entry.with_context(|| format!("listing {}", boot.display()))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(version) = version_of(name) {
            found.push((name.to_owned(), version.to_owned()));
        }
    }
    Ok(found)
}

/// Whether what starts a kernel of this version lies on a boot partition.
pub fn can_start(boot: &Path, version: &str) -> bool {
    KINDS[..2].iter().all(|kind| boot.join(format!("{kind}-{version}")).is_file())
}

/// How a menu starts a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started<'a> {
    /// Its file, as GRUB finds it.
    pub kernel: &'a str,
    /// Its arguments.
    pub arguments: Vec<&'a str>,
    /// The files of its initrd.
    pub initrd: Vec<&'a str>,
}

impl<'a> Started<'a> {
    /// The version, where the kernel is a system's own: the installer's has none.
    pub fn version(&self) -> Option<&'a str> {
        self.kernel.rsplit_once("/vmlinuz-").map(|(_, version)| version)
    }

    /// UUID of the root that its arguments name, as it stands there.
    pub fn root(&self) -> Option<&'a str> {
        root_in(self.arguments.iter().copied())
    }
}

/// UUID of the root among a kernel's arguments, as it stands there.
pub fn root_in<'a>(mut arguments: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    arguments.find_map(|word| word.strip_prefix("root=UUID="))
}

/// The kernels that a menu starts, in its order.
pub fn started(menu: &str) -> impl Iterator<Item = Started<'_>> {
    let mut lines = menu.lines();
    std::iter::from_fn(move || {
        loop {
            let mut words = lines.next()?.split_whitespace();
            if !words.next().is_some_and(|command| command.starts_with("linux")) {
                continue;
            }
            let Some(kernel) = words.next() else { continue };
            // Within the same entry.
            let rest = lines.clone().map(str::trim).take_while(|line| *line != "}");
            let initrd =
                rest.take_while(|line| !line.starts_with("linux")).find(|line| line.starts_with("initrd"));
            let initrd = initrd.iter().flat_map(|line| line.split_whitespace().skip(1)).collect();
            return Some(Started { kernel, arguments: words.collect(), initrd });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MENU: &str = "if x; then\nmenuentry 'a' {\n\techo\t'Loading'\n\tlinux\t/vmlinuz-6.1 root=UUID=a ro  quiet\n\
        \tinitrd\t/early.img /initrd.img-6.1\n}\nfi\nmenuentry 'b' {\n  linux16 /boot/vmlinuz-6.12-amd64 x\n}\n\
        menuentry 'c' {\n\tlinux\n\tlinux /akene/vmlinuz akene.mode=install\n\tinitrd /akene/initrd.img\n}\n";

    #[test]
    fn a_menu_says_what_it_starts() {
        let all: Vec<_> = started(MENU).collect();
        let versions: Vec<_> = all.iter().map(Started::version).collect();
        assert_eq!(versions, [Some("6.1"), Some("6.12-amd64"), None]);
        let roots: Vec<_> = all.iter().map(Started::root).collect();
        assert_eq!(roots, [Some("a"), None, None]);
        assert_eq!((all[0].kernel, &all[0].arguments[1..]), ("/vmlinuz-6.1", &["ro", "quiet"][..]));
        assert_eq!(all[0].initrd, ["/early.img", "/initrd.img-6.1"]);
        assert_eq!(all[1].initrd, [""; 0], "the next entry's is not its own");
        assert_eq!(all[2].initrd, ["/akene/initrd.img"]);
        assert_eq!(started("").next(), None);
    }

    #[test]
    fn files_of_kernels_are_known_by_their_names() {
        let boot = tempfile::tempdir().unwrap();
        for name in
            ["vmlinuz-6.1", "config-6.1", "initrd.img-6.2", "vmlinuz", "vmlinuz.old", "memtest86+.bin"]
        {
            fs::write(boot.path().join(name), "").unwrap();
        }
        let mut found = list(boot.path()).unwrap();
        found.sort();
        let known = [("config-6.1", "6.1"), ("initrd.img-6.2", "6.2"), ("vmlinuz-6.1", "6.1")];
        assert_eq!(found, known.map(|(name, version)| (name.to_owned(), version.to_owned())));
    }
}
