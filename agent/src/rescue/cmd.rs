//! `akene-agent rescue …`: the menu, and each of its choices for a shell.
//!
//! What writes does so only with `--yes`; without it, it says what would be written.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use akene_protocol::inventory::FirmwareKind;
use akene_protocol::{Bytes, Issue, Language, Secret};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::copy::{self, Wish};
use super::menu::{self, End};
use super::person::{Person, Terminal};
use super::volumes::{self, Volume};
use super::words::Text;
use super::{Rescue, boot, find, health, memory, password};
use crate::cli::FirmwareArg;
use crate::probe::ProbeRoot;

/// Where the live system leaves what it knows of the network, for the head of the menu.
pub const NEWS: &str = "/run/akene/rescue-news";

/// `rescue`.
#[derive(Debug, Args)]
pub struct RescueArgs {
    /// What to do; without it, a menu asks.
    #[command(subcommand)]
    pub what: Option<What>,
    /// Language: `en` or `fr`.
    #[arg(long, value_name = "LANGUAGE", default_value = "en", global = true)]
    pub language: Language,
    /// Letters without accents only.
    #[arg(long, global = true)]
    pub plain: bool,
    /// Count this device too, although its kind is not counted (a loop device).
    #[arg(long, value_name = "DEVICE", global = true)]
    pub also: Vec<PathBuf>,
    /// Write the directory of the shell that was chosen here.
    #[arg(long, value_name = "FILE", hide = true)]
    pub shell_at: Option<PathBuf>,
    /// End where another language is chosen, and write its tag here.
    #[arg(long, value_name = "FILE", hide = true)]
    pub language_at: Option<PathBuf>,
}

/// What a rescue does.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Show the disks and what lies on them.
    Disks,
    /// Open a volume to look at it, read-only.
    Look {
        /// The volume, as `disks` calls it: `sda3`, `group/home`.
        volume: String,
        /// The directory below which it is opened.
        #[arg(long, value_name = "DIR", default_value = "/mnt")]
        below: PathBuf,
    },
    /// Copy people's files to another disk. Without --yes, say whose there are and what would be written.
    Copy {
        /// The volume to write to.
        #[arg(long, value_name = "VOLUME")]
        to: Option<String>,
        /// Only from this volume.
        #[arg(long, value_name = "VOLUME")]
        from: Vec<String>,
        /// Only the files of this person.
        #[arg(long, value_name = "NAME")]
        person: Vec<String>,
        /// Write one archive for each person although the volume could hold the files as they are.
        #[arg(long)]
        archive: bool,
        /// Size of an archive's parts.
        #[arg(long, value_name = "SIZE", default_value_t = Bytes(copy::PART))]
        part: Bytes,
        /// Really do it.
        #[arg(long, requires = "to")]
        yes: bool,
    },
    /// Show how the disks are.
    Health,
    /// Say how the memory can be tested; with --here, test what is free.
    Memory {
        /// Test what is free now.
        #[arg(long)]
        here: bool,
    },
    /// Set a new password, which is read from standard input. Without --yes, say whose there are.
    Password {
        /// The volume with the root of the system.
        #[arg(long, value_name = "VOLUME")]
        system: String,
        /// Whose.
        #[arg(long, value_name = "NAME")]
        person: Option<String>,
        /// Really do it.
        #[arg(long, requires = "person")]
        yes: bool,
    },
    /// Put the boot loader of a system on its disk again. Without --yes, say what would be done.
    Boot {
        /// The volume with the root of the system.
        #[arg(long, value_name = "VOLUME")]
        system: String,
        /// Firmware of the machine the disk is meant for, if it is not this one.
        #[arg(long, value_enum)]
        firmware: Option<FirmwareArg>,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
}

/// Carries a command out. False: it was carried out, and what it found is bad.
///
/// # Errors
/// What went wrong, which was told already where it is an [`Issue`].
pub fn run(args: &RescueArgs, runner: &dyn akene_exec::Runner) -> Result<bool> {
    let probe = ProbeRoot { also: args.also.clone(), ..ProbeRoot::default() };
    let mut rescue = Rescue { runner, probe, language: args.language };
    let mut terminal = Terminal { plain: args.plain };
    let Some(what) = &args.what else { return ask(&mut rescue, &mut terminal, args) };
    carry_out(&rescue, what, &mut terminal)
}

/// The menu.
fn ask(rescue: &mut Rescue<'_>, terminal: &mut Terminal, args: &RescueArgs) -> Result<bool> {
    let news = || std::fs::read_to_string(NEWS).unwrap_or_default().trim_end().to_owned();
    let write = |file: &Path, bytes: &[u8]| {
        std::fs::write(file, bytes).with_context(|| format!("writing {}", file.display()))
    };
    loop {
        match (menu::run(rescue, terminal, &news)?, &args.language_at) {
            // The live system has the keyboard follow, and begins anew.
            (End::Speak(language), Some(file)) => write(file, language.tag().as_bytes())?,
            (End::Speak(language), None) => {
                rescue.language = language;
                continue;
            }
            (End::Shell(dir), _) => match &args.shell_at {
                Some(file) => write(file, dir.as_os_str().as_encoded_bytes())?,
                None => terminal.say(&dir.display().to_string()),
            },
            (End::Restart, _) => crate::boot::restart(),
            (End::Off, _) => crate::boot::power_off(),
            (End::Gone, _) => {}
        }
        return Ok(true);
    }
}

fn carry_out(rescue: &Rescue<'_>, what: &What, terminal: &mut Terminal) -> Result<bool> {
    let language = rescue.language;
    match what {
        What::Disks => terminal.say(&volumes::page(&rescue.machine(), language)),
        What::Health => terminal.say(&health::page(rescue)),
        What::Look { volume, below } => {
            let machine = rescue.machine();
            let volumes = volumes::list(&machine);
            let at = menu::look(rescue, &machine, find(&volumes, volume)?, below)?;
            terminal.say(&at.display().to_string());
        }
        What::Copy { yes, .. } => return save(rescue, terminal, what, *yes),
        What::Memory { here } => {
            let free =
                memory::free(&std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?);
            let (true, Some(free)) = (*here, free) else {
                let way = memory::way(&rescue.machine());
                let words =
                    if way == memory::Way::OnlyHere { Text::MemorySecure } else { Text::MemoryRestart };
                terminal.say(words.get(language));
                terminal
                    .say(free.map_or(Text::MemoryNone.get(language), |_| "akene-agent rescue memory --here"));
                return Ok(free.is_some() || !here);
            };
            let verdict = memory::test(rescue.runner, free, &mut |line| terminal.say(line))?;
            terminal.say(menu::verdict_words(verdict).get(language));
            return Ok(verdict == memory::Verdict::Sound);
        }
        What::Password { system, person, yes } => {
            let machine = rescue.machine();
            let volumes = volumes::list(&machine);
            let system = find(&volumes, system)?;
            let password::People { found, doubt } = password::people(rescue, &machine, &volumes, system)?;
            doubt
                .iter()
                .for_each(|why| terminal.say(&Text::MayNotStart.with(language, &[&system.name, why])));
            for one in &found {
                terminal.say(&format!("{}  {}", one.account.name, one.account.realname));
                let said =
                    one.encrypted.map(|why| menu::encrypted_words(why).with(language, &[&one.account.name]));
                said.iter().for_each(|said| terminal.say(said));
            }
            let (Some(person), true) = (person, yes) else { return Ok(true) };
            if !found.iter().any(|f| f.account.name == *person) {
                bail!(Issue::new(
                    "account-not-there",
                    person,
                    format!("the system on {} has no such account", system.name),
                    "choose one of those that are listed",
                ));
            }
            let new = read_password(terminal, language)?;
            password::set(rescue, &machine, system, person, &new)?;
            terminal.say(&Text::PasswordSet.with(language, &[person]));
        }
        What::Boot { system, firmware, yes } => {
            let machine = rescue.machine();
            let volumes = volumes::list(&machine);
            let kind: FirmwareKind = firmware.map_or(machine.firmware.kind, Into::into);
            let repair = boot::plan(rescue, &machine, &volumes, find(&volumes, system)?, kind)?;
            terminal.say(&menu::repair_page(&repair, &machine, rescue));
            if *yes {
                boot::carry_out(rescue, &machine, &repair, &mut |line| terminal.say(line))?;
                terminal.say(Text::Repaired.get(language));
            }
        }
    }
    Ok(true)
}

fn save(rescue: &Rescue<'_>, terminal: &mut Terminal, what: &What, yes: bool) -> Result<bool> {
    let What::Copy { to, from, person: who, archive, part, .. } = what else { return Ok(true) };
    let machine = rescue.machine();
    let volumes = volumes::list(&machine);
    let sources: Vec<&Volume> = match &from[..] {
        [] => volumes.iter().filter(|v| copy::may_hold_people(v)).collect(),
        named => named.iter().map(|name| find(&volumes, name)).collect::<Result<_>>()?,
    };
    let (mut people, closed) = copy::whose(rescue, &machine, &sources)?;
    closed.iter().for_each(|error| terminal.say(&menu::trouble(rescue, error)));
    people.retain(|p| who.is_empty() || who.contains(&p.name));
    if let Some(none) = who.iter().find(|w| !people.iter().any(|p| p.name == **w)) {
        bail!(Issue::new(
            "no-people-found",
            none,
            "there are no files of a person of this name",
            "leave --person out to see whose there are",
        ));
    }
    for p in &people {
        let values = [&*p.name, &p.volume, &Bytes(p.amount.bytes).to_string(), &p.amount.entries.to_string()];
        terminal.say(&Text::OnePerson.with(rescue.language, &values));
    }
    menu::unclean_words(&people, rescue).iter().for_each(|words| terminal.say(words));
    let Some(to) = to else { return Ok(true) };
    let sources = volumes.iter().filter(|v| people.iter().any(|p| p.volume == v.name)).cloned().collect();
    let target = find(&volumes, to)?.clone();
    let wish = Wish { sources, people, target, archive: *archive, part: part.0.max(1) };
    let survey = copy::survey(rescue, &machine, &wish)?;
    let values = [&*survey.needed.to_string(), &wish.target.name, &survey.free.to_string(), ""];
    terminal.say(&Text::WillCopy.with(rescue.language, &values));
    if !yes {
        return Ok(true);
    }
    let mut last = None;
    let done = copy::carry_out(rescue, &machine, &wish, &mut |step| {
        if menu::worth_a_line(last.as_ref(), step) {
            terminal.say(&menu::progress_line(step, rescue));
            last = Some(step.clone());
        }
    })?;
    terminal.say(&menu::done_page(&done, rescue));
    Ok(done.missing.is_empty())
}

/// A password from standard input: twice from a terminal, once from a program.
fn read_password(terminal: &mut Terminal, language: Language) -> Result<Secret> {
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("reading the password")?;
        return Ok(Secret::new(line.trim_end_matches(['\n', '\r'])));
    }
    let mut ask = |text: Text| -> Result<Secret> {
        terminal.secret(text.get(language))?.context("reading the password")
    };
    let (new, again) = (ask(Text::NewPassword)?, ask(Text::OnceMore)?);
    if new != again {
        bail!(Issue::new("password-odd", "", Text::NotTheSame.get(Language::En), "type the same twice"));
    }
    Ok(new)
}
