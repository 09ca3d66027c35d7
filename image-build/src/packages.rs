//! The packages an image is made of: chosen by the distribution's apt, fetched and checked by hash.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use akene_archive::{AptRoot, AptSettings, Deb, Fetcher, release_date};
use akene_exec::Runner;
use akene_protocol::image::ImagePackage;
use akene_protocol::lock::LockedPackage;
use akene_protocol::resolve::Archive;
use akene_protocol::stamp::Tls;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::recipe::{self, Wanted};
use crate::web::client;

/// Everything an image is made of, fetched.
pub struct Packages {
    /// Unpacked into the live root.
    pub live: Vec<Fetched>,
    /// The kernel's image and modules.
    pub kernel: Vec<Fetched>,
    /// Searched for firmware.
    pub firmware: Vec<Fetched>,
    /// Taken apart for boot loaders.
    pub boot: Vec<Fetched>,
    /// The newest date of the signed release files.
    pub released: Timestamp,
}

/// A package on this machine whose hash is that of the signed index.
pub struct Fetched {
    /// As the index has it.
    pub locked: LockedPackage,
    /// Where it lies.
    pub path: PathBuf,
}

impl Fetched {
    /// Unpacks it.
    pub fn extract(&self, root: &Path) -> Result<()> {
        Deb::new(&self.path).extract_into(root)
    }

    /// Unpacks what `keep` wants.
    pub fn extract_some(&self, root: &Path, keep: &mut dyn FnMut(&Path) -> bool) -> Result<()> {
        Deb::new(&self.path).extract_some(root, keep)
    }

    /// How the manifest names it.
    pub fn entry(&self) -> ImagePackage {
        let p = &self.locked;
        ImagePackage {
            name: p.name.clone(),
            version: p.version.clone(),
            architecture: p.architecture.clone(),
            sha256: p.sha256,
        }
    }
}

/// What to fetch and where to keep it.
pub struct Order<'a> {
    /// The archives.
    pub archive: &'a Archive,
    /// Keys of the archives, unless `archive` brings its own.
    pub keyring: &'a Path,
    /// Package of the kernel.
    pub kernel: &'a str,
    /// With wireless.
    pub wireless: bool,
    /// Downloads stay here for the next build.
    pub cache: &'a Path,
    /// Indexes go here.
    pub work: &'a Path,
}

/// Chooses, fetches and checks all packages. `say` is told what is going on.
///
/// # Errors
/// The issues of `akene_archive`: signatures, hashes, names the archive does not have.
pub fn fetch(runner: &dyn Runner, order: &Order<'_>, say: &dyn Fn(&str)) -> Result<Packages> {
    let settings = AptSettings { archive: order.archive, keyring: order.keyring, proxy: None };
    let apt = AptRoot::create(&order.work.join("apt"), &settings)?;
    say("reading the archive's signed indexes");
    apt.update(runner, &mut |_| {})?;

    let names = |list: &[Wanted]| -> Vec<String> {
        list.iter().flat_map(|w| w.packages).map(|p| (*p).to_owned()).collect()
    };
    let mut live = names(recipe::LIVE);
    if order.wireless {
        live.extend(names(recipe::WIRELESS_LIVE));
    }
    live.extend(available(&apt, runner, names(recipe::LIVE_IF_THERE))?);
    let mut boot = names(recipe::BOOT);
    boot.extend(available(&apt, runner, names(recipe::BOOT_IF_THERE))?);
    let firmware = recipe::firmware(order.archive.distribution, order.wireless);
    let firmware = available(&apt, runner, firmware.iter().map(|f| (*f).to_owned()).collect())?;

    say("choosing packages");
    let live: Vec<_> = apt
        .solve(runner, &live, false)?
        .packages
        .into_iter()
        .filter(|p| {
            live.contains(&p.name) || !(recipe::is_left_out(&p.name) || p.name.starts_with("firmware-"))
        })
        .collect();
    let kernel: Vec<_> = apt
        .solve(runner, &[order.kernel.to_owned()], false)?
        .packages
        .into_iter()
        .filter(|p| p.name.starts_with("linux-image-") || p.name.starts_with("linux-modules-"))
        .collect();
    if kernel.is_empty() {
        bail!("the package {} leads to no kernel image; name a kernel package with --kernel", order.kernel);
    }
    let boot = apt.locate(runner, &boot)?;
    let firmware = if firmware.is_empty() { Vec::new() } else { apt.locate(runner, &firmware)? };

    let all: Vec<LockedPackage> = [&live, &kernel, &boot, &firmware].into_iter().flatten().cloned().collect();
    let size: akene_protocol::Bytes = all.iter().map(|p| p.size).sum();
    say(&format!(
        "fetching {} packages, {size} (what is in {} already is not fetched again)",
        all.len(),
        order.cache.display()
    ));
    let fetcher = Fetcher::new(client(&Tls::default(), None)?);
    let brought = fetcher.fetch(&all, order.cache, &|_| {});
    fetcher.report().warnings.iter().for_each(|warning| say(&format!("attention: {warning}")));
    brought?;
    let fetched = |list: Vec<LockedPackage>| -> Vec<Fetched> {
        let mut list: Vec<Fetched> =
            list.into_iter().map(|locked| Fetched { path: order.cache.join(&locked.file), locked }).collect();
        list.sort_by(|a, b| a.locked.name.cmp(&b.locked.name));
        list
    };
    Ok(Packages {
        live: fetched(live),
        kernel: fetched(kernel),
        firmware: fetched(firmware),
        boot: fetched(boot),
        released: newest_release(&apt.lists())?,
    })
}

/// Those of `names` that the archive has.
fn available(apt: &AptRoot, runner: &dyn Runner, names: Vec<String>) -> Result<Vec<String>> {
    if names.is_empty() {
        return Ok(names);
    }
    match apt.locate(runner, &names) {
        Ok(found) => Ok(found.into_iter().map(|p| p.name).collect()),
        Err(error) => match error.downcast::<akene_protocol::issue::Issues>() {
            Ok(issues) => {
                let missing: BTreeSet<&str> = issues
                    .0
                    .iter()
                    .filter(|i| i.code == "package-missing")
                    .map(|i| i.path.as_str())
                    .collect();
                let left: Vec<String> =
                    names.iter().filter(|n| !missing.contains(n.as_str())).cloned().collect();
                if left.len() == names.len() {
                    return Err(issues.into());
                }
                available(apt, runner, left)
            }
            Err(error) => Err(error),
        },
    }
}

/// The newest `Date` of the release files: a clock that shows less is wrong.
fn newest_release(lists: &Path) -> Result<Timestamp> {
    let mut newest = None;
    for entry in std::fs::read_dir(lists).with_context(|| format!("reading {}", lists.display()))? {
        let path = entry.with_context(|| format!("reading {}", lists.display()))?.path();
        if !path.to_string_lossy().ends_with("Release") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        newest = newest.max(text.lines().find_map(|l| release_date(l.strip_prefix("Date: ")?)));
    }
    newest.context("looking for the date of the archive's release files: none has one")
}
