//! Saving people's files: as files, and as archives in parts.

use std::collections::BTreeMap;
use std::fs;

use akene_agent::rescue::copy::{self, Done, Manner};
use akene_agent::rescue::{find, menu, parts, volumes};
use akene_tests::disks::{MIB, can_run, has, run};

use crate::rig::*;

#[test]
fn files_of_people_arrive_with_all_that_belongs_to_them() {
    if !can_run() || !has("rsync") {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    let before = sum(disks.old.path());
    let (machine, wish) = disks.wish(&rescue);
    let names: Vec<&str> = wish.people.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["ana", "ben"]);
    let survey = copy::survey(&rescue, &machine, &wish).unwrap();
    assert_eq!(survey.manner, Manner::Files);
    assert!(survey.needed.0 > 24 * MIB && survey.needed < survey.free, "{survey:?}");

    let mut steps = Vec::new();
    let done = copy::carry_out(&rescue, &machine, &wish, &mut |s| steps.push(s.clone())).unwrap();
    assert_eq!(done, Done { verified: vec!["ana".into(), "ben".into()], missing: vec![] });
    assert!(steps.contains(&copy::Progress::Copying("ana".into(), 100)), "{steps:?}");
    let at_first = disks.both(&rescue, |saved, home| {
        let (saved_all, all) = (everything(saved), everything(home));
        assert!(all.len() > 12 && all.values().any(|v| v.contains("user.comment")), "{all:#?}");
        assert!(all.values().any(|v| v.contains("trusted.note")));
        assert_eq!(saved_all, all);
        saved_all
    });
    assert_eq!(sum(disks.old.path()), before, "the old disk was changed");

    // Again: nothing is left to do, and nothing becomes another.
    let less = copy::survey(&rescue, &machine, &wish).unwrap().needed;
    assert!(less < survey.needed, "what is there already takes no room: {less}");
    assert!(disks.save(&rescue).missing.is_empty());
    assert_eq!(disks.both(&rescue, |saved, _| everything(saved)), at_first);
}

#[test]
fn a_copy_that_broke_off_goes_on_and_nothing_on_the_target_is_lost() {
    if !can_run() || !has("rsync") {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    let done = disks.save(&rescue);
    assert!(done.missing.is_empty(), "{done:?}");
    // As an interruption leaves it: a file missing, half of one under the name of what is under way. And somebody
    // has written into a saved letter, and put a file of their own beside it.
    let place = disks.dir.path().join("fill");
    let (_, wish) = disks.wish(&rescue);
    let folder = disks.both(&rescue, |saved, _| saved.file_name().unwrap().to_owned());
    run("mount", &[&node(&disks.stick, 1), place.to_str().unwrap()]);
    let ana = place.join(copy::SAVED).join(&folder).join("ana");
    fs::remove_file(ana.join("Documents/été 2024/plage.jpg")).unwrap();
    fs::create_dir(ana.join("Documents/été 2024/.akene-part")).unwrap();
    fs::write(ana.join("Documents/été 2024/.akene-part/plage.jpg"), [7; 100_000]).unwrap();
    fs::remove_file(ana.join("the same letter")).unwrap();
    fs::write(ana.join("Documents/letter.odt"), "written later").unwrap();
    fs::write(ana.join("own"), "own").unwrap();
    fs::write(place.join("other"), "other").unwrap();
    run("umount", &[place.to_str().unwrap()]);
    drop(wish);

    let done = disks.save(&rescue);
    assert!(done.missing.is_empty(), "{done:?}");
    disks.both(&rescue, |saved, home| {
        let (saved_all, all) = (everything(saved), everything(home));
        for (path, what) in &all {
            // A directory that got a file more has another time, and is set right by the copy.
            assert_eq!(saved_all.get(path), Some(what), "{path}");
        }
        let more: Vec<_> = saved_all.keys().filter(|k| !all.contains_key(*k)).collect();
        // Their own file, and the letter as it was, with the directories above it.
        assert_eq!(more.len(), 4, "{more:?}");
        assert_eq!(fs::read_to_string(saved.join("ana/own")).unwrap(), "own");
        let aside = |k: &&&String| k.starts_with("ana.before-") && k.ends_with("/Documents/letter.odt");
        let kept = more.iter().find(aside).unwrap();
        assert_eq!(fs::read_to_string(saved.join(kept)).unwrap(), "written later");
        assert_eq!(fs::read_to_string(saved.join("../../other")).unwrap(), "other");
    });
}

#[test]
fn the_source_and_a_full_disk_are_no_targets() {
    if !can_run() || !has("rsync") {
        return;
    }
    let disks = TwoDisks::new(16);
    let rescue = disks.rescue();
    let before = sum(disks.stick.path());
    let (machine, mut wish) = disks.wish(&rescue);
    assert!(wish.people.iter().all(|p| !p.unclean));
    let error = copy::carry_out(&rescue, &machine, &wish, &mut |_| {}).unwrap_err();
    assert_eq!(code(&error), "no-room-for-files");
    let message = error.to_string();
    assert!(message.contains("MiB") && message.contains("free"), "{message}");
    assert_eq!(sum(disks.stick.path()), before, "something was written although there is no room");

    let volumes = volumes::list(&machine);
    let targets = copy::targets(&machine, &volumes, &wish.sources);
    assert!(targets.iter().all(|t| t.name != name(&disks.old, 1)), "{targets:?}");
    wish.target = wish.sources[0].clone();
    assert_eq!(code(&copy::survey(&rescue, &machine, &wish).unwrap_err()), "same-disk");
    let mut medium = machine.clone();
    medium.disks.iter_mut().for_each(|d| d.live_medium = true);
    wish.target = find(&volumes, &name(&disks.stick, 1)).unwrap().clone();
    assert_eq!(code(&copy::survey(&rescue, &medium, &wish).unwrap_err()), "is-the-medium");
    wish.target.content.as_mut().unwrap().kind = "swap".into();
    assert_eq!(code(&copy::survey(&rescue, &machine, &wish).unwrap_err()), "target-unsuitable");

    // A computer that was switched off: its journal is not played back, and that is said.
    run("debugfs", &["-w", "-R", "feature needs_recovery", &node(&disks.old, 1)]);
    run("sync", &[]);
    let (_, wish) = disks.wish(&rescue);
    assert!(wish.people.iter().all(|p| p.unclean));
    assert!(menu::unclean_words(&wish.people, &rescue)[0].contains(&name(&disks.old, 1)));
}

#[test]
fn what_cannot_be_read_is_told_and_all_else_is_saved() {
    if !can_run() || !has("rsync") || !has("debugfs") {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    // Where the file lies on the disk is not to be read any more.
    let broken = ["-w", "-R", "set_inode_field /home/ben/.profile block[0] 0"];
    run("debugfs", &[&broken[..], &[&node(&disks.old, 1)]].concat());
    run("sync", &[]);
    run("blockdev", &["--flushbufs", disks.old.path().to_str().unwrap()]);
    for archive in [false, true] {
        let (machine, mut wish) = disks.wish(&rescue);
        wish.archive = archive;
        let done = copy::carry_out(&rescue, &machine, &wish, &mut |_| {}).unwrap();
        assert_eq!(done.verified, ["ana"], "{done:?}");
        assert!(done.missing.iter().any(|line| line.contains(".profile")), "{done:?}");
        assert!(menu::done_page(&done, &rescue).contains("NOT everything"));
    }
}

/// The whole way of an archive: written in parts, unmounted, mounted again, read back, and gone on with.
#[test]
fn archives_are_saved_and_read_back() {
    if !can_run() {
        return;
    }
    let disks = TwoDisks::new(128);
    let rescue = disks.rescue();
    let (machine, mut wish) = disks.wish(&rescue);
    (wish.archive, wish.part) = (true, 5 * MIB);
    let survey = copy::survey(&rescue, &machine, &wish).unwrap();
    assert_eq!(survey.manner, Manner::Archive);
    let good = Done { verified: vec!["ana".into(), "ben".into()], missing: vec![] };
    let save = || copy::carry_out(&rescue, &machine, &wish, &mut |_| {}).unwrap();
    assert_eq!(save(), good);
    let back = disks.dir.path().join("back");
    fs::create_dir(&back).unwrap();
    let first = disks.both(&rescue, |saved, home| {
        for person in ["ana", "ben"] {
            let unpack =
                "cat \"$1\".tar.[0-9]* | tar -x --xattrs --xattrs-include='*' --numeric-owner -p -C \"$2\"";
            let set = saved.join(person);
            run("sh", &["-c", unpack, "sh", set.to_str().unwrap(), back.to_str().unwrap()]);
        }
        let only = |all: BTreeMap<String, String>| -> BTreeMap<_, _> {
            all.into_iter().filter(|(k, _)| k.starts_with("ana/") || k.starts_with("ben/")).collect()
        };
        assert_eq!(only(everything(&back)), only(everything(home)));
        everything(saved)
    });
    assert_eq!(save(), good);
    assert_eq!(disks.both(&rescue, |saved, _| everything(saved)), first, "written twice");
    assert!(copy::survey(&rescue, &machine, &wish).unwrap().needed < survey.needed);
}

/// What FAT gets, unpacked by tar itself.
#[test]
fn an_archive_in_parts_unpacks_to_what_was_packed() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (home, to, back) = (dir.path().join("home/ana"), dir.path().join("to"), dir.path().join("back"));
    hard_home(&home);
    fs::create_dir(&to).unwrap();
    fs::create_dir(&back).unwrap();
    let part = 5 * MIB;
    let mut told = Vec::new();
    let write =
        |told: &mut Vec<u8>| parts::write(&home, &to, "ana", 25 * MIB, part, &mut |p| told.push(p)).unwrap();
    let written = write(&mut told);
    assert_eq!((written.set.as_str(), &written.missing), ("ana", &vec![]));
    assert!(written.sums.len() >= 5, "{:?}", written.sums);
    assert!(told.windows(2).all(|w| w[0] <= w[1]) && told.iter().any(|p| *p > 50), "{told:?}");
    assert!(parts::check(&to, &written.set, &written.sums).unwrap().is_empty());
    run("sh", &["-c", &format!("cd '{}' && sha256sum -c ana.tar.sha256", to.display())]);
    let unpack =
        "cat \"$1\"/ana.tar.[0-9]* | tar -x --xattrs --xattrs-include='*' --numeric-owner -p -C \"$2\"";
    run("sh", &["-c", unpack, "sh", to.to_str().unwrap(), back.to_str().unwrap()]);
    assert_eq!(everything(&back.join("ana")), everything(&home));

    // A part is missing, as when the stick was pulled: only that one is written.
    let first = to.join("ana.tar.001");
    let before = first.metadata().unwrap().modified().unwrap();
    fs::remove_file(to.join("ana.tar.003")).unwrap();
    assert_eq!(write(&mut told).sums, written.sums);
    assert_eq!(first.metadata().unwrap().modified().unwrap(), before);
    // Files that have changed since make another set; the first one stays.
    fs::write(home.join("Documents/letter.odt"), "dear ben").unwrap();
    let again = write(&mut told);
    assert_eq!(again.set, "ana-2");
    assert!(parts::check(&to, "ana", &written.sums).unwrap().is_empty());
    assert!(parts::check(&to, "ana-2", &again.sums).unwrap().is_empty());
}
