//! A console as a terminal: raw mode, bytes in, frames out, and everything as it was on every way out.
//!
//! Reading and writing never wait: a serial line that takes nothing (flow control, nobody at the other end) only shows no frames. Output is
//! what the VT100, the VT220 and the Linux console have in common: cursor addressing, clearing, bold and reverse. No colours.
//!
//! In the shipped program a panic ends the process at once, without unwinding; so a panic hook restores what [`OPEN`] lists.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::termios::{ControlFlags, FlushArg, SetArg, Termios, cfmakeraw, tcflush, tcgetattr, tcsetattr};
use ratatui::Terminal;
use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::Modifier;

use super::dialog::Dialog;
use super::draw::{self, Look};
use super::keys::{Decoder, Key};
use crate::boot::Console;
use crate::sys::terminal;

/// Size of a terminal that does not say.
const USUAL: (u16, u16) = (80, 24);

/// A larger one says nonsense.
const LARGEST: (u16, u16) = (400, 200);

/// How long what is still to be shown is waited for when a console is left.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// UTF-8 (for a Linux console that was left in another mode), no attributes, no wrapping at the right edge, an empty screen.
const BEGIN: &[u8] = b"\x1b%G\x1b[0m\x1b[?7l\x1b[H\x1b[J";

/// No attributes, wrapping, a cursor, an empty screen.
const END: &[u8] = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[H\x1b[J";

/// Consoles in raw mode, for a panic.
static OPEN: Mutex<Vec<Saved>> = Mutex::new(Vec::new());

/// A console as it was found.
struct Saved {
    device: File,
    path: PathBuf,
    settings: Termios,
}

impl Saved {
    /// As well as it can: there is nobody to tell.
    fn restore(&self) {
        (&self.device).write_all(END).ok();
        tcsetattr(&self.device, SetArg::TCSANOW, &self.settings).ok();
    }
}

/// A console in raw mode.
pub struct Tty {
    /// Its device.
    pub path: PathBuf,
    device: File,
    terminal: Terminal<Vt>,
    decoder: Decoder,
    look: Look,
    /// The size of the last frame.
    drawn: Size,
}

impl Tty {
    /// Opens a console and takes away what was typed before there was a question.
    ///
    /// # Errors
    /// When it is no terminal, or there is nothing behind it (a serial port that does not exist).
    pub fn open(console: &Console) -> Result<Tty> {
        let path = console.path.clone();
        let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let settings =
            tcgetattr(&device).with_context(|| format!("asking {} for its mode", path.display()))?;
        let mut raw = settings.clone();
        cfmakeraw(&mut raw);
        raw.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        let saved =
            Saved { device: device.try_clone().context("keeping a console")?, path: path.clone(), settings };
        restore_on_panic();
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).push(saved);
        let look = if console.is_serial() { Look::Serial } else { Look::Screen };
        let backend = Vt::new(device.try_clone().context("keeping a console")?);
        let Ok(terminal) = Terminal::new(backend);
        // From here on it is given back whatever happens.
        let tty = Tty { path, device, terminal, decoder: Decoder::default(), look, drawn: Size::ZERO };
        tcsetattr(&tty.device, SetArg::TCSANOW, &raw)
            .with_context(|| format!("setting the mode of {}", tty.path.display()))?;
        tcflush(&tty.device, FlushArg::TCIFLUSH).ok();
        Ok(tty)
    }

    /// Draws a dialog, or what of it has changed. Where the last frame is still on its way nothing is drawn; ask again. Gives back how far it
    /// can be scrolled.
    pub fn draw(&mut self, dialog: &Dialog) -> Option<usize> {
        if !self.terminal.backend().out.is_empty() {
            return None;
        }
        let mut most = 0;
        let look = self.look;
        let Ok(frame) = self.terminal.draw(|frame| most = draw::draw(dialog, frame, look));
        self.drawn = frame.area.as_size();
        Some(most)
    }

    /// Draws everything anew next time: something else wrote over it.
    pub fn forget(&mut self) {
        let Ok(()) = self.terminal.clear();
    }

    /// Whether the terminal has another size than what was drawn.
    pub fn is_resized(&self) -> bool {
        let Ok(size) = self.terminal.size();
        size != self.drawn
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        !self.terminal.backend().out.is_empty()
    }

    /// Writes what the line takes.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn write(&mut self) -> Result<()> {
        let out = &mut self.terminal.backend_mut().out;
        while !out.is_empty() {
            match self.device.write(out) {
                Ok(0) => break,
                Ok(n) => drop(out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).with_context(|| format!("writing to {}", self.path.display())),
            }
        }
        Ok(())
    }

    /// Keys that arrived.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn read(&mut self) -> Result<Vec<Key>> {
        let mut bytes = [0; 256];
        match self.device.read(&mut bytes) {
            Ok(0) => anyhow::bail!("{} has ended", self.path.display()),
            Ok(n) => Ok(self.decoder.feed(&bytes[..n])),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(vec![]),
            Err(e) => Err(e).with_context(|| format!("reading from {}", self.path.display())),
        }
    }

    /// Whether a sequence has begun: then time decides.
    pub fn waits(&self) -> bool {
        self.decoder.waits()
    }

    /// Nothing came for a moment.
    pub fn pause(&mut self) -> Option<Key> {
        self.decoder.pause()
    }
}

impl AsFd for Tty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let begun = Instant::now();
        while self.has_output() && begun.elapsed() < LAST_BYTES && self.write().is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|saved| saved.path == self.path) {
            open.remove(at).restore();
        }
    }
}

/// From now on a panic restores the consoles first, and then does what it did before.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Whoever panics while it holds the list was about to restore them.
            if let Ok(open) = OPEN.try_lock() {
                open.iter().for_each(Saved::restore);
            }
            before(panic);
        }));
    });
}

/// The backend: frames become bytes, which wait until the line takes them.
struct Vt {
    device: File,
    out: Vec<u8>,
    cursor: Position,
}

impl Vt {
    fn new(device: File) -> Vt {
        Vt { device, out: BEGIN.to_vec(), cursor: Position::ORIGIN }
    }

    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
}

impl Backend for Vt {
    /// Bytes are only collected here.
    type Error = Infallible;

    fn draw<'a, I: Iterator<Item = (u16, u16, &'a Cell)>>(&mut self, content: I) -> Result<(), Infallible> {
        let mut next = None;
        let mut weight = Modifier::empty();
        self.put("\x1b[0m");
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                self.put(&format!("\x1b[{};{}H", y + 1, x + 1));
            }
            if cell.modifier != weight {
                weight = cell.modifier;
                let bold = if weight.contains(Modifier::BOLD) { ";1" } else { "" };
                let reverse = if weight.contains(Modifier::REVERSED) { ";7" } else { "" };
                self.put(&format!("\x1b[0{bold}{reverse}m"));
            }
            self.put(cell.symbol());
            next = Some((x + 1, y));
        }
        self.put("\x1b[0m");
        Ok(())
    }

    fn hide_cursor(&mut self) -> Result<(), Infallible> {
        self.put("\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> Result<(), Infallible> {
        self.put("\x1b[?25h");
        Ok(())
    }

    fn get_cursor_position(&mut self) -> Result<Position, Infallible> {
        Ok(self.cursor)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> Result<(), Infallible> {
        self.cursor = position.into();
        self.put(&format!("\x1b[{};{}H", self.cursor.y + 1, self.cursor.x + 1));
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Infallible> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, region: ClearType) -> Result<(), Infallible> {
        self.put(match region {
            ClearType::All => "\x1b[H\x1b[2J",
            ClearType::AfterCursor => "\x1b[J",
            ClearType::BeforeCursor => "\x1b[1J",
            ClearType::CurrentLine => "\x1b[2K",
            ClearType::UntilNewLine => "\x1b[K",
        });
        Ok(())
    }

    fn size(&self) -> Result<Size, Infallible> {
        let (columns, rows) = terminal::size(&self.device).unwrap_or(USUAL);
        Ok(Size::new(columns.min(LARGEST.0), rows.min(LARGEST.1)))
    }

    fn window_size(&mut self) -> Result<WindowSize, Infallible> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::ZERO })
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        // `Tty::write` does it, when the line takes it.
        Ok(())
    }
}
