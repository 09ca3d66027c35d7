//! What a system says of itself in `/etc/os-release`.

use akene_protocol::profile::Distribution;

/// A value of an os-release, if it has one.
pub(crate) fn value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|v| !v.is_empty())
}

/// The distribution an os-release is of, if it is one of ours.
pub(crate) fn distribution(text: &str) -> Option<Distribution> {
    match value(text, "ID")?.as_str() {
        "debian" => Some(Distribution::Debian),
        "ubuntu" => Some(Distribution::Ubuntu),
        _ => None,
    }
}
