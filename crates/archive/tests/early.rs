//! Whether the initramfs that is made beside the rest counts: with lists that could not be made, and, with dpkg itself,
//! with what packages leave for `initramfs-tools` to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use akene_archive::{Engine, Later, Said};
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

/// A package with a file, a script and triggers.
fn package(dir: &Path, name: &str, fields: &str, postinst: &str, triggers: &str) -> PathBuf {
    let (tree, deb) = (dir.join(name), dir.join(format!("{name}_1_all.deb")));
    let control = format!(
        "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\n{fields}Description: a\n"
    );
    put(&tree.join("DEBIAN/control"), &control, 0o644);
    put(&tree.join("DEBIAN/postinst"), &format!("#!/bin/sh\nset -e\n{postinst}\n"), 0o755);
    put(&tree.join("DEBIAN/triggers"), &format!("{triggers}\n"), 0o644);
    put(&tree.join("usr/share").join(name).join("file"), "a\n", 0o644);
    SystemRunner.run(&Cmd::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&deb)).unwrap();
    deb
}

/// Installs with a package without a say in the initramfs that is set up by this script. Gives whether the initramfs that
/// was made beside it counts, and all calls for one.
fn early(late: &str) -> (bool, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let (root, tools) = (dir.path().join("root"), dir.path().join("tools"));
    let package = |name: &str, fields: &str, postinst: &str, triggers: &str| {
        package(dir.path(), name, fields, postinst, triggers)
    };
    let base = [package("dpkg", "", "", "")];
    let rest = [
        package(
            "initramfs-tools",
            "",
            "if [ $1 = triggered ]; then update-initramfs -u; fi",
            "interest update-initramfs",
        ),
        // Set up after it, as many are that are no part of it.
        package("volumes", "Depends: initramfs-tools\n", "", "activate-noawait update-initramfs"),
        package("other", "Depends: volumes\n", late, ""),
    ];
    with_kernel(&root);
    for link in ["bin", "sbin", "lib"] {
        fs::create_dir_all(root.join("usr").join(link)).unwrap();
        std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
    }
    let later = Later::new(&tools, &root);
    later.prepare(tools.to_str().unwrap()).unwrap();
    let path = format!("{}/bin:{}", tools.display(), std::env::var("PATH").unwrap());
    let inside = |program: &str| {
        let cmd = Cmd::new(program).env("PATH", &path);
        let database = format!("--admindir={}", root.join("var/lib/dpkg").display());
        match program {
            "dpkg" => cmd.arg(database).arg(format!("--instdir={}", root.display())).args([
                "--force-script-chrootless",
                "--force-not-root",
                "--log=/dev/null",
            ]),
            "dpkg-query" => cmd.arg(database),
            _ => cmd,
        }
    };
    let bare = |program: &str| match program {
        "update-initramfs" => Cmd::new(root.join("usr/sbin/update-initramfs")),
        _ => Cmd::new("true"),
    };
    let mut said = |_: Said<'_>| {};
    let mut engine = Engine::new(&root, &SystemRunner, inside, &base, &rest).unwrap();
    engine.base(&mut said).unwrap();
    engine.unpack(&mut said).unwrap();
    let set_up = || {
        engine.configure_for_start(&mut said)?;
        later.start_early(&SystemRunner, &bare)?;
        wait_for(&root.join(".akene-start/initrd.img-6.12"));
        engine.configure(&mut said)
    };
    later.beside(&SystemRunner, &bare, set_up).unwrap();
    let notes = fs::read_to_string(tools.join("later")).unwrap();
    let early = later.run(&SystemRunner, &bare, &mut |_| {}).unwrap();
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    assert!(!status.contains("Triggers-Pending") && !status.contains("Triggers-Awaited"), "{status}");
    (early, notes.lines().map(str::to_owned).collect())
}

#[test]
fn what_was_left_before_the_initramfs_is_made_is_done_before() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/dpkg-deb").exists() {
        eprintln!("SKIPPED: needs to be root, and dpkg");
        return;
    }
    let asked = "update-initramfs\t-u".to_owned();
    assert_eq!(early(":"), (true, vec![asked.clone(), "early".into()]));
    // One whose script does not say what it is about.
    let late = "what=initramfs; dpkg-trigger update-$what";
    assert_eq!(early(late), (false, vec![asked.clone(), "early".into(), asked]));
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
