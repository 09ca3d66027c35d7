//! The archives the running system itself installs from.
//!
//! Whoever builds an image of their own distribution, or tests on their own machine, has already chosen a
//! mirror near them: it is taken from apt instead of being asked for again.

use std::collections::BTreeMap;

use akene_exec::{Cmd, Runner};
use akene_protocol::profile::{Distribution, Pocket};
use akene_protocol::resolve::Archive;
use anyhow::{Context, Result, bail};

/// The running system's release with the mirrors its apt uses.
///
/// # Errors
/// The system is neither Debian nor Ubuntu, or its apt knows no source of that release.
pub fn host_archive(runner: &dyn Runner) -> Result<Archive> {
    let release = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let targets = runner.run(&Cmd::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    from_texts(&release, &targets.text())
}

fn from_texts(release: &str, targets: &str) -> Result<Archive> {
    let value = |key: &str| {
        let line = release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map(|v| v.trim_matches('"').to_owned())
    };
    let id = value("ID").unwrap_or_default();
    let distribution = match id.as_str() {
        "debian" => Distribution::Debian,
        "ubuntu" => Distribution::Ubuntu,
        _ => bail!("using this system's archives: `{id}` is neither Debian nor Ubuntu"),
    };
    let suite = value("VERSION_CODENAME").context("looking for VERSION_CODENAME in /etc/os-release")?;
    let mut archive = Archive {
        distribution,
        suite: suite.clone(),
        mirrors: Vec::new(),
        security_mirrors: Vec::new(),
        components: Vec::new(),
        pockets: Vec::new(),
        key: None,
        sources: BTreeMap::new(),
        install_recommends: true,
        preferences: BTreeMap::new(),
        never: Vec::new(),
        hold: Vec::new(),
        local: Vec::new(),
    };
    for line in targets.lines() {
        let mut words = line.split(' ');
        let (Some(uri), Some(of), Some(component)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let uri = uri.trim_end_matches('/').to_owned();
        let pocket = match of.strip_prefix(suite.as_str()) {
            Some("") => None,
            Some("-updates") => Some(Pocket::Updates),
            Some("-security") => Some(Pocket::Security),
            // Backports would change nothing without a pin; other suites are not the release.
            _ => continue,
        };
        let mirrors = match pocket {
            Some(Pocket::Security) => &mut archive.security_mirrors,
            _ => &mut archive.mirrors,
        };
        push(mirrors, uri);
        push(&mut archive.components, component.to_owned());
        if let Some(pocket) = pocket {
            push(&mut archive.pockets, pocket);
        }
    }
    if archive.mirrors.is_empty() {
        bail!("using this system's archives: its apt has no source of the release `{suite}`");
    }
    Ok(archive)
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: &str = "PRETTY_NAME=\"Ubuntu 24.04 LTS\"\nID=ubuntu\nVERSION_CODENAME=noble\n";

    #[test]
    fn takes_the_release_and_nothing_else() {
        let targets = "http://a.test/ubuntu/ noble main\nhttp://a.test/ubuntu/ noble universe\n\
                       http://a.test/ubuntu/ noble-updates main\nhttp://s.test/ubuntu/ noble-security main\n\
                       https://deb.example/x nodistro main\nhttp://a.test/ubuntu/ noble-proposed main\n";
        let archive = from_texts(RELEASE, targets).unwrap();
        assert_eq!(archive.distribution, Distribution::Ubuntu);
        assert_eq!(archive.mirrors, ["http://a.test/ubuntu"]);
        assert_eq!(archive.security_mirrors, ["http://s.test/ubuntu"]);
        assert_eq!(archive.components, ["main", "universe"]);
        assert_eq!(archive.pockets, [Pocket::Updates, Pocket::Security]);
    }

    #[test]
    fn other_systems_are_refused() {
        let error = from_texts("ID=fedora\n", "").unwrap_err().to_string();
        assert!(error.contains("`fedora` is neither"), "{error}");
        assert!(from_texts(RELEASE, "").is_err());
    }
}
