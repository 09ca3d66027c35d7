//! What apt says, as issues a person can act on.
//!
//! apt has no machine-readable errors; its messages under `LC_ALL=C` have been stable for ten years and are
//! matched by their fixed parts. What is not recognised is passed on in apt's own words.

use akene_exec::ExecError;
use akene_protocol::Issue;
use anyhow::Result;

/// The complaints of an apt run that ended badly.
pub(crate) struct Apt {
    /// Lines that began with `E:`.
    pub errors: Vec<String>,
    /// Lines that began with `W:`.
    pub warnings: Vec<String>,
}

impl Apt {
    /// Takes the complaints out of a failure. A failure in which apt did not speak (it is not installed, it
    /// ran out of time) is handed back as it is.
    pub fn from_failure(failure: anyhow::Error) -> Result<Self> {
        let tail = match failure.downcast_ref::<ExecError>() {
            Some(error) if error.code.is_some() => &error.tail,
            _ => return Err(failure),
        };
        let said = |mark: &str| -> Vec<String> {
            tail.lines().filter_map(|l| l.strip_prefix(mark)).map(|l| l.trim().to_owned()).collect()
        };
        let (errors, warnings) = (said("E:"), said("W:"));
        if errors.is_empty() && warnings.is_empty() {
            return Err(failure);
        }
        Ok(Apt { errors, warnings })
    }

    /// Everything in one line, for what is not recognised.
    pub fn words(&self) -> String {
        let lines = if self.errors.is_empty() { &self.warnings } else { &self.errors };
        lines.join("; ")
    }
}

/// Why the indexes could not be had.
pub(crate) fn update_issues(said: &Apt) -> Vec<Issue> {
    let mut issues: Vec<Issue> = Vec::new();
    for line in said.errors.iter().chain(&said.warnings) {
        let Some(issue) = update_issue(line) else { continue };
        // apt complains about each suite and index of an archive that is wrong as a whole.
        if !issues.iter().any(|i| i.code == issue.code && i.path == issue.path) {
            issues.push(issue);
        }
    }
    // `is not signed` only repeats what the signature check said with its reason.
    let explained: Vec<String> =
        issues.iter().filter(|i| i.code == "archive-signature").map(|i| i.path.clone()).collect();
    issues.retain(|i| i.code != UNSIGNED || !explained.contains(&i.path));
    for issue in &mut issues {
        if issue.code == UNSIGNED {
            issue.code = "archive-signature".into();
        }
    }
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

/// Stands for `archive-signature` until it is known whether a reason follows.
const UNSIGNED: &str = "archive-unsigned";

fn update_issue(line: &str) -> Option<Issue> {
    if let Some(rest) = line.strip_prefix("GPG error: ") {
        let (uri, reason) = rest.split_once(": ").map_or((rest, ""), |(head, reason)| {
            // The address itself has a colon, but never one followed by a space.
            (head.split(' ').next().unwrap_or(head), reason)
        });
        return Some(signature(uri, reason));
    }
    if let Some(rest) = line.strip_prefix("The repository '") {
        let uri = rest.split([' ', '\'']).next().unwrap_or(rest);
        if rest.contains("does not have a Release file") || rest.contains("no longer has a Release file") {
            let release = rest.split('\'').next().unwrap_or(rest).trim_end_matches(" Release");
            let release = release.split_once(' ').map_or(release, |(_, suite)| suite);
            return Some(Issue::new(
                "archive-unreachable",
                uri,
                format!("there is no release `{release}` in this archive"),
                "check the mirror's address, `apt.suite` and `apt.pockets` in the profile",
            ));
        }
        if rest.contains("is not signed") || rest.contains("no longer signed") {
            let release = rest.split(' ').nth(1).unwrap_or("?");
            let reason = format!("its release `{release}` is not signed");
            return Some(Issue { code: UNSIGNED.into(), ..signature(uri, &reason) });
        }
    }
    if let Some(rest) = line.strip_prefix("Release file for ") {
        let uri = archive_of(rest.split(' ').next().unwrap_or(rest));
        if rest.contains(" is expired") {
            let since = between(rest, "invalid since ", ")").unwrap_or("some time");
            return Some(Issue::new(
                "archive-expired",
                uri,
                format!("the archive's signed release is out of date since {since}"),
                "if this computer's clock is right, the mirror is stale: use another one; otherwise set the clock",
            ));
        }
        if rest.contains("not valid yet") {
            let still = between(rest, "invalid for another ", ")").unwrap_or("some time");
            return Some(Issue::new(
                "archive-expired",
                uri,
                format!("the archive's signed release is dated {still} ahead of this computer's clock"),
                "this computer's clock is behind: set it, or give a time server that can be reached",
            ));
        }
    }
    if let Some(rest) = line.strip_prefix("Failed to fetch ") {
        let (url, reason) = rest.split_once("  ").or_else(|| rest.split_once(' ')).unwrap_or((rest, ""));
        let (uri, reason) = (archive_of(url), reason.trim());
        let holds = |parts: &[&str]| parts.iter().any(|p| reason.contains(p));
        if holds(&["Hash Sum mismatch", "unexpected size", "Hashes of expected file"]) {
            return Some(Issue::new(
                "archive-hash",
                uri,
                format!("{url} is not the file the signed release names ({})", first_sentence(reason)),
                "the mirror is being updated or damaged: try again in a few minutes, or use another one",
            ));
        }
        if holds(&["Clearsigned file isn't valid", "NOSPLIT"]) {
            return Some(Issue::new(
                "archive-unreachable",
                uri,
                "something between here and the archive answers in its place",
                "log in to the network's portal, or set the proxy",
            ));
        }
        if holds(&["NO_PUBKEY", "signatures were invalid", "BADSIG", "EXPKEYSIG", "not signed"]) {
            return Some(signature(&uri, reason));
        }
        return Some(Issue::new(
            "archive-unreachable",
            uri,
            format!("{url} cannot be fetched: {}", first_sentence(reason)),
            "check the mirror's address and the network",
        ));
    }
    None
}

fn signature(uri: &str, reason: &str) -> Issue {
    let next = match reason.contains("EXPKEYSIG") || reason.contains("EXPSIG") {
        true => {
            "the key is out of date: renew it in `apt.key`, use a newer medium, or set this computer's clock"
        }
        false => "put the key the archive is really signed with into `apt.key`, or use another mirror",
    };
    Issue::new(
        "archive-signature",
        uri,
        format!("the archive is not signed by a key we trust: {}", first_sentence(reason)),
        next,
    )
}

/// The part of an index's address before `dists/`, which is what a source file names.
fn archive_of(url: &str) -> String {
    url.split("/dists/").next().unwrap_or(url).trim_end_matches('/').to_owned()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(inner, _)| inner)
}

fn first_sentence(reason: &str) -> &str {
    reason.lines().next().unwrap_or(reason).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(errors: &[&str], warnings: &[&str]) -> Vec<(String, String)> {
        let own = |lines: &[&str]| lines.iter().map(|l| l.to_string()).collect();
        update_issues(&Apt { errors: own(errors), warnings: own(warnings) })
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
                "archive-expired",
            ),
            (
                "Release file for http://a.test/debian/dists/x/InRelease is not valid yet (invalid for another \
              16071d 4h). Updates for this repository will not be applied.",
                "archive-expired",
            ),
            (
                "Failed to fetch http://a.test/debian/dists/x/InRelease  Could not resolve 'a.test'",
                "archive-unreachable",
            ),
            (
                "Failed to fetch http://a.test/debian/dists/x/main/binary-amd64/Packages.xz  File has unexpected \
              size (7 != 8). Mirror sync in progress?",
                "archive-hash",
            ),
            (
                "The repository 'http://a.test/debian x Release' does not have a Release file.",
                "archive-unreachable",
            ),
        ] {
            assert_eq!(codes(&[line], &[]), [(code.to_owned(), "http://a.test/debian".to_owned())], "{line}");
        }
        assert_eq!(codes(&["Something new"], &[]), [("archive-failed".to_owned(), String::new())]);
    }
}
