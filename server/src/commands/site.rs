//! `init`, `serve`, `certificate`, `token`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use akene_protocol::api::Consent;
use akene_protocol::profile;
use akene_protocol::stamp::Source;
use akene_server::site::init::{GivenCertificate, Options, ProfileOptions};
use akene_server::site::{Site, keys, split_url};
use akene_server::{Config, Server};
use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;

use super::say;
use crate::cli::{Certificate, Distribution, Init, NewMachines, Token};

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// `init`.
pub fn init(args: &Init) -> Result<()> {
    let certificate = match (&args.certificate, &args.key) {
        (Some(chain), Some(key)) => Some(GivenCertificate {
            chain: read(chain)?,
            key: read(key)?,
            ca: args.ca.as_deref().map(read).transpose()?,
        }),
        _ => None,
    };
    let mut authorized_keys = Vec::new();
    for path in &args.authorized_keys {
        let text = read(path)?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        for line in lines {
            ensure!(
                !line.contains("PRIVATE KEY"),
                "reading {}: this is a private key; give the file that ends in .pub",
                path.display()
            );
            authorized_keys.push(line.to_owned());
        }
    }
    let options = Options {
        url: args.url.clone(),
        name: args.name.clone(),
        new_machines: match args.new_machines {
            NewMachines::None => Consent::None,
            NewMachines::Blank => Consent::Blank,
            NewMachines::Wipe => Consent::Wipe,
        },
        certificate,
        profile: ProfileOptions {
            distribution: match args.distribution {
                Distribution::Debian => profile::Distribution::Debian,
                Distribution::Ubuntu => profile::Distribution::Ubuntu,
            },
            suite: args.suite.clone(),
            locale: args.locale.clone(),
            keyboard: args.keyboard.clone(),
            timezone: args.timezone.clone(),
            username: args.username.clone(),
            authorized_keys,
        },
    };
    let site = akene_server::site::init::init(&args.dir, &options)?;
    let checked = site.check(None)?;
    for issue in &checked.issues {
        eprintln!("attention: {issue}");
    }
    let dir = args.dir.display();
    say(&format!("The site is in {dir}. What to do next:"))?;
    if options.profile.authorized_keys.is_empty() {
        say(&format!(
            "  edit   {dir}/profiles/default.toml: without an SSH key or a password nobody can log in"
        ))?;
    } else {
        say(&format!(
            "  edit   {dir}/profiles/default.toml to your taste, then `akene-server profile check {dir}`"
        ))?;
    }
    say(&format!("  serve  akene-server serve {dir}"))?;
    say(&format!("  stamp  akene-image stamp IMAGE --site-dir {dir}"))?;
    say(&format!("Keep a copy of {dir}/secrets: without it no medium you made finds its way back."))
}

/// `serve`: until SIGTERM or SIGINT.
pub fn serve(dir: PathBuf, listen: Option<SocketAddr>) -> Result<()> {
    let site = Site::open(&dir)?;
    for issue in site.check(None)?.issues {
        eprintln!("attention: {issue}");
    }
    let running = Server::start(Config { dir, listen })?;
    eprintln!("serving {} at {}, listening on {}", site.config()?.name, running.url()?, running.addr);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("preparing to wait for signals")?;
    let signal = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
        let stopped = async {
            while !running.has_stopped() {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        };
        Ok::<_, anyhow::Error>(tokio::select! {
            _ = term.recv() => true,
            _ = int.recv() => true,
            () = stopped => false,
        })
    })?;
    if signal {
        eprintln!("stopping");
    }
    running.stop()
}

/// `certificate`.
pub fn certificate(command: &Certificate) -> Result<()> {
    let Certificate::Renew { dir } = command;
    let site = Site::open(dir)?;
    ensure!(
        site.secret("ca.key").is_file(),
        "renewing the certificate: it was issued by somebody else (there is no secrets/ca.key); have it renewed \
         there for the same key, and put the new chain into secrets/server.pem"
    );
    let (host, _) = split_url(&site.config()?.url)?;
    let authority = keys::Authority::from_key(&keys::read_secret(&site.secret("ca.key"))?)?;
    let key = keys::read_secret(&site.secret("server.key"))?;
    let pair = KeyPair::from_pem(&key).context("reading secrets/server.key")?;
    let chain = authority.issue(&host, &pair)?.pem();
    let identity = keys::server_identity(&chain, &key, &rustls::crypto::ring::default_provider())?;
    keys::write_private(&site.secret("server.pem"), chain.as_bytes())?;
    say(&format!(
        "New certificate for {host}, {} years, same key (pin {}). Restart the server to use it.",
        keys::LEAF_DAYS / 365,
        identity.pin
    ))
}

/// `token`.
pub fn token(command: Token) -> Result<()> {
    match command {
        Token::New { dir, note, days, stamp } => {
            let site = Site::open(&dir)?;
            let mut tokens = site.tokens()?;
            let expires =
                days.map(|days| Timestamp::now() + SignedDuration::from_hours(24 * i64::from(days)));
            let (id, secret) = tokens.add(&note, expires)?;
            // Before the file that names it: a token nobody knows harms nobody.
            site.write_tokens(&tokens)?;
            match stamp {
                None => say(&format!("{id} {}", secret.expose())),
                Some(path) => {
                    let mut new = site.stamp()?;
                    if let Source::Server { token, .. } = &mut new.source {
                        *token = Some(secret);
                    }
                    Site::write_stamp(&path, &new)?;
                    say(&format!("Token {id} is in {}.", path.display()))
                }
            }
        }
        Token::List { dir } => {
            let now = Timestamp::now();
            let mut valid = 0;
            for token in &Site::open(&dir)?.tokens()?.list {
                let state = match (token.revoked, token.expires) {
                    (Some(at), _) => format!("revoked {at:.0}"),
                    (None, Some(end)) if end <= now => format!("expired {end:.0}"),
                    (None, Some(end)) => format!("counts until {end:.0}"),
                    (None, None) => "counts".into(),
                };
                valid += usize::from(token.is_valid(now));
                say(&format!("{}  made {:.0}  {state}  {}", token.id, token.created, token.note))?;
            }
            if valid == 0 {
                eprintln!("attention: no token counts; no machine can enrol");
            }
            Ok(())
        }
        Token::Revoke { dir, id } => {
            let site = Site::open(&dir)?;
            let mut tokens = site.tokens()?;
            tokens.revoke(&id)?;
            site.write_tokens(&tokens)?;
            say(&format!("Token {id} counts no more. Machines that enrolled with it are not affected."))
        }
    }
}
