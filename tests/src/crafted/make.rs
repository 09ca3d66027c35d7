//! Package files written member by member.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::deb::archive;

/// How the members of a package are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
    /// The data the way lzma was before xz: dpkg reads it, and hardly anybody else.
    Lzma,
}

/// What an entry of a package is.
#[derive(Clone, Copy, Debug)]
pub(super) enum What<'a> {
    Directory,
    File(&'a str),
    Link(&'a str),
    /// Another name of an earlier entry.
    Hard(&'a str),
    Fifo,
    Null,
}

/// One entry: its path as dpkg will list it, what, mode, owner (name and number).
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) path: &'a str,
    pub(super) what: What<'a>,
    pub(super) mode: u32,
    pub(super) owner: (&'a str, u64),
    pub(super) group: (&'a str, u64),
}

const ROOT: (&str, u64) = ("root", 0);

pub(super) fn file<'a>(path: &'a str, text: &'a str) -> Entry<'a> {
    Entry { path, what: What::File(text), mode: 0o644, owner: ROOT, group: ROOT }
}

pub(super) fn program<'a>(path: &'a str, text: &'a str) -> Entry<'a> {
    Entry { mode: 0o755, ..file(path, text) }
}

pub(super) fn link<'a>(path: &'a str, target: &'a str) -> Entry<'a> {
    Entry { what: What::Link(target), mode: 0o777, ..file(path, "") }
}

pub(super) fn hard<'a>(path: &'a str, first: &'a str) -> Entry<'a> {
    Entry { what: What::Hard(first), ..file(path, "") }
}

/// A package in the making.
#[derive(Debug)]
pub(super) struct Package<'a> {
    pub(super) name: &'a str,
    pub(super) architecture: &'a str,
    /// Further fields of its control file.
    pub(super) fields: &'a str,
    /// Other members of its control archive: scripts, conffiles, triggers, templates.
    pub(super) control: Vec<(&'a str, &'a str)>,
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) packing: Packing,
    /// Ships its checksums. dpkg makes them where not.
    pub(super) sums: bool,
    /// Its scripts are executable. dpkg makes them so where not.
    pub(super) executable: bool,
}

pub(super) fn package<'a>(name: &'a str, fields: &'a str) -> Package<'a> {
    Package {
        name,
        architecture: "all",
        fields,
        control: Vec::new(),
        entries: Vec::new(),
        packing: Packing::Xz,
        sums: true,
        executable: true,
    }
}

impl<'a> Package<'a> {
    pub(super) fn control(mut self, name: &'a str, text: &'a str) -> Self {
        self.control.push((name, text));
        self
    }

    pub(super) fn entry(mut self, entry: Entry<'a>) -> Self {
        self.entries.push(entry);
        self
    }

    pub(super) fn packed(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    pub(super) fn build(&self, dir: &Path) -> Result<PathBuf> {
        let Package { name, architecture, fields, .. } = self;
        let control = format!(
            "Package: {name}\nVersion: 1:2.0-1\nArchitecture: {architecture}\nMaintainer: Nobody <nobody@example.org>\n\
             {fields}Section: misc\nPriority: optional\nDescription: made for a test\n More is not to be said.\n .\n But this.\n"
        );
        let mut sums = String::new();
        for entry in &self.entries {
            if let What::File(text) = entry.what {
                let path = entry.path.trim_start_matches('/');
                sums.push_str(&format!("{}  {path}\n", crate::deb::md5(text.as_bytes())?));
            }
        }
        let mut members = tar::Builder::new(Vec::new());
        add(&mut members, &Entry { what: What::Directory, mode: 0o755, ..file(".", "") })?;
        add(&mut members, &file("control", &control))?;
        if self.sums && !sums.is_empty() {
            add(&mut members, &file("md5sums", &sums))?;
        }
        for (name, text) in &self.control {
            let mode = if self.executable && text.starts_with("#!") { 0o755 } else { 0o644 };
            add(&mut members, &Entry { mode, ..file(name, text) })?;
        }
        let control = members.into_inner().context("ending the control archive")?;
        let mut members = tar::Builder::new(Vec::new());
        let mut made: Vec<String> = Vec::new();
        for entry in &self.entries {
            // The directories above it, each once, the root first; unless the package has its own idea of one.
            for (at, _) in entry.path.match_indices('/') {
                let above = if at == 0 { "." } else { &entry.path[..at] };
                if !made.iter().any(|m| m == above) {
                    made.push(above.to_owned());
                    add(&mut members, &Entry { what: What::Directory, mode: 0o755, ..file(above, "") })?;
                }
            }
            made.push(entry.path.to_owned());
            add(&mut members, entry)?;
        }
        let data = members.into_inner().context("ending the data archive")?;
        let (suffix, control, data) = match self.packing {
            Packing::None => ("", control, data),
            Packing::Gzip => (".gz", gzip(&control)?, gzip(&data)?),
            Packing::Xz => (".xz", xz(&control)?, xz(&data)?),
            Packing::Zstd => (".zst", zstd(&control)?, zstd(&data)?),
            Packing::Lzma => (".lzma", control, lzma(&data)?),
        };
        // dpkg takes old forms for the files alone.
        let of_control = if self.packing == Packing::Lzma { "" } else { suffix };
        let (control_name, data_name) = (format!("control.tar{of_control}"), format!("data.tar{suffix}"));
        let bytes = archive(&[("debian-binary", b"2.0\n"), (&control_name, &control), (&data_name, &data)]);
        let to = dir.join(format!("{name}_1%3a2.0-1_{architecture}.deb"));
        std::fs::write(&to, bytes).with_context(|| format!("writing {}", to.display()))?;
        Ok(to)
    }
}

fn add(to: &mut tar::Builder<Vec<u8>>, entry: &Entry<'_>) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(1_650_000_000);
    header.set_username(entry.owner.0)?;
    header.set_groupname(entry.group.0)?;
    header.set_uid(entry.owner.1);
    header.set_gid(entry.group.1);
    header.set_size(0);
    let as_member = |path: &str| match path {
        "." => "./".to_owned(),
        path => format!("./{}", path.trim_start_matches('/')),
    };
    let mut path = as_member(entry.path);
    let mut content = "";
    match entry.what {
        What::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            if !path.ends_with('/') {
                path.push('/');
            }
        }
        What::File(text) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(text.len() as u64);
            content = text;
        }
        What::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            long(to, &path)?;
            header.set_link_name_literal(target)?;
            return append(to, header, &path, "");
        }
        What::Hard(first) => {
            header.set_entry_type(tar::EntryType::Link);
            long(to, &path)?;
            header.set_link_name_literal(as_member(first))?;
            return append(to, header, &path, "");
        }
        What::Fifo => header.set_entry_type(tar::EntryType::Fifo),
        What::Null => {
            header.set_entry_type(tar::EntryType::Char);
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
    }
    long(to, &path)?;
    append(to, header, &path, content)
}

/// The extra member that carries a name no header can hold.
fn long(to: &mut tar::Builder<Vec<u8>>, path: &str) -> Result<()> {
    if path.len() < 100 {
        return Ok(());
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(path.len() as u64 + 1);
    append(to, header, "././@LongLink", &format!("{path}\0"))
}

fn append(to: &mut tar::Builder<Vec<u8>>, mut header: tar::Header, path: &str, content: &str) -> Result<()> {
    let name = path.as_bytes();
    let room = &mut header.as_old_mut().name;
    let length = name.len().min(room.len());
    room[..length].copy_from_slice(&name[..length]);
    header.set_cksum();
    to.append(&header, content.as_bytes()).with_context(|| format!("packing {path}"))
}

fn gzip(plain: &[u8]) -> Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(plain).context("compressing with gzip")?;
    out.finish().context("compressing with gzip")
}

fn xz(plain: &[u8]) -> Result<Vec<u8>> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
    out.write_all(plain).context("compressing with xz")?;
    out.finish().context("compressing with xz")
}

fn lzma(plain: &[u8]) -> Result<Vec<u8>> {
    let options = liblzma::stream::LzmaOptions::new_preset(1).context("choosing how to compress")?;
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).context("starting to compress")?;
    let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    out.write_all(plain).context("compressing with lzma")?;
    out.finish().context("compressing with lzma")
}

fn zstd(plain: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(plain, 3).context("compressing with zstd")
}
