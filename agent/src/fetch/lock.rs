//! The signed lock of a profile: which packages every machine of it gets.
//!
//! There may be none, and that is no fault. One that is there and not in order is refused: whoever could change
//! it could also have made it vanish, but a machine that is told something wrong says so.

use akene_protocol::api::Identity;
use akene_protocol::envelope::{Envelope, PublicKey};
use akene_protocol::lock::ProfileLock;
use akene_protocol::stamp::Source;
use anyhow::Result;

use super::http::{Method, Request};
use super::{Site, open, refused};

/// Largest signed lock that is read: some ten thousand packages.
pub(super) const LARGEST_LOCK: usize = 16 << 20;

/// A signed lock that was verified.
#[derive(Clone, Debug)]
pub struct SignedLock {
    /// What it says.
    pub lock: ProfileLock,
    /// As it was signed: it is kept on the machine.
    pub envelope: Envelope,
    /// The key it was verified with.
    pub key: PublicKey,
}

/// Verifies and reads a signed lock. `place` is where it was found.
///
/// # Errors
/// An issue: signed by another key, another kind of document, or odd.
pub fn read_lock(text: &[u8], key: &PublicKey, place: &str) -> Result<SignedLock> {
    let envelope = Envelope::parse(text).map_err(|e| refused(&e, "signed lock", place))?;
    let lock: ProfileLock = open(&envelope, key, "signed lock", place)?;
    lock.check()?;
    Ok(SignedLock { lock, envelope, key: *key })
}

impl Site<'_> {
    /// The signed lock of a profile, verified; `None` where the site has none. `medium` is asked for it where
    /// the profile lies there.
    ///
    /// # Errors
    /// Those of asking, which may pass, and those of [`read_lock`].
    pub fn lock(
        &self,
        identity: Option<&Identity>,
        profile: &str,
        medium: &dyn Fn() -> Option<Vec<u8>>,
    ) -> Result<Option<SignedLock>> {
        let (url, authorization) = match &self.stamp.source {
            Source::Server { url, .. } => {
                let url = format!("{}/v1/profiles/{profile}/lock", url.trim_end_matches('/'));
                (url, identity.map(Identity::bearer))
            }
            Source::Static { url, .. } => (beside(url), None),
            Source::Medium { .. } => {
                let place = "akene/lock.json on the medium";
                return medium().map(|text| read_lock(&text, &self.stamp.site_key, place)).transpose();
            }
        };
        let request = Request { authorization, ..Request::new(Method::Get, &url, LARGEST_LOCK) };
        let answer = self.http.send(&request)?;
        // A store of files may say that nobody may have what it does not have.
        let none: &[u16] = match self.stamp.source {
            Source::Static { .. } => &[401, 403, 404, 410],
            _ => &[404],
        };
        if none.contains(&answer.status) {
            return Ok(None);
        }
        let answer = answer.success(&url)?;
        read_lock(&answer.body, &self.stamp.site_key, &url).map(Some)
    }
}

/// Where the lock of the profile at this address is: `https://…/desk.json` has `https://…/desk.lock.json`.
fn beside(url: &str) -> String {
    let (path, query) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    format!("{}.lock.json{query}", path.strip_suffix(".json").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lies_beside_its_profile() {
        assert_eq!(beside("https://a.test/x/desk.json"), "https://a.test/x/desk.lock.json");
        assert_eq!(beside("https://a.test/desk?v=1"), "https://a.test/desk.lock.json?v=1");
    }
}
