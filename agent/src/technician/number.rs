//! The number on a computer's label, typed or scanned.

use akene_protocol::AssetNumber;

use super::words::Text;

/// What the keys of the digits give on a French keyboard without Shift, from 0 to 9. A scanner that believes in an American keyboard
/// presses them so, and so does somebody who is used to that.
const UNSHIFTED: [char; 10] = ['à', '&', 'é', '"', '\'', '(', '-', 'è', '_', 'ç'];

/// What the key of an American keyboard's hyphen gives there.
const UNSHIFTED_HYPHEN: char = ')';

/// Characters of a number at most: ten digits, the check digit and a hyphen, and what a scanner puts around them.
pub const LONGEST: usize = 24;

/// What is wrong with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typo {
    /// Something else than digits and hyphens.
    Letters,
    /// Fewer than two digits.
    Short,
    /// More digits than a number has.
    Long,
    /// The check digit does not fit.
    Check,
}

impl Typo {
    /// What a person is told.
    pub fn text(self) -> Text {
        match self {
            Typo::Letters => Text::TypoLetters,
            Typo::Short => Text::TypoShort,
            Typo::Long => Text::TypoLong,
            Typo::Check => Text::TypoCheck,
        }
    }
}

/// Reads what was typed or scanned. Nothing at all is no number, and no mistake.
///
/// A scanner may send the name of the barcode's kind first (`]C1`: the symbology identifier of AIM, ISO/IEC 15424), and the asterisks
/// that Code 39 begins and ends with. Where a French keyboard was used without Shift, its digits are meant ([`UNSHIFTED`]).
///
/// # Errors
/// What is wrong with it.
pub fn read(typed: &str) -> Result<Option<AssetNumber>, Typo> {
    let meant = unshifted(typed.trim());
    let text = meant.as_deref().unwrap_or(typed);
    let text = without_identifier(text.trim()).trim_matches(['*', ' ']);
    if text.is_empty() {
        return Ok(None);
    }
    if !text.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | ' ')) {
        return Err(Typo::Letters);
    }
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let serial = &digits[..digits.len().saturating_sub(1)];
    if serial.is_empty() {
        return Err(Typo::Short);
    }
    if serial.parse::<u32>().is_err() {
        return Err(Typo::Long);
    }
    digits.parse().map(Some).map_err(|_| Typo::Check)
}

/// The number of a choice, with or without Shift on a French keyboard. A hyphen is a six there: no list has negative numbers.
pub fn of_list(typed: &str) -> Option<usize> {
    let digit = |c: char| UNSHIFTED.iter().position(|unshifted| *unshifted == c);
    let meant: Option<String> =
        typed.chars().map(|c| digit(c).and_then(|digit| char::from_digit(digit as u32, 10))).collect();
    meant.as_deref().unwrap_or(typed).parse().ok()
}

/// The digits somebody meant who typed nothing but what a French keyboard gives without Shift. A hyphen alone is none of that: it is a
/// six there, and a hyphen everywhere else.
fn unshifted(text: &str) -> Option<String> {
    let digit = |c: char| match UNSHIFTED.iter().position(|unshifted| *unshifted == c) {
        Some(digit) => char::from_digit(digit as u32, 10),
        None if c == UNSHIFTED_HYPHEN => Some('-'),
        None => (c == ' ').then_some(c),
    };
    if text.chars().all(|c| matches!(c, '-' | ' ')) { None } else { text.chars().map(digit).collect() }
}

/// The text behind `]`, a letter and one more character.
fn without_identifier(text: &str) -> &str {
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some(']'), Some(kind), Some(modifier))
            if kind.is_ascii_alphabetic() && modifier.is_ascii_alphanumeric() =>
        {
            chars.as_str()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_choice_is_its_number_with_shift_or_without() {
        for (typed, number) in
            [("7", Some(7)), ("10", Some(10)), ("-", Some(6)), ("&\u{e0}", Some(10)), ("\u{e8}", Some(7))]
        {
            assert_eq!(of_list(typed), number, "{typed}");
        }
        for nothing in ["", "-1", "&1", "x", "99999999999999999999999"] {
            assert_eq!(of_list(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_number_is_read_as_people_and_scanners_give_it() {
        let number = Ok(Some(AssetNumber::new(1042)));
        for typed in
            ["1042-9", "10429", " 1042 9 ", "*10429*", "*1042-9*", "]C110429", "]A01042-9", "]a0*10429*"]
        {
            assert_eq!(read(typed), number, "{typed}");
        }
        // The keys of 1 0 4 2 9, of 1 0 4 2 - 9, and of 6 6 6 - 6 on a French keyboard.
        for typed in ["&à'éç", "&à'é)ç", " &à'é ç "] {
            assert_eq!(read(typed), number, "{typed}");
        }
        assert_eq!(read("---)-"), read("666-6"));
        for nothing in ["", "  ", "**", "]C1"] {
            assert_eq!(read(nothing), Ok(None), "{nothing}");
        }
    }

    #[test]
    fn each_mistake_is_called_by_its_name() {
        let table = [
            ("1042-8", Typo::Check),
            ("1024-9", Typo::Check),
            ("l042-9", Typo::Letters),
            ("PC 1042-9", Typo::Letters),
            ("]10429", Typo::Letters),
            ("9", Typo::Short),
            ("-", Typo::Short),
            ("(", Typo::Short),
            ("10é29", Typo::Letters),
            ("&à'é)(", Typo::Check),
            ("12345678901", Typo::Check),
            ("123456789012", Typo::Long),
        ];
        for (typed, typo) in table {
            assert_eq!(read(typed), Err(typo), "{typed}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_the_label_says(serial: u32, around in "(\\]C1)?\\*?") {
            let number = AssetNumber::new(serial);
            let close = if around.ends_with('*') { "*" } else { "" };
            prop_assert_eq!(read(&format!("{around}{number}{close}")), Ok(Some(number)));
            prop_assert!(number.to_string().len() + 5 <= LONGEST);
        }

        #[test]
        fn a_number_typed_without_shift_on_a_french_keyboard_is_that_number(serial: u32) {
            let number = AssetNumber::new(serial);
            let key = |c: char| match c.to_digit(10) {
                Some(digit) => UNSHIFTED[digit as usize],
                None => UNSHIFTED_HYPHEN,
            };
            let typed: String = number.to_string().chars().map(key).collect();
            prop_assert_eq!(read(&typed), Ok(Some(number)));
        }

        #[test]
        fn nothing_that_is_typed_makes_it_panic(typed: String) {
            read(&typed).ok();
        }
    }
}
