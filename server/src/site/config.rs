//! `site.toml`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use akene_protocol::api::Consent;
use akene_protocol::issue::Issues;
use akene_protocol::rule::Rule;
use akene_protocol::{Bytes, Issue, profile};
use anyhow::{Context as _, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// Longest name of an association, in characters: more fits on no line of a screen.
const LONGEST_NAME: usize = 60;

/// What the administrator decides about the site as a whole.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SiteConfig {
    /// Name of the site, shown on every screen.
    pub name: String,
    /// Where machines find the server: `https://HOST[:PORT]`.
    pub url: String,
    /// Address to listen on. Default: every address, at the port of `url`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// Profile for machines that no rule chooses.
    pub default_profile: String,
    /// What an installation may destroy on a machine that was never installed from this site.
    #[serde(default)]
    pub new_machines: Consent,
    /// Profiles a medium or a kernel command line may ask for; `*` stands for any. Default: any.
    #[serde(default = "any")]
    pub requestable_profiles: Vec<String>,
    /// What one medium, one computer or everybody together may ask of this server at most.
    #[serde(default)]
    pub limits: Limits,
    /// Associations this site looks after. Where there is no network, whoever brings the medium chooses one of them.
    #[serde(default)]
    pub associations: Vec<String>,
    /// Rules that choose a profile; the first that holds counts.
    #[serde(default)]
    pub profile_rules: Vec<ProfileRule>,
}

/// Bounds that keep a lost stick, a computer gone mad or a stranger from using the server up.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// New computers that media with the same token, or one medium for places without a network, may make known within an
    /// hour. Default: 100.
    pub new_machines_per_hour: u32,
    /// Logs kept of one computer. The oldest make way for new ones. Default: 64 MiB.
    pub log_bytes_per_machine: Bytes,
    /// Connections at a time. Counts when the server starts. Default: 512.
    pub connections: u32,
    /// The largest enrolment that is read: nobody has proved anything yet when it comes. Counts when the
    /// server starts. Default: 512 KiB.
    pub enrolment_bytes: Bytes,
    /// Package files given out at a time; who comes later takes a mirror or waits. Counts when the server starts.
    /// Default: 32.
    pub pool_streams: u32,
    /// Seconds after which an installed computer asks for orders again, give or take some. Counts when the
    /// server starts. Default: 300.
    pub poll_seconds: u32,
    /// Computers that may wait for an order on an open connection, while somebody watches the fleet; who comes later asks
    /// again. Counts when the server starts. Default: 128.
    pub waiting_polls: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            new_machines_per_hour: 100,
            log_bytes_per_machine: Bytes::mib(64),
            connections: 512,
            enrolment_bytes: Bytes(512 << 10),
            pool_streams: 32,
            poll_seconds: 300,
            waiting_polls: 128,
        }
    }
}

fn any() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Chooses a profile for the machines a rule holds for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ProfileRule {
    /// The rule.
    pub when: Rule,
    /// Name of the profile.
    pub profile: String,
}

impl SiteConfig {
    /// Reads and checks `site.toml`.
    pub fn read(path: &Path) -> Result<SiteConfig> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let config: SiteConfig = profile::parse_toml(&text, "site.toml")?;
        split_url(&config.url)?;
        check_associations(&config.associations)?;
        Ok(config)
    }

    /// Whether a machine may ask for this profile.
    pub fn may_request(&self, profile: &str) -> bool {
        self.requestable_profiles.iter().any(|p| p == "*" || p == profile)
    }
}

/// Names that a screen can show and a person can tell apart.
fn check_associations(names: &[String]) -> Result<(), Issues> {
    let wrong = |(place, name): (usize, &String)| {
        let why = match name {
            name if name.trim().is_empty() => "is empty",
            name if name.chars().any(char::is_control) => "holds what no screen shows",
            name if name.chars().count() > LONGEST_NAME => "is longer than 60 characters",
            name if names[..place].contains(name) => "is there twice",
            _ => return None,
        };
        let at = format!("associations[{place}]");
        Some(Issue::new(
            "association-odd",
            at,
            format!("`{}` {why}", name.escape_debug()),
            "give it another name",
        ))
    };
    let issues: Vec<Issue> = names.iter().enumerate().filter_map(wrong).collect();
    if issues.is_empty() { Ok(()) } else { Err(Issues(issues)) }
}

/// Host and port of `https://HOST[:PORT]`.
///
/// # Errors
/// Anything else, with a path or without `https`.
pub fn split_url(url: &str) -> Result<(String, u16), Issue> {
    let complain = |what: &str| {
        Issue::new("server-url", "url", format!("`{url}` {what}"), "write https://HOST or https://HOST:PORT")
    };
    let rest = url.strip_prefix("https://").ok_or_else(|| complain("does not begin with https://"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    // An IPv6 address stands in brackets.
    let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| complain("holds no valid IPv6 address"))?;
            (address, port.strip_prefix(':').or(port.is_empty().then_some("443")))
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, Some("443")),
        },
    };
    let port = port.and_then(|p| p.parse().ok()).ok_or_else(|| complain("has no valid port"))?;
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(good) {
        return Err(complain("has no valid host name"));
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn associations_can_be_shown_and_told_apart() {
        let check =
            |names: &[&str]| check_associations(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(check(&["Foyer de Lannion", "Léo Lagrange"]), Ok(()));
        let long = "x".repeat(61);
        let issues = check(&["a", "a", " ", "b\u{1b}[2J", &long]).unwrap_err().0;
        let places: Vec<&str> = issues.iter().map(|i| i.path.as_str()).collect();
        assert_eq!(places, ["associations[1]", "associations[2]", "associations[3]", "associations[4]"]);
        assert!(issues[2].message.contains("\\u{1b}"), "{}", issues[2].message);
    }

    #[test]
    fn urls() {
        let split = |url: &str| split_url(url).unwrap();
        assert_eq!(split("https://akene.example"), ("akene.example".into(), 443));
        assert_eq!(split("https://192.0.2.1:8443/"), ("192.0.2.1".into(), 8443));
        assert_eq!(split("https://[2001:db8::1]:8443"), ("2001:db8::1".into(), 8443));
        assert_eq!(split("https://[2001:db8::1]"), ("2001:db8::1".into(), 443));
        for bad in
            ["http://a", "https://", "https://a/b", "https://a:x", "https://a:99999", "https://[::1", "a b"]
        {
            assert_eq!(split_url(bad).unwrap_err().code, "server-url", "{bad}");
        }
    }
}
