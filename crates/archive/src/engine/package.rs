//! What a `.deb` says of itself: the control part, read whole and once.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::deb::{Deb, UnknownCompression, to_its_end};

/// Everything of a control part that is kept in the database together may not be larger; the largest of a
/// release have 3 MiB (tables of sums).
const MAX_CONTROL: u64 = 64 << 20;

/// The paragraph itself, which the database keeps in its own list.
pub(super) const CONTROL: &str = "control";

/// A package that is going to be laid into a root.
#[derive(Debug)]
pub(super) struct Package {
    pub deb: Deb,
    /// Name.
    pub name: String,
    /// Architecture: `amd64`, `all`.
    pub architecture: String,
    /// Whether packages of this name for several architectures may stand side by side: then the files of dpkg's
    /// database are called `NAME:ARCHITECTURE.*`.
    multi_arch_same: bool,
    /// Names this package stands for: its own and what it provides.
    pub provides: BTreeSet<String>,
    /// Names in `Pre-Depends`, of all alternatives.
    pub pre_depends: BTreeSet<String>,
    /// Names in `Depends`, of all alternatives.
    pub depends: BTreeSet<String>,
    /// The paragraph as the package brings it, without an empty line at its end.
    paragraph: String,
    /// Files of the control part, the paragraph among them.
    pub members: Vec<Member>,
    /// Configuration files, with a leading slash.
    pub conffiles: Vec<Conffile>,
    /// What it wants to be told of, and what it tells others.
    pub triggers: Vec<Trigger>,
    /// Why only dpkg can read it. Where that is its control part, nothing is known of it but its name.
    pub foreign: Option<String>,
}

/// A file of the control part.
#[derive(Debug)]
pub(super) struct Member {
    pub name: String,
    pub mode: u32,
    /// Seconds since 1970.
    pub time: i64,
    pub content: Vec<u8>,
}

/// A configuration file as `conffiles` names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conffile {
    /// Path with a leading slash.
    pub path: String,
    /// The package no longer brings it and wants it removed on an upgrade.
    pub remove_on_upgrade: bool,
}

/// A line of `triggers`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// The package is told when `name` (a path if it begins with a slash) is activated.
    Interest { name: String, wait: bool },
    /// Unpacking the package activates `name`.
    Activate { name: String, wait: bool },
}

impl Trigger {
    /// What is activated.
    pub fn name(&self) -> &str {
        match self {
            Trigger::Interest { name, .. } | Trigger::Activate { name, .. } => name,
        }
    }
}

impl Package {
    /// Whether the scripts that are run when it is installed hold one of these words.
    pub fn scripts_name(&self, words: &[&[u8]]) -> bool {
        let names = |content: &[u8]| words.iter().any(|word| content.windows(word.len()).any(|w| w == *word));
        ["preinst", "config", "postinst"]
            .iter()
            .filter_map(|script| self.member(script))
            .any(|s| names(&s.content))
    }

    /// Reads the control part. One that we do not understand dpkg may: it has come unharmed from where it is from.
    ///
    /// # Errors
    /// There is no such file, or its name is none of a package.
    pub fn read(path: &Path) -> Result<Self> {
        std::fs::metadata(path).with_context(|| format!("looking at the package {}", path.display()))?;
        let deb = Deb::new(path);
        Self::parse(deb.clone()).or_else(|error| {
            let why = format!("{error:#}");
            Self::unread(deb, &why).with_context(|| format!("reading the package {}: {why}", path.display()))
        })
    }

    /// What the name of the file says: `NAME_VERSION_ARCHITECTURE.deb`.
    fn unread(deb: Deb, why: &str) -> Result<Self> {
        let file = deb.path().file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let parts: Vec<&str> = file.trim_end_matches(".deb").split('_').collect();
        let [name, _, architecture] = parts[..] else { bail!("`{file}` is not the name of a package") };
        if !is_name(name) || !is_name(architecture) {
            bail!("`{file}` is not the name of a package");
        }
        Ok(Package {
            name: name.to_owned(),
            architecture: architecture.to_owned(),
            multi_arch_same: false,
            provides: BTreeSet::from([name.to_owned()]),
            pre_depends: BTreeSet::new(),
            depends: BTreeSet::new(),
            paragraph: String::new(),
            members: Vec::new(),
            conffiles: Vec::new(),
            triggers: Vec::new(),
            foreign: Some(why.to_owned()),
            deb,
        })
    }

    fn parse(deb: Deb) -> Result<Self> {
        let mut members = Vec::new();
        let mut paragraph = None;
        let mut tar = tar::Archive::new(deb.member("control.tar")?.take(MAX_CONTROL));
        for entry in tar.entries().context("reading the control archive")? {
            let mut entry = entry.context("reading the control archive")?;
            let path: PathBuf = entry.path().context("reading the control archive")?.into_owned();
            let path = path.strip_prefix(".").unwrap_or(&path);
            let Some(name) = path.to_str().filter(|n| !n.is_empty() && entry.header().entry_type().is_file())
            else {
                continue;
            };
            if !is_plain(name) {
                bail!("its control archive holds a file called `{name}`");
            }
            let mode = entry.header().mode().context("reading the control archive")? & 0o777;
            let time = entry.header().mtime().context("reading the control archive")?;
            let (name, time) = (name.to_owned(), i64::try_from(time).unwrap_or(0));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).with_context(|| format!("reading {name}"))?;
            if name == CONTROL {
                paragraph = Some(String::from_utf8(content.clone()).context("reading the control file")?);
            }
            members.push(Member { name, mode, time, content });
        }
        to_its_end(tar)?;
        let paragraph = paragraph.context("looking for the control file, which it does not have")?;
        let paragraph = one_paragraph(&paragraph)?;
        let field = |name: &str| value(&paragraph, name);
        let name = field("Package").context("looking for its name")?;
        let architecture = field("Architecture").context("looking for its architecture")?;
        if field("Version").is_none() || !is_name(&name) || !is_name(&architecture) {
            bail!("its control file has no usable name, version or architecture");
        }
        let names = |text: Option<String>| text.map_or_else(BTreeSet::new, |t| relation_names(&t));
        let mut provides = names(field("Provides"));
        provides.insert(name.clone());
        let text = |file: &str| -> Result<&str> {
            let found = members.iter().find(|m| m.name == file).map_or(&[][..], |m| &m.content);
            std::str::from_utf8(found).with_context(|| format!("reading {file}"))
        };
        let (conffiles, triggers) = (conffiles(text("conffiles")?), triggers(text("triggers")?)?);
        let foreign = match deb.member("data.tar") {
            Err(error) if error.is::<UnknownCompression>() => Some(format!("{error:#}")),
            data => data.map(|_| None)?,
        };
        Ok(Package {
            deb,
            multi_arch_same: field("Multi-Arch").as_deref() == Some("same"),
            pre_depends: names(field("Pre-Depends")),
            depends: names(field("Depends")),
            name,
            architecture,
            provides,
            paragraph,
            members,
            conffiles,
            triggers,
            foreign,
        })
    }

    /// What dpkg has taken from one that was handed over to it, if it was not known before.
    pub fn learn(&mut self, triggers_found: &str) {
        if self.members.is_empty() {
            // What we cannot read here either, dpkg carries out.
            self.triggers = triggers(triggers_found).unwrap_or_default();
        }
    }

    /// A script or other file of the control part.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.name == name)
    }

    /// Version.
    pub fn version(&self) -> Option<String> {
        value(&self.paragraph, "Version")
    }

    /// How dpkg calls the package where architectures must be told apart, and how its files in the database
    /// begin: `libc6:amd64`, `dash`.
    pub fn label(&self) -> String {
        match self.multi_arch_same {
            true => format!("{}:{}", self.name, self.architecture),
            false => self.name.clone(),
        }
    }

    /// The paragraph of dpkg's status file for the package as it is when its files are there and nothing of it
    /// has been configured.
    pub fn status(&self) -> String {
        let mut text = String::with_capacity(self.paragraph.len() + 100);
        for line in self.paragraph.lines() {
            text += line;
            text.push('\n');
            if is_field(line, "Package") {
                text += "Status: install ok unpacked\n";
            }
        }
        if !self.conffiles.is_empty() {
            text += "Conffiles:\n";
            for conffile in &self.conffiles {
                text += &format!(" {} newconffile", conffile.path);
                text += if conffile.remove_on_upgrade { " remove-on-upgrade\n" } else { "\n" };
            }
        }
        text.push('\n');
        text
    }
}

/// A file name that is nothing but a name.
fn is_plain(name: &str) -> bool {
    name != ".." && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
}

/// A name of a package or an architecture.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b))
}

/// The control file without empty lines around it; a second paragraph, or a field dpkg keeps for itself, would
/// be taken into its database as if dpkg had written it.
fn one_paragraph(text: &str) -> Result<String> {
    let text = text.trim_matches(['\n', '\r']);
    if text.lines().any(|line| line.trim().is_empty()) {
        bail!("its control file has several paragraphs");
    }
    for own in ["Status", "Conffiles", "Config-Version", "Triggers-Pending", "Triggers-Awaited"] {
        if text.lines().any(|line| is_field(line, own)) {
            bail!("its control file has the field {own}, which is dpkg's own");
        }
    }
    // dpkg reads no database with a line that is no field, or a field that stands twice.
    let mut fields = BTreeSet::new();
    for line in text.lines() {
        if !fields.is_empty() && line.starts_with([' ', '\t']) {
            continue;
        }
        let name = line.split_once(':').map_or("", |(name, _)| name.trim_end()).to_ascii_lowercase();
        if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
            bail!("its control file has the line `{line}`, which is no field");
        }
        if fields.contains(&name) {
            bail!("its control file has the field {name} twice");
        }
        fields.insert(name);
    }
    Ok(text.to_owned())
}

/// dpkg takes blanks between a field's name and its colon, and does not care for case.
fn is_field(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(found, _)| found.trim_end().eq_ignore_ascii_case(name))
}

/// The value of a field, its continuation lines joined by a space.
fn value(paragraph: &str, name: &str) -> Option<String> {
    let mut lines =
        paragraph.lines().skip_while(|line| line.starts_with([' ', '\t']) || !is_field(line, name));
    let mut value = lines.next()?.split_once(':')?.1.trim().to_owned();
    for more in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push(' ');
        value += more.trim();
    }
    Some(value)
}

/// All names in a relation: `a (>= 1) | b:any, c` names a, b and c.
fn relation_names(text: &str) -> BTreeSet<String> {
    let words = text.split([',', '|']).filter_map(|one| one.split_whitespace().next());
    words.map(|w| w.split([':', '(']).next().unwrap_or(w).to_owned()).filter(|n| !n.is_empty()).collect()
}

fn conffiles(text: &str) -> Vec<Conffile> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| match line.strip_prefix("remove-on-upgrade ") {
            Some(path) => Conffile { path: path.trim().to_owned(), remove_on_upgrade: true },
            None => Conffile { path: line.to_owned(), remove_on_upgrade: false },
        })
        .collect()
}

/// The directives of deb-triggers(5). One that is not known is refused: leaving it out would lose work.
fn triggers(text: &str) -> Result<Vec<Trigger>> {
    let mut triggers = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut words = line.split_whitespace();
        let (Some(directive), name) = (words.next(), words.next()) else { continue };
        let name = name.with_context(|| format!("reading its trigger `{line}`"))?.to_owned();
        // A path, or what could be the name of a package: dpkg has a file of that name.
        if !name.starts_with('/') && !is_name(&name.replace('_', "-")) {
            bail!("its trigger `{line}` has a name that is none");
        }
        let wait = !directive.ends_with("-noawait");
        triggers.push(match directive {
            "interest" | "interest-await" | "interest-noawait" => Trigger::Interest { name, wait },
            "activate" | "activate-await" | "activate-noawait" => Trigger::Activate { name, wait },
            _ => bail!("its trigger `{line}` is of a kind that is not known"),
        });
    }
    Ok(triggers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_cannot_read_is_for_dpkg() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, "!<arch>\n").unwrap();
            path
        };
        let package = Package::read(&write("odd-driver_1%3a2-3_amd64.deb")).unwrap();
        assert_eq!((package.name.as_str(), package.architecture.as_str()), ("odd-driver", "amd64"));
        assert!(package.foreign.unwrap().contains("control.tar"));
        assert!(Package::read(&write("odd.deb")).is_err());
        assert!(Package::read(&dir.path().join("missing_1_all.deb")).is_err());
    }

    #[test]
    fn relations_name_everything_they_could_mean() {
        let names = relation_names("libc6 (>= 2.36), default-mta | mail-transport-agent,perl:any, a(>>1)");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["a", "default-mta", "libc6", "mail-transport-agent", "perl"]);
        assert!(relation_names("").is_empty());
    }

    #[test]
    fn fields_are_found_with_their_continuations() {
        let text = "Package: a\nDescription: b\n Depends: not this\nDEPENDS: x,\n y\nMulti-Arch: same";
        assert_eq!(value(text, "Depends").as_deref(), Some("x, y"));
        assert_eq!(value(text, "Multi-Arch").as_deref(), Some("same"));
        assert_eq!(value(text, "Provides"), None);
    }

    #[test]
    fn control_files_cannot_smuggle_state_into_the_database() {
        assert!(one_paragraph("Package: a\nVersion: 1\n\nPackage: b\n").is_err());
        assert!(one_paragraph("Package: a\nstatus: install ok installed\n").is_err());
        assert!(one_paragraph("Package: a\nStatus : install ok installed\n").is_err());
        assert!(one_paragraph("Package: a\nVersion: 1\npackage : a\n").is_err());
        for odd in ["nothing", "two words: x", "-dash: x", ": x", " Package: a"] {
            assert!(one_paragraph(&format!("{odd}\nPackage: a\nVersion: 1\n")).is_err(), "{odd}");
        }
        assert!(one_paragraph("Package: a\nDescription: b\n Package: c\n Package: d\n").is_ok());
        assert_eq!(one_paragraph("Package: a\nVersion: 1\n\n").unwrap(), "Package: a\nVersion: 1");
    }

    #[test]
    fn triggers_and_conffiles_are_read_as_dpkg_reads_them() {
        let interest = |name: &str, wait| Trigger::Interest { name: name.into(), wait };
        let activate = |name: &str, wait| Trigger::Activate { name: name.into(), wait };
        let read = triggers(
            "# x\ninterest-noawait /usr/share/man # y\nactivate ldconfig\ninterest a\nactivate-noawait b\n",
        );
        let expected = [
            interest("/usr/share/man", false),
            activate("ldconfig", true),
            interest("a", true),
            activate("b", false),
        ];
        assert_eq!(read.unwrap(), expected);
        assert!(triggers("interest\n").is_err());
        assert!(triggers("frobnicate x\n").is_err());
        for climbing in ["../status", "../../../etc/x", ".hidden", "a/b"] {
            assert!(triggers(&format!("interest {climbing}\n")).is_err(), "{climbing}");
        }
        assert!(triggers("activate some_name+1.x\n").is_ok());
        let found = conffiles("/etc/a\n\nremove-on-upgrade /etc/b\n/etc/with space\n");
        let flat: Vec<(&str, bool)> = found.iter().map(|c| (c.path.as_str(), c.remove_on_upgrade)).collect();
        assert_eq!(flat, [("/etc/a", false), ("/etc/b", true), ("/etc/with space", false)]);
    }
}
