//! `akene-server init`: a complete site directory in one command.

use std::fs;
use std::path::Path;

use akene_protocol::api::Consent;
use akene_protocol::profile::{Distribution, Keyboard};
use akene_protocol::stamp::{Source, Tls};
use akene_protocol::{Language, PublicKey, Secret, Stamp};
use anyhow::{Context as _, Result, bail, ensure};
use rcgen::KeyPair;

use super::{Site, builtin, keys, split_url, tokens::Tokens};

/// What `init` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://HOST[:PORT]`, as machines will reach the server.
    pub url: String,
    /// Name of the site. Default: the host.
    pub name: Option<String>,
    /// What new machines may lose.
    pub new_machines: Consent,
    /// A certificate of the administrator's instead of our own authority's.
    pub certificate: Option<GivenCertificate>,
    /// For the default profile.
    pub profile: ProfileOptions,
}

/// A certificate somebody else issued.
#[derive(Clone, Debug)]
pub struct GivenCertificate {
    /// The chain, PEM, server's certificate first.
    pub chain: String,
    /// Its key, PEM.
    pub key: String,
    /// The authority, PEM, when it is not a public one.
    pub ca: Option<String>,
}

/// First values of `profiles/default.toml`.
#[derive(Clone, Debug)]
pub struct ProfileOptions {
    /// Distribution.
    pub distribution: Distribution,
    /// Suite. Default: the newest long-term release.
    pub suite: Option<String>,
    /// Locale.
    pub locale: String,
    /// Keyboard layout.
    pub keyboard: String,
    /// Time zone.
    pub timezone: String,
    /// Login name of the first user.
    pub username: String,
    /// SSH public keys.
    pub authorized_keys: Vec<String>,
}

impl Default for ProfileOptions {
    fn default() -> Self {
        ProfileOptions {
            distribution: Distribution::Ubuntu,
            suite: None,
            locale: "en_US.UTF-8".into(),
            keyboard: "us".into(),
            timezone: "Etc/UTC".into(),
            username: "admin".into(),
            authorized_keys: Vec::new(),
        }
    }
}

impl Options {
    /// Everything by default but the address.
    pub fn new(url: impl Into<String>) -> Options {
        Options {
            url: url.into(),
            name: None,
            new_machines: Consent::Blank,
            certificate: None,
            profile: ProfileOptions::default(),
        }
    }
}

/// Makes a site directory. It is put together beside its place and moved there when complete, so that
/// a failure leaves nothing behind.
///
/// # Errors
/// When `dir` exists and is not an empty directory: nothing is ever overwritten.
pub fn init(dir: &Path, options: &Options) -> Result<Site> {
    let (host, _) = split_url(&options.url)?;
    let in_use = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(e).with_context(|| format!("looking at {}", dir.display())),
    };
    ensure!(
        !in_use,
        "making the site directory {}: it exists already and holds files; nothing was changed. Choose another place",
        dir.display()
    );
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("making the directory {}", parent.display()))?;
    let new = parent.join(format!(".akene-init-{}", keys::random_hex(4)?));
    let outcome = fill(&new, &host, options).and_then(|()| {
        fs::rename(&new, dir).with_context(|| format!("moving the new site to {}", dir.display()))
    });
    if let Err(error) = outcome {
        if new.exists() {
            fs::remove_dir_all(&new)
                .with_context(|| format!("removing {} after: {error:#}", new.display()))?;
        }
        return Err(error);
    }
    Site::open(dir)
}

fn fill(dir: &Path, host: &str, options: &Options) -> Result<()> {
    keys::private_dir(&dir.join("secrets"))?;
    keys::private_dir(&dir.join("state"))?;
    let name = options.name.clone().unwrap_or_else(|| host.to_owned());
    write_texts(dir, &name, options)?;

    let secret =
        |name: &str, text: &str| keys::write_private(&dir.join("secrets").join(name), text.as_bytes());
    secret("site.key", keys::new_signing_key()?.expose())?;
    secret("seal.key", keys::new_seal_key()?.expose())?;
    let (chain, key, ca) = match &options.certificate {
        Some(given) => (given.chain.clone(), given.key.clone(), given.ca.clone()),
        None => {
            let authority = keys::Authority::generate()?;
            let ca = authority.certificate()?.pem();
            secret("ca.key", &authority.key_pem())?;
            secret("ca.pem", &ca)?;
            let key = KeyPair::generate().context("making the server's key")?;
            let chain = authority.issue(host, &key)?.pem();
            (chain, key.serialize_pem(), Some(ca))
        }
    };
    let identity = keys::server_identity(&chain, &key, &rustls::crypto::ring::default_provider())?;
    secret("server.key", &key)?;
    secret("server.pem", &chain)?;

    let mut tokens = Tokens::default();
    let (_, token) = tokens.add("made by init, in stamp.json", None)?;
    tokens.write(&dir.join("secrets/enrol-tokens.toml"))?;
    secret("admin-token", &format!("{}\n", keys::random_hex(32)?))?;

    let site_key = keys::read_signing_key(&dir.join("secrets/site.key"))?;
    let source = Source::Server {
        url: options.url.trim_end_matches('/').to_owned(),
        tls: Tls { ca, pins: vec![identity.pin] },
        token: Some(Secret::new(token.expose())),
    };
    let stamp = Stamp {
        language: Language::of_locale(&options.profile.locale),
        // The default is nobody's choice: the language says more.
        keyboard: (options.profile.keyboard != ProfileOptions::default().keyboard)
            .then(|| Keyboard { layout: options.profile.keyboard.clone(), variant: String::new() }),
        ..Stamp::new(name, source, PublicKey(site_key.verifying_key()))
    };
    Site::write_stamp(&dir.join("stamp.json"), &stamp)
}

/// The files that go into git.
fn write_texts(dir: &Path, name: &str, options: &Options) -> Result<()> {
    let write = |path: &str, text: &str| {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let profile = &options.profile;
    let (distribution, suite) = match profile.distribution {
        Distribution::Debian => ("debian", "bookworm"),
        Distribution::Ubuntu => ("ubuntu", "noble"),
    };
    let consent = match options.new_machines {
        Consent::None => "none",
        Consent::Blank => "blank",
        Consent::Wipe => "wipe",
        Consent::Streamed => "streamed",
    };
    let site = replaced(builtin::SITE, &[("name", name), ("url", &options.url), ("consent", consent)])?;
    let keys: Vec<String> = profile.authorized_keys.iter().map(|key| quoted(key)).collect();
    let text = replaced(
        builtin::PROFILE,
        &[
            ("locale", &profile.locale),
            ("timezone", &profile.timezone),
            ("keyboard", &profile.keyboard),
            ("username", &profile.username),
            ("distribution", distribution),
            ("suite", profile.suite.as_deref().unwrap_or(suite)),
        ],
    )?
    .replace("@keys@", &keys.join(", "));
    write("site.toml", &site)?;
    write("profiles/default.toml", &text)?;
    for (class, text) in builtin::CLASSES {
        write(&format!("classes/{class}/class.toml"), text)?;
    }
    write(".gitignore", builtin::GITIGNORE)
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Replaces each `@NAME@` by the value as a TOML string.
fn replaced(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        let place = format!("@{name}@");
        if !text.contains(&place) {
            bail!("filling in a template: it has no place for `{name}`");
        }
        text = text.replace(&place, &quoted(value));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn site() -> (tempfile::TempDir, Site) {
        let dir = tempfile::tempdir().unwrap();
        let site = init(&dir.path().join("site"), &Options::new("https://127.0.0.1:8443")).unwrap();
        (dir, site)
    }

    #[test]
    fn a_new_site_is_complete_and_correct() {
        let (_dir, site) = site();
        let checked = site.check(None).unwrap();
        assert_eq!(checked.issues, vec![]);
        assert_eq!(checked.profiles, ["default"]);
        let bundle = site.bundle(&site.config().unwrap(), "default").unwrap();
        assert_eq!(bundle.revision.len(), 16);
        assert_eq!(bundle.classes.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["base", "ssh"]);
        let Source::Server { tls, token: Some(token), .. } = site.stamp().unwrap().source else {
            panic!("not a server")
        };
        assert_eq!(tls.pins.len(), 1);
        assert!(site.tokens().unwrap().find(&token, jiff::Timestamp::now()).is_some());
    }

    #[test]
    fn a_profile_of_all_ready_made_classes_is_correct() {
        let (_dir, site) = site();
        let path = site.dir().join("profiles/default.toml");
        let all: Vec<&str> = builtin::CLASSES.iter().map(|(name, _)| *name).collect();
        let text = fs::read_to_string(&path).unwrap();
        let with_all = text.replace("[\"base\", \"ssh\"]", &format!("{all:?}"));
        assert_ne!(text, with_all);
        fs::write(&path, with_all).unwrap();
        let classes = site.bundle(&site.config().unwrap(), "default").unwrap().classes;
        assert!(classes.iter().any(|(_, class)| class.when.is_some()), "one of them carries a rule");
        assert_eq!(site.check(None).unwrap().issues, vec![]);
    }

    #[test]
    fn secrets_are_private_and_ignored_by_git() {
        let (_dir, site) = site();
        let mode = |path: &str| fs::metadata(site.dir().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("secrets"), 0o700);
        assert_eq!(mode("state"), 0o700);
        for entry in fs::read_dir(site.dir().join("secrets")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
        assert_eq!(mode("stamp.json"), 0o600);
        let ignored = fs::read_to_string(site.dir().join(".gitignore")).unwrap();
        assert!(
            ignored.contains("/secrets/") && ignored.contains("/state/") && ignored.contains("/stamp*.json")
        );
    }

    #[test]
    fn nothing_is_overwritten_and_a_failure_leaves_nothing() {
        let (dir, site) = site();
        let before = fs::read(site.secret("site.key")).unwrap();
        let error = init(site.dir(), &Options::new("https://127.0.0.1")).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error:#}");
        assert_eq!(fs::read(site.secret("site.key")).unwrap(), before);

        let given = GivenCertificate { chain: "x".into(), key: "y".into(), ca: None };
        let options = Options { certificate: Some(given), ..Options::new("https://127.0.0.1") };
        init(&dir.path().join("other"), &options).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_that_need_quoting_survive() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new("https://akene.example");
        options.name = Some("L'\"atelier\" \\ Lannion".into());
        options.profile.authorized_keys = vec!["ssh-ed25519 AAAA me".into(), "ssh-rsa BBBB \"you\"".into()];
        let site = init(&dir.path().join("site"), &options).unwrap();
        assert_eq!(site.config().unwrap().name, options.name.unwrap());
        let bundle = site.bundle(&site.config().unwrap(), "default").unwrap();
        assert_eq!(bundle.profile.ssh.unwrap().authorized_keys, options.profile.authorized_keys);
    }
}
