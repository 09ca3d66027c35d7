//! The package side: signed archive metadata, locks, download by hash, unpacking into a root.

pub mod cpio;
pub mod initrd;
