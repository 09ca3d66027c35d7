//! A profile's archives as apt's deb822 source files.
//!
//! The same text is written into the private tree in which packages are chosen and, at the end, into the
//! installed system; only the place of the keys differs. apt names its index files after the
//! addresses alone, so the indexes fetched by one serve the other.

use std::path::{Path, PathBuf};

use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use akene_protocol::profile::{Distribution, Pocket};
use akene_protocol::resolve::Archive;

/// What goes below `/etc/apt` for a profile's archives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFiles {
    /// Files of `sources.list.d` by name, `ubuntu.sources`.
    pub sources: Vec<(String, String)>,
    /// Armoured keys by file name, to be written into the key directory.
    pub keys: Vec<(String, String)>,
    /// Files of `preferences.d` by name.
    pub preferences: Vec<(String, String)>,
}

/// Writes a profile's archives as source files.
///
/// `main` and `security` are the mirrors to use; `key_dir` is where the keys of [`SourceFiles::keys`] will
/// lie, as apt will see it; `keyring` holds the distribution's keys, as apt will see it, and is used when the
/// profile brings no key of its own for the main archive.
///
/// # Errors
/// An address, suite, component or name that would break out of its line.
pub fn source_files(
    archive: &Archive,
    main: &str,
    security: &str,
    key_dir: &Path,
    keyring: &Path,
) -> Result<SourceFiles, Issues> {
    let mut files = SourceFiles { preferences: preferences(archive), ..SourceFiles::default() };
    let mut issues = Vec::new();
    let distribution = match archive.distribution {
        Distribution::Debian => "debian",
        Distribution::Ubuntu => "ubuntu",
    };
    let signed_by: PathBuf = match &archive.key {
        Some(key) => {
            let name = format!("{distribution}-archive.asc");
            files.keys.push((name.clone(), ending_in_newline(key)));
            key_dir.join(name)
        }
        None => keyring.to_owned(),
    };
    let with_pocket = |pocket: Pocket, ending: &str| {
        archive.pockets.contains(&pocket).then(|| format!("{}-{ending}", archive.suite))
    };
    let suites: Vec<String> = [
        Some(archive.suite.clone()),
        with_pocket(Pocket::Updates, "updates"),
        with_pocket(Pocket::Backports, "backports"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut text = stanza(main, &suites, &archive.components, &signed_by, "apt", &mut issues);
    if let Some(suite) = with_pocket(Pocket::Security, "security") {
        text.push('\n');
        text += &stanza(security, &[suite], &archive.components, &signed_by, "apt", &mut issues);
    }
    files.sources.push((format!("{distribution}.sources"), text));

    for (name, repository) in &archive.sources {
        let path = format!("apt.sources.{name}");
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if name.is_empty() || !name.chars().all(fits) || name == distribution {
            issues.push(Issue::new(
                "source-unusable",
                &path,
                format!("`{name}` cannot be the name of a repository"),
                "use letters, digits, `-` and `_`, and not the name of the distribution",
            ));
            continue;
        }
        let key = format!("{name}.asc");
        let text = stanza(
            &repository.uri,
            &repository.suites,
            &repository.components,
            &key_dir.join(&key),
            &path,
            &mut issues,
        );
        files.keys.push((key, ending_in_newline(&repository.key)));
        files.sources.push((format!("{name}.sources"), text));
    }
    match issues.is_empty() {
        true => Ok(files),
        false => Err(Issues(issues)),
    }
}

/// The name under which [`Archive::never`] is written.
const NEVER: &str = "akene-never";

/// The profile's own preferences, and one that keeps packages out for good: while packages are chosen, and when
/// somebody installs more on the machine later.
fn preferences(archive: &Archive) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> =
        archive.preferences.iter().map(|(name, text)| (name.clone(), text.clone())).collect();
    if !archive.never.is_empty() {
        let pins =
            archive.never.iter().map(|name| format!("\nPackage: {name}\nPin: release *\nPin-Priority: -1\n"));
        files.push((
            NEVER.into(),
            "# Packages that are never installed: `apt.never` of the profile.\n".to_owned()
                + &pins.collect::<String>(),
        ));
    }
    files
}

fn ending_in_newline(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

fn stanza(
    uri: &str,
    suites: &[String],
    components: &[String],
    signed_by: &Path,
    path: &str,
    issues: &mut Vec<Issue>,
) -> String {
    let words = [uri].into_iter().chain(suites.iter().chain(components).map(String::as_str));
    for word in words {
        if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
            issues.push(Issue::new(
                "source-unusable",
                path,
                format!("{word:?} cannot stand in a list of archives"),
                "addresses, suites and components hold neither spaces nor line ends",
            ));
        }
    }
    if !["http://", "https://", "file:/"].iter().any(|scheme| uri.starts_with(scheme)) {
        issues.push(Issue::new(
            "source-unusable",
            path,
            format!("`{uri}` is not an address of an archive"),
            "write http://…, https://… or file:/…",
        ));
    }
    let mut text = format!("Types: deb\nURIs: {uri}\nSuites: {}\n", suites.join(" "));
    if !components.is_empty() && !suites.iter().any(|s| s.ends_with('/')) {
        text += &format!("Components: {}\n", components.join(" "));
    }
    text += &format!("Signed-By: {}\n", signed_by.display());
    text
}
