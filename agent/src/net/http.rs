//! HTTP clients: who is trusted, how names are found, how long to wait, how much to read.

use std::io::Read;
use std::time::{Duration, Instant};

use akene_protocol::stamp::Tls;
use anyhow::{Context, Result, bail};
use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::redirect::Policy;

use super::resolver::Resolver;
use super::tls::{Dates, client_config};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long to wait for an answer to begin, and for each further piece of it.
const SILENCE: Duration = Duration::from_secs(30);

/// What we call ourselves.
pub const USER_AGENT: &str = concat!("akene-agent/", env!("CARGO_PKG_VERSION"));

/// What an HTTP client is made from.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// How the server's certificate is judged.
    pub tls: &'a Tls,
    /// Proxy for everything, `http://HOST:PORT`.
    pub proxy: Option<&'a str>,
    /// Who is asked for names.
    pub resolver: &'a Resolver,
    /// Whether certificates must be valid today.
    pub dates: Dates,
}

impl Access<'_> {
    /// A client. Its answers begin within 30 seconds and never fall silent for longer; redirections are
    /// followed on the same host and scheme only.
    pub fn client(&self) -> Result<Client> {
        self.builder()?.build().context("preparing HTTP")
    }

    /// The same, to be changed before use.
    pub fn builder(&self) -> Result<ClientBuilder> {
        let builder = Client::builder()
            .tls_backend_preconfigured(client_config(self.tls, self.dates)?)
            .dns_resolver(self.resolver.for_client())
            .redirect(same_host())
            .connect_timeout(CONNECT)
            .timeout(SILENCE)
            .tcp_keepalive(Duration::from_secs(20))
            .referer(false)
            .user_agent(USER_AGENT)
            // The environment of the process that started us says nothing about this network.
            .no_proxy();
        match self.proxy {
            None => Ok(builder),
            Some(proxy) => Ok(builder
                .proxy(reqwest::Proxy::all(proxy).with_context(|| format!("using the proxy `{proxy}`"))?)),
        }
    }
}

/// Follows a redirection within the host it came from. Leaving it would hand tokens to strangers, and is
/// how portals catch people.
fn same_host() -> Policy {
    Policy::custom(|attempt| {
        let Some(from) = attempt.previous().last() else { return attempt.stop() };
        let to = attempt.url();
        let same = from.scheme() == to.scheme()
            && from.host_str() == to.host_str()
            && from.port_or_known_default() == to.port_or_known_default();
        if same && attempt.previous().len() < 5 { attempt.follow() } else { attempt.stop() }
    })
}

/// Reads a body of at most `most` bytes within two minutes.
pub fn read_capped(response: Response, most: u64) -> Result<Vec<u8>> {
    let url = response.url().clone();
    let announced = response.content_length();
    if announced.is_some_and(|n| n > most) {
        bail!("{url} answers with {} bytes, more than the {most} it may", announced.unwrap_or_default());
    }
    read_all(response, most, Duration::from_secs(120)).with_context(|| format!("reading the answer of {url}"))
}

fn read_all(mut from: impl Read, most: u64, limit: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let mut body = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let n = from.read(&mut piece)?;
        if n == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&piece[..n]);
        if body.len() as u64 > most {
            bail!("it is longer than the {most} bytes it may have");
        }
        if Instant::now() > deadline {
            bail!("it takes longer than {} s", limit.as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_limited_in_size_and_time() {
        assert_eq!(read_all(&b"12345"[..], 5, SILENCE).unwrap(), b"12345");
        assert!(read_all(&b"123456"[..], 5, SILENCE).unwrap_err().to_string().contains("5 bytes"));
        let endless = std::io::repeat(0);
        assert!(
            read_all(endless, u64::MAX, Duration::from_millis(20))
                .unwrap_err()
                .to_string()
                .contains("longer than 0 s")
        );
    }

    #[test]
    fn dates_cannot_be_ignored_without_a_pin() {
        let (tls, resolver) = (Tls::default(), Resolver::default());
        let access = Access { tls: &tls, proxy: None, resolver: &resolver, dates: Dates::Ignored };
        assert!(access.client().unwrap_err().to_string().contains("pinned"));
        assert!(Access { dates: Dates::Checked, ..access }.client().is_ok());
    }
}
