//! A disk for tests: an ext4 in a file, behind a loop device.

use std::fs::File;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::loopdev;

/// Whether loop devices can be used. Says so where not.
pub fn has_loop_devices() -> bool {
    let has = nix::unistd::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !has {
        eprintln!("SKIPPED: needs to be root and loop devices");
    }
    has
}

/// It goes with its file when this is dropped, and is unmounted before.
pub struct TestDisk {
    /// Its file.
    pub image: PathBuf,
    /// Its device.
    pub node: PathBuf,
    mounted: Option<PathBuf>,
    dir: tempfile::TempDir,
    _device: File,
}

impl TestDisk {
    /// One of so many MiB, with more arguments for `mkfs.ext4`. What the calling thread mounts from now on nobody else sees.
    /// `None`, and said, where that cannot be.
    pub fn new(mib: u64, more: &[&str]) -> Option<TestDisk> {
        if !has_loop_devices() {
            return None;
        }
        akene_exec::own_mounts().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        SystemRunner.run(&Cmd::new("mkfs.ext4").arg("-q").args(more).arg(&image)).unwrap();
        let (node, device) = loopdev::attach_disk(&image, 512).unwrap();
        Some(TestDisk { image, node, mounted: None, dir, _device: device })
    }

    /// Mounts it.
    pub fn mount(&mut self) -> PathBuf {
        let place = self.dir.path().join("mounted");
        std::fs::create_dir(&place).unwrap();
        mount(Some(&self.node), &place, Some("ext4"), MsFlags::empty(), None::<&str>).unwrap();
        self.mounted = Some(place.clone());
        place
    }

    /// A copy of its file, as a power cut at this moment would leave the disk.
    pub fn after_a_power_cut(&self) -> PathBuf {
        let copy = self.dir.path().join("copy.img");
        std::fs::copy(&self.image, &copy).unwrap();
        copy
    }

    /// What `debugfs`, which plays back no journal, says of the disk as it is.
    pub fn debugfs(&self, command: &str) -> String {
        SystemRunner.run(&Cmd::new("debugfs").args(["-R", command]).arg(&self.image)).unwrap().text()
    }
}

impl Drop for TestDisk {
    fn drop(&mut self) {
        if let Some(place) = &self.mounted {
            umount2(place, MntFlags::empty()).ok();
        }
    }
}
