//! What one layout is judged by, level after level: a later level only counts where all earlier ones are equal.

use std::cmp::Reverse;

use crate::fill::Part;
use crate::risk;

/// The levels of the objective, the most important first; the least is the best.
///
/// That people's files which are found stay is no level: no layout without them is considered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Objective {
    /// Optional volumes left out, the most important first.
    pub given_up: Vec<bool>,
    /// The boot partition has less than a distribution's upgrades want.
    pub small_boot: bool,
    /// Class of risk ([`risk::band`]) for people's files, for the system, and whether it is doubtful that the firmware
    /// starts the disk.
    pub risk: (u8, u8, bool),
    /// Somebody has less than enough.
    pub short: bool,
    /// Something is destroyed.
    pub destroys: bool,
    /// Whole tenths of its way to enough that each volume has covered, the worst off first. Empty when nobody is
    /// short.
    pub tenths: Reverse<Vec<u8>>,
    /// Pieces of a spread volume beyond the first.
    pub spread: u32,
    /// Quarters of the room that nobody has.
    pub wasted: u8,
    /// How far the volumes are on their way to enough, the worst off first.
    pub fairness: Reverse<Vec<Part>>,
    /// Disks that people's files need, and disks that the system needs.
    pub disks: (u32, u32),
    /// How slow the media are under the root, under other volumes that want quick ones, and how quick under those
    /// that want large ones.
    pub latency: (u8, u32, u32),
    /// Probability that people's files, and that the system, are lost within a year, in parts per million.
    pub loss: (u32, u32),
    /// Disks written to, with what is taken off them.
    pub changes: u32,
    /// What was left for those who take what is left, in their order.
    pub rest: Reverse<Vec<u64>>,
    /// Grains nobody has.
    pub unused: u64,
    /// Partitions made.
    pub partitions: u32,
    /// Where everything lies, by the disks' serial numbers: so that the same machine always gets the same table.
    pub order: Vec<u16>,
}

impl Objective {
    /// Each level with its name and its value, for a person.
    pub fn levels(&self) -> Vec<(&'static str, String)> {
        let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
        let worst = self.fairness.0.first().map_or(100, |p| p.percent());
        let gib = |grains: u64| format!("{:.1} GiB", grains as f64 / 1024.0);
        let rest: Vec<String> = self.rest.0.iter().map(|r| gib(*r)).collect();
        let tenths = match self.short {
            true => self.tenths.0.iter().map(u8::to_string).collect::<Vec<_>>().join(", "),
            false => "all".to_owned(),
        };
        let given_up = self.given_up.iter().filter(|g| **g).count();
        vec![
            ("given up", format!("{given_up} of {} optional volumes", self.given_up.len())),
            ("small boot partition", yes(self.small_boot)),
            (
                "risk",
                format!(
                    "class {} for files, {} for the system{}",
                    self.risk.0,
                    self.risk.1,
                    if self.risk.2 { ", doubtful start" } else { "" }
                ),
            ),
            ("somebody short of enough", yes(self.short)),
            ("something destroyed", yes(self.destroys)),
            ("tenths of the way to enough, the worst off first", tenths),
            ("pieces of a spread volume beyond the first", self.spread.to_string()),
            ("quarters of the room unused", self.wasted.to_string()),
            ("the worst off on its way to enough", format!("{worst} %")),
            ("disks needed", format!("{} for files, {} for the system", self.disks.0, self.disks.1)),
            (
                "media",
                format!(
                    "the root on {}; {} of slowness under volumes that want it quick, {} of quickness under those that \
                     want it large",
                    risk::medium(self.latency.0),
                    self.latency.1,
                    self.latency.2
                ),
            ),
            (
                "loss within a year",
                format!(
                    "{} of files, {} of the system",
                    risk::percent(self.loss.0),
                    risk::percent(self.loss.1)
                ),
            ),
            ("changes", self.changes.to_string()),
            ("room in the order of who takes the rest", rest.join(", ")),
            ("unused", gib(self.unused)),
            ("partitions", self.partitions.to_string()),
            ("order of the disks", "by serial number".to_owned()),
        ]
    }

    /// The first level at which `other` is worse, with both values: ours, theirs.
    pub fn lost_at(&self, other: &Objective) -> Option<(&'static str, String, String)> {
        let differs = [
            self.given_up != other.given_up,
            self.small_boot != other.small_boot,
            self.risk != other.risk,
            self.short != other.short,
            self.destroys != other.destroys,
            self.tenths != other.tenths,
            self.spread != other.spread,
            self.wasted != other.wasted,
            self.fairness != other.fairness,
            self.disks != other.disks,
            self.latency != other.latency,
            self.loss != other.loss,
            self.changes != other.changes,
            self.rest != other.rest,
            self.unused != other.unused,
            self.partitions != other.partitions,
            self.order != other.order,
        ];
        let at = differs.iter().position(|d| *d)?;
        let (ours, theirs) = (self.levels(), other.levels());
        Some((ours[at].0, ours[at].1.clone(), theirs[at].1.clone()))
    }
}
