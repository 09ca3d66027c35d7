//! OpenPGP public keys as text: what archives are signed with.
//!
//! Nothing is verified here, the distribution's own `gpgv` or `sqv` does that. But what an administrator pastes
//! is looked at before any machine meets it: that it is a public key at all, and which one. apt takes
//! only the first armoured block of a file, wants an empty line before its content, and says nothing when
//! it finds no key in it; so every key is written out again in one form, [`Keys::armoured`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Packet types of RFC 9580 §5.
const PUBLIC_KEY: u8 = 6;
const PUBLIC_SUBKEY: u8 = 14;
const SECRET: [u8; 2] = [5, 7];

/// One or more public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    binary: Vec<u8>,
    primary: Vec<String>,
    all: Vec<String>,
}

impl Keys {
    /// Reads armoured keys, several blocks one after the other, or the base64 of a binary keyring.
    ///
    /// # Errors
    /// What is wrong, to be put after "this is no public key: ". Nothing of the text is repeated, for it may
    /// be a private key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains("BEGIN PGP PRIVATE KEY") {
            return Err(PRIVATE);
        }
        let binary = match text.contains("-----BEGIN") {
            true => dearmoured(text)?,
            false => crate::profile::decode_base64(text).ok_or("it is neither armoured nor base64")?,
        };
        Self::from_binary(binary)
    }

    /// Reads a binary keyring, as `gpg --export` writes it.
    ///
    /// # Errors
    /// See [`Self::parse`].
    pub fn from_binary(binary: Vec<u8>) -> Result<Self, &'static str> {
        let (mut primary, mut all) = (Vec::new(), Vec::new());
        let mut rest = binary.as_slice();
        while !rest.is_empty() {
            let (kind, body, after) = packet(rest).ok_or("it is damaged")?;
            rest = after;
            if SECRET.contains(&kind) {
                return Err(PRIVATE);
            }
            if all.is_empty() && kind != PUBLIC_KEY {
                return Err("it does not begin with a key");
            }
            if matches!(kind, PUBLIC_KEY | PUBLIC_SUBKEY) {
                let fingerprint = fingerprint(body).ok_or("it is of a kind nobody uses any more")?;
                if kind == PUBLIC_KEY {
                    primary.push(fingerprint.clone());
                }
                all.push(fingerprint);
            }
        }
        match primary.is_empty() {
            true => Err("it is empty"),
            false => Ok(Keys { binary, primary, all }),
        }
    }

    /// Fingerprints of the keys, without their subkeys, in capital hexadecimal digits.
    pub fn fingerprints(&self) -> &[String] {
        &self.primary
    }

    /// Whether one of the keys or subkeys has this fingerprint or key id.
    pub fn has(&self, id: &str) -> bool {
        let id = id.to_ascii_uppercase();
        id.len() >= 8 && self.all.iter().any(|fingerprint| fingerprint.ends_with(&id))
    }

    /// All of them as one armoured block.
    pub fn armoured(&self) -> String {
        let mut text = format!("{BEGIN}\n\n");
        for line in BASE64.encode(&self.binary).as_bytes().chunks(64) {
            text.extend(line.iter().map(|byte| char::from(*byte)));
            text.push('\n');
        }
        let sum = crc24(&self.binary).to_be_bytes();
        text + &format!("={}\n{END}\n", BASE64.encode(&sum[1..]))
    }
}

const PRIVATE: &str = "it is a private key, which never leaves the computer of its owner";

/// The content of all armoured blocks. Checksums are optional in RFC 9580 and left to the packets' own order.
fn dearmoured(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut binary = Vec::new();
    let mut blocks = text.split(BEGIN);
    if !blocks.next().unwrap_or_default().trim().is_empty() {
        return Err("there is something before the armoured block");
    }
    for block in blocks {
        let (body, after) = block.split_once(END).ok_or("its last line is missing")?;
        if !after.trim().is_empty() {
            return Err("there is something after the armoured block");
        }
        let content: String = body
            .lines()
            .map(str::trim)
            // Headers such as `Comment: …`, and the checksum.
            .filter(|line| !line.contains(':') && !line.starts_with('='))
            .collect();
        binary.extend(BASE64.decode(content).map_err(|_| "its content is not base64")?);
    }
    Ok(binary)
}

/// Type, body, and what follows. Lengths that are not known beforehand are never used for keys.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    if tag & 0x80 == 0 {
        return None;
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
    let (kind, length, rest) = if tag & 0x40 != 0 {
        let (first, rest) = rest.split_first()?;
        let first = usize::from(*first);
        let (length, used) = match first {
            0..192 => (first, 0),
            192..224 => (((first - 192) << 8) + usize::from(*rest.first()?) + 192, 1),
            255 => (number(rest.get(..4)?), 4),
            _ => return None,
        };
        (tag & 0x3f, length, &rest[used..])
    } else {
        let used = match tag & 3 {
            0 => 1,
            1 => 2,
            2 => 4,
            _ => return None,
        };
        ((tag >> 2) & 0xf, number(rest.get(..used)?), &rest[used..])
    };
    Some((kind, rest.get(..length)?, &rest[length..]))
}

/// RFC 9580 §5.5.4.
fn fingerprint(body: &[u8]) -> Option<String> {
    let length = body.len() as u32;
    let digest = match body.first()? {
        4 => {
            let mut sum = sha1_smol::Sha1::from([0x99]);
            sum.update(&(length as u16).to_be_bytes());
            sum.update(body);
            sum.digest().bytes().to_vec()
        }
        version @ (5 | 6) => {
            let start = if *version == 5 { 0x9a } else { 0x9b };
            let mut sum = Sha256::new_with_prefix([start]);
            sum.update(length.to_be_bytes());
            sum.update(body);
            sum.finalize().to_vec()
        }
        _ => return None,
    };
    Some(hex::encode_upper(digest))
}

/// RFC 9580 §6.1.1.
fn crc24(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x00b7_04ce, |mut crc, byte| {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc = (crc << 1) ^ if crc & 0x80_0000 != 0 { 0x0186_4cfb } else { 0 };
        }
        crc & 0x00ff_ffff
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const KEY: &str = "\
-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEZZIAgBYJKwYBBAHaRw8BAQdADvRJiF3wKm5QaBDbx1/lNIiypN6MbUM1ZT/s
MEfvu2a0JUV4YW1wbGUgdmVuZG9yIDxwYWNrYWdlc0BleGFtcGxlLm9yZz6IkAQT
FggAOBYhBMRmnGAXGbTXgrUvpWmoWEMh2RSoBQJlkgCAAhsDBQsJCAcCBhUKCQgL
AgQWAgMBAh4BAheAAAoJEGmoWEMh2RSowCkBAKF4toTTI3UVxFSO4yGErxXjOp4r
BaT2RoBG0AjNbJiQAP9xLry5odL/VZIdEpIRE/+hor79u9b9C2kpGy5xM3xLArg4
BGWSAIASCisGAQQBl1UBBQEBB0AAfJpSUKZIdwPMS7OFQfnTpZkWeNQwlJE7HmiC
+Ss8SgMBCAeIeAQYFggAIBYhBMRmnGAXGbTXgrUvpWmoWEMh2RSoBQJlkgCAAhsM
AAoJEGmoWEMh2RSotMIA/jm+CZmha8F0a7jzbiaqprttoKp1VrZrM0cApYg8jYhK
AQDz6BYEnIvYR8Md8mWD4gdUQL09ZXre0SQDwnUHmgamAg==
=7sQv
-----END PGP PUBLIC KEY BLOCK-----
";
    const FINGERPRINT: &str = "C4669C601719B4D782B52FA569A8584321D914A8";
    const SUBKEY: &str = "540B62733B8C74F2";

    #[test]
    fn the_fingerprint_is_the_one_gpg_shows() {
        let keys = Keys::parse(KEY).unwrap();
        assert_eq!(keys.fingerprints(), [FINGERPRINT]);
        assert!(keys.has(&FINGERPRINT[24..]) && keys.has(SUBKEY) && !keys.has("0000000000000000"));
        assert!(!keys.has(""));
    }

    #[test]
    fn every_way_to_write_a_key_gives_the_same() {
        let keys = Keys::parse(KEY).unwrap();
        // gpg's own armour, byte for byte: the checksum too.
        assert_eq!(keys.armoured(), KEY);
        let base64: String = KEY.lines().filter(|l| !l.starts_with(['-', '='])).collect();
        assert_eq!(Keys::parse(&base64).unwrap(), keys);
        let pasted =
            KEY.replace("-----\n\n", "-----\r\nComment: from the vendor's page\r\n").replace('\n', " \n");
        assert_eq!(Keys::parse(&pasted).unwrap(), keys);
        // apt would read the first of two blocks alone.
        let two = Keys::parse(&format!("{KEY}\n{KEY}")).unwrap();
        assert_eq!((two.fingerprints().len(), two.armoured().matches("BEGIN").count()), (2, 1));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let damaged = KEY.replacen("\n\nm", "\n\nA", 1);
        let cut = KEY.replace(END, "");
        for (text, why) in [
            ("", "empty"),
            ("hello!", "neither armoured"),
            (damaged.as_str(), "damaged"),
            (cut.as_str(), "last line"),
            ("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nx\n", "private key"),
            ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n\n-----END PGP PUBLIC KEY BLOCK-----\n", "empty"),
            // A secret key without its armour: an old and a new packet header of type 5.
            ("lAEA", "private key"),
            ("xQEA", "private key"),
            // A signature.
            ("wgEA", "begin with a key"),
        ] {
            let found = Keys::parse(text).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
