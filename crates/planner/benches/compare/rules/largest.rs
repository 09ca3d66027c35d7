//! "The largest disk, whole": Ubuntu's autoinstall with `layout: direct` and `match: size: largest`, as refurbishers use
//! it. Everything in one filesystem, swap in a file.

use super::{GIB, Layout, Volume, What, largest_disk};
use crate::machines::Pc;

pub fn layout(pc: &Pc) -> Layout {
    let disk = largest_disk(pc)?;
    // curtin: 1 MiB for a BIOS, an ESP of about 1 GiB for UEFI.
    let boot = if pc.bios { 2 << 20 } else { GIB + (2 << 20) };
    let rest = pc.sizes[disk].checked_sub(boot)?;
    Some(vec![Volume::new(What::Boot, boot, disk), Volume::new(What::Root, rest, disk)])
}
