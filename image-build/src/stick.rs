//! A stick as somebody brings it: the device, an image of it, or a directory where it is mounted already.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, own_mounts};
use akene_protocol::medium::{DIR, LABEL, REPORTS};
use akene_protocol::stamp::{Home, Source};
use akene_protocol::{Issue, Stamp};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;

use crate::offline::table::{self, Span};
use crate::stamp;

/// A stick whose data partition can be read and written.
pub struct Stick<'a> {
    runner: &'a dyn Runner,
    /// What somebody named.
    named: PathBuf,
    /// The root of the data partition.
    root: PathBuf,
    /// Where it was mounted for us.
    mounted: Option<TempDir>,
}

impl<'a> Stick<'a> {
    /// Opens a stick. Where it has to be mounted, the calling thread gets mounts of its own: it takes root.
    ///
    /// # Errors
    /// There is no data partition, or it cannot be mounted.
    pub fn open(runner: &'a dyn Runner, named: &Path) -> Result<Stick<'a>> {
        let stick = |root, mounted| Stick { runner, named: named.to_owned(), root, mounted };
        if named.is_dir() {
            if !named.join(DIR).is_dir() {
                bail!("{} is no data partition of a stick: it has no directory `{DIR}`", named.display());
            }
            return Ok(stick(named.to_owned(), None));
        }
        let span = data_partition(named)?;
        // Two mounts of one device would not know of each other.
        if let Some(place) = mounted(runner, named)? {
            return Ok(stick(place, None));
        }
        let doing = || {
            format!(
                "mounting the data partition of {}, which takes root; or mount it and name the directory",
                named.display()
            )
        };
        own_mounts().with_context(doing)?;
        let dir = tempfile::tempdir().with_context(doing)?;
        let options = format!("nosuid,nodev,noexec,loop,offset={},sizelimit={}", span.start, span.length);
        let mount = Cmd::new("mount").args(["-t", "ext4", "-o", &options]).arg(named).arg(dir.path());
        runner.run(&mount).with_context(doing)?;
        Ok(stick(dir.path().to_owned(), Some(dir)))
    }

    /// Where reports lie.
    pub fn reports(&self) -> PathBuf {
        self.root.join(DIR).join(REPORTS)
    }

    /// The server that its machines belong to, as its stamp says.
    ///
    /// # Errors
    /// It has no stamp that names one.
    pub fn home(&self) -> Result<Home> {
        let stamp = self.stamp().with_context(|| {
            format!(
                "finding out whose stick {} is; name the whole device, or the site with --site-dir",
                self.named.display()
            )
        })?;
        match stamp.source {
            Source::Medium { home: Some(home), .. } => Ok(home),
            _ => Err(Issue::new(
                "no-home",
                self.named.display().to_string(),
                "the stamp of this medium names no server that reports are for",
                "bring them into the site directory on the server: --site-dir",
            )
            .into()),
        }
    }

    fn stamp(&self) -> Result<Stamp> {
        if !self.named.is_dir() {
            return Ok(stamp::read(&self.named)?.stamp?);
        }
        // A disc, or a copy of one, has it beside its reports; of a stick that is mounted it is elsewhere on the device.
        let area = self.named.join(stamp::AREA);
        if area.is_file() {
            let bytes = fs::read(&area).with_context(|| format!("reading {}", area.display()))?;
            let stamp = Stamp::parse_area(&bytes).with_context(|| format!("reading {}", area.display()))?;
            return Ok(stamp?);
        }
        let source = Cmd::new("findmnt").args(["-n", "-o", "SOURCE", "--target"]).arg(&self.named);
        let partition = self.runner.run(&source).context("asking what is mounted there")?.text();
        let disk = Cmd::new("lsblk").args(["-n", "-d", "-p", "-o", "PKNAME"]).arg(partition.trim());
        let disk = self.runner.run(&disk).context("asking for its disk")?.text();
        if disk.trim().is_empty() {
            bail!("it is mounted from {}, which is no partition of a stick", partition.trim());
        }
        Ok(stamp::read(Path::new(disk.trim()))?.stamp?)
    }

    /// Writes everything out.
    ///
    /// # Errors
    /// It cannot be written out: the device may be gone.
    pub fn close(mut self) -> Result<()> {
        match self.mounted.take() {
            Some(dir) => {
                let unmounted = self.runner.run(&Cmd::new("umount").arg(dir.path()));
                unmounted.with_context(|| format!("writing out {}", self.named.display()))?;
                Ok(())
            }
            None => {
                let dir =
                    File::open(&self.root).with_context(|| format!("opening {}", self.root.display()))?;
                nix::unistd::syncfs(&dir).with_context(|| format!("writing out {}", self.named.display()))
            }
        }
    }
}

impl Drop for Stick<'_> {
    fn drop(&mut self) {
        if let Some(dir) = &self.mounted
            && let Err(error) = self.runner.run(&Cmd::new("umount").arg(dir.path()))
        {
            eprintln!("unmounting {}: {error:#}", self.named.display());
        }
    }
}

fn data_partition(named: &Path) -> Result<Span> {
    let doing = || format!("looking for the data partition of {}", named.display());
    let found = table::data(&File::open(named).with_context(doing)?).with_context(doing)?;
    found.with_context(|| format!("{}: it has no partition {LABEL}", doing()))
}

#[derive(Deserialize)]
struct Devices {
    blockdevices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    partlabel: Option<String>,
    mountpoint: Option<PathBuf>,
}

/// Where the data partition of a device is mounted, if it is.
fn mounted(runner: &dyn Runner, named: &Path) -> Result<Option<PathBuf>> {
    let doing = || format!("asking whether {} is mounted", named.display());
    if !fs::metadata(named).with_context(doing).is_ok_and(|meta| is_device(&meta)) {
        return Ok(None);
    }
    let cmd = Cmd::new("lsblk").args(["--json", "--list", "-o", "PARTLABEL,MOUNTPOINT"]).arg(named);
    let devices: Devices = runner.run(&cmd).and_then(|out| out.json()).with_context(doing)?;
    let ours = |device: &Device| device.partlabel.as_deref() == Some(LABEL);
    Ok(devices.blockdevices.into_iter().filter(ours).find_map(|device| device.mountpoint))
}

fn is_device(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    meta.file_type().is_block_device()
}
