//! Somebody at a terminal: a real pty, what it shows as a VT understands it, and keys.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use akene_agent::boot::keyboard::Keyboard;
use akene_agent::boot::{Console, ConsoleKind, Consoles};
use akene_agent::technician::{self, rehearsal::Rehearsal, rehearsal::Wish};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::Language;
use nix::libc::winsize;
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};

/// Longer than anything takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

pub const ENTER: &str = "\r";
pub const ESC: &str = "\x1b";
pub const UP: &str = "\x1b[A";
pub const DOWN: &str = "\x1b[B";
pub const LEFT: &str = "\x1bOD";
pub const F1: &str = "\x1b[[A";

/// How often it rang.
#[derive(Default)]
pub struct Rings(usize);

impl vt100::Callbacks for Rings {
    fn audible_bell(&mut self, _: &mut vt100::Screen) {
        self.0 += 1;
    }
}

pub struct Seat {
    pub console: Console,
    screen: Arc<Mutex<vt100::Parser<Rings>>>,
    keys: File,
    /// Kept open, so that the terminal lives longer than the dialog.
    pub device: File,
}

impl Seat {
    pub fn new(kind: ConsoleKind, (columns, rows): (u16, u16)) -> Seat {
        let size = winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let path: PathBuf = nix::unistd::ttyname(&pty.slave).unwrap();
        // Who says no size has one all the same.
        let (columns, rows) = if rows == 0 { (80, 24) } else { (columns, rows) };
        let screen =
            Arc::new(Mutex::new(vt100::Parser::new_with_callbacks(rows, columns, 0, Rings::default())));
        let (mut output, shown) = (File::from(pty.master.try_clone().unwrap()), screen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..n]);
            }
        });
        Seat { console: Console::new(path, kind), screen, keys: pty.master.into(), device: pty.slave.into() }
    }

    /// One where nobody takes what is shown.
    pub fn stuck() -> Seat {
        let pty = openpty(None, None).unwrap();
        let console = Console::new(nix::unistd::ttyname(&pty.slave).unwrap(), ConsoleKind::Serial);
        let screen = Arc::new(Mutex::new(vt100::Parser::new_with_callbacks(24, 80, 0, Rings::default())));
        Seat { console, screen, keys: pty.master.into(), device: pty.slave.into() }
    }

    /// Gives the window another size.
    pub fn resize(&self, (columns, rows): (u16, u16)) {
        let mut stty = Cmd::new("stty").arg("-F").arg(&self.console.path);
        stty = stty.args(["cols", &columns.to_string(), "rows", &rows.to_string()]);
        // First, so that what is drawn for it finds it.
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        SystemRunner.run(&stty).unwrap();
    }

    pub fn screen() -> Seat {
        Seat::new(ConsoleKind::Screen, (80, 25))
    }

    /// What is shown now.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until it rings.
    pub fn rings(&self) {
        let begun = Instant::now();
        while self.screen.lock().unwrap().callbacks().0 == 0 {
            assert!(begun.elapsed() < PATIENCE, "nothing rings");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_cursor_hidden(&self) -> bool {
        self.screen.lock().unwrap().screen().hide_cursor()
    }

    /// Waits until all of these are shown at once.
    pub fn sees(&self, parts: &[&str]) {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if parts.iter().all(|part| text.contains(part)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{parts:?} is never shown, but\n{text}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn types(&mut self, keys: &str) {
        self.sends(keys.as_bytes());
    }

    pub fn sends(&mut self, bytes: &[u8]) {
        self.keys.write_all(bytes).unwrap();
    }

    /// Types where this is shown.
    pub fn answers(&mut self, question: &str, keys: &[&str]) {
        self.sees(&[question]);
        keys.iter().for_each(|key| self.types(key));
    }

    /// Whether lines are edited and echoed, as when nobody uses the terminal.
    pub fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.device).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits until the terminal is as it was before the dialog.
    pub fn is_given_back(&self) {
        let begun = Instant::now();
        while !(self.is_cooked() && self.text().trim().is_empty() && !self.is_cursor_hidden()) {
            assert!(begun.elapsed() < PATIENCE, "cooked: {}, shown:\n{}", self.is_cooked(), self.text());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A dialog that goes on by itself.
pub struct Talk(Receiver<anyhow::Result<Option<Wish>>>);

impl Talk {
    pub fn begin(seats: &[&Seat], language: Language, rehearsal: Rehearsal) -> Talk {
        let consoles = Consoles(seats.iter().map(|seat| seat.console.clone()).collect());
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut technician = technician::open(&consoles, Keyboard::untouched(), language);
            sender.send(rehearsal.with(&mut technician)).ok();
        });
        Talk(receiver)
    }

    pub fn is_over(&self) -> Option<anyhow::Result<Option<Wish>>> {
        self.0.try_recv().ok()
    }

    /// What the technician wants in the end; `None`: they left.
    pub fn end(self) -> Option<Wish> {
        self.0.recv_timeout(PATIENCE).expect("the dialog does not end").unwrap()
    }
}
