//! Network cards.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::garbage;
use akene_protocol::inventory::Nic;
use serde::Deserialize;

use super::root::{ProbeRoot, names, number, text};

/// The part of `ip -j link` that sysfs does not show.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    permaddr: Option<String>,
}

/// Every card that has hardware behind it.
pub(super) fn list(root: &ProbeRoot, runner: &dyn Runner) -> Vec<Nic> {
    // Without iproute2 the current addresses are all there is.
    let asked = runner.run(&Cmd::new("ip").args(["-j", "link"]).timeout(Duration::from_secs(10)));
    let links: Vec<Link> = asked.and_then(|output| output.json()).unwrap_or_default();
    let burnt_in: BTreeMap<_, _> = links.into_iter().filter_map(|l| Some((l.ifname, l.permaddr?))).collect();
    let dir = root.sys.join("class/net");
    names(&dir)
        .into_iter()
        // Bridges, tunnels, loopback and the like have no device; 1 is Ethernet, which radios are too.
        .filter(|n| dir.join(n).join("device").exists() && number(&dir.join(n).join("type")) == Some(1u32))
        .map(|name| {
            let own = dir.join(&name);
            let mac = burnt_in.get(&name).cloned().or_else(|| text(&own.join("address")));
            let target = |link: &str| {
                let target = own.join(link).canonicalize().ok()?;
                Some(target.file_name()?.to_str()?.to_owned())
            };
            let bus = target("device/subsystem");
            Nic {
                driver: target("device/driver"),
                mac: mac.map(|m| m.to_lowercase()).filter(|m| garbage::keep_mac(m)),
                device: device(&own.join("device"), bus.as_deref()),
                bus,
                wireless: own.join("wireless").exists() || own.join("phy80211").exists(),
                // Reading it of a card that is down is an error.
                link: number::<u8>(&own.join("carrier")).map(|c| c == 1),
                speed: number::<i64>(&own.join("speed"))
                    .and_then(|s| u32::try_from(s).ok())
                    .filter(|s| *s > 0),
                name,
            }
        })
        .collect()
}

/// Vendor and device, `10ec:8168`.
fn device(dir: &Path, bus: Option<&str>) -> Option<String> {
    let hex = |path: &Path| text(path).map(|v| v.trim_start_matches("0x").to_lowercase());
    let dir = dir.canonicalize().ok()?;
    let (dir, vendor, device) = match bus {
        // The interface belongs to the device above it.
        Some("usb") => (dir.parent()?, "idVendor", "idProduct"),
        Some("virtio") => (dir.parent()?, "vendor", "device"),
        _ => (dir.as_path(), "vendor", "device"),
    };
    Some(format!("{}:{}", hex(&dir.join(vendor))?, hex(&dir.join(device))?))
}
