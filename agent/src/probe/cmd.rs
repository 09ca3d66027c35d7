//! `akene-agent probe`.

use std::io::Write;
use std::path::PathBuf;

use akene_exec::Runner;
use akene_protocol::inventory::{Content, Disk, Inventory};
use anyhow::{Context, Result};

use super::{ProbeRoot, inventory};

/// Probes this machine and writes what was found: the inventory as JSON, or a page for people. Devices in
/// `also` are listed although their kind is not (loop devices).
pub fn probe(runner: &dyn Runner, json: bool, also: Vec<PathBuf>, out: &mut dyn Write) -> Result<()> {
    let found = inventory(runner, &ProbeRoot { also, ..ProbeRoot::default() });
    let page = match json {
        true => serde_json::to_string_pretty(&found).context("writing the inventory")? + "\n",
        false => page(&found),
    };
    out.write_all(page.as_bytes()).context("writing the inventory")
}

/// The inventory for people.
pub fn page(found: &Inventory) -> String {
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let both = |a: &Option<String>, b: &Option<String>| {
        let words: Vec<_> = a.iter().chain(b).map(String::as_str).collect();
        if words.is_empty() { "unknown".to_owned() } else { words.join(" ") }
    };
    let mut lines = vec![
        format!("machine    {}", both(&found.dmi.system_vendor, &found.dmi.product_name)),
        format!("serial     {}", known(&found.dmi.product_serial)),
        format!("processor  {}", known(&found.cpu.model)),
        format!("memory     {}", found.memory.total),
        format!(
            "firmware   {:?}{}",
            found.firmware.kind,
            match found.firmware.secure_boot {
                Some(true) => ", Secure Boot is on",
                Some(false) => ", Secure Boot is off",
                None => "",
            }
        ),
    ];
    for disk in &found.disks {
        lines.push(format!("disk       {}", disk_line(disk)));
        let table = disk.table.iter();
        for part in table.flat_map(|t| &t.partitions) {
            let content = part.content.as_ref().map(content_words).unwrap_or_else(|| "nothing known".into());
            lines.push(format!("           {:>3}  {:>9}  {content}", part.number, part.size.to_string()));
        }
    }
    for nic in &found.nics {
        let link = match nic.link {
            Some(true) => "cable connected",
            Some(false) => "no cable",
            None => "not started",
        };
        let kind = if nic.wireless { "wireless" } else { "network" };
        lines.push(format!("{kind:<11}{}  {}  {}  {link}", nic.name, known(&nic.mac), known(&nic.driver)));
    }
    for display in &found.displays {
        let mode = known(&display.preferred);
        lines.push(format!(
            "display    {}  {}  {mode}",
            display.connector,
            both(&display.manufacturer, &display.model)
        ));
    }
    for battery in &found.batteries {
        let health =
            battery.health_percent.map(|h| format!("{h} % of new")).unwrap_or_else(|| "unknown".into());
        lines.push(format!("battery    {}  {health}", battery.name));
    }
    lines.extend(found.notes.iter().map(|note| format!("note       {note}")));
    lines.join("\n") + "\n"
}

fn disk_line(disk: &Disk) -> String {
    let mut words = vec![disk.path.clone(), disk.size.to_string(), format!("{:?}", disk.bus).to_lowercase()];
    words.extend(disk.model.clone());
    words.extend(disk.serial.clone());
    let marks = [
        (disk.removable, "removable"),
        (disk.read_only, "read-only"),
        (disk.live_medium, "the live medium"),
        (disk.is_blank(), "blank"),
    ];
    words.extend(marks.iter().filter(|(is, _)| *is).map(|(_, word)| format!("[{word}]")));
    words.extend(disk.content.as_ref().map(content_words));
    words.extend(disk.table.as_ref().and_then(|t| t.damage.clone()).map(|d| format!("[{d}]")));
    words.join("  ")
}

fn content_words(content: &Content) -> String {
    let mut words = vec![content.kind.clone()];
    words.extend(content.label.as_ref().map(|l| format!("\"{l}\"")));
    words.extend(content.used.map(|u| format!("{u} used")));
    words.extend(content.looks_like.as_ref().map(|l| format!("{l:?}")));
    words.join(" ")
}
