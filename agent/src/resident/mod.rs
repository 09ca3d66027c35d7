//! The service on the installed system.
