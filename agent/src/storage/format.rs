//! Making filesystems.

use std::io::Write;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_planner::{Action, PartitionPlan, Role};
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail};

use super::LockedDisk;

/// The features of the ext4 filesystems we make, whatever distribution the tools come from. A newer
/// mke2fs turns on what the GRUB and the kernel of an older system cannot read, and `AKENE_BOOT` and
/// `/home` outlive the system they were made with.
const MKE2FS_CONF: &str = "\
[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
";

/// Discarding the blocks of a large old SSD takes a while.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Above this, 5 % reserved for root is a loss and protects nothing.
const LARGE: u64 = 32 << 30;

/// The partitions that get a filesystem.
pub(super) fn steps(disk: &LockedDisk) -> impl Iterator<Item = &PartitionPlan> {
    disk.partitions()
        .filter(|p| matches!(p.action, Action::Create | Action::Format) && p.filesystem.is_some())
}

/// What is done to a partition, for a person.
pub(super) fn describe(disk: &LockedDisk, partition: &PartitionPlan) -> String {
    let kind = partition.filesystem.map(Filesystem::name).unwrap_or("nothing");
    let label = partition.label.as_ref().map(|l| format!(" ({l})")).unwrap_or_default();
    format!("formatting {} as {kind}{label}", disk.node(partition.number).display())
}

/// Makes the filesystem of a partition.
pub(super) fn make(disk: &LockedDisk, partition: &PartitionPlan, runner: &dyn Runner) -> Result<()> {
    let node = disk.node(partition.number);
    let id = disk.ids.filesystem(&partition.purpose, partition.number);
    let label = partition.label.as_deref();
    let labelled = |cmd: Cmd, option: &str| match label {
        Some(label) => cmd.args([option, label]),
        None => cmd,
    };
    // Kept until the command has run.
    let mut config = None;
    let cmd = match partition.filesystem {
        None => return Ok(()),
        Some(Filesystem::Ext4) => {
            let file = config.insert(tempfile::NamedTempFile::new().context("creating a file for mke2fs")?);
            file.write_all(MKE2FS_CONF.as_bytes()).context("writing the settings of mke2fs")?;
            let reserved =
                if partition.size.0 >= LARGE || partition.purpose == Role::Boot { "1" } else { "5" };
            let cmd = Cmd::new("mkfs.ext4")
                .env("MKE2FS_CONFIG", file.path())
                .args(["-F", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", reserved])
                .args(["-U", &id.to_string()]);
            labelled(cmd, "-L").arg(&node)
        }
        Some(Filesystem::Vfat) => {
            // Firmware expects FAT32 on a disk. It needs 65525 clusters, of at least a sector each.
            let sectors = partition.size.0 / u64::from(disk.plan.logical_sector);
            let cmd = Cmd::new("mkfs.vfat").args(["-i", &volume_id(id)]);
            let cmd = if sectors >= 66_600 { cmd.args(["-F", "32"]) } else { cmd };
            // With more than one sector to a cluster a small partition has too few of them.
            let cmd = if (66_600..532_480).contains(&sectors) { cmd.args(["-s", "1"]) } else { cmd };
            labelled(cmd, "-n").arg(&node)
        }
        Some(Filesystem::Swap) => {
            labelled(Cmd::new("mkswap").args(["--force", "-U", &id.to_string()]), "-L").arg(&node)
        }
        Some(Filesystem::Xfs) => {
            labelled(Cmd::new("mkfs.xfs").args(["-f", "-q", "-m", &format!("uuid={id}")]), "-L").arg(&node)
        }
        Some(Filesystem::Btrfs) => {
            labelled(Cmd::new("mkfs.btrfs").args(["-f", "-q", "-U", &id.to_string()]), "-L").arg(&node)
        }
    };
    runner.run(&cmd.timeout(PATIENCE))?;
    drop(config);
    Ok(())
}

/// The UUID of a filesystem we made, the way blkid shows it.
pub(super) fn uuid(disk: &LockedDisk, partition: &PartitionPlan) -> Result<Option<String>> {
    let id = disk.ids.filesystem(&partition.purpose, partition.number);
    match partition.filesystem {
        None => Ok(None),
        Some(Filesystem::Vfat) => {
            let id = volume_id(id);
            let Some((high, low)) = id.split_at_checked(4) else { bail!("{id} is no volume id") };
            Ok(Some(format!("{high}-{low}")))
        }
        Some(_) => Ok(Some(id.to_string())),
    }
}

/// A FAT volume id: eight digits.
fn volume_id(id: uuid::Uuid) -> String {
    hex::encode_upper(&id.as_bytes()[..4])
}
