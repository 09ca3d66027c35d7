//! Where in a TOML file a key stands, for issues about its value.

use toml::de::{DeTable, DeValue};

/// Line (from 1) of the deepest part of the dotted `key` that the text holds. Names that contain
/// dots themselves, such as file paths, are found by their text after the part that was found.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table: &DeTable<'_> = document.get_ref();
    let mut found: Option<usize> = None;
    let mut rest = key;
    while !rest.is_empty() {
        let name = rest.split(['.', '[']).next().unwrap_or(rest);
        let Some((spanned, value)) = table.iter().find(|(k, _)| k.get_ref() == name) else { break };
        found = Some(spanned.span().start);
        rest = rest[name.len()..].trim_start_matches('.');
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    let start = found?;
    let start = match rest.is_empty() {
        true => start,
        false => text[start..].find(rest).map_or(start, |at| start + at),
    };
    Some(text[..start].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "locale = \"fr_FR.UTF-8\"\n\n[storage.volumes.home]\nmin = \"9 GiB\"\nmount = \"x\"\n\n\
                        [[files]]\npath = \"/etc/a.conf\"\n[[files]]\npath = \"etc/b.conf\"\n";

    #[test]
    fn finds_the_deepest_part() {
        assert_eq!(line_of(TEXT, "locale"), Some(1));
        assert_eq!(line_of(TEXT, "storage.volumes.home.min"), Some(4));
        assert_eq!(line_of(TEXT, "storage.volumes.home.max"), Some(3));
        assert_eq!(line_of(TEXT, "files.etc/b.conf"), Some(10));
        assert_eq!(line_of(TEXT, "late-commands[0]"), None);
        assert_eq!(line_of("not toml", "locale"), None);
    }
}
