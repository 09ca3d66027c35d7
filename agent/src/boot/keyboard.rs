//! What the keys at this machine are read as. Decided here and nowhere else, for the technician's questions and the rescue menu.
//!
//! The kernel reads every keyboard as an American one, where letters lie elsewhere than on a French one and digits need no Shift. In
//! this order:
//!
//! 1. From the start, the keyboard that the stamp names: whoever made the medium knew its profiles.
//! 2. Without one, that of the language of the stamp. Who reads French has AZERTY most probably.
//! 3. From when somebody chooses another language, that of the language. Choosing there and back gives the language's own.
//!
//! The keymaps are the distribution's (`console-data`), loaded by its own `loadkeys` into the kernel, which has one for all screens;
//! serial lines send characters and have none. Whoever has another keyboard finds letters exchanged, and can type a number all the
//! same ([`crate::technician::number`]).

use akene_exec::{Cmd, Runner};
use akene_protocol::{Language, profile};
use anyhow::{Context, Result};

use super::console::Console;

/// What the kernel begins with.
const AMERICAN: &str = "us";

/// The keymap of a language, by its name in `console-data`.
fn of_language(language: Language) -> &'static str {
    match language {
        Language::En => AMERICAN,
        Language::Fr => "fr-latin9",
    }
}

/// XKB layouts and their keymaps in `console-data`.
pub const LAYOUTS: [(&str, &str); 11] = [
    ("us", AMERICAN),
    ("fr", "fr-latin9"),
    ("be", "be-latin1"),
    ("ca", "cf"),
    ("ch", "sg-latin1"),
    ("de", "de-latin1"),
    ("at", "de-latin1"),
    ("gb", "uk"),
    ("es", "es"),
    ("it", "it"),
    ("pt", "pt-latin1"),
];

/// The keymap of the layout `ch` with the variant `fr`.
pub const SWISS_FRENCH: &str = "fr_CH-latin1";

/// Variants that put letters elsewhere; none of them has a keymap.
const OTHER_LETTERS: [&str; 4] = ["bepo", "dvorak", "colemak", "workman"];

/// The keymap of a keyboard as profiles name them. `None`: there is none.
fn of_keyboard(keyboard: &profile::Keyboard) -> Option<&'static str> {
    if OTHER_LETTERS.iter().any(|other| keyboard.variant.contains(other)) {
        return None;
    }
    // Of several (`fr,us`) the first is in use.
    let first = |text: &'_ str| text.split(',').next().unwrap_or_default().to_owned();
    let (layout, variant) = (first(&keyboard.layout), first(&keyboard.variant));
    if layout == "ch" && variant == "fr" {
        return Some(SWISS_FRENCH);
    }
    LAYOUTS.iter().find(|(name, _)| *name == layout).map(|(_, keymap)| *keymap)
}

/// The keyboard of a machine.
pub struct Keyboard {
    /// None: it is somebody's own, and stays as it is.
    runner: Option<&'static dyn Runner>,
    /// The one to begin with.
    named: Option<&'static str>,
    /// What is spoken. None: nobody was spoken to.
    spoken: Option<Language>,
    /// What the kernel reads now, or was asked to.
    read_as: &'static str,
    complaint: Option<anyhow::Error>,
}

impl Keyboard {
    /// One that is as it is.
    pub fn untouched() -> Self {
        Keyboard { runner: None, named: None, spoken: None, read_as: AMERICAN, complaint: None }
    }

    /// The one of the live system at these consoles, which a stamp may name.
    pub fn of(consoles: &[Console], named: Option<&profile::Keyboard>, runner: &'static dyn Runner) -> Self {
        let screen = consoles.iter().any(|console| !console.is_serial());
        let named = named.and_then(of_keyboard);
        Keyboard { runner: screen.then_some(runner), named, ..Keyboard::untouched() }
    }

    /// Reads it as whoever speaks this language has it.
    pub fn speak(&mut self, language: Language) {
        let Some(runner) = self.runner.filter(|_| self.spoken != Some(language)) else { return };
        let keymap = match (self.spoken, self.named) {
            (None, Some(named)) => named,
            _ => of_language(language),
        };
        self.spoken = Some(language);
        if keymap == self.read_as {
            return;
        }
        // Once, also where it fails: this is asked with each key.
        self.read_as = keymap;
        if let Err(error) = load(runner, keymap) {
            self.complaint = Some(error);
        }
    }

    /// Why it is not read as it should be. Said once.
    pub fn complaint(&mut self) -> Option<anyhow::Error> {
        self.complaint.take()
    }
}

fn load(runner: &dyn Runner, keymap: &str) -> Result<()> {
    // The console speaks UTF-8, whatever the keymap was written for.
    let load = Cmd::new("loadkeys").args(["--quiet", "--unicode", keymap]);
    runner.run(&load).with_context(|| format!("loading the keymap {keymap}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::ConsoleKind;
    use akene_exec::RecordingRunner;

    fn keyboard(layout: &str, variant: &str) -> profile::Keyboard {
        profile::Keyboard { layout: layout.into(), variant: variant.into() }
    }

    /// The keymaps that are loaded while these languages are spoken one after the other.
    fn loaded(named: Option<&profile::Keyboard>, spoken: &[Language]) -> Vec<String> {
        let runner: &'static RecordingRunner = Box::leak(Box::default());
        let screen = Console::new("/dev/tty1", ConsoleKind::Screen);
        let serial = Console::new("/dev/ttyS0", ConsoleKind::Serial);
        for mut nothing in [Keyboard::untouched(), Keyboard::of(std::slice::from_ref(&serial), named, runner)]
        {
            spoken.iter().for_each(|language| nothing.speak(*language));
        }
        assert!(runner.calls().is_empty(), "there are no keys");
        let mut keyboard = Keyboard::of(&[serial, screen], named, runner);
        spoken.iter().for_each(|language| keyboard.speak(*language));
        assert!(keyboard.complaint().is_none());
        runner.calls().iter().map(|argv| argv.last().unwrap().clone()).collect()
    }

    #[test]
    fn a_language_is_loaded_once_and_only_where_there_are_keys() {
        use Language::{En, Fr};
        assert_eq!(loaded(None, &[En, Fr, Fr, En]), ["fr-latin9", "us"]);
        assert_eq!(loaded(None, &[Fr, Fr]), ["fr-latin9"]);
    }

    #[test]
    fn what_the_stamp_names_counts_until_another_language_is_chosen() {
        use Language::{En, Fr};
        let french = keyboard("fr", "oss");
        assert_eq!(loaded(Some(&french), &[En, En]), ["fr-latin9"]);
        assert_eq!(loaded(Some(&french), &[En, Fr, En]), ["fr-latin9", "us"]);
        assert_eq!(loaded(Some(&keyboard("us", "")), &[Fr, En, Fr]), ["fr-latin9"]);
        // One that nobody has a keymap of names none.
        assert_eq!(loaded(Some(&keyboard("fr", "bepo")), &[En, Fr]), ["fr-latin9"]);
    }

    #[test]
    fn a_layout_has_its_keymap() {
        for (layout, variant, keymap) in [
            ("be", "", Some("be-latin1")),
            ("ch", "fr", Some("fr_CH-latin1")),
            ("ch", "", Some("sg-latin1")),
            ("fr,us", ",", Some("fr-latin9")),
            ("us", "dvorak", None),
            ("ru", "", None),
            ("", "", None),
        ] {
            assert_eq!(of_keyboard(&keyboard(layout, variant)), keymap, "{layout} {variant}");
        }
    }
}
