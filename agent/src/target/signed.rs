//! The signed loaders of the distribution: which of them there are, and where they lie on an EFI system partition.
//!
//! What was installed does not stay good for ever. Firmware and shim know lists of revoked loaders, which grow, and upgrades of
//! packages do not bring their new loaders to the partition everywhere: Ubuntu's scripts do it only where `grub-install` has left
//! its `core.efi`, Debian's only for the way a computer starts that they were installed on. [`renew`] does it for both.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use akene_archive::Root;
use anyhow::{Context, Result};

/// The directory of the loader that starts where the firmware knows of no other.
const REMOVABLE: &str = "EFI/BOOT";

/// A loader.
pub(super) struct Loader {
    /// Its name beside the others of its distribution, in `EFI/DISTRIBUTION`.
    pub name: &'static str,
    /// Its name in `EFI/BOOT`.
    pub removable: &'static str,
    pub content: Vec<u8>,
}

/// The loaders that the packages of a system bring, in the order in which they may be replaced: an old shim starts a new GRUB.
/// `None`: it has no shim, or no GRUB that one starts.
pub(super) fn loaders(root: &Root) -> Result<Option<Vec<Loader>>> {
    let read = |names: &[&str]| -> Result<Option<Vec<u8>>> {
        for name in names {
            if let Some(content) = root.read(name)? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    };
    let shim = read(&["usr/lib/shim/shimx64.efi.signed", "usr/lib/shim/shimx64.efi.signed.latest"])?;
    let grub = read(&["usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"])?;
    let manager = read(&["usr/lib/shim/mmx64.efi.signed", "usr/lib/shim/mmx64.efi"])?;
    let (Some(shim), Some(grub)) = (shim, grub) else { return Ok(None) };
    let loader = |name, content| Loader { name, removable: name, content };
    let mut loaders = vec![loader("grubx64.efi", grub)];
    loaders.extend(manager.map(|manager| loader("mmx64.efi", manager)));
    loaders.push(Loader { name: "shimx64.efi", removable: "BOOTX64.EFI", content: shim });
    Ok(Some(loaders))
}

impl Loader {
    /// Its paths on the partition: in the removable place, and beside the others of its distribution.
    pub fn places(&self, distribution: &str) -> [String; 2] {
        [format!("{REMOVABLE}/{}", self.removable), format!("EFI/{distribution}/{}", self.name)]
    }
}

/// Replaces the loaders on a mounted EFI system partition that are not those of the packages of the running system, whose root
/// this is, and gives their paths. A loader that is not there is not brought, and one in `EFI/BOOT` that was not the distribution's is left.
///
/// First all of one directory, then of the other: whichever a power cut finds half done, a firmware goes on to the other.
///
/// # Errors
/// They cannot be read or written.
pub(crate) fn renew(root: &Path, esp: &Path, distribution: &str) -> Result<Vec<String>> {
    let Some(loaders) = loaders(&Root::open(root)?)? else { return Ok(Vec::new()) };
    let mut renewed = Vec::new();
    for place in [0, 1] {
        let before = renewed.len();
        for loader in &loaders {
            let places = loader.places(distribution);
            let Some(there) = read(&esp.join(&places[place]))? else { continue };
            let is_ours = place == 1 || read(&esp.join(&places[1]))?.is_some_and(|twin| twin == there);
            if there != loader.content && is_ours {
                replace(&esp.join(&places[place]), &loader.content)?;
                renewed.push(places[place].clone());
            }
        }
        if renewed.len() > before {
            sync(esp)?;
        }
    }
    Ok(renewed)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some).with_context(|| format!("reading {}", path.display())),
    }
}

/// A FAT knows no modes: none is set.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("replacing {}", path.display()))
}

fn sync(esp: &Path) -> Result<()> {
    let doing = || format!("writing out {}", esp.display());
    nix::unistd::syncfs(File::open(esp).with_context(doing)?).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        root: tempfile::TempDir,
        esp: tempfile::TempDir,
    }

    impl Rig {
        fn put(dir: &Path, path: &str, content: &str) {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// The packages' loaders are called so, those on the partition so.
        fn new(packaged: &str, there: &str) -> Rig {
            let rig = Rig { root: tempfile::tempdir().unwrap(), esp: tempfile::tempdir().unwrap() };
            for path in
                ["shim/shimx64.efi.signed", "shim/mmx64.efi", "grub/x86_64-efi-signed/grubx64.efi.signed"]
            {
                let name = path.rsplit('/').next().unwrap().split('.').next().unwrap();
                Self::put(rig.root.path(), &format!("usr/lib/{path}"), &format!("{packaged} {name}"));
            }
            for loader in loaders(&Root::open(rig.root.path()).unwrap()).unwrap().unwrap() {
                let name = loader.name.split('.').next().unwrap();
                for place in loader.places("ubuntu") {
                    Self::put(rig.esp.path(), &place, &format!("{there} {name}"));
                }
            }
            rig
        }

        fn renew(&self) -> Vec<String> {
            renew(self.root.path(), self.esp.path(), "ubuntu").unwrap()
        }

        fn there(&self, path: &str) -> String {
            fs::read_to_string(self.esp.path().join(path)).unwrap()
        }
    }

    #[test]
    fn what_an_upgrade_brought_comes_to_the_partition_once() {
        let rig = Rig::new("new", "old");
        let wanted = [
            "EFI/BOOT/grubx64.efi",
            "EFI/BOOT/mmx64.efi",
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/ubuntu/grubx64.efi",
            "EFI/ubuntu/mmx64.efi",
            "EFI/ubuntu/shimx64.efi",
        ];
        assert_eq!(rig.renew(), wanted);
        assert_eq!(rig.there("EFI/BOOT/BOOTX64.EFI"), "new shimx64");
        assert_eq!(rig.there("EFI/ubuntu/grubx64.efi"), "new grubx64");
        assert_eq!(rig.renew(), Vec::<String>::new());
        let left: Vec<_> =
            ["EFI/BOOT", "EFI/ubuntu"].map(|d| fs::read_dir(rig.esp.path().join(d)).unwrap().count()).into();
        assert_eq!(left, [3, 3]);
    }

    #[test]
    fn whatever_a_power_cut_left_is_completed() {
        let all = Rig::new("new", "old").renew();
        for done in 0..all.len() {
            let rig = Rig::new("new", "old");
            for path in &all[..done] {
                let name =
                    if path.contains("BOOTX64") { "shimx64" } else { path.rsplit('/').next().unwrap() };
                Rig::put(rig.esp.path(), path, &format!("new {}", name.split('.').next().unwrap()));
            }
            Rig::put(rig.esp.path(), &format!("{}.new", all[done]), "ha");
            assert_eq!(rig.renew(), all[done..]);
            assert!(!rig.esp.path().join(format!("{}.new", all[done])).exists());
        }
    }

    #[test]
    fn what_somebody_else_put_there_and_what_is_not_there_stays_so() {
        let rig = Rig::new("new", "old");
        Rig::put(rig.esp.path(), "EFI/BOOT/BOOTX64.EFI", "of Windows");
        fs::remove_file(rig.esp.path().join("EFI/ubuntu/mmx64.efi")).unwrap();
        let renewed = rig.renew();
        assert_eq!(renewed, ["EFI/BOOT/grubx64.efi", "EFI/ubuntu/grubx64.efi", "EFI/ubuntu/shimx64.efi"]);
        assert_eq!(rig.there("EFI/BOOT/BOOTX64.EFI"), "of Windows");
        // Nothing that is signed: nothing to bring.
        fs::remove_dir_all(rig.root.path().join("usr/lib/shim")).unwrap();
        Rig::put(rig.esp.path(), "EFI/ubuntu/grubx64.efi", "made here");
        assert_eq!(rig.renew(), Vec::<String>::new());
    }
}
