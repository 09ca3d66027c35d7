//! The installer on the boot partition, and the variables by which GRUB is told to start it.
//!
//! `next_entry` starts it once: GRUB's own menu clears the variable before it acts on it, so that whatever happens then, the
//! start after that is of the installed system. `akene_tries` counts the starts of a new system that did not come so
//! far, `akene_back` those of the system before it; GRUB counts them down, and here they are taken away, because here
//! a system has started.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::image::{self, ImageManifest};
use akene_protocol::order::Order;
use akene_protocol::{Envelope, Issue, PublicKey, Sha256, Stamp};
use anyhow::{Context, Result, bail, ensure};
use sha2::Digest;

use crate::durable;
use crate::fetch::known;
use crate::run::boot_files;

/// The entry of the menu that starts the installer.
pub const ENTRY: &str = "akene-reinstall";

/// GRUB's variable for one start.
const NEXT: &str = "next_entry";

/// GRUB's variables that count starts of a system that did not say that it runs.
const COUNTED: [&str; 2] = ["akene_tries", "akene_back"];

/// Largest manifest of an image that is read.
const LARGEST_MANIFEST: u64 = 8 << 20;

fn environment(root: &Path) -> PathBuf {
    root.join("boot").join(boot_files::ENVIRONMENT)
}

/// GRUB's program writes in place, and a power cut may leave an empty file, which it refuses from then on. One may be
/// missing, too, where an installation ended before it was made. Nothing in it is worth more than being able to write to it.
fn mend(root: &Path) -> Result<()> {
    let path = environment(root);
    match fs::read(&path) {
        Ok(block) if boot_files::is_environment(&block) => return Ok(()),
        Ok(_) => eprintln!("GRUB's environment was damaged, and is made anew"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("GRUB's environment was missing, and is made anew");
        }
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    }
    let block = boot_files::environment(&[]);
    durable::replace(&path, 0o644, |out| out.write_all(&block).context("writing"))
}

/// GRUB's variables, as its own program reads them.
fn variables(root: &Path, runner: &dyn Runner) -> Result<Vec<String>> {
    mend(root)?;
    let cmd = Cmd::new("grub-editenv").arg(environment(root)).arg("list").timeout(Duration::from_secs(30));
    Ok(runner.run(&cmd).context("reading GRUB's environment")?.text().lines().map(str::to_owned).collect())
}

fn edit(root: &Path, runner: &dyn Runner, args: &[&str]) -> Result<()> {
    mend(root)?;
    let cmd = Cmd::new("grub-editenv").arg(environment(root)).args(args).timeout(Duration::from_secs(30));
    runner.run(&cmd).context("writing GRUB's environment")?;
    sync(root)
}

/// Where the boot partition is one of its own, what is on it is written out to where GRUB finds it.
fn sync(root: &Path) -> Result<()> {
    let boot = root.join("boot");
    let device = |path: &Path| {
        fs::metadata(path).map(|m| m.dev()).with_context(|| format!("looking at {}", path.display()))
    };
    match device(&boot)? == device(root)? {
        true => durable::sync(&boot),
        false => durable::sync_for_boot_loader(&boot),
    }
}

/// Says that this system has started.
pub fn settle(root: &Path, runner: &dyn Runner) -> Result<()> {
    if !root.join("boot/grub").is_dir() {
        return Ok(());
    }
    let counted = |line: &String| line.split('=').next().is_some_and(|name| COUNTED.contains(&name));
    if !variables(root, runner)?.iter().any(counted) {
        return Ok(());
    }
    edit(root, runner, &["unset", COUNTED[0], COUNTED[1]])
}

/// Whether GRUB is still told to start the installer.
pub fn is_chosen(root: &Path, runner: &dyn Runner) -> Result<bool> {
    Ok(environment(root).exists()
        && variables(root, runner)?.iter().any(|line| *line == format!("{NEXT}={ENTRY}")))
}

/// Leaves the order for the installer, and tells GRUB to start it once.
pub fn choose(root: &Path, runner: &dyn Runner, order: &Envelope) -> Result<()> {
    let text = serde_json::to_vec(order).context("writing an order as JSON")?;
    let path = root.join("boot").join(known::ORDER);
    durable::replace(&path, 0o600, |out| out.write_all(&text).context("writing"))?;
    let entry = format!("{NEXT}={ENTRY}");
    edit(root, runner, &["set", &entry])?;
    ensure!(is_chosen(root, runner)?, "GRUB's environment does not keep what is written to it");
    Ok(())
}

/// Takes back what [`choose`] did, as far as it is there.
pub fn forget(root: &Path, runner: &dyn Runner) -> Result<()> {
    let path = root.join("boot").join(known::ORDER);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    if is_chosen(root, runner)? { edit(root, runner, &["unset", NEXT]) } else { Ok(()) }
}

/// The order that was left for the installer, if it is still there.
pub fn left(root: &Path, key: &PublicKey) -> Result<Option<Order>> {
    known::read_order(&root.join("boot"), key)
}

/// Whether the installer on the boot partition is whole, byte for byte, and this site's.
///
/// # Errors
/// `installer-damaged`, with what is wrong.
pub fn check(root: &Path, key: &PublicKey) -> Result<(), Issue> {
    whole(&root.join("boot"), key).map_err(|error| {
        Issue::new(
            "installer-damaged",
            "",
            format!("the installer on this computer's boot partition cannot be used: {error:#}"),
            "nothing was changed. Start the computer from a medium once: that puts a whole installer there",
        )
    })
}

fn whole(boot: &Path, key: &PublicKey) -> Result<()> {
    let [kernel, initrd, stamp] = boot_files::INSTALLER.map(|name| boot.join(name));
    let area = fs::read(&stamp).with_context(|| format!("reading {}", stamp.display()))?;
    match Stamp::parse_area(&area) {
        Some(Ok(stamp)) if stamp.site_key == *key => {}
        Some(Ok(_)) => bail!("{} is another site's", stamp.display()),
        Some(Err(error)) => bail!("{}: {error}", stamp.display()),
        None => bail!("{} holds no stamp", stamp.display()),
    }
    let doing = || format!("reading {}", initrd.display());
    let file = File::open(&initrd).with_context(doing)?;
    let mut found = sums(BufReader::with_capacity(1 << 20, file)).with_context(doing)?;
    let manifest = found.manifest.take().with_context(|| format!("{} has no manifest", initrd.display()))?;
    let manifest = ImageManifest::parse(&manifest).map_err(anyhow::Error::msg).with_context(doing)?;
    for file in &manifest.files {
        match found.files.iter().find(|(path, _)| *path == file.path) {
            Some((_, sum)) if *sum == file.sha256 => {}
            Some(_) => bail!("{} in {} is damaged", file.path, initrd.display()),
            None => bail!("{} is missing in {}", file.path, initrd.display()),
        }
    }
    let wanted = manifest.files.iter().find(|file| file.path == image::KERNEL).map(|file| file.sha256);
    let file = File::open(&kernel).with_context(|| format!("opening {}", kernel.display()))?;
    let (sum, _) = Sha256::of_reader(file).with_context(|| format!("reading {}", kernel.display()))?;
    ensure!(Some(sum) == wanted, "{} is not the kernel of the installer", kernel.display());
    Ok(())
}

struct Found {
    files: Vec<(String, Sha256)>,
    manifest: Option<Vec<u8>>,
}

/// The sums of all files of a cpio archive ("newc").
fn sums(mut from: impl Read) -> Result<Found> {
    let mut found = Found { files: Vec::new(), manifest: None };
    loop {
        let mut header = [0; 110];
        from.read_exact(&mut header).context("it ends too early")?;
        ensure!(header.starts_with(b"070701"), "it is no initrd");
        let number = |at: usize| -> Result<u64> {
            let text = std::str::from_utf8(&header[6 + at * 8..14 + at * 8]).context("it is damaged")?;
            u64::from_str_radix(text, 16).context("it is damaged")
        };
        let (size, name_size) = (number(6)?, number(11)?);
        ensure!((1..4096).contains(&name_size), "it is damaged");
        let mut name = vec![0; name_size as usize];
        from.read_exact(&mut name).context("it ends too early")?;
        skip(&mut from, (4 - (110 + name_size) % 4) % 4)?;
        name.pop();
        let name = String::from_utf8(name).context("it is damaged")?;
        if name == "TRAILER!!!" {
            return Ok(found);
        }
        let mut body = (&mut from).take(size);
        let mut hash = sha2::Sha256::new();
        let read = if name == image::MANIFEST {
            ensure!(size <= LARGEST_MANIFEST, "its manifest is too large");
            let mut text = Vec::new();
            body.read_to_end(&mut text).context("it cannot be read")?;
            hash.update(&text);
            let length = text.len() as u64;
            found.manifest = Some(text);
            length
        } else {
            std::io::copy(&mut body, &mut hash).context("it cannot be read")?
        };
        ensure!(read == size, "it ends too early");
        skip(&mut from, (4 - size % 4) % 4)?;
        found.files.push((name, Sha256(hash.finalize().into())));
    }
}

fn skip(from: &mut impl Read, count: u64) -> Result<()> {
    let skipped = std::io::copy(&mut from.take(count), &mut std::io::sink()).context("it cannot be read")?;
    ensure!(skipped == count, "it ends too early");
    Ok(())
}
