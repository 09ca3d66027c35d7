//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use akene_protocol::OrderId;
use akene_protocol::medium::MediumId;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Serves the profiles of a site, takes in what machines report, and shows the fleet.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a site directory: profiles, keys, certificate, token and stamp
    Init(Box<Init>),
    /// Serve a site
    Serve {
        /// The site directory
        dir: PathBuf,
        /// Address to listen on, instead of what site.toml says
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Check or export profiles
    #[command(subcommand)]
    Profile(Profile),
    /// Look after the package files this server gives out by hash
    #[command(subcommand)]
    Pool(Pool),
    /// Pin the exact packages of profiles, for all their machines, and sign them
    Lock(Lock),
    /// Make, list or revoke the tokens that media enrol with
    #[command(subcommand)]
    Token(Token),
    /// Look after the server's certificate
    #[command(subcommand)]
    Certificate(Certificate),
    /// List the machines
    Machines {
        /// The site directory
        dir: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one machine: its state, runs, notes and inventory
    Show {
        #[command(flatten)]
        machine: Machine,
        /// As JSON, with events, plan and inventory
        #[arg(long)]
        json: bool,
    },
    /// Print the events of a machine's newest run, one JSON document a line
    Events {
        #[command(flatten)]
        machine: Machine,
    },
    /// Permit one installation of a machine that may not install by itself
    Allow {
        #[command(flatten)]
        machine: Machine,
        /// What is on the disks may be destroyed. Kept partitions stay kept.
        #[arg(long)]
        wipe: bool,
        /// Where the packages fit nowhere else, the old system may be gone before they are fetched. Should the
        /// download then break off, the computer has no system until its installer has finished.
        #[arg(long, requires = "wipe")]
        streamed: bool,
    },
    /// Give an installed machine an order: reinstall, reboot, inventory or logs
    Order(Box<Order>),
    /// List orders, or take one back
    #[command(subcommand)]
    Orders(Orders),
    /// Decide that a machine is not the one it was taken for
    Different {
        #[command(flatten)]
        machine: Machine,
    },
    /// Decide about machines that wait: installed without a network, from a medium that does not count
    #[command(subcommand)]
    Machine(Newcomers),
    /// List the media that install without a network, or declare one lost
    #[command(subcommand)]
    Media(Media),
}

#[derive(Debug, Subcommand)]
pub enum Newcomers {
    /// List them
    Waiting {
        /// The site directory
        dir: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let one join, with what it has reported
    Admit {
        #[command(flatten)]
        machine: Machine,
    },
    /// Let one not join; what it reports is refused from now on
    Drop {
        #[command(flatten)]
        machine: Machine,
    },
}

#[derive(Debug, Subcommand)]
pub enum Media {
    /// List them, the oldest first
    List {
        /// The site directory
        dir: PathBuf,
    },
    /// Machines that report from it wait for a person's word from now on
    Lost {
        /// The site directory
        dir: PathBuf,
        /// Its id, as `media list` shows it
        id: MediumId,
    },
    /// It was found, and counts again
    Found {
        /// The site directory
        dir: PathBuf,
        /// Its id, as `media list` shows it
        id: MediumId,
    },
}

#[derive(Debug, Args)]
pub struct Lock {
    /// The site directory
    pub dir: PathBuf,
    /// The profiles [default: all]
    pub profiles: Vec<String>,
    /// Write nothing; fail when a lock is missing or not what the archives would give now
    #[arg(long)]
    pub check: bool,
    /// Proxy for reading the archives
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
}

#[derive(Debug, Args)]
pub struct Machine {
    /// The site directory
    pub dir: PathBuf,
    /// The machine, by asset number (1042-9) or id
    pub machine: String,
}

#[derive(Debug, Args)]
pub struct Order {
    #[command(flatten)]
    pub machine: Machine,
    #[command(subcommand)]
    pub task: Task,
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Install it anew, by itself, with nobody there. People's files stay
    Reinstall {
        /// The profile [default: the one the site's rules choose]
        #[arg(long, value_name = "NAME")]
        profile: Option<String>,
        /// People's files go, too
        #[arg(long)]
        wipe: bool,
        /// Where the packages fit nowhere else, the old system may be gone before they are fetched
        #[arg(long)]
        streamed: bool,
        #[command(flatten)]
        timing: Timing,
        #[command(flatten)]
        life: Life,
    },
    /// Restart it
    Reboot {
        #[command(flatten)]
        timing: Timing,
        #[command(flatten)]
        life: Life,
    },
    /// Look at it anew and send what it is
    Inventory {
        #[command(flatten)]
        life: Life,
    },
    /// Send the logs of the last day and of its installation
    Logs {
        #[command(flatten)]
        life: Life,
    },
}

#[derive(Debug, Args)]
pub struct Timing {
    /// Not before this time: 2026-12-01T22:00:00Z, or in this server's time whatever `date -d` understands:
    /// "tomorrow 02:00"
    #[arg(long, value_name = "TIME", conflicts_with = "when_idle")]
    pub at: Option<String>,
    /// When nobody uses it
    #[arg(long)]
    pub when_idle: bool,
    /// How often people may postpone it
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    pub postpone: u32,
    /// How long each time: 90s, 30m, 2h
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = duration)]
    pub postpone_for: u32,
    /// How long people who are logged in are told before
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub warn: u32,
}

#[derive(Debug, Args)]
pub struct Life {
    /// How long it counts, from when it may begin: 12h, 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    pub expires: u32,
    /// Cancel an open order of the same kind for it
    #[arg(long)]
    pub replace: bool,
}

/// `90s`, `30m`, `2h`, `7d` as seconds.
fn duration(text: &str) -> Result<u32, String> {
    let complain = || format!("`{text}` is not a time; write 90s, 30m, 2h or 7d");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(complain)?);
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(complain()),
    };
    number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(complain)
}

#[derive(Debug, Subcommand)]
pub enum Orders {
    /// List them, newest first
    List {
        /// The site directory
        dir: PathBuf,
        /// Only those of this machine
        machine: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take one back
    Cancel {
        /// The site directory
        dir: PathBuf,
        /// Its id, as `orders list` shows it
        id: OrderId,
    },
}

#[derive(Debug, Args)]
pub struct Init {
    /// The site directory to make
    pub dir: PathBuf,
    /// Where machines will find the server: https://HOST[:PORT]
    #[arg(long)]
    pub url: String,
    /// Name of the site, shown on every screen [default: the host]
    #[arg(long)]
    pub name: Option<String>,
    /// What an installation may destroy on a machine that was never installed from here
    #[arg(long, value_enum, default_value = "blank")]
    pub new_machines: NewMachines,
    /// A certificate chain (PEM) to use instead of an own authority's; keep its key when you renew it
    #[arg(long, requires = "key", value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// The key (PEM) of that certificate
    #[arg(long, requires = "certificate", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The authority (PEM) of that certificate, if it is not a public one
    #[arg(long, requires = "certificate", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Distribution of the default profile
    #[arg(long, value_enum, default_value = "ubuntu")]
    pub distribution: Distribution,
    /// Its release, by code name [default: the newest long-term one]
    #[arg(long)]
    pub suite: Option<String>,
    /// Locale of the default profile
    #[arg(long, default_value = "en_US.UTF-8")]
    pub locale: String,
    /// Keyboard layout of the default profile
    #[arg(long, default_value = "us")]
    pub keyboard: String,
    /// Time zone of the default profile
    #[arg(long, default_value = "Etc/UTC")]
    pub timezone: String,
    /// First user of the default profile
    #[arg(long, default_value = "admin")]
    pub username: String,
    /// SSH public keys that open that account (a file such as ~/.ssh/id_ed25519.pub); may be repeated
    #[arg(long, value_name = "FILE")]
    pub authorized_keys: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum NewMachines {
    /// Nothing: each waits for `akene-server allow`
    None,
    /// Only disks on which nothing is recognised
    Blank,
    /// Everything on the disks the profile uses
    Wipe,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Distribution {
    Debian,
    Ubuntu,
}

#[derive(Debug, Subcommand)]
pub enum Profile {
    /// Check site.toml, all profiles and all classes, or one profile
    Check {
        /// The site directory
        dir: PathBuf,
        /// The profile
        name: Option<String>,
    },
    /// Write a profile with its classes as a signed file, for any web server or for a medium
    Export {
        /// The site directory
        dir: PathBuf,
        /// The profile
        name: String,
        /// Where to write it [default: standard output]
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Pool {
    /// Take package files in
    Add {
        /// The site directory
        dir: PathBuf,
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it once, or write a stamp that holds it
    New {
        /// The site directory
        dir: PathBuf,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
        /// Days it counts [default: until revoked]
        #[arg(long)]
        days: Option<u32>,
        /// Write a stamp with the new token to this file instead of printing the token
        #[arg(long, value_name = "FILE")]
        stamp: Option<PathBuf>,
    },
    /// List the tokens
    List {
        /// The site directory
        dir: PathBuf,
    },
    /// Make a token count no more
    Revoke {
        /// The site directory
        dir: PathBuf,
        /// Its id, as `token list` shows it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Certificate {
    /// Make a new certificate for the same key, so that media and machines need no change
    Renew {
        /// The site directory
        dir: PathBuf,
    },
}
