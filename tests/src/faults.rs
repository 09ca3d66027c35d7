//! A machine and somebody else's network with a mirror in it, for tests of what goes wrong on the way.
//!
//! Two network namespaces with a cable between them (a `veth` pair); the mirror listens in one, the installer runs in
//! the other. The line can be made slow (`tbf`), lose packets (netfilter's `statistic`) and be pulled out. The mirror
//! has a distribution of a dozen empty packages under the names an installation asks for: enough for everything up
//! to the moment a disk is written to, in a second.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::http::{Answer, Server};
use crate::repository::{BASE, Key, Says, Site};

/// Packages every installation asks for; the kernel's is named in [`Line::profile`].
const ASKED: &[&str] = &[
    "systemd-sysv",
    "udev",
    "kmod",
    "iproute2",
    "initramfs-tools",
    "dbus",
    "ca-certificates",
    "tzdata",
    "e2fsprogs",
    "dosfstools",
    "grub-pc",
    "grub-efi-amd64-bin",
    "lvm2",
    "linux-image-tiny",
];

/// The mirror's side of the cable.
const MIRROR: Ipv4Addr = Ipv4Addr::new(10, 199, 0, 1);

/// A network with a mirror, and a machine beside it. They end with the test.
pub struct Line {
    machine: String,
    network: String,
    card: String,
    /// The first mirror, and a second of the same packages.
    pub mirrors: [Server; 2],
    key: String,
}

/// What the mirrors have.
pub struct Tiny {
    /// The archive, below `main`.
    pub site: Site,
    /// Who signs it.
    pub key: Key,
}

impl Tiny {
    /// Makes it, with a package `big` of so many bytes that do not compress. `None`, said aloud, where tools are
    /// missing.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn new(big: usize) -> Option<Tiny> {
        let (site, key) = (Site::new()?, Key::new("ed25519"));
        let mut noise = vec![0; big];
        fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut noise)).unwrap();
        fs::create_dir_all(site.path("main/pool")).unwrap();
        let control = "Package: big\nVersion: 1\nArchitecture: all\n";
        crate::deb::make(&site.path("main/pool"), control, &[("usr/share/big", noise)]).unwrap();
        let controls: Vec<String> = ASKED
            .iter()
            .map(|name| format!("Package: {name}\nVersion: 1\nArchitecture: all\n"))
            .chain(BASE.iter().map(|text| (*text).to_owned()))
            .collect();
        site.packages("main", &controls.iter().map(String::as_str).collect::<Vec<_>>());
        site.sign("main", &key, &Says::default(), &[]);
        Some(Tiny { site, key })
    }

    /// A mirror of it on this computer.
    pub fn mirror(&self) -> Result<Server> {
        Server::start(mirror(self.site.dir.path()))
    }

    /// Its release, signed, as it would be had it said this.
    pub fn release(&self, says: &Says) -> Vec<u8> {
        self.key.clearsigned(&self.site.release("main", says), &[])
    }
}

/// A profile that installs from such mirrors, with more below `[apt]`.
pub fn profile<'m>(key: &str, mirrors: impl Iterator<Item = &'m Server>) -> String {
    let urls: Vec<String> = mirrors.map(|m| format!("\"{}/main\"", m.url())).collect();
    format!(
        "packages = [\"big\"]\n[kernel]\npackage = \"linux-image-tiny\"\n[apt]\ndistribution = \"debian\"\n\
         suite = \"stable\"\nmirrors = [{}]\ncomponents = [\"main\"]\npockets = []\nkey = '''\n{key}'''\n",
        urls.join(", "),
    )
}

/// A mirror of what lies in a directory.
fn mirror(root: &Path) -> impl Fn(&str) -> Answer + Send + Sync + 'static {
    let root = root.to_owned();
    move |path| {
        let file = root.join(path.trim_start_matches('/'));
        if file.is_file() { Answer::File(file) } else { Answer::Missing }
    }
}

impl Line {
    /// Makes it; `None`, said aloud, where that is impossible.
    pub fn new(name: &str, tiny: &Tiny) -> Option<Line> {
        let unique = std::process::id();
        let (machine, network) = (format!("fm{unique}{name}"), format!("fn{unique}{name}"));
        let card = format!("f{}{name}", unique % 100_000);
        for namespace in [&machine, &network] {
            if let Err(error) = SystemRunner.run(&Cmd::new("ip").args(["netns", "add", namespace])) {
                eprintln!("SKIPPED {name}: network namespaces cannot be made here: {error:#}");
                return None;
            }
        }
        let of = |namespace: &str, words: &str| {
            run(&format!("ip -n {namespace} {words}"));
        };
        of(&machine, &format!("link add {card} type veth peer name {card} netns {network}"));
        of(&machine, &format!("addr add 10.199.0.2/24 dev {card}"));
        of(&network, &format!("addr add {MIRROR}/24 dev {card}"));
        for namespace in [&machine, &network] {
            of(namespace, &format!("link set {card} up"));
            of(namespace, "link set lo up");
        }
        let mirrors =
            [serve(&network, tiny.site.dir.path()), serve(&network, tiny.site.dir.path())].map(Result::ok);
        let [Some(first), Some(second)] = mirrors else {
            eprintln!("SKIPPED {name}: nothing can listen in a network namespace here");
            return None;
        };
        Some(Line { machine, network, card, mirrors: [first, second], key: tiny.key.armoured() })
    }

    /// A profile that installs from the first `mirrors` mirrors, with more below `[apt]`.
    pub fn profile(&self, mirrors: usize) -> String {
        profile(&self.key, self.mirrors.iter().take(mirrors))
    }

    /// What goes before a command that is to run on the machine.
    pub fn on_machine(&self) -> Vec<String> {
        ["nsenter".to_owned(), format!("--net=/run/netns/{}", self.machine)].into()
    }

    /// No more faults on either mirror, and the line as it was at first.
    pub fn mend(&self) {
        self.mirrors.iter().for_each(Server::mend);
        for words in ["tc qdisc del dev CARD root", "iptables -F"] {
            for namespace in [&self.machine, &self.network] {
                // There may have been nothing to take away.
                attempt(&format!("ip netns exec {namespace} {}", words.replace("CARD", &self.card)));
            }
        }
        self.plug(true);
    }

    /// Loses one of so many packets, each way. False, said aloud, where the kernel cannot.
    pub fn lose(&self, one_in: u32) -> bool {
        let probability = 1.0 / f64::from(one_in);
        let rule =
            format!("iptables -A INPUT -m statistic --mode random --probability {probability} -j DROP");
        let made = [&self.machine, &self.network]
            .iter()
            .all(|namespace| attempt(&format!("ip netns exec {namespace} {rule}")));
        if !made {
            eprintln!("SKIPPED: this kernel cannot lose packets on purpose");
        }
        made
    }

    /// Lets so many kilobits a second through to the machine. False, said aloud, where the kernel cannot.
    pub fn slow(&self, kilobits: u32) -> bool {
        let queue =
            format!("tc qdisc add dev {} root tbf rate {kilobits}kbit burst 4k latency 400ms", self.card);
        let made = attempt(&format!("ip netns exec {} {queue}", self.network));
        if !made {
            eprintln!("SKIPPED: this kernel cannot slow a line down");
        }
        made
    }

    /// Pulls the cable out, or plugs it in.
    pub fn plug(&self, in_: bool) {
        let state = if in_ { "up" } else { "down" };
        run(&format!("ip -n {} link set {} {state}", self.network, self.card));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for namespace in [&self.machine, &self.network] {
            // It may never have been made.
            attempt(&format!("ip netns del {namespace}"));
        }
    }
}

/// A mirror of what lies in `root`, which listens in a namespace.
fn serve(namespace: &str, root: &Path) -> Result<Server> {
    let file = fs::File::open(format!("/run/netns/{namespace}")).context("opening a network namespace")?;
    // A socket stays in the namespace it was made in; the thread that went there ends.
    let listen = move || -> Result<TcpListener> {
        setns(&file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
        TcpListener::bind((MIRROR, 0)).context("listening in a network namespace")
    };
    let listener =
        std::thread::spawn(listen).join().unwrap_or_else(|_| anyhow::bail!("listening panicked"))?;
    Server::on(listener, mirror(root))
}

fn attempt(words: &str) -> bool {
    let mut words = words.split(' ');
    let program = words.next().unwrap_or_default();
    SystemRunner.run(&Cmd::new(program).args(words)).is_ok()
}

fn run(words: &str) {
    assert!(attempt(words), "{words}");
}

/// A disk somebody used before, as a file: a partition with a system and one with photographs.
pub fn used_disk(dir: &Path) -> PathBuf {
    let disk = crate::vm::blank_disk(&dir.join("disk.img"), 5 << 30).unwrap();
    let script = "label: gpt\n,1GiB,L\n,,L\n";
    SystemRunner.run(&Cmd::new("sfdisk").arg("--quiet").arg(&disk).stdin(script)).unwrap();
    for (label, offset, size) in [("system", "1048576", "1000m"), ("photos", "1074790400", "3000m")] {
        let mkfs = Cmd::new("mkfs.ext4").args(["-q", "-F", "-E", &format!("offset={offset}"), "-L", label]);
        SystemRunner.run(&mkfs.arg(&disk).arg(size)).unwrap();
    }
    disk
}

/// Fills the filesystem at `at`, as the mounts of a process are.
///
/// # Panics
/// When it cannot be filled.
pub fn fill(process: u32, at: &str) {
    let script = format!(
        "cd {at} && fallocate -l $(($(stat -f -c '%f * %S' .) * 98 / 100)) filler && cat /dev/zero > rest 2>/dev/null; \
         test -s filler"
    );
    let mount = format!("--mount=/proc/{process}/ns/mnt");
    SystemRunner.run(&Cmd::new("nsenter").args([mount.as_str(), "sh", "-c", &script])).unwrap();
}
