//! A finished ISO in small, for tests that start nothing: everything a stamp touches is real.

use std::fs;
use std::path::{Path, PathBuf};

use akene_exec::SystemRunner;
use akene_image::medium::Made;
use akene_image::{iso, stamp};
use akene_protocol::image::{self, ImageManifest};
use akene_protocol::profile::Distribution;
use jiff::Timestamp;

/// What differs from one to another.
#[derive(Default)]
pub struct SmallImage<'a> {
    /// Whether its manifest says that wireless cards work.
    pub wireless: bool,
    /// What its first sector begins with.
    pub code: Vec<u8>,
    /// Files of its tree, besides those that every one has, or instead of them.
    pub files: Vec<(&'a str, Vec<u8>)>,
}

impl SmallImage<'_> {
    /// Writes it. What it is made of stays beside it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let tree = dir.join(format!("tree-{name}"));
        let built = Timestamp::from_second(1_760_000_000).unwrap();
        let manifest = ImageManifest {
            version: image::VERSION,
            akene: "0.1.0".into(),
            distribution: Distribution::Debian,
            suite: "bookworm".into(),
            architecture: "amd64".into(),
            kernel: "6.1.0-1-amd64".into(),
            built,
            wireless: self.wireless,
            packages: vec![],
            files: vec![],
        };
        let common = [
            (stamp::MANIFEST, serde_json::to_vec(&manifest).unwrap()),
            (stamp::AREA, akene_protocol::stamp::empty_area()),
            (stamp::ENVIRONMENT, stamp::environment(None).into_bytes()),
            (stamp::PROFILE, stamp::empty_profile()),
            ("boot/grub/bios.img", vec![0; 40_000]),
        ];
        for (path, bytes) in common.iter().chain(&self.files) {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let made = Made { mbr: dir.join("mbr"), esp: dir.join("esp") };
        let mut sector = self.code.clone();
        sector.resize(512, 0);
        fs::write(&made.mbr, sector).unwrap();
        fs::write(&made.esp, vec![0; 1 << 20]).unwrap();
        let output = dir.join(name);
        iso::write(&SystemRunner, &tree, &made, built, &output).unwrap();
        output
    }
}
