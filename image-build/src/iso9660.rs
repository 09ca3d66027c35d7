//! Finding files in an ISO image: where a file's bytes lie, so that they can be read or replaced in place.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

const SECTOR: u64 = 2048;

/// No directory of ours is larger, with 20000 packages in it; a damaged image must not make us read gigabytes.
const MAX_DIRECTORY: u64 = 8 << 20;

/// Where a file lies in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// An ISO 9660 image.
pub struct Iso<'a> {
    file: &'a File,
    size: u64,
    root: Extent,
    label: String,
}

impl<'a> Iso<'a> {
    /// Reads the volume descriptor.
    pub fn open(file: &'a File) -> Result<Iso<'a>> {
        // By seeking, for a stick is a device and has no length of its own.
        let size = (&mut &*file).seek(SeekFrom::End(0)).context("looking at the image")?;
        let mut sector = [0; SECTOR as usize];
        if size < 17 * SECTOR {
            bail!("it is too small to be an ISO image");
        }
        file.read_exact_at(&mut sector, 16 * SECTOR).context("reading the volume descriptor")?;
        if &sector[..7] != b"\x01CD001\x01" {
            bail!("it is not an ISO image");
        }
        let label = String::from_utf8_lossy(&sector[40..72]).trim_end().to_owned();
        let root = record(&sector[156..190]).context("reading the root directory's place")?.1;
        Ok(Iso { file, size, root, label })
    }

    /// The volume's label.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where the file at `path` (`akene/stamp.img`) lies. `None`: there is none.
    pub fn find(&self, path: &str) -> Result<Option<Extent>> {
        let mut here = self.root;
        for name in path.split('/') {
            match self.entry(here, name).with_context(|| format!("looking for {path}"))? {
                Some(extent) => here = extent,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The bytes of a file no larger than `most`.
    pub fn read(&self, extent: Extent, most: u64) -> Result<Vec<u8>> {
        if extent.length > most {
            bail!("{} bytes are more than the {most} such a file may have", extent.length);
        }
        let mut bytes = vec![0; extent.length as usize];
        self.file.read_exact_at(&mut bytes, extent.offset).context("reading from the image")?;
        Ok(bytes)
    }

    /// The files and directories in a directory.
    pub fn list(&self, directory: Extent) -> Result<Vec<(String, Extent)>> {
        let mut all = Vec::new();
        self.each(directory, &mut |name, extent| {
            // The first two are the directory itself and the one above it.
            if !matches!(name.as_str(), "\0" | "\u{1}") {
                all.push((name, extent));
            }
            Ok(true)
        })?;
        Ok(all)
    }

    fn entry(&self, directory: Extent, wanted: &str) -> Result<Option<Extent>> {
        let mut found = None;
        self.each(directory, &mut |name, extent| {
            if !name.eq_ignore_ascii_case(wanted) {
                return Ok(true);
            }
            if extent.offset.checked_add(extent.length).is_none_or(|end| end > self.size) {
                bail!("{wanted} lies beyond the end of the image, which is not complete");
            }
            found = Some(extent);
            Ok(false)
        })?;
        Ok(found)
    }

    /// Gives each entry of a directory to `take`, until that has enough.
    fn each(&self, directory: Extent, take: &mut dyn FnMut(String, Extent) -> Result<bool>) -> Result<()> {
        let bytes = self.read(directory, MAX_DIRECTORY).context("reading a directory")?;
        for sector in bytes.chunks(SECTOR as usize) {
            let mut at = 0;
            // A record never crosses a sector; a length of zero ends the sector.
            while let Some(&length) = sector.get(at).filter(|l| **l != 0) {
                let bytes = sector.get(at..at + length as usize).context("a directory is damaged")?;
                let (name, extent) = record(bytes)?;
                if !take(name, extent)? {
                    return Ok(());
                }
                at += length as usize;
            }
        }
        Ok(())
    }
}

/// A directory record: the name (from Rock Ridge if it is there, for plain names are cut) and the place.
fn record(bytes: &[u8]) -> Result<(String, Extent)> {
    let number = |at: usize| -> Result<u64> {
        let four = bytes.get(at..at + 4).context("a directory is damaged")?;
        Ok(u64::from(u32::from_le_bytes([four[0], four[1], four[2], four[3]])))
    };
    let extent = Extent { offset: number(2)? * SECTOR, length: number(10)? };
    let name_length = usize::from(*bytes.get(32).context("a directory is damaged")?);
    let name = bytes.get(33..33 + name_length).context("a directory is damaged")?;
    let plain = String::from_utf8_lossy(name);
    let plain = plain.split(';').next().unwrap_or_default().trim_end_matches('.').to_owned();
    let system_use = bytes.get((33 + name_length).next_multiple_of(2)..).unwrap_or_default();
    Ok((rock_ridge_name(system_use).unwrap_or(plain), extent))
}

/// The name in the `NM` entry of a record's system use area.
fn rock_ridge_name(mut area: &[u8]) -> Option<String> {
    while let [a, b, length, _, rest @ ..] = area {
        let length = usize::from(*length);
        if length < 4 || length > area.len() {
            return None;
        }
        if (a, b) == (&b'N', &b'M') && length > 5 {
            return Some(String::from_utf8_lossy(rest.get(1..length - 4)?).into_owned());
        }
        area = &area[length..];
    }
    None
}
