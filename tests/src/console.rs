//! Reading a machine's serial console: waiting for words, never for time.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How much of what was said an error repeats.
const TAIL: usize = 3000;

/// One side of a serial line.
pub struct Console {
    input: Box<dyn Write + Send>,
    chunks: Receiver<Vec<u8>>,
    /// Everything said so far, without escape sequences.
    text: String,
    /// Up to where somebody has waited for something.
    seen: usize,
    filter: EscapeFilter,
    log: PathBuf,
}

impl Console {
    /// Reads from `output` in a thread of its own; keeps everything in the file `log`, and shows it on
    /// our standard output too if `shown`.
    pub fn new(
        input: impl Write + Send + 'static,
        mut output: impl Read + Send + 'static,
        log: &Path,
        shown: bool,
    ) -> Result<Self> {
        let mut file = File::create(log).with_context(|| format!("making {}", log.display()))?;
        let (sender, chunks) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                // The log is a help for people; a full disk must not look like a silent machine.
                file.write_all(&buffer[..n]).ok();
                if shown {
                    let mut out = std::io::stdout();
                    out.write_all(&buffer[..n]).and_then(|()| out.flush()).ok();
                }
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let (text, filter) = (String::new(), EscapeFilter::default());
        Ok(Console { input: Box::new(input), chunks, text, seen: 0, filter, log: log.to_owned() })
    }

    /// Waits until one of `words` is said after what was waited for before, and tells which.
    ///
    /// # Errors
    /// After `limit`, or when the machine ends, with the last lines it wrote.
    pub fn expect_any(&mut self, words: &[&str], limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        loop {
            let rest = &self.text[self.seen..];
            let first =
                words.iter().enumerate().filter_map(|(i, w)| Some((rest.find(w)? + w.len(), i))).min();
            if let Some((end, which)) = first {
                self.seen += end;
                return Ok(which);
            }
            match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.filter.push(&bytes, &mut self.text),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "the console did not say {words:?} within {} s; {}",
                        limit.as_secs(),
                        self.last_words()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the machine ended before it said {words:?}; {}", self.last_words())
                }
            }
        }
    }

    /// Waits until `word` is said.
    pub fn expect(&mut self, word: &str, limit: Duration) -> Result<()> {
        self.expect_any(&[word], limit).map(|_| ())
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.press(&format!("{line}\r"))
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.input
            .write_all(keys.as_bytes())
            .and_then(|()| self.input.flush())
            .with_context(|| format!("typing {keys:?} on the console"))
    }

    /// Everything said so far.
    pub fn text(&mut self) -> &str {
        while let Ok(bytes) = self.chunks.try_recv() {
            self.filter.push(&bytes, &mut self.text);
        }
        &self.text
    }

    fn last_words(&self) -> String {
        let long = self.text.len().saturating_sub(TAIL);
        let start = (long..self.text.len()).find(|i| self.text.is_char_boundary(*i)).unwrap_or(0);
        format!("its last words (all of them are in {}):\n{}", self.log.display(), &self.text[start..])
    }
}

/// Drops the escape sequences terminals are driven with, across chunk borders.
#[derive(Default)]
struct EscapeFilter {
    state: Escape,
    /// Bytes of a character that has not ended yet.
    open: Vec<u8>,
}

#[derive(Default, PartialEq)]
enum Escape {
    #[default]
    None,
    Begun,
    Control,
}

impl EscapeFilter {
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        for &byte in bytes {
            self.state = match (&self.state, byte) {
                (_, 0x1b) => Escape::Begun,
                (Escape::Begun, b'[') => Escape::Control,
                (Escape::Begun, _) => Escape::None,
                (Escape::Control, 0x40..=0x7e) => Escape::None,
                (Escape::Control, _) => Escape::Control,
                (Escape::None, _) => {
                    if byte != b'\r' && byte != 0 {
                        self.open.push(byte);
                    }
                    Escape::None
                }
            };
        }
        let valid = match std::str::from_utf8(&self.open) {
            Ok(_) => self.open.len(),
            // Unfinished at the end: wait for the rest. Otherwise it is no text at all.
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => self.open.len(),
        };
        text.push_str(&String::from_utf8_lossy(&self.open[..valid]));
        self.open.drain(..valid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_in_order_and_without_escapes() {
        let dir = tempfile::tempdir().unwrap();
        let said = "\x1b[2Jone \x1b[1;31mt\u{e9}\x1b[0mwo\r\nthree".as_bytes();
        let mut console = Console::new(std::io::sink(), said, &dir.path().join("log"), false).unwrap();
        let soon = Duration::from_secs(5);
        console.expect("t\u{e9}wo\n", soon).unwrap();
        assert_eq!(console.expect_any(&["one", "three"], soon).unwrap(), 1);
        let error = console.expect("four", soon).unwrap_err().to_string();
        assert!(error.contains("ended before it said [\"four\"]") && error.contains("three"), "{error}");
    }

    #[test]
    fn a_character_cut_in_two_arrives_whole() {
        let (mut filter, mut text) = (EscapeFilter::default(), String::new());
        filter.push(b"a\xc3", &mut text);
        filter.push(b"\xa9\x1b[", &mut text);
        filter.push(b"31mb", &mut text);
        assert_eq!(text, "a\u{e9}b");
    }
}
