//! The entry in the boot menu of this computer's UEFI.
//!
//! Firmwares take an entry and say so, take it and forget it, or take it and leave it out of the order. So it is
//! read back. The system starts without it too, from the loader at the disk's removable path.

use std::path::Path;

use akene_exec::{Cmd, Runner};
use anyhow::{Result, bail};

/// An entry to make.
pub(crate) struct Entry<'a> {
    /// Name in the firmware's menu. Others of the same name are replaced.
    pub label: &'a str,
    /// Disk of the EFI system partition.
    pub disk: &'a Path,
    /// Number of that partition.
    pub partition: u32,
    /// GUID of that partition, where the table has one.
    pub partuuid: Option<&'a str>,
    /// The loader on it, with backslashes.
    pub loader: &'a str,
}

/// A line of `efibootmgr`: `Boot0003* debian (akene)<TAB>HD(2,GPT,…)/File(\EFI\debian\shimx64.efi)`.
struct Listed<'a> {
    number: &'a str,
    active: bool,
    label: &'a str,
    path: &'a str,
}

impl<'a> Listed<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (number, rest) = line.strip_prefix("Boot")?.split_at_checked(4)?;
        if !number.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        // `BootCurrent: …` has no such number; an entry has a star where it is active, else a blank.
        let active = rest.starts_with('*');
        let rest = rest.strip_prefix('*').or_else(|| rest.strip_prefix(' '))?.trim_start();
        let (label, path) = rest.split_once('\t').unwrap_or((rest, ""));
        Some(Listed { number, active, label: label.trim(), path })
    }
}

/// Makes the entry, in place of those of the same name, and looks whether it is there.
///
/// # Errors
/// What the firmware refused, or what it has instead.
pub(super) fn enter(runner: &dyn Runner, entry: &Entry<'_>) -> Result<()> {
    let list = runner.run(&Cmd::new("efibootmgr"))?.text();
    for old in list.lines().filter_map(Listed::parse).filter(|old| old.label == entry.label) {
        runner.run(&Cmd::new("efibootmgr").args(["-q", "-b", old.number, "-B"]))?;
    }
    let create = Cmd::new("efibootmgr").args(["-q", "-c", "-d"]).arg(entry.disk);
    let partition = entry.partition.to_string();
    runner.run(&create.args(["-p", &partition, "-L", entry.label, "-l", entry.loader]))?;
    check(&runner.run(&Cmd::new("efibootmgr").arg("-v"))?.text(), entry)
}

/// Whether the list has the entry, active, leading to our loader, and first in the order.
pub(crate) fn check(list: &str, entry: &Entry<'_>) -> Result<()> {
    let Some(found) = list.lines().filter_map(Listed::parse).find(|found| found.label == entry.label) else {
        bail!("it was accepted, but it is not in the firmware's list");
    };
    let number = found.number;
    if !found.active {
        bail!("Boot{number} is in the firmware's list, but switched off");
    }
    // Releases of efibootmgr write the file in different ways; firmwares change its case.
    let path = found.path.to_lowercase();
    let leads = |part: &str| path.contains(&part.to_lowercase());
    if !leads(entry.loader) || !entry.partuuid.filter(|id| id.len() == 36).is_none_or(leads) {
        bail!("Boot{number} leads to `{}` instead of {}", found.path, entry.loader);
    }
    let order = list.lines().find_map(|line| line.strip_prefix("BootOrder:")).unwrap_or_default().trim();
    if !order.split(',').next().is_some_and(|first| first.eq_ignore_ascii_case(number)) {
        bail!("Boot{number} is not the first of the firmware's order `{order}`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::RecordingRunner;

    const GUID: &str = "5a0c1f6e-9d9c-5e5b-8a0b-0d8f6a7f1c22";

    fn ours() -> Entry<'static> {
        Entry {
            label: "debian (akene)",
            disk: Path::new("/dev/sda"),
            partition: 2,
            partuuid: Some(GUID),
            loader: "\\EFI\\debian\\shimx64.efi",
        }
    }

    const BEFORE: &str = "BootCurrent: 0001\nTimeout: 3 seconds\nBootOrder: 0001,0004,000A\n\
        Boot0001* UEFI QEMU DVD-ROM\nBoot0004* debian (akene)\nBoot000A  debian (akene)\nBoot000B* debian\n";

    /// What the firmware lists afterwards: our entry as it should be, with `change` made to it.
    fn after(change: (&str, &str)) -> String {
        let list = format!(
            "BootCurrent: 0001\nTimeout: 3 seconds\nBootOrder: 0004,0001\n\
             Boot0001* UEFI QEMU DVD-ROM\tPciRoot(0x0)/Pci(0x1f,0x2)\n\
             Boot0004* debian (akene)\tHD(2,GPT,{GUID},0x1000,0x80000)/File(\\EFI\\DEBIAN\\SHIMX64.EFI)\n"
        );
        assert!(list.contains(change.0), "the change `{}` changes nothing", change.0);
        list.replace(change.0, change.1)
    }

    fn told(after: &str) -> (Result<()>, Vec<Vec<String>>) {
        let runner = RecordingRunner::default().answer("efibootmgr -v", after).answer("efibootmgr", BEFORE);
        let result = enter(&runner, &ours());
        (result, runner.calls())
    }

    #[test]
    fn the_entry_replaces_its_namesakes_and_is_read_back() {
        let (result, calls) = told(&after(("", "")));
        result.unwrap();
        let calls: Vec<String> = calls.iter().map(|call| call.join(" ")).collect();
        assert_eq!(
            calls,
            [
                "efibootmgr",
                "efibootmgr -q -b 0004 -B",
                "efibootmgr -q -b 000A -B",
                "efibootmgr -q -c -d /dev/sda -p 2 -L debian (akene) -l \\EFI\\debian\\shimx64.efi",
                "efibootmgr -v",
            ]
        );
        // As efibootmgr 18 writes it.
        told(&after(("/File(\\EFI\\DEBIAN\\SHIMX64.EFI)", "/\\EFI\\debian\\shimx64.efi"))).0.unwrap();
    }

    #[test]
    fn a_firmware_that_does_something_else_is_told() {
        for (change, words) in [
            (("Boot0004* debian (akene)", "Boot0004* Windows Boot Manager"), "not in the firmware's list"),
            (("Boot0004*", "Boot0004 "), "switched off"),
            (("SHIMX64.EFI", "GRUBX64.EFI"), "leads to"),
            ((GUID, "11111111-2222-3333-4444-555555555555"), "leads to"),
            (("BootOrder: 0004,0001", "BootOrder: 0001,0004"), "not the first"),
            (("BootOrder: 0004,0001\n", ""), "not the first"),
        ] {
            let error = told(&after(change)).0.unwrap_err();
            assert!(format!("{error:#}").contains(words), "{change:?}: {error:#}");
        }
    }
}
