//! The database of udev, read as files.
//!
//! `/run/udev/data/bMAJ:MIN` holds `E:KEY=VALUE` and `S:link` lines. Read directly because it is the
//! same on every distribution, needs no library, and can be recorded.

use std::collections::BTreeMap;

use super::root::{ProbeRoot, text};

/// What udev knows of a device. Empty where there is no udev.
#[derive(Debug, Default)]
pub(crate) struct Record {
    properties: BTreeMap<String, String>,
    links: Vec<String>,
}

impl Record {
    /// The record of a block device, by its `MAJ:MIN`.
    pub(super) fn of_block(root: &ProbeRoot, dev: &str) -> Self {
        text(&root.run_udev.join("data").join(format!("b{dev}"))).map(|t| Self::parse(&t)).unwrap_or_default()
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut record = Record::default();
        for line in text.lines() {
            match line.split_at_checked(2) {
                Some(("E:", rest)) => {
                    if let Some((key, value)) = rest.split_once('=') {
                        record.properties.insert(key.to_owned(), value.to_owned());
                    }
                }
                Some(("S:", link)) => record.links.push(link.to_owned()),
                _ => {}
            }
        }
        record
    }

    /// A property that is not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    /// The most stable link to a whole disk: a world-wide name before a bus with a serial number, and
    /// `/dev/disk/by-id` only.
    pub(crate) fn by_id(&self) -> Option<String> {
        let rank = |name: &str| match name {
            n if n.starts_with("wwn-") || n.starts_with("nvme-eui.") || n.starts_with("nvme-uuid.") => 0,
            n if n.starts_with("ata-") || n.starts_with("nvme-") || n.starts_with("mmc-") => 1,
            n if n.starts_with("virtio-") || n.starts_with("usb-") => 2,
            _ => 3,
        };
        let names = self.links.iter().filter_map(|l| l.strip_prefix("disk/by-id/"));
        let best = names.min_by_key(|n| (rank(n), n.len(), n.to_string()))?;
        Some(format!("/dev/disk/by-id/{best}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_properties_and_prefers_the_world_wide_name() {
        let record = Record::parse(
            "S:disk/by-path/pci-0000:00:1f.2-ata-1\nS:disk/by-id/ata-WDC_WD5000\nS:disk/by-id/wwn-0x50014ee2\n\
             I:1234\nE:ID_SERIAL_SHORT=WD-WCC2E\nE:ID_EMPTY=\ngarbage\n",
        );
        assert_eq!(record.get("ID_SERIAL_SHORT"), Some("WD-WCC2E"));
        assert_eq!(record.get("ID_EMPTY"), None);
        assert_eq!(record.by_id().as_deref(), Some("/dev/disk/by-id/wwn-0x50014ee2"));
    }
}
