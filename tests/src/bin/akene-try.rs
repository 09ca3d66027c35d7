//! `akene-try`: shows the whole way on this machine. Started by `scripts/try`.
//!
//! Builds an image of this machine's own distribution, starts a site on loopback, installs a virtual
//! machine with a blank disk from it while the terminal shows its serial console, starts the installed
//! system, and ends with what the server knows. With `--boot` it starts the machine it installed before.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::journey::{self, Journey, Put};
use akene_tests::mirror::{Mirror, cache_dir};
use akene_tests::site::{Site, USER, small_server};
use akene_tests::vm::{Accelerator, Firmware, HOST};
use anyhow::{Context, Result, bail};

/// Password of the trial machine's user. The machine is reachable from nowhere but this terminal.
const PASSWORD: &str = "akene";

/// Somebody watches, and may end it; other work on the computer may make it slow.
const PATIENCE: Duration = Duration::from_secs(3 * 3600);

const USAGE: &str = "usage: scripts/try [--firmware bios|uefi|secure-boot] [--memory MIB] | --boot\n\
    --boot starts the machine of the last try again; Ctrl-A X switches it off";

struct Wish {
    firmware: Firmware,
    memory: u32,
    boot: bool,
}

fn wish() -> Result<Option<Wish>> {
    let mut wish = Wish { firmware: Firmware::Bios, memory: 1024, boot: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--boot" => wish.boot = true,
            "--firmware" => {
                wish.firmware = match words.next().as_deref() {
                    Some("bios") => Firmware::Bios,
                    Some("uefi") => Firmware::Uefi,
                    Some("secure-boot") => Firmware::SecureBoot,
                    _ => bail!("{USAGE}"),
                }
            }
            "--memory" => {
                wish.memory = words.next().and_then(|w| w.parse().ok()).with_context(|| USAGE.to_owned())?;
            }
            _ => bail!("`{word}` is not known\n{USAGE}"),
        }
    }
    Ok(Some(wish))
}

fn main() -> Result<()> {
    let Some(wish) = wish()? else {
        println!("{USAGE}");
        return Ok(());
    };
    let dir = cache_dir()?.join("try");
    if wish.boot {
        return boot_again(&dir);
    }
    if dir.exists() {
        std::fs::remove_dir_all(&dir)
            .with_context(|| format!("removing the last try in {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;

    let started = Instant::now();
    let step = |what: &str| println!("\n==> [{:>4} s] {what}", started.elapsed().as_secs());
    let mirror = Mirror::start()?;
    step(&format!("building an image of {} {}", mirror.host.distribution, mirror.host.suite));
    let built = journey::build_image(&mirror, &dir.join("image"))?;
    let accelerator = Accelerator::find(&built.kernel());
    match accelerator {
        Accelerator::Kvm => step("a guest boots under KVM here: the rest is quick"),
        Accelerator::Tcg => step("no guest boots under KVM here: the processor is translated, be patient"),
    }

    step("making a site and starting its server on loopback");
    let hash = SystemRunner.run(&Cmd::new("openssl").args(["passwd", "-6", PASSWORD]))?.text();
    let user = format!("username = \"{USER}\"");
    let profile = small_server(&mirror, HOST).replace(&user, &format!("{user}\npassword = \"{hash}\""));
    let mut site = Site::new(&dir, HOST, &profile)?;
    site.start()?;

    step("switching a machine with a blank disk on, with the disc in its drive");
    let (mut machine, disk) = journey::machine_with_disk(wish.firmware, &dir, 8)?;
    machine.memory = wish.memory;
    machine.shown = true;
    let mut journey = Journey::begin(site, &built.iso(), Put::Disc, machine, &dir)?;
    let figures = journey.complete(PATIENCE)?;

    let machines = journey.site.machines()?;
    let asset = machines.first().and_then(|m| m["asset"].as_str()).context("the server lists no machine")?;
    let view = format!("{}\n\n{}", journey.site.overview()?, journey.site.show(asset)?);
    step("the installed system has confirmed itself; switching it off in order");
    journey.shut_down()?;

    step("what the server knows");
    println!("{view}");
    println!(
        "\nInstalled in {} s, confirmed {} s after its restart, under {accelerator:?}.\n\
         Every process this started has ended. The machine's disk is {}.\n\
         Start it again with `scripts/try --boot` and log in as {USER}, password {PASSWORD}.",
        figures.install.as_secs(),
        figures.confirm.as_secs(),
        disk.display()
    );
    Ok(())
}

/// Becomes QEMU with the machine's console on this terminal.
#[expect(clippy::disallowed_methods, reason = "this program turns into QEMU, it does not start it")]
fn boot_again(dir: &Path) -> Result<()> {
    let disk: PathBuf = dir.join("disk.img");
    if !disk.exists() {
        bail!("there is no machine to start yet: run scripts/try first");
    }
    println!("Log in as {USER}, password {PASSWORD}. Ctrl-A X switches the machine off.");
    let accelerator = match Accelerator::find(&dir.join("image/netboot/vmlinuz")) {
        Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
        Accelerator::Tcg => ["-accel", "tcg", "-cpu", "max"],
    };
    let error = std::process::Command::new("qemu-system-x86_64")
        .args(accelerator)
        .args(["-machine", "q35", "-m", "1024", "-nographic", "-nic", "user,model=virtio-net-pci"])
        .arg("-drive")
        .arg(format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()))
        .exec();
    Err(error).context("starting QEMU")
}
