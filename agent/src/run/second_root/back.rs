//! The old system comes back: by its own agent, or by the installer that gives up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::Inventory;
use akene_protocol::inventory::LooksLike;
use anyhow::{Context, Result, ensure};

use super::{DIR, Old, Standing, forget, link, read, standing, started_first};
use crate::durable;
use crate::fetch::known;
use crate::journal::{self, Journal, What};
use crate::probe::content;
use crate::report::Reporter;
use crate::run::boot_files::{self, remove_if_there};
use crate::run::kernels::{self, KINDS};
use crate::run::stage::Visit;
use crate::run::{left, resume};
use crate::target;

/// Where GRUB turned to this system because there is no new one: it takes the boot partition back, kernels and menu, as they
/// were before. Each step leaves a machine that starts this system; the last takes away the entry by which it was
/// started. True: it came back.
pub fn take_back(top: &Path, runner: &dyn Runner) -> Result<bool> {
    let boot = top.join("boot");
    if standing(top) != Standing::Back {
        return Ok(false);
    }
    let old = read(&boot).context("looking for what starts this system")?;
    // First: whatever fails after it, this system has all its starts again. GRUB makes no such file, and an installation that
    // ended early has taken it away.
    count_from_the_beginning(&boot)?;
    let has_modules = |version: &str| top.join("lib/modules").join(version).join("modules.dep").is_file();
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
    for (name, version) in kernels::list(&boot)? {
        // The new system's kernels have no modules here.
        if version != old.kernel && !has_modules(&version) {
            remove_if_there(&boot.join(name))?;
        }
    }
    let waiting = boot.join(target::WAITING_MENU);
    runner
        .run(&Cmd::new("grub-mkconfig").arg("-o").arg(&waiting).timeout(Duration::from_secs(600)))
        .context("writing GRUB's menu anew")?;
    let text = fs::read_to_string(&waiting).with_context(|| format!("reading {}", waiting.display()))?;
    ensure!(
        started_first(&text).is_some_and(|first| first.root == old.root && has_modules(&first.kernel)),
        "GRUB's menu, written anew, does not start this system"
    );
    // Where an installation was given up, the menu written anew would lead to the installer without the mark.
    boot_files::set_installed(&boot, true)?;
    resume::remove(&boot)?;
    end_what_was_begun(&boot)?;
    // Kernels and mark have to be where GRUB finds them before the menu is.
    durable::sync_for_boot_loader(&boot)?;
    target::take_waiting_menu(&boot)?;
    forget(&boot)?;
    Ok(true)
}

/// GRUB's environment with nothing in it but all starts for the old system. Every menu that was made beside it starts it then, and
/// its own, which counts nobody's starts but its own, does too: whichever is found after a power cut.
fn count_from_the_beginning(boot: &Path) -> Result<()> {
    let starts = target::STARTS.to_string();
    durable::replace_for_boot_loader(&boot.join(boot_files::ENVIRONMENT), 0o644, |out| {
        out.write_all(&boot_files::environment(&[("akene_back", &starts)])).context("writing")
    })
}

/// Notes that this system is whole where the journal says that another one is unfinished: its last record may be missing.
fn end_what_was_begun(boot: &Path) -> Result<()> {
    let records = journal::read(boot)?;
    let Some(last) = records.last().filter(|_| journal::is_whole(&records) != Some(true)) else {
        return Ok(());
    };
    let mut journal = Journal::new(last.run);
    journal.open(boot)?;
    journal.record(What::Returned)
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
pub(super) fn give_back_on(
    boot: &Path,
    uuid: &str,
    consoles: &[String],
    journal: &mut Journal,
) -> Result<()> {
    let old = read(boot).context("looking for what starts the old system")?;
    // They may have left no room for anything.
    remove_new_kernels(boot, &old)?;
    count_from_the_beginning(boot)?;
    target::lead_to_old(boot, uuid, consoles, &old)?;
    durable::sync_for_boot_loader(boot)?;
    journal.open(boot)?;
    journal.record(What::Returned)?;
    journal.close();
    boot_files::set_installed(boot, true)?;
    resume::remove(boot)?;
    durable::sync_for_boot_loader(boot)
}

/// Removes the kernels that were not there when the old system was kept, or took the names of its own: these have others.
fn remove_new_kernels(boot: &Path, old: &Old) -> Result<()> {
    for (name, version) in kernels::list(boot)? {
        if version == old.kernel || !old.kernels.contains(&version) {
            remove_if_there(&boot.join(name))?;
        }
    }
    durable::sync_for_boot_loader(boot)
}
