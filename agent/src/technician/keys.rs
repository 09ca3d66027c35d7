//! From the bytes of a console to keys.
//!
//! A keyboard at a Linux console, a serial terminal and a barcode scanner all send bytes; what is more than a character begins with
//! Escape. Escape itself is the only thing that time decides: it is the key when nothing follows for a moment
//! ([`Decoder::pause`]). Whatever is not understood is swallowed, so that a noisy line presses no keys.
//!
//! Sequences are those of the Linux console (`console_codes(4)`), the VT100 and VT220, and xterm.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those on the keys")]
pub enum Key {
    /// A character that is no control character.
    Char(char),
    Enter,
    Tab,
    BackTab,
    Esc,
    Backspace,
    Delete,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    /// A function key, from 1.
    F(u8),
    /// With Ctrl, a lower-case letter.
    Ctrl(char),
}

/// Longer sequences are noise.
const LONGEST: usize = 16;

/// Turns bytes into keys, however they are cut into pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a sequence or of a character.
    pending: Vec<u8>,
    /// The byte before was a carriage return: a line feed after it belongs to it.
    returned: bool,
}

impl Decoder {
    /// Keys that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        for byte in bytes {
            self.byte(*byte, &mut keys);
        }
        keys
    }

    /// Whether more is to come, if it comes soon.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nothing came for a moment: what began as a sequence was the Escape key, or noise.
    pub fn pause(&mut self) -> Option<Key> {
        let pending = std::mem::take(&mut self.pending);
        (pending == [ESC]).then_some(Key::Esc)
    }

    fn byte(&mut self, byte: u8, keys: &mut Vec<Key>) {
        let after_return = std::mem::take(&mut self.returned);
        match self.pending.first() {
            Some(&ESC) => self.in_sequence(byte, keys),
            Some(_) => self.in_character(byte, keys),
            None => match byte {
                ESC | 0xc2..=0xf4 => self.pending.push(byte),
                b'\r' => {
                    self.returned = true;
                    keys.push(Key::Enter);
                }
                b'\n' if after_return => {}
                b'\n' => keys.push(Key::Enter),
                b'\t' => keys.push(Key::Tab),
                0x08 | 0x7f => keys.push(Key::Backspace),
                1..=26 => keys.push(Key::Ctrl((b'a' + byte - 1) as char)),
                0x20..=0x7e => keys.push(Key::Char(byte as char)),
                _ => {}
            },
        }
    }

    fn in_character(&mut self, byte: u8, keys: &mut Vec<Key>) {
        if !(0x80..=0xbf).contains(&byte) {
            // The line dropped a byte: what came is noise, this one is new.
            self.pending.clear();
            return self.byte(byte, keys);
        }
        self.pending.push(byte);
        let whole = match self.pending[0] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            _ => 4,
        };
        if self.pending.len() == whole {
            let text = std::mem::take(&mut self.pending);
            let character = std::str::from_utf8(&text).ok().and_then(|text| text.chars().next());
            keys.extend(character.filter(|c| !c.is_control()).map(Key::Char));
        }
    }

    fn in_sequence(&mut self, byte: u8, keys: &mut Vec<Key>) {
        if byte < 0x20 || byte == 0x7f || self.pending.len() >= LONGEST {
            // No sequence has such a byte in it: Escape was a key of its own if it stood alone.
            keys.extend(self.pause());
            return self.byte(byte, keys);
        }
        self.pending.push(byte);
        let complete = match self.pending[1..] {
            // What a key sends with Alt is of no use here.
            [first] => !matches!(first, b'[' | b'O'),
            // Function keys of the Linux console: ESC [ [ A.
            [b'[', b'['] => false,
            [b'[', .., last] => (0x40..=0x7e).contains(&last),
            _ => true,
        };
        if complete {
            let sequence = std::mem::take(&mut self.pending);
            keys.extend(known(&sequence[1..]));
        }
    }
}

const ESC: u8 = 0x1b;

/// The key of a sequence without its Escape.
fn known(sequence: &[u8]) -> Option<Key> {
    Some(match sequence {
        [b'[', b'[', f @ b'A'..=b'E'] => Key::F(f - b'A' + 1),
        [b'O', f @ b'P'..=b'S'] => Key::F(f - b'P' + 1),
        [b'[', parameters @ .., b'~'] => match number(parameters)? {
            1 | 7 => Key::Home,
            3 => Key::Delete,
            4 | 8 => Key::End,
            5 => Key::PageUp,
            6 => Key::PageDown,
            n @ 11..=15 => Key::F(n - 10),
            n @ 17..=21 => Key::F(n - 11),
            n @ 23..=24 => Key::F(n - 12),
            _ => return None,
        },
        // With Shift or Ctrl there are parameters before the letter: ESC [ 1 ; 5 A.
        [b'[', .., letter] | [b'O', letter] => match letter {
            b'A' => Key::Up,
            b'B' => Key::Down,
            b'C' => Key::Right,
            b'D' => Key::Left,
            b'H' => Key::Home,
            b'F' => Key::End,
            b'Z' => Key::BackTab,
            // The keypad's Enter in application mode.
            b'M' if sequence[0] == b'O' => Key::Enter,
            f @ b'P'..=b'S' => Key::F(f - b'P' + 1),
            _ => return None,
        },
        _ => return None,
    })
}

/// The first parameter.
fn number(parameters: &[u8]) -> Option<u8> {
    std::str::from_utf8(parameters.split(|b| *b == b';').next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        let mut keys = decoder.feed(bytes);
        keys.extend(decoder.pause());
        keys
    }

    #[test]
    fn every_terminal_s_keys_are_known() {
        let table: &[(&[u8], Key)] = &[
            (b"a", Key::Char('a')),
            ("é".as_bytes(), Key::Char('é')),
            ("€".as_bytes(), Key::Char('€')),
            (b"\r", Key::Enter),
            (b"\n", Key::Enter),
            (b"\r\n", Key::Enter),
            (b"\x1bOM", Key::Enter),
            (b"\t", Key::Tab),
            (b"\x1b[Z", Key::BackTab),
            (b"\x1b", Key::Esc),
            (b"\x7f", Key::Backspace),
            (b"\x08", Key::Backspace),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[C", Key::Right),
            (b"\x1bOD", Key::Left),
            (b"\x1b[1;5D", Key::Left),
            (b"\x1b[1~", Key::Home),
            (b"\x1b[H", Key::Home),
            (b"\x1b[4~", Key::End),
            (b"\x1bOF", Key::End),
            (b"\x1b[3~", Key::Delete),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6~", Key::PageDown),
            // F1 of the Linux console, the VT100, xterm; F6, F10 and F12.
            (b"\x1b[[A", Key::F(1)),
            (b"\x1bOP", Key::F(1)),
            (b"\x1b[11~", Key::F(1)),
            (b"\x1b[17~", Key::F(6)),
            (b"\x1b[21~", Key::F(10)),
            (b"\x1b[24~", Key::F(12)),
            (b"\x0c", Key::Ctrl('l')),
            (b"\x03", Key::Ctrl('c')),
        ];
        for (bytes, key) in table {
            assert_eq!(keys(bytes), [*key], "{bytes:?}");
        }
    }

    #[test]
    fn escape_is_told_from_a_sequence_by_time_alone() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(b"\x1b"), []);
        assert!(decoder.waits());
        assert_eq!(decoder.feed(b"[A"), [Key::Up]);
        assert_eq!(decoder.pause(), None);
        assert_eq!(decoder.feed(b"\x1b"), []);
        assert_eq!(decoder.pause(), Some(Key::Esc));
        assert_eq!(decoder.feed(b"[A"), [Key::Char('['), Key::Char('A')]);
        // Twice is at least once, and a key after it is not lost.
        assert_eq!(keys(b"\x1b\x1b"), [Key::Esc, Key::Esc]);
        assert_eq!(keys(b"\x1b\r"), [Key::Esc, Key::Enter]);
    }

    #[test]
    fn noise_is_swallowed() {
        for noise in [&b"\x1b[200~"[..], b"\x1b[", b"\x1b[12", b"\x1bx", b"\xff\xfe", b"\xc3", b"\x00"] {
            assert_eq!(keys(noise), [], "{noise:?}");
        }
        assert_eq!(keys(b"\xc3a"), [Key::Char('a')]);
        assert_eq!(keys(b"\x1b[1\rb"), [Key::Enter, Key::Char('b')]);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes: Vec<u8>, cut in 0usize..64) {
            let (mut whole, mut pieces) = (Decoder::default(), Decoder::default());
            let cut = cut.min(bytes.len());
            let mut keys = pieces.feed(&bytes[..cut]);
            keys.extend(pieces.feed(&bytes[cut..]));
            prop_assert_eq!(whole.feed(&bytes), keys);
            prop_assert!(whole.pending.len() <= LONGEST);
        }

        #[test]
        fn text_arrives_as_it_was_typed(text in "[ -~à-ÿŒ€]{0,40}") {
            let typed: Vec<Key> = text.chars().map(Key::Char).collect();
            prop_assert_eq!(keys(text.as_bytes()), typed);
        }
    }
}
