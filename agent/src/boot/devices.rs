//! Devices: udev, coldplug, compressed swap.

use std::fs;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result, bail};
use nix::mount::MsFlags;

use crate::sys::kernel;

/// Where udev's daemon is found: both names of one file on systems with a merged `/usr`, but not on all.
const UDEVD: [&str; 3] = ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/usr/sbin/udevd"];

/// A slow disk or a USB stick with a bad contact delays coldplug; it must not prevent the installation.
const SETTLE: Duration = Duration::from_secs(60);

/// Compressed swap is made on machines with less memory than this.
const SMALL_MEMORY: u64 = 1536 << 20;

/// Starts udev and loads the drivers of all devices that are there.
pub fn start(runner: &dyn Runner) -> Result<()> {
    let Some(daemon) = UDEVD.iter().find(|path| Path::new(path).exists()) else {
        bail!("the live system has no udev");
    };
    runner.run(&Cmd::new(daemon).arg("--daemon").timeout(Duration::from_secs(30)))?;
    for kind in ["subsystems", "devices"] {
        let trigger = Cmd::new("udevadm").arg("trigger").arg(format!("--type={kind}")).arg("--action=add");
        runner.run(&trigger.timeout(SETTLE))?;
    }
    settle(runner)
}

/// Waits until udev has handled what it knows of.
pub fn settle(runner: &dyn Runner) -> Result<()> {
    let settle = Cmd::new("udevadm").arg("settle").arg(format!("--timeout={}", SETTLE.as_secs()));
    runner.run(&settle.timeout(SETTLE + Duration::from_secs(10))).map(drop)
}

/// Shows the firmware's variables: whether Secure Boot is on, what it starts. Elsewhere systemd mounts this.
pub fn firmware_variables(runner: &dyn Runner) -> Result<()> {
    let place = Path::new("/sys/firmware/efi/efivars");
    if !place.exists() {
        // A BIOS, or a firmware that lets nobody at its variables.
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let show = || kernel::mount("efivarfs", place, "efivarfs", flags, "");
    if show().is_ok() {
        return Ok(());
    }
    runner.run(&Cmd::new("modprobe").arg("efivarfs").timeout(Duration::from_secs(30)))?;
    show()
}

/// The machine's memory in bytes.
pub fn memory_bytes() -> u64 {
    parse_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()).unwrap_or(u64::MAX)
}

/// Whether the machine has so little memory that it swaps while it installs.
pub fn little_memory() -> bool {
    memory_bytes() <= SMALL_MEMORY
}

/// Reads `MemTotal` of `/proc/meminfo`.
fn parse_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// On a machine with little memory, swaps into compressed memory: half of the memory holds about as much
/// again. Everything up to the installed system's own swap has to fit here.
pub fn compressed_swap(memory: u64) -> Result<()> {
    if memory > SMALL_MEMORY {
        return Ok(());
    }
    let runner = akene_exec::SystemRunner;
    runner.run(&Cmd::new("modprobe").arg("zram").timeout(Duration::from_secs(30)))?;
    let set = |file: &str, value: &str| {
        fs::write(Path::new("/sys/block/zram0").join(file), value)
            .with_context(|| format!("writing {value} to zram0/{file}"))
    };
    // Better compression where the kernel has it; the kernel's default otherwise.
    if set("comp_algorithm", "zstd").is_err() && set("comp_algorithm", "lz4").is_err() {
        eprintln!("akene: compressed memory uses the kernel's default algorithm");
    }
    set("disksize", &(memory / 2).to_string())?;
    runner.run(&Cmd::new("mkswap").arg("/dev/zram0").timeout(Duration::from_secs(30)))?;
    runner
        .run(&Cmd::new("swapon").args(["-p", "100", "/dev/zram0"]).timeout(Duration::from_secs(30)))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::RecordingRunner;

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(parse_memory("MemTotal:         502768 kB\nMemFree: 1 kB\n"), Some(502_768 << 10));
        assert_eq!(parse_memory("MemFree: 1 kB\n"), None);
        assert!(memory_bytes() < u64::MAX, "this machine has a /proc/meminfo");
    }

    #[test]
    fn coldplug_is_limited_in_time() {
        let runner = RecordingRunner::default();
        if !UDEVD.iter().any(|p| Path::new(p).exists()) {
            eprintln!("SKIPPED: no udev on this machine");
            return;
        }
        start(&runner).unwrap();
        let calls: Vec<_> = runner.calls().iter().map(|c| c[1..].join(" ")).collect();
        assert_eq!(
            calls,
            [
                "--daemon",
                "trigger --type=subsystems --action=add",
                "trigger --type=devices --action=add",
                "settle --timeout=60"
            ]
        );
    }
}
