//! A file system with one file, `disk`, that writes down everything that is done to it, in order: each write, each hole, each
//! flush. A loop device on top of it is a disk whose every step is known.
//!
//! It speaks the kernel's protocol itself (`linux/fuse.h`), as much of it as one file needs. Requests are served one
//! after the other, so that the order of the record is the order in which they were done: a flush covers exactly the
//! writes recorded before it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::record::{Op, Recorder};

/// Largest write the kernel may send.
const LARGEST: u32 = 1 << 20;

/// Requests are read whole: the largest write with its headers.
const BUFFER: usize = LARGEST as usize + (1 << 16);

/// How long it is waited for whoever still has the disk open.
const GOES: Duration = Duration::from_secs(60);

const ROOT: u64 = 1;
const DISK: u64 = 2;

/// A mounted recorder. Ending it gives everything recorded so far to the disk it is recorded on.
pub struct Recording {
    dir: PathBuf,
    server: Option<JoinHandle<Result<()>>>,
}

impl Recording {
    /// Shows `image` as `DIR/disk` and records what is done to it in `record`.
    pub fn start(image: &Path, record: &Path, dir: &Path) -> Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").context("opening /dev/fuse")?;
        let disk = File::options().read(true).write(true).open(image);
        let disk = disk.with_context(|| format!("opening {}", image.display()))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("cuts"), dir, Some("fuse"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mounting at {}", dir.display()))?;
        let recorder = Recorder::create(record)?;
        let server = thread::spawn(move || Server { device, disk, recorder }.serve());
        Ok(Recording { dir: dir.to_owned(), server: Some(server) })
    }

    /// The file.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// Ends it.
    pub fn end(mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match umount2(&self.dir, MntFlags::empty()) {
                // A loop device goes when the last one that looks at it has gone, udev for one.
                Err(Errno::EBUSY) if begun.elapsed() < GOES => thread::sleep(Duration::from_millis(50)),
                ended => break ended.with_context(|| format!("unmounting {}", self.dir.display()))?,
            }
        }
        match self.server.take().map(JoinHandle::join) {
            Some(Ok(served)) => served,
            _ => anyhow::bail!("the recorder panicked"),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.server.is_some() {
            umount2(&self.dir, MntFlags::MNT_DETACH).ok();
        }
    }
}

struct Server {
    device: File,
    disk: File,
    recorder: Recorder,
}

/// Numbers out of a request.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

impl Server {
    fn serve(mut self) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match self.device.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(e) if e.raw_os_error() == Some(Errno::ENODEV as i32) => break,
                // A request that was taken back, or a signal.
                Err(e)
                    if [Errno::ENOENT as i32, Errno::EINTR as i32]
                        .contains(&e.raw_os_error().unwrap_or(0)) =>
                {
                    continue;
                }
                Err(e) => return Err(e).context("reading a request"),
            };
            let head = Words(&buffer[..40]);
            let (opcode, unique, node) = (head.u32(4), head.u64(8), head.u64(16));
            // FORGET, INTERRUPT, BATCH_FORGET: nobody waits for an answer.
            if [2, 36, 42].contains(&opcode) {
                continue;
            }
            let (error, body) = match self.answer(opcode, node, &buffer[40..length]) {
                Ok(body) => (0, body),
                Err(e) => (-(e as i32), Vec::new()),
            };
            let mut out = Vec::with_capacity(16 + body.len());
            out.extend((16 + body.len() as u32).to_le_bytes());
            out.extend(error.to_le_bytes());
            out.extend(unique.to_le_bytes());
            out.extend(body);
            match self.device.write(&out) {
                Err(e) if e.raw_os_error() != Some(Errno::ENOENT as i32) => {
                    return Err(e).context("answering a request");
                }
                _ => {}
            }
        }
        self.recorder.finish()
    }

    fn answer(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let words = Words(body);
        let io = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO));
        Ok(match opcode {
            // LOOKUP
            1 if node == ROOT && body == b"disk\0" => {
                let mut out = Vec::new();
                for word in [DISK, 0, 3600, 3600, 0] {
                    out.extend(word.to_le_bytes());
                }
                out.extend(self.attributes(DISK).map_err(io)?);
                out
            }
            1 => return Err(Errno::ENOENT),
            // GETATTR, SETATTR: times and modes are nobody's business.
            3 | 4 => {
                let mut out = Vec::new();
                out.extend(3600u64.to_le_bytes());
                out.extend(0u64.to_le_bytes());
                out.extend(self.attributes(node).map_err(io)?);
                out
            }
            // OPEN, OPENDIR
            14 | 27 => vec![0; 16],
            // READ
            15 => {
                let mut out = vec![0; words.u32(16) as usize];
                let mut read = 0;
                while read < out.len() {
                    match self.disk.read_at(&mut out[read..], words.u64(8) + read as u64).map_err(io)? {
                        0 => break,
                        n => read += n,
                    }
                }
                out.truncate(read);
                out
            }
            // WRITE
            16 => {
                let (offset, size) = (words.u64(8), words.u32(16) as usize);
                let data = &body[40..40 + size];
                self.disk.write_all_at(data, offset).map_err(io)?;
                self.record(&Op::Write { offset, data: data.to_vec() })?;
                let mut out = (size as u32).to_le_bytes().to_vec();
                out.extend([0; 4]);
                out
            }
            // STATFS: room for everything.
            17 => {
                let mut out = Vec::new();
                for word in [1u64 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 19] {
                    out.extend(word.to_le_bytes());
                }
                for word in [4096u32, 255, 4096, 0] {
                    out.extend(word.to_le_bytes());
                }
                out.resize(80, 0);
                out
            }
            // FSYNC
            20 => {
                self.record(&Op::Flush)?;
                vec![]
            }
            // INIT
            26 => {
                let mut out = Vec::new();
                // Large writes; as many pages as one of them has.
                for word in [7, 31, words.u32(8), 1 << 5 | 1 << 22, 12 | 9 << 16, LARGEST, 1, LARGEST / 4096]
                {
                    out.extend(word.to_le_bytes());
                }
                out.resize(64, 0);
                out
            }
            // READDIR: it has nothing to show.
            28 => vec![],
            // RELEASE, FLUSH, RELEASEDIR, DESTROY
            18 | 25 | 29 | 38 => vec![],
            // FALLOCATE: what the kernel makes of discarding and of writing zeros.
            43 => {
                let (offset, length, mode) = (words.u64(8), words.u64(16), words.u32(24));
                let flags = FallocateFlags::from_bits_truncate(mode as i32);
                let whole = [
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                    FallocateFlags::FALLOC_FL_ZERO_RANGE,
                    FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                ];
                if !whole.contains(&flags) {
                    return Err(Errno::EOPNOTSUPP);
                }
                fallocate(&self.disk, flags, offset as i64, length as i64)?;
                self.record(&Op::Zero { offset, length })?;
                vec![]
            }
            _ => return Err(Errno::ENOSYS),
        })
    }

    fn record(&mut self, op: &Op) -> Result<(), Errno> {
        self.recorder.add(op).map_err(|error| {
            eprintln!("recording: {error:#}");
            Errno::EIO
        })
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> std::io::Result<Vec<u8>> {
        let size = self.disk.metadata()?.len();
        let (size, mode) = if node == ROOT { (0, 0o040_755u32) } else { (size, 0o100_600) };
        let mut out = Vec::new();
        for word in [node, size, size / 512, 0, 0, 0] {
            out.extend(word.to_le_bytes());
        }
        for word in [0u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            out.extend(word.to_le_bytes());
        }
        Ok(out)
    }
}
