//! What a text may hold, by where it ends up.
//!
//! Most of a profile's texts are written into configuration files of the new system: `/etc/passwd`,
//! `/etc/default/grub` (which is a shell script), `sources.list`, `fstab`. A newline or a quotation mark in
//! the wrong place there is another line, another command. So each text is held to what its file can
//! take, and nothing has to be escaped later.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Printable, one line: no control character, and none of the invisible ones that turn text around.
pub(super) fn one_line(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

/// Only of these characters, and not empty.
fn only(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(allowed)
}

fn alphanumeric_or(more: &'static str) -> impl Fn(char) -> bool {
    move |c| c.is_ascii_alphanumeric() || more.contains(c)
}

/// `C`, `C.UTF-8`, `fr_FR.UTF-8`, `ca_ES.UTF-8@valencia`.
pub(super) fn locale(text: &str) -> bool {
    let (rest, modifier) = text.split_once('@').unwrap_or((text, "x"));
    let (name, codeset) = rest.split_once('.').unwrap_or((rest, "x"));
    let (language, country) = name.split_once('_').unwrap_or((name, "XX"));
    let lower = |t: &str| (2..=3).contains(&t.len()) && t.chars().all(|c| c.is_ascii_lowercase());
    (lower(language) || matches!(name, "C" | "POSIX"))
        && country.len() == 2
        && country.chars().all(|c| c.is_ascii_uppercase())
        && only(codeset, alphanumeric_or("-"))
        && only(modifier, alphanumeric_or(""))
}

/// `Etc/UTC`, `America/Argentina/Buenos_Aires`: a path below `/usr/share/zoneinfo`.
pub(super) fn timezone(text: &str) -> bool {
    text.split('/').all(|part| only(part, alphanumeric_or("_+-")))
}

/// `fr`, `us,ru`; with `empty`, nothing at all.
pub(super) fn keyboard(text: &str, empty: bool) -> bool {
    (empty && text.is_empty()) || only(text, alphanumeric_or("_,-"))
}

/// The rule of adduser's `NAME_REGEX`, for users and groups.
pub(super) fn account(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
        && name.len() <= 32
}

/// The comment field of `/etc/passwd`: colons end it, commas divide it.
pub(super) fn realname(text: &str) -> bool {
    one_line(text) && !text.contains([':', ','])
}

/// A hash as crypt(3) makes it: `$y$j9T$…`. Never a plain password.
pub(super) fn password_hash(text: &str) -> bool {
    text.starts_with('$') && text.matches('$').count() >= 3 && only(text, alphanumeric_or("./$,=-"))
}

/// A hash as `grub-mkpasswd-pbkdf2` makes it: `grub.pbkdf2.sha512.ROUNDS.SALT.HASH`, of so many rounds that it is worth having
/// and GRUB, which counts alone and slowly, is still done within a minute on an old machine.
pub(super) fn grub_password(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("grub.pbkdf2.sha512.") else { return false };
    let parts: Vec<&str> = rest.split('.').collect();
    let hex = |text: &str, least: usize| {
        (least..=512).contains(&text.len())
            && text.len().is_multiple_of(2)
            && text.chars().all(|c| c.is_ascii_hexdigit())
    };
    let rounds = parts.first().and_then(|rounds| rounds.parse::<u32>().ok());
    matches!(&parts[..], [_, salt, hash] if hex(salt, 16) && hex(hash, 64))
        && rounds.is_some_and(|rounds| (1_000..=1_000_000).contains(&rounds))
}

/// A public key as it stands in `authorized_keys`, options before it allowed.
pub(super) fn ssh_key(text: &str) -> bool {
    const TYPES: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    one_line(text)
        && words.windows(2).any(|pair| {
            let key = BASE64.decode(pair[1]).unwrap_or_default();
            // The key repeats its type, after the type's length in four bytes.
            TYPES.contains(&pair[0])
                && key.get(..4) == Some(&(pair[0].len() as u32).to_be_bytes())
                && key[4..].starts_with(pair[0].as_bytes())
        })
}

/// A name of DNS: labels of letters, digits and hyphens.
fn dns_name(text: &str) -> bool {
    text.len() <= 253
        && text.trim_end_matches('.').split('.').all(|label| {
            label.len() <= 63
                && only(label, alphanumeric_or("-"))
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// A name or an address.
pub(super) fn host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || dns_name(text)
}

/// `192.168.1.50/24`.
pub(super) fn address_with_prefix(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    prefix.parse::<u8>().is_ok_and(|p| (1..=longest).contains(&p)) && !prefix.starts_with('+')
}

/// `00:11:22:aa:bb:cc`.
pub(super) fn mac(text: &str) -> bool {
    let octets: Vec<&str> = text.split(':').collect();
    octets.len() == 6 && octets.iter().all(|o| o.len() == 2 && o.chars().all(|c| c.is_ascii_hexdigit()))
}

/// `http://HOST[:PORT]/PATH` or `https://…`, of characters that need no quoting anywhere.
pub(super) fn url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host_part, port) = match authority.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((address, rest)) => {
            (address, rest.strip_prefix(':').unwrap_or(if rest.is_empty() { "80" } else { "" }))
        }
        None => authority.split_once(':').unwrap_or((authority, "80")),
    };
    host(host_part)
        && port.parse::<u16>().is_ok_and(|p| p > 0)
        && path.chars().all(alphanumeric_or("-._~/+:@%=,"))
}

/// A suite, a component, the name of a repository.
pub(super) fn archive_word(text: &str) -> bool {
    only(text, alphanumeric_or("._/+:~-"))
        && !text.starts_with('-')
        && !text.split('/').any(|part| part == "..")
}

/// A file name in a directory that is read by other programs.
pub(super) fn file_name(text: &str) -> bool {
    only(text, alphanumeric_or("._-")) && !text.starts_with('.')
}

/// `name`, `name:arch`, `name=version`; a leading hyphen takes a package out. apt reads a trailing hyphen as
/// "remove this", so no name ends in one.
pub(super) fn package(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (name, version) = text.split_once('=').unwrap_or((text, "0"));
    let (name, architecture) = name.split_once(':').unwrap_or((name, "all"));
    name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c))
        && !name.ends_with('-')
        && only(architecture, |c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && version.starts_with(|c: char| c.is_ascii_digit())
        && only(version, alphanumeric_or(".+:~-"))
}

/// One word of the kernel's command line, as it may stand between quotes in a shell script.
pub(super) fn kernel_argument(text: &str) -> bool {
    only(text, |c| c.is_ascii_graphic() && !"\"'`$\\;&|<>".contains(c))
}

/// An absolute path without anything `fstab`, `passwd` or a shell would read differently.
pub(super) fn plain_path(text: &str) -> bool {
    text == "/"
        || text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| only(part, alphanumeric_or("._+@-")) && part != "." && part != "..")
        })
}

/// The path of a file to write: absolute, on one line, without `.` and `..`.
pub(super) fn file_path(text: &str) -> bool {
    one_line(text)
        && text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// `USER:GROUP`.
pub(super) fn owner(text: &str) -> bool {
    text.split_once(':').is_some_and(|(user, group)| account(user) && account(group))
}

/// The name of a volume: part of partition names and labels.
pub(super) fn volume_name(text: &str) -> bool {
    text.len() <= 24
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The name of a variable.
pub(super) fn variable_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && only(text, alphanumeric_or("_-"))
}
