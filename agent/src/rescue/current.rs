//! Which of two systems of one machine is the one that starts.
//!
//! An Akène machine may have two places for a root ([`second_root`]) and one boot partition, whose menu says what starts. What
//! is mended in the other system, nobody finds; and a boot loader made by that one would take the other's place.

use std::path::Path;

use akene_protocol::Issue;
use akene_protocol::inventory::{Inventory, LooksLike};
use anyhow::{Result, bail};

use super::Rescue;
use super::boot::mounts;
use super::open::{Purpose, open};
use super::volumes::Volume;
use crate::run::second_root;

/// Where the boot partition is mounted.
const AT: &str = "/run/akene/rescue/boot";

/// Code of the issue that another system starts.
pub(super) const CODE: &str = "system-not-current";

/// Refuses a system beside the one that starts. `fstab` is its own; work in mounts of one's own.
///
/// # Errors
/// [`CODE`], or the boot partition cannot be read.
pub(super) fn ensure(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    volumes: &[Volume],
    system: &Volume,
    fstab: &str,
) -> Result<()> {
    let mounts = mounts(fstab, volumes, system);
    let of_ours = |v: &Volume| matches!(v.looks(), Some(LooksLike::AkeneBoot { .. }));
    let boot = mounts.iter().find(|(volume, place)| place == "/boot" && of_ours(volume));
    let Some((boot, _)) = boot else { return Ok(()) };
    let opened = open(rescue.runner, machine, boot, Path::new(AT), Purpose::Look, "")?;
    let current = second_root::current(opened.at());
    opened.close()?;
    match other(volumes, system, current.as_deref()) {
        None => Ok(()),
        Some(other) => bail!(Issue::new(
            CODE,
            &system.name,
            format!("it lies beside the system that this computer starts, which is on {}", other.name),
            format!("choose the system on {}", other.name),
        )),
    }
}

/// The system that starts, where that is another one than this and is there.
fn other<'v>(volumes: &'v [Volume], system: &Volume, current: Option<&str>) -> Option<&'v Volume> {
    let current = current.filter(|current| system.uuid() != Some(current))?;
    volumes.iter().find(|v| v.is_root() && v.uuid() == Some(current))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescue::volumes::list;

    #[test]
    fn only_the_one_beside_the_system_that_starts_is_refused() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/akene-two-roots-power-cut");
        let text = std::fs::read(file.join("inventory.json")).unwrap();
        let volumes = list(&serde_json::from_slice(&text).unwrap());
        let roots: Vec<&Volume> = volumes.iter().filter(|v| v.is_root()).collect();
        let [one, two] = roots[..] else { panic!("{roots:?}") };
        assert_eq!(other(&volumes, one, two.uuid()).map(|v| &v.name), Some(&two.name));
        assert_eq!(other(&volumes, two, two.uuid()), None);
        assert_eq!(other(&volumes, one, None), None, "the menu starts none");
        assert_eq!(other(&volumes, one, Some("gone")), None, "what it starts is not there");
    }
}
