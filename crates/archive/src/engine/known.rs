//! What is known to be made already, and from what: who asks for the same again gets nothing new.
//!
//! Packages have lists and collections made by their scripts, some of them several times. Each is a function of files in the
//! root: while those are the same, another call would change nothing and is not made. And what scripts are certain to ask for
//! is made as soon as its files are there ([`ahead`]); if more of them come, it is made again.

use std::collections::BTreeMap;
use std::path::Path;

use akene_exec::Output;
use anyhow::Result;

use super::later::{CERTIFICATES, Call, DEPMOD, HWDB};
use super::start::{self, describe, names};

/// What scripts are going to ask for of what a root holds: the lists of each kernel's modules, and the hardware database.
pub(super) fn ahead(root: &Path) -> Result<Vec<Call>> {
    let of_kernel = |kernel| Call::new(DEPMOD, &[kernel]);
    // As the script of udev asks.
    let database = root.join("usr/bin").join(HWDB).exists();
    let database = database.then(|| Call::new(HWDB, &["--usr".into(), "update".into()]));
    Ok(start::kernels(root)?.into_iter().map(of_kernel).chain(database).collect())
}

/// What has been made, and from what.
pub(super) struct Known<'a> {
    root: &'a Path,
    made: BTreeMap<Call, Vec<u8>>,
}

impl<'a> Known<'a> {
    pub fn new(root: &'a Path) -> Self {
        Known { root, made: BTreeMap::new() }
    }

    /// Makes a call, unless what it would make is there already. `None` for one that is not to be made now.
    pub fn make(
        &mut self,
        call: &Call,
        make: impl Fn(&Call) -> Option<Result<Output>>,
    ) -> Option<Result<Output>> {
        let (same, inputs) = self.inputs(call);
        if inputs.is_some() && self.made.get(&same) == inputs.as_ref() {
            return Some(Ok(Output::default()));
        }
        let went = make(call);
        if let (Some(Ok(_)), Some(inputs)) = (&went, inputs) {
            self.made.insert(same, inputs);
        }
        went
    }

    /// Makes a call nobody has asked for yet, if all is there that it is made from. One that fails is made when it is asked
    /// for.
    pub fn make_ahead(&mut self, call: &Call, make: impl Fn(&Call) -> Option<Result<Output>>) {
        if self.inputs(call).1.is_some() {
            self.make(call, make);
        }
    }

    /// What a call makes its result from; `None` where that is not known, not there yet, or cannot be read because dpkg is
    /// just putting it into its place. With it the shortest call that would make the same of it.
    fn inputs(&self, call: &Call) -> (Call, Option<Vec<u8>>) {
        let mut same = call.clone();
        let inputs = match &*call.program {
            DEPMOD => {
                // As Ubuntu's kernels ask: all modules, which is what is listed anyway, with the kernel's symbols, which only
                // an examination (`-e`) would use.
                same.args.retain(|arg| arg != "-a");
                if same.args.first().is_some_and(|arg| arg == "-F") {
                    same.args.drain(..2.min(same.args.len()));
                }
                match &*same.args {
                    [kernel] if !kernel.starts_with('-') => modules(self.root, kernel),
                    _ => Ok(None),
                }
            }
            HWDB => hardware(self.root),
            CERTIFICATES if call.args.is_empty() || call.args == ["--hooksdir", ""] => {
                same.args.clear();
                certificates(self.root)
            }
            _ => Ok(None),
        };
        (same, inputs.unwrap_or_default())
    }
}

/// What `depmod` makes its lists of the modules of a kernel from: the modules and its settings. `None` where there are none, or
/// where settings are still on their way.
fn modules(root: &Path, kernel: &str) -> Result<Option<Vec<u8>>> {
    let dir = root.join("usr/lib/modules").join(kernel);
    let mut text = Vec::new();
    let mut names = names(&dir)?;
    names.sort();
    for name in names {
        // What lies beside those directories and these three is what it makes.
        let beside = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];
        let at = dir.join(&name);
        if beside.iter().any(|n| name == *n) || at.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            describe(&at, Path::new(&name), &mut text)?;
        }
    }
    if text.is_empty() {
        return Ok(None);
    }
    settled(root, &["etc/depmod.d", "usr/lib/depmod.d"], text)
}

/// What `systemd-hwdb` makes its database from; `None` where that is not there, or still on its way.
fn hardware(root: &Path) -> Result<Option<Vec<u8>>> {
    if !root.join("usr/bin/systemd-hwdb").exists() {
        return Ok(None);
    }
    settled(root, &["etc/udev/hwdb.d", "usr/lib/udev/hwdb.d"], Vec::new())
}

/// What `update-ca-certificates` collects; `None` where others are told of it, who may want to hear it again.
fn certificates(root: &Path) -> Result<Option<Vec<u8>>> {
    if !names(&root.join("etc/ca-certificates/update.d"))?.is_empty() {
        return Ok(None);
    }
    let from = ["etc/ca-certificates.conf", "usr/share/ca-certificates", "usr/local/share/ca-certificates"];
    settled(root, &from, Vec::new())
}

/// Adds what is in directories of settings; `None` where something in them is going to get its name by dpkg.
fn settled(root: &Path, dirs: &[&str], mut text: Vec<u8>) -> Result<Option<Vec<u8>>> {
    for dir in dirs {
        describe(&root.join(dir), Path::new(dir), &mut text)?;
    }
    Ok((!text.windows(9).any(|w| w == b".dpkg-new")).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::super::start::tests::{put, root};
    use super::*;

    #[test]
    fn lists_of_modules_wait_for_their_settings() {
        let root = root();
        let inputs = || modules(root.path(), "6.12").unwrap();
        assert_eq!(modules(root.path(), "6.13").unwrap(), None, "there are no modules");
        let before = inputs().unwrap();
        put(root.path(), "usr/lib/modules/6.12/modules.dep", "");
        assert_eq!(inputs().unwrap(), before);
        put(root.path(), "usr/lib/modules/6.12/updates/x.ko", "");
        let half = inputs().unwrap();
        assert_ne!(half, before);
        put(root.path(), "usr/lib/modules/6.12/updates/x.ko", "whole");
        assert_ne!(inputs().unwrap(), half);
        put(root.path(), "etc/depmod.d/a.conf.dpkg-new", "search updates\n");
        assert_eq!(inputs(), None);
    }

    #[test]
    fn the_same_is_asked_for_in_several_ways() {
        let root = root();
        let mut known = Known::new(root.path());
        let mut made = |words: &[&str]| {
            let args: Vec<String> = words.iter().map(|w| w.to_string()).collect();
            let was = std::cell::Cell::new(false);
            let went = known.make(&Call::new(DEPMOD, &args), |_| {
                was.set(true);
                Some(Ok(Output::default()))
            });
            assert!(went.unwrap().is_ok());
            was.get()
        };
        assert!(made(&["6.12"]));
        for same in [&["6.12"][..], &["-a", "6.12"], &["-a", "-F", "/boot/System.map-6.12", "6.12"]] {
            assert!(!made(same), "{same:?}");
        }
        for other in [&["6.13"][..], &["-n", "6.12"], &["-a"], &["-F"], &["-F", "6.12"]] {
            assert!(made(other) && made(other), "{other:?}");
        }
    }

    #[test]
    fn nothing_is_known_of_certificates_where_somebody_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = || certificates(dir.path()).unwrap();
        let before = inputs().unwrap();
        put(dir.path(), "usr/local/share/ca-certificates/own.crt", "a");
        assert_ne!(inputs().unwrap(), before);
        put(dir.path(), "etc/ca-certificates/update.d/java", "");
        assert_eq!(inputs(), None);
    }
}
