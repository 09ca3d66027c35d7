//! Command line.

mod offline;

use std::fs;
use std::path::{Path, PathBuf};

use akene_archive::AptSettings;
use akene_exec::SystemRunner;
use akene_image::offline::look::Offline;
use akene_image::{build, inspect, stamp, sync};
use akene_protocol::api::Consent;
use akene_protocol::profile::{Apt, Distribution, Keyboard, Pocket};
use akene_protocol::resolve::Archive;
use akene_protocol::stamp::{Source, StaticNetwork, Tls};
use akene_protocol::{Language, PublicKey, Secret, Sha256, Stamp};
use akene_server::lock::{Order, describe, lock, on_stderr};
use akene_server::site::Site;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

#[derive(Parser)]
#[command(version, about = "Builds, stamps and inspects the bootable image")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build akene.iso, netboot/ and manifest.json from a distribution's packages
    Build(Box<Build>),
    /// Write a site's address, keys and token into a finished image, in place
    Stamp(Box<StampArgs>),
    /// Show what an image is and whom it belongs to
    Inspect(Inspect),
    /// Make a stick or disc that installs where there is no network, or bring one up to date
    Offline(Box<offline::Offline>),
    /// Pin the exact packages of a site's profiles, for all their machines, and sign them
    Lock(LockArgs),
    /// Deliver the reports that machines without a network left on a stick, and remove from it what was taken
    Sync(SyncArgs),
}

#[derive(Clone, Copy, ValueEnum)]
enum Family {
    Debian,
    Ubuntu,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Companion {
    Updates,
    Security,
    Backports,
    /// Only the release itself
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum Permission {
    /// Look and plan only
    None,
    /// Install where nothing can be lost
    Blank,
    /// Erase what is there
    Wipe,
    /// The same, and an old system may be gone before all packages are there
    Streamed,
}

impl From<Permission> for Consent {
    fn from(permission: Permission) -> Consent {
        match permission {
            Permission::None => Consent::None,
            Permission::Blank => Consent::Blank,
            Permission::Wipe => Consent::Wipe,
            Permission::Streamed => Consent::Streamed,
        }
    }
}

#[derive(Args)]
struct Build {
    /// Whose packages the live system is made of
    #[arg(long, value_enum)]
    distribution: Family,
    /// Code name of the release: bookworm, noble
    #[arg(long)]
    suite: String,
    /// Mirror of the main archive; several are tried in order
    #[arg(long, value_name = "URL")]
    mirror: Vec<String>,
    /// Mirror of the security archive
    #[arg(long, value_name = "URL")]
    security_mirror: Vec<String>,
    /// Components of the archive
    #[arg(long = "component", value_name = "NAME")]
    components: Vec<String>,
    /// Companion suites besides the release [default: updates security]
    #[arg(long = "pocket", value_enum)]
    pockets: Vec<Companion>,
    /// Armoured keys the archive is signed with [default: the distribution's keyring on this machine]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Keyring of the distribution, where it is not in its usual place
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// Package of the kernel [default: the distribution's usual one]
    #[arg(long)]
    kernel: Option<String>,
    /// The static agent [default: akene-agent beside this program]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Put in drivers, firmware and programs of wireless cards, for the rescue shell; the installer itself needs a cable
    #[arg(long, overrides_with = "no_wireless")]
    wireless: bool,
    /// Leave them out (the default)
    #[arg(long)]
    no_wireless: bool,
    /// Where the result goes
    #[arg(long, default_value = "out", value_name = "DIR")]
    output: PathBuf,
    /// Where downloaded packages stay [default: akene/packages in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Compression of the live root: 1 (quick, for trying things out) to 22
    #[arg(long, default_value_t = 19, value_parser = clap::value_parser!(u8).range(1..=22))]
    compression: u8,
}

#[derive(Args)]
struct LockArgs {
    /// Directory made by `akene-server init`
    site_dir: PathBuf,
    /// The profiles [default: all]
    profiles: Vec<String>,
    /// Write nothing; fail when a lock is missing or not what the archives would give now
    #[arg(long)]
    check: bool,
    /// Proxy for reading the archives
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
}

#[derive(Args)]
struct SyncArgs {
    /// The stick: its device or an image of it (which takes root), or the directory where it is mounted
    stick: PathBuf,
    /// A site directory on this computer that takes them, instead of the server that the stick names
    #[arg(long, value_name = "DIR")]
    site_dir: Option<PathBuf>,
}

#[derive(Args)]
struct StampArgs {
    /// The ISO, a device it was copied to, or the netboot directory
    image: PathBuf,
    /// Directory made by `akene-server init`, which holds stamp.json
    #[arg(long, value_name = "DIR", conflicts_with = "stamp")]
    site_dir: Option<PathBuf>,
    /// A stamp as JSON
    #[arg(long, value_name = "FILE")]
    stamp: Option<PathBuf>,
    /// Address of the server: https://HOST[:PORT]
    #[arg(long, value_name = "URL", conflicts_with = "bundle")]
    server: Option<String>,
    /// A signed profile on any web server, for sites without an akene-server
    #[arg(long, value_name = "URL", conflicts_with = "server")]
    profile_url: Option<String>,
    /// A signed profile to carry on the medium itself, for places without a network
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "profile_url"])]
    bundle: Option<PathBuf>,
    /// What --profile-url or --bundle may do to disks without a server's permission
    #[arg(long, value_enum, default_value = "blank")]
    consent: Permission,
    /// Name of the site, as the menu and the screen show it
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Certificates (PEM) of the only authorities that count
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// SHA-256 of a public key that must be in the server's chain
    #[arg(long = "pin", value_name = "SHA256")]
    pins: Vec<Sha256>,
    /// File with the permission to enrol, `-` for standard input: what stands on a command line is seen by
    /// everybody on this computer
    #[arg(long, value_name = "FILE", requires = "server")]
    token_file: Option<PathBuf>,
    /// The key that signs the site's documents
    #[arg(long, value_name = "BASE64")]
    site_key: Option<PublicKey>,
    /// Address with prefix length, instead of asking the network: 192.168.1.50/24
    #[arg(long = "ip", value_name = "ADDRESS/LENGTH")]
    addresses: Vec<String>,
    /// Default gateway
    #[arg(long, requires = "addresses")]
    gateway: Option<String>,
    /// Name servers
    #[arg(long, requires = "addresses")]
    dns: Vec<String>,
    /// The card that gets the address, by its MAC
    #[arg(long, requires = "addresses")]
    mac: Option<String>,
    /// Time servers
    #[arg(long)]
    ntp: Vec<String>,
    /// Proxy: http://HOST:PORT
    #[arg(long)]
    proxy: Option<String>,
    /// Profile to ask for, instead of the one the server's rules choose
    #[arg(long)]
    profile: Option<String>,
    /// Language of menu and screen: en or fr
    #[arg(long)]
    language: Option<Language>,
    /// Keyboard in front of the computers, as profiles name its layout: fr, us, de [default: that of the bundle; else that of
    /// the language]
    #[arg(long, value_name = "LAYOUT")]
    keyboard: Option<String>,
}

#[derive(Args)]
struct Inspect {
    /// The ISO, a device it was copied to, or the netboot directory
    image: PathBuf,
    /// Show tokens and passwords
    #[arg(long)]
    show_secrets: bool,
    /// Read every file and package and compare it with its sum
    #[arg(long)]
    verify: bool,
}

/// Runs the program.
pub fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Build(args) => build_image(*args),
        Command::Stamp(args) => stamp_image(*args),
        Command::Inspect(args) => inspect_image(&args),
        Command::Offline(args) => offline::run(*args),
        Command::Lock(args) => lock_profiles(args),
        Command::Sync(args) => bring_home(&args),
    }
}

fn build_image(args: Build) -> Result<()> {
    let distribution = match args.distribution {
        Family::Debian => Distribution::Debian,
        Family::Ubuntu => Distribution::Ubuntu,
    };
    let key = args.key.as_deref().map(read_text).transpose()?;
    let pockets = (!args.pockets.is_empty()).then(|| {
        let pocket = |c: &Companion| match c {
            Companion::Updates => Some(Pocket::Updates),
            Companion::Security => Some(Pocket::Security),
            Companion::Backports => Some(Pocket::Backports),
            Companion::None => None,
        };
        args.pockets.iter().filter_map(pocket).collect()
    });
    let archive = Archive::new(Apt {
        distribution: Some(distribution),
        suite: Some(args.suite),
        mirrors: args.mirror,
        security_mirrors: args.security_mirror,
        components: args.components,
        pockets,
        key,
        ..Apt::default()
    })?;
    let keyring = args.keyring.unwrap_or_else(|| AptSettings::default_keyring(distribution).to_owned());
    let settings = build::Settings {
        archive,
        keyring,
        kernel: args.kernel.unwrap_or_else(|| distribution.default_kernel().to_owned()),
        agent: match args.agent {
            Some(path) => path,
            None => std::env::current_exe().context("finding this program")?.with_file_name("akene-agent"),
        },
        wireless: args.wireless && !args.no_wireless,
        cache: args.cache.map_or_else(|| default_cache("packages"), Ok)?,
        output: args.output,
        epoch: source_date_epoch()?,
        compression: args.compression,
    };
    let started = std::time::Instant::now();
    let report = build::build(&SystemRunner, &settings, &|what| {
        eprintln!("[{:>4} s] {what}", started.elapsed().as_secs());
    })?;
    eprintln!("[{:>4} s] done", started.elapsed().as_secs());
    println!("{report}");
    println!("{}", settings.output.join("akene.iso").display());
    Ok(())
}

fn default_cache(what: &str) -> Result<PathBuf> {
    let dir = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("there is no HOME to keep downloads in; name a directory with --cache"),
    };
    Ok(dir.join("akene").join(what))
}

fn source_date_epoch() -> Result<Option<Timestamp>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text.to_str().and_then(|t| t.parse().ok()).and_then(|s| Timestamp::from_second(s).ok());
    seconds.map(Some).context("reading SOURCE_DATE_EPOCH, which must be seconds since 1970")
}

fn stamp_image(args: StampArgs) -> Result<()> {
    let image = args.image.clone();
    let profile = match &args.bundle {
        Some(path) => Some(fs::read(path).with_context(|| format!("reading {}", path.display()))?),
        None => None,
    };
    let keyboard = args.keyboard.clone().map(|layout| Keyboard { layout, variant: String::new() });
    let mut stamp = make_stamp(args)?;
    let of_bundle = profile.as_deref().and_then(|text| stamp::keyboard(text, &stamp.site_key));
    stamp.keyboard = keyboard.or(of_bundle).or(stamp.keyboard);
    stamp::write(&image, &stamp, profile.as_deref())?;
    println!("{} now belongs to {}.", image.display(), stamp.site);
    if matches!(stamp.source, Source::Server { token: Some(_), .. }) {
        println!("It holds the site's token: keep it as you keep a key.");
    }
    Ok(())
}

/// The stamp that the arguments mean: one from a file, changed by the other arguments, or a new one.
fn make_stamp(args: StampArgs) -> Result<Stamp> {
    let consent = Consent::from(args.consent);
    let tls = Tls { ca: args.ca.as_deref().map(read_text).transpose()?, pins: args.pins };
    for url in args.server.iter().chain(&args.profile_url) {
        if !url.starts_with("https://") {
            bail!(
                "{url} does not begin with https://: anybody on the way could read and change what is said"
            );
        }
    }
    let source = match (args.server, args.profile_url, args.bundle) {
        (Some(url), ..) => {
            let file = args.token_file.context("enrolling at a server needs a token: give --token-file")?;
            Some(Source::Server { url, tls, token: Some(read_token(&file)?) })
        }
        (None, Some(url), _) => Some(Source::Static { url, tls, consent }),
        (None, None, Some(_)) => Some(Source::Medium { consent, attended: false, home: None }),
        (None, None, None) => None,
    };
    let file = args.site_dir.map(|dir| dir.join("stamp.json")).or(args.stamp);
    let mut stamp = match (file, source, args.site_key) {
        (Some(file), source, _) => {
            let text = read_text(&file)?;
            let mut stamp: Stamp = serde_json::from_str(&text)
                .with_context(|| format!("reading the stamp {}", file.display()))?;
            stamp.source = source.unwrap_or(stamp.source);
            stamp
        }
        (None, Some(source), Some(site_key)) => {
            let site = match &source {
                Source::Server { url, .. } | Source::Static { url, .. } => {
                    url.trim_start_matches("https://").split(['/', ':']).next().unwrap_or_default().to_owned()
                }
                Source::Medium { .. } => "this medium".to_owned(),
            };
            Stamp::new(site, source, site_key)
        }
        _ => bail!(
            "name the site with --site-dir DIR or --stamp FILE, or with --site-key and one of --server, \
             --profile-url, --bundle"
        ),
    };
    if let Some(site) = args.site {
        stamp.site = site;
    }
    if !args.addresses.is_empty() {
        stamp.network = Some(StaticNetwork {
            addresses: args.addresses,
            gateway: args.gateway,
            dns: args.dns,
            mac: args.mac,
        });
    }
    if !args.ntp.is_empty() {
        stamp.ntp = args.ntp;
    }
    stamp.proxy = args.proxy.or(stamp.proxy);
    stamp.profile = args.profile.or(stamp.profile);
    stamp.language = args.language.unwrap_or(stamp.language);
    Ok(stamp)
}

fn inspect_image(args: &Inspect) -> Result<()> {
    let contents = stamp::read(&args.image)?;
    print!("{}", inspect::describe(&contents, args.show_secrets));
    if args.verify {
        let count = inspect::verify(&args.image)?;
        println!("{count} files are as they were built");
    }
    if !args.image.is_dir()
        && let Ok(stamp) = &contents.stamp
        && let Some(offline) = Offline::open(&args.image)?
    {
        print!("{}", inspect::describe_offline(&offline, stamp)?);
        if args.verify {
            let count = offline.verify(&stamp.site_key)?;
            println!("{count} files are what manifest and locks say");
        }
    }
    Ok(())
}

/// A token from a file, or from standard input.
fn read_token(file: &Path) -> Result<Secret> {
    let text = match file.to_str() {
        Some("-") => {
            std::io::read_to_string(std::io::stdin()).context("reading the token from standard input")?
        }
        _ => read_text(file)?,
    };
    match text.trim() {
        "" => bail!("reading the token: there is nothing in {}", file.display()),
        token if token.chars().any(char::is_whitespace) => {
            bail!("reading the token: {} holds more than one word", file.display())
        }
        token => Ok(Secret::new(token)),
    }
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn bring_home(args: &SyncArgs) -> Result<()> {
    let site = args.site_dir.as_deref().map(Site::open).transpose()?;
    let outcome = sync::sync(&SystemRunner, &args.stick, site.as_ref())?;
    for machine in &outcome.machines {
        println!("{}", harmless(&machine.to_string()));
    }
    for (name, issue) in &outcome.refused {
        eprintln!("{name} stays on the stick: {}", harmless(&issue.to_string()));
    }
    if let Some(error) = outcome.broken {
        return Err(error
            .context("not everything was brought home; what is missing is still on the stick: try again"));
    }
    if outcome.machines.is_empty() && outcome.refused.is_empty() {
        println!("No report waits on {}.", args.stick.display());
    }
    if !outcome.refused.is_empty() {
        bail!("{} reports were not taken", outcome.refused.len());
    }
    Ok(())
}

/// What somebody typed far away gives no orders to this terminal.
fn harmless(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

fn lock_profiles(args: LockArgs) -> Result<()> {
    let site = Site::open(&args.site_dir)?;
    let order = Order { profiles: args.profiles, check: args.check, proxy: args.proxy };
    let mut differ = Vec::new();
    lock(&site, &SystemRunner, &order, &mut on_stderr(), &mut |locked| {
        if locked.different {
            differ.push(locked.lock.profile.clone());
        }
        println!("{}", describe(locked, order.check));
        Ok(())
    })?;
    if order.check && !differ.is_empty() {
        bail!("checking the locks: not what the archives would give now: {}", differ.join(", "));
    }
    Ok(())
}
