//! Building, stamping and inspecting the bootable image.
//!
//! A build takes everything from packages of one distribution, chosen by its own apt and checked from the
//! signed release file down to each file:
//!
//! 1. [`packages`] chooses and fetches, [`recipe`] says what and why;
//! 2. [`live`] unpacks the live root, [`kernel`] adds modules and the firmware they name;
//! 3. [`build`] compresses it and joins it with the agent into the initrd;
//! 4. [`medium`] adds boot loaders and menu, [`iso`] writes the hybrid ISO.
//!
//! The same packages and the same agent give the same bytes. [`mod@stamp`] then makes an image one site's,
//! in place; [`mod@offline`] joins it with everything an installation needs, for places without a network; [`inspect`] shows what an
//! image is. [`mod@sync`] brings home what machines without a network left on a stick.

pub mod build;
pub mod files;
pub mod inspect;
pub mod iso;
pub mod iso9660;
pub mod kernel;
pub mod live;
pub mod medium;
pub mod offline;
pub mod packages;
pub mod recipe;
pub mod report;
pub mod stamp;
mod stick;
pub mod sync;
mod web;
