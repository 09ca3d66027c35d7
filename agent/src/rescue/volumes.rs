//! Every place with a filesystem on the disks of a machine, and how people are told of it.

use std::path::{Path, PathBuf};

use akene_protocol::inventory::{Content, Disk, Inventory, LooksLike};
use akene_protocol::{Bytes, Language};

use super::words::Text;
use crate::probe::disk::partition_path;

/// What blkid calls an encrypted volume.
pub const LUKS: &str = "crypto_LUKS";

/// What it calls a member of a volume group.
const MEMBER: &str = "LVM2_member";

/// Where a volume lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A disk without a table.
    Disk(PathBuf),
    /// A partition: its disk, its number, first byte.
    Partition(PathBuf, u32, Bytes),
    /// A logical volume: group, name.
    Logical(String, String),
}

/// A partition, a disk without partitions, or a logical volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// How it is called: `sda3`, `group/home`.
    pub name: String,
    /// Where it lies.
    pub place: Place,
    /// Kernel names of the disks it lies on.
    pub disks: Vec<String>,
    /// Size.
    pub size: Bytes,
    /// What lies on it. `None`: nothing that is known.
    pub content: Option<Content>,
}

impl Volume {
    /// Kind of its filesystem, as blkid names it; empty where there is none.
    pub fn kind(&self) -> &str {
        self.content.as_ref().map_or("", |c| &c.kind)
    }

    /// What it looks like.
    pub fn looks(&self) -> Option<&LooksLike> {
        self.content.as_ref()?.looks_like.as_ref()
    }

    /// Whether a Linux system has its root there.
    pub fn is_root(&self) -> bool {
        matches!(self.looks(), Some(LooksLike::LinuxRoot { .. }))
    }

    /// UUID of its filesystem.
    pub fn uuid(&self) -> Option<&str> {
        self.content.as_ref()?.uuid.as_deref()
    }

    /// Whether it can be looked into.
    pub fn can_be_opened(&self) -> bool {
        crate::probe::look::driver(self.kind()).is_some()
    }

    /// The partition's or disk's own node. A logical volume has none before it is shown.
    pub fn node(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Disk(path) => Some(path.clone()),
            Place::Partition(disk, number, _) => Some(partition_path(disk, *number)),
            Place::Logical(..) => None,
        }
    }
}

/// All volumes, disk by disk, then the logical ones.
pub fn list(machine: &Inventory) -> Vec<Volume> {
    let mut volumes = Vec::new();
    for disk in &machine.disks {
        let path = Path::new(&disk.path);
        let Some(table) = &disk.table else {
            volumes.push(Volume {
                name: disk.name.clone(),
                place: Place::Disk(path.into()),
                disks: vec![disk.name.clone()],
                size: disk.size,
                content: disk.content.clone(),
            });
            continue;
        };
        volumes.extend(table.partitions.iter().map(|p| Volume {
            name: file_name(&partition_path(Path::new(&disk.name), p.number)),
            place: Place::Partition(path.into(), p.number, p.start),
            disks: vec![disk.name.clone()],
            size: p.size,
            content: p.content.clone(),
        }));
    }
    for group in &machine.volume_groups {
        let on = |disk: &&Disk| group.members.iter().any(|m| is_of(m, disk));
        let disks: Vec<String> = machine.disks.iter().filter(on).map(|d| d.name.clone()).collect();
        volumes.extend(group.logical.iter().map(|l| Volume {
            name: format!("{}/{}", group.name, l.name),
            place: Place::Logical(group.name.clone(), l.name.clone()),
            disks: disks.clone(),
            size: l.size,
            content: l.content.clone(),
        }));
    }
    volumes
}

/// Whether a kernel name is the disk or one of its partitions.
fn is_of(name: &str, disk: &Disk) -> bool {
    let parts = disk.table.iter().flat_map(|t| &t.partitions);
    name == disk.name
        || parts.into_iter().any(|p| file_name(&partition_path(Path::new(&disk.name), p.number)) == name)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A disk in one line: node, model, size, and what marks it.
pub fn disk_line(disk: &Disk, language: Language) -> String {
    let text = |text: Text| text.get(language);
    let mut words = vec![disk.path.clone(), disk.size.to_string()];
    words.push(disk.model.clone().unwrap_or_else(|| text(Text::NoModel).into()));
    words.extend(disk.serial.as_ref().map(|s| format!("({s})")));
    let marks = [
        (disk.live_medium, Text::ThisMedium),
        (disk.removable && !disk.live_medium, Text::External),
        (disk.read_only, Text::ReadOnly),
    ];
    words.extend(marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| format!("[{}]", text(mark))));
    words.join("  ")
}

/// A volume in one line: name, size, what lies on it.
pub fn volume_line(volume: &Volume, language: Language) -> String {
    format!("{:<12} {:>10}  {}", volume.name, volume.size.to_string(), content_words(volume, language))
}

/// What lies on a volume.
pub fn content_words(volume: &Volume, language: Language) -> String {
    let text = |text: Text| text.get(language).to_owned();
    let Some(content) = &volume.content else { return text(Text::Nothing) };
    let what = match (&content.looks_like, content.kind.as_str()) {
        (_, LUKS) => text(Text::Encrypted),
        (_, MEMBER) => text(Text::Member),
        (Some(LooksLike::AkeneBoot { .. }), _) => text(Text::AkeneBoot),
        (Some(LooksLike::Home), _) => text(Text::Homes),
        (Some(LooksLike::LinuxRoot { name, home_inside, .. }), _) => {
            let name = name.clone().unwrap_or_else(|| "Linux".into());
            if *home_inside { format!("{name}, {}", text(Text::WithHomes)) } else { name }
        }
        (Some(LooksLike::Windows), _) => "Windows".into(),
        (Some(LooksLike::OtherSystem { name }), _) => name.clone(),
        (Some(LooksLike::Esp), _) => text(Text::Esp),
        (Some(LooksLike::Swap), _) => text(Text::SwapSpace),
        (Some(LooksLike::AkeneMedium), _) => text(Text::ThisMedium),
        (Some(LooksLike::Empty), _) => text(Text::Empty),
        (None, _) => text(Text::Files),
    };
    let mut words = vec![what, content.kind.clone()];
    words.extend(content.label.as_ref().map(|l| format!("\"{l}\"")));
    words.extend(content.used.map(|u| format!("{} {u}", text(Text::Used))));
    words.join("  ")
}

/// The disks with everything on them, for people.
pub fn page(machine: &Inventory, language: Language) -> String {
    let volumes = list(machine);
    let mut lines = Vec::new();
    for disk in &machine.disks {
        let table = disk.table.as_ref();
        let kind = table.map(|t| format!("  {}", format!("{:?}", t.kind).to_uppercase())).unwrap_or_default();
        lines.push(disk_line(disk, language) + &kind);
        lines.extend(table.and_then(|t| t.damage.as_ref()).map(|d| format!("   ! {d}")));
        let on_it = volumes
            .iter()
            .filter(|v| !matches!(v.place, Place::Logical(..)) && v.disks == [disk.name.clone()]);
        lines.extend(on_it.map(|v| format!("   {}", volume_line(v, language))));
    }
    for group in &machine.volume_groups {
        let members = group.members.join(", ");
        let whole = if group.complete { Text::Complete } else { Text::Incomplete };
        lines.push(format!(
            "{} {} ({members}), {}",
            Text::Group.get(language),
            group.name,
            whole.get(language)
        ));
        let of_it = volumes.iter().filter(|v| matches!(&v.place, Place::Logical(g, _) if *g == group.name));
        lines.extend(of_it.map(|v| format!("   {}", volume_line(v, language))));
    }
    if machine.disks.is_empty() {
        lines.push(Text::NoDisks.get(language).into());
    }
    lines.extend(machine.notes.iter().map(|note| format!("! {note}")));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! golden {
        ($name:literal) => {
            serde_json::from_str::<Inventory>(include_str!(concat!(
                "../../../tests/golden/",
                $name,
                "/inventory.json"
            )))
            .unwrap()
        };
    }

    #[test]
    fn everything_on_recorded_machines_is_named_in_both_languages() {
        let machine = golden!("foreign-linux-home-inside");
        let volumes = list(&machine);
        assert!(volumes.iter().any(Volume::is_root), "{volumes:#?}");
        for language in Language::ALL {
            let page = page(&machine, language);
            for volume in &volumes {
                assert!(page.contains(&volume.name), "{} is missing:\n{page}", volume.name);
            }
        }
        let names: std::collections::BTreeSet<_> = volumes.iter().map(|v| &v.name).collect();
        assert_eq!(names.len(), volumes.len(), "each has a name of its own");
    }

    #[test]
    fn encrypted_and_grouped_volumes_are_named_as_such() {
        let content =
            |kind: &str| Content { kind: kind.into(), label: None, uuid: None, used: None, looks_like: None };
        let volume = |kind: &str| Volume {
            name: "sda1".into(),
            place: Place::Disk("/dev/sda1".into()),
            disks: vec!["sda".into()],
            size: Bytes::mib(1),
            content: Some(content(kind)),
        };
        assert!(volume_line(&volume(LUKS), Language::En).contains("encrypted (LUKS)"));
        assert!(volume_line(&volume(MEMBER), Language::En).contains("volume group (LVM)"));
        assert!(!volume(LUKS).can_be_opened() && volume("ext4").can_be_opened());
    }
}
