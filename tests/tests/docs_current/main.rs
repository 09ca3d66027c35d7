//! What is generated from the types is current: `docs/profile-reference.md` and `docs/schema/*.json`. With
//! `AKENE_BLESS=1` they are written instead of compared. The example profile in the documentation is a
//! profile, and shows every key there is.

mod reference;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use akene_protocol::inventory::Inventory;
use akene_protocol::profile::{Bundle, Layer, parse_layer};
use akene_protocol::resolve::{Resolved, resolve};
use akene_protocol::{AssetNumber, rule};
use serde_json::Value;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Compares a file with what it should hold, or writes it.
fn current(path: &Path, text: &str) {
    let found = fs::read_to_string(path).unwrap_or_default();
    if found == text {
        return;
    }
    if std::env::var_os("AKENE_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        return;
    }
    let line = found.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or(0) + 1;
    panic!("{} is not current from line {line} on; run this test with AKENE_BLESS=1", path.display());
}

fn example() -> String {
    fs::read_to_string(docs().join("examples/office.toml")).unwrap()
}

/// A machine of the golden directory.
fn machine(name: &str) -> Inventory {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name).join("inventory.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn resolved(text: &str, inventory: &Inventory) -> Resolved {
    let layer = parse_layer(text, "docs/examples/office.toml").unwrap_or_else(|e| panic!("{e}"));
    let classes = layer.classes.iter().map(|name| (name.clone(), Layer::default())).collect();
    let bundle =
        Bundle { site: "x".into(), name: "office".into(), revision: "0".into(), classes, profile: layer };
    resolve(&bundle, inventory, Some(AssetNumber::new(1042))).unwrap_or_else(|e| panic!("{e}"))
}

fn schema<T: schemars::JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

#[test]
fn schemas_are_current() {
    for (name, schema) in [
        ("profile", schema::<Layer>()),
        ("bundle", schema::<Bundle>()),
        ("inventory", schema::<Inventory>()),
        ("event", schema::<akene_protocol::Event>()),
        ("plan", schema::<akene_planner::Plan>()),
        ("stamp", schema::<akene_protocol::Stamp>()),
        ("image", schema::<akene_protocol::image::ImageManifest>()),
        ("lock", schema::<akene_protocol::lock::Lock>()),
        ("medium", schema::<akene_protocol::medium::Medium>()),
        ("order", schema::<akene_protocol::Order>()),
        ("report", schema::<akene_protocol::report::Report>()),
        ("signed-lock", schema::<akene_protocol::lock::ProfileLock>()),
    ] {
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        current(&docs().join("schema").join(format!("{name}.json")), &text);
    }
}

/// The volumes a machine gets from a profile that says nothing, as a table.
fn default_volumes() -> String {
    let minimal = "[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n";
    let wishes = resolved(minimal, &machine("ssd-120gb-uefi64")).storage;
    let mut out = String::from(
        "| volume | mounted at | filesystem | min | enough | max | people's files | optional |\n|---|---|---|---|---|---|---|---|\n",
    );
    for v in wishes.volumes {
        let yes = |b: bool| if b { "yes" } else { "no" };
        // The size of swap depends on the machine, in the words of the sentence below the table.
        let (enough, max) = match v.name.as_str() {
            "swap" => ("as the memory".to_owned(), "as the memory".to_owned()),
            _ => (v.enough.to_string(), v.max.map(|m| m.to_string()).unwrap_or_else(|| "no limit".into())),
        };
        let mount = v.mount.unwrap_or_default();
        let row = [v.name, mount, v.filesystem.name().to_owned(), v.min.to_string(), enough, max];
        out.push_str(&format!("| {} | {} | {} |\n", row.join(" | "), yes(v.user_data), yes(v.optional)));
    }
    out
}

fn facts() -> String {
    let mut out = String::from("| fact | kind | meaning |\n|---|---|---|\n");
    for fact in rule::FACTS {
        let values: Vec<String> = fact.one_of.iter().map(|v| format!("`{v}`")).collect();
        let kind = if values.is_empty() { fact.kind().to_owned() } else { values.join(", ") };
        out.push_str(&format!("| `{}` | {kind} | {} |\n", fact.name, fact.meaning));
    }
    out
}

#[test]
fn the_reference_is_current() {
    let sections = reference::sections(&schema::<Layer>());
    let (top, tables) = sections.split_at(1);
    let site = reference::sections(&schema::<akene_server::site::SiteConfig>());
    let text = format!(
        include_str!("profile-reference.md.in"),
        top = reference::markdown(top, 3).trim_end(),
        tables = reference::markdown(tables, 3).trim_end(),
        volumes = default_volumes().trim_end(),
        facts = facts().trim_end(),
        site = reference::markdown(&site, 3).trim_end(),
        example = example().trim_end(),
    );
    current(&docs().join("profile-reference.md"), &text);
}

#[test]
fn the_example_is_a_profile_that_resolves() {
    let all = resolved(&example(), &machine("windows"));
    assert_eq!(all.hostname, "Lannion-10429");
    assert_eq!(all.files.len(), 3);
}

/// Every key in a value, with the header of its table as the reference writes it.
fn keys_used(value: &Value, header: &str, known: &BTreeSet<String>, used: &mut BTreeSet<String>) {
    let Some(table) = value.as_object() else { return };
    // A table whose keys are names of the administrator's own.
    let named = format!("{header}.NAME");
    if known.iter().any(|k| k.starts_with(&format!("{named} "))) {
        return table.values().for_each(|v| keys_used(v, &named, known, used));
    }
    for (key, value) in table {
        used.insert(format!("{header} {key}"));
        let inner = if header.is_empty() { key.clone() } else { format!("{header}.{key}") };
        match value {
            Value::Array(items) => items.iter().for_each(|item| keys_used(item, &inner, known, used)),
            other => keys_used(other, &inner, known, used),
        }
    }
}

#[test]
fn the_example_shows_every_key() {
    let known: BTreeSet<String> = reference::sections(&schema::<Layer>())
        .iter()
        .flat_map(|s| {
            let header = s.header.trim_matches(['[', ']']).to_owned();
            s.keys.iter().map(move |k| format!("{header} {}", k.name))
        })
        .collect();
    assert!(known.len() > 60, "the reference lists only {} keys", known.len());
    let value: Value =
        toml::from_str::<toml::Table>(&example()).map(|t| serde_json::to_value(t).unwrap()).unwrap();
    let mut used = BTreeSet::new();
    keys_used(&value, "", &known, &mut used);
    // A rule belongs on a class, so that no profile can show it.
    let missing: Vec<&String> = known.difference(&used).filter(|k| *k != " when").collect();
    assert!(missing.is_empty(), "docs/examples/office.toml does not show {missing:?}");
}

#[test]
fn a_stale_file_is_noticed() {
    if std::env::var_os("AKENE_BLESS").is_some() {
        return;
    }
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    fs::write(&path, "one\ntwo\n").unwrap();
    current(&path, "one\ntwo\n");
    assert!(std::panic::catch_unwind(|| current(&path, "one\nthree\n")).is_err());
}
