//! Whether the initramfs that is made beside the rest counts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use akene_archive::Later;
use akene_exec::{Cmd, Runner, SystemRunner};

fn put(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

const INITRAMFS: &str = "boot/initrd.img-6.12";

/// A kernel, and a maker of the initramfs that puts the hardware database into it, if there is one.
fn with_kernel(root: &Path) {
    put(&root.join("boot/vmlinuz-6.12"), "", 0o644);
    let maker = "#!/bin/sh\ncd ${0%/*}/../..\ndir=boot\n[ \"$4\" = -b ] && dir=.$5\n\
                 cat /dev/null $(ls hwdb.bin 2>/dev/null) > $dir/initrd.img-6.12\n";
    put(&root.join("usr/sbin/update-initramfs"), maker, 0o755);
}

fn wait_for(path: &Path) {
    for _ in 0..400 {
        if path.exists() {
            break;
        }
        thread::sleep(Duration::from_millis(25));
    }
}

/// Killed where memory was short, say. It goes well when packages are set up; what was made before lacks it, and no
/// setting shows that.
#[test]
fn no_initramfs_is_made_early_of_lists_that_could_not_be_made() {
    let at_once = "echo hwdb > $0/hwdb.bin";
    let second_time = "[ -e $0/tried ] && echo hwdb > $0/hwdb.bin; went=$?; touch $0/tried; exit $went";
    for (hwdb, expected) in [(at_once, true), (second_time, false)] {
        let dir = tempfile::tempdir().unwrap();
        let (root, tools) = (dir.path().join("root"), dir.path().join("tools"));
        with_kernel(&root);
        let later = Later::new(&tools, &root);
        later.prepare(tools.to_str().unwrap()).unwrap();
        let inside = |program: &str| match program {
            "update-initramfs" => Cmd::new(root.join("usr/sbin/update-initramfs")),
            "systemd-hwdb" => Cmd::new("sh").args(["-c", hwdb]).arg(&root),
            // For the kernel that runs, which the root does not have.
            "depmod" => Cmd::new("sh").args(["-c", "[ $1 != -a ] && touch $0/$1"]).arg(&root),
            _ => Cmd::new("true"),
        };
        let call = |program: &str, arg: &str| {
            SystemRunner.run(&Cmd::new(tools.join("bin").join(program)).arg(arg)).unwrap();
        };
        let set_up = || {
            call("depmod", "-a");
            call("systemd-hwdb", "update");
            later.start_early(&SystemRunner, &inside)?;
            // When this is there, it has been decided.
            call("depmod", "7");
            wait_for(&root.join("7"));
            Ok(())
        };
        later.beside(&SystemRunner, &inside, set_up).unwrap();
        let early = later.run(&SystemRunner, &inside, &mut |_| {}).unwrap();
        assert_eq!(early, expected, "{hwdb}");
        assert_eq!(fs::read_to_string(root.join(INITRAMFS)).unwrap(), "hwdb\n", "{hwdb}");
    }
}
