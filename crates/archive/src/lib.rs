//! The package side of Akène: from a signed archive to files in a root.
//!
//! 1. [`AptRoot`] drives the distribution's own `apt-get` on a private directory tree. apt verifies the
//!    archive's signatures and indexes and solves the dependencies: its choice *is* the specification, so
//!    nothing here competes with it. The result is a [`Lock`](akene_protocol::lock::Lock) in which every
//!    package is pinned by SHA-256.
//! 2. [`Fetcher`] brings the files of a lock, in parallel and resuming, and refuses whatever does not have
//!    the pinned size and sum.
//! 3. [`Engine`] makes packages stand in a root as dpkg would, faster; [`Deb`] reads one `.deb` and unpacks it into a
//!    [`Root`], which no path and no link can leave.
//!
//! [`lock`] makes a profile's lock for all its machines, to be signed by the site.
//!
//! [`cpio`] and [`initrd`] write the initramfs of the live system.
//!
//! The agent uses all of it in the live system, `akene-image` on a build host; neither needs a
//! configured apt there, only the programs and the distribution's keyring.

mod apt;
pub mod cpio;
mod crawl;
mod deb;
mod engine;
mod error;
mod explain;
mod extract;
mod fetch;
pub mod fuzz;
mod host;
pub mod initrd;
mod local;
pub mod lock;
mod refusal;
mod release;
mod root;
mod signers;
mod solve;
mod sources;

pub use apt::{AptRoot, AptSettings};
pub use deb::Deb;
pub use engine::{Engine, Later, Said};
pub use fetch::{Fetcher, Progress, Report, Source, SourceReport, is_full, redirect_policy};
pub use host::host_archive;
pub use release::release_date;
pub use root::Root;
pub use sources::{SourceFiles, source_files};
