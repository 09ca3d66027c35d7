//! What the network says before anything of it is trusted.

use std::collections::BTreeMap;

use akene_agent::fuzz as doors;
use akene_agent::net::clock::parse_http_date;
use akene_agent::net::resolver::Resolver;

/// DHCP servers, time servers, routers, web servers. An input is tried as each.
pub fn network(data: &[u8]) {
    doors::advertised(data);
    doors::addresses(data);

    // The answer of a time server repeats our question, which no input guesses.
    if let Some((nonce, packet)) = data.split_first_chunk::<8>() {
        let mut packet = packet.to_vec();
        doors::time_answer(&packet, *nonce).ok();
        if let Some(origin) = packet.get_mut(24..32) {
            origin.copy_from_slice(nonce);
        }
        if let Ok(time) = doors::time_answer(&packet, *nonce) {
            assert!((1968..2105).contains(&time.to_zoned(jiff::tz::TimeZone::UTC).year()), "{time}");
        }
    }

    let text = String::from_utf8_lossy(data);
    parse_http_date(&text);
    Resolver::from_resolv_conf(&text).servers();
    // What udhcpc puts into the environment.
    let variables: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    if let Ok(lease) = doors::lease(&|name| variables.get(name).map(|v| (*v).to_owned())) {
        assert!(lease.prefix <= 32, "{lease:?}");
        let domain = lease.domain.unwrap_or_default();
        assert!(!domain.contains(|c: char| c.is_whitespace() || c.is_control()), "{domain:?}");
    }
}
