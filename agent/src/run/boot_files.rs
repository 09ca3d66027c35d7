//! What lies in `akene/` on the boot partition: the installer itself, and what is known about this machine.
//!
//! The kernel and the initrd are those the live system was started with, written anew from its own root
//! and compared with the sums in the image's manifest, so that no medium has to be found or read again.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use akene_protocol::image::{self, ImageManifest};
use akene_protocol::{Envelope, Issue, Sha256, Stamp};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Record, json};
use crate::durable;
pub(super) use crate::durable::remove_if_there;
use crate::fetch::known;
use crate::target;

/// The plan of the last installation, below the boot partition.
pub const PLAN: &str = "akene/plan.json";

/// Directory of undelivered events, below the boot partition.
pub const EVENTS: &str = "akene/events";

/// Directory of sealed reports that the server does not have yet, below the boot partition.
pub const REPORTS: &str = "akene/reports";

/// The installer's kernel, initrd and stamp, below the boot partition.
pub const INSTALLER: [&str; 3] = ["akene/vmlinuz", "akene/initrd.img", STAMP];

/// The stamp among them: by it a boot partition is known to belong to a site.
pub const STAMP: &str = "akene/stamp.img";

/// What the installer's files must be.
const SUMS: &str = "akene/installer.json";

/// By this file the menu of a medium knows that the disk holds a finished installation, and starts that when
/// nobody chooses: a disc forgotten in the drive does not install again.
pub const INSTALLED: &str = "akene/state/installed";

/// GRUB's environment, below the boot partition.
pub const ENVIRONMENT: &str = "grub/grubenv";

/// How an environment begins, and its size: GRUB takes no other, and none that is missing.
const ENVIRONMENT_HEAD: &[u8] = b"# GRUB Environment Block\n";
const ENVIRONMENT_SIZE: usize = 1024;

/// An environment in which nothing but these variables is set.
pub fn environment(variables: &[(&str, &str)]) -> Vec<u8> {
    let mut block = ENVIRONMENT_HEAD.to_vec();
    for (name, value) in variables {
        block.extend_from_slice(format!("{name}={value}\n").as_bytes());
    }
    block.resize(ENVIRONMENT_SIZE, b'#');
    block
}

/// Whether GRUB takes an environment.
pub fn is_environment(block: &[u8]) -> bool {
    block.len() == ENVIRONMENT_SIZE && block.starts_with(ENVIRONMENT_HEAD)
}

/// Writes a file and the directory it lies in.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().context("finding the directory of a file")?;
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    replace_private(path, |out| out.write_all(content).context("writing"))
}

/// Says on the boot partition whether there is a finished installation.
pub fn set_installed(boot: &Path, finished: bool) -> Result<()> {
    let path = boot.join(INSTALLED);
    if finished {
        return write_private(&path, b"finished\n");
    }
    remove_if_there(&path)
}

/// Writes what is known about the machine.
pub fn write_record(boot: &Path, record: &Record<'_>) -> Result<()> {
    let dir = boot.join("akene");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let mut files = vec![
        (known::PATH, json(record.identity, "the identity")?),
        ("akene/inventory.json", json(record.inventory, "the inventory")?),
        (PLAN, json(record.plan, "the plan")?),
        ("akene/lock.json", json(record.lock, "the lock")?),
    ];
    if let Some(envelope) = &record.orders.envelope {
        files.push(("akene/profile.json", json(envelope, "the profile")?));
    }
    for (name, text) in files {
        replace_private(&boot.join(name), |out| out.write_all(&text).context("writing"))?;
    }
    Ok(())
}

/// Keeps the signed lock the machine was installed from, or takes an earlier installation's away.
pub fn write_signed_lock(boot: &Path, envelope: Option<&Envelope>) -> Result<()> {
    let path = boot.join(known::SIGNED_LOCK);
    match envelope {
        Some(envelope) => {
            let text = json(envelope, "the signed lock")?;
            replace_private(&path, |out| out.write_all(&text).context("writing"))
        }
        None => remove_if_there(&path),
    }
}

/// Holds the running installer against the manifest of its image. The live root is most of the image, and everybody runs from
/// it: a damaged stick shows here.
///
/// # Errors
/// `medium-damaged`, with the file.
pub fn check_installer(root: &Path, manifest: &ImageManifest) -> Result<()> {
    for file in &manifest.files {
        let sum = sum_of(&root.join(&file.path))?;
        if sum != file.sha256 {
            let message = format!("{} of the running installer is damaged: its sum is {sum}", file.path);
            let next = "start this computer again, from another copy of the stick or disc if it stays";
            bail!(Issue::new("medium-damaged", &*file.path, message, next));
        }
    }
    Ok(())
}

/// Writes the installer. `root` is the initramfs the live system came from.
pub fn write_installer(boot: &Path, root: &Path, stamp: &Stamp, manifest: &ImageManifest) -> Result<()> {
    let [kernel, initrd, stamp_path] = INSTALLER.map(|name| boot.join(name));
    check_installer(root, manifest)?;
    clear_half_written(boot)?;
    let source = root.join(image::KERNEL);
    let area = stamp.to_area()?;
    let sums = Installer {
        kernel: sum_of(&source)?,
        initrd: akene_archive::initrd::write(root, std::io::sink())?.1,
        stamp: Sha256::of(&area),
    };
    // What is there and whole is not written again: it is much, and old disks are slow.
    let mut differing = Vec::new();
    let mut prepare = |path, sum, fill: &mut dyn FnMut(&mut dyn Write) -> Result<()>| -> Result<()> {
        if !is(path, sum) {
            durable::prepare(path, 0o600, |out| fill(out))?;
            differing.push(path);
        }
        Ok(())
    };
    prepare(&initrd, sums.initrd, &mut |out| akene_archive::initrd::write(root, out).map(drop))?;
    prepare(&stamp_path, sums.stamp, &mut |out| out.write_all(&area).context("writing the stamp"))?;
    prepare(&kernel, sums.kernel, &mut |out| {
        let mut file = File::open(&source).with_context(|| format!("opening {}", source.display()))?;
        std::io::copy(&mut file, out).map(drop).with_context(|| format!("copying {}", source.display()))
    })?;
    if !differing.is_empty() {
        durable::sync_for_boot_loader(boot)?;
    }
    // While they get their names one after the other, some are another installer's: the menu of a whole system, which starts
    // that, offers none meanwhile. Where there is no whole system something must be started.
    let whole = boot.join(INSTALLED).exists();
    if whole && differing.len() > 1 && target::asks_for_installer(boot) {
        remove_if_there(&kernel)?;
        durable::sync_for_boot_loader(boot)?;
    }
    differing.into_iter().try_for_each(durable::exchange_for_boot_loader)?;
    let text = json(&sums, "the sums of the installer")?;
    replace_private(&boot.join(SUMS), |out| out.write_all(&text).context("writing"))
}

/// What the files of an installer must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Installer {
    kernel: Sha256,
    initrd: Sha256,
    stamp: Sha256,
}

/// Whether the installer on a boot partition is the one that was once written there, byte for byte.
pub fn has_whole_installer(boot: &Path) -> bool {
    let sums =
        fs::read(boot.join(SUMS)).ok().and_then(|text| serde_json::from_slice::<Installer>(&text).ok());
    sums.is_some_and(|sums| {
        let sums = [sums.kernel, sums.initrd, sums.stamp];
        INSTALLER.iter().zip(sums).all(|(name, sum)| is(&boot.join(name), sum))
    })
}

/// How many bytes of the installer would have to be written there beside what lies there.
pub fn installer_size(boot: &Path, root: &Path) -> Result<u64> {
    let source = root.join(image::KERNEL);
    let kernel = source.metadata().with_context(|| format!("looking at {}", source.display()))?.len();
    let (initrd, sum) = akene_archive::initrd::write(root, std::io::sink())?;
    let [there, there_initrd, _] = INSTALLER.map(|name| boot.join(name));
    let kernel = if is(&there, sum_of(&source)?) { 0 } else { kernel };
    let initrd = if is(&there_initrd, sum) { 0 } else { initrd.0 };
    Ok(kernel + initrd)
}

/// Whether a file is there with this content. One that cannot be read is not.
fn is(path: &Path, sum: Sha256) -> bool {
    sum_of(path).is_ok_and(|found| found == sum)
}

/// Mode 0600: some hold secrets, all are root's.
pub(super) fn replace_private(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    durable::replace(path, 0o600, fill)
}

/// Removes what a power cut left of an installer that was being written, or of the one it replaced: it takes room.
pub(super) fn clear_half_written(boot: &Path) -> Result<()> {
    INSTALLER.iter().try_for_each(|name| remove_if_there(&durable::beside(&boot.join(name))))
}

fn sum_of(path: &Path) -> Result<Sha256> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Sha256::of_reader(file).with_context(|| format!("reading {}", path.display()))?.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sys::test_disk::TestDisk;
    use akene_exec::{Cmd, Runner, SystemRunner};
    use akene_protocol::Bytes;
    use akene_protocol::image::ImageFile;
    use akene_protocol::profile::Distribution;
    use akene_protocol::stamp::Source;
    use std::os::unix::fs::PermissionsExt;

    fn manifest(root: &Path) -> ImageManifest {
        let file = |path: &str| {
            let bytes = fs::read(root.join(path)).unwrap();
            ImageFile { path: path.into(), size: Bytes(bytes.len() as u64), sha256: Sha256::of(&bytes) }
        };
        ImageManifest {
            version: image::VERSION,
            akene: "0".into(),
            distribution: Distribution::Debian,
            suite: "trixie".into(),
            architecture: "amd64".into(),
            kernel: "6.12".into(),
            built: jiff::Timestamp::UNIX_EPOCH,
            wireless: false,
            packages: vec![],
            files: vec![file("init"), file("akene/vmlinuz")],
        }
    }

    /// A small one.
    pub(in crate::run) fn installer() -> (tempfile::TempDir, Stamp, ImageManifest) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("akene")).unwrap();
        fs::write(root.path().join("init"), "the agent").unwrap();
        fs::write(root.path().join("akene/vmlinuz"), "the kernel").unwrap();
        fs::write(root.path().join("akene/stamp"), "secret").unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let source = Source::Medium { consent: Default::default(), attended: false, home: None };
        let stamp = Stamp::new("s", source, akene_protocol::PublicKey(key));
        let manifest = manifest(root.path());
        (root, stamp, manifest)
    }

    #[test]
    fn the_installer_on_the_disk_is_the_one_that_runs() {
        let (root, stamp, manifest) = installer();
        let boot = tempfile::tempdir().unwrap();
        fs::create_dir(boot.path().join("akene")).unwrap();
        write_installer(boot.path(), root.path(), &stamp, &manifest).unwrap();
        assert_eq!(fs::read(boot.path().join("akene/vmlinuz")).unwrap(), b"the kernel");
        let mut expected = Vec::new();
        akene_archive::initrd::write(root.path(), &mut expected).unwrap();
        assert_eq!(fs::read(boot.path().join("akene/initrd.img")).unwrap(), expected);
        let area = fs::read(boot.path().join("akene/stamp.img")).unwrap();
        assert_eq!(Stamp::parse_area(&area), Some(Ok(stamp.clone())));
        let mode = fs::metadata(boot.path().join("akene/stamp.img")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the stamp holds the token");

        assert!(has_whole_installer(boot.path()));
        assert_eq!(installer_size(boot.path(), root.path()).unwrap(), 0);
        // One of an older image, or with a rotten sector, is replaced.
        fs::write(boot.path().join("akene/initrd.img"), "old").unwrap();
        assert!(!has_whole_installer(boot.path()));
        assert_eq!(installer_size(boot.path(), root.path()).unwrap(), expected.len() as u64);
        write_installer(boot.path(), root.path(), &stamp, &manifest).unwrap();
        assert!(has_whole_installer(boot.path()));

        fs::write(root.path().join("akene/vmlinuz"), "the kernek").unwrap();
        let error = write_installer(boot.path(), root.path(), &stamp, &manifest).unwrap_err();
        assert!(error.to_string().contains("akene/vmlinuz of the running installer is damaged"), "{error}");
        assert_eq!(error.downcast_ref::<Issue>().unwrap().code, "medium-damaged");
        check_installer(root.path(), &manifest).unwrap_err();
    }

    /// The menu that is there starts the installer that is there, and a power cut may come at once.
    #[test]
    fn a_boot_loader_finds_the_installer_that_took_the_place_of_another() {
        if SystemRunner.run(&Cmd::new("grub-fstest").arg("--version")).is_err() {
            eprintln!("SKIPPED: needs grub-fstest");
            return;
        }
        let Some(mut disk) = TestDisk::new(64, &[]) else { return };
        let boot = disk.mount();
        let (root, stamp, _) = installer();
        fs::create_dir(boot.join("akene")).unwrap();
        let write = |kernel: &str, site: &str| {
            fs::write(root.path().join("akene/vmlinuz"), kernel).unwrap();
            let stamp = Stamp { site: site.into(), ..stamp.clone() };
            write_installer(&boot, root.path(), &stamp, &manifest(root.path())).unwrap();
            INSTALLER.map(|name| sum_of(&boot.join(name)).unwrap())
        };
        let first = write("a kernel", "one");
        durable::sync_for_boot_loader(&boot).unwrap();
        fs::write(root.path().join("init"), "another agent").unwrap();
        // Left by a power cut.
        fs::write(boot.join("akene/initrd.new"), "old").unwrap();
        let second = write("another kernel", "two");
        assert!(first.iter().zip(&second).all(|(one, other)| one != other));
        assert!(has_whole_installer(&boot));
        for name in INSTALLER {
            assert!(!durable::beside(&boot.join(name)).exists(), "{name}");
        }

        let after_a_power_cut = disk.after_a_power_cut();
        let found = INSTALLER.map(|name| {
            let cat = Cmd::new("grub-fstest").arg(&after_a_power_cut).args(["cat", &format!("/{name}")]);
            Sha256::of(&SystemRunner.run(&cat).unwrap().stdout)
        });
        assert_eq!(found, second);
    }

    /// Where the stamp cannot be written, the power could be cut, too.
    #[test]
    fn a_menu_that_asks_for_the_installer_offers_none_made_of_two() {
        let (root, stamp, _) = installer();
        let boot = tempfile::tempdir().unwrap();
        let [kernel, initrd, stamp_path] = INSTALLER.map(|name| boot.path().join(name));
        for dir in ["akene", "grub"] {
            fs::create_dir(boot.path().join(dir)).unwrap();
        }
        let asks = INSTALLER.map(|file| format!("-f \"($akene)/{file}\"")).join(" -a ");
        let mark = boot.path().join(INSTALLED);
        fs::create_dir_all(mark.parent().unwrap()).unwrap();
        for (menu, whole, differ, there) in [
            ("unfinished", true, 3, true),
            (&asks, true, 3, false),
            (&asks, true, 1, true),
            // Half a system has nothing else to start.
            (&asks, false, 3, true),
        ] {
            fs::write(boot.path().join(target::MENU), menu).unwrap();
            match whole {
                true => fs::write(&mark, "").unwrap(),
                false => remove_if_there(&mark).unwrap(),
            }
            if differ == 3 {
                fs::write(&kernel, "another").unwrap();
                fs::write(&initrd, "another").unwrap();
            }
            // It is replaced, and cannot be removed.
            remove_if_there(&stamp_path).unwrap();
            fs::create_dir(&stamp_path).unwrap();
            let write = || write_installer(boot.path(), root.path(), &stamp, &manifest(root.path()));
            assert!(write().is_err());
            assert_eq!(kernel.exists(), there, "{menu}, {whole}, {differ}");
            fs::remove_dir(durable::beside(&stamp_path)).unwrap();
            write().unwrap();
            assert!(has_whole_installer(boot.path()));
        }
    }

    #[test]
    fn an_installer_that_cannot_be_written_leaves_the_one_that_is_there() {
        let Some(mut disk) = TestDisk::new(16, &[]) else { return };
        let (boot, (root, stamp, _)) = (disk.mount(), installer());
        let write = || write_installer(&boot, root.path(), &stamp, &manifest(root.path()));
        for dir in ["akene/state", "grub"] {
            fs::create_dir_all(boot.join(dir)).unwrap();
        }
        fs::write(boot.join(INSTALLED), "").unwrap();
        let asks = INSTALLER.map(|file| format!("-f \"($akene)/{file}\"")).join(" -a ");
        fs::write(boot.join(target::MENU), asks).unwrap();
        INSTALLER.iter().for_each(|name| fs::write(boot.join(name), "another").unwrap());
        let mut filler = fs::File::create(boot.join("filler")).unwrap();
        for piece in [1 << 20, 1 << 10] {
            while filler.write_all(&vec![1; piece]).and_then(|()| filler.sync_all()).is_ok() {}
        }
        assert!(write().is_err());
        INSTALLER.iter().for_each(|name| assert_eq!(fs::read_to_string(boot.join(name)).unwrap(), "another"));
        drop(filler);
        fs::remove_file(boot.join("filler")).unwrap();
        write().unwrap();
        assert!(has_whole_installer(&boot));
    }

    #[test]
    fn what_a_power_cut_left_takes_no_room() {
        let (root, stamp, manifest) = installer();
        let boot = tempfile::tempdir().unwrap();
        let akene = boot.path().join("akene");
        fs::create_dir(&akene).unwrap();
        write_installer(boot.path(), root.path(), &stamp, &manifest).unwrap();
        // Whole, so that nothing is written again.
        fs::write(akene.join("vmlinuz.new"), "old").unwrap();
        write_installer(boot.path(), root.path(), &stamp, &manifest).unwrap();
        assert!(has_whole_installer(boot.path()) && !akene.join("vmlinuz.new").exists());
    }
}
