//! How a server's certificate is judged: authorities, pinned keys, dates.
//!
//! Without pins this is the usual check against the stamp's own authorities or the public ones. With pins,
//! one of the keys that *lead to* the certificate must be a pinned one: the server's own, or the
//! authority's whether the server sends its certificate or not. A pinned certificate that is merely sent
//! along proves nothing and does not count.
//!
//! Dates can be ignored only together with pins: that is how the server's clock is asked while ours is
//! wrong. Nothing else may be asked that way.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use akene_protocol::Sha256;
use akene_protocol::stamp::Tls;
use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

/// Whether certificates must be valid today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dates {
    /// Yes.
    Checked,
    /// No, because our clock is being asked for. Needs pins.
    Ignored,
}

/// None of the pinned keys leads to the server's certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct NotPinned {
    /// The key the server has.
    pub found: Sha256,
}

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's key {} is not one that this medium trusts", self.found)
    }
}

impl std::error::Error for NotPinned {}

/// Finds an error of type `T` among an error and its causes. `io::Error` hides what it wraps from
/// `source`, so it is opened on the way.
pub fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Why a request failed, if it is that no pinned key leads to the server.
pub fn not_pinned<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a NotPinned> {
    match find::<Error>(error)? {
        Error::InvalidCertificate(CertificateError::Other(other)) => find(other.0.as_ref()),
        _ => None,
    }
}

/// A TLS configuration that judges certificates as the stamp says.
pub fn client_config(tls: &Tls, dates: Dates) -> Result<ClientConfig> {
    if dates == Dates::Ignored && tls.pins.is_empty() {
        bail!("the dates of certificates can only be ignored where a key is pinned");
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier { roots: roots(tls)?, pins: tls.pins.clone(), dates, provider: provider.clone() };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

fn roots(tls: &Tls) -> Result<RootCertStore> {
    let Some(pem) = &tls.ca else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate
            .map_err(|e| anyhow::anyhow!("{e}"))
            .context("reading the authority's certificate in the stamp")?;
        roots.add(certificate).context("using the authority's certificate in the stamp")?;
    }
    if roots.is_empty() {
        bail!("the stamp's `ca` holds no certificate");
    }
    Ok(roots)
}

#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    pins: Vec<Sha256>,
    dates: Dates,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Whether these roots lead to the certificate.
    fn chain(
        &self,
        roots: &RootCertStore,
        server: &ParsedCertificate<'_>,
        others: &[CertificateDer<'_>],
        mut now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let verify = |now| verify_server_cert_signed_by_trust_anchor(server, roots, others, now, algorithms);
        if self.dates == Dates::Checked {
            return verify(now);
        }
        // There must be one moment at which the whole chain was valid; each refusal says where to look for
        // it. A chain is at most a few certificates long.
        for _ in 0..8 {
            now = match verify(now) {
                Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                    not_after
                }
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before, ..
                })) => not_before,
                other => return other,
            };
        }
        verify(now)
    }

    fn pinned(&self, key: &[u8]) -> bool {
        self.pins.contains(&Sha256::of(key))
    }

    /// Whether a pinned key leads to the certificate. The chain as such is already verified.
    fn check_pins(
        &self,
        server: &ParsedCertificate<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let key = server.subject_public_key_info();
        if self.pins.is_empty() || self.pinned(&key) {
            return Ok(());
        }
        let mut trusted = RootCertStore::empty();
        trusted.roots.extend(self.roots.roots.iter().filter(|a| self.pinned(&key_of_anchor(a))).cloned());
        for other in others {
            let parsed = ParsedCertificate::try_from(other);
            if parsed.is_ok_and(|c| self.pinned(&c.subject_public_key_info())) {
                trusted.add(other.clone().into_owned())?;
            }
        }
        if !trusted.is_empty() && self.chain(&trusted, server, others, now).is_ok() {
            return Ok(());
        }
        let error = NotPinned { found: Sha256::of(&key) };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))
    }
}

/// The key of a trust anchor as certificates carry it. Anchors are kept without the outer DER header.
fn key_of_anchor(anchor: &TrustAnchor<'_>) -> Vec<u8> {
    let value: &[u8] = &anchor.subject_public_key_info;
    let mut der = vec![0x30];
    match value.len() {
        n @ 0..=0x7f => der.push(n as u8),
        n @ 0x80..=0xff => der.extend([0x81, n as u8]),
        n => der.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    der.extend_from_slice(value);
    der
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let server = ParsedCertificate::try_from(end_entity)?;
        self.chain(&self.roots, &server, intermediates, now)?;
        verify_server_name(&server, server_name)?;
        self.check_pins(&server, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
