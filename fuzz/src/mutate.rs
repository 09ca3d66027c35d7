//! The deterministic loop: seeds, changed a little, over and over. No coverage, no luck: the same inputs every time.

/// Numbers parsers stumble over.
const ODD: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// A source of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }
}

/// An input made from one of `seeds`, with one to eight changes.
pub fn mutant(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seeds.get(dice.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=dice.below(8) {
        change(&mut bytes, seeds, dice);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let some = 1 + dice.below(16);
    let end = (at + some).min(bytes.len());
    match dice.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = dice.roll() as u8,
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let piece = bytes[at..end].to_vec();
            let to = dice.below(bytes.len() + 1);
            bytes.splice(to..to, piece.repeat(1 + dice.below(4)));
        }
        // A number, as bytes of either order or as digits.
        5 => {
            let odd = ODD[dice.below(ODD.len())];
            let width = [1, 2, 4, 8][dice.below(4)];
            let mut number = odd.to_le_bytes()[..width].to_vec();
            if dice.below(2) == 0 {
                number.reverse();
            }
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, number);
        }
        6 => {
            // Over the digits that stand there, or between others.
            let digits = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            bytes.splice(at..at + digits, ODD[dice.below(ODD.len())].to_string().into_bytes());
        }
        // The end of another one.
        7 => {
            if let Some(other) = seeds.get(dice.below(seeds.len())) {
                bytes.truncate(at);
                bytes.extend(&other[dice.below(other.len() + 1)..]);
            }
        }
        _ => {
            let piece: Vec<u8> = (0..some).map(|_| dice.roll() as u8).collect();
            bytes.splice(at..at, piece);
        }
    }
}
