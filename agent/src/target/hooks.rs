//! The profile's own files and scripts.

use akene_archive::Root;
use akene_exec::{ChrootMounts, ExecError};
use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::profile::Script;
use anyhow::{Context, Result};
use base64::Engine as _;

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Job, Watch};

/// A script that takes longer than this hangs.
const SCRIPT_LIMIT: Duration = Duration::from_secs(3600);

/// Writes the profile's files.
pub(super) fn files(job: &Job<'_>, root: &mut Root, _: &mut dyn Watch) -> Result<()> {
    for file in &job.resolved.files {
        let content = match (&file.content, &file.base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(code)) => {
                let plain: String = code.split_whitespace().collect();
                let decoded = base64::engine::general_purpose::STANDARD.decode(plain);
                decoded.with_context(|| format!("reading the base64 of the profile's file {}", file.path))?
            }
            (None, None) => Vec::new(),
        };
        let mode = file.mode.as_deref().unwrap_or("0644");
        let mode = u32::from_str_radix(mode, 8)
            .with_context(|| format!("reading the mode `{mode}` of the profile's file {}", file.path))?;
        root.write(&file.path, content, mode)?;
        if let Some(owner) = &file.owner {
            job.run(&job.inside("chown").args(["--no-dereference", owner, &file.path]))
                .with_context(|| format!("giving {} to {owner}", file.path))?;
            // Changing the owner takes away the setuid bit.
            job.run(&job.inside("chmod").args([&format!("{mode:o}"), &file.path]))
                .with_context(|| format!("setting the mode of {}", file.path))?;
        }
    }
    Ok(())
}

/// Runs the profile's scripts inside the new system, in order.
pub(super) fn scripts(job: &Job<'_>, root: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    let scripts = &job.resolved.late_commands;
    if scripts.is_empty() {
        return Ok(());
    }
    let dir = job.scratch("scripts");
    let systemd = job.scratch("systemd");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    fs::create_dir_all(systemd.join("resolve")).with_context(|| format!("making {}", systemd.display()))?;
    let mounts =
        ChrootMounts::new(&job.layout.root).bind(&dir, "/run/akene-scripts").bind(&systemd, "/run/systemd");
    let lent = Lent::names(root, &job.layout.root, &systemd, Path::new("/etc/resolv.conf"))?;
    let ran = run_all(job, scripts, &dir, &mounts, watch);
    if let Some(lent) = lent {
        lent.take_back(root)?;
    }
    ran
}

/// Settings of the resolver, below the root.
const RESOLV: &str = "etc/resolv.conf";

/// A `resolv.conf` lent to the new system for as long as its scripts run.
struct Lent {
    text: Vec<u8>,
    before: Option<Vec<u8>>,
}

impl Lent {
    /// Lets scripts look names up. Nothing that would do it in the installed system runs yet, so the name
    /// servers of the installation (`from`) are shown where a link to the resolver's file leads, below `systemd`;
    /// where there is no `resolv.conf`, because NetworkManager writes it when it comes up, or one without a
    /// server, one is lent.
    fn names(root: &mut Root, top: &Path, systemd: &Path, from: &Path) -> Result<Option<Lent>> {
        // A machine without name servers has none to lend.
        let Ok(names) = fs::read(from) else { return Ok(None) };
        for name in ["stub-resolv.conf", "resolv.conf"] {
            let path = systemd.join("resolve").join(name);
            fs::write(&path, &names).with_context(|| format!("writing {}", path.display()))?;
        }
        if top.join(RESOLV).is_symlink() {
            return Ok(None);
        }
        let before = root.read(RESOLV)?;
        if before.as_ref().is_some_and(|text| String::from_utf8_lossy(text).contains("nameserver")) {
            return Ok(None);
        }
        let text = [b"# Lent by the installer for its scripts.\n", names.as_slice()].concat();
        root.write(RESOLV, text.clone(), 0o644)?;
        Ok(Some(Lent { text, before }))
    }

    /// Takes it back, unless a script wrote one of its own, which then is the profile's will.
    fn take_back(self, root: &mut Root) -> Result<()> {
        match self.before {
            _ if root.read(RESOLV)? != Some(self.text) => Ok(()),
            None => root.remove(RESOLV),
            Some(before) => root.write(RESOLV, before, 0o644),
        }
    }
}

fn run_all(
    job: &Job<'_>,
    scripts: &[Script],
    dir: &Path,
    mounts: &ChrootMounts,
    watch: &mut dyn Watch,
) -> Result<()> {
    let mut ours = Root::open(dir)?;
    for (number, script) in scripts.iter().enumerate() {
        let (name, cmd) = match script {
            Script::Line(line) => {
                (line.lines().next().unwrap_or("").to_owned(), job.inside("sh").args(["-c", line]))
            }
            Script::Named { name, script } => {
                let file = format!("{number:02}");
                ours.write(&file, script, 0o700)?;
                (name.clone(), job.inside(&format!("/run/akene-scripts/{file}")))
            }
        };
        watch.log(&format!("running the script `{name}`"));
        let cmd = cmd.chroot(mounts.clone()).timeout(SCRIPT_LIMIT);
        let ran = job.runner.run_lines(&cmd, &mut |line| watch.log(line));
        ran.map_err(|error| {
            let said = error
                .downcast_ref::<ExecError>()
                .map_or_else(|| format!("{error:#}"), |e| format!("{}: {}", e.how, e.tail));
            Issues::from(Issue::new(
                "script-failed",
                format!("late-commands[{number}]"),
                format!("the script `{name}` failed: {said}"),
                "correct the script in the profile; it runs inside the installed system, as root",
            ))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_have_name_servers_and_the_system_keeps_none_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (top, systemd, from) =
            (dir.path().join("root"), dir.path().join("systemd"), dir.path().join("resolv.conf"));
        fs::create_dir_all(top.join("etc")).unwrap();
        fs::create_dir_all(systemd.join("resolve")).unwrap();
        fs::write(&from, "nameserver 192.0.2.1\n").unwrap();
        let conf = top.join(RESOLV);
        let mut root = Root::open(&top).unwrap();
        let lend = |root: &mut Root| Lent::names(root, &top, &systemd, &from).unwrap();

        // NetworkManager alone: nothing is there.
        let lent = lend(&mut root).unwrap();
        assert!(fs::read_to_string(&conf).unwrap().contains("nameserver 192.0.2.1"));
        lent.take_back(&mut root).unwrap();
        assert!(!conf.exists());

        // One without a server comes back as it was.
        fs::write(&conf, "search example.org\n").unwrap();
        let lent = lend(&mut root).unwrap();
        assert!(fs::read_to_string(&conf).unwrap().contains("nameserver 192.0.2.1"));
        lent.take_back(&mut root).unwrap();
        assert_eq!(fs::read_to_string(&conf).unwrap(), "search example.org\n");

        // What a script writes stays.
        let lent = lend(&mut root).unwrap();
        fs::write(&conf, "nameserver 9.9.9.9\n").unwrap();
        lent.take_back(&mut root).unwrap();
        assert_eq!(fs::read_to_string(&conf).unwrap(), "nameserver 9.9.9.9\n");
        assert!(lend(&mut root).is_none(), "it has one of its own");

        // systemd-resolved: its link stays, and leads to ours while `/run/systemd` is covered.
        fs::remove_file(&conf).unwrap();
        std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", &conf).unwrap();
        assert!(lend(&mut root).is_none());
        assert!(conf.is_symlink());
        assert_eq!(
            fs::read_to_string(systemd.join("resolve/stub-resolv.conf")).unwrap(),
            "nameserver 192.0.2.1\n"
        );
    }
}
