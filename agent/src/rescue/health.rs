//! How the disks are, in words.

use akene_protocol::Language;
use akene_protocol::inventory::{Bus, Disk, Health};

use super::Rescue;
use super::volumes::disk_line;
use super::words::Text;
use crate::probe::health::{Figure, Grade, asked};

/// Asks every disk, and says how it is and what to do.
pub fn page(rescue: &Rescue<'_>) -> String {
    let machine = rescue.machine();
    let mut lines = Vec::new();
    for disk in &machine.disks {
        let (grade, figures) = asked(rescue.runner, &rescue.probe, disk);
        lines.extend(report(disk, &grade, &figures, rescue.language));
    }
    if machine.disks.is_empty() {
        lines.push(Text::NoDisks.get(rescue.language).into());
    }
    lines.join("\n") + "\n"
}

/// What is said of one disk.
fn report(disk: &Disk, grade: &Grade, figures: &[Figure], language: Language) -> Vec<String> {
    let text = |text: Text| text.get(language);
    let silent =
        matches!(disk.bus, Bus::Usb | Bus::Firewire | Bus::Sd | Bus::Virtio | Bus::Loop | Bus::Unknown);
    // What was seen while its table was read counts, too.
    let (verdict, next) = match grade.health.max(disk.health) {
        Health::Failing => (Text::HealthFailing, Text::NextFailing),
        Health::Worn => (Text::HealthWorn, Text::NextWorn),
        Health::Good => (Text::HealthGood, Text::NextGood),
        Health::Unknown if silent => (Text::HealthSilent, Text::NextUnknown),
        Health::Unknown => (Text::HealthUnknown, Text::NextUnknown),
    };
    let mut lines = vec![disk_line(disk, language), format!("   {}", text(verdict))];
    lines.extend(figures.iter().map(|figure| format!("   - {}", words(*figure, language))));
    if !grade.why.is_empty() {
        lines.push(format!("   {} {}", text(Text::Because), grade.why.join(", ")));
    }
    lines.push(format!("   > {}", text(next)));
    lines
}

fn words(figure: Figure, language: Language) -> String {
    let (text, value) = match figure {
        Figure::Hours(n) => (Text::Hours, n),
        Figure::Temperature(n) => (Text::Temperature, n),
        Figure::Replaced(n) => (Text::Replaced, n),
        Figure::Waiting(n) => (Text::WaitingSectors, n),
        Figure::Unreadable(n) => (Text::Unreadable, n),
        Figure::Uncorrected(n) => (Text::Uncorrected, n),
        Figure::LifeUsed(n) => (Text::LifeUsed, n),
        Figure::Spare(n) => (Text::Spare, n),
    };
    text.with(language, &[&value.to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::health::{figures, read};
    use akene_protocol::Inventory;

    const DYING: &str = r#"{"smartctl":{"exit_status":0},"rotation_rate":7200,"smart_status":{"passed":true},
        "power_on_time":{"hours":41000},"temperature":{"current":35},"ata_smart_attributes":{"table":[
        {"id":5,"name":"Reallocated_Sector_Ct","value":100,"when_failed":"","raw":{"value":12}},
        {"id":197,"name":"Current_Pending_Sector","value":100,"when_failed":"","raw":{"value":16}},
        {"id":9,"name":"Power_On_Hours","value":50,"when_failed":"","raw":{"value":41000}}]}}"#;

    #[test]
    fn a_failing_disk_is_told_with_what_matters_and_what_to_do() {
        let machine: Inventory =
            serde_json::from_str(include_str!("../../../tests/golden/akene-reinstall/inventory.json"))
                .unwrap();
        let disk = &machine.disks[0];
        let (grade, figures) = (read(DYING.as_bytes()), figures(DYING.as_bytes()));
        assert_eq!(
            figures,
            [Figure::Hours(41000), Figure::Temperature(35), Figure::Replaced(12), Figure::Waiting(16)]
        );
        let english = report(disk, &grade, &figures, Language::En).join("\n");
        for part in ["FAILING", "41000", "12", "16", "save"] {
            assert!(english.contains(part), "`{part}` is missing:\n{english}");
        }
        let french = report(disk, &grade, &figures, Language::Fr).join("\n");
        assert!(french.contains("PANNE") && french.contains("41000"), "{french}");
        let good = report(disk, &Grade { health: Health::Good, why: vec![] }, &[], Language::En).join("\n");
        assert!(good.contains("good") && !good.contains("FAILING"), "{good}");
    }

    #[test]
    fn garbage_gives_no_figures() {
        for odd in ["", "{", "[]", r#"{"power_on_time":{"hours":-1}}"#] {
            assert_eq!(figures(odd.as_bytes()), []);
        }
    }
}
