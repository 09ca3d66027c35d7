//! Rescue from the medium, on real filesystems in loop devices. What ordinary tools see is the judge.
//!
//! Here is the menu; the parts are what it leads to.

mod copying;
mod looking;
mod passwords;
mod rig;

use std::collections::VecDeque;
use std::fs;

use akene_agent::rescue::person::Person;
use akene_agent::rescue::{Rescue, boot, find, menu, password};
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::{Language, Secret};
use akene_tests::disks::{can_run, has, run};
use akene_tests::site::program;
use rig::*;

/// Somebody who answers what they were told to, by what is asked.
struct Scripted {
    answers: VecDeque<String>,
    seen: String,
}

impl Person for Scripted {
    fn say(&mut self, text: &str) {
        self.seen += &format!("{text}\n");
    }
    fn ask(&mut self, question: &str) -> anyhow::Result<Option<String>> {
        self.seen += &format!("{question}\n");
        Ok(self.answers.pop_front())
    }
    fn secret(&mut self, question: &str) -> anyhow::Result<Option<Secret>> {
        Ok(self.ask(question)?.map(Secret::new))
    }
}

/// Answers the menu; the number of a choice is found by a part of its line.
fn answer(rescue: &Rescue<'_>, answers: &[&str]) -> (menu::End, String) {
    let mut person =
        Scripted { answers: answers.iter().map(|a| (*a).to_owned()).collect(), seen: String::new() };
    let end = menu::run(rescue, &mut person, &String::new).unwrap();
    assert!(person.answers.is_empty(), "not all was asked: {:?}\n{}", person.answers, person.seen);
    (end, person.seen)
}

/// Which system starts is not known then; whose files are wanted, is.
#[test]
fn a_start_partition_that_cannot_be_read_is_told_and_keeps_nobody_out() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let boot = disk(&dir.path().join("boot.img"), 42, "dos", "start=1MiB,size=40MiB,type=83\n");
    let uuid = "3b0a9c1e-5d1f-4c57-9c0e-8a44a7f6f001";
    run("mkfs.ext4", &["-q", "-b", "1024", "-L", "AKENE_BOOT", "-U", uuid, &node(&boot, 1)]);
    // What follows the superblock.
    let at = format!("of={}", node(&boot, 1));
    run("dd", &["if=/dev/zero", &at, "bs=1024", "seek=2", "count=1", "conv=notrunc", "status=none"]);
    let place = dir.path().join("fill");
    run("mount", &[&node(&image, 1), place.to_str().unwrap()]);
    fs::write(place.join("etc/fstab"), format!("UUID={uuid} /boot ext4 defaults 0 2\n")).unwrap();
    run("umount", &[place.to_str().unwrap()]);
    let rescue = rescue(dir.path(), &[&image, &boot]);
    let (machine, volumes) = machine(&rescue);
    let root = find(&volumes, &name(&image, 1)).unwrap();
    let password::People { found, doubt } = password::people(&rescue, &machine, &volumes, root).unwrap();
    assert!(found.iter().any(|f| f.account.name == "ana"));
    assert!(doubt.unwrap().contains(&name(&boot, 1)));
    let who = format!("Whether the computer starts the system on {}", root.name);
    let (_, seen) = answer(&rescue, &["5", "1"]);
    assert!(seen.contains(&who), "{seen}");
}

#[test]
fn the_menu_asks_before_it_writes_and_says_to_what() {
    if !can_run() || !has("rsync") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let one = rescue(dir.path(), &[&image]);
    let before = sum(image.path());
    // The only system, ana, twice the same, but no consent; then twice not the same.
    let (_, seen) = answer(&one, &["5", "1", "1", "secret", "secret", "no", "5", "1", "1", "a", "b", ""]);
    assert!(seen.contains(image.path().to_str().unwrap()) && seen.contains("322 MiB"), "{seen}");
    assert!(seen.contains("Nothing was changed.") && !seen.contains("secret"), "{seen}");
    // ben's files are encrypted, which is said before.
    let (_, seen) = answer(&one, &["5", "1", "2", "x", "x", ""]);
    assert!(seen.contains("NOT the files"), "{seen}");
    assert_eq!(sum(image.path()), before, "written without consent");
    let (_, seen) = answer(&one, &["5", "1", "1", "secret", "secret", "yes", ""]);
    assert!(seen.contains("ana can log in"), "{seen}");
    assert_ne!(sum(image.path()), before);
    image.detach().unwrap();

    let disks = TwoDisks::new(128);
    let two = disks.rescue();
    let (old, stick) = (sum(disks.old.path()), sum(disks.stick.path()));
    let (_, seen) = answer(&two, &["2", "1", "1", "no"]);
    assert!(seen.contains(&name(&disks.stick, 1)) && seen.contains("130 MiB"), "{seen}");
    assert_eq!(sum(disks.stick.path()), stick, "written without consent");
    let (_, seen) = answer(&two, &["2", "1", "1", "yes", ""]);
    assert!(seen.contains("without a difference: ana, ben"), "{seen}");
    assert_eq!(sum(disks.old.path()), old);

    let french = Rescue { language: Language::Fr, ..disks.rescue() };
    let (_, seen) = answer(&french, &["2", "1", "1", "yes"]);
    assert!(seen.contains("Rien n'a été modifié."), "{seen}");
}

#[test]
fn another_language_is_spoken_at_once_or_left_to_the_live_system() {
    let agent = program("akene-agent").unwrap();
    let said = |cmd: Cmd| SystemRunner.run(&cmd).unwrap().text();
    let there_and_back = said(Cmd::new(&agent).arg("rescue").stdin("10\n10\n"));
    let heads = there_and_back.lines().filter_map(|line| line.split('.').next());
    let heads: Vec<&str> = heads.filter(|line| line.contains("AKENE")).collect();
    assert_eq!(heads, ["AKENE RESCUE", "SECOURS AKENE", "AKENE RESCUE"], "{there_and_back}");
    let dir = tempfile::tempdir().unwrap();
    let chosen = dir.path().join("language");
    let ended = said(Cmd::new(&agent).arg("rescue").arg("--language-at").arg(&chosen).stdin("10\n10\n"));
    assert_eq!((fs::read_to_string(chosen).unwrap().as_str(), ended.contains("SECOURS")), ("fr", false));
}

#[test]
fn a_system_whose_start_is_unknown_is_left_alone() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = system(dir.path(), "ext4");
    let rescue = rescue(dir.path(), &[&image]);
    let before = sum(image.path());
    let (machine, volumes) = machine(&rescue);
    let root = find(&volumes, &name(&image, 1)).unwrap();
    let error = boot::plan(&rescue, &machine, &volumes, root, FirmwareKind::Bios).unwrap_err();
    assert_eq!(code(&error), "boot-unusual", "{error:#}");
    assert_eq!(sum(image.path()), before);
}
