//! What the tests of the whole stand on: real archives, real disks, real (virtual) machines.

pub mod http;
pub mod mirror;
