//! What a live image is made of: `akene/image.json` inside its initrd.
//!
//! Written by the image builder, read by the running live system (the build time is the floor of its
//! clock, the versions go into reports) and by `akene-image inspect`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Sha256;
use crate::profile::Distribution;
use crate::size::Bytes;

/// The version of [`ImageManifest`] this crate writes and reads.
pub const VERSION: u32 = 1;

/// Directory of the image's own files inside the initrd.
pub const DIR: &str = "akene";
/// The manifest, inside the initrd.
pub const MANIFEST: &str = "akene/image.json";
/// The live root, inside the initrd.
pub const ROOT: &str = "akene/live.squashfs";
/// The kernel that boots the image, inside the initrd.
pub const KERNEL: &str = "akene/vmlinuz";
/// Modules that must be loaded before the live root can be mounted, in the order of their names.
pub const MODULES: &str = "akene/modules";

/// Boot loaders with which a disk starts the installer before any package of the new system is there, inside
/// the initrd. Every path below is below this one.
pub const LOADER: &str = "akene/loader";
/// GRUB's first sector for a BIOS.
pub const LOADER_BOOT: &str = "boot.img";
/// GRUB's core image for a BIOS. It looks for [`crate::image::KERNEL`]'s copy on the boot partition.
pub const LOADER_CORE: &str = "core.img";
/// The signed first program of 64-bit UEFI.
pub const LOADER_SHIM: &str = "shimx64.efi";
/// The signed GRUB it starts; it reads `EFI/DISTRIBUTION/grub.cfg` of the image's distribution.
pub const LOADER_GRUB: &str = "grubx64.efi";
/// The key manager beside them; not every distribution has one.
pub const LOADER_MANAGER: &str = "mmx64.efi";
/// GRUB for 32-bit UEFI.
pub const LOADER_IA32: &str = "bootia32.efi";

/// What a live image is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImageManifest {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// Version of the program that built it.
    pub akene: String,
    /// Distribution of the packages.
    pub distribution: Distribution,
    /// `trixie`, `noble`.
    pub suite: String,
    /// Debian architecture: `amd64`.
    pub architecture: String,
    /// Kernel release, as `uname -r` says: `6.12.57+deb13-amd64`.
    pub kernel: String,
    /// When it was built, or `SOURCE_DATE_EPOCH`: no correct clock is earlier than this.
    pub built: Timestamp,
    /// Whether drivers and firmware of wireless cards are in it.
    #[serde(default)]
    pub wireless: bool,
    /// The packages the live root and the kernel come from, by name.
    pub packages: Vec<ImagePackage>,
    /// Files of the initrd other than this one, by path.
    #[serde(default)]
    pub files: Vec<ImageFile>,
}

/// A package an image is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImagePackage {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the `.deb`, from a signed index.
    pub sha256: Sha256,
}

/// A file of the initrd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImageFile {
    /// Path without a leading slash: `akene/live.squashfs`.
    pub path: String,
    /// Size.
    pub size: Bytes,
    /// SHA-256.
    pub sha256: Sha256,
}

impl ImageManifest {
    /// Reads the document; refuses a version this program does not know.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        crate::versioned::parse(text, "image manifest", VERSION).map_err(|issue| issue.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_and_another_version_is_refused() {
        let manifest = ImageManifest {
            version: VERSION,
            akene: "0.1.0".into(),
            distribution: Distribution::Debian,
            suite: "trixie".into(),
            architecture: "amd64".into(),
            kernel: "6.12.57+deb13-amd64".into(),
            built: Timestamp::from_second(1_760_000_000).unwrap(),
            wireless: true,
            packages: vec![ImagePackage {
                name: "udev".into(),
                version: "257.8-1".into(),
                architecture: "amd64".into(),
                sha256: Sha256::of(b"udev"),
            }],
            files: vec![],
        };
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(ImageManifest::parse(text.as_bytes()), Ok(manifest));
        // Images of before there was a choice had none.
        let before = text.replacen(",\"wireless\":true", "", 1);
        assert!(before != text && !ImageManifest::parse(before.as_bytes()).unwrap().wireless);
        let newer = text.replacen("\"version\":1", "\"version\":2", 1);
        assert!(ImageManifest::parse(newer.as_bytes()).unwrap_err().contains("has version 2"));
        assert!(ImageManifest::parse(b"{}").is_err());
    }
}
