//! A plan for people: a table, a picture of before and after, and in plain words what is lost.
//!
//! [`text`] is for terminals and logs, [`svg`] for browsers. Names and labels come from machines, so that nothing in
//! them may reach a terminal or a page as a command.

mod bars;
mod picture;
mod svg;

use akene_protocol::inventory::Inventory;

use crate::{Action, DiskPlan, PartitionPlan, Plan, Role, words};
pub use svg::svg;

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
        let strip = picture::strip(plan, disk, inventory);
        line(&mut out, &format!("{} {}", strip.title, strip.fate));
        line(&mut out, "");
        out.push_str(&bars::bars(&strip, style, &str::to_owned));
        line(&mut out, "");
        out.push_str(&table_of(disk, style));
        line(&mut out, "");
    }
    // Each group once, whatever number of disks it lies on.
    for strip in picture::groups(inventory, Some(plan)) {
        line(&mut out, &strip.title);
        line(&mut out, "");
        out.push_str(&bars::bars(&strip, style, &str::to_owned));
        line(&mut out, "");
        out.push_str(&wrapped("  ", &strip.fate, style.width));
        line(&mut out, "");
    }
    out.push_str(&destroyed(plan));
    for note in &plan.notes {
        out.push_str(&wrapped("Note: ", &clean(&format!("{note}.")), style.width));
    }
    out
}

/// The bars of one disk or group of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// Kernel name of the disk; of a group, its own.
    pub name: String,
    /// Whether it is a group of LVM.
    pub group: bool,
    /// Two lines of the width asked for at most: before and after.
    pub lines: Vec<String>,
}

/// Only the bars of each disk the plan touches and of each group, for who does not read tables. `word` translates `before`, `after`,
/// `now`, and labels such as `free` and `files`; it is given names from the machine, too.
pub fn sketches(
    plan: &Plan,
    inventory: &Inventory,
    style: Style,
    word: &dyn Fn(&str) -> String,
) -> Vec<Sketch> {
    let sketch = |name: &str, group, strip: &picture::Strip| Sketch {
        name: clean(name),
        group,
        lines: bars::bars(strip, style, word).lines().map(str::to_owned).collect(),
    };
    let disks =
        plan.disks.iter().map(|disk| (disk.disk.name.as_str(), picture::strip(plan, disk, inventory)));
    let groups = plan.groups.iter().map(|g| (g.name.as_str(), picture::planned_group(plan, g, inventory)));
    let disks = disks.map(|(name, strip)| sketch(name, false, &strip));
    disks.chain(groups.map(|(name, strip)| sketch(name, true, &strip))).collect()
}

/// Text without anything a terminal would obey.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Breaks a text at blanks into lines of at most `width` columns; a longer word has its own.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut now = String::new();
    for word in text.split_whitespace() {
        let more = word.chars().count() + usize::from(!now.is_empty());
        if !now.is_empty() && now.chars().count() + more > width {
            lines.push(std::mem::take(&mut now));
        }
        if !now.is_empty() {
            now.push(' ');
        }
        now.push_str(word);
    }
    lines.push(now);
    lines
}

/// A remark, its further lines below its first word.
fn wrapped(head: &str, text: &str, width: usize) -> String {
    let indent = head.chars().count();
    let mut out = String::new();
    for (i, part) in broken(text, width.saturating_sub(indent).max(20)).iter().enumerate() {
        let before = if i == 0 { head.to_owned() } else { " ".repeat(indent) };
        line(&mut out, &format!("{before}{part}"));
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
        line(&mut out, &clean(&format!("  {}: {}", lost.name, lost.what)));
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

/// What is said of a partition that this was done to.
fn done(action: Action) -> &'static str {
    match action {
        Action::Keep => "kept as it is",
        Action::Create => "new",
        Action::Format => "formatted where it is",
        Action::Delete => "deleted",
        Action::Refresh => "made anew around the people's files in it, which are kept",
    }
}

fn name(partition: &PartitionPlan) -> String {
    match (&partition.mount, &partition.purpose) {
        (Some(mount), _) => mount.clone(),
        (None, Role::BiosBoot) => "BIOS boot".into(),
        (None, Role::Esp) => "EFI".into(),
        (None, Role::Boot) => "/boot".into(),
        (None, Role::Root) => "/".into(),
        (None, Role::Old) => "old /".into(),
        (None, Role::Spare) => "spare".into(),
        (None, Role::Swap) => "swap".into(),
        (None, Role::Volume(name)) => name.clone(),
        (None, Role::Physical(group)) => group.clone(),
        (None, Role::Foreign) => "-".into(),
    }
}

/// For each partition what happens, how large, what it is and why.
fn table_of(disk: &DiskPlan, style: Style) -> String {
    let head = ["", "", "size", "filesystem", "mounted at", "why"].map(str::to_owned);
    let rows = disk.partitions.iter().map(|p| {
        let filesystem = p.filesystem.map(|f| f.name().to_owned()).unwrap_or_else(|| "-".into());
        [
            words::partition(&disk.disk.name, p.number),
            action(p.action).to_owned(),
            p.size.to_string(),
            filesystem,
            name(p),
            clean(&p.why),
        ]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), style)
}

/// Columns as wide as they must be; the last has what the line leaves it, and is broken where that is too little.
fn table(rows: &[[String; 6]], style: Style) -> String {
    let widths: Vec<usize> =
        (0..5).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
    let indent = 2 + widths.iter().map(|w| w + 2).sum::<usize>();
    let mut out = String::new();
    for row in rows {
        let mut text = String::from("  ");
        for (i, width) in widths.iter().copied().enumerate() {
            // Sizes are read by their right end.
            match i {
                2 => text.push_str(&format!("{:>width$}  ", row[i])),
                _ => text.push_str(&format!("{:<width$}  ", row[i])),
            }
        }
        out.push_str(&wrapped(&text, &row[5], style.width.max(indent + 24)));
    }
    out
}
