//! The command line.

use std::path::PathBuf;

use akene_protocol::api::Consent;
use akene_protocol::envelope::PublicKey;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::stamp::{Source, Stamp, Tls};
use akene_protocol::{AssetNumber, Bytes, Language, Secret, Sha256};
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::run::native::{Onto, Request, Says};

/// Looks at a machine, plans its disks, installs it, and stays on it.
#[derive(Debug, Parser)]
#[command(name = "akene-agent", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what this machine is.
    Probe(ProbeArgs),
    /// Show what would be done to the disks; change nothing.
    Plan(Box<PlanArgs>),
    /// Install into a disk image, or onto a disk. Without --yes, only show what would be done.
    Install(Box<InstallArgs>),
    /// The service on an installed system: tell the server that it runs, then carry out its orders.
    Resident(ResidentArgs),
    /// Put off what was announced on this computer, if that is permitted. Everybody may.
    Postpone(PostponeArgs),
    /// Look at disks, save files, repair: a menu, or one of its choices.
    Rescue(crate::rescue::cmd::RescueArgs),
    /// Show the questions a technician with a stick is asked, on this terminal; change nothing.
    Technician(Box<TechnicianArgs>),
    /// Called by the DHCP client of the live system.
    #[command(hide = true)]
    DhcpHook {
        /// What the client does.
        action: String,
    },
    /// Show the version.
    Version,
}

/// `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The inventory as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// List this device too, although its kind is not listed (a loop device).
    #[arg(long, value_name = "DEVICE")]
    pub also: Vec<PathBuf>,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A saved inventory instead of this machine.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// The profile: TOML, a bundle or a signed profile.
    #[arg(long, value_name = "FILE")]
    pub profile: PathBuf,
    /// The key a signed profile must be signed with.
    #[arg(long, value_name = "KEY")]
    pub site_key: Option<PublicKey>,
    /// The plan as JSON.
    #[arg(long)]
    pub json: bool,
    /// Say for each volume where it lies and why, and what the next best layout lost by.
    #[arg(long, conflicts_with = "json")]
    pub explain: bool,
    /// Also draw the disks before and after into this file, as SVG; where nothing can be planned, as they are.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Also every entry of each table and every command that would be run, in order.
    #[arg(long, conflicts_with = "json")]
    pub steps: bool,
    /// How much may be destroyed.
    #[arg(long, value_enum, default_value = "wipe")]
    pub consent: ConsentArg,
}

/// How much may be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConsentArg {
    /// Only blank disks are used.
    Blank,
    /// What is on the disks that are used may be lost.
    Wipe,
    /// The same, and an old system may be gone before all packages are there.
    Streamed,
}

impl From<ConsentArg> for Consent {
    fn from(arg: ConsentArg) -> Consent {
        match arg {
            ConsentArg::Blank => Consent::Blank,
            ConsentArg::Wipe => Consent::Wipe,
            ConsentArg::Streamed => Consent::Streamed,
        }
    }
}

/// Firmware of the machine a disk is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum FirmwareArg {
    Bios,
    Uefi64,
    Uefi32,
}

impl From<FirmwareArg> for FirmwareKind {
    fn from(arg: FirmwareArg) -> FirmwareKind {
        match arg {
            FirmwareArg::Bios => FirmwareKind::Bios,
            FirmwareArg::Uefi64 => FirmwareKind::Uefi64,
            FirmwareArg::Uefi32 => FirmwareKind::Uefi32,
        }
    }
}

/// `install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Install into this disk image; it is made if it does not exist.
    #[arg(long, value_name = "FILE", conflicts_with = "disk", required_unless_present = "disk")]
    pub target_image: Option<PathBuf>,
    /// Size of a new disk image.
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Bytes>,
    /// Logical sector size of the disk image.
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    pub sector_size: u32,
    /// Install onto this disk of this machine.
    #[arg(long, value_name = "DEVICE")]
    pub disk: Option<PathBuf>,

    /// The profile: TOML, a bundle or a signed profile. Nobody else is asked.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["stamp", "server"])]
    pub profile: Option<PathBuf>,
    /// Go on with the installation that broke off on this disk, with what lies there: give the --stamp it was made with, or
    /// the --site-key.
    #[arg(long, conflicts_with_all = ["profile", "server"])]
    pub resume: bool,
    /// The profile's signed lock (`akene-server lock` makes it): exactly its packages are installed.
    #[arg(long, value_name = "FILE", requires = "profile", requires = "site_key")]
    pub lock: Option<PathBuf>,
    /// A stamp, as `akene-server init` writes it.
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    pub stamp: Option<PathBuf>,
    /// Ask this server.
    #[arg(long, value_name = "URL", requires = "token", requires = "site_key")]
    pub server: Option<String>,
    /// The only authority (PEM) that may have issued the server's certificate.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// SHA-256 of a public key that must be in the server's chain.
    #[arg(long, value_name = "SHA256")]
    pub pin: Vec<Sha256>,
    /// A file with the enrolment token.
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// The key profiles must be signed with.
    #[arg(long, value_name = "KEY")]
    pub site_key: Option<PublicKey>,
    /// Profile to ask the server for, instead of the one its rules choose.
    #[arg(long, value_name = "NAME")]
    pub ask_for: Option<String>,

    /// How much may be destroyed. A server's permission counts instead where a server is asked.
    #[arg(long, value_enum, default_value = "blank")]
    pub consent: ConsentArg,
    /// Really do it.
    #[arg(long)]
    pub yes: bool,
    /// Only show what would be done; this is the default.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Events as JSON lines on standard output.
    #[arg(long)]
    pub json: bool,
    /// A saved inventory of the machine the disk is meant for; its disks are not used.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Firmware of the machine the disk is meant for.
    #[arg(long, value_enum)]
    pub firmware: Option<FirmwareArg>,
    /// Proxy for HTTP and HTTPS.
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// Files of a live image (`init`, `akene/`), to be put on the disk as the installer.
    #[arg(long, value_name = "DIR")]
    pub installer: Option<PathBuf>,
    /// A medium that brings everything, as `akene-image offline` makes it: a disk image, a device, or the directory it is mounted
    /// at. Nobody is asked over a network.
    #[arg(long, value_name = "PATH", requires = "stamp")]
    pub medium: Option<PathBuf>,
    /// Keep packages here from one run to the next.
    #[arg(long, value_name = "DIR")]
    pub packages: Option<PathBuf>,
    /// Write the log here.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// A console of the installed system besides the screen: `ttyS0,115200n8`.
    #[arg(long, value_name = "CONSOLE")]
    pub console: Vec<String>,
}

/// `technician`.
#[derive(Debug, Args)]
pub struct TechnicianArgs {
    /// A profile to choose from: TOML, a bundle or a signed profile.
    #[arg(long, value_name = "FILE", required = true)]
    pub profile: Vec<PathBuf>,
    /// The key signed profiles must be signed with.
    #[arg(long, value_name = "KEY")]
    pub site_key: Option<PublicKey>,
    /// An association to choose from.
    #[arg(long, value_name = "NAME")]
    pub association: Vec<String>,
    /// The number the machine has already.
    #[arg(long, value_name = "NUMBER")]
    pub known: Option<AssetNumber>,
    /// A saved inventory instead of this machine.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// How much the medium permits to destroy.
    #[arg(long, value_enum, default_value = "wipe")]
    pub consent: ConsentArg,
    /// The language at first: en or fr.
    #[arg(long, value_name = "LANGUAGE", default_value = "en")]
    pub language: Language,
    /// As a serial line shows it: ASCII.
    #[arg(long)]
    pub serial: bool,
}

/// `resident`.
#[derive(Debug, Args)]
pub struct ResidentArgs {
    /// Root of the installed system.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Return when the server knows, with an error when it cannot be told.
    #[arg(long)]
    pub once: bool,
    /// A saved inventory instead of this machine.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
}

/// `postpone`.
#[derive(Debug, Args)]
pub struct PostponeArgs {
    /// Root of the installed system.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

impl InstallArgs {
    /// What is asked for.
    ///
    /// # Errors
    /// Files that cannot be read, settings that do not go together.
    pub fn request(&self) -> Result<Request> {
        let onto = match (&self.target_image, &self.disk) {
            (Some(file), _) => Onto::Image { file: file.clone(), size: self.size, sector: self.sector_size },
            (None, Some(disk)) => Onto::Disk(disk.clone()),
            (None, None) => bail!("give --target-image or --disk"),
        };
        Ok(Request {
            onto,
            says: self.says()?,
            profile: self.ask_for.clone(),
            consent: self.consent.into(),
            yes: self.yes && !self.dry_run,
            json: self.json,
            inventory: self.inventory.clone(),
            firmware: self.firmware.map(Into::into),
            proxy: self.proxy.clone(),
            installer: self.installer.clone(),
            medium: self.medium.clone(),
            packages: self.packages.clone(),
            log: self.log.clone(),
            consoles: self.console.clone(),
            patience: Default::default(),
        })
    }

    fn says(&self) -> Result<Says> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
        };
        if let Some(path) = &self.profile {
            let (path, lock) = (path.clone(), self.lock.clone());
            return Ok(Says::File { path, key: self.site_key.map(Box::new), lock });
        }
        if let Some(path) = &self.stamp {
            let stamp: Stamp = serde_json::from_str(&read(path)?)
                .with_context(|| format!("reading the stamp {}", path.display()))?;
            return Ok(match self.resume {
                true => Says::Begun { key: Box::new(stamp.site_key), stamp: Some(Box::new(stamp)) },
                false => Says::Site(Box::new(stamp)),
            });
        }
        if self.resume {
            let key = self.site_key.context("give --stamp or --site-key with --resume")?;
            return Ok(Says::Begun { key: Box::new(key), stamp: None });
        }
        let (Some(url), Some(token), Some(site_key)) = (&self.server, &self.token, self.site_key) else {
            bail!("give --profile, --stamp, or --server with --token and --site-key")
        };
        let ca = self.ca.as_ref().map(read).transpose()?;
        let source = Source::Server {
            url: url.clone(),
            tls: Tls { ca, pins: self.pin.clone() },
            token: Some(Secret::new(read(token)?.trim())),
        };
        let stamp = Stamp { proxy: self.proxy.clone(), ..Stamp::new("", source, site_key) };
        Ok(Says::Site(Box::new(stamp)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn writing_needs_yes() {
        let parse = |extra: &[&str]| {
            let base = [
                "akene-agent",
                "install",
                "--target-image",
                "d.img",
                "--size",
                "8GiB",
                "--profile",
                "p.toml",
            ];
            let Command::Install(args) = Cli::parse_from(base.iter().chain(extra)).command else { panic!() };
            args.request().unwrap().yes
        };
        assert!(!parse(&[]));
        assert!(!parse(&["--dry-run"]));
        assert!(parse(&["--yes"]));
    }
}
