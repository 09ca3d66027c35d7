//! Sizes in bytes, written the way people write them.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes.
///
/// In profiles it is a text with a unit (`"6 GiB"`, `"500 MB"`); in documents between programs a
/// plain JSON number of bytes. Both forms are read everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// `n` × 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Bytes(n << 20)
    }

    /// `n` × 1024³ bytes.
    pub const fn gib(n: u64) -> Self {
        Bytes(n << 30)
    }

    /// This size, or zero if `other` is larger.
    pub fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// The largest multiple of `grain` that is not above this size. `grain` must not be zero.
    pub fn align_down(self, grain: Bytes) -> Bytes {
        Bytes(self.0 / grain.0 * grain.0)
    }

    /// The smallest multiple of `grain` that is not below this size. `grain` must not be zero.
    pub fn align_up(self, grain: Bytes) -> Bytes {
        Bytes(self.0.div_ceil(grain.0) * grain.0)
    }
}

// Documents say what sizes they like: a sum that no size can hold is the largest there is, which fits nowhere.
impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl Sub for Bytes {
    type Output = Bytes;
    fn sub(self, other: Bytes) -> Bytes {
        Bytes(self.0 - other.0)
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(iter: I) -> Bytes {
        iter.fold(Bytes(0), Add::add)
    }
}

impl fmt::Display for Bytes {
    /// One decimal in the largest binary unit that leaves at least 1 (`3.7 GiB`); exact multiples
    /// have none (`8 GiB`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = UNITS[..4].iter().copied().find(|(_, s)| self.0 >= *s).unwrap_or(("B", 1));
        if self.0.is_multiple_of(scale) {
            write!(f, "{} {unit}", self.0 / scale)
        } else {
            write!(f, "{:.1} {unit}", self.0 as f64 / scale as f64)
        }
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (text[..split].trim(), text[split..].trim());
        let complain =
            || format!("`{text}` is not a size; write a number and a unit, such as `6 GiB` or `500 MB`");
        let scale = match unit {
            "" => 1,
            _ => UNITS
                .iter()
                .find(|(u, _)| u.eq_ignore_ascii_case(unit))
                .map(|(_, s)| *s)
                .ok_or_else(complain)?,
        };
        // Whole numbers exactly; a fraction through f64 is precise enough for "1.5 GiB".
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(scale),
            Err(_) => number
                .parse::<f64>()
                .ok()
                .map(|n| n * scale as f64)
                .filter(|b| *b < u64::MAX as f64)
                .map(|b| b as u64),
        };
        bytes.map(Bytes).ok_or_else(complain)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"6 GiB\", or a number of bytes")
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Bytes, E> {
                Ok(Bytes(n))
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Bytes, E> {
                u64::try_from(n).map(Bytes).map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A size: a text with a unit (\"6 GiB\", \"500 MB\") or a number of bytes.",
            "anyOf": [
                { "type": "string", "pattern": "^\\s*[0-9]+(\\.[0-9]+)?\\s*([kKMGT]i?B|B)?\\s*$" },
                { "type": "integer", "minimum": 0 }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("6 GiB", 6 << 30),
            ("6GiB", 6 << 30),
            ("500 MB", 500_000_000),
            ("1.5 GiB", 3 << 29),
            ("512", 512),
            ("0", 0),
            (" 2 tib ", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "GiB", "six GiB", "6 Go", "-1 GiB", "1.2.3 GiB", "99999999999999 TiB", "NaN GiB"] {
            let error = text.parse::<Bytes>().unwrap_err();
            assert!(error.contains("such as `6 GiB`"), "{text}: {error}");
        }
    }

    #[test]
    fn a_sum_never_begins_again_at_zero() {
        let most = Bytes(u64::MAX);
        assert_eq!([Bytes(2), most, Bytes(1)].into_iter().sum::<Bytes>(), most);
        let mut sum = most;
        sum += Bytes(1);
        assert_eq!((sum, most + most), (most, most));
    }

    #[test]
    fn shows_one_decimal_at_most() {
        assert_eq!(Bytes::gib(8).to_string(), "8 GiB");
        assert_eq!(Bytes(3_972_844_749).to_string(), "3.7 GiB");
        assert_eq!(Bytes(0).to_string(), "0 B");
    }

    proptest! {
        #[test]
        fn json_round_trips(n in 0..u64::MAX) {
            let json = serde_json::to_string(&Bytes(n)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), Bytes(n));
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _outcome = text.parse::<Bytes>();
        }
    }
}
