//! The profile's own files and scripts.

use akene_archive::Root;
use akene_exec::{ChrootMounts, ExecError};
use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::profile::Script;
use anyhow::{Context, Result};
use base64::Engine as _;

use std::fs;
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
pub(super) fn scripts(job: &Job<'_>, _: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    let scripts = &job.resolved.late_commands;
    if scripts.is_empty() {
        return Ok(());
    }
    let dir = job.scratch("scripts");
    let systemd = job.scratch("systemd");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    fs::create_dir_all(systemd.join("resolve")).with_context(|| format!("making {}", systemd.display()))?;
    // The installed system's resolver is not running yet; where its resolv.conf leads, ours is shown.
    if let Ok(resolv) = fs::read("/etc/resolv.conf") {
        let path = systemd.join("resolve/stub-resolv.conf");
        fs::write(&path, resolv).with_context(|| format!("writing {}", path.display()))?;
    }
    let mounts =
        ChrootMounts::new(&job.layout.root).bind(&dir, "/run/akene-scripts").bind(&systemd, "/run/systemd");
    let mut ours = Root::open(&dir)?;
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
