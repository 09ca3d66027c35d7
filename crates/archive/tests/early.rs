//! What is made beside dpkg, with dpkg itself: whether the initramfs counts, with lists that could not be made and with what
//! packages leave for `initramfs-tools` to do; and certificates of authorities, with packages that rely on them or not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use akene_archive::{Engine, Later, Said};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::issue::Issues;

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
    for _ in 0..4000 {
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

/// A root, and what packages put off.
struct Rig {
    dir: tempfile::TempDir,
    root: PathBuf,
    tools: PathBuf,
    later: Later,
}

impl Rig {
    /// `None` where there is no dpkg, which is said.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/dpkg-deb").exists() {
            eprintln!("SKIPPED: needs to be root, and dpkg");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (root, tools) = (dir.path().join("root"), dir.path().join("tools"));
        for link in ["bin", "sbin", "lib"] {
            fs::create_dir_all(root.join("usr").join(link)).unwrap();
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
        }
        let later = Later::new(&tools, &root);
        later.prepare(tools.to_str().unwrap()).unwrap();
        Some(Rig { dir, root, tools, later })
    }

    fn package(&self, name: &str, fields: &str, postinst: &str, triggers: &str) -> PathBuf {
        package(self.dir.path(), name, fields, postinst, triggers)
    }

    /// A command that finds the stand-ins, and then what lies in `own`.
    fn inside(&self, program: &str) -> Cmd {
        let (tools, own) = (self.tools.display(), self.dir.path().join("own"));
        let path = format!("{tools}/bin:{}:{}", own.display(), std::env::var("PATH").unwrap());
        let cmd = Cmd::new(program).env("PATH", &path);
        let database = format!("--admindir={}", self.root.join("var/lib/dpkg").display());
        match program {
            "dpkg" => cmd.arg(database).arg(format!("--instdir={}", self.root.display())).args([
                "--force-script-chrootless",
                "--force-not-root",
                "--log=/dev/null",
            ]),
            "dpkg-query" => cmd.arg(database),
            _ => cmd,
        }
    }

    fn engine(&self, rest: &[PathBuf]) -> Engine<'_> {
        let base = [self.package("dpkg", "", "", "")];
        Engine::new(&self.root, &SystemRunner, |program| self.inside(program), &self.later, &base, rest)
            .unwrap()
    }

    /// Installs packages, with `bare` for what is done beside dpkg. Gives whether the initramfs that was made beside it
    /// counts, and all that was left to do at the end.
    fn install(&self, rest: &[PathBuf], bare: &dyn Fn(&str) -> Cmd) -> anyhow::Result<(bool, Vec<String>)> {
        let mut said = |_: Said<'_>| {};
        let mut engine = self.engine(rest);
        engine.base(&mut said)?;
        let rest = || {
            engine.unpack(&mut said)?;
            engine.configure_for_start(&mut said)?;
            self.later.start_early(&SystemRunner, bare)?;
            if self.root.join("usr/sbin/update-initramfs").exists() {
                wait_for(&self.root.join(".akene-start/initrd.img-6.12"));
            }
            engine.configure(&mut said)
        };
        self.later.beside(&SystemRunner, bare, rest)?;
        let notes = fs::read_to_string(self.tools.join("later"))?;
        let early = self.later.run(&SystemRunner, bare, &mut |_| {})?;
        let status = fs::read_to_string(self.root.join("var/lib/dpkg/status"))?;
        assert!(!status.contains("Triggers-Pending") && !status.contains("Triggers-Awaited"), "{status}");
        Ok((early, notes.lines().map(str::to_owned).collect()))
    }
}

/// Installs with a package without a say in the initramfs that is set up by this script. Gives whether the initramfs that
/// was made beside it counts, and all calls for one.
fn early(rig: &Rig, late: &str) -> (bool, Vec<String>) {
    let rest = [
        rig.package(
            "initramfs-tools",
            "",
            "if [ $1 = triggered ]; then update-initramfs -u; fi",
            "interest update-initramfs",
        ),
        // Set up after it, as many are that are no part of it.
        rig.package("volumes", "Depends: initramfs-tools\n", "", "activate-noawait update-initramfs"),
        rig.package("other", "Depends: volumes\n", late, ""),
    ];
    with_kernel(&rig.root);
    let bare = |program: &str| match program {
        "update-initramfs" => Cmd::new(rig.root.join("usr/sbin/update-initramfs")),
        _ => Cmd::new("true"),
    };
    rig.install(&rest, &bare).unwrap()
}

#[test]
fn what_was_left_before_the_initramfs_is_made_is_done_before() {
    let Some(rig) = Rig::new() else { return };
    let asked = "update-initramfs\t-u".to_owned();
    assert_eq!(early(&rig, ":"), (true, vec![asked.clone(), "early".into()]));
    // One whose script does not say what it is about.
    let late = "what=initramfs; dpkg-trigger update-$what";
    let rig = Rig::new().unwrap();
    assert_eq!(early(&rig, late), (false, vec![asked.clone(), "early".into(), asked]));
}

/// As Debian's and Ubuntu's: it collects certificates, and leaves it to the end to tell others.
const AUTHORITIES: [&str; 3] = [
    "ca-certificates",
    "if [ $1 = triggered ]; then update-ca-certificates; else\n\
     update-ca-certificates --hooksdir ''; dpkg-trigger --no-await update-ca-certificates; fi",
    "interest update-ca-certificates",
];

fn authorities(rig: &Rig) -> PathBuf {
    let [name, postinst, triggers] = AUTHORITIES;
    rig.package(name, "Provides: authorities\n", postinst, triggers)
}

/// Installs them and another package, with a collector that ends so; gives who ran it, and how.
fn collected(rig: &Rig, other: PathBuf, ends: &str) -> anyhow::Result<Vec<String>> {
    let ran = rig.dir.path().join("ran");
    let collector = |who: &str| {
        format!(
            "echo {who} \"$@\" >> {}; cat {}/usr/share/ca-certificates/*; {ends}",
            ran.display(),
            rig.root.display()
        )
    };
    put(&rig.root.join("usr/share/ca-certificates/a.crt"), "a\n", 0o644);
    put(
        &rig.dir.path().join("own/update-ca-certificates"),
        &format!("#!/bin/sh\n{}\n", collector("script")),
        0o755,
    );
    let bare = |program: &str| match program {
        "update-ca-certificates" => Cmd::new("sh").args(["-c", &collector("beside"), "sh"]),
        _ => Cmd::new("true"),
    };
    rig.install(&[authorities(rig), other], &bare)?;
    Ok(fs::read_to_string(&ran)?.lines().map(|line| line.trim_end().to_owned()).collect())
}

#[test]
fn certificates_are_collected_once_and_beside_where_no_package_relies_on_them() {
    let Some(rig) = Rig::new() else { return };
    let plain = rig.package("plain", "", ":", "");
    // The second call would make the same of the same.
    assert_eq!(collected(&rig, plain, "").unwrap(), ["beside --hooksdir"]);
    // Who wants to be told is told.
    let rig = Rig::new().unwrap();
    put(&rig.root.join("etc/ca-certificates/update.d/java"), "", 0o755);
    let plain = rig.package("plain", "", ":", "");
    assert_eq!(collected(&rig, plain, "").unwrap(), ["beside --hooksdir", "beside"]);
    // There is more to collect by then.
    let rig = Rig::new().unwrap();
    let (ran, root) = (rig.dir.path().join("ran"), rig.root.display());
    let script = format!(
        // Its script does not say what it is about.
        "for n in $(seq 5000); do [ -e {} ] || sleep 0.02; done; for dir in {root}/usr/local/share/ca*; do echo b > $dir/b.crt; done",
        ran.display()
    );
    fs::create_dir_all(rig.root.join("usr/local/share/ca-certificates")).unwrap();
    let adds = rig.package("adds", "", &script, "");
    assert_eq!(collected(&rig, adds, "").unwrap(), ["beside --hooksdir", "beside"]);
    // A script would have failed, and the package with it.
    let rig = Rig::new().unwrap();
    let plain = rig.package("plain", "", ":", "");
    let refused = |error: anyhow::Error| {
        let issue = &error.downcast_ref::<Issues>().unwrap_or_else(|| panic!("{error:#}")).0[0];
        (issue.code.clone(), issue.path.clone())
    };
    let expected = ("package-failed".to_owned(), "ca-certificates".to_owned());
    assert_eq!(refused(collected(&rig, plain, "exit 3").unwrap_err()), expected);
    // Another attempt would go well, because all links are there, and do nothing of what was left.
    let rig = Rig::new().unwrap();
    let plain = rig.package("plain", "", ":", "");
    let once = format!("[ -e {0} ] || {{ touch {0}; exit 3; }}", rig.dir.path().join("tried").display());
    assert_eq!(refused(collected(&rig, plain, &once).unwrap_err()), expected);
    // Somebody relies on them.
    let rig = Rig::new().unwrap();
    let java = rig.package("java", "Depends: ca-certificates\n", ":", "");
    assert_eq!(collected(&rig, java, "").unwrap(), ["script --hooksdir", "script"]);
}

#[test]
fn who_relies_on_certificates_is_known_before_the_first_script() {
    let Some(rig) = Rig::new() else { return };
    let put_off = |fields: &str, postinst: &str, triggers: &str| {
        rig.later.prepare(rig.tools.to_str().unwrap()).unwrap();
        let other = rig.package("other", fields, postinst, triggers);
        drop(rig.engine(&[authorities(&rig), other]));
        rig.tools.join("bin/update-ca-certificates").exists()
    };
    assert!(put_off("Recommends: ca-certificates\n", "echo https://example.org", "interest x"));
    for (fields, postinst, triggers) in [
        ("Depends: ca-certificates\n", "", ""),
        ("Pre-Depends: libc6, ca-certificates (>= 1)\n", "", ""),
        ("Depends: none | authorities\n", "", ""),
        ("", "wget https://example.org", ""),
        ("", "ls /etc/ssl/certs", ""),
        ("", "make-ssl-cert generate-default-snakeoil", ""),
        ("Depends: git:any\n", "", ""),
        ("", "", "interest update-ca-certificates"),
        ("", "", "activate update-ca-certificates-fresh"),
        ("", "", "activate update-ca-certificates"),
    ] {
        assert!(!put_off(fields, postinst, triggers), "{fields}{postinst}{triggers}");
    }
    // One that only dpkg can read.
    rig.later.prepare(rig.tools.to_str().unwrap()).unwrap();
    put(&rig.dir.path().join("odd_1_all.deb"), "!<arch>\n", 0o644);
    drop(rig.engine(&[authorities(&rig), rig.dir.path().join("odd_1_all.deb")]));
    assert!(!rig.tools.join("bin/update-ca-certificates").exists());
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

/// The next script of a package that is not there yet finds its own control part where this one's was.
#[test]
fn a_first_script_that_fails_leaves_nothing_in_the_way_of_another() {
    let Some(rig) = Rig::new() else { return };
    rig.package("odd", "", "", "");
    let (tree, deb) = (rig.dir.path().join("odd"), rig.dir.path().join("odd_1_all.deb"));
    put(&tree.join("DEBIAN/preinst"), "#!/bin/sh\nexit 1\n", 0o755);
    SystemRunner.run(&Cmd::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&deb)).unwrap();
    let mut engine = Engine::new(
        &rig.root,
        &SystemRunner,
        |program| match program.strip_prefix('/') {
            Some(script) => Cmd::new(rig.root.join(script)),
            None => rig.inside(program),
        },
        &rig.later,
        &[rig.package("dpkg", "", "", "")],
        &[deb],
    )
    .unwrap();
    engine.base(&mut |_| {}).unwrap();
    let error = engine.unpack(&mut |_| {}).unwrap_err();
    assert!(format!("{error:#}").contains("preinst"), "{error:#}");
    assert!(!rig.root.join("var/lib/dpkg/tmp.ci").exists());
}
