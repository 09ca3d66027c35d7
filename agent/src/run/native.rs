//! The pipeline on a machine that runs something else: into a disk image, or onto a disk that is named.
//!
//! The same code, the same storage, the same packages as in the live system. What differs is who gives the
//! permission (the person who types `--yes`, unless a server is asked) and that only the named disk exists.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use akene_exec::Runner;
use akene_protocol::api::Consent;
use akene_protocol::envelope::PublicKey;
use akene_protocol::image::{self, ImageManifest};
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::profile::{Layer, parse_layer};
use akene_protocol::stamp::{Source, Stamp};
use akene_protocol::{Bundle, Bytes, Envelope, Inventory, Issue, Sha256};
use anyhow::{Context, Result, bail};

use super::machine::{Authority, Machine, Room};
use super::offline::Offline;
use super::{Done, Failure, Options, issues_of, pipeline, resume};
use crate::fetch::http::Web;
use crate::fetch::medium::stick::{self, Stick, Where};
use crate::fetch::{Orders, Patience, Permission, SignedLock, mint, read_lock};
use crate::net::Online;
use crate::probe::ProbeRoot;
use crate::report::Reporter;
use crate::report::lines::{Json, Lines};
use crate::report::logfile::LogFile;
use crate::report::terminal::Terminal;
use crate::storage::image::Image;

/// What is installed onto.
#[derive(Clone, Debug)]
pub enum Onto {
    /// A disk image. It is made with this size if it does not exist.
    Image {
        /// The file.
        file: PathBuf,
        /// Its size when it has to be made.
        size: Option<Bytes>,
        /// Logical sector size.
        sector: u32,
    },
    /// A disk of this machine.
    Disk(PathBuf),
}

/// Who says what to install.
#[derive(Clone, Debug)]
pub enum Says {
    /// A profile in a file: TOML, a bundle, or a signed envelope.
    File {
        /// The file.
        path: PathBuf,
        /// The key it must be signed with.
        key: Option<Box<PublicKey>>,
        /// The profile's signed lock, by the same key.
        lock: Option<PathBuf>,
    },
    /// The site of a stamp.
    Site(Box<Stamp>),
    /// What an installation that broke off left on the disk.
    Begun {
        /// The key its profile must be signed with.
        key: Box<PublicKey>,
        /// The stamp it was installed with, if there was one.
        stamp: Option<Box<Stamp>>,
    },
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// Onto what.
    pub onto: Onto,
    /// Who says what.
    pub says: Says,
    /// Profile to ask the server for.
    pub profile: Option<String>,
    /// How much may be destroyed; a server's grant counts instead where one is asked.
    pub consent: Consent,
    /// Really do it.
    pub yes: bool,
    /// Events as JSON on standard output.
    pub json: bool,
    /// A saved inventory that stands for the machine the disk is meant for.
    pub inventory: Option<PathBuf>,
    /// Firmware of the machine the disk is meant for.
    pub firmware: Option<FirmwareKind>,
    /// Proxy.
    pub proxy: Option<String>,
    /// Directory with the files of a live image (`init`, `akene/`), to be put on the disk as the installer.
    pub installer: Option<PathBuf>,
    /// A medium that brings everything: a directory it is mounted at, a disk image of it, or a device.
    pub medium: Option<PathBuf>,
    /// Where packages are kept between runs.
    pub packages: Option<PathBuf>,
    /// Where the log goes.
    pub log: Option<PathBuf>,
    /// `console=` values for the installed system.
    pub consoles: Vec<String>,
    /// How long to go on where something may pass.
    pub patience: Patience,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// Installed, or only planned.
    Done(Done),
    /// Refused or failed; it has been reported.
    Failed(Failure),
}

/// Installs.
///
/// # Errors
/// What keeps the run from beginning at all. A run that failed is an [`Outcome`].
pub fn run(request: &Request, runner: &dyn Runner) -> Result<Outcome> {
    if request.yes {
        // This host's services come and go, each with a copy of the mounts there are. Before any thread begins: one
        // that began earlier, the courier, would not see the disks and spool beside them.
        akene_exec::own_mounts()?;
    }
    let scratch =
        tempfile::Builder::new().prefix("akene-").tempdir().context("making a scratch directory")?;
    let reporter = Reporter::for_new_run()?;
    let log = request.log.clone().unwrap_or_else(|| scratch.path().join("install.log"));
    reporter.listen("log", LogFile::open(&log)?)?;
    if request.json {
        reporter.listen("standard output", Json(std::io::stdout()))?;
    } else if std::io::stderr().is_terminal() {
        reporter.listen("terminal", Terminal::default())?;
    } else {
        reporter.listen("standard error", Lines::new(std::io::stderr()))?;
    }
    let server = matches!(&request.says, Says::Site(stamp) if matches!(stamp.source, Source::Server { .. }));
    if server || request.medium.is_some() {
        reporter.start_courier()?;
    }

    let image = attach(request, scratch.path())?;
    let disk = match (&image, &request.onto) {
        (Some(image), _) => image.path().to_owned(),
        (None, Onto::Disk(disk)) => {
            fs::canonicalize(disk).with_context(|| format!("finding the disk {}", disk.display()))?
        }
        (None, Onto::Image { file, .. }) => bail!("attaching {}", file.display()),
    };
    let online = Online::on_host(request.proxy.clone());
    let authority = authority(request, &online, &reporter, &disk, runner)?;
    let medium = request.medium.as_deref().map(Medium::attach).transpose()?;
    let offline = match medium.as_ref().map(|medium| offline(medium, &authority, runner)).transpose() {
        Ok(offline) => offline,
        // The medium is refused: that is the end of a run like any other.
        Err(error) if error.is::<Issue>() => {
            let (phase, issues) = (reporter.current_phase(), issues_of(&error));
            reporter.failed(issues.clone(), false);
            reporter.drain(std::time::Duration::from_secs(5));
            return Ok(Outcome::Failed(Failure { phase, issues, disks_changed: false }));
        }
        Err(error) => return Err(error),
    };
    let mut machine = Machine {
        runner,
        reporter: &reporter,
        probe: ProbeRoot { also: vec![disk.clone()], ..ProbeRoot::default() },
        only_disk: Some(disk),
        inventory: request.inventory.as_deref().map(read_inventory).transpose()?,
        authority,
        resolver: online.resolver.clone(),
        proxy: online.proxy.clone(),
        scratch: scratch.path().to_owned(),
        packages: request.packages.clone(),
        room: Room::Disk,
        mount: scratch.path().join("target"),
        installer: installer(request)?,
        program: std::env::current_exe().context("finding our own program")?,
        this_machine: matches!(request.onto, Onto::Disk(_)) && request.inventory.is_none(),
        consoles: request.consoles.clone(),
        log,
        firmware: FirmwareKind::Bios,
        other_firmware: request.firmware,
        sent: vec![],
        clock: None,
        swap: Default::default(),
        identity: None,
        boots: vec![],
        signed: None,
        offline,
        people: Default::default(),
    };
    let options =
        Options { plan_only: !request.yes, patience: request.patience, afterwards: request.patience };
    let result = pipeline(&mut machine, &reporter, options);
    reporter.phase_done();
    reporter.drain(std::time::Duration::from_secs(5));
    drop(machine);
    if let Some(image) = image {
        image.detach()?;
    }
    if let Some(Medium { image: Some(image), .. }) = medium {
        image.detach()?;
    }
    Ok(match result {
        Ok(done) => Outcome::Done(done),
        Err(failure) => Outcome::Failed(failure),
    })
}

/// A medium that is there for this run.
struct Medium {
    place: Where,
    /// Where it is a file that had to be attached.
    image: Option<Image>,
}

impl Medium {
    fn attach(path: &Path) -> Result<Self> {
        let kind = path.metadata().with_context(|| format!("looking at {}", path.display()))?.file_type();
        if kind.is_dir() {
            return Ok(Medium { place: Where::In(path.to_owned()), image: None });
        }
        let image = match kind.is_file() {
            true => Some(Image::attach(path, 512)?),
            false => None,
        };
        let device = image.as_ref().map_or(path, Image::path);
        let device = fs::canonicalize(device).with_context(|| format!("finding {}", device.display()))?;
        // The whole, and its partitions if it has any.
        let name = device.file_name().and_then(|n| n.to_str()).context("using a device without a name")?;
        let sysfs = Path::new("/sys/class/block").join(name);
        let mut devices = vec![device.clone()];
        for entry in fs::read_dir(&sysfs).with_context(|| format!("listing {}", sysfs.display()))?.flatten() {
            if entry.file_name().to_str().is_some_and(|part| part.starts_with(name)) {
                devices.push(Path::new("/dev").join(entry.file_name()));
            }
        }
        Ok(Medium { place: Where::On(devices), image })
    }
}

/// The run from a medium.
fn offline<'a>(medium: &Medium, authority: &Authority<'_>, runner: &dyn Runner) -> Result<Offline<'a>> {
    let (stamp, resume) = match authority {
        Authority::Site { stamp, .. } => (*stamp, None),
        Authority::Begun { stamp: Some(stamp), resume, .. } => (*stamp, Some(&**resume)),
        Authority::Person { .. } | Authority::Begun { stamp: None, .. } => {
            bail!("using a medium: give the stamp it was made with (--stamp)")
        }
    };
    if matches!(stamp.source, Source::Medium { attended: true, .. }) && resume.is_none() {
        bail!(
            "using a medium: a technician is asked in the live system only; use a stamp that is not `attended`"
        );
    }
    let stick = Stick::find(&medium.place, &stamp.site_key, runner)?.ok_or_else(stick::missing)?;
    Ok(Offline::new(stamp, Some(stick), resume, None))
}

/// Attaches the image. A dry run does not make one: it looks at an empty one of the same size elsewhere.
fn attach(request: &Request, scratch: &Path) -> Result<Option<Image>> {
    let Onto::Image { file, size, sector } = &request.onto else { return Ok(None) };
    if file.exists() {
        return Image::attach(file, *sector).map(Some);
    }
    let size = size.with_context(|| format!("making {}: give its size with --size", file.display()))?;
    match request.yes {
        true => Image::create(file, size, *sector),
        false => Image::create(&scratch.join("dry-run.img"), size, *sector),
    }
    .map(Some)
}

fn installer(request: &Request) -> Result<Option<(PathBuf, Stamp, ImageManifest)>> {
    let stamp = match &request.says {
        Says::Site(stamp) | Says::Begun { stamp: Some(stamp), .. } => stamp,
        _ => return Ok(None),
    };
    let Some(dir) = &request.installer else { return Ok(None) };
    let path = dir.join(image::MANIFEST);
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let manifest = ImageManifest::parse(&text).map_err(anyhow::Error::msg)?;
    Ok(Some((dir.clone(), (**stamp).clone(), manifest)))
}

/// Reads a saved inventory.
pub fn read_inventory(path: &Path) -> Result<Inventory> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    // An issue can be told apart by who reads it: it stays what it is.
    Inventory::parse(&text).map_err(|issue| Issue { path: path.display().to_string(), ..issue }.into())
}

fn authority<'a>(
    request: &'a Request,
    online: &Online,
    reporter: &Reporter,
    disk: &Path,
    runner: &dyn Runner,
) -> Result<Authority<'a>> {
    match &request.says {
        Says::Begun { key, stamp } => {
            let mut found = crate::probe::inventory(
                runner,
                &ProbeRoot { also: vec![disk.to_owned()], ..ProbeRoot::default() },
            );
            found.disks.retain(|d| Path::new(&d.path) == disk);
            let resume = resume::find(&found).and_then(|begun| begun.resume).with_context(|| {
                format!(
                    "looking on {} for an installation that broke off and left what it needs",
                    disk.display()
                )
            })?;
            Ok(Authority::Begun {
                resume: Box::new(resume),
                key: **key,
                vouched: true,
                stamp: stamp.as_deref(),
                http: None,
            })
        }
        Says::Site(stamp) => {
            let tls = match &stamp.source {
                Source::Server { tls, .. } | Source::Static { tls, .. } => tls.clone(),
                Source::Medium { .. } => Default::default(),
            };
            let web = Web::new(&tls, online.proxy.as_deref(), &online.resolver, true)?;
            Ok(Authority::Site { stamp, http: Arc::new(web), profile: request.profile.clone(), begun: None })
        }
        Says::File { path, key, lock } => {
            let (bundle, envelope) = read_profile(path, key.as_deref())?;
            let permission = match request.consent {
                Consent::None => {
                    Err(Issue::new("no-consent", "", "no consent was given", "add --consent blank"))
                }
                consent => Ok(Permission::given(consent, "the command line")),
            };
            reporter.debug(format!("the profile comes from {}", path.display()));
            Ok(Authority::Person {
                orders: Some(Box::new(Orders { bundle, envelope, permission })),
                identity: mint::identity()?,
                lock: lock
                    .as_deref()
                    .map(|path| signed_lock(path, key.as_deref()))
                    .transpose()?
                    .map(Box::new),
            })
        }
    }
}

/// Reads a profile from a file: TOML with its classes beside it (`../classes/NAME/class.toml`), a bundle, or
/// a signed envelope, which needs the key.
pub fn read_profile(path: &Path, key: Option<&PublicKey>) -> Result<(Bundle, Option<Envelope>)> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("reading the profile {shown}"))?;
    if path.extension().is_some_and(|e| e == "toml") {
        return Ok((bundle_of(path, &text)?, None));
    }
    if let Ok(envelope) = Envelope::parse(text.as_bytes()) {
        let Some(key) = key else {
            bail!(Issue::new(
                "site-key-missing",
                shown.to_string(),
                "the profile is signed, and nothing says by whom it must be",
                "give the key with --site-key"
            ))
        };
        let bundle = envelope.open(key).with_context(|| format!("opening the profile {shown}"))?;
        return Ok((bundle, Some(envelope)));
    }
    let bundle = serde_json::from_str(&text).with_context(|| format!("reading the profile {shown}"))?;
    Ok((bundle, None))
}

/// Reads a signed lock from a file.
fn signed_lock(path: &Path, key: Option<&PublicKey>) -> Result<SignedLock> {
    let shown = path.display().to_string();
    let text = fs::read(path).with_context(|| format!("reading the signed lock {shown}"))?;
    let Some(key) = key else {
        bail!(Issue::new(
            "site-key-missing",
            shown,
            "nothing says by whom the lock must be signed",
            "give the key with --site-key"
        ))
    };
    read_lock(&text, key, &shown)
}

fn bundle_of(path: &Path, text: &str) -> Result<Bundle> {
    let profile: Layer = parse_layer(text, &path.display().to_string())?;
    let site = path.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let mut classes = Vec::new();
    for name in &profile.classes {
        let file = site.join("classes").join(name).join("class.toml");
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading the class {}", file.display()))?;
        classes.push((name.clone(), parse_layer(&text, &file.display().to_string())?));
    }
    let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or("profile").to_owned();
    let mut bundle = Bundle { site: String::new(), name, revision: String::new(), classes, profile };
    let sum = Sha256::of(&serde_json::to_vec(&bundle).context("summing the profile up")?);
    bundle.revision = sum.to_string()[..16].to_owned();
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_file_brings_its_classes_and_a_signed_one_needs_the_key() {
        let site = tempfile::tempdir().unwrap();
        for dir in ["profiles", "classes/ssh"] {
            fs::create_dir_all(site.path().join(dir)).unwrap();
        }
        let path = site.path().join("profiles/desk.toml");
        fs::write(&path, "classes = [\"ssh\"]\npackages = [\"vim\"]\n").unwrap();
        let error = read_profile(&path, None).unwrap_err().to_string();
        assert!(error.contains("classes/ssh/class.toml"), "{error}");
        fs::write(site.path().join("classes/ssh/class.toml"), "packages = [\"openssh-server\"]\n").unwrap();
        let (bundle, envelope) = read_profile(&path, None).unwrap();
        assert_eq!((bundle.name.as_str(), bundle.classes.len(), envelope), ("desk", 1, None));

        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let signed = site.path().join("desk.json");
        fs::write(&signed, serde_json::to_vec(&Envelope::sign(&bundle, &key)).unwrap()).unwrap();
        assert!(read_profile(&signed, None).unwrap_err().to_string().contains("--site-key"));
        let public = PublicKey(key.verifying_key());
        assert_eq!(read_profile(&signed, Some(&public)).unwrap().0, bundle);
        let other = PublicKey(ed25519_dalek::SigningKey::from_bytes(&[8; 32]).verifying_key());
        assert!(read_profile(&signed, Some(&other)).is_err());
    }
}
