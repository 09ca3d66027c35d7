//! The menu of an installed machine, by GRUB itself in a virtual machine: whatever becomes of an installer that was ordered,
//! the system is back with nobody near; a system that does not come up lets the installer be reached.
//!
//! The disk is installed on this host, which takes a minute, as the firmware's own; what is broken is broken from outside. The
//! test `native` has the commonest case in every run.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use akene_agent::run::second_root::{self, CHOSEN};
use akene_exec::Cmd;
use akene_protocol::Stamp;
use akene_tests::image::{Image, Opened};
use akene_tests::journey::Built;
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install};
use akene_tests::people::{live_in, sums};
use akene_tests::port::own_port;
use akene_tests::site::{SSH_KEY, Site, TWO_ROOTS, outward_address, program, small_server, with_password};
use akene_tests::vm::{Firmware, Machine, Vm};

use crate::{MINUTE, image, run};

/// What the system shows when it is up, and the installer's kernel before anything else.
const UP: &str = "login:";
const INSTALLER: &str = "akene.mode=install";
const HELP: &str = "akene.mode=help";
const PANIC: &str = "Kernel panic";

/// The first program of a system, and where it is put away.
const INIT: &str = "usr/lib/systemd/systemd";
const AWAY: &str = "usr/lib/systemd/away";

const WHAT: &str = "what can happen to boot menus";

/// An installed machine, and the installer as it lies on a boot partition.
pub(crate) struct Installed {
    pub dir: tempfile::TempDir,
    pub disk: PathBuf,
    pub built: Built,
    pub firmware: Firmware,
    pub mirror: Mirror,
    size: &'static str,
}

impl Installed {
    /// None: it is left out of this run.
    pub fn new(firmware: Firmware, more: &str, what: &str) -> Option<Self> {
        Installed::sized(firmware, "8GiB", more, what)
    }

    fn sized(firmware: Firmware, size: &'static str, more: &str, what: &str) -> Option<Self> {
        if !crate::full(what) {
            return None;
        }
        let (mirror, built) = image()?;
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk.img");
        let installed = Installed { dir, disk, built, firmware, mirror, size };
        installed.install(more);
        installed.put_installer();
        Some(installed)
    }

    /// What the installer does, on this host; a disk that has a system is installed anew.
    fn install(&self, more: &str) {
        let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
        let firmware = if self.firmware == Firmware::Bios { "bios" } else { "uefi64" };
        let options = ["--size", self.size, "--consent", "wipe", "--firmware", firmware, "--packages"];
        let options = [&options[..], &[packages.to_str().unwrap()]].concat();
        let profile = with_password(&small_server(&self.mirror, "127.0.0.1")) + more;
        let outcome = install(&self.disk, &Orders::Profile(&profile), self.dir.path(), &options).unwrap();
        assert!(outcome.good, "{}", outcome.story());
        println!("installed on this host in {:.0} s", outcome.took.as_secs_f64());
    }

    fn boot(&self) -> Opened {
        Opened::new(&self.disk, "AKENE_BOOT").unwrap()
    }

    /// As an installation from a medium leaves it.
    fn put_installer(&self) {
        let boot = self.boot();
        for (from, name) in [
            (self.built.kernel(), "vmlinuz"),
            (self.built.initrd(), "initrd.img"),
            (self.built.kernel().with_file_name("stamp.img"), "stamp.img"),
        ] {
            std::fs::copy(from, boot.path("akene").join(name)).unwrap();
        }
    }

    /// GRUB's environment: sets these, and gives all there is.
    fn environment(&self, set: &[&str]) -> String {
        let boot = self.boot();
        let file = boot.path("grub/grubenv");
        if !set.is_empty() {
            run(Cmd::new("grub-editenv").arg(&file).arg("set").args(set));
        }
        run(Cmd::new("grub-editenv").arg(&file).arg("list"))
    }

    /// With its disk and nothing else.
    pub fn machine(&self) -> Machine {
        let mut machine = Machine::new(self.firmware);
        machine.disks = vec![self.disk.clone()];
        machine
    }

    /// Switches such a machine on, the same one each time.
    pub fn switch_on(&self, machine: &Machine) -> Vm {
        machine.start(&self.dir.path().join("machine")).unwrap()
    }

    fn start(&self) -> Vm {
        self.switch_on(&self.machine())
    }

    /// Switches on and waits for these words one after the other, with nobody touching anything; then switches off in order where
    /// the system is up, else pulls the plug. Gives what the console showed.
    fn shows(&self, words: &[&str]) -> String {
        let mut vm = self.start();
        let limit = vm.accelerator.scale(20 * MINUTE);
        for word in words {
            if let Err(error) = vm.expect(word, limit) {
                panic!("waiting for `{word}`: {error:#}\n{}", vm.console.text());
            }
            println!("{:>5} s {word}", vm.started.elapsed().as_secs());
        }
        let shown = vm.console.text().to_owned();
        if words.last() == Some(&UP) {
            vm.switch_off(10 * MINUTE).unwrap();
        } else {
            vm.pull_the_plug();
        }
        shown
    }

    /// The installer was ordered, and something is wrong with it: `words`, then the system is back. The start after that is its
    /// own again.
    fn comes_back(&self, words: &[&str]) -> String {
        self.environment(&["next_entry=akene-reinstall"]);
        let shown = self.shows(&[words, &[UP]].concat());
        let left = self.environment(&[]);
        assert!(!left.contains("akene-reinstall"), "it would be started again: {left}");
        shown
    }

    fn cut_to(&self, name: &str, bytes: impl Fn(u64) -> u64) {
        let boot = self.boot();
        let file = std::fs::File::options().write(true).open(boot.path("akene").join(name)).unwrap();
        file.set_len(bytes(file.metadata().unwrap().len())).unwrap();
    }

    /// The kernel finds no first program.
    fn a_truncated_initrd(&self) {
        self.cut_to("initrd.img", |_| 1 << 20);
        let shown = self.comes_back(&[INSTALLER, PANIC]);
        assert!(!shown.contains(HELP), "{shown}");
        self.put_installer();
    }

    fn place(&self, name: &str) -> Opened {
        Opened::of(&self.disk, Image::open(&self.disk).unwrap().named(name).unwrap()).unwrap()
    }

    /// From now on the system in this place ends as soon as it begins.
    fn break_down(&self, name: &str) {
        let root = self.place(name);
        std::fs::rename(root.path(INIT), root.path(AWAY)).unwrap();
        std::fs::write(root.path(INIT), "#!/bin/sh\nexit 1\n").unwrap();
        std::fs::set_permissions(root.path(INIT), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A new system that does not come up gives way to the one before it, which is the machine's from then on.
    fn one_beside_another(&self) {
        let first = "This is the first system";
        std::fs::write(self.place("akene-root").path("etc/issue"), format!("{first}\n")).unwrap();
        let uuid = Image::open(&self.disk).unwrap().named("akene-root").unwrap().uuid.clone();
        self.install(TWO_ROOTS);
        self.break_down("akene-spare");
        let environment = self.environment(&["akene_tries=1"]);
        assert!(environment.contains("akene_tries=1"), "{environment}");
        let taken_back = || {
            let menu = std::fs::read_to_string(self.boot().path("grub/grub.cfg")).unwrap();
            !menu.contains(CHOSEN) && !self.boot().path(second_root::DIR).exists()
        };
        assert!(!taken_back());
        // The new one's last start; then GRUB turns back by itself, and nothing on the console says when its agent has come to it.
        self.shows(&[PANIC, "Booting `The system before this one", first, UP]);
        for patience in [1, 2, 4] {
            if taken_back() {
                break;
            }
            let mut vm = self.start();
            for word in [first, UP] {
                vm.expect(word, 20 * MINUTE).unwrap_or_else(|e| panic!("{e:#}\n{}", vm.console.text()));
            }
            std::thread::sleep(MINUTE * patience);
            vm.switch_off(10 * MINUTE).unwrap();
        }
        assert!(taken_back());
        let left = self.environment(&[]);
        assert!(!left.contains("akene_tries") && !left.contains("akene_back"), "{left}");
        assert_eq!(second_root::proven(&self.boot().path("")).as_deref(), Some(uuid.as_str()));
        let shown = self.shows(&[first, UP]);
        assert!(!shown.contains("The system before this one"), "{shown}");
    }

    fn one_that_does_not_come_up(&self) {
        let environment = self.environment(&["akene_tries=1"]);
        assert!(environment.contains("akene_tries=1"), "{environment}");
        self.break_down("akene-root");
        // Its last start, and then the installer's turn.
        self.shows(&[PANIC, HELP]);
        assert!(self.environment(&[]).contains("akene_tries=1"));
        {
            let root = self.place("akene-root");
            std::fs::rename(root.path(AWAY), root.path(INIT)).unwrap();
        }
        // It gets every other start, and once it is up that is over.
        self.shows(&[UP]);
        assert!(!self.environment(&[]).contains("akene_tries"));
    }
}

/// The password `hunter2 hunter2`, as `grub-mkpasswd-pbkdf2` makes it.
fn menu_password() -> String {
    let asked = Cmd::new("grub-mkpasswd-pbkdf2").args(["-c", "1000"]).stdin("hunter2\nhunter2\n");
    let said = run(asked);
    let hash = said.split_whitespace().find(|word| word.starts_with("grub.pbkdf2.")).unwrap();
    hash.to_owned()
}

/// What an upgrade of the kernel and of GRUB does, by the packages themselves, and what administrators do besides. One of the kernels
/// is another than the one there was.
const UPGRADE: &str = r#"#!/bin/sh
export DEBIAN_FRONTEND=noninteractive
disk=/dev/disk/by-id/virtio-AKT0001-0
(
  set -ex
  echo "grub-pc grub-pc/install_devices multiselect $disk" | debconf-set-selections
  dpkg --install /root/debs/*.deb
  update-grub
  if [ ! -d /sys/firmware/efi ]; then grub-install $disk; else grub-install; fi
  sync
) > /root/upgrade.log 2>&1
echo "UPGRADE ENDED $?" > /dev/ttyS0
"#;

const UNIT: &str = "[Service]\nType=oneshot\nExecStart=/bin/sh /root/upgrade.sh\n";

/// Fetches a kernel of the same kind that is not installed, as the host's apt finds it, to this directory.
fn other_kernel(status: &str, to: &Path) {
    // 6.1.0, 57, cloud-amd64
    let parts = |name: &str| -> Option<[String; 3]> {
        let parts: Vec<_> = name.strip_prefix("linux-image-")?.splitn(3, '-').map(str::to_owned).collect();
        parts.try_into().ok().filter(|[_, number, _]: &[String; 3]| number.parse::<u32>().is_ok())
    };
    let there = status.lines().filter_map(|line| line.strip_prefix("Package: ")).find_map(parts).unwrap();
    let names = run(Cmd::new("apt-cache").args(["pkgnames", "linux-image-"]));
    let alike = |name: &&str| parts(name).is_some_and(|p| p[2] == there[2] && p != there);
    let other = names.lines().find(alike).unwrap_or_else(|| panic!("apt knows no other kernel: {names}"));
    run(Cmd::new("env").arg("--chdir").arg(to).args(["apt-get", "download", "-qq", other]));
}

impl Installed {
    /// What a kernel that GRUB refuses, half an installer, and one that begins and finds itself damaged come to.
    fn other_damages(&self) {
        // GRUB reads the file and says no; nobody presses the key it would like.
        self.cut_to("vmlinuz", |_| 1 << 20);
        assert!(self.environment(&[]).contains("akene_tries=5"), "a new system's starts are counted");
        self.comes_back(&["Booting `Reinstall this computer"]);
        assert!(!self.environment(&[]).contains("akene_tries"), "it came up");
        self.put_installer();
        // Without one of its files there is no entry.
        std::fs::remove_file(self.boot().path("akene/initrd.img")).unwrap();
        let shown = self.comes_back(&[]);
        assert!(!shown.contains("Reinstall this computer"), "{shown}");
        self.put_installer();
        // The first program starts and misses the rest: it says so, and lets go after five minutes.
        self.cut_to("initrd.img", |all| all / 2);
        self.comes_back(&[INSTALLER, "live-system-broken"]);
        self.put_installer();
    }

    /// Half an installation starts the installer, even with the finished system's menu.
    fn a_power_cut_before_the_end(&self) {
        let rename = |from: &str, to: &str| {
            let boot = self.boot();
            std::fs::rename(boot.path(from), boot.path(to)).unwrap();
        };
        let (mark, away) = ("akene/state/installed", "akene/state/away");
        rename(mark, away);
        self.shows(&[INSTALLER]);
        rename(away, mark);
    }

    fn upgrades(&self) {
        let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
        let grub = std::fs::read(self.boot().path("grub/grub.cfg")).unwrap();
        std::fs::write(self.boot().path("grub/grub.cfg"), [&grub[..], b"# before the upgrade\n"].concat())
            .unwrap();
        {
            let root = Opened::new(&self.disk, "akene-root").unwrap();
            let status = std::fs::read_to_string(root.path("var/lib/dpkg/status")).unwrap();
            let wanted = ["grub", "shim", "linux-image"];
            let mut found = 0;
            std::fs::create_dir_all(root.path("root/debs")).unwrap();
            for paragraph in status.split("\n\n") {
                let field =
                    |name: &str| paragraph.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
                let (name, version) = (field("Package: "), field("Version: "));
                if wanted.iter().any(|prefix| name.starts_with(prefix)) {
                    let begin = format!("{name}_{}_", version.replace(':', "%3a"));
                    let other = format!("{name}_{}_", version.split_once(':').map_or(version, |(_, v)| v));
                    let deb =
                        std::fs::read_dir(&packages).unwrap().flatten().map(|e| e.path()).find(|path| {
                            let file = path.file_name().unwrap().to_string_lossy().into_owned();
                            file.starts_with(&begin) || file.starts_with(&other)
                        });
                    let deb =
                        deb.unwrap_or_else(|| panic!("{name} {version} is not in {}", packages.display()));
                    std::fs::copy(&deb, root.path("root/debs").join(format!("{name}.deb"))).unwrap();
                    found += 1;
                }
            }
            assert!(found >= 3, "a kernel and boot loaders");
            other_kernel(&status, &root.path("root/debs"));
            std::fs::write(root.path("root/upgrade.sh"), UPGRADE).unwrap();
            std::fs::write(root.path("etc/systemd/system/upgrade.service"), UNIT).unwrap();
            let wants = root.path("etc/systemd/system/multi-user.target.wants/upgrade.service");
            std::os::unix::fs::symlink("../upgrade.service", wants).ok();
        }
        {
            // People can log in long before.
            let mut vm = self.start();
            let limit = vm.accelerator.scale(40 * MINUTE);
            if let Err(error) = vm.expect("UPGRADE ENDED", limit) {
                panic!("waiting for the upgrade: {error:#}\n{}", vm.console.text());
            }
            println!("{:>5} s upgraded", vm.started.elapsed().as_secs());
            vm.switch_off(10 * MINUTE).unwrap();
        }
        let root = Opened::new(&self.disk, "akene-root").unwrap();
        let log = std::fs::read_to_string(root.path("root/upgrade.log")).unwrap();
        std::fs::remove_file(root.path("etc/systemd/system/multi-user.target.wants/upgrade.service"))
            .unwrap();
        drop(root);
        assert!(log.contains("+ sync"), "the upgrade broke off:\n{log}");
        let menu = std::fs::read_to_string(self.boot().path("grub/grub.cfg")).unwrap();
        assert!(!menu.contains("# before the upgrade"), "it was not made anew:\n{log}");
        let kernels: BTreeSet<_> =
            menu.split("/vmlinuz-").skip(1).map(|rest| rest.split_whitespace().next()).collect();
        assert_eq!(kernels.len(), 2, "the menu has one of them only: {kernels:?}\n{log}");
        // The entry is there still, and starts the installer.
        self.environment(&["next_entry=akene-reinstall"]);
        self.shows(&[INSTALLER]);
        // It finds its way on a disk that the system's own tools have changed, and what it makes starts.
        let people = || sums(&Opened::new(&self.disk, "akene-home").unwrap().path(""));
        live_in(&Opened::new(&self.disk, "akene-home").unwrap().path(""));
        let before = people();
        self.install("");
        assert_eq!(people(), before, "people's files");
        self.shows(&[UP]);
        assert!(!Opened::new(&self.disk, "akene-root").unwrap().path("root/upgrade.log").exists());
    }

    /// Who only passes by starts the system and nothing else; what was ordered asks nobody.
    fn a_password(&self) {
        let mut vm = self.start();
        let soon = vm.accelerator.scale(3 * MINUTE);
        vm.expect("Reinstall this computer", soon).unwrap();
        vm.console.press("\x05").unwrap();
        vm.expect("*Reinstall this computer", soon).unwrap();
        vm.console.press("\r").unwrap();
        vm.expect("Enter username", soon).unwrap();
        vm.pull_the_plug();
        self.shows(&[UP]);
        self.environment(&["next_entry=akene-reinstall"]);
        let shown = self.shows(&[INSTALLER]);
        assert!(!shown.contains("Enter username"), "{shown}");
    }
}

/// Kernel and boot loader are made anew by the system itself.
fn upgraded(firmware: Firmware) {
    let Some(machine) = Installed::new(firmware, "", WHAT) else { return };
    machine.upgrades();
}

#[test]
fn upgraded_on_a_bios() {
    upgraded(Firmware::Bios);
}

#[test]
fn upgraded_with_uefi() {
    upgraded(Firmware::Uefi);
}

/// All that can happen to an installer that was ordered.
fn a_damaged_installer(firmware: Firmware) {
    let Some(machine) = Installed::new(firmware, "", WHAT) else { return };
    machine.other_damages();
    machine.a_truncated_initrd();
}

#[test]
fn whatever_happens_to_the_installer_on_a_bios() {
    a_damaged_installer(Firmware::Bios);
}

#[test]
fn whatever_happens_to_the_installer_with_uefi() {
    a_damaged_installer(Firmware::Uefi);
}

/// Half an installation, and a system that was up once and is not any more.
fn a_broken_system(firmware: Firmware) {
    let Some(machine) = Installed::new(firmware, "", WHAT) else { return };
    machine.a_power_cut_before_the_end();
    machine.one_that_does_not_come_up();
}

#[test]
fn whatever_happens_to_the_system_on_a_bios() {
    a_broken_system(Firmware::Bios);
}

#[test]
fn whatever_happens_to_the_system_with_uefi() {
    a_broken_system(Firmware::Uefi);
}

#[test]
fn a_system_that_does_not_come_up_gives_way_to_the_one_before_it() {
    let Some(machine) = Installed::sized(Firmware::Bios, "12GiB", TWO_ROOTS, WHAT) else { return };
    machine.one_beside_another();
}

#[test]
fn a_menu_with_a_password() {
    let boot = format!("\n[boot]\npassword = \"{}\"\n", menu_password());
    let Some(mut machine) = Installed::new(Firmware::Bios, &boot, WHAT) else { return };
    machine.a_password();
    // The disk starts in another kind of computer, too.
    machine.firmware = Firmware::Uefi;
    machine.a_password();
}

/// A machine whose system does not come up waits for help, and its administrator logs in from outside.
#[test]
fn an_administrator_gets_in_while_a_machine_waits_for_help() {
    let Some(host) = outward_address().filter(|_| crate::full(WHAT)) else { return };
    let Some((mirror, built)) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("admin");
    run(Cmd::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key));
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let profile = small_server(&mirror, "127.0.0.1").replace(SSH_KEY, public.trim());
    let mut site = Site::new(dir.path(), &host, &profile).unwrap();
    site.start().unwrap();
    let disk = dir.path().join("disk.img");
    let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
    let size = "8GiB";
    let options = ["--size", size, "--packages", packages.to_str().unwrap()];
    let outcome = install(&disk, &Orders::Stamp(site.stamp()), dir.path(), &options).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    let machine = Installed { dir, disk, built, firmware: Firmware::Bios, mirror, size };
    machine.put_installer();
    let stamp: Stamp = serde_json::from_slice(&std::fs::read(site.stamp()).unwrap()).unwrap();
    std::fs::write(machine.boot().path("akene/stamp.img"), stamp.to_area().unwrap()).unwrap();
    machine.environment(&["akene_tries=0"]);
    let known = {
        let root = Opened::new(&machine.disk, "akene-root").unwrap();
        std::fs::read_to_string(root.path("etc/ssh/ssh_host_ed25519_key.pub")).unwrap()
    };

    let port = own_port().unwrap();
    let mut described = Machine::new(Firmware::Bios);
    (described.disks, described.ssh) = (vec![machine.disk.clone()], Some(port));
    let mut vm = described.start(&machine.dir.path().join("waits")).unwrap();
    let limit = vm.accelerator.scale(15 * MINUTE);
    for word in [HELP, "administrators can log in"] {
        vm.expect(word, limit).unwrap_or_else(|e| panic!("{e:#}\n{}", vm.console.text()));
    }
    let hosts = machine.dir.path().join("known");
    std::fs::write(&hosts, format!("[127.0.0.1]:{port} {known}")).unwrap();
    let ssh = Cmd::new("ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", hosts.display()))
        .args(["-tt", "-p", &port.to_string(), "-i"])
        .arg(&key)
        .args(["root@127.0.0.1", "id -u; tty; cat /proc/cmdline; lsblk -no LABEL /dev/vda"])
        .timeout(10 * MINUTE);
    let said = run(ssh);
    for part in ["0\r\n/dev/pts/", HELP, "akene-root"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let asset = site.machines().unwrap()[0]["asset"].as_str().unwrap().to_owned();
    let events = run(Cmd::new(program("akene-server").unwrap()).arg("events").arg(&site.dir).arg(&asset));
    assert!(events.contains("administrators can log in: ssh root@"), "{events}");
    vm.pull_the_plug();
}
