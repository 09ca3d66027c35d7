//! Finding out what the machine is.

pub mod content;
pub mod disk;
mod garbage;
mod root;
pub mod table;
mod udev;

pub use root::ProbeRoot;
