//! Virtual machines: QEMU, driven through its serial console and its control socket.
//!
//! A machine reaches the loopback services of the host at [`HOST`]. It ends when its [`Vm`] is dropped,
//! and with the thread that started it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Runner, Running, Streams, SystemRunner};
use anyhow::{Context, Result, bail, ensure};

use crate::console::Console;

/// The host's loopback as a machine sees it.
pub const HOST: &str = "10.0.2.2";

/// How long a key is held down.
const KEY_DOWN: Duration = Duration::from_millis(100);

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// A translator, ten to twenty times slower.
    Tcg,
}

static FOUND: OnceLock<Accelerator> = OnceLock::new();

impl Accelerator {
    /// What works here. A device node proves nothing, nor does a boot sector that runs: there are
    /// hosts on which a whole kernel hangs under KVM. So this kernel is really started, once, up to
    /// the point where it misses its root filesystem.
    pub fn find(kernel: &Path) -> Self {
        *FOUND.get_or_init(|| match boots_under_kvm(kernel) {
            Ok(true) => Accelerator::Kvm,
            _ => Accelerator::Tcg,
        })
    }

    /// What [`Accelerator::find`] found; translation where nobody looked.
    pub fn current() -> Self {
        FOUND.get().copied().unwrap_or(Accelerator::Tcg)
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // The least that a 64-bit computer can do, and a tenth less to translate than all that can be done (2 cores, QEMU 7.2).
            Accelerator::Tcg => ["-accel", "tcg", "-cpu", "qemu64"],
        }
    }

    /// A time limit for work that takes `tcg` where instructions are translated.
    pub fn scale(self, tcg: Duration) -> Duration {
        match self {
            Accelerator::Kvm => tcg / 4,
            Accelerator::Tcg => tcg,
        }
    }
}

fn boots_under_kvm(kernel: &Path) -> Result<bool> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let dir = tempfile::tempdir().context("making a directory for the trial")?;
    let errors = std::fs::File::create(dir.path().join("errors")).context("making the trial's log")?;
    let mut running = Cmd::new("qemu-system-x86_64")
        .args(Accelerator::Kvm.arguments())
        .args(["-machine", "q35", "-m", "512", "-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(["-no-reboot", "-append", "console=ttyS0 panic=-1", "-kernel"])
        .arg(kernel)
        .spawn(Streams::Piped { errors })?;
    let (input, output) = running.pipes()?;
    let mut console = Console::new(input, output, &dir.path().join("console"), false)?;
    Ok(console.expect("Unable to mount root fs", Duration::from_secs(20)).is_ok())
}

/// What starts the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// 64-bit UEFI.
    Uefi,
    /// 64-bit UEFI that starts only what Microsoft's keys lead to.
    SecureBoot,
    /// 32-bit UEFI under a 64-bit processor.
    Uefi32,
}

impl Firmware {
    /// (code, variables) as the distribution ships them.
    fn files(self) -> Option<(&'static str, &'static str)> {
        match self {
            Firmware::Bios => None,
            Firmware::Uefi => Some(("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")),
            Firmware::SecureBoot => Some(("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd")),
            Firmware::Uefi32 => Some(("OVMF32_CODE_4M.secboot.fd", "OVMF32_VARS_4M.fd")),
        }
    }
}

/// How the installation medium is attached.
#[derive(Clone, Debug)]
pub enum Medium {
    /// In a CD drive.
    Cd(PathBuf),
    /// As a USB stick whose switch forbids writing.
    Usb(PathBuf),
    /// As a USB stick.
    WritableUsb(PathBuf),
}

/// A machine to build.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Firmware.
    pub firmware: Firmware,
    /// MiB of memory.
    pub memory: u32,
    /// Disks, raw images, in order.
    pub disks: Vec<PathBuf>,
    /// Installation medium. The machine starts from it where it can.
    pub medium: Option<Medium>,
    /// A USB disk plugged in besides, raw image. It is not started from.
    pub external: Option<PathBuf>,
    /// Whether it has a network card.
    pub network: bool,
    /// What the clock of the machine says: `1980-01-01T00:00:00`. Default: the right time.
    pub clock: Option<String>,
    /// Kernel and initrd to start without firmware's help, with the command line.
    pub kernel: Option<(PathBuf, PathBuf, String)>,
    /// A port of this host's loopback that leads to the machine's SSH server.
    pub ssh: Option<u16>,
    /// The serial number by which disks and DMI name the machine.
    pub serial: String,
    /// Show the console on our standard output.
    pub shown: bool,
}

impl Machine {
    /// An ordinary machine without disks.
    pub fn new(firmware: Firmware) -> Self {
        Machine {
            firmware,
            memory: 1024,
            disks: Vec::new(),
            medium: None,
            external: None,
            network: true,
            clock: None,
            kernel: None,
            ssh: None,
            serial: "AKT0001".into(),
            shown: false,
        }
    }

    /// Switches it on. Its variables, sockets and logs are kept in `dir`, so that the same machine can
    /// be switched on again.
    pub fn start(&self, dir: &Path) -> Result<Vm> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let accelerator = Accelerator::current();
        let control = dir.join("control");
        if control.exists() {
            std::fs::remove_file(&control).context("removing the control socket of an earlier run")?;
        }
        let mut cmd = Cmd::new("qemu-system-x86_64")
            .args(accelerator.arguments())
            .args(["-nodefaults", "-display", "none", "-vga", "std", "-boot", "menu=off"])
            .args(["-m", &self.memory.to_string(), "-serial", "stdio"])
            .args([
                "-smbios",
                &format!("type=1,manufacturer=Akene,product=Test machine,serial={}", self.serial),
            ])
            .args(["-device", "virtio-rng-pci", "-device", "qemu-xhci"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", control.display()));
        cmd = self.add_firmware(cmd, dir)?;
        cmd = match self.network {
            true => {
                cmd.args(["-netdev", &self.user_network(), "-device", "virtio-net-pci,netdev=net,romfile="])
            }
            // QEMU gives a machine a card of its own accord where it is not told what it has.
            false => cmd.args(["-nic", "none"]),
        };
        for (i, disk) in self.disks.iter().enumerate() {
            cmd = cmd
                .arg("-drive")
                .arg(format!(
                    "file={},format=raw,if=none,id=disk{i},cache=unsafe,discard=unmap",
                    disk.display()
                ))
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive=disk{i},serial={}-{i},bootindex={}", self.serial, i + 2));
        }
        cmd = match &self.medium {
            None => cmd,
            Some(Medium::Cd(iso)) => cmd
                .arg("-drive")
                .arg(format!("file={},format=raw,if=none,id=medium,media=cdrom,readonly=on", iso.display()))
                .args([
                    "-device",
                    "ahci,id=ahci",
                    "-device",
                    "ide-cd,bus=ahci.0,drive=medium,id=cd,bootindex=1",
                ]),
            Some(Medium::Usb(image)) => usb(cmd, image, ",readonly=on"),
            Some(Medium::WritableUsb(image)) => usb(cmd, image, ""),
        };
        if let Some(image) = &self.external {
            cmd = cmd
                .arg("-drive")
                .arg(format!("file={},format=raw,if=none,id=external", image.display()))
                .args(["-device", "usb-storage,drive=external,serial=AKT-EXTERNAL"]);
        }
        if let Some(clock) = &self.clock {
            cmd = cmd.args(["-rtc", &format!("base={clock}")]);
        }
        if let Some((kernel, initrd, line)) = &self.kernel {
            cmd = cmd.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", line]);
        }
        let errors = std::fs::File::create(dir.join("qemu.log")).context("making QEMU's log")?;
        let mut running = cmd.spawn(Streams::Piped { errors })?;
        let (input, output) = running.pipes()?;
        let log = dir.join("console.log");
        if log.exists() {
            std::fs::rename(&log, dir.join("console.earlier.log")).context("keeping the earlier console")?;
        }
        let console = Console::new(input, output, &log, self.shown)?;
        let control = Control::connect(&control, &mut running).map_err(|error| {
            let said = std::fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
            error.context(format!("starting `{cmd}`; QEMU said: {said}"))
        })?;
        Ok(Vm { console, accelerator, control, running, started: Instant::now() })
    }

    fn user_network(&self) -> String {
        let forward = self.ssh.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:22"));
        format!("user,id=net{}", forward.unwrap_or_default())
    }

    fn add_firmware(&self, cmd: Cmd, dir: &Path) -> Result<Cmd> {
        let Some((code, variables)) = self.firmware.files() else { return Ok(cmd.args(["-machine", "q35"])) };
        let shipped = Path::new("/usr/share/OVMF");
        let ours = dir.join(variables);
        if !ours.exists() {
            let from = shipped.join(variables);
            std::fs::copy(&from, &ours).with_context(|| {
                format!("copying {}: are the packages ovmf and ovmf-ia32 there?", from.display())
            })?;
        }
        let flash = |number: u8, file: &Path, more: &str| {
            format!("if=pflash,unit={number},format=raw,file={}{more}", file.display())
        };
        // Builds with Secure Boot guard their variables by system management mode.
        let machine = if self.firmware == Firmware::Uefi { "q35" } else { "q35,smm=on" };
        let cmd = cmd
            .args(["-machine", machine, "-drive", &flash(0, &shipped.join(code), ",readonly=on"), "-drive"])
            .arg(flash(1, &ours, ""));
        Ok(match self.firmware {
            Firmware::Uefi => cmd,
            _ => cmd.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]),
        })
    }
}

fn usb(cmd: Cmd, image: &Path, more: &str) -> Cmd {
    cmd.arg("-drive")
        .arg(format!("file={},format=raw,if=none,id=medium{more}", image.display()))
        .args(["-device", "usb-storage,drive=medium,id=stick,removable=on,bootindex=1"])
}

/// Makes an empty disk image.
pub fn blank_disk(path: &Path, bytes: u64) -> Result<PathBuf> {
    std::fs::File::create(path)
        .and_then(|file| file.set_len(bytes))
        .with_context(|| format!("making the disk {}", path.display()))?;
    Ok(path.to_owned())
}

/// A running machine.
pub struct Vm {
    /// Its serial console.
    pub console: Console,
    /// What it runs on.
    pub accelerator: Accelerator,
    /// When it was switched on.
    pub started: Instant,
    control: Control,
    running: Running,
}

impl Vm {
    /// Waits for words on the console; the limit is the one for translated instructions.
    pub fn expect(&mut self, word: &str, limit: Duration) -> Result<()> {
        self.console.expect(word, self.accelerator.scale(limit))
    }

    /// Waits for one of several words, as [`Vm::expect`].
    pub fn expect_any(&mut self, words: &[&str], limit: Duration) -> Result<usize> {
        self.console.expect_any(words, self.accelerator.scale(limit))
    }

    /// Opens the CD drive and takes the disc out, locked or not.
    pub fn eject_cd(&mut self) -> Result<()> {
        self.control.call(r#"{"execute":"eject","arguments":{"id":"cd","force":true}}"#)
    }

    /// Pulls the USB stick out.
    pub fn unplug_stick(&mut self) -> Result<()> {
        self.control.call(r#"{"execute":"device_del","arguments":{"id":"stick"}}"#)
    }

    /// Presses keys of its keyboard, one after the other, by the names QEMU has for their places (`QKeyCode`), which are those of an
    /// American keyboard. `shift-1`: with another key held down.
    pub fn press(&mut self, keys: &[&str]) -> Result<()> {
        for key in keys {
            let held: Vec<_> =
                key.split('-').map(|code| serde_json::json!({"type": "qcode", "data": code})).collect();
            let arguments = serde_json::json!({"keys": held, "hold-time": KEY_DOWN.as_millis() as u64});
            let request = serde_json::json!({"execute": "send-key", "arguments": arguments});
            self.control.call(&request.to_string())?;
            // One that is pressed while another is down counts as held with it.
            std::thread::sleep(2 * KEY_DOWN);
        }
        Ok(())
    }

    /// Presses the power button, for an orderly shutdown, and waits until the machine is off. A press
    /// that nobody listens to yet is lost: it is pressed again.
    pub fn switch_off(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + self.accelerator.scale(limit);
        loop {
            // A machine that is off already has no button any more.
            let pressed = self.control.call(r#"{"execute":"system_powerdown"}"#);
            if self.running.wait(Duration::from_secs(10))?.is_some() {
                return Ok(());
            }
            pressed?;
            ensure!(Instant::now() < deadline, "the machine is still on after {} s", limit.as_secs());
        }
    }

    /// Pulls the plug of a machine that will be switched on again. What it had not written is lost.
    pub fn cut_power(&mut self) -> Result<()> {
        // It may be gone before its answer has come.
        self.control.call(r#"{"execute":"quit"}"#).ok();
        let ended = self.running.wait(Duration::from_secs(60))?;
        ensure!(ended.is_some(), "QEMU still runs a minute after it was told to end");
        Ok(())
    }

    /// Pulls the plug. What the machine had not written is lost with it.
    pub fn pull_the_plug(self) {
        drop(self.running);
    }

    /// Whether it still runs.
    pub fn is_on(&mut self) -> bool {
        matches!(self.running.ended(), Ok(None))
    }
}

/// QEMU's control socket (QMP).
struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    fn connect(path: &Path, running: &mut Running) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let stream = loop {
            if let Some(status) = running.ended()? {
                bail!("QEMU ended at once ({status})");
            }
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                // QEMU makes the socket when it is ready; there is nothing else to wait for.
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error).context("connecting to QEMU's control socket"),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(120))).context("limiting the wait for QEMU")?;
        let mut control = Control { stream: BufReader::new(stream) };
        control.call(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(control)
    }

    fn call(&mut self, request: &str) -> Result<()> {
        let stream = self.stream.get_mut();
        stream
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("sending {request} to QEMU"))?;
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).context("reading QEMU's answer")? > 0, "QEMU has ended");
            let answer: serde_json::Value = serde_json::from_str(&line).context("reading QEMU's answer")?;
            // Events and the greeting come in between.
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {request}: {error}");
            }
        }
    }
}

/// Whether the programs a machine needs are here; the reason if not.
pub fn missing() -> Option<String> {
    let version = SystemRunner.run(&Cmd::new("qemu-system-x86_64").arg("--version"));
    version.err().map(|e| format!("{e:#}"))
}
