//! The clock, before orders are judged by it.
//!
//! Orders speak of times: until when they count, when to begin. A machine whose battery is dead and whom no time server reaches
//! may be years ahead; it would refuse every order as expired, and begin at once what was meant for the night. The server
//! that gives an order has proved who it is, and its time counts where no time server keeps the clock.

use anyhow::Result;
use jiff::Timestamp;

use crate::net::clock::{Clock, Heard, mend};

/// Sets the clock by the server's, unless a time server keeps it. Gives what was done, for the log, where the clock was wrong.
///
/// # Errors
/// The server does not say, or the clock cannot be set.
pub(super) fn settle(
    clock: &dyn Clock,
    synchronised: bool,
    server: impl FnOnce() -> Result<Timestamp>,
) -> Result<Option<String>> {
    if synchronised {
        return Ok(None);
    }
    let now = server()?;
    // Nobody else is asked: what it says is not weighed against when something was built.
    let mended = mend(clock, now, &Heard { server: Some(now), ..Heard::default() })?;
    let moved = mended.after.duration_since(mended.before).abs() > jiff::SignedDuration::from_secs(5);
    Ok(moved.then(|| mended.describe()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::net::clock::TestClock;

    fn kept(now: Timestamp) -> TestClock {
        TestClock { now: Cell::new(now), remembered: Cell::new(0), battery: true }
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_set_by_the_server_and_any_other_is_left_alone() {
        let right: Timestamp = "2026-11-22T05:00:00Z".parse().unwrap();
        for wrong in ["2031-01-01T00:00:00Z", "1980-01-01T00:00:00Z", "2026-11-22T06:00:00Z"] {
            let clock = kept(wrong.parse().unwrap());
            let never = || -> Result<Timestamp> { panic!("the server was asked") };
            assert_eq!(settle(&clock, true, never).unwrap(), None);
            assert_eq!(clock.now(), wrong.parse().unwrap());
            let said = settle(&clock, false, || Ok(right)).unwrap().unwrap();
            assert!(said.contains("the site's server"), "{said}");
            assert_eq!((clock.now(), clock.remembered.get()), (right, 1), "{wrong}");
        }
        let clock = kept(right);
        assert_eq!(settle(&clock, false, || Ok(right)).unwrap(), None);
        assert!(settle(&clock, false, || anyhow::bail!("no answer")).is_err() && clock.remembered.get() == 0);
    }
}
