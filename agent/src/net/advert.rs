//! IPv6 router advertisements: the kernel makes addresses and routes of them by itself, but hands name
//! servers (RFC 8106) to whoever listens, as a netlink message.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// `RTNLGRP_ND_USEROPT`, number 20, as a bit.
const GROUP_ND_USER_OPTIONS: u32 = 1 << 19;
/// `RTM_NEWNDUSEROPT`.
const NEW_ND_USER_OPTION: u16 = 68;
/// ICMPv6 option "recursive DNS server".
const RDNSS: u8 = 25;

/// Name servers heard of since it began to listen.
#[derive(Clone, Debug, Default)]
pub struct Advertised(Arc<Mutex<BTreeSet<Ipv6Addr>>>);

impl Advertised {
    /// What is heard by one listener in the background, which begins with the first call and goes on for the
    /// rest of the program's life: a second attempt at the network knows what the first one heard.
    pub fn listen() -> Result<Self> {
        static LISTENER: Mutex<Option<Advertised>> = Mutex::new(None);
        // Whoever panicked while holding it left it as it was.
        let mut listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner);
        match &*listener {
            Some(listening) => Ok(listening.clone()),
            None => Ok(listener.insert(Advertised::begin()?).clone()),
        }
    }

    fn begin() -> Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .context("listening to router advertisements")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP_ND_USER_OPTIONS))
            .context("listening to router advertisements")?;
        let advertised = Advertised::default();
        let heard = advertised.clone();
        thread::spawn(move || heard.collect(&socket));
        Ok(advertised)
    }

    fn collect(&self, socket: &OwnedFd) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) => {
                    if let Ok(mut servers) = self.0.lock() {
                        servers.extend(name_servers(&buffer[..n]));
                    }
                }
                // Too much came at once: the next advertisement repeats it.
                Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// What was heard so far.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        self.0.lock().map(|s| s.iter().copied().map(IpAddr::from).collect()).unwrap_or_default()
    }
}

/// Reads netlink messages. Anything malformed ends the reading, nothing panics: routers send this.
pub(crate) fn name_servers(mut messages: &[u8]) -> Vec<Ipv6Addr> {
    let mut found = Vec::new();
    while let Some((length, kind)) = messages
        .first_chunk::<6>()
        .map(|h| (u32::from_ne_bytes([h[0], h[1], h[2], h[3]]) as usize, u16::from_ne_bytes([h[4], h[5]])))
    {
        let Some(message) = messages.get(16..length) else { break };
        if kind == NEW_ND_USER_OPTION {
            // nduseroptmsg: family, padding, options' length, interface, ICMP type and code, padding.
            let length = message.get(2..4).map_or(0, |l| u16::from_ne_bytes([l[0], l[1]]) as usize);
            if let Some(options) = message.get(16..16 + length) {
                found.extend(from_options(options));
            }
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Reads neighbour discovery options: type, length in units of 8 bytes, content.
fn from_options(mut options: &[u8]) -> Vec<Ipv6Addr> {
    let mut found = Vec::new();
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 || length > options.len() {
            break;
        }
        let (option, rest) = options.split_at(length);
        if kind == RDNSS && length >= 24 {
            let lifetime = u32::from_be_bytes([option[4], option[5], option[6], option[7]]);
            let addresses = option[8..].chunks_exact(16).filter_map(|a| <[u8; 16]>::try_from(a).ok());
            // Lifetime 0 takes servers back. A link-local address would need its card named with it.
            let usable = |a: &Ipv6Addr| lifetime > 0 && !a.is_unicast_link_local() && !a.is_multicast();
            found.extend(addresses.map(Ipv6Addr::from).filter(usable));
        }
        options = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(lifetime: u32, servers: &[&str]) -> Vec<u8> {
        let mut bytes = vec![RDNSS, 1 + 2 * servers.len() as u8, 0, 0];
        bytes.extend(lifetime.to_be_bytes());
        for server in servers {
            bytes.extend(server.parse::<Ipv6Addr>().unwrap().octets());
        }
        bytes
    }

    fn message(options: &[u8]) -> Vec<u8> {
        let mut bytes = (32 + options.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(NEW_ND_USER_OPTION.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([10, 0]);
        bytes.extend((options.len() as u16).to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn servers_are_read_and_damage_is_survived() {
        let options =
            [option(600, &["2001:db8::53", "fe80::1", "2001:db8::54"]), option(0, &["2001:db8::55"])]
                .concat();
        let two = [message(&options), message(&option(1, &["2001:db8::56"]))].concat();
        let servers: Vec<Ipv6Addr> =
            ["2001:db8::53", "2001:db8::54", "2001:db8::56"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(name_servers(&two), servers);
        for cut in 0..two.len() {
            name_servers(&two[..cut]);
        }
        for at in 0..two.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = two.clone();
                broken[at] = value;
                name_servers(&broken);
            }
        }
    }
}
