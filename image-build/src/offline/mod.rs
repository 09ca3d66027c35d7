//! Media that install where there is no network: everything a site's profiles can need, on one stick or disc.
//!
//! ```text
//! site directory ──▶ content ──▶ size ──▶ store ──▶ tree ──▶ stick | disc
//!                    what       fits?    bytes     akene/    update
//! ```
//!
//! 1. [`content`] takes the profiles and their signed locks (or makes those that are missing), and knows each package
//!    they name by its sum.
//! 2. [`size`] says how large everything is and refuses what does not fit, before a byte is fetched.
//! 3. [`store`] brings the packages into a cache, by hash.
//! 4. [`tree`] writes the directory `akene/` as [`akene_protocol::medium`] defines it.
//! 5. [`stick`] joins it with the live system into an image or onto a device, [`disc`] into an ISO; [`update`] brings
//!    a stick up to date. [`table`] writes the stick's partition table, [`device`] says what may be written to.
//!
//! [`look`] reads such a medium, without root and without mounting anything.
//!
//! What is on a medium lets nobody in anywhere: its stamp holds no token, reports are sealed for a key whose other half
//! never leaves the site, and the key they are signed with is this medium's own.

pub mod content;
pub mod device;
pub mod disc;
pub mod look;
pub mod size;
pub mod stick;
pub mod store;
pub mod table;
pub mod tree;
pub mod update;

use std::path::{Path, PathBuf};

use akene_exec::Runner;
use akene_protocol::api::Consent;
use akene_protocol::medium::{Medium, MediumId};
use akene_protocol::stamp::{Home, Source};
use akene_protocol::{Bytes, Envelope, Issue, Language, PublicKey, Secret, Stamp};
use akene_server::site::media::{self, Registered};
use akene_server::site::{Site, SiteConfig, keys};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::stamp;
use content::Content;
use store::Store;

/// What somebody wants on a medium.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Profiles, the one offered first at the beginning. Empty: those of the stick that is updated; the site's default
    /// one; with a technician, all of them.
    pub profiles: Vec<String>,
    /// Whether a technician chooses and confirms.
    pub attended: Option<bool>,
    /// What the medium permits.
    pub consent: Option<Consent>,
    /// Language of menu and screen.
    pub language: Option<Language>,
    /// What people call it.
    pub label: Option<String>,
    /// How many machines may join by it.
    pub machines: Option<u32>,
    /// For how many days it counts.
    pub days: Option<u32>,
}

/// What everything below works with.
pub struct Workshop<'a> {
    /// The site.
    pub site: &'a Site,
    /// Runs commands.
    pub runner: &'a dyn Runner,
    /// Where packages stay for the next medium.
    pub store: Store,
    /// Proxy for archives and packages.
    pub proxy: Option<String>,
    /// Is told what goes on.
    pub say: &'a (dyn Fn(&str) + Sync),
}

/// Where a new medium goes.
#[derive(Clone, Debug)]
pub enum Goal {
    /// An image of a stick, no larger than this.
    StickImage(PathBuf, Option<Bytes>),
    /// A stick itself; everything on it is lost. A device that is not made to be taken out is named a second time.
    Device(PathBuf, Option<PathBuf>),
    /// An ISO for a DVD, no larger than this.
    Disc(PathBuf, Option<Bytes>),
}

impl Goal {
    /// The file or device.
    pub fn path(&self) -> &Path {
        let (Goal::StickImage(path, _) | Goal::Device(path, _) | Goal::Disc(path, _)) = self;
        path
    }
}

impl Goal {
    /// Whether it may be written to.
    fn take(&self) -> Result<()> {
        match self {
            Goal::Device(path, again) => device::take_for_erasing(path, again.as_deref()).map(drop),
            Goal::StickImage(path, _) | Goal::Disc(path, _) if device::is_device(path)? => bail!(Issue::new(
                "device-not-erased",
                path.display().to_string(),
                "it is a device, and everything on it would be lost",
                "say so with --erase; or bring a stick up to date with --update",
            )),
            _ => Ok(()),
        }
    }
}

/// Makes a new medium from an ISO of `akene-image build`, and makes it known to the site.
///
/// # Errors
/// `medium-too-small`, `no-space`, `package-missing`; whatever keeps profiles from being locked, packages from being
/// fetched or the medium from being written. Nothing of a file that was there before is lost then.
pub fn make(shop: &Workshop<'_>, wishes: &Wishes, image: &Path, goal: &Goal) -> Result<Registered> {
    let config = shop.site.config()?;
    let names = chosen(shop.site, &config, wishes)?;
    let live = stick::LiveSystem::open(image)?;
    goal.take()?;
    let content = Content::gather(shop, &config, &names)?;
    let place = size::Place::of(goal, &live, &content)?;
    (shop.say)(&place.describe(&content, &shop.store.missing(content.packages())));
    place.check(&content)?;
    shop.store.check_space(&content, goal, &place)?;
    shop.store.bring(shop, &content, content.packages())?;

    let id: MediumId = keys::random_hex(8)?.parse().map_err(anyhow::Error::msg)?;
    let key = keys::new_signing_key()?;
    let medium = manifest(shop, &config, id, &key, &content, &live)?;
    let stamp = Stamp { keyboard: content.keyboard(), ..stamp_for(shop, &config, wishes, None)? };
    let documents = tree::documents(&medium, &key, &content, shop.site)?;
    let known = registered(wishes, &medium, None)?;
    let staged = tree::Staged::make(&shop.store, &documents, &content)?;
    // A download takes long: nobody may have mounted it meanwhile.
    goal.take()?;
    let unfinished = stick::Unfinished::beside(goal)?;
    match goal {
        Goal::StickImage(..) | Goal::Device(..) => {
            (shop.say)("writing the stick");
            stick::write(shop.runner, &live, &staged, &place, id, unfinished.path())?;
        }
        Goal::Disc(..) => {
            (shop.say)("writing the ISO");
            disc::write(shop.runner, image, &staged, unfinished.path())?;
        }
    }
    stamp::write(unfinished.path(), &stamp, None)?;
    let written = look::Offline::open(unfinished.path())?
        .context("looking at what was written: it is no such medium")?;
    written.manifest(&stamp.site_key).context("looking at what was written")?;
    media::register(shop.site, &known)?;
    unfinished.finish()?;
    Ok(known)
}

/// The profiles of a new medium.
fn chosen(site: &Site, config: &SiteConfig, wishes: &Wishes) -> Result<Vec<String>> {
    let attended = wishes.attended.unwrap_or_default();
    let names = match (wishes.profiles.as_slice(), attended) {
        ([], false) => vec![config.default_profile.clone()],
        ([], true) => {
            let others = site.profile_names()?.into_iter().filter(|n| *n != config.default_profile);
            std::iter::once(config.default_profile.clone()).chain(others).collect()
        }
        (names, _) => names.to_vec(),
    };
    check_profiles(&names, attended)?;
    Ok(names)
}

/// Where nobody chooses there can be one profile only.
pub(crate) fn check_profiles(names: &[String], attended: bool) -> Result<()> {
    if let Some(twice) = names.iter().enumerate().find_map(|(at, n)| names[..at].contains(n).then_some(n)) {
        bail!("the profile {twice} is named twice");
    }
    if names.len() > 1 && !attended {
        bail!(Issue::new(
            "medium-ambiguous",
            names.join(", "),
            format!("nobody chooses among {} profiles on a medium that installs by itself", names.len()),
            "name one profile, or make a medium for a technician with --attended",
        ));
    }
    Ok(())
}

/// The manifest.
fn manifest(
    shop: &Workshop<'_>,
    config: &SiteConfig,
    id: MediumId,
    key: &Secret,
    content: &Content,
    live: &stick::LiveSystem,
) -> Result<Medium> {
    let files = content.files().chain(live.files()?).collect();
    Ok(Medium {
        version: akene_protocol::medium::VERSION,
        id,
        site: config.name.clone(),
        made: now(shop)?,
        key: PublicKey(keys::signing_key(key.expose()).context("reading the medium's key")?.verifying_key()),
        associations: config.associations.clone(),
        profiles: content.profiles.iter().map(content::Carried::entry).collect(),
        files,
    })
}

/// The time, in whole seconds.
fn now(_: &Workshop<'_>) -> Result<Timestamp> {
    Timestamp::from_second(Timestamp::now().as_second()).context("reading the clock")
}

/// The stamp of such a medium: where its machines belong to, and nothing that would let anybody in. What is not wished
/// for stays as it was on the medium before.
fn stamp_for(
    shop: &Workshop<'_>,
    config: &SiteConfig,
    wishes: &Wishes,
    before: Option<&Stamp>,
) -> Result<Stamp> {
    let site = shop.site;
    let ours = site.stamp()?;
    let Source::Server { tls, .. } = ours.source else {
        bail!("reading {}/stamp.json: it does not name this site's server", site.dir().display());
    };
    if !site.secret("seal.key").exists() {
        (shop.say)(
            "made secrets/seal.key, which opens what machines report: where this directory is a copy, put that file \
             into the one the server uses before the medium is",
        );
    }
    let (consent, attended) = match before.map(|stamp| &stamp.source) {
        Some(Source::Medium { consent, attended, .. }) => (Some(*consent), *attended),
        _ => (None, false),
    };
    let attended = wishes.attended.unwrap_or(attended);
    // A technician is asked before anything is destroyed.
    let usual = if attended { Consent::Wipe } else { Consent::Blank };
    Ok(Stamp {
        site: config.name.clone(),
        source: Source::Medium {
            consent: wishes.consent.or(consent).unwrap_or(usual),
            attended,
            home: Some(Home {
                url: config.url.trim_end_matches('/').to_owned(),
                tls,
                seal: site.seal_secret()?.public(),
            }),
        },
        site_key: PublicKey(site.key()?.verifying_key()),
        network: None,
        ntp: Vec::new(),
        proxy: None,
        profile: None,
        language: wishes.language.or(before.map(|stamp| stamp.language)).unwrap_or(ours.language),
        keyboard: None,
    })
}

/// What the site knows of the medium. Bringing one up to date makes it count anew from then on.
fn registered(wishes: &Wishes, medium: &Medium, before: Option<Registered>) -> Result<Registered> {
    let label = wishes.label.as_deref().or(before.as_ref().map(|b| b.label.as_str())).unwrap_or_default();
    let machines = wishes.machines.or(before.as_ref().map(|b| b.machines)).unwrap_or(media::MACHINES);
    let mut new = Registered::new(
        medium.id,
        label,
        medium.key,
        medium.made,
        machines,
        wishes.days.unwrap_or(media::DAYS),
    )?;
    new.made = before.map_or(new.made, |b| b.made);
    Ok(new)
}

/// A signed document as a file.
pub(crate) fn signed(envelope: &Envelope) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(envelope).context("encoding a signed document")?;
    text.push(b'\n');
    Ok(text)
}
