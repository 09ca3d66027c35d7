//! Batteries of the machine itself.

use akene_protocol::garbage;
use akene_protocol::inventory::Battery;

use super::root::{ProbeRoot, names, number, text};

/// Every battery that is in its place.
pub(super) fn list(root: &ProbeRoot) -> Vec<Battery> {
    let dir = root.sys.join("class/power_supply");
    names(&dir)
        .into_iter()
        .filter(|name| {
            let own = dir.join(name);
            text(&own.join("type")).as_deref() == Some("Battery")
                // A mouse has one too.
                && text(&own.join("scope")).as_deref() != Some("Device")
                && number::<u8>(&own.join("present")) != Some(0)
        })
        .map(|name| {
            let own = dir.join(&name);
            let value = |file: &str| number::<u64>(&own.join(file)).filter(|v| *v > 0);
            // Some count energy, some charge.
            let pair =
                |unit: &str| Some((value(&format!("{unit}_full"))?, value(&format!("{unit}_full_design"))?));
            let health = pair("energy").or_else(|| pair("charge")).map(|(now, new)| now * 100 / new);
            Battery {
                health_percent: health.and_then(|h| u32::try_from(h).ok()),
                charge_percent: number(&own.join("capacity")),
                // Those that do not count say 0.
                cycles: number(&own.join("cycle_count")).filter(|c| *c > 0),
                serial: text(&own.join("serial_number")).filter(|s| garbage::keep_serial(s)),
                name,
            }
        })
        .collect()
}
