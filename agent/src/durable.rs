//! What a power cut leaves: whole files, the old one or the new one.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::sys::kernel;

/// Writes a file beside the old one, then puts it in its place. When this comes back it is on the disk.
pub fn replace(path: &Path, mode: u32, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let context = || format!("writing {}", path.display());
    let new = write_beside(path, mode, fill).with_context(context)?;
    fs::rename(&new, path).with_context(context)?;
    let dir = path.parent().with_context(context)?;
    File::open(dir).and_then(|d| d.sync_all()).with_context(context)
}

/// The same for what a boot loader reads, which plays back no journal: at every moment it finds the old file or the new
/// one, whole.
///
/// What the journal has is written to its places in any order. A directory that names a file whose inode is not there yet
/// shows an empty one, and so does one that still names an inode which was let go. So the new file is at its place
/// before it gets the name, and the old one goes after that is at its place.
pub fn replace_for_boot_loader(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    prepare(path, mode, fill)?;
    sync_for_boot_loader(path.parent().with_context(|| format!("writing {}", path.display()))?)?;
    exchange_for_boot_loader(path)
}

/// The first half of it: writes a file beside the one that it is to replace.
pub fn prepare(path: &Path, mode: u32, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    write_beside(path, mode, fill).map(drop).with_context(|| format!("writing {}", path.display()))
}

/// The second half: gives a file that is [prepared](prepare), and [written out](sync_for_boot_loader) for a boot loader, its name.
pub fn exchange_for_boot_loader(path: &Path) -> Result<()> {
    let context = || format!("writing {}", path.display());
    let (new, dir) = (beside(path), path.parent().with_context(context)?);
    if !path.exists() {
        fs::rename(&new, path).with_context(context)?;
        return sync_for_boot_loader(dir);
    }
    renameat2(AT_FDCWD, &new, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE).with_context(context)?;
    sync_for_boot_loader(dir)?;
    fs::remove_file(&new).with_context(|| format!("removing {}", new.display()))
}

/// Where a file is written that is to replace this one. After a power cut one may lie there, half or old.
pub fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes the file that is to replace another.
fn write_beside(path: &Path, mode: u32, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<PathBuf> {
    let new = beside(path);
    // One that a power cut left would keep its own mode, and a menu may hold the hash of a password.
    remove_if_there(&new)?;
    let file = File::options().write(true).create_new(true).mode(mode).open(&new)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(new)
}

/// Removes a file. One that is not there is as good.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes out everything of the filesystem this directory is on.
pub fn sync(dir: &Path) -> Result<()> {
    let context = || format!("writing out {}", dir.display());
    let top = File::open(dir).with_context(context)?;
    nix::unistd::syncfs(&top).with_context(context)
}

/// Writes out everything of the filesystem this directory is on, to where GRUB finds it.
///
/// GRUB does not read journals. After `fsync` alone a new file may be known to the journal only: Linux finds it
/// there after a power cut, and a boot loader finds an empty directory (why OSTree stops `/boot`
/// for a moment, too).
pub fn sync_for_boot_loader(dir: &Path) -> Result<()> {
    sync(dir)?;
    let context = || format!("writing out {}", dir.display());
    let top = File::open(dir).with_context(context)?;
    kernel::freeze_and_thaw(&top).with_context(context)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use akene_exec::{Cmd, Runner, SystemRunner};

    use super::*;
    use crate::sys::test_disk::TestDisk;

    #[test]
    fn a_file_that_a_power_cut_left_does_not_say_who_may_read_its_successor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grub.cfg");
        for left in [0o644, 0o400] {
            fs::write(beside(&path), "half, and longer").unwrap();
            fs::set_permissions(beside(&path), fs::Permissions::from_mode(left)).unwrap();
            replace(&path, 0o600, |out| out.write_all(b"menu").context("writing")).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "menu");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        }
    }

    /// GRUB's own driver reads the bytes a power cut would leave, while the filesystem is in use.
    #[test]
    fn a_boot_loader_finds_what_was_written_just_now() {
        let Some(mut disk) = TestDisk::new(64, &[]) else { return };
        let place = disk.mount();
        fs::create_dir(place.join("grub")).unwrap();
        replace(&place.join("grub/grub.cfg"), 0o644, |out| out.write_all(b"menu").context("writing"))
            .unwrap();
        sync_for_boot_loader(&place).unwrap();

        let menu = Cmd::new("grub-fstest").arg(disk.after_a_power_cut()).args(["cat", "/grub/grub.cfg"]);
        assert_eq!(SystemRunner.run(&menu).unwrap().text(), "menu");
        // It goes on afterwards.
        fs::write(place.join("more"), "more").unwrap();
    }
}
