//! A machine that is on the network, and the way to its site's server.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use akene_exec::{Runner, Running};
use akene_protocol::profile::Distribution;
use akene_protocol::stamp::{Source, Stamp, Tls};
use akene_protocol::{Issue, api};
use anyhow::{Context, Result};
use jiff::Timestamp;
use reqwest::blocking::Client;
use reqwest::header::DATE;

use super::bring_up::{Wanted, bring_up};
use super::clock::{self, Clock, Heard, Mended, SystemClock};
use super::diagnose::{self, Circumstances};
use super::http::{Access, read_capped};
use super::resolver::Resolver;
use super::tls::Dates;
use crate::boot::LiveSystem;

/// Where the site is and how to know it.
#[derive(Clone, Debug)]
pub struct Site {
    /// The server, or the profile's URL.
    pub url: String,
    /// Whether an `akene-server` is there: it answers to `/v1/time`.
    pub is_server: bool,
    /// How its certificate is judged.
    pub tls: Tls,
}

impl Site {
    /// What the stamp says. `None`: the site is on the medium itself. `server` overrides the address.
    pub fn of(stamp: &Stamp, server: Option<&str>) -> Option<Site> {
        let (url, tls, is_server) = match &stamp.source {
            Source::Server { url, tls, .. } => (url, tls, true),
            Source::Static { url, tls, .. } => (url, tls, false),
            Source::Medium { .. } => return None,
        };
        let url = server.filter(|_| is_server).unwrap_or(url);
        Some(Site { url: url.trim_end_matches('/').to_owned(), is_server, tls: tls.clone() })
    }

    /// What is asked for as a sign of life.
    fn sign_of_life(&self) -> String {
        if self.is_server { format!("{}/v1/time", self.url) } else { self.url.clone() }
    }
}

/// A machine that is on the network.
#[derive(Debug)]
pub struct Online {
    /// Our addresses, each with its card. Empty where the network is not ours.
    pub addresses: Vec<(String, IpAddr)>,
    /// Who is asked for names.
    pub resolver: Resolver,
    /// Proxy for everything.
    pub proxy: Option<String>,
    /// What came of looking at the clock.
    pub clock: Option<Mended>,
    /// Keep our leases alive.
    clients: Vec<Running>,
}

impl Online {
    /// On a machine whose network is not ours to set up: an installed system, a developer's PC.
    pub fn on_host(proxy: Option<String>) -> Self {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Online::asking(Resolver::from_resolv_conf(&text), proxy)
    }

    /// On a network that somebody else has set up, with these name servers.
    pub fn asking(resolver: Resolver, proxy: Option<String>) -> Self {
        Online { addresses: Vec::new(), resolver, proxy, clock: None, clients: Vec::new() }
    }

    fn access<'a>(&'a self, tls: &'a Tls, dates: Dates) -> Access<'a> {
        Access { tls, proxy: self.proxy.as_deref(), resolver: &self.resolver, dates }
    }

    /// An HTTP client for a server whose certificate is judged like this.
    pub fn client(&self, tls: &Tls) -> Result<Client> {
        self.access(tls, Dates::Checked).client()
    }

    /// Explains why a request to `url` failed.
    pub fn explain(&self, url: &str, error: &(dyn std::error::Error + 'static)) -> Issue {
        diagnose::explain(
            error,
            &Circumstances {
                url,
                proxy: self.proxy.as_deref(),
                resolver: &self.resolver,
                now: Timestamp::now(),
                // Where the clock is not ours to mend, it is taken to be right.
                clock_confirmed: self.clock.as_ref().is_none_or(Mended::confirmed),
            },
        )
    }

    /// How many DHCP clients renew our leases.
    pub fn renewing(&self) -> usize {
        self.clients.len()
    }

    /// One line for the screen.
    pub fn describe(&self) -> String {
        let addresses: Vec<_> = self.addresses.iter().map(|(card, ip)| format!("{ip} on {card}")).collect();
        let servers: Vec<_> = self.resolver.servers().iter().map(ToString::to_string).collect();
        let names = if servers.is_empty() { "none".to_owned() } else { servers.join(", ") };
        format!("{}; name servers: {names}", addresses.join(", "))
    }

    /// Asks the site for a sign of life.
    pub fn reach(&self, site: &Site) -> Result<(), Issue> {
        let url = site.sign_of_life();
        let broken = |error: anyhow::Error| {
            Issue::new(
                "stamp-wrong",
                &site.url,
                format!("what this medium says about the server cannot be used: {error:#}"),
                "tell the administrator to stamp the image again",
            )
        };
        let client = self.client(&site.tls).map_err(broken)?;
        let response = client.get(&url).send().map_err(|error| self.explain(&url, &error))?;
        let what = if site.is_server { "the time" } else { "the profile" };
        diagnose::check_answer(&response, &url, what).map_or(Ok(()), Err)
    }

    /// Finds out what time it is, and sets the clock if it is wrong.
    pub fn mend_clock(
        &mut self,
        clock: &dyn Clock,
        floor: Timestamp,
        time_servers: &[String],
        site: Option<&Site>,
    ) -> Result<()> {
        let mut heard = std::thread::scope(|scope| {
            let asking =
                scope.spawn(|| (clock::ask_time_servers(time_servers, &self.resolver), Instant::now()));
            let server = site.and_then(|site| self.time_of_server(site)).map(|time| (time, Instant::now()));
            // A thread that panicked heard nothing.
            let (servers, at) = asking.join().unwrap_or_else(|_| (Vec::new(), Instant::now()));
            let by_now = |time: Timestamp, at: Instant| time.checked_add(at.elapsed()).ok();
            Heard {
                time_servers: servers.into_iter().filter_map(|time| by_now(time, at)).collect(),
                server: server.and_then(|(time, at)| by_now(time, at)),
                header: None,
            }
        });
        if heard.server.is_none() && heard.time_servers.is_empty() {
            heard.header = self.time_of_any_header(site);
        }
        self.clock = Some(clock::mend(clock, floor, &heard)?);
        Ok(())
    }

    /// The time of a server whose key is pinned.
    fn time_of_server(&self, site: &Site) -> Option<Timestamp> {
        if site.tls.pins.is_empty() {
            return None;
        }
        let client = self.access(&site.tls, Dates::Ignored).client().ok()?;
        let response = client.get(site.sign_of_life()).send().ok()?;
        let date = response.headers().get(DATE).and_then(|d| clock::parse_http_date(d.to_str().ok()?));
        if !site.is_server {
            return date;
        }
        let body = read_capped(response, 4096).ok()?;
        serde_json::from_slice::<api::Time>(&body).map(|t| t.now).ok().or(date)
    }

    /// The `Date` header of the site or, failing that, of a distribution's mirror, over plain HTTP.
    fn time_of_any_header(&self, site: Option<&Site>) -> Option<Timestamp> {
        let tls = Tls::default();
        let client = self
            .access(&tls, Dates::Checked)
            .builder()
            .ok()?
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(8))
            .build()
            .ok()?;
        let host = site.and_then(|s| Some(reqwest::Url::parse(&s.url).ok()?.host_str()?.to_owned()));
        let urls = host
            .map(|h| format!("http://{h}/"))
            .into_iter()
            .chain([Distribution::Debian, Distribution::Ubuntu].map(|d| d.default_mirror().to_owned()));
        urls.into_iter().find_map(|url| {
            let response = client.head(url).send().ok()?;
            clock::parse_http_date(response.headers().get(DATE)?.to_str().ok()?)
        })
    }
}

/// The time servers to try: the medium's, the network's, and the distribution's.
fn time_servers(
    stamp: Option<&Stamp>,
    offered: Vec<String>,
    distribution: Option<Distribution>,
) -> Vec<String> {
    let mut servers = stamp.map(|s| s.ntp.clone()).unwrap_or_default();
    servers.extend(offered);
    let pools: &[&str] = match distribution {
        Some(Distribution::Ubuntu) => &["ntp.ubuntu.com", "0.ubuntu.pool.ntp.org", "1.ubuntu.pool.ntp.org"],
        Some(Distribution::Debian) | None => {
            &["0.debian.pool.ntp.org", "1.debian.pool.ntp.org", "2.debian.pool.ntp.org"]
        }
    };
    servers.extend(pools.iter().map(|s| (*s).to_owned()));
    servers
}

/// The network phase of the live system: address, clock, a sign of life of the site.
pub fn connect(live: &LiveSystem, runner: &dyn Runner, tell: &mut dyn FnMut(&str)) -> Result<Online, Issue> {
    let stamp = live.stamp.as_ref().ok();
    let network = live.cmdline.network.clone().or_else(|| stamp.and_then(|s| s.network.clone()));
    let link = bring_up(&Wanted::new(network), runner, tell)?;
    let mut online = Online {
        addresses: link.addresses,
        resolver: Resolver::new(link.name_servers),
        proxy: stamp.and_then(|s| s.proxy.clone()),
        clock: None,
        clients: link.clients,
    };
    tell(&online.describe());
    let site = stamp.and_then(|stamp| Site::of(stamp, live.cmdline.server.as_deref()));
    let ntp = time_servers(stamp, link.ntp, live.image.as_ref().map(|i| i.distribution));
    online
        .mend_clock(&SystemClock, live.clock_floor(), &ntp, site.as_ref())
        .context("setting the clock")
        .map_err(|e| {
            Issue::new("clock-wrong", "", format!("{e:#}"), "set date and time in the computer's BIOS set-up")
        })?;
    if let Some(mended) = &online.clock {
        tell(&mended.describe());
        if let Some(chip) = &mended.chip {
            tell(&format!("the clock chip keeps its wrong time: {chip}"));
        }
    }
    if let Some(site) = &site {
        online.reach(site)?;
        tell(&format!("{} answers", site.url));
    }
    Ok(online)
}
