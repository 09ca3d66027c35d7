//! Who a machine is.
//!
//! The identity is ours: an id and a credential kept on the machine's disks. A machine that shows both
//! is *the same*, whatever its hardware says. When the disks were wiped or swapped only the hardware
//! is left, and that is [`evidence`]: weighed by [`decide`], never a key.
//!
//! What can go wrong is not symmetric. Taking an old machine for a new one costs an entry in a list;
//! taking a new one for an old one hands a stranger's history to it. Therefore:
//!
//! * *Same* needs two independent witnesses (of board, network cards and disks), no witness against,
//!   and no other machine that any witness names. Everything in between is *ask*: a new entry with a
//!   note, which a person may settle.
//! * *Same* by hardware never hands out a credential that exists: only sums are kept. It gets a new
//!   one beside the old, and the old one counts on until a granted installation has confirmed
//!   itself with the new one. So whoever holds a token and can invent an inventory learns nothing and
//!   locks nobody out.
//! * A machine on *ask* is never granted more than blank disks, whatever the site allows new machines.
//! * A value seen on two machines known to be different loses its weight for good.

mod decide;
mod evidence;
mod garbage;

pub use decide::{Verdict, decide};
pub use evidence::{Evidence, Kind, evidence};
