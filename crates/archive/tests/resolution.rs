//! Resolution is apt's own: what is chosen here is what `apt-get install` says it would install into an empty
//! system, and a profile's lock says the same for each of its machines, twice the same to the byte.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use akene_archive::lock::{Changes, Snapshots, make, variants};
use akene_archive::{AptRoot, AptSettings, host_archive};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::lock::{Lock, ProfileLock, Request, file_name};
use akene_protocol::profile::{Apt, Bundle, Layer, parse_layer};
use akene_protocol::resolve::Archive;

fn archive_or_say_why() -> Option<Archive> {
    match host_archive(&SystemRunner) {
        Ok(archive) => Some(archive),
        Err(error) => {
            eprintln!("SKIPPED: this machine has no Debian or Ubuntu archive to test with: {error:#}");
            None
        }
    }
}

/// What apt-get itself would install, with nothing of ours but the indexes: its own configuration in `dir`.
fn oracle(
    dir: &Path,
    archive: &Archive,
    lists: &Path,
    packages: &[String],
    recommends: bool,
) -> BTreeSet<String> {
    let keyring = AptSettings::default_keyring(archive.distribution).display().to_string();
    let line = |uri: &str, suite: &str| {
        format!("deb [signed-by={keyring}] {uri} {suite} {}\n", archive.components.join(" "))
    };
    let mut sources = line(&archive.mirrors[0], &archive.suite);
    for pocket in &archive.pockets {
        let name = format!("{pocket:?}").to_lowercase();
        let uri = if name == "security" { &archive.security_mirrors[0] } else { &archive.mirrors[0] };
        sources += &line(uri, &format!("{}-{name}", archive.suite));
    }
    std::fs::create_dir_all(dir.join("cache")).unwrap();
    // A file that was written anew would make apt read all indexes anew.
    let write = |name: &str, text: String| {
        let file = dir.join(name);
        if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            std::fs::write(file, text).unwrap();
        }
    };
    write("sources.list", sources);
    write("status", String::new());
    write("preferences", archive.preferences.values().cloned().collect::<String>());
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    let mut cmd = Cmd::new("apt-get").args(["-s", "install"]);
    for set in [
        option("Dir::Etc::sourcelist", &dir.join("sources.list")),
        "Dir::Etc::sourceparts=/dev/null".into(),
        option("Dir::Etc::preferences", &dir.join("preferences")),
        "Dir::Etc::preferencesparts=/dev/null".into(),
        option("Dir::State::status", &dir.join("status")),
        option("Dir::State::lists", lists),
        option("Dir::State::extended_states", &dir.join("extended")),
        option("Dir::Cache", &dir.join("cache")),
        format!("APT::Install-Recommends={recommends}"),
    ] {
        cmd = cmd.arg("-o").arg(set);
    }
    let output = SystemRunner.run(&cmd.args(packages)).unwrap_or_else(|e| panic!("{packages:?}: {e:#}"));
    let text = output.text();
    text.lines()
        .filter_map(|l| l.strip_prefix("Inst "))
        .map(|l| {
            let (name, rest) = l.split_once(" (").unwrap();
            let (version, rest) = rest.split_once(' ').unwrap();
            let architecture = rest.split_once('[').unwrap().1.split(']').next().unwrap();
            format!("{} {version} {architecture}", name.split(':').next().unwrap())
        })
        .collect()
}

fn ours(lock: &Lock) -> BTreeSet<String> {
    let installed = lock.packages.iter();
    installed.map(|p| format!("{} {} {}", p.name, p.version, p.architecture)).collect()
}

/// The base, as apt's own patterns name it.
fn with_base(packages: &[&str], archive: &Archive) -> Vec<String> {
    let mut all: Vec<String> = ["?essential", "apt", "?priority(required)"].map(str::to_owned).into();
    // Debian 11 and Ubuntu 20.04 have no such package.
    all.extend(
        (!["bullseye", "focal"].contains(&archive.suite.as_str())).then(|| "usr-is-merged".to_owned()),
    );
    all.extend(packages.iter().map(|p| (*p).to_owned()));
    all
}

#[test]
fn the_choice_is_what_apt_get_would_install() {
    let Some(mut archive) = archive_or_say_why() else { return };
    let dir = tempfile::tempdir().unwrap();
    let keyring = AptSettings::default_keyring(archive.distribution);
    let apt = |name: &str, archive: &Archive| {
        AptRoot::create(&dir.path().join(name), &AptSettings { archive, keyring, proxy: None }).unwrap()
    };
    let plain = apt("plain", &archive);
    plain.update(&SystemRunner, &mut |_| {}).unwrap();
    let sets: [&[&str]; 10] = [
        &["less"],
        &["systemd-sysv", "openssh-server", "sudo"],
        // Alternatives: which mail server, which awk, which editor.
        &["mailutils"],
        &["logrotate", "cron"],
        &["apache2", "php"],
        &["postgresql", "nginx"],
        &["build-essential"],
        &["xfce4", "lightdm"],
        &["network-manager", "chrony"],
        &["grub-efi-amd64", "grub-pc-bin", "shim-signed", "efibootmgr", "lvm2", "xfsprogs", "btrfs-progs"],
    ];
    let mut compared = 0;
    let mut compare = |apt: &AptRoot, archive: &Archive, set: &[&str], recommends: bool| {
        let names: Vec<String> = set.iter().map(|p| (*p).to_owned()).collect();
        let lock = apt.solve(&SystemRunner, &names, recommends).unwrap_or_else(|e| panic!("{set:?}: {e:#}"));
        // Each has a place of its own: the archive may be updated between two readings.
        let (place, lists) = (apt.lists().with_extension("oracle"), apt.lists());
        let theirs = oracle(&place, archive, &lists, &with_base(set, archive), recommends);
        assert_eq!(ours(&lock), theirs, "{set:?}, recommends: {recommends}");
        compared += theirs.len();
        for package in &lock.packages {
            assert_eq!(file_name(&package.name, &package.version, &package.architecture), package.file);
            let release =
                &lock.releases[package.release.unwrap_or_else(|| panic!("{} has no release", package.name))];
            assert!(package.urls[0].starts_with(&release.uri), "{package:?} {release:?}");
            assert!(release.keys.iter().all(|k| k.len() == 40) && !release.keys.is_empty(), "{release:?}");
        }
        lock
    };
    for set in sets {
        for recommends in [false, true] {
            compare(&plain, &archive, set, recommends);
        }
    }
    // A pin changes the choice of an alternative, for apt and for us.
    let before = compare(&plain, &archive, &["mailutils"], true);
    assert!(before.packages.iter().any(|p| p.name.starts_with("exim4")), "the set no longer shows anything");
    let pin = "Package: exim4* libspf2-2\nPin: release *\nPin-Priority: -1\n";
    archive.preferences = BTreeMap::from([("no-exim".to_owned(), pin.to_owned())]);
    let pinned = apt("pinned", &archive);
    pinned.update(&SystemRunner, &mut |_| {}).unwrap();
    let after = compare(&pinned, &archive, &["mailutils"], true);
    assert!(!after.packages.iter().any(|p| p.name.starts_with("exim4")));
    eprintln!("{} package sets, {compared} packages compared with apt-get", sets.len() * 2 + 2);
}

/// A profile on the host's archive, with classes that count by rules.
fn bundle(archive: &Archive) -> Bundle {
    let apt = Apt {
        distribution: Some(archive.distribution),
        suite: Some(archive.suite.clone()),
        mirrors: archive.mirrors.clone(),
        security_mirrors: archive.security_mirrors.clone(),
        components: archive.components.clone(),
        pockets: Some(archive.pockets.clone()),
        install_recommends: Some(false),
        ..Apt::default()
    };
    let class = |name: &str, text: &str| (name.to_owned(), parse_layer(text, name).unwrap());
    let classes = vec![
        class("small", "when = \"ram < 2 GiB\"\npackages = [\"nano\"]"),
        class("large", "when = \"ram >= 2 GiB\"\npackages = [\"mc\"]"),
        class("impossible", "when = \"vendor = nobody\"\npackages = [\"no-such-package\"]"),
    ];
    Bundle {
        site: "test".into(),
        name: "desk".into(),
        revision: "0123456789abcdef".into(),
        profile: Layer {
            classes: classes.iter().map(|(name, _)| name.clone()).collect(),
            packages: vec!["less".into()],
            apt: Some(apt),
            storage: parse_layer("[storage]\nkeep-homes = false", "x").unwrap().storage,
            ..Layer::default()
        },
        classes,
    }
}

#[test]
fn a_profiles_lock_answers_each_machine_as_apt_does_and_is_the_same_twice() {
    let Some(archive) = archive_or_say_why() else { return };
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundle(&archive);
    let foreseen = variants(&bundle, &[]);
    assert!(!foreseen.incomplete && foreseen.unresolved.is_empty());
    // BIOS and UEFI; small or large, never both; with the impossible class or without it; a /home over several
    // disks or not.
    assert_eq!(foreseen.list.len(), 16, "{:?}", foreseen.list.iter().map(|v| &v.what).collect::<Vec<_>>());
    let all = |r: &Request| r.packages.contains(&"nano".into()) && r.packages.contains(&"mc".into());
    assert!(!foreseen.list.iter().any(|v| all(&v.request)));

    let settings = AptSettings {
        archive: &archive,
        keyring: AptSettings::default_keyring(archive.distribution),
        proxy: None,
    };
    let read = |turn: u32, name: &str| dir.path().join(format!("{name}-{turn}"));
    let made = |place: &Path| {
        let mut snapshots = Snapshots::new(place, None, &|_| Ok(None));
        make(&SystemRunner, &bundle, &foreseen, &mut snapshots, &mut |_| {}).unwrap()
    };
    // Three readings of one state: where the archive is updated meanwhile, they are made again.
    let of_one_state = |turn| {
        let first = made(&read(turn, "first"));
        let apt = AptRoot::create(&read(turn, "apt"), &settings).unwrap();
        apt.update(&SystemRunner, &mut |_| {}).unwrap();
        let known = apt.releases(&SystemRunner).unwrap();
        let second = made(&read(turn, "second"));
        let same = first.lock.releases == second.lock.releases;
        (same && first.lock.releases.iter().all(|r| known.contains(r))).then_some((first, second, apt))
    };
    let (first, second, apt) =
        (0..5).find_map(of_one_state).expect("an archive that changes between any two readings");
    // What does not exist leaves its kind of machine out and nothing else.
    assert_eq!(first.left_out.len(), 8);
    assert!(first.left_out.iter().all(|(_, issues)| issues.0[0].path == "no-such-package"));
    assert_eq!(first.lock.selections.len(), 8);
    let bytes = |lock: &ProfileLock| serde_json::to_vec(lock).unwrap();
    assert_eq!(bytes(&first.lock), bytes(&second.lock), "other bytes from the same archive");
    assert!(Changes::between(&first.lock, &second.lock).is_empty());

    for variant in foreseen.list.iter().filter(|v| !v.request.packages.contains(&"no-such-package".into())) {
        let ours = first.lock.select("desk", &variant.archive, &variant.request).unwrap();
        let theirs = apt.answer(&SystemRunner, &variant.request).unwrap();
        let plain = |lock: &Lock| -> Vec<_> {
            lock.packages.iter().map(|p| (p.file.clone(), p.sha256, p.urls.clone(), p.base)).collect()
        };
        assert_eq!(plain(&ours), plain(&theirs), "{}", variant.what);
        assert_eq!(ours.requested, theirs.requested);
    }
    let mut older = first.lock.clone();
    let less = older.packages.iter_mut().find(|p| p.name == "less").unwrap();
    let newer = std::mem::replace(&mut less.version, "0".into());
    older.packages.iter_mut().find(|p| p.name == "nano").unwrap().name = "pico".into();
    let changes = Changes::between(&older, &first.lock);
    assert_eq!(changes.changed, [("less".to_owned(), "0".to_owned(), newer)]);
    assert_eq!((changes.added[0].0.as_str(), changes.removed[0].0.as_str()), ("nano", "pico"));
}
