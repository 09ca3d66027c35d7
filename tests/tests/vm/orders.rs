//! A reinstallation ordered from far away: installed from a medium that is then taken out, or by this host; lived in, and ordered
//! anew by the server's command line, twice in a row, with nobody near the machine. It comes back as itself, with another profile and
//! with the package versions of that profile's lock, and people's files as they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::Cmd;
use akene_tests::checks::{self, Expected};
use akene_tests::image::{Opened, version_of};
use akene_tests::journey::{self, Built, Journey, Put};
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install};
use akene_tests::people::{live_in, sums};
use akene_tests::site::{SSH_KEY, Site, USER, outward_address, program, small_server};
use akene_tests::vm::{Firmware, HOST, Machine};

use crate::{MINUTE, full, image, run};

fn server(site: &Site, command: &[&str], more: &[&str]) -> String {
    let cmd = Cmd::new(program("akene-server").unwrap()).args(command).arg(&site.dir).args(more);
    run(cmd)
}

/// What a machine is called and knows itself by, and its newest run.
fn identity(site: &Site) -> [String; 3] {
    let machines = site.machines().unwrap();
    assert_eq!(machines.len(), 1, "{machines:#?}");
    ["machine", "asset", "run"].map(|key| machines[0][key].as_str().unwrap().to_owned())
}

/// What others know the machine by: its name, its SSH keys, what it proves itself with.
fn known_by(disk: &Path) -> BTreeMap<String, Vec<u8>> {
    let root = Opened::new(disk, "akene-root").unwrap();
    let mut known = BTreeMap::new();
    let keys =
        ["etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "etc/ssh/ssh_host_rsa_key"];
    for name in ["etc/akene/identity.json", "etc/hostname"].into_iter().chain(keys) {
        known.insert(name.to_owned(), std::fs::read(root.path(name)).unwrap());
    }
    known
}

fn people(disk: &Path, move_in: bool) -> BTreeMap<String, String> {
    let home = Opened::new(disk, "akene-home").unwrap();
    if move_in {
        live_in(&home.path(""));
    }
    sums(&home.path(""))
}

/// Switches the installed machine on, orders, and waits until another run has confirmed itself.
fn ordered(site: Site, machine: &Machine, dir: &Path, order: &[&str]) -> Site {
    let before = identity(&site);
    let mut vm = machine.start(&dir.join("machine")).unwrap();
    let begun = Instant::now();
    let said = server(&site, &["order"], &[&[before[1].as_str(), "reinstall"], order].concat());
    println!("{said}");
    let limit = vm.accelerator.scale(60 * MINUTE);
    let mut restarted = false;
    while identity(&site)[2] == before[2] || site.machines().unwrap()[0]["state"] != "confirmed" {
        if !restarted && vm.console.text().contains("akene.mode=install") {
            restarted = true;
            println!("{:>5} s the installer starts", begun.elapsed().as_secs());
        }
        let machines = site.machines().unwrap();
        assert_ne!(machines[0]["state"], "failed", "{machines:#?}\n{}", vm.console.text());
        assert!(vm.is_on() && begun.elapsed() < limit, "{machines:#?}\n{}", vm.console.text());
        std::thread::sleep(Duration::from_secs(2));
    }
    println!("{:>5} s confirmed", begun.elapsed().as_secs());
    assert!(restarted, "{}", vm.console.text());
    let orders = server(&site, &["orders", "list"], &[]);
    assert!(orders.contains("done"), "{orders}");
    vm.switch_off(10 * MINUTE).unwrap();
    site
}

/// Makes it a profile that is installed by its signed lock and in no other way, with a package of the site's own in this version.
fn lock(site: &Site, mirror: &Mirror, name: &str, profile: &str, version: &str) {
    let class = site.dir.join("classes").join(format!("own-{name}"));
    std::fs::create_dir_all(class.join("packages")).unwrap();
    std::fs::write(class.join("class.toml"), "description = \"Ours\"\n").unwrap();
    let control = format!("Package: greeting\nVersion: {version}\nArchitecture: all\n");
    akene_tests::deb::make(&class.join("packages"), &control, &[]).unwrap();
    let profile = profile
        .replace("\"less\"", "\"less\", \"greeting\"")
        .replace("[apt]\n", "[apt]\nlock = \"required\"\n");
    let file = site.dir.join("profiles").join(format!("{name}.toml"));
    std::fs::write(file, format!("classes = [\"own-{name}\"]\n{profile}")).unwrap();
    // The archive has the name it has for the machine, which only itself knows how to reach from here.
    println!("{}", server(site, &["lock"], &[name, "--proxy", &mirror.server.url()]));
}

/// Where a machine has its first system from.
#[derive(Clone, Copy, PartialEq)]
enum First {
    /// A medium, which is taken out when it is installed.
    Medium,
    /// This host, in a minute instead of a quarter of an hour: with the installer a medium leaves, and the firmware's own loader.
    Host,
}

/// Installs on this host. Nobody has started it when this ends.
fn on_this_host(site: &Site, built: &Built, disk: &Path, dir: &Path) {
    let live = dir.join("live");
    std::fs::create_dir(&live).unwrap();
    let initrd = std::fs::read(built.initrd()).unwrap();
    run(Cmd::new("cpio").args(["-idm", "--quiet", "-D"]).arg(&live).stdin(initrd));
    let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
    let more = ["--firmware", "uefi64", "--installer", live.to_str().unwrap(), "--packages"];
    let more = [&more[..], &[packages.to_str().unwrap()]].concat();
    let outcome = install(disk, &Orders::Stamp(site.stamp()), dir, &more).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    println!("installed on this host in {:.0} s", outcome.took.as_secs_f64());
}

fn twice(firmware: Firmware, first: First) {
    if !full("ordered reinstallations in a virtual machine") {
        return;
    }
    // A server that both this host and the machine call by one name, where this host installs.
    let address = match first {
        First::Medium => Some(HOST.to_owned()),
        First::Host => outward_address(),
    };
    let Some(address) = address else { return };
    let Some((mirror, built)) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let profile = small_server(&mirror, HOST);
    let mut site = Site::new(dir.path(), &address, &profile).unwrap();
    let settings = site.dir.join("site.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}\n[limits]\npoll-seconds = 10\n")).unwrap();
    site.start().unwrap();

    let (machine, disk): (Machine, PathBuf) = journey::machine_with_disk(firmware, dir.path(), 8).unwrap();
    let mut site = match first {
        First::Medium => {
            let mut journey =
                Journey::begin(site, &built.iso(), Put::Stick, machine.clone(), dir.path()).unwrap();
            println!("{firmware:?}: {:?}", journey.complete(40 * MINUTE).unwrap());
            journey.shut_down().unwrap()
        }
        First::Host => {
            site.write_profile(&small_server(&mirror, "127.0.0.1")).unwrap();
            on_this_host(&site, &built, &disk, dir.path());
            site.write_profile(&profile).unwrap();
            site
        }
    };
    let (files, known, itself) = (people(&disk, true), known_by(&disk), identity(&site));
    assert!(files.len() > 50, "people live in it");
    // The other profile has one package more, and another one in a newer version.
    lock(&site, &mirror, "default", &profile, "1.0");
    lock(&site, &mirror, "other", &profile.replace("\"less\"", "\"less\", \"bc\""), "2.0");

    for (order, packages, version) in
        [(["--profile", "other"], vec!["bc", "less"], "2.0"), (["--profile", "default"], vec!["less"], "1.0")]
    {
        let before = identity(&site);
        site = ordered(site, &machine, dir.path(), &order);
        let after = identity(&site);
        assert_eq!(after[..2], itself[..2], "it is another machine");
        assert_ne!(after[2], before[2], "there was no other installation");
        assert_eq!(people(&disk, false), files, "people's files");
        assert_eq!(known_by(&disk), known);
        let expected = Expected {
            user: USER.into(),
            ssh_key: SSH_KEY.into(),
            packages: ["openssh-server", "sudo", "grub-common"]
                .into_iter()
                .chain(packages)
                .map(String::from)
                .collect(),
            ..Expected::default()
        };
        checks::installed(&disk, &expected).unwrap();
        assert_eq!(version_of("greeting", &disk).unwrap(), version);
    }
}

#[test]
fn ordered_twice_on_a_bios() {
    twice(Firmware::Bios, First::Medium);
}

#[test]
fn ordered_twice_with_secure_boot() {
    // What a medium does with Secure Boot is seen in `vm`, in every run.
    twice(Firmware::SecureBoot, First::Host);
}
