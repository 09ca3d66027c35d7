use super::*;
use akene_exec::{Cmd, SystemRunner};

#[test]
fn consoles_are_read() {
    assert_eq!(serial("ttyS0,115200n8"), Some((0, 115_200)));
    assert_eq!(serial("ttyS1"), Some((1, 115_200)));
    assert_eq!(serial("ttyS0,9600"), Some((0, 9600)));
    assert_eq!(serial("tty0"), None);
}

/// What the script prints when grub-mkconfig runs it.
fn printed(text: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), script(text)).unwrap();
    SystemRunner.run(&Cmd::new("sh").arg(file.path())).unwrap().text()
}

/// GRUB's own parser.
fn is_read_by_grub(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    match SystemRunner.run(&Cmd::new("grub-script-check").arg(file.path())) {
        Err(error) if format!("{error:#}").contains("No such file") => {
            eprintln!("SKIPPED: there is no grub-script-check here");
        }
        checked => drop(checked.unwrap_or_else(|e| panic!("{e:#}\n{text}"))),
    }
}

fn old() -> Old {
    Old {
        root: "12-AB".into(),
        kernel: "6.1".into(),
        arguments: "root=UUID=12-AB ro panic=30".into(),
        kernels: vec![],
        password: None,
    }
}

#[test]
fn the_scripts_print_what_grub_reads() {
    let secret = Secret::new("grub.pbkdf2.sha512.10000.AB.CD");
    for (password, old) in
        [(None, None), (Some(&secret), None), (None, Some(&old())), (Some(&secret), Some(&old()))]
    {
        let text = printed(&guard("1234-ABCD", password, old));
        is_read_by_grub(&text);
        assert_eq!(
            text.contains("password_pbkdf2 admin grub.pbkdf2.sha512.10000.AB.CD\n"),
            password.is_some()
        );
        assert_eq!(text.contains("--unrestricted --id"), password.is_some());
        let text = printed(&entries("1234-ABCD", "console=tty0", password.is_some(), old));
        is_read_by_grub(&text);
        assert!(
            text.contains("akene.mode=install panic=30 softlockup_panic=1 akene.disk console=tty0\n"),
            "{text}"
        );
        assert!(text.contains("akene.mode=help panic=30"), "{text}");
        assert_eq!(
            text.contains(
                "\tlinux /akene/old/vmlinuz root=UUID=12-AB ro panic=30 akene.back\n\tinitrd /akene/old/initrd.img\n"
            ),
            old.is_some()
        );
        // Nobody can choose it before its turn has come.
        let turn = text
            .contains("if [ \"${default}\" = akene-old ]; then\nmenuentry \"The system before this one\"");
        assert_eq!(turn, old.is_some(), "{text}");
        // Nobody is asked for a password where nobody chose.
        assert_eq!(text.contains("--unrestricted"), password.is_some());
    }
    is_read_by_grub(&unfinished("1234-ABCD", &["ttyS0,115200".into()]));
    is_read_by_grub(&returned("1234-ABCD", &["ttyS0,115200".into()], &old()));
}

#[test]
fn the_menu_of_a_system_that_was_given_back_asks_for_the_password_of_its_own() {
    let secret = Secret::new("grub.pbkdf2.sha512.10000.AB.CD");
    let own = guard("1234-ABCD", Some(&secret), None);
    assert_eq!(password_of(&own), Some(secret.clone()));
    assert_eq!(password_of(&guard("1234-ABCD", None, None)), None);
    assert_eq!(password_of("password_pbkdf2 admin x;halt\n"), None);
    let text = returned("1234-ABCD", &[], &Old { password: Some(secret.clone()), ..old() });
    is_read_by_grub(&text);
    assert_eq!(password_of(&text), Some(secret));
    let entries = text.lines().filter(|line| line.starts_with("menuentry "));
    assert_eq!(entries.filter(|line| line.contains("--unrestricted ")).count(), 2, "{text}");
    assert!(!returned("1234-ABCD", &[], &old()).contains("superusers"));
}

/// A menu falls back to the system it was made beside, and to no other whose files lie in the same place.
#[test]
fn a_menu_asks_for_the_old_system_it_was_made_for() {
    let old = old();
    let text = guard("1234-ABCD", None, Some(&old));
    assert!(text.contains("-f \"($akene)/akene/old/root-12-AB\""), "{text}");
    let begin = text.find("if [ ! -f").unwrap();
    let another = text[begin..].replace("($akene)/akene/old/root-12-AB", "/nowhere");
    assert_eq!(run_by_a_shell(&another, ("", "5"), false, true, true), says("0", "", "5"));
    assert_eq!(run_by_a_shell(&text[begin..], ("", "5"), false, true, true).0, "akene-old");
}

/// What GRUB would do with the environment, by a shell: the language of its scripts is the shell's where it matters here.
/// `kept`: a system was kept when the menu was made, and what starts it is there. Gives the entry and the counts after.
fn started(
    counts: (&str, &str),
    once: bool,
    installed: bool,
    kept: Option<bool>,
) -> (String, String, String) {
    let old = old();
    let text = guard("1234-ABCD", None, kept.map(|_| &old));
    let begin = text.find("if [ ! -f").unwrap();
    run_by_a_shell(&text[begin..], counts, once, installed, kept == Some(true))
}

fn run_by_a_shell(
    body: &str,
    (tries, back): (&str, &str),
    once: bool,
    installed: bool,
    kept: bool,
) -> (String, String, String) {
    let body = body.replace("set ", "").replace("($akene)/akene/state/installed", "$mark");
    let own = second_root::of_root(&old().root);
    let files = [START[0], START[1], &own];
    let body = files.iter().fold(body, |body, file| body.replace(&format!("($akene)/{file}"), "$kept"));
    let program = format!(
        "default=0; akene_tries={tries}; akene_back={back}; boot_once={once}; mark={}; kept={}\nsave_env() {{ :; }}\n\
         {body}echo \"$default,$akene_tries,$akene_back\"",
        if installed { "/" } else { "/etc/passwd" },
        if kept { "/etc/passwd" } else { "/" },
    );
    // `-f` of a file is true, of a directory not.
    let program = program.replace("[ ! -f \"$mark\" ]", "[ -f \"$mark\" ]");
    let said = SystemRunner.run(&Cmd::new("sh").args(["-c", &program])).unwrap().text();
    let words: Vec<String> = said.trim().split(',').map(str::to_owned).collect();
    <[String; 3]>::try_from(words).unwrap().into()
}

fn says(default: &str, tries: &str, back: &str) -> (String, String, String) {
    (default.to_owned(), tries.to_owned(), back.to_owned())
}

#[test]
fn a_system_that_does_not_come_up_lets_the_installer_have_every_other_start() {
    // The same where another system was kept once, and has been let go.
    for kept in [None, Some(false)] {
        let mut tries = STARTS.to_string();
        for left in (0..STARTS).rev() {
            let now = started((&tries, ""), false, true, kept);
            assert_eq!(now, says("0", &left.to_string(), ""));
            tries = now.1;
        }
        assert_eq!(started(("0", ""), false, true, kept), says("akene-help", "1", ""));
        assert_eq!(started(("1", ""), false, true, kept), says("0", "0", ""));
        // One that came up, one whose installer was ordered, one that is not complete.
        assert_eq!(started(("", ""), false, true, kept), says("0", "", ""));
        assert_eq!(started(("3", ""), true, true, kept), says("0", "3", ""));
        assert_eq!(started(("5", ""), false, false, kept), says("akene-reinstall", "5", ""));
    }
}

#[test]
fn a_system_that_does_not_confirm_itself_gives_way_to_the_one_before_it() {
    let kept = Some(true);
    let (mut tries, mut back) = (STARTS.to_string(), String::new());
    let mut defaults = Vec::new();
    for _ in 0..2 * STARTS + 3 {
        let (default, left, more) = started((&tries, &back), false, true, kept);
        defaults.push(default);
        (tries, back) = (left, more);
    }
    let all = |what: &str| vec![what.to_owned(); STARTS as usize];
    let expected =
        [all("0"), all("akene-old"), vec!["akene-help".into(), "akene-old".into(), "akene-old".into()]];
    assert_eq!(defaults, expected.concat());
    // One that came up, and knows nothing of a count but its own.
    assert_eq!(started(("", "3"), false, true, kept), says("akene-old", "", "2"));
    assert_eq!(started(("", ""), false, true, kept), says("0", "", ""));
    // The old system is gone meanwhile.
    assert_eq!(started(("0", "3"), false, true, Some(false)), says("akene-help", "1", "3"));
    assert_eq!(started(("0", ""), true, true, kept), says("0", "0", ""), "what was ordered comes first");
    assert_eq!(
        started(("0", ""), false, false, kept),
        says("akene-reinstall", "0", ""),
        "half an installation"
    );
}

#[test]
fn a_system_that_was_given_back_has_its_starts_counted_and_then_the_installer_calls_for_help() {
    let text = returned("1234-ABCD", &[], &old());
    is_read_by_grub(&text);
    assert!(text.contains("\nset fallback=akene-help\n") && text.contains("\n  load_env\n"), "{text}");
    let [first, second] = ["--id akene-old", "--id akene-help"].map(|id| text.find(id).unwrap());
    assert!(first < second && !text.contains("akene.mode=install"), "{text}");
    let body = &text[text.find("  set akene_turn").unwrap()..text.find("menuentry").unwrap()];
    let (mut back, mut defaults) = (STARTS.to_string(), Vec::new());
    for _ in 0..STARTS + 2 {
        let (default, _, next) = run_by_a_shell(body, ("", &back), false, true, true);
        defaults.push(default);
        back = next;
    }
    let old = vec!["akene-old".to_owned(); STARTS as usize];
    assert_eq!(defaults, [old, vec!["akene-help".into(), "akene-old".into()]].concat());
    // Without an environment it is the first entry.
    assert_eq!(run_by_a_shell(body, ("", ""), false, true, true).0, "0");
}

#[test]
fn a_menu_that_starts_a_kernel_without_modules_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("boot/grub")).unwrap();
    let menu = "menuentry x {\n\tlinux\t/vmlinuz-6.1 root=UUID=12-AB ro\n}\n";
    fs::write(dir.path().join("boot").join(WAITING), menu).unwrap();
    let partition = crate::storage::MountedPartition {
        role: Role::Root,
        device: "/dev/sda5".into(),
        disk: "/dev/sda".into(),
        number: 5,
        uuid: Some("12-AB".into()),
        partuuid: None,
        fstype: None,
        label: None,
        mount: Some("/".into()),
        kept: false,
    };
    let layout = Layout { root: dir.path().into(), partitions: vec![partition], disks: vec![] };
    let root = Root::open(dir.path()).unwrap();
    assert_eq!(check_menu(&layout, &root).unwrap(), "6.1");
    assert!(check_modules(&root, "6.1").unwrap_err().to_string().contains("no modules"));
    let modules = dir.path().join("usr/lib/modules/6.1");
    fs::create_dir_all(&modules).unwrap();
    symlink("usr/lib", dir.path().join("lib")).unwrap();
    assert!(check_modules(&root, "6.1").is_err(), "what is left of those that were removed");
    fs::write(modules.join("modules.dep"), "").unwrap();
    check_modules(&root, "6.1").unwrap();
    // Another system on this boot partition has a kernel of its own.
    let more = format!("{menu}{}", menu.replace("6.1", "6.0"));
    fs::write(dir.path().join("boot").join(WAITING), more).unwrap();
    assert_eq!(check_menu(&layout, &root).unwrap(), "6.1");
    for other in ["34-CD", "12-ABCD"] {
        fs::write(dir.path().join("boot").join(WAITING), menu.replace("12-AB", other)).unwrap();
        assert!(check_menu(&layout, &root).is_err(), "{other}");
    }
}

/// Whatever modules lie on the boot partition: they may be another GRUB's.
#[test]
fn a_core_image_knows_every_command_that_starts_something() {
    let Ok(list) = fs::read_to_string("/usr/lib/grub/i386-pc/command.lst") else {
        eprintln!("SKIPPED: there is no GRUB for a BIOS here");
        return;
    };
    let modules: std::collections::BTreeMap<&str, &str> =
        list.lines().filter_map(|line| line.trim_start_matches('*').split_once(": ")).collect();
    assert_eq!(modules.get("linux"), Some(&"linux"));
    let texts = [
        unfinished("1234-ABCD", &["ttyS0,115200".into()]),
        returned("1234-ABCD", &[], &old()),
        guard("1234-ABCD", None, Some(&old())),
        entries("1234-ABCD", "", false, Some(&old())),
    ];
    let text = texts.concat();
    let commands = text.split(['\n', ';']).filter_map(|line| line.trim().split(' ').next());
    let mut loaded: Vec<&str> = commands.filter_map(|command| modules.get(command).copied()).collect();
    loaded.push(modules["["]);
    loaded.retain(|module| !crate::target::bootloader::CORE_MODULES.contains(module));
    assert_eq!(loaded, Vec::<&str>::new());
}
