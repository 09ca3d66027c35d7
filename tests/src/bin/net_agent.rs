//! The agent's network phase by itself, for tests that run it in a network namespace.
//!
//! `net_agent bring-up DIRECTORY [STATIC-NETWORK-JSON]` prints one JSON document: `{"ok": …}` or
//! `{"issue": …}`. `net_agent dhcp-hook ACTION` is what the DHCP client calls. `net_agent advertise CARD
//! PREFIX DNS` sends router advertisements until it is ended.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use akene_agent::net::bring_up::{Patience, Wanted, bring_up};
use akene_agent::net::dhcp;
use akene_exec::SystemRunner;
use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
    sockopt,
};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["dhcp-hook", action] => dhcp::hook(action, &|name| std::env::var(name).ok(), &SystemRunner),
        ["bring-up", directory] => phase(directory, None),
        ["bring-up", directory, network] => phase(directory, Some(network)),
        ["advertise", card, prefix, dns] => advertise(card, prefix.parse()?, dns.parse()?),
        _ => bail!("see the source for how to call this"),
    }
}

fn phase(directory: &str, network: Option<&str>) -> Result<()> {
    let wanted = Wanted {
        network: network.map(serde_json::from_str).transpose().context("reading the fixed network")?,
        directory: PathBuf::from(directory),
        patience: Patience {
            card: Duration::from_secs(1),
            link: Duration::from_secs(10),
            address: Duration::from_secs(30),
            second: Duration::from_secs(3),
            gateway: Duration::from_secs(4),
        },
    };
    let outcome = match bring_up(&wanted, &SystemRunner, &mut |line| eprintln!("{line}")) {
        Ok(link) => serde_json::json!({ "ok": {
            "addresses": link.addresses,
            "name-servers": link.name_servers,
            "ntp": link.ntp,
        }}),
        Err(issue) => serde_json::json!({ "issue": issue }),
    };
    println!("{outcome}");
    Ok(())
}

/// A router that only talks (RFC 4861, RFC 8106).
fn advertise(card: &str, prefix: Ipv6Addr, dns: Ipv6Addr) -> Result<()> {
    let index: u32 = std::fs::read_to_string(format!("/sys/class/net/{card}/ifindex"))?.trim().parse()?;
    let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6)
        .context("opening a raw socket")?;
    // Neighbour discovery is believed only with the hop limit nobody can forge from afar.
    setsockopt(&socket, sockopt::Ipv6MulticastHops, &255)?;
    let mut packet = vec![134, 0, 0, 0, 64, 0];
    packet.extend(1800u16.to_be_bytes());
    packet.extend([0; 8]);
    // Prefix information: /64, on link, for addresses.
    packet.extend([3, 4, 64, 0xc0]);
    packet.extend(3600u32.to_be_bytes());
    packet.extend(3600u32.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(prefix.octets());
    // Recursive DNS server.
    packet.extend([25, 3, 0, 0]);
    packet.extend(1200u32.to_be_bytes());
    packet.extend(dns.octets());
    let all_nodes = SockaddrIn6::from(SocketAddrV6::new("ff02::1".parse()?, 0, 0, index));
    loop {
        // It fails while our own address is being checked for duplicates.
        if let Err(error) = sendto(socket.as_raw_fd(), &packet, &all_nodes, MsgFlags::empty()) {
            eprintln!("advertising: {error}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
