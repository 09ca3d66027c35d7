//! Files of the EFI system partition, written with mtools.
//!
//! mtools works on the device itself: no vfat driver is needed, on a disk as in a disk image, and what other
//! systems keep there is left alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result};

/// Files to be put on an ESP, by path there.
#[derive(Debug, Default)]
pub(super) struct EspFiles {
    files: Vec<(String, Vec<u8>)>,
    gone: Vec<String>,
}

impl EspFiles {
    /// Adds a file: `EFI/BOOT/BOOTX64.EFI`.
    pub fn add(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.files.push((path.to_owned(), content.into()));
    }

    /// Removes a file, if it is there.
    pub fn remove(&mut self, path: &str) {
        self.gone.push(path.to_owned());
    }

    /// Writes all of them, and removes what has to go. `scratch` is a directory for the copies mtools reads.
    pub fn write(&self, device: &Path, scratch: &Path, runner: &dyn Runner) -> Result<()> {
        let tool = |name: &str| {
            // The size in a kept ESP's header may not be a multiple of what mtools thinks a disk has.
            // Our names are ASCII, code page 367, which the C library knows by itself: for mtools' usual 850
            // it needs converters that the live system does not carry.
            Cmd::new(name).env("MTOOLS_SKIP_CHECK", "1").env("DEFAULT_CODEPAGE", "367").arg("-i").arg(device)
        };
        // mtools leaves what they write in memory.
        let sync = || {
            let esp = std::fs::File::options().write(true).open(device);
            esp.and_then(|esp| esp.sync_all()).with_context(|| format!("writing out {}", device.display()))
        };
        for path in self.gone.iter().filter(|path| self.has(&tool, Path::new(path), runner)) {
            let remove = tool("mdel").arg(format!("::{path}"));
            runner.run(&remove).with_context(|| format!("removing {path} from the ESP"))?;
            // Before what it must not meet is there.
            sync()?;
        }
        let mut made = BTreeSet::new();
        for (path, content) in &self.files {
            let above: Vec<PathBuf> = Path::new(path).ancestors().skip(1).map(Path::to_owned).collect();
            for dir in above.iter().rev().filter(|d| !d.as_os_str().is_empty()) {
                if made.insert(dir.clone()) && !self.has(&tool, dir, runner) {
                    runner
                        .run(&tool("mmd").arg(format!("::{}", dir.display())))
                        .context("making a directory on the ESP")?;
                }
            }
            // What is there already is not at risk while it is written again: nothing replaces a file at one stroke.
            let there = runner.run(&tool("mtype").arg(format!("::{path}")));
            if there.is_ok_and(|there| there.stdout == *content) {
                continue;
            }
            let copy = scratch.join("esp-file");
            std::fs::write(&copy, content).with_context(|| format!("writing {}", copy.display()))?;
            runner
                .run(&tool("mcopy").arg("-o").arg(&copy).arg(format!("::{path}")))
                .with_context(|| format!("writing {path} to the ESP"))?;
        }
        sync()
    }

    fn has(&self, tool: &dyn Fn(&str) -> Cmd, dir: &Path, runner: &dyn Runner) -> bool {
        runner.run(&tool("mdir").args(["-b", &format!("::{}", dir.display())])).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use akene_exec::{ChrootMounts, Output, SystemRunner};

    use super::*;

    /// Runs commands where the C library finds no character set converters, as in the live system.
    struct WithoutConverters {
        empty: PathBuf,
    }

    impl Runner for WithoutConverters {
        fn run_lines(&self, cmd: &Cmd, line: &mut dyn FnMut(&str)) -> Result<Output> {
            let here = ChrootMounts::new("/").bind(&self.empty, "/usr/lib/x86_64-linux-gnu/gconv");
            SystemRunner.run_lines(&cmd.clone().chroot(here), line)
        }
    }

    #[test]
    fn an_esp_is_filled_with_what_the_live_system_has() {
        let gconv = Path::new("/usr/lib/x86_64-linux-gnu/gconv");
        if !nix::unistd::geteuid().is_root() || !gconv.is_dir() {
            eprintln!("SKIPPED: hiding {} needs root and the directory", gconv.display());
            return;
        }
        // Not below /run, which the runner covers.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (esp, empty) = (dir.path().join("esp.img"), dir.path().join("empty"));
        std::fs::create_dir(&empty).unwrap();
        std::fs::File::create(&esp).unwrap().set_len(64 << 20).unwrap();
        SystemRunner.run(&Cmd::new("mkfs.vfat").args(["-n", "AKENE_ESP"]).arg(&esp)).unwrap();

        let mut files = EspFiles::default();
        files.add("EFI/BOOT/BOOTX64.EFI", "shim");
        files.add("EFI/debian/grub.cfg", "configfile");
        let runner = WithoutConverters { empty };
        files.write(&esp, dir.path(), &runner).unwrap();
        let mut others = EspFiles::default();
        others.add("EFI/BOOT/fbx64.efi", "another distribution's");
        others.write(&esp, dir.path(), &runner).unwrap();
        files.remove("EFI/BOOT/fbx64.efi");
        files.write(&esp, dir.path(), &runner).unwrap();
        files.write(&esp, dir.path(), &runner).unwrap();
        let listed =
            SystemRunner.run(&Cmd::new("mdir").args(["-b", "-i"]).arg(&esp).arg("::EFI/BOOT")).unwrap();
        assert!(
            listed.text().contains("BOOTX64.EFI") && !listed.text().contains("fbx64"),
            "{}",
            listed.text()
        );

        SystemRunner.run(&Cmd::new("fsck.vfat").arg("-n").arg(&esp)).unwrap();
        let back = Cmd::new("mtype").arg("-i").arg(&esp).arg("::EFI/debian/grub.cfg");
        assert_eq!(SystemRunner.run(&back).unwrap().text(), "configfile");
    }
}
