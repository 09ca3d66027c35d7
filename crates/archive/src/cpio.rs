//! Writing initramfs archives (cpio, "newc"), the same bytes for the same input.
//!
//! The initrd of the medium is built with this on a developer's machine, and built again by the
//! running live system when it puts itself on the disk; both must be equal byte for byte. So
//! everything that could differ is fixed: owner 0, time 0, inode numbers in the order of the calls,
//! no device numbers. The caller decides the order and names parent directories before what is in them.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

/// Type bits of a directory, for [`Writer::entry`].
const DIRECTORY: u32 = 0o040000;
/// Type bits of a regular file.
const FILE: u32 = 0o100000;
/// Type bits of a symbolic link.
const SYMLINK: u32 = 0o120000;

/// Sizes in the header are 32 bits wide.
const LARGEST: u64 = u32::MAX as u64;

/// Writes one archive and sums up what it has written.
pub struct Writer<W: Write> {
    out: W,
    written: u64,
    hash: Sha256,
    next_inode: u32,
}

impl<W: Write> Writer<W> {
    /// An archive written to `out`.
    pub fn new(out: W) -> Self {
        Writer { out, written: 0, hash: Sha256::new(), next_inode: 1 }
    }

    /// Adds a directory. `path` has no slash at its beginning or end.
    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | permissions, 2, 0)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, SYMLINK | 0o777, 1, target.len() as u64)?;
        self.put(target.as_bytes())?;
        self.pad()
    }

    /// Adds a file with these bytes.
    pub fn file(&mut self, path: &str, permissions: u32, bytes: &[u8]) -> io::Result<()> {
        self.file_from(path, permissions, bytes.len() as u64, bytes)
    }

    /// Adds a file of exactly `size` bytes read from `content`.
    ///
    /// # Errors
    /// Also when there are fewer or more bytes than `size`, or more than the format can hold (4 GiB).
    pub fn file_from(
        &mut self,
        path: &str,
        permissions: u32,
        size: u64,
        mut content: impl Read,
    ) -> io::Result<()> {
        self.entry(path, FILE | permissions, 1, size)?;
        let mut left = size;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = content.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            left = left.checked_sub(n as u64).ok_or_else(|| {
                io::Error::other(format!("{path} has more than the announced {size} bytes"))
            })?;
            self.put(&buffer[..n])?;
        }
        if left > 0 {
            return Err(io::Error::other(format!("{path} has {left} bytes fewer than the announced {size}")));
        }
        self.pad()
    }

    /// Ends the archive. Gives back the stream, its length and the SHA-256 of everything written.
    pub fn finish(mut self) -> io::Result<(W, u64, [u8; 32])> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, 1, 0)?;
        self.out.flush()?;
        Ok((self.out, self.written, self.hash.finalize().into()))
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, size: u64) -> io::Result<()> {
        if size > LARGEST {
            return Err(io::Error::other(format!("{path} is larger than an initramfs can hold")));
        }
        let inode = self.next_inode;
        self.next_inode = self.next_inode.wrapping_add(1);
        // magic, then: inode, mode, uid, gid, links, mtime, size, device and rdevice (two each),
        // length of the name with its NUL, checksum (unused in this variant).
        let fields = [inode, mode, 0, 0, links, 0, size as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            header.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        header.extend_from_slice(path.as_bytes());
        header.push(0);
        self.put(&header)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let rest = (4 - self.written % 4) % 4;
        self.put(&[0; 3][..rest as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::{Cmd, Runner, SystemRunner};

    fn sample() -> Vec<u8> {
        let mut cpio = Writer::new(Vec::new());
        cpio.file("init", 0o755, b"#!/bin/sh\necho five\n").unwrap();
        cpio.directory("akene", 0o755).unwrap();
        cpio.file("akene/odd", 0o600, b"abc").unwrap();
        cpio.symlink("akene/link", "odd").unwrap();
        cpio.finish().unwrap().0
    }

    /// The oracle is GNU cpio, where there is one.
    #[test]
    fn another_program_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let cmd = Cmd::new("cpio").args(["-idm", "--quiet"]).dir(dir.path()).stdin(sample());
        if let Err(error) = SystemRunner.run(&cmd) {
            assert!(error.to_string().contains("cannot be started"), "{error}");
            eprintln!("SKIPPED: there is no cpio program here");
            return;
        }
        assert_eq!(std::fs::read(dir.path().join("init")).unwrap(), b"#!/bin/sh\necho five\n");
        assert_eq!(std::fs::read(dir.path().join("akene/odd")).unwrap(), b"abc");
        assert_eq!(std::fs::read_link(dir.path().join("akene/link")).unwrap(), std::path::Path::new("odd"));
        use std::os::unix::fs::PermissionsExt;
        let mode = |p: &str| std::fs::metadata(dir.path().join(p)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("init"), mode("akene"), mode("akene/odd")), (0o755, 0o755, 0o600));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes_and_the_sum_is_theirs() {
        assert_eq!(sample(), sample());
        let mut cpio = Writer::new(Vec::new());
        cpio.file("a", 0o644, b"x").unwrap();
        let (bytes, length, sum) = cpio.finish().unwrap();
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(length % 4, 0);
        assert_eq!(sum, <[u8; 32]>::from(Sha256::digest(&bytes)));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_refused() {
        let mut cpio = Writer::new(Vec::new());
        let error = cpio.file_from("a", 0o644, 5, &b"four"[..]).unwrap_err().to_string();
        assert_eq!(error, "a has 1 bytes fewer than the announced 5");
        let mut cpio = Writer::new(Vec::new());
        let error = cpio.file_from("a", 0o644, 3, &b"four"[..]).unwrap_err().to_string();
        assert_eq!(error, "a has more than the announced 3 bytes");
    }
}
