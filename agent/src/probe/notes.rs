//! Things worth telling a person that are no fact of their own.

use akene_protocol::inventory::Disk;
use akene_protocol::issue::Issue;

use super::root::{ProbeRoot, names, number, text};

/// PCI class of a controller that puts disks together itself.
const RAID: &str = "0x0104";

/// What the machine should be told about.
pub(super) fn list(root: &ProbeRoot, disks: &[Disk]) -> Vec<Issue> {
    let mut notes = Vec::new();
    let pci = root.sys.join("bus/pci/devices");
    for address in names(&pci) {
        let own = pci.join(&address);
        let id = |file: &str| text(&own.join(file)).unwrap_or_default();
        // The driver counts disks that the firmware has put behind the controller.
        let hidden = number::<u32>(&own.join("remapped_nvme")).unwrap_or(0);
        if hidden > 0 {
            notes.push(Issue::new(
                "disk-hidden",
                &address,
                format!("the firmware hides {hidden} NVMe disk(s) behind the SATA controller"),
                "in the firmware set-up, change the storage mode from RAID, RST or Optane to AHCI",
            ));
        }
        let fixed = disks.iter().any(|d| !d.removable);
        if id("class").starts_with(RAID) && !fixed {
            notes.push(Issue::new(
                "raid-controller",
                &address,
                format!("a RAID controller ({}:{}) shows no disk", id("vendor"), id("device")),
                "in the firmware set-up, change the storage mode from RAID, RST or VMD to AHCI, or \
                 set up a volume in the controller's own menu",
            ));
        }
    }
    notes
}
