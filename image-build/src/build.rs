//! From a distribution's name to an image: the steps in order.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_archive::initrd;
use akene_exec::{Cmd, Runner};
use akene_protocol::image::{self, ImageFile, ImageManifest};
use akene_protocol::resolve::Archive;
use akene_protocol::{Bytes, Sha256, stamp as area};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::packages::{self, Order, Packages};
use crate::report::Report;
use crate::{files, iso, kernel, live, medium, stamp};

/// What to build.
pub struct Settings {
    /// Where packages come from.
    pub archive: Archive,
    /// The distribution's keys, unless `archive` brings its own.
    pub keyring: PathBuf,
    /// Package of the kernel.
    pub kernel: String,
    /// The static agent.
    pub agent: PathBuf,
    /// With wireless.
    pub wireless: bool,
    /// Downloads stay here.
    pub cache: PathBuf,
    /// The result goes here.
    pub output: PathBuf,
    /// The image's date; without it, the newest date of the archive's release files.
    pub epoch: Option<Timestamp>,
    /// Compression of the live root, 1 to 22.
    pub compression: u8,
}

/// Builds `akene.iso`, `netboot/` and `manifest.json` in the output directory.
pub fn build(runner: &dyn Runner, settings: &Settings, say: &dyn Fn(&str)) -> Result<Report> {
    check_agent(&settings.agent)?;
    // What the user's umask is must show neither in the bytes nor in the modes of the live root.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    fs::create_dir_all(&settings.output)
        .with_context(|| format!("creating {}", settings.output.display()))?;
    let work = tempfile::Builder::new()
        .prefix(".akene-build-")
        .tempdir_in(&settings.output)
        .with_context(|| format!("creating a working directory in {}", settings.output.display()))?;
    let work = work.path();
    let order = Order {
        archive: &settings.archive,
        keyring: &settings.keyring,
        kernel: &settings.kernel,
        wireless: settings.wireless,
        cache: &settings.cache,
        work,
    };
    let packages = packages::fetch(runner, &order, say)?;
    let built = settings.epoch.unwrap_or(packages.released);
    let mut report = Report::default();

    let (kernel, root) = live_root(runner, settings, &packages, work, &mut report, say)?;
    say("compressing the live root");
    let staging = work.join("initrd");
    let inside = |path: &str| staging.join(path);
    files::copy(&settings.agent, &inside(initrd::INIT))?;
    files::copy(&kernel.image, &inside(image::KERNEL))?;
    for (number, module) in kernel.early.iter().enumerate() {
        let name = module.file_name().context("naming an early module")?.to_string_lossy().into_owned();
        files::copy(module, &inside(&format!("{}/{number:02}-{name}", image::MODULES)))?;
    }
    squash(runner, &root, &inside(image::ROOT), built, settings.compression)?;
    let loaders = medium::Loaders::unpack(&packages.boot, work, &root)?;
    loaders.for_disks(runner, &inside(image::LOADER))?;
    let manifest = manifest(settings, &packages, &kernel, built, &staging)?;
    let manifest_text = serde_json::to_vec_pretty(&manifest).context("writing the manifest")?;
    files::write(&inside(image::MANIFEST), &manifest_text)?;

    say("writing the initrd");
    let netboot = settings.output.join("netboot");
    let tree = work.join("iso");
    let initrd_path = tree.join("akene/initrd.img");
    files::write(&initrd_path, "")?;
    let file = File::create(&initrd_path).with_context(|| format!("creating {}", initrd_path.display()))?;
    let (_, sum) = initrd::write(&staging, BufWriter::with_capacity(1 << 20, file))?;
    files::copy(&kernel.image, &tree.join("akene/vmlinuz"))?;
    files::write(&tree.join(stamp::MANIFEST), &manifest_text)?;
    files::write(&tree.join(stamp::AREA), area::empty_area())?;
    files::write(&tree.join(stamp::PROFILE), stamp::empty_profile())?;
    files::write(&tree.join(stamp::ENVIRONMENT), stamp::environment(None))?;
    for (from, to) in [
        ("vmlinuz", "vmlinuz"),
        ("initrd.img", "initrd.img"),
        ("stamp.img", stamp::NETBOOT_AREA),
        ("image.json", "image.json"),
    ] {
        files::copy(&tree.join("akene").join(from), &netboot.join(to))?;
    }

    say("writing the ISO");
    let id = &sum.to_string()[..16];
    let boot = medium::Boot { work, tree: &tree, id };
    let made = medium::build(runner, &loaders, &boot, built.as_second())?;
    sums(&tree)?;
    let unfinished = work.join("akene.iso");
    iso::write(runner, &tree, &made, built, &unfinished)?;
    let output = settings.output.join("akene.iso");
    fs::rename(&unfinished, &output).with_context(|| format!("naming the finished {}", output.display()))?;

    report.measure(&tree, &staging, &made.esp, &output)?;
    report.image = Some(manifest);
    report.boot = packages.boot.iter().map(packages::Fetched::entry).collect();
    report.firmware_packages = packages.firmware.iter().map(packages::Fetched::entry).collect();
    let text = serde_json::to_vec_pretty(&report).context("writing the build's report")?;
    files::write(&settings.output.join("manifest.json"), text)?;
    Ok(report)
}

/// Unpacks and trims the live root, kernel modules and firmware included.
fn live_root(
    runner: &dyn Runner,
    settings: &Settings,
    packages: &Packages,
    work: &Path,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> Result<(kernel::Kernel, PathBuf)> {
    let root = work.join("live");
    say("unpacking the live root");
    live::unpack(&packages.live, &root)?;
    report.dropped_programs = live::finish(runner, &root)?;
    let tools = files::size(&root)?;
    say("choosing kernel modules and firmware");
    let kernel = kernel::install(
        runner,
        &kernel::Places {
            kernel: &packages.kernel,
            firmware: &packages.firmware,
            work,
            live: &root,
            wireless: settings.wireless,
        },
    )?;
    let firmware = root.join("usr/lib/firmware");
    let firmware = if firmware.is_dir() { files::size(&firmware)? } else { 0 };
    report.unpacked.insert("tools and libraries".into(), Bytes(tools));
    report.unpacked.insert("firmware".into(), Bytes(firmware));
    report.unpacked.insert("kernel modules".into(), Bytes(files::size(&root)? - tools - firmware));
    report.modules = kernel.modules;
    report.firmware = kernel.firmware;
    report.missing_firmware.clone_from(&kernel.missing_firmware);
    Ok((kernel, root))
}

/// Bytes of a program in which its headers are: far more than any linker writes.
const HEADERS: u64 = 4096;

/// A dynamic agent would not start: nothing else is in the initrd.
fn check_agent(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(HEADERS).read_to_end(&mut head)).with_context(|| {
        format!("reading the agent {}; build it with `cargo build --release -p akene-agent` or name it with --agent", path.display())
    })?;
    // The fifth byte: 64 bits.
    if !head.starts_with(b"\x7fELF\x02") {
        bail!("{} is not a 64-bit program", path.display());
    }
    if needs_loader(&head) {
        bail!(
            "{} needs shared libraries, but it is the first program of the live system: build it static",
            path.display()
        );
    }
    Ok(())
}

/// Whether the headers of a 64-bit program name a dynamic loader.
fn needs_loader(head: &[u8]) -> bool {
    const INTERPRETER: [u8; 4] = 3u32.to_le_bytes();
    fn at<const N: usize>(head: &[u8], place: usize) -> Option<[u8; N]> {
        head.get(place..)?.first_chunk().copied()
    }
    let number = |place| at(head, place).map(|bytes| usize::from(u16::from_le_bytes(bytes)));
    let table = at(head, 32).and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes)).ok());
    let (Some(table), Some(size), Some(count)) = (table, number(54), number(56)) else { return false };
    (0..count).any(|n| at(head, table.saturating_add(n * size)) == Some(INTERPRETER))
}

fn squash(runner: &dyn Runner, root: &Path, output: &Path, built: Timestamp, level: u8) -> Result<()> {
    let time = built.as_second().to_string();
    // Blocks of 256 KiB: larger ones save 2 % but cost a small machine memory on each read.
    let cmd = Cmd::new("mksquashfs")
        .arg(root)
        .arg(output)
        .args(["-comp", "zstd", "-Xcompression-level", &level.to_string(), "-b", "256K"])
        .args(["-noappend", "-all-root", "-no-xattrs", "-no-exports", "-no-progress", "-quiet"])
        .args(["-mkfs-time", &time, "-all-time", &time])
        // mksquashfs refuses its own time options when this is set.
        .without_env("SOURCE_DATE_EPOCH")
        .timeout(Duration::from_secs(3600));
    runner.run(&cmd).context("compressing the live root")?;
    Ok(())
}

fn manifest(
    settings: &Settings,
    packages: &Packages,
    kernel: &kernel::Kernel,
    built: Timestamp,
    staging: &Path,
) -> Result<ImageManifest> {
    let mut entries: Vec<_> =
        packages.live.iter().chain(&packages.kernel).map(packages::Fetched::entry).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut listed = Vec::new();
    for path in files::walk(staging)? {
        let (sha256, size) = sum(&staging.join(&path))?;
        listed.push(ImageFile { path, size: Bytes(size), sha256 });
    }
    Ok(ImageManifest {
        version: image::VERSION,
        akene: env!("CARGO_PKG_VERSION").to_owned(),
        distribution: settings.archive.distribution,
        suite: settings.archive.suite.clone(),
        architecture: "amd64".to_owned(),
        kernel: kernel.release.clone(),
        built,
        wireless: settings.wireless,
        packages: entries,
        files: listed,
    })
}

/// Sum and length of a file, whatever its size.
fn sum(path: &Path) -> Result<(Sha256, u64)> {
    let reading = || format!("reading {}", path.display());
    Sha256::of_reader(fs::File::open(path).with_context(reading)?).with_context(reading)
}

/// Sums of all files of the medium but those a stamp changes, and the BIOS loader, into which xorriso
/// writes where it lies.
fn sums(tree: &Path) -> Result<()> {
    let mut text = String::new();
    for path in files::walk(tree)? {
        let changes = [stamp::AREA, stamp::ENVIRONMENT, stamp::PROFILE, "boot/grub/bios.img"];
        if changes.contains(&path.as_str()) {
            continue;
        }
        text.push_str(&format!("{}  {path}\n", sum(&tree.join(&path))?.0));
    }
    files::write(&tree.join(stamp::SUMS), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_static_program_is_taken_for_the_agent() {
        // All programs of this workspace are static, its tests too; those of a distribution are not.
        check_agent(&std::env::current_exe().unwrap()).unwrap();
        let refusal = |path: &Path| format!("{:#}", check_agent(path).unwrap_err());
        assert!(refusal(&fs::canonicalize("/bin/sh").unwrap()).contains("needs shared libraries"));
        let text = tempfile::NamedTempFile::new().unwrap();
        fs::write(text.path(), "#!/bin/sh\n").unwrap();
        assert!(refusal(text.path()).contains("is not a 64-bit program"));
        // Cut off, or with a table that lies outside.
        fs::write(text.path(), b"\x7fELF\x02").unwrap();
        check_agent(text.path()).unwrap();
        fs::write(text.path(), [b"\x7fELF\x02".as_slice(), &[0xff; 100]].concat()).unwrap();
        check_agent(text.path()).unwrap();
        assert!(refusal(Path::new("/nonexistent")).contains("cargo build"));
    }
}
