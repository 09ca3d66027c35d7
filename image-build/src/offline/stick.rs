//! A stick: the live system's ISO, and behind it a partition with everything else.
//!
//! Neither root nor mounting is needed: mke2fs fills the filesystem it makes, in the middle of an image or device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::medium::{LABEL, MediumFile, MediumId};
use akene_protocol::{Bytes, Sha256};
use anyhow::{Context, Result, bail, ensure};
use uuid::Uuid;

use super::size::{JOURNAL_MIB, Load, Place};
use super::table::{Span, Table};
use super::tree::Staged;
use super::{Goal, device, table};
use crate::inspect;
use crate::iso9660::Iso;
use crate::stamp;

/// What every GRUB and every kernel reads that this may meet; a newer mke2fs turns on more.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum";

/// A slow stick takes an hour for 20 GB.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// The files of the live system that the manifest names, by their path below `akene/`.
const NAMED: [&str; 2] = ["vmlinuz", "initrd.img"];

/// An ISO of `akene-image build`.
pub struct LiveSystem {
    /// The file.
    pub path: PathBuf,
    /// It, opened.
    pub file: File,
    /// Its bytes.
    pub size: Bytes,
}

impl LiveSystem {
    /// Opens one.
    ///
    /// # Errors
    /// It is something else, or a stick already.
    pub fn open(path: &Path) -> Result<LiveSystem> {
        stamp::read(path)?;
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        if table::data(&file)?.is_some() {
            bail!("{} is a stick already; name the ISO of `akene-image build` with --image", path.display());
        }
        let size = Bytes(device::size(path)?);
        Ok(LiveSystem { path: path.to_owned(), file, size })
    }

    /// Its files that the manifest names.
    ///
    /// # Errors
    /// One is missing.
    pub fn files(&self) -> Result<Vec<MediumFile>> {
        files(&self.file).with_context(|| format!("reading {}", self.path.display()))
    }
}

/// The files of the live system at the beginning of this image that the manifest names.
///
/// # Errors
/// One is missing.
pub fn files(image: &File) -> Result<Vec<MediumFile>> {
    let iso = Iso::open(image)?;
    let file = |name: &&str| {
        let extent =
            iso.find(&format!("akene/{name}"))?.with_context(|| format!("looking for akene/{name}"))?;
        let sha256: Sha256 = inspect::hash(image, extent.offset, extent.length)?;
        Ok(MediumFile { path: (*name).to_owned(), size: Bytes(extent.length), sha256 })
    };
    NAMED.iter().map(file).collect()
}

/// The id of partition and filesystem of a medium.
pub fn uuid(id: MediumId) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("akene medium {id}").as_bytes())
}

/// Writes a new stick: the live system, the data, and last the table that makes both known. A file gets its size; of a
/// device everything is lost.
///
/// # Errors
/// What keeps it from being written.
pub fn write(
    runner: &dyn Runner,
    live: &LiveSystem,
    staged: &Staged,
    place: &Place,
    id: MediumId,
    to: &Path,
) -> Result<()> {
    let writing = || format!("writing {}", to.display());
    let start = place.data.context("making a stick of what was reckoned for a disc")?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(to)
        .with_context(writing)?;
    if !device::is_device(to)? {
        file.set_len(place.whole.0).with_context(writing)?;
    }
    let (table, data) = Table::new(&live.file, place.whole.0, start, uuid(id))?;
    ensure!(
        data.length >= place.load.partition(),
        "there is too little room for the data behind the live system"
    );
    let mut iso = File::open(&live.path).with_context(|| format!("opening {}", live.path.display()))?;
    io::copy(&mut iso, &mut file).with_context(writing)?;
    runner
        .run(&filesystem(staged.path(), to, data, place.load, uuid(id)))
        .context("making the data partition")?;
    table.write(&file)?;
    file.sync_all().with_context(writing)
}

/// The command that makes the data partition and fills it from a directory.
pub(super) fn filesystem(from: &Path, image: &Path, place: Span, load: Load, id: Uuid) -> Cmd {
    // Old bytes of a device are written over now, not by the kernel of whoever mounts it first.
    let options =
        format!("offset={},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0", place.start);
    Cmd::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-L", LABEL, "-O", FEATURES])
        .args(["-U", &id.to_string(), "-J", &format!("size={JOURNAL_MIB}"), "-N", &load.inodes().to_string()])
        .args(["-E", &options, "-d"])
        .arg(from)
        .arg(image)
        .arg(format!("{}k", place.length / 1024))
        .timeout(PATIENCE)
}

/// What is being made: a file that gets its name when it is whole, or a device.
pub struct Unfinished {
    path: PathBuf,
    goal: Option<PathBuf>,
}

impl Unfinished {
    /// Beside its goal, where that is a file.
    ///
    /// # Errors
    /// The goal is no name of a file.
    pub fn beside(goal: &Goal) -> Result<Unfinished> {
        if let Goal::Device(path, _) = goal {
            return Ok(Unfinished { path: path.clone(), goal: None });
        }
        let goal = goal.path();
        let mut name = goal.file_name().with_context(|| format!("naming {}", goal.display()))?.to_os_string();
        name.push(".unfinished");
        let path = goal.with_file_name(name);
        crate::files::remove(&path)?;
        Ok(Unfinished { path, goal: Some(goal.to_owned()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// The system refuses.
    pub fn finish(mut self) -> Result<()> {
        if let Some(goal) = self.goal.take() {
            fs::rename(&self.path, &goal)
                .with_context(|| format!("naming the finished {}", goal.display()))?;
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Of no use to anybody: half a medium.
        if self.goal.is_some()
            && let Err(error) = crate::files::remove(&self.path)
        {
            eprintln!("{error:#}");
        }
    }
}
