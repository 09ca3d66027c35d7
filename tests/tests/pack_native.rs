//! A whole system installed into a disk image by the code that does it on a machine, then started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_agent::probe::{self, ProbeRoot};
use akene_agent::storage::image::Image;
use akene_agent::storage::{Layout, Planned};
use akene_agent::target::{self, Job, Resident, Watch};
use akene_archive::{AptRoot, AptSettings, Fetcher, Progress, redirect_policy};
use akene_exec::{ChrootMounts, Cmd, Runner, SystemRunner};
use akene_protocol::api::Identity;
use akene_protocol::ids::{AssetNumber, MachineId};
use akene_protocol::inventory::{Firmware, FirmwareKind, Inventory, Memory};
use akene_protocol::profile::{Bundle, Layer, parse_layer};
use akene_protocol::resolve::resolve;
use akene_protocol::{Bytes, Issue, Secret};
use akene_tests::disks::can_run;
use akene_tests::mirror::{Mirror, cache_dir};
use akene_tests::standin::Standin;
use akene_tests::vm::{Firmware as VmFirmware, Machine};

/// Keeps what was said, and checks that progress only goes forward.
#[derive(Default)]
struct Notes {
    log: Vec<String>,
    warnings: Vec<Issue>,
    steps: usize,
}

impl Watch for Notes {
    fn progress(&mut self, progress: Progress) {
        assert!(progress.done <= progress.total, "{progress:?}");
        self.steps += 1;
    }
    fn log(&mut self, line: &str) {
        self.log.push(line.to_owned());
    }
    fn warn(&mut self, issue: Issue) {
        self.warnings.push(issue);
    }
}

/// What all profiles of this test have: something of everything.
const SETTINGS: &str = r##"
locale = "fr_FR.UTF-8"
keyboard = { layout = "fr", variant = "oss" }
timezone = "Europe/Paris"
identity = { hostname = "pc-${asset}", username = "lou", realname = "Lou", password = "$6$Nq1Y0m5xQd2x8b0R$S6ErdFCZHREYTqE3MSkHd1DqWvTJ4aB2hM7pcDXCIVcB1Wn0Cv6HX0f8Uz2N5Q3Jr7n4C3m5RZ9bHkS1" }
ssh = { install-server = true, authorized-keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHGl3mSJ2p5bQKQKQKQKQKQKQKQKQKQKQKQKQKQKQKQK lou@example"] }
packages = ["less"]
debconf-selections = ["popularity-contest popularity-contest/participate boolean false"]
late-commands = ["echo done-by-script > /etc/late", { name = "who", script = "#!/bin/sh\nset -e\nid lou\n" }]

[[users]]
name = "eve"
sudo = true
authorized-keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHGl3mSJ2p5bQKQKQKQKQKQKQKQKQKQKQKQKQKQKQKQK eve@example"]

[[files]]
path = "/etc/motd"
content = "Welcome to ${hostname}\n"

[[files]]
path = "/srv/bin/blob"
base64 = "AAEC"
mode = "0750"
owner = "lou:lou"
"##;

struct Installed {
    image: PathBuf,
    layout: Layout,
    notes: Notes,
    /// What each part took.
    times: Vec<(&'static str, Duration)>,
}

/// Installs a profile into `dir/disk.img`, and looks at it while it is mounted.
fn install(
    dir: &Path,
    profile: &str,
    firmware: FirmwareKind,
    keyring: &Path,
    look: impl FnOnce(&Path, &Layout),
) -> Installed {
    let runner = &SystemRunner;
    let mut times = Vec::new();
    let mut since = Instant::now();
    let mut lap = |what: &'static str| {
        times.push((what, since.elapsed()));
        since = Instant::now();
    };
    let file = dir.join("disk.img");
    // A second installation finds the disk of the first.
    let image = match file.exists() {
        true => Image::attach(&file, 512).unwrap(),
        false => Image::create(&file, Bytes::gib(8), 512).unwrap(),
    };
    let name = image.path().file_name().unwrap().to_str().unwrap();
    let found =
        probe::inventory(runner, &ProbeRoot { also: vec![image.path().to_owned()], ..ProbeRoot::default() });
    let inventory = Inventory {
        memory: Memory { total: Bytes::gib(1) },
        firmware: Firmware { kind: firmware, secure_boot: None, vendor: None, version: None, date: None },
        disks: found.disks.iter().filter(|d| d.name == name).cloned().collect(),
        ..found
    };
    let layer = parse_layer(&format!("{SETTINGS}{profile}"), "test.toml").unwrap();
    let bundle = Bundle {
        site: "test".into(),
        name: "test".into(),
        revision: "0".into(),
        classes: vec![("empty".into(), Layer::default())],
        profile: layer,
    };
    let asset = AssetNumber::new(1042);
    let resolved = resolve(&bundle, &inventory, Some(asset)).unwrap();
    let plan = akene_planner::plan(&resolved.storage, &inventory).unwrap();

    let settings = AptSettings { archive: &resolved.archive, keyring, proxy: None };
    let apt = AptRoot::create(&dir.join("apt"), &settings).unwrap();
    apt.update(runner, &mut |_| {}).unwrap();
    lap("package lists");
    let choice = target::choose(&apt, runner, &resolved, &plan, firmware).unwrap();
    lap("solving");
    let debs = dir.join("debs");
    // A second test of this program may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::blocking::Client::builder().redirect(redirect_policy()).build().unwrap();
    Fetcher::new(client).fetch(&choice.lock.packages, &debs, &|_| {}).unwrap();
    lap("fetching");

    // Every test its own machine: UUIDs follow from it, and all share this host's links to them.
    let of_this_test = akene_protocol::Sha256::of(dir.as_os_str().as_encoded_bytes()).0;
    let machine = MachineId(std::array::from_fn(|i| of_this_test[i]));
    let locked = Planned::new(plan, machine).unwrap().lock(runner).unwrap_or_else(|e| panic!("{e:#}"));
    let formatted = locked.partition(runner).unwrap().format(runner, &mut |_| {}).unwrap();
    let root = dir.join("root");
    let mounted = formatted.mount(&root).unwrap();
    lap("disk");
    let identity = Identity { machine, asset, credential: Secret::new("very-secret") };
    let scratch = Path::new("/dev/shm").join(format!("akene-test-{}-{name}", std::process::id()));
    let program = dir.join("program");
    std::fs::write(&program, "#!/bin/sh\necho AKENE-RESIDENT-$1 > /dev/ttyS0\nexec sleep 9999\n").unwrap();
    let consoles = ["ttyS0,115200n8".to_owned()];
    let job = Job {
        layout: &mounted,
        resolved: &resolved,
        choice: &choice,
        debs: &debs,
        apt: Some(&apt),
        resident: Resident { program: &program, config: "{}", identity: Some(&identity) },
        people: &Default::default(),
        firmware,
        this_machine: false,
        consoles: &consoles,
        scratch: &scratch,
        runner,
    };
    // As the pipeline does it before anything else on a boot partition that may be an earlier system's.
    target::take_over(&mounted, &consoles).unwrap();
    let mut notes = Notes::default();
    let went = target::install(&job, &mut notes);
    went.unwrap_or_else(|e| panic!("{e:#}\n{}", notes.log[notes.log.len().saturating_sub(40)..].join("\n")));
    lap("packages");
    let went = target::configure(&job, &mut notes);
    went.unwrap_or_else(|e| panic!("{e:#}\n{}", notes.log[notes.log.len().saturating_sub(40)..].join("\n")));
    lap("settings");
    // What the pipeline does when all is written out.
    target::start_system(&root.join("boot")).unwrap();
    akene_agent::run::boot_files::set_installed(&root.join("boot"), true).unwrap();
    look(&root, &mounted);
    since = Instant::now();
    let layout = (*mounted).clone();
    mounted.unmount().unwrap();
    image.detach().unwrap();
    std::fs::remove_dir_all(&scratch).unwrap();
    let mut times_of_rest = times;
    times_of_rest.push(("writing out", since.elapsed()));
    for (what, time) in &times_of_rest {
        eprintln!("{what:>14}: {:6.1} s", time.as_secs_f64());
    }
    eprintln!("{} packages, {}", choice.lock.packages.len(), choice.lock.download_size());
    Installed { image: file, layout, notes, times: times_of_rest }
}

fn inside(root: &Path, argv: &[&str]) -> String {
    let cmd = Cmd::new(argv[0]).args(&argv[1..]).chroot(ChrootMounts::new(root));
    SystemRunner.run(&cmd).unwrap_or_else(|e| panic!("{e:#}")).text()
}

/// What must be true of every installed system.
fn look_at(root: &Path, layout: &Layout) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let read =
        |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(inside(root, &["dpkg", "--audit"]), "");
    inside(root, &["apt-get", "check"]);
    let states = inside(root, &["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\\n"]);
    let held = inside(root, &["apt-mark", "showhold"]);
    let never = root.join("etc/apt/preferences.d/akene-never").exists();
    assert_eq!(held, if never { "less" } else { "" });
    assert!(states.lines().all(|l| l.trim() == "ii" || (never && l.trim() == "hi")), "{states}");
    assert!(inside(root, &["apt-mark", "showmanual"]).lines().any(|l| l == "less"));
    assert!(inside(root, &["apt-mark", "showauto"]).lines().any(|l| l == "libsystemd-shared"));
    // apt would take nothing away, and knows its own archives' keys.
    assert!(inside(root, &["apt-get", "-s", "autoremove"]).contains(" 0 to remove"));
    for gone in
        ["usr/sbin/policy-rc.d", "run/akene-install", "etc/apt/sources.list", "var/lib/apt/lists/lock"]
    {
        assert!(!root.join(gone).exists(), "{gone} was left");
    }
    for empty in ["run", "tmp", "var/cache/apt/archives/partial"] {
        let found: Vec<_> =
            std::fs::read_dir(root.join(empty)).unwrap().flatten().map(|e| e.path()).collect();
        assert!(found.is_empty(), "left: {found:?}");
    }
    let eatmydata =
        inside(root, &["sh", "-c", "find / -xdev -name '*eatmydata*'; find / -xdev -name '*.dpkg-new'"]);
    assert_eq!(eatmydata, "");
    assert_eq!(read("etc/machine-id"), "");
    assert_eq!(read("etc/hostname"), "pc-10429\n");
    assert_eq!(read("etc/motd"), "Welcome to pc-10429\n");
    assert_eq!(read("etc/late"), "done-by-script\n");
    assert_eq!(read("etc/default/locale"), "LANG=fr_FR.UTF-8\n");
    assert!(inside(root, &["locale", "-a"]).contains("fr_FR.utf8"));
    assert_eq!(
        std::fs::read_link(root.join("etc/localtime")).unwrap(),
        Path::new("/usr/share/zoneinfo/Europe/Paris")
    );
    assert!(read("etc/default/keyboard").contains("XKBLAYOUT=\"fr\""));
    let blob = root.join("srv/bin/blob").metadata().unwrap();
    assert_eq!((blob.permissions().mode() & 0o7777, blob.uid()), (0o750, 1000));
    let shadow = read("etc/shadow");
    assert!(shadow.lines().any(|l| l.starts_with("lou:$6$Nq1Y")), "the password is not the one given");
    assert!(shadow.lines().any(|l| l.starts_with("root:*") || l.starts_with("root:!")), "root is open");
    assert!(
        read("etc/group").lines().any(|l| l.starts_with("sudo:") && l.contains("lou") && l.contains("eve"))
    );
    inside(root, &["visudo", "-c"]);
    let keys = root.join("home/lou/.ssh/authorized_keys").metadata().unwrap();
    assert_eq!((keys.permissions().mode() & 0o777, keys.uid(), keys.gid()), (0o600, 1000, 1000));
    inside(root, &["sh", "-c", "mkdir -p /run/sshd && sshd -t"]);
    let identity = root.join("etc/akene/identity.json").metadata().unwrap();
    assert_eq!((identity.permissions().mode() & 0o777, identity.uid()), (0o600, 0));
    // Nothing tells the secret but the file that has to.
    let secret = inside(root, &["sh", "-c", "grep -rl very-secret /etc /var /boot /home /root | sort"]);
    assert_eq!(secret, "/etc/akene/identity.json");
    // fstab as mount itself reads it.
    let wanted: BTreeMap<String, String> =
        layout.partitions.iter().filter_map(|p| Some((p.mount.clone()?, p.uuid.clone()?))).collect();
    let fstab = SystemRunner
        .run(
            &Cmd::new("findmnt")
                .args(["-s", "-n", "-r", "-o", "TARGET,SOURCE", "-F"])
                .arg(root.join("etc/fstab")),
        )
        .unwrap();
    let found: BTreeMap<String, String> = fstab
        .text()
        .lines()
        .filter_map(|l| l.split_once(" UUID="))
        .filter(|(target, _)| target.starts_with('/'))
        .map(|(t, u)| (t.to_owned(), u.to_owned()))
        .collect();
    assert_eq!(found, wanted);
    inside(root, &["grub-script-check", "/boot/grub/grub.cfg"]);
}

/// Judges the filesystems and the table by their own checkers.
fn judge(installed: &Installed) {
    let run = |cmd: Cmd| SystemRunner.run(&cmd).unwrap_or_else(|e| panic!("{e:#}")).text();
    let verdict = run(Cmd::new("sgdisk").arg("-v").arg(&installed.image));
    assert!(verdict.contains("No problems found"), "{verdict}");
    let image = Image::attach(&installed.image, 512).unwrap();
    for partition in &installed.layout.partitions {
        let number = partition.number;
        let node = format!("{}p{number}", image.path().display());
        match partition.fstype.map(|f| f.name()) {
            Some("ext4") => drop(run(Cmd::new("e2fsck").args(["-f", "-n", &node]))),
            Some("vfat") => drop(run(Cmd::new("fsck.vfat").args(["-n", &node]))),
            _ => {}
        }
    }
    image.detach().unwrap();
}

/// Starts the disk and waits for the login prompt and the resident agent.
fn boot(image: &Path, dir: &Path, firmware: VmFirmware) -> Duration {
    let mut machine = Machine::new(firmware);
    machine.disks = vec![image.to_owned()];
    let started = Instant::now();
    let mut vm = machine.start(dir).unwrap();
    let limit = Duration::from_secs(1800);
    vm.expect_any(&["pc-10429 login:"], limit).unwrap();
    let took = started.elapsed();
    vm.switch_off(limit).unwrap();
    took
}

/// Firmware to start a disk with: some always, the others in a full run.
fn boots(always: &[VmFirmware], full: &[VmFirmware]) -> Vec<VmFirmware> {
    let full = if std::env::var_os("AKENE_FULL").is_some() { full } else { &[] };
    [always, full].concat()
}

/// Whether Debian's packages can be had where this machine's come from. Says so where not.
fn has_debian(mirror: &Mirror) -> bool {
    let has = mirror.host.distribution == "debian";
    if !has {
        eprintln!("SKIPPED: needs Debian's packages, and this machine runs {}", mirror.host.distribution);
    }
    has
}

/// The end of `[apt]` where only what is needed is wanted.
const FEWER: &str = "install-recommends = false\nnever = [\"snapd\"]\nhold = [\"less\"]\n";

fn keyring_of_debian() -> &'static Path {
    AptSettings::default_keyring(akene_protocol::profile::Distribution::Debian)
}

fn debian(mirror: &Mirror) -> String {
    format!(
        "[apt]\ndistribution = \"debian\"\nsuite = \"{}\"\nmirrors = [\"{}\"]\nsecurity-mirrors = [\"{}\"]\ncomponents = [\"main\"]\n",
        mirror.host.suite,
        mirror.main(),
        mirror.security()
    )
}

/// Debian installed for one firmware and judged, then started under `always`, and in a full run under `full`.
/// Nothing where it cannot be tested.
fn debian_for(
    firmware: FirmwareKind,
    more: &str,
    always: &[VmFirmware],
    full: &[VmFirmware],
) -> Option<Installed> {
    if !can_run() {
        return None;
    }
    let mirror = Mirror::start().unwrap();
    if !has_debian(&mirror) {
        return None;
    }
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let profile = debian(&mirror) + more;
    let installed = install(dir.path(), &profile, firmware, keyring_of_debian(), look_at);
    judge(&installed);
    for firmware in boots(always, full) {
        let took = boot(&installed.image, &dir.path().join(format!("{firmware:?}")), firmware);
        eprintln!("{firmware:?}: login prompt after {:.0} s", took.as_secs_f64());
    }
    Some(installed)
}

#[test]
fn debian_for_a_bios_starts_under_both_firmwares() {
    let always = [VmFirmware::Bios, VmFirmware::SecureBoot];
    let Some(installed) = debian_for(FirmwareKind::Bios, "", &always, &[VmFirmware::Uefi32]) else { return };
    assert!(installed.notes.warnings.is_empty(), "{:?}", installed.notes.warnings);
    assert!(installed.notes.steps > 100 && installed.times.len() == 7);
}

#[test]
fn debian_for_uefi_starts_under_a_bios_too() {
    debian_for(FirmwareKind::Uefi64, FEWER, &[VmFirmware::Bios], &[VmFirmware::Uefi]);
}

#[test]
fn a_reinstallation_keeps_homes_and_their_numbers() {
    use std::os::unix::fs::{MetadataExt, chown};
    if !can_run() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let keyring = keyring_of_debian();
    let profile = debian(&mirror) + FEWER;
    install(dir.path(), &profile, FirmwareKind::Bios, keyring, |root, _| {
        assert_eq!(inside(root, &["apt-mark", "showhold"]), "less");
        assert!(root.join("etc/apt/preferences.d/akene-never").exists());
        // As if accounts had been made in another order, and a kernel had come and gone.
        let lou = root.join("home/lou");
        for path in [lou.clone(), lou.join(".ssh"), lou.join(".ssh/authorized_keys")] {
            chown(path, Some(1234), Some(1234)).unwrap();
        }
        std::fs::write(lou.join("letter"), "dear").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", root.join("home/eve/trap")).unwrap();
        std::fs::write(root.join("boot/vmlinuz-0.0.1-old"), "gone").unwrap();
        std::fs::create_dir_all(root.join("boot/akene")).unwrap();
        for file in ["vmlinuz", "initrd.img", "stamp.img"] {
            std::fs::write(root.join("boot/akene").join(file), file).unwrap();
        }
    });
    let again = install(dir.path(), &profile, FirmwareKind::Bios, keyring, |root, layout| {
        let kept =
            |mount: &str| layout.partitions.iter().any(|p| p.kept && p.mount.as_deref() == Some(mount));
        assert!(kept("/boot") && kept("/home") && !kept("/"), "{:?}", layout.partitions);
        let letter = root.join("home/lou/letter");
        assert_eq!(std::fs::read_to_string(&letter).unwrap(), "dear");
        let home = root.join("home/lou").metadata().unwrap();
        assert_eq!((home.uid(), home.gid()), (1234, 1234));
        assert_eq!(inside(root, &["id", "-u", "lou"]), "1234");
        let keys = std::fs::read_to_string(root.join("home/lou/.ssh/authorized_keys")).unwrap();
        assert_eq!(keys.lines().count(), 1, "the key is there twice: {keys}");
        assert!(!root.join("boot/vmlinuz-0.0.1-old").exists());
        assert_eq!(std::fs::read_to_string(root.join("boot/akene/vmlinuz")).unwrap(), "vmlinuz");
        let menu = std::fs::read_to_string(root.join("boot/grub/grub.cfg")).unwrap();
        assert!(menu.contains("Reinstall this computer") && !menu.contains("0.0.1-old"));
    });
    judge(&again);
}

#[test]
fn the_ubuntu_stand_in_goes_the_same_way() {
    if !can_run() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    if !has_debian(&mirror) {
        return;
    }
    let standin = Standin::start(&mirror).unwrap();
    let dir = tempfile::tempdir_in(cache_dir().unwrap()).unwrap();
    let profile = format!(
        "[apt]\ndistribution = \"ubuntu\"\nsuite = \"noble\"\nmirrors = [\"{}\"]\nkey = '''\n{}'''\n",
        standin.url(),
        standin.key
    );
    let installed = install(dir.path(), &profile, FirmwareKind::Bios, Path::new("/nonexistent"), look_at);
    judge(&installed);
    boot(&installed.image, &dir.path().join("bios"), VmFirmware::Bios);
}
