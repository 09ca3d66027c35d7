//! Finding out what the machine is.
