//! Giving orders: what the administrator wishes becomes a signed document for one machine.
//!
//! A reinstallation is thought through when it is ordered, not when the machine has restarted 700 km away: its
//! profile is chosen and resolved for the machine as it is known, and the profile's signed lock as it is now is kept
//! for it.

use akene_protocol::inventory::Inventory;
use akene_protocol::order::{self, Files, Order, OrderId, Plain, Reinstall, Task, Timing, When};
use akene_protocol::{Envelope, Issue, MachineId, Sha256};
use anyhow::{Context as _, Result, anyhow};
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Transaction;
use serde::Deserialize;

use crate::db::orders::{self, State, Stored};
use crate::db::{Trouble, machines, runs};
use crate::grant;
use crate::site::keys::random_hex;
use crate::site::{Chosen, Site, SiteConfig};

/// How long an order counts where nobody said otherwise, from when it may begin.
pub const LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What an administrator wishes. The body of `POST /v1/admin/machines/ID/orders`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Wish {
    /// What to do.
    pub task: Kind,
    /// Profile of a reinstallation; without one the site's rules choose.
    #[serde(default)]
    pub profile: Option<String>,
    /// Whether people's files go, too.
    #[serde(default)]
    pub wipe: bool,
    /// Whether the old system may be gone before all packages are there.
    #[serde(default)]
    pub streamed: bool,
    /// When to begin.
    #[serde(default)]
    pub when: When,
    /// Seconds between telling people and beginning.
    #[serde(default = "ten_minutes")]
    pub warning: u32,
    /// How often people may put it off.
    #[serde(default)]
    pub postponements: u32,
    /// Seconds each time.
    #[serde(default = "half_an_hour")]
    pub pause: u32,
    /// Until when it may be begun.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// Whether an open order of the same kind is cancelled for it.
    #[serde(default)]
    pub replace: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Kind {
    Reinstall,
    Reboot,
    Inventory,
    Logs,
}

fn ten_minutes() -> u32 {
    600
}

fn half_an_hour() -> u32 {
    1800
}

impl Wish {
    /// The plain wish for this.
    pub fn new(task: Kind) -> Wish {
        Wish {
            task,
            profile: None,
            wipe: false,
            streamed: false,
            when: When::Now,
            warning: ten_minutes(),
            postponements: 0,
            pause: half_an_hour(),
            expires: None,
            replace: false,
        }
    }
}

/// An order that was given.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The order.
    pub order: Order,
    /// Why it has its profile.
    pub why: Option<String>,
    /// The order it replaced.
    pub replaced: Option<OrderId>,
}

/// Gives a machine an order.
///
/// # Errors
/// `order-open` where there is one already; `order-odd`; everything that is wrong with the profile.
pub fn place(
    db: &Transaction<'_>,
    site: &Site,
    key: &SigningKey,
    machine: &machines::Machine,
    wish: &Wish,
) -> Result<Placed, Trouble> {
    let issued = Timestamp::now();
    let refuse =
        |code: &str, message: String, next: &str| Err(Trouble::Refused(Issue::new(code, "", message, next)));
    let timing = Timing {
        when: wish.when,
        warning: wish.warning,
        postponements: wish.postponements,
        pause: wish.pause,
    };
    if wish.task != Kind::Reinstall && (wish.wipe || wish.streamed || wish.profile.is_some()) {
        return refuse("order-odd", "only a reinstallation has a profile or wipes anything".into(), "");
    }
    let mut why = None;
    let task = match wish.task {
        Kind::Reinstall => {
            if runs::installed(&runs::of_machine(db, machine.id)?).is_none() {
                return refuse(
                    "never-installed",
                    format!("{} has no system of ours that could take orders", machine.asset),
                    "start it from a medium; `akene-server allow` permits an installation",
                );
            }
            let config = site.config()?;
            let chosen = choose(site, &config, machine, wish.profile.as_deref())?;
            let lock = site.signed_lock(&chosen.bundle.name)?;
            let lock = lock.map(|text| site.keep_lock(&text)).transpose()?;
            why = Some(chosen.why);
            let files = if wish.wipe { Files::Wipe } else { Files::Keep };
            let profile = Some(chosen.bundle.name);
            Task::Reinstall(Reinstall { profile, lock, files, streamed: wish.streamed, timing })
        }
        Kind::Reboot => Task::Reboot(timing),
        Kind::Inventory => Task::Inventory(Plain {}),
        Kind::Logs => Task::Logs(Plain {}),
    };
    let begins = match wish.when {
        When::At(at) => at.max(issued),
        When::Now | When::Idle => issued,
    };
    let expires = match wish.expires {
        Some(expires) => expires,
        None => begins.checked_add(LIFE).context("adding a week to the time of the order")?,
    };
    let id: OrderId = random_hex(16)?.parse().map_err(|e: String| anyhow!(e))?;
    let order = Order { version: order::VERSION, id, machine: machine.id, task, issued, expires };
    if let Some(what) = order.oddity() {
        return refuse("order-odd", what, "give other times");
    }
    let replaced = orders::place(db, &order, &Envelope::sign(&order, key), wish.replace)?;
    machines::note(db, machine.id, &format!("a person ordered: {}", in_words(&order)))?;
    site.forget_locks(&orders::locks(db)?)?;
    Ok(Placed { order, why, replaced })
}

/// The profile of a reinstallation.
fn choose(
    site: &Site,
    config: &SiteConfig,
    machine: &machines::Machine,
    name: Option<&str>,
) -> Result<Chosen, Trouble> {
    let (inventory, asset) = (&machine.inventory, Some(machine.asset));
    Ok(match name {
        Some(name) => site.named(config, inventory, asset, name, "the order names it".into())?,
        None => site.choose(config, inventory, asset, None)?,
    })
}

/// The profile with which an order's installation would be done, as it is now.
pub fn profile(
    site: &Site,
    machine: &machines::Machine,
    inventory: &Inventory,
    reinstall: &Reinstall,
) -> Result<Chosen> {
    let config = site.config()?;
    let asset = Some(machine.asset);
    Ok(match reinstall.profile.as_deref() {
        Some(name) => site.named(&config, inventory, asset, name, "it was ordered".into())?,
        None => site.choose(&config, inventory, asset, None)?,
    })
}

/// Whether an installation by this order may still be at work, or begin.
fn counts(db: &Transaction<'_>, order: &Stored) -> Result<bool> {
    let (State::Used, Some(run)) = (&order.state, order.run) else { return Ok(order.state.is_open()) };
    let run = runs::get(db, run)?;
    Ok(run.is_some_and(|run| Timestamp::now() < run.created + grant::RENEWABLE))
}

/// The sum of the signed lock that an order of this machine pins for this profile, if one does.
pub fn pinned_lock(db: &Transaction<'_>, machine: MachineId, profile: &str) -> Result<Option<Sha256>> {
    for order in orders::of_machine(db, machine)? {
        let reinstall = order.reinstall().filter(|r| r.profile.as_deref() == Some(profile));
        if let Some(sum) = reinstall.and_then(|r| r.lock)
            && counts(db, &order)?
        {
            return Ok(Some(sum));
        }
    }
    Ok(None)
}

/// An order as a person would say it: `reinstall with the profile desk, keeping people's files, when nobody uses it`.
pub fn in_words(order: &Order) -> String {
    let mut words = order.task.name().to_owned();
    if let Task::Reinstall(reinstall) = &order.task {
        if let Some(profile) = &reinstall.profile {
            words += &format!(" with the profile {profile}");
        }
        words += match reinstall.files {
            Files::Keep => ", keeping people's files",
            Files::Wipe => ", WIPING people's files",
        };
    }
    match order.task.timing() {
        None => {}
        Some(timing) => {
            words += &match timing.when {
                When::Now => ", at once".to_owned(),
                When::At(at) => format!(", at {at}"),
                When::Idle => ", when nobody uses it".to_owned(),
            };
            if timing.postponements > 0 {
                words += &format!(
                    "; people may postpone it {} times by {} minutes",
                    timing.postponements,
                    timing.pause.div_ceil(60)
                );
            }
        }
    }
    words
}
