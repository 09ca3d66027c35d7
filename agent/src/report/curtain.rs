//! Who draws on a console: the listeners, or for a while somebody who talks to a person there.
//!
//! While the [`Curtain`] of a console is down, what its listener is told is held back. The first message after it went up is
//! shown after those: a screen is drawn anew, and no line of a log is missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Listener, Message};

/// How long a listener that is just drawing is waited for. One that hangs (a serial line with flow control) draws nothing more.
const PATIENCE: Duration = Duration::from_secs(1);

/// Messages held back at most; the oldest go first. The log has them all.
const HELD: usize = 500;

/// The curtain of one console. Cheap to clone: all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Curtain(Arc<State>);

#[derive(Debug, Default)]
struct State {
    down: AtomicBool,
    /// Held by the listener while it draws.
    drawing: Mutex<()>,
}

impl PartialEq for Curtain {
    fn eq(&self, other: &Curtain) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Curtain {}

impl Curtain {
    /// From now on, and until [`Curtain::raise`], the listener is silent.
    pub fn lower(&self) {
        self.0.down.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        while matches!(self.0.drawing.try_lock(), Err(TryLockError::WouldBlock)) && begun.elapsed() < PATIENCE
        {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The listener shows what it was told meanwhile, and goes on.
    pub fn raise(&self) {
        self.0.down.store(false, Ordering::SeqCst);
    }

    /// The right to draw, as long as it is kept. `None`: the curtain is down.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = self.0.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.0.down.load(Ordering::SeqCst)).then_some(turn)
    }
}

/// A listener behind a curtain.
pub struct Behind<L> {
    curtain: Curtain,
    listener: L,
    held: Vec<Message>,
}

impl<L: Listener> Behind<L> {
    /// Puts a listener behind a curtain.
    pub fn new(curtain: Curtain, listener: L) -> Self {
        Behind { curtain, listener, held: Vec::new() }
    }
}

impl<L: Listener> Listener for Behind<L> {
    fn message(&mut self, message: &Message) -> Result<()> {
        let Some(_turn) = self.curtain.turn() else {
            if !matches!(message, Message::Tick(_)) {
                self.held.push(message.clone());
            }
            if self.held.len() > HELD {
                self.held.remove(0);
            }
            return Ok(());
        };
        for held in self.held.drain(..) {
            self.listener.message(&held)?;
        }
        self.listener.message(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tape(Arc<Mutex<Vec<String>>>);
    impl Listener for Tape {
        fn message(&mut self, message: &Message) -> Result<()> {
            let Message::Waiting(line) = message else { panic!("{message:?}") };
            self.0.lock().unwrap().push(line.clone());
            Ok(())
        }
    }

    #[test]
    fn nothing_is_drawn_behind_a_curtain_and_all_of_it_afterwards() {
        let (tape, curtain) = (Arc::new(Mutex::new(Vec::new())), Curtain::default());
        let mut behind = Behind::new(curtain.clone(), Tape(tape.clone()));
        let mut say = |line: &str| behind.message(&Message::Waiting(line.into())).unwrap();
        let shown = || tape.lock().unwrap().join(" ");
        say("a");
        curtain.lower();
        say("b");
        say("c");
        assert_eq!(shown(), "a");
        curtain.raise();
        assert_eq!(shown(), "a", "it is the listener's own thread that draws");
        say("d");
        assert_eq!(shown(), "a b c d");
    }

    #[test]
    fn who_lowers_it_waits_for_what_is_being_drawn_but_not_for_ever() {
        let curtain = Curtain::default();
        let turn = curtain.turn().unwrap();
        let lowered = AtomicBool::new(false);
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                curtain.lower();
                lowered.store(true, Ordering::SeqCst);
            });
            thread::sleep(Duration::from_millis(50));
            // Not asked in time, it says nothing.
            assert!(!lowered.load(Ordering::SeqCst) || begun.elapsed() >= PATIENCE);
            // It goes on all the same when this one hangs.
        });
        assert!(lowered.load(Ordering::SeqCst));
        drop(turn);
        assert!(curtain.turn().is_none());
    }
}
