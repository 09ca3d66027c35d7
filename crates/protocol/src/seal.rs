//! Documents that only one reader can open: what waits on a stick until somebody brings it home.
//!
//! The form is libsodium's *sealed box* (`crypto_box_seal`: an ephemeral X25519 key, XSalsa20-Poly1305, the nonce
//! from both public keys), made by the crate `crypto_box`. Whoever seals needs the public key alone, and cannot open
//! again what they sealed: a lost stick tells nobody anything. A sealed box does not say who sealed it; what is
//! inside is signed ([`crate::envelope`]).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crypto_box::aead::rand_core::{CryptoRng, Error, RngCore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::as_text;
use crate::secret::Secret;

/// Bytes by which a sealed document is longer than what it holds.
pub const OVERHEAD: usize = crypto_box::SEALBYTES;

/// The public half: seals for the server that has the other one.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey(crypto_box::PublicKey);

impl SealKey {
    /// Seals for the owner of this key. `random` is 32 random bytes, used for this document only.
    pub fn seal(&self, document: &[u8], random: [u8; 32]) -> Vec<u8> {
        self.0.seal(&mut Given(random), document).expect("a document of any length can be sealed")
    }
}

/// The secret half.
#[derive(Clone)]
pub struct SealSecret(crypto_box::SecretKey);

impl SealSecret {
    /// The key that these 32 random bytes are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        SealSecret(bytes.into())
    }

    /// Reads the form that [`SealSecret::to_text`] writes.
    ///
    /// # Errors
    /// It is not 32 bytes in base64.
    pub fn from_text(text: &str) -> Result<Self, String> {
        bytes_of(text).map(SealSecret::from_bytes).ok_or_else(|| "this is not 32 bytes in base64".to_owned())
    }

    /// The key as text, for a file that only its owner reads.
    pub fn to_text(&self) -> Secret {
        Secret::new(BASE64.encode(self.0.to_bytes()))
    }

    /// The public half.
    pub fn public(&self) -> SealKey {
        SealKey(self.0.public_key())
    }

    /// Opens what was sealed for this key. `None`: it was sealed for another one, or changed on its way.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.unseal(sealed).ok()
    }
}

impl fmt::Debug for SealSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealSecret([hidden])")
    }
}

impl fmt::Display for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({self})")
    }
}

impl FromStr for SealKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        bytes_of(text).map(|bytes| SealKey(bytes.into())).ok_or_else(|| {
            format!("`{text}` is not a key to seal for: it must be 32 bytes of X25519 key in base64")
        })
    }
}

as_text!(SealKey, "SealKey", "^[A-Za-z0-9+/]{43}=$", "An X25519 public key in base64.");

fn bytes_of(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text.trim()).ok()?.try_into().ok()
}

/// The randomness of one sealing, which the caller brings: this crate does no I/O.
struct Given([u8; 32]);

impl RngCore for Given {
    fn next_u32(&mut self) -> u32 {
        unreachable!("a key takes bytes")
    }
    fn next_u64(&mut self) -> u64 {
        unreachable!("a key takes bytes")
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        dest.copy_from_slice(&self.0);
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Given {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_opens_what_was_sealed_and_notices_a_change() {
        let (ours, other) = (SealSecret::from_bytes([1; 32]), SealSecret::from_bytes([2; 32]));
        let key: SealKey = ours.public().to_string().parse().unwrap();
        for document in [&b""[..], b"bonjour", &[7; 100_000]] {
            let sealed = key.seal(document, [9; 32]);
            assert_eq!(sealed.len(), document.len() + OVERHEAD);
            assert_eq!(ours.open(&sealed).as_deref(), Some(document));
            assert_eq!(other.open(&sealed), None);
            for at in [0, 31, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(ours.open(&changed), None, "byte {at}");
            }
            assert_eq!(ours.open(&sealed[..sealed.len() - 1]), None);
        }
        assert_ne!(key.seal(b"x", [9; 32]), key.seal(b"x", [8; 32]));
    }

    #[test]
    fn a_sealed_box_is_the_one_of_libsodium() {
        // Made by PyNaCl 1.6.2: SealedBox(PrivateKey(bytes([1] * 32)).public_key).encrypt(b"bonjour").
        let sealed = hex::decode(include_str!("seal/pynacl.hex").trim()).unwrap();
        assert_eq!(SealSecret::from_bytes([1; 32]).open(&sealed).unwrap(), b"bonjour");
    }

    #[test]
    fn keys_are_written_and_read_and_a_secret_is_not_shown() {
        let secret = SealSecret::from_bytes([3; 32]);
        let again = SealSecret::from_text(secret.to_text().expose()).unwrap();
        assert_eq!(again.public(), secret.public());
        assert!(SealSecret::from_text("short").is_err() && "short".parse::<SealKey>().is_err());
        assert_eq!(format!("{secret:?} {}", secret.to_text()), "SealSecret([hidden]) [hidden]");
    }
}
