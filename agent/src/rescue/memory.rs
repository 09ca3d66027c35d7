//! Testing the memory.
//!
//! The medium's menu has *Test the memory*, which tests all of it, below any system; Secure Boot refuses that program,
//! which nobody signed. From here a UEFI can be told to start from the medium once more ([`again`]); a BIOS only a person
//! can. What is free now can be tested here as well, by memtester: less than all, but under Secure Boot too.

use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_protocol::inventory::{FirmwareKind, Inventory};
use akene_protocol::{Bytes, Issue};
use anyhow::{Context, Result, bail};

/// What stays free while memory is tested: the live system lives in it.
const LEFT: u64 = 192 << 20;

/// Less is not worth it.
const LEAST: u64 = 16 << 20;

/// A round over 16 GiB takes some hours on an old computer.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What can be done about memory on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Restarting: the firmware is told to start from the medium again.
    RestartByItself,
    /// Restarting, and a person chooses the medium.
    RestartByHand,
    /// The medium's menu has no such test: Secure Boot.
    OnlyHere,
}

/// Which way is open.
pub fn way(machine: &Inventory) -> Way {
    match (machine.firmware.kind, machine.firmware.secure_boot) {
        (_, Some(true)) => Way::OnlyHere,
        (FirmwareKind::Bios, _) => Way::RestartByHand,
        (FirmwareKind::Uefi64 | FirmwareKind::Uefi32, _) => Way::RestartByItself,
    }
}

/// Tells the firmware to start once more what it started this time. False: it did not take it.
pub fn again(runner: &dyn Runner) -> Result<bool> {
    let listed = runner.run(&Cmd::new("efibootmgr")).context("asking the firmware what it started")?.text();
    let Some(current) = value(&listed, "BootCurrent:") else { return Ok(false) };
    runner.run(&Cmd::new("efibootmgr").args(["-q", "-n", current])).context("telling the firmware")?;
    let listed = runner.run(&Cmd::new("efibootmgr")).context("asking the firmware again")?.text();
    Ok(value(&listed, "BootNext:") == Some(current))
}

fn value<'a>(listed: &'a str, key: &str) -> Option<&'a str> {
    let value = listed.lines().find_map(|line| line.strip_prefix(key))?.trim();
    (value.len() == 4 && value.chars().all(|c| c.is_ascii_hexdigit())).then_some(value)
}

/// How much memory can be tested now, from `/proc/meminfo`. `None`: too little.
pub fn free(meminfo: &str) -> Option<Bytes> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let free: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let most = free.checked_mul(1024)?.checked_sub(LEFT)?;
    (most >= LEAST).then_some(Bytes(most / LEAST * LEAST))
}

/// What a test found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Sound,
    /// Memory that does not keep what is written.
    Faulty,
}

/// Tests so much memory once. Each line memtester prints is given to `line`.
///
/// # Errors
/// `no-memory-test`: there is no memtester on this medium, or it could not get the memory.
pub fn test(runner: &dyn Runner, size: Bytes, line: &mut dyn FnMut(&str)) -> Result<Verdict> {
    let cmd = Cmd::new("memtester").arg(format!("{}M", size.0 >> 20)).arg("1").timeout(PATIENCE);
    let tested = runner.run_lines(&cmd, &mut |said| line(&shown(said)));
    let Err(error) = tested else { return Ok(Verdict::Sound) };
    match error.downcast_ref::<ExecError>().map(|e| (e.code, e.how.clone())) {
        // memtester(8): 1 for memory it could not get, 2 for a stuck address line, 4 for any other test.
        Some((Some(code), _)) if code & 6 != 0 => Ok(Verdict::Faulty),
        Some((_, how)) => bail!(Issue::new(
            "no-memory-test",
            "",
            format!("the memory cannot be tested from here: memtester {how}"),
            "start from the medium and choose *Test the memory*",
        )),
        None => Err(error),
    }
}

/// A line as it stands on a screen in the end: memtester draws a turning bar by going back over what it wrote.
fn shown(line: &str) -> String {
    let (mut screen, mut at) = (Vec::new(), 0_usize);
    for c in line.chars() {
        match c {
            '\u{8}' => at = at.saturating_sub(1),
            '\r' => at = 0,
            c => {
                if at < screen.len() {
                    screen[at] = c
                } else {
                    screen.push(c)
                }
                at += 1;
            }
        }
    }
    screen.into_iter().collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::{Output, RecordingRunner};

    #[test]
    fn secure_boot_leaves_only_the_test_from_here() {
        let mut machine = Inventory::unknown(FirmwareKind::Bios);
        assert_eq!(way(&machine), Way::RestartByHand);
        machine.firmware.kind = FirmwareKind::Uefi64;
        machine.firmware.secure_boot = Some(false);
        assert_eq!(way(&machine), Way::RestartByItself);
        machine.firmware.secure_boot = Some(true);
        assert_eq!(way(&machine), Way::OnlyHere);
    }

    #[test]
    fn the_firmware_is_told_to_start_the_medium_once_more_and_asked_whether_it_will() {
        let told = |list: &str| {
            let runner = RecordingRunner::default().answer("efibootmgr", list);
            (again(&runner).unwrap(), runner.calls().len())
        };
        assert_eq!(told("BootCurrent: 0003\nBootNext: 0003\nBootOrder: 0001,0003\n"), (true, 3));
        assert_eq!(told("BootCurrent: 0003\nBootOrder: 0001,0003\n"), (false, 3));
        assert_eq!(told("No BootCurrent\n"), (false, 1));
    }

    #[test]
    fn the_live_system_keeps_its_memory() {
        let free = |kib: u64| free(&format!("MemTotal: 9 kB\nMemAvailable:  {kib} kB\n"));
        assert_eq!(free(1 << 20), Some(Bytes::mib(832)));
        assert_eq!(free(200 << 10), None);
        assert_eq!(free(u64::MAX), None);
        assert_eq!(super::free("MemAvailable: many\n"), None);
    }

    #[test]
    fn a_turning_bar_is_not_shown() {
        let drawn = "  Solid Bits          : setting   1\u{8}\u{8}\u{8}testing   1ok         ";
        assert_eq!(shown("  8-bit Writes : \\\u{8}|\u{8}/\u{8}-\u{8}ok"), "  8-bit Writes : ok");
        assert_eq!(shown("abc\rxy"), "xyc");
        assert_eq!(shown("\u{8}\u{8}a"), "a");
        assert!(shown(drawn).ends_with("testing   1ok"));
    }

    /// Ends as it is told to.
    struct Ends(i32);

    impl Runner for Ends {
        fn run_lines(&self, cmd: &Cmd, line: &mut dyn FnMut(&str)) -> Result<Output> {
            assert_eq!(cmd.argv(), ["memtester", "64M", "1"]);
            line("  Stuck Address       : ok");
            match self.0 {
                0 => Ok(Output::default()),
                code => Err(ExecError {
                    command: cmd.to_string(),
                    code: Some(code),
                    how: format!("exit status: {code}"),
                    tail: String::new(),
                    output: Output::default(),
                }
                .into()),
            }
        }
    }

    #[test]
    fn only_a_test_that_failed_is_a_fault() {
        let mut lines = 0;
        let mut run = |code| test(&Ends(code), Bytes::mib(64), &mut |_| lines += 1);
        assert_eq!(run(0).unwrap(), Verdict::Sound);
        assert_eq!(run(4).unwrap(), Verdict::Faulty);
        assert_eq!(run(6).unwrap(), Verdict::Faulty);
        assert!(run(1).unwrap_err().downcast_ref::<Issue>().is_some_and(|i| i.code == "no-memory-test"));
        assert_eq!(lines, 4);
    }
}
