//! A plan as a technician reads it: the bars of the disks, what will be lost, what stays.
//!
//! The planner's own table says everything, in the words of who knows what a partition is. Here the picture is the planner's, and
//! everything that is lost is named by what people put there; what holds no files of anybody's is only counted.

use akene_planner::render::{self, Style};
use akene_planner::{Action, PartitionPlan, Plan, Role, partition_node};
use akene_protocol::inventory::{Content, Disk, Health, Inventory, LooksLike, Partition};
use akene_protocol::{Bytes, Language};

use super::words::{self, Text};

/// A plan and what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// The plan.
    pub plan: Plan,
    /// The machine.
    pub inventory: Inventory,
    /// What is installed, as the administrator called it.
    pub profile: String,
}

/// The bars of one disk or group, with a line above them.
pub struct Picture {
    /// What it is.
    pub title: String,
    /// Before and after.
    pub bars: Vec<String>,
}

/// A sentence about a disk.
#[derive(Debug, PartialEq)]
pub struct Warning {
    /// The sentence.
    pub text: String,
    /// Whether it is a reason to leave.
    pub grave: bool,
}

impl Outlook {
    /// Whether anything that was found is lost.
    pub fn loses(&self) -> bool {
        !self.plan.destroys.is_empty()
    }

    /// The picture, in lines of at most `width` columns.
    pub fn pictures(&self, language: Language, width: usize) -> Vec<Picture> {
        let word = |word: &str| words::of_picture(word, language);
        let sketches = render::sketches(&self.plan, &self.inventory, Style { colour: false, width }, &word);
        let picture = |sketch: render::Sketch| Picture {
            title: match sketch.group {
                true => self.group(&sketch.name, language),
                false => self.disk(&sketch.name, language),
            },
            bars: sketch.lines,
        };
        sketches.into_iter().map(picture).collect()
    }

    /// What is lost for good, one thing a line.
    pub fn lost(&self, language: Language) -> Vec<String> {
        let mut lines = Vec::new();
        let mut technical = 0;
        for lost in &self.plan.destroys {
            match self.found(&lost.name) {
                Some(found) if found.is_technical() => technical += 1,
                Some(found) if self.is_refreshed(&lost.name) => {
                    let (system, stays) = (found.describe(language, false), Text::FilesStay.get(language));
                    lines.push(format!("{}: {system} ({stays})", lost.name));
                }
                Some(found) => {
                    lines.push(format!("{}: {}", lost.name, found.describe(language, true)));
                    lines.extend(self.inside(&lost.name, language));
                }
                // The planner knows something that we do not find again: its own words are better than none.
                None => lines.push(format!("{}: {}", lost.name, lost.what)),
            }
        }
        if technical > 0 {
            lines.push(format!("{} {technical}", Text::Technical.get(language)));
        }
        lines
    }

    /// What people may be looking for and is kept: files, other systems, other disks.
    pub fn kept(&self, language: Language) -> Vec<String> {
        let mut lines = Vec::new();
        for disk in &self.plan.disks {
            for partition in disk.partitions.iter().filter(|p| is_kept(p)) {
                let name = partition_node(&disk.disk.name, partition.number);
                let Some(found) = self.found(&name).filter(|found| !found.is_technical()) else { continue };
                let text = match partition.action {
                    Action::Refresh => found.home(language),
                    _ => found.describe(language, true),
                };
                lines.push(format!("{name}: {text}"));
            }
        }
        for group in self.plan.groups.iter().filter(|group| group.action == Action::Keep) {
            lines.push(format!("{}, {}", self.group(&group.name, language), group.size));
        }
        for disk in self.untouched().filter(|disk| disk.health != Health::Failing) {
            lines.push(format!("{}: {}", self.disk(&disk.name, language), Text::Untouched.get(language)));
        }
        lines
    }

    /// What is wrong with disks.
    pub fn warnings(&self, language: Language) -> Vec<Warning> {
        let used = |disk: &Disk| self.plan.disks.iter().any(|d| d.disk.name == disk.name);
        let warning = |disk: &Disk| {
            let (text, grave) = match (disk.health, used(disk)) {
                (Health::Failing, true) => (Text::FailingUsed, true),
                (Health::Failing, false) => (Text::Failing, false),
                (Health::Worn, true) => (Text::Worn, false),
                _ => return None,
            };
            let text = format!("{} {}", self.disk(&disk.name, language), text.get(language));
            Some(Warning { text, grave })
        };
        self.inventory.disks.iter().filter(|disk| !disk.live_medium).filter_map(warning).collect()
    }

    /// A disk as a person recognises it: `Disk sda (WDC WD1600BEVT, 149.1 GiB)`.
    fn disk(&self, name: &str, language: Language) -> String {
        let found = self.inventory.disks.iter().find(|disk| disk.name == name);
        let model = found.and_then(|d| d.model.as_ref()).map(|m| format!("{m}, ")).unwrap_or_default();
        let size = found.map_or_else(String::new, |disk| format!(" ({model}{})", disk.size));
        format!("{} {name}{size}", Text::Disk.get(language))
    }

    /// A volume over several disks, by its mount point.
    fn group(&self, name: &str, language: Language) -> String {
        let Some(group) = self.plan.groups.iter().find(|group| group.name == name) else {
            return name.into();
        };
        let members: Vec<String> =
            group.members.iter().map(|m| partition_node(&m.disk, m.partition)).collect();
        let volume = group.mount.as_deref().unwrap_or(group.volume());
        format!("{volume} {} {}", Text::Several.get(language), members.join(", "))
    }

    /// Disks that the plan leaves alone.
    fn untouched(&self) -> impl Iterator<Item = &Disk> {
        let used = |disk: &Disk| self.plan.disks.iter().any(|d| d.disk.name == disk.name);
        self.inventory.disks.iter().filter(move |d| !d.live_medium && d.size > Bytes(0) && !used(d))
    }

    /// What has this name in a plan's list of losses: a partition, a disk, or a logical volume.
    fn found(&self, name: &str) -> Option<Found<'_>> {
        for disk in &self.inventory.disks {
            if disk.name == name {
                return Some(match &disk.content {
                    Some(content) => Found::Content(Some(content), disk.size),
                    None => Found::DamagedTable,
                });
            }
            let mut partitions = disk.table.iter().flat_map(|table| &table.partitions);
            if let Some(found) = partitions.find(|p| partition_node(&disk.name, p.number) == name) {
                return Some(Found::Partition(found));
            }
        }
        let (group, volume) = name.split_once('/')?;
        let group = self.inventory.volume_groups.iter().find(|g| g.name == group)?;
        let found = group.logical.iter().find(|v| v.name == volume)?;
        Some(Found::Content(found.content.as_ref(), found.size))
    }

    /// What lies in the group that goes with a partition.
    fn inside(&self, name: &str, language: Language) -> Vec<String> {
        let group = self.inventory.volume_groups.iter().find(|group| group.members.iter().any(|m| m == name));
        let volumes = group.into_iter().flat_map(|group| &group.logical);
        let contents = volumes.map(|volume| Found::Content(volume.content.as_ref(), volume.size));
        contents
            .filter(|f| !f.is_technical())
            .map(|f| format!("  - {}", f.describe(language, true)))
            .collect()
    }

    fn is_refreshed(&self, name: &str) -> bool {
        self.plan.disks.iter().any(|disk| {
            let refreshed = disk.partitions.iter().filter(|p| p.action == Action::Refresh);
            refreshed.into_iter().any(|p| partition_node(&disk.disk.name, p.number) == name)
        })
    }
}

fn is_kept(partition: &PartitionPlan) -> bool {
    let peoples = matches!(partition.purpose, Role::Volume(_) | Role::Foreign);
    partition.action == Action::Refresh || partition.action == Action::Keep && peoples
}

/// Something on a disk.
enum Found<'a> {
    Partition(&'a Partition),
    Content(Option<&'a Content>, Bytes),
    DamagedTable,
}

impl Found<'_> {
    fn parts(&self) -> Option<(Option<&Content>, Bytes)> {
        match self {
            Found::Partition(p) => Some((p.content.as_ref(), p.size)),
            Found::Content(content, size) => Some((*content, *size)),
            Found::DamagedTable => None,
        }
    }

    /// Whether it holds nobody's files by its nature.
    fn is_technical(&self) -> bool {
        // Microsoft's reserved partition and the BIOS boot partition have no filesystem.
        const BARE: [&str; 2] =
            ["e3c9e316-0b5c-4db8-817d-f92df00215ae", "21686148-6449-6e6f-744e-656564454649"];
        if let Found::Partition(Partition { content: None, kind, .. }) = self {
            return BARE.contains(&kind.as_str());
        }
        let Some((Some(content), _)) = self.parts() else { return false };
        content.kind == "swap" || matches!(content.looks_like, Some(LooksLike::Esp | LooksLike::Swap))
    }

    /// The files of people in a system.
    fn home(&self, language: Language) -> String {
        let looks = self.parts().and_then(|(content, _)| content?.looks_like.as_ref());
        let used = match looks {
            Some(LooksLike::LinuxRoot { home_used: Some(used), .. }) => format!(", {used}"),
            _ => String::new(),
        };
        format!("{}{used}", Text::Files.get(language))
    }

    /// What it is and how much: `Windows, 120 GiB, 61 GiB used`. `files`: whether to say that people's files lie in a system.
    fn describe(&self, language: Language, files: bool) -> String {
        let Some((content, size)) = self.parts() else { return Text::DamagedTable.get(language).into() };
        let Some(content) = content else { return format!("{}, {size}", Text::Unknown.get(language)) };
        let label = content.label.as_ref().filter(|label| !label.is_empty());
        let label = label.map(|label| format!(" \"{label}\"")).unwrap_or_default();
        let used = content.used.map(|used| format!(", {used} {}", Text::Used.get(language)));
        format!("{}{label}, {size}{}", name_of(content, language, files), used.unwrap_or_default())
    }
}

fn name_of(content: &Content, language: Language, files: bool) -> String {
    let text = match &content.looks_like {
        Some(LooksLike::Windows) => return "Windows".into(),
        Some(LooksLike::OtherSystem { name }) => return name.clone(),
        Some(LooksLike::LinuxRoot { name, home_inside, .. }) => {
            let system = name.clone().unwrap_or_else(|| Text::LinuxSystem.get(language).into());
            return match *home_inside && files {
                true => format!("{system} {}", Text::WithFiles.get(language)),
                false => system,
            };
        }
        Some(LooksLike::Home) => Text::Files,
        Some(LooksLike::AkeneBoot { .. } | LooksLike::Esp) => Text::StartPartition,
        Some(LooksLike::AkeneMedium) => Text::ThisMedium,
        Some(LooksLike::Empty) => Text::Empty,
        Some(LooksLike::Swap) => return "swap".into(),
        None => match content.kind.as_str() {
            "LVM2_member" => Text::PartOfGroup,
            "crypto_LUKS" | "BitLocker" => Text::Encrypted,
            "zfs_member" | "bcache" => Text::PartOfRaid,
            kind if kind.ends_with("_raid_member") => Text::PartOfRaid,
            _ => Text::Data,
        },
    };
    text.get(language).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! golden {
        ($name:literal) => {{
            let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            let plan = read(include_str!(concat!("../../../tests/golden/", $name, "/plan.json")));
            let inventory = read(include_str!(concat!("../../../tests/golden/", $name, "/inventory.json")));
            Outlook {
                plan: serde_json::from_value(plan).unwrap(),
                inventory: serde_json::from_value(inventory).unwrap(),
                profile: "desktop".into(),
            }
        }};
    }

    #[test]
    fn people_read_what_they_had_and_not_how_it_was_stored() {
        let windows = golden!("windows");
        assert_eq!(
            windows.lost(Language::En),
            [
                "sda3: Windows \"Windows\", 120 GiB, 61 GiB used",
                "sda4: a partition with data \"Recovery\", 500 MiB",
                "helper partitions without files (start, swap): 2"
            ]
        );
        assert_eq!(windows.lost(Language::Fr)[0], "sda3: Windows \"Windows\", 120 GiB, 61 GiB occupés");
        assert!(windows.loses() && windows.kept(Language::En).is_empty());
    }

    #[test]
    fn what_stays_is_said_as_well() {
        let reinstall = golden!("akene-reinstall");
        let kept = reinstall.kept(Language::Fr);
        assert_eq!(kept, ["sda6: fichiers personnels \"akene-home\", 125 GiB, 9 GiB occupés"]);
        let around = golden!("foreign-linux-home-inside");
        assert!(around.lost(Language::En).iter().any(|l| l.ends_with("(but people's files in it stay)")));
        assert!(around.kept(Language::En)[0].contains("people's files"), "{:?}", around.kept(Language::En));
    }

    #[test]
    fn a_failing_disk_is_named_with_what_to_do() {
        let failing = golden!("ssd-and-failing-hdd");
        let warnings = failing.warnings(Language::Fr);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].text.contains("sda (") && warnings[0].text.contains("remplacez-le"),
            "{warnings:?}"
        );
        assert!(!warnings[0].grave);
        // A disk that is fine and not needed is no warning, but stays.
        let spare = golden!("windows-hdd-and-blank-ssd");
        assert!(spare.warnings(Language::En).is_empty() && !spare.loses());
        assert!(
            spare.kept(Language::En).iter().any(|l| l.starts_with("Disk sda") && l.ends_with("not touched"))
        );
    }

    #[test]
    fn the_picture_speaks_the_language() {
        let drawn = |outlook: Outlook| {
            let pictures = outlook.pictures(Language::Fr, 76);
            let all = pictures.iter().flat_map(|p| &p.bars).cloned().collect::<Vec<_>>().join("\n");
            assert!(all.lines().all(|line| line.chars().count() <= 76), "{all}");
            all
        };
        let all = drawn(golden!("windows"));
        assert!(all.contains("avant") && all.contains("libre") && all.contains("réservé"), "{all}");
        for (all, word) in [
            (drawn(golden!("akene-two-roots-in-turn")), "ancien /"),
            (drawn(golden!("ssd-120gb-uefi64")), "réserve"),
        ] {
            assert!(all.contains(word), "{all}");
        }
    }

    /// Whatever a plan destroys, a line says so or a count does.
    #[test]
    fn nothing_that_is_lost_is_passed_over() {
        for (outlook, least) in [(golden!("windows"), 4), (golden!("mbr-logical-windows-and-linux"), 5)] {
            assert_eq!(outlook.plan.destroys.len(), least);
            for language in Language::ALL {
                let lost = outlook.lost(language);
                let (counted, named) = lost.split_last().unwrap();
                let counted = counted.strip_prefix(Text::Technical.get(language)).unwrap();
                assert_eq!(named.len() + counted.trim().parse::<usize>().unwrap(), least, "{lost:?}");
            }
        }
    }
}
