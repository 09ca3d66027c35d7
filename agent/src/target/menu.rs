//! What GRUB's menu says: while the installation goes on, and afterwards.
//!
//! The menu of the installed system is made by its own grub-mkconfig, at each update of a kernel or of GRUB, so all that is
//! ours in it comes from scripts in `/etc/grub.d`:
//!
//! - `01_akene` decides what starts when nobody chooses ([`guard`]). Until the installation is complete, by the mark on the boot
//!   partition, that is the installer, whoever has this menu written before. A system that is new has [`STARTS`] to come up
//!   (`akene_tries` in GRUB's environment, taken away by the resident agent); then the system before it has as many (`akene_back`),
//!   where it was kept ([`second_root`]); then the installer gets a turn, in which it can be reached from far away. What GRUB
//!   cannot load is passed over. Where the profile has a password, it also says who may do more than start the system.
//! - `42_akene` has the entries for the installer ([`entries`]), if its files are there, and the one for the system before this
//!   one, when its turn has come: nobody at the keyboard decides which system is the machine's.
//!
//! `next_entry` in GRUB's environment starts the installer once; GRUB's own `00_header` clears it before it loads anything, so
//! that whatever becomes of that start, the next one is the system's again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use akene_archive::Root;
use akene_exec::Runner;
use akene_planner::Role;
use akene_protocol::Secret;
use anyhow::{Context, Result, bail};

use super::bootloader::MENU;
use super::{Job, Watch};
use crate::durable;
use crate::run::boot_files::{INSTALLED, INSTALLER};
use crate::run::kernels;
use crate::run::second_root::{self, CHOSEN, Old, START};
use crate::storage::Layout;

#[cfg(test)]
mod tests;

/// GRUB's environment, below the root.
const ENVIRONMENT: &str = "boot/grub/grubenv";

/// Starts a new system has until it is up. People switch computers off before they are: two or three would be too few.
pub(super) const STARTS: u32 = 5;

/// Title of the entry by which the installer is reached where no system comes up.
const HELP: &str = "Call for help: the installed system does not come up";

/// Who GRUB lets do everything, where there is a password.
const SUPERUSER: &str = "admin";

/// Arguments of every kernel we start unattended: a machine that hangs in a panic needs somebody to press a button.
const RESTARTS: &str = "panic=30";

/// Besides them, for the installer: a processor that does not come back from the kernel is a panic too.
const LOCKUPS: &str = "softlockup_panic=1";

/// The menu of the installed system, until that is whole: GRUB's tools write menus in place, and one that starts half a
/// system, or is half written itself, must never be found.
pub(super) const WAITING: &str = "grub/akene-system.cfg";

/// Makes the disk start the installed system, which is whole. A menu that a script of the profile wrote meanwhile, being the
/// newer one, stays.
pub(super) fn start_system(boot: &Path) -> Result<()> {
    let waiting = boot.join(WAITING);
    let now = fs::read_to_string(boot.join(MENU)).unwrap_or_default();
    if !now.contains("/vmlinuz-") {
        replace(boot)?;
    }
    fs::remove_file(&waiting).with_context(|| format!("removing {}", waiting.display()))?;
    durable::sync_for_boot_loader(boot)
}

/// Puts the menu that waits in the place of the other one, and nothing of it stays beside.
pub(super) fn take_waiting(boot: &Path) -> Result<()> {
    let waiting = boot.join(WAITING);
    replace(boot)?;
    fs::remove_file(&waiting).with_context(|| format!("removing {}", waiting.display()))?;
    durable::sync_for_boot_loader(boot)
}

/// Puts the menu that waits in the place of the other one.
fn replace(boot: &Path) -> Result<()> {
    let waiting = boot.join(WAITING);
    let text = fs::read(&waiting).with_context(|| format!("reading {}", waiting.display()))?;
    let mode = waiting.metadata().with_context(|| format!("looking at {}", waiting.display()))?;
    durable::replace_for_boot_loader(&boot.join(MENU), mode.permissions().mode() & 0o777, |out| {
        out.write_all(&text).context("writing")
    })
}

/// Makes the menu of an installed system anew, from the settings that lie in it.
pub(super) fn renew(layout: &Layout, root: &Root, runner: &dyn Runner) -> Result<()> {
    let boot = layout.root.join("boot");
    if !root.exists(ENVIRONMENT) {
        let create = ["/boot/grub/grubenv", "create"];
        runner.run(&super::inside(&layout.root, "grub-editenv").args(create))?;
    }
    // An upgrade that broke off may have left a kernel in front that is not whole; it is the system's own, and another one starts.
    make(layout, root, runner)?;
    take_waiting(&boot)
}

/// Has the system's own tool make its menu, which waits beside the one there is. Gives the version of the kernel that it starts when
/// nobody chooses.
fn make(layout: &Layout, root: &Root, runner: &dyn Runner) -> Result<String> {
    let links = Links::make(layout)?;
    let command = super::inside(&layout.root, "grub-mkconfig").args(["-o", &format!("/boot/{WAITING}")]);
    let configured = runner.run(&command);
    links.remove();
    configured.context("writing GRUB's menu")?;
    check_menu(layout, root)
}

/// Writes the menu of the installed system.
pub(super) fn settle(job: &Job<'_>, root: &mut Root, _: &mut dyn Watch) -> Result<()> {
    defaults(job, root)?;
    let environment = format!("/{ENVIRONMENT}");
    if !root.exists(ENVIRONMENT) {
        job.run(&job.inside("grub-editenv").args([environment.as_str(), "create"]))?;
    }
    let kernel = make(job.layout, root, job.runner)?;
    check_modules(root, &kernel)?;
    let tries = format!("akene_tries={STARTS}");
    job.run(&job.inside("grub-editenv").args([environment.as_str(), "set", &tries]))
        .context("counting the starts of the new system")?;
    Ok(())
}

/// Settings that grub-mkconfig reads, and our parts of the menu.
fn defaults(job: &Job<'_>, root: &mut Root) -> Result<()> {
    let password = job.resolved.boot.password.as_ref();
    let mut arguments: Vec<String> = vec![RESTARTS.into()];
    arguments.extend(job.resolved.kernel.arguments.iter().cloned());
    let mut text = "# Written by the installer.\nGRUB_TIMEOUT=3\nGRUB_TIMEOUT_STYLE=menu\n".to_owned();
    // Other systems' disks are not looked at: it takes minutes, and mounts what is not ours.
    text += "GRUB_DISABLE_OS_PROBER=true\n";
    if password.is_some() {
        // Without a password of root's, which our systems do not have, recovery is a shell for everybody.
        text += "GRUB_DISABLE_RECOVERY=true\n";
    }
    if let Some((unit, speed)) = job.consoles.iter().find_map(|c| serial(c)) {
        text += "GRUB_TERMINAL=\"console serial\"\n";
        text += &format!("GRUB_SERIAL_COMMAND=\"serial --unit={unit} --speed={speed}\"\n");
    }
    arguments.extend(console_arguments(job.consoles));
    let plain = |a: &String| a.chars().all(|c| c.is_ascii_graphic() && !"\"'`$\\".contains(c));
    if let Some(odd) = arguments.iter().find(|a| !plain(a)) {
        bail!("using the kernel argument `{odd}`: it holds characters GRUB would read in its own way");
    }
    text += &format!("GRUB_CMDLINE_LINUX=\"{}\"\n", arguments.join(" "));
    root.write("etc/default/grub.d/50-akene.cfg", text, 0o644)?;
    // The script holds the password's hash.
    let uuid = job.boot_uuid()?;
    let mode = if password.is_some() { 0o700 } else { 0o755 };
    let old = second_root::read(&job.layout.root.join("boot"));
    root.write("etc/grub.d/01_akene", script(&guard(uuid, password, old.as_ref())), mode)?;
    let arguments = console_arguments(job.consoles).join(" ");
    let entries = entries(uuid, &arguments, password.is_some(), old.as_ref());
    root.write("etc/grub.d/42_akene", script(&entries), 0o755)
}

/// A script that prints a text, whatever is in it.
fn script(text: &str) -> String {
    format!(
        "#!/bin/sh\n# Written by the installer, which lies on the boot partition.\nexec tail -n +4 \"$0\"\n{text}"
    )
}

/// Whether what starts this old system is there, as GRUB asks. Another one's would start it with a wrong kernel.
fn old_is_there(old: &Old) -> String {
    let [kernel, initrd] = START;
    let own = second_root::of_root(&old.root);
    [kernel, initrd, &own].map(|file| format!("-f \"($akene)/{file}\"")).join(" -a ")
}

/// Whose turn it is once the system before this one has had its first: `akene_back` counts its starts, then the installer
/// has one. `akene_turn` says that this decided.
fn turns() -> String {
    let mut text = "  set akene_turn=\"${akene_back}\"\n".to_owned();
    let mut turn = |left: u32, entry: &str, next: u32| {
        text += &format!("  if [ \"${{akene_turn}}\" = {left} ]; then\n");
        text += &format!("    set default={entry}\n    set akene_back={next}\n  fi\n");
    };
    turn(0, "akene-help", STARTS);
    (1..=STARTS).for_each(|left| turn(left, "akene-old", left - 1));
    text + "  if [ -n \"${akene_turn}\" ]; then save_env akene_back; fi\n"
}

/// What starts when nobody chooses, and who may choose. `old`: a system was kept beside this one.
fn guard(uuid: &str, password: Option<&Secret>, old: Option<&Old>) -> String {
    let mut text = "# What cannot be loaded is passed over.\nset fallback=\"0 akene-reinstall\"\n".to_owned();
    text += &format!("search --no-floppy --fs-uuid --set=akene {uuid}\n");
    text += &format!("if [ ! -f \"($akene)/{INSTALLED}\" ]; then\n");
    text += "  # Half an installation: the installer goes on with it.\n";
    text += "  set default=akene-reinstall\n  set boot_once=true\nfi\n";
    text += "set akene_turn=\n";
    if let Some(old) = old {
        text +=
            "# A system that has not confirmed itself in so many starts gives way to the one before it.\n";
        text += &format!("if [ \"${{boot_once}}\" != true -a {} ]; then\n", old_is_there(old));
        text += "  if [ \"${akene_tries}\" = 0 -a -z \"${akene_back}\" ]; then\n";
        text += &format!("    set akene_back={STARTS}\n  fi\n{}fi\n", turns());
    }
    text += "# A system that has not come up so often lets the installer have every other start.\n";
    text += "if [ -n \"${akene_tries}\" -a -z \"${akene_turn}\" -a \"${boot_once}\" != true ]; then\n";
    text += "  set akene_left=\"${akene_tries}\"\n";
    text += "  if [ \"${akene_left}\" = 0 ]; then\n    set default=akene-help\n    set akene_tries=1\n  fi\n";
    for left in 1..=STARTS {
        text += &format!("  if [ \"${{akene_left}}\" = {left} ]; then set akene_tries={}; fi\n", left - 1);
    }
    text += "  save_env akene_tries\nfi\n";
    if let Some(hash) = password {
        text += &superuser(hash);
        text += "# The entries of the system have their ids by this variable; with this they start without a password.\n";
        text += "set menuentry_id_option=\"--unrestricted --id\"\nexport menuentry_id_option\n";
    }
    text
}

/// Who may do more than start what starts without being asked.
fn superuser(hash: &Secret) -> String {
    format!("set superusers={SUPERUSER}\npassword_pbkdf2 {SUPERUSER} {}\nexport superusers\n", hash.expose())
}

/// The hash of the password that a menu of ours asks for.
pub(super) fn password_of(menu: &str) -> Option<Secret> {
    let line = format!("password_pbkdf2 {SUPERUSER} ");
    let hash = menu.lines().find_map(|l| l.trim().strip_prefix(&line))?.trim();
    let plain = hash.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    plain.then(|| Secret::new(hash))
}

/// The entries of ours.
fn entries(uuid: &str, arguments: &str, guarded: bool, old: Option<&Old>) -> String {
    let text = old.map(|old| {
        let its_turn = "if [ \"${default}\" = akene-old ]; then\n";
        format!("{its_turn}{}fi\n", old_entry(uuid, guarded, old))
    });
    text.unwrap_or_default() + &installer_entries(uuid, arguments, guarded)
}

/// The entry that starts the system before this one. That is no way around a password: it starts unasked, as this one.
fn old_entry(uuid: &str, guarded: bool, old: &Old) -> String {
    let access = if guarded { "--unrestricted " } else { "" };
    let [kernel, initrd] = START;
    format!(
        "menuentry \"The system before this one\" --class akene {access}--id akene-old {{\n\
         \tsearch --no-floppy --fs-uuid --set=root {uuid}\n\
         \tlinux /{kernel} {} {CHOSEN}\n\
         \tinitrd /{initrd}\n}}\n",
        old.arguments
    )
}

/// How a menu asks whether the installer's files are there.
fn is_there() -> String {
    INSTALLER.map(|file| format!("-f \"($akene)/{file}\"")).join(" -a ")
}

/// Whether a menu starts the installer only where all its files are.
pub(super) fn asks_for_installer(menu: &str) -> bool {
    menu.contains(&is_there())
}

/// What is only offered where the installer's files are there: GRUB with a missing initrd waits for a key for ever.
fn where_it_is_there(entries: &str) -> String {
    format!("if [ {} ]; then\n{entries}fi\n", is_there())
}

/// The entries that start the installer.
fn installer_entries(uuid: &str, arguments: &str, guarded: bool) -> String {
    let mut text = String::new();
    // What was ordered starts without anybody who could type a password.
    let reinstall = if guarded { "$akene_access --id akene-reinstall" } else { "--id akene-reinstall" };
    if guarded {
        text +=
            "set akene_access=\nif [ \"${boot_once}\" = true ]; then set akene_access=--unrestricted; fi\n";
    }
    text += &entry(uuid, "Reinstall this computer (keeps your files)", reinstall, "install", arguments);
    let help = if guarded { "--unrestricted --id akene-help" } else { "--id akene-help" };
    text += "if [ \"${default}\" = akene-help ]; then\n";
    text += &entry(uuid, HELP, help, "help", arguments);
    where_it_is_there(&(text + "fi\n"))
}

/// The menu of a disk on which an installation is under way.
pub(super) fn unfinished(uuid: &str, consoles: &[String]) -> String {
    let arguments = console_arguments(consoles).join(" ");
    let entry = entry(uuid, "Continue the installation", "--id akene-reinstall", "install", &arguments);
    format!("set timeout=3\nsearch --no-floppy --fs-uuid --set=akene {uuid}\n{entry}")
}

/// The menu of a disk on which an installation was given up, and that starts the system before it. As long as that does not say
/// that it runs, its starts are counted, and where it cannot be started the installer calls for help. With a password in its own menu,
/// nobody does more here without it, either.
pub(super) fn returned(uuid: &str, consoles: &[String], old: &Old) -> String {
    let access = if old.password.is_some() { "--unrestricted --id akene-help" } else { "--id akene-help" };
    let help = entry(uuid, HELP, access, "help", &console_arguments(consoles).join(" "));
    format!(
        "set timeout=3\nset fallback=akene-help\nif [ -s $prefix/grubenv ]; then\n  load_env\nfi\n\
         search --no-floppy --fs-uuid --set=akene {uuid}\n{}{}{}{}",
        turns(),
        old.password.as_ref().map(superuser).unwrap_or_default(),
        old_entry(uuid, old.password.is_some(), old),
        where_it_is_there(&help)
    )
}

/// What starts the installer from the boot partition.
fn entry(uuid: &str, title: &str, options: &str, mode: &str, arguments: &str) -> String {
    let space = if arguments.is_empty() { "" } else { " " };
    let [kernel, initrd, stamp] = INSTALLER;
    format!(
        "menuentry \"{title}\" --class akene {options} {{\n\
         \tsearch --no-floppy --fs-uuid --set=root {uuid}\n\
         \tlinux /{kernel} akene.mode={mode} {RESTARTS} {LOCKUPS} akene.disk{space}{arguments}\n\
         \tinitrd /{initrd} /{stamp}\n}}\n"
    )
}

/// `console=` arguments: the screen as well, and last the console that gets what the system itself prints.
fn console_arguments(consoles: &[String]) -> Vec<String> {
    match consoles {
        [] => Vec::new(),
        consoles => std::iter::once("console=tty0".to_owned())
            .chain(consoles.iter().filter(|c| *c != "tty0").map(|c| format!("console={c}")))
            .collect(),
    }
}

/// Unit and speed of `ttyS0,115200n8`.
fn serial(console: &str) -> Option<(u32, u32)> {
    let (unit, options) = console.strip_prefix("ttyS")?.split_once(',').unwrap_or((&console[4..], ""));
    let unit = unit.split(',').next()?.parse().ok()?;
    let digits: String = options.chars().take_while(char::is_ascii_digit).collect();
    Some((unit, digits.parse().unwrap_or(115_200)))
}

/// Links below `/dev/disk/by-uuid`, without which grub-mkconfig names the root by its device in *this* boot. The
/// live system's udev makes them; a build host without udev has none for a disk image.
struct Links(Vec<PathBuf>);

impl Links {
    fn make(layout: &Layout) -> Result<Self> {
        let dir = Path::new("/dev/disk/by-uuid");
        let mut made = Links(Vec::new());
        for partition in &layout.partitions {
            let Some(uuid) = &partition.uuid else { continue };
            let link = dir.join(uuid);
            if link.exists() {
                continue;
            }
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            if link.is_symlink() {
                // It leads nowhere: left by somebody who was killed.
                fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
            }
            symlink(&partition.device, &link).with_context(|| format!("making {}", link.display()))?;
            made.0.push(link);
        }
        Ok(made)
    }

    /// Takes the links away again, also on a failure. One that is gone already is as good.
    fn remove(self) {
        drop(self);
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for link in &self.0 {
            fs::remove_file(link).ok();
        }
    }
}

/// A menu that names a device of this boot, or nothing at all, would not start anything. Gives the version of its first kernel.
fn check_menu(layout: &Layout, root: &Root) -> Result<String> {
    let menu =
        root.read(&format!("boot/{WAITING}"))?.context("looking for GRUB's menu, which was not written")?;
    let menu = String::from_utf8_lossy(&menu);
    let partition = layout.partition(&Role::Root).context("looking for the root partition")?;
    let uuid = partition.uuid.as_deref().context("looking for the UUID of the root partition")?;
    let mut first = None;
    for started in kernels::started(&menu) {
        let Some(version) = started.version() else { continue };
        if started.root() != Some(uuid) {
            bail!(
                "checking GRUB's menu: `{} {}` does not name the root filesystem by its UUID {uuid}",
                started.kernel,
                started.arguments.join(" ")
            );
        }
        first.get_or_insert(version);
    }
    first.map(str::to_owned).context("checking GRUB's menu: it starts no kernel")
}

/// Another system's kernel on this boot partition would find none of its drivers.
fn check_modules(root: &Root, version: &str) -> Result<()> {
    if !root.exists(&format!("lib/modules/{version}/modules.dep")) {
        bail!(
            "checking GRUB's menu: the root has no modules for the kernel {version}, which it starts first"
        );
    }
    Ok(())
}
