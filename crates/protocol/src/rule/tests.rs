//! Tests of the rules.

use super::*;
use crate::inventory::*;
use proptest::prelude::*;

fn machine() -> Inventory {
    let disk = |name: &str, size, removable| Disk {
        name: name.into(),
        path: format!("/dev/{name}"),
        by_id: None,
        size,
        logical_sector: 512,
        physical_sector: 512,
        model: None,
        serial: None,
        wwn: None,
        bus: Bus::Sata,
        rotational: None,
        removable,
        read_only: false,
        live_medium: false,
        health: Health::Unknown,
        table: None,
        content: None,
    };
    let nic = |mac: &str| Nic {
        name: "eth0".into(),
        driver: None,
        mac: Some(mac.into()),
        bus: None,
        device: None,
        wireless: false,
        link: None,
        speed: None,
    };
    Inventory {
        cpu: Cpu { model: Some("Intel(R) Atom(TM) CPU N270".into()), threads: Some(2), ..Cpu::default() },
        memory: Memory { total: Bytes::mib(1002) },
        dmi: Dmi { system_vendor: Some("ASUSTeK Computer INC.".into()), ..Dmi::default() },
        disks: vec![
            disk("sda", Bytes::gib(8), false),
            disk("sdb", Bytes::gib(16), false),
            disk("sdc", Bytes::gib(64), true),
        ],
        nics: vec![nic("00:11:22:33:44:55"), nic("66:77:88:99:aa:bb")],
        batteries: vec![Battery::default()],
        ..Inventory::unknown(FirmwareKind::Bios)
    }
}

fn holds(rule: &str) -> bool {
    rule.parse::<Rule>().unwrap_or_else(|e| panic!("{e}")).matches(&machine())
}

fn refusal(rule: &str) -> String {
    rule.parse::<Rule>().err().unwrap_or_else(|| panic!("`{rule}` was read"))
}

#[test]
fn every_operator() {
    for (rule, expected) in [
        ("ram < 2 GiB", true),
        ("ram < 1002 MiB", false),
        ("ram <= 1002 MiB", true),
        ("ram > 1002 MiB", false),
        ("ram >= 1002 MiB", true),
        ("ram = 1002 MiB", true),
        ("ram != 1002 MiB", false),
        ("ram<2GiB", true),
        ("cpu.threads = 2", true),
        ("cpu.threads > 2", false),
        ("battery > 0", true),
        ("firmware = bios", true),
        ("firmware != BIOS", false),
        ("firmware ~ uefi*", false),
        ("vendor = \"asustek computer inc.\"", true),
        ("vendor = ASUSTeK Computer INC.", true),
        ("vendor ~ asus*", true),
        ("vendor ~ ?SUS*inc.", true),
        ("vendor ~ asus", false),
        ("cpu.model ~ \"*(TM)*\"", true),
    ] {
        assert_eq!(holds(rule), expected, "{rule}");
    }
}

#[test]
fn and_binds_closer_than_or_and_not_closest() {
    for (rule, expected) in [
        ("firmware = bios or ram > 4 GiB and ram > 8 GiB", true),
        ("(firmware = bios or ram > 4 GiB) and ram > 8 GiB", false),
        ("not firmware = uefi64 and ram < 2 GiB", true),
        ("not (firmware = bios and ram < 2 GiB)", false),
        ("not not firmware = bios", true),
    ] {
        assert_eq!(holds(rule), expected, "{rule}");
    }
}

#[test]
fn only_fixed_disks_count() {
    assert!(holds("disk.total = 24 GiB and disk.largest = 16 GiB and disk.count = 2"));
}

#[test]
fn one_of_several_values_is_enough() {
    assert!(holds("mac = 66:77:88:99:AA:BB"));
    assert!(holds("mac ~ 00:11:22:*"));
    assert!(!holds("mac = 00:11:22:33:44:56"));
}

#[test]
fn a_missing_fact_makes_every_comparison_false() {
    for fact in ["serial", "product", "chassis"] {
        for rule in ["= x", "!= x", "~ *"] {
            assert!(!holds(&format!("{fact} {rule}")), "{fact} {rule}");
        }
    }
    for op in ["=", "!=", "<", "<=", ">", ">="] {
        assert!(!holds(&format!("cpu.level {op} 1")), "{op}");
    }
    assert!(!holds("secure-boot = on") && !holds("secure-boot = off"));
    // Whoever negates says so.
    assert!(holds("not serial = x"));
}

#[test]
fn what_is_wrong_is_said() {
    for (rule, complaint) in [
        ("rma < 2 GiB", "did you mean `ram`?"),
        ("firmwrae = bios", "did you mean `firmware`?"),
        ("colour = red", "there is no fact called `colour`"),
        ("firmware = efi", "it is one of bios, uefi64, uefi32"),
        ("secure-boot = yes", "it is one of on, off"),
        ("ram ~ 2*", "`~` compares texts"),
        ("vendor < b", "`vendor` is a text"),
        ("ram < much", "is not a size"),
        ("cpu.threads > many", "`many` is not a whole number"),
        ("ram", "one of = != < <= > >= ~"),
        ("ram <", "a value must follow `ram`"),
        ("", "it ends where a fact was expected"),
        ("ram < 2 GiB and", "it ends where a fact was expected"),
        ("(ram < 2 GiB", "a parenthesis is not closed"),
        ("ram < 2 GiB)", "`)` was not expected"),
        ("vendor = \"Dell", "a quotation mark is not closed"),
        ("vendor = Dell firmware = bios", "is an `and` missing"),
        ("vendor = \"Dell\" \"Inc\"", "was not expected here"),
        ("!firmware = bios", "write `not`"),
    ] {
        let error = refusal(rule);
        assert!(error.contains(complaint), "{rule}: {error}");
    }
}

#[test]
fn depth_and_length_have_limits() {
    assert!(refusal(&format!("{}ram < 1", "not ".repeat(100))).contains("too deeply"));
    assert!(refusal(&format!("{}ram < 1{}", "(".repeat(100), ")".repeat(100))).contains("too deeply"));
    assert!(refusal(&format!("ram < 1{}", " or ram < 1".repeat(1000))).contains("too long"));
    assert!(!holds(&format!("ram < 1{}", " or ram < 1".repeat(150))));
}

#[test]
fn json_is_the_text() {
    let rule: Rule = serde_json::from_str("\"ram < 2 GiB\"").unwrap();
    assert_eq!(serde_json::to_string(&rule).unwrap(), "\"ram < 2 GiB\"");
    assert!(serde_json::from_str::<Rule>("\"ram < \"").is_err());
}

/// A rule as somebody could write it.
fn any_rule() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0u64..5000).prop_map(|n| format!("ram < {n} MiB")),
        (0u64..5).prop_map(|n| format!("cpu.threads >= {n}")),
        "[a-zA-Z .*?]{1,8}x".prop_map(|t| format!("vendor ~ \"{t}\"")),
        Just("firmware != uefi32".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} or {b}")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn shown_and_read_again_it_is_the_same(text in any_rule()) {
        let rule: Rule = text.parse().unwrap();
        let again: Rule = rule.to_string().parse().unwrap();
        prop_assert_eq!(&rule, &again);
        prop_assert_eq!(rule.matches(&machine()), again.matches(&machine()));
    }

    #[test]
    fn not_turns_it_around(text in any_rule()) {
        prop_assert_eq!(holds(&text), !holds(&format!("not ({text})")));
    }

    #[test]
    fn garbage_never_panics(text in "\\PC{0,60}") {
        let _outcome = text.parse::<Rule>();
    }

    #[test]
    fn garbage_of_our_own_words_never_panics(words in prop::collection::vec(
        prop::sample::select(vec!["ram", "<", "=", "2", "GiB", "and", "or", "not", "(", ")", "\"", "~", "!", "vendor"]), 0..30)) {
        if let Ok(rule) = words.join(" ").parse::<Rule>() {
            rule.matches(&machine());
        }
    }

    #[test]
    fn glob_agrees_with_a_plain_definition(pattern in "[ab*?]{0,7}", text in "[ab]{0,8}") {
        fn plain(p: &[u8], t: &[u8]) -> bool {
            match p.split_first() {
                None => t.is_empty(),
                Some((b'*', rest)) => (0..=t.len()).any(|n| plain(rest, &t[n..])),
                Some((c, rest)) => t.split_first().is_some_and(|(d, t)| (*c == b'?' || c == d) && plain(rest, t)),
            }
        }
        prop_assert_eq!(glob(&pattern, &text), plain(pattern.as_bytes(), text.as_bytes()));
    }
}
