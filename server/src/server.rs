//! Starting and stopping the server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use akene_protocol::stamp::Source;
use akene_protocol::{PublicKey, Secret, Sha256, Stamp};
use anyhow::{Context as _, Result, anyhow};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::TokioTimer;
use tokio::sync::Semaphore;

use crate::board::{self, Board};
use crate::db::{Db, machines};
use crate::http::{self, Shared};
use crate::opening::Opening;
use crate::pool::Pool;
use crate::site::{Site, SiteConfig, keys, split_url};

/// What to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The site directory.
    pub dir: PathBuf,
    /// Address to listen on, instead of what `site.toml` says. Port 0 takes a free one.
    pub listen: Option<SocketAddr>,
}

/// The server.
#[derive(Debug)]
pub struct Server;

/// A running server. It stops when this is dropped, without waiting; [`Running::stop`] waits.
#[derive(Debug)]
pub struct Running {
    /// The address it listens on.
    pub addr: SocketAddr,
    /// The certificate of its authority, PEM, if it is its own.
    pub ca: Option<String>,
    /// The key its documents are signed with.
    pub site_key: PublicKey,
    /// Opens `/v1/admin/…`.
    pub admin_token: Secret,
    site: Site,
    handle: Handle<SocketAddr>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

/// How long running requests may take to finish when the server is stopped.
const GRACE: Duration = Duration::from_secs(15);

/// How long a connection may stay open without the head of a request, or without a sign of life, so that
/// nobody can use up all there are.
const HEADER_TIME: Duration = Duration::from_secs(20);

impl Server {
    /// Starts a server and returns when it listens.
    pub fn start(config: Config) -> Result<Running> {
        let site = Site::open(&config.dir)?;
        let settings = site.config()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = keys::read_secret(&site.secret("server.pem"))?;
        let identity =
            keys::server_identity(&chain, &keys::read_secret(&site.secret("server.key"))?, &provider)?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("setting up TLS")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.certified)));
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let admin_token = Secret::new(keys::read_secret(&site.secret("admin-token"))?.trim());
        let key = site.key()?;
        let site_key = PublicKey(key.verifying_key());
        let db = Db::open(&site.database())?;
        let shared = Arc::new(Shared {
            board: Board::open(&site.database())?,
            waiting: Arc::new(Semaphore::new(settings.limits.waiting_polls as usize)),
            poll_seconds: settings.limits.poll_seconds.max(1),
            db,
            key,
            admin: Sha256::of(admin_token.expose().as_bytes()),
            limiter: Default::default(),
            pool: Pool::of(&site),
            reports: Default::default(),
            streams: Arc::new(Semaphore::new(settings.limits.pool_streams as usize)),
            site: site.clone(),
        });
        let listener = listen(config.listen.or(settings.listen), &settings)?;
        let connections = settings.limits.connections as usize;
        let enrolment = usize::try_from(settings.limits.enrolment_bytes.0).unwrap_or(usize::MAX);
        let addr = listener.local_addr().context("asking for the address listened on")?;
        let handle = Handle::new();
        let thread = {
            let handle = handle.clone();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .thread_name("akene-server")
                .build()
                .context("starting the server's threads")?;
            std::thread::spawn(move || {
                runtime.block_on(async move {
                    tokio::spawn(keep_board(shared.clone()));
                    let mut server =
                        axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(tls)))
                            .context("taking over the listening socket")?
                            .map(|tls| Opening::new(tls, HEADER_TIME, connections))
                            .handle(handle);
                    let builder = server.http_builder();
                    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
                    builder
                        .http2()
                        .timer(TokioTimer::new())
                        .keep_alive_interval(HEADER_TIME)
                        .keep_alive_timeout(HEADER_TIME);
                    server
                        .serve(
                            http::router(shared, enrolment)
                                .into_make_service_with_connect_info::<SocketAddr>(),
                        )
                        .await
                        .context("serving")
                })
            })
        };
        let ca = std::fs::read_to_string(site.secret("ca.pem")).ok();
        Ok(Running { addr, ca, site_key, admin_token, site, handle, thread: Some(thread) })
    }
}

/// Shows machines what the administrator's commands order beside us, and writes their visits down.
async fn keep_board(shared: Arc<Shared>) {
    let mut written = Instant::now();
    loop {
        tokio::time::sleep(board::TICK).await;
        let board = shared.clone();
        match tokio::task::spawn_blocking(move || board.board.refresh()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("reading the open orders: {error:#}"),
            // Only a server that is being stopped ends its own tasks.
            Err(_) => return,
        }
        if written.elapsed() < board::WRITE_DOWN {
            continue;
        }
        written = Instant::now();
        let visits = shared.board.take_visits();
        if visits.is_empty() {
            continue;
        }
        if let Err(trouble) = shared.db.call(move |db| Ok(machines::all_seen(db, &visits)?)).await {
            eprintln!("writing visits down: {:#}", trouble.into_error());
        }
    }
}

/// Binds the address; by default every address, also where IPv6 is switched off.
fn listen(address: Option<SocketAddr>, settings: &SiteConfig) -> Result<TcpListener> {
    let bind = |address: SocketAddr| {
        let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        listener.set_nonblocking(true).with_context(|| format!("listening on {address}"))?;
        Ok(listener)
    };
    match address {
        Some(address) => bind(address),
        None => {
            let (_, port) = split_url(&settings.url)?;
            bind((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|_| bind((Ipv4Addr::UNSPECIFIED, port).into()))
        }
    }
}

impl Running {
    /// `https://HOST:PORT` with the host of the site and the port really listened on.
    pub fn url(&self) -> Result<String> {
        let (host, _) = split_url(&self.site.config()?.url)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(format!("https://{host}:{}", self.addr.port()))
    }

    /// The stamp of the site, with the port really listened on.
    pub fn stamp(&self) -> Result<Stamp> {
        let mut stamp = self.site.stamp()?;
        if let Source::Server { url, .. } = &mut stamp.source {
            *url = self.url()?;
        }
        Ok(stamp)
    }

    /// The site it serves.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Lets running requests finish, then stops.
    pub fn stop(mut self) -> Result<()> {
        self.handle.graceful_shutdown(Some(GRACE));
        self.wait()
    }

    /// Waits until the server has stopped, which it does by itself only when something breaks.
    fn wait(&mut self) -> Result<()> {
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("the server's thread panicked"))?,
            None => Ok(()),
        }
    }

    /// Whether it has stopped by itself.
    pub fn has_stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Err(error) = self.wait() {
            eprintln!("stopping the server: {error:#}");
        }
    }
}
