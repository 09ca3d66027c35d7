//! Names to addresses, by the name servers this network told us about and nobody else.
//!
//! The C library's resolver cannot be used in a static program, and the HTTP library's own falls back to
//! a public resolver when it finds no `/etc/resolv.conf`: a school's firewall then drops the question, or
//! a company learns what its visitors install.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The name servers say that there is no such name.
    Unknown {
        /// The name.
        name: String,
    },
    /// No name server gave an answer.
    NoAnswer {
        /// The name.
        name: String,
        /// Who was asked.
        servers: Vec<IpAddr>,
        /// What came instead.
        detail: String,
    },
    /// The network told us no name server.
    NoServers {
        /// The name.
        name: String,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Unknown { name } => write!(f, "the name `{name}` does not exist"),
            NameError::NoAnswer { name, servers, detail } => {
                write!(f, "no name server answers for `{name}`; asked: ")?;
                for (i, server) in servers.iter().enumerate() {
                    write!(f, "{}{server}", if i == 0 { "" } else { ", " })?;
                }
                write!(f, " ({detail})")
            }
            NameError::NoServers { name } => {
                write!(f, "the address of `{name}` is unknown, because this network has no name server")
            }
        }
    }
}

impl std::error::Error for NameError {}

/// Asks a fixed list of name servers.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// Asks these servers.
    pub fn new(servers: impl IntoIterator<Item = IpAddr>) -> Self {
        Resolver::with_ports(servers.into_iter().map(|ip| SocketAddr::new(ip, 53)))
    }

    /// Asks these servers, on unusual ports.
    pub fn with_ports(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut unique = Vec::new();
        for server in servers {
            if !unique.contains(&server) {
                unique.push(server);
            }
        }
        Resolver { servers: unique }
    }

    /// Asks the servers of a resolv.conf.
    pub fn from_resolv_conf(text: &str) -> Self {
        let server = |line: &str| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
        };
        Resolver::new(text.lines().filter_map(server))
    }

    /// Who is asked.
    pub fn servers(&self) -> Vec<IpAddr> {
        self.servers.iter().map(SocketAddr::ip).collect()
    }

    /// For one HTTP client: a resolver's tasks belong to the runtime of the client that uses it.
    pub fn for_client(&self) -> Arc<ClientResolver> {
        Arc::new(ClientResolver { resolver: self.clone(), inner: Arc::default() })
    }

    /// Looks one name up and waits for it.
    pub fn lookup(&self, name: &str) -> Result<Vec<IpAddr>> {
        if let Some(known) = without_asking(name) {
            return Ok(known);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("preparing to ask name servers")?;
        Ok(runtime.block_on(async { self.ask(&self.build(name)?, name).await })?)
    }

    fn build(&self, name: &str) -> Result<TokioResolver, NameError> {
        if self.servers.is_empty() {
            return Err(NameError::NoServers { name: name.to_owned() });
        }
        let with_port = |mut connection: ConnectionConfig, port| {
            connection.port = port;
            connection
        };
        let servers = self.servers.iter().map(|s| {
            let connections = vec![
                with_port(ConnectionConfig::udp(), s.port()),
                with_port(ConnectionConfig::tcp(), s.port()),
            ];
            NameServerConfig::new(s.ip(), true, connections)
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = Duration::from_secs(3);
        options.attempts = 2;
        builder.build().map_err(|e| self.no_answer(name, e.to_string()))
    }

    fn no_answer(&self, name: &str, detail: String) -> NameError {
        NameError::NoAnswer { name: name.to_owned(), servers: self.servers(), detail }
    }

    async fn ask(&self, resolver: &TokioResolver, name: &str) -> Result<Vec<IpAddr>, NameError> {
        // With the final dot no search list is tried.
        let absolute = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        let unknown = || NameError::Unknown { name: name.to_owned() };
        match resolver.lookup_ip(absolute).await {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = found.iter().collect();
                // Old networks often have an IPv6 that leads nowhere; the other way round is rare.
                addresses.sort_by_key(IpAddr::is_ipv6);
                if addresses.is_empty() { Err(unknown()) } else { Ok(addresses) }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(found))) if is_answer(found.response_code) => {
                Err(unknown())
            }
            Err(error) => Err(self.no_answer(name, error.to_string())),
        }
    }
}

/// Whether a reply without addresses is the name server's opinion, and not its failure.
fn is_answer(code: hickory_resolver::proto::op::ResponseCode) -> bool {
    use hickory_resolver::proto::op::ResponseCode;
    matches!(code, ResponseCode::NXDomain | ResponseCode::NoError)
}

/// Literal addresses and ourselves.
fn without_asking(name: &str) -> Option<Vec<IpAddr>> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Some(vec![ip]);
    }
    let name = name.trim_end_matches('.');
    (name == "localhost" || name.ends_with(".localhost"))
        .then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// A [`Resolver`] in the service of one HTTP client.
#[derive(Debug)]
pub struct ClientResolver {
    resolver: Resolver,
    inner: Arc<OnceLock<TokioResolver>>,
}

impl Resolve for ClientResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, inner) = (self.resolver.clone(), self.inner.clone());
        Box::pin(async move {
            let name = name.as_str();
            let found = match without_asking(name) {
                Some(known) => known,
                None => {
                    let asking = match inner.get() {
                        Some(asking) => asking,
                        None => {
                            let built = resolver.build(name)?;
                            inner.get_or_init(|| built)
                        }
                    };
                    resolver.ask(asking, name).await?
                }
            };
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_ourselves_need_no_server() {
        let resolver = Resolver::default();
        assert_eq!(resolver.lookup("192.0.2.7").unwrap(), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(resolver.lookup("[2001:db8::1]").unwrap(), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(resolver.lookup("localhost").unwrap().len(), 2);
        let error = resolver.lookup("akene.example").unwrap_err();
        assert_eq!(
            error.downcast_ref::<NameError>(),
            Some(&NameError::NoServers { name: "akene.example".into() })
        );
    }

    #[test]
    fn servers_of_a_resolv_conf() {
        let text = "# made by dhcp\nsearch lan\nnameserver 192.0.2.1\nnameserver  2001:db8::53\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n";
        assert_eq!(
            Resolver::from_resolv_conf(text).servers(),
            ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::53".parse().unwrap()]
        );
    }
}
