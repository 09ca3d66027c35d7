//! Debian packages as files: repacked with zstd the way Ubuntu ships them, or made from nothing.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use akene_exec::{Cmd, Runner, SystemRunner};
use anyhow::{Context, Result, bail, ensure};

const MAGIC: &[u8] = b"!<arch>\n";

/// Writes the package `from` to `to` with its members compressed by zstd, everything else unchanged.
pub fn repack_with_zstd(from: &Path, to: &Path) -> Result<()> {
    let whole = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    let mut out = MAGIC.to_vec();
    for (name, data) in
        members(&whole).with_context(|| format!("reading the members of {}", from.display()))?
    {
        match name.strip_suffix(".xz") {
            Some(stem) => {
                let mut plain = Vec::new();
                liblzma::read::XzDecoder::new_multi_decoder(data)
                    .read_to_end(&mut plain)
                    .with_context(|| format!("decompressing {name} of {}", from.display()))?;
                let packed = zstd::bulk::compress(&plain, 1).context("compressing with zstd")?;
                member(&mut out, &format!("{stem}.zst"), &packed);
            }
            None => member(&mut out, &name, data),
        }
    }
    std::fs::write(to, out).with_context(|| format!("writing {}", to.display()))
}

/// Name and content of each member.
fn members(whole: &[u8]) -> Result<Vec<(String, &[u8])>> {
    let mut rest = whole.strip_prefix(MAGIC).context("this is not an ar archive")?;
    let mut found = Vec::new();
    while rest.len() >= 60 {
        let (header, body) = rest.split_at(60);
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().to_owned();
        let name = text(0..16).trim_end_matches('/').to_owned();
        let size: usize = text(48..58).parse().with_context(|| format!("reading the size of {name}"))?;
        ensure!(body.len() >= size, "{name} ends too early");
        found.push((name, &body[..size]));
        rest = &body[(size + size % 2).min(body.len())..];
    }
    Ok(found)
}

/// The MD5 sum of some bytes, as packages tell those of their files.
pub fn md5(bytes: &[u8]) -> Result<String> {
    let sum = SystemRunner.run(&Cmd::new("md5sum").stdin(bytes))?.text();
    Ok(sum.split_whitespace().next().unwrap_or_default().to_owned())
}

/// An archive of these members (name, content).
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (name, data) in members {
        member(&mut out, name, data);
    }
    out
}

fn member(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    out.extend_from_slice(
        format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, data.len()).as_bytes(),
    );
    out.extend_from_slice(data);
    if data.len() % 2 == 1 {
        out.push(b'\n');
    }
}

/// Makes a package from its control text and files (path without a slash at its start, content).
pub fn make(dir: &Path, control: &str, files: &[(&str, Vec<u8>)]) -> Result<PathBuf> {
    let field = |key: &str| control.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(": "));
    let (Some(name), Some(version), Some(architecture)) =
        (field("Package"), field("Version"), field("Architecture"))
    else {
        bail!("a control text needs Package, Version and Architecture: {control}");
    };
    let tree = tempfile::tempdir().context("making a directory for the package")?;
    let write = |path: &str, content: &[u8]| -> Result<()> {
        let path = tree.path().join(path);
        std::fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        std::fs::File::create(&path)
            .and_then(|mut f| f.write_all(content))
            .with_context(|| format!("writing {}", path.display()))
    };
    let extra = "Maintainer: Nobody <nobody@example.org>\nSection: misc\nPriority: optional\n";
    write(
        "DEBIAN/control",
        format!("{}\n{extra}Description: made for a test\n", control.trim_end()).as_bytes(),
    )?;
    for (path, content) in files {
        write(path, content)?;
    }
    let to = dir.join(format!("{name}_{version}_{architecture}.deb"));
    let build = Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-Zzstd", "--build"])
        .arg(tree.path())
        .arg(&to)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    SystemRunner.run(&build)?;
    Ok(to)
}

/// The same package with some text in one of its files replaced (same uid, gid and modes).
pub fn edit(from: &Path, to: &Path, path: &str, change: impl Fn(&str) -> String) -> Result<()> {
    let tree = tempfile::tempdir().context("making a directory for the package")?;
    SystemRunner.run(&Cmd::new("dpkg-deb").arg("-R").arg(from).arg(tree.path()))?;
    let file = tree.path().join(path);
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("reading {path} of {}", from.display()))?;
    std::fs::write(&file, change(&text)).with_context(|| format!("writing {}", file.display()))?;
    // The checksums of the package must fit again, or `dpkg --verify` finds the change.
    let sums = tree.path().join("DEBIAN/md5sums");
    let old = std::fs::read_to_string(&sums).context("reading the package's checksums")?;
    let new = SystemRunner.run(&Cmd::new("md5sum").arg(path).dir(tree.path()))?.text();
    let lines = old.lines().map(|l| if l.ends_with(&format!("  {path}")) { new.as_str() } else { l });
    std::fs::write(&sums, lines.collect::<Vec<_>>().join("\n") + "\n")
        .context("writing the package's checksums")?;
    let build = Cmd::new("dpkg-deb").args(["-Zzstd", "-z1", "--build"]).arg(tree.path()).arg(to);
    SystemRunner.run(&build.env("SOURCE_DATE_EPOCH", "1700000000"))?;
    Ok(())
}
