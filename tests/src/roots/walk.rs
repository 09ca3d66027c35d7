//! A root as it lies on the disk.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File {
        size: u64,
    },
    Link(PathBuf),
    /// Kind and numbers.
    Device(String),
    Fifo,
    Socket,
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Kind::Directory => "directory",
            Kind::File { .. } => "file",
            Kind::Link(_) => "symbolic link",
            Kind::Device(_) => "device",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: SystemTime,
    pub(super) attributes: BTreeMap<String, Vec<u8>>,
    /// Device and inode, where it has several names.
    inode: Option<(u64, u64)>,
}

/// A walked root.
pub(super) struct Tree {
    root: PathBuf,
    pub(super) entries: BTreeMap<PathBuf, Entry>,
    pub(super) names: Names,
    links: BTreeMap<(u64, u64), Vec<PathBuf>>,
}

impl Tree {
    /// Looks at everything on the filesystem of `root`.
    pub(super) fn walk(root: &Path) -> Result<Self> {
        let mut tree = Tree {
            root: root.to_owned(),
            entries: BTreeMap::new(),
            names: Names::read(root)?,
            links: BTreeMap::new(),
        };
        let top = root.symlink_metadata().with_context(|| format!("reading {}", root.display()))?;
        tree.enter(Path::new(""), top.dev())?;
        for (path, entry) in &tree.entries {
            if let Some(inode) = entry.inode {
                tree.links.entry(inode).or_default().push(path.clone());
            }
        }
        Ok(tree)
    }

    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// All names of the file at `path`, where it has several.
    pub(super) fn same_file(&self, path: &Path) -> String {
        let inode = self.entries.get(path).and_then(|e| e.inode);
        let names = inode.and_then(|i| self.links.get(&i)).map(Vec::as_slice).unwrap_or_default();
        names.iter().map(|n| n.display().to_string()).collect::<Vec<_>>().join(" = ")
    }

    fn enter(&mut self, dir: &Path, device: u64) -> Result<()> {
        let full = self.at(dir);
        let reading = || format!("reading {}", full.display());
        for item in full.read_dir().with_context(reading)? {
            let path = dir.join(item.with_context(reading)?.file_name());
            let entry =
                self.look(&path).with_context(|| format!("looking at {}", self.at(&path).display()))?;
            let meta = self.at(&path).symlink_metadata().with_context(reading)?;
            let descend = entry.kind == Kind::Directory && meta.dev() == device;
            self.entries.insert(path.clone(), entry);
            if descend {
                self.enter(&path, device)?;
            }
        }
        Ok(())
    }

    fn look(&self, path: &Path) -> Result<Entry> {
        let full = self.at(path);
        let meta = full.symlink_metadata()?;
        let kind = meta.file_type();
        let device = |what: &str| {
            let number = meta.rdev();
            Kind::Device(format!("{what} {}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
        };
        let kind = if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Link(full.read_link()?)
        } else if kind.is_file() {
            Kind::File { size: meta.len() }
        } else if kind.is_block_device() {
            device("block")
        } else if kind.is_char_device() {
            device("character")
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            Kind::Socket
        };
        let several = kind != Kind::Directory && meta.nlink() > 1;
        Ok(Entry {
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            modified: meta.modified().context("reading its time")?,
            attributes: attributes(&full)?,
            inode: several.then(|| (meta.dev(), meta.ino())),
            kind,
        })
    }
}

/// All extended attributes of a name itself. None where the filesystem has none.
fn attributes(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut list = vec![0; 4096];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).context("listing its extended attributes"),
    };
    let mut found = BTreeMap::new();
    for name in list[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value)
            .with_context(|| format!("reading its extended attribute {name}"))?;
        value.truncate(length);
        found.insert(name, value);
    }
    Ok(found)
}

/// The accounts of a root. Numbers that are handed out at installation depend on the order of packages: such
/// users and groups are compared by name, all others by number.
pub(super) struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    fn read(root: &Path) -> Result<Self> {
        let read = |file: &str| -> Result<BTreeMap<u32, String>> {
            let path = root.join(file);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
                Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
            };
            let pair = |line: &str| {
                let fields: Vec<&str> = line.split(':').collect();
                Some((fields.get(2)?.parse().ok()?, fields.first()?.to_string()))
            };
            Ok(text.lines().filter_map(pair).collect())
        };
        Ok(Names { users: read("etc/passwd")?, groups: read("etc/group")? })
    }

    pub(super) fn user(&self, id: u32) -> String {
        by_name(&self.users, id)
    }

    pub(super) fn group(&self, id: u32) -> String {
        by_name(&self.groups, id)
    }
}

/// Debian's policy gives 100-999 out as packages ask for them, everything else is fixed.
fn by_name(names: &BTreeMap<u32, String>, id: u32) -> String {
    match names.get(&id) {
        Some(name) if (100..1000).contains(&id) => name.clone(),
        _ => id.to_string(),
    }
}
