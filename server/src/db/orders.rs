//! Orders: what machines are asked to do, and how far they are.
//!
//! ```text
//! given → received → postponed → begun ─┬─────────────→ done       inventory, logs, reboot
//!                                       └→ used (a run)→ done       a reinstallation, when its new system speaks
//! any of them → refused, cancelled, expired
//! ```
//!
//! A machine sees the orders that are *open*: all before `used`. Its word moves an order forwards only, so that
//! what arrives twice or late changes nothing.

use akene_protocol::order::{Order, OrderId, Progress, Reinstall, Task};
use akene_protocol::{Envelope, Issue, MachineId, RunId, Sha256};
use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Trouble, from_json, runs};
use crate::grant;

/// Where an order stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "state")]
pub enum State {
    /// The machine has not asked yet.
    Given,
    /// The machine has it.
    Received {
        /// What it waits for. May be empty.
        waits: String,
    },
    /// People put it off.
    Postponed {
        /// How often.
        times: u32,
        /// Until when.
        until: Timestamp,
    },
    /// It is being carried out.
    Begun,
    /// An installer was given the permission it holds.
    Used,
    /// It was carried out.
    Done,
    /// It was not carried out.
    Refused {
        /// Why.
        issue: Issue,
    },
    /// The administrator took it back.
    Cancelled {
        /// How: by hand, or by giving another.
        why: String,
    },
    /// Its time ran out.
    Expired,
}

impl State {
    /// Whether the machine is still to see it.
    pub fn is_open(&self) -> bool {
        self.rank() < 4
    }

    /// Whether nothing more comes of it.
    fn is_end(&self) -> bool {
        self.rank() > State::Used.rank()
    }

    /// Whether something is still to come of it, or to be looked at.
    pub fn is_pending(&self) -> bool {
        !matches!(self, State::Done | State::Cancelled { .. })
    }

    /// Orders only go to a higher one by a machine's word.
    fn rank(&self) -> u8 {
        match self {
            State::Given => 0,
            State::Received { .. } => 1,
            State::Postponed { .. } => 2,
            State::Begun => 3,
            State::Used => 4,
            State::Done | State::Refused { .. } | State::Cancelled { .. } | State::Expired => 5,
        }
    }

    /// For people.
    pub fn words(&self) -> String {
        match self {
            State::Given => "waits until the computer asks for it".into(),
            State::Received { waits } if waits.is_empty() => "the computer has it".into(),
            State::Received { waits } => format!("the computer has it and waits: {waits}"),
            State::Postponed { times, until } => {
                format!("people postponed it {times} times, now until {until}")
            }
            State::Begun => "begun".into(),
            State::Used => "the installer is at work".into(),
            State::Done => "done".into(),
            State::Refused { issue } => format!("not carried out: {issue}"),
            State::Cancelled { why } => format!("cancelled {why}"),
            State::Expired => "expired: the computer did not do it in time".into(),
        }
    }
}

impl From<Progress> for State {
    fn from(progress: Progress) -> State {
        match progress {
            Progress::Received { waits } => State::Received { waits },
            Progress::Postponed { times, until } => State::Postponed { times, until },
            Progress::Begun => State::Begun,
            Progress::Done => State::Done,
            Progress::Refused { issue } => State::Refused { issue },
        }
    }
}

/// An order as stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What was signed.
    pub order: Order,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub changed: String,
    /// The run that used it.
    pub run: Option<RunId>,
}

impl Stored {
    /// The reinstallation it asks for, if it does.
    pub fn reinstall(&self) -> Option<&Reinstall> {
        match &self.order.task {
            Task::Reinstall(reinstall) => Some(reinstall),
            _ => None,
        }
    }
}

/// Orders of a machine that are over and kept: the newest. A machine that is ordered to look at itself every day has
/// three months of them.
const MOST_OVER: u32 = 100;

/// Longest text of a machine that is kept.
const LONGEST_WORD: usize = 2000;

/// Keeps a new order. With `replace`, an open one of the same kind for the same machine is cancelled.
///
/// # Errors
/// `order-open`: there is one already.
pub fn place(
    db: &Transaction<'_>,
    order: &Order,
    envelope: &Envelope,
    replace: bool,
) -> Result<Option<OrderId>, Trouble> {
    let now = Timestamp::now();
    let open = of_machine(db, order.machine)?
        .into_iter()
        .find(|other| other.state.is_open() && other.order.task.name() == order.task.name());
    if let Some(other) = &open {
        if !replace {
            let task = order.task.name();
            return Err(Trouble::Refused(Issue::new(
                "order-open",
                format!("order {}", other.order.id),
                format!(
                    "this computer has an open order of this kind ({task}) already: {}",
                    other.state.words()
                ),
                "give this one with --replace, which cancels that one, or take that one back with `akene-server orders cancel`",
            )));
        }
        set(db, other.order.id, &State::Cancelled { why: "by another order".into() })?;
    }
    let lock = match &order.task {
        Task::Reinstall(reinstall) => reinstall.lock.map(|sum| sum.to_string()),
        _ => None,
    };
    db.execute(
        "INSERT INTO orders (id, machine, created, expires, document, envelope, state, open, changed, lock)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?3, ?8)",
        params![
            order.id.to_string(),
            order.machine.to_string(),
            now.to_string(),
            order.expires.as_second(),
            serde_json::to_string(order)?,
            serde_json::to_string(envelope)?,
            serde_json::to_string(&State::Given)?,
            lock,
        ],
    )?;
    forget(db, order.machine)?;
    Ok(open.map(|other| other.order.id))
}

/// Deletes the oldest orders of a machine that are over, where there are many. What may still be gone on with stays.
fn forget(db: &Transaction<'_>, machine: MachineId) -> Result<()> {
    let over = of_machine(db, machine)?.into_iter().filter(|order| order.state.is_end());
    for order in over.skip(MOST_OVER as usize) {
        db.prepare_cached("DELETE FROM orders WHERE id = ?1")?
            .execute([order.order.id.to_string()])
            .context("deleting an old order")?;
    }
    Ok(())
}

fn set(db: &Transaction<'_>, id: OrderId, state: &State) -> Result<()> {
    let text = serde_json::to_string(state).context("encoding the state of an order")?;
    db.execute(
        "UPDATE orders SET state = ?2, open = ?3, changed = ?4, lock = iif(?5, NULL, lock) WHERE id = ?1",
        params![id.to_string(), text, state.is_open(), Timestamp::now().to_string(), state.is_end()],
    )
    .context("keeping the state of an order")?;
    Ok(())
}

type Raw = (String, String, String, Option<String>);

const COLUMNS: &str = "document, state, changed, run";

fn read((document, state, changed, run): Raw) -> Result<Stored> {
    let order: Order = from_json(&document)?;
    let mut state: State = from_json(&state)?;
    let expires = match state {
        // What began in time has the time of a restart and a slow network until its installer asks.
        State::Begun => {
            let since: Timestamp = changed.parse().context("reading when an order began")?;
            order.expires.max(since.checked_add(grant::LIFE)?)
        }
        _ => order.expires,
    };
    if state.is_open() && expires < Timestamp::now() {
        state = State::Expired;
    }
    let run = run.map(|run| run.parse().map_err(|e: String| anyhow!(e))).transpose()?;
    Ok(Stored { order, state, changed, run })
}

/// The order with this id.
pub fn get(db: &Transaction<'_>, id: OrderId) -> Result<Option<Stored>> {
    db.query_row(&format!("SELECT {COLUMNS} FROM orders WHERE id = ?1"), [id.to_string()], |row| {
        Raw::try_from(row)
    })
    .optional()
    .context("reading an order")?
    .map(read)
    .transpose()
}

/// Most orders in a list.
const MOST: u32 = 1000;

fn list(db: &Transaction<'_>, condition: &str, value: &str, most: u32) -> Result<Vec<Stored>> {
    let mut query = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM orders WHERE {condition} ORDER BY n DESC LIMIT ?2"
    ))?;
    let rows = query.query_map(params![value, most], |row| Raw::try_from(row))?;
    let mut orders = Vec::new();
    for row in rows {
        orders.extend(readable(read(row.context("reading orders")?)));
    }
    Ok(orders)
}

/// One order that cannot be read, a newer server's for one, must not hide all the others.
fn readable<T>(order: Result<T>) -> Option<T> {
    order.inspect_err(|error| eprintln!("passing over an order: {error:#}")).ok()
}

/// The orders of a machine, newest first.
pub fn of_machine(db: &Transaction<'_>, machine: MachineId) -> Result<Vec<Stored>> {
    list(db, "machine = ?1", &machine.to_string(), MOST)
}

/// The newest order of a machine.
pub fn newest(db: &Transaction<'_>, machine: MachineId) -> Result<Option<Stored>> {
    Ok(list(db, "machine = ?1", &machine.to_string(), 1)?.into_iter().next())
}

/// All orders, newest first; at most a thousand.
pub fn all(db: &Transaction<'_>) -> Result<Vec<Stored>> {
    list(db, "?1 = ''", "", MOST)
}

/// The sums of the locks that were kept for orders and may still be needed.
pub fn locks(db: &Transaction<'_>) -> Result<Vec<Sha256>> {
    let mut query = db.prepare_cached(
        "SELECT DISTINCT lock FROM orders WHERE lock IS NOT NULL AND (open = 0 OR expires >= ?1)",
    )?;
    // What began in time lasts that much longer.
    let since = (Timestamp::now() - grant::LIFE).as_second();
    let rows = query.query_map([since], |row| row.get::<_, String>(0))?;
    rows.map(|sum| sum.context("reading the locks of orders")?.parse().map_err(|e: String| anyhow!(e)))
        .collect()
}

/// The order of this machine with this id.
///
/// # Errors
/// `order-unknown` or `order-other-machine`.
pub fn own(db: &Transaction<'_>, machine: MachineId, id: OrderId) -> Result<Stored, Trouble> {
    let refuse = |code: &str, message: &str| {
        let next = "order it again at the server: `akene-server order`";
        Err(Trouble::Refused(Issue::new(code, format!("order {id}"), message, next)))
    };
    match get(db, id)? {
        None => refuse("order-unknown", "this server has given no such order"),
        Some(order) if order.order.machine != machine => {
            refuse("order-other-machine", "this order is for another computer")
        }
        Some(order) => Ok(order),
    }
}

/// Why an order that is not open does not count any more.
pub fn over(order: &Stored) -> Issue {
    let id = order.order.id;
    let issue = |code: &str, message: String| {
        let next = "order it again at the server: `akene-server order`";
        Issue::new(code, format!("order {id}"), message, next)
    };
    match &order.state {
        State::Expired => issue("order-expired", format!("this order counted until {}", order.order.expires)),
        State::Cancelled { why } => issue("order-cancelled", format!("this order was cancelled {why}")),
        state => issue("order-used", format!("this order was used already: {}", state.words())),
    }
}

/// What a machine tells of an order.
///
/// # Errors
/// Those of [`own`]; `order-expired`, `order-cancelled` or `order-used` where it does not count any more.
pub fn report(
    db: &Transaction<'_>,
    machine: MachineId,
    id: OrderId,
    progress: Progress,
) -> Result<(), Trouble> {
    let order = own(db, machine, id)?;
    let mut new = State::from(progress);
    shorten(&mut new);
    match (&order.state, &new) {
        (State::Expired | State::Cancelled { .. }, State::Refused { .. }) => return Ok(()),
        (State::Expired | State::Cancelled { .. }, _) => return Err(Trouble::Refused(over(&order))),
        // It asks whether the order still counts: an older copy of its disk does, or one in another computer.
        (before, State::Begun) if before.rank() > State::Begun.rank() => {
            return Err(Trouble::Refused(over(&order)));
        }
        // That a reinstallation is done is the word of the new system, not of the one that began it.
        (_, State::Done) if order.reinstall().is_some() => return Ok(()),
        (State::Postponed { times: before, .. }, State::Postponed { times, .. }) if times > before => {}
        (State::Received { waits: before }, State::Received { waits }) if waits != before => {}
        (before, new) if new.rank() <= before.rank() => return Ok(()),
        _ => {}
    }
    Ok(set(db, id, &new)?)
}

fn shorten(state: &mut State) {
    let cut = |text: &mut String| {
        let end = (0..=LONGEST_WORD.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    };
    match state {
        State::Received { waits } => cut(waits),
        State::Refused { issue } => {
            [&mut issue.code, &mut issue.path, &mut issue.message, &mut issue.next].into_iter().for_each(cut);
        }
        _ => {}
    }
}

/// Takes an order back.
///
/// # Errors
/// `order-unknown`, or why there is nothing to take back.
pub fn cancel(db: &Transaction<'_>, id: OrderId) -> Result<Stored, Trouble> {
    let Some(order) = get(db, id)? else {
        return Err(Trouble::Refused(Issue::new(
            "order-unknown",
            format!("order {id}"),
            "there is no such order",
            "`akene-server orders list` shows them",
        )));
    };
    if !order.state.is_open() {
        let mut issue = over(&order);
        issue.next = "there is nothing to take back".into();
        return Err(Trouble::Refused(issue));
    }
    set(db, id, &State::Cancelled { why: "by the administrator".into() })?;
    Ok(order)
}

/// Uses an order up: this run was given the permission it holds.
pub fn use_up(db: &Transaction<'_>, id: OrderId, run: RunId) -> Result<()> {
    set(db, id, &State::Used)?;
    db.execute("UPDATE orders SET run = ?2 WHERE id = ?1", params![id.to_string(), run.to_string()])
        .context("using up an order")?;
    Ok(())
}

/// A new system has confirmed itself: the order whose permission it was made with is done, and what was ordered
/// before this installation began is over with it. Nobody meant the files of the new system to be wiped.
pub fn run_confirmed(db: &Transaction<'_>, machine: MachineId, run: RunId) -> Result<()> {
    let Some(begun) = runs::get(db, run)?.map(|run| run.created) else { return Ok(()) };
    for order in of_machine(db, machine)? {
        let earlier = order.order.issued < begun;
        let end = match &order.state {
            _ if order.run == Some(run) => State::Done,
            // Its installer went on without the network, as another run.
            State::Used if earlier => State::Done,
            state if state.is_open() && earlier && order.reinstall().is_some() => {
                State::Cancelled { why: "by another installation".into() }
            }
            _ => continue,
        };
        set(db, order.order.id, &end)?;
    }
    Ok(())
}

/// An order as the machine is to see it.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its id.
    pub id: OrderId,
    /// For this machine.
    pub machine: MachineId,
    /// Until when it may be begun.
    pub expires: Timestamp,
    /// What was signed. The machine verifies it; here that would cost a signature an order and change.
    pub envelope: Envelope,
}

/// The open orders of all machines.
pub fn open(db: &rusqlite::Connection) -> Result<Vec<Open>> {
    let mut query = db.prepare_cached(
        "SELECT id, machine, expires, envelope FROM orders WHERE open = 1 AND expires >= ?1 ORDER BY n",
    )?;
    let rows = query
        .query_map([Timestamp::now().as_second()], |row| <(String, String, i64, String)>::try_from(row))?;
    let mut open = Vec::new();
    for row in rows {
        open.extend(readable(read_open(&row.context("reading the open orders")?)));
    }
    Ok(open)
}

fn read_open((id, machine, expires, envelope): &(String, String, i64, String)) -> Result<Open> {
    Ok(Open {
        id: id.parse().map_err(|e: String| anyhow!(e))?,
        machine: machine.parse().map_err(|e: String| anyhow!(e))?,
        expires: Timestamp::from_second(*expires)?,
        envelope: from_json(envelope).with_context(|| format!("reading the open order {id}"))?,
    })
}

/// A number that grows whenever an order changes, in whatever process.
pub fn clock(db: &rusqlite::Connection) -> Result<i64> {
    db.prepare_cached("SELECT n FROM order_clock")?
        .query_row([], |row| row.get(0))
        .context("asking whether orders have changed")
}
