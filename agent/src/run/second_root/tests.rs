use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use akene_exec::RecordingRunner;
use akene_protocol::RunId;

use super::back::give_back_on;
use super::*;
use crate::journal::{self, Journal, What};
use crate::run::boot_files;
use crate::sys::test_disk::TestDisk;

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
    write(top.path(), &format!("lib/modules/{version}/modules.dep"), "");
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

/// A machine on which GRUB turned to the system that was kept, because the one beside it did not confirm itself. And its boot
/// partition.
fn turned_back() -> (tempfile::TempDir, PathBuf) {
    let top = machine(A, "6.1");
    let boot = top.path().join("boot");
    keep(&boot, A).unwrap();
    install_beside(top.path(), B, "6.1");
    comes_back(top.path(), A);
    (top, boot)
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
    set_mark(&boot, Some(A)).unwrap();
    assert!(!keep(&boot, B).unwrap(), "the menu starts another system");
    assert_eq!(read(&boot), None);
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
    // A power cut while an earlier one was let go.
    write(&boot, "akene/old.gone/vmlinuz", "of another one");
    assert!(release(top.path()).unwrap());
    assert_eq!((read(&boot), proven(&boot).as_deref()), (None, Some(B)));
    assert!(!boot.join(GONE).exists());
    write(&boot, "akene/old.gone/vmlinuz", "of this one");
    assert!(!release(top.path()).unwrap(), "nothing could be started any more");
    assert!(!boot.join(GONE).exists());
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
    let partitions = inventory.disks.iter_mut().flat_map(|d| &mut d.table).flat_map(|t| &mut t.partitions);
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
    let (top, boot) = turned_back();
    // Headers, or what an upgrade that broke off left.
    fs::create_dir_all(top.path().join("lib/modules/9/build")).unwrap();
    // Power was cut before the last record.
    let mut journal = Journal::new(RunId([2; 8]));
    journal.open(&boot).unwrap();
    journal.record(What::Begun { phase: akene_protocol::event::Phase::Commit }).unwrap();
    journal.close();
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
    let records = journal::read(&boot).unwrap();
    assert_eq!(
        (records.last().unwrap().what.clone(), journal::is_whole(&records)),
        (What::Returned, Some(true))
    );
}

/// Whatever of the two menus is found after it.
#[test]
fn a_power_cut_while_the_old_system_takes_its_place_back_leads_to_that_system() {
    let (top, boot) = turned_back();
    fs::write(boot.join("grub/akene-system.cfg"), menu(A, "6.1")).unwrap();
    // As far as to its own menu: what follows cannot be done.
    fs::create_dir_all(boot.join("grub/grub.new/x")).unwrap();
    assert!(take_back(top.path(), &RecordingRunner::default()).is_err());
    let environment = fs::read_to_string(boot.join(boot_files::ENVIRONMENT)).unwrap();
    assert!(environment.contains("\nakene_back=5\n") && !environment.contains("akene_tries"));
    assert_eq!(standing(top.path()), Standing::Back, "the new one's menu chose it");
    // Its own menu is there, and what was kept still lies there.
    write(&boot, "grub/grub.cfg", &menu(A, "6.1"));
    assert!(read(&boot).is_some());
    for started in [comes_back, runs] {
        started(top.path(), A);
        assert_eq!(standing(top.path()), Standing::Alone);
    }
    assert!(release(top.path()).unwrap());
    assert!(!boot.join(DIR).exists() && knows_the_way(&boot, A));
}

/// A run that came to no end after it had kept the old system, which then got another kernel.
#[test]
fn what_is_left_of_an_earlier_run_is_linked_anew() {
    let top = machine(A, "6.1");
    let boot = top.path().join("boot");
    assert!(keep(&boot, A).unwrap());
    for kind in KINDS {
        write(&boot, &format!("{kind}-6.2"), "upgraded");
    }
    write(&boot, "grub/grub.cfg", &menu(A, "6.2"));
    assert_eq!((kept(&boot), standing(top.path())), (None, Standing::Alone));
    assert!(keep(&boot, A).unwrap());
    assert_eq!(read(&boot).unwrap().kernel, "6.2");
    assert_eq!(content(&boot, START[0]).unwrap(), "upgraded");
}

#[test]
fn only_a_system_that_was_named_before_knows_the_way() {
    let boot = tempfile::tempdir().unwrap();
    let boot = boot.path();
    assert!(name_first(boot, B).is_err() && proven(boot).is_none(), "half a system is named");
    boot_files::set_installed(boot, true).unwrap();
    stay_for_now(boot, A).unwrap();
    assert_eq!((proven(boot).as_deref(), knows_the_way(boot, A)), (Some(A), false));
    name_first(boot, B).unwrap();
    assert_eq!(proven(boot).as_deref(), Some(A), "its place is not taken");
    set_mark(boot, None).unwrap();
    name_first(boot, B).unwrap();
    assert!(knows_the_way(boot, B));
    stay_for_now(boot, B).unwrap();
    assert!(knows_the_way(boot, B), "that it cannot be kept this time does not matter");
    // One that is replaced, by one that is called otherwise.
    give_up(boot).unwrap();
    assert_eq!((proven(boot).as_deref(), goes(boot), knows_the_way(boot, B)), (Some(B), true, false));
    is_made_on(boot, A).unwrap();
    assert_eq!((proven(boot).as_deref(), goes(boot)), (Some(A), true));
    name_first(boot, A).unwrap();
    assert!(knows_the_way(boot, A) && !goes(boot));
    is_made_on(boot, B).unwrap();
    assert!(knows_the_way(boot, A), "the new one is made beside it");
}

/// An old stick puts its system where it likes, and names none.
#[test]
fn a_name_that_an_installer_of_an_earlier_release_left_does_not_count() {
    let top = machine(B, "6.1");
    let boot = top.path().join("boot");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    let plan =
        |name: &str| fs::copy(format!("{golden}/{name}/plan.json"), boot.join(boot_files::PLAN)).unwrap();
    assert_eq!(to_stay(&boot), None, "none is named");
    fs::create_dir_all(boot.join("akene")).unwrap();
    set_mark(&boot, Some(A)).unwrap();
    boot_files::set_installed(&boot, true).unwrap();
    assert_eq!(to_stay(&boot).as_deref(), Some(A), "nobody knows who made it");
    // The new one beside it has not confirmed itself, and nothing may have been kept.
    plan("akene-two-roots-in-turn");
    assert_eq!(to_stay(&boot).as_deref(), Some(A));
    plan("akene-reinstall");
    assert_eq!(to_stay(&boot).as_deref(), Some(B));
    // As long as that is half a system, the named one is whole, unless it goes.
    boot_files::set_installed(&boot, false).unwrap();
    assert_eq!(to_stay(&boot).as_deref(), Some(A));
    boot_files::set_installed(&boot, true).unwrap();
    give_up(&boot).unwrap();
    assert_eq!(to_stay(&boot).as_deref(), Some(A));
    set_mark(&boot, Some(B)).unwrap();
    assert_eq!(to_stay(&boot).as_deref(), Some(B));
}

#[test]
fn one_that_somebody_started_beside_the_machines_own_does_not_take_its_place() {
    let top = machine(A, "6.1");
    let boot = top.path().join("boot");
    set_mark(&boot, Some(A)).unwrap();
    runs(top.path(), B);
    assert_eq!(standing(top.path()), Standing::Alone);
    assert!(!release(top.path()).unwrap() && knows_the_way(&boot, A));
}

#[test]
fn the_password_of_its_menu_is_kept_with_it() {
    let top = machine(A, "6.1");
    let boot = top.path().join("boot");
    let menu = format!("password_pbkdf2 admin grub.pbkdf2.sha512.1.A.B\n{}", menu(A, "6.1"));
    write(&boot, "grub/grub.cfg", &menu);
    assert!(keep(&boot, A).unwrap());
    let old = read(&boot).unwrap();
    assert_eq!(old.password.as_ref().unwrap().expose(), "grub.pbkdf2.sha512.1.A.B");
    assert!(!format!("{old:?}").contains("pbkdf2"));
    let mode = boot.join(DIR).join(SYSTEM).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_installation_that_is_given_up_leaves_a_disk_that_starts_the_old_system() {
    let Some(mut disk) = TestDisk::new(64, &[]) else { return };
    let boot = &disk.mount();
    for kind in KINDS {
        write(boot, &format!("{kind}-6.1"), &format!("{kind} of {A}"));
    }
    write(boot, "grub/grub.cfg", &menu(A, "6.1"));
    let mut journal = Journal::new(RunId([1; 8]));
    assert!(give_back_on(boot, "1234", &[], &mut journal).is_err(), "nothing was kept");
    assert_eq!(content(boot, "grub/grub.cfg").unwrap(), menu(A, "6.1"));
    write(boot, "vmlinuz-6.0", "an older one of the old system");
    keep(boot, A).unwrap();
    for kind in KINDS {
        fs::remove_file(boot.join(format!("{kind}-6.1"))).unwrap();
    }
    write(boot, "grub/grub.cfg", "linux /akene/vmlinuz akene.mode=install\n");
    // The new system's kernels fill it up.
    for name in ["vmlinuz-6.1", "vmlinuz-6.2", "initrd.img-6.2"] {
        let mut file = fs::File::create(boot.join(name)).unwrap();
        let mut size = 0;
        while size < 20 << 20 && file.write_all(&[7; 4096]).is_ok() {
            size += 4096;
        }
    }
    let mut filler = fs::File::create(boot.join("akene/filler")).unwrap();
    while filler.write_all(&[7; 4096]).is_ok() {}
    drop(filler);
    give_back_on(boot, "1234", &[], &mut journal).unwrap();
    for name in ["vmlinuz-6.1", "vmlinuz-6.2", "initrd.img-6.2"] {
        assert!(!boot.join(name).exists(), "{name}");
    }
    assert_eq!(content(boot, "vmlinuz-6.0").unwrap(), "an older one of the old system");
    assert!(boot.join(boot_files::INSTALLED).exists());
    assert_eq!(journal::is_whole(&journal::read(boot).unwrap()), Some(true));
    // As GRUB finds it, without playing back a journal.
    let seen = |file: &str| disk.debugfs(&format!("cat {file}"));
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
    let own = boot.join(of_root(A));
    fs::rename(&own, boot.join(of_root(B))).unwrap();
    assert_eq!(read(&boot), None, "another one's");
    fs::rename(boot.join(of_root(B)), &own).unwrap();
    assert!(read(&boot).is_some());
    fs::remove_file(boot.join(START[1])).unwrap();
    assert_eq!(read(&boot), None);
    write(&boot, PROVEN, "../../x\n");
    assert_eq!(proven(&boot), None);
}
