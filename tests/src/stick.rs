//! Media with everything on them, put together from the documents by somebody who is not the image builder.

use std::fs;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use akene_protocol::api::Consent;
use akene_protocol::envelope::Document;
use akene_protocol::lock::{LockedPackage, PinnedPackage, ProfileLock};
use akene_protocol::medium::{self, Medium, MediumFile, MediumId, MediumProfile};
use akene_protocol::report::{Letter, Report};
use akene_protocol::seal::SealSecret;
use akene_protocol::stamp::{Home, Source};
use akene_protocol::{Bytes, Envelope, PublicKey, Secret, Sha256, Stamp};
use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;

/// Where machines installed from such a medium would find their server.
pub const HOME: &str = "https://home.invalid";

/// A medium in a directory.
pub struct Stick {
    /// Where it would be mounted.
    pub dir: PathBuf,
    /// What it says it holds.
    pub manifest: Medium,
    site: SigningKey,
    own: SigningKey,
    seal: SealSecret,
}

impl Stick {
    /// Puts one together: a signed profile and its lock, and packages of a directory, whatever their names.
    pub fn new(
        dir: &Path,
        site: &SigningKey,
        profile: &Envelope,
        lock: &[u8],
        packages: &Path,
    ) -> Result<Self> {
        let (own, seal) = (SigningKey::from_bytes(&[21; 32]), SealSecret::from_bytes([22; 32]));
        let top = dir.join(medium::DIR);
        for name in ["profiles", medium::POOL, medium::REPORTS] {
            fs::create_dir_all(top.join(name)).with_context(|| format!("making {name}"))?;
        }
        let profile = serde_json::to_vec(profile).context("writing the profile")?;
        let mut files = Vec::new();
        for (name, text) in [("profiles/default.json", &profile[..]), ("profiles/default.lock.json", lock)] {
            fs::write(top.join(name), text).with_context(|| format!("writing {name}"))?;
            let size = Bytes(text.len() as u64);
            files.push(MediumFile { path: name.into(), size, sha256: Sha256::of(text) });
        }
        let mut size = 0;
        for entry in packages.read_dir().context("listing the packages")? {
            let from = entry.context("listing the packages")?.path();
            let bytes = fs::read(&from).context("reading a package")?;
            size += bytes.len() as u64;
            fs::write(top.join(medium::POOL).join(Sha256::of(&bytes).to_string()), bytes)
                .context("writing a package")?;
        }
        let pem = own.to_pkcs8_pem(Default::default()).context("writing the medium's key")?;
        fs::write(top.join(medium::KEY), &**pem).context("writing the medium's key")?;
        let manifest = Medium {
            version: medium::VERSION,
            id: MediumId([23; 8]),
            site: "Test site".into(),
            made: jiff::Timestamp::now(),
            key: PublicKey(own.verifying_key()),
            associations: vec![],
            profiles: vec![MediumProfile { name: "default".into(), revision: "1".into(), size: Bytes(size) }],
            files,
        };
        let stick = Stick { dir: dir.to_owned(), manifest, site: site.clone(), own, seal };
        sign(&stick.dir, &stick.manifest, site)?;
        Ok(stick)
    }

    /// The packages of a signed lock, from the archives it names, into a directory.
    pub fn fetch(lock: &ProfileLock, dir: &Path) -> Result<()> {
        let package = |pinned: &PinnedPackage| -> Result<LockedPackage> {
            let release = pinned.release.and_then(|at| lock.releases.get(at)).context("finding a release")?;
            Ok(LockedPackage {
                name: pinned.name.clone(),
                version: pinned.version.clone(),
                architecture: pinned.architecture.clone(),
                size: pinned.size,
                sha256: pinned.sha256,
                urls: vec![format!("{}/{}", release.uri.trim_end_matches('/'), pinned.path)],
                file: pinned.sha256.to_string(),
                base: false,
                release: None,
            })
        };
        let packages = lock.packages.iter().map(package).collect::<Result<Vec<_>>>()?;
        // A second test of this program may have installed it already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::blocking::Client::builder().redirect(akene_archive::redirect_policy()).build();
        let client = client.context("preparing HTTP")?;
        akene_archive::Fetcher::new(client).fetch(&packages, dir, &|_| {})?;
        Ok(())
    }

    /// A stamp of such a medium.
    pub fn stamp(&self, consent: Consent) -> Stamp {
        let home = Home { url: HOME.into(), tls: Default::default(), seal: self.seal.public() };
        let source = Source::Medium { consent, attended: false, home: Some(home) };
        Stamp::new("Test site", source, PublicKey(self.site.verifying_key()))
    }

    /// Another medium that is the same, as links, in a directory that does not exist yet.
    pub fn copy(&self, to: &Path) -> Result<PathBuf> {
        SystemRunner.run(&Cmd::new("cp").arg("-al").arg(&self.dir).arg(to))?;
        Ok(to.to_owned())
    }

    /// The medium as an image with `room` bytes free, more or less.
    pub fn image(&self, file: &Path, room: u64) -> Result<PathBuf> {
        let total = SystemRunner.run(&Cmd::new("du").args(["-s", "--block-size=1"]).arg(&self.dir))?.text();
        let used: u64 = total.split_whitespace().next().context("reading what du says")?.parse()?;
        // Inodes, a journal, and what the filesystem keeps for itself.
        let size = (used + used / 20 + room + (24 << 20)).next_multiple_of(1 << 20);
        fs::File::create(file).and_then(|f| f.set_len(size)).context("making the image of the medium")?;
        let mkfs = Cmd::new("mke2fs").args(["-q", "-t", "ext4", "-m", "0", "-L", medium::LABEL, "-d"]);
        SystemRunner.run(&mkfs.arg(&self.dir).arg(file))?;
        Ok(file.to_owned())
    }

    /// Opens a sealed report as the server would.
    pub fn open(&self, sealed: &[u8]) -> Result<Report> {
        let text = self.seal.open(sealed).context("opening a report: it was sealed for somebody else")?;
        let letter: Letter = serde_json::from_slice(&text).context("reading a report")?;
        ensure!(letter.medium == self.manifest.id, "it is from the medium {}", letter.medium);
        letter.report.open(&self.manifest.key).context("opening a report")
    }

    /// The medium's own key, which nobody is to be shown.
    pub fn key(&self) -> Result<Secret> {
        let pem = self.own.to_pkcs8_pem(Default::default()).context("writing the medium's key")?;
        Ok(Secret::new(&**pem))
    }
}

/// Signs the manifest of a medium anew.
pub fn sign<D: Document>(dir: &Path, manifest: &D, key: &SigningKey) -> Result<()> {
    let text = serde_json::to_vec(&Envelope::sign(manifest, key)).context("writing the manifest")?;
    replace(&dir.join(medium::DIR).join(medium::MANIFEST), &text)
}

/// Gives a file another content, and leaves those it shares its bytes with as they are.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("removing the old file"),
        _ => fs::write(path, content).with_context(|| format!("writing {}", path.display())),
    }
}

/// Every file below a directory with its sum, but reports.
pub fn sums(dir: &Path) -> Result<Vec<(PathBuf, Sha256)>> {
    let (mut open, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in dir.read_dir().with_context(|| format!("listing {}", dir.display()))? {
            let path = entry.context("listing")?.path();
            if path.is_dir() {
                if !path.ends_with(medium::REPORTS) {
                    open.push(path);
                }
                continue;
            }
            let sum = Sha256::of(&fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
            found.push((path, sum));
        }
    }
    found.sort();
    Ok(found)
}

/// The sealed reports of a directory, by name.
pub fn reports(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in dir.read_dir().with_context(|| format!("listing {}", dir.display()))? {
        let path = entry.context("listing")?.path();
        let name = path.file_name().and_then(|n| n.to_str()).context("reading a name")?.to_owned();
        found.push((name, fs::read(&path).with_context(|| format!("reading {}", path.display()))?));
    }
    found.sort();
    Ok(found)
}
