//! The open orders of all machines, in memory: what ten thousand machines ask every few minutes costs no
//! write to the disk, and nearly never a read.
//!
//! Commands of the administrator write to the same database from another process. [`Board::refresh`] looks, twice a
//! second, at one number there that every change of an order raises, and reads the open orders anew when it did. Who
//! waits for an order is woken then.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use akene_protocol::api::OpenOrders;
use akene_protocol::{MachineId, Secret, Sha256};
use anyhow::Result;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::db::orders::{self, Open};
use crate::db::{Db, machines};

/// How often the database is asked for changes.
pub const TICK: Duration = Duration::from_millis(500);

/// How often visits are written down.
pub const WRITE_DOWN: Duration = Duration::from_secs(60);

/// After the last look of the administrator at the fleet, somebody counts as watching for this long. The page renews
/// itself every ten seconds.
const WATCHED: Duration = Duration::from_secs(60);

/// What stands for "no order" in an entity tag.
const NOTHING: &str = "\"none\"";

/// The open orders.
pub struct Board {
    /// For credentials: who shows one waits for nobody who reads orders.
    reader: Mutex<Connection>,
    /// For orders, and the number they were read at.
    source: Mutex<(Connection, Option<i64>)>,
    shown: RwLock<HashMap<MachineId, Vec<Open>>>,
    changes: watch::Sender<u64>,
    visits: Mutex<HashMap<MachineId, (Timestamp, String)>>,
    looked: Mutex<Option<Instant>>,
}

impl Board {
    /// Reads the open orders of this database.
    pub fn open(path: &Path) -> Result<Board> {
        let board = Board {
            reader: Mutex::new(Db::reader(path)?),
            source: Mutex::new((Db::reader(path)?, None)),
            shown: RwLock::default(),
            changes: watch::Sender::new(0),
            visits: Mutex::default(),
            looked: Mutex::default(),
        };
        board.refresh()?;
        Ok(board)
    }

    /// Reads the open orders again if any has changed.
    pub fn refresh(&self) -> Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let (reader, clock) = &mut *source;
        // The number first: what changes in between is read again the next time.
        let now = orders::clock(reader)?;
        if *clock == Some(now) {
            return Ok(());
        }
        let mut shown: HashMap<MachineId, Vec<Open>> = HashMap::new();
        for order in orders::open(reader)? {
            shown.entry(order.machine).or_default().push(order);
        }
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        *clock = Some(now);
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Whether this is the machine's credential.
    pub fn authenticate(&self, machine: MachineId, credential: &Secret) -> Result<bool> {
        machines::authenticate(
            &self.reader.lock().unwrap_or_else(PoisonError::into_inner),
            machine,
            credential,
        )
    }

    /// The entity tag of what a machine is asked to do now.
    pub fn tag(&self, machine: MachineId) -> String {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        let mut ids = Vec::new();
        for order in shown.get(&machine).into_iter().flatten().filter(|order| order.expires >= now) {
            ids.extend_from_slice(&order.id.0);
        }
        match ids.is_empty() {
            true => NOTHING.to_owned(),
            false => format!("\"{}\"", &Sha256::of(&ids).to_string()[..32]),
        }
    }

    /// What a machine is asked to do now.
    pub fn orders(&self, machine: MachineId) -> OpenOrders {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        let open = shown.get(&machine).into_iter().flatten().filter(|order| order.expires >= now);
        OpenOrders { orders: open.map(|order| order.envelope.clone()).collect() }
    }

    /// Wakes whoever waits when orders have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Remembers that a machine was heard of.
    pub fn visit(&self, machine: MachineId, peer: String) {
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        visits.insert(machine, (Timestamp::now(), peer));
    }

    /// The visits that were not written down yet.
    pub fn take_visits(&self) -> Vec<(MachineId, Timestamp, String)> {
        let visits = std::mem::take(&mut *self.visits.lock().unwrap_or_else(PoisonError::into_inner));
        visits.into_iter().map(|(machine, (at, peer))| (machine, at, peer)).collect()
    }

    /// The administrator looks at the fleet.
    pub fn look(&self) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether somebody watches the fleet.
    pub fn is_watched(&self) -> bool {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.is_some_and(|at| at.elapsed() < WATCHED)
    }
}

#[cfg(test)]
mod tests {
    use akene_protocol::order::{Plain, Task, VERSION};
    use akene_protocol::{Envelope, Order, OrderId};
    use ed25519_dalek::SigningKey;
    use jiff::SignedDuration;

    use super::*;

    /// Nothing changes in the database at the moment an order runs out.
    #[test]
    fn an_order_that_has_run_out_since_it_was_read_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("akene.db");
        Db::open(&path).unwrap();
        let board = Board::open(&path).unwrap();
        let machine = MachineId([1; 16]);
        let order = |n: u8, hours: i64| {
            let (id, issued) = (OrderId([n; 16]), Timestamp::now() - SignedDuration::from_hours(2));
            let expires = Timestamp::now() + SignedDuration::from_hours(hours);
            let order = Order { version: VERSION, id, machine, task: Task::Logs(Plain {}), issued, expires };
            let envelope = Envelope::sign(&order, &SigningKey::from_bytes(&[1; 32]));
            Open { id, machine, expires, envelope }
        };
        let shows = |orders: Vec<Open>| {
            board.shown.write().unwrap().insert(machine, orders);
            (board.tag(machine), board.orders(machine).orders.len())
        };
        let nothing = (NOTHING.to_owned(), 0);
        assert_eq!(shows(vec![]), nothing);
        assert_eq!(shows(vec![order(1, -1)]), nothing);
        let open = shows(vec![order(2, 1)]);
        assert!(open.0 != NOTHING && open.1 == 1, "{open:?}");
        assert_eq!(shows(vec![order(1, -1), order(2, 1)]), open);
        assert_ne!(shows(vec![order(1, 1), order(2, 1)]), open);
    }
}
