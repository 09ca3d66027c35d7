//! A medium that installs with no network: what it holds, signed by the site key.
//!
//! A stick has two parts: the live system (the ISO, never written to after it was made) and a data partition with
//! the label [`LABEL`], where everything else lies below [`DIR`]. On a DVD that directory is part of the ISO, and
//! nothing can be written.
//!
//! | below `akene/` | what |
//! |---|---|
//! | `medium.json` | [`Medium`], signed: what is on the medium, each file with its size and SHA-256 |
//! | `medium.key` | the key this one medium signs reports with, see [`crate::report`] |
//! | `profiles/NAME.json` | a signed profile ([`crate::Bundle`]) |
//! | `profiles/NAME.lock.json` | its signed lock ([`crate::lock::ProfileLock`]) |
//! | `pool/SHA256` | package files, named by their sums |
//! | `reports/NAME.sealed` | what the server has not been told yet ([`crate::report`]); the only files that come and go |
//!
//! The packages are not listed here one by one: the signed locks name them by size and sum.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::{Document, PublicKey};
use crate::ids::{Sha256, as_text, from_hex};
use crate::size::Bytes;

/// The version of [`Medium`] this crate writes and reads.
pub const VERSION: u32 = 1;

/// Label of a stick's data partition.
pub const LABEL: &str = "AKENE_DATA";
/// Directory of everything on the data partition.
pub const DIR: &str = "akene";
/// The signed [`Medium`], below [`DIR`].
pub const MANIFEST: &str = "medium.json";
/// The medium's own signing key, below [`DIR`].
pub const KEY: &str = "medium.key";
/// Package files by sum, below [`DIR`].
pub const POOL: &str = "pool";
/// Sealed reports, below [`DIR`].
pub const REPORTS: &str = "reports";

/// One medium: 64 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediumId(pub [u8; 8]);

impl fmt::Display for MediumId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for MediumId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text, "the id of a medium").map(MediumId)
    }
}

as_text!(MediumId, "MediumId", "^[0-9a-f]{16}$", "64 random bits, 16 hexadecimal digits.");

/// What a medium holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Medium {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// Which medium this is.
    pub id: MediumId,
    /// Name of the site.
    pub site: String,
    /// When its content was put together.
    pub made: Timestamp,
    /// The public half of the key in `medium.key`, which reports are signed with.
    pub key: PublicKey,
    /// Associations a technician may choose from. Empty: they type a name, or none.
    #[serde(default)]
    pub associations: Vec<String>,
    /// The profiles, the one offered first at the beginning.
    pub profiles: Vec<MediumProfile>,
    /// Every file but packages, `medium.json` and reports, by its path below `akene/`: profiles and locks, and of the live system
    /// `vmlinuz` and `initrd.img`.
    pub files: Vec<MediumFile>,
}

impl Document for Medium {
    const PAYLOAD_TYPE: &'static str = "application/vnd.akene.medium+json; version=1";
}

/// A profile on a medium. The bundle lies at `profiles/NAME.json`, the lock at `profiles/NAME.lock.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MediumProfile {
    /// Name.
    pub name: String,
    /// Revision of the bundle, for people.
    pub revision: String,
    /// Bytes of all packages its machines can need.
    pub size: Bytes,
}

/// A file and its sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MediumFile {
    /// Where it lies, below `akene/`.
    pub path: String,
    /// Its size.
    pub size: Bytes,
    /// Its sum.
    pub sha256: Sha256,
}
