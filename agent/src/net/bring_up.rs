//! From a machine with cards to a machine with an address.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, Running};
use akene_protocol::Issue;
use akene_protocol::stamp::StaticNetwork;
use anyhow::{Context, Result};
use serde::Deserialize;

use super::advert::Advertised;
use super::card::{self, Card, QUICK};
use super::dhcp::{self, Lease};
use super::resolv_conf;

/// What the network shall be like.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Fixed addresses. `None`: DHCP and router advertisements.
    pub network: Option<StaticNetwork>,
    /// Where leases and the like are kept.
    pub directory: PathBuf,
    /// How long to wait for things.
    pub patience: Patience,
}

impl Wanted {
    /// On the live system.
    pub fn new(network: Option<StaticNetwork>) -> Self {
        Wanted { network, directory: super::DIRECTORY.into(), patience: Patience::default() }
    }
}

/// How long to wait for things.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first card to appear: USB adapters take a while.
    pub card: Duration,
    /// For a link on any card: old switches take 20 s to agree on a speed.
    pub link: Duration,
    /// For an address, once there is a link: a switch with spanning tree passes nothing on for 30 s.
    pub address: Duration,
    /// For IPv4 once there is an IPv6 address, and the other way round.
    pub second: Duration,
    /// For the gateway of a fixed address to answer.
    pub gateway: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            card: Duration::from_secs(15),
            link: Duration::from_secs(30),
            address: Duration::from_secs(45),
            second: Duration::from_secs(6),
            gateway: Duration::from_secs(4),
        }
    }
}

/// A network that is up.
#[derive(Debug, Default)]
pub struct Link {
    /// Our addresses, each with its card.
    pub addresses: Vec<(String, IpAddr)>,
    /// Name servers.
    pub name_servers: Vec<IpAddr>,
    /// Time servers the network offers.
    pub ntp: Vec<String>,
    /// The clients that renew our leases, as long as this lives.
    pub clients: Vec<Running>,
}

/// Brings the network up. `tell` gets lines for people on the way.
///
/// Must be called on a thread that lives as long as the network is needed: the DHCP clients end with it.
pub fn bring_up(wanted: &Wanted, runner: &dyn Runner, tell: &mut dyn FnMut(&str)) -> Result<Link, Issue> {
    let failed = |error: anyhow::Error| {
        Issue::new(
            "no-address",
            "",
            format!("the network cannot be set up: {error:#}"),
            "tell the administrator",
        )
    };
    fs::create_dir_all(&wanted.directory)
        .with_context(|| format!("creating {}", wanted.directory.display()))
        .and_then(|()| dhcp::forget_leases(&wanted.directory))
        .map_err(failed)?;
    let advertised = Advertised::listen().unwrap_or_else(|error| {
        tell(&format!("IPv6 name servers will not be heard: {error:#}"));
        Advertised::default()
    });
    runner.run(&Cmd::new("ip").args(["link", "set", "dev", "lo", "up"]).timeout(QUICK)).map_err(failed)?;
    let cards = find_cards(wanted, runner, tell).map_err(failed)??;
    for card in &cards {
        if let Err(error) = card::set_up(runner, &card.name) {
            tell(&format!("the network card {} does not start: {error:#}", card.name));
        }
    }
    match &wanted.network {
        Some(network) => fixed(network, &cards, wanted, runner, tell),
        None => automatic(&cards, wanted, runner, &advertised, tell),
    }
}

/// Waits for usable cards. The outer error is a failure of ours, the inner one an answer.
fn find_cards(
    wanted: &Wanted,
    runner: &dyn Runner,
    tell: &mut dyn FnMut(&str),
) -> Result<Result<Vec<Card>, Issue>> {
    let deadline = Instant::now() + wanted.patience.card;
    loop {
        let all = card::cards(runner)?;
        let wired: Vec<Card> = all.iter().filter(|c| !c.wireless).cloned().collect();
        if !wired.is_empty() {
            let names: Vec<_> = wired.iter().map(|c| c.name.as_str()).collect();
            tell(&format!("network cards: {}", names.join(", ")));
            return Ok(Ok(wired));
        }
        if Instant::now() >= deadline {
            return Ok(Err(card::no_usable_card(&all)));
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Whatever the network offers, on all cards at once.
fn automatic(
    cards: &[Card],
    wanted: &Wanted,
    runner: &dyn Runner,
    advertised: &Advertised,
    tell: &mut dyn FnMut(&str),
) -> Result<Link, Issue> {
    let started = Instant::now();
    let patience = wanted.patience;
    let mut clients: Vec<(String, Running)> = Vec::new();
    let mut first_link = None;
    let mut first_address = None;
    loop {
        for card in cards {
            if clients.iter().all(|(name, _)| *name != card.name) && card::has_link(&card.name) {
                first_link.get_or_insert_with(Instant::now);
                tell(&format!("there is a cable in {}; asking for an address", card.name));
                match dhcp::start(&wanted.directory, &card.name) {
                    Ok(client) => clients.push((card.name.clone(), client)),
                    Err(error) => tell(&format!("{error:#}")),
                }
            }
        }
        let leases = dhcp::leases(&wanted.directory);
        let v6 = global_v6(runner, cards);
        let complete = !leases.is_empty() && !v6.is_empty();
        if !leases.is_empty() || !v6.is_empty() {
            let first: Instant = *first_address.get_or_insert_with(Instant::now);
            // A lease with name servers is all that is needed; IPv6 alone may be one half of the network.
            let enough = leases.iter().any(|l| !l.dns.is_empty() && !l.routers.is_empty());
            let wait = if enough { Duration::from_millis(500) } else { patience.second };
            if complete || first.elapsed() >= wait {
                return Ok(link(leases, v6, advertised, clients, wanted, tell));
            }
        }
        match first_link {
            None if started.elapsed() >= patience.link => return Err(card::no_cable(cards)),
            Some(since) if first_address.is_none() && since.elapsed() >= patience.address => {
                for (card, _) in &clients {
                    tell(&format!("{card}: {}", dhcp::last_words(&wanted.directory, card)));
                }
                return Err(no_address(&clients));
            }
            _ => thread::sleep(Duration::from_millis(250)),
        }
    }
}

fn no_address(clients: &[(String, Running)]) -> Issue {
    let names: Vec<_> = clients.iter().map(|(name, _)| name.as_str()).collect();
    Issue::new(
        "no-address",
        names.join(", "),
        "the cable is in, but nothing on this network gives this computer an address",
        "restart the router (box) of this place; if the cable leads to a wall socket, try another; \
         or ask the administrator for a medium with a fixed address",
    )
}

fn link(
    leases: Vec<Lease>,
    v6: Vec<(String, IpAddr)>,
    advertised: &Advertised,
    clients: Vec<(String, Running)>,
    wanted: &Wanted,
    tell: &mut dyn FnMut(&str),
) -> Link {
    if let Err(error) = resolv_conf::remember(&wanted.directory, &advertised.name_servers()) {
        tell(&format!("{error:#}"));
    }
    let mut addresses: Vec<(String, IpAddr)> =
        leases.iter().map(|lease| (lease.card.clone(), lease.address.into())).collect();
    addresses.extend(v6);
    Link {
        addresses,
        name_servers: resolv_conf::servers(&wanted.directory),
        ntp: leases.iter().flat_map(|lease| &lease.ntp).map(ToString::to_string).collect(),
        clients: clients.into_iter().map(|(_, client)| client).collect(),
    }
}

#[derive(Deserialize)]
struct AddressesOfCard {
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    /// Missing in the empty objects that iproute2 prints for addresses its filter leaves out.
    local: Option<IpAddr>,
    #[serde(default)]
    tentative: bool,
    #[serde(default)]
    dadfailed: bool,
}

/// Global IPv6 addresses that router advertisements gave our cards.
fn global_v6(runner: &dyn Runner, cards: &[Card]) -> Vec<(String, IpAddr)> {
    let list = Cmd::new("ip").args(["-j", "-6", "addr", "show", "scope", "global"]).timeout(QUICK);
    // A kernel without IPv6 has none.
    let Ok(output) = runner.run(&list) else { return Vec::new() };
    parse_addresses(&output.stdout, cards)
}

pub(crate) fn parse_addresses(json: &[u8], cards: &[Card]) -> Vec<(String, IpAddr)> {
    // iproute2 prints `{}` for cards that the filter leaves nothing of.
    let entries: Vec<serde_json::Value> = serde_json::from_slice(json).unwrap_or_default();
    let known = entries.into_iter().filter_map(|e| serde_json::from_value::<AddressesOfCard>(e).ok());
    known
        .filter(|entry| cards.iter().any(|card| card.name == entry.ifname))
        .flat_map(|entry| {
            let name = entry.ifname;
            let usable = entry.addr_info.into_iter().filter(|a| !a.tentative && !a.dadfailed);
            usable.filter_map(move |a| Some((name.clone(), a.local?))).collect::<Vec<_>>()
        })
        .collect()
}

/// A fixed address, on the card that is named or on the first one whose gateway answers.
fn fixed(
    network: &StaticNetwork,
    cards: &[Card],
    wanted: &Wanted,
    runner: &dyn Runner,
    tell: &mut dyn FnMut(&str),
) -> Result<Link, Issue> {
    let mine: Vec<Card> = match &network.mac {
        None => cards.to_vec(),
        Some(mac) => cards.iter().filter(|c| c.mac == mac.to_ascii_lowercase()).cloned().collect(),
    };
    if mine.is_empty() {
        return Err(Issue::new(
            "no-network-card",
            network.mac.clone().unwrap_or_default(),
            "this computer does not have the network card that this medium has an address for",
            "use this medium in the computer it was made for, or ask the administrator for one without a fixed card",
        ));
    }
    let name_servers: Vec<IpAddr> = network.dns.iter().filter_map(|d| d.parse().ok()).collect();
    let started = Instant::now();
    let mut tried: Vec<String> = Vec::new();
    while started.elapsed() < wanted.patience.link {
        for card in &mine {
            if tried.contains(&card.name) || !card::has_link(&card.name) {
                continue;
            }
            tried.push(card.name.clone());
            tell(&format!(
                "there is a cable in {}; using the fixed address {}",
                card.name,
                network.addresses.join(", ")
            ));
            match use_fixed(network, card, wanted, runner) {
                Ok(true) => {
                    resolv_conf::remember(&wanted.directory, &name_servers)
                        .unwrap_or_else(|e| tell(&format!("{e:#}")));
                    let addresses =
                        network.addresses.iter().filter_map(|a| a.split('/').next()?.parse().ok());
                    return Ok(Link {
                        addresses: addresses.map(|ip| (card.name.clone(), ip)).collect(),
                        name_servers,
                        ..Link::default()
                    });
                }
                Ok(false) => tell(&format!("the gateway does not answer on {}", card.name)),
                Err(error) => tell(&format!("{error:#}")),
            }
        }
        if tried.len() == mine.len() {
            break;
        }
        thread::sleep(Duration::from_millis(250));
    }
    if tried.is_empty() {
        return Err(card::no_cable(&mine));
    }
    Err(Issue::new(
        "no-address",
        tried.join(", "),
        format!(
            "the fixed address {} of this medium does not work here: the gateway {} does not answer",
            network.addresses.join(", "),
            network.gateway.as_deref().unwrap_or("(none)")
        ),
        "check that the cable leads to the right network; the administrator can correct the address on the medium",
    ))
}

/// Sets the address; false when its gateway does not answer, and then it is taken away again.
fn use_fixed(network: &StaticNetwork, card: &Card, wanted: &Wanted, runner: &dyn Runner) -> Result<bool> {
    let ip = |args: &[&str]| runner.run(&Cmd::new("ip").args(args).timeout(QUICK)).map(drop);
    for address in &network.addresses {
        if address.contains(':') {
            // Duplicate address detection delays the first packets by seconds.
            ip(&["addr", "replace", address, "dev", &card.name, "nodad"])?;
        } else {
            ip(&["addr", "replace", address, "dev", &card.name])?;
        }
    }
    let Some(gateway) = &network.gateway else { return Ok(true) };
    dhcp::add_default_route(runner, &card.name, gateway)?;
    if answers(gateway, card, wanted.patience.gateway, runner) {
        return Ok(true);
    }
    ip(&["addr", "flush", "dev", &card.name, "scope", "global"])?;
    Ok(false)
}

#[derive(Deserialize)]
struct Neighbour {
    #[serde(default)]
    state: Vec<String>,
}

/// Whether somebody has this address on this card's network: makes the kernel ask for its hardware address.
fn answers(gateway: &str, card: &Card, patience: Duration, runner: &dyn Runner) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let local = if gateway.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        // The discard port: what matters is the question that comes before the packet.
        let poke = UdpSocket::bind(local).and_then(|s| {
            let to = if gateway.contains(':') { format!("[{gateway}]:9") } else { format!("{gateway}:9") };
            s.send_to(&[], to.parse::<std::net::SocketAddr>().map_err(std::io::Error::other)?)
        });
        let show = Cmd::new("ip").args(["-j", "neigh", "show", gateway, "dev", &card.name]).timeout(QUICK);
        let states = runner
            .run(&show)
            .and_then(|o| o.json::<Vec<Neighbour>>())
            .map(|n| n.into_iter().flat_map(|n| n.state).collect::<Vec<_>>())
            .unwrap_or_default();
        let known =
            |s: &String| matches!(s.as_str(), "REACHABLE" | "STALE" | "DELAY" | "PROBE" | "PERMANENT");
        if poke.is_ok() && states.iter().any(known) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_addresses_of_our_cards_count() {
        let json = br#"[{},{"ifname":"eth0","addr_info":[
            {"family":"inet6","local":"2001:db8::1","scope":"global","dynamic":true},
            {"family":"inet6","local":"2001:db8::2","scope":"global","tentative":true},
            {"family":"inet6","local":"2001:db8::3","scope":"global","dadfailed":true},{}]},
            {"ifname":"docker0","addr_info":[{"local":"2001:db8:1::1"}]}]"#;
        let cards = [Card { name: "eth0".into(), mac: String::new(), wireless: false }];
        assert_eq!(parse_addresses(json, &cards), [("eth0".to_owned(), "2001:db8::1".parse().unwrap())]);
        assert_eq!(parse_addresses(b"", &cards), []);
    }
}
