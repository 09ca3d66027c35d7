//! People: accounts, keys, and what may open them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use akene_archive::Root;
use akene_exec::ExecError;
use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::profile::User;
use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::{Job, Watch, people};

/// Makes the accounts of the profile, and says what opens them.
pub(super) fn settle(job: &Job<'_>, root: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    let mut passwords = String::new();
    let mut taken = owners(root).context("looking who the files in /home belong to")?;
    taken.extend(job.resolved.users.iter().filter_map(|u| u.uid));
    taken.extend(job.people.numbers());
    for user in &job.resolved.users {
        add(job, root, user, &taken, watch).map_err(|error| refused(&user.name, error))?;
        if let Some(password) = &user.password {
            passwords += &format!("{}:{}\n", user.name, password.expose());
        }
        if !user.authorized_keys.is_empty() {
            authorize(job, user).with_context(|| format!("writing the SSH keys of {}", user.name))?;
        }
        if user.sudo && user.password.is_none() {
            // Nobody could answer sudo's question: the account has no password. The key is what counts then.
            let text = format!("{} ALL=(ALL) NOPASSWD: ALL\n", user.name);
            root.write(&format!("etc/sudoers.d/90-akene-{}", user.name), text, 0o440)?;
        }
    }
    if !passwords.is_empty() {
        // On standard input: arguments can be seen by everybody and are shown in errors.
        job.run(&job.inside("chpasswd").arg("-e").stdin(passwords)).context("setting passwords")?;
    }
    people::settle(job, root, watch);
    if !job.resolved.root_keys.is_empty() {
        root.make_dir("root/.ssh", 0o700)?;
        root.write("root/.ssh/authorized_keys", lines(&job.resolved.root_keys), 0o600)?;
    }
    if job.has_package("openssh-server") {
        let passwords = if job.resolved.ssh_passwords { "yes" } else { "no" };
        let text = format!("PasswordAuthentication {passwords}\nPermitRootLogin prohibit-password\n");
        root.write("etc/ssh/sshd_config.d/10-akene.conf", text, 0o644)?;
    }
    Ok(())
}

/// Numbers of the people whose files lie in a `/home` that was kept.
fn owners(root: &Root) -> Result<BTreeSet<u32>> {
    let Some(home) = root.open_file("/home")? else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for entry in Dir::from_fd(home.try_clone()?.into())?.iter() {
        let entry = entry?;
        // Not opened: it may be anything.
        let about = fstatat(&home, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        found.extend([about.st_uid, about.st_gid].into_iter().filter(|id| *id >= FIRST));
    }
    Ok(found)
}

/// `etc/passwd` or `etc/group`. A system without one has no accounts.
pub(super) fn accounts(root: &Root, list: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&root.read(list)?.unwrap_or_default()).into_owned())
}

/// The first number of a person's account.
pub(super) const FIRST: u32 = 1000;

/// The number of a new account: one that neither an account or group has nor files in a kept `/home`, which would
/// be the newcomer's then. `None`: there are no such files, and the system chooses.
fn newcomer(root: &Root, taken: &BTreeSet<u32>) -> Result<Option<u32>> {
    if taken.is_empty() {
        return Ok(None);
    }
    let mut taken = taken.clone();
    for list in ["etc/passwd", "etc/group"] {
        taken.extend(accounts(root, list)?.lines().filter_map(|l| l.split(':').nth(2)?.parse::<u32>().ok()));
    }
    Ok((FIRST..).find(|id| !taken.contains(id)))
}

fn add(job: &Job<'_>, root: &Root, user: &User, taken: &BTreeSet<u32>, watch: &mut dyn Watch) -> Result<()> {
    let name = &user.name;
    let home = format!("/home/{name}");
    let kept = root.open_file(&home)?.map(|dir| dir.metadata()).transpose().context("looking at the home")?;
    // Files found in a kept home belong to a number: the account gets it again.
    let kept = kept.filter(|m| m.is_dir() && m.uid() >= FIRST);
    let new = if user.uid.is_none() && kept.is_none() { newcomer(root, taken)? } else { None };
    let uid = user.uid.or(kept.as_ref().map(|m| m.uid())).or(new);
    let gid = kept.as_ref().filter(|m| user.uid.is_none_or(|u| u == m.uid())).map(|m| m.gid()).or(new);

    let group = job.inside("groupadd").args(gid.iter().flat_map(|g| ["-g".to_owned(), g.to_string()]));
    let exists = |list: &str, name: &str| -> Result<bool> {
        Ok(accounts(root, list)?.lines().any(|l| l.split(':').next() == Some(name)))
    };
    if !exists("etc/group", name)? {
        job.run(&group.arg(name))?;
    }
    if exists("etc/passwd", name)? {
        watch.log(&format!("the account {name} is there already"));
    } else {
        let mut cmd = job.inside("useradd").args(["-m", "-d", &home, "-g", name]);
        cmd = cmd.args(["-s", user.shell.as_deref().unwrap_or("/bin/bash")]);
        if let Some(uid) = uid {
            cmd = cmd.args(["-u", &uid.to_string()]);
        }
        if let Some(realname) = &user.realname {
            cmd = cmd.args(["-c", realname]);
        }
        job.run(&cmd.arg(name))?;
    }
    let mut groups: Vec<&str> = user.groups.iter().map(String::as_str).collect();
    if user.sudo {
        groups.push("sudo");
    }
    for group in groups {
        if exists("etc/group", group)? {
            job.run(&job.inside("usermod").args(["-a", "-G", group, name]))?;
        } else {
            watch.warn(Issue::new(
                "group-missing",
                format!("users.{name}.groups"),
                format!("there is no group `{group}` in the installed system; {name} is not in it"),
                "install the package that makes the group, or take it out of the profile",
            ));
        }
    }
    Ok(())
}

/// Adds keys that are not there yet, as the user: a home that was kept may hold links to anywhere, and
/// whatever they lead to, it is written with the rights of the one who made them.
fn authorize(job: &Job<'_>, user: &User) -> Result<()> {
    let script = "umask 077; cd ~ && mkdir -p .ssh && touch .ssh/authorized_keys && while IFS= read -r key; do \
                  grep -qxF -- \"$key\" .ssh/authorized_keys || printf '%s\\n' \"$key\" >> .ssh/authorized_keys || exit 1; done";
    let cmd = job
        .inside("runuser")
        .args(["-u", &user.name, "--", "sh", "-c", script])
        .env("HOME", format!("/home/{}", user.name))
        .stdin(lines(&user.authorized_keys));
    job.run(&cmd).map(drop)
}

fn lines(keys: &[String]) -> String {
    keys.iter().map(|k| format!("{}\n", k.trim())).collect()
}

fn refused(name: &str, error: anyhow::Error) -> anyhow::Error {
    let Some(failure) = error.downcast_ref::<ExecError>() else { return error };
    let message = format!("the account `{name}` cannot be made: {}", failure.tail);
    Issues::from(Issue::new("user-failed", "users", message, "correct the account in the profile")).into()
}
