//! What belongs to people on a disk of the campaign, and must be there after it: their files, and an account that no profile knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use akene_exec::{Cmd, Runner, SystemRunner};
use anyhow::{Context, Result, ensure};

use crate::image::{Image, Opened};
use crate::people;

/// Mounts the volume of people's files, does something with it, and unmounts it.
fn with_home<T>(disk: &Path, written: bool, see: impl FnOnce(&Path) -> T) -> Result<T> {
    let part = Image::open(disk)?.labelled("akene-home")?.clone();
    let dir = tempfile::tempdir().context("making a mount point")?;
    let how = if written { "loop" } else { "loop,ro,noload" };
    let options = format!("{how},offset={},sizelimit={}", part.start, part.size);
    SystemRunner.run(&Cmd::new("mount").args(["-o", &options]).arg(disk).arg(dir.path()))?;
    let seen = see(dir.path());
    SystemRunner.run(&Cmd::new("umount").arg(dir.path()))?;
    Ok(seen)
}

/// Puts people's files on a disk.
pub(super) fn people_in(disk: &Path) -> Result<BTreeMap<String, String>> {
    with_home(disk, true, people::live_in)?;
    people_of(disk)
}

/// What opens the account of one of them.
const HASH: &str = "$6$saltsaltsalt$HashOfAnAccountThatWasMadeOnTheComputer";

/// Makes one of the people known to the system on a disk. The other has the number of the profile's own user.
pub(super) fn account_in(disk: &Path) -> Result<()> {
    let root = Opened::of(disk, Image::open(disk)?.named("akene-root")?)?;
    let lines = [
        ("etc/passwd", "bo:x:1001:1001::/home/bo:/bin/sh\n".to_owned()),
        ("etc/group", "bo:x:1001:\n".to_owned()),
        ("etc/shadow", format!("bo:{HASH}:20000:0:99999:7:::\n")),
    ];
    for (name, line) in lines {
        let file = File::options().append(true).open(root.path(name));
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.with_context(|| format!("adding to {name}"))?;
    }
    Ok(())
}

/// Whether their account is there, with what opens it, in the system in this place for a root.
pub(super) fn has_account(disk: &Path, place: &str) -> Result<()> {
    let root = Opened::of(disk, Image::open(disk)?.named(place)?)?;
    for (name, line) in [("etc/passwd", "bo:x:1001:1001:"), ("etc/shadow", &format!("bo:{HASH}:"))] {
        let text = std::fs::read_to_string(root.path(name)).with_context(|| format!("reading {name}"))?;
        ensure!(
            text.lines().any(|l| l.starts_with(line)),
            "an account that was there is not in {name}: {text}"
        );
    }
    Ok(())
}

/// People's files, with all that must stay.
pub(super) fn people_of(disk: &Path) -> Result<BTreeMap<String, String>> {
    with_home(disk, false, |top| {
        let mut found = people::sums(top);
        let whose: BTreeSet<&str> = ["ana", "bo"].into();
        found.retain(|name, _| whose.contains(name.split('/').next().unwrap_or_default()));
        for (name, held) in &mut found {
            if let Ok(meta) = top.join(name).symlink_metadata() {
                held.push_str(&format!(" {}.{} {}", meta.mtime(), meta.mtime_nsec(), meta.nlink()));
            }
        }
        found
    })
}
