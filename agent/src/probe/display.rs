//! Displays and their EDID.

use akene_protocol::garbage;
use akene_protocol::inventory::Display;

use super::root::{ProbeRoot, fold, names, text};

/// Every connected display.
pub(super) fn list(root: &ProbeRoot) -> Vec<Display> {
    let dir = root.sys.join("class/drm");
    let connected = |name: &String| text(&dir.join(name).join("status")).as_deref() == Some("connected");
    names(&dir)
        .into_iter()
        .filter(connected)
        .filter_map(|name| {
            // card0-VGA-1
            let (_, connector) = name.split_once('-')?;
            let edid = std::fs::read(dir.join(&name).join("edid")).unwrap_or_default();
            Some(Display { connector: connector.to_owned(), ..parse(&edid).unwrap_or_default() })
        })
        .collect()
}

/// Reads the base block of an EDID (VESA E-EDID 1.4, chapter 3). `None`: it is none, or damaged.
pub(crate) fn parse(edid: &[u8]) -> Option<Display> {
    let block = edid.get(..128)?;
    let sum = block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if block[..8] != [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0] || sum != 0 {
        return None;
    }
    // Three letters of five bits each, A is 1.
    let id = u16::from_be_bytes([block[8], block[9]]);
    let letter = |shift: u16| match (id >> shift) & 0x1f {
        n @ 1..=26 => Some(char::from(b'A' + n as u8 - 1)),
        _ => None,
    };
    let manufacturer = [letter(10), letter(5), letter(0)].into_iter().collect::<Option<String>>();

    let mut display = Display { manufacturer, ..Display::default() };
    let mut spare = None;
    for descriptor in block[54..126].chunks(18) {
        let text = || {
            let text = String::from_utf8_lossy(&descriptor[5..]);
            let text = fold(text.split('\n').next().unwrap_or_default());
            Some(text).filter(|t| garbage::keep(t))
        };
        match (&descriptor[..3], descriptor[3]) {
            ([0, 0, 0], 0xfc) => display.model = display.model.or_else(text),
            ([0, 0, 0], 0xff) => display.serial = text().filter(|s| garbage::keep_serial(s)),
            // Notebook panels put their type into free text instead of the name.
            ([0, 0, 0], 0xfe) => spare = spare.or_else(text),
            ([0, 0, 0], _) => {}
            // The first detailed timing is the preferred one.
            _ if display.preferred.is_none() => {
                let pixels = |low: u8, high: u8| u32::from(low) | u32::from(high >> 4) << 8;
                let (width, height) =
                    (pixels(descriptor[2], descriptor[4]), pixels(descriptor[5], descriptor[7]));
                display.preferred = Some(format!("{width}x{height}")).filter(|_| width > 0 && height > 0);
            }
            _ => {}
        }
    }
    display.model = display.model.or(spare);
    let number = u32::from_le_bytes([block[12], block[13], block[14], block[15]]).to_string();
    display.serial = display.serial.or(Some(number).filter(|n| garbage::keep_serial(n)));
    Some(display)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made from the specification's field tables: a 1366x768 panel of a made-up maker.
    fn edid() -> Vec<u8> {
        let mut block = vec![0u8; 128];
        block[..8].copy_from_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
        // "DEL" is 4, 5, 12.
        block[8..10].copy_from_slice(&(4u16 << 10 | 5 << 5 | 12).to_be_bytes());
        block[12..16].copy_from_slice(&0x3042_4c4cu32.to_le_bytes());
        // 1366 = 0x556, 768 = 0x300.
        block[54..72]
            .copy_from_slice(&[0x12, 0x1b, 0x56, 0x46, 0x50, 0x00, 0x20, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        block[72..90].copy_from_slice(b"\0\0\0\xfc\0DELL P2214H\n ");
        block[90..108].copy_from_slice(b"\0\0\0\xff\0KW14V47H0LBL\n");
        let sum = block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        block[127] = 0u8.wrapping_sub(sum);
        block
    }

    #[test]
    fn reads_maker_name_serial_and_preferred_mode() {
        let display = parse(&edid()).unwrap();
        assert_eq!(display.manufacturer.as_deref(), Some("DEL"));
        assert_eq!(display.model.as_deref(), Some("DELL P2214H"));
        assert_eq!(display.serial.as_deref(), Some("KW14V47H0LBL"));
        assert_eq!(display.preferred.as_deref(), Some("1366x768"));
    }

    #[test]
    fn a_damaged_or_short_block_is_none() {
        let mut damaged = edid();
        damaged[60] ^= 1;
        assert_eq!(parse(&damaged), None);
        assert_eq!(parse(&edid()[..100]), None);
        assert_eq!(parse(&[]), None);
    }
}
