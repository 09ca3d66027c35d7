//! What a build made, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use akene_protocol::Bytes;
use akene_protocol::image::{self, ImageManifest, ImagePackage};
use anyhow::{Context, Result};
use serde::Serialize;

use crate::files;

/// `manifest.json` of a build.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The image's own manifest.
    pub image: Option<ImageManifest>,
    /// Packages the boot loaders come from.
    pub boot: Vec<ImagePackage>,
    /// Packages that were searched for firmware.
    pub firmware_packages: Vec<ImagePackage>,
    /// Number of kernel modules.
    pub modules: usize,
    /// Number of firmware files.
    pub firmware: usize,
    /// Firmware that modules name and no package has.
    pub missing_firmware: Vec<String>,
    /// Programs taken out because a library of theirs was left out.
    pub dropped_programs: Vec<String>,
    /// Parts of the live root before compression.
    pub unpacked: BTreeMap<String, Bytes>,
    /// Parts of the medium.
    pub parts: BTreeMap<String, Bytes>,
    /// The ISO.
    pub iso: Bytes,
}

impl Report {
    /// Looks at what lies on the medium.
    pub(crate) fn measure(&mut self, tree: &Path, staging: &Path, esp: &Path, iso: &Path) -> Result<()> {
        let size = |path: &Path| -> Result<Bytes> {
            Ok(Bytes(fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?.len()))
        };
        let mut put = |name: &str, bytes: Bytes| self.parts.insert(name.to_owned(), bytes);
        put("initrd: live root (squashfs)", size(&staging.join(image::ROOT))?);
        put("initrd: agent", size(&staging.join(akene_archive::initrd::INIT))?);
        put("initrd: kernel, to be put on the disk", size(&staging.join(image::KERNEL))?);
        let modules = staging.join(image::MODULES);
        put("initrd: early modules", Bytes(if modules.is_dir() { files::size(&modules)? } else { 0 }));
        let loaders = files::size(&staging.join(image::LOADER))?;
        put("initrd: boot loaders for the disk", Bytes(loaders));
        put("kernel", size(&tree.join("akene/vmlinuz"))?);
        put(
            "boot loaders, menu, memory test",
            Bytes(files::size(&tree.join("boot"))? + files::size(&tree.join("EFI"))?),
        );
        put("EFI partition", size(esp)?);
        self.iso = size(iso)?;
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(image) = &self.image {
            writeln!(
                f,
                "{:?} {}, kernel {}, {} packages{}",
                image.distribution,
                image.suite,
                image.kernel,
                image.packages.len(),
                if image.wireless { ", with wireless" } else { "" }
            )?;
        }
        writeln!(
            f,
            "{} kernel modules, {} firmware files ({} named but in no package)",
            self.modules,
            self.firmware,
            self.missing_firmware.len()
        )?;
        if self.firmware == 0 && !self.missing_firmware.is_empty() {
            let searched: Vec<&str> = self.firmware_packages.iter().map(|p| p.name.as_str()).collect();
            writeln!(
                f,
                "WARNING: none of the firmware that cards ask for is in {}: some network cards will not work",
                if searched.is_empty() { "the archive's components".into() } else { searched.join(", ") }
            )?;
        }
        for program in &self.dropped_programs {
            writeln!(f, "left out for want of a library: {program}")?;
        }
        writeln!(f, "\nlive root before compression")?;
        table(f, &self.unpacked)?;
        writeln!(f, "\nmedium")?;
        table(f, &self.parts)?;
        writeln!(f, "  {:<42} {:>12}", "ISO", self.iso.to_string())
    }
}

/// The largest first.
fn table(f: &mut fmt::Formatter<'_>, rows: &BTreeMap<String, Bytes>) -> fmt::Result {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (name, bytes) in rows {
        writeln!(f, "  {name:<42} {:>12}", bytes.to_string())?;
    }
    Ok(())
}
