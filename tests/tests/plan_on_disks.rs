//! The planner's plans on real disks: probed, planned, carried out, probed and planned again. Judged by
//! `sgdisk -v`, `sfdisk --verify` and `e2fsck`.

use std::fs;
use std::path::Path;

use akene_agent::journal::{Journal, What};
use akene_agent::probe::{ProbeRoot, inventory};
use akene_agent::storage::image::Image;
use akene_exec::SystemRunner;
use akene_planner::{Action, Plan, Role, plan, plan_within};
use akene_protocol::api::Consent;
use akene_protocol::event::Phase;
use akene_protocol::inventory::{FirmwareKind, Inventory, TableKind};
use akene_protocol::profile::{Bundle, parse_layer};
use akene_protocol::resolve::{StorageWishes, resolve};
use akene_protocol::{Bytes, RunId};
use akene_tests::disks::{can_run, carry_out, run};

/// The machine as probed now, with the image as its only disk.
fn probed(image: &Image, firmware: FirmwareKind) -> Inventory {
    let root = ProbeRoot { also: vec![image.path().to_owned()], ..ProbeRoot::default() };
    let mut found = inventory(&SystemRunner, &root);
    found.disks.retain(|disk| Path::new(&disk.path) == image.path());
    found.firmware.kind = firmware;
    found.memory.total = Bytes::gib(1);
    assert_eq!(found.disks.len(), 1, "the image is found");
    found
}

fn wishes(table: &str, inventory: &Inventory) -> StorageWishes {
    let text = format!(
        "[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n[storage]\ntable = \"{table}\"\n\
         [storage.volumes.content]\nmount = \"/srv/content\"\nfilesystem = \"xfs\"\nmin = \"400 MiB\"\noptional = true\n"
    );
    let bundle = Bundle {
        site: "x".into(),
        name: "x".into(),
        revision: "0".into(),
        classes: vec![],
        profile: parse_layer(&text, "x").unwrap(),
    };
    resolve(&bundle, inventory, None).unwrap_or_else(|e| panic!("{e}")).storage
}

fn judge(image: &Image, table: &str) {
    let path = image.path().to_str().unwrap();
    match table {
        "gpt" => {
            let verdict = run("sgdisk", &["-v", path]);
            assert!(verdict.contains("No problems found"), "{verdict}");
        }
        _ => drop(run("sfdisk", &["--verify", "-q", path])),
    }
}

fn record(boot: &Path, what: What) {
    let mut journal = Journal::new(RunId([1; 8]));
    journal.open(boot).unwrap();
    journal.record(what).unwrap();
}

#[test]
fn a_plan_stands_on_a_disk_and_is_found_again() {
    if !can_run() {
        return;
    }
    for (size, sector, table, firmware) in [
        (9_105_018_880, 512, "gpt", FirmwareKind::Bios),
        (4_009_549_824, 512, "gpt", FirmwareKind::Uefi32),
        (8_000_000_000 / 4096 * 4096, 4096, "gpt", FirmwareKind::Uefi64),
        (40_020_664_320, 512, "mbr", FirmwareKind::Bios),
        (20_003_880_960, 4096, "mbr", FirmwareKind::Uefi64),
        (120_034_123_776, 512, "gpt", FirmwareKind::Uefi64),
    ] {
        let name = format!("{size} bytes, sectors of {sector}, {table}");
        let dir = tempfile::tempdir().unwrap();
        let image = Image::create(&dir.path().join("disk.img"), Bytes(size), sector).unwrap();
        let blank = probed(&image, firmware);
        let wishes = wishes(table, &blank);
        let first = plan_within(&wishes, &blank, Consent::Blank).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(first.destroys.is_empty(), "{name}");
        let mounted = carry_out(first.clone(), &dir.path().join("first"));
        judge(&image, table);
        record(&mounted.root.join("boot"), What::Begun { phase: Phase::Install });
        mounted.unmount().unwrap();

        // The power is cut here: the same permission is enough for the next run.
        let cut = probed(&image, firmware);
        let again = plan_within(&wishes, &cut, Consent::Blank).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!again.disks[0].new_table, "{name}");
        let places = |plan: &Plan| -> Vec<_> {
            let there = plan.disks[0].partitions.iter().filter(|p| p.action != Action::Delete);
            there
                .map(|p| (p.number, p.start, p.size, p.purpose.clone(), p.filesystem, p.mount.clone()))
                .collect()
        };
        assert_eq!(places(&first), places(&again), "{name}");
        let mounted = carry_out(again.clone(), &dir.path().join("second"));
        fs::create_dir_all(mounted.root.join("etc")).unwrap();
        fs::write(mounted.root.join("etc/os-release"), "PRETTY_NAME=\"Test 1\"\n").unwrap();
        let home = mounted.partition(&Role::Volume("home".into())).is_some();
        fs::create_dir_all(mounted.root.join("home/ana/Documents")).unwrap();
        fs::write(mounted.root.join("home/ana/Documents/letter"), "dear all").unwrap();
        record(&mounted.root.join("boot"), What::Complete);
        mounted.unmount().unwrap();

        // Now a system is there, and losing it needs permission.
        let installed = probed(&image, firmware);
        let refused = plan_within(&wishes, &installed, Consent::Blank).unwrap_err();
        assert_eq!(refused.0[0].code, "consent-needed", "{name}: {refused}");
        let reinstall = plan(&wishes, &installed).unwrap();
        assert_eq!(places(&first), places(&reinstall), "{name}");
        let lost: Vec<&str> = reinstall.destroys.iter().map(|d| d.what.as_str()).collect();
        assert!(lost.iter().any(|what| what.contains("Test 1")), "{name}: {lost:?}");
        assert_eq!(lost.iter().any(|what| what.contains("people's files")), !home, "{name}: {lost:?}");
        let mounted = carry_out(reinstall.clone(), &dir.path().join("third"));
        // Without a volume of their own, people's files stay in the root, which is emptied around them later.
        assert!(mounted.root.join("home/ana/Documents/letter").exists(), "{name}");
        assert_eq!(mounted.root.join("etc/os-release").exists(), !home, "{name}");
        assert!(mounted.root.join("boot").join(akene_agent::journal::PATH).exists(), "{name}: boot is kept");
        let devices: Vec<_> = mounted.partitions.iter().map(|p| (p.device.clone(), p.fstype)).collect();
        mounted.unmount().unwrap();
        judge(&image, table);
        for (device, _) in devices.iter().filter(|(_, f)| f.is_some_and(|f| f.name() == "ext4")) {
            run("e2fsck", &["-fn", device.to_str().unwrap()]);
        }
        let kind = if table == "gpt" { TableKind::Gpt } else { TableKind::Mbr };
        assert_eq!(first.disks[0].table, kind);
        image.detach().unwrap();
    }
}
