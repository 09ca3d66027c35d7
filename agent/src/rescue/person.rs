//! Asking a person at a terminal, line by line: it works on every screen and every serial line.

use std::io::{BufRead, IsTerminal, Write};

use akene_protocol::{Language, Secret};
use anyhow::{Context, Result};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::words::Text;
use crate::report::words::ascii;
use crate::technician::number;

/// Columns of the smallest terminal.
const COLUMNS: usize = 79;

/// Whoever answers.
pub trait Person: Send {
    /// Shows lines.
    fn say(&mut self, text: &str);
    /// Asks for a line. `None`: there is nobody any more.
    ///
    /// # Errors
    /// The terminal is broken.
    fn ask(&mut self, question: &str) -> Result<Option<String>>;
    /// The same without showing what is typed.
    ///
    /// # Errors
    /// The terminal is broken.
    fn secret(&mut self, question: &str) -> Result<Option<Secret>>;
}

/// The terminal this program runs on.
pub struct Terminal {
    /// Without accents: a serial line, whose other end is unknown.
    pub plain: bool,
}

impl Terminal {
    fn show(&self, text: &str) -> Result<()> {
        let text = wrapped(text);
        let text = if self.plain { ascii(&text) } else { text };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to the terminal")
    }

    fn line(&self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let n = std::io::stdin().lock().read_until(b'\n', &mut bytes).context("reading from the terminal")?;
        let text = String::from_utf8_lossy(&bytes);
        Ok((n > 0).then(|| text.trim_end_matches(['\n', '\r']).to_owned()))
    }
}

impl Person for Terminal {
    fn say(&mut self, text: &str) {
        // A terminal that takes nothing has nobody to tell; the next question ends it.
        self.show(&format!("{text}\n")).ok();
    }

    fn ask(&mut self, question: &str) -> Result<Option<String>> {
        self.show(&format!("{question} "))?;
        Ok(self.line()?.map(|line| line.trim().to_owned()))
    }

    fn secret(&mut self, question: &str) -> Result<Option<Secret>> {
        // Before anything is asked: hiding forgets what was typed already.
        let _hidden = std::io::stdin().is_terminal().then(Hidden::new).transpose()?;
        self.show(&format!("{question} "))?;
        let line = self.line()?;
        self.show("\n")?;
        Ok(line.map(Secret::new))
    }
}

/// A terminal that does not show what is typed, until it is dropped.
struct Hidden {
    before: nix::sys::termios::Termios,
}

impl Hidden {
    fn new() -> Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("asking the terminal how it is set")?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &quiet).context("hiding what is typed")?;
        Ok(Hidden { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // If that fails, the shell's own `reset` helps.
        tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.before).ok();
    }
}

/// Breaks long lines between words; what follows is set in as far as the line was.
fn wrapped(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let mut rest = line;
        let mut first = true;
        let mut width = COLUMNS;
        while rest.chars().count() > width {
            let end = rest.char_indices().nth(width).map_or(rest.len(), |(at, _)| at);
            // Not in what sets it in: a line must get shorter.
            let cut = rest[..end].rfind(' ').filter(|at| !rest[..*at].trim().is_empty());
            let Some(cut) = cut else { break };
            lines.push(rest[..cut].to_owned());
            rest = rest[cut..].trim_start();
            first = false;
            width = COLUMNS.saturating_sub(indent.len()).max(COLUMNS / 2);
        }
        lines.push(if first { rest.to_owned() } else { format!("{indent}{rest}") });
    }
    lines.join("\n")
}

/// Lets a person choose one of several, by number. `None`: none of them.
///
/// # Errors
/// The terminal is broken.
pub fn choose(
    person: &mut dyn Person,
    language: Language,
    question: Text,
    choices: &[String],
) -> Result<Option<usize>> {
    if choices.is_empty() {
        return Ok(None);
    }
    let mut page = format!("\n{}\n", question.get(language));
    for (number, choice) in choices.iter().enumerate() {
        page += &format!("  {:>2}  {choice}\n", number + 1);
    }
    person.say(&page);
    loop {
        let Some(answer) = person.ask(Text::Number.get(language))? else { return Ok(None) };
        if answer.is_empty() {
            return Ok(None);
        }
        match number::of_list(&answer) {
            Some(number) if (1..=choices.len()).contains(&number) => return Ok(Some(number - 1)),
            _ => person.say(Text::NotANumber.get(language)),
        }
    }
}

/// Asks for consent: only the whole word counts.
///
/// # Errors
/// The terminal is broken.
pub fn agreed(person: &mut dyn Person, language: Language, what: &str) -> Result<bool> {
    person.say(&format!("\n{what}"));
    let answer = person.ask(Text::Agree.get(language))?.unwrap_or_default();
    Ok(answer.to_lowercase() == Text::Yes.get(language))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Somebody who knows all the answers beforehand.
    #[derive(Default)]
    pub(in crate::rescue) struct Scripted {
        pub answers: VecDeque<String>,
        pub seen: String,
    }

    impl Scripted {
        pub(in crate::rescue) fn new(answers: &[&str]) -> Self {
            Scripted { answers: answers.iter().map(|a| (*a).to_owned()).collect(), seen: String::new() }
        }
    }

    impl Person for Scripted {
        fn say(&mut self, text: &str) {
            self.seen += &format!("{text}\n");
        }
        fn ask(&mut self, question: &str) -> Result<Option<String>> {
            self.seen += &format!("{question}\n");
            Ok(self.answers.pop_front())
        }
        fn secret(&mut self, question: &str) -> Result<Option<Secret>> {
            self.seen += &format!("{question}\n");
            Ok(self.answers.pop_front().map(Secret::new))
        }
    }

    #[test]
    fn a_wrong_number_is_asked_again_and_nothing_is_none() {
        let choices = ["a".to_owned(), "b".to_owned()];
        let choose = |answers: &[&str]| {
            choose(&mut Scripted::new(answers), Language::Fr, Text::WhichDisk, &choices).unwrap()
        };
        assert_eq!(choose(&["0", "3", "x", "-1", "2"]), Some(1));
        assert_eq!(choose(&[""]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn only_the_whole_word_is_consent() {
        let agreed =
            |answer: &str, language| agreed(&mut Scripted::new(&[answer]), language, "all of it").unwrap();
        assert!(agreed("yes", Language::En) && agreed("OUI", Language::Fr));
        for no in ["", "y", "o", "no", "oui"] {
            assert!(!agreed(no, Language::En), "{no}");
        }
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_and_no_word_is_lost() {
        let text = format!("   - {}\nshort\n{}", "word ".repeat(60).trim_end(), "x".repeat(200));
        let wrapped = wrapped(&text);
        for line in wrapped.lines().filter(|l| !l.contains("xx")) {
            assert!(line.len() <= COLUMNS, "{line}");
        }
        let words = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&wrapped), words(&text));
    }
}
