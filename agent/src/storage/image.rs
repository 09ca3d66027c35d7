//! A disk image as a disk: how an installation runs without a machine.
//!
//! The image is attached to a loop device with the sector size asked for. The kernel detaches it by itself
//! when the last user is gone, so that even a killed program leaves nothing behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_protocol::Bytes;
use anyhow::{Context, Result, bail, ensure};

use crate::probe::table;
use crate::sys::{block, loopdev};

/// How long a process that is just ending may keep the image busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// A disk image attached to a loop device until it is dropped.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    device: File,
    sector: u32,
}

impl Image {
    /// Makes a sparse image of this size; an existing file is emptied. Then attaches it.
    pub fn create(file: &Path, size: Bytes, sector: u32) -> Result<Self> {
        File::create(file)
            .and_then(|f| f.set_len(size.0))
            .with_context(|| format!("creating the disk image {} of {size}", file.display()))?;
        Self::attach(file, sector)
    }

    /// Attaches an image, and makes its partitions known to the kernel.
    pub fn attach(file: &Path, sector: u32) -> Result<Self> {
        let (path, device) = loopdev::attach_disk(file, sector)?;
        let got = block::logical_sector(&device)?;
        ensure!(got == sector, "attaching {} gave sectors of {got} bytes, not {sector}", file.display());
        let image = Image { path, device, sector };
        image.show_partitions()?;
        Ok(image)
    }

    /// The loop device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the partitions in the image's table known to the kernel, whether it has a parser or not.
    pub fn show_partitions(&self) -> Result<()> {
        let table = table::read(&self.device, block::size(&self.device)?, self.sector)?;
        let partitions = table.map(|t| t.partitions).unwrap_or_default();
        super::kernel::synchronise(&self.device, &self.path, &partitions)
    }

    /// Detaches the image. Everything written is in the file afterwards, and nobody writes to it any more.
    ///
    /// # Errors
    /// Also where somebody else still uses it: the kernel then detaches it only after that.
    pub fn detach(self) -> Result<()> {
        let Image { path, device, .. } = self;
        device.sync_all().with_context(|| format!("writing out {}", path.display()))?;
        let held = loopdev::backing_file(&path)?;
        loopdev::detach(&device).with_context(|| format!("detaching {}", path.display()))?;
        drop(device);
        let deadline = Instant::now() + PATIENCE;
        while held.is_some() && loopdev::backing_file(&path)? == held {
            if Instant::now() > deadline {
                bail!(
                    "detaching {}: something else still uses it or has its filesystems mounted; wait until it is gone from `losetup -l` before starting anything from the image",
                    path.display()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
