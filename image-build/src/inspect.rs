//! Showing what an image is and whom it belongs to.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_protocol::stamp::{Source, Stamp, StampError, Tls};
use akene_protocol::{Bytes, Secret, Sha256};
use anyhow::{Context, Result, bail};

use crate::iso9660::Iso;
use crate::offline::look::Offline;
use crate::stamp::{self, Contents};

/// Describes an image. Secrets are shown only if asked for.
pub fn describe(contents: &Contents, show_secrets: bool) -> String {
    let manifest = &contents.manifest;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        writeln!(text, "{name:<14} {}", harmless(value)).ok();
    };
    line("built", &format!("{} by akene-image {}", manifest.built, manifest.akene));
    line("system", &format!("{:?} {} {}", manifest.distribution, manifest.suite, manifest.architecture));
    line("kernel", &manifest.kernel);
    line("packages", &manifest.packages.len().to_string());
    line("wireless", if manifest.wireless { "drivers and firmware are in it" } else { "not in it" });
    for file in &manifest.files {
        line("  file", &format!("{} {} sha256 {}", file.path, file.size, file.sha256));
    }
    match &contents.stamp {
        Err(StampError::Unstamped) => line("stamp", "none: run `akene-image stamp` before giving it away"),
        Err(damage) => line("stamp", &damage.to_string()),
        Ok(stamp) => describe_stamp(stamp, show_secrets, &mut line),
    }
    text
}

/// A text of an image that may come from anybody, without what moves a terminal's cursor, colours it or
/// turns the direction of writing.
fn harmless(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown =
        |c: char| if c.is_control() || turns(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

fn describe_stamp(stamp: &Stamp, show_secrets: bool, line: &mut dyn FnMut(&str, &str)) {
    line("site", &stamp.site);
    line("language", stamp.language.tag());
    if let Some(keyboard) = &stamp.keyboard {
        line("keyboard", format!("{} {}", keyboard.layout, keyboard.variant).trim_end());
    }
    line("site key", &stamp.site_key.to_string());
    let secret =
        |s: &Secret| if show_secrets { s.expose().to_owned() } else { "(hidden; --show-secrets)".to_owned() };
    match &stamp.source {
        Source::Server { url, tls, token } => {
            line("server", url);
            describe_tls(tls, line);
            line("token", &token.as_ref().map_or("(none)".to_owned(), secret));
        }
        Source::Static { url, tls, consent } => {
            line("profile from", url);
            describe_tls(tls, line);
            line("may", &format!("{consent:?}"));
        }
        Source::Medium { consent, attended, home } => {
            line("profile from", "the medium itself");
            line("may", &format!("{consent:?}"));
            line("installs", if *attended { "when a technician says so" } else { "by itself" });
            if let Some(home) = home {
                line("belongs to", &home.url);
                describe_tls(&home.tls, line);
                line("sealed for", &home.seal.to_string());
            }
        }
    }
    match &stamp.network {
        None => line("network", "automatic"),
        Some(network) => {
            line("address", &network.addresses.join(", "));
            line("gateway", network.gateway.as_deref().unwrap_or("none"));
            line("name servers", &network.dns.join(", "));
            if let Some(mac) = &network.mac {
                line("card", mac);
            }
        }
    }
    if !stamp.ntp.is_empty() {
        line("time servers", &stamp.ntp.join(", "));
    }
    if let Some(proxy) = &stamp.proxy {
        // A proxy's password stands in its address.
        let shown = match proxy.rsplit_once('@') {
            Some((_, host)) if !show_secrets => format!("(hidden)@{host}"),
            _ => proxy.clone(),
        };
        line("proxy", &shown);
    }
    if let Some(profile) = &stamp.profile {
        line("profile", profile);
    }
}

fn describe_tls(tls: &Tls, line: &mut dyn FnMut(&str, &str)) {
    match (&tls.ca, tls.pins.is_empty()) {
        (None, true) => line("trusts", "the public authorities"),
        (Some(ca), _) => {
            line("trusts", &format!("{} own authorities", ca.matches("BEGIN CERTIFICATE").count()))
        }
        (None, false) => {}
    }
    for pin in &tls.pins {
        line("pin", &pin.to_string());
    }
}

/// Describes what a medium for places without a network holds.
///
/// # Errors
/// It cannot be read, or the site of its stamp did not sign it.
pub fn describe_offline(offline: &Offline, stamp: &Stamp) -> Result<String> {
    let mut text = String::new();
    for (name, value) in offline.describe(&stamp.site_key)? {
        writeln!(text, "{name:<14} {}", harmless(&value)).context("describing the medium")?;
    }
    Ok(text)
}

/// Reads all of an ISO's files and compares them with the sums it carries. Gives back how many files that were.
///
/// # Errors
/// A file differs or is missing: the medium or the download is damaged.
pub fn verify(path: &Path) -> Result<usize> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let check = || -> Result<usize> {
        let iso = Iso::open(&file)?;
        let sums = iso.find(stamp::SUMS)?.with_context(|| format!("looking for {}", stamp::SUMS))?;
        let sums = String::from_utf8(iso.read(sums, 1 << 20)?).context("reading the list of sums")?;
        let mut count = 0;
        for line in sums.lines() {
            let (sum, name) = line.split_once("  ").context("reading the list of sums")?;
            let extent = iso.find(name)?.with_context(|| format!("looking for {name}"))?;
            if hash(&file, extent.offset, extent.length)?.to_string() != sum {
                bail!("{name} ({}) is damaged", Bytes(extent.length));
            }
            count += 1;
        }
        Ok(count)
    };
    check().with_context(|| format!("checking the files of {}", path.display()))
}

pub(crate) fn hash(file: &File, offset: u64, length: u64) -> Result<Sha256> {
    struct At<'a>(&'a File, u64);
    impl Read for At<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.read_at(buffer, self.1)?;
            self.1 += n as u64;
            Ok(n)
        }
    }
    Ok(Sha256::of_reader(At(file, offset).take(length)).context("reading the image")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_strangers_image_reaches_the_terminal_as_a_command() {
        assert_eq!(harmless("Saint-Brieuc, été"), "Saint-Brieuc, été");
        let shown = harmless("a\u{1b}]0;title\u{7}\r\nserver x\u{9b}2J\u{202e}b\u{2028}c\u{7f}");
        assert!(shown.chars().all(|c| !c.is_control() && c != '\u{202e}' && c != '\u{2028}'), "{shown:?}");
        assert_eq!(shown, "a\\u{1b}]0;title\\u{7}\\r\\nserver x\\u{9b}2J\\u{202e}b\\u{2028}c\\u{7f}");
    }
}
