//! DHCP, as a client of whatever is there.
//!
//! One busybox `udhcpc` per card with a cable, kept for the renewal of its lease. It calls a script on each
//! change; the script is this program again (`akene-agent dhcp-hook ACTION`), which sets address and
//! routes and writes the lease as a JSON file, `NAME.json`, where the network phase finds it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, Running, Streams};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::card::QUICK;
use super::resolv_conf;

/// What a DHCP server gave to one card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The card.
    pub card: String,
    /// Our address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// Ways out, the best first.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Time servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// Domain of this network.
    pub domain: Option<String>,
    /// Who gave the lease.
    pub server: Option<Ipv4Addr>,
}

/// Starts a client on one card.
pub fn start(directory: &Path, card: &str) -> Result<Running> {
    let hook = write_hook(directory)?;
    let log =
        File::create(directory.join(format!("{card}.log"))).context("creating the DHCP client's log")?;
    Cmd::new("busybox")
        .args(["udhcpc", "-f", "-i", card, "-s"])
        .arg(&hook)
        // Three questions five seconds apart, then again after ten seconds, for ever.
        .args(["-t", "3", "-T", "5", "-A", "10", "-V", "akene", "-O", "ntpsrv"])
        .spawn(Streams::Log(log))
        .with_context(|| format!("asking for an address on {card}"))
}

/// udhcpc takes a program without arguments, hence a script of two lines.
fn write_hook(directory: &Path) -> Result<PathBuf> {
    let agent = crate::boot::program().context("finding this program")?;
    let hook = directory.join("dhcp-hook");
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let script = format!(
        "#!/bin/busybox sh\nAKENE_NET_DIR={} exec {} dhcp-hook \"$1\"\n",
        quote(directory),
        quote(&agent)
    );
    fs::write(&hook, script).with_context(|| format!("writing {}", hook.display()))?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))
        .context("making the DHCP script a program")?;
    Ok(hook)
}

/// The last thing a card's client said, for the log.
pub fn last_words(directory: &Path, card: &str) -> String {
    let log = fs::read_to_string(directory.join(format!("{card}.log"))).unwrap_or_default();
    log.lines().last().unwrap_or("the DHCP client said nothing").to_owned()
}

/// What the DHCP client's script does. `env` are the variables udhcpc sets.
pub fn hook(action: &str, env: &dyn Fn(&str) -> Option<String>, runner: &dyn Runner) -> Result<()> {
    let directory = env("AKENE_NET_DIR").map_or_else(|| PathBuf::from(super::DIRECTORY), PathBuf::from);
    let card = env("interface").context("the DHCP client names no card")?;
    let file = directory.join(format!("{card}.json"));
    let ip = |args: &[&str]| runner.run(&Cmd::new("ip").args(args).timeout(QUICK)).map(drop);
    match action {
        "deconfig" => {
            fs::remove_file(&file).ok();
            ip(&["link", "set", "dev", &card, "up"])?;
            ip(&["-4", "addr", "flush", "dev", &card])
        }
        "bound" | "renew" => {
            let lease = Lease::from_env(&card, env)?;
            let old = read(&file);
            if old.as_ref().is_some_and(|old| (old.address, old.prefix) != (lease.address, lease.prefix)) {
                ip(&["-4", "addr", "flush", "dev", &card])?;
            }
            ip(&["-4", "addr", "replace", &format!("{}/{}", lease.address, lease.prefix), "dev", &card])?;
            if let Some(router) = lease.routers.first() {
                add_default_route(runner, &card, &router.to_string())?;
            }
            let text = serde_json::to_string_pretty(&lease).context("writing the lease")?;
            let fresh = file.with_extension("new");
            fs::write(&fresh, text).with_context(|| format!("writing {}", fresh.display()))?;
            fs::rename(&fresh, &file).with_context(|| format!("writing {}", file.display()))?;
            resolv_conf::refresh(&directory)
        }
        // Nothing was changed: the client goes on asking.
        "leasefail" | "nak" => Ok(()),
        other => bail!("the DHCP client asks for the unknown action `{other}`"),
    }
}

/// A default route whose weight is the card's number, so that several cards can have one each.
pub(super) fn add_default_route(runner: &dyn Runner, card: &str, gateway: &str) -> Result<()> {
    let index =
        fs::read_to_string(Path::new("/sys/class/net").join(card).join("ifindex")).unwrap_or_default();
    let metric = (100 + index.trim().parse::<u32>().unwrap_or(0)).to_string();
    let family = if gateway.contains(':') { "-6" } else { "-4" };
    // `onlink`: some providers give a gateway outside the network of the address.
    let route =
        [family, "route", "replace", "default", "via", gateway, "dev", card, "metric", &metric, "onlink"];
    runner.run(&Cmd::new("ip").args(route).timeout(QUICK)).map(drop)
}

impl Lease {
    /// Reads the variables of udhcpc. What cannot be an address is passed over: servers send all sorts of
    /// things in options that do not matter.
    pub(crate) fn from_env(card: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let list = |name: &str| env(name).unwrap_or_default();
        let v4s = |name: &str| {
            list(name).split_whitespace().filter_map(|a| a.parse().ok()).collect::<Vec<Ipv4Addr>>()
        };
        let address = env("ip").and_then(|a| a.parse().ok()).context("the DHCP lease has no address")?;
        let prefix = env("mask").and_then(|m| m.parse().ok()).filter(|&m: &u8| m <= 32);
        let from_mask = env("subnet").and_then(|m| m.parse().ok()).and_then(prefix_of_mask);
        let domain = env("domain")
            .filter(|d| !d.is_empty() && d.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)));
        Ok(Lease {
            card: card.to_owned(),
            address,
            prefix: prefix.or(from_mask).unwrap_or(24),
            routers: v4s("router"),
            dns: v4s("dns").into_iter().map(IpAddr::from).collect(),
            ntp: v4s("ntpsrv"),
            domain,
            server: env("serverid").and_then(|a| a.parse().ok()),
        })
    }
}

fn prefix_of_mask(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() >= 32).then(|| bits.leading_ones() as u8)
}

fn read(file: &Path) -> Option<Lease> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// The lease of one card, if there is one.
pub fn lease_of(directory: &Path, card: &str) -> Option<Lease> {
    read(&directory.join(format!("{card}.json")))
}

/// Forgets the leases of an earlier attempt, whose clients have ended.
pub fn forget_leases(directory: &Path) -> Result<()> {
    for lease in leases(directory) {
        let file = directory.join(format!("{}.json", lease.card));
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(())
}

/// All leases, by card.
pub fn leases(directory: &Path) -> Vec<Lease> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    files.retain(|f: &PathBuf| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    files.iter().filter_map(|f| read(f)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::RecordingRunner;
    use std::collections::HashMap;

    fn env<'a>(directory: &'a Path, pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        let mut map: HashMap<_, _> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        map.insert("AKENE_NET_DIR".into(), directory.display().to_string());
        map.insert("AKENE_RESOLV_CONF".into(), directory.join("resolv.conf").display().to_string());
        move |name| map.get(name).cloned()
    }

    #[test]
    fn a_lease_is_applied_and_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let runner = RecordingRunner::default();
        let pairs = [
            ("interface", "eth0"),
            ("ip", "10.0.2.15"),
            ("subnet", "255.255.255.0"),
            ("mask", "24"),
            ("router", "10.0.2.2 10.0.2.4"),
            ("dns", "10.0.2.3 garbage"),
            ("ntpsrv", "10.0.2.9"),
            ("domain", "lan\nnameserver 6.6.6.6"),
            ("serverid", "10.0.2.2"),
        ];
        hook("bound", &env(dir.path(), &pairs), &runner).unwrap();
        let lease = lease_of(dir.path(), "eth0").unwrap();
        assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(10, 0, 2, 15), 24));
        assert_eq!(lease.dns, [IpAddr::from([10, 0, 2, 3])]);
        assert_eq!(lease.domain, None, "a domain that would write into another file is dropped");
        assert_eq!(leases(dir.path()), [lease]);
        let calls = runner.calls().iter().map(|c| c.join(" ")).collect::<Vec<_>>();
        assert_eq!(calls[0], "ip -4 addr replace 10.0.2.15/24 dev eth0");
        assert!(
            calls[1].starts_with("ip -4 route replace default via 10.0.2.2 dev eth0 metric 1"),
            "{calls:?}"
        );

        hook("deconfig", &env(dir.path(), &pairs), &runner).unwrap();
        assert_eq!(lease_of(dir.path(), "eth0"), None);
    }

    #[test]
    fn masks_and_missing_pieces() {
        assert_eq!(prefix_of_mask(Ipv4Addr::new(255, 255, 240, 0)), Some(20));
        assert_eq!(prefix_of_mask(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(prefix_of_mask(Ipv4Addr::new(255, 255, 255, 255)), Some(32));
        let dir = tempfile::tempdir().unwrap();
        let runner = RecordingRunner::default();
        let error = hook("bound", &env(dir.path(), &[("interface", "eth0")]), &runner).unwrap_err();
        assert!(error.to_string().contains("no address"));
        assert!(hook("explode", &env(dir.path(), &[("interface", "eth0")]), &runner).is_err());
        assert!(hook("leasefail", &env(dir.path(), &[("interface", "eth0")]), &runner).is_ok());
    }
}
