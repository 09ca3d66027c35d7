//! The logs of this system, for somebody far away, without secrets.

use std::fs;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::api::Identity;
use anyhow::{Context, Result};

/// The log of the installation, below the root.
const INSTALL: &str = "var/log/akene/install.log";

/// Lines of the journal that are sent at most.
const LINES: &str = "20000";

/// Most bytes of one line: programs write what they like, a picture in base64 for one, and what other lines say
/// matters as much.
const LONGEST: usize = 4 << 10;

/// Most bytes of one log: its end, where a failure is.
const LARGEST: usize = 2 << 20;

/// The logs there are, each with its name.
pub fn all(root: &Path, runner: &dyn Runner, identity: &Identity) -> Result<Vec<(&'static str, String)>> {
    let cmd = Cmd::new("journalctl").args(["--no-pager", "--quiet", "--since", "-24h", "--lines", LINES]);
    let cmd = cmd.args(["--output", "short-iso"]).timeout(Duration::from_secs(120));
    let journal = runner.run(&cmd).context("reading the journal of the last day")?;
    let secret = identity.credential.expose();
    let mut logs = vec![("journal.log", clean(&String::from_utf8_lossy(&journal.stdout), secret))];
    match fs::read(root.join(INSTALL)) {
        Ok(text) => logs.push(("install.log", clean(&String::from_utf8_lossy(&text), secret))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("reading {INSTALL}")),
    }
    Ok(logs)
}

/// The end of a text, without what must not leave the machine.
fn clean(text: &str, secret: &str) -> String {
    let from = text.len().saturating_sub(LARGEST);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let mut out = String::with_capacity(text.len() - from);
    for line in text[from..].lines() {
        // Cut last: half a secret is one, too.
        let line = scrub(&line.replace(secret, HIDDEN));
        let end = (0..=LONGEST.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        out += &line[..end];
        if end < line.len() {
            out += &format!(" [{} bytes more]", line.len() - end);
        }
        out.push('\n');
    }
    out
}

const HIDDEN: &str = "[hidden]";

/// Words after which a secret stands.
const TELLING: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "credential", "authorization", "psk"];

/// A line without what looks like a secret: what follows `password=` or `token:`, what a `Bearer` has, and the password in an
/// address.
fn scrub(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(address).collect();
    let mut hide = 0;
    for word in &mut words {
        if hide > 0 && !word.is_empty() {
            let scheme = ["bearer", "basic"].contains(&word.to_lowercase().as_str());
            if !scheme {
                *word = HIDDEN.to_owned();
                hide = 0;
            }
            continue;
        }
        let lower = word.to_lowercase();
        if ["bearer", "basic"].contains(&lower.as_str()) {
            hide = 1;
            continue;
        }
        let Some(at) = word.find(['=', ':']) else { continue };
        let key = lower.get(..at).unwrap_or(&lower);
        if TELLING.iter().any(|telling| key.ends_with(telling)) {
            match word.len() > at + 1 {
                true => *word = format!("{}{HIDDEN}", &word[..=at]),
                false => hide = 1,
            }
        }
    }
    words.join(" ")
}

/// An address without its password.
fn address(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}://{HIDDEN}{}", &rest[at..]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_leaves_the_machine() {
        let text = "a connects\nAuthorization: Bearer abc:s3cret x\npassword=hunter2 ok\nwifi PSK: hunter2 done\n\
                    http://u:hunter2@proxy:3128/x\nthe CREDENTIAL is s3cret\nsshd: Accepted password for marie\nx token=\n";
        let clean = clean(text, "s3cret");
        assert!(!clean.contains("s3cret") && !clean.contains("hunter2"), "{clean}");
        assert!(clean.contains("a connects\n") && clean.contains("Accepted password for marie"), "{clean}");
        assert!(clean.contains("http://[hidden]@proxy:3128/x") && clean.contains("[hidden] done"), "{clean}");
    }

    #[test]
    fn a_long_line_takes_no_room_from_others() {
        let text = format!("first\n{}\npassword={}\nlast\n", "é".repeat(LONGEST), "s".repeat(2 * LONGEST));
        let clean = clean(&text, "credential");
        let lines: Vec<&str> = clean.lines().collect();
        assert_eq!((lines[0], lines[2], lines[3]), ("first", "password=[hidden]", "last"));
        assert!(lines[1].ends_with(&format!(" [{LONGEST} bytes more]")), "{}", &lines[1][LONGEST - 2..]);
        assert!(lines[1].len() < LONGEST + 40);
    }

    #[test]
    fn of_a_long_log_the_end_is_sent() {
        let text = "é".repeat(LARGEST) + "\nthe end\n";
        let clean = clean(&text, "s3cret");
        assert!(clean.len() <= LARGEST + 1 && clean.ends_with("the end\n"));
    }
}
