//! Values that vendors ship by the thousand and that say nothing about one machine.
//!
//! The probe drops them by the lists in [`akene_protocol::garbage`]; the server does not rely on that, because
//! evidence that is wrong here is wrong for the whole fleet, and is stricter: what a person likes to read may
//! still be worthless as evidence.

use akene_protocol::garbage;

/// Whether a serial number is a placeholder. `text` is trimmed and in upper case.
pub fn is_garbage_serial(text: &str) -> bool {
    // Words a serial number has no reason to hold.
    const WORDS: &[&str] = &[
        "DEFAULT",
        "SERIAL",
        "NOT SPECIFIED",
        "NOT APPLICABLE",
        "NOT AVAILABLE",
        "NOT PRESENT",
        "NOT SETTABLE",
        "UNSPECIFIED",
        "NO ASSET",
        "ASSET TAG",
        "(NULL",
        "BASE BOARD",
        "PCA_NUMBER",
        "TULIP COMPUTERS",
        "NO STRING",
        "BAD INDEX",
        "UNDEFINED",
    ];
    // QEMU's disks count from one in every machine.
    let of_qemu = text.strip_prefix("QM").is_some_and(|n| n.len() == 5 && n.starts_with("0000"));
    let characters = text.chars().filter(|c| c.is_alphanumeric()).count();
    characters < 4
        || of_qemu
        || text == "PRODUCT"
        || !garbage::keep_serial(text)
        || WORDS.iter().any(|word| text.contains(word))
}

/// Whether a MAC address says nothing: set by software, or burnt into a whole series. `mac` is in
/// lower case with colons.
pub fn is_garbage_mac(mac: &str) -> bool {
    let mut bytes = [0; 6];
    let parts: Vec<&str> = mac.split(':').collect();
    if parts.len() != 6
        || parts
            .iter()
            .zip(&mut bytes)
            .any(|(p, b)| hex::decode_to_slice(p, std::slice::from_mut(b)).is_err())
    {
        return true;
    }
    // Multicast, or locally administered: such an address was not burnt in. The latter covers QEMU's too.
    let made_up = bytes[0] & 0b11 != 0;
    let most_common = bytes.iter().map(|b| bytes.iter().filter(|o| *o == b).count()).max();
    made_up || most_common >= Some(5) || !garbage::keep_mac(mac)
}

/// Both byte orders of a DMI UUID as one text, or `None` for a UUID whole series share.
pub fn canonical_uuid(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect::<String>().to_lowercase();
    let mut bytes = [0; 16];
    hex::decode_to_slice(&digits, &mut bytes).ok()?;
    // SMBIOS 2.6 says that the first three fields are little-endian; firmware and kernels disagreed.
    let mut swapped = bytes;
    swapped[..4].reverse();
    swapped[4..6].reverse();
    swapped[6..8].reverse();
    let (a, b) = (hex::encode(bytes), hex::encode(swapped));
    // A list may hold either order.
    let own = |hex: &str| {
        garbage::keep_uuid(&[&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
    };
    let mut distinct = bytes.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    (distinct.len() > 2 && own(&a) && own(&b)).then(|| a.min(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_garbage_and_real_serials_are_not() {
        for garbage in [
            "",
            "0",
            "-",
            "123456789",
            "0123456789",
            "987654321",
            "0000000",
            "TO BE FILLED BY O.E.M.",
            "DEFAULT STRING",
            "SYSTEM SERIAL NUMBER",
            "XXXXXXXXXXX",
            "NONE",
            "N/A",
            "1111111",
            "EVAL",
            "QM00001",
            "010101010",
        ] {
            assert!(is_garbage_serial(garbage), "{garbage}");
        }
        for real in ["5XK1Q4J", "CZC0123ABC", "PF0ABCDE", "WD-WCAV5J12345", "S3Z8NB0K123456", "R9-1A2B3"] {
            assert!(!is_garbage_serial(real), "{real}");
        }
    }

    #[test]
    fn addresses_that_were_never_burnt_in_are_garbage() {
        for garbage in [
            "52:54:00:12:34:56",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "00:20:07:01:16:06",
            "xx",
            "",
            "a:b:c:d:e:f",
        ] {
            assert!(is_garbage_mac(garbage), "{garbage}");
        }
        assert!(!is_garbage_mac("00:1e:c9:3a:5b:7c"));
    }

    #[test]
    fn both_byte_orders_are_one() {
        let a = canonical_uuid("4c4c4544-0042-3510-8054-b4c04f334231");
        assert!(a.is_some());
        assert_eq!(a, canonical_uuid("44454C4C-4200-1035-8054-B4C04F334231"));
        for garbage in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "12345678-1234-5678-90AB-CDDEEFAABBCC",
            "Not Present",
            "2",
        ] {
            assert_eq!(canonical_uuid(garbage), None, "{garbage}");
        }
    }
}
