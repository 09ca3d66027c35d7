//! Two places for a root on one disk: a reinstallation by the whole pipeline, into an image on this host, leaves the old system
//! byte for byte as it was and leads back to it; when the new one has confirmed itself, the next one takes the old one's place.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use akene_agent::run::second_root;
use akene_agent::storage::image::Image as Attached;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::Sha256;
use akene_tests::image::{Image, Opened, Part};
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install, possible};
use akene_tests::people::{live_in, sums};
use akene_tests::site::{TWO_ROOTS, program, small_server};

/// The two places.
const PLACES: [&str; 2] = ["akene-root", "akene-spare"];

/// What opens a person's account, as they changed it from one system to the next.
const HASHES: [&str; 2] = [
    "$6$saltsaltsalt$FirstHashOfEvaWhichIsLongEnoughToBeOne",
    "$6$saltsaltsalt$SecondHashOfEvaWhichIsLongEnoughToBeOne",
];

fn place(disk: &Path, name: &str) -> Part {
    Image::open(disk).unwrap().named(name).unwrap().clone()
}

/// The sum of every byte of a partition.
fn bytes(disk: &Path, part: &Part) -> Sha256 {
    struct Piece(std::fs::File, u64, u64);
    impl Read for Piece {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let most = into.len().min((self.2 - self.1) as usize);
            let read = self.0.read_at(&mut into[..most], self.1)?;
            self.1 += read as u64;
            Ok(read)
        }
    }
    let file = std::fs::File::open(disk).unwrap();
    Sha256::of_reader(Piece(file, part.start, part.start + part.size)).unwrap().0
}

/// As an installation from a medium leaves it, as far as the menu asks.
fn put_installer(disk: &Path) {
    let boot = Opened::new(disk, "AKENE_BOOT").unwrap();
    for name in ["vmlinuz", "initrd.img", "stamp.img"] {
        std::fs::write(boot.path("akene").join(name), "an installer").unwrap();
    }
}

/// The sums of kernel and initrd that an entry of the menu starts, and its kernel's arguments. An entry is known by words in it;
/// one whose files are gone is not shown.
fn entry(boot: &Opened, words: &str) -> Option<([Sha256; 2], String)> {
    let menu = std::fs::read_to_string(boot.path("grub/grub.cfg")).unwrap();
    let body = &menu[menu.find(words)?..];
    let line = |kind: &str| {
        let line = body.lines().map(str::trim).find(|l| l.split_whitespace().next() == Some(kind)).unwrap();
        let line = line.split_once(char::is_whitespace).unwrap().1.trim().to_owned();
        let (file, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let bytes = std::fs::read(boot.path(file.trim_start_matches('/'))).ok()?;
        Some((Sha256::of(&bytes), rest.to_owned()))
    };
    let ((kernel, arguments), (initrd, _)) = (line("linux")?, line("initrd")?);
    Some(([kernel, initrd], arguments))
}

/// What the menu starts when nobody chooses and so many starts are left of the new system and of the old one, and how many
/// are left then: its own text, by a shell, whose language is GRUB's where it matters here.
fn chosen(boot: &Opened, tries: &str, back: &str) -> [String; 3] {
    let menu = std::fs::read_to_string(boot.path("grub/grub.cfg")).unwrap();
    let begin = menu.find("### BEGIN /etc/grub.d/01_akene ###").unwrap();
    let end = menu.find("### END /etc/grub.d/01_akene ###").unwrap();
    let top = boot.path("").display().to_string();
    let lines = menu[begin..end].lines().filter(|line| !line.trim_start().starts_with("search "));
    let body = lines.map(|l| l.trim_start().trim_start_matches("set ").to_owned() + "\n").collect::<String>();
    let body = body.replace("; then set ", "; then ").replace("($akene)", top.trim_end_matches('/'));
    let program = format!(
        "default=0 boot_once= akene_tries={tries} akene_back={back}\nsave_env() {{ :; }}\n{body}\n\
         echo $default,$akene_tries,$akene_back"
    );
    let said = SystemRunner.run(&Cmd::new("sh").args(["-c", &program])).unwrap().text();
    said.trim().split(',').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
}

/// A person with an account of their own in the system on this place. Their number is nobody's in any new system.
fn has_account(disk: &Path, root: &Part, hash: &str) {
    let root = Opened::of(disk, root).unwrap();
    for (file, line) in [
        ("passwd", "eva:x:1500:1500:Eva:/home/eva:/bin/bash".to_owned()),
        ("group", "eva:x:1500:".to_owned()),
        ("shadow", format!("eva:{hash}:19000:0:99999:7:::")),
    ] {
        let path = root.path("etc").join(file);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text = text.lines().filter(|l| !l.starts_with("eva:")).map(|l| format!("{l}\n")).collect();
        std::fs::write(&path, text + &line + "\n").unwrap();
    }
}

/// What opens that account there.
fn opens(disk: &Path, root: &Part) -> Option<String> {
    let root = Opened::of(disk, root).unwrap();
    let shadow = std::fs::read_to_string(root.path("etc/shadow")).unwrap();
    shadow.lines().find_map(|line| Some(line.strip_prefix("eva:")?.split(':').next()?.to_owned()))
}

/// What the rescue of the same medium says of repairing the start of the system on this place, and of a password there.
fn rescued(disk: &Path, root: &Part) -> [Result<String, String>; 2] {
    let attached = Attached::attach(disk, 512).unwrap();
    let node = attached.path().to_str().unwrap().to_owned();
    let system = format!("{}p{}", node.trim_start_matches("/dev/"), root.number);
    let said = ["boot", "password"].map(|what| {
        let cmd = Cmd::new(program("akene-agent").unwrap());
        let cmd = cmd.args(["rescue", "--also", &node, what, "--system", &system]);
        SystemRunner.run(&cmd).map(|out| out.text()).map_err(|e| format!("{e:#}"))
    });
    attached.detach().unwrap();
    said
}

/// The system in this place starts, and there is nobody whom its agent could tell.
fn comes_up(disk: &Path, root: &Part) {
    let (boot, system) = (Opened::new(disk, "AKENE_BOOT").unwrap(), Opened::of(disk, root).unwrap());
    let top = tempfile::tempdir().unwrap();
    std::fs::create_dir(top.path().join("proc")).unwrap();
    for (from, name) in [(boot.path(""), "boot"), (system.path("etc"), "etc")] {
        std::os::unix::fs::symlink(from, top.path().join(name)).unwrap();
    }
    let told = format!("BOOT_IMAGE=/vmlinuz root=UUID={} ro", root.uuid);
    std::fs::write(top.path().join("proc/cmdline"), told).unwrap();
    akene_agent::resident::settle(top.path(), &SystemRunner).unwrap();
}

/// Gives the kernel of the system that starts another version, as its next upgrade would. What it holds stays.
fn has_another_kernel(disk: &Path) -> String {
    let boot = Opened::new(disk, "AKENE_BOOT").unwrap();
    let menu = std::fs::read_to_string(boot.path("grub/grub.cfg")).unwrap();
    let version =
        menu[menu.find("/vmlinuz-").unwrap() + "/vmlinuz-".len()..].split_whitespace().next().unwrap();
    for kind in ["vmlinuz", "initrd.img", "System.map", "config"] {
        let from = boot.path(&format!("{kind}-{version}"));
        if from.exists() {
            std::fs::rename(from, boot.path(&format!("{kind}-{version}.other"))).unwrap();
        }
    }
    let other = format!("{version}.other");
    std::fs::write(boot.path("grub/grub.cfg"), menu.replace(version, &other)).unwrap();
    other
}

/// What the system in this place calls its swap space.
fn swap_of(disk: &Path, root: &Part) -> String {
    let table = std::fs::read_to_string(Opened::of(disk, root).unwrap().path("etc/fstab")).unwrap();
    let line = table.lines().find(|line| line.split_whitespace().nth(2) == Some("swap")).unwrap();
    line.split_whitespace().next().unwrap().strip_prefix("UUID=").unwrap().to_owned()
}

#[test]
fn a_reinstallation_leads_back_to_the_old_system_until_the_new_one_has_confirmed_itself() {
    if !possible() || !akene_tests::disks::can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    let mirror = Mirror::start().unwrap();
    let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
    let profile = format!("keep-accounts = true\n{}{TWO_ROOTS}", small_server(&mirror, "127.0.0.1"));
    let install = |more: &[&str]| {
        let options = [more, &["--consent", "wipe", "--packages", packages.to_str().unwrap()]].concat();
        let outcome = install(&disk, &Orders::Profile(&profile), dir.path(), &options).unwrap();
        assert!(outcome.good, "{}", outcome.story());
        println!("installed in {:.0} s", outcome.took.as_secs_f64());
        outcome.events.iter().map(ToString::to_string).collect::<String>() + &outcome.log
    };
    install(&["--size", "12GiB"]);
    put_installer(&disk);
    live_in(&Opened::new(&disk, "akene-home").unwrap().path(""));
    let eva = Opened::new(&disk, "akene-home").unwrap();
    std::fs::create_dir(eva.path("eva")).unwrap();
    std::os::unix::fs::chown(eva.path("eva"), Some(1500), Some(1500)).unwrap();
    drop(eva);
    let files = sums(&Opened::new(&disk, "akene-home").unwrap().path(""));

    // Twice, so that each place is once the old one's. The second time a third system lies in the other place.
    for (old, new, hash) in [(PLACES[0], PLACES[1], HASHES[0]), (PLACES[1], PLACES[0], HASHES[1])] {
        has_account(&disk, &place(&disk, old), hash);
        // The first time the new system's kernel has the same name.
        let other = (old == PLACES[1]).then(|| has_another_kernel(&disk));
        let waits_for = swap_of(&disk, &place(&disk, old));
        let (root, before) = (place(&disk, old), bytes(&disk, &place(&disk, old)));
        let started = {
            let boot = Opened::new(&disk, "AKENE_BOOT").unwrap();
            assert!(entry(&boot, "--id akene-old").is_none(), "there is nothing to go back to");
            assert_eq!(chosen(&boot, "0", "")[0], "akene-help");
            entry(&boot, "menuentry").unwrap()
        };
        let said = install(&[]);
        assert!(said.contains("until then it stays"), "{said}");
        assert!(!said.contains("rollback-not-ready"), "{said}");
        assert!(!said.contains(hash), "a password's hash is shown");
        assert_eq!(opens(&disk, &place(&disk, new)).as_deref(), Some(hash), "another system's account");

        assert_eq!(bytes(&disk, &place(&disk, old)), before, "the old root was written to");
        let made = place(&disk, new);
        assert_ne!(made.uuid, root.uuid);
        let swap = place(&disk, "akene-swap").uuid;
        assert_eq!(swap_of(&disk, &made), swap);
        assert_eq!(waits_for, swap, "the old system would wait for it at each start");
        let boot = Opened::new(&disk, "AKENE_BOOT").unwrap();
        let (_, arguments) = entry(&boot, "menuentry").unwrap();
        assert!(arguments.contains(&format!("root=UUID={}", made.uuid)), "{arguments}");
        let (sums, arguments) = entry(&boot, "--id akene-old").unwrap();
        assert!(arguments.ends_with(" akene.back"), "{arguments}");
        assert!(arguments.contains(&format!("root=UUID={}", root.uuid)), "{arguments}");
        let gone = |other: &String| !boot.path(&format!("vmlinuz-{other}")).exists();
        assert!(other.iter().all(gone), "the old system's kernel lies beside its own");
        assert_eq!(sums, started.0, "the old system's start files are not what they were");
        assert_eq!(second_root::proven(&boot.path("")).as_deref(), Some(root.uuid.as_str()));
        let list = Cmd::new("grub-editenv").arg(boot.path("grub/grubenv")).arg("list");
        assert!(SystemRunner.run(&list).unwrap().text().contains("akene_tries=5"));
        assert_eq!(chosen(&boot, "5", ""), ["0", "4", ""]);
        assert_eq!(chosen(&boot, "0", ""), ["akene-old", "0", "4"]);
        assert_eq!(chosen(&boot, "0", "0"), ["akene-help", "0", "5"]);
        drop(boot);
        // The one that is kept is not the one to mend.
        for said in rescued(&disk, &place(&disk, old)) {
            let said = said.unwrap_err();
            assert!(said.contains("system-not-current"), "{said}");
        }
        for said in rescued(&disk, &made) {
            said.unwrap();
        }

        comes_up(&disk, &made);
        let boot = Opened::new(&disk, "AKENE_BOOT").unwrap();
        assert!(!boot.path(second_root::DIR).exists());
        assert_eq!(second_root::proven(&boot.path("")).as_deref(), Some(made.uuid.as_str()));
        assert_eq!(chosen(&boot, "0", "")[0], "akene-help", "the old system was let go");
        let list = Cmd::new("grub-editenv").arg(boot.path("grub/grubenv")).arg("list");
        let left = SystemRunner.run(&list).unwrap().text();
        assert!(!left.contains("akene_tries") && !left.contains("akene_back"), "{left}");
        drop(boot);
        assert_eq!(bytes(&disk, &place(&disk, old)), before, "its files stay until the next installation");
    }
    let now = Opened::new(&disk, "akene-home").unwrap();
    let mut after = sums(&now.path(""));
    after.retain(|path, _| files.contains_key(path));
    assert_eq!(after, files);
    drop(now);
    Image::open(&disk).unwrap().check_disk().unwrap();
}
