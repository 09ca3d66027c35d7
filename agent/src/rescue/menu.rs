//! The menu: numbered lines on plain text, which works on every screen and every serial line.

use std::path::{Path, PathBuf};

use akene_protocol::inventory::{Bus, Inventory};
use akene_protocol::issue::Issues;
use akene_protocol::{Issue, Language};
use anyhow::{Context, Result};

use super::copy::{self, Manner, Progress, Wish};
use super::open::{Purpose, open};
use super::people::Encrypted;
use super::person::{Person, agreed, choose};
use super::volumes::{self, Volume, disk_line, volume_line};
use super::words::{Text, reason};
use super::{Rescue, boot, health, memory, password};

/// Below it volumes are opened for the shell.
const MOUNTED: &str = "/mnt";

/// Lines about what could not be saved that are shown.
const SHOWN: usize = 12;

/// What a person wants at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A shell in this directory.
    Shell(PathBuf),
    /// The machine restarted.
    Restart,
    /// The machine switched off.
    Off,
    /// The menu in this language.
    Speak(Language),
    /// There is nobody any more.
    Gone,
}

/// Asks until something is wanted that only who called can do.
///
/// # Errors
/// The terminal is broken. What goes wrong while rescuing is told to the person.
pub fn run(rescue: &Rescue<'_>, person: &mut dyn Person, news: &dyn Fn() -> String) -> Result<End> {
    const CHOICES: [Text; 10] = [
        Text::MenuDisks,
        Text::MenuCopy,
        Text::MenuHealth,
        Text::MenuMemory,
        Text::MenuPassword,
        Text::MenuBoot,
        Text::MenuShell,
        Text::MenuRestart,
        Text::MenuOff,
        Text::MenuLanguage,
    ];
    let language = rescue.language;
    let choices: Vec<String> = CHOICES.iter().map(|text| text.get(language).to_owned()).collect();
    loop {
        let mut head = format!("\n{}", Text::Head.get(language));
        let news = news();
        if !news.is_empty() {
            head += &format!("\n{news}");
        }
        person.say(&head);
        let mut present = Present { person, gone: false };
        let Some(number) = choose(&mut present, language, Text::WhatToDo, &choices)? else {
            if present.gone {
                return Ok(End::Gone);
            }
            continue;
        };
        let done = match CHOICES[number] {
            Text::MenuDisks => disks(rescue, person),
            Text::MenuCopy => save(rescue, person).map(|()| None),
            Text::MenuHealth => {
                person.say(Text::Looking.get(language));
                person.say(&health::page(rescue));
                pause(rescue, person).map(|()| None)
            }
            Text::MenuMemory => test_memory(rescue, person),
            Text::MenuPassword => new_password(rescue, person).map(|()| None),
            Text::MenuBoot => repair(rescue, person).map(|()| None),
            Text::MenuShell => Ok(Some(End::Shell("/root".into()))),
            Text::MenuRestart => Ok(Some(End::Restart)),
            Text::MenuLanguage => Ok(Some(End::Speak(other(language)))),
            _ => Ok(Some(End::Off)),
        };
        match done {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => {}
            Err(error) => {
                person.say(&trouble(rescue, &error));
                pause(rescue, person)?;
            }
        }
    }
}

/// The language that is not spoken.
fn other(language: Language) -> Language {
    match language {
        Language::En => Language::Fr,
        Language::Fr => Language::En,
    }
}

/// Notices that there is nobody any more.
struct Present<'p> {
    person: &'p mut dyn Person,
    gone: bool,
}

impl Person for Present<'_> {
    fn say(&mut self, text: &str) {
        self.person.say(text);
    }
    fn ask(&mut self, question: &str) -> Result<Option<String>> {
        let answer = self.person.ask(question)?;
        self.gone |= answer.is_none();
        Ok(answer)
    }
    fn secret(&mut self, question: &str) -> Result<Option<akene_protocol::Secret>> {
        self.person.secret(question)
    }
}

/// What went wrong, for a person.
pub fn trouble(rescue: &Rescue<'_>, error: &anyhow::Error) -> String {
    let issues: Vec<&Issue> = match (error.downcast_ref::<Issue>(), error.downcast_ref::<Issues>()) {
        (Some(issue), _) => vec![issue],
        (None, Some(issues)) => issues.0.iter().collect(),
        (None, None) => Vec::new(),
    };
    let words: Vec<String> = match issues.is_empty() {
        true => vec![format!("{error:#}")],
        false => issues.into_iter().map(|issue| reason(issue, rescue.language)).collect(),
    };
    format!("\n{}\n{}\n", Text::WentWrong.get(rescue.language), words.join("\n"))
}

fn pause(rescue: &Rescue<'_>, person: &mut dyn Person) -> Result<()> {
    person.ask(Text::GoOn.get(rescue.language)).map(drop)
}

/// The machine, looked at now.
fn machine(rescue: &Rescue<'_>, person: &mut dyn Person) -> (Inventory, Vec<Volume>) {
    person.say(Text::Looking.get(rescue.language));
    rescue.settle();
    let machine = rescue.machine();
    let volumes = volumes::list(&machine);
    (machine, volumes)
}

/// Lets a person choose a volume.
fn choose_volume<'v>(
    rescue: &Rescue<'_>,
    person: &mut dyn Person,
    question: Text,
    volumes: &[&'v Volume],
) -> Result<Option<&'v Volume>> {
    let lines: Vec<String> = volumes.iter().map(|v| volume_line(v, rescue.language)).collect();
    Ok(choose(person, rescue.language, question, &lines)?.map(|n| volumes[n]))
}

fn disks(rescue: &Rescue<'_>, person: &mut dyn Person) -> Result<Option<End>> {
    let (machine, volumes) = machine(rescue, person);
    person.say(&volumes::page(&machine, rescue.language));
    let can: Vec<&Volume> = volumes.iter().filter(|v| v.can_be_opened()).collect();
    let Some(volume) = choose_volume(rescue, person, Text::WhichOpen, &can)? else { return Ok(None) };
    let at = look(rescue, &machine, volume, Path::new(MOUNTED))?;
    let place = at.display().to_string();
    person.say(&Text::OpenedAt.with(rescue.language, &[&volume.name, &place, &place]));
    Ok(Some(End::Shell(at)))
}

/// Opens a volume below a directory to be looked at, until it is unmounted by hand. Gives where. One that is open already
/// is not opened again.
///
/// # Errors
/// It cannot be opened.
pub fn look(rescue: &Rescue<'_>, machine: &Inventory, volume: &Volume, below: &Path) -> Result<PathBuf> {
    let at = below.join(volume.name.replace('/', "-"));
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts").context("reading what is mounted")?;
    let open_already = mounts.lines().any(|l| l.split(' ').nth(1).is_some_and(|p| Path::new(p) == at));
    if !open_already {
        open(rescue.runner, machine, volume, &at, Purpose::Look, "")?.stay();
    }
    Ok(at)
}

fn save(rescue: &Rescue<'_>, person: &mut dyn Person) -> Result<()> {
    let language = rescue.language;
    let (machine, volumes) = machine(rescue, person);
    let sources: Vec<&Volume> = volumes.iter().filter(|v| copy::may_hold_people(v)).collect();
    let (people, closed) = copy::whose(rescue, &machine, &sources)?;
    closed.iter().for_each(|error| person.say(&trouble(rescue, error)));
    let others: Vec<&Volume> =
        volumes.iter().filter(|v| v.can_be_opened() && !people.iter().any(|p| p.volume == v.name)).collect();
    if !others.is_empty() {
        let lines: Vec<String> = others.iter().map(|v| format!("   {}", volume_line(v, language))).collect();
        person.say(&format!("{}\n{}", Text::Others.get(language), lines.join("\n")));
    }
    if people.is_empty() {
        person.say(Text::NobodysFiles.get(language));
        return pause(rescue, person);
    }
    unclean_words(&people, rescue).iter().for_each(|words| person.say(words));
    let mut lines: Vec<String> = people
        .iter()
        .map(|p| {
            let bytes = akene_protocol::Bytes(p.amount.bytes.next_multiple_of(1 << 20)).to_string();
            Text::OnePerson.with(language, &[&p.name, &p.volume, &bytes, &p.amount.entries.to_string()])
        })
        .collect();
    lines.insert(0, Text::Everybody.get(language).to_owned());
    let people = match choose(person, language, Text::WhoseVolumes, &lines)? {
        None => return Ok(()),
        Some(0) => people,
        Some(number) => vec![people[number - 1].clone()],
    };
    let sources: Vec<Volume> =
        volumes.iter().filter(|v| people.iter().any(|p| p.volume == v.name)).cloned().collect();
    // A disk inside the computer is nobody's copy.
    let external = |v: &&Volume| {
        let of_it = |d: &&akene_protocol::inventory::Disk| v.disks.contains(&d.name);
        machine.disks.iter().filter(of_it).all(|d| d.removable || d.bus == Bus::Loop)
    };
    let targets: Vec<&Volume> =
        copy::targets(&machine, &volumes, &sources).into_iter().filter(external).collect();
    if targets.is_empty() {
        person.say(Text::NoTarget.get(language));
        return pause(rescue, person);
    }
    let lines: Vec<String> = targets
        .iter()
        .map(|v| format!("{}\n      {}", disk_of(&machine, v, rescue), volume_line(v, language)))
        .collect();
    let Some(number) = choose(person, language, Text::WhichDisk, &lines)? else { return Ok(()) };
    let target = targets[number].clone();
    let wish = Wish { sources, people, target, archive: false, part: copy::PART };
    let survey = copy::survey(rescue, &machine, &wish)?;
    if survey.manner == Manner::Archive {
        person.say(Text::AsArchive.get(language));
    }
    let (needed, free) = (survey.needed.align_up(MIB).to_string(), survey.free.align_down(MIB).to_string());
    let disk = disk_of(&machine, &wish.target, rescue);
    let what = Text::WillCopy.with(language, &[&needed, &wish.target.name, &free, &disk]);
    if !agreed(person, language, &what)? {
        person.say(Text::NothingDone.get(language));
        return Ok(());
    }
    let mut last = None;
    // Every few per cent are enough for a serial line.
    let done = copy::carry_out(rescue, &machine, &wish, &mut |step| {
        if worth_a_line(last.as_ref(), step) {
            person.say(&progress_line(step, rescue));
            last = Some(step.clone());
        }
    })?;
    person.say(&done_page(&done, rescue));
    pause(rescue, person)
}

const MIB: akene_protocol::Bytes = akene_protocol::Bytes::mib(1);

/// What is said of volumes that were not shut down in order.
pub fn unclean_words(people: &[copy::Person], rescue: &Rescue<'_>) -> Vec<String> {
    let mut volumes: Vec<&str> = people.iter().filter(|p| p.unclean).map(|p| p.volume.as_str()).collect();
    volumes.dedup();
    volumes.into_iter().map(|volume| Text::Unclean.with(rescue.language, &[volume])).collect()
}

/// Whether a step is far enough from the last one that was told.
pub fn worth_a_line(last: Option<&Progress>, step: &Progress) -> bool {
    match (last, step) {
        (Some(Progress::Copying(who, told)), Progress::Copying(whose, now)) if who == whose => {
            now.saturating_sub(*told) >= 5 || (*now == 100 && *told < 100)
        }
        _ => true,
    }
}

/// A step in words.
pub fn progress_line(step: &Progress, rescue: &Rescue<'_>) -> String {
    match step {
        Progress::Copying(who, per_cent) => {
            Text::Copying.with(rescue.language, &[who, &per_cent.to_string()])
        }
        Progress::Checking(who) => Text::Checking.with(rescue.language, &[who]),
    }
}

/// What became of a copy, in words.
pub fn done_page(done: &copy::Done, rescue: &Rescue<'_>) -> String {
    let language = rescue.language;
    let mut lines = Vec::new();
    if !done.verified.is_empty() {
        lines.push(Text::Saved.with(language, &[&done.verified.join(", ")]));
    }
    if !done.missing.is_empty() {
        lines.push(Text::NotAllSaved.get(language).into());
        lines.extend(done.missing.iter().take(SHOWN).map(|line| format!("   {line}")));
        if done.missing.len() > SHOWN {
            lines.push(format!(
                "   {}",
                Text::AndMore.with(language, &[&(done.missing.len() - SHOWN).to_string()])
            ));
        }
        lines.push(Text::CopyAgain.get(language).into());
    }
    lines.join("\n")
}

/// The disks of a volume, a line each.
fn disk_of(machine: &Inventory, volume: &Volume, rescue: &Rescue<'_>) -> String {
    let disks = machine.disks.iter().filter(|d| volume.disks.contains(&d.name));
    disks.map(|d| disk_line(d, rescue.language)).collect::<Vec<_>>().join("\n   ")
}

fn test_memory(rescue: &Rescue<'_>, person: &mut dyn Person) -> Result<Option<End>> {
    let language = rescue.language;
    let way = memory::way(&rescue.machine());
    let words = match way {
        memory::Way::OnlyHere => &[Text::MemorySecure][..],
        memory::Way::RestartByHand => &[Text::MemoryRestart, Text::MemoryByHand],
        memory::Way::RestartByItself => &[Text::MemoryRestart],
    };
    words.iter().for_each(|text| person.say(text.get(language)));
    let free = memory::free(&std::fs::read_to_string(rescue.probe.proc.join("meminfo")).unwrap_or_default());
    let mut choices = Vec::new();
    match free {
        Some(free) => choices.push(Text::MemoryHere.with(language, &[&free.to_string()])),
        None => person.say(Text::MemoryNone.get(language)),
    }
    if way != memory::Way::OnlyHere {
        choices.push(Text::MemoryNow.get(language).into());
    }
    let Some(number) = choose(person, language, Text::WhatToDo, &choices)? else { return Ok(None) };
    if let (Some(free), 0) = (free, number) {
        person.say(Text::MemoryBegins.get(language));
        let verdict = memory::test(rescue.runner, free, &mut |line| person.say(line))?;
        person.say(verdict_words(verdict).get(language));
        pause(rescue, person)?;
        return Ok(None);
    }
    if way == memory::Way::RestartByItself {
        if !agreed(person, language, Text::MemoryAgree.get(language))? {
            return Ok(None);
        }
        if !memory::again(rescue.runner)? {
            person.say(Text::MemoryRefused.get(language));
            person.say(Text::MemoryByHand.get(language));
            pause(rescue, person)?;
        }
    }
    Ok(Some(End::Restart))
}

/// A verdict in words.
pub fn verdict_words(verdict: memory::Verdict) -> Text {
    match verdict {
        memory::Verdict::Sound => Text::MemorySound,
        memory::Verdict::Faulty => Text::MemoryFaulty,
    }
}

/// Lets a person choose a Linux system.
fn choose_system<'v>(
    rescue: &Rescue<'_>,
    person: &mut dyn Person,
    volumes: &'v [Volume],
) -> Result<Option<&'v Volume>> {
    let systems: Vec<&Volume> = volumes.iter().filter(|v| v.is_root() && v.can_be_opened()).collect();
    if systems.is_empty() {
        person.say(Text::NoSystems.get(rescue.language));
        pause(rescue, person)?;
        return Ok(None);
    }
    choose_volume(rescue, person, Text::WhichSystem, &systems)
}

fn new_password(rescue: &Rescue<'_>, person: &mut dyn Person) -> Result<()> {
    let language = rescue.language;
    let (machine, volumes) = machine(rescue, person);
    let Some(system) = choose_system(rescue, person, &volumes)? else { return Ok(()) };
    let password::People { found, doubt } = password::people(rescue, &machine, &volumes, system)?;
    doubt.iter().for_each(|why| person.say(&Text::MayNotStart.with(language, &[&system.name, why])));
    let line = |f: &password::Found| match f.account.uid {
        0 => format!("{} ({})", f.account.name, Text::RootAccount.get(language)),
        _ => format!("{}  {}", f.account.name, f.account.realname),
    };
    let lines: Vec<String> = found.iter().map(line).collect();
    let Some(number) = choose(person, language, Text::WhosePassword, &lines)? else { return Ok(()) };
    let one = &found[number];
    let name = &one.account.name;
    if let Some(why) = one.encrypted {
        person.say(&encrypted_words(why).with(language, &[name]));
        if why == Encrypted::Homed {
            return pause(rescue, person);
        }
    }
    let Some(new) = person.secret(Text::NewPassword.get(language))? else { return Ok(()) };
    let Some(again) = person.secret(Text::OnceMore.get(language))? else { return Ok(()) };
    if new != again {
        person.say(Text::NotTheSame.get(language));
        person.say(Text::NothingDone.get(language));
        return pause(rescue, person);
    }
    if password::depends_on_keyboard(&new) {
        person.say(&format!("\n{}", Text::Keyboard.get(language)));
    }
    let what = Text::WillSet.with(language, &[name, &system.name, &disk_of(&machine, system, rescue)]);
    if !agreed(person, language, &what)? {
        person.say(Text::NothingDone.get(language));
        return Ok(());
    }
    password::set(rescue, &machine, system, name, &new)?;
    person.say(&Text::PasswordSet.with(language, &[name]));
    pause(rescue, person)
}

/// What is said of an encrypted home.
pub fn encrypted_words(why: Encrypted) -> Text {
    match why {
        Encrypted::Ecryptfs => Text::HomeEcryptfs,
        Encrypted::Homed => Text::HomeHomed,
        Encrypted::Fscrypt => Text::HomeFscrypt,
    }
}

fn repair(rescue: &Rescue<'_>, person: &mut dyn Person) -> Result<()> {
    let language = rescue.language;
    let (machine, volumes) = machine(rescue, person);
    let Some(system) = choose_system(rescue, person, &volumes)? else { return Ok(()) };
    let repair = boot::plan(rescue, &machine, &volumes, system, machine.firmware.kind)?;
    if !agreed(person, language, &repair_page(&repair, &machine, rescue))? {
        person.say(Text::NothingDone.get(language));
        return Ok(());
    }
    boot::carry_out(rescue, &machine, &repair, &mut |line| person.say(line))?;
    person.say(Text::Repaired.get(language));
    pause(rescue, person)
}

/// What a repair would do, in words.
pub fn repair_page(repair: &boot::Repair, machine: &Inventory, rescue: &Rescue<'_>) -> String {
    let language = rescue.language;
    let mut lines = vec![Text::WillRepair.get(language).to_owned()];
    lines.extend(repair.steps.iter().map(|step| format!("   - {step}")));
    lines.push(Text::RepairOn.get(language).into());
    let disk = machine.disks.iter().filter(|d| d.path == repair.disk);
    lines.extend(disk.map(|d| format!("   {}", disk_line(d, language))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ProbeRoot;
    use crate::rescue::person::tests::Scripted;
    use akene_exec::RecordingRunner;

    fn asked(language: Language, answers: &[&str]) -> (End, String) {
        let dir = tempfile::tempdir().unwrap();
        let runner = RecordingRunner::default();
        let rescue = Rescue { runner: &runner, probe: ProbeRoot::recorded(dir.path()), language };
        let mut person = Scripted::new(answers);
        let end = run(&rescue, &mut person, &|| "Network: up".into()).unwrap();
        let writes = ["mount", "rsync", "tar", "cp", "grub-install"];
        for call in runner.calls() {
            assert!(!writes.contains(&call[0].as_str()), "{call:?}");
        }
        (end, person.seen)
    }

    #[test]
    fn the_menu_leads_to_everything_and_an_empty_machine_stops_it_nowhere() {
        for language in Language::ALL {
            let (end, seen) = asked(language, &["1", "2", "", "3", "", "4", "", "5", "", "6", "", "x", "7"]);
            assert_eq!(end, End::Shell("/root".into()));
            for text in [Text::Head, Text::MenuCopy, Text::NoDisks, Text::NobodysFiles, Text::NoSystems] {
                assert!(seen.contains(text.get(language)), "{text:?} is missing:\n{seen}");
            }
            assert!(seen.contains("Network: up"));
        }
        assert_eq!(asked(Language::Fr, &["8"]).0, End::Restart);
        assert_eq!(asked(Language::Fr, &["9"]).0, End::Off);
        assert_eq!(asked(Language::En, &["10"]).0, End::Speak(Language::Fr));
        // The keys of 1 and 0 on a French keyboard, without Shift.
        assert_eq!(asked(Language::Fr, &["&à"]).0, End::Speak(Language::En));
        assert_eq!(asked(Language::En, &["", "3"]).0, End::Gone);
    }

    #[test]
    fn the_menu_fits_the_smallest_screen() {
        let (_, seen) = asked(Language::Fr, &[]);
        assert!(seen.lines().count() <= 25, "{seen}");
        assert!(seen.lines().all(|l| l.chars().count() < 80), "{seen}");
    }

    #[test]
    fn a_refusal_is_told_in_the_language_of_the_person() {
        let runner = RecordingRunner::default();
        let probe = ProbeRoot::recorded(Path::new("/nonexistent"));
        let rescue = Rescue { runner: &runner, probe, language: Language::Fr };
        let issue = Issue::new("no-room-for-files", "sdb1", "4 GiB are free there", "a larger disk");
        let told = trouble(&rescue, &issue.into());
        assert!(told.contains("pas assez de place") && told.contains("4 GiB"), "{told}");
        assert!(trouble(&rescue, &anyhow::anyhow!("odd")).contains("odd"));
    }

    #[test]
    fn progress_is_told_now_and_then() {
        let at = |n| Progress::Copying("ana".into(), n);
        assert!(worth_a_line(None, &at(0)) && worth_a_line(Some(&at(0)), &at(5)));
        assert!(!worth_a_line(Some(&at(10)), &at(12)));
        assert!(worth_a_line(Some(&at(99)), &at(100)));
        assert!(worth_a_line(Some(&at(10)), &Progress::Checking("ana".into())));
    }
}
