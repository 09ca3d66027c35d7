//! What the tests of offline media share: a site with a small archive, a live system in small, and other eyes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_image::offline::look::Offline;
use akene_image::offline::store::Store;
use akene_image::offline::update::{Updated, update};
use akene_image::offline::{Goal, Wishes, Workshop, make};
use akene_image::stamp;
use akene_protocol::lock::ProfileLock;
use akene_protocol::medium::Medium;
use akene_protocol::{Envelope, PublicKey};
use akene_server::site::init::{Options, init};
use akene_server::site::{Site, media};
use akene_tests::deb;
use akene_tests::disks::has;
use akene_tests::faults::Tiny;
use akene_tests::repository::Says;
use akene_tests::small_image::SmallImage;

/// What is always there besides the archive: a site with the profile `default`, and a live system in small.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub tiny: Tiny,
    pub site: Site,
    pub iso: PathBuf,
}

pub fn run(cmd: Cmd) -> String {
    SystemRunner.run(&cmd).unwrap_or_else(|e| panic!("{e:#}")).text()
}

/// An ISO whose boot records hold noise as code.
pub fn live_system(dir: &Path, name: &str, initrd: &[u8]) -> PathBuf {
    let files = vec![
        ("akene/vmlinuz", vec![7; 300_000]),
        ("akene/initrd.img", initrd.to_vec()),
        (stamp::SUMS, vec![]),
        ("boot/grub/bios.img", noise(40_000)),
    ];
    SmallImage { code: noise(432), files, ..SmallImage::default() }.write(dir, name)
}

pub fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    File::open("/dev/urandom").unwrap().read_exact_at(&mut noise, 0).unwrap();
    noise
}

impl Rig {
    pub fn new() -> Option<Rig> {
        let tools = ["xorriso", "sgdisk", "sfdisk", "mke2fs", "debugfs", "e2fsck", "blkid"];
        if let Some(missing) = tools.into_iter().find(|tool| !has(tool)) {
            eprintln!("SKIPPED: this test needs {missing}");
            return None;
        }
        let tiny = Tiny::new(3_000_000)?;
        let dir = tempfile::tempdir().unwrap();
        let options = Options { name: Some("Lannion".into()), ..Options::new("https://akene.example") };
        let site = init(&dir.path().join("site"), &options).unwrap();
        let rig = Rig { iso: live_system(dir.path(), "akene.iso", &noise(2_000_000)), dir, tiny, site };
        rig.profile("default", "big");
        let config = rig.site.dir().join("site.toml");
        let text = fs::read_to_string(&config).unwrap();
        let text =
            text.replace("default-profile", "associations = [\"Foyer\", \"Ty an Holl\"]\ndefault-profile");
        fs::write(config, text).unwrap();
        Some(rig)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn profile(&self, name: &str, packages: &str) {
        let text = format!(
            "packages = [\"{packages}\"]\n[kernel]\npackage = \"linux-image-tiny\"\n[apt]\ndistribution = \"debian\"\n\
             suite = \"stable\"\nmirrors = [\"{}\"]\ncomponents = [\"main\"]\npockets = []\nkey = '''\n{}'''\n",
            self.tiny.site.url("main"),
            self.tiny.key.armoured()
        );
        fs::write(self.site.dir().join(format!("profiles/{name}.toml")), text).unwrap();
    }

    /// Puts a package with so much in it into the archive.
    pub fn publish(&self, name: &str, version: u32, bytes: usize) {
        let control = format!("Package: {name}\nVersion: {version}\nArchitecture: all\n");
        let pool = self.tiny.site.path("main/pool");
        deb::make(&pool, &control, &[(&format!("usr/share/{name}"), noise(bytes))]).unwrap();
        self.tiny.site.packages("main", &[]);
        self.tiny.site.sign("main", &self.tiny.key, &Says::default(), &[]);
    }

    pub fn shop<T>(&self, work: impl FnOnce(&Workshop<'_>) -> T) -> T {
        let shop = Workshop {
            site: &self.site,
            runner: &SystemRunner,
            store: Store::open(&self.path("cache")).unwrap(),
            proxy: None,
            say: &|what| eprintln!("{what}"),
        };
        work(&shop)
    }

    pub fn make(&self, wishes: &Wishes, goal: &Goal) -> anyhow::Result<media::Registered> {
        self.shop(|shop| make(shop, wishes, &self.iso, goal))
    }

    /// A new stick of the profile `default`.
    pub fn stick(&self, name: &str) -> PathBuf {
        let goal = Goal::StickImage(self.path(name), None);
        self.make(&Wishes::default(), &goal).unwrap_or_else(|e| panic!("{e:#}"));
        self.path(name)
    }

    pub fn update(&self, stick: &Path, image: Option<&Path>) -> anyhow::Result<Updated> {
        self.shop(|shop| update(shop, &Wishes::default(), stick, image))
    }

    pub fn key(&self) -> PublicKey {
        PublicKey(self.site.key().unwrap().verifying_key())
    }

    pub fn lock(&self, profile: &str) -> ProfileLock {
        let text = self.site.signed_lock(profile).unwrap().unwrap();
        Envelope::parse(&text).unwrap().open(&self.key()).unwrap()
    }

    pub fn manifest(&self, stick: &Path) -> Medium {
        Offline::open(stick).unwrap().unwrap().manifest(&self.key()).unwrap()
    }

    pub fn verify(&self, stick: &Path) -> anyhow::Result<usize> {
        Offline::open(stick)?.expect("a medium").verify(&self.key())
    }

    /// Files of the archive's pool that were fetched since this was asked last.
    pub fn fetched(&self) -> Vec<String> {
        self.tiny.site.server.take_served().into_iter().filter(|path| path.ends_with(".deb")).collect()
    }
}

/// Where the data lies, as sfdisk sees it.
pub fn data(stick: &Path) -> (u64, u64) {
    let table: serde_json::Value =
        SystemRunner.run(&Cmd::new("sfdisk").arg("--json").arg(stick)).unwrap().json().unwrap();
    let all = table["partitiontable"]["partitions"].as_array().unwrap();
    let part = all.iter().find(|p| p["name"] == "AKENE_DATA").unwrap();
    (part["start"].as_u64().unwrap() * 512, part["size"].as_u64().unwrap() * 512)
}

/// The data partition's filesystem, as e2fsprogs names it.
pub fn ext4(stick: &Path) -> String {
    format!("{}?offset={}", stick.display(), data(stick).0)
}

pub fn debugfs(stick: &Path, command: &str) -> Vec<u8> {
    SystemRunner.run(&Cmd::new("debugfs").args(["-R", command]).arg(ext4(stick))).unwrap().stdout
}

pub fn inode(stick: &Path, path: &str) -> String {
    let said = String::from_utf8(debugfs(stick, &format!("stat {path}"))).unwrap();
    said.split_whitespace().nth(1).unwrap().to_owned()
}

/// What every stick must be, whoever looks.
pub fn is_sound(stick: &Path) {
    let said = run(Cmd::new("sgdisk").arg("-v").arg(stick));
    assert!(said.contains("No problems found"), "{said}");
    run(Cmd::new("e2fsck").args(["-fn", &ext4(stick)]));
    let (start, length) = data(stick);
    assert_eq!((start % (1 << 20), length % (1 << 20)), (0, 0));
    let probe = Cmd::new("blkid").args(["-p", "-s", "LABEL", "-o", "value"]);
    let data = probe.args(["-O", &start.to_string(), "-S", &length.to_string()]).arg(stick);
    assert_eq!(run(data), "AKENE_DATA");
    assert_eq!(run(Cmd::new("blkid").args(["-s", "LABEL", "-o", "value"]).arg(stick)), "AKENE");
}

/// Where these bytes are in a file, first: grep reads quicker than a test that was not optimised.
pub fn find(file: &Path, bytes: &[u8]) -> Option<u64> {
    let lines = if bytes.contains(&b'\n') { "-obUaPz" } else { "-obUaP" };
    let pattern: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let found = SystemRunner.run(&Cmd::new("grep").args([lines, "-m1", &pattern]).arg(file));
    let found = found.ok()?.stdout;
    String::from_utf8_lossy(&found).split(':').next()?.parse().ok()
}

/// Where a file whose content is this begins in an image: found by a piece of it that no other file has.
pub fn start_of(image: &Path, content: &[u8]) -> u64 {
    // What stands twice in it would be found at the wrong place.
    let tells = |at: &usize| {
        let part = &content[*at..at + 24];
        !part.contains(&b'\n') && content.windows(24).filter(|other| *other == part).count() == 1
    };
    let at = (content.len() / 2..content.len() - 24).find(tells).unwrap();
    find(image, &content[at..at + 24]).unwrap() - at as u64
}

pub fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Whether this machine lets a test mount an image.
pub fn mounting() -> bool {
    let can =
        nix::unistd::geteuid().is_root() && SystemRunner.run(&Cmd::new("losetup").arg("--find")).is_ok();
    if !can {
        eprintln!("SKIPPED in part: bringing a stick up to date needs root and loop devices");
    }
    can
}
