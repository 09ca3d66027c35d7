//! The way back to the system so far, where the new one is made beside it.
//!
//! A boot partition is shared by two systems, whose kernels may have the same names. So before the old system's menu goes,
//! what starts it gets names of its own ([`keep`]): hard links in [`DIR`], with the arguments of its kernel. They take no room,
//! and the new system's packages make files of their own. As long as they are there, the new system's menu has an entry
//! for the old one, to which it turns by itself (`target/menu.rs`).
//!
//! [`PROVEN`] names the root of the system that is to stay: the old one until the new one has confirmed itself. The
//! planner is told by it what it may overwrite, so that it is always the other place.
//!
//! | when | by whom | what |
//! |---|---|---|
//! | before the way back is laid | the installer | [`keep`], where nothing speaks against it ([`unverified`]) |
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
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::Inventory;
use akene_protocol::inventory::LooksLike;
use akene_protocol::profile::Distribution;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::boot_files::{self, remove_if_there, replace_private};
use super::left;
use super::stage::Visit;
use crate::durable;
use crate::fetch::known;
use crate::journal::{Journal, What};
use crate::probe::content;
use crate::report::Reporter;
use crate::target;

/// What starts the old system, below the boot partition.
pub const DIR: &str = "akene/old";

/// Its kernel and its initrd there.
pub const START: [&str; 2] = ["akene/old/vmlinuz", "akene/old/initrd.img"];

/// UUID of the root of the system that has proven itself, below the boot partition.
pub const PROVEN: &str = "akene/state/root";

/// Argument of its kernel, where GRUB turned to it by itself.
pub const CHOSEN: &str = "akene.back";

/// How it is started.
const SYSTEM: &str = "system.json";

/// What of a kernel lies on a boot partition, in front of its version. The first two start it.
const KINDS: [&str; 4] = ["vmlinuz", "initrd.img", "System.map", "config"];

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

/// The root that has proven itself, if the boot partition names one.
pub fn proven(boot: &Path) -> Option<String> {
    let text = fs::read_to_string(boot.join(PROVEN)).ok()?;
    let uuid = text.trim();
    is_uuid(uuid).then(|| uuid.to_owned())
}

fn is_uuid(text: &str) -> bool {
    (1..=36).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Names the root that has proven itself.
pub fn set_proven(boot: &Path, root: Option<&str>) -> Result<()> {
    let path = boot.join(PROVEN);
    let Some(root) = root else { return remove_if_there(&path) };
    let dir = path.parent().context("finding the directory of the mark")?;
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    replace_private(&path, |out| writeln!(out, "{root}").context("writing"))
}

/// The old system, if all that starts it is there.
pub fn read(boot: &Path) -> Option<Old> {
    let text = fs::read(boot.join(DIR).join(SYSTEM)).ok()?;
    let old: Old = serde_json::from_slice(&text).ok()?;
    let sound = is_uuid(&old.root) && is_version(&old.kernel) && is_plain(&old.arguments);
    (sound && START.iter().all(|file| boot.join(file).is_file())).then_some(old)
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
    set_proven(boot, Some(root))?;
    if read(boot).is_some_and(|old| old.root == root) {
        return Ok(true);
    }
    forget(boot)?;
    let menu = fs::read_to_string(boot.join(target::MENU)).unwrap_or_default();
    let Some(old) = started_first(&menu).filter(|old| old.root == root) else { return Ok(false) };
    if !KINDS[..2].iter().all(|kind| boot.join(format!("{kind}-{}", old.kernel)).is_file()) {
        return Ok(false);
    }
    let (dir, new) = (boot.join(DIR), boot.join(format!("{DIR}.new")));
    remove_dir(&new)?;
    fs::create_dir_all(&new).with_context(|| format!("making {}", new.display()))?;
    for kind in KINDS {
        let from = boot.join(format!("{kind}-{}", old.kernel));
        if from.is_file() {
            link(&from, &new.join(kind))?;
        }
    }
    let text = super::json(&old, "how the old system is started")?;
    replace_private(&new.join(SYSTEM), |out| out.write_all(&text).context("writing"))?;
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
    let mut kernels = menu.lines().map(str::trim).filter(|line| line.starts_with("linux"));
    let root = kernels.next()?.split_whitespace().find_map(|word| word.strip_prefix("root=UUID="))?;
    is_uuid(root).then(|| root.to_owned())
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

/// How a menu starts the system of its first entry.
fn started_first(menu: &str) -> Option<Old> {
    let mut lines = menu.lines().map(str::trim).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let kernel = lines.find(|words| {
        words.first().is_some_and(|w| w.starts_with("linux"))
            && words.get(1).is_some_and(|w| w.starts_with("/vmlinuz-"))
    })?;
    let version = kernel[1].strip_prefix("/vmlinuz-")?.to_owned();
    // Ubuntu's menu has a variable that says whether the screen is handed over.
    let arguments: Vec<&str> = kernel[2..].iter().copied().filter(|word| !word.starts_with('$')).collect();
    let root = arguments.iter().find_map(|word| word.strip_prefix("root=UUID="))?.to_owned();
    let initrd = lines.find(|words| words.first().is_some_and(|w| w.starts_with("initrd") || *w == "}"))?;
    // With others in front of it, it would not be the whole of it.
    let whole = initrd[1..] == [format!("/initrd.img-{version}")];
    let arguments = arguments.join(" ");
    (whole && is_uuid(&root) && is_version(&version) && is_plain(&arguments)).then_some(Old {
        root,
        kernel: version,
        arguments,
    })
}

/// Takes the way back away. The entry of the menu goes with it at once: GRUB finds all of it or nothing.
pub fn forget(boot: &Path) -> Result<()> {
    let (dir, gone) = (boot.join(DIR), boot.join(format!("{DIR}.gone")));
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
    let own = text.split_whitespace().find_map(|word| word.strip_prefix("root=UUID="))?;
    let chosen = text.split_whitespace().any(|word| word == CHOSEN);
    is_uuid(own).then(|| (own.to_owned(), chosen))
}

/// What the system that runs below `top` is to its boot partition.
pub fn standing(top: &Path) -> Standing {
    match (read(&top.join("boot")), own_root(top)) {
        (None, _) => Standing::Alone,
        (Some(old), Some((own, true))) if own == old.root => Standing::Back,
        (Some(old), Some((own, false))) if own == old.root => Standing::Guest,
        (Some(_), _) => Standing::New,
    }
}

/// This system has confirmed itself: it is the one to stay, and an old one is let go. Its place is where the next system is
/// made; until then everything on it stays. True: there was one.
pub fn release(top: &Path) -> Result<bool> {
    let boot = top.join("boot");
    let Some((own, _)) = own_root(top) else { return Ok(false) };
    let kept = boot.join(DIR).exists();
    let proven = proven(&boot);
    if matches!(standing(top), Standing::Back | Standing::Guest)
        || (proven.as_ref() == Some(&own) && !kept)
        || !boot.join("akene").is_dir()
    {
        return Ok(false);
    }
    let other = proven.is_some_and(|root| root != own);
    set_proven(&boot, Some(&own))?;
    durable::sync(&boot)?;
    forget(&boot)?;
    Ok(other || kept)
}

/// Where GRUB turned to this system because there is no new one: it takes the boot partition back, kernels and menu, as they
/// were before. Each step leaves a machine that starts this system; the last takes away the entry by which it was
/// started. True: it came back.
pub fn take_back(top: &Path, runner: &dyn Runner) -> Result<bool> {
    let boot = top.join("boot");
    if standing(top) != Standing::Back {
        return Ok(false);
    }
    let old = read(&boot).context("looking for what starts this system")?;
    for kind in KINDS {
        let kept = boot.join(DIR).join(kind);
        if !kept.is_file() {
            continue;
        }
        let (name, beside) =
            (boot.join(format!("{kind}-{}", old.kernel)), boot.join(format!("{kind}.akene-new")));
        remove_if_there(&beside)?;
        link(&kept, &beside)?;
        // Of two names for one file, renaming would leave both.
        remove_if_there(&name)?;
        fs::rename(&beside, &name).with_context(|| format!("naming {}", name.display()))?;
    }
    for entry in fs::read_dir(&boot).with_context(|| format!("listing {}", boot.display()))? {
        let path = entry.with_context(|| format!("listing {}", boot.display()))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let version = KINDS.iter().find_map(|kind| name.strip_prefix(kind)?.strip_prefix('-'));
        // The new system's kernels have no modules here.
        if version.is_some_and(|v| v != old.kernel && !top.join("lib/modules").join(v).is_dir()) {
            remove_if_there(&path)?;
        }
    }
    // An installation that ended early has taken it away, and GRUB makes none.
    let environment = boot.join(boot_files::ENVIRONMENT);
    if !environment.exists() {
        durable::replace(&environment, 0o644, |out| {
            out.write_all(&boot_files::environment(&[])).context("writing")
        })?;
    }
    let waiting = boot.join(target::WAITING_MENU);
    runner
        .run(&Cmd::new("grub-mkconfig").arg("-o").arg(&waiting).timeout(Duration::from_secs(600)))
        .context("writing GRUB's menu anew")?;
    let text = fs::read_to_string(&waiting).with_context(|| format!("reading {}", waiting.display()))?;
    let modules = |first: &Old| top.join("lib/modules").join(&first.kernel).is_dir();
    ensure!(
        started_first(&text).is_some_and(|first| first.root == old.root && modules(&first)),
        "GRUB's menu, written anew, does not start this system"
    );
    // Where an installation was given up, the menu written anew would lead to the installer without the mark.
    boot_files::set_installed(&boot, true)?;
    super::resume::remove(&boot)?;
    // Kernels and mark have to be where GRUB finds them before the menu is.
    durable::sync_for_boot_loader(&boot)?;
    target::take_waiting_menu(&boot)?;
    forget(&boot)?;
    Ok(true)
}

/// Whether the system beside an unfinished installation, on the boot partition `device`, is there and can be started.
pub fn can_return(device: &Path, inventory: &Inventory) -> bool {
    let Ok(Some(old)) = known::look(device, |boot| Ok(read(boot))) else { return false };
    let partitions = inventory.disks.iter().flat_map(|d| d.table.iter().flat_map(|t| &t.partitions));
    let mut contents = partitions.filter_map(|p| p.content.as_ref());
    contents.any(|c| {
        let system = matches!(c.looks_like, Some(LooksLike::LinuxRoot { name: Some(_), .. }));
        system && c.uuid.as_deref() == Some(&old.root)
    })
}

/// Makes the machine start the old system again, because the installation beside it does not come to its end.
pub fn give_back(device: &Path, consoles: &[String], runner: &dyn Runner, reporter: &Reporter) -> Result<()> {
    if !left::is_clean(device)? {
        // Its outcome is seen by the mount.
        let check = Cmd::new("e2fsck").arg("-p").arg(device).timeout(Duration::from_secs(600));
        if let Err(error) = runner.run(&check) {
            reporter.debug(format!("{}: {error:#}", device.display()));
        }
    }
    let uuid = content::of(runner, device)?.and_then(|c| c.uuid);
    let uuid = uuid.context("looking for the UUID of the boot partition")?;
    let visit = Visit::new(device, true)?;
    let given = give_back_on(visit.top(), &uuid, consoles, &mut Journal::new(reporter.run()));
    visit.end()?;
    given
}

/// The same on a boot partition that is mounted. The menu changes first: without the mark it would not count. Its starts are
/// counted from the beginning.
fn give_back_on(boot: &Path, uuid: &str, consoles: &[String], journal: &mut Journal) -> Result<()> {
    let old = read(boot).context("looking for what starts the old system")?;
    let starts = target::STARTS.to_string();
    durable::replace_for_boot_loader(&boot.join(boot_files::ENVIRONMENT), 0o644, |out| {
        out.write_all(&boot_files::environment(&[("akene_back", &starts)])).context("writing")
    })?;
    target::lead_to_old(boot, uuid, consoles, &old)?;
    durable::sync_for_boot_loader(boot)?;
    journal.open(boot)?;
    journal.record(What::Returned)?;
    journal.close();
    boot_files::set_installed(boot, true)?;
    super::resume::remove(boot)?;
    durable::sync_for_boot_loader(boot)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use akene_exec::{RecordingRunner, SystemRunner};
    use akene_protocol::RunId;

    use super::*;

    const A: &str = "aaaa-1";
    const B: &str = "bbbb-2";

    fn menu(root: &str, version: &str) -> String {
        format!(
            "set default=0\nmenuentry 'x' --id gnulinux {{\n\techo\t'Loading'\n\tlinux\t/vmlinuz-{version} root=UUID={root} ro  panic=30 $vt_handoff\n\
             \tinitrd\t/initrd.img-{version}\n}}\nmenuentry 'y' {{\n\tlinux /vmlinuz-5 root=UUID={root}\n}}\n"
        )
    }

    fn write(top: &Path, name: &str, text: &str) {
        let path = top.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn content(top: &Path, name: &str) -> Option<String> {
        fs::read_to_string(top.join(name)).ok()
    }

    /// A machine that runs the system on this root, with this kernel.
    fn machine(root: &str, version: &str) -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        write(top.path(), "boot/grub/grub.cfg", &menu(root, version));
        for kind in KINDS {
            write(top.path(), &format!("boot/{kind}-{version}"), &format!("{kind} of {root}"));
        }
        fs::create_dir_all(top.path().join("lib/modules").join(version)).unwrap();
        runs(top.path(), root);
        top
    }

    fn runs(top: &Path, root: &str) {
        write(top, "proc/cmdline", &format!("BOOT_IMAGE=/vmlinuz root=UUID={root} ro panic=30\n"));
    }

    /// As GRUB starts the system before the new one.
    fn comes_back(top: &Path, root: &str) {
        write(top, "proc/cmdline", &format!("BOOT_IMAGE=/akene/old/vmlinuz root=UUID={root} ro {CHOSEN}\n"));
    }

    /// As an installation leaves it whose kernel has the same name.
    fn install_beside(top: &Path, root: &str, version: &str) {
        for kind in KINDS {
            let path = top.join(format!("boot/{kind}-{version}"));
            remove_if_there(&path).unwrap();
            fs::write(path, format!("{kind} of {root}")).unwrap();
        }
        write(top, "boot/vmlinuz-9", "another kernel of the new system");
        write(top, "boot/grub/grub.cfg", &menu(root, version));
    }

    #[test]
    fn a_menu_says_how_its_first_system_is_started_or_nobody_knows() {
        let old = started_first(&menu(A, "6.1.0-13-amd64")).unwrap();
        assert_eq!((old.root.as_str(), old.kernel.as_str()), (A, "6.1.0-13-amd64"));
        assert_eq!(old.arguments, format!("root=UUID={A} ro panic=30"));
        for odd in [
            String::new(),
            "linux /akene/vmlinuz akene.mode=install\ninitrd /akene/initrd.img\n".into(),
            menu(A, "6.1").replace("initrd\t", "initrd\t/ucode.img "),
            menu(A, "6.1").replace("\tinitrd", "\techo"),
            menu(A, "6.1").replace("panic=30", "init=`x`"),
            menu("/dev/sda5", "6.1"),
            menu(A, "6.1/../../x"),
        ] {
            assert_eq!(started_first(&odd), None, "{odd}");
        }
    }

    #[test]
    fn what_starts_the_old_system_outlives_the_new_ones_packages_and_goes_when_that_has_confirmed_itself() {
        let top = machine(A, "6.1");
        let boot = top.path().join("boot");
        assert!(!keep(&boot, B).unwrap(), "the menu starts another system");
        assert_eq!((read(&boot), proven(&boot).as_deref()), (None, Some(B)));
        assert!(keep(&boot, A).unwrap());
        let old = read(&boot).unwrap();
        install_beside(top.path(), B, "6.1");
        // A run that goes on after a power cut finds it there, whatever the menu says now.
        assert!(keep(&boot, A).unwrap());
        assert_eq!((read(&boot), proven(&boot).as_deref()), (Some(old), Some(A)));
        assert_eq!(
            START.map(|file| content(&boot, file).unwrap()),
            ["vmlinuz of aaaa-1", "initrd.img of aaaa-1"]
        );
        assert_eq!(content(&boot, "vmlinuz-6.1").unwrap(), "vmlinuz of bbbb-2");
        // Somebody at the keyboard started the old system: it is not the one that lets itself go, and takes nothing back.
        assert_eq!(standing(top.path()), Standing::Guest);
        assert!(!release(top.path()).unwrap());
        assert!(!take_back(top.path(), &RecordingRunner::default()).unwrap());
        assert_eq!(content(&boot, "grub/grub.cfg").unwrap(), menu(B, "6.1"));
        comes_back(top.path(), A);
        assert_eq!(standing(top.path()), Standing::Back);
        assert!(!release(top.path()).unwrap());
        runs(top.path(), B);
        assert_eq!(standing(top.path()), Standing::New);
        assert!(!take_back(top.path(), &RecordingRunner::default()).unwrap());
        assert!(release(top.path()).unwrap());
        assert_eq!((read(&boot), proven(&boot).as_deref()), (None, Some(B)));
        assert!(!boot.join(DIR).exists());
        assert!(!release(top.path()).unwrap(), "once");
        assert_eq!(standing(top.path()), Standing::Alone);
    }

    #[test]
    fn one_that_is_alone_and_has_confirmed_itself_is_named_too() {
        let top = machine(A, "6.1");
        let boot = top.path().join("boot");
        fs::create_dir_all(boot.join("akene")).unwrap();
        assert!(!release(top.path()).unwrap());
        assert_eq!(proven(&boot).as_deref(), Some(A));
    }

    #[test]
    fn the_menu_says_which_system_starts() {
        let top = machine(A, "6.1");
        let boot = top.path().join("boot");
        assert_eq!(current(&boot).as_deref(), Some(A));
        for (text, root) in [
            ("menuentry x {\n\tlinux /akene/vmlinuz akene.mode=install\n}\n", None),
            ("menuentry x {\n\tlinux /akene/old/vmlinuz root=UUID=bbbb-2 akene.back\n}\n", Some(B)),
            ("menuentry x {\n\tlinux /vmlinuz-6.1 root=/dev/sda1\n}\n", None),
        ] {
            write(&boot, "grub/grub.cfg", text);
            assert_eq!(current(&boot).as_deref(), root, "{text}");
        }
    }

    #[test]
    fn under_secure_boot_only_the_same_distribution_can_come_back() {
        use akene_protocol::inventory::Content;
        use akene_protocol::profile::Distribution::{Debian, Ubuntu};

        let file =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/akene-two-roots-power-cut/inventory.json");
        let mut inventory: Inventory = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let partitions =
            inventory.disks.iter_mut().flat_map(|d| &mut d.table).flat_map(|t| &mut t.partitions);
        let looks_like = LooksLike::LinuxRoot {
            name: Some("Debian GNU/Linux 12 (bookworm)".into()),
            home_inside: false,
            home_used: None,
        };
        for partition in partitions {
            let is_root = |c: &Content| matches!(c.looks_like, Some(LooksLike::LinuxRoot { .. }));
            if let Some(content) = partition.content.as_mut().filter(|c| is_root(c)) {
                (content.uuid, content.looks_like) = (Some(A.into()), Some(looks_like.clone()));
            }
        }
        let why = |secure_boot, root, loaders: &[_]| unverified(secure_boot, &inventory, root, loaders);
        assert_eq!(why(Some(true), A, &[Debian, Debian]), None);
        for loaders in [[Ubuntu, Debian], [Debian, Ubuntu]] {
            let why = why(Some(true), A, &loaders).unwrap();
            assert!(why.contains("ubuntu") && why.contains("Debian GNU/Linux 12"), "{why}");
        }
        assert!(why(Some(true), B, &[Debian]).unwrap().contains("unknown"));
        for off in [Some(false), None] {
            assert_eq!(why(off, A, &[Ubuntu]), None);
        }
    }

    #[test]
    fn the_old_system_takes_back_its_kernels_and_its_menu() {
        let top = machine(A, "6.1");
        let boot = top.path().join("boot");
        keep(&boot, A).unwrap();
        install_beside(top.path(), B, "6.1");
        comes_back(top.path(), A);
        let waiting = boot.join("grub/akene-system.cfg");
        // A menu that does not start this system is not taken, nor one whose kernel would find no modules.
        fs::write(&waiting, menu(B, "6.1")).unwrap();
        assert!(take_back(top.path(), &RecordingRunner::default()).is_err());
        assert_eq!(standing(top.path()), Standing::Back, "the next start tries again");
        fs::write(&waiting, menu(A, "6.1")).unwrap();
        let modules = top.path().join("lib/modules/6.1");
        fs::rename(&modules, top.path().join("away")).unwrap();
        assert!(take_back(top.path(), &RecordingRunner::default()).is_err());
        fs::rename(top.path().join("away"), &modules).unwrap();
        fs::remove_file(boot.join(boot_files::ENVIRONMENT)).unwrap();
        fs::set_permissions(&waiting, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(take_back(top.path(), &RecordingRunner::default()).unwrap());
        assert_eq!(content(&boot, "grub/grub.cfg").unwrap(), menu(A, "6.1"));
        for kind in KINDS {
            assert_eq!(content(&boot, &format!("{kind}-6.1")).unwrap(), format!("{kind} of {A}"));
        }
        assert!(!boot.join("vmlinuz-9").exists(), "it has no modules");
        assert!(!boot.join(DIR).exists() && standing(top.path()) == Standing::Alone);
        let environment = fs::read(boot.join(boot_files::ENVIRONMENT)).unwrap();
        assert!(boot_files::is_environment(&environment));
        // It may hold the hash of a password.
        let mode = boot.join("grub/grub.cfg").metadata().unwrap().permissions().mode();
        assert_eq!((mode & 0o777, waiting.exists()), (0o600, false));
        assert!(boot.join(boot_files::INSTALLED).exists());
        assert_eq!(proven(&boot).as_deref(), Some(A));
    }

    #[test]
    fn an_installation_that_is_given_up_leaves_a_disk_that_starts_the_old_system() {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            eprintln!("SKIPPED: needs to be root and loop devices");
            return;
        }
        akene_exec::own_mounts().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("boot.img");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        SystemRunner.run(&Cmd::new("mkfs.ext4").arg("-q").arg(&image)).unwrap();
        let (node, _device) = crate::sys::loopdev::attach_disk(&image, 512).unwrap();
        let visit = Visit::new(&node, true).unwrap();
        let boot = visit.top();
        for kind in KINDS {
            write(boot, &format!("{kind}-6.1"), &format!("{kind} of {A}"));
        }
        write(boot, "grub/grub.cfg", &menu(A, "6.1"));
        let mut journal = Journal::new(RunId([1; 8]));
        assert!(give_back_on(boot, "1234", &[], &mut journal).is_err(), "nothing was kept");
        assert_eq!(content(boot, "grub/grub.cfg").unwrap(), menu(A, "6.1"));
        keep(boot, A).unwrap();
        for kind in KINDS {
            fs::remove_file(boot.join(format!("{kind}-6.1"))).unwrap();
        }
        write(boot, "grub/grub.cfg", "linux /akene/vmlinuz akene.mode=install\n");
        give_back_on(boot, "1234", &[], &mut journal).unwrap();
        assert!(boot.join(boot_files::INSTALLED).exists());
        assert_eq!(crate::journal::is_whole(&crate::journal::read(boot).unwrap()), Some(true));
        // As GRUB finds it, without playing back a journal.
        let seen = |file: &str| {
            let cat = Cmd::new("debugfs").args(["-R", &format!("cat {file}")]).arg(&image);
            SystemRunner.run(&cat).unwrap().text()
        };
        let first = seen("/grub/grub.cfg");
        let entry = &first[..first.find("\n}").unwrap()];
        assert!(
            entry.contains(&format!("linux /akene/old/vmlinuz root=UUID={A} ro panic=30 {CHOSEN}\n")),
            "{first}"
        );
        let environment = seen("/grub/grubenv");
        assert!(boot_files::is_environment(environment.as_bytes()), "{environment}");
        assert!(environment.contains("\nakene_back=5\n"), "{environment}");
        assert_eq!(seen("/akene/old/vmlinuz"), "vmlinuz of aaaa-1");
        visit.end().unwrap();
    }

    #[test]
    fn what_is_torn_or_odd_is_no_way_back() {
        let top = machine(A, "6.1");
        let boot = top.path().join("boot");
        keep(&boot, A).unwrap();
        let path = boot.join(DIR).join(SYSTEM);
        let text = fs::read_to_string(&path).unwrap();
        for odd in [&text[..text.len() / 2], &text.replace("ro ", "ro;halt "), &text.replace(A, "../x")] {
            fs::write(&path, odd).unwrap();
            assert_eq!(read(&boot), None, "{odd}");
        }
        fs::write(&path, &text).unwrap();
        fs::remove_file(boot.join(START[1])).unwrap();
        assert_eq!(read(&boot), None);
        write(&boot, PROVEN, "../../x\n");
        assert_eq!(proven(&boot), None);
    }
}
