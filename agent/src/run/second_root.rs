//! The way back to the system so far, where the new one is made beside it.
//!
//! A boot partition is shared by two systems, whose kernels may have the same names. So before the old system's menu goes,
//! what starts it gets names of its own ([`keep`]): hard links in [`DIR`], with the arguments of its kernel. They take no room,
//! and the new system's packages make files of their own. As long as they are there, the new system's menu has an entry
//! for the old one, to which it turns by itself (`target/menu.rs`). A file there has the old root in its name ([`of_root`]):
//! each menu asks for the system it was made for, and never starts another one by its arguments.
//!
//! [`PROVEN`] names the root of the system that is to stay: the old one until the new one has confirmed itself. The
//! planner is told by it what it may overwrite, so that it is always the other place. A system that was never named so was
//! made before there were two places, and its agent takes nothing back ([`knows_the_way`]).
//!
//! | when | by whom | what |
//! |---|---|---|
//! | before the way back is laid | the installer | [`keep`], where nothing speaks against it ([`unverified`]) |
//! | the new system is whole, and none was kept | the installer | [`name_first`] |
//! | the new system has confirmed itself | its resident agent | [`release`] |
//! | the new system does not confirm itself | GRUB | starts the old one, whose resident agent calls [`take_back`] |
//! | the installation never comes to its end | the installer | [`give_back`] |
//!
//! Only GRUB turns back: the entry is not there until the starts are counted down, and the argument [`CHOSEN`] is its
//! mark. An old system that somebody started in another way runs, and changes nothing on the boot partition
//! ([`Standing::Guest`]).
//!
//! GRUB plays back no journal. What it reads is written by [`durable::replace_for_boot_loader`], and what goes loses its name
//! on the disk before its blocks are free.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use akene_planner::{Plan, Role};
use akene_protocol::inventory::LooksLike;
use akene_protocol::profile::Distribution;
use akene_protocol::{Inventory, Secret};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::boot_files::{self, remove_if_there, replace_private};
use super::kernels::{self, KINDS};
use crate::{durable, target};

mod back;
#[cfg(test)]
mod tests;

pub use back::{can_return, give_back, take_back};

/// What starts the old system, below the boot partition.
pub const DIR: &str = "akene/old";

/// The same while it is made and while it goes: a power cut may leave it.
const NEW: &str = "akene/old.new";
const GONE: &str = "akene/old.gone";

/// Its kernel and its initrd there.
pub const START: [&str; 2] = ["akene/old/vmlinuz", "akene/old/initrd.img"];

/// UUID of the root of the system that is to stay, below the boot partition. Behind it stands [`FOR_NOW`] where that system was
/// never named before, and [`GOES`] while it is replaced.
pub const PROVEN: &str = "akene/state/root";

/// The word behind the root of a system whose agent may know no way back: nothing is to be made there, and that is all.
const FOR_NOW: &str = "for-now";

/// The word behind the root of a system that makes room for the new one, which is made there.
const GOES: &str = "goes";

/// Argument of its kernel, where GRUB turned to it by itself.
pub const CHOSEN: &str = "akene.back";

/// How it is started.
const SYSTEM: &str = "system.json";

/// How the old system is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Old {
    /// UUID of its root.
    pub root: String,
    /// Version of its kernel.
    pub kernel: String,
    /// Arguments of its kernel.
    pub arguments: String,
    /// Versions of the kernels that were there.
    pub kernels: Vec<String>,
    /// The hash of its menu's password.
    pub password: Option<Secret>,
}

/// The file that says, below the boot partition, which root the old system has.
pub fn of_root(root: &str) -> String {
    format!("{DIR}/root-{root}")
}

/// What a running system is to its boot partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The only one.
    Alone,
    /// The new one, beside one that could come back.
    New,
    /// The old one, to which GRUB turned because the new one did not confirm itself.
    Back,
    /// The old one, which somebody started in another way: the boot partition is the new one's.
    Guest,
}

/// What a boot partition says of the root that is to stay.
pub fn mark(boot: &Path) -> Option<String> {
    Some(fs::read_to_string(boot.join(PROVEN)).ok()?.trim().to_owned())
}

/// The root that is to stay, if the boot partition names one.
pub fn proven(boot: &Path) -> Option<String> {
    let mark = mark(boot)?;
    let root = mark.split(' ').next().filter(|root| is_uuid(root))?;
    Some(root.to_owned())
}

/// The root that whoever plans must not overwrite. An installer of a release before there were two places leaves the name as it
/// was, whatever it puts where: then it is the root of the whole system that it made. Whoever has made a new system beside one that
/// stays says so in its plan.
pub fn to_stay(boot: &Path) -> Option<String> {
    let named = proven(boot)?;
    let whole = boot.join(boot_files::INSTALLED).exists() && !goes(boot);
    let plan: Option<Plan> =
        fs::read(boot.join(boot_files::PLAN)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let alone = plan.is_some_and(|plan| {
        !plan.disks.iter().flat_map(|disk| &disk.partitions).any(|part| part.purpose == Role::Old)
    });
    let menu = fs::read_to_string(boot.join(target::MENU)).unwrap_or_default();
    let started =
        started_first(&menu).filter(|first| whole && alone && kernels::can_start(boot, &first.kernel));
    Some(started.map_or(named, |first| first.root))
}

/// Whether the system on this root has been named, so that its agent knows how to take the boot partition back.
pub fn knows_the_way(boot: &Path, root: &str) -> bool {
    mark(boot).as_deref() == Some(root)
}

fn is_uuid(text: &str) -> bool {
    (1..=36).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Says what [`mark`] reads.
pub fn set_mark(boot: &Path, mark: Option<&str>) -> Result<()> {
    let path = boot.join(PROVEN);
    let Some(mark) = mark else { return remove_if_there(&path) };
    let dir = path.parent().context("finding the directory of the mark")?;
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    replace_private(&path, |out| writeln!(out, "{mark}").context("writing"))
}

/// Says that nothing is to be made on the root of the system so far, although that will not come back by itself.
pub fn stay_for_now(boot: &Path, root: &str) -> Result<()> {
    if proven(boot).as_deref() == Some(root) {
        return Ok(());
    }
    set_mark(boot, Some(&format!("{root} {FOR_NOW}")))
}

/// Says that the new system is made on the root that was to stay, so that a run that goes on makes it there, too.
pub fn give_up(boot: &Path) -> Result<()> {
    set_mark(boot, proven(boot).map(|root| format!("{root} {GOES}")).as_deref())
}

/// Whether the new system is made on the root that was to stay.
pub fn goes(boot: &Path) -> bool {
    mark(boot).is_some_and(|mark| mark.ends_with(&format!(" {GOES}")))
}

/// What the new system's root is called, which may be made on the one that was to stay.
pub fn is_made_on(boot: &Path, root: &str) -> Result<()> {
    if goes(boot) { set_mark(boot, Some(&format!("{root} {GOES}"))) } else { Ok(()) }
}

/// Names the root of a new system beside which no other one is to stay.
///
/// # Errors
/// Nothing says yet that it is whole: a run that goes on would take half a system for one that is to stay.
pub fn name_first(boot: &Path, root: &str) -> Result<()> {
    ensure!(boot.join(boot_files::INSTALLED).exists(), "the system on the root {root} is not whole yet");
    match proven(boot) {
        Some(_) if !goes(boot) => Ok(()),
        _ => set_mark(boot, Some(root)),
    }
}

/// The old system, if all that starts it is there.
pub fn read(boot: &Path) -> Option<Old> {
    let text = fs::read(boot.join(DIR).join(SYSTEM)).ok()?;
    let old: Old = serde_json::from_slice(&text).ok()?;
    let sound = is_uuid(&old.root) && is_version(&old.kernel) && is_plain(&old.arguments);
    let files = [START[0], START[1], &of_root(&old.root)];
    (sound && files.iter().all(|file| boot.join(file).is_file())).then_some(old)
}

/// The same, unless the menu starts it anyway: then its way back was laid for a new system that never came to be, or is not needed
/// any more.
pub fn kept(boot: &Path) -> Option<Old> {
    let menu = fs::read_to_string(boot.join(target::MENU)).unwrap_or_default();
    read(boot).filter(|old| started_first(&menu).is_none_or(|first| first.root != old.root))
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+~".contains(c))
}

/// Whether GRUB reads a text as it is.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| (c.is_ascii_graphic() && !"\"'`$\\;{}#&|<>".contains(c)) || c == ' ')
}

/// Gives what starts the system on this root names of its own, as long as its menu says how it is started. False: it does
/// not. A run that goes on finds them there already.
pub fn keep(boot: &Path, root: &str) -> Result<bool> {
    if kept(boot).is_some_and(|old| old.root == root) {
        return Ok(true);
    }
    forget(boot)?;
    let menu = fs::read_to_string(boot.join(target::MENU)).unwrap_or_default();
    let Some(mut old) = started_first(&menu).filter(|old| old.root == root) else { return Ok(false) };
    if !kernels::can_start(boot, &old.kernel) {
        return Ok(false);
    }
    old.kernels = kernels::list(boot)?.into_iter().map(|(_, version)| version).collect();
    old.kernels.sort();
    old.kernels.dedup();
    let (dir, new) = (boot.join(DIR), boot.join(NEW));
    fs::create_dir_all(&new).with_context(|| format!("making {}", new.display()))?;
    for kind in KINDS {
        let from = boot.join(format!("{kind}-{}", old.kernel));
        if from.is_file() {
            link(&from, &new.join(kind))?;
        }
    }
    let text = super::json(&old, "how the old system is started")?;
    replace_private(&new.join(SYSTEM), |out| out.write_all(&text).context("writing"))?;
    let own = new.join(format!("root-{root}"));
    fs::write(&own, "").with_context(|| format!("writing {}", own.display()))?;
    durable::sync(boot)?;
    fs::rename(&new, &dir).with_context(|| format!("naming {}", dir.display()))?;
    durable::sync(boot)?;
    Ok(true)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to).with_context(|| format!("linking {} to {}", to.display(), from.display()))
}

/// UUID of the root of the system that the menu of this boot partition starts when nobody chooses. `None`: it starts none, or
/// says so in another way.
pub fn current(boot: &Path) -> Option<String> {
    let menu = fs::read_to_string(boot.join(target::MENU)).ok()?;
    let first = kernels::started(&menu).next()?;
    first.root().filter(|root| is_uuid(root)).map(str::to_owned)
}

/// Why nobody may count on an old system's kernel being started while Secure Boot is on: GRUB starts only what its shim
/// knows, and a distribution's shim knows that distribution alone. `loaders`: whose boot loaders the disk has until the
/// new system has confirmed itself.
pub fn unverified(
    secure_boot: Option<bool>,
    inventory: &Inventory,
    root: &str,
    loaders: &[Distribution],
) -> Option<String> {
    if secure_boot != Some(true) {
        return None;
    }
    let partitions = inventory.disks.iter().flat_map(|d| d.table.iter().flat_map(|t| &t.partitions));
    let mut contents = partitions.filter_map(|p| p.content.as_ref());
    let old = contents.find(|c| c.uuid.as_deref() == Some(root)).and_then(|c| match &c.looks_like {
        Some(LooksLike::LinuxRoot { name, .. }) => name.as_deref(),
        _ => None,
    });
    let old = old.unwrap_or("an unknown system");
    let knows = |loader: &Distribution| match loader {
        Distribution::Debian => old.starts_with("Debian"),
        Distribution::Ubuntu => old.starts_with("Ubuntu"),
    };
    let other = loaders.iter().find(|loader| !knows(loader))?;
    Some(format!("Secure Boot is on, and the boot loader of {} does not start {old}", other.directory()))
}

/// How a menu starts the first system in it whose kernel is that system's own.
fn started_first(menu: &str) -> Option<Old> {
    let first = kernels::started(menu).find(|started| started.kernel.starts_with("/vmlinuz-"))?;
    let (root, version) = (first.root()?, first.version()?);
    // With others in front of it, it would not be the whole of it.
    let whole = first.initrd == [format!("/initrd.img-{version}")];
    // Ubuntu's menu has a variable that says whether the screen is handed over.
    let arguments: Vec<&str> = first.arguments.into_iter().filter(|word| !word.starts_with('$')).collect();
    let arguments = arguments.join(" ");
    (whole && is_uuid(root) && is_version(version) && is_plain(&arguments)).then(|| Old {
        root: root.to_owned(),
        kernel: version.to_owned(),
        arguments,
        kernels: Vec::new(),
        password: target::menu_password(menu),
    })
}

/// Takes the way back away. The entry of the menu goes with it at once: GRUB finds all of it or nothing.
pub fn forget(boot: &Path) -> Result<()> {
    let (dir, gone) = (boot.join(DIR), boot.join(GONE));
    remove_dir(&boot.join(NEW))?;
    remove_dir(&gone)?;
    match fs::rename(&dir, &gone) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.with_context(|| format!("renaming {}", dir.display()))?,
    }
    durable::sync_for_boot_loader(boot)?;
    remove_dir(&gone)?;
    durable::sync_for_boot_loader(boot)
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// UUID of the root of the system that runs below `top`, as its kernel was told, and whether GRUB turned to it by itself.
fn own_root(top: &Path) -> Option<(String, bool)> {
    let text = fs::read_to_string(top.join("proc/cmdline")).ok()?;
    let own = kernels::root_in(text.split_whitespace())?;
    let chosen = text.split_whitespace().any(|word| word == CHOSEN);
    is_uuid(own).then(|| (own.to_owned(), chosen))
}

/// What the system that runs below `top` is to its boot partition.
pub fn standing(top: &Path) -> Standing {
    match (kept(&top.join("boot")), own_root(top)) {
        (None, _) => Standing::Alone,
        (Some(old), Some((own, true))) if own == old.root => Standing::Back,
        (Some(old), Some((own, false))) if own == old.root => Standing::Guest,
        (Some(_), _) => Standing::New,
    }
}

/// Whether the system below `top` is the one that its boot partition starts when nobody chooses, as far as that says so. One that is left
/// of earlier times is not, whoever has started it.
pub fn is_current(top: &Path) -> bool {
    let own = own_root(top).map(|(own, _)| own);
    current(&top.join("boot")).is_none_or(|current| own.is_none_or(|own| own == current))
}

/// This system has confirmed itself: it is the one to stay, and an old one is let go. Its place is where the next system is
/// made; until then everything on it stays. True: there was one.
pub fn release(top: &Path) -> Result<bool> {
    let boot = top.join("boot");
    let Some((own, _)) = own_root(top) else { return Ok(false) };
    match standing(top) {
        Standing::New => {}
        Standing::Alone if !is_current(top) => return Ok(false),
        Standing::Alone => {}
        Standing::Back | Standing::Guest => return Ok(false),
    }
    let kept = boot.join(DIR).exists();
    let nothing_left = !kept && !boot.join(NEW).exists() && !boot.join(GONE).exists();
    if !boot.join("akene").is_dir() || (knows_the_way(&boot, &own) && nothing_left) {
        return Ok(false);
    }
    let other = proven(&boot).is_some_and(|root| root != own);
    set_mark(&boot, Some(&own))?;
    durable::sync(&boot)?;
    forget(&boot)?;
    Ok(other || kept)
}
