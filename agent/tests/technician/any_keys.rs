//! Whatever keys are pressed: no panic at any size, and nothing is confirmed without the word.

use akene_agent::technician::dialog::{Answer, Dialog, Page};
use akene_agent::technician::draw::Look;
use akene_agent::technician::keys::{Decoder, Key};
use akene_protocol::Language;
use proptest::prelude::*;

use crate::machines::{associations, choosing, confirming, refusing};
use crate::pages::frame;

fn key() -> impl Strategy<Value = Key> {
    use Key::*;
    let one = |key: Key| Just(key).boxed();
    prop_oneof![
        6 => one(Enter),
        2 => prop::sample::select(vec![Esc, F(1), Left, BackTab]),
        3 => prop::sample::select(vec![Up, Down, PageUp, PageDown, Home, End, Tab, Right, Backspace, Delete, Ctrl('c'), Ctrl('l')]),
        4 => prop::sample::select("DELETRUIBGN".chars().collect::<Vec<_>>()).prop_map(Char),
        2 => prop::sample::select("0123456789-*]".chars().collect::<Vec<_>>()).prop_map(Char),
        1 => any::<char>().prop_filter("keys send no control characters", |c| !c.is_control()).prop_map(Char),
    ]
}

/// Keys, among them words typed in one go, right ones and wrong ones.
fn keys() -> impl Strategy<Value = Vec<Key>> {
    let words = ["DELETE", "delete", "DETRUIRE", "BEGIN", "DEBUT", "DELET", "10429", "*10429*"];
    let word =
        prop::sample::select(words.to_vec()).prop_map(|w| w.chars().map(Key::Char).collect::<Vec<_>>());
    let piece = prop_oneof![5 => key().prop_map(|k| vec![k]), 1 => word];
    prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

fn start() -> impl Strategy<Value = Dialog> {
    (0usize..5, prop::sample::select(Language::ALL.to_vec())).prop_map(|(which, language)| match which {
        0 => choosing(language, &associations(), Some(1001)),
        1 => choosing(language, &[], None),
        2 => confirming(language, "windows"),
        3 => confirming(language, "ssd-120gb-uefi64"),
        _ => refusing(language, "read-only-and-tape-sectors"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_confirmed_but_by_the_word(first in start(), keys in keys(), size in (0u16..140, 0u16..50)) {
        let mut dialog = first;
        // What was typed since the last question is there, told from the keys alone.
        let mut typed = String::new();
        for (i, key) in keys.iter().enumerate() {
            let before = dialog.page().clone();
            if before == Page::Confirm {
                match key {
                    // The field takes no more.
                    Key::Char(c) if typed.chars().count() < 20 => typed.push(*c),
                    Key::Backspace | Key::Delete => drop(typed.pop()),
                    _ => {}
                }
            }
            let answer = dialog.press(*key);
            if answer == Some(Answer::Confirmed) {
                prop_assert_eq!(&before, &Page::Confirm);
                prop_assert_eq!(*key, Key::Enter);
                prop_assert!(typed.trim().eq_ignore_ascii_case(dialog.word()), "{:?} was typed", typed);
            }
            if let Some(Answer::Chosen(choice)) = &answer {
                prop_assert!(["bureau", "leger", "minimal"].contains(&choice.profile.as_str()));
            }
            if answer.is_some() {
                break;
            }
            let asked_anew = before == Page::Plan && *dialog.page() == Page::Confirm;
            if asked_anew || before == Page::Confirm && *key == Key::Enter {
                typed.clear();
            }
            if i % 7 == 0 {
                frame(&dialog, size, Look::Serial);
            }
        }
        frame(&dialog, size, Look::Screen);
    }

    #[test]
    fn bytes_of_any_kind_confirm_nothing(bytes: Vec<u8>) {
        let word = confirming(Language::En, "windows").word();
        prop_assume!(!String::from_utf8_lossy(&bytes).to_uppercase().contains(word));
        let mut dialog = confirming(Language::En, "windows");
        dialog.press(Key::Enter);
        for key in Decoder::default().feed(&bytes) {
            if let Some(answer) = dialog.press(key) {
                prop_assert!(answer != Answer::Confirmed);
                break;
            }
        }
    }
}

#[test]
fn the_word_itself_confirms() {
    for (machine, language, word) in [
        ("windows", Language::En, "delete"),
        ("windows", Language::Fr, "DETRUIRE"),
        ("ssd-120gb-uefi64", Language::En, "BEGIN "),
        ("ssd-120gb-uefi64", Language::Fr, " debut"),
    ] {
        let mut dialog = confirming(language, machine);
        dialog.press(Key::Enter);
        word.chars().for_each(|c| assert_eq!(dialog.press(Key::Char(c)), None));
        assert_eq!(dialog.press(Key::Enter), Some(Answer::Confirmed), "{word}");
    }
}
