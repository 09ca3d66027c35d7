//! A disc: the same ISO with the directory `akene/` filled. Nothing can be written to it later.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_protocol::medium::DIR;
use anyhow::{Context, Result};

use super::table;
use super::tree::Staged;

/// Writes the ISO `to` from the one of `akene-image build` with the files staged for it. Its boot records are taken over as they are.
///
/// # Errors
/// What keeps xorriso from writing it.
pub fn write(runner: &dyn Runner, image: &Path, staged: &Staged, to: &Path) -> Result<()> {
    let cmd = Cmd::new("xorriso")
        .args(["-no_rc", "-report_about", "SORRY", "-indev"])
        .arg(image)
        .arg("-outdev")
        .arg(to)
        .args(["-boot_image", "any", "replay", "-compliance", "iso_9660_level=3", "-padding", "0", "-map"])
        .arg(staged.path().join(DIR))
        .arg(format!("/{DIR}"))
        .args([
            "-chown_r",
            "0",
            &format!("/{DIR}"),
            "--",
            "-chgrp_r",
            "0",
            &format!("/{DIR}"),
            "--",
            "-commit",
        ])
        .timeout(Duration::from_secs(3600));
    runner.run(&cmd).context("writing the ISO")?;
    // xorriso fills its last block of 32 KiB: the copy of the table belongs to the very end.
    let writing = || format!("cutting {} to its size", to.display());
    let file = OpenOptions::new().read(true).write(true).open(to).with_context(writing)?;
    file.set_len(table::end(&file)?).and_then(|()| file.sync_all()).with_context(writing)
}
