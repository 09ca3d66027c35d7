//! Writes the profile reference from the JSON schemas of the types.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// One table of keys, by the header it has in a TOML file.
pub struct Section {
    /// `[storage.volumes.NAME]`; empty for the keys at the top of the file.
    pub header: String,
    pub text: String,
    pub keys: Vec<Key>,
}

/// One key.
pub struct Key {
    pub name: String,
    pub kind: String,
    pub default: String,
    pub text: String,
}

/// Every section of a type's schema: its own keys first, then those of the tables in it.
pub fn sections(schema: &Value) -> Vec<Section> {
    let mut all = Vec::new();
    walk(schema, schema, "", "", &mut all);
    all
}

fn text_of(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// What a schema really is: references followed, `or null` taken off.
fn target<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return target(root, &root["$defs"][name]);
    }
    let some: Vec<&Value> =
        schema["anyOf"].as_array().into_iter().flatten().filter(|s| s["type"] != "null").collect();
    match some[..] {
        [one] => target(root, one),
        _ => schema,
    }
}

fn is_table(schema: &Value) -> bool {
    schema["properties"].is_object()
}

/// The words a text may be, if they can be counted.
fn words(schema: &Value) -> Option<Vec<String>> {
    let quoted = |v: &Value| v.as_str().map(|s| format!("`{s}`"));
    if let Some(all) = schema["enum"].as_array() {
        return all.iter().map(quoted).collect();
    }
    schema["oneOf"].as_array()?.iter().map(|v| quoted(&v["const"])).collect()
}

/// The kind of a value in words, and the table in it with its header.
fn kind<'a>(
    root: &'a Value,
    name: &str,
    path: &str,
    schema: &'a Value,
) -> (String, Option<(String, &'a Value)>) {
    let aim = target(root, schema);
    let full = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let simple = |kind: &str| (kind.to_owned(), None);
    if is_table(aim) {
        return (format!("table `[{full}]`"), Some((full, aim)));
    }
    if let Some(words) = words(aim) {
        return simple(&words.join(", "));
    }
    if aim["description"].as_str().is_some_and(|d| d.starts_with("A size:")) {
        return simple("size");
    }
    if aim["description"].as_str().is_some_and(|d| d.starts_with("A rule")) {
        return simple("rule");
    }
    let json_type = match &aim["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        other => other.as_str(),
    };
    match json_type {
        Some("array") => {
            let item = target(root, &aim["items"]);
            if is_table(item) {
                return (format!("tables `[[{full}]]`"), Some((format!("[{full}]"), item)));
            }
            let (inner, _) = kind(root, name, path, &aim["items"]);
            simple(&format!("list of: {inner}"))
        }
        Some("object") => {
            let (inner, table) = kind(root, "NAME", &full, &aim["additionalProperties"]);
            match table {
                Some((_, table)) => {
                    (format!("tables `[{full}.NAME]`"), Some((format!("{full}.NAME"), table)))
                }
                None => simple(&format!("table of: {inner}")),
            }
        }
        Some("string") => simple("text"),
        Some("integer") => simple("whole number"),
        Some("boolean") => simple("`true` or `false`"),
        _ if aim["anyOf"].is_array() => {
            let all: Vec<String> = aim["anyOf"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| match is_table(one) {
                    true => {
                        let keys: Vec<String> = properties(one).map(|(k, _)| format!("`{k}`")).collect();
                        format!("table of {}", keys.join(" and "))
                    }
                    false => kind(root, name, path, one).0,
                })
                .collect();
            simple(&all.join(", or "))
        }
        other => panic!("{full}: the reference does not know the kind {other:?} of {aim}"),
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    // Found out by the server from what lies beside a class, and refused where somebody writes it.
    let written = |(name, _): &(&String, &Value)| *name != "local-packages";
    schema["properties"].as_object().into_iter().flat_map(Map::iter).filter(written)
}

fn walk(root: &Value, schema: &Value, header: &str, text: &str, all: &mut Vec<Section>) {
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let path = header.trim_matches(['[', ']']);
    let mut keys = Vec::new();
    let mut tables = Vec::new();
    for (name, value) in properties(schema) {
        let (kind, table) = kind(root, name, path, value);
        let whole =
            if value["description"].is_string() { text_of(value) } else { text_of(target(root, value)) };
        let (text, default) = match whole.split_once(" Default: ") {
            Some((text, default)) => {
                // What follows the sentence with the default belongs to the meaning.
                let (default, rest) = default.split_once(". ").unwrap_or((default, ""));
                (format!("{text} {rest}").trim().to_owned(), default.trim_end_matches('.').to_owned())
            }
            None if required.contains(name.as_str()) => (whole, "(must be given)".to_owned()),
            None => (whole, String::new()),
        };
        if let Some((header, table)) = table {
            tables.push((header, table, text_of(table)));
        }
        keys.push(Key { name: name.clone(), kind, default, text });
    }
    all.push(Section { header: header.to_owned(), text: text.to_owned(), keys });
    for (header, table, text) in tables {
        walk(root, table, &header, &text, all);
    }
}

/// Markdown tables of all sections, as headings of this level.
pub fn markdown(sections: &[Section], level: usize) -> String {
    let mut out = String::new();
    for section in sections {
        if !section.header.is_empty() {
            out.push_str(&format!("{} `[{}]`\n\n{}\n\n", "#".repeat(level), section.header, section.text));
        }
        out.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in &section.keys {
            let cell = |text: &str| text.replace('|', "\\|");
            let row = [format!("`{}`", key.name), cell(&key.kind), cell(&key.default), cell(&key.text)];
            out.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        out.push('\n');
    }
    out
}
