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
}

impl EspFiles {
    /// Adds a file: `EFI/BOOT/BOOTX64.EFI`.
    pub fn add(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.files.push((path.to_owned(), content.into()));
    }

    /// Writes all of them. `scratch` is a directory for the copies mtools reads.
    pub fn write(&self, device: &Path, scratch: &Path, runner: &dyn Runner) -> Result<()> {
        let tool = |name: &str| {
            // The size in a kept ESP's header may not be a multiple of what mtools thinks a disk has.
            Cmd::new(name).env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(device)
        };
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
            let copy = scratch.join("esp-file");
            std::fs::write(&copy, content).with_context(|| format!("writing {}", copy.display()))?;
            runner
                .run(&tool("mcopy").arg("-o").arg(&copy).arg(format!("::{path}")))
                .with_context(|| format!("writing {path} to the ESP"))?;
        }
        Ok(())
    }

    fn has(&self, tool: &dyn Fn(&str) -> Cmd, dir: &Path, runner: &dyn Runner) -> bool {
        runner.run(&tool("mdir").args(["-b", &format!("::{}", dir.display())])).is_ok()
    }
}
