//! The kernel, the modules an installer on unknown PCs needs, and the firmware those name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result, bail};

use crate::files;
use crate::packages::Fetched;
use crate::recipe;

/// What [`install`] put into the live root.
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// The kernel's image as the distribution signed it.
    pub image: PathBuf,
    /// Modules to load before the live root is there, in order, in the live root.
    pub early: Vec<PathBuf>,
    /// How many modules there are.
    pub modules: usize,
    /// Firmware files that modules name and the packages have.
    pub firmware: usize,
    /// Firmware files that modules name and no package has.
    pub missing_firmware: Vec<String>,
}

/// Where to take from and put to.
pub struct Places<'a> {
    /// Packages of kernel and modules.
    pub kernel: &'a [Fetched],
    /// Packages that may hold firmware.
    pub firmware: &'a [Fetched],
    /// A directory for what is unpacked.
    pub work: &'a Path,
    /// The live root.
    pub live: &'a Path,
    /// With wireless.
    pub wireless: bool,
}

/// Puts modules and firmware into the live root.
pub fn install(runner: &dyn Runner, places: &Places<'_>) -> Result<Kernel> {
    let unpacked = places.work.join("kernel");
    fs::create_dir_all(&unpacked).with_context(|| format!("creating {}", unpacked.display()))?;
    merged_usr_links(&unpacked)?;
    for package in places.kernel {
        package.extract_some(&unpacked, &mut |path| {
            // Debian's signed image holds debug symbols' place-holders in /boot; only the image is wanted.
            !path.starts_with("usr/share") && !path.starts_with("usr/src")
        })?;
    }
    let release = release(&unpacked)?;
    let image = unpacked.join(format!("boot/vmlinuz-{release}"));
    if !image.is_file() {
        bail!("the kernel packages hold modules of {release} but no boot/vmlinuz-{release}");
    }
    let source = unpacked.join("usr/lib/modules").join(&release);
    let target = places.live.join("usr/lib/modules").join(&release);

    // The distribution's own index knows what needs what.
    depmod(runner, &unpacked, &release)?;
    let index = Index::read(&source)?;
    let chosen = index.choose(places.wireless);
    let mut modules = Vec::new();
    for path in &chosen {
        modules.push(copy_module(&source.join(path), &target, path)?);
    }
    for file in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        if source.join(file).exists() {
            files::copy(&source.join(file), &target.join(file))?;
        }
    }
    depmod(runner, places.live, &release)?;

    let early = index.early()?.iter().map(|p| target.join(uncompressed(p))).collect();
    let (firmware, missing_firmware) = firmware(runner, places, &modules)?;
    Ok(Kernel { release, image, early, modules: modules.len(), firmware, missing_firmware })
}

/// The links of a merged /usr, made before anything is unpacked.
pub fn merged_usr_links(root: &Path) -> Result<()> {
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        let path = root.join(target);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        files::symlink(target, &root.join(link))?;
    }
    Ok(())
}

/// The one release there are modules for.
fn release(root: &Path) -> Result<String> {
    let dir = root.join("usr/lib/modules");
    let mut found = files::names(&dir)?;
    match (found.pop(), found.is_empty()) {
        (Some(release), true) => Ok(release),
        (Some(one), false) => {
            bail!("the kernel packages hold more than one kernel ({one}, {})", found.join(", "))
        }
        (None, _) => bail!("the kernel packages hold no modules"),
    }
}

fn depmod(runner: &dyn Runner, root: &Path, release: &str) -> Result<()> {
    runner
        .run(&Cmd::new("depmod").arg("-b").arg(root).arg(release))
        .context("indexing the kernel's modules")?;
    Ok(())
}

/// What a kernel's module index says.
struct Index {
    /// Path of each module and the paths it needs, nearest first.
    needs: BTreeMap<String, Vec<String>>,
    /// Names of modules and those they would like to have.
    soft: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
    aliases: Vec<(String, String)>,
}

impl Index {
    fn read(dir: &Path) -> Result<Index> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        Ok(Index::parse(
            &read("modules.dep")?,
            &read("modules.softdep")?,
            &read("modules.builtin")?,
            &read("modules.alias")?,
        ))
    }

    fn parse(dep: &str, softdep: &str, builtin: &str, alias: &str) -> Index {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let needs = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| (path.to_owned(), words(needs)))
            .collect();
        let soft = softdep
            .lines()
            .filter_map(|line| line.strip_prefix("softdep "))
            .filter_map(|line| line.split_once(' '))
            .map(|(name, list)| (name.to_owned(), words(&list.replace("pre:", " ").replace("post:", " "))))
            .collect();
        let builtin = builtin.lines().map(module_name).collect();
        let aliases = alias
            .lines()
            .filter_map(|line| line.strip_prefix("alias "))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(alias, module)| (alias.to_owned(), module.to_owned()))
            .collect();
        Index { needs, soft, builtin, aliases }
    }

    /// The modules of the recipe and all they need, by path.
    fn choose(&self, wireless: bool) -> BTreeSet<String> {
        let extra = if wireless { recipe::WIRELESS_MODULES } else { &[] };
        let listed = |list: &[(&str, &str)], path: &str| list.iter().any(|(l, _)| recipe::covers(l, path));
        let mut todo: Vec<&str> = self
            .needs
            .keys()
            .map(String::as_str)
            .filter(|path| {
                let inner = path.strip_prefix("kernel/").unwrap_or(path);
                !listed(recipe::MODULES_LEFT_OUT, inner)
                    && (listed(recipe::MODULES, inner) || listed(extra, inner))
            })
            .collect();
        let by_name: BTreeMap<String, &str> =
            self.needs.keys().map(|p| (module_name(p), p.as_str())).collect();
        let mut chosen = BTreeSet::new();
        while let Some(path) = todo.pop() {
            if !chosen.insert(path.to_owned()) {
                continue;
            }
            todo.extend(self.needs.get(path).into_iter().flatten().map(String::as_str));
            for wish in self.soft.get(&module_name(path)).into_iter().flatten() {
                let wish = wish.replace('-', "_");
                todo.extend(by_name.get(&wish).copied());
                let matching = self.aliases.iter().filter(|(alias, _)| alias.replace('-', "_") == wish);
                todo.extend(matching.filter_map(|(_, module)| by_name.get(module).copied()));
            }
        }
        chosen
    }

    /// The modules the live root cannot be mounted without, in the order they can be loaded.
    fn early(&self) -> Result<Vec<String>> {
        let mut order: Vec<String> = Vec::new();
        for wanted in recipe::EARLY_MODULES {
            if self.builtin.contains(*wanted) {
                continue;
            }
            let (path, needs) =
                self.needs.iter().find(|(path, _)| module_name(path) == *wanted).with_context(|| {
                    format!("looking for the kernel module {wanted}, which the live system needs")
                })?;
            // modules.dep lists the nearest first: the last can be loaded first.
            for path in needs.iter().rev().chain([path]) {
                if !order.contains(path) {
                    order.push(path.clone());
                }
            }
        }
        Ok(order)
    }
}

/// `kernel/fs/nls/nls_iso8859-1.ko.zst` → `nls_iso8859_1`.
fn module_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

/// The path a module has once it is decompressed.
fn uncompressed(path: &str) -> &str {
    path.strip_suffix(".zst").or_else(|| path.strip_suffix(".xz")).unwrap_or(path)
}

/// Copies a module, decompressed: one compression, that of the whole live root, is smaller than two.
/// The kernel's signature is inside and stays.
fn copy_module(source: &Path, target: &Path, path: &str) -> Result<PathBuf> {
    let to = target.join(uncompressed(path));
    let bytes = decompressed(source)?;
    files::write(&to, &bytes)?;
    Ok(to)
}

/// A file's content, decompressed if its name says so.
fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let reading = || format!("reading {}", path.display());
    let file = fs::File::open(path).with_context(reading)?;
    let mut bytes = Vec::new();
    match path.extension().and_then(|e| e.to_str()) {
        Some("zst") => zstd::stream::read::Decoder::new(file).with_context(reading)?.read_to_end(&mut bytes),
        Some("xz") => liblzma::read::XzDecoder::new(file).read_to_end(&mut bytes),
        _ => (&file).read_to_end(&mut bytes),
    }
    .with_context(reading)?;
    Ok(bytes)
}

/// Puts the firmware the modules name into the live root. Gives back how many files, and the names of those no
/// package has.
fn firmware(runner: &dyn Runner, places: &Places<'_>, modules: &[PathBuf]) -> Result<(usize, Vec<String>)> {
    let mut named: BTreeSet<String> = BTreeSet::new();
    for some in modules.chunks(200) {
        let output = runner
            .run(&Cmd::new("modinfo").args(["-F", "firmware"]).args(some))
            .context("asking the modules which firmware they want")?;
        named.extend(output.text().lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned));
    }
    let unpacked = places.work.join("firmware");
    fs::create_dir_all(&unpacked).with_context(|| format!("creating {}", unpacked.display()))?;
    merged_usr_links(&unpacked)?;
    for package in places.firmware {
        package.extract_some(&unpacked, &mut |path| {
            path.starts_with("lib/firmware") || path.starts_with("usr/lib/firmware")
        })?;
    }
    let source = unpacked.join("usr/lib/firmware");
    let target = places.live.join("usr/lib/firmware");
    let all = if source.is_dir() { files::walk(&source)? } else { BTreeSet::new() };
    let (mut found, mut missing) = (0, Vec::new());
    for name in named {
        let hits: Vec<&String> = all.iter().filter(|path| names_file(&name, path)).collect();
        // Some lies in the live root already: the rules of wireless come with a package of their own.
        if hits.is_empty() && fs::symlink_metadata(target.join(&name)).is_err() {
            missing.push(name);
        }
        for path in hits {
            // A link to another file of the package: the content under the name the module asks for.
            let to = target.join(uncompressed(path));
            files::write(&to, &decompressed(&source.join(path))?)?;
            found += 1;
        }
    }
    Ok((found, missing))
}

/// Whether a module that names `pattern` means this file. Newer drivers name `dir/*` or `card*-bus.*.bin`; a distribution may
/// compress its firmware.
fn names_file(pattern: &str, path: &str) -> bool {
    let path = uncompressed(path);
    let Some((before, rest)) = pattern.split_once('*') else { return path == pattern };
    let Some(mut path) = path.strip_prefix(before) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let Some(end) = parts.pop() else { return false };
    // What lies between two stars is taken where it comes first: more is left for the rest.
    for part in parts {
        let Some(at) = path.find(part) else { return false };
        path = &path[at + part.len()..];
    }
    path.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n\
        kernel/fs/jbd2/jbd2.ko:\nkernel/lib/crc16.ko:\nkernel/drivers/gpu/x.ko:\n\
        kernel/fs/btrfs/btrfs.ko.zst: kernel/lib/raid6/raid6_pq.ko\nkernel/lib/raid6/raid6_pq.ko:\n\
        kernel/sound/crc32c-odd.ko:\nkernel/drivers/scsi/lpfc/lpfc.ko: kernel/drivers/gpu/x.ko\n\
        kernel/fs/squashfs/squashfs.ko: kernel/b.ko kernel/a.ko\nkernel/b.ko: kernel/a.ko\nkernel/a.ko:\n\
        kernel/fs/overlayfs/overlay.ko:\n";

    fn index() -> Index {
        let soft = "# comment\nsoftdep btrfs pre: crypto-crc32c\n";
        Index::parse(DEP, soft, "kernel/drivers/block/loop.ko\n", "alias crypto-crc32c crc32c_odd\n")
    }

    #[test]
    fn what_a_module_needs_or_wishes_comes_with_it() {
        let chosen = index().choose(false);
        for path in ["kernel/fs/jbd2/jbd2.ko", "kernel/lib/crc16.ko", "kernel/sound/crc32c-odd.ko"] {
            assert!(chosen.contains(path), "{path}");
        }
        assert!(!chosen.iter().any(|p| p.contains("lpfc") || p.contains("gpu")));
    }

    #[test]
    fn early_modules_can_be_loaded_in_order_and_built_in_ones_are_not_looked_for() {
        let early = index().early().unwrap();
        assert_eq!(
            early,
            [
                "kernel/a.ko",
                "kernel/b.ko",
                "kernel/fs/squashfs/squashfs.ko",
                "kernel/fs/overlayfs/overlay.ko"
            ]
        );
    }

    #[test]
    fn firmware_may_be_named_by_pattern_and_be_compressed() {
        assert!(names_file("rtl_nic/rtl8168g-2.fw", "rtl_nic/rtl8168g-2.fw.zst"));
        assert!(names_file("nfp/*.nffw", "nfp/a.nffw"));
        assert!(!names_file("nfp/*.nffw", "nfp/a.bin"));
        assert!(!names_file("tigon/tg3.bin", "tigon/tg3.bin2"));
        let board = "brcm/brcmfmac*-sdio.*.txt";
        assert!(names_file(board, "brcm/brcmfmac43430a0-sdio.ilife-S806.txt"));
        assert!(!names_file(board, "brcm/brcmfmac43430-pcie.board.txt"));
        assert!(!names_file(board, "brcm/brcmfmac43430-sdio.txt"), "nothing between the full stops");
        assert!(!names_file("ab*ba", "aba"), "a letter counts once");
    }
}
