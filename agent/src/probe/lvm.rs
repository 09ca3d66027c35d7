//! Volume groups of LVM, read without touching them.
//!
//! Nothing is activated: a group of somebody else's may be incomplete or damaged, and activation writes to
//! some kinds of volumes. LVM's own reports say where the pieces of a volume lie. A volume in one piece is
//! looked at through a read-only loop device at that place, one in several linear pieces through a read-only
//! mapping of our own under another name; of what is more than that (RAID, thin, snapshots) only name and
//! size are told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use akene_exec::{Cmd, Runner};
use akene_protocol::Bytes;
use akene_protocol::inventory::{Content, Disk, LogicalVolume, VolumeGroup};
use akene_protocol::issue::Issue;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::disk::partition_path;
use super::root::ProbeRoot;
use crate::sys::loopdev;

/// What blkid calls a physical volume.
const MEMBER: &str = "LVM2_member";

/// A command of LVM that sees these devices and nothing else of the machine: no configuration file, no list of
/// devices, no daemon, no back-up of metadata below `/etc`.
pub(crate) fn command(verb: &str, devices: &[PathBuf]) -> Cmd {
    let seen: Vec<String> = devices.iter().map(|d| format!("\"a|^{}$|\",", d.display())).collect();
    // With udev in the machine it makes the nodes, and LVM waits for it; without, LVM makes them itself.
    let udev = u8::from(Path::new("/run/udev/control").exists());
    let config = format!(
        "devices {{ filter=[{}\"r|.*|\"] use_devicesfile=0 scan=\"/dev\" }} \
         global {{ use_lvmpolld=0 event_activation=0 }} backup {{ backup=0 archive=0 }} \
         activation {{ udev_sync={udev} udev_rules={udev} monitoring=0 }}",
        seen.concat()
    );
    Cmd::new("lvm")
        .args([verb, "--config", &config])
        .env("LVM_SYSTEM_DIR", "")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
}

/// Whether this kernel has the device-mapper, which logical volumes are made of. Its module is loaded if it can be.
pub(crate) fn has_device_mapper(runner: &dyn Runner) -> bool {
    let there = || {
        std::fs::read_to_string("/proc/misc")
            .is_ok_and(|t| t.lines().any(|l| l.split_whitespace().nth(1) == Some("device-mapper")))
    };
    // A kernel without modules says so by failing; what counts is what is there afterwards.
    there() || (runner.run(&Cmd::new("modprobe").args(["-q", "dm-mod"])).is_ok() && there())
}

/// One group as reported.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Group {
    /// Name.
    #[serde(rename = "vg_name")]
    pub name: String,
    /// UUID.
    #[serde(rename = "vg_uuid")]
    pub uuid: String,
    #[serde(rename = "vg_missing_pv_count")]
    missing: String,
    #[serde(rename = "vg_extent_size")]
    extent: String,
}

/// One physical volume as reported.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Physical {
    /// Its device.
    #[serde(rename = "pv_name")]
    pub device: PathBuf,
    #[serde(rename = "vg_uuid")]
    group: String,
    #[serde(rename = "pe_start")]
    begins: String,
}

/// One piece of a logical volume as reported.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Piece {
    #[serde(rename = "vg_uuid")]
    group: String,
    /// Name of the volume.
    #[serde(rename = "lv_name")]
    pub volume: String,
    #[serde(rename = "lv_size")]
    whole: String,
    /// `linear`, `striped`, `raid1`…
    #[serde(rename = "segtype")]
    pub kind: String,
    #[serde(rename = "seg_start")]
    start: String,
    #[serde(rename = "seg_size")]
    size: String,
    devices: String,
}

/// What LVM reports of some devices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Groups.
    pub groups: Vec<Group>,
    /// Their devices, and those of no group.
    pub physical: Vec<Physical>,
    /// Pieces of their volumes.
    pub pieces: Vec<Piece>,
}

/// Where a piece lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Byte of the volume it begins at.
    at: u64,
    size: u64,
    device: PathBuf,
    offset: u64,
}

impl Report {
    /// Asks LVM about these devices.
    pub(crate) fn of(devices: &[PathBuf], runner: &dyn Runner) -> Result<Self> {
        let groups =
            ask(runner, devices, "vgs", &[], "vg", "vg_name,vg_uuid,vg_missing_pv_count,vg_extent_size")?;
        let physical = ask(runner, devices, "pvs", &[], "pv", "pv_name,vg_uuid,pe_start")?;
        let fields = "vg_uuid,lv_name,lv_size,segtype,seg_start,seg_size,devices";
        let pieces = ask(runner, devices, "lvs", &["--segments"], "seg", fields)?;
        Ok(Report { groups, physical, pieces })
    }

    /// Whether no member of a group is missing.
    pub(crate) fn is_complete(&self, group: &Group) -> bool {
        group.missing == "0"
    }

    /// The devices of a group that are there.
    pub(crate) fn members(&self, group: &Group) -> Vec<PathBuf> {
        let of_it = self.physical.iter().filter(|p| p.group == group.uuid && p.device.is_absolute());
        of_it.map(|p| p.device.clone()).collect()
    }

    /// The volumes of a group with their sizes.
    pub(crate) fn volumes(&self, group: &Group) -> BTreeMap<String, u64> {
        let of_it = self.pieces.iter().filter(|p| p.group == group.uuid && !p.volume.is_empty());
        of_it.filter_map(|p| Some((p.volume.clone(), p.whole.parse().ok()?))).collect()
    }

    /// Where a volume lies, if it consists of linear pieces.
    pub(crate) fn places(&self, group: &Group, volume: &str) -> Option<Vec<Place>> {
        let extent: u64 = group.extent.parse().ok()?;
        let mut places = Vec::new();
        for piece in self.pieces.iter().filter(|p| p.group == group.uuid && p.volume == volume) {
            let (device, first) = piece.devices.strip_suffix(')')?.rsplit_once('(')?;
            if piece.kind != "linear" || device.contains(',') {
                return None;
            }
            let physical = self.physical.iter().find(|p| p.device == Path::new(device))?;
            places.push(Place {
                at: piece.start.parse().ok()?,
                size: piece.size.parse().ok()?,
                device: device.into(),
                offset: physical.begins.parse::<u64>().ok()? + first.parse::<u64>().ok()? * extent,
            });
        }
        places.sort_by_key(|p| p.at);
        (!places.is_empty()).then_some(places)
    }
}

fn ask<T: DeserializeOwned>(
    runner: &dyn Runner,
    devices: &[PathBuf],
    verb: &str,
    more: &[&str],
    section: &str,
    fields: &str,
) -> Result<Vec<T>> {
    #[derive(Deserialize)]
    struct Answer {
        report: Vec<BTreeMap<String, serde_json::Value>>,
    }
    let form = ["--readonly", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields];
    let answer: Answer = runner.run(&command(verb, devices).args(more).args(form))?.json()?;
    let mut rows = Vec::new();
    for mut part in answer.report {
        let part = part.remove(section).unwrap_or(serde_json::Value::Array(Vec::new()));
        let part: Vec<T> =
            serde_json::from_value(part).with_context(|| format!("reading what {verb} says"))?;
        rows.extend(part);
    }
    Ok(rows)
}

/// The volume groups on these disks, with what lies on their volumes as far as `look` can see it.
pub(super) fn groups(
    runner: &dyn Runner,
    root: &ProbeRoot,
    disks: &[Disk],
    problems: &mut Vec<Issue>,
) -> Vec<VolumeGroup> {
    let devices = devices(disks);
    if devices.is_empty() {
        return Vec::new();
    }
    let report = match Report::of(&devices, runner) {
        Ok(report) => report,
        Err(e) => {
            problems.push(Issue::new(
                "lvm-not-looked-at",
                "",
                format!("the volume groups on the disks cannot be looked at: {e:#}"),
                "nothing, if they are not needed: they are left alone unless wiping is permitted",
            ));
            return Vec::new();
        }
    };
    let kernel_name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    let mut found = Vec::new();
    for group in &report.groups {
        let complete = report.is_complete(group);
        let mut logical = Vec::new();
        for (name, size) in report.volumes(group) {
            let shown = format!("{}/{name}", group.name);
            let places = report.places(group, &name).filter(|_| complete);
            let content = match places {
                Some(places) => look(runner, root, &places, &shown, problems),
                // Not of one linear piece after the other: what is on it is not nothing.
                None => Ok(complete.then(super::unreadable)),
            };
            let content = content.unwrap_or_else(|e| {
                problems.push(Issue::new(
                    "not-looked-at",
                    &shown,
                    format!("the logical volume cannot be looked at: {e:#}"),
                    "nothing, if it is not needed: it is left alone unless wiping is permitted",
                ));
                Some(super::unreadable())
            });
            logical.push(LogicalVolume { name, size: Bytes(size), content });
        }
        let mut members: Vec<String> = report.members(group).into_iter().filter_map(kernel_name).collect();
        members.sort();
        found.push(VolumeGroup {
            name: group.name.clone(),
            uuid: group.uuid.clone(),
            members,
            complete,
            logical,
        });
    }
    found
}

/// Every place of the disks that says it is a physical volume.
fn devices(disks: &[Disk]) -> Vec<PathBuf> {
    let is_member = |c: &Option<Content>| c.as_ref().is_some_and(|c| c.kind == MEMBER);
    let mut devices = Vec::new();
    for disk in disks {
        if is_member(&disk.content) {
            devices.push(PathBuf::from(&disk.path));
        }
        for partition in disk.table.iter().flat_map(|t| &t.partitions).filter(|p| is_member(&p.content)) {
            devices.push(partition_path(Path::new(&disk.path), partition.number));
        }
    }
    devices.retain(|d| d.exists());
    devices
}

/// Looks at a volume.
fn look(
    runner: &dyn Runner,
    root: &ProbeRoot,
    places: &[Place],
    shown: &str,
    problems: &mut Vec<Issue>,
) -> Result<Option<Content>> {
    if let [place] = places {
        let (path, _device) = loopdev::attach_part_read_only(&place.device, place.offset, place.size)?;
        return super::content_of(runner, root, &path, shown, problems);
    }
    if !has_device_mapper(runner) {
        bail!("it lies on several disks, and this kernel has no device-mapper");
    }
    let mapping = Mapping::make(runner, places, true)?;
    super::content_of(runner, root, &mapping.node()?, shown, problems)
}

/// A logical volume as a device, as long as this is there or the device is in use.
pub(crate) enum Shown<'r> {
    /// In one piece: a loop device at its place.
    Loop(PathBuf, #[expect(dead_code, reason = "it keeps the device")] std::fs::File),
    /// In several.
    Mapped(PathBuf, Mapping<'r>),
}

impl Shown<'_> {
    /// Its node.
    pub(crate) fn node(&self) -> &Path {
        match self {
            Shown::Loop(path, _) | Shown::Mapped(path, _) => path,
        }
    }

    /// Lets the device stay after us: something of it is mounted that shall outlive us.
    pub(crate) fn stay(self) {
        if let Shown::Mapped(_, mapping) = self {
            std::mem::forget(mapping);
        }
    }
}

/// Shows a logical volume of these disks.
///
/// # Errors
/// There is none of that name in a complete group, or it does not consist of linear pieces.
pub(crate) fn show<'r>(
    runner: &'r dyn Runner,
    disks: &[Disk],
    group: &str,
    volume: &str,
    read_only: bool,
) -> Result<Shown<'r>> {
    let report = Report::of(&devices(disks), runner)?;
    let found = report.groups.iter().find(|g| g.name == group);
    let found = found.with_context(|| format!("looking for the volume group {group}"))?;
    let places = report.places(found, volume).filter(|_| report.is_complete(found));
    let places = places.with_context(|| {
        format!("showing {group}/{volume}: it is not made of plain pieces that are all there")
    })?;
    if let [place] = &places[..] {
        let attach = if read_only { loopdev::attach_part_read_only } else { loopdev::attach_part };
        let (path, device) = attach(&place.device, place.offset, place.size)?;
        return Ok(Shown::Loop(path, device));
    }
    if !has_device_mapper(runner) {
        bail!("showing {group}/{volume}: it lies in several pieces, and this kernel has no device-mapper");
    }
    let mapping = Mapping::make(runner, &places, read_only)?;
    Ok(Shown::Mapped(mapping.node()?, mapping))
}

/// A mapping of ours, until it is dropped.
pub(crate) struct Mapping<'r> {
    runner: &'r dyn Runner,
    name: String,
}

impl<'r> Mapping<'r> {
    fn make(runner: &'r dyn Runner, places: &[Place], read_only: bool) -> Result<Self> {
        // One program may show several at once.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let line = |p: &Place| {
            format!("{} {} linear {} {}\n", p.at / 512, p.size / 512, p.device.display(), p.offset / 512)
        };
        let name = format!("akene-look-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let create = ["create", &name, "--noudevsync", "--noudevrules"];
        let create = Cmd::new("dmsetup").args(create).args(read_only.then_some("--readonly"));
        let table: String = places.iter().map(line).collect();
        runner.run(&create.stdin(table)).context("mapping its pieces")?;
        Ok(Mapping { runner, name })
    }

    /// The kernel's own node. There is none in `/dev/mapper`: that is udev's business, which is kept out of this, and
    /// where there is udev dmsetup does not make one either.
    fn node(&self) -> Result<PathBuf> {
        let ask = ["info", "-c", "--noheadings", "-o", "blkdevname", &self.name];
        let told = self.runner.run(&Cmd::new("dmsetup").args(ask)).context("looking for its mapping")?.text();
        let told = told.trim();
        if told.strip_prefix("dm-").is_none_or(|n| n.is_empty() || !n.bytes().all(|b| b.is_ascii_digit())) {
            bail!("looking for its mapping: dmsetup calls it `{told}`");
        }
        Ok(Path::new("/dev").join(told))
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // One that stays keeps its disks in use, and the lock on them says so.
        let remove = ["remove", "--retry", "--noudevsync", "--noudevrules", &self.name];
        self.runner.run(&Cmd::new("dmsetup").args(remove)).ok();
    }
}

#[cfg(test)]
mod tests {
    use akene_exec::RecordingRunner;

    use super::*;

    #[test]
    fn a_volume_on_two_disks_is_put_together_in_order() {
        let runner = RecordingRunner::default()
            .answer(
                "lvm vgs",
                r#"{"report":[{"vg":[{"vg_name":"akene-home","vg_uuid":"R","vg_missing_pv_count":"0",
                   "vg_extent_size":"4194304"}]}]}"#,
            )
            .answer(
                "lvm pvs",
                r#"{"report":[{"pv":[{"pv_name":"/dev/sda3","vg_uuid":"R","pe_start":"1048576"},
                   {"pv_name":"/dev/sdb1","vg_uuid":"R","pe_start":"2097152"},
                   {"pv_name":"[unknown]","vg_uuid":"S","pe_start":"0"}]}]}"#,
            )
            .answer(
                "lvm lvs",
                r#"{"report":[{"seg":[
                   {"vg_uuid":"R","lv_name":"home","lv_size":"629145600","segtype":"linear",
                    "seg_start":"314572800","seg_size":"314572800","devices":"/dev/sdb1(10)"},
                   {"vg_uuid":"R","lv_name":"home","lv_size":"629145600","segtype":"linear",
                    "seg_start":"0","seg_size":"314572800","devices":"/dev/sda3(0)"},
                   {"vg_uuid":"R","lv_name":"safe","lv_size":"4194304","segtype":"raid1","seg_start":"0",
                    "seg_size":"4194304","devices":"safe_rimage_0(0),safe_rimage_1(0)"}]}]}"#,
            );
        let devices = [PathBuf::from("/dev/sda3"), PathBuf::from("/dev/sdb1")];
        let report = Report::of(&devices, &runner).unwrap();
        let group = &report.groups[0];
        assert!(report.is_complete(group));
        assert_eq!(report.members(group), devices);
        assert_eq!(report.volumes(group)["home"], 629_145_600);
        let places = report.places(group, "home").unwrap();
        let shown: Vec<_> = places.iter().map(|p| (p.at, p.device.to_str().unwrap(), p.offset)).collect();
        assert_eq!(
            shown,
            [(0, "/dev/sda3", 1_048_576), (314_572_800, "/dev/sdb1", 2_097_152 + 10 * 4_194_304)]
        );
        assert_eq!(report.places(group, "safe"), None, "what is mirrored is not looked at");
        for call in runner.calls() {
            assert!(call.contains(&"--readonly".to_owned()), "{call:?}");
            assert!(call[3].contains("a|^/dev/sda3$|") && call[3].contains("r|.*|"), "{call:?}");
        }
    }
}
