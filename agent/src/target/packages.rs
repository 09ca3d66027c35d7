//! Packages: the base, everything else, and what has to be right at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use akene_archive::{Deb, Progress, Root};
use akene_exec::{ChrootMounts, Cmd, ExecError};
use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::lock::LockedPackage;
use anyhow::{Context, Result, bail};

use super::choose::NO_FSYNC;
use super::sources::write_sources;
use super::{Job, Watch, bootloader, system};

/// Where the installation's own things are seen inside the new root. On `/run`, so gone at the reboot.
const OURS: &str = "/run/akene-install";

/// A full desktop takes ten minutes on a slow disk; a machine that hangs in a script must not hang for ever.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Programs that packages' scripts call and that wait until the end, or would look at this computer's disks
/// instead of the new system's.
const STAND_INS: [&str; 5] =
    ["update-initramfs", "update-grub", "update-grub2", "grub-install", "start-stop-daemon"];

/// How the names of the boot loader's packages begin. They are installed first.
const LOADER: [&str; 3] = ["grub-", "grub2-", "shim-"];

/// Hundredths of a percent, as [`Progress`] counts here.
const WHOLE: u64 = 10_000;
/// Where unpacking the base, installing the base, and the rest end on that scale.
const UNPACKED: u64 = 600;
const BASE_DONE: u64 = 1_800;

/// See [`super::install`].
pub(super) fn install(job: &Job<'_>, watch: &mut dyn Watch) -> Result<()> {
    if job.lock().packages.iter().filter(|p| p.base).count() == 0 {
        bail!("installing packages: the lock names no base");
    }
    let tools = Tools::prepare(job)?;
    if job.layout.refreshed_root().is_some() {
        watch.log("an old system makes room around its /home");
        crate::storage::empty_root(job.layout, &[super::STAGE], job.runner)?;
    }
    let mut root = Root::open(&job.layout.root)?;
    merged_usr(job, &mut root)?;
    unpack_base(job, watch)?;
    prepare_database(&mut root)?;
    install_base(job, &tools, watch)?;
    write_sources(job, &mut root, true)?;
    system::write_fstab(job, &mut root)?;
    preseed(job, &tools)?;
    install_rest(job, &tools, &mut root, watch)?;
    watch.progress(Progress { done: WHOLE, total: WHOLE, what: "packages".into() });
    Ok(())
}

/// What is shown on the new root's `/run` while packages are installed.
struct Tools {
    mounts: ChrootMounts,
    preload: bool,
}

impl Tools {
    fn prepare(job: &Job<'_>) -> Result<Self> {
        let dir = job.scratch("tools");
        let making = || format!("making {}", dir.display());
        fs::create_dir_all(dir.join("bin")).with_context(making)?;
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .with_context(making)?;
        let mut ours = Root::open(&dir)?;
        for name in STAND_INS {
            ours.write(
                &format!("bin/{name}"),
                "#!/bin/sh\n# Waits until the end of the installation.\nexit 0\n",
                0o755,
            )?;
        }
        ours.write("apt.conf", apt_conf(), 0o644)?;
        let mut preload = false;
        if let Some(helper) = job.lock().packages.iter().find(|p| p.name == NO_FSYNC) {
            let unpacked = dir.join("helper");
            fs::create_dir_all(&unpacked).with_context(making)?;
            let is_library =
                |p: &Path| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libeatmydata.so"));
            Deb::new(job.debs.join(&helper.file)).extract_some(&unpacked, &mut |p| is_library(p))?;
            if let Some(library) = find_file(&unpacked, &is_library)? {
                ours.write(
                    "no-fsync.so",
                    fs::read(&library).with_context(|| format!("reading {}", library.display()))?,
                    0o644,
                )?;
                preload = true;
            }
        }
        let mounts = ChrootMounts::new(&job.layout.root).bind(&dir, OURS);
        Ok(Tools { mounts, preload })
    }

    /// A command inside the new root with the stand-ins, and with the files of the lock where apt looks.
    fn inside(&self, job: &Job<'_>, program: &str) -> Cmd {
        let mut cmd = job
            .inside(program)
            .chroot(
                self.mounts
                    .clone()
                    .bind(job.debs, "/var/cache/apt/archives")
                    .bind(job.apt.lists(), "/var/lib/apt/lists"),
            )
            .env("PATH", format!("{OURS}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("APT_CONFIG", format!("{OURS}/apt.conf"))
            .env("DEBIAN_PRIORITY", "critical")
            .env("RUNLEVEL", "1")
            .timeout(LIMIT);
        if self.preload {
            cmd = cmd.env("LD_PRELOAD", format!("{OURS}/no-fsync.so"));
        }
        cmd
    }
}

/// apt's settings during the installation: read through `APT_CONFIG`, so nothing of it stays.
fn apt_conf() -> String {
    format!(
        r#"APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Install-Suggests "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Path "{OURS}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
DPkg::Use-Pty "false";
DPkg::Options {{ "--force-unsafe-io"; "--force-confold"; "--force-confdef"; }};
Acquire::Languages "none";
"#
    )
}

fn find_file(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Option<std::path::PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        let found = match path.is_dir() {
            true => find_file(&path, wanted)?,
            false => wanted(&path).then_some(path),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The links of a merged /usr, before anything is unpacked: directories of these names would stay for good.
fn merged_usr(job: &Job<'_>, root: &mut Root) -> Result<()> {
    let mut names = vec!["bin", "sbin", "lib", "lib64"];
    if job.has_package("libc6-i386") {
        names.push("lib32");
    }
    if job.has_package("libc6-x32") {
        names.push("libx32");
    }
    for name in names {
        root.make_dir(&format!("usr/{name}"), 0o755)?;
        root.symlink(&format!("usr/{name}"), name)?;
    }
    Ok(())
}

/// Unpacks the base natively, with all processors: just enough for the new root's own dpkg to run.
fn unpack_base(job: &Job<'_>, watch: &mut dyn Watch) -> Result<()> {
    let base: Vec<&LockedPackage> = job.lock().packages.iter().filter(|p| p.base).collect();
    // The first to bring a directory decides its mode: base-files knows those of /tmp and /root.
    let (first, rest): (Vec<_>, Vec<_>) = base.into_iter().partition(|p| p.name == "base-files");
    let unpack =
        |package: &LockedPackage| Deb::new(job.debs.join(&package.file)).extract_into(&job.layout.root);
    for package in &first {
        unpack(package)?;
    }
    watch.progress(Progress { done: 1, total: WHOLE, what: "base system".into() });
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let workers = thread::available_parallelism().map_or(1, |n| n.get()).min(8);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(package) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = unpack(package) {
                        failed.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                        next.store(rest.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    watch.progress(Progress { done: UNPACKED, total: WHOLE, what: "base system".into() });
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// What dpkg and the first scripts expect before there is a database.
fn prepare_database(root: &mut Root) -> Result<()> {
    for dir in [
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/triggers",
        "var/lib/apt/lists",
        "var/cache/apt/archives",
        "dev",
        "proc",
        "sys",
        "run",
    ] {
        root.make_dir(dir, 0o755)?;
    }
    root.write("var/lib/dpkg/status", "", 0o644)?;
    root.write("var/lib/dpkg/available", "", 0o644)?;
    // Scripts of the base use awk before mawk's own script has chosen it.
    if !root.exists("usr/bin/awk") && root.exists("usr/bin/mawk") {
        root.symlink("mawk", "usr/bin/awk")?;
    }
    root.write(
        "usr/sbin/policy-rc.d",
        "#!/bin/sh\n# The system is being installed: no service may start.\nexit 101\n",
        0o755,
    )
}

/// The new root's own dpkg installs the base. It does not sort by Pre-Depends, and needs not: everything they
/// ask for is unpacked already, hence `--force-depends` (mmdebstrap's way).
fn install_base(job: &Job<'_>, tools: &Tools, watch: &mut dyn Watch) -> Result<()> {
    let base: Vec<&LockedPackage> = job.lock().packages.iter().filter(|p| p.base).collect();
    let cmd = tools
        .inside(job, "dpkg")
        .args(["--install", "--force-depends", "--force-unsafe-io", "--force-confold"])
        .args(base.iter().map(|p| format!("/var/cache/apt/archives/{}", p.file)));
    let mut meter = Meter { seen: 0, total: base.len() as u64 * 2, from: UNPACKED, to: BASE_DONE };
    let ran = job.runner.run_lines(&cmd, &mut |line| {
        meter.read(line, watch);
    });
    ran.map(drop).map_err(package_failure).context("installing the base system")
}

/// Debconf answers before the packages that ask: what follows from the settings, then the profile's own,
/// which win.
fn preseed(job: &Job<'_>, tools: &Tools) -> Result<()> {
    let mut lines = system::debconf(job);
    if let Some(first) = job.layout.boot_disk() {
        // Upgrades of the boot loader install it again where this says. Kernel names change from boot to boot.
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

fn install_rest(job: &Job<'_>, tools: &Tools, root: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    let rest: Vec<&LockedPackage> = job.lock().packages.iter().filter(|p| !p.base && !p.helper).collect();
    let loader: Vec<&LockedPackage> =
        rest.iter().copied().filter(|p| LOADER.iter().any(|l| p.name.starts_with(l))).collect();
    let mut meter = Meter { seen: 0, total: rest.len() as u64 * 2, from: BASE_DONE, to: WHOLE };
    apt_install(job, tools, &loader, &mut meter, watch)?;
    bootloader::put_on_disk(job, root, watch).context("making the disk startable")?;
    apt_install(job, tools, &rest, &mut meter, watch)?;
    let automatic: String = job
        .lock()
        .packages
        .iter()
        .filter(|p| !p.base && !p.helper && !is_requested(&job.choice.requested, &p.name))
        .map(|p| {
            let native = if p.architecture == "all" { &job.lock().architecture } else { &p.architecture };
            format!("Package: {}\nArchitecture: {native}\nAuto-Installed: 1\n\n", p.name)
        })
        .collect();
    root.write("var/lib/apt/extended_states", automatic, 0o644)
}

/// The new root's own apt installs these. The solver has spoken: exactly these versions, nothing from the
/// network, nothing taken away.
fn apt_install(
    job: &Job<'_>,
    tools: &Tools,
    packages: &[&LockedPackage],
    meter: &mut Meter,
    watch: &mut dyn Watch,
) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let cmd = tools
        .inside(job, "apt-get")
        .args(["install", "--no-download", "--no-install-recommends", "--no-remove"])
        // Nobody else works in this root, and the directory of packages may serve another installation: apt's
        // lock file lies in it. dpkg's own locks stay.
        .args(["-o", "Debug::NoLocking=true"])
        .args(packages.iter().map(|p| format!("{}={}", p.name, p.version)));
    let ran = job.runner.run_lines(&cmd, &mut |line| meter.read(line, watch));
    ran.map(drop).map_err(package_failure).context("installing the packages")
}

fn is_requested(requested: &[String], name: &str) -> bool {
    requested.iter().any(|r| r.split('=').next() == Some(name))
}

/// Progress from what dpkg prints: each package is unpacked and set up, a line for either. (apt's status
/// descriptor would have to be one of its own: apt closes it for dpkg, and scripts die of a closed stdout.)
struct Meter {
    seen: u64,
    total: u64,
    from: u64,
    to: u64,
}

impl Meter {
    fn read(&mut self, line: &str, watch: &mut dyn Watch) {
        watch.log(line);
        let Some(name) = line
            .strip_prefix("Unpacking ")
            .or_else(|| line.strip_prefix("Setting up "))
            .and_then(|rest| rest.split([' ', ':']).next())
        else {
            return;
        };
        self.seen = (self.seen + 1).min(self.total);
        let done = self.from + (self.to - self.from) * self.seen / self.total.max(1);
        watch.progress(Progress { done, total: WHOLE, what: name.to_owned() });
    }
}

/// Names the packages dpkg complained about.
fn package_failure(error: anyhow::Error) -> anyhow::Error {
    let Some(failure) = error.downcast_ref::<ExecError>() else { return error };
    let packages: BTreeSet<&str> = failure
        .tail
        .lines()
        .filter_map(|l| {
            l.strip_prefix("dpkg: error processing ")?
                .split(' ')
                .find(|w| !matches!(*w, "package" | "archive"))
        })
        .collect();
    if packages.is_empty() {
        return error;
    }
    let names = packages.into_iter().collect::<Vec<_>>().join(", ");
    let message = format!("installing {names} failed: {}", failure.tail);
    let next = "take the package out of the profile, or send the log to whoever maintains it";
    Issues::from(Issue::new("package-failed", names, message, next)).into()
}

/// The initramfs, once, when everything it looks at is in place.
pub(super) fn initramfs(job: &Job<'_>, root: &mut Root, watch: &mut dyn Watch) -> Result<()> {
    let resume = job
        .layout
        .partitions
        .iter()
        .find(|p| p.role == akene_planner::Role::Swap)
        .and_then(|p| p.uuid.as_deref());
    let resume = resume.map_or_else(|| "none".to_owned(), |uuid| format!("UUID={uuid}"));
    root.write("etc/initramfs-tools/conf.d/resume", format!("RESUME={resume}\n"), 0o644)?;
    let cmd = job.inside("update-initramfs").args(["-c", "-k", "all"]).timeout(LIMIT);
    job.runner.run_lines(&cmd, &mut |line| watch.log(line)).context("making the initramfs")?;
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
pub(super) fn finish(job: &Job<'_>, root: &mut Root, _: &mut dyn Watch) -> Result<()> {
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
        .filter(|p| !p.helper && !installed.contains(&p.name))
        .map(|p| p.name.as_str())
        .collect();
    if !wrong.is_empty() {
        bail!("checking the packages: not installed though they should be: {}", wrong.join(", "));
    }
    system::clean(job, root)
}

fn installed(job: &Job<'_>) -> Result<BTreeSet<String>> {
    let format = "${db:Status-Abbrev} ${Package}\\n";
    let list = job.run(&job.inside("dpkg-query").args(["-W", "-f", format]))?;
    Ok(list.lines().filter_map(|l| l.strip_prefix("ii ")).map(|n| n.trim().to_owned()).collect())
}
