//! Network cards and the cables in them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::Issue;
use anyhow::{Context, Result};
use serde::Deserialize;

/// Time limit of one `ip` command.
pub(super) const QUICK: Duration = Duration::from_secs(20);

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its name in this kernel: `enp3s0`.
    pub name: String,
    /// The address it was made with, lower case.
    pub mac: String,
    /// Whether it is a radio.
    pub wireless: bool,
}

/// One entry of `ip -j -d link show`.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    link_type: String,
    #[serde(default)]
    address: String,
    permaddr: Option<String>,
    linkinfo: Option<LinkInfo>,
}

#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
}

/// The cards of this machine: Ethernet only, without bridges, bonds, tunnels and other things made of
/// software. (One end of a `veth` is what a container has for a card.)
pub fn cards(runner: &dyn Runner) -> Result<Vec<Card>> {
    let output = runner.run(&Cmd::new("ip").args(["-j", "-d", "link", "show"]).timeout(QUICK))?;
    let links: Vec<Link> = output.json().context("reading the list of network cards")?;
    Ok(pick(links, |name| {
        let card = Path::new("/sys/class/net").join(name);
        card.join("wireless").exists() || card.join("phy80211").exists()
    }))
}

fn pick(links: Vec<Link>, is_wireless: impl Fn(&str) -> bool) -> Vec<Card> {
    links
        .into_iter()
        .filter(|link| link.link_type == "ether")
        .filter(|link| match link.linkinfo.as_ref().and_then(|i| i.info_kind.as_deref()) {
            None | Some("veth") => true,
            Some(_) => false,
        })
        .map(|link| Card {
            wireless: is_wireless(&link.ifname),
            mac: link.permaddr.unwrap_or(link.address).to_ascii_lowercase(),
            name: link.ifname,
        })
        .collect()
}

/// Whether a cable with something alive at its other end is in the card. The card must be up.
pub fn has_link(name: &str) -> bool {
    // Reading it fails while the card is down.
    fs::read_to_string(Path::new("/sys/class/net").join(name).join("carrier")).is_ok_and(|t| t.trim() == "1")
}

/// Switches a card on: only then does it look at its cable.
pub fn set_up(runner: &dyn Runner, name: &str) -> Result<()> {
    runner.run(&Cmd::new("ip").args(["link", "set", "dev", name, "up"]).timeout(QUICK)).map(drop)
}

/// Why none of the cards can be used.
pub fn no_usable_card(all: &[Card]) -> Issue {
    if all.iter().any(|card| card.wireless) {
        Issue::new(
            "no-network-card",
            "",
            "this computer has only a wireless card, and the installer needs a cable",
            "plug in a USB network adapter with a cable, or install from an offline stick",
        )
    } else {
        Issue::new(
            "no-network-card",
            "",
            "no network card was found in this computer",
            "check in the BIOS set-up that the network card is switched on, or plug in a USB network adapter with a cable",
        )
    }
}

/// Why no card has a link.
pub fn no_cable(cards: &[Card]) -> Issue {
    let names: Vec<_> = cards.iter().map(|c| format!("{} ({})", c.name, c.mac)).collect();
    let (sockets, none) = if cards.len() == 1 {
        ("the network socket", "no cable")
    } else {
        ("any network socket", "no cable")
    };
    Issue::new(
        "no-cable",
        names.join(", "),
        format!("there is {none} in {sockets} of this computer, or nothing at its other end"),
        "plug the cable in at both ends until it clicks; a small light at the socket must come on; try another cable or another hole of the router",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `ip -j -d link show` of iproute2 6.1, shortened.
    const LINKS: &str = r#"[
      {"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"link_type":"loopback","address":"00:00:00:00:00:00"},
      {"ifindex":2,"ifname":"enp3s0","flags":["BROADCAST","MULTICAST"],"link_type":"ether","address":"02:00:00:00:00:01","permaddr":"00:1B:21:aa:bb:cc","parentbus":"pci"},
      {"ifindex":3,"ifname":"wlp2s0","link_type":"ether","address":"00:1b:21:00:00:02"},
      {"ifindex":4,"ifname":"br0","link_type":"ether","address":"00:1b:21:00:00:03","linkinfo":{"info_kind":"bridge","info_data":{}}},
      {"ifindex":5,"ifname":"eth0","link":null,"link_type":"ether","address":"00:1b:21:00:00:04","linkinfo":{"info_kind":"veth"}},
      {"ifindex":6,"ifname":"sit0","link_type":"sit","address":"0.0.0.0","linkinfo":{"info_kind":"sit"}}]"#;

    #[test]
    fn cards_are_what_has_a_socket() {
        let cards = pick(serde_json::from_str(LINKS).unwrap(), |name| name.starts_with('w'));
        let seen: Vec<_> = cards.iter().map(|c| (c.name.as_str(), c.mac.as_str(), c.wireless)).collect();
        assert_eq!(
            seen,
            [
                ("enp3s0", "00:1b:21:aa:bb:cc", false),
                ("wlp2s0", "00:1b:21:00:00:02", true),
                ("eth0", "00:1b:21:00:00:04", false)
            ]
        );
        assert!(no_usable_card(&cards[1..2]).message.contains("wireless"));
        assert!(no_usable_card(&[]).message.contains("no network card"));
    }
}
