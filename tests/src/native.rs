//! The native path: `akene-agent install --target-image` on this host.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akene_exec::{Cmd, Streams};
use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::site::program;

/// How an installation went.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the agent ended well.
    pub good: bool,
    /// Its events.
    pub events: Vec<Value>,
    /// Everything it wrote besides.
    pub text: String,
    /// Its log.
    pub log: String,
    /// How long it took.
    pub took: Duration,
}

impl Outcome {
    /// Events of one type.
    pub fn events_of(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|e| e["type"] == kind).collect()
    }

    /// The issues of the failure.
    pub fn issues(&self) -> Vec<&Value> {
        self.events_of("failed").iter().filter_map(|e| e["issues"].as_array()).flatten().collect()
    }

    /// Shown when a test fails.
    pub fn story(&self) -> String {
        format!("{}\n--- log ---\n{}", self.text, self.log)
    }
}

/// Where the agent's orders come from.
pub enum Orders<'a> {
    /// A profile, TOML.
    Profile(&'a str),
    /// A site's stamp.
    Stamp(PathBuf),
    /// A signed profile and its signed lock, by the key.
    Signed {
        /// The profile.
        profile: PathBuf,
        /// The lock.
        lock: PathBuf,
        /// Who signed both.
        key: String,
    },
}

/// Installs into `image` and waits for the end.
pub fn install(image: &Path, orders: &Orders<'_>, dir: &Path, more: &[&str]) -> Result<Outcome> {
    install_by(&[], image, orders, dir, more, |_| Ok(false))
}

/// The same by a program that starts others (`before`), and killed as soon as `killed`, which is asked all the time
/// with the process's number, says so.
pub fn install_by(
    before: &[String],
    image: &Path,
    orders: &Orders<'_>,
    dir: &Path,
    more: &[&str],
    mut killed: impl FnMut(u32) -> Result<bool>,
) -> Result<Outcome> {
    let (output, log) = (dir.join("agent.output"), dir.join("agent.log"));
    let agent = program("akene-agent")?;
    let mut cmd = match before.split_first() {
        Some((first, rest)) => Cmd::new(first).args(rest).arg(agent),
        None => Cmd::new(agent),
    };
    cmd = cmd
        .args(["install", "--yes", "--json", "--console", "ttyS0,115200", "--target-image"])
        .arg(image)
        .arg("--log")
        .arg(&log)
        // What it makes besides the image is made here, so that leftovers are found.
        .env("TMPDIR", dir);
    match orders {
        Orders::Profile(text) => {
            let file = dir.join("profile.toml");
            std::fs::write(&file, text).context("writing the profile")?;
            cmd = cmd.arg("--profile").arg(file);
        }
        Orders::Stamp(file) => cmd = cmd.arg("--stamp").arg(file),
        Orders::Signed { profile, lock, key } => {
            cmd = cmd.arg("--profile").arg(profile).arg("--lock").arg(lock).args(["--site-key", key]);
        }
    }
    let started = Instant::now();
    let file = std::fs::File::create(&output).context("making the agent's output file")?;
    let mut running = cmd.args(more).spawn(Streams::Log(file))?;
    let good = loop {
        if let Some(status) = running.wait(Duration::from_millis(20))? {
            break status.success();
        }
        if killed(running.id())? {
            // It is killed at once, with all it started.
            drop(running);
            break false;
        }
        if started.elapsed() > Duration::from_secs(1200) {
            bail!("the agent does not end");
        }
    };
    let took = started.elapsed();
    let (mut events, mut text) = (Vec::new(), String::new());
    for line in std::fs::read_to_string(&output).context("reading the agent's output")?.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(event) if event.is_object() => events.push(event),
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    Ok(Outcome { good, events, text, log, took })
}

/// Whether installing into an image is possible here; says aloud why not.
pub fn possible() -> bool {
    if let Some(why) = crate::image::missing() {
        eprintln!("SKIPPED: nothing can be installed into a disk image here: {why}");
        return false;
    }
    true
}
