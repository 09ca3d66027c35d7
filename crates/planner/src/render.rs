//! A plan for people: a table, bars of before and after, and in plain words what is lost.

use akene_protocol::Bytes;
use akene_protocol::inventory::{Inventory, LooksLike};

use crate::{Action, DiskPlan, PartitionPlan, Plan, Role, words};

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether the terminal shows colours.
    pub colour: bool,
    /// Columns there are.
    pub width: usize,
}

impl Default for Style {
    /// No colour, 80 columns: what every serial console and log can show.
    fn default() -> Self {
        Style { colour: false, width: 80 }
    }
}

/// The whole plan as text: for each disk the bars and the table, then losses and remarks.
pub fn text(plan: &Plan, inventory: &Inventory, style: Style) -> String {
    let mut out = String::new();
    for disk in &plan.disks {
        let model = inventory.disks.iter().find(|d| d.name == disk.disk.name).and_then(|d| d.model.clone());
        let model = model.map(|m| format!("{m}, ")).unwrap_or_default();
        let table = match (disk.new_table, disk.table) {
            (true, kind) => format!("gets a new {} table", format!("{kind:?}").to_uppercase()),
            (false, _) => "keeps its table".to_owned(),
        };
        line(&mut out, &format!("{} ({model}{}) {table}", disk.disk.name, disk.disk.size));
        line(&mut out, "");
        out.push_str(&bars(disk, inventory, style));
        line(&mut out, "");
        out.push_str(&table_of(disk));
        line(&mut out, "");
    }
    out.push_str(&destroyed(plan));
    for note in &plan.notes {
        line(&mut out, &format!("Note: {note}."));
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

/// What is lost, in plain words.
pub fn destroyed(plan: &Plan) -> String {
    if plan.destroys.is_empty() {
        return "Nothing is lost: nothing was found on what will be written.\n".into();
    }
    let mut out = match plan.destroys.len() {
        1 => String::from("One thing is lost for good:\n"),
        n => format!("{n} things are lost for good:\n"),
    };
    for lost in &plan.destroys {
        line(&mut out, &format!("  {}: {}", lost.name, lost.what));
    }
    out
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Keep => "keep",
        Action::Create => "create",
        Action::Format => "format",
        Action::Delete => "delete",
        Action::Refresh => "refresh",
    }
}

fn name(partition: &PartitionPlan) -> String {
    match (&partition.mount, &partition.purpose) {
        (Some(mount), _) => mount.clone(),
        (None, Role::BiosBoot) => "BIOS boot".into(),
        (None, Role::Esp) => "EFI".into(),
        (None, Role::Boot) => "/boot".into(),
        (None, Role::Root) => "/".into(),
        (None, Role::Swap) => "swap".into(),
        (None, Role::Volume(name)) => name.clone(),
        (None, Role::Physical(group)) => group.clone(),
        (None, Role::Foreign) => "-".into(),
    }
}

/// One line for each partition: what happens, how large, what it is and why.
fn table_of(disk: &DiskPlan) -> String {
    let head = ["", "", "size", "filesystem", "mounted at", "why"].map(str::to_owned);
    let rows = disk.partitions.iter().map(|p| {
        let filesystem = p.filesystem.map(|f| f.name().to_owned()).unwrap_or_else(|| "-".into());
        [
            words::partition(&disk.disk.name, p.number),
            action(p.action).to_owned(),
            p.size.to_string(),
            filesystem,
            name(p),
            p.why.clone(),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> =
        (0..6).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut text = String::from(" ");
        for (i, cell) in row.iter().enumerate() {
            // Sizes are read by their right end.
            let padded = match i {
                2 => format!("{cell:>0$}", widths[i]),
                _ => format!("{cell:<0$}", widths[i]),
            };
            text.push(' ');
            text.push_str(&padded);
            text.push(' ');
        }
        line(&mut out, &text);
    }
    out
}

/// A stretch of a bar.
struct Part {
    start: Bytes,
    size: Bytes,
    text: String,
    colour: u8,
}

/// SGR colours of the background.
mod paint {
    pub const BOOT: u8 = 44;
    pub const SYSTEM: u8 = 42;
    pub const FILES: u8 = 45;
    pub const SWAP: u8 = 46;
    pub const FOREIGN: u8 = 43;
    pub const FREE: u8 = 100;
}

/// Two bars, before and after, to the same scale.
pub fn bars(disk: &DiskPlan, inventory: &Inventory, style: Style) -> String {
    let before = inventory.disks.iter().find(|d| d.name == disk.disk.name).map_or_else(Vec::new, |found| {
        let whole = found.content.iter().map(|c| Part {
            start: Bytes(0),
            size: found.size,
            text: c.label.clone().unwrap_or_else(|| c.kind.clone()),
            colour: paint::FOREIGN,
        });
        let parts = found.table.iter().flat_map(|t| &t.partitions).map(|p| {
            let content = p.content.as_ref();
            let looks = content.and_then(|c| c.looks_like.as_ref());
            let (text, colour) = match looks {
                Some(LooksLike::AkeneBoot { .. }) => ("/boot".into(), paint::BOOT),
                Some(LooksLike::Esp) => ("EFI".into(), paint::BOOT),
                Some(LooksLike::Home) => ("files".into(), paint::FILES),
                Some(LooksLike::Windows) => ("Windows".into(), paint::FOREIGN),
                Some(LooksLike::LinuxRoot { .. }) => ("Linux".into(), paint::SYSTEM),
                Some(LooksLike::Swap) => ("swap".into(), paint::SWAP),
                _ => {
                    let name = content.map(|c| c.label.clone().unwrap_or_else(|| c.kind.clone()));
                    (name.unwrap_or_else(|| "?".into()), paint::FOREIGN)
                }
            };
            Part { start: p.start, size: p.size, text, colour }
        });
        whole.chain(parts).collect()
    });
    let after = disk.partitions.iter().filter(|p| p.action != Action::Delete).map(|p| Part {
        start: p.start,
        size: p.size,
        text: if p.purpose == Role::Foreign { "kept".into() } else { name(p) },
        colour: match p.purpose {
            Role::BiosBoot | Role::Esp | Role::Boot => paint::BOOT,
            Role::Root => paint::SYSTEM,
            Role::Swap => paint::SWAP,
            Role::Volume(_) | Role::Physical(_) => paint::FILES,
            Role::Foreign => paint::FOREIGN,
        },
    });
    let mut out = String::new();
    line(&mut out, &bar("before", before, disk.disk.size, style));
    line(&mut out, &bar("after", after.collect(), disk.disk.size, style));
    out
}

fn bar(title: &str, mut parts: Vec<Part>, whole: Bytes, style: Style) -> String {
    parts.sort_by_key(|p| p.start);
    // Room that belongs to nobody, where it is enough to be seen.
    let mut filled: Vec<Part> = Vec::new();
    let mut at = Bytes(0);
    for part in parts {
        free(&mut filled, at, part.start, whole);
        at = at.max(part.start + part.size);
        filled.push(part);
    }
    free(&mut filled, at, whole, whole);
    let columns = style.width.saturating_sub(12).max(24);
    let cells = columns_of(&filled, columns);
    let mut out = format!("  {title:<7}");
    if !style.colour {
        out.push('|');
    }
    for (part, cells) in filled.iter().zip(cells) {
        let text: String = part.text.chars().take(cells).collect();
        if style.colour {
            out.push_str(&format!("\x1b[97;{}m{text:^cells$}\x1b[0m", part.colour));
        } else {
            out.push_str(&format!("{text:^0$}|", cells.saturating_sub(1)));
        }
    }
    out
}

/// Adds a free stretch when it is at least a hundredth of the disk.
fn free(parts: &mut Vec<Part>, from: Bytes, to: Bytes, whole: Bytes) {
    let size = to.saturating_sub(from);
    if size.0 > whole.0 / 100 {
        parts.push(Part { start: from, size, text: "free".into(), colour: paint::FREE });
    }
}

/// Columns for each part: enough for a short name, the rest by size. All together they fill `columns`, unless
/// there are too many parts.
fn columns_of(parts: &[Part], columns: usize) -> Vec<usize> {
    let mut cells: Vec<usize> = parts.iter().map(|p| p.text.chars().count().min(9) + 2).collect();
    let spare = columns.saturating_sub(cells.iter().sum());
    let total: u64 = parts.iter().map(|p| p.size.0).sum::<u64>().max(1);
    let mut left = spare;
    for (part, cells) in parts.iter().zip(&mut cells) {
        let more = (u128::from(part.size.0) * spare as u128 / u128::from(total)) as usize;
        *cells += more;
        left -= more;
    }
    // What rounding left goes to the largest.
    if let Some(largest) = (0..parts.len()).max_by_key(|i| parts[*i].size) {
        cells[largest] += left;
    }
    cells
}
