//! What the tests of the whole stand on: real archives, real disks, real (virtual) machines.

pub mod bench;
pub mod checks;
pub mod console;
pub mod crafted;
pub mod cuts;
pub mod deb;
pub mod disks;
pub mod faults;
pub mod http;
pub mod image;
pub mod journey;
pub mod mirror;
pub mod native;
pub mod people;
pub mod port;
pub mod reference;
pub mod repository;
pub mod roots;
pub mod secrets;
pub mod sets;
pub mod site;
pub mod small_image;
pub mod standin;
pub mod start;
pub mod stick;
pub mod vm;
