//! The identifiers we give: the same machine, disk and role always get the same ones.
//!
//! Made from the machine id, so that a disk in a drawer says which machine it was in, and so that a
//! run that is repeated after a power cut makes the same table again.

use akene_planner::{DiskRef, Role};
use akene_protocol::ids::MachineId;
use uuid::Uuid;

/// Identifiers for one disk of one machine.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    space: Uuid,
}

impl Ids {
    /// `index` tells disks apart that say nothing about themselves.
    pub(super) fn new(machine: MachineId, disk: &DiskRef, index: usize) -> Self {
        let name = match disk.wwn.as_ref().or(disk.serial.as_ref()) {
            Some(name) => format!("disk/{name}"),
            None => format!("disk/{index}/{}", disk.size.0),
        };
        Ids { space: Uuid::new_v5(&Uuid::from_bytes(machine.0), name.as_bytes()) }
    }

    fn make(&self, what: &str) -> Uuid {
        Uuid::new_v5(&self.space, what.as_bytes())
    }

    /// GUID of the disk.
    pub(super) fn disk(&self) -> Uuid {
        self.make("table")
    }

    /// MBR signature: four bytes, not zero.
    pub(super) fn signature(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = *self.disk().as_bytes();
        // Linux takes zero for "none".
        [a | 1, b, c, d]
    }

    /// GUID of a partition.
    pub(super) fn partition(&self, role: &Role, number: u32) -> Uuid {
        self.make(&format!("partition/{}/{number}", role_name(role)))
    }

    /// UUID of a filesystem.
    pub(super) fn filesystem(&self, role: &Role, number: u32) -> Uuid {
        self.make(&format!("filesystem/{}/{number}", role_name(role)))
    }
}

/// A stable name for a role.
fn role_name(role: &Role) -> String {
    match role {
        Role::BiosBoot => "bios-boot".into(),
        Role::Esp => "esp".into(),
        Role::Boot => "boot".into(),
        Role::Root => "root".into(),
        Role::Old => "old".into(),
        Role::Spare => "spare".into(),
        Role::Swap => "swap".into(),
        Role::Volume(name) => format!("volume-{name}"),
        Role::Physical(group) => format!("physical-{group}"),
        Role::Foreign => "foreign".into(),
    }
}
