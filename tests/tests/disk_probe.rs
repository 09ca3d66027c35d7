//! The probe on recorded machines and on real filesystems in loop devices.

use std::fs;
use std::path::{Path, PathBuf};

use akene_agent::probe::{ProbeRoot, inventory};
use akene_agent::storage::image::Image;
use akene_exec::{Cmd, RecordingRunner, Runner, SystemRunner};
use akene_protocol::Bytes;
use akene_protocol::inventory::{Bus, FirmwareKind, Health, LooksLike, TableKind};
use akene_tests::disks::{can_run, run};

/// A machine as files.
struct Recorded(tempfile::TempDir);

impl Recorded {
    fn new() -> Self {
        Recorded(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(path), content).unwrap();
    }

    /// A link below `sys`, to a target below `sys`.
    fn link(&self, path: &str, target: &str) {
        fs::create_dir_all(self.0.path().join("sys").join(target)).unwrap();
        let target = self.0.path().join("sys").join(target);
        std::os::unix::fs::symlink(target, self.path(&format!("sys/{path}"))).unwrap();
    }

    /// A disk whose device directory is `device`, of so many sectors of 512 bytes, with a blank node.
    fn disk(&self, name: &str, device: &str, sectors: u64) -> String {
        let own = format!("{device}/block/{name}");
        self.link(&format!("block/{name}"), &own);
        self.file(&format!("sys/{own}/size"), format!("{sectors}\n"));
        self.file(&format!("sys/{own}/removable"), "0\n");
        self.file(&format!("sys/{own}/ro"), "0\n");
        self.file(&format!("sys/{own}/queue/logical_block_size"), "512\n");
        self.file(&format!("sys/{own}/queue/physical_block_size"), "4096\n");
        self.file(&format!("sys/{own}/queue/rotational"), "1\n");
        fs::File::create(self.path(&format!("dev/{name}"))).unwrap().set_len(sectors * 512).unwrap();
        format!("sys/{own}")
    }

    fn root(&self) -> ProbeRoot {
        ProbeRoot::recorded(self.0.path())
    }
}

#[test]
fn an_old_office_pc() {
    let pc = Recorded::new();
    for (file, value) in [
        ("sys_vendor", "Dell Inc.\n"),
        ("product_name", "OptiPlex 755                 \n"),
        ("product_serial", "R9KX1T3\n"),
        ("product_uuid", "4C4C4544-0042-3510-8054-B4C04F334231\n"),
        ("product_version", "Not Specified\n"),
        ("board_serial", "To Be Filled By O.E.M.\n"),
        ("chassis_asset_tag", "                    \n"),
        ("chassis_type", "15\n"),
        ("bios_vendor", "Dell Inc.\n"),
        ("bios_date", "11/12/2009\n"),
    ] {
        pc.file(&format!("sys/class/dmi/id/{file}"), value);
    }
    let sda = pc.disk("sda", "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0", 40960);
    pc.file(&format!("{sda}/dev"), "8:0\n");
    pc.file(&format!("{sda}/device/model"), "WDC WD800JD-75M \n");
    pc.file("sys/class/scsi_host/host0/proc_name", "ahci\n");
    pc.file(
        "run/udev/data/b8:0",
        "S:disk/by-id/ata-WDC_WD800JD_WD-WMAM9\nS:disk/by-id/wwn-0x50014ee0\nE:ID_ATA=1\nE:ID_ATA_SATA=1\n\
         E:ID_SERIAL_SHORT=WD-WMAM9ABC\nE:ID_WWN=0x50014ee0\n",
    );
    let sdb = pc.disk("sdb", "devices/pci0000:00/0000:00:1f.5/ata3/host2/target2:0:0/2:0:0:0", 40960);
    pc.file("sys/class/scsi_host/host2/proc_name", "pata_atiixp\n");
    // Without udev the disk says its serial number itself.
    pc.file(&format!("{sdb}/device/vpd_pg80"), b"\x00\x80\x00\x08  5LRA7X");
    let sdc =
        pc.disk("sdc", "devices/pci0000:00/0000:00:1a.7/usb1/1-3/1-3:1.0/host6/target6:0:0/6:0:0:0", 40960);
    pc.file(&format!("{sdc}/queue/rotational"), "0\n");
    // An empty card reader, an optical drive, a RAM disk.
    pc.disk("sdd", "devices/pci0000:00/0000:00:1a.7/usb1/1-4/1-4:1.0/host7/target7:0:0/7:0:0:0", 0);
    pc.disk("sr0", "devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0", 1000);
    pc.disk("zram0", "devices/virtual", 1000);
    pc.disk("mmcblk0boot0", "devices/mmc", 1000);

    pc.link("class/net/eth0/device", "devices/pci0000:00/0000:00:19.0");
    pc.link("devices/pci0000:00/0000:00:19.0/driver", "bus/pci/drivers/e1000e");
    pc.link("devices/pci0000:00/0000:00:19.0/subsystem", "bus/pci");
    pc.file("sys/devices/pci0000:00/0000:00:19.0/vendor", "0x8086\n");
    pc.file("sys/devices/pci0000:00/0000:00:19.0/device", "0x10BD\n");
    for (file, value) in
        [("type", "1\n"), ("address", "02:00:00:00:00:01\n"), ("carrier", "1\n"), ("speed", "100\n")]
    {
        pc.file(&format!("sys/class/net/eth0/{file}"), value);
    }
    pc.file("sys/class/net/lo/type", "772\n");
    for (file, value) in
        [("type", "Battery"), ("energy_full", "30000"), ("energy_full_design", "60000"), ("capacity", "87")]
    {
        pc.file(&format!("sys/class/power_supply/BAT0/{file}"), value);
    }

    let runner = RecordingRunner::default().answer(
        "ip -j link",
        r#"[{"ifname":"eth0","address":"02:00:00:00:00:01","permaddr":"00:1e:c9:12:34:56"}]"#,
    );
    let found = inventory(&runner, &pc.root());
    assert_eq!(found.dmi.product_name.as_deref(), Some("OptiPlex 755"));
    assert_eq!(found.dmi.product_serial.as_deref(), Some("R9KX1T3"));
    assert_eq!((&found.dmi.product_version, &found.dmi.board_serial), (&None, &None));
    assert_eq!(found.dmi.chassis_asset_tag, None);
    assert_eq!((found.firmware.kind, found.firmware.secure_boot), (FirmwareKind::Bios, None));

    let names: Vec<_> = found.disks.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["sda", "sdb", "sdc"]);
    let [sda, sdb, sdc] = &found.disks[..] else { unreachable!() };
    assert_eq!((sda.bus, sda.removable, sda.rotational), (Bus::Sata, false, Some(true)));
    assert_eq!(sda.by_id.as_deref(), Some("/dev/disk/by-id/wwn-0x50014ee0"));
    assert_eq!((sda.serial.as_deref(), sda.wwn.as_deref()), (Some("WD-WMAM9ABC"), Some("0x50014ee0")));
    assert_eq!((sda.size, sda.physical_sector), (Bytes(40960 * 512), 4096));
    assert_eq!(sda.model.as_deref(), Some("WDC WD800JD-75M"));
    assert!(sda.is_blank());
    assert_eq!((sdb.bus, sdb.serial.as_deref()), (Bus::Ide, Some("5LRA7X")));
    assert_eq!((sdc.bus, sdc.removable), (Bus::Usb, true));

    let [nic] = &found.nics[..] else { panic!("{:?}", found.nics) };
    assert_eq!((nic.driver.as_deref(), nic.bus.as_deref()), (Some("e1000e"), Some("pci")));
    assert_eq!((nic.mac.as_deref(), nic.device.as_deref()), (Some("00:1e:c9:12:34:56"), Some("8086:10bd")));
    assert_eq!((nic.link, nic.speed, nic.wireless), (Some(true), Some(100), false));
    assert_eq!(found.batteries[0].health_percent, Some(50));
    assert_eq!(found.notes, []);
}

#[test]
fn firmware_kinds_and_secure_boot() {
    for (size, on, setup, kind, secure) in [
        ("64\n", 1, 0, FirmwareKind::Uefi64, Some(true)),
        ("64\n", 0, 0, FirmwareKind::Uefi64, Some(false)),
        ("64\n", 1, 1, FirmwareKind::Uefi64, Some(false)),
        ("32\n", 0, 0, FirmwareKind::Uefi32, Some(false)),
    ] {
        let pc = Recorded::new();
        let guid = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
        pc.file("sys/firmware/efi/fw_platform_size", size);
        pc.file(&format!("sys/firmware/efi/efivars/SecureBoot-{guid}"), [6, 0, 0, 0, on]);
        pc.file(&format!("sys/firmware/efi/efivars/SetupMode-{guid}"), [6, 0, 0, 0, setup]);
        let found = inventory(&RecordingRunner::default(), &pc.root());
        assert_eq!((found.firmware.kind, found.firmware.secure_boot), (kind, secure));
    }
}

#[test]
fn a_controller_that_hides_its_disks_is_named() {
    let pc = Recorded::new();
    pc.file("sys/bus/pci/devices/0000:00:17.0/class", "0x010400\n");
    pc.file("sys/bus/pci/devices/0000:00:17.0/vendor", "0x8086\n");
    pc.file("sys/bus/pci/devices/0000:00:17.0/device", "0x2822\n");
    let found = inventory(&RecordingRunner::default(), &pc.root());
    assert_eq!(found.notes[0].code, "raid-controller");
    assert!(found.notes[0].next.contains("AHCI"), "{:?}", found.notes);
    // A machine of which one disk does show is not told to change its set-up.
    pc.disk("sda", "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0", 40960);
    assert_eq!(inventory(&RecordingRunner::default(), &pc.root()).notes, []);
}

#[test]
fn a_disk_that_cannot_be_read_is_never_taken_for_a_blank_one() {
    let pc = Recorded::new();
    pc.disk("sda", "devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0", 40960);
    // Shorter than it says: reading its end fails, as on a disk that is dying.
    fs::File::create(pc.path("dev/sda")).unwrap().set_len(100 * 512).unwrap();
    let found = inventory(&RecordingRunner::default(), &pc.root());
    assert!(!found.disks[0].is_blank());
    assert_eq!(found.disks[0].health, Health::Failing);
    assert_eq!(found.notes[0].code, "disk-unreadable");
}

#[test]
fn an_empty_machine_has_no_facts_and_no_panic() {
    let found = inventory(&RecordingRunner::default(), &Recorded::new().root());
    assert!(found.disks.is_empty() && found.nics.is_empty() && found.dmi == Default::default());
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<akene_protocol::inventory::Inventory>(&json).unwrap(), found);
}

#[test]
fn what_lies_on_real_filesystems_is_recognised_and_not_touched() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.img");
    let image = Image::create(&file, Bytes::mib(540), 512).unwrap();
    let script = "label: gpt\nstart=1MiB,size=20MiB\nstart=21MiB,size=20MiB\nstart=41MiB,size=120MiB\n\
                  start=161MiB,size=16MiB,type=swap\nstart=177MiB,size=20MiB\nstart=197MiB,size=320MiB\n";
    SystemRunner
        .run(
            &Cmd::new("sfdisk")
                .args(["-q", "--no-reread", "--no-tell-kernel"])
                .arg(image.path())
                .stdin(script),
        )
        .unwrap();
    image.show_partitions().unwrap();
    let node = |n: u32| format!("{}p{n}", image.path().display());
    let tree = dir.path().join("tree");
    let plant = |files: &[(&str, &str)]| {
        fs::remove_dir_all(&tree).ok();
        for (path, content) in files {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        tree.to_str().unwrap().to_owned()
    };
    let root = plant(&[
        ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Ubuntu 22.04.3 LTS\"\n"),
        ("home/ana/.bashrc", "# hers"),
        ("usr/bin/x", ""),
    ]);
    run("mkfs.ext4", &["-q", "-L", "root", "-d", &root, &node(1)]);
    let boot = plant(&[("akene/identity.json", "{}")]);
    run("mkfs.ext4", &["-q", "-L", "AKENE_BOOT", "-d", &boot, &node(2)]);
    let home = plant(&[("ana/Documents/letter.odt", "x"), ("ben/.config/y", "x")]);
    run("mkfs.btrfs", &["-q", "-L", "people", "-r", &home, &node(3)]);
    run("mkswap", &["-L", "swap", &node(4)]);
    run("mkfs.xfs", &["-q", "-f", "-m", "crc=1", &node(6)]);
    // A journal that was never played back: copied while mounted. Looking must not play it back.
    let place = dir.path().join("mnt");
    fs::create_dir(&place).unwrap();
    run("mkfs.ext4", &["-q", "-L", "dirty", &node(5)]);
    run("mount", &[&node(5), place.to_str().unwrap()]);
    fs::write(place.join("note"), "in the journal").unwrap();
    run("sync", &["-f", place.join("note").to_str().unwrap()]);
    let copy = fs::read(node(5)).unwrap();
    run("umount", &[place.to_str().unwrap()]);
    fs::write(node(5), &copy).unwrap();
    run("sync", &[]);
    assert!(run("dumpe2fs", &["-h", &node(5)]).contains("needs_recovery"), "the journal is pending");

    let before: Vec<_> = (1..=6).map(|n| sum(&node(n))).collect();
    let probe = ProbeRoot { also: vec![image.path().to_owned()], ..ProbeRoot::default() };
    let found = inventory(&SystemRunner, &probe);
    let disk = found.disks.iter().find(|d| Path::new(&d.path) == image.path()).unwrap();
    let notes: Vec<_> =
        found.notes.iter().filter(|n| n.path.contains(image.path().to_str().unwrap())).collect();
    assert!(notes.is_empty(), "{notes:?}");
    let table = disk.table.as_ref().unwrap();
    assert_eq!((table.kind, disk.bus, &table.damage), (TableKind::Gpt, Bus::Loop, &None));
    let looks = |n: usize| table.partitions[n - 1].content.as_ref().unwrap().looks_like.clone();
    let name = Some("Ubuntu 22.04.3 LTS".to_owned());
    let Some(LooksLike::LinuxRoot { name: system, home_inside: true, home_used: Some(used) }) = looks(1)
    else {
        panic!("{:?}", looks(1))
    };
    assert!(system == name && used > Bytes(0) && used < Bytes::mib(1), "{system:?} {used}");
    assert_eq!(
        looks(2),
        Some(LooksLike::AkeneBoot { unfinished: false, root: None, root_goes: false }),
        "no journal, but not empty"
    );
    assert_eq!(looks(3), Some(LooksLike::Home));
    assert_eq!(looks(4), Some(LooksLike::Swap));
    assert_eq!(looks(6), Some(LooksLike::Empty));
    let used = table.partitions[0].content.as_ref().unwrap().used.unwrap();
    assert!(used > Bytes(0) && used < Bytes::mib(15), "{used}");
    // An independent look at what blkid says of the same nodes.
    for partition in &table.partitions {
        let label = run("blkid", &["-p", "-o", "value", "-s", "LABEL", &node(partition.number)]);
        assert_eq!(partition.content.as_ref().unwrap().label.clone().unwrap_or_default(), label);
    }
    let after: Vec<_> = (1..=6).map(|n| sum(&node(n))).collect();
    assert_eq!(before, after, "looking changed something");
    image.detach().unwrap();
}

fn sum(node: &str) -> String {
    // Past the page cache: what another reader of the disk would get.
    run("blockdev", &["--flushbufs", node]);
    run("cksum", &[node])
}
