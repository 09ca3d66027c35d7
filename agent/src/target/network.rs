//! The network of the installed system.
//!
//! NetworkManager where the packages bring it (a desktop), netplan on Ubuntu, systemd-networkd otherwise. Cards
//! are matched by kind, not by name or address: the disk may move to another computer, and the card
//! may be replaced.

use akene_archive::Root;
use akene_protocol::profile::Distribution;
use akene_protocol::stamp::StaticNetwork;
use anyhow::Result;

use super::{Job, Watch};

/// Writes the network's settings and switches on what uses them.
pub(super) fn settle(job: &Job<'_>, root: &mut Root, _: &mut dyn Watch) -> Result<()> {
    let network = &job.resolved.network;
    if !network.ntp.is_empty() && root.exists("usr/lib/systemd/systemd-timesyncd") {
        let text = format!("[Time]\nNTP={}\n", network.ntp.join(" "));
        root.write("etc/systemd/timesyncd.conf.d/10-akene.conf", text, 0o644)?;
    }
    let manager = job.has_package("network-manager");
    let netplan = job.resolved.archive.distribution == Distribution::Ubuntu && job.has_package("netplan.io");
    if netplan {
        let renderer = if manager { "NetworkManager" } else { "networkd" };
        root.write(
            "etc/netplan/10-akene.yaml",
            netplan_yaml(renderer, network.fixed.as_ref(), manager),
            0o600,
        )?;
    } else if manager {
        if let Some(fixed) = &network.fixed {
            root.write("etc/NetworkManager/system-connections/wired.nmconnection", keyfile(fixed), 0o600)?;
        }
    } else {
        root.write("etc/systemd/network/20-wired.network", networkd(network.fixed.as_ref()), 0o644)?;
        // What has a wired card and no cable must not wait two minutes at each start.
        let text = "[Service]\nExecStart=\nExecStart=/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=30\n";
        root.write("etc/systemd/system/systemd-networkd-wait-online.service.d/10-akene.conf", text, 0o644)?;
    }
    if !manager {
        job.run(&job.inside("systemctl").args(["enable", "systemd-networkd.service"]))?;
    }
    if root.exists("usr/lib/systemd/systemd-resolved") && !manager {
        job.run(&job.inside("systemctl").args(["enable", "systemd-resolved.service"]))?;
        root.symlink("../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf")?;
    } else if manager && !root.exists("usr/lib/systemd/systemd-resolved") {
        // NetworkManager writes it when it comes up.
        root.remove("etc/resolv.conf")?;
    } else if manager {
        root.symlink("../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf")?;
    } else {
        let servers: Vec<String> = network.fixed.iter().flat_map(|f| f.dns.clone()).collect();
        let text: String = servers.iter().map(|s| format!("nameserver {s}\n")).collect();
        root.write("etc/resolv.conf", text, 0o644)?;
    }
    Ok(())
}

fn networkd(fixed: Option<&StaticNetwork>) -> String {
    let mac = fixed.and_then(|f| f.mac.as_deref());
    let which =
        mac.map_or_else(|| "Type=ether\nKind=!*".to_owned(), |mac| format!("PermanentMACAddress={mac}"));
    let mut text = format!("[Match]\n{which}\n\n[Network]\n");
    match fixed {
        None => text += "DHCP=yes\nIPv6AcceptRA=yes\n\n[DHCPv4]\nUseDomains=yes\n",
        Some(fixed) => {
            text.extend(fixed.addresses.iter().map(|a| format!("Address={a}\n")));
            text.extend(fixed.gateway.iter().map(|g| format!("Gateway={g}\n")));
            text.extend(fixed.dns.iter().map(|d| format!("DNS={d}\n")));
        }
    }
    text
}

fn netplan_yaml(renderer: &str, fixed: Option<&StaticNetwork>, manager: bool) -> String {
    let mut text = format!("network:\n  version: 2\n  renderer: {renderer}\n");
    // NetworkManager connects wired cards by itself, and lets people change that.
    if manager && fixed.is_none() {
        return text;
    }
    let mac = fixed.and_then(|f| f.mac.as_deref());
    let which = mac.map_or_else(|| "name: \"e*\"".to_owned(), |mac| format!("macaddress: \"{mac}\""));
    text += &format!("  ethernets:\n    wired:\n      match:\n        {which}\n      optional: true\n");
    match fixed {
        None => text += "      dhcp4: true\n      dhcp6: true\n",
        Some(fixed) => {
            text += &format!("      addresses: {:?}\n", fixed.addresses);
            if let Some(gateway) = &fixed.gateway {
                let to = if gateway.contains(':') { "::/0" } else { "0.0.0.0/0" };
                text += &format!("      routes:\n        - to: \"{to}\"\n          via: \"{gateway}\"\n");
            }
            if !fixed.dns.is_empty() {
                text += &format!("      nameservers:\n        addresses: {:?}\n", fixed.dns);
            }
        }
    }
    text
}

/// A connection of NetworkManager.
fn keyfile(fixed: &StaticNetwork) -> String {
    let mut text = "[connection]\nid=wired\ntype=ethernet\n".to_owned();
    if let Some(mac) = &fixed.mac {
        text += &format!("\n[ethernet]\nmac-address={mac}\n");
    }
    for (name, is_ours) in [("ipv4", false), ("ipv6", true)] {
        let of_kind = |a: &&String| a.contains(':') == is_ours;
        let addresses: Vec<&String> = fixed.addresses.iter().filter(of_kind).collect();
        text += &format!("\n[{name}]\nmethod={}\n", if addresses.is_empty() { "auto" } else { "manual" });
        for (i, address) in addresses.iter().enumerate() {
            text += &format!("address{}={address}\n", i + 1);
        }
        text.extend(fixed.gateway.as_ref().filter(of_kind).map(|g| format!("gateway={g}\n")));
        let dns: String = fixed.dns.iter().filter(of_kind).map(|d| format!("{d};")).collect();
        if !dns.is_empty() {
            text += &format!("dns={dns}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed() -> StaticNetwork {
        StaticNetwork {
            addresses: vec!["192.0.2.5/24".into(), "2001:db8::5/64".into()],
            gateway: Some("192.0.2.1".into()),
            dns: vec!["192.0.2.53".into()],
            mac: None,
        }
    }

    #[test]
    fn every_manager_gets_every_address() {
        for text in
            [networkd(Some(&fixed())), netplan_yaml("networkd", Some(&fixed()), false), keyfile(&fixed())]
        {
            for part in ["192.0.2.5/24", "2001:db8::5/64", "192.0.2.1", "192.0.2.53"] {
                assert!(text.contains(part), "{part} is missing in\n{text}");
            }
        }
    }

    #[test]
    fn a_manager_of_its_own_mind_is_left_alone() {
        assert!(!netplan_yaml("NetworkManager", None, true).contains("ethernets"));
        assert!(netplan_yaml("networkd", None, false).contains("dhcp4: true"));
        assert!(networkd(None).contains("DHCP=yes"));
    }
}
