//! Writing a site into a finished image, in place and in seconds.
//!
//! Three files of the medium have a fixed size and are all that changes: the stamp area, which the live system
//! reads; an environment block, from which GRUB's menu learns that there is a stamp; and the place for a signed
//! profile, for media used where there is no network. Everything else stays byte for byte what it was, so sums
//! over it stay true.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use akene_protocol::image::ImageManifest;
use akene_protocol::profile::Keyboard;
use akene_protocol::stamp::{AREA_SIZE, StampError};
use akene_protocol::{Bundle, Envelope, Language, PublicKey, Stamp};
use anyhow::{Context, Result, bail};

use crate::iso;
use crate::iso9660::{Extent, Iso};

/// The stamp area on the medium.
pub const AREA: &str = "akene/stamp.img";
/// What the menu knows of the stamp.
pub const ENVIRONMENT: &str = "akene/site.env";
/// The place for a signed profile.
pub const PROFILE: &str = "akene/profile.json";
/// The image's manifest on the medium, the same as inside its initrd.
pub const MANIFEST: &str = "akene/image.json";
/// Sums of the files that no stamp changes.
pub const SUMS: &str = "akene/SHA256SUMS";
/// The stamp area beside kernel and initrd for booting from the network.
pub const NETBOOT_AREA: &str = "stamp.img";

/// Bytes of the place for a profile; what it does not need is filled with line ends, which JSON allows.
const PROFILE_SIZE: usize = 1 << 20;

/// GRUB's environment block has this size, always.
const ENVIRONMENT_SIZE: usize = 1024;

/// The longest title of a site the menu shows.
const MAX_TITLE: usize = 40;

/// What an image tells about itself.
pub struct Contents {
    /// What it is made of.
    pub manifest: ImageManifest,
    /// Its stamp, or why there is none.
    pub stamp: Result<Stamp, StampError>,
    places: Places,
}

enum Places {
    Iso { area: Extent, environment: Extent, profile: Extent },
    Netboot { area: PathBuf },
}

/// The keyboard that a signed profile names, where it is one that media with this key can carry.
pub fn keyboard(profile: &[u8], site_key: &PublicKey) -> Option<Keyboard> {
    let bundle: Bundle = Envelope::parse(profile).ok()?.open(site_key).ok()?;
    bundle.keyboard().cloned()
}

/// Reads an ISO, or a directory with what boots from the network.
///
/// # Errors
/// It is not an image of ours, or a damaged one.
pub fn read(path: &Path) -> Result<Contents> {
    let what = || format!("reading {} as an Akene image", path.display());
    if path.is_dir() { read_netboot(path) } else { read_iso(path) }.with_context(what)
}

/// Writes the stamp into an image, and the signed profile it may carry; a profile of an earlier stamp is wiped.
/// Nothing is written unless the image is one of ours, everything fits and the profile is signed by the site. Gives back how
/// many bytes were written.
pub fn write(path: &Path, stamp: &Stamp, profile: Option<&[u8]>) -> Result<u64> {
    let area = stamp.to_area()?;
    let environment = environment(Some(stamp));
    let text = profile_area(stamp, profile)?;
    let contents = read(path)?;
    let writing = || format!("writing the stamp into {}", path.display());
    let mut written = area.len();
    match contents.places {
        Places::Iso { area: area_at, environment: environment_at, profile: profile_at } => {
            let file = OpenOptions::new().write(true).open(path).with_context(writing)?;
            file.write_all_at(&area, area_at.offset).with_context(writing)?;
            file.write_all_at(&text, profile_at.offset).with_context(writing)?;
            file.write_all_at(environment.as_bytes(), environment_at.offset).with_context(writing)?;
            file.sync_all().with_context(writing)?;
            written += text.len() + environment.len();
        }
        Places::Netboot { .. } if profile.is_some() => {
            bail!("what boots from the network has no place for a profile; let it come from a server")
        }
        Places::Netboot { area: place } => fs::write(&place, area).with_context(writing)?,
    }
    match read(path)?.stamp {
        Ok(found) if found == *stamp => Ok(written as u64),
        _ => {
            bail!("{} does not give the stamp back that was written; is the device failing?", path.display())
        }
    }
}

/// The bytes of the place for a profile.
pub fn empty_profile() -> Vec<u8> {
    vec![b'\n'; PROFILE_SIZE]
}

fn profile_area(stamp: &Stamp, profile: Option<&[u8]>) -> Result<Vec<u8>> {
    let mut bytes = empty_profile();
    let Some(profile) = profile else { return Ok(bytes) };
    let _: Bundle = Envelope::parse(profile)
        .and_then(|envelope| envelope.open(&stamp.site_key))
        .context("checking that the site's key signed the profile")?;
    match bytes.get_mut(..profile.len()) {
        Some(place) => place.copy_from_slice(profile),
        None => bail!("the profile has {} bytes, but the medium has room for {PROFILE_SIZE}", profile.len()),
    }
    Ok(bytes)
}

fn read_iso(path: &Path) -> Result<Contents> {
    let file = File::open(path).context("opening it")?;
    let iso = Iso::open(&file)?;
    let ours = "it is not an image made by `akene-image build`";
    if iso.label() != iso::LABEL {
        bail!("{ours}: its label is `{}`, not `{}`", iso.label(), iso::LABEL);
    }
    let find = |name: &str, length: Option<usize>| -> Result<Extent> {
        let extent = iso.find(name)?.with_context(|| format!("{ours}: it has no {name}"))?;
        match length {
            Some(length) if extent.length != length as u64 => {
                bail!("{ours}: its {name} has {} bytes instead of {length}", extent.length)
            }
            _ => Ok(extent),
        }
    };
    let manifest = iso.read(find(MANIFEST, None)?, 16 << 20)?;
    let area = find(AREA, Some(AREA_SIZE))?;
    let environment = find(ENVIRONMENT, Some(ENVIRONMENT_SIZE))?;
    Ok(Contents {
        manifest: ImageManifest::parse(&manifest).map_err(anyhow::Error::msg)?,
        stamp: parse_area(&iso.read(area, AREA_SIZE as u64)?)?,
        places: Places::Iso { area, environment, profile: find(PROFILE, Some(PROFILE_SIZE))? },
    })
}

fn read_netboot(dir: &Path) -> Result<Contents> {
    let path = dir.join("image.json");
    let manifest = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let area = dir.join(NETBOOT_AREA);
    let bytes = fs::read(&area).with_context(|| format!("reading {}", area.display()))?;
    Ok(Contents {
        manifest: ImageManifest::parse(&manifest).map_err(anyhow::Error::msg)?,
        stamp: parse_area(&bytes)?,
        places: Places::Netboot { area },
    })
}

fn parse_area(bytes: &[u8]) -> Result<Result<Stamp, StampError>> {
    Stamp::parse_area(bytes).context("what should be its stamp area is something else")
}

/// The environment block for a medium of this site, or of none.
pub fn environment(stamp: Option<&Stamp>) -> String {
    titled(stamp.map(|stamp| (stamp.site.as_str(), stamp.language)))
}

fn titled(stamp: Option<(&str, Language)>) -> String {
    let mut text = "# GRUB Environment Block\n".to_owned();
    if let Some((site, language)) = stamp {
        // The firmware's console has no accents, and nothing of this may mean something to GRUB.
        let title: String = site
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || " .,_-".contains(c) { c } else { '?' })
            .take(MAX_TITLE)
            .collect();
        text.push_str(&format!("stamped=1\nsite={title}\n"));
        if !language.is_default() {
            text.push_str(&format!("language={}\n", language.tag()));
        }
    }
    let fill = ENVIRONMENT_SIZE - text.len();
    text + &"#".repeat(fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_menu_has_every_title_in_both_languages() {
        let menu = include_str!("grub.cfg");
        let titles = |part: &str| -> Vec<(String, String)> {
            let lines = part.lines().filter_map(|line| line.trim().strip_prefix("set t_"));
            lines.filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
        };
        let (english, rest) = menu.split_once("if [ \"$language\" = fr ]; then").unwrap();
        let french = rest.split_once("\nfi\n").unwrap().0;
        let (english, french) = (titles(english), titles(french));
        assert!(english.len() >= 10, "{english:?}");
        let names = |all: &[(String, String)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&english), names(&french));
        for ((name, en), (_, fr)) in english.iter().zip(&french) {
            assert!(fr.is_ascii() && fr != en, "{name}: the firmware's console has no accents");
            assert!(
                menu.contains(&format!("\"${{t_{name}}}")) || menu.contains(&format!("$t_{name}")),
                "{name} is unused"
            );
        }
        // Nothing a person reads is written into the menu itself.
        for line in
            menu.lines().map(str::trim).filter(|l| l.starts_with("menuentry ") || l.starts_with("echo "))
        {
            assert!(line.contains("$t_"), "{line}");
        }
    }

    #[test]
    fn the_menus_block_has_its_size_and_holds_no_surprises() {
        assert_eq!(environment(None).len(), ENVIRONMENT_SIZE);
        let text = titled(Some(("Saint-Brieuc\nstamped=2 é$(x)", Language::En)));
        assert_eq!(text.len(), ENVIRONMENT_SIZE);
        assert!(text.contains("\nstamped=1\nsite=Saint-Brieuc?stamped?2 ???x?\n#"), "{text}");
        assert_eq!(text.matches("stamped=").count(), 1);
        let text = titled(Some((&"x".repeat(5000), Language::Fr)));
        assert_eq!(text.len(), ENVIRONMENT_SIZE);
        assert!(text.contains("\nlanguage=fr\n"), "{text}");
    }
}
