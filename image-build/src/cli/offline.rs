//! `offline`: media for places without a network.

use std::path::PathBuf;

use akene_exec::SystemRunner;
use akene_image::offline::store::Store;
use akene_image::offline::update::update;
use akene_image::offline::{Goal, Wishes, Workshop, make};
use akene_protocol::{Bytes, Language};
use akene_server::site::Site;
use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Permission, default_cache};

#[derive(Args)]
pub struct Offline {
    /// Directory made by `akene-server init`
    site_dir: PathBuf,
    /// The profiles, the one offered first at the beginning [default: the site's default profile; with --attended all;
    /// with --update those that are on the stick]
    profiles: Vec<String>,
    /// The image to make, or with --erase the stick itself
    #[arg(long, value_name = "FILE", required_unless_present = "update", conflicts_with = "update")]
    output: Option<PathBuf>,
    /// Bring this stick (a device or an image) up to date, writing only what changed; its reports stay. Needs root
    #[arg(long, value_name = "STICK")]
    update: Option<PathBuf>,
    /// Make an ISO for a DVD instead of the image of a stick
    #[arg(long, requires = "output")]
    iso: bool,
    /// The ISO of `akene-image build` [default: out/akene.iso; with --update the stick keeps its live system]
    #[arg(long, value_name = "ISO")]
    image: Option<PathBuf>,
    /// A technician chooses and confirms at each computer
    #[arg(long, overrides_with = "unattended")]
    attended: bool,
    /// Computers install by themselves (the default)
    #[arg(long)]
    unattended: bool,
    /// What computers may lose; with --attended, the most a technician may permit [default: blank; with --attended wipe]
    #[arg(long, value_enum)]
    consent: Option<Permission>,
    /// Size of the stick as it is printed on it (8GB), or the most an ISO may have
    #[arg(long, value_name = "SIZE")]
    size: Option<Bytes>,
    /// How many computers may join the site by this medium [default: 100]
    #[arg(long, value_name = "N")]
    machines: Option<u32>,
    /// For how many days the site believes what this medium brings home [default: 400]
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// Language of menu and screen: en or fr
    #[arg(long)]
    language: Option<Language>,
    /// What you call it: "Marie's stick"
    #[arg(long)]
    label: Option<String>,
    /// --output is a device, and everything on it may go. Name it a second time (--erase=/dev/sdX) if it is not made to be
    /// taken out
    #[arg(long, value_name = "DEVICE", num_args = 0..=1, require_equals = true, conflicts_with_all = ["iso", "size"])]
    erase: Option<Option<PathBuf>>,
    /// Where downloaded packages stay for the next medium [default: akene/pool in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Proxy for archives and packages: http://HOST:PORT
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
}

pub fn run(args: Offline) -> Result<()> {
    let site = Site::open(&args.site_dir)?;
    let started = std::time::Instant::now();
    let cache = match args.cache {
        Some(dir) => dir,
        None => default_cache("pool")?,
    };
    let shop = Workshop {
        site: &site,
        runner: &SystemRunner,
        store: Store::open(&cache)?,
        proxy: args.proxy,
        say: &|what| eprintln!("[{:>4} s] {what}", started.elapsed().as_secs()),
    };
    let attended = match (args.attended, args.unattended) {
        (false, false) => None,
        (attended, _) => Some(attended),
    };
    let wishes = Wishes {
        profiles: args.profiles,
        attended,
        consent: args.consent.map(Into::into),
        language: args.language,
        label: args.label,
        machines: args.machines,
        days: args.days,
    };
    if let Some(stick) = args.update {
        let done = update(&shop, &wishes, &stick, args.image.as_deref())?;
        println!(
            "{}: {} packages added, {} removed; {} written",
            stick.display(),
            done.added,
            done.removed,
            Bytes(done.written)
        );
        return Ok(());
    }
    let output = args.output.context("naming what is to be made: give --output")?;
    let goal = match (args.erase, args.iso) {
        (Some(again), _) => Goal::Device(output, again),
        (None, true) => Goal::Disc(output, args.size),
        (None, false) => Goal::StickImage(output, args.size),
    };
    let image = args.image.unwrap_or_else(|| PathBuf::from("out/akene.iso"));
    if !image.is_file() {
        bail!("there is no {}; make it with `akene-image build`, or name one with --image", image.display());
    }
    let medium = make(&shop, &wishes, &image, &goal)?;
    println!("{}", goal.path().display());
    println!(
        "Medium {}: {} computers may join by it until {}. {}/media/{}.toml must be on the server before what it brings home counts.",
        medium.id,
        medium.machines,
        medium.expires.strftime("%F"),
        site.dir().display(),
        medium.id
    );
    Ok(())
}
