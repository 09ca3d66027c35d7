//! The pipeline in the live system: attempt after attempt until the machine is installed or restarts.
//!
//! Who stands in front of the machine can mend a cable, not a certificate. So:
//!
//! - what may pass (no cable, no address, a silent server) is shown and tried again for as long as it takes,
//!   or, where a whole system of ours waits on a disk, for [`LONG_ENOUGH`]: then the machine goes back to it;
//! - an archive whose files do not fit together, as in the middle of an update, is asked again for a quarter of
//!   an hour; after that it counts as a refusal;
//! - a refusal stands on the screen for [`TIME_TO_READ`], then the machine restarts, which leads into the
//!   system on its disk where the firmware starts that first; where none is left that could start, a person is asked
//!   ([`super::way`] decides it);
//! - no attempt touches a disk without a permission of its own: each has a run id of its own, and a grant
//!   is for one run.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use akene_exec::Runner;
use akene_protocol::event::Phase;
use akene_protocol::inventory::{Disk, FirmwareKind, LooksLike};
use akene_protocol::profile::Shutdown;
use akene_protocol::stamp::{Source, Stamp, StampError, Tls};
use akene_protocol::{Issue, Language};
use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::doubt::ClockState;
use super::live_medium::{Follows, OnMedium};
use super::machine::{Authority, Machine, Room};
use super::resume::{Begun, Resume};
use super::way::{Course, Left, Next, Way, is_unheard};
use super::{Done, Options, help, homeward, issues_of, left, pipeline, resume, second_root};
use crate::boot::{self, Console, LiveSystem, Mode};
use crate::fetch::http::{Http, Web};
use crate::fetch::{Patience, is_transient};
use crate::net::resolver::Resolver;
use crate::net::{self, Online};
use crate::probe::{self, ProbeRoot};
use crate::report::Reporter;
use crate::report::curtain::Behind;
use crate::report::lines::Lines;
use crate::report::logfile::LogFile;
use crate::report::screen::Screen;
use crate::report::words::Text;
use crate::sys::block;

/// How long a refusal stands before the machine restarts.
const TIME_TO_READ: Duration = Duration::from_secs(15 * 60);

/// How long a machine that has a whole system waits for what its installer needs, before it restarts into
/// that: somebody may have chosen the installer by mistake, and nobody can work while it waits.
const LONG_ENOUGH: Duration = Duration::from_secs(30 * 60);

/// How long the network and the server are waited for where everything that is needed lies on the disks, of an
/// installation that broke off.
const ALONE_AFTER: Duration = Duration::from_secs(150);

/// Pause before the next attempt after what may pass.
const PAUSE: Duration = Duration::from_secs(30);

/// Pause before a mirror is asked again that may be in the middle of an update. Each attempt reads the archive's indexes anew.
const SETTLING: Duration = Duration::from_secs(3 * 60);

/// How long the good news stands before the machine restarts.
const GOOD_NEWS: Duration = Duration::from_secs(10);

/// Where everything of a run lies, in memory.
const SCRATCH: &str = "/run/akene/stage";

/// Where the new root is mounted.
const TARGET: &str = "/run/akene/target";

/// The log.
const LOG: &str = "/run/akene/install.log";

/// Installs this machine, however long it takes.
pub fn run(mut live: LiveSystem, runner: &'static dyn Runner) -> ! {
    if live.cmdline.mode == Mode::Rescue {
        boot::rescue(&live, runner);
    }
    if let Some(stamp) = homeward::stamp(&live, runner) {
        live.stamp = Ok(stamp);
    }
    if let (Some(server), Ok(stamp)) = (&live.cmdline.server, &mut live.stamp)
        && let Source::Server { url, .. } = &mut stamp.source
    {
        url.clone_from(server);
    }
    let started = Instant::now();
    let server = live.stamp.as_ref().is_ok_and(|s| matches!(s.source, Source::Server { .. }));
    let mut course = Course::new(live.cmdline.mode == Mode::Help, server);
    let mut on_medium = OnMedium::new(&live, runner);
    let mut kept = false;
    loop {
        let reporter = match new_reporter(&live) {
            Ok(reporter) => reporter,
            Err(error) => boot::fatal(&issues_of(&error)),
        };
        let (begun, alone, old) = match live.cmdline.mode {
            Mode::Install | Mode::Help => broken_off(&live, runner, &reporter),
            Mode::Probe | Mode::Rescue => (None, None, None),
        };
        let left = Left {
            unfinished: begun.is_some(),
            // Where a person is there and is asked, they are the help.
            tired: begun.as_ref().is_some_and(Begun::is_tired)
                && !on_medium.as_ref().is_some_and(OnMedium::is_attended),
            can_go_on: alone.is_some(),
            old: old.is_some(),
        };
        if let (Way::Back, Some(old)) = (course.way(left), &old)
            && go_back_to_old(old, runner, &reporter, begun.as_ref(), &course)
        {
            boot::restart();
        }
        if matches!(course.way(left), Way::Help | Way::Back) {
            help::until_permitted(&live, runner, &reporter, begun.as_ref(), course.refused.as_ref());
            course.permitted();
            live.cmdline.mode = Mode::Install;
        }
        // A system that does not start is not gone back to.
        let started = Some(started).filter(|_| !course.helped);
        let resumes = on_medium.as_ref().is_some_and(OnMedium::resumes);
        let result = match (&mut on_medium, course.permitted_way(left), alone) {
            (Some(medium), _, alone) => medium.attempt(&live, runner, &reporter, begun, alone.is_some()),
            (None, way, Some(resume)) => {
                let how = if way == Way::Alone { How::Alone(resume) } else { How::Either(resume) };
                attempt(&live, runner, &reporter, started, how)
            }
            (None, _, None) => {
                let how = How::Asking(begun.and_then(|begun| begun.resume).map(Box::new));
                attempt(&live, runner, &reporter, started, how)
            }
        };
        let issues = match result {
            Ok(Done::Installed { shutdown, .. }) => end(&reporter, shutdown),
            Ok(Done::Planned { plan, .. }) => {
                reporter.info(akene_planner::render::destroyed(&plan));
                wait(&reporter, TIME_TO_READ, Text::RestartsUnchanged);
                boot::restart();
            }
            Err(issues) => issues,
        };
        match on_medium.as_mut().and_then(|medium| medium.follows(&issues, resumes)) {
            Some(Follows::Again) => {
                wait(&reporter, PAUSE, Text::NextAttempt);
                continue;
            }
            Some(Follows::Asked) => continue,
            Some(Follows::Left) => {
                keep_events(&live, runner, &reporter);
                wait(&reporter, GOOD_NEWS, Text::Restarts);
                boot::restart();
            }
            None => {}
        }
        match course.failed(left, &issues) {
            Next::Again => {
                // Once a start: what fails every half minute is always the same.
                if !std::mem::replace(&mut kept, true) {
                    keep_events(&live, runner, &reporter);
                }
                go_back(&live, runner, &reporter, started, issues);
                wait(&reporter, PAUSE, Text::NextAttempt);
            }
            Next::Settled => wait(&reporter, SETTLING, Text::ArchiveChanges),
            Next::Help => {}
            Next::Restart => {
                keep_events(&live, runner, &reporter);
                wait(&reporter, TIME_TO_READ, Text::Restarts);
                boot::restart();
            }
        }
    }
}

/// Who is asked.
enum How {
    /// The site, as long as it takes. What an installation that broke off left may have to stand in for the medium.
    Asking(Option<Box<Resume>>),
    /// The site for a while, and then nobody: an installation was begun, and this is what it left.
    Either(Box<Resume>),
    /// Nobody: the site did not answer.
    Alone(Box<Resume>),
}

/// An installation that broke off, what it left if that is all that is needed, and the boot partition of a whole system
/// beside it.
fn broken_off(
    live: &LiveSystem,
    runner: &dyn Runner,
    reporter: &Reporter,
) -> (Option<Begun>, Option<Box<Resume>>, Option<PathBuf>) {
    let found = probe::inventory(runner, &ProbeRoot::default());
    let Some(begun) = resume::find(&found) else { return (None, None, None) };
    let alone = live.stamp.as_ref().ok().and_then(|stamp| begun.alone(&found, &stamp.site_key));
    let alone = alone.cloned().map(Box::new);
    let network = if alone.is_some() { "with or without" } else { "only with" };
    reporter.info(format!(
        "an installation was begun {} times; it goes on {network} the network",
        begun.attempts
    ));
    let old = match &begun.devices[..] {
        [device] if second_root::can_return(device, &found) => Some(device.clone()),
        _ => None,
    };
    (Some(begun), alone, old)
}

fn attempt(
    live: &LiveSystem,
    runner: &dyn Runner,
    reporter: &Reporter,
    started: Option<Instant>,
    how: How,
) -> Result<Done, Vec<Issue>> {
    let stamp = begin(live, reporter)?;
    let fail = |issues| ended(reporter, issues);
    reporter.phase(Phase::Network);
    let limit = match how {
        How::Asking(_) => None,
        How::Either(_) => Some(ALONE_AFTER),
        How::Alone(_) => Some(Duration::ZERO),
    };
    let online = connect(live, runner, reporter, started, limit).map_err(|issue| fail(vec![issue]))?;
    // A person's permission is for this run: no other may have to go on with it.
    let patience = match (&how, started) {
        (How::Asking(_), None) => Patience::endless(),
        _ => Patience::default(),
    };
    let alone = matches!((&how, &online), (How::Alone(_), _) | (How::Either(_), None));
    if alone {
        reporter.info(Text::GoesOnAlone.get(Language::En));
    }
    let resume = match how {
        How::Asking(resume) => resume,
        How::Either(resume) | How::Alone(resume) => Some(resume),
    };
    let online =
        online.unwrap_or_else(|| Online::asking(Resolver::from_resolv_conf(""), stamp.proxy.clone()));
    let prepared = prepare(live, stamp, &online, runner, reporter, resume, alone);
    let mut machine = prepared.map_err(|error| fail(issues_of(&error)))?;
    let plan_only = live.cmdline.mode == Mode::Probe;
    let options = Options { plan_only, patience, afterwards: Patience::endless() };
    pipeline(&mut machine, reporter, options).map_err(|failure| failure.issues)
}

/// What every attempt begins with.
pub(super) fn begin<'a>(live: &'a LiveSystem, reporter: &Reporter) -> Result<&'a Stamp, Vec<Issue>> {
    reporter.phase(Phase::Boot);
    reporter.called_by_run();
    live.warnings.iter().for_each(|issue| reporter.warn(issue.to_string()));
    let stamp = live.stamp.as_ref().map_err(|error| ended(reporter, vec![stamp_issue(error)]))?;
    reporter.hide_password_of(stamp.proxy.as_deref().unwrap_or_default());
    Ok(stamp)
}

/// Reports an attempt that ends before there is a pipeline.
pub(super) fn ended(reporter: &Reporter, issues: Vec<Issue>) -> Vec<Issue> {
    reporter.failed(issues.clone(), false);
    reporter.drain(Duration::from_secs(5));
    issues
}

fn stamp_issue(error: &StampError) -> Issue {
    match error {
        StampError::Unstamped => Issue::new(
            "unstamped",
            "",
            "this medium does not say which association it belongs to",
            "write the address of the server into it: `akene-image stamp`, then start again",
        ),
        other => Issue::new("stamp-damaged", "", other.to_string(), "make a new copy of the disc or stick"),
    }
}

/// The network phase: goes on until there is a network, or a reason why trying again is of no use. `None`: there was none
/// within the limit.
pub(super) fn connect(
    live: &LiveSystem,
    runner: &dyn Runner,
    reporter: &Reporter,
    started: Option<Instant>,
    limit: Option<Duration>,
) -> Result<Option<Online>, Issue> {
    let begun = Instant::now();
    loop {
        match net::connect(live, runner, &mut |line| reporter.info(line)) {
            Ok(online) => {
                reporter.trouble(None);
                return Ok(Some(online));
            }
            Err(issue) if limit.is_some_and(|limit| begun.elapsed() >= limit || is_unheard(&issue)) => {
                reporter.warn(format!("{issue}; it is not waited for any longer"));
                reporter.trouble(None);
                return Ok(None);
            }
            Err(issue) if is_transient(&issue) => {
                reporter.trouble(Some(issue.clone()));
                go_back(live, runner, reporter, started, vec![issue]);
                wait(reporter, PAUSE / 3, Text::NextAttempt);
            }
            Err(issue) => return Err(issue),
        }
    }
}

/// Restarts a machine that has waited long enough, since it was `started`, and has a whole system of ours to go back to: GRUB's menu
/// on its disk and that of a medium both start it when nobody chooses.
fn go_back(
    live: &LiveSystem,
    runner: &dyn Runner,
    reporter: &Reporter,
    started: Option<Instant>,
    issues: Vec<Issue>,
) {
    if started.is_none_or(|started| started.elapsed() < LONG_ENOUGH) {
        return;
    }
    let found = probe::inventory(runner, &ProbeRoot::default());
    if has_whole_system(&found.disks) {
        // The network phase has not failed so far, it has only waited.
        reporter.failed(issues, false);
        keep_events(live, runner, reporter);
        wait(reporter, PAUSE * 2, Text::GoesBack);
        boot::restart();
    }
}

/// Makes the machine start the system that is kept beside an unfinished installation. False: it cannot, and a person
/// is asked.
fn go_back_to_old(
    boot: &Path,
    runner: &dyn Runner,
    reporter: &Reporter,
    begun: Option<&Begun>,
    course: &Course,
) -> bool {
    let why = help::reason(begun, course.refused.as_ref());
    reporter.warn(why.to_string());
    reporter.trouble(Some(why));
    let consoles = serial_consoles(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    match second_root::give_back(boot, &consoles, runner, reporter) {
        Ok(()) => {
            wait(reporter, PAUSE * 2, Text::Restarts);
            true
        }
        Err(error) => {
            reporter.warn(format!("the old system cannot be started: {error:#}"));
            false
        }
    }
}

/// Keeps what nobody could be told on the boot partition of an earlier installation, see [`left`]. What is only
/// to look at a machine writes nothing.
fn keep_events(live: &LiveSystem, runner: &dyn Runner, reporter: &Reporter) {
    let (Ok(stamp), Mode::Install) = (&live.stamp, live.cmdline.mode) else { return };
    let waits = reporter.courier().is_some_and(|courier| courier.undelivered() > 0);
    let found = if waits { probe::inventory(runner, &ProbeRoot::default()) } else { return };
    match left::keep(&found, stamp, reporter) {
        Ok(true) => reporter.debug("what happened is kept on the disk, and sent when there is a network"),
        Ok(false) => {}
        Err(error) => reporter.debug(format!("keeping what happened on the disk: {error:#}")),
    }
}

/// Whether an installation of ours on one of the disks was completed and not broken up since.
fn has_whole_system(disks: &[Disk]) -> bool {
    let partitions = disks.iter().filter_map(|d| d.table.as_ref()).flat_map(|t| &t.partitions);
    let mut looks = partitions.filter_map(|p| p.content.as_ref()?.looks_like.as_ref());
    looks.any(|l| matches!(l, LooksLike::AkeneBoot { unfinished: false, .. }))
}

pub(super) fn prepare<'a>(
    live: &'a LiveSystem,
    stamp: &'a Stamp,
    online: &Online,
    runner: &'a dyn Runner,
    reporter: &'a Reporter,
    resume: Option<Box<Resume>>,
    alone: bool,
) -> Result<Machine<'a>> {
    let (http, stamp_key) = (web(stamp, online)?, stamp.site_key);
    let scratch = PathBuf::from(SCRATCH);
    fresh_memory(&scratch)?;
    let installer = live.image.as_ref().map(|image| (live.initramfs.clone(), stamp.clone(), image.clone()));
    if installer.is_none() {
        reporter.warn("the installer cannot put itself on the disk: its manifest is missing");
    }
    Ok(Machine {
        runner,
        reporter,
        probe: ProbeRoot::default(),
        only_disk: None,
        inventory: None,
        authority: match resume {
            Some(resume) if alone => {
                let (stamp, http) = (Some(stamp), Some(http));
                Authority::Begun { resume, key: stamp_key, vouched: false, stamp, http }
            }
            begun => Authority::Site { stamp, http, profile: live.cmdline.profile.clone(), begun },
        },
        resolver: online.resolver.clone(),
        proxy: online.proxy.clone(),
        scratch,
        packages: None,
        room: Room::Memory,
        mount: TARGET.into(),
        installer,
        program: live.initramfs.join(akene_archive::initrd::INIT),
        this_machine: true,
        consoles: serial_consoles(&fs::read_to_string("/proc/cmdline").unwrap_or_default()),
        log: LOG.into(),
        firmware: FirmwareKind::Bios,
        other_firmware: None,
        sent: vec![],
        clock: online.clock.clone().map(|mended| ClockState { mended, floor: live.clock_floor() }),
        swap: Default::default(),
        identity: None,
        boots: vec![],
        signed: None,
        offline: None,
        people: Default::default(),
    })
}

/// HTTP with the stamp's trust.
pub(super) fn web(stamp: &Stamp, online: &Online) -> Result<Arc<dyn Http>> {
    let tls = match &stamp.source {
        Source::Server { tls, .. } | Source::Static { tls, .. } => tls.clone(),
        Source::Medium { .. } => Tls::default(),
    };
    let confirmed = online.clock.as_ref().is_none_or(|c| c.confirmed());
    Ok(Arc::new(Web::new(&tls, online.proxy.as_deref(), &online.resolver, confirmed)?))
}

/// An empty directory in memory, with room for whatever memory and compressed swap hold.
fn fresh_memory(dir: &Path) -> Result<()> {
    // Of an earlier attempt; there is nothing mounted on the first.
    umount2(dir, MntFlags::MNT_DETACH).ok();
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("stage"), dir, Some("tmpfs"), flags, Some("size=95%,mode=0700"))
        .with_context(|| format!("mounting memory at {}", dir.display()))
}

/// The serial consoles this system was started with: the installed one shall answer there too.
fn serial_consoles(cmdline: &str) -> Vec<String> {
    let values = cmdline.split_whitespace().filter_map(|word| word.strip_prefix("console="));
    values.filter(|value| !value.starts_with("tty0") && !is_screen(value)).map(str::to_owned).collect()
}

fn is_screen(value: &str) -> bool {
    value.strip_prefix("tty").is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()))
}

fn new_reporter(live: &LiveSystem) -> Result<Reporter> {
    let reporter = Reporter::for_new_run()?;
    reporter.start_courier()?;
    let site = live.stamp.as_ref().map_or("", |stamp| stamp.site.as_str());
    let language = live.language();
    reporter.speak(language);
    match boot::watchdog::Signs::new() {
        Ok(signs) => reporter.listen("watchdog", signs)?,
        Err(error) => reporter.debug(format!("the watchdog knows nothing of the installer: {error:#}")),
    }
    for console in live.consoles.iter() {
        let curtain = console.curtain.clone();
        match writer(console) {
            Ok(device) if console.is_serial() => {
                let lines = Lines::for_console(device, language);
                reporter.listen("serial console", Behind::new(curtain, lines))?
            }
            Ok(device) => {
                let screen = Screen::new(device, site, language);
                reporter.listen("screen", Behind::new(curtain, screen))?
            }
            Err(error) => reporter.debug(format!("{}: {error:#}", console.path.display())),
        }
    }
    match LogFile::open(Path::new(LOG)) {
        Ok(log) => reporter.listen("log", log)?,
        Err(error) => reporter.warn(format!("there is no log: {error:#}")),
    }
    Ok(reporter)
}

/// A console whose writes wait. It is opened without waiting (for a modem's carrier); its listener has a
/// thread of its own, which may wait for a slow line.
fn writer(console: &Console) -> Result<fs::File> {
    let device = console.open().context("opening it")?;
    let flags = fcntl(&device, FcntlArg::F_GETFL).context("asking for its flags")?;
    let flags = OFlag::from_bits_truncate(flags) - OFlag::O_NONBLOCK;
    fcntl(&device, FcntlArg::F_SETFL(flags)).context("letting its writes wait")?;
    Ok(device)
}

/// A visible countdown.
pub(super) fn wait(reporter: &Reporter, how_long: Duration, what: Text) {
    let language = reporter.language();
    let (what, within) = (what.get(language), Text::In.get(language));
    for left in (1..=how_long.as_secs()).rev() {
        let shown = match left {
            0..120 => format!("{left} s"),
            _ => format!("{} min", left.div_ceil(60)),
        };
        reporter.waiting(&format!("{what} {within} {shown}"));
        std::thread::sleep(Duration::from_secs(1));
    }
    reporter.waiting("");
}

fn end(reporter: &Reporter, shutdown: Shutdown) -> ! {
    open_trays(reporter);
    match shutdown {
        Shutdown::Reboot => {
            wait(reporter, GOOD_NEWS, Text::InstalledRestarts);
            boot::restart()
        }
        Shutdown::Poweroff => {
            wait(reporter, GOOD_NEWS, Text::InstalledOff);
            boot::power_off()
        }
    }
}

/// Opens the disc trays, so that the machine does not start from the disc again. Nothing runs from the disc:
/// the live system is in memory. A laptop's tray that only a finger opens is no error.
fn open_trays(reporter: &Reporter) {
    let Ok(entries) = fs::read_dir("/sys/class/block") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| n.starts_with("sr")) else { continue };
        let mut options = fs::OpenOptions::new();
        let drive = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(format!("/dev/{name}"));
        if let Err(error) = drive.map_err(Into::into).and_then(|drive| block::open_tray(&drive)) {
            reporter.debug(format!("opening the tray of {name}: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_system_of_ours_is_gone_back_to() {
        let disks = |machine: &str| serde_json::from_str::<akene_protocol::Inventory>(machine).unwrap().disks;
        macro_rules! golden {
            ($name:literal) => {
                disks(include_str!(concat!("../../../tests/golden/", $name, "/inventory.json")))
            };
        }
        assert!(has_whole_system(&golden!("akene-reinstall")));
        assert!(!has_whole_system(&golden!("akene-power-cut-while-installing")));
        assert!(!has_whole_system(&golden!("foreign-linux-home-inside")));
    }

    #[test]
    fn the_installed_system_answers_where_the_installer_did() {
        assert_eq!(serial_consoles("quiet console=tty0 console=ttyS0,115200n8 ro"), ["ttyS0,115200n8"]);
        assert_eq!(serial_consoles("console=hvc0 console=tty1"), ["hvc0"]);
        assert!(serial_consoles("BOOT_IMAGE=x ro").is_empty());
    }
}
