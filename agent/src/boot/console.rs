//! Where people may be looking: the screen, and serial lines.
//!
//! The kernel has several consoles at once (`console=tty0 console=ttyS0`), but `/dev/console` is only the
//! last of them. A volunteer looks at the screen, a test or a server room at the serial line; whatever
//! matters goes to all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use akene_protocol::Language;

use crate::report::curtain::Curtain;
use crate::report::words;

/// What kind of thing a console is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// A screen with a keyboard: can be redrawn in place, is fast.
    Screen,
    /// A serial line or a hypervisor's console: plain lines only, maybe into a log file.
    Serial,
}

/// One console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Its device.
    pub path: PathBuf,
    /// Its kind.
    pub kind: ConsoleKind,
    /// Down while somebody talks to a person there.
    pub curtain: Curtain,
}

impl Console {
    /// A console with this device.
    pub fn new(path: impl Into<PathBuf>, kind: ConsoleKind) -> Self {
        Console { path: path.into(), kind, curtain: Curtain::default() }
    }

    /// Opens the device for writing.
    pub fn open(&self) -> std::io::Result<File> {
        // Never become the owner of a terminal by opening it, and never wait for a modem's carrier.
        OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK)
            .open(&self.path)
    }

    /// Whether it is a serial line.
    pub fn is_serial(&self) -> bool {
        self.kind == ConsoleKind::Serial
    }
}

/// All consoles of the running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consoles(pub Vec<Console>);

impl Consoles {
    /// Finds the active consoles that can really be written to.
    pub fn find() -> Self {
        let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let mut consoles = Consoles::parse(&active);
        consoles.0.retain(|console| console.open().is_ok());
        if consoles.0.is_empty() {
            consoles.0.push(Console::new("/dev/console", ConsoleKind::Serial));
        }
        consoles
    }

    /// Reads `/sys/class/tty/console/active`: names separated by blanks, `/dev/console` last.
    pub fn parse(active: &str) -> Self {
        let console = |name: &str| {
            let number = name.strip_prefix("tty").filter(|n| n.chars().all(|c| c.is_ascii_digit()));
            // `tty0` is whichever virtual terminal is in front; ours is the first.
            let path = Path::new("/dev").join(if name == "tty0" { "tty1" } else { name });
            Console::new(path, if number.is_some() { ConsoleKind::Screen } else { ConsoleKind::Serial })
        };
        Consoles(active.split_whitespace().map(console).collect())
    }

    /// The consoles.
    pub fn iter(&self) -> impl Iterator<Item = &Console> {
        self.0.iter()
    }

    /// Writes lines in a language to every console; who reads a serial line in French has maybe no accents. A
    /// console that does not take them is passed over: there is nobody to tell.
    pub fn say(&self, language: Language, text: &str) {
        let lines = text.replace('\n', "\r\n");
        let plain = if language == Language::En { lines.clone() } else { words::ascii(&lines) };
        for console in &self.0 {
            if let Ok(mut device) = console.open() {
                let lines = if console.is_serial() { &plain } else { &lines };
                write_patiently(&mut device, lines.as_bytes());
                write_patiently(&mut device, b"\r\n");
            }
        }
    }
}

/// Writes to a device opened without blocking, but gives a slow serial line the time it needs (115200
/// baud: 11 bytes a millisecond) and gives up on one that takes nothing for a second.
fn write_patiently(device: &mut File, mut bytes: &[u8]) {
    let mut refused = 0;
    while !bytes.is_empty() && refused < 100 {
        match device.write(bytes) {
            Ok(0) => return,
            Ok(n) => {
                bytes = &bytes[n..];
                refused = 0;
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                refused += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_screens_from_lines() {
        let found: Vec<_> = Consoles::parse("tty0 ttyS0 hvc0 tty2\n")
            .0
            .into_iter()
            .map(|c| (c.path.to_str().unwrap().to_owned(), c.kind))
            .collect();
        use ConsoleKind::*;
        assert_eq!(
            found,
            [
                ("/dev/tty1".into(), Screen),
                ("/dev/ttyS0".into(), Serial),
                ("/dev/hvc0".into(), Serial),
                ("/dev/tty2".into(), Screen)
            ]
        );
        assert_eq!(Consoles::parse("\n"), Consoles::default());
    }
}
