//! One person's files as a tar archive in parts, for filesystems that know no owners and links.
//!
//! `NAME.tar.001`, `NAME.tar.002`, … and `NAME.tar.sha256`, which `sha256sum -c` checks. `cat NAME.tar.* | tar -x` (or
//! 7-Zip on Windows, with the first part) unpacks it. tar sorts by name and writes no time of its own, so the
//! same files give the same bytes: after an interruption the parts that are there are made once more, compared, and not
//! written. Where the source has changed since, another set is begun (`NAME-2.tar.001`); nothing is replaced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Streams};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::durable;

/// File names of parts, each with its size and SHA-256 in hexadecimal.
pub type Sums = BTreeMap<String, (u64, String)>;

/// More sets than this are not begun.
const MOST_SETS: u32 = 99;

/// What was written.
pub struct Written {
    /// Name of the set: that of the person, or with a number.
    pub set: String,
    /// Its parts.
    pub sums: Sums,
    /// Lines about what could not be read.
    pub missing: Vec<String>,
}

/// Bytes of a person's sets that are there whole.
pub fn written(dir: &Path, name: &str) -> u64 {
    let recorded = |set: &str| -> u64 {
        let sums = read_sums(dir, set);
        sums.keys().filter_map(|part| Some(dir.join(part).metadata().ok()?.len())).sum()
    };
    // The last set is the one that goes on.
    sets(name).map_while(|set| sums_path(dir, &set).exists().then(|| recorded(&set))).last().unwrap_or(0)
}

fn sets(name: &str) -> impl Iterator<Item = String> {
    (1..=MOST_SETS).map(move |n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") })
}

/// Writes a person's home, which lies at `from`, to `dir`.
///
/// # Errors
/// What could not be written; tar cannot be started.
pub fn write(
    from: &Path,
    dir: &Path,
    name: &str,
    bytes: u64,
    part: u64,
    share: &mut dyn FnMut(u8),
) -> Result<Written> {
    for set in sets(name) {
        let mut writer = Writer { dir, set: &set, part, known: read_sums(dir, &set), sums: Sums::new() };
        let (state, missing) = pack(from, &mut writer, bytes, share)?;
        if state == State::Written {
            return Ok(Written { sums: writer.sums, set, missing });
        }
    }
    bail!("saving the files of {}: they have changed {MOST_SETS} times", name)
}

/// Has tar pack a directory, and writes what it gives.
fn pack(
    from: &Path,
    to: &mut Writer<'_>,
    bytes: u64,
    share: &mut dyn FnMut(u8),
) -> Result<(State, Vec<String>)> {
    let (above, name) = (from.parent().context("using a path")?, from.file_name().context("using a path")?);
    let tar = Cmd::new("tar")
        .args(["--create", "--format=posix", "--sort=name", "--numeric-owner", "--one-file-system"])
        .args(["--acls", "--xattrs", "--xattrs-include=*"])
        // Without them the archive would hold the number of tar's process, and when files were last read.
        .args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"])
        .arg("--directory")
        .arg(above)
        .arg("--")
        .arg(name);
    let errors = tempfile::NamedTempFile::new().context("making a file for what tar says")?;
    let log = errors.reopen().context("opening the file for what tar says")?;
    let mut running = tar.spawn(Streams::Piped { errors: log })?;
    let (input, output) = running.pipes()?;
    drop(input);
    let state = to.take(output, &mut |so_far| share((so_far * 99 / bytes.max(1)).min(99) as u8))?;
    if state == State::Changed {
        return Ok((state, Vec::new()));
    }
    let status = running.wait(Duration::from_secs(600))?.context("waiting for tar")?;
    let said = fs::read(errors.path()).context("reading what tar said")?;
    let lines = String::from_utf8_lossy(&said);
    // Sockets are no files; nothing is lost with them.
    let lines = lines.lines().filter(|l| !l.is_empty() && !l.contains("socket ignored"));
    let missing: Vec<String> = lines.map(str::to_owned).collect();
    match status.code() {
        Some(0) => Ok((state, Vec::new())),
        Some(1 | 2) if !missing.is_empty() => Ok((state, missing)),
        _ => bail!("packing {}: tar {status}", from.display()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Written,
    /// A part that is there would be another one now.
    Changed,
}

/// Writes a stream in parts.
struct Writer<'a> {
    dir: &'a Path,
    set: &'a str,
    part: u64,
    /// Parts that are there, by what an earlier attempt recorded.
    known: Sums,
    sums: Sums,
}

impl Writer<'_> {
    fn take(&mut self, mut from: impl Read, so_far: &mut dyn FnMut(u64)) -> Result<State> {
        let mut total = 0;
        for number in 1_u32.. {
            let name = format!("{}.tar.{number:03}", self.set);
            let path = self.dir.join(&name);
            let known = self.known.get(&name).filter(|_| path.exists()).cloned();
            if known.is_none() && path.exists() {
                // Nobody knows whose it is: it is not replaced.
                return Ok(State::Changed);
            }
            let half = self.dir.join(format!("{name}.part"));
            let mut out = match known {
                Some(_) => None,
                None => Some(File::create(&half).with_context(|| format!("making {}", half.display()))?),
            };
            let (mut sum, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
            while size < self.part {
                let most = usize::try_from(self.part - size).unwrap_or(usize::MAX).min(buffer.len());
                let n = from.read(&mut buffer[..most]).context("reading what tar packs")?;
                if n == 0 {
                    break;
                }
                sum.update(&buffer[..n]);
                if let Some(out) = &mut out {
                    out.write_all(&buffer[..n]).with_context(|| format!("writing {}", half.display()))?;
                }
                size += n as u64;
                total += n as u64;
                so_far(total);
            }
            if size == 0 {
                if out.is_some() {
                    fs::remove_file(&half).with_context(|| format!("removing {}", half.display()))?;
                }
                return Ok(State::Written);
            }
            let sum = hex::encode(sum.finalize());
            match (known, out) {
                (Some((_, recorded)), _) if recorded != sum => return Ok(State::Changed),
                (None, Some(out)) => {
                    out.sync_all().with_context(|| format!("writing out {}", half.display()))?;
                    fs::rename(&half, &path).with_context(|| format!("naming {}", path.display()))?;
                }
                _ => {}
            }
            self.sums.insert(name.clone(), (size, sum.clone()));
            if self.known.insert(name, (size, sum)).is_none() {
                self.record()?;
            }
        }
        Ok(State::Written)
    }

    /// Writes the sums of the parts that are there.
    fn record(&self) -> Result<()> {
        durable::replace(&sums_path(self.dir, self.set), 0o644, |out| {
            self.known
                .iter()
                .try_for_each(|(name, (_, sum))| writeln!(out, "{sum}  {name}"))
                .context("writing")
        })
    }
}

fn sums_path(dir: &Path, set: &str) -> std::path::PathBuf {
    dir.join(format!("{set}.tar.sha256"))
}

/// What an earlier attempt recorded. A line that makes no sense is as good as none.
fn read_sums(dir: &Path, set: &str) -> Sums {
    let text = fs::read_to_string(sums_path(dir, set)).unwrap_or_default();
    let prefix = format!("{set}.tar.");
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .filter(|(sum, name)| sum.len() == 64 && name.starts_with(&prefix) && !name.contains('/'))
        .map(|(sum, name)| (name.to_owned(), (0, sum.to_owned())))
        .collect()
}

/// Reads a set back. Gives what is not as it was written.
///
/// # Errors
/// A part cannot be read.
pub fn check(dir: &Path, set: &str, sums: &Sums) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (name, (size, sum)) in sums {
        let path = dir.join(name);
        let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let mut found = Sha256::new();
        let read =
            std::io::copy(&mut file, &mut found).with_context(|| format!("reading {}", path.display()))?;
        if read != *size || hex::encode(found.finalize()) != *sum {
            wrong.push(format!("not the same: {name}"));
        }
    }
    if sums.is_empty() {
        wrong.push(format!("nothing of {set} was written"));
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer<'a>(dir: &'a Path, part: u64) -> Writer<'a> {
        Writer { dir, set: "ana", part, known: read_sums(dir, "ana"), sums: Sums::new() }
    }

    fn joined(dir: &Path) -> Vec<u8> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        names.retain(|p| p.extension().is_some_and(|e| e.to_string_lossy().parse::<u32>().is_ok()));
        names.sort();
        names.iter().flat_map(|p| fs::read(p).unwrap()).collect()
    }

    proptest::proptest! {
        // Each part is written out to the disk.
        #![proptest_config(proptest::test_runner::Config::with_cases(24))]
        #[test]
        fn parts_joined_are_the_stream_however_often_it_was_interrupted(
            data in proptest::collection::vec(proptest::num::u8::ANY, 1..2000),
            part in 150_u64..900,
            cuts in proptest::collection::vec(0_usize..2000, 0..4),
        ) {
            let dir = tempfile::tempdir().unwrap();
            for cut in cuts {
                // The stream breaks off: a disk that was pulled.
                let broken = (&data[..cut.min(data.len())]).chain(Broken);
                writer(dir.path(), part).take(broken, &mut |_| {}).unwrap_err();
            }
            let mut last = writer(dir.path(), part);
            proptest::prop_assert_eq!(last.take(&data[..], &mut |_| {}).unwrap(), State::Written);
            proptest::prop_assert_eq!(joined(dir.path()), data.clone());
            proptest::prop_assert!(check(dir.path(), "ana", &last.sums).unwrap().is_empty());
            proptest::prop_assert!(!dir.path().join("ana.tar.001.part").exists());
        }
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("pulled"))
        }
    }

    #[test]
    fn what_is_there_and_whole_is_not_written_again_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        writer(dir.path(), 4).take(&b"0123456789"[..], &mut |_| {}).unwrap();
        let first = dir.path().join("ana.tar.001");
        let before = first.metadata().unwrap().modified().unwrap();
        assert_eq!(writer(dir.path(), 4).take(&b"0123456789"[..], &mut |_| {}).unwrap(), State::Written);
        assert_eq!(first.metadata().unwrap().modified().unwrap(), before);
        assert_eq!(writer(dir.path(), 4).take(&b"0123X56789"[..], &mut |_| {}).unwrap(), State::Changed);
        assert_eq!(fs::read(dir.path().join("ana.tar.002")).unwrap(), b"4567");
        assert_eq!(written(dir.path(), "ana"), 10);
        // A bit that flipped on the way is seen.
        let sums = read_sums(dir.path(), "ana").into_iter().map(|(n, (_, s))| (n, (4, s))).take(1).collect();
        assert!(check(dir.path(), "ana", &sums).unwrap().is_empty());
        fs::write(&first, b"012X").unwrap();
        assert_eq!(check(dir.path(), "ana", &sums).unwrap(), ["not the same: ana.tar.001"]);
    }
}
