//! Keys, certificates and secret files of a site.
//!
//! | file in `secrets/` | what | who reads it |
//! |---|---|---|
//! | `ca.key`, `ca.pem` | the site's own authority, ECDSA P-256, 30 years | `init`, `certificate renew` |
//! | `server.key`, `server.pem` | the server's key and certificate chain | `serve` |
//! | `site.key` | Ed25519 key (PKCS #8) that signs profiles and grants | `serve`, `profile export` |
//! | `seal.key` | X25519 key (base64) that opens what machines without a network report | `serve` |
//! | `enrol-tokens.toml` | sums of the enrolment tokens | `serve`, `token` |
//! | `admin-token` | opens the administrator's pages | `serve`, the administrator |
//!
//! Certificates are valid from a day before they are made, because the clocks of the machines they
//! are shown to are never exactly right. The server's own certificate lives ten years: machines pin
//! its *key*, and `certificate renew` makes a new certificate for the same key, so that no machine
//! and no medium notices.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown, lchown};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use akene_protocol::seal::SealSecret;
use akene_protocol::{Secret, Sha256};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority lives: longer than any machine it will ever be shown to.
const CA_DAYS: u32 = 30 * 365;
/// How long the server's own certificate lives.
pub const LEAF_DAYS: u32 = 10 * 365;

/// Random bytes as lower-case hexadecimal.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    fill_random(&mut buffer)?;
    Ok(hex::encode(buffer))
}

fn fill_random(buffer: &mut [u8]) -> Result<()> {
    // Its error type is no std error without a feature we do not otherwise need.
    getrandom::fill(buffer).map_err(|e| anyhow!("reading random bytes from the kernel: {e}"))
}

/// Makes a directory only its owner can look into.
pub fn private_dir(path: &Path) -> Result<()> {
    make_dir(path, 0o700)
}

/// Makes a directory of the site. Root, who makes sticks, makes it for the owner of the directory it is in: the server runs as
/// somebody else.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let doing = || format!("making the directory {}", path.display());
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).with_context(doing)?;
    match heir(path, &fs::symlink_metadata(path).with_context(doing)?).with_context(doing)? {
        Some((user, group)) => lchown(path, Some(user), Some(group)).with_context(doing),
        None => Ok(()),
    }
}

/// Whom something belongs to that root has just made in somebody's directory.
fn heir(path: &Path, made: &fs::Metadata) -> io::Result<Option<(u32, u32)>> {
    let Some(parent) = path.parent() else { return Ok(None) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let directory = fs::metadata(parent)?;
    Ok((made.uid() == 0 && directory.uid() != 0).then_some((directory.uid(), directory.gid())))
}

/// Writes a file only its owner can read, in one step: a reader sees the old or the new one.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    write(path, content, 0o600)
}

/// Writes a file of the site in one step. Root writes it for the owner of the directory it is in.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", random_hex(4)?));
    let new = path.with_file_name(name);
    // Always a new one: root gives away no file that somebody has put there.
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).with_context(doing)?;
    if let Some((user, group)) = heir(&new, &file.metadata().with_context(doing)?).with_context(doing)? {
        fchown(&file, Some(user), Some(group)).with_context(doing)?;
    }
    file.write_all(content).and_then(|()| file.sync_all()).with_context(doing)?;
    fs::rename(&new, path).with_context(doing)
}

/// Writes a file only its owner can read, unless there is one of this name already, which then stays as it is.
pub fn write_private_once(path: &Path, content: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", random_hex(8)?));
    let new = path.with_file_name(name);
    write_private(&new, content)?;
    let linked = match fs::hard_link(&new, path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    fs::remove_file(&new).and(linked).with_context(doing)
}

/// A new Ed25519 key, as a PEM file.
pub fn new_signing_key() -> Result<Secret> {
    let mut secret_key = [0; 32];
    fill_random(&mut secret_key)?;
    // Without the public key inside: OpenSSL before 3.2 does not read version 2 of PKCS #8.
    let pair = KeypairBytes { secret_key, public_key: None };
    let pem = pair.to_pkcs8_pem(Default::default()).context("encoding a new key")?;
    Ok(Secret::new(pem.as_str()))
}

/// A new key for opening what was sealed, as a text file.
pub fn new_seal_key() -> Result<Secret> {
    let mut key = [0; 32];
    fill_random(&mut key)?;
    Ok(SealSecret::from_bytes(key).to_text())
}

/// Reads a key that [`new_signing_key`] made.
pub fn read_signing_key(path: &Path) -> Result<SigningKey> {
    signing_key(&read_secret(path)?).with_context(|| format!("reading {}", path.display()))
}

/// The key in a PEM text.
pub fn signing_key(pem: &str) -> Result<SigningKey> {
    SigningKey::from_pkcs8_pem(pem).context("it is not an Ed25519 key in PKCS #8 form")
}

/// Reads a text file from `secrets/`.
pub fn read_secret(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| {
        format!("reading {} (is this a site directory made by `akene-server init`?)", path.display())
    })
}

/// The server's key and certificate, checked to belong together.
#[derive(Debug)]
pub struct ServerIdentity {
    /// What rustls presents.
    pub certified: Arc<CertifiedKey>,
    /// SHA-256 of the SubjectPublicKeyInfo: what stamps pin.
    pub pin: Sha256,
}

/// Reads a certificate chain and its key.
///
/// # Errors
/// When one cannot be read, or the key is not the certificate's.
pub fn server_identity(chain: &str, key: &str, provider: &CryptoProvider) -> Result<ServerIdentity> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .context("reading the certificate chain")?;
    ensure!(!chain.is_empty(), "reading the certificate chain: there is no PEM certificate in it");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .context("reading the certificate's key (PEM, not protected by a password)")?;
    let certified = CertifiedKey::from_der(chain, key, provider)
        .context("putting certificate and key together (do they belong to each other?)")?;
    let Some(spki) = certified.key.public_key() else {
        bail!("reading the certificate's key: its public half cannot be told");
    };
    let pin = Sha256::of(&spki);
    Ok(ServerIdentity { certified: Arc::new(certified), pin })
}

/// The site's own authority.
pub struct Authority {
    key: KeyPair,
    params: CertificateParams,
}

impl Authority {
    /// A new authority.
    pub fn generate() -> Result<Authority> {
        Self::with_key(KeyPair::generate().context("making the authority's key")?)
    }

    /// The authority whose key was kept.
    pub fn from_key(pem: &str) -> Result<Authority> {
        Self::with_key(KeyPair::from_pem(pem).context("reading the authority's key")?)
    }

    /// Name and validity follow from the key alone, so that the certificate on disk need not be parsed
    /// to sign with the key again.
    fn with_key(key: KeyPair) -> Result<Authority> {
        let mut params = CertificateParams::default();
        let mark = Sha256::of(&key.subject_public_key_info()).to_string();
        params.distinguished_name = name(&format!("Akene authority {}", &mark[..8]));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, CA_DAYS)?;
        Ok(Authority { key, params })
    }

    /// Its key.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A certificate of the authority for itself.
    pub fn certificate(&self) -> Result<Certificate> {
        self.params.self_signed(&self.key).context("making the authority's certificate")
    }

    /// A certificate for a server called `host` (a name or an address) with this key.
    pub fn issue(&self, host: &str, key: &KeyPair) -> Result<Certificate> {
        let mut params = CertificateParams::new(vec![host.to_owned()])
            .with_context(|| format!("making a certificate for `{host}`"))?;
        // 64 characters is the upper bound of a common name; the host counts from the SAN anyway.
        params.distinguished_name = name(&host.chars().take(64).collect::<String>());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, LEAF_DAYS)?;
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).with_context(|| format!("signing a certificate for `{host}`"))
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// From a day ago for this many days.
fn validity(params: &mut CertificateParams, days: u32) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("reading this computer's clock: it is before 1970")?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + DAY * days;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let provider = rustls::crypto::ring::default_provider();
        let authority = Authority::generate().unwrap();
        let (a, b) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let chain = authority.issue("akene.example", &a).unwrap().pem();
        assert!(server_identity(&chain, &a.serialize_pem(), &provider).is_ok());
        let error = server_identity(&chain, &b.serialize_pem(), &provider).unwrap_err();
        assert!(format!("{error:#}").contains("belong to each other"), "{error:#}");
        assert!(server_identity("", &a.serialize_pem(), &provider).is_err());
    }

    #[test]
    fn the_pin_outlives_a_renewal() {
        let provider = rustls::crypto::ring::default_provider();
        let authority = Authority::from_key(&Authority::generate().unwrap().key_pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let pin = |host: &str| {
            let chain = authority.issue(host, &key).unwrap().pem();
            server_identity(&chain, &key.serialize_pem(), &provider).unwrap().pin
        };
        assert_eq!(pin("akene.example"), pin("192.0.2.7"));
    }

    #[test]
    fn a_site_key_reads_back_and_has_mode_0600() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        write_private(&path, new_signing_key().unwrap().expose().as_bytes()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (a, b) = (read_signing_key(&path).unwrap(), read_signing_key(&path).unwrap());
        assert_eq!(a.to_bytes(), b.to_bytes());
    }
}
