//! Tests of the checks: each text in its place, with what must be refused there.

use crate::profile::parse_layer;
use proptest::prelude::*;

/// The codes of all issues of a profile.
fn codes(profile: &str) -> Vec<String> {
    let layer = parse_layer(profile, "x").unwrap_or_else(|e| panic!("{profile}: {e}"));
    let mut issues = Vec::new();
    super::layer(&layer, "profiles/x", &mut issues);
    for issue in &issues {
        assert!(issue.path.starts_with("profiles/x: "), "{issue}");
        assert!(!issue.to_string().contains(['\n', '\0']), "a report is one line: {issue:?}");
    }
    issues.into_iter().map(|i| i.code).collect()
}

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0q0Tn1Yl8Y9YzQx1v0nJm1yP1sVb1x0cQbqk6b0b1k eve@example";

#[test]
fn good_texts_pass() {
    for profile in [
        "locale = \"fr_FR.UTF-8\"",
        "locale = \"C.UTF-8\"",
        "locale = \"C\"",
        "locale = \"ca_ES.UTF-8@valencia\"",
        "locale = \"eo\"",
        "timezone = \"Europe/Paris\"",
        "timezone = \"Etc/GMT+3\"",
        "timezone = \"America/Argentina/Buenos_Aires\"",
        "keyboard = { layout = \"fr\", variant = \"oss\" }",
        "keyboard = { layout = \"us,ru\" }",
        "identity = { username = \"eve\", realname = \"Ève Müller-O'Neill\", password = \"$y$j9T$abc$def./\" }",
        "users = [{ name = \"_x-1\", shell = \"/bin/zsh\", uid = 1001, groups = [\"lp\", \"dialout\"] }]",
        "packages = [\"vim\", \"g++\", \"-nano\", \"libc6:i386\", \"bash=5.2.15-2+b7\", \"0ad\", \"foo=1:2.3~rc1\"]",
        "kernel = { package = \"linux-generic-hwe-24.04\", arguments = [\"quiet\", \"video=1024x768@60\", \"i915.modeset=0\"] }",
        "debconf-selections = [\"tzdata\\ttzdata/Areas select Europe\"]",
        "[apt]\nsuite = \"bookworm\"\nmirrors = [\"http://deb.example.org/debian\", \"https://[2001:db8::1]:8080/d\"]",
        "[network.fixed]\naddresses = [\"192.168.1.5/24\", \"2001:db8::5/64\"]\ngateway = \"192.168.1.1\"\ndns = [\"9.9.9.9\"]\nmac = \"00:11:22:AA:bb:cc\"",
        "network = { ntp = [\"ntp.example.org\", \"192.0.2.1\"], proxy = \"http://proxy:3128\" }",
        "files = [{ path = \"/etc/motd d/x\", content = \"a\\nb\\u0000\", mode = \"0644\", owner = \"root:adm\" }]",
        "late-commands = [\"echo 'a\\nb' > /x\", { name = \"set things up\", script = \"#!/bin/sh\\ntrue\\n\" }]",
        "variables = { city = \"Lannion\\nline two\" }",
    ] {
        assert_eq!(codes(profile), Vec::<String>::new(), "{profile}");
    }
    assert_eq!(
        codes(&format!("ssh = {{ authorized-keys = ['{KEY}', 'from=\"192.0.2.0/24\" {KEY}'] }}")),
        Vec::<String>::new()
    );
}

#[test]
fn bad_texts_are_refused_each_with_its_code() {
    for (profile, code) in [
        ("locale = \"french\"", "locale"),
        ("locale = \"fr_FR.UTF-8\\nLC_ALL=C\"", "locale"),
        ("timezone = \"../../etc/passwd\"", "timezone"),
        ("timezone = \"/Europe/Paris\"", "timezone"),
        ("timezone = \"Europe/Paris\\n\"", "timezone"),
        ("keyboard = { layout = \"\" }", "keyboard"),
        ("keyboard = { layout = \"fr\\\"\\nXKBOPTIONS=\\\"x\" }", "keyboard"),
        ("keyboard = { layout = \"fr\", variant = \"o ss\" }", "keyboard"),
        ("identity = { username = \"root\" }", "user-name"),
        ("identity = { username = \"Eve\" }", "user-name"),
        ("identity = { username = \"eve:x:0:0\" }", "user-name"),
        ("identity = { realname = \"Eve:0:0:x\" }", "real-name"),
        ("identity = { realname = \"Eve\\nroot::0:0\" }", "real-name"),
        ("identity = { realname = \"Eve, room 3\" }", "real-name"),
        ("identity = { password = \"hunter2\" }", "password-hash"),
        ("identity = { password = \"$6$salt$hash:0:0\\n\" }", "password-hash"),
        ("users = [{ name = \"a b\" }]", "user-name"),
        ("users = [{ name = \"a\", shell = \"bash\" }]", "shell"),
        ("users = [{ name = \"a\", shell = \"/bin/sh\\nx\" }]", "shell"),
        ("users = [{ name = \"a\", uid = 0 }]", "user-id"),
        ("users = [{ name = \"a\", groups = [\"sudo,root\"] }]", "group-name"),
        ("users = [{ name = \"a\" }, { name = \"a\" }]", "user-twice"),
        ("users = [{ name = \"a\", authorized-keys = [\"not a key\"] }]", "ssh-key"),
        ("ssh = { authorized-keys = [\"ssh-ed25519 AAAA\"] }", "ssh-key"),
        ("network = { ntp = [\"a b\"] }", "time-server"),
        ("network = { ntp = [\"pool.example\\nserver evil\"] }", "time-server"),
        ("network = { proxy = \"proxy:3128\" }", "url"),
        ("network = { proxy = \"http://proxy:3128\\\";evil\" }", "url"),
        ("network = { proxy = \"http://proxy:99999\" }", "url"),
        ("network = { fixed = { addresses = [] } }", "address"),
        ("network = { fixed = { addresses = [\"192.168.1.5\"] } }", "address"),
        ("network = { fixed = { addresses = [\"192.168.1.5/33\"] } }", "address"),
        ("network = { fixed = { addresses = [\"192.168.1.5/24\"], gateway = \"router\" } }", "address"),
        ("network = { fixed = { addresses = [\"192.168.1.5/24\"], mac = \"00:11\" } }", "address"),
        ("apt = { mirrors = [\"deb http://x\"] }", "url"),
        ("apt = { mirrors = [\"file:///srv\"] }", "url"),
        ("apt = { mirrors = [\"http://x/d\\nTrusted: yes\"] }", "url"),
        ("apt = { suite = \"bookworm main\" }", "archive-word"),
        ("apt = { suite = \"../x\" }", "archive-word"),
        ("apt = { components = [\"main\\nTrusted: yes\"] }", "archive-word"),
        ("apt = { key = \"abc\" }", "archive-key"),
        ("apt = { key = \"-----BEGIN PGP PRIVATE KEY BLOCK-----\" }", "archive-key"),
        ("apt = { never = [\"a b\"] }", "package-name"),
        ("apt = { hold = [\"hello=2\"] }", "package-name"),
        ("apt = { preferences = { akene-never = \"\" } }", "file-name"),
        ("apt = { preferences = { \"../x\" = \"\" } }", "file-name"),
        ("apt = { preferences = { \"x.conf\" = \"\" } }", "file-name"),
        ("packages = [\"vim; rm\"]", "package-name"),
        ("packages = [\"vim-\"]", "package-name"),
        ("packages = [\"--purge\"]", "package-name"),
        ("packages = [\"-o=Dpkg::Options\"]", "package-name"),
        ("packages = [\"Vim\"]", "package-name"),
        ("packages = [\"./local.deb\"]", "package-name"),
        ("packages = [\"vim=\"]", "package-name"),
        ("packages = [\"\"]", "package-name"),
        ("kernel = { package = \"-linux\" }", "package-name"),
        ("kernel = { arguments = [\"a b\"] }", "kernel-argument"),
        ("kernel = { arguments = [\"x\\\"; rm -rf /; \\\"\"] }", "kernel-argument"),
        ("kernel = { arguments = [\"$(reboot)\"] }", "kernel-argument"),
        ("boot = { password = \"hunter2\" }", "password-hash"),
        ("boot = { password = \"grub.pbkdf2.sha512.10000.ABCD.0123\" }", "password-hash"),
        ("boot = { password = \"$y$j9T$abc$def./\" }", "password-hash"),
        ("debconf-selections = [\"tzdata tzdata/Areas\"]", "debconf-line"),
        ("debconf-selections = [\"a b c d\\ne f g h\"]", "debconf-line"),
        ("files = [{ path = \"etc/motd\", content = \"\" }]", "file-path"),
        ("files = [{ path = \"/etc/../x\", content = \"\" }]", "file-path"),
        ("files = [{ path = \"/\", content = \"\" }]", "file-path"),
        ("files = [{ path = \"/etc/\", content = \"\" }]", "file-path"),
        ("files = [{ path = \"/etc/a\\nb\", content = \"\" }]", "file-path"),
        ("files = [{ path = \"/x\" }]", "file-content"),
        ("files = [{ path = \"/x\", content = \"\", base64 = \"\" }]", "file-content"),
        ("files = [{ path = \"/x\", base64 = \"?\" }]", "file-content"),
        ("files = [{ path = \"/x\", content = \"\", mode = \"+644\" }]", "file-mode"),
        ("files = [{ path = \"/x\", content = \"\", mode = \"0888\" }]", "file-mode"),
        ("files = [{ path = \"/x\", content = \"\", owner = \"root\" }]", "file-owner"),
        ("late-commands = [\"\"]", "script"),
        ("late-commands = [{ name = \"x\", script = \"true\" }]", "script"),
        ("late-commands = [{ name = \"x\\ny\", script = \"#!/bin/sh\" }]", "script-name"),
        ("variables = { \"a b\" = \"\" }", "variable-name"),
        ("variables = { asset = \"1\" }", "variable-reserved"),
        ("when = \"ram < 1 GiB\"", "profile-rule"),
    ] {
        assert_eq!(codes(profile), [code], "{profile}");
    }
}

#[test]
fn a_repository_needs_a_key_and_fitting_suites() {
    let armoured = crate::openpgp::tests::KEY;
    let source = |rest: &str| {
        format!("[apt.sources.vendor]\nuri = \"https://x.example/apt\"\nkey = '''{armoured}'''\n{rest}")
    };
    assert_eq!(codes(&source("suites = [\"stable\"]\ncomponents = [\"main\"]")), Vec::<String>::new());
    assert_eq!(codes(&source("suites = [\"./\"]")), Vec::<String>::new());
    assert_eq!(codes(&source("suites = [\"stable\"]")), ["archive-word"]);
    assert_eq!(codes(&source("suites = []\ncomponents = [\"main\"]")), ["archive-word"]);
}

#[test]
fn a_class_lists_no_classes_and_may_have_a_rule() {
    let mut issues = Vec::new();
    let class = parse_layer("classes = [\"a\"]\nwhen = \"ram < 1 GiB\"", "x").unwrap();
    super::layer(&class, "classes/x", &mut issues);
    assert_eq!(issues.iter().map(|i| i.code.as_str()).collect::<Vec<_>>(), ["class-nested"]);
}

/// Every place for a text in a profile that ends up in a line of some configuration file.
const LINES: [&str; 22] = [
    "locale = @",
    "timezone = @",
    "keyboard = { layout = @ }",
    "keyboard = { layout = \"fr\", variant = @ }",
    "identity = { username = @ }",
    "identity = { realname = @ }",
    "identity = { password = @ }",
    "users = [{ name = \"a\", shell = @ }]",
    "users = [{ name = \"a\", groups = [@] }]",
    "ssh = { authorized-keys = [@] }",
    "network = { ntp = [@] }",
    "network = { proxy = @ }",
    "network = { fixed = { addresses = [@] } }",
    "apt = { suite = @ }",
    "apt = { mirrors = [@] }",
    "apt = { components = [@] }",
    "packages = [@]",
    "kernel = { package = @ }",
    "kernel = { arguments = [@] }",
    "boot = { password = @ }",
    "debconf-selections = [@]",
    "files = [{ path = @, content = \"\" }]",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_line_can_be_smuggled_in_anywhere(
        before in "[ -~]{0,12}", breaks in "[\n\r\u{0}\u{b}\u{c}\u{85}\u{2028}\u{2029}\u{1b}]", after in "[ -~]{0,12}",
        good in prop::sample::select(vec!["fr_FR.UTF-8", "Europe/Paris", "fr", "http://x.example/d", "a b c d", "/bin/sh", KEY, "192.168.1.5/24"]),
    ) {
        for text in [format!("{before}{breaks}{after}"), format!("{good}{breaks}"), format!("{breaks}{good}"), format!("{good}{breaks}{good}")] {
            let json = serde_json::to_string(&text).unwrap().replace("\\f", "\\u000c").replace("\\b", "\\u0008");
            for place in LINES {
                let profile = place.replace('@', &json);
                prop_assert!(!codes(&profile).is_empty(), "{}", profile);
            }
        }
    }
}
