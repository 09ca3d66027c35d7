//! A lock: the exact packages a resolved profile means.
//!
//! Three documents, from general to particular:
//!
//! - [`Request`]: what a machine asks an archive for. It follows from profile, plan and firmware alone, needs no
//!   archive, and is therefore what a machine is recognised by.
//! - [`ProfileLock`]: a profile's answers to every request its machines can have, made once, signed by the site
//!   key, and the same for all of them.
//! - [`Lock`]: the packages of one machine, pinned by hash: one answer of a signed lock, or what the machine
//!   found out by itself.

mod age;
mod request;
mod signed;
mod snap;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Sha256;
use crate::issue::Issue;
use crate::profile::Distribution;
use crate::resolve::Archive;
use crate::size::Bytes;

pub use age::Age;
pub use request::{Planned, Request, is_builtin_locale};
pub use signed::{ArchiveSettings, PinnedPackage, ProfileLock, SIGNED_VERSION, Selection, differences};

/// The version of [`Lock`] this crate writes and reads.
pub const VERSION: u32 = 3;

/// Every package of an installation, pinned by hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    /// Document version, [`VERSION`].
    pub version: u32,
    /// Debian architecture: `amd64`.
    pub architecture: String,
    /// The signed release files the packages' sums come from.
    #[serde(default)]
    pub releases: Vec<Release>,
    /// Packages that were asked for (`name` or `name=version`); apt marks all others as installed automatically.
    #[serde(default)]
    pub requested: Vec<String>,
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

    /// Those of its packages that hold no program and only fetch a snap, each as a warning, `package-is-a-snap`.
    pub fn snaps(&self, distribution: Distribution) -> Vec<Issue> {
        snap::snaps(distribution, self.packages.iter().map(|p| (p.name.as_str(), p.version.as_str())))
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
    /// The release that vouches for it, by its place in [`Lock::releases`].
    #[serde(default)]
    pub release: Option<usize>,
}

/// A signed release file that apt verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Release {
    /// Which of the profile's archives it is of: [`MAIN`], [`SECURITY`], or the name of a repository of
    /// `apt.sources`.
    pub repository: String,
    /// Address of that archive, where it was read.
    pub uri: String,
    /// The suite as the sources name it: `bookworm-updates`, or `./`.
    pub suite: String,
    /// Who publishes it: `Debian`.
    #[serde(default)]
    pub origin: Option<String>,
    /// Code name: `bookworm-updates`.
    #[serde(default)]
    pub codename: Option<String>,
    /// When it was made.
    #[serde(default)]
    pub date: Option<Timestamp>,
    /// Until when it counts, if it says so.
    #[serde(default)]
    pub valid_until: Option<Timestamp>,
    /// SHA-256 of the `InRelease` or `Release` file.
    pub sha256: Sha256,
    /// Fingerprints of the keys its signatures name.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// [`Release::repository`] of the distribution's main archive.
pub const MAIN: &str = "main";

/// [`Release::repository`] of the distribution's security archive.
pub const SECURITY: &str = "security";

impl Archive {
    /// The addresses of one of its repositories, in the order they are tried.
    pub fn addresses(&self, repository: &str) -> Vec<&str> {
        match repository {
            MAIN => self.mirrors.iter().map(String::as_str).collect(),
            SECURITY => self.security_mirrors.iter().map(String::as_str).collect(),
            name => self.sources.get(name).map(|source| source.uri.as_str()).into_iter().collect(),
        }
    }
}

/// The name apt gives a package's file in its archive directory.
pub fn file_name(name: &str, version: &str, architecture: &str) -> String {
    let quoted = |text: &str, bad: &str| -> String {
        let quote = |b: u8| match b {
            b'%' | 0..=0x20 | 0x7f.. => format!("%{b:02x}"),
            b if bad.contains(b as char) => format!("%{b:02x}"),
            b => (b as char).to_string(),
        };
        text.bytes().map(quote).collect()
    };
    format!("{}_{}_{}.deb", quoted(name, "_:"), quoted(version, "_:"), quoted(architecture, "_:."))
}
