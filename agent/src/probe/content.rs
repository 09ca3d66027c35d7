//! What lies on a disk or partition, by blkid's low-level probe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_protocol::inventory::Content;
use anyhow::{Context, Result, ensure};

/// A failing disk answers late or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of the beginning has to be readable before it is believed that nothing is there. btrfs has its first
/// mark at 64 KiB.
const BEGINNING: u64 = 128 << 10;

/// What blkid recognises. `None`: nothing.
pub fn of(runner: &dyn Runner, device: &Path) -> Result<Option<Content>> {
    at_place(runner, device, 0, &[])
}

/// What blkid recognises at a place of a disk, where the kernel shows no node for it.
pub(super) fn at(runner: &dyn Runner, disk: &Path, start: u64, size: u64) -> Result<Option<Content>> {
    let place = ["--offset".to_owned(), start.to_string(), "--size".to_owned(), size.to_string()];
    at_place(runner, disk, start, &place)
}

fn at_place(runner: &dyn Runner, device: &Path, start: u64, place: &[String]) -> Result<Option<Content>> {
    let cmd = Cmd::new("blkid").args(["-p", "-o", "export"]).args(place).arg(device).timeout(PATIENCE);
    match runner.run(&cmd) {
        Ok(output) => Ok(parse(&output.text())),
        Err(e) => match e.downcast_ref::<ExecError>().and_then(|e| e.code) {
            // Nothing recognised. It says no more when there is no such device, or one that cannot be read: what is
            // taken for blank may be overwritten.
            Some(2) => readable(device, start).map(|()| None),
            // Several things recognised at once: the rest of an old filesystem under a newer one. It is
            // not blank, and nothing in it is to be trusted.
            Some(8) => Ok(Some(Content {
                kind: "ambiguous".into(),
                label: None,
                uuid: None,
                used: None,
                looks_like: None,
            })),
            _ => Err(e),
        },
    }
}

/// Whether the beginning of what lies there can be read.
fn readable(device: &Path, start: u64) -> Result<()> {
    let read = || -> std::io::Result<u64> {
        let mut file = File::open(device)?;
        file.seek(SeekFrom::Start(start))?;
        std::io::copy(&mut file.take(BEGINNING), &mut std::io::sink())
    };
    let n =
        read().with_context(|| format!("reading {}, on which nothing was recognised", device.display()))?;
    ensure!(n > 0, "reading {}: there is nothing at byte {start}", device.display());
    Ok(())
}

pub(crate) fn parse(text: &str) -> Option<Content> {
    let values: BTreeMap<&str, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key, unescape(value)))
        .collect();
    let get = |key: &str| values.get(key).filter(|v| !v.is_empty()).cloned();
    Some(Content {
        kind: get("TYPE")?,
        label: get("LABEL").or_else(|| get("LABEL_FATBOOT")),
        uuid: get("UUID"),
        used: None,
        looks_like: None,
    })
}

/// blkid puts a backslash before what a shell would take apart.
fn unescape(value: &str) -> String {
    let mut chars = value.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use akene_exec::SystemRunner;

    use super::*;

    /// blkid ends with the same code, and silently, for a blank disk and for one that is not there.
    #[test]
    fn what_cannot_be_read_is_not_blank() {
        let dir = tempfile::tempdir().unwrap();
        let (blank, gone) = (dir.path().join("blank"), dir.path().join("gone"));
        std::fs::File::create(&blank).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(of(&SystemRunner, &blank).unwrap(), None);
        assert_eq!(at(&SystemRunner, &blank, 1 << 19, 1 << 19).unwrap(), None);
        assert!(format!("{:#}", of(&SystemRunner, &gone).unwrap_err()).contains("nothing was recognised"));
        assert!(at(&SystemRunner, &blank, 1 << 21, 512).is_err());
    }

    #[test]
    fn reads_an_export() {
        let content = parse(
            "DEVNAME=/dev/sda3\nLABEL=My\\ Data\\ \\$x\nUUID=0a1b\nVERSION=1.0\nTYPE=ext4\nUSAGE=filesystem\n",
        )
        .unwrap();
        assert_eq!((content.kind.as_str(), content.label.as_deref()), ("ext4", Some("My Data $x")));
        assert_eq!(parse("PTUUID=1\nPTTYPE=gpt\n"), None);
    }
}
