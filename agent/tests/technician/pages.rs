//! Every page as text, in both languages and several sizes: `pages/SIZE-LANGUAGE.txt`. With `AKENE_BLESS=1` they are written instead of
//! compared; read the difference before you commit it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use akene_agent::technician::dialog::{Answers, Dialog};
use akene_agent::technician::draw::{Look, draw};
use akene_agent::technician::keys::Key;
use akene_agent::technician::words::Text;
use akene_protocol::{Issue, Language};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use crate::machines::{SITE, associations, choosing, confirming, golden_outlook, names, refusing};

/// The frame as lines of text, without blanks at their ends.
pub fn frame(dialog: &Dialog, (width, height): (u16, u16), look: Look) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            draw(dialog, frame, look);
        })
        .unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        writeln!(text, "{}", line.trim_end()).unwrap();
    }
    text
}

/// Equal lines one after the other as one, with their number: large windows are mostly empty.
fn folded(text: &str) -> String {
    let mut out = String::new();
    for same in text.lines().collect::<Vec<_>>().chunk_by(|a, b| a == b) {
        match same.len() {
            1 => writeln!(out, "{}", same[0]).unwrap(),
            n => writeln!(out, "{} x{n}", same[0]).unwrap(),
        }
    }
    out
}

fn pressed(mut dialog: Dialog, keys: &[Key]) -> Dialog {
    for key in keys {
        assert_eq!(dialog.press(*key), None, "{key:?} ends the dialog");
    }
    dialog
}

fn typed(mut dialog: Dialog, text: &str, then: &[Key]) -> Dialog {
    text.chars().for_each(|c| assert_eq!(dialog.press(Key::Char(c)), None));
    pressed(dialog, then)
}

/// One of every page.
fn all(language: Language) -> Vec<(&'static str, Dialog)> {
    use Key::{Down, Enter, Esc, F};
    let names = associations();
    let choose = || choosing(language, &names, None);
    let number = || pressed(choose(), &[Enter, Enter, Enter]);
    let known = || pressed(choosing(language, &names, Some(1001)), &[Enter, Enter, Enter]);
    let untitled = || pressed(choosing(language, &[], None), &[Enter]);
    let confirm = |machine| pressed(confirming(language, machine), &[Enter]);
    let pulled = Issue::new(
        "medium-damaged",
        "pool/5f70bf18",
        "the file has 40 MiB and should have 52 MiB",
        "make a new copy of the stick",
    );
    vec![
        ("language", choose()),
        ("number-scanned-too-early", typed(choose(), "10429", &[Enter])),
        ("association", pressed(choose(), &[Enter, Down])),
        ("association-typed", typed(untitled(), "Emmaüs Tréguier", &[])),
        ("association-scanned", typed(untitled(), "*10429*", &[Enter])),
        ("profile", pressed(choose(), &[Enter, Enter, Down])),
        ("number", typed(number(), "1042", &[])),
        ("number-wrong", typed(number(), "1024-9", &[Enter])),
        ("number-letters", typed(number(), "l042-9", &[Enter])),
        ("number-short", typed(number(), "9", &[Enter])),
        ("number-long", typed(number(), "123456789012", &[Enter])),
        ("number-known", known()),
        ("number-two", typed(known(), "10429", &[Enter])),
        ("number-none", pressed(number(), &[Enter])),
        ("plan-windows", confirming(language, "windows")),
        ("plan-keeps-files", confirming(language, "akene-reinstall")),
        ("plan-files-inside", confirming(language, "mbr-logical-windows-and-linux")),
        ("plan-failing-disk", confirming(language, "ssd-and-failing-hdd")),
        ("plan-four-disks", confirming(language, "four-10gb-desktop")),
        ("plan-blank", confirming(language, "ssd-120gb-uefi64")),
        ("confirm-windows", typed(confirm("windows"), "DEL", &[])),
        ("confirm-wrong", typed(confirm("windows"), "yes", &[Enter])),
        ("confirm-files-inside", confirm("mbr-logical-windows-and-linux")),
        ("confirm-blank", confirm("ssd-120gb-uefi64")),
        ("refused-too-small", refusing(language, "too-small-by-1.1-gib")),
        ("refused-failing", refusing(language, "akene-failing")),
        ("refused-many", refusing(language, "read-only-and-tape-sectors")),
        ("refused-damaged", Dialog::tell(SITE, language, Answers::default(), &[pulled])),
        ("leave", pressed(confirming(language, "windows"), &[Esc])),
        ("leave-refused", pressed(refusing(language, "akene-failing"), &[Down, Enter])),
        ("help-number", pressed(number(), &[F(1)])),
        ("help-confirm", pressed(confirm("windows"), &[F(1)])),
    ]
}

fn expect(name: &str, text: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/technician/pages").join(name);
    if fs::read_to_string(&path).ok().as_deref() == Some(text) {
        return None;
    }
    if std::env::var_os("AKENE_BLESS").is_some() {
        fs::write(&path, text).unwrap();
        return None;
    }
    Some(format!("{} is not what is drawn:\n{text}", path.display()))
}

#[test]
fn every_page_looks_as_it_did() {
    let mut wrong = Vec::new();
    for language in Language::ALL {
        let pages = all(language);
        for (width, height, look, tag) in [
            (80, 24, Look::Screen, ""),
            (80, 25, Look::Screen, ""),
            (132, 43, Look::Screen, ""),
            (80, 24, Look::Serial, "-serial"),
            (40, 10, Look::Serial, "-serial"),
        ] {
            let mut text = String::new();
            for (name, dialog) in &pages {
                writeln!(text, "=== {name}\n{}", folded(&frame(dialog, (width, height), look))).unwrap();
            }
            wrong.extend(expect(&format!("{width}x{height}{tag}-{}.txt", language.tag()), &text));
        }
    }
    assert!(wrong.is_empty(), "{}\nif this is right, run again with AKENE_BLESS=1", wrong.join("\n"));
}

#[test]
fn a_serial_line_gets_ascii_and_a_console_code_page_437() {
    for language in Language::ALL {
        for (name, dialog) in all(language) {
            let serial = frame(&dialog, (80, 24), Look::Serial);
            assert!(serial.is_ascii(), "{name}: {serial}");
            let screen = frame(&dialog, (80, 24), Look::Screen);
            let allowed = |c: char| c.is_ascii() || "çéâàêëèïîÉôûùÇü─│┌┐└┘".contains(c);
            assert!(screen.chars().all(allowed), "{name}: {screen}");
        }
    }
}

/// What has to be read before the word is typed is on the screen when it is asked for.
#[test]
fn what_is_lost_stands_above_the_word() {
    for language in Language::ALL {
        let dialog = pressed(confirming(language, "mbr-logical-windows-and-linux"), &[Key::Enter]);
        for size in [(80, 24), (80, 25), (132, 43)] {
            let text = frame(&dialog, size, Look::Screen);
            for part in ["Windows", "Ubuntu 18.04.6 LTS", "Donnees", dialog.word()] {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
        }
    }
}

/// In a window that is much too small nothing is out of reach.
#[test]
fn every_line_of_a_plan_can_be_scrolled_to() {
    let mut dialog = confirming(Language::En, "windows");
    let mut seen = String::new();
    for _ in 0..60 {
        seen.push_str(&frame(&dialog, (40, 10), Look::Serial));
        dialog.press(Key::Down);
    }
    for part in ["before", "after", "Windows \"Windows\"", "helper partitions"] {
        assert!(seen.contains(part), "{part} is never seen");
    }
}

/// Of every golden machine, each disk that is written to is on the plan, and each thing that is lost is named or counted where the word is
/// typed, in sight or a few lines below.
#[test]
fn every_golden_machine_s_losses_are_said() {
    let mut shown = 0;
    for name in names() {
        let Some(outlook) = golden_outlook(&name) else { continue };
        let plan = outlook.plan.clone();
        shown += 1;
        for language in Language::ALL {
            let mut dialog = Dialog::confirm(SITE, language, Answers::default(), outlook.clone());
            let disks = scrolled(&mut dialog);
            for disk in plan.disks.iter().map(|disk| format!(" {} (", disk.disk.name)) {
                assert!(disks.contains(&disk), "{name}: {disk} is not in\n{disks}");
            }
            dialog.press(Key::Enter);
            let said = scrolled(&mut dialog);
            let technical = Text::Technical.get(language);
            let counted =
                said.lines().find_map(|line| line.split_once(technical)?.1.split_whitespace().next());
            let named =
                plan.destroys.iter().filter(|lost| said.contains(&format!("{}: ", lost.name))).count();
            let counted: usize = counted.map_or(0, |n| n.parse().unwrap());
            assert_eq!(named + counted, plan.destroys.len(), "{name}:\n{said}");
        }
    }
    assert!(shown >= 40, "only {shown} golden machines have a plan");
}

/// All that can be scrolled to.
fn scrolled(dialog: &mut Dialog) -> String {
    let mut text = String::new();
    dialog.press(Key::Home);
    for _ in 0..12 {
        text.push_str(&frame(dialog, (80, 25), Look::Screen));
        dialog.press(Key::Down);
        dialog.press(Key::Down);
        dialog.press(Key::Down);
    }
    dialog.press(Key::Home);
    text
}

/// The field guide's picture of a screen is one.
#[test]
fn the_field_guide_shows_what_people_see() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/field-guide.md");
    let guide = fs::read_to_string(guide).unwrap();
    let plan = confirming(Language::En, "windows");
    for dialog in [plan.clone(), pressed(plan, &[Key::Enter])] {
        let shown = frame(&dialog, (80, 24), Look::Screen);
        assert!(
            guide.contains(&format!("```text\n{shown}```")),
            "docs/field-guide.md does not show\n{shown}"
        );
    }
}
