//! Whether a disk is failing, as it says itself through SMART.

use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_protocol::inventory::{Bus, Disk, Health};
use serde::Deserialize;

/// A disk that is spun down needs some seconds; one that does not answer is not waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sectors that had to be replaced. A few are normal in the life of a disk.
const REPLACED: u64 = 10;

/// The parts of `smartctl -j` that count.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    ata_smart_attributes: Attributes,
    nvme_smart_health_information_log: Nvme,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    table: Vec<Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    id: u32,
    raw: Raw,
}

#[derive(Deserialize)]
struct Raw {
    value: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Nvme {
    percentage_used: u64,
}

/// Asks the disk.
pub(super) fn of(runner: &dyn Runner, disk: &Disk) -> Health {
    // Many USB bridges stop working altogether when asked.
    if !matches!(disk.bus, Bus::Sata | Bus::Ide | Bus::Scsi | Bus::Sas | Bus::Nvme) {
        return Health::Unknown;
    }
    let cmd = Cmd::new("smartctl").args(["-j", "-H", "-A"]).arg(&disk.path).timeout(PATIENCE);
    match runner.run(&cmd) {
        Ok(output) => output.json().map(|report| judge(&report)).unwrap_or_default(),
        Err(e) => match e.downcast_ref::<ExecError>().and_then(|e| e.code) {
            // A mask: 1, 2 and 4 mean that it could not be asked; 8 that the disk gives itself up, 16 that
            // a value is below what the maker allows, 32 that one was so in the past.
            Some(code) if code & 0b01_1000 != 0 => Health::Failing,
            Some(code) if code & 0b10_0000 != 0 => Health::Worn,
            _ => Health::Unknown,
        },
    }
}

fn judge(report: &Report) -> Health {
    let raw = |id: u32| {
        let found = report.ata_smart_attributes.table.iter().find(|a| a.id == id);
        // Some makers pack other counts into the upper bytes.
        found.map_or(0, |a| a.raw.value & 0xffff_ffff)
    };
    // Reallocated; waiting to be; unreadable.
    let worn = raw(5) >= REPLACED
        || raw(197) > 0
        || raw(198) > 0
        || report.nvme_smart_health_information_log.percentage_used >= 90;
    if worn { Health::Worn } else { Health::Good }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(json: &str) -> Health {
        judge(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn counts_what_wears_out() {
        let attribute = |id: u32, raw: u64| {
            judged(&format!(
                r#"{{"ata_smart_attributes":{{"table":[{{"id":9,"raw":{{"value":41000}}}},
                   {{"id":{id},"name":"x","raw":{{"value":{raw},"string":"x"}}}}]}}}}"#
            ))
        };
        assert_eq!(attribute(5, 3), Health::Good);
        assert_eq!(attribute(5, 12), Health::Worn);
        assert_eq!(attribute(197, 1), Health::Worn);
        assert_eq!(attribute(198, 1 << 32), Health::Good);
        assert_eq!(judged(r#"{"nvme_smart_health_information_log":{"percentage_used":97}}"#), Health::Worn);
        assert_eq!(judged(r#"{"nvme_smart_health_information_log":{"percentage_used":3}}"#), Health::Good);
    }
}
