//! Telling facts from what a manufacturer left in their place.
//!
//! The list holds values that were seen on many machines: those that FusionInventory, GLPI, OCS
//! Inventory, hw-probe, MAAS, FOG and OpenShift's assisted installer filter, each for a machine that
//! was once taken for another. The rules catch the ones nobody listed yet.

/// Values that say nothing, in lower case. A value is compared as a whole.
const NOTHING: &[&str] = &[
    "-",
    ".",
    "*",
    "n/a",
    "na",
    "none",
    "(none)",
    "null",
    "(null string)",
    "no string",
    "empty",
    "invalid",
    "undefined",
    "unknown",
    "unknow",
    "reserved",
    "generic",
    "customer",
    "not specified",
    "not available",
    "not applicable",
    "not present",
    "not settable",
    "not provided",
    "bad index",
    "does not exist",
    "out of spec",
    "default",
    "default string",
    "oem",
    "o.e.m.",
    "oem_serial",
    "to be filled by o.e.m.",
    "to be filled by o.e.m",
    "system product name",
    "system manufacturer",
    "system manufacter",
    "stem manufacturer",
    "system_manufacturer",
    "system name",
    "system version",
    "system serial number",
    "systemserialnumb",
    "product name",
    "all series",
    "$(project_sku_name)",
    "base board",
    "base board serial number",
    "base board version",
    "type2 - board serial number",
    "mainboard",
    "sku",
    "family",
    "chassis serial number",
    "chassis version",
    "chassis manufacture",
    "chassis manufacturer",
    "no asset information",
    "no asset tag",
    "asset-1234567890",
    "asset tag",
    "asset tag#",
    "mb serial number",
    "pca serial",
    "pca_number.acc",
    "serial number xxxxxx",
    "unspecified base board serial number",
    "unspecified system serial number",
    "enter serial",
    "invalid_serial",
    "eval",
    "iatpass",
    "tulip computers",
    "sys-1234567890",
    "sys-9876543210",
    "sn-12345",
    "sn-1234567890",
    "mb-1234567890",
    "sn-123456fvgv3i0b8o5n6n7k",
    ".pcie2",
    "type1productconfigid",
    "type1family",
    "mmm-dd-yyyy",
    "x.x",
    "1.0.0.0.0",
];

/// UUIDs seen on many machines, in the byte order Linux shows, in lower case.
const NO_UUIDS: &[&str] = &[
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "03d40274-0435-05dc-8506-010700080009",
    "00010203-0405-0607-0809-0a0b0c0d0e0f",
    "6ab5b300-538d-1014-9fb5-b0684d007b53",
    "ffffff00-ffff-ffff-ffff-ffffffffffff",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "12345678-1234-1234-1234-123456789abc",
    "deadbeef-dead-beef-dead-beefdeadbeef",
    "44454c4c-5600-1048-8057-b3c04f584831",
];

/// Addresses that are no card's own: pseudo cards of operating systems and virtual machines, and chips
/// that were shipped in numbers with a constant. A trailing `*` stands for any end.
const NO_MACS: &[&str] = &[
    "fe:ff:ff:ff:ff:ff",
    "20:41:53:59:4e:ff",
    "33:50:6f:45:30:30",
    "50:50:54:50:30:30",
    "02:00:4e:43:50:49",
    "02:80:37:ec:02:00",
    "00:a0:c6:00:00:00",
    "0a:00:27:00:00:00",
    "00:50:56:c0:00:*",
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
    "04:4b:80:80:80:*",
    "00:13:74:00:5c:38",
    "00:13:74:00:00:00",
    "00:e0:4c:53:44:58",
    "88:88:88:88:87:88",
    "00:11:22:33:44:55",
    "66:77:44:22:33:*",
    "00:e0:12:34:56:78",
    "0c:5b:8f:27:9a:64",
];

/// Parts that only a placeholder contains.
const NEVER_INSIDE: &[&str] =
    &["o.e.m", "oem string", "to be filled", "serial number", "default string", "0123456789", "123456789a"];

/// Whether a name (of a model, a vendor, a version) says something.
pub fn keep(value: &str) -> bool {
    let value = value.trim().to_lowercase();
    !value.is_empty()
        && !NOTHING.contains(&value.as_str())
        && !NEVER_INSIDE.iter().any(|part| value.contains(part))
        // X.X, 0000, "----", OOOO.
        && !value.chars().all(|c| matches!(c, 'x' | '0' | 'o' | '-' | '.' | ' ' | '*' | '_' | '\u{fffd}'))
}

/// Whether a serial number can be one: not a placeholder, not a run such as 12345 or 987654, not made
/// of one or two characters.
pub fn keep_serial(value: &str) -> bool {
    let value = value.trim();
    let mut distinct: Vec<char> = value.chars().filter(|c| c.is_alphanumeric()).collect();
    let length = distinct.len();
    distinct.sort_unstable();
    distinct.dedup();
    keep(value) && length >= 3 && distinct.len() >= 3 && !is_run(value)
}

/// Whether the characters follow each other, upwards or downwards, with the 0 after the 9.
fn is_run(value: &str) -> bool {
    let digits: Vec<u8> = value.bytes().collect();
    let next = |up: bool| {
        digits.windows(2).all(|pair| {
            let (a, b) = if up { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
            b == a + 1 || (a == b'9' && b == b'0')
        })
    };
    digits.iter().all(u8::is_ascii_digit) && (next(true) || next(false))
}

/// Whether a DMI UUID can be a machine's own.
pub fn keep_uuid(value: &str) -> bool {
    let value = value.trim().to_lowercase();
    let digits: Vec<char> = value.chars().filter(char::is_ascii_hexdigit).collect();
    let shaped = value.len() == 36 && digits.len() == 32;
    // All 0, all f, 01010101…, fefefefe…: one byte repeated.
    let one_byte = digits.chunks(2).all(|pair| digits.starts_with(pair));
    shaped
        && !one_byte
        && !NO_UUIDS.contains(&value.as_str())
        // Laptops sold by Stone, with a random end.
        && !value.contains("f090000-0000-1000-8000-")
}

/// Whether an address can be a card's own.
pub fn keep_mac(value: &str) -> bool {
    let value = value.trim().to_lowercase();
    let bytes: Vec<&str> = value.split(':').collect();
    let listed = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => value.starts_with(start),
        None => value == **pattern,
    };
    // Four of the six the same, for the bytes such constants are made of.
    let filler = ["00", "88", "ff"].iter().any(|f| bytes.iter().filter(|b| *b == f).count() >= 5);
    bytes.len() == 6 && !filler && !NO_MACS.iter().any(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_dropped() {
        for value in [
            "To Be Filled By O.E.M.",
            "Default string",
            "System Product Name",
            "  ",
            "0000",
            "X.X",
            "None",
            "Not Applicable",
            "xxxxxxxx",
            "OOOO",
            "*",
            "Chassis Serial Number",
        ] {
            assert!(!keep(value), "{value}");
        }
        for value in ["OptiPlex 7010", "LENOVO", "ThinkPad X60", "HP", "X550CA", "Aspire 5", "20AN"] {
            assert!(keep(value), "{value}");
        }
    }

    #[test]
    fn serials_that_many_machines_share_are_dropped() {
        for value in [
            "0",
            "1",
            "12345",
            "1234567890",
            "0123456789",
            "987654321",
            "0000000000",
            "1111111",
            "NNNNNNN",
            "xxxxxxxxxxx",
            "SYS-1234567890",
            "System Serial Number",
            "0101010101",
            "Not Specified",
            "aabb",
        ] {
            assert!(!keep_serial(value), "{value}");
        }
        for value in ["5CG1234ABC", "R9-0KX1T", "WD-WCC2E0123", "CN7016163401E5", "S2R6NX0H", "7XJ2K4J"] {
            assert!(keep_serial(value), "{value}");
        }
    }

    #[test]
    fn uuids_and_addresses_that_many_machines_share_are_dropped() {
        for value in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "FEFEFEFE-FEFE-FEFE-FEFE-FEFEFEFEFEFE",
            "Not Settable",
            "2",
        ] {
            assert!(!keep_uuid(value), "{value}");
        }
        assert!(keep_uuid("4C4C4544-0042-3510-8054-B4C04F334231"));
        for value in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:50:56:c0:00:08", "88:88:88:88:87:88", "1"]
        {
            assert!(!keep_mac(value), "{value}");
        }
        assert!(keep_mac("00:1e:c9:00:00:4a") && keep_mac("52:54:00:12:34:56"));
    }
}
