//! The way back, laid before the first byte of an old system goes.
//!
//! From the first write on, the system that was there starts no more, and only the installer can bring the machine to
//! an end. So where an earlier installation's boot partition is kept, it is made to start the installer *before* that
//! write: the running installer is put there if another one or a damaged one lies there, with all it needs to go on
//! ([`super::resume`]), and only then the menu is changed. Each step leaves a machine that starts: the old system until the
//! menu is replaced, the installer afterwards.
//!
//! What fails here fails while the old system is whole: its menu and its mark are put back, and it starts again.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use akene_protocol::image::ImageManifest;
use akene_protocol::{Bytes, Issue, Stamp};
use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use super::stage::{KERNEL_ROOM, ON_BOOT, Visit};
use super::{boot_files, kernels, resume, second_root};
use crate::durable;
use crate::journal::{self, Journal, What};
use crate::target;

/// Beside the installer itself: records, the spool, directories.
const ROOM: u64 = 8 << 20;

/// What the way back is made of.
pub struct WayBack<'a> {
    /// The node of the kept boot partition.
    pub device: &'a Path,
    /// Its UUID.
    pub uuid: &'a str,
    /// UUID of the root of the system that stays beside the new one.
    pub old_root: Option<&'a str>,
    /// Why that could not be started again.
    pub unverified: Option<String>,
    /// Hears what a person should know.
    pub warn: &'a dyn Fn(Issue),
    /// The installer, where there is one to put on a disk.
    pub installer: Option<(&'a Path, &'a Stamp, &'a ImageManifest)>,
    /// Consoles the installer shall answer on.
    pub consoles: &'a [String],
    /// Names of packages in its cache that were staged there just now, or that a resumed run would need.
    pub needed: &'a dyn Fn(&str) -> bool,
    /// Whether packages were staged there, so that they must not make room.
    pub staged_there: bool,
}

impl WayBack<'_> {
    /// Makes the disk start the installer. `record` writes what that needs to go on.
    ///
    /// # Errors
    /// What did not work. The system that was there starts as before, or the error says that it does not.
    pub fn lay(&self, journal: &mut Journal, record: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
        let visit = Visit::new(self.device, true)?;
        let boot = visit.top().to_owned();
        let before = Before::of(&boot)?;
        let laid = self.steps(&boot, journal, record);
        let result = match laid {
            Ok(()) => Ok(()),
            Err(error) => match before.restore(&boot, journal) {
                Ok(()) => Err(error),
                Err(more) => {
                    Err(error.context(format!("and the old start menu could not be put back: {more:#}")))
                }
            },
        };
        journal.close();
        visit.end()?;
        result
    }

    fn steps(&self, boot: &Path, journal: &mut Journal, record: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
        let akene = boot.join("akene");
        fs::create_dir_all(&akene).with_context(|| format!("making {}", akene.display()))?;
        let ready = match &self.installer {
            Some((root, stamp, manifest)) => match self.make_room(boot, root)? {
                true => {
                    boot_files::write_installer(boot, root, stamp, manifest)?;
                    true
                }
                false if boot_files::has_whole_installer(boot) => true,
                false => return Err(no_room(boot).into()),
            },
            None => boot_files::INSTALLER.iter().all(|name| boot.join(name).exists()),
        };
        record(boot)?;
        let stays = match self.old_root {
            Some(root) => self.keep_old(boot, root)?,
            None => second_root::give_up(boot).map(|()| false)?,
        };
        // What a menu starts has to be where a boot loader finds it before that menu is.
        durable::sync_for_boot_loader(boot)?;
        // Whenever the installer is started, it finds that it is to go on.
        journal.open(boot)?;
        boot_files::set_installed(boot, false)?;
        durable::sync_for_boot_loader(boot)?;
        if ready {
            target::lead_to_installer(boot, self.uuid, self.consoles)?;
        }
        durable::sync_for_boot_loader(boot)?;
        // Not before: where one of these steps fails, an earlier system's way back is there as it was.
        if stays { Ok(()) } else { second_root::forget(boot) }
    }

    /// Keeps what starts the system so far, or says why it will not come back by itself, and gives false. Its place is not taken
    /// all the same.
    fn keep_old(&self, boot: &Path, root: &str) -> Result<bool> {
        let there = second_root::kept(boot).is_some_and(|old| old.root == root);
        // The new system's kernel comes beside it; in a run that goes on it may be there.
        if !there && free(boot)? < KERNEL_ROOM {
            remove_from(&boot.join(ON_BOOT), &|name| !(self.needed)(name))?;
        }
        let free = free(boot)?;
        let why = match &self.unverified {
            Some(why) => why.clone(),
            None if !second_root::knows_the_way(boot, root) => {
                "it was installed by a release that knew nothing of it, and no later one has come up here"
                    .into()
            }
            None if !there && free < KERNEL_ROOM => format!(
                "AKENE_BOOT has {} free, and a second kernel needs {}",
                Bytes(free).align_down(Bytes::mib(1)),
                Bytes(KERNEL_ROOM)
            ),
            None if second_root::keep(boot, root)? => return Ok(true),
            None => "its start menu does not say how it is started".into(),
        };
        second_root::stay_for_now(boot, root)?;
        (self.warn)(Issue::new(
            "rollback-not-ready",
            "storage.rollback",
            format!("the system so far will not come back by itself if the new one does not come up: {why}"),
            "nothing, if the new system comes up; otherwise this computer calls for help, as one that has no second root",
        ));
        Ok(false)
    }

    /// Whether there is room for the installer beside the one that is there. First packages of no more use go, then
    /// others, then the kernels that the old menu does not start when nobody chooses.
    fn make_room(&self, boot: &Path, root: &Path) -> Result<bool> {
        boot_files::clear_half_written(boot)?;
        let needed = boot_files::installer_size(boot, root)? + ROOM;
        let fits = || -> Result<bool> { Ok(free(boot)? >= needed) };
        let cache = boot.join(ON_BOOT);
        if !fits()? {
            remove_from(&cache, &|name| !(self.needed)(name))?;
        }
        if !fits()? && !self.staged_there {
            remove_from(&cache, &|_| true)?;
        }
        if !fits()? {
            let menu = fs::read_to_string(boot.join(target::MENU)).unwrap_or_default();
            // Without a menu that names one that is there, none of them is known to be of no use.
            let first = kernels::started(&menu).find_map(|started| started.version());
            let first = first.filter(|first| kernels::can_start(boot, first));
            remove_from(boot, &|name| {
                first.is_some_and(|first| kernels::version_of(name).is_some_and(|version| version != first))
            })?;
        }
        fits()
    }
}

fn remove_from(dir: &Path, gone: &dyn Fn(&str) -> bool) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("listing {}", dir.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", dir.display()))?;
        let kind = entry.file_type().with_context(|| format!("looking at {}", entry.path().display()))?;
        if kind.is_file() && entry.file_name().to_str().is_some_and(gone) {
            fs::remove_file(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Bytes that are free on the boot partition.
fn free(boot: &Path) -> Result<u64> {
    let stat = statvfs(boot).with_context(|| format!("asking for the free space of {}", boot.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

fn no_room(boot: &Path) -> Issue {
    let free = free(boot).unwrap_or(0);
    Issue::new(
        "no-room-for-installer",
        "AKENE_BOOT",
        format!(
            "the installer does not fit on the boot partition beside the system that is there ({} free), and without it a \
             power cut would leave a computer that starts nothing",
            Bytes(free)
        ),
        "nothing was changed: the system on this computer starts as before. Remove old kernels from its /boot, then order the \
         installation again",
    )
}

/// What a boot partition said before.
struct Before {
    /// With its mode: it may hold the hash of a password.
    menu: Option<(Vec<u8>, u32)>,
    mark: Option<String>,
    old: bool,
    installed: bool,
    whole: bool,
    /// What an earlier installation that is unfinished goes on with.
    resume: Option<Vec<u8>>,
}

impl Before {
    fn of(boot: &Path) -> Result<Self> {
        let read = |path: &str| {
            let path = boot.join(path);
            match fs::read(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                text => text.map(Some).with_context(|| format!("reading {}", path.display())),
            }
        };
        let whole = journal::is_whole(&journal::read(boot)?).unwrap_or(false);
        let resume = if whole { None } else { read(resume::PATH)? };
        let installed = boot.join(boot_files::INSTALLED).exists();
        let (mark, old) = (second_root::mark(boot), second_root::read(boot).is_some());
        let menu = read(target::MENU)?.map(|text| -> Result<_> {
            let path = boot.join(target::MENU);
            let meta = path.metadata().with_context(|| format!("looking at {}", path.display()))?;
            Ok((text, meta.permissions().mode() & 0o777))
        });
        Ok(Before { menu: menu.transpose()?, mark, old, installed, whole, resume })
    }

    /// Puts everything back that decides what is started.
    fn restore(&self, boot: &Path, journal: &mut Journal) -> Result<()> {
        // Whatever becomes of it, the rest is put back.
        let second = self.restore_second_root(boot);
        if let Some((menu, mode)) = &self.menu {
            let write = |out: &mut dyn std::io::Write| out.write_all(menu).context("writing");
            durable::replace_for_boot_loader(&boot.join(target::MENU), *mode, write)?;
        }
        if self.installed {
            boot_files::set_installed(boot, true)?;
        }
        // A run that was not written down has nothing to take back.
        if self.whole && journal.is_open() {
            journal.record(What::Withdrawn)?;
        }
        // It holds passwords' hashes, and belongs to a run that is not gone on with.
        match &self.resume {
            None => resume::remove(boot)?,
            Some(text) => boot_files::replace_private(&boot.join(resume::PATH), |out| {
                out.write_all(text).context("writing")
            })?,
        }
        durable::sync_for_boot_loader(boot)?;
        second
    }

    /// A system that is not replaced is not one to go back to.
    fn restore_second_root(&self, boot: &Path) -> Result<()> {
        if !self.old {
            second_root::forget(boot)?;
        }
        second_root::set_mark(boot, self.mark.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use akene_protocol::RunId;
    use akene_protocol::event::Phase;

    use super::*;
    use crate::sys::test_disk::TestDisk;

    const OLD_MENU: &str =
        "menuentry old {\n\tlinux\t/vmlinuz-6.1 root=UUID=1 ro\n\tinitrd\t/initrd.img-6.1\n}\n";

    /// What lies on the disk is read the way a boot loader reads it: no journal is played back.
    #[test]
    fn the_menu_changes_last_and_everything_comes_back_when_it_cannot() {
        let Some(disk) = TestDisk::new(256, &[]) else { return };
        let node = &disk.node;
        let begun = What::Begun { phase: Phase::Commit };
        let visit = Visit::new(node, true).unwrap();
        for name in ["grub/grub.cfg", "vmlinuz-6.1", "initrd.img-6.1", "vmlinuz-6.0", "akene/packages/a.deb"]
        {
            let path = visit.top().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, if name.ends_with("cfg") { OLD_MENU } else { "old" }).unwrap();
            // The menu may hold the hash of a password.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut journal = Journal::new(RunId([1; 8]));
        journal.open(visit.top()).unwrap();
        for what in [begun.clone(), What::Complete] {
            journal.record(what).unwrap();
        }
        journal.close();
        boot_files::set_installed(visit.top(), true).unwrap();
        // Its agent has named it.
        second_root::set_mark(visit.top(), Some("1")).unwrap();
        visit.end().unwrap();

        let installer = boot_files::tests::installer();
        let (root, stamp, manifest) = (installer.0.path(), &installer.1, &installer.2);
        let way = WayBack {
            device: node,
            uuid: "1234",
            old_root: Some("1"),
            unverified: None,
            warn: &|issue| panic!("{issue}"),
            installer: Some((root, stamp, manifest)),
            consoles: &[],
            needed: &|_| false,
            staged_there: false,
        };
        let state = || {
            let menu = disk.debugfs("cat /grub/grub.cfg");
            let mark = disk.debugfs("stat /akene/state/installed").contains("Inode:");
            let journal = disk.debugfs("cat /akene/journal.jsonl");
            let whole = journal::is_whole(&journal::parse(format!("{journal}\n").as_bytes()).0).unwrap();
            (menu.contains("/akene/vmlinuz"), mark, whole)
        };
        let attempt = |record: &dyn Fn(&Path) -> Result<()>| {
            let mut journal = Journal::new(RunId([2; 8]));
            journal.record(begun.clone()).unwrap();
            way.lay(&mut journal, record)
        };
        assert_eq!(state(), (false, true, true));
        let error = attempt(&|_| anyhow::bail!("no more room")).unwrap_err();
        assert_eq!(format!("{error:#}"), "no more room");
        assert_eq!(state(), (false, true, true));
        let menu = disk.debugfs("stat /grub/grub.cfg");
        assert!(menu.contains("Mode:  0600"), "{menu}");
        // What was written to go on with does not stay beside a system that stays.
        let noted = || disk.debugfs("cat /akene/resume.json");
        let note = |boot: &Path| {
            boot_files::replace_private(&boot.join(resume::PATH), |out| Ok(out.write_all(b"hash")?))
        };
        let late = |boot: &Path| note(boot).and_then(|()| anyhow::bail!("no more room"));
        assert!(attempt(&late).is_err());
        assert_eq!((state(), noted()), ((false, true, true), String::new()));
        // A directory where the menu is to be put beside the old one.
        let cannot = |boot: &Path| Ok(fs::create_dir_all(boot.join("grub/grub.new/x"))?);
        assert!(attempt(&cannot).is_err());
        let (menu, _, _) = state();
        assert!(!menu, "the menu starts an installer although the installation was given up");
        let kept =
            || ["/akene/old/vmlinuz", "/akene/state/root"].map(|file| disk.debugfs(&format!("cat {file}")));
        assert_eq!(kept(), [String::new(), "1".to_owned()], "there is nothing to come back to from");
        attempt(&|boot| Ok(fs::remove_dir_all(boot.join("grub/grub.new"))?)).unwrap();
        assert_eq!(state(), (true, false, false));
        assert_eq!(disk.debugfs("cat /akene/vmlinuz"), "the kernel");
        assert_eq!(kept(), ["old".to_owned(), "1".to_owned()]);
        // It stays until nothing can fail any more that leaves the disk as it was, whether it is given up or will not do.
        let visit = Visit::new(node, true).unwrap();
        fs::write(visit.top().join("grub/grub.cfg"), OLD_MENU.replace("UUID=1", "UUID=3")).unwrap();
        visit.end().unwrap();
        for (old_root, unverified) in [(None, None), (Some("1"), Some("Secure Boot is on".to_owned()))] {
            let way = WayBack { old_root, unverified, warn: &|_| (), ..way };
            let mut journal = Journal::new(RunId([2; 8]));
            assert!(way.lay(&mut journal, &cannot).is_err());
            assert_eq!(kept(), ["old".to_owned(), "1".to_owned()]);
            assert!(disk.debugfs("cat /grub/grub.cfg").contains("UUID=3"));
        }
        let visit = Visit::new(node, true).unwrap();
        fs::remove_dir_all(visit.top().join("grub/grub.new")).unwrap();
        visit.end().unwrap();
        // Where it could not come back, that is said, and nothing seems to be kept. Its place is not taken all the same.
        let said = std::cell::RefCell::new(Vec::new());
        let hear = |issue: Issue| said.borrow_mut().push(issue);
        let small = OLD_MENU.replace("UUID=1", "UUID=2");
        for (unverified, old_root, why) in
            [(Some("Secure Boot is on"), "1", "Secure Boot is on"), (None, "1", "does not say")]
        {
            let way = WayBack {
                unverified: unverified.map(str::to_owned),
                old_root: Some(old_root),
                warn: &hear,
                ..way
            };
            way.lay(&mut Journal::new(RunId([2; 8])), &|_| Ok(())).unwrap();
            let issue = said.borrow_mut().pop().unwrap();
            assert_eq!(issue.code, "rollback-not-ready");
            assert!(issue.message.contains(why), "{issue}");
            assert_eq!(kept(), [String::new(), old_root.to_owned()]);
        }
        // A system of a release that knew nothing of two places is not counted on, neither now nor when a run goes on.
        let visit = Visit::new(node, true).unwrap();
        fs::write(visit.top().join("grub/grub.cfg"), &small).unwrap();
        second_root::set_mark(visit.top(), None).unwrap();
        visit.end().unwrap();
        for _ in 0..2 {
            let way = WayBack { old_root: Some("2"), unverified: None, warn: &hear, installer: None, ..way };
            way.lay(&mut Journal::new(RunId([2; 8])), &|boot| {
                Ok(fs::write(boot.join("grub/grub.cfg"), &small)?)
            })
            .unwrap();
            assert!(said.borrow_mut().pop().unwrap().message.contains("knew nothing of it"));
            assert_eq!(kept(), [String::new(), "2 for-now".to_owned()]);
        }
        // Packages of no more use give way to a second kernel; for what else is there, there is no room.
        let visit = Visit::new(node, true).unwrap();
        second_root::set_mark(visit.top(), Some("2")).unwrap();
        let filler = fs::File::create(visit.top().join(ON_BOOT).join("00.deb")).unwrap();
        nix::fcntl::fallocate(&filler, nix::fcntl::FallocateFlags::empty(), 0, 100 << 20).unwrap();
        drop(filler);
        visit.end().unwrap();
        let way = WayBack { old_root: Some("2"), warn: &hear, ..way };
        way.lay(&mut Journal::new(RunId([2; 8])), &|boot| Ok(fs::write(boot.join("grub/grub.cfg"), &small)?))
            .unwrap();
        assert!(said.borrow().is_empty(), "{:?}", said.borrow());
        assert_eq!(kept(), ["old".to_owned(), "2".to_owned()]);
        let visit = Visit::new(node, true).unwrap();
        second_root::forget(visit.top()).unwrap();
        let filler = fs::File::create(visit.top().join("akene/filler")).unwrap();
        nix::fcntl::fallocate(&filler, nix::fcntl::FallocateFlags::empty(), 0, 100 << 20).unwrap();
        drop(filler);
        visit.end().unwrap();
        let way = WayBack { old_root: Some("2"), warn: &hear, ..way };
        way.lay(&mut Journal::new(RunId([2; 8])), &|_| Ok(())).unwrap();
        assert!(said.borrow_mut().pop().unwrap().message.contains("a second kernel needs 160 MiB"));
        // Where the plan replaces it, what goes on does so in the same place.
        let way = WayBack { old_root: None, ..way };
        way.lay(&mut Journal::new(RunId([2; 8])), &|_| Ok(())).unwrap();
        assert_eq!((kept(), said.borrow().len()), ([String::new(), "2 goes".to_owned()], 0));
        let attempt = |record: &dyn Fn(&Path) -> Result<()>| {
            let mut journal = Journal::new(RunId([2; 8]));
            journal.record(begun.clone()).unwrap();
            way.lay(&mut journal, record)
        };
        // One that an earlier installation goes on with is there as before, whatever the next one wrote.
        attempt(&|boot| {
            boot_files::replace_private(&boot.join(resume::PATH), |out| Ok(out.write_all(b"earlier")?))
        })
        .unwrap();
        assert!(attempt(&late).is_err());
        assert_eq!((state(), noted()), ((true, false, false), "earlier".to_owned()));
        // The old system's own files wait until it is gone.
        assert_eq!(disk.debugfs("cat /vmlinuz-6.1"), "old");
    }

    #[test]
    fn kernels_that_the_menu_does_not_start_make_room_for_the_installer() {
        let Some(mut disk) = TestDisk::new(64, &[]) else { return };
        let boot = disk.mount();
        let installer = boot_files::tests::installer();
        let way = WayBack {
            device: &disk.node,
            uuid: "1234",
            old_root: None,
            unverified: None,
            warn: &|issue| panic!("{issue}"),
            installer: None,
            consoles: &[],
            needed: &|_| true,
            staged_there: true,
        };
        let fill = |name: &str, size: u64| {
            let file = fs::File::create(boot.join(name)).unwrap();
            nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, size as i64).unwrap();
        };
        let all = ["vmlinuz-6.1", "initrd.img-6.1", "vmlinuz-6.0", "config-6.0", "notes-6.0"];
        all.iter().for_each(|name| fill(name, 1 << 20));
        fill("initrd.img-6.0", ROOM);
        fill("filler", free(&boot).unwrap() - ROOM / 2);
        let there = |name: &&&str| boot.join(name).exists();
        // Without a menu nobody knows which of them is needed.
        assert!(!way.make_room(&boot, installer.0.path()).unwrap());
        assert_eq!(all.iter().filter(there).count(), all.len());
        fs::create_dir(boot.join("grub")).unwrap();
        // Nor where it names one that has gone.
        fs::write(boot.join(target::MENU), OLD_MENU.replace("6.1", "6.2")).unwrap();
        assert!(!way.make_room(&boot, installer.0.path()).unwrap());
        assert_eq!(all.iter().filter(there).count(), all.len());
        fs::write(boot.join(target::MENU), OLD_MENU).unwrap();
        assert!(way.make_room(&boot, installer.0.path()).unwrap());
        let left: Vec<&&str> = all.iter().filter(there).collect();
        assert_eq!(left, [&"vmlinuz-6.1", &"initrd.img-6.1", &"notes-6.0"]);
    }
}
