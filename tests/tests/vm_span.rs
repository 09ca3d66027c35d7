//! A machine with two small disks in a virtual machine: no disk alone holds the homes, so they lie on both. From
//! the medium to the installed system that has confirmed itself, and judged from outside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::disks::has;
use akene_tests::journey::{self, Journey, Put};
use akene_tests::mirror::Mirror;
use akene_tests::site::{Site, USER, small_server};
use akene_tests::vm::{self, Accelerator, Firmware, HOST, Machine};

const MINUTE: Duration = Duration::from_secs(60);

fn run(cmd: Cmd) -> String {
    SystemRunner.run(&cmd).unwrap_or_else(|e| panic!("{e:#}")).text()
}

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

/// Copies the volume of the homes off the disks without device-mapper, its pieces one after the other.
fn homes(disks: &[PathBuf], file: &Path) {
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
        let on_device = number(&begin[1]) + number(first) * number(&words[1]);
        run(Cmd::new("dd")
            .args(["bs=4M", "conv=notrunc,fsync", "iflag=skip_bytes", "oflag=seek_bytes"])
            .args([
                "status=none".to_owned(),
                format!("if={device}"),
                format!("skip={on_device}"),
                format!("of={}", file.display()),
                format!("seek={}", words[2]),
                format!("count={}", number(&words[3]) >> 22),
            ]));
    }
}

fn debugfs(image: &Path, what: &str, more: &[&str]) -> String {
    run(Cmd::new("debugfs").args(more).args(["-R", what]).arg(image))
}

/// What LVM says of these fields, a row for each thing.
fn lvm(report: &str, options: &[&str], fields: &str, config: &str) -> Vec<Vec<String>> {
    let form = ["--readonly", "--noheadings", "--units", "b", "--nosuffix", "--separator", ";"];
    let ask = Cmd::new("lvm").arg(report).args(options).args(form).args(["-o", fields, "--config", config]);
    let told = run(ask.env("LVM_SYSTEM_DIR", "").env("LVM_SUPPRESS_FD_WARNINGS", "1"));
    told.lines().map(|l| l.trim().split(';').map(str::to_owned).collect()).collect()
}

/// Takes some twenty minutes where instructions are translated.
#[test]
fn homes_over_two_small_disks() {
    if std::env::var_os("AKENE_FULL").is_none() {
        eprintln!(
            "SKIPPED: homes over two disks in a virtual machine are part of the full run (AKENE_FULL=1)"
        );
        return;
    }
    if !journey::possible() || !has("lvm") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::start().unwrap();
    let built = journey::image_of_this_run(&mirror).unwrap();
    println!("running under {:?}", Accelerator::find(&built.kernel()));
    let profile = small_server(&mirror, HOST)
        + "\n[storage.volumes.home]\nmin = \"6 GiB\"\noptional = false\n[storage.volumes.swap]\nwanted = false\n";
    let mut site = Site::new(dir.path(), HOST, &profile).unwrap();
    site.start().unwrap();
    let disk = |name: &str| vm::blank_disk(&dir.path().join(name), 6 << 30).unwrap();
    let disks = vec![disk("one.img"), disk("two.img")];
    let machine = || {
        let mut machine = Machine::new(Firmware::Bios);
        machine.memory = 1024;
        machine.disks = disks.clone();
        machine
    };
    let judged = |home: &Path| {
        for disk in &disks {
            assert!(run(Cmd::new("sgdisk").arg("-v").arg(disk)).contains("No problems found"));
        }
        homes(&disks, home);
        run(Cmd::new("e2fsck").arg("-fn").arg(home));
        let listed = debugfs(home, "ls -p /", &[]);
        assert!(listed.contains(&format!("/{USER}/")), "{listed}");
    };
    let mut journey = Journey::begin(site, &built.iso(), Put::Disc, machine(), dir.path()).unwrap();
    println!("{:?}", journey.complete(60 * MINUTE).unwrap());
    drop(journey.shut_down().unwrap());
    let home = dir.path().join("home.img");
    judged(&home);
}
