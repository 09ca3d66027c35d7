//! A profile for one machine: its classes chosen by the inventory and laid over each other.
//!
//! Resolving is pure, and strict: it returns *all* issues. What comes out has no optional settings
//! left but those that really may be absent.

mod defaults;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::AssetNumber;
use crate::inventory::Inventory;
use crate::inventory::TableKind;
use crate::issue::{Issue, Issues};
use crate::profile::{
    Boot, Bundle, DiskSelector, Distribution, File, Filesystem, Foreign, Kernel, Keyboard, Layer,
    LocalPackage, LockUse, Medium, Network, Pocket, Repository, Rung, Script, Shutdown, User,
};
use crate::size::Bytes;

pub(crate) use defaults::SPARE;

/// What one machine shall become. Every default is filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Resolved {
    /// Name of the site; empty where a profile was given by hand.
    #[serde(default)]
    pub site: String,
    /// Name of the profile.
    pub profile: String,
    /// Revision of the bundle it came from.
    pub revision: String,
    /// Classes that count on this machine, in order.
    pub classes: Vec<String>,
    /// Host name.
    pub hostname: String,
    /// Locale.
    pub locale: String,
    /// Keyboard.
    pub keyboard: Keyboard,
    /// Time zone.
    pub timezone: String,
    /// Users, the one of `identity` first.
    pub users: Vec<User>,
    /// Whether people whose files are kept keep their accounts.
    #[serde(default)]
    pub keep_accounts: bool,
    /// SSH keys that open root's account: those of `ssh.authorized-keys` where no user of `identity` is.
    pub root_keys: Vec<String>,
    /// Whether the SSH server is installed.
    pub ssh_server: bool,
    /// Whether it accepts passwords.
    pub ssh_passwords: bool,
    /// Network.
    pub network: Network,
    /// Archives.
    pub archive: Archive,
    /// What a signed lock is to the machine.
    #[serde(default)]
    pub lock: LockUse,
    /// How many days old that may be at most.
    #[serde(default)]
    pub lock_days: Option<u32>,
    /// Whether it may be older than the one the machine was installed from.
    #[serde(default)]
    pub lock_older: bool,
    /// Packages besides kernel, boot loader and what the settings themselves need.
    pub packages: Vec<String>,
    /// Kernel package and arguments; the package is always set.
    pub kernel: Kernel,
    /// The boot menu.
    #[serde(default)]
    pub boot: Boot,
    /// Debconf answers.
    pub debconf: Vec<String>,
    /// Disks and volumes.
    pub storage: StorageWishes,
    /// Files, with variables replaced.
    pub files: Vec<File>,
    /// Scripts, with variables replaced.
    pub late_commands: Vec<Script>,
    /// What to do at the end.
    pub shutdown: Shutdown,
}

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Archive {
    /// Distribution.
    pub distribution: Distribution,
    /// Code name of the release.
    pub suite: String,
    /// Mirrors of the main archive, in the order they are tried.
    pub mirrors: Vec<String>,
    /// Mirrors of the security archive.
    pub security_mirrors: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Companion suites.
    pub pockets: Vec<Pocket>,
    /// Armoured keys of the archive, if not the distribution's.
    pub key: Option<String>,
    /// More repositories, by name.
    pub sources: BTreeMap<String, Repository>,
    /// Whether recommended packages are installed too.
    pub install_recommends: bool,
    /// Texts for `/etc/apt/preferences.d`.
    pub preferences: BTreeMap<String, String>,
    /// Packages that are never installed.
    #[serde(default)]
    pub never: Vec<String>,
    /// Packages that stay at their version.
    #[serde(default)]
    pub hold: Vec<String>,
    /// Packages of the site itself, from beside its classes.
    #[serde(default)]
    pub local: Vec<LocalPackage>,
}

/// What the planner is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StorageWishes {
    /// Kind of table to make.
    pub table: TableKind,
    /// Which disks may be used.
    pub disks: Option<DiskSelector>,
    /// What happens to other systems.
    #[serde(default)]
    pub foreign: Foreign,
    /// Whether people's files that are found are kept.
    pub keep_homes: bool,
    /// What may be given up, in this order.
    pub ladder: Vec<Rung>,
    /// Volumes in the order root, others by name, swap last. The boot chain is the planner's own.
    pub volumes: Vec<VolumeWish>,
    /// The place for a second root, where that is wanted: as large as is enough for one, and never mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<VolumeWish>,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VolumeWish {
    /// Its name in the profile: `root`, `home`, `swap`, or the administrator's own.
    pub name: String,
    /// Mount point; `None` for swap.
    pub mount: Option<String>,
    /// Filesystem.
    pub filesystem: Filesystem,
    /// Refused below.
    pub min: Bytes,
    /// Everybody gets this first.
    pub enough: Bytes,
    /// Never more.
    pub max: Option<Bytes>,
    /// People keep files here.
    pub user_data: bool,
    /// May be left out.
    pub optional: bool,
    /// The lower, the earlier it is left out.
    pub priority: u32,
    /// The medium that suits it.
    pub medium: Medium,
    /// May be put together from several disks.
    pub span: bool,
}

/// Lays the layers of `bundle` over each other for the machine in `inventory`. `asset` fills
/// `${asset}`; without it (a plan made on a desk) the name is `akene-new`.
///
/// # Errors
/// Every issue found, each naming the layer and key.
pub fn resolve(
    bundle: &Bundle,
    inventory: &Inventory,
    asset: Option<AssetNumber>,
) -> Result<Resolved, Issues> {
    let mut merged = Merged::default();
    for missing in bundle.profile.classes.iter().filter(|n| bundle.classes.iter().all(|(name, _)| name != *n))
    {
        merged.issues.push(Issue::new(
            "class-missing",
            format!("profiles/{}: classes", bundle.name),
            format!("there is no class `{missing}`"),
            crate::profile::nearest(missing, bundle.classes.iter().map(|(name, _)| name.as_str()))
                .map(|near| format!("did you mean `{near}`?"))
                .unwrap_or_else(|| format!("make classes/{missing}/class.toml, or take it out of the list")),
        ));
    }
    for (name, class) in &bundle.classes {
        if class.when.as_ref().is_none_or(|rule| rule.matches(inventory)) {
            merged.classes.push(name.clone());
            merged.lay(class, &format!("classes/{name}"));
        }
    }
    merged.lay(&bundle.profile, &format!("profiles/{}", bundle.name));
    merged.finish(bundle, inventory, asset)
}

/// Layers laid over each other so far.
#[derive(Default)]
struct Merged {
    layer: Layer,
    classes: Vec<String>,
    issues: Vec<Issue>,
}

/// Replaces a single value when the upper layer has one.
fn replace<T: Clone>(lower: &mut Option<T>, upper: &Option<T>) {
    if upper.is_some() {
        lower.clone_from(upper);
    }
}

/// Appends the upper layer's items that are not there yet.
fn append<T: Clone + PartialEq>(lower: &mut Vec<T>, upper: &[T]) {
    for item in upper {
        if !lower.contains(item) {
            lower.push(item.clone());
        }
    }
}

/// Replaces a list as a whole when the upper layer has one: for lists whose order is a preference.
fn replace_list<T: Clone>(lower: &mut Vec<T>, upper: &[T]) {
    if !upper.is_empty() {
        lower.clear();
        lower.extend_from_slice(upper);
    }
}

/// Appends names that are not there yet; `-name` takes one out.
fn append_names(lower: &mut Vec<String>, upper: &[String]) {
    for name in upper {
        match name.strip_prefix('-') {
            Some(name) => lower.retain(|there| there != name),
            None => append(lower, std::slice::from_ref(name)),
        }
    }
}

/// Packages that conflict with `initramfs-tools`, which every system gets: that has its settings and hooks from us. So
/// in bookworm, trixie, noble. Their `-core` packages conflict with nothing.
const OTHER_INITRAMFS: [&str; 2] = ["dracut", "tiny-initramfs"];

/// The name in `name=version`.
fn package_name(package: &str) -> &str {
    package.split('=').next().unwrap_or(package)
}

impl Merged {
    fn lay(&mut self, upper: &Layer, path: &str) {
        let lower = &mut self.layer;
        lower.variables.extend(upper.variables.clone());
        replace(&mut lower.locale, &upper.locale);
        replace(&mut lower.keyboard, &upper.keyboard);
        replace(&mut lower.timezone, &upper.timezone);
        replace(&mut lower.keep_accounts, &upper.keep_accounts);
        replace(&mut lower.shutdown, &upper.shutdown);
        if let Some(upper) = &upper.identity {
            let lower = lower.identity.get_or_insert_default();
            replace(&mut lower.hostname, &upper.hostname);
            replace(&mut lower.username, &upper.username);
            replace(&mut lower.realname, &upper.realname);
            replace(&mut lower.password, &upper.password);
        }
        if let Some(upper) = &upper.ssh {
            let lower = lower.ssh.get_or_insert_default();
            replace(&mut lower.install_server, &upper.install_server);
            replace(&mut lower.allow_pw, &upper.allow_pw);
            append(&mut lower.authorized_keys, &upper.authorized_keys);
        }
        if let Some(upper) = &upper.network {
            let lower = lower.network.get_or_insert_default();
            replace(&mut lower.fixed, &upper.fixed);
            replace(&mut lower.proxy, &upper.proxy);
            replace_list(&mut lower.ntp, &upper.ntp);
        }
        if let Some(upper) = &upper.apt {
            let lower = lower.apt.get_or_insert_default();
            replace(&mut lower.distribution, &upper.distribution);
            replace(&mut lower.suite, &upper.suite);
            replace_list(&mut lower.mirrors, &upper.mirrors);
            replace_list(&mut lower.security_mirrors, &upper.security_mirrors);
            replace_list(&mut lower.components, &upper.components);
            replace(&mut lower.pockets, &upper.pockets);
            replace(&mut lower.key, &upper.key);
            replace(&mut lower.install_recommends, &upper.install_recommends);
            replace(&mut lower.lock, &upper.lock);
            replace(&mut lower.lock_days, &upper.lock_days);
            replace(&mut lower.lock_older, &upper.lock_older);
            lower.sources.extend(upper.sources.clone());
            lower.preferences.extend(upper.preferences.clone());
            append_names(&mut lower.never, &upper.never);
            append_names(&mut lower.hold, &upper.hold);
        }
        if let Some(upper) = &upper.kernel {
            let lower = lower.kernel.get_or_insert_default();
            replace(&mut lower.package, &upper.package);
            append(&mut lower.arguments, &upper.arguments);
        }
        if let Some(upper) = &upper.boot {
            replace(&mut lower.boot.get_or_insert_default().password, &upper.password);
        }
        if let Some(upper) = &upper.storage {
            let lower = lower.storage.get_or_insert_default();
            replace(&mut lower.table, &upper.table);
            replace(&mut lower.disks, &upper.disks);
            replace(&mut lower.foreign, &upper.foreign);
            replace(&mut lower.keep_homes, &upper.keep_homes);
            replace(&mut lower.rollback, &upper.rollback);
            replace_list(&mut lower.ladder, &upper.ladder);
            for (name, upper) in &upper.volumes {
                let lower = lower.volumes.entry(name.clone()).or_default();
                replace(&mut lower.mount, &upper.mount);
                replace(&mut lower.filesystem, &upper.filesystem);
                replace(&mut lower.min, &upper.min);
                replace(&mut lower.enough, &upper.enough);
                replace(&mut lower.max, &upper.max);
                replace(&mut lower.user_data, &upper.user_data);
                replace(&mut lower.optional, &upper.optional);
                replace(&mut lower.priority, &upper.priority);
                replace(&mut lower.medium, &upper.medium);
                replace(&mut lower.span, &upper.span);
                replace(&mut lower.wanted, &upper.wanted);
            }
        }
        for package in &upper.packages {
            match package.strip_prefix('-') {
                Some(name) => lower.packages.retain(|p| package_name(p) != package_name(name)),
                None => {
                    // The upper layer's version counts; the package stays at its place in the list.
                    match lower.packages.iter_mut().find(|p| package_name(p) == package_name(package)) {
                        Some(there) => there.clone_from(package),
                        None => lower.packages.push(package.clone()),
                    }
                }
            }
        }
        for package in &upper.local_packages {
            // The upper layer's version counts, as with files.
            lower.local_packages.retain(|there| there.name != package.name);
            lower.local_packages.push(package.clone());
        }
        append(&mut lower.debconf_selections, &upper.debconf_selections);
        append(&mut lower.late_commands, &upper.late_commands);
        for user in &upper.users {
            // A user or file named again is changed by the upper layer, not there twice.
            lower.users.retain(|u| u.name != user.name);
            lower.users.push(user.clone());
        }
        for file in &upper.files {
            lower.files.retain(|f| f.path != file.path);
            lower.files.push(file.clone());
        }
        crate::check::layer(upper, path, &mut self.issues);
    }

    fn finish(
        mut self,
        bundle: &Bundle,
        inventory: &Inventory,
        asset: Option<AssetNumber>,
    ) -> Result<Resolved, Issues> {
        let layer = std::mem::take(&mut self.layer);
        let mut variables = layer.variables;
        let asset = asset.map(|a| a.to_string().replace('-', "")).unwrap_or_else(|| "new".into());
        variables.insert("asset".into(), asset);
        let identity = layer.identity.unwrap_or_default();
        let hostname = identity.hostname.as_deref().unwrap_or("akene-${asset}");
        let hostname = substitute(hostname, &variables, "identity.hostname", &mut self.issues);
        crate::check::hostname(&hostname, &mut self.issues);
        variables.insert("hostname".into(), hostname.clone());

        let ssh = layer.ssh.unwrap_or_default();
        let mut users = layer.users;
        let mut root_keys = Vec::new();
        match identity.username {
            Some(name) => {
                users.retain(|u| u.name != name);
                let first = User {
                    name,
                    realname: identity.realname,
                    password: identity.password,
                    groups: Vec::new(),
                    sudo: true,
                    shell: None,
                    uid: None,
                    authorized_keys: ssh.authorized_keys,
                };
                users.insert(0, first);
            }
            None => root_keys = ssh.authorized_keys,
        }
        let files = layer
            .files
            .into_iter()
            .map(|file| File {
                content: file.content.as_ref().map(|text| match file.verbatim {
                    true => text.clone(),
                    false => substitute(text, &variables, &format!("files.{}", file.path), &mut self.issues),
                }),
                ..file
            })
            .collect();
        let late_commands = layer
            .late_commands
            .into_iter()
            .enumerate()
            .map(|(i, script)| {
                let mut put = |text: &str| {
                    substitute(text, &variables, &format!("late-commands[{i}]"), &mut self.issues)
                };
                match script {
                    Script::Line(line) => Script::Line(put(&line)),
                    Script::Named { name, script } => Script::Named { name, script: put(&script) },
                }
            })
            .collect();
        let apt = layer.apt.as_ref();
        let lock = apt.and_then(|apt| apt.lock).unwrap_or_default();
        let lock_days = apt.and_then(|apt| apt.lock_days);
        let lock_older = apt.and_then(|apt| apt.lock_older).unwrap_or_default();
        let archive = defaults::archive(layer.apt.unwrap_or_default(), &mut self.issues);
        let archive = Archive { local: layer.local_packages, ..archive };
        for package in layer.packages.iter().filter(|p| archive.never.iter().any(|n| n == package_name(p))) {
            let name = package_name(package);
            self.issues.push(Issue::new(
                "package-never",
                "packages",
                format!("`{name}` is to be installed and also never to be (`apt.never`)"),
                format!("take it out of one of them: \"-{name}\" in the profile's list"),
            ));
        }
        let unsupported = layer.packages.iter().filter(|p| OTHER_INITRAMFS.contains(&package_name(p)));
        self.issues.extend(unsupported.map(|package| {
            let layers = bundle.classes.iter().filter(|(name, _)| self.classes.contains(name));
            let mut layers = layers
                .map(|(name, class)| (format!("classes/{name}"), class))
                .chain([(format!("profiles/{}", bundle.name), &bundle.profile)]);
            // The uppermost has the say, also about the version.
            let path = layers.rfind(|(_, layer)| layer.packages.contains(package));
            let name = package_name(package);
            Issue::new(
                "package-not-supported",
                path.map_or("packages".to_owned(), |(layer, _)| format!("{layer}: packages")),
                format!("`{name}` takes the place of `initramfs-tools`, by which installed systems start"),
                "take it out of the list; the parts of dracut that stand beside `initramfs-tools` (`dracut-core`) may \
                 stay",
            )
        }));
        let mut kernel = layer.kernel.unwrap_or_default();
        kernel.package.get_or_insert_with(|| archive.distribution.default_kernel().to_owned());
        let storage = defaults::storage(layer.storage.unwrap_or_default(), inventory, &mut self.issues);
        let resolved = Resolved {
            site: bundle.site.clone(),
            profile: bundle.name.clone(),
            revision: bundle.revision.clone(),
            classes: self.classes,
            hostname,
            locale: layer.locale.unwrap_or_else(|| "C.UTF-8".into()),
            keyboard: layer
                .keyboard
                .unwrap_or_else(|| Keyboard { layout: "us".into(), variant: String::new() }),
            timezone: layer.timezone.unwrap_or_else(|| "Etc/UTC".into()),
            users,
            keep_accounts: layer.keep_accounts.unwrap_or(false),
            root_keys,
            ssh_server: ssh.install_server.unwrap_or(false),
            ssh_passwords: ssh.allow_pw.unwrap_or(false),
            network: layer.network.unwrap_or_default(),
            archive,
            lock,
            lock_days,
            lock_older,
            packages: layer.packages,
            kernel,
            boot: layer.boot.unwrap_or_default(),
            debconf: layer.debconf_selections,
            storage,
            files,
            late_commands,
            shutdown: layer.shutdown.unwrap_or_default(),
        };
        match self.issues.is_empty() {
            true => Ok(resolved),
            false => Err(Issues(self.issues)),
        }
    }
}

/// Replaces `${NAME}`; `$$` stands for a dollar sign before a brace.
fn substitute(
    text: &str,
    variables: &BTreeMap<String, String>,
    path: &str,
    issues: &mut Vec<Issue>,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let Some(end) = from.find('}') else { break };
        let name = &from[2..end];
        rest = &from[end + 1..];
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str(&from[..=end]);
            continue;
        }
        out.push_str(before);
        match variables.get(name) {
            Some(value) => out.push_str(value),
            None => {
                let near = crate::profile::nearest(name, variables.keys().map(String::as_str));
                let next = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "add it to `variables`, write `$${{{name}}}` for the text itself, or set `verbatim`"
                    ),
                };
                issues.push(Issue::new(
                    "variable-unknown",
                    path,
                    format!("there is no variable `{name}`"),
                    next,
                ));
            }
        }
    }
    out.push_str(rest);
    out
}
