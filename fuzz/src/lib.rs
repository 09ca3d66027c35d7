//! Fuzz targets: every reader of bytes from outside, as plain functions.
//!
//! A target gets any bytes whatever. It must come back, soon, without a panic, and what it checks besides must
//! hold: what was read and is written again reads the same, and a package never reaches beyond its root.
//!
//! Two things drive them: libFuzzer (`libfuzzer/`, started by `scripts/fuzz`), which sees which branches an input
//! reaches, for hours if need be; and `tests/short.rs`, an ordinary test with the [`mutate`] loop over the same
//! seeds, which any machine runs in a minute. `seeds/TARGET/` holds small samples of what is really met, and every
//! input that once broke something.

pub mod answers;
pub mod documents;
pub mod machine;
pub mod media;
pub mod mutate;
pub mod network;
pub mod packages;
pub mod profiles;
mod said;

pub use said::Said;

/// One reader, or several of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and its directory below `seeds/`.
    pub name: &'static str,
    /// What it reads.
    pub what: &'static str,
    /// The target.
    pub run: fn(&[u8]),
}

/// All of them, the readers of what will run as root first.
pub const TARGETS: &[Target] = &[
    Target { name: "deb", what: "a whole package: ar, xz, zstd and gzip, both tars", run: packages::deb },
    Target {
        name: "tar",
        what: "the files of a package, unpacked into a root and laid into one",
        run: packages::tar,
    },
    Target { name: "control", what: "a package's control paragraph", run: packages::control },
    Target { name: "database", what: "what dpkg and packages write for each other", run: packages::database },
    Target { name: "apt", what: "what apt prints: addresses, complaints, progress", run: packages::apt },
    Target { name: "release", what: "a release file and the signatures in it", run: packages::release },
    Target {
        name: "answers",
        what: "what a server answers that is asked for a package",
        run: answers::answers,
    },
    Target { name: "lock", what: "a lock", run: documents::lock },
    Target {
        name: "signed",
        what: "a profile's signed lock, and the envelope around it",
        run: documents::signed,
    },
    Target {
        name: "letter",
        what: "reports of places without a network, sealed and opened, and media's manifests",
        run: documents::letter,
    },
    Target { name: "documents", what: "every other JSON document", run: documents::documents },
    Target { name: "profile", what: "profiles and classes, resolved for a machine", run: profiles::profile },
    Target { name: "inventory", what: "an inventory, judged and planned for", run: machine::inventory },
    Target { name: "table", what: "partition tables: GPT, MBR, logical partitions", run: machine::table },
    Target { name: "probe", what: "smartctl, LVM, blkid, udev, EDID, efibootmgr", run: machine::probe },
    Target {
        name: "network",
        what: "DHCP, time servers, router advertisements, `ip`, headers, resolv.conf",
        run: network::network,
    },
    Target {
        name: "media",
        what: "ISO images, stamps, the kernel's command line, journals, spools",
        run: media::media,
    },
];

/// A directory in memory where there is one: targets make files by the million.
pub fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap_or_else(|e| panic!("making a directory for the targets: {e}"))
}
