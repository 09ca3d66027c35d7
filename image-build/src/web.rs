//! HTTP as these programs use it: static, so that the C library's resolver must not be loaded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use akene_archive::redirect_policy;
use akene_protocol::stamp::Tls;
use akene_tls::{Dates, client_config};
use anyhow::{Context, Result};
use hickory_resolver::TokioResolver;
use reqwest::Proxy;
use reqwest::blocking::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// A client that trusts whom `tls` says, and finds names by DNS and `/etc/hosts`, as the system is configured. `proxy` is for
/// everything; without it the environment says whether there is one.
pub fn client(tls: &Tls, proxy: Option<&str>) -> Result<Client> {
    let builder = match proxy {
        Some(proxy) => Client::builder().proxy(Proxy::all(proxy).context("reading the proxy's address")?),
        None => Client::builder(),
    };
    builder
        .tls_backend_preconfigured(client_config(tls, Dates::Checked)?)
        .dns_resolver(Arc::new(Hickory::new()?))
        .redirect(redirect_policy())
        .connect_timeout(Duration::from_secs(20))
        .timeout(None)
        .user_agent(concat!("akene-image/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("preparing HTTP")
}

struct Hickory(Arc<TokioResolver>);

impl Hickory {
    fn new() -> Result<Self> {
        let resolver = TokioResolver::builder_tokio()
            .context("reading how this machine resolves names")?
            .build()
            .context("preparing to resolve names")?;
        Ok(Hickory(Arc::new(resolver)))
    }
}

impl Resolve for Hickory {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
