//! How large everything is, and whether it fits.

use std::fmt::Write as _;

use akene_protocol::lock::LockedPackage;
use akene_protocol::{Bytes, Issue};
use anyhow::Result;

use super::content::Content;
use super::stick::LiveSystem;
use super::table::GRAIN;
use super::{Goal, device};

/// A single-layer DVD.
pub const DVD: Bytes = Bytes(4_700_000_000);

/// Room after the live system, so that a newer and larger one fits into its place one day.
pub const HEAD_ROOM: u64 = 64 << 20;

/// What a stick holds of the bytes that are printed on it, in per cent: 8 GB sticks with 7.5 GB are sold.
const HONEST: u64 = 93;

/// Room on an image for reports and for packages of later updates: this part of the packages, and no less than
/// [`LEAST_GROWTH`].
const GROWTH: u64 = 4;
const LEAST_GROWTH: u64 = 256 << 20;

/// What reports need on the fullest stick.
const REPORTS: u64 = 32 << 20;

/// Blocks of the filesystem.
const BLOCK: u64 = 4096;

/// The journal of the filesystem, in MiB.
pub const JOURNAL_MIB: u64 = 16;

/// The smallest filesystem: mke2fs wants the journal to be less than half of it.
const LEAST: u64 = (3 * JOURNAL_MIB) << 20;

/// Most packages that are named when something does not fit.
const NAMED: usize = 10;

/// Files and their bytes, in whole blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// How many.
    pub files: u64,
    /// Their bytes, each rounded up to whole blocks.
    pub bytes: u64,
}

impl Load {
    /// These files.
    pub fn of(sizes: impl IntoIterator<Item = u64>) -> Load {
        sizes.into_iter().fold(Load::default(), |load, size| Load {
            files: load.files + 1,
            bytes: load.bytes + size.next_multiple_of(BLOCK),
        })
    }

    /// Inodes a filesystem for them gets: as many again may come.
    pub fn inodes(self) -> u64 {
        self.files * 2 + 4096
    }

    /// Bytes of the smallest ext4 that holds them: files, names, inodes, journal, and what its groups of blocks need.
    pub fn partition(self) -> u64 {
        let names = (self.files * 128).next_multiple_of(BLOCK) + (1 << 20);
        let plain = self.bytes + names + self.inodes() * 256 + (JOURNAL_MIB << 20);
        (plain + plain / 256 + (4 << 20)).next_multiple_of(GRAIN).max(LEAST)
    }
}

/// The place there is for a medium.
#[derive(Clone, Debug)]
pub struct Place {
    /// Bytes of the live system.
    pub live: Bytes,
    /// Bytes needed in all.
    pub needed: Bytes,
    /// Bytes the medium will have.
    pub whole: Bytes,
    /// Where this size comes from, for people.
    why: String,
    /// Where the data begins; `None`: on a disc, among everything else.
    pub data: Option<u64>,
    /// What goes there.
    pub load: Load,
}

/// The load of a medium's data: packages, documents, and the few small files beside them.
pub fn load(content: &Content) -> Load {
    let documents = content.files().map(|file| file.size.0);
    let packages = content.packages().iter().map(|p| p.size.0);
    Load::of(packages.chain(documents).chain([BLOCK * 16, BLOCK]))
}

/// Where the data partition behind a live system of this size begins.
pub fn data_start(live: u64) -> u64 {
    (live + HEAD_ROOM).next_multiple_of(GRAIN)
}

impl Place {
    /// The place for this content.
    ///
    /// # Errors
    /// The device cannot be looked at.
    pub fn of(goal: &Goal, live: &LiveSystem, content: &Content) -> Result<Place> {
        let load = load(content);
        let live = live.size;
        if let Goal::Disc(_, limit) = goal {
            let needed = Bytes(live.0 + load.bytes + load.files * 512 + (1 << 20));
            let (whole, why) = match limit {
                Some(limit) => (*limit, "of --size".to_owned()),
                None => (DVD, "of a single-layer DVD (--size allows more)".to_owned()),
            };
            return Ok(Place { live, needed, whole, why, data: None, load });
        }
        let start = data_start(live.0);
        // The copy of the table takes the end.
        let around = start + GRAIN;
        let needed = around + load.partition() + REPORTS;
        let (whole, why) = match goal {
            Goal::Device(path, _) => (device::size(path)?, format!("of {}", path.display())),
            Goal::StickImage(_, Some(size)) => (
                size.0 / 100 * HONEST,
                format!("of --size {size}, less 7 % by which sticks fall short of it"),
            ),
            _ => {
                let growth = (load.bytes / GROWTH).max(LEAST_GROWTH);
                (needed - REPORTS + growth, "with room for reports and updates".to_owned())
            }
        };
        let whole = match goal {
            Goal::Device(..) => Bytes(whole),
            _ => Bytes(whole).align_down(Bytes(GRAIN)),
        };
        Ok(Place { live, needed: Bytes(needed), whole, why, data: Some(start), load })
    }

    /// What there is to say before anything is fetched.
    pub fn describe(&self, content: &Content, missing: &[&LockedPackage]) -> String {
        let mut text = String::new();
        let mut line = |what: &str, value: String| {
            // Writing to a string cannot fail.
            writeln!(text, "{what:<16}{value}").ok();
        };
        line("live system", self.live.to_string());
        for profile in &content.profiles {
            line(&format!("{} ", profile.name), format!("{} of packages", profile.size));
        }
        line("packages", format!("{} in {} files, each once", content.size(), content.packages().len()));
        let fetched: Bytes = missing.iter().map(|p| p.size).sum();
        line("to be fetched", format!("{fetched} in {} files", missing.len()));
        line("needed", self.needed.to_string());
        line("the medium", format!("{} {}", self.whole, self.why));
        text.trim_end().to_owned()
    }

    /// Whether it fits.
    ///
    /// # Errors
    /// `medium-too-small`, with the numbers and the largest packages.
    pub fn check(&self, content: &Content) -> Result<(), Issue> {
        if self.needed <= self.whole {
            return Ok(());
        }
        Err(too_small(self.needed, self.whole, &self.why, content))
    }
}

/// The refusal of what does not fit.
pub(super) fn too_small(needed: Bytes, whole: Bytes, why: &str, content: &Content) -> Issue {
    let mut largest: Vec<&LockedPackage> = content.packages().iter().collect();
    largest.sort_by_key(|p| std::cmp::Reverse(p.size));
    let named: Vec<String> = largest.iter().take(NAMED).map(|p| format!("{} {}", p.name, p.size)).collect();
    let message = format!(
        "{needed} are needed, and there are {whole} {why}: {} too little. {} packages have {}; the largest are {}",
        needed.saturating_sub(whole),
        content.packages().len(),
        content.size(),
        named.join(", "),
    );
    let next = "take a larger medium, fewer profiles, or leave packages out of them";
    Issue::new("medium-too-small", "", message, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::{Cmd, Runner, SystemRunner};

    #[test]
    fn a_filesystem_of_the_reckoned_size_holds_the_files() {
        for (files, size) in [(1, 10), (3000, 700), (40, 1_500_000), (1, 40_000_000)] {
            let dir = tempfile::tempdir().unwrap();
            let from = dir.path().join("from");
            std::fs::create_dir(&from).unwrap();
            for n in 0..files {
                // Not sparse: mke2fs leaves holes out.
                std::fs::write(from.join(format!("{n:064}")), vec![1; size]).unwrap();
            }
            let load = Load::of((0..files).map(|_| size as u64));
            let image = dir.path().join("image");
            std::fs::File::create(&image).unwrap().set_len(load.partition()).unwrap();
            let place = super::super::table::Span { start: 0, length: load.partition() };
            let make = super::super::stick::filesystem(&from, &image, place, load, uuid::Uuid::nil());
            SystemRunner.run(&make).unwrap();
            SystemRunner.run(&Cmd::new("e2fsck").arg("-fn").arg(&image)).unwrap();
            let used = files as u64 * (size as u64).next_multiple_of(BLOCK);
            assert!(load.partition() < used + used / 10 + (50 << 20), "{files} files of {size} bytes");
        }
    }
}
