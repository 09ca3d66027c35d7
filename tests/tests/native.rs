//! The native path: the whole installation into a disk image on this host, judged by other tools, and
//! then started in a virtual machine until its server knows.

use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::can_run;
use akene_tests::image::Opened;
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install, possible};
use akene_tests::secrets::Secrets;
use akene_tests::site::{Site, outward_address, small_server, with_password};
use akene_tests::vm::{self, Firmware, Machine};

#[test]
fn installs_confirms_and_leaves_the_host_clean() {
    if !possible() || !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::start().unwrap();
    // The machine and this host must both reach the server by one name.
    let host = outward_address();
    let name = host.clone().unwrap_or_else(|| "127.0.0.1".into());
    let mut site = Site::new(dir.path(), &name, &with_password(&small_server(&mirror, "127.0.0.1"))).unwrap();
    site.start().unwrap();

    let image = dir.path().join("disk.img");
    let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
    let more = ["--size", "8GiB", "--packages", packages.to_str().unwrap()];
    let outcome = install(&image, &Orders::Stamp(site.stamp()), dir.path(), &more).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    println!("installed natively in {:.1} s", outcome.took.as_secs_f64());
    assert_eq!(outcome.events_of("installed").len(), 1);
    // What it is made from is known before; each time takes as long as ten packages.
    assert!(!outcome.log.contains("the initramfs is made once more"), "{}", outcome.story());

    // The server knows that it is installed, and not more than that.
    let state = site.wait_for("installed", Duration::from_secs(120), || true).unwrap();
    assert_ne!(state["state"], "confirmed");

    let secrets = Secrets::of(&site, &image).unwrap();
    secrets.not_in("the log", &outcome.log).unwrap();
    let events = outcome.events.iter().map(ToString::to_string).collect::<String>();
    secrets.not_in("the output", &format!("{}{events}", outcome.text)).unwrap();
    secrets.not_shown_by(&site).unwrap();
    secrets.not_told_to_the_kernel(&image).unwrap();
    let expected = Expected { secrets: secrets.texts(), ..Expected::of_small_server() };
    checks::installed(&image, &expected).unwrap();
    host_is_clean(&image);

    if host.is_none() || vm::missing().is_some() {
        eprintln!("SKIPPED: starting the installed system: no address of this host, or no QEMU");
        return;
    }
    let mut machine = Machine::new(Firmware::Bios);
    machine.disks = vec![image.clone()];
    an_installer_that_does_not_start(&image);
    let mut vm = machine.start(&dir.path().join("machine")).unwrap();
    // The kernel panics, restarts by itself, and GRUB has forgotten the order.
    vm.expect("akene.mode=install", Duration::from_secs(1800)).unwrap();
    vm.expect("Kernel panic", Duration::from_secs(1800)).unwrap();
    let limit = vm.accelerator.scale(Duration::from_secs(1800));
    let confirmed = site.wait_for("confirmed", limit, || vm.is_on());
    confirmed.unwrap_or_else(|e| panic!("{e:#}\n{}", vm.console.text()));
    println!("confirmed {:.0} s after it was switched on", vm.started.elapsed().as_secs_f64());
    secrets.not_in("the serial console", vm.console.text()).unwrap();
    vm.switch_off(Duration::from_secs(600)).unwrap();
    let left = SystemRunner
        .run(
            &Cmd::new("grub-editenv")
                .arg(Opened::new(&image, "AKENE_BOOT").unwrap().path("grub/grubenv"))
                .arg("list"),
        )
        .unwrap()
        .text();
    assert!(!left.contains("akene"), "nothing is ordered or counted any more: {left}");
    checks::installed(&image, &Expected { fresh: false, ..expected }).unwrap();
}

/// Orders a reinstall whose installer is damaged: its kernel finds no first program.
fn an_installer_that_does_not_start(disk: &Path) {
    let boot = Opened::new(disk, "AKENE_BOOT").unwrap();
    let names = std::fs::read_dir(boot.path("")).unwrap().flatten().map(|e| e.file_name());
    let kernel = names.filter_map(|n| n.into_string().ok()).find(|n| n.starts_with("vmlinuz-")).unwrap();
    std::fs::copy(boot.path(&kernel), boot.path("akene/vmlinuz")).unwrap();
    for (file, size) in [("akene/initrd.img", 1 << 20), ("akene/stamp.img", 64 << 10)] {
        std::fs::write(boot.path(file), vec![0; size]).unwrap();
    }
    let environment = boot.path("grub/grubenv");
    let edit = || Cmd::new("grub-editenv").arg(&environment);
    let before = SystemRunner.run(&edit().arg("list")).unwrap().text();
    assert!(before.contains("akene_tries=5"), "a new system's starts are counted: {before}");
    SystemRunner.run(&edit().args(["set", "next_entry=akene-reinstall"])).unwrap();
}

/// No loop device, no mount of the image is left.
fn host_is_clean(image: &Path) {
    let loops = SystemRunner.run(&Cmd::new("losetup").arg("-j").arg(image)).unwrap().text();
    assert!(loops.is_empty(), "still attached: {loops}");
    let dir = image.parent().and_then(|d| d.to_str()).unwrap();
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let left: Vec<_> = mounts.lines().filter(|l| l.contains(dir)).collect();
    assert!(left.is_empty(), "still mounted: {left:#?}");
}
