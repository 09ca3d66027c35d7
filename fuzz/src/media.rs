//! What lies on media and boot partitions.

use std::path::Path;

use akene_agent::boot::{Cmdline, Consoles};
use akene_agent::fuzz as doors;
use akene_image::iso9660::Iso;
use akene_protocol::{Sha256, Stamp};

use crate::documents::same_again;
use crate::machine::with_disk;

/// The first line of a stamp.
fn first_line() -> String {
    let area = akene_protocol::stamp::empty_area();
    let text = String::from_utf8_lossy(&area).into_owned();
    let start = text.find("AKENE-STAMP").unwrap_or_default();
    text[start..].lines().next().unwrap_or_default().to_owned()
}

/// ISO images, stamps, command lines, journals, spools. An input is tried as each.
pub fn media(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    Cmdline::parse(&text);
    Consoles::parse(&text);

    Stamp::parse_area(data);
    Stamp::parse_file(data).ok();
    let sealed = format!("{}\n{}\n{text}", first_line(), Sha256::of(text.as_bytes()));
    if let Ok(stamp) = Stamp::parse_file(sealed.as_bytes()) {
        assert!(!format!("{stamp:?}").is_empty());
        same_again(&stamp, |text| serde_json::from_slice(text).ok());
    }

    let (_, intact) = doors::journal(data);
    assert!(intact <= data.len());
    let sealed: String = text.lines().map(doors::journal_line).collect();
    let (records, intact) = doors::journal(sealed.as_bytes());
    assert!(intact <= sealed.len() && records <= text.lines().count());
    // What was intact is intact by itself.
    assert_eq!(doors::journal(&sealed.as_bytes()[..intact]), (records, intact));

    // A volume descriptor lies at 32 KiB, where no input begins by itself.
    let mut image = vec![0; 32 << 10];
    image.extend(data);
    with_disk(&image, |file| {
        let Ok(iso) = Iso::open(file) else { return };
        for path in ["akene/stamp.img", "boot/grub/grub.cfg"] {
            if let Ok(Some(extent)) = iso.find(path) {
                assert!(extent.offset + extent.length <= image.len() as u64, "{extent:?}");
                iso.read(extent, 1 << 20).ok();
            }
        }
    });

    spool(data);
}

fn spool(data: &[u8]) {
    thread_local! {
        static DIR: tempfile::TempDir = crate::scratch();
    }
    let read = |path: &Path| {
        std::fs::write(path, data).unwrap();
        doors::spool(path).unwrap()
    };
    let (_, intact) = DIR.with(|dir| read(&dir.path().join("spool.jsonl")));
    assert!(intact <= data.len() as u64);
}
