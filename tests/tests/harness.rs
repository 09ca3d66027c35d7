//! The harness itself, where a mistake would look like a fault of what it tests.

use std::time::Duration;

use akene_tests::vm::{Firmware, Machine, blank_disk};

/// A disk whose boot sector writes a line on the serial port and stops.
fn talking_disk(dir: &std::path::Path) -> std::path::PathBuf {
    let disk = blank_disk(&dir.join("disk"), 1 << 20).unwrap();
    let mut sector = Vec::new();
    for letter in b"hello from the disk\r\n" {
        sector.extend([0xba, 0xf8, 0x03, 0xb0, *letter, 0xee]);
    }
    sector.extend([0xf4, 0xeb, 0xfd]);
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &sector, 0).unwrap();
    disk
}

#[test]
fn a_machine_speaks_and_is_ended_with_its_handle() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(Firmware::Bios);
    machine.disks = vec![talking_disk(dir.path())];
    let mut vm = machine.start(dir.path()).unwrap();
    vm.expect("hello from the disk", Duration::from_secs(60)).unwrap();
    assert!(vm.is_on());
    vm.pull_the_plug();
    let sockets = std::os::unix::net::UnixStream::connect(dir.path().join("control"));
    assert!(sockets.is_err(), "QEMU still listens on its control socket");
}

#[test]
fn every_firmware_starts() {
    for firmware in [Firmware::Uefi, Firmware::SecureBoot, Firmware::Uefi32] {
        let dir = tempfile::tempdir().unwrap();
        let mut vm = Machine::new(firmware).start(dir.path()).unwrap();
        // With nothing to start from, firmware asks the network.
        vm.expect("PXE", Duration::from_secs(120)).unwrap_or_else(|e| panic!("{firmware:?}: {e:#}"));
    }
}
