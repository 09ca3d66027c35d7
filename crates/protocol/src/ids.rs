//! Identifiers: machine ids, asset numbers, hashes.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest;

/// Serialises a type through its `Display` and `FromStr`, as a JSON string.
macro_rules! as_text {
    ($type:ty, $name:literal, $pattern:literal, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}
pub(crate) use as_text;

/// Decodes exactly `N` bytes of hexadecimal.
pub(crate) fn from_hex<const N: usize>(text: &str, what: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| format!("`{text}` is not {what}: it must be {} hexadecimal digits", N * 2))?;
    Ok(bytes)
}

/// The identity we mint for a machine: 128 random bits, never derived from hardware.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(pub [u8; 16]);

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineId({self})")
    }
}

impl FromStr for MachineId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text, "a machine id").map(MachineId)
    }
}

as_text!(MachineId, "MachineId", "^[0-9a-f]{32}$", "128 random bits, 32 hexadecimal digits.");

/// A SHA-256 sum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The sum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// The sum of all that a reader gives, and how many bytes that were. Memory does not grow with it.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of_reader(mut reader: impl std::io::Read) -> std::io::Result<(Self, u64)> {
        let mut hash = sha2::Sha256::new();
        let length = std::io::copy(&mut reader, &mut hash)?;
        Ok((Sha256(hash.finalize().into()), length))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text, "a SHA-256 sum").map(Sha256)
    }
}

as_text!(Sha256, "Sha256", "^[0-9a-f]{64}$", "A SHA-256 sum in hexadecimal.");

/// The short number a person reads over the phone: a serial number and one check digit, `1042-9`.
///
/// The check digit is the one on every shop article (GTIN): digits from the right weigh 3 and 1 in
/// turn, and the digit brings the sum to a multiple of ten. Labdoo measured that such a digit
/// brings typing errors "nearly down to zero".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetNumber(u32);

impl AssetNumber {
    /// The number with this serial; the check digit follows from it.
    pub fn new(serial: u32) -> Self {
        AssetNumber(serial)
    }

    /// The part before the check digit.
    pub fn serial(self) -> u32 {
        self.0
    }

    /// The check digit, 0 to 9.
    pub fn check_digit(self) -> u32 {
        let (mut rest, mut weight, mut sum) = (self.0, 3, 0);
        while rest > 0 {
            sum += rest % 10 * weight;
            weight = 4 - weight;
            rest /= 10;
        }
        (10 - sum % 10) % 10
    }
}

impl fmt::Display for AssetNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.check_digit())
    }
}

impl FromStr for AssetNumber {
    type Err = String;
    /// Reads `1042-9` or `10429`.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.trim().chars().filter(|c| *c != '-' && *c != ' ').collect();
        let complain = || format!("`{text}` is not an asset number; it looks like 1042-9");
        if digits.len() < 2 || !digits.chars().all(|c| c.is_ascii_digit()) {
            return Err(complain());
        }
        let (serial, check) = digits.split_at(digits.len() - 1);
        let number = AssetNumber(serial.parse().map_err(|_| complain())?);
        if check != number.check_digit().to_string() {
            return Err(format!(
                "`{text}` has a typing error in it: its check digit does not fit; read it again"
            ));
        }
        Ok(number)
    }
}

as_text!(
    AssetNumber,
    "AssetNumber",
    "^[0-9]+-[0-9]$",
    "A serial number and its check digit, such as 1042-9."
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn check_digit_is_the_one_of_gtin() {
        // The EAN-8 codes 9638507-4 and 7351353-7, as every barcode text shows them.
        assert_eq!(AssetNumber::new(9638507).to_string(), "9638507-4");
        assert_eq!(AssetNumber::new(7351353).to_string(), "7351353-7");
        assert_eq!(AssetNumber::new(1042).to_string(), "1042-9");
    }

    proptest! {
        #[test]
        fn asset_numbers_round_trip(serial in 0..1_000_000u32) {
            let number = AssetNumber::new(serial);
            prop_assert_eq!(number.to_string().parse(), Ok(number));
        }

        #[test]
        fn one_wrong_digit_is_noticed(serial in 1000..1_000_000u32, place in 0usize..4, add in 1u32..10) {
            let text = AssetNumber::new(serial).to_string();
            let mut chars: Vec<char> = text.chars().collect();
            let digit = (chars[place].to_digit(10).unwrap() + add) % 10;
            chars[place] = char::from_digit(digit, 10).unwrap();
            let typed: String = chars.into_iter().collect();
            prop_assert!(typed.parse::<AssetNumber>().is_err(), "{} for {}", typed, text);
        }
    }

    #[test]
    fn hashes_round_trip_and_refuse_garbage() {
        let sum = Sha256::of(b"");
        assert_eq!(sum.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(sum.to_string().parse(), Ok(sum));
        let long = vec![7; 100_000];
        assert_eq!(Sha256::of_reader(long.as_slice()).unwrap(), (Sha256::of(&long), 100_000));
        assert!("e3b0".parse::<Sha256>().unwrap_err().contains("64 hexadecimal digits"));
    }
}
