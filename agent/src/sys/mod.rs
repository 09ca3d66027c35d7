//! Typed wrappers around the ioctls and system calls that nothing else wraps. The only `unsafe` code.
