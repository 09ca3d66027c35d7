//! New passwords for people of an old system.

use std::fs;
use std::time::Duration;

use akene_agent::rescue::{find, password};
use akene_exec::{Cmd, Streams};
use akene_protocol::Secret;
use akene_tests::console::Console;
use akene_tests::disks::{can_run, has, run};
use akene_tests::site::program;

use crate::rig::*;

#[test]
fn a_new_password_changes_one_field_of_one_file() {
    if !can_run() {
        return;
    }
    for kind in ["ext4", "xfs"] {
        let dir = tempfile::tempdir().unwrap();
        let image = system(dir.path(), kind);
        let rescue = rescue(dir.path(), &[&image]);
        let (machine, volumes) = machine(&rescue);
        let root = find(&volumes, &name(&image, 1)).unwrap();
        let all = || seen(&rescue, &machine, root, &dir.path().join("s"), everything);
        let before = all();
        let password::People { found, doubt } = password::people(&rescue, &machine, &volumes, root).unwrap();
        assert_eq!(doubt, None);
        let who: Vec<_> = found.iter().map(|f| (f.account.name.as_str(), f.encrypted.is_some())).collect();
        assert_eq!(who, [("ana", false), ("ben", true), ("root", false)]);

        let new = Secret::new("un nouveau: été");
        password::set(&rescue, &machine, root, "ana", &new).unwrap();
        let after = all();
        let changed: Vec<_> =
            after.iter().filter(|(k, v)| before.get(*k) != Some(*v)).map(|(k, _)| k.as_str()).collect();
        // The directory has another time.
        assert_eq!(changed, ["etc", "etc/shadow"]);
        assert_eq!(before.len(), after.len());
        let plain = |what: &str| what.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(plain(&after["etc/shadow"]), plain(&before["etc/shadow"]));
        assert!(after["etc/shadow"].contains("trusted.label"), "{}", after["etc/shadow"]);
        let text = seen(&rescue, &machine, root, &dir.path().join("s"), |top| {
            fs::read_to_string(top.join("etc/shadow")).unwrap()
        });
        let lines: Vec<(&str, &str)> = SHADOW.lines().zip(text.lines()).filter(|(a, b)| a != b).collect();
        let [(_, line)] = lines[..] else { panic!("{lines:?}") };
        let fields: Vec<&str> = line.split(':').collect();
        assert_eq!((fields[0], fields[2], fields.len()), ("ana", "19000", 9));
        // The C library's own judgement.
        let crypt =
            ["-e", "print crypt($ARGV[0], $ARGV[1]) eq $ARGV[1] ? 'same' : 'other'", new.expose(), fields[1]];
        assert_eq!(run("perl", &crypt), "same");

        let refused = |name: &str, new: &str| {
            code(&password::set(&rescue, &machine, root, name, &Secret::new(new)).unwrap_err()).to_owned()
        };
        assert_eq!(refused("carla", "x"), "account-not-there");
        assert_eq!(refused("ana", ""), "password-odd");
        assert_eq!(all(), after, "a refusal changed something");
    }
}

/// At a terminal of its own, by somebody who types as soon as a question is there.
#[test]
fn a_password_is_typed_unseen_and_nothing_of_it_is_lost() {
    if !can_run() || !has("script") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let ask = [
        "rescue",
        "--also",
        image.path().to_str().unwrap(),
        "password",
        "--person",
        "ana",
        "--yes",
        "--system",
    ];
    let command =
        format!("{} {} {}", program("akene-agent").unwrap().display(), ask.join(" "), name(&image, 1));
    let errors = fs::File::create(dir.path().join("errors")).unwrap();
    let script = Cmd::new("script").args(["-q", "-e", "-c", &command, "/dev/null"]);
    let mut running = script.spawn(Streams::Piped { errors }).unwrap();
    let (input, output) = running.pipes().unwrap();
    let mut terminal = Console::new(input, output, &dir.path().join("seen"), false).unwrap();
    let patience = Duration::from_secs(120);
    for question in ["New password (not shown):", "Once more:"] {
        terminal.expect(question, patience).unwrap();
        terminal.press("bonjour\n").unwrap();
    }
    terminal.expect("ana can log in", patience).unwrap();
    assert!(!terminal.text().contains("bonjour"), "{}", terminal.text());
    assert!(running.wait(patience).unwrap().is_some_and(|status| status.success()));

    let rescue = rescue(dir.path(), &[&image]);
    let (machine, volumes) = machine(&rescue);
    let root = find(&volumes, &name(&image, 1)).unwrap();
    let shadow = seen(&rescue, &machine, root, &dir.path().join("s"), |top| {
        fs::read_to_string(top.join("etc/shadow")).unwrap()
    });
    let hash = shadow.lines().find_map(|line| line.strip_prefix("ana:")?.split(':').next()).unwrap();
    assert_eq!(run("perl", &["-e", "print crypt('bonjour', $ARGV[0])", hash]), hash);
    image.detach().unwrap();
}
