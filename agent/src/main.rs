//! Dispatch.

fn main() {}
