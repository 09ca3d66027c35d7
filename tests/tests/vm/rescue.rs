//! Rescue from the technician's stick: a computer that does not start any more, whose password nobody knows.
//!
//! Somebody at the serial console is led by what the menu says. The disk is read from this host: until somebody agreed, not a byte of
//! it is another; in the end it differs by what was agreed to. The system that starts then is the judge of all of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::Cmd;
use akene_tests::image::{Opened, digest};
use akene_tests::people::{live_in, sums};
use akene_tests::site::{PASSWORD_HASH, Site, USER, small_server};
use akene_tests::start::{Start, destroy};
use akene_tests::vm::{Firmware, HOST, Medium, Vm, blank_disk};

use crate::menu::Installed;
use crate::offline::make_stick;
use crate::{MINUTE, run};

/// Letters that lie under the same keys on every keyboard.
const PASSWORD: &str = "bonjourlesboites";

/// Before each answer.
const NUMBER: &str = "Number (Enter alone: none):";
const AGREE: &str = "Type yes to do it";
const GO_ON: &str = "Enter goes on.";

/// Somebody at the serial console.
struct Seat {
    vm: Vm,
    /// What was said up to the last answer.
    answered: usize,
}

impl Seat {
    /// Waits until this is said.
    fn sees(&mut self, word: &str) {
        let limit = self.vm.accelerator.scale(20 * MINUTE);
        if let Err(error) = self.vm.expect(word, limit) {
            panic!("waiting for `{word}`: {error:#}\n{}", self.vm.console.text());
        }
        println!("{:>5} s {word}", self.vm.started.elapsed().as_secs());
    }

    /// What was said since the last answer.
    fn said(&mut self) -> String {
        self.vm.console.text()[self.answered..].to_owned()
    }

    fn types(&mut self, line: &str) {
        self.answered = self.vm.console.text().len();
        self.vm.console.type_line(line).unwrap();
    }

    /// Types the number of the choice that says this. Gives all that was to choose from.
    fn chooses(&mut self, choice: &str) -> String {
        self.sees(NUMBER);
        let said = self.said();
        let mut choices: Vec<(&str, String)> = Vec::new();
        for line in said.lines() {
            match (line.trim_start().split_once("  "), choices.last_mut()) {
                (Some((number, what)), _) if number.parse::<u32>().is_ok() => {
                    choices.push((number, what.into()))
                }
                // A long line goes on below.
                (_, Some((_, what))) => *what += line,
                _ => {}
            }
        }
        let number = choices.iter().find(|(_, what)| what.contains(choice)).map(|(number, _)| *number);
        self.types(number.unwrap_or_else(|| panic!("`{choice}` is no choice:\n{said}")));
        said
    }

    /// Types an answer to a question.
    fn answers(&mut self, question: &str, answer: &str) {
        self.sees(question);
        self.types(answer);
    }
}

/// A disk with a filesystem for people's copies.
fn external_disk(path: &Path) -> PathBuf {
    blank_disk(path, 512 << 20).unwrap();
    run(Cmd::new("sfdisk").arg("-q").arg(path).stdin("label: dos\nstart=1MiB,type=83\n"));
    let mkfs = Cmd::new("mkfs.ext4").args(["-q", "-F", "-L", "EXTERNAL", "-E", "offset=1048576"]);
    run(mkfs.arg(path).arg("510M"));
    path.to_owned()
}

/// What differs between two trees.
fn differing(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    names.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

/// All files of the disk's three filesystems.
fn files(disk: &Path) -> [BTreeMap<String, String>; 3] {
    ["akene-root", "AKENE_BOOT", "akene-home"].map(|label| {
        let mut files = sums(&Opened::new(disk, label).unwrap().path(""));
        // The start is compared for itself.
        files.retain(|name, _| label != "AKENE_BOOT" || !name.starts_with("grub"));
        files
    })
}

/// The hash of the first user's password.
fn hash(disk: &Path) -> String {
    let root = Opened::new(disk, "akene-root").unwrap();
    let shadow = fs::read_to_string(root.path("etc/shadow")).unwrap();
    let line = shadow.lines().find_map(|line| line.strip_prefix(USER)?.strip_prefix(':'));
    line.unwrap().split(':').next().unwrap().to_owned()
}

/// The only profile of the stick names a French keyboard, whatever language is spoken. Who changes the language at the screen has its
/// keyboard from then on. The kernel's own words are the judge.
fn keys_are_french(seat: &mut Seat) {
    seat.chooses("Shell");
    seat.sees("rescue:~#");
    seat.types(r"dumpkeys | sed -n 's/^keycode *16 = *+*\(.\).*/key now \1/p'");
    seat.sees("key now a");
    // The last choice; these keys are `&` and `à`.
    seat.vm.press(&["1", "0", "ret"]).unwrap();
    seat.types("until pgrep -f 'language fr'; do sleep 1; done; echo now fr''ench");
    seat.sees("now french");
    seat.vm.press(&["1", "0", "ret"]).unwrap();
    seat.types("until dumpkeys | grep -q '^keycode *16 = *+*q'; do sleep 1; done; echo now ame''rican");
    seat.sees("now american");
    seat.types("exit");
}

fn rescued(firmware: Firmware) {
    let Some(machine) = Installed::new(firmware, "", "rescue from a stick") else { return };
    let (dir, disk) = (machine.dir.path(), &machine.disk);
    let profile = small_server(&machine.mirror, "127.0.0.1");
    let site = Site::new(dir, HOST, &format!("keyboard = {{ layout = \"fr\" }}\n{profile}")).unwrap();
    let stick = make_stick(&site, &machine.built.iso(), dir);
    live_in(&Opened::new(disk, "akene-home").unwrap().path(""));
    assert_eq!(hash(disk), PASSWORD_HASH);
    let (start, before) = (Start::of(disk), files(disk));
    destroy(disk);
    let untouched = digest(disk).unwrap();

    let mut described = machine.machine();
    (described.network, described.medium) = (false, Some(Medium::WritableUsb(stick)));
    described.external = Some(external_disk(&dir.join("external.img")));
    let mut seat = Seat { vm: machine.switch_on(&described), answered: 0 };
    seat.sees("Rescue: look at disks");
    seat.vm.console.press("\x05").unwrap();
    seat.sees("*Rescue: look at disks");
    seat.vm.console.press("\r").unwrap();
    seat.sees("AKENE RESCUE");

    keys_are_french(&mut seat);

    seat.chooses("Look at the disks");
    seat.chooses("\"akene-root\"");
    seat.sees("read-only.");
    seat.sees("rescue:/mnt");
    seat.types("grep -c . etc/shadow; echo mine > etc/mine; echo en''ded $?");
    seat.sees("Read-only file system");
    seat.sees("ended 1");
    seat.types("cd /; umount /mnt/*; exit");
    seat.sees("AKENE RESCUE");
    assert_eq!(digest(disk).unwrap(), untouched, "looking changed something");

    seat.chooses("Copy people's files");
    seat.chooses("everybody");
    let offered = seat.chooses("[external]");
    assert!(!offered.contains("this medium"), "the stick itself was offered: {offered}");
    seat.answers(AGREE, "yes");
    seat.sees(&format!("Saved and read back without a difference: ana, bo, {USER}."));
    seat.answers(GO_ON, "");
    assert_eq!(digest(disk).unwrap(), untouched, "copying changed something");

    seat.chooses("A forgotten password");
    seat.chooses("\"akene-root\"");
    seat.chooses(USER);
    seat.answers("New password (not shown):", PASSWORD);
    seat.answers("Once more:", PASSWORD);
    seat.answers(AGREE, "yes");
    seat.sees(&format!("{USER} can log in with the new password."));
    seat.answers(GO_ON, "");

    seat.chooses("Repair the start");
    seat.chooses("\"akene-root\"");
    seat.answers(AGREE, "yes");
    seat.sees("Done. Take the medium out and restart.");
    seat.answers(GO_ON, "");
    assert!(!seat.vm.console.text().contains(PASSWORD), "the password was shown");
    seat.chooses("Test the memory");
    seat.chooses("that are free now");
    seat.sees("memtester version");
    seat.vm.console.press("\x03").unwrap();
    seat.sees("AKENE RESCUE");
    seat.chooses("Switch the computer off");
    let (begun, limit) = (Instant::now(), seat.vm.accelerator.scale(5 * MINUTE));
    while seat.vm.is_on() {
        assert!(begun.elapsed() < limit, "it stays on: {}", seat.vm.console.text());
        std::thread::sleep(Duration::from_secs(1));
    }

    let after = files(disk);
    let changed: Vec<_> = before.iter().zip(&after).map(|(b, a)| differing(b, a)).collect();
    assert_eq!(changed, [vec!["etc/shadow".to_owned()], vec![], vec![]], "system, boot, people");
    assert_eq!(start.differing(&Start::of(disk)), Vec::<String>::new(), "it does not start as it did before");
    // The C library's own judgement.
    let hash = hash(disk);
    assert_eq!(run(Cmd::new("perl").args(["-e", "print crypt($ARGV[0], $ARGV[1])", PASSWORD, &hash])), hash);
    let saved = Opened::new(&dir.join("external.img"), "EXTERNAL").unwrap();
    let copies: Vec<_> =
        fs::read_dir(saved.path("akene-saved")).unwrap().map(|e| e.unwrap().path()).collect();
    let [copy] = &copies[..] else { panic!("{copies:?}") };
    let mut theirs = before[2].clone();
    theirs.retain(|name, _| ["ana", "bo", USER].contains(&name.split('/').next().unwrap()));
    assert_eq!(differing(&theirs, &sums(copy)), Vec::<String>::new());
    drop(saved);

    // The stick and the other disk are out.
    let mut seat = Seat { vm: machine.switch_on(&machine.machine()), answered: 0 };
    seat.answers("login:", USER);
    seat.answers("Password:", PASSWORD);
    seat.sees("$ ");
    seat.types("echo lo''gged in as $(id -un)");
    seat.sees(&format!("logged in as {USER}"));
    seat.vm.switch_off(10 * MINUTE).unwrap();
}

#[test]
fn a_computer_with_a_bios_is_rescued_from_the_stick() {
    rescued(Firmware::Bios);
}

#[test]
fn a_computer_with_uefi_is_rescued_from_the_stick() {
    rescued(Firmware::Uefi);
}
