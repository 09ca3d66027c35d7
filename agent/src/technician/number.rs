//! The number on a computer's label, typed or scanned.

use akene_protocol::AssetNumber;

use super::words::Text;

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
/// that Code 39 begins and ends with.
///
/// # Errors
/// What is wrong with it.
pub fn read(typed: &str) -> Result<Option<AssetNumber>, Typo> {
    let text = without_identifier(typed.trim()).trim_matches(['*', ' ']);
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
    fn a_number_is_read_as_people_and_scanners_give_it() {
        let number = Ok(Some(AssetNumber::new(1042)));
        for typed in
            ["1042-9", "10429", " 1042 9 ", "*10429*", "*1042-9*", "]C110429", "]A01042-9", "]a0*10429*"]
        {
            assert_eq!(read(typed), number, "{typed}");
        }
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
        fn nothing_that_is_typed_makes_it_panic(typed: String) {
            read(&typed).ok();
        }
    }
}
