//! Signed documents.
//!
//! The form is DSSE (Dead Simple Signing Envelope, the one of in-toto and Sigstore): the signature
//! covers the payload *and* its type, so that a signed profile can never pass as a signed grant, and
//! the payload is verified before it is parsed. Signatures are Ed25519 by the site key.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::as_text;

/// A document that may be signed: its payload type, a media type with the document version in it.
pub trait Document: Serialize + DeserializeOwned {
    /// `application/vnd.akene.NAME+json; version=N`.
    const PAYLOAD_TYPE: &'static str;
}

/// Why a signed document is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Not an envelope at all.
    #[error("this is not a signed document: {0}")]
    Malformed(String),
    /// No signature by the expected key fits.
    #[error(
        "the signature is not by the site key {expected}: the document was changed on its way, or belongs to another site"
    )]
    WrongSignature {
        /// The key that should have signed.
        expected: Box<PublicKey>,
    },
    /// Signed, but another kind of document.
    #[error("expected a signed `{expected}`, found a `{found}`")]
    WrongType {
        /// Payload type that was asked for.
        expected: &'static str,
        /// Payload type it has.
        found: String,
    },
    /// Signed and of the right type, but it cannot be read.
    #[error("the signed document cannot be read: {0}")]
    Unreadable(String),
}

/// A signed document in transit.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// Media type of the payload.
    pub payload_type: String,
    /// The document, base64.
    pub payload: String,
    /// Signatures; one that fits is enough.
    pub signatures: Vec<EnvelopeSignature>,
}

impl fmt::Debug for Envelope {
    /// Without the payload: a profile holds password hashes, and base64 hides nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("payload_type", &self.payload_type)
            .field("payload", &format_args!("[{} characters]", self.payload.len()))
            .field("signatures", &self.signatures)
            .finish()
    }
}

/// A signature in an [`Envelope`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnvelopeSignature {
    /// The signing key, as a hint.
    #[serde(default)]
    pub keyid: String,
    /// Ed25519 signature, base64.
    pub sig: String,
}

/// DSSE's pre-authentication encoding: what is really signed.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// Signs a document.
    pub fn sign<D: Document>(document: &D, key: &SigningKey) -> Envelope {
        let payload = serde_json::to_vec(document).expect("documents have string keys only");
        let signature = key.sign(&pae(D::PAYLOAD_TYPE, &payload));
        Envelope {
            payload_type: D::PAYLOAD_TYPE.to_owned(),
            payload: BASE64.encode(payload),
            signatures: vec![EnvelopeSignature {
                keyid: PublicKey(key.verifying_key()).to_string(),
                sig: BASE64.encode(signature.to_bytes()),
            }],
        }
    }

    /// Reads an envelope from JSON.
    pub fn parse(text: &[u8]) -> Result<Envelope, EnvelopeError> {
        serde_json::from_slice(text).map_err(|e| EnvelopeError::Malformed(e.to_string()))
    }

    /// Verifies the signature, then reads the document. Nothing of the payload is looked at before.
    pub fn open<D: Document>(&self, key: &PublicKey) -> Result<D, EnvelopeError> {
        let payload = BASE64.decode(&self.payload).map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
        let signed = pae(&self.payload_type, &payload);
        let fits = |s: &EnvelopeSignature| {
            let bytes = BASE64.decode(&s.sig).ok()?;
            let signature = Signature::from_slice(&bytes).ok()?;
            key.0.verify_strict(&signed, &signature).ok()
        };
        if !self.signatures.iter().any(|s| fits(s).is_some()) {
            return Err(EnvelopeError::WrongSignature { expected: Box::new(*key) });
        }
        if self.payload_type != D::PAYLOAD_TYPE {
            return Err(EnvelopeError::WrongType {
                expected: D::PAYLOAD_TYPE,
                found: self.payload_type.clone(),
            });
        }
        serde_json::from_slice(&payload).map_err(|e| EnvelopeError::Unreadable(e.to_string()))
    }
}

/// An Ed25519 public key, written as base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let complain =
            || format!("`{text}` is not a public key: it must be 32 bytes of Ed25519 key in base64");
        let bytes: [u8; 32] =
            BASE64.decode(text.trim()).map_err(|_| complain())?.try_into().map_err(|_| complain())?;
        VerifyingKey::from_bytes(&bytes).map(PublicKey).map_err(|_| complain())
    }
}

as_text!(PublicKey, "PublicKey", "^[A-Za-z0-9+/]{43}=$", "An Ed25519 public key in base64.");

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Letter {
        text: String,
    }
    impl Document for Letter {
        const PAYLOAD_TYPE: &'static str = "application/vnd.akene.letter+json; version=1";
    }

    #[derive(Serialize, Deserialize, Debug)]
    struct Other {
        text: String,
    }
    impl Document for Other {
        const PAYLOAD_TYPE: &'static str = "application/vnd.akene.other+json; version=1";
    }

    fn key(seed: u8) -> (SigningKey, PublicKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey(key.verifying_key());
        (key, public)
    }

    #[test]
    fn opens_what_was_signed() {
        let (key, public) = key(1);
        let letter = Letter { text: "bonjour".into() };
        let json = serde_json::to_vec(&Envelope::sign(&letter, &key)).unwrap();
        assert_eq!(Envelope::parse(&json).unwrap().open::<Letter>(&public), Ok(letter));
    }

    #[test]
    fn pre_authentication_encoding_is_the_one_of_the_specification() {
        // From the DSSE specification's protocol.md.
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn refuses_a_change_another_key_and_another_type() {
        let (key1, public1) = key(1);
        let (_, public2) = key(2);
        let signed = Envelope::sign(&Letter { text: "bonjour".into() }, &key1);

        let mut changed = signed.clone();
        changed.payload = BASE64.encode(br#"{"text":"bonsoir"}"#);
        assert_eq!(
            changed.open::<Letter>(&public1),
            Err(EnvelopeError::WrongSignature { expected: Box::new(public1) })
        );
        assert_eq!(
            signed.open::<Letter>(&public2),
            Err(EnvelopeError::WrongSignature { expected: Box::new(public2) })
        );

        let found = Letter::PAYLOAD_TYPE.to_owned();
        assert_eq!(
            signed.open::<Other>(&public1).unwrap_err(),
            EnvelopeError::WrongType { expected: Other::PAYLOAD_TYPE, found }
        );

        let mut retyped = signed;
        retyped.payload_type = Other::PAYLOAD_TYPE.to_owned();
        assert_eq!(
            retyped.open::<Other>(&public1).unwrap_err(),
            EnvelopeError::WrongSignature { expected: Box::new(public1) }
        );
    }

    #[test]
    fn refuses_garbage() {
        let (_, public) = key(1);
        assert!(matches!(Envelope::parse(b"<html>"), Err(EnvelopeError::Malformed(_))));
        let no_signature = Envelope {
            payload_type: Letter::PAYLOAD_TYPE.into(),
            payload: "e30=".into(),
            signatures: vec![],
        };
        assert!(matches!(no_signature.open::<Letter>(&public), Err(EnvelopeError::WrongSignature { .. })));
    }
}
