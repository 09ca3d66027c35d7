//! Reading a `.deb`: an `ar` of two compressed tars.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::extract::Unpacker;
use crate::root::Root;

/// A decoder may not ask for more memory than this; xz at its highest level takes 65 MiB.
const DECODER_MEMORY: u64 = 256 << 20;

/// A control file larger than this is not one.
const MAX_CONTROL: u64 = 1 << 20;

/// A package file. Its hash must have been checked before: what is in it will run as root.
#[derive(Clone, Debug)]
pub struct Deb {
    path: PathBuf,
}

impl Deb {
    /// The package file at `path`; nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Deb { path: path.into() }
    }

    /// The package's control fields. Continuation lines are joined with newlines.
    ///
    /// # Errors
    /// The file cannot be read or is not a package.
    pub fn control(&self) -> Result<BTreeMap<String, String>> {
        let read = || -> Result<BTreeMap<String, String>> {
            let mut tar = tar::Archive::new(self.member("control.tar")?);
            for entry in tar.entries().context("reading the control archive")? {
                let mut entry = entry.context("reading the control archive")?;
                let path = entry.path().context("reading the control archive")?.into_owned();
                if path.strip_prefix(".").unwrap_or(&path) == Path::new("control") {
                    let mut text = String::new();
                    (&mut entry)
                        .take(MAX_CONTROL)
                        .read_to_string(&mut text)
                        .context("reading the control file")?;
                    return Ok(fields(&text));
                }
            }
            bail!("there is no control file")
        };
        read().with_context(|| format!("reading the package {}", self.path.display()))
    }

    /// Unpacks the package's files into `root`, as root with the numeric owners of the package.
    ///
    /// Nothing outside `root` can be reached: paths and symbolic links are resolved as if `root` were `/`.
    /// A symbolic link to a directory stays where the package has a directory (merged /usr), and a directory
    /// that is there keeps its owner and mode, as with dpkg.
    ///
    /// # Errors
    /// The package cannot be read, or something cannot be written.
    pub fn extract_into(&self, root: &Path) -> Result<()> {
        self.extract_some(root, &mut |_| true)
    }

    /// Unpacks the files whose path (without a leading slash) `keep` wants. Directories above them are made
    /// as needed.
    ///
    /// # Errors
    /// As for [`extract_into`](Self::extract_into).
    pub fn extract_some(&self, root: &Path, keep: &mut dyn FnMut(&Path) -> bool) -> Result<()> {
        let mut unpack =
            || -> Result<()> { Unpacker::new(Root::open(root)?).unpack(self.member("data.tar")?, keep) };
        unpack().with_context(|| format!("unpacking {} into {}", self.path.display(), root.display()))
    }

    /// The decompressed content of the member that begins with `name`.
    pub(crate) fn member(&self, name: &str) -> Result<Box<dyn Read>> {
        self.member_within(name, DECODER_MEMORY)
    }

    /// The same with less memory for the decoder, if that suffices (reading fails otherwise).
    pub(crate) fn member_within(&self, name: &str, memory: u64) -> Result<Box<dyn Read>> {
        let file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
        let (member, found) = ar_member(file, name)?;
        decompress(member, &found, memory)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A part of a package that is compressed in a way we do not know; dpkg may.
#[derive(Debug, thiserror::Error)]
#[error("its part `{0}` is compressed in a way we do not know")]
pub(crate) struct UnknownCompression(String);

/// Reads the header lines of an `ar` up to the member whose name begins with `name`.
pub(crate) fn ar_member<R: Read + Seek>(mut file: R, name: &str) -> Result<(Take<R>, String)> {
    let mut magic = [0; 8];
    file.read_exact(&mut magic).context("reading the magic number")?;
    if &magic != b"!<arch>\n" {
        bail!("it is not a Debian package");
    }
    loop {
        let mut header = [0; 60];
        file.read_exact(&mut header)
            .with_context(|| format!("looking for {name}, which it does not have"))?;
        if &header[58..] != b"`\n" {
            bail!("its table of contents is damaged");
        }
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim_end().to_owned();
        let member = text(0..16).trim_end_matches('/').to_owned();
        let size: u64 = text(48..58).parse().context("reading its table of contents")?;
        if member == name || member.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
            return Ok((file.take(size), member));
        }
        // A size has at most ten digits, so this fits.
        let skip = i64::try_from(size + size % 2).context("reading its table of contents")?;
        file.seek(SeekFrom::Current(skip)).context("reading its table of contents")?;
    }
}

fn decompress<R: Read + 'static>(member: R, name: &str, memory: u64) -> Result<Box<dyn Read>> {
    let member = BufReader::with_capacity(64 << 10, member);
    Ok(match name.rsplit('.').next() {
        Some("xz") => {
            let stream = liblzma::stream::Stream::new_stream_decoder(memory, liblzma::stream::CONCATENATED)
                .context("starting the xz decoder")?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(member, stream))
        }
        Some("zst") => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(member).context("starting the zstd decoder")?;
            // The window is what takes memory: two to that power.
            decoder.window_log_max(memory.ilog2().clamp(10, 27)).context("starting the zstd decoder")?;
            Box::new(decoder)
        }
        Some("gz") => Box::new(flate2::bufread::MultiGzDecoder::new(member)),
        Some("tar") => Box::new(member),
        _ => return Err(UnknownCompression(name.to_owned()).into()),
    })
}

/// Reads an archive beyond its last entry: the checksum of what is compressed comes there.
pub(crate) fn to_its_end<R: Read>(tar: tar::Archive<R>) -> Result<()> {
    io::copy(&mut tar.into_inner(), &mut io::sink()).map(drop).context("reading it to its end")
}

/// The fields of a control paragraph.
fn fields(text: &str) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = last.as_ref().and_then(|name| fields.get_mut(name)) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.insert(name.to_owned(), value.trim().to_owned());
            last = Some(name.to_owned());
        }
    }
    fields
}
