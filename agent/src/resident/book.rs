//! What must outlive a power cut: the orders in hand, those that were used, and what the server was not told yet.
//!
//! It lies in `var/lib/akene/orders.json`. The ids of used orders are also kept on the boot partition, which a
//! reinstallation keeps, so that an order is not used a second time by the system it made.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use akene_protocol::order::{Order, OrderId, Progress};
use akene_protocol::{Envelope, PublicKey};
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::durable;

/// Below the root.
const PATH: &str = "var/lib/akene/orders.json";

/// The ids of used orders, on the boot partition.
const USED: &str = "akene/used-orders.json";

/// Used orders that are remembered. An order counts for some days, and people give few.
const MOST_USED: usize = 1000;

/// Orders in hand. The server gives one of each kind at a time.
const MOST_HELD: usize = 16;

/// Words that wait for the server. The newest of each order counts.
const MOST_WORDS: usize = 64;

/// How far an order is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "stage", deny_unknown_fields)]
pub enum Stage {
    /// It waits for its time, its packages, or people.
    #[default]
    Waiting,
    /// The machine restarts for it.
    Begun {
        /// The start of the kernel that began it.
        boot: String,
    },
}

/// An order in hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Held {
    /// As it was signed.
    pub envelope: Envelope,
    /// How far it is.
    #[serde(default)]
    pub progress: Stage,
    /// How often people postponed it.
    #[serde(default)]
    pub postponed: u32,
    /// Until when.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// What the server was told it waits for.
    #[serde(default)]
    pub waits: Option<String>,
    /// Whether its packages were fetched, or given up.
    #[serde(default)]
    pub prefetched: bool,
}

impl Held {
    /// What was ordered. A disk may rot, or lie: the signature is looked at each time.
    pub fn order(&self, key: &PublicKey) -> Result<Order> {
        self.envelope.open(key).context("reading an order in hand")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Kept {
    held: Vec<Held>,
    used: VecDeque<OrderId>,
    words: VecDeque<(OrderId, Progress)>,
}

/// The book.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    boot: PathBuf,
    kept: Kept,
}

impl Book {
    /// Reads the book below `root`. One that cannot be read is begun anew, and that is said: orders that were used are
    /// also known to the server.
    pub fn open(root: &Path) -> Result<Book> {
        let path = root.join(PATH);
        let mut kept: Kept = read(&path)
            .unwrap_or_else(|error| {
                eprintln!("the book of orders is begun anew: {error:#}");
                None
            })
            .unwrap_or_default();
        let boot = root.join("boot").join(USED);
        let used: Option<VecDeque<OrderId>> = read(&boot).unwrap_or_else(|error| {
            eprintln!("the used orders on the boot partition are not known: {error:#}");
            None
        });
        for id in used.unwrap_or_default() {
            if !kept.used.contains(&id) {
                kept.used.push_back(id);
            }
        }
        Ok(Book { path, boot, kept })
    }

    fn save(&self) -> Result<()> {
        let dir = self.path.parent().context("finding the directory of the orders")?;
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        write(&self.path, &self.kept)
    }

    /// What is not on the disk does not count in memory either.
    fn save_or(&mut self, before: Kept) -> Result<()> {
        self.save().inspect_err(|_| self.kept = before)
    }

    /// The orders in hand.
    pub fn held(&self) -> &[Held] {
        &self.kept.held
    }

    /// Changes an order in hand.
    pub fn change(&mut self, id: OrderId, key: &PublicKey, change: impl FnOnce(&mut Held)) -> Result<()> {
        let before = self.kept.clone();
        match self.kept.held.iter_mut().find(|held| held.order(key).is_ok_and(|order| order.id == id)) {
            Some(held) => change(held),
            None => return Ok(()),
        }
        self.save_or(before)
    }

    /// Takes an order in hand. False: there are too many already.
    pub fn hold(&mut self, envelope: Envelope) -> Result<bool> {
        if self.kept.held.len() >= MOST_HELD {
            return Ok(false);
        }
        let before = self.kept.clone();
        self.kept.held.push(Held {
            envelope,
            progress: Stage::Waiting,
            postponed: 0,
            not_before: None,
            waits: None,
            prefetched: false,
        });
        self.save_or(before).map(|()| true)
    }

    /// Puts an order out of hand; `word` is what the server is told about it.
    pub fn drop_order(&mut self, id: OrderId, key: &PublicKey, word: Option<Progress>) -> Result<()> {
        self.kept.held.retain(|held| held.order(key).is_ok_and(|order| order.id != id));
        self.remember(id);
        match word {
            Some(word) => self.say(id, word),
            None => self.save(),
        }
    }

    /// Remembers that an order was used, on the boot partition, too.
    pub fn used(&mut self, id: OrderId) -> Result<()> {
        self.remember(id);
        // The one does not wait for the other: either is enough not to use it again.
        let boot = write(&self.boot, &self.kept.used);
        self.save()?;
        boot
    }

    fn remember(&mut self, id: OrderId) {
        if !self.kept.used.contains(&id) {
            self.kept.used.push_back(id);
        }
        while self.kept.used.len() > MOST_USED {
            self.kept.used.pop_front();
        }
    }

    /// Whether an order was used before.
    pub fn was_used(&self, id: OrderId) -> bool {
        self.kept.used.contains(&id)
    }

    /// What the server is to be told.
    pub fn say(&mut self, id: OrderId, word: Progress) -> Result<()> {
        self.kept.words.retain(|(other, _)| *other != id);
        self.kept.words.push_back((id, word));
        while self.kept.words.len() > MOST_WORDS {
            self.kept.words.pop_front();
        }
        self.save()
    }

    /// The next thing to tell.
    pub fn word(&self) -> Option<(OrderId, Progress)> {
        self.kept.words.front().cloned()
    }

    /// The server knows it, or does not want to.
    pub fn told(&mut self) -> Result<()> {
        self.kept.words.pop_front();
        self.save()
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let doing = || format!("reading {}", path.display());
    match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => serde_json::from_slice(&text.with_context(doing)?).map(Some).with_context(doing),
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).context("writing the orders as JSON")?;
    durable::replace(path, 0o600, |out| out.write_all(&text).context("writing"))
}
