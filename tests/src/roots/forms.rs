//! Files that are read for what they say: two that say the same may have other bytes, for packages were
//! configured in another order.

use std::collections::BTreeMap;
use std::path::Path;

use super::walk::Names;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Paragraphs of fields (`status`, `extended_states`): each field of each package.
    Paragraphs(&'static [&'static str]),
    /// Lines in any order.
    Lines,
    /// Three lines for each diversion.
    Diversions,
    /// State of one name of update-alternatives.
    Alternative,
    /// `passwd`, `group`: numbers that are handed out are read as names.
    Accounts,
    /// `shadow`, `gshadow`: without the day a password was changed.
    Shadow,
}

impl Form {
    /// The form of the file at a path below a root, if it is not just bytes.
    pub(super) fn of(path: &Path) -> Option<Form> {
        let text = path.to_str()?;
        Some(match text {
            "etc/passwd" | "etc/group" => Form::Accounts,
            "etc/shadow" | "etc/gshadow" => Form::Shadow,
            "etc/shells" | "var/lib/shells.state" | "etc/subuid" | "etc/subgid" => Form::Lines,
            "var/lib/dpkg/status" | "var/lib/apt/extended_states" | "var/lib/dpkg/available" => {
                Form::Paragraphs(&["Package", "Architecture"])
            }
            "var/cache/debconf/config.dat" | "var/cache/debconf/templates.dat" => Form::Paragraphs(&["Name"]),
            "var/lib/dpkg/diversions" => Form::Diversions,
            "var/lib/dpkg/statoverride" => Form::Lines,
            _ if text.starts_with("var/lib/dpkg/alternatives/") => Form::Alternative,
            _ if text.starts_with("var/lib/dpkg/triggers/") => Form::Lines,
            _ if text.starts_with("var/lib/dpkg/info/") && text.ends_with(".list") => Form::Lines,
            _ if text.starts_with("var/lib/systemd/deb-systemd-") => Form::Lines,
            _ if text.starts_with("var/lib/ucf/") => Form::Lines,
            _ => return None,
        })
    }

    /// What the file says, statement by statement.
    pub(super) fn parts(self, text: &str, names: &Names) -> BTreeMap<String, String> {
        match self {
            Form::Lines => counted(text.lines()),
            Form::Diversions => counted(text.lines().collect::<Vec<_>>().chunks(3).map(|d| d.join(" "))),
            Form::Paragraphs(key) => paragraphs(text, key),
            Form::Alternative => alternative(text),
            Form::Accounts => text.lines().map(|line| account(line, names)).collect(),
            Form::Shadow => text.lines().map(shadow).collect(),
        }
    }
}

/// Statements and how often they are there.
fn counted<S: ToString>(lines: impl IntoIterator<Item = S>) -> BTreeMap<String, String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        *counts.entry(line.to_string()).or_default() += 1;
    }
    counts.into_iter().map(|(line, count)| (line, format!("{count} times"))).collect()
}

fn paragraphs(text: &str, key: &[&str]) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let mut fields: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in paragraph.lines().filter(|l| !l.is_empty()) {
            match (line.starts_with([' ', '\t']), fields.last_mut(), line.split_once(':')) {
                (true, Some((_, lines)), _) => lines.push(line),
                (_, _, Some((name, value))) => fields.push((name, vec![value.trim()])),
                // Nothing writes this; it must not get lost.
                _ => fields.push((line, Vec::new())),
            }
        }
        let value = |name: &str| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v.join("\n"));
        let whose: Vec<String> = key.iter().filter_map(|k| value(k)).collect();
        let whose = whose.join(":");
        for (name, lines) in &fields {
            let value = match *name {
                // Who asks for it, in the order they were installed.
                "Owners" | "Variables" | "Triggers-Pending" | "Triggers-Awaited" => sorted(lines),
                _ => lines.join("\n"),
            };
            let said = parts.insert(format!("{whose} {name}"), value);
            if let Some(before) = said {
                // The same field again is a statement of its own.
                parts.insert(format!("{whose} {name} (before)"), before);
            }
        }
    }
    parts
}

fn sorted(lines: &[&str]) -> String {
    let mut words: Vec<&str> = lines.iter().flat_map(|l| l.split([',', ' ', '\n'])).collect();
    words.retain(|w| !w.is_empty());
    words.sort_unstable();
    words.join(" ")
}

/// Mode, link, slaves, then each choice with its priority and its slaves' targets.
fn alternative(text: &str) -> BTreeMap<String, String> {
    let mut lines = text.lines();
    let mut parts = BTreeMap::new();
    parts.insert("mode".into(), lines.next().unwrap_or_default().into());
    parts.insert("link".into(), lines.next().unwrap_or_default().into());
    let mut slaves = Vec::new();
    while let Some(name) = lines.next().filter(|n| !n.is_empty()) {
        parts.insert(format!("slave {name}"), lines.next().unwrap_or_default().into());
        slaves.push(name);
    }
    while let Some(choice) = lines.next().filter(|c| !c.is_empty()) {
        parts.insert(format!("choice {choice}"), lines.next().unwrap_or_default().into());
        for slave in &slaves {
            let target = lines.next().unwrap_or_default();
            parts.insert(format!("choice {choice}, slave {slave}"), target.into());
        }
    }
    parts
}

fn account(line: &str, names: &Names) -> (String, String) {
    let mut fields: Vec<String> = line.split(':').map(str::to_owned).collect();
    let name = fields.first().cloned().unwrap_or_default();
    let number = |text: &str| text.parse::<u32>().ok();
    // `passwd` has seven fields, `group` four.
    let is_user = fields.len() > 4;
    if let Some(id) = fields.get(2).and_then(|f| number(f)) {
        fields[2] = if is_user { names.user(id) } else { names.group(id) };
    }
    if let Some(id) = fields.get(3).filter(|_| is_user).and_then(|f| number(f)) {
        fields[3] = names.group(id);
    } else if let Some(members) = fields.get_mut(3) {
        *members = sorted(&[members.as_str()]);
    }
    (name, fields.join(":"))
}

fn shadow(line: &str) -> (String, String) {
    let mut fields: Vec<&str> = line.split(':').collect();
    if fields.len() > 4 {
        fields[2] = "";
    }
    (fields[0].to_owned(), fields.join(":"))
}
