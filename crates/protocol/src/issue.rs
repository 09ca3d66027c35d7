//! Why something cannot be done, and what would change that.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One reason for a refusal. Checks collect *all* issues before they refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issue {
    /// A stable name that programs and documentation can refer to: `disk-too-small`,
    /// `certificate-wrong`. Lower case, words joined by hyphens.
    pub code: String,
    /// What it is about: a key in a profile (`storage.volumes.home.min`), a disk, a URL. May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is wrong, with the numbers behind it, for a person.
    pub message: String,
    /// What that person can do next.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
}

impl Issue {
    /// An issue about `path`.
    pub fn new(
        code: &str,
        path: impl Into<String>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Issue { code: code.to_owned(), path: path.into(), message: message.into(), next: next.into() }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.next.is_empty() {
            write!(f, " ({})", self.next)?;
        }
        write!(f, " [{}]", self.code)
    }
}

impl std::error::Error for Issue {}

/// Several issues as one error: a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Issues(pub Vec<Issue>);

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{issue}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}

impl From<Issue> for Issues {
    fn from(issue: Issue) -> Self {
        Issues(vec![issue])
    }
}
