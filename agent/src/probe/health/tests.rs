//! Reports in the form smartctl 7.3 prints them, cut down to what disks differ in.

use std::time::Instant;

use akene_exec::{Output, SystemRunner};
use anyhow::Result;

use super::*;

fn graded(json: &str) -> (Health, String) {
    let grade = read(json.as_bytes());
    (grade.health, grade.why.join(", "))
}

/// A report of an ATA disk: hours, rotation rate, and its attributes as (id, name, value, threshold, when
/// failed, raw value).
fn ata(passed: bool, hours: u64, rate: u64, attributes: &[(u32, &str, u64, u64, &str, u64)]) -> String {
    let table: Vec<_> = attributes
        .iter()
        .map(|(id, name, value, thresh, when_failed, raw)| {
            serde_json::json!({
                "flags": {"prefailure": true, "string": "PO--CK ", "value": 51},
                "id": id, "name": name, "value": value, "worst": value, "thresh": thresh,
                "when_failed": when_failed, "raw": {"string": raw.to_string(), "value": raw}
            })
        })
        .collect();
    serde_json::json!({
        "json_format_version": [1, 0],
        "smartctl": {"version": [7, 3], "exit_status": if passed { 0 } else { 24 }},
        "device": {"name": "/dev/sda", "info_name": "/dev/sda [SAT]", "type": "sat", "protocol": "ATA"},
        "model_name": "ST3500418AS", "rotation_rate": rate,
        "smart_support": {"available": true, "enabled": true},
        "smart_status": {"passed": passed},
        "ata_smart_attributes": {"revision": 10, "table": table},
        "power_on_time": {"hours": hours}, "temperature": {"current": 35}
    })
    .to_string()
}

#[test]
fn a_good_old_disk_is_good_whatever_its_makers_counters_say() {
    let quiet = [
        (1, "Raw_Read_Error_Rate", 117, 6, "", 124_179_459),
        (5, "Reallocated_Sector_Ct", 100, 36, "", 3),
        (7, "Seek_Error_Rate", 87, 30, "", 576_454_148),
        (187, "Reported_Uncorrect", 100, 0, "", 0),
        (190, "Airflow_Temperature_Cel", 45, 45, "past", 656_146_467),
        (194, "Temperature_Celsius", 35, 0, "", 81_604_378_659),
        (197, "Current_Pending_Sector", 100, 0, "", 0),
        (198, "Offline_Uncorrectable", 100, 0, "", 1 << 32),
        (202, "Data_Address_Mark_Errs", 1, 0, "", 0),
    ];
    assert_eq!(graded(&ata(true, 41_000, 7200, &quiet)), (Health::Good, String::new()));
    assert_eq!(graded(&ata(true, 100_216, 7200, &quiet)), (Health::Worn, "100216 hours in use".into()));
}

#[test]
fn sectors_that_were_replaced_or_cannot_be_read_count() {
    let one = |id, raw| graded(&ata(true, 100, 7200, &[(id, "X", 100, 0, "", raw)]));
    assert_eq!(one(5, 9).0, Health::Good);
    assert_eq!(one(5, 12), (Health::Worn, "12 replaced sectors".into()));
    assert_eq!(one(5, 214), (Health::Failing, "214 replaced sectors".into()));
    assert_eq!(one(197, 1).0, Health::Worn);
    assert_eq!(one(197, 10).0, Health::Failing);
    assert_eq!(one(198, 2), (Health::Worn, "2 sectors that cannot be read".into()));
    assert_eq!(one(187, 1).0, Health::Worn);
}

#[test]
fn its_own_verdict_counts_most() {
    let spin = [(3, "Spin_Up_Time", 20, 25, "now", 0), (10, "Spin_Retry_Count", 90, 97, "past", 4)];
    let (health, why) = graded(&ata(false, 100, 5400, &spin));
    assert_eq!(health, Health::Failing);
    assert_eq!(
        why,
        "it gives itself up, Spin_Up_Time is below its threshold, Spin_Retry_Count was below its threshold"
    );
    assert_eq!(graded(&ata(true, 100, 5400, &spin[1..])).0, Health::Worn);
}

#[test]
fn a_solid_state_disk_wears_out() {
    let ssd = |value| graded(&ata(true, 100, 0, &[(177, "Wear_Leveling_Count", value, 0, "", 2000)]));
    assert_eq!(ssd(60).0, Health::Good);
    assert_eq!(ssd(7), (Health::Worn, "7 % of its life is left".into()));
}

#[test]
fn nvme_tells_its_life_and_its_spare() {
    let nvme = |warning: u64, spare: u64, used: u64, errors: u64| {
        graded(
            &serde_json::json!({
                "smartctl": {"version": [7, 3], "exit_status": 0},
                "device": {"name": "/dev/nvme0n1", "type": "nvme", "protocol": "NVMe"},
                "model_name": "KXG60ZNV512G TOSHIBA",
                "smart_status": {"passed": warning == 0, "nvme": {"value": warning}},
                "nvme_smart_health_information_log": {
                    "critical_warning": warning, "temperature": 35, "available_spare": spare,
                    "available_spare_threshold": 10, "percentage_used": used, "media_errors": errors
                },
                "power_on_time": {"hours": 5000}
            })
            .to_string(),
        )
    };
    assert_eq!(nvme(0, 100, 3, 0), (Health::Good, String::new()));
    assert_eq!(nvme(0, 100, 97, 0), (Health::Worn, "97 % of its life is used".into()));
    assert_eq!(nvme(0, 100, 3, 2).0, Health::Worn);
    assert_eq!(nvme(2, 100, 3, 0).0, Health::Failing, "it gives itself up");
    assert_eq!(nvme(9, 4, 120, 0).0, Health::Failing);
}

#[test]
fn scsi_counts_grown_defects() {
    let scsi = |defects: u64| {
        graded(&format!(
            r#"{{"device":{{"protocol":"SCSI"}},"smart_status":{{"passed":true}},"scsi_grown_defect_list":{defects}}}"#
        ))
    };
    assert_eq!([scsi(0).0, scsi(11).0, scsi(500).0], [Health::Good, Health::Worn, Health::Failing]);
}

#[test]
fn a_disk_that_cannot_be_asked_is_unknown_and_says_why() {
    let bridge = r#"{"json_format_version":[1,0],"smartctl":{"version":[7,3],"exit_status":1,"messages":[
        {"string":"/dev/sdb: Unknown USB bridge [0x0dd8:0x3d01 (0x110)]","severity":"error"}]}}"#;
    assert_eq!(
        graded(bridge),
        (Health::Unknown, "/dev/sdb: Unknown USB bridge [0x0dd8:0x3d01 (0x110)]".into())
    );
    let off = r#"{"smartctl":{"exit_status":4},"smart_support":{"available":true,"enabled":false}}"#;
    assert_eq!(graded(off), (Health::Unknown, "its self-monitoring is switched off".into()));
    assert_eq!(graded("").0, Health::Unknown);
    assert_eq!(graded(r#"{"smartctl":{"exit_status":2}}"#).1, "smartctl cannot ask it (status 2)");
}

fn disk(bus: Bus) -> Disk {
    Disk {
        name: "sdz".into(),
        path: "/dev/sdz".into(),
        by_id: None,
        size: akene_protocol::Bytes(1 << 30),
        logical_sector: 512,
        physical_sector: 512,
        model: None,
        serial: None,
        wwn: None,
        bus,
        rotational: None,
        removable: false,
        read_only: false,
        live_medium: false,
        health: Health::Unknown,
        table: None,
        content: None,
    }
}

/// Runs something else in the place of smartctl, for so long at most.
struct Instead(&'static str, Duration);

impl Runner for Instead {
    fn run_lines(&self, cmd: &Cmd, line: &mut dyn FnMut(&str)) -> Result<Output> {
        assert_eq!(cmd.argv()[0], "smartctl");
        SystemRunner.run_lines(&Cmd::new("sh").args(["-c", self.0]).timeout(self.1), line)
    }
}

#[test]
fn what_is_printed_counts_although_the_exit_code_is_a_verdict() {
    let failing = r#"echo '{"smart_status":{"passed":false},"smartctl":{"exit_status":8}}'; exit 8"#;
    let grade = of(&Instead(failing, Duration::from_secs(60)), &ProbeRoot::default(), &disk(Bus::Sata));
    assert_eq!(grade.health, Health::Failing);
    let note = grade.note(&disk(Bus::Sata)).unwrap();
    assert_eq!((note.code.as_str(), note.path.as_str()), ("disk-failing", "sdz"));
    assert_eq!(note.message, "the disk /dev/sdz is failing: it gives itself up");
}

#[test]
fn a_disk_that_does_not_answer_keeps_nobody_waiting() {
    let started = Instant::now();
    let grade = of(&Instead("sleep 60", Duration::from_millis(300)), &ProbeRoot::default(), &disk(Bus::Sata));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(grade.health, Health::Unknown);
    assert!(grade.why[0].contains("still running"), "{grade:?}");
    let silent = of(&Instead("exit 0", Duration::from_secs(60)), &ProbeRoot::default(), &disk(Bus::Usb));
    assert_eq!(silent, Grade::default(), "a USB bridge is not asked");
}

#[test]
fn emmc_chips_tell_their_wear_in_sysfs() {
    let tree = tempfile::tempdir().unwrap();
    let root = ProbeRoot::recorded(tree.path());
    let chip = Disk { name: "mmcblk0".into(), ..disk(Bus::Emmc) };
    let device = tree.path().join("sys/block/mmcblk0/device");
    std::fs::create_dir_all(&device).unwrap();
    let graded = |life: &str, spare: &str| {
        std::fs::write(device.join("life_time"), life).unwrap();
        std::fs::write(device.join("pre_eol_info"), spare).unwrap();
        of(&SystemRunner, &root, &chip).health
    };
    assert_eq!(graded("0x02 0x01\n", "0x01\n"), Health::Good);
    assert_eq!(graded("0x0a 0x01\n", "0x01\n"), Health::Worn);
    assert_eq!(graded("0x02 0x0b\n", "0x01\n"), Health::Failing);
    assert_eq!(graded("0x01 0x01\n", "0x02\n"), Health::Worn);
    assert_eq!(graded("0x01 0x01\n", "0x03\n"), Health::Failing);
    assert_eq!(graded("0x00 0x00\n", "0x00\n"), Health::Unknown);
}
