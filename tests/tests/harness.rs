//! The harness itself, where a mistake would look like a fault of what it tests.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner, SystemRunner};
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
    vm.expect("hello from the disk", Duration::from_secs(300)).unwrap();
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
        vm.expect("PXE", Duration::from_secs(600)).unwrap_or_else(|e| panic!("{firmware:?}: {e:#}"));
    }
}

/// `scripts/test` with a cargo that builds nothing: its virtual machines fail, or everything else does, or neither.
#[test]
fn the_whole_run_ends_as_its_two_sides_do_and_says_last_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test");
    let test = script("scripts/test", &std::fs::read_to_string(ours).unwrap());
    script("scripts/deps", "#!/bin/sh\n");
    script("scripts/lint", "#!/bin/sh\n");
    script(
        ".cargo/bin/cargo",
        r#"#!/bin/sh
case "$*" in
  *--no-run*) exit 0 ;;
  *--test\ vm*) side=machines ;;
  test*) side=rest ;;
  *) exit 0 ;;
esac
[ "$FAILS" = $side ] || exit 0
printf 'failures:\n    a_test_of_%s\ntest result: FAILED\nerror: 1 target failed\n' $side
exit 101
"#,
    );
    let run = |fails: &str| {
        let cmd = Cmd::new(&test).env("HOME", dir.path()).env("TMPDIR", dir.path()).env("FAILS", fails);
        SystemRunner.run(&cmd).map(|output| output.text()).map_err(|error| format!("{error:#}"))
    };
    run("nothing").unwrap();
    for side in ["machines", "rest"] {
        let said = run(side).unwrap_err();
        assert!(said.contains("status: 1"), "{said}");
        let (_, last) = said.rsplit_once("What failed:").unwrap();
        assert!(
            last.contains(&format!("a_test_of_{side}")) && last.contains("error: 1 target failed"),
            "{said}"
        );
    }
    let left: Vec<_> = dir.path().read_dir().unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
