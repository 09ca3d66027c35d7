//! Profiles: reading them with their classes, choosing one for a machine, checking all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use akene_archive::Deb;
use akene_protocol::inventory::{Cpu, FirmwareKind, Memory};
use akene_protocol::issue::Issues;
use akene_protocol::profile::{
    Bundle, Distribution, File, Layer, LocalPackage, Script, nearest, parse_layer,
};
use akene_protocol::resolve::resolve;
use akene_protocol::{AssetNumber, Bytes, Inventory, Issue, Resolved, Sha256};
use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Site, SiteConfig, locate};

/// A profile chosen for a machine.
#[derive(Debug)]
pub struct Chosen {
    /// The profile with its classes.
    pub bundle: Bundle,
    /// The same for this machine.
    pub resolved: Resolved,
    /// Why this one: "the rule `ram < 2 GiB`".
    pub why: String,
}

/// What `profile check` found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Profiles that were checked.
    pub profiles: Vec<String>,
    /// Everything that is wrong.
    pub issues: Vec<Issue>,
}

/// Most a file beside a class may hold: the whole bundle travels in each answer.
const MAX_FILE: u64 = 1 << 20;

impl Site {
    /// The profiles and classes there are, by directory.
    fn names(&self, kind: &str) -> Result<Vec<String>> {
        let dir = self.dir().join(kind);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match kind {
                "profiles" => names.extend(name.strip_suffix(".toml").map(str::to_owned)),
                _ if entry.path().is_dir() => names.push(name),
                _ => {}
            }
        }
        names.sort();
        names.retain(|n| is_name(n));
        Ok(names)
    }

    /// Names of all profiles.
    pub fn profile_names(&self) -> Result<Vec<String>> {
        self.names("profiles")
    }

    /// Reads a layer file of the site; a missing one is an issue about `owner`.
    fn layer(&self, path: &str, owner: &str, name: &str, kind: &str) -> Result<Layer, Issues> {
        let unknown = || {
            let names = self.names(kind).unwrap_or_default();
            let next = nearest(name, names.iter().map(String::as_str))
                .map(|n| format!("did you mean `{n}`?"))
                .unwrap_or_else(|| format!("make the file {path}, or use one of: {}", names.join(", ")));
            let what = kind.strip_suffix("es").filter(|w| *w == "class").unwrap_or("profile");
            Issues::from(Issue::new(
                &format!("{what}-unknown"),
                owner,
                format!("there is no {what} `{name}`"),
                next,
            ))
        };
        if !is_name(name) {
            return Err(unknown());
        }
        match fs::read_to_string(self.dir().join(path)) {
            Ok(text) => parse_layer(&text, path).and_then(|layer| {
                if layer.local_packages.is_empty() {
                    return Ok(layer);
                }
                let message = "packages beside a class are found by themselves";
                let next = "put the .deb files into classes/NAME/packages";
                Err(Issue::new("local-packages", path, message, next).into())
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(unknown()),
            Err(e) => Err(unreadable(path, &e)),
        }
    }

    /// Reads a class with the files that lie beside its `class.toml`.
    fn class(&self, name: &str, owner: &str) -> Result<Layer, Issues> {
        let mut layer = self.layer(&format!("classes/{name}/class.toml"), owner, name, "classes")?;
        let at = format!("classes/{name}");
        let dir = self.dir().join(&at);
        collect_files(&dir.join("files"), "", &format!("{at}/files"), &mut layer.files)?;
        let mut scripts = Vec::new();
        collect_files(&dir.join("scripts"), "", &format!("{at}/scripts"), &mut scripts)?;
        layer.late_commands.extend(scripts.into_iter().filter_map(|file| {
            let name = format!("{name}{}", file.path);
            Some(Script::Named { name, script: file.content? })
        }));
        collect_keys(&dir.join("keys"), &format!("{at}/keys"), &mut layer)?;
        collect_packages(&dir.join("packages"), &format!("{at}/packages"), &mut layer)?;
        let debconf = dir.join("debconf");
        if debconf.is_file() {
            let text = fs::read_to_string(&debconf).map_err(|e| unreadable(&format!("{at}/debconf"), &e))?;
            let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
            layer.debconf_selections.extend(lines.map(str::to_owned));
        }
        Ok(layer)
    }

    /// A profile with its classes, ready to be signed.
    ///
    /// # Errors
    /// Every issue in any of its files.
    pub fn bundle(&self, config: &SiteConfig, name: &str) -> Result<Bundle, Issues> {
        let path = format!("profiles/{name}.toml");
        let profile = self.layer(&path, "site.toml", name, "profiles")?;
        let mut issues = Vec::new();
        let mut classes = Vec::new();
        for class in &profile.classes {
            match self.class(class, &format!("profiles/{name}: classes")) {
                Ok(layer) => classes.push((class.clone(), layer)),
                Err(found) => issues.extend(found.0),
            }
        }
        if !issues.is_empty() {
            return Err(self.with_lines(Issues(issues)));
        }
        let mut bundle = Bundle {
            site: config.name.clone(),
            name: name.to_owned(),
            revision: String::new(),
            classes,
            profile,
        };
        let json = serde_json::to_vec(&bundle).map_err(|e| unreadable(&path, &e))?;
        bundle.revision = Sha256::of(&json).to_string()[..16].to_owned();
        Ok(bundle)
    }

    /// The profile for a machine: the one it asks for if it may, else the first rule's, else the default.
    ///
    /// # Errors
    /// Issues that name file and line.
    pub fn choose(
        &self,
        config: &SiteConfig,
        inventory: &Inventory,
        asset: Option<AssetNumber>,
        request: Option<&str>,
    ) -> Result<Chosen, Issues> {
        let (name, why) = match request {
            Some(name) if !config.may_request(name) => {
                let next =
                    "take the request off the medium, or add the name to requestable-profiles in site.toml";
                let message = format!("this site does not let a machine ask for the profile `{name}`");
                return Err(Issue::new("profile-not-requestable", "", message, next).into());
            }
            Some(name) => (name, "the medium asked for it".to_owned()),
            None => match config.profile_rules.iter().find(|rule| rule.when.matches(inventory)) {
                Some(rule) => (rule.profile.as_str(), format!("the rule `{}`", rule.when)),
                None => (config.default_profile.as_str(), "the default of the site".to_owned()),
            },
        };
        self.named(config, inventory, asset, name, why)
    }

    /// The profile with this name for a machine, whoever chose it.
    ///
    /// # Errors
    /// Issues that name file and line.
    pub fn named(
        &self,
        config: &SiteConfig,
        inventory: &Inventory,
        asset: Option<AssetNumber>,
        name: &str,
        why: String,
    ) -> Result<Chosen, Issues> {
        let bundle = self.bundle(config, name)?;
        let resolved = resolve(&bundle, inventory, asset).map_err(|found| self.with_lines(found))?;
        Ok(Chosen { bundle, resolved, why })
    }

    /// Checks one profile, or everything: `site.toml`, all profiles, all classes, also those that
    /// would not count on any machine here.
    pub fn check(&self, only: Option<&str>) -> Result<Checked> {
        let mut checked = Checked::default();
        let config = match self.config() {
            Ok(config) => config,
            Err(error) => match error.downcast::<Issues>() {
                Ok(issues) => return Ok(Checked { issues: issues.0, ..checked }),
                Err(error) => return Err(error),
            },
        };
        let mut issues = Vec::new();
        checked.profiles = match only {
            Some(name) => vec![name.to_owned()],
            None => {
                let chosen = std::iter::once(&config.default_profile)
                    .chain(config.profile_rules.iter().map(|rule| &rule.profile));
                let all: BTreeSet<String> =
                    self.profile_names()?.into_iter().chain(chosen.cloned()).collect();
                all.into_iter().collect()
            }
        };
        for name in &checked.profiles {
            match self.bundle(&config, name) {
                Ok(bundle) => issues.extend(check_bundle(&bundle)),
                Err(found) => issues.extend(found.0),
            }
        }
        if only.is_none() {
            for name in self.names("classes")? {
                match self.class(&name, "classes") {
                    Ok(layer) => issues.extend(check_class(&name, layer)),
                    Err(found) => issues.extend(found.0),
                }
            }
        }
        for issue in self.with_lines(Issues(issues)).0 {
            if !checked.issues.contains(&issue) {
                checked.issues.push(issue);
            }
        }
        Ok(checked)
    }

    /// Turns `profiles/NAME: key` and `classes/NAME: key` into `FILE:LINE: key`; a key that comes from
    /// the layers together gets no line.
    fn with_lines(&self, issues: Issues) -> Issues {
        let place = |issue: &Issue| -> Option<String> {
            let (layer, key) = issue.path.split_once(": ")?;
            let file = match layer.strip_prefix("classes/") {
                Some(name) => format!("classes/{name}/class.toml"),
                None => format!("profiles/{}.toml", layer.strip_prefix("profiles/")?),
            };
            let text = fs::read_to_string(self.dir().join(&file)).ok()?;
            match locate::line_of(&text, key) {
                Some(line) => Some(format!("{file}:{line}: {key}")),
                None => Some(format!("{file}: {key}")),
            }
        };
        Issues(
            issues.0.into_iter().map(|i| Issue { path: place(&i).unwrap_or(i.path.clone()), ..i }).collect(),
        )
    }
}

/// Whether this may name a profile or class: it becomes part of a path.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(['.', '-'])
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn unreadable(path: &str, error: &dyn std::fmt::Display) -> Issues {
    Issue::new(
        "file-unreadable",
        path,
        format!("cannot be read: {error}"),
        "check its permissions and encoding",
    )
    .into()
}

/// Takes every file below `dir` as one to write at the same place of the installed system.
fn collect_files(dir: &Path, below: &str, at: &str, files: &mut Vec<File>) -> Result<(), Issues> {
    if !dir.is_dir() {
        return Ok(());
    }
    let fail = |e: std::io::Error| unreadable(&format!("{at}{below}"), &e);
    let mut entries: Vec<fs::DirEntry> =
        fs::read_dir(dir).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{below}/{}", entry.file_name().to_string_lossy());
        let place = format!("{at}{path}");
        // Not followed: a link could lead out of the site directory, to its keys for instance.
        let meta = entry.path().symlink_metadata().map_err(fail)?;
        if meta.is_dir() {
            collect_files(&entry.path(), &path, at, files)?;
            continue;
        }
        if !meta.is_file() || meta.len() > MAX_FILE {
            let limit = Bytes(MAX_FILE);
            let message = format!("is not a plain file of at most {limit}");
            let next = "ship large things as a package, and links in a late command";
            return Err(Issue::new("class-file", place, message, next).into());
        }
        let bytes = fs::read(entry.path()).map_err(|e| unreadable(&place, &e))?;
        let (content, base64) = match String::from_utf8(bytes) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
        };
        let mode = if meta.permissions().mode() & 0o111 != 0 { "0755" } else { "0644" };
        files.push(File { path, content, base64, mode: Some(mode.into()), owner: None, verbatim: false });
    }
    Ok(())
}

/// Gives the repositories of a class the keys that lie beside it: `keys/NAME.asc` or `keys/NAME.gpg` for
/// `apt.sources.NAME`. A key for no repository is a mistake in a name.
fn collect_keys(dir: &Path, at: &str, layer: &mut Layer) -> Result<(), Issues> {
    for (name, path) in plain_files(dir, at)? {
        let place = format!("{at}/{name}");
        let of = name.strip_suffix(".asc").or_else(|| name.strip_suffix(".gpg")).unwrap_or(&name);
        let apt = layer.apt.get_or_insert_default();
        let Some(repository) = apt.sources.get_mut(of).filter(|repository| repository.key.is_empty()) else {
            let message = format!("is the key of no repository: `apt.sources.{of}` of this class lacks none");
            let next = "name it after the repository, NAME.asc or NAME.gpg, and give that one no `key`";
            return Err(Issue::new("class-key", place, message, next).into());
        };
        let bytes = fs::read(&path).map_err(|e| unreadable(&place, &e))?;
        repository.key = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => BASE64.encode(error.as_bytes()),
        };
    }
    Ok(())
}

/// Takes the packages beside a class into it: what they are, and that they are to be installed unless the
/// class or a later layer says otherwise.
fn collect_packages(dir: &Path, at: &str, layer: &mut Layer) -> Result<(), Issues> {
    let mut issues = Vec::new();
    for (name, path) in plain_files(dir, at)? {
        let place = format!("{at}/{name}");
        match known_package(&path) {
            Ok(package) => {
                if let Some(other) = layer.local_packages.iter().find(|p| p.name == package.name) {
                    let message =
                        format!("`{}` is there twice, in version {} too", package.name, other.version);
                    issues.push(Issue::new("class-package", place, message, "leave only one of them there"));
                    continue;
                }
                let said = |word: &String| {
                    let word = word.strip_prefix('-').unwrap_or(word);
                    word.split('=').next() == Some(package.name.as_str())
                };
                if !layer.packages.iter().any(said) {
                    layer.packages.push(package.name.clone());
                }
                layer.local_packages.push(package);
            }
            Err(error) => {
                let next = "copy it there again; only .deb files made for amd64 or all belong there";
                issues.push(Issue::new("class-package", place, format!("cannot be used: {error:#}"), next));
            }
        }
    }
    if issues.is_empty() { Ok(()) } else { Err(Issues(issues)) }
}

/// What a package is, without reading it again as long as nobody touches it: the bundle is put together for every
/// computer that asks.
fn known_package(path: &Path) -> Result<LocalPackage> {
    static KNOWN: Mutex<BTreeMap<PathBuf, (u64, SystemTime, LocalPackage)>> = Mutex::new(BTreeMap::new());
    let meta = fs::metadata(path).context("looking at it")?;
    let state = (meta.len(), meta.modified().context("looking at it")?);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((size, time, package)) = known().get(path)
        && (*size, *time) == state
    {
        return Ok(package.clone());
    }
    let package = local_package(path)?;
    known().insert(path.to_owned(), (state.0, state.1, package.clone()));
    Ok(package)
}

/// What a package is. All of it is read, so that a damaged one is found here and not on a computer far away.
fn local_package(path: &Path) -> Result<LocalPackage> {
    anyhow::ensure!(path.extension().is_some_and(|e| e == "deb"), "its name does not end in .deb");
    let deb = Deb::new(path);
    let control = deb.control()?;
    let field = |key: &str| control.get(key).cloned().with_context(|| format!("it does not say its {key}"));
    let architecture = field("Architecture")?;
    anyhow::ensure!(
        matches!(architecture.as_str(), "amd64" | "all"),
        "it is made for {architecture}, not for amd64"
    );
    deb.check()?;
    let file = fs::File::open(path).context("opening it")?;
    let (sha256, size) = Sha256::of_reader(file).context("reading it")?;
    Ok(LocalPackage {
        name: field("Package")?,
        version: field("Version")?,
        architecture,
        size: Bytes(size),
        sha256,
    })
}

/// The files of a directory that may not be there, by name. Anything else in it is a mistake.
fn plain_files(dir: &Path, at: &str) -> Result<Vec<(String, PathBuf)>, Issues> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let fail = |e: std::io::Error| unreadable(at, &e);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Not followed: a link could lead out of the site directory, to its keys for instance.
        if !entry.path().symlink_metadata().map_err(fail)?.is_file() {
            let next = "put plain files there";
            return Err(Issue::new("class-file", format!("{at}/{name}"), "is not a plain file", next).into());
        }
        files.push((name, entry.path()));
    }
    files.sort();
    Ok(files)
}

/// Resolves a bundle once with all its classes and once with those that carry no rule: what a rule
/// switches off on every machine at hand is still checked, and so is what is left without it.
fn check_bundle(bundle: &Bundle) -> Vec<Issue> {
    let machine = sample_machine();
    let mut all = bundle.clone();
    all.classes.iter_mut().for_each(|(_, class)| class.when = None);
    let mut bare = bundle.clone();
    bare.classes.retain(|(name, class)| {
        if class.when.is_some() {
            bare.profile.classes.retain(|listed| listed != name);
        }
        class.when.is_none()
    });
    [all, bare].iter().filter_map(|b| resolve(b, &machine, None).err()).flat_map(|found| found.0).collect()
}

/// Checks a class by itself, in a profile that says only what no class has to say.
fn check_class(name: &str, class: Layer) -> Vec<Issue> {
    let mut profile = Layer::default();
    let apt = profile.apt.get_or_insert_default();
    apt.distribution = Some(Distribution::Ubuntu);
    apt.suite = Some("noble".into());
    let only = Bundle {
        site: String::new(),
        name: String::new(),
        revision: String::new(),
        classes: vec![(name.to_owned(), Layer { when: None, ..class })],
        profile,
    };
    let found = resolve(&only, &sample_machine(), None).err().map(|found| found.0).unwrap_or_default();
    // A variable may well come from the profile.
    found.into_iter().filter(|issue| issue.code != "variable-unknown").collect()
}

/// A machine for checks that need one.
fn sample_machine() -> Inventory {
    Inventory {
        cpu: Cpu { arch: "x86_64".into(), ..Cpu::default() },
        memory: Memory { total: Bytes::gib(4) },
        ..Inventory::unknown(FirmwareKind::Uefi64)
    }
}
