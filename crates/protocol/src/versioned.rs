//! Reading documents that carry their version.
//!
//! The version is looked at before anything else: a document of another version is called that, instead of
//! being said to hold an unknown field.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::issue::Issue;

/// Reads a JSON document of this version. `what` is for the message: `inventory`.
///
/// # Errors
/// `document-version` where it has another one, `document-unreadable` where it cannot be read at all.
pub fn parse<T: DeserializeOwned>(text: &[u8], what: &str, version: u32) -> Result<T, Issue> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let unreadable = |error: serde_json::Error| {
        Issue::new(
            "document-unreadable",
            "",
            format!("the {what} cannot be read: {error}"),
            "make it anew with the program that wrote it",
        )
    };
    let found: Versioned = serde_json::from_slice(text).map_err(unreadable)?;
    if found.version != version {
        let next = match found.version > version {
            true => format!("use a newer version of Akène, or make the {what} anew with this one"),
            false => format!("make the {what} anew with this version of Akène"),
        };
        return Err(Issue::new(
            "document-version",
            "",
            format!("the {what} has version {}, this program reads version {version}", found.version),
            next,
        ));
    }
    serde_json::from_slice(text).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use crate::inventory::{self, Inventory};
    use crate::lock::{self, Lock};

    #[test]
    fn another_version_is_called_that_whatever_else_is_new_in_it() {
        let now = format!(":{},", lock::VERSION);
        let lock = format!(r#"{{"version"{now}"architecture":"amd64","packages":[]}}"#);
        assert!(Lock::parse(lock.as_bytes()).is_ok());
        let newer = lock.replace(&now, ":7,\"something-new\":true,");
        let issue = Lock::parse(newer.as_bytes()).unwrap_err();
        assert_eq!(issue.code, "document-version");
        assert!(issue.message.contains("lock has version 7") && issue.next.contains("newer"), "{issue}");
        let issue = Lock::parse(lock.replace(&now, ":0,").as_bytes()).unwrap_err();
        assert!(issue.next.contains("anew"), "{issue}");
        assert_eq!(Lock::parse(b"{}").unwrap_err().code, "document-unreadable");
        let issue = Lock::parse(lock.replace("amd64\"", "amd64\",\"x\":1").as_bytes()).unwrap_err();
        assert!(issue.message.contains("unknown field `x`"), "{issue}");

        let newer = format!(r#"{{"version":{},"shape":"other"}}"#, inventory::VERSION + 1);
        assert_eq!(Inventory::parse(newer.as_bytes()).unwrap_err().code, "document-version");
    }
}
