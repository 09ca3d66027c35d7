//! The whole way, as an administrator and a volunteer walk it: build an image, stamp it, start a machine
//! from it, wait until the server says that the installed system runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, SystemRunner};
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::mirror::{Mirror, is_fresh};
use crate::site::{Site, program, small_server, with_password};
use crate::vm::{Firmware, HOST, Machine, Medium, Vm};

/// A finished image and the netboot pair of the same build.
#[derive(Clone, Debug)]
pub struct Built {
    dir: PathBuf,
}

impl Built {
    /// The ISO.
    pub fn iso(&self) -> PathBuf {
        self.dir.join("akene.iso")
    }

    /// Its kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("netboot/vmlinuz")
    }

    /// Its initrd.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("netboot/initrd.img")
    }
}

/// The agent that goes onto media: as it ships where it was built so, else the one of the tests.
pub fn shipped_agent() -> Result<PathBuf> {
    let tested = program("akene-agent")?;
    let release = tested.parent().and_then(Path::parent).map(|dir| dir.join("release/akene-agent"));
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    Ok(match release {
        // A release build older than the one of the tests is not the program under test.
        Some(release) if age(&release) >= age(&tested) => release,
        _ => tested,
    })
}

/// Builds an image of the host's own distribution.
pub fn build_image(mirror: &Mirror, dir: &Path) -> Result<Built> {
    let built = Built { dir: dir.to_owned() };
    let build = Cmd::new(program("akene-image")?)
        .args(["build", "--compression", "1", "--distribution", &mirror.host.distribution])
        .args([
            "--suite",
            &mirror.host.suite,
            "--mirror",
            &mirror.main(),
            "--security-mirror",
            &mirror.security(),
        ])
        .arg("--agent")
        .arg(shipped_agent()?)
        .arg("--output")
        .arg(dir)
        .timeout(Duration::from_secs(1800));
    SystemRunner.run(&build)?;
    Ok(built)
}

/// The image of this test run, built by whoever needs it first.
pub fn image_of_this_run(mirror: &Mirror) -> Result<Built> {
    let cache = crate::mirror::cache_dir()?;
    // Another test, or another program of tests, may need it at the same time.
    let lock = std::fs::File::create(cache.join("image.lock")).context("opening the lock of the image")?;
    let _held =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).context("waiting for the image")?;
    let dir = cache.join("image");
    let (made_by, of) = (dir.join("made-by"), makers()?);
    // The next test program needs the same image, unless what makes it or goes into it has changed.
    if is_fresh(&made_by) && std::fs::read_to_string(&made_by).is_ok_and(|text| text == of) {
        return Ok(Built { dir });
    }
    if made_by.exists() {
        std::fs::remove_file(&made_by).context("forgetting the earlier image")?;
    }
    let fresh = build_image(mirror, &dir).context("building the image")?;
    std::fs::write(&made_by, of).context("noting what the image was made by")?;
    Ok(fresh)
}

/// The programs an image depends on, each as it is now.
fn makers() -> Result<String> {
    let mut text = String::new();
    for path in [shipped_agent()?, program("akene-image")?] {
        let doing = || format!("looking at {}", path.display());
        let about = path.metadata().with_context(doing)?;
        let changed = about.modified().with_context(doing)?;
        text += &format!("{} {} {changed:?}\n", path.display(), about.len());
    }
    Ok(text)
}

/// Writes the site's stamp into a copy of an ISO (or of a stamp area).
pub fn stamped(site: &Site, image: &Path, to: &Path) -> Result<PathBuf> {
    std::fs::copy(image, to).with_context(|| format!("copying {}", image.display()))?;
    let stamp = Cmd::new(program("akene-image")?).arg("stamp").arg(to).arg("--stamp").arg(site.stamp());
    SystemRunner.run(&stamp)?;
    Ok(to.to_owned())
}

/// Whether a virtual machine can be tested here; says aloud why not.
pub fn possible() -> bool {
    let missing = crate::vm::missing().or_else(crate::image::missing);
    if let Some(why) = &missing {
        eprintln!("SKIPPED: no virtual machine can be tested here: {why}");
    }
    missing.is_none()
}

/// How the medium is put into the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// A disc in the CD drive.
    Disc,
    /// A USB stick.
    Stick,
}

/// An installation on the way.
pub struct Journey {
    /// The site the machine belongs to.
    pub site: Site,
    /// The machine.
    pub vm: Vm,
    /// How the medium is in the machine now; `None`: it has been taken out.
    put: Option<Put>,
    machine: Machine,
    dir: PathBuf,
    started: Instant,
}

/// What a journey took.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// From power-on to `installed` at the server.
    pub install: Duration,
    /// From there to `confirmed`.
    pub confirm: Duration,
}

impl Journey {
    /// Puts the stamped medium into the machine and switches it on.
    pub fn begin(site: Site, iso: &Path, put: Put, mut machine: Machine, dir: &Path) -> Result<Self> {
        let medium = stamped(&site, iso, &dir.join("stamped.iso"))?;
        machine.medium = Some(match put {
            Put::Disc => Medium::Cd(medium),
            Put::Stick => Medium::Usb(medium),
        });
        let dir = dir.join("machine");
        let vm = machine.start(&dir)?;
        Ok(Journey { site, vm, put: Some(put), machine, dir, started: Instant::now() })
    }

    /// Switches an installed machine on, without any medium, and chooses *Reinstall this computer* in its own menu.
    pub fn again(site: Site, mut machine: Machine, dir: &Path) -> Result<Self> {
        machine.medium = None;
        let dir = dir.join("machine");
        let mut vm = machine.start(&dir)?;
        let started = Instant::now();
        let soon = Duration::from_secs(600);
        vm.expect("Reinstall this computer", soon).context("waiting for the installed system's menu")?;
        // To the end of the list.
        vm.console.press("\x05")?;
        vm.expect("*Reinstall this computer", soon).context("choosing the entry")?;
        vm.console.press("\r")?;
        Ok(Journey { site, vm, put: None, machine, dir, started })
    }

    /// Pulls the plug as soon as the console says these words one after the other, takes the medium out, and
    /// switches the machine on again: whatever it does now, it does from its disk. Returns the seconds
    /// from the first switching on to each of the words.
    pub fn cut_power_after(&mut self, words: &[&str], limit: Duration) -> Result<Vec<u64>> {
        let limit = self.vm.accelerator.scale(limit);
        let mut seconds = Vec::new();
        for word in words {
            self.vm.expect(word, limit)?;
            seconds.push(self.started.elapsed().as_secs());
        }
        self.vm.cut_power()?;
        self.machine.medium = None;
        self.put = None;
        self.vm = self.machine.start(&self.dir)?;
        Ok(seconds)
    }

    /// Waits until the server sees the machine in this state.
    pub fn wait_for(&mut self, state: &str, limit: Duration) -> Result<Value> {
        let limit = self.vm.accelerator.scale(limit);
        let result = self.site.wait_for(state, limit, || self.vm.is_on());
        result.with_context(|| {
            let text = self.vm.console.text();
            let start = text.char_indices().rev().nth(4000).map_or(0, |(i, _)| i);
            format!("the console said last:\n{}", &text[start..])
        })
    }

    /// Waits for the end of the installation, takes the medium out as the volunteer is told to, and
    /// waits until the installed system has confirmed itself. `limit` is for the installation.
    pub fn complete(&mut self, limit: Duration) -> Result<Figures> {
        self.wait_for("installed", limit)?;
        let install = self.started.elapsed();
        match self.put {
            Some(Put::Disc) => self.vm.eject_cd()?,
            Some(Put::Stick) => self.vm.unplug_stick()?,
            None => {}
        }
        let again = Instant::now();
        self.wait_for("confirmed", Duration::from_secs(30 * 60))?;
        Ok(Figures { install, confirm: again.elapsed() })
    }

    /// Shuts the installed system down in order, so that its disk can be judged.
    /// Gives back the site, which goes on.
    pub fn shut_down(mut self) -> Result<Site> {
        self.vm.switch_off(Duration::from_secs(600))?;
        Ok(self.site)
    }
}

/// A machine with one blank disk that reaches the host's services.
pub fn machine_with_disk(firmware: Firmware, dir: &Path, gibibytes: u64) -> Result<(Machine, PathBuf)> {
    let disk = crate::vm::blank_disk(&dir.join("disk.img"), gibibytes << 30)?;
    let mut machine = Machine::new(firmware);
    machine.disks = vec![disk.clone()];
    Ok((machine, disk))
}

/// A site for virtual machines with the profile of a small server.
pub fn site_for_machines(mirror: &Mirror, dir: &Path) -> Result<Site> {
    let mut site = Site::new(dir, HOST, &with_password(&small_server(mirror, HOST)))?;
    site.start()?;
    Ok(site)
}
