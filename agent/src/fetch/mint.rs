//! An identity for a machine that no server knows.

use akene_protocol::api::Identity;
use akene_protocol::{AssetNumber, MachineId, Secret};
use anyhow::{Result, anyhow};

/// Draws an identity. The asset number has six digits before its check digit, so that the machines of one
/// association do not meet by chance (forty machines: one in a thousand); a server that later takes the
/// machine in gives it a number of its own.
pub fn identity() -> Result<Identity> {
    let (mut machine, mut credential, mut number) = ([0; 16], [0; 32], [0; 4]);
    for bytes in [&mut machine[..], &mut credential[..], &mut number[..]] {
        getrandom::fill(bytes).map_err(|e| anyhow!("drawing an identity: {e}"))?;
    }
    Ok(Identity {
        machine: MachineId(machine),
        asset: AssetNumber::new(100_000 + u32::from_be_bytes(number) % 900_000),
        credential: Secret::new(hex::encode(credential)),
    })
}
