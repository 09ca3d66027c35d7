//! What machines and their programs say of themselves.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use akene_agent::{fuzz as doors, probe::table as tables};
use akene_planner::render;
use akene_protocol::Inventory;
use akene_protocol::api::Consent;
use akene_protocol::profile::{Bundle, parse_layer};
use akene_protocol::resolve::{Resolved, resolve};

use crate::Said;
use crate::documents::same_again;

/// An ordinary machine: a recorded one of the golden tests.
pub fn ordinary() -> Inventory {
    static TEXT: &str = include_str!("../../tests/golden/akene-reinstall/inventory.json");
    Inventory::parse(TEXT.as_bytes()).unwrap()
}

/// Wishes that reach every corner of the planner.
static WISHES: &str = r#"
timezone = "Europe/Paris"
[identity]
username = "vera"
[apt]
distribution = "debian"
suite = "bookworm"
[storage.volumes.home]
span = true
[storage.volumes.cache]
mount = "/var/cache/akene"
min = "1 GiB"
"#;

/// What they come to for a machine.
fn wishes(inventory: &Inventory) -> Option<Resolved> {
    static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| Bundle {
        site: "site".into(),
        name: "default".into(),
        revision: "0".into(),
        classes: vec![],
        profile: parse_layer(WISHES, "profiles/default.toml").unwrap(),
    });
    resolve(&BUNDLE, inventory, None).ok()
}

/// An inventory as the server gets it from whoever has a token: identity, plan, pictures.
pub fn inventory(data: &[u8]) {
    let Ok(inventory) = Inventory::parse(data) else { return };
    same_again(&inventory, |text| Inventory::parse(text).ok());
    akene_server::identity::evidence(&inventory);
    let Some(resolved) = wishes(&inventory) else { return };
    for allowed in [Consent::None, Consent::Blank, Consent::Wipe] {
        let plan = akene_planner::plan_within(&resolved.storage, &inventory, allowed);
        if let Ok(plan) = &plan {
            same_again(plan, |text| serde_json::from_slice(text).ok());
            assert!(allowed != Consent::Blank || plan.needs == allowed, "{allowed:?} is not enough for it");
            render::text(plan, &inventory, render::Style::default());
        }
        if allowed == Consent::Wipe {
            render::svg(&inventory, plan.as_ref());
        }
    }
}

thread_local! {
    static DISK: RefCell<Option<(tempfile::TempDir, File)>> = const { RefCell::new(None) };
}

/// Gives `act` a disk that holds these bytes.
pub(crate) fn with_disk(bytes: &[u8], act: impl FnOnce(&File)) {
    DISK.with_borrow_mut(|disk| {
        let (_, file) = disk.get_or_insert_with(|| {
            let dir = crate::scratch();
            let open = File::options().create_new(true).read(true).write(true).open(dir.path().join("disk"));
            (dir, open.unwrap())
        });
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        act(file);
    });
}

/// A disk with 512-byte or 4096-byte sectors. The sums of a GPT are put right first, or nothing behind them
/// would ever be read; an input without the mark in its first sector keeps what it has.
pub fn table(data: &[u8]) {
    for sector in [512, 4096] {
        let mut disk = data.to_vec();
        disk.resize(disk.len().next_multiple_of(sector), 0);
        if disk.first() == Some(&b'+') {
            let last = (disk.len() / sector).saturating_sub(1);
            for header in [1, last] {
                put_right(&mut disk, sector, header);
            }
        }
        with_disk(&disk, |file| {
            let size = disk.len() as u64;
            let Ok(Some(table)) = tables::read(file, size, sector as u32) else { return };
            // Who is told of a table twice is told the same, and whole numbers of bytes.
            let again = tables::read(file, size, sector as u32).unwrap().unwrap();
            assert_eq!(table.hash, again.hash);
            for partition in &table.partitions {
                assert!(partition.number > 0, "{partition:?}");
                assert!(partition.end() >= partition.start, "{partition:?}");
            }
        });
    }
}

/// Puts the two sums of a GPT header right.
fn put_right(disk: &mut [u8], sector: usize, header: usize) {
    let at = header * sector;
    let number = |disk: &[u8], from: usize, bytes: usize| -> usize {
        disk.get(from..from + bytes)
            .map_or(0, |b| b.iter().rev().fold(0usize, |n, b| n.wrapping_shl(8) | usize::from(*b)))
    };
    if disk.get(at..at + 8) != Some(b"EFI PART") {
        return;
    }
    let (first, count, size) = (number(disk, at + 72, 8), number(disk, at + 80, 4), number(disk, at + 84, 4));
    let from = first.checked_mul(sector);
    let to = count.checked_mul(size).and_then(|length| from?.checked_add(length));
    if let (Some(from), Some(to)) = (from, to)
        && let Some(entries) = disk.get(from..to)
    {
        let sum = crc32(entries);
        disk[at + 88..at + 92].copy_from_slice(&sum.to_le_bytes());
    }
    disk[at + 16..at + 20].fill(0);
    let length = number(disk, at + 12, 4).min(sector);
    let sum = crc32(&disk[at..at + length]);
    disk[at + 16..at + 20].copy_from_slice(&sum.to_le_bytes());
}

/// The usual sum of 32 bits, bit by bit: short, and independent of those that are tested.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |s, _| if s & 1 == 1 { s >> 1 ^ 0xedb8_8320 } else { s >> 1 })
    })
}

/// What programs print about the hardware. An input is tried as each.
pub fn probe(data: &[u8]) {
    doors::smart(data);
    doors::lvm(&Said { text: data.to_vec(), code: 0 }).ok();
    let text = String::from_utf8_lossy(data);
    doors::blkid(&text);
    if let (_, Some(link)) = doors::udev(&text) {
        assert!(link.starts_with("/dev/disk/by-id/"), "{link}");
    }
    doors::boot_entries(&text).ok();
    let mut block = data.to_vec();
    doors::edid(&block);
    if let Some(block) = block.first_chunk_mut::<128>() {
        // Its last byte makes the sum zero.
        let sum = block[..127].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        block[127] = sum.wrapping_neg();
        doors::edid(block);
    }
}
