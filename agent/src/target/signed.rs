//! The signed loaders of the distribution: which of them there are, and where they lie on an EFI system partition.
//!
//! What was installed does not stay good for ever. Firmware and shim know lists of revoked loaders, which grow, and upgrades of
//! packages do not bring their new loaders to the partition everywhere: Ubuntu's scripts do it only where `grub-install` has left
//! its `core.efi`, Debian's only for the way a computer starts that they were installed on. [`renew`] does it for both.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use akene_archive::Root;
use anyhow::{Context, Result};
use object::read::pe::PeFile64;
use object::{Object, ObjectSection};

/// The directory of the loader that starts where the firmware knows of no other.
const REMOVABLE: &str = "EFI/BOOT";

/// By this shim makes new entries for a firmware that has lost its own, and starts those before anything else. `grub-install` puts
/// one there, and another distribution's shim takes it for an attack.
pub(super) const FALLBACK: &str = "EFI/BOOT/fbx64.efi";

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
/// this is, and gives their paths. In a directory where there is no `grub.cfg` nobody of ours ever put one.
///
/// What is older than what is there is left: shim remembers, outside of the disk, which generations it must not start any more.
/// First all of one directory, then of the other, each on the disk before the next: whichever a power cut finds half done, a
/// firmware goes on to the other. A FAT has no journal: what a cut has torn or taken away is brought again.
///
/// # Errors
/// The first that could not be read or written. What could be was.
pub(crate) fn renew(root: &Path, esp: &Path, distribution: &str) -> Result<Vec<String>> {
    let Some(loaders) = loaders(&Root::open(root)?)? else { return Ok(Vec::new()) };
    let (mut renewed, mut failed) = (Vec::new(), None);
    for place in [0, 1] {
        for loader in &loaders {
            let path = &loader.places(distribution)[place];
            let at = esp.join(path);
            if !at.with_file_name("grub.cfg").exists() {
                break;
            }
            match bring(&at, &loader.content, distribution) {
                Ok(true) => renewed.push(path.clone()),
                Ok(false) => {}
                Err(error) => {
                    // A new shim must not meet an old GRUB.
                    failed.get_or_insert(error);
                    break;
                }
            }
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(renewed),
    }
}

/// Brings one loader, unless what is there is as good. True: it was brought.
fn bring(path: &Path, content: &[u8], distribution: &str) -> Result<bool> {
    let there = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        there => Some(there.with_context(|| format!("reading {}", path.display()))?),
    };
    if there.is_some_and(|there| there == content || !gives_way(&there, content, distribution)) {
        return Ok(false);
    }
    replace(path, content)?;
    Ok(true)
}

/// Whether the program that is there gives way to another: it is damaged, or the distribution's own and of no later generation.
fn gives_way(there: &[u8], new: &[u8], distribution: &str) -> bool {
    let Some(there) = generations(there) else { return true };
    let Some(new) = generations(new) else { return false };
    let own = |component: &String| {
        component.split('.').nth(1).is_some_and(|vendor| vendor.starts_with(distribution))
    };
    there.keys().any(own)
        && there.iter().all(|(component, old)| new.get(component).is_none_or(|new| new >= old))
}

/// The generation of each component that a program says it has (its section `.sbat`: lines of `NAME,GENERATION,…`, SBAT.md of
/// shim). None has none that is older than that, or somebody else's. `None`: these bytes are no whole program.
fn generations(program: &[u8]) -> Option<BTreeMap<String, u32>> {
    let file = PeFile64::parse(program).ok()?;
    let Some(section) = file.section_by_name(".sbat") else { return Some(BTreeMap::new()) };
    let text = String::from_utf8_lossy(section.data().ok()?);
    let line = |line: &str| {
        let mut fields = line.split(',');
        Some((fields.next()?.to_owned(), fields.next()?.trim().parse().ok()?))
    };
    let all: BTreeMap<String, u32> = text.trim_end_matches('\0').lines().filter_map(line).collect();
    // Which version of this they are in comes first, always.
    all.contains_key("sbat").then_some(all)
}

/// A FAT knows no modes: none is set.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // Names on a FAT are only in order when all of it is.
        nix::unistd::syncfs(File::open(path)?).map_err(Into::into)
    };
    write().map_err(|error| {
        // It may have taken the last room there is.
        fs::remove_file(&new).ok();
        anyhow::Error::new(error).context(format!("replacing {}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of one section, as much of one as is looked at: with these generations, or with something else.
    fn program(generations: &str) -> Vec<u8> {
        let (name, text) = match generations {
            "" => (b".text\0\0\0", "code"),
            text => (b".sbat\0\0\0", text),
        };
        let mut bytes = b"MZ".to_vec();
        bytes.resize(60, 0);
        bytes.extend(64u32.to_le_bytes());
        bytes.extend(b"PE\0\0");
        // Machine, sections, time, symbols (2), size of the optional header, characteristics.
        bytes.extend([0x64, 0x86, 1, 0]);
        bytes.extend([0; 12]);
        bytes.extend([240, 0, 0x22, 0]);
        let mut optional = vec![0; 240];
        optional[..2].copy_from_slice(&0x20b_u16.to_le_bytes());
        // Tables, whose places follow.
        optional[108] = 16;
        bytes.extend(optional);
        bytes.extend(name);
        let (size, at) = (text.len() as u32, bytes.len() as u32 + 32);
        for number in [size, 0x1000, size, at] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([0; 16]);
        bytes.extend(text.as_bytes());
        bytes
    }

    fn generations_text(generation: u32, vendor: &str, name: &str) -> String {
        format!("sbat,1,SBAT Version\nshim,{generation},UEFI shim\nshim.{vendor},1,{name}\n")
    }

    fn of(generation: u32, vendor: &str, name: &str) -> Vec<u8> {
        program(&generations_text(generation, vendor, name))
    }

    struct Rig {
        root: tempfile::TempDir,
        esp: tempfile::TempDir,
    }

    impl Rig {
        fn put(dir: &Path, path: &str, content: &[u8]) {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// The packages' loaders have this generation, those on the partition that one.
        fn new(packaged: u32, there: u32) -> Rig {
            let rig = Rig { root: tempfile::tempdir().unwrap(), esp: tempfile::tempdir().unwrap() };
            for path in
                ["shim/shimx64.efi.signed", "shim/mmx64.efi", "grub/x86_64-efi-signed/grubx64.efi.signed"]
            {
                let name = path.rsplit('/').next().unwrap().split('.').next().unwrap();
                Self::put(rig.root.path(), &format!("usr/lib/{path}"), &of(packaged, "ubuntu", name));
            }
            for loader in loaders(&Root::open(rig.root.path()).unwrap()).unwrap().unwrap() {
                let name = loader.name.split('.').next().unwrap();
                for place in loader.places("ubuntu") {
                    Self::put(rig.esp.path(), &place, &of(there, "ubuntu", name));
                }
            }
            ["BOOT", "ubuntu"]
                .iter()
                .for_each(|dir| Self::put(rig.esp.path(), &format!("EFI/{dir}/grub.cfg"), b""));
            rig
        }

        fn renew(&self) -> Vec<String> {
            renew(self.root.path(), self.esp.path(), "ubuntu").unwrap()
        }

        fn on_esp(&self, path: &str, content: &[u8]) {
            Self::put(self.esp.path(), path, content);
        }

        fn there(&self, path: &str) -> Vec<u8> {
            fs::read(self.esp.path().join(path)).unwrap()
        }
    }

    const ALL: [&str; 6] = [
        "EFI/BOOT/grubx64.efi",
        "EFI/BOOT/mmx64.efi",
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/ubuntu/grubx64.efi",
        "EFI/ubuntu/mmx64.efi",
        "EFI/ubuntu/shimx64.efi",
    ];

    #[test]
    fn what_an_upgrade_brought_comes_to_the_partition_once() {
        let rig = Rig::new(4, 3);
        assert_eq!(rig.renew(), ALL);
        assert_eq!(rig.there("EFI/BOOT/BOOTX64.EFI"), of(4, "ubuntu", "shimx64"));
        assert_eq!(rig.there("EFI/ubuntu/grubx64.efi"), of(4, "ubuntu", "grubx64"));
        assert_eq!(rig.renew(), Vec::<String>::new());
        let count = |dir: &str| fs::read_dir(rig.esp.path().join(dir)).unwrap().count();
        assert_eq!(["EFI/BOOT", "EFI/ubuntu"].map(count), [4, 4], "nothing else is left there");
    }

    #[test]
    fn whatever_a_power_cut_left_is_completed() {
        for path in ALL {
            let whole = of(4, "ubuntu", "x");
            let mut zeros = whole.clone();
            let end = zeros.len();
            let text = end - generations_text(4, "ubuntu", "x").len();
            zeros[text..].fill(0);
            for torn in [None, Some(&whole[..end - 9]), Some(b"".as_slice()), Some(&zeros)] {
                let rig = Rig::new(4, 3);
                rig.renew();
                fs::remove_file(rig.esp.path().join(path)).unwrap();
                torn.iter().for_each(|torn| rig.on_esp(path, torn));
                rig.on_esp(&format!("{path}.new"), b"ha");
                assert_eq!(rig.renew(), [path]);
                assert!(!rig.esp.path().join(format!("{path}.new")).exists());
            }
        }
    }

    #[test]
    fn nothing_takes_the_place_of_a_later_generation_or_of_somebody_elses() {
        assert_eq!(Rig::new(3, 4).renew(), Vec::<String>::new());
        // A rebuild of one generation is an upgrade as any other.
        let rig = Rig::new(4, 4);
        rig.on_esp(ALL[0], &of(4, "ubuntu", "an earlier build"));
        assert_eq!(rig.renew(), [ALL[0]]);
        for other in
            [of(1, "debian", "shimx64"), program(""), program("sbat,1,SBAT Version\nbootmgfw,1,Windows\n")]
        {
            let rig = Rig::new(4, 3);
            rig.on_esp(ALL[2], &other);
            rig.renew();
            assert_eq!(rig.there(ALL[2]), other);
        }
        let rig = Rig::new(4, 3);
        fs::remove_file(rig.esp.path().join("EFI/BOOT/grub.cfg")).unwrap();
        assert_eq!(rig.renew(), ALL[3..]);
        // Nothing that is signed: nothing to bring.
        fs::remove_dir_all(rig.root.path().join("usr/lib/shim")).unwrap();
        rig.on_esp(ALL[3], b"");
        assert_eq!(rig.renew(), Vec::<String>::new());
    }

    #[test]
    fn one_that_cannot_be_replaced_keeps_its_shim_back_and_nothing_else() {
        let rig = Rig::new(4, 3);
        let path = rig.esp.path().join(ALL[0]);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = renew(rig.root.path(), rig.esp.path(), "ubuntu").unwrap_err();
        assert!(format!("{error:#}").contains("EFI/BOOT/grubx64.efi"), "{error:#}");
        assert_eq!(rig.there(ALL[2]), of(3, "ubuntu", "shimx64"));
        assert_eq!(rig.there(ALL[5]), of(4, "ubuntu", "shimx64"));
    }
}
