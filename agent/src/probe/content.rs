//! What lies on a disk or partition, by blkid's low-level probe.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_protocol::inventory::Content;
use anyhow::Result;

/// A failing disk answers late or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// What blkid recognises. `None`: nothing.
pub fn of(runner: &dyn Runner, device: &Path) -> Result<Option<Content>> {
    ask(runner, &Cmd::new("blkid").args(["-p", "-o", "export"]).arg(device))
}

/// What blkid recognises at a place of a disk, where the kernel shows no node for it.
pub(super) fn at(runner: &dyn Runner, disk: &Path, start: u64, size: u64) -> Result<Option<Content>> {
    let place = ["--offset".to_owned(), start.to_string(), "--size".to_owned(), size.to_string()];
    ask(runner, &Cmd::new("blkid").args(["-p", "-o", "export"]).args(place).arg(disk))
}

fn ask(runner: &dyn Runner, cmd: &Cmd) -> Result<Option<Content>> {
    let cmd = cmd.clone().timeout(PATIENCE);
    match runner.run(&cmd) {
        Ok(output) => Ok(parse(&output.text())),
        Err(e) => match e.downcast_ref::<ExecError>().and_then(|e| e.code) {
            // Nothing recognised.
            Some(2) => Ok(None),
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
    use super::*;

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
