//! Who gets an account back, and what as.

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
    daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    ana:x:1000:1000:Ana Mar\u{ed}a,,,:/home/ana:/bin/zsh\n\
    bo:x:1001:100::/home/bo:/bin/bash\n\
    far:x:1002:1002::/srv/far:/bin/bash\n\
    up:x:1003:1003::/home/../etc:/bin/bash\n\
    Big:x:1004:1004::/home/Big:/bin/bash\n\
    twice:x:1000:1000::/home/twice:/bin/bash\n\
    half:x:1005\n\
    nobody:x:65534:65534::/home/nobody:/usr/sbin/nologin\n\
    srv:x:998:998::/home/srv:/bin/bash\n";
const GROUP: &str = "root:x:0:\nsudo:x:27:ana\naudio:x:29:ana,bo\nusers:x:100:\nana:x:1000:\nfamily:x:1500:ana,bo\n\
    work:x:1501:srv\nnogroup:x:65534:\n";
const SHADOW: &str =
    "root:$y$root:1:0:99999:7:::\nana:$6$salt$hash:1:0:99999:7::19000:\nbo::1:0:99999:7:::\n";

fn people() -> People {
    People::parse(PASSWD, GROUP, SHADOW)
}

#[test]
fn people_are_those_with_a_number_of_theirs_and_a_home() {
    let people = people();
    let names: Vec<_> = people.persons.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["ana", "bo"]);
    let [ana, bo] = &people.persons[..] else { panic!() };
    assert_eq!((ana.uid, ana.gid, ana.realname.as_str()), (1000, 1000, "Ana María"));
    assert_eq!((ana.password.expose(), ana.expires), ("$6$salt$hash", Some(19000)));
    assert_eq!(ana.groups, ["sudo", "audio", "family"]);
    assert_eq!((bo.password.expose(), bo.expires), ("", None));
    assert_eq!(bo.groups, ["users", "audio", "family"]);
    let groups: Vec<_> = people.groups.iter().map(|g| (g.name.as_str(), g.gid)).collect();
    assert_eq!(groups, [("ana", 1000), ("family", 1500)]);
    assert!(!format!("{people:?}").contains("hash"), "a hash is shown");
    let text = serde_json::to_string(&people).unwrap();
    assert_eq!(serde_json::from_str::<People>(&text).unwrap(), people);
    // Somebody without a line has no password that opens anything.
    assert_eq!(People::parse(PASSWD, "", "").persons[0].password.expose(), "!");
    assert_eq!(People::parse(PASSWD, "", "ana:a b:\n").persons[0].password.expose(), "!");
    for odd in ["", ":::", "::::::", "\u{0}", "ana:x:99999999999:1::/home/ana:/bin/sh"] {
        assert!(People::parse(odd, odd, odd).is_empty(), "{odd:?}");
    }
}

#[test]
fn names_and_numbers_of_the_new_system_stay_its_own() {
    let people = people();
    let [ana, bo] = &people.persons[..] else { panic!() };
    let code = |person, users: &[User], passwd, group| {
        place(person, &people, users, passwd, group).map_err(|issue| issue.code)
    };
    let taken = || Err("account-taken".to_owned());
    let root = ("root:x:0:0::/root:/bin/sh\n", "root:x:0:\nusers:x:100:\n");
    assert_eq!(code(ana, &[], root.0, root.1), Ok(Own::New("ana".into(), 1000)));
    // Whose own group was one of the system gets one with their number.
    assert_eq!(code(bo, &[], root.0, root.1), Ok(Own::New("bo".into(), 1001)));
    assert_eq!(code(ana, &[], root.0, "ana:x:1000:\n"), Ok(Own::There("ana".into())));
    assert_eq!(code(ana, &[], "desk:x:1000:1000::/home/desk:/bin/sh\n", root.1), taken());
    assert_eq!(code(ana, &[], "ana:x:999:999::/var/ana:/bin/sh\n", root.1), taken());
    assert_eq!(code(ana, &[], root.0, "desk:x:1000:\n"), taken());
    assert_eq!(code(ana, &[], root.0, "ana:x:1001:\n"), taken());
    let user = |password: Option<&str>| User {
        name: "ana".into(),
        realname: None,
        password: password.map(Secret::new),
        groups: vec![],
        sudo: false,
        shell: None,
        uid: None,
        authorized_keys: vec![],
    };
    assert_eq!(code(ana, &[user(None)], root.0, root.1), taken());
    // Said where it makes a difference only: every reinstallation finds the profile's own.
    let same = "ana:x:1000:1000::/home/ana:/bin/sh\n";
    assert!(!differs(ana, &[user(Some("$6$salt$hash"))], same));
    assert!(differs(ana, &[user(Some("$6$salt$other"))], same) && differs(ana, &[user(None)], same));
    assert!(differs(ana, &[user(Some("$6$salt$hash"))], "ana:x:1007:1007::/home/ana:/bin/sh\n"));
    assert!(differs(ana, &[], same));
}

#[test]
fn no_name_of_a_group_gives_power() {
    let passwd = "ana:x:1000:1500::/home/ana:/bin/sh\nwheel:x:1001:1501::/home/wheel:/bin/sh\n\
        docker:x:1002:1002::/home/docker:/bin/sh\nsudo:x:1003:100::/home/sudo:/bin/sh\n";
    let group = "admin:x:1500:ana\nfamily:x:1501:ana\ndocker:x:1002:ana\nusers:x:100:\n";
    let people = People::parse(passwd, group, "");
    let of = |n: usize, group| place(&people.persons[n], &people, &[], "", group).map_err(|i| i.code);
    // Whoever shared such a group gets their own, also where the profile made one of that name and number.
    let own = Ok(Own::New("ana".into(), 1000));
    assert_eq!((of(0, ""), of(0, "admin:x:1500:\n")), (own.clone(), own));
    // A name alone is none: there are people called so.
    assert_eq!(of(1, ""), Ok(Own::New("family".into(), 1501)));
    let taken = || Err("account-taken".to_owned());
    assert_eq!((of(2, ""), of(2, "docker:x:1002:\n"), of(3, "")), (taken(), taken(), taken()));
    assert_eq!(people.groups().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["family"]);
    assert!(!HARMLESS.iter().any(|group| is_powerful(group)));
    // The numbers stay taken: files belong to them.
    assert!([1500, 1501, 1002].iter().all(|id| people.numbers().any(|n| n == *id)));
}

/// Notes what is run; what contains its word fails. `groupadd` works.
struct Odd<'a>(&'a Path, &'a str, std::sync::Mutex<Vec<String>>);

impl Runner for Odd<'_> {
    fn run_lines(&self, cmd: &Cmd, _: &mut dyn FnMut(&str)) -> Result<akene_exec::Output> {
        let argv = cmd.argv();
        let input = String::from_utf8_lossy(cmd.input().unwrap_or_default()).into_owned();
        let line = format!("{} {input}", argv.join(" ")).trim().to_owned();
        ensure!(!line.contains(self.1), "refusing");
        if let [program, _, gid, group] = &argv[..]
            && program == "groupadd"
        {
            let list = self.0.join("etc/group");
            fs::write(&list, fs::read_to_string(&list)? + &format!("{group}:x:{gid}:\n"))?;
        }
        self.2.lock().unwrap().push(line);
        Ok(akene_exec::Output::default())
    }
}

#[derive(Default)]
struct Said(Vec<Issue>);

impl Watch for Said {
    fn progress(&mut self, _: super::super::Progress) {}
    fn log(&mut self, _: &str) {}
    fn warn(&mut self, issue: Issue) {
        self.0.push(issue);
    }
}

#[test]
fn one_odd_account_costs_nobody_else_theirs() {
    let top = tempfile::tempdir().unwrap();
    for dir in ["etc", "home/ana", "home/bo"] {
        fs::create_dir_all(top.path().join(dir)).unwrap();
    }
    let mut people = people();
    for person in &mut people.persons {
        // The homes are ours.
        person.uid = nix::unistd::geteuid().as_raw();
    }
    people.persons[1].gid = 1001;
    people.persons[1].password = Secret::new("$6$bo");
    let settled = |odd| {
        fs::write(top.path().join("etc/group"), "audio:x:29:\n").unwrap();
        let (root, mut said) = (Root::open(top.path()).unwrap(), Said::default());
        let runner = Odd(top.path(), odd, Default::default());
        Settling { people: &people, users: &[], root: &root, top: top.path(), runner: &runner }
            .all(&mut said);
        let ran = runner.2.into_inner().unwrap();
        let ran = move |part: &str| ran.iter().any(|line| line.contains(part));
        (ran, said.0)
    };
    let bo = |ran: &dyn Fn(&str) -> bool| ran("chpasswd -e bo:$6$bo") && ran("usermod -a -G family bo");
    let (ran, said) = settled("nothing");
    assert!(said.is_empty(), "{said:?}");
    assert!(ran("chpasswd -e ana:$6$salt$hash") && bo(&ran));
    assert!(ran("-e 19000 ana"), "an account that is closed is so from the first moment");
    // Before the account is there, and its password.
    for odd in ["groupadd -g 1000", "/home/ana", "ana:$6"] {
        let (ran, said) = settled(odd);
        assert!(bo(&ran) && !ran("ana:$6"), "{odd}");
        let [issue] = &said[..] else { panic!("{odd}: {said:?}") };
        assert_eq!(issue.code, "account-failed");
        assert!(issue.message.contains("`ana`") && issue.next.contains("/home/ana"), "{issue}");
    }
    // Who misses a group still gets in.
    let (ran, said) = settled("audio ana");
    assert!(ran("chpasswd -e ana:") && ran("usermod -a -G family ana") && bo(&ran));
    assert_eq!(said.iter().map(|issue| issue.code.as_str()).collect::<Vec<_>>(), ["account-failed"]);
    // A day beyond every calendar is none.
    let expires =
        |day: &str| People::parse(PASSWD, GROUP, &format!("ana:!::::::{day}:\n")).persons[0].expires;
    assert_eq!(["99998", "99999", "4294967295", "-1"].map(expires), [Some(99_998), None, None, None]);
}

#[test]
fn lists_are_read_where_they_are_plain_files_and_nowhere_else() {
    let top = tempfile::tempdir().unwrap();
    assert!(People::read(top.path()).is_err());
    for etc in ["@/etc", "etc"] {
        let dir = top.path().join(etc);
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in [("passwd", PASSWD), ("group", GROUP), ("shadow", SHADOW)] {
            fs::write(dir.join(name), text).unwrap();
        }
        assert_eq!(People::read(top.path()).unwrap(), people());
    }
    fs::remove_file(top.path().join("etc/shadow")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", top.path().join("etc/shadow")).unwrap();
    assert!(People::read(top.path()).is_err());
}
