//! The keys of the keyboard at this machine: those of the language that is spoken.
//!
//! The kernel reads every keyboard as an American one. Who chose French has AZERTY most probably, where letters lie elsewhere and
//! digits take Shift. The keymap is the distribution's (`console-data`), loaded by its own `loadkeys` into the kernel, which has one
//! for all screens; serial lines send characters and have none. Whoever has another keyboard than their language finds letters
//! exchanged, and can type a number all the same ([`super::number`]).

use akene_exec::{Cmd, Runner};
use akene_protocol::Language;
use anyhow::{Context, Result};

use crate::boot::Console;

/// The keymap of a language, by its name in `console-data`.
fn keymap(language: Language) -> &'static str {
    match language {
        Language::En => "us",
        Language::Fr => "fr-latin9",
    }
}

/// The keyboard of a machine.
pub struct Keyboard {
    /// None: it is somebody's own, and stays as it is.
    runner: Option<&'static dyn Runner>,
    /// What the kernel reads now, or was asked to.
    read_as: Language,
    complaint: Option<anyhow::Error>,
}

impl Keyboard {
    /// One that is as it is.
    pub fn untouched() -> Self {
        Keyboard { runner: None, read_as: Language::En, complaint: None }
    }

    /// The one of the live system at these consoles, which the kernel reads as an American one.
    pub fn of(consoles: &[Console], runner: &'static dyn Runner) -> Self {
        let screen = consoles.iter().any(|console| !console.is_serial());
        Keyboard { runner: screen.then_some(runner), ..Keyboard::untouched() }
    }

    /// Reads it as whoever speaks this language has it.
    pub fn speak(&mut self, language: Language) {
        let Some(runner) = self.runner.filter(|_| language != self.read_as) else { return };
        // Once, also where it fails: this is asked with each key.
        self.read_as = language;
        if let Err(error) = load(runner, language) {
            self.complaint = Some(error);
        }
    }

    /// Why it is not read as it should be. Said once.
    pub fn complaint(&mut self) -> Option<anyhow::Error> {
        self.complaint.take()
    }
}

fn load(runner: &dyn Runner, language: Language) -> Result<()> {
    let keymap = keymap(language);
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

    #[test]
    fn a_language_is_loaded_once_and_only_where_there_are_keys() {
        let runner: &'static RecordingRunner = Box::leak(Box::default());
        let screen = Console::new("/dev/tty1", ConsoleKind::Screen);
        let serial = Console::new("/dev/ttyS0", ConsoleKind::Serial);
        for mut nothing in [Keyboard::untouched(), Keyboard::of(std::slice::from_ref(&serial), runner)] {
            nothing.speak(Language::Fr);
        }
        assert!(runner.calls().is_empty());
        let mut keyboard = Keyboard::of(&[serial, screen], runner);
        for language in [Language::En, Language::Fr, Language::Fr, Language::En] {
            keyboard.speak(language);
        }
        let loaded: Vec<String> = runner.calls().iter().map(|argv| argv.last().unwrap().clone()).collect();
        assert_eq!(loaded, ["fr-latin9", "us"]);
        assert!(keyboard.complaint().is_none());
    }
}
