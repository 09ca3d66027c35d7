//! Typed wrappers around the ioctls and system calls that nothing else wraps. The only `unsafe` code.
//!
//! One file per kernel interface; errors name the thing they were about. Modules, mounts and the end of
//! the machine are in [`kernel`], loop devices in [`loopdev`], the system clock and the clock chip in
//! [`clock`], disks and their partitions in [`block`], the size of a terminal in [`terminal`].

pub mod block;
pub mod clock;
pub mod kernel;
pub mod loopdev;
pub mod terminal;
#[cfg(test)]
pub mod test_disk;
