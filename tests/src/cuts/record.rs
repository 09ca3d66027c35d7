//! What was done to a disk, in order, and the disks a power cut could have left.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Larger holes are those that mkfs makes of whole partitions.
const LARGEST_HOLE: u64 = 64 << 20;

/// One thing done to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Bytes.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// Zeros.
    Zero {
        /// Where.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// What was done before is on the disk.
    Flush,
}

impl Op {
    /// The bytes it changes: first and one behind the last.
    pub fn range(&self) -> Option<(u64, u64)> {
        match self {
            Op::Write { offset, data } => Some((*offset, offset + data.len() as u64)),
            Op::Zero { offset, length } => Some((*offset, offset + length)),
            Op::Flush => None,
        }
    }
}

/// Writes a record.
pub struct Recorder(BufWriter<File>);

impl Recorder {
    /// A new one.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Recorder(BufWriter::with_capacity(1 << 20, file)))
    }

    /// Adds to it.
    pub fn add(&mut self, op: &Op) -> Result<()> {
        let (kind, offset, length, data): (u8, u64, u64, &[u8]) = match op {
            Op::Write { offset, data } => (1, *offset, data.len() as u64, data),
            Op::Zero { offset, length } => (2, *offset, *length, &[]),
            Op::Flush => (3, 0, 0, &[]),
        };
        self.0.write_all(&[kind])?;
        self.0.write_all(&offset.to_le_bytes())?;
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(data).context("writing the record")
    }

    /// Ends it.
    pub fn finish(&mut self) -> Result<()> {
        self.0.flush().context("writing the record")
    }
}

/// Reads a record.
pub struct Reader(BufReader<File>);

impl Reader {
    /// From its beginning.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Reader(BufReader::with_capacity(1 << 20, file)))
    }

    /// The next thing that was done.
    pub fn step(&mut self) -> Result<Option<Op>> {
        let mut head = [0; 17];
        match self.0.read_exact(&mut head) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.context("reading the record")?,
        }
        let offset = u64::from_le_bytes(head[1..9].try_into().unwrap());
        let length = u64::from_le_bytes(head[9..].try_into().unwrap());
        Ok(Some(match head[0] {
            1 => {
                let mut data = vec![0; length as usize];
                self.0.read_exact(&mut data).context("reading the record")?;
                Op::Write { offset, data }
            }
            2 => Op::Zero { offset, length },
            3 => Op::Flush,
            kind => bail!("the record holds a step of kind {kind}"),
        }))
    }
}

/// Pseudo-random numbers (xorshift*): the same for the same seed, on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end.max(1)
    }
}

/// Does a step to a disk.
pub fn apply(disk: &File, op: &Op) -> Result<()> {
    match op {
        Op::Write { offset, data } => disk.write_all_at(data, *offset).context("writing"),
        Op::Zero { offset, length } => {
            use nix::fcntl::{FallocateFlags, fallocate};
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(disk, flags, *offset as i64, *length as i64).context("writing zeros")
        }
        Op::Flush => Ok(()),
    }
}

/// What of steps that no flush covered a power cut may leave on the disk: each whole, not at all, or torn at a sector.
pub fn survivors(pending: &[Op], random: &mut Random) -> Vec<Op> {
    // Sometimes all that was sent arrived, sometimes nothing did, mostly some.
    let share = match random.below(8) {
        0 => 0,
        1 => 100,
        _ => 1 + random.below(99),
    };
    let mut left = Vec::new();
    for op in pending {
        if random.below(100) >= share {
            continue;
        }
        match op {
            // A disk that forgets which blocks are free has lost nothing.
            Op::Zero { length, .. } if *length > LARGEST_HOLE => {}
            Op::Write { offset, data } if random.below(4) == 0 => {
                let sector = if random.below(2) == 0 { 512 } else { 4096 };
                let cut = random.below(data.len() as u64 / sector + 1) * sector;
                let (head, tail) = data.split_at(cut as usize);
                // A disk may write the end of a request first.
                left.push(match random.below(2) {
                    0 => Op::Write { offset: *offset, data: head.to_vec() },
                    _ => Op::Write { offset: offset + cut, data: tail.to_vec() },
                });
            }
            op => left.push(op.clone()),
        }
    }
    left
}

/// Does steps to a disk, and gives what takes them back, in order.
pub fn apply_for_now(disk: &File, ops: &[Op]) -> Result<Vec<Op>> {
    let mut undo = Vec::new();
    for op in ops {
        if let Some((start, end)) = op.range() {
            let mut data = vec![0; (end - start) as usize];
            disk.read_exact_at(&mut data, start).context("reading what is there")?;
            undo.push(Op::Write { offset: start, data });
        }
        apply(disk, op)?;
    }
    undo.reverse();
    Ok(undo)
}
