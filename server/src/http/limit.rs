//! Making guesses expensive.
//!
//! Tokens and credentials are 256 random bits, so nobody guesses one. The limit keeps those who try
//! from using up the server, and is only ever felt by them: a right secret is never delayed, even from
//! an address behind which somebody else (a forgotten stick with a revoked token) keeps failing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use akene_protocol::Issue;
use axum::http::StatusCode;

use super::refusal::Refusal;

/// Failures an address may have in [`WINDOW`] before it is told to wait.
const FREE: u32 = 20;
const WINDOW: Duration = Duration::from_secs(600);
/// Addresses remembered at most; beyond it the oldest are forgotten.
const ADDRESSES: usize = 10_000;

/// Failures by address.
#[derive(Debug, Default)]
pub struct Limiter {
    failures: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Limiter {
    /// Notes a failure. `Some`: it was one too many, wait that long.
    fn note(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES {
            failures.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        if failures.len() >= ADDRESSES {
            let oldest = failures.iter().min_by_key(|(_, (since, _))| *since).map(|(a, _)| *a);
            oldest.map(|address| failures.remove(&address));
        }
        let (since, count) = failures.entry(network(address)).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        (*count > FREE).then(|| WINDOW - now.duration_since(*since))
    }

    /// The answer to a wrong secret, the same for every reason, after a time that tells nothing.
    pub async fn refuse(&self, address: IpAddr, issue: Issue) -> Refusal {
        match self.note(address, Instant::now()) {
            // No delay here: holding many connections open is what an attacker would like.
            Some(wait) => Refusal::of(
                StatusCode::TOO_MANY_REQUESTS,
                Issue::new(
                    "too-often",
                    "",
                    "too many refused attempts from this address",
                    "check the stamp of the medium, then wait",
                ),
            )
            .retry_after(wait),
            None => {
                let mut random = [0; 2];
                // Without randomness the delay is the shortest one, which still tells nothing.
                if getrandom::fill(&mut random).is_err() {
                    random = [0; 2];
                }
                let extra = u64::from(u16::from_le_bytes(random)) % 500;
                tokio::time::sleep(Duration::from_millis(100 + extra)).await;
                Refusal::of(StatusCode::UNAUTHORIZED, issue)
            }
        }
    }
}

/// A site has a whole /64 of IPv6 addresses to fail from.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_some_failures_free_and_then_waits() {
        let limiter = Limiter::default();
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let start = Instant::now();
        for _ in 0..FREE {
            assert_eq!(limiter.note(a, start), None);
        }
        assert_eq!(limiter.note(a, start), Some(WINDOW));
        assert_eq!(limiter.note(b, start), None);
        assert_eq!(limiter.note(a, start + WINDOW), None);
    }

    #[test]
    fn a_v6_network_counts_as_one_and_memory_is_bounded() {
        assert_eq!(network("2001:db8::1".parse().unwrap()), network("2001:db8::ffff:1".parse().unwrap()));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
        let limiter = Limiter::default();
        let now = Instant::now();
        for n in 0..ADDRESSES as u32 + 50 {
            limiter.note(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(limiter.failures.lock().unwrap().len() <= ADDRESSES);
    }
}
