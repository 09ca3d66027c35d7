//! From the initramfs to the live root. System calls only: no thread, no process.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use akene_protocol::Issue;
use akene_protocol::image;
use anyhow::{Context, Result};
use nix::mount::MsFlags;

use super::INITRAMFS;
use crate::sys::{kernel, loopdev};

/// Where the new root is put together, in the initramfs: the mounts it is made of stay there, out of
/// everybody's way.
const LOWER: &str = "/live/lower";
const LAYER: &str = "/live/layer";
const NEW_ROOT: &str = "/live/root";

/// Makes the live root `/`. Returns what did not work but can be lived without.
pub fn switch() -> Result<Vec<Issue>> {
    mount_kernel_filesystems()?;
    let warnings = load_modules(&Path::new("/").join(image::MODULES));
    mount_live_root(&Path::new("/").join(image::ROOT))?;
    enter_live_root()?;
    Ok(warnings)
}

/// `/dev` first: until it is there, standard output may lead nowhere.
fn mount_kernel_filesystems() -> Result<()> {
    let secure = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount_unless_mounted("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")?;
    mount_unless_mounted("proc", "/proc", "proc", secure, "")?;
    mount_unless_mounted("sysfs", "/sys", "sysfs", secure, "")?;
    kernel::mount("tmpfs", Path::new("/run"), "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")?;
    Ok(())
}

/// A kernel with CONFIG_DEVTMPFS_MOUNT does it before us in some configurations.
fn mount_unless_mounted(source: &str, target: &str, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    match kernel::mount(source, Path::new(target), kind, flags, options) {
        Err(e) if e.downcast_ref() == Some(&nix::errno::Errno::EBUSY) => Ok(()),
        other => other,
    }
}

/// Loads what stands between us and the live root, in the order of the file names. A module that does
/// not load is reported but may not matter; if it does, mounting says so.
fn load_modules(directory: &Path) -> Vec<Issue> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
        // Everything is built in.
        Err(_) => return Vec::new(),
    };
    files.retain(|f| f.extension().is_some_and(|e| e == "ko"));
    files.sort();
    let load = |file: &PathBuf| {
        // Without a parameter, old kernels make eight loop devices that nobody needs.
        let is_loop = file.file_stem().is_some_and(|s| s.to_string_lossy().ends_with("-loop"));
        let parameters = CString::from(if is_loop { c"max_loop=0" } else { c"" });
        kernel::load_module(file, &parameters).err()
    };
    files
        .iter()
        .filter_map(|file| {
            let error = load(file)?;
            Some(Issue::new("module-not-loaded", file.display().to_string(), format!("{error:#}"), ""))
        })
        .collect()
}

fn mount_live_root(squashfs: &Path) -> Result<()> {
    let (lower, layer) = (Path::new(LOWER), Path::new(LAYER));
    let (device, _open) = loopdev::attach_read_only(squashfs)?;
    kernel::mount(&device.to_string_lossy(), lower, "squashfs", MsFlags::MS_RDONLY, "")
        .context("opening the live root (is the medium damaged?)")?;
    // Sizes are limits, not reservations. Packages staged in memory land here.
    kernel::mount("tmpfs", layer, "tmpfs", MsFlags::empty(), "mode=0755,size=90%")?;
    for directory in ["upper", "work"] {
        let directory = layer.join(directory);
        std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        layer.join("upper").display(),
        layer.join("work").display()
    );
    kernel::mount("overlay", Path::new(NEW_ROOT), "overlay", MsFlags::empty(), &options)
}

fn enter_live_root() -> Result<()> {
    let new_root = Path::new(NEW_ROOT);
    // The initramfs itself stays below everything; this keeps its files in reach.
    kernel::bind(Path::new("/"), Path::new(INITRAMFS))?;
    for directory in ["/dev", "/proc", "/sys", "/run"] {
        kernel::move_mount(Path::new(directory), &new_root.join(directory.trim_start_matches('/')))?;
    }
    kernel::switch_root(new_root)?;
    // The installer calls itself again (the DHCP client's script, the rescue shell's user).
    let link = Path::new("/usr/bin/akene-agent");
    if !link.exists() {
        std::os::unix::fs::symlink(Path::new(INITRAMFS).join("init"), link)
            .with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(())
}
