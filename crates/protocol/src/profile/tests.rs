//! Tests of reading profiles.

use super::*;
use proptest::prelude::*;

fn refusal(text: &str) -> Issue {
    parse_layer(text, "profiles/x.toml").expect_err(text).0.remove(0)
}

#[test]
fn unknown_keys_name_their_place_and_the_nearest_key() {
    for (text, place, near) in [
        ("locael = \"C\"", "profiles/x.toml:1:1", "`locale`"),
        ("# a comment\n\n  timezon = \"UTC\"", "profiles/x.toml:3:3", "`timezone`"),
        ("[keyboard]\nlayout = \"fr\"\nvarient = \"oss\"", "profiles/x.toml:3:1", "`variant`"),
        ("[storage.volumes.home]\nmim = \"1 GiB\"", "profiles/x.toml:2:1", "`min`"),
        ("[storage.disks]\nmin_size = \"1 GiB\"", "profiles/x.toml:2:1", "`min-size`"),
        ("storage = { disks = { seral = \"x\" } }", "profiles/x.toml:1:23", "`serial`"),
        ("[[users]]\nname = \"eve\"\nshel = \"/bin/sh\"", "profiles/x.toml:3:1", "`shell`"),
        ("[[files]]\npath = \"/x\"\nmod = \"0644\"", "profiles/x.toml:3:1", "`mode`"),
        ("[apt.sources.x]\nurl = \"http://x\"", "profiles/x.toml:2:1", "`uri`"),
        ("[network.fixed]\nadresses = []", "profiles/x.toml:2:1", "`addresses`"),
        // A word out of a list is looked at the same way.
        ("[apt]\ndistribution = \"ubunto\"", "profiles/x.toml:2:16", "`ubuntu`"),
        ("[storage]\ntable = \"gtp\"", "profiles/x.toml:2:9", "`gpt`"),
    ] {
        let issue = refusal(text);
        assert_eq!(issue.path, place, "{text}: {issue}");
        assert_eq!(issue.next, format!("did you mean {near}?"), "{text}: {issue}");
        assert_eq!(issue.code, "profile-unreadable");
    }
}

#[test]
fn other_errors_name_their_place_too() {
    for (text, place, message) in [
        ("when = \"rma < 2 GiB\"", "profiles/x.toml:1:8", "did you mean `ram`?"),
        ("[storage.volumes.home]\nmin = \"lots\"", "profiles/x.toml:2:7", "such as `6 GiB`"),
        ("late-commands = [[\"a\"]]", "profiles/x.toml:1:17", "either a command line or a table"),
        ("packages = \"vim\"", "profiles/x.toml:1:12", "expected a sequence"),
        ("locale = ", "profiles/x.toml:1:", ""),
        ("locale = \"C\"\nlocale = \"D\"", "profiles/x.toml:2:1", "duplicate key"),
    ] {
        let issue = refusal(text);
        assert!(issue.path.starts_with(place), "{text}: {issue}");
        assert!(issue.message.contains(message), "{text}: {issue}");
        assert!(!issue.next.is_empty());
    }
}

#[test]
fn a_word_that_is_like_nothing_gets_no_suggestion() {
    assert!(refusal("bananas = 1").next.contains("docs/profile-reference.md"));
    assert_eq!(nearest("x", ["locale", "packages"]), None);
    assert_eq!(nearest("rma", ["mac", "ram"]), Some("ram"), "neighbours swapped are one mistake");
}

#[test]
fn an_empty_file_is_a_layer_without_settings() {
    assert_eq!(parse_layer("", "x").unwrap(), Layer::default());
}

#[test]
fn a_password_is_not_shown() {
    let layer = parse_layer("[identity]\npassword = \"hunter2\"", "x").unwrap();
    assert!(!format!("{layer:?}").contains("hunter2"));
    let resolved = crate::check::bundle(&Bundle {
        site: String::new(),
        name: "x".into(),
        revision: String::new(),
        classes: vec![],
        profile: layer,
    });
    assert_eq!(resolved[0].code, "password-hash");
    assert!(!format!("{resolved:?}").contains("hunter2"));
}

#[test]
fn a_bundle_has_a_keyboard_where_no_machine_gets_another() {
    let layer = |text: &str| parse_layer(text, "x").unwrap();
    let named = |classes: &[&str], profile: &str| {
        let bundle = Bundle {
            site: String::new(),
            name: "x".into(),
            revision: String::new(),
            classes: classes.iter().map(|text| ("class".into(), layer(text))).collect(),
            profile: layer(profile),
        };
        bundle.keyboard().map(|keyboard| keyboard.layout.clone())
    };
    let (fr, be) = ("keyboard = { layout = \"fr\" }", "keyboard = { layout = \"be\" }");
    let when = |text: &str| format!("when = \"ram < 2 GiB\"\n{text}");
    assert_eq!(named(&[], ""), None);
    assert_eq!(named(&[be], fr).as_deref(), Some("fr"), "the profile's own counts");
    assert_eq!(named(&[be, fr], "").as_deref(), Some("fr"), "the last class counts");
    assert_eq!(named(&[fr, &when(be)], ""), None, "it depends on the machine");
    assert_eq!(named(&[fr, &when(fr)], "").as_deref(), Some("fr"));
    assert_eq!(named(&[&when(fr)], ""), None, "others get none");
    assert_eq!(named(&[&when(be)], fr).as_deref(), Some("fr"));
}

#[test]
fn base64_may_be_broken_into_lines() {
    assert_eq!(decode_base64("aGFs\nbG8=\n"), Some(b"hallo".to_vec()));
    assert_eq!(decode_base64("aGFsbG8"), None);
}

proptest! {
    #[test]
    fn garbage_never_panics(text in "\\PC{0,80}") {
        let _outcome = parse_layer(&text, "x");
    }

    #[test]
    fn damaged_profiles_never_panic(at in 0usize..200, with in any::<char>()) {
        let text = "[identity]\nhostname = \"é-${asset}\"\n[storage.volumes.home]\nmin = \"1 GiB\"\n[[users]]\nname = \"eve\"\n";
        let damaged: String =
            text.chars().enumerate().map(|(i, c)| if i == at % text.chars().count() { with } else { c }).collect();
        let _outcome = parse_layer(&damaged, "x");
    }

    #[test]
    fn distance_is_symmetric_and_zero_only_for_the_same(a in "[abc]{0,6}", b in "[abc]{0,6}") {
        prop_assert_eq!(edit_distance(&a, &b), edit_distance(&b, &a));
        prop_assert_eq!(edit_distance(&a, &b) == 0, a == b);
    }
}
