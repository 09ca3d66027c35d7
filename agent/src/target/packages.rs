//! Packages: the base, everything else, and what has to be right at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use akene_archive::{Engine, Later, Progress, Root, Said};
use akene_exec::{ChrootMounts, Cmd, ExecError};
use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;
use anyhow::{Context, Result, bail};

use super::sources::{hold, write_sources};
use super::{Job, Watch, bootloader, system};

/// Where the installation's own things are seen inside the new root. On `/run`, so gone at the reboot.
const OURS: &str = "/run/akene-install";

/// A full desktop takes ten minutes on a slow disk; a machine that hangs in a script must not hang for ever.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Programs that packages' scripts call and that wait until the end, or would look at this computer's disks
/// instead of the new system's.
const STAND_INS: [&str; 4] = ["update-grub", "update-grub2", "grub-install", "start-stop-daemon"];

/// Hundredths of a percent, as [`Progress`] counts here.
const WHOLE: u64 = 10_000;
/// Where the base and the files of all others end on that scale.
const BASE_DONE: u64 = 1_000;
const UNPACKED: u64 = 4_500;

/// See [`super::install`].
pub(super) fn install(job: &Job<'_>, watch: &mut dyn Watch) -> Result<()> {
    let of_lock = |base: bool| -> Vec<&LockedPackage> {
        job.lock().packages.iter().filter(|p| p.base == base).collect()
    };
    let (base, rest) = (of_lock(true), of_lock(false));
    if base.is_empty() {
        bail!("installing packages: the lock names no base");
    }
    let tools = Tools::prepare(job)?;
    if job.layout.refreshed_root().is_some() {
        watch.log("an old system makes room around its /home");
        crate::storage::empty_root(job.layout, &[super::STAGE], job.runner)?;
    }
    let mut root = Root::open(&job.layout.root)?;
    prepare_root(job, &mut root)?;
    let files =
        |of: &[&LockedPackage]| -> Vec<PathBuf> { of.iter().map(|p| job.debs.join(&p.file)).collect() };
    let (inside, later) = (|program: &str| tools.inside(job, program), put_off(job));
    let mut engine = Engine::new(&job.layout.root, job.runner, inside, &later, &files(&base), &files(&rest))?;

    let mut meter = Meter { seen: 0, total: base.len() as u64 * 2, from: 0, to: BASE_DONE };
    let laid = engine.base(&mut |said| meter.hear(said, watch));
    laid.context("installing the base system")?;
    write_sources(job, &mut root, true)?;
    system::write_fstab(job, &mut root)?;
    write_resume(job, &mut root)?;
    if !job.has_package("keyboard-configuration") {
        system::write_keyboard(job, &mut root)?;
    }
    preseed(job, &tools)?;
    let bare = |program: &str| job.inside(program).without_syncs().timeout(LIMIT);
    let rest_of_it = || {
        meter = Meter { seen: 0, total: rest.len() as u64, from: BASE_DONE, to: UNPACKED };
        let laid = engine.unpack(&mut |said| meter.hear(said, watch));
        laid.context("unpacking the packages")?;
        // What the boot loader is made from is there: from now on the disk finds the installer by itself.
        bootloader::put_on_disk(&bootloader::Tools::of(job), &mut root, watch)
            .context("making the disk startable")?;
        meter = Meter { seen: 0, total: rest.len() as u64, from: UNPACKED, to: WHOLE };
        let set_up = engine.configure_for_start(&mut |said| meter.hear(said, watch));
        set_up.context("setting up what starts the kernel")?;
        later.start_early(job.runner, &bare)?;
        engine.configure(&mut |said| meter.hear(said, watch)).context("setting the packages up")
    };
    later.beside(job.runner, &bare, rest_of_it)?;
    mark_automatic(job, &mut root)?;
    watch.progress(Progress { done: WHOLE, total: WHOLE, what: "packages".into() });
    Ok(())
}

/// What is shown on the new root's `/run` while packages are installed.
struct Tools {
    mounts: ChrootMounts,
}

impl Tools {
    fn prepare(job: &Job<'_>) -> Result<Self> {
        let dir = job.scratch("tools");
        let making = || format!("making {}", dir.display());
        fs::create_dir_all(dir.join("bin")).with_context(making)?;
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .with_context(making)?;
        let mut ours = Root::open(&dir)?;
        put_off(job).prepare(OURS)?;
        for name in STAND_INS {
            ours.write(
                &format!("bin/{name}"),
                "#!/bin/sh\n# Waits until the end of the installation.\nexit 0\n",
                0o755,
            )?;
        }
        let mounts = ChrootMounts::new(&job.layout.root).bind(&dir, OURS);
        Ok(Tools { mounts })
    }

    /// A command inside the new root with the stand-ins, and with the files of the lock where apt keeps them.
    fn inside(&self, job: &Job<'_>, program: &str) -> Cmd {
        job.inside(program)
            .chroot(self.mounts.clone().bind(job.debs, "/var/cache/apt/archives"))
            .env("PATH", format!("{OURS}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("DEBIAN_PRIORITY", "critical")
            .env("RUNLEVEL", "1")
            .without_syncs()
            .timeout(LIMIT)
    }
}

/// What the first scripts expect of a root in which nothing was installed yet.
fn prepare_root(job: &Job<'_>, root: &mut Root) -> Result<()> {
    // The links of a merged /usr, before anything is unpacked: directories of these names would stay for good.
    let mut merged = vec!["bin", "sbin", "lib", "lib64"];
    if job.has_package("libc6-i386") {
        merged.push("lib32");
    }
    if job.has_package("libc6-x32") {
        merged.push("libx32");
    }
    for name in merged {
        root.make_dir(&format!("usr/{name}"), 0o755)?;
        root.symlink(&format!("usr/{name}"), name)?;
    }
    for dir in ["var/cache/apt/archives", "dev", "proc", "sys", "run"] {
        root.make_dir(dir, 0o755)?;
    }
    root.write(
        "usr/sbin/policy-rc.d",
        "#!/bin/sh\n# The system is being installed: no service may start.\nexit 101\n",
        0o755,
    )
}

/// Debconf answers before the packages that ask: what follows from the settings, then the profile's own,
/// which win.
fn preseed(job: &Job<'_>, tools: &Tools) -> Result<()> {
    let mut lines = system::debconf(job);
    if let Some(first) = job.layout.boot_disk() {
        // Where `dpkg-reconfigure grub-pc` puts it. Upgrades leave a BIOS' loader as it is: with its own modules it goes on for
        // ever, and signed ones are renewed by the resident agent. Kernel names change from boot to boot.
        let device =
            |d: &crate::storage::MountedDisk| d.by_id.clone().unwrap_or_else(|| d.path.display().to_string());
        let others = bootloader::started_disks(job.layout)?.into_iter().map(|(disk, _)| disk);
        let disks = std::iter::once(first).chain(others.filter(|disk| *disk != first));
        let devices: Vec<String> = disks.map(device).collect();
        lines.push(format!("grub-pc grub-pc/install_devices multiselect {}", devices.join(", ")));
        lines.push("grub-pc grub-pc/install_devices_empty boolean false".into());
        lines.push("grub-efi-amd64 grub2/update_nvram boolean true".into());
        // The removable path too: the disk must start in another computer, and many firmwares forget.
        lines.push("grub-efi-amd64 grub2/force_efi_extra_removable boolean true".into());
    }
    lines.extend(job.resolved.debconf.iter().cloned());
    let cmd = tools.inside(job, "debconf-set-selections").stdin(lines.join("\n") + "\n");
    job.runner.run(&cmd).map(drop).map_err(|error| {
        let said = error.downcast_ref::<ExecError>().map_or_else(|| error.to_string(), |e| e.tail.clone());
        let next = "write OWNER QUESTION TYPE VALUE, as `debconf-set-selections` wants it";
        Issues::from(Issue::new("debconf-refused", "debconf-selections", said, next)).into()
    })
}

/// Marks what was not asked for as installed automatically, as apt does.
fn mark_automatic(job: &Job<'_>, root: &mut Root) -> Result<()> {
    let automatic: String = job
        .lock()
        .packages
        .iter()
        .filter(|p| !p.base && !is_requested(&job.choice.requested, &p.name))
        .map(|p| {
            let native = if p.architecture == "all" { &job.lock().architecture } else { &p.architecture };
            format!("Package: {}\nArchitecture: {native}\nAuto-Installed: 1\n\n", p.name)
        })
        .collect();
    root.write("var/lib/apt/extended_states", automatic, 0o644)
}

fn is_requested(requested: &[String], name: &str) -> bool {
    requested.iter().any(|r| r.split('=').next() == Some(name))
}

/// Progress: a step for each package that is unpacked and for each that dpkg sets up.
struct Meter {
    seen: u64,
    total: u64,
    from: u64,
    to: u64,
}

impl Meter {
    fn hear(&mut self, said: Said<'_>, watch: &mut dyn Watch) {
        let name = match said {
            Said::Unpacked(name) => name,
            Said::Line(line) => {
                watch.log(line);
                let name = line.strip_prefix("Setting up ").and_then(|rest| rest.split([' ', ':']).next());
                let Some(name) = name else { return };
                name
            }
        };
        self.seen = (self.seen + 1).min(self.total);
        let done = self.from + (self.to - self.from) * self.seen / self.total.max(1);
        watch.progress(Progress { done, total: WHOLE, what: name.to_owned() });
    }
}

/// What scripts put off to the end.
fn put_off(job: &Job<'_>) -> Later {
    Later::new(job.scratch("tools"), &job.layout.root)
}

/// Where a computer that was sent to sleep finds what it had in memory. The initramfs is made from it.
fn write_resume(job: &Job<'_>, root: &mut Root) -> Result<()> {
    let swap = job.layout.partitions.iter().find(|p| p.role == akene_planner::Role::Swap);
    let uuid = swap.and_then(|p| p.uuid.as_deref());
    let resume = uuid.map_or_else(|| "none".to_owned(), |uuid| format!("UUID={uuid}"));
    root.write("etc/initramfs-tools/conf.d/resume", format!("RESUME={resume}\n"), 0o644)
}

/// The initramfs, where what it is made from has changed since packages were set up; and what else was put off.
pub(super) fn initramfs(job: &Job<'_>, _: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    let inside = |program: &str| job.inside(program).without_syncs().timeout(LIMIT);
    put_off(job).run(job.runner, &inside, &mut |line| watch.log(line))?;
    let boot = job.layout.root.join("boot");
    let names: Vec<String> = fs::read_dir(&boot)
        .with_context(|| format!("reading {}", boot.display()))?
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    let kernels: Vec<&str> = names.iter().filter_map(|n| n.strip_prefix("vmlinuz-")).collect();
    let without: Vec<&&str> =
        kernels.iter().filter(|k| !names.contains(&format!("initrd.img-{k}"))).collect();
    if kernels.is_empty() || !without.is_empty() {
        bail!("making the initramfs: kernels are {kernels:?}, without an initramfs {without:?}");
    }
    Ok(())
}

/// Takes out what was ours and refuses to call it installed unless dpkg and apt agree.
pub(super) fn finish(job: &Job<'_>, root: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    root.remove("usr/sbin/policy-rc.d")?;
    write_sources(job, root, false)?;
    let audit = job.run(&job.inside("dpkg").arg("--audit"))?;
    if !audit.is_empty() {
        bail!("checking the packages: dpkg finds something amiss:\n{audit}");
    }
    job.run(&job.inside("apt-get").args([
        "check",
        "-o",
        "Dir::Cache::pkgcache=",
        "-o",
        "Dir::Cache::srcpkgcache=",
    ]))
    .context("checking the packages")?;
    let installed = installed(job)?;
    let wrong: Vec<&str> = job
        .lock()
        .packages
        .iter()
        .filter(|p| !installed.contains(&p.name))
        .map(|p| p.name.as_str())
        .collect();
    if !wrong.is_empty() {
        bail!("checking the packages: not installed though they should be: {}", wrong.join(", "));
    }
    // From here on dpkg calls some of them `hi`.
    hold(job, watch)?;
    system::clean(job, root)
}

fn installed(job: &Job<'_>) -> Result<BTreeSet<String>> {
    let format = "${db:Status-Abbrev} ${Package}\\n";
    let list = job.run(&job.inside("dpkg-query").args(["-W", "-f", format]))?;
    Ok(list.lines().filter_map(|l| l.strip_prefix("ii ")).map(|n| n.trim().to_owned()).collect())
}
