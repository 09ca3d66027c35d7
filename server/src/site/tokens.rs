//! Enrolment tokens: who holds one may make machines known to the site.
//!
//! A token is on every medium, so it is no great secret; it keeps strangers from filling the fleet
//! with inventions, and it can be revoked when a stick is lost. The file holds SHA-256 sums: a token
//! is 256 random bits, which no dictionary contains, so a slow hash would add nothing.

use std::path::Path;

use akene_protocol::{Issue, Secret, Sha256, profile};
use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys;

/// The file `enrol-tokens.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tokens {
    /// All tokens, also those that count no more.
    #[serde(default, rename = "token")]
    pub list: Vec<Token>,
}

/// One enrolment token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Token {
    /// Short name for commands and logs.
    pub id: String,
    /// What it is for: "sticks of the Lannion workshop".
    #[serde(default)]
    pub note: String,
    /// Sum of the token.
    pub sha256: Sha256,
    /// When it was made.
    pub created: Timestamp,
    /// It counts until then.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// It stopped counting then.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
}

impl Token {
    /// Whether it counts now.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|end| now < end)
    }
}

/// Compares two sums in a time that does not depend on where they differ.
pub fn same_sum(a: &Sha256, b: &Sha256) -> bool {
    let difference = a.0.iter().zip(&b.0).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

impl Tokens {
    /// Reads the file. One that is not there holds no token.
    pub fn read(path: &Path) -> Result<Tokens> {
        match std::fs::read_to_string(path) {
            Ok(text) => profile::parse_toml(&text, &path.display().to_string())
                .context("reading the enrolment tokens"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Tokens::default()),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).context("encoding the enrolment tokens")?;
        keys::write_private(path, text.as_bytes())
    }

    /// Adds a token and returns it. It cannot be shown again.
    pub fn add(&mut self, note: &str, expires: Option<Timestamp>) -> Result<(String, Secret)> {
        let secret = keys::random_hex(32)?;
        let id = loop {
            let id = keys::random_hex(3)?;
            if self.list.iter().all(|t| t.id != id) {
                break id;
            }
        };
        self.list.push(Token {
            id: id.clone(),
            note: note.to_owned(),
            sha256: Sha256::of(secret.as_bytes()),
            created: Timestamp::now(),
            expires,
            revoked: None,
        });
        Ok((id, Secret::new(secret)))
    }

    /// Makes a token count no more.
    pub fn revoke(&mut self, id: &str) -> Result<()> {
        let Some(token) = self.list.iter_mut().find(|t| t.id == id) else {
            let known: Vec<&str> = self.list.iter().map(|t| t.id.as_str()).collect();
            let near = profile::nearest(id, known.iter().copied());
            let next = near.map(|n| format!("did you mean `{n}`?"));
            bail!(Issue::new(
                "token-unknown",
                "",
                format!("there is no token `{id}`"),
                next.unwrap_or_else(|| "`akene-server token list` shows them".into()),
            ));
        };
        token.revoked.get_or_insert(Timestamp::now());
        Ok(())
    }

    /// The valid token with this text. Every token is compared, whatever the outcome.
    pub fn find(&self, text: &Secret, now: Timestamp) -> Option<&Token> {
        let sum = Sha256::of(text.expose().as_bytes());
        self.list.iter().fold(None, |found, token| {
            let fits = same_sum(&token.sha256, &sum) & token.is_valid(now);
            if fits { Some(token) } else { found }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_until_revoked_or_expired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        let mut tokens = Tokens::read(&path).unwrap();
        let now = Timestamp::now();
        let (id, secret) = tokens.add("sticks", None).unwrap();
        let (_, late) = tokens.add("", Some(now)).unwrap();
        tokens.write(&path).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains(secret.expose()));

        let mut tokens = Tokens::read(&path).unwrap();
        assert_eq!(tokens.find(&secret, now).unwrap().id, id);
        assert!(tokens.find(&late, now).is_none());
        assert!(tokens.find(&Secret::new(""), now).is_none());
        tokens.revoke(&id).unwrap();
        assert!(tokens.find(&secret, now).is_none());
        assert!(tokens.revoke("zzzzzz").unwrap_err().to_string().contains("token list"));
    }
}
