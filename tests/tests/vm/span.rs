//! A machine with two small disks in a virtual machine: no disk alone holds the homes, so they lie on both. From
//! the medium to the installed system that has confirmed itself, and judged from outside. Then people live in it, and
//! it is installed again from its own disk: what they have is what they had.

use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::has;
use akene_tests::journey::{Journey, Put};
use akene_tests::people::{live_in, sums};
use akene_tests::site::{SSH_KEY, Site, USER, small_server};
use akene_tests::vm::{self, Firmware, HOST, Machine};

use crate::{MINUTE, full, image, run};

/// The physical volumes of an image as loop devices, let go of at the end.
struct Loops(Vec<String>);

impl Loops {
    fn of(disk: &Path) -> Vec<String> {
        let table: serde_json::Value =
            serde_json::from_str(&run(Cmd::new("sfdisk").arg("--json").arg(disk))).unwrap();
        let entries = table["partitiontable"]["partitions"].as_array().unwrap();
        let physical = entries.iter().filter(|e| e["type"].as_str().unwrap().starts_with("E6D6D379"));
        physical
            .map(|e| {
                let bytes = |key: &str| (e[key].as_u64().unwrap() * 512).to_string();
                let place = ["--offset", &bytes("start"), "--sizelimit", &bytes("size")];
                run(Cmd::new("losetup").args(["--find", "--show"]).args(place).arg(disk))
            })
            .collect()
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            SystemRunner.run(&Cmd::new("losetup").args(["-d", device])).ok();
        }
    }
}

/// Which way the volume of the homes is copied.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    OffTheDisks,
    OntoTheDisks,
}

/// Copies the volume of the homes without device-mapper, its pieces one after the other: between the disks and a file.
fn homes(disks: &[PathBuf], file: &Path, way: Way) {
    let loops = Loops(disks.iter().flat_map(|disk| Loops::of(disk)).collect());
    assert_eq!(loops.0.len(), 2, "each disk has a physical volume");
    let accepted: String = loops.0.iter().map(|d| format!("\"a|^{d}$|\",")).collect();
    let config = format!("devices {{ filter=[{accepted}\"r|.*|\"] use_devicesfile=0 scan=\"/dev\" }}");
    let told = lvm("lvs", &["--segments"], "lv_name,vg_extent_size,seg_start,seg_size,devices", &config);
    let begins = lvm("pvs", &[], "pv_name,pe_start", &config);
    assert_eq!(told.len(), 2, "{told:?}");
    for words in told {
        assert_eq!(words[0], "home", "{words:?}");
        let number = |word: &str| word.parse::<u64>().unwrap();
        let (device, first) = words[4].trim_end_matches(')').split_once('(').unwrap();
        let begin = begins.iter().find(|b| b[0] == device).unwrap();
        let on_device = (device, number(&begin[1]) + number(first) * number(&words[1]));
        let in_file = (file.to_str().unwrap(), number(&words[2]));
        let (from, to) = match way {
            Way::OffTheDisks => (on_device, in_file),
            Way::OntoTheDisks => (in_file, on_device),
        };
        run(Cmd::new("dd")
            .args(["bs=4M", "conv=notrunc,fsync", "iflag=skip_bytes", "oflag=seek_bytes", "status=none"])
            .args([
                format!("if={}", from.0),
                format!("skip={}", from.1),
                format!("of={}", to.0),
                format!("seek={}", to.1),
                format!("count={}", number(&words[3]) >> 22),
            ])
            .timeout(10 * MINUTE));
    }
}

/// A filesystem in a file, mounted. Unmounted at the end.
struct Opened(PathBuf);

impl Opened {
    fn new(file: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run(Cmd::new("mount").args(["-o", options]).arg(file).arg(at));
        Opened(at.to_owned())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Err(error) = SystemRunner.run(&Cmd::new("umount").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

/// What LVM says of these fields, a row for each thing.
fn lvm(report: &str, options: &[&str], fields: &str, config: &str) -> Vec<Vec<String>> {
    let form = ["--readonly", "--noheadings", "--units", "b", "--nosuffix", "--separator", ";"];
    let ask = Cmd::new("lvm").arg(report).args(options).args(form).args(["-o", fields, "--config", config]);
    let told = run(ask.env("LVM_SYSTEM_DIR", "").env("LVM_SUPPRESS_FD_WARNINGS", "1"));
    told.lines().map(|l| l.trim().split(';').map(str::to_owned).collect()).collect()
}

/// Takes some half an hour where instructions are translated.
#[test]
fn homes_over_two_small_disks() {
    if !full("homes over two disks in a virtual machine") || !has("lvm") {
        return;
    }
    let Some((mirror, built)) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let profile = small_server(&mirror, HOST)
        + "\n[storage.volumes.home]\nmin = \"6 GiB\"\noptional = false\n[storage.volumes.swap]\nwanted = false\n";
    let mut site = Site::new(dir.path(), HOST, &profile).unwrap();
    site.start().unwrap();
    let disk = |name: &str| vm::blank_disk(&dir.path().join(name), 6 << 30).unwrap();
    let disks = vec![disk("one.img"), disk("two.img")];
    let mut machine = Machine::new(Firmware::Bios);
    machine.disks = disks.clone();
    let (home, at) = (dir.path().join("home.img"), dir.path().join("home"));
    let judge = || {
        for disk in &disks {
            assert!(run(Cmd::new("sgdisk").arg("-v").arg(disk)).contains("No problems found"));
        }
        homes(&disks, &home, Way::OffTheDisks);
        let expected = Expected {
            user: USER.into(),
            ssh_key: SSH_KEY.into(),
            packages: ["openssh-server", "sudo", "less", "grub-common", "lvm2"].map(String::from).into(),
            volumes: vec![home.clone()],
            ..Expected::default()
        };
        checks::installed(&disks[0], &expected).unwrap();
    };
    let mut journey = Journey::begin(site, &built.iso(), Put::Disc, machine.clone(), dir.path()).unwrap();
    println!("{:?}", journey.complete(60 * MINUTE).unwrap());
    let site = journey.shut_down().unwrap();
    judge();

    // People live in it, and the computer is installed again by the entry of its own menu.
    let before = {
        let opened = Opened::new(&home, &at, "loop");
        live_in(&opened.0);
        sums(&opened.0)
    };
    run(Cmd::new("e2fsck").arg("-fn").arg(&home));
    homes(&disks, &home, Way::OntoTheDisks);
    std::fs::remove_file(&home).unwrap();
    let identity = |site: &Site| {
        let machines = site.machines().unwrap();
        assert_eq!(machines.len(), 1, "{machines:#?}");
        ["machine", "asset", "run"].map(|key| machines[0][key].as_str().unwrap().to_owned())
    };
    let first = identity(&site);
    let uuid = |disk: &PathBuf| run(Cmd::new("sgdisk").arg("-p").arg(disk));
    let tables: Vec<String> = disks.iter().map(uuid).collect();
    site.allow_wipe(&site.machines().unwrap()[0]).unwrap();
    let mut journey = Journey::again(site, machine, dir.path()).unwrap();
    println!("again: {:?}", journey.complete(60 * MINUTE).unwrap());
    let site = journey.shut_down().unwrap();
    judge();
    let second = identity(&site);
    assert_eq!(first[..2], second[..2], "it is another machine");
    assert_ne!(first[2], second[2], "there was no other installation");
    assert_eq!(disks.iter().map(uuid).collect::<Vec<_>>(), tables, "the tables are other ones");
    let opened = Opened::new(&home, &at, "loop,ro");
    assert_eq!(sums(&opened.0), before);
}
