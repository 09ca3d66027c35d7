//! Brings events to the server, whenever that is possible.
//!
//! The courier is a thread with a queue. It keeps what is not delivered in memory, and on the disk
//! as soon as it is given a [`Spool`] directory; it sends in batches, in order, and tries again with
//! growing pauses for as long as it lives. Nothing it meets reaches the installation.
//!
//! A server that *refuses* events (a revoked credential, say) is not asked again by this process;
//! what it refused stays in the spool.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use akene_protocol::api::MAX_EVENTS;
use akene_protocol::event::{Event, EventKind};
use anyhow::{Context, Result};

use super::spool::Spool;

/// Events wait this long for others to travel with.
const GATHER: Duration = Duration::from_millis(700);

/// Pause after the first failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// From so many undelivered events on, progress is no longer numbered.
const BEHIND: usize = 2000;

/// Why a batch was not delivered.
#[derive(Debug)]
pub enum Undelivered {
    /// It may work later.
    Later,
    /// The server does not want it, now or later.
    Refused,
}

/// The way to the server.
pub trait Route: Send {
    /// Delivers events, or says why not. Sending an event twice does no harm.
    fn send(&mut self, events: &[Event]) -> Result<(), Undelivered>;
}

enum Order {
    Event(Box<Event>),
    Route(Box<dyn Route>),
    Spool(PathBuf, SyncSender<Result<()>>),
    Release(SyncSender<()>),
    Pending(SyncSender<Vec<Event>>),
    Drain(SyncSender<()>),
}

/// The sending end of the courier's queue. Never blocks but where it says so.
#[derive(Clone)]
pub struct Handle {
    orders: Sender<Order>,
    waiting: Arc<AtomicUsize>,
}

/// Starts a courier that has no way to the server yet.
pub fn start() -> Result<Handle> {
    let (orders, queue) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let courier = Courier {
        queue,
        waiting: waiting.clone(),
        undelivered: VecDeque::new(),
        unspooled: Vec::new(),
        spool: None,
        route: None,
        pause: None,
        not_before: Instant::now(),
        drains: Vec::new(),
    };
    thread::Builder::new()
        .name("courier".into())
        .spawn(move || courier.run())
        .context("starting the thread that sends events")?;
    Ok(Handle { orders, waiting })
}

impl Handle {
    /// An event to deliver.
    pub fn event(&self, event: Event) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.order(Order::Event(Box::new(event)));
    }

    /// From now on there is a way to the server.
    pub fn route(&self, route: impl Route + 'static) {
        self.order(Order::Route(Box::new(route)));
    }

    /// From now on events are kept below `dir` too, beginning with those of this run so far. Returns
    /// when they are there.
    pub fn spool(&self, dir: &Path) -> Result<()> {
        let (answer, answered) = sync_channel(1);
        self.order(Order::Spool(dir.to_owned(), answer));
        answered.recv_timeout(Duration::from_secs(60)).context("waiting for the courier to open its spool")?
    }

    /// Closes the spool, so that what it lies on can be unmounted.
    pub fn release(&self) {
        let (answer, answered) = sync_channel(1);
        self.order(Order::Release(answer));
        // A courier that is stuck in a request answers late; unmounting then reports the open file.
        answered.recv_timeout(Duration::from_secs(60)).ok();
    }

    /// The events nobody has been told yet, in order: with no way to a server, all of the run.
    pub fn pending(&self) -> Result<Vec<Event>> {
        let (answer, answered) = sync_channel(1);
        self.order(Order::Pending(answer));
        answered.recv_timeout(Duration::from_secs(60)).context("waiting for the courier's events")
    }

    /// Waits until everything is delivered, at most `limit`. True when it is, and at once when there
    /// is no way to deliver anything.
    pub fn drain(&self, limit: Duration) -> bool {
        let (answer, answered) = sync_channel(1);
        self.order(Order::Drain(answer));
        answered.recv_timeout(limit).is_ok()
    }

    /// How many events nobody has been told yet.
    pub fn undelivered(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether so much is undelivered that one should say less.
    pub fn is_behind(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > BEHIND
    }

    fn order(&self, order: Order) {
        // The courier ends only with the last handle.
        self.orders.send(order).ok();
    }
}

struct Courier {
    queue: Receiver<Order>,
    waiting: Arc<AtomicUsize>,
    undelivered: VecDeque<Event>,
    /// Everything of the run that no spool holds yet.
    unspooled: Vec<Event>,
    spool: Option<Spool>,
    route: Option<Box<dyn Route>>,
    pause: Option<Duration>,
    not_before: Instant,
    drains: Vec<SyncSender<()>>,
}

impl Courier {
    fn run(mut self) {
        loop {
            let order = if self.undelivered.is_empty() || self.route.is_none() {
                self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.queue.recv_timeout(self.not_before.saturating_duration_since(Instant::now()))
            };
            match order {
                Ok(order) => {
                    self.take(order);
                    while let Ok(order) = self.queue.try_recv() {
                        self.take(order);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.write_spool();
            if Instant::now() >= self.not_before {
                self.deliver();
            }
            if self.undelivered.is_empty() || self.route.is_none() {
                for drained in self.drains.drain(..) {
                    drained.try_send(()).ok();
                }
            }
            self.waiting.store(self.undelivered.len(), Ordering::Relaxed);
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Event(event) => {
                let urgent = !matches!(event.kind, EventKind::Progress { .. } | EventKind::Log { .. });
                let wait = if urgent { Duration::ZERO } else { GATHER };
                if self.undelivered.is_empty() && self.pause.is_none() {
                    self.not_before = Instant::now() + wait;
                } else if urgent && self.pause.is_none() {
                    self.not_before = Instant::now();
                }
                self.unspooled.push((*event).clone());
                self.undelivered.push_back(*event);
            }
            Order::Route(route) => {
                self.route = Some(route);
                self.pause = None;
                self.not_before = Instant::now();
            }
            Order::Spool(dir, answer) => {
                let opened = self.open_spool(&dir);
                answer.try_send(opened).ok();
            }
            Order::Release(answer) => {
                self.write_spool();
                self.spool = None;
                answer.try_send(()).ok();
            }
            Order::Pending(answer) => {
                answer.try_send(self.undelivered.iter().cloned().collect()).ok();
            }
            Order::Drain(answer) => {
                // Somebody waits: no long pause now.
                self.not_before = self.not_before.min(Instant::now() + FIRST_PAUSE);
                if self.pause.is_none() {
                    self.not_before = Instant::now();
                }
                self.drains.push(answer);
            }
        }
    }

    fn open_spool(&mut self, dir: &Path) -> Result<()> {
        let run = self.unspooled.first().or(self.undelivered.front()).map(|e| e.run);
        let run = run.context("spooling events before there are any")?;
        let mut spool = Spool::open(dir, run)?;
        spool.append(&self.unspooled)?;
        self.unspooled.clear();
        let acked = match self.undelivered.front() {
            Some(event) => event.seq - 1,
            None => spool.last(),
        };
        spool.acked(acked)?;
        self.spool = Some(spool);
        Ok(())
    }

    /// Puts new events on the disk. A disk that takes no more is given up; delivery goes on.
    fn write_spool(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        if self.unspooled.is_empty() {
            return;
        }
        if spool.append(&self.unspooled).is_err() {
            self.spool = None;
        }
        self.unspooled.clear();
    }

    fn deliver(&mut self) {
        let Some(route) = &mut self.route else { return };
        while !self.undelivered.is_empty() {
            let n = self.undelivered.len().min(MAX_EVENTS);
            let batch = &self.undelivered.make_contiguous()[..n];
            let last = batch.last().map_or(0, |e| e.seq);
            match route.send(batch) {
                Ok(()) => {
                    self.pause = None;
                    self.undelivered.drain(..n);
                    if self.spool.as_mut().is_some_and(|s| s.acked(last).is_err()) {
                        self.spool = None;
                    }
                }
                Err(Undelivered::Later) => {
                    let pause = self.pause.map_or(FIRST_PAUSE, |p| (p * 2).min(LONGEST_PAUSE));
                    self.pause = Some(pause);
                    let wait = if self.drains.is_empty() { jitter(pause) } else { FIRST_PAUSE };
                    self.not_before = Instant::now() + wait;
                    return;
                }
                Err(Undelivered::Refused) => {
                    self.route = None;
                    return;
                }
            }
        }
    }
}

/// Between three quarters and five quarters of a pause, so that forty machines that lost the same
/// server do not come back in the same second.
pub(crate) fn jitter(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without randomness the pause is simply the same everywhere.
    getrandom::fill(&mut byte).ok();
    pause.mul_f64(0.75 + f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::super::spool::tests::event;
    use super::*;
    use akene_protocol::event::RunId;
    use std::sync::Mutex;

    const RUN: RunId = RunId([9; 8]);

    /// A server that can be switched off.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<(bool, Vec<u64>)>>);
    impl Route for Server {
        fn send(&mut self, events: &[Event]) -> Result<(), Undelivered> {
            let mut state = self.0.lock().unwrap();
            if !state.0 {
                return Err(Undelivered::Later);
            }
            for event in events {
                if !state.1.contains(&event.seq) {
                    state.1.push(event.seq);
                }
            }
            Ok(())
        }
    }
    impl Server {
        fn up(&self, up: bool) {
            self.0.lock().unwrap().0 = up;
        }
        fn seen(&self) -> Vec<u64> {
            self.0.lock().unwrap().1.clone()
        }
    }

    #[test]
    fn events_wait_for_a_server_and_arrive_in_order() {
        let (server, courier) = (Server::default(), start().unwrap());
        (1..=3).for_each(|n| courier.event(event(RUN, n)));
        assert!(courier.drain(Duration::from_secs(60)), "with no way to a server nobody waits");
        courier.route(server.clone());
        assert!(!courier.drain(Duration::from_millis(300)), "the server is down");
        assert_eq!(courier.pending().unwrap().iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
        server.up(true);
        assert!(courier.drain(Duration::from_secs(60)));
        assert_eq!(server.seen(), [1, 2, 3]);
        assert!(courier.pending().unwrap().is_empty());
    }

    #[test]
    fn what_a_dead_server_missed_is_on_the_disk_and_only_that() {
        let dir = tempfile::tempdir().unwrap();
        let (server, courier) = (Server::default(), start().unwrap());
        server.up(true);
        courier.route(server.clone());
        (1..=2).for_each(|n| courier.event(event(RUN, n)));
        assert!(courier.drain(Duration::from_secs(60)));
        courier.spool(dir.path()).unwrap();
        server.up(false);
        (3..=5).for_each(|n| courier.event(event(RUN, n)));
        assert!(!courier.drain(Duration::from_millis(300)));
        courier.release();
        drop(courier);
        let spool = Spool::open(dir.path(), RUN).unwrap();
        let pending: Vec<u64> = spool.pending().unwrap().iter().map(|e| e.seq).collect();
        assert_eq!((server.seen(), pending, spool.last()), (vec![1, 2], vec![3, 4, 5], 5));
        assert!(spool.holds(|e| e.seq == 1).unwrap(), "the whole run is kept until it is over");
    }

    #[test]
    fn a_refusal_ends_the_asking_but_not_the_keeping() {
        struct Refuses;
        impl Route for Refuses {
            fn send(&mut self, _: &[Event]) -> Result<(), Undelivered> {
                Err(Undelivered::Refused)
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let courier = start().unwrap();
        courier.event(event(RUN, 1));
        courier.spool(dir.path()).unwrap();
        courier.route(Refuses);
        assert!(courier.drain(Duration::from_secs(60)));
        courier.event(event(RUN, 2));
        courier.release();
        assert_eq!(Spool::open(dir.path(), RUN).unwrap().pending().unwrap().len(), 2);
    }
}
