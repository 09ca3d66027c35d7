//! Where the installed system gets its packages from: its archives, their keys, its proxy.

use std::path::Path;

use akene_archive::{AptSettings, Root, source_files};
use akene_protocol::Issue;
use anyhow::{Context, Result};

use super::{Job, Watch};

/// Writes the sources the installed system will have, with their keys below `/etc/apt/keyrings`. During the
/// installation the distribution's own keyring is where its package will put it.
pub(super) fn write_sources(job: &Job<'_>, root: &mut Root, first: bool) -> Result<()> {
    let archive = &job.resolved.archive;
    let keyring = AptSettings::default_keyring(archive.distribution);
    let named = |mirrors: &'_ [String]| mirrors.first().cloned().unwrap_or_default();
    // The mirrors that answered, or with a signed lock, where nobody was asked, those the profile names first.
    let (main, security) = match job.apt {
        Some(apt) => (apt.mirrors().0.to_owned(), apt.mirrors().1.to_owned()),
        None => (named(&archive.mirrors), named(&archive.security_mirrors)),
    };
    let files = source_files(archive, &main, &security, Path::new("/etc/apt/keyrings"), keyring)?;
    for (name, text) in &files.keys {
        root.write(&format!("etc/apt/keyrings/{name}"), text, 0o644)?;
    }
    for (name, text) in &files.sources {
        root.write(&format!("etc/apt/sources.list.d/{name}"), text, 0o644)?;
    }
    for (name, text) in &files.preferences {
        root.write(&format!("etc/apt/preferences.d/{name}"), text, 0o644)?;
    }
    root.remove("etc/apt/sources.list")?;
    if let Some(proxy) = job.resolved.network.proxy.as_deref().filter(|_| !first) {
        let (text, mode) = proxy_settings(proxy);
        root.write("etc/apt/apt.conf.d/80akene-proxy", text, mode)?;
    }
    Ok(())
}

/// Tells dpkg which packages stay at their version.
pub(super) fn hold(job: &Job<'_>, watch: &mut dyn Watch) -> Result<()> {
    let wanted = &job.resolved.archive.hold;
    let (there, missing): (Vec<&String>, Vec<&String>) =
        wanted.iter().partition(|name| job.has_package(name));
    for name in missing {
        let message = format!("`{name}` is to stay at its version, but is not installed on this computer");
        watch.warn(Issue::new(
            "hold-not-installed",
            "apt.hold",
            message,
            "add it to `packages`, or take it out here",
        ));
    }
    if there.is_empty() {
        return Ok(());
    }
    let lines: String = there.iter().map(|name| format!("{name} hold\n")).collect();
    job.run(&job.inside("dpkg").arg("--set-selections").stdin(lines)).map(drop).context("holding packages")
}

/// What apt is told of a proxy, and the mode of that file. With a password in it nobody but root reads it: apt
/// itself runs as root and hands its settings to the helpers it runs as `_apt`; somebody else who looks
/// something up in apt's lists is warned of a file they cannot read, and served.
fn proxy_settings(proxy: &str) -> (String, u32) {
    let text = format!("Acquire::http::Proxy \"{proxy}\";\nAcquire::https::Proxy \"{proxy}\";\n");
    (text, if proxy.contains('@') { 0o600 } else { 0o644 })
}
