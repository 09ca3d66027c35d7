//! Cards, cables and addresses, for real: the agent's network phase in a network namespace, with a cable
//! (a `veth` pair) into another namespace where somebody else's network is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, Runner, Running, Streams, SystemRunner};
use serde_json::Value;

/// A machine and somebody else's network, as two network namespaces that end with the test.
struct Lan {
    machine: String,
    network: String,
    dir: tempfile::TempDir,
}

impl Lan {
    /// `None`, said loudly, where namespaces cannot be made.
    fn new(name: &str) -> Option<Lan> {
        let unique = format!("{}{name}", std::process::id());
        let lan = Lan {
            machine: format!("am{unique}"),
            network: format!("an{unique}"),
            dir: tempfile::tempdir().unwrap(),
        };
        for namespace in [&lan.machine, &lan.network] {
            if let Err(error) = SystemRunner.run(&Cmd::new("ip").args(["netns", "add", namespace])) {
                eprintln!("SKIPPED {name}: network namespaces cannot be made here: {error:#}");
                return None;
            }
        }
        Some(lan)
    }

    /// A card in the machine with a cable to a card of the same name in the network.
    fn cable(&self, card: &str) -> &Self {
        let (machine, network) = (&self.machine, &self.network);
        run(&[
            "ip", "-n", machine, "link", "add", card, "type", "veth", "peer", "name", card, "netns", network,
        ]);
        run(&["ip", "-n", network, "link", "set", card, "up"]);
        self
    }

    fn in_network(&self, words: &[&str]) -> Cmd {
        Cmd::new("ip").args(["netns", "exec", &self.network]).args(words)
    }

    fn in_machine(&self, words: &[&str]) -> String {
        let cmd = Cmd::new("ip").args(["netns", "exec", &self.machine]).args(words);
        SystemRunner.run(&cmd).unwrap().text()
    }

    fn log(&self, name: &str) -> File {
        File::create(self.dir.path().join(name)).unwrap()
    }

    /// busybox's DHCP server on a card of the network.
    fn dhcp_server(&self, card: &str, address: &str, options: &str) -> Running {
        run(&["ip", "-n", &self.network, "addr", "add", address, "dev", card]);
        let (base, _) = address.rsplit_once('.').unwrap();
        let configuration = self.dir.path().join(format!("udhcpd-{card}.conf"));
        let text = format!(
            "interface {card}\nstart {base}.100\nend {base}.110\nlease_file {dir}/{card}.leases\npidfile {dir}/{card}.pid\nopt subnet 255.255.255.0\nopt lease 600\n{options}",
            dir = self.dir.path().display()
        );
        fs::write(&configuration, text).unwrap();
        fs::write(self.dir.path().join(format!("{card}.leases")), "").unwrap();
        self.in_network(&["busybox", "udhcpd", "-f", configuration.to_str().unwrap()])
            .spawn(Streams::Log(self.log("udhcpd.log")))
            .unwrap()
    }

    /// The network phase, to its end.
    fn bring_up(&self, fixed: Option<&Value>) -> Value {
        let state = self.state();
        let mut cmd = Cmd::new("ip")
            .args(["netns", "exec", &self.machine, env!("CARGO_BIN_EXE_net_agent"), "bring-up"])
            .arg(&state)
            .env("AKENE_RESOLV_CONF", self.dir.path().join("resolv.conf"))
            .timeout(Duration::from_secs(120));
        if let Some(fixed) = fixed {
            cmd = cmd.arg(fixed.to_string());
        }
        let output = SystemRunner.run(&cmd).unwrap();
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        output.json().unwrap()
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn resolv_conf(&self) -> String {
        fs::read_to_string(self.dir.path().join("resolv.conf")).unwrap_or_default()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for namespace in [&self.machine, &self.network] {
            // It may never have been made.
            SystemRunner.run(&Cmd::new("ip").args(["netns", "del", namespace])).ok();
        }
    }
}

fn run(words: &[&str]) {
    SystemRunner.run(&Cmd::new(words[0]).args(&words[1..])).unwrap();
}

fn code(outcome: &Value) -> &str {
    outcome["issue"]["code"].as_str().unwrap_or_else(|| panic!("no issue in {outcome}"))
}

fn has_busybox() -> bool {
    let there = ["/bin/busybox", "/usr/bin/busybox"].iter().any(|p| Path::new(p).exists());
    if !there {
        eprintln!("SKIPPED: no busybox on this machine");
    }
    there
}

#[test]
fn no_card_no_cable_no_address_are_three_things() {
    let Some(lan) = Lan::new("a") else { return };
    assert_eq!(code(&lan.bring_up(None)), "no-network-card");
    lan.cable("eth0");
    run(&["ip", "-n", &lan.network, "link", "set", "eth0", "down"]);
    let outcome = lan.bring_up(None);
    assert_eq!(code(&outcome), "no-cable");
    assert!(outcome["issue"]["path"].as_str().unwrap().contains("eth0"), "{outcome}");
    if !has_busybox() {
        return;
    }
    run(&["ip", "-n", &lan.network, "link", "set", "eth0", "up"]);
    assert_eq!(code(&lan.bring_up(None)), "no-address");
}

#[test]
fn dhcp_gives_address_way_out_and_names() {
    let (Some(lan), true) = (Lan::new("b"), has_busybox()) else { return };
    lan.cable("eth0");
    let options = "opt router 198.51.100.1\nopt dns 198.51.100.53 198.51.100.54\nopt domain lan.example\nopt ntpsrv 198.51.100.123\n";
    let _server = lan.dhcp_server("eth0", "198.51.100.1/24", options);
    let outcome = lan.bring_up(None);
    let address = outcome["ok"]["addresses"][0][1].as_str().unwrap_or_else(|| panic!("{outcome}"));
    assert!(address.starts_with("198.51.100.1"), "{outcome}");
    assert_eq!(outcome["ok"]["name-servers"], serde_json::json!(["198.51.100.53", "198.51.100.54"]));
    assert_eq!(outcome["ok"]["ntp"], serde_json::json!(["198.51.100.123"]));
    assert!(
        lan.resolv_conf().contains("search lan.example\nnameserver 198.51.100.53\n"),
        "{}",
        lan.resolv_conf()
    );
    let routes = lan.in_machine(&["ip", "route"]);
    assert!(routes.contains("default via 198.51.100.1 dev eth0"), "{routes}");
    lan.in_machine(&["busybox", "ping", "-c", "1", "-W", "5", "198.51.100.1"]);
}

#[test]
fn the_card_with_a_network_wins_over_the_one_without() {
    let (Some(lan), true) = (Lan::new("c"), has_busybox()) else { return };
    // eth0 leads to a network where nobody answers, eth1 has no cable, eth2 is the one.
    lan.cable("eth0").cable("eth1").cable("eth2");
    run(&["ip", "-n", &lan.network, "link", "set", "eth1", "down"]);
    let _server = lan.dhcp_server("eth2", "203.0.113.1/24", "opt router 203.0.113.1\nopt dns 203.0.113.1\n");
    let outcome = lan.bring_up(None);
    assert_eq!(outcome["ok"]["addresses"][0][0], "eth2", "{outcome}");
}

#[test]
fn router_advertisements_give_addresses_and_name_servers() {
    let Some(lan) = Lan::new("d") else { return };
    if !Path::new("/proc/sys/net/ipv6").exists() {
        eprintln!("SKIPPED: this kernel has no IPv6");
        return;
    }
    lan.cable("eth0");
    let words = [env!("CARGO_BIN_EXE_net_agent"), "advertise", "eth0", "2001:db8:7::", "2001:db8:7::53"];
    let _router = lan.in_network(&words).spawn(Streams::Log(lan.log("router.log"))).unwrap();
    let outcome = lan.bring_up(None);
    let address = outcome["ok"]["addresses"][0][1].as_str().unwrap_or_else(|| panic!("{outcome}"));
    assert!(address.starts_with("2001:db8:7:"), "{outcome}");
    assert_eq!(outcome["ok"]["name-servers"], serde_json::json!(["2001:db8:7::53"]));
    assert!(lan.resolv_conf().contains("nameserver 2001:db8:7::53\n"));
    let routes = lan.in_machine(&["ip", "-6", "route"]);
    assert!(routes.contains("default via fe80:"), "{routes}");
}

#[test]
fn a_fixed_address_is_used_where_its_gateway_answers() {
    let (Some(lan), true) = (Lan::new("e"), has_busybox()) else { return };
    // Otherwise Linux answers for an address of one card on all its cards.
    let strict = "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore";
    SystemRunner.run(&lan.in_network(&["sh", "-c", strict])).unwrap();
    lan.cable("eth0").cable("eth1");
    run(&["ip", "-n", &lan.network, "addr", "add", "192.0.2.1/24", "dev", "eth1"]);
    let mut fixed = serde_json::json!({
        "addresses": ["192.0.2.50/24"], "gateway": "192.0.2.1", "dns": ["192.0.2.1"], "mac": null
    });
    let outcome = lan.bring_up(Some(&fixed));
    assert_eq!(outcome["ok"]["addresses"], serde_json::json!([["eth1", "192.0.2.50"]]), "{outcome}");
    assert!(
        !lan.in_machine(&["ip", "addr", "show", "dev", "eth0"]).contains("192.0.2.50"),
        "taken away again"
    );
    assert!(lan.resolv_conf().contains("nameserver 192.0.2.1\n"));
    lan.in_machine(&["busybox", "ping", "-c", "1", "-W", "5", "192.0.2.1"]);

    fixed["gateway"] = "192.0.2.9".into();
    let outcome = lan.bring_up(Some(&fixed));
    assert_eq!(code(&outcome), "no-address");
    assert!(outcome["issue"]["message"].as_str().unwrap().contains("192.0.2.9"), "{outcome}");

    fixed["mac"] = "02:00:00:00:00:99".into();
    assert_eq!(code(&lan.bring_up(Some(&fixed))), "no-network-card");
}
