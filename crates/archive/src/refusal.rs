//! Why an archive's metadata is refused: apt's complaints as issues a person can act on.
//!
//! | code | what apt found |
//! |---|---|
//! | `archive-signature` | signed by a key that was not given for this repository, or changed after it was signed |
//! | `archive-key-expired` | the key it is signed with is out of date |
//! | `release-unsigned` | no signature at all |
//! | `release-weak` | signed, or its indexes summed, in a way that can be forged |
//! | `release-wrong` | the signed release is one of another name |
//! | `release-expired` | it counts no longer (`Valid-Until`): a stale mirror, or a clock that is ahead |
//! | `release-future` | it is dated after now: a clock that is behind |
//! | `mirror-updating` | an index is not the one the signed release names |
//! | `index-oversized` | it goes on and on |
//! | `archive-unreachable` | nothing answers, or says that it has no such release |
//! | `portal` | somebody on the way answers in the archive's place |
//!
//! The path of each is the archive's address, so that the next mirror can be tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_protocol::Issue;
use akene_protocol::openpgp::Keys;
use akene_protocol::resolve::Archive;

use crate::error::Apt;

/// What the complaints are about.
pub(crate) struct Known<'a> {
    /// The archives.
    pub archive: &'a Archive,
    /// The mirrors in use: main, security.
    pub mirrors: (&'a str, &'a str),
    /// The distribution's keyring.
    pub keyring: &'a Path,
    /// Where apt leaves what it refuses.
    pub partial: PathBuf,
}

/// A repository as people know it.
struct Party<'a> {
    /// "the repository `vendor`".
    who: String,
    /// The key of the profile that names its keys.
    setting: String,
    /// Its keys, if they are in the profile.
    key: Option<&'a str>,
}

/// Stands for `release-unsigned` until it is known whether a reason follows.
const UNSIGNED: &str = "release-unsigned";

impl Known<'_> {
    /// Why the indexes could not be had.
    pub fn issues(&self, said: &Apt) -> Vec<Issue> {
        let mut issues: Vec<Issue> = Vec::new();
        for line in said.errors.iter().chain(&said.warnings) {
            let Some(issue) = self.issue(line) else { continue };
            // apt complains about each suite and index of an archive that is wrong as a whole.
            if !issues.iter().any(|i| i.code == issue.code && i.path == issue.path) {
                issues.push(issue);
            }
        }
        // `is not signed` only repeats what was said with its reason.
        let explained: Vec<String> =
            issues.iter().filter(|i| i.code != UNSIGNED).map(|i| i.path.clone()).collect();
        issues.retain(|i| i.code != UNSIGNED || !explained.contains(&i.path));
        if issues.is_empty() {
            issues.push(Issue::new(
                "archive-failed",
                "",
                format!("apt could not bring its package lists up to date: {}", said.words()),
                "read what apt says; check `apt` in the profile",
            ));
        }
        issues
    }

    /// Archives that send next to nothing: those whose files are not there whole, or else all that could be meant.
    pub fn crawling(&self, unfinished: &[String], patience: Duration) -> Vec<Issue> {
        let sources = self.archive.sources.values().map(|source| source.uri.as_str());
        let mut all: Vec<&str> = [self.mirrors.0, self.mirrors.1].into_iter().chain(sources).collect();
        all.retain(|uri| !uri.is_empty());
        all.sort_unstable();
        all.dedup();
        let begun = |uri: &&&str| {
            let name = plain_name(uri.split_once("://").map_or(uri, |(_, rest)| rest));
            unfinished.iter().any(|file| plain_name(file).starts_with(&name))
        };
        let guilty: Vec<&str> = all.iter().filter(begun).copied().collect();
        let guilty = if guilty.is_empty() { all } else { guilty };
        let issue = |uri: &str| {
            let who = self.party(uri).who;
            let message = format!("{who}: next to nothing came in {} s", patience.as_secs());
            Issue::new("archive-unreachable", uri, message, "use another mirror, or look after the line")
        };
        guilty.into_iter().map(issue).collect()
    }

    /// Releases that apt takes, though they call themselves something else than what was asked for: refused where
    /// it is the distribution's (a mirror that is wrong or replays another release, signed with the same keys),
    /// noted for others, some of which never had their names right.
    pub fn wrong_names(&self, said: &Apt) -> (Vec<Issue>, Vec<Issue>) {
        let conflicts = said.warnings.iter().filter_map(|line| {
            let rest = line.strip_prefix("Conflicting distribution: ")?;
            let mut words = rest.split(' ');
            let (uri, suite) = (words.next()?.trim_end_matches('/'), words.next()?);
            let got = between(rest, "but got ", ")").unwrap_or("something else");
            let issue = Issue::new(
                "release-wrong",
                uri,
                format!("{}: asked for the release `{suite}`, it has `{got}` there", self.party(uri).who),
                "use another mirror, or correct the suite in the profile",
            );
            Some((self.is_distribution(uri), issue))
        });
        let (refused, noted): (Vec<_>, Vec<_>) = conflicts.partition(|(own, _)| *own);
        let issues = |list: Vec<(bool, Issue)>| list.into_iter().map(|(_, issue)| issue).collect();
        (issues(refused), issues(noted))
    }

    fn is_distribution(&self, uri: &str) -> bool {
        [self.mirrors.0, self.mirrors.1].contains(&uri)
    }

    fn party(&self, uri: &str) -> Party<'_> {
        let plain = |address: &str| address.trim_end_matches('/').replacen("file:///", "file:/", 1);
        // A flat repository's directory may be part of the address apt speaks of.
        let of = |source: &str| {
            plain(uri)
                .strip_prefix(&plain(source))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self.archive.sources.iter().find(|(_, source)| of(&source.uri)) {
            Some((name, source)) if !self.is_distribution(uri) => Party {
                who: format!("the repository `{name}`"),
                setting: format!("apt.sources.{name}.key"),
                key: Some(&source.key),
            },
            _ => Party {
                who: "the distribution's archive".into(),
                setting: "apt.key".into(),
                key: self.archive.key.as_deref(),
            },
        }
    }

    fn issue(&self, line: &str) -> Option<Issue> {
        if let Some(rest) = line.strip_prefix("GPG error: ") {
            // The address itself has a colon, but never one followed by a space.
            let (head, reason) = rest.split_once(": ").unwrap_or((rest, ""));
            return Some(self.signature(head.split(' ').next().unwrap_or(head), reason));
        }
        if let Some(rest) = line.strip_prefix("The repository '") {
            return self.repository(rest);
        }
        if let Some(rest) = line.strip_prefix("Release file for ") {
            return self.dated(rest);
        }
        let rest = line.strip_prefix("Failed to fetch ")?;
        let (url, reason) = rest.split_once("  ").or_else(|| rest.split_once(' ')).unwrap_or((rest, ""));
        Some(self.fetch(url, reason.trim()))
    }

    fn repository(&self, rest: &str) -> Option<Issue> {
        let mut words = rest.split([' ', '\'']);
        let uri = words.next().unwrap_or(rest);
        let release = words.next().unwrap_or("?");
        let who = self.party(uri).who;
        if rest.contains("does not have a Release file") || rest.contains("no longer has a Release file") {
            return Some(Issue::new(
                "archive-unreachable",
                uri,
                format!("{who}: there is no release `{release}`"),
                "check the mirror's address, `apt.suite` and `apt.pockets` in the profile",
            ));
        }
        if rest.contains("provides only weak security information") {
            return Some(weak(
                uri,
                format!("{who}: its release `{release}` has no SHA-256 sums of its indexes"),
            ));
        }
        if rest.contains("is not signed") || rest.contains("no longer signed") {
            return Some(unsigned(uri, format!("{who}: its release `{release}` is not signed")));
        }
        None
    }

    fn dated(&self, rest: &str) -> Option<Issue> {
        let uri = archive_of(rest.split(' ').next().unwrap_or(rest));
        let who = self.party(&uri).who;
        if rest.contains(" is expired") {
            let since = between(rest, "invalid since ", ")").unwrap_or("some time");
            return Some(Issue::new(
                "release-expired",
                uri,
                format!("{who}: its signed release is out of date since {since}"),
                "if this computer's clock is right, the mirror is stale: use another one; otherwise set the clock",
            ));
        }
        if rest.contains("not valid yet") {
            let still = between(rest, "invalid for another ", ")").unwrap_or("some time");
            return Some(Issue::new(
                "release-future",
                uri,
                format!("{who}: its signed release is dated {still} ahead of this computer's clock"),
                "this computer's clock is behind: set it, or give a time server that can be reached",
            ));
        }
        None
    }

    fn fetch(&self, url: &str, reason: &str) -> Issue {
        let uri = archive_of(url);
        let who = self.party(&uri).who;
        let holds = |parts: &[&str]| parts.iter().any(|p| reason.contains(p));
        if holds(&["Writing more data than expected", "is too large", "exceeds the maximum"]) {
            return Issue::new(
                "index-oversized",
                uri,
                format!("{who}: {url} goes on after its end ({})", first_sentence(reason)),
                "something between here and the archive answers in its place, or the mirror is damaged: use another",
            );
        }
        if holds(&["Hash Sum mismatch", "unexpected size", "Hashes of expected file"]) {
            return Issue::new(
                "mirror-updating",
                uri,
                format!("{who}: {url} is not the file the signed release names ({})", first_sentence(reason)),
                "the mirror is being updated or damaged: try again in a few minutes, or use another one",
            );
        }
        if holds(&["Clearsigned file isn't valid", "NOSPLIT"]) {
            if self.is_release(url) {
                return unsigned(&uri, format!("{who}: {url} carries no signature"));
            }
            return portal(
                &uri,
                format!("{who}: {url} shows a page of somebody else's instead of the release"),
            );
        }
        if reason.starts_with("511") || reason.starts_with("407") {
            return portal(&uri, format!("{who}: {url} answers {}", first_sentence(reason)));
        }
        if holds(&["NO_PUBKEY", "signatures were invalid", "BADSIG", "EXPKEYSIG", "not signed"]) {
            return self.signature(&uri, reason);
        }
        Issue::new(
            "archive-unreachable",
            uri,
            format!("{who}: {url} cannot be fetched: {}", first_sentence(reason)),
            "check the mirror's address and the network",
        )
    }

    /// Whether what apt refused at this address is a release file all the same, and not a portal's page.
    fn is_release(&self, url: &str) -> bool {
        let Ok(entries) = fs::read_dir(&self.partial) else { return false };
        let wanted = plain_name(url.split_once(':').map_or(url, |(_, rest)| rest));
        entries.flatten().filter(|e| plain_name(&e.file_name().to_string_lossy()) == wanted).any(|e| {
            let text = fs::read(e.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text[..text.len().min(64 << 10)]);
            text.lines().any(|line| line.starts_with("SHA256:") || line.starts_with("Codename: "))
        })
    }

    /// What `gpgv` or `sqv` says, as apt passes it on.
    fn signature(&self, uri: &str, reason: &str) -> Issue {
        let party = self.party(uri);
        let who = &party.who;
        // `NO_PUBKEY ID` says gpgv, `Missing key FINGERPRINT` sqv.
        let unknown = ["NO_PUBKEY ", "Missing key "].iter().find_map(|mark| word_after(reason, mark));
        if let Some(id) = unknown {
            let expected = match party.key.and_then(|key| Keys::parse(key).ok()) {
                Some(keys) => keys.fingerprints().join(", "),
                None => format!("one of {}", self.keyring.display()),
            };
            let whose = self.owner(id, &party.setting);
            return Issue::new(
                "archive-signature",
                uri,
                format!("{who}: its release is signed with the key {id}{whose}, expected was {expected}"),
                format!(
                    "put the key it is really signed with into `{}` if you trust it, or use another mirror",
                    party.setting
                ),
            );
        }
        if ["EXPKEYSIG", "EXPSIG", "KEYEXPIRED", "is expired"].iter().any(|mark| reason.contains(mark)) {
            let id = word_after(reason, "EXPKEYSIG ").unwrap_or("it is signed with");
            return Issue::new(
                "archive-key-expired",
                uri,
                format!("{who}: the key {id} is out of date"),
                format!(
                    "put the publisher's renewed key into `{}`, use a newer medium, or set this computer's clock",
                    party.setting
                ),
            );
        }
        // gpgv calls a signature invalid and gives no reason but the key's fingerprint when its digest is too weak.
        let fingerprint = word_after(reason, "signatures were invalid: ");
        let bare = fingerprint.is_some_and(|id| id.len() == 40 && id.chars().all(|c| c.is_ascii_hexdigit()));
        if bare || reason.contains("weak digest") || reason.contains("SHA1 is not considered secure") {
            return weak(uri, format!("{who}: its release is signed with a digest that can be forged"));
        }
        Issue::new(
            "archive-signature",
            uri,
            format!("{who}: the signature does not fit its release: {}", first_sentence(reason)),
            "somebody or something changed it on the way: use another mirror, or another connection",
        )
    }

    /// Whose key it is, where it was given for another repository.
    fn owner(&self, id: &str, but: &str) -> String {
        let own = self.archive.key.iter().map(|key| ("apt.key".to_owned(), key));
        let others = self.archive.sources.iter().map(|(n, s)| (format!("apt.sources.{n}.key"), &s.key));
        own.chain(others)
            .find(|(setting, key)| setting != but && Keys::parse(key).is_ok_and(|keys| keys.has(id)))
            .map(|(setting, _)| format!(" (that of `{setting}`, which counts for nothing else)"))
            .unwrap_or_default()
    }
}

fn portal(uri: &str, message: String) -> Issue {
    let next = "sign this computer's network connection in (ask who runs the network), set the proxy, or use another \
                connection";
    let message = format!("this network wants somebody to sign in first; {message}");
    Issue::new("portal", uri, message, next)
}

fn unsigned(uri: &str, message: String) -> Issue {
    let next = "use a mirror that passes signatures on; a repository that signs nothing cannot be used";
    Issue::new(UNSIGNED, uri, message, next)
}

fn weak(uri: &str, message: String) -> Issue {
    let next = "ask its publisher to sign it with SHA-256 or better; until then it cannot be used";
    Issue::new("release-weak", uri, message, next)
}

/// The part of an index's address before `dists/`, which is what a source file names.
fn archive_of(url: &str) -> String {
    let before = match url.split_once("/dists/") {
        Some((before, _)) => before,
        // A flat repository.
        None => ["/InRelease", "/Release", "/Packages"]
            .iter()
            .find_map(|name| Some(url.rsplit_once(name)?.0))
            .unwrap_or(url),
    };
    before.trim_end_matches(['/', '.']).to_owned()
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    text.split_once(before)?.1.split_once(after).map(|(inner, _)| inner)
}

fn word_after<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    text.split_once(mark)?.1.split([' ', ',', ';']).next().filter(|word| !word.is_empty())
}

fn first_sentence(reason: &str) -> &str {
    reason.lines().next().unwrap_or(reason).trim_end_matches('.')
}

/// An address and the name of the file apt keeps what it fetched from there in, in one form.
fn plain_name(text: &str) -> String {
    let text = text.strip_suffix(".FAILED").unwrap_or(text);
    crate::solve::unquote(text).trim_start_matches(['/', '_']).replace('_', "/")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use akene_protocol::profile::Distribution;

    use super::*;

    fn archive() -> Archive {
        Archive {
            distribution: Distribution::Debian,
            suite: "x".into(),
            mirrors: vec!["http://a.test/debian".into()],
            security_mirrors: Vec::new(),
            components: Vec::new(),
            pockets: Vec::new(),
            key: None,
            sources: BTreeMap::new(),
            install_recommends: true,
            preferences: BTreeMap::new(),
            never: Vec::new(),
            hold: Vec::new(),
            local: Vec::new(),
        }
    }

    fn codes(errors: &[&str], warnings: &[&str]) -> Vec<(String, String)> {
        let own = |lines: &[&str]| lines.iter().map(|l| l.to_string()).collect();
        let archive = archive();
        let known = Known {
            archive: &archive,
            mirrors: ("http://a.test/debian", ""),
            keyring: Path::new("/keyring.gpg"),
            partial: PathBuf::from("/none"),
        };
        known
            .issues(&Apt { errors: own(errors), warnings: own(warnings) })
            .into_iter()
            .map(|i| (i.code, i.path))
            .collect()
    }

    #[test]
    fn another_key_is_one_issue_per_archive() {
        let said = codes(
            &[
                "The repository 'http://a.test/debian bookworm InRelease' is not signed.",
                "The repository 'http://a.test/debian bookworm-updates InRelease' is not signed.",
            ],
            &["GPG error: http://a.test/debian bookworm InRelease: The following signatures couldn't be \
               verified because the public key is not available: NO_PUBKEY 6ED0E7B82643E131"],
        );
        assert_eq!(said, [("archive-signature".to_owned(), "http://a.test/debian".to_owned())]);
    }

    #[test]
    fn clock_network_and_damage_are_told_apart() {
        for (line, code) in [
            (
                "Release file for http://a.test/debian/dists/x/InRelease is expired (invalid since 3d 2h 1min 2s). \
              Updates for this repository will not be applied.",
                "release-expired",
            ),
            (
                "Release file for http://a.test/debian/dists/x/InRelease is not valid yet (invalid for another \
              16071d 4h). Updates for this repository will not be applied.",
                "release-future",
            ),
            (
                "Failed to fetch http://a.test/debian/dists/x/InRelease  Could not resolve 'a.test'",
                "archive-unreachable",
            ),
            (
                "Failed to fetch http://a.test/debian/dists/x/InRelease  Clearsigned file isn't valid, got 'NOSPLIT' \
              (does the network require authentication?)",
                "portal",
            ),
            (
                "Failed to fetch http://a.test/debian/dists/x/InRelease  511  Network Authentication Required \
              [IP: 192.0.2.1 80]",
                "portal",
            ),
            (
                "Failed to fetch http://a.test/debian/dists/x/main/binary-amd64/Packages.xz  File has unexpected \
              size (7 != 8). Mirror sync in progress?",
                "mirror-updating",
            ),
            (
                "Failed to fetch http://a.test/debian/dists/x/main/binary-amd64/Packages.xz  Writing more data than \
              expected (81 > 80)",
                "index-oversized",
            ),
            (
                "The repository 'http://a.test/debian x Release' does not have a Release file.",
                "archive-unreachable",
            ),
            ("The repository 'http://a.test/debian x Release' is not signed.", "release-unsigned"),
            // Debian 13: sqv instead of gpgv.
            (
                "GPG error: http://a.test/debian x InRelease: Sub-process /usr/bin/sqv returned an error code (1), \
              error message is: Missing key B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8, which is needed to verify \
              signature.",
                "archive-signature",
            ),
        ] {
            assert_eq!(codes(&[line], &[]), [(code.to_owned(), "http://a.test/debian".to_owned())], "{line}");
        }
        assert_eq!(codes(&["Something new"], &[]), [("archive-failed".to_owned(), String::new())]);
    }

    #[test]
    fn addresses_of_archives_are_found() {
        for (url, archive) in [
            ("http://a.test/d/dists/x/main/binary-amd64/Packages.xz", "http://a.test/d"),
            ("http://a.test/flat/./InRelease", "http://a.test/flat"),
            ("http://a.test/flat/sub/Packages.gz", "http://a.test/flat/sub"),
        ] {
            assert_eq!(archive_of(url), archive);
        }
    }
}
