//! The machine's watchdog: what restarts it when nobody can any more.
//!
//! The first process feeds it ([`feed`]), so a kernel that hangs is a machine that restarts, and before the disks were changed
//! that leads into the old system. It stops feeding when the installer has given no sign of life for [`SILENCE`] either: each
//! command it runs has a limit, but a disk that never answers can hold a process for ever.
//!
//! Drivers load by themselves where udev finds their device. Distributions keep some from it; [`find`] asks for the usual
//! ones by name, and for the kernel's own timer (`softdog`) where there is no hardware at all: that one needs a kernel whose
//! interrupts still work.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result};

use crate::report::{Listener, Message};
use crate::sys::kernel;

const DEVICE: &str = "/dev/watchdog";

/// When it is to restart the machine. Long enough for the firmware and GRUB, where it is not stopped by a restart.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often it is fed.
const FED_EVERY: Duration = Duration::from_secs(10);

/// The longest the installer may be silent: longer than the longest command may take (the check of a large filesystem).
const SILENCE: Duration = Duration::from_secs(6 * 3600);

/// Touched by the installer when something happens.
const SIGN: &str = "/run/akene/sign-of-life";

/// Drivers of watchdogs that sit on no device of their own, the usual ones first.
const DRIVERS: [&str; 5] = ["wdat_wdt", "iTCO_wdt", "sp5100_tco", "i6300esb", "softdog"];

/// Makes sure that there is a watchdog, with the drivers the image has.
pub fn find(runner: &dyn Runner) -> Result<()> {
    for driver in DRIVERS {
        if Path::new(DEVICE).exists() {
            return Ok(());
        }
        // Most machines have one of them at most.
        runner.run(&Cmd::new("modprobe").args(["--quiet", driver]).timeout(Duration::from_secs(30))).ok();
        super::devices::settle(runner)?;
    }
    anyhow::ensure!(Path::new(DEVICE).exists(), "the machine has none, and the kernel's own does not load");
    Ok(())
}

/// Feeds the watchdog for as long as this process lives and the installer gives signs of life. Waits for it to appear.
pub(super) fn feed() {
    let mut device = loop {
        if let Ok(device) = OpenOptions::new().write(true).open(DEVICE) {
            break device;
        }
        std::thread::sleep(FED_EVERY);
    };
    // One that only knows its own time is fed all the same.
    kernel::set_watchdog_timeout(&device, TIMEOUT).ok();
    let mut silence = Silence { sign: None, since: Instant::now() };
    while silence.so_far(sign(), Instant::now()) < SILENCE {
        device.write_all(b"fed").ok();
        std::thread::sleep(FED_EVERY);
    }
    // Kept open and hungry.
    std::mem::forget(device);
}

/// When the last sign was given.
fn sign() -> Option<SystemTime> {
    std::fs::metadata(SIGN).and_then(|file| file.modified()).ok()
}

/// How long there was no sign. The time of a sign is only compared with the one before: the clock is set in between.
struct Silence {
    sign: Option<SystemTime>,
    since: Instant,
}

impl Silence {
    fn so_far(&mut self, sign: Option<SystemTime>, now: Instant) -> Duration {
        if sign != self.sign {
            *self = Silence { sign, since: now };
        }
        now - self.since
    }
}

/// Tells the first process that the installer lives.
pub struct Signs(File);

impl Signs {
    /// Begins with a sign.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new() -> Result<Signs> {
        Ok(Signs(File::create(SIGN).with_context(|| format!("making {SIGN}"))?))
    }

    /// Gives one.
    ///
    /// # Errors
    /// When the file cannot be touched.
    pub fn give(&self) -> Result<()> {
        self.0.set_modified(SystemTime::now()).context("giving a sign of life")
    }
}

impl Listener for Signs {
    fn message(&mut self, _: &Message) -> Result<()> {
        self.give()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::RecordingRunner;

    #[test]
    fn silence_is_told_from_a_clock_that_was_set() {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let begun = Instant::now();
        let mut silence = Silence { sign: None, since: begun };
        assert_eq!(silence.so_far(None, begun + hours(1)), hours(1));
        let battery_is_empty = SystemTime::UNIX_EPOCH + hours(24 * 3650);
        assert_eq!(silence.so_far(Some(battery_is_empty), begun + hours(2)), Duration::ZERO);
        // The clock was set, the file is what it was.
        assert_eq!(silence.so_far(Some(battery_is_empty), begun + hours(3)), hours(1));
        assert_eq!(silence.so_far(Some(SystemTime::now()), begun + hours(4)), Duration::ZERO);
        // Or back.
        assert_eq!(silence.so_far(Some(battery_is_empty), begun + hours(5)), Duration::ZERO);
        assert!(silence.so_far(Some(battery_is_empty), begun + hours(12)) > SILENCE);
    }

    #[test]
    fn the_kernels_own_is_the_last_resort() {
        if Path::new(DEVICE).exists() {
            eprintln!("SKIPPED: this machine has a watchdog");
            return;
        }
        let runner = RecordingRunner::default();
        assert!(find(&runner).unwrap_err().to_string().contains("does not load"));
        let calls: Vec<_> = runner.calls().into_iter().filter(|c| c[0] == "modprobe").collect();
        assert_eq!(calls.len(), DRIVERS.len());
        assert_eq!(calls.last().unwrap()[2], "softdog");
    }
}
