//! What the others do: their published rules, made anew on blank disks. None of them looks at a disk's health.
//!
//! Where a rule leaves a choice, the one is taken that does better here.

use crate::machines::Pc;

pub mod blivet;
pub mod largest;
pub mod partman;
pub mod yast;

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Whatever starts the system.
    Boot,
    Root,
    Home,
    Swap,
}

/// A volume that a rule makes, on one disk or, by LVM, on several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub what: What,
    pub bytes: u64,
    /// Disks by number.
    pub disks: Vec<usize>,
}

impl Volume {
    pub fn new(what: What, bytes: u64, disk: usize) -> Volume {
        Volume { what, bytes, disks: vec![disk] }
    }
}

/// What a rule makes of a PC; `None`: it gives up.
pub type Layout = Option<Vec<Volume>>;

pub const MB: u64 = 1_000_000;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// The largest disk, the first of several.
pub fn largest_disk(pc: &Pc) -> Option<usize> {
    (0..pc.sizes.len()).min_by_key(|i| (std::cmp::Reverse(pc.sizes[*i]), *i))
}
