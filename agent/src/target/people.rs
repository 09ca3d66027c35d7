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
use akene_exec::{Cmd, ExecError, Runner};
use akene_protocol::check::is_account;
use akene_protocol::profile::User;
use akene_protocol::{Issue, Secret};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::users::{FIRST, accounts};
use super::{Job, Watch};

/// The last number of a person, see `LAST_UID` in `adduser.conf`.
const LAST: u32 = 59_999;

/// The day since 1970 that means never, to the programs that keep passwords.
const NEVER: u32 = 99_999;

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
                expires: field(7).and_then(|day| day.parse().ok()).filter(|day| *day < NEVER),
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

/// Gives people who have their files their accounts back. The profile's users are there already. The system that was there is
/// gone: an odd account costs nobody else theirs, and ends no installation.
pub(super) fn settle(job: &Job<'_>, root: &Root, watch: &mut dyn Watch) {
    let (people, users) = (job.people, &job.resolved.users);
    Settling { people, users, root, top: &job.layout.root, runner: job.runner }.all(watch);
}

/// The accounts' new system.
struct Settling<'a> {
    people: &'a People,
    users: &'a [User],
    root: &'a Root,
    top: &'a Path,
    runner: &'a dyn Runner,
}

impl Settling<'_> {
    fn all(&self, watch: &mut dyn Watch) {
        let mut given = 0;
        for person in &self.people.persons {
            match self.give(person, watch) {
                Ok(true) => given += 1,
                Ok(false) => {}
                Err(error) => {
                    watch.warn(failed(
                        person,
                        format!("the account `{}` is not given back", person.name),
                        &error,
                    ));
                }
            }
        }
        if given > 0 {
            watch.log(&format!("{given} people have their accounts back"));
        }
    }

    /// Whether somebody has their account back. The password comes last: what fails before leaves an account that none opens.
    fn give(&self, person: &Person, watch: &mut dyn Watch) -> Result<bool> {
        let name = &person.name;
        let home = self.root.open_file(&person.home)?.map(|dir| dir.metadata()).transpose();
        let home = home.with_context(|| format!("looking at {}", person.home))?;
        if home.is_none_or(|m| !m.is_dir() || m.uid() != person.uid) {
            watch.log(&format!("{name} has no files in {} any more, and no account", person.home));
            return Ok(false);
        }
        let (passwd, group) = (accounts(self.root, "etc/passwd")?, accounts(self.root, "etc/group")?);
        let own = match place(person, self.people, self.users, &passwd, &group) {
            Ok(own) => own,
            Err(issue) => {
                if differs(person, self.users, &passwd) {
                    watch.warn(issue);
                }
                return Ok(false);
            }
        };
        self.add(person, &own)?;
        let (Own::There(own) | Own::New(own, _)) = own;
        for group in person.groups.iter().filter(|group| **group != own) {
            match self.join(person, group) {
                Ok(true) => {}
                Ok(false) => watch.log(&format!("{name} is not put into the group {group} they were in")),
                Err(error) => {
                    let what = format!("{name} is not put into the group `{group}` they were in");
                    watch.warn(failed(person, what, &error));
                }
            }
        }
        self.run(&match person.password.expose() {
            "" => self.inside("passwd").args(["-q", "-d", name]),
            hash => self.inside("chpasswd").arg("-e").stdin(format!("{name}:{hash}\n")),
        })?;
        Ok(true)
    }

    fn add(&self, person: &Person, own: &Own) -> Result<()> {
        let own = match own {
            Own::There(group) => group,
            Own::New(group, gid) => {
                self.make(group, *gid)?;
                group
            }
        };
        let shell = Some(&person.shell).filter(|shell| shell.starts_with('/') && self.root.exists(shell));
        let uid = person.uid.to_string();
        let mut cmd = self.inside("useradd").args(["-M", "-d", &person.home, "-u", &uid, "-g", own]);
        cmd = cmd.args(["-s", shell.map_or("/bin/bash", String::as_str)]);
        if !person.realname.is_empty() && !person.realname.contains(char::is_control) {
            cmd = cmd.args(["-c", &person.realname]);
        }
        // With the account and not after it: keys in the home open it from the first moment.
        if let Some(day) = person.expires {
            cmd = cmd.args(["-e", &day.to_string()]);
        }
        self.run(&cmd.arg(&person.name))
    }

    /// Whether somebody is in a group they were in.
    fn join(&self, person: &Person, group: &str) -> Result<bool> {
        let text = accounts(self.root, "etc/group")?;
        let of_people = self.people.groups().find(|g| g.name == *group);
        let numbers: Vec<(&str, Option<u32>)> = text
            .lines()
            .map(|line| {
                (
                    line.split(':').next().unwrap_or_default(),
                    line.split(':').nth(2).and_then(|id| id.parse().ok()),
                )
            })
            .collect();
        let there = numbers.iter().find(|(n, _)| *n == group);
        let may = match (of_people, there) {
            (Some(old), Some((_, id))) => *id == Some(old.gid),
            (Some(old), None) if numbers.iter().all(|(_, id)| *id != Some(old.gid)) => {
                self.make(group, old.gid)?;
                true
            }
            (Some(_), None) => false,
            (None, there) => there.is_some() && HARMLESS.contains(&group),
        };
        if may {
            self.run(&self.inside("usermod").args(["-a", "-G", group, &person.name]))?;
        }
        Ok(may)
    }

    fn make(&self, group: &str, gid: u32) -> Result<()> {
        self.run(&self.inside("groupadd").args(["-g", &gid.to_string(), group]))
    }

    fn inside(&self, program: &str) -> Cmd {
        super::inside(self.top, program)
    }

    fn run(&self, cmd: &Cmd) -> Result<()> {
        self.runner.run(cmd).map(drop)
    }
}

/// What did not work for somebody, and what a person can do.
fn failed(person: &Person, what: String, error: &anyhow::Error) -> Issue {
    let why =
        error.downcast_ref::<ExecError>().map(|failure| failure.tail.trim()).filter(|said| !said.is_empty());
    Issue::new(
        "account-failed",
        "keep-accounts",
        format!("{what}: {}", why.map_or_else(|| format!("{error:#}"), str::to_owned)),
        format!(
            "the files in {} are as they were and belong to number {}; look at the account `{}` in the new system, and make or mend it \
             by hand",
            person.home, person.uid, person.name
        ),
    )
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

#[cfg(test)]
mod tests;
