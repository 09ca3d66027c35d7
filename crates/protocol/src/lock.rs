//! A lock: the exact packages a resolved profile means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Sha256;
use crate::issue::Issue;
use crate::size::Bytes;

/// The version of [`Lock`] this crate writes and reads.
pub const VERSION: u32 = 1;

/// Every package of an installation, pinned by hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// Debian architecture: `amd64`.
    pub architecture: String,
    /// Packages in the order apt means to unpack them.
    pub packages: Vec<LockedPackage>,
}

impl Lock {
    /// Reads the document; refuses a version this program does not know.
    ///
    /// # Errors
    /// See [`crate::versioned::parse`].
    pub fn parse(text: &[u8]) -> Result<Self, Issue> {
        crate::versioned::parse(text, "lock", VERSION)
    }

    /// Bytes to fetch.
    pub fn download_size(&self) -> Bytes {
        self.packages.iter().map(|p| p.size).sum()
    }
}

/// One package file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedPackage {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Size of the `.deb`.
    pub size: Bytes,
    /// SHA-256 of the `.deb`, from a signed index.
    pub sha256: Sha256,
    /// Where it can be fetched from.
    pub urls: Vec<String>,
    /// File name apt looks for in its archive directory.
    pub file: String,
    /// Whether it belongs to the base that must stand before apt itself can run in the new root.
    #[serde(default)]
    pub base: bool,
    /// Whether it only helps during the installation: it is never part of the installed system.
    #[serde(default)]
    pub helper: bool,
}
