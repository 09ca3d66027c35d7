//! Whether the computer starts by the loaders that its packages have now ([`crate::target::renew_loaders`]).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result};

use crate::probe::os_release;
use crate::run::second_root;
use crate::target;

/// How often it is looked: upgrades come by day and by night, and nobody says when a computer is started next.
const EVERY: Duration = Duration::from_secs(3 * 3600);

/// The packages that bring them.
const PACKAGES: [&str; 2] = ["shim-signed", "grub-efi-amd64-signed"];

/// Keeps the loaders those of the packages, as long as the program runs.
pub(super) fn watch(root: &Path, runner: &'static (dyn Runner + Sync)) {
    let root = root.to_owned();
    thread::spawn(move || {
        loop {
            thread::sleep(EVERY);
            keep(&root, runner);
        }
    });
}

/// Makes them those of the packages.
pub(super) fn keep(root: &Path, runner: &dyn Runner) {
    match renew(root, runner) {
        Ok(renewed) if renewed.is_empty() => {}
        Ok(renewed) => eprintln!("the boot loaders are those of the packages again: {}", renewed.join(", ")),
        Err(error) => eprintln!("bringing the packages' boot loaders to the EFI system partition: {error:#}"),
    }
}

fn renew(root: &Path, runner: &dyn Runner) -> Result<Vec<String>> {
    // Another system's loaders are that one's to renew.
    if !super::is_the_one(root) || !second_root::is_current(root) {
        return Ok(Vec::new());
    }
    let (boot, esp) = (root.join("boot"), root.join("boot/efi"));
    let on = |path: &Path| fs::metadata(path).ok().map(|about| about.dev());
    // `nofail`: it may not be there, and the directory is not it.
    if on(&esp).is_none() || on(&esp) == on(&boot) || !are_whole(runner) {
        return Ok(Vec::new());
    }
    let release = fs::read_to_string(root.join("etc/os-release")).context("reading etc/os-release")?;
    match os_release::distribution(&release) {
        Some(distribution) => target::renew_loaders(root, &esp, distribution.directory()),
        None => Ok(Vec::new()),
    }
}

/// Whether the packages are there, and not just being upgraded. One that was never installed is an error for `dpkg-query`.
fn are_whole(runner: &dyn Runner) -> bool {
    let asked = Cmd::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n"]).args(PACKAGES);
    runner.run(&asked).is_ok_and(|said| {
        let said = said.text();
        said.lines().count() == PACKAGES.len() && said.lines().all(|line| line == "installed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use akene_exec::RecordingRunner;

    #[test]
    fn packages_that_are_just_being_upgraded_are_not_whole() {
        let said = |text: &str| are_whole(&RecordingRunner::default().answer("dpkg-query", text));
        assert!(said("installed\ninstalled\n"));
        for text in ["installed\nunpacked\n", "half-installed\ninstalled\n", "installed\n", ""] {
            assert!(!said(text), "{text:?}");
        }
    }

    #[test]
    fn a_directory_on_which_nothing_is_mounted_is_no_partition() {
        let dir = tempfile::tempdir().unwrap();
        let runner = RecordingRunner::default();
        assert_eq!(renew(dir.path(), &runner).unwrap(), Vec::<String>::new());
        fs::create_dir_all(dir.path().join("boot/efi")).unwrap();
        assert_eq!(renew(dir.path(), &runner).unwrap(), Vec::<String>::new());
        assert!(runner.calls().is_empty());
    }
}
