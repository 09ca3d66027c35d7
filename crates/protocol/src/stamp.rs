//! What the operator writes into a finished image: how to reach the site.
//!
//! On the medium the stamp is a file of fixed size, [`AREA_SIZE`], that is itself an initramfs
//! segment (cpio, "newc") holding `/akene/stamp`. GRUB loads it after the initrd, so that the agent
//! finds it without knowing where the medium is; stamping an ISO overwrites these bytes in place.
//!
//! The text of the entry is a line `AKENE-STAMP 1`, a line with the SHA-256 of the JSON, and the JSON,
//! padded with newlines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::PublicKey;
use crate::ids::Sha256;
use crate::language::Language;
use crate::profile::Keyboard;
use crate::secret::Secret;

/// Size of the stamp area on the medium, in bytes.
pub const AREA_SIZE: usize = 64 << 10;

/// Path of the stamp in the live system.
pub const PATH: &str = "akene/stamp";

const FIRST_LINE: &str = "AKENE-STAMP 1";

/// How to reach the site this medium belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Stamp {
    /// Name of the site, shown on the screen.
    pub site: String,
    /// Where the profile comes from.
    pub source: Source,
    /// The key all documents of the site are signed with.
    pub site_key: PublicKey,
    /// The network of the live system. `None`: ask DHCP and listen to router advertisements.
    #[serde(default)]
    pub network: Option<StaticNetwork>,
    /// Time servers tried before the HTTP clock, by name or address.
    #[serde(default)]
    pub ntp: Vec<String>,
    /// Proxy for HTTP and HTTPS: `http://HOST:PORT`.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Profile to ask for instead of the one the server's rules choose.
    #[serde(default)]
    pub profile: Option<String>,
    /// Language of the menu and the screen. Without it: English.
    #[serde(default, skip_serializing_if = "Language::is_default")]
    pub language: Language,
    /// The keyboard of whoever stands in front of the machine. Without it: the one of the language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyboard: Option<Keyboard>,
}

/// Where profiles come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Source {
    /// An `akene-server`.
    Server {
        /// `https://HOST[:PORT]`.
        url: String,
        /// How its certificate is judged.
        #[serde(default)]
        tls: Tls,
        /// Permission to enrol. Without it, only a machine that the server knows is served.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Secret>,
    },
    /// A signed profile bundle on any HTTPS host. Nobody is told how the installation went.
    Static {
        /// URL of the bundle's envelope.
        url: String,
        /// How its certificate is judged.
        #[serde(default)]
        tls: Tls,
        /// What the medium allows in place of a server's grant.
        #[serde(default)]
        consent: crate::api::Consent,
    },
    /// A signed profile bundle on the medium, `akene/profile.json`; or, where it has a manifest of its own
    /// ([`crate::medium`]), everything an installation needs.
    Medium {
        /// What the medium allows in place of a server's grant. With a technician: the most they may permit.
        #[serde(default)]
        consent: crate::api::Consent,
        /// Whether a technician chooses and confirms. Otherwise the machine installs by itself.
        #[serde(default)]
        attended: bool,
        /// The server that machines installed from this medium belong to.
        #[serde(default)]
        home: Option<Home>,
    },
}

/// A server that is not reached during the installation. Nothing here is secret: whoever finds the medium enrols nowhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Home {
    /// `https://HOST[:PORT]`.
    pub url: String,
    /// How its certificate is judged.
    #[serde(default)]
    pub tls: Tls,
    /// The key reports are sealed for.
    pub seal: crate::seal::SealKey,
}

/// How a server's certificate is judged. With neither field, the usual public authorities count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates (PEM) of the only authorities that count.
    pub ca: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo of certificates, one of which must be in the server's
    /// chain. The server keeps its key when it renews its certificate, so a pin outlives it; and
    /// because a pinned key proves who speaks whatever the date is, the time it tells can mend a
    /// wrong clock.
    pub pins: Vec<Sha256>,
}

/// A network without DHCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StaticNetwork {
    /// Address with prefix length: `192.168.1.50/24`, `2001:db8::50/64`.
    pub addresses: Vec<String>,
    /// Default gateway.
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<String>,
    /// The card, by permanent MAC. Without it, every card with a cable is tried.
    #[serde(default)]
    pub mac: Option<String>,
}

/// Why a stamp cannot be read or written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StampError {
    /// The area holds no stamp: the image was never stamped.
    #[error("this medium was never stamped with a site; run `akene-image stamp` on the image")]
    Unstamped,
    /// There is something, but not an intact stamp.
    #[error("the stamp on this medium is damaged: {0}; stamp the image again")]
    Damaged(String),
    /// Too much text for the area.
    #[error("the stamp needs {needed} bytes but the area holds {room}; use fewer or shorter CA certificates")]
    TooLarge {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        room: usize,
    },
}

/// Bytes of the text inside the area: what the cpio headers and trailer leave.
fn room() -> usize {
    AREA_SIZE - cpio(&[]).len()
}

/// The smallest newc archive that holds the stamp file, parent directory first.
fn cpio(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(AREA_SIZE);
    let mut entry = |ino: u32, name: &str, mode: u32, links: u32, data: &[u8]| {
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, dev and rdev (4), namesize, check
        let fields = [ino, mode, 0, 0, links, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        out.extend_from_slice(b"070701");
        for field in fields {
            out.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    entry(1, "akene", 0o040755, 2, &[]);
    entry(2, PATH, 0o100600, 1, text);
    entry(0, "TRAILER!!!", 0, 1, &[]);
    out
}

fn area_with(text: &str) -> Result<Vec<u8>, StampError> {
    let room = room();
    if text.len() > room {
        return Err(StampError::TooLarge { needed: text.len(), room });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(room, b'\n');
    let area = cpio(&bytes);
    debug_assert_eq!(area.len(), AREA_SIZE);
    Ok(area)
}

/// The area of an image that belongs to nobody yet.
pub fn empty_area() -> Vec<u8> {
    area_with(&format!("{FIRST_LINE}\n")).expect("one line fits")
}

impl Stamp {
    /// The stamp of a site that wishes for nothing beside it.
    pub fn new(site: impl Into<String>, source: Source, site_key: PublicKey) -> Stamp {
        Stamp {
            site: site.into(),
            source,
            site_key,
            network: None,
            ntp: Vec::new(),
            proxy: None,
            profile: None,
            language: Language::default(),
            keyboard: None,
        }
    }

    /// The stamp of a machine that was installed from this medium and belongs to its home: it asks the server there, which
    /// knows it. `None`: the medium names no home.
    pub fn at_home(&self) -> Option<Stamp> {
        let Source::Medium { home: Some(Home { url, tls, .. }), .. } = &self.source else { return None };
        let source = Source::Server { url: url.clone(), tls: tls.clone(), token: None };
        Some(Stamp { source, ..self.clone() })
    }

    /// The bytes of a stamp area with this stamp.
    pub fn to_area(&self) -> Result<Vec<u8>, StampError> {
        let json = serde_json::to_string(self).expect("a stamp has string keys only");
        area_with(&format!("{FIRST_LINE}\n{}\n{json}", Sha256::of(json.as_bytes())))
    }

    /// Reads the file the live system finds at `/akene/stamp`.
    pub fn parse_file(text: &[u8]) -> Result<Stamp, StampError> {
        let damaged = |why: &str| StampError::Damaged(why.to_owned());
        let text = std::str::from_utf8(text).map_err(|_| damaged("it is not text"))?;
        let rest =
            text.strip_prefix(FIRST_LINE).ok_or_else(|| damaged("its first line is not that of a stamp"))?;
        let rest = rest.trim();
        if rest.is_empty() {
            return Err(StampError::Unstamped);
        }
        let (sum, json) = rest.split_once('\n').ok_or_else(|| damaged("it ends too early"))?;
        let sum: Sha256 = sum.parse().map_err(StampError::Damaged)?;
        if sum != Sha256::of(json.as_bytes()) {
            return Err(damaged("its sum does not fit"));
        }
        serde_json::from_str(json).map_err(|e| StampError::Damaged(e.to_string()))
    }

    /// Reads a whole stamp area. `None`: these bytes are no stamp area at all.
    pub fn parse_area(area: &[u8]) -> Option<Result<Stamp, StampError>> {
        let frame = empty_area();
        let start = frame.windows(FIRST_LINE.len()).position(|w| w == FIRST_LINE.as_bytes())?;
        (area.len() == AREA_SIZE && area[..start] == frame[..start])
            .then(|| Stamp::parse_file(&area[start..start + room()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        let source = Source::Server {
            url: "https://akene.example".into(),
            tls: Tls { ca: None, pins: vec![Sha256::of(b"key")] },
            token: Some(Secret::new("s3cret")),
        };
        let site_key = PublicKey(ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key());
        Stamp {
            language: Language::Fr,
            keyboard: Some(Keyboard { layout: "be".into(), variant: String::new() }),
            ..Stamp::new("Lannion", source, site_key)
        }
    }

    #[test]
    fn an_area_has_a_fixed_size_and_gives_the_stamp_back() {
        let area = stamp().to_area().unwrap();
        assert_eq!(area.len(), AREA_SIZE);
        assert_eq!(Stamp::parse_area(&area), Some(Ok(stamp())));
        assert_eq!(Stamp::parse_area(&empty_area()), Some(Err(StampError::Unstamped)));
        assert_eq!(Stamp::parse_area(&vec![0; AREA_SIZE]), None);
    }

    #[test]
    fn a_stamp_with_no_token_is_read_and_one_with_a_token_is_written_as_ever() {
        let json = serde_json::to_value(stamp()).unwrap();
        assert_eq!(json["source"]["token"], "s3cret");
        let seal = crate::seal::SealSecret::from_bytes([6; 32]).public();
        let home = Home { url: "https://akene.example".into(), tls: Tls::default(), seal };
        let medium = |home| Stamp {
            source: Source::Medium { consent: Default::default(), attended: true, home },
            ..stamp()
        };
        let at_home = medium(Some(home)).at_home().unwrap();
        let source = Source::Server { url: "https://akene.example".into(), tls: Tls::default(), token: None };
        assert_eq!((&at_home.source, at_home.site_key), (&source, stamp().site_key));
        assert_eq!(Stamp::parse_area(&at_home.to_area().unwrap()), Some(Ok(at_home)));
        assert_eq!((medium(None).at_home(), stamp().at_home()), (None, None));
    }

    #[test]
    fn damage_is_noticed() {
        let mut area = stamp().to_area().unwrap();
        let at = area.windows(7).position(|w| w == b"Lannion").unwrap();
        area[at] = b'l';
        assert!(matches!(Stamp::parse_area(&area), Some(Err(StampError::Damaged(_)))));
    }

    #[test]
    fn too_much_text_is_refused() {
        let mut stamp = stamp();
        stamp.site = "x".repeat(AREA_SIZE);
        assert!(matches!(stamp.to_area(), Err(StampError::TooLarge { .. })));
    }

    #[test]
    fn the_token_is_not_in_the_debug_form() {
        assert!(!format!("{:?}", stamp()).contains("s3cret"));
    }
}
