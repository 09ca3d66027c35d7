//! Making the signed lock of a profile.
//!
//! [`variants`] says what the machines of a profile can ask for, [`Snapshots`] holds the indexes of one moment,
//! [`make`] puts every request to them and gathers the answers in a
//! [`ProfileLock`](akene_protocol::lock::ProfileLock), [`Changes`] tells two of them apart.

mod changes;
mod make;
mod variants;

pub use changes::Changes;
pub use make::{Made, Snapshots, make};
pub use variants::{Variant, Variants, variants};
