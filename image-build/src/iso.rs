//! Joining the tree into an ISO that starts from CD and, copied as it is, from a stick.

use std::path::Path;

use akene_exec::{Cmd, Runner};
use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::medium::Made;

/// The label by which the medium is known.
pub const LABEL: &str = "AKENE";

/// Writes the ISO. Every date and identifier in it follows from `built`.
pub fn write(runner: &dyn Runner, tree: &Path, boot: &Made, built: Timestamp, output: &Path) -> Result<()> {
    let stamp = built.to_zoned(TimeZone::UTC).strftime("%Y%m%d%H%M%S00").to_string();
    let cmd = Cmd::new("xorriso")
        .env("SOURCE_DATE_EPOCH", built.as_second().to_string())
        .env("TZ", "UTC")
        .args(["-no_rc", "-as", "mkisofs", "-quiet", "-r", "-J", "-iso-level", "3", "-V", LABEL])
        .args(["-A", "AKENE INSTALLER", "-p", "AKENE"])
        .arg(format!("--modification-date={stamp}"))
        .args(["--set_all_file_dates", &stamp, "--gpt_disk_guid", "modification-date"])
        // The layout of the distributions' own media. Some BIOSes start a stick only if a partition of its MBR is
        // marked active.
        .args(["-partition_offset", "16", "--mbr-force-bootable", "--grub2-mbr"])
        .arg(&boot.mbr)
        .args(["-append_partition", "2", "0xef"])
        .arg(&boot.esp)
        .args(["-appended_part_as_gpt", "-c", "boot/boot.cat"])
        .args([
            "-b",
            "boot/grub/bios.img",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
            "-boot-info-table",
            "--grub2-boot-info",
        ])
        .args(["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot", "-o"])
        .arg(output)
        .arg(tree);
    runner.run(&cmd).context("writing the ISO")?;
    Ok(())
}
