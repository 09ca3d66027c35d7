//! The kernel command line.
//!
//! | argument | meaning |
//! |---|---|
//! | `akene.ip=ADDRESS/LENGTH,GATEWAY[,DNS…]` | fixed address of the live system; may be repeated; stronger than the stamp |
//! | `akene.server=URL` | another server than the stamp's; the stamp's pins still count |
//! | `akene.profile=NAME` | profile to ask for |
//! | `akene.mode=install\|help\|rescue\|probe` | what to do; `install` by default |
//! | `akene.disk` | the installer was started from the boot partition, not from a medium |
//! | `akene.debug` | say more |
//!
//! A key given twice: the last one counts, except where repetition has a meaning. An unknown `akene.`
//! key or a value that cannot be read is reported, and the machine goes on without it: a typing
//! mistake at the boot menu must not end at a dead screen.

use std::net::IpAddr;

use akene_protocol::Issue;
use akene_protocol::stamp::StaticNetwork;

/// What the live system is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Install, if allowed to.
    #[default]
    Install,
    /// Be reachable: say what is wrong, and install only when a person permits it anew.
    Help,
    /// Offer a shell on every console.
    Rescue,
    /// Report what this machine is, change nothing.
    Probe,
}

/// Our part of the kernel command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// Fixed network of the live system.
    pub network: Option<StaticNetwork>,
    /// Server to use instead of the stamp's.
    pub server: Option<String>,
    /// Profile to ask for.
    pub profile: Option<String>,
    /// What to do.
    pub mode: Mode,
    /// Whether the installer was started from the boot partition.
    pub from_disk: bool,
    /// Say more.
    pub debug: bool,
    /// What could not be understood.
    pub issues: Vec<Issue>,
}

impl Cmdline {
    /// The running kernel's.
    pub fn read() -> Self {
        Cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// Reads a command line.
    pub fn parse(text: &str) -> Self {
        let mut cmdline = Cmdline::default();
        for word in words(text) {
            let Some(argument) = word.strip_prefix("akene.") else { continue };
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            if let Err(why) = cmdline.take(key, value) {
                cmdline.issues.push(Issue::new(
                    "kernel-argument-wrong",
                    format!("akene.{key}"),
                    why,
                    "correct it in the boot menu, or go on without it",
                ));
            }
        }
        cmdline
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        let text = |value: &str| match value {
            "" => Err("it has no value".to_owned()),
            value => Ok(Some(value.to_owned())),
        };
        match key {
            "ip" => {
                let more = parse_ip(value)?;
                match &mut self.network {
                    None => self.network = Some(more),
                    Some(network) => {
                        network.addresses.extend(more.addresses);
                        network.gateway = network.gateway.take().or(more.gateway);
                        network.dns.extend(more.dns);
                    }
                }
            }
            "server" => self.server = text(value)?,
            "profile" => self.profile = text(value)?,
            "mode" => {
                self.mode = match value {
                    "install" => Mode::Install,
                    "help" => Mode::Help,
                    "rescue" => Mode::Rescue,
                    "probe" => Mode::Probe,
                    other => return Err(format!("`{other}` is not one of install, help, rescue, probe")),
                }
            }
            "disk" => self.from_disk = true,
            "debug" => self.debug = true,
            _ => return Err("there is no such argument".to_owned()),
        }
        Ok(())
    }
}

/// Splits like the kernel does: at white space, except between double quotes, which are dropped.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.extend(Some(std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|w| !w.is_empty());
    words
}

/// `ADDRESS/LENGTH,GATEWAY[,DNS…]`.
fn parse_ip(value: &str) -> Result<StaticNetwork, String> {
    let mut parts = value.split(',').map(str::trim);
    let address = parts.next().unwrap_or_default();
    parse_prefix(address)?;
    let ip = |what: &str, text: &str| {
        text.parse::<IpAddr>()
            .map(|ip| ip.to_string())
            .map_err(|_| format!("{what} `{text}` is not an address"))
    };
    let gateway = parts.next().filter(|g| !g.is_empty()).map(|g| ip("the gateway", g)).transpose()?;
    let dns = parts.filter(|d| !d.is_empty()).map(|d| ip("the name server", d)).collect::<Result<_, _>>()?;
    Ok(StaticNetwork { addresses: vec![address.to_owned()], gateway, dns, mac: None })
}

/// Reads `ADDRESS/LENGTH`.
pub fn parse_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, length) = text
        .split_once('/')
        .ok_or_else(|| format!("`{text}` is not an address with a prefix length (`/24`)"))?;
    let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is not an address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>() {
        Ok(length) if length <= most => Ok((address, length)),
        _ => Err(format!("`/{length}` is not a prefix length between 0 and {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_its_arguments_and_leaves_the_rest_alone() {
        let c = Cmdline::parse(
            "BOOT_IMAGE=/akene/vmlinuz console=tty0 console=ttyS0,115200 akene.mode=rescue akene.mode=probe \
             akene.server=https://h:8443 \"akene.profile=two words\" akene.disk akene.debug ro\n",
        );
        assert_eq!(c.mode, Mode::Probe);
        assert_eq!(c.server.as_deref(), Some("https://h:8443"));
        assert_eq!(c.profile.as_deref(), Some("two words"));
        assert!(c.debug && c.from_disk && c.issues.is_empty() && c.network.is_none());
        assert_eq!(Cmdline::parse(""), Cmdline::default());
    }

    #[test]
    fn addresses_add_up() {
        let c = Cmdline::parse(
            "akene.ip=192.0.2.5/24,192.0.2.1,192.0.2.2,192.0.2.3 akene.ip=2001:db8::5/64,,2001:db8::53",
        );
        let n = c.network.unwrap();
        assert_eq!(n.addresses, ["192.0.2.5/24", "2001:db8::5/64"]);
        assert_eq!(n.gateway.as_deref(), Some("192.0.2.1"));
        assert_eq!(n.dns, ["192.0.2.2", "192.0.2.3", "2001:db8::53"]);
    }

    #[test]
    fn mistakes_are_reported_one_by_one() {
        for (argument, part) in [
            ("akene.ip=192.0.2.5", "prefix length"),
            ("akene.ip=192.0.2.5/33", "between 0 and 32"),
            ("akene.ip=192.0.2.5/24,router", "the gateway `router`"),
            ("akene.mode=destroy", "not one of"),
            ("akene.sever=https://h", "no such argument"),
            ("akene.profile=", "no value"),
        ] {
            let c = Cmdline::parse(&format!("quiet {argument} akene.debug"));
            assert_eq!(c.issues.len(), 1, "{argument}");
            assert!(c.issues[0].message.contains(part), "{argument}: {}", c.issues[0].message);
            assert!(c.debug);
        }
    }
}
