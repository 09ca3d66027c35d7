//! Values that vendors ship by the thousand and that say nothing about one machine.
//!
//! The probe drops most of it; the server does not rely on that, because evidence that is wrong here is
//! wrong for the whole fleet. The lists are those of GLPI, FusionInventory, OCS, hw-probe, MAAS and
//! FOG; the general rules catch what no list has met yet.

/// Whether a serial number is a placeholder. `text` is trimmed and in upper case.
pub fn is_garbage_serial(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "O.E.M",
        "DEFAULT",
        "SERIAL",
        "TO BE FILLED",
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
        "SYSTEMSERIAL",
        "PCA_NUMBER",
        "TULIP COMPUTERS",
        "NO STRING",
        "BAD INDEX",
        "DOES NOT EXIST",
        "OUT OF SPEC",
        "UNDEFINED",
    ];
    const WHOLE: &[&str] = &[
        "N/A",
        "NONE",
        "(NONE)",
        "NULL",
        "EMPTY",
        "INVALID",
        "UNKNOW",
        "UNKNOWN",
        "RESERVED",
        "CUSTOMER",
        "GENERIC",
        "EVAL",
        "IATPASS",
        ".PCIE2",
        "SYS-1234567890",
        "SYS-9876543210",
        "SN-12345",
        "SN-1234567890",
        "MB-1234567890",
        "SN-123456FVGV3I0B8O5N6N7K",
        "PRODUCT",
        "QM00001",
        "QM00002",
        "QM00003",
        "QM00004",
        "QM00005",
    ];
    let characters: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).collect();
    let mut distinct = characters.clone();
    distinct.sort_unstable();
    distinct.dedup();
    // "12345678", "987654": each character follows, or each precedes, the one before (0 follows 9).
    let steps: Vec<i32> = characters.windows(2).map(|w| w[1] as i32 - w[0] as i32).collect();
    let run = |step: i32| steps.iter().all(|s| *s == step || *s == -9 * step);
    characters.len() < 4
        || distinct.len() < 3
        || run(1)
        || run(-1)
        || WHOLE.contains(&text)
        || WORDS.iter().any(|word| text.contains(word))
}

/// Whether a MAC address says nothing: set by software, or burnt into a whole series. `mac` is in
/// lower case with colons.
pub fn is_garbage_mac(mac: &str) -> bool {
    const SERIES: &[&str] = &[
        "00:0b:ca:fe:00:00",
        "24:b6:20:52:41:53",
        "44:45:53:54:00:00",
        "44:45:53:54:61:6f",
        "10:11:11:11:11:11",
        "00:01:02:7d:9b:1c",
        "00:08:a1:46:06:35",
        "00:09:dd:10:37:68",
        "00:0f:ea:9a:e2:f0",
        "00:11:11:85:08:8b",
        "00:20:07:01:16:06",
        "00:0b:0e:0f:00:ed",
        "ed:0b:00:00:e0:00",
        "04:4b:80:80:80:03",
        "04:4b:80:80:80:04",
        "04:4b:80:80:80:f0",
        "00:13:74:00:5c:38",
        "00:13:74:00:00:00",
        "00:e0:4c:53:44:58",
        "88:88:88:88:87:88",
        "00:11:22:33:44:55",
        "00:e0:12:34:56:78",
        "0c:5b:8f:27:9a:64",
        "20:41:53:59:4e:ff",
        "33:50:6f:45:30:30",
        "50:50:54:50:30:30",
        "00:a0:c6:00:00:00",
        "00:50:56:c0:00:01",
        "00:50:56:c0:00:02",
        "00:50:56:c0:00:08",
    ];
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
    made_up || most_common >= Some(5) || SERIES.contains(&mac)
}

/// Both byte orders of a DMI UUID as one text, or `None` for a UUID whole series share.
pub fn canonical_uuid(text: &str) -> Option<String> {
    const SERIES: &[&str] = &[
        "03000200040005000006000700080009",
        "01010101010101010101010101010101",
        "6ab5b300538d10149fb5b0684d007b53",
        "ffffff00ffffffffffffffffffffffff",
        "123456781234567890abcddeefaabbcc",
        "03d40274043505dc8506010700080009",
        "000102030405060708090a0b0c0d0e0f",
        "deadbeefdeadbeefdeadbeefdeadbeef",
    ];
    let digits: String = text.chars().filter(|c| *c != '-').collect::<String>().to_lowercase();
    let mut bytes = [0; 16];
    hex::decode_to_slice(&digits, &mut bytes).ok()?;
    // SMBIOS 2.6 says that the first three fields are little-endian; firmware and kernels disagreed.
    let mut swapped = bytes;
    swapped[..4].reverse();
    swapped[4..6].reverse();
    swapped[6..8].reverse();
    let (a, b) = (hex::encode(bytes), hex::encode(swapped));
    let shared = |u: &String| SERIES.contains(&u.as_str());
    let mut distinct = bytes.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    (distinct.len() > 2 && !shared(&a) && !shared(&b)).then(|| a.min(b))
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
        let a = canonical_uuid("4c4c4544-0056-4810-8057-b3c04f584831");
        assert!(a.is_some());
        assert_eq!(a, canonical_uuid("44454C4C-5600-1048-8057-B3C04F584831"));
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
