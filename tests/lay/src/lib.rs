//! A root made by our package engine alone, the way the agent has it made: what is compared with other makers'
//! roots, and measured beside them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_archive::{Engine, Later, Said};
use akene_exec::{ChrootMounts, Cmd, SystemRunner};
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

/// What came of it.
#[derive(Debug)]
pub struct Made {
    /// How long each part took.
    pub laps: Vec<Lap>,
    /// Whether the initramfs is the one that was made while packages were set up.
    pub early: bool,
    /// Why it was made once more.
    pub again: Option<String>,
    /// What was left to dpkg, and why.
    pub left: Vec<String>,
}

/// Where our own things are seen inside the root.
const OURS: &str = "/run/akene-install";

/// Lays and configures packages in `root`, which may hold what an administrator put there before. `tools` is a
/// directory for what must be seen inside.
///
/// # Errors
/// The engine fails, with what was said before.
pub fn make(debs: &Debs<'_>, root: &Path, tools: &Path) -> Result<Made> {
    let mut lines = Vec::new();
    let mut went = lay(debs, root, tools, &mut |line| lines.push(line.to_owned()));
    if let Ok(made) = &mut went {
        made.left = lines.iter().filter(|line| line.contains(" is left to dpkg: ")).cloned().collect();
        made.again = lines.iter().find(|line| line.contains("initramfs is made once more")).cloned();
    }
    let last = lines[lines.len().saturating_sub(30)..].join("\n");
    went.with_context(|| format!("making a root with our engine; it said before:\n{last}"))
}

fn lay(debs: &Debs<'_>, root: &Path, tools: &Path, log: &mut dyn FnMut(&str)) -> Result<Made> {
    prepare(root, tools).context("preparing a root")?;
    let inside = |program: &str| {
        let mounts = ChrootMounts::new(root).bind(tools, OURS).bind(debs.pool, "/var/cache/apt/archives");
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Cmd::new(program)
            .chroot(mounts)
            .env("PATH", format!("{OURS}/bin:{path}"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            .env("LC_ALL", "C.UTF-8")
            .env("RUNLEVEL", "1")
            .without_syncs()
            .timeout(Duration::from_secs(3600))
    };
    let (mut laps, mut since) = (Vec::new(), Instant::now());
    let later = Later::new(tools, root);
    let mut engine = Engine::new(root, &SystemRunner, inside, &later, debs.base, debs.rest)?;
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
    let bare = |program: &str| {
        let cmd = Cmd::new(program).chroot(ChrootMounts::new(root)).env("LC_ALL", "C.UTF-8");
        cmd.without_syncs().timeout(Duration::from_secs(1800))
    };
    let set_up = || {
        engine.unpack(&mut said).context("laying the rest")?;
        lap("unpack");
        engine.configure_for_start(&mut said).context("setting up what starts the kernel")?;
        later.start_early(&SystemRunner, &bare)?;
        engine.configure(&mut said)
    };
    later.beside(&SystemRunner, &bare, set_up).context("setting the packages up")?;
    lap("configure");
    drop(engine);
    let early = later.run(&SystemRunner, &bare, log)?;
    lap("once at the end");
    std::fs::remove_file(root.join("usr/sbin/policy-rc.d")).context("removing the ban on services")?;
    Ok(Made { laps, early, again: None, left: Vec::new() })
}

/// What has to be there before the first package: links of a merged /usr, mount points, a ban on services,
/// and stand-ins for what is done once at the end.
fn prepare(root: &Path, tools: &Path) -> Result<()> {
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
    Later::new(tools, root).prepare(OURS).context("making what puts work off")?;
    program(&root.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n")?;
    for stand_in in ["update-grub", "update-grub2", "grub-install", "start-stop-daemon"] {
        program(&tools.join("bin").join(stand_in), "#!/bin/sh\nexit 0\n")?;
    }
    Ok(())
}
