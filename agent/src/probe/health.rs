//! How a disk is, as it says itself: SMART of ATA, SCSI and NVMe disks by smartctl, the wear of eMMC chips
//! by sysfs.
//!
//! Disks are asked one after the other, each with a time limit: one bad disk keeps its whole bus waiting,
//! and nobody for longer than [`PATIENCE`].
//!
//! | grade | ATA | NVMe | SCSI | eMMC |
//! |---|---|---|---|---|
//! | failing | its own verdict; an attribute below its maker's threshold; 100 replaced sectors, or 10 that cannot be read | read-only, unreliable, or less spare than its threshold | its own verdict; 100 grown defects | wear beyond 100 %, or 90 % of the spare blocks used |
//! | worn | 10 replaced sectors, 1 that cannot be read, an uncorrectable error, an attribute that was below its threshold, 60,000 hours; an SSD with 10 % of its life left | 90 % of its life used, or an error of the medium | 10 grown defects, 60,000 hours | 90 % of its life used, or 80 % of the spare blocks |
//!
//! Sectors that cannot be read are lost data now, replaced ones a sign of more to come: a disk with a first
//! one is many times as likely to die within two months as others (Google, *Failure Trends in a Large Disk
//! Drive Population*, 2007), and attributes 5, 187, 197 and 198 are those Backblaze retires disks by. The
//! hours are the 2,500 days after which Free Geek takes no disk.

use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, ExecError, Runner};
use akene_protocol::inventory::{Bus, Disk, Health};
use akene_protocol::issue::Issue;
use serde::Deserialize;

use super::root::{ProbeRoot, text};

/// A disk that is spun down needs some seconds; one that does not answer is not waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Replaced sectors, or grown defects: a few are normal in the life of a disk.
const REPLACED: [u64; 2] = [10, 100];

/// Sectors that cannot be read.
const UNREADABLE: [u64; 2] = [1, 10];

/// Hours in use.
const HOURS: u64 = 60_000;

/// Per cent of a flash disk's life.
const LIFE: u64 = 90;

/// What a disk is graded, and why it is not simply good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grade {
    pub health: Health,
    pub why: Vec<String>,
}

impl Grade {
    fn unknown(why: impl Into<String>) -> Self {
        Grade { health: Health::Unknown, why: vec![why.into()] }
    }

    fn lower(&mut self, health: Health, why: String) {
        // `Unknown` lies between `Good` and `Worn`.
        self.health = self.health.max(health);
        self.why.push(why);
    }

    /// Grades a count by where it becomes worn and where failing.
    fn count(&mut self, count: u64, limits: [u64; 2], what: &str) {
        match count {
            n if n >= limits[1] => self.lower(Health::Failing, format!("{n} {what}")),
            n if n >= limits[0] => self.lower(Health::Worn, format!("{n} {what}")),
            _ => {}
        }
    }

    /// For the notes of an inventory.
    pub fn note(&self, disk: &Disk) -> Option<Issue> {
        let why = self.why.join(", ");
        let (code, what, next) = match self.health {
            Health::Failing => {
                ("disk-failing", "is failing", "save what is on it and replace it; it is not installed on")
            }
            Health::Worn => {
                ("disk-worn", "is worn", "nothing, while there is a better one; plan to replace it")
            }
            Health::Unknown if !why.is_empty() => {
                ("disk-health-unknown", "does not say how it is", "nothing; keep copies of what is on it")
            }
            _ => return None,
        };
        Some(Issue::new(code, &disk.name, format!("the disk {} {what}: {why}", disk.path), next))
    }
}

/// What of a disk's own report a person can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Hours in use.
    Hours(u64),
    /// Degrees Celsius.
    Temperature(u64),
    /// Sectors that were replaced by spare ones.
    Replaced(u64),
    /// Sectors that could not be read and wait to be replaced.
    Waiting(u64),
    /// Sectors that cannot be read.
    Unreadable(u64),
    /// Errors that were not corrected.
    Uncorrected(u64),
    /// Per cent of a flash disk's life that are used.
    LifeUsed(u64),
    /// Per cent of the spare blocks that are left.
    Spare(u64),
}

/// The grade of a disk that was asked just now, with its figures; none where it tells none.
pub(crate) fn asked(runner: &dyn Runner, root: &ProbeRoot, disk: &Disk) -> (Grade, Vec<Figure>) {
    match disk.bus {
        Bus::Sata | Bus::Ide | Bus::Scsi | Bus::Sas | Bus::Nvme => match report(runner, &disk.path) {
            Ok(json) => (read(&json), figures(&json)),
            Err(grade) => (grade, Vec::new()),
        },
        _ => (of(runner, root, disk), Vec::new()),
    }
}

/// The figures of a report of smartctl's.
pub(crate) fn figures(json: &[u8]) -> Vec<Figure> {
    serde_json::from_slice::<Report>(json).map(|report| report.figures()).unwrap_or_default()
}

/// Asks the disk.
pub(super) fn of(runner: &dyn Runner, root: &ProbeRoot, disk: &Disk) -> Grade {
    match disk.bus {
        Bus::Emmc => emmc(root, &disk.name),
        Bus::Sata | Bus::Ide | Bus::Scsi | Bus::Sas | Bus::Nvme => smart(runner, &disk.path),
        // Many USB bridges stop working altogether when asked; the others have nothing to ask.
        Bus::Usb | Bus::Firewire | Bus::Sd | Bus::Virtio | Bus::Loop | Bus::Unknown => Grade::default(),
    }
}

fn smart(runner: &dyn Runner, path: &str) -> Grade {
    report(runner, path).map_or_else(|grade| grade, |json| read(&json))
}

/// What smartctl prints, or the grade of a disk that it cannot ask.
fn report(runner: &dyn Runner, path: &str) -> Result<Vec<u8>, Grade> {
    let cmd = Cmd::new("smartctl").args(["--json", "-i", "-H", "-A"]).arg(path).timeout(PATIENCE);
    match runner.run(&cmd) {
        Ok(output) => Ok(output.stdout),
        Err(e) => match e.downcast_ref::<ExecError>() {
            // Its exit code says what is wrong with the disk; so does what it printed, and better.
            Some(ExecError { code: Some(_), output, .. }) => Ok(output.stdout.clone()),
            Some(ExecError { how, .. }) => Err(Grade::unknown(format!("smartctl {how}"))),
            None => Err(Grade::unknown(format!("{e:#}"))),
        },
    }
}

pub(crate) fn read(json: &[u8]) -> Grade {
    if json.is_empty() {
        return Grade::default();
    }
    match serde_json::from_slice::<Report>(json) {
        Ok(report) => report.grade(),
        Err(_) => Grade::unknown("smartctl says nothing that could be understood"),
    }
}

/// The parts of `smartctl --json` that count.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    smartctl: Run,
    smart_status: Option<Status>,
    smart_support: Option<Support>,
    rotation_rate: Option<u64>,
    power_on_time: Hours,
    temperature: Temperature,
    ata_smart_attributes: Attributes,
    nvme_smart_health_information_log: Option<Nvme>,
    scsi_grown_defect_list: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Run {
    exit_status: u32,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    string: String,
}

#[derive(Deserialize)]
struct Status {
    passed: bool,
}

#[derive(Deserialize)]
struct Support {
    #[serde(default)]
    enabled: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Hours {
    hours: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Temperature {
    current: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attributes {
    table: Vec<Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    id: u32,
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    when_failed: String,
    raw: Raw,
}

#[derive(Deserialize)]
struct Raw {
    value: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Nvme {
    critical_warning: u64,
    available_spare: Option<u64>,
    available_spare_threshold: Option<u64>,
    percentage_used: u64,
    media_errors: u64,
}

impl Report {
    fn grade(&self) -> Grade {
        let knows = !self.ata_smart_attributes.table.is_empty()
            || self.nvme_smart_health_information_log.is_some()
            || self.smart_status.is_some();
        if !knows {
            let said: Vec<&str> = self.smartctl.messages.iter().map(|m| m.string.as_str()).collect();
            return Grade::unknown(match said.last() {
                Some(said) => (*said).to_owned(),
                None if self.smart_support.as_ref().is_some_and(|s| !s.enabled) => {
                    "its self-monitoring is switched off".to_owned()
                }
                None => format!("smartctl cannot ask it (status {})", self.smartctl.exit_status),
            });
        }
        let mut grade = Grade { health: Health::Good, why: Vec::new() };
        if self.smart_status.as_ref().is_some_and(|s| !s.passed) {
            grade.lower(Health::Failing, "it gives itself up".into());
        }
        if self.power_on_time.hours >= HOURS {
            grade.lower(Health::Worn, format!("{} hours in use", self.power_on_time.hours));
        }
        self.ata(&mut grade);
        grade.count(self.scsi_grown_defect_list, REPLACED, "grown defects");
        if let Some(nvme) = &self.nvme_smart_health_information_log {
            nvme.judge(&mut grade);
        }
        grade
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        figures.extend(Some(self.power_on_time.hours).filter(|h| *h > 0).map(Figure::Hours));
        figures.extend(self.temperature.current.filter(|t| *t > 0).map(Figure::Temperature));
        for attribute in &self.ata_smart_attributes.table {
            let raw = attribute.raw.value & 0xffff_ffff;
            figures.extend(match attribute.id {
                5 => Some(Figure::Replaced(raw)),
                187 => Some(Figure::Uncorrected(raw)),
                197 => Some(Figure::Waiting(raw)),
                198 => Some(Figure::Unreadable(raw)),
                _ => None,
            });
        }
        figures.extend(Some(self.scsi_grown_defect_list).filter(|n| *n > 0).map(Figure::Replaced));
        if let Some(nvme) = &self.nvme_smart_health_information_log {
            figures.push(Figure::LifeUsed(nvme.percentage_used));
            figures.extend(nvme.available_spare.map(Figure::Spare));
            figures.push(Figure::Uncorrected(nvme.media_errors));
        }
        figures
    }

    fn ata(&self, grade: &mut Grade) {
        for attribute in &self.ata_smart_attributes.table {
            // A disk that was too hot once is not worn by it.
            let heat = matches!(attribute.id, 190 | 194);
            match attribute.when_failed.as_str() {
                "now" if !heat => {
                    grade.lower(Health::Failing, format!("{} is below its threshold", attribute.name));
                }
                "past" if !heat => {
                    grade.lower(Health::Worn, format!("{} was below its threshold", attribute.name));
                }
                _ => {}
            }
            // Some makers pack other counts into the upper bytes.
            let raw = attribute.raw.value & 0xffff_ffff;
            match attribute.id {
                5 => grade.count(raw, REPLACED, "replaced sectors"),
                187 if raw > 0 => grade.lower(Health::Worn, format!("{raw} errors that were not corrected")),
                197 => grade.count(raw, UNREADABLE, "sectors waiting to be replaced"),
                198 => grade.count(raw, UNREADABLE, "sectors that cannot be read"),
                // The numbers mean other things on disks that turn. These count down from 100 on all makes.
                173 | 177 | 202 | 231 | 233
                    if self.rotation_rate == Some(0) && attribute.value <= 100 - LIFE =>
                {
                    grade.lower(Health::Worn, format!("{} % of its life is left", attribute.value));
                }
                _ => {}
            }
        }
    }
}

impl Nvme {
    /// By the NVMe specification, SMART / Health Information log (page 02h).
    fn judge(&self, grade: &mut Grade) {
        const WARNINGS: [(u64, &str); 4] = [
            (1, "its spare blocks are used up"),
            (4, "it says that it is not reliable any more"),
            (8, "it can only be read"),
            (16, "its memory back-up has failed"),
        ];
        for (bit, what) in WARNINGS {
            if self.critical_warning & bit != 0 {
                grade.lower(Health::Failing, what.to_owned());
            }
        }
        if let (Some(spare), Some(least)) = (self.available_spare, self.available_spare_threshold)
            && spare < least
        {
            grade.lower(Health::Failing, format!("{spare} % spare blocks, and {least} % are needed"));
        }
        if self.percentage_used >= LIFE {
            grade.lower(Health::Worn, format!("{} % of its life is used", self.percentage_used));
        }
        if self.media_errors > 0 {
            grade.lower(Health::Worn, format!("{} errors of the medium", self.media_errors));
        }
    }
}

/// The wear of an eMMC chip as its registers give it (JEDEC 84-B51): life used in steps of 10 per cent for two
/// kinds of cells, 0x0b for more than all of it; spare blocks as normal, 80 % used, 90 % used. 0 is unknown.
fn emmc(root: &ProbeRoot, name: &str) -> Grade {
    let device = root.sys.join("block").join(name).join("device");
    let register = |path: &Path| -> Vec<u64> {
        let words = text(path).unwrap_or_default();
        let words = words.split_whitespace().filter_map(|w| w.strip_prefix("0x"));
        words.filter_map(|w| u64::from_str_radix(w, 16).ok()).filter(|v| *v > 0).collect()
    };
    let life = register(&device.join("life_time")).into_iter().max();
    let spare = register(&device.join("pre_eol_info")).into_iter().max();
    if life.is_none() && spare.is_none() {
        return Grade::unknown("the chip does not tell its wear");
    }
    let mut grade = Grade { health: Health::Good, why: Vec::new() };
    match life {
        Some(11..) => grade.lower(Health::Failing, "more than its whole life is used".into()),
        Some(10) => grade.lower(Health::Worn, "90 to 100 % of its life is used".into()),
        _ => {}
    }
    match spare {
        Some(3..) => grade.lower(Health::Failing, "90 % of its spare blocks are used".into()),
        Some(2) => grade.lower(Health::Worn, "80 % of its spare blocks are used".into()),
        _ => {}
    }
    grade
}

#[cfg(test)]
mod tests;
