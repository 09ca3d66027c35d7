//! Tests of resolving: what upper layers do to lower ones, and what is refused.

use super::*;
use crate::inventory::{Cpu, Dmi, Firmware, FirmwareKind, Memory};
use crate::profile::parse_layer;
use proptest::prelude::*;

const APT: &str = "[apt]\ndistribution = \"debian\"\nsuite = \"bookworm\"\n";

fn machine(ram: Bytes) -> Inventory {
    Inventory {
        version: crate::inventory::VERSION,
        agent: "test".into(),
        cpu: Cpu::default(),
        memory: Memory { total: ram },
        firmware: Firmware {
            kind: FirmwareKind::Bios,
            secure_boot: None,
            vendor: None,
            version: None,
            date: None,
        },
        dmi: Dmi::default(),
        disks: vec![],
        volume_groups: vec![],
        nics: vec![],
        displays: vec![],
        batteries: vec![],
        notes: vec![],
    }
}

/// Classes `a`, `b`… and the profile on top of them.
fn bundle(classes: &[&str], profile: &str) -> Bundle {
    let names = ["a", "b", "c", "d"];
    let layer = |text: &str| parse_layer(text, "x").unwrap_or_else(|e| panic!("{text}: {e}"));
    Bundle {
        site: "Lannion".into(),
        name: "desk".into(),
        revision: "0123456789abcdef".into(),
        classes: names.iter().zip(classes).map(|(name, text)| (name.to_string(), layer(text))).collect(),
        profile: layer(profile),
    }
}

fn resolved(classes: &[&str], profile: &str) -> Resolved {
    let profile = format!("{profile}\n{APT}");
    resolve(&bundle(classes, &profile), &machine(Bytes::gib(2)), Some(AssetNumber::new(1042)))
        .unwrap_or_else(|e| panic!("{e}"))
}

fn issues(classes: &[&str], profile: &str) -> Vec<Issue> {
    resolve(&bundle(classes, profile), &machine(Bytes::gib(2)), None).unwrap_err().0
}

fn volume(resolved: &Resolved, name: &str) -> VolumeWish {
    resolved.storage.volumes.iter().find(|v| v.name == name).cloned().expect(name)
}

#[test]
fn a_profile_that_says_nothing_gets_the_defaults() {
    let all = resolved(&[], "");
    assert_eq!(all.hostname, "akene-10429", "the asset number without its hyphen");
    assert_eq!((all.locale.as_str(), all.timezone.as_str()), ("C.UTF-8", "Etc/UTC"));
    assert_eq!(all.archive.pockets, [Pocket::Updates, Pocket::Security]);
    assert_eq!(all.kernel.package.as_deref(), Some("linux-image-amd64"));
    assert!(!all.ssh_server && !all.ssh_passwords && all.archive.install_recommends);
    let names: Vec<_> = all.storage.volumes.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["root", "home", "swap"]);
    assert_eq!(all.storage.table, TableKind::Gpt);
    assert_eq!(volume(&all, "swap").enough, Bytes::gib(2), "as much as there is memory");
}

#[test]
fn single_values_are_replaced_in_the_order_of_the_layers() {
    let all = resolved(
        &["locale = \"C\"\ntimezone = \"Etc/UTC\"", "locale = \"fr_FR.UTF-8\""],
        "timezone = \"Europe/Paris\"",
    );
    assert_eq!((all.locale.as_str(), all.timezone.as_str()), ("fr_FR.UTF-8", "Europe/Paris"));
    assert_eq!(all.classes, ["a", "b"]);
}

#[test]
fn tables_are_merged_key_by_key() {
    let all = resolved(
        &[
            "identity = { username = \"eve\", realname = \"Eve\" }",
            "storage = { volumes = { home = { min = \"4 GiB\" } } }",
        ],
        "identity = { realname = \"Adam\" }\nstorage = { volumes = { home = { enough = \"40 GiB\" } } }",
    );
    assert_eq!((all.users[0].name.as_str(), all.users[0].realname.as_deref()), ("eve", Some("Adam")));
    let home = volume(&all, "home");
    assert_eq!((home.min, home.enough, home.user_data), (Bytes::gib(4), Bytes::gib(40), true));
}

#[test]
fn lists_are_appended_once_and_a_hyphen_takes_out() {
    let all = resolved(
        &["packages = [\"vim\", \"nano\", \"less\"]", "packages = [\"-nano\", \"vim\", \"mc\"]"],
        "packages = [\"nano\"]",
    );
    assert_eq!(all.packages, ["vim", "less", "mc", "nano"], "what the upper layer wants again comes back");
}

#[test]
fn the_upper_layers_version_of_a_package_counts() {
    let all = resolved(&["packages = [\"vim=9.0\", \"less\"]"], "packages = [\"vim=9.1\"]");
    assert_eq!(all.packages, ["vim=9.1", "less"]);
    assert_eq!(
        resolved(&["packages = [\"vim=9.0\"]"], "packages = [\"-vim\"]").packages,
        Vec::<String>::new()
    );
}

#[test]
fn lists_that_are_a_preference_are_replaced() {
    let all = resolved(
        &["network = { ntp = [\"a.example\", \"b.example\"] }"],
        "network = { ntp = [\"c.example\"] }",
    );
    assert_eq!(all.network.ntp, ["c.example"]);
}

#[test]
fn a_user_or_file_named_again_is_changed() {
    let all = resolved(
        &["users = [{ name = \"eve\", sudo = true }]\nfiles = [{ path = \"/etc/motd\", content = \"old\" }]"],
        "users = [{ name = \"eve\" }]\nfiles = [{ path = \"/etc/motd\", content = \"new\" }]",
    );
    assert_eq!((all.users.len(), all.users[0].sudo), (1, false));
    assert_eq!((all.files.len(), all.files[0].content.as_deref()), (1, Some("new")));
}

#[test]
fn a_class_counts_only_where_its_rule_holds() {
    let classes =
        ["when = \"ram < 1 GiB\"\npackages = [\"small\"]", "when = \"ram >= 1 GiB\"\npackages = [\"large\"]"];
    let all = resolved(&classes, "");
    assert_eq!((all.classes, all.packages), (vec!["b".to_owned()], vec!["large".to_owned()]));
}

#[test]
fn variables_are_replaced_in_names_files_and_scripts() {
    let all = resolved(
        &["variables = { city = \"Paris\", room = \"3\" }"],
        "variables = { city = \"Lannion\" }\nidentity = { hostname = \"${city}-${room}-${asset}\" }\n\
         files = [{ path = \"/a\", content = \"${hostname} $${city} $HOME ${\" },\
                  { path = \"/b\", content = \"${nothing}\", verbatim = true }]\n\
         late-commands = [\"echo ${city}\"]",
    );
    assert_eq!(all.hostname, "Lannion-3-10429");
    assert_eq!(all.files[0].content.as_deref(), Some("Lannion-3-10429 ${city} $HOME ${"));
    assert_eq!(all.files[1].content.as_deref(), Some("${nothing}"));
    assert_eq!(all.late_commands, [Script::Line("echo Lannion".into())]);
}

#[test]
fn an_unknown_variable_gets_a_suggestion() {
    let found = issues(
        &[],
        &format!(
            "variables = {{ city = \"x\" }}\nlate-commands = [\"echo ${{ciyt}}\", \"${{zebra}}\"]\n{APT}"
        ),
    );
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].path.as_str(), found[0].next.as_str()),
        ("late-commands[0]", "did you mean `city`?")
    );
    assert!(found[1].next.contains("$${zebra}"));
}

#[test]
fn a_variable_cannot_smuggle_a_line_into_the_host_name() {
    let found = issues(
        &[],
        &format!("variables = {{ x = \"a\\nb\" }}\nidentity = {{ hostname = \"${{x}}\" }}\n{APT}"),
    );
    assert_eq!(found[0].code, "hostname");
    assert!(!found[0].to_string().contains('\n'));
}

#[test]
fn all_issues_come_at_once() {
    let found = issues(
        &["timezone = \"x y\"", "packages = [\"a b\"]"],
        "locale = \"french\"\nidentity = { hostname = \"-\" }\nclasses = [\"a\", \"b\", \"aa\"]\n\
         storage = { volumes = { home = { min = \"9 GiB\", enough = \"1 GiB\" } } }\nlate-commands = [\"${nope}\"]",
    );
    let codes: Vec<&str> = found.iter().map(|i| i.code.as_str()).collect();
    let expected = [
        "class-missing",
        "timezone",
        "package-name",
        "locale",
        "hostname",
        "variable-unknown",
        "setting-missing",
        "setting-missing",
        "volume-sizes",
    ];
    assert_eq!(codes, expected);
    assert!(found[1].path.starts_with("classes/a: "), "{}", found[1]);
    assert!(found[3].path.starts_with("profiles/desk: "), "{}", found[3]);
}

#[test]
fn keys_open_the_first_users_account_or_roots() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0q0Tn1Yl8Y9YzQx1v0nJm1yP1sVb1x0cQbqk6b0b1k eve";
    let ssh = format!("ssh = {{ authorized-keys = [\"{key}\"], install-server = true }}");
    let all = resolved(&[], &ssh);
    assert_eq!((all.root_keys.len(), all.users.len(), all.ssh_server), (1, 0, true));
    let all = resolved(&[], &format!("{ssh}\nidentity = {{ username = \"eve\" }}"));
    assert_eq!((all.root_keys.len(), all.users[0].authorized_keys.len(), all.users[0].sudo), (0, 1, true));
}

#[test]
fn a_mirror_of_ubuntu_serves_security_too_and_one_of_debian_does_not() {
    let archive = |distribution: &str| {
        let profile = format!(
            "[apt]\ndistribution = \"{distribution}\"\nsuite = \"x\"\nmirrors = [\"http://m.example/a\"]"
        );
        resolve(&bundle(&[], &profile), &machine(Bytes::gib(1)), None).unwrap().archive
    };
    assert_eq!(archive("ubuntu").security_mirrors, ["http://m.example/a"]);
    assert_eq!(archive("debian").security_mirrors, ["http://security.debian.org/debian-security"]);
}

#[test]
fn sizes_that_are_given_move_the_default_ones() {
    let of = |text: &str| {
        volume(
            &resolved(&[], &format!("storage = {{ volumes = {{ {text} }} }}")),
            text.split(' ').next().unwrap(),
        )
    };
    let root = of("root = { enough = \"2 GiB\" }");
    assert_eq!((root.min, root.enough, root.max), (Bytes::gib(2), Bytes::gib(2), Some(Bytes::gib(64))));
    let root = of("root = { min = \"100 GiB\" }");
    assert_eq!((root.min, root.enough, root.max), (Bytes::gib(100), Bytes::gib(100), None));
    let root = of("root = { max = \"1 GiB\" }");
    assert_eq!((root.min, root.enough, root.max), (Bytes::gib(1), Bytes::gib(1), Some(Bytes::gib(1))));
    let data = of("data = { mount = \"/srv\", enough = \"50 GiB\" }");
    assert_eq!((data.min, data.enough, data.max), (Bytes::gib(1), Bytes::gib(50), None));
    let data = of("data = { mount = \"/srv\", max = \"100 MiB\" }");
    assert_eq!((data.min, data.enough), (Bytes::mib(100), Bytes::mib(100)));
}

#[test]
fn volumes_can_be_left_out() {
    let all =
        resolved(&[], "storage = { volumes = { home = { wanted = false }, swap = { wanted = false } } }");
    assert_eq!(all.storage.volumes.len(), 1);
    let found = issues(&[], &format!("storage = {{ volumes = {{ root = {{ wanted = false }} }} }}\n{APT}"));
    assert_eq!(found[0].code, "volume-root");
}

#[test]
fn volumes_that_cannot_be_are_refused() {
    for (text, code) in [
        ("data = { min = \"1 GiB\" }", "volume-mount"),
        ("data = { mount = \"srv\" }", "volume-mount"),
        ("data = { mount = \"/srv/\" }", "volume-mount"),
        ("data = { mount = \"/a/../b\" }", "volume-mount"),
        ("data = { mount = \"/srv x\" }", "volume-mount"),
        ("data = { mount = \"/srv\\nUUID=1 / ext4\" }", "volume-mount"),
        ("data = { mount = \"/boot/x\" }", "volume-mount"),
        ("data = { mount = \"/etc\" }", "volume-mount"),
        ("data = { mount = \"/proc/x\" }", "volume-mount"),
        ("swap = { mount = \"/x\" }", "volume-mount"),
        ("Data = { mount = \"/srv\" }", "volume-name"),
        ("\"a b\" = { mount = \"/srv\" }", "volume-name"),
        ("swap2 = { filesystem = \"swap\" }", "volume-swap"),
        ("swap = { user-data = true }", "volume-swap"),
        ("root = { optional = true }", "volume-root"),
        ("root = { user-data = true }", "volume-root"),
        ("root = { mount = \"/other\" }", "volume-root"),
        ("root = { filesystem = \"vfat\" }", "volume-filesystem"),
        ("home = { filesystem = \"vfat\" }", "volume-filesystem"),
        ("data = { mount = \"/srv\", filesystem = \"xfs\", min = \"100 MiB\" }", "volume-sizes"),
        ("data = { mount = \"/srv\", enough = \"9999999 TiB\" }", "volume-sizes"),
    ] {
        let found = issues(&[], &format!("storage = {{ volumes = {{ {text} }} }}\n{APT}"));
        assert_eq!(found.iter().map(|i| i.code.as_str()).collect::<Vec<_>>(), [code], "{text}: {found:?}");
        assert!(!found[0].to_string().contains('\n'), "{text}");
    }
    let found =
        issues(&[], &format!("storage = {{ volumes = {{ data = {{ mount = \"/home\" }} }} }}\n{APT}"));
    assert_eq!(found.len(), 2, "both volumes are named: {found:?}");
}

#[test]
fn swap_follows_the_memory() {
    for (ram, swap) in [(200, 512), (512, 512), (1000, 1024), (3000, 3072), (16 << 10, 4096)] {
        let all = resolve(&bundle(&[], APT), &machine(Bytes::mib(ram)), None).unwrap();
        assert_eq!(volume(&all, "swap").enough, Bytes::mib(swap), "{ram} MiB");
    }
}

#[test]
fn json_round_trips() {
    let all = resolved(
        &["packages = [\"vim\"]"],
        "files = [{ path = \"/a\", content = \"x\" }]\nlate-commands = [\"true\", { name = \"n\", script = \"#!/bin/sh\" }]",
    );
    let json = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<Resolved>(&json).unwrap(), all);
}

proptest! {
    #[test]
    fn substitution_never_panics_and_leaves_other_text_alone(text in "[a$ {}éx]{0,24}") {
        let variables = BTreeMap::from([("x".to_owned(), "XX".to_owned())]);
        let mut issues = Vec::new();
        let out = substitute(&text, &variables, "p", &mut issues);
        if !text.contains("${") {
            prop_assert_eq!(out, text);
        }
    }

    #[test]
    fn any_split_of_a_package_list_over_layers_gives_the_same(
        packages in prop::collection::vec(prop::sample::select(vec!["aa", "bb", "cc", "-aa", "-bb"]), 0..10), at in 0usize..10,
    ) {
        // Taking out does not look ahead, so layers are laid in order and where they are cut does not matter.
        let list = |p: &[&str]| format!("packages = {p:?}");
        let at = at.min(packages.len());
        let whole = resolved(&[&list(&packages)], "").packages;
        let cut = resolved(&[&list(&packages[..at]), &list(&packages[at..])], "").packages;
        prop_assert_eq!(whole, cut);
    }
}

#[test]
fn another_maker_of_the_initramfs_is_refused_where_it_is_asked_for() {
    for (classes, profile, path) in [
        (&[][..], "packages = [\"dracut\"]", "profiles/desk: packages"),
        (&["packages = [\"tiny-initramfs=0.1-5\"]"], "", "classes/a: packages"),
        (&["", "packages = [\"dracut\", \"less\"]"], "packages = [\"nano\"]", "classes/b: packages"),
        (&["packages = [\"dracut\"]"], "packages = [\"dracut=059-4\"]", "profiles/desk: packages"),
    ] {
        let found = issues(classes, &format!("{profile}\n{APT}"));
        let [issue] = &found[..] else { panic!("{profile}: {found:?}") };
        assert_eq!((issue.code.as_str(), issue.path.as_str()), ("package-not-supported", path));
        assert!(issue.message.contains("initramfs-tools") && !issue.next.is_empty(), "{issue}");
    }
    // What only has a like name, and what was taken out again.
    resolved(&[], "packages = [\"dracut-core\", \"tiny-initramfs-core\"]");
    resolved(&["packages = [\"dracut\"]"], "packages = [\"-dracut\"]");
}

#[test]
fn lists_of_names_grow_and_shrink_by_layers() {
    let class = "packages = [\"hello=2.10-3\"]\napt = { never = [\"snapd\", \"popularity-contest\"], hold = [\"hello\"] }";
    let above =
        "apt = { never = [\"-snapd\", \"cups\", \"cups\"], hold = [\"-hello\", \"linux-image-amd64\"] }";
    let archive = resolved(&[class, above], "").archive;
    assert_eq!(archive.never, ["popularity-contest", "cups"]);
    assert_eq!(archive.hold, ["linux-image-amd64"]);
    // Both wanted and never wanted, also with a version.
    let found = issues(&[class], &format!("packages = [\"snapd=1\"]\n{APT}"));
    assert_eq!((found[0].code.as_str(), found.len()), ("package-never", 1), "{found:?}");
    resolved(&[class], "packages = [\"snapd\", \"-snapd\"]");
}

#[test]
fn keys_come_out_in_one_form() {
    let key = crate::openpgp::tests::KEY;
    let base64: String = key.lines().filter(|l| !l.starts_with(['-', '='])).collect();
    let class = format!(
        "[apt]\nkey = '''{base64}'''\n[apt.sources.vendor]\nuri = \"https://v.example\"\nsuites = [\"./\"]\nkey = \"{base64}\""
    );
    let archive = resolved(&[&class], "").archive;
    assert_eq!((archive.key.as_deref(), archive.sources["vendor"].key.as_str()), (Some(key), key));
    // A repository without a key is refused, not trusted.
    let none = "[apt.sources.vendor]\nuri = \"https://v.example\"\nsuites = [\"./\"]";
    let found = issues(&[none], APT);
    assert_eq!(found[0].code, "archive-key");
}
