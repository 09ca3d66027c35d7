//! Whole dialogues on a pty, driven by keystrokes.

use std::fs::OpenOptions;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use akene_agent::boot::keyboard::Keyboard;
use akene_agent::boot::{ConsoleKind, Consoles};
use akene_agent::report::Reporter;
use akene_agent::report::curtain::Behind;
use akene_agent::report::lines::Lines;
use akene_agent::run::technician::Technician;
use akene_agent::technician;
use akene_agent::technician::terminal::Tty;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::api::Consent;
use akene_protocol::{AssetNumber, Language, RunId};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::machines::rehearsal;
use crate::seat::{DOWN, ENTER, ESC, F1, LEFT, Seat, Talk, UP};

/// The first three questions, with what is offered first.
fn to_the_number(seat: &mut Seat) {
    seat.answers("question 1/6", &[ENTER]);
    seat.answers("question 2/6", &[ENTER]);
    seat.answers("question 3/6", &[ENTER]);
}

#[test]
fn an_old_windows_computer_is_installed() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::Fr, rehearsal("windows"));
    seat.sees(&["Langue - Language", "> Français"]);
    assert!(!seat.is_cooked());
    seat.types(ENTER);
    seat.answers("Où va cet ordinateur ?", &[DOWN, ENTER]);
    seat.answers("Que faut-il installer ?", &[DOWN, ENTER]);
    seat.answers("Le numéro de cet ordinateur", &["1042-9", ENTER]);
    seat.sees(&["Ce qui va être fait", "Bureau léger", "WDC WD1600BEVT", "avant"]);
    seat.types(ENTER);
    seat.sees(&["PERDU POUR TOUJOURS", "Windows", "61 GiB", "DETRUIRE"]);
    seat.types("detruire\r");
    let wish = talk.end().unwrap();
    assert_eq!(wish.choice.association.as_deref(), Some("Secours populaire, Guingamp"));
    assert_eq!(wish.choice.profile, "leger");
    assert_eq!(wish.choice.asset, Some(AssetNumber::new(1042)));
    assert_eq!(wish.permission.consent(), Consent::Wipe);
    assert!(!wish.plan.destroys.is_empty());
    seat.is_given_back();
}

#[test]
fn a_wrong_digit_is_noticed_and_mended() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("ssd-120gb-uefi64"));
    to_the_number(&mut seat);
    seat.answers("question 4/6", &["1024-9", ENTER]);
    seat.sees(&["mistake in this number", "[1024-9"]);
    seat.types("\x7f\x7f\x08\x7f");
    seat.types("42-9\r");
    seat.sees(&["question 5/6", "Nothing is lost"]);
    seat.types(ENTER);
    seat.answers("type this word", &["begin", ENTER]);
    assert_eq!(talk.end().unwrap().choice.asset, Some(AssetNumber::new(1042)));
}

#[test]
fn a_scanner_types_faster_than_anybody_reads() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    // Where no number is asked for, the Enter of a scanner answers nothing.
    seat.answers("question 1/6", &["*10429*\r\n"]);
    seat.sees(&["question 1/6", "It comes later"]);
    seat.types(DOWN);
    seat.types(UP);
    to_the_number(&mut seat);
    seat.answers("question 4/6", &["]C110429\r\n"]);
    // Nor does it read a plan, or type a word.
    seat.answers("question 5/6", &["10429\r\n"]);
    seat.sees(&["question 5/6", "It comes later"]);
    seat.types(DOWN);
    seat.types(ENTER);
    seat.answers("question 6/6", &["10429\r\n"]);
    seat.sees(&["That is not the word"]);
    seat.types("delete\r");
    assert_eq!(talk.end().unwrap().choice.asset, Some(AssetNumber::new(1042)));
}

#[test]
fn a_disk_that_is_too_small_is_refused_with_what_to_do() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::Fr, rehearsal("too-small-by-1.1-gib"));
    to_the_number(&mut seat);
    seat.answers("question 4/6", &[ENTER]);
    seat.answers("Pas de numéro ?", &[ENTER]);
    seat.sees(&[
        "Impossible de continuer",
        "le disque est trop petit",
        "Que faire :",
        "1.1 GiB",
        "disk-too-small",
    ]);
    // Back to the questions, where the answers are still there; then away.
    seat.types(ENTER);
    seat.sees(&["question 3/6", "> Bureau complet"]);
    seat.types(ENTER);
    seat.answers("question 4/6", &[ENTER]);
    seat.answers("Pas de numéro ?", &[ENTER]);
    seat.answers("Impossible de continuer", &[LEFT]);
    seat.answers("question 3/6", &[ESC]);
    seat.answers("Quitter ?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
    seat.is_given_back();
}

#[test]
fn every_reason_is_there_even_where_they_do_not_fit() {
    let mut seat = Seat::new(ConsoleKind::Screen, (80, 12));
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("read-only-and-tape-sectors"));
    to_the_number(&mut seat);
    seat.answers("question 4/6", &["10429", ENTER]);
    seat.sees(&["No disk of this computer can be used", "more below"]);
    seat.types("\x1b[6~");
    seat.sees(&["sectors of 520 bytes", "Go back to the questions"]);
    seat.types(DOWN);
    seat.types(ENTER);
    seat.answers("Leave?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
}

#[test]
fn a_failing_disk_is_named_and_not_used() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("ssd-and-failing-hdd"));
    to_the_number(&mut seat);
    seat.answers("question 4/6", &["10429", ENTER]);
    seat.sees(&["! Disk sda", "IS FAILING and is not used", "Disk sdb (KINGSTON"]);
    seat.types(ENTER);
    seat.answers("question 6/6", &["begin", ENTER]);
    let plan = talk.end().unwrap().plan;
    assert!(plan.disks.iter().all(|disk| disk.disk.name == "sdb"));
}

#[test]
fn back_and_forth_loses_no_answer() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    seat.answers("question 1/6", &[ENTER]);
    seat.answers("question 2/6", &[DOWN, DOWN, ENTER]);
    seat.answers("question 3/6", &[ENTER]);
    seat.answers("question 4/6", &["10429", LEFT]);
    seat.answers("question 3/6", &["\x1b[Z"]);
    seat.sees(&["question 2/6", "> Coll"]);
    seat.types(ENTER);
    seat.answers("question 3/6", &[ENTER]);
    seat.sees(&["question 4/6", "[10429"]);
    seat.types(F1);
    seat.answers("for its whole life", &["x"]);
    seat.sees(&["question 4/6", "[10429"]);
    seat.types(ENTER);
    // From the plan to another profile, and on to the last question, and back, and to the end.
    seat.answers("question 5/6", &[LEFT]);
    seat.answers("question 3/6", &[DOWN, DOWN, ENTER]);
    seat.answers("[10429", &[ENTER]);
    seat.sees(&["question 5/6", "minimal"]);
    seat.types(ENTER);
    seat.answers("question 6/6", &["delete", LEFT]);
    seat.answers("question 5/6", &[ENTER]);
    // A word typed before does not count.
    seat.answers("question 6/6", &[ENTER]);
    seat.sees(&["That is not the word"]);
    seat.types("delete\r");
    let wish = talk.end().unwrap();
    assert_eq!((wish.choice.profile.as_str(), wish.choice.asset), ("minimal", Some(AssetNumber::new(1042))));
    assert_eq!(wish.choice.association.as_deref(), Some("Collège Charles-Le-Goffic"));
}

#[test]
fn the_number_on_the_disk_and_the_one_on_the_label_differ() {
    let mut seat = Seat::screen();
    let mut rehearsal = rehearsal("akene-reinstall");
    rehearsal.known = Some(AssetNumber::new(1001));
    let talk = Talk::begin(&[&seat], Language::En, rehearsal);
    to_the_number(&mut seat);
    seat.sees(&["question 4/6", "keeps the number it has: 1001-6"]);
    seat.types("1042-9\r");
    seat.sees(&["Two different numbers", "1001-6 (said by the disk)", "1042-9 (typed by you)"]);
    seat.types(DOWN);
    seat.types(ENTER);
    seat.sees(&["Stays as it is:", "people's files"]);
    seat.types(ENTER);
    seat.answers("question 6/6", &["DELETE\r"]);
    assert_eq!(talk.end().unwrap().choice.asset, None, "the one it has is not one from a label");
}

#[test]
fn who_leaves_is_asked_once_more() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    to_the_number(&mut seat);
    seat.answers("question 4/6", &["10429", ESC]);
    // Enter alone stays; so does Escape.
    seat.answers("Leave?", &[ENTER]);
    seat.answers("[10429", &[ESC]);
    seat.answers("Leave?", &[ESC]);
    seat.answers("[10429", &[ENTER]);
    seat.answers("question 5/6", &[ENTER]);
    seat.answers("question 6/6", &[ESC]);
    seat.sees(&["Leave?", "Nothing was changed"]);
    seat.types(DOWN);
    seat.types(ENTER);
    assert!(talk.end().is_none());
    seat.is_given_back();
}

#[test]
fn a_noisy_line_begins_nothing() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    to_the_number(&mut seat);
    seat.answers("question 4/6", &["10429", ENTER]);
    seat.answers("question 5/6", &[ENTER]);
    seat.sees(&["question 6/6"]);
    // The same noise each time: a linear congruential generator. Carriage returns and escapes are in it.
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(3000)
    .collect();
    for piece in noise.chunks(100) {
        seat.sends(piece);
    }
    // Wherever that led, the way out is open.
    for _ in 0..200 {
        if let Some(end) = talk.is_over() {
            assert!(end.unwrap().is_none(), "noise confirmed a plan");
            // What came after its end is echoed, as on any terminal.
            return assert!(seat.is_cooked());
        }
        seat.types(ESC);
        std::thread::sleep(Duration::from_millis(200));
        if seat.text().contains("Leave?") {
            seat.types(DOWN);
            seat.types(ENTER);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    panic!("there is no way out of\n{}", seat.text());
}

#[test]
fn a_window_of_forty_by_ten_is_enough() {
    let mut seat = Seat::new(ConsoleKind::Serial, (40, 10));
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    to_the_number(&mut seat);
    seat.answers("Number: [", &["10429", ENTER]);
    seat.answers("What will be done", &["\x1b[6~"]);
    seat.types(ENTER);
    seat.answers("Word: [", &["delete", ENTER]);
    assert!(talk.end().is_some());
    seat.is_given_back();
}

#[test]
fn every_console_shows_the_same_and_any_key_counts() {
    let (mut screen, mut serial) = (Seat::screen(), Seat::new(ConsoleKind::Serial, (0, 0)));
    let talk = Talk::begin(&[&screen, &serial], Language::Fr, rehearsal("windows"));
    screen.sees(&["Français", "┌"]);
    // A serial line says no size, and gets 80 by 24 in plain letters.
    serial.sees(&["Francais", "+---"]);
    serial.types(ENTER);
    screen.sees(&["Où va cet ordinateur ?", "question 2/6"]);
    serial.sees(&["Ou va cet ordinateur ?", "question 2/6"]);
    screen.types(DOWN);
    screen.sees(&["> Secours populaire"]);
    serial.sees(&["> Secours populaire"]);
    serial.types(ESC);
    serial.answers("Quitter ?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
    screen.is_given_back();
    serial.is_given_back();
}

#[test]
fn a_window_may_change_its_size() {
    let mut seat = Seat::screen();
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    to_the_number(&mut seat);
    seat.answers("question 4/6", &["10429"]);
    seat.sees(&["[10429"]);
    for size in [(132, 43), (40, 10), (10, 3), (80, 24)] {
        seat.resize(size);
        seat.sees(&[if size.0 > 10 { "[10429" } else { "window to" }]);
    }
    let edge = |seat: &Seat| seat.text().lines().next().unwrap().trim_end().chars().count();
    assert!(edge(&seat) >= 78, "{}", seat.text());
    seat.types(ESC);
    seat.answers("Leave?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
}

#[test]
fn a_line_that_takes_nothing_holds_nobody_up() {
    let (mut seat, stuck) = (Seat::screen(), Seat::stuck());
    let talk = Talk::begin(&[&seat, &stuck], Language::En, rehearsal("windows"));
    seat.sees(&["question 1/6"]);
    // More than any terminal holds back: every page is drawn anew.
    for i in 0..40 {
        seat.types("\x0c");
        seat.answers("question 1/6", &[if i % 2 == 0 { DOWN } else { UP }]);
        seat.sees(&[if i % 2 == 0 { "> Fran" } else { "> English" }]);
    }
    to_the_number(&mut seat);
    seat.answers("question 4/6", &[ESC]);
    seat.answers("Leave?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
    seat.is_given_back();
    assert!(stuck.is_cooked());
}

#[test]
fn a_console_that_goes_away_takes_nobody_with_it() {
    let (mut stays, goes) = (Seat::screen(), Seat::new(ConsoleKind::Serial, (80, 24)));
    let talk = Talk::begin(&[&stays, &goes], Language::En, rehearsal("windows"));
    goes.sees(&["question 1/6"]);
    drop(goes);
    to_the_number(&mut stays);
    stays.answers("question 4/6", &[ESC]);
    stays.answers("Leave?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
}

#[test]
fn without_a_console_nobody_is_taken_to_have_agreed() {
    let consoles = Consoles(vec![akene_agent::boot::Console::new("/dev/null", ConsoleKind::Serial)]);
    let mut technician = technician::open(&consoles, Keyboard::untouched(), Language::En);
    let error = rehearsal("windows").with(&mut technician).unwrap_err();
    assert!(format!("{error:#}").contains("looking for a console"), "{error:#}");
}

#[test]
fn what_is_typed_before_the_question_answers_nothing() {
    let mut seat = Seat::screen();
    seat.types("\r\r\r10429\r\rdelete\r");
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    seat.sees(&["question 1/6"]);
    seat.types(ESC);
    seat.answers("Leave?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
}

#[test]
fn the_usual_lines_are_silent_meanwhile_and_come_afterwards() {
    let mut seat = Seat::screen();
    let reporter = Reporter::new(RunId([1; 8]), 1);
    let device = OpenOptions::new().write(true).open(&seat.console.path).unwrap();
    let lines = Lines::for_console(device, Language::En);
    reporter.listen("lines", Behind::new(seat.console.curtain.clone(), lines)).unwrap();
    let heard = || assert!(reporter.drain(Duration::from_secs(30)));
    reporter.info("said before");
    heard();
    seat.sees(&["said before"]);
    let talk = Talk::begin(&[&seat], Language::En, rehearsal("windows"));
    seat.sees(&["question 1/6"]);
    reporter.info("said meanwhile");
    heard();
    seat.types(ENTER);
    seat.sees(&["question 2/6"]);
    assert!(!seat.text().contains("said"), "{}", seat.text());
    seat.types(ESC);
    seat.answers("Leave?", &[DOWN, ENTER]);
    assert!(talk.end().is_none());
    seat.is_given_back();
    reporter.info("said afterwards");
    heard();
    seat.sees(&["said meanwhile", "said afterwards"]);
}

/// In a process of its own: a panic gives back all terminals of its process.
#[test]
fn a_panic_gives_the_terminal_back_first() {
    const ALONE: &str = "AKENE_TEST_PANICS";
    if std::env::var_os(ALONE).is_none() {
        let alone = Cmd::new(std::env::current_exe().unwrap())
            .args(["--exact", "whole::a_panic_gives_the_terminal_back_first"])
            .env(ALONE, "1");
        SystemRunner.run(&alone).unwrap();
        return;
    }
    static WAS_COOKED: AtomicBool = AtomicBool::new(false);
    let seat = Seat::screen();
    let device = seat.device.try_clone().unwrap();
    // It stands for the hook of the live system, which runs after ours; the shipped program does not unwind.
    panic::set_hook(Box::new(move |_| {
        let flags = tcgetattr(&device).unwrap().local_flags;
        WAS_COOKED.store(flags.contains(LocalFlags::ICANON), Ordering::SeqCst);
    }));
    let tty = Tty::open(&seat.console).unwrap();
    assert!(!seat.is_cooked());
    let panics = std::thread::spawn(|| panic!("on purpose")).join();
    assert!(panics.is_err() && WAS_COOKED.load(Ordering::SeqCst));
    drop(tty);
    seat.is_given_back();
}

#[test]
fn a_ring_calls_back_who_walked_away() {
    let seat = Seat::screen();
    let mut technician =
        technician::open(&Consoles(vec![seat.console.clone()]), Keyboard::untouched(), Language::En);
    technician.pulled();
    seat.rings();
    // A bell shows nothing.
    assert_eq!(seat.text().trim(), "");
}
