//! Making filesystems.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use akene_exec::{Cmd, Runner};
use akene_planner::{Action, Role};
use akene_protocol::profile::Filesystem;
use anyhow::{Context, Result, bail};
use uuid::Uuid;

use super::LockedDisk;
use super::group::LockedGroup;
use super::work::Work;
use crate::probe::content;

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

/// A filesystem to be.
#[derive(Debug)]
pub(super) struct New {
    pub node: PathBuf,
    size: u64,
    sector: u32,
    is_boot: bool,
    filesystem: Filesystem,
    label: Option<String>,
    id: Uuid,
}

/// What gets a filesystem on a disk.
pub(super) fn on_disk(disk: &LockedDisk) -> Vec<New> {
    let made = disk.partitions().filter(|p| matches!(p.action, Action::Create | Action::Format));
    made.filter_map(|p| {
        Some(New {
            node: disk.node(p.number),
            size: p.size.0,
            sector: disk.plan.logical_sector,
            is_boot: p.purpose == Role::Boot,
            filesystem: p.filesystem?,
            label: p.label.clone(),
            id: disk.filesystem_id(p),
        })
    })
    .collect()
}

/// What swap space is called that is made anew on a disk. What is not swap so far has no name to keep, nor what cannot be read.
pub(super) fn swap_ids(disk: &LockedDisk, runner: &dyn Runner) -> BTreeMap<u32, Uuid> {
    let anew = disk.partitions().filter(|p| p.action == Action::Format && p.purpose == Role::Swap);
    let named = anew.filter_map(|p| {
        let content = content::of(runner, &disk.node(p.number)).ok()??;
        Some((p.number, content.uuid.filter(|_| content.kind == "swap")?.parse().ok()?))
    });
    named.collect()
}

/// What gets a filesystem on a volume group.
pub(super) fn on_group(group: &LockedGroup) -> Option<New> {
    let made = matches!(group.plan.action, Action::Create | Action::Format);
    Some(New {
        node: group.node(),
        size: group.plan.size.0,
        sector: group.sector,
        is_boot: false,
        filesystem: group.plan.filesystem.filter(|_| made)?,
        label: group.plan.label.clone(),
        id: group.id,
    })
}

/// What is done, for a person.
pub(super) fn describe(new: &New) -> String {
    let label = new.label.as_ref().map(|l| format!(" ({l})")).unwrap_or_default();
    format!("formatting {} as {}{label}", new.node.display(), new.filesystem.name())
}

/// Makes a filesystem.
pub(super) fn make(new: &New, work: &Work<'_>) -> Result<()> {
    let id = new.id.to_string();
    let labelled = |cmd: Cmd, option: &str| match &new.label {
        Some(label) => cmd.args([option, label]),
        None => cmd,
    };
    // Kept until the command has run.
    let mut config = None;
    let cmd = match new.filesystem {
        Filesystem::Ext4 => {
            let file = config.insert(tempfile::NamedTempFile::new().context("creating a file for mke2fs")?);
            file.write_all(MKE2FS_CONF.as_bytes()).context("writing the settings of mke2fs")?;
            let reserved = if new.size >= LARGE || new.is_boot { "1" } else { "5" };
            let cmd = Cmd::new("mkfs.ext4")
                .env("MKE2FS_CONFIG", file.path())
                .args(["-F", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", reserved])
                .args(["-U", &id]);
            labelled(cmd, "-L")
        }
        Filesystem::Vfat => {
            // Firmware expects FAT32 on a disk. It needs 65525 clusters, of at least a sector each.
            let sectors = new.size / u64::from(new.sector);
            let cmd = Cmd::new("mkfs.vfat").args(["-i", &volume_id(new.id)]);
            let cmd = if sectors >= 66_600 { cmd.args(["-F", "32"]) } else { cmd };
            // With more than one sector to a cluster a small partition has too few of them.
            let cmd = if (66_600..532_480).contains(&sectors) { cmd.args(["-s", "1"]) } else { cmd };
            labelled(cmd, "-n")
        }
        Filesystem::Swap => labelled(Cmd::new("mkswap").args(["--force", "-U", &id]), "-L"),
        Filesystem::Xfs => {
            labelled(Cmd::new("mkfs.xfs").args(["-f", "-q", "-m", &format!("uuid={id}")]), "-L")
        }
        Filesystem::Btrfs => labelled(Cmd::new("mkfs.btrfs").args(["-f", "-q", "-U", &id]), "-L"),
    };
    work.run(&cmd.arg(&new.node).timeout(PATIENCE))?;
    drop(config);
    Ok(())
}

/// The UUID of a filesystem we made, the way blkid shows it.
pub(super) fn uuid(filesystem: Option<Filesystem>, id: Uuid) -> Result<Option<String>> {
    match filesystem {
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
fn volume_id(id: Uuid) -> String {
    hex::encode_upper(&id.as_bytes()[..4])
}
