//! Ubuntu itself, where its archive can be reached: installed into a disk image on this host with every default that Ubuntu has, then
//! started with Secure Boot and by a BIOS.

use std::time::Duration;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::can_run;
use akene_tests::mirror::Ubuntu;
use akene_tests::native::{Orders, install, possible};
use akene_tests::secrets::Secrets;
use akene_tests::site::{SSH_KEY, Site, USER, outward_address, with_password};
use akene_tests::vm::{self, Firmware, Machine};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn ubuntu_is_installed_and_starts_in_both_ways() {
    if std::env::var_os("AKENE_FULL").is_none() {
        eprintln!("SKIPPED: takes a gigabyte of packages; scripts/test --full has it");
        return;
    }
    if !possible() || !can_run() {
        return;
    }
    let Some(ubuntu) = Ubuntu::start().unwrap() else { return };
    let dir = tempfile::tempdir().unwrap();
    let host = outward_address();
    let name = host.clone().unwrap_or_else(|| "127.0.0.1".into());
    let mut site = Site::new(dir.path(), &name, &with_password(&profile(&ubuntu))).unwrap();
    site.start().unwrap();
    let image = dir.path().join("disk.img");
    let more = ["--size", "16GiB"];
    let outcome = install(&image, &Orders::Stamp(site.stamp()), dir.path(), &more).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    println!("installed natively in {:.1} s", outcome.took.as_secs_f64());
    // Nothing of Ubuntu is beyond the engine, and nothing is made twice.
    let odd =
        |line: &&str| line.contains(" is left to dpkg: ") || line.contains("initramfs is made once more");
    assert_eq!(outcome.log.lines().filter(odd).collect::<Vec<_>>(), Vec::<&str>::new());
    let secrets = Secrets::of(&site, &image).unwrap();
    secrets.not_in("the log", &outcome.log).unwrap();
    let expected = Expected {
        user: USER.into(),
        ssh_key: SSH_KEY.into(),
        packages: ["ubuntu-minimal", "linux-generic", "shim-signed", "grub-efi-amd64-signed"]
            .map(String::from)
            .into(),
        secrets: secrets.texts(),
        fresh: true,
        ..Expected::default()
    };
    checks::installed(&image, &expected).unwrap();
    if host.is_none() || vm::missing().is_some() {
        eprintln!("SKIPPED: starting the installed system: no address of this host, or no QEMU");
        return;
    }
    for firmware in [Firmware::SecureBoot, Firmware::Bios] {
        let mut machine = Machine::new(firmware);
        machine.disks = vec![image.clone()];
        let mut vm = machine.start(&dir.path().join(format!("{firmware:?}"))).unwrap();
        vm.expect("login:", 20 * MINUTE).unwrap_or_else(|e| panic!("{e:#}\n{}", vm.console.text()));
        println!("{firmware:?}: {:.0} s to the prompt", vm.started.elapsed().as_secs_f64());
        let limit = vm.accelerator.scale(30 * MINUTE);
        let confirmed = site.wait_for("confirmed", limit, || vm.is_on());
        confirmed.unwrap_or_else(|e| panic!("{e:#}\n{}", vm.console.text()));
        secrets.not_in("the serial console", vm.console.text()).unwrap();
        vm.switch_off(10 * MINUTE).unwrap();
    }
    checks::installed(&image, &Expected { fresh: false, ..expected }).unwrap();
}

/// A small one.
fn profile(ubuntu: &Ubuntu) -> String {
    let keys = Cmd::new("gpg").arg("--no-default-keyring").arg("--keyring").arg(&ubuntu.keyring);
    let keys = SystemRunner.run(&keys.args(["--export", "--armor"])).unwrap().text();
    let url = ubuntu.url();
    format!(
        r#"description = "Ubuntu as it is"
locale = "fr_FR.UTF-8"
timezone = "Africa/Dakar"
packages = ["ubuntu-minimal"]

[keyboard]
layout = "fr"

[identity]
hostname = "test-${{asset}}"
username = "{USER}"

[ssh]
install-server = true
authorized-keys = ["{SSH_KEY}"]

[kernel]
arguments = ["console=ttyS0,115200"]

[apt]
distribution = "ubuntu"
suite = "noble"
mirrors = ["{url}"]
security-mirrors = ["{url}"]
key = '''
{keys}'''
"#
    )
}
