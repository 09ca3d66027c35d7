//! A root made by our package engine alone, the way the agent has it made: what is compared with other makers'
//! roots, and measured beside them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_archive::{Engine, Later, Said};
use akene_exec::{ChrootMounts, Cmd, Runner, SystemRunner};
use anyhow::{Context, Result};

/// A part of the work and what it took.
pub type Lap = (&'static str, Duration);

/// What is laid.
#[derive(Clone, Copy, Debug)]
pub struct Debs<'a> {
    /// The files without which nothing runs, in the order of the solver.
    pub base: &'a [PathBuf],
    /// All others, in that order.
    pub rest: &'a [PathBuf],
    /// The directory that holds all of them.
    pub pool: &'a Path,
}

/// Where our own things are seen inside the root.
const OURS: &str = "/run/akene-install";

/// Lays and configures packages in `root`, which may hold what an administrator put there before. `tools` is a
/// directory for what must be seen inside.
///
/// # Errors
/// The engine fails, with what was said before.
pub fn make(debs: &Debs<'_>, root: &Path, tools: &Path) -> Result<Vec<Lap>> {
    let mut lines = Vec::new();
    let went = lay(debs, root, tools, &mut |line| lines.push(line.to_owned()));
    let last = lines[lines.len().saturating_sub(30)..].join("\n");
    went.with_context(|| format!("making a root with our engine; it said before:\n{last}"))
}

fn lay(debs: &Debs<'_>, root: &Path, tools: &Path, log: &mut dyn FnMut(&str)) -> Result<Vec<Lap>> {
    prepare(debs, root, tools).context("preparing a root")?;
    let inside = |program: &str| {
        let mounts = ChrootMounts::new(root).bind(tools, OURS).bind(debs.pool, "/var/cache/apt/archives");
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut cmd = Cmd::new(program)
            .chroot(mounts)
            .env("PATH", format!("{OURS}/bin:{path}"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            .env("LC_ALL", "C.UTF-8")
            .env("RUNLEVEL", "1")
            .timeout(Duration::from_secs(3600));
        if tools.join("no-fsync.so").exists() {
            cmd = cmd.env("LD_PRELOAD", format!("{OURS}/no-fsync.so"));
        }
        cmd
    };
    let (mut laps, mut since) = (Vec::new(), Instant::now());
    let mut engine = Engine::new(root, &SystemRunner, inside, debs.base, debs.rest)?;
    let mut lap = |what: &'static str| {
        laps.push((what, since.elapsed()));
        since = Instant::now();
    };
    let mut said = |said: Said<'_>| {
        if let Said::Line(line) = said {
            log(line);
        }
    };
    engine.base(&mut said).context("laying the base")?;
    lap("base");
    engine.unpack(&mut said).context("laying the rest")?;
    lap("unpack");
    let bare = |program: &str| {
        let cmd = Cmd::new(program).chroot(ChrootMounts::new(root)).env("LC_ALL", "C.UTF-8");
        cmd.timeout(Duration::from_secs(1800))
    };
    let later = Later::new(tools);
    later.beside(&SystemRunner, &bare, || engine.configure(&mut said)).context("setting the packages up")?;
    lap("configure");
    drop(engine);
    later.run(&SystemRunner, &bare, log, |_| {
        if !root.join("usr/sbin/update-initramfs").exists() {
            return Ok(());
        }
        let cmd = bare("update-initramfs").args(["-c", "-k", "all"]);
        SystemRunner.run(&cmd).map(drop).context("making the initramfs")
    })?;
    lap("once at the end");
    std::fs::remove_file(root.join("usr/sbin/policy-rc.d")).context("removing the ban on services")?;
    Ok(laps)
}

/// What has to be there before the first package: links of a merged /usr, mount points, a ban on services,
/// and stand-ins for what is done once at the end.
fn prepare(debs: &Debs<'_>, root: &Path, tools: &Path) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let program = |path: &Path, text: &str| -> Result<()> {
        std::fs::create_dir_all(path.parent().context("a program has a directory")?)?;
        std::fs::write(path, text)?;
        Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
    };
    for name in ["bin", "sbin", "lib", "lib64"] {
        std::fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for dir in ["var/cache/apt/archives", "dev", "proc", "sys", "run"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    let name = |deb: &Path| deb.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Later::new(tools).prepare(OURS).context("making what puts work off")?;
    program(&root.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n")?;
    for stand_in in ["update-initramfs", "update-grub", "update-grub2", "grub-install", "start-stop-daemon"] {
        program(&tools.join("bin").join(stand_in), "#!/bin/sh\nexit 0\n")?;
    }
    if let Some(deb) = debs.rest.iter().find(|deb| name(deb).starts_with("libeatmydata1_")) {
        let unpacked = tools.join("unpacked");
        SystemRunner.run(&Cmd::new("dpkg-deb").arg("-x").arg(deb).arg(&unpacked))?;
        let find = Cmd::new("find").arg(&unpacked).args(["-name", "libeatmydata.so.*", "-type", "f"]);
        let library = SystemRunner.run(&find)?.text();
        std::fs::copy(library.lines().next().context("finding the library")?, tools.join("no-fsync.so"))?;
    }
    Ok(())
}
