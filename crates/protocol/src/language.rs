//! The languages the installer speaks to who stands in front of the computer.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A language of the live system's screen. Logs and the server's pages are in English always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Language {
    /// English.
    #[default]
    En,
    /// French.
    Fr,
}

impl Language {
    /// All there are.
    pub const ALL: [Language; 2] = [Language::En, Language::Fr];

    /// The language somebody with this locale (`fr_FR.UTF-8`) reads; English where we do not speak theirs.
    pub fn of_locale(locale: &str) -> Language {
        locale.split(['_', '.', '@']).next().and_then(|tag| tag.parse().ok()).unwrap_or_default()
    }

    /// The serialised form, without quotes.
    pub fn tag(self) -> &'static str {
        match self {
            Language::En => "en",
            Language::Fr => "fr",
        }
    }

    /// Whether it is the default, which documents do not mention.
    pub fn is_default(&self) -> bool {
        *self == Language::default()
    }
}

impl FromStr for Language {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Language::ALL.into_iter().find(|language| language.tag() == text);
        found.ok_or_else(|| format!("`{text}` is no language of the installer: en or fr"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locale_has_a_language() {
        assert_eq!(Language::of_locale("fr_FR.UTF-8"), Language::Fr);
        assert_eq!(Language::of_locale("fr"), Language::Fr);
        for other in ["de_DE.UTF-8", "C.UTF-8", "", "fry_NL"] {
            assert_eq!(Language::of_locale(other), Language::En, "{other}");
        }
        for language in Language::ALL {
            assert_eq!(serde_json::to_string(&language).unwrap(), format!("\"{}\"", language.tag()));
            assert_eq!(language.tag().parse(), Ok(language));
        }
    }
}
