//! The secrets of an installation, and the places where none of them may be.

use std::path::Path;

use akene_exec::{Cmd, Runner, SystemRunner};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::image::Image;
use crate::site::{PASSWORD_HASH, Site, program};

/// Texts that nobody may read, each with what it is.
pub struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    /// Those of a system that was installed from this site with [`PASSWORD_HASH`] in its profile: the token it
    /// enrolled with, the credential it was given, its user's password, and the administrator's token.
    pub fn of(site: &Site, disk: &Path) -> Result<Secrets> {
        let mut image = Image::open(disk)?;
        let root = image.mount_system()?;
        let read = |name: &str| {
            std::fs::read_to_string(root.join(name)).with_context(|| format!("reading {name} of {disk:?}"))
        };
        let identity: Value = serde_json::from_str(&read("etc/akene/identity.json")?)
            .context("reading the identity of the installed system")?;
        let credential = identity["credential"].as_str().context("the identity holds no credential")?;
        // It is where it belongs, so that looking for it elsewhere means something.
        ensure!(read("etc/shadow")?.contains(PASSWORD_HASH), "the password is not in /etc/shadow");
        let admin = std::fs::read_to_string(site.dir.join("secrets/admin-token"))
            .context("reading the administrator's token")?;
        Ok(Secrets(vec![
            ("enrolment token", site.token()?),
            ("credential", credential.to_owned()),
            ("password hash", PASSWORD_HASH.to_owned()),
            ("administrator's token", admin.trim().to_owned()),
        ]))
    }

    /// The texts, for [`crate::checks::Expected`].
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|(_, text)| text.clone()).collect()
    }

    /// Looks for each in a text that somebody reads. The error names the secret, and does not show it.
    pub fn not_in(&self, place: &str, text: &str) -> Result<()> {
        ensure!(!text.trim().is_empty(), "there is nothing in {place} to look through");
        for (what, secret) in &self.0 {
            ensure!(!text.contains(secret.as_str()), "the {what} is in {place}");
        }
        Ok(())
    }

    /// Looks through what the server shows and wrote: the fleet, the machine, its events and logs.
    pub fn not_shown_by(&self, site: &Site) -> Result<()> {
        let machines = site.machines()?;
        let asset = machines.first().and_then(|m| m["asset"].as_str()).context("the fleet is empty")?;
        let ask = |args: &[&str]| -> Result<String> {
            let (first, rest) = args.split_first().context("asking nothing")?;
            let cmd = Cmd::new(program("akene-server")?).arg(first).arg(&site.dir).args(rest);
            Ok(SystemRunner.run(&cmd)?.text())
        };
        self.not_in("the fleet", &ask(&["machines"])?)?;
        self.not_in("the page of the machine", &ask(&["show", asset])?)?;
        let json = ask(&["show", asset, "--json"])?;
        self.not_in("the machine as JSON", &json)?;
        self.not_in("the events", &ask(&["events", asset])?)?;
        self.not_in("the server's own log", &site.log_text())?;
        let log = site.install_log(&serde_json::from_str(&json).context("reading the machine as JSON")?)?;
        self.not_in("the log the server was sent", &log)
    }

    /// Looks at what the kernel of the installed system is told: everybody on it reads `/proc/cmdline`.
    pub fn not_told_to_the_kernel(&self, disk: &Path) -> Result<()> {
        let mut image = Image::open(disk)?;
        let root = image.mount_system()?;
        let mut text = String::new();
        for file in ["boot/grub/grub.cfg", "etc/default/grub"] {
            let path = root.join(file);
            text += &std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        }
        ensure!(text.contains("linux\t") || text.contains("linux "), "grub.cfg starts no kernel:\n{text}");
        self.not_in("the settings of the boot loader", &text)
    }
}
