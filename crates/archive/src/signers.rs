//! Whose signatures a release file carries: what they say of themselves (RFC 9580, subpacket 33). Whether they hold
//! is apt's judgement; this only names them in a lock.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Fingerprints that the signatures in armoured text name, each once, in their order.
pub(crate) fn signers(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for block in text.split("-----BEGIN PGP SIGNATURE-----").skip(1) {
        let body = block.split("-----END PGP SIGNATURE-----").next().unwrap_or_default();
        // Headers end with an empty line; the sum at the end begins with `=`.
        let lines = body.trim_start_matches(['\r', '\n']).lines().map(str::trim);
        let base64: String = lines.filter(|l| !l.contains(':') && !l.starts_with('=')).collect();
        let Ok(bytes) = BASE64.decode(base64) else { continue };
        for fingerprint in packets(&bytes).into_iter().filter_map(issuer) {
            if !found.contains(&fingerprint) {
                found.push(fingerprint);
            }
        }
    }
    found
}

/// Bodies of the signature packets; what cannot be read ends the list.
fn packets(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((tag, rest)) = bytes.split_first() {
        let header = if tag & 0x40 != 0 { new_length(rest) } else { old_length(*tag, rest) };
        let Some((length, rest)) = header else { break };
        let Some((body, rest)) = rest.split_at_checked(length) else { break };
        let kind = if tag & 0x40 != 0 { tag & 0x3f } else { (tag >> 2) & 0x0f };
        if kind == 2 {
            found.push(body);
        }
        bytes = rest;
    }
    found
}

fn old_length(tag: u8, rest: &[u8]) -> Option<(usize, &[u8])> {
    let octets = match tag & 3 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => return None,
    };
    let (length, rest) = rest.split_at_checked(octets)?;
    Some((length.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest))
}

/// The length of a packet or subpacket in the newer form.
fn new_length(rest: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = rest.split_first()?;
    match first {
        0..=191 => Some((usize::from(*first), rest)),
        192..=223 => {
            let (second, rest) = rest.split_first()?;
            Some(((usize::from(*first) - 192) * 256 + usize::from(*second) + 192, rest))
        }
        255 => old_length(2, rest),
        _ => None,
    }
}

/// The fingerprint in the signed part of a version 4 signature.
fn issuer(body: &[u8]) -> Option<String> {
    if *body.first()? != 4 {
        return None;
    }
    let length = usize::from(*body.get(4)?) << 8 | usize::from(*body.get(5)?);
    let mut rest = body.get(6..)?.get(..length)?;
    loop {
        let (length, after) = new_length(rest)?;
        let (subpacket, after) = after.split_at_checked(length)?;
        // The highest bit only says that it is critical; then comes the version of the key, and with it how long it is.
        if let [kind, 4, fingerprint @ ..] = subpacket
            && kind & 0x7f == 33
            && fingerprint.len() == 20
        {
            return Some(fingerprint.iter().map(|b| format!("{b:02X}")).collect());
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armoured(packets: &[u8]) -> String {
        let base64 = BASE64.encode(packets);
        format!("-----BEGIN PGP SIGNATURE-----\nVersion: x\n\n{base64}\n=abcd\n-----END PGP SIGNATURE-----\n")
    }

    /// A signature packet in the old form whose hashed part is a date and this issuer.
    fn signature(fill: u8) -> Vec<u8> {
        let mut hashed = vec![5, 2, 1, 2, 3, 4, 22, 33, 4];
        hashed.extend([fill; 20]);
        let mut body = vec![4, 0, 1, 8, 0, hashed.len() as u8];
        body.extend(hashed);
        let mut packet = vec![0x88, body.len() as u8];
        packet.extend(body);
        packet
    }

    #[test]
    fn signatures_name_their_keys() {
        let two = [signature(0xab), signature(0x01), signature(0xab)].concat();
        assert_eq!(signers(&format!("Origin: x\n{}", armoured(&two))), ["AB".repeat(20), "01".repeat(20)]);
        assert_eq!(signers("no signature"), Vec::<String>::new());
    }

    #[test]
    fn half_a_signature_names_nobody_and_does_no_harm() {
        let nobody = [0x88, 9, 4, 0, 1, 8, 0, 3, 2, 33, 4];
        assert_eq!(signers(&armoured(&nobody)), Vec::<String>::new());
        let whole = signature(0xab);
        for cut in 0..whole.len() {
            assert_eq!(signers(&armoured(&whole[..cut])), Vec::<String>::new(), "{cut}");
        }
        for at in 0..whole.len() {
            let mut odd = whole.clone();
            odd[at] = 0xff;
            signers(&armoured(&odd));
        }
    }
}
