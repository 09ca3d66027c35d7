//! Saving people's files onto another disk.
//!
//! 1. [`survey`] looks, read-only: whose files there are, how much, whether the target has room. Nothing is written.
//! 2. [`carry_out`] writes below `akene-saved/VOLUME/` on the target, one directory or archive for each person:
//!    - onto a Linux filesystem by rsync, with owners, modes, times, links, ACLs and extended attributes. A file
//!      that is there already and is the same is not copied again; one that differs is put aside
//!      (`NAME.before-TIME`). Nothing is ever deleted.
//!    - onto anything else (FAT, exFAT, NTFS), which knows no owners, into one tar archive for each person, in parts
//!      ([`super::parts`]).
//! 3. The target is unmounted, mounted read-only and read back: rsync compares every byte and attribute with the
//!    source, archives are compared with the sums made while they were written. What was interrupted goes on where it was.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use akene_exec::{Cmd, Streams};
use akene_protocol::inventory::{Disk, Inventory, LooksLike};
use akene_protocol::{Bytes, Issue};
use anyhow::{Context, Result, bail};

use super::open::{Opened, Purpose, open};
use super::parts;
use super::people::{self, Amount};
use super::volumes::{Volume, content_words};
use super::{Rescue, apart};

/// Where volumes are mounted while somebody rescues.
const MOUNTS: &str = "/run/akene/rescue";

/// The directory on the target below which everything is.
pub const SAVED: &str = "akene-saved";

/// Size of an archive's parts: below what FAT can hold (4 GiB), and how much at most is written again after an interruption.
pub const PART: u64 = 1 << 30;

/// Room a filesystem needs for itself.
const MARGIN: u64 = 16 << 20;

/// What tar writes before each file.
const HEADER: u64 = 2048;

/// Nobody knows how long a failing disk takes.
const PATIENCE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How files are put onto a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As they are, with everything that belongs to them.
    Files,
    /// Into an archive for each person.
    Archive,
}

/// What a kind of filesystem can take. `None`: it is not written to here.
pub fn manner(kind: &str) -> Option<Manner> {
    match kind {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => Some(Manner::Files),
        "vfat" | "exfat" | "ntfs" => Some(Manner::Archive),
        _ => None,
    }
}

/// One person's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The volume they lie on.
    pub volume: String,
    /// Whose they are: name of the home directory.
    pub name: String,
    /// The home, below the top of the volume.
    path: PathBuf,
    /// How much there is.
    pub amount: Amount,
    /// The computer was not shut down in order: what was written last may not be seen.
    pub unclean: bool,
}

/// Whether a volume may hold people's files.
pub fn may_hold_people(volume: &Volume) -> bool {
    let looks = matches!(
        volume.looks(),
        Some(LooksLike::Home | LooksLike::Windows | LooksLike::LinuxRoot { home_inside: true, .. })
    );
    looks && volume.can_be_opened()
}

/// Whose files there are on some volumes, and why others cannot be opened: one damaged disk keeps nobody from saving what
/// is on the next.
///
/// # Errors
/// The system gives no mounts.
pub fn whose(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    sources: &[&Volume],
) -> Result<(Vec<Person>, Vec<anyhow::Error>)> {
    apart(|| {
        let (mut found, mut closed) = (Vec::new(), Vec::new());
        for (number, volume) in sources.iter().enumerate() {
            match on_volume(rescue, machine, volume, number) {
                Ok(people) => found.extend(people),
                Err(error) => closed.push(error),
            }
        }
        Ok((found, closed))
    })
}

fn on_volume(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    volume: &Volume,
    number: usize,
) -> Result<Vec<Person>> {
    let opened = source(rescue, machine, volume, number)?;
    let unclean = opened.has_pending_journal(volume);
    let person = |(path, name): (PathBuf, String)| -> Result<Person> {
        let amount = people::amount(&path);
        let path = path.strip_prefix(opened.at()).context("finding a home in its volume")?.to_owned();
        Ok(Person { volume: volume.name.clone(), name, path, amount, unclean })
    };
    let found = people::homes(opened.at(), volume.looks()).into_iter().map(person).collect::<Result<_>>()?;
    opened.close()?;
    Ok(found)
}

fn source<'r>(
    rescue: &Rescue<'r>,
    machine: &Inventory,
    volume: &Volume,
    number: usize,
) -> Result<Opened<'r>> {
    let at = Path::new(MOUNTS).join(format!("source{number}"));
    open(rescue.runner, machine, volume, &at, Purpose::Look, "")
}

fn target<'r>(
    rescue: &Rescue<'r>,
    machine: &Inventory,
    volume: &Volume,
    purpose: Purpose,
) -> Result<Opened<'r>> {
    open(rescue.runner, machine, volume, &Path::new(MOUNTS).join("target"), purpose, "")
}

/// What is to be saved, and where to.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The volumes people's files lie on.
    pub sources: Vec<Volume>,
    /// Whose.
    pub people: Vec<Person>,
    /// Where to.
    pub target: Volume,
    /// Write archives although the target could hold the files as they are.
    pub archive: bool,
    /// Size of an archive's parts: [`PART`].
    pub part: u64,
}

/// What a copy would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// How the target is written to.
    pub manner: Manner,
    /// Bytes that have to be written at most: what an earlier copy already wrote is not counted.
    pub needed: Bytes,
    /// Bytes free on the target.
    pub free: Bytes,
}

/// The disks that can be copied to: not one of the sources, not the medium, able to be written.
pub fn targets<'v>(machine: &Inventory, volumes: &'v [Volume], sources: &[Volume]) -> Vec<&'v Volume> {
    volumes.iter().filter(|v| refusal(machine, sources, v).is_none()).collect()
}

/// Why a volume is no target for these sources.
fn refusal(machine: &Inventory, sources: &[Volume], target: &Volume) -> Option<Issue> {
    let on = |disk: &&Disk| target.disks.contains(&disk.name);
    let disks: Vec<&Disk> = machine.disks.iter().filter(on).collect();
    let refuse = |code: &str, why: String, next: &str| Some(Issue::new(code, &target.name, why, next));
    let another = "plug another disk in and choose that";
    if sources.iter().any(|s| s.disks.iter().any(|d| target.disks.contains(d))) {
        return refuse("same-disk", "it lies on a disk that the files come from".into(), another);
    }
    if disks.iter().any(|d| d.live_medium) {
        return refuse("is-the-medium", "it is the medium this computer was started from".into(), another);
    }
    if disks.iter().any(|d| d.read_only) {
        return refuse(
            "target-read-only",
            "its disk refuses to be written".into(),
            "look for a write-protect switch, or choose another disk",
        );
    }
    if manner(target.kind()).is_none() {
        let kind = content_words(target, akene_protocol::Language::En);
        return refuse("target-unsuitable", format!("files cannot be saved there: {kind}"), another);
    }
    None
}

/// Finds out what a copy takes, and whether it can be made. Nothing is written.
///
/// # Errors
/// [`Issue`]s: `same-disk`, `is-the-medium`, `target-read-only`, `target-unsuitable`, `no-room-for-files`, or the
/// target cannot be opened.
pub fn survey(rescue: &Rescue<'_>, machine: &Inventory, wish: &Wish) -> Result<Survey> {
    if let Some(issue) = refusal(machine, &wish.sources, &wish.target) {
        bail!(issue);
    }
    let manner = manner(wish.target.kind()).context("choosing how to save files")?;
    let manner = if wish.archive { Manner::Archive } else { manner };
    apart(|| {
        let opened = target(rescue, machine, &wish.target, Purpose::Look)?;
        let stat = nix::sys::statvfs::statvfs(opened.at()).context("asking for the room on the target")?;
        let free = Bytes(stat.blocks_available() * stat.fragment_size());
        let mut needed = MARGIN;
        for person in &wish.people {
            let dir = opened.at().join(folder(wish, person)?);
            let (all, there) = match manner {
                Manner::Files => (person.amount.bytes, people::amount(&dir.join(&person.name)).bytes),
                Manner::Archive => {
                    let all = person.amount.bytes + person.amount.entries * HEADER;
                    (all, parts::written(&dir, &person.name))
                }
            };
            needed = needed.saturating_add(all.saturating_sub(there));
        }
        opened.close()?;
        let survey = Survey { manner, needed: Bytes(needed.saturating_add(needed / 50)), free };
        match room(&survey, &wish.target) {
            Some(issue) => Err(issue.into()),
            None => Ok(survey),
        }
    })
}

/// Why there is too little room.
fn room(survey: &Survey, target: &Volume) -> Option<Issue> {
    (survey.needed > survey.free).then(|| {
        Issue::new(
            "no-room-for-files",
            &target.name,
            format!("{} are free there, and the files need {}", survey.free, survey.needed),
            "choose fewer people, or a larger disk",
        )
    })
}

/// The directory for a person's volume on the target: the same for every attempt.
fn folder(wish: &Wish, person: &Person) -> Result<PathBuf> {
    let volume = wish.sources.iter().find(|v| v.name == person.volume);
    let volume = volume.with_context(|| format!("looking for the volume {}", person.volume))?;
    let content = volume.content.as_ref();
    let label = content.and_then(|c| c.label.clone()).unwrap_or_else(|| volume.kind().to_owned());
    let plain: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let id: String =
        volume.uuid().unwrap_or("unknown").chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    Ok(Path::new(SAVED).join(format!("{plain}-{id}")))
}

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Per cent of a person's files that are written.
    Copying(String, u8),
    /// A person's files are being read back.
    Checking(String),
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Whose files are on the target and were read back.
    pub verified: Vec<String>,
    /// Lines about what could not be read or is not the same.
    pub missing: Vec<String>,
}

/// Copies, and reads back. It is the one thing here that writes, and only to the target.
///
/// # Errors
/// The target cannot be written. What cannot be read at the source is in [`Done::missing`], and the rest is copied.
pub fn carry_out(
    rescue: &Rescue<'_>,
    machine: &Inventory,
    wish: &Wish,
    progress: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Done> {
    let manner = survey(rescue, machine, wish)?.manner;
    apart(|| {
        let mut opened = Vec::new();
        for (number, volume) in wish.sources.iter().enumerate() {
            opened.push((volume.name.as_str(), source(rescue, machine, volume, number)?));
        }
        let home = |person: &Person| -> Result<PathBuf> {
            let found = opened.iter().find(|(name, _)| *name == person.volume);
            let (_, volume) = found.with_context(|| format!("looking for the volume {}", person.volume))?;
            Ok(volume.at().join(&person.path))
        };
        let mut done = Done::default();
        let to = target(rescue, machine, &wish.target, Purpose::Write)?;
        let (mut sums, mut unread) = (Vec::new(), Vec::new());
        for person in &wish.people {
            let dir = to.at().join(folder(wish, person)?);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            let mut share = |per_cent| progress(&Progress::Copying(person.name.clone(), per_cent));
            share(0);
            unread.push(match manner {
                Manner::Files => by_rsync(&home(person)?, &dir.join(&person.name), &mut share)?,
                Manner::Archive => {
                    let written = parts::write(
                        &home(person)?,
                        &dir,
                        &person.name,
                        person.amount.bytes,
                        wish.part,
                        &mut share,
                    )?;
                    sums.push((written.set, written.sums));
                    written.missing
                }
            });
            share(100);
        }
        to.close()?;
        // Past every cache: what another computer would read.
        let to = target(rescue, machine, &wish.target, Purpose::Look)?;
        for (number, (person, unread)) in wish.people.iter().zip(unread).enumerate() {
            progress(&Progress::Checking(person.name.clone()));
            let dir = to.at().join(folder(wish, person)?);
            let wrong = match manner {
                Manner::Files => compared(rescue, &home(person)?, &dir.join(&person.name))?,
                Manner::Archive => {
                    let (set, sums) = sums.get(number).context("looking for the sums of an archive")?;
                    parts::check(&dir, set, sums)?
                }
            };
            if wrong.is_empty() && unread.is_empty() {
                done.verified.push(person.name.clone());
            }
            done.missing.extend(unread.into_iter().chain(wrong));
        }
        to.close()?;
        for (_, volume) in opened {
            volume.close()?;
        }
        Ok(done)
    })
}

/// What rsync is told in any case: everything that belongs to a file, by numbers.
fn rsync<S: AsRef<OsStr>>(from: &Path, to: &Path, more: &[S]) -> Cmd {
    // With the slash it is the directory's content, and the target has the directory's own attributes.
    let within = |path: &Path| {
        let mut path = path.as_os_str().to_owned();
        path.push("/");
        path
    };
    Cmd::new("rsync")
        // Otherwise it looks at seconds only, and a link made within the second of the old one keeps its own time.
        .args(["-aHAX", "--numeric-ids", "--modify-window=-1"])
        .args(more)
        .arg("--")
        .arg(within(from))
        .arg(within(to))
        .timeout(PATIENCE)
}

/// Copies a directory. Gives lines about what could not be copied.
fn by_rsync(from: &Path, to: &Path, share: &mut dyn FnMut(u8)) -> Result<Vec<String>> {
    let seconds = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs());
    // In a directory of its own: with a suffix rsync leaves the times of directories as they come.
    let mut backup = OsString::from("--backup-dir=");
    backup.push(to);
    backup.push(format!(".before-{seconds}"));
    // What is under way has a name of its own, in a directory that rsync takes away when it is whole.
    let more =
        ["--no-inc-recursive", "--sparse", "--partial-dir=.akene-part", "--info=progress2", "--backup"];
    let more: Vec<&OsStr> = more.into_iter().map(OsStr::new).chain([backup.as_os_str()]).collect();
    let errors = tempfile::NamedTempFile::new().context("making a file for what rsync says")?;
    let log = errors.reopen().context("opening the file for what rsync says")?;
    let mut running = rsync(from, to, &more).spawn(Streams::Piped { errors: log })?;
    let (input, mut output) = running.pipes()?;
    drop(input);
    let (mut bytes, mut line) = ([0; 4096], Vec::new());
    loop {
        let n = output.read(&mut bytes).context("listening to rsync")?;
        if n == 0 {
            break;
        }
        for byte in &bytes[..n] {
            match byte {
                b'\r' | b'\n' => {
                    if let Some(per_cent) = per_cent(&String::from_utf8_lossy(&line)) {
                        share(per_cent.min(99));
                    }
                    line.clear();
                }
                byte => line.push(*byte),
            }
        }
    }
    let status = running.wait(Duration::from_secs(600))?.context("waiting for rsync")?;
    let said =
        String::from_utf8_lossy(&fs::read(errors.path()).context("reading what rsync said")?).into_owned();
    let lines: Vec<String> = said.lines().map(str::to_owned).filter(|l| !l.is_empty()).collect();
    match status.code() {
        Some(0) => Ok(Vec::new()),
        // Some files were not copied; all others were.
        Some(23 | 24) => Ok(lines),
        _ => bail!("copying {} with rsync: {status}; it said: {}", from.display(), lines.join("; ")),
    }
}

/// The per cent in a line of rsync's progress: `  1,234,567  45%   10.00MB/s    0:00:12`.
fn per_cent(line: &str) -> Option<u8> {
    line.split_whitespace().find_map(|word| word.strip_suffix('%'))?.parse().ok().filter(|p| *p <= 100)
}

/// Compares a copy with its source, byte by byte through sums, and everything that belongs to the files. Gives what is not
/// the same.
fn compared(rescue: &Rescue<'_>, from: &Path, to: &Path) -> Result<Vec<String>> {
    let compare = rsync(from, to, &["--dry-run", "--checksum", "--itemize-changes"]);
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("not the same: {l}")).collect()
    };
    match rescue.runner.run(&compare) {
        Ok(output) => Ok(lines(&output.text())),
        Err(error) => match error.downcast_ref::<akene_exec::ExecError>() {
            Some(akene_exec::ExecError { code: Some(23 | 24), output, .. }) => {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                Ok([lines(&output.text()), lines(&errors)].concat())
            }
            _ => Err(error).context("reading back what was saved"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filesystem_gets_what_it_can_hold() {
        for kind in ["ext4", "xfs", "btrfs"] {
            assert_eq!(manner(kind), Some(Manner::Files));
        }
        for kind in ["vfat", "exfat", "ntfs"] {
            assert_eq!(manner(kind), Some(Manner::Archive));
        }
        for kind in ["", "swap", "crypto_LUKS", "iso9660", "LVM2_member", "hfsplus"] {
            assert_eq!(manner(kind), None);
        }
    }

    #[test]
    fn progress_is_read_and_nonsense_is_not() {
        assert_eq!(per_cent("      1,234,567  45%   10.00MB/s    0:00:12"), Some(45));
        assert_eq!(per_cent("100%"), Some(100));
        for odd in ["", "%", "400%", "x% 1", "-1%"] {
            assert_eq!(per_cent(odd), None, "{odd}");
        }
    }

    #[test]
    fn too_little_room_is_told_with_both_numbers() {
        let target = Volume {
            name: "sdb1".into(),
            place: super::super::volumes::Place::Disk("/dev/sdb".into()),
            disks: vec!["sdb".into()],
            size: Bytes::gib(8),
            content: None,
        };
        let survey = |needed| Survey { manner: Manner::Files, needed, free: Bytes::gib(4) };
        let issue = room(&survey(Bytes::gib(5)), &target).unwrap();
        assert!(issue.message.contains("4 GiB") && issue.message.contains("5 GiB"), "{issue}");
        assert_eq!(room(&survey(Bytes::gib(4)), &target), None);
    }
}
