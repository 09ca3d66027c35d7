//! The system clock and the battery-backed clock chip.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

/// `struct rtc_time` of the kernel.
#[repr(C)]
struct RtcTime {
    seconds: i32,
    minutes: i32,
    hours: i32,
    day: i32,
    /// January is 0.
    month: i32,
    /// Since 1900.
    year: i32,
    weekday: i32,
    day_of_year: i32,
    summer_time: i32,
}

/// The bare requests.
mod raw {
    nix::ioctl_write_ptr!(rtc_set_time, b'p', 0x0a, super::RtcTime);
}

/// Sets the system clock.
pub fn set_system_clock(to: Timestamp) -> Result<()> {
    let time = TimeSpec::new(to.as_second(), to.subsec_nanosecond().into());
    clock_settime(ClockId::CLOCK_REALTIME, time).with_context(|| format!("setting the system clock to {to}"))
}

/// Whether anything (a time server) keeps the system clock right, as far as the kernel was told.
#[expect(unsafe_code, reason = "no safe wrapper exists")]
pub fn is_synchronised() -> bool {
    // SAFETY: all zeros is a valid `timex`, in which no mode asks for a change; it outlives the call.
    let state = unsafe {
        let mut timex: nix::libc::timex = std::mem::zeroed();
        nix::libc::adjtimex(&mut timex)
    };
    state != -1 && state != nix::libc::TIME_ERROR
}

/// Time since the kernel started, which no clock change disturbs.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn rtc_time(at: Timestamp) -> RtcTime {
    let utc = at.to_zoned(TimeZone::UTC);
    RtcTime {
        seconds: utc.second().into(),
        minutes: utc.minute().into(),
        hours: utc.hour().into(),
        day: utc.day().into(),
        month: i32::from(utc.month()) - 1,
        year: i32::from(utc.year()) - 1900,
        weekday: utc.weekday().to_sunday_zero_offset().into(),
        day_of_year: i32::from(utc.day_of_year()) - 1,
        summer_time: 0,
    }
}

/// Writes the clock chip, in UTC, so that the installed system starts with the right time even before it
/// has a network.
#[expect(unsafe_code, reason = "an ioctl")]
pub fn set_clock_chip(device: &Path, to: Timestamp) -> Result<()> {
    let chip = File::open(device).with_context(|| format!("opening {}", device.display()))?;
    let time = rtc_time(to);
    // SAFETY: the structure has the kernel's layout and outlives the call; the descriptor is open.
    unsafe { raw::rtc_set_time(chip.as_raw_fd(), &time) }
        .map(drop)
        .with_context(|| format!("writing {to} to {}", device.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chip_counts_months_from_zero_and_years_from_1900() {
        let t = rtc_time("2026-03-01T04:05:06Z".parse().unwrap());
        assert_eq!((t.year, t.month, t.day), (126, 2, 1));
        assert_eq!((t.hours, t.minutes, t.seconds), (4, 5, 6));
        assert_eq!((t.weekday, t.day_of_year), (0, 59));
    }
}
