//! Ports for servers that are started later, stopped and started again.
//!
//! A port that the kernel chose and that is given up is anybody's: the next connection that leaves this host may have it
//! for as long as it likes.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// From which ports the kernel takes one for a connection, or for whoever asks for any.
const OUTGOING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Below these is what services of a host like to use.
const FIRST: u16 = 10_000;

/// A free port that is this program's own until it ends: no connection gets it, nor does another program that asks here, whether
/// somebody listens on it or not.
///
/// # Errors
/// There is none left.
pub fn own_port() -> Result<u16> {
    let text = std::fs::read_to_string(OUTGOING).with_context(|| format!("reading {OUTGOING}"))?;
    let ports = beside(&outgoing(&text)?);
    // Each program begins elsewhere: what an earlier one left running does not find a server of this one.
    let start = std::process::id() as usize * 64;
    (0..ports.len())
        .map(|n| ports[(start + n) % ports.len()])
        .find(|port| is_free(*port) && claim(*port))
        .with_context(|| format!("finding a free port beside those of {OUTGOING}"))
}

fn outgoing(text: &str) -> Result<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => bail!("reading {OUTGOING}: `{}` is no range of ports", text.trim()),
    }
}

/// The ports that no connection gets. A host that leaves none has to do with luck.
fn beside(outgoing: &RangeInclusive<u16>) -> Vec<u16> {
    let all = FIRST..=u16::MAX;
    let beside: Vec<u16> = all.clone().filter(|port| !outgoing.contains(port)).collect();
    if beside.is_empty() { all.collect() } else { beside }
}

/// Whether nobody listens on it, at whatever address of this host.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// Takes it from all other programs, and from whoever asks in this one. The name of the socket that says so is known in the same
/// network namespace as the port.
fn claim(port: u16) -> bool {
    static CLAIMED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let claim = SocketAddr::from_abstract_name(format!("akene-tests/port/{port}"))
        .and_then(|name| UnixListener::bind_addr(&name));
    claim.map(|claim| CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).push(claim)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_ones_own_whether_somebody_listens_or_not() {
        let (one, other) = (own_port().unwrap(), own_port().unwrap());
        assert_ne!(one, other);
        let range = outgoing(&std::fs::read_to_string(OUTGOING).unwrap()).unwrap();
        for port in [one, other] {
            assert!(beside(&range).contains(&port), "{port} beside {range:?}");
            assert!(!claim(port), "{port} is given a second time");
            for _ in 0..2 {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
                assert!(!is_free(port));
                drop(listener);
            }
        }
    }

    #[test]
    fn ports_of_connections_are_left_alone() {
        let usual = outgoing("32768\t60999\n").unwrap();
        assert_eq!(usual, 32768..=60999);
        let ports = beside(&usual);
        for (port, there) in
            [(9_999, false), (10_000, true), (32_767, true), (32_768, false), (60_999, false)]
        {
            assert_eq!(ports.contains(&port), there, "{port}");
        }
        assert_eq!(ports.last(), Some(&u16::MAX));
        assert_eq!(beside(&(1024..=u16::MAX)).len(), 55_536);
        for odd in ["", "1\n", "a b", "1 70000"] {
            assert!(outgoing(odd).is_err(), "{odd}");
        }
    }
}
