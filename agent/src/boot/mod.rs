//! PID 1 of the live system: mounts, modules, devices, console, clock, and at the end the restart.
//!
//! The kernel starts the agent as `/init` of the initramfs. [`live_system`] then
//!
//! 1. mounts `/dev`, `/proc`, `/sys`, `/run`, loads the modules the image brings along and mounts the
//!    live root (squashfs under an overlay in memory), which becomes `/` ([`root`]);
//! 2. splits in two. The first process keeps only what a first process must do: it waits for processes
//!    that lost their parents, hears Ctrl-Alt-Del, and restarts the machine when the other one has ended
//!    ([`init`]). So nobody takes the exit status of a command away from the code that waits for it, and
//!    whatever happens to the installer, even a panic, the machine still says so and restarts;
//! 3. in the second process: starts udev and loads the drivers of the machine's devices ([`devices`]),
//!    finds the consoles ([`console`]), reads the stamp and the image manifest, and returns.
//!
//! Everything up to the split uses system calls only, because a process can be split safely only while
//! it has one thread.

pub mod cmdline;
pub mod console;
pub mod devices;
mod init;
pub mod keyboard;
pub mod rescue;
mod root;
pub mod watchdog;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use akene_exec::Runner;
use akene_protocol::image::ImageManifest;
use akene_protocol::stamp::StampError;
use akene_protocol::{Issue, Language, Stamp};
use jiff::Timestamp;

use crate::sys::clock;
use keyboard::Keyboard;

pub use cmdline::{Cmdline, Mode};
pub use console::{Console, ConsoleKind, Consoles};
pub use init::{fatal, is_init, power_off, restart};
pub use rescue::rescue;

/// Where the initramfs stays readable: `akene/vmlinuz`, `akene/live.squashfs`, `init`.
pub const INITRAMFS: &str = "/run/akene/initramfs";

/// The live system the agent runs in.
#[derive(Debug)]
pub struct LiveSystem {
    /// Our arguments on the kernel command line.
    pub cmdline: Cmdline,
    /// What the operator wrote into the medium, or why it cannot be used.
    pub stamp: Result<Stamp, StampError>,
    /// What the image is made of. `None`: its manifest is missing or damaged.
    pub image: Option<ImageManifest>,
    /// Where people may be looking.
    pub consoles: Consoles,
    /// The initramfs, see [`INITRAMFS`].
    pub initramfs: PathBuf,
    /// What went wrong without being fatal: a module that does not load, an argument nobody knows.
    pub warnings: Vec<Issue>,
}

/// This program as something that can be started again. On the live system the path it was started by
/// leads nowhere since the root was switched.
pub fn program() -> std::io::Result<PathBuf> {
    let live = Path::new(INITRAMFS).join("init");
    if live.exists() { Ok(live) } else { std::env::current_exe() }
}

impl LiveSystem {
    /// A time that no correct clock is earlier than: when the image was built.
    pub fn clock_floor(&self) -> Timestamp {
        self.image.as_ref().map_or(Timestamp::UNIX_EPOCH, |image| image.built)
    }

    /// The language of whoever stands in front of the machine: that of the stamp.
    pub fn language(&self) -> Language {
        self.stamp.as_ref().map_or(Language::default(), |stamp| stamp.language)
    }

    /// The keyboard in front of the machine, as far as the stamp says it.
    pub fn keyboard(&self, runner: &'static dyn Runner) -> Keyboard {
        let named = self.stamp.as_ref().ok().and_then(|stamp| stamp.keyboard.as_ref());
        Keyboard::of(&self.consoles.0, named, runner)
    }
}

/// Turns the initramfs into the live system. Call it first thing in `main`, when [`is_init`] says so.
///
/// It returns in a child of the first process. What cannot work without ends in [`fatal`].
pub fn live_system(runner: &dyn Runner) -> LiveSystem {
    let mut warnings = Vec::new();
    init::prepare_panics();
    match root::switch() {
        Ok(more) => warnings.extend(more),
        Err(error) => {
            let issue = Issue::new(
                "live-system-broken",
                "",
                format!("the installer on this medium cannot start: {error:#}"),
                "try another copy of the disc or stick; if the message stays, the image was built wrongly",
            );
            fatal(&[issue]);
        }
    }
    init::split();

    // Otherwise everything that shows a host name shows `(none)`.
    if let Err(error) = nix::unistd::sethostname("akene") {
        warnings.push(warning("no-host-name", "setting the host name", &error.into()));
    }
    let consoles = Consoles::find();
    init::adopt_consoles(&consoles);
    let cmdline = Cmdline::read();
    warnings.extend(cmdline.issues.iter().cloned());
    if let Err(error) = devices::compressed_swap(devices::memory_bytes()) {
        warnings.push(warning("no-compressed-swap", "setting up compressed memory", &error));
    }
    if let Err(error) = devices::start(runner) {
        warnings.push(warning("devices-incomplete", "looking for devices", &error));
    }
    if let Err(error) = watchdog::find(runner) {
        warnings.push(warning("no-watchdog", "looking for a watchdog", &error));
    }
    if let Err(error) = devices::firmware_variables(runner) {
        warnings.push(warning("no-firmware-variables", "reading the firmware's variables", &error));
    }
    let initramfs = PathBuf::from(INITRAMFS);
    let image = match read_image(&initramfs) {
        Ok(image) => Some(image),
        Err(error) => {
            warnings.push(warning("image-manifest-missing", "reading what this image is made of", &error));
            None
        }
    };
    // A machine with an empty battery starts in 1980 or 2000. The network phase finds the real time
    // (`crate::net::clock`); until then the image's build time is closer.
    if let Some(floor) = image.as_ref().map(|image| image.built)
        && Timestamp::now() < floor
        && let Err(error) = clock::set_system_clock(floor)
    {
        warnings.push(warning("clock-not-set", "raising the clock to the image's build time", &error));
    }
    let stamp = read_stamp(&initramfs);
    LiveSystem { cmdline, stamp, image, consoles, initramfs, warnings }
}

fn warning(code: &str, doing: &str, error: &anyhow::Error) -> Issue {
    let mut message = String::from(doing);
    // Writing to a String cannot fail.
    write!(message, " failed: {error:#}").ok();
    Issue::new(code, "", message, "")
}

fn read_image(initramfs: &Path) -> anyhow::Result<ImageManifest> {
    use anyhow::Context as _;
    let path = initramfs.join(akene_protocol::image::MANIFEST);
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    ImageManifest::parse(&text).map_err(anyhow::Error::msg)
}

fn read_stamp(initramfs: &Path) -> Result<Stamp, StampError> {
    match std::fs::read(initramfs.join(akene_protocol::stamp::PATH)) {
        Ok(text) => Stamp::parse_file(&text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(StampError::Unstamped),
        Err(e) => Err(StampError::Damaged(format!("it cannot be read: {e}"))),
    }
}
