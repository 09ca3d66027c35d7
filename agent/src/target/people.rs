//! The people whose files are kept, and their accounts.
//!
//! Where the profile says `keep-accounts`, what a system that is about to go knows of its people is read before it goes
//! ([`People::read`]), noted with what is needed to go on after a power cut, and given back in the new system when the
//! profile's own users are there ([`settle`]).
//!
//! An account is given back only to somebody who still has their files: a home that was kept and belongs to their number. It
//! brings password, number, own group and the groups of people it was in, and nothing that gives power over the computer: that is
//! the profile's word alone: of the system's groups it brings those of [`HARMLESS`], of people's own all but those of
//! [`POWERFUL`]. Accounts of the system are never among them. Where a name or a number is the
//! profile's or the new system's, that stays as it is, and the difference is said.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use akene_archive::Root;
use akene_protocol::check::is_account;
use akene_protocol::profile::User;
use akene_protocol::{Issue, Secret};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::users::{FIRST, accounts, refused};
use super::{Job, Watch};

/// The last number of a person, see `LAST_UID` in `adduser.conf`.
const LAST: u32 = 59_999;

/// A longer list is not one of a PC.
const LARGEST: u64 = 1 << 20;

/// Groups of a system that let a person use what is in front of them, and nothing else.
const HARMLESS: [&str; 16] = [
    "audio",
    "bluetooth",
    "cdrom",
    "dialout",
    "dip",
    "fax",
    "floppy",
    "games",
    "lpadmin",
    "netdev",
    "plugdev",
    "render",
    "scanner",
    "tape",
    "users",
    "video",
];

/// Names of groups that give power over a computer, whatever their number: by the rules of sudo and polkit (`%admin`, `%sudo`), by
/// the files that are theirs, or by what a program of that name lets its group do, which may be installed at any later time.
/// `input` reads every key that is pressed.
const POWERFUL: [&str; 27] = [
    "adm",
    "admin",
    "disk",
    "docker",
    "incus",
    "incus-admin",
    "input",
    "kmem",
    "kvm",
    "libvirt",
    "libvirt-qemu",
    "libvirtd",
    "lxd",
    "operator",
    "podman",
    "root",
    "sambashare",
    "shadow",
    "ssl-cert",
    "staff",
    "sudo",
    "systemd-journal",
    "tty",
    "uinput",
    "vboxusers",
    "wheel",
    "wireshark",
];

/// What a system knows of its people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct People {
    persons: Vec<Person>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Person {
    name: String,
    uid: u32,
    gid: u32,
    realname: String,
    home: String,
    shell: String,
    /// The second field of `/etc/shadow`, whatever it says.
    password: Secret,
    /// The day since 1970 from which on the account is closed.
    expires: Option<u32>,
    /// Names of the groups it is in besides its own.
    groups: Vec<String>,
}

/// A group of people: its number is one of theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Group {
    name: String,
    gid: u32,
}

impl People {
    /// Reads what the system at `top` knows.
    ///
    /// # Errors
    /// Its lists are missing, or cannot be read.
    pub fn read(top: &Path) -> Result<Self> {
        // Nothing is written there any more: what is looked at is what is read.
        let dir = [top.join("etc"), top.join("@/etc")].into_iter().find(|etc| etc.join("passwd").is_file());
        let dir = dir.context("looking for the list of accounts")?;
        let read = |name: &str| -> Result<String> {
            let path = dir.join(name);
            let meta = path.symlink_metadata().with_context(|| format!("looking at {}", path.display()))?;
            let plain = meta.is_file() && meta.len() <= LARGEST;
            let own = dir.symlink_metadata().is_ok_and(|m| m.is_dir());
            ensure!(plain && own, "{} is no list of accounts", path.display());
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        Ok(People::parse(&read("passwd")?, &read("group")?, &read("shadow")?))
    }

    /// From the three lists. Lines that are odd are passed over.
    fn parse(passwd: &str, group: &str, shadow: &str) -> Self {
        let person = |id: &u32| (FIRST..=LAST).contains(id);
        let lists: Vec<(&str, u32, Vec<&str>)> = group
            .lines()
            .filter_map(|line| match line.split(':').collect::<Vec<_>>()[..] {
                [name, _, gid, members] if is_account(name) => {
                    Some((name, gid.parse().ok()?, members.split(',').collect()))
                }
                _ => None,
            })
            .collect();
        let mut persons: Vec<Person> = Vec::new();
        for line in passwd.lines() {
            let [name, _, uid, gid, about, home, shell] = line.split(':').collect::<Vec<_>>()[..] else {
                continue;
            };
            let (Ok(uid), Ok(gid)) = (uid.parse::<u32>(), gid.parse::<u32>()) else { continue };
            let known = persons.iter().any(|p| p.name == name || p.uid == uid);
            if known || !is_account(name) || !person(&uid) || !is_home(home) {
                continue;
            }
            let secret = shadow.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|l| l[0] == name);
            let field = |n: usize| secret.as_ref().and_then(|fields| fields.get(n).copied());
            let own = lists.iter().filter(|(_, id, _)| *id == gid && !person(&gid)).map(|(name, ..)| *name);
            let others =
                lists.iter().filter(|(_, _, members)| members.contains(&name)).map(|(name, ..)| *name);
            persons.push(Person {
                name: name.to_owned(),
                uid,
                gid,
                realname: about.split(',').next().unwrap_or_default().to_owned(),
                home: home.to_owned(),
                shell: shell.to_owned(),
                password: Secret::new(field(1).filter(|text| is_password(text)).unwrap_or("!")),
                expires: field(7).and_then(|day| day.parse().ok()),
                groups: own.chain(others).map(str::to_owned).collect(),
            });
        }
        let of_people = |(name, gid, _): &&(&str, u32, Vec<&str>)| {
            person(gid) && persons.iter().any(|p| p.gid == *gid || p.groups.iter().any(|g| g == name))
        };
        let groups =
            lists.iter().filter(of_people).map(|(name, gid, _)| Group { name: (*name).into(), gid: *gid });
        People { groups: groups.collect(), persons }
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.persons.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.persons.len()
    }

    /// What must not be shown.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.persons.iter().map(|p| &p.password)
    }

    /// Groups that may be given back.
    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| !is_powerful(&group.name))
    }

    /// Numbers that are somebody's.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        let own = self.persons.iter().flat_map(|p| [p.uid, p.gid]);
        own.chain(self.groups.iter().map(|g| g.gid)).filter(|id| *id >= FIRST)
    }
}

fn is_powerful(group: &str) -> bool {
    POWERFUL.contains(&group)
}

/// A directory below `/home`.
fn is_home(path: &str) -> bool {
    let plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
    path.strip_prefix("/home/").is_some_and(|rest| rest.split('/').all(plain))
}

/// What may stand in `/etc/shadow`, and in a line for `chpasswd`.
fn is_password(text: &str) -> bool {
    text.len() <= 512 && text.chars().all(|c| c.is_ascii_graphic() && c != ':')
}

/// The group somebody's files belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Own {
    /// One that is there.
    There(String),
    /// One to be made.
    New(String, u32),
}

/// What becomes of a person, given the lists of the new system.
fn place(person: &Person, people: &People, users: &[User], passwd: &str, group: &str) -> Result<Own, Issue> {
    let taken = |message: String| {
        Issue::new(
            "account-taken",
            "keep-accounts",
            message,
            format!(
                "the files in {} are as they were and belong to number {}; give them to the account by hand, or change the profile \
                 and install again",
                person.home, person.uid
            ),
        )
    };
    let name = &person.name;
    if let Some(user) = users.iter().find(|user| user.name == *name) {
        return Err(taken(format!(
            "the account `{name}` is the profile's, which decides its {}; the one that was found is not taken over",
            if user.password.is_some() { "password" } else { "keys" }
        )));
    }
    let numbered = |list: &str| -> Vec<(String, u32)> {
        let fields = list.lines().filter_map(|line| {
            let mut parts = line.split(':');
            Some((parts.next()?.to_owned(), parts.nth(1)?.parse().ok()?))
        });
        fields.collect()
    };
    if let Some((other, id)) = numbered(passwd).into_iter().find(|(n, id)| n == name || *id == person.uid) {
        return Err(taken(format!(
            "the account `{name}` (number {}) is not taken over: the new system has `{other}` with number {id}",
            person.uid
        )));
    }
    // Whose own group is not given back gets one with their name and number.
    let own = people.groups().find(|g| g.gid == person.gid);
    let (own, gid) = own.map_or((name, person.uid), |g| (&g.name, g.gid));
    if is_powerful(own) {
        return Err(taken(format!(
            "the account `{name}` is not taken over: a group `{own}` may have power over the computer, which only the profile gives"
        )));
    }
    let there = numbered(group).into_iter().find(|(n, id)| n == own || *id == gid);
    match there {
        None => Ok(Own::New(own.clone(), gid)),
        Some((n, id)) if n == *own && id == gid => Ok(Own::There(n)),
        Some((other, id)) => Err(taken(format!(
            "the account `{name}` is not taken over: its group `{own}` has the number {gid}, and the new system has `{other}` with {id}"
        ))),
    }
}

/// Gives people who have their files their accounts back. The profile's users are there already.
pub(super) fn settle(job: &Job<'_>, root: &Root, watch: &mut dyn Watch) -> Result<()> {
    let mut passwords = String::new();
    let mut given = 0;
    for person in &job.people.persons {
        let name = &person.name;
        let home = root.open_file(&person.home)?.map(|dir| dir.metadata()).transpose();
        let home = home.with_context(|| format!("looking at {}", person.home))?;
        if home.is_none_or(|m| !m.is_dir() || m.uid() != person.uid) {
            watch.log(&format!("{name} has no files in {} any more, and no account", person.home));
            continue;
        }
        let (passwd, group) = (accounts(root, "etc/passwd")?, accounts(root, "etc/group")?);
        let own = match place(person, job.people, &job.resolved.users, &passwd, &group) {
            Ok(own) => own,
            Err(issue) => {
                if differs(person, &job.resolved.users, &passwd) {
                    watch.warn(issue);
                }
                continue;
            }
        };
        add(job, root, person, own, watch).map_err(|error| refused(name, error))?;
        match person.password.expose() {
            "" => drop(job.run(&job.inside("passwd").args(["-q", "-d", name]))?),
            hash => passwords += &format!("{name}:{hash}\n"),
        }
        given += 1;
    }
    if !passwords.is_empty() {
        job.run(&job.inside("chpasswd").arg("-e").stdin(passwords))
            .context("setting the passwords of people found")?;
    }
    if given > 0 {
        watch.log(&format!("{given} people have their accounts back"));
    }
    Ok(())
}

/// Whether somebody notices that theirs is not taken over: every reinstallation finds the profile's own users.
fn differs(person: &Person, users: &[User], passwd: &str) -> bool {
    let Some(user) = users.iter().find(|user| user.name == person.name) else { return true };
    let line = passwd.lines().find(|line| line.split(':').next() == Some(&person.name));
    let uid = line.and_then(|line| line.split(':').nth(2)?.parse::<u32>().ok());
    let closed = |text: &str| text.is_empty() || text.starts_with(['!', '*']);
    let password = user.password.as_ref().map_or("!", Secret::expose);
    let old = person.password.expose();
    uid != Some(person.uid) || (password != old && !(closed(password) && closed(old)))
}

fn add(job: &Job<'_>, root: &Root, person: &Person, own: Own, watch: &mut dyn Watch) -> Result<()> {
    let name = &person.name;
    let make = |group: &str, gid: u32| job.run(&job.inside("groupadd").args(["-g", &gid.to_string(), group]));
    let own = match own {
        Own::There(group) => group,
        Own::New(group, gid) => {
            make(&group, gid)?;
            group
        }
    };
    let shell = Some(&person.shell).filter(|shell| shell.starts_with('/') && root.exists(shell));
    let mut cmd =
        job.inside("useradd").args(["-M", "-d", &person.home, "-u", &person.uid.to_string(), "-g", &own]);
    cmd = cmd.args(["-s", shell.map_or("/bin/bash", String::as_str)]);
    if !person.realname.is_empty() && !person.realname.contains(char::is_control) {
        cmd = cmd.args(["-c", &person.realname]);
    }
    job.run(&cmd.arg(name))?;
    if let Some(day) = person.expires {
        job.run(&job.inside("chage").args(["-E", &day.to_string(), name]))?;
    }
    for group in person.groups.iter().filter(|group| **group != own) {
        let text = accounts(root, "etc/group")?;
        let of_people = job.people.groups().find(|g| g.name == *group);
        let numbers: Vec<(&str, Option<u32>)> = text
            .lines()
            .map(|line| {
                (
                    line.split(':').next().unwrap_or_default(),
                    line.split(':').nth(2).and_then(|id| id.parse().ok()),
                )
            })
            .collect();
        let there = numbers.iter().find(|(n, _)| n == group);
        let may = match (of_people, there) {
            (Some(old), Some((_, id))) => *id == Some(old.gid),
            (Some(old), None) if numbers.iter().all(|(_, id)| *id != Some(old.gid)) => {
                make(group, old.gid)?;
                true
            }
            (Some(_), None) => false,
            (None, there) => there.is_some() && HARMLESS.contains(&group.as_str()),
        };
        match may {
            true => drop(job.run(&job.inside("usermod").args(["-a", "-G", group, name]))?),
            false => watch.log(&format!("{name} is not put into the group {group} they were in")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
}
