//! What may differ, and why.

use super::{Aspect, Difference};

/// How much of a name may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// What is in it and when it was written; not whether it is there, nor whose it is.
    Content,
    /// Everything, even whether it is there.
    All,
    /// When it was written.
    Time,
    /// Where a link leads.
    Link,
    /// One statement of it: those that begin with these words.
    Part(&'static str),
}

/// One line of the list.
#[derive(Clone, Copy, Debug)]
pub struct Permitted {
    /// Path below the root. `*` stands for anything within a name, `**` for anything.
    pub path: &'static str,
    /// What about it.
    pub allowed: Allowed,
    /// The reason.
    pub why: &'static str,
}

const fn may(path: &'static str, allowed: Allowed, why: &'static str) -> Permitted {
    Permitted { path, allowed, why }
}

const MAKER: &str = "settings of the new system, written by whoever installs and not by a package";
const REFERENCE: &str = "settings of the maker of the reference";
const ASKED: &str = "a note of debconf's on a question that apt has asked before it unpacks";
const DEVICES: &str =
    "devices: a running system finds another filesystem there, and the maker of the reference fills it";
const MEMORY: &str = "memory of a running system, which finds another filesystem there";
const CHANCE: &str = "made by chance, so that no two systems have the same";
const LOG: &str = "a log: says when and in which order";
const CACHE: &str = "a cache: made again from what was compared";
const BEHIND: &str = "a backup by the program that keeps the file: one change behind, whichever was the last";
const UNITS: &str = "the same unit below /lib and /usr/lib: `deb-systemd-helper` says it so, and `systemctl`, which it calls where it is there already, \
                     in the other way; the reference sets up what is required, but not essential, later";
const FIRST: &str = "tells which of several alternatives was there first, and nothing else";
const LOCK: &str = "an empty lock: there once the program has run";

/// The whole list.
pub const PERMITTED: &[Permitted] = &[
    may("etc/apt/sources.list", Allowed::All, MAKER),
    may("etc/apt/sources.list.d/*", Allowed::All, MAKER),
    may("etc/fstab", Allowed::All, MAKER),
    may("etc/hostname", Allowed::All, MAKER),
    may("etc/resolv.conf", Allowed::All, MAKER),
    may("etc/apt/apt.conf.d/99mmdebstrap", Allowed::All, REFERENCE),
    may("etc/dpkg/dpkg.cfg.d/99mmdebstrap", Allowed::All, REFERENCE),
    may(
        "var/lib/apt/extended_states",
        Allowed::All,
        "what was asked for is known to whoever chose, not to whoever lays packages",
    ),
    may(
        "var/cache/debconf/tmp.ci",
        Allowed::All,
        "where apt has questions asked before it unpacks: nothing is asked",
    ),
    may("var/cache/debconf/config.dat", Allowed::Part("dictionaries-common/default-wordlist Flags"), ASKED),
    may("var/cache/debconf/config.dat", Allowed::Part("libpaper/defaultpaper Owners"), ASKED),
    may("var/cache/debconf/config.dat", Allowed::Part("grub-efi/"), ASKED),
    may("var/cache/debconf/config.dat", Allowed::Part("openvpn/create_tun Value"), ASKED),
    may("var/cache/debconf/config.dat", Allowed::Part("ubuntu-drivers-common/obsolete-driver"), ASKED),
    may("var/cache/debconf/templates.dat", Allowed::Part("ubuntu-drivers-common/obsolete-driver"), ASKED),
    may("etc/alternatives/*", Allowed::Time, FIRST),
    may("usr/share/gnome-shell/gdm-theme.gresource", Allowed::Time, FIRST),
    may("usr/share/icons/default/index.theme", Allowed::Time, FIRST),
    may("etc/systemd/system/*.wants/e2scrub_*", Allowed::Link, UNITS),
    may("etc/console-setup/cached_*", Allowed::Content, "names the consoles of the machine it is made on"),
    may("boot/initrd.img-*", Allowed::Content, "an archive with the times of its making"),
    may("var/lib/initramfs-tools/*", Allowed::Content, "sums of those archives"),
    may("dev/**", Allowed::All, DEVICES),
    may("run/**", Allowed::All, MEMORY),
    may("tmp/**", Allowed::All, "the maker of the reference empties it"),
    may("etc/.resolv.conf.systemd-resolved.bak", Allowed::All, REFERENCE),
    may("etc/machine-id", Allowed::All, CHANCE),
    may("etc/brlapi.key", Allowed::Content, CHANCE),
    may("etc/ssl/certs/ssl-cert-snakeoil.pem", Allowed::Content, CHANCE),
    may("etc/ssl/private/ssl-cert-snakeoil.key", Allowed::Content, CHANCE),
    may("var/lib/dbus/machine-id", Allowed::All, CHANCE),
    may("etc/ssh/ssh_host_*_key", Allowed::Content, CHANCE),
    may("etc/ssh/ssh_host_*_key.pub", Allowed::Content, CHANCE),
    may("var/log/**", Allowed::All, LOG),
    may("var/cache/apt/**", Allowed::All, CACHE),
    may("var/lib/apt/lists/**", Allowed::All, CACHE),
    may("var/cache/ldconfig/aux-cache", Allowed::All, CACHE),
    may("var/cache/man/**", Allowed::Content, CACHE),
    may("var/cache/fontconfig/*", Allowed::Content, CACHE),
    may("var/cache/swcatalog/**", Allowed::Content, CACHE),
    may("var/cache/debconf/*-old", Allowed::All, BEHIND),
    may("var/lib/dpkg/*-old", Allowed::All, BEHIND),
    may("usr/share/info/dir.old", Allowed::Content, BEHIND),
    may("var/lib/ucf/hashfile.*", Allowed::Content, BEHIND),
    may("var/lib/ucf/registry.*", Allowed::Content, BEHIND),
    may("etc/*-", Allowed::All, BEHIND),
    may("var/lib/dpkg/lock*", Allowed::All, LOCK),
    may("var/lib/dpkg/triggers/Lock", Allowed::All, LOCK),
    may("etc/.pwd.lock", Allowed::All, LOCK),
];

impl Permitted {
    /// Whether this line is about a difference.
    pub fn covers(&self, difference: &Difference) -> bool {
        let about = match (self.allowed, &difference.aspect) {
            (Allowed::All, _) => true,
            (Allowed::Content, aspect) => {
                matches!(aspect, Aspect::Content | Aspect::Part(_) | Aspect::Time)
            }
            (Allowed::Time, aspect) => *aspect == Aspect::Time,
            (Allowed::Link, aspect) => *aspect == Aspect::Target,
            (Allowed::Part(start), Aspect::Part(part)) => part.starts_with(start),
            (Allowed::Part(_), _) => false,
        };
        about && matches(self.path.as_bytes(), difference.path.as_os_str().as_encoded_bytes())
    }
}

/// Whether a path is what a pattern says.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|at| matches(rest, &path[at..])),
        [b'*', rest @ ..] => {
            let end = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
            (0..=end).any(|at| matches(rest, &path[at..]))
        }
        [byte, rest @ ..] => path.split_first().is_some_and(|(b, tail)| b == byte && matches(rest, tail)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, fits) in [
            ("etc/*-", "etc/passwd-", true),
            ("etc/*-", "etc/a/b-", false),
            ("var/log/**", "var/log/apt/history.log", true),
            ("var/log/**", "var/lo", false),
            ("a*c", "abc", true),
            ("a*c", "abd", false),
            ("abc", "abc", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), path.as_bytes()), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn every_line_has_a_reason_and_none_permits_the_database() {
        for line in PERMITTED {
            assert!(line.why.len() > 20, "{line:?}");
            let database = ["var/lib/dpkg/status", "var/lib/dpkg/info/a.list", "usr/bin/env"];
            for path in database {
                let all = line.allowed == Allowed::All;
                assert!(!(all && matches(line.path.as_bytes(), path.as_bytes())), "{line:?}");
            }
        }
    }
}
