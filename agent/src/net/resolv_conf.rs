//! `/etc/resolv.conf` of the live system, for the programs that are not us.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::dhcp;

/// Where the settings that do not come from DHCP are kept, in the network directory.
const FIXED: &str = "name-servers";

/// Remembers name servers from the stamp or from router advertisements.
pub fn remember(directory: &Path, servers: &[IpAddr]) -> Result<()> {
    let lines: String = servers.iter().map(|s| format!("{s}\n")).collect();
    fs::write(directory.join(FIXED), lines).context("remembering name servers")?;
    refresh(directory)
}

/// Writes the file again from all that is known. Tests name another file by `AKENE_RESOLV_CONF`.
pub fn refresh(directory: &Path) -> Result<()> {
    let file = std::env::var_os("AKENE_RESOLV_CONF").map_or_else(|| live_file(directory), Some);
    let Some(file) = file.map(PathBuf::from) else { return Ok(()) };
    let text = text(directory);
    // It may be a link to something that does not run here.
    if fs::symlink_metadata(&file).is_ok_and(|m| m.is_symlink()) {
        fs::remove_file(&file).with_context(|| format!("replacing {}", file.display()))?;
    }
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// The machine's file, but only where the network is ours: on a live system. Anywhere else the network
/// directory is a test's.
fn live_file(directory: &Path) -> Option<std::ffi::OsString> {
    (directory == Path::new(super::DIRECTORY)).then(|| "/etc/resolv.conf".into())
}

/// The name servers known, the cards' own first.
pub fn servers(directory: &Path) -> Vec<IpAddr> {
    let fixed = fs::read_to_string(directory.join(FIXED)).unwrap_or_default();
    let mut servers: Vec<IpAddr> = Vec::new();
    let from_leases = dhcp::leases(directory).into_iter().flat_map(|lease| lease.dns);
    for server in fixed.lines().filter_map(|l| l.parse().ok()).chain(from_leases) {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

fn text(directory: &Path) -> String {
    let domains: Vec<String> = dhcp::leases(directory).into_iter().filter_map(|lease| lease.domain).collect();
    let mut text = String::from("# Written by akene-agent from what this network offers.\n");
    if !domains.is_empty() {
        text.push_str(&format!("search {}\n", domains.join(" ")));
    }
    for server in servers(directory) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FIXED), "2001:db8::53\n192.0.2.1\n").unwrap();
        let lease = r#"{"card":"eth0","address":"192.0.2.9","prefix":24,"routers":[],"dns":["192.0.2.1","192.0.2.2"],"ntp":[],"domain":"lan","server":null}"#;
        fs::write(dir.path().join("eth0.json"), lease).unwrap();
        assert_eq!(
            text(dir.path()),
            "# Written by akene-agent from what this network offers.\nsearch lan\nnameserver 2001:db8::53\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"
        );
    }
}
